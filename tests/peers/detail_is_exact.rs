//! Beside the real server and its database every series of every family equals what SQL counts from the rows, bucket by
//! bucket: through kills of the bridge, restarts of the server and a database that is deleted.
//!
//! The short form kills the bridge 6 times; `SESSION_BUDDY_BRIDGE_LONG=1` 50 times, over a minute of invocations at least.

use std::collections::BTreeMap;
use std::fs;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use crate::support::peers::bridge::sums;
use crate::support::peers::numbers::Near;
use crate::support::peers::session_buddy::{Pace, SessionBuddy};
use crate::support::program::Program;
use crate::support::scrape::Scrape;
use crate::support::watcher::Watcher;
use crate::support::{equal, eventually, is_long};
use rusqlite::{Connection, OpenFlags};
use serde_json::{Value, json};
use session_buddy_bridge::internals::ledger::DURATION_BUCKETS_SECONDS;
use tempfile::TempDir;

/// More skills than the feed lists.
const PACE: Pace = Pace { invocations: u32::MAX, invocations_per_second: 25.0, anomaly_every: 20, skills: 16, seed: 5 };

const SNAPSHOT_INTERVAL_SECONDS: f64 = 0.2;

/// Every series of the families that rows tell.
#[derive(Debug, PartialEq, Default)]
struct Series {
    /// By skill, phase and `completed`.
    invocations: BTreeMap<[String; 3], u64>,
    /// By skill, phase and `le`, cumulative.
    buckets: BTreeMap<[String; 3], u64>,
    /// By skill and phase.
    duration_sums: BTreeMap<[String; 2], Near>,
    /// By type and skill.
    anomalies: BTreeMap<[String; 2], u64>,
    /// By skill.
    rates: BTreeMap<[String; 1], Near>,
}

impl Series {
    fn shown(scrape: &Scrape) -> Self {
        fn counts<const N: usize>(sums: BTreeMap<[String; N], f64>) -> BTreeMap<[String; N], u64> {
            sums.into_iter().map(|(labels, count)| (labels, count as u64)).collect()
        }
        fn near<const N: usize>(sums: BTreeMap<[String; N], f64>) -> BTreeMap<[String; N], Near> {
            sums.into_iter().map(|(labels, sum)| (labels, Near(sum))).collect()
        }
        let by_phase = ["skill_name", "workflow_phase", "completed"];
        Self {
            invocations: counts(sums(scrape, "skill_invocations_total", by_phase)),
            buckets: counts(sums(scrape, "skill_duration_seconds_bucket", ["skill_name", "workflow_phase", "le"])),
            duration_sums: near(sums(scrape, "skill_duration_seconds_sum", ["skill_name", "workflow_phase"])),
            anomalies: counts(sums(scrape, "anomalies_detected_total", ["anomaly_type", "skill_name"])),
            rates: near(sums(scrape, "skill_completion_rate", ["skill_name"])),
        }
    }

    /// Adds what SQL counts from the rows of a database, the latest of several.
    fn add(&mut self, path: &Path) {
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY;
        let connection = Connection::open_with_flags(path, flags).expect("a database");
        let mut query = connection
            .prepare(
                "SELECT skill_name, coalesce(nullif(workflow_phase, ''), 'unknown'), completed, duration_seconds
                 FROM skill_invocation",
            )
            .expect("a query");
        let mut rows = query.query([]).expect("rows");
        let mut totals: BTreeMap<String, (f64, f64)> = BTreeMap::new();
        while let Some(row) = rows.next().expect("a row") {
            let (skill, phase): (String, String) = (row.get(0).unwrap(), row.get(1).unwrap());
            let (completed, seconds): (bool, Option<f64>) = (row.get(2).unwrap(), row.get(3).unwrap());
            for value in [true, false] {
                let count = self.invocations.entry([skill.clone(), phase.clone(), value.to_string()]).or_default();
                *count += u64::from(value == completed);
            }
            for bound in DURATION_BUCKETS_SECONDS.into_iter().chain([f64::INFINITY]) {
                let le = if bound.is_finite() { format!("{bound:?}") } else { "+Inf".to_owned() };
                let count = self.buckets.entry([skill.clone(), phase.clone(), le]).or_default();
                *count += u64::from(seconds.is_some_and(|seconds| seconds <= bound));
            }
            self.duration_sums.entry([skill.clone(), phase]).or_insert(Near(0.0)).0 += seconds.unwrap_or(0.0);
            let (total, done) = totals.entry(skill).or_default();
            *total += 1.0;
            *done += f64::from(u8::from(completed));
        }
        self.rates.extend(totals.into_iter().map(|(skill, (total, done))| ([skill], Near(done / total))));
        let mut query = connection
            .prepare("SELECT anomaly_type, skill_name, count(*) FROM skill_anomalies GROUP BY 1, 2")
            .expect("a query");
        let mut rows = query.query([]).expect("rows");
        while let Some(row) = rows.next().expect("a row") {
            *self.anomalies.entry([row.get(0).unwrap(), row.get(1).unwrap()]).or_default() +=
                row.get::<_, u64>(2).unwrap();
        }
    }
}

/// What the driver does not write: durations of failures and none of completions, and 30 anomalies in a second.
fn oddities() -> Value {
    let invocation = |skill: &str, completed: bool, seconds: Option<f64>, phase: &str| json!({"skill_name": skill, "completed": completed, "duration_seconds": seconds, "workflow_phase": phase});
    let burst =
        (0..30).map(|at| json!({"skill_name": "once-only", "anomaly_type": "spike", "deviation_score": at % 7}));
    json!({
        "invocations": [
            invocation("skill-01", true, None, "verification"),
            invocation("skill-01", false, Some(12.5), "verification"),
            invocation("skill-02", true, Some(0.1), ""),
            invocation("once-only", true, Some(301.0), "cleanup"),
        ],
        "anomalies": burst.collect::<Vec<_>>(),
    })
}

struct Stage {
    address: SocketAddr,
    feed_port: u16,
    database: PathBuf,
    state: PathBuf,
    bridge: Option<Program>,
}

impl Stage {
    /// Killed with `kill -9` if it runs, and started.
    fn start(&mut self) {
        self.bridge = None;
        let (feed, listen) = (format!("ws://127.0.0.1:{}", self.feed_port), self.address.to_string());
        let (database, state) = (self.database.to_str().unwrap(), self.state.to_str().unwrap());
        let serving = ["--feed.url", &feed, "--web.listen-address", &listen];
        let files = ["--feed.skills-db", database, "--state.path", state];
        self.bridge = Some(Program::start(serving.into_iter().chain(files)));
    }

    fn scrape(&self) -> Result<Scrape, String> {
        Scrape::try_fetch(self.address)
    }

    fn until_equal(&self, held: &Series) {
        eventually("every series to equal the rows", || equal(&Series::shown(&self.scrape()?), held));
    }
}

#[test]
fn every_series_is_what_the_rows_tell() {
    let Some(session_buddy) = SessionBuddy::find_or_skip() else { return };
    let kills = if is_long() { 50 } else { 6 };
    let directory = TempDir::new().unwrap();
    let database = directory.path().join("skills.db");
    let serve = |port| session_buddy.serve_every(SNAPSHOT_INTERVAL_SECONDS, &database, port, &[]);
    let mut server = serve(0);
    let feed_port = server.port;
    let mut stage = Stage {
        // Free while nobody listens there: other tests use other addresses.
        address: TcpListener::bind("127.0.84.1:0").unwrap().local_addr().unwrap(),
        feed_port,
        database: database.clone(),
        state: directory.path().join("state.db"),
        bridge: None,
    };
    session_buddy.store(&database, &oddities());
    let began = Instant::now();
    stage.start();
    let watcher = Watcher::start(stage.address);
    let mut driver = session_buddy.drive(&database, &PACE);

    let mut chance = fastrand::Rng::with_seed(3);
    let mut before = Series::default();
    for kill in 1..=kills {
        assert!(watcher.is_watching(), "a counter fell before kill {kill}");
        thread::sleep(Duration::from_micros(chance.u64(0..[300_000, 900_000, 2_500_000][kill % 3])));
        stage.start();
        if kill == kills / 3 || kill == kills * 2 / 3 {
            // A restart of the server, on the same database.
            drop(server);
            session_buddy.store(&database, &oddities());
            server = serve(feed_port);
        }
        if kill == kills / 2 {
            drop(driver);
            drop(server);
            let mut held = Series::default();
            held.add(&database);
            // What the bridge has not read when its database goes is lost for ever.
            stage.until_equal(&held);
            before = held;
            for companion in ["", "-wal", "-shm"] {
                let _ = fs::remove_file(format!("{}{companion}", database.display()));
            }
            server = serve(feed_port);
            session_buddy.store(&database, &oddities());
            driver = session_buddy.drive(&database, &PACE);
        }
    }
    if is_long() {
        thread::sleep(Duration::from_secs(60).saturating_sub(began.elapsed()));
    }
    drop(driver);

    let mut held = before;
    held.add(&database);
    stage.until_equal(&held);
    let scrape = stage.scrape().unwrap();
    assert_eq!(scrape.sum("session_buddy_bridge_feed_resets_total"), 1.0, "one database was deleted");
    assert_eq!(scrape.sum("session_buddy_bridge_detail_mismatches_total"), 0.0);
    assert_eq!(scrape.sum("session_buddy_bridge_estimated_observations_total"), 0.0, "every duration is known");
    let watched = watcher.finish();
    println!(
        "{kills} kills in {:.0?}; {} invocations in {} series, {} anomalies; {} scrapes, {} without an answer",
        began.elapsed(),
        held.invocations.values().sum::<u64>(),
        held.invocations.len() + held.buckets.len() + held.anomalies.len(),
        held.anomalies.values().sum::<u64>(),
        watched.scrapes,
        watched.unanswered,
    );
    drop(server);
}
