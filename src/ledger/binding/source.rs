//! One source, as far as it matters for which feed moves its counters.

use std::time::Duration;

use super::vocabulary::Beginning;
use crate::ledger::continuity::SourceNumbers;
use crate::ledger::slots::{FeedSlot, SourceId};

/// One source: a database and what is needed to count it exactly once.
#[derive(Debug)]
pub struct Source<C> {
    /// What is remembered of its numbers.
    pub numbers: SourceNumbers,
    /// What it carries to count with.
    pub counts: C,
    pub(super) beginning: Beginning,
    /// Whether a snapshot of it was counted.
    pub(super) has_begun: bool,
    /// The feed that moved the counters last.
    pub(super) counted_by: Option<FeedSlot>,
    /// The feed that moves the counters: of all skills under `None`, else of the one skill.
    pub(super) active: Vec<(Option<Box<str>>, FeedSlot)>,
    /// When it was last damaged, in this process.
    pub(super) damaged_at: Option<Duration>,
    /// The source in whose place it began.
    pub(super) after: Option<SourceId>,
    /// When a feed was last bound to it or counted it, in microseconds since the Unix epoch.
    pub(super) active_micros: i64,
}

/// How a feed stands to its source.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// It is not bound.
    Unbound,
    /// Its snapshots are compared with those of others, until it is known whose they are.
    Pending,
    /// It moves the counters.
    Active(SourceId),
    /// Another feed moves the counters.
    Standby(SourceId),
}

impl<C> Source<C> {
    pub(super) fn new(counts: C, beginning: Beginning) -> Self {
        Self {
            numbers: SourceNumbers::default(),
            counts,
            beginning,
            has_begun: false,
            counted_by: None,
            active: Vec::new(),
            damaged_at: None,
            after: None,
            active_micros: 0,
        }
    }

    /// Whether `feed` moves counters of this source.
    pub fn is_active(&self, feed: FeedSlot) -> bool {
        self.active.iter().any(|(_, active)| *active == feed)
    }

    /// Whether a snapshot of it was counted.
    pub fn has_begun(&self) -> bool {
        self.has_begun
    }

    /// A first snapshot of it is applied that lists nothing. Returns how it began, if it had not before.
    pub fn begin(&mut self) -> Option<Beginning> {
        (!std::mem::replace(&mut self.has_begun, true)).then_some(self.beginning)
    }

    /// How it began.
    pub fn beginning(&self) -> Beginning {
        self.beginning
    }

    /// Notes that `feed`, or rows of the database beside it, moved the counters. Returns whether another feed did before.
    pub fn set_counted_by(&mut self, feed: FeedSlot) -> bool {
        self.counted_by.replace(feed) != Some(feed)
    }

    /// The feed that moved the counters last.
    pub fn counted_by(&self) -> Option<FeedSlot> {
        self.counted_by
    }

    /// When it was last active, in microseconds since the Unix epoch.
    pub fn active_micros(&self) -> i64 {
        self.active_micros
    }

    pub(super) fn active_for(&self, filter: Option<&str>) -> Option<FeedSlot> {
        self.active.iter().find(|(skill, _)| skill.as_deref() == filter).map(|(_, feed)| *feed)
    }

    pub(super) fn set_active(&mut self, filter: Option<&str>, feed: FeedSlot) {
        match self.active.iter_mut().find(|(skill, _)| skill.as_deref() == filter) {
            Some((_, active)) => *active = feed,
            None => self.active.push((filter.map(Into::into), feed)),
        }
    }

    pub(super) fn unset_active(&mut self, feed: FeedSlot) {
        self.active.retain(|(_, active)| *active != feed);
    }
}
