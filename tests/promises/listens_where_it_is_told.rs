//! The bridge serves at Unix sockets and at those that systemd passes, and shows its page to no one who was led astray.

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::support::http_client::{Connection, PATIENCE};
use crate::support::program::Program;
use crate::support::served::{MadeUp, Served};
use rustix::process::Signal;
use session_buddy_bridge::internals::http::HttpSettings;

const NO_FEED: &str = "--feed.url=ws://127.0.0.1:9";

fn answer(path: &Path, page: &str) -> String {
    let deadline = Instant::now() + PATIENCE;
    let mut stream = loop {
        match UnixStream::connect(path) {
            Ok(stream) => break stream,
            Err(error) => assert!(Instant::now() < deadline, "{error}"),
        }
        std::thread::sleep(Duration::from_millis(10));
    };
    write!(stream, "GET {page} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

fn start(listen: &str) -> Program {
    Program::start([NO_FEED, "--state.disabled", "--web.listen-address", listen])
}

#[test]
fn a_unix_socket_is_served_and_taken_away_at_the_end() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("bridge.sock");
    for written in [format!("unix:{}", path.display()), format!("unix://{}", path.display())] {
        let program = start(&written);
        assert!(answer(&path, "/-/healthy").starts_with("HTTP/1.1 200 "), "{written}");
        assert!(
            answer(&path, "/metrics").contains("\nskill_invocations_total")
                || answer(&path, "/metrics").contains("active_sessions_total 0")
        );
        assert!(answer(&path, "/").contains("<h1>"));
        program.signal(Signal::TERM);
        assert_eq!(program.end_within(Duration::from_secs(5)).code, Some(0));
        assert!(!path.exists());
    }
}

#[test]
fn what_a_killed_bridge_left_is_replaced_and_nothing_else_is() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("bridge.sock");
    let written = format!("unix:{}", path.display());
    // A dropped listener leaves its file, as a killed process does.
    drop(UnixListener::bind(&path).unwrap());
    let program = start(&written);
    assert!(answer(&path, "/-/healthy").starts_with("HTTP/1.1 200 "));

    let second = start(&written).end_within(PATIENCE);
    assert_eq!(second.code, Some(1));
    assert!(second.stderr.contains("somebody else serves it; choose another path"), "{}", second.stderr);
    assert!(answer(&path, "/-/healthy").starts_with("HTTP/1.1 200 "), "the first goes on");
    drop(program);

    let file = folder.path().join("file");
    fs::write(&file, "precious").unwrap();
    let refused = start(&format!("unix:{}", file.display())).end_within(PATIENCE);
    assert_eq!(refused.code, Some(1));
    assert!(refused.stderr.contains("there is a file that is no socket"), "{}", refused.stderr);
    assert_eq!(fs::read_to_string(&file).unwrap(), "precious");

    let nowhere = start("unix:/nowhere/at/all.sock").end_within(PATIENCE);
    assert!(nowhere.stderr.contains("a path in a folder that this user can write to"), "{}", nowhere.stderr);
}

/// Starts the bridge as systemd would: with what `listen` is bound to as its third descriptor.
fn activated(listen: &str) -> std::process::Child {
    let launcher = "import os, socket, sys
address = sys.argv[1]
family = socket.AF_UNIX if address.startswith('/') else socket.AF_INET
listener = socket.socket(family)
listener.bind(address if family == socket.AF_UNIX else ('127.0.0.1', int(address)))
listener.listen()
os.dup2(listener.fileno(), 3)
os.set_inheritable(3, True)
os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS='1')
os.execv(sys.argv[2], sys.argv[2:])";
    let program = env!("CARGO_BIN_EXE_session-buddy-bridge");
    let arguments = [NO_FEED, "--state.disabled", "--web.systemd-socket"];
    let mut command = Command::new("python3");
    command.args(["-c", launcher, listen, program]).args(arguments).stderr(Stdio::null());
    command.spawn().unwrap()
}

#[test]
fn sockets_that_systemd_passes_are_served() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("activated.sock");
    let mut child = activated(&path.display().to_string());
    assert!(answer(&path, "/-/healthy").starts_with("HTTP/1.1 200 "));
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(path.exists(), "the file is systemd's");

    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let mut child = activated(&port.to_string());
    let deadline = Instant::now() + PATIENCE;
    let address = SocketAddr::from(([127, 0, 0, 1], port));
    while std::net::TcpStream::connect(address).is_err() {
        assert!(Instant::now() < deadline);
        std::thread::sleep(Duration::from_millis(10));
    }
    assert_eq!(crate::support::http_client::get(address, "/-/healthy").status, 200);
    child.kill().unwrap();
    child.wait().unwrap();

    let alone = Program::start([NO_FEED, "--state.disabled", "--web.systemd-socket"]).end_within(PATIENCE);
    assert_eq!(alone.code, Some(1));
    assert!(alone.stderr.contains("systemd passed no socket"), "{}", alone.stderr);
}

#[test]
fn a_browser_that_was_led_here_by_another_name_is_shown_nothing() {
    let server = Served::start(MadeUp::showing(|| "a 1\n".into()), HttpSettings::default());
    let status = |page: &str, host: &str| {
        let mut connection = Connection::open(server.address);
        connection.send(format!("GET {page} HTTP/1.1\r\n{host}Connection: close\r\n\r\n").as_bytes());
        connection.response_to("GET").status
    };
    for host in [
        "localhost",
        "LOCALHOST:9090",
        "localhost.",
        "bridge.localhost:80",
        "127.0.0.1:9090",
        "127.0.0.1",
        "[::1]:9090",
    ] {
        assert_eq!(status("/", &format!("Host: {host}\r\n")), 200, "{host}");
    }
    for host in
        ["evil.example", "evil.example:9090", "localhost.evil.example", "127.0.0.1.evil.example", "notlocalhost", "a b"]
    {
        assert_eq!(status("/", &format!("Host: {host}\r\n")), 421, "{host}");
        // Scrapers call a machine by any name.
        assert_eq!(status("/metrics", &format!("Host: {host}\r\n")), 200, "{host}");
        assert_eq!(status("/-/healthy", &format!("Host: {host}\r\n")), 200, "{host}");
    }
    server.stop();
}
