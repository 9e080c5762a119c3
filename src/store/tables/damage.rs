//! The states of sources before their last damages, by skill.

use std::sync::Arc;

use rusqlite::{Connection, params};

use super::entry::Entry;
use super::record::{self, record};
use super::statement::Statement;
use crate::ledger::SourceId;
use crate::ledger::evidence::Totals;
use crate::ledger::records::DamageRecord;

record! {
    "damage", key (source, damage, skill_name), upsert UpsertDamage,
    struct DamageRow {
        source: u64,
        damage: usize,
        skill_name: Arc<str>,
        total: u64,
        completed: u64,
        split_is_exact: bool,
        duration_sum: Option<f64>,
    }
}

/// Deletes those of the sources `cleared` first.
pub(super) fn save(entry: &mut Entry, cleared: &[SourceId], damages: &[DamageRecord]) -> rusqlite::Result<()> {
    cleared.iter().try_for_each(|source| entry.push(Statement::ClearDamages, params![source.0]))?;
    let row = |DamageRecord { source, damage, skill_name, totals }: &DamageRecord| {
        let Totals { total, completed, split_is_exact, duration_sum } = *totals;
        let (source, skill_name) = (source.0, Arc::clone(skill_name));
        DamageRow { source, damage: *damage, skill_name, total, completed, split_is_exact, duration_sum }
    };
    record::save(entry, damages.iter().map(row))
}

pub(super) fn load(connection: &Connection) -> rusqlite::Result<Vec<DamageRecord>> {
    let record = |DamageRow { source, damage, skill_name, total, completed, split_is_exact, duration_sum }| {
        let totals = Totals { total, completed, split_is_exact, duration_sum };
        DamageRecord { source: SourceId(source), damage, skill_name, totals }
    };
    Ok(record::load(connection)?.into_iter().map(record).collect())
}
