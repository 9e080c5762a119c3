//! This machine's wall clock, and what the receivers' clocks say about it.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex};

use super::series::ReceiverName;
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

/// Holds ticks while this machine's clock is ahead: a sample from the future makes some receivers refuse everybody's present.
/// Clones share what is known.
#[derive(Debug, Clone, Default)]
pub struct ClockGuard(Arc<Mutex<BTreeMap<ReceiverName, ClockVerdict>>>);

impl ClockGuard {
    /// A receiver's clock was read.
    pub fn record(&self, receiver: &ReceiverName, verdict: ClockVerdict) {
        lock(&self.0).insert(receiver.clone(), verdict);
    }

    /// Nobody reads the receiver's clock any more.
    pub fn forget(&self, receiver: &ReceiverName) {
        lock(&self.0).remove(receiver);
    }

    /// Returns whether no tick may be taken: a receiver says that our clock is ahead, and none says that it is right. One whose
    /// own clock is wrong does not stop the others.
    pub fn is_ahead(&self) -> bool {
        let verdicts = lock(&self.0);
        let says = |verdict| verdicts.values().any(|given| *given == verdict);
        says(ClockVerdict::Ahead) && !says(ClockVerdict::Right)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_receiver_whose_clock_is_wrong_does_not_stop_the_others() {
        let (guard, one, other) = (ClockGuard::default(), ReceiverName::new("one"), ReceiverName::new("other"));
        assert!(!guard.is_ahead(), "nobody says so");
        guard.record(&one, ClockVerdict::Ahead);
        assert!(guard.clone().is_ahead());
        guard.record(&other, ClockVerdict::Right);
        assert!(!guard.is_ahead());
        guard.record(&other, ClockVerdict::Ahead);
        assert!(guard.is_ahead());
        guard.forget(&one);
        guard.forget(&other);
        assert!(!guard.is_ahead());
    }
}
