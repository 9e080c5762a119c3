//! From each version of the schema to the next. A version that was released is never edited: each change of the schema is
//! a new one, and a state of the version before it becomes a fixture.

use rusqlite::{Connection, Transaction};

/// Each brings a state of the version that equals its index to the next one. The version 0 is an empty database.
const MIGRATIONS: [fn(&Connection) -> rusqlite::Result<()>; VERSION as usize] =
    [|tx| tx.execute_batch(include_str!("migrations/1.sql"))];

/// The version that this program writes.
pub(super) const VERSION: i64 = 1;

/// Brings a state of the version `found` to [`VERSION`].
pub(super) fn run(tx: &Transaction<'_>, found: i64) -> rusqlite::Result<()> {
    let missing = MIGRATIONS.iter().skip(found.try_into().unwrap_or_default());
    missing.into_iter().try_for_each(|migration| migration(tx))
}
