//! The sessions that the servers of each source reported.

use std::sync::Arc;

use rusqlite::{Connection, params};

use super::record::{self, record};
use crate::ledger::SourceId;
use crate::ledger::records::SessionRecord;

record! {
    "session", key (source, id),
    struct SessionRow {
        source: u64,
        id: Arc<str>,
        open: bool,
        seen_micros: i64,
    }
}

/// A session of a source by its identifier; `None` where it is forgotten.
type Session = (SourceId, Arc<str>, Option<SessionRecord>);

/// Deletes the sessions of the sources `cleared` first.
pub(super) fn save(connection: &Connection, cleared: &[SourceId], sessions: &[Session]) -> rusqlite::Result<()> {
    let mut clear = connection.prepare_cached("DELETE FROM session WHERE source = ?")?;
    cleared.iter().try_for_each(|source| clear.execute([source.0]).map(drop))?;
    let mut forget = connection.prepare_cached("DELETE FROM session WHERE source = ? AND id = ?")?;
    for (source, id, _) in sessions.iter().filter(|(.., record)| record.is_none()) {
        forget.execute(params![source.0, id])?;
    }
    let rows = sessions.iter().filter_map(|(source, id, record)| {
        let row = |SessionRecord { open, seen_micros }| SessionRow {
            source: source.0,
            id: Arc::clone(id),
            open,
            seen_micros,
        };
        record.map(row)
    });
    record::save(connection, rows)
}

pub(super) fn load(connection: &Connection) -> rusqlite::Result<Vec<Session>> {
    let session = |SessionRow { source, id, open, seen_micros }| {
        (SourceId(source), id, Some(SessionRecord { open, seen_micros }))
    };
    Ok(record::load(connection)?.into_iter().map(session).collect())
}
