//! A receiver of remote write that answers as a test decides, and stores what it says that it stores. It answers scrapes, too.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};
use tokio_util::sync::CancellationToken;

use super::patiently;
use super::write_request::{Decoded, decoded};

/// A request.
#[derive(Debug, Clone)]
pub struct Received {
    /// Counted from 0, requests without samples left out; those have the number of the next.
    pub number: usize,
    /// Target of the request line.
    pub target: String,
    /// With lower-case names.
    pub headers: BTreeMap<String, String>,
    pub body_bytes: usize,
    /// Whether it is a write request at all.
    pub is_valid: bool,
    pub series: Decoded,
}

impl Received {
    pub fn is_empty(&self) -> bool {
        self.series.is_empty()
    }

    pub fn samples(&self) -> usize {
        self.series.iter().map(|(_, samples)| samples.len()).sum()
    }
}

/// What happens to a request.
#[derive(Debug, Clone)]
pub struct Action {
    /// Whether its samples are stored.
    pub stores: bool,
    /// What is written.
    pub answer: Vec<u8>,
    /// It is written once this is cancelled.
    pub gate: Option<CancellationToken>,
    /// Pause before each byte of it.
    pub pace: Option<Duration>,
    /// Whether the connection ends then.
    pub cuts: bool,
}

impl Action {
    /// Stores, and says so.
    pub fn store() -> Self {
        Self { stores: true, ..Self::status("204 No Content", "", "") }
    }

    /// Stores nothing, and answers with `status` and lines of headers.
    pub fn status(status: &str, headers: &str, body: &str) -> Self {
        let length = body.len();
        let answer = format!("HTTP/1.1 {status}\r\n{headers}Content-Length: {length}\r\n\r\n{body}");
        Self { stores: false, answer: answer.into_bytes(), gate: None, pace: None, cuts: false }
    }

    /// Ends the connection without an answer.
    pub fn cut() -> Self {
        Self { stores: false, answer: Vec::new(), gate: None, pace: None, cuts: true }
    }

    /// The same, with the samples stored.
    pub fn stored(self) -> Self {
        Self { stores: true, ..self }
    }
}

/// The value of each series at each time, in bits.
pub type Stored = BTreeMap<Vec<(String, String)>, BTreeMap<i64, u64>>;

/// What `check` sends to find out whether requests are read.
const NO_REQUEST: [u8; 16] = [0xff; 16];

type Rule = Box<dyn FnMut(&Received, &Stored) -> Action + Send>;

struct State {
    rule: Rule,
    requests: Vec<Received>,
    stored: Stored,
}

/// The receiver, on loopback. Dropping it ends it and its connections.
pub struct ScriptedReceiver {
    address: SocketAddr,
    state: Arc<Mutex<State>>,
    seen: watch::Receiver<usize>,
    acceptor: JoinHandle<()>,
}

impl ScriptedReceiver {
    /// Answers each request as `rule` decides.
    pub async fn start(rule: impl FnMut(&Received, &Stored) -> Action + Send + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let state = State { rule: Box::new(rule), requests: Vec::new(), stored: Stored::new() };
        let state = Arc::new(Mutex::new(state));
        let (noted, seen) = watch::channel(0);
        let noted = Arc::new(noted);
        let acceptor = tokio::spawn({
            let state = Arc::clone(&state);
            async move {
                let mut connections = JoinSet::new();
                loop {
                    let (stream, _) = listener.accept().await.expect("a connection");
                    connections.spawn(serve(stream, Arc::clone(&state), Arc::clone(&noted)));
                    while connections.try_join_next().is_some() {}
                }
            }
        });
        Self { address, state, seen, acceptor }
    }

    pub fn url(&self) -> String {
        format!("http://{}/api/v1/write", self.address)
    }

    /// What is stored.
    pub fn stored(&self) -> Stored {
        self.state.lock().unwrap().stored.clone()
    }

    /// All requests so far.
    pub fn requests(&self) -> Vec<Received> {
        self.state.lock().unwrap().requests.clone()
    }

    /// Returns once `is_so` holds for what is stored.
    pub async fn until(&self, what: &str, is_so: impl Fn(&Stored) -> bool) {
        let mut seen = self.seen.clone();
        patiently(what, async {
            loop {
                seen.borrow_and_update();
                if is_so(&self.stored()) {
                    return;
                }
                seen.changed().await.expect("the receiver works");
            }
        })
        .await;
    }

    /// Returns once there were `count` requests.
    pub async fn until_requests(&self, count: usize) {
        let mut seen = self.seen.clone();
        let enough = async { drop(seen.wait_for(|seen| *seen >= count).await.expect("the receiver works")) };
        patiently("requests", enough).await;
    }
}

impl Drop for ScriptedReceiver {
    fn drop(&mut self) {
        self.acceptor.abort();
    }
}

async fn serve(mut stream: TcpStream, state: Arc<Mutex<State>>, noted: Arc<watch::Sender<usize>>) {
    let mut buffer = Vec::new();
    // A client that leaves is no failure.
    while let Some((head, body)) = read_request(&mut stream, &mut buffer).await {
        let action = {
            let mut state = state.lock().unwrap();
            let number = state.requests.iter().filter(|request| !request.is_empty()).count();
            let request = request(number, &head, &body);
            let State { rule, requests, stored } = &mut *state;
            let action = rule(&request, stored);
            if action.stores {
                for (labels, samples) in &request.series {
                    stored.entry(labels.clone()).or_default().extend(samples.iter().copied());
                }
            }
            requests.push(request);
            action
        };
        noted.send_modify(|seen| *seen += 1);
        if let Some(gate) = &action.gate {
            gate.cancelled().await;
        }
        let written = match action.pace {
            None => stream.write_all(&action.answer).await,
            Some(pace) => {
                async {
                    for byte in &action.answer {
                        tokio::time::sleep(pace).await;
                        stream.write_all(&[*byte]).await?;
                    }
                    Ok(())
                }
                .await
            }
        };
        if written.is_err() || action.cuts {
            return;
        }
    }
}

/// Returns the head and the body of the next request; `None` if the client leaves.
async fn read_request(stream: &mut TcpStream, buffer: &mut Vec<u8>) -> Option<(String, Vec<u8>)> {
    loop {
        if let Some(end) = buffer.windows(4).position(|window| window == b"\r\n\r\n") {
            let head = String::from_utf8(buffer[..end].to_vec()).expect("a head of ASCII");
            let lower = head.to_ascii_lowercase();
            // A scrape has none.
            let length = lower.lines().find_map(|line| line.strip_prefix("content-length:")).unwrap_or("0");
            let length: usize = length.trim().parse().expect("a length");
            if buffer.len() >= end + 4 + length {
                let body = buffer[end + 4..end + 4 + length].to_vec();
                buffer.drain(..end + 4 + length);
                return Some((head, body));
            }
        }
        if stream.read_buf(buffer).await.ok()? == 0 {
            return None;
        }
    }
}

fn request(number: usize, head: &str, body: &[u8]) -> Received {
    let mut lines = head.lines();
    let target = lines.next().unwrap().split(' ').nth(1).unwrap().to_owned();
    let headers = lines.filter_map(|line| line.split_once(':'));
    let headers = headers.map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned())).collect();
    let is_valid = body != NO_REQUEST;
    let series = if is_valid && !body.is_empty() { decoded(body) } else { Decoded::new() };
    Received { number, target, headers, body_bytes: body.len(), is_valid, series }
}
