//! How the program behaves as a process: signals, exit codes, files, standard output, and what its log never holds.

use std::fs;
use std::io::{ErrorKind, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use crate::support::certificates::Authority;
use crate::support::clogged::Clogged;
use crate::support::expected_families::expected_families;
use crate::support::http_client;
use crate::support::model::{Database, Invocation};
use crate::support::program::{Ended, Program};
use crate::support::running_bridge::{FAMILIES, families};
use crate::support::scrape::{Scrape, Series};
use crate::support::scripted_feed::{Gate, ScriptedFeed, Step};
use crate::support::{eventually, eventually_async, holds, port_9090};
use rustix::process::Signal;

/// The promise: within this time of a signal it has ended, whatever it waits for.
const PROMISED: Duration = Duration::from_secs(5);

const SIGNALS: [Signal; 2] = [Signal::TERM, Signal::INT];

fn run(feed_url: &str) -> Program {
    Program::start(["--feed.url", feed_url, "--web.listen-address", "127.0.0.1:0", "--log.level", "debug"])
}

fn end_cleanly(program: Program, signal: Signal) -> Ended {
    program.signal(signal);
    let ended = program.end_within(PROMISED);
    assert_eq!(ended.code, Some(0), "{signal:?}: {}", ended.stderr);
    ended
}

fn until_live(address: SocketAddr) {
    eventually("a live feed", || {
        let answer = http_client::get(address, "/-/ready");
        holds(answer.status == 200, answer.text())
    });
}

/// Three invocations, two of them completed.
fn database() -> Database {
    let mut database = Database::default();
    for duration_seconds in [Some(1.0), Some(3.0), None] {
        database.invocations.push(Invocation {
            skill_name: "pytest-run".to_owned(),
            workflow_phase: None,
            completed: duration_seconds.is_some(),
            duration_seconds,
        });
    }
    database
}

fn live_feed() -> ScriptedFeed {
    let connected = Step::send(r#"{"type": "connected", "authenticated": false}"#);
    ScriptedFeed::start(vec![vec![connected, Step::send(database().snapshot(1))]])
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_signal_ends_it_while_it_connects() {
    let clogged = Clogged::new().await;
    for signal in SIGNALS {
        let mut program = run(clogged.url().as_str());
        program.until_stderr("an attempt", |log| log.contains("connecting"));
        end_cleanly(program, signal);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_signal_ends_it_in_the_handshake() {
    let server = ScriptedFeed::start(vec![vec![Step::StallHandshake]]);
    for (attempt, signal) in (1..).zip(SIGNALS) {
        let program = run(server.url().as_str());
        server.connected(attempt).await;
        end_cleanly(program, signal);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_signal_ends_it_in_backoff() {
    // Refused, so that the next attempt is half a minute away at least.
    let server = ScriptedFeed::start(vec![vec![Step::HttpStatus(401, vec![])]]);
    for signal in SIGNALS {
        let mut program = run(server.url().as_str());
        program.until_stderr("a refusal", |log| log.contains("code=http_401"));
        end_cleanly(program, signal);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_signal_ends_it_while_it_is_live_and_the_server_is_told() {
    let server = live_feed();
    for (attempt, signal) in (1..).zip(SIGNALS) {
        let mut program = run(server.url().as_str());
        until_live(program.address());
        end_cleanly(program, signal);
        let visit = server.visited(attempt, "the goodbye", |visit| visit.close_code.is_some()).await;
        assert_eq!(visit.close_code, Some(1001));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_signal_ends_it_in_spite_of_scrapers_that_hang() {
    let server = live_feed();
    for signal in SIGNALS {
        let mut program = run(server.url().as_str());
        let address = program.address();
        let mut slow = http_client::Connection::open(address);
        slow.send(b"GET /metrics HTTP/1.1\r\nHost: ");
        let _deaf = asks_and_never_reads(address);
        until_live(address);
        end_cleanly(program, signal);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_signal_ends_it_while_it_is_flooded() {
    let flood = vec![Step::IgnorePings, Step::Flood(usize::MAX, database().snapshot(1))];
    let server = ScriptedFeed::start(vec![flood]);
    for signal in SIGNALS {
        let mut program = run(server.url().as_str());
        until_live(program.address());
        end_cleanly(program, signal);
    }
}

/// The signals that the process has handlers of, as Linux shows them.
fn caught(program: &Program) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", program.id())).unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigCgt:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or_default()
}

#[test]
fn sighup_never_ends_it_once_it_receives_signals() {
    let is_caught = |caught: u64, signal: Signal| caught >> (signal.as_raw() - 1) & 1 == 1;
    for _ in 0..10 {
        let mut program = run("ws://127.0.0.1:1");
        eventually("a handler of SIGHUP", || {
            let caught = caught(&program);
            // It is the first, so that none is missed while settings are read and the state is opened.
            assert!(is_caught(caught, Signal::HUP) || !is_caught(caught, Signal::TERM), "{caught:x}");
            holds(is_caught(caught, Signal::HUP), caught)
        });
        program.signal(Signal::HUP);
        program.until_stderr("an answer to SIGHUP", |log| log.contains("reload ignored"));
        end_cleanly(program, Signal::TERM);
    }
}

#[test]
fn sighup_never_ends_it_where_its_launcher_ignores_the_signal() {
    for _ in 0..5 {
        let mut command = Command::new("sh");
        command.args([
            "-c",
            "trap '' HUP; echo ignored; exec \"$0\" \"$@\"",
            env!("CARGO_BIN_EXE_session-buddy-bridge"),
        ]);
        command.args(["--feed.url", "ws://127.0.0.1:1", "--web.listen-address", "127.0.0.1:0", "--state.disabled"]);
        let mut program = Program::spawn("the bridge", command.env_clear());
        program.until_stdout("the shell", |printed| printed.contains("ignored"));
        // While the shell runs, while the program is loaded, and once it receives the signal.
        eventually("an answer to SIGHUP", || {
            program.signal(Signal::HUP);
            holds(program.stderr().contains("reload ignored"), "no answer")
        });
        end_cleanly(program, Signal::TERM);
    }
}

#[test]
fn too_few_file_descriptors_are_a_failure_that_says_so() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    // With 3 it cannot be loaded.
    for limit in 4..24 {
        let script = format!("ulimit -n {limit}; exec \"$0\" \"$@\"");
        let mut command = Command::new("sh");
        command.args(["-c", &script, env!("CARGO_BIN_EXE_session-buddy-bridge")]);
        command.args(["--web.listen-address", &address, "--state.disabled"]).env_clear();
        let ended = Program::spawn("the bridge", &mut command).end();
        assert_eq!(ended.code, Some(1), "{limit}: {}", ended.stderr);
        let causes = ["too few file descriptors", "the address is in use"];
        assert!(causes.iter().any(|cause| ended.stderr.contains(cause)), "{limit}: {}", ended.stderr);
    }
}

/// A client that asks until the server reads no more, because its answers are not taken in.
fn asks_and_never_reads(address: SocketAddr) -> TcpStream {
    let mut client = TcpStream::connect(address).unwrap();
    client.set_write_timeout(Some(Duration::from_millis(300))).unwrap();
    let requests = "GET /metrics HTTP/1.1\r\nHost: test\r\n\r\n".repeat(100);
    loop {
        match client.write(requests.as_bytes()) {
            Ok(_) => {}
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => return client,
            Err(error) => panic!("the server hung up: {error}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_serves_on_where_nobody_reads_its_log() {
    let refusing = ScriptedFeed::start(vec![vec![Step::Refuse]]);
    let mut program = run(refusing.url().as_str());
    let address = program.address();
    program.close_stderr();
    // Each attempt is logged, at the level `debug` in several lines.
    let attempts = refusing.visits().len();
    refusing.connected(attempts + 3).await;
    assert_eq!(http_client::get(address, "/-/healthy").status, 200);
    end_cleanly(program, Signal::TERM);
}

#[test]
fn an_address_in_use_is_exit_code_1_and_is_named() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let ended = Program::start(["--web.listen-address", &address]).end();
    assert_eq!(ended.code, Some(1), "{}", ended.stderr);
    assert!(ended.stderr.contains(&format!("{address}: the address is in use")), "{}", ended.stderr);
    assert!(!ended.stderr.contains("Prometheus"), "{}", ended.stderr);

    port_9090::occupy();
    let ended = Program::start(["--web.listen-address", "127.0.0.1:9090"]).end();
    assert_eq!(ended.code, Some(1), "{}", ended.stderr);
    assert!(ended.stderr.contains("9090 is also Prometheus's own default port"), "{}", ended.stderr);
}

#[test]
fn what_is_refused_at_the_start_is_exit_code_2() {
    for (args, complaint) in [
        (["--feed.url", "http://localhost:8765"], "did you mean \"ws://localhost:8765/\"?"),
        (["--feed.silence-timeout", "10"], "write for example 10s"),
        (["--no-such-flag", "1"], "--no-such-flag"),
        (["replay", "--feed.skill="], "--feed.skill"),
        (["--config.file", "/dev/zero"], "not a regular file"),
        (["--web.config.file", "/dev/zero"], "not a regular file"),
    ] {
        let ended = Program::start(args).end();
        assert_eq!((ended.code, ended.stdout.as_str()), (Some(2), ""), "{args:?}: {}", ended.stderr);
        assert!(ended.stderr.starts_with("error: ") && ended.stderr.contains(complaint), "{args:?}: {}", ended.stderr);
    }
    let environment = [("SESSION_BUDDY_BRIDGE_LOG_LEVEL", "loud")];
    let ended = Program::start_in(&environment, []).end();
    assert_eq!(ended.code, Some(2));
    assert!(ended.stderr.contains("SESSION_BUDDY_BRIDGE_LOG_LEVEL"), "{}", ended.stderr);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_record_writes_replay_folds_into_the_same_bytes_each_time() {
    let directory = tempfile::tempdir().unwrap();
    let (timed, signalled) = (directory.path().join("timed.ndjson"), directory.path().join("signalled.ndjson"));
    let server = live_feed();
    let url = server.url();
    let record = |file: &Path, seconds| {
        Program::start(["record", file.to_str().unwrap(), "--seconds", seconds, "--feed.url", url.as_str()])
    };

    let ended = record(&timed, "1").end();
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    let program = record(&signalled, "86400");
    let recorded = || fs::read_to_string(&signalled).unwrap_or_default().lines().count();
    eventually_async("three lines", async || holds(recorded() >= 3, recorded())).await;
    end_cleanly(program, Signal::INT);

    let mut down = expected_families(&[&database()], []);
    down.insert(Series::new("active_sessions_total", &[]), 0.0);
    for file in [&timed, &signalled] {
        let replay = || Program::start(["replay", file.to_str().unwrap()]).end();
        let (once, again) = (replay(), replay());
        assert_eq!((once.code, again.code), (Some(0), Some(0)), "{}", once.stderr);
        assert_eq!(once.stdout, again.stdout);
        assert_eq!(families(&Scrape::parse(&once.stdout).unwrap()), down, "{file:?}");
    }

    let before = fs::read(&timed).unwrap();
    let ended = record(&timed, "1").end();
    assert_eq!(ended.code, Some(1), "{}", ended.stderr);
    let refusal = format!("{}: the file exists already: choose another name or delete it", timed.display());
    assert!(ended.stderr.contains(&refusal), "{}", ended.stderr);
    assert_eq!(fs::read(&timed).unwrap(), before, "an existing recording was touched");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_recording_of_nothing_is_a_failure_and_leaves_no_file() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("nothing.ndjson");
    let refusing = ScriptedFeed::start(vec![vec![Step::HttpStatus(401, vec![])]]);
    let silent = ScriptedFeed::start(vec![vec![Step::Await(Gate::default())]]);
    for (server, why) in [(&refusing, "HTTP 401"), (&silent, "it is connected and silent")] {
        let url = server.url();
        let ended =
            Program::start(["record", file.to_str().unwrap(), "--seconds", "1", "--feed.url", url.as_str()]).end();
        assert_eq!(ended.code, Some(1), "{}", ended.stderr);
        let last = ended.stderr.lines().last().unwrap_or_default();
        assert!(last.contains(&format!("nothing was received from the feed {url}")) && last.contains(why), "{last}");
        assert!(
            ended.stderr.lines().rev().skip(1).all(|line| line.contains(&format!(" feed={url}"))),
            "{}",
            ended.stderr
        );
        assert!(!file.exists());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn record_leaves_a_frozen_feed_as_the_bridge_does() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("frozen.ndjson");
    let server = ScriptedFeed::start(vec![vec![Step::Repeat(database().snapshot(1), Duration::from_millis(20))]]);
    let url = server.url();
    let args = ["record", file.to_str().unwrap(), "--seconds", "86400", "--feed.url", url.as_str()];
    let mut program = Program::start(args.into_iter().chain(["--feed.silence-timeout", "1s"]));
    program.until_stderr("a frozen feed", |log| log.contains("code=frozen"));
    end_cleanly(program, Signal::TERM);
}

#[test]
fn replay_says_what_is_no_recording() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("bad.ndjson");
    let good = r#"{"at_seconds": 5.5, "event": "open"}"#;
    let not_utf8 = [good.as_bytes(), b"\n{\"at_seconds\": 6, \"frame\": \"\xff\"}\n"].concat();
    for (bytes, complaint) in [
        (Vec::new(), "the recording is empty"),
        (b"\n  \n".to_vec(), "the recording is empty"),
        (not_utf8, "line 2 is not a line of a recording (it is not UTF-8): {\"at_seconds\": 6"),
        (
            format!("{good}\n{{\"at_seconds\": 3, \"event\": \"close\"}}").into_bytes(),
            "line 2 is not a line of a recording (`at_seconds` should not be less than the 5.5 of the line before)",
        ),
        (
            format!("{good}\n{good}\nnonsense").into_bytes(),
            "line 3 is not a line of a recording (expected ident at column 2)",
        ),
    ] {
        fs::write(&file, &bytes).unwrap();
        let ended = Program::start(["replay", file.to_str().unwrap()]).end();
        assert_eq!((ended.code, ended.stdout.as_str()), (Some(1), ""), "{}", ended.stderr);
        let said = ended.stderr.replace("\\\"", "\"");
        assert!(said.contains(complaint), "{complaint}: {said}");
    }
}

#[test]
fn replay_sums_what_it_has_to_say() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("garbage.ndjson");
    let garbage = "{\"at_seconds\": 1, \"frame\": \"garbage\"}\n";
    fs::write(&file, garbage.repeat(1000)).unwrap();
    let ended = Program::start(["replay", file.to_str().unwrap()]).end();
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    let lines: Vec<_> = ended.stderr.lines().collect();
    assert!(matches!(lines[..], [line] if line.contains("suppressed=999")), "{}", ended.stderr);
}

#[test]
fn replay_names_the_file_and_the_line_that_is_bad() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("bad.ndjson");
    let good = r#"{"at_seconds": 0.5, "event": "open"}"#;
    for bad in ["nonsense", r#"{"at_seconds": -1, "event": "open"}"#, r#"{"at_seconds": 1}"#] {
        fs::write(&file, format!("{good}\n\n{bad}\n{good}\n")).unwrap();
        let ended = Program::start(["replay", file.to_str().unwrap()]).end();
        assert_eq!((ended.code, ended.stdout.as_str()), (Some(1), ""), "{bad}: {}", ended.stderr);
        let named = ended.stderr.contains(file.to_str().unwrap()) && ended.stderr.contains("line 3");
        assert!(named, "{bad}: {}", ended.stderr);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_recording_holds_the_token() {
    const TOKEN: &str = "hunter2secret";
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("feed.ndjson");
    let server = ScriptedFeed::start(vec![vec![Step::send(format!("bad token {TOKEN}"))]]);
    let url = server.url();
    let args = ["record", file.to_str().unwrap(), "--seconds", "1", "--feed.url", url.as_str()];
    let ended = Program::start_in(&[("SESSION_BUDDY_BRIDGE_FEED_TOKEN", TOKEN)], args).end();
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    let recorded = fs::read_to_string(&file).unwrap();
    assert!(recorded.contains("bad token ***") && !recorded.contains(TOKEN), "{recorded}");
    assert!(!ended.stderr.contains(TOKEN), "{}", ended.stderr);
}

#[test]
fn the_demo_prints_a_url_that_answers_with_all_five_families() {
    let mut demo = Program::start(["demo", "--web.listen-address", "127.0.0.1:0"]);
    let url = |guide: &str| guide.lines().find_map(|line| Some(line.split_once("Metrics: http://")?.1.to_owned()));
    let guide = demo.until_stdout("the guide", |guide| guide.contains("Ctrl-C"));
    let url = url(guide).expect("a URL for the metrics");
    let (address, path) = url.split_once('/').unwrap();
    let address = address.parse().unwrap();
    eventually("a series of each family", || {
        let scrape = Scrape::fetch(address, &format!("/{path}"));
        let has_series = |family: &str| scrape.samples.keys().any(|series| series.name.starts_with(family));
        let missing: Vec<_> = FAMILIES.into_iter().filter(|family| !has_series(family)).collect();
        assert!(FAMILIES.iter().all(|family| scrape.families.contains_key(*family)));
        holds(missing.is_empty(), format!("no series of {missing:?}"))
    });
    end_cleanly(demo, Signal::INT);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_log_no_page_and_no_state_holds_a_secret() {
    const TOKEN: &str = "eyJhbGciOiJIUzI1NiJ9.token-text";
    const QUERY: &str = "query-secret";
    const JWT_SECRET: &str = "jwt-secret of more than thirty-two bytes";
    const HEADER: &str = "header-secret";
    /// What every token starts with, the minted ones too.
    const ANY_TOKEN: &str = "eyJ";

    let directory = tempfile::tempdir().unwrap();
    let written = |name: &str, text: &str| {
        let file = directory.path().join(name);
        fs::write(&file, text).unwrap();
        file.to_str().unwrap().to_owned()
    };
    let token_file = written("token", &format!("{TOKEN}\n"));
    let jwt_secret_file = written("jwt-secret", &format!("{JWT_SECRET}\n"));
    let headers_file = written("headers", &format!("Authorization: Bearer {HEADER}\n"));
    let authority = Authority::new("the authority");
    let ca_file = authority.file(directory.path());
    let client = authority.client("client", directory.path());
    let key = fs::read_to_string(&client.key).unwrap().lines().nth(1).expect("a line of the key").to_owned();

    let sources = [
        (TOKEN, &[("SESSION_BUDDY_BRIDGE_FEED_TOKEN", TOKEN)][..], &[][..]),
        (TOKEN, &[], &["--feed.token-file", &token_file]),
        ("", &[("SESSION_BUDDY_BRIDGE_FEED_JWT_SECRET", JWT_SECRET)], &[]),
        ("", &[], &["--feed.jwt-secret-file", &jwt_secret_file]),
    ];
    for (round, (token, environment, token_args)) in sources.into_iter().enumerate() {
        for format in ["logfmt", "json"] {
            let refuse = Gate::default();
            let script = vec![
                Step::expect(move |text| text.contains(ANY_TOKEN) && text.contains(token)),
                Step::send(r#"{"type": "connected", "authenticated": true}"#),
                Step::send(database().snapshot(1)),
                Step::send(format!("garbage: no {HEADER} and no {token}")),
                Step::Await(refuse.clone()),
                Step::Close(4001, format!("no longer valid: {HEADER} {token}")),
            ];
            let server = ScriptedFeed::start_encrypted(authority.server(Some(&authority)), vec![script]);
            let url = server.url().join(&format!("?key={QUERY}")).unwrap();
            let state = tempfile::tempdir().unwrap();
            let state_path = state.path().join("state.db");
            let path = |path: &Path| path.to_str().unwrap().to_owned();
            let (ca_file, cert_file, key_file) = (path(&ca_file), path(&client.certificate), path(&client.key));
            let (state_path, listen) = (path(&state_path), "127.0.0.1:0");
            let args = ["--feed.url", url.as_str(), "--web.listen-address", listen, "--state.path", &state_path];
            let level = ["--log.level", "trace", "--log.format", format];
            let files = ["--feed.headers-file", &headers_file, "--feed.ca-file", &ca_file];
            let identity = ["--feed.cert-file", &cert_file, "--feed.key-file", &key_file];
            let args = args.into_iter().chain(level).chain(files).chain(identity).chain(token_args.iter().copied());
            let mut program = Program::start_in(environment, args);
            let address = program.address();
            until_live(address);
            refuse.open();
            program.until_stderr("the refusal", |log| log.contains("4001") && log.contains("next attempt"));
            let ready = http_client::get(address, "/-/ready").text().to_owned();
            let landing = http_client::get(address, "/").text().to_owned();
            let metrics = http_client::get(address, "/metrics").text().to_owned();
            let ended = end_cleanly(program, Signal::TERM);

            let visit = &server.visits()[0];
            assert!(visit.headers.contains(&("authorization".to_owned(), format!("Bearer {HEADER}"))), "{visit:?}");
            let heard_of_all = ended.stderr.to_lowercase().contains("trace") && ended.stderr.contains("garbage");
            assert!(heard_of_all, "{format}: {}", ended.stderr);
            assert!(ready.contains("no longer valid: ***"), "{ready}");
            let kept = fs::read_dir(state.path()).unwrap().map(|entry| fs::read(entry.unwrap().path()).unwrap());
            let kept: Vec<String> = kept.map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).collect();
            assert!(kept.iter().any(|text| text.contains("pytest-run")), "nothing was kept");
            let shown = [ended.stderr, ended.stdout, ready, landing, metrics];
            for text in shown.iter().chain(&kept) {
                for secret in [ANY_TOKEN, "token-text", QUERY, JWT_SECRET, HEADER, &key] {
                    assert!(!text.contains(secret), "source {round}, {format}: {secret} in {text}");
                }
            }
        }
    }
}
