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

    /// Returns a request of a sample that was stored, and later than which the receiver has none of its series; `None` if there is none.
    pub(crate) fn repetition(&mut self, labels: &[Option<EncodedLabels>]) -> Option<Request> {
        let piece = self.pieces.newest_stored()?;
        let labels = |id: SeriesId| labels[id.index()].as_ref().expect("it was sent");
        let (body, samples) = self.batch.encode(&self.pieces, piece, &mut self.encoder, labels);
        Some(Request { body, samples, newest: self.batch.time(piece.ticks.end - 1) })
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

    /// The next request is one whose samples are far from those that were refused.
    pub(crate) fn prefer_longest(&mut self) {
        self.pieces.prefer_longest();
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
        let is_expected = is_retried || limit.is_failing(length);
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

    /// Returns whether samples were refused that are not sent again and not reported yet.
    pub(crate) fn has_losses(&self) -> bool {
        self.pieces.has_losses()
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
