//! The bridge's own metrics beside those of skills: each source lists its families once, and the text of a scrape, the samples of a
//! push and the families of a registry are made from that list.

use std::sync::Arc;

use prometheus::core::{Collector, Desc};
use prometheus::proto::{Bucket, Counter, Gauge, Histogram, LabelPair, Metric, MetricFamily, MetricType};

use super::collector::hand_over;

/// A source of the bridge's own metrics. It never blocks.
pub(crate) trait OwnMetrics: Send + Sync {
    /// Returns the description of every family that it may have, and of the samples of its histograms.
    fn descs(&self) -> Vec<Desc>;

    /// Passes its families to `sink` with the values of this moment: each family once, and none without series.
    fn write(&self, sink: &mut dyn FamilySink);
}

/// Name, help, type and labels of a family.
#[derive(Debug, Clone, Copy)]
pub(crate) struct FamilyInfo<'f> {
    pub name: &'static str,
    pub help: &'static str,
    pub kind: MetricType,
    pub labels: &'f [&'static str],
}

/// Receives families.
pub(crate) trait FamilySink {
    /// A family begins; what follows is of it until the next one begins.
    fn begin(&mut self, family: &FamilyInfo<'_>);

    /// Returns whether the series of a family must ascend by the values of their labels, as a registry sorts them. Otherwise they
    /// have the order of their source.
    fn needs_order(&self) -> bool {
        false
    }

    /// The family has a counter or gauge with these values of its labels.
    fn number(&mut self, family: &FamilyInfo<'_>, labels: &[&str], value: f64);

    /// The family has a histogram with these values of its labels.
    fn histogram(&mut self, family: &FamilyInfo<'_>, labels: &[&str], histogram: &HistogramValue<'_>);
}

/// The value of a histogram.
#[derive(Debug, Clone, Copy)]
pub(crate) struct HistogramValue<'h> {
    /// Finite upper bounds, ascending.
    pub bounds: &'h [f64],
    /// Of each bound, how many observations are in its bucket and not in an earlier one.
    pub counts: &'h [u64],
    /// Of all observations.
    pub count: u64,
    /// Of all observations.
    pub sum: f64,
}

impl HistogramValue<'_> {
    fn cumulative(&self) -> impl Iterator<Item = (f64, u64)> {
        self.bounds.iter().zip(self.counts).scan(0, |sum, (bound, count)| {
            *sum += count;
            Some((*bound, *sum))
        })
    }

    /// Calls `each` with the suffix, the bound and the value of each sample, in the order of a scrape.
    pub fn each_sample(&self, mut each: impl FnMut(&'static str, Option<f64>, f64)) {
        for (bound, count) in self.cumulative() {
            each("_bucket", Some(bound), count as f64);
        }
        each("_bucket", Some(f64::INFINITY), self.count as f64);
        each("_sum", None, self.sum);
        each("_count", None, self.count as f64);
    }
}

/// A source of own metrics in a `prometheus::Registry`.
pub struct OwnCollector {
    source: Arc<dyn OwnMetrics>,
    descs: Vec<Desc>,
}

impl OwnCollector {
    /// Creates a collector of the families of `source`.
    pub(crate) fn new(source: impl OwnMetrics + 'static) -> Self {
        Self { descs: source.descs(), source: Arc::new(source) }
    }
}

impl std::fmt::Debug for OwnCollector {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("OwnCollector").field("descs", &self.descs).finish_non_exhaustive()
    }
}

impl Collector for OwnCollector {
    fn desc(&self) -> Vec<&Desc> {
        self.descs.iter().collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        if hand_over(&self.source) {
            return Vec::new();
        }
        let mut families = Families::default();
        self.source.write(&mut families);
        families.0
    }
}

/// Families as a registry gathers them.
#[derive(Debug, Default)]
pub(super) struct Families(pub Vec<MetricFamily>);

impl Families {
    fn add(&mut self, family: &FamilyInfo<'_>, labels: &[&str], set_value: impl FnOnce(&mut Metric)) {
        let pair = |(name, value): (&&str, &&str)| {
            let mut pair = LabelPair::default();
            pair.set_name((*name).to_owned());
            pair.set_value((*value).to_owned());
            pair
        };
        let mut metric = Metric::from_label(family.labels.iter().zip(labels).map(pair).collect());
        set_value(&mut metric);
        self.0.last_mut().expect("a family begins before its series").mut_metric().push(metric);
    }
}

impl FamilySink for Families {
    fn begin(&mut self, info: &FamilyInfo<'_>) {
        let mut family = MetricFamily::default();
        family.set_name(info.name.to_owned());
        family.set_help(info.help.to_owned());
        family.set_field_type(info.kind);
        self.0.push(family);
    }

    fn number(&mut self, family: &FamilyInfo<'_>, labels: &[&str], value: f64) {
        self.add(family, labels, |metric| {
            if family.kind == MetricType::COUNTER {
                let mut counter = Counter::default();
                counter.set_value(value);
                metric.set_counter(counter);
            } else {
                let mut gauge = Gauge::default();
                gauge.set_value(value);
                metric.set_gauge(gauge);
            }
        });
    }

    /// Finite bounds only: an encoder derives `+Inf` from the count.
    fn histogram(&mut self, family: &FamilyInfo<'_>, labels: &[&str], value: &HistogramValue<'_>) {
        let buckets = value.cumulative().map(|(bound, count)| {
            let mut bucket = Bucket::default();
            bucket.set_upper_bound(bound);
            bucket.set_cumulative_count(count);
            bucket
        });
        let mut histogram = Histogram::default();
        histogram.set_bucket(buckets.collect());
        histogram.set_sample_count(value.count);
        histogram.set_sample_sum(value.sum);
        self.add(family, labels, |metric| metric.set_histogram(histogram));
    }
}
