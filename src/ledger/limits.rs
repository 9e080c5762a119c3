//! How much a ledger remembers.

use super::series::DURATION_BUCKETS_SECONDS;

/// The name under which skills beyond the limit are counted, and under which a skill's phases, anomaly types and types
/// of errors beyond theirs are. Reserved: a feed that uses it for a skill is refused that entry.
pub const OVERFLOW: &str = "__overflow__";

/// What every sum of counts stays within, with room to count on: a state with more is not accepted.
pub(super) const COUNT_MAX: u64 = 1 << 62;

/// Invocations of one series beyond which no snapshot is counted any more. Whole numbers up to here are exact as samples,
/// and all pending increases together stay below [`COUNT_MAX`].
pub(super) const SERIES_COUNT_MAX: u64 = 1 << 53;

/// Series of one phase of a skill: two counters of invocations, and the buckets, the sum and the count of its durations.
pub const SERIES_PER_PHASE: usize = 2 + (DURATION_BUCKETS_SECONDS.len() + 1) + 2;

/// Series that each skill takes of [`Limits::series_max`]: three gauges, the phases `unknown` and `__overflow__`, and the anomaly
/// type and the type of errors `__overflow__`, so that whatever is counted of it later has a series.
pub const SERIES_PER_SKILL_MIN: usize = 3 + 2 * SERIES_PER_PHASE + 2;

/// Bounds of everything that grows with what feeds say. What happens at each bound is said beside it.
///
/// ```
/// use session_buddy_bridge::Settings;
/// use session_buddy_bridge::settings::Limits;
///
/// let ledger_limits = Limits { skills_max: 500, ..Limits::default() };
/// let settings = Settings { ledger_limits, ..Settings::new(Vec::new()) };
/// assert_eq!(settings.check().map_err(|error| error.to_string()), Ok(()));
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Skills with series of their own, over all feeds. Counts of further skills go to `__overflow__`.
    pub skills_max: usize,
    /// Series of all skills, as Prometheus counts them: [`SERIES_PER_PHASE`] for each phase of a skill, one for each type of its
    /// anomalies and of its errors, three gauges. Whatever the other limits are, there are no more. Counts of further phases and types go to
    /// `__overflow__`, and those of further skills to the skill of that name; each skill has room for these set aside:
    /// [`SERIES_PER_SKILL_MIN`].
    pub series_max: usize,
    /// Skills of each source whose numbers are remembered. Entries and events of further skills are rejected.
    pub remembered_skills_max: usize,
    /// Characters of a label value. A longer one rejects its entry: cut short, it could be another's name.
    pub label_chars_max: usize,
    /// Phases of each skill. Further phases are counted under the phase `__overflow__`.
    pub phases_per_skill_max: usize,
    /// Anomaly types of each skill. Further types are counted under the type `__overflow__`.
    pub anomaly_types_per_skill_max: usize,
    /// Types of errors of each skill. Failures of further types are counted under the type `__overflow__`.
    pub error_types_per_skill_max: usize,
    /// Anomalies that each source remembers to recognise them. Further ones are rejected until some are forgotten.
    pub anomaly_keys_max: usize,
    /// Event identifiers that each source remembers. The oldest is forgotten, and events from before it become stale.
    pub event_ids_max: usize,
    /// Sessions that each feed reports, open or lately closed. Further ones are rejected until some expire.
    pub session_ids_max: usize,
    /// Streamed events of each source that wait for a snapshot to prove them. Further ones are dropped as late.
    pub waiting_events_max: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            skills_max: 20_000,
            series_max: 1_000_000,
            remembered_skills_max: 50_000,
            label_chars_max: 256,
            phases_per_skill_max: 64,
            anomaly_types_per_skill_max: 64,
            error_types_per_skill_max: 32,
            anomaly_keys_max: 100_000,
            event_ids_max: 65_536,
            session_ids_max: 10_000,
            waiting_events_max: 10_000,
        }
    }
}

impl Limits {
    /// Whether `label` is too long to be a label value.
    pub(super) fn refuses(&self, label: &str) -> bool {
        label.len() > self.label_chars_max && label.chars().count() > self.label_chars_max
    }
}
