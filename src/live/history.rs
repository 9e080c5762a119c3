//! The last hour: by how much series increased, sample by sample.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use serde::Serialize;
use url::form_urlencoded;

use super::quantile::quantile;
use crate::exposition::Increase;
use crate::http::QueryError;

/// The time that is exposed.
const SPAN: Duration = Duration::from_secs(3600);

/// The time before a point that it summarizes.
const WINDOW: Duration = Duration::from_secs(60);

/// Shortest time from which a rate is computed.
const COVERED_MIN: Duration = Duration::from_secs(5);

#[derive(Debug)]
struct Sample {
    at: Instant,
    at_seconds: f64,
    /// Time since the sample before.
    covered: Duration,
    /// Without invocations from before the first snapshot that were added to series already exposed.
    invocations: u64,
    /// Only anomalies if there are such invocations: it is unknown which of them completed, and how long they took.
    increase: Increase,
    active_sessions: u64,
}

#[derive(Debug)]
pub(super) struct History {
    samples: VecDeque<Sample>,
    latest: Instant,
}

/// The response.
#[derive(Debug, Serialize)]
pub(super) struct Points {
    window_seconds: u64,
    points: Vec<Point>,
}

/// What happened in the minute before a point in time.
#[derive(Debug, Serialize)]
struct Point {
    at_seconds: f64,
    invocations_per_minute: Option<f64>,
    completion_rate: Option<f64>,
    duration_mean_seconds: Option<f64>,
    duration_p95_seconds: Option<f64>,
    /// Since the point before, not in the whole minute.
    anomalies: u64,
    active_sessions: u64,
}

/// Returns the parameter `after`, in seconds since the Unix epoch.
pub(super) fn after(query: &str) -> Result<f64, QueryError> {
    let Some((_, value)) = form_urlencoded::parse(query.as_bytes()).find(|(name, _)| name == "after") else {
        return Ok(f64::NEG_INFINITY);
    };
    value.parse().ok().filter(|after: &f64| after.is_finite()).ok_or_else(|| QueryError {
        parameter: "after",
        value: value.into_owned(),
        problem: "give seconds since the Unix epoch, such as the at_seconds of the last point".to_owned(),
    })
}

impl History {
    pub fn new(began: Instant) -> Self {
        Self { samples: VecDeque::new(), latest: began }
    }

    pub fn record(&mut self, at: Instant, at_seconds: f64, increase: Increase, active_sessions: u64) {
        // A clock that was set back: points come in the order of their times, and these lie ahead now.
        while self.samples.back().is_some_and(|last| last.at_seconds >= at_seconds) {
            self.samples.pop_back();
        }
        let covered = at.saturating_duration_since(self.latest);
        self.latest = at;
        let invocations = increase.invocations.saturating_sub(increase.backfilled);
        let increase = if increase.backfilled == 0 {
            increase
        } else {
            Increase { anomalies: increase.anomalies, ..Increase::default() }
        };
        self.samples.push_back(Sample { at, at_seconds, covered, invocations, increase, active_sessions });
        while self.samples.front().is_some_and(|first| at.saturating_duration_since(first.at) > SPAN + WINDOW) {
            self.samples.pop_front();
        }
    }

    /// Returns the points later than `after_seconds` since the Unix epoch, within [`SPAN`].
    pub fn points(&self, after_seconds: f64) -> Points {
        let is_asked_for = |sample: &Sample| {
            sample.at_seconds > after_seconds && self.latest.saturating_duration_since(sample.at) <= SPAN
        };
        let points = (0..self.samples.len()).filter(|&index| is_asked_for(&self.samples[index]));
        Points { window_seconds: WINDOW.as_secs(), points: points.map(|index| self.point(index)).collect() }
    }

    fn point(&self, index: usize) -> Point {
        let last = &self.samples[index];
        let (mut sum, mut covered, mut invocations) = (Increase::default(), Duration::ZERO, 0);
        for sample in self.samples.range(..=index).rev() {
            // A sample counts whole. The latest always does: after a pause it covers more than the window.
            if !covered.is_zero() && covered + sample.covered > WINDOW + COVERED_MIN / 2 {
                break;
            }
            covered += sample.covered;
            invocations += sample.invocations;
            sum.merge(&sample.increase);
        }
        let observed = sum.durations.count();
        let share = |part: f64, whole: u64| (whole > 0).then(|| part / whole as f64);
        Point {
            at_seconds: last.at_seconds,
            invocations_per_minute: (covered >= COVERED_MIN)
                .then(|| invocations as f64 * WINDOW.as_secs_f64() / covered.as_secs_f64()),
            completion_rate: share(sum.completed as f64, sum.invocations),
            duration_mean_seconds: share(sum.durations.sum, observed),
            duration_p95_seconds: quantile(0.95, &sum.durations),
            anomalies: last.increase.anomalies,
            active_sessions: last.active_sessions,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ledger::Histogram;

    fn increase(invocations: u64, completed: u64) -> Increase {
        joined(invocations, 0, completed)
    }

    fn joined(invocations: u64, backfilled: u64, completed: u64) -> Increase {
        let mut durations = Histogram::default();
        durations.buckets[4] = completed;
        durations.sum = 3.0 * completed as f64;
        Increase { invocations, backfilled, completed, durations, anomalies: 0 }
    }

    /// A sample each 5 s from the beginning on.
    fn history(samples: impl IntoIterator<Item = Increase>) -> (Instant, History) {
        let began = Instant::now();
        let mut history = History::new(began);
        for (number, increase) in (1..).zip(samples) {
            let elapsed = Duration::from_secs(5 * number);
            history.record(began + elapsed, 1000.0 + elapsed.as_secs_f64(), increase, 1);
        }
        (began, history)
    }

    #[test]
    fn a_point_is_of_the_minute_before_it() {
        let (_, history) = history((0..24).map(|number| increase(if number < 12 { 2 } else { 1 }, 1)));
        let points = history.points(f64::NEG_INFINITY).points;
        assert_eq!(points.len(), 24);
        // Two each 5 s are 24 a minute, also while less than a minute has been watched.
        assert_eq!(points[0].invocations_per_minute, Some(24.0));
        assert_eq!(points[11].invocations_per_minute, Some(24.0));
        assert_eq!(points[11].completion_rate, Some(0.5));
        assert_eq!(points[17].invocations_per_minute, Some(18.0));
        assert_eq!(points[23].invocations_per_minute, Some(12.0));
        assert_eq!(points[23].duration_mean_seconds, Some(3.0));
        assert_eq!(points[23].duration_p95_seconds, Some(4.85));
        assert_eq!(history.points(1110.0).points.len(), 2);
    }

    #[test]
    fn what_joined_from_the_past_is_no_rate_and_quiet_has_no_share() {
        let (_, history) = history([joined(7, 7, 7), joined(12, 10, 6), increase(4, 1), increase(0, 0)]);
        let points = history.points(f64::NEG_INFINITY).points;
        let told: Vec<_> = points.iter().map(|point| (point.invocations_per_minute, point.completion_rate)).collect();
        // Of the 12 of the second sample 2 happened in it, and which of them were completed nobody knows.
        assert_eq!(told, [(Some(0.0), None), (Some(12.0), None), (Some(24.0), Some(0.25)), (Some(18.0), Some(0.25)),]);
        assert_eq!(points[1].duration_p95_seconds, None);
    }

    #[test]
    fn points_keep_their_order_where_the_clock_is_set_back() {
        let (began, mut history) = history((0..4).map(|_| increase(1, 1)));
        history.record(began + Duration::from_secs(25), 1012.0, increase(1, 1), 1);
        let times: Vec<f64> = history.points(f64::NEG_INFINITY).points.iter().map(|point| point.at_seconds).collect();
        assert_eq!(times, [1005.0, 1010.0, 1012.0]);
    }

    #[test]
    fn an_hour_is_kept_and_a_pause_is_spread() {
        let (began, mut history) = history((0..1000).map(|_| increase(1, 1)));
        assert_eq!(history.points(f64::NEG_INFINITY).points.len(), 721);
        assert!(history.samples.len() <= 734);
        let woken = Duration::from_secs(5000 + 600);
        history.record(began + woken, 1000.0 + woken.as_secs_f64(), increase(100, 100), 1);
        assert_eq!(history.points(f64::NEG_INFINITY).points.last().unwrap().invocations_per_minute, Some(10.0));
    }
}
