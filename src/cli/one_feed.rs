//! The flags of commands that connect to one feed.

use clap::Args;

use crate::bridge::subscription;
use crate::feed::FeedSettings;
use crate::settings::flags::{ConnectionFlags, FEED_URL_DEFAULT, SubscriptionFlags};
use crate::settings::subscription::{Subscription, timing};
use crate::settings::{Environment, SettingsError};

#[derive(Debug, Args)]
pub(super) struct OneFeedFlags {
    /// WebSocket URL of the server
    #[arg(long = "feed.url", value_name = "URL", default_value = FEED_URL_DEFAULT, help_heading = "Feed")]
    pub url: String,
    #[command(flatten)]
    pub subscription: SubscriptionFlags,
    #[command(flatten)]
    pub connection: ConnectionFlags,
}

impl OneFeedFlags {
    /// # Errors
    /// The first setting that cannot be used.
    pub(super) fn settings(
        self,
        label_chars_max: usize,
        environment: Environment<'_>,
    ) -> Result<FeedSettings, SettingsError> {
        let Self { url, subscription: flags, connection } = self;
        let target = Subscription::new(flags, label_chars_max, environment)?.targets(&[url])?.swap_remove(0);
        Ok(subscription(&target, connection.frame_bytes_max as usize, &timing(&connection)))
    }
}
