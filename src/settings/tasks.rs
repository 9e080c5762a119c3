//! What the command line asks for: a task for each command.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use url::Url;

use super::flags::{self, CommandLine, Subcommands};
use super::{FeedTarget, Limits, LogSettings, Settings, SettingsError, Timing, commands, run, state_path};
use crate::demo::DemoSettings;

/// The task of a command.
#[derive(Debug, Clone, PartialEq)]
pub enum Task {
    /// Run the bridge.
    Run(Settings),
    /// Run the bridge on a simulated server.
    Demo(DemoTask),
    /// Check a feed once.
    Check(CheckTask),
    /// Explain each number.
    Explain(ExplainTask),
    /// Record a feed.
    Record(RecordTask),
    /// Replay a recording.
    Replay(ReplayTask),
    /// Check the health of a running bridge.
    Healthcheck(HealthcheckTask),
    /// Show or change a state file.
    State(StateTask),
    /// Print this text.
    Print(Vec<u8>),
}

/// Run the bridge on a simulated server.
#[derive(Debug, Clone, PartialEq)]
pub struct DemoTask {
    /// The simulated server.
    pub feed: DemoSettings,
    /// The bridge. Its `feeds` are empty, since the server has no port yet.
    pub bridge: Settings,
    /// Whether no address was configured, so that another port will do if the default one is taken.
    pub any_port: bool,
}

/// Record a feed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecordTask {
    /// The file to write.
    pub file: PathBuf,
    /// How long to listen.
    pub duration: Duration,
    /// What to listen to.
    pub feed: FeedTarget,
    /// Longest frame that is read, in bytes.
    pub frame_bytes_max: usize,
    /// Every wait of the feed.
    pub timing: Timing,
    /// What is logged, and how.
    pub log: LogSettings,
}

/// Check a feed once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CheckTask {
    /// What to listen to.
    pub feed: FeedTarget,
    /// How long at most.
    pub duration: Duration,
    /// Longest frame that is read, in bytes.
    pub frame_bytes_max: usize,
    /// Every wait of the feed.
    pub timing: Timing,
    /// How much is counted and remembered.
    pub ledger_limits: Limits,
    /// What is logged, and how.
    pub log: LogSettings,
}

/// Explain each number.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExplainTask {
    /// Where they come from.
    pub what: Explained,
    /// The one skill to explain; `None` for all.
    pub skill: Option<String>,
    /// How much is counted and remembered.
    pub ledger_limits: Limits,
    /// What is logged, and how.
    pub log: LogSettings,
}

/// What to explain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Explained {
    /// A recording.
    Recording {
        /// The file to read.
        file: PathBuf,
        /// The skill that the recorded feed was subscribed to; `None` for all.
        subscribed: Option<String>,
    },
    /// A feed.
    Feed {
        /// What to listen to.
        target: Box<FeedTarget>,
        /// Longest frame that is read, in bytes.
        frame_bytes_max: usize,
        /// Every wait of the feed.
        timing: Timing,
        /// How long to listen.
        duration: Duration,
    },
}

/// Replay a recording.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReplayTask {
    /// The file to read.
    pub file: PathBuf,
    /// The skill that the recorded feed was subscribed to; `None` for all.
    pub skill: Option<String>,
    /// How much is counted and remembered.
    pub ledger_limits: Limits,
    /// What is logged, and how.
    pub log: LogSettings,
}

/// Check the health of a running bridge.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HealthcheckTask {
    /// Where to ask: `http`, with a host, without userinfo.
    pub url: Url,
    /// How long the answer may take.
    pub timeout: Duration,
    /// What is logged, and how.
    pub log: LogSettings,
}

impl Task {
    /// Parses a command line, whose first argument is the program's name, over an environment, and validates it. Host names
    /// to listen on are resolved and credential files are read, so that invalid ones are refused here.
    ///
    /// # Errors
    /// The first setting that is invalid; a request for `--help` or `--version`.
    pub fn from_args(
        args: impl IntoIterator<Item = impl Into<OsString> + Clone>,
        environment: impl Fn(&str) -> Option<OsString>,
    ) -> Result<Self, SettingsError> {
        let CommandLine { command, run } = flags::parse(args, &environment)?;
        match command.unwrap_or(Subcommands::Run(run)) {
            Subcommands::Run(flags) => run::task(flags, &environment),
            Subcommands::Demo(flags) => commands::demo(flags).map(Task::Demo),
            Subcommands::Check(flags) => commands::check(flags, &environment).map(Task::Check),
            Subcommands::Explain(flags) => commands::explain(flags, &environment).map(Task::Explain),
            Subcommands::Record(flags) => commands::record(flags, &environment).map(Task::Record),
            Subcommands::Replay(flags) => commands::replay(flags).map(Task::Replay),
            Subcommands::Healthcheck(flags) => commands::healthcheck(flags).map(Task::Healthcheck),
            Subcommands::Completions { shell } => Ok(Task::Print(flags::completions(shell))),
            Subcommands::Man => Ok(Task::Print(flags::man_page())),
            Subcommands::State(command) => state_path::task(command, &environment).map(Task::State),
        }
    }

    /// What is logged, and how.
    pub fn log(&self) -> LogSettings {
        match self {
            Task::Run(settings) => settings.log,
            Task::Demo(task) => task.bridge.log,
            Task::Check(task) => task.log,
            Task::Explain(task) => task.log,
            Task::Record(task) => task.log,
            Task::Replay(task) => task.log,
            Task::Healthcheck(task) => task.log,
            Task::State(_) | Task::Print(_) => LogSettings::default(),
        }
    }
}

/// Returns those of `names`, the variables of an environment, that start like a variable of this program and are none: they
/// are misspelt, in all likelihood, and ignored.
pub fn unknown_variables(names: impl IntoIterator<Item = OsString>) -> Vec<String> {
    flags::unknown_variables(names)
}

/// Show or change a state file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StateTask {
    /// The state file.
    pub path: PathBuf,
    /// The feed to forget; `None` to show the file.
    pub forget: Option<String>,
}
