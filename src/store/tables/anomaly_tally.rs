//! How many anomalies of each skill and type a source reported.

use std::sync::Arc;

use rusqlite::Connection;

use super::entry::Entry;
use super::record::{self, record};
use crate::ledger::SourceId;
use crate::ledger::records::TallyRecord;

record! {
    "anomaly_tally", key (source, skill_name, anomaly_type), upsert UpsertTally,
    struct TallyRow {
        source: u64,
        skill_name: Arc<str>,
        anomaly_type: Arc<str>,
        listed: u64,
        streamed: u64,
        hidden: u64,
    }
}

pub(super) fn save(entry: &mut Entry, tallies: &[TallyRecord]) -> rusqlite::Result<()> {
    let rows = tallies.iter().cloned().map(|record| {
        let TallyRecord { source, skill_name, anomaly_type, listed, streamed, hidden } = record;
        TallyRow { source: source.0, skill_name, anomaly_type, listed, streamed, hidden }
    });
    record::save(entry, rows)
}

pub(super) fn load(connection: &Connection) -> rusqlite::Result<Vec<TallyRecord>> {
    let record = |TallyRow { source, skill_name, anomaly_type, listed, streamed, hidden }| TallyRecord {
        source: SourceId(source),
        skill_name,
        anomaly_type,
        listed,
        streamed,
        hidden,
    };
    Ok(record::load(connection)?.into_iter().map(record).collect())
}
