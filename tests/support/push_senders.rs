//! A queue of remote write whose ticks a test takes, and senders of it whose reports it reads.

use std::collections::BTreeMap;
use std::error::Error;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use session_buddy_bridge::internals::ledger::Limits;
use session_buddy_bridge::internals::push::{
    ClockGuard, HostHash, OwnSample, PushLabels, PushReceiver, PushedSeries, QueueHandle, QueueSettings, QueueSize,
    ReceiverListener, ReceiverName, RefusalReason, SendTiming, Sender, SeriesKind, SeriesName, TickKind, TickOutcome,
    TickTime, WallClock,
};
use session_buddy_bridge::internals::shared_ledger::SharedLedger;
use session_buddy_bridge::settings::HttpCredentials;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::patiently;
use super::scripted_receiver::{Action, Stored};

pub const INTERVAL_MILLIS: i64 = 60_000;

/// Series of each tick beside those of the test: `active_sessions_total`.
pub const OTHERS: usize = 1;

/// Short waits: what is waited for is decided, not how long.
pub fn timing() -> SendTiming {
    let (min, max) = (Duration::from_millis(2), Duration::from_millis(20));
    SendTiming { retry_min: min, retry_max: max, hold_min: min, hold_max: max, ..SendTiming::default() }
}

/// What was reported.
#[derive(Debug, Clone, Default)]
pub struct Report {
    /// Number of requests, those without samples and those without an answer included.
    pub requests: u64,
    pub retries: Vec<(String, f64)>,
    pub holds: Vec<String>,
    pub stalls: Vec<String>,
    pub refused: BTreeMap<&'static str, u64>,
    /// Why the receiver refused every sample, until it accepts one.
    pub all_refused: Option<String>,
    pub accepted: u64,
    pub queue_ticks: u64,
    /// The time of the last tick that the receiver has answered for, while nothing is queued.
    pub answered_millis: Option<i64>,
    pub is_ahead: bool,
    pub skew_seconds: f64,
}

#[derive(Debug)]
pub struct Recorder(watch::Sender<Report>);

impl Recorder {
    pub fn new() -> (Arc<Self>, watch::Receiver<Report>) {
        let (sender, receiver) = watch::channel(Report::default());
        (Arc::new(Self(sender)), receiver)
    }
}

impl ReceiverListener for Recorder {
    fn request(&self, _code: Option<u16>) {
        self.0.send_modify(|report| report.requests += 1);
    }
    fn accepted(&self, samples: u64, _wall_seconds: f64) {
        self.0.send_modify(|report| (report.accepted, report.all_refused) = (report.accepted + samples, None));
    }
    fn retry(&self, problem: &str, retry_in_seconds: f64) {
        self.0.send_modify(|report| report.retries.push((problem.to_owned(), retry_in_seconds)));
    }
    fn held(&self, problem: &str, _retry_in_seconds: f64) {
        self.0.send_modify(|report| report.holds.push(problem.to_owned()));
    }
    fn stalled(&self, problem: &str) {
        self.0.send_modify(|report| report.stalls.push(problem.to_owned()));
    }
    fn refused(&self, samples: u64, reason: RefusalReason, _answer: &str) {
        self.0.send_modify(|report| *report.refused.entry(reason.code()).or_default() += samples);
    }
    fn all_refused(&self, answer: &str) {
        self.0.send_modify(|report| report.all_refused = Some(answer.to_owned()));
    }
    fn queue_failed(&self, error: &dyn Error) {
        panic!("{error}");
    }
    fn queue(&self, queue: QueueSize, _thinned_ticks: u64) {
        self.0.send_modify(|report| {
            report.queue_ticks = queue.ticks;
            // Of an empty queue it is the position.
            report.answered_millis = queue.oldest.filter(|_| queue.ticks == 0).map(TickTime::millis);
        });
    }
    fn clock(&self, skew_seconds: f64, _is_wrong: bool, is_ahead: bool) {
        self.0.send_modify(|report| (report.is_ahead, report.skew_seconds) = (is_ahead, skew_seconds));
    }
}

/// A queue, and the values of its newest tick.
pub struct Queue {
    pub handle: QueueHandle,
    pub clock_guard: ClockGuard,
    pub next_millis: i64,
    pub newest: BTreeMap<String, f64>,
    /// Of the metrics of `newest`. From tick to tick they are the same, as those of a registry.
    names: BTreeMap<String, Arc<SeriesName>>,
}

impl Queue {
    /// A queue in memory for `receivers`, whose `ticks` ticks end now.
    pub async fn new(receivers: &[&PushReceiver], ticks: i64) -> Self {
        let handle = QueueHandle::in_memory(Arc::new(SharedLedger::new(Limits::default()))).unwrap();
        Self::of(handle, receivers, ticks).await
    }

    /// The queue behind `handle`, likewise.
    pub async fn of(handle: QueueHandle, receivers: &[&PushReceiver], ticks: i64) -> Self {
        handle.identify(HostHash::of(b"host", b"id"), ["x".to_owned()].into()).await.unwrap();
        let receivers = receivers.iter().map(|receiver| receiver.name.clone()).collect();
        let interval = Duration::from_millis(INTERVAL_MILLIS as u64);
        handle.configure(QueueSettings { receivers, interval, bytes_max: u64::MAX >> 1 }).await.unwrap();
        let now = unix_millis();
        Self {
            handle,
            clock_guard: ClockGuard::default(),
            next_millis: now - (ticks - 1) * INTERVAL_MILLIS,
            newest: BTreeMap::new(),
            names: BTreeMap::new(),
        }
    }

    /// A tick with these values of counters.
    pub async fn tick(&mut self, values: impl IntoIterator<Item = (String, f64)>) {
        self.take(values, TickKind::Regular).await;
    }

    /// The last tick of the process, with these values of counters.
    pub async fn last_tick(&mut self, values: impl IntoIterator<Item = (String, f64)>) {
        self.take(values, TickKind::Final).await;
    }

    async fn take(&mut self, values: impl IntoIterator<Item = (String, f64)>, kind: TickKind) {
        self.newest.extend(values);
        for metric in self.newest.keys().filter(|metric| !self.names.contains_key(*metric)).cloned().collect::<Vec<_>>()
        {
            let name = SeriesName { metric: metric.as_str().into(), labels: Box::default() };
            self.names.insert(metric, name.into());
        }
        let sample = |(name, value): (&Arc<SeriesName>, &f64)| OwnSample {
            name: Arc::clone(name),
            kind: SeriesKind::Counter,
            value: *value,
        };
        // Both are sorted by metric.
        let own = self.names.values().zip(self.newest.values()).map(sample).collect();
        let time = TickTime::from_millis(self.next_millis);
        self.next_millis += INTERVAL_MILLIS;
        assert_eq!(self.handle.take_tick(time, own, kind).await.unwrap(), TickOutcome::Queued);
    }

    /// Ticks in which `series` counters increase.
    pub async fn ticks(&mut self, ticks: i64, series: usize) {
        for tick in 1..=ticks {
            self.tick((0..series).map(|index| (format!("counter_{index}_total"), (tick * 10 + index as i64) as f64)))
                .await;
        }
    }

    pub fn newest_time(&self) -> i64 {
        self.next_millis - INTERVAL_MILLIS
    }

    /// The newest value of each of its series, in bits, is the last one that is stored.
    pub fn has_arrived(&self, stored: &Stored) -> bool {
        let last = |metric: &str| {
            let (_, samples) = stored.iter().find(|(labels, _)| labels.iter().any(|(_, value)| value == metric))?;
            samples.last_key_value().map(|(time, bits)| (*time, *bits))
        };
        self.newest.iter().all(|(metric, value)| last(metric) == Some((self.newest_time(), value.to_bits())))
    }
}

/// No counter falls, and each has the labels of the receiver.
pub fn check(stored: &Stored) {
    for (labels, samples) in stored {
        let values: Vec<_> = samples.values().map(|bits| f64::from_bits(*bits)).collect();
        assert!(values.is_sorted(), "{labels:?} falls: {values:?}");
        assert!(labels.is_sorted() && labels.iter().any(|(name, _)| name == "instance"), "{labels:?}");
    }
}

pub fn samples(stored: &Stored) -> usize {
    stored.values().map(BTreeMap::len).sum()
}

pub fn receiver(url: &str) -> PushReceiver {
    PushReceiver {
        name: ReceiverName::new(url),
        url: url.parse().unwrap(),
        credentials: HttpCredentials::default(),
        labels: PushLabels::of_host("laptop"),
        series: PushedSeries::All,
        age_max: Duration::from_secs(7 * 86_400),
        timeout: Duration::from_secs(30),
    }
}

/// A sender that runs. Dropping it ends it.
pub struct Running {
    pub report: watch::Receiver<Report>,
    pub finish: CancellationToken,
    pub stop: CancellationToken,
    pub task: JoinHandle<()>,
}

impl Running {
    pub fn start(receiver: &PushReceiver, queue: &Queue, timing: SendTiming) -> Self {
        let (listener, report) = Recorder::new();
        let sender = Sender::new(receiver.clone(), queue.handle.clone(), queue.clock_guard.clone(), listener, timing);
        let (finish, stop) = (CancellationToken::new(), CancellationToken::new());
        let task = tokio::spawn(sender.run(finish.clone(), stop.clone()));
        Self { report, finish, stop, task }
    }

    pub async fn until(&self, what: &str, is_so: impl Fn(&Report) -> bool) -> Report {
        let mut report = self.report.clone();
        patiently(what, report.wait_for(|report| is_so(report))).await.expect("the sender runs").clone()
    }

    /// Waits until the receiver has answered for the newest tick of `queue`.
    pub async fn until_answered(&self, queue: &Queue) -> Report {
        let newest = Some(queue.newest_time());
        self.until("an answer for the newest tick", |report| report.answered_millis == newest).await
    }

    /// Sends all that is queued, and ends.
    pub async fn finish(mut self) -> Report {
        self.finish.cancel();
        patiently("the end of the sender", &mut self.task).await.unwrap();
        self.report.borrow().clone()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// A clock that a test sets. Clones are the same one.
#[derive(Debug, Clone, Default)]
pub struct SetClock(Arc<AtomicI64>);

impl SetClock {
    /// Sets it so far ahead of the machine's.
    pub fn set_ahead(&self, seconds: i64) {
        self.0.store(seconds * 1_000, Ordering::Relaxed);
    }

    pub fn millis(&self) -> i64 {
        unix_millis() + self.0.load(Ordering::Relaxed)
    }

    pub fn wall_clock(&self) -> WallClock {
        let clock = self.clone();
        WallClock::new(move || clock.millis() * 1_000)
    }
}

/// Now, in milliseconds since the Unix epoch.
pub fn unix_millis() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("it is after 1970").as_millis() as i64
}

/// Stores, and answers with the time of this machine.
pub fn store_with_date() -> Action {
    Action::status("204 No Content", &format!("Date: {}\r\n", http_date(SystemTime::now())), "").stored()
}

/// The time as HTTP writes it.
pub fn http_date(at: SystemTime) -> String {
    let at = jiff::Timestamp::try_from(at).unwrap();
    jiff::fmt::rfc2822::DateTimePrinter::new().timestamp_to_rfc9110_string(&at).unwrap()
}
