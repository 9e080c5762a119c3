//! What the live page is told: version 1 of the JSON, which `docs/api.md` describes.
//!
//! | part | job |
//! | --- | --- |
//! | `status` | how the bridge and its feeds are, and what happened lately |
//! | `skills` | the skills, sorted, filtered, a window at a time |
//! | `history` | the last hour |
//! | `quantile` | a quantile of a histogram |
//!
//! Architecture invariant: it reads what a scrape reads, through [`ViewProvider`], and no feed waits for it: nothing is sorted or
//! written while the view is held.

mod history;
mod quantile;
mod skills;
mod status;

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde::Serialize;
use thiserror::Error;
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use crate::exposition::ViewProvider;
use crate::telemetry::{StateTelemetry, Telemetry};
use history::History;
use skills::SkillsQuery;

/// Between two samples of the history, and how exact the time of a change is while nobody looks.
const SAMPLE_INTERVAL: Duration = Duration::from_secs(5);

/// A question that is wrong.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("`{name}={value}`: {problem}")]
pub struct QueryError {
    /// The parameter.
    pub name: &'static str,
    /// What it was given.
    pub value: String,
    /// What it should be.
    pub problem: String,
}

/// Where counts are kept.
#[derive(Debug)]
pub enum Persistence {
    /// In memory alone: a restart begins anew.
    InMemory,
    /// On disk.
    OnDisk(Arc<StateTelemetry>),
}

/// Answers the live page.
pub struct LiveApi {
    provider: Arc<dyn ViewProvider>,
    telemetry: Arc<Telemetry>,
    persistence: Persistence,
    started_seconds: f64,
    history: Mutex<History>,
}

impl LiveApi {
    /// A history that begins now.
    pub fn new(provider: Arc<dyn ViewProvider>, telemetry: Arc<Telemetry>, persistence: Persistence) -> Self {
        let history = Mutex::new(History::new(Instant::now()));
        Self { provider, telemetry, persistence, started_seconds: wall_seconds(), history }
    }

    /// The answer to `GET /api/v1/{resource}?{query}`, as JSON. `None` if there is no such resource. Parameters that it
    /// does not know are passed over. May take a millisecond for ten thousand skills.
    ///
    /// # Errors
    /// A parameter that is none.
    pub fn answer(&self, resource: &str, query: &str) -> Option<Result<Vec<u8>, QueryError>> {
        let answer = match resource {
            "status" => Ok(json(&self.status())),
            "skills" => SkillsQuery::parse(query).map(|query| json(&skills::window(&*self.provider, &query))),
            "history" => history::after(query).map(|after| json(&self.history().points(after))),
            _ => return None,
        };
        Some(answer)
    }

    fn status(&self) -> status::Status {
        status::status(&*self.provider, &self.telemetry, &self.persistence, self.started_seconds)
    }

    /// Takes samples until `shutdown`.
    pub async fn record_history(self: Arc<Self>, shutdown: CancellationToken) {
        let mut ticks = interval(SAMPLE_INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        // The first comes at once.
        ticks.tick().await;
        while shutdown.run_until_cancelled(ticks.tick()).await.is_some() {
            self.sample();
        }
    }

    /// Takes one sample.
    pub fn sample(&self) {
        let mut taken = None;
        self.provider.read(&mut |view, active_sessions| {
            taken = Some((view.take_increase(), active_sessions));
        });
        if let Some((increase, active_sessions)) = taken {
            self.history().note(Instant::now(), wall_seconds(), increase, active_sessions);
        }
    }

    fn history(&self) -> MutexGuard<'_, History> {
        self.history.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for LiveApi {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LiveApi").field("persistence", &self.persistence).finish_non_exhaustive()
    }
}

fn json(answer: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(answer).expect("answers have keys that are text")
}

fn wall_seconds() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64()
}

fn seconds(micros: i64) -> f64 {
    micros as f64 / 1e6
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
        drop(LiveApi::new(Arc::new(Untouchable), Arc::new(Telemetry::new()), Persistence::InMemory));
    }
}
