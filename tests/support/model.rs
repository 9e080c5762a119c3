//! The server's database, in memory: what its snapshots say of it, and the text in which they say it.

use std::collections::BTreeMap;

use jiff::Timestamp;
use proptest::prelude::*;

/// The server's time at which every history starts: 2026-11-22T10:00:00Z, in microseconds since the Unix epoch.
pub const START_MICROS: i64 = 1_795_341_600_000_000;

/// One second, in microseconds.
pub const SECOND: i64 = 1_000_000;

/// Skills, and anomalies, that a snapshot lists at most.
pub const LISTED_MAX: usize = 10;

/// One row of the server's `skill_invocation`.
#[derive(Debug, Clone, PartialEq)]
pub struct Invocation {
    pub skill_name: String,
    pub workflow_phase: Option<String>,
    pub completed: bool,
    pub duration_seconds: Option<f64>,
}

/// One row of the server's `skill_anomalies`.
#[derive(Debug, Clone, PartialEq)]
pub struct Anomaly {
    pub skill_name: String,
    pub anomaly_type: String,
    pub detected_at: String,
    pub deviation_score: Option<f64>,
}

/// One row of the server's `skill_metrics`.
#[derive(Debug, Clone, PartialEq)]
pub struct Metrics {
    pub skill_name: String,
    pub total: u64,
    pub completed: u64,
    /// Over completed invocations; one without a duration adds nothing.
    pub duration_seconds: f64,
}

impl Metrics {
    pub fn none(skill_name: &str) -> Self {
        Self { skill_name: skill_name.to_owned(), total: 0, completed: 0, duration_seconds: 0.0 }
    }

    pub fn abandoned(&self) -> u64 {
        self.total - self.completed
    }
}

/// What the server holds.
#[derive(Debug, Clone, Default)]
pub struct Database {
    pub invocations: Vec<Invocation>,
    pub anomalies: Vec<Anomaly>,
}

impl Database {
    /// Every skill's numbers, added up in the order of writing, as the server's trigger does.
    pub fn metrics(&self) -> BTreeMap<&str, Metrics> {
        let mut skills = BTreeMap::new();
        for invocation in &self.invocations {
            let name = invocation.skill_name.as_str();
            let skill = skills.entry(name).or_insert_with(|| Metrics::none(name));
            skill.total += 1;
            if invocation.completed {
                skill.completed += 1;
                skill.duration_seconds += invocation.duration_seconds.unwrap_or(0.0);
            }
        }
        skills
    }

    /// The ten skills with the most invocations.
    pub fn top_ten(&self) -> Vec<Metrics> {
        let mut skills: Vec<_> = self.metrics().into_values().collect();
        skills.sort_by_key(|skill| std::cmp::Reverse(skill.total));
        skills.truncate(LISTED_MAX);
        skills
    }

    /// The ten newest anomalies of the last hour. Times compare as text, as they do in the server's query, so that one
    /// written with a `T` outlives the hour; ties come in an order that `chance` decides.
    pub fn newest_anomalies(&self, at_micros: i64, chance: u64) -> Vec<Anomaly> {
        let hour_ago = sql_time(at_micros - 3600 * SECOND);
        let mut listed: Vec<_> = self.anomalies.iter().filter(|row| row.detected_at >= hour_ago).cloned().collect();
        fastrand::Rng::with_seed(chance).shuffle(&mut listed);
        listed.sort_by(|a, b| b.detected_at.cmp(&a.detected_at));
        listed.truncate(LISTED_MAX);
        listed
    }

    /// The `metrics_update` of this database, `at_micros` after [`START_MICROS`].
    pub fn snapshot(&self, at_micros: i64) -> String {
        metrics_update(at_micros, &self.top_ten(), &self.newest_anomalies(at_micros, at_micros.unsigned_abs()))
    }

    /// The `metrics_update` that a client gets who subscribed to one skill, if the ten list it.
    pub fn snapshot_of(&self, skill_name: &str, at_micros: i64) -> Option<String> {
        let listed = self.top_ten().into_iter().find(|skill| skill.skill_name == skill_name)?;
        Some(metrics_update(at_micros, &[listed], &[]))
    }

    /// Invocations by skill and `completed`.
    pub fn counts(&self) -> BTreeMap<(String, bool), u64> {
        let mut counts = BTreeMap::new();
        for invocation in &self.invocations {
            *counts.entry((invocation.skill_name.clone(), invocation.completed)).or_default() += 1;
        }
        counts
    }
}

/// A `metrics_update` exactly as Python's `json.dumps` writes the server's dictionary.
pub fn metrics_update(at_micros: i64, skills: &[Metrics], anomalies: &[Anomaly]) -> String {
    let skills: Vec<_> = skills.iter().map(skill_json).collect();
    let anomalies: Vec<_> = anomalies.iter().map(anomaly_json).collect();
    format!(
        r#"{{"type": "metrics_update", "timestamp": "{}", "data": {{"top_skills": [{}], "anomalies": [{}]}}}}"#,
        iso_time(at_micros),
        skills.join(", "),
        anomalies.join(", "),
    )
}

fn skill_json(skill: &Metrics) -> String {
    // The order of operations is the trigger's: another order rounds differently.
    let rate = if skill.completed == 0 { 0.0 } else { skill.completed as f64 / skill.total as f64 * 100.0 };
    let average = match skill.completed {
        0 => "null".to_owned(),
        completed => python_float(skill.duration_seconds / completed as f64),
    };
    format!(
        r#"{{"skill_name": {}, "total_invocations": {}, "completion_rate": {}, "avg_duration_seconds": {average}}}"#,
        python_string(&skill.skill_name),
        skill.total,
        python_float(rate),
    )
}

fn anomaly_json(anomaly: &Anomaly) -> String {
    format!(
        r#"{{"skill_name": {}, "detected_at": {}, "anomaly_type": {}, "deviation_score": {}}}"#,
        python_string(&anomaly.skill_name),
        python_string(&anomaly.detected_at),
        python_string(&anomaly.anomaly_type),
        anomaly.deviation_score.map_or_else(|| "null".to_owned(), python_float),
    )
}

/// The streamed form of an invocation: wrapped as an event where it has an `id`, bare where it has none.
pub fn invocation_event(id: Option<&str>, at_micros: i64, invocation: &Invocation) -> String {
    let data = format!(
        r#"{{"skill_name": {}, "workflow_phase": {}, "completed": {}, "duration_seconds": {}}}"#,
        python_string(&invocation.skill_name),
        invocation.workflow_phase.as_deref().map_or_else(|| "null".to_owned(), python_string),
        invocation.completed,
        invocation.duration_seconds.map_or_else(|| "null".to_owned(), python_float),
    );
    event("skill_invocation", "skill.invoked", id, at_micros, &data)
}

/// The streamed form of an anomaly.
pub fn anomaly_event(id: Option<&str>, at_micros: i64, anomaly: &Anomaly) -> String {
    event("anomaly", "anomaly.detected", id, at_micros, &anomaly_json(anomaly))
}

fn event(bare: &str, wrapped: &str, id: Option<&str>, at_micros: i64, data: &str) -> String {
    match id {
        None => format!(r#"{{"type": "{bare}", "data": {data}}}"#),
        Some(id) => format!(
            r#"{{"id": "{id}", "type": "event", "event": "{wrapped}", "data": {data}, "timestamp": "{}", "room": null}}"#,
            iso_time(at_micros),
        ),
    }
}

/// SQLite's `datetime()`: whole seconds, a space between date and time.
pub fn sql_time(at_micros: i64) -> String {
    timestamp(at_micros).strftime("%Y-%m-%d %H:%M:%S").to_string()
}

/// Python's `isoformat()`: it leaves the fraction out where there is none.
pub fn iso_time(at_micros: i64) -> String {
    let seconds = timestamp(at_micros).strftime("%Y-%m-%dT%H:%M:%S").to_string();
    match at_micros.rem_euclid(SECOND) {
        0 => format!("{seconds}+00:00"),
        fraction => format!("{seconds}.{fraction:06}+00:00"),
    }
}

fn timestamp(at_micros: i64) -> Timestamp {
    Timestamp::from_microsecond(START_MICROS + at_micros).expect("histories last days, not millennia")
}

/// A float as Python's `repr` and `json.dumps` write it: the shortest digits that read back equal.
pub fn python_float(value: f64) -> String {
    if value.is_nan() {
        return "NaN".to_owned();
    }
    if value.is_infinite() {
        return if value > 0.0 { "Infinity" } else { "-Infinity" }.to_owned();
    }
    let scientific = format!("{value:e}");
    let (digits, exponent) = scientific.split_once('e').expect("{:e} writes an exponent");
    match exponent.parse::<i32>().expect("{:e} writes a whole exponent") {
        -4..16 if value.fract() == 0.0 => format!("{value:.1}"),
        -4..16 => value.to_string(),
        exponent => format!("{digits}e{}{:02}", if exponent < 0 { '-' } else { '+' }, exponent.abs()),
    }
}

/// A string as `json.dumps` writes it: ASCII, with surrogate pairs for what lies beyond the BMP.
pub fn python_string(text: &str) -> String {
    let mut json = String::from('"');
    for unit in text.encode_utf16() {
        match unit {
            0x22 => json.push_str("\\\""),
            0x5c => json.push_str("\\\\"),
            0x0a => json.push_str("\\n"),
            0x0d => json.push_str("\\r"),
            0x09 => json.push_str("\\t"),
            0x08 => json.push_str("\\b"),
            0x0c => json.push_str("\\f"),
            0x20..=0x7e => json.push(char::from(unit as u8)),
            _ => json.push_str(&format!("\\u{unit:04x}")),
        }
    }
    json.push('"');
    json
}

/// Sixteen names. Some need escapes, and two agree once their labels are joined without a separator.
pub fn skill_name(index: usize) -> String {
    match index % 16 {
        1 => "ünïcode 😀".to_owned(),
        2 => "\"quoted\"\\\n".to_owned(),
        3 => "skill-00".to_owned(),
        4 => "NaN".to_owned(),
        index => format!("skill-{index:03}"),
    }
}

/// An invocation of one of the first `skills` skills, lower ones more often.
pub fn invocations(skills: usize) -> impl Strategy<Value = Invocation> {
    let index = prop_oneof![0..skills, 0..skills.div_ceil(3)];
    let phase = prop::option::weighted(0.8, prop::sample::select(vec!["setup", "execution", "0setup"]));
    (index, phase, prop::bool::weighted(0.8), prop::option::weighted(0.9, durations())).prop_map(
        |(index, phase, completed, duration_seconds)| Invocation {
            skill_name: skill_name(index),
            workflow_phase: phase.map(str::to_owned),
            completed,
            duration_seconds: duration_seconds.filter(|_| completed),
        },
    )
}

/// Positive durations in steps of 0.1 ms, on the bounds of the buckets more often than chance would have it.
pub fn durations() -> impl Strategy<Value = f64> {
    prop_oneof![
        6 => (1_u32..4_000_000).prop_map(|steps| f64::from(steps) / 1e4),
        1 => prop::sample::select(session_buddy_bridge::internals::ledger::DURATION_BUCKETS_SECONDS.to_vec()),
    ]
}
