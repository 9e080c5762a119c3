//! The series of each skill's phases.

use std::sync::Arc;

use rusqlite::Connection;

use super::entry::Entry;
use super::record::{self, Json, record};
use super::skill;
use crate::ledger::{DURATION_BUCKETS_SECONDS, Histogram, PhaseSeries, SharedLabels, SkillRow};

record! {
    "phase", key (skill, position), upsert UpsertPhase,
    struct PhaseRecord {
        skill: u32,
        position: usize,
        workflow_phase: Arc<str>,
        completed: u64,
        abandoned: u64,
        duration_buckets: Json<[u64; DURATION_BUCKETS_SECONDS.len() + 1]>,
        duration_sum: f64,
        born_micros: Option<i64>,
    }
}

pub(super) fn save(entry: &mut Entry, skills: &[SkillRow]) -> rusqlite::Result<()> {
    let phases = skills.iter().flat_map(|row| row.series.phases.iter().enumerate().map(|phase| (row.index.0, phase)));
    let records = phases.map(|(skill, (position, phase))| {
        let PhaseSeries { workflow_phase, completed, abandoned, durations, born_micros, exemplar: _ } = phase;
        PhaseRecord {
            skill,
            position,
            workflow_phase: Arc::clone(workflow_phase),
            completed: *completed,
            abandoned: *abandoned,
            duration_buckets: Json(durations.buckets),
            duration_sum: durations.sum,
            born_micros: *born_micros,
        }
    });
    record::save(entry, records)
}

/// Adds the phases to `skills`.
pub(super) fn load(connection: &Connection, skills: &mut [SkillRow]) -> rusqlite::Result<()> {
    let mut labels = SharedLabels::default();
    for record in record::load::<PhaseRecord>(connection)? {
        skill::series(skills, record.skill)?.phases.push(PhaseSeries {
            workflow_phase: labels.share(&record.workflow_phase),
            completed: record.completed,
            abandoned: record.abandoned,
            durations: Histogram { buckets: record.duration_buckets.0, sum: record.duration_sum },
            born_micros: record.born_micros,
            exemplar: None,
        });
    }
    Ok(())
}
