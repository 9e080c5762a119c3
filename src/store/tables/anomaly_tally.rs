//! How many anomalies of each skill and type a feed reported.

use std::sync::Arc;

use rusqlite::Connection;

use super::record::{self, record};
use crate::ledger::memory::TallyRow;

record! {
    "anomaly_tally", key (feed, skill_name, anomaly_type),
    struct TallyRecord {
        feed: usize,
        skill_name: Arc<str>,
        anomaly_type: Arc<str>,
        listed: u64,
        streamed: u64,
        before: u64,
    }
}

pub(super) fn save(connection: &Connection, tallies: &[TallyRow]) -> rusqlite::Result<()> {
    let records = tallies.iter().cloned().map(|row| {
        let TallyRow { feed, skill_name, anomaly_type, listed, streamed, before } = row;
        TallyRecord { feed, skill_name, anomaly_type, listed, streamed, before }
    });
    record::save(connection, records)
}

pub(super) fn load(connection: &Connection) -> rusqlite::Result<Vec<TallyRow>> {
    let tally = |TallyRecord { feed, skill_name, anomaly_type, listed, streamed, before }| TallyRow {
        feed,
        skill_name,
        anomaly_type,
        listed,
        streamed,
        before,
    };
    Ok(record::load(connection)?.into_iter().map(tally).collect())
}
