//! How far the database of each feed was read.

use rusqlite::Connection;

use super::record::{self, record};
use crate::ledger::memory::DetailRow;

record! {
    "detail", key (feed),
    struct DetailRecord {
        feed: usize,
        moved_alone: bool,
        told_until: i64,
        history_until: i64,
        invocations_cursor: i64,
        anomalies_cursor: i64,
    }
}

pub(super) fn save(connection: &Connection, details: &[DetailRow]) -> rusqlite::Result<()> {
    let records = details.iter().map(|row| DetailRecord {
        feed: row.feed,
        moved_alone: row.moved_alone,
        told_until: row.told_until,
        history_until: row.history_until,
        invocations_cursor: row.invocations_cursor,
        anomalies_cursor: row.anomalies_cursor,
    });
    record::save(connection, records)
}

pub(super) fn load(connection: &Connection) -> rusqlite::Result<Vec<DetailRow>> {
    let detail = |record: DetailRecord| DetailRow {
        feed: record.feed,
        moved_alone: record.moved_alone,
        told_until: record.told_until,
        history_until: record.history_until,
        invocations_cursor: record.invocations_cursor,
        anomalies_cursor: record.anomalies_cursor,
        ..DetailRow::default()
    };
    Ok(record::load(connection)?.into_iter().map(detail).collect())
}
