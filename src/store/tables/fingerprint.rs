//! The rows of each source's database that were read last.

use rusqlite::{Connection, params};

use super::entry::Entry;
use super::record::{self, invalid, record};
use super::statement::Statement;
use crate::ledger::SourceId;
use crate::ledger::records::{DatabaseRecord, FingerprintRecord, FingerprintsKept, Table};

record! {
    "fingerprint", key (source, table_name, branch, key), upsert UpsertFingerprint,
    struct FingerprintRow {
        source: u64,
        table_name: String,
        branch: u32,
        key: i64,
        digest: i64,
    }
}

/// Adds fingerprints, and deletes those that `databases` have forgotten.
pub(super) fn save(
    entry: &mut Entry,
    databases: &[DatabaseRecord],
    fingerprints: &[FingerprintRecord],
) -> rusqlite::Result<()> {
    for database in databases {
        for (table, kept) in [(Table::Invocations, &database.invocations), (Table::Anomalies, &database.anomalies)] {
            match kept {
                FingerprintsKept::All => {}
                FingerprintsKept::Without(keys) => {
                    for key in keys {
                        entry.push(Statement::DeleteFingerprint, params![database.source.0, table.name(), key])?;
                    }
                }
                FingerprintsKept::None => {
                    entry.push(Statement::ClearFingerprints, params![database.source.0, table.name()])?;
                }
            }
        }
    }
    let row = |record: &FingerprintRecord| FingerprintRow {
        source: record.source.0,
        table_name: record.table.name().to_owned(),
        branch: record.branch,
        key: record.key,
        digest: record.digest,
    };
    record::save(entry, fingerprints.iter().map(row))
}

pub(super) fn load(connection: &Connection) -> rusqlite::Result<Vec<FingerprintRecord>> {
    let record = |FingerprintRow { source, table_name, branch, key, digest }| {
        let table = [Table::Invocations, Table::Anomalies].into_iter().find(|table| table.name() == table_name);
        let table = table.ok_or_else(|| invalid(format!("no rows are read of a table {table_name:?}")))?;
        Ok(FingerprintRecord { source: SourceId(source), table, branch, key, digest })
    };
    record::load(connection)?.into_iter().map(record).collect()
}
