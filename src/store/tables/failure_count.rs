//! The series of each skill's failures.

use std::sync::Arc;

use rusqlite::Connection;

use super::entry::Entry;
use super::record::{self, record};
use super::skill;
use crate::ledger::{FailureSeries, SharedLabels, SkillRow};

record! {
    "failure_count", key (skill, position), upsert UpsertFailureCount,
    struct FailureCountRecord {
        skill: u32,
        position: usize,
        error_type: Arc<str>,
        count: u64,
        born_micros: Option<i64>,
    }
}

pub(super) fn save(entry: &mut Entry, skills: &[SkillRow]) -> rusqlite::Result<()> {
    let series = skills.iter().flat_map(|row| row.series.failures.iter().enumerate().map(|one| (row.index.0, one)));
    let records = series.map(|(skill, (position, FailureSeries { error_type, count, born_micros }))| {
        let error_type = Arc::clone(error_type);
        FailureCountRecord { skill, position, error_type, count: *count, born_micros: *born_micros }
    });
    record::save(entry, records)
}

/// Adds the numbers of failures to `skills`.
pub(super) fn load(connection: &Connection, skills: &mut [SkillRow]) -> rusqlite::Result<()> {
    let mut labels = SharedLabels::default();
    for record in record::load::<FailureCountRecord>(connection)? {
        let FailureCountRecord { skill, position: _, error_type, count, born_micros } = record;
        skill::series(skills, skill)?.failures.push(FailureSeries {
            error_type: labels.share(&error_type),
            count,
            born_micros,
        });
    }
    Ok(())
}
