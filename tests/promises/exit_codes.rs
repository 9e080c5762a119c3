//! The program ends as its help says: 0 when asked to, 1 when it fails, and it says why.

use std::io::{BufRead, BufReader, Read};
use std::net::TcpListener;
use std::process::{Child, ChildStderr, ChildStdout, Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};

/// A running program that does not outlive its test.
struct Program {
    child: Child,
    stdout: BufReader<ChildStdout>,
    stderr: BufReader<ChildStderr>,
}

impl Program {
    fn start(args: &[&str]) -> Self {
        Self::start_in(&[], args)
    }

    fn start_in(environment: &[(&str, &str)], args: &[&str]) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_session-buddy-bridge"))
            .args(args)
            .env_clear()
            .envs(environment.iter().copied())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the program starts");
        let stdout = BufReader::new(child.stdout.take().unwrap());
        let stderr = BufReader::new(child.stderr.take().unwrap());
        Self { child, stdout, stderr }
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).expect("the program runs");
    }

    /// The exit code and what was still to be read from standard error.
    fn end(mut self) -> (Option<i32>, String) {
        let mut rest = String::new();
        self.stderr.read_to_string(&mut rest).unwrap();
        (self.child.wait().unwrap().code(), rest)
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Reads until a line holds `wanted`, and returns everything read.
fn read_until(from: &mut impl BufRead, wanted: &str) -> String {
    let mut read = String::new();
    while !read.contains(wanted) {
        assert_ne!(from.read_line(&mut read).unwrap(), 0, "{wanted:?} did not come after:\n{read}");
    }
    read
}

/// A port at which hardly anybody ever listens; whether somebody does is no matter here.
const NO_SERVER: &str = "ws://127.0.0.1:1";

#[test]
fn a_signal_ends_it_cleanly() {
    for signal in [Signal::TERM, Signal::INT] {
        let mut bridge = Program::start(&["--feed.url", NO_SERVER, "--web.listen-address", "127.0.0.1:0"]);
        // Which of the two comes first is up to the scheduler.
        let complaint = read_until(&mut bridge.stderr, "level=warn");
        if !complaint.contains("msg=listening") {
            read_until(&mut bridge.stderr, "msg=listening");
        }
        assert!(!complaint.contains("suppressed"), "nothing was held back yet: {complaint}");
        bridge.signal(signal);
        let (code, rest) = bridge.end();
        assert_eq!(code, Some(0), "{rest}");
    }
}

#[test]
fn an_address_in_use_is_a_failure_that_names_it() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    // The service logs its failure, the command for people prints it.
    for (command, mark) in [("run", "level=error"), ("demo", "error: ")] {
        let (code, said) = Program::start(&[command, "--web.listen-address", &address]).end();
        assert_eq!(code, Some(1), "{command}: {said}");
        assert!(said.contains(&address) && said.contains(mark), "{command}: {said}");
    }
}

#[test]
fn the_demo_moves_from_a_taken_port_and_says_what_to_try() {
    // Whether this takes the port or finds it taken, it is taken.
    let _taken = TcpListener::bind("127.0.0.1:9090");
    let mut demo = Program::start(&["demo"]);
    let guide = read_until(&mut demo.stdout, "Ctrl-C ends it.");
    assert!(guide.contains("127.0.0.1:9090 is in use"), "{guide}");
    assert!(
        guide.contains("Metrics: http://127.0.0.1:") && !guide.contains("Metrics: http://127.0.0.1:9090/"),
        "{guide}"
    );
    read_until(&mut demo.stderr, "msg=live feed=ws://127.0.0.1:");
    demo.signal(Signal::INT);
    let (code, rest) = demo.end();
    assert_eq!(code, Some(0), "{rest}");
    assert!(rest.contains("code=shutdown") && !rest.contains("level=warn"), "{rest}");
}

#[test]
fn a_state_that_is_not_there_yet_is_a_failure_that_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state.db");
    for command in [&["show"][..], &["forget", "ws://localhost:8765/"]] {
        let args = [&["state"], command, &["--state.path", path.to_str().unwrap()]].concat();
        let (code, said) = Program::start(&args).end();
        assert_eq!(code, Some(1), "{said}");
        assert!(said.contains(&format!("there is no state at {} yet; a bridge makes one", path.display())), "{said}");
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
    let (_, said) = Program::start_in(&environment, &["replay", "no/such/recording.ndjson"]).end();
    let warnings: Vec<_> = said.lines().filter(|line| line.contains("level=warn")).collect();
    let [warning] = warnings[..] else { panic!("not one warning: {said}") };
    assert!(warning.ends_with(" variable=SESSION_BUDDY_BRIDGE_FEED_URLS"), "{warning}");
    assert!(!said.contains("misspelt"), "{said}");
}

#[test]
fn a_recording_that_is_not_there_is_a_failure_that_names_it() {
    let (code, said) = Program::start(&["replay", "no/such/recording.ndjson"]).end();
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("no/such/recording.ndjson"), "{said}");
}
