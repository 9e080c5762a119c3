//! What a scrape sees.

use std::collections::BTreeMap;

use crate::ledger::{Changes, FeedCounters, FeedId, PhaseSeries, RuleCounters, SkillIndex, SkillRow, SkillSeries};

/// A copy of the ledger's series, in the order in which they are shown: by name.
#[derive(Debug, Default)]
pub struct View {
    skills: Vec<Option<ShownSkill>>,
    /// Places in `skills`, by skill name.
    order: Vec<usize>,
    feeds: BTreeMap<usize, FeedCounters>,
    rules: RuleCounters,
}

/// A skill as shown: phases and anomaly types by name.
#[derive(Debug)]
pub(super) struct ShownSkill {
    pub series: SkillSeries,
    pub last_listed_micros: Option<i64>,
}

impl View {
    /// Brings the view up to date. Applying the same changes twice does no harm.
    pub fn apply(&mut self, changes: Changes) {
        for SkillRow { index, series, last_listed_micros } in changes.skills {
            self.show(index, series);
            self.note_listed(index, last_listed_micros);
        }
        self.note_last_listed(changes.last_listed);
        self.feeds.extend(changes.feeds);
        self.rules = changes.rules;
    }

    /// Shows the numbers of one feed.
    pub fn show_feed(&mut self, FeedId(place): FeedId, counters: FeedCounters) {
        self.feeds.insert(place, counters);
    }

    /// Notes when skills were last listed, in microseconds since the Unix epoch.
    pub fn note_last_listed(&mut self, listed: Vec<(SkillIndex, i64)>) {
        for (index, micros) in listed {
            self.note_listed(index, micros);
        }
    }

    fn note_listed(&mut self, SkillIndex(index): SkillIndex, micros: i64) {
        if let Some(Some(skill)) = self.skills.get_mut(index as usize)
            && micros > 0
        {
            skill.last_listed_micros = skill.last_listed_micros.max(Some(micros));
        }
    }

    fn show(&mut self, SkillIndex(index): SkillIndex, mut series: SkillSeries) {
        series.phases.sort_unstable_by(|a, b| a.workflow_phase.cmp(&b.workflow_phase));
        series.anomalies.sort_unstable_by(|a, b| a.anomaly_type.cmp(&b.anomaly_type));
        let index = index as usize;
        if self.skills.len() <= index {
            self.skills.resize_with(index + 1, || None);
        }
        if let Some(skill) = &mut self.skills[index] {
            skill.series = series;
            return;
        }
        let name = &series.skill_name;
        let earlier = |&place: &usize| self.skills[place].as_ref().is_some_and(|other| other.series.skill_name < *name);
        let at = self.order.partition_point(earlier);
        self.order.insert(at, index);
        self.skills[index] = Some(ShownSkill { series, last_listed_micros: None });
    }

    /// The numbers that the ledger keeps of each feed, in the order of feeds.
    pub fn feeds(&self) -> impl Iterator<Item = &FeedCounters> {
        self.feeds.values()
    }

    /// The counters of the rules.
    pub fn rules(&self) -> RuleCounters {
        self.rules
    }

    /// Every skill, by name.
    pub fn skills(&self) -> impl Iterator<Item = &SkillSeries> {
        self.shown().map(|skill| &skill.series)
    }

    pub(super) fn shown(&self) -> impl Iterator<Item = &ShownSkill> {
        self.order.iter().filter_map(|&place| self.skills[place].as_ref())
    }

    pub(super) fn phases(&self) -> impl Iterator<Item = (&str, &PhaseSeries)> {
        self.skills().flat_map(|skill| skill.phases.iter().map(|phase| (&*skill.skill_name, phase)))
    }
}
