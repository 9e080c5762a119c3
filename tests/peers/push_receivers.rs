//! The receivers of remote write of two Debian releases store what the bridge counted: nothing falls, and nothing is lost.

use std::collections::BTreeMap;
use std::time::Duration;

use session_buddy_bridge::internals::push::PushReceiver;
use tokio::task::JoinSet;

use crate::support::peers::receivers::{Kind, Receiver, releases_or_skip};
use crate::support::push_senders::{Queue, Report, Running, receiver, timing};

/// Ticks of a minute in 65 hours.
const WEEKEND_TICKS: i64 = 65 * 60;

/// How many of the last hour's ticks a Prometheus without a window takes at least. It takes those of the last hour, and that moves
/// on with the clock while a test runs.
const LAST_HOUR_TICKS_MIN: usize = 50;

/// The most of them.
const LAST_HOUR_TICKS_MAX: usize = 61;

/// Time and value of each sample of a series.
type Samples = Vec<(i64, f64)>;

/// How much a receiver has of a series.
#[derive(Debug)]
struct Stored {
    samples: usize,
    /// Those behind which none is missing.
    newest: usize,
}

/// A queue, and every sample that was ever in it.
struct Recorded {
    queue: Queue,
    series: BTreeMap<String, Samples>,
}

impl Recorded {
    async fn new(receivers: &[PushReceiver], ticks: i64, series: usize) -> Self {
        let queue = Queue::new(&receivers.iter().collect::<Vec<_>>(), ticks).await;
        let names = (0..series).map(|index| format!("counter_{index}_total"));
        Self { queue, series: names.map(|metric| (metric, Samples::new())).collect() }
    }

    /// Counters increase irregularly; some not at all.
    async fn ticks(&mut self, ticks: i64, rng: &mut fastrand::Rng) {
        for _ in 0..ticks {
            let time = self.queue.next_millis;
            for samples in self.series.values_mut() {
                let before = samples.last().map_or(1.0, |(_, value)| *value);
                samples.push((time, before + if rng.u8(..3) == 0 { f64::from(rng.u8(..40)) } else { 0.0 }));
            }
            let values = self.series.iter().map(|(metric, samples)| (metric.clone(), samples[samples.len() - 1].1));
            self.queue.tick(values).await;
        }
    }

    /// Returns what the receiver has of each series.
    ///
    /// # Panics
    /// If a value or a time is another one than in the queue, or the newest is not the queue's.
    async fn stored_at(&self, server: &Receiver) -> BTreeMap<&str, Stored> {
        let (api, at) = (server.api(), self.queue.newest_time() as f64 / 1e3);
        let flushes = server.kind == Kind::VictoriaMetrics;
        // Away from the event loop, which serves the senders.
        let asked = tokio::task::spawn_blocking(move || {
            if flushes {
                // What it received in the last second cannot be queried yet.
                api.flush();
            }
            api.samples(r#"{__name__=~"counter_.*_total"}[70h]"#, at)
        });
        let stored = asked.await.unwrap().into_iter();
        let stored: BTreeMap<_, Samples> = stored
            .map(|(labels, mut samples)| {
                // VictoriaMetrics shows what was sent again twice.
                samples.dedup();
                (labels["__name__"].as_str().unwrap().to_owned(), samples)
            })
            .collect();
        let series = self.series.iter().map(|(metric, samples)| {
            let what = || format!("{metric} in {:?} of {}", server.kind, server.release);
            let stored = stored.get(metric).unwrap_or_else(|| panic!("no {}", what()));
            assert!(stored.is_sorted_by(|one, next| one.0 < next.0), "{}: {stored:?}", what());
            assert!(
                stored.iter().all(|sample| samples
                    .binary_search_by_key(&sample.0, |(time, _)| *time)
                    .is_ok_and(|at| samples[at] == *sample)),
                "{}: {stored:?}",
                what()
            );
            assert_eq!(stored.last(), samples.last(), "{}", what());
            let newest = samples.iter().rev().zip(stored.iter().rev()).take_while(|(queued, stored)| queued == stored);
            (metric.as_str(), Stored { samples: stored.len(), newest: newest.count() })
        });
        series.collect()
    }
}

/// Every sample of a weekend arrives at a receiver that takes earlier ones, and the last hour at a Prometheus without a window, but
/// for the older half of those of the one series that the search for its bound probed with.
fn check_weekend(server: &Receiver, report: &Report, stored: &BTreeMap<&str, Stored>) {
    let what = format!("{:?} of {}: {stored:?}", server.kind, server.release);
    if server.kind != Kind::Prometheus {
        assert!(stored.values().all(|stored| stored.samples as i64 == WEEKEND_TICKS), "{what}");
        assert_eq!(report.refused.values().sum::<u64>(), 0, "{what}");
        return;
    }
    assert!(stored.values().all(|stored| stored.samples <= LAST_HOUR_TICKS_MAX), "{what}");
    let complete = stored.values().filter(|stored| stored.newest >= LAST_HOUR_TICKS_MIN).count();
    assert!(complete >= stored.len() - 1, "{what}");
    assert!(stored.values().all(|stored| stored.newest * 2 >= LAST_HOUR_TICKS_MIN), "{what}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_weekend_without_receivers_arrives_afterwards() {
    let Some(servers) = Receiver::start_all_or_skip() else { return };
    let receivers: Vec<_> = servers.iter().map(|server| receiver(&server.url())).collect();
    let mut recorded = Recorded::new(&receivers, WEEKEND_TICKS, 12).await;
    recorded.ticks(WEEKEND_TICKS, &mut fastrand::Rng::with_seed(7)).await;
    let running: Vec<_> =
        receivers.iter().map(|receiver| Running::start(receiver, &recorded.queue, timing())).collect();
    for (server, running) in servers.iter().zip(running) {
        let report = running.finish().await;
        check_weekend(server, &report, &recorded.stored_at(server).await);
    }
}

/// More samples than are prepared at a time, four times over: what one search finds, the next one starts from.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_last_hour_of_a_weekend_of_many_series_arrives_after_a_few_requests_where_nothing_older_is_taken() {
    const SERIES: usize = 400;
    let Some(releases) = releases_or_skip() else { return };
    let servers = releases.map(|release| Receiver::start(release, Kind::Prometheus));
    let receivers: Vec<_> = servers.iter().map(|server| receiver(&server.url())).collect();
    let mut recorded = Recorded::new(&receivers, WEEKEND_TICKS, SERIES).await;
    recorded.ticks(WEEKEND_TICKS, &mut fastrand::Rng::with_seed(7)).await;
    for (server, receiver) in servers.iter().zip(&receivers) {
        let report = Running::start(receiver, &recorded.queue, timing()).finish().await;
        check_weekend(server, &report, &recorded.stored_at(server).await);
        assert!(report.requests <= 60, "{} requests", report.requests);
    }
}

/// A sender that is killed at a random point, also between an answer and its commit, sends again what it does not know to be
/// stored.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn senders_that_are_killed_forty_times_lose_and_double_nothing() {
    const KILLS: i64 = 40;
    let Some(servers) = Receiver::start_all_or_skip() else { return };
    let receivers: Vec<PushReceiver> = servers.iter().map(|server| receiver(&server.url())).collect();
    let mut recorded = Recorded::new(&receivers, KILLS * 3, 12).await;
    let mut rng = fastrand::Rng::with_seed(11);
    let start = |queue: &Queue| -> Vec<_> {
        receivers.iter().map(|receiver| Running::start(receiver, queue, timing())).collect()
    };
    for _ in 0..KILLS {
        let running = start(&recorded.queue);
        for _ in 0..3 {
            recorded.ticks(1, &mut rng).await;
            tokio::time::sleep(Duration::from_millis(rng.u64(..12))).await;
        }
        let mut ends: JoinSet<_> = running.into_iter().map(|running| async move { running.task.abort() }).collect();
        while ends.join_next().await.is_some() {}
    }
    for running in start(&recorded.queue) {
        running.finish().await;
    }
    for server in &servers {
        let stored = recorded.stored_at(server).await;
        if server.kind != Kind::Prometheus {
            assert!(stored.values().all(|stored| stored.samples as i64 == KILLS * 3), "{:?}: {stored:?}", server.kind);
        }
    }
}
