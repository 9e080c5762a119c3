//! A connection waits where the process has no descriptor left for it.

use std::fs::File;
use std::os::fd::AsRawFd as _;
use std::sync::atomic::Ordering;

use crate::support::alone::alone;
use crate::support::http_client::Connection;
use crate::support::served::{MadeUp, Served};
use crate::support::wait_until;
use bytes::Bytes;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
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
