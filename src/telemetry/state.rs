//! What happens to the state file.

use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;
use tracing::{debug, error, info, warn};

use super::log_throttle::LogThrottle;
use crate::exposition::family::Family;
use crate::store::{Quarantine, StoreError};
use crate::sync::lock;

const DURABLE: Family<0> = Family::gauge(
    "session_buddy_bridge_state_durable",
    "1 if what is exposed is in the state file, 0 while commits fail, the file was deleted or replaced, or there is none.",
    [],
);
const COMMITS: Family<0> =
    Family::counter("session_buddy_bridge_state_commits_total", "Transactions written to the state.", []);
const COMMIT_FAILURES: Family<0> = Family::counter(
    "session_buddy_bridge_state_commit_failures_total",
    "Transactions that could not be written to the state; each is tried again.",
    [],
);
const QUARANTINED: Family<0> = Family::counter(
    "session_buddy_bridge_state_moved_aside_total",
    "Number of corrupt states that were renamed at the start, so that counting started again.",
    [],
);

/// Counts and logs what happens to the state file.
#[derive(Debug, Default)]
pub struct StateTelemetry {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    commits: u64,
    failures: u64,
    failures_throttle: LogThrottle,
    quarantined: u64,
    is_failing: bool,
    is_shown_anyway: bool,
    is_in_memory: bool,
    is_displaced: bool,
}

impl StateTelemetry {
    /// Creates telemetry of which every count is 0.
    pub fn new() -> Self {
        Self::default()
    }

    /// The state file at `path` was opened.
    pub fn opened(&self, path: &Path) {
        info!(path = %path.display(), "state opened");
    }

    /// Counts are in memory only, because of `reason`; no state file was requested explicitly.
    pub fn in_memory(&self, reason: &str) {
        lock(&self.state).is_in_memory = true;
        warn!("counts are kept in memory alone, a restart begins anew: {reason}");
    }

    /// A corrupt state was renamed.
    pub fn quarantined(&self, quarantine: &Quarantine) {
        lock(&self.state).quarantined += 1;
        let Quarantine { path, problem } = quarantine;
        error!(quarantine = %path.display(), %problem, "the state is corrupt: it was renamed, and counting starts again");
    }

    /// The file at `path` is no longer the one that is open.
    pub fn displaced(&self, path: &Path) {
        if !std::mem::replace(&mut lock(&self.state).is_displaced, true) {
            let path = path.display();
            error!(%path, "the state was deleted, renamed or replaced while it is in use: it is written again");
        }
    }

    /// The state is at `path` again. `renamed` is what was there instead.
    pub fn rewritten(&self, path: &Path, renamed: Option<&Path>) {
        lock(&self.state).is_displaced = false;
        let (path, renamed) = (path.display(), renamed.map(|renamed| tracing::field::display(renamed.display())));
        info!(%path, renamed, "the state was written again; nothing was lost");
    }

    /// A transaction was committed.
    pub fn committed(&self) {
        let was_failing = {
            let mut state = lock(&self.state);
            state.commits += 1;
            state.is_shown_anyway = false;
            std::mem::take(&mut state.is_failing)
        };
        if was_failing {
            info!("the state is being written again; nothing was lost");
        }
    }

    /// A transaction failed. `is_shown_anyway`: memory is exposed now, because they have failed for too long.
    pub fn commit_failed(&self, error: &StoreError, is_shown_anyway: bool) {
        let (passed, was_shown_anyway) = {
            let mut state = lock(&self.state);
            state.failures += 1;
            state.is_failing = true;
            let was_shown_anyway = std::mem::replace(&mut state.is_shown_anyway, is_shown_anyway);
            (state.failures_throttle.pass(Instant::now()), was_shown_anyway)
        };
        match passed {
            Some(suppressed) => warn!(suppressed, "the state cannot be written, trying again: {error}"),
            None => debug!("the state cannot be written, trying again: {error}"),
        }
        if is_shown_anyway && !was_shown_anyway {
            error!("the state could not be written for too long: memory is shown, and a restart now would lose counts");
        }
    }

    /// Returns whether what is exposed is on disk.
    pub fn is_durable(&self) -> bool {
        lock(&self.state).is_durable()
    }

    /// Returns all of this as metric families.
    pub fn collector(self: &Arc<Self>) -> StateCollector {
        let descs = [DURABLE, COMMITS, COMMIT_FAILURES, QUARANTINED].iter().map(Family::desc).collect();
        StateCollector { telemetry: Arc::clone(self), descs }
    }
}

impl State {
    fn is_durable(&self) -> bool {
        !self.is_shown_anyway && !self.is_in_memory && !self.is_displaced
    }
}

/// The metrics of [`StateTelemetry`] for a `prometheus::Registry`.
#[derive(Debug)]
pub struct StateCollector {
    telemetry: Arc<StateTelemetry>,
    descs: Vec<Desc>,
}

impl Collector for StateCollector {
    fn desc(&self) -> Vec<&Desc> {
        self.descs.iter().collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let state = lock(&self.telemetry.state);
        vec![
            DURABLE.value(f64::from(u8::from(state.is_durable()))),
            COMMITS.value(state.commits as f64),
            COMMIT_FAILURES.value(state.failures as f64),
            QUARANTINED.value(state.quarantined as f64),
        ]
    }
}
