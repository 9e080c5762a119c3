//! The families for a `prometheus::Registry`.

use std::cell::Cell;
use std::sync::Arc;

use prometheus::Registry;
use prometheus::core::{Collector, Desc};
use prometheus::proto::{Bucket, Histogram, MetricFamily};

use crate::ledger::DURATION_BUCKETS_SECONDS;

use super::families::{
    ACTIVE_SESSIONS, ANOMALIES, COMPLETION_RATE, DURATIONS, FAILURES, INVOCATIONS, LAST_INVOKED, LAST_LISTED,
};
use super::view::View;

/// Provides the view that scrapes, collectors and the live page read.
pub trait ViewProvider: Send + Sync {
    /// Calls `read` with the view and the number of active sessions, both of the same moment.
    fn read(&self, read: &mut dyn FnMut(&mut View, u64));
}

/// The five families, and the bridge's own metrics of skills, for a registry. A registry drops families without series and writes
/// the bound 1.0 as `1`; [`super::encode_families`] does neither, and `/metrics` uses that.
pub struct FamiliesCollector {
    provider: Arc<dyn ViewProvider>,
    descs: Vec<Desc>,
}

thread_local! {
    static OTHERS_ONLY: Cell<bool> = const { Cell::new(false) };
}

/// Gathers everything of `registry` except for what a [`FamiliesCollector`] collects: `/metrics` writes these families itself,
/// at a fraction of the cost. A registry collects on the thread that gathers, so a thread-local mark reaches exactly this
/// call.
pub fn gather_others(registry: &Registry) -> Vec<MetricFamily> {
    /// Removes the mark even if a collector panics: the thread is reused.
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
    /// Creates a collector of the families of `provider`.
    pub fn new(provider: Arc<dyn ViewProvider>) -> Self {
        let mut descs = vec![
            INVOCATIONS.desc(),
            DURATIONS.desc(),
            COMPLETION_RATE.desc(),
            ACTIVE_SESSIONS.desc(),
            ANOMALIES.desc(),
            LAST_LISTED.desc(),
            FAILURES.desc(),
            LAST_INVOKED.desc(),
        ];
        descs.extend(DURATIONS.sample_descs());
        Self { provider, descs }
    }
}

impl std::fmt::Debug for FamiliesCollector {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FamiliesCollector").finish_non_exhaustive()
    }
}

impl Collector for FamiliesCollector {
    fn desc(&self) -> Vec<&Desc> {
        self.descs.iter().collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let mut families = Vec::new();
        if !OTHERS_ONLY.get() {
            self.provider.read(&mut |view, active_sessions| families = collect(view, active_sessions));
        }
        families
    }
}

fn collect(view: &View, active_sessions: u64) -> Vec<MetricFamily> {
    let invocations = view.phases().flat_map(|(skill, phase)| {
        let series = |completed, value| ([skill, &phase.workflow_phase, completed], value as f64);
        [series("false", phase.abandoned), series("true", phase.completed)]
    });
    let durations = view.phases().map(|(skill, phase)| ([skill, &*phase.workflow_phase], histogram(&phase.durations)));
    let rates = view.skills().filter_map(|skill| skill.completion_rate.map(|rate| ([&*skill.skill_name], rate)));
    let anomalies = view.skills().flat_map(|skill| {
        skill.anomalies.iter().map(|series| ([&*series.anomaly_type, &*skill.skill_name], series.count as f64))
    });
    let last_listed = view
        .shown()
        .filter_map(|skill| skill.last_listed_micros.map(|micros| ([&*skill.series.skill_name], micros as f64 / 1e6)));
    let failures = view.skills().flat_map(|skill| {
        skill.failures.iter().map(|series| ([&*skill.skill_name, &*series.error_type], series.count as f64))
    });
    let last_invoked = view
        .skills()
        .filter_map(|skill| skill.last_invoked_micros.map(|micros| ([&*skill.skill_name], micros as f64 / 1e6)));
    vec![
        INVOCATIONS.with(invocations),
        DURATIONS.with_histograms(durations),
        COMPLETION_RATE.with(rates),
        ACTIVE_SESSIONS.value(active_sessions as f64),
        ANOMALIES.with(anomalies),
        LAST_LISTED.with(last_listed),
        FAILURES.with(failures),
        LAST_INVOKED.with(last_invoked),
    ]
}

/// Finite bounds only: the crate's encoder derives `+Inf` from the count.
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
        impl ViewProvider for Empty {
            fn read(&self, read: &mut dyn FnMut(&mut View, u64)) {
                read(&mut View::default(), 3);
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
