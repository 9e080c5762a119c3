//! Entries of the present and of past configurations, with their counters.

use std::sync::Arc;

use rusqlite::Connection;

use super::entry;
use super::record::{self, Json, record};
use crate::ledger::binding::{Doubt, Entry};
use crate::ledger::records::FeedRecord;
use crate::ledger::{FeedCounters, FeedSlot, SourceId};
use crate::protocol::Event;

record! {
    "feed", key (slot), upsert UpsertFeed,
    struct FeedRow {
        slot: u32,
        name: Arc<str>,
        address: String,
        filter: Option<String>,
        is_configured: bool,
        tenth_skill_invocations: Option<u64>,
        rollbacks: u64,
        resets: u64,
        detail_mismatches: u64,
        double_counted: u64,
        undecided: Json<[u64; Doubt::ALL.len()]>,
        source: Option<u64>,
        heir_of: Json<Vec<u64>>,
        hold_rounds: u32,
        is_observed: bool,
        held_events: Json<Vec<Event<'static>>>,
        apart: Json<Vec<u32>>,
        sessions_reported_micros: Option<i64>,
        sessions_count: u64,
    }
}

impl From<&FeedRecord> for FeedRow {
    fn from(record: &FeedRecord) -> Self {
        let FeedCounters {
            identity: _,
            tenth_skill_invocations,
            rollbacks,
            resets,
            detail_mismatches,
            rows_tell: _,
            double_counted,
            undecided,
        } = &record.counters;
        Self {
            slot: record.slot.number(),
            name: (&*record.entry.name).into(),
            address: record.entry.address.to_string(),
            filter: record.entry.filter.as_deref().map(str::to_owned),
            is_configured: record.is_configured,
            tenth_skill_invocations: *tenth_skill_invocations,
            rollbacks: *rollbacks,
            resets: *resets,
            detail_mismatches: *detail_mismatches,
            double_counted: *double_counted,
            undecided: Json(*undecided),
            source: record.source.map(|source| source.0),
            heir_of: Json(record.heir_of.iter().map(|source| source.0).collect()),
            hold_rounds: record.hold_rounds,
            is_observed: record.is_observed,
            held_events: Json(record.held_events.clone()),
            apart: Json(record.apart.iter().map(|feed| feed.number()).collect()),
            sessions_reported_micros: record.sessions_reported_micros,
            sessions_count: record.sessions_count,
        }
    }
}

impl From<FeedRow> for FeedRecord {
    fn from(record: FeedRow) -> Self {
        let entry = Entry {
            name: (&*record.name).into(),
            address: record.address.into(),
            filter: record.filter.map(Into::into),
        };
        Self {
            slot: FeedSlot::from_number(record.slot),
            entry,
            is_configured: record.is_configured,
            counters: FeedCounters {
                identity: record.name,
                tenth_skill_invocations: record.tenth_skill_invocations,
                rollbacks: record.rollbacks,
                resets: record.resets,
                detail_mismatches: record.detail_mismatches,
                rows_tell: None,
                double_counted: record.double_counted,
                undecided: record.undecided.0,
            },
            source: record.source.map(SourceId),
            heir_of: record.heir_of.0.into_iter().map(SourceId).collect(),
            hold_rounds: record.hold_rounds,
            is_observed: record.is_observed,
            held_events: record.held_events.0,
            apart: record.apart.0.into_iter().map(FeedSlot::from_number).collect(),
            sessions_reported_micros: record.sessions_reported_micros,
            sessions_count: record.sessions_count,
        }
    }
}

pub(super) fn save(entry: &mut entry::Entry, feeds: &[FeedRecord]) -> rusqlite::Result<()> {
    record::save(entry, feeds.iter().map(FeedRow::from))
}

pub(super) fn load(connection: &Connection) -> rusqlite::Result<Vec<FeedRecord>> {
    Ok(record::load::<FeedRow>(connection)?.into_iter().map(FeedRecord::from).collect())
}

/// Calls the feeds that are called `old` `new` instead. Returns whether there was one. Nothing is changed if a feed is called
/// `new`.
pub(in crate::store) fn rename(connection: &Connection, old: &str, new: &str) -> rusqlite::Result<Renamed> {
    let exists = |name: &str| connection.prepare("SELECT 1 FROM feed WHERE name = ?")?.exists([name]);
    if !exists(old)? {
        return Ok(Renamed::NoSuchFeed);
    }
    if exists(new)? {
        return Ok(Renamed::NameIsTaken);
    }
    connection.execute("UPDATE feed SET name = ?2 WHERE name = ?1", [old, new])?;
    Ok(Renamed::Done)
}

/// What became of a request to rename a feed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Renamed {
    /// It has the new name.
    Done,
    /// No feed has the old name.
    NoSuchFeed,
    /// Another feed has the new name.
    NameIsTaken,
}
