//! A bridge whose receiver is down is configured otherwise while its queue is full of ticks: all that was counted arrives.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rusqlite::Connection;
use rustix::process::Signal;
use session_buddy_bridge::internals::push::{QueueSummary, summary};
use session_buddy_bridge::internals::store::Store;
use tempfile::TempDir;

use crate::support::model::{Invocation, invocation_event};
use crate::support::program::Program;
use crate::support::push_senders::unix_millis;
use crate::support::scrape::{Scrape, Series};
use crate::support::scripted_feed::{Gate, ScriptedFeed, Step};
use crate::support::scripted_receiver::{Action, Received, ScriptedReceiver, Stored};
use crate::support::{equal, eventually_async, holds, wait_until};

/// A bridge that pushes each 5 s to a receiver that can be down, and a feed that sends an invocation each time it is asked.
struct Pushing {
    folder: TempDir,
    feed: ScriptedFeed,
    gates: Vec<Gate>,
    counted: usize,
    receiver: ScriptedReceiver,
    is_up: Arc<AtomicBool>,
    program: Program,
}

/// How many invocations the feed can send.
const INVOCATIONS: usize = 2;

impl Pushing {
    /// Starts it with `receiver`, entries of the receiver beside its URL, and the receiver down.
    async fn start(receiver: &str) -> Self {
        let gates: Vec<_> = (0..INVOCATIONS).map(|_| Gate::default()).collect();
        let invocation = Invocation {
            skill_name: "a".to_owned(),
            workflow_phase: None,
            completed: true,
            duration_seconds: Some(0.75),
        };
        let script = gates.iter().enumerate().flat_map(|(number, gate)| {
            let event = invocation_event(Some(&number.to_string()), 0, &invocation);
            [Step::Await(gate.clone()), Step::send(event)]
        });
        let feed = ScriptedFeed::start(vec![script.chain([Step::Await(Gate::default())]).collect()]);
        let is_up = Arc::new(AtomicBool::new(false));
        let server = ScriptedReceiver::start({
            let is_up = Arc::clone(&is_up);
            move |request, _| answer(request, is_up.load(Ordering::Relaxed))
        })
        .await;
        let folder = tempfile::tempdir().unwrap();
        write(folder.path(), &feed, &entry("r", &server, receiver));
        let mut program = start(folder.path(), 5);
        // From here on it takes signals.
        program.address();
        Self { folder, feed, gates, counted: 0, receiver: server, is_up, program }
    }

    fn state(&self) -> PathBuf {
        self.folder.path().join("state.db")
    }

    /// What is queued.
    fn queue(&self) -> QueueSummary {
        Store::look_at(&self.state(), summary).unwrap().1.expect("it pushes")
    }

    /// Counts one more invocation while the receiver is down, and returns once it is queued.
    async fn queue_another(&mut self) {
        self.is_up.store(false, Ordering::Relaxed);
        self.gates[self.counted].open();
        self.counted += 1;
        let address = self.program.address();
        eventually_async("the count", async || {
            let scrape = Scrape::try_fetch(address)?;
            holds(scrape.sum("skill_invocations_total") == self.counted as f64, "it is not counted")
        })
        .await;
        let since = unix_millis();
        eventually_async("a tick with it", async || {
            let (_, queue) = Store::look_at(&self.state(), summary).map_err(|error| error.to_string())?;
            let newest = queue.and_then(|queue| queue.newest).ok_or("no tick")?;
            holds(newest.millis() > since, "it is not queued")
        })
        .await;
    }

    /// Configures its receiver otherwise.
    fn change(&mut self, receiver: &str) {
        self.reload(&entry("r", &self.receiver, receiver));
    }

    fn reload(&mut self, push: &str) {
        write(self.folder.path(), &self.feed, push);
        let reloads = |log: &str| log.matches("configuration reloaded").count();
        let before = reloads(self.program.stderr());
        self.program.signal(Signal::HUP);
        self.program.until_stderr("the reload", |log| reloads(log) > before);
    }

    /// The receiver is up: under these labels the counts are the bridge's.
    async fn until_received(&mut self, labels: &[(&str, &str)]) -> Stored {
        self.is_up.store(true, Ordering::Relaxed);
        let shown = Scrape::fetch(self.program.address(), "/metrics");
        let counters: BTreeMap<Series, f64> = (shown.samples.into_iter())
            .filter(|(series, _)| ["skill_", "anomalies_"].iter().any(|family| series.name.starts_with(family)))
            .collect();
        assert_eq!(counters[&counter("skill_duration_seconds_count")], self.counted as f64);
        self.receiver.until("the counts", |stored| has_last(stored, labels, &counters)).await;
        let stored = self.receiver.stored();
        let of_skills = |name: &str| name.starts_with("skill_");
        for (labels, samples) in &stored {
            let values: Vec<_> = samples.values().map(|bits| f64::from_bits(*bits)).collect();
            let is_counter = labels.iter().any(|(label, name)| label == "__name__" && of_skills(name));
            assert!(!is_counter || values.is_sorted(), "{labels:?} falls: {values:?}");
        }
        stored
    }
}

fn counter(name: &str) -> Series {
    Series::new(name, &[("skill_name", "a"), ("workflow_phase", "unknown")])
}

/// Starts the bridge of this folder.
fn start(folder: &Path, interval_seconds: u32) -> Program {
    let arguments = [
        format!("--config.file={}", folder.join("bridge.yml").display()),
        format!("--state.path={}", folder.join("state.db").display()),
        format!("--push.interval={interval_seconds}s"),
        "--web.listen-address=127.0.0.1:0".to_owned(),
    ];
    Program::start(arguments.iter().map(String::as_str))
}

/// Writes its configuration, with these entries of receivers.
fn write(folder: &Path, feed: &ScriptedFeed, push: &str) {
    fs::write(folder.join("bridge.yml"), format!("feeds:\n  - url: {}\npush:\n{push}", feed.url())).unwrap();
}

/// Returns the entry of a receiver.
fn entry(name: &str, server: &ScriptedReceiver, more: &str) -> String {
    format!("  - url: {}\n    name: {name}\n    {more}\n", server.url())
}

/// A receiver that knows one token, and is asked with none by those that have none.
fn answer(request: &Received, is_up: bool) -> Action {
    match (is_up, request.headers.get("authorization").map(String::as_str)) {
        (false, _) => Action::status("503 Service Unavailable", "", ""),
        (true, None | Some("Bearer new")) => Action::store(),
        (true, Some(_)) => Action::status("401 Unauthorized", "", ""),
    }
}

/// Returns whether the last value of each of these series, with the labels of a push, is the one given, to the bit.
fn has_last(stored: &Stored, labels: &[(&str, &str)], expected: &BTreeMap<Series, f64>) -> bool {
    let last = |series: &Series| {
        let mut wanted = series.labels.clone();
        wanted.extend(labels.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
        wanted.insert("__name__".to_owned(), series.name.clone());
        let samples = stored.get(&wanted.into_iter().collect::<Vec<_>>())?;
        samples.last_key_value().map(|(_, bits)| *bits)
    };
    expected.iter().all(|(series, value)| last(series) == Some(value.to_bits()))
}

const ONE: &[(&str, &str)] = &[("instance", "one"), ("job", "session-buddy")];
const TWO: &[(&str, &str)] = &[("instance", "two"), ("job", "session-buddy")];

#[tokio::test(flavor = "multi_thread")]
async fn labels_that_change_with_a_queue_are_those_of_every_count() {
    let mut pushing = Pushing::start("labels: {instance: one}").await;
    pushing.queue_another().await;
    pushing.change("labels: {instance: two}");
    let stored = pushing.until_received(TWO).await;
    let of_one = |labels: &&Vec<(String, String)>| labels.contains(&("instance".to_owned(), "one".to_owned()));
    assert_eq!(stored.keys().filter(of_one).count(), 0, "nothing arrived before the change");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_changes_with_a_queue_is_the_one_that_is_sent() {
    let mut pushing = Pushing::start("").await;
    for token in ["old", "new"] {
        fs::write(pushing.folder.path().join(token), token).unwrap();
    }
    pushing.change("bearer_token_file: old\n    labels: {instance: one}");
    pushing.queue_another().await;
    assert!(pushing.receiver.stored().is_empty());
    pushing.change("bearer_token_file: new\n    labels: {instance: one}");
    pushing.until_received(ONE).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_series_that_are_pushed_can_change_with_a_queue_and_change_back() {
    let mut pushing = Pushing::start("labels: {instance: one}").await;
    let own = |stored: &Stored| {
        let is_own = |(label, name): &(String, String)| label == "__name__" && name == "process_threads";
        stored.iter().filter(|(labels, _)| labels.iter().any(is_own)).map(|(_, samples)| samples.len()).sum::<usize>()
    };
    pushing.queue_another().await;
    pushing.change("labels: {instance: one}\n    series: five");
    assert_eq!(own(&pushing.until_received(ONE).await), 0);
    pushing.queue_another().await;
    pushing.change("labels: {instance: one}\n    series: all");
    pushing.until_received(ONE).await;
    pushing.receiver.until("the bridge's own metrics", |stored| own(stored) > 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_receiver_that_is_removed_with_a_queue_and_added_again_gets_every_count() {
    let other = ScriptedReceiver::start(|_, _| Action::store()).await;
    let mut pushing = Pushing::start("labels: {instance: one}").await;
    let both = entry("r", &pushing.receiver, "labels: {instance: one}") + &entry("other", &other, "");
    pushing.reload(&both);
    pushing.queue_another().await;
    pushing.reload(&entry("other", &other, ""));
    let address = pushing.program.address();
    eventually_async("its metrics to end", async || {
        let scrape = Scrape::try_fetch(address)?;
        let names = scrape.series("session_buddy_bridge_push_up").into_keys().map(|labels| labels["receiver"].clone());
        equal(&names.collect(), &vec!["other".to_owned()])
    })
    .await;
    pushing.change("labels: {instance: one}");
    pushing.until_received(ONE).await;
}

/// Its URL was corrected, and its name with it.
#[tokio::test(flavor = "multi_thread")]
async fn a_receiver_that_is_renamed_with_a_queue_continues_it() {
    let mut pushing = Pushing::start("labels: {instance: one}").await;
    pushing.queue_another().await;
    let before = pushing.queue();
    pushing.reload(&entry("s", &pushing.receiver, "labels: {instance: one}"));
    pushing.program.until_stderr("the new name", |log| log.contains("push receiver renamed"));
    let after = pushing.queue();
    let [(name, position, _)] = &after.receivers[..] else { panic!("{after:?}") };
    assert_eq!((name.as_str(), *position), ("s", before.receivers[0].1));
    let stored = pushing.until_received(ONE).await;
    let sessions = stored.iter().find(|(labels, _)| labels.iter().any(|(_, name)| name == "active_sessions_total"));
    let (arrived, queued) = (sessions.unwrap().1.len() as u64, before.size.ticks);
    assert!(arrived >= queued, "{arrived} ticks arrived, and {queued} were queued");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backlog_that_no_receiver_inherits_is_logged_with_its_ticks_and_the_flag_that_preserves_it() {
    let mut pushing = Pushing::start("labels: {instance: one}").await;
    pushing.queue_another().await;
    pushing.queue_another().await;
    assert!(pushing.queue().size.ticks > 1);
    let labels = "labels: {instance: one}";
    pushing.reload(&(entry("s", &pushing.receiver, labels) + &entry("t", &pushing.receiver, labels)));
    let is_logged = |line: &str| {
        line.contains("level=warn")
            && line.contains("push receiver removed")
            && line.contains("receiver=r ")
            && line.contains("ticks=")
            && line.contains("more than one receiver was removed or added")
            && line.contains("--push.name")
    };
    pushing.program.until_stderr("the warning", |log| log.lines().any(is_logged));
    pushing.until_received(ONE).await;
}

/// The series of the emptied queue have other numbers than before.
#[tokio::test(flavor = "multi_thread")]
async fn a_queue_that_becomes_corrupt_while_the_bridge_runs_loses_no_count() {
    let mut pushing = Pushing::start("labels: {instance: one}").await;
    pushing.queue_another().await;
    let state = Connection::open(pushing.state()).unwrap();
    state.execute_batch("UPDATE push_tick SET samples = x'0003'").unwrap();
    drop(state);
    pushing.until_received(ONE).await;
    pushing.queue_another().await;
    pushing.until_received(ONE).await;
    let log = pushing.program.stderr();
    assert_eq!(log.matches("push queue corrupt; it is emptied").count(), 1, "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_receiver_whose_row_is_damaged_while_the_bridge_runs_is_added_again() {
    let mut pushing = Pushing::start("labels: {instance: one}").await;
    pushing.queue_another().await;
    pushing.until_received(ONE).await;
    let state = Connection::open(pushing.state()).unwrap();
    state.execute_batch("DELETE FROM push_receiver").unwrap();
    drop(state);
    pushing.queue_another().await;
    pushing.until_received(ONE).await;
    pushing.program.until_stderr("a warning", |log| log.contains("push queue lost a receiver; it is added again"));
}

/// The interval is a flag, so that it changes with a start.
#[tokio::test(flavor = "multi_thread")]
async fn an_interval_that_changes_with_a_queue_loses_no_tick() {
    let mut pushing = Pushing::start("labels: {instance: one}").await;
    pushing.queue_another().await;
    let (_, queue) = Store::look_at(&pushing.state(), summary).unwrap();
    let queued = queue.unwrap().size.ticks;
    pushing.program.signal(Signal::KILL);
    wait_until("the end of the first process", || pushing.program.has_ended());
    // The feed sends the same events again, which their identifiers show.
    pushing.program = start(pushing.folder.path(), 7);
    let stored = pushing.until_received(ONE).await;
    let sessions = stored.iter().find(|(labels, _)| labels.iter().any(|(_, name)| name == "active_sessions_total"));
    assert!(sessions.unwrap().1.len() as u64 >= queued, "{queued} ticks were queued");
}
