//! The answer without Prometheus: what the rows of the server's database say about each skill, phase or type of errors.
//!
//! | file | job |
//! | --- | --- |
//! | `tally` | counts rows |
//! | `quantiles` | exact quantiles of durations, in bounded memory |
//! | `sum` | sums of durations |
//! | `trend` | whether two counts differ by more than chance |
//! | `columns` | which columns a report has, and the cells of each group |
//! | `table`, `markdown`, `csv`, `json` | the report as text |
//!
//! Architecture invariant: pure, but for the rows that it is given. Each number equals an SQL query of the same rows.

mod columns;
mod csv;
mod json;
mod markdown;
mod quantiles;
mod sum;
mod table;
mod tally;
mod trend;

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use thiserror::Error;

use crate::skills_db::{History, SkillsDatabaseError};

pub use quantiles::DURATIONS_MAX;
pub use tally::tally;
pub use trend::Trend;

/// What the groups of a report are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum By {
    /// Skills.
    Skill,
    /// Phases of the workflow; `unknown` for rows without one.
    Phase,
    /// Types of the errors of failed invocations.
    Error,
}

impl By {
    /// Returns the value of `--by`, which is also that of `by` in JSON.
    fn code(self) -> &'static str {
        match self {
            Self::Skill => "skill",
            Self::Phase => "phase",
            Self::Error => "error",
        }
    }

    /// Returns the other values of `--by`, of which the first has the fewest names in most databases.
    fn others(self) -> &'static str {
        match self {
            Self::Skill => "phase or --by error",
            Self::Phase => "error or --by skill",
            Self::Error => "phase or --by skill",
        }
    }
}

/// The periods that are compared: from `start` to `end`, and as long before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Period {
    /// Start of the former period.
    pub former_start: Timestamp,
    /// Start of the period; the former one ends here.
    pub start: Timestamp,
    /// End of the period, the first moment that is not in it. Nothing from here on is in the report.
    pub end: Timestamp,
}

/// What is reported of the rows of one period.
#[derive(Debug, Clone, PartialEq)]
pub struct Report {
    /// What the groups are.
    pub by: By,
    /// The period.
    pub period: Period,
    /// The time of the oldest invocation; `None` without any.
    pub oldest: Option<Timestamp>,
    /// By descending invocations, then the latest used first, then by name.
    pub groups: Vec<Group>,
    /// Whether the database has anomalies.
    pub has_anomalies: bool,
    /// Whether the database has types of errors.
    pub has_error_types: bool,
    /// Whether the installed skills are known.
    pub has_installed: bool,
    /// Rows that are in no group.
    pub left_out: LeftOut,
}

/// Rows that are in no group.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LeftOut {
    /// Rows that a bridge with default limits rejects.
    pub invalid: u64,
    /// Rows without a time that can be read.
    pub without_time: u64,
    /// Rows from the end of the period on.
    pub later: u64,
}

/// What is reported of a skill, a phase or a type of errors. Counts are of the period, unless they say otherwise.
#[derive(Debug, Clone, PartialEq)]
pub struct Group {
    /// The skill, the phase or the type.
    pub name: Box<str>,
    /// Number of invocations; by type of errors of those that failed with it.
    pub invocations: u64,
    /// Number of completed ones.
    pub completed: u64,
    /// The same as `invocations` in the former period.
    pub former_invocations: u64,
    /// Durations; `None` if no invocation has one.
    pub durations: Option<Durations>,
    /// When the latest invocation before the end of the period began.
    pub last_used: Option<Timestamp>,
    /// Number of anomalies.
    pub anomalies: u64,
    /// Number of failed invocations by type of errors; by type of errors, by skill.
    pub failures: BTreeMap<Box<str>, u64>,
    /// Whether the skill is installed.
    pub is_installed: bool,
}

/// Durations of invocations, in seconds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Durations {
    /// Median, by nearest rank: the smallest duration that at least half of them do not exceed.
    pub p50: f64,
    /// 95th percentile, by nearest rank.
    pub p95: f64,
    /// Arithmetic mean.
    pub mean: f64,
}

/// How a report is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// A table for people, at most so many columns of a terminal wide; `None` without a limit.
    Table {
        /// Columns of the terminal.
        width: Option<usize>,
    },
    /// One JSON object.
    Json,
    /// Comma-separated values with a header (RFC 4180).
    Csv,
    /// A table of GitHub Flavored Markdown.
    Markdown,
}

/// Why there is no report.
#[derive(Debug, Error)]
pub enum ReportError {
    /// The database cannot be read.
    #[error(transparent)]
    Database(#[from] SkillsDatabaseError),
    /// More names than memory is spent on.
    #[error(
        "the database has too many different names to be counted by {} in memory ({groups} groups): choose --by {}",
        by.code(),
        by.others()
    )]
    TooManyNames {
        /// What the groups are.
        by: By,
        /// How many groups were counted until then.
        groups: usize,
    },
}

impl Report {
    /// Reads the rows of `history` and reports on `period`. `installed` are the names of the installed skills, if they are
    /// known; those without a row get a group of their own. At most `durations_max` durations are held in memory at a time.
    ///
    /// # Errors
    /// Whatever SQLite reports, and [`ReportError::TooManyNames`].
    pub fn read(
        history: &History<'_>,
        by: By,
        period: Period,
        installed: Option<&BTreeSet<String>>,
        durations_max: usize,
    ) -> Result<Self, ReportError> {
        let mut report = tally(history, by, period, durations_max)?;
        report.has_installed = installed.is_some();
        if let Some(installed) = installed {
            report.add_installed(installed);
        }
        report.groups.sort_unstable_by(|a, b| {
            let order = b.invocations.cmp(&a.invocations).then_with(|| b.last_used.cmp(&a.last_used));
            order.then_with(|| a.name.cmp(&b.name))
        });
        Ok(report)
    }

    fn add_installed(&mut self, installed: &BTreeSet<String>) {
        let mut missing: BTreeSet<&str> = installed.iter().map(String::as_str).collect();
        for group in &mut self.groups {
            missing.remove(&*group.name);
            group.is_installed = installed.contains(&*group.name);
        }
        self.groups.extend(missing.into_iter().map(|name| Group { is_installed: true, ..Group::new(name) }));
    }

    /// Returns whether the rows cover the former period: without, nothing is known about a trend.
    pub fn covers_former_period(&self) -> bool {
        self.oldest.is_some_and(|oldest| oldest <= self.period.former_start)
    }

    /// Returns the trend of a group; `None` if the rows do not cover the former period.
    pub fn trend(&self, group: &Group) -> Option<Trend> {
        self.covers_former_period().then(|| Trend::between(group.former_invocations, group.invocations))
    }

    /// Returns the installed skills that were never invoked.
    pub fn never_invoked(&self) -> impl Iterator<Item = &Group> {
        self.groups.iter().filter(|group| group.is_installed && group.last_used.is_none())
    }

    /// Returns the report as text.
    pub fn write(&self, format: Format) -> String {
        match format {
            Format::Table { width } => table::write(self, width),
            Format::Json => json::write(self),
            Format::Csv => csv::write(self),
            Format::Markdown => markdown::write(self),
        }
    }
}

impl Group {
    fn new(name: &str) -> Self {
        Self {
            name: name.into(),
            invocations: 0,
            completed: 0,
            former_invocations: 0,
            durations: None,
            last_used: None,
            anomalies: 0,
            failures: BTreeMap::new(),
            is_installed: false,
        }
    }

    /// Returns the completed share of the invocations; `None` without any.
    pub fn success(&self) -> Option<f64> {
        (self.invocations > 0).then(|| self.completed as f64 / self.invocations as f64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn too_many_names_are_refused_with_groups_that_were_not_chosen() {
        for by in [By::Skill, By::Phase, By::Error] {
            let text = ReportError::TooManyNames { by, groups: 7 }.to_string();
            let (problem, remedy) = text.split_once(": choose ").unwrap();
            assert!(problem.contains(&format!("by {} ", by.code())), "{text}");
            assert!(remedy.contains("--by ") && !remedy.contains(by.code()), "{text}");
        }
    }
}
