//! A feed server on loopback that does what a script says, faults included, and notes what its clients do.

use super::patiently;
use futures::{SinkExt, StreamExt};
use rustls::pki_types::PrivateKeyDer;
use std::error::Error;
use std::fmt::Write as _;
use std::io::Write as _;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;
use tempfile::NamedTempFile;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::Instant;
use tokio_rustls::TlsAcceptor;
use tokio_tungstenite::tungstenite::handshake::server::{Request, Response};
use tokio_tungstenite::tungstenite::http::{HeaderName, HeaderValue};
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::{Bytes, Message};
use tokio_tungstenite::{WebSocketStream, accept_hdr_async};
use tokio_util::sync::CancellationToken;
use url::Url;

/// One thing that the server does. While it waits it reads, notes what the client sends, and answers pings, unless a
/// step says otherwise. Behind the last step it waits for the client to leave.
pub enum Step {
    /// Instead of a handshake: close the TCP connection.
    Refuse,
    /// Instead of a handshake: this status and these headers.
    HttpStatus(u16, Vec<(&'static str, &'static str)>),
    /// Instead of a handshake: these bytes.
    Answer(&'static [u8]),
    /// Instead of a handshake: nothing, for ever.
    StallHandshake,
    /// A text frame.
    Send(String),
    /// A binary frame.
    SendBinary(Vec<u8>),
    /// Bytes as they are, below WebSocket.
    SendRaw(Vec<u8>),
    /// A text frame that is not UTF-8.
    InvalidUtf8,
    /// A text frame that declares so many bytes and then sends them.
    HugeFrame(u64),
    /// So many bytes of a text message without an end, in fragments of 64 KiB.
    HugeMessage(u64),
    /// Half a text frame, then the end of the connection.
    CloseMidFrame,
    /// A close frame; then wait for the client's.
    Close(u16, String),
    /// The end of the connection without a close frame.
    Drop,
    /// So many text frames.
    Flood(usize, String),
    /// So many pings.
    PingFlood(usize),
    /// A ping with this payload.
    Ping(String),
    /// Wait for a text frame that matches; others are noted and passed over.
    ExpectText(Box<dyn Fn(&str) -> bool + Send + Sync>),
    /// Let time pass.
    Pause(Duration),
    /// Wait for the test to open the gate.
    Await(Gate),
    /// The same text again and again, until the client leaves.
    Repeat(String, Duration),
    /// What the function says, at once and then at this interval, until the test opens the gate.
    Rounds(Gate, Duration, Box<dyn Fn() -> String + Send + Sync>),
    /// What the function says of each round of the server's clock, beginning with the next, until the test opens the
    /// gate. No round is left out: on a busy machine those that are late follow at once, as they do from a server that
    /// sends each round to all of its clients.
    Clocked(Gate, Clock, Box<dyn Fn(u64) -> String + Send + Sync>),
    /// Bytes as they are, one at a time.
    Trickle(Vec<u8>, Duration),
    /// From here on nothing is read, so that pings stay unanswered and a client that leaves goes unnoticed.
    IgnorePings,
}

impl Step {
    pub fn send(text: impl Into<String>) -> Self {
        Step::Send(text.into())
    }

    pub fn close(code: u16) -> Self {
        Step::Close(code, String::new())
    }

    pub fn expect(matches: impl Fn(&str) -> bool + Send + Sync + 'static) -> Self {
        Step::ExpectText(Box::new(matches))
    }

    pub fn rounds(until: &Gate, every: Duration, text: impl Fn() -> String + Send + Sync + 'static) -> Self {
        Step::Rounds(until.clone(), every, Box::new(text))
    }

    fn replaces_handshake(&self) -> bool {
        matches!(self, Step::Refuse | Step::HttpStatus(..) | Step::Answer(_) | Step::StallHandshake)
    }
}

/// The rounds of a server, counted from the first.
#[derive(Clone, Copy)]
pub struct Clock {
    began: Instant,
    every: Duration,
}

impl Clock {
    pub fn new(every: Duration) -> Self {
        Self { began: Instant::now(), every }
    }

    /// The round that it is.
    fn round(self) -> u64 {
        (self.began.elapsed().as_nanos() / self.every.as_nanos()) as u64
    }

    fn begins(self, round: u64) -> Instant {
        self.began + self.every * u32::try_from(round).expect("no test has so many rounds")
    }
}

/// Holds a script up until the test opens it.
#[derive(Clone, Default)]
pub struct Gate(CancellationToken);

impl Gate {
    pub fn open(&self) {
        self.0.cancel();
    }
}

/// What one connection brought.
#[derive(Debug, Clone, Default)]
pub struct Visit {
    /// Path and query of the handshake.
    pub uri: String,
    /// Names and values of the handshake's headers.
    pub headers: Vec<(String, String)>,
    pub texts: Vec<String>,
    pub pings: usize,
    pub pongs: Vec<Bytes>,
    /// The client's close code; 1005 if it gave none.
    pub close_code: Option<u16>,
    pub steps_done: usize,
    pub is_over: bool,
}

/// A server with scripts: the first connection gets the first, and so on; the last one repeats. Dropping it ends it and
/// all its connections.
pub struct ScriptedFeed {
    address: SocketAddr,
    scheme: &'static str,
    visits: watch::Receiver<Vec<Visit>>,
    acceptor: JoinHandle<()>,
    /// What a client needs to trust this server, if it speaks TLS.
    /// The certificate to trust, in a file.
    pub certificate: Option<NamedTempFile>,
}

impl ScriptedFeed {
    pub fn start(scripts: Vec<Vec<Step>>) -> Self {
        Reserved::new().start(scripts)
    }

    pub fn start_tls(scripts: Vec<Vec<Step>>) -> Self {
        Reserved::new().start_tls(scripts)
    }

    /// Encrypted as the test says, for clients that know of it otherwise.
    pub fn start_encrypted(tls: Arc<rustls::ServerConfig>, scripts: Vec<Vec<Step>>) -> Self {
        Reserved::new().serve(scripts, Some((tls.into(), None)))
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    pub fn url(&self) -> Url {
        Url::parse(&format!("{}://{}/", self.scheme, self.address)).unwrap()
    }

    /// What happened so far, one entry for each connection.
    pub fn visits(&self) -> Vec<Visit> {
        self.visits.borrow().clone()
    }

    /// Waits until the visits are as described, and returns them.
    pub async fn until(&self, what: &str, condition: impl FnMut(&Vec<Visit>) -> bool) -> Vec<Visit> {
        let mut visits = self.visits.clone();
        patiently(what, visits.wait_for(condition)).await.unwrap().clone()
    }

    /// Waits for the `n`th connection, from 1.
    pub async fn connected(&self, n: usize) -> Vec<Visit> {
        self.until(&format!("connection {n}"), |visits| visits.len() >= n).await
    }

    /// Waits until connection `n`, from 1, is as described.
    pub async fn visited(&self, n: usize, what: &str, condition: impl Fn(&Visit) -> bool) -> Visit {
        let what = format!("{what} of connection {n}");
        self.until(&what, |visits| visits.get(n - 1).is_some_and(&condition)).await.swap_remove(n - 1)
    }

    /// Waits until connection `n`, from 1, has `steps` steps behind it.
    pub async fn reached(&self, n: usize, steps: usize) -> Visit {
        self.visited(n, &format!("step {steps}"), |visit| visit.steps_done >= steps).await
    }

    /// Ends the server and its connections; its address refuses connections from then on.
    pub async fn leave(mut self) -> Reserved {
        let reserved = Reserved::at(self.address);
        self.acceptor.abort();
        let ended = (&mut self.acceptor).await;
        assert!(ended.is_err_and(|error| error.is_cancelled()), "the server had ended by itself");
        reserved
    }
}

impl Drop for ScriptedFeed {
    fn drop(&mut self) {
        self.acceptor.abort();
    }
}

/// An address of a server that is not there yet: bound, so that nobody else gets it, and refusing connections.
pub struct Reserved {
    socket: TcpSocket,
    address: SocketAddr,
}

impl Reserved {
    pub fn new() -> Self {
        Self::on([127, 0, 0, 1])
    }

    /// On another of the loopback's addresses than 127.0.0.1.
    pub fn on(ip: [u8; 4]) -> Self {
        Self::at(SocketAddr::from((ip, 0)))
    }

    fn at(address: SocketAddr) -> Self {
        let socket = TcpSocket::new_v4().unwrap();
        // So that the address of a server which leaves can be reserved before it is free for anybody.
        socket.set_reuseport(true).unwrap();
        socket.bind(address).unwrap();
        let address = socket.local_addr().unwrap();
        Self { socket, address }
    }

    pub fn url(&self) -> Url {
        Url::parse(&format!("ws://{}/", self.address)).unwrap()
    }

    pub fn start(self, scripts: Vec<Vec<Step>>) -> ScriptedFeed {
        self.serve(scripts, None)
    }

    pub fn start_tls(self, scripts: Vec<Vec<Step>>) -> ScriptedFeed {
        let (acceptor, certificate) = tls();
        self.serve(scripts, Some((acceptor, Some(certificate))))
    }

    fn serve(self, scripts: Vec<Vec<Step>>, tls: Option<(TlsAcceptor, Option<NamedTempFile>)>) -> ScriptedFeed {
        assert!(!scripts.is_empty(), "a server without a script");
        let listener = self.socket.listen(128).unwrap();
        let (noted, visits) = watch::channel(Vec::new());
        let (tls, certificate) = tls.unzip();
        let scheme = if tls.is_some() { "wss" } else { "ws" };
        let acceptor = tokio::spawn(accept(listener, scripts.into(), tls, noted));
        ScriptedFeed { address: self.address, scheme, visits, acceptor, certificate: certificate.flatten() }
    }
}

/// A server, and its certificate.
fn tls() -> (TlsAcceptor, NamedTempFile) {
    let names = ["127.0.0.1".to_owned(), "localhost".to_owned()];
    let rcgen::CertifiedKey { cert, signing_key } = rcgen::generate_simple_self_signed(names).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let key = PrivateKeyDer::try_from(signing_key.serialize_der()).unwrap();
    let server = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![cert.der().clone()], key)
        .unwrap();
    let mut certificate = NamedTempFile::new().unwrap();
    certificate.write_all(cert.pem().as_bytes()).unwrap();
    (TlsAcceptor::from(Arc::new(server)), certificate)
}

async fn accept(
    listener: TcpListener,
    scripts: Arc<[Vec<Step>]>,
    tls: Option<TlsAcceptor>,
    noted: watch::Sender<Vec<Visit>>,
) {
    let mut connections = JoinSet::new();
    // Dropped before the connections: a client that comes back at once finds nobody, not somebody about to leave.
    let listener = listener;
    for index in 0.. {
        let (tcp, _) = listener.accept().await.unwrap();
        tcp.set_nodelay(true).unwrap();
        noted.send_modify(|visits| visits.push(Visit::default()));
        let notes = Notes { noted: noted.clone(), index };
        let (scripts, tls) = (scripts.clone(), tls.clone());
        connections.spawn(async move {
            let script = &scripts[index.min(scripts.len() - 1)];
            // A client that leaves in the middle of a script is what many scripts are for.
            let _ = match tls {
                _ if matches!(script.first(), Some(Step::Refuse | Step::StallHandshake)) => {
                    play(tcp, script, &notes).await
                }
                Some(tls) => match tls.accept(tcp).into_fallible().await {
                    Ok(stream) => play(stream, script, &notes).await,
                    // Closing a socket with unread bytes would reset it and destroy the alert that says why.
                    Err((_, mut tcp)) => {
                        tokio::io::copy(&mut tcp, &mut tokio::io::sink()).await.map(drop).map_err(Into::into)
                    }
                },
                None => play(tcp, script, &notes).await,
            };
            notes.note(|visit| visit.is_over = true);
        });
        while connections.try_join_next().is_some() {}
    }
}

struct Notes {
    noted: watch::Sender<Vec<Visit>>,
    index: usize,
}

impl Notes {
    fn note(&self, change: impl FnOnce(&mut Visit)) {
        self.noted.send_modify(|visits| change(&mut visits[self.index]));
    }
}

type Outcome = Result<(), Box<dyn Error + Send + Sync>>;

async fn play<S: AsyncRead + AsyncWrite + Unpin>(mut stream: S, script: &[Step], notes: &Notes) -> Outcome {
    match script.first() {
        Some(Step::Refuse) => return Ok(()),
        Some(Step::StallHandshake) => return std::future::pending().await,
        Some(Step::HttpStatus(status, headers)) => {
            let mut answer = format!("HTTP/1.1 {status} Scripted\r\ncontent-length: 0\r\n");
            headers.iter().for_each(|(name, value)| write!(answer, "{name}: {value}\r\n").unwrap());
            return reply(&mut stream, format!("{answer}\r\n").as_bytes()).await;
        }
        Some(Step::Answer(answer)) => return reply(&mut stream, answer).await,
        _ => {}
    }
    #[allow(clippy::result_large_err, reason = "the signature is tungstenite's")]
    let note_request = |request: &Request, response: Response| {
        let text = |(name, value): (&HeaderName, &HeaderValue)| {
            (name.to_string(), String::from_utf8_lossy(value.as_bytes()).into_owned())
        };
        notes.note(|visit| {
            visit.uri = request.uri().to_string();
            visit.headers = request.headers().iter().map(text).collect();
        });
        Ok(response)
    };
    let socket = accept_hdr_async(stream, note_request).await?;
    let mut peer = Peer { socket, notes, is_deaf: false };
    for step in script {
        assert!(!step.replaces_handshake(), "only the first step can replace the handshake");
        if peer.perform(step).await? {
            return Ok(());
        }
        notes.note(|visit| visit.steps_done += 1);
    }
    peer.attend(std::future::pending()).await
}

/// Answers the request once it is whole: closing a socket with unread bytes would reset it and destroy the answer.
async fn reply<S: AsyncRead + AsyncWrite + Unpin>(stream: &mut S, answer: &[u8]) -> Outcome {
    let mut request = Vec::new();
    while !request.ends_with(b"\r\n\r\n") {
        request.push(stream.read_u8().await?);
    }
    stream.write_all(answer).await?;
    Ok(stream.shutdown().await?)
}

static CHUNK: [u8; 64 * 1024] = [b'x'; 64 * 1024];

/// The sizes of the chunks that `bytes` bytes come in.
fn chunks(bytes: u64) -> impl Iterator<Item = usize> {
    let whole = CHUNK.len() as u64;
    (0..bytes.div_ceil(whole)).map(move |index| (bytes - index * whole).min(whole) as usize)
}

struct Peer<'a, S> {
    socket: WebSocketStream<S>,
    notes: &'a Notes,
    is_deaf: bool,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Peer<'_, S> {
    /// Performs one step and says whether it ended the connection.
    async fn perform(&mut self, step: &Step) -> Result<bool, Box<dyn Error + Send + Sync>> {
        match step {
            Step::Refuse | Step::HttpStatus(..) | Step::Answer(_) | Step::StallHandshake | Step::Drop => {
                return Ok(true);
            }
            Step::Send(text) => self.socket.send(Message::text(text)).await?,
            Step::SendBinary(bytes) => self.socket.send(Message::binary(bytes.clone())).await?,
            Step::SendRaw(bytes) => self.raw(bytes).await?,
            Step::InvalidUtf8 => self.raw(&[0x81, 2, 0xc3, 0x28]).await?,
            Step::HugeFrame(bytes) => {
                self.raw(&[0x81, 127]).await?;
                self.raw(&bytes.to_be_bytes()).await?;
                for size in chunks(*bytes) {
                    self.raw(&CHUNK[..size]).await?;
                }
            }
            Step::HugeMessage(bytes) => {
                for (index, size) in chunks(*bytes).enumerate() {
                    self.raw(&[u8::from(index == 0), 127]).await?;
                    self.raw(&(size as u64).to_be_bytes()).await?;
                    self.raw(&CHUNK[..size]).await?;
                }
            }
            Step::CloseMidFrame => {
                self.raw(&[0x81, 100, b'{', b'"']).await?;
                return Ok(true);
            }
            Step::Close(code, reason) => {
                let payload = [&code.to_be_bytes()[..], reason.as_bytes()].concat();
                self.raw(&[&[0x88, payload.len() as u8][..], &payload].concat()).await?;
                self.attend(std::future::pending()).await?;
                return Ok(true);
            }
            Step::Flood(frames, text) => {
                for _ in 0..*frames {
                    self.socket.feed(Message::text(text)).await?;
                }
                self.socket.flush().await?;
            }
            Step::PingFlood(pings) => {
                let ping = [&[0x89, 125][..], &[b'p'; 125]].concat();
                let batch = ping.repeat(100);
                for _ in 0..pings.div_ceil(100) {
                    self.raw(&batch).await?;
                }
            }
            Step::Ping(payload) => self.socket.send(Message::Ping(payload.clone().into())).await?,
            Step::ExpectText(matches) => while !self.hear().await?.is_some_and(|text| matches(&text)) {},
            Step::Pause(duration) => self.attend(tokio::time::sleep(*duration)).await?,
            Step::Await(gate) => self.attend(gate.0.cancelled()).await?,
            Step::Repeat(text, every) => loop {
                self.socket.send(Message::text(text)).await?;
                self.attend(tokio::time::sleep(*every)).await?;
            },
            Step::Rounds(until, every, text) => {
                while !until.0.is_cancelled() {
                    self.socket.send(Message::text(text())).await?;
                    let opened = until.0.cancelled();
                    self.attend(async { drop(tokio::time::timeout(*every, opened).await) }).await?;
                }
            }
            Step::Clocked(until, clock, text) => {
                for round in clock.round() + 1.. {
                    let gate = until.0.cancelled();
                    self.attend(async { drop(tokio::time::timeout_at(clock.begins(round), gate).await) }).await?;
                    if until.0.is_cancelled() {
                        break;
                    }
                    self.socket.send(Message::text(text(round))).await?;
                }
            }
            Step::Trickle(bytes, every) => {
                for byte in bytes {
                    self.raw(&[*byte]).await?;
                    self.attend(tokio::time::sleep(*every)).await?;
                }
            }
            Step::IgnorePings => self.is_deaf = true,
        }
        Ok(false)
    }

    async fn raw(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.socket.get_mut().write_all(bytes).await?;
        self.socket.get_mut().flush().await
    }

    /// Reads, unless deaf, until `until` is over. Fails when the client leaves.
    async fn attend(&mut self, until: impl Future<Output = ()>) -> Outcome {
        let mut until = pin!(until);
        loop {
            tokio::select! {
                () = &mut until => return Ok(()),
                heard = self.hear(), if !self.is_deaf => drop(heard?),
            }
        }
    }

    /// Notes one message; returns it if it is text.
    async fn hear(&mut self) -> Result<Option<String>, Box<dyn Error + Send + Sync>> {
        let message = self.socket.next().await.ok_or("the client left")??;
        let mut text = None;
        self.notes.note(|visit| match message {
            Message::Text(frame) => {
                visit.texts.push(frame.to_string());
                text = Some(frame.to_string());
            }
            Message::Ping(_) => visit.pings += 1,
            Message::Pong(payload) => visit.pongs.push(payload),
            Message::Close(frame) => {
                visit.close_code = Some(frame.map_or(1005, |CloseFrame { code, .. }| code.into()));
            }
            Message::Binary(_) | Message::Frame(_) => {}
        });
        Ok(text)
    }
}
