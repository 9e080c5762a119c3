//! When ticks are due. Pure: the time is passed in.

use std::time::Duration;

use super::identity::Identity;
use super::series::TickTime;

/// The clock is read at least this often: timers stand still while the machine sleeps.
const READ_INTERVAL: Duration = Duration::from_secs(1);

/// A tick that could not be taken is tried again after this time.
const RETRY_INTERVAL: Duration = Duration::from_secs(5);

/// The times of ticks: `k * interval + hash(identity) mod interval`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Grid {
    interval_millis: i64,
    offset_millis: i64,
}

impl Grid {
    /// Returns the grid of an identity. An interval below a millisecond is one.
    pub fn new(interval: Duration, identity: Identity) -> Self {
        let interval_millis = i64::try_from(interval.as_millis()).unwrap_or(i64::MAX).max(1);
        let offset_millis = (identity.hash() % interval_millis.unsigned_abs()) as i64;
        Self { interval_millis, offset_millis }
    }

    /// Returns the latest tick that is not after `now_millis`, in milliseconds since the Unix epoch.
    pub fn latest(self, now_millis: i64) -> TickTime {
        let since = (now_millis - self.offset_millis).rem_euclid(self.interval_millis);
        TickTime::from_millis(now_millis - since)
    }

    /// Returns the time until the next tick.
    pub fn until_next(self, now_millis: i64) -> Duration {
        let since = now_millis - self.latest(now_millis).millis();
        Duration::from_millis((self.interval_millis - since).unsigned_abs())
    }
}

/// What to do at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wait {
    /// Take this tick now.
    Take(TickTime),
    /// Read the clock again after this time.
    For(Duration),
}

/// Which ticks of a grid were taken.
#[derive(Debug, Clone, Copy)]
pub struct Schedule {
    grid: Grid,
    taken: Option<TickTime>,
}

impl Schedule {
    /// Creates a schedule of which no tick is taken: the latest that has passed is due at once.
    pub fn new(grid: Grid) -> Self {
        Self { grid, taken: None }
    }

    /// Returns what to do at `now_millis`. After a sleep of the machine, and after the clock was set, the latest tick that has
    /// passed is due at once; the queue decides about one that lies before its newest.
    pub fn next(&self, now_millis: i64) -> Wait {
        let latest = self.grid.latest(now_millis);
        if self.taken == Some(latest) {
            Wait::For(self.grid.until_next(now_millis).min(READ_INTERVAL))
        } else {
            Wait::Take(latest)
        }
    }

    /// The tick at `time` was taken, or there is none to take. Not called for one that failed: see [`Schedule::retry_after`].
    pub fn took(&mut self, time: TickTime) {
        self.taken = Some(time);
    }

    /// Returns after which time a tick that failed is tried again.
    pub fn retry_after(&self) -> Duration {
        RETRY_INTERVAL
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const INTERVAL: Duration = Duration::from_secs(60);

    fn grid() -> Grid {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&61_500_u64.to_le_bytes());
        Grid::new(INTERVAL, Identity::from_bytes(bytes))
    }

    #[test]
    fn ticks_lie_on_the_grid_of_the_identity() {
        let grid = grid();
        assert_eq!(grid.latest(1_500).millis(), 1_500);
        assert_eq!(grid.latest(1_499).millis(), -58_500);
        assert_eq!(grid.latest(1_795_341_601_000).millis(), 1_795_341_541_500);
        assert_eq!(grid.until_next(1_795_341_601_000), Duration::from_millis(500));
        assert_eq!(grid.until_next(1_500), INTERVAL);
    }

    #[test]
    fn the_latest_tick_is_due_at_the_start_and_each_tick_once() {
        let mut schedule = Schedule::new(grid());
        let start = 1_795_341_550_000;
        let first = TickTime::from_millis(1_795_341_541_500);
        assert_eq!(schedule.next(start), Wait::Take(first));
        assert_eq!(schedule.next(start), Wait::Take(first), "until it is taken");
        schedule.took(first);
        assert_eq!(schedule.next(start), Wait::For(READ_INTERVAL));
        assert_eq!(schedule.next(1_795_341_601_400), Wait::For(Duration::from_millis(100)));
        assert_eq!(schedule.next(1_795_341_601_500), Wait::Take(TickTime::from_millis(1_795_341_601_500)));
    }

    #[test]
    fn after_a_sleep_or_a_change_of_the_clock_one_tick_is_due_at_once() {
        let mut schedule = Schedule::new(grid());
        let now = 1_795_341_541_500;
        schedule.took(TickTime::from_millis(now));
        for hours in [8, 2, -2] {
            let later = now + hours * 3_600_000 + 5;
            assert_eq!(schedule.next(later), Wait::Take(TickTime::from_millis(later - 5)), "{hours}");
        }
    }
}
