//! A clock that drifts is right up to a minute of the receiver's, and beyond it nothing more is sent until it is right again.

use std::collections::BTreeSet;

use session_buddy_bridge::internals::push::SendTiming;

use crate::support::push_senders::{
    OTHERS, Queue, Running, SetClock, check, receiver, samples, store_with_date, timing,
};
use crate::support::scripted_receiver::ScriptedReceiver;

/// Each step is shorter than one by which a clock counts as set: only the receiver's `Date` shows it.
#[tokio::test]
async fn a_clock_that_drifts_beyond_a_minute_while_samples_are_sent_holds_those_that_follow() {
    let server = ScriptedReceiver::start(|_, _| store_with_date()).await;
    let receiver = receiver(&server.url());
    let mut queue = Queue::new(&[&receiver], 1).await;
    let clock = SetClock::default();
    let mut value = 0.0;
    let mut times = Vec::new();
    let running = Running::start(&receiver, &queue, SendTiming { wall_clock: clock.wall_clock(), ..timing() });
    for seconds in [20, 29, 38, 47, 56] {
        clock.set_ahead(seconds);
        (queue.next_millis, value) = (clock.millis(), value + 1.0);
        times.push(queue.next_millis);
        queue.tick([("counter_0_total".to_owned(), value)]).await;
        server.until("a tick of a clock that is ahead by less than a minute", |stored| queue.has_arrived(stored)).await;
    }
    let report = running.until("the answer", |report| report.queue_ticks == 0).await;
    assert!(!report.is_ahead && report.stalls.is_empty(), "{report:?}");

    // The first request beyond the minute is the one whose answer shows it.
    clock.set_ahead(65);
    (queue.next_millis, value) = (clock.millis(), value + 1.0);
    times.push(queue.next_millis);
    queue.tick([("counter_0_total".to_owned(), value)]).await;
    running.until("the clocks", |report| report.is_ahead).await;
    let shown = server.stored();
    // The tick before can be of the same millisecond.
    queue.next_millis = clock.millis() + 1;
    times.push(queue.next_millis);
    queue.tick([("counter_0_total".to_owned(), value + 1.0)]).await;
    let requests = server.requests().len();
    server.until_requests(requests + 3).await;
    assert_eq!(server.stored(), shown, "nothing more is sent");

    clock.set_ahead(56);
    server.until("the tick that was held", |stored| queue.has_arrived(stored)).await;
    let report = running.finish().await;
    let stored = server.stored();
    check(&stored);
    let arrived: BTreeSet<_> = stored.values().flat_map(|samples| samples.keys().copied()).collect();
    assert!(times.iter().all(|time| arrived.contains(time)), "{times:?} are not all of {arrived:?}");
    assert!(report.refused.is_empty() && samples(&stored) == times.len() * (1 + OTHERS), "{report:?}");
}
