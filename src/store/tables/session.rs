//! The sessions that the server of each feed reported.

use std::sync::Arc;

use rusqlite::{Connection, params};

use super::entry::Entry;
use super::record::{self, record};
use super::statement::Statement;
use crate::ledger::FeedSlot;
use crate::ledger::records::SessionRecord;

record! {
    "session", key (feed, id), upsert UpsertSession,
    struct SessionRow {
        feed: u32,
        id: Arc<str>,
        open: bool,
        seen_micros: i64,
    }
}

/// A session of a feed's server by its identifier; `None` where it is forgotten.
type Session = (FeedSlot, Arc<str>, Option<SessionRecord>);

/// Deletes the sessions of the feeds `cleared` first.
pub(super) fn save(entry: &mut Entry, cleared: &[FeedSlot], sessions: &[Session]) -> rusqlite::Result<()> {
    cleared.iter().try_for_each(|feed| entry.push(Statement::ClearSessions, params![feed.number()]))?;
    for (feed, id, _) in sessions.iter().filter(|(.., record)| record.is_none()) {
        entry.push(Statement::DeleteSession, params![feed.number(), id])?;
    }
    let rows = sessions.iter().filter_map(|(feed, id, record)| {
        let row = |SessionRecord { open, seen_micros }| SessionRow {
            feed: feed.number(),
            id: Arc::clone(id),
            open,
            seen_micros,
        };
        record.map(row)
    });
    record::save(entry, rows)
}

pub(super) fn load(connection: &Connection) -> rusqlite::Result<Vec<Session>> {
    let session = |SessionRow { feed, id, open, seen_micros }| {
        (FeedSlot::from_number(feed), id, Some(SessionRecord { open, seen_micros }))
    };
    Ok(record::load(connection)?.into_iter().map(session).collect())
}
