//! The queue behind a channel. Tasks make requests of the [`QueueHandle`]; the thread that owns the database answers them with the
//! [`QueueServer`]: that of the state file, or, where there is none, one with a database in memory.

use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use rusqlite::Connection;
use thiserror::Error;
use tokio::sync::{mpsc, oneshot, watch};

use crate::exposition::ViewProvider;
use crate::shared_ledger::SharedLedger;
use crate::store::{Store, StoreError};

use super::identity::{HostHash, Identified, Identity, LabelSets, identify};
use super::queue::{self, Appended, Owner, QueueSize, RemovedReceiver, Thinning};
use super::relay::{NewestTick, Relay};
use super::sampler::{Draft, Occasion, Sampler, present};
use super::series::{
    Backlog, Generation, OwnSample, Position, ReceiverName, Series, SeriesId, Tick, TickKind, TickTime,
};

/// Requests that are pending at most; whoever makes another one awaits its turn.
const REQUESTS_MAX: usize = 16;

/// Name of the database in memory, in errors.
const IN_MEMORY: &str = "(push queue in memory)";

/// Why a request was not answered. Nothing was changed.
#[derive(Debug, Error)]
pub enum QueueError {
    /// The database of the queue failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// What the ledger has counted is not in the state file, so that a tick would hold what a restart does not know.
    #[error("the state file cannot be written, so that nothing new is queued")]
    Uncommitted,
    /// The queue has no identity: [`QueueHandle::identify`] was not called, or refused.
    #[error("the push queue has no identity yet")]
    Unidentified,
    /// A receiver that is not one of the queue's: it was removed from the configuration.
    #[error("the push queue has no receiver {0}")]
    NoSuchReceiver(ReceiverName),
    /// The position is not one of the queue any more: another sender, which was stopped and had not ended yet, has answered for later
    /// ticks, or ticks have disappeared because the clock was set back. What was read at the position is to be read again.
    #[error("the push queue of the receiver {0} has changed behind its position")]
    Overtaken(ReceiverName),
    /// The queue had rows that this program cannot have written, and is empty now. The next tick contains every value.
    #[error("the push queue was corrupt and is emptied; the next tick contains every value")]
    Emptied,
    /// The thread that owns the database has ended.
    #[error("the thread of the push queue has ended")]
    Ended,
}

/// What holds for the queue as a whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QueueSettings {
    /// Whose positions are kept.
    pub receivers: Vec<ReceiverName>,
    /// Time between two ticks.
    pub interval: Duration,
    /// Beyond this size the queue is thinned.
    pub bytes_max: u64,
}

type Request = Box<dyn FnOnce(&mut Turn<'_>) + Send>;

/// Makes requests of the queue. Clones make them of the same one.
#[derive(Clone)]
pub struct QueueHandle {
    requests: mpsc::Sender<Request>,
    newest: watch::Receiver<Position>,
    shared: Arc<Shared>,
    /// Whose thread answers; `None` if the thread only answers.
    ledger: Option<Arc<SharedLedger>>,
}

/// What is known without a request.
#[derive(Debug, Default)]
struct Shared {
    thinned_ticks: AtomicU64,
    has_last_tick: AtomicBool,
    relay: Relay,
}

/// Answers the requests of a [`QueueHandle`].
pub struct QueueServer {
    requests: mpsc::Receiver<Request>,
    newest: watch::Sender<Position>,
    shared: Arc<Shared>,
    state: State,
}

/// The queue, as far as it is in memory.
#[derive(Debug, Default)]
struct State {
    /// `None` until the queue is read.
    sampler: Option<Sampler>,
    identity: Option<Identity>,
    settings: Option<QueueSettings>,
    /// Whether the label sets have changed since the queue was configured.
    is_relabelled: bool,
    thinning: Thinning,
    generation: Generation,
}

/// One turn of answering.
struct Turn<'t> {
    state: &'t mut State,
    store: &'t mut Store,
    ledger: &'t SharedLedger,
    is_committed: bool,
    newest: &'t watch::Sender<Position>,
    shared: &'t Shared,
}

impl fmt::Debug for QueueHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("QueueHandle").field("shared", &self.shared).finish_non_exhaustive()
    }
}

impl fmt::Debug for QueueServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("QueueServer").field("state", &self.state).finish_non_exhaustive()
    }
}

impl QueueHandle {
    /// Creates a handle whose requests are answered by the thread that persists `ledger`.
    pub fn persistent(ledger: Arc<SharedLedger>) -> (Self, QueueServer) {
        Self::new(Some(ledger))
    }

    /// Creates a handle with a queue in memory, and the thread that answers it. The thread ends with the last clone of the handle.
    ///
    /// # Errors
    /// SQLite or the system refuses a database in memory or a thread.
    pub fn in_memory(ledger: Arc<SharedLedger>) -> Result<Self, InMemoryError> {
        let connection = Connection::open_in_memory().map_err(InMemoryError::Database)?;
        let (mut store, ()) = Store::on(connection, Path::new(IN_MEMORY), |_| Ok(()))?;
        let (handle, mut server) = Self::new(None);
        let answer = move || {
            while let Some(request) = server.requests.blocking_recv() {
                let mut turn = server.turn(&mut store, &ledger, true);
                turn.write_answers_if_possible();
                request(&mut turn);
            }
        };
        std::thread::Builder::new().name("push-queue".to_owned()).spawn(answer).map_err(InMemoryError::Thread)?;
        Ok(handle)
    }

    fn new(ledger: Option<Arc<SharedLedger>>) -> (Self, QueueServer) {
        let (requests, pending) = mpsc::channel(REQUESTS_MAX);
        let (newest, watched) = watch::channel(Position { generation: Generation::default(), time: TickTime::NEVER });
        let shared = Arc::new(Shared::default());
        let server = QueueServer { requests: pending, newest, shared: Arc::clone(&shared), state: State::default() };
        (Self { requests, newest: watched, shared, ledger }, server)
    }

    /// Settles whose queue it is. Nothing else is answered before.
    ///
    /// # Errors
    /// The database failed.
    pub async fn identify(&self, host: HostHash, label_sets: LabelSets) -> Result<Identified, QueueError> {
        self.request(move |turn| turn.identify(host, label_sets)).await
    }

    /// Replaces the settings. The positions of receivers that are not among them are forgotten, or inherited by the one that takes the
    /// place of the only one; any other new receiver begins with the newest tick. Returns those that are removed.
    ///
    /// # Errors
    /// The database failed.
    pub async fn configure(&self, settings: QueueSettings) -> Result<Vec<RemovedReceiver>, QueueError> {
        self.request(move |turn| turn.configure(settings)).await
    }

    /// Queues the values that changed since the last tick, as the tick at `time`.
    ///
    /// # Errors
    /// The database failed, or the state file does not take what the ledger has counted.
    pub async fn take_tick(
        &self,
        time: TickTime,
        own: Vec<OwnSample>,
        kind: TickKind,
    ) -> Result<TickOutcome, QueueError> {
        self.request(move |turn| turn.take_tick(time, own, kind)).await
    }

    /// Returns the series from the number `from` on. The catalog grows and never changes, except that it is empty again after
    /// [`Identified::Copied`]. For tests and benchmarks: a sender gets the new series with [`Self::backlog`].
    ///
    /// # Errors
    /// The database failed.
    pub async fn series(&self, from: SeriesId) -> Result<Vec<Arc<Series>>, QueueError> {
        self.request(move |turn| turn.series(from)).await
    }

    /// Returns a receiver's position, and the value of each series there that has one.
    ///
    /// # Errors
    /// The database failed, or there is no such receiver.
    pub async fn open(&self, receiver: &ReceiverName) -> Result<(Position, Vec<(SeriesId, f64)>), QueueError> {
        let receiver = receiver.clone();
        self.request(move |turn| turn.open(&receiver)).await
    }

    /// Returns ticks later than `after`, oldest first: up to `ticks_max` of them, and fewer where they have many values.
    /// At least one, if there is one. With them the series from the number `series_from` on, which they can have values of.
    ///
    /// # Errors
    /// The database failed; there is no such receiver; another sender of it has answered for later ticks than `after`, or `after` is
    /// of an earlier generation.
    pub async fn backlog(
        &self,
        receiver: &ReceiverName,
        after: Position,
        ticks_max: usize,
        series_from: SeriesId,
    ) -> Result<(Vec<Arc<Series>>, Backlog), QueueError> {
        let receiver = receiver.clone();
        self.request(move |turn| {
            let series = turn.series(series_from)?;
            if after.generation != turn.state.generation || turn.position(&receiver)? > after.time {
                return Err(QueueError::Overtaken(receiver));
            }
            let backlog = turn.store.read_queue(|connection| queue::backlog(connection, after.time, ticks_max))?;
            Ok((series, backlog))
        })
        .await
    }

    /// Returns the newest tick as [`Self::backlog`] does, without a request, if it is the only one later than `after` and the series before
    /// `series_from` are those of the ticks before it; `None` if the queue has to be read. Whether another sender of the receiver has answered
    /// for it is not checked: two of them send it twice.
    pub fn newest_tick(&self, after: Position, series_from: SeriesId) -> Option<(Vec<Arc<Series>>, Backlog)> {
        self.shared.relay.tick_behind(after, series_from)
    }

    /// A receiver has answered for every tick up to `to`. Returns whether that is the newest: nothing is queued later then, and the answer is
    /// noted without a request. It is written at the next turn of the thread, and no tick is queued before. If the tick is merged into an
    /// earlier one meanwhile, the note has the effect of [`Self::advance_beyond_newest`].
    pub fn note_newest_answered(&self, receiver: &ReceiverName, to: Position) -> bool {
        let is_newest = *self.newest.borrow() == to;
        if is_newest {
            self.shared.relay.leave_answer(receiver, to);
        }
        is_newest
    }

    /// A receiver has answered for every tick up to `to`. Returns how much is queued later than that. It is no error if it is not
    /// a receiver any more. A power cut can forget the answer, until something else is committed: the same samples are sent again then.
    ///
    /// # Errors
    /// The database failed, or `to` is of an earlier generation or later than the newest tick: a position that is moved there would
    /// skip what is queued now. The position is as before then.
    pub async fn advance(&self, receiver: &ReceiverName, to: Position) -> Result<QueueSize, QueueError> {
        let receiver = receiver.clone();
        self.request(move |turn| {
            let newest = turn.sampler()?.newest();
            if to.generation != turn.state.generation || newest.is_none_or(|newest| newest < to.time) {
                return Err(QueueError::Overtaken(receiver));
            }
            Ok(turn.store.write_queue_unsynced(|connection| {
                queue::advance(connection, &receiver, to.time)?;
                queue::size_behind(connection, to.time)
            })?)
        })
        .await
    }

    /// A receiver has stored samples of a time up to `to` that were merged into an earlier tick while they were on their way, because
    /// the clock was set back. No tick is queued before `to` then: between its other samples they would be a counter that falls. Changes
    /// nothing if a later tick is queued.
    ///
    /// # Errors
    /// The database failed.
    pub async fn advance_beyond_newest(&self, receiver: &ReceiverName, to: TickTime) -> Result<(), QueueError> {
        let receiver = receiver.clone();
        self.request(move |turn| {
            if turn.sampler()?.newest().is_some_and(|newest| newest >= to) {
                return Ok(());
            }
            Ok(turn.store.write_queue(|connection| queue::advance(connection, &receiver, to))?)
        })
        .await
    }

    /// Returns how much is queued later than `after`.
    ///
    /// # Errors
    /// The database failed.
    pub async fn size_after(&self, after: TickTime) -> Result<QueueSize, QueueError> {
        self.request(move |turn| Ok(turn.store.read_queue(|connection| queue::size_behind(connection, after))?)).await
    }

    /// Returns a watch of the newest tick's place, at [`TickTime::NEVER`] before the first.
    pub fn watch(&self) -> watch::Receiver<Position> {
        self.newest.clone()
    }

    /// Returns whether the last tick of this process is queued: once [`Self::watch`] shows it, so does this.
    pub fn has_last_tick(&self) -> bool {
        self.shared.has_last_tick.load(Ordering::Acquire)
    }

    /// Returns how many ticks this process has merged into others because the queue was full.
    pub fn thinned_ticks(&self) -> u64 {
        self.shared.thinned_ticks.load(Ordering::Relaxed)
    }

    async fn request<T: Send + 'static>(
        &self,
        answer: impl FnOnce(&mut Turn<'_>) -> Result<T, QueueError> + Send + 'static,
    ) -> Result<T, QueueError> {
        let (answered, answer_of) = oneshot::channel();
        let request: Request = Box::new(move |turn| {
            let answer = answer(turn).map_err(|error| turn.empty_if_corrupt(error));
            // Whoever made the request may have given up.
            let _ = answered.send(answer);
        });
        self.requests.send(request).await.map_err(|_| QueueError::Ended)?;
        if let Some(ledger) = &self.ledger {
            ledger.notify_requested();
        }
        answer_of.await.map_err(|_| QueueError::Ended)?
    }
}

/// What became of a tick.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TickOutcome {
    /// It is queued.
    Queued,
    /// The queue has it, or one that is later by at most an interval: the clock will have passed that soon.
    NotDue,
    /// A receiver has answered for this tick, which is later by more than an interval: the clock was set back. No tick is queued before it.
    BehindAnswered(TickTime),
}

/// Why there is no queue in memory.
#[derive(Debug, Error)]
pub enum InMemoryError {
    /// SQLite refuses the database.
    #[error("cannot create the push queue in memory: {0}")]
    Database(#[source] rusqlite::Error),
    /// Its tables cannot be created.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The system starts no further thread.
    #[error("cannot start the thread of the push queue: {0}")]
    Thread(#[source] std::io::Error),
}

impl QueueServer {
    /// Writes the answers that were noted, and answers the requests that are pending. `is_committed` is whether the view of `ledger` shows
    /// only what is in `store`.
    pub fn answer(&mut self, store: &mut Store, ledger: &SharedLedger, is_committed: bool) {
        let mut is_writable = true;
        loop {
            // A database that somebody has locked is waited for once a turn, and by a tick.
            is_writable = is_writable && self.turn(store, ledger, is_committed).write_answers_if_possible();
            let Ok(request) = self.requests.try_recv() else { return };
            request(&mut self.turn(store, ledger, is_committed));
        }
    }

    fn turn<'t>(&'t mut self, store: &'t mut Store, ledger: &'t SharedLedger, is_committed: bool) -> Turn<'t> {
        Turn { state: &mut self.state, store, ledger, is_committed, newest: &self.newest, shared: &self.shared }
    }
}

/// Returns the time of a last tick that would be at `time`: right after one that a receiver has `answered` for, if that is not later by more
/// than a moment, which the end of a process outlasts.
fn after_answered(time: TickTime, answered: TickTime) -> TickTime {
    const MOMENT_MILLIS: i64 = 1_000;
    let next = answered.millis() + 1;
    let is_soon = (1..=MOMENT_MILLIS).contains(&(next - time.millis()));
    if is_soon { TickTime::from_millis(next) } else { time }
}

impl Turn<'_> {
    fn identify(&mut self, host: HostHash, label_sets: LabelSets) -> Result<Identified, QueueError> {
        let stored = match self.store.read_queue(queue::owner) {
            Err(error @ StoreError::Corrupt { .. }) => {
                self.empty(&error)?;
                None
            }
            read => read?,
        };
        let known = stored.as_ref().map(|owner| (owner.identity, owner.host, &owner.label_sets));
        let identified = identify(known, host, &label_sets, Identity::random);
        let Some(identity) = identified.identity() else {
            self.state.identity = None;
            return Ok(identified);
        };
        let owner = Owner { identity, host, label_sets };
        self.state.is_relabelled |= stored.as_ref().is_some_and(|stored| stored.label_sets != owner.label_sets);
        let is_copied = matches!(identified, Identified::Copied(_));
        if stored.as_ref() != Some(&owner) {
            self.store.write_queue(|connection| {
                if is_copied {
                    queue::clear(connection)?;
                }
                queue::set_owner(connection, &owner)
            })?;
        }
        if is_copied {
            self.state.sampler = None;
            self.begin_generation();
            self.shared.relay.clear();
        }
        self.state.identity = Some(identity);
        Ok(identified)
    }

    fn configure(&mut self, settings: QueueSettings) -> Result<Vec<RemovedReceiver>, QueueError> {
        let newest = self.sampler()?.newest();
        let is_relabelled = self.state.is_relabelled;
        let removed =
            self.store.write_queue(|connection| queue::retain(connection, &settings.receivers, is_relabelled))?;
        self.state.is_relabelled = false;
        self.state.settings = Some(settings);
        self.announce(newest.unwrap_or(TickTime::NEVER), None);
        Ok(removed)
    }

    fn begin_generation(&mut self) {
        self.state.generation = self.state.generation.next();
    }

    /// Has senders go on to the `newest` tick. What is left for those that have everything before it, if it can be left, is `tick`.
    fn announce(&self, newest: TickTime, tick: Option<NewestTick>) {
        self.shared.relay.leave_tick(tick);
        self.newest.send_replace(Position { generation: self.state.generation, time: newest });
    }

    /// Writes the answers that were noted, and returns whether none is left. Those that cannot be written stay: the next tick fails with the
    /// reason, unless they can be written then.
    fn write_answers_if_possible(&mut self) -> bool {
        let written = self.write_answers();
        if let Err(error) = &written {
            tracing::debug!(%error, "answers of receivers cannot be written to the push queue yet");
        }
        written.is_ok()
    }

    /// Writes the answers that were noted.
    fn write_answers(&mut self) -> Result<(), QueueError> {
        let answers = self.shared.relay.take_answers();
        if answers.is_empty() {
            return Ok(());
        }
        let written = match self.try_write_answers(&answers).map_err(|error| self.empty_if_corrupt(error)) {
            // The queue is behind its newest tick now, and an answer can be for a later one.
            Err(QueueError::Emptied) => self.try_write_answers(&answers),
            written => written,
        };
        if written.is_err() {
            self.shared.relay.put_back(answers);
        }
        written
    }

    fn try_write_answers(&mut self, answers: &[(ReceiverName, Position)]) -> Result<(), QueueError> {
        let (generation, newest) = (self.state.generation, self.state.sampler.as_ref().and_then(Sampler::newest));
        // What one of an earlier generation is for is queued again, or was merged into a tick that is, unless that is an earlier one.
        let is_valid = |to: Position| newest.is_some_and(|newest| to.generation == generation || newest < to.time);
        let valid: Vec<_> = answers.iter().filter(|(_, to)| is_valid(*to)).collect();
        if valid.is_empty() {
            return Ok(());
        }
        let settings = self.state.settings.as_ref();
        let is_configured = |receiver| settings.is_some_and(|settings| settings.receivers.contains(receiver));
        let is_beyond = valid.iter().any(|(_, to)| newest.is_some_and(|newest| newest < to.time));
        let write = |connection: &Connection| {
            let mut is_lost = false;
            for (receiver, to) in valid {
                queue::advance(connection, receiver, to.time)?;
                is_lost |= is_configured(receiver) && queue::position(connection, receiver)?.is_none();
            }
            Ok(is_lost)
        };
        // What is forgotten beyond the newest tick is not sent again: a tick would be queued before it.
        let is_lost = match is_beyond {
            true => self.store.write_queue(write)?,
            false => self.store.write_queue_unsynced(write)?,
        };
        if is_lost {
            // A sender reads the queue when the generation ends, and notices that its receiver is not one of it.
            self.begin_generation();
            self.announce(newest.unwrap_or(TickTime::NEVER), None);
        }
        Ok(())
    }

    fn take_tick(&mut self, time: TickTime, own: Vec<OwnSample>, kind: TickKind) -> Result<TickOutcome, QueueError> {
        if !self.is_committed {
            return Err(QueueError::Uncommitted);
        }
        // A tick that a receiver has answered for is merged into no other.
        self.write_answers()?;
        let QueueSettings { interval, bytes_max, .. } = self.state.settings.clone().ok_or(QueueError::Unidentified)?;
        let interval_millis = i64::try_from(interval.as_millis()).unwrap_or(i64::MAX);
        let time = match kind {
            TickKind::Regular => time,
            TickKind::Final => after_answered(time, self.store.read_queue(queue::answered)?),
        };
        let ledger = self.ledger;
        let sampler = self.sampler()?;
        // A clock that was set back by less than an interval will have passed the newest tick soon. No other one follows the last.
        let is_taken = |newest: TickTime| (0..=interval_millis).contains(&(newest.millis() - time.millis()));
        if kind == TickKind::Regular && sampler.newest().is_some_and(is_taken) {
            return Ok(TickOutcome::NotDue);
        }
        let occasion = Occasion { time, kind, interval_millis };
        let mut draft: Option<Draft> = None;
        let mut own = Some(own);
        ledger.read(&mut |view, active_sessions| {
            draft = Some(sampler.sample(view, active_sessions, own.take().unwrap_or_default(), occasion));
        });
        let draft = draft.expect("a provider reads once");
        let mut thinning = self.state.thinning;
        let (appended, thinned) = self.store.write_queue(|connection| {
            let appended = queue::append(connection, time, draft.first, &draft.new, &draft.values)?;
            let thinned = match appended {
                Appended::Queued { bytes, .. } => queue::thin(connection, bytes_max, bytes, &mut thinning)?,
                Appended::TooEarly(_) => 0,
            };
            Ok((appended, thinned))
        })?;
        let (bytes, is_merged) = match appended {
            Appended::Queued { bytes, is_merged } => (bytes, is_merged),
            Appended::TooEarly(answered) => return Ok(TickOutcome::BehindAnswered(answered)),
        };
        self.state.thinning = thinning;
        self.shared.thinned_ticks.fetch_add(thinned, Ordering::Relaxed);
        let before = self.sampler()?.newest().unwrap_or(TickTime::NEVER);
        let after = Position { generation: self.state.generation, time: before };
        self.sampler()?.accept(&draft);
        if is_merged {
            self.begin_generation();
        }
        self.shared.has_last_tick.store(kind == TickKind::Final, Ordering::Release);
        let Draft { first, new, values, .. } = draft;
        let newest = NewestTick { after, first, new, tick: Tick { time, values }, bytes };
        self.announce(time, (!is_merged && thinned == 0).then_some(newest));
        Ok(TickOutcome::Queued)
    }

    fn series(&mut self, from: SeriesId) -> Result<Vec<Arc<Series>>, QueueError> {
        let catalog = self.sampler()?.catalog();
        Ok(catalog.get(from.index()..).unwrap_or_default().to_vec())
    }

    fn open(&mut self, receiver: &ReceiverName) -> Result<(Position, Vec<(SeriesId, f64)>), QueueError> {
        let series = self.sampler()?.catalog().len();
        let position = self.position(receiver)?;
        let values = self.store.read_queue(|connection| queue::values_at(connection, series, position))?;
        Ok((Position { generation: self.state.generation, time: position }, present(&values)))
    }

    fn position(&self, receiver: &ReceiverName) -> Result<TickTime, QueueError> {
        let position = self.store.read_queue(|connection| queue::position(connection, receiver))?;
        position.ok_or_else(|| QueueError::NoSuchReceiver(receiver.clone()))
    }

    /// Empties the queue if `error` is that of rows which this program cannot have written. Returns the error of the request.
    fn empty_if_corrupt(&mut self, error: QueueError) -> QueueError {
        match error {
            QueueError::Store(corrupt @ StoreError::Corrupt { .. }) => match self.empty(&corrupt) {
                Ok(()) => QueueError::Emptied,
                // The pages of its tables may be damaged as well.
                Err(_) => corrupt.into(),
            },
            error => error,
        }
    }

    /// Empties a queue with rows that this program cannot have written: `error`. That costs resolution and no count.
    fn empty(&mut self, error: &StoreError) -> Result<(), StoreError> {
        let lost_ticks = self.store.write_queue(queue::empty)?;
        tracing::warn!(%error, lost_ticks, "push queue corrupt; it is emptied, and the next tick contains every value");
        self.state.thinning = Thinning::default();
        self.state.sampler = None;
        self.begin_generation();
        self.announce(TickTime::NEVER, None);
        let sampler = self.load()?;
        self.announce(sampler.newest().unwrap_or(TickTime::NEVER), None);
        self.state.sampler = Some(sampler);
        Ok(())
    }

    /// Returns the sampler of a queue that is identified. Reads the queue at the first time.
    fn sampler(&mut self) -> Result<&mut Sampler, QueueError> {
        if self.state.identity.is_none() {
            return Err(QueueError::Unidentified);
        }
        if self.state.sampler.is_none() {
            match self.load() {
                Err(error @ StoreError::Corrupt { .. }) => self.empty(&error)?,
                loaded => self.state.sampler = Some(loaded?),
            }
        }
        self.state.sampler.as_mut().ok_or(QueueError::Unidentified)
    }

    fn load(&mut self) -> Result<Sampler, StoreError> {
        self.store.write_queue(queue::convert_base)?;
        self.store.read_queue(|connection| {
            let catalog = queue::catalog(connection)?;
            let newest = queue::newest(connection)?;
            let last = queue::values_at(connection, catalog.len(), TickTime::from_millis(i64::MAX))?;
            Ok(Sampler::new(catalog, last, newest))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ledger::Limits;

    fn queue() -> (Arc<SharedLedger>, QueueHandle, QueueServer, Store) {
        let ledger = Arc::new(SharedLedger::new(Limits::default()));
        let (handle, server) = QueueHandle::persistent(Arc::clone(&ledger));
        let connection = Connection::open_in_memory().unwrap();
        let (store, ()) = Store::on(connection, Path::new("memory"), |_| Ok(())).unwrap();
        (ledger, handle, server, store)
    }

    fn settings(receiver: &ReceiverName) -> QueueSettings {
        let interval = Duration::from_secs(60);
        QueueSettings { receivers: vec![receiver.clone()], interval, bytes_max: u64::MAX >> 1 }
    }

    #[test]
    fn an_answer_that_is_noted_while_its_tick_is_merged_into_an_earlier_one_keeps_ticks_from_before_it() {
        let (ledger, handle, mut server, mut store) = queue();
        let mut turn = server.turn(&mut store, &ledger, true);
        let receiver = ReceiverName::new("r");
        let at = |minute: i64| TickTime::from_millis(1_700_000_000_000 + minute * 60_000);
        turn.identify(HostHash::of(b"host", b"id"), ["x".to_owned()].into()).unwrap();
        turn.configure(settings(&receiver)).unwrap();
        turn.take_tick(at(1), Vec::new(), TickKind::Regular).unwrap();
        turn.take_tick(at(121), Vec::new(), TickKind::Regular).unwrap();
        let ahead = *handle.watch().borrow();
        // The clock was set back.
        assert_eq!(turn.take_tick(at(2), Vec::new(), TickKind::Regular).unwrap(), TickOutcome::Queued);
        // Noted while the tick was being taken, behind the write of what was noted before.
        handle.shared.relay.leave_answer(&receiver, ahead);
        let outcome = turn.take_tick(at(3), Vec::new(), TickKind::Regular).unwrap();
        assert_eq!(outcome, TickOutcome::BehindAnswered(at(121)));
    }

    #[test]
    fn an_answer_for_the_queue_of_another_machine_moves_no_position() {
        let (ledger, handle, mut server, mut store) = queue();
        let mut turn = server.turn(&mut store, &ledger, true);
        let receiver = ReceiverName::new("r");
        turn.identify(HostHash::of(b"host", b"id"), ["x".to_owned()].into()).unwrap();
        turn.configure(settings(&receiver)).unwrap();
        turn.take_tick(TickTime::from_millis(1_700_000_000_000), Vec::new(), TickKind::Regular).unwrap();
        let former = *handle.watch().borrow();
        let identified = turn.identify(HostHash::of(b"other", b"id"), ["y".to_owned()].into()).unwrap();
        assert!(matches!(identified, Identified::Copied(_)));
        turn.configure(settings(&receiver)).unwrap();
        handle.shared.relay.leave_answer(&receiver, former);
        turn.write_answers().unwrap();
        assert_eq!(turn.position(&receiver).unwrap(), TickTime::NEVER);
    }
}
