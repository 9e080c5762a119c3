//! On a feed that streams, an event that meets another invocation's rise lends it its phase and never its duration, and
//! events of skills that no snapshot lists do not get in the way of those that are listed.

use crate::support::model::{Invocation, Metrics, SECOND, invocation_event, metrics_update};
use crate::support::observer::Observer;

fn streamed(skill_name: &str, phase: &str, seconds: f64) -> Invocation {
    Invocation {
        skill_name: skill_name.to_owned(),
        workflow_phase: Some(phase.to_owned()),
        completed: true,
        duration_seconds: Some(seconds),
    }
}

fn listed(skill_name: &str, total: u64, duration_seconds: f64) -> Metrics {
    Metrics { total, completed: total, duration_seconds, ..Metrics::none(skill_name) }
}

/// A feed that has streamed, so that rises wait for their events.
fn streaming() -> Observer {
    let mut observer = Observer::connected();
    observer.hear(0, &invocation_event(None, 0, &streamed("other", "x", 1.0)), 0);
    observer
}

#[test]
fn an_event_that_meets_history_leaves_its_duration_to_its_own_rise() {
    let mut observer = streaming();
    observer.hear(0, &metrics_update(SECOND, &[listed("s", 1_000, 2_000.0)], &[]), SECOND);
    observer.hear(0, &invocation_event(None, SECOND, &streamed("s", "plan", 7.0)), 2 * SECOND);
    observer.hear(0, &metrics_update(3 * SECOND, &[listed("s", 1_001, 2_007.0)], &[]), 3 * SECOND);
    observer.tick(20 * SECOND);
    let durations = observer.shown.durations("s");
    assert_eq!((durations.count(), durations.sum), (1, 7.0));
    assert_eq!(observer.shown.counts()[&("s".to_owned(), true)], 1_001);
}

#[test]
fn a_late_event_takes_the_duration_of_the_rise_that_it_meets() {
    let mut observer = streaming();
    observer.hear(0, &metrics_update(SECOND, &[listed("s", 10, 10.0)], &[]), SECOND);
    observer.tick(7 * SECOND);
    observer.hear(0, &metrics_update(8 * SECOND, &[listed("s", 11, 110.0)], &[]), 8 * SECOND);
    observer.hear(0, &invocation_event(None, 8 * SECOND, &streamed("s", "plan", 100.0)), 15 * SECOND);
    observer.hear(0, &metrics_update(16 * SECOND, &[listed("s", 12, 111.0)], &[]), 16 * SECOND);
    observer.tick(30 * SECOND);
    let durations = observer.shown.durations("s");
    assert_eq!(durations.count(), 2);
    assert!((durations.sum - 101.0).abs() < 1e-9, "{durations:?}");
}

#[test]
fn events_of_an_unlisted_skill_do_not_cost_others_their_phases() {
    let mut observer = streaming();
    observer.hear(0, &metrics_update(SECOND, &[listed("hidden", 1, 1.0), listed("seen", 1, 1.0)], &[]), SECOND);
    let full: Vec<_> = (0..10).map(|place| listed(&format!("seen-{place}"), 100, 1.0)).collect();
    observer.hear(0, &metrics_update(2 * SECOND, &full, &[]), 2 * SECOND);
    observer.tick(10 * SECOND);
    for _ in 0..12_000 {
        observer.hear(0, &invocation_event(None, 10 * SECOND, &streamed("hidden", "plan", 1.0)), 10 * SECOND);
    }
    observer.hear(0, &invocation_event(None, 11 * SECOND, &streamed("seen-0", "plan", 2.0)), 11 * SECOND);
    let mut risen = full;
    risen[0] = listed("seen-0", 101, 3.0);
    observer.hear(0, &metrics_update(12 * SECOND, &risen, &[]), 12 * SECOND);
    let by_phase = observer.shown.counts_by_phase();
    assert_eq!(by_phase.get(&("seen-0".to_owned(), "plan".to_owned(), true)), Some(&1), "{by_phase:?}");
}
