//! What each path answers, to the header.

use crate::support::http_client::{Connection, get, request};
use crate::support::scrape::Scrape;
use crate::support::served::{MadeUp, Served};
use bytes::Bytes;
use session_buddy_bridge::internals::http::HttpSettings;

const METRICS: &str = "# HELP shown Something.\n# TYPE shown gauge\nshown 1\n";
const PATHS: [&str; 4] = ["/metrics", "/", "/-/healthy", "/-/ready"];

fn served() -> Served {
    served_at("/metrics")
}

fn served_at(telemetry_path: &str) -> Served {
    let settings = HttpSettings { telemetry_path: telemetry_path.to_owned(), ..HttpSettings::default() };
    Served::start(MadeUp::showing(|| Bytes::from_static(METRICS.as_bytes())), settings)
}

#[test]
fn metrics_are_the_content_as_it_is() {
    let server = served();
    let response = get(server.address, "/metrics");
    assert_eq!((response.status, response.text()), (200, METRICS));
    assert_eq!(response.header("content-type"), Some("text/plain; version=0.0.4; charset=utf-8"));
    assert_eq!(response.header("cache-control"), Some("no-store"));
    assert_eq!(response.header("content-length"), Some(METRICS.len().to_string().as_str()));
    assert_eq!(Scrape::fetch(server.address, "/metrics").value("shown", &[]), Some(1.0));
    server.stop();
}

#[test]
fn a_scrape_that_panics_is_a_500_and_the_next_on_the_connection_is_served() {
    for is_small in [false, true] {
        let mut scrapes = 0;
        let scrapes = std::sync::Mutex::new(move || {
            scrapes += 1;
            scrapes
        });
        let content = MadeUp::showing(move || {
            let scrape = (scrapes.lock().unwrap_or_else(std::sync::PoisonError::into_inner))();
            assert!(scrape > 1, "the first scrape fails");
            Bytes::from_static(METRICS.as_bytes())
        });
        let server = Served::start(MadeUp { is_small, ..content }, HttpSettings::default());
        let mut connection = Connection::open(server.address);
        let mut scrape = || {
            connection.send(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n");
            connection.response_to("GET")
        };
        let failed = scrape();
        assert_eq!((failed.status, failed.text()), (500, "The metrics could not be written. See the log.\n"));
        assert_eq!(scrape().text(), METRICS);
        server.stop();
    }
}

#[test]
fn head_has_the_headers_of_get_and_no_body() {
    let server = served();
    for path in PATHS.into_iter().chain(["/nowhere"]) {
        let (head, get) = (request(server.address, "HEAD", path), get(server.address, path));
        let without_date = |headers: &[(String, String)]| {
            headers.iter().filter(|(name, _)| name != "date").cloned().collect::<Vec<_>>()
        };
        assert_eq!((head.status, without_date(&head.headers)), (get.status, without_date(&get.headers)), "{path}");
        assert_eq!(head.header("content-length"), Some(get.body.len().to_string().as_str()), "{path}");
        assert!(!get.body.is_empty(), "{path}");
    }
    server.stop();
}

#[test]
fn other_methods_are_told_which_are_allowed() {
    let server = served();
    for method in ["POST", "PUT", "DELETE", "OPTIONS", "PATCH", "TRACE", "BREW"] {
        for path in PATHS {
            let response = request(server.address, method, path);
            assert_eq!((response.status, response.header("allow")), (405, Some("GET, HEAD")), "{method} {path}");
            assert_eq!(response.text(), "Method not allowed. Use GET or HEAD.\n");
        }
        assert_eq!(request(server.address, method, "/nowhere").status, 404, "{method}");
    }
    server.stop();
}

#[test]
fn unknown_paths_are_told_which_are_known() {
    let server = served();
    for path in ["/nowhere", "/metrics/", "/METRICS", "//", "/-/healthy/x", "/%2d/ready", "/metrics%00"] {
        let response = get(server.address, path);
        assert_eq!(response.status, 404, "{path}");
        assert_eq!(response.text(), "Not found. Pages: /metrics, /, /-/healthy, /-/ready\n");
    }
    assert_eq!(request(server.address, "CONNECT", "example.org:443").status, 404);
    assert_eq!(request(server.address, "OPTIONS", "*").status, 404);
    server.stop();
}

#[test]
fn query_strings_and_absolute_targets_change_nothing() {
    let server = served();
    for target in ["/metrics?name[]=shown", "/metrics?", "http://example.org/metrics", "/metrics?a=/-/ready"] {
        assert_eq!(get(server.address, target).text(), METRICS, "{target}");
    }
    server.stop();
}

#[test]
fn a_request_body_is_ignored() {
    let server = served();
    let mut connection = Connection::open(server.address);
    connection.send(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\n\r\nhello");
    assert_eq!(connection.response_to("GET").text(), METRICS);
    connection.send(
        b"POST /metrics HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100000000\r\nConnection: close\r\n\r\nhello",
    );
    assert_eq!(connection.response_to("POST").status, 405);
    connection.expect_end();
    server.stop();
}

#[test]
fn healthy_whatever_the_feeds_do() {
    let server = served();
    server.content.set_readiness(false, "Not ready.\n");
    let response = get(server.address, "/-/healthy");
    assert_eq!((response.status, response.text()), (200, "Healthy.\n"));
    server.stop();
}

#[test]
fn ready_is_200_and_not_ready_503_with_the_text_of_the_content() {
    let server = served();
    for (is_ready, status, text) in
        [(true, 200, "Ready.\n"), (false, 503, "Not ready: no feed is live.\na: not live\n")]
    {
        server.content.set_readiness(is_ready, text);
        let response = get(server.address, "/-/ready");
        assert_eq!((response.status, response.text()), (status, text));
    }
    server.stop();
}

#[test]
fn the_page_links_everything_and_escapes_what_it_shows() {
    let server = served_at("/<metrics>&'\"");
    let response = get(server.address, "/");
    let html = response.text();
    assert_eq!(response.status, 200);
    assert_eq!(response.header("content-type"), Some("text/html; charset=utf-8"));
    let policy = response.header("content-security-policy").expect("a policy");
    assert!(policy.starts_with("default-src 'none'; script-src 'self'; style-src 'self'; "), "{policy}");
    assert!(!policy.contains("unsafe"), "{policy}");
    for part in ["<a href=\"./&lt;metrics&gt;&amp;&#39;&quot;\">", "<a href=\"-/healthy\">", "<a href=\"-/ready\">"] {
        assert!(html.contains(part), "{part} is not in\n{html}");
    }
    assert!(!html.contains("<script>") && !html.contains("<style"), "nothing is inline");
    let quoted = |name: &str| -> Vec<String> {
        html.split(name).skip(1).map(|rest| rest.split('"').next().unwrap().to_owned()).collect()
    };
    let files: Vec<String> = [quoted("src=\""), quoted("<link rel=\"stylesheet\" href=\"")].concat();
    assert_eq!(files.len(), 4, "{files:?}");
    for file in files {
        let response = get(server.address, &format!("/{file}"));
        assert_eq!((response.status, response.header("x-content-type-options")), (200, Some("nosniff")), "{file}");
    }
    server.stop();
}

#[test]
fn the_telemetry_path_may_be_the_root_or_any_other() {
    let server = served_at("/");
    assert_eq!(get(server.address, "/").text(), METRICS);
    assert_eq!(get(server.address, "/metrics").status, 404);
    server.stop();
    let server = served_at("/deep/er");
    assert_eq!(get(server.address, "/deep/er").text(), METRICS);
    assert_eq!(get(server.address, "/metrics").text(), "Not found. Pages: /deep/er, /, /-/healthy, /-/ready\n");
    server.stop();
}

#[test]
fn pipelined_requests_are_answered_in_order_on_one_connection() {
    let server = served();
    let mut connection = Connection::open(server.address);
    let requests =
        [("GET", "/metrics"), ("HEAD", "/"), ("GET", "/-/healthy"), ("GET", "/nowhere"), ("GET", "/-/ready")];
    let text: String =
        requests.iter().map(|(method, path)| format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\n\r\n")).collect();
    connection.send(text.repeat(20).as_bytes());
    for _ in 0..20 {
        let statuses = requests.map(|(method, _)| connection.response_to(method).status);
        assert_eq!(statuses, [200, 200, 200, 404, 200]);
    }
    server.stop();
}

#[test]
fn requests_are_counted_by_path_and_code_and_there_are_few_paths() {
    let server = served();
    let requests = [
        ("GET", "/metrics", "/metrics", 200),
        ("HEAD", "/metrics?a=b", "/metrics", 200),
        ("POST", "/metrics", "/metrics", 405),
        ("GET", "/", "/", 200),
        ("GET", "/assets/nothing.js", "other", 404),
        ("GET", "/api/v1/nothing", "/api/v1/", 404),
        ("GET", "/-/healthy", "/-/healthy", 200),
        ("GET", "/-/ready", "/-/ready", 200),
        ("POST", "/-/reload", "/-/reload", 403),
        ("GET", "/-/reload/more", "other", 404),
        ("GET", "/wp-login.php", "other", 404),
        ("OPTIONS", "/%2e%2e/etc/passwd", "other", 404),
    ];
    for (method, path, ..) in requests {
        request(server.address, method, path);
    }
    let expected: Vec<_> = requests.iter().map(|(_, _, label, code)| ((*label).to_owned(), *code)).collect();
    assert_eq!(*server.content.answered.lock().unwrap(), expected);
    server.stop();
}
