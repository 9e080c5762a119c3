//! Exact quantiles of many groups in bounded memory.
//!
//! As long as all durations fit into memory they are collected while the rows are counted. Beyond, the rows are read again: for
//! some groups at a time, and for groups that do not fit alone digit by digit, from the most significant 16 bits on.

use super::ReportError;

/// Durations that are held in memory at a time, 8 bytes each.
pub const DURATIONS_MAX: usize = 8 << 20;

/// Bits of a digit of the bisection.
const DIGIT_BITS: u32 = 16;

/// The shares of the quantiles, in percent.
const PERCENTS: [u64; 2] = [50, 95];

/// The durations of many groups, as they are read.
#[derive(Debug)]
pub(super) struct Collector {
    /// By group.
    groups: Vec<Collected>,
    /// How many are held.
    held: usize,
    held_max: usize,
}

#[derive(Debug, Default)]
struct Collected {
    count: u64,
    /// All of them, as long as no duration of any group was dropped.
    bits: Vec<u64>,
}

/// Reads all durations again: calls the argument with each one and its group.
pub(super) type Reread<'a> = dyn FnMut(&mut dyn FnMut(usize, f64)) -> Result<(), ReportError> + 'a;

impl Collector {
    pub fn new(held_max: usize) -> Self {
        Self { groups: Vec::new(), held: 0, held_max }
    }

    /// Adds a duration, 0 or more, of a group.
    pub fn add(&mut self, group: usize, seconds: f64) {
        if self.groups.len() <= group {
            self.groups.resize_with(group + 1, Collected::default);
        }
        let collected = &mut self.groups[group];
        collected.count += 1;
        if self.held > self.held_max {
            return;
        }
        collected.bits.push(bits(seconds));
        self.held += 1;
        if self.held > self.held_max {
            self.groups.iter_mut().for_each(|group| group.bits = Vec::new());
        }
    }

    /// Returns the quantiles of each group that has a duration, by group.
    ///
    /// # Errors
    /// Those of `reread`.
    pub fn quantiles(mut self, reread: &mut Reread<'_>) -> Result<Vec<Option<[f64; 2]>>, ReportError> {
        if self.held <= self.held_max {
            return Ok(self.groups.iter_mut().map(|group| select(&mut group.bits)).collect());
        }
        let counts: Vec<u64> = self.groups.iter().map(|group| group.count).collect();
        drop(self.groups);
        let mut quantiles = vec![None; counts.len()];
        let fits = |count: u64| count <= self.held_max as u64;
        let mut next = 0;
        while next < counts.len() {
            // As many groups as fit together.
            let (first, mut held) = (next, 0);
            while next < counts.len() && (!fits(counts[next]) || fits(held + counts[next])) {
                held += if fits(counts[next]) { counts[next] } else { 0 };
                next += 1;
            }
            let mut groups: Vec<Vec<u64>> = vec![Vec::new(); next - first];
            reread(&mut |group, seconds| {
                if (first..next).contains(&group) && fits(counts[group]) {
                    groups[group - first].push(bits(seconds));
                }
            })?;
            for (group, bits) in groups.iter_mut().enumerate() {
                quantiles[first + group] = select(bits);
            }
        }
        for (group, count) in counts.iter().enumerate().filter(|(_, count)| !fits(**count)) {
            quantiles[group] = Some(bisect(group, *count, reread)?);
        }
        Ok(quantiles)
    }
}

/// Orders durations as their numbers do. A negative zero is a zero.
fn bits(seconds: f64) -> u64 {
    (seconds + 0.0).to_bits()
}

/// Returns the place of the quantile among `count` sorted durations, by nearest rank.
fn rank(count: u64, percent: u64) -> u64 {
    (u128::from(count) * u128::from(percent)).div_ceil(100).saturating_sub(1) as u64
}

fn select(bits: &mut [u64]) -> Option<[f64; 2]> {
    if bits.is_empty() {
        return None;
    }
    let count = bits.len() as u64;
    Some(PERCENTS.map(|percent| f64::from_bits(*bits.select_nth_unstable(rank(count, percent) as usize).1)))
}

/// Finds the quantiles of one group digit by digit.
fn bisect(group: usize, count: u64, reread: &mut Reread<'_>) -> Result<[f64; 2], ReportError> {
    let (mut ranks, mut prefixes) = (PERCENTS.map(|percent| rank(count, percent)), [0_u64; 2]);
    for shift in (0..u64::BITS).step_by(DIGIT_BITS as usize).rev() {
        let mut counts = [(); 2].map(|()| vec![0_u64; 1 << DIGIT_BITS]);
        reread(&mut |of, seconds| {
            if of != group {
                return;
            }
            let bits = bits(seconds);
            for (prefix, counts) in prefixes.iter().zip(&mut counts) {
                let digits = bits >> shift;
                if digits >> DIGIT_BITS == *prefix {
                    counts[(digits & ((1 << DIGIT_BITS) - 1)) as usize] += 1;
                }
            }
        })?;
        for ((rank, prefix), counts) in ranks.iter_mut().zip(&mut prefixes).zip(&counts) {
            let mut digit = 0;
            while *rank >= counts[digit] {
                *rank -= counts[digit];
                digit += 1;
            }
            *prefix = *prefix << DIGIT_BITS | digit as u64;
        }
    }
    Ok(prefixes.map(f64::from_bits))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn quantiles(durations: &[(usize, f64)], held_max: usize) -> (Vec<Option<[f64; 2]>>, usize) {
        let mut collector = Collector::new(held_max);
        durations.iter().for_each(|(group, seconds)| collector.add(*group, *seconds));
        let mut readings = 0;
        let mut reread = |each: &mut dyn FnMut(usize, f64)| {
            readings += 1;
            durations.iter().for_each(|(group, seconds)| each(*group, *seconds));
            Ok(())
        };
        let quantiles = collector.quantiles(&mut reread).unwrap();
        (quantiles, readings)
    }

    #[test]
    fn quantiles_are_those_of_the_nearest_rank() {
        for (count, p50, p95) in [(1, 1.0, 1.0), (2, 1.0, 2.0), (3, 2.0, 3.0), (20, 10.0, 19.0), (21, 11.0, 20.0)] {
            let durations: Vec<_> = (1..=count).rev().map(|seconds| (0, f64::from(seconds))).collect();
            assert_eq!(quantiles(&durations, 100).0, [Some([p50, p95])], "{count}");
        }
        assert_eq!(quantiles(&[(1, 0.5)], 100).0, [None, Some([0.5, 0.5])]);
        assert_eq!(quantiles(&[(0, -0.0), (0, 0.0), (0, 1.0)], 100).0, [Some([0.0, 1.0])]);
    }

    #[test]
    fn whatever_fits_into_memory_the_quantiles_are_the_same() {
        let mut random = fastrand::Rng::with_seed(1);
        let durations: Vec<_> = (0..2_000)
            .map(|_| (random.usize(..40).min(random.usize(..40)), random.f64() * 10_f64.powi(random.i32(-9..9))))
            .collect();
        let (expected, readings) = quantiles(&durations, 2_000);
        assert_eq!(readings, 0, "everything fits");
        for held_max in [1, 10, 90, 500, 1_999] {
            let (found, readings) = quantiles(&durations, held_max);
            assert_eq!(found, expected, "{held_max}");
            assert!(readings > 0, "{held_max}");
        }
    }
}
