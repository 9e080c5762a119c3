//! Delays between attempts.

use std::time::Duration;

/// Exponential delays with jitter: the ceiling doubles from twice `min` up to `max`, and each delay lies between half
/// the ceiling and the ceiling, so that clients that lost a server together do not reconnect together.
#[derive(Debug)]
pub struct Backoff {
    min: Duration,
    max: Duration,
    ceiling: Duration,
    rng: fastrand::Rng,
}

impl Backoff {
    /// Creates delays from `min` to `max`, which is raised to `min` if it is less.
    pub fn new(min: Duration, max: Duration, rng: fastrand::Rng) -> Self {
        let max = max.max(min);
        Self { min, max, ceiling: first_ceiling(min, max), rng }
    }

    /// Returns the delay before the next attempt, within `min..=max`.
    pub fn next_delay(&mut self) -> Duration {
        let floor = self.min.max(self.ceiling / 2);
        let delay = floor + (self.ceiling - floor).mul_f64(self.rng.f64());
        self.ceiling = self.max.min(self.ceiling.saturating_mul(2));
        delay
    }

    /// Starts over with the shortest delays.
    pub fn reset(&mut self) {
        self.ceiling = first_ceiling(self.min, self.max);
    }
}

fn first_ceiling(min: Duration, max: Duration) -> Duration {
    max.min(min.saturating_mul(2))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIN: Duration = Duration::from_millis(500);
    const MAX: Duration = Duration::from_secs(30);

    fn backoff(seed: u64) -> Backoff {
        Backoff::new(MIN, MAX, fastrand::Rng::with_seed(seed))
    }

    #[test]
    fn delays_grow_to_the_cap_and_stay_within_it() {
        for seed in 0..200 {
            let mut backoff = backoff(seed);
            for ceiling_millis in [1_000, 2_000, 4_000, 8_000, 16_000, 30_000, 30_000, 30_000] {
                let ceiling = Duration::from_millis(ceiling_millis);
                let delay = backoff.next_delay();
                assert!(delay >= ceiling / 2 && delay <= ceiling, "{delay:?} for {ceiling:?}, seed {seed}");
            }
        }
    }

    #[test]
    fn delays_are_jittered() {
        let first: std::collections::HashSet<_> = (0..50).map(|seed| backoff(seed).next_delay()).collect();
        assert!(first.len() > 40, "{} distinct delays of 50", first.len());
    }

    #[test]
    fn a_reset_starts_over() {
        let mut backoff = backoff(1);
        for _ in 0..10 {
            backoff.next_delay();
        }
        backoff.reset();
        assert!(backoff.next_delay() <= 2 * MIN);
    }

    #[test]
    fn odd_bounds_are_kept() {
        let mut fixed = Backoff::new(MAX, MIN, fastrand::Rng::with_seed(1));
        assert_eq!((fixed.next_delay(), fixed.next_delay()), (MAX, MAX));
        let mut huge = Backoff::new(Duration::MAX, Duration::MAX, fastrand::Rng::with_seed(1));
        assert_eq!((huge.next_delay(), huge.next_delay()), (Duration::MAX, Duration::MAX));
    }
}
