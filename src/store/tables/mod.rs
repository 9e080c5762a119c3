//! One file a table: how its rows are saved and loaded, side by side.

mod address;
mod agreed;
mod anomaly;
mod anomaly_count;
mod anomaly_tally;
mod counter;
mod damage;
mod database;
mod entry;
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
mod statement;

use rusqlite::Connection;

use crate::ledger::records::Records;
use crate::ledger::{Changes, LedgerState, RuleCounters};

pub(super) use entry::Entry;
pub use feed::Renamed;
pub(super) use feed::rename as rename_feed;
pub(super) use source::forget as forget_source;

/// Adds the statements of one table.
type Save<'c> = dyn Fn(&mut Entry) -> rusqlite::Result<()> + 'c;

/// Adds the statements that write new values over old ones to `entry`, all but that of [`first_series::save`]. `saved_rules` are the
/// counters of the commit before, if there was one.
pub(super) fn save(entry: &mut Entry, changes: &Changes, saved_rules: Option<RuleCounters>) -> rusqlite::Result<()> {
    let Changes { sequence: _, skills: rows, last_listed, feeds: _, anomalies: _, wall_micros: _, rules, memory } =
        changes;
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
    let tables: [&Save<'_>; 18] = [
        &|entry| counter::save(entry, *rules, saved_rules),
        &|entry| skill::save(entry, rows, last_listed),
        &|entry| phase::save(entry, rows),
        &|entry| anomaly_count::save(entry, rows),
        &|entry| failure_count::save(entry, rows),
        &|entry| source::save(entry, sources_removed, sources),
        &|entry| feed::save(entry, feeds),
        &|entry| agreed::save(entry, agreed_cleared, agreed),
        &|entry| address::save(entry, addresses),
        &|entry| source_skill::save(entry, skills),
        &|entry| listing_history::save(entry, histories),
        &|entry| damage::save(entry, damages_cleared, damages),
        &|entry| anomaly_tally::save(entry, tallies),
        &|entry| anomaly::save(entry, anomalies),
        &|entry| event_id::save(entry, sources, event_ids),
        &|entry| session::save(entry, sessions_cleared, sessions),
        &|entry| database::save(entry, databases),
        &|entry| fingerprint::save(entry, databases, fingerprints),
    ];
    tables.iter().try_for_each(|save| save(entry))
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
