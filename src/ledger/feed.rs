//! One configured feed: its connection, its own metrics, and what it has said while it is not known whose it is.

use std::time::Duration;

use crate::protocol::{Event, Snapshot};

use super::dirty::DirtyFlag;
use super::series::FeedCounters;

/// Events of a feed that is not bound yet that are held. Further ones are dropped as late.
pub(super) const HELD_EVENTS_MAX: usize = 1_000;

/// A feed and everything that is known of it alone.
#[derive(Debug, Default)]
pub(super) struct Feed {
    pub counters: FeedCounters,
    /// Whether `counters` changed since they were last exposed, and since they were last persisted.
    pub exposed: DirtyFlag,
    pub persisted: DirtyFlag,
    /// Whether it is subscribed to. A feed that left the configuration leaves the gauges.
    pub is_configured: bool,
    /// Counts connections: what an older one still delivers is discarded.
    pub generation: u64,
    /// Whether its connection delivered a message.
    pub is_live: bool,
    pub opened_at: Option<Duration>,
    /// Whether a snapshot of it was bound to a source, in this process or before.
    pub has_begun: bool,
    /// Whether it was reported to be on standby.
    pub is_on_standby: bool,
    /// Whether a database is configured for it.
    pub has_database: bool,
    /// Its latest snapshot, and events, while it is not known whose they are.
    pub held: Option<Box<Snapshot<'static>>>,
    pub held_events: Vec<Event<'static>>,
}

impl Feed {
    pub fn new(identity: &str) -> Self {
        Self {
            counters: FeedCounters { identity: identity.into(), ..FeedCounters::default() },
            exposed: DirtyFlag::NEW,
            persisted: DirtyFlag::NEW,
            ..Self::default()
        }
    }

    /// Its counters changed.
    pub fn touch(&mut self) {
        self.exposed.mark();
        self.persisted.mark();
    }
}
