//! The series of all skills, and which of them changed.

use std::collections::VecDeque;
use std::sync::Arc;

use hashbrown::HashMap;

use super::limits::{COUNT_MAX, Limits, OVERFLOW};
use super::notice::Notice;
use super::series::{
    AnomalySeries, Histogram, PhaseSeries, RECENT_ANOMALIES_MAX, SeenAnomaly, SkillIndex, SkillRow, SkillSeries,
    push_tight,
};

/// `workflow_phase` where a feed does not tell one.
pub(super) const UNKNOWN_PHASE: &str = "unknown";

/// Every series, whole label sets by name. Counts only ever rise here.
#[derive(Debug, Default)]
pub(super) struct Book {
    skills: Vec<Page>,
    by_name: HashMap<Arc<str>, SkillIndex>,
    overflow: Option<SkillIndex>,
    changed: Vec<SkillIndex>,
    /// Collected and not acknowledged.
    in_flight: Vec<SkillIndex>,
    listed: Vec<SkillIndex>,
    /// Phases and anomaly types of all skills.
    series: usize,
    /// Whether the limit of series was reported.
    has_overflowed: bool,
    /// Counted and not collected, the latest of them; and those that were collected and not exposed.
    seen_anomalies: VecDeque<SeenAnomaly>,
    anomalies_in_flight: VecDeque<SeenAnomaly>,
}

#[derive(Debug)]
struct Page {
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

/// That a skill is still listed moves with every snapshot. It is worth keeping when it has moved by this much.
const LISTED_KEPT_EVERY_MICROS: i64 = 600 * 1_000_000;

impl Book {
    /// The place of `name`, which is made if the limit allows; otherwise the place of `__overflow__`.
    pub fn place(&mut self, name: &Arc<str>, limits: &Limits, notices: &mut Vec<Notice>) -> SkillIndex {
        if let Some(&index) = self.by_name.get(name) {
            return index;
        }
        let skills = self.by_name.len() - usize::from(self.overflow.is_some());
        let has_room = self.series < limits.series_max;
        if skills < limits.skills_max && has_room {
            return self.push(name.clone());
        }
        if let Some(index) = self.overflow {
            return index;
        }
        if has_room {
            notices.push(Notice::SkillsOverflowed { skill_name: name.to_string(), skills_max: limits.skills_max });
        } else if !std::mem::replace(&mut self.has_overflowed, true) {
            notices.push(Notice::SeriesOverflowed { skill_name: name.to_string(), series_max: limits.series_max });
        }
        let index = self.push(OVERFLOW.into());
        self.overflow = Some(index);
        index
    }

    fn push(&mut self, name: Arc<str>) -> SkillIndex {
        let index = SkillIndex(u32::try_from(self.skills.len()).expect("the limit of skills is far below 2^32"));
        let series =
            SkillSeries { skill_name: name.clone(), phases: Vec::new(), completion_rate: None, anomalies: Vec::new() };
        self.skills.push(Page {
            series,
            changed: false,
            is_in_flight: false,
            phases_shown: 0,
            phases_collected: 0,
            last_listed_micros: 0,
            kept_listed_micros: 0,
            listed: false,
        });
        self.by_name.insert(name, index);
        self.change(index);
        index
    }

    /// The book that was kept. `rows` have every place once.
    pub fn restore(mut rows: Vec<SkillRow>) -> Self {
        rows.sort_unstable_by_key(|row| row.index);
        let mut book = Self::default();
        for SkillRow { series, last_listed_micros, .. } in rows {
            let name = series.skill_name.clone();
            let index = book.push(name.clone());
            if *name == *OVERFLOW {
                book.overflow = Some(index);
            }
            let page = &mut book.skills[index.0 as usize];
            page.changed = false;
            page.phases_shown = series.phases.len();
            page.phases_collected = series.phases.len();
            book.series += series.phases.len() + series.anomalies.len();
            page.series = series;
            page.last_listed_micros = last_listed_micros;
            page.kept_listed_micros = last_listed_micros;
        }
        book.changed.clear();
        book
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

    /// Whether a scrape may have seen invocations of this skill in `phase`.
    pub fn has_shown(&self, index: SkillIndex, phase: &str) -> bool {
        let page = &self.skills[index.0 as usize];
        page.series.phases[..page.phases_shown].iter().any(|series| &*series.workflow_phase == phase)
    }

    /// The series of `phase`. Where there are none they come into being at 0, at `born_micros`.
    pub fn phase(
        &mut self,
        index: SkillIndex,
        phase: &str,
        born_micros: Option<i64>,
        limits: &Limits,
    ) -> &mut PhaseSeries {
        let has_room = self.series < limits.series_max;
        self.change(index);
        let phases = &mut self.skills[index.0 as usize].series.phases;
        let position = |name: &str| phases.iter().position(|series| &*series.workflow_phase == name);
        let is_full = !has_room || phases.len() >= limits.phases_per_skill_max;
        let (name, found) = match position(phase) {
            // What everything falls back to has a series beside the limits, so that each count has one.
            None if is_full && phase != UNKNOWN_PHASE => (OVERFLOW, position(OVERFLOW)),
            found => (phase, found),
        };
        self.series += usize::from(found.is_none());
        let position = found.unwrap_or_else(|| {
            let durations = Histogram::default();
            let workflow_phase = name.into();
            push_tight(
                phases,
                PhaseSeries { workflow_phase, completed: 0, abandoned: 0, durations, born_micros, exemplar: None },
            );
            phases.len() - 1
        });
        &mut phases[position]
    }

    /// Adds `more` to the anomalies of a type. Where it has no series one comes into being at `born_micros`.
    pub fn add_anomalies(
        &mut self,
        index: SkillIndex,
        anomaly_type: &Arc<str>,
        more: u64,
        born_micros: Option<i64>,
        limits: &Limits,
    ) {
        let has_room = self.series < limits.series_max;
        self.change(index);
        let anomalies = &mut self.skills[index.0 as usize].series.anomalies;
        let position = |name: &str| anomalies.iter().position(|series| &*series.anomaly_type == name);
        let is_full = !has_room || anomalies.len() >= limits.anomaly_types_per_skill_max;
        let (name, found) = match position(anomaly_type) {
            None if is_full => (OVERFLOW.into(), position(OVERFLOW)),
            found => (anomaly_type.clone(), found),
        };
        self.series += usize::from(found.is_none());
        let position = found.unwrap_or_else(|| {
            push_tight(anomalies, AnomalySeries { anomaly_type: name, count: 0, born_micros });
            anomalies.len() - 1
        });
        anomalies[position].count = anomalies[position].count.saturating_add(more).min(COUNT_MAX);
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
        let page = &mut self.skills[index.0 as usize];
        page.last_listed_micros = page.last_listed_micros.max(wall_micros);
        if !std::mem::replace(&mut page.listed, true) {
            self.listed.push(index);
        }
        if wall_micros.saturating_sub(page.kept_listed_micros) >= LISTED_KEPT_EVERY_MICROS {
            self.change(index);
        }
    }

    fn change(&mut self, index: SkillIndex) -> &mut SkillSeries {
        let page = &mut self.skills[index.0 as usize];
        if !std::mem::replace(&mut page.changed, true) {
            self.changed.push(index);
        }
        &mut page.series
    }

    /// Returns every skill that changed and is not acknowledged.
    pub fn collect(&mut self) -> Vec<SkillRow> {
        let Self { skills, changed, in_flight, .. } = self;
        for index in changed.drain(..) {
            let page = &mut skills[index.0 as usize];
            page.changed = false;
            if !std::mem::replace(&mut page.is_in_flight, true) {
                in_flight.push(index);
            }
        }
        let row = |index: &SkillIndex| {
            let page = &mut skills[index.0 as usize];
            page.phases_collected = page.series.phases.len();
            page.kept_listed_micros = page.last_listed_micros;
            SkillRow { index: *index, series: page.series.clone(), last_listed_micros: page.last_listed_micros }
        };
        in_flight.iter().map(row).collect()
    }

    /// What was collected last is exposed.
    pub fn note_exposed(&mut self) {
        for index in &self.in_flight {
            let page = &mut self.skills[index.0 as usize];
            page.phases_shown = page.phases_collected;
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
            let page = &mut skills[index.0 as usize];
            page.listed = false;
            (index, page.last_listed_micros)
        };
        self.listed.drain(..).map(take).collect()
    }
}
