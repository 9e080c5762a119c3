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

pub(super) fn save(connection: &Connection, addresses: &[AddressRecord]) -> rusqlite::Result<()> {
    let row = |record: &AddressRecord| AddressRow {
        address: record.address.to_string(),
        sources: Json(record.sources.iter().map(|source| source.0).collect()),
    };
    record::save(connection, addresses.iter().map(row))
}

pub(super) fn load(connection: &Connection) -> rusqlite::Result<Vec<AddressRecord>> {
    let record = |row: AddressRow| AddressRecord {
        address: row.address.into(),
        sources: row.sources.0.into_iter().map(SourceId).collect(),
    };
    Ok(record::load(connection)?.into_iter().map(record).collect())
}
