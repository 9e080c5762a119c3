//! What a feed sends controls no terminal: whatever command prints it, it is escaped.

use std::fs;

use serde_json::json;

use crate::support::program::{Ended, Program};
use crate::support::scripted_feed::{Gate, ScriptedFeed, Step};

/// Turns the line around, colours it, returns to its start, and forges another.
const HOSTILE: &str = "a\u{202e}b\u{2066}\u{1b}[31m\r\nforged\u{9b}2J";

/// One of each message in which a feed's text is printed.
fn frames() -> Vec<String> {
    let skill = json!({
        "skill_name": HOSTILE, "total_invocations": 3, "completed_invocations": 2, "avg_duration": 1.5,
        "completion_rate": 66.7,
    });
    let anomaly = json!({ "skill_name": HOSTILE, "anomaly_type": HOSTILE, "detected_at": HOSTILE });
    let snapshot = json!({
        "type": "metrics_update", "timestamp": HOSTILE, "data": { "top_skills": [skill], "anomalies": [anomaly] },
    });
    let invalid = json!({ "type": "metrics_update", "timestamp": HOSTILE, "data": { "top_skills": HOSTILE } });
    vec![snapshot.to_string(), invalid.to_string(), HOSTILE.to_owned()]
}

fn assert_safe(text: &str) {
    let is_unsafe = |character: char| {
        let turns = ('\u{202a}'..='\u{202e}').chain('\u{2066}'..='\u{2069}').any(|other| other == character);
        turns || (character.is_control() && character != '\n')
    };
    assert!(!text.contains(is_unsafe), "{text:?}");
    assert!(!text.lines().any(|line| line.starts_with("forged")), "{text}");
}

fn assert_escaped(ended: &Ended) {
    assert!(ended.stdout.contains("\\u{202e}"), "{}", ended.printed());
    assert_safe(&ended.stdout);
    assert_safe(&ended.stderr);
}

#[test]
fn explain_escapes_what_a_recording_holds() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("feed.ndjson");
    let lines = (1..).zip(frames()).map(|(at, frame)| json!({ "at_seconds": at, "frame": frame }).to_string() + "\n");
    fs::write(&file, lines.collect::<String>()).unwrap();
    assert_escaped(&Program::start(["explain", file.to_str().unwrap()]).end());

    fs::write(&file, HOSTILE).unwrap();
    let refused = Program::start(["explain", file.to_str().unwrap()]).end();
    assert_eq!(refused.code, Some(1));
    assert_safe(&refused.stderr);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn check_and_explain_escape_what_a_feed_sends() {
    let script = || frames().into_iter().map(Step::send).chain([Step::Await(Gate::default())]).collect();
    let closing = vec![Step::Close(4001, "no\u{202e}\u{1b}[31m".to_owned())];
    let server = ScriptedFeed::start(vec![script(), script(), closing]);
    let url = server.url().to_string();
    for command in ["check", "explain"] {
        assert_escaped(&Program::start([command, "--feed.url", &url, "--seconds", "2"]).end());
    }
    assert_escaped(&Program::start(["check", "--feed.url", &url, "--seconds", "2"]).end());
}
