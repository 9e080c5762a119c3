//! A state in memory, which outlives the bridges that write it.

use std::cell::OnceCell;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use rusqlite::{Connection, OpenFlags};
use session_buddy_bridge::internals::ledger::{Changes, LedgerState};
use session_buddy_bridge::internals::store::Store;

use super::journal;

/// A state in memory. It ends with this and the last store on it.
pub struct MemoryState {
    name: String,
    /// Another one who has it open: so that it lives, and to make commits fail.
    other: Connection,
    /// What each slot of the journal holds that was never written to.
    unused_slot: OnceCell<Vec<u8>>,
}

impl MemoryState {
    /// An empty one.
    pub fn new() -> Self {
        static STATES: AtomicU64 = AtomicU64::new(0);
        let name = format!("file:state-{}?mode=memory&cache=shared", STATES.fetch_add(1, Ordering::Relaxed));
        Self { other: Self::connect(&name), name, unused_slot: OnceCell::new() }
    }

    fn connect(name: &str) -> Connection {
        Connection::open_with_flags(name, OpenFlags::default()).expect("a database in memory")
    }

    pub fn open(&self) -> (Store, LedgerState) {
        let opened = Store::on(Self::connect(&self.name), Path::new(&self.name), LedgerState::validated);
        let opened = opened.unwrap_or_else(|error| panic!("{error}"));
        let query = "SELECT content FROM journal WHERE slot = 1";
        self.unused_slot.get_or_init(|| self.other.query_row(query, [], |row| row.get(0)).expect("a journal"));
        opened
    }

    /// Returns how many slots of the journal the tables do not have yet.
    pub fn pending_slots(&self) -> usize {
        journal::pending_slots(&self.other)
    }

    /// Returns the sequence number up to which the tables have what was journaled.
    pub fn applied(&self) -> u64 {
        journal::applied(&self.other)
    }

    /// Forgets everything: that is faster than to begin another state.
    pub fn wipe(&self) {
        let tables = self.other.prepare_cached(
            "SELECT format('DELETE FROM %s;', name) FROM sqlite_schema WHERE type = 'table' AND name <> 'journal'",
        );
        let wipes = tables
            .and_then(|mut tables| tables.query_map([], |row| row.get::<_, String>(0))?.collect::<Result<String, _>>());
        self.other.execute_batch(&wipes.expect("tables")).expect("no table is locked");
        if let Some(unused) = self.unused_slot.get() {
            self.other.execute("UPDATE journal SET content = ?", [unused]).expect("no table is locked");
        }
    }

    /// Commits while somebody else has `table` locked, to the tables unless it is that of the journal. Returns whether it was
    /// committed.
    pub fn commit_against(&self, table: &str, store: &mut Store, changes: &Changes) -> bool {
        if table != "journal" {
            let rules = self.open().1.rules;
            journal::fill(&self.other, store, rules);
        }
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
