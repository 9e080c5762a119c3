//! Notifications to systemd: `READY=1` once the bridge listens, `WATCHDOG=1` while its event loop runs, `STOPPING=1` when it
//! ends. Source: sd_notify(3). Without `NOTIFY_SOCKET` in the environment nothing is sent.

use std::time::Duration;

use sd_notify::NotifyState;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// Sends `READY=1`, then `WATCHDOG=1` twice in each `WatchdogSec=` until `shutdown`, then `STOPPING=1`. To be called on the
/// event loop that the watchdog watches.
pub(crate) fn notify_systemd(shutdown: CancellationToken) -> JoinHandle<()> {
    notify(&[NotifyState::Ready]);
    let interval = sd_notify::watchdog_enabled().map(|timeout| timeout / 2).filter(|interval| !interval.is_zero());
    tokio::spawn(async move {
        // Without a watchdog there is nothing to send before the end.
        let interval = interval.unwrap_or(Duration::MAX);
        while tokio::time::timeout(interval, shutdown.cancelled()).await.is_err() {
            notify(&[NotifyState::Watchdog]);
        }
        notify(&[NotifyState::Stopping]);
    })
}

fn notify(state: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        tracing::warn!(%error, "cannot notify the service manager");
    }
}
