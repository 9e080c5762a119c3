//! From a feed's frames to the board, and to telemetry.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use crate::board::Board;
use crate::feed::{Ending, Heard, Listener, SnapshotHeard, Status};
use crate::ledger::{ConnectionId, FeedId, Moment};
use crate::protocol::{self, Message, Rejection, RejectionReason, Snapshot};
use crate::skills_db::ReaderWaker;
use crate::telemetry::{FeedTelemetry, Standing};

/// What listens to one feed.
#[derive(Debug)]
pub(super) struct Hearing {
    board: Arc<Board>,
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
    ending_counted: bool,
}

impl Hearing {
    pub fn new(board: Arc<Board>, feed: FeedId, telemetry: Arc<FeedTelemetry>, waker: Option<ReaderWaker>) -> Self {
        Self { board, feed, telemetry, waker, state: Mutex::default() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn hear(&self, connection: ConnectionId, message: &Message<'_>, now: Moment) -> Option<SnapshotHeard> {
        for notice in self.board.apply_at(connection, message, now) {
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
    pub fn judge(&mut self, snapshot: &Snapshot<'_>) -> SnapshotHeard {
        let Some(timestamp) = snapshot.timestamp.as_deref() else { return SnapshotHeard { fresh: true } };
        let fresh = self.latest_timestamp.as_deref() != Some(timestamp);
        if fresh {
            self.latest_timestamp = Some(timestamp.into());
        }
        SnapshotHeard { fresh }
    }
}

/// What the watch for silence wants to know of a frame that is not applied.
pub(super) fn judge(frame: &str, freshness: &mut Freshness) -> Heard {
    let mut heard = Heard::default();
    protocol::read(frame, &protocol::Limits::default(), &mut |message| {
        let Ok(message) = message else { return };
        heard.understood = true;
        if let Message::Snapshot(snapshot) = &message {
            heard.snapshot = Some(freshness.judge(snapshot));
        }
    });
    heard
}

impl Listener for Hearing {
    fn opened(&self) {
        self.state().connection = Some(self.board.open(self.feed));
        self.telemetry.connected();
    }

    fn text(&self, frame: &str, at: Instant) -> Heard {
        let mut heard = Heard::default();
        let Some(connection) = self.state().connection else { return heard };
        let now = self.board.moment(at);
        let wall_seconds = now.wall_micros as f64 / 1e6;
        protocol::read(frame, &protocol::Limits::default(), &mut |message| match &message {
            Ok(message) => {
                heard.understood = true;
                self.telemetry.message(message.message_type(), wall_seconds);
                heard.snapshot = self.hear(connection, message, now).or(heard.snapshot);
            }
            Err(rejection) => self.telemetry.rejected(rejection),
        });
        if let Some(waker) = self.waker.as_ref().filter(|_| heard.understood) {
            waker.wake();
        }
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
        let standing = match status {
            Status::Connecting | Status::Opened => Standing::Connecting,
            Status::Live => Standing::Live,
            Status::Waiting { ending: Ending::Silent { .. } | Ending::Dead { .. }, .. } => Standing::Silent,
            Status::Waiting { ending: Ending::Frozen { .. }, .. } => Standing::Frozen,
            Status::Waiting { .. } => Standing::Unreachable,
            Status::Refused { .. } => Standing::Refused,
            Status::Stopped => Standing::Stopped,
        };
        self.telemetry.status(standing, &status.to_string());
    }
}
