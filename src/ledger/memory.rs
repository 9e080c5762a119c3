//! What a ledger remembers beside its series, as plain data: what a store keeps, so that the rules hold across restarts.
//!
//! The same types serve a difference (what changed since it was last taken, as new values) and the whole.

use std::collections::HashMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::detail::Mark;
use super::series::{FeedCounters, SkillIndex};

pub use crate::skills_db::Table;

/// Rows by kind. A row that is `None` is forgotten; in the whole there is none of those.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Memory {
    /// Feeds that changed.
    pub feeds: Vec<FeedRow>,
    /// Skills of feeds.
    pub feed_skills: Vec<FeedSkillRow>,
    /// Numbers of anomalies.
    pub tallies: Vec<TallyRow>,
    /// Anomalies by what tells them apart.
    pub anomalies: Vec<(AnomalyKey, Option<AnomalyRow>)>,
    /// Event identifiers that were added.
    pub event_ids: Vec<EventIdRow>,
    /// Feeds whose sessions are all forgotten, before the rows of `sessions` are kept.
    pub sessions_cleared: Vec<usize>,
    /// Sessions by feed and identifier.
    pub sessions: Vec<(usize, Arc<str>, Option<SessionRow>)>,
    /// Where the databases beside feeds were read to.
    pub details: Vec<DetailRow>,
    /// The rows of those databases that were read last.
    pub marks: Vec<MarkRow>,
}

impl Memory {
    /// Each feed's row, with the other rows of that feed.
    pub(super) fn by_feed(self) -> Result<Vec<(FeedRow, Memory)>, String> {
        let mut feeds: HashMap<usize, (FeedRow, Memory)> = HashMap::new();
        for row in self.feeds {
            feeds.insert(row.place, (row, Memory::default()));
        }
        for row in self.feed_skills {
            of(&mut feeds, row.feed)?.feed_skills.push(row);
        }
        for row in self.tallies {
            of(&mut feeds, row.feed)?.tallies.push(row);
        }
        for row in self.anomalies {
            of(&mut feeds, row.0.feed)?.anomalies.push(row);
        }
        for row in self.event_ids {
            of(&mut feeds, row.feed)?.event_ids.push(row);
        }
        for row in self.sessions {
            of(&mut feeds, row.0)?.sessions.push(row);
        }
        for row in self.details {
            of(&mut feeds, row.feed)?.details.push(row);
        }
        for row in self.marks {
            of(&mut feeds, row.feed)?.marks.push(row);
        }
        Ok(feeds.into_values().collect())
    }

    /// Whether there is nothing to keep.
    pub fn is_empty(&self) -> bool {
        let Self { feeds, feed_skills, tallies, anomalies, event_ids, sessions_cleared, sessions, details, marks } =
            self;
        feeds.is_empty()
            && feed_skills.is_empty()
            && tallies.is_empty()
            && anomalies.is_empty()
            && event_ids.is_empty()
            && sessions_cleared.is_empty()
            && sessions.is_empty()
            && details.is_empty()
            && marks.is_empty()
    }
}

fn of(feeds: &mut HashMap<usize, (FeedRow, Memory)>, place: usize) -> Result<&mut Memory, String> {
    feeds.get_mut(&place).map(|(_, memory)| memory).ok_or_else(|| format!("there is no feed at the place {place}"))
}

/// One feed.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct FeedRow {
    /// Its place in the order of feeds, which is never given to another.
    pub place: usize,
    /// Its identity and its counters.
    pub counters: FeedCounters,
    /// Whether a snapshot of it was ever applied.
    pub had_snapshot: bool,
    /// Whether its latest unfiltered snapshot named every skill of the database.
    pub previous_was_complete: bool,
    /// The server's time of a late snapshot, at most a few minutes before the latest.
    pub previous_micros: Option<i64>,
    /// Whether it ever streamed an invocation.
    pub streams_invocations: bool,
    /// The place of the earlier feed that it was found to be an alias of.
    pub alias_of: Option<usize>,
    /// Whether it ever reported sessions.
    pub sessions_reported: bool,
    /// The sessions that it last reported as a number, less those that closed since.
    pub sessions_count: u64,
    /// The sequence number of the oldest event identifier that is remembered: earlier ones are forgotten.
    pub first_event_id: u64,
    /// The newest time of a forgotten event identifier.
    pub newest_forgotten_micros: Option<i64>,
    /// Skills that were listed only with numbers that could not be accepted.
    pub unread: Vec<Arc<str>>,
}

/// One skill of one feed.
#[derive(Debug, Clone, PartialEq)]
pub struct FeedSkillRow {
    /// The feed's place.
    pub feed: usize,
    /// The skill's name as the feed has it.
    pub skill_name: Arc<str>,
    /// Where it is counted.
    pub series: SkillIndex,
    /// Whether a snapshot ever listed it.
    pub listed: bool,
    /// The last accepted numbers; `None` before the first, and after a reset.
    pub remembered: Option<RememberedRow>,
    /// Total, completed and rate in percent of its part of the completion rate.
    pub gauge: Option<(f64, f64, f64)>,
    /// The last streamed completion rate, 0 to 1.
    pub streamed_rate: Option<f64>,
    /// Events counted before the skill was listed, completed and abandoned.
    pub credit: (u64, u64),
    /// Seconds of the completed ones among them.
    pub credit_duration_sum: Option<f64>,
    /// What waits for its counterpart.
    pub waiting: WaitingRow,
    /// Completed and abandoned rows of the database that are yet to be read and that snapshots have counted.
    pub rows_counted: (u64, u64),
    /// Whether what the feed lists is known to disagree with the rows.
    pub disagrees: bool,
}

/// The last accepted numbers of a skill.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RememberedRow {
    /// Invocations.
    pub total: u64,
    /// Those counted as completed.
    pub completed: u64,
    /// Whether these are what the server counted.
    pub split_is_exact: bool,
    /// Seconds; `None` where unknown.
    pub duration_sum: Option<f64>,
}

/// Events and rises that wait for each other. The clock of a wait starts over when it is restored.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct WaitingRow {
    /// Streamed invocations.
    pub events: Vec<WaitingEventRow>,
    /// Invocations that a snapshot proved.
    pub rises: Vec<WaitingRiseRow>,
}

/// A streamed invocation that waits.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct WaitingEventRow {
    /// Its phase, if it told one.
    pub workflow_phase: Option<Arc<str>>,
    /// Whether it was completed.
    pub completed: bool,
    /// Its duration, if it told one.
    pub duration_seconds: Option<f64>,
}

/// Proved invocations that wait.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct WaitingRiseRow {
    /// Completed ones.
    pub completed: u64,
    /// Others.
    pub abandoned: u64,
    /// Seconds of the completed ones and their error; `None` where they cannot be told.
    pub durations: Option<(f64, f64)>,
    /// Whether they happened before the feed was watched.
    pub history: bool,
}

/// How many anomalies of one skill and type a feed told.
#[derive(Debug, Clone, PartialEq)]
pub struct TallyRow {
    /// The feed's place.
    pub feed: usize,
    /// The skill.
    pub skill_name: Arc<str>,
    /// The type.
    pub anomaly_type: Arc<str>,
    /// Listed in snapshots.
    pub listed: u64,
    /// Streamed.
    pub streamed: u64,
    /// The larger of the two when the server's database was last found to be a new one.
    pub before: u64,
}

/// What tells anomalies of one feed apart.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct AnomalyKey {
    /// The feed's place.
    pub feed: usize,
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
pub struct AnomalyRow {
    /// How many were ever listed at the same time.
    pub multiplicity: u64,
    /// Whether it was streamed.
    pub streamed: bool,
    /// When it was last seen, in microseconds since the Unix epoch; at most an hour before the latest.
    pub seen_micros: i64,
}

/// One event identifier.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EventIdRow {
    /// The feed's place.
    pub feed: usize,
    /// Its number in the order of arrival.
    pub sequence: u64,
    /// The identifier.
    pub id: Arc<str>,
    /// The sender's time, in microseconds since the Unix epoch.
    pub sent_micros: Option<i64>,
}

/// One session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SessionRow {
    /// Whether it is open.
    pub open: bool,
    /// When it was last heard of, in microseconds since the Unix epoch.
    pub seen_micros: i64,
}

/// Where the database beside a feed was read to.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct DetailRow {
    /// The feed's place.
    pub feed: usize,
    /// Whether snapshots have counted what rows have not.
    pub moved_alone: bool,
    /// Rows up to this key are in the remembered numbers.
    pub told_until: i64,
    /// Rows up to this key were there when rows were first read.
    pub history_until: i64,
    /// The key up to which `skill_invocation` was read.
    pub invocations_cursor: i64,
    /// The key of its oldest mark: earlier ones are forgotten.
    pub invocations_first: i64,
    /// The key up to which `skill_anomalies` was read.
    pub anomalies_cursor: i64,
    /// The key of its oldest mark: earlier ones are forgotten.
    pub anomalies_first: i64,
    /// Whether all earlier marks of `skill_invocation` are forgotten before the new ones are kept; in the whole, never.
    pub invocations_rewritten: bool,
    /// The same of `skill_anomalies`.
    pub anomalies_rewritten: bool,
}

/// A row of the server's database that was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MarkRow {
    /// The feed's place.
    pub feed: usize,
    /// Where it was read.
    pub table: Table,
    /// Which row. Of a lost one `id` is its place among the lost.
    pub mark: Mark,
    /// Whether a power cut took it back.
    pub is_lost: bool,
}
