//! What the thread of the queue and the senders leave for each other: the newest tick, and which ticks are answered for. A sender that
//! has sent everything before that tick reads no database, and wakes the thread for no answer.
//!
//! An answer is written at the thread's next turn: before any request, and where the queue is in the state file within a second. A process
//! that is killed earlier has the same samples sent again.

use std::sync::{Arc, Mutex};

use super::queue::QueueSize;
use super::series::{Backlog, Position, ReceiverName, Series, SeriesId, Tick};
use crate::sync::lock;

/// A tick with more values is read from the queue: 64 KiB of memory are worth a request, more are not.
const VALUES_MAX: usize = 4_096;

/// A tick that was queued last, as [`Backlog`] has it.
#[derive(Debug)]
pub(super) struct NewestTick {
    /// The place that it follows.
    pub after: Position,
    /// The number of the first of `new`.
    pub first: SeriesId,
    /// The series that are in the queue since this tick.
    pub new: Vec<Arc<Series>>,
    pub tick: Tick,
    /// What it takes in the queue.
    pub bytes: u64,
}

/// Shared by the handle and the server of a queue.
#[derive(Debug, Default)]
pub(super) struct Relay {
    newest: Mutex<Option<NewestTick>>,
    /// In the order in which they came.
    answered: Mutex<Vec<(ReceiverName, Position)>>,
}

impl Relay {
    /// Leaves the newest tick for the senders that have everything before it; `None` if they have to read the queue.
    pub fn leave_tick(&self, tick: Option<NewestTick>) {
        *lock(&self.newest) = tick.filter(|newest| newest.tick.values.len() <= VALUES_MAX);
    }

    /// Returns the newest tick with its new series, if it is the only one behind `after`, and the series before `series_from` are all
    /// others.
    pub fn tick_behind(&self, after: Position, series_from: SeriesId) -> Option<(Vec<Arc<Series>>, Backlog)> {
        let newest = lock(&self.newest);
        let NewestTick { new, tick, bytes, .. } =
            newest.as_ref().filter(|newest| (newest.after, newest.first) == (after, series_from))?;
        let size = QueueSize { ticks: 1, bytes: *bytes, oldest: Some(tick.time) };
        let backlog = Backlog { ticks: vec![tick.clone()], remaining: QueueSize::default(), size };
        Some((new.clone(), backlog))
    }

    /// Leaves the answer of a receiver for everything up to `to`.
    pub fn leave_answer(&self, receiver: &ReceiverName, to: Position) {
        let mut answered = lock(&self.answered);
        // Of the same generation a later answer contains an earlier one.
        answered.retain(|(known, earlier)| known != receiver || earlier.generation != to.generation);
        answered.push((receiver.clone(), to));
    }

    /// Has `write` write the answers that were left, the earliest first, until it fails. Those that are not written stay.
    ///
    /// # Errors
    /// Those of `write`.
    pub fn write_answers<E>(&self, mut write: impl FnMut(&ReceiverName, Position) -> Result<(), E>) -> Result<(), E> {
        // Not while it is locked: a sender must not wait for a disk.
        let mut answered = std::mem::take(&mut *lock(&self.answered));
        let mut written = 0;
        let result = answered.iter().try_for_each(|(receiver, to)| write(receiver, *to).map(|()| written += 1));
        if result.is_err() {
            answered.drain(..written);
            lock(&self.answered).splice(0..0, answered);
        }
        result
    }
}
