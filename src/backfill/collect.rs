//! Rows to events, and the totals that they lead to.

use super::{BackfillError, Progress, Span, Summary};
use crate::ledger::{Limits, RowSeries, SkillIndex, server_time_micros};
use crate::protocol::Rejection;
use crate::skills_db::{HistoricAnomaly, HistoricInvocation, History};

/// Events that are held in memory at a time, 24 bytes each.
pub const EVENTS_MAX: usize = 4 << 20;

/// Rows that were stored within this time before the end are left to the live series: a bridge has to read them first.
const UNREAD_MICROS: i64 = 5 * 1_000_000;

/// How many rows are read between two reports of the progress.
const ROWS_PER_REPORT: u64 = 10_000;

/// A row, as the samples need it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Event {
    /// The sample that is the first to include it, in milliseconds since the Unix epoch; before the earliest sample, that.
    pub millis: i64,
    /// Seconds; no number if there is none.
    pub seconds: f64,
    pub skill: u32,
    /// Place of the phase, or of the type of anomalies, among those of the skill.
    pub part: u16,
    pub completed: bool,
}

/// The rows that are held in memory.
#[derive(Debug, Default)]
pub(super) struct Events {
    pub invocations: Vec<Event>,
    pub anomalies: Vec<Event>,
}

impl Events {
    pub fn len(&self) -> usize {
        self.invocations.len() + self.anomalies.len()
    }
}

/// What all rows lead to.
#[derive(Debug)]
pub(super) struct Catalog {
    /// The totals at the end.
    pub series_table: RowSeries,
    pub summary: Summary,
}

/// Counts the rows of `history`, and returns them too, if there are no more than `events_max`.
///
/// # Errors
/// The database cannot be read.
pub(super) fn catalog(
    history: &History<'_>,
    span: Span,
    events_max: usize,
    progress: &mut dyn Progress,
) -> Result<(Catalog, Option<Events>), BackfillError> {
    let mut catalog = Catalog { series_table: RowSeries::new(Limits::default()), summary: Summary::default() };
    let mut events = Some(Events::default());
    let all = history.newest_keys()?;
    let mut read = 0;
    let mut report = |progress: &mut dyn Progress| {
        read += 1;
        if read % ROWS_PER_REPORT == 0 {
            progress.report("reading", read.min(all), all);
        }
    };
    history.invocations(|row| {
        report(progress);
        let Some((row, millis)) = catalog.summary.placed(row, span, |row| (row.invoked_at, row.created_at)) else {
            return Ok(());
        };
        let HistoricInvocation { skill_name, workflow_phase, completed, duration_seconds, .. } = row;
        match catalog.series_table.count_invocation(skill_name, workflow_phase, completed, duration_seconds) {
            Err(_) => catalog.summary.invalid_rows += 1,
            Ok(()) => {
                catalog.summary.rows += 1;
                if let Some(held) = &mut events {
                    held.invocations.extend(invocation(&catalog.series_table, &row, millis));
                }
            }
        }
        events.take_if(|events| events.len() > events_max);
        Ok::<_, BackfillError>(())
    })?;
    history.anomalies(|row| {
        report(progress);
        let row = catalog.summary.placed(row, span, |row| (row.entry.detected_at.as_deref(), None));
        let Some((row, millis)) = row else { return Ok(()) };
        match catalog.series_table.count_anomaly(&row.entry) {
            Err(_) => catalog.summary.invalid_rows += 1,
            Ok(()) => {
                catalog.summary.rows += 1;
                if let Some(held) = &mut events {
                    held.anomalies.extend(anomaly(&catalog.series_table, &row, millis));
                }
            }
        }
        events.take_if(|events| events.len() > events_max);
        Ok::<_, BackfillError>(())
    })?;
    progress.report("reading", all, all);
    Ok((catalog, events))
}

/// Reads the events of some skills again: of invocations, or else of anomalies.
///
/// # Errors
/// The database cannot be read.
pub(super) fn reread(
    history: &History<'_>,
    span: Span,
    series_table: &RowSeries,
    is_read: impl Fn(SkillIndex) -> bool,
    of_anomalies: bool,
) -> Result<Events, BackfillError> {
    let (mut events, mut ignored) = (Events::default(), Summary::default());
    let is_wanted = |event: &Event| is_read(SkillIndex(event.skill));
    if of_anomalies {
        history.anomalies(|row| {
            if let Some((row, millis)) = ignored.placed(row, span, |row| (row.entry.detected_at.as_deref(), None)) {
                events.anomalies.extend(anomaly(series_table, &row, millis).filter(is_wanted));
            }
            Ok::<_, BackfillError>(())
        })?;
    } else {
        history.invocations(|row| {
            if let Some((row, millis)) = ignored.placed(row, span, |row| (row.invoked_at, row.created_at)) {
                events.invocations.extend(invocation(series_table, &row, millis).filter(is_wanted));
            }
            Ok::<_, BackfillError>(())
        })?;
    }
    Ok(events)
}

fn invocation(series_table: &RowSeries, row: &HistoricInvocation<'_>, millis: i64) -> Option<Event> {
    let skill = series_table.skill(row.skill_name)?;
    let part = part(series_table.phase(skill, row.workflow_phase)?);
    let seconds = row.duration_seconds.unwrap_or(f64::NAN);
    Some(Event { millis, seconds, skill: skill.0, part, completed: row.completed })
}

fn anomaly(series_table: &RowSeries, row: &HistoricAnomaly, millis: i64) -> Option<Event> {
    let skill = series_table.skill(&row.entry.skill_name)?;
    let part = part(series_table.anomaly_type(skill, &row.entry.anomaly_type)?);
    Some(Event { millis, seconds: f64::NAN, skill: skill.0, part, completed: false })
}

fn part(place: usize) -> u16 {
    u16::try_from(place).expect("a skill has far fewer phases and types than 2^16")
}

impl Summary {
    /// Returns the row, and when the first sample that includes it is; `None` for a row that is in none, which is counted.
    /// `times` returns the time of what happened, and when the row was stored, if that is known.
    fn placed<R>(
        &mut self,
        row: Result<R, Rejection>,
        span: Span,
        times: impl FnOnce(&R) -> (Option<&str>, Option<&str>),
    ) -> Option<(R, i64)> {
        let Ok(row) = row else {
            self.invalid_rows += 1;
            return None;
        };
        let (happened, stored) = times(&row);
        let Some(micros) = happened.and_then(server_time_micros) else {
            self.rows_without_time += 1;
            return None;
        };
        let stored = stored.and_then(server_time_micros).unwrap_or(micros);
        if stored.max(micros) >= span.end_millis * 1_000 - UNREAD_MICROS {
            self.later_rows += 1;
            return None;
        }
        Some((row, span.sample_millis(micros)))
    }
}

impl Span {
    /// Returns the time of the first sample that includes what happened at `micros`, before the end. It can be before the
    /// earliest sample, which includes everything before.
    fn sample_millis(self, micros: i64) -> i64 {
        let millis = micros.div_euclid(1_000) + i64::from(micros.rem_euclid(1_000) > 0);
        self.grid_from(millis).min(self.last_millis())
    }

    /// Returns the first time of the grid that is not before `millis`.
    pub(super) fn grid_from(self, millis: i64) -> i64 {
        (millis + self.step_millis - 1).div_euclid(self.step_millis) * self.step_millis
    }

    /// Returns the last time of the grid before `millis`.
    pub(super) fn grid_before(self, millis: i64) -> i64 {
        (millis - 1).div_euclid(self.step_millis) * self.step_millis
    }

    /// Returns the earliest time of a sample.
    pub fn first_millis(self) -> i64 {
        self.grid_from(self.since_millis).min(self.last_millis())
    }

    /// Returns the time of the last sample of every series.
    pub fn last_millis(self) -> i64 {
        self.end_millis - 1
    }
}
