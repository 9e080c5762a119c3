//! The sources that each address led to.

use rusqlite::Connection;

use super::record::{self, Json, record};
use crate::ledger::SourceId;
use crate::ledger::records::AddressRecord;

record! {
    "address", key (address),
    struct AddressRow {
        address: String,
        sources: Json<Vec<u64>>,
    }
}

/// Writes what each address led to, and deletes those that lead nowhere any more.
pub(super) fn save(connection: &Connection, addresses: &[AddressRecord]) -> rusqlite::Result<()> {
    let (kept, gone): (Vec<_>, Vec<_>) = addresses.iter().partition(|record| !record.sources.is_empty());
    for record in gone {
        connection.prepare_cached("DELETE FROM address WHERE address = ?1")?.execute([&record.address])?;
    }
    let row = |record: &AddressRecord| AddressRow {
        address: record.address.to_string(),
        sources: Json(record.sources.iter().map(|source| source.0).collect()),
    };
    record::save(connection, kept.into_iter().map(row))
}

pub(super) fn load(connection: &Connection) -> rusqlite::Result<Vec<AddressRecord>> {
    let record = |row: AddressRow| AddressRecord {
        address: row.address.into(),
        sources: row.sources.0.into_iter().map(SourceId).collect(),
    };
    Ok(record::load(connection)?.into_iter().map(record).collect())
}
