//! What a feed is doing.

use super::disconnect_reason::DisconnectReason;
use std::fmt;
use std::time::Duration;
use tokio::time::Instant;

/// What a feed is doing, and why it is not live where it is not. `Display` explains it to people; neither it nor `Debug`
/// holds a token, userinfo or a query.
#[derive(Debug, Clone, PartialEq)]
pub enum FeedState {
    /// Reading the token, resolving the host name, connecting, and the TLS and WebSocket handshakes.
    Connecting,
    /// The handshakes are done and no message was received yet, so that a token may still be refused.
    Opened,
    /// Connected, authenticated and delivering messages.
    Live,
    /// Connected and authenticated, without a snapshot or an event for the silence timeout. The connection stays open.
    NoData {
        /// When data was first expected of this connection.
        since: Instant,
    },
    /// Disconnected; the next attempt follows by itself.
    Waiting {
        /// Why the last attempt ended.
        reason: DisconnectReason,
        /// Time to the next attempt.
        retry_in: Duration,
    },
    /// Disconnected, and the next attempt will fail too unless somebody changes something. Retried slowly.
    Refused {
        /// Why the last attempt ended, and what to check.
        reason: DisconnectReason,
        /// Time to the next attempt.
        retry_in: Duration,
    },
    /// Shut down, or removed from the configuration.
    Stopped,
}

impl FeedState {
    /// Every value of [`FeedState::label`], in the order in which they are exposed.
    pub const LABELS: [&'static str; 7] =
        ["connecting", "live", "silent", "frozen", "refused", "unreachable", "stopped"];

    /// The value of the label `state` of `session_buddy_bridge_feed_state`, one of [`FeedState::LABELS`].
    pub fn label(&self) -> &'static str {
        use DisconnectReason::{Dead, Frozen, Silent};
        match self {
            FeedState::Connecting | FeedState::Opened => "connecting",
            FeedState::Live => "live",
            FeedState::NoData { .. } | FeedState::Waiting { reason: Silent { .. } | Dead { .. }, .. } => "silent",
            FeedState::Waiting { reason: Frozen { .. }, .. } => "frozen",
            FeedState::Waiting { .. } => "unreachable",
            FeedState::Refused { .. } => "refused",
            FeedState::Stopped => "stopped",
        }
    }
}

impl fmt::Display for FeedState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            FeedState::Connecting => f.write_str("connecting"),
            FeedState::Opened => f.write_str("connected; no valid message received yet"),
            FeedState::Live => f.write_str("live"),
            FeedState::NoData { since } => write!(f, "connected, no data for {} s", since.elapsed().as_secs()),
            FeedState::Waiting { reason, retry_in } => write!(f, "{reason}; next attempt in {retry_in:.1?}"),
            FeedState::Refused { reason, retry_in } => write!(f, "refused: {reason}; next attempt in {retry_in:.1?}"),
            FeedState::Stopped => f.write_str("stopped"),
        }
    }
}
