//! What a source remembers of each of its skills.

use std::convert::Infallible;
use std::hash::BuildHasher as _;
use std::sync::Arc;

use hashbrown::{DefaultHashBuilder, HashTable};

/// Positions of a list at which skills are expected.
const LIST_MAX: usize = 64;

/// A value for each skill of a source, by name. Ends with the source.
///
/// A feed lists the same skills for long, which [`Listings`](super::evidence::Listings) keep in one order. A skill is expected at the
/// position at which the active feed of the source listed it last, which is checked by its name and costs less than to look for it. Feeds
/// of one source have an order each, that of their first list: behind a change of the active feed each skill is looked for once.
///
/// Invariant: skills are added and never removed, so that the index of one never changes.
#[derive(Debug, Clone)]
pub(super) struct SkillTable<V> {
    entries: Vec<(Arc<str>, V)>,
    /// The indices of `entries`, by the hashes of their names.
    indices: HashTable<u32>,
    hasher: DefaultHashBuilder,
    /// The index of the skill that was listed last at each position.
    list: Vec<u32>,
}

impl<V> Default for SkillTable<V> {
    fn default() -> Self {
        Self { entries: Vec::new(), indices: HashTable::new(), hasher: DefaultHashBuilder::default(), list: Vec::new() }
    }
}

impl<V> SkillTable<V> {
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    pub fn contains(&self, name: &str) -> bool {
        self.find(self.hasher.hash_one(name), name).is_some()
    }

    pub fn get(&self, name: &str) -> Option<&V> {
        self.find(self.hasher.hash_one(name), name).map(|index| &self.entries[index as usize].1)
    }

    pub fn get_mut(&mut self, name: &str) -> Option<&mut V> {
        self.find(self.hasher.hash_one(name), name).map(|index| &mut self.entries[index as usize].1)
    }

    /// Returns the name of a skill as it is shared.
    pub fn name(&self, name: &str) -> Option<&Arc<str>> {
        self.find(self.hasher.hash_one(name), name).map(|index| &self.entries[index as usize].0)
    }

    fn find(&self, hash: u64, name: &str) -> Option<u32> {
        self.indices.find(hash, |index| *self.entries[*index as usize].0 == *name).copied()
    }

    /// Returns the value of a skill, which is made if there is none, and its name as it is shared.
    ///
    /// # Errors
    /// Those of `make`, which is called for a skill that is not known.
    pub fn try_get_or_insert<E>(
        &mut self,
        name: impl AsRef<str> + Into<Arc<str>>,
        make: impl FnOnce(&Arc<str>) -> Result<V, E>,
    ) -> Result<(&Arc<str>, &mut V), E> {
        let hash = self.hasher.hash_one(name.as_ref());
        let index = match self.find(hash, name.as_ref()) {
            Some(index) => index,
            None => {
                let name = name.into();
                let value = make(&name)?;
                let index = u32::try_from(self.entries.len()).expect("the limit of skills is far below 2^32");
                self.entries.push((name, value));
                let Self { entries, indices, hasher, .. } = self;
                indices.insert_unique(hash, index, |index| hasher.hash_one(&*entries[*index as usize].0));
                index
            }
        };
        let (name, value) = &mut self.entries[index as usize];
        Ok((name, value))
    }

    /// Returns the value of a skill, which is `value` if there is none.
    pub fn get_or_insert(&mut self, name: &Arc<str>, value: V) -> &mut V {
        let Ok((_, value)) = self.try_get_or_insert(name.clone(), |_| Ok::<_, Infallible>(value));
        value
    }

    /// Sets the value of a skill.
    pub fn insert(&mut self, name: Arc<str>, value: V) {
        match self.get_mut(&name) {
            Some(known) => *known = value,
            None => {
                self.get_or_insert(&name, value);
            }
        }
    }

    pub fn iter(&self) -> impl Iterator<Item = (&Arc<str>, &V)> {
        self.entries.iter().map(|(name, value)| (name, value))
    }

    pub fn iter_mut(&mut self) -> impl Iterator<Item = (&Arc<str>, &mut V)> {
        self.entries.iter_mut().map(|(name, value)| (&*name, value))
    }

    pub fn names(&self) -> impl Iterator<Item = &Arc<str>> {
        self.entries.iter().map(|(name, _)| name)
    }

    pub fn values(&self) -> impl Iterator<Item = &V> {
        self.entries.iter().map(|(_, value)| value)
    }
}

/// Lists.
impl<V> SkillTable<V> {
    /// Returns the value of a skill that a list names at `position`.
    pub fn listed(&self, position: usize, name: &str) -> Option<&V> {
        match self.index_at(position, name) {
            Some(index) => Some(&self.entries[index as usize].1),
            None => self.get(name),
        }
    }

    /// The same, to change it. The skill is expected there in the lists to come.
    pub fn listed_mut(&mut self, position: usize, name: &str) -> Option<&mut V> {
        let index = self.index_at(position, name).or_else(|| self.find_at(position, name))?;
        Some(&mut self.entries[index as usize].1)
    }

    fn index_at(&self, position: usize, name: &str) -> Option<u32> {
        let index = *self.list.get(position)?;
        let known = &*self.entries[index as usize].0;
        (std::ptr::eq(known, name) || *known == *name).then_some(index)
    }

    fn find_at(&mut self, position: usize, name: &str) -> Option<u32> {
        let index = self.find(self.hasher.hash_one(name), name)?;
        if let Some(expected) = self.list.get_mut(position) {
            *expected = index;
        } else if position == self.list.len() && position < LIST_MAX {
            self.list.push(index);
        }
        Some(index)
    }
}

impl<V> IntoIterator for SkillTable<V> {
    type Item = (Arc<str>, V);
    type IntoIter = std::vec::IntoIter<Self::Item>;

    fn into_iter(self) -> Self::IntoIter {
        self.entries.into_iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_skill_is_found_wherever_a_list_names_it() {
        let mut table = SkillTable::default();
        for (name, value) in [("a", 1), ("b", 2), ("c", 3)] {
            table.insert(name.into(), value);
        }
        for list in [["a", "b", "c"], ["a", "b", "c"], ["c", "a", "b"], ["b", "b", "d"], ["a", "d", "c"]] {
            for (position, name) in list.into_iter().enumerate() {
                let expected = table.get(name).copied();
                assert_eq!(table.listed(position, name).copied(), expected, "{name} at {position} of {list:?}");
                assert_eq!(table.listed_mut(position, name).copied(), expected, "{name} at {position} of {list:?}");
            }
        }
        assert_eq!(table.listed(LIST_MAX + 1, "a"), Some(&1));
        table.insert("a".into(), 9);
        assert_eq!((table.len(), table.listed(0, "a")), (3, Some(&9)));
    }
}
