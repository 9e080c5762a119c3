//! The reference's tables of metrics name what a bridge exposes: nothing less, nothing more.

use std::collections::BTreeSet;
use std::fs;
use std::time::SystemTime;

use crate::support::model::{Database, Invocation};
use crate::support::push_senders::{http_date, receiver};
use crate::support::running_bridge::RunningBridge;
use crate::support::scripted_feed::{Gate, ScriptedFeed, Step};
use crate::support::scripted_receiver::{Action, ScriptedReceiver};
use rusqlite::Connection;
use session_buddy_bridge::settings::{FeedTarget, PushSettings, Settings, StateLocation};

/// The names in backticks in the first column of the tables of `section`.
fn first_column(section: &str) -> impl Iterator<Item = &str> {
    let cells = section.lines().filter_map(|line| line.strip_prefix("| `")?.split(" |").next());
    cells.flat_map(|cell| cell.split(", ")).map(|name| name.trim_matches('`'))
}

fn in_reference() -> BTreeSet<String> {
    let (_, metrics) =
        include_str!("../../docs/reference/metrics.md").split_once("\n## Metrics\n").expect("a section on metrics");
    let (metrics, _) = metrics.split_once("\n## ").expect("a section after it");
    let (families, own) = metrics.split_once("`session_buddy_bridge_`").expect("a table of the bridge's own");
    let own = first_column(own).map(|name| format!("session_buddy_bridge_{name}"));
    first_column(families).map(ToOwned::to_owned).chain(own).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_tables_name_what_a_bridge_exposes() {
    let mut database = Database::default();
    database.invocations.push(Invocation {
        skill_name: "pytest-run".to_owned(),
        workflow_phase: None,
        completed: true,
        duration_seconds: Some(1.0),
    });
    let server = ScriptedFeed::start(vec![vec![Step::send(database.snapshot(1)), Step::Await(Gate::default())]]);
    let folder = tempfile::tempdir().unwrap();
    let state = StateLocation::Path(folder.path().join("state.db"));
    let skills_db = folder.path().join("skills.db");
    let rows = Connection::open(&skills_db).unwrap();
    rows.execute_batch(
        "CREATE TABLE skill_invocation (
             id INTEGER PRIMARY KEY AUTOINCREMENT, skill_name, workflow_phase, completed, duration_seconds, session_id,
             invoked_at, error_type
         );
         INSERT INTO skill_invocation (skill_name, completed) VALUES ('pytest-run', 1);",
    )
    .unwrap();
    let feeds = vec![FeedTarget { skills_db: Some(skills_db), ..FeedTarget::new(server.url().as_str()).unwrap() }];
    let accepted = format!("Date: {}\r\n", http_date(SystemTime::now()));
    let pushed = ScriptedReceiver::start(move |_, _| Action::status("200 OK", &accepted, "")).await;
    let push = PushSettings { receivers: vec![receiver(&pushed.url())], ..PushSettings::default() };
    let skills = folder.path().join("skills");
    fs::create_dir_all(skills.join("pytest-run")).unwrap();
    fs::write(skills.join("pytest-run/SKILL.md"), "").unwrap();
    let bridge = RunningBridge::start(Settings { state, push, skills_dirs: vec![skills], ..Settings::new(feeds) });
    let expected = in_reference();
    assert!(expected.len() > 20, "the tables were not found: {expected:?}");
    bridge
        .until("every metric", &expected, |scrape| {
            let process = |name: &&String| name.starts_with("process_");
            scrape.families.keys().filter(|name| !process(name)).cloned().collect()
        })
        .await;
    bridge.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_exporter_metrics_exactly_those_of_the_process_and_of_http_are_left_out() {
    let mut exposed = Vec::new();
    for has_exporter_metrics in [true, false] {
        let feeds = vec![FeedTarget::new("ws://127.0.0.1:1").unwrap()];
        let bridge = RunningBridge::start(Settings { has_exporter_metrics, ..Settings::new(feeds) });
        exposed.push(bridge.scrape().await.families.into_keys().collect::<BTreeSet<_>>());
        bridge.stop().await;
    }
    let [with, without] = &exposed[..] else { unreachable!() };
    let is_of_exporter =
        |name: &&String| name.starts_with("process_") || name.starts_with("session_buddy_bridge_http_");
    let left_out: Vec<_> = with.difference(without).collect();
    assert!(left_out.len() >= 10, "{left_out:?}");
    assert!(left_out.iter().all(is_of_exporter) && !without.iter().any(|name| is_of_exporter(&name)), "{left_out:?}");
    assert!(without.is_subset(with) && without.contains("session_buddy_bridge_build_info"));
}
