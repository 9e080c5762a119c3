//! Commit first, then expose: what a scrape can see is already on disk, so that a killed process loses nothing and counts
//! nothing twice.
//!
//! One thread takes the changes of the ledger, commits them and exposes them. Changes that arrive during a commit share the
//! next one, so that throughput does not depend on the disk. If commits fail for [`EXPOSE_UNCOMMITTED_AFTER`], changes are
//! exposed from memory until a commit succeeds again: a full disk must not blind whoever has to free it.
//!
//! The same thread answers the requests of the push queue, which is in the same file.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use thiserror::Error;
use tokio_util::sync::CancellationToken;

use crate::heap;
use crate::ledger::{Changes, Limits};
use crate::push::QueueServer;
use crate::shared_ledger::SharedLedger;
use crate::store::{Opened, Quarantine, Store, StoreError};
use crate::telemetry::StateTelemetry;

/// How long commits may fail before changes are exposed without one.
pub const EXPOSE_UNCOMMITTED_AFTER: Duration = Duration::from_secs(10);

/// Least time between two commits: far less than a scrape notices, and each commit costs as much as many changes do.
const COMMIT_INTERVAL_MIN: Duration = Duration::from_millis(5);

/// Time between two checks that the path still leads to the open file, if nothing else happens.
const CHECK_INTERVAL: Duration = Duration::from_secs(1);

/// Delay before a failed commit is tried again.
const RETRY_AFTER: Duration = Duration::from_millis(250);

/// The rows of a commit of more skills take a megabyte or more, which the heap would retain.
const RETAINED_SKILLS_MAX: usize = 1_000;

/// The thread that persists a ledger. It runs until [`Persister::finish`]; one that is dropped commits and ends on its own.
#[derive(Debug)]
pub struct Persister {
    ledger: Arc<SharedLedger>,
    /// `None` once it was joined.
    thread: Option<JoinHandle<()>>,
}

/// A ledger restored from its state file. Nothing is written before [`PersistentLedger::start`].
#[derive(Debug)]
pub struct PersistentLedger {
    /// The ledger, with everything that the state held.
    pub ledger: Arc<SharedLedger>,
    store: Store,
    /// The corrupt state that was at the path, if there was one. The ledger is empty then.
    pub quarantined: Option<Quarantine>,
}

/// Why a ledger cannot be persisted.
///
/// ```
/// use session_buddy_bridge::settings::StateLocation;
/// use session_buddy_bridge::{Bridge, BridgeError, PersistError, Settings, StoreError};
///
/// # let directory = tempfile::tempdir().unwrap();
/// # let path = directory.path().join("state.db");
/// let settings = || Settings {
///     listen: vec!["127.0.0.1:0".parse().unwrap()],
///     state: StateLocation::Path(path.clone()),
///     ..Settings::new(Vec::new())
/// };
/// let first = Bridge::bind(settings()).unwrap();
/// let second = Bridge::bind(settings());
/// assert!(matches!(second, Err(BridgeError::State(PersistError::Store(StoreError::InUse { .. })))));
/// # drop(first);
/// ```
#[derive(Debug, Error)]
pub enum PersistError {
    /// The state cannot be opened.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The system starts no further thread.
    #[error("cannot start the thread that writes the state file: {0}")]
    Thread(#[from] io::Error),
}

impl PersistentLedger {
    /// Opens the state at `path`, or creates one.
    ///
    /// # Errors
    /// See [`Store::open`].
    pub fn open(path: &Path, limits: Limits) -> Result<Self, PersistError> {
        let restore = |whole| SharedLedger::restore(limits, whole);
        let Opened { store, restored: ledger, quarantined } = Store::open(path, restore)?;
        Ok(Self { ledger: Arc::new(ledger), store, quarantined })
    }

    /// Starts the persister, which answers requests of the push `queue` as well. If it ends by itself, which is a defect, it
    /// cancels `bridge`: what is no longer committed would never be exposed again.
    ///
    /// # Errors
    /// The system starts no further thread.
    pub fn start(
        self,
        telemetry: Arc<StateTelemetry>,
        queue: QueueServer,
        bridge: CancellationToken,
    ) -> Result<Persister, PersistError> {
        let ledger = Arc::clone(&self.ledger);
        let thread = thread::Builder::new().name("state".to_owned()).spawn(move || {
            let _bridge = bridge.drop_guard();
            let (ledger, telemetry) = (&*self.ledger, &*telemetry);
            let committed = Instant::now();
            Worker { ledger, store: self.store, telemetry, queue, committed, failing_since: None, is_corrupt: false }
                .run();
        })?;
        Ok(Persister { ledger, thread: Some(thread) })
    }
}

impl Persister {
    /// Commits what has changed and ends. Blocks for as long as a commit takes. Returns whether the thread ended without a
    /// panic.
    pub fn finish(mut self) -> bool {
        self.ledger.stop_persisting();
        self.thread.take().is_none_or(|thread| thread.join().is_ok())
    }
}

impl Drop for Persister {
    /// Without it the thread of a bridge that is dropped would hold the state file until the process ends.
    fn drop(&mut self) {
        self.ledger.stop_persisting();
    }
}

/// What the thread works with.
struct Worker<'p> {
    ledger: &'p SharedLedger,
    store: Store,
    telemetry: &'p StateTelemetry,
    queue: QueueServer,
    committed: Instant,
    failing_since: Option<Instant>,
    /// Whether the open file was found to be corrupt. The ledger in memory is whole.
    is_corrupt: bool,
}

impl Worker<'_> {
    fn run(mut self) {
        loop {
            let mut due = self.ledger.wait_until_due(CHECK_INTERVAL);
            // The first change after a quiet while is committed at once; under load several share a commit.
            due.is_stopping |= self.ledger.pause(COMMIT_INTERVAL_MIN.saturating_sub(self.committed.elapsed()));
            // A file that is found to be corrupt is replaced at once: the bridge may be about to end.
            let was_corrupt = self.is_corrupt;
            let is_persisted = self.persist() || !was_corrupt && self.is_corrupt && self.persist();
            // Between a commit and the next one the view shows what is on disk: a tick of the queue holds nothing else.
            self.queue.answer(&mut self.store, self.ledger, is_persisted);
            if is_persisted {
                if due.is_stopping {
                    self.close();
                    return;
                }
            } else if self.ledger.pause(RETRY_AFTER) && due.is_stopping {
                return;
            }
        }
    }

    /// What is persisted stays so without it, except where the next start would find the file corrupt.
    fn close(mut self) {
        let Err(error @ StoreError::Corrupt { .. }) = self.store.apply_journal() else { return };
        self.fail(&error);
        if self.persist() {
            let _ = self.store.close();
        }
    }

    /// Counts and logs a failure. Returns whether changes are exposed without a commit by now.
    fn fail(&mut self, error: &StoreError) -> bool {
        self.is_corrupt |= matches!(error, StoreError::Corrupt { .. });
        let since = self.failing_since.get_or_insert_with(Instant::now);
        let is_exposed = since.elapsed() >= EXPOSE_UNCOMMITTED_AFTER;
        self.telemetry.commit_failed(error, is_exposed);
        is_exposed
    }

    /// Commits and exposes what has changed. Returns whether everything is on disk.
    fn persist(&mut self) -> bool {
        let is_in_place = self.store.is_in_place();
        if is_in_place {
            self.telemetry.in_place();
        } else {
            // A restart would not find what was committed: everything is written to a new file.
            self.telemetry.displaced(self.store.path());
        }
        let is_usable = is_in_place && !self.is_corrupt;
        if !is_usable {
            self.ledger.mark_all();
        }
        let changes = self.ledger.take_changes();
        let result = match &changes {
            Some(changes) if is_usable => self.store.commit(changes),
            None if is_usable => Ok(()),
            changes => self.rewrite(changes.as_ref().unwrap_or(&Changes::default())),
        };
        let Err(error) = result else {
            if let Some(changes) = changes {
                self.committed = Instant::now();
                self.telemetry.committed();
                let is_large = changes.skills.len() > RETAINED_SKILLS_MAX;
                self.ledger.acknowledge(changes);
                if is_large {
                    heap::trim();
                }
            }
            if self.failing_since.take().is_some() {
                self.telemetry.recovered();
            }
            return true;
        };
        let is_exposed = self.fail(&error);
        if let Some(changes) = changes {
            self.ledger.retry(changes, is_exposed);
        }
        false
    }

    fn rewrite(&mut self, everything: &Changes) -> Result<(), StoreError> {
        let renamed =
            if self.is_corrupt { self.store.replace_corrupt(everything) } else { self.store.rewrite(everything) }?;
        self.is_corrupt = false;
        self.telemetry.rewritten(self.store.path(), renamed.as_deref());
        Ok(())
    }
}
