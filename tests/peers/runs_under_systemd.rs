//! The service tells systemd when it listens, that it lives and when it ends, serves the sockets that systemd passes, and its
//! unit is one that systemd takes.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use crate::support::peers::{found_or_skip, skip};
use crate::support::program::{Program, run};
use crate::support::scripted_feed::Reserved;
use crate::support::{PATIENCE, http_client, in_repository, wait_until};
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
    assert!(ended.stderr.contains("cannot notify the service manager"), "{}", ended.stderr);
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
    let ended = run(Command::new("systemd-analyze").arg("verify").arg(&path), "");
    let said = ended.printed();
    let of_this: Vec<&str> = said.lines().filter(|line| line.contains("session-buddy-bridge")).collect();
    assert!(ended.is_success() && of_this.is_empty(), "{said}");
}

#[test]
fn completions_and_manual_come_from_the_command_line_itself() {
    let printed = |arguments: &[&str]| {
        let ended = Program::start(arguments.iter().copied()).end();
        assert!(ended.is_success(), "{arguments:?}: {}", ended.stderr);
        ended.stdout
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
    let ended = run(Command::new("bash").args(["-c", completed]).arg(&script), "");
    assert_eq!(ended.stdout.trim(), "--web.telemetry-path", "{ended:?}");

    let manual = printed(&["man"]);
    assert!(manual.contains(".TH session-buddy-bridge 1"), "{manual}");
    for words in ["feed.jwt\\-secret\\-file", "SESSION_BUDDY_BRIDGE_STATE_PATH", "EXIT STATUS"] {
        assert!(manual.contains(words), "{words}\n{manual}");
    }
}

const NO_FEED: &str = "--feed.url=ws://127.0.0.1:9";

/// Starts the bridge as systemd would: with what `listen` is bound to, a path or a port of the loopback interface, as its
/// third descriptor. Returns what it is bound to beside it.
fn activated(listen: &str) -> (Program, String) {
    let launcher = "import os, socket, sys
address = sys.argv[1]
family = socket.AF_UNIX if address.startswith('/') else socket.AF_INET
listener = socket.socket(family)
listener.bind(address if family == socket.AF_UNIX else ('127.0.0.1', int(address)))
listener.listen()
bound = listener.getsockname()
print('bound', bound if family == socket.AF_UNIX else '%s:%d' % bound, flush=True)
os.dup2(listener.fileno(), 3)
os.set_inheritable(3, True)
os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS='1')
os.execv(sys.argv[2], sys.argv[2:])";
    let arguments = [env!("CARGO_BIN_EXE_session-buddy-bridge"), NO_FEED, "--state.disabled", "--web.systemd-socket"];
    let mut command = Command::new("python3");
    command.args(["-c", launcher, listen]).args(arguments);
    let mut program = Program::spawn("the activated bridge", &mut command);
    let bound = program.until_line("what it is bound to", |line| line.strip_prefix("bound ").map(str::to_owned));
    (program, bound)
}

/// Whether a user of the group `group` can scrape the bridge at `socket`: the status line, or the error.
fn scrape_as(group: u32, socket: &Path) -> String {
    const NOBODY: u32 = 65534;
    let client = "import socket, sys
connection = socket.socket(socket.AF_UNIX)
try:
    connection.connect(sys.argv[1])
    connection.sendall(b'GET /metrics HTTP/1.0\\r\\n\\r\\n')
    print(connection.recv(15).decode())
except PermissionError as error:
    print(error.strerror)";
    let mut command = Command::new("python3");
    let ended = run(command.args(["-c", client]).arg(socket).uid(NOBODY).gid(group).current_dir("/"), "");
    assert!(ended.is_success(), "{}", ended.printed());
    ended.stdout.trim().to_owned()
}

#[test]
fn a_proxy_of_another_user_is_let_in_by_the_group_of_the_socket() {
    if !rustix::process::geteuid().is_root() {
        return skip("only root can act as two users");
    }
    // Neither exists; the folder hands its group to the socket, as `Group=` of the unit does.
    const OF_THE_PROXY: u32 = 64_101;
    const OF_ANOTHER: u32 = 64_102;
    let folder = tempfile::tempdir().unwrap();
    std::os::unix::fs::chown(folder.path(), None, Some(OF_THE_PROXY)).unwrap();
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o2755)).unwrap();
    let path = folder.path().join("bridge.sock");
    let listen = format!("--web.listen-address=unix:{}", path.display());
    for (mode, of_the_proxy, of_another) in [
        ("--web.socket-mode=0660", "HTTP/1.0 200 OK", "Permission denied"),
        ("--web.socket-mode=0666", "HTTP/1.0 200 OK", "HTTP/1.0 200 OK"),
        ("--web.socket-mode=0600", "Permission denied", "Permission denied"),
    ] {
        let _bridge = Program::start([NO_FEED, "--state.disabled", &listen, mode]);
        wait_until("a socket", || UnixStream::connect(&path).is_ok());
        assert_eq!(scrape_as(OF_THE_PROXY, &path), of_the_proxy, "{mode}");
        assert_eq!(scrape_as(OF_ANOTHER, &path), of_another, "{mode}");
    }
}

#[test]
fn sockets_that_systemd_passes_are_served() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("activated.sock");
    let (program, _) = activated(&path.display().to_string());
    assert_eq!(http_client::get_over_unix(&path, "/-/healthy").status, 200);
    drop(program);
    assert!(path.exists(), "the file is systemd's");

    let (_program, address) = activated("0");
    assert_eq!(http_client::get(address.parse().unwrap(), "/-/healthy").status, 200);

    let alone = Program::start([NO_FEED, "--state.disabled", "--web.systemd-socket"]).end_within(PATIENCE);
    assert_eq!(alone.code, Some(1));
    assert!(alone.stderr.contains("systemd passed no socket"), "{}", alone.stderr);
}
