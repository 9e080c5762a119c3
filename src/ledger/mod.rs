//! Messages to counts: the translation rules, written once.
//!
//! Architecture invariant: pure and synchronous. Time comes in as a [`Now`]; nothing here knows a socket, a file, a
//! log or the JSON of a frame. The ledger is the only writer of counts, and what a scrape shows is a projection of it
//! ([`Changes`]), so that a series cannot drift from the numbers that it was derived from.
//!
//! | file | the rule it keeps |
//! | --- | --- |
//! | `ledger` | the public face: configuration, connections |
//! | `apply` | messages: whose numbers a snapshot shows, before anything moves |
//! | `drain` | start-up hold, rates over sources, sessions, what is exposed and persisted |
//! | [`binding`] | which source a feed belongs to; active and standby feeds, joins and forks |
//! | [`continuity`] | the same, a damaged or another database, and what of a listing counts |
//! | [`evidence`] | what the numbers of skills prove about each other |
//! | `source` | what a source carries to count with |
//! | `snapshot`, `event`, `rows` | what each of them counts |
//! | `arithmetic` | what totals, rates and averages prove, and to which error |
//! | `pending` | events and increases that wait for each other |
//! | `anomalies`, `sessions`, `dedup` | anomalies, sessions and events that were applied already |
//! | `databases` | which source a database is, whether its rows count, which feed reads it |
//! | `confirmation` | whether a database is the one that a feed lists |
//! | `database_mode` | where the rows of a source's database were read to |
//! | `fingerprints` | which rows of a database are remembered |
//! | `reading` | what the reader found, in the terms of `database_mode` |
//! | `series_table` | the series themselves, by their full labels |
//! | `labels` | labels that many skills have in common |
//! | `row_series` | the series that rows lead to without a feed, for `backfill` |
//! | `persist`, [`records`] | what must be persisted so that all of this holds across restarts, and what of it is valid |
//! | `dirty` | what changed since it was last acknowledged |
//! | `trace_step` | what a rule made of a message, for `explain` |
//! | `skill_table` | what a source remembers of each skill |
//! | `slots` | the only place where integers are indices |

mod anomalies;
mod apply;
mod arithmetic;
pub mod binding;
mod check;
mod confirmation;
mod context;
pub mod continuity;
mod database_mode;
mod databases;
mod dedup;
mod dirty;
mod drain;
mod event;
pub mod evidence;
mod feed;
mod fingerprints;
mod labels;
#[expect(clippy::module_inception, reason = "the module is named after what it holds")]
mod ledger;
mod limits;
mod notice;
mod now;
mod pending;
mod persist;
mod reading;
pub mod records;
mod row_series;
mod rows;
mod series;
mod series_table;
mod server_time;
mod sessions;
mod skill_table;
mod slots;
mod snapshot;
mod source;
mod standing;
mod trace_step;

pub use check::{check_anomaly, check_invocation};
pub use database_mode::{DatabasePosition, RowsReading};
pub(crate) use labels::SharedLabels;
pub use ledger::{ConnectionId, FeedId, FeedSpec, Ledger, LedgerState};
pub use limits::{Limits, OVERFLOW};
pub use notice::{FallenSkill, FallenSkills, Notice, ResetCause};
pub use now::Now;
pub use persist::InvalidState;
pub use row_series::RowSeries;
pub use series::{
    AnomalySeries, Changes, DURATION_BUCKETS_SECONDS, Exemplar, FailureSeries, FeedCounters, Histogram, PhaseSeries,
    RECENT_ANOMALIES_MAX, RuleCounters, SeenAnomaly, SkillIndex, SkillRef, SkillRow, SkillSeries,
};
pub use series_table::UNKNOWN_PHASE;
pub use server_time::micros as server_time_micros;
pub use slots::{FeedSlot, SourceId};
pub use standing::{FeedRole, FeedStanding};
