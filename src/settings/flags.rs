//! Flags that several commands share, and those that become [`Settings`](super::Settings): as they are written, before they are
//! validated.

use std::path::PathBuf;
use std::time::Duration;

use clap::builder::ValueParser;
use clap::{ArgAction, Args, ValueEnum};
use serde::Deserialize;

use super::limits::{SERIES_MAX, SERIES_MIN};
use super::number::within;
use super::{
    FRAME_BYTES_MAX_DEFAULT, Limits, LogFormat, LogLevel, LogSettings, SettingsError, SocketMode, Timing,
    ZERO_FIRST_MAX, check_path, duration, push,
};
use crate::push::{PushReceiver, PushedSeries};

pub(crate) const FEED_URL_DEFAULT: &str = "ws://localhost:8765";
pub(crate) const LISTEN_ADDRESS_DEFAULT: &str = "localhost:9090";

/// Secrets have no flag: a command line is visible to every user of the machine.
pub(crate) const TOKEN_VARIABLE: &str = "SESSION_BUDDY_BRIDGE_FEED_TOKEN";
pub(crate) const JWT_SECRET_VARIABLE: &str = "SESSION_BUDDY_BRIDGE_FEED_JWT_SECRET";

#[derive(Debug, Args)]
#[command(next_help_heading = "Configuration")]
pub(crate) struct ConfigFlags {
    /// YAML file with feeds, each with name, URL, skill and credentials, receivers, directories of skills and limits; reloaded
    /// when it changes, and on SIGHUP
    #[arg(long = "config.file", value_name = "FILE")]
    pub file: Option<PathBuf>,
    /// Validate --config.file and every file that it names, report the result, and exit: the same as `check --offline`
    #[arg(long = "config.check", value_name = "BOOL", action = ArgAction::Set, num_args = 0..=1)]
    #[arg(require_equals = true, default_value = "false", default_missing_value = "true", hide_possible_values = true)]
    pub check: bool,
}

#[derive(Debug, Args)]
pub(crate) struct RunFlags {
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
    pub push: PushFlags,
    #[command(flatten)]
    pub skills: SkillsDirFlags,
    #[command(flatten)]
    pub limits: LimitFlags,
    #[command(flatten)]
    pub log: LogFlags,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Skills")]
pub(crate) struct SkillsDirFlags {
    /// Directory of installed skills, one folder each that holds SKILL.md: the folder's name is the skill's (may be repeated)
    #[arg(id = "skills.dir", long = "skills.dir", value_name = "DIR")]
    pub directories: Vec<PathBuf>,
}

impl SkillsDirFlags {
    /// Returns the directories.
    ///
    /// # Errors
    /// One starts with `~`.
    pub fn directories(self) -> Result<Vec<PathBuf>, SettingsError> {
        self.directories.iter().try_for_each(|directory| check_path("--skills.dir", directory))?;
        Ok(self.directories)
    }
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Remote write")]
pub(crate) struct PushFlags {
    /// URL of a receiver of Prometheus remote write 1.0, http:// or https:// (may be repeated, at most 4)
    #[arg(id = "push.url", long = "push.url", value_name = "URL")]
    pub urls: Vec<String>,
    // The defaults of this group are filled in later: a flag of receivers that is given where there is none is refused.
    /// Time between two samples of a series [range: 5s to 1h] [default: 60s]
    #[arg(id = "push.interval", long = "push.interval", value_name = "DURATION")]
    #[arg(value_parser = ValueParser::new(push::interval))]
    pub interval: Option<Duration>,
    /// Longest queue of samples that are not sent yet; a longer one is thinned, never dropped [range: 1MiB to 1024GiB]
    /// [default: 256MiB]
    #[arg(id = "push.max-queue-bytes", long = "push.max-queue-bytes", value_name = "SIZE")]
    #[arg(value_parser = ValueParser::new(push::queue_bytes))]
    pub queue_bytes_max: Option<u64>,
    #[command(flatten)]
    pub receiver: ReceiverFlags,
}

/// What holds for every receiver of the command line.
#[derive(Debug, Args)]
#[command(next_help_heading = "Remote write")]
pub(crate) struct ReceiverFlags {
    /// Name of the receiver in the bridge's own metrics, if there is one --push.url [default: its host, port and path]
    #[arg(id = "push.name", long = "push.name", value_name = "NAME")]
    pub name: Option<String>,
    #[command(flatten)]
    pub credentials: PushCredentialFlags,
    /// Label of every series that is pushed, NAME=VALUE (may be repeated) [default: job=session-buddy, instance=the host's
    /// name]
    #[arg(id = "push.label", long = "push.label", value_name = "LABEL")]
    pub labels: Vec<String>,
    /// Series that are pushed: the five families of skills, or the bridge's own metrics too [default: all]
    #[arg(id = "push.series", long = "push.series", value_name = "SERIES")]
    pub series: Option<SeriesChoice>,
    /// Age beyond which samples are not sent any more, except for the newest [range: 1m to 365d] [default: 7d]
    #[arg(id = "push.max-age", long = "push.max-age", value_name = "DURATION")]
    #[arg(value_parser = ValueParser::new(push::age_max))]
    pub age_max: Option<Duration>,
    /// Timeout of a request, with its connection [range: 1s to 10m] [default: 30s]
    #[arg(id = "push.timeout", long = "push.timeout", value_name = "DURATION")]
    #[arg(value_parser = ValueParser::new(push::timeout))]
    pub timeout: Option<Duration>,
    /// Allow credentials, and a query in the URL, over http:// to other machines: anybody between can read them
    #[arg(id = "push.insecure", long = "push.insecure", value_name = "BOOL", action = ArgAction::Set, num_args = 0..=1)]
    #[arg(require_equals = true, default_value = "false", default_missing_value = "true", hide_possible_values = true)]
    pub insecure: bool,
}

/// Receivers of a command that pushes once: those of a bridge with the same flags.
#[derive(Debug)]
pub(crate) struct CheckedReceivers {
    pub urls: Vec<String>,
    pub receiver: ReceiverFlags,
}

impl CheckedReceivers {
    /// # Errors
    /// The first setting that cannot be used.
    pub fn receivers(self, label_chars_max: usize) -> Result<Vec<PushReceiver>, SettingsError> {
        let flags = PushFlags { urls: self.urls, interval: None, queue_bytes_max: None, receiver: self.receiver };
        Ok(push::from_flags(flags, false, label_chars_max)?.receivers)
    }
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Remote write")]
pub(crate) struct PushCredentialFlags {
    /// File with headers of each request, such as X-Scope-OrgID: one `Name: value` per line; this and every other file is read
    /// again at each connection
    #[arg(id = "push.headers-file", long = "push.headers-file", value_name = "FILE")]
    pub headers_file: Option<PathBuf>,
    /// File with a bearer token
    #[arg(id = "push.bearer-token-file", long = "push.bearer-token-file", value_name = "FILE")]
    pub bearer_token_file: Option<PathBuf>,
    /// File with user:password for basic authentication
    #[arg(id = "push.basic-auth-file", long = "push.basic-auth-file", value_name = "FILE")]
    pub basic_auth_file: Option<PathBuf>,
    /// PEM file with the certificates to trust for https://, instead of the system's
    #[arg(id = "push.ca-file", long = "push.ca-file", value_name = "FILE")]
    pub ca_file: Option<PathBuf>,
    /// PEM file with the client certificate, for receivers that require one
    #[arg(id = "push.cert-file", long = "push.cert-file", value_name = "FILE")]
    pub cert_file: Option<PathBuf>,
    /// PEM file with the private key of that certificate, unencrypted
    #[arg(id = "push.key-file", long = "push.key-file", value_name = "FILE")]
    pub key_file: Option<PathBuf>,
}

/// Which series are pushed, as written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum SeriesChoice {
    /// The five families
    Five,
    /// The bridge's own metrics too
    All,
}

impl From<SeriesChoice> for PushedSeries {
    fn from(choice: SeriesChoice) -> Self {
        match choice {
            SeriesChoice::Five => Self::Five,
            SeriesChoice::All => Self::All,
        }
    }
}

#[derive(Debug, Args)]
#[command(next_help_heading = "State")]
pub(crate) struct StateFlags {
    /// State file, which persists the counts [default: session-buddy-bridge/state.db in $XDG_STATE_HOME or ~/.local/state]
    #[arg(long = "state.path", value_name = "FILE")]
    pub path: Option<PathBuf>,
    /// Keep the counts in memory only: they are lost on restart
    // A flag that can stand alone, and that a variable can set to either value.
    #[arg(long = "state.disabled", value_name = "BOOL", action = ArgAction::Set, num_args = 0..=1)]
    #[arg(require_equals = true, default_value = "false", default_missing_value = "true", hide_possible_values = true)]
    pub disabled: bool,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Feed")]
pub(crate) struct FeedFlags {
    /// WebSocket URL of a Session-Buddy server, ws:// or wss:// (may be repeated)
    #[arg(long = "feed.url", value_name = "URL", default_value = FEED_URL_DEFAULT)]
    pub urls: Vec<String>,
    /// Name of a feed, in the order of the URLs, for the label `feed`: by default the URL without its query (may be
    /// repeated)
    #[arg(long = "feed.name", value_name = "NAME")]
    pub names: Vec<String>,
    /// Database of the server, .session-buddy/skills.db where it runs, to count from, so that every skill, phase and duration
    /// is exact; one for each URL, in the same order, `none` for a feed without one (may be repeated)
    #[arg(long = "feed.skills-db", value_name = "FILE")]
    pub skills_dbs: Vec<PathBuf>,
    #[command(flatten)]
    pub subscription: SubscriptionFlags,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Feed")]
pub(crate) struct SubscriptionFlags {
    /// Subscribe to this one skill instead of all; anomalies are not sent then
    #[arg(long = "feed.skill", value_name = "SKILL")]
    pub skill: Option<String>,
    #[command(flatten)]
    pub credentials: CredentialFlags,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Feed credentials")]
pub(crate) struct CredentialFlags {
    /// File with the JWT secret of servers that require a token: a token valid for two minutes is signed at each connect. Credentials
    /// apply to every feed, and each file is read again at each connect
    #[arg(long = "feed.jwt-secret-file", value_name = "FILE")]
    pub jwt_secret_file: Option<PathBuf>,
    /// File with a pre-issued token, for servers that require one
    #[arg(long = "feed.token-file", value_name = "FILE")]
    pub token_file: Option<PathBuf>,
    /// File with headers of the handshake, for proxies that require them: one `Name: value` per line
    #[arg(long = "feed.headers-file", value_name = "FILE")]
    pub headers_file: Option<PathBuf>,
    /// PEM file with the certificates to trust for wss://, instead of the system's
    #[arg(long = "feed.ca-file", value_name = "FILE")]
    pub ca_file: Option<PathBuf>,
    /// PEM file with the client certificate, for wss:// servers that require one
    #[arg(long = "feed.cert-file", value_name = "FILE")]
    pub cert_file: Option<PathBuf>,
    /// PEM file with the private key of that certificate, unencrypted
    #[arg(long = "feed.key-file", value_name = "FILE")]
    pub key_file: Option<PathBuf>,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Feed")]
pub(crate) struct ConnectionFlags {
    /// Reconnect if a server that sends snapshots sends none within this time [range: 1s to 1h]
    #[arg(long = "feed.silence-timeout", value_name = "DURATION", default_value = silence_timeout_default())]
    #[arg(value_parser = ValueParser::new(silence_timeout))]
    pub silence_timeout: Duration,
    /// Longest frame that is accepted; a longer one ends the connection [range: 1024 to 67108864]
    #[arg(long = "feed.max-frame-bytes", value_name = "BYTES", default_value_t = FRAME_BYTES_MAX_DEFAULT as u32)]
    #[arg(value_parser = within::<u32>(1024, 64 * 1024 * 1024))]
    pub frame_bytes_max: u32,
}

/// Where the bridge listens, and how clients are served there. `healthcheck` derives its request from the same flags.
#[derive(Debug, Args)]
#[command(next_help_heading = "Web")]
pub(crate) struct ListenFlags {
    /// Address to listen on: HOST:PORT, [IPV6]:PORT, :PORT for every interface, or unix:PATH (may be repeated) [default:
    /// localhost:9090]
    // The default is filled in later: the demo needs to know whether an address was given.
    #[arg(long = "web.listen-address", value_name = "ADDRESS")]
    pub addresses: Vec<String>,
    /// Address to listen on if none is chosen. Set by packages, such as an image, in which the loopback interface serves nobody; unlike a
    /// chosen address, it is not warned about
    #[arg(long = "web.default-address", value_name = "ADDRESS", default_value = LISTEN_ADDRESS_DEFAULT, hide = true)]
    pub default_address: String,
    /// Listen on the sockets that systemd passes, instead of ports
    #[arg(long = "web.systemd-socket", value_name = "BOOL", action = ArgAction::Set, num_args = 0..=1)]
    #[arg(require_equals = true, default_value = "false", default_missing_value = "true", hide_possible_values = true)]
    pub systemd_socket: bool,
    /// YAML file with TLS, client certificates, users and headers, as the Prometheus exporter-toolkit defines it; reloaded
    /// when it changes
    #[arg(long = "web.config.file", value_name = "FILE")]
    pub config_file: Option<PathBuf>,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Web")]
pub(crate) struct WebFlags {
    #[command(flatten)]
    pub listen: ListenFlags,
    /// Permissions of the files of Unix sockets, in octal: a client needs write permission to connect [default: what the umask
    /// leaves] [range: 0000 to 0777]
    #[arg(long = "web.socket-mode", value_name = "MODE")]
    pub socket_mode: Option<SocketMode>,
    /// Host name by which browsers address the bridge, without a port, beside localhost, IP addresses, the machine's host
    /// name and the names in the certificate: for example that of a proxy (may be repeated)
    #[arg(long = "web.allowed-hosts", value_name = "NAME")]
    pub allowed_hosts: Vec<String>,
    /// Path of the metrics
    #[arg(long = "web.telemetry-path", value_name = "PATH", default_value = super::TELEMETRY_PATH_DEFAULT)]
    pub telemetry_path: String,
    /// Reload --config.file on POST /-/reload, as Prometheus does
    #[arg(long = "web.enable-lifecycle", value_name = "BOOL", action = ArgAction::Set, num_args = 0..=1)]
    #[arg(require_equals = true, default_value = "false", default_missing_value = "true", hide_possible_values = true)]
    pub enable_lifecycle: bool,
    /// Leave out the metrics of the process and of the HTTP server: process_* and session_buddy_bridge_http_*
    #[arg(long = "web.disable-exporter-metrics", value_name = "BOOL", action = ArgAction::Set, num_args = 0..=1)]
    #[arg(require_equals = true, default_value = "false", default_missing_value = "true", hide_possible_values = true)]
    pub disable_exporter_metrics: bool,
    /// Expose created timestamps of counters and histograms, as `_created`, to scrapers that request OpenMetrics: one more
    /// series each, which Prometheus stores
    #[arg(long = "web.created-timestamps", value_name = "BOOL", action = ArgAction::Set, num_args = 0..=1)]
    #[arg(require_equals = true, default_value = "false", default_missing_value = "true", hide_possible_values = true)]
    pub with_created: bool,
    /// Expose a new series at 0 for this long before its value is, so that `increase()` and `rate()` include its first
    /// value: a little more than the scrape interval. What happened before the first snapshot is exposed at once [range: 0s to 10m]
    #[arg(long = "web.zero-first", value_name = "DURATION", default_value = "0s")]
    #[arg(value_parser = ValueParser::new(zero_first))]
    pub zero_first: Duration,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Limits")]
pub(crate) struct LimitFlags {
    /// Most skills with series of their own; further ones are counted as `__overflow__` [range: 1 to 1000000]
    #[arg(long = "limit.skills", value_name = "NUMBER", default_value_t = Limits::default().skills_max as u32)]
    #[arg(value_parser = within::<u32>(1, 1_000_000))]
    pub skills_max: u32,
    /// Most series of all skills; further skills, phases, anomaly types and types of errors are counted as `__overflow__` [range: 1000 to
    /// 100000000]
    #[arg(long = "limit.series", value_name = "NUMBER", default_value_t = Limits::default().series_max as u32)]
    #[arg(value_parser = within::<u32>(SERIES_MIN as u64, SERIES_MAX as u64))]
    pub series_max: u32,
    /// Most skills of a feed whose totals are remembered; further ones are not counted [range: --limit.skills to 2000000]
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
pub(crate) struct LogFlags {
    /// Lowest level that is logged, on standard error
    #[arg(long = "log.level", value_name = "LEVEL", default_value = "info")]
    pub level: LogLevel,
    /// Format of the log
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

fn zero_first(text: &str) -> Result<Duration, duration::DurationError> {
    // Without a unit it is clear as well.
    if text == "0" { Ok(Duration::ZERO) } else { duration::parse(text, Duration::ZERO, ZERO_FIRST_MAX) }
}

fn silence_timeout(text: &str) -> Result<Duration, duration::DurationError> {
    duration::parse(text, Duration::from_secs(1), Duration::from_secs(3600))
}
