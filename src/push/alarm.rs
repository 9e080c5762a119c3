//! Waiting for a time of the wall clock.

use std::time::Duration;

use super::clock::WallClock;

/// A clock that cannot be waited for is read at least this often.
const READ_INTERVAL: Duration = Duration::from_secs(1);

/// Waits while the machine may sleep. The timers of the runtime stand still meanwhile.
#[derive(Debug, Default)]
pub(super) struct Alarm {
    #[cfg(target_os = "linux")]
    timer: Option<system::Timer>,
}

impl Alarm {
    /// Returns after `pause`, of which a sleep of the machine is part, or earlier: whoever waits reads the clock again.
    pub(super) async fn wait(&mut self, wall_clock: &WallClock, pause: Duration) {
        #[cfg(target_os = "linux")]
        if wall_clock.is_of_system() && self.wait_for_system(pause).await.is_ok() {
            return;
        }
        #[cfg(not(target_os = "linux"))]
        let _ = wall_clock;
        tokio::time::sleep(pause.min(READ_INTERVAL)).await;
    }

    #[cfg(target_os = "linux")]
    async fn wait_for_system(&mut self, pause: Duration) -> std::io::Result<()> {
        let timer = match self.timer.take() {
            Some(timer) => timer,
            None => system::Timer::new()?,
        };
        self.timer.insert(timer).wait(pause).await
    }
}

#[cfg(target_os = "linux")]
mod system {
    use std::io;
    use std::os::fd::OwnedFd;
    use std::time::Duration;

    use rustix::io::read;
    use rustix::time::{
        Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime,
    };
    use tokio::io::Interest;
    use tokio::io::unix::AsyncFd;

    /// A timer of the time since the boot, sleeps included: `timerfd_create(2)`. Not one of the wall clock that ends when the clock is
    /// set: some virtual machines set theirs a hundred times a second.
    #[derive(Debug)]
    pub(super) struct Timer(AsyncFd<OwnedFd>);

    impl Timer {
        #[expect(deprecated, reason = "safe with a descriptor that nobody else can close; its successor is unsafe")]
        pub(super) fn new() -> io::Result<Self> {
            let flags = TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC;
            let timer = timerfd_create(TimerfdClockId::Boottime, flags)?;
            Ok(Self(AsyncFd::with_interest(timer, Interest::READABLE)?))
        }

        pub(super) async fn wait(&self, pause: Duration) -> io::Result<()> {
            // Zero would disarm it.
            let pause = pause.max(Duration::from_nanos(1));
            let tv_sec = i64::try_from(pause.as_secs()).unwrap_or(i64::MAX);
            let it_value = Timespec { tv_sec, tv_nsec: pause.subsec_nanos().into() };
            let once = Itimerspec { it_interval: Timespec { tv_sec: 0, tv_nsec: 0 }, it_value };
            timerfd_settime(self.0.get_ref(), TimerfdTimerFlags::empty(), &once)?;
            let mut expirations = [0; 8];
            self.0.async_io(Interest::READABLE, |timer| Ok(read(timer, &mut expirations)?)).await.map(drop)
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    #[cfg(target_os = "linux")]
    #[tokio::test]
    async fn the_system_s_clock_is_not_read_before_the_time_is_over() {
        let mut alarm = Alarm::default();
        for pause in [READ_INTERVAL + Duration::from_millis(200), Duration::ZERO, Duration::from_millis(20)] {
            let before = Instant::now();
            alarm.wait(&WallClock::default(), pause).await;
            assert!(before.elapsed() >= pause, "{pause:?}");
        }
    }

    #[tokio::test]
    async fn a_simulated_clock_is_read_again_within_a_second() {
        let wall_clock = WallClock::new(|| 0);
        tokio::time::timeout(Duration::from_secs(60), Alarm::default().wait(&wall_clock, Duration::from_secs(3_600)))
            .await
            .expect("it is read again");
    }
}
