//! The journal of a state file, as tests see it.

use rusqlite::Connection;
use session_buddy_bridge::internals::ledger::records::{AnomalyKey, Records};
use session_buddy_bridge::internals::ledger::{Changes, RuleCounters, SourceId};
use session_buddy_bridge::internals::store::Store;

/// Slots for entries, behind the head.
pub const SLOTS: usize = 63;

/// What a slot takes of an entry, in bytes.
pub const PART_BYTES: usize = 966;

/// Returns the sequence number of the head, which each application to the tables increases.
pub fn applied(state: &Connection) -> u64 {
    sequences(state)[0]
}

/// Returns how many slots the tables do not have yet.
pub fn pending_slots(state: &Connection) -> usize {
    let sequences = sequences(state);
    sequences.iter().filter(|sequence| **sequence > sequences[0]).count()
}

/// The sequence number of each slot, that of the head first.
fn sequences(state: &Connection) -> Vec<u64> {
    let mut slots = state.prepare_cached("SELECT content FROM journal ORDER BY slot").expect("a journal");
    let sequence = |content: Vec<u8>| u64::from_le_bytes(content[8..16].try_into().expect("eight bytes"));
    let sequences = slots.query_map([], |row| row.get(0).map(sequence)).expect("slots");
    sequences.map(|sequence| sequence.expect("a slot")).collect()
}

/// Changes of nothing that take so many bytes of the journal, and up to 300 more. `rules` are those of the ledger.
pub fn filler(rules: RuleCounters, bytes: usize) -> Changes {
    let nothing = AnomalyKey {
        source: SourceId(1 << 40),
        skill_name: "x".repeat(bytes).into(),
        anomaly_type: "drop".into(),
        detected_at: None,
        score_bits: None,
    };
    Changes { rules, memory: Records { anomalies: vec![(nothing, None)], ..Records::default() }, ..Changes::default() }
}

/// Fills the journal of `store`, which `state` is another connection to: the next commit is written to the tables. `rules` are
/// those of the ledger.
pub fn fill(state: &Connection, store: &mut Store, rules: RuleCounters) {
    let room = SLOTS - pending_slots(state);
    if room > 0 {
        store.commit(&filler(rules, room * PART_BYTES - 400)).expect("it is journaled");
    }
    assert_eq!(pending_slots(state), SLOTS, "the journal is full");
}
