//! What a feed reports to the rest of the program.

use super::disconnect_reason::DisconnectReason;
use super::state::FeedState;
use std::task::{Context, Poll};
use std::time::Instant;

/// Other calls of a [`FeedListener`] that can follow one [`FeedListener::poll_ready`] before the next.
pub const CALLS_PER_READY_MAX: usize = 8;

/// Receives what a feed delivers. The feed awaits each call, so that nothing is queued between the two.
pub trait FeedListener: Send + Sync + 'static {
    /// Returns whether the listener takes more. Until it does nothing is read: what the peer sends stays in the socket, and
    /// TCP's flow control holds the peer up. A listener that returns [`Poll::Pending`] wakes `cx` once it may be ready. At
    /// most [`CALLS_PER_READY_MAX`] other calls follow before the next of this.
    fn poll_ready(&self, _cx: &mut Context<'_>) -> Poll<()> {
        Poll::Ready(())
    }

    /// The WebSocket handshake is done. A newer connection supersedes every older one.
    fn opened(&self);

    /// Applies a whole text frame, received `at` this time, before it returns. `at` may be a moment early.
    fn text(&self, frame: &str, at: Instant) -> FrameSummary;

    /// A binary frame of so many bytes was received. It is ignored, since the feed speaks text, and the connection stays.
    fn binary(&self, bytes: usize);

    /// The connection ended. Called exactly once for each [`FeedListener::opened`], before the peer is told.
    fn closed(&self, reason: &DisconnectReason);

    /// The feed's state changed. Every attempt that ends is followed by exactly one [`FeedState::Waiting`],
    /// [`FeedState::Refused`] or [`FeedState::Stopped`].
    fn state_changed(&self, state: &FeedState);
}

/// What a listener found in a text frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct FrameSummary {
    /// Whether at least one message was understood.
    pub understood: bool,
    /// Whether a snapshot or an event was understood, as opposed to greetings, confirmations and pongs.
    pub has_data: bool,
    /// The last snapshot of the frame, if it held one.
    pub snapshot: Option<SnapshotSummary>,
}

/// What the silence timeout depends on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SnapshotSummary {
    /// False if the snapshot has the same timestamp as this feed's previous one.
    pub fresh: bool,
}
