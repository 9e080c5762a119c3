//! From a feed's frames to the board, and to telemetry.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::board::Board;
use crate::detail::Waker;
use crate::feed::{Ending, Heard, Listener, SnapshotHeard, Status};
use crate::ledger::{ConnectionId, FeedId};
use crate::protocol::{self, Message, Rejection, RejectionReason};
use crate::telemetry::FeedTelemetry;

/// What listens to one feed.
#[derive(Debug)]
pub(super) struct Hearing {
    board: Arc<Board>,
    feed: FeedId,
    telemetry: Arc<FeedTelemetry>,
    /// Wakes whoever reads the database beside the feed.
    waker: Option<Waker>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    connection: Option<ConnectionId>,
    freshness: Freshness,
    /// The ending that was counted when its connection closed, so that the status which follows does not count it again.
    ending_counted: bool,
}

impl Hearing {
    pub fn new(board: Arc<Board>, feed: FeedId, telemetry: Arc<FeedTelemetry>, waker: Option<Waker>) -> Self {
        Self { board, feed, telemetry, waker, state: Mutex::default() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn hear(&self, connection: ConnectionId, message: &Message<'_>) -> Option<SnapshotHeard> {
        for notice in self.board.apply(connection, message) {
            self.telemetry.notice(&notice);
        }
        if let Some(waker) = &self.waker {
            waker.wake();
        }
        self.state().freshness.judge(message)
    }
}

/// Tells a feed's new snapshots from repeated ones, over all its connections.
#[derive(Debug, Default)]
pub(super) struct Freshness {
    latest_timestamp: Option<Box<str>>,
}

impl Freshness {
    /// What `message` is to the watch for silence; `None` if it is no snapshot. One without a timestamp is always new.
    pub fn judge(&mut self, message: &Message<'_>) -> Option<SnapshotHeard> {
        let Message::Snapshot(snapshot) = message else { return None };
        let Some(timestamp) = snapshot.timestamp.as_deref() else { return Some(SnapshotHeard { fresh: true }) };
        let fresh = self.latest_timestamp.as_deref() != Some(timestamp);
        if fresh {
            self.latest_timestamp = Some(timestamp.into());
        }
        Some(SnapshotHeard { fresh })
    }
}

impl Listener for Hearing {
    fn opened(&self) {
        self.state().connection = Some(self.board.open(self.feed));
        self.telemetry.connected();
    }

    fn text(&self, frame: &str) -> Heard {
        let mut heard = Heard::default();
        let Some(connection) = self.state().connection else { return heard };
        let wall_seconds = self.board.now().wall_micros as f64 / 1e6;
        protocol::read(frame, &protocol::Limits::default(), &mut |message| match message {
            Ok(message) => {
                heard.understood = true;
                self.telemetry.message(message.type_name(), wall_seconds);
                heard.snapshot = self.hear(connection, &message).or(heard.snapshot);
            }
            Err(rejection) => self.telemetry.rejected(&rejection),
        });
        heard
    }

    fn binary(&self, bytes: usize) {
        let detail = format!("a binary frame of {bytes} bytes; the feed speaks text");
        self.telemetry.rejected(&Rejection::new(RejectionReason::BinaryFrame, detail));
    }

    fn closed(&self, ending: &Ending) {
        let connection = {
            let mut state = self.state();
            state.ending_counted = true;
            state.connection.take()
        };
        if let Some(connection) = connection {
            self.board.close(connection);
        }
        self.telemetry.disconnected(ending.code(), &ending.to_string());
    }

    fn status(&self, status: &Status) {
        if let Status::Waiting { ending, .. } | Status::Refused { ending, .. } = status
            && !std::mem::take(&mut self.state().ending_counted)
        {
            self.telemetry.disconnected(ending.code(), &ending.to_string());
        }
        self.telemetry.status(*status == Status::Live, &status.to_string());
    }
}
