//! The history of a database as samples at its true times, up to where the live series begin.
//!
//! | file | job |
//! | --- | --- |
//! | `collect` | rows to events, and the totals that they lead to |
//! | `series` | events to samples, metric after metric |
//! | `open_metrics`, `requests` | samples as OpenMetrics, and as requests of remote write |
//!
//! Invariants: counters are cumulative from the first row on and never fall. No value exceeds what a bridge counted at the end
//! that reads the same database, so that no live series begins with a reset. The same rows and times give the same samples.

mod collect;
mod open_metrics;
mod requests;
mod series;

use std::io;

use thiserror::Error;

use crate::exposition::{RowFamily, SamplesAtTimes};
use crate::ledger::Limits;
use crate::skills_db::{History, SkillsDatabaseError};

pub use collect::EVENTS_MAX;
pub use open_metrics::OpenMetrics;
pub use requests::Requests;

/// Which samples are made. Times are milliseconds since the Unix epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span {
    /// Before the first sample. Values include what happened before.
    pub since_millis: i64,
    /// When the live series begin: the last sample is one millisecond before.
    pub end_millis: i64,
    /// Distance of the samples of a series that changes.
    pub step_millis: i64,
}

/// What the bridge counts whose series are continued.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Counted {
    /// Its limits.
    pub limits: Limits,
    /// The skills that its feeds are subscribed to; none for all.
    pub skills: Vec<String>,
}

impl Counted {
    /// Returns whether every skill is one of `skills`.
    pub fn is_within(&self, skills: &[String]) -> bool {
        !self.skills.is_empty() && self.skills.iter().all(|name| skills.contains(name))
    }

    fn includes(&self, skill_name: &str) -> bool {
        self.skills.is_empty() || self.skills.iter().any(|name| name == skill_name)
    }
}

/// What became of the rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Summary {
    /// Rows that are in the samples.
    pub rows: u64,
    /// Rows that the live series count, because they were stored at the end or later.
    pub later_rows: u64,
    /// Rows without a time that can be read: only the live series count them.
    pub rows_without_time: u64,
    /// Rows that no bridge counts.
    pub invalid_rows: u64,
    /// Samples.
    pub samples: u64,
    /// Series.
    pub series: u64,
}

/// Why there is no backfill, or not all of it.
#[derive(Debug, Error)]
pub enum BackfillError {
    /// The database cannot be read.
    #[error(transparent)]
    Database(#[from] SkillsDatabaseError),
    /// The output takes nothing more.
    #[error("cannot write: {0}")]
    Write(#[from] io::Error),
    /// Nobody takes the requests any more.
    #[error("the requests were not sent")]
    NotSent,
}

/// Receives the progress of the work.
pub trait Progress {
    /// `done` of `all` is done of the step `what`.
    fn report(&mut self, what: &'static str, done: u64, all: u64);
}

/// Takes samples.
pub trait Sink {
    /// The samples to come are of this family.
    ///
    /// # Errors
    /// The output takes nothing more.
    fn begin_family(&mut self, family: RowFamily) -> Result<(), BackfillError>;

    /// The samples to come are of this part of a skill. Returns the number of its series.
    ///
    /// # Errors
    /// The output takes nothing more.
    fn begin_metric(&mut self, samples: &SamplesAtTimes) -> Result<u64, BackfillError>;

    /// Takes a sample of each series of the part, later than those before.
    ///
    /// # Errors
    /// The output takes nothing more.
    fn take(&mut self, samples: &SamplesAtTimes, millis: i64) -> Result<(), BackfillError>;
}

/// Makes the samples of those rows of `history` that are `counted`. At most `events_max` rows are held in memory at a time, unless one skill has more. Where all
/// fit, the transaction ends before the first sample is written: whoever takes samples slowly holds up no server. `verify` is
/// called whenever everything is read.
///
/// # Errors
/// The database cannot be read, or `sink` takes nothing more; those of `verify`.
pub fn write(
    history: History<'_>,
    span: Span,
    counted: &Counted,
    events_max: usize,
    verify: &dyn Fn() -> Result<(), BackfillError>,
    sink: &mut impl Sink,
    progress: &mut dyn Progress,
) -> Result<Summary, BackfillError> {
    // An error of rows that changed while they were read is theirs.
    let read = collect::catalog(&history, span, counted, events_max, progress);
    verify()?;
    let (catalog, events) = read?;
    match events {
        Some(events) => {
            drop(history);
            series::write(series::Source::Memory(events), span, catalog, events_max, sink, progress)
        }
        None => {
            let source = series::Source::Database(history);
            let written = series::write(source, span, catalog, events_max, sink, progress);
            verify().and(written)
        }
    }
}
