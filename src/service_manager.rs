//! What systemd is told: ready once the bridge listens, alive as long as its event loop turns, and when it ends.
//!
//! Without `NOTIFY_SOCKET` in the environment nobody is told anything.

use std::time::Duration;

use sd_notify::NotifyState;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// Says that the bridge listens, and goes on to say that it lives, twice as often as `WatchdogSec=` asks for, until
/// `shutdown`; then that it ends. To be called on the event loop whose life it tells of.
pub(crate) fn notify_systemd(shutdown: CancellationToken) -> JoinHandle<()> {
    tell(&[NotifyState::Ready]);
    let interval = sd_notify::watchdog_enabled().map(|timeout| timeout / 2).filter(|interval| !interval.is_zero());
    tokio::spawn(async move {
        // Without a watchdog there is nothing to say before the end.
        let interval = interval.unwrap_or(Duration::MAX);
        while tokio::time::timeout(interval, shutdown.cancelled()).await.is_err() {
            tell(&[NotifyState::Watchdog]);
        }
        tell(&[NotifyState::Stopping]);
    })
}

fn tell(state: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        tracing::warn!(%error, "the service manager cannot be told how the bridge is");
    }
}
