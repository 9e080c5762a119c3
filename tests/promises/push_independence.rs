//! Receivers of one queue do not depend on each other: one that divides its requests, and one that is down for long, delay none.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use session_buddy_bridge::internals::ledger::Limits;
use session_buddy_bridge::internals::push::QueueHandle;
use session_buddy_bridge::internals::shared_ledger::SharedLedger;
use session_buddy_bridge::internals::store::Store;
use tokio_util::sync::CancellationToken;

use crate::support::push_senders::{OTHERS, Queue, Running, check, receiver, samples, timing};
use crate::support::scripted_receiver::{Action, ScriptedReceiver};

const SERIES: usize = 3;

/// Ticks before the senders start.
const BACKLOG: i64 = 8;

/// Ticks that follow one by one.
const FOLLOWING: i64 = 24;

/// Answers the requests of a queue in a state file, until this is dropped.
struct Persisting {
    is_ended: Arc<AtomicBool>,
    _folder: tempfile::TempDir,
}

impl Persisting {
    fn start() -> (Self, QueueHandle) {
        let folder = tempfile::tempdir().unwrap();
        let ledger = Arc::new(SharedLedger::new(Limits::default()));
        let (handle, mut server) = QueueHandle::persistent(Arc::clone(&ledger));
        let mut store = Store::open(&folder.path().join("state.db"), |_| Ok(())).unwrap().store;
        let is_ended = Arc::new(AtomicBool::new(false));
        std::thread::spawn({
            let is_ended = Arc::clone(&is_ended);
            move || {
                while !is_ended.load(Ordering::Relaxed) {
                    server.answer(&mut store, &ledger, true);
                    std::thread::sleep(Duration::from_micros(200));
                }
            }
        });
        (Self { is_ended, _folder: folder }, handle)
    }
}

impl Drop for Persisting {
    fn drop(&mut self) {
        self.is_ended.store(true, Ordering::Relaxed);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn neither_a_receiver_that_divides_nor_one_that_is_down_delays_another() {
    let (_persisting, handle) = Persisting::start();
    let live = ScriptedReceiver::start(|_, _| Action::store()).await;
    let (gate, is_up) = (CancellationToken::new(), Arc::new(AtomicBool::new(false)));
    let oldest = Arc::new(std::sync::OnceLock::new());
    let dividing = ScriptedReceiver::start({
        let (gate, oldest) = (gate.clone(), Arc::clone(&oldest));
        move |request, _| {
            let mut times = request.series.iter().flat_map(|(_, samples)| samples).map(|(time, _)| *time);
            let is_refused = times.any(|time| oldest.get().is_some_and(|oldest| time < *oldest));
            let answer =
                if is_refused { Action::status("400 Bad Request", "", "out of bounds\n") } else { Action::store() };
            // The second part of what was divided is held.
            Action { gate: (request.number > 1).then(|| gate.clone()), ..answer }
        }
    })
    .await;
    let down = ScriptedReceiver::start({
        let is_up = Arc::clone(&is_up);
        move |_, _| match is_up.load(Ordering::Relaxed) {
            true => Action::store(),
            false => Action::status("503 Service Unavailable", "", ""),
        }
    })
    .await;
    let receivers = [&live, &dividing, &down].map(|server| receiver(&server.url()));
    let mut queue = Queue::of(handle, &receivers.each_ref(), BACKLOG + FOLLOWING).await;
    queue.ticks(BACKLOG, SERIES).await;
    oldest.set(queue.newest_time() - 3 * 60_000).unwrap();
    let start = |receiver| Running::start(receiver, &queue, timing());
    let [live_sender, dividing_sender, down_sender] = [0, 1, 2].map(|index| start(&receivers[index]));
    dividing.until_requests(4).await;
    live.until("the backlog", |stored| queue.has_arrived(stored)).await;

    // Each tick arrives before the next one is taken.
    for number in 0..FOLLOWING {
        let values = (0..SERIES).map(|index| (format!("counter_{index}_total"), (1_000 + number) as f64));
        queue.tick(values).await;
        live.until("the tick", |stored| queue.has_arrived(stored)).await;
    }
    let each_tick = (BACKLOG + FOLLOWING) as usize * (SERIES + OTHERS);
    assert_eq!(samples(&live.stored()), each_tick);
    assert!(!queue.has_arrived(&dividing.stored()) && down.stored().is_empty(), "they are still behind");

    gate.cancel();
    is_up.store(true, Ordering::Relaxed);
    for server in [&dividing, &down] {
        server.until("the newest tick", |stored| queue.has_arrived(stored)).await;
    }
    for (sender, expected) in [(live_sender, each_tick), (down_sender, each_tick)] {
        let report = sender.finish().await;
        assert_eq!((report.accepted as usize, report.refused.len()), (expected, 0), "{report:?}");
    }
    assert_eq!(samples(&down.stored()), each_tick, "what one receiver has acknowledged stays for another");
    let report = dividing_sender.finish().await;
    let refused = (BACKLOG as usize - 4) * (SERIES + OTHERS);
    assert_eq!(report.refused, [("out_of_bounds", refused as u64)].into());
    assert_eq!(samples(&dividing.stored()), each_tick - refused);
    [&live, &dividing, &down].iter().for_each(|server| check(&server.stored()));
}
