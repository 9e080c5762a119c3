//! The cost of single parts, without sockets: `cargo bench --bench parts`.

use std::borrow::Cow;
use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use serde::Deserialize;
use session_buddy_bridge::protocol::{Limits, read};

criterion_main!(parts);
criterion_group!(parts, protocol);

/// Beside each reading stands a typed parse of the same text by serde, which checks nothing.
fn protocol(criterion: &mut Criterion) {
    let event = event(0);
    let batch = format!("[{}]", (0..100).map(self::event).collect::<Vec<_>>().join(", "));
    for (name, text) in [("event", event), ("batch of 100", batch), ("snapshot", snapshot())] {
        let mut group = criterion.benchmark_group(format!("protocol/{name}"));
        group.throughput(Throughput::Bytes(text.len() as u64));
        group.bench_function("read", |bencher| {
            bencher.iter(|| {
                read(black_box(&text), &Limits::default(), &mut |message| {
                    black_box(message).expect("a message that is well formed");
                });
            });
        });
        group.bench_function("serde", |bencher| {
            bencher.iter(|| {
                if text.starts_with('[') {
                    black_box(serde_json::from_str::<Vec<Typed<'_>>>(black_box(&text)).expect("messages"));
                } else {
                    black_box(serde_json::from_str::<Typed<'_>>(black_box(&text)).expect("a message"));
                }
            });
        });
        group.finish();
    }
}

fn event(number: usize) -> String {
    format!(
        r#"{{"type": "skill_invocation", "data": {{"skill_name": "skill-{:05}", "workflow_phase": "execution", "completed": true, "duration_seconds": 12.345, "session_id": "0000000000000000042"}}, "timestamp": "2026-11-24T04:05:06.123456"}}"#,
        number + 1
    )
}

/// Ten skills and ten anomalies, written as Python writes them.
fn snapshot() -> String {
    let skill = |number: usize| {
        let (name, average) = (format!("skill-{number:05}"), 12_345.678 / (900 + number) as f64);
        format!(
            r#"{{"skill_name": "{name}", "total_invocations": {}, "completion_rate": {:?}, "avg_duration_seconds": {average:?}}}"#,
            1_000 + number,
            90_000.0 / (1_000 + number) as f64,
        )
    };
    let anomaly = |number: usize| {
        let score = 2.5 + number as f64 / 7.0;
        format!(
            r#"{{"skill_name": "skill-{number:05}", "anomaly_type": "drop", "detected_at": "2026-11-24 04:05:{number:02}", "deviation_score": {score:?}}}"#
        )
    };
    let list = |entry: &dyn Fn(usize) -> String| (0..10).map(entry).collect::<Vec<_>>().join(", ");
    format!(
        r#"{{"type": "metrics_update", "timestamp": "2026-11-24T04:05:06.123456", "data": {{"top_skills": [{}], "anomalies": [{}]}}}}"#,
        list(&skill),
        list(&anomaly)
    )
}

/// A frame as the fastest typed parse reads it: adjacently tagged, strings borrowed.
#[allow(dead_code, reason = "parsing them is the work")]
#[derive(Debug, Deserialize)]
#[serde(tag = "type", content = "data", rename_all = "snake_case")]
enum Typed<'a> {
    SkillInvocation {
        #[serde(borrow)]
        skill_name: Cow<'a, str>,
        #[serde(borrow)]
        workflow_phase: Option<Cow<'a, str>>,
        completed: bool,
        duration_seconds: Option<f64>,
        #[serde(borrow)]
        session_id: Option<Cow<'a, str>>,
    },
    MetricsUpdate {
        #[serde(borrow)]
        top_skills: Vec<Skill<'a>>,
        #[serde(borrow)]
        anomalies: Vec<Anomaly<'a>>,
    },
}

#[derive(Debug, Deserialize)]
#[allow(dead_code, reason = "parsing them is the work")]
struct Skill<'a> {
    #[serde(borrow)]
    skill_name: Cow<'a, str>,
    total_invocations: u64,
    completion_rate: f64,
    avg_duration_seconds: Option<f64>,
}

#[derive(Debug, Deserialize)]
#[allow(dead_code, reason = "parsing them is the work")]
struct Anomaly<'a> {
    #[serde(borrow)]
    skill_name: Cow<'a, str>,
    #[serde(borrow)]
    anomaly_type: Cow<'a, str>,
    #[serde(borrow)]
    detected_at: Option<Cow<'a, str>>,
    deviation_score: Option<f64>,
}
