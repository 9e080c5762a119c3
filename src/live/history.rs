//! The last hour: by how much series increased, sample by sample.
//!
//! An outage, in which no feed delivers, is a gap. What was caught up at its end is known to have happened in it, and the point
//! that ends it has its rate. Where only some feeds deliver nothing, points go on, marked since the last data of the missed source,
//! and those that hold what was caught up say since when.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use serde::Serialize;
use url::form_urlencoded;

use super::coverage::Coverage;
use super::quantile::quantile;
use crate::exposition::Increase;
use crate::http::QueryError;

/// The time that is exposed.
const SPAN: Duration = Duration::from_secs(3600);

/// The time before a point that it summarizes.
const WINDOW: Duration = Duration::from_secs(60);

/// Shortest time from which a rate is computed: less than that between two samples, which is not exact.
const COVERED_MIN: Duration = Duration::from_secs(4);

/// What was observed since the sample before.
#[derive(Debug)]
pub(super) struct Recorded {
    pub at: Instant,
    pub at_seconds: f64,
    /// At this moment.
    pub coverage: Coverage,
    pub has_feeds: bool,
    /// Unix timestamp of the last data of any feed, in seconds.
    pub last_data_seconds: Option<f64>,
    /// Unix timestamp of the last data of the source that is missed for the longest time, in seconds.
    pub missed_since_seconds: Option<f64>,
    pub increase: Increase,
    pub active_sessions: u64,
}

#[derive(Debug)]
struct Sample {
    at: Instant,
    at_seconds: f64,
    /// The time in which its increase happened.
    covered: Duration,
    /// Since the sample before: the least of both moments. Nothing is known of a sample without coverage.
    coverage: Coverage,
    /// Whether it ends an outage, of which it holds everything: no rate of another time is computed from it.
    ends_outage: bool,
    /// Unix timestamp, in seconds, since when some feed had delivered nothing whose increase it holds.
    caught_up_since_seconds: Option<f64>,
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
    /// At the latest sample; `None` before the first.
    coverage: Option<Coverage>,
    outage: Option<Outage>,
    /// Unix timestamp of the last sample of complete coverage, in seconds; `None` before the first.
    complete_seconds: Option<f64>,
}

/// A time in which no feed delivers.
#[derive(Debug)]
struct Outage {
    /// Unix timestamp of the last sample before it, in seconds; `None` if the bridge has just started: what is caught up then
    /// may have happened at any time before.
    since_seconds: Option<f64>,
    covered: Duration,
    increase: Increase,
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
    /// Since the point before.
    coverage: Coverage,
    /// Since when the point holds what happened while a feed delivered nothing.
    caught_up_since_seconds: Option<f64>,
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
        Self { samples: VecDeque::new(), latest: began, coverage: None, outage: None, complete_seconds: None }
    }

    pub fn record(&mut self, recorded: Recorded) {
        let Recorded { at, at_seconds, coverage: now, has_feeds, mut increase, active_sessions, .. } = recorded;
        // A clock that was set back: points come in the order of their times, and these lie ahead now.
        while self.samples.back().is_some_and(|last| last.at_seconds >= at_seconds) {
            self.samples.pop_back();
        }
        let mut covered = at.saturating_duration_since(self.latest);
        self.latest = at;
        let is_first = self.coverage.is_none() && has_feeds;
        let before = self.coverage.replace(now).unwrap_or(now);
        if let (Coverage::Complete, Coverage::Partial, Some(since)) = (before, now, recorded.missed_since_seconds) {
            self.mark_missed(since);
        }
        // A feed that came back since the sample before may bring more of what it missed until the next.
        let coverage = before.min(now);
        let previous = self.samples.back().map(|previous| previous.coverage);
        let improves = now > before || previous.is_some_and(|previous| coverage > previous);
        let mut caught_up_since_seconds = self.complete_seconds.filter(|_| improves);
        let mut ends_outage = false;
        if coverage == Coverage::None {
            let mut outage = self.outage.take().unwrap_or_else(|| self.begin_outage(recorded.last_data_seconds));
            outage.covered += covered;
            outage.increase.merge(&increase);
            self.outage = Some(outage);
            (covered, caught_up_since_seconds, increase) = (Duration::ZERO, None, Increase::default());
        } else if let Some(outage) = self.outage.take() {
            increase.anomalies += outage.increase.anomalies;
            if outage.since_seconds.is_some() {
                ends_outage = true;
                caught_up_since_seconds = outage.since_seconds;
                covered += outage.covered;
                increase.merge(&Increase { anomalies: 0, ..outage.increase });
            }
        }
        if is_first {
            // It may hold what happened before the bridge started.
            (covered, increase) = (Duration::ZERO, Increase { anomalies: increase.anomalies, ..Increase::default() });
        }
        if coverage == Coverage::Complete {
            self.complete_seconds = Some(at_seconds);
        }
        let invocations = increase.invocations.saturating_sub(increase.backfilled);
        let increase = if increase.backfilled == 0 {
            increase
        } else {
            Increase { anomalies: increase.anomalies, ..Increase::default() }
        };
        self.samples.push_back(Sample {
            at,
            at_seconds,
            covered,
            coverage,
            ends_outage,
            caught_up_since_seconds,
            invocations,
            increase,
            active_sessions,
        });
        while self.samples.front().is_some_and(|first| at.saturating_duration_since(first.at) > SPAN + WINDOW) {
            self.samples.pop_front();
        }
    }

    /// Marks the samples since a source delivered its last data. That is noticed after a timeout, in which other sources delivered.
    fn mark_missed(&mut self, since_seconds: f64) {
        for index in (1..self.samples.len()).rev() {
            let begins_seconds = self.samples[index - 1].at_seconds;
            let sample = &mut self.samples[index];
            if begins_seconds < since_seconds || sample.coverage != Coverage::Complete {
                break;
            }
            sample.coverage = Coverage::Partial;
        }
        let complete = self.samples.iter().rfind(|sample| sample.coverage == Coverage::Complete);
        self.complete_seconds = complete.map(|sample| sample.at_seconds);
    }

    /// Begins an outage. It is noticed after a timeout: the samples since the last data, in which nothing happened that is known,
    /// become part of it.
    fn begin_outage(&mut self, last_data_seconds: Option<f64>) -> Outage {
        let mut covered = Duration::ZERO;
        for index in (0..self.samples.len()).rev() {
            let begins_seconds = index.checked_sub(1).map(|before| self.samples[before].at_seconds);
            let sample = &mut self.samples[index];
            let is_silent = begins_seconds.zip(last_data_seconds).is_some_and(|(begins, last)| begins >= last);
            if !is_silent || sample.invocations > 0 || sample.ends_outage {
                return Outage { since_seconds: Some(sample.at_seconds), covered, increase: Increase::default() };
            }
            covered += std::mem::take(&mut sample.covered);
            sample.coverage = Coverage::None;
        }
        Outage { since_seconds: None, covered, increase: Increase::default() }
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
        let mut caught_up_since_seconds = last.caught_up_since_seconds;
        let (mut sum, mut covered, mut invocations) = (Increase::default(), Duration::ZERO, 0);
        for sample in self.samples.range(..=index).rev() {
            let is_latest = covered.is_zero();
            // A sample counts whole. The latest always does: after a pause it covers more than the window.
            let is_beyond = covered + sample.covered > WINDOW + COVERED_MIN / 2 || sample.ends_outage;
            if (is_beyond && !is_latest) || sample.coverage == Coverage::None {
                break;
            }
            covered += sample.covered;
            invocations += sample.invocations;
            sum.merge(&sample.increase);
            caught_up_since_seconds = sample.caught_up_since_seconds.or(caught_up_since_seconds);
            if sample.ends_outage {
                break;
            }
        }
        let observed = sum.durations.count();
        let share = |part: f64, whole: u64| (whole > 0).then(|| part / whole as f64);
        Point {
            at_seconds: last.at_seconds,
            coverage: last.coverage,
            caught_up_since_seconds,
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

    fn recorded(began: Instant, elapsed: Duration, coverage: Coverage, increase: Increase) -> Recorded {
        let at_seconds = 1000.0 + elapsed.as_secs_f64();
        let (last_data_seconds, missed_since_seconds) = (None, None);
        let at = began + elapsed;
        Recorded {
            at,
            at_seconds,
            coverage,
            has_feeds: false,
            last_data_seconds,
            missed_since_seconds,
            increase,
            active_sessions: 1,
        }
    }

    /// A sample of feeds each 5 s: what they did at its end, and its invocations.
    fn feeds(samples: &[(Coverage, u64)]) -> Vec<Point> {
        let began = Instant::now();
        let mut history = History::new(began);
        for (number, (coverage, invocations)) in (1..).zip(samples) {
            let increase = Increase { anomalies: *invocations, ..increase(*invocations, *invocations) };
            let recorded = recorded(began, Duration::from_secs(5 * number), *coverage, increase);
            history.record(Recorded { has_feeds: true, ..recorded });
        }
        history.points(f64::NEG_INFINITY).points
    }

    fn rates(points: &[Point]) -> Vec<Option<f64>> {
        points.iter().map(|point| point.invocations_per_minute).collect()
    }

    #[test]
    fn an_outage_is_a_gap_and_what_was_caught_up_is_its_rate() {
        use Coverage::{Complete, None as Nothing};
        let points = feeds(&[
            (Complete, 3),
            (Complete, 1),
            (Complete, 1),
            (Nothing, 0),
            (Nothing, 0),
            (Complete, 5),
            // What a feed brings that came back before the last sample may still be of the outage.
            (Complete, 1),
            (Complete, 1),
            (Complete, 0),
        ]);
        let rate = |value| Some(value);
        let expected = [
            // The bridge has just started.
            None,
            rate(12.0),
            rate(12.0),
            None,
            None,
            None,
            // 6 in 20 s.
            rate(18.0),
            rate(12.0),
            rate(6.0),
        ];
        assert_eq!(rates(&points), expected);
        let since: Vec<_> = points.iter().map(|point| point.caught_up_since_seconds).collect();
        let mut expected = [None; 9];
        expected[6] = Some(1015.0);
        assert_eq!(since, expected);
        assert!(points[3..6].iter().all(|point| point.coverage == Nothing && point.completion_rate.is_none()));
        assert_eq!(points[6].completion_rate, Some(1.0));
        let anomalies: Vec<_> = points.iter().map(|point| point.anomalies).collect();
        assert_eq!(anomalies, [3, 1, 1, 0, 0, 0, 6, 1, 0], "marks are not lost, and none is in a gap");
    }

    #[test]
    fn an_outage_begins_with_the_last_data_and_not_with_the_timeout() {
        let (began, mut history) = history((0..3).map(|_| increase(1, 1)));
        for (number, coverage) in [(4, Coverage::Complete), (5, Coverage::Complete), (6, Coverage::None)] {
            let silent = recorded(began, Duration::from_secs(5 * number), coverage, increase(0, 0));
            history.record(Recorded { last_data_seconds: Some(1014.0), ..silent });
        }
        for number in [7, 8] {
            let back = recorded(began, Duration::from_secs(5 * number), Coverage::Complete, increase(number - 6, 0));
            history.record(back);
        }
        let points = history.points(f64::NEG_INFINITY).points;
        // 3 in the 25 s from the third sample to the last.
        assert_eq!(rates(&points)[2..], [Some(12.0), None, None, None, None, Some(7.2)]);
        assert_eq!(points[7].caught_up_since_seconds, Some(1015.0));
        assert!(points[3..7].iter().all(|point| point.coverage == Coverage::None));
    }

    #[test]
    fn what_some_feeds_missed_is_marked_while_others_go_on() {
        use Coverage::{Complete, Partial};
        let mut samples = vec![(Complete, 0), (Complete, 2), (Partial, 1), (Partial, 1), (Complete, 9), (Complete, 2)];
        samples.extend([(Complete, 2); 13]);
        let points = feeds(&samples);
        let covered: Vec<_> = points[1..7].iter().map(|point| point.coverage).collect();
        assert_eq!(covered, [Complete, Partial, Partial, Partial, Complete, Complete]);
        let marked: Vec<_> = points.iter().map(|point| point.caught_up_since_seconds).collect();
        assert!(points[1..].iter().all(|point| point.invocations_per_minute.is_some()));
        // For as long as they are in the minute before a point.
        assert_eq!(marked[..4], [None; 4]);
        assert_eq!(marked[4..17], [Some(1010.0); 13]);
        assert_eq!(marked[17..], [None; 2]);
    }

    #[test]
    fn a_missed_source_is_marked_since_its_last_data_and_not_since_the_timeout() {
        let (began, mut history) = history((0..6).map(|_| increase(1, 1)));
        // At 30 s one of two sources is noticed to be missed, since 14 s. It is back at 40 s, and what it missed comes then.
        for (number, coverage) in [(7, Coverage::Partial), (8, Coverage::Partial), (9, Coverage::Complete)] {
            let recorded = recorded(began, Duration::from_secs(5 * number), coverage, increase(number, 0));
            history.record(Recorded { missed_since_seconds: Some(1014.0), ..recorded });
        }
        let back = recorded(began, Duration::from_secs(50), Coverage::Complete, increase(3, 0));
        history.record(back);
        let points = history.points(f64::NEG_INFINITY).points;
        let marked: Vec<_> = points.iter().map(|point| point.coverage == Coverage::Partial).collect();
        assert_eq!(marked, [false, false, false, true, true, true, true, true, true, false]);
        assert!(rates(&points).iter().all(Option::is_some), "other sources deliver");
        assert_eq!(points[9].caught_up_since_seconds, Some(1015.0));
    }

    /// A sample each 5 s from the beginning on, of a program without feeds.
    fn history(samples: impl IntoIterator<Item = Increase>) -> (Instant, History) {
        let began = Instant::now();
        let mut history = History::new(began);
        for (number, increase) in (1..).zip(samples) {
            let elapsed = Duration::from_secs(5 * number);
            history.record(recorded(began, elapsed, Coverage::Complete, increase));
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
        let set_back = recorded(began, Duration::from_secs(25), Coverage::Complete, increase(1, 1));
        history.record(Recorded { at_seconds: 1012.0, ..set_back });
        let times: Vec<f64> = history.points(f64::NEG_INFINITY).points.iter().map(|point| point.at_seconds).collect();
        assert_eq!(times, [1005.0, 1010.0, 1012.0]);
    }

    #[test]
    fn an_hour_is_kept_and_a_pause_is_spread() {
        let (began, mut history) = history((0..1000).map(|_| increase(1, 1)));
        assert_eq!(history.points(f64::NEG_INFINITY).points.len(), 721);
        assert!(history.samples.len() <= 734);
        let woken = Duration::from_secs(5000 + 600);
        history.record(recorded(began, woken, Coverage::Complete, increase(100, 100)));
        assert_eq!(history.points(f64::NEG_INFINITY).points.last().unwrap().invocations_per_minute, Some(10.0));
    }
}
