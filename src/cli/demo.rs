//! `demo`: the bridge on a simulated feed.

use std::net::SocketAddr;

use clap::Args;
use tokio_util::sync::CancellationToken;

use super::demo_guide::guide;
use super::output::Output;
use super::{Command, CommandError, until_signal};
use crate::bridge::{Bridge, BridgeError};
use crate::demo::{DemoFeed, DemoSettings};
use crate::http::BindError;
use crate::settings::flags::{LimitFlags, LogFlags, PushFlags, WebFlags};
use crate::settings::number::within;
use crate::settings::{FeedTarget, LogSettings, Settings, SettingsError, limits, push, web};

#[derive(Debug, Args)]
pub(super) struct DemoFlags {
    /// Seed of the random numbers: the same seed gives the same invocations [range: 0 to 18446744073709551615]
    #[arg(long = "demo.seed", value_name = "NUMBER", default_value_t = 1, help_heading = "Demo")]
    #[arg(value_parser = within::<u64>(0, u64::MAX))]
    pub seed: u64,
    /// Average number of invocations per second [range: 1 to 1000]
    #[arg(long = "demo.invocations-per-second", value_name = "NUMBER", default_value_t = 4, help_heading = "Demo")]
    #[arg(value_parser = within::<u32>(1, 1000))]
    pub invocations_per_second: u32,
    #[command(flatten)]
    pub web: WebFlags,
    #[command(flatten)]
    pub push: PushFlags,
    #[command(flatten)]
    pub limits: LimitFlags,
    #[command(flatten)]
    pub log: LogFlags,
}

/// Simulated skills have an `instance` of their own at a receiver, unless another one is given: they would overwrite the series of
/// a bridge on the same machine.
fn of_demo(mut flags: PushFlags) -> PushFlags {
    let labels = &mut flags.receiver.labels;
    if !flags.urls.is_empty() && !labels.iter().any(|label| label.starts_with("instance=")) {
        labels.push("instance=demo".to_owned());
    }
    flags
}

/// Runs a simulated server, and a bridge that is subscribed to it, until a signal ends both.
#[derive(Debug, Clone, PartialEq)]
pub struct Demo {
    /// The simulated server.
    pub feed: DemoSettings,
    /// The bridge. `feeds` is empty: the feed has no URL before the simulated server has a port.
    pub bridge: Settings,
    /// Whether another port will do if the default one is in use, because no address was given.
    pub any_port: bool,
}

impl Demo {
    pub(super) fn new(flags: DemoFlags) -> Result<Self, SettingsError> {
        let any_port = flags.web.listen.addresses.is_empty();
        let feed = DemoSettings {
            seed: flags.seed,
            invocations_per_second: flags.invocations_per_second.into(),
            ..DemoSettings::default()
        };
        let ledger_limits = limits::from_flags(&flags.limits)?;
        let push = push::from_flags(of_demo(flags.push), false, ledger_limits.label_chars_max)?;
        let mut bridge = web::settings(flags.web, ledger_limits, &flags.log, Vec::new())?;
        bridge.push = push;
        if any_port {
            // One address, so that one URL is printed and the other port is as good as the default one.
            bridge.listen.truncate(1);
        }
        Ok(Self { feed, bridge, any_port })
    }

    async fn run(self, shutdown: CancellationToken) -> Result<(), CommandError> {
        let feed = DemoFeed::bind(self.feed).await.map_err(CommandError::DemoFeed)?;
        let feed_url = feed.url();
        let settings = Settings { feeds: vec![FeedTarget::new(&feed_url)?], ..self.bridge };
        let telemetry_path = settings.telemetry_path.clone();

        let mut taken = None;
        let bridge = match Bridge::bind(settings.clone()) {
            Err(BridgeError::Listen(BindError::InUse { address })) if self.any_port => {
                taken = Some(address);
                Bridge::bind(Settings { listen: vec![SocketAddr::new(address.ip(), 0)], ..settings })?
            }
            bridge => bridge?,
        }
        .with_flags_in_responses();
        if let Some(address) = bridge.local_addrs().first() {
            // The demo goes on even if nobody reads its guide, so nothing waits for the end of this.
            let output = Output::to_stdout().map_err(CommandError::Threads)?;
            let _ = output.write(guide(&feed_url, *address, &telemetry_path, taken)).await;
        }

        // The feed ends after the bridge: were it to end first, the bridge would warn of a feed that is gone.
        let bridge_ended = CancellationToken::new();
        let running = async {
            let _ended = bridge_ended.clone().drop_guard();
            bridge.run(shutdown.cancelled_owned()).await
        };
        Ok(tokio::join!(running, feed.serve(bridge_ended.clone())).0?)
    }
}

impl Command for Demo {
    fn log(&self) -> LogSettings {
        self.bridge.log
    }

    fn execute(self: Box<Self>) -> Result<(), CommandError> {
        until_signal(|shutdown| self.run(shutdown))?
    }
}
