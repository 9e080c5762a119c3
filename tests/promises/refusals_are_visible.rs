//! Who is refused by access control is counted by reason and logged with the peer.

use std::fs;

use crate::support::certificates::Authority;
use crate::support::http_client::Connection;
use crate::support::program::Program;
use crate::support::scrape::Scrape;
use crate::support::served::Served;
use crate::support::web_site::{TLS, WebSite, basic, get, hash};
use crate::support::{PATIENCE, equal, eventually};
use rustix::process::Signal;
use session_buddy_bridge::internals::http::Refusal;

const GET: &[u8] = b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n";

/// Waits until these, and no others, were refused.
fn expect_refusals(server: &Served, expected: &[Refusal]) {
    eventually("the refusals", || equal(&server.content.refusals.lock().unwrap().clone(), &expected.to_vec()));
}

#[test]
fn requests_without_the_right_password_are_reported() {
    let site = WebSite::new();
    let server = site.serve(&format!("basic_auth_users:\n  alice: {}\n", hash("secret")));
    for (authorization, status) in [
        (String::new(), 401),
        (basic("alice", "wrong"), 401),
        (basic("carol", "secret"), 401),
        (basic("alice", "secret"), 200),
    ] {
        assert_eq!(get(server.address, &authorization).status, status, "{authorization}");
    }
    expect_refusals(&server, &[Refusal::Unauthorized; 3]);
    server.stop();
}

#[test]
fn logins_beyond_those_that_may_wait_are_refused_at_once_and_reported() {
    const LOGINS: usize = 100;
    let site = WebSite::new();
    // Ten of them take a second; to send them all takes less.
    let hash = bcrypt::hash("secret", 11).unwrap();
    let server = site.serve(&format!("basic_auth_users:\n  alice: {hash}\n"));
    let mut logins: Vec<_> = (0..LOGINS)
        .map(|number| {
            let mut login = Connection::open(server.address);
            let authorization = basic("alice", &format!("wrong {number}"));
            login.send(format!("GET / HTTP/1.1\r\nHost: localhost\r\n{authorization}\r\n").as_bytes());
            login
        })
        .collect();
    let answers: Vec<_> = logins.iter_mut().map(|login| login.response_to("GET")).collect();
    let of_status = |status: u16| answers.iter().filter(|answer| answer.status == status).collect::<Vec<_>>();
    let (wrong, busy) = (of_status(401), of_status(503));
    assert_eq!(wrong.len() + busy.len(), LOGINS);
    assert!(!wrong.is_empty() && !busy.is_empty(), "{} and {}", wrong.len(), busy.len());
    for answer in &busy {
        assert_eq!(answer.header("retry-after"), Some("1"));
        assert_eq!(answer.text(), "Too many logins at once. Try again shortly.\n");
    }
    let refusals = server.content.refusals.lock().unwrap().clone();
    let of_reason = |reason: Refusal| refusals.iter().filter(|refusal| **refusal == reason).count();
    assert_eq!(of_reason(Refusal::Unauthorized), wrong.len());
    assert_eq!(of_reason(Refusal::TooManyLogins), busy.len());
    assert_eq!(get(server.address, &basic("alice", "secret")).status, 200);
    server.stop();
}

#[test]
fn clients_without_a_trusted_certificate_and_without_tls_are_reported() {
    let site = WebSite::new();
    let clients = Authority::new("of the clients");
    let known = clients.client("known", site.folder.path());
    let elsewhere = tempfile::tempdir().unwrap();
    let unknown = Authority::new("of nobody").client("unknown", elsewhere.path());
    fs::rename(clients.file(elsewhere.path()), site.folder.path().join("clients.pem")).unwrap();
    let server = site.serve(&format!(
        "{TLS}  client_auth_type: RequireAndVerifyClientCert\n  client_ca_file: clients.pem\n  \
         client_allowed_sans: [somebody.else]\n"
    ));
    for client in [None, Some(&unknown), Some(&known)] {
        assert!(site.get_encrypted(server.address, client).is_err());
    }
    expect_refusals(&server, &[Refusal::ClientCertificate; 3]);
    let mut plain = Connection::open(server.address);
    plain.send(GET);
    plain.rest();
    expect_refusals(&server, &[[Refusal::ClientCertificate; 3].as_slice(), &[Refusal::PlainHttp]].concat());
    // A probe of the port that sends nothing is no refusal.
    let mut probe = Connection::open(server.address);
    probe.end_sending().unwrap();
    probe.rest();
    assert_eq!(server.content.refusals.lock().unwrap().len(), 4);
    server.stop();
}

#[test]
fn the_bridge_counts_refusals_by_reason_and_logs_one_line_with_the_peer() {
    let site = WebSite::new();
    site.write(&format!("basic_auth_users:\n  alice: {}\n", hash("secret")));
    let file = site.path().display().to_string();
    let mut program = Program::start([
        "--web.config.file",
        &file,
        "--web.listen-address",
        "127.0.0.1:0",
        "--state.disabled",
        "--feed.url",
        "ws://127.0.0.1:1",
    ]);
    let address = program.address();
    for _ in 0..3 {
        assert_eq!(get(address, "").status, 401);
    }
    let shown = Scrape::parse(get(address, &basic("alice", "secret")).text()).unwrap();
    for (reason, count) in [("unauthorized", 3.0), ("too_many_logins", 0.0), ("plain_http", 0.0)] {
        let refusals = shown.value("session_buddy_bridge_http_refusals_total", &[("reason", reason)]);
        assert_eq!(refusals, Some(count), "{reason}");
    }
    program.signal(Signal::TERM);
    let ended = program.end_within(PATIENCE);
    let lines: Vec<_> = ended.stderr.lines().filter(|line| line.contains("HTTP client refused")).collect();
    assert!(
        matches!(lines[..], [line] if line.contains("reason=unauthorized") && line.contains("peer=127.0.0.1:")),
        "{}",
        ended.stderr
    );
}
