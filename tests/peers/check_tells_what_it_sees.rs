//! `check` looks at a feed once, says what it sees and what to do, and fails where the bridge would.

use std::time::Duration;

use crate::support::peers::session_buddy::{Pace, SessionBuddy};
use crate::support::program::Program;
use crate::support::scripted_feed::{Reserved, ScriptedFeed, Step};
use tokio::task::spawn_blocking;

async fn check(url: &str, more: &[&str]) -> (bool, String, String) {
    let args: Vec<String> = ["check", "--feed.url", url].iter().chain(more).map(|arg| (*arg).to_owned()).collect();
    let ended = spawn_blocking(move || Program::start(args.iter().map(String::as_str)).end()).await.unwrap();
    (ended.is_success(), ended.stdout, ended.stderr)
}

fn snapshot(skills: impl IntoIterator<Item = (String, u64, f64)>) -> String {
    let skills: Vec<_> = skills
        .into_iter()
        .map(|(name, total, rate)| {
            serde_json::json!({
                "skill_name": name, "total_invocations": total, "completion_rate": rate, "avg_duration_seconds": 1.5,
            })
        })
        .collect();
    serde_json::json!({"type": "metrics_update", "data": {"top_skills": skills, "anomalies": []}}).to_string()
}

fn feed(snapshot: String) -> ScriptedFeed {
    ScriptedFeed::start(vec![vec![
        Step::send(r#"{"type": "connected", "authenticated": false}"#),
        Step::Repeat(snapshot, Duration::from_millis(20)),
    ]])
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sound_feed_is_told_in_words_with_the_metrics_that_it_would_give() {
    let feed = feed(snapshot([("a".to_owned(), 8, 87.5), ("b".to_owned(), 1, 0.0)]));
    let (well, said, _) = check(feed.url().as_str(), &[]).await;
    assert!(well, "{said}");
    for words in [
        "reachable       yes",
        "authentication  not required",
        "a snapshot every 0.0",
        "2 listed: every skill of the server",
        "valid: each is the percentage",
        "none: no reset, no rollback, no rejected message",
        r#"skill_invocations_total{skill_name="a",workflow_phase="unknown",completed="true"} 7"#,
        r#"skill_completion_rate{skill_name="a"} 0.875"#,
        "Next: start the bridge",
    ] {
        assert!(said.contains(words), "{words}\n{said}");
    }
    assert_eq!(feed.visits().len(), 1, "it connects once");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_feed_hides_or_has_wrong_is_said() {
    let full = feed(snapshot((0..10).map(|number| (format!("skill-{number}"), 10 + number, 100.0))));
    let (well, said, _) = check(full.url().as_str(), &[]).await;
    assert!(well && said.contains("others can have up to 10 invocations each"), "{said}");

    let ratios = feed(snapshot([("a".to_owned(), 8, 0.875)]));
    let (_, said, _) = check(ratios.url().as_str(), &[]).await;
    assert!(said.contains("look like ratios of 0 to 1"), "{said}");

    let resets = [9, 9, 2, 2, 2].map(|total| Step::send(snapshot([("a".to_owned(), total, 100.0)])));
    let resetting = ScriptedFeed::start(vec![resets.into()]);
    let (_, said, _) = check(resetting.url().as_str(), &[]).await;
    assert!(said.contains("the total of \"a\" fell from 9 to 2"), "{said}");

    let garbage = std::iter::repeat_with(|| Step::send("garbage")).take(30);
    let sound = Step::Repeat(snapshot([("a".to_owned(), 8, 87.5)]), Duration::from_millis(20));
    let noisy = ScriptedFeed::start(vec![garbage.chain([sound]).collect()]);
    let (_, said, _) = check(noisy.url().as_str(), &[]).await;
    assert_eq!(said.matches("rejected, malformed_frame").count(), 10, "{said}");
    assert!(said.contains("and 20 more"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_feed_that_cannot_be_heard_is_a_failure_that_says_what_to_look_at() {
    let nobody = Reserved::new();
    let (well, said, log) = check(nobody.url().as_str(), &[]).await;
    assert!(!well && said.contains("reachable       no: cannot connect to"), "{said}");
    assert!(log.contains("check that the server runs and listens there"), "{log}");

    let refusing = ScriptedFeed::start(vec![vec![Step::HttpStatus(401, vec![])]]);
    let (well, said, _) = check(refusing.url().as_str(), &[]).await;
    assert!(!well && said.contains("401"), "{said}");

    let silent = ScriptedFeed::start(vec![vec![Step::send(r#"{"type": "connected", "authenticated": true}"#)]]);
    let (well, said, log) = check(silent.url().as_str(), &["--seconds", "1"]).await;
    assert!(!well && said.contains("authentication  accepted") && said.contains("no snapshot within"), "{said}");
    assert!(log.contains("check that this is the port of RealTimeMetricsServer"), "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_real_server_passes() {
    let Some(session_buddy) = SessionBuddy::find_or_skip() else { return };
    let folder = tempfile::tempdir().unwrap();
    let database = folder.path().join("skills.db");
    let server = session_buddy.serve(&database, 0, &[]);
    let pace = Pace { invocations: 20, invocations_per_second: 1e4, anomaly_every: 5, skills: 3, seed: 7 };
    assert!(session_buddy.drive(&database, &pace).end().is_success());
    let (well, said, log) = check(&format!("ws://127.0.0.1:{}", server.port), &[]).await;
    assert!(well, "{said}\n{log}");
    assert!(said.contains("a snapshot every 1.") && said.contains("valid: each is the percentage"), "{said}");
}
