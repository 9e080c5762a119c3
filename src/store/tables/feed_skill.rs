//! What is remembered of each feed's skills.

use std::sync::Arc;

use rusqlite::Connection;

use super::record::{self, Json, record};
use crate::ledger::SkillIndex;
use crate::ledger::memory::{FeedSkillRow, RememberedRow, WaitingRow};

record! {
    "feed_skill", key (feed, skill_name),
    struct FeedSkillRecord {
        feed: usize,
        skill_name: Arc<str>,
        skill: u32,
        listed: bool,
        total: Option<u64>,
        completed: Option<u64>,
        split_is_exact: Option<bool>,
        duration_sum: Option<f64>,
        gauge_total: Option<f64>,
        gauge_completed: Option<f64>,
        gauge_rate_percent: Option<f64>,
        streamed_rate: Option<f64>,
        credit_completed: u64,
        credit_abandoned: u64,
        credit_duration_sum: Option<f64>,
        waiting: Json<WaitingRow>,
        rows_counted_completed: u64,
        rows_counted_abandoned: u64,
        disagrees: bool,
    }
}

impl From<&FeedSkillRow> for FeedSkillRecord {
    fn from(row: &FeedSkillRow) -> Self {
        let remembered = row.remembered.as_ref();
        Self {
            feed: row.feed,
            skill_name: Arc::clone(&row.skill_name),
            skill: row.series.0,
            listed: row.listed,
            total: remembered.map(|numbers| numbers.total),
            completed: remembered.map(|numbers| numbers.completed),
            split_is_exact: remembered.map(|numbers| numbers.split_is_exact),
            duration_sum: remembered.and_then(|numbers| numbers.duration_sum),
            gauge_total: row.gauge.map(|(total, _, _)| total),
            gauge_completed: row.gauge.map(|(_, completed, _)| completed),
            gauge_rate_percent: row.gauge.map(|(_, _, rate_percent)| rate_percent),
            streamed_rate: row.streamed_rate,
            credit_completed: row.credit.0,
            credit_abandoned: row.credit.1,
            credit_duration_sum: row.credit_duration_sum,
            waiting: Json(row.waiting.clone()),
            rows_counted_completed: row.rows_counted.0,
            rows_counted_abandoned: row.rows_counted.1,
            disagrees: row.disagrees,
        }
    }
}

impl From<FeedSkillRecord> for FeedSkillRow {
    fn from(record: FeedSkillRecord) -> Self {
        let remembered = match (record.total, record.completed, record.split_is_exact) {
            (Some(total), Some(completed), Some(split_is_exact)) => {
                Some(RememberedRow { total, completed, split_is_exact, duration_sum: record.duration_sum })
            }
            _ => None,
        };
        let gauge = record.gauge_total.zip(record.gauge_completed).zip(record.gauge_rate_percent);
        Self {
            feed: record.feed,
            skill_name: record.skill_name,
            series: SkillIndex(record.skill),
            listed: record.listed,
            remembered,
            gauge: gauge.map(|((total, completed), rate_percent)| (total, completed, rate_percent)),
            streamed_rate: record.streamed_rate,
            credit: (record.credit_completed, record.credit_abandoned),
            credit_duration_sum: record.credit_duration_sum,
            waiting: record.waiting.0,
            rows_counted: (record.rows_counted_completed, record.rows_counted_abandoned),
            disagrees: record.disagrees,
        }
    }
}

pub(super) fn save(connection: &Connection, skills: &[FeedSkillRow]) -> rusqlite::Result<()> {
    record::save(connection, skills.iter().map(FeedSkillRecord::from))
}

pub(super) fn load(connection: &Connection) -> rusqlite::Result<Vec<FeedSkillRow>> {
    Ok(record::load::<FeedSkillRecord>(connection)?.into_iter().map(FeedSkillRow::from).collect())
}
