//! What a ledger that was kept can hold. A disk that flips a bit leaves a database that is sound and says nonsense: numbers
//! that would overflow, or never stop being wrong.

use super::ledger::Whole;
use super::memory::{FeedRow, FeedSkillRow, Memory};
use super::series::{SkillRow, SkillSeries};

/// Half of what a column holds: there is room to count on.
const COUNT_MAX: u64 = 1 << 62;

/// Years beyond 30,000 in either direction: no server's time, and no overflow when times are compared.
const MICROS_MAX: i64 = 1_000_000_000_000_000_000;

impl Whole {
    /// Whether every value is one that a ledger can come to by itself.
    ///
    /// # Errors
    /// The first that is not, in words.
    pub(super) fn check(&self) -> Result<(), String> {
        let Self { skills, rules: _, memory } = self;
        for SkillRow { series, .. } in skills {
            unless(series.is_possible(), || format!("the series of {:?} cannot be", series.skill_name))?;
        }
        let Memory { feeds, feed_skills, tallies, anomalies, event_ids, marks, details, .. } = memory;
        for row in feeds {
            unless(row.is_possible(), || format!("the feed {:?} cannot be", row.counters.identity))?;
        }
        for row in feed_skills {
            unless(row.is_possible(), || format!("what is remembered of {:?} cannot be", row.skill_name))?;
        }
        for row in tallies {
            let shown = row.listed.max(row.streamed);
            let is_possible = shown <= COUNT_MAX && row.before <= shown;
            unless(is_possible, || format!("the number of anomalies of {:?} cannot be", row.skill_name))?;
        }
        for (key, row) in anomalies {
            let is_possible = row.is_none_or(|row| row.multiplicity <= COUNT_MAX && is_time(row.seen_micros));
            unless(is_possible, || format!("an anomaly of {:?} cannot be", key.skill_name))?;
        }
        for row in details {
            let keys = [row.told_until, row.history_until, row.invocations_cursor, row.anomalies_cursor];
            unless(keys.into_iter().all(is_key), || "where a database was read to cannot be".to_owned())?;
        }
        for row in marks {
            unless(is_key(row.mark.id), || "a row of a database that was read cannot be".to_owned())?;
        }
        for ids in event_ids.windows(2).filter(|ids| ids[0].feed == ids[1].feed) {
            let follows = ids[0].sequence.checked_add(1) == Some(ids[1].sequence);
            unless(follows, || format!("between the events {:?} and {:?} some are missing", ids[0].id, ids[1].id))?;
        }
        Ok(())
    }
}

impl SkillSeries {
    fn is_possible(&self) -> bool {
        let phases = self.phases.iter().all(|phase| {
            let counts = [phase.completed, phase.abandoned].into_iter().chain(phase.durations.buckets);
            are_counts(counts) && is_sum(phase.durations.sum) && phase.born_micros.is_none_or(is_time)
        });
        let are_born = self.anomalies.iter().all(|series| series.born_micros.is_none_or(is_time));
        let anomalies = are_counts(self.anomalies.iter().map(|series| series.count)) && are_born;
        phases && is_ratio(self.completion_rate) && anomalies
    }
}

impl FeedRow {
    fn is_possible(&self) -> bool {
        let times = [self.previous_micros, self.newest_forgotten_micros];
        are_counts([self.sessions_count, self.first_event_id, self.counters.resets, self.counters.rollbacks])
            && times.into_iter().flatten().all(is_time)
    }
}

impl FeedSkillRow {
    fn is_possible(&self) -> bool {
        let remembered = self.remembered.is_none_or(|numbers| {
            numbers.completed <= numbers.total && numbers.total <= COUNT_MAX && numbers.duration_sum.is_none_or(is_sum)
        });
        let gauge = self.gauge.is_none_or(|(total, completed, rate_percent)| {
            is_sum(total) && is_sum(completed) && (0.0..=100.0).contains(&rate_percent)
        });
        let events = self.waiting.events.iter().all(|event| event.duration_seconds.is_none_or(is_sum));
        let rises = self.waiting.rises.iter().all(|rise| {
            let is_known = |(value, error): (f64, f64)| value.is_finite() && is_sum(error);
            are_counts([rise.completed, rise.abandoned]) && rise.durations.is_none_or(is_known)
        });
        let credit = are_counts([self.credit.0, self.credit.1]) && self.credit_duration_sum.is_none_or(is_sum);
        let rows_counted = are_counts([self.rows_counted.0, self.rows_counted.1]);
        remembered && gauge && events && rises && credit && rows_counted && is_ratio(self.streamed_rate)
    }
}

fn unless(is_possible: bool, problem: impl FnOnce() -> String) -> Result<(), String> {
    if is_possible { Ok(()) } else { Err(problem()) }
}

/// Whether these can be added up.
fn are_counts(counts: impl IntoIterator<Item = u64>) -> bool {
    counts.into_iter().map(u128::from).sum::<u128>() <= u128::from(COUNT_MAX)
}

fn is_sum(value: f64) -> bool {
    value.is_finite() && value >= 0.0
}

fn is_ratio(rate: Option<f64>) -> bool {
    rate.is_none_or(|rate| (0.0..=1.0).contains(&rate))
}

/// Whether `id` can be the key of a row that was read, or 0 for none.
fn is_key(id: i64) -> bool {
    id >= 0
}

fn is_time(micros: i64) -> bool {
    (-MICROS_MAX..=MICROS_MAX).contains(&micros)
}
