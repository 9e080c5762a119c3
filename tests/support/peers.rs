//! The real programs that tests run the bridge beside, and the bridge itself as a program.
//!
//! `.ci/install-peers` installs them. Where one is missing, `find_or_skip` says why on standard error and the test passes
//! by returning; with `SESSION_BUDDY_BRIDGE_REQUIRE_PEERS=1` it fails.

pub mod bridge;
pub mod containers;
pub mod holding_proxy;
pub mod maintained_server;
pub mod node;
pub mod numbers;
pub mod prometheus;
pub mod received;
pub mod receivers;
pub mod session_buddy;

use std::fs::OpenOptions;
use std::io::Write;
use std::path::PathBuf;

use super::in_repository;

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
    skip(&reason);
    None
}

/// Says why the test is skipped, and appends that to the file `SESSION_BUDDY_BRIDGE_SKIPPED`, which `.ci/run` shows at its end.
pub fn skip(reason: &str) {
    let test = std::thread::current().name().unwrap_or("test").to_owned();
    let line = format!("{test} skipped: {}\n", reason.trim_end());
    // Not eprintln!: the test harness swallows what that prints when the test passes.
    let _ = std::io::stderr().write_all(line.as_bytes());
    if let Some(path) = std::env::var_os("SESSION_BUDDY_BRIDGE_SKIPPED") {
        let file = OpenOptions::new().create(true).append(true).open(path);
        file.and_then(|mut file| file.write_all(line.as_bytes())).expect("the skipped test can be recorded");
    }
}

/// Where `.ci/install-peers` puts what it installs.
pub fn peers_directory() -> PathBuf {
    match std::env::var_os("SESSION_BUDDY_BRIDGE_PEERS_DIR") {
        Some(directory) => directory.into(),
        None => in_repository("target/peers"),
    }
}
