//! Database mode: reads the database of a feed's server, and delivers its rows as facts.
//!
//! With `--feed.skills-db` counts come from the database. A message of the feed wakes the [`DatabaseReader`], which asks
//! SQLite whether anybody has written, reads the rows that follow those already read, and hands them to a [`RowConsumer`],
//! which is the ledger behind its lock. What the facts mean is described in [`DatabaseFacts`] and in the table above it.
//!
//! | file | what it does |
//! | --- | --- |
//! | `reader` | the thread: opens, waits, opens again, reports failures |
//! | `database` | one connection: opens the file safely, notices changes, runs readings |
//! | `files` | identities of the three files on disk; what this process has open |
//! | `schema` | validates tables and columns |
//! | `transaction`, `rows`, `fingerprint` | the statements of one reading, and rows to facts |
//! | `error_type` | why an invocation failed |
//! | `history` | all rows at one moment, for the commands that end |
//! | `facts` | the facts, as plain data |
//! | `error` | why the database cannot be read |
//!
//! Architecture invariants: the only reader of the server's database, which it never creates, writes, migrates or locks.
//! It decides nothing. Nothing that is stored in the database runs, and the columns `user_query` and `embedding` cannot be
//! read: SQLite enforces both. Memory is bounded, and so is the length of a transaction, but for that of the history; every
//! statement can be cancelled.

mod database;
mod error;
mod error_type;
pub mod facts;
mod files;
mod fingerprint;
mod history;
mod reader;
mod rows;
mod schema;
mod transaction;

pub use database::SkillsDatabase;
pub use error::SkillsDatabaseError;
pub use error_type::ErrorType;
pub use facts::{
    AnomaliesPlan, AnomalyCount, BATCH_ROWS, DatabaseFacts, DatabaseReading, HeldSkills, InvocationRow, MissingRows,
    ReadPlan, ReadRequest, RowFingerprint, RowsRead, SkillMetrics, SkillRowCounts, Table, TableCursor, TableFacts,
};
pub use files::FileIdentity;
pub use history::{HistoricAnomaly, HistoricInvocation, History, HistoryDatabase, with_history};
pub use reader::{DatabaseReader, Decision, ReaderWaker, RowConsumer};
