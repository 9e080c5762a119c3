//! What a snapshot's numbers prove.

use crate::protocol::{Number, Rejection, RejectionReason, SkillEntry};

use super::series::DURATION_BUCKETS_SECONDS;

/// The relative error within which two derived numbers are taken for equal.
///
/// A derived sum is `average × completed`, where the average was itself a rounded quotient: two roundings of at most
/// 2^-53 each, on either side of a difference. 2^-50 covers them and stays far below any duration that is measured.
pub(super) const RELATIVE_ERROR: f64 = 1.0 / (1_u64 << 50) as f64;

/// Totals from here on do not give back the number of completions.
const TOTAL_MAX: u64 = 1 << 50;

/// The numbers of one accepted entry.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Listing {
    pub total: u64,
    /// The nearest whole number to `total × rate`.
    pub completed: u64,
    /// Whether `completed` is what the server counted: its rate gives a whole number.
    pub exact: bool,
    pub rate_percent: f64,
    /// Seconds of all completed invocations; `None` where the average or the rate does not tell.
    pub duration_sum: Option<f64>,
}

impl Listing {
    /// What `entry` proves.
    ///
    /// # Errors
    /// A total that is no whole number below 2^50, or a rate that is no number from 0 to 100.
    pub fn of(entry: &SkillEntry<'_>) -> Result<Self, Rejection> {
        let total = required(entry.total_invocations, "total_invocations")?;
        if !(0.0..TOTAL_MAX as f64).contains(&total) || total.fract() != 0.0 {
            return Err(out_of_range("total_invocations", "a whole number below 2^50", total));
        }
        let rate_percent = required(entry.completion_rate_percent, "completion_rate")?;
        if !(0.0..=100.0).contains(&rate_percent) {
            return Err(out_of_range("completion_rate", "a percentage from 0 to 100", rate_percent));
        }
        let product = total * rate_percent / 100.0;
        let completed = product.round();
        let exact = (product - completed).abs() <= RELATIVE_ERROR * total;
        let duration_sum = match entry.average_duration_seconds {
            _ if !exact => None,
            Number::Missing => Some(0.0),
            Number::Finite(average) if average >= 0.0 => Some(average * completed).filter(|sum| sum.is_finite()),
            Number::Finite(_) | Number::Invalid => None,
        };
        Ok(Self { total: total as u64, completed: completed as u64, exact, rate_percent, duration_sum })
    }
}

fn required(number: Number, name: &str) -> Result<f64, Rejection> {
    match number {
        Number::Finite(value) => Ok(value),
        Number::Missing => Err(Rejection::new(RejectionReason::MissingField, format!("`{name}` is missing or null"))),
        Number::Invalid => Err(Rejection::new(RejectionReason::InvalidNumber, format!("`{name}` is no finite number"))),
    }
}

fn out_of_range(name: &str, range: &str, value: f64) -> Rejection {
    Rejection::new(RejectionReason::NumberOutOfRange, format!("`{name}` should be {range}, found {value}"))
}

/// Seconds, known to within an error.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Seconds {
    pub value: f64,
    pub error: f64,
}

impl Seconds {
    /// The sum of both. Stays finite: an infinity could not be persisted.
    pub fn plus(self, other: Self) -> Self {
        Self {
            value: (self.value + other.value).clamp(f64::MIN, f64::MAX),
            error: (self.error + other.error).min(f64::MAX),
        }
    }

    /// The increase from one sum to another. Negative where the sum fell.
    pub fn between(earlier: f64, later: f64) -> Self {
        Self { value: later - earlier, error: RELATIVE_ERROR * later.max(earlier) }
    }

    pub fn fell(&self) -> bool {
        self.value < -self.error
    }

    pub fn is_zero(&self) -> bool {
        self.value.abs() <= self.error
    }

    /// What is left after `seconds` are explained otherwise. Stays finite: an infinity could not be kept.
    pub fn less(self, seconds: f64) -> Self {
        Self {
            value: (self.value - seconds).max(f64::MIN),
            error: (self.error + RELATIVE_ERROR * seconds).min(f64::MAX),
        }
    }

    /// The duration that this difference of sums stands for: a bucket's bound where it lies above it by no more than the
    /// error. A duration of exactly 5 s would otherwise land in the bucket above whenever the sums round upwards.
    pub fn snapped(self) -> f64 {
        let below = DURATION_BUCKETS_SECONDS.partition_point(|bound| *bound < self.value);
        match below.checked_sub(1).map(|index| DURATION_BUCKETS_SECONDS[index]) {
            Some(bound) if self.value - bound <= self.error => bound,
            _ => self.value,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(total: f64, rate: f64, average: Number) -> SkillEntry<'static> {
        SkillEntry {
            skill_name: "s".into(),
            total_invocations: Number::Finite(total),
            completion_rate_percent: Number::Finite(rate),
            average_duration_seconds: average,
        }
    }

    #[test]
    fn exact_rates_give_back_the_count() {
        for total in [1_u64, 2, 3, 7, 32, 97, 1_000, 999_983, (1 << 40) + 7, (1 << 50) - 1] {
            for completed in [0, 1, total / 3, total / 2, total - 1, total] {
                let rate = 100.0 * completed as f64 / total as f64;
                let listing = Listing::of(&entry(total as f64, rate, Number::Missing)).unwrap();
                assert!(listing.exact, "{completed}/{total}");
                assert_eq!(listing.completed, completed, "{completed}/{total}");
            }
        }
    }

    #[test]
    fn rounded_rates_are_seen_to_be_inexact() {
        let listing = Listing::of(&entry(97.0, 33.33, Number::Finite(1.0))).unwrap();
        assert!(!listing.exact);
        assert_eq!(listing.duration_sum, None);
    }

    #[test]
    fn bad_averages_make_the_sum_unknown_and_no_average_makes_it_zero() {
        for (average, sum) in [
            (Number::Missing, Some(0.0)),
            (Number::Finite(2.0), Some(8.0)),
            (Number::Finite(-1.0), None),
            (Number::Invalid, None),
            (Number::Finite(f64::MAX), None),
        ] {
            assert_eq!(Listing::of(&entry(8.0, 50.0, average)).unwrap().duration_sum, sum, "{average:?}");
        }
    }

    #[test]
    fn a_duration_just_above_a_bound_is_the_bound() {
        let just_above = Seconds { value: 5.0 + 1e-13, error: 1e-12 };
        assert_eq!(just_above.snapped(), 5.0);
        let above = Seconds { value: 5.0 + 1e-11, error: 1e-12 };
        assert_eq!(above.snapped(), above.value);
        let below = Seconds { value: 0.05, error: 1e-12 };
        assert_eq!(below.snapped(), 0.05);
    }
}
