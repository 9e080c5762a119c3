//! Clients that are slow, many, greedy or gone take only what the limits give them, and shutdown waits for none.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use crate::support::http_client::{Connection, get};
use crate::support::served::{MadeUp, Served};
use crate::support::web_site::{TLS, WebSite};
use crate::support::{PATIENCE, wait_until};
use bytes::Bytes;
use session_buddy_bridge::internals::http::{HttpLimits, HttpSettings};

const SHORT: Duration = Duration::from_millis(200);
const GET: &[u8] = b"GET /metrics HTTP/1.1\r\nHost: test\r\n\r\n";

/// More than the buffers of two loopback sockets hold.
const HUGE_BYTES: usize = 64 << 20;

fn small() -> MadeUp {
    MadeUp::showing(|| Bytes::from_static(b"small\n"))
}

fn huge() -> MadeUp {
    let body = Bytes::from(vec![b'x'; HUGE_BYTES]);
    MadeUp::showing(move || body.clone())
}

fn limited(limits: HttpLimits) -> HttpSettings {
    HttpSettings { limits, ..HttpSettings::default() }
}

/// With a grace that outlasts every test's patience: what ends has ended by itself and was not cut off.
fn graceful() -> HttpSettings {
    limited(HttpLimits { shutdown_grace: PATIENCE * 10, ..HttpLimits::default() })
}

#[test]
fn headers_that_do_not_end_in_time_end_the_connection() {
    let server = Served::start(small(), limited(HttpLimits { header_read_timeout: SHORT, ..HttpLimits::default() }));
    let mut silent = Connection::open(server.address);
    let mut halted = Connection::open(server.address);
    halted.send(b"GET /metrics HTTP/1.1\r\nHost: te");
    let mut idle = Connection::open(server.address);
    idle.send(GET);
    assert_eq!(idle.response_to("GET").status, 200);
    silent.expect_end();
    halted.expect_end();
    idle.expect_end();
    assert_eq!(get(server.address, "/metrics").status, 200);
    server.stop();
}

#[test]
fn a_header_byte_at_a_time_does_not_extend_the_time() {
    let server = Served::start(small(), limited(HttpLimits { header_read_timeout: SHORT, ..HttpLimits::default() }));
    let mut dripping = Connection::open(server.address);
    dripping.send(b"GET /metrics HTTP/1.1\r\nX: ");
    wait_until("the connection ends", || dripping.try_send(b"x").is_err());
    server.stop();
}

#[test]
fn headers_over_the_limit_are_answered_with_431() {
    let server = Served::start(small(), limited(HttpLimits { header_bytes_max: 10_000, ..HttpLimits::default() }));
    let request = |header_bytes: usize| {
        format!("GET /metrics HTTP/1.1\r\nHost: test\r\nX: {}\r\n\r\n", "x".repeat(header_bytes)).into_bytes()
    };
    let mut connection = Connection::open(server.address);
    connection.send(&request(9_900));
    assert_eq!(connection.response_to("GET").status, 200);
    for header_bytes in [10_100, 1 << 20] {
        let mut connection = Connection::open(server.address);
        let _ = connection.try_send(&request(header_bytes));
        assert_eq!(connection.response_to("GET").status, 431, "{header_bytes}");
        connection.expect_end();
    }
    let mut connection = Connection::open(server.address);
    connection.send(format!("GET /metrics HTTP/1.1\r\n{}\r\n", "X: y\r\n".repeat(1000)).as_bytes());
    assert_eq!(connection.response_to("GET").status, 431, "many small headers");
    server.stop();
}

#[test]
fn a_client_that_ends_sending_after_its_requests_gets_every_answer_whole() {
    let server = Served::start(huge(), HttpSettings::default());
    let mut connection = Connection::open(server.address);
    connection.send(b"GET /-/healthy HTTP/1.1\r\nHost: test\r\n\r\n");
    connection.send(GET);
    connection.end_sending().unwrap();
    assert_eq!(connection.response_to("GET").text(), "Healthy.\n");
    assert_eq!(connection.response_to("GET").body.len(), HUGE_BYTES);
    connection.expect_end();

    let mut unfinished = Connection::open(server.address);
    unfinished.send(b"GET /metrics HTTP/1.1\r\nHost: te");
    unfinished.end_sending().unwrap();
    unfinished.expect_end();
    let mut silent = Connection::open(server.address);
    silent.end_sending().unwrap();
    silent.expect_end();
    server.stop();
}

#[test]
fn a_client_that_ends_sending_while_its_answer_is_written_gets_it() {
    let (content, begun, release) = MadeUp::held("late\n");
    let server = Served::start(content, HttpSettings::default());
    let mut connection = Connection::open(server.address);
    connection.send(GET);
    begun.recv_timeout(PATIENCE).unwrap();
    connection.end_sending().unwrap();
    assert_eq!(get(server.address, "/-/healthy").status, 200, "the server has had time to see the end");
    release.send(()).unwrap();
    assert_eq!(connection.response_to("GET").text(), "late\n");
    connection.expect_end();
    server.stop();
}

#[test]
fn one_connection_too_many_is_refused_and_counted_and_a_free_place_is_given_again() {
    let server = Served::start(small(), limited(HttpLimits { connections_max: 3, ..HttpLimits::default() }));
    let mut open: Vec<_> = (0..3).map(|_| Connection::open(server.address)).collect();
    for connection in &mut open {
        connection.send(GET);
        assert_eq!(connection.response_to("GET").status, 200);
    }
    let mut refused = Connection::open(server.address);
    let response = refused.response_to("GET");
    assert_eq!((response.status, response.text()), (503, "Too many connections. Try again shortly.\n"));
    refused.expect_end();
    assert_eq!(server.content.refused.load(Ordering::SeqCst), 1);

    open[0].send(GET);
    assert_eq!(open[0].response_to("GET").status, 200, "the others are served on");
    open.pop();
    wait_until("the place is free", || {
        let mut next = Connection::open(server.address);
        let _ = next.try_send(b"GET /-/healthy HTTP/1.1\r\nHost: test\r\n\r\n");
        next.response_to("GET").status == 200
    });
    server.stop();
}

#[test]
fn a_reader_that_hangs_is_cut_off_and_its_scrape_given_up() {
    let scrapes = AtomicUsize::new(0);
    let content = MadeUp::showing(move || match scrapes.fetch_add(1, Ordering::SeqCst) {
        0 => Bytes::from(vec![b'x'; HUGE_BYTES]),
        _ => Bytes::from_static(b"small\n"),
    });
    let limits = HttpLimits { write_timeout: SHORT, scrapes_max: 1, scrape_wait: PATIENCE, ..HttpLimits::default() };
    let server = Served::start(content, limited(limits));
    let mut hanging = Connection::open(server.address);
    hanging.send(GET);
    hanging.wait_for_bytes();
    assert_eq!(get(server.address, "/metrics").text(), "small\n", "the only place is free once the first is cut off");
    let received = hanging.rest().len();
    assert!(received < HUGE_BYTES, "{received} bytes were received");
    server.stop();
}

#[test]
fn a_reader_that_hangs_over_tls_is_cut_off_too() {
    let site = WebSite::new();
    // Each response fits into the buffer of TLS, and all of them into no socket.
    let content = MadeUp::showing(|| Bytes::from(vec![b'x'; 32 << 10]));
    let limits = HttpLimits { write_timeout: SHORT, connections_max: 1, ..HttpLimits::default() };
    let server = site.serve_content(TLS, content, limits);
    let mut hanging = site.connect_encrypted(server.address, None);
    hanging.send(&GET.repeat(HUGE_BYTES / (32 << 10)));
    hanging.wait_for_bytes();
    wait_until("the only connection to be free", || site.get_encrypted(server.address, None).is_ok());
    server.stop();
}

#[test]
fn a_reader_that_takes_its_time_within_the_limit_gets_everything() {
    let server = Served::start(huge(), HttpSettings::default());
    let mut connection = Connection::open(server.address);
    connection.send(GET);
    connection.wait_for_bytes();
    let mut other = Connection::open(server.address);
    other.send(GET);
    assert_eq!(other.response_to("GET").body.len(), HUGE_BYTES);
    assert_eq!(connection.response_to("GET").body.len(), HUGE_BYTES);
    server.stop();
}

#[test]
fn scrapes_beyond_the_limit_wait_and_then_hear_that_there_are_too_many() {
    let (content, begun, release) = MadeUp::held("late\n");
    let limits = HttpLimits { scrapes_max: 1, scrape_wait: SHORT, ..HttpLimits::default() };
    let server = Served::start(content, limited(limits));
    let mut first = Connection::open(server.address);
    first.send(GET);
    begun.recv_timeout(PATIENCE).unwrap();
    let busy = get(server.address, "/metrics");
    assert_eq!((busy.status, busy.header("retry-after")), (503, Some("1")));
    assert_eq!(get(server.address, "/-/healthy").status, 200, "other pages need no place");
    release.send(()).unwrap();
    assert_eq!(first.response_to("GET").text(), "late\n");
    server.stop();
}

#[test]
fn many_clients_at_once_are_all_served() {
    let scrapes = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&scrapes);
    let content = MadeUp::showing(move || {
        counted.fetch_add(1, Ordering::SeqCst);
        Bytes::from_static(b"small\n")
    });
    let server = Served::start(content, HttpSettings::default());
    std::thread::scope(|scope| {
        for _ in 0..64 {
            scope.spawn(|| (0..4).for_each(|_| assert_eq!(get(server.address, "/metrics").text(), "small\n")));
        }
    });
    assert_eq!(scrapes.load(Ordering::SeqCst), 64 * 4);
    server.stop();
}

#[test]
fn shutdown_closes_idle_connections_and_accepts_no_more() {
    let server = Served::start(small(), graceful());
    let mut fresh = Connection::open(server.address);
    let mut idle = Connection::open(server.address);
    idle.send(GET);
    assert_eq!(idle.response_to("GET").status, 200);
    let address = server.address;
    server.stop();
    fresh.expect_end();
    idle.expect_end();
    assert!(std::net::TcpStream::connect(address).is_err());
}

#[test]
fn shutdown_lets_a_request_in_flight_end_whole() {
    let (content, begun, release) = MadeUp::held(vec![b'x'; HUGE_BYTES]);
    let server = Served::start(content, graceful());
    let mut connection = Connection::open(server.address);
    connection.send(GET);
    begun.recv_timeout(PATIENCE).unwrap();
    server.begin_shutdown();
    wait_until("nothing more is accepted", || std::net::TcpStream::connect(server.address).is_err());
    release.send(()).unwrap();
    let response = connection.response_to("GET");
    assert_eq!((response.status, response.body.len()), (200, HUGE_BYTES));
    connection.expect_end();
    server.stop();
}

#[test]
fn shutdown_does_not_cut_a_response_that_is_on_its_way() {
    let server = Served::start(huge(), graceful());
    let mut connection = Connection::open(server.address);
    connection.send(GET);
    connection.wait_for_bytes();
    server.begin_shutdown();
    wait_until("nothing more is accepted", || std::net::TcpStream::connect(server.address).is_err());
    assert_eq!(connection.response_to("GET").body.len(), HUGE_BYTES);
    connection.expect_end();
    server.stop();
}

#[test]
fn shutdown_waits_for_nobody_who_hangs() {
    let limits = HttpLimits {
        shutdown_grace: SHORT,
        write_timeout: PATIENCE * 10,
        header_read_timeout: PATIENCE * 10,
        ..HttpLimits::default()
    };
    let server = Served::start(huge(), limited(limits));
    let mut hanging = Connection::open(server.address);
    hanging.send(GET);
    hanging.wait_for_bytes();
    let mut halted = Connection::open(server.address);
    halted.send(b"GET /metrics HTTP/1.1\r\nHost: te");
    server.stop();
    assert!(hanging.rest().len() < HUGE_BYTES);
    halted.expect_end();
}
