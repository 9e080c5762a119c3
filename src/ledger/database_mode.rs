//! What the server's database tells beside the feed: where it was read to, and what the rows prove.
//!
//! Invariant: each row moves a counter exactly once. It breaks where a row is read twice, or was counted from a snapshot
//! before; so the rows that were read are remembered together with the counts, and numbers say how many of the others
//! snapshots have counted.

use std::time::Duration;

use hashbrown::HashSet;

use crate::protocol::Rejection;
use crate::skills_db::{DatabaseFacts, RowFingerprint, TableCursor};

use super::dirty::{Dirty, DirtyFlag};
use super::fingerprints::FingerprintMemory;
use super::limits::Limits;
use super::records::{DatabaseRecord, FingerprintRecord, FingerprintsKept, Table};
use super::slots::{FeedSlot, SourceId};

/// For so long snapshots move nothing while rows are expected, at the start and after a failure. Then the feed goes on
/// alone.
pub(super) const PATIENCE: Duration = Duration::from_secs(10);

/// Rows of each table that were read and are gone which are remembered, all branches together.
const LOST_MAX: usize = 8_192;

/// What a reader has to know to go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DatabasePosition {
    /// The source that was read to here; `None` for one that no feed is bound to yet.
    pub source: Option<SourceId>,
    /// Of `skill_invocation`.
    pub invocations: TableCursor,
    /// Of `skill_anomalies`.
    pub anomalies: TableCursor,
    /// Whether snapshots have counted what rows have not: then the numbers of each skill are needed too.
    pub is_changeover: bool,
    /// The number of a connection that what the feed lists speaks against.
    pub distrusted_connection: Option<u64>,
    /// Whether it is read although nobody has written.
    pub reads_unchanged: bool,
    /// Whether it is not known yet whose database it is, so that the numbers of its skills are needed.
    pub is_unconfirmed: bool,
    /// Skills whose numbers there is room for.
    pub skills_max: usize,
}

/// How a table continues what was read of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TableContinuity {
    /// What was read is there still.
    Continues,
    /// No row up to the position is there, of whatever database: none was ever read, or all were deleted.
    Emptied,
    /// The rows after this one, which was read, are gone: the database came back younger.
    CutBack {
        /// Primary key of the last row that is known to be there still.
        after: i64,
        /// Rows after it and up to this key may be there still.
        doubtful_until: i64,
    },
    /// None of the rows is one that was read.
    Other,
}

impl TableContinuity {
    /// How a table continues that was read up to `position`: `common` is the newest row of those read that is still there,
    /// `has_earlier` whether it has any row up to the position, and `newest_ever` the greatest key that it ever gave out,
    /// since `AUTOINCREMENT` gives none twice.
    pub fn judge(position: TableCursor, common: Option<i64>, has_earlier: bool, newest_ever: i64) -> Self {
        match (position.last, common) {
            (None, _) if position.key == 0 => Self::Emptied,
            (Some(last), Some(common)) if last.key == common => Self::Continues,
            (_, Some(after)) => Self::CutBack { after, doubtful_until: after },
            (_, None) if !has_earlier && newest_ever >= position.key => Self::Emptied,
            (_, None) => Self::Other,
        }
    }

    /// The primary key after which rows are to be read.
    pub fn after(self, position: TableCursor) -> i64 {
        match self {
            Self::Continues | Self::Emptied => position.key,
            Self::CutBack { after, .. } => after,
            Self::Other => 0,
        }
    }
}

/// What was read in one transaction of the database.
#[derive(Debug, Clone, PartialEq)]
pub struct RowsReading {
    /// The source whose rows they are.
    pub source: Option<SourceId>,
    /// The number of the connection that read it.
    pub connection: u64,
    /// All that the reader found about the database.
    pub facts: DatabaseFacts,
    /// How `skill_invocation` continues.
    pub invocations_continuity: TableContinuity,
    /// Its next rows, in the order of their keys.
    pub invocations: Vec<InvocationRow>,
    /// The numbers of each skill, where the position is a changeover or the table does not continue.
    pub numbers: Option<Numbers>,
    /// What `skill_anomalies` holds; `None` if there is no such table.
    pub anomalies: Option<AnomalyReading>,
    /// Whether there are more rows than these.
    pub has_more: bool,
}

/// A row of `skill_invocation`.
#[derive(Debug, Clone, PartialEq)]
pub struct InvocationRow {
    /// Which row.
    pub fingerprint: RowFingerprint,
    /// The skill, where it is a text.
    pub skill_name: Option<Box<str>>,
    /// The time that it tells, in microseconds since the Unix epoch, in whatever zone.
    pub invoked_micros: Option<i64>,
    /// Its phase and duration, or why it cannot be counted.
    pub told: Result<ToldInvocation, Rejection>,
    /// Whether it was completed; `None` where it is neither.
    pub completed: Option<bool>,
    /// What the server adds to the sum of durations of the completed ones, in seconds.
    pub summed_seconds: f64,
}

/// What a row of `skill_invocation` tells.
#[derive(Debug, Clone, PartialEq)]
pub struct ToldInvocation {
    /// The phase; `None` where there is none.
    pub workflow_phase: Option<Box<str>>,
    /// The duration; `None` where there is none.
    pub duration_seconds: Option<f64>,
    /// Why it failed, as the value of the label `error_type`; `None` if it was completed, or without a cause.
    pub failure: Option<Box<str>>,
}

/// The numbers of all skills at one moment.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Numbers {
    /// The skills.
    pub skills: Vec<SkillNumbers>,
    /// Whether there are others, for which there was no room.
    pub is_truncated: bool,
    /// The last row of `skill_invocation` that they hold.
    pub last_id: i64,
}

/// What the server counts of a skill, and how many rows are there to be read of it.
#[derive(Debug, Clone, PartialEq)]
pub struct SkillNumbers {
    /// The skill.
    pub skill_name: Box<str>,
    /// Completed invocations.
    pub completed: u64,
    /// Other invocations.
    pub abandoned: u64,
    /// Seconds of the completed ones.
    pub duration_sum: f64,
    /// Completed ones among the rows that are to be read.
    pub rows_completed: u64,
    /// Others among them.
    pub rows_abandoned: u64,
}

/// What was read of `skill_anomalies`.
#[derive(Debug, Clone, PartialEq)]
pub struct AnomalyReading {
    /// How the table continues.
    pub continuity: TableContinuity,
    /// Its next rows, in the order of their keys; where `tallies` are told, its newest.
    pub rows: Vec<AnomalyRow>,
    /// How many there are of each skill and type after those that continue, where the position is a changeover or the table is
    /// another.
    pub tallies: Option<Vec<AnomalyTally>>,
}

/// How many anomalies there are of a skill and a type.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AnomalyTally {
    /// The skill.
    pub skill_name: Box<str>,
    /// The type.
    pub anomaly_type: Box<str>,
    /// How many.
    pub times: u64,
}

/// A row of `skill_anomalies`.
#[derive(Debug, Clone, PartialEq)]
pub struct AnomalyRow {
    /// Which row.
    pub fingerprint: RowFingerprint,
    /// What it tells, or why it cannot be counted.
    pub told: Result<crate::protocol::AnomalyEntry<'static>, Rejection>,
}

/// Who moves a feed's counters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    /// Snapshots and events: no database is configured, or it cannot be read.
    Alone,
    /// Nobody: rows are expected any moment.
    Expecting { since: Option<Duration> },
    /// Rows, which the reader beside this feed delivers.
    Rows { reader: FeedSlot, anomalies: bool },
}

/// The rows of one table that were read.
#[derive(Debug, Clone, Default)]
pub(super) struct ReadRows {
    cursor: i64,
    rows: FingerprintMemory,
    /// Remembered rows with keys up to this one are persistent, and up to which once they are acknowledged.
    persistent_until: i64,
    in_flight_until: i64,
    /// Keys of persistent rows that are not remembered any more.
    forgotten: Dirty<i64>,
    /// Rows that were counted and are gone. Written again, they are the same.
    lost: Vec<LostRow>,
    /// Rows with keys up to this one are those of a state that was lost and has come back.
    returned_until: i64,
    /// Whether all of it has to be persisted again.
    is_rewritten: DirtyFlag,
}

/// A row that was counted and that a power cut or a backup took back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct LostRow {
    /// Which of the states that were lost, from 1: in each a key is given once.
    branch: u32,
    row: RowFingerprint,
}

/// What is remembered of the database beside a feed.
#[derive(Debug)]
pub(super) struct DatabaseMode {
    mode: Mode,
    /// Whether rows ever moved the counters.
    joined: bool,
    /// Whether snapshots have moved them since.
    moved_alone: bool,
    /// Rows up to this one are in the remembered numbers of the skills.
    pub remembered_until: i64,
    pub has_more: bool,
    pub invocations: ReadRows,
    pub anomalies: ReadRows,
    /// The newest time that a row of an invocation told, in microseconds since the Unix epoch.
    newest_micros: Option<i64>,
    doubt: Doubt,
    /// The connection of the latest reading, and the latest that is no longer trusted.
    connection: u64,
    distrusted_connection: Option<u64>,
    changed: DirtyFlag,
}

/// Rows of a table that came back of which it is not known whether they were read before.
#[derive(Debug, Clone, Copy, Default)]
struct Doubt {
    /// The last of their keys.
    until: i64,
    /// The newest time of all rows that were read before.
    newest_micros: Option<i64>,
}

impl Default for DatabaseMode {
    fn default() -> Self {
        Self {
            mode: Mode::Alone,
            joined: false,
            moved_alone: false,
            remembered_until: 0,
            has_more: false,
            invocations: ReadRows::default(),
            anomalies: ReadRows::default(),
            newest_micros: None,
            doubt: Doubt::default(),
            connection: 0,
            distrusted_connection: None,
            changed: DirtyFlag::default(),
        }
    }
}

impl DatabaseMode {
    /// A database is configured: rows are expected from the first moment on.
    pub fn expect(&mut self) {
        self.mode = Mode::Expecting { since: None };
    }

    /// Whether snapshots and events move the counters.
    pub fn leaves_alone(&self) -> bool {
        self.mode == Mode::Alone
    }

    /// Whether rows move the counters now.
    pub fn is_joined(&self) -> bool {
        matches!(self.mode, Mode::Rows { .. })
    }

    /// Whether snapshots and events tell the anomalies.
    pub fn leaves_anomalies(&self) -> bool {
        matches!(self.mode, Mode::Alone | Mode::Rows { anomalies: false, .. })
    }

    /// Whether there is more to come soon, so that a series shown now would begin with a part of its history.
    pub fn is_awaited(&self) -> bool {
        matches!(self.mode, Mode::Expecting { .. }) || (self.is_joined() && self.has_more)
    }

    /// A snapshot or an event moved the counters without the rows.
    pub fn note_alone(&mut self) {
        self.changed.mark_if(self.joined && !std::mem::replace(&mut self.moved_alone, true));
    }

    /// Rows are about to be read: until they are, snapshots wait, so that what they counted stands still.
    pub fn expect_now(&mut self, now: Duration) {
        if self.mode == Mode::Alone {
            self.mode = Mode::Expecting { since: Some(now) };
        }
    }

    /// Where to go on reading.
    pub fn position(&self, source: SourceId, limits: &Limits) -> DatabasePosition {
        DatabasePosition {
            source: Some(source),
            invocations: self.invocations.position(),
            anomalies: self.anomalies.position(),
            is_changeover: self.is_changeover(),
            distrusted_connection: self.distrusted_connection,
            reads_unchanged: false,
            is_unconfirmed: false,
            skills_max: limits.remembered_skills_max,
        }
    }

    pub fn is_changeover(&self) -> bool {
        !self.joined || self.moved_alone
    }

    /// The rows of `table` that were read last, the newest first.
    pub fn fingerprints(&self, table: Table) -> Vec<RowFingerprint> {
        let rows = match table {
            Table::Invocations => &self.invocations,
            Table::Anomalies => &self.anomalies,
        };
        rows.rows.newest_first().collect()
    }

    /// The feed beside which the rows are read that move the counters.
    pub fn reader(&self) -> Option<FeedSlot> {
        match self.mode {
            Mode::Rows { reader, .. } => Some(reader),
            Mode::Alone | Mode::Expecting { .. } => None,
        }
    }

    /// Nobody reads the database beside `feed` at the moment. If its rows moved the counters, others are expected from
    /// `since` on, or from the next moment.
    pub fn stop_reading(&mut self, feed: FeedSlot, since: Option<Duration>) {
        if self.reader() == Some(feed) {
            self.mode = Mode::Expecting { since };
        }
    }

    /// Lets time pass. Whether the feed goes on alone from now on.
    pub fn tick(&mut self, now: Duration) -> bool {
        let Mode::Expecting { since } = &mut self.mode else { return false };
        let since = *since.get_or_insert(now);
        if now.saturating_sub(since) < PATIENCE {
            return false;
        }
        self.mode = Mode::Alone;
        true
    }

    /// Nobody reads the database any more. Returns whether that is news.
    pub fn leave(&mut self) -> bool {
        std::mem::replace(&mut self.mode, Mode::Alone) != Mode::Alone
    }

    /// The numbers of each skill are needed at the next reading: more skills count than were read.
    pub fn require_numbers(&mut self) {
        if self.joined {
            self.changed.mark_if(!std::mem::replace(&mut self.moved_alone, true));
            // Nothing need have changed in the database since it was read.
            self.distrust();
        }
    }

    /// When [`DatabaseMode::tick`] has something to do.
    pub fn deadline(&self) -> Option<Duration> {
        match self.mode {
            Mode::Expecting { since: Some(since) } => Some(since + PATIENCE),
            Mode::Alone | Mode::Expecting { since: None } | Mode::Rows { .. } => None,
        }
    }

    /// Whether rows ever moved the counters.
    pub fn was_joined(&self) -> bool {
        self.joined
    }

    /// Distrusts the connection of the latest reading, and returns its number.
    pub fn distrust(&mut self) -> u64 {
        self.distrusted_connection = Some(self.connection);
        self.connection
    }

    /// Whether everything was read by a connection later than this one.
    pub fn is_read_after(&self, connection: u64) -> bool {
        self.connection > connection && !self.has_more
    }

    /// The rows of the database beside `reader` move the counters.
    pub fn join(&mut self, reader: FeedSlot, anomalies: bool, has_more: bool, connection: u64) {
        self.connection = connection;
        self.mode = Mode::Rows { reader, anomalies };
        self.changed.mark_if(!std::mem::replace(&mut self.joined, true));
        self.changed.mark_if(std::mem::take(&mut self.moved_alone));
        self.has_more = has_more;
    }

    /// Follows the table of invocations to where it continues.
    pub fn follow_invocations(&mut self, continuity: TableContinuity) {
        self.invocations.follow(continuity);
        self.doubt = match continuity {
            TableContinuity::CutBack { doubtful_until, .. } => {
                Doubt { until: doubtful_until, newest_micros: self.newest_micros }
            }
            TableContinuity::Continues | TableContinuity::Emptied | TableContinuity::Other => Doubt::default(),
        };
    }

    /// Notes a row that was read. Whether it was counted before, or may have been: of a table that came back, a row that is
    /// not remembered is new if it is newer than all that were read before.
    pub fn note_invocation(&mut self, row: &InvocationRow) -> bool {
        let is_known = self.invocations.note(row.fingerprint);
        let is_newer =
            row.invoked_micros.is_some_and(|micros| self.doubt.newest_micros.is_some_and(|old| micros > old));
        self.newest_micros = self.newest_micros.max(row.invoked_micros);
        is_known || (row.fingerprint.key <= self.doubt.until && !is_newer)
    }

    pub fn set_remembered_until(&mut self, last_id: i64) {
        self.remembered_until = last_id;
        self.changed.mark();
    }

    pub fn has_changed(&self) -> bool {
        self.changed.is_set() || self.invocations.has_changed() || self.anomalies.has_changed()
    }

    /// What changed and is not acknowledged: the record, and fingerprints.
    pub fn collect(
        &mut self,
        source: SourceId,
        databases: &mut Vec<DatabaseRecord>,
        fingerprints: &mut Vec<FingerprintRecord>,
    ) {
        if !self.has_changed() {
            return;
        }
        self.changed.mark();
        self.changed.collect();
        databases.push(DatabaseRecord {
            source,
            moved_alone: self.moved_alone,
            remembered_until: self.remembered_until,
            newest_micros: self.newest_micros,
            invocations_cursor: self.invocations.cursor,
            anomalies_cursor: self.anomalies.cursor,
            invocations: self.invocations.collect(source, Table::Invocations, fingerprints),
            anomalies: self.anomalies.collect(source, Table::Anomalies, fingerprints),
        });
    }

    /// Everything has to be persisted again: nothing of it is persistent, or it is under another source.
    pub fn mark_all(&mut self) {
        self.changed.mark();
        self.invocations.rewrite();
        self.anomalies.rewrite();
    }

    /// What was collected last is persistent.
    pub fn acknowledge(&mut self) {
        self.changed.acknowledge();
        self.invocations.acknowledge();
        self.anomalies.acknowledge();
    }

    /// What is remembered of a copy of the database: all rows up to here are common.
    pub fn fork(&self) -> Self {
        let (mut invocations, mut anomalies) = (self.invocations.clone(), self.anomalies.clone());
        invocations.rewrite();
        anomalies.rewrite();
        Self {
            joined: self.joined,
            moved_alone: self.moved_alone,
            remembered_until: self.remembered_until,
            invocations,
            anomalies,
            newest_micros: self.newest_micros,
            changed: if self.joined { DirtyFlag::NEW } else { DirtyFlag::default() },
            ..Self::default()
        }
    }

    /// The database that was persisted.
    pub fn restore(row: &DatabaseRecord, fingerprints: &[FingerprintRecord]) -> Self {
        let mut detail = Self {
            joined: true,
            moved_alone: row.moved_alone,
            remembered_until: row.remembered_until,
            newest_micros: row.newest_micros,
            ..Self::default()
        };
        detail.invocations.cursor = row.invocations_cursor;
        detail.anomalies.cursor = row.anomalies_cursor;
        for table in [Table::Invocations, Table::Anomalies] {
            let rows = match table {
                Table::Invocations => &mut detail.invocations,
                Table::Anomalies => &mut detail.anomalies,
            };
            rows.restore(fingerprints.iter().filter(|record| record.table == table));
        }
        detail
    }
}

impl ReadRows {
    pub fn position(&self) -> TableCursor {
        TableCursor { last: self.rows.last(), key: self.cursor }
    }

    /// Follows the table to where it continues. Whether rows that were counted are gone.
    pub fn follow(&mut self, continuity: TableContinuity) -> bool {
        let after = match continuity {
            TableContinuity::Continues | TableContinuity::Emptied => return false,
            TableContinuity::CutBack { after, .. } => after,
            TableContinuity::Other => {
                *self = Self { is_rewritten: DirtyFlag::NEW, ..Self::default() };
                return false;
            }
        };
        let branch = self.lost.last().map_or(1, |lost| lost.branch.wrapping_add(1).max(1));
        let gone = self.rows.take_after(after).into_iter().rev();
        self.lost.extend(gone.map(|row| LostRow { branch, row }));
        let beyond = self.lost.len().saturating_sub(LOST_MAX);
        self.lost.drain(..beyond);
        self.cursor = after;
        self.rewrite();
        true
    }

    /// Compares the rows that are about to be noted with those that are gone. A row that has come back by its old key
    /// vouches for all before it: keys are given in order.
    pub fn compare(&mut self, rows: impl Iterator<Item = RowFingerprint>) {
        self.returned_until = 0;
        if self.lost.is_empty() {
            return;
        }
        let rows: HashSet<RowFingerprint> = rows.collect();
        let returned = self.lost.iter().filter(|lost| rows.contains(&lost.row));
        let Some(last) = returned.max_by_key(|lost| lost.row.key).copied() else { return };
        // Up to the next row that is remembered of that state nobody knows whether a row is one of it: less is counted.
        let next = self.lost.iter().filter(|lost| lost.branch == last.branch && lost.row.key > last.row.key);
        let next = next.map(|lost| lost.row.key).min();
        self.returned_until = next.map_or(last.row.key, |next| next - 1);
    }

    /// Notes a row that was read. Whether it was counted before, by this key or another.
    pub fn note(&mut self, fingerprint: RowFingerprint) -> bool {
        self.cursor = fingerprint.key;
        let persistent_until = self.persistent_until.max(self.in_flight_until);
        let forgotten = &mut self.forgotten;
        self.rows.push(fingerprint, |key| {
            if key <= persistent_until {
                forgotten.mark(key);
            }
        });
        let is_same = |lost: &LostRow| lost.row == fingerprint;
        let is_written_again = |lost: &LostRow| lost.row.digest == fingerprint.digest;
        let known = self.lost.iter().position(is_same).or_else(|| self.lost.iter().position(is_written_again));
        if let Some(index) = known {
            self.lost.remove(index);
            self.rewrite();
        }
        known.is_some() || fingerprint.key <= self.returned_until
    }

    /// All of it has to be persisted again.
    fn rewrite(&mut self) {
        self.is_rewritten.mark();
        (self.persistent_until, self.in_flight_until) = (0, 0);
        self.forgotten = Dirty::default();
    }

    fn has_changed(&self) -> bool {
        self.is_rewritten.is_set()
            || !self.forgotten.is_empty()
            || self.rows.last().is_some_and(|row| row.key > self.persistent_until)
    }

    /// Adds the fingerprints that are not acknowledged. Returns what becomes of those that are persistent.
    fn collect(
        &mut self,
        source: SourceId,
        table: Table,
        fingerprints: &mut Vec<FingerprintRecord>,
    ) -> FingerprintsKept {
        let is_rewritten = self.is_rewritten.collect();
        let persistent_until = if is_rewritten { 0 } else { self.persistent_until };
        self.in_flight_until = self.rows.last().map_or(0, |row| row.key);
        let record = |branch, row: RowFingerprint| {
            let RowFingerprint { key, digest } = row;
            FingerprintRecord { source, table, branch, key, digest }
        };
        let new = self.rows.newest_first().take_while(|row| row.key > persistent_until);
        fingerprints.extend(new.map(|row| record(0, row)));
        if !is_rewritten {
            return FingerprintsKept::Without(self.forgotten.collect().copied().collect());
        }
        fingerprints.extend(self.lost.iter().map(|lost| record(lost.branch, lost.row)));
        FingerprintsKept::None
    }

    fn acknowledge(&mut self) {
        self.persistent_until = self.persistent_until.max(self.in_flight_until);
        self.forgotten.acknowledge();
        self.is_rewritten.acknowledge();
    }

    fn restore<'r>(&mut self, records: impl Iterator<Item = &'r FingerprintRecord>) {
        let (mut rows, mut lost) = (Vec::new(), Vec::new());
        for FingerprintRecord { branch, key, digest, .. } in records {
            let row = RowFingerprint { key: *key, digest: *digest };
            match branch {
                0 => rows.push(row),
                branch => lost.push(LostRow { branch: *branch, row }),
            }
        }
        rows.sort_unstable_by_key(|row| row.key);
        lost.sort_unstable_by_key(|lost| (lost.branch, lost.row.key));
        self.persistent_until = rows.last().map_or(0, |row| row.key);
        self.rows = FingerprintMemory::restore(rows);
        self.lost = lost;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(id: i64) -> RowFingerprint {
        RowFingerprint { key: id, digest: id * 1000 }
    }

    fn cut_back(after: i64) -> TableContinuity {
        TableContinuity::CutBack { after, doubtful_until: after }
    }

    #[test]
    fn a_table_is_told_by_its_rows_and_not_by_their_number() {
        let read = TableCursor { last: Some(row(9)), key: 9 };
        assert_eq!(TableContinuity::judge(read, Some(9), true, 12), TableContinuity::Continues);
        assert_eq!(TableContinuity::judge(read, Some(7), true, 12), cut_back(7));
        assert_eq!(TableContinuity::judge(read, None, false, 9), TableContinuity::Emptied, "all rows were deleted");
        assert_eq!(TableContinuity::judge(read, None, false, 3), TableContinuity::Other, "the keys began again");
        assert_eq!(TableContinuity::judge(read, None, true, 30), TableContinuity::Other, "other rows have these keys");
        assert_eq!(
            TableContinuity::judge(TableCursor::default(), None, false, 0),
            TableContinuity::Emptied,
            "none was read"
        );
    }

    #[test]
    fn a_row_that_was_cut_off_and_written_anew_is_known() {
        let mut table = ReadRows::default();
        for id in 1..=5 {
            assert!(!table.note(row(id)));
        }
        assert!(table.follow(cut_back(3)));
        assert!(!table.note(RowFingerprint { key: 4, digest: 77 }), "another row by an old key");
        assert!(table.note(RowFingerprint { key: 5, digest: 4000 }), "an old row by another key");
        assert!(!table.note(RowFingerprint { key: 6, digest: 4000 }), "once");
        assert_eq!(table.position(), TableCursor { last: Some(RowFingerprint { key: 6, digest: 4000 }), key: 6 });
    }

    /// What a store holds after these were written over it.
    fn persisted(mut held: Vec<FingerprintRecord>, table: &mut ReadRows) -> Vec<FingerprintRecord> {
        let mut new = Vec::new();
        match table.collect(SourceId::FIRST, Table::Invocations, &mut new) {
            FingerprintsKept::All => {}
            FingerprintsKept::Without(keys) => {
                held.retain(|record| record.branch > 0 || !keys.contains(&record.key));
            }
            FingerprintsKept::None => held.clear(),
        }
        held.extend(new);
        table.acknowledge();
        held
    }

    #[test]
    fn a_backup_of_any_age_and_the_way_back_count_nothing_again() {
        let (mut table, mut held) = (ReadRows::default(), Vec::new());
        for id in 1..=4_000 {
            assert!(!table.note(row(id)));
            if id % 300 == 0 {
                held = persisted(held, &mut table);
            }
        }
        for (is_restored, digest) in [(false, -1), (true, -2)] {
            assert!(table.follow(cut_back(500)));
            (501..=520)
                .for_each(|id| assert!(!table.note(RowFingerprint { key: id, digest: digest * id * 1_000_000 })));
            held = persisted(held, &mut table);
            if is_restored {
                table = ReadRows { cursor: table.cursor, ..ReadRows::default() };
                table.restore(held.iter());
            }
            assert!(table.follow(cut_back(500)));
            for batch in (501..=4_000).collect::<Vec<i64>>().chunks(1_000) {
                table.compare(batch.iter().map(|id| row(*id)));
                batch.iter().for_each(|id| assert!(table.note(row(*id)), "{id} was counted"));
            }
            let new = RowFingerprint { key: 4_001, digest };
            table.compare([new].into_iter());
            assert!(!table.note(new), "a new one");
            table.follow(cut_back(4_000));
            held = persisted(held, &mut table);
        }
    }

    #[test]
    fn what_is_persisted_is_what_is_remembered() {
        let (mut table, mut held) = (ReadRows::default(), Vec::new());
        for id in 1..=9_000 {
            table.note(row(id));
            if id % 700 == 0 {
                held = persisted(held, &mut table);
                let mut keys: Vec<i64> = held.iter().map(|record| record.key).collect();
                keys.sort_unstable_by(|a, b| b.cmp(a));
                assert!(keys.into_iter().eq(table.rows.newest_first().map(|row| row.key)));
                assert!(!table.has_changed());
            }
        }
    }

    #[test]
    fn a_row_of_a_table_that_came_back_is_new_if_it_is_newer_than_all() {
        let row = |id, invoked_micros| InvocationRow {
            fingerprint: RowFingerprint { key: id, digest: id * 1_000_000 + invoked_micros },
            skill_name: Some("a".into()),
            invoked_micros: Some(invoked_micros),
            told: Ok(ToldInvocation { workflow_phase: None, duration_seconds: None, failure: None }),
            completed: Some(true),
            summed_seconds: 0.0,
        };
        let mut detail = DatabaseMode::default();
        (1..=2_000).for_each(|id| assert!(!detail.note_invocation(&row(id, id))));
        // 501 is not remembered, 502 is and was replaced.
        for (newer, is_known) in [(501, true), (2_000, true), (2_001, false)] {
            detail.follow_invocations(TableContinuity::CutBack { after: 500, doubtful_until: 501 });
            assert_eq!(detail.note_invocation(&row(501, newer)), is_known, "{newer}");
        }
        assert!(!detail.note_invocation(&row(502, 7)), "beyond the doubt");
    }

    #[test]
    fn rows_are_expected_for_ten_seconds() {
        let mut detail = DatabaseMode::default();
        detail.expect();
        assert!(!detail.tick(Duration::from_secs(100)), "the clock starts when it is first looked at");
        assert!(!detail.tick(Duration::from_secs(109)));
        assert!(detail.tick(Duration::from_secs(110)) && detail.leaves_alone());
        let reader = FeedSlot::new(1);
        detail.join(reader, true, false, 1);
        detail.stop_reading(FeedSlot::new(0), Some(Duration::from_secs(190)));
        assert!(detail.is_joined(), "another feed's database");
        detail.stop_reading(reader, Some(Duration::from_secs(200)));
        assert!(!detail.leaves_alone() && detail.tick(Duration::from_secs(210)));
    }
}
