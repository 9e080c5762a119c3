//! The ledger on disk: an SQLite database, one transaction for each batch of changes.
//!
//! Architecture invariant: knows rows, not rules. It writes what [`Ledger::drain`](crate::ledger::Ledger::drain) returned, and
//! reads back either all of it or nothing.
//!
//! WAL with `synchronous=FULL`: a commit that returned has reached the disk, and one that did not return leaves no trace. The one
//! exception, [`Store::write_queue_unsynced`], survives the process and reaches the disk with the next commit. One bridge at a
//! time has a state; others can read it with the sqlite3 shell, where the tables of the ledger lack what [`journal`] holds until
//! [`Store::close`].

mod error;
mod file;
mod journal;
mod location;
mod migrations;
mod recognize;
mod schema;
mod tables;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::{Connection, OpenFlags, ffi};

use crate::ledger::{Changes, InvalidState, LedgerState, RuleCounters, SourceId};
use file::{StagedFile, StateFile};
use journal::{Journal, JournalError};

pub use error::{Corruption, StoreError};
use tables::Entry;
pub use tables::Renamed;

/// How long a commit waits for another program that has the database locked.
const BUSY_TIMEOUT: Duration = Duration::from_secs(1);

/// Page size of a new state. A commit writes every page that it touches, most of them for the sake of a few bytes.
const PAGE_BYTES: u32 = 1024;

/// More than there are statements, so that a commit prepares none again.
const CACHED_STATEMENTS_MAX: usize = 96;

/// A commit of more skills is longer than a journal. It is executed while it is encoded, so that it is not in memory once more.
const JOURNALED_SKILLS_MAX: usize = 1_000;

/// An open state. One that is dropped is as one whose process was killed; [`Store::close`] ends it in order.
#[derive(Debug)]
pub struct Store {
    connection: Connection,
    path: PathBuf,
    journal: Journal,
    /// Whether the first commit with a series was made, whose time is in no journal.
    has_series: bool,
    /// How the connection commits just now.
    durability: Durability,
    /// Counters of the last commit; `None` before the first and after one that failed.
    saved_rules: Option<RuleCounters>,
    /// How much of the log was in the database when the file was last noted.
    checkpointed: Option<i64>,
    /// `None` for a database in memory. Dropped after the connection.
    file: Option<StateFile>,
}

/// What a commit that returned survives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Durability {
    /// A power cut: it is on disk.
    PowerCut,
    /// The end of the process, however it ends: the system has it, and writes it to the disk with the next commit at the latest.
    ProcessEnd,
}

/// A state that was opened, and what it held.
#[derive(Debug)]
pub struct Opened<T> {
    /// To commit to.
    pub store: Store,
    /// What was made of what it held.
    pub restored: T,
    /// The corrupt file that was there, if there was one. The state is empty then.
    pub quarantined: Option<Quarantine>,
}

/// A corrupt file that was renamed, so that nothing of it is lost.
#[derive(Debug, PartialEq)]
pub struct Quarantine {
    /// Its new name.
    pub path: PathBuf,
    /// What is wrong with it.
    pub problem: Corruption,
}

impl Store {
    /// Opens the state at `path`, or creates one; an empty file is a new state. `restore` validates what it holds.
    ///
    /// A state of ours that is damaged, or whose content is not valid, is quarantined, and an empty one is created.
    ///
    /// # Errors
    /// A state that another bridge has open or that a newer version wrote, or whose log is elsewhere; a file that is no state of
    /// ours; a path that cannot be used. No file of that name was changed then.
    pub fn open<T>(
        path: &Path,
        restore: impl Fn(LedgerState) -> Result<T, InvalidState>,
    ) -> Result<Opened<T>, StoreError> {
        let file = StateFile::lock(path)?;
        location::check(file.real(), path)?;
        let problem = match Self::connect(file.real(), path, &restore) {
            Ok((store, restored)) => return Ok(Self::opened(store, file, restored, None)),
            Err(StoreError::Corrupt { problem, .. }) if is_ours(&file, path, false)? => problem,
            Err(StoreError::Foreign { .. }) if is_ours(&file, path, true)? => Corruption::Header,
            Err(StoreError::Sqlite { .. }) if has_unknown_format(&file, path)? => Corruption::Format,
            Err(StoreError::Corrupt { .. }) => return Err(StoreError::Foreign { path: path.to_owned() }),
            Err(error) => return Err(error),
        };
        let (file, aside) = file.quarantine()?;
        let (store, restored) = Self::connect(file.real(), path, &restore)?;
        Ok(Self::opened(store, file, restored, Some(Quarantine { path: aside, problem })))
    }

    fn opened<T>(mut store: Self, mut file: StateFile, restored: T, quarantined: Option<Quarantine>) -> Opened<T> {
        // A disk that is full just now is no reason not to start: the next start records it.
        let _ = location::record(&store.connection, file.real());
        file.note_companions();
        file.note_content();
        store.checkpointed = checkpointed(&store.connection);
        store.file = Some(file);
        Opened { store, restored, quarantined }
    }

    /// Opens the state behind `connection`, or creates one there: for a database that is no file, such as one in memory.
    /// Nothing is quarantined, and no lock keeps another bridge out. `path` is its name in errors.
    ///
    /// # Errors
    /// As [`Store::open`], and a state that is corrupt.
    pub fn on<T>(
        connection: Connection,
        path: &Path,
        restore: impl Fn(LedgerState) -> Result<T, InvalidState>,
    ) -> Result<(Self, T), StoreError> {
        Self::begin(connection, path, &restore)
    }

    fn connect<T>(
        real: &Path,
        path: &Path,
        restore: &dyn Fn(LedgerState) -> Result<T, InvalidState>,
    ) -> Result<(Self, T), StoreError> {
        let connection = Connection::open(real).map_err(|error| StoreError::sqlite(path, error))?;
        Self::begin(connection, path, restore)
    }

    fn begin<T>(
        connection: Connection,
        path: &Path,
        restore: &dyn Fn(LedgerState) -> Result<T, InvalidState>,
    ) -> Result<(Self, T), StoreError> {
        let failed = |error| StoreError::sqlite(path, error);
        connection.busy_timeout(BUSY_TIMEOUT).map_err(failed)?;
        connection.set_prepared_statement_cache_capacity(CACHED_STATEMENTS_MAX);
        // Before the first write, even that of the journal mode: a file of somebody else is left as it is.
        let version = schema::check(&connection, path)?;
        if connection.is_readonly("main").map_err(failed)? {
            let read_only = ffi::Error::new(ffi::SQLITE_READONLY);
            return Err(failed(rusqlite::Error::SqliteFailure(read_only, None)));
        }
        if !schema::is_intact(&connection, version).map_err(failed)? {
            return Err(StoreError::corrupt(path, Corruption::Tables { version }));
        }
        if version == 0 {
            connection.pragma_update(None, "page_size", PAGE_BYTES).map_err(failed)?;
        }
        connection
            .execute_batch("PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; PRAGMA trusted_schema = OFF;")
            .map_err(failed)?;
        // Not the quick one: a table whose index disagrees reads well, and refuses every commit.
        let answer: String = connection.query_row("PRAGMA integrity_check(1)", [], |row| row.get(0)).map_err(failed)?;
        if answer != "ok" {
            return Err(StoreError::corrupt(path, Corruption::Integrity { answer }));
        }
        schema::upgrade(&connection, path, version)?;
        if (1..migrations::VERSION).contains(&version) {
            set_page_size(&connection).map_err(failed)?;
        }
        // What is pending stays pending: a disk that is full just now is no reason not to start.
        let (whole, journal) = load(&connection).map_err(|error| StoreError::journal(path, error))?;
        let restored = restore(whole).map_err(|problem| StoreError::corrupt(path, problem.into()))?;
        let store = Self {
            journal,
            has_series: tables::first_series::is_saved(&connection).map_err(failed)?,
            connection,
            path: path.to_owned(),
            durability: Durability::PowerCut,
            saved_rules: None,
            checkpointed: None,
            file: None,
        };
        Ok((store, restored))
    }

    /// Returns what the state at `path` holds, whether or not a bridge has it open, and changes nothing.
    ///
    /// # Errors
    /// A file that is not there, cannot be read or is no state; a state whose log is elsewhere.
    pub fn look(path: &Path) -> Result<LedgerState, StoreError> {
        Self::look_at(path, |_| Ok(())).map(|(whole, ())| whole)
    }

    /// The same, and what `read` returns of the tables that are not journaled, both of one point in time.
    ///
    /// # Errors
    /// As [`Store::look`], and an error of `read`.
    pub fn look_at<T>(
        path: &Path,
        read: impl FnOnce(&Connection) -> rusqlite::Result<T>,
    ) -> Result<(LedgerState, T), StoreError> {
        let failed = |error| StoreError::sqlite(path, error);
        if let Err(error) = fs::metadata(path) {
            return Err(match error.kind() {
                io::ErrorKind::NotFound => StoreError::Absent { path: path.to_owned() },
                _ => StoreError::io(path, error),
            });
        }
        let real = file::resolve(path).map_err(|error| StoreError::io(path, error))?;
        location::check(&real, path)?;
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let mut connection = Connection::open_with_flags(path, flags).map_err(failed)?;
        connection.busy_timeout(BUSY_TIMEOUT).map_err(failed)?;
        let version = schema::check(&connection, path)?;
        let tx = connection.transaction().map_err(failed)?;
        if version == migrations::VERSION {
            let (whole, _) = load(&tx).map_err(|error| StoreError::journal(path, error))?;
            return Ok((whole, read(&tx).map_err(failed)?));
        }
        let copy = schema::copy(&tx, |_| true).map_err(failed)?;
        schema::upgrade(&copy, path, version)?;
        Ok((tables::load(&copy).map_err(failed)?, read(&copy).map_err(failed)?))
    }

    /// Returns the state at `path`, and when it got its first series, in microseconds since the Unix epoch; `None` if it has none,
    /// or if they are older than the record.
    ///
    /// # Errors
    /// As [`Store::look`].
    pub fn look_at_first_series(path: &Path) -> Result<(LedgerState, Option<i64>), StoreError> {
        Self::look_at(path, tables::first_series::load)
    }

    /// Writes `changes` in one transaction. When this returns they are on disk.
    ///
    /// # Errors
    /// Changes that would be refused when they are read; a corrupt state; whatever SQLite answers. Nothing of `changes` is on disk
    /// then.
    pub fn commit(&mut self, changes: &Changes) -> Result<(), StoreError> {
        changes.validate().map_err(|problem| StoreError::Impossible { path: self.path.clone(), problem })?;
        // What is saved is not known after an error.
        let saved_rules = self.saved_rules.take();
        let has_series = self.has_series || tables::first_series::has_series(changes);
        let mut entry = Entry::default();
        let is_small = changes.skills.len().max(changes.memory.skills.len()) <= JOURNALED_SKILLS_MAX;
        if is_small {
            let failed = |error| StoreError::sqlite(&self.path, error);
            tables::save(&mut entry, changes, saved_rules).map_err(failed)?;
        }
        if is_small && has_series == self.has_series && self.journal.has_room(&entry) {
            let journal = self.journal;
            self.journal = self.transact(Durability::PowerCut, |connection| journal.append(connection, &entry))?;
        } else {
            self.write_tables(|connection| {
                tables::first_series::save(connection, changes)?;
                if is_small {
                    return entry.execute(connection);
                }
                let mut entry = Entry::executing(connection);
                tables::save(&mut entry, changes, saved_rules)?;
                entry.execute(connection)
            })?;
            self.has_series = has_series;
        }
        self.saved_rules = Some(changes.rules);
        self.note_content();
        Ok(())
    }

    /// Notes what a commit, which moves the log to the database now and then, made of the file.
    fn note_content(&mut self) {
        if let Some(file) = self.file.as_mut().filter(|file| !file.is_unchanged()) {
            file.note_content();
            self.checkpointed = checkpointed(&self.connection);
        }
    }

    /// Forgets everything that is remembered of a source: when a feed lists it again, its history counts once more. Series stay.
    /// Returns whether there was such a source.
    ///
    /// # Errors
    /// Whatever SQLite answers; nothing is forgotten then.
    pub fn forget_source(&mut self, source: SourceId) -> Result<bool, StoreError> {
        self.write_tables(|connection| tables::forget_source(connection, source))
    }

    /// Gives a remembered feed another name: a feed that is configured with this name continues where it was.
    ///
    /// # Errors
    /// Whatever SQLite answers; nothing is renamed then.
    pub fn rename_feed(&mut self, old: &str, new: &str) -> Result<Renamed, StoreError> {
        self.write_tables(|connection| tables::rename_feed(connection, old, new))
    }

    /// Writes to the push queue, in one transaction. When this returns it is on disk.
    ///
    /// # Errors
    /// Whatever SQLite answers; nothing is on disk then.
    pub fn write_queue<T>(&mut self, write: impl FnOnce(&Connection) -> rusqlite::Result<T>) -> Result<T, StoreError> {
        let written = self.transact(Durability::PowerCut, |connection| Ok(write(connection)?))?;
        self.note_content();
        Ok(written)
    }

    /// The same without waiting for the disk: what is written survives every end of the process, and a power cut only from the next
    /// commit on. For what a restart after a power cut need not know.
    ///
    /// # Errors
    /// As [`Store::write_queue`].
    pub fn write_queue_unsynced<T>(
        &mut self,
        write: impl FnOnce(&Connection) -> rusqlite::Result<T>,
    ) -> Result<T, StoreError> {
        let written = self.transact(Durability::ProcessEnd, |connection| Ok(write(connection)?))?;
        self.note_content();
        Ok(written)
    }

    /// Reads the push queue. Nobody else writes to it.
    ///
    /// # Errors
    /// Whatever SQLite answers.
    pub fn read_queue<T>(&self, read: impl FnOnce(&Connection) -> rusqlite::Result<T>) -> Result<T, StoreError> {
        read(&self.connection).map_err(|error| StoreError::sqlite(&self.path, error))
    }

    /// Ends the state in order: its tables hold everything from now on, for programs that read them. Where this fails nothing is
    /// lost: the next start reads the journal.
    ///
    /// # Errors
    /// Whatever SQLite answers.
    pub fn close(mut self) -> Result<(), StoreError> {
        self.apply_journal()
    }

    /// What [`Store::close`] does, of a state that stays open.
    ///
    /// # Errors
    /// Whatever SQLite answers; a corrupt state.
    pub fn apply_journal(&mut self) -> Result<(), StoreError> {
        if self.journal.is_empty() { Ok(()) } else { self.write_tables(|_| Ok(())) }
    }

    /// Writes to the tables of the ledger, behind what is pending, in one transaction.
    fn write_tables<T>(&mut self, write: impl FnOnce(&Connection) -> rusqlite::Result<T>) -> Result<T, StoreError> {
        let journal = self.journal;
        let (journal, written) = self.transact(Durability::PowerCut, |connection| {
            let journal = journal.apply(connection)?;
            Ok((journal, write(connection)?))
        })?;
        self.journal = journal;
        Ok(written)
    }

    /// As [`Connection::transaction`], but with statements that are prepared once.
    fn transact<T>(
        &mut self,
        durability: Durability,
        write: impl FnOnce(&Connection) -> Result<T, JournalError>,
    ) -> Result<T, StoreError> {
        self.set_durability(durability)?;
        let execute = |statement| self.connection.prepare_cached(statement)?.execute([]).map(drop);
        let written = execute("BEGIN IMMEDIATE").map_err(JournalError::from).and_then(|()| {
            let written = write(&self.connection).and_then(|value| Ok(execute("COMMIT").map(|()| value)?));
            if written.is_err() && !self.connection.is_autocommit() {
                // Its error would hide the one that led here.
                let _ = execute("ROLLBACK");
            }
            written
        });
        written.map_err(|error| StoreError::journal(&self.path, error))
    }

    fn set_durability(&mut self, durability: Durability) -> Result<(), StoreError> {
        if self.durability != durability {
            // Takes effect as it is prepared, so that a statement that was prepared before would change nothing.
            let pragma = match durability {
                Durability::PowerCut => "PRAGMA synchronous = FULL",
                Durability::ProcessEnd => "PRAGMA synchronous = NORMAL",
            };
            self.connection.execute_batch(pragma).map_err(|error| StoreError::sqlite(&self.path, error))?;
            self.durability = durability;
        }
        Ok(())
    }

    /// Returns whether the path still leads to the files that are open, and nobody else has written to them. Somebody may have
    /// deleted, renamed, replaced or overwritten them: a restart would not find then what is committed.
    pub fn is_in_place(&mut self) -> bool {
        let Some(file) = &mut self.file else { return true };
        if !file.is_in_place() {
            return false;
        }
        if file.is_unchanged() {
            return true;
        }
        // Somebody who reads the state may have had SQLite move pages from the log to the database.
        let checkpointed = checkpointed(&self.connection);
        if checkpointed == self.checkpointed {
            return false;
        }
        self.checkpointed = checkpointed;
        file.note_content();
        true
    }

    /// Writes `everything` that there is to a new file at the path, where [`Store::is_in_place`] is false. It takes its place
    /// at once and as a whole. Returns the new name of a state that was there instead.
    ///
    /// # Errors
    /// Another bridge has the file at the path, or it is no state of ours; the file system or SQLite refuses. The open file
    /// stays open then.
    pub fn rewrite(&mut self, everything: &Changes) -> Result<Option<PathBuf>, StoreError> {
        self.write_anew(everything, StagedFile::publish)
    }

    /// The same where the open file is corrupt, which is renamed as one that is corrupt at the start. Returns its new name.
    ///
    /// # Errors
    /// As [`Store::rewrite`], and a push queue that is corrupt as well.
    pub fn replace_corrupt(&mut self, everything: &Changes) -> Result<Option<PathBuf>, StoreError> {
        self.write_anew(everything, StagedFile::publish_beside_corrupt)
    }

    fn write_anew(
        &mut self,
        everything: &Changes,
        publish: impl FnOnce(StagedFile) -> Result<(StateFile, Option<PathBuf>), StoreError>,
    ) -> Result<Option<PathBuf>, StoreError> {
        let Some(file) = &self.file else { return Ok(None) };
        let failed = |error| StoreError::sqlite(&self.path, error);
        let staged = file.stage()?;
        let ignored = |_| Ok(());
        let (mut new, ()) = Self::connect(&staged.staged, &self.path, &ignored)?;
        new.commit(everything)?;
        new.write_queue(|new| {
            tables::first_series::copy(&self.connection, new)?;
            schema::QUEUE_TABLES.iter().try_for_each(|table| schema::copy_rows(&self.connection, new, table))
        })?;
        // Everything into the one file that is renamed.
        new.connection.execute_batch("PRAGMA journal_mode = DELETE").map_err(failed)?;
        drop(new);
        let (file, renamed) = publish(staged)?;
        let (store, ()) = Self::connect(file.real(), &self.path, &ignored)?;
        *self = Self::opened(store, file, (), None).store;
        Ok(renamed)
    }

    /// Where the state is, as configured.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

/// Reads the ledger. It is of one point in time if `connection` is in a transaction or nobody else writes.
///
/// Pending entries are applied to a copy in memory, which lasts as long as this: a reader changes nothing, and a start that writes
/// nothing needs no space on the disk.
fn load(connection: &Connection) -> Result<(LedgerState, Journal), JournalError> {
    let (journal, pending) = Journal::read(connection)?;
    if pending.is_empty() {
        return Ok((tables::load(connection)?, journal));
    }
    let copy = schema::copy(connection, |table| table != journal::TABLE && !schema::QUEUE_TABLES.contains(&table))?;
    copy.set_prepared_statement_cache_capacity(CACHED_STATEMENTS_MAX);
    let tx = copy.unchecked_transaction()?;
    pending.execute(&tx)?;
    Ok((tables::load(&tx)?, journal))
}

/// Returns how many pages of the log are in the database. `None` where SQLite does not say, in which case nobody else can have
/// moved them.
fn checkpointed(connection: &Connection) -> Option<i64> {
    let query = connection.prepare_cached("PRAGMA wal_checkpoint(NOOP)");
    query.and_then(|mut query| query.query_row([], |row| row.get(2))).ok()
}

/// Gives a migrated state the page size of a new one. It stays in use without: somebody may read it just now, or the disk may
/// be full.
fn set_page_size(connection: &Connection) -> rusqlite::Result<()> {
    // Only outside of WAL does a database take another one.
    let _ =
        connection.execute_batch(&format!("PRAGMA journal_mode = DELETE; PRAGMA page_size = {PAGE_BYTES}; VACUUM;"));
    connection.execute_batch("PRAGMA journal_mode = WAL;")
}

fn has_unknown_format(file: &StateFile, path: &Path) -> Result<bool, StoreError> {
    let is_unknown = file.has_unknown_format().map_err(|error| StoreError::io(path, error))?;
    Ok(is_unknown && is_ours(file, path, true)?)
}

fn is_ours(file: &StateFile, path: &Path, is_readable: bool) -> Result<bool, StoreError> {
    file.is_ours(is_readable).map_err(|error| StoreError::io(path, error))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::ledger::{AnomalySeries, FailureSeries, Histogram, PhaseSeries, SkillIndex, SkillRow, SkillSeries};

    #[test]
    fn skills_share_the_labels_that_are_read() {
        let row = |index: u32| {
            let phase = PhaseSeries {
                workflow_phase: "setup".into(),
                completed: 1,
                abandoned: 0,
                durations: Histogram::default(),
                born_micros: None,
                exemplar: None,
            };
            let series = SkillSeries {
                phases: vec![phase],
                anomalies: vec![AnomalySeries { anomaly_type: "drop".into(), count: 1, born_micros: None }],
                failures: vec![FailureSeries { error_type: "timeout".into(), count: 1, born_micros: None }],
                ..SkillSeries::new(format!("skill {index}").into())
            };
            SkillRow { index: SkillIndex(index), series, last_listed_micros: 0 }
        };
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state.db");
        let mut store = Store::open(&path, LedgerState::validated).unwrap().store;
        store.commit(&Changes { skills: vec![row(0), row(1)], ..Changes::default() }).unwrap();
        let skills = Store::look(&path).unwrap().skills;
        let labels = |row: &SkillRow| {
            let SkillSeries { phases, anomalies, failures, .. } = &row.series;
            [&phases[0].workflow_phase, &anomalies[0].anomaly_type, &failures[0].error_type].map(Arc::clone)
        };
        let [first, second] = [labels(&skills[0]), labels(&skills[1])];
        assert_eq!(first.each_ref().map(|label| &**label), ["setup", "drop", "timeout"]);
        for (first, second) in first.iter().zip(&second) {
            assert!(Arc::ptr_eq(first, second), "{first} is in memory once");
        }
    }
}
