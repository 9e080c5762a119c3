//! The rows of each feed's database that were read last.

use rusqlite::{Connection, params};

use super::record::{self, invalid, record};
use crate::ledger::Mark;
use crate::ledger::memory::{DetailRow, MarkRow, Table};

record! {
    "detail_row", key (feed, source, lost, id),
    struct DetailRowRecord {
        feed: usize,
        source: String,
        lost: bool,
        id: i64,
        digest: i64,
    }
}

/// Adds rows, and deletes those that `details` have forgotten.
pub(super) fn save(connection: &Connection, details: &[DetailRow], marks: &[MarkRow]) -> rusqlite::Result<()> {
    let mut forget = connection
        .prepare_cached("DELETE FROM detail_row WHERE feed = ? AND source = ? AND (? OR lost = 0 AND id < ?)")?;
    for row in details {
        let (invocations, anomalies) = (Table::Invocations.name(), Table::Anomalies.name());
        forget.execute(params![row.feed, invocations, row.invocations_rewritten, row.invocations_first])?;
        forget.execute(params![row.feed, anomalies, row.anomalies_rewritten, row.anomalies_first])?;
    }
    let records = marks.iter().map(|MarkRow { feed, table, mark, is_lost }| DetailRowRecord {
        feed: *feed,
        source: table.name().to_owned(),
        lost: *is_lost,
        id: mark.id,
        digest: mark.digest,
    });
    record::save(connection, records)
}

pub(super) fn load(connection: &Connection) -> rusqlite::Result<Vec<MarkRow>> {
    let mark = |DetailRowRecord { feed, source, lost, id, digest }| {
        let table = [Table::Invocations, Table::Anomalies].into_iter().find(|table| table.name() == source);
        let table = table.ok_or_else(|| invalid(format!("no rows are read of a table {source:?}")))?;
        Ok(MarkRow { feed, table, mark: Mark { id, digest }, is_lost: lost })
    };
    record::load(connection)?.into_iter().map(mark).collect()
}
