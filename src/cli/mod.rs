//! The command line: flags and environment in, logs and signals on, exit code out.
//!
//! One file a command. Each holds the flags as they are written, the [`Command`] that they make once they are validated,
//! and what that does. `run` and `demo` serve; the others end by themselves.

pub mod backfill;
pub mod check;
mod check_feed;
mod check_push;
mod contradictions;
pub mod demo;
mod demo_guide;
mod environment;
mod error;
pub mod explain;
mod explanation;
mod feed_tap;
pub mod healthcheck;
mod log_queue;
mod logging;
mod man_page;
mod new_file;
mod one_feed;
mod output;
pub mod print;
mod progress_bar;
pub mod record;
pub mod recording_file;
pub mod replay;
pub mod report;
pub mod run;
mod signals;
pub mod state;
mod state_summary;

use std::any::Any;
use std::env;
use std::ffi::OsString;
use std::fmt::Debug;
use std::io::{self, Write};
use std::process::ExitCode;
use std::slice;
use std::time::{SystemTime, UNIX_EPOCH};

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};
use clap_complete::Shell;
use jiff::Timestamp;

use crate::build_info::LONG_VERSION;
use crate::settings::flags::{ListenFlags, RunFlags};
use crate::settings::{Environment, LogSettings, SettingsError};
use crate::text::terminal_line;
use backfill::{Backfill, BackfillFlags};
use check::CheckFlags;
use demo::{Demo, DemoFlags};
pub use error::CommandError;
use explain::{Explain, ExplainFlags};
use healthcheck::{Healthcheck, HealthcheckFlags};
use output::unless_broken_pipe;
use print::Print;
use record::{Record, RecordFlags};
use replay::{Replay, ReplayFlags};
use report::{Report, ReportFlags};
use signals::until_signal;
use state::{State, StateFlags};

const FAILED: u8 = 1;
const REFUSED: u8 = 2;

/// What clap appends to its own errors.
const HELP_HINT: &str = "\n\nFor more information, try '--help'.";

const AFTER_HELP: &str = "\
Environment:
  A flag with a dot in its name can also be set by a variable: its name in
  capitals, _ for . and -, after SESSION_BUDDY_BRIDGE_. The flag wins. What may
  be repeated is separated by commas. An empty variable counts as unset.
  Two variables have no flag, because every user of a machine can read its
  command lines: SESSION_BUDDY_BRIDGE_FEED_JWT_SECRET holds the secret of servers
  that require a token, SESSION_BUDDY_BRIDGE_FEED_TOKEN a token itself.

Durations:
  A number and a unit: 500ms, 10s, 1.5m, 1h.

Exit codes:
  0  ended as requested: by a signal, or the work is done
  1  failed while running, for example because the address was in use, or
     had not ended 5 s after a signal
  2  a flag or a variable was refused; nothing was started
  130, 143  a second SIGINT or SIGTERM ended it at once

Examples:
  session-buddy-bridge
      subscribe to ws://localhost:8765, serve http://localhost:9090/metrics
  session-buddy-bridge demo
      the same without a Session-Buddy server, on a simulated feed
  session-buddy-bridge --feed.url ws://alpha:8765 --feed.url ws://beta:8765
      two servers in one scrape
  session-buddy-bridge --web.listen-address :9101
      serve other machines too, on port 9101
  session-buddy-bridge check ws://alpha:8765
      connect to that server once, and report what would be counted
  session-buddy-bridge check --offline --config.file bridge.yml
      validate the file, and open every file and database that it names
  session-buddy-bridge record feed.ndjson --seconds 60
  session-buddy-bridge replay feed.ndjson
  session-buddy-bridge explain feed.ndjson --skill pytest-run
      record what a server sends, print its metrics, and explain them
  session-buddy-bridge report --feed.skills-db .session-buddy/skills.db --since 7d
      which skills were used, failed or never used in a week, without Prometheus
  session-buddy-bridge backfill --feed.skills-db .session-buddy/skills.db --output history.om
      the history of that database, for promtool tsdb create-blocks-from openmetrics
  session-buddy-bridge healthcheck --web.listen-address :9101
      check the health of a bridge that was started with the same flag";

/// Counts Session-Buddy's invocations and anomalies exactly once for Prometheus.
///
/// Session-Buddy's RealTimeMetricsServer repeats its totals every second over a WebSocket. This bridge subscribes to
/// it, counts what is new, and serves it as Prometheus metrics. Without a command it runs the bridge.
#[derive(Debug, Parser)]
#[command(name = "session-buddy-bridge", version, long_version = LONG_VERSION)]
#[command(args_conflicts_with_subcommands = true, after_help = AFTER_HELP)]
struct CommandLine {
    #[command(subcommand)]
    command: Option<Subcommands>,
    #[command(flatten)]
    run: RunFlags,
}

#[derive(Debug, Subcommand)]
enum Subcommands {
    /// Subscribe to the feeds and serve their metrics until SIGTERM or SIGINT (the default command)
    Run(Box<RunFlags>),
    /// Run a simulated server, and the bridge subscribed to it, on this machine only
    Demo(DemoFlags),
    /// Check settings, files and databases, then connect once to each feed and receiver and report what a bridge would find
    Check(Box<CheckFlags>),
    /// Report what each message of a recording, or of a live feed, changes, and by which rule
    Explain(ExplainFlags),
    /// Record what a feed sends, one JSON line per frame
    Record(RecordFlags),
    /// Print the metrics that a recording leads to
    Replay(ReplayFlags),
    /// Write the history of the server's database as OpenMetrics with timestamps, or push it, up to where live series begin
    Backfill(Box<BackfillFlags>),
    /// Print a report of each skill from the server's database: use, success, durations, trend, failures
    Report(ReportFlags),
    /// Request the health of a running bridge: exit code 0 if it is healthy, 1 otherwise (for containers without curl)
    Healthcheck(HealthcheckFlags),
    /// Show or change the state file
    #[command(subcommand)]
    State(StateFlags),
    /// Print a script that completes this command line in a shell
    Completions {
        /// The shell
        shell: Shell,
    },
    /// Print the manual page, for man(1)
    Man,
}

/// One command of the command line, validated and not yet started.
pub trait Command: Any + Debug {
    /// Returns what it logs, and how.
    fn log(&self) -> LogSettings {
        LogSettings::default()
    }

    /// Returns whether its failure is logged, as a service's is, instead of printed for a person.
    fn is_service(&self) -> bool {
        false
    }

    /// Executes it. Blocks until it is done or, if it receives or serves, until a signal ends it.
    ///
    /// # Errors
    /// The work is not done, or not to its end.
    fn execute(self: Box<Self>) -> Result<(), CommandError>;
}

/// The whole program: its exit code is 0 if it ended as requested, 1 if it failed, 2 if a setting was refused.
pub fn main() -> ExitCode {
    // Before anything that takes time: the default of SIGHUP ends the process, and systemd takes that for a clean end.
    let receiving_hangups = if reloads(env::args_os()) { signals::receive_hangups() } else { Ok(()) };
    let command = match parse(env::args_os(), |name| env::var_os(name)) {
        Ok(command) => command,
        Err(SettingsError::CommandLine(answer)) => {
            // Help and version are such answers, too.
            return match answer.print() {
                _ if answer.use_stderr() => ExitCode::from(REFUSED),
                printed => unless_broken_pipe(printed).map_or_else(|failure| fail(&failure), |()| ExitCode::SUCCESS),
            };
        }
        Err(refusal) => return refuse(&refusal),
    };
    let log = logging::start(command.log());
    // Only names: a value may be a token under a name that is almost right.
    for variable in environment::unknown_variables(&CommandLine::command(), env::vars_os().map(|(name, _)| name)) {
        tracing::warn!(variable, "unknown environment variable is ignored; --help lists the known ones");
    }
    let is_service = command.is_service();
    match receiving_hangups.and_then(|()| check_clock(SystemTime::now())).and_then(|()| command.execute()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) if is_service => {
            tracing::error!(error = %failure, "bridge failed");
            ExitCode::from(FAILED)
        }
        Err(failure) => {
            // What led to the failure stands before it.
            drop(log);
            match &failure {
                CommandError::Refused(refusal) => refuse(refusal),
                failure => fail(failure),
            }
        }
    }
}

/// Returns whether the command is `run`, which reloads at SIGHUP. A command, if there is one, is the first argument.
fn reloads(args: impl IntoIterator<Item = OsString>) -> bool {
    args.into_iter().nth(1).is_none_or(|first| first == "run" || first.as_encoded_bytes().starts_with(b"-"))
}

/// Refuses a clock at which dates cannot be written: HTTP has four digits for the year, and jiff ends a day before it does.
fn check_clock(now: SystemTime) -> Result<(), CommandError> {
    match now >= UNIX_EPOCH && Timestamp::try_from(now).is_ok() {
        true => Ok(()),
        false => Err(CommandError::Clock),
    }
}

/// Parses a command line (the first of `args` is the program's name) over an environment, and validates it. A host name
/// to listen on is resolved, and files of credentials are read, so that what cannot work is refused here.
///
/// # Errors
/// The first setting that cannot be used. A request for help or the version is such an error, too.
pub fn parse(
    args: impl IntoIterator<Item = impl Into<OsString> + Clone>,
    environment: impl Fn(&str) -> Option<OsString>,
) -> Result<Box<dyn Command>, SettingsError> {
    Ok(match subcommand(args, &environment)? {
        Subcommands::Run(flags) => run::command(*flags, &environment)?,
        Subcommands::Demo(flags) => Box::new(Demo::new(flags)?),
        Subcommands::Check(flags) => check::command(*flags, &environment)?,
        Subcommands::Explain(flags) => Box::new(Explain::new(flags, &environment)?),
        Subcommands::Record(flags) => Box::new(Record::new(flags, &environment)?),
        Subcommands::Replay(flags) => Box::new(Replay::new(flags)?),
        Subcommands::Backfill(flags) => Box::new(Backfill::new(*flags, &environment)?),
        Subcommands::Report(flags) => Box::new(Report::new(flags, &environment)?),
        Subcommands::Healthcheck(flags) => Box::new(Healthcheck::new(flags)?),
        Subcommands::State(flags) => Box::new(State::new(flags, &environment)?),
        Subcommands::Completions { shell } => Box::new(Print::completions(without_environment(), shell)),
        Subcommands::Man => Box::new(Print::man_page(without_environment())),
    })
}

/// Returns the command of a command line over an environment, as it is written.
fn subcommand(
    args: impl IntoIterator<Item = impl Into<OsString> + Clone>,
    environment: Environment<'_>,
) -> Result<Subcommands, SettingsError> {
    let mut known = environment::with_defaults_from(CommandLine::command(), environment);
    let CommandLine { command, run } = known
        .try_get_matches_from_mut(args)
        .and_then(|matches| contradictions::check(&mut known, &matches).map(|()| matches))
        .and_then(|matches| CommandLine::from_arg_matches(&matches))
        .map_err(|error| match environment::variable_at_fault(&error, environment) {
            Some(variable) => SettingsError::Environment { variable, error },
            None => SettingsError::CommandLine(with_order_of_flags(error)),
        })?;
    Ok(command.unwrap_or_else(|| Subcommands::Run(Box::new(run))))
}

/// Adds to an error about a flag before a command that flags go after it. clap only says that the two do not go together, as
/// if the command did not have the flag.
fn with_order_of_flags(mut error: clap::Error) -> clap::Error {
    if let (ErrorKind::ArgumentConflict, Some(ContextValue::String(command))) =
        (error.kind(), error.get(ContextKind::InvalidSubcommand))
    {
        let tip = format!("flags of a command go after it: 'session-buddy-bridge {command} [OPTIONS]'");
        error.insert(ContextKind::Suggested, ContextValue::StyledStrs(vec![tip.into()]));
    }
    error
}

/// Returns the flags by which the bridge of a command line and an environment listens; `None` if it does not serve.
///
/// # Errors
/// A command line that this program does not take.
fn listen_flags(
    args: impl IntoIterator<Item = impl Into<OsString> + Clone>,
    environment: impl Fn(&str) -> Option<OsString>,
) -> Result<Option<ListenFlags>, SettingsError> {
    Ok(match subcommand(args, &environment)? {
        Subcommands::Run(flags) => Some(flags.web.listen),
        Subcommands::Demo(flags) => Some(flags.web.listen),
        _ => None,
    })
}

/// Returns the command line with the names of the variables in its help and without their values.
fn without_environment() -> clap::Command {
    environment::with_defaults_from(CommandLine::command(), &|_| None)
}

fn fail(failure: &CommandError) -> ExitCode {
    let problems = match failure {
        CommandError::SeveralProblems(problems) => problems,
        failure => slice::from_ref(failure),
    };
    for problem in problems {
        // If this cannot be printed, the exit code is all that is left.
        let _ = writeln!(io::stderr(), "error: {}", terminal_line(&problem.to_string()));
    }
    ExitCode::from(FAILED)
}

fn refuse(refusal: &SettingsError) -> ExitCode {
    let message = refusal.to_string();
    let message = message.trim_end();
    let hint = if message.ends_with(HELP_HINT) { "" } else { HELP_HINT };
    let message: Vec<_> = message.lines().map(terminal_line).collect();
    let _ = writeln!(io::stderr(), "error: {}{hint}", message.join("\n"));
    ExitCode::from(REFUSED)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn only_the_bridge_reloads_at_sighup() {
        let is_one = |args: &[&str]| reloads(["program"].iter().chain(args).map(OsString::from));
        for args in [&[][..], &["run"], &["--feed.url", "record"], &["-h"], &["run", "--help"]] {
            assert!(is_one(args), "{args:?}");
        }
        for args in
            [&["record", "run"][..], &["demo"], &["report"], &["check"], &["replay", "x"], &["state", "show"], &[""]]
        {
            assert!(!is_one(args), "{args:?}");
        }
    }

    #[test]
    fn a_clock_that_no_date_can_name_is_refused() {
        let at = |seconds| check_clock(UNIX_EPOCH + Duration::from_secs(seconds));
        assert!(at(0).is_ok() && at(253_402_207_199).is_ok());
        assert!(matches!(at(253_402_207_201), Err(CommandError::Clock)));
        assert!(matches!(check_clock(UNIX_EPOCH - Duration::from_secs(1)), Err(CommandError::Clock)));
    }
}
