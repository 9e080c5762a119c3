//! Why a setting is refused.

use std::error::Error;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use thiserror::Error;

use super::config_file::ConfigFileError;
use super::duration::show;
use super::feed_target::FeedUrlError;
use super::healthcheck_url::HealthcheckUrlError;
use super::listen_address::ListenAddressError;
use super::push::PushError;
use crate::feed::CredentialError;
use crate::http::{HostNameError, WebConfigError};
use crate::installed::SkillsDirError;
use crate::push::LabelError;

/// Why a setting is refused: which one, what is wrong with it, and the remedy. Settings are called as on the command line.
///
/// ```
/// use std::error::Error;
///
/// use session_buddy_bridge::Settings;
/// use session_buddy_bridge::settings::SettingsError;
///
/// let error = Settings::from_config_file("/nowhere/bridge.yaml").unwrap_err();
/// assert!(matches!(error, SettingsError::ConfigFile { .. }));
/// let cause = error.source().and_then(Error::source).and_then(|cause| cause.downcast_ref::<std::io::Error>());
/// assert_eq!(cause.map(std::io::Error::kind), Some(std::io::ErrorKind::NotFound));
/// ```
#[derive(Debug, Error)]
pub enum SettingsError {
    /// The command line cannot be parsed, or requests `--help` or `--version`.
    #[error("{0}")]
    CommandLine(#[from] clap::Error),
    /// A value of the environment cannot be parsed.
    #[error("in the environment variable {variable}: {}", .error.to_string().trim_start_matches("error: "))]
    Environment {
        /// Name of the environment variable.
        variable: String,
        /// The error as for the flag of the same meaning.
        #[source]
        error: clap::Error,
    },
    /// The configuration file cannot be used.
    #[error("--config.file {}: {error}", .file.display())]
    ConfigFile {
        /// Path of the configuration file.
        file: PathBuf,
        /// What is wrong with the file.
        #[source]
        error: ConfigFileError,
    },
    /// Feeds are configured both in the configuration file and beside it.
    #[error("{setting} was given beside --config.file {}, which names feeds: put it into the file, or leave the feeds out there", .file.display())]
    ConflictingFeeds {
        /// Path of the configuration file.
        file: PathBuf,
        /// The flag that configures feeds beside the file.
        setting: &'static str,
    },
    /// Receivers of remote write are configured both in the configuration file and beside it.
    #[error("{setting} was given beside --config.file {}, which has a list `push`: put it into the file, or leave the list out there", .file.display())]
    ConflictingPush {
        /// Path of the configuration file.
        file: PathBuf,
        /// The flag that configures receivers beside the file.
        setting: &'static str,
    },
    /// A receiver of remote write cannot be used.
    #[error(transparent)]
    Push(#[from] PushError),
    /// A path starts with `~`, which nothing but a shell expands.
    #[error("{setting} \"{}\" starts with ~, which only a shell expands: write the whole path", path.display())]
    Tilde {
        /// The flag or field.
        setting: &'static str,
        /// The path.
        path: PathBuf,
    },
    /// A check found that the database beside a feed cannot be read.
    #[error("{0}")]
    SkillsDb(#[source] Box<dyn Error + Send + Sync>),
    /// `--config.check` is given without `--config.file`.
    #[error("--config.check needs --config.file, which names what is to be checked")]
    MissingConfigFile,
    /// A name under `--web.allowed-hosts` is not a host name.
    #[error("--web.allowed-hosts \"{}\" {error}", .name.escape_debug())]
    AllowedHost {
        /// The invalid name.
        name: String,
        /// What is wrong with the name.
        #[source]
        error: HostNameError,
    },
    /// The web configuration file cannot be used.
    #[error("--web.config.file {0}")]
    WebConfig(#[from] WebConfigError),
    /// A command that reads the server's database is not told where it is.
    #[doc(hidden)]
    #[error("--feed.skills-db is missing: give the server's database, .session-buddy/skills.db where it runs")]
    NoSkillsDb,
    /// No live series began at the time that `backfill` was given.
    #[doc(hidden)]
    #[error("--until {until} is not between 1970 and now: give the time of the first live sample")]
    BackfillUntil {
        /// The time.
        until: jiff::Timestamp,
    },
    /// A label of `backfill` cannot be used.
    #[doc(hidden)]
    #[error("--label \"{label}\" {error}", label = label.escape_debug())]
    BackfillLabel {
        /// The text.
        label: String,
        /// What is wrong with it.
        #[source]
        error: LabelError,
    },
    /// A directory of installed skills cannot be read.
    #[error("cannot read {} (--skills.dir): {source}", .directory.display())]
    SkillsDir {
        /// The directory.
        directory: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Directories of installed skills are configured both in the configuration file and beside it.
    #[error("--skills.dir was given beside --config.file {}, which names skills_dirs: put it into the file, or leave skills_dirs out there", .file.display())]
    ConflictingSkillsDirs {
        /// Path of the configuration file.
        file: PathBuf,
    },
    /// Installed skills are given to a report about something else.
    #[doc(hidden)]
    #[error("--skills.dir is of use with --by skill alone: leave one of them out")]
    SkillsDirNeedsSkills,
    /// A URL is not that of a feed.
    #[error("--feed.url \"{url}\" {error}")]
    FeedUrl {
        /// The URL, with possible secrets redacted.
        url: String,
        /// What is wrong with the URL.
        #[source]
        error: FeedUrlError,
    },
    /// There are more feeds than a bridge subscribes to.
    #[error(
        "--feed.url was given {urls} times, and a bridge subscribes to at most {feeds_max} feeds: run another bridge for the rest, with a \
         state of its own"
    )]
    TooManyFeeds {
        /// Number of URLs.
        urls: usize,
        /// Most feeds of one bridge.
        feeds_max: usize,
    },
    /// Two feeds have the same identity.
    #[error(
        "two feeds have the identity \"{identity}\" (user, query and fragment of a URL are no part of it): remove one \
         --feed.url, or distinguish them by one --feed.name for each"
    )]
    DuplicateIdentity {
        /// The identity of both.
        identity: String,
    },
    /// The number of names differs from the number of URLs.
    #[error(
        "the number of --feed.name ({names}) differs from the number of --feed.url ({urls}): give one name for each URL, in the same order, or none"
    )]
    NameCountMismatch {
        /// Number of names.
        names: usize,
        /// Number of URLs.
        urls: usize,
    },
    /// The number of databases differs from the number of URLs.
    #[error(
        "the number of --feed.skills-db ({databases}) differs from the number of --feed.url ({urls}): give one for each URL, in the same order, and \
         \"none\" for a feed without a database"
    )]
    SkillsDbCountMismatch {
        /// Number of databases.
        databases: usize,
        /// Number of URLs.
        urls: usize,
    },
    /// Two feeds have the same database.
    #[error("--feed.skills-db \"{}\" is given for two feeds: it would be counted twice; leave one of them out", path.display())]
    DuplicateSkillsDb {
        /// Path of the database.
        path: PathBuf,
    },
    /// The name of a feed or of a skill is invalid.
    #[error("{flag} \"{name}\" {problem}", name = name.escape_debug())]
    Name {
        /// The flag with the name.
        flag: &'static str,
        /// The invalid name.
        name: String,
        /// What is wrong with the name.
        #[source]
        problem: NameError,
    },
    /// Two settings configure the token.
    #[error("{first} and {second} both set the token: give only one of them")]
    ConflictingTokens {
        /// One flag or variable.
        first: &'static str,
        /// The other flag or variable.
        second: &'static str,
    },
    /// An environment variable with a secret is not UTF-8.
    #[error("{variable} is not valid UTF-8: correct it, or unset it")]
    NotUtf8 {
        /// Name of the environment variable.
        variable: &'static str,
    },
    /// A token, a header, a certificate or a key cannot be used.
    #[error("{setting}{} {}", quoted(.error), .error.problem)]
    Credential {
        /// The flag or variable that configures the credential.
        setting: &'static str,
        /// What is wrong with the credential.
        #[source]
        error: CredentialError,
    },
    /// A client certificate is given without its key, or a key without its certificate.
    #[error("{given} is of no use without {missing}: give both")]
    IncompleteClientIdentity {
        /// The flag that is given.
        given: &'static str,
        /// The flag that is missing.
        missing: &'static str,
    },
    /// A TLS option is given, and no feed uses TLS.
    #[error("{flag} is for wss:// and no --feed.url starts with that: encrypt a feed, or leave it out")]
    TlsOptionWithoutTls {
        /// The flag of the TLS option.
        flag: &'static str,
    },
    /// An address to listen on is invalid.
    #[error("--web.listen-address \"{address}\" {error}")]
    ListenAddress {
        /// The invalid address.
        address: String,
        /// What is wrong with the address.
        #[source]
        error: ListenAddressError,
    },
    /// Permissions of Unix sockets are given, and the bridge listens on none.
    #[error(
        "--web.socket-mode has no effect without a Unix socket: give --web.listen-address unix:PATH, or leave it out"
    )]
    SocketModeWithoutSocket,
    /// The path of the metrics is invalid.
    #[error("--web.telemetry-path \"{path}\" {problem}", path = path.escape_debug())]
    TelemetryPath {
        /// The invalid path.
        path: String,
        /// What is wrong with the path.
        #[source]
        problem: TelemetryPathError,
    },
    /// A new series would be exposed at 0 for too long.
    #[error("--web.zero-first {} is longer than {}: give a little more than the scrape interval", show(*given), show(*max))]
    ZeroFirst {
        /// The time that is too long.
        given: Duration,
        /// The longest that is valid.
        max: Duration,
    },
    /// The URL of a health check is invalid.
    #[doc(hidden)]
    #[error("URL \"{url}\" {error}")]
    HealthcheckUrl {
        /// The URL, with possible secrets redacted.
        url: String,
        /// What is wrong with it.
        #[source]
        error: HealthcheckUrlError,
    },
    /// A bridge with these settings listens where only it knows.
    #[doc(hidden)]
    #[error("{}: give the URL of the bridge's /-/healthy", unknown_address(*by_systemd))]
    UnknownHealthcheckAddress {
        /// Whether systemd passes the sockets; the port is one that is free otherwise.
        by_systemd: bool,
    },
    /// A user without a password, or the other way round.
    #[doc(hidden)]
    #[error("{given} needs {missing}: give both, or neither")]
    IncompleteLogin {
        /// The flag that is given.
        given: &'static str,
        /// The flag that is missing.
        missing: &'static str,
    },
    /// The environment names no directory for the state file.
    #[error("neither XDG_STATE_HOME nor HOME is set, so that the state file has no directory: give --state.path")]
    NoStatePath,
    /// The limit of remembered skills is below that of exposed skills.
    #[error(
        "--limit.remembered-skills {remembered} is below --limit.skills {skills}: what is shown must be remembered, so \
         give at least {skills}"
    )]
    RememberedSkills {
        /// The limit of remembered skills.
        remembered: usize,
        /// The limit of exposed skills.
        skills: usize,
    },
}

/// Returns the file of a credential as it is written behind a flag.
fn unknown_address(by_systemd: bool) -> &'static str {
    if by_systemd {
        "--web.systemd-socket listens on sockets that only systemd knows"
    } else {
        "--web.listen-address has port 0, which is another one at each start"
    }
}

fn quoted(error: &CredentialError) -> String {
    error.file.as_ref().map(|file| format!(" \"{}\"", file.display())).unwrap_or_default()
}

/// What is wrong with the name of a feed or of a skill.
///
/// ```
/// use session_buddy_bridge::Settings;
/// use session_buddy_bridge::settings::{ConfigFileError, NameError, SettingsError};
///
/// # let directory = tempfile::tempdir().unwrap();
/// # let path = directory.path().join("bridge.yaml");
/// std::fs::write(&path, "feeds:\n  - url: ws://alpha:8765\n    name: ' '\n").unwrap();
/// let refused = Settings::from_config_file(path).unwrap_err();
/// let SettingsError::ConfigFile { error: ConfigFileError::Feed { error, .. }, .. } = refused else { panic!("{refused}") };
/// assert!(matches!(*error, SettingsError::Name { problem: NameError::Empty, .. }));
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum NameError {
    /// The name is empty, or only white space.
    #[error("is empty: give a name, or leave it out")]
    Empty,
    /// The name is longer than a label may be.
    #[error("has {chars} characters, more than the {chars_max} that --limit.label-chars allows: shorten it")]
    TooLong {
        /// Length of the name, in characters.
        chars: usize,
        /// Length of the longest label, in characters.
        chars_max: usize,
    },
    /// The name contains a control character, such as a line break.
    #[error("holds a control character: leave it out")]
    ControlCharacter,
}

/// What is wrong with the path of the metrics.
///
/// ```
/// use session_buddy_bridge::Settings;
/// use session_buddy_bridge::settings::{SettingsError, TelemetryPathError};
///
/// let settings = Settings { telemetry_path: "metrics".to_owned(), ..Settings::new(Vec::new()) };
/// let error = settings.check().unwrap_err();
/// assert!(matches!(error, SettingsError::TelemetryPath { problem: TelemetryPathError::NoSlash, .. }));
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum TelemetryPathError {
    /// The path does not start with a slash.
    #[error("does not start with a slash: write for example /metrics")]
    NoSlash,
    /// The path contains a character that is reserved in requests, or must be escaped in them.
    #[error("holds '{}', which no path can hold as it is: use letters, digits and - . _ ~ /", .0.escape_debug())]
    Character(char),
    /// The path is that of a health endpoint, or of the reload.
    #[error("is taken by the bridge, as /-/healthy, /-/ready and /-/reload are; choose another, for example /metrics")]
    Taken,
}

impl From<SkillsDirError> for SettingsError {
    fn from(SkillsDirError { directory, source }: SkillsDirError) -> Self {
        Self::SkillsDir { directory, source }
    }
}
