//! `POST /-/reload` reloads the configuration file, as Prometheus does, for whoever may ask for it.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;

use crate::support::http_client::{Connection, Response, request};
use crate::support::program::Program;
use crate::support::scrape::Scrape;
use crate::support::web_site::{basic, hash};

/// At which hardly anybody ever listens.
const NO_SERVER: &str = "ws://127.0.0.1:1";

/// A bridge with a configuration file of one feed of this name.
fn bridge(file: &Path, name: &str, more: &[&str]) -> Program {
    configure(file, name);
    let args = ["--config.file", file.to_str().unwrap(), "--state.disabled", "--web.listen-address", "127.0.0.1:0"];
    Program::start(args.iter().chain(more).copied())
}

fn configure(file: &Path, name: &str) {
    fs::write(file, format!("feeds: [{{url: \"{NO_SERVER}\", name: {name}}}]\n")).unwrap();
}

/// The response to a request with these lines as its headers.
fn send(address: SocketAddr, method: &str, headers: &[&str]) -> Response {
    let mut connection = Connection::open(address);
    let headers: String = headers.iter().map(|header| format!("{header}\r\n")).collect();
    connection.send(format!("{method} /-/reload HTTP/1.1\r\n{headers}Connection: close\r\n\r\n").as_bytes());
    connection.response_to(method)
}

fn feeds(address: SocketAddr, headers: &[&str]) -> Vec<String> {
    let mut connection = Connection::open(address);
    let headers: String = headers.iter().map(|header| format!("{header}\r\n")).collect();
    connection.send(format!("GET /metrics HTTP/1.1\r\n{headers}Connection: close\r\n\r\n").as_bytes());
    let scrape = Scrape::parse(connection.response_to("GET").text()).unwrap();
    scrape.series("session_buddy_bridge_feed_up").into_keys().map(|labels| labels["feed"].clone()).collect()
}

const HOST: &str = "Host: localhost";

#[test]
fn a_reload_is_answered_once_it_is_done_or_with_the_reason_why_not() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("bridge.yml");
    let mut program = bridge(&file, "one", &["--web.enable-lifecycle"]);
    let address = program.address();
    for (method, name) in [("POST", "two"), ("PUT", "three")] {
        configure(&file, name);
        assert_eq!(request(address, method, "/-/reload").status, 200);
        assert_eq!(feeds(address, &[HOST]), [name], "as soon as it is answered");
    }
    fs::write(&file, "feeds: [{url: \"http://localhost\"}]").unwrap();
    let failed = request(address, "POST", "/-/reload");
    assert_eq!(failed.status, 500);
    assert!(failed.text().contains("did you mean \"ws://localhost/\""), "{}", failed.text());
    assert_eq!(feeds(address, &[HOST]), ["three"]);
    for method in ["GET", "HEAD", "DELETE", "OPTIONS", "PATCH"] {
        let refused = request(address, method, "/-/reload");
        assert_eq!((refused.status, refused.header("allow")), (405, Some("POST, PUT")), "{method}");
    }
}

#[test]
fn without_the_flag_or_a_file_nothing_is_reloaded() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("bridge.yml");
    let mut program = bridge(&file, "one", &[]);
    let address = program.address();
    for (method, status) in [("POST", 403), ("PUT", 403), ("GET", 405)] {
        let refused = request(address, method, "/-/reload");
        assert_eq!(refused.status, status, "{method}");
        assert_eq!(refused.text().contains("Lifecycle API is not enabled"), status == 403, "{}", refused.text());
    }
    let args = ["--feed.url", NO_SERVER, "--state.disabled", "--web.listen-address", "127.0.0.1:0"];
    let mut program = Program::start(args.into_iter().chain(["--web.enable-lifecycle"]));
    let failed = request(program.address(), "POST", "/-/reload");
    assert_eq!(failed.status, 500);
    assert!(failed.text().contains("there is no --config.file"), "{}", failed.text());
}

#[test]
fn whoever_may_not_is_refused_and_counted() {
    let folder = tempfile::tempdir().unwrap();
    let (file, web) = (folder.path().join("bridge.yml"), folder.path().join("web.yml"));
    fs::write(&web, format!("basic_auth_users:\n  alice: {}\n", hash("secret"))).unwrap();
    let web = web.to_str().unwrap();
    let allowed = ["--web.enable-lifecycle", "--web.config.file", web, "--web.allowed-hosts", "metrics.example"];
    let mut program = bridge(&file, "one", &allowed);
    let (address, login) = (program.address(), basic("alice", "secret"));
    let login = login.trim_end();
    let (host, origin) = (format!("Host: {address}"), format!("Origin: http://{address}"));
    let cases = [
        (&[HOST][..], 401),
        (&[HOST, "Origin: http://evil.example"], 401),
        (&["Host: evil.example", login], 421),
        (&["Host: evil.example", "Origin: http://evil.example", login], 421),
        (&[HOST, "Origin: http://evil.example", login], 403),
        (&[HOST, "Origin: null", login], 403),
        (&[HOST, "Origin: http://localhost:3000", login], 403),
        (&[HOST, "Sec-Fetch-Site: cross-site", login], 403),
        (&[HOST, HOST, login], 400),
        (&[&host, &origin, login], 200),
        (&["Host: metrics.example", "Origin: https://metrics.example", login], 200),
        (&[HOST, login], 200),
    ];
    // At the same time: reloads that are requested together are one.
    std::thread::scope(|scope| {
        for (headers, status) in cases {
            scope.spawn(move || assert_eq!(send(address, "POST", headers).status, status, "{headers:?}"));
        }
    });
    let mut connection = Connection::open(address);
    connection.send(format!("GET /metrics HTTP/1.1\r\n{HOST}\r\n{login}\r\nConnection: close\r\n\r\n").as_bytes());
    let scrape = Scrape::parse(connection.response_to("GET").text()).unwrap();
    let refusals = |reason| scrape.value("session_buddy_bridge_http_refusals_total", &[("reason", reason)]);
    assert_eq!(refusals("foreign_origin"), Some(4.0));
    assert_eq!(
        (refusals("unauthorized"), refusals("foreign_host"), refusals("invalid_host")),
        (Some(2.0), Some(2.0), Some(1.0))
    );
}
