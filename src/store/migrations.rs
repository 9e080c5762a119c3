//! From each version of the schema to the next. A version that was released is never edited: each change of the schema is
//! a new one, and a state of the version before it becomes a fixture.
//!
//! The statements in the journal of a state of version 4 or later are of that version: a migration from it begins by applying
//! them, to the tables as they are.

use rusqlite::{Connection, Transaction};

use super::journal;

/// Each brings a state of the version that equals its index to the next one. The version 0 is an empty database.
const MIGRATIONS: [fn(&Connection) -> rusqlite::Result<()>; VERSION as usize] = [
    |tx| tx.execute_batch(include_str!("migrations/1.sql")),
    |tx| tx.execute_batch(include_str!("migrations/2.sql")),
    |tx| tx.execute_batch(include_str!("migrations/3.sql")),
    |tx| {
        tx.execute_batch(include_str!("migrations/4.sql"))?;
        journal::create(tx)
    },
];

/// The version that this program writes.
pub(super) const VERSION: i64 = 4;

/// Brings a state from one version, which is known, to another.
pub(super) fn run(tx: &Transaction<'_>, from: i64, to: i64) -> rusqlite::Result<()> {
    let steps = (from..to).filter_map(|version| MIGRATIONS.get(usize::try_from(version).ok()?));
    steps.into_iter().try_for_each(|migration| migration(tx))
}
