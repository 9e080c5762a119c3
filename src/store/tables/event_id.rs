//! The identifiers of a feed's latest events.

use std::sync::Arc;

use rusqlite::{Connection, params};

use super::record::{self, record};
use crate::ledger::memory::{EventIdRow, FeedRow};

record! {
    "event_id", key (feed, sequence),
    struct EventIdRecord {
        feed: usize,
        sequence: u64,
        id: Arc<str>,
        sent_micros: Option<i64>,
    }
}

/// Adds identifiers, and deletes those that `feeds` have forgotten.
pub(super) fn save(connection: &Connection, feeds: &[FeedRow], event_ids: &[EventIdRow]) -> rusqlite::Result<()> {
    let mut forget = connection.prepare_cached("DELETE FROM event_id WHERE feed = ? AND sequence < ?")?;
    feeds.iter().try_for_each(|feed| forget.execute(params![feed.place, feed.first_event_id]).map(drop))?;
    let records = event_ids.iter().cloned().map(|row| {
        let EventIdRow { feed, sequence, id, sent_micros } = row;
        EventIdRecord { feed, sequence, id, sent_micros }
    });
    record::save(connection, records)
}

/// Loads the identifiers of each feed in the order of arrival.
pub(super) fn load(connection: &Connection) -> rusqlite::Result<Vec<EventIdRow>> {
    let event_id = |EventIdRecord { feed, sequence, id, sent_micros }| EventIdRow { feed, sequence, id, sent_micros };
    Ok(record::load(connection)?.into_iter().map(event_id).collect())
}
