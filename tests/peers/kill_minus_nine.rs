//! Killed at any moment, again and again, the bridge comes back with nothing lost and nothing twice, and no counter falls.
//!
//! The short form kills it 12 times; `SESSION_BUDDY_BRIDGE_LONG=1` 300 times.

use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use crate::support::peers::bridge::sums;
use crate::support::peers::numbers::Numbers;
use crate::support::peers::session_buddy::{Pace, SessionBuddy};
use crate::support::program::Program;
use crate::support::scrape::Scrape;
use crate::support::watcher::Watcher;
use crate::support::{eventually, holds, is_long};
use tempfile::TempDir;

/// Written until the test has seen enough. Ten skills, so that none is hidden; and so few anomalies a second (0.5) that
/// it would take an outage of twenty seconds to hide one.
const PACE: Pace =
    Pace { invocations: u32::MAX, invocations_per_second: 25.0, anomaly_every: 50, skills: 10, seed: 11 };

const SNAPSHOT_INTERVAL_SECONDS: f64 = 0.2;

#[test]
fn no_kill_shows() {
    let Some(session_buddy) = SessionBuddy::find_or_skip() else { return };
    let kills = if is_long() { 300 } else { 12 };
    let directory = TempDir::new().unwrap();
    let (database, state) = (directory.path().join("skills.db"), directory.path().join("state.db"));
    let server = session_buddy.serve_every(SNAPSHOT_INTERVAL_SECONDS, &database, 0, &[]);
    let address = unused_address();
    let began = Instant::now();
    let mut bridge = start(address, server.port, &state);
    // Shown once it is kept, and so known to whoever comes after the first kill: all that happens is new.
    until(address, "the empty database", |scrape| {
        sums(scrape, "session_buddy_bridge_feed_tenth_skill_invocations", []).get(&[]) == Some(&0.0)
    });
    let watcher = Watcher::start(address);
    let driver = session_buddy.drive(&database, &PACE);

    let mut chance = fastrand::Rng::with_seed(9);
    let mut killed_before_they_answered = 0;
    for kill in 1..=kills {
        assert!(watcher.is_watching(), "a counter fell before kill {kill}");
        // Every fourth bridge lives until it is heard to hear, so that no outage grows too long; the others die at any
        // moment of their start or soon after.
        if kill % 4 == 0 {
            until(address, "a snapshot", |scrape| heard(scrape) > 0.0);
        }
        thread::sleep(Duration::from_micros(chance.u64(0..[60_000, 400_000, 2_000_000][kill % 3])));
        killed_before_they_answered += usize::from(!bridge.printed().contains("listening"));
        drop(bridge);
        bridge = start(address, server.port, &state);
    }
    let lasted = began.elapsed();
    drop(driver);

    let held = Numbers::held(&session_buddy.truth(&database));
    let shown = eventually("the scrape to equal the database", || {
        let shown = Numbers::shown(&Scrape::try_fetch(address)?);
        if shown == held { Ok(shown) } else { Err(format!("{shown:#?}\nwhere the database holds {held:#?}")) }
    });
    let enough = heard(&Scrape::try_fetch(address).unwrap()) + 5.0;
    until(address, "snapshots that say nothing new", |scrape| heard(scrape) >= enough);
    let later = Scrape::try_fetch(address).unwrap();
    assert_eq!(Numbers::shown(&later), held, "snapshots that say nothing new change nothing");
    assert_eq!(later.sum("session_buddy_bridge_feed_resets_total"), 0.0);
    assert_eq!(later.sum("session_buddy_bridge_feed_rollbacks_total"), 0.0);
    let durations: u64 = held.durations.values().sum();
    let observed =
        ["exact", "estimated"].map(|how| later.sum(&format!("session_buddy_bridge_{how}_observations_total")));
    assert_eq!(observed.iter().sum::<f64>(), durations as f64, "every duration is known to be exact or estimated");
    let watched = watcher.finish();
    assert!(watched.unanswered > 0, "nobody looked while the bridge was dead");
    println!(
        "{kills} kills in {lasted:.0?}, {killed_before_they_answered} of them before it listened; {} invocations of {} \
         skills, {} anomalies; {} scrapes, {} without an answer; {} durations exact, {} estimated; sums within {:e} s",
        held.total(),
        held.durations.len(),
        held.anomalies.values().sum::<u64>(),
        watched.scrapes,
        watched.unanswered,
        observed[0],
        observed[1],
        shown.sums_apart_seconds(&held),
    );
}

/// An address that stays free while nobody listens there: other tests use 127.0.0.1 alone.
fn unused_address() -> SocketAddr {
    TcpListener::bind("127.0.83.1:0").unwrap().local_addr().unwrap()
}

/// Dropping it is `kill -9`.
fn start(address: SocketAddr, feed_port: u16, state: &Path) -> Program {
    let (feed, listen) = (format!("ws://127.0.0.1:{feed_port}"), address.to_string());
    let state = state.to_str().unwrap();
    Program::start(["--feed.url", &feed, "--web.listen-address", &listen, "--state.path", state])
}

fn until(address: SocketAddr, awaited: &str, mut look: impl FnMut(&Scrape) -> bool) {
    eventually(awaited, || holds(look(&Scrape::try_fetch(address)?), "not yet"));
}

fn heard(scrape: &Scrape) -> f64 {
    let by_type = sums(scrape, "session_buddy_bridge_feed_messages_total", ["type"]);
    by_type.get(&["metrics_update".to_owned()]).copied().unwrap_or_default()
}
