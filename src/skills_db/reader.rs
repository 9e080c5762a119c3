//! The thread that reads a database whenever its feed says something.

use std::io;
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::{
    DatabaseFacts, DatabaseReading, FileIdentity, ReadPlan, ReadRequest, RowFingerprint, SkillsDatabase,
    SkillsDatabaseError, Table,
};

/// How often the reader checks a database whose feed is silent: a server may send no snapshots, and a database that cannot
/// be read may come back.
const CHECK_INTERVAL: Duration = Duration::from_secs(1);

/// Who decides what becomes of rows, and counts them. Methods are called on the reader's thread.
pub trait RowConsumer: Send + 'static {
    /// Where the database that is open was read to. `None` where it is not to be read at present.
    fn request(&self, file: FileIdentity) -> Option<ReadRequest>;

    /// Fingerprints of a table's rows that were read, newest first.
    fn remembered(&self, table: Table) -> Vec<RowFingerprint>;

    /// Decides from the facts what is read.
    fn plan(&self, facts: &DatabaseFacts) -> Decision;

    /// Takes what was read. Returns whether it is counted; otherwise it is read again.
    fn consume(&self, reading: DatabaseReading) -> bool;

    /// The database cannot be read. It is tried again after [`CHECK_INTERVAL`], or with the next message of the feed.
    fn failed(&self, error: &SkillsDatabaseError);
}

/// What becomes of a reading once its facts are known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    /// These rows are read.
    Read(ReadPlan),
    /// The facts of another request are needed, at once.
    AskAgain,
    /// Nothing is read. Unless somebody writes, the facts are the same at the next wake, when they may mean something else.
    Later,
}

/// Reads the database of one feed, on a thread of its own. Ends when it is cancelled, or when it and all of its wakers are
/// gone.
#[derive(Debug)]
pub struct DatabaseReader {
    wake: SyncSender<()>,
    thread: JoinHandle<()>,
}

/// Wakes a reader.
#[derive(Debug, Clone)]
pub struct ReaderWaker(SyncSender<()>);

impl ReaderWaker {
    /// Makes the reader check the database. Never blocks: one pending wake is enough.
    pub fn wake(&self) {
        let _ = self.0.try_send(());
    }
}

impl DatabaseReader {
    /// Starts reading the database at `path`. `cancellation` ends it, in the middle of a statement too.
    ///
    /// # Errors
    /// The system gives no thread.
    pub fn start(path: PathBuf, consumer: impl RowConsumer, cancellation: CancellationToken) -> io::Result<Self> {
        let (wake, woken) = sync_channel(1);
        let mut follower = Follower { path, consumer, cancellation, database: None };
        let thread = thread::Builder::new().name("skills-db".to_owned()).spawn(move || follower.follow(&woken))?;
        Ok(Self { wake, thread })
    }

    /// A handle that wakes it.
    pub fn waker(&self) -> ReaderWaker {
        ReaderWaker(self.wake.clone())
    }

    /// Waits for its end, which comes at once when it is cancelled and its wakers are gone. Returns whether it ended without
    /// a panic.
    pub fn finish(self) -> bool {
        drop(self.wake);
        self.thread.join().is_ok()
    }
}

impl Decision {
    /// The plan, where there is one.
    pub fn plan(self) -> Option<ReadPlan> {
        match self {
            Self::Read(plan) => Some(plan),
            Self::AskAgain | Self::Later => None,
        }
    }
}

struct Follower<C> {
    path: PathBuf,
    consumer: C,
    cancellation: CancellationToken,
    database: Option<SkillsDatabase>,
}

impl<C: RowConsumer> Follower<C> {
    fn follow(&mut self, woken: &Receiver<()>) {
        while !self.cancellation.is_cancelled() {
            match self.catch_up() {
                Ok(()) => {}
                Err(SkillsDatabaseError::Cancelled { .. }) => return,
                Err(error) => {
                    self.database = None;
                    self.consumer.failed(&error);
                }
            }
            if let Err(RecvTimeoutError::Disconnected) = woken.recv_timeout(CHECK_INTERVAL) {
                return;
            }
        }
    }

    /// Reads everything that is new, batch by batch.
    fn catch_up(&mut self) -> Result<(), SkillsDatabaseError> {
        if !self.database.as_ref().is_some_and(SkillsDatabase::is_current) {
            self.reopen()?;
        }
        while let Some(database) = &mut self.database
            && !self.cancellation.is_cancelled()
            && let Some(request) = self.consumer.request(database.file())
        {
            if request.distrusted_connection.is_some_and(|number| number >= database.connection_number()) {
                self.reopen()?;
                continue;
            }
            if !request.reads_unchanged && !database.has_changed()? {
                break;
            }
            let (consumer, mut decision) = (&self.consumer, Decision::Later);
            let plan = |facts: &DatabaseFacts| {
                decision = consumer.plan(facts);
                decision.plan()
            };
            match database.read(&request, |table| consumer.remembered(table), plan)? {
                Some(reading) => {
                    if !consumer.consume(reading) {
                        database.read_again();
                        break;
                    }
                }
                None if decision == Decision::AskAgain => {}
                None => break,
            }
        }
        Ok(())
    }

    /// Closes what is open before it opens what is there: connections of one process share the index of the write-ahead
    /// log, so that a second one would see the former files.
    fn reopen(&mut self) -> Result<(), SkillsDatabaseError> {
        self.database = None;
        self.database = Some(SkillsDatabase::open(&self.path, &self.cancellation)?);
        Ok(())
    }
}
