//! The ledger on disk: SQLite, one transaction a batch.
//!
//! Architecture invariant: knows rows, not rules. What is written is what [`Ledger::drain`](crate::ledger::Ledger::drain)
//! gave; what is read back is the whole of it, or nothing.
//!
//! WAL with `synchronous=FULL`: a commit that returned has reached the disk, and one that did not return leaves no trace. A
//! lock file beside the database keeps a second bridge out; the database itself stays free to be read by others.

mod error;
mod migrations;
mod schema;
mod tables;

use std::ffi::OsString;
use std::fs::{self, File, TryLockError};
use std::io::{self, Read, Seek, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rusqlite::{Connection, ErrorCode, OpenFlags};

use crate::ledger::{Changes, Whole};

pub use error::StoreError;

/// How long a commit waits for another program that has the database locked.
const BUSY_TIMEOUT: Duration = Duration::from_secs(1);

/// An open state.
#[derive(Debug)]
pub struct Store {
    connection: Connection,
    path: PathBuf,
    /// Held as long as the store: its lock says that a bridge is at work. A state that is no file has none.
    _lock: Option<File>,
}

/// A state that was opened, and what it held.
#[derive(Debug)]
pub struct Opened {
    /// To commit to.
    pub store: Store,
    /// What it held.
    pub whole: Whole,
    /// The corrupt file that was there, if there was one. The state is empty then.
    pub quarantined: Option<Quarantine>,
}

/// A corrupt file that was renamed, so that nothing of it is lost.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Quarantine {
    /// Its new name.
    pub path: PathBuf,
    /// What is wrong with it.
    pub problem: String,
}

impl Store {
    /// Opens the state at `path`, or begins one. `fits` judges whether what it holds makes sense.
    ///
    /// A file that is corrupt, or whose content does not fit, is quarantined, and an empty state begins.
    ///
    /// # Errors
    /// A state that another bridge has open, that a newer version wrote, or that is no state of this program; a place that
    /// cannot be written. Nothing was changed then.
    pub fn open(path: &Path, fits: impl Fn(&Whole) -> Result<(), String>) -> Result<Opened, StoreError> {
        if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
            fs::create_dir_all(folder).map_err(|error| StoreError::place(path, error))?;
        }
        let lock = lock(path)?;
        let problem = match Self::read(path, &fits) {
            Ok((connection, whole)) => {
                let store = Self { connection, path: path.to_owned(), _lock: Some(lock) };
                return Ok(Opened { store, whole, quarantined: None });
            }
            Err(StoreError::Corrupt { problem, .. }) => problem,
            Err(error) => return Err(error),
        };
        let quarantined = quarantine(path).map_err(|error| StoreError::place(path, error))?;
        let (connection, whole) = Self::read(path, &fits)?;
        let store = Self { connection, path: path.to_owned(), _lock: Some(lock) };
        Ok(Opened { store, whole, quarantined: Some(Quarantine { path: quarantined, problem }) })
    }

    /// Opens the state behind `connection`, or begins one there: for a database that is no file, such as one in memory.
    /// Nothing is quarantined, and no lock keeps another bridge out. `path` is what errors call it.
    ///
    /// # Errors
    /// As [`Store::open`], and a state that is corrupt.
    pub fn on(
        connection: Connection,
        path: &Path,
        fits: impl Fn(&Whole) -> Result<(), String>,
    ) -> Result<(Self, Whole), StoreError> {
        let whole = Self::begin(&connection, path, &fits)?;
        Ok((Self { connection, path: path.to_owned(), _lock: None }, whole))
    }

    fn read(path: &Path, fits: &dyn Fn(&Whole) -> Result<(), String>) -> Result<(Connection, Whole), StoreError> {
        let connection = Connection::open(path).map_err(|error| StoreError::sqlite(path, error))?;
        let whole = Self::begin(&connection, path, fits)?;
        Ok((connection, whole))
    }

    fn begin(
        connection: &Connection,
        path: &Path,
        fits: &dyn Fn(&Whole) -> Result<(), String>,
    ) -> Result<Whole, StoreError> {
        let failed = |error| StoreError::sqlite(path, error);
        connection.busy_timeout(BUSY_TIMEOUT).map_err(failed)?;
        // Before the first write, even that of the journal mode: a file of somebody else is left as it is.
        schema::check(connection, path)?;
        connection
            .execute_batch("PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; PRAGMA trusted_schema = OFF;")
            .map_err(failed)?;
        schema::upgrade(connection).map_err(failed)?;
        if !schema::is_intact(connection).map_err(failed)? {
            let problem = "its tables are not those that this version made".to_owned();
            return Err(StoreError::Corrupt { path: path.to_owned(), problem });
        }
        // Not the quick one: a table without its index in step reads well, and refuses every commit.
        let sound: String = connection.query_row("PRAGMA integrity_check(1)", [], |row| row.get(0)).map_err(failed)?;
        if sound != "ok" {
            return Err(StoreError::Corrupt { path: path.to_owned(), problem: sound });
        }
        let whole = tables::load(connection).map_err(failed)?;
        fits(&whole).map_err(|problem| StoreError::Corrupt { path: path.to_owned(), problem })?;
        Ok(whole)
    }

    /// What the state at `path` holds, without keeping a bridge from it.
    ///
    /// # Errors
    /// A file that is not there, cannot be read or is no state.
    pub fn look(path: &Path) -> Result<Whole, StoreError> {
        let failed = |error| StoreError::sqlite(path, error);
        if let Err(error) = fs::metadata(path) {
            return Err(match error.kind() {
                io::ErrorKind::NotFound => StoreError::Absent { path: path.to_owned() },
                _ => StoreError::place(path, error),
            });
        }
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let mut connection = Connection::open_with_flags(path, flags).map_err(failed)?;
        connection.busy_timeout(BUSY_TIMEOUT).map_err(failed)?;
        schema::check(&connection, path)?;
        let moment = connection.transaction().map_err(failed)?;
        tables::load(&moment).map_err(failed)
    }

    /// Writes `changes` in one transaction. When this returns they are on disk.
    ///
    /// # Errors
    /// Whatever SQLite says; nothing of `changes` is on disk then.
    pub fn commit(&mut self, changes: &Changes) -> Result<(), StoreError> {
        let failed = |error| StoreError::sqlite(&self.path, error);
        let transaction = self.connection.transaction().map_err(failed)?;
        tables::save(&transaction, changes).map_err(failed)?;
        transaction.commit().map_err(failed)
    }

    /// Forgets everything that is remembered of the feed `identity`: when it is seen again, its whole past counts once
    /// more. Series are kept. Whether there was such a feed.
    ///
    /// # Errors
    /// Whatever SQLite says; nothing is forgotten then.
    pub fn forget_feed(&mut self, identity: &str) -> Result<bool, StoreError> {
        let failed = |error| StoreError::sqlite(&self.path, error);
        let transaction = self.connection.transaction().map_err(failed)?;
        let found = tables::forget_feed(&transaction, identity).map_err(failed)?;
        transaction.commit().map_err(failed)?;
        Ok(found)
    }

    /// Where the state is.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

/// Takes the lock beside `path`. The file stays when the lock goes: removing it would let two processes lock two files of
/// one name.
fn lock(path: &Path) -> Result<File, StoreError> {
    let lock_path = with_suffix(path, ".lock");
    let failed = |error| StoreError::place(path, error);
    let mut file =
        File::options().create(true).truncate(false).read(true).write(true).open(&lock_path).map_err(failed)?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            let mut holder = String::new();
            let _ = file.take(20).read_to_string(&mut holder);
            return Err(StoreError::InUse { path: path.to_owned(), holder: holder.trim().to_owned() });
        }
        Err(TryLockError::Error(error)) => return Err(failed(error)),
    }
    file.set_len(0).and_then(|()| file.rewind()).map_err(failed)?;
    writeln!(file, "{}", std::process::id()).map_err(failed)?;
    Ok(file)
}

/// Renames the database and its companions, so that nothing of them is lost.
fn quarantine(path: &Path) -> io::Result<PathBuf> {
    let seconds = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let free = (0..).map(|number| match number {
        0 => format!(".corrupt-{seconds}"),
        _ => format!(".corrupt-{seconds}-{number}"),
    });
    let aside = free.map(|suffix| with_suffix(path, &suffix)).find(|aside| !aside.exists());
    let aside = aside.expect("one of endlessly many names is free");
    for companion in ["", "-wal", "-shm"] {
        match fs::rename(with_suffix(path, companion), with_suffix(&aside, companion)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    Ok(aside)
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(suffix);
    name.into()
}

fn is_corrupt(error: &rusqlite::Error) -> bool {
    match error {
        rusqlite::Error::SqliteFailure(failure, _) => {
            matches!(failure.code, ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase)
        }
        // What was written has these columns with these types: anything else was not written by this program.
        rusqlite::Error::FromSqlConversionFailure(..)
        | rusqlite::Error::InvalidColumnType(..)
        | rusqlite::Error::IntegralValueOutOfRange(..) => true,
        _ => false,
    }
}
