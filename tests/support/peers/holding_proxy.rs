//! A proxy before a receiver of remote write, which holds a request at a place that a test chooses.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread;

use crate::support::PATIENCE;
use crate::support::write_request::decoded;

/// Where a request is held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// The receiver has nothing of it.
    BeforeTheReceiver,
    /// The receiver has stored it, and whoever sent it does not know.
    BehindTheReceiver,
}

/// A request that is held. Its connection ends when this is dropped.
#[derive(Debug)]
pub struct Held {
    /// Time of its newest sample, in milliseconds since the Unix epoch.
    pub newest_millis: i64,
    passes: Sender<()>,
}

impl Held {
    /// Passes it, or its answer, on.
    pub fn pass_on(self) {
        // The connection may have ended.
        let _ = self.passes.send(());
    }
}

type Wanted = Arc<Mutex<Option<(Place, Sender<Held>)>>>;

/// The proxy, on loopback. Dropping it ends it; its connections end with their clients.
pub struct HoldingProxy {
    address: SocketAddr,
    receiver: Arc<Mutex<SocketAddr>>,
    wanted: Wanted,
    is_ended: Arc<AtomicBool>,
}

impl HoldingProxy {
    /// Passes requests on to `receiver`.
    pub fn start(receiver: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("it is bound");
        let (wanted, is_ended) = (Wanted::default(), Arc::new(AtomicBool::new(false)));
        let receiver = Arc::new(Mutex::new(receiver));
        thread::spawn({
            let (receiver, wanted, is_ended) = (Arc::clone(&receiver), Arc::clone(&wanted), Arc::clone(&is_ended));
            move || {
                for client in listener.incoming() {
                    if is_ended.load(Ordering::Relaxed) {
                        return;
                    }
                    let (client, wanted) = (client.expect("a connection"), Arc::clone(&wanted));
                    let receiver = *receiver.lock().unwrap();
                    // A client that was killed, or a receiver that ended, ends the connection.
                    thread::spawn(move || drop(serve(client, receiver, &wanted)));
                }
            }
        });
        Self { address, receiver, wanted, is_ended }
    }

    /// Passes the requests of further connections on to `receiver`.
    pub fn lead_to(&self, receiver: SocketAddr) {
        *self.receiver.lock().unwrap() = receiver;
    }

    pub fn url(&self) -> String {
        format!("http://{}/api/v1/write", self.address)
    }

    /// Holds the next request with samples that comes to this place; behind the receiver the next that it has stored.
    pub fn hold_next(&self, place: Place) -> Receiver<Held> {
        let (holds, held) = channel();
        *self.wanted.lock().unwrap() = Some((place, holds));
        held
    }
}

impl Drop for HoldingProxy {
    fn drop(&mut self) {
        self.is_ended.store(true, Ordering::Relaxed);
        // So that it stops accepting.
        let _ = TcpStream::connect(self.address);
    }
}

fn serve(client: TcpStream, receiver: SocketAddr, wanted: &Wanted) -> io::Result<()> {
    let mut client = BufReader::new(client);
    let mut receiver = BufReader::new(TcpStream::connect(receiver)?);
    while let Some((head, body)) = read_message(&mut client)? {
        let samples = decoded(&body).into_iter().flat_map(|(_, samples)| samples);
        let newest_millis = samples.map(|(millis, _)| millis).max();
        let pass = |place: Place| match newest_millis {
            Some(newest_millis) => pass(wanted, place, newest_millis),
            None => Ok(()),
        };
        pass(Place::BeforeTheReceiver)?;
        receiver.get_mut().write_all(&[head, body].concat())?;
        let (head, body) = read_message(&mut receiver)?.ok_or(io::ErrorKind::UnexpectedEof)?;
        if head.starts_with(b"HTTP/1.1 2") {
            pass(Place::BehindTheReceiver)?;
        }
        client.get_mut().write_all(&[head, body].concat())?;
    }
    Ok(())
}

/// Returns once a request may pass this place, and fails if it may not.
fn pass(wanted: &Wanted, place: Place, newest_millis: i64) -> io::Result<()> {
    let Some((_, holds)) = wanted.lock().unwrap().take_if(|(wanted, _)| *wanted == place) else { return Ok(()) };
    let (passes, is_passed) = channel();
    // A test that ended waits for nothing.
    let _ = holds.send(Held { newest_millis, passes });
    is_passed.recv_timeout(PATIENCE).map_err(|_| io::ErrorKind::ConnectionAborted.into())
}

/// Reads a request or an answer: its head, with the empty line, and its body. `None` at the end of the connection.
fn read_message(from: &mut BufReader<TcpStream>) -> io::Result<Option<(Vec<u8>, Vec<u8>)>> {
    let (mut head, mut length) = (String::new(), 0);
    loop {
        let begin = head.len();
        if from.read_line(&mut head)? == 0 {
            return Ok(None);
        }
        let line = head[begin..].trim_end().to_ascii_lowercase();
        if line.is_empty() {
            break;
        }
        if let Some(value) = line.strip_prefix("content-length:") {
            length = value.trim().parse().map_err(|_| io::ErrorKind::InvalidData)?;
        }
    }
    let mut body = vec![0; length];
    from.read_exact(&mut body)?;
    Ok(Some((head.into_bytes(), body)))
}
