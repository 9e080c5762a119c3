//! When the state got its first series: no scrape and no push has any before.

use rusqlite::{Connection, OptionalExtension as _};

use crate::ledger::Changes;

/// Returns whether the time was saved, or is not known and never will be.
pub(in crate::store) fn is_saved(connection: &Connection) -> rusqlite::Result<bool> {
    connection.prepare("SELECT 1 FROM first_series")?.exists([])
}

/// Saves the time of the commit of `changes`, in microseconds since the Unix epoch, if they hold a series. Nothing is changed if a
/// time was saved before.
pub(in crate::store) fn save(connection: &Connection, changes: &Changes) -> rusqlite::Result<()> {
    if !has_series(changes) {
        return Ok(());
    }
    let insert = "INSERT INTO first_series (only, micros) VALUES (0, ?) ON CONFLICT (only) DO NOTHING";
    connection.prepare_cached(insert)?.execute([changes.wall_micros]).map(drop)
}

/// Returns whether `changes` hold a series, and when they were made is known.
pub(in crate::store) fn has_series(changes: &Changes) -> bool {
    !changes.skills.is_empty() && changes.wall_micros > 0
}

/// Returns the time; `None` if there is no series, or the first one is older than the record.
pub(in crate::store) fn load(connection: &Connection) -> rusqlite::Result<Option<i64>> {
    let micros = connection.query_row("SELECT micros FROM first_series", [], |row| row.get(0));
    micros.optional().map(Option::flatten)
}

/// Replaces the time of `to`, which is that of a later commit, by that of `from`; by none, if `from` cannot be read any more.
pub(in crate::store) fn copy(from: &Connection, to: &Connection) -> rusqlite::Result<()> {
    let micros: rusqlite::Result<Option<i64>> = from.query_row("SELECT micros FROM first_series", [], |row| row.get(0));
    let micros = match micros {
        // What was written now are the first series.
        Err(rusqlite::Error::QueryReturnedNoRows) => return Ok(()),
        micros => micros.unwrap_or_default(),
    };
    to.execute("INSERT OR REPLACE INTO first_series (only, micros) VALUES (0, ?)", [micros]).map(drop)
}
