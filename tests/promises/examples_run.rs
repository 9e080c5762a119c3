//! Each example runs as it is, does what it says, and ends when asked to.
//!
//! Cargo builds the examples where it is asked for all tests; for this file alone, `cargo build --examples` comes first.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::support::program::Program;
use crate::support::scrape::Scrape;
use crate::support::{PATIENCE, eventually, patiently};
use rustix::process::Signal;
use session_buddy_bridge::internals::demo::{DemoFeed, DemoSettings};
use tokio_util::sync::CancellationToken;

/// Where cargo puts the examples: beside the directory of the tests.
fn directory() -> PathBuf {
    let test = std::env::current_exe().unwrap();
    test.parent().and_then(Path::parent).expect("a test lies in target/PROFILE/deps").join("examples")
}

/// A running example.
struct Example {
    program: Program,
    /// How much of its standard output was looked at.
    read: usize,
}

impl Example {
    /// Starts one that ends by itself before anybody waits for it too long.
    fn start(name: &str, args: &[&str]) -> Self {
        let path = directory().join(name);
        assert!(path.is_file(), "there is no {}; `cargo test` builds it, or `cargo build --examples`", path.display());
        let mut command = Command::new(path);
        command.arg("--seconds").arg(PATIENCE.as_secs().to_string()).args(args);
        Self { program: Program::spawn(name, &mut command), read: 0 }
    }

    /// What it said since the last call, up to the first line that holds `wanted`.
    fn says(&mut self, wanted: &str) -> String {
        let read = self.read;
        let said = self.program.until_stdout(wanted, |said| said[read..].contains(wanted))[read..].to_owned();
        self.read += said.len();
        said
    }

    /// The address in the URL of its metrics.
    fn address(&mut self) -> SocketAddr {
        let said = self.says("/metrics");
        let (before, _) = said.split_once("/metrics").unwrap();
        before.rsplit_once("http://").and_then(|(_, address)| address.parse().ok()).expect("an address")
    }

    fn interrupt(self) -> String {
        self.program.signal(Signal::INT);
        self.ends()
    }

    /// What it still said, once it has ended well.
    fn ends(self) -> String {
        let ended = self.program.end();
        assert!(ended.is_success(), "{}", ended.printed());
        ended.stdout[self.read..].to_owned()
    }
}

/// Scrapes until `wanted` is there.
fn scrape_until(address: SocketAddr, wanted: impl Fn(&Scrape) -> bool) -> Scrape {
    eventually("what the example shows", || {
        let scrape = Scrape::fetch(address, "/metrics");
        if wanted(&scrape) { Ok(scrape) } else { Err(format!("{scrape:?}")) }
    })
}

#[test]
fn an_example_ends_by_itself_if_asked() {
    for name in ["embedded_bridge", "sample_metrics", "sqlite_storage"] {
        Example::start(name, &["--port", "0", "--seconds", "0.01"]).ends();
    }
}

#[test]
fn help_is_help_and_not_the_name_of_a_file() {
    for name in ["embedded_bridge", "print_feed", "sample_metrics", "sqlite_storage"] {
        let folder = tempfile::tempdir().unwrap();
        let mut command = Command::new(directory().join(name));
        let output = command.arg("--help").current_dir(folder.path()).output().unwrap();
        let stdout = String::from_utf8(output.stdout).unwrap();
        assert!(
            output.status.success() && stdout.contains("Usage:") && stdout.contains("--seconds"),
            "{name}: {stdout}"
        );
        assert_eq!(folder.path().read_dir().unwrap().count(), 0, "{name} created a file");
    }
}

/// Runs an example whose reader is gone before it prints, and returns what it reports.
fn on_closed_pipe(name: &str, args: &[&str]) -> String {
    let (_, writer) = std::io::pipe().unwrap();
    let output = Command::new(directory().join(name)).args(args).stdout(writer).output().unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{name}: {:?}: {stderr}", output.status);
    stderr
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_that_has_read_enough_is_no_failure() {
    for name in ["embedded_bridge", "sample_metrics", "sqlite_storage"] {
        assert_eq!(on_closed_pipe(name, &["--port", "0", "--seconds", "0.01"]), "", "{name}");
    }
    let feed = DemoFeed::bind(DemoSettings::default()).await.unwrap();
    let url = feed.url();
    let shutdown = CancellationToken::new();
    let serving = tokio::spawn(feed.serve(shutdown.clone()));
    let printing = tokio::task::spawn_blocking(move || on_closed_pipe("print_feed", &[&url]));
    assert_eq!(patiently("the end of print_feed", printing).await.unwrap(), "");
    shutdown.cancel();
    patiently("the end of the feed", serving).await.unwrap();
}

#[test]
fn sample_metrics_shows_what_it_says() {
    let mut example = Example::start("sample_metrics", &["--port", "0"]);
    let scrape = Scrape::fetch(example.address(), "/metrics");
    assert_eq!(scrape.sum("skill_invocations_total"), 6.0);
    assert_eq!(scrape.sum("skill_duration_seconds_count"), 5.0);
    assert_eq!(scrape.value("skill_completion_rate", &[("skill_name", "pytest-run")]), Some(0.92));
    assert_eq!(scrape.sum("anomalies_detected_total"), 2.0);
    assert_eq!(scrape.value("active_sessions_total", &[]), Some(3.0));
    example.interrupt();
}

#[test]
fn sqlite_storage_goes_on_where_it_ended() {
    let directory = tempfile::tempdir().unwrap();
    let store = directory.path().join("skills.db");
    let args = [store.to_str().unwrap(), "--port", "0"];
    let invocations = |scrape: &Scrape| scrape.sum("skill_invocations_total");

    let mut example = Example::start("sqlite_storage", &args);
    let seen = invocations(&scrape_until(example.address(), |scrape| invocations(scrape) >= 2.0));
    let said = example.interrupt();
    let stored: f64 = said.lines().last().and_then(|line| line.split(' ').next()?.parse().ok()).expect("a number");
    assert!(stored >= seen, "{stored} are stored, but {seen} were shown");

    let mut example = Example::start("sqlite_storage", &args);
    scrape_until(example.address(), |scrape| invocations(scrape) > stored);
    example.interrupt();
}

#[test]
fn embedded_bridge_bridges_its_own_server() {
    let mut example = Example::start("embedded_bridge", &["--port", "0"]);
    let scrape = scrape_until(example.address(), |scrape| scrape.sum("skill_invocations_total") > 0.0);
    assert_eq!(scrape.sum("session_buddy_bridge_feed_up"), 1.0);
    assert_eq!(scrape.value("example_starts_total", &[]), Some(1.0));
    example.interrupt();
}

#[tokio::test(flavor = "multi_thread")]
async fn print_feed_tells_what_a_server_sends() {
    let feed = DemoFeed::bind(DemoSettings::default()).await.unwrap();
    let url = feed.url();
    let shutdown = CancellationToken::new();
    let serving = tokio::spawn(feed.serve(shutdown.clone()));

    let listening = tokio::task::spawn_blocking(move || {
        let mut example = Example::start("print_feed", &[&url]);
        assert_eq!(example.says("\n"), "connected\n");
        let said = example.says("pytest-run: ");
        assert!(said.contains(" invocations, ") && said.contains(" % completed, "), "{said}");
        example.says("anomaly: ");
        example
    });
    let example = patiently("the words of print_feed", listening).await.unwrap();
    shutdown.cancel();
    patiently("the end of the feed", serving).await.unwrap();
    let said = patiently("the end of print_feed", tokio::task::spawn_blocking(|| example.ends())).await.unwrap();
    assert!(said.ends_with("the server closed the connection\n"), "{said}");
}
