//! The settings of a bridge, and how the command line, the environment and the configuration file become them.
//!
//! | file | job |
//! | --- | --- |
//! | `mod` | [`Settings`] |
//! | `feed_target`, `config_file`, `listen_address`, `healthcheck_url` | parts of the settings, each with its error |
//! | `flags` | what the command line says, literally |
//! | `number`, `duration`, `path` | values, with errors that name what is expected |
//! | `push` | builder of the receivers of remote write, with its errors |
//! | `run` | builder of the settings of `run` |
//! | `subscription`, `credentials`, `web`, `limits`, `state_path` | builders that several commands share |
//! | `error` | every setting that can be refused, and why |
//!
//! Nothing is started here. Architecture invariant: the environment is passed in as a function, so that no test touches that
//! of the process.

mod config_file;
pub(crate) mod credentials;
pub(crate) mod duration;
mod error;
pub(crate) mod feed_target;
pub(crate) mod flags;
pub(crate) mod healthcheck_url;
pub(crate) mod limits;
pub(crate) mod listen_address;
pub(crate) mod number;
pub(crate) mod path;
pub(crate) mod push;
pub(crate) mod run;
pub(crate) mod state_path;
pub(crate) mod subscription;
pub(crate) mod web;

use std::ffi::OsString;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use clap::ValueEnum;

pub use config_file::{ConfigFile, ConfigFileError, ReloadableSettings};
pub use error::{NameError, SettingsError, TelemetryPathError};
pub use feed_target::{FeedTarget, FeedUrlError};
#[doc(hidden)]
pub use healthcheck_url::HealthcheckUrlError;
pub use listen_address::ListenAddressError;
use path::check_path;
pub use push::PushError;

pub use crate::feed::{
    ClientIdentity, Credential, CredentialError, CredentialProblem, Credentials, HeaderProblem, HttpCredentials,
    Minting, Secret, SecretSource, SharedIoError, TOKEN_LIFETIME, Timing, TlsFiles, TokenSource,
};
pub use crate::http::{HostName, HostNameError, SocketMode, SocketModeError, WebConfigError, WebConfigFile};
pub use crate::ledger::Limits;
pub use crate::pem::PemError;
pub use crate::push::{LabelError, PushLabels, PushReceiver, PushSettings, PushedSeries, ReceiverName};
pub use crate::reload::{Protection, ProtectionRemoved};

/// Looks up a variable of the environment.
pub(crate) type Environment<'a> = &'a dyn Fn(&str) -> Option<OsString>;

/// Feeds of one bridge. Every two of them are compared at each snapshot to find out whether they are one server.
const FEEDS_MAX: usize = 64;
/// Longest time for which a new series is exposed at 0.
const ZERO_FIRST_MAX: Duration = Duration::from_secs(600);
const LISTEN_PORT_DEFAULT: u16 = 9090;
const TELEMETRY_PATH_DEFAULT: &str = "/metrics";
const FRAME_BYTES_MAX_DEFAULT: usize = 1024 * 1024;

/// The settings of a [`Bridge`](crate::Bridge).
///
/// ```
/// use session_buddy_bridge::Settings;
/// use session_buddy_bridge::settings::{FeedTarget, StateLocation};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let feeds = vec![FeedTarget::new("ws://alpha:8765")?, FeedTarget::new("ws://beta:8765")?];
/// let settings = Settings {
///     listen: vec!["127.0.0.1:9101".parse()?],
///     state: StateLocation::Path("/var/lib/example/counts.db".into()),
///     ..Settings::new(feeds)
/// };
/// assert_eq!(settings.telemetry_path, "/metrics");
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// The feeds to subscribe to, at most 64, each with an identity and, if any, a database of its own.
    pub feeds: Vec<FeedTarget>,
    /// TCP addresses to listen on. Port 0 is one that is free.
    pub listen: Vec<SocketAddr>,
    /// Whether whoever runs the bridge chose where it listens: it then logs a warning if everybody can read the metrics there. `false` for
    /// the default address, which a container image widens: who reaches a container is for its host to decide.
    pub is_listen_chosen: bool,
    /// Unix sockets to listen on.
    pub listen_unix: Vec<PathBuf>,
    /// Permissions of the files of Unix sockets; `None` for those that the umask leaves.
    pub socket_mode: Option<SocketMode>,
    /// Whether to listen on the sockets that systemd passes instead of `listen`.
    pub systemd_socket: bool,
    /// TLS, client certificates, users and response headers.
    pub web_config: Option<Arc<WebConfigFile>>,
    /// Host names by which browsers may address the bridge, beside `localhost`, IP addresses, the machine's host name and the
    /// names in the certificate.
    pub allowed_hosts: Vec<HostName>,
    /// Path of the metrics. It starts with a slash, consists of letters, digits and `-._~/`, and is none of
    /// `/-/healthy`, `/-/ready` and `/-/reload`.
    pub telemetry_path: String,
    /// Whether `POST /-/reload` reloads `config_file`; it is answered with 403 otherwise.
    pub has_lifecycle_api: bool,
    /// Whether the metrics of the process and of the HTTP server are exposed: `process_*` and `session_buddy_bridge_http_*`.
    pub has_exporter_metrics: bool,
    /// Whether OpenMetrics exposes created timestamps, as `_created`.
    pub with_created: bool,
    /// How long a series whose first counts were observed is exposed at 0 before its value is, at most 10 minutes; zero for
    /// not at all. Counted from the first scrape that exposes it.
    pub zero_first: Duration,
    /// How many skills and anomalies are counted and remembered; at least as many skills remembered as counted.
    pub ledger_limits: Limits,
    /// Length of the longest frame that is accepted, in bytes.
    pub frame_bytes_max: usize,
    /// Timeouts and intervals of every feed.
    pub timing: Timing,
    /// Where counts are persisted.
    pub state: StateLocation,
    /// Receivers of remote write; none by default.
    pub push: PushSettings,
    /// Directories of installed skills: each folder in one that holds a `SKILL.md` is a skill. None by default.
    pub skills_dirs: Vec<PathBuf>,
    /// The file that `feeds`, `ledger_limits`, `frame_bytes_max`, `push` and `skills_dirs` were read from. It is reloaded when it
    /// changes.
    pub config_file: Option<ConfigFile>,
    /// What the command line logs. A program that embeds the bridge installs a `tracing` subscriber of its own.
    #[doc(hidden)]
    pub log: LogSettings,
}

/// Where counts are persisted, so that they survive a restart.
///
/// ```
/// use session_buddy_bridge::settings::StateLocation;
///
/// let state = StateLocation::Path("/var/lib/example/counts.db".into());
/// assert_ne!(state, StateLocation::InMemory);
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StateLocation {
    /// Nowhere: a restart begins with the totals that the feeds list then.
    InMemory,
    /// In this file, by the XDG rules, or in memory if it cannot be written; a warning is logged then. `None` if the
    /// environment names no home directory.
    Default(Option<PathBuf>),
    /// In this file. It is an error if it cannot be used.
    Path(PathBuf),
}

/// What the command line logs, and how.
#[doc(hidden)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LogSettings {
    /// The least important messages that are still logged.
    pub level: LogLevel,
    /// How they are written.
    pub format: LogFormat,
}

/// How important a message is.
#[doc(hidden)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum LogLevel {
    /// Failures that need an operator.
    Error,
    /// Problems that the bridge handles.
    Warn,
    /// Events of interest to operators.
    #[default]
    Info,
    /// Details for debugging.
    Debug,
    /// Everything.
    Trace,
}

/// How a log line is written.
#[doc(hidden)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum LogFormat {
    /// `key=value` pairs, for people and for log stores.
    #[default]
    Logfmt,
    /// One JSON object for each line.
    Json,
}

impl Settings {
    /// Returns the defaults of the command line for `feeds`, except that it listens on `127.0.0.1:9090` only and that counts
    /// are in memory.
    pub fn new(feeds: Vec<FeedTarget>) -> Self {
        Self {
            feeds,
            listen: vec![(Ipv4Addr::LOCALHOST, LISTEN_PORT_DEFAULT).into()],
            is_listen_chosen: true,
            listen_unix: Vec::new(),
            socket_mode: None,
            systemd_socket: false,
            web_config: None,
            allowed_hosts: Vec::new(),
            telemetry_path: TELEMETRY_PATH_DEFAULT.to_owned(),
            has_lifecycle_api: false,
            has_exporter_metrics: true,
            with_created: false,
            zero_first: Duration::ZERO,
            ledger_limits: Limits::default(),
            frame_bytes_max: FRAME_BYTES_MAX_DEFAULT,
            timing: Timing::default(),
            state: StateLocation::InMemory,
            push: PushSettings::default(),
            skills_dirs: Vec::new(),
            config_file: None,
            log: LogSettings::default(),
        }
    }

    /// Reads feeds and limits from a configuration file, with the defaults of [`Settings::new`] for everything else. The
    /// bridge reloads the file when it changes, and on request: see [`Bridge::reload_handle`](crate::Bridge::reload_handle).
    ///
    /// ```
    /// use session_buddy_bridge::Settings;
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let directory = tempfile::tempdir()?;
    /// # let path = directory.path().join("bridge.yaml");
    /// std::fs::write(&path, "feeds:\n  - url: ws://alpha:8765\n    name: alpha\n")?;
    /// let settings = Settings::from_config_file(path)?;
    /// assert_eq!(settings.feeds[0].identity, "alpha");
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`SettingsError::ConfigFile`] with the first problem of the file.
    pub fn from_config_file(path: impl Into<PathBuf>) -> Result<Self, SettingsError> {
        let mut file = ConfigFile::new(path);
        let ReloadableSettings { feeds, ledger_limits, frame_bytes_max, push, skills_dirs } = file.open()?;
        Ok(Self { ledger_limits, frame_bytes_max, push, skills_dirs, config_file: Some(file), ..Self::new(feeds) })
    }

    /// Checks the rules that the fields document. [`Bridge::bind`](crate::Bridge::bind) does so too.
    ///
    /// ```
    /// use session_buddy_bridge::Settings;
    /// use session_buddy_bridge::settings::{FeedTarget, SettingsError};
    ///
    /// let feed = FeedTarget::new("ws://alpha:8765").unwrap();
    /// let error = Settings::new(vec![feed.clone(), feed]).check().unwrap_err();
    /// assert!(matches!(error, SettingsError::DuplicateIdentity { identity } if identity == "ws://alpha:8765/"));
    /// ```
    ///
    /// # Errors
    /// The first setting that breaks a rule.
    pub fn check(&self) -> Result<(), SettingsError> {
        run::check_feeds(&self.feeds)?;
        push::check(&self.push)?;
        web::check_path(&self.telemetry_path)?;
        web::check_socket_mode(self.socket_mode, &self.listen_unix)?;
        if self.zero_first > ZERO_FIRST_MAX {
            return Err(SettingsError::ZeroFirst { given: self.zero_first, max: ZERO_FIRST_MAX });
        }
        limits::check(self.ledger_limits)
    }
}
