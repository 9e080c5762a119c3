//! `check`: the settings of a bridge, and once everything that it connects to.

use std::fmt::Write as _;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use futures::future::join_all;
use serde::Serialize;
use tokio_util::sync::CancellationToken;

use super::check_feed::{CheckedFeed, Connection, check_feed};
use super::check_push::{CheckedReceiver, ReceiverResponse, check_receiver};
use super::output::{Output, print};
use super::{Command, CommandError, until_signal};
use crate::bridge::subscription;
use crate::settings::flags::RunFlags;
use crate::settings::number::within;
use crate::settings::{self, Environment, FeedTarget, LogSettings, Settings, SettingsError};
use crate::skills_db::{SkillsDatabase, SkillsDatabaseError};
use crate::text::terminal_line;

/// What to do if all is well.
const SAME_FLAGS: &str = "start the bridge with the same flags, without the command check";
const SAME_FLAGS_AND_URLS: &str =
    "start the bridge with the same flags and --feed.url before each URL, without the command check";

#[derive(Debug, Args)]
pub(super) struct CheckFlags {
    /// URL of a server to check, in place of --feed.url (may be repeated)
    #[arg(id = "url", value_name = "URL")]
    pub urls: Vec<String>,
    /// Check what needs no connection, and connect to nothing: settings, files and databases
    #[arg(long)]
    pub offline: bool,
    /// Print the report as one JSON object
    #[arg(long)]
    pub json: bool,
    /// Longest time to receive from the feeds [range: 1 to 3600]
    #[arg(long, value_name = "NUMBER", default_value_t = 10, value_parser = within::<u64>(1, 3600))]
    pub seconds: u64,
    #[command(flatten)]
    pub run: RunFlags,
}

/// Returns the check of a bridge with the same flags.
///
/// # Errors
/// The first setting that cannot be used. With `--json` it is part of the report instead.
pub(super) fn command(flags: CheckFlags, environment: Environment<'_>) -> Result<Box<dyn Command>, SettingsError> {
    let CheckFlags { urls, offline, json, seconds, mut run } = flags;
    let next = if urls.is_empty() { SAME_FLAGS } else { SAME_FLAGS_AND_URLS };
    if !urls.is_empty() {
        run.feeds.urls = urls;
    }
    let is_offline = offline || run.config.check;
    let live = (!is_offline).then_some(Live { duration: Duration::from_secs(seconds), next });
    let format = if json { Format::Json } else { Format::Text };
    Ok(Box::new(Check::new(run, live, format, environment)?))
}

/// Returns what `--config.check` of `run` stands for: a check without connections.
///
/// # Errors
/// The first setting that cannot be used; no `--config.file`.
pub(super) fn of_config_file(run: RunFlags, environment: Environment<'_>) -> Result<Box<dyn Command>, SettingsError> {
    let has_file = run.config.file.is_some();
    let check = Check::new(run, None, Format::Text, environment)?;
    if has_file { Ok(Box::new(check)) } else { Err(SettingsError::MissingConfigFile) }
}

/// Checks the settings of a bridge, the files and databases that they name, and then each feed and each receiver by one
/// connection. Prints what was found, and fails where the bridge would.
#[derive(Debug)]
pub struct Check {
    settings: Result<Settings, SettingsError>,
    /// `None` to connect to nothing.
    live: Option<Live>,
    format: Format,
    log: LogSettings,
}

/// How feeds and receivers are connected to.
#[derive(Debug, Clone, Copy)]
struct Live {
    /// The longest time to receive.
    duration: Duration,
    /// What to do if all is well.
    next: &'static str,
}

/// How the report is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Format {
    Text,
    Json,
}

impl Check {
    fn new(
        flags: RunFlags,
        live: Option<Live>,
        format: Format,
        environment: Environment<'_>,
    ) -> Result<Self, SettingsError> {
        let log = flags.log.settings();
        let settings = settings::run::settings(flags, environment);
        match settings {
            Err(refusal) if format == Format::Text => Err(refusal),
            settings => Ok(Self { settings, live, format, log }),
        }
    }

    /// Connects to everything that the bridge would, at the same time, and adds what was found to the report.
    async fn connect(
        settings: &Settings,
        live: Live,
        report: &mut Report,
        output: Option<&Output>,
        shutdown: &CancellationToken,
    ) -> Result<Option<CommandError>, CommandError> {
        let feeds = join_all(settings.feeds.iter().map(|target| {
            let feed = subscription(target, settings.frame_bytes_max, &settings.timing);
            check_feed(feed, target.skills_db.is_some(), settings.ledger_limits, live.duration, shutdown)
        }));
        let receivers = join_all(
            settings.push.receivers.iter().map(|receiver| shutdown.run_until_cancelled(check_receiver(receiver))),
        );
        let (feeds, receivers) = tokio::join!(feeds, receivers);
        let mut problems = Vec::new();
        for (target, (checked, entry)) in settings.feeds.iter().zip(feeds.into_iter().zip(&mut report.feeds)) {
            let CheckedFeed { text, connection, problem } = checked?;
            write(output, format!("\n{text}"), shutdown).await;
            entry.problem = problem.as_ref().map(ToString::to_string);
            entry.connection = Some(connection);
            let identity = target.identity.clone();
            problems.extend(problem.map(|source| CommandError::CheckFailed { identity, source }));
        }
        for (receiver, (checked, entry)) in
            settings.push.receivers.iter().zip(receivers.into_iter().zip(&mut report.receivers))
        {
            // A signal ended the check.
            let Some(CheckedReceiver { text, response, problem }) = checked else { continue };
            write(output, format!("\n{text}"), shutdown).await;
            entry.problem.clone_from(&problem);
            entry.response = Some(response);
            let receiver = receiver.name.to_string();
            problems.extend(problem.map(|problem| CommandError::ReceiverFailed { receiver, problem }));
        }
        let next = match problems.is_empty() {
            true => format!("\nNext: {}, and let Prometheus scrape it.\n", live.next),
            false => "\nNext: solve the problem above, and check again.\n".to_owned(),
        };
        write(output, next, shutdown).await;
        Ok(match problems.len() {
            0 | 1 => problems.pop(),
            _ => Some(CommandError::SeveralProblems(problems)),
        })
    }

    async fn run(
        settings: Settings,
        live: Live,
        format: Format,
        mut report: Report,
        shutdown: CancellationToken,
    ) -> Result<(), CommandError> {
        let output = Output::to_stdout().map_err(CommandError::Threads)?;
        let as_found = (format == Format::Text).then_some(&output);
        write(as_found, report.settings_text(), &shutdown).await;
        let problem = Self::connect(&settings, live, &mut report, as_found, &shutdown).await?;
        if format == Format::Json {
            report.is_valid = problem.is_none();
            write(Some(&output), report.json(), &shutdown).await;
        }
        output.finish_unless(&shutdown).await?;
        problem.map_or(Ok(()), Err)
    }
}

/// Writes `text`. If that fails, the end of the output says why.
async fn write(output: Option<&Output>, text: String, shutdown: &CancellationToken) {
    if let Some(output) = output {
        let _ = shutdown.run_until_cancelled(output.write(text)).await;
    }
}

impl Command for Check {
    fn log(&self) -> LogSettings {
        self.log
    }

    fn execute(self: Box<Self>) -> Result<(), CommandError> {
        let Self { settings, live, format, .. } = *self;
        let (report, outcome) = match settings {
            Ok(settings) => {
                let mut report = Report::of(&settings);
                let refusal = report.open_databases(&settings);
                (report, refusal.map_or(Ok(settings), Err))
            }
            Err(refusal) => (Report::of_refusal(&refusal), Err(refusal)),
        };
        match (outcome, live, format) {
            (Ok(settings), Some(live), _) => {
                until_signal(|shutdown| Self::run(settings, live, format, report, shutdown))?
            }
            (Ok(_), None, Format::Text) => print(report.settings_text().as_bytes()),
            (Ok(_), None, Format::Json) => print(report.json().as_bytes()),
            (Err(refusal), _, Format::Text) => Err(refusal.into()),
            (Err(refusal), _, Format::Json) => {
                print(report.json().as_bytes())?;
                Err(refusal.into())
            }
        }
    }
}

/// What was found. The JSON is part of the public interface: docs/reference/commands.md.
#[derive(Debug, Default, Serialize)]
struct Report {
    is_valid: bool,
    /// Why the settings cannot be used.
    problem: Option<String>,
    config_file: Option<PathBuf>,
    feeds: Vec<FeedEntry>,
    receivers: Vec<ReceiverEntry>,
}

#[derive(Debug, Serialize)]
struct FeedEntry {
    feed: String,
    skills_db: Option<PathBuf>,
    /// Why its database cannot be read, or why the bridge could not count the feed.
    problem: Option<String>,
    /// `None` if it was not connected to.
    connection: Option<Connection>,
}

#[derive(Debug, Serialize)]
struct ReceiverEntry {
    receiver: String,
    problem: Option<String>,
    /// `None` if it was not connected to.
    response: Option<ReceiverResponse>,
}

impl Report {
    fn of(settings: &Settings) -> Self {
        let feed = |target: &FeedTarget| FeedEntry {
            feed: target.identity.clone(),
            skills_db: target.skills_db.clone(),
            problem: None,
            connection: None,
        };
        let receivers = settings.push.receivers.iter().map(|receiver| ReceiverEntry {
            receiver: receiver.name.to_string(),
            problem: None,
            response: None,
        });
        Self {
            is_valid: true,
            problem: None,
            config_file: settings.config_file.as_ref().map(|file| file.path.clone()),
            feeds: settings.feeds.iter().map(feed).collect(),
            receivers: receivers.collect(),
        }
    }

    fn of_refusal(refusal: &SettingsError) -> Self {
        Self { problem: Some(refusal.to_string().trim_end().to_owned()), ..Self::default() }
    }

    /// Opens the database of each feed: the bridge would start without it, and try again. Returns the first error.
    fn open_databases(&mut self, settings: &Settings) -> Option<SettingsError> {
        let mut first = None;
        for (entry, target) in self.feeds.iter_mut().zip(&settings.feeds) {
            let Some(path) = &target.skills_db else { continue };
            if let Err(error) = SkillsDatabase::open(path, &CancellationToken::new()) {
                entry.problem = Some(error.to_string());
                first.get_or_insert(database_error(settings, target, error));
                self.is_valid = false;
            }
        }
        first
    }

    /// What was found without a connection, for people.
    fn settings_text(&self) -> String {
        let mut text = match &self.config_file {
            Some(file) => format!("{} is valid. Feeds:\n", file.display()),
            None => "The settings are valid. Feeds:\n".to_owned(),
        };
        let mut line = |line: &str| {
            let _ = writeln!(text, "  {}", terminal_line(line));
        };
        for FeedEntry { feed, skills_db, .. } in &self.feeds {
            line(feed);
            if let Some(path) = skills_db {
                line(&format!("  with the database {}", path.display()));
            }
        }
        if !self.receivers.is_empty() {
            text.push_str("Receivers:\n");
            for ReceiverEntry { receiver, .. } in &self.receivers {
                let _ = writeln!(text, "  {}", terminal_line(receiver));
            }
        }
        text
    }

    fn json(&self) -> String {
        let mut text = serde_json::to_string_pretty(self).expect("a report has only string keys");
        text.push('\n');
        text
    }
}

/// Returns the error in terms of whatever names the database.
fn database_error(settings: &Settings, target: &FeedTarget, error: SkillsDatabaseError) -> SettingsError {
    match &settings.config_file {
        Some(file) => file.database_error(target, error.into()),
        None => SettingsError::SkillsDb(error.into()),
    }
}
