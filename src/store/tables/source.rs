//! Sources, each as far as it is a single row.

use std::sync::Arc;

use rusqlite::types::{ToSqlOutput, ValueRef};
use rusqlite::{Connection, params, params_from_iter};

use super::entry::Entry;
use super::record::{self, Json, record};
use super::statement::Statement;
use crate::ledger::records::SourceRecord;
use crate::ledger::{FeedSlot, SourceId};

record! {
    "source", key (id), upsert UpsertSource,
    struct SourceRow {
        id: u64,
        is_observed: bool,
        has_begun: bool,
        counted_by: Option<u32>,
        active_micros: i64,
        previous_was_complete: bool,
        previous_micros: Option<i64>,
        streams_invocations: bool,
        first_event_id: u64,
        newest_forgotten_micros: Option<i64>,
        unread: Json<Vec<Arc<str>>>,
        unread_overflowed: bool,
    }
}

impl From<&SourceRecord> for SourceRow {
    fn from(record: &SourceRecord) -> Self {
        Self {
            id: record.id.0,
            is_observed: record.is_observed,
            has_begun: record.has_begun,
            counted_by: record.counted_by.map(FeedSlot::number),
            active_micros: record.active_micros,
            previous_was_complete: record.previous_was_complete,
            previous_micros: record.previous_micros,
            streams_invocations: record.streams_invocations,
            first_event_id: record.first_event_id,
            newest_forgotten_micros: record.newest_forgotten_micros,
            unread: Json(record.unread.clone()),
            unread_overflowed: record.unread_overflowed,
        }
    }
}

impl From<SourceRow> for SourceRecord {
    fn from(row: SourceRow) -> Self {
        Self {
            id: SourceId(row.id),
            is_observed: row.is_observed,
            has_begun: row.has_begun,
            counted_by: row.counted_by.map(FeedSlot::from_number),
            active_micros: row.active_micros,
            previous_was_complete: row.previous_was_complete,
            previous_micros: row.previous_micros,
            streams_invocations: row.streams_invocations,
            first_event_id: row.first_event_id,
            newest_forgotten_micros: row.newest_forgotten_micros,
            unread: row.unread.0,
            unread_overflowed: row.unread_overflowed,
        }
    }
}

/// The tables with a column `source`.
const TABLES: [&str; 8] =
    ["source_skill", "listing_history", "damage", "anomaly_tally", "anomaly", "event_id", "database", "fingerprint"];

/// Deletes everything of the sources `removed` first.
pub(super) fn save(entry: &mut Entry, removed: &[SourceId], sources: &[SourceRecord]) -> rusqlite::Result<()> {
    removed.iter().try_for_each(|source| entry.push(Statement::RemoveSource, params![source.0]))?;
    record::save(entry, sources.iter().map(SourceRow::from))
}

/// Deletes everything of a source. The only parameter is its number.
pub(super) fn remove(connection: &Connection, source: &[ValueRef<'_>]) -> rusqlite::Result<()> {
    let delete = |statement: &str| {
        let source = source.iter().map(|value| ToSqlOutput::Borrowed(*value));
        connection.prepare_cached(statement)?.execute(params_from_iter(source)).map(drop)
    };
    TABLES.iter().try_for_each(|table| delete(&format!("DELETE FROM {table} WHERE source = ?")))?;
    delete("DELETE FROM source WHERE id = ?")
}

pub(super) fn load(connection: &Connection) -> rusqlite::Result<Vec<SourceRecord>> {
    Ok(record::load::<SourceRow>(connection)?.into_iter().map(SourceRecord::from).collect())
}

/// Removes a source and everything that is remembered of it. Its feeds are unbound. Returns whether there was such a source.
pub(in crate::store) fn forget(connection: &Connection, source: SourceId) -> rusqlite::Result<bool> {
    let is_known = connection.prepare("SELECT 1 FROM source WHERE id = ?")?.exists([source.0])?;
    Statement::RemoveSource.execute(connection, &[ValueRef::Integer(source.0 as i64)])?;
    connection.execute("DELETE FROM agreed WHERE feed IN (SELECT slot FROM feed WHERE source = ?)", [source.0])?;
    connection.execute("UPDATE feed SET source = NULL WHERE source = ?", [source.0])?;
    Ok(is_known)
}
