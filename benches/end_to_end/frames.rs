//! What the sender sends, as bytes on the wire.

use tokio_tungstenite::tungstenite::protocol::frame::Frame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::{Data, OpCode};

use crate::model::{Anomaly, Metrics, SECOND, metrics_update, sql_time};

/// Bytes of a single event.
const EVENT_BYTES: usize = 223;

/// Frames one behind the other, and how many.
pub struct Frames {
    pub bytes: Vec<u8>,
    pub count: usize,
    /// Where each frame begins, and where the last ends.
    pub ends: Vec<usize>,
}

impl Frames {
    pub fn of(texts: impl IntoIterator<Item = String>) -> Self {
        let mut frames = Self { bytes: Vec::new(), count: 0, ends: vec![0] };
        for text in texts {
            let frame = Frame::message(text.into_bytes(), OpCode::Data(Data::Text), true);
            frame.format(&mut frames.bytes).expect("memory takes everything");
            frames.count += 1;
            frames.ends.push(frames.bytes.len());
        }
        frames
    }

    /// The first `count` frames.
    pub fn first(&self, count: usize) -> &[u8] {
        &self.bytes[..self.ends[count.min(self.count)]]
    }
}

/// The name of the skill `number`.
pub fn skill_name(number: usize) -> String {
    format!("skill-{number:05}")
}

/// An invocation that took its time, as the server would write it.
pub fn event(number: usize, skills: usize) -> String {
    let (skill_name, completed) = (skill_name(number % skills), !(number / skills).is_multiple_of(4));
    let seconds = 0.05 + (number % 997) as f64 / 8.0;
    let begin = format!(
        r#"{{"type": "skill_invocation", "data": {{"skill_name": "{skill_name}", "workflow_phase": "execution", "completed": {completed}, "duration_seconds": {seconds:?}, "session_id": ""#
    );
    // Each is sent later than the one before: what has an identifier would be refused as stale otherwise.
    let end = format!(r#""}}, "timestamp": "2026-11-24T04:05:06.{:06}"}}"#, number % 1_000_000);
    let session = EVENT_BYTES.saturating_sub(begin.len() + end.len());
    format!("{begin}{:0session$}{end}", number % 97)
}

/// The same with an identifier of its own, as wrapped events have.
pub fn identified_event(number: usize, skills: usize) -> String {
    let bare = event(number, skills);
    format!(r#"{{"id": "5f0c2d5e-8a4b-4c1d-9e7f-{number:012x}", {}"#, &bare[1..])
}

/// An invocation in a phase of many, with names of 24 characters.
pub fn event_of_phase(skill: usize, phase: usize) -> String {
    let (skill, phase) = (format!("skill-{skill:018}"), format!("phase-{phase:018}"));
    format!(
        r#"{{"type": "skill_invocation", "data": {{"skill_name": "{skill}", "workflow_phase": "{phase}", "completed": true, "duration_seconds": 1.25}}}}"#
    )
}

/// `each` events in one frame.
pub fn batch(number: usize, each: usize, skills: usize) -> String {
    let events: Vec<_> = (number * each..(number + 1) * each).map(|number| event(number, skills)).collect();
    format!("[{}]", events.join(", "))
}

/// Everything that gives a skill all of its series: 2 counters, 1 histogram, 1 gauge, 1 counter of anomalies.
pub fn whole_skill(number: usize) -> [String; 4] {
    let name = skill_name(number);
    let invocation = |completed: bool, seconds: f64| {
        format!(
            r#"{{"type": "skill_invocation", "data": {{"skill_name": "{name}", "workflow_phase": "execution", "completed": {completed}, "duration_seconds": {seconds:?}}}}}"#
        )
    };
    let (rate, seconds) = (0.5 + (number % 499) as f64 / 1000.0, 0.05 + (number % 997) as f64 / 8.0);
    [
        invocation(true, seconds),
        invocation(false, seconds / 3.0),
        format!(r#"{{"type": "completion_rate", "data": {{"skill_name": "{name}", "rate": {rate:?}}}}}"#),
        format!(r#"{{"type": "anomaly", "data": {{"skill_name": "{name}", "anomaly_type": "drop"}}}}"#),
    ]
}

/// Snapshots of ten skills and ten anomalies, a second apart, of which each tells of one invocation more.
pub fn snapshots(count: usize) -> impl Iterator<Item = String> {
    let mut skills: Vec<_> = (0..10)
        .map(|number| Metrics {
            skill_name: skill_name(number),
            total: 1_000 + number as u64,
            completed: 900,
            duration_seconds: 12_345.678,
        })
        .collect();
    let anomalies: Vec<_> = (0..10_i32)
        .map(|number| Anomaly {
            skill_name: skill_name(number.unsigned_abs() as usize),
            anomaly_type: "drop".to_owned(),
            detected_at: sql_time(i64::from(number) * 10 * SECOND),
            deviation_score: Some(2.5 + f64::from(number) / 7.0),
        })
        .collect();
    (0..count).map(move |number| {
        let skill = &mut skills[number % 10];
        skill.total += 1;
        skill.completed += u64::from(number % 5 != 0);
        skill.duration_seconds += if number % 5 == 0 { 0.0 } else { 1.75 };
        metrics_update(number as i64 * SECOND, &skills, &anomalies)
    })
}
