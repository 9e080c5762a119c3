//! Sums of floating-point numbers.

/// Numbers from here on are summed apart, so that no sum of 2^64 numbers overflows: 2^900.
const LARGE: f64 = f64::from_bits((1_023 + 900) << 52);

/// What large numbers are multiplied with, which loses no digit of them: 2^-64.
const LARGE_SCALE: f64 = f64::from_bits((1_023 - 64) << 52);

/// A sum of numbers that are not negative, and how many they are.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(super) struct Sum {
    count: u64,
    usual: CorrectedSum,
    /// Of those from [`LARGE`] on, times [`LARGE_SCALE`].
    large: CorrectedSum,
}

impl Sum {
    pub fn add(&mut self, value: f64) {
        self.count += 1;
        if value < LARGE { self.usual.add(value) } else { self.large.add(value * LARGE_SCALE) }
    }

    /// Returns the arithmetic mean of at least one number.
    pub fn mean(self) -> f64 {
        let count = self.count as f64;
        let mean = self.usual.value() / count + self.large.value() / count / LARGE_SCALE;
        // Of the largest numbers it can be rounded beyond them.
        mean.min(f64::MAX)
    }
}

/// A sum with the correction of Kahan, Babuška and Neumaier, as SQLite's `sum` and `avg` have it from version 3.43 on: many
/// small durations after a large one are not lost.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
struct CorrectedSum {
    sum: f64,
    correction: f64,
}

impl CorrectedSum {
    fn add(&mut self, value: f64) {
        let sum = self.sum + value;
        let lost = if self.sum.abs() > value.abs() { (self.sum - sum) + value } else { (value - sum) + self.sum };
        self.correction += lost;
        self.sum = sum;
    }

    fn value(self) -> f64 {
        self.sum + self.correction
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mean(values: impl IntoIterator<Item = f64>) -> f64 {
        let mut sum = Sum::default();
        values.into_iter().for_each(|value| sum.add(value));
        sum.mean()
    }

    #[test]
    fn small_numbers_after_a_large_one_are_not_lost() {
        let values = std::iter::once(1e16).chain(std::iter::repeat_n(1.0, 999));
        assert_eq!(mean(values), (1e16 + 999.0) / 1_000.0);
    }

    #[test]
    fn means_do_not_overflow() {
        assert_eq!(mean([1e308, 1e308]), 1e308);
        assert_eq!(mean([f64::MAX; 7]), f64::MAX);
        assert_eq!(mean([f64::MAX, 0.0]), f64::MAX / 2.0);
        assert_eq!(mean([LARGE, LARGE / 2.0]), LARGE * 0.75);
        assert_eq!(mean([f64::from_bits(1), f64::from_bits(3)]), f64::from_bits(2));
    }
}
