//! What feeds and their sources had in common, by skill.

use std::sync::Arc;

use rusqlite::{Connection, params};

use super::entry::Entry;
use super::record::{self, record};
use super::statement::Statement;
use crate::ledger::FeedSlot;
use crate::ledger::evidence::Totals;
use crate::ledger::records::AgreedRecord;

record! {
    "agreed", key (feed, skill_name), upsert UpsertAgreed,
    struct AgreedRow {
        feed: u32,
        skill_name: Arc<str>,
        total: u64,
        completed: u64,
        split_is_exact: bool,
        duration_sum: Option<f64>,
    }
}

/// Deletes those of the feeds `cleared` first.
pub(super) fn save(entry: &mut Entry, cleared: &[FeedSlot], agreed: &[AgreedRecord]) -> rusqlite::Result<()> {
    cleared.iter().try_for_each(|feed| entry.push(Statement::ClearAgreed, params![feed.number()]))?;
    let row = |AgreedRecord { feed, skill_name, totals }: &AgreedRecord| {
        let Totals { total, completed, split_is_exact, duration_sum } = *totals;
        let (feed, skill_name) = (feed.number(), Arc::clone(skill_name));
        AgreedRow { feed, skill_name, total, completed, split_is_exact, duration_sum }
    };
    record::save(entry, agreed.iter().map(row))
}

pub(super) fn load(connection: &Connection) -> rusqlite::Result<Vec<AgreedRecord>> {
    let record = |AgreedRow { feed, skill_name, total, completed, split_is_exact, duration_sum }| AgreedRecord {
        feed: FeedSlot::from_number(feed),
        skill_name,
        totals: Totals { total, completed, split_is_exact, duration_sum },
    };
    Ok(record::load(connection)?.into_iter().map(record).collect())
}
