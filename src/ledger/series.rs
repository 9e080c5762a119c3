//! The numbers behind the series, as plain data.

use std::sync::Arc;

use super::records::Records;

/// Upper bounds of the buckets of `skill_duration_seconds`, in seconds; `+Inf` is implied.
pub const DURATION_BUCKETS_SECONDS: [f64; 9] = [0.1, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 300.0];

/// A skill's place in the ledger. Places are given in the order of first sight and never change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SkillIndex(pub u32);

/// Observed durations.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Histogram {
    /// Observations of each bucket alone (not cumulative); the last is beyond every bound.
    pub buckets: [u64; DURATION_BUCKETS_SECONDS.len() + 1],
    /// Seconds.
    pub sum: f64,
}

impl Histogram {
    /// No observation.
    pub const EMPTY: Self = Self { buckets: [0; DURATION_BUCKETS_SECONDS.len() + 1], sum: 0.0 };

    /// Number of observations.
    pub fn count(&self) -> u64 {
        self.buckets.iter().sum()
    }

    /// Adds `times` observations in the bucket of `each_seconds`, and `sum_seconds` to the sum, which stays finite.
    pub fn observe(&mut self, each_seconds: f64, times: u64, sum_seconds: f64) {
        let bucket = DURATION_BUCKETS_SECONDS.partition_point(|bound| *bound < each_seconds);
        self.buckets[bucket] += times;
        self.sum = (self.sum + sum_seconds).min(f64::MAX);
    }
}

/// The series of one skill in one phase.
#[derive(Debug, Clone, PartialEq)]
pub struct PhaseSeries {
    /// `workflow_phase`.
    pub workflow_phase: Arc<str>,
    /// `skill_invocations_total` with `completed="true"`.
    pub completed: u64,
    /// `skill_invocations_total` with `completed="false"`.
    pub abandoned: u64,
    /// `skill_duration_seconds`.
    pub durations: Histogram,
    /// When these began to count at 0, in microseconds since the Unix epoch; `None` where the first that they counted had
    /// happened before it was watched.
    pub born_micros: Option<i64>,
    /// The latest invocation that named its session. It is not persisted.
    pub exemplar: Option<Exemplar>,
}

/// One invocation of those that a series counts: the way from a number to where it came from.
#[derive(Debug, Clone, PartialEq)]
pub struct Exemplar {
    /// What it named as its session: 1 to [`EXEMPLAR_CHARS_MAX`] characters, none of them a quote. Shared with the copies of the
    /// series, and with later invocations of the same session.
    pub session_id: Arc<str>,
    /// Whether it was completed.
    pub completed: bool,
    /// The duration that was observed for it, in seconds.
    pub duration_seconds: Option<f64>,
    /// When it was counted, in microseconds since the Unix epoch.
    pub wall_micros: i64,
}

/// The labels of an exemplar may have 128 characters (OpenMetrics 1.0, "Exemplars"), ten of which its name takes.
pub const EXEMPLAR_CHARS_MAX: usize = 128 - "session_id".len();

/// `anomalies_detected_total` of one skill and one type.
#[derive(Debug, Clone, PartialEq)]
pub struct AnomalySeries {
    /// `anomaly_type`.
    pub anomaly_type: Arc<str>,
    /// How many.
    pub count: u64,
    /// As that of [`PhaseSeries`].
    pub born_micros: Option<i64>,
}

/// `session_buddy_bridge_skill_failures_total` of one skill and one type of errors.
#[derive(Debug, Clone, PartialEq)]
pub struct FailureSeries {
    /// `error_type`.
    pub error_type: Arc<str>,
    /// How many rows of the database failed with it.
    pub count: u64,
    /// As that of [`PhaseSeries`].
    pub born_micros: Option<i64>,
}

/// An anomaly as it was counted, for people to look at: no count rests on it, and it is not kept over restarts.
#[derive(Debug, Clone, PartialEq)]
pub struct SeenAnomaly {
    /// `skill_name`.
    pub skill_name: Arc<str>,
    /// `anomaly_type`.
    pub anomaly_type: Arc<str>,
    /// How many that look the same were counted at once.
    pub times: u64,
    /// When the server found it, verbatim.
    pub detected_at: Option<Box<str>>,
    /// Distance from the baseline, in standard deviations.
    pub deviation_score: Option<f64>,
    /// When it was counted, in microseconds since the Unix epoch.
    pub wall_micros: i64,
    /// Whether it had happened before it was watched.
    pub is_history: bool,
}

/// How many anomalies are remembered to be looked at.
pub const RECENT_ANOMALIES_MAX: usize = 50;

/// All series of one skill.
#[derive(Debug, Clone, PartialEq)]
pub struct SkillSeries {
    /// `skill_name`.
    pub skill_name: Arc<str>,
    /// In the order of first sight.
    pub phases: Vec<PhaseSeries>,
    /// `skill_completion_rate`, 0 to 1; `None` while there is none to show.
    pub completion_rate: Option<f64>,
    /// `anomalies_detected_total` by `anomaly_type`, in the order of first sight.
    pub anomalies: Vec<AnomalySeries>,
    /// `session_buddy_bridge_skill_failures_total` by `error_type`, in the order of first sight.
    pub failures: Vec<FailureSeries>,
    /// `session_buddy_bridge_skill_last_invoked_timestamp_seconds`, in microseconds since the Unix epoch: the latest time of a
    /// row that was read; `None` while there is none. It never falls.
    pub last_invoked_micros: Option<i64>,
}

impl SkillSeries {
    /// A skill of which nothing is counted.
    pub fn new(skill_name: Arc<str>) -> Self {
        Self {
            skill_name,
            phases: Vec::new(),
            completion_rate: None,
            anomalies: Vec::new(),
            failures: Vec::new(),
            last_invoked_micros: None,
        }
    }

    /// Returns the index in [`SkillSeries::phases`] of the series of a phase.
    pub(super) fn position_of_phase(&self, workflow_phase: &str) -> Option<usize> {
        self.phases.iter().position(|phase| *phase.workflow_phase == *workflow_phase)
    }
}

/// Adds `item`. A `Vec` takes room for four at its first; of what a skill has most have one, and there are many skills.
pub(super) fn push_tight<T>(items: &mut Vec<T>, item: T) {
    if items.len() < 4 {
        items.reserve_exact(1);
    }
    items.push(item);
}

/// A skill with its place.
#[derive(Debug, Clone, PartialEq)]
pub struct SkillRow {
    /// Where it is counted.
    pub index: SkillIndex,
    /// Its series.
    pub series: SkillSeries,
    /// When a snapshot last listed it, in microseconds since the Unix epoch; 0 for never.
    pub last_listed_micros: i64,
}

/// A skill with its place, as the ledger has it.
#[derive(Debug, Clone, Copy)]
pub struct SkillRef<'l> {
    /// As those of [`SkillRow`].
    pub index: SkillIndex,
    /// See `index`.
    pub series: &'l SkillSeries,
    /// See `index`.
    pub last_listed_micros: i64,
}

impl SkillRef<'_> {
    pub(super) fn to_row(self) -> SkillRow {
        let Self { index, series, last_listed_micros } = self;
        SkillRow { index, series: series.clone(), last_listed_micros }
    }
}

/// The counters that the translation rules name, over all feeds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RuleCounters {
    /// Observations whose duration is the mean of several completions.
    pub estimated_observations: u64,
    /// Observations of the duration of a single completion.
    pub exact_observations: u64,
    /// Entries whose rate does not give a whole number of completions.
    pub inexact_rates: u64,
    /// Events dropped because no rise accounted for them.
    pub late_events: u64,
    /// Invocations of a feed's past that joined a series which was already shown.
    pub backfilled_invocations: u64,
    /// Intervals between two snapshots in which the list may have hidden anomalies.
    pub anomaly_window_overflows: u64,
    /// Invocations counted under a skill or a phase `__overflow__`.
    pub overflowed_invocations: u64,
    /// Anomalies counted under a skill or a type `__overflow__`.
    pub overflowed_anomalies: u64,
}

/// The numbers that the ledger keeps for each feed beside the families.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct FeedCounters {
    /// The feed's identity.
    pub identity: Arc<str>,
    /// The most invocations that an unlisted skill can have; 0 when every skill is listed, `None` before the first
    /// unfiltered snapshot.
    pub tenth_skill_invocations: Option<u64>,
    /// Databases that came back a few writes younger.
    pub rollbacks: u64,
    /// New databases.
    pub resets: u64,
    /// Skills of which the feed lasted to list other numbers than the rows of its database tell.
    pub detail_mismatches: u64,
    /// Whether the rows of its database tell the feed's counts; `None` where none is configured.
    pub rows_tell: Option<bool>,
    /// Invocations that two sources had counted which turned out to be one.
    pub double_counted: u64,
    /// Doubts that were settled by counting less, by [`super::binding::Doubt`].
    pub undecided: [u64; super::binding::Doubt::ALL.len()],
}

/// What changed since the last time changes were taken: new values, not differences, so that applying them twice does
/// no harm.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Changes {
    /// What [`super::Ledger::acknowledge`] needs to know them by.
    pub sequence: u64,
    /// Every skill that changed, whole.
    pub skills: Vec<SkillRow>,
    /// When a snapshot last listed a skill, in microseconds since the Unix epoch. Apart from the series, because it moves
    /// with every snapshot, also with one that changes nothing.
    pub last_listed: Vec<(SkillIndex, i64)>,
    /// Every feed that changed, with its place in the order of feeds.
    pub feeds: Vec<(usize, FeedCounters)>,
    /// The anomalies that were counted, up to [`RECENT_ANOMALIES_MAX`] of the latest, oldest first.
    pub anomalies: Vec<SeenAnomaly>,
    /// When they were taken, in microseconds since the Unix epoch; 0 where nobody said.
    pub wall_micros: i64,
    /// The counters of the rules, all of them.
    pub rules: RuleCounters,
    /// What else changed and has to be kept to count on. Only a store looks at it.
    pub memory: Records,
}
