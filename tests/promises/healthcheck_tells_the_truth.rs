//! `healthcheck` succeeds if the bridge is healthy, whatever its settings are, and says within its timeout why it fails.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::mpsc::{Receiver, channel};
use std::thread;

use crate::support::certificates::Authority;
use crate::support::program::Program;
use crate::support::{eventually, wait_until};
use rustls::{ServerConnection, StreamOwned};
use session_buddy_bridge::PrometheusExporter;

const NO_FEED: [&str; 2] = ["--feed.url=ws://127.0.0.1:9", "--state.disabled"];

/// The exit code, and standard error; nothing is ever said on standard output. It has the time that a busy machine may take.
fn healthcheck(args: &[&str], variables: &[(&str, &str)]) -> (Option<i32>, String) {
    let args = ["healthcheck"].into_iter().chain(args.iter().copied());
    let variables = [variables, &[("SESSION_BUDDY_BRIDGE_HEALTHCHECK_TIMEOUT", "1m")]].concat();
    let ended = Program::start_in(&variables, args).end();
    assert_eq!(ended.stdout, "");
    (ended.code, ended.stderr)
}

fn loopback() -> SocketAddr {
    "127.0.0.1:0".parse().unwrap()
}

/// A server that reads one request, hands its lines to `answer` with the connection, and closes it.
fn server(answer: impl FnOnce(Vec<String>, &mut TcpStream) + Send + 'static) -> String {
    let listener = TcpListener::bind(loopback()).unwrap();
    let url = format!("http://{}/-/healthy?a=b", listener.local_addr().unwrap());
    thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let lines = BufReader::new(stream.try_clone().unwrap()).lines();
        let request = lines.map_while(Result::ok).take_while(|line| !line.is_empty()).collect();
        answer(request, &mut stream);
    });
    url
}

#[test]
fn a_bridge_that_works_is_healthy() {
    let exporter = PrometheusExporter::at(loopback());
    exporter.start().unwrap();
    let port = exporter.local_addr().unwrap().port();
    assert_eq!(healthcheck(&[&format!("http://127.0.0.1:{port}/-/healthy")], &[]), healthy());
    // On most machines `localhost` is ::1 as well, where nobody listens here.
    let localhost = format!("http://localhost:{port}/-/healthy");
    assert_eq!(healthcheck(&[], &[("SESSION_BUDDY_BRIDGE_HEALTHCHECK_URL", &localhost)]), healthy());

    let (code, said) = healthcheck(&[&format!("http://127.0.0.1:{port}/no-such-page")], &[]);
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("404 Not Found") && said.contains("/no-such-page"), "{said}");

    exporter.stop();
    // A process that another test starts at this moment shares the socket until it executes its program, and resets the
    // connection then.
    let (code, said) = eventually("a socket that is closed", || match healthcheck(&[&localhost], &[]) {
        (_, said) if said.contains("reset by peer") => Err(said),
        ended => Ok(ended),
    });
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("refused") && said.contains("check that the bridge runs"), "{said}");
}

/// A bridge on a port of its own, with a web configuration file.
struct Site {
    folder: tempfile::TempDir,
    bridge: Program,
    address: SocketAddr,
}

impl Site {
    fn start(web_config: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let authority = Authority::new("of the test");
        authority.file(folder.path());
        authority.server_files(folder.path());
        authority.client("known", folder.path());
        Authority::new("of nobody").client("unknown", folder.path());
        fs::write(folder.path().join("password"), "secret\n").unwrap();
        fs::write(folder.path().join("wrong"), "secre").unwrap();
        fs::write(web_config_in(folder.path()), web_config).unwrap();
        let config = format!("--web.config.file={}", web_config_in(folder.path()).display());
        let arguments = [NO_FEED[0], NO_FEED[1], "--web.listen-address=127.0.0.1:0", &config];
        let mut bridge = Program::start(arguments);
        let address = bridge.address();
        Self { folder, bridge, address }
    }

    /// With the bridge's own settings as variables, and these arguments.
    fn healthcheck(&self, arguments: &[&str]) -> (Option<i32>, String) {
        let (config, address) = (web_config_in(self.folder.path()), self.address.to_string());
        let variables = [
            ("SESSION_BUDDY_BRIDGE_WEB_LISTEN_ADDRESS", address.as_str()),
            ("SESSION_BUDDY_BRIDGE_WEB_CONFIG_FILE", config.to_str().unwrap()),
        ];
        healthcheck(arguments, &variables)
    }

    fn login(&self, password_file: &str) -> [String; 2] {
        let file = self.folder.path().join(password_file);
        ["--healthcheck.username=alice".to_owned(), format!("--healthcheck.password-file={}", file.display())]
    }

    fn identity(&self, name: &str) -> [String; 2] {
        let file = |suffix| self.folder.path().join(format!("{name}.{suffix}")).display().to_string();
        [format!("--healthcheck.cert-file={}", file("pem")), format!("--healthcheck.key-file={}", file("key"))]
    }

    fn healthcheck_as_alice(&self, password_file: &str) -> (Option<i32>, String) {
        let login = self.login(password_file);
        self.healthcheck(&[&login[0], &login[1]])
    }
}

fn web_config_in(folder: &Path) -> PathBuf {
    folder.join("web.yml")
}

const TLS: &str = "tls_server_config:\n  cert_file: server.pem\n  key_file: server.key\n";

const CLIENT_CERTIFICATES: &str = "  client_auth_type: RequireAndVerifyClientCert\n  client_ca_file: ca.pem\n";

fn users() -> String {
    format!("basic_auth_users:\n  alice: {}\n", bcrypt::hash("secret", 4).unwrap())
}

fn healthy() -> (Option<i32>, String) {
    (Some(0), String::new())
}

#[test]
fn the_request_follows_the_flags_and_variables_of_the_bridge() {
    let site = Site::start("{}");
    let port = site.address.port();
    assert_eq!(site.healthcheck(&[]), healthy());
    for address in
        [format!("127.0.0.1:{port}"), format!("0.0.0.0:{port}"), format!(":{port}"), format!("localhost:{port}")]
    {
        assert_eq!(healthcheck(&["--web.listen-address", &address], &[]), healthy(), "{address}");
    }
    let (code, said) = healthcheck(&["--web.listen-address", "127.0.0.1:0"], &[]);
    assert_eq!(code, Some(2), "{said}");
    assert!(said.contains("--web.listen-address has port 0") && said.contains("give the URL"), "{said}");
    let (code, said) = healthcheck(&["--web.systemd-socket"], &[]);
    assert_eq!(code, Some(2), "{said}");
    assert!(said.contains("sockets that only systemd knows"), "{said}");
}

#[test]
fn a_bridge_with_tls_is_healthy() {
    let site = Site::start(TLS);
    assert_eq!(site.healthcheck(&[]), healthy());
    let url = format!("https://{}/-/healthy", site.address);
    let ca = site.folder.path().join("ca.pem");
    assert_eq!(healthcheck(&[&url], &[("SSL_CERT_FILE", ca.to_str().unwrap())]), healthy());
    let strangers = Authority::new("of nobody").file(&subfolder(site.folder.path()));
    let (code, said) = healthcheck(&[&url], &[("SSL_CERT_FILE", strangers.to_str().unwrap())]);
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("UnknownIssuer"), "{said}");
}

fn subfolder(folder: &Path) -> PathBuf {
    let folder = folder.join("sub");
    fs::create_dir_all(&folder).unwrap();
    folder
}

#[test]
fn a_bridge_with_passwords_is_healthy_and_a_wrong_password_is_not() {
    for web_config in [users(), format!("{TLS}{}", users())] {
        let site = Site::start(&web_config);
        assert_eq!(site.healthcheck(&[]), healthy(), "it requests a password, so it works");
        assert_eq!(site.healthcheck_as_alice("password"), healthy());
        let (code, said) = site.healthcheck_as_alice("wrong");
        assert_eq!(code, Some(1), "{said}");
        assert!(said.contains("expected status 200, received \"HTTP/1.1 401 Unauthorized\""), "{said}");
        let (code, said) = site.healthcheck_as_alice("missing");
        assert_eq!(code, Some(1), "{said}");
        assert!(said.contains("--healthcheck.password-file") && said.contains("No such file"), "{said}");
    }
    let (code, said) = healthcheck(&["--healthcheck.username=alice"], &[]);
    assert_eq!(code, Some(2), "{said}");
    assert!(said.contains("--healthcheck.username needs --healthcheck.password-file"), "{said}");
}

#[test]
fn a_refusal_is_a_failure_where_nothing_is_known_of_passwords() {
    let site = Site::start(&users());
    let url = format!("http://{}/-/healthy", site.address);
    let (code, said) = healthcheck(&[&url], &[]);
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("401"), "{said}");
    let login = site.login("password");
    assert_eq!(healthcheck(&[&url, &login[0], &login[1]], &[]), healthy());
    let (code, said) = healthcheck(&["--web.listen-address", &site.address.to_string()], &[]);
    assert_eq!(code, Some(1), "{said}");
}

#[test]
fn a_bridge_that_requires_client_certificates_is_healthy() {
    for version in ["TLS12", "TLS13"] {
        let site = Site::start(&format!("{TLS}{CLIENT_CERTIFICATES}  max_version: {version}\n"));
        for _ in 0..5 {
            assert_eq!(site.healthcheck(&[]), healthy(), "{version}");
        }
    }
}

#[test]
fn a_client_certificate_is_presented_and_one_that_is_refused_is_a_failure() {
    for version in ["TLS12", "TLS13"] {
        let mut site = Site::start(&format!("{TLS}{CLIENT_CERTIFICATES}  max_version: {version}\n"));
        let url = format!("https://{}/-/healthy", site.address);
        let ca = site.folder.path().join("ca.pem").display().to_string();
        let trusted = [("SSL_CERT_FILE", ca.as_str())];
        let [known, unknown] = ["known", "unknown"].map(|name| site.identity(name));
        for _ in 0..5 {
            assert_eq!(site.healthcheck(&[&known[0], &known[1]]), healthy(), "{version}");
        }
        assert_eq!(healthcheck(&[&url, &known[0], &known[1]], &trusted), healthy(), "{version}");
        assert!(!site.bridge.stderr().contains("HTTP client refused"), "{version}");
        for (code, said) in
            [site.healthcheck(&[&unknown[0], &unknown[1]]), healthcheck(&[&url, &unknown[0], &unknown[1]], &trusted)]
        {
            assert_eq!(code, Some(1), "{version}: {said}");
            assert!(said.contains("after the certificate of --healthcheck.cert-file"), "{version}: {said}");
        }
        let (code, said) = healthcheck(&[&url], &trusted);
        assert_eq!(code, Some(1), "{version}: {said}");
        assert!(said.contains("it requires a client certificate; give --healthcheck.cert-file"), "{version}: {said}");
        for (arguments, exit_code, expected) in [
            (&[&known[0]][..], 2, "--healthcheck.cert-file is of no use without --healthcheck.key-file"),
            (&[&known[1]], 2, "--healthcheck.key-file is of no use without --healthcheck.cert-file"),
            (&[&known[0], &unknown[1]], 1, "is not the key of the certificate in"),
        ] {
            let arguments: Vec<_> = arguments.iter().map(|argument| argument.as_str()).collect();
            let (code, said) = site.healthcheck(&arguments);
            assert_eq!(code, Some(exit_code), "{version}: {said}");
            assert!(said.contains(expected), "{version}: {said}");
        }
    }
}

#[test]
fn a_bridge_that_goes_on_with_the_former_web_configuration_is_healthy() {
    let site = Site::start(&format!("{TLS}{}", users()));
    for broken in ["tls_server_config: [", "{}", TLS] {
        fs::write(web_config_in(site.folder.path()), broken).unwrap();
        assert_eq!(site.healthcheck(&[]), healthy(), "{broken}");
    }
    fs::remove_file(web_config_in(site.folder.path())).unwrap();
    assert_eq!(site.healthcheck(&[]), healthy());
    drop(site.bridge);
    let (code, said) = healthcheck(&["--web.listen-address", &site.address.to_string()], &[]);
    assert_eq!(code, Some(1), "{said}");
}

/// A TLS server that hands the first line and the headers of each request to `seen`, and answers with 401.
fn impostor() -> (SocketAddr, Receiver<String>) {
    let config = Authority::new("of an impostor").server(None);
    let listener = TcpListener::bind(loopback()).unwrap();
    let address = listener.local_addr().unwrap();
    let (sender, seen) = channel();
    thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            let mut stream = StreamOwned::new(ServerConnection::new(config.clone()).unwrap(), stream);
            let mut request = [0; 4096];
            if let Ok(read) = stream.read(&mut request) {
                let _ = sender.send(String::from_utf8_lossy(&request[..read]).into_owned());
                let _ = stream.write_all(b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\n\r\n");
            }
        }
    });
    (address, seen)
}

/// As [`impostor`], without TLS.
fn plain_impostor() -> (SocketAddr, Receiver<String>) {
    let listener = TcpListener::bind(loopback()).unwrap();
    let address = listener.local_addr().unwrap();
    let (sender, seen) = channel();
    thread::spawn(move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            let mut request = [0; 4096];
            let read = stream.read(&mut request).unwrap_or_default();
            if request.starts_with(b"GET ") {
                let _ = sender.send(String::from_utf8_lossy(&request[..read]).into_owned());
                let _ = stream.write_all(b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\n\r\n");
            }
        }
    });
    (address, seen)
}

#[test]
fn no_password_is_sent_to_a_server_with_another_certificate_or_none() {
    let site = Site::start(&format!("{TLS}{}", users()));
    for (address, seen) in [impostor(), plain_impostor()] {
        let (login, config) = (site.login("password"), web_config_in(site.folder.path()));
        let address = format!("--web.listen-address={address}");
        let config = format!("--web.config.file={}", config.display());
        healthcheck(&[&login[0], &login[1], &address, &config], &[]);
        let request = seen.try_recv().unwrap();
        assert!(request.starts_with("GET /-/healthy HTTP/1.1\r\n"), "{request}");
        assert!(!request.to_lowercase().contains("authorization"), "{request}");
    }
}

/// A bridge at the Unix socket `socket`, started by the words of `launcher` if there are any.
fn bridge_at(socket: &Path, launcher: &[&str]) -> Program {
    let program = env!("CARGO_BIN_EXE_session-buddy-bridge");
    let words: Vec<&str> = launcher.iter().copied().chain([program]).collect();
    let mut command = Command::new(words[0]);
    command.args(&words[1..]).args(NO_FEED).args(["--web.listen-address", &format!("unix:{}", socket.display())]);
    let bridge = Program::spawn("the bridge", &mut command);
    wait_until("a socket", || UnixStream::connect(socket).is_ok());
    bridge
}

#[test]
fn a_bridge_at_a_unix_socket_is_healthy() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("bridge.sock");
    let bridge = bridge_at(&socket, &[]);
    let listen = format!("unix:{}", socket.display());
    assert_eq!(healthcheck(&[], &[("SESSION_BUDDY_BRIDGE_WEB_LISTEN_ADDRESS", &listen)]), healthy());
    drop(bridge);
    let (code, said) = healthcheck(&["--web.listen-address", &listen], &[]);
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("no response from unix:/") && said.contains("refused"), "{said}");
}

#[test]
fn the_settings_of_a_process_are_those_that_it_was_started_with() {
    let folder = tempfile::tempdir().unwrap();
    // As Docker's init does, the second is a program that has the bridge's command line behind its own.
    for (socket, launcher) in [("alone.sock", &[][..]), ("launched.sock", &["/usr/bin/timeout", "600"])] {
        let bridge = bridge_at(&folder.path().join(socket), launcher);
        let pid = bridge.id().to_string();
        // What this command itself would derive is another address.
        let other = [("SESSION_BUDDY_BRIDGE_WEB_LISTEN_ADDRESS", "127.0.0.1:1")];
        assert_eq!(healthcheck(&["--healthcheck.pid", &pid], &other), healthy(), "{launcher:?}");
    }
    let socket = folder.path().join("by-variables.sock");
    let listen = format!("unix:{}", socket.display());
    let variables = [("SESSION_BUDDY_BRIDGE_WEB_LISTEN_ADDRESS", listen.as_str())];
    let bridge = Program::start_in(&variables, NO_FEED);
    wait_until("a socket", || UnixStream::connect(&socket).is_ok());
    assert_eq!(healthcheck(&[&format!("--healthcheck.pid={}", bridge.id())], &[]), healthy(), "by its variables");
}

#[test]
fn a_process_that_is_no_bridge_is_a_failure() {
    let other = Program::spawn("another process", Command::new("sleep").arg("600"));
    for (pid, reason) in
        [(u32::MAX.to_string(), "No such file"), (other.id().to_string(), "it is no bridge that serves")]
    {
        let (code, said) = healthcheck(&["--healthcheck.pid", &pid], &[]);
        assert_eq!(code, Some(1), "{said}");
        assert!(said.contains(reason), "{said}");
    }
}

#[test]
fn a_unix_socket_that_nobody_serves_is_a_failure_in_time() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("bridge.sock");
    let listener = UnixListener::bind(&path).unwrap();
    let listen = format!("--web.listen-address=unix:{}", path.display());
    let check = || healthcheck(&[&listen, "--healthcheck.timeout=100ms"], &[]);
    let (code, said) = check();
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("timed out"), "{said}");
    // A queue with one place, which is taken: whoever connects now would wait for ever.
    rustix::net::listen(&listener, 0).unwrap();
    let (code, said) = check();
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("no response from unix:/"), "{said}");
}

#[test]
fn a_request_is_proper_http() {
    let url = server(|request, stream| {
        let host = format!("Host: {}", stream.local_addr().unwrap());
        let expected = ["GET /-/healthy?a=b HTTP/1.1", &host, "Connection: close"];
        let answer: &[u8] = if request == expected { b"HTTP/1.1 200 OK\r\n\r\n" } else { b"HTTP/1.1 400 Bad\r\n\r\n" };
        // Byte by byte: an answer may come in any number of pieces.
        for byte in answer {
            let _ = stream.write_all(&[*byte]);
        }
    });
    assert_eq!(healthcheck(&[&url], &[]), (Some(0), String::new()));
}

#[test]
fn what_is_no_200_is_shown_cut_short() {
    let long = "x".repeat(100_000);
    for (answer, shown) in [
        ("HTTP/1.1 503 Service Unavailable\r\n\r\n", "HTTP/1.1 503 Service Unavailable"),
        ("HTTP/1.1 2000 OK\r\n", "HTTP/1.1 2000 OK"),
        ("SSH-2.0-\u{1b}[31m 200\r\n", "SSH-2.0-"),
        (&long, "xxxx"),
        ("", "closed without a response"),
    ] {
        let bytes = answer.to_owned().into_bytes();
        let url = server(move |_, stream| drop(stream.write_all(&bytes)));
        let (code, said) = healthcheck(&[&url], &[]);
        assert_eq!(code, Some(1), "{said}");
        assert!(said.contains(shown) && !said.contains('\u{1b}') && said.len() < 1000, "{said}");
    }
}

#[test]
fn silence_is_a_failure_in_time() {
    // The system takes the connection, and nobody ever answers.
    let listener = TcpListener::bind(loopback()).unwrap();
    let url = format!("http://{}/-/healthy", listener.local_addr().unwrap());
    let (code, said) = healthcheck(&["--healthcheck.timeout", "100ms", &url], &[]);
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("timed out"), "{said}");
}
