//! What `/metrics` writes and what a registry gathers are the same series with the same values, whatever was counted
//! and however it is named.

use std::collections::BTreeMap;
use std::io::Read as _;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::support::property;
use crate::support::scrape::{Family, Scrape, Series};
use flate2::read::GzDecoder;
use prometheus::proto::{Metric, MetricFamily, MetricType};
use prometheus::{IntGaugeVec, Opts, Registry};
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use proptest::sample::select;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;
use session_buddy_bridge::internals::exposition::{
    Encoding, FamiliesCollector, Format, RegistryText, View, ViewProvider, encode_families, render,
};
use session_buddy_bridge::internals::ledger::{Changes, FailureSeries, FeedSpec, Ledger, Limits, Now, SkillRow};
use session_buddy_bridge::internals::protocol::{
    AnomalyEntry, Event, EventKind, Message, Number, SkillEntry, Snapshot,
};

const FIVE: [(&str, &str); 5] = [
    ("skill_invocations_total", "counter"),
    ("skill_duration_seconds", "histogram"),
    ("skill_completion_rate", "gauge"),
    ("active_sessions_total", "gauge"),
    ("anomalies_detected_total", "counter"),
];

const LAST_LISTED: &str = "session_buddy_bridge_skill_last_listed_timestamp_seconds";

/// Values that a text format gets wrong first, and pairs that are one when put end to end.
const NASTY: [&str; 18] = [
    "a",
    "ab",
    "b",
    "bc",
    "c",
    "\"",
    "\\",
    "\n",
    "\\n",
    "\\\"",
    "\"} 1\n",
    "# HELP x y",
    " ",
    "\u{200b}",
    "\r",
    "\0",
    "naïve",
    "日本🦀",
];

fn label() -> impl Strategy<Value = String> {
    prop_oneof![
        4 => select(&NASTY[..]).prop_map(str::to_owned),
        1 => "(?s).{1,6}",
        // So many that blocks of text are split.
        2 => (0..300).prop_map(|number| format!("skill-{number}")),
    ]
}

/// What happens in one history.
#[derive(Debug, Clone)]
enum Step {
    Event {
        of_server: bool,
        kind: EventKind<'static>,
    },
    Snapshot {
        skills: Vec<SkillEntry<'static>>,
        anomalies: Vec<AnomalyEntry<'static>>,
    },
    Wait {
        seconds: u64,
    },
    /// What changed goes to the view, which is scraped; otherwise it is added up.
    Show {
        gzip: bool,
    },
}

fn step() -> impl Strategy<Value = Step> {
    let event = (any::<bool>(), event_kind()).prop_map(|(of_server, kind)| Step::Event { of_server, kind });
    let snapshot = (vec(skill_entry(), 0..11), vec(anomaly(), 0..11))
        .prop_map(|(skills, anomalies)| Step::Snapshot { skills, anomalies });
    prop_oneof![
        6 => event,
        3 => snapshot,
        1 => (0..7u64).prop_map(|seconds| Step::Wait { seconds }),
        2 => any::<bool>().prop_map(|gzip| Step::Show { gzip }),
    ]
}

fn event_kind() -> impl Strategy<Value = EventKind<'static>> {
    let duration = option::of(prop_oneof![select(vec![0.0, 0.1, 0.5, 1.0, 300.0, 1e-300, 1e300]), 0.0..400.0]);
    prop_oneof![
        4 => (label(), option::of(label()), any::<bool>(), duration, option::of(label())).prop_map(
            |(skill, phase, completed, duration_seconds, session)| EventKind::Invocation {
                skill_name: skill.into(),
                workflow_phase: phase.map(Into::into),
                completed,
                duration_seconds,
                session_id: session.map(Into::into),
            }
        ),
        1 => (label(), 0.0..=1.0).prop_map(|(skill, rate)| EventKind::CompletionRate { skill_name: skill.into(), rate }),
        2 => anomaly().prop_map(EventKind::Anomaly),
        1 => (0..1u64 << 53).prop_map(|count| EventKind::ActiveSessions { count }),
        1 => label().prop_map(|id| EventKind::SessionCreated { session_id: id.into() }),
    ]
}

fn skill_entry() -> impl Strategy<Value = SkillEntry<'static>> {
    let counts = (0..1000u64).prop_flat_map(|total| (Just(total), 0..=total));
    (label(), counts, 0.0..400.0).prop_map(|(skill, (total, completed), average)| SkillEntry {
        skill_name: skill.into(),
        total_invocations: Number::Finite(total as f64),
        completion_rate_percent: Number::Finite(100.0 * completed as f64 / total.max(1) as f64),
        average_duration_seconds: if completed > 0 { Number::Finite(average) } else { Number::Missing },
    })
}

fn anomaly() -> impl Strategy<Value = AnomalyEntry<'static>> {
    (label(), label(), option::of(0..60u32)).prop_map(|(skill, kind, second)| AnomalyEntry {
        skill_name: skill.into(),
        anomaly_type: kind.into(),
        detected_at: second.map(|second| format!("2026-11-22 10:24:{second:02}").into()),
        deviation_score: None,
    })
}

/// The defaults, or so little room that everything overflows.
fn limits() -> impl Strategy<Value = Limits> {
    let tight = Limits {
        skills_max: 3,
        remembered_skills_max: 6,
        phases_per_skill_max: 2,
        anomaly_types_per_skill_max: 2,
        ..Limits::default()
    };
    select(vec![Limits::default(), tight])
}

/// What scrapes are shown at the end of a history.
#[derive(Debug, Default)]
struct Shown {
    view: Mutex<View>,
    active_sessions: u64,
}

impl ViewProvider for Shown {
    fn read(&self, read: &mut dyn FnMut(&mut View, u64)) {
        read(&mut self.view.lock().unwrap(), self.active_sessions);
    }
}

impl Shown {
    fn text(&self, registry: &Registry) -> String {
        self.written(registry, Format::Text)
    }

    fn written(&self, registry: &Registry, format: Format) -> String {
        String::from_utf8(render(self, &RegistryText::new(registry.clone()), format, Encoding::Identity).concat())
            .unwrap()
    }

    fn unpacked(&self, registry: &Registry, format: Format) -> String {
        let member = render(self, &RegistryText::new(registry.clone()), format, Encoding::Gzip).concat();
        let (mut text, mut decoder) = (String::new(), GzDecoder::new(&member[..]));
        decoder.read_to_string(&mut text).unwrap();
        assert!(decoder.into_inner().is_empty(), "more than one member");
        text
    }
}

/// The same with what rows tell, of which there are none here: as many failures of a type as there are anomalies.
fn with_failures(mut changes: Changes) -> Changes {
    for SkillRow { series, .. } in &mut changes.skills {
        let failures = series.anomalies.iter().map(|anomaly| FailureSeries {
            error_type: Arc::clone(&anomaly.anomaly_type),
            count: anomaly.count,
            born_micros: anomaly.born_micros,
        });
        series.failures = failures.collect();
        let count = series.anomalies.iter().map(|anomaly| anomaly.count).sum::<u64>();
        series.last_invoked_micros = (count > 0).then_some(count as i64 * 1_234_567);
    }
    changes
}

/// Plays a history to a view that is scraped all the while, and to another that is not scraped before its end.
fn played(limits: Limits, history: Vec<Step>) -> (Shown, Shown) {
    let mut ledger = Ledger::new(limits);
    let local = ledger.add_local_feed("local");
    let server = ledger.add_feed(FeedSpec { identity: "server".to_owned(), ..FeedSpec::default() });
    let mut elapsed = Duration::from_secs(1);
    let mut rounds = 0;
    let local = ledger.open(local, Now::at(elapsed));
    let server = ledger.open(server, Now::at(elapsed));
    let (mut shown, mut fresh) = (Shown::default(), Shown::default());
    for step in history {
        elapsed += Duration::from_millis(500);
        let now = Now::at(elapsed);
        match step {
            Step::Event { of_server, kind } => {
                let message = Message::Event(Event { id: None, timestamp: None, kind });
                ledger.apply(if of_server { server } else { local }, &message, now, &mut Vec::new());
            }
            Step::Snapshot { skills, anomalies } => {
                rounds += 1;
                let snapshot = Message::Snapshot(Snapshot {
                    timestamp: Some(format!("round {rounds}").into()),
                    listed: skills.len(),
                    skills: skills.into_iter().map(Ok).collect(),
                    anomalies_listed: anomalies.len(),
                    anomalies: anomalies.into_iter().map(Ok).collect(),
                });
                ledger.apply(server, &snapshot, now, &mut Vec::new());
            }
            Step::Wait { seconds } => elapsed += Duration::from_secs(seconds),
            Step::Show { gzip } => {
                let changes = with_failures(ledger.drain(now));
                ledger.acknowledge(changes.sequence);
                fresh.view.lock().unwrap().apply(changes.clone());
                shown.view.lock().unwrap().apply(changes);
                let encoding = if gzip { Encoding::Gzip } else { Encoding::Identity };
                render(&shown, &RegistryText::new(Registry::new()), Format::Text, encoding);
            }
        }
    }
    // Longer than anything waits.
    let end = Now::at(elapsed + Duration::from_secs(10));
    ledger.tick(end, &mut Vec::new());
    let changes = with_failures(ledger.drain(end));
    for shown in [&mut shown, &mut fresh] {
        shown.view.lock().unwrap().apply(changes.clone());
        shown.active_sessions = ledger.active_sessions(end);
    }
    (shown, fresh)
}

/// Whether OpenMetrics has the samples of `text`, in their order, and else nothing but exemplars and times of birth.
fn without_additions(open: &str, text: &str) -> Result<(), String> {
    let mut expected = text.lines().filter(|line| !line.starts_with('#'));
    for line in open.lines().filter(|line| !line.starts_with('#')) {
        let series = line.split(['{', ' ']).next().unwrap_or_default();
        if series.ends_with("_created") {
            continue;
        }
        let sample = expected.next().ok_or_else(|| format!("one line too many: {line}"))?;
        let rest = line.strip_prefix(sample).ok_or_else(|| format!("{line} instead of {sample}"))?;
        if !rest.is_empty() && !rest.starts_with(" # {session_id=\"") {
            return Err(format!("{rest} behind {sample}"));
        }
    }
    expected.next().map_or(Ok(()), |missing| Err(format!("{missing} is missing")))
}

/// Families as a scrape shows them. A registry's buckets are bounds without `+Inf`, which is the count.
fn expanded(families: &[MetricFamily]) -> Scrape {
    let mut scrape = Scrape::default();
    for family in families {
        let kind = format!("{:?}", family.get_field_type()).to_lowercase();
        scrape.families.insert(family.name().to_owned(), Family { kind, help: family.help().to_owned() });
        for metric in family.get_metric() {
            for (suffix, le, value) in samples(family.get_field_type(), metric) {
                let own = metric.get_label().iter().map(|pair| (pair.name().to_owned(), pair.value().to_owned()));
                let labels: BTreeMap<_, _> = own.chain(le.map(|le| ("le".to_owned(), le))).collect();
                let series = Series { name: format!("{}{suffix}", family.name()), labels };
                assert_eq!(scrape.samples.insert(series.clone(), value), None, "gathered twice: {series:?}");
            }
        }
    }
    scrape
}

fn samples(kind: MetricType, metric: &Metric) -> Vec<(&'static str, Option<String>, f64)> {
    match kind {
        MetricType::COUNTER => vec![("", None, metric.get_counter().get_value())],
        MetricType::GAUGE => vec![("", None, metric.get_gauge().get_value())],
        MetricType::HISTOGRAM => {
            let histogram = metric.get_histogram();
            let count = histogram.get_sample_count() as f64;
            let bucket = |bound: &prometheus::proto::Bucket| {
                ("_bucket", Some(format!("{:?}", bound.upper_bound())), bound.cumulative_count() as f64)
            };
            let rest = [
                ("_bucket", Some("+Inf".to_owned()), count),
                ("_sum", None, histogram.get_sample_sum()),
                ("_count", None, count),
            ];
            histogram.get_bucket().iter().map(bucket).chain(rest).collect()
        }
        other => panic!("there should be no {other:?}"),
    }
}

proptest! {
    #![proptest_config(property())]

    #[test]
    fn the_text_is_what_the_registry_gathers(
        limits in limits(),
        history in vec(step(), 0..60),
        own in vec((label(), any::<i32>()), 0..4),
    ) {
        let (shown, fresh) = played(limits, history);
        let shown = Arc::new(shown);
        let registry = Registry::new();
        registry.register(Box::new(FamiliesCollector::new(shown.clone()))).unwrap();
        let embedders = IntGaugeVec::new(Opts::new("own", "A program's\nown"), &["label"]).unwrap();
        registry.register(Box::new(embedders.clone())).unwrap();
        for (label, value) in own {
            embedders.with_label_values(&[label]).set(value.into());
        }

        let text = shown.text(&registry);
        prop_assert_eq!(&text, &shown.unpacked(&registry, Format::Text));
        prop_assert_eq!(shown.text(&Registry::new()), fresh.text(&Registry::new()));
        for with_created in [false, true] {
            let format = Format::OpenMetrics { with_created };
            let open = shown.written(&registry, format);
            prop_assert_eq!(&open, &shown.unpacked(&registry, format));
            prop_assert_eq!(shown.written(&Registry::new(), format), fresh.written(&Registry::new(), format));
            prop_assert_eq!(without_additions(&open, &text), Ok(()));
        }
        let scrape = Scrape::parse(&text).map_err(|why| TestCaseError::fail(format!("{why}\n{text}")))?;
        let gathered = expanded(&registry.gather());
        prop_assert_eq!(&scrape.samples, &gathered.samples);
        for (name, family) in &gathered.families {
            prop_assert_eq!(scrape.families.get(name), Some(family), "{}", name);
        }
        prop_assert!(scrape.families.contains_key(LAST_LISTED));
        prop_assert!(scrape.samples.values().all(|value| value.is_finite()), "{}", text);

        let mut five = String::new();
        encode_families(&mut shown.view.lock().unwrap(), shown.active_sessions, &mut five);
        let types: Vec<(&str, &str)> =
            five.split('\n').filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' ')).collect();
        prop_assert_eq!(types, FIVE);
        prop_assert!(text.starts_with(&five));
    }
}

#[test]
fn skills_are_in_the_order_of_their_names_however_they_came() {
    let names: Vec<String> = (0..1_000).map(|number| format!("skill-{number:03}")).collect();
    let mut orders = [names.clone(), names.iter().rev().cloned().collect(), names];
    fastrand::Rng::with_seed(3).shuffle(&mut orders[2]);
    let texts = orders.map(|names| {
        let skill = |skill_name: String| Step::Event {
            of_server: false,
            kind: EventKind::Invocation {
                skill_name: skill_name.into(),
                workflow_phase: None,
                completed: true,
                duration_seconds: Some(1.5),
                session_id: None,
            },
        };
        let history = names.into_iter().enumerate().flat_map(|(number, name)| {
            let show = (number % 50 == 0).then_some(Step::Show { gzip: number % 100 == 0 });
            show.into_iter().chain([skill(name)])
        });
        played(Limits::default(), history.collect()).0.text(&Registry::new())
    });
    assert_eq!(texts[0], texts[1]);
    assert_eq!(texts[0], texts[2]);
    let names = texts[0].lines().filter_map(|line| line.strip_prefix("skill_duration_seconds_sum{skill_name=\""));
    let names: Vec<&str> = names.filter_map(|rest| rest.split('"').next()).collect();
    assert!(names.is_sorted(), "{names:?}");
    assert_eq!(names.len(), 1_000);
}

#[test]
fn the_histories_show_every_kind_of_series() {
    let mut runner = TestRunner::deterministic();
    let mut seen = BTreeMap::<String, usize>::new();
    for _ in 0..20 {
        let history = vec(step(), 60).new_tree(&mut runner).unwrap().current();
        let (shown, _) = played(Limits::default(), history);
        let text = shown.text(&Registry::new());
        for series in Scrape::parse(&text).unwrap().samples.into_keys() {
            *seen.entry(series.name).or_default() += 1;
        }
    }
    for name in
        FIVE.map(|(name, _)| name.replace("seconds", "seconds_bucket")).iter().map(String::as_str).chain([LAST_LISTED])
    {
        assert!(seen.get(name).is_some_and(|times| *times >= 20), "{name} is hardly ever there: {seen:?}");
    }
}
