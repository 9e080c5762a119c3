//! The ticks that are prepared for a receiver at a time, and what its answers mean for them. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use super::age::{Expectation, RefusedAge};
use super::answer::{RefusalReason, RetryCause};
use super::batch::Batch;
use super::bisect::{Cells as _, Pieces};
use super::encoder::{EncodedLabels, RequestEncoder};
use super::limit::RequestLimit;
use super::pause::{PausedSeries, Retried};
use super::series::{SeriesId, Tick, TickTime};
use super::suspicion::{Failure, Remedy, Suspicion};

/// Longest request, in bytes of its compressed body.
const BODY_BYTES_MAX: usize = 1024 * 1024;

/// Ticks that are sent to a receiver, until each sample is stored or refused.
pub(crate) struct Window<'t> {
    /// The ticks.
    pub(crate) ticks: &'t [Tick],
    /// Those that follow and were read.
    pub(crate) left: &'t [Tick],
    /// When the window was prepared.
    pub(crate) begin: Instant,
    /// Why series with a value were omitted, one reason for each.
    pub(crate) omitted: Vec<RefusalReason>,
    /// The answer to the last request that was refused, or divided because it failed.
    pub(crate) refusal: String,
    batch: Batch,
    pieces: Pieces,
    retried: Vec<SeriesId>,
    /// The rows of `retried` in the batch.
    alone: BTreeSet<usize>,
    has_expected_bound: bool,
    has_refused: bool,
    suspicion: Suspicion,
    /// Between two windows, a minute of an idle machine, its buffers are memory for others.
    encoder: RequestEncoder,
}

/// A part of a window.
pub(crate) struct Request {
    /// The compressed body.
    pub(crate) body: Vec<u8>,
    /// Number of its samples.
    pub(crate) samples: u64,
    /// The time of the newest one.
    pub(crate) newest: TickTime,
}

/// A sample that a receiver has stored, to be sent once more: whether it is accepted shows whether the sender is.
#[derive(Debug, Clone)]
pub(crate) struct StoredSample {
    pub(crate) time: TickTime,
    labels: EncodedLabels,
    value: f64,
}

impl StoredSample {
    /// Returns the compressed body of its request.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut encoder = RequestEncoder::new();
        encoder.push(&self.labels, [(self.time.millis(), self.value)]);
        encoder.finish()
    }
}

impl<'t> Window<'t> {
    /// Creates the window of the first of `ticks`, those of `batch`, from which the series `retried` are sent alone, at `begin`.
    pub(crate) fn new(
        begin: Instant,
        (ticks, left): (&'t [Tick], &'t [Tick]),
        batch: Batch,
        samples_max: usize,
        retried: impl IntoIterator<Item = SeriesId>,
        suspicion: Suspicion,
    ) -> Self {
        let retried: Vec<_> = retried.into_iter().collect();
        let alone: BTreeSet<_> = retried.iter().filter_map(|id| batch.row(*id)).collect();
        Self {
            ticks,
            left,
            begin,
            omitted: Vec::new(),
            refusal: String::new(),
            pieces: Pieces::new(&batch, samples_max, alone.iter().copied()),
            batch,
            retried,
            alone,
            has_expected_bound: false,
            has_refused: false,
            suspicion,
            encoder: RequestEncoder::new(),
        }
    }

    /// Begins with a search for the bound in time, where one is expected.
    pub(crate) fn expect(&mut self, expectation: Expectation) {
        let (bound, reason) = match expectation {
            Expectation::All(reason) => (self.batch.ticks(), reason),
            Expectation::Until(time, reason) => (self.batch.ticks_until(time), reason),
        };
        if !self.ticks.is_empty() && bound > 0 {
            self.has_expected_bound = true;
            self.pieces.expect_bound(&self.batch, bound, reason);
        }
    }

    /// Returns the next request, or `None` if each sample is stored or refused. `labels` are by series.
    pub(crate) fn next_request(
        &mut self,
        limit: &mut RequestLimit,
        labels: &[Option<EncodedLabels>],
    ) -> Option<Request> {
        loop {
            let piece = self.pieces.next(&self.batch)?.clone();
            if self.pieces.samples(&self.batch, &piece) > limit.samples_max() as u64 {
                self.pieces.shorten(&self.batch);
                continue;
            }
            let labels =
                |id: SeriesId| labels[id.index()].as_ref().expect("a batch has series that the receiver gets alone");
            let (body, samples) = self.batch.encode(&self.pieces, &piece, &mut self.encoder, labels);
            if body.len() > BODY_BYTES_MAX && samples > 1 {
                limit.interrupted();
                self.pieces.shorten(&self.batch);
                continue;
            }
            return Some(Request { body, samples, newest: self.batch.time(piece.ticks.end - 1) });
        }
    }

    /// Returns the latest of the samples that were stored, if it is later than `former`: the receiver has no later one of its series.
    pub(crate) fn stored_sample(&self, former: TickTime, labels: &[Option<EncodedLabels>]) -> Option<StoredSample> {
        let cell = self.pieces.newest_stored()?;
        let (time, value) = self.batch.sample(cell).filter(|(time, _)| *time > former)?;
        let labels = labels[self.batch.id(cell.series).index()].clone().expect("it was sent");
        Some(StoredSample { labels, time, value })
    }

    /// The request was stored.
    pub(crate) fn stored(&mut self, limit: &mut RequestLimit, samples: u64) {
        self.pieces.stored(&self.batch);
        limit.stored(usize::try_from(samples).unwrap_or(usize::MAX));
        self.suspicion.stored();
    }

    /// The request was refused. `has_later` is whether ticks follow the window. Returns whether a sample is refused alone.
    pub(crate) fn refused(
        &mut self,
        limit: &mut RequestLimit,
        samples: u64,
        reason: RefusalReason,
        has_later: bool,
    ) -> bool {
        match reason {
            RefusalReason::TooLarge => limit.too_large(usize::try_from(samples).unwrap_or(usize::MAX)),
            _ => limit.interrupted(),
        }
        if has_later {
            self.pieces.expect_later_ticks();
        }
        self.suspicion.interrupted();
        let alone = self.pieces.refused_alone();
        self.pieces.refuse(&self.batch, reason);
        self.pieces.refused_alone() > alone
    }

    /// The next request is one whose samples are far from those that were refused, unless some were stored: a receiver without a window
    /// refuses what is older than a stored sample of the series.
    pub(crate) fn prefer_longest(&mut self) {
        if !self.pieces.has_stored() {
            self.pieces.prefer_longest();
        }
    }

    /// A request without samples failed: what failed before may have failed for the same reason.
    pub(crate) fn interrupted(&mut self) {
        self.suspicion.interrupted();
    }

    /// The receiver answered a request without samples.
    pub(crate) fn greeted(&mut self) {
        self.suspicion.greeted();
    }

    /// Returns whether a request without samples is due before the next one.
    pub(crate) fn is_check_due(&self) -> bool {
        self.suspicion.is_check_due()
    }

    /// Returns whether a sample that was stored is to be sent again before the next request.
    pub(crate) fn is_repetition_due(&self) -> bool {
        self.suspicion.is_repetition_due()
    }

    /// It was answered, and did not fail.
    pub(crate) fn repeated(&mut self) {
        self.suspicion.repeated();
    }

    /// Returns whether the next request is of a series that was refused in an earlier window.
    fn is_retried(&mut self) -> bool {
        let Some(piece) = self.pieces.next(&self.batch).cloned() else { return false };
        let mut series = self.pieces.series_of(&piece);
        series.next().is_some_and(|row| self.alone.contains(&row)) && series.next().is_none()
    }

    /// The request failed at `now`, as `problem` says. `has_later` is whether ticks follow the window.
    pub(crate) fn failed(
        &mut self,
        limit: &mut RequestLimit,
        samples: u64,
        (cause, problem): (RetryCause, &str),
        has_later: bool,
        now: Instant,
    ) {
        let length = usize::try_from(samples).unwrap_or(usize::MAX);
        let is_status_500 = matches!(cause, RetryCause::Failed { .. });
        let is_retried = self.is_retried();
        let is_expected = limit.is_failing(length);
        let is_alone = samples == 1;
        // Every pending sample is looked at, and what it decides is of a single sample.
        let has_parts = is_alone && self.pieces.has_parts(&self.batch);
        let failure = Failure { is_alone, is_status_500, is_expected, is_retried, has_later, has_parts };
        match self.suspicion.failed(now, failure) {
            Remedy::SendAgain => {}
            Remedy::Divide => {
                limit.failed(length);
                self.pieces.shorten(&self.batch);
            }
            Remedy::Postpone => {
                limit.interrupted();
                self.pieces.postpone(&self.batch);
            }
            Remedy::Drop => {
                limit.interrupted();
                self.pieces.refuse(&self.batch, RefusalReason::ServerError);
                problem.clone_into(&mut self.refusal);
            }
        }
    }

    /// Returns whether samples were refused and none was stored.
    pub(crate) fn is_all_refused(&self) -> bool {
        self.has_refused && !self.pieces.has_stored()
    }

    /// Returns how many samples were refused for good since the last call, by reason.
    pub(crate) fn take_refused(&mut self) -> BTreeMap<RefusalReason, u64> {
        let mut refused = BTreeMap::new();
        for one in self.pieces.take_refused() {
            self.has_refused = true;
            *refused.entry(one.reason).or_default() += one.samples;
        }
        refused
    }

    /// Returns the last tick that is answered for, as every one before it is.
    pub(crate) fn answered(&self) -> Option<TickTime> {
        self.pieces.first_pending(&self.batch).checked_sub(1).map(|column| self.batch.time(column))
    }

    /// Each sample is answered for: learns which ages the receiver refuses. `now_millis` is by the wall clock.
    pub(crate) fn teach_age(&self, age: &mut RefusedAge, now_millis: i64) {
        match self.pieces.refused_ticks() {
            Some((count, reason)) => {
                age.refused(now_millis, self.batch.time(count - 1), reason, count == self.batch.ticks());
            }
            None if self.has_expected_bound => age.accepted(),
            None => {}
        }
    }

    /// Each sample is answered for: learns which series the receiver refuses. They are paused until `until`.
    pub(crate) fn teach_pauses(&self, paused: &mut PausedSeries, until: Instant) {
        let outcome = |id| match self.batch.row(id) {
            None => Retried::Absent,
            Some(row) if self.pieces.is_stored_at_end(row) => Retried::Stored,
            Some(_) => Retried::NotStored,
        };
        let retried: Vec<_> = self.retried.iter().map(|id| (*id, outcome(*id))).collect();
        paused.retried(&retried, self.begin, until);
        for &(row, reason) in self.pieces.refused_series() {
            paused.refused(self.batch.id(row), reason, until);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::batch::{CurrentValues, ticks_within};
    use super::super::bisect::REFUSED_ALONE_MAX;
    use super::super::zeros::{Queue, time};
    use super::*;

    type Sample = (SeriesId, TickTime, u64);

    /// A receiver that stores all of a request or nothing.
    #[derive(Debug)]
    struct Receiver {
        /// It accepts nothing older.
        oldest: TickTime,
        /// Whether it accepts samples before the newest one of their series.
        has_window: bool,
        /// It refuses this series.
        bad: Option<SeriesId>,
        /// Requests with this series fail.
        poison: Option<SeriesId>,
        /// Longer requests fail.
        samples_max: usize,
        /// So many requests are answered, and so many fail then, all with samples.
        outage: std::ops::Range<usize>,
        /// Whether requests without samples fail in the outage.
        is_down: bool,
        /// Requests with samples so far.
        requests: usize,
        stored: BTreeMap<SeriesId, BTreeMap<TickTime, u64>>,
    }

    impl Receiver {
        fn random(rng: &mut fastrand::Rng, ticks: usize, series: usize) -> Self {
            let mut one_of = |part: u8| (rng.u8(..part) == 0 && series > 0).then(|| SeriesId::at(rng.usize(..series)));
            let (bad, poison) = (one_of(3), one_of(3));
            let begin = rng.usize(..20);
            Self {
                oldest: if rng.u8(..3) == 0 { time(rng.usize(..ticks)) } else { TickTime::NEVER },
                has_window: rng.bool(),
                bad,
                poison,
                samples_max: if rng.u8(..4) == 0 { rng.usize(1..20) } else { usize::MAX },
                outage: if rng.bool() { begin..begin + rng.usize(1..150) } else { 0..0 },
                is_down: rng.u8(..4) == 0,
                requests: 0,
                stored: BTreeMap::new(),
            }
        }

        fn is_out(&self) -> bool {
            self.outage.contains(&self.requests)
        }

        fn refusal(&self, &(series, time, _): &Sample) -> Option<RefusalReason> {
            let is_late = || {
                let newest = self.stored.get(&series).and_then(BTreeMap::last_key_value);
                newest.is_some_and(|(newest, _)| time < *newest)
            };
            match () {
                () if self.bad == Some(series) => Some(RefusalReason::Other),
                () if time < self.oldest => Some(RefusalReason::OutOfBounds),
                () if !self.has_window && is_late() => Some(RefusalReason::OutOfOrder),
                () => None,
            }
        }

        /// Returns the verdict on these samples; `None` if the request fails.
        fn receive(&mut self, samples: &[Sample]) -> Option<Result<(), RefusalReason>> {
            let is_out = self.is_out();
            self.requests += 1;
            let is_poison = samples.iter().any(|(series, ..)| self.poison == Some(*series));
            if is_out || is_poison || samples.len() > self.samples_max {
                return None;
            }
            if let Some(reason) = samples.iter().find_map(|sample| self.refusal(sample)) {
                return Some(Err(reason));
            }
            for &(series, time, bits) in samples {
                self.stored.entry(series).or_default().insert(time, bits);
            }
            Some(Ok(()))
        }

        fn has(&self, &(series, time, bits): &Sample) -> bool {
            self.stored.get(&series).and_then(|samples| samples.get(&time)) == Some(&bits)
        }
    }

    fn labels(series: usize) -> Vec<Option<EncodedLabels>> {
        (0..series).map(|_| Some(EncodedLabels::new("m_total", []))).collect()
    }

    /// The samples of the request that [`Window::next_request`] returned.
    fn samples_of(window: &mut Window<'_>) -> Vec<Sample> {
        let piece = window.pieces.next(&window.batch).expect("a request").clone();
        let rows: Vec<_> = window.pieces.series_of(&piece).collect();
        let of_row = |row| {
            let samples = window.batch.samples(&window.pieces, &piece, row);
            samples.map(move |(time, value)| (row, time, value.to_bits()))
        };
        rows.into_iter().flat_map(of_row).map(|(row, time, bits)| (window.batch.id(row), time, bits)).collect()
    }

    /// Sends a sample that was stored again, as a sender does.
    fn repeat(window: &mut Window<'_>, receiver: &mut Receiver, labels: &[Option<EncodedLabels>]) {
        let answer = match window.stored_sample(TickTime::NEVER, labels) {
            None => None,
            Some(StoredSample { time, value, .. }) => {
                let cell = window.pieces.newest_stored().expect("it is what is repeated");
                let sample = (window.batch.id(cell.series), time, value.to_bits());
                assert!(receiver.has(&sample), "{sample:?} was not stored: {receiver:?}");
                receiver.receive(&[sample])
            }
        };
        match answer {
            Some(Ok(())) => window.repeated(),
            Some(Err(reason)) => panic!("the newest sample of a series is refused again for {reason}: {receiver:?}"),
            None => {}
        }
    }

    /// Sends a window as a sender does. Returns how many samples were refused for good, by reason.
    fn deliver(
        window: &mut Window<'_>,
        limit: &mut RequestLimit,
        receiver: &mut Receiver,
        has_later: bool,
        rng: &mut fastrand::Rng,
    ) -> BTreeMap<RefusalReason, u64> {
        let labels = labels(100);
        let mut refused = BTreeMap::new();
        let mut now = window.begin;
        let mut is_greeting_due = false;
        while let Some(request) = window.next_request(limit, &labels) {
            let samples = samples_of(window);
            assert_eq!((samples.len() as u64, samples.is_empty()), (request.samples, false));
            let is_greeted = std::mem::take(&mut is_greeting_due);
            let is_down = is_greeted && receiver.is_down && receiver.is_out();
            if is_down {
                // As many more as there are until it is up.
                receiver.requests = receiver.outage.end;
                window.interrupted();
            }
            let answer = receiver.receive(&samples);
            if is_greeted {
                window.greeted();
            }
            now += Duration::from_secs(1);
            match answer {
                Some(Ok(())) => window.stored(limit, request.samples),
                Some(Err(reason)) => drop(window.refused(limit, request.samples, reason, has_later)),
                None => {
                    let not_before = None;
                    let cause = match rng.bool() {
                        true => RetryCause::Failed { not_before },
                        false => RetryCause::Unavailable { not_before },
                    };
                    window.failed(limit, request.samples, (cause, "failed"), has_later, now);
                    is_greeting_due = window.is_check_due() || rng.bool();
                    if window.is_repetition_due() {
                        repeat(window, receiver, &labels);
                    }
                }
            }
            for (reason, samples) in window.take_refused() {
                *refused.entry(reason).or_default() += samples;
            }
            if receiver.requests > 2_000 {
                // A newest sample that fails, and one beside which nothing is stored, is sent again until it is stored.
                receiver.poison = None;
            }
            assert!(receiver.requests < 20_000, "it does not end: {receiver:?}");
        }
        refused
    }

    /// Whatever a receiver refuses and whichever requests fail: each sample is stored, or refused for a reason that it had.
    #[test]
    fn a_window_ends_and_costs_no_sample_that_the_receiver_would_store_and_no_zero() {
        let mut dropped = 0;
        for seed in 0..3_000 {
            let mut rng = fastrand::Rng::with_seed(seed);
            let queue = Queue::random(&mut rng);
            let mut receiver = Receiver::random(&mut rng, queue.ticks.len(), queue.catalog.len());
            let poison = receiver.poison;
            let has_later = rng.bool();
            let mut limit = RequestLimit::default();
            let current = CurrentValues::default();
            let count = ticks_within(usize::MAX, &current, &queue.ticks, &queue.catalog, |_| true);
            let (ticks, left) = queue.ticks.split_at(count);
            let batch = Batch::new((TickTime::NEVER, &current), ticks, &queue.catalog, |_| true);
            let suspicion = Suspicion::new(Duration::from_secs(if rng.bool() { 0 } else { 20 }));
            let retried: Vec<_> = (0..queue.catalog.len()).filter(|_| rng.u8(..8) == 0).map(SeriesId::at).collect();
            let samples_max = if rng.bool() { limit.samples_max() } else { rng.usize(1..40) };
            let (begin, retried) = (Instant::now(), retried);
            let mut window = Window::new(begin, (ticks, left), batch, samples_max, retried.clone(), suspicion);
            let has_search = rng.u8(..4) == 0;
            if has_search {
                let until = time(rng.usize(..ticks.len()));
                window.expect(Expectation::Until(until, RefusalReason::OutOfBounds));
            }
            let batch = Batch::new((TickTime::NEVER, &current), ticks, &queue.catalog, |_| true);
            let pieces = Pieces::new(&batch, usize::MAX, []);
            let whole = Pieces::new(&batch, usize::MAX, []).next(&batch).cloned();
            let all: Vec<Sample> = whole.map_or_else(Vec::new, |whole| {
                let of_row = |row| batch.samples(&pieces, &whole, row).map(move |sample| (row, sample));
                let samples = (0..batch.series()).flat_map(of_row);
                samples.map(|(row, (time, value))| (batch.id(row), time, value.to_bits())).collect()
            });
            let refused = deliver(&mut window, &mut limit, &mut receiver, has_later, &mut rng);
            let what = format!("seed {seed} {has_later} {retried:?} {refused:?} {receiver:?} {:?}", queue.ticks);
            let stored = all.iter().filter(|sample| receiver.has(sample)).count() as u64;
            assert_eq!(stored + refused.values().sum::<u64>(), all.len() as u64, "stored or refused: {what}");
            let failed = refused.get(&RefusalReason::ServerError).copied().unwrap_or_default();
            dropped += failed;
            let of_poison = all.iter().filter(|(series, ..)| poison == Some(*series)).count() as u64;
            assert!(failed <= of_poison, "it drops what it would store: {what}");
            // Then what is refused together is dropped, and the next batch has the values.
            let is_bounded = window.pieces.refused_alone() >= REFUSED_ALONE_MAX;
            let newest = ticks.last().expect("a tick").time;
            for sample @ (series, at, _) in &all {
                let is_accepted = receiver.bad != Some(*series) && poison != Some(*series) && *at >= receiver.oldest;
                // Without a window, a search for the bound can overtake samples of the series that it probes.
                let is_searched = has_search || receiver.oldest != TickTime::NEVER || receiver.bad.is_some();
                let is_due = !is_bounded && (receiver.has_window || *at == newest || !is_searched);
                assert!(!(is_accepted && is_due) || receiver.has(sample), "{sample:?}: {what}");
            }
            for (index, series) in queue.catalog.iter().enumerate() {
                let id = SeriesId::at(index);
                let first = receiver.stored.get(&id).and_then(BTreeMap::first_key_value);
                let zero = all.iter().find(|(series, _, bits)| *series == id && *bits == 0);
                if let (Some((_, zero_at, _)), Some((at, bits))) = (zero, first)
                    && *zero_at >= receiver.oldest
                {
                    assert_eq!((at, *bits), (zero_at, 0), "series {series:?}: {what}");
                }
            }
        }
        assert!(dropped > 0, "no receiver fails for a series");
    }
}
