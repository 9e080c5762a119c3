//! The command line as it stands: what was written, before it is judged.
//!
//! Every flag with a dot in its name can also be set by the environment. The environment becomes the flag's default
//! before the line is parsed, so both go through the same checks, and the line wins.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use clap::builder::ValueParser;
use clap::error::{ContextKind, ContextValue};
use clap::{Arg, ArgAction, Args, Command, CommandFactory, FromArgMatches, Parser, Subcommand};
use clap_complete::Shell;

use super::number::within;
use super::{FRAME_BYTES_MAX_DEFAULT, Limits, LogFormat, LogLevel, LogSettings, SettingsError, Timing, duration};
use crate::build_info::LONG_VERSION;

pub(super) const FEED_URL_DEFAULT: &str = "ws://localhost:8765";
pub(super) const LISTEN_ADDRESS_DEFAULT: &str = "localhost:9090";

const ENVIRONMENT_PREFIX: &str = "SESSION_BUDDY_BRIDGE_";

/// What is secret itself has no flag: a command line is visible to every user of the machine.
pub(super) const TOKEN_VARIABLE: &str = "SESSION_BUDDY_BRIDGE_FEED_TOKEN";
pub(super) const JWT_SECRET_VARIABLE: &str = "SESSION_BUDDY_BRIDGE_FEED_JWT_SECRET";

/// Variables of this name that are the tests', and no mistake where a bridge is started beside them.
const TEST_VARIABLES: [&str; 3] =
    ["SESSION_BUDDY_BRIDGE_LONG", "SESSION_BUDDY_BRIDGE_PEERS_DIR", "SESSION_BUDDY_BRIDGE_REQUIRE_PEERS"];

/// At most 80 columns, so that no terminal breaks its lines.
const AFTER_HELP: &str = "\
Environment:
  A flag with a dot in its name can also be set by a variable: its name in
  capitals, _ for . and -, after SESSION_BUDDY_BRIDGE_. The flag wins. What may
  be repeated is separated by commas. An empty variable counts as unset.
  Two variables have no flag, because every user of a machine can read its
  command lines: SESSION_BUDDY_BRIDGE_FEED_JWT_SECRET holds the secret of servers
  that ask for a token, SESSION_BUDDY_BRIDGE_FEED_TOKEN a token itself.

Durations:
  A number and a unit: 500ms, 10s, 1.5m, 1h.

Exit codes:
  0  ended as asked: by a signal, or the work was done
  1  failed while running, for example because the address was in use
  2  a flag or a variable was refused; nothing was started

Examples:
  session-buddy-bridge
      subscribe to ws://localhost:8765, serve http://localhost:9090/metrics
  session-buddy-bridge demo
      the same without a Session-Buddy server, on a feed that is made up
  session-buddy-bridge --feed.url ws://alpha:8765 --feed.url ws://beta:8765
      two servers in one scrape
  session-buddy-bridge --web.listen-address :9101
      serve other machines too, on port 9101
  session-buddy-bridge check --feed.url ws://alpha:8765
      see whether that server is one to count, and what would be counted
  session-buddy-bridge record feed.ndjson --seconds 60
  session-buddy-bridge replay feed.ndjson
  session-buddy-bridge explain feed.ndjson --skill pytest-run
      keep what a server sends, see what becomes of it, and why
  session-buddy-bridge healthcheck http://127.0.0.1:9101/-/healthy
      ask a bridge on port 9101 whether it works";

/// Counts the skills of a Session-Buddy server exactly once and serves them to Prometheus.
///
/// Session-Buddy's RealTimeMetricsServer repeats its totals every second over a WebSocket. This bridge subscribes to
/// it, works out what is new, and shows it as Prometheus metrics. Without a command it runs the bridge.
#[derive(Debug, Parser)]
#[command(name = "session-buddy-bridge", version, long_version = LONG_VERSION)]
#[command(args_conflicts_with_subcommands = true, after_help = AFTER_HELP)]
pub(super) struct CommandLine {
    #[command(subcommand)]
    pub command: Option<Subcommands>,
    #[command(flatten)]
    pub run: RunFlags,
}

#[derive(Debug, Subcommand)]
pub(super) enum Subcommands {
    /// Subscribe to the feeds and serve their metrics until told to stop (what happens without a command)
    Run(RunFlags),
    /// See it work without a server: a made-up feed and the bridge subscribed to it, on this machine alone
    Demo(DemoFlags),
    /// Look at a feed once and say in words what is seen: reachable, authenticated, its cadence, its skills, what the
    /// metrics would be
    Check(CheckFlags),
    /// Say of each message what it changed and by which rule: of a recording, or of a live feed
    Explain(ExplainFlags),
    /// Write down what a feed sends, one JSON line for each frame
    Record(RecordFlags),
    /// Print the metrics that a recording leads to
    Replay(ReplayFlags),
    /// Ask a running bridge whether it works: exit code 0 if it does, else 1 (for containers without curl)
    Healthcheck(HealthcheckFlags),
    /// See or mend what is kept over restarts
    #[command(subcommand)]
    State(StateCommands),
    /// Print a script that completes this command line in a shell
    Completions {
        /// The shell
        shell: Shell,
    },
    /// Print the manual page, for man(1)
    Man,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Configuration")]
pub(super) struct ConfigFlags {
    /// YAML file with feeds, each with name, URL, skill and credentials, and limits; read again on SIGHUP
    #[arg(long = "config.file", value_name = "FILE")]
    pub file: Option<PathBuf>,
    /// Read --config.file and every file that it names, say whether they can be used, and end
    #[arg(long = "config.check", value_name = "BOOL", action = ArgAction::Set, num_args = 0..=1)]
    #[arg(require_equals = true, default_value = "false", default_missing_value = "true", hide_possible_values = true)]
    pub check: bool,
}

#[derive(Debug, Args)]
pub(super) struct RunFlags {
    #[command(flatten)]
    pub config: ConfigFlags,
    #[command(flatten)]
    pub feeds: FeedFlags,
    #[command(flatten)]
    pub connection: ConnectionFlags,
    #[command(flatten)]
    pub web: WebFlags,
    #[command(flatten)]
    pub state: StateFlags,
    #[command(flatten)]
    pub limits: LimitFlags,
    #[command(flatten)]
    pub log: LogFlags,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "State")]
pub(super) struct StateFlags {
    /// File that keeps the counts over restarts [default: session-buddy-bridge/state.db in $XDG_STATE_HOME or
    /// ~/.local/state]
    #[arg(long = "state.path", value_name = "FILE")]
    pub path: Option<PathBuf>,
    /// Keep the counts in memory alone: a restart begins anew
    // A flag that can stand alone, and that a variable can set to either value.
    #[arg(long = "state.disabled", value_name = "BOOL", action = ArgAction::Set, num_args = 0..=1)]
    #[arg(require_equals = true, default_value = "false", default_missing_value = "true", hide_possible_values = true)]
    pub disabled: bool,
}

#[derive(Debug, Subcommand)]
pub(super) enum StateCommands {
    /// Print what is kept, feed by feed; a running bridge is not disturbed
    Show(StatePathFlags),
    /// Forget what is remembered of a feed, so that its whole past counts once more when it is seen again; the bridge
    /// must not be running
    Forget(ForgetFlags),
}

#[derive(Debug, Args)]
#[command(next_help_heading = "State")]
pub(super) struct StatePathFlags {
    /// File that keeps the counts [default: session-buddy-bridge/state.db in $XDG_STATE_HOME or ~/.local/state]
    #[arg(long = "state.path", value_name = "FILE")]
    pub path: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(super) struct ForgetFlags {
    /// The feed's identity, as `state show` and the label `feed` have it
    pub feed: String,
    #[command(flatten)]
    pub state: StatePathFlags,
}

#[derive(Debug, Args)]
pub(super) struct DemoFlags {
    /// Where chance starts: the same number, the same invocations [range: 0 to 18446744073709551615]
    #[arg(long = "demo.seed", value_name = "NUMBER", default_value_t = 1, help_heading = "Demo")]
    #[arg(value_parser = within::<u64>(0, u64::MAX))]
    pub seed: u64,
    /// How many invocations happen in a second, on average [range: 1 to 1000]
    #[arg(long = "demo.invocations-per-second", value_name = "NUMBER", default_value_t = 4, help_heading = "Demo")]
    #[arg(value_parser = within::<u32>(1, 1000))]
    pub invocations_per_second: u32,
    #[command(flatten)]
    pub web: WebFlags,
    #[command(flatten)]
    pub limits: LimitFlags,
    #[command(flatten)]
    pub log: LogFlags,
}

#[derive(Debug, Args)]
pub(super) struct RecordFlags {
    /// The file to write; it must not be there yet
    pub file: PathBuf,
    /// How long to listen [range: 1 to 86400]
    #[arg(long, value_name = "NUMBER", default_value_t = 60, value_parser = within::<u64>(1, 86_400))]
    pub seconds: u64,
    /// WebSocket URL of the server
    #[arg(long = "feed.url", value_name = "URL", default_value = FEED_URL_DEFAULT, help_heading = "Feed")]
    pub url: String,
    #[command(flatten)]
    pub subscription: SubscriptionFlags,
    #[command(flatten)]
    pub connection: ConnectionFlags,
    #[command(flatten)]
    pub log: LogFlags,
}

#[derive(Debug, Args)]
pub(super) struct CheckFlags {
    /// How long to listen at most [range: 1 to 3600]
    #[arg(long, value_name = "NUMBER", default_value_t = 10, value_parser = within::<u64>(1, 3600))]
    pub seconds: u64,
    /// WebSocket URL of the server
    #[arg(long = "feed.url", value_name = "URL", default_value = FEED_URL_DEFAULT, help_heading = "Feed")]
    pub url: String,
    #[command(flatten)]
    pub subscription: SubscriptionFlags,
    #[command(flatten)]
    pub connection: ConnectionFlags,
    #[command(flatten)]
    pub limits: LimitFlags,
    #[command(flatten)]
    pub log: LogFlags,
}

#[derive(Debug, Args)]
pub(super) struct ExplainFlags {
    /// The recording; without one the feed is listened to
    pub file: Option<PathBuf>,
    /// Tell only what concerns this skill
    #[arg(long = "skill", value_name = "SKILL")]
    pub only_skill: Option<String>,
    /// How long to listen to a feed [range: 1 to 86400]
    #[arg(long, value_name = "NUMBER", default_value_t = 60, value_parser = within::<u64>(1, 86_400))]
    pub seconds: u64,
    /// WebSocket URL of the server
    #[arg(long = "feed.url", value_name = "URL", default_value = FEED_URL_DEFAULT, help_heading = "Feed")]
    pub url: String,
    #[command(flatten)]
    pub subscription: SubscriptionFlags,
    #[command(flatten)]
    pub connection: ConnectionFlags,
    #[command(flatten)]
    pub limits: LimitFlags,
    #[command(flatten)]
    pub log: LogFlags,
}

#[derive(Debug, Args)]
pub(super) struct ReplayFlags {
    /// The recording to read
    pub file: PathBuf,
    /// The skill that the recorded feed was subscribed to, if it was only one
    #[arg(long = "feed.skill", value_name = "SKILL", help_heading = "Feed")]
    pub skill: Option<String>,
    #[command(flatten)]
    pub limits: LimitFlags,
    #[command(flatten)]
    pub log: LogFlags,
}

#[derive(Debug, Args)]
pub(super) struct HealthcheckFlags {
    /// Where to ask, http:// alone: TLS is not spoken
    #[arg(id = "healthcheck.url", value_name = "URL", default_value = "http://127.0.0.1:9090/-/healthy")]
    pub url: String,
    /// How long the answer may take [range: 100ms to 1m]
    #[arg(long = "healthcheck.timeout", value_name = "DURATION", default_value = "3s")]
    #[arg(value_parser = ValueParser::new(healthcheck_timeout))]
    pub timeout: Duration,
    #[command(flatten)]
    pub log: LogFlags,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Feed")]
pub(super) struct FeedFlags {
    /// WebSocket URL of a Session-Buddy server, ws:// or wss:// (may be repeated)
    #[arg(long = "feed.url", value_name = "URL", default_value = FEED_URL_DEFAULT)]
    pub urls: Vec<String>,
    /// Name of a feed, in the order of the URLs, for the label `feed`: by default the URL without its query (may be
    /// repeated)
    #[arg(long = "feed.name", value_name = "NAME")]
    pub names: Vec<String>,
    /// File of the server's database, .session-buddy/skills.db where it runs, read along so that every skill, phase and
    /// duration is exact; one for each URL, in the same order, `none` for a feed without (may be repeated)
    #[arg(long = "feed.skills-db", value_name = "FILE")]
    pub skills_dbs: Vec<PathBuf>,
    #[command(flatten)]
    pub subscription: SubscriptionFlags,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Feed")]
pub(super) struct SubscriptionFlags {
    /// Subscribe to this one skill instead of all; anomalies are not sent then
    #[arg(long = "feed.skill", value_name = "SKILL")]
    pub skill: Option<String>,
    #[command(flatten)]
    pub credentials: CredentialFlags,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Credentials (of every feed; each file is read again at each connect)")]
pub(super) struct CredentialFlags {
    /// File that holds the secret of servers that ask for a token: a token of two minutes is signed with it at each connect
    #[arg(long = "feed.jwt-secret-file", value_name = "FILE")]
    pub jwt_secret_file: Option<PathBuf>,
    /// File that holds a token, made elsewhere, for servers that ask for one
    #[arg(long = "feed.token-file", value_name = "FILE")]
    pub token_file: Option<PathBuf>,
    /// File with headers for the handshake, for proxies that want them: one `Name: value` a line
    #[arg(long = "feed.headers-file", value_name = "FILE")]
    pub headers_file: Option<PathBuf>,
    /// PEM file with the certificates to trust for wss://, in place of the system's
    #[arg(long = "feed.ca-file", value_name = "FILE")]
    pub ca_file: Option<PathBuf>,
    /// PEM file with this client's certificate, for servers behind wss:// that ask for one
    #[arg(long = "feed.cert-file", value_name = "FILE")]
    pub cert_file: Option<PathBuf>,
    /// PEM file with the private key of that certificate, unencrypted
    #[arg(long = "feed.key-file", value_name = "FILE")]
    pub key_file: Option<PathBuf>,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Feed")]
pub(super) struct ConnectionFlags {
    /// Connect anew when a server that sends snapshots has sent none for this long [range: 1s to 1h]
    #[arg(long = "feed.silence-timeout", value_name = "DURATION", default_value = silence_timeout_default())]
    #[arg(value_parser = ValueParser::new(silence_timeout))]
    pub silence_timeout: Duration,
    /// Longest frame that is read; a longer one ends the connection [range: 1024 to 67108864]
    #[arg(long = "feed.max-frame-bytes", value_name = "BYTES", default_value_t = FRAME_BYTES_MAX_DEFAULT as u32)]
    #[arg(value_parser = within::<u32>(1024, 64 * 1024 * 1024))]
    pub frame_bytes_max: u32,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Web")]
pub(super) struct WebFlags {
    /// Where to serve: HOST:PORT, [IPV6]:PORT, :PORT for every interface, or unix:PATH (may be repeated) [default:
    /// localhost:9090]
    // The default is filled in later: the demo needs to know whether anybody chose.
    #[arg(long = "web.listen-address", value_name = "ADDRESS")]
    pub listen_addresses: Vec<String>,
    /// Serve at the sockets that systemd passes, in place of ports
    #[arg(long = "web.systemd-socket", value_name = "BOOL", action = ArgAction::Set, num_args = 0..=1)]
    #[arg(require_equals = true, default_value = "false", default_missing_value = "true", hide_possible_values = true)]
    pub systemd_socket: bool,
    /// YAML file with TLS, client certificates, users and headers, as the Prometheus exporter-toolkit defines it; read again
    /// when it changes
    #[arg(long = "web.config.file", value_name = "FILE")]
    pub config_file: Option<PathBuf>,
    /// Path of the metrics
    #[arg(long = "web.telemetry-path", value_name = "PATH", default_value = super::TELEMETRY_PATH_DEFAULT)]
    pub telemetry_path: String,
    /// Tell scrapers that ask for OpenMetrics when counters and histograms began, where that is known, as `_created`: one
    /// series more for each, which Prometheus stores
    #[arg(long = "web.created-timestamps", value_name = "BOOL", action = ArgAction::Set, num_args = 0..=1)]
    #[arg(require_equals = true, default_value = "false", default_missing_value = "true", hide_possible_values = true)]
    pub with_created: bool,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Limits")]
pub(super) struct LimitFlags {
    /// Most skills with series of their own; further ones are counted as `__overflow__` [range: 1 to 1000000]
    #[arg(long = "limit.skills", value_name = "NUMBER", default_value_t = Limits::default().skills_max as u32)]
    #[arg(value_parser = within::<u32>(1, 1_000_000))]
    pub skills_max: u32,
    /// Most skills of a feed whose numbers are remembered; further ones are not counted [range: --limit.skills to 2000000]
    #[arg(long = "limit.remembered-skills", value_name = "NUMBER")]
    #[arg(default_value_t = Limits::default().remembered_skills_max as u32, value_parser = within::<u32>(1, 2_000_000))]
    pub remembered_skills_max: u32,
    /// Longest label value; an entry with a longer one is not counted [range: 16 to 4096]
    #[arg(long = "limit.label-chars", value_name = "NUMBER", default_value_t = Limits::default().label_chars_max as u32)]
    #[arg(value_parser = within::<u32>(16, 4096))]
    pub label_chars_max: u32,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Log")]
pub(super) struct LogFlags {
    /// Least important messages that are still logged, on standard error
    #[arg(long = "log.level", value_name = "LEVEL", default_value = "info")]
    pub level: LogLevel,
    /// How they are written
    #[arg(long = "log.format", value_name = "FORMAT", default_value = "logfmt")]
    pub format: LogFormat,
}

impl LogFlags {
    pub fn settings(&self) -> LogSettings {
        LogSettings { level: self.level, format: self.format }
    }
}

fn silence_timeout_default() -> String {
    duration::show(Timing::default().silence_timeout)
}

fn silence_timeout(text: &str) -> Result<Duration, duration::DurationError> {
    duration::parse(text, Duration::from_secs(1), Duration::from_secs(3600))
}

fn healthcheck_timeout(text: &str) -> Result<Duration, duration::DurationError> {
    duration::parse(text, Duration::from_millis(100), Duration::from_secs(60))
}

/// Parses `args` (the first is the program's name) over what `environment` says.
pub(super) fn parse(
    args: impl IntoIterator<Item = impl Into<OsString> + Clone>,
    environment: &dyn Fn(&str) -> Option<OsString>,
) -> Result<CommandLine, SettingsError> {
    let parsed = command(environment)
        .try_get_matches_from(args)
        .and_then(|matches| CommandLine::from_arg_matches(&matches))
        .map_err(|error| match variable_at_fault(&error, environment) {
            Some(variable) => SettingsError::Environment { variable, error },
            None => SettingsError::CommandLine(error),
        })?;
    Ok(parsed)
}

/// A script that completes the command line in `shell`.
pub(super) fn completions(shell: Shell) -> Vec<u8> {
    let mut command = command(&|_| None);
    let (name, mut script) = (command.get_name().to_owned(), Vec::new());
    clap_complete::generate(shell, &mut command, name, &mut script);
    script
}

/// The manual page, in the language of man(7).
pub(super) fn man_page() -> Vec<u8> {
    let mut page = Vec::new();
    let manual = clap_mangen::Man::new(command(&|_| None)).manual("User Commands");
    manual.render(&mut page).expect("a Vec takes everything");
    page
}

/// The command line with the environment as defaults.
pub(super) fn command(environment: &dyn Fn(&str) -> Option<OsString>) -> Command {
    let with_environment = |arg| with_environment(arg, environment);
    CommandLine::command().mut_args(with_environment).mut_subcommands(|subcommand| {
        let subcommand = subcommand.mut_args(with_environment);
        subcommand.mut_subcommands(|inner| inner.mut_args(with_environment))
    })
}

fn with_environment(arg: Arg, environment: &dyn Fn(&str) -> Option<OsString>) -> Arg {
    let variable = variable_of(&arg);
    let arg = with_origins(arg, variable.as_deref());
    match variable.and_then(|variable| environment(&variable)).filter(|value| !value.is_empty()) {
        None => arg,
        Some(value) if matches!(arg.get_action(), ArgAction::Append) => arg.default_values(list(&value)),
        Some(value) => arg.default_value(value),
    }
}

/// Says in the help where the value comes from, on the line of the flag: clap gives the default a paragraph of its own.
fn with_origins(arg: Arg, variable: Option<&str>) -> Arg {
    let mut help = arg.get_help().cloned().unwrap_or_default().to_string();
    if let [default] = arg.get_default_values() {
        help.push_str(&format!(" [default: {}]", default.to_string_lossy()));
    }
    if let Some(variable) = variable {
        help.push_str(&format!("\n[env: {variable}]"));
    }
    arg.help(help).hide_default_value(true)
}

/// The parts between commas. What is not UTF-8 stays whole, for the parser to refuse.
fn list(value: &OsString) -> Vec<OsString> {
    match value.to_str() {
        Some(text) => text.split(',').map(|part| OsString::from(part.trim())).collect(),
        None => vec![value.clone()],
    }
}

/// The variable that sets `arg`, if one does.
fn variable_of(arg: &Arg) -> Option<String> {
    variable_named(arg.get_long().unwrap_or(arg.get_id().as_str()))
}

fn variable_named(flag: &str) -> Option<String> {
    flag.contains('.').then(|| format!("{ENVIRONMENT_PREFIX}{}", flag.to_uppercase().replace(['.', '-'], "_")))
}

/// Those of `names` that look like a variable of this program and are none.
pub(super) fn unknown_variables(names: impl IntoIterator<Item = OsString>) -> Vec<String> {
    let mut known = BTreeSet::from([TOKEN_VARIABLE, JWT_SECRET_VARIABLE].map(ToOwned::to_owned));
    known.extend(TEST_VARIABLES.map(ToOwned::to_owned));
    collect_variables(&CommandLine::command(), &mut known);
    let names = names.into_iter().map(|name| name.to_string_lossy().into_owned());
    names.filter(|name| name.starts_with(ENVIRONMENT_PREFIX) && !known.contains(name)).collect()
}

fn collect_variables(command: &Command, variables: &mut BTreeSet<String>) {
    variables.extend(command.get_arguments().filter_map(variable_of));
    command.get_subcommands().for_each(|subcommand| collect_variables(subcommand, variables));
}

/// The variable that holds the very value that `error` complains of.
fn variable_at_fault(error: &clap::Error, environment: &dyn Fn(&str) -> Option<OsString>) -> Option<String> {
    let text = |kind| match error.get(kind) {
        Some(ContextValue::String(text)) => Some(text),
        _ => None,
    };
    let flag = text(ContextKind::InvalidArg)?.split(' ').next()?.strip_prefix("--")?;
    let variable = variable_named(flag)?;
    let value = text(ContextKind::InvalidValue)?;
    environment(&variable).is_some_and(|found| found.to_str() == Some(value)).then_some(variable)
}
