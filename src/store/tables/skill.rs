//! Skills with series. Their phases, anomalies and failures have tables of their own.

use std::sync::Arc;

use rusqlite::{Connection, params};

use super::entry::Entry;
use super::record::{self, invalid, record};
use super::statement::Statement;
use crate::ledger::{SkillIndex, SkillRow, SkillSeries};

record! {
    "skill", key (place), constant (skill_name), upsert UpsertSkill,
    struct SkillRecord {
        place: u32,
        skill_name: Arc<str>,
        completion_rate: Option<f64>,
        last_listed_micros: i64,
        last_invoked_micros: Option<i64>,
    }
}

/// Saves the skills themselves, and when others were last listed.
pub(super) fn save(entry: &mut Entry, skills: &[SkillRow], last_listed: &[(SkillIndex, i64)]) -> rusqlite::Result<()> {
    let records = skills.iter().map(|SkillRow { index, series, last_listed_micros }| SkillRecord {
        place: index.0,
        skill_name: Arc::clone(&series.skill_name),
        completion_rate: series.completion_rate,
        last_listed_micros: *last_listed_micros,
        last_invoked_micros: series.last_invoked_micros,
    });
    record::save(entry, records)?;
    let mut listed = last_listed.iter();
    listed.try_for_each(|(SkillIndex(place), micros)| entry.push(Statement::ListSkill, params![micros, place]))
}

/// Loads the skills themselves, in the order of their places.
pub(super) fn load(connection: &Connection) -> rusqlite::Result<Vec<SkillRow>> {
    let skill = |SkillRecord { place, skill_name, completion_rate, last_listed_micros, last_invoked_micros }| {
        let series = SkillSeries { completion_rate, last_invoked_micros, ..SkillSeries::new(skill_name) };
        SkillRow { index: SkillIndex(place), series, last_listed_micros }
    };
    Ok(record::load(connection)?.into_iter().map(skill).collect())
}

/// The series of the skill at `place` among `skills`, which have no gaps.
pub(super) fn series(skills: &mut [SkillRow], place: u32) -> rusqlite::Result<&mut SkillSeries> {
    let row = skills.get_mut(place as usize);
    row.map(|row| &mut row.series).ok_or_else(|| invalid(format!("there is no skill at the place {place}")))
}
