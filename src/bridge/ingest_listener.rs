//! From a feed's frames to the ledger, to telemetry and to health.

use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Instant;

use crate::feed::{DisconnectReason, FeedListener, FeedState, FrameSummary, SnapshotSummary};
use crate::health::FeedHealth;
use crate::ledger::{ConnectionId, FeedId, Now};
use crate::protocol::{self, Message, Rejection, RejectionReason, Snapshot};
use crate::shared_ledger::SharedLedger;
use crate::skills_db::ReaderWaker;
use crate::sync::lock;
use crate::telemetry::FeedTelemetry;

/// Applies what one feed delivers: messages to the ledger, events to telemetry, states to health. Lives as long as the
/// subscription.
#[derive(Debug)]
pub(super) struct IngestListener {
    ledger: Arc<SharedLedger>,
    feed: FeedId,
    telemetry: Arc<FeedTelemetry>,
    health: Arc<FeedHealth>,
    /// Wakes the reader of the feed's database, if one is configured.
    waker: Option<ReaderWaker>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    connection: Option<ConnectionId>,
    freshness: Freshness,
    /// When the latest frame was received, and what the ledger's clock showed then. Frames that are read at once share it.
    received: Option<(Instant, Now)>,
    /// Whether the disconnect was counted when its connection closed, so that the state which follows does not count it again.
    disconnect_is_counted: bool,
}

impl State {
    /// A frame was received at `at`. Returns its connection and its time; `None` if no connection is open.
    fn receive(&mut self, at: Instant, ledger: &SharedLedger) -> Option<(ConnectionId, Now)> {
        let connection = self.connection?;
        let known = self.received.filter(|(received_at, _)| *received_at == at);
        let (_, now) = *self.received.insert(known.unwrap_or_else(|| (at, ledger.now_at(at))));
        Some((connection, now))
    }
}

impl IngestListener {
    pub fn new(
        ledger: Arc<SharedLedger>,
        feed: FeedId,
        telemetry: Arc<FeedTelemetry>,
        health: Arc<FeedHealth>,
        waker: Option<ReaderWaker>,
    ) -> Self {
        Self { ledger, feed, telemetry, health, waker, state: Mutex::default() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    fn receive(&self, connection: ConnectionId, message: &Message<'_>, now: Now) -> Option<SnapshotSummary> {
        for notice in self.ledger.apply_at(connection, message, now) {
            self.telemetry.notice(&notice);
        }
        match message {
            Message::Snapshot(snapshot) => Some(self.state().freshness.check(snapshot)),
            _ => None,
        }
    }
}

/// Distinguishes a feed's new snapshots from repeated ones, over all its connections.
#[derive(Debug, Default)]
pub(crate) struct Freshness {
    latest_timestamp: Option<Box<str>>,
}

impl Freshness {
    /// Compares a snapshot with the one before. Without a timestamp it is always fresh.
    pub fn check(&mut self, snapshot: &Snapshot<'_>) -> SnapshotSummary {
        let Some(timestamp) = snapshot.timestamp.as_deref() else { return SnapshotSummary { fresh: true } };
        let fresh = self.latest_timestamp.as_deref() != Some(timestamp);
        if fresh {
            self.latest_timestamp = Some(timestamp.into());
        }
        SnapshotSummary { fresh }
    }
}

/// Summarizes a frame without applying it.
pub(crate) fn summarize(frame: &str, freshness: &mut Freshness) -> FrameSummary {
    let mut summary = FrameSummary::default();
    protocol::read(frame, &protocol::Limits::default(), &mut |message| {
        let Ok(message) = message else { return };
        summary.understood = true;
        summary.has_data |= message.has_data();
        if let Message::Snapshot(snapshot) = &message {
            summary.snapshot = Some(freshness.check(snapshot));
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
        let Some((connection, now)) = self.state().receive(at, &self.ledger) else { return summary };
        let wall_seconds = now.wall_micros as f64 / 1e6;
        protocol::read(frame, &protocol::Limits::default(), &mut |message| match &message {
            Ok(message) => {
                summary.understood = true;
                summary.has_data |= message.has_data();
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
        // What the bridge itself ends is no evidence: a feed that is pending then is bound when it connects again, or when it
        // leaves the configuration.
        if let Some(connection) = connection.filter(|_| *reason != DisconnectReason::Shutdown) {
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
        let became_live = self.health.update(state);
        self.telemetry.state_changed(state, became_live);
    }
}
