//! The configuration file: feeds, each with its own name and credentials, and limits. The bridge can reload it.

use std::collections::BTreeMap;
use std::error::Error as StdError;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;
use thiserror::Error;

use super::duration::DurationError;
use super::flags::{CredentialFlags, SeriesChoice};
use super::subscription::{Subscription, checked_name};
use super::{
    FEEDS_MAX, FRAME_BYTES_MAX_DEFAULT, FeedTarget, Limits, Secret, SettingsError, check_path, limits, number, push,
    run,
};
use crate::installed::installed_skills;
use crate::push::{PushReceiver, PushSettings};
use crate::reload::{
    self, Attempt, Protection, ProtectionRemoved, Protections, SETTLE_TIME, SettleError, Sources, YamlError,
};

/// A configuration file, and the defaults for what it leaves out.
///
/// ```
/// use session_buddy_bridge::settings::{ConfigFile, ConfigFileError, SettingsError};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let directory = tempfile::tempdir()?;
/// # let path = directory.path().join("bridge.yaml");
/// std::fs::write(&path, "feeds:\n  - url: ws://alpha:8765\nlimits:\n  skills: 100\n")?;
/// let file = ConfigFile::new(&path);
/// assert_eq!(file.read()?.ledger_limits.skills_max, 100);
///
/// std::fs::write(&path, "limits:\n  skills: 0\n")?;
/// let Err(SettingsError::ConfigFile { error, .. }) = file.read() else { panic!("0 skills are too few") };
/// assert_eq!(error.to_string(), "limits.skills \"0\": give a whole number from 1 to 1000000");
/// assert!(matches!(error, ConfigFileError::Limit { field: "skills", .. }));
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigFile {
    /// Path of the file.
    pub path: PathBuf,
    /// The feeds if the file names none.
    pub(super) feeds: Vec<FeedTarget>,
    /// The limits that the file does not set.
    pub(super) limits: Limits,
    pub(super) frame_bytes_max: usize,
    /// The receivers if the file names none, and what the file does not set of them.
    pub(super) push: PushSettings,
    /// The directories of installed skills if the file names none.
    pub(super) skills_dirs: Vec<PathBuf>,
    /// From the environment, for feeds without a token or secret of their own.
    pub(super) token: Option<Secret>,
    pub(super) jwt_secret: Option<Secret>,
    /// The file as it was when [`ConfigFile::open`] read it, by which a later change is noticed.
    pub(super) opened: Sources,
}

/// The settings that a configuration file contains, and that a reload replaces.
///
/// ```
/// use session_buddy_bridge::settings::{ConfigFile, ReloadableSettings};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let directory = tempfile::tempdir()?;
/// # let path = directory.path().join("bridge.yaml");
/// std::fs::write(&path, "limits:\n  max_frame_bytes: 65536\n")?;
/// let ReloadableSettings { feeds, frame_bytes_max, .. } = ConfigFile::new(path).read()?;
/// assert_eq!((feeds.len(), frame_bytes_max), (0, 65536));
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReloadableSettings {
    /// The feeds to subscribe to, each with an identity of its own.
    pub feeds: Vec<FeedTarget>,
    /// How many skills and anomalies are counted and remembered.
    pub ledger_limits: Limits,
    /// Length of the longest frame that is accepted, in bytes.
    pub frame_bytes_max: usize,
    /// Receivers of remote write.
    pub push: PushSettings,
    /// Directories of installed skills.
    pub skills_dirs: Vec<PathBuf>,
}

/// Why a configuration file cannot be used. Fields are called as in the file.
///
/// ```
/// use session_buddy_bridge::Settings;
/// use session_buddy_bridge::settings::{ConfigFileError, FeedUrlError, SettingsError};
///
/// # let directory = tempfile::tempdir().unwrap();
/// # let path = directory.path().join("bridge.yaml");
/// std::fs::write(&path, "feeds:\n  - url: localhost:8765\n").unwrap();
/// let refused = Settings::from_config_file(path).unwrap_err();
/// let SettingsError::ConfigFile { error: ConfigFileError::Feed { url, error }, .. } = refused else { panic!("{refused}") };
/// assert_eq!(url, "localhost:8765");
/// assert!(matches!(*error, SettingsError::FeedUrl { error: FeedUrlError::Scheme, .. }));
/// ```
#[derive(Debug, Error)]
pub enum ConfigFileError {
    /// The file cannot be read.
    #[error("{0}")]
    Unreadable(#[source] io::Error),
    /// The file has no content, which is what a copy or a full disk leaves.
    #[error("the file is empty; to configure nothing, write {{}}")]
    Empty,
    /// Of ten reads a second apart, no two in a row agreed.
    #[error("it is still being written")]
    StillChanging,
    /// The file is valid, and lacks what a reload must not take away.
    #[error("{0}")]
    ProtectionRemoved(#[source] ProtectionRemoved),
    /// The file is not YAML, or has an unknown field or a value of the wrong kind.
    #[error("{0}")]
    Malformed(#[source] Box<dyn StdError + Send + Sync>),
    /// A limit is not a whole number, or out of range.
    #[error("limits.{field} {value:?}: {error}")]
    Limit {
        /// Name of the field below `limits`.
        field: &'static str,
        /// The invalid value, as in the file.
        value: String,
        /// What is valid.
        #[source]
        error: Box<dyn StdError + Send + Sync>,
    },
    /// A setting of one feed is invalid.
    #[error("feed {url:?}: {}", as_fields(.error))]
    Feed {
        /// The URL of the feed without what may be secret in it.
        url: String,
        /// What is wrong, with the name of the flag that has the same meaning.
        #[source]
        error: Box<SettingsError>,
    },
    /// A setting of one receiver of remote write is invalid.
    #[error("push {url:?}: {}", as_fields(.error))]
    Push {
        /// The URL of the receiver without what may be secret in it.
        url: String,
        /// What is wrong, with the name of the flag that has the same meaning.
        #[source]
        error: Box<SettingsError>,
    },
    /// A field of a receiver cannot be parsed.
    #[error("push.{field} {value:?}: {error}")]
    PushField {
        /// Name of the field.
        field: &'static str,
        /// The invalid value, as in the file.
        value: String,
        /// What is valid.
        #[source]
        error: Box<dyn StdError + Send + Sync>,
    },
    /// There are more feeds than a bridge subscribes to.
    #[error("{feeds} feeds are configured, and a bridge subscribes to at most {feeds_max}")]
    TooManyFeeds {
        /// The number of feeds.
        feeds: usize,
        /// The most that are allowed.
        feeds_max: usize,
    },
    /// Settings do not go together.
    #[error("{}", as_fields(.0))]
    Settings(#[source] Box<SettingsError>),
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct File {
    feeds: Vec<FeedEntry>,
    limits: LimitEntries,
    push: Vec<PushEntry>,
    skills_dirs: Vec<PathBuf>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct PushEntry {
    url: String,
    #[serde(default)]
    name: Option<String>,
    #[serde(default)]
    headers_file: Option<PathBuf>,
    #[serde(default)]
    bearer_token_file: Option<PathBuf>,
    #[serde(default)]
    basic_auth_file: Option<PathBuf>,
    #[serde(default)]
    ca_file: Option<PathBuf>,
    #[serde(default)]
    cert_file: Option<PathBuf>,
    #[serde(default)]
    key_file: Option<PathBuf>,
    #[serde(default)]
    labels: BTreeMap<String, String>,
    #[serde(default)]
    series: Option<SeriesChoice>,
    #[serde(default)]
    max_age: Option<String>,
    #[serde(default)]
    timeout: Option<String>,
    #[serde(default)]
    insecure: bool,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct FeedEntry {
    url: String,
    #[serde(default)]
    name: Option<String>,
    #[serde(default)]
    skill: Option<String>,
    #[serde(default)]
    skills_db: Option<PathBuf>,
    #[serde(default)]
    token_file: Option<PathBuf>,
    #[serde(default)]
    jwt_secret_file: Option<PathBuf>,
    #[serde(default)]
    headers_file: Option<PathBuf>,
    #[serde(default)]
    ca_file: Option<PathBuf>,
    #[serde(default)]
    cert_file: Option<PathBuf>,
    #[serde(default)]
    key_file: Option<PathBuf>,
}

/// Each as written, so that it is parsed as the flag of the same meaning.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct LimitEntries {
    skills: Option<String>,
    series: Option<String>,
    remembered_skills: Option<String>,
    label_chars: Option<String>,
    max_frame_bytes: Option<String>,
}

impl ConfigFile {
    /// Returns the file at `path`, unread, with the defaults of [`Settings::new`](super::Settings::new) for what it leaves out.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self {
            path: path.into(),
            feeds: Vec::new(),
            limits: Limits::default(),
            frame_bytes_max: FRAME_BYTES_MAX_DEFAULT,
            push: PushSettings::default(),
            skills_dirs: Vec::new(),
            token: None,
            jwt_secret: None,
            opened: Sources::default(),
        }
    }

    /// Reads the file, and every credential file and directory of skills that it names.
    ///
    /// # Errors
    /// [`SettingsError::ConfigFile`] with the first problem of the file.
    pub fn read(&self) -> Result<ReloadableSettings, SettingsError> {
        self.settings(&mut Sources::default()).map_err(|error| self.error(error))
    }

    /// Reads the file, and remembers what it was, so that a bridge notices a change since.
    ///
    /// # Errors
    /// As [`ConfigFile::read`].
    pub(crate) fn open(&mut self) -> Result<ReloadableSettings, SettingsError> {
        let mut sources = Sources::default();
        let read = self.settings(&mut sources).map_err(|error| self.error(error));
        self.opened = sources;
        read
    }

    /// Returns the file as it was when it was opened, or else as it is now.
    pub(crate) fn opened(&self) -> Sources {
        let mut sources = self.opened.clone();
        if sources.is_empty() {
            // What is wrong with it is found when it has changed.
            let _ = self.settings(&mut sources);
        }
        sources
    }

    /// Returns whether a reload would be accepted now. Blocks.
    pub(crate) fn is_acceptable(&self, accepted: &ReloadableSettings) -> bool {
        let read = self.settings(&mut Sources::default());
        read.is_ok_and(|candidate| reload::check(self.protections(accepted), self.protections(&candidate)).is_ok())
    }

    /// Reads the file until two reads a second apart agree, and checks that it takes no protection of `accepted` away.
    /// Returns the file as it was read as well, if the reads agreed.
    ///
    /// # Errors
    /// [`SettingsError::ConfigFile`] with the first problem of the file; `accepted` stays then.
    pub(crate) async fn reload(
        self,
        accepted: &ReloadableSettings,
    ) -> (Option<Sources>, Result<ReloadableSettings, SettingsError>) {
        let accepted = self.protections(accepted);
        let file = self.clone();
        let read = move || {
            let mut sources = Sources::default();
            let outcome = file.settings(&mut sources);
            Attempt { sources, outcome }
        };
        let settled = reload::read_settled(read, SETTLE_TIME).await.map_err(|error| match error {
            SettleError::StillChanging => ConfigFileError::StillChanging,
            panicked @ SettleError::Panicked(_) => ConfigFileError::Unreadable(io::Error::other(panicked)),
        });
        let (sources, outcome) = match settled {
            Ok(Attempt { sources, outcome }) => (Some(sources), outcome),
            Err(error) => (None, Err(error)),
        };
        let candidate = outcome.and_then(|candidate| {
            reload::check(accepted, self.protections(&candidate)).map_err(ConfigFileError::ProtectionRemoved)?;
            Ok(candidate)
        });
        (sources, candidate.map_err(|error| self.error(error)))
    }

    /// Returns the error of a database beside `feed` that cannot be read, in terms of whatever names it: this file, or flags.
    pub(crate) fn database_error(&self, feed: &FeedTarget, error: Box<dyn StdError + Send + Sync>) -> SettingsError {
        let error = SettingsError::SkillsDb(error);
        match self.feeds.contains(feed) {
            true => error,
            false => self.error(ConfigFileError::Feed { url: feed.identity.clone(), error: Box::new(error) }),
        }
    }

    fn error(&self, error: ConfigFileError) -> SettingsError {
        SettingsError::ConfigFile { file: self.path.clone(), error }
    }

    /// A file that names no feed leaves the feeds of the flags.
    fn protections(&self, settings: &ReloadableSettings) -> Protections {
        Protections::default().with(Protection::Feeds, settings.feeds != self.feeds)
    }

    fn settings(&self, sources: &mut Sources) -> Result<ReloadableSettings, ConfigFileError> {
        let text = sources.read_to_string(&self.path).map_err(ConfigFileError::Unreadable)?;
        let file: File = reload::parse(&text).map_err(|error| match error {
            YamlError::Empty => ConfigFileError::Empty,
            YamlError::Malformed(error) => ConfigFileError::Malformed(error),
        })?;
        let of_all = |error: SettingsError| ConfigFileError::Settings(Box::new(error));
        let (ledger_limits, frame_bytes_max) = self.limits(&file.limits)?;
        limits::check(ledger_limits).map_err(of_all)?;
        let mut feeds = Vec::new();
        for entry in file.feeds {
            let url = super::feed_target::redacted(&entry.url);
            let feed = self.feed(entry, ledger_limits.label_chars_max);
            feeds.push(feed.map_err(|error| ConfigFileError::Feed { url, error: Box::new(error) })?);
        }
        if feeds.is_empty() {
            feeds.clone_from(&self.feeds);
        }
        if feeds.len() > FEEDS_MAX {
            return Err(ConfigFileError::TooManyFeeds { feeds: feeds.len(), feeds_max: FEEDS_MAX });
        }
        run::check_distinct(&feeds).map_err(of_all)?;
        let mut push = self.push.clone();
        if !file.push.is_empty() {
            let receivers = file.push.into_iter().map(|entry| self.receiver(entry, ledger_limits.label_chars_max));
            push.receivers = receivers.collect::<Result<_, _>>()?;
            push::check(&push).map_err(of_all)?;
        }
        let mut skills_dirs = self.skills_dirs.clone();
        if !file.skills_dirs.is_empty() {
            let beside = |directory| self.beside("skills_dirs", Some(directory));
            let directories = file.skills_dirs.into_iter().filter_map(|directory| beside(directory).transpose());
            skills_dirs = directories.collect::<Result<_, _>>().map_err(of_all)?;
            installed_skills(&skills_dirs).map_err(|error| of_all(error.into()))?;
        }
        Ok(ReloadableSettings { feeds, ledger_limits, frame_bytes_max, push, skills_dirs })
    }

    /// Returns `file`, which is relative to the folder of the configuration file.
    fn beside(&self, field: &'static str, file: Option<PathBuf>) -> Result<Option<PathBuf>, SettingsError> {
        let folder = self.path.parent().unwrap_or(Path::new(""));
        file.map(|file| check_path(field, &file).map(|()| folder.join(file))).transpose()
    }

    fn receiver(&self, entry: PushEntry, label_chars_max: usize) -> Result<PushReceiver, ConfigFileError> {
        let shown = super::feed_target::redacted(&entry.url);
        let in_receiver = |error| ConfigFileError::Push { url: shown.clone(), error: Box::new(error) };
        let parsed = |field, value: Option<String>, default, parse: fn(&str) -> Result<Duration, DurationError>| {
            let Some(value) = value else { return Ok(default) };
            parse(&value).map_err(|error| ConfigFileError::PushField { field, value, error: error.into() })
        };
        let beside = |field, file| self.beside(field, file).map_err(in_receiver);
        let receiver = push::ReceiverEntry {
            name: entry.name,
            headers_file: beside("headers_file", entry.headers_file)?,
            bearer_token_file: beside("bearer_token_file", entry.bearer_token_file)?,
            basic_auth_file: beside("basic_auth_file", entry.basic_auth_file)?,
            ca_file: beside("ca_file", entry.ca_file)?,
            cert_file: beside("cert_file", entry.cert_file)?,
            key_file: beside("key_file", entry.key_file)?,
            labels: entry.labels.iter().map(|(name, value)| format!("{name}={value}")).collect(),
            series: entry.series.map(Into::into).unwrap_or_default(),
            age_max: parsed("max_age", entry.max_age, push::AGE_DEFAULT, push::age_max)?,
            timeout: parsed("timeout", entry.timeout, push::TIMEOUT_DEFAULT, push::timeout)?,
            is_insecure: entry.insecure,
        };
        receiver.receiver(&entry.url, label_chars_max).map_err(in_receiver)
    }

    fn limits(&self, entries: &LimitEntries) -> Result<(Limits, usize), ConfigFileError> {
        let LimitEntries { skills, series, remembered_skills, label_chars, max_frame_bytes } = entries;
        let within = |field, value: &Option<String>, default: usize, min: usize, max: usize| match value {
            None => Ok(default),
            Some(value) => number::within(min as u64, max as u64)(value).map_err(|error| ConfigFileError::Limit {
                field,
                value: value.clone(),
                error: error.into(),
            }),
        };
        let limits = Limits {
            skills_max: within("skills", skills, self.limits.skills_max, 1, 1_000_000)?,
            series_max: within("series", series, self.limits.series_max, limits::SERIES_MIN, limits::SERIES_MAX)?,
            remembered_skills_max: within(
                "remembered_skills",
                remembered_skills,
                self.limits.remembered_skills_max,
                1,
                2_000_000,
            )?,
            label_chars_max: within("label_chars", label_chars, self.limits.label_chars_max, 16, 4096)?,
            ..self.limits
        };
        let frame_bytes = within("max_frame_bytes", max_frame_bytes, self.frame_bytes_max, 1024, 64 * 1024 * 1024)?;
        Ok((limits, frame_bytes))
    }

    fn feed(&self, entry: FeedEntry, label_chars_max: usize) -> Result<FeedTarget, SettingsError> {
        let beside = |field, file| self.beside(field, file);
        let has_own = entry.token_file.is_some() || entry.jwt_secret_file.is_some();
        let credentials = CredentialFlags {
            token_file: beside("token_file", entry.token_file)?,
            jwt_secret_file: beside("jwt_secret_file", entry.jwt_secret_file)?,
            headers_file: beside("headers_file", entry.headers_file)?,
            ca_file: beside("ca_file", entry.ca_file)?,
            cert_file: beside("cert_file", entry.cert_file)?,
            key_file: beside("key_file", entry.key_file)?,
        };
        let environment = |name: &str| {
            let secret = match name {
                super::flags::TOKEN_VARIABLE => &self.token,
                super::flags::JWT_SECRET_VARIABLE => &self.jwt_secret,
                _ => &None,
            };
            secret.as_ref().filter(|_| !has_own).map(|secret| secret.expose().into())
        };
        let subscription = super::flags::SubscriptionFlags { skill: entry.skill, credentials };
        let subscription = Subscription::new(subscription, label_chars_max, &environment)?;
        let mut target = subscription.targets(&[entry.url])?.swap_remove(0);
        if let Some(name) = entry.name {
            target.identity = checked_name("name", name, label_chars_max)?;
        }
        target.skills_db = beside("skills_db", entry.skills_db)?;
        Ok(target)
    }
}

/// Returns the message of `error` with fields of the file in place of flags.
fn as_fields(error: &SettingsError) -> String {
    let fields = [
        ("--push.headers-file", "headers_file"),
        ("--push.bearer-token-file", "bearer_token_file"),
        ("--push.basic-auth-file", "basic_auth_file"),
        ("--push.ca-file", "ca_file"),
        ("--push.cert-file", "cert_file"),
        ("--push.key-file", "key_file"),
        ("--push.insecure", "insecure: true"),
        ("--push.label", "labels"),
        ("--push.name", "name"),
        ("--push.url", "url"),
        ("--feed.token-file", "token_file"),
        ("--feed.jwt-secret-file", "jwt_secret_file"),
        ("--feed.headers-file", "headers_file"),
        ("--feed.ca-file", "ca_file"),
        ("--feed.cert-file", "cert_file"),
        ("--feed.key-file", "key_file"),
        ("--feed.skills-db", "skills_db"),
        ("--feed.skill", "skill"),
        ("--feed.name", "name"),
        ("--feed.url", "url"),
        ("--skills.dir", "skills_dirs"),
        ("--limit.remembered-skills", "limits.remembered_skills"),
        ("--limit.skills", "limits.skills"),
        ("--limit.label-chars", "limits.label_chars"),
    ];
    fields.into_iter().fold(error.to_string(), |text, (flag, field)| text.replace(flag, field))
}
