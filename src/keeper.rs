//! Commit, then show: what a scrape can see is already on disk, so that a killed process comes back with nothing lost and
//! nothing twice.
//!
//! One thread takes what changed, commits it and shows it. What arrives during a commit is committed together with the
//! next, so that throughput does not hang on the disk. If commits fail for [`SHOWN_ANYWAY_AFTER`], memory is shown, until
//! one succeeds again: a disk that is full should not blind those who would see to it.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use thiserror::Error;
use tokio_util::sync::CancellationToken;

use crate::ledger::{Ledger, Limits, Moment, Whole};
use crate::shared_ledger::SharedLedger;
use crate::store::{Opened, Store, StoreError};
use crate::telemetry::StateTelemetry;

/// For so long a change is held back while commits fail.
pub const SHOWN_ANYWAY_AFTER: Duration = Duration::from_secs(10);

/// Commits end this far apart at least: far below what a scrape notices, and each costs as much as many changes do.
const COMMITS_EVERY: Duration = Duration::from_millis(5);

/// After a failed commit, the next attempt.
const RETRY_AFTER: Duration = Duration::from_millis(250);

/// Keeps a ledger on disk, on a thread of its own.
#[derive(Debug)]
pub struct Keeper {
    ledger: Arc<SharedLedger>,
    thread: JoinHandle<()>,
}

/// A ledger that is kept, and its keeper, not yet started.
#[derive(Debug)]
pub struct Kept {
    /// The ledger, with all that was kept of it.
    pub ledger: Arc<SharedLedger>,
    store: Store,
    /// Where a corrupt state was moved, and what was wrong with it.
    pub moved_aside: Option<(PathBuf, String)>,
}

/// Why a ledger could not be kept.
#[derive(Debug, Error)]
pub enum KeepError {
    /// The state cannot be opened.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// No thread was to be had.
    #[error("cannot start the thread that keeps the state: {0}")]
    Thread(#[from] io::Error),
}

impl Kept {
    /// Opens the state at `path`, or begins one.
    ///
    /// # Errors
    /// See [`Store::open`].
    pub fn open(path: &Path, limits: Limits) -> Result<Self, KeepError> {
        let fits = |whole: &Whole| Ledger::restore(limits, whole.clone(), Moment::default()).map(drop);
        let Opened { store, whole, moved_aside } = Store::open(path, fits)?;
        let ledger = SharedLedger::restore(limits, whole).expect("it was judged to fit when it was opened");
        Ok(Self { ledger: Arc::new(ledger), store, moved_aside })
    }

    /// Starts keeping. Should the keeper ever end by itself, which is a defect, it cancels `bridge`: a ledger that is not
    /// kept would never change again.
    ///
    /// # Errors
    /// No thread to be had.
    pub fn start(self, telemetry: Arc<StateTelemetry>, bridge: CancellationToken) -> Result<Keeper, KeepError> {
        let ledger = Arc::clone(&self.ledger);
        let thread = thread::Builder::new().name("state".to_owned()).spawn(move || {
            let _bridge = bridge.drop_guard();
            keep(&self.ledger, self.store, &telemetry);
        })?;
        Ok(Keeper { ledger, thread })
    }
}

impl Keeper {
    /// Keeps what there is and ends. Blocks for as long as a commit takes. Whether the keeper had not panicked.
    pub fn finish(self) -> bool {
        self.ledger.stop_persisting();
        self.thread.join().is_ok()
    }
}

fn keep(ledger: &SharedLedger, mut store: Store, telemetry: &StateTelemetry) {
    let mut failing_since = None;
    let mut committed = Instant::now();
    loop {
        let mut due = ledger.wait_until_due();
        // The first change after a quiet while is committed at once; under load more of them share a commit.
        due.is_stopping |= ledger.pause(COMMITS_EVERY.saturating_sub(committed.elapsed()));
        if let Some(changes) = ledger.take_changes() {
            match store.commit(&changes) {
                Ok(()) => {
                    committed = Instant::now();
                    failing_since = None;
                    telemetry.committed();
                    ledger.show(changes);
                }
                Err(error) => {
                    let since: &Instant = failing_since.get_or_insert_with(Instant::now);
                    let is_shown = since.elapsed() >= SHOWN_ANYWAY_AFTER;
                    telemetry.commit_failed(&error, is_shown);
                    ledger.untake(&changes, is_shown);
                    if is_shown {
                        ledger.show(changes);
                    }
                    if ledger.pause(RETRY_AFTER) && due.is_stopping {
                        return;
                    }
                    continue;
                }
            }
        }
        if due.is_stopping {
            return;
        }
    }
}
