//! What a scrape sees.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use crate::ledger::{
    Changes, FeedCounters, PhaseSeries, RECENT_ANOMALIES_MAX, RuleCounters, SeenAnomaly, SkillIndex, SkillRow,
    SkillSeries,
};

use super::family_kind::FamilyKind;
use super::family_text::{FamilyText, Staleness};
use super::gzip::GzipEncoder;
use super::increase::Increase;

/// A copy of the ledger's series, and their text, in the order in which they are shown: by name.
#[derive(Debug)]
pub struct View {
    /// By their places in the ledger.
    skills: Vec<SkillView>,
    /// In the order of [`FamilyKind::ALL`].
    families: [FamilyText; FamilyKind::ALL.len()],
    /// By identity: a feed's place in the ledger may become another's.
    feeds: BTreeMap<Arc<str>, FeedCounters>,
    rules: RuleCounters,
    /// The latest, oldest first.
    anomalies: VecDeque<SeenAnomaly>,
    /// Since it was last taken.
    increase: Increase,
    /// Made when it is first needed: not everybody asks for gzip.
    encoder: Option<Box<GzipEncoder>>,
}

/// A skill as shown: phases and anomaly types by name.
#[derive(Debug)]
pub struct SkillView {
    /// Its series, phases and anomaly types by name.
    pub series: SkillSeries,
    /// When a snapshot last listed it, in microseconds since the Unix epoch.
    pub last_listed_micros: Option<i64>,
    /// When a number of it was last seen to change, its first sight included, in microseconds since the Unix epoch; `None`
    /// where that was before this process.
    pub last_changed_micros: Option<i64>,
}

impl Default for View {
    fn default() -> Self {
        Self {
            skills: Vec::new(),
            families: FamilyKind::ALL.map(FamilyText::new),
            feeds: BTreeMap::new(),
            rules: RuleCounters::default(),
            anomalies: VecDeque::new(),
            increase: Increase::default(),
            encoder: None,
        }
    }
}

impl View {
    /// Brings the view up to date. Applying the same changes twice does no harm.
    pub fn apply(&mut self, changes: Changes) {
        let Changes { mut skills, last_listed, feeds, anomalies, wall_micros, rules, memory: _ } = changes;
        // Changes that could not be kept come again behind newer ones: new skills are added in the order of their places.
        skills.sort_unstable_by_key(|row| row.index);
        for SkillRow { index, series, last_listed_micros } in skills {
            self.show(index, series, (wall_micros > 0).then_some(wall_micros));
            self.note_listed(index, last_listed_micros);
        }
        self.note_last_listed(last_listed);
        feeds.into_iter().for_each(|(_, counters)| self.show_feed(counters));
        self.increase.backfilled += rules.backfilled_invocations.saturating_sub(self.rules.backfilled_invocations);
        self.rules = rules;
        self.anomalies.extend(anomalies);
        self.anomalies.drain(..self.anomalies.len().saturating_sub(RECENT_ANOMALIES_MAX));
    }

    /// Shows the numbers of one feed.
    pub fn show_feed(&mut self, counters: FeedCounters) {
        self.feeds.insert(counters.identity.clone(), counters);
    }

    /// Shows the numbers of a feed no more.
    pub fn hide_feed(&mut self, identity: &str) {
        self.feeds.remove(identity);
    }

    /// Notes when skills were last listed, in microseconds since the Unix epoch.
    pub fn note_last_listed(&mut self, listed: Vec<(SkillIndex, i64)>) {
        for (index, micros) in listed {
            self.note_listed(index, micros);
        }
    }

    fn note_listed(&mut self, SkillIndex(index): SkillIndex, micros: i64) {
        let place = index as usize;
        let Some(skill) = self.skills.get_mut(place) else { return };
        if micros > 0 && skill.last_listed_micros < Some(micros) {
            let staleness = if skill.last_listed_micros.is_some() { Staleness::Values } else { Staleness::Lines };
            skill.last_listed_micros = Some(micros);
            self.family(FamilyKind::LastListed).mark(place, staleness);
        }
    }

    fn show(&mut self, SkillIndex(index): SkillIndex, mut series: SkillSeries, changed_micros: Option<i64>) {
        series.phases.sort_unstable_by(|a, b| a.workflow_phase.cmp(&b.workflow_phase));
        series.anomalies.sort_unstable_by(|a, b| a.anomaly_type.cmp(&b.anomaly_type));
        let place = index as usize;
        let Some(skill) = self.skills.get_mut(place) else {
            assert_eq!(place, self.skills.len(), "the ledger gives places without gaps");
            self.increase.add(None, &series);
            self.skills.push(SkillView { series, last_listed_micros: None, last_changed_micros: changed_micros });
            self.families.iter_mut().for_each(|family| family.add(place, &self.skills));
            return;
        };
        // A series never goes but for the rate, and never changes its name: as many as before are the same as before.
        let staleness = |is_other: bool, has_other_lines: bool| match (is_other, has_other_lines) {
            (_, true) => Staleness::Lines,
            (true, false) => Staleness::Values,
            (false, false) => Staleness::Fresh,
        };
        let before = std::mem::replace(&mut skill.series, series);
        let now = &skill.series;
        self.increase.add(Some(&before), now);
        let invocations = staleness(before.phases != now.phases, before.phases.len() != now.phases.len());
        let anomalies = staleness(before.anomalies != now.anomalies, before.anomalies.len() != now.anomalies.len());
        let (rate, rate_now) = (before.completion_rate, now.completion_rate);
        let rates = staleness(rate != rate_now, rate.is_some() != rate_now.is_some());
        if [invocations, anomalies, rates] != [Staleness::Fresh; 3] {
            skill.last_changed_micros = changed_micros.or(skill.last_changed_micros);
        }
        self.family(FamilyKind::Invocations).mark(place, invocations);
        self.family(FamilyKind::Durations).mark(place, invocations);
        self.family(FamilyKind::CompletionRates).mark(place, rates);
        self.family(FamilyKind::Anomalies).mark(place, anomalies);
    }

    /// The numbers that the ledger keeps of each feed, in the order of their identities.
    pub fn feeds(&self) -> impl Iterator<Item = &FeedCounters> {
        self.feeds.values()
    }

    /// What the series rose by since the last call. What had happened before it was watched is no rise.
    pub fn take_increase(&mut self) -> Increase {
        std::mem::take(&mut self.increase)
    }

    /// The anomalies that were counted last, up to [`RECENT_ANOMALIES_MAX`] of them, oldest first.
    pub fn recent_anomalies(&self) -> impl Iterator<Item = &SeenAnomaly> {
        self.anomalies.iter()
    }

    /// The counters of the rules.
    pub fn rules(&self) -> RuleCounters {
        self.rules
    }

    /// Every skill, by name.
    pub fn skills(&self) -> impl Iterator<Item = &SkillSeries> {
        self.shown().map(|skill| &skill.series)
    }

    /// Every skill, by name, with what is known beside its series.
    pub fn shown(&self) -> impl Iterator<Item = &SkillView> {
        self.families[0].skills().map(|place| &self.skills[place])
    }

    pub(super) fn phases(&self) -> impl Iterator<Item = (&str, &PhaseSeries)> {
        self.skills().flat_map(|skill| skill.phases.iter().map(|phase| (&*skill.skill_name, phase)))
    }

    fn family(&mut self, kind: FamilyKind) -> &mut FamilyText {
        &mut self.families[kind as usize]
    }

    /// The lines of `kind`, as of now, and what they are of.
    pub(super) fn lines(&mut self, kind: FamilyKind) -> (&mut FamilyText, &[SkillView]) {
        let family = &mut self.families[kind as usize];
        family.refresh(&self.skills);
        (family, &self.skills)
    }

    pub(super) fn take_encoder(&mut self) -> Option<Box<GzipEncoder>> {
        self.encoder.take()
    }

    pub(super) fn return_encoder(&mut self, encoder: Box<GzipEncoder>) {
        self.encoder = Some(encoder);
    }
}
