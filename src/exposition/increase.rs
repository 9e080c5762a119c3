//! By how much series increased while they were observed.

use crate::ledger::{AnomalySeries, Histogram, PhaseSeries, SkillSeries};

/// An increase of all series together.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Increase {
    /// Invocations.
    pub invocations: u64,
    /// Those of them that happened before the first snapshot and were added to series already exposed.
    pub backfilled: u64,
    /// Those of them that were completed.
    pub completed: u64,
    /// Observed durations.
    pub durations: Histogram,
    /// Anomalies.
    pub anomalies: u64,
}

impl Increase {
    /// Adds another increase.
    pub fn merge(&mut self, other: &Self) {
        self.invocations += other.invocations;
        self.backfilled += other.backfilled;
        self.completed += other.completed;
        self.anomalies += other.anomalies;
        self.durations.buckets.iter_mut().zip(other.durations.buckets).for_each(|(sum, more)| *sum += more);
        self.durations.sum = (self.durations.sum + other.durations.sum).min(f64::MAX);
    }

    /// Adds the increase of a skill. A new series with a created timestamp increased from 0; the first value of one without is
    /// older than the first snapshot and no increase.
    pub fn add(&mut self, before: Option<&SkillSeries>, now: &SkillSeries) {
        for phase in &now.phases {
            let known =
                before.and_then(|before| before.phases.iter().find(|old| old.workflow_phase == phase.workflow_phase));
            self.add_phase(known, phase);
        }
        for series in &now.anomalies {
            let known =
                before.and_then(|before| before.anomalies.iter().find(|old| old.anomaly_type == series.anomaly_type));
            self.add_anomalies(known, series);
        }
    }

    /// Adds the increase of one phase.
    pub(super) fn add_phase(&mut self, before: Option<&PhaseSeries>, now: &PhaseSeries) {
        let (completed, abandoned, durations) = match before {
            Some(old) => (old.completed, old.abandoned, &old.durations),
            None if now.born_micros.is_some() => (0, 0, &Histogram::EMPTY),
            None => return,
        };
        let completed = now.completed.saturating_sub(completed);
        self.completed += completed;
        self.invocations += completed + now.abandoned.saturating_sub(abandoned);
        let old = durations.buckets;
        for ((sum, now), old) in self.durations.buckets.iter_mut().zip(now.durations.buckets).zip(old) {
            *sum += now.saturating_sub(old);
        }
        self.durations.sum = (self.durations.sum + (now.durations.sum - durations.sum).max(0.0)).min(f64::MAX);
    }

    /// Adds the increase of one type of anomalies.
    pub(super) fn add_anomalies(&mut self, before: Option<&AnomalySeries>, now: &AnomalySeries) {
        self.anomalies += match before {
            Some(old) => now.count.saturating_sub(old.count),
            None if now.born_micros.is_some() => now.count,
            None => 0,
        };
    }
}
