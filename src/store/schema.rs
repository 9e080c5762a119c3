//! Whose file it is, of which version, and whether its tables are intact.

use std::path::Path;

use rusqlite::Connection;

use super::{StoreError, migrations};

/// Marks the file as a state of this program, in SQLite's header: "SBBr".
const APPLICATION_ID: i64 = 0x5342_4272;

/// Refuses a file that is neither a state of a known version nor empty.
pub(super) fn check(connection: &Connection, path: &Path) -> Result<(), StoreError> {
    let failed = |error| StoreError::sqlite(path, error);
    let number = |query: &str| connection.query_row(query, [], |row| row.get::<_, i64>(0)).map_err(failed);
    let application = number("PRAGMA application_id")?;
    let version = number("PRAGMA user_version")?;
    let is_empty = number("SELECT count(*) FROM sqlite_schema")? == 0;
    match (application, version) {
        (0, 0) if is_empty => Ok(()),
        (APPLICATION_ID, 1..=migrations::VERSION) => Ok(()),
        (APPLICATION_ID, found) if found > migrations::VERSION => {
            Err(StoreError::Newer { path: path.to_owned(), found, known: migrations::VERSION })
        }
        _ => Err(StoreError::Foreign { path: path.to_owned() }),
    }
}

/// Creates the tables of a new state, and brings those of an older version up to date. One transaction, with the version:
/// a state is of one version or of the next, never between two.
pub(super) fn upgrade(connection: &Connection) -> rusqlite::Result<()> {
    let found: i64 = connection.query_row("PRAGMA user_version", [], |row| row.get(0))?;
    if found == migrations::VERSION {
        return Ok(());
    }
    let tx = connection.unchecked_transaction()?;
    migrations::run(&tx, found)?;
    tx.pragma_update(None, "application_id", APPLICATION_ID)?;
    tx.pragma_update(None, "user_version", migrations::VERSION)?;
    tx.commit()
}

/// Returns whether the tables are those that this version creates, to the letter. A flipped bit in the text of one can
/// leave a state that reads well and refuses every commit.
pub(super) fn is_intact(connection: &Connection) -> rusqlite::Result<bool> {
    let model = Connection::open_in_memory()?;
    upgrade(&model)?;
    Ok(entries(connection)? == entries(&model)?)
}

/// Type, name, table and text of an entry of the schema.
type SchemaEntry = (String, String, String, Option<String>);

fn entries(connection: &Connection) -> rusqlite::Result<Vec<SchemaEntry>> {
    let mut query = connection.prepare("SELECT type, name, tbl_name, sql FROM sqlite_schema ORDER BY type, name")?;
    let rows = query.query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?)))?;
    rows.collect()
}
