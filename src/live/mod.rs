//! The JSON API of the live page, version 1: `docs/reference/api.md` describes it.
//!
//! | file | job |
//! | --- | --- |
//! | `status` | the state of the bridge and its feeds, recent anomalies and rejections |
//! | `skills` | the skills, sorted, filtered and paginated |
//! | `history` | the last hour |
//! | `coverage` | how many of the feeds deliver |
//! | `quantile` | a quantile of a histogram |
//!
//! Architecture invariant: it reads what a scrape reads, through [`ViewProvider`], and no feed waits for it: nothing is
//! sorted or serialized while the view is locked.

mod coverage;
mod history;
mod quantile;
mod skills;
mod status;

use std::fmt;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde::Serialize;
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use crate::clock::wall_seconds;
use crate::exposition::ViewProvider;
use crate::health::Health;
use crate::http::QueryError;
use crate::sync::lock;
use crate::telemetry::{FeedTelemetry, StateTelemetry, Telemetry};
use coverage::Delivery;
use history::{History, Recorded};
use skills::SkillsQuery;

/// Between two samples of the history. Unless something else reads the view, the time of a change is known to this precision.
const SAMPLE_INTERVAL: Duration = Duration::from_secs(5);

/// Whether counts survive a restart.
#[derive(Debug)]
pub enum Persistence {
    /// No: they are in memory only.
    InMemory,
    /// Yes: they are in the state file, unless it cannot be written.
    OnDisk(Arc<StateTelemetry>),
}

/// Answers requests of the live page.
pub struct LiveApi {
    provider: Arc<dyn ViewProvider>,
    telemetry: Arc<Telemetry>,
    health: Arc<Health>,
    persistence: Persistence,
    started_seconds: f64,
    history: Mutex<History>,
}

impl LiveApi {
    /// Creates the API with an empty history.
    pub fn new(
        provider: Arc<dyn ViewProvider>,
        telemetry: Arc<Telemetry>,
        health: Arc<Health>,
        persistence: Persistence,
    ) -> Self {
        let history = Mutex::new(History::new(Instant::now()));
        Self { provider, telemetry, health, persistence, started_seconds: wall_seconds(), history }
    }

    /// Returns the body of `GET /api/v1/{resource}?{query}`, as JSON, or `None` if there is no such resource. Unknown
    /// parameters are ignored. Takes about a millisecond for ten thousand skills.
    ///
    /// # Errors
    /// An invalid value of a parameter.
    pub fn answer(&self, resource: &str, query: &str) -> Option<Result<Vec<u8>, QueryError>> {
        let answer = match resource {
            "status" => Ok(json(&self.status())),
            "skills" => SkillsQuery::parse(query).map(|query| json(&skills::window(&*self.provider, &query))),
            "history" => history::after(query).map(|after| json(&lock(&self.history).points(after))),
            _ => return None,
        };
        Some(answer)
    }

    fn status(&self) -> status::Status {
        let reports = self.health.reports();
        status::status(&*self.provider, &self.telemetry, &reports, &self.persistence, self.started_seconds)
    }

    /// Takes samples until `shutdown`.
    pub async fn record_history(self: Arc<Self>, shutdown: CancellationToken) {
        let mut ticks = interval(SAMPLE_INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        // The first tick completes immediately.
        ticks.tick().await;
        while shutdown.run_until_cancelled(ticks.tick()).await.is_some() {
            self.sample();
        }
    }

    /// Takes one sample.
    pub fn sample(&self) {
        // Before the increase: what a feed delivers that comes back in between belongs to the time without it.
        let (reports, feeds) = (self.health.reports(), self.telemetry.feeds());
        let mut taken = None;
        self.provider.read(&mut |view, active_sessions| {
            let counters: Vec<_> = view.feeds().cloned().collect();
            taken = Some((view.take_increase(), active_sessions, counters));
        });
        if let Some((increase, active_sessions, counters)) = taken {
            let Delivery { coverage, missed_since_seconds } = Delivery::of(&reports, &feeds, &counters);
            let at_seconds = wall_seconds();
            let recorded = Recorded {
                at: Instant::now(),
                at_seconds,
                coverage,
                has_feeds: !reports.is_empty(),
                last_data_seconds: last_data(&feeds),
                missed_since_seconds,
                increase,
                active_sessions,
            };
            lock(&self.history).record(recorded);
        }
    }
}

impl fmt::Debug for LiveApi {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LiveApi").field("persistence", &self.persistence).finish_non_exhaustive()
    }
}

/// Returns the Unix timestamp of the last data of any feed, in seconds.
fn last_data(feeds: &[Arc<FeedTelemetry>]) -> Option<f64> {
    feeds.iter().filter_map(|feed| feed.traffic().last_data_seconds).reduce(f64::max)
}

fn json(answer: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(answer).expect("answers have keys that are text")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exposition::View;

    struct Untouchable;

    impl ViewProvider for Untouchable {
        fn read(&self, _read: &mut dyn FnMut(&mut View, u64)) {
            panic!("whoever reads a ledger lets it begin, and its feeds are not there yet");
        }
    }

    #[test]
    fn it_reads_nothing_before_it_is_asked() {
        let (telemetry, health) = (Arc::new(Telemetry::new()), Arc::new(Health::new()));
        drop(LiveApi::new(Arc::new(Untouchable), telemetry, health, Persistence::InMemory));
    }
}
