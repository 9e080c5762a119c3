//! With `--web.zero-first` a series whose first counts were observed is exposed at 0 before its value is, so that
//! `increase()` and `rate()` see its first value; history never is, and nothing else waits.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::support::model::{Anomaly, Database, Invocation, SECOND, START_MICROS, invocation_event, sql_time};
use crate::support::running_bridge::RunningBridge;
use crate::support::scrape::Scrape;
use crate::support::scripted_feed::{Clock, Gate, ScriptedFeed, Step};
use crate::support::{eventually, holds, http_client};
use serde_json::Value;
use session_buddy_bridge::Settings;
use session_buddy_bridge::settings::{FeedTarget, StateLocation};

/// Longer than any test.
const FOR_EVER: Duration = Duration::from_secs(600);

fn invocation(skill_name: &str, workflow_phase: Option<&str>) -> Invocation {
    Invocation {
        skill_name: skill_name.to_owned(),
        workflow_phase: workflow_phase.map(str::to_owned),
        completed: true,
        duration_seconds: Some(1.5),
    }
}

/// A server whose database holds an invocation and an anomaly at first, and later one more of a skill of its own, which it
/// streams with a phase, and one more anomaly.
struct Observed {
    server: ScriptedFeed,
    happens: Gate,
}

impl Observed {
    fn start() -> Self {
        let anomaly = |skill_name: &str| Anomaly {
            skill_name: skill_name.to_owned(),
            anomaly_type: "drop".to_owned(),
            detected_at: sql_time(START_MICROS),
            deviation_score: Some(2.5),
        };
        let mut before = Database::default();
        before.invocations.push(invocation("history", None));
        before.anomalies.push(anomaly("history"));
        let mut after = before.clone();
        after.invocations.push(invocation("observed", Some("execution")));
        after.anomalies.push(anomaly("observed"));
        let mut event = invocation_event(Some("1"), SECOND, &invocation("observed", Some("execution")));
        // So that there is an exemplar.
        event = event.replacen(r#""data": {"#, r#""data": {"session_id": "session-1", "#, 1);
        let (happens, never) = (Gate::default(), Gate::default());
        let clock = Clock::new(Duration::from_millis(50));
        let rounds = |until: &Gate, database: Database| {
            let at = move |round: u64| database.snapshot(round as i64 * SECOND);
            Step::Clocked(until.clone(), clock, Box::new(at))
        };
        let script = vec![rounds(&happens, before), Step::send(event), rounds(&never, after)];
        Self { server: ScriptedFeed::start(vec![script]), happens }
    }

    fn settings(&self, zero_first: Duration) -> Settings {
        Settings { zero_first, ..Settings::new(vec![FeedTarget::new(self.server.url().as_str()).unwrap()]) }
    }
}

/// Every sample of the counters and histograms of one skill, but for those of a phase in which nothing was counted: a skill
/// that is listed has the phase `unknown`.
fn counted(scrape: &Scrape, skill_name: &str) -> Vec<(String, f64)> {
    let families = ["skill_invocations_total", "skill_duration_seconds", "anomalies_detected_total"];
    let of_skill = scrape.samples.iter().filter(|(series, _)| {
        families.iter().any(|family| series.name.starts_with(family))
            && series.labels.get("skill_name").is_some_and(|name| name == skill_name)
            && (skill_name == "history" || series.labels.get("workflow_phase").is_none_or(|phase| phase != "unknown"))
    });
    of_skill.map(|(series, value)| (series.name.clone(), *value)).collect()
}

fn skill_of_api(address: std::net::SocketAddr, skill_name: &str) -> Value {
    let answer = http_client::get(address, &format!("/api/v1/skills?filter={skill_name}"));
    let answer: Value = serde_json::from_str(answer.text()).unwrap();
    answer["skills"]
        .as_array()
        .unwrap()
        .iter()
        .find(|skill| skill["skill_name"] == skill_name)
        .cloned()
        .unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_series_that_is_observed_is_exposed_at_0_and_everything_else_at_once() {
    let observed = Observed::start();
    let bridge = RunningBridge::start(observed.settings(FOR_EVER));
    let address = bridge.address();
    let look = move |what: &'static str, skill_name: &'static str| {
        eventually(what, || {
            let scrape = Scrape::try_fetch(address)?;
            let counted = counted(&scrape, skill_name);
            // Two of invocations, twelve of the histogram, and the anomaly.
            holds(counted.len() == 15, format!("{counted:?}")).map(|()| (scrape, counted))
        })
    };
    let (_, history) = tokio::task::spawn_blocking(move || look("history", "history")).await.unwrap();
    assert_eq!(history.iter().map(|(_, value)| value).sum::<f64>(), 2.0, "history is exposed as it is: {history:?}");

    observed.happens.open();
    let (scrape, first) = tokio::task::spawn_blocking(move || look("what is observed", "observed")).await.unwrap();
    assert!(first.iter().all(|(_, value)| *value == 0.0), "{first:?}");
    // The gauges are not delayed, and neither are page and API.
    assert_eq!(scrape.value("skill_completion_rate", &[("skill_name", "observed")]), Some(1.0));
    let skill = tokio::task::spawn_blocking(move || skill_of_api(address, "observed")).await.unwrap();
    assert_eq!(skill["invocations"], 1, "{skill}");
    assert_eq!(skill["anomalies"], 1, "{skill}");

    let open = tokio::task::spawn_blocking(move || http_client::get_openmetrics(address)).await.unwrap();
    let lines: Vec<&str> = open.text().lines().filter(|line| line.contains(r#"skill_name="observed""#)).collect();
    let counts = lines.iter().filter(|line| line.contains("execution") || line.contains("anomaly_type"));
    assert_eq!(counts.clone().count(), 15, "{lines:#?}");
    counts.for_each(|line| assert!(line.ends_with("} 0"), "neither a value nor an exemplar: {line}"));
    bridge.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restart_does_not_end_the_exposition_at_0_early() {
    let directory = tempfile::TempDir::new().unwrap();
    let state = StateLocation::Path(directory.path().join("state.db"));
    let observed = Observed::start();
    let settings = || Settings { state: state.clone(), ..observed.settings(FOR_EVER) };
    let bridge = RunningBridge::start(settings());
    bridge.until("history", &15, |scrape| counted(scrape, "history").len()).await;
    observed.happens.open();
    bridge.until("what is observed", &15, |scrape| counted(scrape, "observed").len()).await;
    bridge.stop().await;

    let bridge = RunningBridge::start(settings());
    let first = counted(&bridge.scrape().await, "observed");
    assert_eq!(first.len(), 15, "it was restored: {first:?}");
    assert!(first.iter().all(|(_, value)| *value == 0.0), "{first:?}");
    assert_eq!(counted(&bridge.scrape().await, "history").iter().map(|(_, value)| value).sum::<f64>(), 2.0);
    bridge.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn its_value_follows_once_it_was_exposed_at_0_for_that_long() {
    let zero_first = Duration::from_millis(300);
    let observed = Observed::start();
    let bridge = RunningBridge::start(observed.settings(zero_first));
    let address = bridge.address();
    bridge.until("history", &15, |scrape| counted(scrape, "history").len()).await;
    observed.happens.open();
    let watch = move || {
        // When each name was first exposed, and for how long at 0.
        let mut since: BTreeMap<String, Instant> = BTreeMap::new();
        let mut exposed_at_0: BTreeMap<String, Duration> = BTreeMap::new();
        eventually("every value", || {
            let began = Instant::now();
            let scrape = Scrape::try_fetch(address)?;
            let mut sums: BTreeMap<String, f64> = BTreeMap::new();
            counted(&scrape, "observed").into_iter().for_each(|(name, value)| *sums.entry(name).or_default() += value);
            for (name, sum) in &sums {
                let began = *since.entry(name.clone()).or_insert(began);
                if *sum > 0.0 {
                    exposed_at_0.entry(name.clone()).or_insert_with(|| began.elapsed());
                }
            }
            let of_phase = ["skill_invocations_total", "skill_duration_seconds_count", "skill_duration_seconds_sum"];
            let of_phase = of_phase.map(|name| sums.get(name).copied().unwrap_or_default());
            assert!([[0.0; 3], [1.0, 1.0, 1.5]].contains(&of_phase), "all of it at once: {of_phase:?}");
            holds(exposed_at_0.len() == 5, format!("{sums:?}")).map(|()| exposed_at_0.clone())
        })
    };
    let exposed_at_0 = tokio::task::spawn_blocking(watch).await.unwrap();
    assert!(exposed_at_0.values().all(|duration| *duration >= zero_first), "{exposed_at_0:?}");
    bridge.stop().await;
}
