//! What is remembered of each source's skills.

use std::sync::Arc;

use rusqlite::Connection;

use super::entry::Entry;
use super::record::{self, Json, record};
use crate::ledger::evidence::Totals;
use crate::ledger::records::{PendingRecord, SkillRowsRecord, SourceSkillRecord, UncoveredRows, unless_default};
use crate::ledger::{SkillIndex, SourceId};

record! {
    "source_skill", key (source, skill_name), upsert UpsertSourceSkill,
    struct SourceSkillRow {
        source: u64,
        skill_name: Arc<str>,
        skill: u32,
        listed: bool,
        total: Option<u64>,
        completed: Option<u64>,
        split_is_exact: Option<bool>,
        duration_sum: Option<f64>,
        counted: u64,
        gauge_total: Option<f64>,
        gauge_completed: Option<f64>,
        gauge_rate_percent: Option<f64>,
        streamed_rate: Option<f64>,
        credit_completed: u64,
        credit_abandoned: u64,
        credit_duration_sum: Option<f64>,
        pending: Json<PendingRecord>,
        rows_counted_completed: u64,
        rows_counted_abandoned: u64,
        rows_uncounted_completed: u64,
        rows_uncounted_abandoned: u64,
        rows_are_history: bool,
        uncovered_completed: u64,
        uncovered_abandoned: u64,
        row_seconds: Option<f64>,
        disagrees: bool,
        uncovered_rows: Option<Json<Box<UncoveredRows>>>,
    }
}

impl From<&SourceSkillRecord> for SourceSkillRow {
    fn from(record: &SourceSkillRecord) -> Self {
        let remembered = record.remembered.as_ref();
        let pending = record.pending.as_deref().cloned().unwrap_or_default();
        let SkillRowsRecord { counted, uncounted, are_history, uncovered, uncovered_rows } =
            record.rows.as_deref().cloned().unwrap_or_default();
        Self {
            source: record.source.0,
            skill_name: Arc::clone(&record.skill_name),
            skill: record.series.0,
            listed: record.listed,
            total: remembered.map(|totals| totals.total),
            completed: remembered.map(|totals| totals.completed),
            split_is_exact: remembered.map(|totals| totals.split_is_exact),
            duration_sum: remembered.and_then(|totals| totals.duration_sum),
            counted: record.counted,
            gauge_total: record.gauge.map(|(total, _, _)| total),
            gauge_completed: record.gauge.map(|(_, completed, _)| completed),
            gauge_rate_percent: record.gauge.map(|(_, _, rate_percent)| rate_percent),
            streamed_rate: record.streamed_rate,
            credit_completed: record.credit.0,
            credit_abandoned: record.credit.1,
            credit_duration_sum: record.credit_duration_sum,
            pending: Json(pending),
            rows_counted_completed: counted.0,
            rows_counted_abandoned: counted.1,
            rows_uncounted_completed: uncounted.0,
            rows_uncounted_abandoned: uncounted.1,
            rows_are_history: are_history,
            uncovered_completed: uncovered.0,
            uncovered_abandoned: uncovered.1,
            row_seconds: record.row_seconds,
            disagrees: record.disagrees,
            uncovered_rows: uncovered_rows.map(Json),
        }
    }
}

impl From<SourceSkillRow> for SourceSkillRecord {
    fn from(row: SourceSkillRow) -> Self {
        let remembered = match (row.total, row.completed, row.split_is_exact) {
            (Some(total), Some(completed), Some(split_is_exact)) => {
                Some(Totals { total, completed, split_is_exact, duration_sum: row.duration_sum })
            }
            _ => None,
        };
        let gauge = row.gauge_total.zip(row.gauge_completed).zip(row.gauge_rate_percent);
        Self {
            source: SourceId(row.source),
            skill_name: row.skill_name,
            series: SkillIndex(row.skill),
            remembered,
            counted: row.counted,
            listed: row.listed,
            gauge: gauge.map(|((total, completed), rate_percent)| (total, completed, rate_percent)),
            streamed_rate: row.streamed_rate,
            credit: (row.credit_completed, row.credit_abandoned),
            credit_duration_sum: row.credit_duration_sum,
            pending: unless_default(row.pending.0),
            row_seconds: row.row_seconds,
            rows: unless_default(SkillRowsRecord {
                counted: (row.rows_counted_completed, row.rows_counted_abandoned),
                uncounted: (row.rows_uncounted_completed, row.rows_uncounted_abandoned),
                are_history: row.rows_are_history,
                uncovered: (row.uncovered_completed, row.uncovered_abandoned),
                uncovered_rows: row.uncovered_rows.map(|rows| rows.0),
            }),
            disagrees: row.disagrees,
        }
    }
}

pub(super) fn save(entry: &mut Entry, skills: &[SourceSkillRecord]) -> rusqlite::Result<()> {
    record::save(entry, skills.iter().map(SourceSkillRow::from))
}

pub(super) fn load(connection: &Connection) -> rusqlite::Result<Vec<SourceSkillRecord>> {
    Ok(record::load::<SourceSkillRow>(connection)?.into_iter().map(SourceSkillRecord::from).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_skill_whose_rows_are_read_needs_no_record_of_its_rows() {
        let record = SourceSkillRecord {
            source: SourceId(1),
            skill_name: "skill".into(),
            series: SkillIndex(0),
            remembered: None,
            counted: 1,
            listed: true,
            gauge: None,
            streamed_rate: None,
            credit: (0, 0),
            credit_duration_sum: None,
            pending: None,
            row_seconds: Some(1.5),
            rows: None,
            disagrees: false,
        };
        assert_eq!(SourceSkillRecord::from(SourceSkillRow::from(&record)), record);
    }
}
