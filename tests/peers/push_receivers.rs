//! The receivers of remote write of two Debian releases store what the bridge counted: nothing falls, and nothing is lost.

use std::time::Duration;

use session_buddy_bridge::internals::push::PushReceiver;
use tokio::task::JoinSet;

use crate::support::peers::receivers::{Kind, Receiver};
use crate::support::push_senders::{Queue, Running, receiver, timing};

const SERIES: usize = 12;

/// Ticks of a minute in 65 hours.
const WEEKEND_TICKS: i64 = 65 * 60;

/// Counters increase irregularly; some not at all.
async fn ticks(queue: &mut Queue, ticks: i64, rng: &mut fastrand::Rng) {
    for _ in 0..ticks {
        let values: Vec<_> = (0..SERIES)
            .map(|index| format!("counter_{index}_total"))
            .map(|metric| {
                let before = queue.newest.get(&metric).copied().unwrap_or(1.0);
                (metric, before + if rng.u8(..3) == 0 { f64::from(rng.u8(..40)) } else { 0.0 })
            })
            .collect();
        queue.tick(values).await;
    }
}

/// Asks, away from the event loop, which serves the senders.
async fn value(receiver: &Receiver, promql: String, at: f64) -> Option<f64> {
    let api = receiver.api();
    let asked = tokio::task::spawn_blocking(move || api.query(&promql, at));
    asked.await.unwrap().first().map(|(_, value)| *value)
}

/// The last value of each series is the queue's, and none has fallen.
async fn check(server: &Receiver, queue: &Queue) {
    let api = server.api();
    if server.kind == Kind::VictoriaMetrics {
        // What it received in the last second cannot be queried yet.
        tokio::task::spawn_blocking(move || api.flush()).await.unwrap();
    }
    let at = queue.newest_time() as f64 / 1e3;
    for (metric, expected) in &queue.newest {
        let what = format!("{metric} in {:?} of {}", server.kind, server.release);
        assert_eq!(value(server, metric.clone(), at).await, Some(*expected), "{what}");
        assert_eq!(value(server, format!("resets({metric}[70h])"), at).await.unwrap_or(0.0), 0.0, "{what}");
        let grown = value(server, format!("last_over_time({metric}[70h]) - min_over_time({metric}[70h])"), at).await;
        assert!(grown.is_some_and(|grown| grown <= *expected), "{what}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_weekend_without_receivers_arrives_afterwards() {
    let Some(servers) = Receiver::start_all_or_skip() else { return };
    let receivers: Vec<_> = servers.iter().map(|server| receiver(&server.url())).collect();
    let mut queue = Queue::new(&receivers.iter().collect::<Vec<_>>(), WEEKEND_TICKS).await;
    ticks(&mut queue, WEEKEND_TICKS, &mut fastrand::Rng::with_seed(7)).await;
    let running: Vec<_> = receivers.iter().map(|receiver| Running::start(receiver, &queue, timing())).collect();
    for (server, running) in servers.iter().zip(running) {
        let report = running.finish().await;
        check(server, &queue).await;
        let at = queue.newest_time() as f64 / 1e3;
        let mut in_last_hour = Vec::new();
        for metric in queue.newest.keys() {
            let samples = |range: &str| value(server, format!("count_over_time({metric}[{range}])"), at);
            in_last_hour.push(samples("59m").await.unwrap_or(0.0));
            if server.kind != Kind::Prometheus {
                assert_eq!(samples("70h").await, Some(WEEKEND_TICKS as f64), "{metric} {:?}", server.kind);
            }
        }
        match server.kind {
            // The ticks of the last hour, but for those of the one series that the search probed with.
            // The bound moves on with the clock while this test runs.
            Kind::Prometheus => {
                let complete = in_last_hour.iter().filter(|samples| **samples >= 50.0).count();
                assert!(complete >= SERIES - 1, "{in_last_hour:?} samples of the last hour are there");
            }
            _ => assert_eq!(report.refused.values().sum::<u64>(), 0, "{:?}", server.kind),
        }
    }
}

/// A sender that is killed at a random point, also between an answer and its commit, sends again what it does not know to be
/// stored.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn senders_that_are_killed_forty_times_lose_and_double_nothing() {
    const KILLS: i64 = 40;
    let Some(servers) = Receiver::start_all_or_skip() else { return };
    let receivers: Vec<PushReceiver> = servers.iter().map(|server| receiver(&server.url())).collect();
    let mut queue = Queue::new(&receivers.iter().collect::<Vec<_>>(), KILLS * 3).await;
    let mut rng = fastrand::Rng::with_seed(11);
    let start = |queue: &Queue| -> Vec<_> {
        receivers.iter().map(|receiver| Running::start(receiver, queue, timing())).collect()
    };
    for _ in 0..KILLS {
        let running = start(&queue);
        for _ in 0..3 {
            ticks(&mut queue, 1, &mut rng).await;
            tokio::time::sleep(Duration::from_millis(rng.u64(..12))).await;
        }
        let mut ends: JoinSet<_> = running.into_iter().map(|running| async move { running.task.abort() }).collect();
        while ends.join_next().await.is_some() {}
    }
    for running in start(&queue) {
        running.finish().await;
    }
    for server in &servers {
        check(server, &queue).await;
    }
}
