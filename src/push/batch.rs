//! The samples of some ticks as a table of series and times, and requests of parts of it.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::bisect::{Cells, Piece, Pieces, StoredCell};
use super::encoder::{EncodedLabels, RequestEncoder};
use super::series::{Series, SeriesId, Tick, TickTime, is_stale};

/// The values at a receiver's position: what an unchanged series is sent with.
#[derive(Debug, Clone, Default)]
pub(crate) struct CurrentValues {
    /// By series. A series without a value was not sent yet, or has ended.
    values: Vec<Option<f64>>,
    /// By series: whether it ever had a value.
    known: Vec<bool>,
}

impl CurrentValues {
    pub(crate) fn new(values: impl IntoIterator<Item = (SeriesId, f64)>) -> Self {
        let mut current = Self::default();
        values.into_iter().for_each(|(id, value)| current.set(id, value));
        current
    }

    /// The position moves behind `tick`.
    pub(crate) fn apply(&mut self, tick: &Tick) {
        tick.values.iter().for_each(|(id, value)| self.set(*id, *value));
    }

    fn set(&mut self, id: SeriesId, value: f64) {
        let index = id.index();
        if self.values.len() <= index {
            self.values.resize(index + 1, None);
            self.known.resize(index + 1, false);
        }
        self.values[index] = (!is_stale(value)).then_some(value);
        self.known[index] = true;
    }

    fn get(&self, index: usize) -> Option<f64> {
        self.values.get(index).copied().flatten()
    }

    /// Returns whether the series ever had a value.
    fn ever_had(&self, id: SeriesId) -> bool {
        self.known.get(id.index()).copied().unwrap_or_default()
    }

    /// Returns whether any series ever had a value.
    fn had_any(&self) -> bool {
        self.known.contains(&true)
    }

    /// Returns whether the series has a value.
    pub(crate) fn has(&self, id: SeriesId) -> bool {
        self.get(id.index()).is_some()
    }

    /// Returns the number of series that have a value.
    pub(crate) fn len(&self) -> usize {
        self.count(|_| true)
    }

    /// Returns the number of those that have a value and that `is_selected` selects by their place in the catalog.
    pub(crate) fn count(&self, is_selected: impl Fn(usize) -> bool) -> usize {
        let there = self.values.iter().enumerate().filter(|(index, value)| value.is_some() && is_selected(*index));
        there.count()
    }
}

/// From so many ticks on a request is shorter if its series are sorted by their values.
const SORTED_TICKS_MIN: usize = 8;

/// Samples of ticks, each of all series.
#[derive(Debug)]
pub(crate) struct Batch {
    /// Of the ticks. Ascending.
    times: Vec<TickTime>,
    /// Ascending.
    series: Vec<SeriesId>,
    /// The samples of the first series at all times, then of the second.
    cells: Vec<Option<f64>>,
    /// By row: the zeros before the first samples.
    zeros: BTreeMap<usize, Zero>,
}

/// What a series begins with.
#[derive(Debug, Clone, Copy)]
struct Zero {
    time: TickTime,
    /// The column of the sample that follows.
    before: usize,
}

/// Returns how many of `ticks`, which come after the values `current`, have at most `cells_max` samples together, those of `is_sent`
/// and zeros before series that appear included: at least one, if there is one.
pub(crate) fn ticks_within(
    cells_max: usize,
    current: &CurrentValues,
    ticks: &[Tick],
    catalog: &[Arc<Series>],
    is_sent: impl Fn(usize) -> bool,
) -> usize {
    let mut series: Vec<bool> = (0..catalog.len()).map(|at| current.get(at).is_some() && is_sent(at)).collect();
    let mut rows = series.iter().filter(|is_there| **is_there).count();
    let mut zeros = 0;
    for (count, tick) in ticks.iter().enumerate() {
        for (id, _) in tick.values.iter().filter(|(id, _)| is_sent(id.index())) {
            if !std::mem::replace(&mut series[id.index()], true) {
                rows += 1;
                zeros += usize::from(catalog[id.index()].zero_at.is_some());
            }
        }
        if count > 0 && (count + 1) * rows + zeros > cells_max {
            return count;
        }
    }
    ticks.len()
}

impl Batch {
    /// Returns the samples of `ticks`, which are ascending and come after the values `current` at `position`, for those series that
    /// `is_sent` selects by their place in the catalog. A series that is new and began to count while it was observed begins at 0.
    pub(crate) fn new(
        (position, current): (TickTime, &CurrentValues),
        ticks: &[Tick],
        catalog: &[Arc<Series>],
        is_sent: impl Fn(usize) -> bool,
    ) -> Self {
        // By series: whether it has a value before the ticks or in one of them.
        let mut series: Vec<bool> = (0..catalog.len()).map(|at| current.get(at).is_some() && is_sent(at)).collect();
        let mut zeros: Vec<(SeriesId, Zero)> = Vec::new();
        // Without values, the position is not that of a tick: a receiver that was renamed may have the first tick's counters already.
        let mut before = current.had_any().then_some(position);
        for (column, tick) in ticks.iter().enumerate() {
            for (id, value) in tick.values.iter().filter(|(id, _)| is_sent(id.index())) {
                let is_first = !std::mem::replace(&mut series[id.index()], true);
                if !is_first || current.ever_had(*id) || is_stale(*value) {
                    continue;
                }
                // A clock that was ahead when the series began named a time that has not come: it was 0 at the tick before this one.
                let zero_at = catalog[id.index()].zero_at;
                let zero_at = zero_at.and_then(|at| if at < tick.time { Some(at) } else { before });
                let zero_at = zero_at.filter(|at| position <= *at && *at != TickTime::NEVER);
                zeros.extend(zero_at.map(|time| (*id, Zero { time, before: column })));
            }
            before = Some(tick.time);
        }
        let times: Vec<_> = ticks.iter().map(|tick| tick.time).collect();
        let series: Vec<_> =
            series.iter().enumerate().filter(|(_, is_there)| **is_there).map(|(at, _)| SeriesId::at(at)).collect();
        let row = |id| series.binary_search(&id).expect("it has a value in a tick");
        let zeros = zeros.into_iter().map(|(id, zero)| (row(id), zero)).collect();
        let mut batch = Self { cells: vec![None; times.len() * series.len()], times, series, zeros };
        let mut values: Vec<_> = batch.series.iter().map(|id| current.get(id.index())).collect();
        for (column, tick) in ticks.iter().enumerate() {
            let mut changes = tick.values.iter().peekable();
            for (row, id) in batch.series.iter().enumerate() {
                // Both ascend.
                while changes.next_if(|(changed, _)| changed < id).is_some() {}
                if let Some((_, value)) = changes.next_if(|(changed, _)| changed == id) {
                    values[row] = Some(*value);
                }
                batch.cells[row * batch.times.len() + column] = values[row];
                // A series that has ended is not repeated.
                values[row] = values[row].filter(|value| !is_stale(*value));
            }
        }
        batch
    }

    /// Returns the time of a column.
    pub(crate) fn time(&self, column: usize) -> TickTime {
        self.times[column]
    }

    /// Returns the number of columns whose time is not after `time`.
    pub(crate) fn ticks_until(&self, time: TickTime) -> usize {
        self.times.partition_point(|known| *known <= time)
    }

    /// Returns the row of a series; `None` if it has no sample.
    pub(crate) fn row(&self, id: SeriesId) -> Option<usize> {
        self.series.binary_search(&id).ok()
    }

    /// Returns the series of a row.
    pub(crate) fn id(&self, row: usize) -> SeriesId {
        self.series[row]
    }

    /// Encodes the samples of `piece`, grouped by series, those of equal values next to each other: for the compressor they are
    /// copies. Of few ticks the labels are longer than the samples; those are alike in the order of the catalog. Returns the body
    /// of the request, and the number of its samples.
    pub(crate) fn encode<'l>(
        &self,
        pieces: &Pieces,
        piece: &Piece,
        encoder: &mut RequestEncoder,
        labels: impl Fn(SeriesId) -> &'l EncodedLabels,
    ) -> (Vec<u8>, u64) {
        let mut rows: Vec<usize> = pieces.series_of(piece).collect();
        if piece.ticks.len() >= SORTED_TICKS_MIN {
            let values = |row: usize| self.cells[row * self.times.len()..][piece.ticks.clone()].iter();
            let bits = |cell: &Option<f64>| cell.map(f64::to_bits);
            rows.sort_by(|one, other| values(*one).map(bits).cmp(values(*other).map(bits)));
        }
        let mut count = 0;
        for row in rows {
            let samples = self.samples(pieces, piece, row).map(|(time, value)| (time.millis(), value));
            encoder.push(labels(self.series[row]), samples.inspect(|_| count += 1));
        }
        (encoder.finish(), count)
    }

    /// Returns a sample.
    pub(crate) fn sample(&self, StoredCell { tick, series, is_zero }: StoredCell) -> Option<(TickTime, f64)> {
        if is_zero {
            return self.zeros.get(&series).map(|zero| (zero.time, 0.0));
        }
        Some((self.times[tick], self.cells[series * self.times.len() + tick]?))
    }

    /// Returns the samples of a row in `piece`, in the order of time.
    pub(crate) fn samples(&self, pieces: &Pieces, piece: &Piece, row: usize) -> impl Iterator<Item = (TickTime, f64)> {
        let cells = &self.cells[row * self.times.len()..][..self.times.len()];
        let zero = self.zeros.get(&row).filter(|_| pieces.has_zero(self, piece, row)).map(|zero| (zero.time, 0.0));
        let at_ticks = pieces.ticks_of(piece, row).filter_map(|tick| Some((self.times[tick], cells[tick]?)));
        zero.into_iter().chain(at_ticks)
    }
}

impl Cells for Batch {
    fn ticks(&self) -> usize {
        self.times.len()
    }

    fn series(&self) -> usize {
        self.series.len()
    }

    fn has(&self, tick: usize, series: usize) -> bool {
        self.cells[series * self.times.len() + tick].is_some()
    }

    fn zero(&self, series: usize) -> Option<usize> {
        self.zeros.get(&series).map(|zero| zero.before)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::push::series::{Origin, STALE, SeriesKind, SeriesName};

    fn at(millis: i64) -> TickTime {
        TickTime::from_millis(millis)
    }

    fn tick(millis: i64, values: &[(usize, f64)]) -> Tick {
        Tick { time: at(millis), values: values.iter().map(|(index, value)| (SeriesId::at(*index), *value)).collect() }
    }

    fn series(zero_at: Option<i64>) -> Arc<Series> {
        let name = SeriesName { metric: "m".into(), labels: Box::default() };
        Arc::new(Series {
            name,
            kind: SeriesKind::Counter,
            origin: Origin::Families,
            zero_at: zero_at.map(TickTime::from_millis),
        })
    }

    /// Times and values of each series of the batch.
    fn table(batch: &Batch) -> Vec<(usize, Vec<(i64, u64)>)> {
        let mut pieces = Pieces::new(batch, usize::MAX, []);
        let all = pieces.next(batch).cloned().expect("it has samples");
        let row = |row: usize| {
            let samples = batch.samples(&pieces, &all, row);
            samples.map(|(time, value)| (time.millis(), value.to_bits())).collect()
        };
        (0..batch.series.len()).map(|index| (batch.series[index].index(), row(index))).collect()
    }

    fn expected(series: &[(usize, &[(i64, f64)])]) -> Vec<(usize, Vec<(i64, u64)>)> {
        let samples = |samples: &[(i64, f64)]| samples.iter().map(|(time, value)| (*time, value.to_bits())).collect();
        series.iter().map(|(index, values)| (*index, samples(values))).collect()
    }

    #[test]
    fn unchanged_series_are_sent_from_their_last_value_and_vanished_ones_end() {
        let current = CurrentValues::new([(SeriesId::at(0), 5.0), (SeriesId::at(1), 1.0), (SeriesId::at(2), STALE)]);
        let ticks = [tick(10, &[(0, 6.0)]), tick(20, &[(1, STALE)]), tick(30, &[(0, 7.0)])];
        let catalog = [series(None), series(None), series(None)];
        let batch = Batch::new((at(0), &current), &ticks, &catalog, |_| true);
        assert_eq!(table(&batch), expected(&[(0, &[(10, 6.0), (20, 6.0), (30, 7.0)]), (1, &[(10, 1.0), (20, STALE)])]));
        assert_eq!(current.len(), 2);
    }

    #[test]
    fn a_series_that_was_observed_from_its_beginning_begins_at_zero_once() {
        let catalog = [series(Some(10)), series(None), series(Some(5)), series(Some(15))];
        let ticks = [tick(10, &[(1, 3.0)]), tick(20, &[(0, 2.0), (3, 1.0)]), tick(30, &[(2, 9.0)])];
        let current = CurrentValues::new([(SeriesId::at(2), 8.0)]);
        let batch = Batch::new((at(0), &current), &ticks, &catalog, |_| true);
        assert_eq!(
            table(&batch),
            expected(&[
                (0, &[(10, 0.0), (20, 2.0), (30, 2.0)]),
                (1, &[(10, 3.0), (20, 3.0), (30, 3.0)]),
                (2, &[(10, 8.0), (20, 8.0), (30, 9.0)]),
                (3, &[(15, 0.0), (20, 1.0), (30, 1.0)]),
            ]),
            "2 was sent before, and 3 was 0 between two ticks"
        );
        let late = Batch::new((at(12), &CurrentValues::default()), &ticks[1..], &catalog, |_| true);
        assert_eq!(
            table(&late)[0],
            (0, vec![(20, 2.0_f64.to_bits()), (30, 2.0_f64.to_bits())]),
            "not before the position"
        );
        let mut current = current;
        ticks.iter().for_each(|tick| current.apply(tick));
        let next = Batch::new((at(0), &current), &[tick(40, &[(0, 4.0)])], &catalog, |_| true);
        assert_eq!(table(&next)[0], (0, vec![(40, 4.0_f64.to_bits())]), "no second zero");
        assert_eq!(current.len(), 4);
    }

    #[test]
    fn what_is_prepared_is_bounded_by_the_series_that_appear_in_it() {
        const CELLS_MAX: usize = 500_000;
        let catalog = vec![series(None); 2_000];
        let all: Vec<_> = (0..2_000).map(|index| (index, 1.0)).collect();
        let ticks: Vec<_> = std::iter::once(tick(1, &all)).chain((2..=3_001).map(|millis| tick(millis, &[]))).collect();
        let current = CurrentValues::default();
        let count = ticks_within(CELLS_MAX, &current, &ticks, &catalog, |_| true);
        assert_eq!(count, 250);
        let batch = Batch::new((TickTime::NEVER, &current), &ticks[..count], &catalog, |_| true);
        assert_eq!(batch.cells.len(), CELLS_MAX);
        let late: Vec<_> =
            (1..=3_000).map(|millis| tick(millis, &[])).chain(std::iter::once(tick(3_001, &all))).collect();
        assert_eq!(ticks_within(CELLS_MAX, &current, &late, &catalog, |_| true), 3_000, "it has a window of its own");
        assert_eq!(ticks_within(CELLS_MAX, &current, &late, &catalog, |index| index < 10), 3_001);
        let known = CurrentValues::new(all.iter().map(|(index, value)| (SeriesId::at(*index), *value)));
        assert_eq!(ticks_within(CELLS_MAX, &known, &late, &catalog, |_| true), 250);
        assert_eq!(ticks_within(1, &known, &late, &catalog, |_| true), 1, "one tick goes in any case");
    }

    #[test]
    fn zeros_before_series_that_appear_are_in_the_bound() {
        let catalog = [series(Some(5)), series(Some(15)), series(Some(25))];
        let ticks = [tick(10, &[(0, 1.0)]), tick(20, &[(1, 1.0)]), tick(30, &[(2, 1.0)])];
        let current = CurrentValues::default();
        for cells_max in 1..20 {
            let count = ticks_within(cells_max, &current, &ticks, &catalog, |_| true);
            let batch = Batch::new((TickTime::NEVER, &current), &ticks[..count], &catalog, |_| true);
            let cells = batch.cells.len() + batch.zeros.len();
            assert!(count == 1 || cells <= cells_max, "{cells} of {cells_max}");
        }
        assert_eq!(ticks_within(12, &current, &ticks, &catalog, |_| true), 3);
    }

    #[test]
    fn series_that_are_not_selected_are_left_out() {
        let own = Arc::new(Series { origin: Origin::Bridge, ..(*series(None)).clone() });
        let catalog = [series(None), own];
        let current = CurrentValues::default();
        let batch = Batch::new((at(0), &current), &[tick(1, &[(0, 1.0), (1, 2.0)])], &catalog, |index| {
            catalog[index].origin == Origin::Families
        });
        assert_eq!(table(&batch), expected(&[(0, &[(1, 1.0)])]));
        assert_eq!((batch.row(SeriesId::at(0)), batch.row(SeriesId::at(1))), (Some(0), None));
        assert_eq!(batch.id(0), SeriesId::at(0));
    }
}
