//! Counts rows.

use std::collections::HashMap;

use jiff::Timestamp;

use super::quantiles::Collector;
use super::sum::Sum;
use super::{By, Durations, Group, LeftOut, Period, Report, ReportError};
use crate::ledger::{UNKNOWN_PHASE, server_time_micros};
use crate::skills_db::{ErrorType, HistoricInvocation, History, SkillsDatabaseError};

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
    history.invocations(|row| match row {
        Ok(row) => tally.add_invocation(&row),
        Err(_) => {
            tally.left_out.invalid += 1;
            Ok(())
        }
    })?;
    if by == By::Skill {
        history.anomalies(|row| {
            let times = row.map(|row| (row.entry.skill_name, row.entry.detected_at));
            match times {
                Ok((skill_name, detected_at)) => tally.add_anomaly(&skill_name, detected_at.as_deref()),
                Err(_) => {
                    tally.left_out.invalid += 1;
                    Ok(())
                }
            }
        })?;
    }
    tally.finish(history)
}

struct Tally {
    by: By,
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
    sum: Sum,
    durations: u64,
    last_micros: Option<i64>,
}

impl Tally {
    fn new(by: By, period: Period, durations_max: usize) -> Self {
        Self {
            by,
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
        take_room(&mut self.names_bytes, 2 * name.len(), self.groups.len())?;
        let group = self.groups.len();
        self.index.insert(name.into(), group);
        self.groups.push(Counted { group: Group::new(name), sum: Sum::default(), durations: 0, last_micros: None });
        Ok(group)
    }

    fn add_invocation(&mut self, row: &HistoricInvocation<'_>) -> Result<(), ReportError> {
        let Some(micros) = row.invoked_at.and_then(server_time_micros) else {
            self.left_out.without_time += 1;
            return Ok(());
        };
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
            counted.sum.add(seconds);
            counted.durations += 1;
            self.durations.add(index, seconds);
        }
        if let Some(error_type) = row.failure {
            let part = if self.by == By::Error { row.skill_name } else { error_type.as_str() };
            match counted.group.failures.get_mut(part) {
                Some(count) => *count += 1,
                None => {
                    take_room(&mut self.names_bytes, part.len(), groups)?;
                    counted.group.failures.insert(part.into(), 1);
                }
            }
        }
        Ok(())
    }

    fn add_anomaly(&mut self, skill_name: &str, detected_at: Option<&str>) -> Result<(), ReportError> {
        let Some(micros) = detected_at.and_then(server_time_micros) else {
            self.left_out.without_time += 1;
            return Ok(());
        };
        let group = self.group(skill_name)?;
        self.groups[group].group.anomalies += u64::from(micros >= self.start_micros);
        Ok(())
    }

    fn finish(self, history: &History<'_>) -> Result<Report, ReportError> {
        let Self { by, period, start_micros, index, groups, durations, oldest_micros, left_out, .. } = self;
        let mut reread = |each: &mut dyn FnMut(usize, f64)| {
            history.invocations::<SkillsDatabaseError>(|row| {
                let Ok(row) = row else { return Ok(()) };
                let Some(seconds) = row.duration_seconds else { return Ok(()) };
                let micros = row.invoked_at.and_then(server_time_micros);
                if let Some(name) = group_name(by, &row)
                    && micros.is_some_and(|micros| micros >= start_micros)
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
            durations: quantiles.map(|[p50, p95]| {
                let mean = counted.sum.value() / counted.durations as f64;
                Durations { p50, p95, mean }
            }),
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

fn take_room(taken: &mut usize, bytes: usize, groups: usize) -> Result<(), ReportError> {
    *taken += bytes + NAME_OVERHEAD_BYTES;
    if *taken > NAMES_BYTES_MAX { Err(ReportError::TooManyNames { groups }) } else { Ok(()) }
}

fn timestamp(micros: i64) -> Timestamp {
    Timestamp::from_microsecond(micros).expect("it was read from a timestamp")
}
