//! How many samples a request to a receiver may have. Pure.

/// Most samples of a request.
const SAMPLES_MAX: usize = 10_000;

/// After so many requests that are stored, longer ones are tried again: the limit may have been that of another one in between.
const GROW_AFTER: u32 = 16;

/// After so many at most, where each longer one costs the delays of a failure.
const GROW_AFTER_MAX: u32 = 1_024;

/// The longest request that a receiver takes, as far as it is known.
///
/// A refusal for the length teaches a shorter one only once both halves of what was refused are stored. A request that is
/// refused for one long series, or by somebody who refuses everything, teaches nothing.
#[derive(Debug, Clone)]
pub(crate) struct RequestLimit {
    samples_max: usize,
    /// The samples of each half of the last request that was refused for its length, as far as they are stored.
    halves: Halves,
    /// Requests that were stored since the last one that was refused.
    stored: u32,
    /// Longer requests are tried again after so many that are stored.
    grow_after: u32,
    /// The samples of the last request that failed, if its halves are those of `halves`.
    suspected: Option<usize>,
    /// Requests with so many samples failed because of their length, as far as is known.
    failing: Option<usize>,
}

#[derive(Debug, Clone, Copy)]
enum Halves {
    /// Nothing was refused, or something else than a half came between.
    Unknown,
    /// Both are still to be sent.
    Both,
    /// The first one is stored, with so many samples.
    Second(usize),
}

impl Default for RequestLimit {
    fn default() -> Self {
        Self {
            samples_max: SAMPLES_MAX,
            halves: Halves::Unknown,
            stored: 0,
            grow_after: GROW_AFTER,
            suspected: None,
            failing: None,
        }
    }
}

impl RequestLimit {
    /// Returns the most samples of a request.
    pub(crate) fn samples_max(&self) -> usize {
        self.samples_max
    }

    /// A request with so many samples was stored.
    pub(crate) fn stored(&mut self, samples: usize) {
        self.halves = match self.halves {
            Halves::Unknown => Halves::Unknown,
            Halves::Both => Halves::Second(samples),
            Halves::Second(first) => {
                self.samples_max = first.max(samples).min(self.samples_max);
                if let Some(failed) = self.suspected.take() {
                    self.failing = Some(failed);
                    self.grow_after = (self.grow_after * 2).min(GROW_AFTER_MAX);
                }
                Halves::Unknown
            }
        };
        if self.is_failing(samples) {
            self.failing = None;
            self.grow_after = GROW_AFTER;
        }
        self.stored += 1;
        if self.stored >= self.grow_after {
            self.stored = 0;
            self.samples_max = (self.samples_max * 2).min(SAMPLES_MAX);
        }
    }

    /// A request with so many samples was refused for its length. Its halves are the next requests.
    pub(crate) fn too_large(&mut self, samples: usize) {
        self.suspected = None;
        if samples == 1 {
            // It says nothing of longer requests.
            return self.interrupted();
        }
        self.stored = 0;
        self.halves = Halves::Both;
    }

    /// A request with so many samples failed, perhaps because of its length. Its halves are the next requests.
    pub(crate) fn failed(&mut self, samples: usize) {
        self.too_large(samples);
        self.suspected = Some(samples);
    }

    /// Returns whether a request with so many samples is expected to fail because of its length.
    pub(crate) fn is_failing(&self, samples: usize) -> bool {
        self.failing.is_some_and(|failing| samples >= failing)
    }

    /// A request was refused for another reason, or its place is taken by others.
    pub(crate) fn interrupted(&mut self) {
        self.halves = Halves::Unknown;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Sends so many samples to a receiver that refuses for its length whatever `is_refused` says of the first sample and the
    /// number of samples. Returns the number of requests.
    fn send(limit: &mut RequestLimit, samples: usize, is_refused: impl Fn(usize, usize) -> bool) -> usize {
        let mut requests = 0;
        let mut pending = vec![(0, samples)];
        while let Some((first, count)) = pending.pop() {
            let is_long = count > limit.samples_max();
            requests += usize::from(!is_long);
            if is_long || is_refused(first, count) {
                if !is_long {
                    limit.too_large(count);
                }
                if count > 1 {
                    pending.extend([(first + count / 2, count - count / 2), (first, count / 2)]);
                }
            } else {
                limit.stored(count);
            }
        }
        requests
    }

    #[test]
    fn the_limit_of_a_receiver_is_learned_from_halves_that_are_stored() {
        let mut limit = RequestLimit::default();
        let requests = send(&mut limit, 100_000, |_, count| count > 700);
        assert!((390..=782).contains(&limit.samples_max()), "{limit:?}");
        // 256 of 390 or 391 samples, 4 to begin with, and one that is refused for each 16.
        assert!(requests <= 256 + 4 + 256 / 16, "{requests} requests");
    }

    #[test]
    fn a_length_that_failed_is_expected_to_fail_again_until_it_is_stored_and_tried_ever_less_often() {
        let mut limit = RequestLimit::default();
        let mut former = GROW_AFTER;
        for _ in 0..4 {
            limit.failed(800);
            limit.stored(400);
            limit.stored(400);
            assert!(limit.is_failing(800) && !limit.is_failing(799) && limit.samples_max() == 400, "{limit:?}");
            let mut requests = 0;
            while limit.samples_max() == 400 {
                limit.stored(400);
                requests += 1;
            }
            assert!(requests > former, "{requests} after {former}");
            former = requests;
        }
        limit.stored(800);
        assert!(!limit.is_failing(800));
    }

    #[test]
    fn one_series_that_is_always_too_long_teaches_nothing() {
        for bad in [0, 1, 4_999, 9_999] {
            let mut limit = RequestLimit::default();
            send(&mut limit, 10_000, |first, count| (first..first + count).contains(&bad));
            assert_eq!(limit.samples_max(), SAMPLES_MAX, "{bad}");
        }
    }

    #[test]
    fn one_series_that_is_always_too_long_alone_does_not_prevent_long_requests() {
        let mut limit = RequestLimit::default();
        limit.too_large(800);
        limit.stored(400);
        limit.stored(400);
        let mut requests = 0;
        while limit.samples_max() < SAMPLES_MAX {
            // A tick: some requests, and a series that was refused before and is tried again alone.
            (0..3).for_each(|_| limit.stored(limit.samples_max()));
            limit.too_large(1);
            requests += 3;
            assert!(requests <= 16 * 6, "{limit:?}");
        }
    }

    #[test]
    fn a_length_that_failed_in_outages_is_tried_again_and_long_requests_follow_once_they_end() {
        for length in [1, 2, 50, 3_000, 9_999] {
            let mut limit = RequestLimit::default();
            // Outages, each of which fails all that is longer.
            for _ in 0..20 {
                let mut pending = vec![SAMPLES_MAX];
                while let Some(count) = pending.pop() {
                    match count > limit.samples_max() || count > length {
                        true => {
                            if count <= limit.samples_max() {
                                limit.failed(count);
                            }
                            pending.extend([count - count / 2, count / 2]);
                        }
                        false => limit.stored(count),
                    }
                }
            }
            assert!(limit.is_failing(SAMPLES_MAX) && limit.samples_max() < SAMPLES_MAX, "{length} {limit:?}");
            let mut requests = 0;
            while limit.samples_max() < SAMPLES_MAX || limit.is_failing(SAMPLES_MAX) {
                limit.stored(limit.samples_max());
                requests += 1;
                assert!(requests <= 2 * GROW_AFTER_MAX + 14 * GROW_AFTER, "{length} {limit:?}");
            }
        }
    }

    #[test]
    fn a_receiver_that_refused_everything_for_a_while_gets_long_requests_again() {
        let mut limit = RequestLimit::default();
        send(&mut limit, 10_000, |_, _| true);
        assert_eq!(limit.samples_max(), SAMPLES_MAX, "nothing was stored");
        // It refuses until a single sample is left, and stores that: the worst that it can teach.
        limit.too_large(2);
        limit.stored(1);
        limit.stored(1);
        assert_eq!(limit.samples_max(), 1);
        let requests = send(&mut limit, 500_000, |_, _| false);
        assert!(requests < 500, "{requests} requests");
        assert_eq!(limit.samples_max(), SAMPLES_MAX);
    }
}
