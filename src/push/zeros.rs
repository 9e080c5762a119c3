//! Batches delivered to simulated receivers by processes that are killed: what is stored in the end.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::answer::RefusalReason;
use super::batch::{Batch, CurrentValues, ticks_within};
use super::bisect::{Pieces, REFUSED_ALONE_MAX, ZEROS_REFUSED_MAX};
use super::series::{Origin, STALE, Series, SeriesId, SeriesKind, SeriesName, Tick, TickTime};

/// Milliseconds between two ticks.
const INTERVAL_MILLIS: i64 = 1_000;

pub(super) fn time(tick: usize) -> TickTime {
    TickTime::from_millis(INTERVAL_MILLIS * (tick as i64 + 1))
}

/// What a receiver without a window for earlier samples names as its reason.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reasons {
    /// Those of Prometheus.
    Known,
    /// One that no rule knows.
    Unknown,
}

/// A receiver without a window for earlier samples, which stores all of a request or nothing, as Prometheus does: of each series it accepts
/// what is later than its newest sample, and that one again.
#[derive(Debug, Clone)]
struct Receiver {
    /// It accepts nothing older, of any series.
    oldest: TickTime,
    reasons: Reasons,
    /// It accepts nothing of these series.
    bad: BTreeSet<SeriesId>,
    /// By series: the bits of the value at each time.
    stored: BTreeMap<SeriesId, BTreeMap<TickTime, u64>>,
}

type Sample = (SeriesId, TickTime, u64);

impl Receiver {
    fn new(oldest: TickTime) -> Self {
        Self { oldest, reasons: Reasons::Known, bad: BTreeSet::new(), stored: BTreeMap::new() }
    }

    fn refusal(&self, &(series, time, bits): &Sample) -> Option<RefusalReason> {
        let newest = self.stored.get(&series).and_then(BTreeMap::last_key_value);
        let reason = match newest {
            _ if self.bad.contains(&series) => RefusalReason::Other,
            _ if time < self.oldest => RefusalReason::OutOfBounds,
            Some((newest, _)) if time < *newest => RefusalReason::OutOfOrder,
            Some((newest, known)) if time == *newest && bits != *known => RefusalReason::Duplicate,
            _ => return None,
        };
        Some(if self.reasons == Reasons::Known { reason } else { RefusalReason::Other })
    }

    fn receive(&mut self, samples: &[Sample]) -> Result<(), RefusalReason> {
        if let Some(reason) = samples.iter().find_map(|sample| self.refusal(sample)) {
            return Err(reason);
        }
        for &(series, time, bits) in samples {
            self.stored.entry(series).or_default().insert(time, bits);
        }
        Ok(())
    }

    /// Returns the first sample of a series.
    fn first(&self, series: usize) -> Option<(TickTime, f64)> {
        let (time, bits) = self.stored.get(&SeriesId::at(series))?.first_key_value()?;
        Some((*time, f64::from_bits(*bits)))
    }
}

/// The ticks of a queue, one at each [`time`], and its series.
#[derive(Debug, Clone)]
pub(super) struct Queue {
    pub(super) catalog: Vec<Arc<Series>>,
    pub(super) ticks: Vec<Tick>,
}

impl Queue {
    /// Returns a queue of series that begin at any time, are unchanged, end, and come again.
    pub(super) fn random(rng: &mut fastrand::Rng) -> Self {
        let (ticks, series_max) = (rng.usize(1..14), rng.usize(1..10));
        let mut catalog = Vec::new();
        let mut values = Vec::new();
        let mut queue = Vec::new();
        for tick in 0..ticks {
            // In the order of the catalog, as a sampler numbers them.
            while catalog.len() < series_max && (tick == 0 || rng.u8(..3) == 0) && rng.u8(..4) > 0 {
                let is_observed = rng.u8(..4) > 0;
                catalog.push(series((is_observed && tick > 0).then(|| time(tick - 1))));
                values.push(0.0);
            }
            let mut changed = Vec::new();
            for (index, value) in values.iter_mut().enumerate() {
                let next = match rng.u8(..8) {
                    0 if *value != 0.0 && !super::series::is_stale(*value) => STALE,
                    1..4 if *value != 0.0 => continue,
                    _ => (tick + 1) as f64,
                };
                *value = next;
                changed.push((SeriesId::at(index), next));
            }
            queue.push(Tick { time: time(tick), values: changed });
        }
        Self { catalog, ticks: queue }
    }

    fn values_at(&self, answered: usize) -> CurrentValues {
        let mut current = CurrentValues::default();
        self.ticks[..answered].iter().for_each(|tick| current.apply(tick));
        current
    }
}

fn series(zero_at: Option<TickTime>) -> Arc<Series> {
    let name = SeriesName { metric: "m_total".into(), labels: Box::default() };
    Arc::new(Series { name, kind: SeriesKind::Counter, origin: Origin::Families, zero_at })
}

/// How a process sends a window of the queue.
#[derive(Debug, Clone)]
struct Process {
    /// Number of ticks that it knows to be answered for.
    answered: usize,
    /// Number of ticks that are queued.
    queued: usize,
    samples_max: usize,
    /// Most samples of a window.
    window_max: usize,
    /// Number of ticks that it expects to be refused, and why.
    expected: Option<(usize, RefusalReason)>,
    /// The number of requests after which it is killed, before it reads the answer to the last one.
    requests_max: usize,
    /// So many percent of requests of one sample fail, and give way to others.
    failing_percent: u8,
    /// Which of them.
    seed: u64,
}

impl Process {
    /// Sends everything that is queued behind `answered`.
    fn new(answered: usize, queued: usize) -> Self {
        let (samples_max, window_max, requests_max) = (usize::MAX, usize::MAX, usize::MAX);
        let (failing_percent, seed) = (0, 0);
        Self { answered, queued, samples_max, window_max, expected: None, requests_max, failing_percent, seed }
    }

    /// Sends windows until all ticks are answered for, or the process is killed. Returns the number of requests and of ticks that are
    /// answered for.
    fn run(&self, queue: &Queue, receiver: &mut Receiver) -> (usize, usize) {
        let (mut requests, mut answered) = (0, self.answered);
        let mut rng = fastrand::Rng::with_seed(self.seed);
        while answered < self.queued {
            let current = queue.values_at(answered);
            let ticks = &queue.ticks[answered..self.queued];
            let ticks = &ticks[..ticks_within(self.window_max, &current, ticks, &queue.catalog, |_| true)];
            let position = answered.checked_sub(1).map_or(TickTime::NEVER, time);
            let batch = Batch::new((position, &current), ticks, &queue.catalog, |_| true);
            let mut pieces = Pieces::new(&batch, self.samples_max, []);
            if let Some((bound, reason)) = self.expected {
                pieces.expect_bound(&batch, batch.ticks_until(time(bound)), reason);
            }
            let mut settled: BTreeSet<Sample> = BTreeSet::new();
            let mut refused = 0;
            while let Some(piece) = pieces.next(&batch).cloned() {
                let of_row = |row| {
                    let id = batch.id(row);
                    batch.samples(&pieces, &piece, row).map(move |(time, value)| (id, time, value.to_bits()))
                };
                let samples: Vec<Sample> = pieces.series_of(&piece).flat_map(of_row).collect();
                assert!(!samples.is_empty(), "a request without samples");
                assert_eq!(samples.len() as u64, pieces.samples(&batch, &piece));
                if samples.len() > self.samples_max {
                    pieces.shorten(&batch);
                    continue;
                }
                requests += 1;
                assert!(requests < 10_000, "it does not end");
                if samples.len() == 1 && rng.u8(..100) < self.failing_percent {
                    pieces.postpone(&batch);
                    continue;
                }
                let answer = receiver.receive(&samples);
                if requests == self.requests_max {
                    return (requests, answered);
                }
                match answer {
                    Ok(()) => {
                        for sample in samples {
                            assert!(settled.insert(sample), "{sample:?} was sent although it was stored");
                        }
                        pieces.stored(&batch);
                    }
                    Err(reason) => {
                        if ticks.last().unwrap().time < queue.ticks.last().unwrap().time {
                            pieces.expect_later_ticks();
                        }
                        pieces.refuse(&batch, reason);
                    }
                }
                refused += pieces.take_refused().iter().map(|refused| refused.samples).sum::<u64>();
                if let Some(column) = pieces.first_pending(&batch).checked_sub(1) {
                    answered = answered.max(queue.ticks.partition_point(|tick| tick.time <= batch.time(column)));
                }
            }
            let whole = Pieces::new(&batch, usize::MAX, []).next(&batch).cloned();
            let all = whole.map_or(0, |piece| Pieces::new(&batch, usize::MAX, []).samples(&batch, &piece));
            assert_eq!(settled.len() as u64 + refused, all, "each sample is stored or refused, and no sample is both");
            answered = queue.ticks.partition_point(|tick| tick.time <= ticks.last().unwrap().time);
        }
        (requests, answered)
    }
}

/// The zero of each series that the receiver has a sample of is stored.
fn assert_zeros(queue: &Queue, receiver: &Receiver, context: &str) {
    for (index, series) in queue.catalog.iter().enumerate() {
        let zero_at = series.zero_at.filter(|zero_at| *zero_at >= receiver.oldest);
        if let (Some(zero_at), Some(first)) = (zero_at, receiver.first(index)) {
            assert_eq!(first, (zero_at, 0.0), "series {index}: {context} {:?} {receiver:?}", queue.ticks);
        }
    }
}

/// The only series of the earlier ticks ends, so that no probe of it shows which tick the receiver accepts.
#[test]
fn a_series_begins_at_zero_behind_ticks_that_were_stored_without_an_answer_and_in_which_another_one_ended() {
    let catalog = vec![series(None), series(Some(time(1)))];
    let values = [(0, 1.0), (0, STALE), (1, 3.0)].into_iter().enumerate();
    let tick = |(tick, (index, value))| Tick { time: time(tick), values: vec![(SeriesId::at(index), value)] };
    let queue = Queue { catalog, ticks: values.map(tick).collect() };
    let mut receiver = Receiver::new(TickTime::NEVER);
    Process { requests_max: 1, ..Process::new(0, 2) }.run(&queue, &mut receiver);
    let (requests, answered) = Process::new(0, 3).run(&queue, &mut receiver);
    assert_zeros(&queue, &receiver, "");
    assert!(answered == 3 && requests < 8, "{requests} requests");
}

/// A request with many new series is stored, and its answer lost.
#[test]
fn zeros_that_are_stored_already_cost_a_few_requests() {
    let catalog: Vec<_> = (0..1_000).map(|_| series(Some(time(0)))).collect();
    let values = (0..1_000).map(|index| (SeriesId::at(index), 1.0)).collect();
    let queue = Queue { catalog, ticks: vec![Tick { time: time(0), values: vec![] }, Tick { time: time(1), values }] };
    for (samples_max, requests_max) in [(usize::MAX, 1), (500, 1), (500, 2), (500, 3)] {
        let mut receiver = Receiver::new(TickTime::NEVER);
        Process { samples_max, requests_max, ..Process::new(1, 2) }.run(&queue, &mut receiver);
        let (requests, _) = Process { samples_max, ..Process::new(1, 2) }.run(&queue, &mut receiver);
        assert_zeros(&queue, &receiver, "");
        assert!(requests <= 24, "{requests} requests after {requests_max} of {samples_max}");
    }
}

/// The receiver refuses some of many series that begin at the same time.
#[test]
fn refused_series_cost_others_no_zero() {
    const SERIES: usize = 1_000;
    let catalog: Vec<_> = (0..SERIES).map(|_| series(Some(time(0)))).collect();
    let values = (0..SERIES).map(|index| (SeriesId::at(index), 1.0)).collect();
    let queue = Queue { catalog, ticks: vec![Tick { time: time(0), values: vec![] }, Tick { time: time(1), values }] };
    // Two at the ends, more than are found one by one, and as many that are neighbors.
    let bad: [BTreeSet<usize>; 3] =
        [[0, SERIES - 1].into(), (0..70).map(|index| index * (SERIES - 1) / 69).collect(), (400..470).collect()];
    for bad in bad {
        let mut receiver = Receiver::new(TickTime::NEVER);
        receiver.bad = bad.iter().copied().map(SeriesId::at).collect();
        let (requests, _) = Process::new(1, 2).run(&queue, &mut receiver);
        for index in (0..SERIES).filter(|index| !bad.contains(index)) {
            assert_eq!(receiver.first(index), Some((time(0), 0.0)), "series {index} beside {} bad ones", bad.len());
        }
        assert!(requests <= 4 * REFUSED_ALONE_MAX * 2 * 10, "{requests} requests for {} bad series", bad.len());
    }
}

#[test]
fn a_receiver_that_refuses_every_zero_costs_a_bounded_number_of_requests() {
    const SERIES: usize = 10_000;
    let catalog: Vec<_> = (0..SERIES).map(|_| series(Some(time(0)))).collect();
    let values = (0..SERIES).map(|index| (SeriesId::at(index), 1.0)).collect();
    let queue = Queue { catalog, ticks: vec![Tick { time: time(0), values: vec![] }, Tick { time: time(1), values }] };
    let mut receiver = Receiver::new(time(1));
    receiver.reasons = Reasons::Unknown;
    let (requests, _) = Process::new(1, 2).run(&queue, &mut receiver);
    assert!(requests <= 2 * REFUSED_ALONE_MAX + ZEROS_REFUSED_MAX + 2 * 14, "{requests} requests");
    assert!((0..SERIES).all(|index| receiver.first(index) == Some((time(1), 1.0))));
}

#[test]
fn whatever_was_stored_before_a_kill_series_begin_at_zero() {
    for seed in 0..10_000 {
        let mut rng = fastrand::Rng::with_seed(seed);
        let queue = Queue::random(&mut rng);
        let count = queue.ticks.len();
        let mut receiver = Receiver::new(if rng.u8(..3) == 0 { time(rng.usize(..count)) } else { TickTime::NEVER });
        receiver.reasons = if rng.u8(..4) == 0 { Reasons::Unknown } else { Reasons::Known };
        let (mut answered, mut queued) = (0, 0);
        let mut processes = Vec::new();
        while queued < count {
            queued = if rng.u8(..4) == 0 { count } else { rng.usize(queued + 1..=count) };
            let is_killed = queued < count || rng.bool();
            let process = Process {
                samples_max: if rng.bool() { usize::MAX } else { rng.usize(1..20) },
                window_max: if rng.bool() { usize::MAX } else { rng.usize(1..40) },
                expected: (rng.u8(..3) == 0).then(|| (rng.usize(..count), RefusalReason::OutOfBounds)),
                failing_percent: if rng.bool() { 0 } else { rng.u8(..60) },
                seed,
                requests_max: if is_killed { rng.usize(1..6) } else { usize::MAX },
                ..Process::new(answered, queued)
            };
            let (_, known) = process.run(&queue, &mut receiver);
            processes.push(process);
            // What is known of answers can be lost with the process, too.
            answered = if rng.bool() { known } else { rng.usize(answered..=known) };
        }
        let last = Process::new(answered, count);
        last.run(&queue, &mut receiver);
        assert_zeros(&queue, &receiver, &format!("seed {seed}, {processes:?}"));
        let newest = queue.values_at(count);
        for index in (0..queue.catalog.len()).filter(|index| newest.has(SeriesId::at(*index))) {
            let last = receiver.stored.get(&SeriesId::at(index)).and_then(BTreeMap::last_key_value);
            assert_eq!(last.map(|(at, _)| *at), Some(time(count - 1)), "seed {seed}: the newest sample of {index}");
        }
    }
}
