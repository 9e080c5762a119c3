//! Readiness, the API, a metric and `state show` name the source of each feed and whether the feed is active or on standby;
//! `state forget` and `state rename` change what is remembered.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use crate::support::http_client;
use crate::support::model::{Database, Invocation, Metrics, SECOND, metrics_update};
use crate::support::observer::Observer;
use crate::support::program::{Ended, Program};
use crate::support::running_bridge::RunningBridge;
use crate::support::scripted_feed::{Clock, Gate, ScriptedFeed, Step};
use serde_json::{Value, json};
use session_buddy_bridge::Settings;
use session_buddy_bridge::internals::ledger::Notice;
use session_buddy_bridge::settings::{FeedTarget, StateLocation};
use tempfile::TempDir;

/// Three invocations of a skill, and its snapshots.
fn server(skill_name: &str) -> ScriptedFeed {
    let fraction_micros = 100_003 * skill_name.len() as i64;
    let invocation = |seconds| Invocation {
        skill_name: skill_name.to_owned(),
        workflow_phase: None,
        completed: true,
        duration_seconds: Some(seconds),
    };
    let database = Database { invocations: [1.25, 2.5, 3.75].map(invocation).to_vec(), ..Database::default() };
    let clock = Clock::new(Duration::from_millis(50));
    // Shared timestamps with a fraction of a second tell that two feeds are of one server; each server has its own.
    let at = move |round: u64| database.snapshot(round as i64 * SECOND + fraction_micros);
    let rounds = Step::Clocked(Gate::default(), clock, Box::new(at));
    ScriptedFeed::start(vec![vec![rounds]])
}

fn named(name: &str, url: &str) -> FeedTarget {
    FeedTarget { identity: name.to_owned(), ..FeedTarget::new(url).unwrap() }
}

fn start(state: &Path, feeds: Vec<FeedTarget>) -> RunningBridge {
    RunningBridge::start(Settings { state: StateLocation::Path(state.to_owned()), ..Settings::new(feeds) })
}

async fn until_ready(bridge: &RunningBridge, lines: &[&str]) {
    let all = |text: &str| lines.iter().all(|line| text.lines().any(|shown| shown == *line));
    bridge.until_ready("how the feeds stand", |answer| all(answer.text())).await;
}

/// Runs `state COMMAND` on a state.
fn state(path: &Path, command: &[&str]) -> Ended {
    let arguments = [&["state"], command, &["--state.path", path.to_str().unwrap()]].concat();
    Program::start(arguments).end()
}

fn printed(path: &Path, command: &[&str]) -> String {
    let Ended { code, stdout, stderr } = state(path, command);
    assert_eq!((code, stderr.as_str()), (Some(0), ""), "{command:?}");
    stdout
}

async fn invocations(bridge: &RunningBridge) -> f64 {
    bridge.scrape().await.sum("skill_invocations_total")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_place_names_the_source_of_each_feed_and_which_feed_is_active() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("state.db");
    let (one, other) = (server("one"), server("other"));
    let mut again = one.url();
    again.set_host(Some("localhost")).unwrap();
    let bridge = start(&path, vec![named("one", one.url().as_str())]);
    until_ready(&bridge, &["one: live, active for source 1"]).await;
    bridge.stop().await;

    let feeds =
        vec![named("one", one.url().as_str()), named("again", again.as_str()), named("other", other.url().as_str())];
    let bridge = start(&path, feeds);
    let active_feed = |text: &str| if text.contains("one: live, active for source 1") { "one" } else { "again" };
    let text = bridge
        .until_ready("one source with two feeds, and another", |answer| {
            let standby = |standby: &str, active: &str| {
                answer.text().contains(&format!("{standby}: live, on standby for source 1: {active} is active\n"))
                    && answer.text().contains(&format!("{active}: live, active for source 1\n"))
            };
            (standby("one", "again") || standby("again", "one"))
                && answer.text().contains("other: live, active for source ")
        })
        .await;
    // Its number depends on whose snapshot is received first: until the second address of a source has shown that it is one, it may have
    // another number.
    let (_, number) = text.text().split_once("other: live, active for source ").unwrap();
    let other_source = number.split('\n').next().unwrap().to_owned();
    assert_ne!(other_source, "1");
    let active = active_feed(text.text());
    let standby = if active == "one" { "again" } else { "one" };

    let scrape = bridge.scrape().await;
    let shown: BTreeSet<(String, String, bool)> = scrape
        .series("session_buddy_bridge_feed_active")
        .into_iter()
        .map(|(labels, value)| (labels["feed"].clone(), labels["source"].clone(), value == 1.0))
        .collect();
    let expected = [(active, "1", true), (standby, "1", false), ("other", &*other_source, true)];
    assert_eq!(shown, expected.map(|(feed, source, is)| (feed.to_owned(), source.to_owned(), is)).into());

    let address = bridge.address();
    let status = tokio::task::spawn_blocking(move || http_client::get(address, "/api/v1/status")).await.unwrap();
    let status: Value = serde_json::from_str(status.text()).unwrap();
    for (feed, source, is_active) in expected {
        let shown = status["feeds"].as_array().unwrap().iter().find(|shown| shown["feed"] == feed).unwrap();
        let role = if is_active { "active" } else { "standby" };
        assert_eq!(
            (&shown["source"], &shown["role"]),
            (&json!(source.parse::<u64>().unwrap()), &json!(role)),
            "{feed}"
        );
    }
    bridge.stop().await;

    let text = printed(&path, &["show"]);
    let shown = |text: &str, feed: &str, what: &str| {
        let (_, of_feed) = text.split_once(&format!("\n{feed}\n")).unwrap_or_else(|| panic!("no {feed}: {text}"));
        let line = of_feed.lines().find_map(|line| line.trim().strip_prefix(&format!("{what} ")));
        line.unwrap_or_else(|| panic!("{feed}: {text}")).trim().to_owned()
    };
    assert_eq!(shown(&text, active, "standing"), "active for source 1");
    assert_eq!(shown(&text, standby, "standing"), format!("on standby for source 1: {active} is active"));
    assert_eq!(shown(&text, "other", "standing"), format!("active for source {other_source}"));
    let address = format!("ws://localhost:{}", one.url().port().unwrap());
    assert!(shown(&text, "again", "address").starts_with(&address), "{text}");

    let bridge = start(&path, vec![named("other", other.url().as_str())]);
    until_ready(&bridge, &[&*format!("other: live, active for source {other_source}")]).await;
    bridge.stop().await;
    assert_eq!(shown(&printed(&path, &["show"]), "again", "standing"), "remembered for source 1");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_forgotten_source_is_counted_again_and_its_feed_keeps_its_name() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("state.db");
    let (one, other) = (server("one"), server("other"));
    let feeds = || vec![named("one", one.url().as_str()), named("other", other.url().as_str())];
    let bridge = start(&path, feeds());
    bridge.until("both", &6.0, |scrape| scrape.sum("skill_invocations_total")).await;
    bridge.stop().await;

    let shown = printed(&path, &["show"]);
    let of_other = shown.split_once("\nother\n").unwrap().1;
    let number = of_other.split_once("source ").unwrap().1.split_whitespace().next().unwrap();
    assert_eq!(printed(&path, &["forget", number]), format!("forgot source {number}\n"));
    let bridge = start(&path, feeds());
    bridge.until("the other once more", &9.0, |scrape| scrape.sum("skill_invocations_total")).await;
    bridge.stop().await;
    assert!(printed(&path, &["forget", "one"]).starts_with("forgot source "));
    let bridge = start(&path, feeds());
    bridge.until("the first once more", &12.0, |scrape| scrape.sum("skill_invocations_total")).await;
    bridge.stop().await;

    for unknown in ["77", "nobody"] {
        let Ended { code, stderr, .. } = state(&path, &["forget", unknown]);
        assert_eq!(code, Some(1), "{stderr}");
        assert!(
            stderr.starts_with("error: ") && stderr.contains(&format!("no source and no feed \"{unknown}\"")),
            "{stderr}"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_renamed_feed_continues_where_it_was() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("state.db");
    let (one, other) = (server("one"), server("other"));
    let bridge = start(&path, vec![named("one", one.url().as_str()), named("other", other.url().as_str())]);
    bridge.until("both", &6.0, |scrape| scrape.sum("skill_invocations_total")).await;
    let is_active = |name: &str, text: &str| {
        let source = text.lines().find_map(|line| line.strip_prefix(&format!("{name}: live, active for source ")));
        source.map(str::to_owned)
    };
    let source = bridge.until_ready("its source", |answer| is_active("one", answer.text()).is_some()).await;
    let source = is_active("one", source.text()).unwrap();
    bridge.stop().await;

    assert_eq!(printed(&path, &["rename", "one", "laptop"]), "renamed one to laptop\n");
    assert!(printed(&path, &["show"]).contains("\nlaptop\n"));
    for (refused, why) in [(["one", "x"], "no feed \"one\""), (["laptop", "other"], "a feed \"other\" already")] {
        let Ended { code, stderr, .. } = state(&path, &[&["rename"], refused.as_slice()].concat());
        assert_eq!(code, Some(1), "{stderr}");
        assert!(stderr.starts_with("error: ") && stderr.contains(why), "{stderr}");
    }
    let Ended { code, stderr, .. } = state(&path, &["rename", "laptop", " "]);
    assert_eq!(code, Some(2), "{stderr}");

    let bridge = start(&path, vec![named("laptop", one.url().as_str()), named("other", other.url().as_str())]);
    until_ready(&bridge, &[&format!("laptop: live, active for source {source}")]).await;
    assert_eq!(invocations(&bridge).await, 6.0);
    bridge.stop().await;
}

#[test]
fn a_rollback_names_the_skills_that_fell_furthest_and_counts_the_others() {
    let listed = |totals: &[u64]| {
        let skill = |(index, total): (usize, &u64)| Metrics {
            skill_name: format!("skill-{index}"),
            total: *total,
            completed: *total,
            duration_seconds: 1.7 * *total as f64,
        };
        totals.iter().enumerate().map(skill).collect::<Vec<_>>()
    };
    let mut observer = Observer::connected();
    // Three that stay tell that it is the same database; a lost write each of the others, and several of the first.
    let before = [1_000, 900, 800, 703, 602, 501, 401, 301, 201];
    let after = [1_000, 900, 800, 690, 600, 500, 400, 300, 200];
    observer.hear(0, &metrics_update(0, &listed(&before), &[]), 0);
    observer.hear(0, &metrics_update(SECOND, &listed(&before), &[]), SECOND);
    observer.hear(0, &metrics_update(2 * SECOND, &listed(&after), &[]), 2 * SECOND);
    let fell = observer.notices.iter().find_map(|notice| match notice {
        Notice::RolledBack { fell } => Some(fell),
        _ => None,
    });
    let fell = fell.unwrap_or_else(|| panic!("{:?}", observer.notices));
    let named: Vec<_> = fell.named.iter().map(|skill| (&*skill.skill_name, skill.remembered, skill.listed)).collect();
    let expected = [
        ("skill-3", 703, 690),
        ("skill-4", 602, 600),
        ("skill-5", 501, 500),
        ("skill-6", 401, 400),
        ("skill-7", 301, 300),
    ];
    assert_eq!((named.as_slice(), fell.others), (&expected[..], 1));
}
