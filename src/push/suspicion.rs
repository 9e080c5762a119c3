//! Whether a request that fails with status 500 is divided, because its samples may be the reason. Pure.

use std::time::{Duration, Instant};

/// The failures of a window with status 500.
#[derive(Debug, Clone)]
pub(crate) struct Suspicion {
    /// How long the same request fails before its samples are suspected.
    suspect_after: Duration,
    /// When the next request first failed.
    failing_since: Option<Instant>,
    state: State,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// No request failed for too long.
    None,
    /// One did, and no samples were stored since: the receiver may be down.
    Raised,
    /// Samples were stored since: the receiver fails because of others.
    Confirmed,
}

/// What to do about samples whose request failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Remedy {
    /// Send them again.
    SendAgain,
    /// Send others first.
    Postpone,
    /// Divide them, or drop a single one.
    Divide,
}

impl Suspicion {
    /// Nothing has failed. Samples are suspected after `suspect_after`.
    pub(crate) fn new(suspect_after: Duration) -> Self {
        Self { suspect_after, failing_since: None, state: State::None }
    }

    /// Samples were stored.
    pub(crate) fn stored(&mut self) {
        self.interrupted();
        if self.state == State::Raised {
            self.state = State::Confirmed;
        }
    }

    /// The next request is another one, or the last one was answered with another status.
    pub(crate) fn interrupted(&mut self) {
        self.failing_since = None;
    }

    /// The next request failed with status 500 at `now`. `is_alone` is whether it has a single sample, which is dropped only once other
    /// samples were stored.
    pub(crate) fn failed(&mut self, now: Instant, is_alone: bool) -> Remedy {
        let since = *self.failing_since.get_or_insert(now);
        if self.state == State::None {
            if now.saturating_duration_since(since) < self.suspect_after {
                return Remedy::SendAgain;
            }
            self.state = State::Raised;
        }
        self.interrupted();
        if is_alone && self.state == State::Raised { Remedy::Postpone } else { Remedy::Divide }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const AFTER: Duration = Duration::from_secs(600);

    #[test]
    fn samples_are_suspected_once_the_same_request_has_failed_for_ten_minutes() {
        let begin = Instant::now();
        for is_alone in [false, true] {
            let mut suspicion = Suspicion::new(AFTER);
            assert_eq!(suspicion.failed(begin, is_alone), Remedy::SendAgain);
            assert_eq!(suspicion.failed(begin + AFTER - Duration::from_secs(1), is_alone), Remedy::SendAgain);
            let expected = if is_alone { Remedy::Postpone } else { Remedy::Divide };
            assert_eq!(suspicion.failed(begin + AFTER, is_alone), expected);
        }
    }

    #[test]
    fn another_answer_begins_the_ten_minutes_again() {
        let begin = Instant::now();
        let others: [fn(&mut Suspicion); 2] = [Suspicion::stored, Suspicion::interrupted];
        for other in others {
            let mut suspicion = Suspicion::new(AFTER);
            suspicion.failed(begin, false);
            other(&mut suspicion);
            assert_eq!(suspicion.failed(begin + AFTER, false), Remedy::SendAgain);
            assert_eq!(suspicion.failed(begin + 2 * AFTER, false), Remedy::Divide);
        }
    }

    #[test]
    fn once_samples_are_suspected_each_failure_divides_and_a_single_sample_waits_until_others_are_stored() {
        let begin = Instant::now();
        let mut suspicion = Suspicion::new(Duration::ZERO);
        assert_eq!(suspicion.failed(begin, false), Remedy::Divide);
        assert_eq!(suspicion.failed(begin, true), Remedy::Postpone);
        suspicion.interrupted();
        assert_eq!(suspicion.failed(begin, true), Remedy::Postpone);
        suspicion.stored();
        assert_eq!(suspicion.failed(begin, true), Remedy::Divide);
        assert_eq!(suspicion.failed(begin, false), Remedy::Divide);
    }
}
