//! The series that the rows of a database lead to, without a feed.

use std::sync::Arc;

use crate::protocol::{AnomalyEntry, Rejection};

use super::check::{check_anomaly, check_invocation};
use super::limits::{Limits, OVERFLOW};
use super::series::{SkillIndex, SkillSeries};
use super::series_table::{SeriesTable, UNKNOWN_PHASE};

/// Counts rows in the order of their keys, as a bridge does that reads a database first: with the same names, limits and
/// additions.
#[derive(Debug)]
pub struct RowSeries {
    series_table: SeriesTable,
    limits: Limits,
}

impl RowSeries {
    /// Creates a table without series.
    pub fn new(limits: Limits) -> Self {
        Self { series_table: SeriesTable::default(), limits }
    }

    /// Counts an invocation, and the type of its error, if the row has one.
    ///
    /// # Errors
    /// A name that no label may have.
    pub fn count_invocation(
        &mut self,
        skill_name: &str,
        workflow_phase: Option<&str>,
        completed: bool,
        duration_seconds: Option<f64>,
        failure: Option<&str>,
    ) -> Result<(), Rejection> {
        check_invocation(skill_name, workflow_phase, &self.limits)?;
        let phase = workflow_phase.unwrap_or(UNKNOWN_PHASE);
        let skill = self.place(skill_name);
        let phase = self.series_table.phase(skill, phase, None, &self.limits);
        *(if completed { &mut phase.completed } else { &mut phase.abandoned }) += 1;
        if let Some(seconds) = duration_seconds {
            phase.durations.observe(seconds, 1, seconds);
        }
        if let Some(error_type) = failure {
            self.series_table.add_failures(skill, error_type, 1, None, &self.limits);
        }
        Ok(())
    }

    /// Counts an anomaly.
    ///
    /// # Errors
    /// A name that no label may have.
    pub fn count_anomaly(&mut self, entry: &AnomalyEntry<'_>) -> Result<(), Rejection> {
        check_anomaly(entry, &self.limits)?;
        let skill = self.place(&entry.skill_name);
        self.series_table.add_anomalies(skill, &Arc::from(&*entry.anomaly_type), 1, None, &self.limits);
        Ok(())
    }

    fn place(&mut self, skill_name: &str) -> SkillIndex {
        match self.series_table.find(skill_name) {
            Some(skill) => skill,
            None => self.series_table.place(&skill_name.into(), &self.limits, &mut Vec::new()),
        }
    }

    /// Returns the skill under which rows of `skill_name` were counted; `None` if there was none.
    pub fn skill(&self, skill_name: &str) -> Option<SkillIndex> {
        self.series_table.find(skill_name).or(self.series_table.overflow())
    }

    /// Returns the place among the phases of a skill under which rows of a phase were counted; `None` if there was none.
    pub fn phase(&self, skill: SkillIndex, workflow_phase: Option<&str>) -> Option<usize> {
        let phase = workflow_phase.unwrap_or(UNKNOWN_PHASE);
        let phases = &self.series_table.series(skill).phases;
        let position = |name: &str| phases.iter().position(|series| &*series.workflow_phase == name);
        position(phase).or_else(|| position(OVERFLOW))
    }

    /// Returns the place among the anomalies of a skill under which rows of a type were counted; `None` if there was none.
    pub fn anomaly_type(&self, skill: SkillIndex, anomaly_type: &str) -> Option<usize> {
        let anomalies = &self.series_table.series(skill).anomalies;
        let position = |name: &str| anomalies.iter().position(|series| &*series.anomaly_type == name);
        position(anomaly_type).or_else(|| position(OVERFLOW))
    }

    /// Returns the place among the failures of a skill under which rows of a type were counted; `None` if there was none.
    pub fn error_type(&self, skill: SkillIndex, error_type: &str) -> Option<usize> {
        let failures = &self.series_table.series(skill).failures;
        let position = |name: &str| failures.iter().position(|series| &*series.error_type == name);
        position(error_type).or_else(|| position(OVERFLOW))
    }

    /// Returns the series of every skill, by [`SkillIndex`].
    pub fn series(&self) -> impl Iterator<Item = &SkillSeries> {
        self.series_table.all_series()
    }
}
