//! What two feeds have shown to have in common, whichever of them is asked.

use std::collections::BTreeMap;

use crate::ledger::slots::FeedSlot;

/// What two feeds have in common since both connections began.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Pair {
    /// Timestamps in a row.
    pub timestamps: u32,
    /// Events that both streamed.
    pub events: u32,
}

/// Every pair of feeds that has something in common, until one of the two connects again.
#[derive(Debug, Default)]
pub(super) struct Pairs(BTreeMap<(FeedSlot, FeedSlot), Pair>);

impl Pairs {
    /// What two feeds have in common, in either order.
    pub fn get(&self, feed: FeedSlot, other: FeedSlot) -> Pair {
        self.0.get(&key(feed, other)).copied().unwrap_or_default()
    }

    /// The same, to change it.
    pub fn get_mut(&mut self, feed: FeedSlot, other: FeedSlot) -> &mut Pair {
        self.0.entry(key(feed, other)).or_default()
    }

    /// The feeds that have something in common with `feed`, in the order of their slots.
    pub fn of(&self, feed: FeedSlot) -> impl Iterator<Item = (FeedSlot, Pair)> + '_ {
        self.0.iter().filter_map(move |((first, second), pair)| match feed {
            _ if feed == *first => Some((*second, *pair)),
            _ if feed == *second => Some((*first, *pair)),
            _ => None,
        })
    }

    /// Forgets what a feed has in common with others.
    pub fn forget(&mut self, feed: FeedSlot) {
        self.0.retain(|(first, second), _| feed != *first && feed != *second);
    }
}

fn key(feed: FeedSlot, other: FeedSlot) -> (FeedSlot, FeedSlot) {
    (feed.min(other), feed.max(other))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_feeds_have_in_common_the_same_whichever_is_asked() {
        let [first, second, third] = [0, 1, 2].map(FeedSlot::from_number);
        let mut pairs = Pairs::default();
        pairs.get_mut(second, first).timestamps += 1;
        pairs.get_mut(first, second).timestamps += 1;
        pairs.get_mut(third, second).events += 1;
        let (of_first, of_third) = (Pair { timestamps: 2, events: 0 }, Pair { timestamps: 0, events: 1 });
        assert_eq!([pairs.get(first, second), pairs.get(second, first)], [of_first; 2]);
        assert_eq!(pairs.of(second).collect::<Vec<_>>(), [(first, of_first), (third, of_third)]);
        pairs.forget(first);
        assert_eq!([pairs.get(first, second), pairs.get(second, first)], [Pair::default(); 2]);
        assert_eq!(pairs.of(second).collect::<Vec<_>>(), [(third, of_third)]);
    }
}
