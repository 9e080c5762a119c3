//! The bridge's own metrics as samples.

use std::sync::Arc;

use prometheus::Registry;
use prometheus::proto::MetricFamily;

use crate::exposition::{OtherSample, each_other_sample, gather_others};

use super::series::{Labels, OwnSample, SeriesKind, SeriesName, Texts};

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
        let mut samples = Vec::with_capacity(self.names.len());
        let Self { registry, names, texts } = self;
        for family in &gather_others(registry) {
            each_other_sample(family, |sample| {
                let place = samples.len();
                // One that is new comes between those of the last time, and of those that have gone none comes again.
                match names[place..].iter().position(|known| known.is_of(family, &sample)) {
                    Some(gone) => drop(names.drain(place..place + gone)),
                    None => names.insert(place, GatheredName::new(family, &sample, texts)),
                }
                let kind = if sample.is_counter { SeriesKind::Counter } else { SeriesKind::Gauge };
                samples.push(OwnSample { name: Arc::clone(&names[place].name), kind, value: sample.value });
            });
        }
        names.truncate(samples.len());
        samples
    }
}

impl GatheredName {
    fn new(family: &MetricFamily, sample: &OtherSample<'_>, texts: &mut Texts) -> Self {
        let metric = match sample.suffix {
            "" => texts.shared(family.name()),
            suffix => texts.shared(&[family.name(), suffix].concat()),
        };
        let bound = sample.bound_label();
        let own = sample.metric.get_label().iter().map(|label| (label.name(), label.value()));
        let labels = own.chain(bound.iter().map(|(name, text)| (*name, text.as_str())));
        let mut labels: Labels = labels.map(|(name, value)| (texts.shared(name), texts.shared(value))).collect();
        labels.sort_unstable();
        Self { name: Arc::new(SeriesName { metric, labels }), bound: bound_bits(sample) }
    }

    /// Returns whether `sample` of `family` has this name, and the same labels in their order.
    fn is_of(&self, family: &MetricFamily, sample: &OtherSample<'_>) -> bool {
        let bound = bound_bits(sample);
        let own = sample.metric.get_label();
        let bound_name = sample.bound.map(|(name, _)| name);
        let mut labels = self.name.labels.iter().filter(|(name, _)| Some(&**name) != bound_name);
        self.bound == bound
            && self.name.metric.strip_prefix(family.name()) == Some(sample.suffix)
            && self.name.labels.len() == own.len() + usize::from(bound.is_some())
            && own.iter().all(|label| {
                labels.next().is_some_and(|(name, value)| **name == *label.name() && **value == *label.value())
            })
    }
}

fn bound_bits(sample: &OtherSample<'_>) -> Option<u64> {
    sample.bound.map(|(_, bound)| bound.to_bits())
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
