//! A scraper that looks again and again, whatever happens to whom it scrapes, and sees to it that no counter falls.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use super::http_client::try_get;
use super::scrape::{Scrape, Series};

const LOOK_INTERVAL: Duration = Duration::from_millis(20);

/// What must neither fall nor vanish: the counters and histograms of the five families, and the counters of the rules.
const NEVER_FALLS: [&str; 15] = [
    "skill_invocations_total",
    "skill_duration_seconds_bucket",
    "skill_duration_seconds_count",
    "skill_duration_seconds_sum",
    "anomalies_detected_total",
    "session_buddy_bridge_anomaly_window_overflows_total",
    "session_buddy_bridge_backfilled_invocations_total",
    "session_buddy_bridge_estimated_observations_total",
    "session_buddy_bridge_exact_observations_total",
    "session_buddy_bridge_feed_resets_total",
    "session_buddy_bridge_feed_rollbacks_total",
    "session_buddy_bridge_inexact_rates_total",
    "session_buddy_bridge_late_events_total",
    "session_buddy_bridge_overflowed_anomalies_total",
    "session_buddy_bridge_overflowed_invocations_total",
];

/// Scrapes until it is told to stop.
pub struct Watcher {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Watched>,
}

/// What was seen.
#[derive(Debug, Default)]
pub struct Watched {
    pub scrapes: u64,
    /// Scrapes that brought no whole answer, since nobody was there to give one.
    pub unanswered: u64,
    /// The series of the latest scrape that never fall.
    latest: BTreeMap<Series, f64>,
}

impl Watcher {
    pub fn start(address: SocketAddr) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = thread::spawn(move || {
            let mut watched = Watched::default();
            while !stopped.load(Ordering::Relaxed) {
                watched.look(address);
                thread::sleep(LOOK_INTERVAL);
            }
            watched
        });
        Self { stop, thread }
    }

    /// Whether it still watches: it ends as soon as it sees a counter fall.
    pub fn is_watching(&self) -> bool {
        !self.thread.is_finished()
    }

    /// # Panics
    /// If a counter fell.
    pub fn finish(self) -> Watched {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().expect("no counter fell")
    }
}

impl Watched {
    fn look(&mut self, address: SocketAddr) {
        let Some(response) = try_get(address, "/metrics").ok().filter(|response| response.status == 200) else {
            self.unanswered += 1;
            return;
        };
        self.scrapes += 1;
        let scrape = Scrape::parse(response.text()).unwrap_or_else(|why| panic!("{why}\n{}", response.text()));
        let stays = |series: &Series| NEVER_FALLS.contains(&series.name.as_str());
        let now: BTreeMap<_, _> = scrape.samples.into_iter().filter(|(series, _)| stays(series)).collect();
        for (series, was) in &self.latest {
            match now.get(series) {
                None => panic!("{series:?} was {was} and vanished"),
                Some(now) => assert!(now >= was, "{series:?} fell from {was} to {now}"),
            }
        }
        self.latest = now;
    }
}
