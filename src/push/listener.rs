//! What is reported of a receiver.

use std::error::Error;

use super::answer::RefusalReason;
use super::queue::QueueSize;

/// Is called with what happens to one receiver. The calls must not block.
pub trait ReceiverListener: Send + Sync {
    /// A request was answered with the status `code`, or not at all.
    fn request(&self, code: Option<u16>);
    /// The receiver accepted `samples` at `wall_seconds` since the Unix epoch.
    fn accepted(&self, samples: u64, wall_seconds: f64);
    /// The same request will be sent again.
    fn retry(&self, problem: &str, retry_in_seconds: f64);
    /// The receiver takes no requests until somebody acts.
    fn held(&self, problem: &str, retry_in_seconds: f64);
    /// Nothing more is queued for the receiver, or sent to it, while the `problem` lasts. Whoever found it has logged it.
    fn stalled(&self, problem: &str);
    /// Samples will not arrive. `answer` is what the receiver wrote.
    fn refused(&self, samples: u64, reason: RefusalReason, answer: &str);
    /// Every sample of the ticks that were sent together was refused, or every one that was not omitted. `answer` is what the receiver wrote
    /// last.
    fn all_refused(&self, answer: &str);
    /// The queue could not be used; this is tried again.
    fn queue_failed(&self, error: &dyn Error);
    /// What the receiver has not answered for, with its position where that is nothing, and how many ticks of the queue were thinned so far.
    fn queue(&self, queue: QueueSize, thinned_ticks: u64);
    /// The receiver's clock was read: ours is ahead by `skew_seconds`. `is_wrong` is whether that is much, and `is_ahead`
    /// whether nothing is sent because of it.
    fn clock(&self, skew_seconds: f64, is_wrong: bool, is_ahead: bool);
}
