//! Why a setting is refused.

use std::path::PathBuf;

use thiserror::Error;

use super::config_file::ConfigFileError;
use super::feed_target::FeedUrlError;
use super::healthcheck_url::HealthcheckUrlError;
use super::listen_address::ListenAddressError;
use crate::feed::CredentialError;
use crate::http::WebConfigError;

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
    /// The command line as such; also a call for `--help` or `--version`, which is no mistake.
    #[error("{0}")]
    CommandLine(#[from] clap::Error),
    /// A value that came from the environment and that the command line would have refused too.
    #[error("in the environment variable {variable}: {}", .error.to_string().trim_start_matches("error: "))]
    Environment {
        /// Where the value was found.
        variable: String,
        /// What the command line says of it.
        #[source]
        error: clap::Error,
    },
    /// A configuration file that cannot be used.
    #[error("--config.file {}: {error}", .file.display())]
    ConfigFile {
        /// The file.
        file: PathBuf,
        /// What is wrong with it.
        #[source]
        error: ConfigFileError,
    },
    /// Feeds both in a configuration file and beside it.
    #[error("{setting} was given beside --config.file {}, which names feeds: put it into the file, or leave the feeds out there", .file.display())]
    ConflictingFeeds {
        /// The file.
        file: PathBuf,
        /// The setting.
        setting: &'static str,
    },
    /// A check of a file that there is none of.
    #[error("--config.check needs --config.file, which names what is to be checked")]
    MissingConfigFile,
    /// A web configuration file that cannot be used.
    #[error("--web.config.file {0}")]
    WebConfig(#[from] WebConfigError),
    /// A URL that names no feed.
    #[error("--feed.url \"{url}\" {error}")]
    FeedUrl {
        /// The URL without what may be secret in it.
        url: String,
        /// What is wrong with it.
        #[source]
        error: FeedUrlError,
    },
    /// More feeds than a bridge listens to.
    #[error(
        "there are {urls} --feed.url, and a bridge listens to at most {feeds_max}: run another bridge for the rest, with a \
         state of its own"
    )]
    TooManyFeeds {
        /// How many URLs there are.
        urls: usize,
        /// How many may be.
        feeds_max: usize,
    },
    /// Two URLs for one feed.
    #[error(
        "two feeds have the identity \"{identity}\" (user, query and fragment of a URL are no part of it): remove one \
         --feed.url, or tell them apart with one --feed.name for each"
    )]
    DuplicateIdentity {
        /// What both would be called.
        identity: String,
    },
    /// Names and URLs do not pair up.
    #[error(
        "there are {names} --feed.name for {urls} --feed.url: give one name for each URL, in the same order, or none"
    )]
    NameCountMismatch {
        /// How many names were given.
        names: usize,
        /// How many URLs there are.
        urls: usize,
    },
    /// Databases and URLs do not pair up.
    #[error(
        "there are {databases} --feed.skills-db for {urls} --feed.url: give one for each URL, in the same order, and \
         \"none\" for a feed without a database"
    )]
    SkillsDbCountMismatch {
        /// How many databases were given.
        databases: usize,
        /// How many URLs there are.
        urls: usize,
    },
    /// One database for two feeds.
    #[error("--feed.skills-db \"{}\" is given for two feeds: it would be counted twice; leave one of them out", path.display())]
    DuplicateSkillsDb {
        /// The database.
        path: PathBuf,
    },
    /// A name that cannot be one.
    #[error("{flag} \"{name}\" {problem}", name = name.escape_debug())]
    Name {
        /// The flag that the name was given to.
        flag: &'static str,
        /// The name.
        name: String,
        /// What is wrong with it.
        #[source]
        problem: NameError,
    },
    /// A token from two places.
    #[error("{first} and {second} both say which token to send: give only one of them")]
    ConflictingTokens {
        /// A flag or a variable.
        first: &'static str,
        /// Another one.
        second: &'static str,
    },
    /// A variable that cannot be sent or signed with.
    #[error("{variable} holds something that is not UTF-8: set it to what is asked for alone, or unset it")]
    NotUtf8 {
        /// Its name.
        variable: &'static str,
    },
    /// A token, a header, a certificate or a key that cannot be used.
    #[error("{setting}{} {}", quoted(.error), .error.problem)]
    Credential {
        /// The flag or the variable that it was given by.
        setting: &'static str,
        /// What is wrong with it.
        #[source]
        error: CredentialError,
    },
    /// A certificate without its key, or a key without its certificate.
    #[error("{given} is of no use without {missing}: give both")]
    IncompleteClientIdentity {
        /// The flag that was given.
        given: &'static str,
        /// The one that was not.
        missing: &'static str,
    },
    /// Certificates for feeds none of which is encrypted.
    #[error("{flag} is for wss:// and no --feed.url starts with that: encrypt a feed, or leave it out")]
    TlsOptionWithoutTls {
        /// The flag that was given.
        flag: &'static str,
    },
    /// An address that cannot be listened on.
    #[error("--web.listen-address \"{address}\" {error}")]
    ListenAddress {
        /// What was given.
        address: String,
        /// What is wrong with it.
        #[source]
        error: ListenAddressError,
    },
    /// A path at which metrics cannot be served.
    #[error("--web.telemetry-path \"{path}\" {problem}", path = path.escape_debug())]
    TelemetryPath {
        /// What was given.
        path: String,
        /// What is wrong with it.
        #[source]
        problem: TelemetryPathError,
    },
    /// A URL that cannot be asked for health.
    #[error("URL \"{url}\" {error}")]
    HealthcheckUrl {
        /// The URL without what may be secret in it.
        url: String,
        /// What is wrong with it.
        #[source]
        error: HealthcheckUrlError,
    },
    /// No place to look for the state.
    #[error("neither XDG_STATE_HOME nor HOME says where the state is: give --state.path")]
    NoStatePath,
    /// Fewer remembered skills than shown ones.
    #[error(
        "--limit.remembered-skills {remembered} is below --limit.skills {skills}: what is shown must be remembered, so \
         give at least {skills}"
    )]
    RememberedSkills {
        /// What was given, or the default.
        remembered: usize,
        /// The other limit.
        skills: usize,
    },
}

/// The file of a credential, as it follows a flag.
fn quoted(error: &CredentialError) -> String {
    error.file.as_ref().map(|file| format!(" \"{}\"", file.display())).unwrap_or_default()
}

/// What is wrong with the name of a feed or of a skill.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum NameError {
    /// Nothing, or nothing but spaces.
    #[error("is empty: give a name, or leave the flag out")]
    Empty,
    /// Longer than a label may be.
    #[error("has {chars} characters, more than the {chars_max} that --limit.label-chars allows: shorten it")]
    TooLong {
        /// Its length.
        chars: usize,
        /// The limit.
        chars_max: usize,
    },
    /// A line break or another character that has no shape.
    #[error("holds a control character: leave it out")]
    ControlCharacter,
}

/// What is wrong with a path.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum TelemetryPathError {
    /// No slash.
    #[error("does not start with a slash: write for example /metrics")]
    NoSlash,
    /// A character that means something else in a request, or that no request carries as it is.
    #[error("holds '{}', which no path can hold as it is: use letters, digits and - . _ ~ /", .0.escape_debug())]
    Character(char),
    /// One of the paths that health is served at.
    #[error(
        "is taken: /-/healthy and /-/ready answer for the health of the bridge; choose another, for example /metrics"
    )]
    Taken,
}
