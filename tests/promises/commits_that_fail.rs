//! Shown is what is on disk; where the disk takes nothing for ten seconds memory is shown and says so, and nothing is lost
//! when it takes something again.

use std::time::Duration;

use crate::support::model::{Database, Invocation, invocation_event};
use crate::support::running_bridge::{RunningBridge, counted};
use crate::support::scrape::Scrape;
use crate::support::scripted_feed::{Gate, ScriptedFeed, Step};
use rusqlite::Connection;
use session_buddy_bridge::internals::store::Store;
use session_buddy_bridge::settings::{FeedTarget, Settings, StateLocation};

fn invocation() -> Invocation {
    Invocation { skill_name: "a".to_owned(), workflow_phase: None, completed: true, duration_seconds: None }
}

fn event(number: usize) -> Step {
    Step::send(invocation_event(Some(&number.to_string()), 0, &invocation()))
}

fn shown(scrape: &Scrape) -> f64 {
    scrape.sum("skill_invocations_total")
}

fn own(scrape: &Scrape, name: &str) -> f64 {
    scrape.sum(&format!("session_buddy_bridge_{name}"))
}

fn start(feed: &ScriptedFeed, path: &std::path::Path) -> RunningBridge {
    let feeds = vec![FeedTarget::new(feed.url().as_str()).unwrap()];
    RunningBridge::start(Settings { state: StateLocation::Path(path.to_owned()), ..Settings::new(feeds) })
}

#[tokio::test(flavor = "multi_thread")]
async fn who_found_no_place_for_a_state_says_so_and_who_wants_none_does_not() {
    let feed = ScriptedFeed::start(vec![vec![event(1), Step::Await(Gate::default())]]);
    for (state, durable) in [(StateLocation::Default(None), vec![0.0]), (StateLocation::InMemory, vec![])] {
        let feeds = vec![FeedTarget::new(feed.url().as_str()).unwrap()];
        let bridge = RunningBridge::start(Settings { state, ..Settings::new(feeds) });
        let scrape = bridge.scrape().await;
        let series = scrape.series("session_buddy_bridge_state_durable");
        assert_eq!(series.into_values().collect::<Vec<_>>(), durable);
        bridge.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn memory_is_shown_after_ten_seconds_and_caught_up_with_later() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state.db");
    let locked = Gate::default();
    let script = vec![event(1), Step::Await(locked.clone()), event(2), Step::Await(Gate::default())];
    let feed = ScriptedFeed::start(vec![script]);
    let bridge = start(&feed, &path);
    let look = |scrape: &Scrape| (shown(scrape), own(scrape, "state_durable"));
    bridge.until("the first event", &(1.0, 1.0), look).await;

    // Nobody else can write while this lasts; a disk that is full says no as well.
    let other = Connection::open(&path).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    locked.open();
    bridge.until("a commit to fail", &true, |scrape| own(scrape, "state_commit_failures_total") > 0.0).await;
    let scrape = bridge.scrape().await;
    assert!(own(&scrape, "state_durable") == 0.0 || shown(&scrape) == 1.0, "shown before it is on disk: {scrape:?}");
    bridge.until("memory to be shown", &(2.0, 0.0), look).await;
    assert_eq!(kept(&path), 1, "nothing of it is on disk");

    other.execute_batch("ROLLBACK").unwrap();
    bridge.until("the disk to catch up", &(2.0, 1.0), look).await;
    assert_eq!(kept(&path), 2);
    bridge.stop().await;
}

fn kept(path: &std::path::Path) -> u64 {
    let whole = Store::look(path).expect("a state");
    whole.skills.iter().flat_map(|row| &row.series.phases).map(|phase| phase.completed + phase.abandoned).sum()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_changes_nothing_commits_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let database = Database { invocations: vec![invocation(); 3], anomalies: Vec::new() };
    let steady = move || database.snapshot(1);
    let feed = ScriptedFeed::start(vec![vec![Step::rounds(&Gate::default(), Duration::from_millis(20), steady)]]);
    let bridge = start(&feed, &folder.path().join("state.db"));
    bridge.until("the snapshot", &3.0, shown).await;
    let snapshots = |scrape: &Scrape| counted(scrape, "feed_messages_total", "type").get("metrics_update").copied();
    let (commits, heard) = {
        let scrape = bridge.scrape().await;
        (own(&scrape, "state_commits_total"), snapshots(&scrape))
    };
    let more = heard.map(|heard| heard + 50);
    bridge.until("fifty more", &true, |scrape| snapshots(scrape) >= more).await;
    assert_eq!(own(&bridge.scrape().await, "state_commits_total"), commits, "the same snapshot was committed again");
    bridge.stop().await;
}
