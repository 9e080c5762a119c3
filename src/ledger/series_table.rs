//! The series of all skills, and which of them changed.

use std::collections::VecDeque;
use std::sync::Arc;

use hashbrown::HashMap;

use super::labels::SharedLabels;
use super::limits::{COUNT_MAX, Limits, OVERFLOW, SERIES_PER_PHASE, SERIES_PER_SKILL_MIN};
use super::notice::Notice;
use super::series::{
    AnomalySeries, FailureSeries, Histogram, PhaseSeries, RECENT_ANOMALIES_MAX, SeenAnomaly, SkillIndex, SkillRef,
    SkillRow, SkillSeries, push_tight,
};

/// `workflow_phase` where a feed does not tell one.
pub const UNKNOWN_PHASE: &str = "unknown";

/// Every series, whole label sets by name. Counts only ever rise here.
#[derive(Debug, Default)]
pub(super) struct SeriesTable {
    skills: Vec<Entry>,
    by_name: HashMap<Arc<str>, SkillIndex>,
    /// Phases and types.
    labels: SharedLabels,
    overflow: Option<SkillIndex>,
    changed: Vec<SkillIndex>,
    /// Collected and not acknowledged.
    in_flight: Vec<SkillIndex>,
    listed: Vec<SkillIndex>,
    /// Series of all skills but `__overflow__`, and those that are set aside for what they count later.
    series: usize,
    overflowed: Overflowed,
    /// Counted and not collected, the latest of them; and those that were collected and not exposed.
    seen_anomalies: VecDeque<SeenAnomaly>,
    anomalies_in_flight: VecDeque<SeenAnomaly>,
}

/// Whether a series found no room.
#[derive(Debug, Default)]
enum Overflowed {
    /// None did.
    #[default]
    No,
    /// One of this skill did, and nobody was told.
    Unreported(Arc<str>),
    /// One did.
    Reported,
}

#[derive(Debug)]
struct Entry {
    series: SkillSeries,
    changed: bool,
    is_in_flight: bool,
    /// How many of its phases a scrape may have seen, and how many it may see once what was collected is exposed.
    phases_shown: usize,
    phases_collected: usize,
    last_listed_micros: i64,
    /// `last_listed_micros` when this skill was last handed over whole.
    kept_listed_micros: i64,
    listed: bool,
}

/// Whether a phase takes room of its own: each skill has room set aside for the others.
fn is_named(phase: &str) -> bool {
    phase != UNKNOWN_PHASE && phase != OVERFLOW
}

/// That a skill is still listed moves with every snapshot. It is worth keeping when it has moved by this much.
const LISTED_KEPT_EVERY_MICROS: i64 = 600 * 1_000_000;

impl SeriesTable {
    /// The place of `name`, which is made if the limit allows; otherwise the place of `__overflow__`.
    pub fn place(&mut self, name: &Arc<str>, limits: &Limits, notices: &mut Vec<Notice>) -> SkillIndex {
        if let Some(&index) = self.by_name.get(name) {
            return index;
        }
        let skills = self.by_name.len() - usize::from(self.overflow.is_some());
        let has_room = self.has_room(SERIES_PER_SKILL_MIN, limits);
        if skills < limits.skills_max && has_room {
            return self.push(name.clone());
        }
        if !has_room {
            self.note_overflow(name);
        }
        if let Some(index) = self.overflow {
            return index;
        }
        if has_room {
            notices.push(Notice::SkillsOverflowed { skill_name: name.to_string(), skills_max: limits.skills_max });
        }
        let index = self.push(OVERFLOW.into());
        self.overflow = Some(index);
        index
    }

    /// Whether so many more series are within the limit, beside those of the skill `__overflow__`.
    fn has_room(&self, more: usize, limits: &Limits) -> bool {
        self.series + SERIES_PER_SKILL_MIN + more <= limits.series_max
    }

    fn note_overflow(&mut self, skill_name: &Arc<str>) {
        if matches!(self.overflowed, Overflowed::No) {
            self.overflowed = Overflowed::Unreported(Arc::clone(skill_name));
        }
    }

    /// Returns the skill of the first series that found no room, once.
    pub fn take_overflowed(&mut self) -> Option<Arc<str>> {
        let Overflowed::Unreported(skill_name) = &self.overflowed else { return None };
        let skill_name = Arc::clone(skill_name);
        self.overflowed = Overflowed::Reported;
        Some(skill_name)
    }

    fn push(&mut self, name: Arc<str>) -> SkillIndex {
        let index = SkillIndex(u32::try_from(self.skills.len()).expect("the limit of skills is far below 2^32"));
        self.skills.push(Entry {
            series: SkillSeries::new(name.clone()),
            changed: false,
            is_in_flight: false,
            phases_shown: 0,
            phases_collected: 0,
            last_listed_micros: 0,
            kept_listed_micros: 0,
            listed: false,
        });
        if *name != *OVERFLOW {
            self.series += SERIES_PER_SKILL_MIN;
        }
        self.by_name.insert(name, index);
        self.change(index);
        index
    }

    /// The table that was persisted. `rows` have every place once.
    pub fn restore(mut rows: Vec<SkillRow>) -> Self {
        rows.sort_unstable_by_key(|row| row.index);
        let mut series_table = Self::default();
        for SkillRow { series, last_listed_micros, .. } in rows {
            let name = series.skill_name.clone();
            let index = series_table.push(name.clone());
            if *name == *OVERFLOW {
                series_table.overflow = Some(index);
            }
            let entry = &mut series_table.skills[index.0 as usize];
            entry.changed = false;
            entry.phases_shown = series.phases.len();
            entry.phases_collected = series.phases.len();
            let phases = series.phases.iter().filter(|phase| is_named(&phase.workflow_phase)).count();
            let types = series.anomalies.iter().filter(|known| *known.anomaly_type != *OVERFLOW).count();
            let error_types = series.failures.iter().filter(|known| *known.error_type != *OVERFLOW).count();
            series_table.series += phases * SERIES_PER_PHASE + types + error_types;
            let labels = series.phases.iter().map(|phase| &phase.workflow_phase);
            let labels = labels.chain(series.anomalies.iter().map(|known| &known.anomaly_type));
            let labels = labels.chain(series.failures.iter().map(|known| &known.error_type));
            labels.for_each(|label| series_table.labels.insert(label));
            entry.series = series;
            entry.last_listed_micros = last_listed_micros;
            entry.kept_listed_micros = last_listed_micros;
        }
        series_table.changed.clear();
        series_table
    }

    pub fn has_changed(&self) -> bool {
        !self.changed.is_empty() || !self.in_flight.is_empty()
    }

    /// Invocations that are counted in all phases of a skill.
    pub fn invocations(&self, index: SkillIndex) -> u64 {
        let phases = &self.skills[index.0 as usize].series.phases;
        phases.iter().map(|phase| phase.completed + phase.abandoned).sum()
    }

    /// The index of `__overflow__`, if there is one.
    pub fn overflow(&self) -> Option<SkillIndex> {
        self.overflow
    }

    /// The index under which a name is counted; `None` for one that is not known.
    pub fn find(&self, name: &str) -> Option<SkillIndex> {
        self.by_name.get(name).copied()
    }

    pub fn is_overflow(&self, index: SkillIndex) -> bool {
        self.overflow == Some(index)
    }

    /// Returns the series of a skill.
    pub fn series(&self, index: SkillIndex) -> &SkillSeries {
        &self.skills[index.0 as usize].series
    }

    /// Returns the series of every skill, by index.
    pub fn all_series(&self) -> impl Iterator<Item = &SkillSeries> {
        self.skills.iter().map(|entry| &entry.series)
    }

    /// Whether a scrape may have seen invocations of this skill in `phase`.
    pub fn has_shown(&self, index: SkillIndex, phase: &str) -> bool {
        let entry = &self.skills[index.0 as usize];
        entry.series.phases[..entry.phases_shown].iter().any(|series| &*series.workflow_phase == phase)
    }

    /// The series of `phase`. Where there are none they come into being at 0, at `born_micros`.
    pub fn phase(
        &mut self,
        index: SkillIndex,
        phase: &str,
        born_micros: Option<i64>,
        limits: &Limits,
    ) -> &mut PhaseSeries {
        let found = self.change(index).position_of_phase(phase);
        let position = found.unwrap_or_else(|| self.add_phase(index, phase, born_micros, limits));
        &mut self.skills[index.0 as usize].series.phases[position]
    }

    /// Adds the series of a phase that has none, if there is room. Returns where they are, or those of `__overflow__`.
    #[cold]
    fn add_phase(&mut self, index: SkillIndex, phase: &str, born_micros: Option<i64>, limits: &Limits) -> usize {
        let has_room = self.has_room(SERIES_PER_PHASE, limits);
        let series = &self.skills[index.0 as usize].series;
        let SkillSeries { skill_name, phases, .. } = series;
        let is_full = !has_room || phases.len() >= limits.phases_per_skill_max;
        let (name, found) = match is_full && is_named(phase) {
            // What everything falls back to has room set aside, so that each count has a series.
            true => (OVERFLOW, series.position_of_phase(OVERFLOW)),
            false => (phase, None),
        };
        if name != phase && !has_room {
            let skill_name = Arc::clone(skill_name);
            self.note_overflow(&skill_name);
        }
        self.series += if found.is_none() && is_named(name) { SERIES_PER_PHASE } else { 0 };
        found.unwrap_or_else(|| {
            let phases = &mut self.skills[index.0 as usize].series.phases;
            let durations = Histogram::default();
            let workflow_phase = self.labels.share(name);
            push_tight(
                phases,
                PhaseSeries { workflow_phase, completed: 0, abandoned: 0, durations, born_micros, exemplar: None },
            );
            phases.len() - 1
        })
    }

    /// Returns the name under which `name` is counted where a skill has one series for each name, at most `names_max`, and its
    /// position among them: `__overflow__` if `name` has none and there is no room for it.
    fn named<'n>(
        &mut self,
        index: SkillIndex,
        name: &'n str,
        names_max: usize,
        limits: &Limits,
        position: impl Fn(&SkillSeries, &str) -> Option<usize>,
        len: impl Fn(&SkillSeries) -> usize,
    ) -> (&'n str, Option<usize>) {
        let has_room = self.has_room(1, limits);
        let series = &*self.change(index);
        let is_full = !has_room || len(series) >= names_max;
        let (name, found) = match position(series, name) {
            None if is_full => {
                let (skill_name, found) = (Arc::clone(&series.skill_name), position(series, OVERFLOW));
                if name != OVERFLOW && !has_room {
                    self.note_overflow(&skill_name);
                }
                (OVERFLOW, found)
            }
            found => (name, found),
        };
        self.series += usize::from(found.is_none() && name != OVERFLOW);
        (name, found)
    }

    /// Adds `more` to the anomalies of a type. Where it has no series one comes into being at `born_micros`. Returns whether
    /// they are counted as `__overflow__`.
    pub fn add_anomalies(
        &mut self,
        index: SkillIndex,
        anomaly_type: &Arc<str>,
        more: u64,
        born_micros: Option<i64>,
        limits: &Limits,
    ) -> bool {
        let position =
            |series: &SkillSeries, name: &str| series.anomalies.iter().position(|series| *series.anomaly_type == *name);
        let len = |series: &SkillSeries| series.anomalies.len();
        let names_max = limits.anomaly_types_per_skill_max;
        let (name, found) = self.named(index, anomaly_type, names_max, limits, position, len);
        let anomalies = &mut self.skills[index.0 as usize].series.anomalies;
        let position = found.unwrap_or_else(|| {
            let anomaly_type = self.labels.share(name);
            push_tight(anomalies, AnomalySeries { anomaly_type, count: 0, born_micros });
            anomalies.len() - 1
        });
        let series = &mut anomalies[position];
        series.count = series.count.saturating_add(more).min(COUNT_MAX);
        name == OVERFLOW || self.is_overflow(index)
    }

    /// Adds `more` to the failures of a type. Where it has no series one comes into being at `born_micros`.
    pub fn add_failures(
        &mut self,
        index: SkillIndex,
        error_type: &str,
        more: u64,
        born_micros: Option<i64>,
        limits: &Limits,
    ) {
        let position =
            |series: &SkillSeries, name: &str| series.failures.iter().position(|series| *series.error_type == *name);
        let len = |series: &SkillSeries| series.failures.len();
        let names_max = limits.error_types_per_skill_max;
        let (name, found) = self.named(index, error_type, names_max, limits, position, len);
        let failures = &mut self.skills[index.0 as usize].series.failures;
        let position = found.unwrap_or_else(|| {
            let error_type = self.labels.share(name);
            push_tight(failures, FailureSeries { error_type, count: 0, born_micros });
            failures.len() - 1
        });
        let series = &mut failures[position];
        series.count = series.count.saturating_add(more).min(COUNT_MAX);
    }

    /// A skill was invoked at this time, in microseconds since the Unix epoch.
    pub fn note_invoked(&mut self, index: SkillIndex, micros: i64) {
        let known = self.skills[index.0 as usize].series.last_invoked_micros;
        if !self.is_overflow(index) && known < Some(micros) {
            self.change(index).last_invoked_micros = Some(micros);
        }
    }

    /// Remembers an anomaly that was counted, to be looked at.
    pub fn note_anomaly(&mut self, anomaly: SeenAnomaly) {
        if self.seen_anomalies.len() == RECENT_ANOMALIES_MAX {
            self.seen_anomalies.pop_front();
        }
        self.seen_anomalies.push_back(anomaly);
    }

    /// Returns the anomalies that were counted and not exposed.
    pub fn collect_anomalies(&mut self) -> Vec<SeenAnomaly> {
        self.anomalies_in_flight.extend(self.seen_anomalies.drain(..));
        let beyond = self.anomalies_in_flight.len().saturating_sub(RECENT_ANOMALIES_MAX);
        self.anomalies_in_flight.drain(..beyond);
        self.anomalies_in_flight.iter().cloned().collect()
    }

    /// Sets the completion rate, 0 to 1, or takes it away.
    pub fn set_rate(&mut self, index: SkillIndex, rate: Option<f64>) {
        if !self.is_overflow(index) && self.skills[index.0 as usize].series.completion_rate != rate {
            self.change(index).completion_rate = rate;
        }
    }

    /// A snapshot lists this skill.
    pub fn set_listed(&mut self, index: SkillIndex, wall_micros: i64) {
        if self.is_overflow(index) {
            return;
        }
        let entry = &mut self.skills[index.0 as usize];
        entry.last_listed_micros = entry.last_listed_micros.max(wall_micros);
        if !std::mem::replace(&mut entry.listed, true) {
            self.listed.push(index);
        }
        if wall_micros.saturating_sub(entry.kept_listed_micros) >= LISTED_KEPT_EVERY_MICROS {
            self.change(index);
        }
    }

    fn change(&mut self, index: SkillIndex) -> &mut SkillSeries {
        let entry = &mut self.skills[index.0 as usize];
        if !std::mem::replace(&mut entry.changed, true) {
            self.changed.push(index);
        }
        &mut entry.series
    }

    /// Returns every skill that changed and is not acknowledged, sorted by index, but those that `copy` returns `true` for: it
    /// has copied them.
    pub fn collect_unless(&mut self, copy: &mut dyn FnMut(SkillRef<'_>) -> bool) -> Vec<SkillRow> {
        let Self { skills, changed, in_flight, .. } = self;
        for index in changed.drain(..) {
            let entry = &mut skills[index.0 as usize];
            entry.changed = false;
            if !std::mem::replace(&mut entry.is_in_flight, true) {
                in_flight.push(index);
            }
        }
        // What could not be persisted stands before what is newer.
        in_flight.sort_unstable();
        let mut rows = Vec::new();
        for (position, index) in in_flight.iter().enumerate() {
            let entry = &mut skills[index.0 as usize];
            entry.phases_collected = entry.series.phases.len();
            entry.kept_listed_micros = entry.last_listed_micros;
            let Entry { series, last_listed_micros, .. } = &*entry;
            let skill = SkillRef { index: *index, series, last_listed_micros: *last_listed_micros };
            if !copy(skill) {
                if rows.is_empty() {
                    // Not doubled again and again: there can be tens of thousands.
                    rows.reserve_exact(in_flight.len() - position);
                }
                rows.push(skill.to_row());
            }
        }
        rows
    }

    /// What was collected last is exposed.
    pub fn note_exposed(&mut self) {
        for index in &self.in_flight {
            let entry = &mut self.skills[index.0 as usize];
            entry.phases_shown = entry.phases_collected;
        }
        self.anomalies_in_flight.clear();
    }

    /// Nothing of it is persistent any more.
    pub fn mark_all(&mut self) {
        for index in 0..self.skills.len() {
            self.change(SkillIndex(index as u32));
        }
    }

    /// What was collected last is persistent and exposed.
    pub fn acknowledge(&mut self) {
        self.note_exposed();
        for index in self.in_flight.drain(..) {
            self.skills[index.0 as usize].is_in_flight = false;
        }
    }

    /// Takes every skill that was listed since the last call, and when.
    pub fn take_listed(&mut self) -> Vec<(SkillIndex, i64)> {
        let skills = &mut self.skills;
        let take = |index: SkillIndex| {
            let entry = &mut skills[index.0 as usize];
            entry.listed = false;
            (index, entry.last_listed_micros)
        };
        self.listed.drain(..).map(take).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn skills_share_their_labels() {
        let limits = Limits::default();
        let mut table = SeriesTable::default();
        let add = |table: &mut SeriesTable, name: &str| {
            let index = table.place(&name.into(), &limits, &mut Vec::new());
            let phase = Arc::clone(&table.phase(index, "setup", None, &limits).workflow_phase);
            table.add_anomalies(index, &"drop".into(), 1, None, &limits);
            table.add_failures(index, "timeout", 1, None, &limits);
            let SkillSeries { anomalies, failures, .. } = table.series(index);
            [phase, Arc::clone(&anomalies[0].anomaly_type), Arc::clone(&failures[0].error_type)]
        };
        let labels = add(&mut table, "a");
        let rows = table.collect_unless(&mut |_| false);
        for mut table in [table, SeriesTable::restore(rows)] {
            let of_another = add(&mut table, "b");
            assert!(labels.iter().zip(&of_another).all(|(one, other)| Arc::ptr_eq(one, other)), "{of_another:?}");
        }
    }
}
