//! The families for a `prometheus::Registry`.

use std::cell::RefCell;
use std::sync::Arc;

use prometheus::Registry;
use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;

use crate::ledger::DURATION_BUCKETS_SECONDS;

use super::families::{
    ACTIVE_SESSIONS, ANOMALIES, COMPLETION_RATE, DURATIONS, FAILURES, INVOCATIONS, LAST_INVOKED, LAST_LISTED,
};
use super::own::{Families, FamilySink, HistogramValue, OwnMetrics};
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

/// What collectors of this crate do when a registry gathers.
enum Gathering {
    /// They collect their families.
    All,
    /// Those of skills collect nothing: `/metrics` writes these families itself, at a fraction of the cost.
    BesideSkills,
    /// They collect nothing, and those of own metrics hand their sources over.
    Sources(Vec<Arc<dyn OwnMetrics>>),
}

thread_local! {
    /// A registry collects on the thread that gathers, so that this reaches exactly one call.
    static GATHERING: RefCell<Gathering> = const { RefCell::new(Gathering::All) };
}

/// What a registry has beside what a [`FamiliesCollector`] collects.
pub(crate) struct BesideSkills {
    /// The sources of the bridge's own metrics, in no order.
    pub own: Vec<Arc<dyn OwnMetrics>>,
    /// What other collectors collect, as the registry gathers it.
    pub others: Vec<MetricFamily>,
}

/// Gathers what `registry` has beside what a [`FamiliesCollector`] collects, without making families of own metrics.
pub(crate) fn gather_beside_skills(registry: &Registry) -> BesideSkills {
    let (others, gathering) = gather_as(registry, Gathering::Sources(Vec::new()));
    let Gathering::Sources(own) = gathering else { unreachable!("collectors only add to it") };
    BesideSkills { own, others }
}

/// Gathers the same, with the families of own metrics among the others.
pub(super) fn gather_others(registry: &Registry) -> Vec<MetricFamily> {
    gather_as(registry, Gathering::BesideSkills).0
}

/// Hands `source` over if sources are gathered, and returns whether they are.
pub(super) fn hand_over(source: &Arc<dyn OwnMetrics>) -> bool {
    GATHERING.with_borrow_mut(|gathering| match gathering {
        Gathering::Sources(sources) => {
            sources.push(Arc::clone(source));
            true
        }
        Gathering::All | Gathering::BesideSkills => false,
    })
}

fn gather_as(registry: &Registry, gathering: Gathering) -> (Vec<MetricFamily>, Gathering) {
    /// Ends it even if a collector panics: the thread is reused.
    struct Ends;
    impl Drop for Ends {
        fn drop(&mut self) {
            GATHERING.set(Gathering::All);
        }
    }
    GATHERING.set(gathering);
    let _ends = Ends;
    let families = registry.gather();
    (families, GATHERING.replace(Gathering::All))
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
        let mut families = Families::default();
        if GATHERING.with_borrow(|gathering| matches!(gathering, Gathering::All)) {
            self.provider.read(&mut |view, active_sessions| collect(view, active_sessions, &mut families));
        }
        families.0
    }
}

fn collect(view: &View, active_sessions: u64, sink: &mut dyn FamilySink) {
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
    INVOCATIONS.write(invocations, sink);
    DURATIONS.write_histograms(durations, sink);
    COMPLETION_RATE.write(rates, sink);
    ACTIVE_SESSIONS.write_value(active_sessions as f64, sink);
    ANOMALIES.write(anomalies, sink);
    LAST_LISTED.write(last_listed, sink);
    FAILURES.write(failures, sink);
    LAST_INVOKED.write(last_invoked, sink);
}

fn histogram(durations: &crate::ledger::Histogram) -> HistogramValue<'_> {
    let (bounds, count, sum) = (&DURATION_BUCKETS_SECONDS, durations.count(), durations.sum);
    HistogramValue { bounds, counts: &durations.buckets, count, sum }
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
        assert_eq!(names(&gather_beside_skills(&registry).others), ["other_total"]);
        assert_eq!(names(&gather_others(&registry)), ["other_total"]);
        assert_eq!(names(&registry.gather()), ["active_sessions_total", "other_total"]);
    }
}
