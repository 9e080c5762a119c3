//! What changed since the last tick.
//!
//! A tick compares the skills that the view marked as changed, value by value: the samples of a skill have the same order as
//! long as it has the same series, so that neither text nor a hash is made of a series that is known.

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;
use std::sync::Arc;

use crate::exposition::{ACTIVE_SESSIONS_NAME, SkillSample, SkillShape, View, each_skill_sample};
use crate::ledger::SkillSeries;

use super::series::{
    Labels, Origin, OwnSample, STALE, Series, SeriesId, SeriesKind, SeriesName, Texts, TickKind, TickTime, is_stale,
};

/// The series of the queue, and the value of each in its newest tick.
#[derive(Debug)]
pub(super) struct Sampler {
    /// Those in the queue, and behind them those of ticks that could not be queued yet.
    catalog: Vec<Arc<Series>>,
    /// How many of the catalog are in the queue.
    queued: usize,
    /// By series; [`STALE`] where it has none.
    last: Vec<f64>,
    /// Series that the last sample had no value of.
    vanished: HashMap<SeriesName, SeriesId>,
    /// By the skill's index in the view.
    skills: Vec<SkillIds>,
    /// The series of every skill, one behind the other: a tick that compares all of them reads memory in its order.
    skill_ids: Vec<SeriesId>,
    /// Skills that changed since the last tick that was queued.
    changed: Vec<usize>,
    active_sessions: Option<SeriesId>,
    /// What the registry gathered, each with its place in `own_series`.
    own: BTreeMap<Arc<SeriesName>, usize>,
    own_series: Vec<OwnSeries>,
    /// The places of what was gathered last, in its order.
    own_order: Vec<(Arc<SeriesName>, usize)>,
    samples_taken: u64,
    /// Whether this process has queued a tick.
    has_queued: bool,
    newest: Option<TickTime>,
    texts: Texts,
}

#[derive(Debug)]
struct OwnSeries {
    id: SeriesId,
    /// In which of the samples it was gathered last.
    gathered: u64,
}

/// The series of a skill, in the order of its samples.
#[derive(Debug, Default)]
struct SkillIds {
    shape: SkillShape,
    /// Their place in [`Sampler::skill_ids`].
    place: Range<usize>,
}

/// A tick that is not queued yet.
#[derive(Debug)]
pub(super) struct Draft {
    pub time: TickTime,
    /// The number of the first of the new series.
    pub first: SeriesId,
    /// Series that the queue does not have.
    pub new: Vec<Arc<Series>>,
    /// By ascending series.
    pub values: Vec<(SeriesId, f64)>,
}

/// When and how a tick is taken.
#[derive(Debug, Clone, Copy)]
pub(super) struct Occasion {
    pub time: TickTime,
    pub kind: TickKind,
    /// Milliseconds between ticks.
    pub interval_millis: i64,
}

impl Sampler {
    /// Restores a sampler from the series of a queue, and the value of each at its `newest` tick.
    pub fn new(catalog: Vec<Arc<Series>>, last: Vec<f64>, newest: Option<TickTime>) -> Self {
        let ids = catalog.iter().enumerate().map(|(index, series)| (series.name.clone(), SeriesId::at(index)));
        Self {
            queued: catalog.len(),
            vanished: ids.collect(),
            catalog,
            last,
            skills: Vec::new(),
            skill_ids: Vec::new(),
            changed: Vec::new(),
            active_sessions: None,
            own: BTreeMap::new(),
            own_series: Vec::new(),
            own_order: Vec::new(),
            samples_taken: 0,
            has_queued: false,
            newest,
            texts: Texts::default(),
        }
    }

    /// Returns the series of the queue.
    pub fn catalog(&self) -> &[Arc<Series>] {
        &self.catalog[..self.queued]
    }

    /// Returns the time of the newest tick.
    pub fn newest(&self) -> Option<TickTime> {
        self.newest
    }

    /// Samples the view and what the registry gathered.
    pub fn sample(&mut self, view: &mut View, active_sessions: u64, own: Vec<OwnSample>, occasion: Occasion) -> Draft {
        self.samples_taken += 1;
        let mut values = Vec::new();
        match view.take_changed() {
            Some(changed) if self.samples_taken > 1 => self.changed.extend(changed),
            // The first time: what was noted before was noted for another sampler, if at all.
            _ => self.changed = (0..view.len()).collect(),
        }
        self.changed.sort_unstable();
        self.changed.dedup();
        for position in 0..self.changed.len() {
            self.sample_skill(self.changed[position], view, occasion, &mut values);
        }
        self.drop_replaced_ids();
        self.sample_sessions(active_sessions, &mut values);
        self.sample_own(own, occasion, &mut values);
        for id in self.vanished.values() {
            self.push_changed(*id, STALE, &mut values);
        }
        if occasion.kind == TickKind::Final {
            let is_gauge = |id: SeriesId| self.catalog[id.index()].kind == SeriesKind::Gauge;
            values.retain(|(id, _)| !is_gauge(*id));
            let gauges = (0..self.catalog.len()).map(SeriesId::at).filter(|id| is_gauge(*id));
            gauges.for_each(|id| self.push_changed(id, STALE, &mut values));
        }
        values.sort_unstable_by_key(|(id, _)| *id);
        // A program's own collectors may gather a series twice.
        values.dedup_by_key(|(id, _)| *id);
        let new = self.catalog[self.queued..].to_vec();
        Draft { time: occasion.time, first: SeriesId::at(self.queued), new, values }
    }

    /// A draft was queued. One that was not is sampled again, together with what changes until then.
    pub fn accept(&mut self, draft: &Draft) {
        for (id, value) in &draft.values {
            self.last[id.index()] = *value;
        }
        self.queued += draft.new.len();
        self.changed.clear();
        self.has_queued = true;
        self.newest = Some(draft.time);
    }

    fn push_changed(&self, id: SeriesId, value: f64, values: &mut Vec<(SeriesId, f64)>) {
        if self.last[id.index()].to_bits() != value.to_bits() {
            values.push((id, value));
        }
    }

    fn sample_skill(&mut self, index: usize, view: &View, occasion: Occasion, values: &mut Vec<(SeriesId, f64)>) {
        let skill = view.skill(index);
        let shape = SkillShape::of(skill);
        if index >= self.skills.len() {
            self.skills.resize_with(index + 1, SkillIds::default);
        }
        if self.skills[index].shape != shape {
            for place in std::mem::take(&mut self.skills[index].place) {
                let id = self.skill_ids[place];
                self.vanished.insert(self.catalog[id.index()].name.clone(), id);
            }
            let first = self.skill_ids.len();
            each_skill_sample(skill, |sample| {
                let name = self.skill_series_name(&sample);
                let kind = if sample.is_counter { SeriesKind::Counter } else { SeriesKind::Gauge };
                let origin = if sample.is_own { Origin::Bridge } else { Origin::Families };
                let began = || began(born_micros(&skill.series, &sample), self.newest, occasion);
                let zero_at = self.zero_at(sample.value, kind, began, occasion);
                let id = self.number(name, kind, origin, zero_at);
                self.skill_ids.push(id);
            });
            self.skills[index] = SkillIds { shape, place: first..self.skill_ids.len() };
        }
        let mut ids = self.skill_ids[self.skills[index].place.clone()].iter();
        each_skill_sample(skill, |sample| {
            let id = ids.next().expect("a skill of this shape has a number for each sample");
            self.push_changed(*id, sample.value, values);
        });
    }

    /// Skills that got other series have new places: what is at their old ones is dropped.
    fn drop_replaced_ids(&mut self) {
        let used = self.skills.iter().map(|skill| skill.place.len()).sum();
        if self.skill_ids.len() == used {
            return;
        }
        let mut ids = Vec::with_capacity(used);
        for SkillIds { place, .. } in &mut self.skills {
            let first = ids.len();
            ids.extend_from_slice(&self.skill_ids[place.clone()]);
            *place = first..ids.len();
        }
        self.skill_ids = ids;
    }

    fn sample_sessions(&mut self, active_sessions: u64, values: &mut Vec<(SeriesId, f64)>) {
        let id = match self.active_sessions {
            Some(id) => id,
            None => {
                let name = SeriesName { metric: self.texts.shared(ACTIVE_SESSIONS_NAME), labels: Labels::default() };
                self.number(name, SeriesKind::Gauge, Origin::Families, None)
            }
        };
        self.active_sessions = Some(id);
        self.push_changed(id, active_sessions as f64, values);
    }

    fn sample_own(&mut self, own: Vec<OwnSample>, occasion: Occasion, values: &mut Vec<(SeriesId, f64)>) {
        let round = self.samples_taken;
        let before = std::mem::take(&mut self.own_order);
        let mut order = Vec::with_capacity(own.len());
        for (number, OwnSample { name, kind, value }) in own.into_iter().enumerate() {
            let as_before = before.get(number).filter(|(known, _)| Arc::ptr_eq(known, &name)).map(|(_, place)| *place);
            let place = match as_before.or_else(|| self.own.get(&name).copied()) {
                Some(place) => place,
                None => {
                    // Where an earlier tick of this process was without it, it was 0 then.
                    let began = || self.has_queued;
                    let zero_at = self.zero_at(value, kind, began, occasion);
                    let id = self.number(SeriesName::clone(&name), kind, Origin::Bridge, zero_at);
                    self.own_series.push(OwnSeries { id, gathered: round });
                    self.own.insert(Arc::clone(&name), self.own_series.len() - 1);
                    self.own_series.len() - 1
                }
            };
            self.own_series[place].gathered = round;
            self.push_changed(self.own_series[place].id, value, values);
            order.push((name, place));
        }
        self.own_order = order;
        for series in self.own_series.iter().filter(|series| series.gathered != round) {
            self.push_changed(series.id, STALE, values);
        }
    }

    /// Returns when a series was 0 whose first sample has this value, if it is to be sent as 0 first.
    fn zero_at(
        &self,
        value: f64,
        kind: SeriesKind,
        began: impl FnOnce() -> bool,
        occasion: Occasion,
    ) -> Option<TickTime> {
        // Which series the ticks of a queue that was emptied had is not known.
        let is_emptied = self.queued == 0 && self.newest.is_some();
        let begins = !is_emptied && kind == SeriesKind::Counter && value != 0.0 && began();
        begins.then(|| tick_before(self.newest, occasion))
    }

    /// Returns the number of a series that is not being sampled yet.
    fn number(&mut self, name: SeriesName, kind: SeriesKind, origin: Origin, zero_at: Option<TickTime>) -> SeriesId {
        if let Some(id) = self.vanished.remove(&name) {
            return id;
        }
        let id = SeriesId::at(self.catalog.len());
        self.catalog.push(Arc::new(Series { name, kind, origin, zero_at }));
        self.last.push(STALE);
        id
    }

    fn skill_series_name(&mut self, sample: &SkillSample<'_>) -> SeriesName {
        let metric = if sample.suffix.is_empty() {
            self.texts.shared(sample.name)
        } else {
            self.texts.shared(&format!("{}{}", sample.name, sample.suffix))
        };
        let labels = sample.labels.iter().filter(|(name, _)| !name.is_empty());
        let mut labels: Labels =
            labels.map(|(name, value)| (self.texts.shared(name), self.texts.shared(value))).collect();
        labels.sort_unstable();
        SeriesName { metric, labels }
    }
}

/// Returns when a series that `occasion` samples first was 0.
fn tick_before(newest: Option<TickTime>, Occasion { time, interval_millis, .. }: Occasion) -> TickTime {
    newest.unwrap_or_else(|| TickTime::from_millis(time.millis() - interval_millis))
}

/// Returns whether a series that `occasion` samples first, and that began to count at 0 at `born_micros`, was 0 at the tick
/// before. The queue's newest tick was without it; without one, the clock decides.
fn began(born_micros: Option<i64>, newest: Option<TickTime>, occasion: Occasion) -> bool {
    born_micros.is_some_and(|born| newest.is_some() || born >= tick_before(newest, occasion).millis() * 1000)
}

/// Returns when the series of `sample` began to count at 0, in microseconds since the Unix epoch; `None` if it is history.
fn born_micros(series: &SkillSeries, sample: &SkillSample<'_>) -> Option<i64> {
    let label = |name| sample.labels.iter().find(|(known, _)| *known == name).map(|(_, value)| *value);
    if let Some(phase) = label("workflow_phase") {
        return series.phases.iter().find(|series| &*series.workflow_phase == phase)?.born_micros;
    }
    if let Some(error_type) = label("error_type") {
        return series.failures.iter().find(|series| &*series.error_type == error_type)?.born_micros;
    }
    let anomaly_type = label("anomaly_type")?;
    series.anomalies.iter().find(|series| &*series.anomaly_type == anomaly_type)?.born_micros
}

/// Returns the series that have a value, with it.
pub(super) fn present(values: &[f64]) -> Vec<(SeriesId, f64)> {
    let values = values.iter().enumerate().filter(|(_, value)| !is_stale(**value));
    values.map(|(index, value)| (SeriesId::at(index), *value)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ledger::{AnomalySeries, Changes, FailureSeries, Histogram, PhaseSeries, SkillIndex, SkillRow};

    /// A skill in whose series each step adds one, of another family each time.
    fn growing() -> Vec<(SkillSeries, i64)> {
        let born_micros = Some(1);
        let phase = |workflow_phase: &str| PhaseSeries {
            workflow_phase: workflow_phase.into(),
            completed: 1,
            abandoned: 1,
            durations: Histogram { buckets: [1; 10], sum: 2.5 },
            born_micros,
            exemplar: None,
        };
        let steps: [fn(&mut SkillSeries); 5] = [
            |series| series.completion_rate = Some(0.5),
            |series| series.last_invoked_micros = Some(7_000_000),
            |series| {
                let failure = |name: &str| FailureSeries { error_type: name.into(), count: 1, born_micros: Some(1) };
                series.failures.push(failure(if series.failures.is_empty() { "z" } else { "a" }));
            },
            |series| {
                let anomaly = |name: &str| AnomalySeries { anomaly_type: name.into(), count: 1, born_micros: Some(1) };
                series.anomalies.push(anomaly(if series.anomalies.is_empty() { "z" } else { "a" }));
            },
            |series| series.completion_rate = None,
        ];
        let mut series = SkillSeries::new("a".into());
        series.phases.push(phase("z"));
        let mut moments = vec![(series.clone(), 0)];
        for step in steps.into_iter().chain(steps) {
            step(&mut series);
            moments.push((series.clone(), 0));
        }
        series.phases.push(phase("a"));
        moments.push((series.clone(), 0));
        moments.push((series, 9_000_000));
        moments
    }

    #[test]
    fn every_family_of_a_skill_is_sampled_from_the_tick_in_which_it_begins() {
        let mut view = View::default();
        let mut sampler = Sampler::new(Vec::new(), Vec::new(), None);
        for (number, (series, last_listed_micros)) in growing().into_iter().enumerate() {
            let other = SkillSeries { skill_name: "b".into(), ..series.clone() };
            // By turns, so that each gets other series while the other one does not.
            let skills = if number == 0 {
                vec![(0, series), (1, other)]
            } else {
                vec![if number % 2 == 0 { (0, series) } else { (1, other) }]
            };
            let row = |(index, series)| SkillRow { index: SkillIndex(index), series, last_listed_micros };
            view.apply(Changes { skills: skills.into_iter().map(row).collect(), ..Changes::default() });
            let time = TickTime::from_millis(60_000 * (number as i64 + 1));
            let occasion = Occasion { time, kind: TickKind::Regular, interval_millis: 60_000 };
            let draft = sampler.sample(&mut view, 1, Vec::new(), occasion);
            sampler.accept(&draft);
            let mut shown = Vec::new();
            for skill in [0, 1] {
                each_skill_sample(view.skill(skill), |sample| {
                    shown.push((sampler.skill_series_name(&sample), sample.value.to_bits()));
                });
            }
            assert_eq!(sampler.skill_ids.len(), shown.len(), "the places of the present series are all there is");
            let known = sampler.catalog.iter().zip(&sampler.last);
            let mut sampled: Vec<_> = known
                .filter(|(series, value)| !is_stale(**value) && &*series.name.metric != ACTIVE_SESSIONS_NAME)
                .map(|(series, value)| (series.name.clone(), value.to_bits()))
                .collect();
            shown.sort();
            sampled.sort();
            assert_eq!(sampled, shown, "after {number} steps");
        }
        let begins_at_zero = |metric: &str| {
            sampler
                .catalog
                .iter()
                .filter(|series| &*series.name.metric == metric)
                .all(|series| series.zero_at.is_some())
        };
        assert!(
            begins_at_zero("session_buddy_bridge_skill_failures_total") && begins_at_zero("anomalies_detected_total")
        );
    }
}
