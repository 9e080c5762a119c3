//! The sender: a feed that sends bytes as fast as they are taken.

use std::io::Write as _;
use std::net::{TcpListener, TcpStream};
use std::time::{Duration, Instant};

use tokio_tungstenite::tungstenite::{Message, WebSocket, accept};

use crate::Outcome;
use crate::frames::Frames;

/// Longer than anything here takes.
const PATIENCE: Duration = Duration::from_secs(60);

pub struct Feed {
    listener: TcpListener,
}

/// A client that has subscribed.
pub struct Subscriber {
    socket: WebSocket<TcpStream>,
    syncs: u64,
}

impl Feed {
    pub fn bind() -> Outcome<Self> {
        Ok(Self { listener: TcpListener::bind("127.0.0.1:0")? })
    }

    pub fn url(&self) -> Outcome<String> {
        Ok(format!("ws://{}", self.listener.local_addr()?))
    }

    pub fn accept(&self) -> Outcome<Subscriber> {
        let (stream, _) = self.listener.accept()?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        let mut socket = accept(stream).map_err(|error| error.to_string())?;
        socket.send(Message::text(r#"{"type": "connected", "authenticated": false}"#))?;
        Ok(Subscriber { socket, syncs: 0 })
    }
}

impl Subscriber {
    /// Sends whole frames.
    pub fn send(&mut self, frames: &[u8]) -> Outcome<()> {
        Ok(self.socket.get_mut().write_all(frames)?)
    }

    /// Waits until everything that was sent has been heard: a client answers a ping after what came before it.
    pub fn sync(&mut self) -> Outcome<()> {
        self.syncs += 1;
        let payload = self.syncs.to_be_bytes();
        self.socket.send(Message::Ping(payload.to_vec().into()))?;
        loop {
            if let Message::Pong(answer) = self.socket.read()?
                && *answer == payload
            {
                return Ok(());
            }
        }
    }

    /// Seconds from the first byte of `frames` sent to the last heard, `times` times over.
    pub fn time(&mut self, frames: &Frames, times: usize) -> Outcome<f64> {
        let begin = Instant::now();
        for _ in 0..times {
            self.send(&frames.bytes)?;
        }
        self.sync()?;
        Ok(begin.elapsed().as_secs_f64())
    }
}
