//! What a reading of the server's database found. Plain data: the reader delivers it and decides nothing, the ledger
//! decides what it means and counts.
//!
//! A reading has two halves, both of one read transaction, so that they agree with each other:
//!
//! 1. [`DatabaseFacts`] answer a [`ReadRequest`], which says where the database was read to. They are the evidence from
//!    which the ledger makes its [`ReadPlan`]: is it the same database, and after which row is it read on?
//! 2. The rows that the plan asks for, at most [`BATCH_ROWS`] of each table. Both halves are a [`DatabaseReading`].
//!
//! | to find out | look at |
//! | --- | --- |
//! | nothing happened but appending | [`RowsRead::LastPresent`] |
//! | old rows were deleted | [`RowsRead::LastPresent`] with a greater [`KeyRange::oldest`], or [`RowsRead::LastMissing`] with no row up to the cursor and a [`TableFacts::sequence`] that has not fallen |
//! | the newest rows were deleted | [`MissingRows::newest_present`], nothing [`replaced`](MissingRows::replaced), a [`TableFacts::sequence`] at the cursor or beyond, and [`DatabaseFacts::skill_metrics`] that have not fallen |
//! | a backup or a power cut took the database back | [`MissingRows::newest_present`], and a [`TableFacts::sequence`] below the cursor or rows [`replaced`](MissingRows::replaced); [`DatabaseFacts::skill_metrics`] fell |
//! | it is another database | nothing [`present`](MissingRows::present), and rows up to the cursor or a [`TableFacts::sequence`] that fell |
//! | rows were deleted before they were read | at the last batch, [`SkillMetrics::total`] exceeds what was counted of this database |
//! | a column was corrected or migrated | nothing: [`RowFingerprint`]s do not cover it |
//! | a skill was renamed in rows | nothing: beside others, rows with their key and time are the same; [`DatabaseFacts::skill_metrics`] hold another name |
//! | whether it is the database of the feed's server | [`DatabaseFacts::skill_metrics`] against what the feed lists |
//! | whether two paths lead to one database | [`DatabaseFacts::file`] |

use crate::protocol::{AnomalyEntry, Rejection};

use super::FileIdentity;

/// Rows of each table in one reading. SQLite cannot restart its write-ahead log while a reader stays in a transaction, so
/// that transactions are short.
pub const BATCH_ROWS: usize = 1_000;

/// A table whose rows are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Table {
    /// `skill_invocation`
    Invocations,
    /// `skill_anomalies`
    Anomalies,
}

impl Table {
    /// Its name in the server's database.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Invocations => "skill_invocation",
            Self::Anomalies => "skill_anomalies",
        }
    }
}

/// A row that was read, identified by what never changes of it.
///
/// Of an invocation that is the key, `skill_name` and `invoked_at`: every other column can be corrected or migrated and the
/// row stays the same. Beside others that are
/// the same, a row with the same key and the same time is the same, too, of a skill that was renamed. Of an anomaly it is the key and what tells anomalies apart, `skill_name`, `anomaly_type`,
/// `detected_at` and `deviation_score`: `resolved_at` changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct RowFingerprint {
    /// Its primary key.
    pub key: i64,
    /// The first 64 bits of a SHA-256 digest of the other columns, with their types and lengths; of an invocation the first
    /// 32 bits of one of its skill, and 32 of one of its time. Rows of one skill and one time share it: without the key it
    /// identifies nothing.
    pub digest: i64,
}

/// Where a table was read to. The default is a table that was never read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct TableCursor {
    /// Every row up to this key was read, or was not there any more. 0 before the first row.
    pub key: i64,
    /// The newest row that was read; `None` before the first.
    pub last: Option<RowFingerprint>,
}

/// Where the ledger has read a database to, and what it requires of the next reading.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReadRequest {
    /// Of `skill_invocation`.
    pub invocations: TableCursor,
    /// Of `skill_anomalies`.
    pub anomalies: TableCursor,
    /// The number of a connection that the ledger no longer trusts ([`DatabaseFacts::connection`]), because the feed lists
    /// something else. The database is opened again unless a later connection is in use already.
    ///
    /// A ledger that finds feed and database in disagreement sets this, and reports the disagreement only if it is still
    /// there after a reading with a later connection.
    pub distrusted_connection: Option<u64>,
    /// Whether it is read although nobody has written: what was read before was not counted, or not as of this source.
    pub reads_unchanged: bool,
    /// Whether the rows of each skill are added up where there is no `skill_metrics` ([`DatabaseFacts::row_sums`]). Reads the
    /// whole table, again after each change of the database: until it is known whose it is.
    pub sums_rows: bool,
    /// Skills whose numbers are read. Others are left out, and [`HeldSkills::is_truncated`] says so.
    pub skills_max: usize,
}

impl Default for ReadRequest {
    fn default() -> Self {
        Self {
            invocations: TableCursor::default(),
            anomalies: TableCursor::default(),
            distrusted_connection: None,
            reads_unchanged: false,
            sums_rows: false,
            skills_max: usize::MAX,
        }
    }
}

/// The evidence of one reading: whose database it is, and how it continues what was read of it.
#[derive(Debug, Clone, PartialEq)]
pub struct DatabaseFacts {
    /// The file that is open. Equal files are one database, whatever their paths.
    pub file: FileIdentity,
    /// The number of the connection that read it. Numbers rise with each connection that this process opens.
    pub connection: u64,
    /// How `skill_invocation` continues.
    pub invocations: TableFacts,
    /// How `skill_anomalies` continues; `None` where the table does not exist, in databases before the fourth migration.
    pub anomalies: Option<TableFacts>,
    /// `skill_metrics`, from which the server makes what it lists; `None` where the table does not exist. As old as the rows: a
    /// trigger of the server writes both in one transaction.
    pub skill_metrics: Option<HeldSkills>,
    /// What the rows of each skill add up to, where there is no `skill_metrics` and the request needs it.
    pub row_sums: Option<HeldSkills>,
    /// Whether `skill_invocation` has the column `error_type`.
    pub has_error_types: bool,
}

impl DatabaseFacts {
    /// The numbers of the skills, as far as they were read.
    pub fn held(&self) -> Option<&HeldSkills> {
        self.skill_metrics.as_ref().or(self.row_sums.as_ref())
    }
}

/// The numbers of the skills that a database holds.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct HeldSkills {
    /// Each skill once, the one that was added first to the database first.
    pub skills: Vec<SkillMetrics>,
    /// Whether there are others: more than [`ReadRequest::skills_max`], or names that are too long together.
    pub is_truncated: bool,
}

/// How a table continues what was read of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TableFacts {
    /// The cursor of the request.
    pub cursor: TableCursor,
    /// The keys that it holds; `None` where it is empty.
    pub keys: Option<KeyRange>,
    /// `sqlite_sequence`: the greatest key that the table ever gave out, which deletions do not change and a restored
    /// backup brings back. `None` where the table has never had a row, or was not declared `AUTOINCREMENT`.
    pub sequence: Option<i64>,
    /// What became of the rows that were read.
    pub rows_read: RowsRead,
}

/// The keys in a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KeyRange {
    /// The smallest.
    pub oldest: i64,
    /// The greatest.
    pub newest: i64,
}

/// What became of the rows that were read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RowsRead {
    /// None was read before.
    NoneYet,
    /// The newest row that was read is there. Older ones were not looked up.
    LastPresent,
    /// It is not there, or its key belongs to another row.
    LastMissing(MissingRows),
}

/// What is left of the rows that were read, where the newest of them is missing.
///
/// `present`, `absent` and `replaced` count the fingerprints that the ledger remembers, which are not all the rows that it
/// has read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct MissingRows {
    /// Key of the newest remembered row that is still there.
    pub newest_present: Option<i64>,
    /// Key of the oldest remembered row after `newest_present` whose key belongs to another row now: at the latest from here
    /// on the table holds rows that were not read. Before it, up to [`TableFacts::sequence`], all rows were.
    pub oldest_replaced: Option<i64>,
    /// Remembered rows that are still there.
    pub present: u64,
    /// Remembered rows whose key no row has.
    pub absent: u64,
    /// Remembered rows whose key belongs to another row: `AUTOINCREMENT` gives no key twice, so that the table came back
    /// to an earlier state and went on from there, or is another.
    pub replaced: u64,
    /// Rows with keys from 1 up to the cursor, whatever they are.
    pub rows_up_to_cursor: u64,
}

/// A row of `skill_metrics`: the numbers of one skill since the database was made, of deleted rows too. Counts that are
/// negative or no integers are 0.
#[derive(Debug, Clone, PartialEq)]
pub struct SkillMetrics {
    /// The skill.
    pub skill_name: Box<str>,
    /// Its invocations.
    pub total: u64,
    /// Those that were completed. The server never writes more than `total`.
    pub completed: u64,
    /// Seconds of the completed ones, added up in the order of their keys; `None` where the column holds no number, or an
    /// infinite or negative one.
    pub duration_seconds: Option<f64>,
}

/// What the ledger wants to read, once it knows the facts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReadPlan {
    /// Rows of `skill_invocation` with greater keys are read.
    pub invocations_after: i64,
    /// What is read of `skill_anomalies`.
    pub anomalies: AnomaliesPlan,
    /// Whether the rows of each skill are counted, see [`DatabaseReading::row_counts`]. Reads the whole table, several
    /// seconds for tens of millions of rows: for changes between snapshots and rows only.
    pub counts_rows: bool,
}

/// What is read of `skill_anomalies`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AnomaliesPlan {
    /// The rows with keys greater than this one, oldest first.
    After(i64),
    /// The newest rows, oldest first, and how many there are of each skill and type ([`DatabaseReading::anomaly_counts`]).
    /// Reads the whole table.
    Newest,
}

/// What was read in one transaction.
#[derive(Debug, Clone, PartialEq)]
pub struct DatabaseReading {
    /// The evidence.
    pub facts: DatabaseFacts,
    /// What was asked for.
    pub plan: ReadPlan,
    /// Rows of `skill_invocation` in the order of their keys.
    pub invocations: Vec<InvocationRow>,
    /// Rows of `skill_anomalies` in the order of their keys; `None` where the table does not exist.
    pub anomalies: Option<Vec<AnomalyRow>>,
    /// Where the plan counts rows: those of each skill.
    pub row_counts: Option<Vec<SkillRowCounts>>,
    /// Whether rows of further skills were not counted: see [`ReadRequest::skills_max`].
    pub row_counts_are_truncated: bool,
    /// Where the plan asks for the newest anomalies: how many there are of each skill and type.
    pub anomaly_counts: Option<Vec<AnomalyCount>>,
    /// Whether there are more rows after these. Where there are none, everything that [`DatabaseFacts::skill_metrics`]
    /// exceed the counted rows by was deleted before it was read.
    pub has_more: bool,
}

/// A row of `skill_invocation`.
#[derive(Debug, Clone, PartialEq)]
pub struct InvocationRow {
    /// Which row.
    pub fingerprint: RowFingerprint,
    /// The skill, where it is a text that is not empty.
    pub skill_name: Option<Box<str>>,
    /// When it was invoked, as it is written; `None` where it is no text.
    pub invoked_at: Option<Box<str>>,
    /// Whether it was completed; `None` where the column is neither 0 nor 1.
    pub completed: Option<bool>,
    /// What the server adds to the skill's `total_duration_seconds` if it was completed. Can be negative.
    pub summed_seconds: f64,
    /// What else it says, or why the row cannot be counted.
    pub details: Result<InvocationDetails, Rejection>,
}

/// What a valid row of `skill_invocation` says beside its skill and whether it was completed.
#[derive(Debug, Clone, PartialEq)]
pub struct InvocationDetails {
    /// The phase; `None` where it is null or empty.
    pub workflow_phase: Option<Box<str>>,
    /// The duration in seconds, finite and not negative; `None` where it is null.
    pub duration_seconds: Option<f64>,
    /// Why it failed, as the value of the label `error_type`; `None` if it was completed, or where the database has no such
    /// column.
    pub failure: Option<Box<str>>,
}

/// A row of `skill_anomalies`.
#[derive(Debug, Clone, PartialEq)]
pub struct AnomalyRow {
    /// Which row.
    pub fingerprint: RowFingerprint,
    /// What it says, or why it cannot be counted.
    pub entry: Result<AnomalyEntry<'static>, Rejection>,
}

/// The rows of one skill in `skill_invocation`.
#[derive(Debug, Clone, PartialEq)]
pub struct SkillRowCounts {
    /// The skill.
    pub skill_name: Box<str>,
    /// All of its rows.
    pub all: RowCount,
    /// Seconds of the completed ones, added up as the server does, in the order of their keys.
    pub duration_seconds: f64,
    /// Those after [`ReadPlan::invocations_after`], which are yet to be read.
    pub unread: RowCount,
}

/// Rows by `completed`; rows where it is neither 0 nor 1 are left out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RowCount {
    /// Those where it is 1.
    pub completed: u64,
    /// Those where it is 0.
    pub abandoned: u64,
}

/// How many anomalies there are of a skill and a type.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AnomalyCount {
    /// The skill.
    pub skill_name: Box<str>,
    /// The type.
    pub anomaly_type: Box<str>,
    /// How many rows.
    pub rows: u64,
}
