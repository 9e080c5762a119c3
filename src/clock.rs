//! Wall time. What is measured in intervals uses `Instant`.

#[cfg(not(target_os = "linux"))]
use std::time::{SystemTime, UNIX_EPOCH};

#[cfg(target_os = "linux")]
use rustix::time::{ClockId, clock_gettime};

/// Microseconds since the Unix epoch, as of the kernel's last tick, some milliseconds ago: wall time matters to the second
/// here, and every frame asks for it.
#[cfg(target_os = "linux")]
pub(crate) fn wall_micros() -> i64 {
    let wall = clock_gettime(ClockId::RealtimeCoarse);
    wall.tv_sec.saturating_mul(1_000_000).saturating_add(wall.tv_nsec / 1_000)
}

/// Microseconds since the Unix epoch.
#[cfg(not(target_os = "linux"))]
pub(crate) fn wall_micros() -> i64 {
    let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(wall.as_micros()).unwrap_or(i64::MAX)
}

/// Seconds since the Unix epoch.
pub(crate) fn wall_seconds() -> f64 {
    seconds(wall_micros())
}

/// Microseconds as seconds.
pub(crate) fn seconds(micros: i64) -> f64 {
    micros as f64 / 1e6
}
