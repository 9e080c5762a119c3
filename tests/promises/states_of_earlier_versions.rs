//! A state of every earlier version is read as what it was, and counted on from. `tests/fixtures/states` says what is in them.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use rusqlite::Connection;
use session_buddy_bridge::internals::ledger::{FeedSpec, Ledger, LedgerState, Limits, Now, SkillRow};
use session_buddy_bridge::internals::protocol;
use session_buddy_bridge::internals::store::{Store, StoreError};
use session_buddy_bridge::settings::{FeedTarget, Settings, StateLocation};
use tempfile::TempDir;

use crate::support::model::{Anomaly, Metrics, metrics_update};
use crate::support::running_bridge::{RunningBridge, families};
use crate::support::scrape::{Scrape, Series};
use crate::support::scripted_feed::{Gate, ScriptedFeed, Step};

const FAILURES: &str = "session_buddy_bridge_skill_failures_total";

const FIXTURES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/states");

/// Every earlier version.
const VERSIONS: [u32; 3] = [1, 2, 3];

/// A state of an earlier version, copied, so that it can be migrated.
struct Fixture {
    folder: TempDir,
    state: PathBuf,
    /// What its writer exposed last.
    written: BTreeMap<Series, f64>,
}

impl Fixture {
    fn copy(version: u32) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let state = folder.path().join("state.db");
        fs::copy(Path::new(FIXTURES).join(format!("{version}.db")), &state).unwrap();
        let text = fs::read_to_string(Path::new(FIXTURES).join(format!("{version}.prom"))).unwrap();
        Self { folder, state, written: counts(&Scrape::parse(&text).unwrap()) }
    }

    /// The database of the server `beta`, as it was then.
    fn database(&self, version: u32) -> PathBuf {
        let path = self.folder.path().join("skills.db");
        let sql = fs::read_to_string(Path::new(FIXTURES).join(format!("{version}.sql"))).unwrap();
        Connection::open(&path).unwrap().execute_batch(&sql).unwrap();
        path
    }

    fn start(&self, feed: FeedTarget) -> RunningBridge {
        RunningBridge::start(Settings { state: StateLocation::Path(self.state.clone()), ..Settings::new(vec![feed]) })
    }

    /// What is exposed once the invocation of `lint` is counted that was pending.
    fn settled(&self) -> BTreeMap<Series, f64> {
        let mut settled = self.written.clone();
        add_completed(&mut settled, "lint", "unknown", 0.75);
        settled
    }
}

/// Counters and histograms. Gauges are of the feeds that are configured now.
fn counts(scrape: &Scrape) -> BTreeMap<Series, f64> {
    let is_gauge = |name: &str| ["skill_completion_rate", "active_sessions_total"].contains(&name);
    families(scrape).into_iter().filter(|(series, _)| !is_gauge(&series.name)).collect()
}

/// One completed invocation more.
fn add_completed(counts: &mut BTreeMap<Series, f64>, skill_name: &str, workflow_phase: &str, seconds: f64) {
    let labels = [("skill_name", skill_name), ("workflow_phase", workflow_phase)];
    let mut add = |name: &str, extra: Option<(&str, &str)>, value: f64| {
        let labels: Vec<_> = labels.into_iter().chain(extra).collect();
        *counts.get_mut(&Series::new(name, &labels)).unwrap() += value;
    };
    add("skill_invocations_total", Some(("completed", "true")), 1.0);
    add("skill_duration_seconds_count", None, 1.0);
    add("skill_duration_seconds_sum", None, seconds);
    for bound in ["0.1", "0.5", "1.0", "2.0", "5.0", "10.0", "30.0", "60.0", "300.0"] {
        if seconds <= bound.parse().unwrap() {
            add("skill_duration_seconds_bucket", Some(("le", bound)), 1.0);
        }
    }
    add("skill_duration_seconds_bucket", Some(("le", "+Inf")), 1.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_older_state_shows_what_its_writer_showed_and_counts_what_was_pending() {
    for version in VERSIONS {
        let fixture = Fixture::copy(version);
        // Nobody listens there.
        let bridge = fixture.start(FeedTarget::new("ws://127.0.0.1:9/").unwrap());
        assert_eq!(counts(&bridge.scrape().await), fixture.written, "{version}");
        bridge.until("the pending invocation", &fixture.settled(), counts).await;
        bridge.stop().await;
    }
}

/// Which source each feed is bound to after the migration, by the place of the feed whose numbers it has.
fn sources_of_aliases(aliases: &[(u32, Option<u32>)]) -> BTreeMap<String, u64> {
    let fixture = Fixture::copy(1);
    let state = Connection::open(&fixture.state).unwrap();
    for (place, alias_of) in aliases {
        let insert =
            "INSERT INTO feed SELECT ?1, 'ws://' || ?1 || '/', NULL, 0, 0, 0, 1, 1, NULL, 0, ?2, 0, 0, 0, NULL, '[]'";
        state.execute(insert, (place, alias_of)).unwrap();
    }
    drop(state);
    let memory = Store::look(&fixture.state).unwrap().memory;
    let is_known = |id| memory.sources.iter().any(|source| source.id == id);
    assert!(memory.feeds.iter().all(|feed| feed.source.is_some_and(is_known)), "{:?}", memory.feeds);
    let added = memory.feeds.iter().filter(|feed| feed.entry.name.len() == "ws://10/".len());
    added.map(|feed| (feed.entry.name.to_string(), feed.source.unwrap().0 - 1)).collect()
}

#[test]
fn aliases_of_aliases_are_one_source_however_many_there_are() {
    let chain = [(10, None), (13, Some(10)), (12, Some(13)), (11, Some(12)), (14, Some(11))];
    assert!(sources_of_aliases(&chain).values().all(|place| *place == 10));
}

#[test]
fn aliases_in_a_circle_or_of_a_feed_that_is_gone_are_sources_that_exist() {
    let sources = sources_of_aliases(&[(10, Some(12)), (11, Some(10)), (12, Some(11)), (13, Some(99))]);
    let expected = [("ws://10/", 10), ("ws://11/", 10), ("ws://12/", 10), ("ws://13/", 13)];
    assert_eq!(sources, expected.map(|(name, place)| (name.to_owned(), place)).into());
}

#[test]
fn an_older_state_is_shown_without_being_migrated() {
    for version in VERSIONS {
        let fixture = Fixture::copy(version);
        let before = fs::read(&fixture.state).unwrap();
        let shown = Store::look(&fixture.state).unwrap();
        let invocations =
            |row: &SkillRow| row.series.phases.iter().map(|phase| phase.completed + phase.abandoned).sum::<u64>();
        let written = fixture.written.iter().filter(|(series, _)| series.name == "skill_invocations_total");
        let written = written.map(|(_, value)| value).sum::<f64>();
        assert_eq!(shown.skills.iter().map(invocations).sum::<u64>() as f64, written, "{version}");
        assert_eq!(fs::read(&fixture.state).unwrap(), before, "{version}");
    }
}

/// The program may be updated between the kill and the next start.
#[test]
fn an_older_state_whose_log_is_beside_its_former_name_is_refused() {
    for version in VERSIONS.into_iter().filter(|version| *version >= 2) {
        let fixture = Fixture::copy(version);
        let former = Connection::open(&fixture.state).unwrap();
        let path = fixture.state.canonicalize().unwrap();
        former.execute("UPDATE location SET path = ?", [path.as_os_str().as_bytes()]).unwrap();
        former.pragma_update(None, "journal_mode", "WAL").unwrap();
        former.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())).unwrap();
        former.execute("UPDATE skill SET last_listed_micros = 1", []).unwrap();
        let renamed = fixture.state.with_file_name("renamed.db");
        fs::rename(&fixture.state, &renamed).unwrap();
        for error in [Store::look(&renamed).map(drop), Store::open(&renamed, Ok).map(drop)].map(Result::unwrap_err) {
            assert!(matches!(error, StoreError::LogElsewhere { .. }), "of version {version}: {error}");
        }
    }
}

#[test]
fn the_sessions_of_an_older_state_stay_those_of_its_servers() {
    let fixture = Fixture::copy(1);
    // Beside the session that is open by its identifier, `alpha` had reported three as a number.
    let count = "UPDATE feed SET sessions_count = 3 WHERE identity = 'ws://127.0.0.1:18765/'";
    assert_eq!(Connection::open(&fixture.state).unwrap().execute(count, []).unwrap(), 1);
    let whole = Store::open(&fixture.state, LedgerState::validated).unwrap().restored;
    let seen = whole.memory.sessions.iter().filter_map(|(_, _, session)| session.map(|session| session.seen_micros));
    let seen_micros = seen.max().unwrap();
    let at =
        |elapsed: Duration| Now { wall_micros: seen_micros + i64::try_from(elapsed.as_micros()).unwrap(), elapsed };
    let mut ledger = Ledger::restore(Limits::default(), whole, at(Duration::ZERO)).unwrap();
    let identities = ["ws://127.0.0.1:18765/", "ws://localhost:18765/", "beta"];
    let feeds = identities.map(|identity| FeedSpec { identity: identity.to_owned(), ..FeedSpec::default() });
    let feeds = feeds.map(|spec| ledger.add_feed(spec));
    let connections = feeds.map(|feed| ledger.open(feed, at(Duration::ZERO)));
    let receive = |ledger: &mut Ledger, feed: usize, text: &str, elapsed| {
        protocol::read(text, &protocol::Limits::default(), &mut |message| {
            ledger.apply(connections[feed], &message.unwrap(), at(elapsed), &mut Vec::new());
        });
        ledger.active_sessions(at(elapsed))
    };
    let hour = Duration::from_secs(3600);
    let connected = [0, 1, 2].map(|feed| receive(&mut ledger, feed, r#"{"type":"pong"}"#, hour));
    assert_eq!(connected, [4, 4, 5], "both addresses of `alpha` share four, and `beta`, which reported none, has one");
    let event =
        |kind: &str, id: &str| format!(r#"{{"type":"event","event":"session.{kind}","data":{{"session_id":"{id}"}}}}"#);
    assert_eq!(receive(&mut ledger, 0, &event("created", "closed"), hour), 5, "it was closed before");
    assert_eq!(receive(&mut ledger, 0, &event("created", "open"), hour), 5, "it was open before");
    assert_eq!(receive(&mut ledger, 0, &event("closed", "open"), hour), 4);
    assert_eq!(receive(&mut ledger, 0, &event("created", "another"), 24 * hour), 5);
}

/// An older state does not say which of its feeds were configured last.
#[test]
fn a_feed_that_joins_at_the_first_start_is_no_heir_of_feeds_that_may_have_left_long_before() {
    let fixture = Fixture::copy(1);
    let whole = Store::open(&fixture.state, LedgerState::validated).unwrap().restored;
    let now = Now { wall_micros: 1_800_000_000_000_000, elapsed: Duration::ZERO };
    let mut ledger = Ledger::restore(Limits::default(), whole, now).unwrap();
    let feeds = ["beta", "ws://newcomer/"]
        .map(|identity| ledger.add_feed(FeedSpec { identity: identity.to_owned(), ..FeedSpec::default() }));
    for feed in feeds {
        ledger.open(feed, now);
    }
    let changed = ledger.drain(now).memory.feeds;
    let of = |name: &str| changed.iter().find(|feed| &*feed.entry.name == name).expect("it has joined");
    assert!(of("ws://newcomer/").heir_of.is_empty(), "{changed:?}");
    assert!(of("beta").source.is_some(), "{changed:?}");
}

/// What the server lists that has this database.
fn snapshot(database: &Path, round: i64) -> String {
    let database = Connection::open(database).unwrap();
    let mut query = database
        .prepare(
            "SELECT skill_name, total_invocations, completed_invocations, total_duration_seconds FROM skill_metrics",
        )
        .unwrap();
    let skill = |row: &rusqlite::Row<'_>| {
        let (skill_name, duration_seconds) = (row.get(0)?, row.get(3)?);
        Ok(Metrics { skill_name, total: row.get(1)?, completed: row.get(2)?, duration_seconds })
    };
    let skills: Vec<_> = query.query_map([], skill).unwrap().map(Result::unwrap).collect();
    let mut query = database
        .prepare("SELECT skill_name, anomaly_type, detected_at, deviation_score FROM skill_anomalies ORDER BY id DESC")
        .unwrap();
    let anomaly = |row: &rusqlite::Row<'_>| {
        let (detected_at, deviation_score) = (row.get(2)?, row.get(3)?);
        Ok(Anomaly { skill_name: row.get(0)?, anomaly_type: row.get(1)?, detected_at, deviation_score })
    };
    let anomalies: Vec<_> = query.query_map([], anomaly).unwrap().map(Result::unwrap).collect();
    // Later than the fixture.
    metrics_update(600_000_000 + round * 50_000, &skills, &anomalies)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_database_that_an_older_version_read_is_counted_on_from_with_it_and_without() {
    for (version, is_read) in VERSIONS.into_iter().flat_map(|version| [(version, true), (version, false)]) {
        let fixture = Fixture::copy(version);
        let database = fixture.database(version);
        let (round, served) = (AtomicI64::new(0), database.clone());
        let snapshots = move || snapshot(&served, round.fetch_add(1, Ordering::Relaxed));
        let rounds = Step::rounds(&Gate::default(), Duration::from_millis(50), snapshots);
        let server = ScriptedFeed::start(vec![vec![rounds]]);
        let skills_db = is_read.then(|| database.clone());
        let target =
            FeedTarget { identity: "beta".to_owned(), skills_db, ..FeedTarget::new(server.url().as_str()).unwrap() };
        let bridge = fixture.start(target);
        let mut expected = fixture.settled();
        bridge.until("the counts of then", &expected, counts).await;
        let received = |scrape: &Scrape| scrape.sum("session_buddy_bridge_feed_messages_total");
        let so_far = received(&bridge.scrape().await);
        bridge.until("more rounds", &true, |scrape| received(scrape) > so_far + 20.0).await;
        assert_eq!(counts(&bridge.scrape().await), expected, "history is not counted again");

        let failures = |scrape: &Scrape| -> BTreeMap<Series, f64> {
            let samples = scrape.samples.iter().filter(|(series, _)| series.name == FAILURES);
            samples.map(|(series, value)| (series.clone(), *value)).collect()
        };
        // Version 3 is the first that counts them.
        let failure = |skill_name, error_type| {
            (Series::new(FAILURES, &[("skill_name", skill_name), ("error_type", error_type)]), 1.0)
        };
        let known = (version >= 3).then(|| failure("pytest-run", "unknown"));
        assert_eq!(failures(&bridge.scrape().await), known.clone().into_iter().collect(), "of version {version}");

        let rows = "INSERT INTO skill_invocation (skill_name, invoked_at, session_id, completed, duration_seconds, workflow_phase, error_type)
                    VALUES ('shared', '2026-11-22 10:20:00', 's', 1, 3.0, 'setup', NULL),
                           ('shared', '2026-11-22 10:20:01', 's', 0, NULL, 'setup', 'timeout')";
        Connection::open(&database).unwrap().execute(rows, []).unwrap();
        let phase = if is_read { "setup" } else { "unknown" };
        add_completed(&mut expected, "shared", phase, 3.0);
        let failed = [("skill_name", "shared"), ("workflow_phase", phase), ("completed", "false")];
        *expected.get_mut(&Series::new("skill_invocations_total", &failed)).unwrap() += 1.0;
        bridge.until("one more of each", &expected, counts).await;
        let new = is_read.then(|| failure("shared", "timeout"));
        assert_eq!(failures(&bridge.scrape().await), known.into_iter().chain(new).collect(), "of version {version}");
        bridge.stop().await;
    }
}
