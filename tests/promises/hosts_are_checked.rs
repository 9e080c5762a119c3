//! A request is addressed to this server, or it is refused: RFC 9112, 3.2, and protection against DNS rebinding.

use std::os::unix::net::UnixStream;
use std::path::Path;

use crate::support::http_client::{Connection, Response};
use crate::support::program::Program;
use crate::support::served::{MadeUp, Served};
use crate::support::{PATIENCE, wait_until};
use session_buddy_bridge::internals::http::{AllowedHostsName, HttpSettings, Refusal};

const PATHS: [&str; 6] = ["/metrics", "/", "/api/v1/status", "/-/healthy", "/-/ready", "/nowhere"];

/// What Chromium sends, each of which only browsers send.
const BROWSER_HEADERS: [&str; 4] = [
    "Accept-Language: en-US,en;q=0.9",
    "Origin: http://evil.example",
    "Sec-Fetch-Site: cross-site",
    "Referer: http://evil.example/",
];

fn serve(allowed: &[&str]) -> Served {
    let allowed_hosts = allowed.iter().map(|name| name.parse().unwrap()).collect();
    Served::start(
        MadeUp::showing(|| "a 1\n".into()),
        HttpSettings { allowed_hosts, allowed_hosts_name: AllowedHostsName::Flag, ..HttpSettings::default() },
    )
}

/// The response to a GET with these lines as its headers.
fn get(server: &Served, target: &str, version: &str, headers: &[&str]) -> Response {
    response(&mut Connection::open(server.address), target, version, headers)
}

fn response<S: std::io::Read + std::io::Write>(
    connection: &mut Connection<S>,
    target: &str,
    version: &str,
    headers: &[&str],
) -> Response {
    let headers: String = headers.iter().map(|header| format!("{header}\r\n")).collect();
    connection.send(format!("GET {target} {version}\r\n{headers}Connection: close\r\n\r\n").as_bytes());
    connection.response_to("GET")
}

#[test]
fn a_request_without_one_valid_host_is_a_bad_one() {
    let server = serve(&[]);
    for path in PATHS {
        for (headers, said) in [
            (&[][..], "requires the header Host"),
            (&["Host: localhost", "Host: localhost"], "more than once"),
            (&["Host: me@localhost"], "a user name"),
            (&["Host: me:secret@localhost:9090"], "a user name"),
            (&["Host: a b"], "is not a host"),
        ] {
            let refused = get(&server, path, "HTTP/1.1", headers);
            assert_eq!(refused.status, 400, "{path} {headers:?}");
            assert!(refused.text().contains(said) && !refused.text().contains("secret"), "{}", refused.text());
        }
    }
    let refusals = server.content.refusals.lock().unwrap().clone();
    assert_eq!(refusals, [Refusal::InvalidHost; 5 * PATHS.len()]);
    let userinfo = get(&server, "http://me@localhost/metrics", "HTTP/1.1", &["Host: localhost"]);
    assert_eq!(userinfo.status, 400);
    let mut old = Connection::open(server.address);
    old.send(b"GET /metrics HTTP/1.0\r\n\r\n");
    assert!(old.rest().starts_with(b"HTTP/1.0 200 OK\r\n"), "HTTP/1.0 has no Host");
    assert_eq!(
        get(&server, "/metrics", "HTTP/1.1", &["Host:"]).status,
        200,
        "a target without a host has an empty one"
    );
    server.stop();
}

#[test]
fn a_browser_that_was_led_here_by_another_name_is_shown_nothing() {
    let server = serve(&[]);
    for mark in BROWSER_HEADERS {
        for path in PATHS {
            for host in [
                "evil.example",
                "evil.example:9090",
                "localhost.evil.example",
                "127.0.0.1.evil.example",
                "notlocalhost",
            ] {
                let refused = get(&server, path, "HTTP/1.1", &[&format!("Host: {host}"), mark]);
                assert_eq!(refused.status, 421, "{path} {host} {mark}");
                let flag = format!("--web.allowed-hosts={}", host.trim_end_matches(":9090"));
                assert!(refused.text().contains(&flag), "{}", refused.text());
            }
            let absolute = format!("http://evil.example{path}");
            assert_eq!(get(&server, &absolute, "HTTP/1.1", &["Host: localhost", mark]).status, 421, "{path} {mark}");
        }
    }
    let refusals = server.content.refusals.lock().unwrap().clone();
    assert_eq!(refusals, [Refusal::ForeignHost; 6 * BROWSER_HEADERS.len() * PATHS.len()]);
    server.stop();
}

#[test]
fn a_browser_is_served_under_every_name_of_this_server() {
    let server = serve(&["metrics.example", "Other.Example"]);
    for mark in BROWSER_HEADERS {
        for host in [
            "localhost",
            "LOCALHOST:9090",
            "localhost.",
            "bridge.localhost:80",
            "127.0.0.1:9090",
            "127.0.0.1",
            "[::1]:9090",
            "192.0.2.1:9090",
            "metrics.example",
            "METRICS.example.:443",
            "other.example",
        ] {
            for path in ["/metrics", "/"] {
                let headers = [&format!("Host: {host}"), mark];
                assert_eq!(get(&server, path, "HTTP/1.1", &headers).status, 200, "{path} {host} {mark}");
            }
        }
        let absolute = get(&server, "http://metrics.example/metrics", "HTTP/1.1", &["Host: evil.example", mark]);
        assert_eq!(absolute.status, 200, "Host does not count beside an absolute target");
    }
    server.stop();
}

#[test]
fn scrapers_and_probes_may_use_any_name_and_the_live_page_over_loopback_may_not() {
    let server = serve(&[]);
    for host in ["evil.example", "bridge:9090"] {
        let status = |path| get(&server, path, "HTTP/1.1", &[&format!("Host: {host}")]).status;
        for path in ["/metrics", "/-/healthy", "/-/ready"] {
            assert_eq!(status(path), 200, "{path} {host}");
        }
        for path in ["/", "/assets/page.js", "/api/v1/status"] {
            assert_eq!(status(path), 421, "{path} {host}");
        }
    }
    server.stop();
}

fn over_unix(socket: &Path, path: &str, headers: &[&str]) -> Response {
    let stream = UnixStream::connect(socket).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    response(&mut Connection::over(stream), path, "HTTP/1.1", headers)
}

#[test]
fn a_listener_beside_loopback_refuses_browsers_as_well_and_a_proxy_may_keep_an_allowed_host() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("bridge.sock");
    let listen = format!("--web.listen-address=unix:{}", path.display());
    let _bridge = Program::start([
        "--feed.url=ws://127.0.0.1:9",
        "--state.disabled",
        "--web.allowed-hosts=metrics.example",
        &listen,
    ]);
    wait_until("a socket", || UnixStream::connect(&path).is_ok());
    for page in ["/metrics", "/", "/-/healthy"] {
        let browser = |host| over_unix(&path, page, &[host, "Accept-Language: en"]);
        let refused = browser("Host: evil.example");
        assert_eq!((refused.status, browser("Host: metrics.example").status), (421, 200), "{page}");
        assert!(refused.text().contains("--web.allowed-hosts=evil.example"), "{}", refused.text());
        assert_eq!(over_unix(&path, page, &["Host: evil.example"]).status, 200, "{page}: not of a browser");
    }
}
