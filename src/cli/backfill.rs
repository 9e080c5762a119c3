//! `backfill`: the history of the server's database as samples at its true times, up to where the live series begin.

use std::fs::{self, File};
use std::io::{self, IsTerminal as _, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use bytes::Bytes;
use clap::Args;
use clap::builder::ValueParser;
use jiff::Timestamp;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::report::SkillsDbFlags;
use super::{Command, CommandError, until_signal};
use crate::backfill::{self, BackfillError, EVENTS_MAX, OpenMetrics, Requests, Sink, Span, Summary};
use crate::ledger::Limits;
use crate::push::{DirectSender, PushLabels, PushReceiver};
use crate::settings::duration::{DurationError, parse};
use crate::settings::flags::{CheckedReceivers, LogFlags, PushCredentialFlags, ReceiverFlags, SeriesChoice};
use crate::settings::{Environment, LogSettings, SettingsError, state_path};
use crate::skills_db::{HistoryDatabase, SkillsDatabaseError};
use crate::store::Store;

/// Labels of a bridge that Prometheus scrapes at the default address, by the configuration of the documents.
const SCRAPED_INSTANCE: &str = "localhost:9090";

/// Requests that are made and not sent yet.
const REQUESTS_MAX: usize = 4;

/// Time between two reports of the progress.
const PROGRESS_INTERVAL: Duration = Duration::from_millis(200);

#[derive(Debug, Args)]
pub(super) struct BackfillFlags {
    #[command(flatten)]
    pub database: SkillsDbFlags,
    /// When the live series begin, as RFC 3339 or in seconds since the Unix epoch; the backfill ends there [default: when the
    /// state file got its first series]
    #[arg(long, value_name = "TIME", value_parser = ValueParser::new(time))]
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
    /// Allow credentials over http:// to other machines: anybody between can read them
    #[arg(id = "push.insecure", long = "push.insecure", value_name = "BOOL", num_args = 0..=1, help_heading = "Push")]
    #[arg(action = clap::ArgAction::Set, require_equals = true, default_value = "false", default_missing_value = "true")]
    #[arg(hide_possible_values = true)]
    pub insecure: bool,
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
        let target = match (flags.url, flags.output) {
            (Some(url), _) => Target::Receiver(Box::new(receiver(url, flags.credentials, flags.insecure)?)),
            (None, Some(file)) => Target::File(file),
            (None, None) => Target::StandardOutput,
        };
        let (since, step, log) = (flags.since, flags.step, flags.log.settings());
        Ok(Self { database: flags.database.path()?, end, since, step, labels, target, log })
    }

    fn span(&self) -> Result<Span, CommandError> {
        let end_millis = match &self.end {
            End::At(end) => end.as_millisecond(),
            End::Of(path) => {
                let micros = Store::look_at_first_series(path)?
                    .ok_or_else(|| CommandError::NoFirstSeries { path: path.clone() })?;
                micros.div_euclid(1_000)
            }
        };
        let millis = |duration: Duration| i64::try_from(duration.as_millis()).expect("it is in its range");
        Ok(Span { since_millis: end_millis - millis(self.since), end_millis, step_millis: millis(self.step).max(1) })
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
        let labels = self.labels();
        let summary = match &self.target {
            // Waits for nothing, so a signal ends it as it ends any program.
            Target::StandardOutput => {
                let mut sink = OpenMetrics::new(io::stdout().lock(), labels);
                let written = fill(&self.database, span, &mut sink).and_then(|summary| {
                    sink.finish().map(drop)?;
                    Ok(summary)
                });
                match written {
                    // A reader that closes the pipe, as `head` does, has read all that it wants.
                    Err(BackfillError::Write(error)) if error.kind() == io::ErrorKind::BrokenPipe => return Ok(()),
                    written => written?,
                }
            }
            Target::File(path) => write_file(path, &self.database, span, labels)?,
            Target::Receiver(receiver) => {
                let receiver = (**receiver).clone();
                until_signal(|shutdown| push(receiver, self.database.clone(), span, labels, shutdown))??
            }
        };
        let Summary { rows, later_rows, rows_without_time, invalid_rows, samples, series } = summary;
        let end = Timestamp::from_millisecond(span.end_millis).map(|end| end.to_string()).unwrap_or_default();
        tracing::info!(rows, later_rows, samples, series, end, "history written");
        if rows_without_time + invalid_rows > 0 {
            tracing::warn!(rows_without_time, invalid_rows, "rows omitted; they are invalid or have no valid time");
        }
        Ok(())
    }
}

/// Writes the history of a database to `sink`.
fn fill(database: &Path, span: Span, sink: &mut impl Sink) -> Result<Summary, BackfillError> {
    let mut progress = Bar::new();
    let path = database;
    let database = HistoryDatabase::open(path)?;
    let verify = || match database.is_consistent() {
        true => Ok(()),
        false => Err(SkillsDatabaseError::Changed { path: path.to_owned() }.into()),
    };
    let filled = backfill::write(database.history()?, span, EVENTS_MAX, &verify, sink, &mut progress);
    progress.clear();
    filled
}

fn write_file(
    path: &Path,
    database: &Path,
    span: Span,
    labels: Vec<(String, String)>,
) -> Result<Summary, CommandError> {
    let failed = |source| CommandError::File { file: path.to_owned(), source };
    let file = File::create_new(path).map_err(|error| match error.kind() {
        io::ErrorKind::AlreadyExists => CommandError::FileExists { file: path.to_owned() },
        _ => failed(error),
    })?;
    let mut sink = OpenMetrics::new(file, labels);
    let written = fill(database, span, &mut sink).and_then(|summary| {
        sink.finish()?.sync_all()?;
        Ok(summary)
    });
    if written.is_err() {
        // Half a history is of no use to anybody.
        let _ = fs::remove_file(path);
    }
    Ok(written?)
}

/// Pushes the history of a database. What was pushed when a signal ends it stays there, and the same samples can be pushed again.
async fn push(
    receiver: PushReceiver,
    database: PathBuf,
    span: Span,
    labels: Vec<(String, String)>,
    shutdown: CancellationToken,
) -> Result<Summary, CommandError> {
    let (requests, mut queue) = mpsc::channel::<Bytes>(REQUESTS_MAX);
    let making = tokio::task::spawn_blocking(move || {
        let send = |body: Vec<u8>| requests.blocking_send(body.into()).map_err(|_| BackfillError::NotSent);
        let mut sink = Requests::new(labels, send);
        let summary = fill(&database, span, &mut sink)?;
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

/// A progress bar on standard error, if that is a terminal.
struct Bar {
    is_shown: bool,
    next: Instant,
}

impl Bar {
    const COLUMNS: u64 = 40;

    fn new() -> Self {
        Self { is_shown: io::stderr().is_terminal(), next: Instant::now() }
    }

    fn clear(&self) {
        if self.is_shown {
            let _ = write!(io::stderr(), "\r\x1b[K");
        }
    }
}

impl backfill::Progress for Bar {
    fn report(&mut self, what: &'static str, done: u64, all: u64) {
        let now = Instant::now();
        if !self.is_shown || now < self.next {
            return;
        }
        self.next = now + PROGRESS_INTERVAL;
        let of = |parts: u64| u128::from(done.min(all)) * u128::from(parts) / u128::from(all.max(1));
        let (filled, percent) = (of(Self::COLUMNS) as usize, of(100));
        let empty = Self::COLUMNS as usize - filled;
        // A terminal that takes nothing is no reason to fail.
        let _ = write!(io::stderr(), "\r{what:<8} [{}{}] {percent:>3} %", "#".repeat(filled), " ".repeat(empty));
    }
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
