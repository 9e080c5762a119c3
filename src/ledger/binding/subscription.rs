//! A feed, as far as it matters for an event that it streams.

use super::pairs::Pairs;
use super::{Entry, SHARED_NEEDED};
use crate::ledger::slots::FeedSlot;

/// What applying an event must know of the feed that streams it. Ends with the event.
#[derive(Debug, Clone, Copy)]
pub struct Subscription<'s> {
    pub(super) feed: FeedSlot,
    pub(super) entry: &'s Entry,
    pub(super) pairs: &'s Pairs,
}

impl<'s> Subscription<'s> {
    /// The one skill that is subscribed to; `None` for all.
    pub fn filter(self) -> Option<&'s str> {
        self.entry.filter.as_deref()
    }

    /// Whether another feed is of the same server: they shared two timestamps in a row.
    pub fn is_one_server(self, other: FeedSlot) -> bool {
        self.pairs.get(self.feed, other).timestamps >= SHARED_NEEDED
    }
}
