//! What a feed tells the rest of the program.

use super::ending::Ending;
use std::fmt;
use std::time::{Duration, Instant};

/// Whoever wants to hear a feed. The feed waits for each call, so that nothing piles up between the two.
pub trait Listener: Send + Sync + 'static {
    /// A handshake is done. A newer connection supersedes every older one.
    fn opened(&self);

    /// A text frame, whole, that was there `at` this time or a moment later. It is applied whole before this returns.
    fn text(&self, frame: &str, at: Instant) -> Heard;

    /// A binary frame of so many bytes. The feed speaks text: nothing is done with it, and the connection stays.
    fn binary(&self, bytes: usize);

    /// The connection ended: exactly once for each [`Listener::opened`], before the peer is told.
    fn closed(&self, ending: &Ending);

    /// The feed's state changed. Every attempt that ends is followed by exactly one [`Status::Waiting`],
    /// [`Status::Refused`] or [`Status::Stopped`].
    fn status(&self, status: &Status);
}

/// What a listener made of a text frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Heard {
    /// At least one message was understood.
    pub understood: bool,
    /// Set if the frame held a snapshot.
    pub snapshot: Option<SnapshotHeard>,
}

/// What the watch for silence wants to know of a snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SnapshotHeard {
    /// False if it bears the same timestamp as this feed's previous snapshot.
    pub fresh: bool,
}

/// A feed's state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Status {
    /// Reading the token, resolving, connecting, shaking hands.
    Connecting,
    /// The handshake is done; nothing was understood yet, so that a token may still be refused.
    Opened,
    /// A message was understood.
    Live,
    /// Not connected; the next attempt follows by itself.
    Waiting {
        /// Why.
        ending: Ending,
        /// Time to the next attempt.
        retry_in: Duration,
    },
    /// Not connected, and somebody has to change something. Tried again slowly.
    Refused {
        /// Why, and what to check.
        ending: Ending,
        /// Time to the next attempt.
        retry_in: Duration,
    },
    /// Shut down.
    Stopped,
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Status::Connecting => f.write_str("connecting"),
            Status::Opened => f.write_str("connected; nothing understood yet"),
            Status::Live => f.write_str("live"),
            Status::Waiting { ending, retry_in } => write!(f, "{ending}; next attempt in {retry_in:.1?}"),
            Status::Refused { ending, retry_in } => write!(f, "refused: {ending}; next attempt in {retry_in:.1?}"),
            Status::Stopped => f.write_str("stopped"),
        }
    }
}
