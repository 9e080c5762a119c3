//! What happens to the state file.

use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use prometheus::core::Desc;
use tracing::{debug, error, info, warn};

use super::log_throttle::LogThrottle;
use crate::exposition::OwnCollector;
use crate::exposition::family::Family;
use crate::exposition::own::{FamilySink, OwnMetrics};
use crate::store::{Quarantine, StoreError};
use crate::sync::lock;

const DURABLE: Family<0> = Family::gauge(
    "session_buddy_bridge_state_durable",
    "1 if everything that is exposed is in the state file, 0 otherwise.",
    [],
);
const COMMITS: Family<0> = Family::counter(
    "session_buddy_bridge_state_commits_total",
    "Number of transactions that were written to the state file.",
    [],
);
const COMMIT_FAILURES: Family<0> = Family::counter(
    "session_buddy_bridge_state_commit_failures_total",
    "Number of transactions that could not be written to the state file; each is retried.",
    [],
);
const QUARANTINED: Family<0> = Family::counter(
    "session_buddy_bridge_state_moved_aside_total",
    "Number of corrupt state files that were quarantined at startup; counting started again.",
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
    is_exposed_uncommitted: bool,
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
        info!(path = %path.display(), "state file opened");
    }

    /// Counts are in memory only, because of `reason`; no state file was requested explicitly.
    pub fn in_memory(&self, reason: &str) {
        lock(&self.state).is_in_memory = true;
        warn!(reason, "counts are in memory only; a restart starts counting again");
    }

    /// A corrupt state was renamed.
    pub fn quarantined(&self, quarantine: &Quarantine) {
        lock(&self.state).quarantined += 1;
        let Quarantine { path, problem } = quarantine;
        error!(quarantine = %path.display(), %problem, "state file corrupt; it was quarantined, and counting starts again");
    }

    /// The file at `path` is no longer the one that is open.
    pub fn displaced(&self, path: &Path) {
        if !std::mem::replace(&mut lock(&self.state).is_displaced, true) {
            let path = path.display();
            error!(%path, "state file deleted, renamed, replaced or overwritten while in use; writing it again");
        }
    }

    /// The path leads to the open file.
    pub fn in_place(&self) {
        if std::mem::take(&mut lock(&self.state).is_displaced) {
            info!("state file restored; nothing was lost");
        }
    }

    /// The state is at `path` again, in a new file. `renamed` is what was there instead.
    pub fn rewritten(&self, path: &Path, renamed: Option<&Path>) {
        lock(&self.state).is_displaced = false;
        let (path, renamed) = (path.display(), renamed.map(|renamed| tracing::field::display(renamed.display())));
        info!(%path, renamed, "state file written again; nothing was lost");
    }

    /// A transaction was committed.
    pub fn committed(&self) {
        lock(&self.state).commits += 1;
    }

    /// Everything is on disk again, after [`StateTelemetry::commit_failed`].
    pub fn recovered(&self) {
        lock(&self.state).is_exposed_uncommitted = false;
        info!("state commits succeed again; nothing was lost");
    }

    /// A transaction failed, and changes are exposed without one by now if `is_exposed`.
    pub fn commit_failed(&self, error: &StoreError, is_exposed: bool) {
        let (passed, was_exposed) = {
            let mut state = lock(&self.state);
            state.failures += 1;
            let was_exposed = std::mem::replace(&mut state.is_exposed_uncommitted, is_exposed);
            (state.failures_throttle.pass(Instant::now()), was_exposed)
        };
        match passed {
            Some(suppressed) => warn!(suppressed, %error, "state commit failed; retrying"),
            None => debug!(%error, "state commit failed; retrying"),
        }
        if is_exposed && !was_exposed {
            error!(
                "state commits have failed for too long; counts are exposed from memory, and a restart would lose them"
            );
        }
    }

    /// Returns whether everything that is exposed is on disk.
    pub fn is_durable(&self) -> bool {
        lock(&self.state).is_durable()
    }

    /// Returns a collector of all of this.
    pub fn collector(self: &Arc<Self>) -> OwnCollector {
        OwnCollector::new(StateMetrics(Arc::clone(self)))
    }
}

impl State {
    fn is_durable(&self) -> bool {
        !self.is_exposed_uncommitted && !self.is_in_memory && !self.is_displaced
    }
}

/// The metrics of [`StateTelemetry`].
struct StateMetrics(Arc<StateTelemetry>);

impl OwnMetrics for StateMetrics {
    fn descs(&self) -> Vec<Desc> {
        [DURABLE, COMMITS, COMMIT_FAILURES, QUARANTINED].iter().map(Family::desc).collect()
    }

    fn write(&self, sink: &mut dyn FamilySink) {
        let state = lock(&self.0.state);
        DURABLE.write_value(f64::from(u8::from(state.is_durable())), sink);
        COMMITS.write_value(state.commits as f64, sink);
        COMMIT_FAILURES.write_value(state.failures as f64, sink);
        QUARANTINED.write_value(state.quarantined as f64, sink);
    }
}
