//! The real programs that tests run the bridge beside, and the bridge itself as a program.
//!
//! `.ci/install-peers` installs them. Where one is missing, `find_or_skip` says why on standard error and the test passes
//! by returning; with `SESSION_BUDDY_BRIDGE_REQUIRE_PEERS=1` it fails.

pub mod bridge;
pub mod node;
pub mod numbers;
pub mod process;
pub mod prometheus;
pub mod session_buddy;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Far beyond what anything awaited here takes on a busy machine: reaching it is a failure.
const PATIENCE: Duration = Duration::from_secs(90);

/// Unwraps a peer, or says why the test is skipped.
///
/// # Panics
/// If the peer is missing and peers are required.
pub fn found_or_skip<T>(peer: Result<T, String>) -> Option<T> {
    let reason = match peer {
        Ok(peer) => return Some(peer),
        Err(reason) => reason,
    };
    let required = std::env::var("SESSION_BUDDY_BRIDGE_REQUIRE_PEERS").is_ok_and(|value| value == "1");
    assert!(!required, "{reason}, and SESSION_BUDDY_BRIDGE_REQUIRE_PEERS=1");
    let test = std::thread::current().name().unwrap_or("test").to_owned();
    // Not eprintln!: the test harness swallows what that prints when the test passes.
    let _ = writeln!(std::io::stderr(), "{test} skipped: {reason}");
    None
}

/// Where `.ci/install-peers` puts what it installs.
pub fn peers_directory() -> PathBuf {
    match std::env::var_os("SESSION_BUDDY_BRIDGE_PEERS_DIR") {
        Some(directory) => directory.into(),
        None => in_repository("target/peers"),
    }
}

/// The absolute path of a file of the repository.
pub fn in_repository(path: impl AsRef<Path>) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// Polls until `look` gives an `Ok`.
///
/// # Panics
/// With the last `Err`, once patience is at its end.
pub fn eventually<T>(awaited: &str, mut look: impl FnMut() -> Result<T, String>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match look() {
            Ok(seen) => return seen,
            Err(instead) if Instant::now() > deadline => panic!("waited in vain for {awaited}: {instead}"),
            Err(_) => std::thread::sleep(Duration::from_millis(50)),
        }
    }
}

/// Status and body of a GET.
///
/// # Errors
/// In words, if there is no whole answer.
pub fn http_get(address: SocketAddr, path: &str) -> Result<(u16, String), String> {
    let exchange = || -> std::io::Result<String> {
        let mut stream = TcpStream::connect_timeout(&address, PATIENCE)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        // HTTP/1.0, so that the answer is neither chunked nor followed by another.
        write!(stream, "GET {path} HTTP/1.0\r\nHost: {address}\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    };
    let answer = exchange().map_err(|error| format!("GET http://{address}{path}: {error}"))?;
    let (head, body) = answer.split_once("\r\n\r\n").ok_or_else(|| format!("GET {path}: no end of head: {answer}"))?;
    let length = head.lines().find_map(|line| line.to_ascii_lowercase().strip_prefix("content-length: ")?.parse().ok());
    if length.is_some_and(|length: usize| length != body.len()) {
        return Err(format!("GET {path}: {} bytes of {length:?}", body.len()));
    }
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
    Ok((status.ok_or_else(|| format!("GET {path}: no status: {head}"))?, body.to_owned()))
}
