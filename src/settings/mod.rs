//! Flags and environment to validated settings.
//!
//! `flags` holds what was written, literally; what this module hands out has been judged, and is all that the rest of
//! the program sees. Nothing is started here. Architecture invariant: the environment comes in as a function, so that no
//! test touches the process's own.

mod config_file;
mod credentials;
mod duration;
mod error;
mod feed_target;
mod flags;
mod healthcheck_url;
mod listen_address;
mod number;

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use clap::ValueEnum;
use url::Url;

pub use config_file::{ConfigFile, ReloadableSettings};
pub use duration::DurationError;
pub use error::{NameError, SettingsError, TelemetryPathError};
pub use feed_target::{FeedTarget, FeedUrlError};
pub use healthcheck_url::HealthcheckUrlError;
pub use listen_address::ListenAddressError;
pub use number::NumberError;

use crate::demo::DemoSettings;
use crate::feed::{Credentials, Secret, Timing};
use crate::http::WebConfigFile;
use crate::ledger::Limits;
use flags::{CommandLine, Subcommands};

const FEED_URL_DEFAULT: &str = "ws://localhost:8765";
const LISTEN_ADDRESS_DEFAULT: &str = "localhost:9090";
const LISTEN_PORT_DEFAULT: u16 = 9090;
const TELEMETRY_PATH_DEFAULT: &str = "/metrics";
/// Feeds of one bridge. Two feeds are compared at every snapshot to find out whether they are one server.
const FEEDS_MAX: usize = 64;
const FRAME_BYTES_MAX_DEFAULT: usize = 1024 * 1024;

/// What a running bridge is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// The feeds to subscribe to, each with an identity of its own.
    pub feeds: Vec<FeedTarget>,
    /// Every address to serve at. Port 0 is one that is free.
    pub listen: Vec<SocketAddr>,
    /// Every Unix socket to serve at.
    pub listen_unix: Vec<PathBuf>,
    /// Whether to serve at the sockets that systemd passes, in place of `listen`.
    pub systemd_socket: bool,
    /// TLS, users and headers, if there are to be any.
    pub web_config: Option<Arc<WebConfigFile>>,
    /// Path of the metrics: starts with a slash, and is not one of the health paths.
    pub telemetry_path: String,
    /// Whether OpenMetrics tells when series came into being under watch, as `_created`.
    pub with_created: bool,
    /// How much is counted and remembered.
    pub ledger_limits: Limits,
    /// Longest frame that is read, in bytes.
    pub frame_bytes_max: usize,
    /// Every wait of every feed. The one that has a flag is how long a feed that sends snapshots may send none.
    pub timing: Timing,
    /// Where the counts are kept.
    pub state: StateLocation,
    /// Where feeds and limits stand, if in a file: it can be read again.
    pub config_file: Option<ConfigFile>,
    /// What is logged, and how.
    pub log: LogSettings,
}

/// Where the counts are kept over restarts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StateLocation {
    /// In memory alone.
    InMemory,
    /// In the usual place, by the XDG rules; in memory, with a warning, if that cannot be written. `None` where there is
    /// no home directory to find it in.
    Default(Option<PathBuf>),
    /// Here and nowhere else.
    Path(PathBuf),
}

/// Something to be done with the state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StateTask {
    /// Where it is.
    pub path: PathBuf,
    /// The feed to forget; `None` to show what is kept.
    pub forget: Option<String>,
}

/// What is logged, and how.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LogSettings {
    /// The least important messages that are still logged.
    pub level: LogLevel,
    /// How they are written.
    pub format: LogFormat,
}

/// How important a message is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum LogLevel {
    /// Something failed for good.
    Error,
    /// Something is wrong and is being dealt with.
    Warn,
    /// What an operator wants to know.
    #[default]
    Info,
    /// What a developer wants to know.
    Debug,
    /// Everything.
    Trace,
}

/// How a log line is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum LogFormat {
    /// `key=value` pairs, for people and for log stores.
    #[default]
    Logfmt,
    /// One JSON object for each line.
    Json,
}

/// What the program was asked to do.
#[derive(Debug, Clone, PartialEq)]
pub enum Task {
    /// Run the bridge.
    Run(Settings),
    /// Run the bridge on a made-up feed.
    Demo(DemoTask),
    /// Look at a feed once.
    Check(CheckTask),
    /// Say why the numbers are what they are.
    Explain(ExplainTask),
    /// Write down what a feed sends.
    Record(RecordTask),
    /// Print what a recording leads to.
    Replay(ReplayTask),
    /// Ask a running bridge whether it works.
    Healthcheck(HealthcheckTask),
    /// See or mend what is kept over restarts.
    State(StateTask),
    /// Print this: a script that completes the command line, or the manual page.
    Print(Vec<u8>),
}

/// The bridge on a made-up feed.
#[derive(Debug, Clone, PartialEq)]
pub struct DemoTask {
    /// The made-up feed.
    pub feed: DemoSettings,
    /// The bridge. Its feed is unknown until the made-up one has a port, so `feeds` is empty.
    pub bridge: Settings,
    /// Whether nobody chose an address, so that another port will do if the usual one is taken.
    pub any_port: bool,
}

/// A recording to be made.
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

/// A feed to be looked at.
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

/// Numbers to be explained.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExplainTask {
    /// Where they come from.
    pub what: Explained,
    /// The one skill that is told of; `None` for all.
    pub skill: Option<String>,
    /// How much is counted and remembered.
    pub ledger_limits: Limits,
    /// What is logged, and how.
    pub log: LogSettings,
}

/// Where numbers that are to be explained come from.
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

/// A recording to be folded.
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

/// A question to a running bridge.
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
    /// Reads a command line (the first of `args` is the program's name) over an environment, and judges it. A host name
    /// to listen on is resolved, and files of credentials are looked into, so that what cannot work is refused here.
    pub fn from_args(
        args: impl IntoIterator<Item = impl Into<OsString> + Clone>,
        environment: impl Fn(&str) -> Option<OsString>,
    ) -> Result<Self, SettingsError> {
        let CommandLine { command, run } = flags::parse(args, &environment)?;
        match command.unwrap_or(Subcommands::Run(run)) {
            Subcommands::Run(flags) => run_or_check(flags, &environment),
            Subcommands::Demo(flags) => demo_task(flags).map(Task::Demo),
            Subcommands::Check(flags) => check_task(flags, &environment).map(Task::Check),
            Subcommands::Explain(flags) => explain_task(flags, &environment).map(Task::Explain),
            Subcommands::Record(flags) => record_task(flags, &environment).map(Task::Record),
            Subcommands::Replay(flags) => replay_task(flags).map(Task::Replay),
            Subcommands::Healthcheck(flags) => healthcheck_task(flags).map(Task::Healthcheck),
            Subcommands::Completions { shell } => Ok(Task::Print(flags::completions(shell))),
            Subcommands::Man => Ok(Task::Print(flags::man_page())),
            Subcommands::State(command) => state_task(command, &environment).map(Task::State),
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

/// Those of `names`, an environment's, that look like a variable of this program and are none: misspelt, in all
/// likelihood, and ignored.
pub fn unknown_variables(names: impl IntoIterator<Item = OsString>) -> Vec<String> {
    flags::unknown_variables(names)
}

impl Settings {
    /// The defaults of the command line for `feeds`, served at `127.0.0.1:9090`, but with the counts in memory.
    pub fn new(feeds: Vec<FeedTarget>) -> Self {
        Self {
            feeds,
            listen: vec![(Ipv4Addr::LOCALHOST, LISTEN_PORT_DEFAULT).into()],
            listen_unix: Vec::new(),
            systemd_socket: false,
            web_config: None,
            telemetry_path: TELEMETRY_PATH_DEFAULT.to_owned(),
            with_created: false,
            ledger_limits: Limits::default(),
            frame_bytes_max: FRAME_BYTES_MAX_DEFAULT,
            timing: Timing::default(),
            state: StateLocation::InMemory,
            config_file: None,
            log: LogSettings::default(),
        }
    }

    /// The addresses that other machines can reach. Whoever reaches one reads every metric: worth a warning.
    pub fn exposed_addresses(&self) -> impl Iterator<Item = SocketAddr> {
        self.listen.iter().copied().filter(|address| !address.ip().is_loopback())
    }
}

fn run_or_check(flags: flags::RunFlags, environment: &dyn Fn(&str) -> Option<OsString>) -> Result<Task, SettingsError> {
    let checks = flags.config.check;
    let settings = run_task(flags, environment)?;
    match (checks, &settings.config_file) {
        (false, _) => Ok(Task::Run(settings)),
        (true, None) => Err(SettingsError::MissingConfigFile),
        (true, Some(file)) => {
            let mut text = format!("{} can be used. Feeds:\n", file.path.display());
            for feed in &settings.feeds {
                text.push_str(&format!("  {}\n", feed.identity));
            }
            Ok(Task::Print(text.into_bytes()))
        }
    }
}

fn run_task(flags: flags::RunFlags, environment: &dyn Fn(&str) -> Option<OsString>) -> Result<Settings, SettingsError> {
    let given = feed_setting_given(&flags);
    let flags::RunFlags { config, feeds: feed_flags, connection, web, state, limits, log } = flags;
    let ledger_limits = ledger_limits(&limits)?;
    let flags::FeedFlags { urls, names, skills_dbs, subscription } = feed_flags;
    if urls.len() > FEEDS_MAX {
        return Err(SettingsError::TooManyFeeds { urls: urls.len(), feeds_max: FEEDS_MAX });
    }
    if !names.is_empty() && names.len() != urls.len() {
        return Err(SettingsError::NameCountMismatch { names: names.len(), urls: urls.len() });
    }
    let subscription = Subscription::new(subscription, ledger_limits.label_chars_max, environment)?;
    let mut feeds = subscription.targets(&urls)?;
    for (feed, name) in feeds.iter_mut().zip(names) {
        feed.identity = checked_name("--feed.name", name, ledger_limits.label_chars_max)?;
    }
    give_databases(&mut feeds, skills_dbs)?;
    distinct(&feeds)?;
    let secret = |variable| {
        let value = environment(variable).and_then(|value| value.into_string().ok());
        value.filter(|value| !value.trim().is_empty()).map(Secret::new)
    };
    let from_flags = ReloadableSettings { feeds, ledger_limits, frame_bytes_max: connection.frame_bytes_max as usize };
    let config_file = config.file.map(|path| ConfigFile {
        path,
        feeds: from_flags.feeds.clone(),
        limits: ledger_limits,
        frame_bytes_max: from_flags.frame_bytes_max,
        token: secret(flags::TOKEN_VARIABLE),
        jwt_secret: secret(flags::JWT_SECRET_VARIABLE),
    });
    let ReloadableSettings { feeds, ledger_limits, frame_bytes_max } = match &config_file {
        None => from_flags,
        Some(file) => {
            let configured = file.read()?;
            if let Some(setting) = given.filter(|_| configured.feeds != from_flags.feeds) {
                return Err(SettingsError::ConflictingFeeds { file: file.path.clone(), setting });
            }
            configured
        }
    };
    Ok(Settings {
        frame_bytes_max,
        config_file,
        timing: timing(&connection),
        state: match state {
            flags::StateFlags { disabled: true, .. } => StateLocation::InMemory,
            flags::StateFlags { path: Some(path), .. } => StateLocation::Path(path),
            flags::StateFlags { path: None, .. } => StateLocation::Default(usual_state(environment)),
        },
        ..served(web, ledger_limits, &log, feeds)?
    })
}

/// The first flag that says something of feeds.
fn feed_setting_given(flags: &flags::RunFlags) -> Option<&'static str> {
    let flags::FeedFlags { urls, names, skills_dbs, subscription } = &flags.feeds;
    let credentials = &subscription.credentials;
    let given = [
        ("--feed.url", *urls != [FEED_URL_DEFAULT]),
        ("--feed.name", !names.is_empty()),
        ("--feed.skills-db", !skills_dbs.is_empty()),
        ("--feed.skill", subscription.skill.is_some()),
        ("--feed.token-file", credentials.token_file.is_some()),
        ("--feed.jwt-secret-file", credentials.jwt_secret_file.is_some()),
        ("--feed.headers-file", credentials.headers_file.is_some()),
        ("--feed.ca-file", credentials.ca_file.is_some()),
        ("--feed.cert-file", credentials.cert_file.is_some()),
        ("--feed.key-file", credentials.key_file.is_some()),
    ];
    given.into_iter().find(|(_, is_given)| *is_given).map(|(flag, _)| flag)
}

/// No two feeds may have one identity, or one database.
fn distinct(feeds: &[FeedTarget]) -> Result<(), SettingsError> {
    let (mut identities, mut databases) = (BTreeSet::new(), BTreeSet::new());
    for FeedTarget { identity, skills_db, .. } in feeds {
        if !identities.insert(identity) {
            return Err(SettingsError::DuplicateIdentity { identity: identity.clone() });
        }
        if let Some(path) = skills_db.as_ref().filter(|path| !databases.insert(*path)) {
            return Err(SettingsError::DuplicateSkillsDb { path: path.clone() });
        }
    }
    Ok(())
}

/// Gives each feed its database: one for each, in their order, `none` for none.
fn give_databases(feeds: &mut [FeedTarget], databases: Vec<PathBuf>) -> Result<(), SettingsError> {
    if databases.is_empty() {
        return Ok(());
    }
    if databases.len() != feeds.len() {
        return Err(SettingsError::SkillsDbCountMismatch { databases: databases.len(), urls: feeds.len() });
    }
    for (feed, path) in feeds.iter_mut().zip(databases) {
        feed.skills_db = Some(path).filter(|path| path.as_os_str() != "none");
    }
    Ok(())
}

/// `$XDG_STATE_HOME/session-buddy-bridge/state.db`, or the same in `~/.local/state`. By the XDG rules a path that is not
/// absolute is as good as none.
fn usual_state(environment: &dyn Fn(&str) -> Option<OsString>) -> Option<PathBuf> {
    let folder = |variable| environment(variable).map(PathBuf::from).filter(|path| path.is_absolute());
    let states = folder("XDG_STATE_HOME").or_else(|| Some(folder("HOME")?.join(".local/state")))?;
    Some(states.join("session-buddy-bridge/state.db"))
}

fn state_task(
    command: flags::StateCommands,
    environment: &dyn Fn(&str) -> Option<OsString>,
) -> Result<StateTask, SettingsError> {
    let (state, forget) = match command {
        flags::StateCommands::Show(state) => (state, None),
        flags::StateCommands::Forget(flags::ForgetFlags { feed, state }) => (state, Some(feed)),
    };
    let path = state.path.or_else(|| usual_state(environment)).ok_or(SettingsError::NoStatePath)?;
    Ok(StateTask { path, forget })
}

fn demo_task(flags: flags::DemoFlags) -> Result<DemoTask, SettingsError> {
    let any_port = flags.web.listen_addresses.is_empty();
    let feed = DemoSettings {
        seed: flags.seed,
        invocations_per_second: flags.invocations_per_second.into(),
        ..DemoSettings::default()
    };
    let mut bridge = served(flags.web, ledger_limits(&flags.limits)?, &flags.log, Vec::new())?;
    if any_port {
        // One address, so that one URL is printed and the other port is as good as the usual one.
        bridge.listen.truncate(1);
    }
    Ok(DemoTask { feed, bridge, any_port })
}

fn record_task(
    flags: flags::RecordFlags,
    environment: &dyn Fn(&str) -> Option<OsString>,
) -> Result<RecordTask, SettingsError> {
    let subscription = Subscription::new(flags.subscription, Limits::default().label_chars_max, environment)?;
    Ok(RecordTask {
        file: flags.file,
        duration: Duration::from_secs(flags.seconds),
        feed: subscription.targets(&[flags.url])?.swap_remove(0),
        frame_bytes_max: flags.connection.frame_bytes_max as usize,
        timing: timing(&flags.connection),
        log: log_settings(&flags.log),
    })
}

fn check_task(
    flags: flags::CheckFlags,
    environment: &dyn Fn(&str) -> Option<OsString>,
) -> Result<CheckTask, SettingsError> {
    let ledger_limits = ledger_limits(&flags.limits)?;
    let subscription = Subscription::new(flags.subscription, ledger_limits.label_chars_max, environment)?;
    Ok(CheckTask {
        feed: subscription.targets(&[flags.url])?.swap_remove(0),
        duration: Duration::from_secs(flags.seconds),
        frame_bytes_max: flags.connection.frame_bytes_max as usize,
        timing: timing(&flags.connection),
        ledger_limits,
        log: log_settings(&flags.log),
    })
}

fn explain_task(
    flags: flags::ExplainFlags,
    environment: &dyn Fn(&str) -> Option<OsString>,
) -> Result<ExplainTask, SettingsError> {
    let ledger_limits = ledger_limits(&flags.limits)?;
    let checked = |flag, skill| checked_name(flag, skill, ledger_limits.label_chars_max);
    let what = match flags.file {
        Some(file) => {
            let subscribed = flags.subscription.skill.map(|skill| checked("--feed.skill", skill)).transpose()?;
            Explained::Recording { file, subscribed }
        }
        None => {
            let subscription = Subscription::new(flags.subscription, ledger_limits.label_chars_max, environment)?;
            Explained::Feed {
                target: Box::new(subscription.targets(&[flags.url])?.swap_remove(0)),
                frame_bytes_max: flags.connection.frame_bytes_max as usize,
                timing: timing(&flags.connection),
                duration: Duration::from_secs(flags.seconds),
            }
        }
    };
    Ok(ExplainTask {
        what,
        skill: flags.only_skill.map(|skill| checked("--skill", skill)).transpose()?,
        ledger_limits,
        log: log_settings(&flags.log),
    })
}

fn replay_task(flags: flags::ReplayFlags) -> Result<ReplayTask, SettingsError> {
    let ledger_limits = ledger_limits(&flags.limits)?;
    let checked = |skill| checked_name("--feed.skill", skill, ledger_limits.label_chars_max);
    Ok(ReplayTask {
        file: flags.file,
        skill: flags.skill.map(checked).transpose()?,
        ledger_limits,
        log: log_settings(&flags.log),
    })
}

fn healthcheck_task(flags: flags::HealthcheckFlags) -> Result<HealthcheckTask, SettingsError> {
    let url = healthcheck_url::read(&flags.url)
        .map_err(|error| SettingsError::HealthcheckUrl { url: feed_target::redacted(&flags.url), error })?;
    Ok(HealthcheckTask { url, timeout: flags.timeout, log: log_settings(&flags.log) })
}

/// The settings that `run` and `demo` share.
fn served(
    web: flags::WebFlags,
    ledger_limits: Limits,
    log: &flags::LogFlags,
    feeds: Vec<FeedTarget>,
) -> Result<Settings, SettingsError> {
    let mut addresses = web.listen_addresses;
    if addresses.is_empty() {
        addresses.push(LISTEN_ADDRESS_DEFAULT.to_owned());
    }
    let mut listen = Vec::new();
    let mut listen_unix = Vec::new();
    for address in addresses {
        if let Some(path) = listen_address::unix_path(&address) {
            listen_unix.push(path);
            continue;
        }
        match listen_address::resolve(&address) {
            Ok(addresses) => listen.extend(addresses),
            Err(error) => return Err(SettingsError::ListenAddress { address, error }),
        }
    }
    let mut seen = BTreeSet::new();
    listen.retain(|address| address.port() == 0 || seen.insert(*address));
    Ok(Settings {
        listen,
        listen_unix,
        systemd_socket: web.systemd_socket,
        web_config: web.config_file.as_deref().map(WebConfigFile::open).transpose()?.map(Arc::new),
        telemetry_path: checked_path(web.telemetry_path)?,
        with_created: web.with_created,
        ledger_limits,
        log: log_settings(log),
        ..Settings::new(feeds)
    })
}

/// What is asked of every feed alike.
struct Subscription {
    skill: Option<String>,
    credentials: Credentials,
}

impl Subscription {
    fn new(
        flags: flags::SubscriptionFlags,
        label_chars_max: usize,
        environment: &dyn Fn(&str) -> Option<OsString>,
    ) -> Result<Self, SettingsError> {
        let checked = |skill| checked_name("--feed.skill", skill, label_chars_max);
        let credentials = credentials::read(flags.credentials, environment)?;
        Ok(Self { skill: flags.skill.map(checked).transpose()?, credentials })
    }

    fn targets(&self, urls: &[String]) -> Result<Vec<FeedTarget>, SettingsError> {
        let targets = urls.iter().map(|url| self.target(url)).collect::<Result<Vec<_>, _>>()?;
        match credentials::tls_flag(&self.credentials.tls) {
            Some(flag) if targets.iter().all(|target| target.url.scheme() != "wss") => {
                Err(SettingsError::TlsOptionWithoutTls { flag })
            }
            _ => Ok(targets),
        }
    }

    fn target(&self, url: &str) -> Result<FeedTarget, SettingsError> {
        let mut target =
            FeedTarget::new(url).map_err(|error| SettingsError::FeedUrl { url: feed_target::redacted(url), error })?;
        if let Some(skill) = &self.skill {
            target = target.with_skill(skill);
        }
        target.credentials = self.credentials.clone();
        Ok(target)
    }
}

fn checked_name(flag: &'static str, name: String, chars_max: usize) -> Result<String, SettingsError> {
    let chars = name.chars().count();
    let problem = match () {
        () if name.trim().is_empty() => NameError::Empty,
        () if chars > chars_max => NameError::TooLong { chars, chars_max },
        () if name.contains(char::is_control) => NameError::ControlCharacter,
        () => return Ok(name),
    };
    Err(SettingsError::Name { flag, name, problem })
}

fn checked_path(path: String) -> Result<String, SettingsError> {
    let unfit = |c: char| !c.is_ascii_alphanumeric() && !"-._~/".contains(c);
    let problem = match path.find(unfit).and_then(|at| path[at..].chars().next()) {
        _ if !path.starts_with('/') => TelemetryPathError::NoSlash,
        Some(unfit) => TelemetryPathError::Character(unfit),
        None if ["/-/healthy", "/-/ready"].contains(&path.trim_end_matches('/')) => TelemetryPathError::Taken,
        None => return Ok(path),
    };
    Err(SettingsError::TelemetryPath { path, problem })
}

fn ledger_limits(flags: &flags::LimitFlags) -> Result<Limits, SettingsError> {
    let limits = Limits {
        skills_max: flags.skills_max as usize,
        remembered_skills_max: flags.remembered_skills_max as usize,
        label_chars_max: flags.label_chars_max as usize,
        ..Limits::default()
    };
    checked_limits(limits)
}

fn checked_limits(limits: Limits) -> Result<Limits, SettingsError> {
    if limits.remembered_skills_max < limits.skills_max {
        return Err(SettingsError::RememberedSkills {
            remembered: limits.remembered_skills_max,
            skills: limits.skills_max,
        });
    }
    Ok(limits)
}

fn timing(flags: &flags::ConnectionFlags) -> Timing {
    Timing { silence_timeout: flags.silence_timeout, ..Timing::default() }
}

fn log_settings(flags: &flags::LogFlags) -> LogSettings {
    LogSettings { level: flags.level, format: flags.format }
}
