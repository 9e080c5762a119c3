//! Connections to the simulated server.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use futures::{SinkExt, StreamExt};
use jiff::Timestamp;
use serde_json::Value;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval, interval_at, sleep, timeout};
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, WebSocketConfig};
use tokio_tungstenite::tungstenite::{Bytes, Error, Message};
use tokio_tungstenite::{WebSocketStream, accept_async_with_config};
use tokio_util::sync::CancellationToken;

use super::model::Database;
use super::wire::{self, Round};
use super::workload::Workload;

const PING_INTERVAL: Duration = Duration::from_secs(20);
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);
const SEND_TIMEOUT: Duration = Duration::from_secs(5);
const CLOSE_TIMEOUT: Duration = Duration::from_millis(500);
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
const REQUEST_BYTES_MAX: usize = 64 * 1024;

/// Settings of the simulated server.
#[derive(Debug, Clone, PartialEq)]
pub struct DemoSettings {
    /// The same seed gives the same invocations.
    pub seed: u64,
    /// Time between two snapshots; more than 0.
    pub interval: Duration,
    /// Mean number of invocations per second; more than 0.
    pub invocations_per_second: f64,
    /// Open connections; further ones are dropped.
    pub clients_max: usize,
}

impl Default for DemoSettings {
    fn default() -> Self {
        Self { seed: 1, interval: Duration::from_secs(1), invocations_per_second: 4.0, clients_max: 64 }
    }
}

/// A simulated server that speaks Session-Buddy's protocol. It listens on loopback only.
#[derive(Debug)]
pub struct DemoFeed {
    listener: TcpListener,
    address: SocketAddr,
    settings: DemoSettings,
}

impl DemoFeed {
    /// Binds a free port of `127.0.0.1`. Clients can connect; they are answered once it serves.
    pub async fn bind(settings: DemoSettings) -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        Ok(Self { address: listener.local_addr()?, listener, settings })
    }

    /// Returns the URL of the feed.
    pub fn url(&self) -> String {
        format!("ws://{}/", self.address)
    }

    /// Serves until `shutdown`, then closes every connection (code 1001) and returns within a second.
    pub async fn serve(self, shutdown: CancellationToken) {
        let mut database = Database::default();
        let mut workload = Workload::new(self.settings.seed, self.settings.invocations_per_second);
        let rounds = watch::Sender::new(Arc::new(Round::default()));
        let mut clients = JoinSet::new();
        let mut tick = interval(self.settings.interval);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = shutdown.cancelled() => break,
                _ = tick.tick() => {
                    let now = Timestamp::now();
                    workload.advance(&mut database, now.as_microsecond());
                    rounds.send_replace(Arc::new(Round::new(&database, now)));
                }
                accepted = self.listener.accept() => match accepted {
                    Ok((stream, _)) if clients.len() < self.settings.clients_max => {
                        clients.spawn(attend(stream, rounds.subscribe(), shutdown.clone()));
                    }
                    Ok((_, peer)) => tracing::debug!(%peer, "demo feed has no room for another client"),
                    Err(error) => {
                        // Most often no file descriptors: trying again at once would only burn the processor.
                        tracing::debug!(%error, "demo feed cannot accept");
                        sleep(ACCEPT_PAUSE).await;
                    }
                },
                Some(_) = clients.join_next() => {}
            }
        }
        clients.join_all().await;
    }
}

/// One connection from handshake to close.
async fn attend(stream: TcpStream, rounds: watch::Receiver<Arc<Round>>, shutdown: CancellationToken) {
    let limits =
        WebSocketConfig::default().max_message_size(Some(REQUEST_BYTES_MAX)).max_frame_size(Some(REQUEST_BYTES_MAX));
    let handshake = timeout(HANDSHAKE_TIMEOUT, accept_async_with_config(stream, Some(limits)));
    let mut socket = tokio::select! {
        () = shutdown.cancelled() => return,
        handshake = handshake => match handshake {
            Ok(Ok(socket)) => socket,
            Ok(Err(error)) => return tracing::debug!(%error, "demo feed refused a client"),
            Err(_) => return tracing::debug!("demo feed closed a connection without a request"),
        }
    };
    tokio::select! {
        () = shutdown.cancelled() => {
            let frame = CloseFrame { code: CloseCode::Away, reason: "".into() };
            let _ = timeout(CLOSE_TIMEOUT, socket.close(Some(frame))).await;
        }
        ended = converse(&mut socket, rounds) => match ended {
            Ok(()) | Err(Error::ConnectionClosed) => tracing::debug!("demo feed: a client left"),
            Err(error) => tracing::debug!(%error, "demo feed lost a client"),
        }
    }
}

/// Sends snapshots and receives requests, until the client closes the connection or it is lost.
async fn converse(
    socket: &mut WebSocketStream<TcpStream>,
    mut rounds: watch::Receiver<Arc<Round>>,
) -> Result<(), Error> {
    send(socket, Message::text(wire::connected(Timestamp::now()))).await?;
    let mut subscribed: Option<String> = None;
    let mut heard_since_ping = true;
    let mut ping = interval_at(Instant::now() + PING_INTERVAL, PING_INTERVAL);
    loop {
        tokio::select! {
            changed = rounds.changed() => {
                if changed.is_err() {
                    return Ok(());
                }
                // A client that reads slowly misses rounds, instead of having them queue up.
                let round = rounds.borrow_and_update().clone();
                if let Some(frame) = round.frame(subscribed.as_deref()) {
                    send(socket, Message::text(frame)).await?;
                }
            }
            _ = ping.tick() => {
                if !heard_since_ping {
                    return Err(Error::Io(io::ErrorKind::TimedOut.into()));
                }
                heard_since_ping = false;
                send(socket, Message::Ping(Bytes::new())).await?;
            }
            message = socket.next() => {
                heard_since_ping = true;
                match message.transpose()? {
                    None => return Ok(()),
                    Some(Message::Text(text)) => {
                        if let Some(answer) = answer(&text, &mut subscribed) {
                            send(socket, Message::text(answer)).await?;
                        }
                    }
                    // Pings and the close are answered by the protocol itself, at the next flush.
                    Some(_) => send_pending(socket).await?,
                }
            }
        }
    }
}

/// Returns the response to a request, and updates the subscription. Unknown requests are ignored.
fn answer(text: &str, subscribed: &mut Option<String>) -> Option<String> {
    let request: Value = serde_json::from_str(text).ok()?;
    match request.get("type")?.as_str()? {
        "subscribe" => {
            *subscribed =
                request.get("skill").and_then(Value::as_str).filter(|skill| !skill.is_empty()).map(str::to_owned);
            Some(wire::subscription_confirmed(subscribed.as_deref(), Timestamp::now()))
        }
        "unsubscribe" => {
            *subscribed = None;
            None
        }
        "ping" => Some(wire::PONG.to_owned()),
        _ => None,
    }
}

async fn send(socket: &mut WebSocketStream<TcpStream>, message: Message) -> Result<(), Error> {
    timeout(SEND_TIMEOUT, socket.send(message)).await.map_err(|_| Error::Io(io::ErrorKind::TimedOut.into()))?
}

async fn send_pending(socket: &mut WebSocketStream<TcpStream>) -> Result<(), Error> {
    match timeout(SEND_TIMEOUT, socket.flush()).await {
        Ok(flushed) => flushed,
        Err(_) => Err(Error::Io(io::ErrorKind::TimedOut.into())),
    }
}
