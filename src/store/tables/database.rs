//! How far the database of each source was read.

use rusqlite::Connection;

use super::entry::Entry;
use super::record::{self, record};
use crate::ledger::SourceId;
use crate::ledger::records::{DatabaseRecord, FingerprintsKept};

record! {
    "database", key (source), upsert UpsertDatabase,
    struct DatabaseRow {
        source: u64,
        moved_alone: bool,
        remembered_until: i64,
        newest_micros: Option<i64>,
        invocations_cursor: i64,
        anomalies_cursor: i64,
    }
}

pub(super) fn save(entry: &mut Entry, databases: &[DatabaseRecord]) -> rusqlite::Result<()> {
    let row = |record: &DatabaseRecord| DatabaseRow {
        source: record.source.0,
        moved_alone: record.moved_alone,
        remembered_until: record.remembered_until,
        newest_micros: record.newest_micros,
        invocations_cursor: record.invocations_cursor,
        anomalies_cursor: record.anomalies_cursor,
    };
    record::save(entry, databases.iter().map(row))
}

pub(super) fn load(connection: &Connection) -> rusqlite::Result<Vec<DatabaseRecord>> {
    let record = |row: DatabaseRow| DatabaseRecord {
        source: SourceId(row.source),
        moved_alone: row.moved_alone,
        remembered_until: row.remembered_until,
        newest_micros: row.newest_micros,
        invocations_cursor: row.invocations_cursor,
        anomalies_cursor: row.anomalies_cursor,
        invocations: FingerprintsKept::All,
        anomalies: FingerprintsKept::All,
    };
    Ok(record::load(connection)?.into_iter().map(record).collect())
}
