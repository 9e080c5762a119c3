//! Whatever a receiver answers: its last value of each series is the newest that was queued, and no counter falls there.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use rusqlite::Connection;
use session_buddy_bridge::internals::ledger::Limits;
use session_buddy_bridge::internals::push::{
    Grid, HostHash, PushReceiver, PushedSeries, QueueHandle, QueueSettings, ReceiverName, SendTiming, TickKind,
    TickOutcome, TickTime, Ticker, WallClock,
};
use session_buddy_bridge::internals::shared_ledger::SharedLedger;
use session_buddy_bridge::internals::store::Store;
use session_buddy_bridge::settings::HttpCredentials;
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::support::patiently;
use crate::support::push_senders::{
    INTERVAL_MILLIS, OTHERS, Queue, Recorder, Report, Running, SetClock, check, http_date, receiver, samples,
    store_with_date, timing, unix_millis,
};
use crate::support::scripted_receiver::{Action, Received, ScriptedReceiver, Stored};

/// Sends `ticks` of `series` counters to a receiver with this rule, and returns what was reported and what is stored. Each
/// sample arrives unless it is reported as refused.
async fn outcome(
    ticks: i64,
    series: usize,
    rule: impl FnMut(&Received, &Stored) -> Action + Send + 'static,
) -> (Report, Stored, Vec<Received>) {
    let server = ScriptedReceiver::start(rule).await;
    let receiver = receiver(&server.url());
    let mut queue = Queue::new(&[&receiver], ticks).await;
    queue.ticks(ticks, series).await;
    let running = Running::start(&receiver, &queue, timing());
    server.until("the newest tick", |stored| queue.has_arrived(stored)).await;
    let report = running.finish().await;
    let stored = server.stored();
    check(&stored);
    (report, stored, server.requests())
}

/// Returns whether a request has samples of the metric `name`.
fn has_series(request: &Received, name: &str) -> bool {
    request.series.iter().any(|(labels, _)| labels.iter().any(|(_, value)| value == name))
}

#[tokio::test]
async fn a_request_is_what_receivers_require() {
    let (report, stored, requests) = outcome(30, 40, |_, _| Action::store()).await;
    assert_eq!((samples(&stored), report.accepted), (30 * (40 + OTHERS), 30 * (40 + OTHERS as u64)));
    assert!(requests[0].is_empty(), "the first request shows whether the credentials are right, and stores nothing");
    assert_eq!(requests.len(), 2, "all of it fits one request");
    for request in &requests {
        for (name, value) in [
            ("content-type", "application/x-protobuf"),
            ("content-encoding", "snappy"),
            ("x-prometheus-remote-write-version", "0.1.0"),
        ] {
            assert_eq!(request.headers[name], value);
        }
        assert!(request.headers["user-agent"].starts_with("session-buddy-bridge/"), "{:?}", request.headers);
        assert_eq!(request.target, "/api/v1/write");
    }
    assert_eq!(report.refused.values().sum::<u64>(), 0);
}

/// Each request has no more samples and bytes than the specification says, and each series of it once, with its times ascending.
fn check_sizes(requests: &[Received]) {
    for request in requests {
        assert!(request.samples() <= 10_000 && request.body_bytes <= 1024 * 1024, "{} samples", request.samples());
        let series: BTreeSet<_> = request.series.iter().map(|(labels, _)| labels).collect();
        assert_eq!(series.len(), request.series.len(), "a series twice");
        for (labels, samples) in &request.series {
            assert!(samples.is_sorted_by(|one, other| one.0 < other.0), "{labels:?}: {samples:?}");
        }
    }
}

#[tokio::test]
async fn requests_have_at_most_10_000_samples_oldest_first_and_grouped_by_series() {
    let (_, stored, requests) = outcome(600, 40, |_, _| Action::store()).await;
    assert_eq!(samples(&stored), 600 * (40 + OTHERS));
    check_sizes(&requests);
    // The first is empty; each of the others has as many ticks as fit.
    let full = 10_000 / (40 + OTHERS);
    let ticks: Vec<_> = requests[1..].iter().map(|request| request.samples() / (40 + OTHERS)).collect();
    assert_eq!(ticks, [full, full, 600 - 2 * full]);
    let times = |request: &Received| {
        let times = request.series.iter().flat_map(|(_, samples)| samples).map(|(time, _)| *time);
        (times.clone().min().unwrap(), times.max().unwrap())
    };
    assert!(requests[1..].windows(2).all(|pair| times(&pair[0]).1 < times(&pair[1]).0), "older ticks come later");
}

#[tokio::test]
async fn a_tick_of_more_series_or_bytes_than_a_request_may_have_arrives_in_several() {
    let mut rng = fastrand::Rng::with_seed(1);
    // The names of the second are random, so that they do not compress.
    let long = |rng: &mut fastrand::Rng| -> String { (0..250).map(|_| rng.alphabetic()).collect() };
    for names in [
        (0..10_050).map(|index| format!("counter_{index}_total")).collect::<Vec<_>>(),
        (0..5_000).map(|_| long(&mut rng)).collect(),
    ] {
        let server = ScriptedReceiver::start(|_, _| Action::store()).await;
        let receiver = receiver(&server.url());
        let mut queue = Queue::new(&[&receiver], 1).await;
        let series = names.len() + OTHERS;
        queue.tick(names.into_iter().map(|name| (name, 1.0))).await;
        let report = Running::start(&receiver, &queue, timing()).finish().await;
        assert_eq!(report.accepted, series as u64);
        let requests = server.requests();
        check_sizes(&requests);
        assert_eq!(requests.len(), 3, "an empty one, and two");
        assert_eq!(server.stored().len(), series);
    }
}

#[tokio::test]
async fn a_first_tick_of_many_series_before_many_empty_ones_arrives_in_several_windows() {
    const SERIES: usize = 3_000;
    let server = ScriptedReceiver::start(|_, _| Action::store()).await;
    let receiver = receiver(&server.url());
    let mut queue = Queue::new(&[&receiver], 200).await;
    queue.ticks(1, SERIES).await;
    for _ in 1..200 {
        queue.tick([]).await;
    }
    let report = Running::start(&receiver, &queue, timing()).finish().await;
    assert_eq!(report.queue_ticks, 0);
    assert!(queue.has_arrived(&server.stored()));
    assert_eq!(samples(&server.stored()), 200 * (SERIES + OTHERS));
}

#[tokio::test]
async fn a_receiver_of_the_five_families_gets_nothing_else() {
    let (all, five) =
        (ScriptedReceiver::start(|_, _| Action::store()).await, ScriptedReceiver::start(|_, _| Action::store()).await);
    let of_all = receiver(&all.url());
    let of_five = PushReceiver { series: PushedSeries::Five, ..receiver(&five.url()) };
    let mut queue = Queue::new(&[&of_all, &of_five], 3).await;
    queue.ticks(3, 4).await;
    for receiver in [&of_all, &of_five] {
        Running::start(receiver, &queue, timing()).finish().await;
    }
    assert_eq!(samples(&all.stored()), 3 * (4 + OTHERS));
    let stored = five.stored();
    let names: Vec<_> =
        stored.keys().flatten().filter(|(name, _)| name == "__name__").map(|(_, name)| &**name).collect();
    assert_eq!((names, samples(&stored)), (vec!["active_sessions_total"], 3));
}

#[tokio::test]
async fn what_was_stored_before_a_500_or_a_lost_connection_is_sent_again_and_counted_once() {
    for fault in [Action::status("500 Internal Server Error", "", "x").stored(), Action::cut().stored(), Action::cut()]
    {
        let mut faults = 3;
        let (report, stored, requests) = outcome(20, 5, move |request, _| {
            if request.is_empty() || faults == 0 {
                return Action::store();
            }
            faults -= 1;
            fault.clone()
        })
        .await;
        assert_eq!(samples(&stored), 20 * (5 + OTHERS));
        let sent: Vec<_> = requests.iter().filter(|request| !request.is_empty()).collect();
        assert_eq!(sent.len(), 4);
        assert!(sent.iter().all(|request| request.series == sent[0].series), "the same samples again");
        // A connection that was used before is replaced without a word: the receiver may have closed it at that moment.
        assert!((1..=3).contains(&report.retries.len()), "{:?}", report.retries);
        assert_eq!(report.refused.values().sum::<u64>(), 0);
    }
}

#[tokio::test]
async fn a_400_after_everything_was_stored_costs_nothing_of_the_newest_tick() {
    for fault in [Action::cut().stored(), Action::status("500 Internal Server Error", "", "x").stored()] {
        let mut is_first = true;
        let (report, stored, requests) = outcome(64, 5, move |request, stored| {
            if request.is_empty() || std::mem::take(&mut is_first) {
                return if request.is_empty() { Action::store() } else { fault.clone() };
            }
            let newest = |labels| stored.get(labels).and_then(|samples: &BTreeMap<i64, u64>| samples.last_key_value());
            let is_late = request.series.iter().any(|(labels, samples)| {
                newest(labels).is_some_and(|(time, _)| samples.iter().any(|sample| sample.0 < *time))
            });
            if is_late { Action::status("400 Bad Request", "", "out of order sample") } else { Action::store() }
        })
        .await;
        assert_eq!(samples(&stored), 64 * (5 + OTHERS));
        let refused = [("out_of_order", 63 * (5 + OTHERS as u64))].into();
        assert_eq!(report.refused, refused, "the receiver refused what it had");
        assert!(requests.len() < 20, "{} requests", requests.len());
    }
}

#[tokio::test]
async fn a_series_begins_at_zero_where_the_ticks_before_it_were_stored_without_an_answer() {
    // As receivers without a window that refuse also what they have.
    let server = ScriptedReceiver::start(|request, stored| {
        let newest = |labels| stored.get(labels).and_then(|samples: &BTreeMap<i64, u64>| samples.last_key_value());
        let is_late = request.series.iter().any(|(labels, samples)| {
            newest(labels).is_some_and(|(time, _)| samples.iter().any(|sample| sample.0 <= *time))
        });
        if is_late { Action::status("400 Bad Request", "", "out of order sample") } else { Action::store() }
    })
    .await;
    let receiver = receiver(&server.url());
    let mut queue = Queue::new(&[&receiver], 4).await;
    // The position of the other one stays at the beginning, as if no answer of the first three ticks had arrived.
    let other = PushReceiver { name: ReceiverName::new("other"), ..receiver.clone() };
    let interval = Duration::from_millis(INTERVAL_MILLIS as u64);
    let receivers = [receiver.name.clone(), other.name.clone()].into();
    queue.handle.configure(QueueSettings { receivers, interval, bytes_max: u64::MAX >> 1 }).await.unwrap();
    queue.ticks(3, 5).await;
    let zero_at = queue.newest_time();
    Running::start(&receiver, &queue, timing()).finish().await;
    queue.tick([("late_total".to_owned(), 1.0)]).await;
    let report = Running::start(&other, &queue, timing()).finish().await;
    let stored = server.stored();
    let is_late = |labels: &[(String, String)]| labels.iter().any(|(_, value)| value == "late_total");
    let (_, late) = stored.iter().find(|(labels, _)| is_late(labels)).expect("its newest value");
    let late: Vec<_> = late.iter().map(|(time, bits)| (*time, f64::from_bits(*bits))).collect();
    assert_eq!(late, [(zero_at, 0.0), (queue.newest_time(), 1.0)]);
    assert_eq!(report.refused, [("out_of_order", 3 * (5 + OTHERS as u64))].into(), "the receiver refused what it had");
    assert!(queue.has_arrived(&stored) && report.requests < 20, "{report:?}");
}

#[tokio::test]
async fn a_bound_in_time_is_found_and_all_behind_it_arrives() {
    // As Prometheus without a window: nothing older than an hour, and nothing of the request if one sample is refused.
    let bound = unix_millis() - 60 * INTERVAL_MILLIS;
    let (report, stored, requests) = outcome(600, 20, move |request, _| {
        let is_old = request.series.iter().flat_map(|(_, samples)| samples).any(|(time, _)| *time < bound);
        if is_old { Action::status("400 Bad Request", "", "out of bounds") } else { Action::store() }
    })
    .await;
    let refused = report.refused.values().sum::<u64>();
    assert_eq!(samples(&stored) as u64 + refused, 600 * (20 + OTHERS as u64));
    assert!(
        (60 * (20 + OTHERS)..=61 * (20 + OTHERS)).contains(&samples(&stored)),
        "{} samples are behind the bound",
        samples(&stored)
    );
    assert!(requests.len() < 40, "{} requests", requests.len());
}

/// As Prometheus without a window answers, while the machine is offline for ten hours, twice in a session.
#[tokio::test]
async fn a_bound_in_time_is_found_once_in_a_session_and_checked_afterwards() {
    const TICKS: i64 = 600;
    let (is_down, passed_millis) = (Arc::new(AtomicBool::new(true)), Arc::new(AtomicI64::new(0)));
    let now = {
        let passed_millis = Arc::clone(&passed_millis);
        move || unix_millis() + passed_millis.load(Ordering::Relaxed)
    };
    let server = ScriptedReceiver::start({
        let (is_down, now) = (Arc::clone(&is_down), now.clone());
        move |request, _| {
            let bound = now() - 60 * INTERVAL_MILLIS;
            let is_old = request.series.iter().flat_map(|(_, samples)| samples).any(|(time, _)| *time < bound);
            match is_down.load(Ordering::Relaxed) {
                true => Action::status("503 Service Unavailable", "", ""),
                false if is_old => Action::status("400 Bad Request", "", "out of bounds"),
                false => Action::store(),
            }
        }
    })
    .await;
    let receiver = receiver(&server.url());
    let mut queue = Queue::new(&[&receiver], TICKS).await;
    let wall_clock = WallClock::new(move || now() * 1_000);
    let running = Running::start(&receiver, &queue, SendTiming { wall_clock, ..timing() });
    let mut requests = Vec::new();
    for outage in 0..2 {
        is_down.store(true, Ordering::Relaxed);
        let (retries, stored) = (running.report.borrow().retries.len(), samples(&server.stored()));
        queue.ticks(1, 20).await;
        // The first window is the tick with which the outage begins.
        running.until("a retry", |report| report.retries.len() > retries).await;
        queue.ticks(TICKS - 1, 20).await;
        let before = server.requests().len();
        is_down.store(false, Ordering::Relaxed);
        server.until("the newest tick", |stored| queue.has_arrived(stored)).await;
        running.until_answered(&queue).await;
        let behind = samples(&server.stored()) - stored;
        assert!((60 * (20 + OTHERS)..=62 * (20 + OTHERS)).contains(&behind), "outage {outage}: {behind} samples");
        let sent = server.requests().split_off(before).into_iter().filter(|request| !request.is_empty());
        requests.push(sent.count());
        passed_millis.fetch_add(TICKS * INTERVAL_MILLIS, Ordering::Relaxed);
    }
    // One tick that is too old takes 3 requests and the search up to 14; what is known takes 2 and 4, a tick more or less.
    assert!(requests[0] <= 20 && requests[1] <= 12 && requests[1] < requests[0], "{requests:?} requests");
    running.finish().await;
}

#[tokio::test]
async fn a_series_that_is_refused_alone_costs_the_others_nothing() {
    let (report, stored, _) = outcome(50, 10, |request, _| {
        match has_series(request, "counter_3_total") && request.series.len() > 1 {
            true => Action::status("400 Bad Request", "", "label value too long"),
            // Alone it is accepted: what is tested is that the others do not suffer from it.
            false => Action::store(),
        }
    })
    .await;
    assert_eq!(samples(&stored) as u64 + report.refused.values().sum::<u64>(), 50 * (10 + OTHERS as u64));
    assert!(samples(&stored) >= 49 * (10 + OTHERS), "{} samples", samples(&stored));
}

/// A counter of each number below `series`, with this value.
fn counters(series: usize, value: f64) -> impl Iterator<Item = (String, f64)> {
    (0..series).map(move |index| (format!("counter_{index}_total"), value))
}

/// Whether a request has a counter whose number `is_bad` selects.
fn has_counter(request: &Received, is_bad: impl Fn(usize) -> bool) -> bool {
    let number = |name: &str| name.strip_prefix("counter_")?.strip_suffix("_total")?.parse::<usize>().ok();
    let numbers = request.series.iter().flat_map(|(labels, _)| labels).filter_map(|(_, value)| number(value));
    numbers.into_iter().any(is_bad)
}

#[tokio::test]
async fn a_series_that_was_refused_is_tried_once_more_with_the_last_tick() {
    const SERIES: usize = 6;
    let is_mended = Arc::new(AtomicBool::new(false));
    let server = ScriptedReceiver::start({
        let is_mended = Arc::clone(&is_mended);
        move |request, _| match !is_mended.load(Ordering::Relaxed) && has_counter(request, |number| number == 3) {
            true => Action::status("400 Bad Request", "", "label value too long"),
            false => Action::store(),
        }
    })
    .await;
    let receiver = receiver(&server.url());
    let mut queue = Queue::new(&[&receiver], 4).await;
    queue.ticks(2, SERIES).await;
    let running = Running::start(&receiver, &queue, timing());
    running.until_answered(&queue).await;
    is_mended.store(true, Ordering::Relaxed);
    let before = server.requests().len();
    queue.tick(counters(SERIES, 1_000.0)).await;
    running.until("the third tick", |report| report.queue_ticks == 0 && report.refused["other"] >= 3).await;
    assert_eq!(server.requests().len() - before, 1, "it is left out for ten minutes");
    queue.last_tick(counters(SERIES, 2_000.0)).await;
    running.finish().await;
    assert!(queue.has_arrived(&server.stored()), "{:?}", server.stored());
}

#[tokio::test]
async fn many_refused_series_are_retried_a_few_at_a_time_and_all_arrive_once_they_are_accepted() {
    const SERIES: usize = 90;
    const BAD: usize = 40;
    let is_mended = Arc::new(AtomicBool::new(false));
    let server = ScriptedReceiver::start({
        let is_mended = Arc::clone(&is_mended);
        move |request, _| match !is_mended.load(Ordering::Relaxed) && has_counter(request, |number| number < BAD) {
            true => Action::status("400 Bad Request", "", "label value too long"),
            false => Action::store(),
        }
    })
    .await;
    let receiver = receiver(&server.url());
    let mut queue = Queue::new(&[&receiver], 10).await;
    queue.tick(counters(SERIES, 1.0)).await;
    let timing = SendTiming { refused_series_pause: Duration::ZERO, ..timing() };
    let running = Running::start(&receiver, &queue, timing);
    for tick in 2..6 {
        running.until_answered(&queue).await;
        let (before, refused) = (server.requests().len(), running.report.borrow().refused["other"]);
        queue.tick(counters(SERIES, f64::from(tick))).await;
        running.until("the tick", |report| report.refused["other"] >= refused + BAD as u64).await;
        let requests = server.requests().len() - before;
        // Two of them without samples: after the first refusal, and at the end.
        assert!(
            (2..=1 + 16 + 2).contains(&requests),
            "{requests} requests for a tick of which {BAD} series are refused"
        );
    }
    is_mended.store(true, Ordering::Relaxed);
    for tick in 6..8 {
        queue.tick(counters(SERIES, f64::from(tick))).await;
        let newest = queue.newest_time();
        let has_newest = |stored: &Stored| stored.values().filter(|samples| samples.contains_key(&newest)).count();
        server.until("the others", |stored| has_newest(stored) >= SERIES - BAD + OTHERS).await;
        running.until_answered(&queue).await;
    }
    assert!(queue.has_arrived(&server.stored()), "they are not retried");
    running.finish().await;
}

#[tokio::test]
async fn a_receiver_that_refuses_hundreds_of_series_gets_all_others_within_a_few_ticks_and_requests() {
    const SERIES: usize = 600;
    let is_bad = |number: usize| number.is_multiple_of(3);
    for refused_series_pause in [timing().refused_series_pause, Duration::ZERO] {
        let timing = SendTiming { refused_series_pause, ..timing() };
        let server = ScriptedReceiver::start(move |request, _| match has_counter(request, is_bad) {
            true => Action::status("400 Bad Request", "", "per-user series limit exceeded"),
            false => Action::store(),
        })
        .await;
        let receiver = receiver(&server.url());
        let mut queue = Queue::new(&[&receiver], 10).await;
        let running = Running::start(&receiver, &queue, timing);
        for tick in 1..=5 {
            let before = server.requests().len();
            queue.tick(counters(SERIES, f64::from(tick))).await;
            let total = tick as u64 * (SERIES + OTHERS) as u64;
            running.until("the tick", |report| report.accepted + report.refused.values().sum::<u64>() == total).await;
            let requests = server.requests().len() - before;
            assert!(requests <= 64 * 2 * 10 + 20, "{requests} requests for tick {tick}");
        }
        running.finish().await;
        let (empty, others): (Vec<_>, Vec<_>) = server.requests().into_iter().partition(Received::is_empty);
        assert!(empty.len() * 2 <= others.len(), "{} of {} requests have no samples", empty.len(), others.len());
        let (stored, newest) = (server.stored(), queue.newest_time());
        check(&stored);
        let arrived = stored.values().filter(|samples| samples.contains_key(&newest)).count();
        assert_eq!(arrived, SERIES - SERIES / 3 + OTHERS);
    }
}

#[tokio::test]
async fn a_receiver_says_when_it_is_asked_again() {
    let date = |seconds: u64| {
        let at = http_date(SystemTime::now() + Duration::from_secs(seconds));
        format!("Retry-After: {at}\r\n")
    };
    for (header, asked) in [
        ("Retry-After: 1\r\n".to_owned(), 0.99..=1.0),
        (date(2), 0.0..=2.0),
        ("Retry-After: 86400\r\n".to_owned(), 3_600.0..=3_600.0),
        (date(86_400), 3_600.0..=3_600.0),
    ] {
        for status in ["429 Too Many Requests", "503 Service Unavailable"] {
            let mut is_first = true;
            let line = header.clone();
            let server =
                ScriptedReceiver::start(move |request, _| match !request.is_empty() && std::mem::take(&mut is_first) {
                    true => Action::status(status, &line, ""),
                    false => Action::store(),
                })
                .await;
            let receiver = receiver(&server.url());
            let mut queue = Queue::new(&[&receiver], 1).await;
            queue.ticks(1, 1).await;
            let running = Running::start(&receiver, &queue, timing());
            let report = running.until("a retry", |report| !report.retries.is_empty()).await;
            let waits = report.retries[0].1;
            assert!(asked.contains(&waits), "{header}: {waits} s");
            if *asked.end() < 3_600.0 {
                server.until("the tick", |stored| queue.has_arrived(stored)).await;
            }
        }
    }
}

#[tokio::test]
async fn a_limit_of_64_kib_loses_nothing() {
    let server = ScriptedReceiver::start(|request, _| match request.body_bytes > 64 * 1024 {
        true => Action::status("413 Content Too Large", "", ""),
        false => Action::store(),
    })
    .await;
    let receiver = receiver(&server.url());
    let mut queue = Queue::new(&[&receiver], 30).await;
    let mut rng = fastrand::Rng::with_seed(1);
    let mut value = 0.0;
    for _ in 0..30 {
        // Values that do not compress.
        let values: Vec<_> = (0..300)
            .map(|index| {
                (format!("counter_{index}_total"), {
                    value += rng.f64();
                    value
                })
            })
            .collect();
        queue.tick(values).await;
    }
    let running = Running::start(&receiver, &queue, timing());
    server.until("the newest tick", |stored| queue.has_arrived(stored)).await;
    let report = running.finish().await;
    check(&server.stored());
    assert_eq!((samples(&server.stored()), report.refused.values().sum::<u64>()), (30 * (300 + OTHERS), 0));
    let too_large = server.requests().iter().filter(|request| request.body_bytes > 64 * 1024).count();
    assert!((1..6).contains(&too_large), "{too_large} requests were too large");
}

/// A proxy with a low limit before it, and one series with a long label.
#[tokio::test]
async fn a_series_that_is_too_long_by_itself_does_not_shorten_the_requests_of_others() {
    const SERIES: usize = 40;
    let server = ScriptedReceiver::start(|request, _| match has_series(request, "counter_3_total") {
        true => Action::status("413 Content Too Large", "", ""),
        false => Action::store(),
    })
    .await;
    let receiver = receiver(&server.url());
    let mut queue = Queue::new(&[&receiver], 12).await;
    queue.ticks(2, SERIES).await;
    let running = Running::start(&receiver, &queue, timing());
    running.until_answered(&queue).await;
    let before = server.requests().len();
    let refused = running.report.borrow().refused["too_large"];
    queue.ticks(10, SERIES).await;
    let is_sent = |report: &Report| report.queue_ticks == 0 && report.refused["too_large"] == refused + 10;
    running.until("the ticks that follow", is_sent).await;
    assert_eq!(samples(&server.stored()), 12 * (SERIES - 1 + OTHERS), "only the long one is refused");
    let requests = server.requests().len() - before;
    assert!(requests <= 10, "{requests} requests for 10 ticks");
    running.finish().await;
}

#[tokio::test]
async fn an_answer_that_does_not_end_is_a_timeout_and_garbage_is_no_answer() {
    let slow = Action { pace: Some(Duration::from_secs(1)), ..Action::store() };
    let garbage = Action { answer: b"SSH-2.0-OpenSSH_9.2\r\n\r\n".to_vec(), cuts: true, ..Action::cut() };
    for (fault, problem) in [(slow, "no answer within 0.5 s"), (garbage, "no answer (")] {
        let mut is_first = true;
        let server =
            ScriptedReceiver::start(move |request, _| match !request.is_empty() && std::mem::take(&mut is_first) {
                true => fault.clone(),
                false => Action::store(),
            })
            .await;
        let receiver = PushReceiver { timeout: Duration::from_millis(500), ..receiver(&server.url()) };
        let mut queue = Queue::new(&[&receiver], 3).await;
        queue.ticks(3, 2).await;
        let running = Running::start(&receiver, &queue, timing());
        server.until("the newest tick", |stored| queue.has_arrived(stored)).await;
        let report = running.finish().await;
        assert!(report.retries[0].0.starts_with(problem), "{:?}", report.retries);
        assert_eq!(samples(&server.stored()), 3 * (2 + OTHERS));
    }
}

#[tokio::test]
async fn a_body_that_does_not_end_is_not_awaited() {
    let unfinished = b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\nhalf of it".to_vec();
    let mut is_first = true;
    let (report, stored, _) =
        outcome(2, 2, move |request, _| match !request.is_empty() && std::mem::take(&mut is_first) {
            true => Action { answer: unfinished.clone(), ..Action::store() },
            false => Action::store(),
        })
        .await;
    assert_eq!((samples(&stored), report.retries.len()), (2 * (2 + OTHERS), 0), "its status said that it is stored");
}

#[tokio::test]
async fn http_1_0_without_a_length_is_understood() {
    let answer = b"HTTP/1.0 200 OK\r\n\r\nstored".to_vec();
    let (report, stored, _) =
        outcome(5, 5, move |_, _| Action { answer: answer.clone(), cuts: true, ..Action::store() }).await;
    assert_eq!((samples(&stored), report.retries.len()), (5 * (5 + OTHERS), 0));
}

#[tokio::test]
async fn a_redirect_is_not_followed_and_nothing_is_dropped() {
    let elsewhere = ScriptedReceiver::start(|_, _| Action::store()).await;
    let location = format!("Location: {}?token=hidden\r\n", elsewhere.url());
    for status in ["301 Moved Permanently", "302 Found", "307 Temporary Redirect", "308 Permanent Redirect"] {
        let (mut redirects, location) = (3, location.clone());
        let (report, stored, _) = outcome(5, 5, move |_, _| {
            if redirects == 0 {
                return Action::store();
            }
            redirects -= 1;
            Action::status(status, &location, "")
        })
        .await;
        assert_eq!((samples(&stored), report.holds.len()), (5 * (5 + OTHERS), 3));
        assert!(report.holds[0].contains("which is not followed"), "{:?}", report.holds);
    }
    assert!(elsewhere.requests().is_empty());
}

/// As the login page of a hotel's network does.
#[tokio::test]
async fn a_web_page_that_answers_every_request_with_success_stores_nothing() {
    for media in ["text/html; charset=utf-8", "Text/HTML"] {
        let page = Action::status("200 OK", &format!("Content-Type: {media}\r\n"), "<h1>Log in</h1>");
        let mut number = 0;
        let (report, stored, _) = outcome(5, 5, move |_, _| {
            number += 1;
            // The second request has samples.
            if (2..=4).contains(&number) { page.clone() } else { Action::store() }
        })
        .await;
        assert_eq!((samples(&stored), report.accepted), (5 * (5 + OTHERS), 5 * (5 + OTHERS as u64)));
        assert_eq!(report.holds.len(), 3, "{:?}", report.holds);
        assert!(report.holds[0].starts_with("status 200: a web page answers"), "{:?}", report.holds);
    }
}

#[tokio::test]
async fn a_refused_token_is_read_again_from_its_file_and_never_shown() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("token");
    std::fs::write(&file, "an-old-token\n").unwrap();
    let server = ScriptedReceiver::start(|request, _| {
        let given = &request.headers["authorization"];
        match given == "Bearer the-new-token" {
            true => Action::store(),
            false => Action::status("401 Unauthorized", "", &format!("bad token {given}")),
        }
    })
    .await;
    let credentials = HttpCredentials { bearer_token_file: Some(file.clone()), ..HttpCredentials::default() };
    let receiver = PushReceiver { credentials, ..receiver(&server.url()) };
    let mut queue = Queue::new(&[&receiver], 4).await;
    queue.ticks(4, 3).await;
    let running = Running::start(&receiver, &queue, timing());
    let report = running.until("a refusal", |report| report.holds.len() > 2).await;
    assert!(report.holds[0].starts_with("status 401: check the credentials"), "{:?}", report.holds);
    assert!(report.holds.iter().all(|hold| !hold.contains("old-token")), "{:?}", report.holds);
    assert!(server.stored().is_empty());
    std::fs::write(&file, "the-new-token\n").unwrap();
    server.until("the newest tick", |stored| queue.has_arrived(stored)).await;
    assert_eq!(samples(&server.stored()), 4 * (3 + OTHERS));
}

#[tokio::test]
async fn the_queue_is_reported_while_the_receiver_is_down() {
    let server = ScriptedReceiver::start(|_, _| Action::status("503 Service Unavailable", "", "")).await;
    let receiver = receiver(&server.url());
    let mut queue = Queue::new(&[&receiver], 7).await;
    queue.ticks(3, 2).await;
    let hour = Duration::from_secs(3_600);
    let running = Running::start(&receiver, &queue, SendTiming { retry_min: hour, retry_max: hour, ..timing() });
    let before = running.until("a retry", |report| !report.retries.is_empty()).await.queue_ticks;
    queue.ticks(4, 2).await;
    running.until("a longer queue", |report| report.queue_ticks == before + 4).await;
}

/// The sender would wait for an hour; timers stand still while a machine sleeps, and its wall clock does not.
#[tokio::test]
async fn after_a_sleep_of_the_machine_a_tick_and_an_attempt_come_at_once() {
    const SLEEP_MILLIS: i64 = 8 * 3_600_000;
    let is_awake = Arc::new(AtomicBool::new(false));
    let server = ScriptedReceiver::start({
        let is_awake = Arc::clone(&is_awake);
        move |_, _| match is_awake.load(Ordering::Relaxed) {
            true => Action::store(),
            false => Action::status("503 Service Unavailable", "", ""),
        }
    })
    .await;
    let wall_clock = WallClock::new({
        let is_awake = Arc::clone(&is_awake);
        move || (unix_millis() + if is_awake.load(Ordering::Relaxed) { SLEEP_MILLIS } else { 0 }) * 1_000
    });
    let receiver = receiver(&server.url());
    let mut queue = Queue::new(&[&receiver], 1).await;
    queue.ticks(1, 2).await;
    let hour = Duration::from_secs(3_600);
    let timing = SendTiming { retry_min: hour, retry_max: hour, wall_clock: wall_clock.clone(), ..timing() };
    let running = Running::start(&receiver, &queue, timing);
    let identified = queue.handle.identify(HostHash::of(b"host", b"id"), ["x".to_owned()].into()).await.unwrap();
    let grid = Grid::new(Duration::from_millis(INTERVAL_MILLIS as u64), identified.identity().unwrap());
    let mut ticker = Ticker::new(queue.handle.clone(), grid, None, wall_clock, Vec::new());
    let _ticker = JoinSet::from_iter([async move { ticker.run().await }]);
    running.until("a retry", |report| !report.retries.is_empty()).await;
    let before = unix_millis();

    is_awake.store(true, Ordering::Relaxed);
    let is_of_the_morning = |time: &i64| *time > before + SLEEP_MILLIS - INTERVAL_MILLIS;
    server
        .until("the tick of the morning", |stored| {
            stored.values().any(|samples| samples.keys().next_back().is_some_and(is_of_the_morning))
        })
        .await;
    assert_eq!(running.report.borrow().retries.len(), 1, "nothing was tried meanwhile");
}

#[tokio::test]
async fn a_tick_reaches_a_receiver_that_has_everything_before_it_without_a_further_request_of_the_queue() {
    let server = ScriptedReceiver::start(|_, _| Action::store()).await;
    let receiver = receiver(&server.url());
    let ledger = Arc::new(SharedLedger::new(Limits::default()));
    let (handle, mut requests) = QueueHandle::persistent(Arc::clone(&ledger));
    let (mut store, ()) = Store::on(Connection::open_in_memory().unwrap(), "memory".as_ref(), |_| Ok(())).unwrap();
    let mut answer = async || loop {
        requests.answer(&mut store, &ledger, true);
        tokio::task::yield_now().await;
    };
    let started = async {
        let mut queue = Queue::of(handle, &[&receiver], 2).await;
        queue.ticks(1, 2).await;
        let running = Running::start(&receiver, &queue, timing());
        running.until_answered(&queue).await;
        (queue, running)
    };
    let (mut queue, running) = tokio::select! {
        started = started => started,
        () = answer() => unreachable!("it answers for ever"),
    };
    // Nobody answers any more once the tick is taken.
    tokio::select! {
        biased;
        () = queue.ticks(1, 3) => {}
        () = answer() => unreachable!("it answers for ever"),
    }
    server.until("the newest tick", |stored| queue.has_arrived(stored)).await;
    running.until_answered(&queue).await;
    check(&server.stored());
}

#[tokio::test]
async fn a_clock_that_was_set_back_behind_a_pushed_tick_is_reported_with_the_time_until_which_no_tick_is_queued() {
    let server = ScriptedReceiver::start(|_, _| Action::store()).await;
    let receiver = receiver(&server.url());
    let mut queue = Queue::new(&[&receiver], 1).await;
    queue.ticks(1, 2).await;
    Running::start(&receiver, &queue, timing()).finish().await;
    let pushed = queue.newest_time();
    let hours_back = Arc::new(AtomicI64::new(2));
    let wall_clock = WallClock::new({
        let hours_back = Arc::clone(&hours_back);
        move || (pushed - hours_back.load(Ordering::Relaxed) * 3_600_000) * 1_000
    });
    let identified = queue.handle.identify(HostHash::of(b"host", b"id"), ["x".to_owned()].into()).await.unwrap();
    let grid = Grid::new(Duration::from_millis(INTERVAL_MILLIS as u64), identified.identity().unwrap());
    let (listener, mut report) = Recorder::new();
    let mut ticker = Ticker::new(queue.handle.clone(), grid, None, wall_clock, vec![listener]);
    let _ticker = JoinSet::from_iter([async move { ticker.run().await }]);
    let stalled = patiently("the report", report.wait_for(|report| !report.stalls.is_empty())).await.unwrap().clone();
    let until = jiff::Timestamp::from_millisecond(pushed).unwrap().to_string();
    assert!(stalled.stalls[0].contains("clock was set back") && stalled.stalls[0].ends_with(&until), "{stalled:?}");
    // The clock is right again.
    hours_back.store(-1, Ordering::Relaxed);
    let mut newest = queue.handle.watch();
    patiently("a tick", newest.wait_for(|newest| newest.time.millis() > pushed)).await.unwrap();
}

#[tokio::test]
async fn series_that_began_while_the_clock_was_ahead_begin_at_zero_at_the_tick_before() {
    let server = ScriptedReceiver::start(|_, _| Action::store()).await;
    let receiver = receiver(&server.url());
    let mut queue = Queue::new(&[&receiver], 2).await;
    let first = queue.next_millis;
    queue.tick([("first_total".to_owned(), 1.0)]).await;
    queue.next_millis += 2 * 3_600_000;
    queue.tick([("second_total".to_owned(), 1.0)]).await;
    queue.tick([("third_total".to_owned(), 1.0)]).await;
    // The clock is set back: what nobody was sent is merged into this tick.
    queue.next_millis = first + INTERVAL_MILLIS;
    queue.tick([("fourth_total".to_owned(), 1.0)]).await;
    Running::start(&receiver, &queue, timing()).finish().await;
    let stored = server.stored();
    for metric in ["second_total", "third_total", "fourth_total"] {
        let (_, samples) =
            stored.iter().find(|(labels, _)| labels.iter().any(|(_, value)| value == metric)).expect(metric);
        let samples: Vec<_> = samples.iter().map(|(time, bits)| (*time, f64::from_bits(*bits))).collect();
        assert_eq!(samples, [(first, 0.0), (first + INTERVAL_MILLIS, 1.0)], "{metric}");
    }
    // The receiver is renamed, and begins with the newest tick.
    let renamed = PushReceiver { name: ReceiverName::new("renamed"), ..receiver };
    let interval = Duration::from_millis(INTERVAL_MILLIS as u64);
    let settings = QueueSettings { receivers: [renamed.name.clone()].into(), interval, bytes_max: u64::MAX >> 1 };
    queue.handle.configure(settings).await.unwrap();
    let report = Running::start(&renamed, &queue, timing()).finish().await;
    assert!(report.accepted > 0, "{report:?}");
    assert_eq!(server.stored(), stored, "the same samples again");
}

/// As vmauth 1.79 does.
#[tokio::test]
async fn credentials_that_are_refused_with_400_drop_nothing() {
    let is_known = Arc::new(Mutex::new(true));
    let server = ScriptedReceiver::start({
        let is_known = Arc::clone(&is_known);
        move |_, _| match *is_known.lock().unwrap() {
            true => Action::store(),
            false => Action::status("400 Bad Request", "", "cannot find the provided auth token"),
        }
    })
    .await;
    let receiver = receiver(&server.url());
    let mut queue = Queue::new(&[&receiver], 6).await;
    queue.ticks(3, 2).await;
    let running = Running::start(&receiver, &queue, timing());
    server.until("the first ticks", |stored| queue.has_arrived(stored)).await;
    *is_known.lock().unwrap() = false;
    queue.ticks(3, 2).await;
    let report = running.until("refusals", |report| report.holds.len() > 2).await;
    assert!(report.holds[0].contains("cannot find the provided auth token"), "{:?}", report.holds);
    *is_known.lock().unwrap() = true;
    server.until("the newest tick", |stored| queue.has_arrived(stored)).await;
    assert_eq!(running.finish().await.refused.len(), 0);
    assert_eq!(samples(&server.stored()), 6 * (2 + OTHERS), "no tick is missing");
}

#[tokio::test]
async fn whoever_refuses_even_an_empty_request_with_the_same_message_gets_nothing_and_nothing_is_dropped() {
    let mut refusals = 10;
    let (report, stored, requests) = outcome(4, 4, move |_, _| {
        if refusals == 0 {
            return Action::store();
        }
        refusals -= 1;
        // The messages of two refusals differ by a number at most.
        Action::status("400 Bad Request", "", &format!("request {refusals}: this is another API"))
    })
    .await;
    assert_eq!((samples(&stored), report.holds.len()), (4 * (4 + OTHERS), 5));
    assert!(report.holds[0].contains("a request without samples is refused"), "{:?}", report.holds);
    assert_eq!(report.refused.values().sum::<u64>(), 0);
    let sent: Vec<_> = requests.iter().filter(|request| !request.is_empty()).collect();
    assert!(sent.iter().all(|request| request.series == sent[0].series), "the same samples again");
}

/// As a proxy that writes the number of a request in letters.
#[tokio::test]
async fn credentials_that_are_refused_with_400_and_another_message_each_time_drop_nothing() {
    let is_known = Arc::new(AtomicBool::new(false));
    let server = ScriptedReceiver::start({
        let is_known = Arc::clone(&is_known);
        let mut rng = fastrand::Rng::with_seed(1);
        move |_, _| match is_known.load(Ordering::Relaxed) {
            true => Action::store(),
            false => Action::status("400 Bad Request", "", &changing_text(&mut rng)),
        }
    })
    .await;
    let receiver = receiver(&server.url());
    let mut queue = Queue::new(&[&receiver], 12).await;
    queue.ticks(4, 50).await;
    let running = Running::start(&receiver, &queue, timing());
    // First they were never known, then they are not known any more.
    for round in 0..2 {
        let before = running.report.borrow().holds.len();
        let report = running.until("refusals", |report| report.holds.len() > before + 2).await;
        assert!(report.holds.last().unwrap().contains("requests without samples are refused as well"), "{report:?}");
        let attempts = report.holds.len() as u64;
        assert!(report.requests <= 100 * (attempts + 1), "{} requests in {attempts} attempts", report.requests);
        is_known.store(true, Ordering::Relaxed);
        server.until("the newest tick", |stored| queue.has_arrived(stored)).await;
        running.until_answered(&queue).await;
        is_known.store(false, Ordering::Relaxed);
        if round == 0 {
            queue.ticks(4, 50).await;
        }
    }
    assert_eq!(running.report.borrow().refused.len(), 0);
    assert_eq!(samples(&server.stored()), 8 * (50 + OTHERS), "no tick is missing");
}

/// Text that differs from call to call in letters.
fn changing_text(rng: &mut fastrand::Rng) -> String {
    let id: String = (0..16).map(|_| rng.lowercase()).collect();
    format!("bad request {id}")
}

/// A proxy that refuses the credentials after the first request of a window of three was stored, until `refusals` requests were
/// refused. `greeting` is the message with which the receiver itself refuses requests without samples.
async fn check_credentials_that_end_within_a_window(
    text: Option<&'static str>,
    greeting: Option<&'static str>,
    refusals: usize,
) {
    let mut rng = fastrand::Rng::with_seed(1);
    let mut left = refusals;
    let (report, stored, requests) = outcome(600, 40, move |request, stored| {
        if !stored.is_empty() && left > 0 {
            left -= 1;
            let text = text.map_or_else(|| changing_text(&mut rng), str::to_owned);
            return Action::status("400 Bad Request", "", &text);
        }
        match greeting.filter(|_| request.is_empty()) {
            Some(text) => Action::status("400 Bad Request", "", text),
            None => Action::store(),
        }
    })
    .await;
    let what = format!("{text:?} {greeting:?} {refusals} refusals");
    assert_eq!(report.refused.values().sum::<u64>(), 0, "{what}: {report:?}");
    assert_eq!(samples(&stored), 600 * (40 + OTHERS), "{what}: no tick is missing");
    assert!(requests.len() > refusals, "{what}");
}

#[tokio::test]
async fn credentials_that_are_refused_within_a_window_drop_nothing() {
    for text in [None, Some("cannot find the provided auth token")] {
        for greeting in [None, Some("no samples"), Some("cannot find the provided auth token")] {
            for refusals in [1, 2, 3, 5, 13, 34, 144] {
                check_credentials_that_end_within_a_window(text, greeting, refusals).await;
            }
        }
    }
}

/// As behind a proxy that replaces the messages of refusals: requests without samples and those with a certain counter are refused
/// alike. `is_bad_at_start` is whether the counter is in the first tick.
async fn check_one_message_for_everything(bad: usize, ticks: i64, is_bad_at_start: bool) {
    const SERIES: usize = 40;
    let server = ScriptedReceiver::start(move |request, _| {
        match request.is_empty() || has_counter(request, |number| number == bad) {
            true => Action::status("400 Bad Request", "", "bad request"),
            false => Action::store(),
        }
    })
    .await;
    let receiver = receiver(&server.url());
    let mut queue = Queue::new(&[&receiver], ticks + 2).await;
    let good =
        |value: i64| counters(SERIES, value as f64).filter(move |(name, _)| *name != format!("counter_{bad}_total"));
    let running = Running::start(&receiver, &queue, timing());
    if !is_bad_at_start {
        queue.tick(good(1)).await;
        server.until("the tick before", |stored| queue.has_arrived(stored)).await;
    }
    for tick in 2..2 + ticks {
        queue.tick(counters(SERIES, tick as f64)).await;
    }
    let what = format!("{bad} {ticks} {is_bad_at_start}");
    let report = running.until_answered(&queue).await;
    // A series that begins has a zero before its first sample.
    let refused = ticks as u64 + u64::from(!is_bad_at_start);
    assert_eq!(report.refused, [("other", refused)].into(), "{what}: {report:?}");
    // The series is paused.
    let before = server.requests().len();
    queue.tick(counters(SERIES, 1_000.0)).await;
    let newest = queue.newest_time();
    let has_newest = |stored: &Stored| stored.values().filter(|samples| samples.contains_key(&newest)).count();
    server.until("the others", |stored| has_newest(stored) == SERIES - 1 + OTHERS).await;
    assert_eq!(server.requests().len() - before, 1, "{what}");
    running.finish().await;
    let stored = server.stored();
    check(&stored);
    let earlier = usize::from(!is_bad_at_start);
    assert_eq!(samples(&stored), (earlier + ticks as usize + 1) * (SERIES - 1 + OTHERS), "{what}");
}

#[tokio::test]
async fn a_receiver_that_refuses_samples_as_it_refuses_empty_requests_gets_all_but_the_series_that_it_refuses() {
    // The first, the last and another one in the order of names.
    for bad in [0, 9, 17] {
        for ticks in [1, 10] {
            for is_bad_at_start in [false, true] {
                check_one_message_for_everything(bad, ticks, is_bad_at_start).await;
            }
        }
    }
}

/// Without a window for earlier samples, and with more refused series that begin together than a doubted batch tries alone.
#[tokio::test]
async fn a_receiver_with_one_message_for_everything_gets_every_sample_in_order_and_every_zero_beside_many_refused_series()
 {
    const SERIES: usize = 40;
    const TICKS: i64 = 300;
    let is_bad = |number: usize| number.is_multiple_of(2);
    let server = ScriptedReceiver::start(move |request, stored| {
        let is_late = request.series.iter().any(|(labels, samples)| {
            let newest = stored.get(labels).and_then(|samples| samples.last_key_value()).map(|(time, _)| *time);
            samples.iter().any(|(time, _)| newest.is_some_and(|newest| *time < newest))
        });
        match request.is_empty() || is_late || has_counter(request, is_bad) {
            true => Action::status("400 Bad Request", "", "bad request"),
            false => Action::store(),
        }
    })
    .await;
    let receiver = receiver(&server.url());
    let mut queue = Queue::new(&[&receiver], TICKS + 1).await;
    let numbered = |name: &str| name.strip_prefix("counter_").unwrap().strip_suffix("_total").unwrap().parse().unwrap();
    queue.tick(counters(SERIES - 1, 1.0).filter(|(name, _)| !is_bad(numbered(name)))).await;
    let running = Running::start(&receiver, &queue, timing());
    server.until("the first tick", |stored| queue.has_arrived(stored)).await;
    running.until_answered(&queue).await;
    drop(running);
    // The last one begins among the others.
    for tick in 0..TICKS {
        let series = if tick < TICKS / 2 { SERIES - 1 } else { SERIES };
        queue.tick(counters(series, (tick + 2) as f64)).await;
    }
    let running = Running::start(&receiver, &queue, timing());
    running.until_answered(&queue).await;
    let report = running.finish().await;
    let stored = server.stored();
    check(&stored);
    let good = SERIES / 2 - 1 + OTHERS;
    let (ticks, late) = (1 + TICKS as usize, 1 + TICKS as usize / 2);
    assert_eq!(samples(&stored), good * ticks + late, "{report:?}");
    let last = stored.iter().find(|(labels, _)| labels.iter().any(|(_, value)| value == "counter_39_total"));
    assert_eq!(last.unwrap().1.first_key_value().unwrap().1, &0.0_f64.to_bits());
}

#[tokio::test]
async fn a_receiver_that_refuses_samples_as_it_refuses_empty_requests_loses_nothing_while_it_stores_nothing() {
    let is_revoked = Arc::new(AtomicBool::new(false));
    let server = ScriptedReceiver::start({
        let is_revoked = Arc::clone(&is_revoked);
        move |request, _| match request.is_empty() || is_revoked.load(Ordering::Relaxed) {
            true => Action::status("400 Bad Request", "", "bad request"),
            false => Action::store(),
        }
    })
    .await;
    let receiver = receiver(&server.url());
    let mut queue = Queue::new(&[&receiver], 12).await;
    let running = Running::start(&receiver, &queue, timing());
    for _ in 0..3 {
        queue.ticks(1, 50).await;
        server.until("a tick before", |stored| queue.has_arrived(stored)).await;
        running.until_answered(&queue).await;
        is_revoked.store(true, Ordering::Relaxed);
        queue.ticks(2, 50).await;
        let holds = running.report.borrow().holds.len();
        running.until("holds", |report| report.holds.len() > holds + 20).await;
        is_revoked.store(false, Ordering::Relaxed);
        running.until_answered(&queue).await;
    }
    let report = running.finish().await;
    assert_eq!(report.refused, [].into());
    assert_eq!(samples(&server.stored()), 9 * (50 + OTHERS), "no tick is missing");
}

/// The credentials end with each request of the search for a series that the receiver refuses, until two holds. Requests without
/// samples are refused with `empty`, if with anything, the series with `bad`, and the credentials with `revoked`, or another text each
/// time. `is_known` is whether the receiver has stored a tick before.
async fn check_credentials_that_end_in_a_search(
    empty: Option<&'static str>,
    bad: &'static str,
    revoked: Option<&'static str>,
    is_known: bool,
) {
    const SERIES: usize = 40;
    for ticks in [1, 3] {
        for ends_at in 2..32 {
            let is_restored = Arc::new(AtomicBool::new(false));
            let first = if is_known { 2 } else { 0 };
            let server = ScriptedReceiver::start({
                let is_restored = Arc::clone(&is_restored);
                let (mut rng, mut requests) = (fastrand::Rng::with_seed(1), 0);
                move |request, _| {
                    requests += 1;
                    let refused = match () {
                        () if requests > first + ends_at && !is_restored.load(Ordering::Relaxed) => {
                            Some(revoked.map_or_else(|| changing_text(&mut rng), str::to_owned))
                        }
                        () if request.is_empty() => empty.map(str::to_owned),
                        () => has_series(request, "counter_17_total").then(|| bad.to_owned()),
                    };
                    refused.map_or_else(Action::store, |text| Action::status("400 Bad Request", "", &text))
                }
            })
            .await;
            let receiver = receiver(&server.url());
            let mut queue = Queue::new(&[&receiver], ticks + i64::from(is_known)).await;
            let running = Running::start(&receiver, &queue, timing());
            if is_known {
                queue.tick([]).await;
                server.until("the first tick", |stored| samples(stored) == OTHERS).await;
                running.until_answered(&queue).await;
            }
            queue.ticks(ticks, SERIES).await;
            // The queue is reported before the first request.
            let is_sent = |report: &Report| report.requests > first && report.queue_ticks == 0;
            running.until("two holds, or the end", |report| report.holds.len() >= 2 || is_sent(report)).await;
            is_restored.store(true, Ordering::Relaxed);
            let report = running.finish().await;
            let what = format!("{empty:?} {bad} {revoked:?} {is_known} after {ends_at} requests of {ticks} ticks");
            let sent = ticks as usize * (SERIES - 1 + OTHERS) + if is_known { OTHERS } else { 0 };
            let zeros = if is_known { SERIES - 1 } else { 0 };
            assert_eq!(samples(&server.stored()), sent + zeros, "{what}: {report:?}");
            // Those of the refused series can be sent twice.
            let refused = report.refused.values().sum::<u64>();
            assert!((1..=2 * (ticks as u64 + u64::from(is_known))).contains(&refused), "{what}: {:?}", report.refused);
        }
    }
}

#[tokio::test]
async fn credentials_that_are_refused_while_a_refused_series_is_searched_drop_nothing_of_others() {
    const UNKNOWN: Option<&str> = Some("cannot find the provided auth token");
    for is_known in [false, true] {
        check_credentials_that_end_in_a_search(None, "label value too long", None, is_known).await;
        check_credentials_that_end_in_a_search(None, "label value too long", UNKNOWN, is_known).await;
        check_credentials_that_end_in_a_search(Some("no samples"), "label value too long", UNKNOWN, is_known).await;
    }
    check_credentials_that_end_in_a_search(Some("bad request"), "label value too long", Some("bad request"), true)
        .await;
    check_credentials_that_end_in_a_search(Some("bad request"), "bad request", Some("bad request"), true).await;
}

/// The proxy does not know the token for a moment, and says so in two ways.
#[tokio::test]
async fn a_single_sample_whose_sender_is_refused_when_it_is_checked_is_sent_again() {
    let mut requests = 0;
    let server = ScriptedReceiver::start(move |_, _| {
        requests += 1;
        match requests {
            2 => Action::status("400 Bad Request", "", "unknown token"),
            3 => Action::status("401 Unauthorized", "", ""),
            _ => Action::store(),
        }
    })
    .await;
    let receiver = receiver(&server.url());
    let mut queue = Queue::new(&[&receiver], 1).await;
    queue.tick([]).await;
    let report = Running::start(&receiver, &queue, timing()).finish().await;
    assert_eq!((report.refused.len(), samples(&server.stored())), (0, OTHERS), "{report:?}");
}

#[tokio::test]
async fn a_stored_sample_that_fails_is_sent_again_before_anything_is_held() {
    let mut failures = 0;
    let server = ScriptedReceiver::start(move |request, stored| {
        let is_known = |(labels, samples): &(Vec<_>, Vec<(i64, u64)>)| {
            let known = stored.get(labels);
            samples.iter().all(|(time, bits)| known.and_then(|known| known.get(time)) == Some(bits))
        };
        match () {
            () if !request.is_empty() && request.series.iter().all(is_known) && failures < 2 => {
                failures += 1;
                Action::status("503 Service Unavailable", "", "")
            }
            () if request.is_empty() || has_counter(request, |number| number == 17) => {
                Action::status("400 Bad Request", "", "bad request")
            }
            () => Action::store(),
        }
    })
    .await;
    let receiver = receiver(&server.url());
    let mut queue = Queue::new(&[&receiver], 2).await;
    let running = Running::start(&receiver, &queue, timing());
    queue.tick([]).await;
    running.until_answered(&queue).await;
    queue.ticks(1, 40).await;
    let report = running.finish().await;
    assert_eq!((report.retries.len(), report.holds.len()), (2, 0), "{report:?}");
    assert_eq!(samples(&server.stored()), 2 * OTHERS + 39 * 2, "each with its zero: {report:?}");
}

#[tokio::test]
async fn a_refused_series_costs_three_requests_without_samples() {
    const SERIES: usize = 1_000;
    for bad in [0, 1, 333, 500, 998, 999] {
        let (report, stored, requests) = {
            let server =
                ScriptedReceiver::start(move |request, _| match has_counter(request, |number| number == bad) {
                    true => Action::status("400 Bad Request", "", "label value too long"),
                    false => Action::store(),
                })
                .await;
            let receiver = receiver(&server.url());
            let mut queue = Queue::new(&[&receiver], 1).await;
            queue.ticks(1, SERIES).await;
            let report = Running::start(&receiver, &queue, timing()).finish().await;
            (report, server.stored(), server.requests())
        };
        assert_eq!((samples(&stored), report.refused["other"]), (SERIES - 1 + OTHERS, 1));
        let empty = requests.iter().filter(|request| request.is_empty()).count();
        assert!(empty <= 1 + 3, "{empty} of {} requests, of which one is the first", requests.len());
    }
}

/// Its messages differ by an identifier, or by a word.
#[tokio::test]
async fn a_receiver_that_begins_to_refuse_empty_requests_gets_all_but_the_series_that_it_refuses() {
    const SERIES: usize = 40;
    let messages: [fn(&mut fastrand::Rng) -> String; 3] = [
        |_| "no samples".to_owned(),
        |rng| format!("no samples: trace {:016x}", rng.u64(..)),
        |rng| format!("no samples: {}", changing_text(rng)),
    ];
    for bad in [0, 17, SERIES - 1] {
        for message in messages {
            let begins = Arc::new(AtomicBool::new(false));
            let server = ScriptedReceiver::start({
                let begins = Arc::clone(&begins);
                let mut rng = fastrand::Rng::with_seed(1);
                move |request, _| match begins.load(Ordering::Relaxed) {
                    true if request.is_empty() => Action::status("400 Bad Request", "", &message(&mut rng)),
                    true if has_counter(request, |number| number == bad) => {
                        Action::status("400 Bad Request", "", "label value too long")
                    }
                    _ => Action::store(),
                }
            })
            .await;
            let receiver = receiver(&server.url());
            let mut queue = Queue::new(&[&receiver], 12).await;
            let running = Running::start(&receiver, &queue, timing());
            queue.ticks(2, SERIES).await;
            server.until("the ticks before", |stored| queue.has_arrived(stored)).await;
            begins.store(true, Ordering::Relaxed);
            increase(&mut queue, 3, 10, SERIES).await;
            let report = running.finish().await;
            let stored = server.stored();
            check(&stored);
            assert_eq!((samples(&stored), report.queue_ticks), (2 + 12 * (SERIES - 1 + OTHERS), 0), "{bad} {report:?}");
        }
    }
}

/// It refuses the ages of all ticks, then whatever it is sent, and requests without samples with another message.
#[tokio::test]
async fn values_of_ticks_that_were_too_old_before_everything_was_refused_arrive_with_the_newest_tick() {
    const SERIES: usize = 60;
    let receiver_accepts = Arc::new(AtomicBool::new(false));
    let newest = Arc::new(AtomicI64::new(i64::MAX));
    let server = ScriptedReceiver::start({
        let (accepts, newest) = (Arc::clone(&receiver_accepts), Arc::clone(&newest));
        let mut is_revoked = false;
        move |request, _| {
            let newest = newest.load(Ordering::Relaxed);
            let is_newest = request.series.iter().flat_map(|(_, samples)| samples).all(|(time, _)| *time == newest);
            // The search sends single samples.
            is_revoked |= is_newest && request.series.len() > 1;
            match () {
                () if accepts.load(Ordering::Relaxed) => Action::store(),
                () if request.is_empty() => Action::status("400 Bad Request", "", "no samples"),
                () if is_revoked => Action::status("400 Bad Request", "", "unknown tenant"),
                () => Action::status("400 Bad Request", "", "out of bounds"),
            }
        }
    })
    .await;
    let receiver = receiver(&server.url());
    let mut queue = Queue::new(&[&receiver], 4).await;
    for _ in 0..4 {
        // The values change in the first tick only.
        queue.tick(counters(SERIES, 1.0)).await;
    }
    newest.store(queue.newest_time(), Ordering::Relaxed);
    let running = Running::start(&receiver, &queue, timing());
    let report = running.until("a hold", |report| !report.holds.is_empty()).await;
    assert!(report.holds[0].contains("requests without samples are refused as well"), "{report:?}");
    assert_eq!(report.queue_ticks, 1, "the others were too old: {report:?}");
    receiver_accepts.store(true, Ordering::Relaxed);
    running.until_answered(&queue).await;
    running.finish().await;
    assert!(queue.has_arrived(&server.stored()), "{:?}", server.stored());
}

/// It refuses requests without samples, and the first half of all series.
#[tokio::test]
async fn whoever_accepts_some_series_has_its_refusals_of_the_others_believed() {
    const SERIES: usize = 60;
    // In the order of names.
    let is_bad = |number: usize| *format!("counter_{number}_total") < *"counter_35";
    let server = ScriptedReceiver::start(move |request, _| {
        let is_bad = has_series(request, "active_sessions_total") || has_counter(request, is_bad);
        match () {
            () if request.is_empty() => Action::status("400 Bad Request", "", "no samples"),
            () if is_bad => Action::status("400 Bad Request", "", "label value too long"),
            () => Action::store(),
        }
    })
    .await;
    let receiver = receiver(&server.url());
    let mut queue = Queue::new(&[&receiver], 2).await;
    queue.tick(counters(SERIES, 1.0)).await;
    let running = Running::start(&receiver, &queue, timing());
    let report = running.until_answered(&queue).await;
    let bad = (0..SERIES).filter(|number| is_bad(*number)).count() + OTHERS;
    assert!(bad > 16, "{bad} series");
    assert_eq!((samples(&server.stored()), report.refused["other"]), (SERIES + OTHERS - bad, bad as u64));
    running.finish().await;
}

#[tokio::test]
async fn a_receiver_that_refuses_empty_requests_gets_samples() {
    for status in ["400 Bad Request", "415 Unsupported Media Type", "422 Unprocessable Content"] {
        let (report, stored, requests) = outcome(30, 40, move |request, _| match request.is_empty() {
            true => Action::status(status, "", "no samples"),
            false => Action::store(),
        })
        .await;
        assert_eq!((samples(&stored), report.accepted), (30 * (40 + OTHERS), 30 * (40 + OTHERS as u64)));
        assert_eq!((report.holds.len(), requests.len()), (0, 2), "{status}");
    }
}

#[tokio::test]
async fn a_receiver_that_refuses_empty_requests_has_its_refusals_of_samples_believed() {
    let bound = unix_millis() - 10 * INTERVAL_MILLIS;
    let server = ScriptedReceiver::start(move |request, _| {
        let is_old = request.series.iter().flat_map(|(_, samples)| samples).any(|(time, _)| *time < bound);
        match () {
            () if request.is_empty() => Action::status("400 Bad Request", "", "no samples"),
            () if is_old => Action::status("400 Bad Request", "", "out of bounds"),
            () if has_series(request, "counter_3_total") => {
                Action::status("400 Bad Request", "", "label value too long")
            }
            () => Action::store(),
        }
    })
    .await;
    let receiver = receiver(&server.url());
    let mut queue = Queue::new(&[&receiver], 50).await;
    queue.ticks(50, 10).await;
    let report = Running::start(&receiver, &queue, timing()).finish().await;
    assert_eq!((report.holds.len(), report.queue_ticks), (0, 0), "{:?}", report.holds);
    let arrived = samples(&server.stored());
    assert_eq!(arrived as u64 + report.refused.values().sum::<u64>(), 50 * (10 + OTHERS as u64));
    assert!(arrived >= 10 * (9 + OTHERS), "{arrived} samples are there");
}

#[tokio::test]
async fn nothing_is_sent_while_this_clock_is_two_hours_ahead() {
    let behind = Arc::new(Mutex::new(7_200));
    let server = ScriptedReceiver::start({
        let behind = Arc::clone(&behind);
        move |_, _| {
            let seconds = *behind.lock().unwrap();
            let date = http_date(SystemTime::now() - Duration::from_secs(seconds));
            let action = Action::status("204 No Content", &format!("Date: {date}\r\n"), "");
            action.stored()
        }
    })
    .await;
    let receiver = receiver(&server.url());
    let mut queue = Queue::new(&[&receiver], 10).await;
    queue.ticks(10, 2).await;
    let running = Running::start(&receiver, &queue, timing());
    let report = running.until("the clocks", |report| report.is_ahead).await;
    assert!((report.skew_seconds - 7_200.0).abs() < 5.0, "{}", report.skew_seconds);
    assert!(report.stalls[0].contains("clock is ahead of the receiver's"), "{:?}", report.stalls);
    server.until_requests(4).await;
    assert!(server.stored().is_empty() && server.requests().iter().all(Received::is_empty));
    // What was within a minute is no reason.
    *behind.lock().unwrap() = 30;
    server.until("the newest tick", |stored| queue.has_arrived(stored)).await;
    assert_eq!(samples(&server.stored()), 10 * (2 + OTHERS));
    assert!(!running.finish().await.is_ahead);
}

/// A ticker of `queue`, by `clock`.
async fn ticker(queue: &Queue, clock: &SetClock) -> Ticker {
    let identified = queue.handle.identify(HostHash::of(b"host", b"id"), ["x".to_owned()].into()).await.unwrap();
    let grid = Grid::new(Duration::from_millis(INTERVAL_MILLIS as u64), identified.identity().unwrap());
    Ticker::new(queue.handle.clone(), grid, None, clock.wall_clock(), Vec::new())
}

/// No sample is of a time that has not come.
fn check_present(stored: &Stored) {
    let now = unix_millis();
    let future: Vec<_> = stored.values().flat_map(BTreeMap::keys).filter(|time| **time > now).collect();
    assert!(future.is_empty(), "of the future: {future:?}");
}

#[tokio::test]
async fn ticks_are_taken_while_the_clock_is_ahead_and_none_of_the_future_is_sent() {
    let server = ScriptedReceiver::start(|_, _| store_with_date()).await;
    let receiver = receiver(&server.url());
    let mut queue = Queue::new(&[&receiver], 5).await;
    queue.ticks(3, 2).await;
    let clock = SetClock::default();
    clock.set_ahead(7_200);
    let running = Running::start(&receiver, &queue, SendTiming { wall_clock: clock.wall_clock(), ..timing() });
    running.until("the clocks", |report| report.is_ahead).await;
    let mut ticker = ticker(&queue, &clock).await;
    let _ticker = JoinSet::from_iter([async move { ticker.run().await }]);
    let mut newest = queue.handle.watch();
    let future = unix_millis() + 3_600_000;
    patiently("a tick", newest.wait_for(|newest| newest.time.millis() > future)).await.unwrap();

    clock.set_ahead(0);
    patiently("a tick of the right time", newest.wait_for(|newest| newest.time.millis() < future)).await.unwrap();
    running.until("an empty queue", |report| report.queue_ticks == 0 && report.accepted > 0).await;
    running.finish().await;
    check_present(&server.stored());
    let times: BTreeSet<_> = server.stored().into_values().flat_map(BTreeMap::into_keys).collect();
    assert_eq!(times.len(), 4, "the ticks before are all there: {times:?}");
}

#[tokio::test]
async fn the_last_tick_is_taken_whatever_the_clock() {
    let server = ScriptedReceiver::start(|_, _| store_with_date()).await;
    let receiver = receiver(&server.url());
    let mut queue = Queue::new(&[&receiver], 3).await;
    queue.ticks(3, 2).await;
    let clock = SetClock::default();
    clock.set_ahead(7_200);
    let running = Running::start(&receiver, &queue, SendTiming { wall_clock: clock.wall_clock(), ..timing() });
    running.until("the clocks", |report| report.is_ahead).await;
    ticker(&queue, &clock).await.take_last().await;
    let newest = queue.handle.watch().borrow().time.millis();
    assert!(newest > unix_millis() + 7_000_000, "{newest}");
    // Set back by less than an interval, so that a tick of the grid would not be due.
    clock.set_ahead(7_170);
    ticker(&queue, &clock).await.take_last().await;
    let newest = queue.handle.watch().borrow().time.millis();
    assert!(newest < unix_millis() + 7_180_000, "{newest}");
    assert!(server.stored().is_empty());
}

/// The login of a network, a redirect to it, and a proxy without a receiver, all with a clock two hours behind.
#[tokio::test]
async fn a_clock_is_judged_by_a_receiver_of_remote_write_only() {
    let date = format!("Date: {}\r\n", http_date(SystemTime::now() - Duration::from_secs(7_200)));
    let mut others = vec![
        Action::status("302 Found", &format!("{date}Location: http://login.example/\r\n"), ""),
        Action::status("200 OK", &format!("{date}Content-Type: text/html\r\n"), "<h1>Log in</h1>"),
        Action::status("400 Bad Request", &format!("{date}Content-Type: text/html\r\n"), "<h1>Bad Request</h1>"),
        Action::status("503 Service Unavailable", &date, ""),
        Action::status("404 Not Found", &date, ""),
        Action::status("401 Unauthorized", &date, ""),
    ];
    let (report, stored, _) = outcome(5, 5, move |_, _| others.pop().unwrap_or_else(Action::store)).await;
    assert!(!report.is_ahead && report.skew_seconds == 0.0 && report.stalls.is_empty(), "{report:?}");
    assert_eq!((samples(&stored), report.refused.len()), (5 * (5 + OTHERS), 0));
}

#[tokio::test]
async fn a_receiver_that_does_not_tell_the_time_gets_nothing_while_another_one_says_that_the_clock_is_ahead() {
    let (dated, undated) = (
        ScriptedReceiver::start(|_, _| store_with_date()).await,
        ScriptedReceiver::start(|_, _| Action::store()).await,
    );
    let receivers = [&dated, &undated].map(|server| receiver(&server.url()));
    let mut queue = Queue::new(&receivers.each_ref(), 2).await;
    let clock = SetClock::default();
    clock.set_ahead(7_200);
    queue.next_millis += 7_200_000;
    queue.ticks(2, 2).await;
    let start = |receiver| Running::start(receiver, &queue, SendTiming { wall_clock: clock.wall_clock(), ..timing() });
    let first = start(&receivers[0]);
    first.until("the clocks", |report| report.is_ahead).await;
    let second = start(&receivers[1]);
    let report = second.until("the other one's clock", |report| !report.stalls.is_empty()).await;
    assert!(report.stalls[0].contains("another receiver's"), "{:?}", report.stalls);

    clock.set_ahead(0);
    queue.next_millis = unix_millis();
    queue.tick([("counter_0_total".to_owned(), 1_000.0)]).await;
    for server in [&dated, &undated] {
        server.until("the tick of the right time", |stored| queue.has_arrived(stored)).await;
        check_present(&server.stored());
        assert_eq!(samples(&server.stored()), 2 + OTHERS);
    }
}

#[tokio::test]
async fn a_tick_of_the_future_is_not_sent_before_its_time() {
    let server = ScriptedReceiver::start(|_, _| Action::store()).await;
    let receiver = receiver(&server.url());
    let mut queue = Queue::new(&[&receiver], 4).await;
    queue.ticks(2, 2).await;
    let right = queue.next_millis;
    // The clock was ten minutes ahead, and is right again; no tick was taken since.
    queue.next_millis += 12 * INTERVAL_MILLIS;
    queue.tick([("counter_0_total".to_owned(), 1_000.0)]).await;
    let running = Running::start(&receiver, &queue, timing());
    running.until("all but the tick of the future", |report| report.queue_ticks == 1).await;
    check_present(&server.stored());

    queue.next_millis = right;
    queue.tick([("counter_1_total".to_owned(), 2_000.0)]).await;
    server.until("the tick of the right time", |stored| queue.has_arrived(stored)).await;
    running.finish().await;
    check(&server.stored());
    check_present(&server.stored());
    assert_eq!(samples(&server.stored()), 3 * (2 + OTHERS));
}

#[tokio::test]
async fn a_tick_of_the_future_does_not_delay_the_end() {
    let server = ScriptedReceiver::start(|_, _| Action::store()).await;
    let receiver = receiver(&server.url());
    let mut queue = Queue::new(&[&receiver], 1).await;
    queue.ticks(1, 2).await;
    queue.next_millis += 10 * INTERVAL_MILLIS;
    queue.ticks(1, 2).await;
    let report = Running::start(&receiver, &queue, timing()).finish().await;
    assert_eq!((report.queue_ticks, samples(&server.stored())), (1, 2 + OTHERS));
}

/// By a clock that is a year ahead every tick is older than `--push.max-age`.
#[tokio::test]
async fn a_clock_that_is_far_ahead_makes_no_tick_too_old() {
    let server = ScriptedReceiver::start(|_, _| store_with_date()).await;
    let receiver = receiver(&server.url());
    let mut queue = Queue::new(&[&receiver], 10).await;
    queue.ticks(10, 2).await;
    let clock = SetClock::default();
    clock.set_ahead(365 * 86_400);
    let running = Running::start(&receiver, &queue, SendTiming { wall_clock: clock.wall_clock(), ..timing() });
    running.until("the clocks", |report| report.is_ahead).await;
    clock.set_ahead(0);
    server.until("the newest tick", |stored| queue.has_arrived(stored)).await;
    let report = running.finish().await;
    assert_eq!((samples(&server.stored()), report.refused.len()), (10 * (2 + OTHERS), 0));
}

/// A sender of ticks of a clock ten minutes ahead, which was set back while they were being sent.
struct SetBack {
    queue: Queue,
    clock: SetClock,
    running: Running,
    /// The time of the tick that was taken since, in milliseconds.
    right: i64,
    /// The time of the newest tick before.
    future: i64,
}

/// Sends `ticks` of so many counters until `requests` have arrived at the server, sets the clock back, takes a tick of the right time, and
/// opens the gate of the answers.
async fn set_back_while_sending(
    server: &ScriptedReceiver,
    gate: &CancellationToken,
    (ticks, series): (i64, usize),
    requests: usize,
) -> SetBack {
    let receiver = receiver(&server.url());
    let mut queue = Queue::new(&[&receiver], 2).await;
    let right = queue.next_millis;
    let clock = SetClock::default();
    clock.set_ahead(600);
    queue.next_millis += 600_000;
    queue.ticks(ticks, series).await;
    let future = queue.newest_time();
    let running = Running::start(&receiver, &queue, SendTiming { wall_clock: clock.wall_clock(), ..timing() });
    server.until_requests(requests).await;
    clock.set_ahead(0);
    queue.next_millis = right;
    queue.tick([("counter_0_total".to_owned(), 1_000.0)]).await;
    gate.cancel();
    SetBack { queue, clock, running, right, future }
}

/// The receiver does not tell the time, and stores what a clock ten minutes ahead has stamped; the clock is set back before it answers.
#[tokio::test]
async fn no_tick_is_queued_before_one_that_was_stored_while_the_clock_was_set_back() {
    let gate = CancellationToken::new();
    let server = ScriptedReceiver::start({
        let gate = gate.clone();
        move |request, _| Action { gate: (!request.is_empty()).then(|| gate.clone()), ..Action::store() }
    })
    .await;
    let SetBack { mut queue, clock, running, right, future } = set_back_while_sending(&server, &gate, (2, 2), 2).await;
    running.until("the answer", |report| report.accepted > 0 && report.queue_ticks == 0).await;
    let tick = |millis| queue.handle.take_tick(TickTime::from_millis(millis), Vec::new(), TickKind::Regular);
    let outcome = tick(right + INTERVAL_MILLIS).await.unwrap();
    assert_eq!(
        outcome,
        TickOutcome::BehindAnswered(TickTime::from_millis(future)),
        "the receiver's counter would fall"
    );

    // The clock has passed it.
    clock.set_ahead(1_200);
    queue.next_millis = future + INTERVAL_MILLIS;
    queue.tick([("counter_1_total".to_owned(), 2_000.0)]).await;
    server.until("the tick behind it", |stored| queue.has_arrived(stored)).await;
    running.finish().await;
    check(&server.stored());
}

/// The first request of a tick is stored, and its second one fails after the clock was set back.
#[tokio::test]
async fn no_tick_is_queued_before_one_of_which_a_part_was_stored_when_the_clock_was_set_back() {
    const SERIES: usize = 10_100;
    let gate = CancellationToken::new();
    let mut sent = 0;
    let server = ScriptedReceiver::start({
        let gate = gate.clone();
        move |request, _| {
            sent += usize::from(!request.is_empty());
            match sent {
                2 => Action { gate: Some(gate.clone()), ..Action::status("503 Service Unavailable", "", "") },
                _ => Action::store(),
            }
        }
    })
    .await;
    let SetBack { queue, running, right, future, .. } = set_back_while_sending(&server, &gate, (1, SERIES), 3).await;
    running.until("the position", |report| report.accepted > 0 && report.queue_ticks == 0).await;
    let tick = queue.handle.take_tick(TickTime::from_millis(right + INTERVAL_MILLIS), Vec::new(), TickKind::Regular);
    let behind = TickOutcome::BehindAnswered(TickTime::from_millis(future));
    assert_eq!(tick.await.unwrap(), behind, "the receiver's counters would fall");
    running.finish().await;
}

/// The clock of the sender is right, so that it takes no tick to be of the future.
#[tokio::test]
async fn a_tick_that_was_merged_into_an_earlier_one_while_its_request_failed_is_not_sent_again() {
    let gate = CancellationToken::new();
    let mut is_first = true;
    let server = ScriptedReceiver::start({
        let gate = gate.clone();
        move |request, _| match !request.is_empty() && std::mem::take(&mut is_first) {
            true => Action { gate: Some(gate.clone()), ..Action::status("503 Service Unavailable", "", "") },
            false => Action::store(),
        }
    })
    .await;
    let receiver = receiver(&server.url());
    let mut queue = Queue::new(&[&receiver], 10).await;
    let begin = queue.next_millis;
    queue.ticks(9, 2).await;
    let running = Running::start(&receiver, &queue, timing());
    server.until_requests(2).await;
    queue.next_millis = begin + 4 * INTERVAL_MILLIS;
    queue.tick([("counter_0_total".to_owned(), 1_000.0)]).await;
    gate.cancel();
    server.until("the tick of the earlier time", |stored| queue.has_arrived(stored)).await;
    running.finish().await;
    let times: BTreeSet<_> = server.stored().into_values().flat_map(BTreeMap::into_keys).collect();
    assert_eq!(times, (0..5).map(|tick| begin + tick * INTERVAL_MILLIS).collect());
    check(&server.stored());
}

/// A laptop that was offline with a clock ten minutes ahead: its ticks are in a request when the clock is set back.
#[tokio::test]
async fn what_a_sender_holds_when_the_clock_is_set_back_is_not_sent_and_hides_nothing() {
    let is_down = Arc::new(AtomicBool::new(true));
    let server = ScriptedReceiver::start({
        let is_down = Arc::clone(&is_down);
        move |_, _| match is_down.load(Ordering::Relaxed) {
            true => Action::status("503 Service Unavailable", "", ""),
            false => Action::store(),
        }
    })
    .await;
    let receiver = receiver(&server.url());
    let mut queue = Queue::new(&[&receiver], 12).await;
    queue.ticks(2, 3).await;
    let right = queue.next_millis;
    queue.next_millis += 10 * INTERVAL_MILLIS;
    queue.ticks(3, 3).await;
    // It changes in a tick that disappears, and never again.
    queue.tick([("counter_0_total".to_owned(), 1_000.0)]).await;
    let clock = SetClock::default();
    clock.set_ahead(600);
    let running = Running::start(&receiver, &queue, SendTiming { wall_clock: clock.wall_clock(), ..timing() });
    running.until("a retry with every tick", |report| report.retries.len() > 2 && report.queue_ticks == 6).await;

    clock.set_ahead(0);
    queue.next_millis = right;
    queue.tick([("counter_1_total".to_owned(), 2_000.0)]).await;
    is_down.store(false, Ordering::Relaxed);
    server.until("the tick of the right time", |stored| queue.has_arrived(stored)).await;
    for value in 0..3 {
        queue.tick([("counter_2_total".to_owned(), 3_000.0 + f64::from(value))]).await;
        server.until("a tick that follows", |stored| queue.has_arrived(stored)).await;
    }
    let report = running.finish().await;
    check(&server.stored());
    assert_eq!(samples(&server.stored()), (2 + 4) * (3 + OTHERS), "no sample is of the future, and none is missing");
    assert_eq!((report.queue_ticks, report.refused.len()), (0, 0));
}

#[tokio::test]
async fn a_dead_receiver_delays_nobody() {
    // It accepts connections, and never reads.
    let dead = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let [first, second] = [(); 2].map(|()| ScriptedReceiver::start(|_, _| Action::store()));
    let (first, second) = (first.await, second.await);
    let receivers =
        [first.url(), format!("http://{}/", dead.local_addr().unwrap()), second.url()].map(|url| receiver(&url));
    let mut queue = Queue::new(&receivers.each_ref(), 20).await;
    queue.ticks(10, 3).await;
    let running = receivers.each_ref().map(|receiver| Running::start(receiver, &queue, timing()));
    for server in [&first, &second] {
        server.until("the ticks before", |stored| queue.has_arrived(stored)).await;
    }
    for _ in 0..10 {
        queue.tick([("counter_0_total".to_owned(), queue.newest["counter_0_total"] + 1.0)]).await;
        for server in [&first, &second] {
            server.until("the tick", |stored| queue.has_arrived(stored)).await;
        }
    }
    for server in [&first, &second] {
        check(&server.stored());
        assert_eq!(samples(&server.stored()), 20 * (3 + OTHERS));
    }
    let [_, dead, _] = running;
    assert_eq!(dead.report.borrow().accepted, 0);
}

#[tokio::test]
async fn a_request_that_fails_with_500_while_others_do_not_is_divided_until_its_sample_is_dropped() {
    let server = ScriptedReceiver::start(|request, _| match has_series(request, "counter_1_total") {
        true => Action::status("500 Internal Server Error", "", "panic"),
        false => Action::store(),
    })
    .await;
    let receiver = receiver(&server.url());
    let mut queue = Queue::new(&[&receiver], 4).await;
    queue.ticks(4, 4).await;
    let running =
        Running::start(&receiver, &queue, SendTiming { suspect_after: Duration::from_millis(50), ..timing() });
    let report = running.finish().await;
    assert_eq!(report.refused, [("server_error", 4)].into());
    assert_eq!(samples(&server.stored()), 4 * (3 + OTHERS));
}

#[tokio::test]
async fn a_receiver_that_fails_with_500_for_long_loses_nothing() {
    let is_down = Arc::new(Mutex::new(true));
    let server = ScriptedReceiver::start({
        let is_down = Arc::clone(&is_down);
        move |request, _| match *is_down.lock().unwrap() && !request.is_empty() {
            true => Action::status("500 Internal Server Error", "", "down"),
            false => Action::store(),
        }
    })
    .await;
    let receiver = receiver(&server.url());
    let mut queue = Queue::new(&[&receiver], 4).await;
    queue.ticks(4, 4).await;
    let running = Running::start(&receiver, &queue, SendTiming { suspect_after: Duration::ZERO, ..timing() });
    running.until("failures", |report| report.retries.len() > 30).await;
    *is_down.lock().unwrap() = false;
    let report = running.finish().await;
    assert_eq!((samples(&server.stored()), report.refused.values().sum::<u64>()), (4 * (4 + OTHERS), 0));
}

/// Names of counters that do not compress.
fn long_names(count: usize) -> Vec<String> {
    let mut rng = fastrand::Rng::with_seed(1);
    (0..count).map(|_| (0..250).map(|_| rng.alphabetic()).collect()).collect()
}

#[tokio::test]
async fn a_receiver_that_never_answers_long_requests_well_gets_short_ones_and_every_tick() {
    const SERIES: usize = 1_500;
    const BYTES_MAX: usize = 64 * 1024;
    // Does not answer within the time limit of a request, as behind a slow uplink.
    let silent = Action { gate: Some(CancellationToken::new()), ..Action::store() };
    let faults: [(&str, Vec<Action>); 5] = [
        ("closed connection", vec![Action::cut()]),
        ("502", vec![Action::status("502 Bad Gateway", "", "")]),
        ("504", vec![Action::status("504 Gateway Timeout", "", "")]),
        ("time limit", vec![silent]),
        ("500 and 503", {
            vec![Action::status("500 Internal Server Error", "", ""), Action::status("503 Service Unavailable", "", "")]
        }),
    ];
    let names = long_names(SERIES);
    for (fault, answers) in faults {
        let mut answers = answers.into_iter().cycle();
        let server = ScriptedReceiver::start(move |request, _| match request.body_bytes > BYTES_MAX {
            true => answers.next().expect("one of the answers"),
            false => Action::store(),
        })
        .await;
        let receiver = PushReceiver { timeout: Duration::from_secs(1), ..receiver(&server.url()) };
        let mut queue = Queue::new(&[&receiver], 2).await;
        queue.tick(names.iter().map(|name| (name.clone(), 1.0))).await;
        let timing = SendTiming { suspect_after: Duration::from_millis(50), ..timing() };
        let running = Running::start(&receiver, &queue, timing);
        server.until(fault, |stored| queue.has_arrived(stored)).await;
        running.until_answered(&queue).await;
        let before = server.requests().len();
        queue.tick(names.iter().map(|name| (name.clone(), 2.0))).await;
        server.until(fault, |stored| queue.has_arrived(stored)).await;
        let later = server.requests().split_off(before);
        assert!(later.iter().all(|request| request.body_bytes <= BYTES_MAX), "{fault}: the length is remembered");
        let report = running.finish().await;
        assert_eq!(report.refused.values().sum::<u64>(), 0, "{fault}");
        assert_eq!(samples(&server.stored()), 2 * (SERIES + OTHERS), "{fault}");
    }
}

/// A receiver to which every request with `counter_1_total` ends in `fault` until it `is_mended`.
async fn fails_for_one_series(fault: Action, is_mended: &Arc<AtomicBool>) -> ScriptedReceiver {
    let is_mended = Arc::clone(is_mended);
    ScriptedReceiver::start(move |request, _| {
        match has_series(request, "counter_1_total") && !is_mended.load(Ordering::Relaxed) {
            true => fault.clone(),
            false => Action::store(),
        }
    })
    .await
}

#[tokio::test]
async fn a_series_whose_requests_are_never_answered_well_delays_no_later_tick_and_arrives_with_one() {
    for fault in [Action::cut(), Action::status("502 Bad Gateway", "", ""), {
        Action::status("500 Internal Server Error", "", "panic")
    }] {
        let is_mended = Arc::new(AtomicBool::new(false));
        let server = fails_for_one_series(fault, &is_mended).await;
        let receiver = receiver(&server.url());
        let mut queue = Queue::new(&[&receiver], 6).await;
        let timing = SendTiming {
            suspect_after: Duration::from_millis(20),
            refused_series_pause: Duration::from_millis(1),
            ..timing()
        };
        let running = Running::start(&receiver, &queue, timing);
        let last = |stored: &Stored, metric: &str| {
            let (_, samples) = stored.iter().find(|(labels, _)| labels.iter().any(|(_, value)| value == metric))?;
            samples.last_key_value().map(|(time, _)| *time)
        };
        for tick in 1..=5 {
            queue.tick(counters(4, f64::from(tick))).await;
            let newest = Some(queue.newest_time());
            let others = ["counter_0_total", "counter_2_total", "counter_3_total", "active_sessions_total"];
            server.until("the others", |stored| others.iter().all(|other| last(stored, other) == newest)).await;
        }
        assert_eq!(last(&server.stored(), "counter_1_total"), None);
        is_mended.store(true, Ordering::Relaxed);
        queue.tick(counters(4, 6.0)).await;
        server.until("all series", |stored| queue.has_arrived(stored)).await;
        let report = running.finish().await;
        assert!(report.refused.keys().all(|reason| *reason == "server_error"), "{:?}", report.refused);
        assert_eq!(samples(&server.stored()) as u64 + report.refused.values().sum::<u64>(), 6 * (4 + OTHERS as u64));
    }
}

#[tokio::test]
async fn a_newest_sample_whose_requests_are_never_answered_well_is_repeated_and_not_dropped() {
    for fault in [Action::cut(), Action::status("503 Service Unavailable", "", "")] {
        let is_mended = Arc::new(AtomicBool::new(false));
        let server = fails_for_one_series(fault, &is_mended).await;
        let receiver = receiver(&server.url());
        let mut queue = Queue::new(&[&receiver], 1).await;
        queue.ticks(1, 4).await;
        let timing = SendTiming { suspect_after: Duration::ZERO, ..timing() };
        let running = Running::start(&receiver, &queue, timing);
        server.until("the others", |stored| samples(stored) == 3 + OTHERS).await;
        let retries = running.report.borrow().retries.len();
        running.until("repetitions", |report| report.retries.len() > retries + 20).await;
        is_mended.store(true, Ordering::Relaxed);
        let report = running.finish().await;
        assert!(queue.has_arrived(&server.stored()));
        assert_eq!(report.refused.values().sum::<u64>(), 0);
    }
}

/// As a gateway that answers requests without samples itself, and a receiver whose disk is full.
#[tokio::test]
async fn an_outage_in_which_only_requests_without_samples_are_accepted_costs_no_sample() {
    const TICKS: i64 = 400;
    for fault in [Action::status("500 Internal Server Error", "", ""), Action::status("502 Bad Gateway", "", ""), {
        Action::cut()
    }] {
        let is_over = Arc::new(AtomicBool::new(false));
        let mut stored = 0;
        let server = ScriptedReceiver::start({
            let is_over = Arc::clone(&is_over);
            move |request, _| {
                stored += usize::from(!request.is_empty());
                if request.is_empty() || stored == 1 || is_over.load(Ordering::Relaxed) {
                    Action::store()
                } else {
                    fault.clone()
                }
            }
        })
        .await;
        let receiver = receiver(&server.url());
        let mut queue = Queue::new(&[&receiver], TICKS).await;
        queue.ticks(TICKS, 50).await;
        let running = Running::start(&receiver, &queue, SendTiming { suspect_after: Duration::ZERO, ..timing() });
        running.until("failures", |report| report.retries.len() > 150).await;
        is_over.store(true, Ordering::Relaxed);
        let report = running.finish().await;
        assert_eq!(report.refused, [].into());
        assert_eq!(samples(&server.stored()), TICKS as usize * (50 + OTHERS));
        assert!(queue.has_arrived(&server.stored()));
    }
}

#[tokio::test]
async fn a_receiver_that_is_down_for_long_gets_the_same_bytes_again() {
    for fault in [
        Action::cut(),
        Action::status("500 Internal Server Error", "", ""),
        Action::status("502 Bad Gateway", "", ""),
        Action::status("503 Service Unavailable", "", ""),
    ] {
        let is_down = Arc::new(AtomicBool::new(false));
        let server = ScriptedReceiver::start({
            let is_down = Arc::clone(&is_down);
            move |_, _| if is_down.load(Ordering::Relaxed) { fault.clone() } else { Action::store() }
        })
        .await;
        let receiver = receiver(&server.url());
        let mut queue = Queue::new(&[&receiver], 2).await;
        queue.ticks(1, 4).await;
        let timing = SendTiming { suspect_after: Duration::ZERO, ..timing() };
        let running = Running::start(&receiver, &queue, timing);
        running.until_answered(&queue).await;
        is_down.store(true, Ordering::Relaxed);
        let before = server.requests().len();
        queue.ticks(1, 4).await;
        running.until("failures", |report| report.retries.len() > 30).await;
        is_down.store(false, Ordering::Relaxed);
        running.finish().await;
        let sent: Vec<_> =
            server.requests().split_off(before).into_iter().filter(|request| !request.is_empty()).collect();
        assert!(sent.iter().all(|request| request.series == sent[0].series), "nothing is divided");
        assert_eq!(sent[0].samples(), 4 + OTHERS);
    }
}

#[tokio::test]
async fn a_receiver_whose_newest_samples_are_hours_ahead_is_reported_until_it_stores_one() {
    let is_ahead = Arc::new(AtomicBool::new(true));
    let server = ScriptedReceiver::start({
        let is_ahead = Arc::clone(&is_ahead);
        move |request, _| match is_ahead.load(Ordering::Relaxed) && !request.is_empty() {
            true => Action::status("400 Bad Request", "", "out of order sample"),
            false => Action::store(),
        }
    })
    .await;
    let receiver = receiver(&server.url());
    let mut queue = Queue::new(&[&receiver], 3).await;
    let running = Running::start(&receiver, &queue, timing());
    for tick in 1..=2 {
        queue.ticks(1, 4).await;
        let refused = tick * (4 + OTHERS as u64);
        let is_refused = |report: &Report| report.refused.values().sum::<u64>() == refused;
        let is_over = |report: &Report| report.queue_ticks == 0 && is_refused(report) && report.all_refused.is_some();
        let report = running.until("a report", is_over).await;
        assert_eq!(report.all_refused.as_deref(), Some("status 400: out of order sample"));
    }
    is_ahead.store(false, Ordering::Relaxed);
    queue.ticks(1, 4).await;
    let report = running.finish().await;
    assert!(queue.has_arrived(&server.stored()));
    assert_eq!((report.all_refused, report.refused), (None, [("out_of_order", 2 * (4 + OTHERS as u64))].into()));
}

#[tokio::test]
async fn ticks_older_than_the_longest_age_are_left_out_but_for_the_newest() {
    let server = ScriptedReceiver::start(|_, _| Action::store()).await;
    for (age_max, arrived) in [(Duration::from_secs(60 * 9 + 30), 10), (Duration::ZERO, 1)] {
        let receiver = PushReceiver { age_max, ..receiver(&format!("{}?{arrived}", server.url())) };
        let mut queue = Queue::new(&[&receiver], 30).await;
        queue.ticks(30, 2).await;
        let before = samples(&server.stored());
        let running = Running::start(&receiver, &queue, timing());
        let report = running.finish().await;
        assert!(queue.has_arrived(&server.stored()));
        assert_eq!(samples(&server.stored()) - before, arrived * (2 + OTHERS));
        assert_eq!(report.refused, [("max_age", (30 - arrived as u64) * (2 + OTHERS as u64))].into());
    }
}

/// The first value of a series is older than the longest age. The receiver stored it, and its answer was lost, or it never came: a zero
/// before the first value that is sent would be right only for the second.
#[tokio::test]
async fn a_series_that_began_before_the_longest_age_falls_at_no_receiver() {
    for is_stored in [true, false] {
        let server = ScriptedReceiver::start(|_, _| Action::store()).await;
        let receiver = receiver(&server.url());
        let mut queue = Queue::new(&[&receiver], 30).await;
        // The position of the other one stays at the beginning, as if no answer had arrived.
        let other =
            PushReceiver { name: ReceiverName::new("other"), age_max: Duration::from_secs(570), ..receiver.clone() };
        let interval = Duration::from_millis(INTERVAL_MILLIS as u64);
        let receivers = [receiver.name.clone(), other.name.clone()].into();
        queue.handle.configure(QueueSettings { receivers, interval, bytes_max: u64::MAX >> 1 }).await.unwrap();
        queue.ticks(3, 1).await;
        for value in 4..30 {
            queue.tick([("counter_0_total".to_owned(), f64::from(10 * value)), ("late_total".to_owned(), 5.0)]).await;
        }
        if is_stored {
            Running::start(&receiver, &queue, timing()).finish().await;
        }
        Running::start(&other, &queue, timing()).finish().await;
        let stored = server.stored();
        check(&stored);
        let is_late = |labels: &[(String, String)]| labels.iter().any(|(_, value)| value == "late_total");
        let (_, late) = stored.iter().find(|(labels, _)| is_late(labels)).expect("its newest value");
        let first = late.first_key_value().map(|(_, bits)| f64::from_bits(*bits));
        assert_eq!(first, Some(if is_stored { 0.0 } else { 5.0 }));
        assert!(queue.has_arrived(&stored));
    }
}

#[tokio::test]
async fn samples_that_are_too_old_are_counted_for_a_receiver_of_the_five_families_as_it_would_get_them() {
    let server = ScriptedReceiver::start(|_, _| Action::store()).await;
    let receiver = PushReceiver { series: PushedSeries::Five, age_max: Duration::ZERO, ..receiver(&server.url()) };
    let mut queue = Queue::new(&[&receiver], 30).await;
    queue.ticks(30, 7).await;
    let report = Running::start(&receiver, &queue, timing()).finish().await;
    assert_eq!(report.refused, [("max_age", 29 * OTHERS as u64)].into());
    assert_eq!(samples(&server.stored()), OTHERS);
}

#[tokio::test]
async fn what_a_corrected_url_would_solve_names_the_flag_that_preserves_the_queue() {
    const ADVICE: &str = "if you change the URL, keep the name with --push.name";
    for (status, is_of_url) in [
        ("301 Moved Permanently", true),
        ("308 Permanent Redirect", true),
        ("404 Not Found", true),
        ("405 Method Not Allowed", true),
        ("401 Unauthorized", false),
        ("403 Forbidden", false),
    ] {
        let server =
            ScriptedReceiver::start(move |_, _| Action::status(status, "Location: http://a.example/\r\n", "")).await;
        let receiver = receiver(&server.url());
        let mut queue = Queue::new(&[&receiver], 1).await;
        queue.ticks(1, 1).await;
        let report =
            Running::start(&receiver, &queue, timing()).until("a refusal", |report| !report.holds.is_empty()).await;
        assert_eq!(report.holds[0].ends_with(ADVICE), is_of_url, "{:?}", report.holds);
    }
    let closed = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let unavailable = ScriptedReceiver::start(|_, _| Action::status("503 Service Unavailable", "", "")).await;
    for (url, is_of_url) in
        [(format!("http://{closed}/"), true), ("http://receiver.invalid/".to_owned(), true), (unavailable.url(), false)]
    {
        let receiver = receiver(&url);
        let mut queue = Queue::new(&[&receiver], 1).await;
        queue.ticks(1, 1).await;
        let report =
            Running::start(&receiver, &queue, timing()).until("a failure", |report| !report.retries.is_empty()).await;
        assert_eq!(report.retries[0].0.ends_with(ADVICE), is_of_url, "{:?}", report.retries);
    }
}

#[tokio::test]
async fn a_sender_without_a_receiver_ends_when_it_is_stopped_and_its_queue_stays() {
    let receiver = receiver("http://127.0.0.1:1/");
    let mut queue = Queue::new(&[&receiver], 3).await;
    queue.ticks(3, 1).await;
    let mut running = Running::start(&receiver, &queue, timing());
    let report = running.until("a failure", |report| !report.retries.is_empty()).await;
    assert!(report.retries[0].0.contains("check that the receiver runs"), "{:?}", report.retries);
    running.finish.cancel();
    running.stop.cancel();
    patiently("the end", &mut running.task).await.unwrap();
    let (position, _) = queue.handle.open(&receiver.name).await.unwrap();
    assert_eq!(queue.handle.size_after(position.time).await.unwrap().ticks, 3);
}

/// A request that a receiver does not answer before it is released.
struct Detained {
    arrived: std::sync::mpsc::Receiver<()>,
    release: std::sync::mpsc::Sender<()>,
}

impl Detained {
    /// Returns it, and what a receiver calls that has it.
    fn new() -> (Self, impl FnOnce() + Send + 'static) {
        let (arrives, arrived) = std::sync::mpsc::channel();
        let (release, released) = std::sync::mpsc::channel();
        let detain = move || {
            arrives.send(()).expect("the test waits");
            released.recv().expect("the test releases it");
        };
        (Self { arrived, release }, detain)
    }

    async fn until_arrived(self) -> std::sync::mpsc::Sender<()> {
        let Self { arrived, release } = self;
        patiently("the request", tokio::task::spawn_blocking(move || arrived.recv())).await.unwrap().unwrap();
        release
    }
}

/// Takes `ticks` ticks in which `series` counters increase, continuing at the tick with this number.
async fn increase(queue: &mut Queue, first: i64, ticks: i64, series: usize) {
    for tick in first..first + ticks {
        let value = |index: usize| (format!("counter_{index}_total"), (tick * 10 + index as i64) as f64);
        queue.tick((0..series).map(value)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn ticks_that_are_thinned_while_a_request_is_on_its_way_lose_no_count() {
    const SERIES: usize = 30;
    let (detained, detain) = Detained::new();
    let mut detain = Some(detain);
    let server = ScriptedReceiver::start(move |request, _| {
        if !request.is_empty()
            && let Some(detain) = detain.take()
        {
            detain();
        }
        Action::store()
    })
    .await;
    let receiver = receiver(&server.url());
    let mut queue = Queue::new(&[&receiver], 400).await;
    let begin = queue.next_millis;
    increase(&mut queue, 1, 100, SERIES).await;
    let bytes_max = queue.handle.size_after(TickTime::NEVER).await.unwrap().bytes;
    let interval = Duration::from_millis(INTERVAL_MILLIS as u64);
    let settings = QueueSettings { receivers: vec![receiver.name.clone()], interval, bytes_max };
    queue.handle.configure(settings).await.unwrap();
    let running = Running::start(&receiver, &queue, timing());
    let release = detained.until_arrived().await;
    increase(&mut queue, 101, 300, SERIES).await;
    let thinned = queue.handle.thinned_ticks();
    assert!(thinned > 100, "{thinned} ticks were thinned");
    release.send(()).unwrap();
    let report = running.finish().await;
    assert_eq!((report.queue_ticks, report.refused.len()), (0, 0));
    let stored = server.stored();
    assert!(queue.has_arrived(&stored));
    check(&stored);
    // Those that were on their way arrived as they were; whatever arrived has the value of its time.
    let of_counters = stored.iter().filter_map(|(labels, samples)| {
        let (_, name) = labels.iter().find(|(label, _)| label == "__name__")?;
        Some((name.strip_prefix("counter_")?.strip_suffix("_total")?.parse::<i64>().ok()?, samples))
    });
    for (index, samples) in of_counters {
        let expected = |time: i64| ((time - begin) / INTERVAL_MILLIS + 1) * 10 + index;
        assert!(samples.iter().all(|(time, bits)| f64::from_bits(*bits) == expected(*time) as f64), "{samples:?}");
        assert!(samples.len() >= 100 && (samples.len() as u64) <= 400 - thinned / 2, "{} samples", samples.len());
    }
}

type IsRefused = Box<dyn Fn(&Received) -> bool + Send>;

/// As Prometheus without a window, and as a receiver that does not take one series: the fifth request is answered after the ticks.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn ticks_that_come_while_a_batch_is_divided_follow_it() {
    const SERIES: usize = 20;
    let bound = unix_millis() - 60 * INTERVAL_MILLIS;
    let is_old =
        move |request: &Received| request.series.iter().flat_map(|(_, samples)| samples).any(|(time, _)| *time < bound);
    let has_bad = |request: &Received| has_series(request, "counter_3_total");
    let rules: [(&str, &str, IsRefused); 2] =
        [("out of bounds", "a bound", Box::new(is_old)), ("label value too long", "a series", Box::new(has_bad))];
    for (text, what, is_refused) in rules {
        let (detained, detain) = Detained::new();
        let mut detain = Some(detain);
        let server = ScriptedReceiver::start(move |request, _| {
            if request.number == 4
                && let Some(detain) = detain.take()
            {
                detain();
            }
            if is_refused(request) { Action::status("400 Bad Request", "", text) } else { Action::store() }
        })
        .await;
        let receiver = receiver(&server.url());
        let mut queue = Queue::new(&[&receiver], 610).await;
        increase(&mut queue, 1, 600, SERIES).await;
        let running = Running::start(&receiver, &queue, timing());
        let release = detained.until_arrived().await;
        increase(&mut queue, 601, 10, SERIES).await;
        release.send(()).unwrap();
        let report = running.finish().await;
        let stored = server.stored();
        check(&stored);
        assert_eq!(report.queue_ticks, 0, "{what}");
        let newest = queue.newest_time();
        let arrived = stored.values().filter(|samples| samples.contains_key(&newest)).count();
        let refused_series = usize::from(what == "a series");
        assert_eq!(arrived, SERIES + OTHERS - refused_series, "{what}");
        let (all, refused) = (610 * (SERIES + OTHERS), report.refused.values().sum::<u64>() as usize);
        assert_eq!(samples(&stored) + refused, all, "{what}: each is stored or reported");
        let least = if refused_series == 1 { 610 * (SERIES + OTHERS - 1) } else { 60 * (SERIES + OTHERS) };
        assert!(samples(&stored) >= least, "{what}: {} samples", samples(&stored));
    }
}

#[tokio::test]
async fn series_that_have_equal_values_in_a_backlog_take_less_than_a_byte_and_a_half_a_sample() {
    const SERIES: usize = 100;
    let server = ScriptedReceiver::start(|_, _| Action::store()).await;
    let receiver = receiver(&server.url());
    let mut queue = Queue::new(&[&receiver], 98).await;
    for _ in 0..98 {
        // No two neighbours are equal.
        let value = |index: usize| [1_000.0, 7.5, 0.1, 42.25, 123_456.789][index % 5];
        queue.tick((0..SERIES).map(|index| (format!("counter_{index}_total"), value(index)))).await;
    }
    let report = Running::start(&receiver, &queue, timing()).finish().await;
    let requests = server.requests();
    let bytes: usize = requests.iter().map(|request| request.body_bytes).sum();
    assert_eq!((requests.len(), report.accepted), (2, 98 * (SERIES + OTHERS) as u64));
    let bytes_each = bytes as f64 / report.accepted as f64;
    assert!(bytes_each < 1.5, "{bytes_each} bytes a sample");
}
