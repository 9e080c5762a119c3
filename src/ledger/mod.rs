//! Messages to counts: the translation rules, written once.
//!
//! Architecture invariant: pure and synchronous. Time comes in as a [`Moment`]; nothing here knows a socket, a file, a
//! log or the JSON of a frame. The ledger is the only writer of counts, and what a scrape shows is a projection of it
//! ([`Changes`]), so that a series cannot drift from the numbers that it was derived from.

mod moment;
mod notice;
mod series;

pub use moment::Moment;
pub use notice::{Notice, ResetCause};
pub use series::{
    Changes, DURATION_BUCKETS_SECONDS, FeedCounters, Histogram, PhaseSeries, RuleCounters, SkillIndex, SkillSeries,
};
