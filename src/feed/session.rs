//! One open connection, from the first frame to the last.

use super::connect::{Connection, Socket};
use super::credentials::{PresentedCredentials, QuerySecrets};
use super::disconnect_reason::{DisconnectReason, Step, printable};
use super::listener::FeedListener;
use super::settings::{FeedSettings, Timing};
use super::state::FeedState;
use super::watchdog::{Alarm, Due, Keepalive, SnapshotWatch};
use crate::standstill::{Turns, timeout};
use futures::{FutureExt as _, SinkExt, StreamExt};
use serde_json::json;
use std::future::poll_fn;
use std::time::Duration;
use tokio::task::coop::consume_budget;
use tokio::time::{Instant, sleep_until};
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Message};
use tokio_tungstenite::tungstenite::{self, Bytes};

/// Timeout of the closing handshake. Shutdown waits for it.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);

/// Messages that are received between two checks of the clock, if they have arrived already.
const BURST_MESSAGES: usize = 256;

/// How long what has arrived is read once a timeout is over, before it is acted upon.
const LAST_LOOK: Duration = Duration::from_millis(100);

pub(super) struct Session<'a> {
    connection: Connection,
    settings: &'a FeedSettings,
    presented: PresentedCredentials,
    is_greeted: bool,
    live_since: Option<Instant>,
}

impl<'a> Session<'a> {
    pub(super) fn new(connection: Connection, settings: &'a FeedSettings, presented: PresentedCredentials) -> Self {
        Self { connection, settings, presented, is_greeted: false, live_since: None }
    }

    /// Returns whether the connection was live for [`Timing::healthy_after`].
    pub(super) fn was_healthy(&self) -> bool {
        self.live_since.is_some_and(|since| since.elapsed() >= self.settings.timing.healthy_after)
    }

    /// Sends the opening frames and receives until the connection ends. Cancel-safe: no frame is lost or half sent, and
    /// [`Session::close`] can still follow.
    pub(super) async fn run(&mut self, watch: &mut SnapshotWatch, listener: &dyn FeedListener) -> DisconnectReason {
        watch.opened(Instant::now());
        for frame in self.opening_frames() {
            if let Err(reason) = self.send(frame).await {
                return self.final_close_frame(watch, listener).await.unwrap_or(reason);
            }
        }
        let Timing { ping_interval, pong_timeout, .. } = self.settings.timing;
        let mut keepalive = Keepalive::new(ping_interval, pong_timeout);
        let mut turns = Turns::new(Instant::now());
        let mut acted_upon_at = None;
        loop {
            let mut was_reading = true;
            if ready(listener).now_or_never().is_none() {
                ready(listener).await;
                was_reading = false;
            }
            let now = Instant::now();
            if turns.stood_still(now) || !was_reading {
                // Nothing was read meanwhile, so nothing is known of the peer, and it has its whole time again.
                watch.resumed(now);
                keepalive = Keepalive::new(ping_interval, pong_timeout);
            }
            let due = keepalive.next(self.connection.last_received.last());
            let is_due = |(at, _): &(Instant, Due)| *at <= now;
            self.check_data(now, watch, listener);
            let dead = due.filter(is_due).and_then(|(_, due)| (due == Due::Dead).then_some(Alarm::Dead));
            let wake = match watch.alarm(now).or(dead) {
                Some(alarm) => {
                    // The event loop may not have got to the socket yet.
                    let at = *acted_upon_at.get_or_insert(now + LAST_LOOK);
                    if at <= now {
                        return self.alarmed(alarm, watch);
                    }
                    at
                }
                None if due.is_some_and(|due| is_due(&due)) => {
                    if let Err(reason) = self.send(Message::Ping(Bytes::new())).await {
                        return self.final_close_frame(watch, listener).await.unwrap_or(reason);
                    }
                    keepalive.pinged(Instant::now());
                    continue;
                }
                None => {
                    acted_upon_at = None;
                    let data_deadline = watch.data_deadline().filter(|_| self.live_since.is_some()).map(|(at, _)| at);
                    let deadlines = due.map(|(at, _)| at).into_iter().chain(watch.deadline()).chain(data_deadline);
                    deadlines.fold(Turns::longest(now), Instant::min)
                }
            };
            turns.until(wake);
            let received = tokio::select! {
                // What has arrived is read before a timeout is acted upon.
                biased;
                // Pongs are sent with the next read, so that nothing else may be awaited between two reads.
                received = next(&mut self.connection.socket) => Some(received),
                // Bytes of an incomplete frame postpone what is due, so that it is checked again instead of acted upon.
                () = sleep_until(wake) => None,
            };
            let at = Instant::now();
            if turns.stood_still(at) {
                watch.resumed(at);
                keepalive = Keepalive::new(ping_interval, pong_timeout);
            }
            let Some(received) = received else { continue };
            if let Some(reason) = self.received(received, at, watch, listener) {
                return reason;
            }
            // What arrived with it is received before the clock is checked again.
            for _ in 0..BURST_MESSAGES {
                if ready(listener).now_or_never().is_none() {
                    break;
                }
                let Some(received) = next(&mut self.connection.socket).now_or_never() else { break };
                if let Some(reason) = self.received(received, at, watch, listener) {
                    return reason;
                }
            }
        }
    }

    /// Returns the token, which must be the first text frame, and the subscription, which the server forgets with the
    /// connection.
    fn opening_frames(&self) -> Vec<Message> {
        let token = self.presented.token.as_ref().map(|token| json!({ "token": token.expose() }));
        let skill = self.settings.skill.as_ref().map(|skill| json!({ "type": "subscribe", "skill": skill }));
        [token, skill].into_iter().flatten().map(|frame| Message::text(frame.to_string())).collect()
    }

    fn received(
        &mut self,
        received: Option<Result<Message, tungstenite::Error>>,
        at: Instant,
        watch: &mut SnapshotWatch,
        listener: &dyn FeedListener,
    ) -> Option<DisconnectReason> {
        match received {
            Some(Ok(message)) => self.receive(message, at, watch, listener),
            Some(Err(error)) => Some(self.broken(error)),
            None => Some(DisconnectReason::Lost { what: "it ended".to_owned() }),
        }
    }

    fn receive(
        &mut self,
        message: Message,
        at: Instant,
        watch: &mut SnapshotWatch,
        listener: &dyn FeedListener,
    ) -> Option<DisconnectReason> {
        match message {
            Message::Text(frame) => {
                let summary = listener.text(&self.presented.redact_frame(&frame), at.into_std());
                if let Some(snapshot) = summary.snapshot {
                    watch.snapshot(snapshot.fresh, at);
                } else if summary.has_data {
                    watch.event();
                }
                if summary.understood {
                    self.understood(at, watch, listener);
                }
                None
            }
            Message::Binary(frame) => {
                listener.binary(frame.len());
                None
            }
            Message::Close(frame) => Some(self.closed(frame)),
            Message::Ping(_) | Message::Pong(_) | Message::Frame(_) => None,
        }
    }

    /// A message was understood: the token is accepted. That makes the feed live unless its data is overdue.
    fn understood(&mut self, at: Instant, watch: &mut SnapshotWatch, listener: &dyn FeedListener) {
        let is_first = !std::mem::replace(&mut self.is_greeted, true);
        if is_first {
            watch.greeted(at);
        }
        if !watch.is_overdue() {
            if self.live_since.is_none() {
                self.live_since = Some(Instant::now());
                listener.state_changed(&FeedState::Live);
            }
        } else if is_first && !watch.has_seen_data() {
            listener.state_changed(&FeedState::NoData { since: at });
        }
    }

    /// Reports a live feed that has sent no data for too long.
    fn check_data(&mut self, now: Instant, watch: &mut SnapshotWatch, listener: &dyn FeedListener) {
        let overdue = watch.data_deadline().filter(|(at, _)| self.live_since.is_some() && *at <= now);
        if let Some((_, since)) = overdue {
            self.live_since = None;
            watch.set_overdue();
            listener.state_changed(&FeedState::NoData { since });
        }
    }

    fn closed(&self, frame: Option<CloseFrame>) -> DisconnectReason {
        let token = self.presented.token_origin;
        let Some(CloseFrame { code, reason }) = frame else {
            return DisconnectReason::Closed { code: 1005, reason: String::new(), token };
        };
        let reason = QuerySecrets::of(&self.settings.url).redact(&self.presented.redact(&reason));
        let reason = printable(&reason);
        DisconnectReason::Closed { code: code.into(), reason, token }
    }

    fn broken(&self, error: tungstenite::Error) -> DisconnectReason {
        use tungstenite::{Error, error::ProtocolError};
        match error {
            Error::Capacity(_) => DisconnectReason::Oversized { limit_bytes: self.settings.frame_bytes_max },
            Error::Utf8(_) => DisconnectReason::InvalidUtf8,
            Error::Protocol(ProtocolError::ResetWithoutClosingHandshake) => {
                DisconnectReason::Lost { what: "it ended".to_owned() }
            }
            Error::Protocol(error) => DisconnectReason::Protocol { what: printable(&error.to_string()) },
            error => DisconnectReason::Lost { what: printable(&error.to_string()) },
        }
    }

    fn alarmed(&self, alarm: Alarm, watch: &mut SnapshotWatch) -> DisconnectReason {
        if alarm != Alarm::Dead {
            watch.set_overdue();
        }
        match alarm {
            Alarm::Dead => DisconnectReason::Dead { after: self.connection.last_received.last().elapsed() },
            Alarm::Silent => DisconnectReason::Silent { after: watch.allowance() },
            Alarm::Frozen => DisconnectReason::Frozen { after: watch.allowance() },
        }
    }

    async fn send(&mut self, message: Message) -> Result<(), DisconnectReason> {
        let limit = self.settings.timing.send_timeout;
        match timeout(limit, self.connection.socket.send(message)).await {
            Ok(sent) => sent.map_err(|error| self.broken(error)),
            Err(_) => Err(DisconnectReason::Timeout { step: Step::Send, limit }),
        }
    }

    /// Reads what the peer sent before a write failed: if it refused a token while the subscription was being sent, its close
    /// code is the reason, not the failed write.
    async fn final_close_frame(
        &mut self,
        watch: &mut SnapshotWatch,
        listener: &dyn FeedListener,
    ) -> Option<DisconnectReason> {
        let read_on = async {
            loop {
                ready(listener).await;
                let Some(Ok(message)) = next(&mut self.connection.socket).await else { return None };
                if let Some(reason) = self.receive(message, Instant::now(), watch, listener) {
                    return Some(reason);
                }
            }
        };
        timeout(CLOSE_TIMEOUT, read_on).await.ok().flatten()
    }

    /// Performs the closing handshake (RFC 6455, 7) within [`CLOSE_TIMEOUT`]: sends a close frame, or confirms that of the peer,
    /// and waits until the peer closes the connection. Frames that still arrive are discarded.
    pub(super) async fn close(mut self, reason: &DisconnectReason) {
        let code = match reason {
            DisconnectReason::Closed { .. } => None,
            DisconnectReason::Shutdown => Some(CloseCode::Away),
            DisconnectReason::Silent { .. } | DisconnectReason::Frozen { .. } => Some(CloseCode::Normal),
            DisconnectReason::Oversized { .. } => Some(CloseCode::Size),
            DisconnectReason::InvalidUtf8 => Some(CloseCode::Invalid),
            DisconnectReason::Protocol { .. } => Some(CloseCode::Protocol),
            _ => return,
        };
        let socket = &mut self.connection.socket;
        let handshake = async {
            if let Some(code) = code {
                socket.close(Some(CloseFrame { code, reason: reason.code().into() })).await?;
            }
            while let Some(received) = next(socket).await {
                received?;
            }
            Ok::<_, tungstenite::Error>(())
        };
        // A peer that does not respond is disconnected.
        let _ = timeout(CLOSE_TIMEOUT, handshake).await;
    }
}

/// Returns once `listener` takes more.
pub(super) async fn ready(listener: &dyn FeedListener) {
    poll_fn(|cx| listener.poll_ready(cx)).await;
}

/// Returns the next message. Each consumes task budget, because one read from the network can contain thousands of messages,
/// which would otherwise delay shutdown, timeouts and the other feeds of this thread.
async fn next(socket: &mut Socket) -> Option<Result<Message, tungstenite::Error>> {
    consume_budget().await;
    socket.next().await
}
