//! Time, as a value.

use std::time::Duration;

/// One instant on two clocks. The ledger never reads a clock: whoever calls it says when it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Now {
    /// Microseconds since the Unix epoch. Used for what outlives the process (how long ago an anomaly was listed) and
    /// for what is shown; it may jump in either direction.
    pub wall_micros: i64,
    /// Time since some fixed point of this process. Never falls. Used for the waits of seconds.
    pub elapsed: Duration,
}

impl Now {
    /// A moment at which both clocks stand `elapsed` after their zero.
    pub fn at(elapsed: Duration) -> Self {
        Self { wall_micros: i64::try_from(elapsed.as_micros()).unwrap_or(i64::MAX), elapsed }
    }
}
