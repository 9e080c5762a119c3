//! What a scrape exposes.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::ledger::{
    Changes, FeedCounters, PhaseSeries, RECENT_ANOMALIES_MAX, RuleCounters, SeenAnomaly, SkillIndex, SkillRow,
    SkillSeries,
};

use super::family_kind::FamilyKind;
use super::family_text::Staleness;
use super::increase::Increase;
use super::skill_view::SkillView;
use super::text_cache::TextCache;
use super::zero_first::{ZeroFirst, Zeros};

/// A copy of the ledger's series, in the order in which they are exposed, with their cached text.
#[derive(Debug, Default)]
pub struct View {
    /// In the order of their [`SkillIndex`].
    skills: Vec<SkillView>,
    text: TextCache,
    zero_first: ZeroFirst,
    /// By identity, because another feed may take the slot of a removed one.
    feeds: BTreeMap<Arc<str>, FeedCounters>,
    rules: RuleCounters,
    /// The latest, oldest first.
    anomalies: VecDeque<SeenAnomaly>,
    /// Since it was last taken.
    increase: Increase,
}

impl View {
    /// From now on scrapes expose a new series that began to count at 0 at 0 for `duration`, counted from the first of them,
    /// before they expose its value. Everything else that reads the view has its value at once.
    ///
    /// `wall_micros` is now, in microseconds since the Unix epoch: a series in the view that began less than `duration` before
    /// is new, and any other is exposed as it is.
    pub fn expose_zero_first(&mut self, duration: Duration, wall_micros: i64) {
        self.zero_first = ZeroFirst::new(duration);
        for (index, skill) in self.skills.iter_mut().enumerate() {
            if self.zero_first.hold_restored(index, &skill.series, wall_micros, &mut skill.zeros) {
                mark_values(&mut self.text, index);
            }
        }
    }

    /// Applies changes of the ledger. Applying the same changes twice has no effect.
    pub fn apply(&mut self, changes: Changes) {
        let Changes { sequence: _, mut skills, last_listed, feeds, anomalies, wall_micros, rules, memory: _ } = changes;
        // Changes that could not be persisted come again behind newer ones: new skills are added in the order of their indices.
        skills.sort_unstable_by_key(|row| row.index);
        for SkillRow { index, series, last_listed_micros } in skills {
            self.show(index, series, (wall_micros > 0).then_some(wall_micros));
            self.record_listed(index, last_listed_micros);
        }
        self.record_last_listed(last_listed);
        feeds.into_iter().for_each(|(_, counters)| self.show_feed(counters));
        self.increase.backfilled += rules.backfilled_invocations.saturating_sub(self.rules.backfilled_invocations);
        self.rules = rules;
        self.anomalies.extend(anomalies);
        self.anomalies.drain(..self.anomalies.len().saturating_sub(RECENT_ANOMALIES_MAX));
    }

    /// Exposes the counters of a feed.
    pub fn show_feed(&mut self, counters: FeedCounters) {
        self.feeds.insert(counters.identity.clone(), counters);
    }

    /// Stops exposing the counters of a feed.
    pub fn hide_feed(&mut self, identity: &str) {
        self.feeds.remove(identity);
    }

    /// Records when skills were last listed, in microseconds since the Unix epoch.
    pub fn record_last_listed(&mut self, listed: Vec<(SkillIndex, i64)>) {
        for (index, micros) in listed {
            self.record_listed(index, micros);
        }
    }

    fn record_listed(&mut self, SkillIndex(index): SkillIndex, micros: i64) {
        let index = index as usize;
        let Some(skill) = self.skills.get_mut(index) else { return };
        if micros > 0 && skill.last_listed_micros < Some(micros) {
            let staleness = if skill.last_listed_micros.is_some() { Staleness::Values } else { Staleness::Samples };
            skill.last_listed_micros = Some(micros);
            self.text.mark(FamilyKind::LastListed, index, staleness);
        }
    }

    fn show(&mut self, SkillIndex(index): SkillIndex, mut series: SkillSeries, changed_micros: Option<i64>) {
        series.phases.sort_unstable_by(|a, b| a.workflow_phase.cmp(&b.workflow_phase));
        series.anomalies.sort_unstable_by(|a, b| a.anomaly_type.cmp(&b.anomaly_type));
        let index = index as usize;
        let Some(skill) = self.skills.get_mut(index) else {
            assert_eq!(index, self.skills.len(), "the ledger gives indices without gaps");
            self.increase.add(None, &series);
            let mut zeros = Zeros::default();
            self.zero_first.hold(index, None, &series, &mut zeros);
            let last_changed_micros = changed_micros;
            self.skills.push(SkillView { series, last_listed_micros: None, last_changed_micros, zeros });
            self.text.add(index, &self.skills);
            return;
        };
        // Series other than the rate are never removed or renamed: if there are as many as before, they are the same.
        let staleness = |is_other: bool, has_other_lines: bool| match (is_other, has_other_lines) {
            (_, true) => Staleness::Samples,
            (true, false) => Staleness::Values,
            (false, false) => Staleness::Fresh,
        };
        let before = std::mem::replace(&mut skill.series, series);
        let now = &skill.series;
        self.increase.add(Some(&before), now);
        self.zero_first.hold(index, Some(&before), now, &mut skill.zeros);
        let invocations = staleness(before.phases != now.phases, before.phases.len() != now.phases.len());
        let anomalies = staleness(before.anomalies != now.anomalies, before.anomalies.len() != now.anomalies.len());
        let (rate, rate_now) = (before.completion_rate, now.completion_rate);
        let rates = staleness(rate != rate_now, rate.is_some() != rate_now.is_some());
        if [invocations, anomalies, rates] != [Staleness::Fresh; 3] {
            skill.last_changed_micros = changed_micros.or(skill.last_changed_micros);
        }
        self.text.mark(FamilyKind::Invocations, index, invocations);
        self.text.mark(FamilyKind::Durations, index, invocations);
        self.text.mark(FamilyKind::CompletionRates, index, rates);
        self.text.mark(FamilyKind::Anomalies, index, anomalies);
    }

    /// Returns the ledger's counters of each feed, sorted by identity.
    pub fn feeds(&self) -> impl Iterator<Item = &FeedCounters> {
        self.feeds.values()
    }

    /// Returns the increase since the last call. What happened before the first snapshot is not part of it.
    pub fn take_increase(&mut self) -> Increase {
        std::mem::take(&mut self.increase)
    }

    /// Returns the anomalies that were counted last, up to [`RECENT_ANOMALIES_MAX`] of them, oldest first.
    pub fn recent_anomalies(&self) -> impl Iterator<Item = &SeenAnomaly> {
        self.anomalies.iter()
    }

    /// Returns the counters of the counting rules.
    pub fn rules(&self) -> RuleCounters {
        self.rules
    }

    /// Returns the series of every skill, sorted by name.
    pub fn skills(&self) -> impl Iterator<Item = &SkillSeries> {
        self.shown().map(|skill| &skill.series)
    }

    /// Returns every skill, sorted by name.
    pub fn shown(&self) -> impl Iterator<Item = &SkillView> {
        self.text.by_name().map(|index| &self.skills[index])
    }

    pub(super) fn phases(&self) -> impl Iterator<Item = (&str, &PhaseSeries)> {
        self.skills().flat_map(|skill| skill.phases.iter().map(|phase| (&*skill.skill_name, phase)))
    }

    /// A scrape exposes everything at `now`.
    pub(super) fn begin_scrape(&mut self, now: Instant) {
        for index in self.zero_first.begin_scrape(now, &mut self.skills) {
            mark_values(&mut self.text, index);
        }
    }

    /// Returns the cached text, and the skills that it is refreshed from.
    pub(super) fn text(&mut self) -> (&mut TextCache, &[SkillView]) {
        (&mut self.text, &self.skills)
    }
}

/// Values of a skill's counters and histograms are exposed otherwise than before.
fn mark_values(text: &mut TextCache, index: usize) {
    for kind in [FamilyKind::Invocations, FamilyKind::Durations, FamilyKind::Anomalies] {
        text.mark(kind, index, Staleness::Values);
    }
}
