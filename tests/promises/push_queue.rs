//! What the queue of remote write promises: it holds every value of its newest tick, whatever happens to the process, the
//! clock, the disk or the receivers.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use prometheus::core::Collector;
use prometheus::{Gauge, IntCounterVec, Opts, Registry};
use proptest::prelude::*;
use rusqlite::Connection;
use session_buddy_bridge::internals::ledger::Changes;
use session_buddy_bridge::internals::push::{
    ClockGuard, HostHash, Identified, NoSuccessor, OwnGatherer, OwnSample, QueueError, QueueHandle, QueueSettings,
    ReceiverName, RemovedReceiver, Sender, SeriesId, SeriesKind, SeriesName, TickKind, TickOutcome, TickTime, is_stale,
    summary,
};
use session_buddy_bridge::internals::store::Store;
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

use crate::support::memory_state::MemoryState;
use crate::support::patiently;
use crate::support::program::Program;
use crate::support::push_queue::{Counted, INTERVAL, Queue, Values, at, here, labels, name, settings};
use crate::support::push_senders;
use crate::support::scrape::Series;

fn folder() -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state.db");
    (folder, path)
}

/// A queue in memory for one receiver.
fn queue(counted: &Counted) -> Queue {
    Queue::open(MemoryState::new().open().0, counted, settings(&["r"]))
}

fn invocations(skill_name: &str, completed: &str) -> Series {
    Series::new(
        "skill_invocations_total",
        &[("completed", completed), ("skill_name", skill_name), ("workflow_phase", "execution")],
    )
}

fn own(metric: &str, labels: &[(&str, &str)], kind: SeriesKind, value: f64) -> OwnSample {
    let labels = labels.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect();
    OwnSample { name: SeriesName { metric: metric.into(), labels }.into(), kind, value }
}

fn zeros(queue: &mut Queue) -> BTreeMap<Series, TickTime> {
    queue.catalog().iter().filter_map(|series| Some((name(series), series.zero_at?))).collect()
}

#[test]
fn a_tick_holds_the_series_that_changed_and_no_other() {
    let counted = Counted::new();
    let mut queue = queue(&counted);
    counted.invocation("a", true);
    counted.invocation("b", true);
    assert!(queue.tick(1));
    counted.invocation("b", true);
    assert!(queue.tick(2));
    assert!(queue.tick(3));
    let ticks = queue.ticks("r");
    let [_, (_, second), (_, third)] = &ticks[..] else { panic!("{ticks:?}") };
    assert!(second.keys().all(|series| series.labels["skill_name"] == "b"), "{second:?}");
    assert_eq!(second.get(&invocations("b", "true")), Some(&2.0));
    assert_eq!(second.get(&invocations("b", "false")), None, "it did not change");
    assert_eq!(*third, Values::new());
    assert_eq!(ticks[0].0, at(1));
}

#[test]
fn each_tick_equals_a_scrape_of_its_moment() {
    let counted = Counted::new();
    let mut queue = queue(&counted);
    let registry = Registry::new();
    let served = IntCounterVec::new(Opts::new("served_total", "Served"), &["what"]).unwrap();
    let took = prometheus::Histogram::with_opts(
        prometheus::HistogramOpts::new("took_seconds", "Took").buckets(vec![0.5, 1.0]),
    );
    let (load, took) = (Gauge::new("load", "Load").unwrap(), took.unwrap());
    let collectors: [Box<dyn Collector>; 3] =
        [Box::new(served.clone()), Box::new(load.clone()), Box::new(took.clone())];
    collectors.into_iter().for_each(|collector| registry.register(collector).unwrap());
    let mut gatherer = OwnGatherer::new(registry.clone());
    let mut scrapes = Vec::new();
    for number in 1..30 {
        counted.invocation(&format!("skill {}", number % 7), number % 3 == 0);
        counted.rate("a \"rated\"\\ skill\n", 1.0 / number as f64);
        if number % 5 == 0 {
            counted.anomaly("a");
            served.with_label_values(&[&format!("{}", number % 2)]).inc();
        }
        counted.sessions(number % 4);
        load.set(number as f64 / 3.0);
        took.observe(number as f64 / 10.0);
        let taken = queue.try_tick(at(number as i64), gatherer.gather(), TickKind::Regular).unwrap();
        assert_eq!(taken, TickOutcome::Queued);
        scrapes.push((at(number as i64), counted.scrape(&registry)));
        if number % 11 == 0 {
            queue.advance("r", at(number as i64 - 4));
        }
    }
    let states = queue.states("r");
    assert_eq!(states[..], scrapes[scrapes.len() - states.len()..], "base and ticks differ from the scrapes");
}

#[test]
fn a_series_that_was_created_while_it_was_observed_is_zero_one_tick_before() {
    let counted = Counted::new();
    let mut queue = queue(&counted);
    counted.invocation("early", true);
    queue.tick(1);
    // Created long after the tick before the first one, which is of the past here.
    assert_eq!(zeros(&mut queue).get(&invocations("early", "true")), Some(&at(0)));
    counted.invocation("late", true);
    counted.anomaly("late");
    counted.rate("late", 0.5);
    queue.tick(2);
    let zeros = zeros(&mut queue);
    let late: BTreeMap<_, _> =
        zeros.iter().filter(|(series, _)| series.labels.get("skill_name").is_some_and(|name| name == "late")).collect();
    assert!(late.values().all(|zero_at| **zero_at == at(1)), "{late:?}");
    assert!(late.contains_key(&invocations("late", "true")));
    assert!(
        late.contains_key(&Series::new(
            "anomalies_detected_total",
            &[("anomaly_type", "drop"), ("skill_name", "late")]
        ))
    );
    assert!(!late.contains_key(&invocations("late", "false")), "its first sample is 0");
    assert!(late.keys().all(|series| series.name != "skill_completion_rate"), "a gauge has no increase");
}

#[test]
fn history_has_no_zero() {
    let counted = Counted::by_snapshots();
    let mut queue = queue(&counted);
    counted.snapshot(7);
    queue.tick(1);
    let old = |queue: &mut Queue| {
        let states = queue.states("r");
        states
            .last()
            .unwrap()
            .1
            .iter()
            .filter(|(series, _)| series.name == "skill_invocations_total")
            .map(|(_, value)| *value)
            .sum::<f64>()
    };
    assert_eq!(old(&mut queue), 7.0);
    queue.tick(2);
    assert_eq!(zeros(&mut queue), BTreeMap::new());
}

#[test]
fn a_series_that_began_long_before_the_first_tick_has_no_zero() {
    let counted = Counted::new();
    let mut queue = queue(&counted);
    counted.invocation("watched", true);
    let time = TickTime::from_millis(counted.ledger.now().wall_micros / 1000 + 3_600_000);
    assert_eq!(queue.try_tick(time, Vec::new(), TickKind::Regular).unwrap(), TickOutcome::Queued);
    assert_eq!(queue.states("r")[1].1.get(&invocations("watched", "true")), Some(&1.0));
    assert_eq!(zeros(&mut queue), BTreeMap::new());
}

#[test]
fn counters_of_the_bridge_begin_at_zero_where_an_earlier_tick_was_without_them() {
    let counted = Counted::new();
    let mut queue = queue(&counted);
    let connects = || own("connects_total", &[("feed", "a")], SeriesKind::Counter, 3.0);
    let disconnects = || own("disconnects_total", &[("feed", "a")], SeriesKind::Counter, 1.0);
    queue.try_tick(at(1), vec![connects()], TickKind::Regular).unwrap();
    queue.try_tick(at(2), vec![connects(), disconnects()], TickKind::Regular).unwrap();
    assert_eq!(zeros(&mut queue), BTreeMap::from([(Series::new("disconnects_total", &[("feed", "a")]), at(1))]));
}

#[test]
fn a_series_that_vanishes_becomes_stale_and_comes_back_as_the_same_series() {
    let counted = Counted::new();
    let mut queue = queue(&counted);
    let up = || own("up", &[("feed", "a")], SeriesKind::Gauge, 1.0);
    let series = Series::new("up", &[("feed", "a")]);
    for (number, own) in [(1, vec![up()]), (2, vec![]), (3, vec![]), (4, vec![up()])] {
        queue.try_tick(at(number), own, TickKind::Regular).unwrap();
    }
    let ticks = queue.ticks("r");
    let values: Vec<_> = ticks.iter().map(|(_, values)| values.get(&series).copied()).collect();
    assert_eq!(values[0], Some(1.0));
    assert!(values[1].is_some_and(is_stale), "{values:?}");
    assert_eq!(values[2..], [None, Some(1.0)]);
    assert_eq!(queue.catalog().iter().filter(|known| name(known) == series).count(), 1);
}

#[test]
fn the_last_tick_makes_gauges_stale_and_leaves_counters() {
    let (_folder, path) = folder();
    let counted = Counted::new();
    let mut queue = Queue::at_path(&path, &counted, settings(&["r"]));
    let samples = || vec![own("up", &[], SeriesKind::Gauge, 1.0), own("connects_total", &[], SeriesKind::Counter, 1.0)];
    counted.invocation("a", true);
    counted.rate("a", 0.5);
    counted.sessions(2);
    queue.try_tick(at(1), samples(), TickKind::Regular).unwrap();
    counted.invocation("a", true);
    queue.try_tick(at(2), samples(), TickKind::Final).unwrap();
    let ticks = queue.ticks("r");
    let (stale, fresh): (Vec<_>, Vec<_>) = ticks[1].1.iter().partition(|(_, value)| is_stale(**value));
    let stale: Vec<_> = stale.iter().map(|(series, _)| &*series.name).collect();
    assert_eq!(stale, ["active_sessions_total", "skill_completion_rate", "up"]);
    assert!(fresh.contains(&(&invocations("a", "true"), &2.0)), "{fresh:?}");
    drop(queue);

    let mut queue = Queue::at_path(&path, &counted, settings(&["r"]));
    queue.try_tick(at(3), samples(), TickKind::Regular).unwrap();
    let names: Vec<_> = queue.ticks("r")[2].1.keys().map(|series| series.name.clone()).collect();
    assert_eq!(
        names,
        ["active_sessions_total", "skill_completion_rate", "up"],
        "gauges are back, counters are as before"
    );
}

#[test]
fn the_last_tick_is_queued_right_behind_an_answered_one_that_is_later_by_at_most_a_second() {
    for (behind_millis, is_queued) in [(0, true), (1, true), (500, true), (999, true), (1_000, false), (60_000, false)]
    {
        let counted = Counted::new();
        let mut queue = queue(&counted);
        counted.invocation("a", true);
        queue.tick(1);
        queue.advance("r", at(1));
        counted.invocation("a", true);
        let time = TickTime::from_millis(at(1).millis() - behind_millis);
        let outcome = queue.try_tick(time, Vec::new(), TickKind::Final).unwrap();
        let (next, expected) = (TickTime::from_millis(at(1).millis() + 1), counted.scrape(&Registry::new()));
        match is_queued {
            true => {
                assert_eq!(outcome, TickOutcome::Queued, "{behind_millis} ms");
                let last = queue.ticks("r").pop().unwrap();
                assert_eq!(last.0, next, "{behind_millis} ms");
                assert_eq!(last.1.get(&invocations("a", "true")), expected.get(&invocations("a", "true")));
            }
            false => assert_eq!(outcome, TickOutcome::BehindAnswered(at(1)), "{behind_millis} ms"),
        }
    }
}

/// Copies a state as a kill would leave it.
fn killed(path: &Path) -> (TempDir, PathBuf) {
    let (folder, copy) = folder();
    for suffix in ["", "-wal"] {
        let with_suffix = |path: &Path| PathBuf::from(format!("{}{suffix}", path.display()));
        fs::copy(with_suffix(path), with_suffix(&copy)).unwrap();
    }
    (folder, copy)
}

#[test]
fn a_kill_after_any_step_leaves_the_queue_as_it_was() {
    let (_folder, path) = folder();
    let counted = Counted::new();
    let mut queue = Queue::at_path(&path, &counted, settings(&["r", "slow"]));
    type Act = fn(&Counted, &mut Queue);
    let steps: [(&str, Act); 8] = [
        ("nothing yet", |_, _| {}),
        ("a tick", |counted, queue| {
            counted.invocation("a", true);
            assert!(queue.tick(1));
        }),
        ("an answer", |_, queue| queue.advance("r", at(1))),
        ("another tick", |counted, queue| {
            counted.invocation("b", true);
            assert!(queue.tick(2));
        }),
        ("an answer of the slow one, which is folded", |_, queue| queue.advance("slow", at(1))),
        ("a tick without a change", |_, queue| assert!(queue.tick(3))),
        ("answers of both", |_, queue| {
            queue.advance("r", at(3));
            queue.advance("slow", at(2));
        }),
        ("the last tick", |_, queue| {
            queue.try_tick(at(4), Vec::new(), TickKind::Final).unwrap();
        }),
    ];
    for (what, step) in steps {
        step(&counted, &mut queue);
        let (_folder, copy) = killed(&path);
        let mut restarted = Queue::at_path(&copy, &counted, settings(&["r", "slow"]));
        for receiver in ["r", "slow"] {
            assert_eq!(restarted.states(receiver), queue.states(receiver), "{what}: {receiver}");
        }
        assert_eq!(restarted.catalog(), queue.catalog(), "{what}");
        assert_eq!(restarted.handle.watch().borrow().time, queue.handle.watch().borrow().time, "{what}");
        // What is sampled next is what the one that lives samples next: only what changed.
        counted.invocation("a", false);
        let last = |queue: &mut Queue| {
            assert!(queue.tick(50), "{what}");
            queue.ticks("r").pop().unwrap().1
        };
        let next = last(&mut restarted);
        assert!(next.contains_key(&invocations("a", "false")), "{what}: {next:?}");
        if !what.starts_with("the last") && !what.starts_with("nothing") && !what.starts_with("a tick") {
            assert!(
                !next.keys().any(|series| series.labels.get("skill_name").is_some_and(|name| name == "b")),
                "{next:?}"
            );
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_queue_without_a_state_file_behaves_the_same() {
    let counted = Counted::new();
    let mut with_file = queue(&counted);
    let handle = QueueHandle::in_memory(counted.ledger.clone()).unwrap();
    assert!(matches!(handle.take_tick(at(1), Vec::new(), TickKind::Regular).await, Err(QueueError::Unidentified)));
    assert!(matches!(handle.identify(here(), labels(&["a"])).await.unwrap(), Identified::Created(_)));
    handle.configure(settings(&["r"])).await.unwrap();
    let receiver = ReceiverName::new("r");
    for number in 1..6 {
        counted.invocation("a", true);
        // Each has its own mark of what changed: the view notes it for one.
        let taken = handle.take_tick(at(number), Vec::new(), TickKind::Regular).await.unwrap();
        assert_eq!(taken, TickOutcome::Queued);
        if number == 3 {
            let to = handle.watch().borrow().at(at(2));
            handle.advance(&receiver, to).await.unwrap();
        }
    }
    for number in 1..6 {
        with_file.tick(number);
    }
    with_file.advance("r", at(2));
    let catalog = handle.series(SeriesId::FIRST).await.unwrap();
    assert_eq!(
        catalog.iter().map(|series| name(series)).collect::<Vec<_>>(),
        with_file.catalog().iter().map(|series| name(series)).collect::<Vec<_>>()
    );
    let (position, _) = handle.open(&receiver).await.unwrap();
    assert_eq!(position.time, at(2));
    // Of a sender that another one has overtaken, which would change values that are not those of its position.
    let overtaken = handle.backlog(&receiver, position.at(at(1)), 2, SeriesId::FIRST).await;
    assert!(matches!(overtaken, Err(QueueError::Overtaken(_))), "{overtaken:?}");
    let (new, backlog) = handle.backlog(&receiver, position, 2, SeriesId::at(3)).await.unwrap();
    assert_eq!(new, catalog[3..]);
    assert_eq!(backlog.ticks.iter().map(|tick| tick.time).collect::<Vec<_>>(), [at(3), at(4)]);
    assert_eq!((backlog.remaining.ticks, backlog.remaining.oldest), (1, Some(at(5))));
    assert_eq!(backlog.size, handle.size_after(position.time).await.unwrap());
    assert_eq!(handle.watch().borrow().time, at(5));
}

#[test]
fn a_new_receiver_begins_with_the_newest_tick_and_a_removed_one_holds_nothing_up() {
    let counted = Counted::new();
    let mut queue = queue(&counted);
    let positions = |queue: &mut Queue| -> Vec<(String, TickTime)> {
        let summary = look(queue).unwrap();
        summary.receivers.iter().map(|(name, position, _)| (name.to_string(), *position)).collect()
    };
    for number in 1..4 {
        counted.invocation("a", true);
        queue.tick(number);
    }
    queue.configure(settings(&["r", "new"]));
    assert_eq!(positions(&mut queue), [("new".to_owned(), at(2)), ("r".to_owned(), TickTime::NEVER)]);
    assert_eq!(queue.states("new").last(), queue.states("r").last());
    queue.configure(settings(&["new"]));
    assert_eq!(positions(&mut queue), [("new".to_owned(), at(2))]);
    assert_eq!(look(&mut queue).unwrap().size.ticks, 1, "what only the other one had not answered for is folded");
    let handle = queue.handle.clone();
    let opened = queue.answer(handle.open(&ReceiverName::new("r")));
    assert!(matches!(opened, Err(QueueError::NoSuchReceiver(_))), "{opened:?}");
    queue.advance("r", at(3));
    assert_eq!(positions(&mut queue), [("new".to_owned(), at(2))], "a late answer for it changes nothing");
}

/// The URL of a receiver is corrected, and its name with it.
#[test]
fn a_receiver_that_takes_the_place_of_another_one_under_the_same_labels_inherits_its_backlog() {
    let counted = Counted::new();
    let mut queue = Queue::open(MemoryState::new().open().0, &counted, settings(&["wrong", "other"]));
    for number in 1..6 {
        counted.invocation("a", true);
        queue.tick(number);
    }
    queue.advance("wrong", at(2));
    queue.advance("other", at(4));
    let (before, ticks) = (queue.states("wrong"), queue.ticks("wrong"));
    assert_eq!(ticks.len(), 3);
    queue.identify(here(), labels(&["a"]));
    let handle = queue.handle.clone();
    let removed = queue.answer(handle.configure(settings(&["right", "other"]))).unwrap();
    let [wrong, right] = ["wrong", "right"].map(ReceiverName::new);
    assert_eq!(removed, [RemovedReceiver { name: wrong, ticks: 3, successor: Ok(right) }]);
    assert_eq!((queue.states("right"), queue.ticks("right")), (before, ticks));
    assert_eq!(look(&mut queue).unwrap().receivers.len(), 2);

    // It has everything: its successor gets the newest tick, with every value.
    queue.advance("right", at(5));
    queue.configure(settings(&["moved", "other"]));
    assert_eq!(queue.states("moved").last(), Some(&(at(5), counted.scrape(&Registry::new()))));
}

#[test]
fn a_backlog_that_no_receiver_inherits_is_reported_with_the_reason() {
    for (before, after, label, reason) in [
        (&["r"][..], &[][..], "a", NoSuccessor::NoneAdded),
        (&["r", "s"], &["s"], "a", NoSuccessor::NoneAdded),
        (&["r"], &["t", "u"], "a", NoSuccessor::Ambiguous),
        (&["r", "s"], &["t"], "a", NoSuccessor::Ambiguous),
        (&["r"], &["t"], "b", NoSuccessor::Relabelled),
    ] {
        let counted = Counted::new();
        let mut queue = Queue::open(MemoryState::new().open().0, &counted, settings(before));
        for number in 1..4 {
            counted.invocation("a", true);
            queue.tick(number);
        }
        queue.identify(here(), labels(&[label]));
        let handle = queue.handle.clone();
        let removed = queue.answer(handle.configure(settings(after))).unwrap();
        let r = RemovedReceiver { name: ReceiverName::new("r"), ticks: 3, successor: Err(reason) };
        assert!(removed.contains(&r), "{before:?} {after:?}: {removed:?}");
        assert_eq!(removed.len(), before.iter().filter(|name| !after.contains(name)).count());
        for new in after.iter().filter(|name| !before.contains(name)) {
            assert_eq!(queue.ticks(new).len(), 1, "it begins with the newest tick");
        }
    }
}

fn look(queue: &mut Queue) -> Option<session_buddy_bridge::internals::push::QueueSummary> {
    queue.store.read_queue(summary).unwrap()
}

#[test]
fn a_new_receiver_gets_a_newest_tick_that_every_other_one_has_answered_for() {
    let counted = Counted::new();
    let mut queue = queue(&counted);
    counted.invocation("a", true);
    queue.tick(1);
    counted.invocation("b", true);
    queue.tick(2);
    queue.advance("r", at(2));
    for receivers in [&["r", "new"][..], &["other"][..]] {
        queue.configure(settings(receivers));
        let states = queue.states(receivers[receivers.len() - 1]);
        assert_eq!(states.len(), 2, "{states:?}");
        assert_eq!(states[1], (at(2), counted.scrape(&Registry::new())));
        assert_eq!(queue.handle.watch().borrow().time, at(2));
    }
    assert!(!queue.tick(2) && queue.tick(3));
    queue.advance("other", at(3));
    assert_eq!(look(&mut queue).unwrap().size.ticks, 0);
}

#[test]
fn a_position_never_goes_back_and_never_beyond_the_newest_tick() {
    let counted = Counted::new();
    let mut queue = queue(&counted);
    queue.tick(1);
    queue.tick(2);
    queue.advance("r", at(2));
    queue.advance("r", at(1));
    assert_eq!(look(&mut queue).unwrap().receivers[0].1, at(2));
    assert!(queue.tick(3));
    let (handle, receiver) = (queue.handle.clone(), ReceiverName::new("r"));
    let beyond = handle.watch().borrow().at(at(9));
    let answer = queue.answer(handle.advance(&receiver, beyond));
    assert!(matches!(answer, Err(QueueError::Overtaken(_))), "{answer:?}");
    assert_eq!(look(&mut queue).unwrap().receivers[0].1, at(2), "it does not skip the tick that nobody was sent");
}

#[test]
fn what_was_read_before_the_clock_was_set_back_moves_no_position() {
    let counted = Counted::new();
    let mut queue = queue(&counted);
    let (handle, receiver) = (queue.handle.clone(), ReceiverName::new("r"));
    queue.tick(1);
    queue.tick(121);
    let (before, _) = queue.answer(handle.open(&receiver)).unwrap();
    queue.tick(2);
    queue.tick(3);
    for to in [before.at(at(1)), before.at(at(3)), before.at(at(121))] {
        let answer = queue.answer(handle.advance(&receiver, to));
        assert!(matches!(answer, Err(QueueError::Overtaken(_))), "{to:?}: {answer:?}");
    }
    let backlog = queue.answer(handle.backlog(&receiver, before, 9, SeriesId::FIRST));
    assert!(matches!(backlog, Err(QueueError::Overtaken(_))), "{backlog:?}");
    assert_eq!(look(&mut queue).unwrap().receivers[0].1, TickTime::NEVER);
    let (now, _) = queue.answer(handle.open(&receiver)).unwrap();
    queue.tick(4);
    queue.answer(handle.advance(&receiver, now.at(at(3)))).unwrap();
    assert_eq!(look(&mut queue).unwrap().receivers[0].1, at(3), "ticks that follow leave it valid");
}

#[test]
fn a_clock_that_was_set_back_merges_what_nobody_was_sent_and_waits_behind_what_was() {
    let counted = Counted::new();
    let mut queue = queue(&counted);
    counted.invocation("a", true);
    queue.tick(1);
    queue.advance("r", at(1));
    // Two hours ahead, and nobody was sent these.
    for number in [121, 122] {
        counted.invocation("a", true);
        assert!(queue.tick(number));
    }
    counted.invocation("b", true);
    assert!(!queue.tick(121), "within an interval of the newest: it will come soon");
    assert!(queue.tick(2));
    let states = queue.states("r");
    assert_eq!(states.iter().map(|(time, _)| *time).collect::<Vec<_>>(), [at(1), at(2)]);
    assert_eq!(states[1].1, counted.scrape(&Registry::new()));
    assert!(queue.tick(3), "ticks go on from there");

    queue.advance("r", at(3));
    for number in [1, 2, 3, -500] {
        let outcome = queue.try_tick(at(number), Vec::new(), TickKind::Regular).unwrap();
        let expected = if number >= 2 { TickOutcome::NotDue } else { TickOutcome::BehindAnswered(at(3)) };
        assert_eq!(outcome, expected, "{number}: a receiver has a later tick");
    }
    counted.invocation("b", true);
    assert!(queue.tick(4));
    assert_eq!(queue.states("r")[1].1, counted.scrape(&Registry::new()), "what was not sampled meanwhile is not lost");
}

#[test]
fn a_state_that_was_copied_drops_the_queue_or_is_not_pushed() {
    let (_folder, path) = folder();
    let counted = Counted::new();
    let mut queue = Queue::at_path(&path, &counted, settings(&["r"]));
    counted.invocation("a", true);
    queue.tick(1);
    let original = look(&mut queue).unwrap();
    drop(queue);

    let there = HostHash::of(b"there", b"1");
    let store = || Store::open(&path, |_| Ok(())).unwrap().store;
    let mut copy = Queue::unidentified(store(), &counted);
    assert_eq!(copy.identify(there, labels(&["a"])), Identified::Refused);
    let refused = copy.try_tick(at(2), Vec::new(), TickKind::Regular);
    assert!(matches!(refused, Err(QueueError::Unidentified)), "{refused:?}");
    assert_eq!(look(&mut copy).unwrap(), original, "the state is untouched");

    let Identified::Copied(identity) = copy.identify(there, labels(&["b"])) else { panic!("its labels differ") };
    copy.configure(settings(&["r"]));
    assert_ne!(identity, original.identity);
    assert_eq!(look(&mut copy).unwrap().size.ticks, 0, "what was queued there is not sent from here");
    assert!(copy.tick(2));
    assert_eq!(copy.states("r")[1].1, counted.scrape(&Registry::new()));
    drop(copy);

    let mut again = Queue::unidentified(store(), &counted);
    assert_eq!(again.identify(there, labels(&["c"])), Identified::Known(identity));
}

#[test]
fn a_disk_that_takes_nothing_queues_nothing_new_and_loses_nothing() {
    let counted = Counted::new();
    let state = MemoryState::new();
    let mut queue = Queue::open(state.open().0, &counted, settings(&["r"]));
    counted.invocation("a", true);
    queue.tick(1);
    let before = queue.states("r");

    counted.invocation("a", true);
    counted.invocation("new", true);
    queue.is_committed = false;
    let tick = queue.try_tick(at(2), Vec::new(), TickKind::Regular);
    assert!(matches!(tick, Err(QueueError::Uncommitted)), "{tick:?}");
    queue.is_committed = true;
    for number in [2, 3] {
        let tick = state.while_locked("push_tick", || queue.try_tick(at(number), Vec::new(), TickKind::Regular));
        let handle = queue.handle.clone();
        let receiver = ReceiverName::new("r");
        let to = handle.watch().borrow().at(at(1));
        let answer = handle.advance(&receiver, to);
        let advanced = state.while_locked("push_receiver", || queue.answer(answer));
        assert!(matches!(tick, Err(QueueError::Store(_))), "{tick:?}");
        assert!(matches!(advanced, Err(QueueError::Store(_))), "{advanced:?}");
    }
    assert_eq!(queue.states("r"), before);

    counted.invocation("new", true);
    assert!(queue.tick(4));
    assert_eq!(queue.states("r")[2].1, counted.scrape(&Registry::new()));
    assert_eq!(zeros(&mut queue).get(&invocations("new", "true")), Some(&at(1)));
}

#[test]
fn the_newest_tick_is_left_as_the_queue_has_it_for_who_has_everything_before_it() {
    let counted = Counted::new();
    let mut queue = queue(&counted);
    let (handle, receiver) = (queue.handle.clone(), ReceiverName::new("r"));
    let newest = || *handle.watch().borrow();
    for number in 1..5 {
        let (before, known) = (newest(), SeriesId::at(queue.catalog().len()));
        // The third has no new series.
        counted.invocation(["a", "b", "a", "c"][number as usize - 1], true);
        queue.tick(number);
        let left = handle.newest_tick(before, known).expect("it is the only one");
        let read = queue.answer(handle.backlog(&receiver, before, 9, known)).unwrap();
        assert_eq!(format!("{left:?}"), format!("{read:?}"), "{number}");
        for (after, from) in [(before.at(at(number - 2)), known), (newest(), known), (before, SeriesId::at(1_000))] {
            assert!(handle.newest_tick(after, from).is_none(), "{number}: {after:?} {from:?}");
        }
        queue.advance("r", at(number));
    }
    let known = SeriesId::at(queue.catalog().len());
    let is_left = |queue: &mut Queue, number| {
        let before = newest();
        counted.invocation("a", true);
        assert!(queue.tick(number));
        handle.newest_tick(before, known).is_some()
    };
    assert!(is_left(&mut queue, 5) && is_left(&mut queue, 121));
    assert!(!is_left(&mut queue, 6), "another one was merged into it");
    assert!(is_left(&mut queue, 7));
    queue.configure(QueueSettings { bytes_max: 1, ..settings(&["r"]) });
    assert!(!is_left(&mut queue, 8), "those before it were merged into it");
    let own = |index: usize| own(&format!("own_{index}"), &[], SeriesKind::Gauge, 1.0);
    let before = newest();
    queue.try_tick(at(9), (0..5_000).map(own).collect(), TickKind::Regular).unwrap();
    assert!(handle.newest_tick(before, known).is_none(), "it would take memory");
}

#[test]
fn an_answer_for_the_newest_tick_is_noted_and_written_before_any_request_is_answered() {
    let counted = Counted::new();
    let state = MemoryState::new();
    let mut queue = Queue::open(state.open().0, &counted, settings(&["r", "slow"]));
    let (handle, receiver) = (queue.handle.clone(), ReceiverName::new("r"));
    queue.tick(1);
    queue.tick(2);
    let newest = *handle.watch().borrow();
    assert!(!handle.note_newest_answered(&receiver, newest.at(at(1))), "another one follows");
    assert!(handle.note_newest_answered(&receiver, newest));
    let position = |queue: &mut Queue| look(queue).unwrap().receivers[0].1;
    assert_eq!(position(&mut queue), TickTime::NEVER, "the thread of the queue is not woken");
    // A database that cannot be written.
    let tick = state.while_locked("push_receiver", || queue.try_tick(at(3), Vec::new(), TickKind::Regular));
    assert!(matches!(tick, Err(QueueError::Store(_))), "{tick:?}");
    assert_eq!((position(&mut queue), *handle.watch().borrow()), (TickTime::NEVER, newest));
    queue.answer(handle.size_after(at(1))).unwrap();
    assert_eq!(position(&mut queue), at(2));
    // Written before the tick is: no tick is queued before one that is answered for.
    queue.tick(121);
    let ahead = *handle.watch().borrow();
    assert!(handle.note_newest_answered(&receiver, ahead));
    let tick = queue.try_tick(at(3), Vec::new(), TickKind::Regular).unwrap();
    assert_eq!(tick, TickOutcome::BehindAnswered(at(121)));
}

#[test]
fn a_row_that_is_damaged_is_noticed_by_senders_that_make_no_request() {
    let (_folder, path) = folder();
    let counted = Counted::new();
    let mut queue = Queue::at_path(&path, &counted, settings(&["r", "s"]));
    let handle = queue.handle.clone();
    let generation = handle.watch().borrow().generation;
    for number in 1..100 {
        counted.invocation("a", true);
        assert!(queue.tick(number), "{number}");
        if number == 30 {
            let damage = "UPDATE push_tick SET samples = x'0003' WHERE millis = (SELECT max(millis) FROM push_tick)";
            queue.store.write_queue(|connection| connection.execute_batch(damage)).unwrap();
        }
        let newest = *handle.watch().borrow();
        for receiver in ["r", "s"] {
            assert!(handle.note_newest_answered(&ReceiverName::new(receiver), newest));
        }
    }
    queue.answer(handle.size_after(at(1))).unwrap();
    assert_ne!(handle.watch().borrow().generation, generation, "the ticks that are answered for are read now and then");
    assert_eq!(
        look(&mut queue).unwrap().receivers.iter().map(|receiver| receiver.1).collect::<Vec<_>>(),
        [at(99), at(99)]
    );
    for receiver in ["r", "s"] {
        assert_eq!(queue.states(receiver), [(at(99), counted.scrape(&Registry::new()))]);
    }
}

#[test]
fn what_is_left_for_senders_is_not_of_the_queue_of_another_machine() {
    let counted = Counted::new();
    let mut queue = queue(&counted);
    let handle = queue.handle.clone();
    queue.tick(1);
    let (before, known) = (*handle.watch().borrow(), SeriesId::at(queue.catalog().len()));
    queue.tick(2);
    assert!(handle.newest_tick(before, known).is_some());
    assert!(matches!(queue.identify(HostHash::of(b"other", b"id"), labels(&["b"])), Identified::Copied(_)));
    assert!(handle.newest_tick(before, known).is_none());
}

#[test]
fn a_receiver_whose_row_is_gone_is_noticed_by_a_sender_that_makes_no_request() {
    let (_folder, path) = folder();
    let counted = Counted::new();
    let mut queue = Queue::at_path(&path, &counted, settings(&["other", "r"]));
    let (handle, receiver) = (queue.handle.clone(), ReceiverName::new("r"));
    queue.tick(1);
    let newest = *handle.watch().borrow();
    queue.store.write_queue(|connection| connection.execute("DELETE FROM push_receiver WHERE name = 'r'", [])).unwrap();
    assert!(handle.note_newest_answered(&receiver, newest));
    assert!(handle.note_newest_answered(&ReceiverName::new("other"), newest));
    queue.answer(handle.size_after(at(1))).unwrap();
    let now = *handle.watch().borrow();
    assert!(now.generation != newest.generation && now.time == newest.time, "{now:?}: it reads the queue again");
    let opened = queue.answer(handle.open(&receiver));
    assert!(matches!(opened, Err(QueueError::NoSuchReceiver(_))), "{opened:?}");
    assert_eq!(look(&mut queue).unwrap().receivers[0].1, at(1), "the other one has not answered in vain");
}

#[test]
fn what_is_answered_is_folded_now_and_then_and_no_value_is_lost() {
    let (_folder, path) = folder();
    let counted = Counted::new();
    let mut queue = Queue::at_path(&path, &counted, settings(&["r"]));
    let rows = |queue: &mut Queue| -> u64 {
        let count =
            |connection: &Connection| connection.query_row("SELECT count(*) FROM push_tick", [], |row| row.get(0));
        queue.store.read_queue(count).unwrap()
    };
    let mut most = 0;
    for number in 1..200 {
        counted.invocation(&format!("skill {}", number % 5), number % 3 == 0);
        assert!(queue.tick(number));
        queue.advance("r", at(number));
        let shown = counted.scrape(&Registry::new());
        assert_eq!(queue.states("r"), [(at(number), shown.clone())]);
        most = most.max(rows(&mut queue));
        if number % 50 == 0 {
            drop(queue);
            queue = Queue::at_path(&path, &counted, settings(&["r"]));
            assert_eq!(queue.states("r"), [(at(number), shown)], "{number}");
        }
    }
    assert!((2..=64).contains(&most), "{most}");
    assert_eq!(look(&mut queue).unwrap().size.ticks, 0, "what is folded later is not queued");
}

#[test]
fn an_answer_changes_as_many_rows_however_many_series_there_are() {
    let counted = Counted::new();
    let mut queue = queue(&counted);
    let changed_rows = |queue: &mut Queue| -> u64 {
        let count = |connection: &Connection| connection.query_row("SELECT total_changes()", [], |row| row.get(0));
        queue.store.read_queue(count).unwrap()
    };
    let mut most = 0;
    for number in 1..=130 {
        (0..40).for_each(|skill| counted.invocation(&format!("skill {skill}"), true));
        assert!(queue.tick(number));
        let before = changed_rows(&mut queue);
        queue.advance("r", at(number));
        most = most.max(changed_rows(&mut queue) - before);
    }
    // Those of 64 ticks, twice that of the base, the position and the time of the base.
    assert!(most <= 64 + 4, "{most}");
}

#[test]
fn a_base_of_an_earlier_version_is_read_and_a_new_receiver_gets_its_values() {
    let (_folder, path) = folder();
    let counted = Counted::new();
    let mut queue = Queue::at_path(&path, &counted, settings(&["r"]));
    counted.invocation("a", true);
    queue.tick(1);
    queue.advance("r", at(1));
    let shown = counted.scrape(&Registry::new());
    let values = queue.answer(queue.handle.clone().open(&ReceiverName::new("r"))).unwrap().1;
    drop(queue);
    let connection = Connection::open(&path).unwrap();
    for (id, value) in values {
        let row = (id.index(), value.to_bits() as i64);
        connection.execute("INSERT INTO push_base VALUES (?, ?)", row).unwrap();
    }
    connection.execute_batch("DELETE FROM push_tick").unwrap();
    connection.execute("UPDATE push_identity SET base_millis = ?", [at(1).millis()]).unwrap();
    drop(connection);
    let mut queue = Queue::at_path(&path, &counted, settings(&["r"]));
    assert_eq!(queue.states("r"), [(at(1), shown.clone())]);
    queue.configure(settings(&["r", "new"]));
    assert_eq!(queue.states("new").last(), Some(&(at(1), shown)));
    counted.invocation("a", true);
    assert!(queue.tick(2));
    for receiver in ["r", "new"] {
        assert_eq!(queue.states(receiver).last(), Some(&(at(2), counted.scrape(&Registry::new()))), "{receiver}");
    }
}

#[test]
fn a_full_queue_is_thinned_behind_the_base_of_which_no_value_is_lost() {
    let counted = Counted::new();
    let mut queue = queue(&counted);
    (0..20).for_each(|skill| counted.invocation(&format!("skill {skill}"), true));
    queue.tick(1);
    queue.advance("r", at(1));
    // A new receiver has the base before it.
    queue.configure(QueueSettings { bytes_max: 100, ..settings(&["r", "new"]) });
    for number in 2..30 {
        counted.invocation("skill 1", true);
        assert!(queue.tick(number));
    }
    assert!(queue.handle.thinned_ticks() > 0);
    let shown = counted.scrape(&Registry::new());
    for receiver in ["r", "new"] {
        assert_eq!(queue.states(receiver).last(), Some(&(at(29), shown.clone())), "{receiver}");
    }
}

#[test]
fn an_answer_does_not_wait_for_the_disk_and_every_other_commit_does() {
    /// As SQLite numbers them.
    const NORMAL: i64 = 1;
    const FULL: i64 = 2;
    let (_folder, path) = folder();
    let counted = Counted::new();
    let mut queue = Queue::at_path(&path, &counted, settings(&["r"]));
    let synchronous = |queue: &mut Queue| -> i64 {
        queue.store.read_queue(|connection| connection.query_row("PRAGMA synchronous", [], |row| row.get(0))).unwrap()
    };
    for number in 1..4 {
        assert!(queue.tick(number));
        assert_eq!(synchronous(&mut queue), FULL, "a tick");
        queue.advance("r", at(number));
        assert_eq!(synchronous(&mut queue), NORMAL, "an answer");
        if number == 2 {
            queue.store.commit(&Changes::default()).unwrap();
            assert_eq!(synchronous(&mut queue), FULL, "a commit of the ledger");
        }
    }
    fs::remove_file(&path).unwrap();
    queue.store.rewrite(&Changes::default()).unwrap();
    assert_eq!(synchronous(&mut queue), FULL, "a new file");
    assert!(queue.tick(4));
    assert_eq!(synchronous(&mut queue), FULL);
}

#[test]
fn a_state_file_that_is_written_again_has_the_queue() {
    let (_folder, path) = folder();
    let counted = Counted::new();
    let mut queue = Queue::at_path(&path, &counted, settings(&["r"]));
    counted.invocation("a", true);
    queue.tick(1);
    queue.tick(2);
    queue.advance("r", at(1));
    let before = (look(&mut queue), queue.states("r"));
    fs::remove_file(&path).unwrap();
    assert!(!queue.store.is_in_place());
    queue.store.rewrite(&Changes::default()).unwrap();
    assert_eq!((look(&mut queue), queue.states("r")), before);
    drop(queue);
    assert_eq!(Queue::at_path(&path, &counted, settings(&["r"])).states("r"), before.1);
}

#[test]
fn a_queue_with_impossible_rows_is_emptied_and_the_next_tick_holds_every_value() {
    for damage in [
        "UPDATE push_tick SET samples = x'0003'",
        "UPDATE push_tick SET samples = x'ff7f02'",
        "UPDATE push_series SET id = id + 1000 WHERE id > 3",
        "UPDATE push_series SET labels = '['",
        "INSERT INTO push_base VALUES (4000, 0)",
    ] {
        let (_folder, path) = folder();
        let counted = Counted::new();
        let mut queue = Queue::at_path(&path, &counted, settings(&["r"]));
        counted.invocation("a", true);
        queue.tick(1);
        drop(queue);
        Connection::open(&path).unwrap().execute_batch(damage).unwrap();
        let mut queue = Queue::at_path(&path, &counted, settings(&["r"]));
        assert!(queue.tick(2), "{damage}");
        assert_eq!(queue.states("r").last().unwrap().1, counted.scrape(&Registry::new()), "{damage}");
    }
}

#[test]
fn a_queue_with_an_impossible_name_of_a_receiver_is_configured_again_and_the_next_tick_holds_every_value() {
    let (_folder, path) = folder();
    let counted = Counted::new();
    let mut queue = Queue::at_path(&path, &counted, settings(&["r"]));
    counted.invocation("a", true);
    queue.tick(1);
    drop(queue);
    let damage = "UPDATE push_receiver SET name = CAST(x'ff' AS TEXT)";
    Connection::open(&path).unwrap().execute_batch(damage).unwrap();
    let mut queue = Queue::unidentified(Store::open(&path, |_| Ok(())).unwrap().store, &counted);
    queue.identify(here(), labels(&["a"]));
    let handle = queue.handle.clone();
    let configured = queue.answer(handle.configure(settings(&["r"])));
    assert!(matches!(configured, Err(QueueError::Emptied)), "{configured:?}");
    queue.configure(settings(&["r"]));
    assert!(queue.tick(2));
    assert_eq!(queue.states("r").last().unwrap().1, counted.scrape(&Registry::new()));
}

#[test]
fn the_sender_of_a_receiver_that_was_added_to_an_emptied_queue_ends_when_it_is_finished() {
    let counted = Counted::new();
    let mut queue = Queue::open(MemoryState::new().open().0, &counted, settings(&["r"]));
    queue.tick(1);
    queue.advance("r", at(1));
    queue.store.write_queue(|connection| connection.execute_batch("UPDATE push_tick SET samples = x'0003'")).unwrap();
    let handle = queue.handle.clone();
    let read = queue.answer(handle.open(&ReceiverName::new("r")));
    assert!(matches!(read, Err(QueueError::Emptied)), "{read:?}");
    let added = push_senders::receiver("http://127.0.0.1:9/");
    queue.configure(settings(&["r", added.name.as_str()]));
    let (listener, _report) = push_senders::Recorder::new();
    let sender = Sender::new(added, handle, ClockGuard::default(), listener, push_senders::timing());
    let finish = CancellationToken::new();
    finish.cancel();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let _context = runtime.enter();
    queue.answer(patiently("the end of a sender without ticks", sender.run(finish, CancellationToken::new())));
}

#[test]
fn a_queue_that_becomes_corrupt_while_it_is_used_is_emptied_at_once_and_continues_behind_its_newest_tick() {
    for damage in ["UPDATE push_tick SET samples = x'0003'", "UPDATE push_tick SET samples = x'ff7f02'"] {
        let counted = Counted::new();
        let mut queue = Queue::open(MemoryState::new().open().0, &counted, settings(&["r", "slow"]));
        for number in 1..5 {
            counted.invocation("a", true);
            queue.tick(number);
        }
        queue.advance("r", at(2));
        queue.store.write_queue(|connection| connection.execute_batch(damage)).unwrap();
        let (handle, receiver) = (queue.handle.clone(), ReceiverName::new("r"));
        let before = *handle.watch().borrow();
        let read = queue.answer(async {
            let (position, _) = handle.open(&receiver).await?;
            handle.backlog(&receiver, position, usize::MAX, SeriesId::FIRST).await
        });
        assert!(matches!(read, Err(QueueError::Emptied)), "{damage}: {read:?}");
        let now = *handle.watch().borrow();
        assert!(now.generation != before.generation && now.time == before.time, "{damage}: {now:?}");
        // A receiver may have the newest tick already.
        for number in [-5, 3, 4] {
            assert!(!queue.tick(number), "{damage}: {number} is before the newest tick");
        }
        counted.invocation("a", true);
        assert!(queue.tick(5), "{damage}");
        for receiver in ["r", "slow"] {
            assert_eq!(queue.states(receiver)[1..], [(at(5), counted.scrape(&Registry::new()))], "{damage}");
        }
        assert_eq!(zeros(&mut queue), BTreeMap::new(), "a receiver may have samples of any series");
        counted.invocation("new", true);
        assert!(queue.tick(6), "{damage}");
        assert_eq!(zeros(&mut queue).get(&invocations("new", "true")), Some(&at(5)));
    }
}

#[test]
fn a_queue_whose_owner_is_not_readable_gets_a_new_identity_and_continues_behind_its_newest_tick() {
    let (_folder, path) = folder();
    let counted = Counted::new();
    let mut queue = Queue::at_path(&path, &counted, settings(&["r"]));
    counted.invocation("a", true);
    queue.tick(1);
    queue.tick(2);
    let identity = look(&mut queue).unwrap().identity;
    drop(queue);
    Connection::open(&path).unwrap().execute_batch("UPDATE push_identity SET label_sets = '['").unwrap();
    let mut queue = Queue::at_path(&path, &counted, settings(&["r"]));
    assert_ne!(look(&mut queue).unwrap().identity, identity);
    assert!(!queue.tick(2));
    assert!(queue.tick(3));
    assert_eq!(queue.states("r")[1..], [(at(3), counted.scrape(&Registry::new()))]);
}

#[test]
fn the_weekend_of_an_idle_bridge_takes_a_few_hundred_kilobytes() {
    const TICKS: i64 = 65 * 60;
    let counted = Counted::new();
    let mut queue = queue(&counted);
    for skill in 0..50 {
        counted.invocation(&format!("skill-{skill}"), true);
    }
    let second = |number: i64| at(number).millis() as f64 / 1e3;
    for number in 1..=TICKS {
        // What an idle bridge with one feed moves: snapshots arrive, and the process lives.
        let moving = |metric: &str, kind, value| own(metric, &[("feed", "a")], kind, value);
        let samples = vec![
            moving("feed_last_message_timestamp_seconds", SeriesKind::Gauge, second(number) + 0.123_456),
            moving("feed_messages_total", SeriesKind::Counter, number as f64 * 60.0),
            moving("process_cpu_seconds_total", SeriesKind::Counter, number as f64 * 0.012_345),
            moving("process_resident_memory_bytes", SeriesKind::Gauge, (12_000_000 + number % 5 * 4096) as f64),
            moving("state_commits_total", SeriesKind::Counter, number as f64),
        ];
        let listed = (0..10).map(|skill| {
            own("listed", &[("skill_name", &format!("skill-{skill}"))], SeriesKind::Gauge, second(number) + 0.123_456)
        });
        queue.try_tick(at(number), samples.into_iter().chain(listed).collect(), TickKind::Regular).unwrap();
    }
    let size = look(&mut queue).unwrap().size;
    println!("{size:?}");
    assert_eq!(size.ticks, TICKS as u64);
    assert!(size.bytes < 700_000, "{size:?}");
}

/// What happens to a queue.
#[derive(Debug, Clone)]
enum Step {
    /// So many invocations of a skill, then a tick.
    Tick { skill: u8, times: u8 },
    /// A receiver answers for this part of its backlog.
    Advance { receiver: bool, part: u8 },
    /// The limit of the queue becomes this.
    Limit(u16),
    /// The process is started again.
    Restart,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (0_u8..6, 0_u8..4).prop_map(|(skill, times)| Step::Tick { skill, times }),
        1 => (any::<bool>(), any::<u8>()).prop_map(|(receiver, part)| Step::Advance { receiver, part }),
        1 => (0_u16..600).prop_map(Step::Limit),
        1 => Just(Step::Restart),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: ProptestConfig::default().cases / 8, ..ProptestConfig::default() })]

    #[test]
    fn whatever_is_thinned_or_folded_each_tick_that_is_left_has_every_value_of_its_time(
        steps in prop::collection::vec(step(), 1..40)
    ) {
        let (counted, state) = (Counted::new(), MemoryState::new());
        let mut now = settings(&["r", "s"]);
        let mut queue = Queue::open(state.open().0, &counted, now.clone());
        let mut scrapes = BTreeMap::from([(TickTime::NEVER, Values::new())]);
        let mut number = 0;
        for step in steps.into_iter().chain([Step::Restart]) {
            let is_tick = matches!(step, Step::Tick { .. });
            match step {
                Step::Tick { skill, times } => {
                    number += 1;
                    (0..times).for_each(|_| counted.invocation(&format!("s{skill}"), true));
                    prop_assert!(queue.tick(number));
                    scrapes.insert(at(number), counted.scrape(&Registry::new()));
                }
                Step::Advance { receiver, part } => {
                    let receiver = if receiver { "r" } else { "s" };
                    let ticks = queue.ticks(receiver);
                    if let Some((time, _)) = ticks.get(usize::from(part) * ticks.len() / 256) {
                        queue.advance(receiver, *time);
                    }
                }
                Step::Limit(bytes_max) => {
                    now = QueueSettings { bytes_max: bytes_max.into(), ..now };
                    queue.configure(now.clone());
                }
                Step::Restart => {
                    drop(queue);
                    queue = Queue::open(state.open().0, &counted, now.clone());
                }
            }
            if is_tick {
                let size = look(&mut queue).unwrap().size;
                prop_assert!(size.bytes <= now.bytes_max || size.ticks <= 1);
                continue;
            }
            for receiver in ["r", "s"] {
                let states = queue.states(receiver);
                // The position's own tick may have been merged into a later one, which is to come.
                for (time, values) in &states[1..] {
                    prop_assert_eq!(values, &scrapes[time]);
                }
                let newest = states.last().map(|(time, _)| *time);
                prop_assert_eq!(newest, Some(at(number)).filter(|_| number > 0).or(Some(TickTime::NEVER)));
            }
        }
    }
}

#[test]
fn a_full_queue_is_thinned_where_it_is_oldest() {
    let counted = Counted::new();
    let state = MemoryState::new();
    let mut queue = Queue::open(state.open().0, &counted, QueueSettings { bytes_max: 1_500, ..settings(&["r"]) });
    for number in 1..200 {
        counted.invocation("a", true);
        assert!(queue.tick(number));
    }
    let times: Vec<_> = queue.ticks("r").iter().map(|(time, _)| time.millis()).collect();
    let gaps: Vec<_> = times.windows(2).map(|pair| (pair[1] - pair[0]) / INTERVAL.as_millis() as i64).collect();
    assert!(gaps.len() > 10, "{gaps:?}");
    assert!(gaps[gaps.len() / 2 + 2..].iter().all(|gap| *gap == 1), "the newest half has every tick: {gaps:?}");
    assert!(gaps[0] > 1, "{gaps:?}");
    assert_eq!(queue.handle.thinned_ticks() as usize, 199 - times.len());
}

#[test]
fn state_show_prints_the_identity_the_queue_and_each_position() {
    let (_folder, path) = folder();
    let counted = Counted::new();
    let show = || {
        let ended = Program::start(["state", "show", "--state.path", path.to_str().unwrap()]).end();
        assert_eq!(ended.code, Some(0), "{}", ended.stderr);
        ended.stdout
    };
    drop(Store::open(&path, |_| Ok(())).unwrap());
    assert!(!show().contains("remote write"), "it was never pushed");
    let mut queue = Queue::at_path(&path, &counted, settings(&["r", "slow"]));
    counted.invocation("a", true);
    queue.tick(0);
    queue.tick(1);
    queue.advance("r", at(1));
    queue.advance("slow", at(0));
    let summary = look(&mut queue).unwrap();
    let bytes = summary.size.bytes;
    let expected = format!(
        "remote write\n  \
         identity                 {}\n  \
         labels                   a\n  \
         series                   15\n  \
         newest tick              2023-11-14T22:14:20Z\n  \
         queued                   1 tick, {bytes} bytes since 2023-11-14T22:14:20Z\n  \
         receiver                 r\n    \
         answered for           2023-11-14T22:14:20Z\n    \
         queued                 0 ticks, 0 bytes\n  \
         receiver                 slow\n    \
         answered for           2023-11-14T22:13:20Z\n    \
         queued                 1 tick, {bytes} bytes since 2023-11-14T22:14:20Z\n",
        summary.identity
    );
    let shown = show();
    assert!(shown.ends_with(&expected), "{shown}\n{expected}");
}
