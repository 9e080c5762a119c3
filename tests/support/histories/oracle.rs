//! The Python model as a program that histories are played to.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;

use serde::Deserialize;
use serde_json::{Value, json};

use super::history::History;
use super::world::{Entry, Event, FeedKey, Frame};
use crate::support::model::iso_time;

/// What the model has counted at the end of a history.
#[derive(Debug, PartialEq, Deserialize)]
pub struct CountedByModel {
    /// By skill.
    pub invocations: BTreeMap<String, u64>,
    pub anomalies: u64,
}

/// Plays each history to the model. Needs `python3`.
pub fn counted_by_the_model(histories: &[History]) -> Vec<CountedByModel> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/model/verdicts.py");
    let mut model = Command::new("python3")
        .arg(script)
        .arg("--play")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("python3 is installed");
    let mut input = model.stdin.take().expect("a pipe");
    let text: String = histories.iter().map(lines).collect();
    let writer = thread::spawn(move || input.write_all(text.as_bytes()));
    let output = model.wait_with_output().expect("the model ends");
    writer.join().expect("no panic").expect("the model reads everything");
    assert!(output.status.success(), "the model failed");
    let text = String::from_utf8(output.stdout).expect("JSON is UTF-8");
    let counted: Vec<_> = text.lines().map(|line| serde_json::from_str(line).expect("a line of counts")).collect();
    assert_eq!(counted.len(), histories.len());
    counted
}

fn lines(history: &History) -> String {
    let events = history.events.iter().filter_map(|(at_seconds, event)| as_json(*at_seconds, event));
    let events = [json!({"event": "begin"})].into_iter().chain(events).chain([json!({"event": "end"})]);
    events.map(|event| format!("{event}\n")).collect()
}

fn as_json(at_seconds: i64, event: &Event) -> Option<Value> {
    let key = |feed: &FeedKey| json!([feed.name, feed.url, feed.skill.as_deref()]);
    let keys = |entries: &[Entry]| entries.iter().map(|entry| key(&entry.feed)).collect::<Vec<_>>();
    Some(match event {
        Event::Configure(feeds) => json!({"event": "configure", "feeds": keys(feeds)}),
        Event::Start(feeds) => json!({"event": "start", "feeds": keys(feeds)}),
        Event::Open(feed) => json!({"event": "open", "feed": key(feed)}),
        Event::Close(feed) => json!({"event": "close", "feed": key(feed)}),
        Event::Receive(feed, frame) => {
            json!({"event": "frame", "feed": key(feed), "at": at_seconds, "message": message(frame)})
        }
        Event::Operation(_)
        | Event::Stream(..)
        | Event::Tick
        | Event::Stop
        | Event::Kill
        | Event::Truth(_)
        | Event::Write(_) => return None,
    })
}

fn message(frame: &Frame) -> Value {
    let skills = frame.listed.iter().map(|listing| {
        let (total, completed) = (listing.totals.total as f64, listing.totals.completed as f64);
        json!({
            "skill_name": &*listing.skill_name,
            "total_invocations": listing.totals.total,
            "completion_rate": completed / total * 100.0,
            "avg_duration_seconds": (completed > 0.0).then(|| listing.totals.duration_seconds / completed),
        })
    });
    let anomalies = frame.anomalies.iter().map(|anomaly| {
        json!({
            "skill_name": anomaly.skill_name,
            "anomaly_type": anomaly.anomaly_type,
            "detected_at": anomaly.detected_at,
            "deviation_score": anomaly.deviation_score,
        })
    });
    let data = json!({"top_skills": skills.collect::<Vec<_>>(), "anomalies": anomalies.collect::<Vec<_>>()});
    json!({"timestamp": iso_time(frame.sent_micros), "data": data})
}
