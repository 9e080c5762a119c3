//! Asks a running bridge whether it works, for containers that hold no other HTTP client.
//!
//! Architecture invariant: the other side of `http`, over the wire alone. It has no runtime and no thread: the process
//! that asks is started every few seconds.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use thiserror::Error;
use url::{Position, Url};

/// Bytes of an answer that are read: its first line is all that counts.
const ANSWER_BYTES_MAX: usize = 256;

/// Why a health check failed.
#[derive(Debug, Error)]
pub enum HealthcheckError {
    /// The host name has no address.
    #[error("{url}: the host cannot be resolved: {error}")]
    Unresolved {
        /// The URL asked.
        url: String,
        /// What the system said.
        error: io::Error,
    },
    /// Nobody took the connection or gave an answer in time.
    #[error("{url}: no answer from {address}: {error}; is the bridge running, and does it listen there?")]
    NoAnswer {
        /// The URL asked.
        url: String,
        /// The last address tried.
        address: SocketAddr,
        /// What the system said.
        error: io::Error,
    },
    /// An answer other than 200, or one that is no HTTP.
    #[error("{url}: answered \"{}\" where 200 was expected", .answer.escape_debug())]
    Unhealthy {
        /// The URL asked.
        url: String,
        /// The first line of the answer.
        answer: String,
    },
}

/// Sends a GET to `url`, which is `http` and has a host, and returns if the answer is 200. Blocks for `timeout` at the
/// most, beside the time that the system takes to resolve a name.
///
/// # Errors
/// Everything but 200.
pub fn check(url: &Url, timeout: Duration) -> Result<(), HealthcheckError> {
    let deadline = Instant::now() + timeout;
    let unresolved = |error| HealthcheckError::Unresolved { url: url.to_string(), error };
    let mut addresses = url.socket_addrs(|| None).map_err(unresolved)?.into_iter();
    let mut address = addresses.next().ok_or_else(|| unresolved(io::ErrorKind::NotFound.into()))?;
    let answer = loop {
        match (ask(url, address, deadline), addresses.next()) {
            (Ok(answer), _) => break answer,
            // `localhost` has two addresses, and a bridge may listen on either.
            (Err(_), Some(next)) => address = next,
            (Err(error), None) => return Err(HealthcheckError::NoAnswer { url: url.to_string(), address, error }),
        }
    };
    let mut words = answer.split(' ');
    match (words.next(), words.next()) {
        (Some("HTTP/1.1" | "HTTP/1.0"), Some("200")) => Ok(()),
        _ => Err(HealthcheckError::Unhealthy { url: url.to_string(), answer }),
    }
}

/// The first line of the answer.
fn ask(url: &Url, address: SocketAddr, deadline: Instant) -> io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&address, remaining(deadline)?)?;
    let host = &url[Position::BeforeHost..Position::AfterPort];
    let target = &url[Position::BeforePath..Position::AfterQuery];
    stream.set_write_timeout(Some(remaining(deadline)?))?;
    stream.write_all(format!("GET {target} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n").as_bytes())?;
    let mut answer = Vec::new();
    let mut chunk = [0; ANSWER_BYTES_MAX];
    while answer.len() < ANSWER_BYTES_MAX && !answer.contains(&b'\n') {
        stream.set_read_timeout(Some(remaining(deadline)?))?;
        match stream.read(&mut chunk) {
            Ok(0) => break,
            Ok(read) => answer.extend_from_slice(&chunk[..read]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            // What a socket calls the end of its timeout.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Err(io::ErrorKind::TimedOut.into()),
            Err(error) => return Err(error),
        }
    }
    if answer.is_empty() {
        return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the connection was closed without an answer"));
    }
    let line = String::from_utf8_lossy(&answer);
    Ok(line.lines().next().unwrap_or_default().to_owned())
}

/// Never zero, which a socket would refuse.
fn remaining(deadline: Instant) -> io::Result<Duration> {
    let remaining = deadline.saturating_duration_since(Instant::now());
    if remaining.is_zero() { Err(io::ErrorKind::TimedOut.into()) } else { Ok(remaining) }
}
