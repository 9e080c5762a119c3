//! Messages to counts: the translation rules, written once.
//!
//! Architecture invariant: pure and synchronous. Time comes in as a [`Moment`]; nothing here knows a socket, a file, a
//! log or the JSON of a frame. The ledger is the only writer of counts, and what a scrape shows is a projection of it
//! ([`Changes`]), so that a series cannot drift from the numbers that it was derived from.
//!
//! | file | the rule it keeps |
//! | --- | --- |
//! | `ledger` | several feeds: start-up hold, rates over feeds, sessions |
//! | `feed` | snapshots: first sight, differences, new databases, rollbacks, filtered feeds |
//! | `arithmetic` | what totals, rates and averages prove, and to which error |
//! | `waiting` | events and snapshots of the same skill |
//! | `anomalies` | which anomalies were counted already |
//! | `sessions` | reported sessions |
//! | `ids` | which events were applied already |
//! | `alias` | two feeds that are one server |
//! | `detail` | what the rows of the server's database prove, and which were read |
//! | `fingerprints` | which rows of a database are remembered |
//! | `reading` | what the reader found, in the terms of `detail` |
//! | `book` | the series themselves, by their full labels |
//! | [`memory`] | what must be kept so that all of this holds across restarts |
//! | `sound` | what of that can be true |

mod alias;
mod anomalies;
mod arithmetic;
pub mod binding;
mod book;
pub mod continuity;
mod detail;
pub mod evidence;
mod feed;
mod finding;
mod fingerprints;
mod ids;
#[expect(clippy::module_inception, reason = "the room is named after what it holds")]
mod ledger;
mod limits;
pub mod memory;
mod moment;
mod notice;
mod reading;
pub mod records;
mod series;
mod server_time;
mod sessions;
mod slots;
mod sound;
mod waiting;

pub use detail::{
    Anchor, AnomalyReading, AnomalyRow, AnomalyTally, DetailPosition, DetailReading, InvocationRow, Mark, Numbers,
    Position, SkillNumbers, ToldInvocation,
};
pub use finding::Finding;
pub use ledger::{ConnectionId, FeedId, FeedSpec, Ledger, Whole};
pub use limits::{Limits, OVERFLOW};
pub use moment::Moment;
pub use notice::{Notice, ResetCause};
pub use series::{
    AnomalySeries, Changes, DURATION_BUCKETS_SECONDS, EXEMPLAR_CHARS_MAX, Exemplar, FeedCounters, Histogram,
    PhaseSeries, RECENT_ANOMALIES_MAX, RuleCounters, SeenAnomaly, SkillIndex, SkillRow, SkillSeries,
};
pub use slots::{FeedSlot, SourceId};
