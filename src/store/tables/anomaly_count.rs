//! The series of each skill's anomalies.

use std::sync::Arc;

use rusqlite::Connection;

use super::entry::Entry;
use super::record::{self, record};
use super::skill;
use crate::ledger::{AnomalySeries, SharedLabels, SkillRow};

record! {
    "anomaly_count", key (skill, position), upsert UpsertAnomalyCount,
    struct AnomalyCountRecord {
        skill: u32,
        position: usize,
        anomaly_type: Arc<str>,
        count: u64,
        born_micros: Option<i64>,
    }
}

pub(super) fn save(entry: &mut Entry, skills: &[SkillRow]) -> rusqlite::Result<()> {
    let series = skills.iter().flat_map(|row| row.series.anomalies.iter().enumerate().map(|one| (row.index.0, one)));
    let records = series.map(|(skill, (position, AnomalySeries { anomaly_type, count, born_micros }))| {
        let anomaly_type = Arc::clone(anomaly_type);
        AnomalyCountRecord { skill, position, anomaly_type, count: *count, born_micros: *born_micros }
    });
    record::save(entry, records)
}

/// Adds the numbers of anomalies to `skills`.
pub(super) fn load(connection: &Connection, skills: &mut [SkillRow]) -> rusqlite::Result<()> {
    let mut labels = SharedLabels::default();
    for record in record::load::<AnomalyCountRecord>(connection)? {
        let AnomalyCountRecord { skill, position: _, anomaly_type, count, born_micros } = record;
        skill::series(skills, skill)?.anomalies.push(AnomalySeries {
            anomaly_type: labels.share(&anomaly_type),
            count,
            born_micros,
        });
    }
    Ok(())
}
