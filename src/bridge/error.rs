//! What can go wrong with a bridge, and with the commands beside it.

use std::io;
use std::path::PathBuf;

use thiserror::Error;

use crate::http::BindError;
use crate::persister::PersistError;
use crate::recording::RecordingError;
use crate::settings::FeedUrlError;

/// Why a bridge could not start, or ended before it was shut down.
#[derive(Debug, Error)]
pub enum BridgeError {
    /// An address cannot be bound.
    #[error("{0} (--web.listen-address)")]
    Listen(#[from] BindError),
    /// A listener cannot be used.
    #[error("cannot listen: {0}")]
    Listener(#[source] io::Error),
    /// The state file cannot be used, above all because another bridge has it open.
    #[error(transparent)]
    State(#[from] PersistError),
    /// A thread cannot be started.
    #[error("cannot start the thread that reads a feed's database: {0}")]
    Thread(#[source] io::Error),
    /// A task or a thread of the bridge ended by itself, which is a defect.
    #[error("a task of the bridge panicked, which is a defect: {0}")]
    Panicked(String),
}

/// Why a command of the command line failed.
#[derive(Debug, Error)]
pub enum CommandError {
    /// The bridge failed.
    #[error(transparent)]
    Bridge(#[from] BridgeError),
    /// The simulated server of the demo cannot be bound.
    #[error("the demo's feed cannot listen on 127.0.0.1: {0}")]
    DemoFeed(#[source] io::Error),
    /// The simulated server of the demo has an invalid URL.
    #[error("the demo's feed {0}")]
    DemoUrl(#[from] FeedUrlError),
    /// A file cannot be read or written.
    #[error("{}: {error}", .file.display())]
    File {
        /// The file.
        file: PathBuf,
        /// The system's error.
        #[source]
        error: io::Error,
    },
    /// A file is not a recording.
    #[error("{}: {error}", .file.display())]
    Recording {
        /// The file.
        file: PathBuf,
        /// The first invalid line.
        #[source]
        error: RecordingError,
    },
    /// A file would be overwritten.
    #[error("{}: the file exists already: choose another name or delete it", .file.display())]
    FileExists {
        /// The file.
        file: PathBuf,
    },
    /// A feed sent nothing while it was recorded.
    #[error("nothing was heard of the feed {identity}, so there is no recording: {why}")]
    NothingReceived {
        /// The feed.
        identity: String,
        /// How the last attempt to connect went.
        why: String,
    },
    /// A check of a feed failed.
    #[error("the feed {identity}: {problem}")]
    CheckFailed {
        /// The feed.
        identity: String,
        /// What is wrong.
        problem: String,
    },
    /// The state file cannot be used.
    #[error(transparent)]
    State(#[from] PersistError),
    /// The state file knows no such feed.
    #[error("the state {} knows no feed {identity:?}; `state show` lists those that it knows", path.display())]
    NoSuchFeed {
        /// The state file.
        path: PathBuf,
        /// The requested feed.
        identity: String,
    },
    /// Standard output cannot be written to.
    #[error("cannot write to standard output: {0}")]
    Output(#[source] io::Error),
}
