//! A bounded queue that is fair to those who wait in it.

use std::collections::VecDeque;

/// Items that wait, each in the lane of a key. Lanes take turns, so that the first item of one waits for at most one item of
/// each other. At the bound the oldest item of a lane is given up: of the own lane if that is full, otherwise of the longest.
pub(super) struct FairQueue<K, T> {
    /// The next lane to take its turn first. No lane is empty.
    lanes: VecDeque<(K, VecDeque<T>)>,
    len: usize,
    lane_max: usize,
    len_max: usize,
}

impl<K: PartialEq, T> FairQueue<K, T> {
    /// Creates a queue of at most `len_max` items, `lane_max` in one lane.
    pub fn new(lane_max: usize, len_max: usize) -> Self {
        Self { lanes: VecDeque::new(), len: 0, lane_max, len_max }
    }

    /// Adds an item at the end of its lane. Returns the item that has to be given up for it.
    #[must_use]
    pub fn push(&mut self, key: K, item: T) -> Option<T> {
        let own = self.lanes.iter().position(|(of, _)| *of == key);
        let is_lane_full = own.is_some_and(|own| self.lanes[own].1.len() >= self.lane_max);
        match own {
            Some(own) => self.lanes[own].1.push_back(item),
            None => self.lanes.push_back((key, VecDeque::from([item]))),
        }
        self.len += 1;
        if is_lane_full {
            return own.and_then(|own| self.take(own));
        }
        if self.len <= self.len_max {
            return None;
        }
        // The first of the longest.
        let longest = (0..self.lanes.len()).rev().max_by_key(|lane| self.lanes[*lane].1.len());
        longest.and_then(|lane| self.take(lane))
    }

    /// Removes the oldest item of the lane whose turn it is.
    pub fn pop(&mut self) -> Option<T> {
        let (key, mut items) = self.lanes.pop_front()?;
        let item = items.pop_front();
        if !items.is_empty() {
            self.lanes.push_back((key, items));
        }
        self.len -= usize::from(item.is_some());
        item
    }

    pub fn iter_mut(&mut self) -> impl Iterator<Item = &mut T> {
        self.lanes.iter_mut().flat_map(|(_, items)| items)
    }

    fn take(&mut self, lane: usize) -> Option<T> {
        let items = &mut self.lanes[lane].1;
        let item = items.pop_front();
        if items.is_empty() {
            self.lanes.remove(lane);
        }
        self.len -= usize::from(item.is_some());
        item
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drain(mut queue: FairQueue<char, u32>) -> Vec<u32> {
        std::iter::from_fn(|| queue.pop()).collect()
    }

    #[test]
    fn lanes_take_turns_and_each_is_in_order() {
        let mut queue = FairQueue::new(10, 10);
        for (lane, item) in [('a', 1), ('a', 2), ('a', 3), ('b', 4), ('c', 5), ('b', 6)] {
            assert_eq!(queue.push(lane, item), None);
        }
        assert_eq!(drain(queue), [1, 4, 5, 2, 6, 3]);
    }

    #[test]
    fn a_full_lane_gives_up_its_own_oldest() {
        let mut queue = FairQueue::new(2, 10);
        assert_eq!([queue.push('b', 1), queue.push('a', 2), queue.push('a', 3)], [None; 3]);
        assert_eq!([queue.push('a', 4), queue.push('a', 5)], [Some(2), Some(3)]);
        assert_eq!(drain(queue), [1, 4, 5]);
    }

    #[test]
    fn a_full_queue_gives_up_the_oldest_of_the_longest_lane() {
        let mut queue = FairQueue::new(10, 4);
        let pushed = [('a', 1), ('b', 2), ('b', 3), ('c', 4)].map(|(lane, item)| queue.push(lane, item));
        assert_eq!(pushed, [None; 4]);
        assert_eq!(queue.push('d', 5), Some(2));
        // Now all are of one length, and the first to come goes.
        assert_eq!(queue.push('e', 6), Some(1));
        assert_eq!(drain(queue), [3, 4, 5, 6]);
    }

    #[test]
    fn one_who_floods_delays_another_by_one_item() {
        let mut queue = FairQueue::new(8, 64);
        let given_up = (0..200).filter(|item| queue.push('f', *item).is_some()).count();
        assert_eq!(given_up, 192);
        assert_eq!(queue.push('o', 1000), None);
        assert_eq!([queue.pop(), queue.pop()], [Some(192), Some(1000)]);
    }
}
