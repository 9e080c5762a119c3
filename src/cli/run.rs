//! `run`: the bridge as a service.

use tokio::signal::unix::Signal;
use tokio_util::sync::CancellationToken;

use super::signals::take_hangups;
use super::{Command, CommandError, check, until_signal};
use crate::bridge::{Bridge, BridgeError, ReloadHandle};
use crate::service_manager;
use crate::settings::flags::RunFlags;
use crate::settings::{self, Environment, LogSettings, Settings, SettingsError};

/// Runs the bridge until a signal ends it. systemd is notified, and SIGHUP reloads the configuration file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Run {
    /// The validated settings.
    pub settings: Settings,
}

/// Returns the bridge, or the result of `--config.check`.
///
/// # Errors
/// The first setting that cannot be used.
pub(super) fn command(flags: RunFlags, environment: Environment<'_>) -> Result<Box<dyn Command>, SettingsError> {
    if flags.config.check {
        return check::of_config_file(flags, environment);
    }
    Ok(Box::new(Run { settings: settings::run::settings(flags, environment)? }))
}

impl Run {
    async fn run(self, shutdown: CancellationToken) -> Result<(), BridgeError> {
        let bridge = Bridge::bind(self.settings)?.with_flags_in_responses();
        // It listens already: whoever connects now is answered as soon as the first task runs.
        let notifying = service_manager::notify_systemd(shutdown.clone());
        if let Some(hangups) = take_hangups() {
            tokio::spawn(reload_on_hangup(hangups, bridge.reload_handle(), shutdown.clone()));
        }
        let ended = bridge.run(shutdown.clone().cancelled_owned()).await;
        shutdown.cancel();
        let _ = notifying.await;
        ended
    }
}

impl Command for Run {
    fn log(&self) -> LogSettings {
        self.settings.log
    }

    fn is_service(&self) -> bool {
        true
    }

    fn execute(self: Box<Self>) -> Result<(), CommandError> {
        Ok(until_signal(|shutdown| self.run(shutdown))??)
    }
}

async fn reload_on_hangup(mut hangups: Signal, handle: ReloadHandle, shutdown: CancellationToken) {
    while let Some(Some(())) = shutdown.run_until_cancelled(hangups.recv()).await {
        handle.reload();
    }
}
