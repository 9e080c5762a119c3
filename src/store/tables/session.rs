//! The sessions that a feed reported.

use std::sync::Arc;

use rusqlite::{Connection, params};

use super::record::{self, record};
use crate::ledger::memory::SessionRow;

record! {
    "session", key (feed, id),
    struct SessionRecord {
        feed: usize,
        id: Arc<str>,
        open: bool,
        seen_micros: i64,
    }
}

/// A session of a feed by its identifier; `None` where it is forgotten.
type Session = (usize, Arc<str>, Option<SessionRow>);

/// Deletes the sessions of the feeds `cleared` first.
pub(super) fn save(connection: &Connection, cleared: &[usize], sessions: &[Session]) -> rusqlite::Result<()> {
    let mut clear = connection.prepare_cached("DELETE FROM session WHERE feed = ?")?;
    cleared.iter().try_for_each(|feed| clear.execute([feed]).map(drop))?;
    let mut forget = connection.prepare_cached("DELETE FROM session WHERE feed = ? AND id = ?")?;
    for (feed, id, _) in sessions.iter().filter(|(.., row)| row.is_none()) {
        forget.execute(params![feed, id])?;
    }
    let records = sessions.iter().filter_map(|(feed, id, row)| {
        row.map(|SessionRow { open, seen_micros }| SessionRecord { feed: *feed, id: Arc::clone(id), open, seen_micros })
    });
    record::save(connection, records)
}

pub(super) fn load(connection: &Connection) -> rusqlite::Result<Vec<Session>> {
    let session = |SessionRecord { feed, id, open, seen_micros }| (feed, id, Some(SessionRow { open, seen_micros }));
    Ok(record::load(connection)?.into_iter().map(session).collect())
}
