//! What the receivers' clocks say about ours.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use super::series::ReceiverName;
use crate::sync::lock;

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
