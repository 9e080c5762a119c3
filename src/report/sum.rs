//! Sums of floating-point numbers.

/// A sum with the correction of Kahan, Babuška and Neumaier, as SQLite's `sum` and `avg` have it from version 3.43 on: many
/// small durations after a large one are not lost.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(super) struct Sum {
    sum: f64,
    correction: f64,
}

impl Sum {
    pub fn add(&mut self, value: f64) {
        let sum = self.sum + value;
        let lost = if self.sum.abs() > value.abs() { (self.sum - sum) + value } else { (value - sum) + self.sum };
        self.correction += lost;
        self.sum = sum;
    }

    pub fn value(self) -> f64 {
        // Where the sum overflows the correction is no number.
        let value = self.sum + self.correction;
        if value.is_finite() { value } else { self.sum.min(f64::MAX) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_numbers_after_a_large_one_are_not_lost() {
        let mut sum = Sum::default();
        sum.add(1e16);
        (0..1_000).for_each(|_| sum.add(1.0));
        assert_eq!(sum.value(), 1e16 + 1_000.0);
        sum.add(f64::MAX);
        sum.add(f64::MAX);
        assert_eq!(sum.value(), f64::MAX);
    }
}
