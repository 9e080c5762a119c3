//! What changed since it was last acknowledged.
//!
//! Collecting does not forget: what is collected stays in flight until it is acknowledged, and is collected again with the
//! next batch otherwise. So a commit that fails needs no undo.

use std::hash::Hash;

use hashbrown::HashSet;

/// Whether there is a state file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Persistence {
    /// What changes is collected, to be committed.
    #[default]
    StateFile,
    /// Nothing is collected: without commits it would accumulate.
    InMemory,
}

/// The capacity that a set retains once its keys are acknowledged: more than a feed changes in a second. A start, or sources that are
/// joined, mark tens of thousands at once.
const RETAINED_CAPACITY_MAX: usize = 1_000;

/// Keys of values that changed. Under [`Persistence::InMemory`] it is always empty.
#[derive(Debug, Clone)]
pub(super) struct Dirty<K> {
    persistence: Persistence,
    pending: HashSet<K>,
    in_flight: HashSet<K>,
}

impl<K> Default for Dirty<K> {
    fn default() -> Self {
        Self::new(Persistence::default())
    }
}

impl<K> Dirty<K> {
    pub fn new(persistence: Persistence) -> Self {
        Self { persistence, pending: HashSet::new(), in_flight: HashSet::new() }
    }

    pub fn persistence(&self) -> Persistence {
        self.persistence
    }

    /// Nothing has to be collected any more.
    pub fn clear(&mut self) {
        *self = Self::new(self.persistence);
    }
}

impl<K: Hash + Eq> Dirty<K> {
    /// The value of `key` changed.
    pub fn mark(&mut self, key: K) {
        if self.persistence == Persistence::StateFile {
            self.pending.insert(key);
        }
    }

    /// The same, of a key that is cloned only where that is news.
    pub fn mark_shared(&mut self, key: &K)
    where
        K: Clone,
    {
        if self.persistence == Persistence::StateFile {
            self.pending.get_or_insert_with(key, K::clone);
        }
    }

    /// Whether anything has to be collected.
    pub fn is_empty(&self) -> bool {
        self.pending.is_empty() && self.in_flight.is_empty()
    }

    /// Returns every key that changed and is not acknowledged.
    pub fn collect(&mut self) -> impl Iterator<Item = &K> {
        if self.in_flight.is_empty() {
            std::mem::swap(&mut self.in_flight, &mut self.pending);
        } else {
            self.in_flight.extend(self.pending.drain());
        }
        self.in_flight.iter()
    }

    /// Returns every key that was collected and is not acknowledged.
    pub fn in_flight(&self) -> impl Iterator<Item = &K> {
        self.in_flight.iter()
    }

    /// What was collected last is persistent.
    pub fn acknowledge(&mut self) {
        if self.in_flight.capacity() > RETAINED_CAPACITY_MAX {
            self.in_flight = HashSet::new();
        } else {
            self.in_flight.clear();
        }
    }
}

/// Whether a single value changed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct DirtyFlag {
    is_pending: bool,
    is_in_flight: bool,
}

impl DirtyFlag {
    /// A value that was never persisted.
    pub const NEW: Self = Self { is_pending: true, is_in_flight: false };

    /// The value changed.
    pub fn mark(&mut self) {
        self.is_pending = true;
    }

    /// The value changed if `has_changed`.
    pub fn mark_if(&mut self, has_changed: bool) {
        self.is_pending |= has_changed;
    }

    /// Whether the value has to be collected.
    pub fn is_set(self) -> bool {
        self.is_pending || self.is_in_flight
    }

    /// Returns whether the value changed and is not acknowledged.
    pub fn collect(&mut self) -> bool {
        self.is_in_flight |= std::mem::take(&mut self.is_pending);
        self.is_in_flight
    }

    /// What was collected last is persistent.
    pub fn acknowledge(&mut self) {
        self.is_in_flight = false;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_acknowledged_is_collected_again() {
        let mut dirty = Dirty::default();
        dirty.mark("a");
        assert_eq!(dirty.collect().collect::<Vec<_>>(), [&"a"]);
        dirty.mark("b");
        let mut again: Vec<_> = dirty.collect().copied().collect();
        again.sort_unstable();
        assert_eq!(again, ["a", "b"], "the first commit failed");
        dirty.mark("a");
        dirty.acknowledge();
        assert_eq!(dirty.collect().collect::<Vec<_>>(), [&"a"], "it changed while it was committed");
        dirty.acknowledge();
        assert!(dirty.is_empty());
    }

    #[test]
    fn the_capacity_for_many_keys_is_released_once_they_are_acknowledged() {
        let mut dirty = Dirty::default();
        for (commits, keys) in [(1, 1), (1, 500), (1, 100_000), (2, 100_000), (1, 1), (1, 1)] {
            for _ in 0..commits {
                (0..keys).for_each(|key| dirty.mark(key));
                assert_eq!(dirty.collect().count(), keys);
            }
            dirty.acknowledge();
        }
        let capacities = [dirty.pending.capacity(), dirty.in_flight.capacity()];
        assert!(capacities.iter().all(|capacity| *capacity <= RETAINED_CAPACITY_MAX), "{capacities:?}");
    }

    #[test]
    fn the_capacity_for_few_keys_is_retained() {
        let mut dirty = Dirty::default();
        (0..500).for_each(|key| dirty.mark(key));
        assert_eq!(dirty.collect().count(), 500);
        let capacity = dirty.in_flight.capacity();
        dirty.acknowledge();
        assert_eq!((dirty.in_flight.len(), dirty.in_flight.capacity()), (0, capacity));
    }

    #[test]
    fn nothing_is_collected_without_a_state_file() {
        let mut dirty = Dirty::new(Persistence::InMemory);
        dirty.mark("a");
        dirty.mark_shared(&"b");
        dirty.clear();
        dirty.mark("c");
        assert!(dirty.is_empty());
        assert_eq!(dirty.collect().next(), None);
    }

    #[test]
    fn a_flag_that_is_set_during_a_commit_stays_set() {
        let mut flag = DirtyFlag::NEW;
        assert!(flag.collect());
        flag.mark();
        flag.acknowledge();
        assert!(flag.is_set() && flag.collect());
        flag.acknowledge();
        assert!(!flag.is_set());
    }
}
