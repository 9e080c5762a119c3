//! `explain`: what each message changes, and by which rule.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use clap::Args;
use tokio_util::sync::CancellationToken;

use super::explanation::Explainer;
use super::feed_tap::{FeedEvent, FeedTap};
use super::one_feed::OneFeedFlags;
use super::output::{Output, print};
use super::recording_file::RecordingFile;
use super::{Command, CommandError, until_signal};
use crate::feed::{DisconnectReason, FeedSettings};
use crate::ledger::Limits;
use crate::recording::{self, ConnectionEvent, RecordingError};
use crate::settings::flags::{LimitFlags, LogFlags};
use crate::settings::number::within;
use crate::settings::subscription::checked_name;
use crate::settings::{Environment, LogSettings, SettingsError, limits};

/// How often pending events and increases are checked while nothing is received.
const PASS_EVERY: Duration = Duration::from_secs(1);

#[derive(Debug, Args)]
pub(super) struct ExplainFlags {
    /// The recording, - for standard input; without one the feed is explained live
    #[arg(id = "recording", value_name = "FILE")]
    pub file: Option<PathBuf>,
    /// Report only this skill
    #[arg(long = "skill", value_name = "SKILL")]
    pub only_skill: Option<String>,
    /// How long to receive from a feed [range: 1 to 86400]
    #[arg(long, value_name = "NUMBER", default_value_t = 60, value_parser = within::<u64>(1, 86_400))]
    pub seconds: u64,
    #[command(flatten)]
    pub feed: OneFeedFlags,
    #[command(flatten)]
    pub limits: LimitFlags,
    #[command(flatten)]
    pub log: LogFlags,
}

/// Prints what each message changes, and by which rule.
#[derive(Debug, Clone)]
pub struct Explain {
    /// Where the messages come from.
    pub source: Source,
    /// The one skill to report; `None` for all.
    pub skill: Option<String>,
    /// How much is counted and remembered.
    pub ledger_limits: Limits,
    /// What is logged, and how.
    pub log: LogSettings,
}

/// Where the messages to explain come from.
#[derive(Debug, Clone)]
pub enum Source {
    /// A recording.
    Recording {
        /// The recording to read.
        file: RecordingFile,
        /// The skill that the recorded feed was subscribed to; `None` for all.
        subscribed: Option<String>,
    },
    /// A live feed.
    Feed {
        /// The feed.
        feed: Box<FeedSettings>,
        /// How long to receive.
        duration: Duration,
    },
}

impl Explain {
    pub(super) fn new(flags: ExplainFlags, environment: Environment<'_>) -> Result<Self, SettingsError> {
        let ledger_limits = limits::from_flags(&flags.limits)?;
        let label_chars_max = ledger_limits.label_chars_max;
        let checked = |flag, skill| checked_name(flag, skill, label_chars_max);
        let source = match flags.file {
            Some(file) => {
                let skill = flags.feed.subscription.skill;
                Source::Recording {
                    file: file.into(),
                    subscribed: skill.map(|skill| checked("--feed.skill", skill)).transpose()?,
                }
            }
            None => Source::Feed {
                feed: Box::new(flags.feed.settings(label_chars_max, environment)?),
                duration: Duration::from_secs(flags.seconds),
            },
        };
        let skill = flags.only_skill.map(|skill| checked("--skill", skill)).transpose()?;
        Ok(Self { source, skill, ledger_limits, log: flags.log.settings() })
    }
}

impl Command for Explain {
    fn log(&self) -> LogSettings {
        self.log
    }

    fn execute(self: Box<Self>) -> Result<(), CommandError> {
        match self.source {
            // Waits for nothing, so a signal ends it as it ends any program.
            Source::Recording { file, subscribed } => {
                explain_recording(&file, Explainer::new(subscribed.as_deref(), self.skill, self.ledger_limits))
            }
            Source::Feed { feed, duration } => {
                let explainer = Explainer::new(feed.skill.as_deref(), self.skill, self.ledger_limits);
                until_signal(|shutdown| explain_feed(*feed, duration, explainer, shutdown))?
            }
        }
    }
}

/// Explains a recording.
fn explain_recording(file: &RecordingFile, mut explainer: Explainer) -> Result<(), CommandError> {
    let bytes = file.read()?;
    let text =
        recording::text(&bytes).and_then(|text| explained(text, &mut explainer)).map_err(|error| file.error(error))?;
    print(text.as_bytes())?;
    explainer.missing_skill().map_or(Ok(()), |missing| Err(missing.into()))
}

/// Explains a live feed, for `duration` or until `shutdown`.
async fn explain_feed(
    feed: FeedSettings,
    duration: Duration,
    mut explainer: Explainer,
    shutdown: CancellationToken,
) -> Result<(), CommandError> {
    let output = Output::to_stdout().map_err(CommandError::Threads)?;
    let opened = Instant::now();
    let mut tap = FeedTap::open(feed, duration, &shutdown);
    loop {
        let received = tokio::select! {
            () = shutdown.cancelled() => break,
            received = tokio::time::timeout(PASS_EVERY, tap.next()) => received,
        };
        let text = match received {
            // The time is over.
            Ok(None | Some((_, FeedEvent::Closed(DisconnectReason::Shutdown)))) => break,
            Ok(Some((at, event))) => explained_event(&mut explainer, at, event),
            Err(_) => explainer.pass(opened.elapsed()),
        };
        // A reader that does not read holds up the feed, but not the end.
        match shutdown.run_until_cancelled(output.write(text)).await {
            Some(Ok(())) => {}
            Some(Err(_)) | None => break,
        }
    }
    tap.close().await?;
    output.finish_unless(&shutdown).await?;
    // Who ends it early may not have seen the skill yet.
    let missing = explainer.missing_skill().filter(|_| !shutdown.is_cancelled());
    missing.map_or(Ok(()), |missing| Err(missing.into()))
}

/// Returns the explanation of an event.
fn explained_event(explainer: &mut Explainer, at: Duration, event: FeedEvent) -> String {
    match event {
        FeedEvent::Opened => explainer.open(at),
        FeedEvent::Text(frame) => explainer.frame(at, &frame),
        FeedEvent::Binary { bytes } => {
            format!("{:>10.3} s  a binary frame of {bytes} bytes is ignored: the feed sends text\n", at.as_secs_f64())
        }
        FeedEvent::Closed(reason) => explainer.close(at, &format!(": {reason}")),
        FeedEvent::State(state) => {
            tracing::debug!("{state}");
            String::new()
        }
    }
}

/// Returns the explanation of a recording.
fn explained(text: &str, explainer: &mut Explainer) -> Result<String, RecordingError> {
    let mut out = String::new();
    let mut end = Duration::ZERO;
    for line in recording::lines(text) {
        let line = line?;
        end = Duration::from_secs_f64(line.at_seconds);
        let text = match (line.event, line.frame) {
            (Some(ConnectionEvent::Open), _) => explainer.open(end),
            (Some(ConnectionEvent::Close), _) => {
                let code = line.code.map(|code| format!(", code {code}")).unwrap_or_default();
                explainer.close(end, &code)
            }
            (None, Some(frame)) => explainer.frame(end, &frame),
            (None, None) => String::new(),
        };
        out.push_str(&text);
    }
    out.push_str(&explainer.pass(end + recording::REST));
    Ok(out)
}
