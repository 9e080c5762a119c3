//! Several feeds in one bridge: they sum, one server counts once, one skill is one skill, and each says how it is.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::support::alone::alone;
use crate::support::expected_families::expected_families;
use crate::support::model::{Anomaly, Database, Invocation, sql_time};
use crate::support::running_bridge::{RunningBridge, counted, families};
use crate::support::scrape::Series;
use crate::support::scripted_feed::{Clock, Gate, Reserved, ScriptedFeed, Step};
use session_buddy_bridge::internals::feed::Timing;
use session_buddy_bridge::settings::{FeedTarget, Settings, StateLocation};
use tokio::runtime::Runtime;
use url::Url;

const ROUND_INTERVAL: Duration = Duration::from_millis(50);

fn bridge(feeds: Vec<FeedTarget>) -> RunningBridge {
    let timing = Timing {
        backoff_min: Duration::from_millis(1),
        backoff_max: Duration::from_millis(20),
        refused_backoff_min: Duration::from_millis(1),
        refused_backoff_max: Duration::from_millis(20),
        ..Timing::default()
    };
    RunningBridge::start(Settings { timing, ..Settings::new(feeds) })
}

fn target(url: &Url) -> FeedTarget {
    FeedTarget::new(url.as_str()).unwrap()
}

/// A database of skills with so many completed invocations of one second, and one abandoned.
fn database(skills: &[(&str, usize)]) -> Database {
    let mut database = Database::default();
    for (skill_name, completed) in skills {
        (0..*completed).for_each(|_| invoke(&mut database, skill_name, Some(1.0)));
        invoke(&mut database, skill_name, None);
    }
    database
}

fn invoke(database: &mut Database, skill_name: &str, duration_seconds: Option<f64>) {
    database.invocations.push(Invocation {
        skill_name: skill_name.to_owned(),
        workflow_phase: None,
        completed: duration_seconds.is_some(),
        duration_seconds,
    });
}

fn with_anomaly(mut database: Database, skill_name: &str) -> Database {
    database.anomalies.push(Anomaly {
        skill_name: skill_name.to_owned(),
        anomaly_type: "spike".to_owned(),
        detected_at: sql_time(0),
        deviation_score: Some(2.5),
    });
    database
}

/// A server that sends the same rounds to all of its clients.
#[derive(Clone, Copy)]
struct Server {
    clock: Clock,
    /// Distinguishes this server's rounds from those of others.
    offset_micros: i64,
}

impl Server {
    fn new(offset_micros: i64) -> Self {
        Self { clock: Clock::new(ROUND_INTERVAL), offset_micros }
    }

    fn rounds(self, until: &Gate, database: &Database) -> Step {
        let (database, interval_micros) = (database.clone(), ROUND_INTERVAL.as_micros() as i64);
        let text = move |round: u64| database.snapshot(round as i64 * interval_micros + self.offset_micros);
        Step::Clocked(until.clone(), self.clock, Box::new(text))
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_servers_sum() {
    let first = with_anomaly(database(&[("pytest-run", 3), ("only-first", 1)]), "pytest-run");
    let second = with_anomaly(database(&[("pytest-run", 5), ("only-second", 2)]), "pytest-run");
    let gate = Gate::default();
    let after = |database: &Database, duration_seconds| {
        let mut database = database.clone();
        invoke(&mut database, "pytest-run", Some(duration_seconds));
        database
    };
    let (first_after, second_after) = (after(&first, 4.0), after(&second, 40.0));
    let server = |server: Server, before, after| {
        ScriptedFeed::start(vec![vec![server.rounds(&gate, before), server.rounds(&Gate::default(), after)]])
    };
    let first_server = server(Server::new(0), &first, &first_after);
    let second_server = server(Server::new(7), &second, &second_after);
    let bridge = bridge(vec![target(&first_server.url()), target(&second_server.url())]);

    bridge.until("the sum of the past", &expected_families(&[&first, &second], []), families).await;
    gate.open();
    let observed = [first_after.invocations.last().unwrap(), second_after.invocations.last().unwrap()];
    let mut expected = expected_families(&[&first_after, &second_after], observed);
    bridge.until("the sum of what followed", &expected, families).await;

    drop(second_server);
    expected.insert(Series::new("active_sessions_total", &[]), 1.0);
    bridge.until("one feed that is down", &expected, families).await;
    bridge.stop().await;
}

#[test]
fn one_server_under_two_addresses_counts_once_and_loudly() {
    alone(|| Runtime::new().unwrap().block_on(one_server_under_two_addresses()));
}

async fn one_server_under_two_addresses() {
    tracing_subscriber::fmt().with_max_level(tracing::Level::INFO).with_writer(|| Log).init();
    let before = with_anomaly(database(&[("pytest-run", 3), ("lint", 1)]), "lint");
    let mut after = before.clone();
    invoke(&mut after, "pytest-run", Some(4.0));
    let (gate, server) = (Gate::default(), Server::new(0));
    let script = vec![server.rounds(&gate, &before), server.rounds(&Gate::default(), &after)];
    let server = ScriptedFeed::start(vec![script]);
    let mut by_name = server.url();
    by_name.set_host(Some("localhost")).unwrap();
    let (by_address, by_name) = (target(&server.url()), target(&by_name));
    let bridge = bridge(vec![by_address.clone(), by_name.clone()]);

    bridge.until("one server's past", &expected_families(&[&before], []), families).await;
    let is_reported = |line: &str| {
        line.contains("on standby") && line.contains(&by_name.identity) && line.contains(&by_address.identity)
    };
    bridge.until("a line in the log", &true, |_| log().lines().any(is_reported)).await;
    // Whichever delivers first is active.
    let words = [(&by_name, &by_address), (&by_address, &by_name)].map(|(standby, active)| {
        format!("{}: live, on standby for source 1: {} is active", standby.identity, active.identity)
    });
    let is_named = |text: &str| words.iter().any(|words| text.contains(words));
    bridge.until_ready("words for the one that does not count", |answer| is_named(answer.text())).await;
    gate.open();
    let expected = expected_families(&[&after], after.invocations.last());
    bridge.until("what followed, once", &expected, families).await;
    let heard = |scrape: &_| counted(scrape, "feed_messages_total", "type").remove("metrics_update");
    let so_far = heard(&bridge.scrape().await);
    bridge.until("more rounds", &true, |scrape| heard(scrape) > so_far.map(|rounds| rounds + 20)).await;
    assert_eq!(families(&bridge.scrape().await), expected);
    bridge.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_feed_that_does_not_count_is_still_called_so_after_a_restart() {
    let database = database(&[("pytest-run", 3)]);
    let server = ScriptedFeed::start(vec![vec![Server::new(0).rounds(&Gate::default(), &database)]]);
    let mut by_name = server.url();
    by_name.set_host(Some("localhost")).unwrap();
    let feeds = vec![target(&server.url()), target(&by_name)];
    let words = [(1, 0), (0, 1)].map(|(standby, active): (usize, usize)| {
        format!("{}: live, on standby for source 1: {}", feeds[standby].identity, feeds[active].identity)
    });
    let is_named = |text: &str| words.iter().any(|words| text.contains(words));
    let folder = tempfile::tempdir().unwrap();
    for life in ["the first", "the second"] {
        let state = StateLocation::Path(folder.path().join("state.db"));
        let bridge = RunningBridge::start(Settings { state, ..Settings::new(feeds.clone()) });
        bridge.until_ready(life, |answer| is_named(answer.text())).await;
        bridge.until(life, &expected_families(&[&database], []), families).await;
        bridge.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_feed_that_left_the_configuration_is_shown_no_more_and_its_counts_stay() {
    let [of_a, of_b] = [database(&[("a", 3)]), database(&[("b", 5)])];
    let [server_a, server_b] = [(&of_a, 0), (&of_b, 7)]
        .map(|(database, at)| ScriptedFeed::start(vec![vec![Server::new(at).rounds(&Gate::default(), database)]]));
    let (a, b) = (&target(&server_a.url()), &target(&server_b.url()));
    let folder = tempfile::tempdir().unwrap();
    let all = expected_families(&[&of_a, &of_b], []);
    for feeds in [vec![a.clone(), b.clone()], vec![b.clone()], vec![b.clone(), a.clone()]] {
        let state = StateLocation::Path(folder.path().join("state.db"));
        let bridge = RunningBridge::start(Settings { state, ..Settings::new(feeds.clone()) });
        let mut expected: Vec<_> = feeds.iter().map(|feed| feed.identity.clone()).collect();
        expected.sort();
        // From the first scrape on, and still once its snapshots have moved what is shown of a feed.
        for _ in 0..3 {
            let scrape = bridge.scrape().await;
            let shown = scrape.series("session_buddy_bridge_feed_resets_total");
            let shown: Vec<_> = shown.keys().map(|labels| labels["feed"].clone()).collect();
            assert_eq!(shown, expected);
            bridge.until_ready("a feed", |answer| answer.status == 200).await;
        }
        let invocations = |scrape: &crate::support::scrape::Scrape| scrape.sum("skill_invocations_total");
        let counted = all.iter().filter(|(series, _)| series.name == "skill_invocations_total").map(|(_, value)| value);
        bridge.until("both counts", &counted.sum::<f64>(), invocations).await;
        let rates = |scrape: &crate::support::scrape::Scrape| scrape.series("skill_completion_rate").len();
        bridge.until("the rates of those that are configured", &feeds.len(), rates).await;
        bridge.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_subscription_to_one_skill_counts_that_one() {
    let all = with_anomaly(database(&[("pytest-run", 3), ("lint", 9)]), "pytest-run");
    let before = database(&[("pytest-run", 3)]);
    let mut after = before.clone();
    invoke(&mut after, "pytest-run", Some(4.0));
    let (gate, server) = (Gate::default(), Server::new(0));
    let server = ScriptedFeed::start(vec![vec![
        Step::expect(|text| text == r#"{"skill":"pytest-run","type":"subscribe"}"#),
        Step::send(r#"{"type": "connected", "authenticated": false}"#),
        // Not confirmed yet, so that the server still tells of everything.
        Step::send(all.snapshot(0)),
        Step::send(r#"{"type": "subscription_confirmed", "skill": "pytest-run"}"#),
        server.rounds(&gate, &before),
        server.rounds(&Gate::default(), &after),
    ]]);
    let bridge = bridge(vec![target(&server.url()).with_skill("pytest-run")]);
    bridge.until("the skill's past", &expected_families(&[&before], []), families).await;
    gate.open();
    let expected = expected_families(&[&after], after.invocations.last());
    bridge.until("what followed", &expected, families).await;
    bridge.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn readiness_says_how_each_feed_is() {
    let gate = Gate::default();
    let absent = Reserved::new();
    let refusing = ScriptedFeed::start(vec![vec![Step::Close(4001, "Authentication failed".to_owned())]]);
    let late = ScriptedFeed::start(vec![vec![Step::Await(gate.clone()), Step::send(r#"{"type": "connected"}"#)]]);
    let urls = BTreeMap::from([("absent", absent.url()), ("refusing", refusing.url()), ("late", late.url())]);
    let named = |(name, url): (&&str, &Url)| FeedTarget { identity: (*name).to_owned(), ..target(url) };
    let bridge = bridge(urls.iter().map(named).collect());

    let says = |text: &str, feed: &str, words: &[&str]| {
        let line = text.lines().find(|line| line.starts_with(&format!("{feed}: "))).unwrap_or_default();
        words.iter().all(|word| line.contains(word))
    };
    // Between two attempts a feed is also seen connecting, so that not every look finds all of this.
    let answer = bridge
        .until_ready("three feeds that are not live", |answer| {
            says(answer.text(), "absent", &["not live", "cannot connect", "check that the server runs"])
                && says(
                    answer.text(),
                    "refusing",
                    &["not live", "4001 \"Authentication failed\"", "no token is configured"],
                )
                && says(answer.text(), "late", &["not live", "no valid message received yet"])
        })
        .await;
    assert_eq!(answer.status, 503, "{}", answer.text());

    gate.open();
    let answer = bridge.until_ready("a live feed", |answer| answer.status == 200).await;
    assert!(says(answer.text(), "late", &["live"]) && !says(answer.text(), "late", &["not live"]), "{}", answer.text());
    assert!(says(answer.text(), "absent", &["not live"]), "{}", answer.text());
    let sessions = bridge.scrape().await.value("active_sessions_total", &[]);
    assert_eq!(sessions, Some(1.0));
    bridge.stop().await;
}

/// What the bridges of these tests logged.
static LOGGED: Mutex<Vec<u8>> = Mutex::new(Vec::new());

fn logged() -> MutexGuard<'static, Vec<u8>> {
    LOGGED.lock().unwrap_or_else(PoisonError::into_inner)
}

fn log() -> String {
    String::from_utf8_lossy(&logged()).into_owned()
}

struct Log;

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        logged().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
