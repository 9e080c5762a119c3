//! The service tells systemd when it listens, that it lives and when it ends, and its unit is one that systemd takes.

use std::fs;
use std::os::unix::net::UnixDatagram;
use std::process::Command;
use std::time::Duration;

use crate::support::http_client::{self, PATIENCE};
use crate::support::peers::{found_or_skip, in_repository};
use crate::support::program::Program;
use crate::support::scripted_feed::Reserved;
use rustix::process::Signal;

struct Manager {
    socket: UnixDatagram,
    path: String,
    _folder: tempfile::TempDir,
}

impl Manager {
    fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notify").display().to_string();
        let socket = UnixDatagram::bind(&path).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        Self { socket, path, _folder: folder }
    }

    fn told(&self) -> String {
        let mut buffer = [0; 512];
        let length = self.socket.recv(&mut buffer).expect("something is told");
        String::from_utf8(buffer[..length].to_vec()).unwrap()
    }
}

fn start(environment: &[(&str, &str)], feed: &Reserved) -> Program {
    let url = feed.url().to_string();
    Program::start_in(environment, ["--state.disabled", "--feed.url", &url, "--web.listen-address=127.0.0.1:0"])
}

#[tokio::test(flavor = "multi_thread")]
async fn systemd_is_told_of_the_beginning_of_life_and_of_the_end() {
    let (manager, feed) = (Manager::start(), Reserved::new());
    let mut program = start(&[("NOTIFY_SOCKET", &manager.path), ("WATCHDOG_USEC", "100000")], &feed);
    assert_eq!(manager.told(), "READY=1\n");
    let address = program.address();
    assert_eq!(http_client::get(address, "/-/healthy").status, 200);
    for _ in 0..3 {
        assert_eq!(manager.told(), "WATCHDOG=1\n");
    }
    program.signal(Signal::TERM);
    let last = loop {
        let told = manager.told();
        if told != "WATCHDOG=1\n" {
            break told;
        }
    };
    assert_eq!(last, "STOPPING=1\n");
    assert_eq!(program.end_within(Duration::from_secs(5)).code, Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_told_too_early_and_nothing_needs_to_be_told() {
    // An address that is taken: it never listens, so it is never ready.
    let (manager, feed) = (Manager::start(), Reserved::new());
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let listen = format!("--web.listen-address={}", taken.local_addr().unwrap());
    let url = feed.url().to_string();
    let arguments = ["--state.disabled", "--feed.url", &url, &listen];
    let ended = Program::start_in(&[("NOTIFY_SOCKET", &manager.path)], arguments).end_within(PATIENCE);
    assert_eq!(ended.code, Some(1));
    manager.socket.set_nonblocking(true).unwrap();
    assert!(manager.socket.recv(&mut [0; 16]).is_err());

    let mut program = start(&[("NOTIFY_SOCKET", "/nowhere/at/all")], &feed);
    assert_eq!(http_client::get(program.address(), "/-/healthy").status, 200);
    program.signal(Signal::TERM);
    let ended = program.end_within(Duration::from_secs(5));
    assert_eq!(ended.code, Some(0));
    assert!(ended.stderr.contains("the service manager cannot be told"), "{}", ended.stderr);
}

#[test]
fn the_unit_is_one_that_systemd_takes() {
    let found = match Command::new("systemd-analyze").arg("--version").output() {
        Ok(_) => Ok(()),
        Err(error) => Err(format!("no systemd-analyze ({error}): run .ci/install-peers")),
    };
    let Some(()) = found_or_skip(found) else { return };
    let unit = fs::read_to_string(in_repository("deploy/systemd/session-buddy-bridge.service")).unwrap();
    // Where the package puts the program and its manual there is nothing on this machine.
    let installed = "ExecStart=/usr/bin/session-buddy-bridge";
    let manual = "Documentation=man:session-buddy-bridge(1)\n";
    assert!(unit.contains(installed) && unit.contains(manual));
    let here =
        unit.replace(installed, concat!("ExecStart=", env!("CARGO_BIN_EXE_session-buddy-bridge"))).replace(manual, "");
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("session-buddy-bridge.service");
    fs::write(&path, here).unwrap();
    let output = Command::new("systemd-analyze").arg("verify").arg(&path).output().unwrap();
    let said = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
    let of_this: Vec<&str> = said.lines().filter(|line| line.contains("session-buddy-bridge")).collect();
    assert!(output.status.success() && of_this.is_empty(), "{said}");
}

#[test]
fn completions_and_manual_come_from_the_command_line_itself() {
    let printed = |arguments: &[&str]| {
        let output = Command::new(env!("CARGO_BIN_EXE_session-buddy-bridge")).args(arguments).output().unwrap();
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    for shell in ["bash", "zsh", "fish"] {
        let script = printed(&["completions", shell]);
        assert!(script.contains("feed.silence-timeout") && script.contains("healthcheck"), "{shell}");
    }
    let folder = tempfile::tempdir().unwrap();
    let script = folder.path().join("completions.bash");
    fs::write(&script, printed(&["completions", "bash"])).unwrap();
    let completed = "source \"$0\"; words=$(complete -p session-buddy-bridge); words=${words#*-F }; \
                     COMP_WORDS=(session-buddy-bridge --web.te); COMP_CWORD=1; \
                     ${words%% *} session-buddy-bridge --web.te session-buddy-bridge; echo \"${COMPREPLY[@]}\"";
    let output = Command::new("bash").args(["-c", completed]).arg(&script).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), "--web.telemetry-path", "{output:?}");

    let manual = printed(&["man"]);
    assert!(manual.contains(".TH session-buddy-bridge 1"), "{manual}");
    for words in ["feed.jwt\\-secret\\-file", "SESSION_BUDDY_BRIDGE_STATE_PATH", "Exit codes"] {
        assert!(manual.contains(words), "{words}\n{manual}");
    }
}
