//! Suppression of repeated log lines.

use std::num::NonZeroU64;
use std::time::{Duration, Instant};

/// Interval in which a line is logged at most once.
const QUIET: Duration = Duration::from_secs(30);

/// Number of lines that were suppressed since one was logged. As a field, `None` is omitted.
pub(crate) type Suppressed = Option<NonZeroU64>;

/// Passes one line in an interval and counts the others, so that a feed that fails a thousand times a second does not fill a
/// disk.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct LogThrottle {
    passed_at: Option<Instant>,
    suppressed: u64,
}

impl LogThrottle {
    /// Returns whether a line may be logged at `now`, and how many were suppressed before it.
    pub(super) fn pass(&mut self, now: Instant) -> Option<Suppressed> {
        if self.passed_at.is_some_and(|passed_at| now.saturating_duration_since(passed_at) < QUIET) {
            self.suppressed += 1;
            return None;
        }
        self.passed_at = Some(now);
        Some(NonZeroU64::new(std::mem::take(&mut self.suppressed)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_in_a_while_says_how_many_were_held_back() {
        let mut throttle = LogThrottle::default();
        let start = Instant::now();
        assert_eq!(throttle.pass(start), Some(NonZeroU64::new(0)));
        assert_eq!(throttle.pass(start), None);
        assert_eq!(throttle.pass(start + QUIET - Duration::from_nanos(1)), None);
        assert_eq!(throttle.pass(start + QUIET), Some(NonZeroU64::new(2)));
        assert_eq!(throttle.pass(start + QUIET + Duration::from_secs(1)), None);
        assert_eq!(throttle.pass(start + QUIET * 3), Some(NonZeroU64::new(1)));
        assert_eq!(throttle.pass(start + QUIET * 5), Some(NonZeroU64::new(0)));
    }
}
