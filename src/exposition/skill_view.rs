//! A skill as it is exposed.

use std::sync::Arc;

use crate::ledger::{AnomalySeries, FailureSeries, PhaseSeries, SkillSeries};

use super::increase::Increase;
use super::zero_first::Zeros;

/// A skill as it is exposed, with phases, anomaly types and types of errors sorted by name.
#[derive(Debug)]
pub struct SkillView {
    /// Its series.
    pub series: SkillSeries,
    /// When a snapshot last listed it, in microseconds since the Unix epoch.
    pub last_listed_micros: Option<i64>,
    /// When a change to its series was last observed, the first observation included, in microseconds since the Unix epoch;
    /// `None` if that was before this process started.
    pub last_changed_micros: Option<i64>,
    /// Its series that scrapes expose at 0.
    pub(super) zeros: Zeros,
}

/// Which values of a skill changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct ChangedValues {
    /// Counts, durations or the exemplar of a phase.
    pub invocations: bool,
    pub completion_rate: bool,
    pub anomalies: bool,
    pub failures: bool,
    pub last_invoked: bool,
}

impl SkillView {
    /// Returns whether `series` has the series of this skill and no other. Series other than gauges are never removed or
    /// renamed: if there are as many as before, they are the same.
    pub fn has_series_of(&self, series: &SkillSeries) -> bool {
        let shape = |series: &SkillSeries| {
            let lens = [series.phases.len(), series.anomalies.len(), series.failures.len()];
            (lens, series.completion_rate.is_some(), series.last_invoked_micros.is_some())
        };
        shape(&self.series) == shape(series)
    }

    /// Copies the values of `now`, which has the same series, adds to `increase` by how much they increased, and returns which
    /// changed.
    pub(super) fn update(&mut self, now: &SkillSeries, increase: &mut Increase) -> ChangedValues {
        let SkillSeries { skill_name: _, phases, completion_rate, anomalies, failures, last_invoked_micros } =
            &mut self.series;
        let mut changed = ChangedValues {
            completion_rate: *completion_rate != now.completion_rate,
            last_invoked: *last_invoked_micros != now.last_invoked_micros,
            ..ChangedValues::default()
        };
        *completion_rate = now.completion_rate;
        *last_invoked_micros = now.last_invoked_micros;
        for (position, now) in now.phases.iter().enumerate() {
            let known = named_as(now, position, phases);
            if !is_equal(known, now) {
                increase.add_phase(Some(known), now);
                let PhaseSeries { workflow_phase: _, completed, abandoned, durations, born_micros, exemplar } = known;
                (*completed, *abandoned, *durations) = (now.completed, now.abandoned, now.durations);
                *born_micros = now.born_micros;
                exemplar.clone_from(&now.exemplar);
                changed.invocations = true;
            }
        }
        for (position, now) in now.anomalies.iter().enumerate() {
            let known = named_as(now, position, anomalies);
            if (known.count, known.born_micros) != (now.count, now.born_micros) {
                increase.add_anomalies(Some(known), now);
                (known.count, known.born_micros) = (now.count, now.born_micros);
                changed.anomalies = true;
            }
        }
        for (position, now) in now.failures.iter().enumerate() {
            let known = named_as(now, position, failures);
            if (known.count, known.born_micros) != (now.count, now.born_micros) {
                (known.count, known.born_micros) = (now.count, now.born_micros);
                changed.failures = true;
            }
        }
        changed
    }
}

/// Series of which a skill has one for each name.
trait Named {
    fn name(&self) -> &Arc<str>;
}

impl Named for PhaseSeries {
    fn name(&self) -> &Arc<str> {
        &self.workflow_phase
    }
}

impl Named for AnomalySeries {
    fn name(&self) -> &Arc<str> {
        &self.anomaly_type
    }
}

impl Named for FailureSeries {
    fn name(&self) -> &Arc<str> {
        &self.error_type
    }
}

/// Returns the series with the name of `now` from `known`, which has it. Most skills have one, and share its name with the
/// ledger, so that nothing is compared.
fn named_as<'k, S: Named>(now: &S, position: usize, known: &'k mut [S]) -> &'k mut S {
    let is_there = known.get(position).is_some_and(|known| Arc::ptr_eq(known.name(), now.name()));
    let position = if is_there { Some(position) } else { known.iter().position(|known| known.name() == now.name()) };
    &mut known[position.expect("series are never removed or renamed")]
}

/// Compares everything but the name.
fn is_equal(one: &PhaseSeries, other: &PhaseSeries) -> bool {
    let PhaseSeries { workflow_phase: _, completed, abandoned, durations, born_micros, exemplar } = one;
    (*completed, *abandoned, *born_micros) == (other.completed, other.abandoned, other.born_micros)
        && *durations == other.durations
        && *exemplar == other.exemplar
}
