//! What the skills of each source were listed with before. The words are the ledger's, 8 bytes each, little-endian.

use std::sync::Arc;

use rusqlite::types::{FromSql as _, ValueRef};
use rusqlite::{Connection, OptionalExtension as _, params};

use super::entry::Entry;
use super::record::{self, Record as _, invalid, record};
use super::statement::Statement;
use crate::ledger::SourceId;
use crate::ledger::continuity::ListingHistory;
use crate::ledger::records::{HistoryChange, HistoryRecord};

record! {
    "listing_history", key (source, skill_name), upsert UpsertHistory,
    struct HistoryRow {
        source: u64,
        skill_name: Arc<str>,
        words: Vec<u8>,
    }
}

pub(super) fn save(entry: &mut Entry, histories: &[HistoryRecord]) -> rusqlite::Result<()> {
    histories.iter().try_for_each(|HistoryRecord { source, skill_name, change }| match change {
        HistoryChange::Whole(words) => {
            let (source, skill_name) = (source.0, Arc::clone(skill_name));
            HistoryRow { source, skill_name, words: to_bytes(words) }.write(entry)
        }
        HistoryChange::Pushed(digests) => {
            entry.push(Statement::ExtendHistory, params![source.0, skill_name, to_bytes(digests)])
        }
    })
}

/// Adds digests to a history. The parameters are its key and the digests.
pub(super) fn extend(connection: &Connection, parameters: &[ValueRef<'_>]) -> rusqlite::Result<()> {
    let [source, skill_name, digests] = parameters else {
        return Err(invalid(format!(
            "{} parameters instead of the key and the digests of a history",
            parameters.len()
        )));
    };
    let (source, skill_name) = (u64::column_result(*source)?, skill_name.as_str()?);
    let mut select = connection.prepare_cached("SELECT * FROM listing_history WHERE source = ? AND skill_name = ?")?;
    let row = select.query_row(params![source, skill_name], HistoryRow::read).optional()?;
    let words = row.map(|row| to_words(skill_name, &row.words)).transpose()?;
    let digests = to_words(skill_name, digests.as_blob()?)?;
    let words = ListingHistory::extended(words.as_deref(), &digests)
        .ok_or_else(|| invalid(format!("the listing history of {skill_name:?} is impossible")))?;
    let mut upsert = connection.prepare_cached(HistoryRow::upsert())?;
    upsert.execute(params![source, skill_name, to_bytes(&words)]).map(drop)
}

fn to_bytes(words: &[u64]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

fn to_words(skill_name: &str, bytes: &[u8]) -> rusqlite::Result<Vec<u64>> {
    let (words, rest) = bytes.as_chunks::<8>();
    if !rest.is_empty() {
        return Err(invalid(format!("the listing history of {skill_name:?} ends in the middle of a word")));
    }
    Ok(words.iter().map(|word| u64::from_le_bytes(*word)).collect())
}

pub(super) fn load(connection: &Connection) -> rusqlite::Result<Vec<HistoryRecord>> {
    let record = |HistoryRow { source, skill_name, words }| {
        let change = HistoryChange::Whole(to_words(&skill_name, &words)?);
        Ok(HistoryRecord { source: SourceId(source), skill_name, change })
    };
    record::load(connection)?.into_iter().map(record).collect()
}
