//! When ticks are due, and the task that takes them. [`Schedule`] is pure: the time is passed in.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use jiff::Timestamp;
use tokio::task::JoinHandle;
use tracing::{debug, info, warn};

use super::alarm::Alarm;
use super::clock::WallClock;
use super::gatherer::OwnGatherer;
use super::handle::{QueueError, QueueHandle, TickOutcome};
use super::identity::Identity;
use super::listener::ReceiverListener;
use super::series::{OwnSample, TickKind, TickTime};
use crate::lent_registry::LentRegistry;
use crate::standstill::timeout;
use crate::sync::lock;

/// A tick that could not be taken is tried again after this time.
const RETRY_INTERVAL: Duration = Duration::from_secs(5);

/// A wait for a tick is longer by one part in so many, up to [`SLACK_MAX`]: a wall clock that is set again and again while its machine
/// waits, as those of some virtual machines are, would have the alarm ring before the tick, and whoever waits wake twice.
const SLACK_PART: u32 = 1_000;

/// By so much a tick that is waited for is late.
const SLACK_MAX: Duration = Duration::from_millis(100);

/// Time for the collectors of a registry. After it, a tick has the values that they had before.
const GATHER_TIMEOUT: Duration = Duration::from_secs(5);

/// The same for the last tick of a process, which has to be sent within 3 s.
const LAST_GATHER_TIMEOUT: Duration = Duration::from_secs(1);

const COLLECTOR_PANICKED: &str = "a collector panicked";

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
    /// Read the clock again after this time, and after a sleep of the machine.
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
        if self.taken != Some(latest) {
            return Wait::Take(latest);
        }
        let left = self.grid.until_next(now_millis);
        Wait::For(left + (left / SLACK_PART).min(SLACK_MAX))
    }

    /// The tick at `time` was taken, or there is none to take. One that failed is still due.
    pub fn took(&mut self, time: TickTime) {
        self.taken = Some(time);
    }
}

/// Takes the ticks of a queue, whatever receivers say of this machine's clock: a tick of a clock that is ahead is not sent, and
/// merged into the first one of the right time.
pub struct Ticker {
    handle: QueueHandle,
    schedule: Schedule,
    /// Gathers what is sampled at each tick beside the five families; `None` if no receiver wants it.
    own: Option<Own>,
    /// Gathers on a thread of its own, because a collector may block. One that took too long is still here.
    gathering: Option<JoinHandle<Vec<OwnSample>>>,
    /// What was gathered last.
    gathered: Vec<OwnSample>,
    wall_clock: WallClock,
    alarm: Alarm,
    /// Of the receivers of the queue.
    listeners: Vec<Arc<dyn ReceiverListener>>,
    is_failing: bool,
    is_behind: bool,
    is_blocked: bool,
}

/// A registry, and what gathers it.
struct Own {
    registry: Arc<LentRegistry>,
    gatherer: Arc<Mutex<OwnGatherer>>,
}

impl Own {
    fn new(registry: Arc<LentRegistry>) -> Self {
        let gatherer = Arc::new(Mutex::new(OwnGatherer::new(registry.own().clone())));
        Self { registry, gatherer }
    }
}

impl Ticker {
    /// Creates a ticker that has taken no tick.
    pub fn new(
        handle: QueueHandle,
        grid: Grid,
        registry: Option<Arc<LentRegistry>>,
        wall_clock: WallClock,
        listeners: Vec<Arc<dyn ReceiverListener>>,
    ) -> Self {
        let own = registry.map(Own::new);
        let (schedule, alarm) = (Schedule::new(grid), Alarm::default());
        Self {
            handle,
            schedule,
            own,
            gathering: None,
            gathered: Vec::new(),
            wall_clock,
            alarm,
            listeners,
            is_failing: false,
            is_behind: false,
            is_blocked: false,
        }
    }

    /// Returns this ticker with another grid, other `listeners`, and `registry`, which is the former one or `None`. What was gathered
    /// before a collector blocked stays, so that its series do not end.
    pub fn reconfigured(
        self,
        grid: Grid,
        registry: Option<Arc<LentRegistry>>,
        listeners: Vec<Arc<dyn ReceiverListener>>,
    ) -> Self {
        let former = Self { schedule: Schedule::new(grid), listeners, ..self };
        if former.own.is_some() && registry.is_some() {
            return former;
        }
        let own = registry.map(Own::new);
        Self { own, gathering: None, gathered: Vec::new(), is_blocked: false, ..former }
    }

    /// Takes ticks until the thread of the queue ends, or the future is dropped.
    pub async fn run(&mut self) {
        loop {
            let pause = match self.schedule.next(self.wall_clock.millis()) {
                Wait::For(pause) => {
                    self.alarm.wait(&self.wall_clock, pause).await;
                    continue;
                }
                Wait::Take(time) => match self.take(time, TickKind::Regular).await {
                    Ok(()) => {
                        self.schedule.took(time);
                        continue;
                    }
                    Err(QueueError::Ended) => return,
                    Err(_) => RETRY_INTERVAL,
                },
            };
            tokio::time::sleep(pause).await;
        }
    }

    /// Takes the last tick of this process. One that fails is logged and not tried again.
    pub async fn take_last(&mut self) {
        let _ = self.take(TickTime::from_millis(self.wall_clock.millis()), TickKind::Final).await;
    }

    async fn take(&mut self, time: TickTime, kind: TickKind) -> Result<(), QueueError> {
        let limit = match kind {
            TickKind::Regular => GATHER_TIMEOUT,
            TickKind::Final => LAST_GATHER_TIMEOUT,
        };
        self.gather(limit).await;
        let mut taken = self.handle.take_tick(time, self.gathered.clone(), kind).await;
        if matches!(taken, Err(QueueError::Emptied)) {
            taken = self.handle.take_tick(time, self.gathered.clone(), kind).await;
        }
        match &taken {
            Ok(outcome) => {
                self.report(*outcome);
                if std::mem::take(&mut self.is_failing) {
                    info!("push queue takes ticks again; no count was lost");
                }
            }
            // The bridge ends.
            Err(QueueError::Ended) => {}
            Err(error) => {
                match std::mem::replace(&mut self.is_failing, true) {
                    true => debug!(%error, "tick not queued"),
                    false => warn!(%error, "tick not queued; the next queued tick contains every change"),
                }
                let problem = format!("no tick is queued: {error}");
                self.listeners.iter().for_each(|listener| listener.stalled(&problem));
            }
        }
        taken.map(drop)
    }

    /// Reports a clock that is behind a tick that a receiver has answered for: to the log once, to the receivers at each tick, since
    /// one that still gets earlier ticks seems to be well.
    fn report(&mut self, outcome: TickOutcome) {
        match outcome {
            TickOutcome::BehindAnswered(answered) => {
                let until = Timestamp::from_millisecond(answered.millis())
                    .map_or_else(|_| format!("{} ms", answered.millis()), |time| time.to_string());
                if !std::mem::replace(&mut self.is_behind, true) {
                    warn!(until, "clock was set back behind a pushed tick; no tick is queued until then");
                }
                let problem = format!("the clock was set back behind a pushed tick: no tick is queued until {until}");
                self.listeners.iter().for_each(|listener| listener.stalled(&problem));
            }
            TickOutcome::Queued if std::mem::take(&mut self.is_behind) => {
                info!("clock has passed the pushed tick; ticks are queued")
            }
            TickOutcome::Queued | TickOutcome::NotDue => {}
        }
    }

    /// Gathers what is sampled beside the five families. A collector that an embedding program registered may block, or panic: what was
    /// gathered before stays then, since the five families have to be queued.
    async fn gather(&mut self, limit: Duration) {
        let Self { own: Some(Own { registry, gatherer }), gathering, .. } = self else { return };
        let gathered = if gathering.is_none() && !registry.is_lent() {
            catch_unwind(AssertUnwindSafe(|| lock(gatherer).gather())).map_err(|_| COLLECTOR_PANICKED)
        } else {
            let gathered = timeout(limit, async {
                if let Some(late) = gathering {
                    // Of a tick that has gone without it.
                    let _ = late.await;
                }
                let gatherer = Arc::clone(gatherer);
                gathering.insert(tokio::task::spawn_blocking(move || lock(&gatherer).gather())).await
            });
            match gathered.await {
                Ok(gathered) => {
                    self.gathering = None;
                    gathered.map_err(|_| COLLECTOR_PANICKED)
                }
                Err(_) => Err("a collector takes too long"),
            }
        };
        let problem = gathered.map(|gathered| self.gathered = gathered).err();
        match (problem, std::mem::replace(&mut self.is_blocked, problem.is_some())) {
            (Some(problem), false) => {
                warn!(problem, "metrics of this process not gathered; ticks have their last values, and every count")
            }
            (None, true) => info!("metrics of this process are gathered again"),
            (Some(_), true) | (None, false) => {}
        }
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
        assert_eq!(schedule.next(start), Wait::For(Duration::from_micros(51_551_500)));
        assert_eq!(schedule.next(1_795_341_601_400), Wait::For(Duration::from_micros(100_100)));
        assert_eq!(schedule.next(1_795_341_601_500), Wait::Take(TickTime::from_millis(1_795_341_601_500)));
    }

    #[test]
    fn a_tick_is_due_when_a_wait_is_over_by_a_clock_that_is_being_set() {
        let grid = grid();
        for millis in [1_500, 1_501, 31_400, 61_400, 61_499] {
            let mut schedule = Schedule::new(grid);
            schedule.took(grid.latest(millis));
            let Wait::For(pause) = schedule.next(millis) else { panic!("it was taken") };
            for ppm in [-500.0, 0.0, 500.0] {
                let passed = pause.as_secs_f64() * (1.0 + ppm / 1e6) * 1e3;
                let woken = millis + passed as i64;
                assert_eq!(schedule.next(woken), Wait::Take(TickTime::from_millis(61_500)), "{millis} {ppm}");
            }
        }
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
