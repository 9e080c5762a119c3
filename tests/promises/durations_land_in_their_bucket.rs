//! A duration that the feed tells only as the growth of a mean lands in the bucket of the duration itself (rule 4.2).

use crate::support::model::{Metrics, SECOND, metrics_update};
use crate::support::observer::Observer;
use crate::support::property;
use crate::support::shown::bucket_of;
use proptest::prelude::*;
use session_buddy_bridge::internals::ledger::DURATION_BUCKETS_SECONDS;

/// The error that a difference of two reconstructed sums can have, as a share of the larger sum.
const EPSILON: f64 = 1.0 / (1_u64 << 50) as f64;

/// Durations on the bounds, one float beside them, and as near as a clock of 0.1 ms tells them apart.
fn durations() -> impl Strategy<Value = f64> {
    let bound = prop::sample::select(DURATION_BUCKETS_SECONDS.to_vec());
    (bound, 0..5).prop_map(|(bound, side)| match side {
        0 => bound,
        1 => bound.next_up(),
        2 => bound.next_down(),
        3 => ((bound * 1e4).round() + 1.0) / 1e4,
        _ => ((bound * 1e4).round() - 1.0) / 1e4,
    })
}

/// The bucket of a duration, where one within ε above a bound is that bound.
fn expected_bucket(seconds: f64, sum: f64) -> usize {
    bucket_of(seconds - EPSILON * sum)
}

proptest! {
    #![proptest_config(property())]

    /// After a past of any size, one more completion a snapshot; abandoned ones and ones without a duration between.
    #[test]
    fn one_completion_between_two_snapshots(
        past in (0_u64..1 << 40, 0_u64..1 << 40, 0.0..1e9_f64),
        steps in prop::collection::vec((durations(), 0_u64..3, prop::bool::weighted(0.1)), 1..60),
    ) {
        let (completed, abandoned, duration_seconds) = past;
        let duration_seconds = if completed == 0 { 0.0 } else { duration_seconds };
        let mut skill = Metrics { total: completed + abandoned, completed, duration_seconds, ..Metrics::none("a") };
        let mut observer = Observer::connected();
        observer.hear(0, &metrics_update(0, &[], &[]), 0);
        let listed = if skill.total == 0 { &[][..] } else { std::slice::from_ref(&skill) };
        observer.hear(0, &metrics_update(SECOND, listed, &[]), SECOND);

        let before = observer.shown.durations("a");
        let (mut buckets, mut sum, mut scale) = (before.buckets, before.sum, skill.duration_seconds);
        for (second, (seconds, abandoned, without_duration)) in (2..).zip(steps) {
            skill.total += 1 + abandoned;
            skill.completed += 1;
            if !without_duration {
                skill.duration_seconds += seconds;
                buckets[expected_bucket(seconds, skill.duration_seconds)] += 1;
                sum += seconds;
            }
            scale += skill.duration_seconds;
            observer.hear(0, &metrics_update(second * SECOND, std::slice::from_ref(&skill), &[]), second * SECOND);
            prop_assert_eq!(observer.shown.durations("a").buckets, buckets, "after {} s", seconds);
        }
        let error = (observer.shown.durations("a").sum - sum).abs();
        prop_assert!(error <= EPSILON * scale, "the sum is off by {error} of {sum}");
        prop_assert_eq!(observer.shown.rules.inexact_rates, 0, "every rate of the server's is exact");
        prop_assert_eq!(observer.shown.counts()[&("a".to_owned(), true)], skill.completed);
    }

    /// Several completions of one duration: their mean is that duration.
    #[test]
    fn several_equal_completions(times in 2_u64..500, seconds in durations(), snapshots in 1_i64..20) {
        let mut skill = Metrics::none("a");
        let mut observer = Observer::connected();
        observer.hear(0, &metrics_update(0, &[], &[]), 0);
        for second in 1..=snapshots {
            skill.total += times;
            skill.completed += times;
            (0..times).for_each(|_| skill.duration_seconds += seconds);
            observer.hear(0, &metrics_update(second * SECOND, std::slice::from_ref(&skill), &[]), second * SECOND);
        }
        let shown = observer.shown.durations("a");
        prop_assert_eq!(shown.count(), skill.completed);
        prop_assert!((shown.sum - skill.duration_seconds).abs() <= 1e-9 * skill.duration_seconds);
        prop_assert_eq!(observer.shown.rules.estimated_observations, skill.completed);
    }
}

#[test]
fn a_fall_of_the_sum_starts_durations_over_and_keeps_counts() {
    let mut observer = Observer::connected();
    let mut hear = |second: i64, completed: u64, duration_seconds: f64| {
        let skill = Metrics { total: completed, completed, duration_seconds, ..Metrics::none("a") };
        observer.hear(0, &metrics_update(second * SECOND, &[skill], &[]), second * SECOND);
        (observer.shown.counts()[&("a".to_owned(), true)], observer.shown.durations("a").count())
    };
    assert_eq!(hear(1, 1000, 5000.0), (1000, 0), "history");
    assert_eq!(hear(2, 1001, 5002.0), (1001, 1));
    assert_eq!(hear(3, 1001, 4990.0), (1001, 1), "a correction of durations counts nothing");
    assert_eq!(hear(4, 1002, 4993.0), (1002, 2), "and durations start again from there");
    assert_eq!(hear(5, 1003, f64::NAN), (1003, 2), "no number, no duration");
    assert_eq!(hear(6, 1004, -5.0), (1004, 2), "a negative mean neither");
    assert_eq!(hear(7, 1005, 5010.0), (1005, 2), "the first valid sum again");
    assert_eq!(hear(8, 1006, 5013.0), (1006, 3), "two valid sums follow each other");
}

#[test]
fn a_difference_within_epsilon_of_zero_is_no_duration() {
    let mut observer = Observer::connected();
    for (second, (completed, duration_seconds)) in (0..).zip([(3, 0.3), (4, 0.3), (7, 0.3)]) {
        let skill = Metrics { total: completed, completed, duration_seconds, ..Metrics::none("a") };
        observer.hear(0, &metrics_update(second * SECOND, &[skill], &[]), second * SECOND);
    }
    assert_eq!(observer.shown.durations("a").count(), 0);
    assert_eq!(observer.shown.counts()[&("a".to_owned(), true)], 7);
}
