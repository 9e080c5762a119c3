//! The database beside a feed's server, read along.
//!
//! The feed wakes, the database tells, the feed checks: whatever the feed says makes the reader look whether anybody has
//! written, and if so it reads the rows after those that it read before and hands them to the ledger, which counts them.
//!
//! Architecture invariant: the only reader of the server's database, which it never creates, writes, migrates or locks;
//! it tells facts, and the rules are the ledger's. The columns `user_query` and `embedding` are nobody's business.

mod database;
mod error;

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crate::ledger::FeedId;
use crate::shared_ledger::SharedLedger;
use crate::telemetry::FeedTelemetry;

pub use database::SkillsDatabase;
pub use error::SkillsDatabaseError;

/// How often the reader looks where the feed says nothing: a server may send no snapshots, and a database that cannot be
/// read may come back.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Reads the database of one feed, on a thread of its own.
#[derive(Debug)]
pub struct DatabaseReader {
    wake: SyncSender<()>,
    thread: JoinHandle<()>,
}

/// Wakes a reader.
#[derive(Debug, Clone)]
pub struct ReaderWaker(SyncSender<()>);

impl ReaderWaker {
    /// The feed said something that may have changed the database. Never blocks: one that is pending is enough.
    pub fn wake(&self) {
        let _ = self.0.try_send(());
    }
}

impl DatabaseReader {
    /// Reads the database at `path` for `feed` from now on.
    ///
    /// # Errors
    /// No thread to be had.
    pub fn start(
        path: PathBuf,
        ledger: Arc<SharedLedger>,
        feed: FeedId,
        telemetry: Arc<FeedTelemetry>,
    ) -> io::Result<Self> {
        let (wake, woken) = sync_channel(1);
        telemetry.detail_configured(&path);
        let mut follower = Follower { path, ledger, feed, telemetry, database: None };
        let thread = thread::Builder::new().name("detail".to_owned()).spawn(move || follower.follow(&woken))?;
        Ok(Self { wake, thread })
    }

    /// What wakes it. The reader ends when it and all of its wakers are gone.
    pub fn waker(&self) -> ReaderWaker {
        ReaderWaker(self.wake.clone())
    }

    /// Waits for the end. Blocks for as long as a batch takes once its wakers are gone. Whether it had not panicked.
    pub fn finish(self) -> bool {
        drop(self.wake);
        self.thread.join().is_ok()
    }
}

struct Follower {
    path: PathBuf,
    ledger: Arc<SharedLedger>,
    feed: FeedId,
    telemetry: Arc<FeedTelemetry>,
    database: Option<SkillsDatabase>,
}

impl Follower {
    fn follow(&mut self, woken: &Receiver<()>) {
        loop {
            if let Err(error) = self.look(woken) {
                self.database = None;
                self.telemetry.detail_failed(&error);
                self.ledger.detail_failed(self.feed);
            }
            if let Err(RecvTimeoutError::Disconnected) = woken.recv_timeout(LOOK_EVERY) {
                return;
            }
        }
    }

    /// Reads everything that is new, batch by batch.
    fn look(&mut self, woken: &Receiver<()>) -> Result<(), SkillsDatabaseError> {
        let database = match self.database.take().filter(SkillsDatabase::is_at_its_place) {
            Some(database) => self.database.insert(database),
            None => self.database.insert(SkillsDatabase::open(&self.path)?),
        };
        while database.has_changed()? {
            let Some(position) = self.ledger.detail_position(self.feed) else { return Ok(()) };
            let reading = database.read(&position, |table| self.ledger.detail_marks(self.feed, table))?;
            let rows = reading.invocations.len() + reading.anomalies.as_ref().map_or(0, |read| read.rows.len());
            self.telemetry.detail_read(rows as u64);
            for notice in self.ledger.apply_detail(self.feed, reading) {
                self.telemetry.notice(&notice);
            }
            if matches!(woken.try_recv(), Err(std::sync::mpsc::TryRecvError::Disconnected)) {
                return Ok(());
            }
        }
        Ok(())
    }
}
