//! What the skills of each source were listed with before. The words are the ledger's: digests in their order, 8 bytes each,
//! little-endian.

use std::sync::Arc;

use rusqlite::Connection;

use super::record::{self, invalid, record};
use crate::ledger::SourceId;
use crate::ledger::records::HistoryRecord;

record! {
    "listing_history", key (source, skill_name),
    struct HistoryRow {
        source: u64,
        skill_name: Arc<str>,
        words: Vec<u8>,
    }
}

pub(super) fn save(connection: &Connection, histories: &[HistoryRecord]) -> rusqlite::Result<()> {
    let row = |HistoryRecord { source, skill_name, words }: &HistoryRecord| HistoryRow {
        source: source.0,
        skill_name: Arc::clone(skill_name),
        words: words.iter().flat_map(|word| word.to_le_bytes()).collect(),
    };
    record::save(connection, histories.iter().map(row))
}

pub(super) fn load(connection: &Connection) -> rusqlite::Result<Vec<HistoryRecord>> {
    let record = |HistoryRow { source, skill_name, words }| {
        let (words, rest) = words.as_chunks::<8>();
        if !rest.is_empty() {
            return Err(invalid(format!("the listing history of {skill_name:?} ends in the middle of a word")));
        }
        let words = words.iter().map(|word| u64::from_le_bytes(*word)).collect();
        Ok(HistoryRecord { source: SourceId(source), skill_name, words })
    };
    record::load(connection)?.into_iter().map(record).collect()
}
