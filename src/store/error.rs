use std::io;
use std::path::{Path, PathBuf};

use thiserror::Error;

/// What can be wrong with a state.
#[derive(Debug, Error)]
pub enum StoreError {
    /// Another bridge has it open.
    #[error(
        "the state {} is in use by another session-buddy-bridge (process {holder}): stop that one, or give this one a state of its own with --state.path",
        path.display()
    )]
    InUse {
        /// The state.
        path: PathBuf,
        /// Its process.
        holder: String,
    },
    /// Nothing is there.
    #[error("there is no state at {} yet; a bridge makes one, or say where it is with --state.path", path.display())]
    Absent {
        /// Where it was looked for.
        path: PathBuf,
    },
    /// A later version wrote it.
    #[error(
        "the state {} has the schema version {found}, and this version knows {known}: run the newer session-buddy-bridge, or give this one a state of its own with --state.path",
        path.display()
    )]
    Newer {
        /// The state.
        path: PathBuf,
        /// Its schema version.
        found: i64,
        /// The one of this program.
        known: i64,
    },
    /// A database of another program.
    #[error("{} is a database of another program: choose another place with --state.path", path.display())]
    Foreign {
        /// The file.
        path: PathBuf,
    },
    /// It cannot be read as what it should be.
    #[error("the state {} is corrupt: {problem}", path.display())]
    Corrupt {
        /// The state.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
    /// The file or its folder cannot be used.
    #[error("cannot use {} for the state: {error}; choose another place with --state.path", path.display())]
    Place {
        /// The state.
        path: PathBuf,
        /// What the system said.
        error: io::Error,
    },
    /// SQLite failed.
    #[error("the state {}: {error}", path.display())]
    Sqlite {
        /// The state.
        path: PathBuf,
        /// What SQLite said.
        error: rusqlite::Error,
    },
}

impl StoreError {
    /// Whether the place cannot be used, so that another one would do.
    pub fn is_about_the_place(&self) -> bool {
        use rusqlite::ErrorCode::{CannotOpen, DiskFull, PermissionDenied, ReadOnly, SystemIoFailure};
        match self {
            Self::Place { .. } => true,
            Self::Sqlite { error, .. } => matches!(
                error.sqlite_error_code(),
                Some(CannotOpen | DiskFull | PermissionDenied | ReadOnly | SystemIoFailure)
            ),
            Self::Absent { .. }
            | Self::InUse { .. }
            | Self::Newer { .. }
            | Self::Foreign { .. }
            | Self::Corrupt { .. } => false,
        }
    }

    pub(super) fn place(path: &Path, error: io::Error) -> Self {
        Self::Place { path: path.to_owned(), error }
    }

    pub(super) fn sqlite(path: &Path, error: rusqlite::Error) -> Self {
        let path = path.to_owned();
        if super::is_corrupt(&error) {
            return Self::Corrupt { path, problem: error.to_string() };
        }
        Self::Sqlite { path, error }
    }
}
