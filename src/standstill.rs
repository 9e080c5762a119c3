//! Time in which this process runs. A process that is stopped (SIGSTOP, a paused container, a virtual machine that is moved)
//! finds on its return that every timeout is over, although what would have prevented it may have arrived meanwhile. Timers of
//! this module count only time in which the process could have read it.
//!
//! A suspended machine is not a case of its own: `Instant` stands still with it.

use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::Mutex;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::task::unconstrained;
use tokio::time::Instant;

use crate::sync::lock;

/// Longest time for which a timer is set: what it is late by after this time is known to the second.
const TURN: Duration = Duration::from_secs(1);

/// A process that is later than this stood still. One that merely waits for a processor is not.
const LATE_MIN: Duration = Duration::from_secs(1);

/// Times out after `limit` of time in which this process runs. What has arrived is received first.
///
/// # Errors
/// `future` did not complete in time.
pub(crate) async fn timeout<F: Future>(limit: Duration, future: F) -> Result<F::Output, Elapsed> {
    let mut future = pin!(future);
    tokio::select! {
        biased;
        output = &mut future => Ok(output),
        () = Sleep::new(limit) => Err(Elapsed),
    }
}

/// A future did not complete in time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Elapsed;

/// Completes after some time in which this process ran.
#[derive(Debug)]
pub(crate) struct Sleep {
    /// Set for a part of `remaining`, at most [`TURN`].
    timer: Pin<Box<tokio::time::Sleep>>,
    part: Duration,
    remaining: Duration,
}

impl Sleep {
    pub fn new(duration: Duration) -> Self {
        let part = duration.min(TURN);
        Self { timer: Box::pin(tokio::time::sleep(part)), part, remaining: duration }
    }

    /// Starts again, with another duration.
    pub fn reset(&mut self, duration: Duration) {
        self.remaining = duration;
        self.part = duration.min(TURN);
        self.timer.as_mut().reset(Instant::now() + self.part);
    }
}

impl Future for Sleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            // Also where what is timed has used up the task's budget, as one that is always ready does.
            ready!(pin!(unconstrained(self.timer.as_mut())).poll(cx));
            if Instant::now().duration_since(self.timer.deadline()) >= LATE_MIN {
                // What has arrived meanwhile has a whole turn to be read.
                let remaining = self.remaining.max(TURN);
                self.reset(remaining);
            } else {
                let remaining = self.remaining - self.part;
                if remaining.is_zero() {
                    return Poll::Ready(());
                }
                self.reset(remaining);
            }
        }
    }
}

/// Notices a standstill in a loop that takes a turn at least every second.
#[derive(Debug)]
pub(crate) struct Turns {
    due: Instant,
}

impl Turns {
    pub fn new(now: Instant) -> Self {
        Self { due: now }
    }

    /// Returns when the next turn must be taken at the latest.
    pub fn longest(now: Instant) -> Instant {
        now + TURN
    }

    /// The next turn will be taken at `at`.
    pub fn until(&mut self, at: Instant) {
        self.due = at;
    }

    /// A turn is taken, or ends. Returns whether the process stood still before.
    pub fn stood_still(&mut self, now: Instant) -> bool {
        let late = now.saturating_duration_since(std::mem::replace(&mut self.due, now));
        late >= LATE_MIN
    }
}

/// A clock that stands still with this process. It does so only while it is kept by [`Clock::keep`].
#[derive(Debug)]
pub(crate) struct Clock {
    latest: Mutex<Reading>,
}

/// What the clock showed at an instant.
#[derive(Debug, Clone, Copy)]
struct Reading {
    at: std::time::Instant,
    elapsed: Duration,
    /// Whether the clock is kept, so that it is read again within [`TURN`].
    is_kept: bool,
}

impl Clock {
    pub fn new(now: std::time::Instant) -> Self {
        Self { latest: Mutex::new(Reading { at: now, elapsed: Duration::ZERO, is_kept: false }) }
    }

    /// Returns what the clock showed at `at`, which is now or was a moment ago.
    pub fn elapsed(&self, at: std::time::Instant) -> Duration {
        lock(&self.latest).elapsed(at)
    }

    /// Keeps the clock until the future is dropped.
    pub async fn keep(&self) {
        /// Behind it the clock must go on alone.
        struct Kept<'c>(&'c Clock);
        impl Drop for Kept<'_> {
            fn drop(&mut self) {
                self.0.read(std::time::Instant::now(), false);
            }
        }
        let kept = Kept(self);
        loop {
            kept.0.read(std::time::Instant::now(), true);
            tokio::time::sleep(TURN).await;
        }
    }

    fn read(&self, now: std::time::Instant, is_kept: bool) {
        let mut latest = lock(&self.latest);
        *latest = Reading { at: now, elapsed: latest.elapsed(now), is_kept };
    }
}

impl Reading {
    fn elapsed(&self, at: std::time::Instant) -> Duration {
        let Some(since) = at.checked_duration_since(self.at) else {
            return self.elapsed.saturating_sub(self.at.duration_since(at));
        };
        self.elapsed + if self.is_kept { since.min(TURN + LATE_MIN) } else { since }
    }
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use super::*;

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[tokio::test(start_paused = true)]
    async fn a_timeout_is_over_after_its_limit() {
        for limit in [Duration::ZERO, Duration::from_millis(10), seconds(1), seconds(15), Duration::from_millis(1_500)]
        {
            let began = Instant::now();
            assert_eq!(timeout(limit, pending::<()>()).await, Err(Elapsed));
            let took = began.elapsed();
            assert!(took >= limit && took <= limit + Duration::from_millis(50), "{took:?} for {limit:?}");
        }
        assert_eq!(timeout(Duration::MAX, async { 7 }).await, Ok(7));
    }

    #[tokio::test(start_paused = true)]
    async fn a_timeout_does_not_count_a_standstill() {
        let began = Instant::now();
        let waiting = tokio::spawn(timeout(seconds(15), pending::<()>()));
        tokio::time::sleep(Duration::from_millis(14_500)).await;
        tokio::time::advance(seconds(3_600)).await;
        assert_eq!(waiting.await.unwrap(), Err(Elapsed));
        // The part of a turn that remained, and a whole one to read what has arrived.
        let counted = began.elapsed() - seconds(3_600);
        assert!(counted > seconds(15) && counted < seconds(17), "{counted:?}");
    }

    #[tokio::test]
    async fn a_timeout_ends_what_uses_up_the_budget_of_its_task() {
        let endless = async {
            loop {
                tokio::task::consume_budget().await;
            }
        };
        assert_eq!(timeout(Duration::from_millis(10), endless).await, Err::<(), _>(Elapsed));
    }

    #[tokio::test(start_paused = true)]
    async fn what_arrived_in_a_standstill_is_in_time() {
        let (sender, receiver) = tokio::sync::oneshot::channel();
        let waiting = tokio::spawn(timeout(seconds(15), receiver));
        tokio::time::sleep(seconds(5)).await;
        tokio::time::advance(seconds(40)).await;
        // The process runs again, and what its peer sent meanwhile is read a moment later.
        tokio::time::sleep(Duration::from_millis(100)).await;
        sender.send(()).unwrap();
        assert_eq!(waiting.await.unwrap(), Ok(Ok(())));
    }

    #[test]
    fn a_turn_that_is_late_was_a_standstill() {
        let start = Instant::now();
        let mut turns = Turns::new(start);
        turns.until(Turns::longest(start));
        assert!(!turns.stood_still(start + TURN), "in time");
        assert!(!turns.stood_still(start + TURN + Duration::from_millis(900)), "a busy machine");
        assert!(turns.stood_still(start + seconds(20)));
        assert!(!turns.stood_still(start + seconds(20)), "only once");
    }

    #[test]
    fn a_clock_that_is_kept_stands_still_with_the_process() {
        let start = std::time::Instant::now();
        let clock = Clock::new(start);
        assert_eq!(clock.elapsed(start + seconds(30)), seconds(30), "nobody keeps it yet");
        clock.read(start, true);
        assert_eq!(clock.elapsed(start + seconds(1)), seconds(1));
        // Stopped for a minute: whoever comes first is right.
        assert_eq!(clock.elapsed(start + seconds(60)), seconds(2));
        clock.read(start + seconds(60), true);
        assert_eq!(clock.elapsed(start + seconds(61)), seconds(3));
        assert_eq!(clock.elapsed(start + seconds(59)), seconds(1), "what was received before the clock was read");
        clock.read(start + seconds(61), false);
        assert_eq!(clock.elapsed(start + seconds(161)), seconds(103), "nobody keeps it any more");
    }
}
