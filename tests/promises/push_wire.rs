//! The request of a tick, decoded by other code than that which encodes it, is what a scrape of that moment exposes.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use prometheus::{Gauge, Histogram, HistogramOpts, IntCounterVec, Opts, Registry};
use session_buddy_bridge::internals::health::Health;
use session_buddy_bridge::internals::ledger::{FeedCounters, RuleCounters};
use session_buddy_bridge::internals::push::{
    ClockGuard, HostHash, OwnGatherer, QueueHandle, QueueSettings, Sender, TickKind, TickOutcome, TickTime,
};
use session_buddy_bridge::internals::telemetry::{LedgerCounters, Telemetry};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::support::push_queue::Counted;
use crate::support::push_senders::{Recorder, receiver, timing, unix_millis};
use crate::support::scrape::Series;
use crate::support::scripted_receiver::{Action, Received, ScriptedReceiver};

const FEED: &str = "ws://localhost:8765/";

/// The bridge's own metrics, and a counter, a gauge and a histogram of a program. They change only with a call.
struct Still {
    registry: Registry,
    served: IntCounterVec,
    load: Gauge,
    took: Histogram,
}

impl Still {
    fn new() -> Self {
        let registry = Registry::new();
        let (telemetry, health) = (Arc::new(Telemetry::new()), Arc::new(Health::new()));
        telemetry.feed(FEED);
        health.feed(FEED);
        let feed = FeedCounters { identity: FEED.into(), ..FeedCounters::default() };
        let counters = LedgerCounters { feeds: vec![feed], rules: RuleCounters::default() };
        let served = IntCounterVec::new(Opts::new("served_total", "Served"), &["what"]).unwrap();
        let took = Histogram::with_opts(HistogramOpts::new("took_seconds", "Took").buckets(vec![0.5, 1.0])).unwrap();
        let load = Gauge::new("load", "Load").unwrap();
        registry.register(Box::new(telemetry.collector(health, move || counters.clone()))).unwrap();
        registry.register(Box::new(telemetry.http_collector())).unwrap();
        registry.register(Box::new(served.clone())).unwrap();
        registry.register(Box::new(load.clone())).unwrap();
        registry.register(Box::new(took.clone())).unwrap();
        Self { registry, served, load, took }
    }

    fn change(&self) {
        self.served.with_label_values(&["a \"thing\"\\ of\nthese"]).inc();
        self.load.set(self.load.get() / 3.0 - 1.0);
        self.took.observe(0.75);
    }
}

/// The value of each series at `time`, in bits, by the name and labels that the bridge exposes.
fn received(request: &Received, time: i64) -> BTreeMap<Series, u64> {
    let at = |samples: &[(i64, u64)]| samples.iter().find(|(at, _)| *at == time).map(|(_, bits)| *bits);
    let series = request.series.iter().filter_map(|(labels, samples)| {
        let mut labels: BTreeMap<String, String> = labels.iter().cloned().collect();
        let name = labels.remove("__name__").expect("each series has a name");
        assert_eq!(labels.remove("job").as_deref(), Some("session-buddy"), "{name}");
        assert_eq!(labels.remove("instance").as_deref(), Some("laptop"), "{name}");
        Some((Series { name, labels }, at(samples)?))
    });
    series.collect()
}

#[tokio::test]
async fn the_request_of_a_tick_has_each_series_and_value_of_a_scrape_and_no_other() {
    let (counted, still) = (Counted::new(), Still::new());
    let server = ScriptedReceiver::start(|_, _| Action::store()).await;
    let receiver = receiver(&server.url());
    let handle = QueueHandle::in_memory(Arc::clone(&counted.ledger)).unwrap();
    handle.identify(HostHash::of(b"host", b"id"), ["x".to_owned()].into()).await.unwrap();
    let interval = Duration::from_secs(60);
    let receivers = vec![receiver.name.clone()];
    handle.configure(QueueSettings { receivers, interval, bytes_max: u64::MAX >> 1 }).await.unwrap();
    let (listener, _report) = Recorder::new();
    let sender = Sender::new(receiver, handle.clone(), ClockGuard::default(), listener, timing());
    let (finish, stop) = (CancellationToken::new(), CancellationToken::new());
    let _sender = JoinSet::from_iter([sender.run(finish, stop)]);

    let mut gatherer = OwnGatherer::new(still.registry.clone());
    let start = unix_millis() - 3 * 60_000;
    for (number, time) in (0..3).map(|number| (number, start + number * 60_000)) {
        // In the second tick one skill is new and one has changed, and in the third nothing has.
        match number {
            0 => {
                counted.invocation("a \"rated\"\\ skill\n", true);
                counted.rate("a \"rated\"\\ skill\n", 1.0 / 3.0);
                counted.sessions(2);
                still.change();
            }
            1 => {
                counted.invocation("a \"rated\"\\ skill\n", false);
                counted.invocation("new", true);
                counted.anomaly("new");
                counted.sessions(0);
                still.change();
            }
            _ => {}
        }
        let exposed: BTreeMap<Series, u64> =
            (counted.scrape(&still.registry).into_iter()).map(|(series, value)| (series, value.to_bits())).collect();
        assert!(exposed.len() > 100 && exposed.keys().any(|series| series.name == "served_total"), "{exposed:?}");
        let own = gatherer.gather();
        let taken = handle.take_tick(TickTime::from_millis(time), own, TickKind::Regular).await.unwrap();
        assert_eq!(taken, TickOutcome::Queued);
        server.until("the tick", |stored| stored.values().any(|samples| samples.contains_key(&time))).await;
        let requests = server.requests();
        let requests: Vec<_> = requests.iter().filter(|request| !received(request, time).is_empty()).collect();
        assert_eq!(requests.len(), 1, "a tick is one request");
        assert_eq!(received(requests[0], time), exposed, "tick {number}");
    }
}
