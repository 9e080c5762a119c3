//! One file a table: how its rows are saved and loaded, side by side.

mod address;
mod agreed;
mod anomaly;
mod anomaly_count;
mod anomaly_tally;
mod counter;
mod damage;
mod database;
mod event_id;
mod failure_count;
mod feed;
mod fingerprint;
pub(super) mod first_series;
mod listing_history;
mod phase;
mod record;
mod session;
mod skill;
mod source;
mod source_skill;

use rusqlite::Connection;

use crate::ledger::records::Records;
use crate::ledger::{Changes, LedgerState, RuleCounters};

pub use feed::Renamed;
pub(super) use feed::rename as rename_feed;
pub(super) use source::forget as forget_source;

/// Writes new values over old ones. `saved_rules` are the counters of the commit before, if there was one.
pub(super) fn save(
    connection: &Connection,
    changes: &Changes,
    saved_rules: Option<RuleCounters>,
) -> rusqlite::Result<()> {
    let Changes { sequence: _, skills, last_listed, feeds: _, anomalies: _, wall_micros, rules, memory } = changes;
    counter::save(connection, *rules, saved_rules)?;
    first_series::save(connection, skills, *wall_micros)?;
    skill::save(connection, skills, last_listed)?;
    phase::save(connection, skills)?;
    anomaly_count::save(connection, skills)?;
    failure_count::save(connection, skills)?;
    let Records {
        sources_removed,
        agreed_cleared,
        damages_cleared,
        sessions_cleared,
        feeds,
        agreed,
        addresses,
        sources,
        skills,
        histories,
        damages,
        tallies,
        anomalies,
        event_ids,
        sessions,
        databases,
        fingerprints,
    } = memory;
    source::save(connection, sources_removed, sources)?;
    feed::save(connection, feeds)?;
    agreed::save(connection, agreed_cleared, agreed)?;
    address::save(connection, addresses)?;
    source_skill::save(connection, skills)?;
    listing_history::save(connection, histories)?;
    damage::save(connection, damages_cleared, damages)?;
    anomaly_tally::save(connection, tallies)?;
    anomaly::save(connection, anomalies)?;
    event_id::save(connection, sources, event_ids)?;
    session::save(connection, sessions_cleared, sessions)?;
    database::save(connection, databases)?;
    fingerprint::save(connection, databases, fingerprints)
}

/// Everything. It is of one point in time if `connection` is in a transaction or nobody else writes.
pub(super) fn load(connection: &Connection) -> rusqlite::Result<LedgerState> {
    let mut skills = skill::load(connection)?;
    phase::load(connection, &mut skills)?;
    anomaly_count::load(connection, &mut skills)?;
    failure_count::load(connection, &mut skills)?;
    let memory = Records {
        feeds: feed::load(connection)?,
        agreed: agreed::load(connection)?,
        addresses: address::load(connection)?,
        sources: source::load(connection)?,
        skills: source_skill::load(connection)?,
        histories: listing_history::load(connection)?,
        damages: damage::load(connection)?,
        tallies: anomaly_tally::load(connection)?,
        anomalies: anomaly::load(connection)?,
        event_ids: event_id::load(connection)?,
        sessions: session::load(connection)?,
        databases: database::load(connection)?,
        fingerprints: fingerprint::load(connection)?,
        ..Records::default()
    };
    Ok(LedgerState { skills, rules: counter::load(connection)?, memory })
}
