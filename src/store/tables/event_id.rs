//! The identifiers of each source's latest events.

use std::sync::Arc;

use rusqlite::{Connection, params};

use super::entry::Entry;
use super::record::{self, record};
use super::statement::Statement;
use crate::ledger::records::{EventIdRecord, SourceRecord};
use crate::ledger::{FeedSlot, SourceId};

record! {
    "event_id", key (source, sequence), upsert UpsertEventId,
    struct EventIdRow {
        source: u64,
        sequence: u64,
        id: Arc<str>,
        sender: u32,
        sent_micros: Option<i64>,
    }
}

/// Adds identifiers, and deletes those that `sources` have forgotten.
pub(super) fn save(entry: &mut Entry, sources: &[SourceRecord], event_ids: &[EventIdRecord]) -> rusqlite::Result<()> {
    let mut forgetful = sources.iter().filter(|source| source.first_event_id > 0);
    forgetful
        .try_for_each(|source| entry.push(Statement::DeleteEventIds, params![source.id.0, source.first_event_id]))?;
    let rows = event_ids.iter().cloned().map(|record| {
        let EventIdRecord { source, sequence, id, sender, sent_micros } = record;
        EventIdRow { source: source.0, sequence, id, sender: sender.number(), sent_micros }
    });
    record::save(entry, rows)
}

/// Loads the identifiers of each source in the order of arrival.
pub(super) fn load(connection: &Connection) -> rusqlite::Result<Vec<EventIdRecord>> {
    let record = |EventIdRow { source, sequence, id, sender, sent_micros }| EventIdRecord {
        source: SourceId(source),
        sequence,
        id,
        sender: FeedSlot::from_number(sender),
        sent_micros,
    };
    Ok(record::load(connection)?.into_iter().map(record).collect())
}
