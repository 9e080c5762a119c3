//! Which rows of a database are remembered by their fingerprints.
//!
//! The last 1,024 rows by key, and of older ones every 2^k-th, k growing with the age of a row: from an age of 1,024 · 2^j
//! keys on every 2^(j+1)-th, so that each doubling of the age costs 512 fingerprints. A backup of any age leaves one of them,
//! not further from its last row than a 512th of its age.

use std::collections::VecDeque;

use crate::skills_db::RowFingerprint;

/// Keys within which every row is remembered.
const RECENT_KEYS: i64 = 1024;

/// The remembered rows of one table, in the order of their keys. Ends with the source whose rows they are.
#[derive(Debug, Clone, Default)]
pub(super) struct FingerprintMemory {
    /// By age: the first holds every row, and the one at `j` every 2^j-th. A row moves to the next when it is older than
    /// 1,024 · 2^j keys.
    levels: Vec<VecDeque<RowFingerprint>>,
}

impl FingerprintMemory {
    /// Those that were remembered, in the order of their keys.
    pub fn restore(fingerprints: impl IntoIterator<Item = RowFingerprint>) -> Self {
        let mut memory = Self::default();
        for fingerprint in fingerprints {
            memory.push(fingerprint, |_| {});
        }
        memory
    }

    /// Remembers a row with a greater key than all before. Calls `forget` with the key of each row that is not remembered
    /// any more.
    pub fn push(&mut self, fingerprint: RowFingerprint, mut forget: impl FnMut(i64)) {
        if self.levels.is_empty() {
            self.levels.push(VecDeque::new());
        }
        self.levels[0].push_back(fingerprint);
        let mut level = 0;
        while level < self.levels.len() {
            let (age_max, spacing) = (RECENT_KEYS.saturating_mul(1 << level), 2_i64 << level);
            let is_older = |row: &mut RowFingerprint| fingerprint.key.saturating_sub(row.key) >= age_max;
            while let Some(row) = self.levels[level].pop_front_if(is_older) {
                if row.key % spacing != 0 {
                    forget(row.key);
                    continue;
                }
                if level + 1 == self.levels.len() {
                    self.levels.push(VecDeque::new());
                }
                self.levels[level + 1].push_back(row);
            }
            level += 1;
        }
    }

    /// Takes out the rows with keys greater than `after`, newest first.
    pub fn take_after(&mut self, after: i64) -> Vec<RowFingerprint> {
        let mut taken = Vec::new();
        for level in &mut self.levels {
            while let Some(row) = level.pop_back_if(|row| row.key > after) {
                taken.push(row);
            }
        }
        taken
    }

    /// The newest row.
    pub fn last(&self) -> Option<RowFingerprint> {
        self.newest_first().next()
    }

    /// All rows, newest first.
    pub fn newest_first(&self) -> impl Iterator<Item = RowFingerprint> {
        self.levels.iter().flat_map(|level| level.iter().rev().copied())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn row(key: i64) -> RowFingerprint {
        RowFingerprint { key, digest: key * 7 }
    }

    /// So many rows, and the keys of those that are remembered, by what was forgotten.
    fn read(rows: i64) -> (FingerprintMemory, BTreeSet<i64>) {
        let (mut memory, mut keys) = (FingerprintMemory::default(), BTreeSet::new());
        for key in 1..=rows {
            keys.insert(key);
            memory.push(row(key), |key| assert!(keys.remove(&key), "{key} was forgotten twice"));
        }
        (memory, keys)
    }

    #[test]
    fn the_last_rows_are_remembered_and_of_older_ones_some_of_any_age() {
        let (memory, keys) = read(200_000);
        let remembered: Vec<_> = memory.newest_first().collect();
        assert!(remembered.is_sorted_by(|a, b| a.key > b.key), "newest first");
        assert_eq!(remembered.iter().map(|row| row.key).collect::<BTreeSet<_>>(), keys, "what was not forgotten");
        assert_eq!(memory.last(), Some(row(200_000)));
        assert!(remembered.len() < 1_024 + 512 * 8 + 1_024, "{}", remembered.len());
        for backup in [199_999, 198_977, 198_500, 190_000, 150_001, 77_777, 1_024] {
            let newest = keys.range(..=backup).next_back().expect("a row of any age");
            let age = 200_000 - backup;
            assert!(backup - newest <= (age / 512).max(0), "{newest} for a backup at {backup}");
        }
    }

    #[test]
    fn restoring_changes_nothing() {
        let (mut memory, keys) = read(30_000);
        let mut restored = FingerprintMemory::restore(keys.iter().map(|key| row(*key)));
        assert!(restored.newest_first().eq(memory.newest_first()));
        for key in 30_001..35_000 {
            let (mut forgotten, mut forgotten_too) = (Vec::new(), Vec::new());
            memory.push(row(key), |key| forgotten.push(key));
            restored.push(row(key), |key| forgotten_too.push(key));
            assert_eq!(forgotten, forgotten_too);
        }
    }

    #[test]
    fn rows_that_a_backup_takes_back_are_taken_out_and_can_come_again() {
        let (mut memory, keys) = read(5_000);
        let taken: Vec<_> = memory.take_after(3_500).iter().map(|row| row.key).collect();
        assert!(taken.iter().rev().eq(keys.range(3_501..)), "newest first");
        assert_eq!(memory.last().map(|row| row.key), keys.range(..=3_500).next_back().copied());
        for key in 3_501..9_000 {
            memory.push(RowFingerprint { key, digest: 1 }, |_| {});
        }
        assert!(memory.newest_first().is_sorted_by(|a, b| a.key > b.key));
    }
}
