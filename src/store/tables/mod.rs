//! One file a table: how its rows are saved and loaded, side by side.

mod anomaly;
mod anomaly_count;
mod anomaly_tally;
mod counter;
mod detail;
mod detail_row;
mod event_id;
mod feed;
mod feed_skill;
mod phase;
mod record;
mod session;
mod skill;

use rusqlite::Connection;

use crate::ledger::memory::Memory;
use crate::ledger::{Changes, Whole};

pub(super) use feed::forget as forget_feed;

/// Writes new values over old ones.
pub(super) fn save(connection: &Connection, changes: &Changes) -> rusqlite::Result<()> {
    let Changes { skills, last_listed, feeds: _, anomalies: _, wall_micros: _, rules, memory } = changes;
    counter::save(connection, *rules)?;
    skill::save(connection, skills, last_listed)?;
    phase::save(connection, skills)?;
    anomaly_count::save(connection, skills)?;
    let Memory { feeds, feed_skills, tallies, anomalies, event_ids, sessions_cleared, sessions, details, marks } =
        memory;
    feed::save(connection, feeds)?;
    feed_skill::save(connection, feed_skills)?;
    anomaly_tally::save(connection, tallies)?;
    anomaly::save(connection, anomalies)?;
    event_id::save(connection, feeds, event_ids)?;
    session::save(connection, sessions_cleared, sessions)?;
    detail::save(connection, details)?;
    detail_row::save(connection, details, marks)
}

/// Everything. It is of one point in time if `connection` is in a transaction or nobody else writes.
pub(super) fn load(connection: &Connection) -> rusqlite::Result<Whole> {
    let mut skills = skill::load(connection)?;
    phase::load(connection, &mut skills)?;
    anomaly_count::load(connection, &mut skills)?;
    let memory = Memory {
        feeds: feed::load(connection)?,
        feed_skills: feed_skill::load(connection)?,
        tallies: anomaly_tally::load(connection)?,
        anomalies: anomaly::load(connection)?,
        event_ids: event_id::load(connection)?,
        sessions_cleared: Vec::new(),
        sessions: session::load(connection)?,
        details: detail::load(connection)?,
        marks: detail_row::load(connection)?,
    };
    Ok(Whole { skills, rules: counter::load(connection)?, memory })
}
