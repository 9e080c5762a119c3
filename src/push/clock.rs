//! This machine's wall clock, and what the receivers' clocks say about it.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crate::clock;
use crate::sync::lock;

/// This machine's wall clock, by which ticks are due and a sleep of the machine is noticed.
#[derive(Clone)]
pub struct WallClock {
    read: Arc<dyn Fn() -> i64 + Send + Sync>,
    is_of_system: bool,
}

impl WallClock {
    /// Creates a clock that `read` reads, in microseconds since the Unix epoch.
    pub fn new(read: impl Fn() -> i64 + Send + Sync + 'static) -> Self {
        Self { read: Arc::new(read), is_of_system: false }
    }

    /// Returns milliseconds since the Unix epoch.
    pub(super) fn millis(&self) -> i64 {
        (self.read)() / 1_000
    }

    /// Returns seconds since the Unix epoch.
    pub(super) fn seconds(&self) -> f64 {
        clock::seconds((self.read)())
    }

    /// Returns whether it is the system's, which can be waited for.
    pub(super) fn is_of_system(&self) -> bool {
        self.is_of_system
    }
}

impl Default for WallClock {
    /// The system's.
    fn default() -> Self {
        Self { is_of_system: true, ..Self::new(clock::wall_micros) }
    }
}

impl fmt::Debug for WallClock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "WallClock({})", (self.read)())
    }
}

/// What a receiver's clock says about ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClockVerdict {
    /// The two agree to the minute, or ours is behind: a sample is not from the future.
    Right,
    /// Ours is ahead by more than a minute.
    Ahead,
}

/// A verdict that is older says nothing any more. A sender that nothing is sent by because of one tries its receiver again after 5
/// minutes at most: one that was not given again in twice that time is of a receiver that does not answer.
const VERDICT_MAX: Duration = Duration::from_secs(600);

/// What the receivers' clocks say about ours, for those whose answers have no `Date`. Clones share what is known.
#[derive(Debug, Clone, Default)]
pub struct ClockGuard(Arc<Mutex<Verdicts>>);

#[derive(Debug, Default)]
struct Verdicts {
    witnesses: u64,
    /// By witness: the last verdict, and when it was given.
    given: BTreeMap<u64, (ClockVerdict, Instant)>,
}

/// One sender's view of a [`ClockGuard`]. Its verdict ends with it.
#[derive(Debug)]
pub struct ClockWitness {
    verdicts: Arc<Mutex<Verdicts>>,
    id: u64,
}

impl ClockGuard {
    /// Creates a witness that has given no verdict.
    pub fn witness(&self) -> ClockWitness {
        let mut verdicts = lock(&self.0);
        verdicts.witnesses += 1;
        ClockWitness { verdicts: Arc::clone(&self.0), id: verdicts.witnesses }
    }
}

impl ClockWitness {
    /// The receiver's clock was read `now`.
    pub fn record(&self, verdict: ClockVerdict, now: Instant) {
        lock(&self.verdicts).given.insert(self.id, (verdict, now));
    }

    /// Returns whether our clock is ahead, so that nothing may be sent: by the receiver's own clock where its answers have a
    /// `Date`, else if another receiver says so and none that it is right.
    pub fn is_ahead(&self, now: Instant) -> bool {
        let verdicts = lock(&self.verdicts);
        let is_valid = |given: Instant| now.saturating_duration_since(given) < VERDICT_MAX;
        let valid = |(verdict, given): &(ClockVerdict, Instant)| is_valid(*given).then_some(*verdict);
        match verdicts.given.get(&self.id).and_then(valid) {
            Some(own) => own == ClockVerdict::Ahead,
            None => {
                let says = |verdict| verdicts.given.values().filter_map(valid).any(|given| given == verdict);
                says(ClockVerdict::Ahead) && !says(ClockVerdict::Right)
            }
        }
    }
}

impl Drop for ClockWitness {
    fn drop(&mut self) {
        lock(&self.verdicts).given.remove(&self.id);
    }
}

/// When something happened, by two clocks: the wall clock's can be set, and the other one stands still while the machine sleeps.
#[derive(Debug, Clone, Copy)]
pub(super) struct WallMoment {
    wall_millis: i64,
    monotonic: Instant,
}

/// The two clocks differ by so much after a sleep of the machine, or if the wall clock was set. Less is what a correction of it
/// and a process that does not run for a while can account for.
const SET_MIN: Duration = Duration::from_secs(10);

impl WallMoment {
    pub(super) fn now(wall_clock: &WallClock) -> Self {
        Self { wall_millis: wall_clock.millis(), monotonic: Instant::now() }
    }

    /// Returns the time from this moment to `later`, sleeps of the machine left out.
    pub(super) fn until(self, later: Self) -> Duration {
        later.monotonic.saturating_duration_since(self.monotonic)
    }

    /// Returns whether the machine has slept, or the wall clock was set, between this moment and `later`.
    pub(super) fn was_set_until(self, later: Self) -> bool {
        let passed_millis = i64::try_from(self.until(later).as_millis()).unwrap_or(i64::MAX);
        let wall_millis = later.wall_millis.saturating_sub(self.wall_millis);
        u128::from(wall_millis.abs_diff(passed_millis)) >= SET_MIN.as_millis()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_receiver_whose_clock_is_wrong_does_not_stop_the_others() {
        let (guard, now) = (ClockGuard::default(), Instant::now());
        let [one, other, silent] = [(); 3].map(|()| guard.witness());
        assert!(!silent.is_ahead(now), "nobody says so");
        one.record(ClockVerdict::Ahead, now);
        assert!(one.is_ahead(now) && other.is_ahead(now) && silent.is_ahead(now));
        other.record(ClockVerdict::Right, now);
        assert!(one.is_ahead(now), "its own clock decides");
        assert!(!other.is_ahead(now) && !silent.is_ahead(now));
        other.record(ClockVerdict::Ahead, now);
        assert!(silent.is_ahead(now));
    }

    #[test]
    fn a_verdict_ends_with_its_sender_and_with_no_other_and_expires() {
        let (guard, now) = (ClockGuard::default(), Instant::now());
        let (stopped, successor, silent) = (guard.witness(), guard.witness(), guard.witness());
        stopped.record(ClockVerdict::Right, now);
        successor.record(ClockVerdict::Ahead, now);
        assert!(!silent.is_ahead(now));
        drop(stopped);
        assert!(silent.is_ahead(now), "what the successor knows stays");
        assert!(silent.is_ahead(now + VERDICT_MAX - Duration::from_secs(1)));
        assert!(!silent.is_ahead(now + VERDICT_MAX) && !successor.is_ahead(now + VERDICT_MAX));
        drop(successor);
        assert!(!silent.is_ahead(now));
    }

    #[test]
    fn a_clock_that_was_set_is_told_from_time_that_has_passed() {
        let (wall_millis, monotonic) = (1_795_341_601_000, Instant::now());
        let at = |wall_seconds: i64, seconds: u64| WallMoment {
            wall_millis: wall_millis + wall_seconds * 1_000,
            monotonic: monotonic + Duration::from_secs(seconds),
        };
        for (wall, passed, was_set) in [
            (0, 0, false),
            (3_600, 3_600, false),
            (3_609, 3_600, false),
            (3_610, 3_600, true),
            (8 * 3_600, 1, true),
            (-10, 0, true),
            (-7_200, 60, true),
        ] {
            assert_eq!(at(0, 0).was_set_until(at(wall, passed)), was_set, "{wall} {passed}");
            assert_eq!(at(0, 0).until(at(wall, passed)), Duration::from_secs(passed));
        }
    }
}
