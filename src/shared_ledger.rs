//! The ledger where many threads can reach it, and the view that scrapes read.
//!
//! Writers hold the ledger's lock for one message, a scrape holds it only while it takes what changed; rendering happens
//! under the view's own lock, so that a slow scrape never stands in the way of a feed.
//!
//! A ledger in memory shows a change at the next scrape. A ledger with a [`Persister`](crate::persister::Persister)
//! shows it once it is on disk: then only the persister takes changes from the ledger and brings them to the view.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
#[cfg(not(target_os = "linux"))]
use std::time::{SystemTime, UNIX_EPOCH};

#[cfg(target_os = "linux")]
use rustix::time::{ClockId, clock_gettime};

use crate::exposition::{View, ViewProvider};
use crate::ledger::memory::Table;
use crate::ledger::{
    Changes, ConnectionId, DetailPosition, DetailReading, FeedId, FeedSpec, Ledger, Limits, Mark, Moment, Notice, Whole,
};
use crate::protocol::Message;

/// All counts of this process.
#[derive(Debug)]
pub struct SharedLedger {
    ledger: Mutex<Ledger>,
    view: Mutex<View>,
    started: Instant,
    /// Whether changes are shown by a persister, once they are kept.
    is_kept: bool,
    due: Mutex<Due>,
    due_changed: Condvar,
}

/// What a persister is waited for to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Due {
    pub changed: bool,
    pub is_stopping: bool,
}

impl SharedLedger {
    /// An empty board, in memory.
    pub fn new(limits: Limits) -> Self {
        Self::of(Ledger::new(limits), View::default(), Instant::now(), false)
    }

    /// The ledger that `whole` was, to be kept by a persister.
    ///
    /// # Errors
    /// See [`Ledger::restore`].
    pub(crate) fn restore(limits: Limits, whole: Whole) -> Result<Self, String> {
        let started = Instant::now();
        let mut view = View::default();
        view.apply(Changes { skills: whole.skills.clone(), rules: whole.rules, ..Changes::default() });
        // What another process has counted.
        view.take_increase();
        let ledger = Ledger::restore(limits, whole, moment(started, started))?;
        Ok(Self::of(ledger, view, started, true))
    }

    fn of(ledger: Ledger, view: View, started: Instant, is_kept: bool) -> Self {
        Self {
            ledger: Mutex::new(ledger),
            view: Mutex::new(view),
            started,
            is_kept,
            due: Mutex::default(),
            due_changed: Condvar::new(),
        }
    }

    /// See [`Ledger::add_feed`].
    pub fn add_feed(&self, spec: FeedSpec) -> FeedId {
        let (feed, counters) = {
            let mut ledger = self.ledger();
            let feed = ledger.add_feed(spec);
            (feed, ledger.counters(feed).clone())
        };
        // What is kept of it must not vanish from the scrapes between a restart and the first commit after it.
        if self.is_kept {
            self.view().show_feed(counters);
        }
        feed
    }

    /// See [`Ledger::remove_feed`].
    pub fn remove_feed(&self, feed: FeedId) {
        let now = self.now();
        let identity = {
            let mut ledger = self.ledger();
            // Before, since another may go on in its place.
            let identity = ledger.counters(feed).identity.clone();
            ledger.remove_feed(feed, now);
            identity
        };
        self.view().hide_feed(&identity);
        self.note_changed();
    }

    /// See [`Ledger::set_limits`].
    pub fn set_limits(&self, limits: Limits) {
        self.ledger().set_limits(limits);
    }

    /// See [`Ledger::add_local_feed`].
    pub fn add_local_feed(&self, identity: &str) -> FeedId {
        self.ledger().add_local_feed(identity)
    }

    /// See [`Ledger::open`].
    pub fn open(&self, feed: FeedId) -> ConnectionId {
        let now = self.now();
        let connection = self.ledger().open(feed, now);
        // The first of all begins a wait, of which the persister must learn.
        self.note_changed();
        connection
    }

    /// See [`Ledger::close`].
    pub fn close(&self, connection: ConnectionId) {
        let now = self.now();
        self.ledger().close(connection, now);
    }

    /// See [`Ledger::apply`]. What somebody should hear of.
    pub fn apply(&self, connection: ConnectionId, message: &Message<'_>) -> Vec<Notice> {
        self.apply_at(connection, message, self.now())
    }

    /// The same for a message of a frame that was heard at `now`: a frame can hold thousands.
    pub(crate) fn apply_at(&self, connection: ConnectionId, message: &Message<'_>, now: Moment) -> Vec<Notice> {
        let mut notices = Vec::new();
        let has_changed = {
            let mut ledger = self.ledger();
            ledger.apply(connection, message, now, &mut notices);
            self.is_kept && ledger.has_changed()
        };
        if has_changed {
            self.note_changed();
        }
        notices
    }

    /// See [`Ledger::expect_detail`].
    pub fn expect_detail(&self, feed: FeedId) {
        self.ledger().expect_detail(feed);
        self.note_changed();
    }

    /// See [`Ledger::detail_position`].
    pub fn detail_position(&self, feed: FeedId) -> Option<DetailPosition> {
        let now = self.now();
        self.ledger().detail_position(feed, now)
    }

    /// See [`Ledger::detail_marks`].
    pub fn detail_marks(&self, feed: FeedId, table: Table) -> Vec<Mark> {
        self.ledger().detail_marks(feed, table)
    }

    /// See [`Ledger::apply_detail`]. What somebody should hear of.
    pub fn apply_detail(&self, feed: FeedId, reading: DetailReading) -> Vec<Notice> {
        let mut notices = Vec::new();
        let now = self.now();
        self.ledger().apply_detail(feed, reading, now, &mut notices);
        self.note_changed();
        notices
    }

    /// See [`Ledger::detail_failed`].
    pub fn detail_failed(&self, feed: FeedId) {
        let now = self.now();
        self.ledger().detail_failed(feed, now, &mut Vec::new());
        self.note_changed();
    }

    /// This moment, as the ledger takes it.
    pub fn now(&self) -> Moment {
        self.moment(Instant::now())
    }

    /// The moment at which the clock showed `at`, a moment ago.
    pub(crate) fn moment(&self, at: Instant) -> Moment {
        moment(self.started, at)
    }

    /// Takes what changed, to be kept. `None` if nothing did.
    pub(crate) fn take_changes(&self) -> Option<Changes> {
        let now = self.now();
        let mut ledger = self.ledger();
        ledger.tick(now, &mut Vec::new());
        ledger.has_changed().then(|| ledger.drain(now))
    }

    /// `changes` could not be kept: they are to be taken once more. `is_shown` says whether they are shown nevertheless.
    pub(crate) fn untake(&self, changes: &Changes, is_shown: bool) {
        self.ledger().untake(changes, is_shown);
        self.note_changed();
    }

    /// Shows `changes`.
    pub(crate) fn show(&self, changes: Changes) {
        self.view().apply(changes);
    }

    /// Waits until there is something to keep, a wait of the ledger is over, or the end is asked for. Takes the notice.
    pub(crate) fn wait_until_due(&self) -> Due {
        let deadline = self.ledger().deadline();
        let patience = deadline.map_or(Duration::MAX, |deadline| deadline.saturating_sub(self.started.elapsed()));
        let nothing = |due: &mut Due| *due == Due::default();
        let mut due = if patience == Duration::MAX {
            self.due_changed.wait_while(self.due(), nothing).unwrap_or_else(PoisonError::into_inner)
        } else {
            let waited = self.due_changed.wait_timeout_while(self.due(), patience, nothing);
            waited.unwrap_or_else(PoisonError::into_inner).0
        };
        Due { changed: std::mem::take(&mut due.changed), is_stopping: due.is_stopping }
    }

    /// Waits for `pause`, or until the end is asked for. Whether it was.
    pub(crate) fn pause(&self, pause: Duration) -> bool {
        let waited = self.due_changed.wait_timeout_while(self.due(), pause, |due| !due.is_stopping);
        waited.unwrap_or_else(PoisonError::into_inner).0.is_stopping
    }

    /// Asks the persister to commit what there is and to end.
    pub(crate) fn stop_persisting(&self) {
        self.due().is_stopping = true;
        self.due_changed.notify_one();
    }

    fn note_changed(&self) {
        // Who waits has been told once already: telling is a call of the system.
        if !std::mem::replace(&mut self.due().changed, true) {
            self.due_changed.notify_one();
        }
    }

    fn ledger(&self) -> MutexGuard<'_, Ledger> {
        // A message that panicked half way leaves counts that were proved: better shown than lost.
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn view(&self) -> MutexGuard<'_, View> {
        self.view.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn due(&self) -> MutexGuard<'_, Due> {
        self.due.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ViewProvider for SharedLedger {
    fn read(&self, read: &mut dyn FnMut(&mut View, u64)) {
        // The view's lock is taken first, and no writer takes it: two scrapes apply their changes in the order in which
        // they took them.
        let mut view = self.view();
        let now = self.now();
        let (changes, active_sessions) = {
            let mut ledger = self.ledger();
            let active_sessions = ledger.active_sessions(now);
            let changes = if self.is_kept {
                None
            } else {
                ledger.tick(now, &mut Vec::new());
                Some(ledger.drain(now))
            };
            view.note_last_listed(ledger.take_last_listed());
            (changes, active_sessions)
        };
        if let Some(changes) = changes {
            view.apply(changes);
        }
        read(&mut view, active_sessions);
    }
}

fn moment(started: Instant, at: Instant) -> Moment {
    Moment { wall_micros: wall_micros(), elapsed: at.saturating_duration_since(started) }
}

/// Microseconds since the Unix epoch, as the kernel noted them at its last tick, some milliseconds ago: what wall time is
/// for is a matter of seconds, and every frame asks.
#[cfg(target_os = "linux")]
fn wall_micros() -> i64 {
    let wall = clock_gettime(ClockId::RealtimeCoarse);
    wall.tv_sec.saturating_mul(1_000_000).saturating_add(wall.tv_nsec / 1_000)
}

#[cfg(not(target_os = "linux"))]
fn wall_micros() -> i64 {
    let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(wall.as_micros()).unwrap_or(i64::MAX)
}
