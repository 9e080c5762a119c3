//! The bridge serves at Unix sockets, and warns about addresses at which everybody can read the metrics.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use crate::support::http_client::get_over_unix;
use crate::support::program::Program;
use crate::support::web_site::{TLS, WebSite, hash};
use crate::support::{PATIENCE, wait_until};
use rustix::process::Signal;

const NO_FEED: &str = "--feed.url=ws://127.0.0.1:9";

/// The body of the page, served well at a socket that may still have to come.
fn answer(socket: &Path, page: &str) -> String {
    wait_until("a socket", || UnixStream::connect(socket).is_ok());
    let response = get_over_unix(socket, page);
    assert_eq!(response.status, 200, "{page}: {}", response.text());
    response.text().to_owned()
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
        answer(&path, "/-/healthy");
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

/// The permissions of the socket of a bridge that is started with a umask that leaves others nothing.
fn mode_with(arguments: &[&str]) -> u32 {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("bridge.sock");
    let mut command = Command::new("sh");
    command.args(["-c", "umask 077; exec \"$0\" \"$@\"", env!("CARGO_BIN_EXE_session-buddy-bridge"), NO_FEED]);
    command.args(["--state.disabled", "--web.listen-address", &format!("unix:{}", path.display())]).args(arguments);
    let _bridge = Program::spawn("the bridge", &mut command);
    wait_until("a socket", || UnixStream::connect(&path).is_ok());
    fs::metadata(&path).unwrap().permissions().mode() & 0o7777
}

#[test]
fn a_unix_socket_has_the_requested_mode_whatever_the_umask_is() {
    assert_eq!(mode_with(&["--web.socket-mode=0660"]), 0o660);
    assert_eq!(mode_with(&["--web.socket-mode", "666"]), 0o666);
    assert_eq!(mode_with(&[]), 0o700, "as the umask leaves it");
}

#[test]
fn a_socket_whose_queue_is_full_is_served_by_somebody() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("busy.sock");
    let listener = UnixListener::bind(&path).unwrap();
    rustix::net::listen(&listener, 0).unwrap();
    let _waiting = UnixStream::connect(&path).unwrap();
    let refused = start(&format!("unix:{}", path.display())).end_within(PATIENCE);
    assert_eq!(refused.code, Some(1));
    assert!(refused.stderr.contains("somebody else serves it; choose another path"), "{}", refused.stderr);
    assert!(path.exists());
}

#[test]
fn what_a_killed_bridge_left_is_replaced_and_nothing_else_is() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("bridge.sock");
    let written = format!("unix:{}", path.display());
    // A dropped listener leaves its file, as a killed process does.
    drop(UnixListener::bind(&path).unwrap());
    let program = start(&written);
    answer(&path, "/-/healthy");

    let second = start(&written).end_within(PATIENCE);
    assert_eq!(second.code, Some(1));
    assert!(second.stderr.contains("somebody else serves it; choose another path"), "{}", second.stderr);
    answer(&path, "/-/healthy");
    drop(program);

    let file = folder.path().join("file");
    fs::write(&file, "precious").unwrap();
    let refused = start(&format!("unix:{}", file.display())).end_within(PATIENCE);
    assert_eq!(refused.code, Some(1));
    assert!(refused.stderr.contains("there is a file that is not a socket"), "{}", refused.stderr);
    assert_eq!(fs::read_to_string(&file).unwrap(), "precious");

    let nowhere = start("unix:/nowhere/at/all.sock").end_within(PATIENCE);
    assert!(nowhere.stderr.contains("a path in a folder that this user can write to"), "{}", nowhere.stderr);
}

/// Whether a bridge warns about the address at which it listens.
fn warns(environment: &[(&str, &str)], arguments: &[&str]) -> bool {
    let arguments = [NO_FEED, "--state.disabled"].into_iter().chain(arguments.iter().copied());
    let mut program = Program::start_in(environment, arguments);
    program.until_line("the listener", |line| line.contains("msg=listening").then_some(()));
    // The log is complete at the end.
    program.signal(Signal::TERM);
    let ended = program.end_within(PATIENCE);
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    ended.stderr.contains("every machine that can reach this address can read the metrics")
}

#[test]
fn a_chosen_wide_address_is_warned_about_unless_clients_need_a_password_or_certificate() {
    let site = WebSite::new();
    let wide = "--web.listen-address=0.0.0.0:0";
    let with = |text: &str| {
        site.write(text);
        let file = format!("--web.config.file={}", site.path().display());
        warns(&[], &[wide, &file])
    };
    assert!(warns(&[], &[wide]));
    assert!(warns(&[], &["--web.listen-address=127.0.0.1:0", wide]));
    assert!(!warns(&[], &["--web.listen-address=127.0.0.1:0"]));
    assert!(with(TLS), "whoever connects over TLS can read the metrics too");
    assert!(!with(&format!("basic_auth_users:\n  alice: {}\n", hash("secret"))));
    assert!(with(&format!("{TLS}  client_auth_type: VerifyClientCertIfGiven\n  client_ca_file: ca.pem\n")));
    assert!(!with(&format!("{TLS}  client_auth_type: RequireAndVerifyClientCert\n  client_ca_file: ca.pem\n")));
}

#[test]
fn the_default_address_of_an_image_is_not_warned_about_and_a_chosen_one_is() {
    let default = ("SESSION_BUDDY_BRIDGE_WEB_DEFAULT_ADDRESS", "0.0.0.0:0");
    assert!(!warns(&[default], &[]));
    assert!(warns(&[default, ("SESSION_BUDDY_BRIDGE_WEB_LISTEN_ADDRESS", "0.0.0.0:0")], &[]));
    assert!(warns(&[default], &["--web.listen-address=0.0.0.0:0"]));
    assert!(!warns(&[default], &["--web.listen-address=127.0.0.1:0"]));
}
