//! The anomalies of each source, by what tells them apart.

use std::sync::Arc;

use rusqlite::{Connection, params};

use super::entry::Entry;
use super::record::{self, invalid, record};
use super::statement::Statement;
use crate::ledger::SourceId;
use crate::ledger::records::{AnomalyKey, AnomalyRecord};

record! {
    "anomaly", key (source, skill_name, anomaly_type, detected_at, score), upsert UpsertAnomaly,
    struct AnomalyRow {
        source: u64,
        skill_name: Arc<str>,
        anomaly_type: Arc<str>,
        detected_at: Arc<str>,
        score: String,
        multiplicity: u64,
        rows: u64,
        streamed: bool,
        seen_micros: i64,
    }
}

/// A key column cannot compare absent values, so that an absent time or score is the empty text, which no anomaly has.
fn key_columns(key: &AnomalyKey) -> (Arc<str>, String) {
    // The shortest text that is parsed as the same number.
    let score = key.score_bits.map_or_else(String::new, |bits| format!("{:?}", f64::from_bits(bits)));
    (key.detected_at.clone().unwrap_or_default(), score)
}

pub(super) fn save(entry: &mut Entry, anomalies: &[(AnomalyKey, Option<AnomalyRecord>)]) -> rusqlite::Result<()> {
    for (key, _) in anomalies.iter().filter(|(_, row)| row.is_none()) {
        let (detected_at, score) = key_columns(key);
        let key = params![key.source.0, key.skill_name, key.anomaly_type, detected_at, score];
        entry.push(Statement::DeleteAnomaly, key)?;
    }
    let remembered = anomalies.iter().filter_map(|(key, row)| row.map(|row| (key, row)));
    let records = remembered.map(|(key, AnomalyRecord { multiplicity, rows, streamed, seen_micros })| {
        let (detected_at, score) = key_columns(key);
        AnomalyRow {
            source: key.source.0,
            skill_name: Arc::clone(&key.skill_name),
            anomaly_type: Arc::clone(&key.anomaly_type),
            detected_at,
            score,
            multiplicity,
            rows,
            streamed,
            seen_micros,
        }
    });
    record::save(entry, records)
}

pub(super) fn load(connection: &Connection) -> rusqlite::Result<Vec<(AnomalyKey, Option<AnomalyRecord>)>> {
    let anomaly = |record: AnomalyRow| {
        let score_bits = match record.score.as_str() {
            "" => None,
            text => {
                let score = text.parse::<f64>().map_err(|error| invalid(format!("the score {text:?}: {error}")))?;
                Some(score.to_bits())
            }
        };
        let key = AnomalyKey {
            source: SourceId(record.source),
            skill_name: record.skill_name,
            anomaly_type: record.anomaly_type,
            detected_at: Some(record.detected_at).filter(|text| !text.is_empty()),
            score_bits,
        };
        let AnomalyRow { multiplicity, rows, streamed, seen_micros, .. } = record;
        Ok((key, Some(AnomalyRecord { multiplicity, rows, streamed, seen_micros })))
    };
    record::load(connection)?.into_iter().map(anomaly).collect()
}
