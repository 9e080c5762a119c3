//! What feeds, sources and skills are known by: the only place where integers are indices.

use super::limits::COUNT_MAX;

/// A configured feed. Slots are given in the order of first configuration and never change within a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FeedSlot(u32);

impl FeedSlot {
    pub(crate) fn new(index: usize) -> Self {
        Self(u32::try_from(index).expect("the number of feeds is far below 2^32"))
    }

    /// For the state.
    pub(crate) fn number(self) -> u32 {
        self.0
    }

    /// The slot that [`FeedSlot::number`] was called on.
    pub(crate) const fn from_number(number: u32) -> Self {
        Self(number)
    }

    pub(crate) fn index(self) -> usize {
        self.0 as usize
    }
}

/// A source. Identifiers are given in the order of first sight, also over restarts, and never twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SourceId(pub u64);

impl SourceId {
    pub(super) const FIRST: Self = Self(1);

    /// Whether a ledger can have given it: there is always a next one.
    pub(super) fn is_valid(self) -> bool {
        (Self::FIRST.0..COUNT_MAX).contains(&self.0)
    }

    pub(super) fn next(self) -> Self {
        Self(self.0 + 1)
    }
}
