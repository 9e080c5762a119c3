//! A skill as it is exposed.

use crate::ledger::SkillSeries;

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
