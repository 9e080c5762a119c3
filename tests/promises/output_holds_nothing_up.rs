//! Whatever becomes of a command's output, the command ends as it should: a reader that does not read holds up the feed and
//! no signal, one that closes the pipe is served, and a full device is a failure that says so.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, PipeReader, PipeWriter, Read, Write, pipe};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use crate::support::in_repository;
use crate::support::patiently;
use crate::support::program::Program;
use crate::support::scrape::Scrape;
use crate::support::scripted_feed::{Gate, ScriptedFeed, Step};

const PROGRAM: &str = env!("CARGO_BIN_EXE_session-buddy-bridge");

/// A signal ends a command within this time, whatever its output waits for.
const PROMISED: Duration = Duration::from_secs(5);

const CONNECTED: &str = r#"{"type": "connected", "authenticated": false}"#;

fn snapshot(invocations: usize) -> String {
    let skill = serde_json::json!({
        "skill_name": "a", "total_invocations": invocations, "completion_rate": 100.0, "avg_duration_seconds": 2.0,
    });
    serde_json::json!({ "type": "metrics_update", "data": { "top_skills": [skill], "anomalies": [] } }).to_string()
}

fn sound_feed() -> ScriptedFeed {
    ScriptedFeed::start(vec![vec![Step::send(CONNECTED), Step::Repeat(snapshot(3), Duration::from_millis(20))]])
}

/// A feed that counts up as fast as it can, 32 KiB each, and how many it has sent.
fn flood() -> (ScriptedFeed, Arc<AtomicUsize>) {
    let sent = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&sent);
    let ballast = "b".repeat(32 * 1024);
    let frame = move || {
        let number = counter.fetch_add(1, Ordering::Relaxed);
        let data = serde_json::json!({ "count": number });
        serde_json::json!({ "type": "active_sessions", "data": data, "ballast": ballast }).to_string()
    };
    let rounds = Step::rounds(&Gate::default(), Duration::ZERO, frame);
    (ScriptedFeed::start(vec![vec![Step::send(CONNECTED), rounds]]), sent)
}

/// How many frames were sent once no more are for a while, in which a busy machine would have sent one.
async fn stalled(sent: &AtomicUsize) -> usize {
    /// Far more than every buffer between the feed and the reader holds.
    const TOO_MANY: usize = 10_000;
    let (mut before, mut rests) = (0, 0);
    while before == 0 || rests < 3 {
        tokio::time::sleep(Duration::from_millis(500)).await;
        let now = sent.load(Ordering::Relaxed);
        assert!(now < TOO_MANY, "{now} frames were taken in, and nobody reads");
        rests = if now == before { rests + 1 } else { 0 };
        before = now;
    }
    before
}

fn explain(url: &str) -> (Program, PipeReader) {
    let (reader, writer) = pipe().unwrap();
    (Program::start_onto(writer, ["explain", "--feed.url", url, "--seconds", "86400"]), reader)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn explain_holds_up_the_feed_while_nobody_reads_and_loses_nothing() {
    let (feed, sent) = flood();
    let (program, reader) = explain(feed.url().as_str());
    let taken_in = patiently("a feed that is held up", stalled(&sent)).await;

    // Whoever begins to read gets every frame in order, over the one connection, and the feed goes on.
    let read = tokio::task::spawn_blocking(move || {
        let lines = BufReader::new(reader).lines().map(Result::unwrap);
        let mut counts = lines.filter_map(|line| Some(line.split_once(" s  active_sessions: ")?.1.to_owned()));
        for number in 0..taken_in + 100 {
            assert_eq!(counts.next(), Some(number.to_string()));
        }
        counts
    });
    let _still_open = patiently("more frames than were taken in", read).await.unwrap();
    assert!(sent.load(Ordering::Relaxed) > taken_in);
    program.signal(Signal::TERM);
    assert_eq!(program.end_within(PROMISED).code, Some(0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_signal_ends_explain_while_nobody_reads() {
    for signal in [Signal::TERM, Signal::INT] {
        let (feed, sent) = flood();
        let (program, _reader) = explain(feed.url().as_str());
        patiently("a feed that is held up", stalled(&sent)).await;
        program.signal(signal);
        let ended = program.end_within(PROMISED);
        assert_eq!(ended.code, Some(0), "{}", ended.stderr);
        assert!(ended.stderr.contains("standard output is not read"), "{}", ended.stderr);
    }
}

/// Signals until the program ends, which it does not do by the first one at once: its feed reads no close frame.
fn exit_code_after_signals(mut program: Program, signal: Signal) -> Option<i32> {
    program.signal(signal);
    while !program.has_ended() {
        std::thread::sleep(Duration::from_millis(20));
        program.signal(signal);
    }
    program.end().code
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_signal_ends_every_command_at_once() {
    let silent = || vec![Step::send(CONNECTED), Step::IgnorePings, Step::Await(Gate::default())];
    let server = ScriptedFeed::start(std::iter::repeat_with(silent).take(100).collect());
    let url = server.url();
    let (url, free) = (url.as_str(), "127.0.0.1:0");
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("feed.ndjson").to_str().unwrap().to_owned();
    let mut connections = 0;
    for args in [
        &["run", "--feed.url", url, "--web.listen-address", free][..],
        &["check", "--feed.url", url, "--seconds", "3600"],
        &["explain", "--feed.url", url, "--seconds", "86400"],
        &["record", &file, "--feed.url", url, "--seconds", "86400"],
    ] {
        for (signal, exit_code) in [(Signal::TERM, 143), (Signal::INT, 130)] {
            // On a machine that is busy enough the first signal may end it before the second comes.
            let mut attempts = 0..10;
            let ends_at_once = loop {
                if attempts.next().is_none() {
                    break false;
                }
                let _ = fs::remove_file(&file);
                let program = Program::start(args.iter().copied());
                connections += 1;
                server.connected(connections).await;
                let ended = tokio::task::spawn_blocking(move || exit_code_after_signals(program, signal));
                match ended.await.unwrap() {
                    Some(code) if code == exit_code => break true,
                    Some(0 | 1) => {}
                    other => panic!("{args:?}: {other:?}"),
                }
            };
            assert!(ends_at_once, "{args:?} {signal:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_signal_that_comes_twice_at_once_is_one_request() {
    // As `timeout` sends it: to the process, and to its group.
    let server = sound_feed();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("feed.ndjson");
    let url = server.url();
    let program = Program::start(["record", file.to_str().unwrap(), "--feed.url", url.as_str(), "--seconds", "86400"]);
    let recorded = async {
        while fs::read_to_string(&file).unwrap_or_default().lines().count() < 3 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    patiently("three lines", recorded).await;
    program.signal(Signal::TERM);
    program.signal(Signal::TERM);
    let ended = program.end_within(PROMISED);
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn record_writes_every_frame_that_it_counts_however_it_is_flooded() {
    let (feed, sent) = flood();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("feed.ndjson");
    let url = feed.url();
    let program = Program::start(["record", file.to_str().unwrap(), "--feed.url", url.as_str(), "--seconds", "86400"]);
    let flooded = async {
        while sent.load(Ordering::Relaxed) < 1000 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    patiently("a thousand frames", flooded).await;
    program.signal(Signal::TERM);
    let ended = program.end_within(PROMISED);
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    let recorded = fs::read_to_string(&file).unwrap();
    let lines: Vec<serde_json::Value> = recorded.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let frames = lines.iter().filter(|line| line["frame"].is_string()).count();
    assert!(ended.stderr.contains(&format!("frames={frames} ")), "{frames} frames: {}", ended.stderr);
    assert_eq!(lines.last().unwrap()["event"], "close");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_that_takes_no_more_ends_the_recording_with_its_error() {
    let feed = sound_feed();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("feed.ndjson");
    // A limit on the size of files, of a few kilobytes, in place of a disk that is full.
    let script = "trap '' XFSZ; ulimit -f 4; exec \"$0\" \"$@\"";
    let url = feed.url().to_string();
    let mut command = Command::new("sh");
    command.args(["-c", script, PROGRAM, "record", file.to_str().unwrap(), "--feed.url", &url, "--seconds", "60"]);
    let ended = tokio::task::spawn_blocking(move || command.output().unwrap());
    let ended = patiently("the end", ended).await.unwrap();
    let stderr = String::from_utf8(ended.stderr).unwrap();
    assert_eq!(ended.status.code(), Some(1), "{stderr}");
    let last = stderr.lines().last().unwrap_or_default();
    assert!(last.starts_with(&format!("error: {}: ", file.display())) && last.contains("too large"), "{stderr}");
}

/// The commands that print and end by themselves, but for `check`.
fn printing(folder: &tempfile::TempDir) -> Vec<Vec<String>> {
    let recording = in_repository("tests/recordings/steady.ndjson").display().to_string();
    let state = folder.path().join("state.db").display().to_string();
    let mut commands: Vec<Vec<&str>> = vec![
        vec!["--help"],
        vec!["-h"],
        vec!["--version"],
        vec!["man"],
        vec!["completions", "bash"],
        vec!["replay", &recording],
        vec!["explain", &recording],
        vec!["state", "show", "--state.path", &state],
    ];
    for command in ["run", "demo", "check", "explain", "record", "replay", "healthcheck", "state", "state show"] {
        commands.push(command.split(' ').chain(["--help"]).collect());
    }
    commands.into_iter().map(|args| args.into_iter().map(str::to_owned).collect()).collect()
}

fn output(program: &str, args: &[String], stdout: impl Into<Stdio>) -> (Option<i32>, String) {
    let mut command = Command::new(program);
    let Output { status, stderr, .. } =
        command.args(args).env_clear().stdin(Stdio::null()).stdout(stdout).output().unwrap();
    (status.code(), String::from_utf8(stderr).unwrap())
}

/// The writing end of a pipe whose reader is gone.
fn closed_pipe() -> PipeWriter {
    pipe().unwrap().1
}

fn full_device() -> File {
    File::options().write(true).open("/dev/full").unwrap()
}

/// A folder with a state file in it.
fn folder_with_state() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state.db");
    let mut program = Program::start([
        "--state.path",
        path.to_str().unwrap(),
        "--feed.url",
        "ws://127.0.0.1:1",
        "--web.listen-address",
        "127.0.0.1:0",
    ]);
    program.address();
    program.signal(Signal::TERM);
    assert_eq!(program.end().code, Some(0));
    folder
}

#[test]
fn a_reader_that_has_read_enough_is_served() {
    let folder = folder_with_state();
    for args in printing(&folder) {
        assert_eq!(output(PROGRAM, &args, closed_pipe()), (Some(0), String::new()), "{args:?}");
    }
}

#[test]
fn output_that_cannot_be_written_is_a_failure_that_says_so() {
    let folder = folder_with_state();
    for args in printing(&folder) {
        let (code, stderr) = output(PROGRAM, &args, full_device());
        assert_eq!(code, Some(1), "{args:?}: {stderr}");
        assert!(stderr.starts_with("error: cannot write to standard output: No space left"), "{args:?}: {stderr}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_output_of_a_live_feed_is_no_different() {
    let feed = sound_feed();
    let url = feed.url().to_string();
    for command in [&["check", "--seconds", "10"][..], &["explain", "--seconds", "86400"]] {
        let args: Vec<String> = command.iter().copied().chain(["--feed.url", &url]).map(str::to_owned).collect();
        let on_closed_pipe = tokio::task::spawn_blocking({
            let args = args.clone();
            move || output(PROGRAM, &args, closed_pipe())
        });
        let (code, stderr) = patiently("the end", on_closed_pipe).await.unwrap();
        assert_eq!((code, stderr.contains("error")), (Some(0), false), "{args:?}: {stderr}");
        let on_full_device = tokio::task::spawn_blocking(move || (output(PROGRAM, &args, full_device()), args));
        let ((code, stderr), args) = patiently("the end", on_full_device).await.unwrap();
        assert_eq!(code, Some(1), "{args:?}: {stderr}");
        assert!(stderr.contains("error: cannot write to standard output: No space left"), "{args:?}: {stderr}");
    }
}

#[test]
fn the_demo_goes_on_whatever_becomes_of_its_guide() {
    for stdout in [Stdio::from(closed_pipe()), Stdio::from(full_device())] {
        let mut demo = Program::start_onto(stdout, ["demo", "--web.listen-address", "127.0.0.1:0"]);
        demo.until_stderr("the feed to be live", |log| log.contains("msg=live"));
        demo.signal(Signal::INT);
        let ended = demo.end_within(PROMISED);
        assert_eq!(ended.code, Some(0), "{}", ended.stderr);
        assert!(!ended.stderr.contains("panic"), "{}", ended.stderr);
    }
}

/// A pipe that is full already, and its reader.
fn full_pipe() -> (PipeReader, PipeWriter) {
    let (reader, writer) = pipe().unwrap();
    let mut filler = writer.try_clone().unwrap();
    // Blocks once the pipe is full, until its reader is gone.
    std::thread::spawn(move || filler.write_all(&vec![b'.'; 16 << 20]));
    (reader, writer)
}

/// What a bridge that serves at a Unix socket answers, if it does with 200.
fn get(socket: &Path, path: &str) -> Option<String> {
    let mut stream = UnixStream::connect(socket).ok()?;
    write!(stream, "GET {path} HTTP/1.0\r\nHost: localhost\r\n\r\n").ok()?;
    let mut response = String::new();
    stream.read_to_string(&mut response).ok()?;
    let (head, body) = response.split_once("\r\n\r\n")?;
    head.split(' ').nth(1).filter(|status| *status == "200")?;
    Some(body.to_owned())
}

/// Whether a bridge that serves at a Unix socket is healthy.
fn is_healthy(socket: &Path) -> bool {
    get(socket, "/-/healthy").is_some()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_that_is_stuck_holds_up_neither_service_nor_end() {
    let folder = tempfile::tempdir().unwrap();
    let (socket, file) = (folder.path().join("bridge.sock"), folder.path().join("feed.ndjson"));
    let feed = sound_feed();
    let url = feed.url().to_string();
    let listen = format!("unix:{}", socket.display());
    let run = ["run", "--feed.url", &url, "--web.listen-address", &listen, "--log.level", "debug", "--state.disabled"];
    let record = ["record", file.to_str().unwrap(), "--feed.url", &url, "--seconds", "86400", "--log.level", "debug"];
    let has_recorded = || fs::read_to_string(&file).unwrap_or_default().lines().count() >= 3;
    let works: [(&[&str], &dyn Fn() -> bool); 2] = [(&run, &|| is_healthy(&socket)), (&record, &has_recorded)];
    for (args, works) in works {
        let (reader, writer) = full_pipe();
        let mut program =
            Command::new(PROGRAM).args(args).env_clear().stdout(Stdio::null()).stderr(writer).spawn().unwrap();
        let working = async {
            while !works() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        patiently("a program that works", working).await;
        kill_process(Pid::from_child(&program), Signal::TERM).unwrap();
        let ended = tokio::task::spawn_blocking(move || program.wait().unwrap());
        let ended = tokio::time::timeout(PROMISED, ended).await.expect("it ends in time").unwrap();
        assert_eq!(ended.code(), Some(0), "{args:?}");
        drop(reader);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dropped_log_lines_are_counted_and_reported_once_somebody_reads() {
    // Twice what the queue and the pipe hold, at the level at which each message is a line.
    let flood = Step::Flood(30_000, snapshot(1));
    let feed = ScriptedFeed::start(vec![vec![Step::send(CONNECTED), flood, Step::Await(Gate::default())]]);
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("bridge.sock");
    let (reader, writer) = pipe().unwrap();
    let (url, listen) = (feed.url().to_string(), format!("unix:{}", socket.display()));
    let args = ["--feed.url", &url, "--web.listen-address", &listen, "--log.level", "trace", "--state.disabled"];
    let mut program =
        Command::new(PROGRAM).args(args).env_clear().stdout(Stdio::null()).stderr(writer).spawn().unwrap();
    let counted = async {
        loop {
            let scrape = get(&socket, "/metrics").map(|text| Scrape::parse(&text).unwrap());
            let dropped = scrape.and_then(|scrape| scrape.value("session_buddy_bridge_log_lines_dropped_total", &[]));
            if let Some(dropped @ 1.0..) = dropped {
                return dropped;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let counted = patiently("dropped lines", counted).await;
    let reported = tokio::task::spawn_blocking(move || {
        let mut lines = BufReader::new(reader).lines().map(Result::unwrap);
        let report = lines.find(|line| line.contains("log lines dropped")).expect("a report");
        let (_, reported) = report.split_once(" lines=").expect("a number");
        (reported.parse::<f64>().unwrap(), lines)
    });
    let (reported, _still_open) = patiently("the report", reported).await.unwrap();
    assert!(reported >= counted, "{reported} are reported and {counted} were counted before");
    kill_process(Pid::from_child(&program), Signal::TERM).unwrap();
    assert_eq!(program.wait().unwrap().code(), Some(0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_command_that_cannot_say_why_it_failed_ends_after_a_signal() {
    let silent = ScriptedFeed::start(vec![vec![Step::Await(Gate::default())]]);
    let folder = tempfile::tempdir().unwrap();
    let (url, file) = (silent.url().to_string(), folder.path().join("feed.ndjson"));
    let args = ["record", file.to_str().unwrap(), "--feed.url", &url, "--seconds", "1"];
    let (reader, writer) = full_pipe();
    let mut program =
        Command::new(PROGRAM).args(args).env_clear().stdout(Stdio::null()).stderr(writer).spawn().unwrap();
    // It has recorded nothing, which it cannot print.
    silent.visited(1, "the end", |visit| visit.is_over).await;
    kill_process(Pid::from_child(&program), Signal::TERM).unwrap();
    let ended = tokio::task::spawn_blocking(move || program.wait().unwrap());
    assert_eq!(patiently("its end", ended).await.unwrap().code(), Some(1));
    drop(reader);
}
