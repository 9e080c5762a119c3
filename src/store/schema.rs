//! Whose file it is, of which version, and whether its tables are intact.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex};

use rusqlite::types::Value;
use rusqlite::{Connection, ErrorCode, params_from_iter};

use super::error::is_corruption;
use super::{Corruption, StoreError, migrations};
use crate::sync::lock;

/// Marks the file as a state of this program, in SQLite's header: "SBBr".
pub(super) const APPLICATION_ID: i64 = 0x5342_4272;

/// Returns the version of a state, 0 for an empty database.
///
/// # Errors
/// A version that this program does not know; no state at all.
pub(super) fn check(connection: &Connection, path: &Path) -> Result<i64, StoreError> {
    let failed = |error| StoreError::sqlite(path, error);
    let number = |query: &str| connection.query_row(query, [], |row| row.get::<_, i64>(0)).map_err(failed);
    let application = number("PRAGMA application_id")?;
    let version = number("PRAGMA user_version")?;
    let is_empty = number("SELECT count(*) FROM sqlite_schema")? == 0;
    match (application, version) {
        (0, 0) if is_empty => Ok(0),
        (APPLICATION_ID, 1..=migrations::VERSION) => Ok(version),
        (APPLICATION_ID, found) if found > migrations::VERSION => {
            Err(StoreError::Newer { path: path.to_owned(), found, known: migrations::VERSION })
        }
        _ => Err(StoreError::Foreign { path: path.to_owned() }),
    }
}

/// Brings a state of the version `found` up to date, and an empty database to a state. One transaction, with the version: a
/// state is of one version or of the next, never between two.
pub(super) fn upgrade(connection: &Connection, path: &Path, found: i64) -> Result<(), StoreError> {
    migrate(connection, found, migrations::VERSION).map_err(|error| {
        let breaks_a_rule = error.sqlite_error_code() == Some(ErrorCode::ConstraintViolation);
        if is_corruption(&error) || breaks_a_rule {
            return StoreError::corrupt(path, Corruption::Migration { found, error });
        }
        StoreError::sqlite(path, error)
    })
}

fn migrate(connection: &Connection, found: i64, version: i64) -> rusqlite::Result<()> {
    if found == version {
        return Ok(());
    }
    let tx = connection.unchecked_transaction()?;
    migrations::run(&tx, found, version)?;
    tx.pragma_update(None, "application_id", APPLICATION_ID)?;
    tx.pragma_update(None, "user_version", version)?;
    tx.commit()
}

/// Returns whether the tables are those of `version`, to the letter. A flipped bit in the text of one can leave a state that
/// reads well and refuses every commit.
pub(super) fn is_intact(connection: &Connection, version: i64) -> rusqlite::Result<bool> {
    Ok(entries(connection)? == *model(version)?)
}

/// The entries of a state of `version` that has just been created. Made once: that costs as much as a migration.
fn model(version: i64) -> rusqlite::Result<Arc<Vec<SchemaEntry>>> {
    static MODELS: Mutex<BTreeMap<i64, Arc<Vec<SchemaEntry>>>> = Mutex::new(BTreeMap::new());
    if let Some(known) = lock(&MODELS).get(&version) {
        return Ok(Arc::clone(known));
    }
    let created = Connection::open_in_memory()?;
    migrate(&created, 0, version)?;
    let created = Arc::new(entries(&created)?);
    lock(&MODELS).insert(version, Arc::clone(&created));
    Ok(created)
}

/// Copies the tables for which `is_copied` into memory, of a database of any version.
pub(super) fn copy(connection: &Connection, is_copied: impl Fn(&str) -> bool) -> rusqlite::Result<Connection> {
    let copy = Connection::open_in_memory()?;
    for (kind, table, _, text) in entries(connection)? {
        let Some(text) = text.filter(|_| kind == "table" && is_copied(&table)) else { continue };
        copy.execute_batch(&text)?;
        copy_rows(connection, &copy, &table)?;
    }
    Ok(copy)
}

/// The tables of the push queue, which are not part of the ledger.
pub(super) const QUEUE_TABLES: [&str; 5] = ["push_identity", "push_series", "push_base", "push_tick", "push_receiver"];

/// Copies the rows of a table that both databases have.
pub(super) fn copy_rows(from: &Connection, to: &Connection, table: &str) -> rusqlite::Result<()> {
    let mut query = from.prepare(&format!("SELECT * FROM {table}"))?;
    let columns = query.column_count();
    let marks = vec!["?"; columns].join(", ");
    let mut insert = to.prepare(&format!("INSERT INTO {table} VALUES ({marks})"))?;
    let mut rows = query.query([])?;
    while let Some(row) = rows.next()? {
        let values = (0..columns).map(|column| row.get::<_, Value>(column)).collect::<Result<Vec<_>, _>>()?;
        insert.execute(params_from_iter(values))?;
    }
    Ok(())
}

/// Type, name, table and text of an entry of the schema.
type SchemaEntry = (String, String, String, Option<String>);

fn entries(connection: &Connection) -> rusqlite::Result<Vec<SchemaEntry>> {
    let mut query = connection.prepare("SELECT type, name, tbl_name, sql FROM sqlite_schema ORDER BY type, name")?;
    let rows = query.query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?)))?;
    rows.collect()
}
