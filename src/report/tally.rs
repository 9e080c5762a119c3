//! Counts rows.

use std::collections::HashMap;

use jiff::Timestamp;

use super::quantiles::Collector;
use super::sum::Sum;
use super::{By, Durations, Group, LeftOut, Period, Report, ReportError};
use crate::ledger::{Limits, UNKNOWN_PHASE, check_anomaly, check_invocation, server_time_micros};
use crate::protocol::Rejection;
use crate::skills_db::{ErrorType, HistoricAnomaly, HistoricInvocation, History, SkillsDatabaseError};

/// Bytes that names may take in memory, with what is counted for each.
const NAMES_BYTES_MAX: usize = 256 << 20;

/// What a name takes beside its bytes: the group, its place in the index, and what the allocator adds.
const NAME_OVERHEAD_BYTES: usize = 320;

/// Counts the rows of `history`. The groups have no order.
///
/// # Errors
/// Whatever SQLite reports, and [`ReportError::TooManyNames`].
pub fn tally(history: &History<'_>, by: By, period: Period, durations_max: usize) -> Result<Report, ReportError> {
    let mut tally = Tally::new(by, period, durations_max);
    history.invocations(|row| match tally.reader.invocation(row) {
        Ok((row, micros)) => tally.add_invocation(&row, micros),
        Err(reason) => {
            tally.left_out.add(reason);
            Ok(())
        }
    })?;
    if by == By::Skill {
        history.anomalies(|row| match tally.reader.anomaly(row) {
            Ok((row, micros)) => tally.add_anomaly(&row.entry.skill_name, micros),
            Err(reason) => {
                tally.left_out.add(reason);
                Ok(())
            }
        })?;
    }
    tally.finish(history)
}

/// Which rows are counted. Limits are the defaults of a bridge.
#[derive(Debug, Clone, Copy)]
struct RowReader {
    limits: Limits,
    end_micros: i64,
}

/// Why a row is left out.
#[derive(Debug, Clone, Copy)]
enum Omission {
    Invalid,
    WithoutTime,
    Later,
}

impl RowReader {
    /// Returns a row with its time, in microseconds since the Unix epoch.
    fn invocation<'r>(
        &self,
        row: Result<HistoricInvocation<'r>, Rejection>,
    ) -> Result<(HistoricInvocation<'r>, i64), Omission> {
        let row = row.map_err(|_| Omission::Invalid)?;
        check_invocation(row.skill_name, row.workflow_phase, &self.limits).map_err(|_| Omission::Invalid)?;
        let micros = self.micros(row.invoked_at)?;
        Ok((row, micros))
    }

    /// Returns a row with its time, in microseconds since the Unix epoch.
    fn anomaly(&self, row: Result<HistoricAnomaly, Rejection>) -> Result<(HistoricAnomaly, i64), Omission> {
        let row = row.map_err(|_| Omission::Invalid)?;
        check_anomaly(&row.entry, &self.limits).map_err(|_| Omission::Invalid)?;
        let micros = self.micros(row.entry.detected_at.as_deref())?;
        Ok((row, micros))
    }

    fn micros(&self, time: Option<&str>) -> Result<i64, Omission> {
        let micros = time.and_then(server_time_micros).ok_or(Omission::WithoutTime)?;
        if micros < self.end_micros { Ok(micros) } else { Err(Omission::Later) }
    }
}

impl LeftOut {
    fn add(&mut self, reason: Omission) {
        *match reason {
            Omission::Invalid => &mut self.invalid,
            Omission::WithoutTime => &mut self.without_time,
            Omission::Later => &mut self.later,
        } += 1;
    }
}

struct Tally {
    by: By,
    reader: RowReader,
    start_micros: i64,
    former_start_micros: i64,
    period: Period,
    oldest_micros: Option<i64>,
    groups: Vec<Counted>,
    /// The group of each name.
    index: HashMap<Box<str>, usize>,
    names_bytes: usize,
    durations: Collector,
    left_out: LeftOut,
}

struct Counted {
    group: Group,
    durations: Sum,
    last_micros: Option<i64>,
}

impl Tally {
    fn new(by: By, period: Period, durations_max: usize) -> Self {
        Self {
            by,
            reader: RowReader { limits: Limits::default(), end_micros: period.end.as_microsecond() },
            start_micros: period.start.as_microsecond(),
            former_start_micros: period.former_start.as_microsecond(),
            period,
            oldest_micros: None,
            groups: Vec::new(),
            index: HashMap::new(),
            names_bytes: 0,
            durations: Collector::new(durations_max),
            left_out: LeftOut::default(),
        }
    }

    fn group(&mut self, name: &str) -> Result<usize, ReportError> {
        if let Some(group) = self.index.get(name) {
            return Ok(*group);
        }
        take_room(&mut self.names_bytes, 2 * name.len(), self.by, self.groups.len())?;
        let group = self.groups.len();
        self.index.insert(name.into(), group);
        self.groups.push(Counted { group: Group::new(name), durations: Sum::default(), last_micros: None });
        Ok(group)
    }

    fn add_invocation(&mut self, row: &HistoricInvocation<'_>, micros: i64) -> Result<(), ReportError> {
        self.oldest_micros = Some(self.oldest_micros.map_or(micros, |oldest| oldest.min(micros)));
        let Some(name) = group_name(self.by, row) else { return Ok(()) };
        let index = self.group(name)?;
        let groups = self.groups.len();
        let counted = &mut self.groups[index];
        counted.last_micros = counted.last_micros.max(Some(micros));
        if micros < self.start_micros {
            counted.group.former_invocations += u64::from(micros >= self.former_start_micros);
            return Ok(());
        }
        counted.group.invocations += 1;
        counted.group.completed += u64::from(row.completed);
        if let Some(seconds) = row.duration_seconds {
            counted.durations.add(seconds);
            self.durations.add(index, seconds);
        }
        if let Some(error_type) = row.failure {
            let part = if self.by == By::Error { row.skill_name } else { error_type.as_str() };
            match counted.group.failures.get_mut(part) {
                Some(count) => *count += 1,
                None => {
                    take_room(&mut self.names_bytes, part.len(), self.by, groups)?;
                    counted.group.failures.insert(part.into(), 1);
                }
            }
        }
        Ok(())
    }

    fn add_anomaly(&mut self, skill_name: &str, micros: i64) -> Result<(), ReportError> {
        let group = self.group(skill_name)?;
        self.groups[group].group.anomalies += u64::from(micros >= self.start_micros);
        Ok(())
    }

    fn finish(self, history: &History<'_>) -> Result<Report, ReportError> {
        let Self { by, reader, period, start_micros, index, groups, durations, oldest_micros, left_out, .. } = self;
        let mut reread = |each: &mut dyn FnMut(usize, f64)| {
            history.invocations::<SkillsDatabaseError>(|row| {
                if let Ok((row, micros)) = reader.invocation(row)
                    && micros >= start_micros
                    && let Some(seconds) = row.duration_seconds
                    && let Some(name) = group_name(by, &row)
                {
                    each(index[name], seconds);
                }
                Ok(())
            })?;
            Ok(())
        };
        let quantiles = durations.quantiles(&mut reread)?;
        let quantiles = quantiles.into_iter().chain(std::iter::repeat(None));
        let groups = groups.into_iter().zip(quantiles).map(|(counted, quantiles)| Group {
            durations: quantiles.map(|[p50, p95]| Durations { p50, p95, mean: counted.durations.mean() }),
            last_used: counted.last_micros.map(timestamp),
            ..counted.group
        });
        Ok(Report {
            by,
            period,
            oldest: oldest_micros.map(timestamp),
            groups: groups.collect(),
            has_anomalies: history.has_anomalies(),
            has_error_types: history.has_error_types(),
            has_installed: false,
            left_out,
        })
    }
}

/// Returns the group of a row; `None` if the report does not look at it.
fn group_name<'r>(by: By, row: &HistoricInvocation<'r>) -> Option<&'r str> {
    match by {
        By::Skill => Some(row.skill_name),
        By::Phase => Some(row.workflow_phase.unwrap_or(UNKNOWN_PHASE)),
        By::Error => row.failure.map(ErrorType::as_str),
    }
}

fn take_room(taken: &mut usize, bytes: usize, by: By, groups: usize) -> Result<(), ReportError> {
    *taken += bytes + NAME_OVERHEAD_BYTES;
    if *taken > NAMES_BYTES_MAX { Err(ReportError::TooManyNames { by, groups }) } else { Ok(()) }
}

fn timestamp(micros: i64) -> Timestamp {
    Timestamp::from_microsecond(micros).expect("it was read from a timestamp")
}
