//! What the tests share.
#![allow(dead_code, reason = "each of the two test binaries uses its own part of this")]

pub mod alone;
pub mod browser;
pub mod certificates;
pub mod clogged;
pub mod database_stage;
pub mod expected_families;
pub mod exposed;
pub mod fault_proxy;
pub mod fuzz_bodies;
pub mod histories;
pub mod http_client;
pub mod journal;
pub mod memory_state;
pub mod model;
pub mod observer;
pub mod peers;
pub mod port_9090;
pub mod program;
pub mod push_queue;
pub mod push_senders;
pub mod recording_listener;
pub mod report_sql;
pub mod rows;
pub mod running_bridge;
pub mod scrape;
pub mod scripted_feed;
pub mod scripted_page;
pub mod scripted_receiver;
pub mod served;
pub mod server_database;
pub mod shown;
pub mod watcher;
pub mod web_site;
pub mod webdriver;
pub mod write_request;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use proptest::test_runner::{Config, FileFailurePersistence};

/// Far longer than anything here takes on a busy machine: it turns a test that hangs into one that fails.
pub const PATIENCE: Duration = Duration::from_secs(90);

/// Awaits `future`, or fails with `what` was missing.
pub async fn patiently<T>(what: &str, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(PATIENCE, future).await {
        Ok(value) => value,
        Err(_) => panic!("waited {PATIENCE:?} in vain for {what}"),
    }
}

/// Polls until `look` returns an `Ok`: for what no event announces. Blocks the thread.
///
/// # Panics
/// With the last `Err`, once patience is at its end.
pub fn eventually<T>(what: &str, mut look: impl FnMut() -> Result<T, String>) -> T {
    let mut polling = Polling::of(what);
    loop {
        match look() {
            Ok(seen) => return seen,
            Err(instead) => std::thread::sleep(polling.pause(&instead)),
        }
    }
}

/// Polls until `condition` holds. Blocks the thread.
///
/// # Panics
/// Once patience is at its end.
pub fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    eventually(what, || holds(condition(), "it does not hold"));
}

/// [`eventually`] for code that awaits. Its future is not `Send`; where it has to be, [`Polling`] does the same.
///
/// # Panics
/// With the last `Err`, once patience is at its end.
pub async fn eventually_async<T>(what: &str, mut look: impl AsyncFnMut() -> Result<T, String>) -> T {
    let mut polling = Polling::of(what);
    loop {
        match look().await {
            Ok(seen) => return seen,
            Err(instead) => tokio::time::sleep(polling.pause(&instead)).await,
        }
    }
}

/// `Ok` if `seen` is `expected`; else an account of the difference, for [`eventually`].
pub fn equal<T: PartialEq + std::fmt::Debug>(seen: &T, expected: &T) -> Result<(), String> {
    if seen == expected { Ok(()) } else { Err(format!("expected {expected:#?}\nfound {seen:#?}")) }
}

/// `Ok` if `condition` holds; else `instead`, for [`eventually`].
pub fn holds(condition: bool, instead: impl std::fmt::Display) -> Result<(), String> {
    if condition { Ok(()) } else { Err(instead.to_string()) }
}

/// One wait by polling: how long to pause, and when to give up.
pub struct Polling<'a> {
    what: &'a str,
    deadline: Instant,
    next_pause: Duration,
}

impl<'a> Polling<'a> {
    /// What comes at once is seen at once; what takes long is not looked at so often that it takes longer.
    const PAUSE_MIN: Duration = Duration::from_millis(4);
    const PAUSE_MAX: Duration = Duration::from_millis(64);

    pub fn of(what: &'a str) -> Self {
        Self { what, deadline: Instant::now() + PATIENCE, next_pause: Self::PAUSE_MIN }
    }

    /// How long to wait before the next look, after one that saw `instead`.
    ///
    /// # Panics
    /// Once patience is at its end.
    pub fn pause(&mut self, instead: &str) -> Duration {
        assert!(Instant::now() < self.deadline, "waited {PATIENCE:?} in vain for {}: {instead}", self.what);
        let pause = self.next_pause;
        self.next_pause = (pause * 2).min(Self::PAUSE_MAX);
        pause
    }
}

/// Whether the long form of the tests is requested, which takes minutes: more kills, more faults, longer runs. The number
/// of cases of a property is another matter: see [`property`].
pub fn is_long() -> bool {
    std::env::var("SESSION_BUDDY_BRIDGE_LONG").is_ok_and(|value| value == "1")
}

/// How properties are tested: with 256 cases, or as many as `PROPTEST_CASES` says, after the regressions that lie beside
/// the test file.
pub fn property() -> Config {
    let beside = FileFailurePersistence::WithSource("regressions");
    Config { failure_persistence: Some(Box::new(beside)), ..Config::default() }
}

/// The absolute path of a file of the repository.
pub fn in_repository(path: impl AsRef<Path>) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}
