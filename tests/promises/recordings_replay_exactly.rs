//! What real connections to the real server told, frame by frame, gives exactly the counts that the rules give.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::support::model::{SECOND, python_float, python_string};
use crate::support::observer::Observer;
use serde::Deserialize;
use session_buddy_bridge::internals::protocol::RejectionReason;

/// One line of a recording.
#[derive(Deserialize)]
struct Line {
    at_seconds: f64,
    frame: Option<String>,
    event: Option<String>,
}

#[derive(Deserialize)]
struct Expected {
    /// By `skill|completed`.
    invocations: BTreeMap<String, u64>,
    /// By skill.
    durations: BTreeMap<String, ExpectedDurations>,
    /// By skill.
    completion_rate: BTreeMap<String, f64>,
    /// By `type|skill`.
    anomalies: BTreeMap<String, u64>,
    live: u64,
    exact: u64,
    estimated: u64,
}

#[derive(Deserialize)]
struct ExpectedDurations {
    buckets: [u64; 10],
    sum: f64,
    count: u64,
}

fn recording(file_name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/recordings").join(file_name)
}

fn lines(name: &str) -> Vec<Line> {
    let text =
        std::fs::read_to_string(recording(&format!("{name}.ndjson"))).expect("the recording is in the repository");
    text.lines().map(|line| serde_json::from_str(line).expect("a recording is one JSON object a line")).collect()
}

/// The ledger after the recording, and when the recording ends.
fn replayed(name: &str) -> (Observer, i64) {
    let mut observer = Observer::of(&[(name, None)]);
    let mut at_micros = 0;
    for line in lines(name) {
        at_micros = (line.at_seconds * SECOND as f64) as i64;
        match (line.frame, line.event.as_deref()) {
            (Some(frame), None) => observer.hear(0, &frame, at_micros),
            (None, Some("open")) => observer.open(0, at_micros),
            (None, Some("close")) => observer.close(0, at_micros),
            (_, event) => panic!("{name}: neither a frame nor a known event: {event:?}"),
        }
    }
    observer.tick(at_micros);
    (observer, at_micros)
}

fn replays_exactly(name: &str) {
    let text = std::fs::read_to_string(recording(&format!("{name}.expected.json"))).expect("beside the recording");
    let expected: Expected = serde_json::from_str(&text).expect("the fields of `Expected`");
    let (observer, at_micros) = replayed(name);
    let shown = &observer.shown;

    let mut invocations = BTreeMap::new();
    for skill in expected.completion_rate.keys() {
        invocations.extend([(format!("{skill}|true"), 0), (format!("{skill}|false"), 0)]);
    }
    invocations.extend(shown.counts().into_iter().map(|((skill, completed), n)| (format!("{skill}|{completed}"), n)));
    assert_eq!(invocations, expected.invocations);

    for (skill, expected) in &expected.durations {
        let shown = shown.durations(skill);
        assert_eq!((shown.buckets, shown.count()), (expected.buckets, expected.count), "{skill}");
        assert!((shown.sum - expected.sum).abs() <= 1e-9 * expected.sum, "{skill}: {} {}", shown.sum, expected.sum);
    }
    let observed: u64 = expected.completion_rate.keys().map(|skill| shown.durations(skill).count()).sum();
    assert_eq!(observed, expected.durations.values().map(|durations| durations.count).sum::<u64>());
    assert_eq!(
        (shown.rules.exact_observations, shown.rules.estimated_observations),
        (expected.exact, expected.estimated)
    );

    for (skill, expected) in &expected.completion_rate {
        let rate = shown.skill(skill).and_then(|skill| skill.completion_rate).expect("listed");
        assert!((rate - expected).abs() < 1e-12, "{skill}: {rate}, not {expected}");
    }
    let by_name = shown.anomalies().into_iter().map(|((kind, skill), n)| (format!("{kind}|{skill}"), n));
    assert_eq!(by_name.collect::<BTreeMap<_, _>>(), expected.anomalies);
    assert_eq!(observer.active_sessions(at_micros), expected.live);

    let rejected: usize = RejectionReason::ALL.iter().map(|reason| observer.rejections(*reason)).sum();
    assert_eq!(rejected, 0, "{:?}", observer.notices);
}

#[test]
fn steady() {
    replays_exactly("steady");
}

#[test]
fn busy() {
    replays_exactly("busy");
}

#[test]
fn restart() {
    replays_exactly("restart");
}

#[test]
fn reset() {
    replays_exactly("reset");
    assert_eq!(replayed("reset").0.shown.feed(0).resets, 1);
}

#[test]
fn hearing_every_frame_twice_changes_nothing() {
    let mut twice = Observer::of(&[("busy", None)]);
    for line in lines("busy") {
        let at_micros = (line.at_seconds * SECOND as f64) as i64;
        match line.frame {
            Some(frame) => (0..2).for_each(|_| twice.hear(0, &frame, at_micros)),
            None if line.event.as_deref() == Some("open") => twice.open(0, at_micros),
            None => twice.close(0, at_micros),
        }
    }
    let (once, _) = replayed("busy");
    assert_eq!(twice.shown.counts(), once.shown.counts());
    assert_eq!(twice.shown.anomalies(), once.shown.anomalies());
    assert_eq!(twice.shown.rules, once.shown.rules);
}

/// What the property tests rest on: the model writes numbers and strings as the server does.
#[test]
fn the_model_writes_as_the_server_does() {
    let frames = ["steady", "busy", "restart", "reset"].into_iter().flat_map(lines).filter_map(|line| line.frame);
    let mut floats = 0;
    for frame in frames {
        for token in frame.split([' ', ',', '}', ']']).filter(|token| token.contains('.') && !token.contains('"')) {
            if let Ok(value) = token.parse::<f64>() {
                assert_eq!(python_float(value), token);
                floats += 1;
            }
        }
    }
    assert!(floats > 1000, "only {floats} numbers compared");
    for (value, written) in [
        (1e16, "1e+16"),
        (1e-5, "1e-05"),
        (1.5e-7, "1.5e-07"),
        (123_456_789_012_345.0, "123456789012345.0"),
        (1.25e300, "1.25e+300"),
        (0.0001, "0.0001"),
        (0.1 + 0.2, "0.30000000000000004"),
    ] {
        assert_eq!(python_float(value), written);
    }
    assert_eq!(python_string("ü😀\"\\\n\u{7f}"), r#""\u00fc\ud83d\ude00\"\\\n\u007f""#);
}
