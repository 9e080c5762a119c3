//! The anomalies of each source, by what tells them apart.

use std::sync::Arc;

use rusqlite::{Connection, params};

use super::record::{self, invalid, record};
use crate::ledger::SourceId;
use crate::ledger::records::{AnomalyKey, AnomalyRecord};

record! {
    "anomaly", key (source, skill_name, anomaly_type, detected_at, score),
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

pub(super) fn save(connection: &Connection, anomalies: &[(AnomalyKey, Option<AnomalyRecord>)]) -> rusqlite::Result<()> {
    let mut forget = connection.prepare_cached(
        "DELETE FROM anomaly WHERE source = ? AND skill_name = ? AND anomaly_type = ? AND detected_at = ? AND score = ?",
    )?;
    for (key, _) in anomalies.iter().filter(|(_, row)| row.is_none()) {
        let (detected_at, score) = key_columns(key);
        forget.execute(params![key.source.0, key.skill_name, key.anomaly_type, detected_at, score])?;
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
    record::save(connection, records)
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
