//! The families for a `prometheus::Registry`.

use std::cell::Cell;
use std::collections::HashMap;
use std::sync::Arc;

use prometheus::Registry;
use prometheus::core::{Collector, Desc};
use prometheus::proto::{Bucket, Counter, Gauge, Histogram, LabelPair, Metric, MetricFamily};

use crate::ledger::DURATION_BUCKETS_SECONDS;

use super::families::{ACTIVE_SESSIONS, ANOMALIES, COMPLETION_RATE, DURATIONS, Family, INVOCATIONS, LAST_LISTED};
use super::view::View;

/// Where a collector finds what it shows.
pub trait Source: Send + Sync {
    /// Calls `read` with the view and the number of active sessions, both of one moment.
    fn read(&self, read: &mut dyn FnMut(&View, u64));
}

/// Shows the five families, and when each skill was last listed, to a registry. A registry drops families without series,
/// and prints the bound 1.0 as `1`; [`super::encode_families`] does neither, so `/metrics` does not go through here.
pub struct FamiliesCollector {
    source: Arc<dyn Source>,
    descs: Vec<Desc>,
}

thread_local! {
    static OTHERS_ONLY: Cell<bool> = const { Cell::new(false) };
}

/// Gathers everything of `registry` but what [`FamiliesCollector`]s show: `/metrics` writes these families itself, at a
/// fraction of the cost of building them here. A registry collects on the thread that gathers, so a mark on the thread
/// reaches exactly this call.
pub fn gather_others(registry: &Registry) -> Vec<MetricFamily> {
    /// Takes the mark off again even if a collector panics: the thread lives on.
    struct Mark;
    impl Drop for Mark {
        fn drop(&mut self) {
            OTHERS_ONLY.set(false);
        }
    }
    OTHERS_ONLY.set(true);
    let _mark = Mark;
    registry.gather()
}

impl FamiliesCollector {
    /// A collector of what `source` shows.
    pub fn new(source: Arc<dyn Source>) -> Self {
        let families = [INVOCATIONS, DURATIONS, COMPLETION_RATE, ACTIVE_SESSIONS, ANOMALIES, LAST_LISTED];
        Self { source, descs: families.iter().map(desc).collect() }
    }
}

impl Collector for FamiliesCollector {
    fn desc(&self) -> Vec<&Desc> {
        self.descs.iter().collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let mut families = Vec::new();
        if !OTHERS_ONLY.get() {
            self.source.read(&mut |view, active_sessions| families = collect(view, active_sessions));
        }
        families
    }
}

fn collect(view: &View, active_sessions: u64) -> Vec<MetricFamily> {
    let invocations = view.phases().flat_map(|(skill, phase)| {
        let series = |completed, value| counter(&INVOCATIONS, &[skill, &phase.workflow_phase, completed], value);
        [series("false", phase.abandoned), series("true", phase.completed)]
    });
    let durations = view.phases().map(|(skill, phase)| {
        let mut metric = Metric::from_label(labels(&DURATIONS, &[skill, &phase.workflow_phase]));
        metric.set_histogram(histogram(&phase.durations));
        metric
    });
    let rates = view
        .skills()
        .filter_map(|skill| skill.completion_rate.map(|rate| gauge(&COMPLETION_RATE, &[&skill.skill_name], rate)));
    let anomalies = view.skills().flat_map(|skill| {
        let series = |(kind, count): &(Arc<str>, u64)| counter(&ANOMALIES, &[kind, &skill.skill_name], *count);
        skill.anomalies.iter().map(series)
    });
    let last_listed = view.shown().filter_map(|skill| {
        skill.last_listed_micros.map(|micros| gauge(&LAST_LISTED, &[&skill.series.skill_name], micros as f64 / 1e6))
    });
    vec![
        family(&INVOCATIONS, invocations.collect()),
        family(&DURATIONS, durations.collect()),
        family(&COMPLETION_RATE, rates.collect()),
        family(&ACTIVE_SESSIONS, vec![gauge(&ACTIVE_SESSIONS, &[], active_sessions as f64)]),
        family(&ANOMALIES, anomalies.collect()),
        family(&LAST_LISTED, last_listed.collect()),
    ]
}

fn desc(family: &Family) -> Desc {
    let labels = family.labels.iter().map(ToString::to_string).collect();
    Desc::new(family.name.to_owned(), family.help.to_owned(), labels, HashMap::new())
        .expect("every family is a constant with a valid name, help and labels")
}

fn family(of: &Family, series: Vec<Metric>) -> MetricFamily {
    let mut family = MetricFamily::default();
    family.set_name(of.name.to_owned());
    family.set_help(of.help.to_owned());
    family.set_field_type(of.kind);
    family.set_metric(series);
    family
}

fn labels(family: &Family, values: &[&str]) -> Vec<LabelPair> {
    let pair = |(name, value): (&&str, &&str)| {
        let mut pair = LabelPair::default();
        pair.set_name((*name).to_owned());
        pair.set_value((*value).to_owned());
        pair
    };
    family.labels.iter().zip(values).map(pair).collect()
}

fn counter(family: &Family, values: &[&str], value: u64) -> Metric {
    let mut counter = Counter::default();
    counter.set_value(value as f64);
    let mut metric = Metric::from_label(labels(family, values));
    metric.set_counter(counter);
    metric
}

fn gauge(family: &Family, values: &[&str], value: f64) -> Metric {
    let mut gauge = Gauge::default();
    gauge.set_value(value);
    let mut metric = Metric::from_label(labels(family, values));
    metric.set_gauge(gauge);
    metric
}

/// Finite bounds only: the crate's encoder adds `+Inf` from the count.
fn histogram(durations: &crate::ledger::Histogram) -> Histogram {
    let mut cumulative = 0;
    let buckets = DURATION_BUCKETS_SECONDS.iter().zip(durations.buckets).map(|(bound, count)| {
        cumulative += count;
        let mut bucket = Bucket::default();
        bucket.set_upper_bound(*bound);
        bucket.set_cumulative_count(cumulative);
        bucket
    });
    let mut histogram = Histogram::default();
    histogram.set_bucket(buckets.collect());
    histogram.set_sample_count(durations.count());
    histogram.set_sample_sum(durations.sum);
    histogram
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_others_are_gathered_without_the_families() {
        struct Empty;
        impl Source for Empty {
            fn read(&self, read: &mut dyn FnMut(&View, u64)) {
                read(&View::default(), 3);
            }
        }
        let registry = Registry::new();
        registry.register(Box::new(FamiliesCollector::new(Arc::new(Empty)))).unwrap();
        registry.register(Box::new(prometheus::IntCounter::new("other_total", "Another").unwrap())).unwrap();
        let names = |families: &[MetricFamily]| families.iter().map(|f| f.name().to_owned()).collect::<Vec<_>>();
        assert_eq!(names(&gather_others(&registry)), ["other_total"]);
        assert_eq!(names(&registry.gather()), ["active_sessions_total", "other_total"]);
    }
}
