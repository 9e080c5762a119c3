//! Whether a request that gets no good answer is divided, because its length or its samples may be the reason. Pure.

use std::time::{Duration, Instant};

/// The failures of a window's requests, which are those that [`Verdict::Retry`] names.
///
/// A request that fails is sent again. Once the same one has failed for `suspect_after` although the receiver is up, its length or its
/// samples are suspected, and from then on those of every request of the window that fails:
///
/// | the receiver since the failure before | the request has | several samples of series that are sent together are pending | samples were stored since the suspicion, or in the window for a series that was refused before | later ticks are queued, or the answer is 500 | the samples |
/// | --- | --- | --- | --- | --- | --- |
/// | accepted nothing | | | | | are sent again, after a request without samples |
/// | accepted something | several samples | | | | are divided |
/// | accepted something | one sample | no | yes | yes | are dropped if they fail again after a sample that was stored is accepted again: later ticks have their counts |
/// | accepted something | one sample | else | | | give way to others and are sent again |
///
/// Something is samples, or a request without samples. In a window with a suspicion the first row is of single samples alone: what has
/// several is divided, and the request without samples comes before the next one. Requests like one that has failed in an earlier window
/// are suspected from their second failure on; those of a series that was refused before raise no suspicion of others.
///
/// [`Verdict::Retry`]: super::answer::Verdict::Retry
#[derive(Debug, Clone)]
pub(crate) struct Suspicion {
    /// How long the same request fails before it is suspected.
    suspect_after: Duration,
    /// When the next request first failed.
    failing_since: Option<Instant>,
    /// Whether the receiver accepted something since the last failure.
    is_up: bool,
    /// Whether samples of the window were stored.
    has_stored: bool,
    state: State,
    is_check_due: bool,
    /// Whether it is to be shown that the receiver stores samples, and the next request is to be sent again.
    is_repetition_due: bool,
    /// Whether that was shown since.
    is_repeated: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// No request failed for too long.
    None,
    /// One did, and no samples were stored since.
    Raised,
    /// Samples were stored since: the receiver fails because of others.
    Confirmed,
}

/// A failure of a request.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Failure {
    /// Whether the request has a single sample.
    pub(crate) is_alone: bool,
    /// Whether the answer is status 500.
    pub(crate) is_status_500: bool,
    /// Whether a request as long as this one failed in an earlier window.
    pub(crate) is_expected: bool,
    /// Whether it is of a series that was refused in an earlier window, and is tried again alone.
    pub(crate) is_retried: bool,
    /// Whether ticks follow the window.
    pub(crate) has_later: bool,
    /// Of a single sample: whether several samples of series that are sent together are pending as well.
    pub(crate) has_parts: bool,
}

/// What to do about samples whose request failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Remedy {
    /// Send them again.
    SendAgain,
    /// Send others first.
    Postpone,
    /// Divide them.
    Divide,
    /// Drop the single sample.
    Drop,
}

impl Suspicion {
    /// Nothing has failed. Requests are suspected after `suspect_after`.
    pub(crate) fn new(suspect_after: Duration) -> Self {
        Self {
            suspect_after,
            failing_since: None,
            is_up: false,
            has_stored: false,
            state: State::None,
            is_check_due: false,
            is_repetition_due: false,
            is_repeated: false,
        }
    }

    /// Samples were stored.
    pub(crate) fn stored(&mut self) {
        self.interrupted();
        (self.is_up, self.has_stored) = (true, true);
        if self.state == State::Raised {
            self.state = State::Confirmed;
        }
    }

    /// A request without samples was accepted, or refused as such.
    pub(crate) fn greeted(&mut self) {
        self.is_up = true;
    }

    /// The next request is another one.
    pub(crate) fn interrupted(&mut self) {
        self.failing_since = None;
        self.is_check_due = false;
        (self.is_repetition_due, self.is_repeated) = (false, false);
    }

    /// A sample that was stored before was sent again, and not in vain.
    pub(crate) fn repeated(&mut self) {
        (self.is_up, self.is_repeated) = (true, true);
    }

    /// Returns whether a sample that was stored is to be sent again before the next request.
    pub(crate) fn is_repetition_due(&self) -> bool {
        self.is_repetition_due
    }

    /// Returns whether a request without samples is due before the next one.
    pub(crate) fn is_check_due(&self) -> bool {
        self.is_check_due
    }

    /// The next request failed at `now`.
    pub(crate) fn failed(&mut self, now: Instant, failure: Failure) -> Remedy {
        let is_up = std::mem::take(&mut self.is_up);
        let was_due = std::mem::take(&mut self.is_repetition_due);
        let is_repeated = std::mem::take(&mut self.is_repeated);
        let is_first = self.failing_since.is_none();
        let since = *self.failing_since.get_or_insert(now);
        if self.state == State::None {
            let is_due =
                failure.is_expected || failure.is_retried || now.saturating_duration_since(since) >= self.suspect_after;
            self.is_check_due = is_due;
            if is_first || !is_due || !is_up {
                return Remedy::SendAgain;
            }
            if !failure.is_retried {
                self.state = State::Raised;
            }
        }
        self.failing_since = None;
        self.is_check_due = true;
        match () {
            () if !failure.is_alone => Remedy::Divide,
            () if !is_up || failure.has_parts => Remedy::Postpone,
            // It says nothing of the receiver that a series which was refused before fails again.
            () if !(self.state == State::Confirmed || failure.is_retried && self.has_stored) => Remedy::Postpone,
            () if !failure.has_later && !failure.is_status_500 => Remedy::Postpone,
            () if is_repeated => Remedy::Drop,
            // An outage.
            () if was_due => Remedy::Postpone,
            () => {
                self.failing_since = Some(since);
                self.is_repetition_due = true;
                Remedy::SendAgain
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const AFTER: Duration = Duration::from_secs(600);
    /// Of several samples, without an answer.
    const SEVERAL: Failure = Failure {
        is_alone: false,
        is_status_500: false,
        is_expected: false,
        is_retried: false,
        has_later: false,
        has_parts: false,
    };
    const ALONE: Failure = Failure { is_alone: true, ..SEVERAL };
    const ACCEPTANCES: [fn(&mut Suspicion); 2] = [Suspicion::stored, Suspicion::greeted];

    /// With a suspicion of a request of several samples, which is divided.
    fn raised(begin: Instant) -> Suspicion {
        let mut suspicion = Suspicion::new(AFTER);
        suspicion.failed(begin, SEVERAL);
        suspicion.greeted();
        assert_eq!(suspicion.failed(begin + AFTER, SEVERAL), Remedy::Divide);
        suspicion
    }

    /// Fails, and once more after a sample that was stored is accepted again.
    fn failed_twice(suspicion: &mut Suspicion, now: Instant, failure: Failure) -> Remedy {
        assert_eq!(suspicion.failed(now, failure), Remedy::SendAgain);
        assert!(suspicion.is_repetition_due());
        suspicion.repeated();
        suspicion.failed(now, failure)
    }

    /// Every failure of a request of this many samples.
    fn failures(is_alone: bool) -> impl Iterator<Item = Failure> {
        [false, true].into_iter().flat_map(move |is_status_500| {
            [false, true].map(|has_later| Failure { is_alone, is_status_500, has_later, ..SEVERAL })
        })
    }

    #[test]
    fn a_request_is_suspected_once_it_has_failed_for_ten_minutes_while_the_receiver_is_up() {
        let begin = Instant::now();
        for failure in failures(false).chain(failures(true)) {
            let mut suspicion = Suspicion::new(AFTER);
            assert_eq!(suspicion.failed(begin, failure), Remedy::SendAgain);
            suspicion.greeted();
            assert_eq!(suspicion.failed(begin + AFTER - Duration::from_secs(1), failure), Remedy::SendAgain);
            assert!(!suspicion.is_check_due());
            suspicion.greeted();
            let expected = if failure.is_alone { Remedy::Postpone } else { Remedy::Divide };
            assert_eq!(suspicion.failed(begin + AFTER, failure), expected);
        }
    }

    #[test]
    fn a_receiver_that_accepts_nothing_is_sent_the_same_again_and_requests_without_samples() {
        let begin = Instant::now();
        for failure in failures(false).chain(failures(true)) {
            let mut suspicion = Suspicion::new(AFTER);
            suspicion.greeted();
            suspicion.failed(begin, failure);
            for minutes in 10..100 {
                let now = begin + Duration::from_secs(60 * minutes);
                assert_eq!(suspicion.failed(now, failure), Remedy::SendAgain, "{failure:?}");
                assert!(suspicion.is_check_due());
            }
        }
    }

    #[test]
    fn another_request_begins_the_ten_minutes_again() {
        let begin = Instant::now();
        let others: [fn(&mut Suspicion); 2] = [Suspicion::stored, Suspicion::interrupted];
        for other in others {
            let mut suspicion = Suspicion::new(AFTER);
            suspicion.failed(begin, SEVERAL);
            other(&mut suspicion);
            suspicion.greeted();
            assert_eq!(suspicion.failed(begin + AFTER, SEVERAL), Remedy::SendAgain);
            suspicion.greeted();
            assert_eq!(suspicion.failed(begin + 2 * AFTER, SEVERAL), Remedy::Divide);
        }
    }

    #[test]
    fn once_a_request_is_suspected_each_one_of_several_samples_that_fails_is_divided() {
        let begin = Instant::now();
        for failure in failures(false) {
            let mut suspicion = raised(begin);
            assert!(suspicion.is_check_due());
            assert_eq!(suspicion.failed(begin + AFTER, failure), Remedy::Divide, "{failure:?}");
            suspicion.stored();
            assert!(!suspicion.is_check_due());
            assert_eq!(suspicion.failed(begin + AFTER, failure), Remedy::Divide, "{failure:?}");
            assert!(suspicion.is_check_due());
        }
    }

    #[test]
    fn a_single_sample_gives_way_while_nothing_is_accepted_or_no_other_was_stored() {
        let begin = Instant::now();
        for failure in failures(true) {
            let mut suspicion = raised(begin);
            assert_eq!(suspicion.failed(begin + AFTER, failure), Remedy::Postpone, "{failure:?}");
            suspicion.greeted();
            assert_eq!(suspicion.failed(begin + AFTER, failure), Remedy::Postpone, "{failure:?}");
            suspicion.stored();
            suspicion.failed(begin + AFTER, ALONE);
            assert_eq!(suspicion.failed(begin + AFTER, failure), Remedy::Postpone, "nothing was accepted since");
        }
    }

    #[test]
    fn a_single_sample_is_dropped_where_others_are_stored_and_later_ticks_have_its_count() {
        let begin = Instant::now();
        for accepted in ACCEPTANCES {
            let mut suspicion = raised(begin);
            suspicion.stored();
            suspicion.failed(begin + AFTER, ALONE);
            accepted(&mut suspicion);
            assert_eq!(suspicion.failed(begin + AFTER, ALONE), Remedy::Postpone, "it is the newest");
            accepted(&mut suspicion);
            let failure = Failure { has_later: true, has_parts: true, ..ALONE };
            assert_eq!(suspicion.failed(begin + AFTER, failure), Remedy::Postpone, "the others may fail as well");
            accepted(&mut suspicion);
            let failure = Failure { has_later: true, ..ALONE };
            assert_eq!(failed_twice(&mut suspicion, begin + AFTER, failure), Remedy::Drop);
        }
    }

    #[test]
    fn a_single_sample_gives_way_where_a_sample_that_was_stored_before_fails_as_well() {
        let begin = Instant::now();
        let failure = Failure { has_later: true, ..ALONE };
        let mut suspicion = raised(begin);
        suspicion.stored();
        for _ in 0..10 {
            assert_eq!(suspicion.failed(begin + AFTER, failure), Remedy::SendAgain);
            assert!(suspicion.is_repetition_due());
            suspicion.greeted();
            assert_eq!(suspicion.failed(begin + AFTER, failure), Remedy::Postpone, "it is an outage");
            assert!(!suspicion.is_repetition_due());
            suspicion.greeted();
        }
    }

    #[test]
    fn a_single_sample_is_not_dropped_because_others_were_stored_before_the_suspicion() {
        let begin = Instant::now();
        for is_status_500 in [false, true] {
            let failure = Failure { is_status_500, has_later: true, ..ALONE };
            let mut suspicion = Suspicion::new(AFTER);
            suspicion.stored();
            suspicion.failed(begin, failure);
            for minutes in 10..100 {
                suspicion.greeted();
                let now = begin + Duration::from_secs(60 * minutes);
                assert_eq!(suspicion.failed(now, failure), Remedy::Postpone, "it may be an outage");
            }
        }
    }

    #[test]
    fn a_single_sample_that_fails_with_status_500_is_dropped_once_others_are_stored() {
        let begin = Instant::now();
        let mut suspicion = Suspicion::new(AFTER);
        suspicion.stored();
        let failure = Failure { is_status_500: true, ..ALONE };
        suspicion.failed(begin, failure);
        suspicion.greeted();
        assert_eq!(suspicion.failed(begin + AFTER, failure), Remedy::Postpone, "it was stored before");
        suspicion.stored();
        assert_eq!(failed_twice(&mut suspicion, begin + AFTER, failure), Remedy::Drop);
    }

    #[test]
    fn a_request_like_one_that_failed_before_is_suspected_from_its_second_failure_on() {
        let begin = Instant::now();
        for is_alone in [false, true] {
            let failure = Failure { is_alone, is_expected: true, ..SEVERAL };
            let mut suspicion = Suspicion::new(AFTER);
            suspicion.stored();
            assert_eq!(suspicion.failed(begin, failure), Remedy::SendAgain, "the receiver can be down");
            assert!(suspicion.is_check_due());
            suspicion.greeted();
            let expected = if is_alone { Remedy::Postpone } else { Remedy::Divide };
            assert_eq!(suspicion.failed(begin, failure), expected);
        }
    }

    #[test]
    fn a_series_that_was_refused_before_raises_no_suspicion_of_others() {
        let begin = Instant::now();
        for is_alone in [false, true] {
            let mut suspicion = Suspicion::new(AFTER);
            let retried = Failure { is_alone, is_retried: true, has_later: true, ..SEVERAL };
            suspicion.failed(begin, retried);
            suspicion.greeted();
            assert_ne!(suspicion.failed(begin, retried), Remedy::SendAgain);
            for other in failures(false).chain(failures(true)) {
                suspicion.interrupted();
                for minutes in 0..10 {
                    suspicion.greeted();
                    let now = begin + Duration::from_secs(60 * minutes);
                    assert_eq!(suspicion.failed(now, other), Remedy::SendAgain, "{other:?}");
                }
            }
        }
    }

    #[test]
    fn a_sample_of_a_series_that_was_refused_before_is_dropped_where_others_of_the_window_are_stored() {
        let begin = Instant::now();
        let failure = Failure { is_retried: true, has_later: true, ..ALONE };
        for (has_stored, expected) in [(true, Remedy::Drop), (false, Remedy::Postpone)] {
            let mut suspicion = Suspicion::new(AFTER);
            if has_stored {
                suspicion.stored();
            }
            assert_eq!(suspicion.failed(begin, failure), Remedy::SendAgain);
            suspicion.greeted();
            if has_stored {
                assert_eq!(failed_twice(&mut suspicion, begin, failure), expected);
            } else {
                assert_eq!(suspicion.failed(begin, failure), expected);
            }
        }
    }
}
