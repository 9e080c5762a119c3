use std::io;
use std::path::{Path, PathBuf};

use rusqlite::ErrorCode;
use thiserror::Error;

use super::journal::JournalError;
use crate::ledger::InvalidState;

/// Why a state cannot be used.
///
/// ```
/// use session_buddy_bridge::settings::StateLocation;
/// use session_buddy_bridge::{Bridge, BridgeError, PersistError, Settings};
///
/// let state = StateLocation::Path("/dev/null/state.db".into());
/// let listen = vec!["127.0.0.1:0".parse().unwrap()];
/// match Bridge::bind(Settings { state, listen, ..Settings::new(Vec::new()) }) {
///     Err(BridgeError::State(PersistError::Store(error))) => assert!(error.is_about_the_path()),
///     other => panic!("{other:?}"),
/// }
/// ```
#[derive(Debug, Error)]
pub enum StoreError {
    /// Another bridge has it open.
    #[error(
        "the state file {} is in use by another session-buddy-bridge{}: stop that one, or choose another file with --state.path",
        path.display(),
        holder.map(|holder| format!(" (process {holder})")).unwrap_or_default()
    )]
    InUse {
        /// The state.
        path: PathBuf,
        /// The other's process id, where it is known.
        holder: Option<u32>,
    },
    /// There is no file.
    #[error("there is no state file at {}: a bridge creates one, or name another file with --state.path", path.display())]
    Absent {
        /// The state.
        path: PathBuf,
    },
    /// A later version of this program wrote it.
    #[error(
        "the state file {} has version {found}, but this session-buddy-bridge knows versions up to {known}: run the newer program, or \
         choose another file with --state.path",
        path.display()
    )]
    Newer {
        /// The state.
        path: PathBuf,
        /// Its version.
        found: i64,
        /// The version of this program.
        known: i64,
    },
    /// A file of another program.
    #[error("{} is not a state file of session-buddy-bridge: choose another file with --state.path", path.display())]
    Foreign {
        /// The file.
        path: PathBuf,
    },
    /// It was last open by another name, and its log, which holds what the state lacks, is there.
    #[error(
        "the write-ahead log of the state file {path} is not beside it but at {log}: move it to {path}-wal{}",
        name.as_ref().map(|name| format!(", or start once with --state.path {}", name.display())).unwrap_or_default(),
        path = path.display(),
        log = log.display()
    )]
    LogElsewhere {
        /// The state.
        path: PathBuf,
        /// Its log.
        log: PathBuf,
        /// The name by which it was last open, if that still leads to it.
        name: Option<PathBuf>,
    },
    /// A state of ours that is damaged.
    #[error("the state file {} is corrupt: {problem}", path.display())]
    Corrupt {
        /// The state.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        problem: Corruption,
    },
    /// Changes that would make the state unreadable, which is a defect of this program.
    #[error("the state file {} does not take impossible numbers: {problem}; please report this", path.display())]
    Impossible {
        /// The state.
        path: PathBuf,
        /// Which.
        #[source]
        problem: InvalidState,
    },
    /// The file or its directory cannot be used.
    #[error("cannot use the state file {}: {error}; choose another file with --state.path", path.display())]
    Io {
        /// The state.
        path: PathBuf,
        /// What the system answered.
        #[source]
        error: io::Error,
    },
    /// SQLite failed.
    #[error("the state file {}: {error}", path.display())]
    Sqlite {
        /// The state.
        path: PathBuf,
        /// What SQLite answered.
        #[source]
        error: rusqlite::Error,
    },
}

impl StoreError {
    /// Returns whether the file or its directory is at fault, so that another path would do.
    pub fn is_about_the_path(&self) -> bool {
        use ErrorCode::{CannotOpen, DiskFull, PermissionDenied, ReadOnly, SystemIoFailure};
        match self {
            Self::Io { .. } => true,
            Self::Sqlite { error, .. } => matches!(
                error.sqlite_error_code(),
                Some(CannotOpen | DiskFull | PermissionDenied | ReadOnly | SystemIoFailure)
            ),
            Self::Absent { .. }
            | Self::InUse { .. }
            | Self::LogElsewhere { .. }
            | Self::Newer { .. }
            | Self::Foreign { .. }
            | Self::Impossible { .. }
            | Self::Corrupt { .. } => false,
        }
    }

    pub(super) fn in_use(path: &Path, holder: Option<u32>) -> Self {
        Self::InUse { path: path.to_owned(), holder }
    }

    pub(super) fn corrupt(path: &Path, problem: Corruption) -> Self {
        Self::Corrupt { path: path.to_owned(), problem }
    }

    pub(super) fn io(path: &Path, error: io::Error) -> Self {
        Self::Io { path: path.to_owned(), error }
    }

    pub(super) fn journal(path: &Path, error: JournalError) -> Self {
        match error {
            JournalError::Sqlite(error) => Self::sqlite(path, error),
            JournalError::Damaged { slot } => Self::corrupt(path, Corruption::Journal { slot }),
        }
    }

    pub(super) fn sqlite(path: &Path, error: rusqlite::Error) -> Self {
        if is_corruption(&error) {
            return Self::corrupt(path, Corruption::Unreadable(error));
        }
        Self::Sqlite { path: path.to_owned(), error }
    }
}

/// What is wrong with a state of ours.
///
/// ```
/// use std::error::Error;
///
/// use session_buddy_bridge::{Corruption, StoreError};
///
/// let error = StoreError::Corrupt { path: "state.db".into(), problem: Corruption::Tables { version: 1 } };
/// assert_eq!(error.to_string(), "the state file state.db is corrupt: its tables are not those of version 1");
/// let problem = error.source().and_then(|source| source.downcast_ref::<Corruption>());
/// assert_eq!(problem, Some(&Corruption::Tables { version: 1 }));
/// ```
#[derive(Debug, PartialEq, Error)]
pub enum Corruption {
    /// The file does not say that it is a state; its tables do.
    #[error("its header does not identify its format")]
    Header,
    /// SQLite does not know the format that the file says it has.
    #[error("its header names an unknown format")]
    Format,
    /// Its tables are not those that this program creates.
    #[error("its tables are not those of version {version}")]
    Tables {
        /// The version that the file names.
        version: i64,
    },
    /// SQLite's check of its integrity found something.
    #[error("{answer}")]
    Integrity {
        /// What SQLite answered.
        answer: String,
    },
    /// SQLite cannot read it, or a value has another type than its column.
    #[error(transparent)]
    Unreadable(rusqlite::Error),
    /// What an earlier version wrote breaks a rule of this one.
    #[error("it cannot be migrated from version {found}: {error}")]
    Migration {
        /// The version that the file names.
        found: i64,
        /// What SQLite answered.
        #[source]
        error: rusqlite::Error,
    },
    /// What a slot of its journal holds was not written by this program, or cannot be applied.
    #[error("slot {slot} of its journal is damaged or cannot be applied")]
    Journal {
        /// Which, 0 for the first.
        slot: usize,
    },
    /// It reads well and holds impossible numbers.
    #[error(transparent)]
    Records(#[from] InvalidState),
}

/// Returns whether the cause is what the file holds.
pub(super) fn is_corruption(error: &rusqlite::Error) -> bool {
    match error {
        rusqlite::Error::SqliteFailure(failure, _) => {
            matches!(failure.code, ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase)
        }
        // A state holds these columns with these types: anything else was not written by this program.
        rusqlite::Error::FromSqlConversionFailure(..)
        | rusqlite::Error::InvalidColumnType(..)
        | rusqlite::Error::IntegralValueOutOfRange(..)
        | rusqlite::Error::Utf8Error(..) => true,
        _ => false,
    }
}
