//! Failures by cause, counted from the rows of Session-Buddy's own storage, equal SQL, in a scrape and in a real Prometheus,
//! although the bridge is killed and restarted all the while.

use std::collections::BTreeMap;
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::thread;
use std::time::Duration;

use crate::support::peers::prometheus::PrometheusTools;
use crate::support::peers::session_buddy::{Pace, SessionBuddy};
use crate::support::program::Program;
use crate::support::report_sql::{failures, last_invoked_seconds};
use crate::support::scrape::Scrape;
use crate::support::{PATIENCE, equal, eventually};
use rusqlite::Connection;
use rustix::process::Signal;
use tempfile::TempDir;

const FAILURES: &str = "session_buddy_bridge_skill_failures_total";

const LAST_INVOKED: &str = "session_buddy_bridge_skill_last_invoked_timestamp_seconds";

const PACE: Pace = Pace { invocations: 500, invocations_per_second: 150.0, anomaly_every: 50, skills: 6, seed: 5 };

/// Every second one is in order.
const RESTARTS: usize = 8;

#[test]
fn failures_and_times_equal_sql_through_kills_and_restarts() {
    let Some(session_buddy) = SessionBuddy::find_or_skip() else { return };
    let Some(tools) = PrometheusTools::find_or_skip() else { return };
    let folder = TempDir::new().unwrap();
    let (database, state) = (folder.path().join("skills.db"), folder.path().join("state.db"));
    let server = session_buddy.serve_every(0.2, &database, 0, &[]);
    let address = unused_address();
    let configuration = format!(
        "global: {{scrape_interval: 200ms, scrape_timeout: 200ms}}\nscrape_configs:\n  - job_name: bridge\n    \
         static_configs: [{{targets: ['{address}']}}]\n"
    );
    let prometheus = tools.start(&configuration);
    let mut bridge = start(address, server.port, &database, &state);
    let driver = session_buddy.drive(&database, &PACE);
    let mut chance = fastrand::Rng::with_seed(4);
    for restart in 0..RESTARTS {
        // Before it has opened the database, while it reads, and later.
        thread::sleep(Duration::from_micros(chance.u64(0..[60_000, 400_000, 900_000][restart % 3])));
        if restart % 2 == 0 {
            drop(bridge);
        } else {
            bridge.signal(Signal::TERM);
            bridge.end_within(PATIENCE);
        }
        bridge = start(address, server.port, &database, &state);
    }
    assert!(driver.end().is_success());

    let connection = Connection::open(&database).unwrap();
    let due = failures(&connection);
    assert!(due.len() > 6 && due.values().sum::<u64>() > 40, "{due:?}");
    let names = |labels: &BTreeMap<String, String>| (labels["skill_name"].clone(), labels["error_type"].clone());
    let shown = |scrape: &Scrape| -> BTreeMap<_, _> {
        scrape.series(FAILURES).into_iter().map(|(labels, value)| (names(labels), value as u64)).collect()
    };
    eventually("the failures to equal the database", || equal(&shown(&Scrape::try_fetch(address)?), &due));
    eventually("Prometheus to have them", || {
        let series = prometheus.query(FAILURES, None);
        let values = series.iter().map(|series| (names(&series.labels), series.value() as u64));
        equal(&values.collect::<BTreeMap<_, _>>(), &due)
    });
    let resets = prometheus.query(&format!("sum(resets({FAILURES}[10m]))"), None);
    assert_eq!(resets.iter().map(|series| series.value()).collect::<Vec<_>>(), [0.0], "no counter fell");
    let last = |scrape: &Scrape| -> BTreeMap<String, i64> {
        let series = scrape.series(LAST_INVOKED).into_iter();
        series.map(|(labels, value)| (labels["skill_name"].clone(), value.floor() as i64)).collect()
    };
    assert_eq!(last(&Scrape::try_fetch(address).unwrap()), last_invoked_seconds(&connection));
}

/// An address that stays free while nobody listens there: other tests use other ones.
fn unused_address() -> SocketAddr {
    TcpListener::bind("127.0.83.3:0").unwrap().local_addr().unwrap()
}

/// Dropping it is `kill -9`.
fn start(address: SocketAddr, feed_port: u16, database: &Path, state: &Path) -> Program {
    let (feed, listen) = (format!("ws://127.0.0.1:{feed_port}"), address.to_string());
    let [database, state] = [database, state].map(|path| path.to_str().unwrap());
    let of_feed = ["--feed.url", &feed, "--feed.skills-db", database];
    Program::start(of_feed.into_iter().chain(["--web.listen-address", &listen, "--state.path", state]))
}
