//! What a ledger remembers beside its series, as plain data: state version 4.
//!
//! The same types serve a difference, what changed since it was last acknowledged as new values, and the whole. A store
//! writes a difference in one transaction, in this order: first what is removed or cleared, then new values over old ones.
//!
//! | record | key | in words |
//! | --- | --- | --- |
//! | [`FeedRecord`] | `slot` | an entry of the present or a past configuration, and the source that it was bound to |
//! | [`AgreedRecord`] | `feed`, `skill_name` | the last listing of a feed on standby that is in its source's history |
//! | [`AddressRecord`] | `address` | the sources that an address led to |
//! | [`SourceRecord`] | `id` | one database, as far as it is a single row |
//! | [`SourceSkillRecord`] | `source`, `skill_name` | the numbers of a skill of a source, and what is pending for it |
//! | [`HistoryRecord`] | `source`, `skill_name` | what the skill was listed with before |
//! | [`DamageRecord`] | `source`, `damage`, `skill_name` | a state of the source before a damage |
//! | [`TallyRecord`], [`AnomalyKey`], [`EventIdRecord`], [`SessionRecord`] | `source`, and as their names say | |
//! | [`DatabaseRecord`], [`FingerprintRecord`] | `source`; `source`, `table`, `branch`, `key` | where the source's database was read to |

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::binding::Entry;
use super::evidence::Totals;
use crate::protocol::Event;
pub use crate::skills_db::Table;

use super::series::{FeedCounters, SkillIndex};
use super::slots::{FeedSlot, SourceId};

/// Records by kind. A value that is `None` is forgotten; in the whole there is none of those.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Records {
    /// Sources that exist no more: every record with their identifier is deleted, from every table, before others are
    /// written.
    pub sources_removed: Vec<SourceId>,
    /// Feeds whose [`AgreedRecord`]s are all deleted before others are written.
    pub agreed_cleared: Vec<FeedSlot>,
    /// Sources whose [`DamageRecord`]s are all deleted before others are written.
    pub damages_cleared: Vec<SourceId>,
    /// Feeds whose sessions are all deleted before others are written.
    pub sessions_cleared: Vec<FeedSlot>,
    /// Entries of configurations.
    pub feeds: Vec<FeedRecord>,
    /// What feeds on standby and their sources had in common.
    pub agreed: Vec<AgreedRecord>,
    /// Addresses.
    pub addresses: Vec<AddressRecord>,
    /// Sources.
    pub sources: Vec<SourceRecord>,
    /// Skills of sources.
    pub skills: Vec<SourceSkillRecord>,
    /// Listing histories.
    pub histories: Vec<HistoryRecord>,
    /// States before damages.
    pub damages: Vec<DamageRecord>,
    /// Numbers of anomalies.
    pub tallies: Vec<TallyRecord>,
    /// Anomalies by what tells them apart.
    pub anomalies: Vec<(AnomalyKey, Option<AnomalyRecord>)>,
    /// Event identifiers that were added. Those of a source below its [`SourceRecord::first_event_id`] are deleted.
    pub event_ids: Vec<EventIdRecord>,
    /// Sessions by feed and identifier.
    pub sessions: Vec<(FeedSlot, Arc<str>, Option<SessionRecord>)>,
    /// Where databases were read to. See there which fingerprints are deleted before others are written.
    pub databases: Vec<DatabaseRecord>,
    /// The rows that were read last.
    pub fingerprints: Vec<FingerprintRecord>,
}

impl Records {
    /// Whether there is nothing to persist.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// An entry of the present or a past configuration.
#[derive(Debug, Clone, PartialEq)]
pub struct FeedRecord {
    /// Its slot, which is never given to another entry. Slots have no gaps.
    pub slot: FeedSlot,
    /// Name, address and filter. No two feeds have the same.
    pub entry: Entry,
    /// Whether it was configured last.
    pub is_configured: bool,
    /// Its counters. Their `identity` is the entry's name, their `rows_tell` is not persisted.
    pub counters: FeedCounters,
    /// The source that it was last bound to.
    pub source: Option<SourceId>,
    /// Sources of entries that left the configuration in the change in which this one joined it, until it is bound.
    pub heir_of: Vec<SourceId>,
    /// Snapshots before it may begin another source in the place of one, at most 3.
    pub hold_rounds: u32,
    /// Whether what its next source holds happened while it was observed.
    pub is_observed: bool,
    /// Events that it streamed while it was not known whose they are, in their order.
    pub held_events: Vec<Event<'static>>,
    /// Feeds that are of other servers.
    pub apart: Vec<FeedSlot>,
    /// When its server last reported sessions, in microseconds since the Unix epoch.
    pub sessions_reported_micros: Option<i64>,
    /// The sessions that its server last reported as a number, less those that closed since.
    pub sessions_count: u64,
}

/// What a feed and its source had in common of a skill.
#[derive(Debug, Clone, PartialEq)]
pub struct AgreedRecord {
    /// The feed.
    pub feed: FeedSlot,
    /// The skill.
    pub skill_name: Arc<str>,
    /// The numbers.
    pub totals: Totals,
}

/// The sources that an address led to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AddressRecord {
    /// The address, as [`Entry::address`].
    pub address: Box<str>,
    /// At most 16, the latest last.
    pub sources: Vec<SourceId>,
}

/// One database.
#[derive(Debug, Clone, PartialEq)]
pub struct SourceRecord {
    /// Identifiers are never given twice: the next one is greater than all.
    pub id: SourceId,
    /// Whether it began in the place of another, so that all it holds happened under watch.
    pub is_observed: bool,
    /// Whether a snapshot of it was ever counted.
    pub has_begun: bool,
    /// The feed that moved its counters last.
    pub counted_by: Option<FeedSlot>,
    /// When it was last active, in microseconds since the Unix epoch.
    pub active_micros: i64,
    /// Whether its latest unfiltered snapshot named every skill of the database.
    pub previous_was_complete: bool,
    /// The server's time of a late snapshot, at most a few minutes before the latest.
    pub previous_micros: Option<i64>,
    /// Whether it ever streamed an invocation.
    pub streams_invocations: bool,
    /// The sequence number of the oldest event identifier that is remembered: earlier ones are forgotten.
    pub first_event_id: u64,
    /// The newest time of a forgotten event identifier.
    pub newest_forgotten_micros: Option<i64>,
    /// Skills that were listed only with numbers that could not be accepted.
    pub unread: Vec<Arc<str>>,
    /// Whether there were more of them than can be remembered.
    pub unread_overflowed: bool,
}

/// One skill of one source.
#[derive(Debug, Clone, PartialEq)]
pub struct SourceSkillRecord {
    /// The source.
    pub source: SourceId,
    /// The skill's name as feeds list it.
    pub skill_name: Arc<str>,
    /// Where it is counted.
    pub series: SkillIndex,
    /// The last accepted numbers; `None` where no snapshot and no row ever told any.
    pub remembered: Option<Totals>,
    /// Invocations that this source has counted of it.
    pub counted: u64,
    /// Whether a snapshot ever listed it.
    pub listed: bool,
    /// Total, completed and rate in percent of its part of the completion rate.
    pub gauge: Option<(f64, f64, f64)>,
    /// The last streamed completion rate, 0 to 1.
    pub streamed_rate: Option<f64>,
    /// Events counted before the skill was listed, completed and abandoned.
    pub credit: (u64, u64),
    /// Seconds of the completed ones among them.
    pub credit_duration_sum: Option<f64>,
    /// What is pending; `None` if nothing is.
    pub pending: Option<Box<PendingRecord>>,
    /// Seconds of the completed invocations that rows of the database contain, added up as the server does.
    pub row_seconds: Option<f64>,
    /// What else rows of the database led to; `None` if to nothing. Once they are read most skills have none, and a commit can have all
    /// of them.
    pub rows: Option<Box<SkillRowsRecord>>,
    /// Whether what the feed lists is known to disagree with the rows.
    pub disagrees: bool,
}

/// What the rows of the database beside a feed's server led to, of one skill.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct SkillRowsRecord {
    /// Completed and abandoned rows of the database that are yet to be read and that snapshots have counted.
    pub counted: (u64, u64),
    /// Completed and abandoned rows of the database that are yet to be read, that are in the remembered numbers and that
    /// nothing has counted.
    pub uncounted: (u64, u64),
    /// Whether the rows that are yet to be read had happened before the skill was observed.
    pub are_history: bool,
    /// Completed and abandoned invocations that are in the remembered numbers and not exposed: they happened while no feed was
    /// subscribed to the skill.
    pub uncovered: (u64, u64),
    /// Failures and last use from rows that were read while no feed was subscribed to the skill. They are not exposed.
    pub uncovered_rows: Option<Box<UncoveredRows>>,
}

/// Returns `value` for a record where most have the default, for which it returns `None`.
pub fn unless_default<T: Default + PartialEq>(value: T) -> Option<Box<T>> {
    (value != T::default()).then(|| Box::new(value))
}

/// Failures and last use of a skill from rows that were read while no feed was subscribed to it.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct UncoveredRows {
    /// Failures by `error_type`, in the order of first sight. Together at most as many as abandoned invocations are uncovered.
    pub failures: Vec<(Arc<str>, u64)>,
    /// The latest time of a row, in microseconds since the Unix epoch.
    pub last_invoked_micros: Option<i64>,
}

/// Events and increases that wait for each other. The clock of a wait starts over when it is restored.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct PendingRecord {
    /// Streamed invocations.
    pub events: Vec<PendingEventRecord>,
    /// Invocations that a snapshot proved.
    #[serde(alias = "rises")]
    pub increases: Vec<PendingIncreaseRecord>,
}

/// A streamed invocation that waits.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PendingEventRecord {
    /// Its phase, if it has one.
    pub workflow_phase: Option<Arc<str>>,
    /// Whether it was completed.
    pub completed: bool,
    /// Its duration, if it has one.
    pub duration_seconds: Option<f64>,
}

/// Proved invocations that wait.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct PendingIncreaseRecord {
    /// Completed ones.
    pub completed: u64,
    /// Others.
    pub abandoned: u64,
    /// Seconds of the completed ones and their error; `None` where unknown.
    pub durations: Option<(f64, f64)>,
    /// Whether they happened before the source was observed.
    pub history: bool,
}

/// What a skill was listed with before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HistoryRecord {
    /// The source.
    pub source: SourceId,
    /// The skill.
    pub skill_name: Arc<str>,
    /// Its listings.
    pub change: HistoryChange,
}

/// What changed of a listing history.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HistoryChange {
    /// The history itself, which replaces the one before; in the whole, always. 64-bit words as
    /// [`ListingHistory::encode`](super::continuity::ListingHistory::encode) returns them: the column is a BLOB of their
    /// little-endian bytes, at most 5 KiB.
    Whole(Vec<u64>),
    /// Digests of listings that follow those of the history before, or begin one. Applying them twice adds them twice.
    Pushed(Vec<u64>),
}

/// The numbers of a skill before a damage.
#[derive(Debug, Clone, PartialEq)]
pub struct DamageRecord {
    /// The source.
    pub source: SourceId,
    /// Which damage, 0 for the oldest of at most 4.
    pub damage: usize,
    /// The skill.
    pub skill_name: Arc<str>,
    /// Its numbers.
    pub totals: Totals,
}

/// How many anomalies of one skill and type a source told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TallyRecord {
    /// The source.
    pub source: SourceId,
    /// The skill.
    pub skill_name: Arc<str>,
    /// The type.
    pub anomaly_type: Arc<str>,
    /// Listed in snapshots.
    pub listed: u64,
    /// Streamed.
    pub streamed: u64,
    /// Those of both that are not exposed.
    pub hidden: u64,
}

/// What tells anomalies of one source apart.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct AnomalyKey {
    /// The source.
    pub source: SourceId,
    /// The skill.
    pub skill_name: Arc<str>,
    /// The type.
    pub anomaly_type: Arc<str>,
    /// When the server found it, verbatim.
    pub detected_at: Option<Arc<str>>,
    /// The bits of its score.
    pub score_bits: Option<u64>,
}

/// What is remembered of an anomaly.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AnomalyRecord {
    /// How many were ever listed at the same time.
    pub multiplicity: u64,
    /// How many rows of the database hold it.
    pub rows: u64,
    /// Whether it was streamed.
    pub streamed: bool,
    /// When it was last seen, in microseconds since the Unix epoch; at most an hour before the latest.
    pub seen_micros: i64,
}

/// One event identifier.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EventIdRecord {
    /// The source.
    pub source: SourceId,
    /// Its number in the order of arrival.
    pub sequence: u64,
    /// The identifier.
    pub id: Arc<str>,
    /// The feed that streamed it.
    pub sender: FeedSlot,
    /// The sender's time, in microseconds since the Unix epoch.
    pub sent_micros: Option<i64>,
}

/// One session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SessionRecord {
    /// Whether it is open.
    pub open: bool,
    /// When it was last reported, in microseconds since the Unix epoch.
    pub seen_micros: i64,
}

/// Where the database of a source was read to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DatabaseRecord {
    /// The source.
    pub source: SourceId,
    /// Whether snapshots have counted what rows have not.
    pub moved_alone: bool,
    /// Rows up to this key are in the remembered numbers.
    pub remembered_until: i64,
    /// The newest time that a row of `skill_invocation` told, in microseconds since the Unix epoch.
    pub newest_micros: Option<i64>,
    /// The key up to which `skill_invocation` was read.
    pub invocations_cursor: i64,
    /// The key up to which `skill_anomalies` was read.
    pub anomalies_cursor: i64,
    /// What becomes of the fingerprints of `skill_invocation` that were persisted before.
    pub invocations: FingerprintsKept,
    /// What becomes of those of `skill_anomalies`.
    pub anomalies: FingerprintsKept,
}

/// What becomes of the fingerprints of a table that were persisted before, when others are written.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum FingerprintsKept {
    /// All of them stay; in the whole, always.
    #[default]
    All,
    /// Those of rows with these keys are deleted, unless they are lost.
    Without(Vec<i64>),
    /// All of them are deleted.
    None,
}

/// A row of the server's database that was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FingerprintRecord {
    /// The source.
    pub source: SourceId,
    /// Where it was read.
    pub table: Table,
    /// 0 if the row is there, as far as is known. Otherwise it was counted and is gone, and this tells the states apart that
    /// were lost with such rows.
    pub branch: u32,
    /// Its primary key.
    pub key: i64,
    /// Its digest.
    pub digest: i64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_few_skills_have_takes_little_of_the_record_of_each() {
        let size = size_of::<SourceSkillRecord>();
        assert!(size <= 192, "{size} bytes, and a commit has tens of thousands");
        assert_eq!(unless_default(PendingRecord::default()), None);
        let rows = SkillRowsRecord { counted: (0, 1), ..SkillRowsRecord::default() };
        assert_eq!(unless_default(rows.clone()), Some(Box::new(rows)));
    }
}
