//! A whole bridge that pushes: what it counted is at the receiver when it has ended, or is queued for the next start.

use std::collections::BTreeMap;
use std::fs;
use std::net::SocketAddr;
use std::path::Path;

use session_buddy_bridge::internals::push::{QueueSummary, is_stale, summary};
use session_buddy_bridge::internals::store::Store;
use session_buddy_bridge::settings::{Settings, StateLocation};
use tokio::net::TcpListener;

use crate::support::database_stage::{DatabaseStage, after_messages, invocations, skills_db, until};
use crate::support::http_client;
use crate::support::model::{Invocation, invocation_event};
use crate::support::program::Program;
use crate::support::running_bridge::RunningBridge;
use crate::support::scrape::{Scrape, Series};
use crate::support::scripted_feed::{Gate, ScriptedFeed, Step};
use crate::support::scripted_receiver::{Action, ScriptedReceiver, Stored};
use crate::support::server_database::ServerDatabase;
use crate::support::{equal, eventually_async, holds, patiently};
use rustix::process::Signal;

/// A feed that sends so many invocations of a skill.
fn feed(invocations: usize) -> ScriptedFeed {
    let invocation =
        Invocation { skill_name: "a".to_owned(), workflow_phase: None, completed: true, duration_seconds: Some(0.75) };
    let events = (0..invocations).map(|id| Step::send(invocation_event(Some(&id.to_string()), 0, &invocation)));
    ScriptedFeed::start(vec![events.chain([Step::Await(Gate::default())]).collect()])
}

async fn receiver() -> ScriptedReceiver {
    ScriptedReceiver::start(|_, _| Action::store()).await
}

/// A configuration file that pushes to `urls`.
fn configuration(feed: &ScriptedFeed, receivers: &[(&str, &str)]) -> String {
    let receivers = receivers.iter().map(|(name, url)| format!("  - url: {url}\n    name: {name}\n"));
    let receivers: String = receivers.collect();
    let push = if receivers.is_empty() { String::new() } else { format!("push:\n{receivers}") };
    format!("feeds:\n  - url: {}\n{push}", feed.url())
}

fn settings(folder: &Path, configuration: &str) -> Settings {
    let path = folder.join("bridge.yml");
    fs::write(&path, configuration).unwrap();
    Settings { state: StateLocation::Path(folder.join("state.db")), ..Settings::from_config_file(path).unwrap() }
}

fn counted(scrape: &Scrape) -> f64 {
    scrape.sum("skill_invocations_total")
}

/// The last value of each series of this metric, summed. `None` if the receiver has none of them.
fn last(stored: &Stored, metric: &str) -> Option<f64> {
    let series = stored.iter().filter(|(labels, _)| labels.contains(&("__name__".to_owned(), metric.to_owned())));
    let last: Vec<f64> =
        series.filter_map(|(_, samples)| samples.values().next_back().map(|bits| f64::from_bits(*bits))).collect();
    (!last.is_empty()).then(|| last.iter().sum())
}

/// The last value of each series, by the name and labels that the bridge exposes.
fn received(stored: &Stored) -> BTreeMap<Series, f64> {
    let series = stored.iter().filter_map(|(labels, samples)| {
        let mut labels: BTreeMap<String, String> = labels.iter().cloned().collect();
        let name = labels.remove("__name__")?;
        assert_eq!(labels.remove("job").as_deref(), Some("session-buddy"), "{name}");
        assert!(labels.remove("instance").is_some(), "{name}");
        Some((Series { name, labels }, f64::from_bits(*samples.values().next_back()?)))
    });
    series.collect()
}

fn queue(folder: &Path) -> QueueSummary {
    Store::look_at(&folder.join("state.db"), summary).unwrap().1.expect("it was pushed")
}

/// Starts a bridge and ends it once it has counted so much and sends to `receiver`, until nothing is left in its queue: a
/// machine that is busy enough may not send everything within the time of one end.
/// Returns what the last bridge exposed before its end.
async fn push_to_the_end(folder: &Path, configuration: &str, count: f64, receiver: &ScriptedReceiver) -> Scrape {
    for _ in 0..10 {
        let requests = receiver.requests().len();
        let bridge = RunningBridge::start(settings(folder, configuration));
        bridge.until("the events", &count, counted).await;
        receiver.until_requests(requests + 1).await;
        let shown = bridge.scrape().await;
        bridge.stop().await;
        if queue(folder).size.ticks == 0 {
            return shown;
        }
    }
    panic!("the queue is never sent to its end: {:?}", queue(folder));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_end_pushes_every_count_and_makes_gauges_stale() {
    let folder = tempfile::tempdir().unwrap();
    let (feed, receiver) = (feed(3), receiver().await);
    let shown = push_to_the_end(folder.path(), &configuration(&feed, &[("r", &receiver.url())]), 3.0, &receiver).await;
    let stored = receiver.stored();
    let received = received(&stored);
    // A gauge that appears after the last tick of the grid has no value in the last one.
    let is_counter = |series: &Series| {
        let suffixes = ["_total", "_bucket", "_sum", "_count"];
        series.name != "active_sessions_total" && suffixes.iter().any(|suffix| series.name.ends_with(suffix))
    };
    for (series, value) in shown.samples.iter().filter(|(series, _)| is_counter(series)) {
        let last = received.get(series).unwrap_or_else(|| panic!("no {series:?}"));
        // The bridge's own go on.
        let is_exact = series.name.starts_with("skill_") && last.to_bits() == value.to_bits();
        assert!(
            is_exact || !series.name.starts_with("skill_") && last >= value,
            "{series:?} is {last} and not {value}"
        );
    }
    assert_eq!(last(&stored, "skill_invocations_total"), Some(3.0));
    assert_eq!(last(&stored, "skill_duration_seconds_sum"), Some(2.25));
    for gauge in ["active_sessions_total", "session_buddy_bridge_feed_up", "process_threads"] {
        let value = last(&stored, gauge).unwrap_or_else(|| panic!("no {gauge}"));
        assert!(value.is_nan(), "{gauge} is {value}");
    }
    let is_nan_stale = stored.values().flat_map(BTreeMap::values).all(|bits| {
        let value = f64::from_bits(*bits);
        !value.is_nan() || is_stale(value)
    });
    assert!(is_nan_stale, "a NaN that is no stale marker");
    let queue = queue(folder.path());
    assert_eq!(queue.size.ticks, 0, "{queue:?}");
    assert_eq!(queue.receivers[0].1, queue.newest.unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_receiver_that_does_not_answer_delays_nothing_and_gets_everything_later() {
    let folder = tempfile::tempdir().unwrap();
    let feed = feed(2);
    // Connections wait in its backlog.
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (url, live) = (format!("http://{}/", silent.local_addr().unwrap()), receiver().await);
    let receivers = [("slow", &*url), ("live", &live.url())];
    let bridge = RunningBridge::start(settings(folder.path(), &configuration(&feed, &receivers)));
    bridge.until("the events", &2.0, counted).await;
    bridge.until_ready("readiness", |answer| answer.status == 200).await;
    live.until_requests(1).await;
    let is_up = |scrape: &Scrape| scrape.series("session_buddy_bridge_push_up").into_values().sum::<f64>();
    bridge.until("one of two receivers to be up", &1.0, is_up).await;
    bridge.until_ready("readiness beside a receiver that is down", |answer| answer.status == 200).await;
    // Within the hard end, or it fails.
    bridge.stop().await;
    let left = queue(folder.path());
    let behind = left.receivers.iter().find(|(name, ..)| name.as_str() == "slow").unwrap().2.ticks;
    assert!(behind >= 1, "{left:?}");

    let answers = receiver().await;
    let receivers = [("slow", &*answers.url()), ("live", &live.url())];
    push_to_the_end(folder.path(), &configuration(&feed, &receivers), 2.0, &answers).await;
    assert_eq!(last(&answers.stored(), "skill_invocations_total"), Some(2.0));
    let queue = queue(folder.path());
    assert_eq!((queue.identity, queue.size.ticks), (left.identity, 0), "{queue:?}");
    for samples in
        answers.stored().iter().filter(|(labels, _)| labels.iter().any(|(_, name)| name == "skill_invocations_total"))
    {
        let values: Vec<_> = samples.1.values().map(|bits| f64::from_bits(*bits)).collect();
        assert!(values.is_sorted(), "it falls: {samples:?}");
    }
}

#[test]
fn a_reload_starts_and_stops_receivers_and_the_log_says_what_a_queue_in_memory_means() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let _entered = runtime.enter();
    let folder = tempfile::tempdir().unwrap();
    let feed = feed(1);
    let (first, second) = runtime.block_on(async { (receiver().await, receiver().await) });
    let path = folder.path().join("bridge.yml");
    let write = |receivers: &[(&str, &str)]| fs::write(&path, configuration(&feed, receivers)).unwrap();
    write(&[]);
    let arguments =
        ["--config.file", path.to_str().unwrap(), "--state.disabled", "--web.listen-address", "127.0.0.1:0"];
    let mut program = Program::start(arguments);
    let address = program.address();
    let until_pushed = |what: &str, receiver: &ScriptedReceiver| {
        runtime.block_on(patiently(what, receiver.until(what, |stored| last(stored, "process_threads").is_some())));
    };
    write(&[("first", &first.url())]);
    program.signal(Signal::HUP);
    until_pushed("the first receiver", &first);
    program.until_stderr("what it means", |log| log.contains("push queue in memory only"));
    write(&[("second", &second.url())]);
    program.signal(Signal::HUP);
    until_pushed("the second receiver", &second);
    let up = Scrape::fetch(address, "/metrics");
    let names: Vec<_> =
        up.series("session_buddy_bridge_push_up").into_keys().map(|labels| labels["receiver"].clone()).collect();
    assert_eq!(names, ["second"]);
    let requests = first.requests().len();
    program.signal(Signal::TERM);
    let ended = program.end();
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    assert_eq!(first.requests().len(), requests, "a receiver that was removed is sent nothing more");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_state_of_another_machine_is_not_pushed_and_is_scraped() {
    let folder = tempfile::tempdir().unwrap();
    let (feed, receiver) = (feed(2), receiver().await);
    let settings = || settings(folder.path(), &configuration(&feed, &[("r", &receiver.url())]));
    let bridge = RunningBridge::start(settings());
    receiver.until_requests(1).await;
    bridge.stop().await;
    let before = receiver.requests().len();
    let state = rusqlite::Connection::open(folder.path().join("state.db")).unwrap();
    state.execute("UPDATE push_identity SET host_hash = host_hash + 1", []).unwrap();
    drop(state);
    let identity = queue(folder.path()).identity;
    let bridge = RunningBridge::start(settings());
    bridge.until("the events", &2.0, counted).await;
    bridge.until("the receiver's metrics", &1, |scrape| scrape.series("session_buddy_bridge_push_up").len()).await;
    bridge.until_ready("readiness, which does not depend on receivers", |answer| answer.status == 200).await;
    let refused = bridge.scrape().await;
    // What the alert reads.
    for metric in ["session_buddy_bridge_push_up", "session_buddy_bridge_push_queue_ticks"] {
        let values: Vec<f64> = refused.series(metric).into_values().collect();
        assert_eq!(values, [0.0], "{metric}");
    }
    let status: serde_json::Value = serde_json::from_str(bridge.get("/api/v1/status").await.text()).unwrap();
    let problem = status["receivers"][0]["problem"].as_str().unwrap();
    assert!(problem.contains("--push.label") && problem.contains("host name has changed"), "{problem}");
    bridge.stop().await;
    assert_eq!(receiver.requests().len(), before);
    assert_eq!(queue(folder.path()).identity, identity);
}

/// What a bridge exposes of each receiver: its name, `push_up` and its line on the live page.
fn shown_receivers(address: SocketAddr) -> Result<Vec<(String, f64, String)>, String> {
    let scrape = Scrape::try_fetch(address)?;
    let status: serde_json::Value =
        serde_json::from_str(http_client::get(address, "/api/v1/status").text()).map_err(|error| error.to_string())?;
    let problem = |name: &str| {
        let receivers = status["receivers"].as_array().into_iter().flatten();
        let of_name = receivers.filter(|receiver| receiver["receiver"] == name);
        of_name.filter_map(|receiver| receiver["problem"].as_str()).collect::<String>()
    };
    let up = scrape.series("session_buddy_bridge_push_up").into_iter();
    Ok(up.map(|(labels, up)| (labels["receiver"].clone(), up, problem(&labels["receiver"]))).collect())
}

/// Nobody else can write to the state file meanwhile; a disk that is full refuses as well.
#[tokio::test(flavor = "multi_thread")]
async fn receivers_are_down_while_the_queue_cannot_be_configured_for_them() {
    let folder = tempfile::tempdir().unwrap();
    let (feed, first, second) = (feed(1), receiver().await, receiver().await);
    let (path, state) = (folder.path().join("bridge.yml"), folder.path().join("state.db"));
    let (first_url, second_url) = (first.url(), second.url());
    let both = [("first", &*first_url), ("second", &*second_url)];
    fs::write(&path, configuration(&feed, &[])).unwrap();
    let arguments = [
        format!("--config.file={}", path.display()),
        format!("--state.path={}", state.display()),
        "--push.interval=5s".to_owned(),
        "--web.listen-address=127.0.0.1:0".to_owned(),
    ];
    let mut program = Program::start(arguments.iter().map(String::as_str));
    let address = program.address();
    eventually_async("the count", async || equal(&Scrape::try_fetch(address)?.sum("skill_invocations_total"), &1.0))
        .await;
    let reload = |program: &Program, configuration: String| {
        fs::write(&path, configuration).unwrap();
        program.signal(Signal::HUP);
    };
    let until_down = async |names: &[&str]| {
        eventually_async("receivers that are down", async || {
            let shown = shown_receivers(address)?;
            let is_down = |name: &&str| {
                shown.iter().any(|(shown, up, problem)| {
                    shown == name && *up == 0.0 && problem.starts_with("the push queue cannot be used: ")
                })
            };
            holds(names.iter().all(is_down), format!("{shown:?}"))
        })
        .await;
    };
    let until_up = async || {
        let up = ["first", "second"].map(|name| (name.to_owned(), 1.0, String::new())).to_vec();
        eventually_async("receivers that are up", async || equal(&shown_receivers(address)?, &up)).await;
    };
    const FAILED: &str = "push queue cannot be used";
    const ENDED: &str = "push queue no longer fails";

    let other = rusqlite::Connection::open(&state).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    reload(&program, configuration(&feed, &both[..1]));
    until_down(&["first"]).await;
    // Each reload is another attempt.
    reload(&program, configuration(&feed, &both));
    until_down(&["first", "second"]).await;
    let log = program.stderr();
    assert_eq!(log.matches(FAILED).count(), 1, "the same problem is logged once: {log}");
    other.execute_batch("ROLLBACK").unwrap();
    until_up().await;
    program.until_stderr("the end of the problem", |log| log.matches(ENDED).count() == 1);

    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    let relabelled = format!("  - url: {second_url}\n    name: second\n    labels: {{instance: another}}\n");
    reload(&program, configuration(&feed, &both[..1]) + &relabelled);
    until_down(&["second"]).await;
    other.execute_batch("ROLLBACK").unwrap();
    until_up().await;
    program.until_stderr("both ends", |log| log.matches(ENDED).count() == 2);
    let log = program.stderr();
    assert_eq!(log.matches(FAILED).count(), 2, "{log}");
    let is_of = |labels: &[(String, String)]| labels.contains(&("instance".to_owned(), "another".to_owned()));
    second.until("samples under the new labels", |stored| stored.keys().any(|labels| is_of(labels))).await;
}

/// The value that the first sample of a skill's completed invocations has.
fn first(stored: &Stored, skill: &str) -> Option<f64> {
    let of = [("__name__", "skill_invocations_total"), ("skill_name", skill), ("completed", "true")];
    let of = of.map(|(name, value)| (name.to_owned(), value.to_owned()));
    let (_, samples) = stored.iter().find(|(labels, _)| of.iter().all(|label| labels.contains(label)))?;
    Some(f64::from_bits(*samples.values().next()?))
}

/// Rule 8.4: without a list that names every skill, nothing shows that the skill was not there before.
#[tokio::test(flavor = "multi_thread")]
async fn rows_that_no_bridge_observed_begin_at_zero_if_the_last_list_was_without_their_skill() {
    for (is_listed, expected) in [(true, 0.0), (false, 3.0)] {
        let (stage, receiver) = (DatabaseStage::new(), receiver().await);
        let server = ServerDatabase::create(&stage.path("skills.db"));
        if is_listed {
            stage.list(&[]);
        }
        let arguments = [
            format!("--config.file={}", stage.configure(&[("one", skills_db(&server.path))])),
            format!("--state.path={}", stage.path("state.db").display()),
            format!("--push.url={}", receiver.url()),
            "--push.interval=5s".to_owned(),
            "--web.listen-address=127.0.0.1:0".to_owned(),
        ];
        let start = || Program::start(arguments.iter().map(String::as_str));
        let mut killed = start();
        after_messages(&mut killed, 3.0);
        receiver.until("a tick", |stored| last(stored, "active_sessions_total").is_some()).await;
        drop(killed);
        server.invoke("unobserved", 3);
        stage.list(&[("unobserved", 3)]);
        let mut bridge = start();
        until(&mut bridge, "what was written meanwhile", 3.0, invocations);
        receiver.until("it", |stored| last(stored, "skill_invocations_total") == Some(3.0)).await;
        server.invoke("observed", 1);
        stage.list(&[("unobserved", 3), ("observed", 1)]);
        receiver.until("both", |stored| last(stored, "skill_invocations_total") == Some(4.0)).await;
        let stored = receiver.stored();
        let firsts = ["unobserved", "observed"].map(|skill| first(&stored, skill));
        assert_eq!(firsts, [Some(expected), Some(0.0)], "with a list: {is_listed}");
    }
}
