//! The program ends as its help says: 0 when asked to, 1 when it fails, and it says why.

use std::fs::File;
use std::net::TcpListener;
use std::path::Path;
use std::process::{Command, Output};

use crate::support::program::{Ended, Program};
use crate::support::{in_repository, port_9090};
use rustix::process::Signal;

/// A port at which hardly anybody ever listens; whether somebody does is no matter here.
const NO_SERVER: &str = "ws://127.0.0.1:1";

#[test]
fn a_signal_ends_it_cleanly() {
    for signal in [Signal::TERM, Signal::INT] {
        let mut bridge = Program::start(["--feed.url", NO_SERVER, "--web.listen-address", "127.0.0.1:0"]);
        // Which of the two comes first is up to the scheduler.
        let complaint = bridge.until_stderr("a complaint", |log| log.contains("level=warn")).to_owned();
        bridge.until_stderr("the address", |log| log.contains("msg=listening"));
        assert!(!complaint.contains("suppressed"), "nothing was held back yet: {complaint}");
        bridge.signal(signal);
        let Ended { code, stderr, .. } = bridge.end();
        assert_eq!(code, Some(0), "{stderr}");
    }
}

#[test]
fn an_address_in_use_is_a_failure_that_names_it() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    // The service logs its failure, the command for people prints it.
    for (command, mark) in [("run", "level=error"), ("demo", "error: ")] {
        let Ended { code, stderr: said, .. } = Program::start([command, "--web.listen-address", &address]).end();
        assert_eq!(code, Some(1), "{command}: {said}");
        assert!(said.contains(&address) && said.contains(mark), "{command}: {said}");
    }
}

#[test]
fn the_demo_moves_from_a_taken_port_and_says_what_to_try() {
    port_9090::occupy();
    let mut demo = Program::start(["demo"]);
    let guide = demo.until_stdout("the guide", |guide| guide.contains("Ctrl-C ends it.")).to_owned();
    assert!(guide.contains("127.0.0.1:9090 is in use"), "{guide}");
    assert!(
        guide.contains("Metrics: http://127.0.0.1:") && !guide.contains("Metrics: http://127.0.0.1:9090/"),
        "{guide}"
    );
    let so_far = demo.until_stderr("a live feed", |log| log.contains("msg=live feed=ws://127.0.0.1:")).len();
    demo.signal(Signal::INT);
    let Ended { code, stderr, .. } = demo.end();
    assert_eq!(code, Some(0), "{stderr}");
    let rest = &stderr[so_far..];
    assert!(rest.contains("code=shutdown") && !rest.contains("level=warn"), "{rest}");
}

#[test]
fn a_state_that_is_not_there_yet_is_a_failure_that_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state.db");
    for command in [&["show"][..], &["forget", "ws://localhost:8765/"], &["rename", "ws://localhost:8765/", "laptop"]] {
        let args = [&["state"], command, &["--state.path", path.to_str().unwrap()]].concat();
        let Ended { code, stderr: said, .. } = Program::start(args).end();
        assert_eq!(code, Some(1), "{said}");
        assert!(
            said.contains(&format!("there is no state file at {}: a bridge creates one", path.display())),
            "{said}"
        );
        assert_eq!(folder.path().read_dir().unwrap().count(), 0, "{command:?} left something behind");
    }
}

#[test]
fn a_variable_that_is_none_is_named_without_its_value() {
    let environment = [
        ("SESSION_BUDDY_BRIDGE_FEED_URLS", "ws://misspelt:1"),
        ("SESSION_BUDDY_BRIDGE_FEED_URL", NO_SERVER),
        ("SESSION_BUDDY_BRIDGE_FEED_TOKEN", "token"),
        ("SESSION_BUDDY_BRIDGE_FEED_JWT_SECRET", "secret"),
        ("SESSION_BUDDY_BRIDGE_HEALTHCHECK_URL", "http://127.0.0.1:1/"),
        ("PATH", "/"),
    ];
    let said = Program::start_in(&environment, ["replay", "no/such/recording.ndjson"]).end().stderr;
    let warnings: Vec<_> = said.lines().filter(|line| line.contains("level=warn")).collect();
    let [warning] = warnings[..] else { panic!("not one warning: {said}") };
    assert!(warning.ends_with(" variable=SESSION_BUDDY_BRIDGE_FEED_URLS"), "{warning}");
    assert!(!said.contains("misspelt"), "{said}");
}

#[test]
fn a_recording_that_is_not_there_is_a_failure_that_names_it() {
    let Ended { code, stderr: said, .. } = Program::start(["replay", "no/such/recording.ndjson"]).end();
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("no/such/recording.ndjson"), "{said}");
}

/// Runs the bridge with the content of a file as its standard input.
fn with_input(file: &Path, args: &[&str]) -> Output {
    let program = env!("CARGO_BIN_EXE_session-buddy-bridge");
    Command::new(program).args(args).env_clear().stdin(File::open(file).unwrap()).output().unwrap()
}

#[test]
fn a_dash_is_standard_input_where_a_recording_is_read() {
    let recording = in_repository("tests/recordings/steady.ndjson");
    for command in ["replay", "explain"] {
        let (of_file, of_input) =
            (Program::start([command, recording.to_str().unwrap()]).end(), with_input(&recording, &[command, "-"]));
        assert_eq!((of_file.code, of_input.status.code()), (Some(0), Some(0)));
        assert!(of_file.stdout.len() > 100, "{}", of_file.stdout);
        assert_eq!(of_file.stdout, String::from_utf8(of_input.stdout).unwrap());
        let refused = with_input(&in_repository("Cargo.toml"), &[command, "-"]);
        assert_eq!(refused.status.code(), Some(1));
        let stderr = String::from_utf8(refused.stderr).unwrap();
        assert!(stderr.starts_with("error: standard input: line 1 is not a line of a recording"), "{stderr}");
    }
}

#[test]
fn every_command_that_ends_by_itself_prints_its_failure_as_an_error() {
    let gone = "/nowhere/at.all";
    for args in [
        &["check", NO_SERVER][..],
        &["check", NO_SERVER, "--json"],
        &["explain", gone],
        &["record", gone, "--feed.url", NO_SERVER],
        &["replay", gone],
        &["report", "--feed.skills-db", gone],
        &["backfill", "--feed.skills-db", gone, "--until", "2026-01-01T00:00:00Z"],
        &["healthcheck", "http://127.0.0.1:1/-/healthy"],
        &["state", "show", "--state.path", gone],
        &["state", "forget", "1", "--state.path", gone],
        &["state", "rename", "a", "b", "--state.path", gone],
    ] {
        let Ended { code, stderr, .. } = Program::start(args.iter().copied()).end();
        assert_eq!(code, Some(1), "{args:?}: {stderr}");
        let lines: Vec<&str> = stderr.lines().collect();
        assert!(matches!(lines[..], [line] if line.starts_with("error: ")), "{args:?}: {stderr}");
    }
}
