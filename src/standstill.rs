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

/// What remains of a duration, of which at most [`TURN`] is waited for at a time.
#[derive(Debug, Clone, Copy)]
struct Remainder {
    part: Duration,
    whole: Duration,
}

impl Remainder {
    fn new(whole: Duration) -> Self {
        Self { part: whole.min(TURN), whole }
    }

    /// Returns what remains when the part is over and was noticed so `late`; `None` if nothing does. A part in which the
    /// process stood still does not count, and what has arrived meanwhile has a whole turn to be read.
    fn after(self, late: Duration) -> Option<Self> {
        let remaining = if late >= LATE_MIN { self.whole.max(TURN) } else { self.whole - self.part };
        (!remaining.is_zero()).then(|| Self::new(remaining))
    }
}

/// Completes after some time in which this process ran.
#[derive(Debug)]
pub(crate) struct Sleep {
    /// Set for the part of `remainder`.
    timer: Pin<Box<tokio::time::Sleep>>,
    remainder: Remainder,
}

impl Sleep {
    pub fn new(duration: Duration) -> Self {
        let remainder = Remainder::new(duration);
        Self { timer: Box::pin(tokio::time::sleep(remainder.part)), remainder }
    }

    /// Starts again, with another duration.
    pub fn reset(&mut self, duration: Duration) {
        self.wait_for(Remainder::new(duration));
    }

    fn wait_for(&mut self, remainder: Remainder) {
        self.remainder = remainder;
        self.timer.as_mut().reset(Instant::now() + remainder.part);
    }
}

impl Future for Sleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            // Also where what is timed has used up the task's budget, as one that is always ready does.
            ready!(pin!(unconstrained(self.timer.as_mut())).poll(cx));
            let late = Instant::now().duration_since(self.timer.deadline());
            match self.remainder.after(late) {
                Some(remainder) => self.wait_for(remainder),
                None => return Poll::Ready(()),
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

    /// On a clock on which each part is noticed as late as `late` says of the time that has passed: the time that is waited.
    fn waited(whole: Duration, late: impl Fn(Duration) -> Duration) -> Duration {
        let mut now = Duration::ZERO;
        let mut remainder = Some(Remainder::new(whole));
        while let Some(waits) = remainder {
            let due = now + waits.part;
            let is_late = late(due);
            now = due + is_late;
            remainder = waits.after(is_late);
        }
        now
    }

    #[test]
    fn a_duration_is_waited_for_to_its_end() {
        for whole in [Duration::ZERO, Duration::from_millis(10), TURN, Duration::from_millis(1_500), seconds(15)] {
            assert_eq!(waited(whole, |_| Duration::ZERO), whole);
        }
        let busy = Duration::from_millis(900);
        assert_eq!(waited(seconds(15), |due| if due < seconds(1) { Duration::ZERO } else { busy }), 15 * (TURN + busy));
    }

    #[test]
    fn a_standstill_is_not_a_part_of_a_duration() {
        for begins in [0, 5, 14, 15] {
            let standstill = |due: Duration| if due == seconds(begins) { seconds(3_600) } else { Duration::ZERO };
            let counted = waited(seconds(15), standstill) - if begins == 0 { Duration::ZERO } else { seconds(3_600) };
            let expected = if begins == 0 { seconds(15) } else { seconds(16) };
            assert_eq!(
                counted, expected,
                "at {begins} s: what remained, and the turn in which it stood still once more"
            );
        }
        let short = waited(Duration::from_millis(10), |due| if due < TURN { seconds(40) } else { Duration::ZERO });
        assert_eq!(short, Duration::from_millis(10) + seconds(40) + TURN, "a whole turn to read what has arrived");
    }

    #[tokio::test]
    async fn a_timeout_is_over_after_its_limit_and_not_before() {
        for limit in [Duration::ZERO, Duration::from_millis(10), Duration::from_millis(1_050)] {
            let began = Instant::now();
            assert_eq!(timeout(limit, pending::<()>()).await, Err(Elapsed));
            assert!(began.elapsed() >= limit, "{limit:?}");
        }
    }

    #[tokio::test]
    async fn what_has_arrived_is_in_time() {
        assert_eq!(timeout(Duration::ZERO, async { 7 }).await, Ok(7));
        assert_eq!(timeout(Duration::MAX, async { 7 }).await, Ok(7));
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
