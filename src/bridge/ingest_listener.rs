//! From a feed's frames to the ledger, and to telemetry.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use crate::detail::Waker;
use crate::feed::{DisconnectReason, FeedListener, FeedState, FrameSummary, SnapshotSummary};
use crate::ledger::{ConnectionId, FeedId, Moment};
use crate::protocol::{self, Message, Rejection, RejectionReason, Snapshot};
use crate::shared_ledger::SharedLedger;
use crate::telemetry::{FeedTelemetry, Standing};

/// What listens to one feed.
#[derive(Debug)]
pub(super) struct IngestListener {
    ledger: Arc<SharedLedger>,
    feed: FeedId,
    telemetry: Arc<FeedTelemetry>,
    /// Wakes whoever reads the database beside the feed.
    waker: Option<ReaderWaker>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    connection: Option<ConnectionId>,
    freshness: Freshness,
    /// The ending that was counted when its connection closed, so that the status which follows does not count it again.
    disconnect_is_counted: bool,
}

impl IngestListener {
    pub fn new(ledger: Arc<SharedLedger>, feed: FeedId, telemetry: Arc<FeedTelemetry>, waker: Option<Waker>) -> Self {
        Self { ledger, feed, telemetry, waker, state: Mutex::default() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn receive(&self, connection: ConnectionId, message: &Message<'_>, now: Moment) -> Option<SnapshotSummary> {
        for notice in self.ledger.apply_at(connection, message, now) {
            self.telemetry.notice(&notice);
        }
        match message {
            Message::Snapshot(snapshot) => Some(self.state().freshness.judge(snapshot)),
            _ => None,
        }
    }
}

/// Tells a feed's new snapshots from repeated ones, over all its connections.
#[derive(Debug, Default)]
pub(super) struct Freshness {
    latest_timestamp: Option<Box<str>>,
}

impl Freshness {
    /// What a snapshot is to the watch for silence. One without a timestamp is always new.
    pub fn judge(&mut self, snapshot: &Snapshot<'_>) -> SnapshotSummary {
        let Some(timestamp) = snapshot.timestamp.as_deref() else { return SnapshotSummary { fresh: true } };
        let fresh = self.latest_timestamp.as_deref() != Some(timestamp);
        if fresh {
            self.latest_timestamp = Some(timestamp.into());
        }
        SnapshotSummary { fresh }
    }
}

/// What the watch for silence wants to know of a frame that is not applied.
pub(super) fn judge(frame: &str, freshness: &mut Freshness) -> FrameSummary {
    let mut summary = FrameSummary::default();
    protocol::read(frame, &protocol::Limits::default(), &mut |message| {
        let Ok(message) = message else { return };
        summary.understood = true;
        if let Message::Snapshot(snapshot) = &message {
            summary.snapshot = Some(freshness.judge(snapshot));
        }
    });
    summary
}

impl FeedListener for IngestListener {
    fn opened(&self) {
        self.state().connection = Some(self.ledger.open(self.feed));
        self.telemetry.connected();
    }

    fn text(&self, frame: &str, at: Instant) -> FrameSummary {
        let mut summary = FrameSummary::default();
        let Some(connection) = self.state().connection else { return summary };
        let now = self.ledger.moment(at);
        let wall_seconds = now.wall_micros as f64 / 1e6;
        protocol::read(frame, &protocol::Limits::default(), &mut |message| match &message {
            Ok(message) => {
                summary.understood = true;
                self.telemetry.message(message.message_type(), wall_seconds);
                summary.snapshot = self.receive(connection, message, now).or(summary.snapshot);
            }
            Err(rejection) => self.telemetry.rejected(rejection),
        });
        if let Some(waker) = self.waker.as_ref().filter(|_| summary.understood) {
            waker.wake();
        }
        summary
    }

    fn binary(&self, bytes: usize) {
        let detail = format!("a binary frame of {bytes} bytes; the feed speaks text");
        self.telemetry.rejected(&Rejection::new(RejectionReason::BinaryFrame, detail));
    }

    fn closed(&self, reason: &DisconnectReason) {
        let connection = {
            let mut state = self.state();
            state.disconnect_is_counted = true;
            state.connection.take()
        };
        if let Some(connection) = connection {
            self.ledger.close(connection);
        }
        self.telemetry.disconnected(reason.code(), &reason.to_string());
    }

    fn state_changed(&self, state: &FeedState) {
        if let FeedState::Waiting { reason, .. } | FeedState::Refused { reason, .. } = state
            && !std::mem::take(&mut self.state().disconnect_is_counted)
        {
            self.telemetry.disconnected(reason.code(), &reason.to_string());
        }
        let standing = match state {
            FeedState::Connecting | FeedState::Opened => Standing::Connecting,
            FeedState::Live => Standing::Live,
            FeedState::Waiting { reason: DisconnectReason::Silent { .. } | DisconnectReason::Dead { .. }, .. } => {
                Standing::Silent
            }
            FeedState::Waiting { reason: DisconnectReason::Frozen { .. }, .. } => Standing::Frozen,
            FeedState::Waiting { .. } => Standing::Unreachable,
            FeedState::Refused { .. } => Standing::Refused,
            FeedState::Stopped => Standing::Stopped,
        };
        self.telemetry.status(standing, &state.to_string());
    }
}
