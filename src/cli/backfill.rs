//! `backfill`: the history of the server's database as samples at its true times, up to where the live series begin.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use clap::Args;
use clap::builder::ValueParser;
use jiff::Timestamp;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::new_file::NewFile;
use super::progress_bar::ProgressBar;
use super::report::SkillsDbFlags;
use super::{Command, CommandError, until_signal};
use crate::backfill::{self, BackfillError, Counted, EVENTS_MAX, OpenMetrics, Requests, Sink, Span, Summary};
use crate::ledger::{LedgerState, Limits};
use crate::push::{DirectSender, PushLabels, PushReceiver};
use crate::settings::duration::{DurationError, parse};
use crate::settings::flags::{
    CheckedReceivers, LimitFlags, LogFlags, PushCredentialFlags, ReceiverFlags, SeriesChoice,
};
use crate::settings::subscription::checked_name;
use crate::settings::{Environment, LogSettings, SettingsError, limits, state_path};
use crate::skills_db::{HistoryDatabase, SkillsDatabaseError};
use crate::store::Store;

/// `instance` of a bridge that Prometheus scrapes on its own host at the default address. Others need `--label`.
const SCRAPED_INSTANCE: &str = "localhost:9090";

/// Requests that are made and not sent yet.
const REQUESTS_MAX: usize = 4;

#[derive(Debug, Args)]
pub(super) struct BackfillFlags {
    #[command(flatten)]
    pub database: SkillsDbFlags,
    /// When the live series begin, as RFC 3339 or in seconds since the Unix epoch, after 1970 and not in the future; the backfill
    /// ends there [default: when the state file got its first series]
    #[arg(long, value_name = "TIME", value_parser = ValueParser::new(time), allow_negative_numbers = true)]
    pub until: Option<Timestamp>,
    /// State file of the bridge [default: session-buddy-bridge/state.db in $XDG_STATE_HOME or ~/.local/state]
    #[arg(long = "state.path", value_name = "FILE", help_heading = "State")]
    pub state: Option<PathBuf>,
    /// Length of the history that gets samples; their values include what is older [range: 1h to 36500d]
    #[arg(long, value_name = "DURATION", default_value = "90d", value_parser = ValueParser::new(since))]
    pub since: Duration,
    /// Distance of the samples of a series that changes [range: 1s to 1h]
    #[arg(long, value_name = "DURATION", default_value = "1m", value_parser = ValueParser::new(step))]
    pub step: Duration,
    /// Label of every series, NAME=VALUE (may be repeated) [default: job=session-buddy, instance=localhost:9090, or with
    /// --push.url the host's name]
    #[arg(long = "label", value_name = "LABEL")]
    pub labels: Vec<String>,
    /// File to write OpenMetrics to, which must not exist [default: standard output]
    #[arg(long, value_name = "FILE", conflicts_with = "push.url")]
    pub output: Option<PathBuf>,
    /// Receiver of Prometheus remote write to push to instead; it has to accept samples of the past
    #[arg(id = "push.url", long = "push.url", value_name = "URL", help_heading = "Push")]
    pub url: Option<String>,
    #[command(flatten)]
    pub credentials: PushCredentialFlags,
    /// Allow credentials, and a query in the URL, over http:// to other machines: anybody between can read them
    #[arg(id = "push.insecure", long = "push.insecure", value_name = "BOOL", num_args = 0..=1, help_heading = "Push")]
    #[arg(action = clap::ArgAction::Set, require_equals = true, default_value = "false", default_missing_value = "true")]
    #[arg(hide_possible_values = true)]
    pub insecure: bool,
    /// Skill that the bridge's feeds are subscribed to, as theirs (may be repeated) [default: all]
    #[arg(long = "feed.skill", value_name = "SKILL", help_heading = "Feed")]
    pub skills: Vec<String>,
    #[command(flatten)]
    pub limits: LimitFlags,
    #[command(flatten)]
    pub log: LogFlags,
}

fn since(text: &str) -> Result<Duration, DurationError> {
    parse(text, Duration::from_secs(3_600), Duration::from_secs(36_500 * 86_400))
}

fn step(text: &str) -> Result<Duration, DurationError> {
    parse(text, Duration::from_secs(1), Duration::from_secs(3_600))
}

/// Reads RFC 3339, or seconds since the Unix epoch as Prometheus prints them.
fn time(text: &str) -> Result<Timestamp, String> {
    let seconds = text.parse().ok().and_then(|seconds: f64| {
        let millis = (seconds * 1e3).round();
        millis.is_finite().then(|| Timestamp::from_millisecond(millis as i64).ok())?
    });
    seconds
        .or_else(|| text.parse().ok())
        .ok_or_else(|| "is no time: write for example 2026-11-26T18:45:00Z, or seconds since the Unix epoch".to_owned())
}

/// Writes or pushes the history of a database.
#[derive(Debug)]
pub struct Backfill {
    database: PathBuf,
    end: End,
    since: Duration,
    step: Duration,
    counted: Counted,
    labels: PushLabels,
    target: Target,
    log: LogSettings,
}

/// Where the live series begin.
#[derive(Debug)]
enum End {
    At(Timestamp),
    /// In this state file.
    Of(PathBuf),
}

#[derive(Debug)]
enum Target {
    StandardOutput,
    File(PathBuf),
    Receiver(Box<PushReceiver>),
}

fn receiver(url: String, credentials: PushCredentialFlags, insecure: bool) -> Result<PushReceiver, SettingsError> {
    let receiver = ReceiverFlags {
        name: None,
        credentials,
        labels: Vec::new(),
        series: Some(SeriesChoice::Five),
        age_max: None,
        timeout: None,
        insecure,
    };
    let mut receivers = CheckedReceivers { urls: vec![url], receiver }.receivers(Limits::default().label_chars_max)?;
    Ok(receivers.remove(0))
}

impl Backfill {
    pub(super) fn new(flags: BackfillFlags, environment: Environment<'_>) -> Result<Self, SettingsError> {
        if let Some(until) = flags.until.filter(|until| *until <= Timestamp::UNIX_EPOCH || *until > Timestamp::now()) {
            return Err(SettingsError::BackfillUntil { until });
        }
        let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
        let instance = if flags.url.is_some() { &*host } else { SCRAPED_INSTANCE };
        let labels = PushLabels::of_host(instance).with(flags.labels.iter().map(String::as_str));
        let labels = labels.map_err(|(label, error)| SettingsError::BackfillLabel { label, error })?;
        let end = match (flags.until, flags.state) {
            (Some(end), _) => End::At(end),
            (None, path) => {
                End::Of(path.or_else(|| state_path::default(environment)).ok_or(SettingsError::NoStatePath)?)
            }
        };
        let limits = limits::from_flags(&flags.limits)?;
        let checked = |skill| checked_name("--feed.skill", skill, limits.label_chars_max);
        let counted = Counted { limits, skills: flags.skills.into_iter().map(checked).collect::<Result<_, _>>()? };
        let target = match (flags.url, flags.output) {
            (Some(url), _) => Target::Receiver(Box::new(receiver(url, flags.credentials, flags.insecure)?)),
            (None, Some(file)) => Target::File(file),
            (None, None) => Target::StandardOutput,
        };
        let (since, step, log) = (flags.since, flags.step, flags.log.settings());
        Ok(Self { database: flags.database.path()?, end, since, step, counted, labels, target, log })
    }

    fn span(&self) -> Result<Span, CommandError> {
        let end_millis = match &self.end {
            End::At(end) => end.as_millisecond(),
            End::Of(path) => {
                let (state, micros) = Store::look_at_first_series(path)?;
                let sources = counted_sources(&state);
                if sources.len() > 1 {
                    return Err(CommandError::SeveralSources { path: path.clone(), sources });
                }
                if let Some(subscribed) = subscribed(&state).filter(|subscribed| !self.counted.is_within(subscribed)) {
                    return Err(CommandError::OtherSkills { path: path.clone(), subscribed });
                }
                let micros = micros.ok_or_else(|| CommandError::NoFirstSeries { path: path.clone() })?;
                micros.div_euclid(1_000)
            }
        };
        let millis = |duration: Duration| i64::try_from(duration.as_millis()).expect("it is in its range");
        // Before the epoch no receiver takes samples; their values include what happened then.
        let since_millis = (end_millis - millis(self.since)).max(0);
        Ok(Span { since_millis, end_millis, step_millis: millis(self.step).max(1) })
    }

    /// Returns the labels as PromQL has them.
    fn selector(&self) -> String {
        let labels: Vec<_> = self.labels.iter().map(|(name, value)| format!("{name}={value:?}")).collect();
        format!("{{{}}}", labels.join(","))
    }

    fn labels(&self) -> Vec<(String, String)> {
        self.labels.iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
    }
}

impl Command for Backfill {
    fn log(&self) -> LogSettings {
        self.log
    }

    fn execute(self: Box<Self>) -> Result<(), CommandError> {
        let span = self.span()?;
        let (counted, labels) = (self.counted.clone(), self.labels());
        let summary = match &self.target {
            // Waits for nothing, so a signal ends it as it ends any program.
            Target::StandardOutput => {
                let mut sink = OpenMetrics::new(io::stdout().lock(), labels);
                let written = fill(&self.database, span, &self.counted, &mut sink).and_then(|summary| {
                    sink.finish().map(drop)?;
                    Ok(summary)
                });
                match written {
                    // A reader that closes the pipe, as `head` does, has read all that it wants.
                    Err(BackfillError::Write(error)) if error.kind() == io::ErrorKind::BrokenPipe => return Ok(()),
                    written => written?,
                }
            }
            Target::File(path) => until_signal(|shutdown| {
                write_file(path.clone(), self.database.clone(), (span, counted), labels, shutdown)
            })??,
            Target::Receiver(receiver) => {
                let receiver = (**receiver).clone();
                until_signal(|shutdown| push(receiver, self.database.clone(), (span, counted), labels, shutdown))??
            }
        };
        let Summary { rows, later_rows, rows_without_time, invalid_rows, samples, series } = summary;
        let end = Timestamp::from_millisecond(span.end_millis).map(|end| end.to_string()).unwrap_or_default();
        let labels = self.selector();
        tracing::info!(rows, later_rows, samples, series, end, labels, "history written");
        if rows_without_time + invalid_rows > 0 {
            tracing::warn!(rows_without_time, invalid_rows, "rows omitted; they are invalid or have no valid time");
        }
        Ok(())
    }
}

/// Returns what is known of each source that has counted something: the feeds that are bound to it, or its number.
fn counted_sources(state: &LedgerState) -> Vec<String> {
    let memory = &state.memory;
    let counted = memory.sources.iter().map(|source| source.id).filter(|id| {
        memory.skills.iter().any(|skill| skill.source == *id && skill.counted > 0)
            || memory.tallies.iter().any(|tally| tally.source == *id && tally.listed.max(tally.streamed) > 0)
    });
    let names = counted.map(|id| {
        let feeds = memory.feeds.iter().filter(|feed| feed.source == Some(id));
        let feeds: Vec<_> = feeds.map(|feed| &*feed.counters.identity).collect();
        if feeds.is_empty() { format!("source {} without a feed", id.0) } else { feeds.join(" and ") }
    });
    names.collect()
}

/// Returns the skills that the configured feeds are subscribed to; `None` if one of them is to all, or none is configured.
fn subscribed(state: &LedgerState) -> Option<Vec<String>> {
    let feeds = state.memory.feeds.iter().filter(|feed| feed.is_configured);
    let skills: Option<Vec<_>> = feeds.map(|feed| feed.entry.filter.as_ref().map(ToString::to_string)).collect();
    skills.filter(|skills| !skills.is_empty())
}

/// Writes the history of a database to `sink`.
fn fill(database: &Path, span: Span, counted: &Counted, sink: &mut impl Sink) -> Result<Summary, BackfillError> {
    let mut progress = ProgressBar::new();
    let path = database;
    let database = HistoryDatabase::open(path)?;
    let verify = || match database.is_consistent() {
        true => Ok(()),
        false => Err(SkillsDatabaseError::Changed { path: path.to_owned() }.into()),
    };
    let filled = backfill::write(database.history()?, span, counted, EVENTS_MAX, &verify, sink, &mut progress);
    progress.clear();
    filled
}

/// Writes the history of a database to a file, which is there once it is whole.
async fn write_file(
    path: PathBuf,
    database: PathBuf,
    (span, counted): (Span, Counted),
    labels: Vec<(String, String)>,
    shutdown: CancellationToken,
) -> Result<Summary, CommandError> {
    let file = NewFile::create(&path)?;
    let out = file.writer()?;
    let writing = tokio::task::spawn_blocking(move || {
        let mut sink = OpenMetrics::new(out, labels);
        let summary = fill(&database, span, &counted, &mut sink)?;
        sink.finish()?.sync_all()?;
        Ok::<_, BackfillError>(summary)
    });
    let Some(written) = shutdown.run_until_cancelled(writing).await else {
        return Err(CommandError::NotWritten { file: path });
    };
    let summary = written.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()))?;
    file.keep()?;
    Ok(summary)
}

/// Pushes the history of a database. What was pushed when a signal ends it stays there, and the same samples can be pushed again.
async fn push(
    receiver: PushReceiver,
    database: PathBuf,
    (span, counted): (Span, Counted),
    labels: Vec<(String, String)>,
    shutdown: CancellationToken,
) -> Result<Summary, CommandError> {
    let (requests, mut queue) = mpsc::channel::<Bytes>(REQUESTS_MAX);
    let making = tokio::task::spawn_blocking(move || {
        let send = |body: Vec<u8>| requests.blocking_send(body.into()).map_err(|_| BackfillError::NotSent);
        let mut sink = Requests::new(labels, send);
        let summary = fill(&database, span, &counted, &mut sink)?;
        sink.finish()?;
        Ok::<_, BackfillError>(summary)
    });
    let name = receiver.name.to_string();
    let mut sender = DirectSender::new(receiver);
    let sending = async {
        while let Some(body) = queue.recv().await {
            sender.send(body).await?;
        }
        Ok(())
    };
    let sent = shutdown.run_until_cancelled(sending).await;
    drop(queue);
    match sent {
        None => return Err(CommandError::Interrupted),
        Some(Err(problem)) => return Err(CommandError::ReceiverFailed { receiver: name, problem }),
        Some(Ok(())) => {}
    }
    Ok(making.await.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()))?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_rfc_3339_or_seconds() {
        let expected = Timestamp::from_millisecond(1_795_341_600_250).unwrap();
        for text in ["1795341600.25", "2026-11-22T10:00:00.25Z", "2026-11-22T11:00:00.25+01:00"] {
            assert_eq!(time(text), Ok(expected), "{text}");
        }
        for text in ["", "yesterday", "2026-11-22", "NaN", "inf", "1e300", "2026-11-22 10:00:00"] {
            assert!(time(text).is_err(), "{text}");
        }
    }
}
