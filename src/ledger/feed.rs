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
    held_events: Vec<Event<'static>>,
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

    /// One that was persisted.
    pub fn restore(counters: FeedCounters, has_begun: bool, held_events: Vec<Event<'static>>) -> Self {
        Self { exposed: DirtyFlag::NEW, counters, has_begun, held_events, ..Self::default() }
    }

    /// Events that it streamed while it was not known whose they are.
    pub fn held_events(&self) -> &[Event<'static>] {
        &self.held_events
    }

    /// Holds an event until it is known whose it is. Whether there is room for it.
    pub fn hold_event(&mut self, event: &Event<'_>) -> bool {
        let has_room = self.held_events.len() < HELD_EVENTS_MAX;
        if has_room {
            self.held_events.push(event.clone().into_owned());
            self.persisted.mark();
        }
        has_room
    }

    /// Takes the events that were held.
    pub fn release_events(&mut self) -> Vec<Event<'static>> {
        if !self.held_events.is_empty() {
            self.persisted.mark();
        }
        std::mem::take(&mut self.held_events)
    }

    /// Its counters changed.
    pub fn touch(&mut self) {
        self.exposed.mark();
        self.persisted.mark();
    }
}
