//! What the thread of the queue and the senders leave for each other: the newest tick, and which ticks are answered for. A sender that
//! has everything before that tick reads no database, and wakes the thread for no answer.
//!
//! An answer is written when the thread has its next turn, where the queue is in the state file within a second. While one cannot be
//! written, no tick is queued. A process that is killed before has the same samples sent again.

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
    /// Its time and values.
    pub tick: Tick,
    /// What it takes in the queue.
    pub bytes: u64,
}

/// Shared by the handle and the server of a queue.
#[derive(Debug, Default)]
pub(super) struct Relay {
    newest: Mutex<Option<NewestTick>>,
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
        let is_same =
            |(known, earlier): &&mut (ReceiverName, Position)| known == receiver && earlier.generation == to.generation;
        match answered.iter_mut().find(is_same) {
            Some((_, earlier)) => earlier.time = earlier.time.max(to.time),
            None => answered.push((receiver.clone(), to)),
        }
    }

    /// Takes the answers that were left.
    pub fn take_answers(&self) -> Vec<(ReceiverName, Position)> {
        std::mem::take(&mut *lock(&self.answered))
    }

    /// Leaves answers once more that were taken and could not be written.
    pub fn put_back(&self, answers: Vec<(ReceiverName, Position)>) {
        answers.iter().for_each(|(receiver, to)| self.leave_answer(receiver, *to));
    }

    /// Forgets everything: the queue is another one.
    pub fn clear(&self) {
        self.leave_tick(None);
        self.take_answers();
    }
}
