use std::io;
use std::path::{Path, PathBuf};

use thiserror::Error;

/// Why the database beside a feed cannot be read. The feed goes on without it, and it is tried again.
#[derive(Debug, Error)]
pub enum SkillsDatabaseError {
    /// Nothing is there.
    #[error("there is no database at {} (--feed.skills-db); the server makes it at its first start", path.display())]
    Absent {
        /// Where it was looked for.
        path: PathBuf,
    },
    /// The system does not let it be looked at.
    #[error("cannot look at {} (--feed.skills-db): {error}", path.display())]
    Place {
        /// The database.
        path: PathBuf,
        /// What the system said.
        error: io::Error,
    },
    /// A directory, a pipe or a device.
    #[error("{} is no file: --feed.skills-db names the server's skills.db", path.display())]
    NotAFile {
        /// What is not.
        path: PathBuf,
    },
    /// A column that is needed is not there.
    #[error(
        "{} has no column {column:?} in {table}: it is no skills.db, or one of a Session-Buddy before its third migration",
        path.display()
    )]
    Schema {
        /// The database.
        path: PathBuf,
        /// A table.
        table: &'static str,
        /// A column that is not in it.
        column: &'static str,
    },
    /// In WAL mode, without the companions that whoever has it open makes.
    #[error("{} is not open in any server: it is read as soon as one runs on it", path.display())]
    NotServed {
        /// The database.
        path: PathBuf,
    },
    /// It is there and cannot be opened. In WAL mode its companions are needed, and where nothing may be written only the
    /// server can make them.
    #[error(
        "{} cannot be opened to be read: let the bridge read it and its -wal and -shm files; where their directory is mounted \
         read-only, the server must be running, or the mount be made writable",
        path.display()
    )]
    Unopenable {
        /// The database.
        path: PathBuf,
    },
    /// SQLite failed.
    #[error("{} cannot be read: {error}", path.display())]
    Sqlite {
        /// The database.
        path: PathBuf,
        /// What SQLite said.
        error: rusqlite::Error,
    },
}

impl SkillsDatabaseError {
    pub(super) fn place(path: &Path, error: io::Error) -> Self {
        let path = path.to_owned();
        match error.kind() {
            io::ErrorKind::NotFound => Self::Absent { path },
            _ => Self::Place { path, error },
        }
    }

    pub(super) fn sqlite(path: &Path, error: rusqlite::Error) -> Self {
        let path = path.to_owned();
        match error.sqlite_error_code() {
            Some(rusqlite::ErrorCode::ReadOnly | rusqlite::ErrorCode::CannotOpen) => Self::Unopenable { path },
            _ => Self::Sqlite { path, error },
        }
    }
}
