//! Whatever limits are configured and whatever a feed lists and streams, there are no more series than `--limit.series`, and
//! what finds no series of its own is counted as `__overflow__`.

use std::sync::Mutex;

use crate::support::observer::moment;
use crate::support::program::Program;
use crate::support::rows::read_all;
use crate::support::scrape::Scrape;
use crate::support::scripted_feed::{ScriptedFeed, Step as Sent};
use crate::support::server_database::ServerDatabase;
use crate::support::shown::Shown;
use crate::support::{eventually, holds, http_client, property};
use prometheus::Registry;
use proptest::collection::vec;
use proptest::prelude::*;
use serde_json::{Value, json};
use session_buddy_bridge::internals::exposition::{Encoding, Format, RegistryText, View, ViewProvider, render};
use session_buddy_bridge::internals::ledger::{
    Changes, FeedSpec, Ledger, LedgerState, Limits, Notice, Now, RuleCounters,
};
use session_buddy_bridge::internals::protocol::{
    self, AnomalyEntry, Event, EventKind, Message, Number, SkillEntry, Snapshot,
};
use session_buddy_bridge::internals::skills_db::SkillsDatabase;
use tokio_util::sync::CancellationToken;

/// Enough for `__overflow__` alone.
const SERIES_MIN: usize = 33;

const SECOND: i64 = 1_000_000;

#[derive(Debug, Clone)]
enum Step {
    Invocation { skill: u32, phase: Option<u32>, completed: bool },
    Anomaly { skill: u32, kind: u32 },
    Snapshot { skills: Vec<(u32, u64)>, anomalies: Vec<(u32, u32)> },
    Restart,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let (skill, label) = (|| 0..40_u32, || 0..30_u32);
    let invocation = (skill(), prop::option::of(label()), any::<bool>())
        .prop_map(|(skill, phase, completed)| Step::Invocation { skill, phase, completed });
    let anomaly = (skill(), label()).prop_map(|(skill, kind)| Step::Anomaly { skill, kind });
    let snapshot = (vec((skill(), 1..1_000_u64), 0..11), vec((skill(), label()), 0..11))
        .prop_map(|(skills, anomalies)| Step::Snapshot { skills, anomalies });
    vec(prop_oneof![6 => invocation, 3 => anomaly, 2 => snapshot, 1 => Just(Step::Restart)], 0..60)
}

fn limits() -> impl Strategy<Value = Limits> {
    let series = prop_oneof![SERIES_MIN..80_usize, SERIES_MIN..1_000_usize, Just(Limits::default().series_max)];
    (1..50_usize, series, 1..10_usize, 1..10_usize).prop_map(|(skills_max, series_max, phases, types)| Limits {
        skills_max,
        series_max,
        phases_per_skill_max: phases,
        anomaly_types_per_skill_max: types,
        ..Limits::default()
    })
}

/// Three skills are remembered, of a database with five.
#[test]
fn skills_of_a_database_beyond_those_that_are_remembered_are_not_read_and_reported_once() {
    let folder = tempfile::tempdir().unwrap();
    let server = ServerDatabase::create(&folder.path().join("skills.db"));
    let invoke = |times| ["a", "b", "c", "d", "e"].map(|skill| server.invoke(skill, times));
    invoke(400);
    let mut database = SkillsDatabase::open(&server.path, &CancellationToken::new()).unwrap();
    let limits = Limits { remembered_skills_max: 3, ..Limits::default() };
    let mut ledger = Ledger::new(limits);
    let feed = ledger.add_feed(FeedSpec { identity: "feed".to_owned(), ..FeedSpec::default() });
    ledger.expect_detail(feed);
    let connection = ledger.open(feed, moment(0));
    let (mut shown, mut notices) = (Shown::default(), Vec::new());
    for round in 1..=5 {
        let now = moment(round * SECOND);
        protocol::read(&server.snapshot(round * SECOND), &protocol::Limits::default(), &mut |message| {
            ledger.apply(connection, &message.expect("a snapshot"), now, &mut notices);
        });
        read_all(&mut database, &mut ledger, feed, now, &mut notices).unwrap();
        shown.fold(ledger.drain(now));
        let counted = 399 + u64::try_from(round).unwrap();
        let expected = ["a", "b", "c"].map(|skill| ((skill.to_owned(), true), counted));
        assert_eq!(shown.counts(), expected.into(), "{round}");
        invoke(1);
    }
    let feed = shown.feed(0);
    assert_eq!((feed.resets, feed.rollbacks, feed.detail_mismatches, feed.rows_tell), (0, 0, 0, Some(true)));
    let told = |notice: &&Notice| match notice {
        Notice::Rejected(rejection) => rejection.to_string().contains("the database holds more than 3 skills"),
        _ => false,
    };
    assert_eq!(notices.iter().filter(told).count(), 1, "{notices:?}");
}

/// A ledger, and what scrapes of it expose.
struct Counted {
    ledger: Ledger,
    view: Mutex<View>,
    notices: Vec<Notice>,
    rules: RuleCounters,
}

impl ViewProvider for Counted {
    fn read(&self, read: &mut dyn FnMut(&mut View, u64)) {
        read(&mut self.view.lock().unwrap(), 0);
    }
}

impl Counted {
    fn of(limits: Limits, steps: &[Step]) -> Self {
        let mut counted = Self {
            ledger: restored(limits, LedgerState::default(), moment(0)),
            view: Mutex::default(),
            notices: Vec::new(),
            rules: RuleCounters::default(),
        };
        let spec = || FeedSpec { identity: "feed".to_owned(), ..FeedSpec::default() };
        let feed = counted.ledger.add_feed(spec());
        let mut connection = counted.ledger.open(feed, moment(0));
        for (second, step) in (10..).zip(steps) {
            let now = moment(second * SECOND);
            let skill_name = |skill: &u32| format!("skill-{skill}").into();
            let event = |kind| Message::Event(Event { id: None, timestamp: None, kind });
            let anomaly = |(skill, kind): &(u32, u32), detected_at: Option<String>| AnomalyEntry {
                skill_name: skill_name(skill),
                anomaly_type: format!("type-{kind}").into(),
                detected_at: detected_at.map(Into::into),
                deviation_score: None,
            };
            let message = match step {
                Step::Invocation { skill, phase, completed } => event(EventKind::Invocation {
                    skill_name: skill_name(skill),
                    workflow_phase: phase.map(|phase| format!("phase-{phase}").into()),
                    completed: *completed,
                    duration_seconds: Some(1.5),
                    session_id: None,
                }),
                Step::Anomaly { skill, kind } => event(EventKind::Anomaly(anomaly(&(*skill, *kind), None))),
                Step::Snapshot { skills, anomalies } => {
                    let entry = |(skill, total): &(u32, u64)| SkillEntry {
                        skill_name: skill_name(skill),
                        total_invocations: Number::Finite((*total * 1_000 + second as u64) as f64),
                        completion_rate_percent: Number::Finite(100.0),
                        average_duration_seconds: Number::Finite(1.5),
                    };
                    let listed = |listed: &(u32, u32)| Ok(anomaly(listed, Some(format!("at {second}"))));
                    Message::Snapshot(Snapshot {
                        timestamp: None,
                        listed: skills.len(),
                        skills: skills.iter().map(|skill| Ok(entry(skill))).collect(),
                        anomalies_listed: anomalies.len(),
                        anomalies: anomalies.iter().map(listed).collect(),
                    })
                }
                Step::Restart => {
                    counted.ledger.mark_all();
                    let Changes { skills, rules, memory, .. } = counted.ledger.drain(now);
                    counted.ledger = restored(limits, LedgerState { skills, rules, memory }, now);
                    let feed = counted.ledger.add_feed(spec());
                    connection = counted.ledger.open(feed, now);
                    continue;
                }
            };
            counted.ledger.apply(connection, &message, now, &mut counted.notices);
            counted.ledger.tick(now, &mut counted.notices);
        }
        let end = moment((steps.len() as i64 + 30) * SECOND);
        counted.ledger.tick(end, &mut counted.notices);
        // The view is new: it is told of every skill.
        counted.ledger.mark_all();
        let changes = counted.ledger.drain(end);
        counted.rules = changes.rules;
        let view = counted.view.get_mut().unwrap();
        view.record_last_listed(counted.ledger.take_last_listed());
        view.apply(changes);
        counted
    }

    fn scrape(&self) -> Scrape {
        let body = render(self, &RegistryText::new(Registry::new()), Format::Text, Encoding::Identity).concat();
        Scrape::parse(std::str::from_utf8(&body).unwrap()).unwrap()
    }
}

fn restored(limits: Limits, whole: LedgerState, now: Now) -> Ledger {
    Ledger::restore(limits, whole, now).unwrap_or_else(|error| panic!("{error}"))
}

/// What is counted under any `__overflow__`.
fn overflowed(scrape: &Scrape, name: &str) -> f64 {
    let series = scrape.series(name).into_iter();
    series.filter(|(labels, _)| labels.values().any(|value| value == "__overflow__")).map(|(_, value)| value).sum()
}

proptest! {
    #![proptest_config(property())]

    #[test]
    fn there_are_no_more_series_than_the_limit_and_nothing_is_lost(limits in limits(), steps in steps()) {
        let counted = Counted::of(limits, &steps);
        let scrape = counted.scrape();
        let series = scrape.samples.keys().filter(|series| series.labels.contains_key("skill_name")).count();
        prop_assert!(series <= limits.series_max, "{series} series of {}", limits.series_max);

        let roomy = Counted::of(Limits { skills_max: 1_000, series_max: Limits::default().series_max, ..limits }, &steps);
        let all = roomy.scrape();
        for name in ["skill_invocations_total", "skill_duration_seconds_count", "anomalies_detected_total"] {
            prop_assert_eq!(scrape.sum(name), all.sum(name), "{}", name);
        }
        prop_assert_eq!(overflowed(&scrape, "skill_invocations_total"), counted.rules.overflowed_invocations as f64);
        prop_assert_eq!(overflowed(&scrape, "anomalies_detected_total"), counted.rules.overflowed_anomalies as f64);

        let reported = counted.notices.iter().filter(|notice| matches!(notice, Notice::SeriesOverflowed { .. })).count();
        let restarts = steps.iter().filter(|step| matches!(step, Step::Restart)).count();
        prop_assert!(reported <= 1 + restarts, "{reported} times");
    }
}

#[test]
fn a_phase_beyond_the_limit_is_reported_once_and_counted() {
    let steps: Vec<Step> =
        (0..30).map(|phase| Step::Invocation { skill: 1, phase: Some(phase), completed: true }).collect();
    // One skill, `__overflow__`, and two phases more.
    let limits = Limits { series_max: 2 * SERIES_MIN + 2 * 14, ..Limits::default() };
    let counted = Counted::of(limits, &steps);
    assert_eq!(counted.rules.overflowed_invocations, 28);
    let expected = Notice::SeriesOverflowed { skill_name: "skill-1".to_owned(), series_max: limits.series_max };
    assert_eq!(counted.notices.iter().filter(|notice| **notice == expected).count(), 1, "{:?}", counted.notices);
    let labels = [("skill_name", "skill-1"), ("workflow_phase", "__overflow__"), ("completed", "true")];
    assert_eq!(counted.scrape().value("skill_invocations_total", &labels), Some(28.0));
}

/// Names of 20 characters, as skills and phases have them.
fn name(what: &str, index: usize) -> String {
    format!("{what}-of-a-length-{index:06}")
}

/// What the default was chosen by: see `docs/dev/performance.md`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "it takes minutes: SERIES=1000000 cargo test --release --test promises memory_at_the_limit -- --ignored --nocapture"]
async fn memory_at_the_limit_of_series_is_at_most_256_mib() {
    let series_max = std::env::var("SERIES").map_or(Limits::default().series_max, |value| value.parse().unwrap());
    let peak_mib = peak_mib_at(series_max).await;
    let default = Limits::default().series_max;
    assert!(series_max > default || peak_mib <= 256.0, "{peak_mib:.0} MiB for {series_max} of {default} series");
}

/// A tenth of the default has a tenth of its memory, beside what the process has without series: its threads, the allocator's
/// arenas, and messages and texts that are on their way. The build for tests needs the most of that.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tenth_of_the_default_limit_of_series_needs_a_tenth_of_the_memory() {
    const BESIDE_MIB: f64 = 45.0;
    let peak_mib = peak_mib_at(Limits::default().series_max / 10).await;
    assert!(peak_mib <= 256.0 / 10.0 + BESIDE_MIB, "{peak_mib:.0} MiB");
}

/// The most memory that a bridge had resident which exposes as many series as `--limit.series` allows, with a state, after
/// scrapes of both formats between which series change.
async fn peak_mib_at(series_max: usize) -> f64 {
    // With most room set aside for nothing there are fewer series: the worst case is of few skills with many phases.
    const PHASES: usize = 50;
    const EVENTS_PER_FRAME: usize = 4_000;
    let skills = series_max / 14 / PHASES;
    // More than there is room for.
    let events = (0..skills * (PHASES + 2)).map(|index| {
        let (skill, phase) = (name("skill", index % skills), name("phase", index / skills));
        json!({"type": "skill_invocation", "data": {
            "skill_name": skill, "workflow_phase": phase, "completed": true, "duration_seconds": 1.25,
        }})
    });
    let events: Vec<Value> = events.collect();
    let frames: Vec<String> = events.chunks(EVENTS_PER_FRAME).map(|chunk| Value::from(chunk).to_string()).collect();
    let rounds = 3;
    let steps = std::iter::repeat_n(&frames, rounds).flatten().map(Sent::send);
    let server = ScriptedFeed::start(vec![steps.collect()]);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state.db");
    let (url, limit) = (server.url().to_string(), series_max.to_string());
    let mut program = Program::start([
        "--feed.url",
        &url,
        "--limit.series",
        &limit,
        "--web.listen-address",
        "127.0.0.1:0",
        "--state.path",
        path.to_str().unwrap(),
    ]);
    let address = program.address();
    let id = program.id();
    let report = move || {
        let memory = |key: &str| {
            let status = std::fs::read_to_string(format!("/proc/{id}/status")).unwrap();
            let kib = status.lines().find_map(|line| line.strip_prefix(key)).unwrap();
            kib.trim().trim_end_matches(" kB").parse::<f64>().unwrap() / 1024.0
        };
        let expected = (rounds * events.len()) as f64;
        let scrape = eventually("every event to be counted", || {
            let scrape = Scrape::try_fetch(address)?;
            let counted = scrape.sum("skill_invocations_total");
            holds(counted == expected, format!("{counted} of {expected}; {} MiB", memory("VmRSS:"))).map(|()| scrape)
        });
        for _ in 0..5 {
            http_client::get_openmetrics(address);
            http_client::get_gzip(address);
        }
        let series = scrape.samples.keys().filter(|series| series.labels.contains_key("skill_name")).count();
        let overflowed = scrape.sum("session_buddy_bridge_overflowed_invocations_total");
        println!("{series} series of {series_max}, {overflowed} invocations overflowed");
        println!("resident {:.0} MiB, at the most {:.0} MiB", memory("VmRSS:"), memory("VmHWM:"));
        // So many are exposed that it is a measurement.
        assert!(series > series_max / 10 * 9, "{series} series of {series_max}");
        memory("VmHWM:")
    };
    tokio::task::spawn_blocking(report).await.unwrap()
}
