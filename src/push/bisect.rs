//! Which samples of a batch go into the next request, when a receiver refuses some of them. Pure.
//!
//! A receiver answers for a request as a whole: it can store nothing because of one sample, or everything but one. So a request
//! that is refused is divided, by time and then by series, until what is refused is one sample. Two shortcuts keep that cheap:
//!
//! - Where the oldest sample is refused, all before some bound in time usually are. A binary search finds the bound with
//!   requests of one sample, all of one series: once a sample of it is stored, a receiver without a window refuses earlier ones, and
//!   says by the reason whether it is for their order or for their age. Only where it does not, each probe takes another series.
//!   Where the bound is known from an earlier batch, the first probes check it.
//! - A series whose sample is refused alone leaves the others' requests.
//!
//! The zero before a series' first sample is sent with that sample. Where it is refused with others, or they are dropped, the zero is
//! sent before the rest, with other zeros alone: a receiver without a window has a later sample of the other series, and none of this one.
//! Zeros that are refused together for their order or age are stored, or too old, up to one of them, as they were sent: where the first and
//! the last of them are refused alone for one such reason, all are. Those that are refused for another reason are halved.
//!
//! A receiver that refuses many series gets a bounded number of requests all the same: once [`REFUSED_ALONE_MAX`] samples of a batch
//! are refused alone, only its newest tick is divided any more, and once so many series are refused there, not even that. The next batch
//! has the newest values of all series, and leaves out those that were found. Zeros have a bound of their own: no later batch has them.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::Range;

use super::answer::RefusalReason;

/// So many samples of a batch are refused alone, and so many of its newest tick. Each takes up to two requests for each time that the
/// longest piece can be halved: 28 for one of 10,000 samples. So often are the pending pieces gone through, too.
pub(crate) const REFUSED_ALONE_MAX: usize = 64;

/// Once [`REFUSED_ALONE_MAX`] zeros were refused alone, so many more requests of zeros are refused before those that are refused together are
/// dropped: a series that is refused takes no zeros of others along.
pub(crate) const ZEROS_REFUSED_MAX: usize = 2 * REFUSED_ALONE_MAX;

/// Which cells of a table of ticks and series contain a sample.
pub(crate) trait Cells {
    /// Returns the number of ticks.
    fn ticks(&self) -> usize;
    /// Returns the number of series.
    fn series(&self) -> usize;
    /// Returns whether the series has a sample at the tick.
    fn has(&self, tick: usize, series: usize) -> bool;
    /// Returns the tick of the first sample of a series that began at zero: the zero is one sample more, before it.
    fn zero(&self, series: usize) -> Option<usize>;
}

/// Samples for one request: those of some series at some ticks, in the order of time, or zeros.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Piece {
    /// Of zeros: those of the samples that follow them, and of what else is pending with them.
    pub(crate) ticks: Range<usize>,
    /// Of zeros: their places in [`Pieces::zeros`].
    series: Range<usize>,
    role: Role,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Role {
    /// Samples of series that are sent together, divided if they are refused.
    Part,
    /// Samples of a series that is sent alone.
    Own,
    /// One sample, whose answer shows on which side of the bound its tick is.
    Probe,
    /// What a probe overtook: a receiver with a window for earlier samples takes it, and others refuse it.
    Overtaken,
    /// Zeros without the samples that follow them.
    Zeros,
    /// The last of zeros that were refused together, of which this is the first.
    LastZero { first: usize },
    /// The first of zeros that were refused together, of which this one was refused alone, for this reason, and is the last.
    FirstZero { last: usize, reason: RefusalReason },
}

impl Role {
    fn is_of_zeros(self) -> bool {
        matches!(self, Self::Zeros | Self::LastZero { .. } | Self::FirstZero { .. })
    }
}

/// A sample that was stored.
#[derive(Debug, Clone, Copy)]
pub(crate) struct StoredCell {
    pub(crate) tick: usize,
    pub(crate) series: usize,
    /// Whether it is the zero before the sample of this tick.
    pub(crate) is_zero: bool,
}

/// A number of samples that are refused for good.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Refused {
    pub(crate) samples: u64,
    pub(crate) reason: RefusalReason,
}

/// What remains of a batch.
#[derive(Debug)]
pub(crate) struct Pieces {
    pending: Pending,
    /// Most samples of a piece.
    samples_max: usize,
    /// Series that are sent alone: no part contains them.
    apart: BTreeSet<usize>,
    /// The first tick of a series that parts contain: a probe sent the sample before it.
    first_ticks: BTreeMap<usize, usize>,
    /// Series whose zero is sent without the sample that follows, in the order of these samples as far as they were separated together.
    zeros: Vec<usize>,
    /// The series of `zeros` and of `dropped_zeros`.
    separated: BTreeSet<usize>,
    /// Series whose first sample was dropped, and whose zero was not tried.
    dropped_zeros: Vec<usize>,
    /// Why the piece behind the first one was refused together with the zeros that the first one consists of.
    refused_with_zeros: Option<RefusalReason>,
    search: Search,
    refused: Vec<Refused>,
    /// How many samples were refused alone, zeros aside.
    refused_alone: usize,
    zeros_refused_alone: usize,
    /// How many requests of zeros were refused since those were too many.
    refused_zeros: usize,
    has_stored: bool,
    /// The latest of all samples that were stored.
    newest_stored: Option<StoredCell>,
    /// Whether ticks that are later than the batch are queued, so that its newest one can be refused as a whole.
    has_later: bool,
    /// Series whose sample at the newest tick was refused alone.
    refused_at_end: Vec<(usize, RefusalReason)>,
    /// Series that were sent alone and stored up to the newest tick.
    stored_at_end: BTreeSet<usize>,
}

/// Pieces in the order in which they are sent.
#[derive(Debug, Default)]
struct Pending {
    pieces: VecDeque<Piece>,
    /// The first ticks of all pieces but probes, each with the number of pieces.
    firsts: BTreeMap<usize, usize>,
}

impl Pending {
    fn front(&self) -> Option<&Piece> {
        self.pieces.front()
    }

    /// Returns the first tick of all pieces but probes.
    fn first_tick(&self) -> Option<usize> {
        self.firsts.first_key_value().map(|(first, _)| *first)
    }

    fn push_front(&mut self, piece: Piece) {
        self.count(&piece);
        self.pieces.push_front(piece);
    }

    fn push_back(&mut self, piece: Piece) {
        self.count(&piece);
        self.pieces.push_back(piece);
    }

    fn pop_front(&mut self) -> Option<Piece> {
        let piece = self.pieces.pop_front()?;
        if piece.role != Role::Probe
            && let Entry::Occupied(mut pieces) = self.firsts.entry(piece.ticks.start)
        {
            *pieces.get_mut() -= 1;
            if *pieces.get() == 0 {
                pieces.remove();
            }
        }
        Some(piece)
    }

    fn pop_front_if(&mut self, is_wanted: impl Fn(&Piece) -> bool) -> Option<Piece> {
        if self.front().is_some_and(is_wanted) { self.pop_front() } else { None }
    }

    /// Moves all before the longest piece behind the others.
    fn rotate_to_longest(&mut self) {
        let lengths = self.pieces.iter().map(|piece| piece.ticks.len() * piece.series.len());
        let longest = lengths.enumerate().max_by_key(|(_, length)| *length);
        self.pieces.rotate_left(longest.map_or(0, |(index, _)| index));
    }

    fn count(&mut self, piece: &Piece) {
        if piece.role != Role::Probe {
            *self.firsts.entry(piece.ticks.start).or_default() += 1;
        }
    }
}

impl FromIterator<Piece> for Pending {
    fn from_iter<I: IntoIterator<Item = Piece>>(pieces: I) -> Self {
        let mut pending = Self::default();
        pending.extend(pieces);
        pending
    }
}

impl Extend<Piece> for Pending {
    /// A piece without ticks is left out.
    fn extend<I: IntoIterator<Item = Piece>>(&mut self, pieces: I) {
        pieces.into_iter().filter(|piece| !piece.ticks.is_empty()).for_each(|piece| self.push_back(piece));
    }
}

impl IntoIterator for Pending {
    type Item = Piece;
    type IntoIter = std::collections::vec_deque::IntoIter<Piece>;

    fn into_iter(self) -> Self::IntoIter {
        self.pieces.into_iter()
    }
}

/// The search for the oldest tick that the receiver accepts.
#[derive(Debug)]
enum Search {
    /// Nothing was refused yet.
    NotNeeded,
    /// The bound is the last of these ticks, or before.
    Running(Running),
    /// Every tick before this one was refused for its age, and why; `None` if there is no such bound.
    Over(Option<(usize, RefusalReason)>),
}

#[derive(Debug)]
struct Running {
    /// Every tick of the range can be the first that is accepted; its end is accepted, or the end of the batch.
    range: Range<usize>,
    stage: Stage,
    /// Ticks that are probed before the range is halved, the last one first.
    guesses: Vec<usize>,
    /// The series of the next probe, if it has a sample there.
    series: usize,
    /// The ticks of each series whose probe was accepted.
    accepted: BTreeMap<usize, BTreeSet<usize>>,
    /// The series of the last probe that was refused.
    searched_with: Option<usize>,
    /// Whether a tick was taken for one that is accepted because a probe was refused for its order alone.
    is_inferred: bool,
    /// Whether the receiver's reasons do not tell order and age apart, so that each series is of use once.
    is_vague: bool,
    /// What refused a probe.
    reason: RefusalReason,
    /// What was refused and is to be sent from the bound on.
    from: Piece,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// The range is halved.
    Searching,
    /// A series without a sample is to be accepted at the bound, which was inferred.
    ConfirmingBound,
    /// Another series is to be refused right before the bound.
    ConfirmingRefusal,
}

impl Pieces {
    /// Divides all samples into pieces of at most `samples_max`, of as many ticks as possible, oldest first.
    pub(crate) fn new(cells: &impl Cells, samples_max: usize, apart: impl IntoIterator<Item = usize>) -> Self {
        let apart: BTreeSet<_> = apart.into_iter().collect();
        let (ticks, series) = (cells.ticks(), cells.series());
        let together = series - apart.len();
        let ticks_max = (samples_max / together.max(1)).max(1);
        let series_max = samples_max.clamp(1, series.max(1));
        let mut pending = Pending::default();
        if together > 0 {
            for first in (0..ticks).step_by(ticks_max) {
                let ticks = first..ticks.min(first + ticks_max);
                let parts = (0..series).step_by(if together > samples_max { series_max } else { series });
                let end = |first: usize| if together > samples_max { series.min(first + series_max) } else { series };
                pending.extend(parts.map(|first| Piece {
                    ticks: ticks.clone(),
                    series: first..end(first),
                    role: Role::Part,
                }));
            }
        }
        let apart_from_start: Vec<_> = apart.iter().copied().collect();
        let mut pieces = Self {
            pending,
            samples_max: samples_max.max(1),
            apart,
            first_ticks: BTreeMap::new(),
            zeros: Vec::new(),
            separated: BTreeSet::new(),
            dropped_zeros: Vec::new(),
            refused_with_zeros: None,
            search: Search::NotNeeded,
            refused: Vec::new(),
            refused_alone: 0,
            zeros_refused_alone: 0,
            refused_zeros: 0,
            has_stored: false,
            newest_stored: None,
            has_later: false,
            refused_at_end: Vec::new(),
            stored_at_end: BTreeSet::new(),
        };
        apart_from_start.into_iter().for_each(|series| pieces.push_back(0..ticks, series, Role::Own));
        pieces
    }

    /// Ticks that are later than the batch are queued: they hold its counts, so that its newest one need not be tried in any case.
    pub(crate) fn expect_later_ticks(&mut self) {
        self.has_later = true;
    }

    /// Begins with the search, because an earlier one suggests that all ticks before `bound` are refused for `reason`.
    pub(crate) fn expect_bound(&mut self, cells: &impl Cells, bound: usize, reason: RefusalReason) {
        let is_searchable = |piece: &Piece| piece.role == Role::Part && piece.series.len() > 1;
        if bound > 0
            && matches!(self.search, Search::NotNeeded)
            && let Some(piece) = self.pending.pop_front_if(is_searchable)
        {
            let zeros = self.separate_zeros(cells, &piece);
            // The last tick that is refused, the first one that is accepted, and, if that is wrong, the oldest of all.
            self.start_search(cells, piece, vec![0, bound, bound - 1], reason);
            self.push_zeros(cells, zeros);
        }
    }

    /// Returns the number of the oldest ticks that were refused for their age, once a search found it, and the reason.
    pub(crate) fn refused_ticks(&self) -> Option<(usize, RefusalReason)> {
        match self.search {
            Search::Over(found) => found,
            Search::NotNeeded | Search::Running(_) => None,
        }
    }

    /// Returns the next samples to be sent, or `None` if each is stored or refused.
    pub(crate) fn next(&mut self, cells: &impl Cells) -> Option<&Piece> {
        while self.pending.front().is_some_and(|piece| self.is_empty(cells, piece)) {
            self.pending.pop_front();
        }
        self.pending.front()
    }

    /// Returns the series of which `piece` can contain samples.
    pub(crate) fn series_of(&self, piece: &Piece) -> impl Iterator<Item = usize> {
        let is_of_zeros = piece.role.is_of_zeros();
        piece.series.clone().map(move |index| if is_of_zeros { self.zeros[index] } else { index })
    }

    /// Returns whether `piece` contains the zero of the series.
    pub(crate) fn has_zero(&self, cells: &impl Cells, piece: &Piece, series: usize) -> bool {
        let is_with_sample = |tick| !self.separated.contains(&series) && self.ticks_of(piece, series).contains(&tick);
        piece.role.is_of_zeros() || cells.zero(series).is_some_and(is_with_sample)
    }

    /// Returns the ticks at which `piece` contains a sample of the series, its zero aside.
    pub(crate) fn ticks_of(&self, piece: &Piece, series: usize) -> Range<usize> {
        if piece.role.is_of_zeros() {
            return piece.ticks.end..piece.ticks.end;
        }
        if piece.role != Role::Part {
            return piece.ticks.clone();
        }
        if self.apart.contains(&series) {
            return piece.ticks.end..piece.ticks.end;
        }
        let first = self.first_ticks.get(&series).copied().unwrap_or_default();
        first.clamp(piece.ticks.start, piece.ticks.end)..piece.ticks.end
    }

    /// The receiver stored the samples of the piece that [`Self::next`] returned.
    pub(crate) fn stored(&mut self, cells: &impl Cells) {
        let Some(piece) = self.pending.pop_front() else { return };
        let refused_with_zeros = self.refused_with_zeros.take();
        self.has_stored = true;
        self.note_newest(cells, &piece);
        match piece.role {
            Role::Probe => self.probed(cells, &piece, None),
            Role::Own if piece.ticks.end == cells.ticks() => drop(self.stored_at_end.insert(piece.series.start)),
            Role::Part | Role::Own | Role::Overtaken => {}
            Role::Zeros => {
                // It was not for the zeros that they were refused.
                if let Some(reason) = refused_with_zeros
                    && let Some(rest) = self.pending.pop_front()
                {
                    self.refuse_piece(cells, rest, reason);
                }
            }
            Role::LastZero { first } => self.halve_zeros(cells, first..piece.series.start),
            Role::FirstZero { last, reason } => {
                self.refuse_zeros(last..last + 1, reason);
                self.push_zeros_at(cells, piece.series.end..last, Role::Zeros);
            }
        }
        self.send_dropped_zeros(cells);
    }

    fn note_newest(&mut self, cells: &impl Cells, piece: &Piece) {
        let newer = match self.newest_stored {
            None => 0,
            // It comes before the sample of its tick.
            Some(StoredCell { tick, is_zero: true, .. }) => tick,
            Some(StoredCell { tick, is_zero: false, .. }) => tick + 1,
        };
        let found = if piece.role.is_of_zeros() {
            let series = self.zeros[piece.series.end - 1];
            let tick = cells.zero(series).filter(|tick| *tick >= newer);
            tick.map(|tick| StoredCell { tick, series, is_zero: true })
        } else {
            let at = |tick: usize| {
                let is_there =
                    |series: &usize| self.ticks_of(piece, *series).contains(&tick) && cells.has(tick, *series);
                let found = piece.series.clone().find(is_there);
                found.map(|series| StoredCell { tick, series, is_zero: false })
            };
            (newer.max(piece.ticks.start)..piece.ticks.end).rev().find_map(at)
        };
        self.newest_stored = found.or(self.newest_stored);
    }

    /// The receiver refused a sample of the piece that [`Self::next`] returned.
    pub(crate) fn refuse(&mut self, cells: &impl Cells, reason: RefusalReason) {
        let Some(piece) = self.pending.pop_front() else { return };
        self.refused_with_zeros = None;
        self.refuse_piece(cells, piece, reason);
        self.send_dropped_zeros(cells);
    }

    fn refuse_piece(&mut self, cells: &impl Cells, piece: Piece, reason: RefusalReason) {
        if piece.role.is_of_zeros() {
            return self.refuse_piece_of_zeros(cells, &piece, reason);
        }
        let is_one = piece.ticks.len() == 1 && piece.series.len() == 1;
        if reason.is_of_time() || is_one {
            let zeros = self.separate_zeros(cells, &piece);
            if !zeros.is_empty() {
                self.pending.push_front(piece);
                self.push_zeros(cells, zeros);
                self.refused_with_zeros = Some(reason).filter(|reason| reason.is_of_time());
                return;
            }
        }
        match piece.role {
            Role::Probe => return self.probed(cells, &piece, Some(reason)),
            Role::Overtaken if reason.is_of_time() => return self.drop_piece(cells, &piece, reason),
            _ => {}
        }
        if self.refused_alone >= REFUSED_ALONE_MAX {
            let newest = cells.ticks() - 1;
            let is_tried = !self.has_later && self.refused_at_end.len() < REFUSED_ALONE_MAX && piece.ticks.end > newest;
            if !is_tried {
                return self.drop_piece(cells, &piece, reason);
            }
            if piece.ticks.start < newest {
                self.drop_piece(cells, &Piece { ticks: piece.ticks.start..newest, ..piece.clone() }, reason);
                return self.pending.push_front(Piece { ticks: newest..newest + 1, ..piece });
            }
        }
        let is_first = matches!(self.search, Search::NotNeeded);
        // A single tick can be refused as a whole where a later one has its counts.
        let is_of_ticks = piece.ticks.len() > 1 || self.has_later;
        if is_first && reason.is_of_time() && is_of_ticks && piece.series.len() > 1 {
            return self.start_search(cells, piece, Vec::new(), reason);
        }
        self.divide(cells, piece, reason);
    }

    /// The piece that [`Self::next`] returned is longer than a request may be, or may have failed for its length. It has more than one sample.
    pub(crate) fn shorten(&mut self, cells: &impl Cells) {
        let Some(piece) = self.pending.pop_front() else { return };
        self.refused_with_zeros = None;
        let is_one = piece.ticks.len() == 1 && piece.series.len() == 1;
        if piece.role.is_of_zeros() {
            self.halve_zeros(cells, piece.series);
        } else if is_one {
            let zeros = self.separate_zeros(cells, &piece);
            self.pending.push_front(piece);
            self.push_zeros(cells, zeros);
        } else {
            self.divide(cells, piece, RefusalReason::TooLarge);
        }
    }

    /// Returns the series whose zero is part of the piece, and takes it out.
    fn separate_zeros(&mut self, cells: &impl Cells, piece: &Piece) -> Vec<usize> {
        let zeros: Vec<_> = piece.series.clone().filter(|series| self.has_zero(cells, piece, *series)).collect();
        self.separated.extend(&zeros);
        zeros
    }

    /// The next piece is that of the zeros of these series, which are separated.
    fn push_zeros(&mut self, cells: &impl Cells, mut series: Vec<usize>) {
        series.sort_unstable_by_key(|series| (cells.zero(*series), *series));
        let first = self.zeros.len();
        self.zeros.append(&mut series);
        self.push_zeros_at(cells, first..self.zeros.len(), Role::Zeros);
    }

    /// The next piece is that of the zeros at these places, if there are any.
    fn push_zeros_at(&mut self, cells: &impl Cells, series: Range<usize>, role: Role) {
        // What is refused together with the piece is pending as well.
        let all = match role {
            Role::LastZero { first } => first..series.end,
            Role::FirstZero { last, .. } => series.start..last + 1,
            _ => series.clone(),
        };
        let tick = |place: usize| cells.zero(self.zeros[place]).unwrap_or_default();
        if !series.is_empty() {
            let ticks = tick(all.start)..tick(all.end - 1) + 1;
            self.pending.push_front(Piece { ticks, series, role });
        }
    }

    /// Zeros whose samples were dropped are the next piece.
    fn send_dropped_zeros(&mut self, cells: &impl Cells) {
        let zeros = std::mem::take(&mut self.dropped_zeros);
        if !zeros.is_empty() {
            self.push_zeros(cells, zeros);
        }
    }

    /// Zeros are refused together: their halves are the next pieces.
    fn halve_zeros(&mut self, cells: &impl Cells, zeros: Range<usize>) {
        let middle = zeros.start + zeros.len() / 2;
        self.push_zeros_at(cells, zeros.start..middle, Role::Zeros);
        self.push_zeros_at(cells, middle..zeros.end, Role::Zeros);
    }

    fn refuse_piece_of_zeros(&mut self, cells: &impl Cells, piece: &Piece, reason: RefusalReason) {
        let Range { start, end } = piece.series;
        self.refused_zeros += usize::from(self.zeros_refused_alone >= REFUSED_ALONE_MAX);
        self.zeros_refused_alone += usize::from(end - start == 1);
        match piece.role {
            Role::LastZero { first } => {
                self.push_zeros_at(cells, first..first + 1, Role::FirstZero { last: start, reason });
            }
            Role::FirstZero { last, reason: of_last } if reason != of_last || !reason.is_known() => {
                self.refuse_zeros(start..end, reason);
                self.refuse_zeros(last..last + 1, of_last);
                self.push_zeros_at(cells, end..last, Role::Zeros);
            }
            Role::FirstZero { last, .. } => self.refuse_zeros(start..last + 1, reason),
            _ if end - start == 1 || self.refused_zeros >= ZEROS_REFUSED_MAX => self.refuse_zeros(start..end, reason),
            _ if reason.is_of_time() && reason.is_known() => {
                self.push_zeros_at(cells, end - 1..end, Role::LastZero { first: start })
            }
            _ => self.halve_zeros(cells, start..end),
        }
    }

    fn refuse_zeros(&mut self, zeros: Range<usize>, reason: RefusalReason) {
        self.refused.push(Refused { samples: zeros.len() as u64, reason });
    }

    fn start_search(&mut self, cells: &impl Cells, from: Piece, guesses: Vec<usize>, reason: RefusalReason) {
        self.search = Search::Running(Running {
            range: from.ticks.start..cells.ticks(),
            stage: Stage::Searching,
            guesses,
            // One of the bridge's own where they are sent: they come last.
            series: from.series.end - 1,
            accepted: BTreeMap::new(),
            searched_with: None,
            is_inferred: false,
            is_vague: false,
            reason,
            from,
        });
        self.probe(cells);
    }

    /// The piece that [`Self::next`] returned has one sample, which gives way to the others. What follows of its series stays behind it: a
    /// receiver without a window refuses a sample once a later one of the series is stored.
    pub(crate) fn postpone(&mut self, cells: &impl Cells) {
        let Some(piece) = self.pending.pop_front() else { return };
        self.refused_with_zeros = None;
        match piece.role {
            // Its series decides nothing; others are divided without a bound.
            Role::Probe => self.end_search_early(cells),
            Role::Overtaken => self.pending.push_back(piece),
            Role::Part => {
                // Others have none of their samples in the piece.
                let first =
                    |series| Some((series, self.ticks_of(&piece, series).find(|tick| cells.has(*tick, series))?));
                let found = piece.series.clone().find_map(first);
                found.into_iter().for_each(|(series, first)| self.set_apart(cells, series, first));
            }
            Role::Own => {
                let series = piece.series.start;
                self.pending.push_front(piece);
                self.move_own_back(series);
            }
            Role::Zeros | Role::LastZero { .. } | Role::FirstZero { .. } => self.postpone_zero(cells, piece),
        }
    }

    fn postpone_zero(&mut self, cells: &impl Cells, piece: Piece) {
        let (place, series) = (piece.series.start, self.zeros[piece.series.start]);
        match piece.role {
            Role::LastZero { first } => self.push_zeros_at(cells, first..place, Role::Zeros),
            Role::FirstZero { last, reason } => {
                self.refuse_zeros(last..last + 1, reason);
                self.push_zeros_at(cells, place + 1..last, Role::Zeros);
            }
            Role::Zeros | Role::Part | Role::Own | Role::Probe | Role::Overtaken => {}
        }
        if matches!(self.search, Search::Running(_)) {
            // The next probe can be of this series.
            let pending = std::mem::take(&mut self.pending);
            self.pending = pending.into_iter().filter(|piece| piece.role != Role::Probe).collect();
            self.end_search_early(cells);
        }
        let first = self.first_in_parts(cells, series);
        self.pending.push_back(Piece { role: Role::Zeros, ..piece });
        // No probe and no part may store a sample of the series before its zero.
        self.set_apart(cells, series, first);
        self.move_own_back(series);
    }

    /// Returns the first tick at which a part contains a sample of the series; the number of ticks if none does.
    fn first_in_parts(&self, cells: &impl Cells, series: usize) -> usize {
        let parts =
            self.pending.pieces.iter().filter(|piece| piece.role == Role::Part && piece.series.contains(&series));
        parts.flat_map(|piece| self.ticks_of(piece, series)).min().unwrap_or(cells.ticks())
    }

    /// Moves the pieces of a series that is sent alone behind the others, in their order.
    fn move_own_back(&mut self, series: usize) {
        let is_own = |piece: &Piece| piece.role == Role::Own && piece.series.start == series;
        let (own, rest): (Vec<_>, Vec<_>) = std::mem::take(&mut self.pending).into_iter().partition(is_own);
        self.pending.extend(rest.into_iter().chain(own));
    }

    /// The next piece is the longest one: its samples are far from those that were tried.
    pub(crate) fn prefer_longest(&mut self) {
        // A probe decides what the others are, and zeros come before their samples.
        let is_fixed = |piece: &Piece| piece.role == Role::Probe || piece.role.is_of_zeros();
        if !self.pending.pieces.iter().any(is_fixed) {
            self.refused_with_zeros = None;
            self.pending.rotate_to_longest();
        }
    }

    /// Returns whether behind the piece that [`Self::next`] returned several samples of series that are sent together are pending.
    pub(crate) fn has_parts(&self, cells: &impl Cells) -> bool {
        let is_of_several = |piece: &Piece| piece.role == Role::Part && self.samples(cells, piece) > 1;
        matches!(self.search, Search::Running(_)) || self.pending.pieces.iter().skip(1).any(is_of_several)
    }

    /// Returns a tick before which each sample is stored or refused: the first of all that is neither, where no piece has become
    /// empty since it was divided.
    pub(crate) fn first_pending(&self, cells: &impl Cells) -> usize {
        let first = self.pending.first_tick().unwrap_or(cells.ticks());
        match &self.search {
            Search::Running(Running { from, .. }) => first.min(from.ticks.start),
            Search::NotNeeded | Search::Over(_) => first,
        }
    }

    /// Returns what was refused since the last call.
    pub(crate) fn take_refused(&mut self) -> Vec<Refused> {
        std::mem::take(&mut self.refused)
    }

    /// Returns the number of samples that were refused alone, zeros aside.
    pub(crate) fn refused_alone(&self) -> usize {
        self.refused_alone
    }

    /// Returns whether any sample was stored.
    pub(crate) fn has_stored(&self) -> bool {
        self.has_stored
    }

    /// Returns one sample that was stored; the receiver has no later one of its series from this batch.
    pub(crate) fn newest_stored(&self) -> Option<StoredCell> {
        self.newest_stored
    }

    /// Returns the series whose sample at the newest tick was refused alone, while others were stored, and why.
    pub(crate) fn refused_series(&self) -> &[(usize, RefusalReason)] {
        if self.has_stored { &self.refused_at_end } else { &[] }
    }

    /// Returns whether samples of the series that were sent alone were stored up to the newest tick.
    pub(crate) fn is_stored_at_end(&self, series: usize) -> bool {
        self.stored_at_end.contains(&series)
    }

    fn is_empty(&self, cells: &impl Cells, piece: &Piece) -> bool {
        if piece.role.is_of_zeros() {
            return piece.series.is_empty();
        }
        let has = |series| self.ticks_of(piece, series).any(|tick| cells.has(tick, series));
        !piece.series.clone().any(has)
    }

    /// Returns the number of samples of a piece.
    pub(crate) fn samples(&self, cells: &impl Cells, piece: &Piece) -> u64 {
        let of_series = |series| {
            let at_ticks = self.ticks_of(piece, series).filter(|&tick| cells.has(tick, series)).count();
            at_ticks as u64 + u64::from(self.has_zero(cells, piece, series))
        };
        self.series_of(piece).map(of_series).sum()
    }

    /// Drops the samples of a piece, but for the zeros that were not tried without them.
    fn drop_piece(&mut self, cells: &impl Cells, piece: &Piece, reason: RefusalReason) {
        if !piece.role.is_of_zeros() {
            let mut zeros = self.separate_zeros(cells, piece);
            self.dropped_zeros.append(&mut zeros);
        }
        let samples = self.samples(cells, piece);
        if samples > 0 {
            self.refused.push(Refused { samples, reason });
        }
    }

    fn divide(&mut self, cells: &impl Cells, piece: Piece, reason: RefusalReason) {
        let Piece { ticks, series, mut role } = piece.clone();
        let (middle, middle_series) = (ticks.start + ticks.len() / 2, series.start + series.len() / 2);
        if ticks.len() > 1 && series.len() == 1 && role == Role::Part {
            self.set_apart(cells, series.start, ticks.end);
            role = Role::Own;
        }
        let part = |ticks: Range<usize>, series: Range<usize>| Piece { ticks, series, role };
        let (first, second) = match (ticks.len(), series.len()) {
            (..=1, ..=1) => return self.refuse_one(cells, &piece, reason),
            (..=1, _) => (part(ticks.clone(), series.start..middle_series), part(ticks, middle_series..series.end)),
            // Newer samples first: where they are refused, so are the older ones.
            (_, 1) if reason.is_of_time() => {
                (part(middle..ticks.end, series.clone()), part(ticks.start..middle, series))
            }
            _ => (part(ticks.start..middle, series.clone()), part(middle..ticks.end, series)),
        };
        self.pending.push_front(second);
        self.pending.push_front(first);
    }

    /// From the tick `first` on the series is sent alone, after the others.
    fn set_apart(&mut self, cells: &impl Cells, series: usize, first: usize) {
        if self.apart.insert(series) {
            self.push_back(first..cells.ticks(), series, Role::Own);
        }
    }

    fn push_back(&mut self, ticks: Range<usize>, series: usize, role: Role) {
        let end = ticks.end;
        let firsts = ticks.step_by(self.samples_max);
        let pieces =
            firsts.map(|first| Piece::of_one(first..end.min(first.saturating_add(self.samples_max)), series, role));
        self.pending.extend(pieces);
    }

    /// One sample is refused alone.
    fn refuse_one(&mut self, cells: &impl Cells, piece: &Piece, reason: RefusalReason) {
        let (tick, series) = (piece.ticks.start, piece.series.start);
        self.refused_alone += 1;
        self.drop_piece(cells, piece, reason);
        if tick + 1 == cells.ticks() {
            self.refused_at_end.push((series, reason));
        }
        if piece.role == Role::Part {
            self.set_apart(cells, series, tick + 1);
        } else if reason.is_of_time() {
            // What is older than a refused sample of the same series is refused too.
            let is_older =
                |other: &Piece| other.series == piece.series && other.ticks.end <= tick && other.role == Role::Own;
            let (older, rest): (Vec<_>, Vec<_>) = std::mem::take(&mut self.pending).into_iter().partition(is_older);
            self.pending.extend(rest);
            older.iter().for_each(|piece| self.drop_piece(cells, piece, reason));
        }
    }

    /// Sends the next probe, or ends the search.
    fn probe(&mut self, cells: &impl Cells) {
        let Search::Running(running) = &mut self.search else { return };
        let Running { range, stage, guesses, series, accepted, searched_with, is_vague, from, .. } = running;
        let tick = match stage {
            Stage::Searching => match std::iter::from_fn(|| guesses.pop()).find(|guess| range.contains(guess)) {
                Some(guess) => guess,
                // First the oldest of all: where that one is accepted, no bound is the reason.
                None if range.start == from.ticks.start && range.end == cells.ticks() => range.start,
                None => range.start + range.len() / 2,
            },
            Stage::ConfirmingBound => range.end,
            // The newest tick that is refused.
            Stage::ConfirmingRefusal => range.start - 1,
        };
        let is_usable = |candidate: &usize| {
            let is_used = self.apart.contains(candidate) || self.first_ticks.contains_key(candidate);
            let is_searching = *stage == Stage::Searching;
            let again = is_searching && !*is_vague && candidate == series && accepted.contains_key(candidate);
            // Only another series can confirm what one said.
            let said_so = !is_searching && *searched_with == Some(*candidate);
            // Its zero is sent before its samples, and zeros in the order of time.
            let has_zero = cells.zero(*candidate).is_some_and(|zero| (from.ticks.start..=tick).contains(&zero))
                && !self.separated.contains(candidate);
            (!is_used || again) && !said_so && !has_zero && cells.has(tick, *candidate)
        };
        let found = (*series..from.series.end).chain(from.series.start..*series).find(is_usable);
        match found {
            Some(found) => {
                *series = found;
                self.pending.push_front(Piece::of_one(tick..tick + 1, found, Role::Probe));
            }
            None => self.end_search_early(cells),
        }
    }

    /// A probe was accepted, or refused for a reason.
    fn probed(&mut self, cells: &impl Cells, piece: &Piece, refused: Option<RefusalReason>) {
        let (tick, probe) = (piece.ticks.start, piece.series.start);
        let Search::Running(running) = &mut self.search else { return };
        let is_used = running.accepted.contains_key(&probe);
        let Some(of_probe) = refused else {
            running.accepted.entry(probe).or_default().insert(tick);
            // Parts begin behind it; what it overtook is sent later.
            let first = self.first_ticks.entry(probe).or_default();
            *first = (*first).max(tick + 1);
            let misleading = running.accept(tick, probe);
            let from = running.from.ticks.start;
            misleading.into_iter().for_each(|series| self.set_apart(cells, series, from));
            return self.next_probe(cells);
        };
        match running.stage {
            Stage::ConfirmingRefusal => {
                running.reason = of_probe;
                return self.end_search(cells);
            }
            Stage::ConfirmingBound => {
                let lowest = running.lowest_accepted().unwrap_or(cells.ticks());
                running.range = tick + 1..lowest;
                running.stage = Stage::Searching;
                (running.is_vague, running.is_inferred) = (true, false);
                running.searched_with = Some(probe);
            }
            // It has a later sample of the series, and would accept the tick of another one.
            Stage::Searching if is_used && of_probe == RefusalReason::OutOfOrder => {
                running.range.end = tick;
                running.is_inferred = true;
            }
            Stage::Searching if is_used && !of_probe.is_of_age() => {
                running.is_vague = true;
                running.series = running.from.other(probe);
            }
            Stage::Searching => {
                running.reason = of_probe;
                running.searched_with = Some(probe);
                running.range.start = tick + 1;
            }
        }
        self.next_probe(cells);
    }

    /// Continues the search, confirms its bound, or ends it.
    fn next_probe(&mut self, cells: &impl Cells) {
        let Search::Running(running) = &mut self.search else { return };
        if running.stage == Stage::Searching {
            if running.range.start < running.range.end {
                return self.probe(cells);
            }
            if running.is_inferred && running.lowest_accepted() != Some(running.range.end) {
                running.stage = Stage::ConfirmingBound;
                running.series = running.from.other(running.series);
                return self.probe(cells);
            }
        }
        match running.searched_with {
            Some(probe) if running.range.start > running.from.ticks.start => {
                running.series = running.from.other(probe);
                running.stage = Stage::ConfirmingRefusal;
                self.probe(cells);
            }
            _ => self.end_search(cells),
        }
    }

    /// Ends the search without another probe: what was not confirmed is not believed, unless it was refused for its age.
    fn end_search_early(&mut self, cells: &impl Cells) {
        if let Search::Running(running) = &mut self.search
            && (running.stage != Stage::Searching || !running.reason.is_of_age())
        {
            running.range.start = running.from.ticks.start;
        }
        self.end_search(cells);
    }

    /// Drops what is before the bound, and sends the rest.
    fn end_search(&mut self, cells: &impl Cells) {
        let Search::Running(running) = std::mem::replace(&mut self.search, Search::Over(None)) else { return };
        let Running { range, accepted, reason, from, .. } = running;
        let start = from.ticks.start;
        // The newest tick of the queue is tried in any case. Where no probe was refused, nothing is said of earlier ticks either.
        let is_found = range.start > start;
        let tried = usize::from(!self.has_later);
        let bound = if is_found { range.start.min(cells.ticks() - tried) } else { 0 };
        self.search = Search::Over((is_found && reason.is_of_age()).then_some((range.start, reason)));
        // Each probe that was accepted is at the bound or behind it: nothing before is stored.
        let probed = std::mem::take(&mut self.first_ticks);
        let pending = std::mem::take(&mut self.pending);
        let (zeros, rest): (Vec<_>, Vec<_>) = pending.into_iter().partition(|piece| piece.role.is_of_zeros());
        self.pending.extend(zeros);
        for piece in std::iter::once(from).chain(rest) {
            let Piece { ticks, series, role } = piece;
            let cut = bound.clamp(ticks.start, ticks.end);
            self.drop_piece(cells, &Piece { ticks: ticks.start..cut, series: series.clone(), role }, reason);
            self.pending.extend([Piece { ticks: cut..ticks.end, series, role }]);
        }
        // Without a series that another probe could use the bound may be later.
        let role = if range.start < range.end { Role::Own } else { Role::Overtaken };
        for (series, ticks) in accepted {
            // The samples of the probes themselves are stored.
            let mut first = bound.max(start);
            for tick in ticks {
                self.push_back(first.min(tick)..tick, series, role);
                first = tick + 1;
            }
        }
        self.first_ticks = probed;
    }
}

impl Running {
    /// A probe was accepted. Returns a series whose refusals say nothing of the others.
    fn accept(&mut self, tick: usize, probe: usize) -> Option<usize> {
        match self.stage {
            Stage::Searching => {
                self.range.end = tick;
                if self.is_vague {
                    self.series = self.from.other(probe);
                }
                None
            }
            Stage::ConfirmingBound => None,
            Stage::ConfirmingRefusal => {
                // The series of the search was refused for a reason of its own.
                self.range = self.from.ticks.start..tick;
                self.stage = Stage::Searching;
                self.is_inferred = false;
                self.series = if self.is_vague { self.from.other(probe) } else { probe };
                self.searched_with.take().filter(|series| !self.accepted.contains_key(series))
            }
        }
    }

    fn lowest_accepted(&self) -> Option<usize> {
        self.accepted.values().filter_map(BTreeSet::first).min().copied()
    }
}

impl Piece {
    /// Returns a series of the piece that is far from `series`: neighbours can be of one skill, and refused for one reason.
    fn other(&self, series: usize) -> usize {
        let distance = self.series.len() / 2 + 1;
        self.series.start + (series - self.series.start + distance) % self.series.len()
    }

    fn of_one(ticks: Range<usize>, series: usize, role: Role) -> Self {
        Self { ticks, series: series..series + 1, role }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A batch in which some series begin late.
    #[derive(Debug, Clone)]
    struct Table {
        ticks: usize,
        /// The first tick of each series.
        first: Vec<usize>,
    }

    impl Cells for Table {
        fn ticks(&self) -> usize {
            self.ticks
        }

        fn series(&self) -> usize {
            self.first.len()
        }

        fn has(&self, tick: usize, series: usize) -> bool {
            tick >= self.first[series]
        }

        fn zero(&self, _series: usize) -> Option<usize> {
            None
        }
    }

    /// What a receiver without a window says of a sample that is too old, and of one before the newest of its series.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    enum Says {
        /// Its age first, as Prometheus does.
        Age,
        /// Its order first.
        Order,
        /// The same of both.
        Nothing,
    }

    /// How a receiver decides.
    #[derive(Debug, Clone)]
    struct Receiver {
        /// It accepts nothing before this tick.
        bound: usize,
        /// It accepts samples before the newest of a series.
        has_window: bool,
        says: Says,
        /// It stores what it can of a request that it refuses.
        stores_in_part: bool,
        /// It never accepts these series.
        bad: BTreeSet<usize>,
        samples_max: usize,
        stored: BTreeSet<(usize, usize)>,
        requests: usize,
    }

    impl Receiver {
        fn new(bound: usize, has_window: bool) -> Self {
            Self {
                bound,
                has_window,
                says: Says::Age,
                stores_in_part: false,
                bad: BTreeSet::new(),
                samples_max: usize::MAX,
                stored: BTreeSet::new(),
                requests: 0,
            }
        }

        fn newest(&self, series: usize) -> Option<usize> {
            self.stored.range((series, 0)..(series + 1, 0)).next_back().map(|(_, tick)| *tick)
        }

        /// Samples are of a series and at a tick.
        fn receive(&mut self, samples: &[(usize, usize)]) -> Result<(), RefusalReason> {
            self.requests += 1;
            if samples.len() > self.samples_max {
                return Err(RefusalReason::TooLarge);
            }
            let refusal = |&(series, tick): &(usize, usize)| {
                let is_late = !self.has_window && self.newest(series).is_some_and(|newest| tick < newest);
                let is_old = tick < self.bound;
                match self.says {
                    _ if self.bad.contains(&series) => Some(RefusalReason::Other),
                    Says::Nothing if is_old || is_late => Some(RefusalReason::Other),
                    Says::Order if is_late => Some(RefusalReason::OutOfOrder),
                    _ if is_old => Some(RefusalReason::OutOfBounds),
                    _ if is_late => Some(RefusalReason::OutOfOrder),
                    _ => None,
                }
            };
            let refused = samples.iter().find_map(refusal);
            if refused.is_none() || self.stores_in_part {
                let stored: Vec<_> = samples.iter().filter(|sample| refusal(sample).is_none()).copied().collect();
                self.stored.extend(stored);
            }
            refused.map_or(Ok(()), Err)
        }
    }

    /// Sends all of a table, and returns how many samples were refused.
    fn deliver(table: &Table, receiver: &mut Receiver, samples_max: usize) -> u64 {
        let mut pieces = Pieces::new(table, samples_max, []);
        deliver_pieces(table, receiver, samples_max, &mut pieces)
    }

    /// As [`deliver`], with a bound that is expected.
    fn deliver_from(expected: usize, table: &Table, receiver: &mut Receiver, samples_max: usize) -> u64 {
        let mut pieces = Pieces::new(table, samples_max, []);
        pieces.expect_bound(table, expected, RefusalReason::TooOld);
        deliver_pieces(table, receiver, samples_max, &mut pieces)
    }

    fn deliver_pieces(table: &Table, receiver: &mut Receiver, samples_max: usize, pieces: &mut Pieces) -> u64 {
        let mut refused = 0;
        let mut answered = BTreeSet::new();
        while let Some(piece) = pieces.next(table).cloned() {
            let samples: Vec<_> = piece
                .series
                .clone()
                .flat_map(|series| pieces.ticks_of(&piece, series).map(move |tick| (series, tick)))
                .filter(|&(series, tick)| table.has(tick, series))
                .collect();
            assert!(!samples.is_empty() && samples.len() <= samples_max);
            match receiver.receive(&samples) {
                Ok(()) => {
                    for sample in samples {
                        assert!(answered.insert(sample), "{sample:?} was sent although it was stored");
                    }
                    pieces.stored(table);
                }
                Err(reason) => pieces.refuse(table, reason),
            }
            refused += pieces.take_refused().iter().map(|refused| refused.samples).sum::<u64>();
            assert!(receiver.requests < 100_000, "it does not end");
        }
        let all = (0..table.series()).map(|series| table.ticks - table.first[series].min(table.ticks)).sum::<usize>();
        assert_eq!(
            answered.len() as u64 + refused,
            all as u64,
            "each sample is stored or refused, and no sample is both"
        );
        refused
    }

    fn full(ticks: usize, series: usize) -> Table {
        Table { ticks, first: vec![0; series] }
    }

    #[test]
    fn what_is_accepted_takes_one_request_a_piece() {
        for (ticks, series, samples_max, requests) in
            [(1, 1, 10, 1), (100, 100, 10_000, 1), (100, 100, 5_000, 2), (1, 25, 10, 3), (3, 25, 10, 9), (4, 3, 1, 12)]
        {
            let mut receiver = Receiver::new(0, false);
            assert_eq!(deliver(&full(ticks, series), &mut receiver, samples_max), 0);
            assert_eq!((receiver.requests, receiver.stored.len()), (requests, ticks * series), "{ticks} {series}");
        }
    }

    #[test]
    fn the_bound_of_65_hours_is_found_with_a_request_a_power_of_two() {
        let table = full(3_900, 30);
        for bound in [0, 1, 2, 1_000, 3_840, 3_898, 3_899] {
            let of_others = [(false, Says::Order), (false, Says::Nothing)].into_iter().filter(|_| bound >= 3_840);
            for (has_window, says) in [(true, Says::Age), (false, Says::Age)].into_iter().chain(of_others) {
                let mut receiver = Receiver { says, ..Receiver::new(bound, has_window) };
                deliver(&table, &mut receiver, usize::MAX);
                let newer = (0..30).flat_map(|series| (bound..3_900).map(move |tick| (series, tick)));
                let lost = newer.filter(|sample| !receiver.stored.contains(sample)).map(|(series, _)| series);
                let lost: BTreeSet<_> = lost.collect();
                let most = match says {
                    Says::Age if has_window => 0,
                    // That of the probes.
                    Says::Age => 1,
                    Says::Order | Says::Nothing => 13,
                };
                assert!(lost.len() <= most, "{bound} {says:?}: {lost:?}");
                // The batch, 13 probes, those that confirm, what the probes overtook, and the rest; and for one that speaks of
                // order first a second search.
                let searches = if says == Says::Order { 2 } else { 1 };
                let most = 1 + 13 * searches + 2 + 13 + 1;
                assert!(receiver.requests <= most, "{} requests for {bound} {says:?}", receiver.requests);
            }
        }
    }

    #[test]
    fn a_bound_that_is_known_is_checked_and_not_searched() {
        let table = full(1_700, 30);
        for has_window in [true, false] {
            let mut receiver = Receiver::new(1_640, has_window);
            deliver_from(1_640, &table, &mut receiver, usize::MAX);
            assert_eq!(receiver.stored.len(), 60 * 30);
            assert!(receiver.requests <= 4, "{} requests: three probes and the rest", receiver.requests);
        }
    }

    #[test]
    fn a_bound_that_is_no_more_costs_a_few_requests_and_no_sample() {
        let mut receiver = Receiver::new(0, true);
        assert_eq!(deliver_from(1_640, &full(1_700, 30), &mut receiver, usize::MAX), 0);
        assert!(receiver.requests <= 5, "{} requests", receiver.requests);
        let mut receiver = Receiver::new(1_000, true);
        assert_eq!(deliver_from(1_640, &full(1_700, 30), &mut receiver, usize::MAX), 1_000 * 30);
    }

    #[test]
    fn a_batch_that_is_too_old_costs_a_few_requests_if_later_ticks_are_queued() {
        for (ticks, expected, most) in [(1, None, 3), (1_700, Some(1_700), 2), (1_700, None, 14)] {
            let table = full(ticks, 285);
            let mut receiver = Receiver::new(ticks, false);
            let mut pieces = Pieces::new(&table, usize::MAX, []);
            pieces.expect_later_ticks();
            if let Some(expected) = expected {
                pieces.expect_bound(&table, expected, RefusalReason::OutOfBounds);
            }
            assert_eq!(deliver_pieces(&table, &mut receiver, usize::MAX, &mut pieces), ticks as u64 * 285);
            assert!(receiver.requests <= most, "{} requests for {ticks} ticks", receiver.requests);
            assert_eq!(pieces.refused_ticks(), Some((ticks, RefusalReason::OutOfBounds)));
        }
    }

    #[test]
    fn a_tick_of_more_samples_than_a_request_may_have_is_refused_in_a_few_requests_if_a_later_one_is_queued() {
        for (says, stored, reason) in [
            (Says::Age, None, RefusalReason::OutOfBounds),
            (Says::Order, Some(1), RefusalReason::OutOfOrder),
            (Says::Nothing, None, RefusalReason::Other),
        ] {
            let table = full(1, 25_000);
            let mut receiver = Receiver { says, ..Receiver::new(usize::from(stored.is_none()), false) };
            receiver.stored.extend((0..25_000).filter_map(|series| Some((series, stored?))));
            let mut pieces = Pieces::new(&table, 10_000, []);
            pieces.expect_later_ticks();
            assert_eq!(deliver_pieces(&table, &mut receiver, 10_000, &mut pieces), 25_000, "{reason}");
            assert!(receiver.requests <= 3, "{} requests for {reason}", receiver.requests);
        }
    }

    #[test]
    fn a_bad_series_of_a_tick_costs_two_requests_more_if_a_later_one_is_queued() {
        let requests = |has_later: bool| {
            let table = full(1, 10_000);
            let mut receiver = Receiver { bad: [17].into(), ..Receiver::new(0, false) };
            let mut pieces = Pieces::new(&table, 10_000, []);
            if has_later {
                pieces.expect_later_ticks();
            }
            assert_eq!(deliver_pieces(&table, &mut receiver, 10_000, &mut pieces), 1);
            receiver.requests
        };
        assert!(requests(false) <= 29 && requests(true) <= 29 + 2, "{} {}", requests(false), requests(true));
    }

    #[test]
    fn many_bad_series_cost_a_bounded_number_of_requests() {
        for (ticks, series) in [(1, 10_000), (4, 2_500), (50, 1_000)] {
            for every in [1, 2, 7, 100, 157] {
                let samples_max = 10_000;
                let table = full(ticks, series);
                let bad: BTreeSet<_> = (0..series).step_by(every).collect();
                let mut receiver = Receiver { bad: bad.clone(), ..Receiver::new(0, true) };
                let mut pieces = Pieces::new(&table, samples_max, []);
                let refused = deliver_pieces(&table, &mut receiver, samples_max, &mut pieces);
                assert!(pieces.refused_alone() <= 2 * REFUSED_ALONE_MAX, "every {every} of {series}");
                assert_eq!(refused as usize + receiver.stored.len(), ticks * series);
                // The longest piece can be halved 14 times. Each of those that are pending at the end is refused twice at most; and a
                // series that leaves the others is pending once more.
                let pending = (ticks * series).div_ceil(samples_max) + 14 + 2 * REFUSED_ALONE_MAX;
                let most = 2 * REFUSED_ALONE_MAX * 2 * 14 + 2 * pending;
                assert!(receiver.requests <= most, "{} requests for every {every} of {series}", receiver.requests);
            }
        }
    }

    #[test]
    fn a_batch_that_is_stored_already_costs_a_request_a_power_of_two() {
        let table = full(128, 70);
        let mut receiver = Receiver::new(0, false);
        deliver(&table, &mut receiver, usize::MAX);
        receiver.requests = 0;
        assert_eq!(deliver(&table, &mut receiver, usize::MAX), 127 * 70, "the newest tick is equal, and accepted");
        assert!(receiver.requests <= 20, "{} requests", receiver.requests);
    }

    #[test]
    fn a_bad_series_costs_the_others_nothing() {
        let table = full(100, 50);
        for bad in [0, 1, 25, 49] {
            for stores_in_part in [false, true] {
                let mut receiver = Receiver { stores_in_part, ..Receiver::new(0, true) };
                receiver.bad.insert(bad);
                assert_eq!(deliver(&table, &mut receiver, usize::MAX), 100);
                assert!(receiver.requests <= 64, "{} requests for series {bad}", receiver.requests);
            }
        }
    }

    #[test]
    fn a_limit_of_the_request_s_length_loses_nothing() {
        for samples_max in [1, 2, 63, 1_000] {
            let mut receiver = Receiver { samples_max, ..Receiver::new(0, false) };
            assert_eq!(deliver(&full(40, 25), &mut receiver, usize::MAX), 0);
            assert_eq!(receiver.stored.len(), 1_000);
        }
    }

    /// How often a cell was looked at.
    struct Watched<'t>(&'t Table, std::cell::Cell<usize>);

    impl Cells for Watched<'_> {
        fn ticks(&self) -> usize {
            self.0.ticks()
        }

        fn series(&self) -> usize {
            self.0.series()
        }

        fn has(&self, tick: usize, series: usize) -> bool {
            self.1.set(self.1.get() + 1);
            self.0.has(tick, series)
        }

        fn zero(&self, series: usize) -> Option<usize> {
            self.0.zero(series)
        }
    }

    #[test]
    fn many_small_requests_cost_no_more_looks_at_the_samples_than_few() {
        let (ticks, series) = (100, 20);
        let table = full(ticks, series);
        let cells = Watched(&table, std::cell::Cell::new(0));
        let mut pieces = Pieces::new(&cells, 1, []);
        for sent in 0..ticks * series {
            assert_eq!(pieces.first_pending(&cells), sent / series);
            assert!(pieces.next(&cells).is_some());
            pieces.stored(&cells);
        }
        assert_eq!(pieces.next(&cells), None);
        assert_eq!(pieces.first_pending(&cells), ticks);
        assert!(cells.1.get() <= 2 * ticks * series, "{} looks at {} samples", cells.1.get(), ticks * series);
    }

    #[test]
    fn series_that_are_apart_from_the_start_are_sent_alone() {
        let table = full(3, 4);
        let mut pieces = Pieces::new(&table, 100, [1]);
        let mut sent = Vec::new();
        while let Some(piece) = pieces.next(&table).cloned() {
            let series: Vec<_> =
                piece.series.clone().filter(|&series| !pieces.ticks_of(&piece, series).is_empty()).collect();
            sent.push(series);
            pieces.stored(&table);
        }
        assert_eq!(sent, [vec![0, 2, 3], vec![1]]);
    }

    /// All receivers of these kinds, with tables of all shapes up to a size.
    #[test]
    fn whatever_a_receiver_refuses_the_newest_tick_and_all_that_it_accepts_arrive() {
        for seed in 0..2_000 {
            let mut rng = fastrand::Rng::with_seed(seed);
            let (ticks, series) = (rng.usize(1..24), rng.usize(1..12));
            let table =
                Table { ticks, first: (0..series).map(|_| if rng.bool() { 0 } else { rng.usize(..ticks) }).collect() };
            let mut receiver = Receiver {
                says: [Says::Age, Says::Age, Says::Order, Says::Nothing][rng.usize(..4)],
                stores_in_part: rng.bool(),
                samples_max: if rng.u8(..3) == 0 { rng.usize(1..20) } else { usize::MAX },
                ..Receiver::new(if rng.bool() { 0 } else { rng.usize(..=ticks) }, rng.bool())
            };
            receiver.bad = (0..series).filter(|_| rng.u8(..8) == 0).collect();
            if rng.u8(..4) == 0 {
                // A part of it arrived before.
                let until = rng.usize(..ticks);
                receiver.stored = (0..series).flat_map(|series| (0..until).map(move |tick| (series, tick))).collect();
            }
            let had = receiver.stored.clone();
            let samples_max = if rng.bool() { 1_000 } else { rng.usize(1..40) };
            let mut pieces = Pieces::new(&table, samples_max, []);
            pieces.expect_bound(&table, if rng.bool() { 0 } else { rng.usize(..=ticks) }, RefusalReason::TooOld);
            deliver_pieces(&table, &mut receiver, samples_max, &mut pieces);
            for at in 0..series {
                let newest = (at, ticks - 1);
                let accepts = !receiver.bad.contains(&at) && receiver.bound < ticks;
                assert!(!accepts || receiver.stored.contains(&newest), "seed {seed}: {newest:?} of {receiver:?}");
                // Two bad series can confirm a bound to each other: resolution is lost then, and no newest sample.
                let is_divided = pieces.refused_alone() < REFUSED_ALONE_MAX;
                let keeps_all =
                    receiver.has_window && receiver.bad.len() < 2 && !receiver.bad.contains(&at) && is_divided;
                for tick in (receiver.bound..ticks).filter(|&tick| keeps_all && table.has(tick, at)) {
                    assert!(receiver.stored.contains(&(at, tick)), "seed {seed}: {at} {tick} of {receiver:?}");
                }
            }
            assert!(receiver.stored.is_superset(&had));
        }
    }
}
