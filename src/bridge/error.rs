//! What can go wrong with a bridge.

use std::io;
use std::time::Duration;

use thiserror::Error;
use tokio::task::JoinError;

use crate::http::BindError;
use crate::persister::PersistError;
use crate::settings::SettingsError;

/// Why a bridge could not start, or ended before it was shut down.
///
/// ```
/// use std::net::TcpListener;
///
/// use session_buddy_bridge::{BindError, Bridge, BridgeError, Settings};
///
/// let other = TcpListener::bind("127.0.0.1:0")?;
/// let settings = Settings { listen: vec![other.local_addr()?], ..Settings::new(Vec::new()) };
/// match Bridge::bind(settings) {
///     Err(BridgeError::Listen(BindError::InUse { address })) => assert_eq!(address, other.local_addr()?),
///     other => panic!("{other:?}"),
/// }
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Debug, Error)]
pub enum BridgeError {
    /// A setting breaks a rule that [`Settings`](crate::Settings) documents.
    #[error("{0}")]
    Settings(#[from] SettingsError),
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
    /// The bridge was shut down and did not end in time. What is stuck was left behind.
    #[error("the bridge did not end within {limit:?}: a database, the state file or a thread is stuck")]
    Overdue {
        /// The time that it had.
        limit: Duration,
    },
    /// A task of the bridge panicked, which is a defect.
    #[error("a task of the bridge panicked, which is a bug: {0}")]
    Panicked(#[source] JoinError),
    /// A feed or a thread of the bridge ended by itself, which is a defect. A thread's panic is in the program's error output.
    #[error("a task of the bridge panicked, which is a bug: {0}")]
    Ended(&'static str),
}
