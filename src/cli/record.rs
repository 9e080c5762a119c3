//! `record`: what a feed sends, into a file.

use std::borrow::Cow;
use std::fs::{self, File};
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use thiserror::Error;
use tokio_util::sync::CancellationToken;

use super::feed_tap::{FeedEvent, FeedTap};
use super::one_feed::OneFeedFlags;
use super::output::Output;
use super::{Command, CommandError, until_signal};
use crate::feed::{DisconnectReason, FeedSettings, FeedState};
use crate::ledger::Limits;
use crate::recording::{ConnectionEvent, Line};
use crate::settings::flags::LogFlags;
use crate::settings::number::within;
use crate::settings::{Environment, LogSettings, SettingsError};

#[derive(Debug, Args)]
pub(super) struct RecordFlags {
    /// The file to write; it must not exist yet
    pub file: PathBuf,
    /// How long to receive [range: 1 to 86400]
    #[arg(long, value_name = "NUMBER", default_value_t = 60, value_parser = within::<u64>(1, 86_400))]
    pub seconds: u64,
    #[command(flatten)]
    pub feed: OneFeedFlags,
    #[command(flatten)]
    pub log: LogFlags,
}

/// Writes what a feed sends to a file, line by line, until the time is over or a signal ends it. An existing file is not
/// overwritten, and one without a frame is not left behind.
#[derive(Debug, Clone)]
pub struct Record {
    /// The file to write.
    pub file: PathBuf,
    /// How long to receive.
    pub duration: Duration,
    /// The feed.
    pub feed: FeedSettings,
    /// What is logged, and how.
    pub log: LogSettings,
}

impl Record {
    pub(super) fn new(flags: RecordFlags, environment: Environment<'_>) -> Result<Self, SettingsError> {
        Ok(Self {
            file: flags.file,
            duration: Duration::from_secs(flags.seconds),
            feed: flags.feed.settings(Limits::default().label_chars_max, environment)?,
            log: flags.log.settings(),
        })
    }
}

impl Command for Record {
    fn log(&self) -> LogSettings {
        self.log
    }

    fn execute(self: Box<Self>) -> Result<(), CommandError> {
        let Self { file: path, duration, feed, .. } = *self;
        let failed = |source| CommandError::File { file: path.clone(), source };
        let file = File::create_new(&path).map_err(|error| match error.kind() {
            io::ErrorKind::AlreadyExists => CommandError::FileExists { file: path.clone() },
            _ => failed(error),
        })?;
        let identity = feed.identity.clone();
        tracing::info!(feed = %identity, file = %path.display(), "recording");
        let recorder = Recorder { identity: identity.clone(), frames: 0, latest: SilentFeed::NoConnection };
        let recorder = until_signal(|shutdown| recorder.run(feed, duration, file, shutdown))??.map_err(failed)?;
        if recorder.frames == 0 {
            fs::remove_file(&path).map_err(failed)?;
            return Err(CommandError::NothingReceived { identity, source: recorder.latest });
        }
        tracing::info!(feed = %identity, frames = recorder.frames, file = %path.display(), "recorded");
        Ok(())
    }
}

/// Why a feed sent no frame.
#[derive(Debug, Clone, PartialEq, Error)]
pub enum SilentFeed {
    /// No connection yet, and no error either.
    #[error("no connection was established")]
    NoConnection,
    /// It is connected.
    #[error("it is connected and silent")]
    Connected,
    /// The latest attempt to connect ended.
    #[error(transparent)]
    Ended(#[from] DisconnectReason),
}

/// Turns the events of a feed into the lines of a recording.
struct Recorder {
    identity: String,
    frames: u64,
    latest: SilentFeed,
}

impl Recorder {
    /// Writes to `file` for `duration` or until `shutdown`. The inner error is of the file.
    async fn run(
        mut self,
        feed: FeedSettings,
        duration: Duration,
        file: File,
        shutdown: CancellationToken,
    ) -> Result<io::Result<Self>, CommandError> {
        let output = Output::to_file(file).map_err(CommandError::Threads)?;
        let mut tap = FeedTap::open(feed, duration, &shutdown);
        // Over when the time is up or a signal ends the feed, and everything received by then is written; or when the file
        // takes no more.
        while let Some((at, event)) = tap.next().await {
            if let Some(line) = self.line(at, event)
                && output.write(line).await.is_err()
            {
                break;
            }
        }
        tap.close().await?;
        Ok(output.finish().await.map(|()| self))
    }

    /// Returns the line of an event; `None` for those that are not recorded.
    fn line(&mut self, at: Duration, event: FeedEvent) -> Option<Vec<u8>> {
        let feed = &self.identity;
        let (frame, event, code) = match &event {
            FeedEvent::Opened => (None, Some(ConnectionEvent::Open), None),
            FeedEvent::Text(frame) => {
                self.frames += 1;
                (Some(Cow::Borrowed(frame.as_str())), None, None)
            }
            FeedEvent::Closed(reason) => {
                tracing::info!(feed, code = reason.code(), %reason, "disconnected");
                (None, Some(ConnectionEvent::Close), reason.code().parse().ok())
            }
            FeedEvent::Binary { bytes } => {
                tracing::warn!(feed, bytes, "binary frame not recorded; feeds send text");
                return None;
            }
            FeedEvent::State(state) => {
                match state {
                    FeedState::Waiting { reason, .. } | FeedState::Refused { reason, .. } => {
                        tracing::warn!(feed, "{state}");
                        self.latest = SilentFeed::Ended(reason.clone());
                    }
                    FeedState::Opened => {
                        tracing::debug!(feed, "{state}");
                        self.latest = SilentFeed::Connected;
                    }
                    _ => tracing::debug!(feed, "{state}"),
                }
                return None;
            }
        };
        let millis = u32::try_from(at.as_millis()).unwrap_or(u32::MAX);
        let line = Line { at_seconds: f64::from(millis) / 1000.0, frame, event, code };
        let mut text = serde_json::to_vec(&line).expect("a line has only string keys, and numbers that JSON has");
        text.push(b'\n');
        Some(text)
    }
}
