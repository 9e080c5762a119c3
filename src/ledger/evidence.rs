//! What the numbers of skills prove about each other: whether one can have become the other, and how improbable it is that
//! another database lists the same.
//!
//! Pure: numbers in, facts and bits out. Rule 3.1 of `docs/explanation/translation.md`.

use std::sync::Arc;

use super::arithmetic::Listing;

/// The relative error within which two sums of durations are equal: either is a rounded mean times a number.
const SUM_ERROR: f64 = 1.0 / (1_u64 << 48) as f64;

/// Steps that durations are commonly rounded to, in seconds, the coarsest first.
const GRIDS_SECONDS: [f64; 7] = [1.0, 0.5, 0.1, 0.01, 1e-3, 1e-4, 1e-6];

/// A sum on no grid is precise to this fraction of itself.
const UNROUNDED: f64 = 1.0 / (1_u64 << 40) as f64;

/// A known anomaly that is listed again: its skill, its type and the second in which it was detected agree.
const ANOMALY_BITS: f64 = 12.0;

/// The numbers of one skill at one time, as listed or as a database holds them.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Totals {
    /// Invocations.
    pub total: u64,
    /// Completed ones among them.
    pub completed: u64,
    /// Whether `completed` is what the server counted, not derived from a rounded rate.
    pub split_is_exact: bool,
    /// Seconds of the completed ones; `None` where unknown.
    pub duration_sum: Option<f64>,
}

impl Totals {
    /// The numbers of a skill that was never invoked.
    pub const ZERO: Self = Self { total: 0, completed: 0, split_is_exact: true, duration_sum: Some(0.0) };

    /// Invocations that were not completed.
    pub fn abandoned(&self) -> u64 {
        self.total - self.completed
    }

    /// Whether both are the same listing, bit for bit.
    pub fn is_same(&self, other: &Self) -> bool {
        self.total == other.total
            && self.completed == other.completed
            && self.duration_sum.map(f64::to_bits) == other.duration_sum.map(f64::to_bits)
    }

    /// Whether a database that holds `self` can hold `later` after more invocations: no side and no sum fell, and nothing
    /// changed without an invocation. What is unknown of either contradicts nothing.
    pub fn precedes(&self, later: &Self) -> bool {
        let splits = self.split_is_exact && later.split_is_exact;
        let sums = self.duration_sum.zip(later.duration_sum);
        let is_sum_equal = sums.is_none_or(|(a, b)| (a - b).abs() <= SUM_ERROR * a.max(b));
        if self.total == later.total {
            return (!splits || self.completed == later.completed) && is_sum_equal;
        }
        if self.total > later.total {
            return false;
        }
        let is_split_possible = !splits || (self.completed <= later.completed && self.abandoned() <= later.abandoned());
        let is_sum_possible = sums.is_none_or(|(a, b)| a <= b * (1.0 + SUM_ERROR));
        let has_completed_more = !splits || self.completed < later.completed;
        is_split_possible && is_sum_possible && (has_completed_more || is_sum_equal)
    }

    /// Bits of equality: how improbable it is that another database lists the same.
    pub fn bits(&self) -> f64 {
        let of_total = (self.total as f64 + 1.0).log2();
        match self.duration_sum {
            Some(sum) if self.completed > 0 && sum > 0.0 => {
                let completed = self.completed as f64;
                of_total + (sum / completed * completed.sqrt() / grid(sum)).max(1.0).log2()
            }
            _ => of_total,
        }
    }

    /// Bits of nearness: how improbable it is that another database comes as near to `self` as `other` does.
    pub fn nearness(&self, other: &Self) -> f64 {
        let larger = self.total.max(other.total) as f64;
        let change = self.total.abs_diff(other.total) as f64;
        let of_total = if larger > 0.0 { (larger / (2.0 * (change + 1.0))).log2().max(0.0) } else { 0.0 };
        let of_sum = match self.duration_sum.zip(other.duration_sum) {
            Some((sum, other_sum)) if self.completed > 0 && other.completed > 0 && sum > 0.0 => {
                let completed = self.completed as f64;
                (completed.sqrt() / (1.0 + (other_sum - sum).abs() / (sum / completed))).log2().max(0.0)
            }
            _ => 0.0,
        };
        of_total + of_sum
    }

    /// 64 bits that tell this listing from others. Persistent: must never change.
    pub fn digest(&self) -> u64 {
        let sum = self.duration_sum.map_or(u64::MAX, f64::to_bits);
        [self.completed, sum].into_iter().fold(mix(self.total), |digest, part| mix(digest ^ part))
    }
}

impl From<&Listing> for Totals {
    fn from(listing: &Listing) -> Self {
        Self {
            total: listing.total,
            completed: listing.completed,
            split_is_exact: listing.exact,
            duration_sum: listing.duration_sum,
        }
    }
}

/// The coarsest grid that `sum` lies on within its precision, in seconds.
fn grid(sum: f64) -> f64 {
    let lies_on = |grid: &f64| {
        let steps = sum / grid;
        (steps - steps.round()).abs() < (steps * 8e-15).max(1e-7)
    };
    GRIDS_SECONDS.into_iter().find(lies_on).unwrap_or(sum * UNROUNDED)
}

/// Bits of evidence of a known anomaly that is listed again, with its score.
pub fn anomaly_bits(deviation_score: Option<f64>) -> f64 {
    let size = deviation_score.map_or(0.0, f64::abs);
    let of_score = if size > 0.0 && size.is_finite() { (size / grid(size)).max(1.0).log2() } else { 0.0 };
    ANOMALY_BITS + of_score
}

/// The finalizer of SplitMix64.
pub(super) fn mix(value: u64) -> u64 {
    let value = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

/// What one snapshot lists: the numbers of each skill. No skill is listed twice.
#[derive(Debug, Clone, Default)]
pub struct Listings {
    /// Shared by the lists that name the same skills, as those of a feed do for long, whatever their order: a server sorts by
    /// numbers, which change with every invocation.
    names: Arc<Names>,
    /// In the order of `names`.
    totals: Vec<Totals>,
}

/// An entry of a list.
#[derive(Debug, Clone, Copy)]
pub struct Listed<'a> {
    /// The skill.
    pub name: &'a str,
    /// The position of the skill in [`Listings::names`] of the feed's list before; `None` if that does not name it.
    pub position: Option<usize>,
    /// Its numbers.
    pub totals: Totals,
}

/// The skills that a list names, in its order or in that of an earlier one.
#[derive(Debug, Default)]
pub struct Names {
    listed: Vec<Arc<str>>,
    /// Indices of `listed` in the order of the names.
    by_name: Vec<u32>,
}

impl Names {
    fn new(listed: Vec<Arc<str>>) -> Self {
        let mut by_name: Vec<u32> = (0..).take(listed.len()).collect();
        by_name.sort_unstable_by(|a, b| listed[*a as usize].cmp(&listed[*b as usize]));
        Self { listed, by_name }
    }

    /// The skills.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<str>> {
        self.listed.iter()
    }

    /// The skill at `position`.
    pub fn at(&self, position: usize) -> &Arc<str> {
        &self.listed[position]
    }

    fn position(&self, name: &str) -> Option<usize> {
        let name_of = |index: &u32| &*self.listed[*index as usize];
        let found = self.by_name.binary_search_by(|index| name_of(index).cmp(name)).ok()?;
        Some(self.by_name[found] as usize)
    }
}

impl Listings {
    /// The listings of `entries`, in which each skill appears once.
    pub fn new(entries: Vec<(Arc<str>, Totals)>) -> Self {
        let (names, totals) = entries.into_iter().unzip();
        Self { names: Arc::new(Names::new(names)), totals }
    }

    /// The listings of `entries`, in which each skill appears once, of a feed that listed `self` before: `self` where nothing
    /// changed. They share the names of `self` if they are of the same skills, in whatever order; else their names are in the order of
    /// `entries`. `share` is called for each name that `self` does not have.
    pub fn followed_by<'a>(
        self: &Arc<Self>,
        entries: impl ExactSizeIterator<Item = Listed<'a>> + Clone,
        share: impl Fn(&str) -> Arc<str>,
    ) -> Arc<Self> {
        if entries.len() != self.len() || entries.clone().any(|entry| entry.position.is_none()) {
            let name_of = |entry: Listed<'_>| match entry.position {
                Some(position) => Arc::clone(self.names.at(position)),
                None => share(entry.name),
            };
            let names = Arc::new(Names::new(entries.clone().map(name_of).collect()));
            return Arc::new(Self { names, totals: entries.map(|entry| entry.totals).collect() });
        }
        // As many entries as positions, and no two at one position: each number is replaced.
        let by_position = entries.filter_map(|entry| Some((entry.position?, entry.totals)));
        if by_position.clone().all(|(position, totals)| self.totals[position] == totals) {
            return Arc::clone(self);
        }
        let mut totals = self.totals.clone();
        by_position.for_each(|(position, now)| totals[position] = now);
        Arc::new(Self { names: Arc::clone(&self.names), totals })
    }

    /// The skills.
    pub fn names(&self) -> &Arc<Names> {
        &self.names
    }

    /// The position of `name` in the order of [`Listings::names`], which is sought at `expected` first.
    pub fn position(&self, name: &str, expected: Option<usize>) -> Option<usize> {
        let is_at = |position: &usize| self.names.listed.get(*position).is_some_and(|known| **known == *name);
        expected.filter(is_at).or_else(|| self.names.position(name))
    }

    /// The numbers of `name`, if it is listed.
    pub fn get(&self, name: &str) -> Option<&Totals> {
        self.names.position(name).map(|position| &self.totals[position])
    }

    /// Whether `name` is listed.
    pub fn contains(&self, name: &str) -> bool {
        self.names.position(name).is_some()
    }

    /// The skills and their numbers, in the order of [`Listings::names`].
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&Arc<str>, &Totals)> + Clone {
        self.names.listed.iter().zip(&self.totals)
    }

    /// The skills that both list: this one's numbers, then the other's.
    pub fn common<'a>(&'a self, other: &'a Self) -> impl Iterator<Item = (&'a Arc<str>, &'a Totals, &'a Totals)> {
        let are_same = Arc::ptr_eq(&self.names, &other.names);
        self.iter().enumerate().filter_map(move |(index, (name, totals))| {
            let position = if are_same { Some(index) } else { other.names.position(name) };
            Some((name, totals, &other.totals[position?]))
        })
    }

    /// How many skills are listed.
    pub fn len(&self) -> usize {
        self.totals.len()
    }

    /// Whether nothing is listed.
    pub fn is_empty(&self) -> bool {
        self.totals.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn totals(total: u64, completed: u64, duration_sum: f64) -> Totals {
        Totals { total, completed, split_is_exact: true, duration_sum: Some(duration_sum) }
    }

    #[test]
    fn a_database_only_grows() {
        let held = totals(10, 8, 20.0);
        assert!(held.precedes(&held));
        assert!(held.precedes(&totals(12, 9, 21.5)));
        assert!(held.precedes(&totals(11, 8, 20.0)), "one more was abandoned");
        assert!(!held.precedes(&totals(9, 8, 20.0)), "the total fell");
        assert!(!held.precedes(&totals(12, 7, 20.0)), "a completed one is gone");
        assert!(!held.precedes(&totals(12, 11, 25.0)), "an abandoned one is gone");
        assert!(!held.precedes(&totals(12, 9, 19.0)), "the sum fell");
        assert!(!held.precedes(&totals(11, 8, 21.0)), "a sum grew without a completion");
        assert!(!held.precedes(&totals(10, 8, 21.0)), "a sum was corrected");
    }

    #[test]
    fn what_is_unknown_contradicts_nothing() {
        let held = totals(10, 8, 20.0);
        assert!(held.precedes(&Totals { duration_sum: None, ..totals(11, 9, 0.0) }));
        assert!(held.precedes(&Totals { split_is_exact: false, duration_sum: None, ..totals(11, 7, 0.0) }));
    }

    #[test]
    fn digits_of_a_mean_are_no_measure_and_the_grid_of_the_sum_is() {
        let whole_seconds = totals(3, 3, 4.0 / 3.0 * 3.0);
        assert!(whole_seconds.bits() < 6.0, "{}", whole_seconds.bits());
        let measured = totals(3, 3, 4.000_139_231_771_3);
        assert!(measured.bits() > 24.0, "{}", measured.bits());
        assert!(totals(1, 0, 0.0).bits() == 1.0 && Totals::ZERO.bits() == 0.0);
    }

    #[test]
    fn nearness_has_the_bits_that_the_rule_names() {
        let without_durations = |total| totals(total, 0, 0.0);
        assert_eq!(without_durations(1000).nearness(&without_durations(998)).round(), 7.0);
        assert!(without_durations(10).nearness(&without_durations(9)) > 1.0);
        assert_eq!(without_durations(10).nearness(&without_durations(1)), 0.0);
    }

    #[test]
    fn listings_are_found_by_name_and_compared_in_order() {
        let names = ["b", "a", "c"];
        let entries: Vec<_> =
            names.iter().zip(1..).map(|(name, total)| ((*name).into(), totals(total, 0, 0.0))).collect();
        let listings = Listings::new(entries.clone());
        assert_eq!(listings.get("a").map(|totals| totals.total), Some(2));
        assert!(!listings.contains("d"));
        assert!(listings.iter().eq(entries.iter().map(|(name, totals)| (name, totals))));
    }

    #[test]
    fn lists_of_the_same_skills_share_their_names_and_each_holds_what_it_lists() {
        let list = |before: &Listings, names: &[&'static str]| -> Vec<Listed<'static>> {
            let position = |name| before.position(name, None);
            let listed = names.iter().zip(1..);
            listed
                .map(|(name, total)| Listed { name, position: position(name), totals: totals(total, 0, 0.0) })
                .collect()
        };
        let none = Arc::new(Listings::default());
        let before = none.followed_by(list(&none, &["b", "a", "c"]).into_iter(), |name| name.into());
        for (names, are_shared) in [
            (&["b", "a", "c"][..], true),
            (&["a", "b", "c"], true),
            (&["b", "a"], false),
            (&["b", "a", "c", "d"], false),
            (&["e", "c"], false),
            (&[], false),
        ] {
            let entries = list(&before, names);
            let now = before.followed_by(entries.iter().copied(), |name| name.into());
            let order = if are_shared { &["b", "a", "c"] } else { names };
            assert!(now.iter().map(|(name, _)| &**name).eq(order.iter().copied()), "{names:?}");
            assert_eq!(Arc::ptr_eq(now.names(), before.names()), are_shared, "{names:?}");
            assert_eq!(Arc::ptr_eq(&now, &before), names == ["b", "a", "c"], "{names:?}");
            for (name, total) in names.iter().zip(1..) {
                assert_eq!(now.get(name), Some(&totals(total, 0, 0.0)), "{names:?}");
            }
            let common: Vec<_> = now.common(&before).map(|(name, own, other)| (&**name, *own, *other)).collect();
            let expected: Vec<_> =
                now.iter().filter_map(|(name, own)| Some((&**name, *own, *before.get(name)?))).collect();
            assert_eq!(common, expected, "{names:?}");
        }
    }

    #[test]
    fn a_name_is_found_wherever_it_is_expected() {
        let listings = Listings::new(["b", "a", "c"].map(|name| (name.into(), Totals::ZERO)).to_vec());
        for expected in [None, Some(0), Some(1), Some(2), Some(3)] {
            let found = ["a", "b", "c", "d"].map(|name| listings.position(name, expected));
            assert_eq!(found, [Some(1), Some(0), Some(2), None], "expected at {expected:?}");
        }
    }
}
