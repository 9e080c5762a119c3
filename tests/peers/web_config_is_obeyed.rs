//! The web configuration file does what the exporter-toolkit says, is read again when it changes, and is refused whole where
//! it cannot be obeyed.

use std::fs;
use std::io::Write as _;
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};

use crate::support::certificates::Authority;
use crate::support::http_client::{self, Connection};
use crate::support::peers::prometheus::PrometheusTools;
use crate::support::program::{Ended, Program};
use crate::support::served::MadeUp;
use crate::support::web_site::{TLS, WebSite, basic, get, hash};
use crate::support::{PATIENCE, eventually, in_repository, wait_until};
use rustls::{CipherSuite, SupportedCipherSuite};
use session_buddy_bridge::internals::http::{HttpLimits, WebConfigFile};

#[test]
fn only_users_with_the_right_password_are_let_in() {
    let site = WebSite::new();
    let server = site.serve(&format!("basic_auth_users:\n  alice: {}\n  bob: {}\n", hash("secret:1"), hash("")));
    for _ in 0..2 {
        assert_eq!(get(server.address, &basic("alice", "secret:1")).status, 200);
        assert_eq!(get(server.address, &basic("bob", "")).status, 200);
    }
    let refused = get(server.address, "");
    assert_eq!(refused.status, 401);
    assert!(refused.header("www-authenticate").unwrap().starts_with("Basic realm="));
    for wrong in [
        basic("alice", "secret"),
        basic("alice", ""),
        basic("bob", "secret:1"),
        basic("carol", "secret:1"),
        "Authorization: Bearer x\r\n".to_owned(),
        "Authorization: Basic !!!\r\n".to_owned(),
        "Authorization: Basic\r\n".to_owned(),
    ] {
        assert_eq!(get(server.address, &wrong).status, 401, "{wrong}");
    }
    server.stop();
}

#[test]
fn a_password_that_is_changed_replaces_the_old_one_and_a_broken_file_changes_nothing() {
    let site = WebSite::new();
    let server = site.serve(&format!("basic_auth_users:\n  alice: {}\n", hash("old")));
    assert_eq!(get(server.address, &basic("alice", "old")).status, 200);

    site.write("basic_auth_users:\n  alice: no hash\n");
    wait_until("the broken file to be read", || !server.content.web_config_failures.lock().unwrap().is_empty());
    assert_eq!(get(server.address, &basic("alice", "old")).status, 200);
    assert_eq!(get(server.address, &basic("alice", "new")).status, 401);
    let said = server.content.web_config_failures.lock().unwrap().clone();
    assert!(matches!(&said[..], [one] if one.contains("\"alice\" should be a bcrypt hash")), "{said:?}");

    site.write(&format!("basic_auth_users:\n  alice: {}\n# another\n", hash("new")));
    wait_until("the old password to be refused", || get(server.address, &basic("alice", "old")).status == 401);
    assert_eq!(get(server.address, &basic("alice", "new")).status, 200);
    fs::remove_file(site.path()).unwrap();
    wait_until("the file to be missed", || server.content.web_config_failures.lock().unwrap().len() == 2);
    assert_eq!(get(server.address, &basic("alice", "new")).status, 200);
    assert_eq!(get(server.address, "").status, 401);
    server.stop();
}

#[test]
fn a_file_that_comes_after_its_name_is_found() {
    let site = WebSite::new();
    let server = site.serve("{}");
    assert_eq!(get(server.address, "").status, 200);
    site.write("tls_server_config: {cert_file: later.pem, key_file: server.key}");
    wait_until("the file to be read", || !server.content.web_config_failures.lock().unwrap().is_empty());
    assert_eq!(get(server.address, "").status, 200);
    fs::rename(site.folder.path().join("server.pem"), site.folder.path().join("later.pem")).unwrap();
    wait_until("the certificate to be read", || site.get_encrypted(server.address, None).is_ok());
    let said = server.content.web_config_failures.lock().unwrap().clone();
    assert!(matches!(&said[..], [one] if one.contains("later.pem")), "told once: {said:?}");
    server.stop();
}

#[test]
fn a_blank_header_is_in_no_response() {
    let site = WebSite::new();
    let server = site.serve(
        "http_server_config:\n  headers:\n    X-Content-Type-Options: ''\n    Content-Security-Policy:\n    X-Frame-Options: ' '\n",
    );
    for path in ["/metrics", "/", "/nowhere"] {
        let response = http_client::get(server.address, path);
        for header in ["x-content-type-options", "content-security-policy", "x-frame-options"] {
            assert_eq!(response.header(header), None, "{path} {header}");
        }
    }
    server.stop();
}

/// The cipher suite that a client with these suites agrees on with the server; `None` if they do not agree.
fn negotiated(site: &WebSite, address: SocketAddr, suites: &[SupportedCipherSuite]) -> Option<CipherSuite> {
    let mut connection = site.client(None, suites);
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    while connection.is_handshaking() {
        connection.complete_io(&mut stream).ok()?;
    }
    connection.negotiated_cipher_suite().map(|suite| suite.suite())
}

#[test]
fn cipher_suites_govern_tls_1_2_and_leave_tls_1_3_on() {
    use rustls::crypto::ring::cipher_suite as suite;
    let (aes_128, aes_256) =
        (suite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256, suite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384);
    let tls13 =
        [suite::TLS13_AES_128_GCM_SHA256, suite::TLS13_AES_256_GCM_SHA384, suite::TLS13_CHACHA20_POLY1305_SHA256];
    for (listed, has_aes_128) in [
        ("TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256", true),
        ("TLS_AES_128_GCM_SHA256, TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256", true),
        ("TLS_AES_128_GCM_SHA256", false),
    ] {
        let site = WebSite::new();
        let server = site.serve(&format!("{TLS}  cipher_suites: [{listed}]\n"));
        for suite in tls13 {
            assert_eq!(negotiated(&site, server.address, &[suite]), Some(suite.suite()), "{listed}");
        }
        let of_tls12 = negotiated(&site, server.address, &[aes_256, aes_128]);
        assert_eq!(of_tls12, has_aes_128.then_some(aes_128.suite()), "{listed}");
        assert_eq!(negotiated(&site, server.address, &[aes_256]), None, "{listed}");
        server.stop();
    }
}

#[test]
fn certificates_and_keys_that_are_not_supported_are_refused_with_a_remedy() {
    let site = WebSite::new();
    let fixtures = in_repository("tests/fixtures/certificates");
    let file = |name: &str| fixtures.join(name).display().to_string();
    let pair = |name: &str| {
        let (certificate, key) = (file(&format!("{name}.pem")), file(&format!("{name}.key")));
        format!("tls_server_config: {{cert_file: {certificate}, key_file: {key}}}")
    };
    let clients = |name: &str| {
        let ca = file(&format!("{name}.pem"));
        format!("{TLS}  client_auth_type: RequireAndVerifyClientCert\n  client_ca_file: {ca}\n")
    };
    let other_key = format!("tls_server_config: {{cert_file: server.pem, key_file: {}}}", file("version1.key"));
    for (text, field, remedy) in [
        (pair("version1"), "cert_file", "issue one of version 3"),
        (pair("rsa1024"), "key_file", "or of RSA with 2048 bits or more"),
        (pair("p521"), "key_file", "create one for the curve P-256 or P-384"),
        (clients("rsa1024"), "client_ca_file", "or of RSA with 2048 bits or more"),
        (clients("p521"), "client_ca_file", "create one for the curve P-256 or P-384"),
        (other_key, "key_file", "is not the key of the certificate in cert_file: give the two of one pair"),
    ] {
        let refusal = site.refusal(&text);
        assert!(
            refusal.contains(&format!("tls_server_config.{field}: ")) && refusal.contains(remedy),
            "{text}\n{refusal}"
        );
    }
    for ca in ["version1", "rsa2048"] {
        site.write(&clients(ca));
        WebConfigFile::open(&site.path()).expect("a CA may be of version 1");
    }
}

#[test]
fn headers_are_added_to_every_answer() {
    let site = WebSite::new();
    let server = site.serve("http_server_config:\n  http2: true\n  headers:\n    X-Frame-Options: deny\n    strict-transport-security: max-age=60\n");
    let response = get(server.address, "");
    assert_eq!(response.header("x-frame-options"), Some("deny"));
    assert_eq!(response.header("strict-transport-security"), Some("max-age=60"));
    assert_eq!(http_client::get(server.address, "/nowhere").header("x-frame-options"), Some("deny"));
    server.stop();
}

#[test]
fn connections_are_encrypted_and_clients_proved() {
    let site = WebSite::new();
    let server = site.serve(TLS);
    assert_eq!(site.get_encrypted(server.address, None).unwrap(), 200);
    let mut plain = Connection::open(server.address);
    plain.send(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n");
    let answer = plain.rest();
    assert!(!answer.starts_with(b"HTTP"), "{}", String::from_utf8_lossy(&answer));

    let clients = Authority::new("of the clients");
    let known = clients.client("known", site.folder.path());
    let strangers = Authority::new("of nobody");
    let folder = tempfile::tempdir().unwrap();
    let unknown = strangers.client("unknown", folder.path());
    fs::copy(clients.file(folder.path()), site.folder.path().join("clients.pem")).unwrap();
    site.write(&format!(
        "{TLS}  client_auth_type: RequireAndVerifyClientCert\n  client_ca_file: clients.pem\n  min_version: TLS13\n  \
         cipher_suites: [TLS_AES_256_GCM_SHA384]\n  curve_preferences: [X25519]\n"
    ));
    wait_until("strangers to be refused", || site.get_encrypted(server.address, None).is_err());
    assert_eq!(site.get_encrypted(server.address, Some(&known)).unwrap(), 200);
    assert!(site.get_encrypted(server.address, Some(&unknown)).is_err());

    site.write(&format!(
        "{TLS}  client_auth_type: VerifyClientCertIfGiven\n  client_ca_file: clients.pem\n  \
         client_allowed_sans: [somebody.else]\n"
    ));
    let is_refused = || !matches!(site.get_encrypted(server.address, Some(&known)), Ok(200));
    wait_until("a name that is not allowed to be refused", is_refused);
    assert!(server.content.web_config_failures.lock().unwrap().is_empty());
    server.stop();
    drop(site.authority);
}

#[test]
fn a_browser_is_served_under_the_names_in_the_certificate() {
    let site = WebSite::new();
    let server = site.serve(TLS);
    for (host, status) in [
        ("bridge.example", 200),
        ("BRIDGE.example.:9090", 200),
        ("one.bridges.example", 200),
        ("bridges.example", 421),
        ("one.bridge.example", 421),
        ("evil.example", 421),
    ] {
        let headers = format!("Host: {host}\r\nSec-Fetch-Mode: navigate");
        assert_eq!(site.get_encrypted_with(server.address, None, &headers).unwrap(), status, "{host}");
    }
    server.stop();
}

#[test]
fn a_foreign_host_is_refused_before_a_password_is_requested() {
    let site = WebSite::new();
    let server = site.serve(&format!("basic_auth_users:\n  alice: {}\n", hash("secret")));
    let status = |headers: &str| {
        let mut connection = Connection::open(server.address);
        connection.send(format!("GET /metrics HTTP/1.1\r\n{headers}Connection: close\r\n\r\n").as_bytes());
        connection.response_to("GET").status
    };
    let right = basic("alice", "secret");
    assert_eq!(status(&format!("Host: evil.example\r\nOrigin: http://evil.example\r\n{right}")), 421);
    assert_eq!(status("Host: evil.example\r\nOrigin: http://evil.example\r\n"), 421);
    assert_eq!(status(&format!("Host: evil.example\r\n{right}")), 200);
    assert_eq!(status("Host: evil.example\r\n"), 401);
    assert_eq!(status(&right), 400);
    server.stop();
}

#[test]
fn a_client_that_ends_sending_over_tls_gets_its_answer() {
    let site = WebSite::new();
    let (content, begun, release) = MadeUp::held("a 1\n");
    let server = site.serve_content(TLS, content, HttpLimits::default());
    for says_so in [true, false] {
        let mut stream = site.stream_encrypted(server.address, None);
        stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
        begun.recv_timeout(PATIENCE).unwrap();
        if says_so {
            stream.conn.send_close_notify();
            stream.flush().unwrap();
        }
        stream.sock.shutdown(Shutdown::Write).unwrap();
        assert_eq!(site.get_encrypted_with(server.address, None, "Host: a b").unwrap(), 400, "the end is seen by now");
        release.send(()).unwrap();
        assert_eq!(Connection::over(stream).response_to("GET").text(), "a 1\n", "with close_notify: {says_so}");
    }
    server.stop();
}

#[test]
fn what_cannot_be_obeyed_is_refused_by_name() {
    let site = WebSite::new();
    let tls = |line: &str| format!("{TLS}  {line}\n");
    for (text, said) in [
        ("basic_auth_users: {a: b}".to_owned(), "\"a\" should be a bcrypt hash, as `htpasswd -nBC 10` prints it"),
        ("basic_auth_userz: {}".to_owned(), "basic_auth_userz"),
        ("tls_server_config: {cert_file: server.pem}".to_owned(), "key_file: is missing"),
        ("tls_server_config: {key_file: server.key}".to_owned(), "cert_file: is missing"),
        ("tls_server_config: {cert_file: gone.pem, key_file: server.key}".to_owned(), "gone.pem: No such file"),
        ("tls_server_config: {cert_file: server.key, key_file: server.key}".to_owned(), "there is no PEM certificate"),
        (tls("min_version: TLS10"), "TLS10 is not spoken, because it is broken: use TLS12 or TLS13"),
        (tls("max_version: SSL3"), "\"SSL3\" is neither TLS12 nor TLS13"),
        (tls("min_version: TLS13\n  max_version: TLS12"), "is above max_version"),
        (
            tls("cipher_suites: [TLS_RSA_WITH_AES_128_CBC_SHA]"),
            "\"TLS_RSA_WITH_AES_128_CBC_SHA\" is not supported; for TLS 1.2 there are TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256",
        ),
        (tls("curve_preferences: [CurveP521]"), "\"CurveP521\" is not spoken"),
        (tls("client_auth_type: RequireAnyClientCert"), "takes certificates that nobody signed"),
        (tls("client_auth_type: Whatever"), "\"Whatever\" is none of"),
        (tls("client_auth_type: RequireAndVerifyClientCert"), "client_ca_file: is missing"),
        (tls("client_ca_file: ca.pem"), "client_auth_type does not request certificates"),
        ("http_server_config: {headers: {Server: x}}".to_owned(), "\"Server\" is none of content-security-policy"),
        ("rate_limit: {interval: 1s, burst: 20}".to_owned(), "rate_limit: is not supported, because"),
        ("a: [".to_owned(), "web.yml"),
        (String::new(), "the file is empty; to configure nothing, write {}"),
    ] {
        let refusal = site.refusal(&text);
        assert!(
            refusal.contains(said) && refusal.contains("web.yml") || refusal.contains("gone.pem"),
            "{text}\n{refusal}"
        );
        assert!(refusal.contains(said), "{text}\n{refusal}");
    }
    site.write("{}");
    WebConfigFile::open(&site.path()).expect("a file without fields asks for nothing");

    for off in ["rate_limit: {}", "rate_limit: {interval: 0s, burst: 20}", "rate_limit: {interval: 0}"] {
        site.write(off);
        WebConfigFile::open(&site.path()).expect("a limit that is off");
    }

    let Ended { code, stderr: said, .. } = Program::start(["--web.config.file", "/nowhere/web.yml"]).end();
    assert_eq!(code, Some(2));
    assert!(said.contains("--web.config.file /nowhere/web.yml: No such file"), "{said}");
}

#[test]
fn prometheus_scrapes_with_a_password_and_a_certificate() {
    let Some(tools) = PrometheusTools::find_or_skip() else { return };
    let site = WebSite::new();
    let clients = Authority::new("of the clients");
    let client = clients.client("prometheus", site.folder.path());
    fs::rename(clients.file(&subfolder(site.folder.path())), site.folder.path().join("clients.pem")).unwrap();
    let users = format!("basic_auth_users:\n  prometheus: {}\n", hash("secret"));
    let server = site
        .serve(&format!("{TLS}  client_auth_type: RequireAndVerifyClientCert\n  client_ca_file: clients.pem\n{users}"));
    let configuration = format!(
        "global: {{scrape_interval: 250ms}}\nscrape_configs:\n  - job_name: bridge\n    scheme: https\n    basic_auth: {{username: \
         prometheus, password: secret}}\n    tls_config: {{ca_file: {}, cert_file: {}, key_file: {}}}\n    static_configs: [{{targets: \
         ['{}']}}]\n",
        site.folder.path().join("ca.pem").display(),
        client.certificate.display(),
        client.key.display(),
        server.address,
    );
    let prometheus = tools.start(&configuration);
    eventually("Prometheus to have scraped", || {
        match prometheus.query("a", None).first().map(|series| series.value()) {
            Some(1.0) => Ok(()),
            other => Err(format!("{other:?}")),
        }
    });
    server.stop();
}

fn subfolder(folder: &Path) -> PathBuf {
    let folder = folder.join("sub");
    fs::create_dir_all(&folder).unwrap();
    folder
}
