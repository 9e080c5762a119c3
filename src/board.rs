//! The ledger where many threads can reach it, and the view that scrapes read.
//!
//! Writers hold the ledger's lock for one message, a scrape holds it only while it takes what changed; rendering happens
//! under the view's own lock, so that a slow scrape never stands in the way of a feed.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use crate::exposition::{Source, View};
use crate::ledger::{ConnectionId, FeedId, FeedSpec, Ledger, Limits, Moment, Notice};
use crate::protocol::Message;

/// All counts of this process.
#[derive(Debug)]
pub struct Board {
    ledger: Mutex<Ledger>,
    view: Mutex<View>,
    started: Instant,
}

impl Board {
    /// An empty board.
    pub fn new(limits: Limits) -> Self {
        Self { ledger: Mutex::new(Ledger::new(limits)), view: Mutex::default(), started: Instant::now() }
    }

    /// See [`Ledger::add_feed`].
    pub fn add_feed(&self, spec: FeedSpec) -> FeedId {
        self.ledger().add_feed(spec)
    }

    /// See [`Ledger::add_local_feed`].
    pub fn add_local_feed(&self, identity: &str) -> FeedId {
        self.ledger().add_local_feed(identity)
    }

    /// See [`Ledger::open`].
    pub fn open(&self, feed: FeedId) -> ConnectionId {
        let now = self.now();
        self.ledger().open(feed, now)
    }

    /// See [`Ledger::close`].
    pub fn close(&self, connection: ConnectionId) {
        let now = self.now();
        self.ledger().close(connection, now);
    }

    /// See [`Ledger::apply`]. What somebody should hear of.
    pub fn apply(&self, connection: ConnectionId, message: &Message<'_>) -> Vec<Notice> {
        let mut notices = Vec::new();
        let now = self.now();
        self.ledger().apply(connection, message, now, &mut notices);
        notices
    }

    /// This moment, as the ledger takes it.
    pub fn now(&self) -> Moment {
        let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Moment { wall_micros: i64::try_from(wall.as_micros()).unwrap_or(i64::MAX), elapsed: self.started.elapsed() }
    }

    fn ledger(&self) -> MutexGuard<'_, Ledger> {
        // A message that panicked half way leaves counts that were proved: better shown than lost.
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Source for Board {
    fn read(&self, read: &mut dyn FnMut(&View, u64)) {
        // The view's lock is taken first, and no writer takes it: two scrapes apply their changes in the order in which
        // they took them.
        let mut view = self.view.lock().unwrap_or_else(PoisonError::into_inner);
        let now = self.now();
        let (changes, active_sessions) = {
            let mut ledger = self.ledger();
            ledger.tick(now, &mut Vec::new());
            (ledger.drain(now), ledger.active_sessions(now))
        };
        view.apply(changes);
        read(&view, active_sessions);
    }
}
