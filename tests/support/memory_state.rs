//! A state in memory, which outlives the bridges that write it.

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use rusqlite::{Connection, OpenFlags};
use session_buddy_bridge::internals::ledger::{Changes, LedgerState};
use session_buddy_bridge::internals::store::Store;

/// A state in memory. It ends with this and the last store on it.
pub struct MemoryState {
    name: String,
    /// Another one who has it open: so that it lives, and to make commits fail.
    other: Connection,
}

impl MemoryState {
    /// An empty one.
    pub fn new() -> Self {
        static STATES: AtomicU64 = AtomicU64::new(0);
        let name = format!("file:state-{}?mode=memory&cache=shared", STATES.fetch_add(1, Ordering::Relaxed));
        Self { other: Self::connect(&name), name }
    }

    fn connect(name: &str) -> Connection {
        Connection::open_with_flags(name, OpenFlags::default()).expect("a database in memory")
    }

    pub fn open(&self) -> (Store, LedgerState) {
        Store::on(Self::connect(&self.name), Path::new(&self.name), LedgerState::validated)
            .unwrap_or_else(|error| panic!("{error}"))
    }

    /// Forgets everything: that is faster than to begin another state.
    pub fn wipe(&self) {
        let tables =
            self.other.prepare_cached("SELECT format('DELETE FROM %s;', name) FROM sqlite_schema WHERE type = 'table'");
        let wipes = tables
            .and_then(|mut tables| tables.query_map([], |row| row.get::<_, String>(0))?.collect::<Result<String, _>>());
        self.other.execute_batch(&wipes.expect("tables")).expect("no table is locked");
    }

    /// Commits while somebody else has `table` locked. Returns whether it was committed.
    pub fn commit_against(&self, table: &str, store: &mut Store, changes: &Changes) -> bool {
        self.while_locked(table, || store.commit(changes).is_ok())
    }

    /// Runs `act` while nobody can write to `table`.
    pub fn while_locked<T>(&self, table: &str, act: impl FnOnce() -> T) -> T {
        self.other.execute_batch(&format!("BEGIN; SELECT count(*) FROM {table}")).expect("a lock");
        let done = act();
        self.other.execute_batch("ROLLBACK").expect("no lock");
        done
    }
}
