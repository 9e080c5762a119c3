//! The bridge's own metrics as samples.

use std::sync::Arc;

use prometheus::Registry;
use prometheus::proto::MetricType;

use crate::exposition::own::{FamilyInfo, FamilySink, HistogramValue};
use crate::exposition::{BesideSkills, bound_text, each_other_sample, gather_beside_skills};

use super::series::{OwnSample, SeriesKind, SeriesName, Texts};

/// Gathers what a registry has beside the families of the ledger's skills. From one time to the next most series are the same, in
/// the same order: such a series is compared with its name of the last time, and no text is made of it.
#[derive(Debug)]
pub struct OwnGatherer {
    registry: Registry,
    /// Of the samples of the last time, in their order.
    names: Vec<GatheredName>,
    texts: Texts,
}

#[derive(Debug)]
struct GatheredName {
    name: Arc<SeriesName>,
    /// The bits of the label `le` or `quantile`.
    bound: Option<u64>,
}

impl OwnGatherer {
    /// Creates a gatherer that knows no names.
    pub fn new(registry: Registry) -> Self {
        Self { registry, names: Vec::new(), texts: Texts::default() }
    }

    /// Returns every sample of the registry beside those of the ledger's skills.
    pub fn gather(&mut self) -> Vec<OwnSample> {
        let BesideSkills { own, others } = gather_beside_skills(&self.registry);
        let samples = Vec::with_capacity(self.names.len());
        let mut round = Round { names: &mut self.names, texts: &mut self.texts, samples };
        own.iter().for_each(|source| source.write(&mut round));
        for family in &others {
            each_other_sample(family, |sample| {
                let labels = sample.metric.get_label().iter().map(|label| (label.name(), label.value()));
                let identity =
                    SampleIdentity { family: family.name(), suffix: sample.suffix, labels, bound: sample.bound };
                round.add(identity, sample.is_counter, sample.value);
            });
        }
        let samples = round.samples;
        self.names.truncate(samples.len());
        samples
    }
}

/// One time of gathering.
struct Round<'g> {
    names: &'g mut Vec<GatheredName>,
    texts: &'g mut Texts,
    samples: Vec<OwnSample>,
}

impl Round<'_> {
    fn add<'s>(
        &mut self,
        identity: SampleIdentity<'s, impl Iterator<Item = (&'s str, &'s str)> + Clone>,
        is_counter: bool,
        value: f64,
    ) {
        let place = self.samples.len();
        // One that is new comes between those of the last time, and of those that have gone none comes again.
        match self.names[place..].iter().position(|known| known.is_of(&identity)) {
            Some(gone) => drop(self.names.drain(place..place + gone)),
            None => self.names.insert(place, GatheredName::new(&identity, self.texts)),
        }
        let kind = if is_counter { SeriesKind::Counter } else { SeriesKind::Gauge };
        self.samples.push(OwnSample { name: Arc::clone(&self.names[place].name), kind, value });
    }
}

impl FamilySink for Round<'_> {
    fn begin(&mut self, _: &FamilyInfo<'_>) {}

    fn number(&mut self, family: &FamilyInfo<'_>, labels: &[&str], value: f64) {
        let labels = family.labels.iter().copied().zip(labels.iter().copied());
        let identity = SampleIdentity { family: family.name, suffix: "", labels, bound: None };
        self.add(identity, family.kind == MetricType::COUNTER, value);
    }

    fn histogram(&mut self, family: &FamilyInfo<'_>, labels: &[&str], histogram: &HistogramValue<'_>) {
        histogram.each_sample(|suffix, bound, value| {
            let labels = family.labels.iter().copied().zip(labels.iter().copied());
            let bound = bound.map(|bound| ("le", bound));
            self.add(SampleIdentity { family: family.name, suffix, labels, bound }, true, value);
        });
    }
}

/// Name and labels of a sample as they are gathered.
struct SampleIdentity<'s, L> {
    family: &'s str,
    /// What the name of the sample has behind that of the family.
    suffix: &'static str,
    labels: L,
    /// The label `le` or `quantile`, and its value.
    bound: Option<(&'static str, f64)>,
}

impl<'s, L: Iterator<Item = (&'s str, &'s str)> + Clone> SampleIdentity<'s, L> {
    fn bound_bits(&self) -> Option<u64> {
        self.bound.map(|(_, bound)| bound.to_bits())
    }
}

impl GatheredName {
    fn new<'s>(
        identity: &SampleIdentity<'s, impl Iterator<Item = (&'s str, &'s str)> + Clone>,
        texts: &mut Texts,
    ) -> Self {
        let metric = match identity.suffix {
            "" => texts.shared(identity.family),
            suffix => texts.shared(&[identity.family, suffix].concat()),
        };
        let mut labels: Vec<_> =
            identity.labels.clone().map(|(name, value)| (texts.shared(name), texts.shared(value))).collect();
        labels.extend(identity.bound.map(|(name, bound)| (texts.shared(name), texts.shared(&bound_text(bound)))));
        labels.sort_unstable();
        let name = Arc::new(SeriesName { metric, labels: labels.into() });
        Self { name, bound: identity.bound_bits() }
    }

    /// Returns whether the sample has this name, and the same labels in their order.
    fn is_of<'s>(&self, sample: &SampleIdentity<'s, impl Iterator<Item = (&'s str, &'s str)> + Clone>) -> bool {
        let bound_name = sample.bound.map(|(name, _)| name);
        let mut known = self.name.labels.iter().filter(|(name, _)| Some(&**name) != bound_name);
        let mut has_next =
            |name: &str, value: &str| known.next().is_some_and(|known| (&*known.0, &*known.1) == (name, value));
        self.bound == sample.bound_bits()
            && self.name.metric.strip_prefix(sample.family) == Some(sample.suffix)
            && sample.labels.clone().all(|(name, value)| has_next(name, value))
            && known.next().is_none()
    }
}

#[cfg(test)]
mod tests {
    use prometheus::{Histogram, HistogramOpts, IntCounterVec, Opts};

    use super::*;

    fn named(samples: &[OwnSample]) -> Vec<(String, f64)> {
        let labels = |sample: &OwnSample| -> Vec<String> {
            sample.name.labels.iter().map(|(name, value)| format!("{name}={value}")).collect()
        };
        samples.iter().map(|sample| (format!("{} {:?}", sample.name.metric, labels(sample)), sample.value)).collect()
    }

    #[test]
    fn names_of_the_last_time_are_used_again_whatever_comes_between_and_goes() {
        let registry = Registry::new();
        let served = IntCounterVec::new(Opts::new("served_total", "Served"), &["a", "what"]).unwrap();
        let took = Histogram::with_opts(HistogramOpts::new("took_seconds", "Took").buckets(vec![0.5, 1.0])).unwrap();
        registry.register(Box::new(served.clone())).unwrap();
        registry.register(Box::new(took.clone())).unwrap();
        let mut gatherer = OwnGatherer::new(registry.clone());
        let mut before: Vec<OwnSample> = Vec::new();
        for round in 0..6_u64 {
            match round {
                // The first, the last and a middle one of the family; then one goes.
                0..4 => served.with_label_values(&["x", ["m", "z", "a", "n"][round as usize]]).inc_by(round + 1),
                4 => drop(served.remove_label_values(&["x", "m"])),
                _ => took.observe(0.75),
            }
            let gathered = gatherer.gather();
            let fresh = OwnGatherer::new(registry.clone()).gather();
            assert_eq!(named(&gathered), named(&fresh), "{round}");
            let known = |sample: &&OwnSample| before.iter().any(|old| Arc::ptr_eq(&old.name, &sample.name));
            let reused = gathered.iter().filter(known).count();
            let new = if (1..4).contains(&round) { 1 } else { 0 };
            assert!(round == 0 || reused + new == gathered.len(), "{round}: {reused} of {}", gathered.len());
            before = gathered;
        }
        let again = gatherer.gather();
        assert!(before.iter().zip(&again).all(|(old, new)| Arc::ptr_eq(&old.name, &new.name)));
    }
}
