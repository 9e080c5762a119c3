//! The least age that a receiver refuses. Pure.

use super::answer::RefusalReason;
use super::series::TickTime;

/// What a receiver last refused for its age: the search of the next window begins there. Known while the sender runs, and until the
/// receiver accepts what is older.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct RefusedAge(Option<Known>);

#[derive(Debug, Clone, Copy)]
struct Known {
    age_millis: i64,
    reason: RefusalReason,
    /// Whether every tick of the window was refused: those of the next one may be as well.
    is_window: bool,
}

/// Where the refused ticks of a window are expected to end, and why they are refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Expectation {
    /// Every tick of the window.
    All(RefusalReason),
    /// Those up to this time.
    Until(TickTime, RefusalReason),
}

impl RefusedAge {
    /// Returns which ticks of a window are expected to be refused at `now_millis`, by the wall clock. `has_later` is whether ticks follow the
    /// window.
    pub(crate) fn expectation(self, now_millis: i64, has_later: bool) -> Option<Expectation> {
        let Known { age_millis, reason, is_window } = self.0?;
        Some(if is_window && has_later {
            Expectation::All(reason)
        } else {
            Expectation::Until(TickTime::from_millis(now_millis - age_millis), reason)
        })
    }

    /// At `now_millis` the tick at `time` was the last that was refused for its age. `is_window` is whether none of the window follows it.
    pub(crate) fn refused(&mut self, now_millis: i64, time: TickTime, reason: RefusalReason, is_window: bool) {
        let age_millis = now_millis - time.millis();
        // A window that is refused as a whole says nothing of what is younger.
        if !self.0.is_some_and(|known| is_window && known.age_millis <= age_millis) {
            self.0 = Some(Known { age_millis, reason, is_window });
        }
    }

    /// What was expected to be refused was accepted.
    pub(crate) fn accepted(&mut self) {
        self.0 = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW_MILLIS: i64 = 1_795_341_601_000;
    const HOUR_MILLIS: i64 = 3_600_000;

    fn ago(millis: i64) -> TickTime {
        TickTime::from_millis(NOW_MILLIS - millis)
    }

    #[test]
    fn an_age_that_was_refused_is_expected_to_be_refused_later_until_it_is_accepted() {
        let mut age = RefusedAge::default();
        assert_eq!(age.expectation(NOW_MILLIS, true), None);
        age.refused(NOW_MILLIS, ago(HOUR_MILLIS), RefusalReason::TooOld, false);
        for has_later in [false, true] {
            let expected = Expectation::Until(TickTime::from_millis(NOW_MILLIS), RefusalReason::TooOld);
            assert_eq!(age.expectation(NOW_MILLIS + HOUR_MILLIS, has_later), Some(expected));
        }
        age.accepted();
        assert_eq!(age.expectation(NOW_MILLIS, false), None);
    }

    #[test]
    fn a_window_that_is_refused_as_a_whole_is_followed_by_another_one_and_teaches_no_greater_age() {
        let mut age = RefusedAge::default();
        age.refused(NOW_MILLIS, ago(2 * HOUR_MILLIS), RefusalReason::OutOfBounds, true);
        assert_eq!(age.expectation(NOW_MILLIS, true), Some(Expectation::All(RefusalReason::OutOfBounds)));
        let until = |millis| Some(Expectation::Until(ago(millis), RefusalReason::OutOfBounds));
        assert_eq!(age.expectation(NOW_MILLIS, false), until(2 * HOUR_MILLIS));
        age.refused(NOW_MILLIS, ago(3 * HOUR_MILLIS), RefusalReason::OutOfBounds, true);
        assert_eq!(age.expectation(NOW_MILLIS, false), until(2 * HOUR_MILLIS));
        age.refused(NOW_MILLIS, ago(HOUR_MILLIS), RefusalReason::OutOfBounds, true);
        assert_eq!(age.expectation(NOW_MILLIS, false), until(HOUR_MILLIS));
        age.refused(NOW_MILLIS, ago(2 * HOUR_MILLIS), RefusalReason::OutOfBounds, false);
        assert_eq!(age.expectation(NOW_MILLIS, true), until(2 * HOUR_MILLIS), "a bound was found");
    }
}
