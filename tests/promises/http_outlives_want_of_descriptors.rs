//! A connection waits where the process has no descriptor left for it, and those that are open are served.

use std::collections::BTreeSet;
use std::fs::File;
use std::os::fd::AsRawFd as _;
use std::sync::atomic::Ordering;

use crate::support::alone::alone;
use crate::support::http_client::Connection;
use crate::support::scrape::Scrape;
use crate::support::served::{MadeUp, Served};
use crate::support::wait_until;
use bytes::Bytes;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use session_buddy_bridge::PrometheusExporter;
use session_buddy_bridge::internals::http::HttpSettings;

#[test]
fn a_connection_that_finds_no_descriptor_is_served_once_there_is_one() {
    alone(|| {
        let server = Served::start(MadeUp::showing(|| Bytes::from_static(b"small\n")), HttpSettings::default());
        // This connection stays, so that none of its descriptors comes free in the middle of what follows.
        let mut first = Connection::open(server.address);
        first.send(b"GET /metrics HTTP/1.1\r\nHost: test\r\n\r\n");
        assert_eq!(first.response_to("GET").status, 200);

        let next_descriptor = File::open("/dev/null").unwrap().as_raw_fd();
        let before = getrlimit(Resource::Nofile);
        // Room for one more: the client's end takes it, and the server's end finds none.
        let room_for_one = Rlimit { current: Some(u64::try_from(next_descriptor).unwrap() + 1), ..before };
        setrlimit(Resource::Nofile, room_for_one).unwrap();
        let mut waiting = Connection::open(server.address);
        wait_until("accepting has failed", || server.content.accept_failures.load(Ordering::SeqCst) >= 2);
        setrlimit(Resource::Nofile, before).unwrap();
        waiting.send(b"GET /metrics HTTP/1.1\r\nHost: test\r\n\r\n");
        assert_eq!(waiting.response_to("GET").text(), "small\n");
        server.stop();
    });
}

#[test]
fn a_scrape_without_a_free_descriptor_has_the_metrics_of_the_process() {
    alone(|| {
        let exporter = PrometheusExporter::at(([127, 0, 0, 1], 0).into());
        exporter.start().unwrap();
        let mut connection = Connection::open(exporter.local_addr().unwrap());
        let mut names = || {
            connection.send(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n");
            let scrape = Scrape::parse(connection.response_to("GET").text()).unwrap();
            let names = scrape.samples.into_keys().map(|series| series.name);
            names.filter(|name| name.starts_with("process_")).collect::<BTreeSet<_>>()
        };
        let before = names();
        assert!(before.contains("process_open_fds") && before.contains("process_resident_memory_bytes"), "{before:?}");

        let next_descriptor = File::open("/dev/null").unwrap().as_raw_fd();
        let no_room = Rlimit { current: u64::try_from(next_descriptor).ok(), ..getrlimit(Resource::Nofile) };
        setrlimit(Resource::Nofile, no_room).unwrap();
        assert!(File::open("/dev/null").is_err());
        assert_eq!(names(), before);
    });
}
