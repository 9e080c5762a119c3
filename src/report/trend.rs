//! Whether two counts differ by more than chance.

/// How many standard deviations the difference of two counts has to exceed: chance alone exceeds them in about 5 % of the
/// cases.
const DEVIATIONS: u128 = 2;

/// How invocations changed from one period to the next, of the same length.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trend {
    /// More than before.
    Up,
    /// Fewer than before.
    Down,
    /// Within the error of the difference.
    Steady,
}

impl Trend {
    /// Compares two counts. Their difference is taken for a change if it exceeds its error, two standard deviations: counts of
    /// independent events have the variance of their mean (Poisson), so that the difference of `before` and `now` has the
    /// standard deviation √(before + now).
    pub fn between(before: u64, now: u64) -> Self {
        let difference = u128::from(now.abs_diff(before));
        let variance = u128::from(before) + u128::from(now);
        // In whole numbers, so that it is exact: difference > DEVIATIONS * sqrt(variance).
        let exceeds =
            difference.checked_mul(difference).is_none_or(|square| square > DEVIATIONS * DEVIATIONS * variance);
        match (exceeds, now > before) {
            (false, _) => Self::Steady,
            (true, true) => Self::Up,
            (true, false) => Self::Down,
        }
    }

    /// Returns the name in JSON and CSV.
    pub(super) fn code(self) -> &'static str {
        match self {
            Self::Up => "up",
            Self::Down => "down",
            Self::Steady => "steady",
        }
    }

    /// Returns what a table shows: an arrow only for a change.
    pub(super) fn arrow(self) -> &'static str {
        match self {
            Self::Up => "↑",
            Self::Down => "↓",
            Self::Steady => "",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_exceeds_two_standard_deviations_of_the_difference() {
        for (before, now, trend) in [
            (0, 0, Trend::Steady),
            (0, 4, Trend::Steady),
            (0, 5, Trend::Up),
            (5, 0, Trend::Down),
            (100, 128, Trend::Steady),
            (100, 131, Trend::Up),
            (100, 74, Trend::Steady),
            (100, 73, Trend::Down),
            (u64::MAX, 0, Trend::Down),
            (u64::MAX, u64::MAX, Trend::Steady),
        ] {
            assert_eq!(Trend::between(before, now), trend, "{before} {now}");
        }
    }

    /// Of counts that differ by chance alone, about one in twenty looks like a change.
    #[test]
    fn chance_is_seldom_taken_for_a_change() {
        let mut random = fastrand::Rng::with_seed(1);
        // A binomial count of small probability is close to a Poisson count.
        let mut count = || (0..10_000).filter(|_| random.u32(..10_000) < 50).count() as u64;
        let changes = (0..400).filter(|_| Trend::between(count(), count()) != Trend::Steady).count();
        assert!((4..=36).contains(&changes), "{changes} of 400");
    }
}
