//! Why the server's database cannot be read.

use std::io;
use std::path::{Path, PathBuf};

use rusqlite::ErrorCode;
use thiserror::Error;

/// Why the server's database cannot be read. A bridge tries again, and the feed counts without it meanwhile; commands that end
/// fail, with errors that name what to do before the next run.
#[derive(Debug, Error)]
pub enum SkillsDatabaseError {
    /// No file.
    #[error(
        "there is no database at {} (--feed.skills-db): the server creates it when it first starts; if it has another path, \
         configure that one",
        path.display()
    )]
    Missing {
        /// The configured path.
        path: PathBuf,
    },
    /// The system refuses access to the file or to a directory above it.
    #[error(
        "cannot access {} (--feed.skills-db): {source}; run session-buddy-bridge as the owner of the database, or give its \
         user access to the file and its directories",
        path.display()
    )]
    Inaccessible {
        /// The configured path.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A directory, a pipe or a device.
    #[error("{} is not a file: let --feed.skills-db name the server's skills.db", path.display())]
    NotAFile {
        /// The configured path.
        path: PathBuf,
    },
    /// A file of something else.
    #[error("{} is not an SQLite database: let --feed.skills-db name the server's skills.db", path.display())]
    NotADatabase {
        /// The configured path.
        path: PathBuf,
        /// What SQLite said.
        source: rusqlite::Error,
    },
    /// A damaged database.
    #[error(
        "{} is damaged ({source}): check it with `PRAGMA integrity_check`, and restore the server's backup if that fails",
        path.display()
    )]
    Damaged {
        /// The configured path.
        path: PathBuf,
        /// What SQLite said.
        source: rusqlite::Error,
    },
    /// A database of something else, or one that the server has not set up yet.
    #[error(
        "{} has no table {table}: it is not a skills.db, or the server has not set it up yet; if no server runs on it, let \
         --feed.skills-db name the one that it uses",
        path.display()
    )]
    MissingTable {
        /// The configured path.
        path: PathBuf,
        /// The table.
        table: &'static str,
    },
    /// A view, or a table of an extension. Reading it would run what somebody else has written into the database.
    #[error(
        "{table} in {} is a {kind}, not a table, and is not read: views and virtual tables run code; rename it, or let \
         --feed.skills-db name the server's own skills.db",
        path.display()
    )]
    NotATable {
        /// The configured path.
        path: PathBuf,
        /// Its name.
        table: &'static str,
        /// What it is.
        kind: &'static str,
    },
    /// A column that is counted from is not there.
    #[error(
        "{} has no column {column:?} in {table}: it is not a skills.db, or one of a Session-Buddy before its third migration; \
         start the current server on it once, which migrates it",
        path.display()
    )]
    MissingColumn {
        /// The configured path.
        path: PathBuf,
        /// The table.
        table: &'static str,
        /// The column.
        column: &'static str,
    },
    /// A table whose rows have no order of their own.
    #[error(
        "{table} in {} has no `id INTEGER PRIMARY KEY`, so that new rows cannot be found: it is not a skills.db",
        path.display()
    )]
    NoRowKey {
        /// The configured path.
        path: PathBuf,
        /// The table.
        table: &'static str,
    },
    /// In WAL mode, without the companions that whoever has it open creates.
    #[error(
        "{} is not open in any server: it is read as soon as one runs on it; start the server, or remove --feed.skills-db",
        path.display()
    )]
    NotServed {
        /// The configured path.
        path: PathBuf,
    },
    /// A command is to read a database in WAL mode that has a log without its index, as a copy or a crash leaves it. SQLite would
    /// create the index, and beside the files of others nothing is created.
    #[error(
        "{path} has a -wal file and no -shm file: it is a copy, or its server ended without closing it, and rows can be in the \
         -wal alone; copy it with `sqlite3 {path} \".backup COPY\"` and name the copy, or start its server and run the \
         command again",
        path = path.display()
    )]
    Unrecovered {
        /// The configured path.
        path: PathBuf,
    },
    /// Its files were exchanged, and another connection of this process still has the former ones open. SQLite shares the
    /// index of the write-ahead log within a process, so that all have to close first.
    #[error("the files of {} were replaced: it is read again as soon as every feed has closed the former ones", path.display())]
    Replaced {
        /// The configured path.
        path: PathBuf,
    },
    /// It is there and cannot be opened. In WAL mode its companions are needed, and where nothing may be written only the
    /// server can create them.
    #[error(
        "{} cannot be opened for reading: give session-buddy-bridge read access to it and to its -wal and -shm files; \
         where their directory is mounted read-only, keep the server running or mount it writable",
        path.display()
    )]
    Unopenable {
        /// The configured path.
        path: PathBuf,
        /// What SQLite said.
        source: rusqlite::Error,
    },
    /// Another process has an exclusive lock.
    #[error(
        "{} is locked by another process: it is read as soon as the lock is released; if it stays locked, look for a \
         transaction that was left open, for `PRAGMA locking_mode = EXCLUSIVE` or for a long VACUUM",
        path.display()
    )]
    Locked {
        /// The configured path.
        path: PathBuf,
        /// What SQLite said.
        source: rusqlite::Error,
    },
    /// Another process has an exclusive lock when a command reads.
    #[error(
        "{} is locked by another process: run the command again when the lock is released; if it stays locked, look for a \
         transaction that was left open, for `PRAGMA locking_mode = EXCLUSIVE` or for a long VACUUM",
        path.display()
    )]
    Busy {
        /// The configured path.
        path: PathBuf,
        /// What SQLite said.
        source: rusqlite::Error,
    },
    /// Somebody wrote, opened or replaced it while its history was read without a lock.
    #[error("{} was opened or changed while it was read: run the command again", path.display())]
    Changed {
        /// The configured path.
        path: PathBuf,
    },
    /// The reading was cancelled, since the bridge shuts down or the feed leaves the configuration.
    #[error("reading {} was cancelled", path.display())]
    Cancelled {
        /// The configured path.
        path: PathBuf,
    },
    /// Any other failure.
    #[error("{} cannot be read: {source}", path.display())]
    Sqlite {
        /// The configured path.
        path: PathBuf,
        /// What SQLite said.
        source: rusqlite::Error,
    },
}

impl SkillsDatabaseError {
    pub(super) fn access(path: &Path, source: io::Error) -> Self {
        let path = path.to_owned();
        match source.kind() {
            io::ErrorKind::NotFound => Self::Missing { path },
            _ => Self::Inaccessible { path, source },
        }
    }

    /// Returns the error of a command that ends: what a bridge waits for, its user has to do.
    pub(super) fn of_command(self) -> Self {
        match self {
            Self::NotServed { path } => Self::Unrecovered { path },
            Self::Locked { path, source } => Self::Busy { path, source },
            Self::Replaced { path } => Self::Changed { path },
            other => other,
        }
    }

    pub(super) fn sqlite(path: &Path, source: rusqlite::Error) -> Self {
        let path = path.to_owned();
        match source.sqlite_error_code() {
            Some(ErrorCode::ReadOnly | ErrorCode::CannotOpen | ErrorCode::PermissionDenied) => {
                Self::Unopenable { path, source }
            }
            Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => Self::Locked { path, source },
            Some(ErrorCode::NotADatabase) => Self::NotADatabase { path, source },
            Some(ErrorCode::DatabaseCorrupt) => Self::Damaged { path, source },
            Some(ErrorCode::OperationInterrupted) => Self::Cancelled { path },
            _ => Self::Sqlite { path, source },
        }
    }
}
