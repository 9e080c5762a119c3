//! The sources that each address led to.

use rusqlite::{Connection, params};

use super::entry::Entry;
use super::record::{self, Json, record};
use super::statement::Statement;
use crate::ledger::SourceId;
use crate::ledger::records::AddressRecord;

record! {
    "address", key (address), upsert UpsertAddress,
    struct AddressRow {
        address: String,
        sources: Json<Vec<u64>>,
    }
}

/// Writes what each address led to, and deletes those that lead nowhere any more.
pub(super) fn save(entry: &mut Entry, addresses: &[AddressRecord]) -> rusqlite::Result<()> {
    let (kept, gone): (Vec<_>, Vec<_>) = addresses.iter().partition(|record| !record.sources.is_empty());
    for record in gone {
        entry.push(Statement::DeleteAddress, params![record.address])?;
    }
    let row = |record: &AddressRecord| AddressRow {
        address: record.address.to_string(),
        sources: Json(record.sources.iter().map(|source| source.0).collect()),
    };
    record::save(entry, kept.into_iter().map(row))
}

pub(super) fn load(connection: &Connection) -> rusqlite::Result<Vec<AddressRecord>> {
    let record = |row: AddressRow| AddressRecord {
        address: row.address.into(),
        sources: row.sources.0.into_iter().map(SourceId).collect(),
    };
    Ok(record::load(connection)?.into_iter().map(record).collect())
}
