//! The ledger behind a lock, and the view that scrapes read.
//!
//! A feed holds the ledger's lock for one message, a scrape only while it takes the changes. Text is written under the view's
//! own lock, so that a slow scrape never delays a feed.
//!
//! Without a state file a change is exposed by the next scrape. With one it is exposed once it is on disk: then only the
//! [`Persister`](crate::persister::Persister) takes changes from the ledger and applies them to the view.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::clock::wall_micros;
use crate::exposition::{View, ViewProvider};
use crate::heap;
use crate::ledger::records::Table;
use crate::ledger::{
    Changes, ConnectionId, DatabasePosition, FeedId, FeedSpec, FeedStanding, InvalidState, Ledger, LedgerState, Limits,
    Notice, Now, RowsReading,
};
use crate::protocol::Message;
use crate::skills_db::{DatabaseFacts, Decision, FileIdentity, RowFingerprint};
use crate::standstill::Clock;
use crate::sync::lock;

/// How often cached text is checked.
const IDLE_TEXT_CHECK_INTERVAL: Duration = Duration::from_secs(2);

/// The ledger behind a lock, and the view that scrapes read. It is shared by an `Arc` and ends with the last one.
#[derive(Debug)]
pub struct SharedLedger {
    ledger: Mutex<Ledger>,
    view: Mutex<View>,
    clock: Clock,
    /// Whether changes are exposed only once they are persisted.
    is_persisted: bool,
    due: Mutex<Due>,
    due_changed: Condvar,
}

/// What the persister has to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Due {
    pub changed: bool,
    /// Whether the queue of remote write has requests.
    pub requested: bool,
    pub is_stopping: bool,
}

impl SharedLedger {
    /// Creates an empty ledger, in memory.
    pub fn new(limits: Limits) -> Self {
        Self::of(Ledger::new(limits), View::default(), Clock::new(Instant::now()), false)
    }

    /// Restores a ledger from the state file, to be persisted from now on.
    ///
    /// # Errors
    /// See [`Ledger::restore`].
    pub(crate) fn restore(limits: Limits, whole: LedgerState) -> Result<Self, InvalidState> {
        let clock = Clock::new(Instant::now());
        let mut view = View::default();
        view.apply(Changes { skills: whole.skills.clone(), rules: whole.rules, ..Changes::default() });
        // An earlier process counted it.
        view.take_increase();
        let ledger = Ledger::restore(limits, whole, now_after(Duration::ZERO))?;
        Ok(Self::of(ledger, view, clock, true))
    }

    fn of(ledger: Ledger, view: View, clock: Clock, is_persisted: bool) -> Self {
        Self {
            ledger: Mutex::new(ledger),
            view: Mutex::new(view),
            clock,
            is_persisted,
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
        // Its counters must not vanish from scrapes between a restart and the first commit.
        if self.is_persisted {
            self.view().show_feed(counters);
        }
        feed
    }

    /// See [`Ledger::remove_feed`].
    pub fn remove_feed(&self, feed: FeedId) {
        let now = self.now();
        let identity = {
            let mut ledger = self.ledger();
            // Before it is removed, because another feed may take its slot.
            let identity = ledger.counters(feed).identity.clone();
            ledger.remove_feed(feed, now);
            identity
        };
        self.view().hide_feed(&identity);
        self.notify_changed();
    }

    /// See [`View::expose_zero_first`].
    pub fn expose_zero_first(&self, duration: Duration) {
        let wall_micros = self.now().wall_micros;
        self.view().expose_zero_first(duration, wall_micros);
    }

    /// See [`Ledger::set_limits`].
    pub fn set_limits(&self, limits: Limits) {
        self.ledger().set_limits(limits);
    }

    /// See [`Ledger::add_local_feed`].
    pub fn add_local_feed(&self, identity: &str) -> FeedId {
        self.ledger().add_local_feed(identity)
    }

    /// See [`Ledger::standings`].
    pub fn standings(&self) -> Vec<FeedStanding> {
        self.ledger().standings()
    }

    /// See [`Ledger::open`].
    pub fn open(&self, feed: FeedId) -> ConnectionId {
        let now = self.now();
        let connection = self.ledger().open(feed, now);
        // The first connection starts a deadline, which the persister must learn of.
        self.notify_changed();
        connection
    }

    /// See [`Ledger::close`].
    pub fn close(&self, connection: ConnectionId) {
        let now = self.now();
        self.ledger().close(connection, now);
    }

    /// See [`Ledger::apply`]. Returns what should be logged.
    pub fn apply(&self, connection: ConnectionId, message: &Message<'_>) -> Vec<Notice> {
        self.apply_at(connection, message, self.now())
    }

    /// The same for a message of a frame that was received at `now`: a frame can contain thousands.
    pub(crate) fn apply_at(&self, connection: ConnectionId, message: &Message<'_>, now: Now) -> Vec<Notice> {
        let mut notices = Vec::new();
        let has_changed = {
            let mut ledger = self.ledger();
            ledger.apply(connection, message, now, &mut notices);
            self.is_persisted && ledger.has_changed()
        };
        if has_changed {
            self.notify_changed();
        }
        notices
    }

    /// See [`Ledger::expect_detail`].
    pub fn expect_detail(&self, feed: FeedId) {
        self.ledger().expect_detail(feed);
        self.notify_changed();
    }

    /// See [`Ledger::detail_position`].
    pub fn detail_position(&self, feed: FeedId, file: FileIdentity) -> Option<DatabasePosition> {
        let now = self.now();
        self.ledger().detail_position(feed, file, now)
    }

    /// See [`Ledger::row_fingerprints`].
    pub fn row_fingerprints(&self, position: &DatabasePosition, table: Table) -> Vec<RowFingerprint> {
        self.ledger().row_fingerprints(position, table)
    }

    /// See [`Ledger::plan_detail`]. Returns what should be logged, too.
    pub fn plan_detail(
        &self,
        feed: FeedId,
        position: &mut DatabasePosition,
        facts: &DatabaseFacts,
    ) -> (Decision, Vec<Notice>) {
        let mut notices = Vec::new();
        let now = self.now();
        let decision = self.ledger().plan_detail(feed, position, facts, now, &mut notices);
        self.notify_changed();
        (decision, notices)
    }

    /// See [`Ledger::apply_detail`]. Returns what should be logged, too.
    pub fn apply_detail(&self, feed: FeedId, reading: RowsReading) -> (bool, Vec<Notice>) {
        let mut notices = Vec::new();
        let now = self.now();
        let is_counted = self.ledger().apply_detail(feed, reading, now, &mut notices);
        self.notify_changed();
        (is_counted, notices)
    }

    /// See [`Ledger::detail_failed`].
    pub fn detail_failed(&self, feed: FeedId) {
        let now = self.now();
        self.ledger().detail_failed(feed, now, &mut Vec::new());
        self.notify_changed();
    }

    /// Returns the current time, as the ledger takes it.
    pub fn now(&self) -> Now {
        self.now_at(Instant::now())
    }

    /// Returns the time of `at`, which was a moment ago.
    pub(crate) fn now_at(&self, at: Instant) -> Now {
        now_after(self.clock.elapsed(at))
    }

    /// Keeps the ledger's time from counting a standstill of this process, until the future is dropped: otherwise a feed whose
    /// messages have arrived and were not read would count as one that is not received any more.
    pub(crate) async fn keep_time(&self) {
        self.clock.keep().await;
    }

    /// Drops the text of large scrapes while nobody scrapes, until the future is dropped. See [`View::drop_idle_text`].
    pub(crate) async fn drop_idle_text(&self) {
        loop {
            tokio::time::sleep(IDLE_TEXT_CHECK_INTERVAL).await;
            // A scrape holds the lock for long, and this thread must not wait for it.
            let has_dropped = self.view.try_lock().is_ok_and(|mut view| view.drop_idle_text(Instant::now()));
            if has_dropped {
                // One that fails to run leaves memory where it is.
                let _ = tokio::task::spawn_blocking(heap::trim).await;
            }
        }
    }

    /// See [`View::is_scrape_small`]. `false`, too, while somebody else reads the view, whom the caller would wait for.
    pub(crate) fn is_scrape_small(&self) -> bool {
        self.view.try_lock().is_ok_and(|view| view.is_scrape_small())
    }

    /// Takes the changes, to be persisted; `None` if there are none.
    pub(crate) fn take_changes(&self) -> Option<Changes> {
        let now = self.now();
        let mut ledger = self.ledger();
        ledger.tick(now, &mut Vec::new());
        ledger.has_changed().then(|| ledger.drain(now))
    }

    /// Nothing is persistent any more: the next changes are everything.
    pub(crate) fn mark_all(&self) {
        self.ledger().mark_all();
    }

    /// Exposes `changes`, which are persistent.
    pub(crate) fn acknowledge(&self, changes: Changes) {
        self.ledger().acknowledge(changes.sequence);
        self.view().apply(changes);
    }

    /// `changes` could not be persisted: they are taken once more, together with what changed meanwhile. Exposes them all the
    /// same if `is_exposed`.
    pub(crate) fn retry(&self, changes: Changes, is_exposed: bool) {
        if is_exposed {
            self.ledger().note_exposed(changes.sequence);
            self.view().apply(changes);
        }
        self.notify_changed();
    }

    /// See [`Ledger::begin_configuration`].
    pub fn begin_configuration(&self) {
        self.ledger().begin_configuration();
    }

    /// See [`Ledger::end_configuration`].
    pub fn end_configuration(&self) {
        let now = self.now();
        self.ledger().end_configuration(now);
        self.notify_changed();
    }

    /// Waits until there are changes or requests, a deadline of the ledger is reached, the bridge stops, or `timeout` is over,
    /// and returns which.
    pub(crate) fn wait_until_due(&self, timeout: Duration) -> Due {
        let deadline = self.ledger().deadline();
        let deadline =
            deadline.map_or(Duration::MAX, |deadline| deadline.saturating_sub(self.clock.elapsed(Instant::now())));
        let nothing = |due: &mut Due| *due == Due::default();
        let waited = self.due_changed.wait_timeout_while(self.due(), deadline.min(timeout), nothing);
        let mut due = waited.unwrap_or_else(PoisonError::into_inner).0;
        let (changed, requested) = (std::mem::take(&mut due.changed), std::mem::take(&mut due.requested));
        Due { changed, requested, is_stopping: due.is_stopping }
    }

    /// Waits for `pause` or until the bridge stops. Returns whether it stops.
    pub(crate) fn pause(&self, pause: Duration) -> bool {
        let waited = self.due_changed.wait_timeout_while(self.due(), pause, |due| !due.is_stopping);
        waited.unwrap_or_else(PoisonError::into_inner).0.is_stopping
    }

    /// Requests a last commit, after which the persister ends.
    pub(crate) fn stop_persisting(&self) {
        self.due().is_stopping = true;
        self.due_changed.notify_one();
    }

    /// Has the persister answer requests of the queue of remote write.
    pub(crate) fn notify_requested(&self) {
        if !std::mem::replace(&mut self.due().requested, true) {
            self.due_changed.notify_one();
        }
    }

    fn notify_changed(&self) {
        // A notification is a system call, and one that is pending is enough.
        if !std::mem::replace(&mut self.due().changed, true) {
            self.due_changed.notify_one();
        }
    }

    fn ledger(&self) -> MutexGuard<'_, Ledger> {
        // A message that panicked half way leaves counts that were proved.
        lock(&self.ledger)
    }

    fn view(&self) -> MutexGuard<'_, View> {
        lock(&self.view)
    }

    fn due(&self) -> MutexGuard<'_, Due> {
        lock(&self.due)
    }
}

impl ViewProvider for SharedLedger {
    fn read(&self, read: &mut dyn FnMut(&mut View, u64)) {
        // The view is locked first, and feeds never lock it: two scrapes apply their changes in the order in which they
        // took them.
        let mut view = self.view();
        let now = self.now();
        let (changes, active_sessions) = {
            let mut ledger = self.ledger();
            let active_sessions = ledger.active_sessions(now);
            let changes = if self.is_persisted {
                None
            } else {
                ledger.tick(now, &mut Vec::new());
                let changes = ledger.drain_unless(now, &mut |skill| view.update(skill, now.wall_micros));
                ledger.acknowledge(changes.sequence);
                Some(changes)
            };
            view.record_last_listed(ledger.take_last_listed());
            (changes, active_sessions)
        };
        if let Some(changes) = changes {
            view.apply(changes);
        }
        read(&mut view, active_sessions);
    }
}

fn now_after(elapsed: Duration) -> Now {
    Now { wall_micros: wall_micros(), elapsed }
}
