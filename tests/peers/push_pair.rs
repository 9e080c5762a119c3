//! A pair of bridges on one server is one series of each counter at a receiver that deduplicates.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use rusqlite::Connection;
use rustix::process::Signal;
use tempfile::TempDir;

use crate::support::eventually;
use crate::support::peers::numbers::Numbers;
use crate::support::peers::received::{Received, five_families, newest_millis};
use crate::support::peers::receivers::{Receiver, releases_or_skip};
use crate::support::peers::session_buddy::{Pace, SessionBuddy};
use crate::support::program::Program;
use crate::support::push_senders::unix_millis;
use crate::support::scrape::Scrape;
use crate::support::{equal, holds};

/// The shortest that `--push.interval` takes.
const INTERVAL: Duration = Duration::from_secs(5);

const SELECTOR: &str = "instance=\"team\"";

fn pace(seed: u64) -> Pace {
    Pace { invocations: 100, invocations_per_second: 100.0, anomaly_every: 25, skills: 5, seed }
}

fn start(feed_port: u16, database: &Path, state: &Path, replica: &str, receiver: &Receiver) -> (Program, SocketAddr) {
    let arguments = [
        format!("--feed.url=ws://127.0.0.1:{feed_port}"),
        format!("--feed.skills-db={}", database.display()),
        format!("--state.path={}", state.display()),
        "--web.listen-address=127.0.0.1:0".to_owned(),
        format!("--push.url={}", receiver.url()),
        format!("--push.interval={}s", INTERVAL.as_secs()),
        "--push.label=cluster=team".to_owned(),
        format!("--push.label=__replica__={replica}"),
        "--push.label=instance=team".to_owned(),
    ];
    let mut bridge = Program::start(arguments.iter().map(String::as_str));
    let address = bridge.address();
    (bridge, address)
}

/// The second bridge starts from a copy of the first one's state, as on another machine, and the first one is killed later. Both read
/// the database, so that they count the same.
#[test]
fn a_pair_that_began_as_one_state_is_one_counter_through_a_switch() {
    let Some(session_buddy) = SessionBuddy::find_or_skip() else { return };
    let Some([_, release]) = releases_or_skip() else { return };
    let receiver = Receiver::start_deduplicating(release, INTERVAL);
    let directory = TempDir::new().unwrap();
    let [database, one, two] = ["skills.db", "one.db", "two.db"].map(|name| directory.path().join(name));
    let server = session_buddy.serve_every(0.2, &database, 0, &[]);
    let held = || Numbers::held(&session_buddy.truth(&database));
    let until_shown = |address: SocketAddr| {
        let held = held();
        eventually("the bridge to show the database", || {
            let scrape = Scrape::try_fetch(address)?;
            equal(&Numbers::shown(&scrape), &held).map(|()| five_families(&scrape))
        })
    };
    let until_received = |address: SocketAddr| {
        let shown = until_shown(address);
        let since = unix_millis();
        eventually("the receiver to hold it", || {
            let received = Received::new(&receiver, SELECTOR)?;
            // A tick of each bridge, so that it shows what both of them sent.
            let newest = newest_millis(&receiver, SELECTOR).unwrap_or_default();
            holds(newest > since + INTERVAL.as_millis() as i64, "the ticks are earlier")?;
            received.has_last_values(&shown)?;
            received.shows_no_reset(&shown)
        });
        shown
    };

    let (first, address) = start(server.port, &database, &one, "a", &receiver);
    eventually("a tick of the empty database", || newest_millis(&receiver, SELECTOR).ok_or_else(|| "none".to_owned()));
    session_buddy.drive(&database, &pace(1)).end();
    until_shown(address);
    first.signal(Signal::TERM);
    assert!(first.end().is_success());
    fs::copy(&one, &two).unwrap();
    // As on another machine.
    Connection::open(&two).unwrap().execute("UPDATE push_identity SET host_hash = host_hash + 1", []).unwrap();
    let (first, address) = start(server.port, &database, &one, "a", &receiver);
    let (mut second, other_address) = start(server.port, &database, &two, "b", &receiver);
    second.until_stderr("its own identity", |log| log.contains("copied"));
    session_buddy.drive(&database, &pace(2)).end();
    let shown = until_received(address);
    assert_eq!(until_shown(other_address), shown, "both show the same");

    drop(first);
    session_buddy.drive(&database, &pace(3)).end();
    let shown = until_received(other_address);
    let received = Received::new(&receiver, SELECTOR).unwrap();
    received.increased_by_values(&shown).unwrap();
    assert_eq!(held().total(), 300);
}
