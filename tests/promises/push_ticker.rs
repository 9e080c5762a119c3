//! A tick that cannot be queued is seen, and collectors of an embedding program hold up no tick.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;
use prometheus::{IntCounter, Registry};
use rusqlite::Connection;
use session_buddy_bridge::internals::ledger::Limits;
use session_buddy_bridge::internals::lent_registry::LentRegistry;
use session_buddy_bridge::internals::push::{
    Grid, HostHash, Position, QueueHandle, QueueSettings, ReceiverName, SeriesId, TickTime, Ticker, WallClock, is_stale,
};
use session_buddy_bridge::internals::shared_ledger::SharedLedger;
use session_buddy_bridge::internals::store::Store;
use tokio::sync::Mutex;

use crate::support::patiently;
use crate::support::push_senders::{Queue, Recorder, receiver, unix_millis};

const INTERVAL: Duration = Duration::from_millis(200);

async fn grid(handle: &QueueHandle) -> Grid {
    let identified = handle.identify(HostHash::of(b"host", b"id"), ["x".to_owned()].into()).await.unwrap();
    Grid::new(INTERVAL, identified.identity().unwrap())
}

#[tokio::test]
async fn receivers_are_down_while_no_tick_can_be_queued() {
    let ledger = Arc::new(SharedLedger::new(Limits::default()));
    let (handle, mut server) = QueueHandle::persistent(Arc::clone(&ledger));
    let (mut store, ()) = Store::on(Connection::open_in_memory().unwrap(), "memory".as_ref(), |_| Ok(())).unwrap();
    // Counts cannot be committed.
    let mut answer = async |is_committed: bool| loop {
        server.answer(&mut store, &ledger, is_committed);
        tokio::task::yield_now().await;
    };
    let (listener, report) = Recorder::new();
    let mut stalled = report.clone();
    let failing = async {
        let grid = grid(&handle).await;
        let mut ticker = Ticker::new(handle.clone(), grid, None, WallClock::default(), vec![listener]);
        let receivers = vec![ReceiverName::new("r")];
        handle.configure(QueueSettings { receivers, interval: INTERVAL, bytes_max: u64::MAX >> 1 }).await.unwrap();
        tokio::select! {
            () = ticker.run() => unreachable!("the queue has not ended"),
            report = stalled.wait_for(|report| !report.stalls.is_empty()) => {
                (ticker, report.unwrap().stalls[0].clone())
            }
        }
    };
    let (mut ticker, problem) = tokio::select! {
        failed = patiently("a report", failing) => failed,
        () = answer(false) => unreachable!("it answers for ever"),
    };
    assert_eq!(problem, "no tick is queued: the state file cannot be written, so that nothing new is queued");
    let mut newest = handle.watch();
    let taken = async {
        tokio::select! {
            () = ticker.run() => unreachable!("the queue has not ended"),
            tick = newest.wait_for(|newest| newest.time != TickTime::NEVER) => drop(tick.unwrap()),
        }
    };
    tokio::select! {
        () = patiently("a tick", taken) => {}
        () = answer(true) => unreachable!("it answers for ever"),
    }
    assert_eq!(report.borrow().stalls.iter().filter(|stall| **stall != problem).count(), 0);
}

/// A collector that blocks while its gate is locked.
struct Blocking {
    counter: IntCounter,
    gate: Arc<Mutex<()>>,
}

impl Collector for Blocking {
    fn desc(&self) -> Vec<&Desc> {
        self.counter.desc()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let _open = self.gate.blocking_lock();
        self.counter.collect()
    }
}

/// The ticks behind `start` have values of `program_total`, and no end.
async fn check_not_ended(handle: &QueueHandle, receiver: &ReceiverName, start: Position) {
    let (series, backlog) = handle.backlog(receiver, start, 1_000, SeriesId::at(0)).await.unwrap();
    let counter = series.iter().position(|series| &*series.name.metric == "program_total").expect("it is known");
    let values = backlog.ticks.iter().flat_map(|tick| &tick.values).filter(|(id, _)| *id == SeriesId::at(counter));
    assert!(values.clone().count() > 0 && values.clone().all(|(_, value)| !is_stale(*value)), "it has not ended");
}

/// A collector that panics once its switch is set.
struct Panicking {
    counter: IntCounter,
    panics: Arc<AtomicBool>,
}

impl Collector for Panicking {
    fn desc(&self) -> Vec<&Desc> {
        self.counter.desc()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        assert!(!self.panics.load(Ordering::Relaxed), "a defect");
        self.counter.collect()
    }
}

#[tokio::test]
async fn a_collector_that_panics_costs_no_tick_whoever_it_is_of() {
    for is_lent in [false, true] {
        let (registry, panics) = (Registry::new(), Arc::new(AtomicBool::new(false)));
        let counter = IntCounter::new("program_total", "Of the program").unwrap();
        registry.register(Box::new(Panicking { counter, panics: Arc::clone(&panics) })).unwrap();
        let registry = Arc::new(LentRegistry::new(registry));
        if is_lent {
            registry.lend();
        }
        let receiver = receiver("http://127.0.0.1:1/");
        let Queue { handle, .. } = Queue::new(&[&receiver], 1).await;
        let (start, _) = handle.open(&receiver.name).await.unwrap();
        let grid = grid(&handle).await;
        let mut ticker = Ticker::new(handle.clone(), grid, Some(registry), WallClock::default(), Vec::new());
        patiently("a last tick", ticker.take_last()).await;
        let before = handle.watch().borrow().time;
        panics.store(true, Ordering::Relaxed);
        let mut newest = handle.watch();
        tokio::select! {
            () = ticker.run() => unreachable!("the queue has not ended"),
            tick = patiently("a tick", newest.wait_for(|newest| newest.time > before)) => drop(tick.unwrap()),
        }
        check_not_ended(&handle, &receiver.name, start).await;
    }
}

#[tokio::test]
async fn a_collector_that_blocks_holds_up_no_tick_and_keeps_its_last_values() {
    let (registry, gate) = (Registry::new(), Arc::new(Mutex::new(())));
    let counter = IntCounter::new("program_total", "Of the program").unwrap();
    registry.register(Box::new(Blocking { counter, gate: Arc::clone(&gate) })).unwrap();
    let receiver = receiver("http://127.0.0.1:1/");
    let Queue { handle, .. } = Queue::new(&[&receiver], 1).await;
    let (start, _) = handle.open(&receiver.name).await.unwrap();
    let registry = Arc::new(LentRegistry::new(registry));
    registry.lend();
    let mut ticker = Ticker::new(handle.clone(), grid(&handle).await, Some(registry), WallClock::default(), Vec::new());
    let until = async |ticker: &mut Ticker, after: i64| {
        let mut newest = handle.watch();
        let later = newest.wait_for(|newest| newest.time.millis() > after);
        tokio::select! {
            () = ticker.run() => unreachable!("the queue has not ended"),
            tick = patiently("a tick", later) => drop(tick.unwrap()),
        }
    };
    until(&mut ticker, unix_millis() - 10_000).await;
    let _locked = gate.lock().await;
    let blocked = unix_millis();
    until(&mut ticker, blocked).await;
    patiently("the last tick", ticker.take_last()).await;
    assert!(handle.has_last_tick());
    check_not_ended(&handle, &receiver.name, start).await;
}
