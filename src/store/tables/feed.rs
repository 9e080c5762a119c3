//! Feeds, with their counters.

use std::sync::Arc;

use rusqlite::{Connection, OptionalExtension};

use super::record::{self, Json, record};
use crate::ledger::FeedCounters;
use crate::ledger::memory::FeedRow;

record! {
    "feed", key (place),
    struct FeedRecord {
        place: usize,
        identity: Arc<str>,
        tenth_skill_invocations: Option<u64>,
        rollbacks: u64,
        resets: u64,
        detail_mismatches: u64,
        had_snapshot: bool,
        previous_was_complete: bool,
        previous_micros: Option<i64>,
        streams_invocations: bool,
        alias_of: Option<usize>,
        sessions_reported: bool,
        sessions_count: u64,
        first_event_id: u64,
        newest_forgotten_micros: Option<i64>,
        unread: Json<Vec<Arc<str>>>,
    }
}

impl From<&FeedRow> for FeedRecord {
    fn from(row: &FeedRow) -> Self {
        let FeedCounters { identity, tenth_skill_invocations, rollbacks, resets, detail_mismatches, rows_tell: _ } =
            &row.counters;
        Self {
            place: row.place,
            identity: Arc::clone(identity),
            tenth_skill_invocations: *tenth_skill_invocations,
            rollbacks: *rollbacks,
            resets: *resets,
            detail_mismatches: *detail_mismatches,
            had_snapshot: row.had_snapshot,
            previous_was_complete: row.previous_was_complete,
            previous_micros: row.previous_micros,
            streams_invocations: row.streams_invocations,
            alias_of: row.alias_of,
            sessions_reported: row.sessions_reported,
            sessions_count: row.sessions_count,
            first_event_id: row.first_event_id,
            newest_forgotten_micros: row.newest_forgotten_micros,
            unread: Json(row.unread.clone()),
        }
    }
}

impl From<FeedRecord> for FeedRow {
    fn from(record: FeedRecord) -> Self {
        Self {
            place: record.place,
            counters: FeedCounters {
                identity: record.identity,
                tenth_skill_invocations: record.tenth_skill_invocations,
                rollbacks: record.rollbacks,
                resets: record.resets,
                detail_mismatches: record.detail_mismatches,
                rows_tell: None,
            },
            had_snapshot: record.had_snapshot,
            previous_was_complete: record.previous_was_complete,
            previous_micros: record.previous_micros,
            streams_invocations: record.streams_invocations,
            alias_of: record.alias_of,
            sessions_reported: record.sessions_reported,
            sessions_count: record.sessions_count,
            first_event_id: record.first_event_id,
            newest_forgotten_micros: record.newest_forgotten_micros,
            unread: record.unread.0,
        }
    }
}

pub(super) fn save(connection: &Connection, feeds: &[FeedRow]) -> rusqlite::Result<()> {
    record::save(connection, feeds.iter().map(FeedRecord::from))
}

pub(super) fn load(connection: &Connection) -> rusqlite::Result<Vec<FeedRow>> {
    Ok(record::load::<FeedRecord>(connection)?.into_iter().map(FeedRow::from).collect())
}

/// Removes a feed and everything that is remembered of it. Its place stays taken, under a name that no feed has: the
/// places of feeds have no gaps. Returns whether there was such a feed.
pub(in crate::store) fn forget(connection: &Connection, identity: &str) -> rusqlite::Result<bool> {
    let query = "SELECT place FROM feed WHERE identity = ?";
    let Some(place) = connection.query_row(query, [identity], |row| row.get::<_, i64>(0)).optional()? else {
        return Ok(false);
    };
    for table in ["feed_skill", "anomaly_tally", "anomaly", "event_id", "session", "detail", "detail_row"] {
        connection.execute(&format!("DELETE FROM {table} WHERE feed = ?"), [place])?;
    }
    connection.execute(
        "UPDATE feed SET identity = '#' || place || ' forgotten', tenth_skill_invocations = NULL, had_snapshot = 0,
             previous_was_complete = 0, previous_micros = NULL, streams_invocations = 0, alias_of = NULL,
             sessions_reported = 0, sessions_count = 0, first_event_id = 0, newest_forgotten_micros = NULL, unread = '[]'
         WHERE place = ?",
        [place],
    )?;
    Ok(true)
}
