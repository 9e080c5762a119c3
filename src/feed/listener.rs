//! What a feed tells the rest of the program.

use super::disconnect_reason::DisconnectReason;
use std::fmt;
use std::time::{Duration, Instant};

/// Whoever wants to hear a feed. The feed waits for each call, so that nothing piles up between the two.
pub trait FeedListener: Send + Sync + 'static {
    /// A handshake is done. A newer connection supersedes every older one.
    fn opened(&self);

    /// A text frame, whole, that was there `at` this time or a moment later. It is applied whole before this returns.
    fn text(&self, frame: &str, at: Instant) -> FrameSummary;

    /// A binary frame of so many bytes. The feed speaks text: nothing is done with it, and the connection stays.
    fn binary(&self, bytes: usize);

    /// The connection ended: exactly once for each [`FeedListener::opened`], before the peer is told.
    fn closed(&self, reason: &DisconnectReason);

    /// The feed's state changed. Every attempt that ends is followed by exactly one [`FeedState::Waiting`],
    /// [`FeedState::Refused`] or [`FeedState::Stopped`].
    fn state_changed(&self, state: &FeedState);
}

/// What a listener made of a text frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct FrameSummary {
    /// At least one message was understood.
    pub understood: bool,
    /// Set if the frame held a snapshot.
    pub snapshot: Option<SnapshotSummary>,
}

/// What the watch for silence wants to know of a snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SnapshotSummary {
    /// False if it bears the same timestamp as this feed's previous snapshot.
    pub fresh: bool,
}

/// A feed's state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FeedState {
    /// Reading the token, resolving, connecting, shaking hands.
    Connecting,
    /// The handshake is done; nothing was understood yet, so that a token may still be refused.
    Opened,
    /// A message was understood.
    Live,
    /// Not connected; the next attempt follows by itself.
    Waiting {
        /// Why.
        reason: DisconnectReason,
        /// Time to the next attempt.
        retry_in: Duration,
    },
    /// Not connected, and somebody has to change something. Tried again slowly.
    Refused {
        /// Why, and what to check.
        reason: DisconnectReason,
        /// Time to the next attempt.
        retry_in: Duration,
    },
    /// Shut down.
    Stopped,
}

impl fmt::Display for FeedState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            FeedState::Connecting => f.write_str("connecting"),
            FeedState::Opened => f.write_str("connected; nothing understood yet"),
            FeedState::Live => f.write_str("live"),
            FeedState::Waiting { reason, retry_in } => write!(f, "{reason}; next attempt in {retry_in:.1?}"),
            FeedState::Refused { reason, retry_in } => write!(f, "refused: {reason}; next attempt in {retry_in:.1?}"),
            FeedState::Stopped => f.write_str("stopped"),
        }
    }
}
