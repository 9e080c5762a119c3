//! Rows to events, and the totals that they lead to.

use std::num::NonZeroU8;

use super::{BackfillError, Counted, Progress, Span, Summary};
use crate::ledger::{RowSeries, SkillIndex, server_time_micros};
use crate::protocol::Rejection;
use crate::skills_db::{ErrorType, HistoricAnomaly, HistoricInvocation, History};

/// Events that are held in memory at a time, 24 bytes each.
pub const EVENTS_MAX: usize = 4 << 20;

/// Rows that were stored within this time before the end are left to the live series: a bridge has to read them first.
const UNREAD_MICROS: i64 = 5 * 1_000_000;

/// How many rows are read between two reports of the progress.
const ROWS_PER_REPORT: u64 = 10_000;

/// A row, as the samples need it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Event {
    /// When it happened, in microseconds since the Unix epoch.
    pub micros: i64,
    /// Seconds; no number if there is none.
    pub seconds: f64,
    pub skill: u32,
    /// Place of the phase, or of the type of anomalies, among those of the skill.
    pub part: u16,
    /// 1 + the place of the type of the error among those of the skill; `None` without a cause.
    pub failure: Option<NonZeroU8>,
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

/// Counts the rows of `history` that are `counted`, and returns them too, if there are no more than `events_max`.
///
/// # Errors
/// The database cannot be read.
pub(super) fn catalog(
    history: &History<'_>,
    span: Span,
    counted: &Counted,
    events_max: usize,
    progress: &mut dyn Progress,
) -> Result<(Catalog, Option<Events>), BackfillError> {
    let mut catalog = Catalog { series_table: RowSeries::new(counted.limits), summary: Summary::default() };
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
        if row.as_ref().is_ok_and(|row| !counted.includes(row.skill_name)) {
            return Ok(());
        }
        let Some((row, micros)) = catalog.summary.placed(row, span, |row| (row.invoked_at, row.created_at)) else {
            return Ok(());
        };
        let HistoricInvocation { skill_name, workflow_phase, completed, duration_seconds, .. } = row;
        let failure = failure(history, &row);
        match catalog.series_table.count_invocation(skill_name, workflow_phase, completed, duration_seconds, failure) {
            Err(_) => catalog.summary.invalid_rows += 1,
            Ok(()) => {
                catalog.summary.rows += 1;
                if let Some(held) = &mut events {
                    held.invocations.extend(invocation(&catalog.series_table, &row, failure, micros));
                }
            }
        }
        events.take_if(|events| events.len() > events_max);
        Ok::<_, BackfillError>(())
    })?;
    history.anomalies(|row| {
        report(progress);
        if row.as_ref().is_ok_and(|row| !counted.includes(&row.entry.skill_name)) {
            return Ok(());
        }
        let row = catalog.summary.placed(row, span, |row| (row.entry.detected_at.as_deref(), None));
        let Some((row, micros)) = row else { return Ok(()) };
        match catalog.series_table.count_anomaly(&row.entry) {
            Err(_) => catalog.summary.invalid_rows += 1,
            Ok(()) => {
                catalog.summary.rows += 1;
                if let Some(held) = &mut events {
                    held.anomalies.extend(anomaly(&catalog.series_table, &row, micros));
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
            if let Some((row, micros)) = ignored.placed(row, span, |row| (row.entry.detected_at.as_deref(), None)) {
                events.anomalies.extend(anomaly(series_table, &row, micros).filter(is_wanted));
            }
            Ok::<_, BackfillError>(())
        })?;
    } else {
        history.invocations(|row| {
            if let Some((row, micros)) = ignored.placed(row, span, |row| (row.invoked_at, row.created_at)) {
                let event = invocation(series_table, &row, failure(history, &row), micros);
                events.invocations.extend(event.filter(is_wanted));
            }
            Ok::<_, BackfillError>(())
        })?;
    }
    Ok(events)
}

/// Returns why an invocation failed; `None` where the database has no column for it, as no bridge shows a cause then.
fn failure<'r>(history: &History<'_>, row: &HistoricInvocation<'r>) -> Option<&'r str> {
    row.failure.filter(|_| history.has_error_types()).map(ErrorType::as_str)
}

/// Returns the event of an invocation; `None` if its skill was not counted.
fn invocation(
    series_table: &RowSeries,
    row: &HistoricInvocation<'_>,
    failure: Option<&str>,
    micros: i64,
) -> Option<Event> {
    let skill = series_table.skill(row.skill_name)?;
    let part = part(series_table.phase(skill, row.workflow_phase)?);
    let seconds = row.duration_seconds.unwrap_or(f64::NAN);
    let failure = failure.and_then(|error_type| series_table.error_type(skill, error_type)).and_then(|place| {
        NonZeroU8::new(u8::try_from(place + 1).expect("a skill has far fewer types of errors than 2^8"))
    });
    Some(Event { micros, seconds, skill: skill.0, part, failure, completed: row.completed })
}

fn anomaly(series_table: &RowSeries, row: &HistoricAnomaly, micros: i64) -> Option<Event> {
    let skill = series_table.skill(&row.entry.skill_name)?;
    let part = part(series_table.anomaly_type(skill, &row.entry.anomaly_type)?);
    Some(Event { micros, seconds: f64::NAN, skill: skill.0, part, failure: None, completed: false })
}

fn part(place: usize) -> u16 {
    u16::try_from(place).expect("a skill has far fewer phases and types than 2^16")
}

impl Summary {
    /// Returns the row, and when it happened, in microseconds since the Unix epoch; `None` for a row that is in none, which is counted.
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
        Some((row, micros))
    }
}

impl Span {
    /// Returns the time of the first sample that includes what happened at `micros`, before the end. It can be before the
    /// earliest sample, which includes everything before.
    pub(super) fn sample_millis(self, micros: i64) -> i64 {
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
