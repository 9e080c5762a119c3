//! What a scrape exposes.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::ledger::{
    Changes, FeedCounters, PhaseSeries, RECENT_ANOMALIES_MAX, RuleCounters, SeenAnomaly, SkillIndex, SkillRef,
    SkillRow, SkillSeries,
};

use super::family_kind::FamilyKind;
use super::family_text::Staleness;
use super::increase::Increase;
use super::skill_view::{ChangedValues, SkillView};
use super::text_cache::TextCache;
use super::zero_first::{ZeroFirst, Zeros};

/// Text beyond this size is not kept between scrapes that are further apart than [`TEXT_IDLE_MAX`]: the text of 20,000 skills of
/// one phase. A scrape of the largest allowed body would else leave several times the memory behind that the ledger takes.
const IDLE_TEXT_BYTES_MAX: usize = 32 << 20;

/// See [`View::is_scrape_small`]: some 200 KB of text, which take a tenth of a millisecond to write, and three to compress.
const SMALL_SAMPLES_MAX: usize = 2_048;

/// See [`IDLE_TEXT_BYTES_MAX`].
const TEXT_IDLE_MAX: Duration = Duration::from_secs(5);

/// A copy of the ledger's series, in the order in which they are exposed, with their cached text.
#[derive(Debug, Default)]
pub struct View {
    /// In the order of their [`SkillIndex`].
    skills: Vec<SkillView>,
    text: TextCache,
    /// When text was last scraped; `None` if the cached text was checked since.
    scraped: Option<Instant>,
    zero_first: ZeroFirst,
    /// By identity, because another feed may take the slot of a removed one.
    feeds: BTreeMap<Arc<str>, FeedCounters>,
    rules: RuleCounters,
    /// The latest, oldest first.
    anomalies: VecDeque<SeenAnomaly>,
    /// Since it was last taken.
    increase: Increase,
    /// `None` until somebody takes them.
    changed: Option<ChangedSkills>,
}

/// The skills that changed since they were last taken, each once.
#[derive(Debug, Default)]
struct ChangedSkills {
    indices: Vec<usize>,
    is_marked: Vec<bool>,
}

impl ChangedSkills {
    fn mark(&mut self, index: usize) {
        if index >= self.is_marked.len() {
            self.is_marked.resize(index + 1, false);
        }
        if !std::mem::replace(&mut self.is_marked[index], true) {
            self.indices.push(index);
        }
    }

    fn take(&mut self) -> Vec<usize> {
        let indices = std::mem::take(&mut self.indices);
        indices.iter().for_each(|index| self.is_marked[*index] = false);
        indices
    }
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
            if !self.update(SkillRef { index, series: &series, last_listed_micros }, wall_micros) {
                self.show(index, series, (wall_micros > 0).then_some(wall_micros));
                self.record_listed(index, last_listed_micros);
            }
        }
        self.record_last_listed(last_listed);
        feeds.into_iter().for_each(|(_, counters)| self.show_feed(counters));
        self.increase.backfilled += rules.backfilled_invocations.saturating_sub(self.rules.backfilled_invocations);
        self.rules = rules;
        self.anomalies.extend(anomalies);
        self.anomalies.drain(..self.anomalies.len().saturating_sub(RECENT_ANOMALIES_MAX));
    }

    /// Copies the values of a skill that the view has with the same series, and returns `true`. Returns `false` and changes
    /// nothing if a series is new or gone: then [`View::apply`] must be given the skill. `wall_micros` is that of [`Changes`].
    pub fn update(&mut self, skill: SkillRef<'_>, wall_micros: i64) -> bool {
        let SkillRef { index, series, last_listed_micros } = skill;
        let position = index.0 as usize;
        let Some(known) = self.skills.get_mut(position).filter(|known| known.has_series_of(series)) else {
            return false;
        };
        let changed = known.update(series, &mut self.increase);
        if changed != ChangedValues::default() {
            known.last_changed_micros = if wall_micros > 0 { Some(wall_micros) } else { known.last_changed_micros };
            self.mark_changed(position);
            let ChangedValues { invocations, completion_rate, anomalies, failures, last_invoked } = changed;
            for (has_changed, kind) in [
                (invocations, FamilyKind::Invocations),
                (invocations, FamilyKind::Durations),
                (completion_rate, FamilyKind::CompletionRates),
                (anomalies, FamilyKind::Anomalies),
                (failures, FamilyKind::Failures),
                (last_invoked, FamilyKind::LastInvoked),
            ] {
                if has_changed {
                    self.text.mark(kind, position, Staleness::Values);
                }
            }
        }
        self.record_listed(index, last_listed_micros);
        true
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
            self.mark_changed(index);
        }
    }

    fn show(&mut self, SkillIndex(index): SkillIndex, mut series: SkillSeries, changed_micros: Option<i64>) {
        series.phases.sort_unstable_by(|a, b| a.workflow_phase.cmp(&b.workflow_phase));
        series.anomalies.sort_unstable_by(|a, b| a.anomaly_type.cmp(&b.anomaly_type));
        series.failures.sort_unstable_by(|a, b| a.error_type.cmp(&b.error_type));
        let index = index as usize;
        let Some(skill) = self.skills.get_mut(index) else {
            assert_eq!(index, self.skills.len(), "the ledger gives indices without gaps");
            self.increase.add(None, &series);
            let mut zeros = Zeros::default();
            self.zero_first.hold(index, None, &series, &mut zeros);
            let last_changed_micros = changed_micros;
            self.skills.push(SkillView { series, last_listed_micros: None, last_changed_micros, zeros });
            self.text.add(index, &self.skills);
            self.mark_changed(index);
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
        let failures = staleness(before.failures != now.failures, before.failures.len() != now.failures.len());
        let (invoked, invoked_now) = (before.last_invoked_micros, now.last_invoked_micros);
        let last_invoked = staleness(invoked != invoked_now, invoked.is_some() != invoked_now.is_some());
        if [invocations, anomalies, rates, failures, last_invoked] != [Staleness::Fresh; 5] {
            skill.last_changed_micros = changed_micros.or(skill.last_changed_micros);
            self.mark_changed(index);
        }
        self.text.mark(FamilyKind::Invocations, index, invocations);
        self.text.mark(FamilyKind::Durations, index, invocations);
        self.text.mark(FamilyKind::CompletionRates, index, rates);
        self.text.mark(FamilyKind::Anomalies, index, anomalies);
        self.text.mark(FamilyKind::Failures, index, failures);
        self.text.mark(FamilyKind::LastInvoked, index, last_invoked);
    }

    fn mark_changed(&mut self, index: usize) {
        if let Some(changed) = &mut self.changed {
            changed.mark(index);
        }
    }

    /// Returns the indices of the skills that changed since the last call; `None` at the first one, after which changes are
    /// noted.
    pub fn take_changed(&mut self) -> Option<Vec<usize>> {
        if self.changed.is_none() {
            self.changed = Some(ChangedSkills::default());
            return None;
        }
        self.changed.as_mut().map(ChangedSkills::take)
    }

    /// Returns the number of skills.
    pub fn len(&self) -> usize {
        self.skills.len()
    }

    /// Returns whether there is no skill.
    pub fn is_empty(&self) -> bool {
        self.skills.is_empty()
    }

    /// Returns the skill at `index`.
    ///
    /// # Panics
    /// If there is none.
    pub fn skill(&self, index: usize) -> &SkillView {
        &self.skills[index]
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

    /// Returns whether a scrape is written within a fraction of a millisecond even if everything changed since the last one:
    /// whoever writes it may then have feeds wait for the same thread.
    pub fn is_scrape_small(&self) -> bool {
        // The sum ends where it is too large, and not even skills without samples make it long.
        let samples = |skill| 1 + FamilyKind::ALL.into_iter().map(|kind| kind.samples(skill)).sum::<usize>();
        let mut sums = self.skills.iter().scan(0, |sum, skill| {
            *sum += samples(skill);
            Some(*sum)
        });
        sums.all(|sum| sum <= SMALL_SAMPLES_MAX)
    }

    /// A scrape exposes everything at `now`.
    pub(super) fn begin_scrape(&mut self, now: Instant) {
        self.scraped = Some(now);
        for index in self.zero_first.begin_scrape(now, &mut self.skills) {
            mark_values(&mut self.text, index);
        }
    }

    /// Drops cached text that was not scraped for a while, if there is much of it, and returns whether it did. To be called
    /// every few seconds.
    pub fn drop_idle_text(&mut self, now: Instant) -> bool {
        let idle = self.scraped.take_if(|scraped| now.saturating_duration_since(*scraped) >= TEXT_IDLE_MAX);
        idle.is_some() && self.text.clear_beyond(IDLE_TEXT_BYTES_MAX)
    }

    /// Returns the cached text, and the skills that it is refreshed from.
    pub(super) fn text(&mut self) -> (&mut TextCache, &[SkillView]) {
        (&mut self.text, &self.skills)
    }
}

/// Values of a skill's counters and histograms are exposed otherwise than before.
fn mark_values(text: &mut TextCache, index: usize) {
    for kind in FamilyKind::ALL.into_iter().filter(|kind| kind.is_counter()) {
        text.mark(kind, index, Staleness::Values);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use prometheus::Registry;

    use super::*;
    use crate::exposition::{Encoding, Format, RegistryText, ViewProvider, render};
    use crate::ledger::{AnomalySeries, FailureSeries, Histogram};

    struct Provider(Mutex<View>);

    impl ViewProvider for Provider {
        fn read(&self, read: &mut dyn FnMut(&mut View, u64)) {
            read(&mut self.0.lock().unwrap(), 0);
        }
    }

    fn row(index: u32, count: u64) -> SkillRow {
        let workflow_phase = "execution".into();
        let (durations, born_micros) = (Histogram::default(), Some(1));
        let phase =
            PhaseSeries { workflow_phase, completed: count, abandoned: 0, durations, born_micros, exemplar: None };
        let skill_name = format!("skill-{index}").into();
        let series = SkillSeries { phases: vec![phase], completion_rate: Some(1.0), ..SkillSeries::new(skill_name) };
        SkillRow { index: SkillIndex(index), series, last_listed_micros: 0 }
    }

    #[test]
    fn text_that_was_dropped_is_written_again_as_it_is_by_then() {
        const SKILLS: u32 = 300;
        let bodies = |provider: &Provider| {
            [Encoding::Identity, Encoding::Gzip].map(|encoding| {
                render(
                    provider,
                    &RegistryText::new(Registry::new()),
                    Format::OpenMetrics { with_created: true },
                    encoding,
                )
                .concat()
            })
        };
        let with_count = |count: u64| {
            let mut view = View::default();
            view.apply(Changes { skills: (0..SKILLS).map(|index| row(index, count)).collect(), ..Changes::default() });
            Provider(Mutex::new(view))
        };
        let provider = with_count(1);
        let first = bodies(&provider);
        assert!(!provider.0.lock().unwrap().text.clear_beyond(1 << 30), "there is not so much of it");
        assert!(provider.0.lock().unwrap().text.clear_beyond(1_000));
        assert!(!provider.0.lock().unwrap().text.clear_beyond(0), "nothing is left");
        assert_eq!(bodies(&provider), first);

        provider.0.lock().unwrap().text.clear_beyond(1_000);
        let changed = Changes { skills: (0..SKILLS).map(|index| row(index, 2)).collect(), ..Changes::default() };
        provider.0.lock().unwrap().apply(changed);
        assert_eq!(bodies(&provider), bodies(&with_count(2)));
    }

    /// A skill whose series are in the ledger's order, which is not that of a scrape.
    fn unsorted_row(counts: [u64; 4]) -> SkillRow {
        let [setup, execution, drops, failures] = counts;
        let phase = |name: &str, count: u64| {
            let mut durations = Histogram::default();
            durations.observe(0.75, count, 0.75 * count as f64);
            let (workflow_phase, born_micros) = (name.into(), Some(1));
            PhaseSeries { workflow_phase, completed: count, abandoned: 1, durations, born_micros, exemplar: None }
        };
        let anomaly = |name: &str, count| AnomalySeries { anomaly_type: name.into(), count, born_micros: Some(1) };
        let failure = |name: &str, count| FailureSeries { error_type: name.into(), count, born_micros: Some(1) };
        let series = SkillSeries {
            phases: vec![phase("setup", setup), phase("execution", execution)],
            anomalies: vec![anomaly("spike", 1), anomaly("drop", drops)],
            failures: vec![failure("timeout", failures), failure("refused", 1)],
            completion_rate: Some(1.0 / execution as f64),
            last_invoked_micros: Some(i64::try_from(setup).unwrap() * 1_000_000),
            ..SkillSeries::new("skill-0".into())
        };
        SkillRow { index: SkillIndex(0), series, last_listed_micros: 5_000_000 }
    }

    #[test]
    fn values_copied_in_place_are_exposed_as_those_of_a_row() {
        let body = |provider: &Provider| {
            let text = render(provider, &RegistryText::new(Registry::new()), Format::Text, Encoding::Identity).concat();
            String::from_utf8(text).unwrap()
        };
        let of_row = |counts| {
            let mut view = View::default();
            view.apply(Changes { skills: vec![unsorted_row(counts)], ..Changes::default() });
            Provider(Mutex::new(view))
        };
        let copied = of_row([1, 1, 1, 1]);
        let mut before = body(&copied);
        copied.0.lock().unwrap().take_increase();
        copied.0.lock().unwrap().take_changed();
        let steps = [[9, 1, 1, 1], [9, 10, 1, 1], [9, 10, 3, 1], [9, 10, 3, 100], [12, 11, 4, 101]];
        for (step, counts) in (1..).zip(steps) {
            let SkillRow { index, series, last_listed_micros } = &unsorted_row(counts);
            let skill = SkillRef { index: *index, series, last_listed_micros: *last_listed_micros };
            assert!(copied.0.lock().unwrap().update(skill, step), "no series is new");
            assert_ne!(body(&copied), before, "{counts:?}");
            before = body(&copied);
            assert_eq!(before, body(&of_row(counts)), "{counts:?}");
            let mut view = copied.0.lock().unwrap();
            assert_eq!(view.skill(0).last_changed_micros, Some(step));
            assert_eq!(view.take_changed(), Some(vec![0]));
            assert!(view.update(skill, step + 100), "the same once more");
            assert_eq!(view.skill(0).last_changed_micros, Some(step), "nothing changed");
            assert_eq!(view.take_changed(), Some(Vec::new()));
        }
        let Increase { invocations, completed, durations, anomalies, .. } = copied.0.lock().unwrap().take_increase();
        assert_eq!((invocations, completed, durations.count(), anomalies), (21, 21, 21, 3));
        assert_eq!(durations.sum, 0.75 * 21.0);
    }

    #[test]
    fn a_skill_with_another_series_is_not_copied_in_place() {
        let with = |change: fn(&mut SkillSeries)| {
            let mut row = unsorted_row([1; 4]);
            change(&mut row.series);
            row.series
        };
        let mut view = View::default();
        view.apply(Changes { skills: vec![unsorted_row([1; 4])], ..Changes::default() });
        let others = [
            with(|series| drop(series.phases.pop())),
            with(|series| drop(series.anomalies.pop())),
            with(|series| drop(series.failures.pop())),
            with(|series| series.completion_rate = None),
            with(|series| series.last_invoked_micros = None),
        ];
        for series in &others {
            assert!(!view.update(SkillRef { index: SkillIndex(0), series, last_listed_micros: 9 }, 9), "{series:?}");
        }
        let series = &others[0];
        assert!(!view.update(SkillRef { index: SkillIndex(1), series, last_listed_micros: 9 }, 9), "it is not known");
        assert_eq!(view.skill(0).series.phases.len(), 2, "nothing is changed");
        assert_eq!(view.skill(0).last_listed_micros, Some(5_000_000));
    }

    #[test]
    fn only_text_that_nobody_scraped_for_a_while_is_dropped() {
        let (mut view, start) = (View::default(), Instant::now());
        view.apply(Changes { skills: vec![row(0, 1)], ..Changes::default() });
        assert!(!view.drop_idle_text(start + 2 * TEXT_IDLE_MAX), "it was never scraped");
        view.begin_scrape(start);
        assert!(!view.drop_idle_text(start + TEXT_IDLE_MAX / 2));
        assert_eq!(view.scraped, Some(start), "it is checked again");
        assert!(!view.drop_idle_text(start + TEXT_IDLE_MAX), "there is little of it");
        assert_eq!(view.scraped, None, "and not again before the next scrape");
    }
}
