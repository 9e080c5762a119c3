//! A push queue whose requests are answered on the thread that makes them, beside a ledger that counts what it is told.

use std::collections::BTreeMap;
use std::path::Path;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use prometheus::Registry;
use session_buddy_bridge::internals::exposition::{Encoding, Format, RegistryText, render};
use session_buddy_bridge::internals::ledger::{ConnectionId, FeedSpec, Limits};
use session_buddy_bridge::internals::protocol::{self, AnomalyEntry, Event, EventKind, Message};
use session_buddy_bridge::internals::push::{
    HostHash, Identified, LabelSets, OwnSample, QueueError, QueueHandle, QueueServer, QueueSettings, ReceiverName,
    Series, SeriesId, TickKind, TickOutcome, TickTime, is_stale,
};
use session_buddy_bridge::internals::shared_ledger::SharedLedger;
use session_buddy_bridge::internals::store::Store;

use super::scrape::{self, Scrape};

/// Between two ticks.
pub const INTERVAL: Duration = Duration::from_secs(60);

/// The values of series, by name and labels.
pub type Values = BTreeMap<scrape::Series, f64>;

/// A ledger in memory with one feed, which counts each event at once.
pub struct Counted {
    pub ledger: Arc<SharedLedger>,
    connection: ConnectionId,
}

impl Counted {
    pub fn new() -> Self {
        let ledger = Arc::new(SharedLedger::new(Limits::default()));
        let connection = ledger.open(ledger.add_local_feed("test"));
        Self { ledger, connection }
    }

    /// A ledger with a feed that lists a skill: its first snapshot is history.
    pub fn by_snapshots() -> Self {
        let ledger = Arc::new(SharedLedger::new(Limits::default()));
        let feed = ledger.add_feed(FeedSpec { identity: "ws://a:1/".to_owned(), ..FeedSpec::default() });
        let connection = ledger.open(feed);
        Self { ledger, connection }
    }

    /// A snapshot that lists the skill `listed` with this total.
    pub fn snapshot(&self, total: u64) {
        let text = format!(
            r#"{{"type":"metrics_update","timestamp":"2026-11-22T10:24:23.585602+00:00","data":{{"top_skills":[
                {{"skill_name":"listed","total_invocations":{total},"completion_rate":100.0,"avg_duration_seconds":0.5}}],
                "anomalies":[]}}}}"#
        );
        protocol::read(&text, &protocol::Limits::default(), &mut |message| {
            self.ledger.apply(self.connection, &message.unwrap());
        });
    }

    pub fn invocation(&self, skill_name: &str, completed: bool) {
        self.event(EventKind::Invocation {
            skill_name: skill_name.into(),
            workflow_phase: Some("execution".into()),
            completed,
            duration_seconds: Some(0.75),
            session_id: None,
        });
    }

    pub fn rate(&self, skill_name: &str, rate: f64) {
        self.event(EventKind::CompletionRate { skill_name: skill_name.into(), rate });
    }

    pub fn anomaly(&self, skill_name: &str) {
        let (skill_name, anomaly_type) = (skill_name.into(), "drop".into());
        self.event(EventKind::Anomaly(AnomalyEntry {
            skill_name,
            anomaly_type,
            detected_at: None,
            deviation_score: None,
        }));
    }

    pub fn sessions(&self, count: u64) {
        self.event(EventKind::ActiveSessions { count });
    }

    fn event(&self, kind: EventKind<'_>) {
        self.ledger.apply(self.connection, &Message::Event(Event { id: None, timestamp: None, kind }));
    }

    /// What a scrape exposes now.
    pub fn scrape(&self, registry: &Registry) -> Values {
        let body =
            render(&*self.ledger, &RegistryText::new(registry.clone()), Format::Text, Encoding::Identity).concat();
        Scrape::parse(std::str::from_utf8(&body).unwrap()).unwrap().samples
    }
}

pub fn receivers(names: &[&str]) -> Vec<ReceiverName> {
    names.iter().map(|name| ReceiverName::new(name)).collect()
}

pub fn settings(names: &[&str]) -> QueueSettings {
    QueueSettings { receivers: receivers(names), interval: INTERVAL, bytes_max: 256 << 20 }
}

pub fn labels(sets: &[&str]) -> LabelSets {
    sets.iter().map(|set| (*set).to_owned()).collect()
}

pub fn here() -> HostHash {
    HostHash::of(b"here", b"1")
}

/// The time of the tick with this number. Far behind the real time, so that no series begins in the future.
pub fn at(number: i64) -> TickTime {
    TickTime::from_millis(1_700_000_000_000 + number * INTERVAL.as_millis() as i64)
}

/// A handle, and what answers it.
pub struct Queue {
    pub handle: QueueHandle,
    server: QueueServer,
    pub store: Store,
    ledger: Arc<SharedLedger>,
    /// Whether the ledger's changes are on disk.
    pub is_committed: bool,
}

impl Queue {
    /// Opens the queue in `store`, without an identity.
    pub fn unidentified(store: Store, counted: &Counted) -> Self {
        let ledger = Arc::clone(&counted.ledger);
        let (handle, server) = QueueHandle::persistent(Arc::clone(&ledger));
        Self { handle, server, store, ledger, is_committed: true }
    }

    /// Opens the queue in `store` for these receivers.
    pub fn open(store: Store, counted: &Counted, settings: QueueSettings) -> Self {
        let mut queue = Self::unidentified(store, counted);
        assert!(queue.identify(here(), labels(&["a"])).identity().is_some());
        queue.configure(settings);
        queue
    }

    pub fn at_path(path: &Path, counted: &Counted, settings: QueueSettings) -> Self {
        Self::open(Store::open(path, |_| Ok(())).unwrap().store, counted, settings)
    }

    /// Answers what `request` asks of the handle.
    pub fn answer<T>(&mut self, request: impl Future<Output = T>) -> T {
        let mut request = pin!(request);
        loop {
            if let Poll::Ready(answer) = request.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
                return answer;
            }
            self.server.answer(&mut self.store, &self.ledger, self.is_committed);
        }
    }

    pub fn identify(&mut self, host: HostHash, labels: LabelSets) -> Identified {
        let handle = self.handle.clone();
        self.answer(handle.identify(host, labels)).unwrap()
    }

    pub fn configure(&mut self, settings: QueueSettings) {
        let handle = self.handle.clone();
        self.answer(handle.configure(settings)).unwrap();
    }

    pub fn try_tick(&mut self, time: TickTime, own: Vec<OwnSample>, kind: TickKind) -> Result<TickOutcome, QueueError> {
        let handle = self.handle.clone();
        self.answer(handle.take_tick(time, own, kind))
    }

    /// Takes the tick with this number, without own metrics, and returns whether it is queued.
    pub fn tick(&mut self, number: i64) -> bool {
        self.try_tick(at(number), Vec::new(), TickKind::Regular).unwrap() == TickOutcome::Queued
    }

    pub fn advance(&mut self, receiver: &str, to: TickTime) {
        let handle = self.handle.clone();
        let to = handle.watch().borrow().at(to);
        self.answer(handle.advance(&ReceiverName::new(receiver), to)).unwrap();
    }

    pub fn catalog(&mut self) -> Vec<Arc<Series>> {
        let handle = self.handle.clone();
        self.answer(handle.series(SeriesId::FIRST)).unwrap()
    }

    /// The ticks that a receiver has not answered for, each with the changed values alone.
    pub fn ticks(&mut self, receiver: &str) -> Vec<(TickTime, Values)> {
        let handle = self.handle.clone();
        let catalog = self.catalog();
        let receiver = ReceiverName::new(receiver);
        let (position, _) = self.answer(handle.open(&receiver)).unwrap();
        let (_, backlog) = self.answer(handle.backlog(&receiver, position, usize::MAX, SeriesId::FIRST)).unwrap();
        let named = |values: &[(SeriesId, f64)]| {
            values.iter().map(|(id, value)| (name(&catalog[id.index()]), *value)).collect()
        };
        backlog.ticks.iter().map(|tick| (tick.time, named(&tick.values))).collect()
    }

    /// What a receiver would have after each tick that it has not answered for, vanished series left out; first at its
    /// position.
    pub fn states(&mut self, receiver: &str) -> Vec<(TickTime, Values)> {
        let handle = self.handle.clone();
        let catalog = self.catalog();
        let (position, values) = self.answer(handle.open(&ReceiverName::new(receiver))).unwrap();
        let mut now: Values = values.iter().map(|(id, value)| (name(&catalog[id.index()]), *value)).collect();
        let mut states = vec![(position.time, now.clone())];
        for (time, changed) in self.ticks(receiver) {
            now.extend(changed);
            now.retain(|_, value| !is_stale(*value));
            states.push((time, now.clone()));
        }
        states
    }
}

pub fn name(series: &Series) -> scrape::Series {
    let labels = series.name.labels.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect();
    scrape::Series { name: series.name.metric.to_string(), labels }
}
