//! `explain` says of each message what it changed and by which rule, and what it says adds up to what `replay` prints.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use crate::support::in_repository;
use crate::support::program::{Ended, Program};
use crate::support::scrape::Scrape;
use crate::support::scripted_feed::{ScriptedFeed, Step};

fn printed(arguments: &[&str]) -> String {
    let ended = Program::start(arguments.iter().copied()).end();
    assert!(ended.is_success(), "{arguments:?}: {}", ended.stderr);
    ended.stdout
}

fn recording(name: &str) -> PathBuf {
    in_repository("tests/recordings").join(name)
}

/// Where each series was moved to last, by the words of `explain`; of buckets it tells only the narrowest that moved.
fn moved_to(text: &str) -> BTreeMap<String, f64> {
    let moves =
        text.lines().filter_map(|line| line.trim_start().split_once("  ")?.1.split_once(" -> ").map(|to| (line, to)));
    moves
        .map(|(line, (_, to))| {
            let series = line.trim_start().split("  ").next().unwrap();
            (series.to_owned(), to.split("  ").next().unwrap().parse().unwrap())
        })
        .collect()
}

/// The same of a scrape, but for what is zero.
fn shown(text: &str) -> BTreeMap<String, f64> {
    let five = ["skill_", "active_sessions_total", "anomalies_detected_total"];
    let lines = text.lines().filter(|line| five.iter().any(|name| line.starts_with(name)));
    let samples = lines.map(|line| line.rsplit_once(' ').unwrap());
    samples
        .map(|(series, value)| (series.to_owned(), value.parse().unwrap()))
        .filter(|(_, value)| *value != 0.0)
        .collect()
}

#[test]
fn the_moves_of_each_recording_end_where_its_replay_does() {
    for name in ["steady.ndjson", "busy.ndjson", "reset.ndjson", "restart.ndjson"] {
        let file = recording(name).display().to_string();
        let replayed = printed(&["replay", &file]);
        Scrape::parse(&replayed).unwrap();
        let is_bucket = |series: &str| series.starts_with("skill_duration_seconds_bucket");
        let mut expected = shown(&replayed);
        expected.retain(|series, _| !is_bucket(series));
        let mut moved = moved_to(&printed(&["explain", &file]));
        moved.retain(|series, value| !is_bucket(series) && *value != 0.0);
        assert_eq!(moved, expected, "{name}");
    }
}

#[test]
fn one_skill_can_be_followed_alone() {
    let file = recording("busy.ndjson").display().to_string();
    let all = printed(&["explain", &file]);
    let skill = all.split("skill_name=\"").nth(1).unwrap().split('"').next().unwrap().to_owned();
    let alone = printed(&["explain", &file, "--skill", &skill]);
    let of = |text: &str| -> Vec<String> {
        text.lines().filter(|line| line.contains(&format!("skill_name=\"{skill}\""))).map(str::to_owned).collect()
    };
    assert!(!of(&alone).is_empty());
    assert_eq!(of(&alone), of(&all));
    assert!(alone.lines().filter(|line| line.contains("skill_name=")).all(|line| line.contains(&skill)), "{alone}");
}

#[test]
fn a_skill_that_no_message_counted_is_an_error_that_names_those_there_are() {
    let file = recording("steady.ndjson").display().to_string();
    let Ended { code, stderr, .. } = Program::start(["explain", &file, "--skill", "pytest-rum"]).end();
    assert_eq!(code, Some(1), "{stderr}");
    assert!(stderr.starts_with("error: no message counted the skill \"pytest-rum\"; there are \""), "{stderr}");
    assert!(stderr.contains("\"pytest-run\""), "{stderr}");
}

#[test]
fn each_step_names_its_rule() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("made.ndjson");
    let snapshot = |skills: &str| {
        format!(r#"{{"type": "metrics_update", "data": {{"top_skills": [{skills}], "anomalies": []}}}}"#)
    };
    let skill = |total: u64| {
        format!(
            r#"{{"skill_name": "a", "total_invocations": {total}, "completion_rate": 100.0, "avg_duration_seconds": 2.0}}"#
        )
    };
    let event = r#"{"type": "skill_invocation", "id": "1", "data": {"skill_name": "a", "completed": true, "workflow_phase": "p"}}"#;
    let frames = [
        (0.0, snapshot(&skill(10))),
        (1.0, snapshot(&skill(12))),
        (1.5, event.to_owned()),
        (1.6, event.to_owned()),
        (2.0, snapshot(&skill(13))),
        (3.0, snapshot(&skill(40))),
        (9.0, snapshot(&skill(39))),
        (10.0, snapshot(&skill(1))),
        (11.0, "no json".to_owned()),
        (12.0, r#"{"type": "anomaly", "data": {"skill_name": "a", "anomaly_type": "drop"}}"#.to_owned()),
        (13.0, r#"{"type": "active_sessions", "data": {"count": 3}}"#.to_owned()),
    ];
    let lines =
        frames.iter().map(|(at, frame)| serde_json::json!({"at_seconds": at, "frame": frame}).to_string() + "\n");
    std::fs::write(&file, lines.collect::<String>()).unwrap();
    let text = printed(&["explain", &file.display().to_string()]);
    for told in [
        "[4.1] \"a\" is new: 10 invocations, 10 completed, counted as history",
        "[4.2] \"a\" increased from 10 to 12, 2 completed in 4 s",
        "[4.8] the event is pending",
        "[2] the event \"1\" is a duplicate",
        "[4.8] 1 of \"a\" get the phase and duration of pending events",
        "[4.8] the increase of \"a\" is pending for 5 s",
        "[4.8] no event arrived for the increase of \"a\"",
        "[4.3] \"a\" fell from 40 to 39 with its database",
        "[4.3] database rolled back, nothing is counted: \"a\" from",
        "[4.3] database reset detected",
        "[2] rejected, malformed_frame",
        "[5] 1 new anomalies \"drop\" of \"a\"",
        "[6] the number of sessions changed",
        "active_sessions_total  1 -> 3",
    ] {
        assert!(text.contains(told), "{told}\n{text}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_live_feed_is_explained_as_it_speaks() {
    let snapshot = r#"{"type": "metrics_update", "data": {"top_skills": [{"skill_name": "a", "total_invocations": 3, "completion_rate": 100.0, "avg_duration_seconds": 2.0}], "anomalies": []}}"#;
    let feed = ScriptedFeed::start(vec![vec![
        Step::send(r#"{"type": "connected", "authenticated": false}"#),
        Step::Repeat(snapshot.to_owned(), Duration::from_millis(100)),
    ]]);
    let url = feed.url().to_string();
    let text = tokio::task::spawn_blocking(move || printed(&["explain", "--feed.url", &url, "--seconds", "1"]));
    let text = text.await.unwrap();
    assert!(text.contains("[4.1] \"a\" is new: 3 invocations"), "{text}");
    assert!(
        text.contains(
            r#"skill_invocations_total{skill_name="a",workflow_phase="unknown",completed="true"}  none -> 3"#
        ),
        "{text}"
    );
}
