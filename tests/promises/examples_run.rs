//! Each example runs as it is, does what it says, and ends when asked to.
//!
//! Cargo builds the examples where it is asked for all tests; for this file alone, `cargo build --examples` comes first.

use std::io::{BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use crate::support::scrape::Scrape;
use crate::support::{PATIENCE, patiently};
use rustix::process::{Pid, Signal, kill_process};
use session_buddy_bridge::internals::demo::{DemoFeed, DemoSettings};
use tokio_util::sync::CancellationToken;

/// Where cargo puts the examples: beside the directory of the tests.
fn directory() -> PathBuf {
    let test = std::env::current_exe().unwrap();
    test.parent().and_then(Path::parent).expect("a test lies in target/PROFILE/deps").join("examples")
}

/// A running example that does not outlive its test.
struct Example {
    child: Child,
    stdout: BufReader<ChildStdout>,
}

impl Example {
    /// Starts one that ends by itself before anybody waits for it too long.
    fn start(name: &str, args: &[&str]) -> Self {
        let program = directory().join(name);
        let mut command = Command::new(&program);
        command.arg("--seconds").arg(PATIENCE.as_secs().to_string()).args(args);
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap_or_else(|error| {
            panic!("{}: {error}; `cargo test` builds it, or `cargo build --examples`", program.display())
        });
        let stdout = BufReader::new(child.stdout.take().unwrap());
        Self { child, stdout }
    }

    /// What it said up to the first line that holds `wanted`.
    fn says(&mut self, wanted: &str) -> String {
        let mut said = String::new();
        while !said.contains(wanted) {
            assert_ne!(self.stdout.read_line(&mut said).unwrap(), 0, "{wanted:?} did not come after:\n{said}");
        }
        said
    }

    /// The address in the URL of its metrics.
    fn address(&mut self) -> SocketAddr {
        let said = self.says("/metrics");
        let (before, _) = said.split_once("/metrics").unwrap();
        before.rsplit_once("http://").and_then(|(_, address)| address.parse().ok()).expect("an address")
    }

    fn interrupt(self) -> String {
        kill_process(Pid::from_child(&self.child), Signal::INT).expect("it runs");
        self.ends()
    }

    /// What it still said, once it has ended well.
    fn ends(mut self) -> String {
        let mut rest = String::new();
        self.stdout.read_to_string(&mut rest).unwrap();
        assert!(self.child.wait().unwrap().success(), "{rest}");
        rest
    }
}

impl Drop for Example {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Scrapes until `wanted` is there.
fn scrape_until(address: SocketAddr, wanted: impl Fn(&Scrape) -> bool) -> Scrape {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let scrape = Scrape::fetch(address, "/metrics");
        if wanted(&scrape) {
            return scrape;
        }
        assert!(Instant::now() < deadline, "waited in vain; last: {scrape:?}");
        thread::sleep(Duration::from_millis(20));
    }
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
