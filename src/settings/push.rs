//! Builder of the receivers of remote write.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use thiserror::Error;
use url::{Host, Url};

use super::{SettingsError, check_path, duration, feed_target, flags};
use crate::feed::{ClientIdentity, Credential, HttpCredentials, TlsFiles};
use crate::push::{LabelError, PushLabels, PushReceiver, PushSettings, PushedSeries, ReceiverName, default_name};

/// Receivers of one bridge. Each has a connection and a position in the queue.
const RECEIVERS_MAX: usize = 4;

pub(super) const DAY: Duration = Duration::from_secs(86_400);
const INTERVAL_MIN: Duration = Duration::from_secs(5);
const INTERVAL_MAX: Duration = Duration::from_secs(3_600);
pub(super) const AGE_DEFAULT: Duration = Duration::from_secs(7 * 86_400);
pub(super) const TIMEOUT_DEFAULT: Duration = Duration::from_secs(30);
const QUEUE_BYTES_MIN: u64 = 1024 * 1024;
const QUEUE_BYTES_MAX: u64 = 1024 * 1024 * 1024 * 1024;

const HEADERS_FILE: &str = "--push.headers-file";
const BEARER_TOKEN_FILE: &str = "--push.bearer-token-file";
const BASIC_AUTH_FILE: &str = "--push.basic-auth-file";
const CA_FILE: &str = "--push.ca-file";
const CERT_FILE: &str = "--push.cert-file";
const KEY_FILE: &str = "--push.key-file";

/// Why a receiver of remote write cannot be used.
///
/// ```
/// use session_buddy_bridge::Settings;
/// use session_buddy_bridge::settings::{ConfigFileError, PushError, SettingsError};
///
/// # let directory = tempfile::tempdir().unwrap();
/// # let path = directory.path().join("bridge.yaml");
/// std::fs::write(&path, "push:\n  - url: ftp://receiver/\n").unwrap();
/// let refused = Settings::from_config_file(path).unwrap_err();
/// let SettingsError::ConfigFile { error: ConfigFileError::Push { error, .. }, .. } = refused else { panic!("{refused}") };
/// assert!(matches!(*error, SettingsError::Push(PushError::Scheme { .. })));
/// ```
#[derive(Debug, Error)]
pub enum PushError {
    /// Not a URL.
    #[error("--push.url \"{url}\" is not a URL ({error}): write for example https://HOST/api/v1/write")]
    Malformed {
        /// The URL, with possible secrets redacted.
        url: String,
        /// What is wrong with it.
        #[source]
        error: url::ParseError,
    },
    /// The scheme is neither `http` nor `https`.
    #[error(
        "--push.url \"{url}\" does not start with http:// or https://: write for example https://HOST/api/v1/write"
    )]
    Scheme {
        /// The URL, with possible secrets redacted.
        url: String,
    },
    /// The URL has a user name or a password.
    #[error("--push.url \"{url}\" contains a user name or password: use --push.basic-auth-file instead")]
    Userinfo {
        /// The URL, with possible secrets redacted.
        url: String,
    },
    /// The URL has port 0.
    #[error("--push.url \"{url}\" has port 0, to which nobody can connect: give the port of the receiver")]
    Port {
        /// The URL, with possible secrets redacted.
        url: String,
    },
    /// Credentials, or a query, which may hold one, would be sent in the clear.
    #[error(
        "--push.url \"{url}\" would send credentials, or a query that may hold one, without encryption: use https://, or \
         --push.insecure if the network between is trusted"
    )]
    InTheClear {
        /// The URL, with possible secrets redacted.
        url: String,
    },
    /// There are more receivers than a bridge pushes to.
    #[error(
        "there are {receivers} receivers, and a bridge pushes to at most {receivers_max}: let one of them forward the rest"
    )]
    TooMany {
        /// The number of receivers.
        receivers: usize,
        /// The most that are allowed.
        receivers_max: usize,
    },
    /// One name is given for several URLs.
    #[error(
        "--push.name names one receiver, and there are {urls} --push.url: give names in the list `push` of --config.file"
    )]
    NameForSeveral {
        /// The number of URLs.
        urls: usize,
    },
    /// Flags of receivers are given, and no receiver.
    #[error(
        "{setting} was given without --push.url, which names the receiver: for those of a list `push` write it into \
         --config.file"
    )]
    NoUrl {
        /// The first of the flags.
        setting: &'static str,
    },
    /// A flag of the queue is given, and nothing that can name a receiver.
    #[error("{setting} was given without --push.url and without --config.file: nothing is pushed")]
    NoReceiver {
        /// The first of the flags.
        setting: &'static str,
    },
    /// Two receivers have the same name, and would share a position in the queue.
    #[error(
        "two receivers have the name \"{name}\" (user and query of a URL are no part of it): give each a name of its own"
    )]
    DuplicateName {
        /// The name of both.
        name: String,
    },
    /// A label cannot be used.
    #[error("--push.label \"{}\" {error}", .label.escape_debug())]
    Label {
        /// The label as it was given.
        label: String,
        /// What is wrong with it.
        #[source]
        error: LabelError,
    },
    /// A token and a password are given, and a request has one `Authorization`.
    #[error("--push.bearer-token-file and --push.basic-auth-file exclude each other: give one of them")]
    TwoAuthorizations,
    /// A file for TLS is given, and no receiver has `https`.
    #[error("{setting} was given, and --push.url is not https://: leave it out, or use https://")]
    NoTls {
        /// The flag.
        setting: &'static str,
    },
    /// The interval is out of range.
    #[error("--push.interval {} is out of range: give {} to {}", duration::show(*.interval), duration::show(*.min), duration::show(*.max))]
    Interval {
        /// The invalid interval.
        interval: Duration,
        /// The shortest that is allowed.
        min: Duration,
        /// The longest that is allowed.
        max: Duration,
    },
}

/// What is said of one receiver, or of all of the command line.
#[derive(Debug, Clone)]
pub(super) struct ReceiverEntry {
    pub name: Option<String>,
    pub headers_file: Option<PathBuf>,
    pub bearer_token_file: Option<PathBuf>,
    pub basic_auth_file: Option<PathBuf>,
    pub ca_file: Option<PathBuf>,
    pub cert_file: Option<PathBuf>,
    pub key_file: Option<PathBuf>,
    /// Each `NAME=VALUE`.
    pub labels: Vec<String>,
    pub series: PushedSeries,
    pub age_max: Duration,
    pub timeout: Duration,
    pub is_insecure: bool,
}

/// Returns the settings that the flags are. `has_file` is whether a configuration file can name receivers, now or after a
/// reload.
///
/// # Errors
/// The first flag that cannot be used.
pub(crate) fn from_flags(
    flags: flags::PushFlags,
    has_file: bool,
    label_chars_max: usize,
) -> Result<PushSettings, SettingsError> {
    let given = setting_given(&flags);
    let queue_given = queue_setting_given(&flags).filter(|_| !has_file);
    let flags::PushFlags { urls, interval, queue_bytes_max, receiver } = flags;
    let flags::ReceiverFlags { name, credentials, labels, series, age_max, timeout, insecure } = receiver;
    let flags::PushCredentialFlags { headers_file, bearer_token_file, basic_auth_file, ca_file, cert_file, key_file } =
        credentials;
    match (urls.len(), given.map(|setting| PushError::NoUrl { setting })) {
        (0, Some(error)) => return Err(error.into()),
        (0, None) => queue_given.map_or(Ok(()), |setting| Err(PushError::NoReceiver { setting }))?,
        (urls @ 2.., _) if name.is_some() => return Err(PushError::NameForSeveral { urls }.into()),
        _ => {}
    }
    let entry = ReceiverEntry {
        name,
        headers_file,
        bearer_token_file,
        basic_auth_file,
        ca_file,
        cert_file,
        key_file,
        labels,
        series: series.map(Into::into).unwrap_or_default(),
        age_max: age_max.unwrap_or(AGE_DEFAULT),
        timeout: timeout.unwrap_or(TIMEOUT_DEFAULT),
        is_insecure: insecure,
    };
    let default = PushSettings::default();
    let interval = interval.unwrap_or(default.interval);
    let queue_bytes_max = queue_bytes_max.unwrap_or(default.queue_bytes_max);
    let receivers = urls.iter().map(|url| entry.clone().receiver(url, label_chars_max)).collect::<Result<_, _>>()?;
    let settings = PushSettings { receivers, interval, queue_bytes_max };
    check(&settings).map(|()| settings)
}

/// Returns the first flag that configures receivers.
pub(super) fn setting_given(flags: &flags::PushFlags) -> Option<&'static str> {
    let flags::ReceiverFlags { name, credentials, labels, series, age_max, timeout, insecure } = &flags.receiver;
    let given = [
        ("--push.url", !flags.urls.is_empty()),
        ("--push.name", name.is_some()),
        (HEADERS_FILE, credentials.headers_file.is_some()),
        (BEARER_TOKEN_FILE, credentials.bearer_token_file.is_some()),
        (BASIC_AUTH_FILE, credentials.basic_auth_file.is_some()),
        (CA_FILE, credentials.ca_file.is_some()),
        (CERT_FILE, credentials.cert_file.is_some()),
        (KEY_FILE, credentials.key_file.is_some()),
        ("--push.label", !labels.is_empty()),
        ("--push.series", series.is_some()),
        ("--push.max-age", age_max.is_some()),
        ("--push.timeout", timeout.is_some()),
        ("--push.insecure", *insecure),
    ];
    given.into_iter().find(|(_, is_given)| *is_given).map(|(flag, _)| flag)
}

/// Returns the first flag that configures the queue of all receivers, those of a file too.
fn queue_setting_given(flags: &flags::PushFlags) -> Option<&'static str> {
    let interval = flags.interval.map(|_| "--push.interval");
    interval.or(flags.queue_bytes_max.map(|_| "--push.max-queue-bytes"))
}

/// Refuses more receivers than a bridge pushes to, two of one name, and an interval out of range.
pub(super) fn check(settings: &PushSettings) -> Result<(), SettingsError> {
    let receivers = settings.receivers.len();
    if receivers > RECEIVERS_MAX {
        return Err(PushError::TooMany { receivers, receivers_max: RECEIVERS_MAX }.into());
    }
    let mut names = BTreeSet::new();
    if let Some(twice) = settings.receivers.iter().find(|receiver| !names.insert(&receiver.name)) {
        return Err(PushError::DuplicateName { name: twice.name.to_string() }.into());
    }
    if !(INTERVAL_MIN..=INTERVAL_MAX).contains(&settings.interval) {
        let interval = settings.interval;
        return Err(PushError::Interval { interval, min: INTERVAL_MIN, max: INTERVAL_MAX }.into());
    }
    Ok(())
}

impl ReceiverEntry {
    /// Returns the receiver at `url`. Reads each file, so that what cannot be used is refused now.
    pub(super) fn receiver(self, url: &str, label_chars_max: usize) -> Result<PushReceiver, SettingsError> {
        let shown = feed_target::redacted(url);
        let url = read_url(url)?;
        let name = match self.name {
            Some(name) => super::subscription::checked_name("--push.name", name, label_chars_max)?,
            None => default_name(&url),
        };
        let paths = [
            (HEADERS_FILE, &self.headers_file),
            (BEARER_TOKEN_FILE, &self.bearer_token_file),
            (BASIC_AUTH_FILE, &self.basic_auth_file),
            (CA_FILE, &self.ca_file),
            (CERT_FILE, &self.cert_file),
            (KEY_FILE, &self.key_file),
        ];
        for (setting, path) in paths {
            path.iter().try_for_each(|path| check_path(setting, path))?;
        }
        if self.bearer_token_file.is_some() && self.basic_auth_file.is_some() {
            return Err(PushError::TwoAuthorizations.into());
        }
        let identity = match (self.cert_file, self.key_file) {
            (None, None) => None,
            (Some(certificate), Some(key)) => Some(ClientIdentity { certificate, key }),
            (given, _) => {
                let (given, missing) = if given.is_some() { (CERT_FILE, KEY_FILE) } else { (KEY_FILE, CERT_FILE) };
                return Err(SettingsError::IncompleteClientIdentity { given, missing });
            }
        };
        let tls = TlsFiles { ca: self.ca_file, identity };
        if url.scheme() == "http" {
            let setting = tls.ca.as_ref().map(|_| CA_FILE).or(tls.identity.as_ref().map(|_| CERT_FILE));
            if let Some(setting) = setting {
                return Err(PushError::NoTls { setting }.into());
            }
        }
        let credentials = HttpCredentials {
            headers_file: self.headers_file,
            bearer_token_file: self.bearer_token_file,
            basic_auth_file: self.basic_auth_file,
            tls,
        };
        let is_secret = credentials.are_secret() || url.query().is_some();
        if url.scheme() == "http" && is_secret && !is_loopback(&url) && !self.is_insecure {
            return Err(PushError::InTheClear { url: shown }.into());
        }
        credentials.check().map_err(|error| {
            let setting = match error.credential {
                Credential::Token | Credential::JwtSecret => BEARER_TOKEN_FILE,
                Credential::Headers => HEADERS_FILE,
                Credential::BasicAuth => BASIC_AUTH_FILE,
                Credential::Ca => CA_FILE,
                Credential::Certificate => CERT_FILE,
                Credential::Key => KEY_FILE,
            };
            SettingsError::Credential { setting, error }
        })?;
        let labels = PushLabels::of_host(&host_name()).with(self.labels.iter().map(String::as_str));
        let labels = labels.map_err(|(label, error)| PushError::Label { label, error })?;
        let Self { series, age_max, timeout, .. } = self;
        Ok(PushReceiver { name: ReceiverName::new(&name), url, credentials, labels, series, age_max, timeout })
    }
}

fn read_url(text: &str) -> Result<Url, PushError> {
    let shown = || feed_target::redacted(text);
    let url = match Url::parse(text) {
        Ok(url) => url,
        Err(url::ParseError::RelativeUrlWithoutBase) => return Err(PushError::Scheme { url: shown() }),
        Err(error) => return Err(PushError::Malformed { url: shown(), error }),
    };
    match url.scheme() {
        "http" | "https" if !url.username().is_empty() || url.password().is_some() => {
            Err(PushError::Userinfo { url: shown() })
        }
        "http" | "https" if url.port() == Some(0) => Err(PushError::Port { url: shown() }),
        "http" | "https" => Ok(url),
        _ => Err(PushError::Scheme { url: shown() }),
    }
}

fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(Host::Domain(name)) => name == "localhost" || name.ends_with(".localhost"),
        Some(Host::Ipv4(address)) => IpAddr::from(address).is_loopback(),
        Some(Host::Ipv6(address)) => IpAddr::from(address).is_loopback(),
        None => false,
    }
}

fn host_name() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

pub(super) fn interval(text: &str) -> Result<Duration, duration::DurationError> {
    duration::parse(text, INTERVAL_MIN, INTERVAL_MAX)
}

pub(super) fn age_max(text: &str) -> Result<Duration, duration::DurationError> {
    duration::parse(text, Duration::from_secs(60), 365 * DAY)
}

pub(super) fn timeout(text: &str) -> Result<Duration, duration::DurationError> {
    duration::parse(text, Duration::from_secs(1), Duration::from_secs(600))
}

/// A text is not a size, or out of range.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("give a whole number with one of the units KiB, MiB, GiB, for example 256MiB, from 1MiB to 1024GiB")]
pub struct SizeError;

/// Parses a number of bytes, with or without a unit.
pub(super) fn queue_bytes(text: &str) -> Result<u64, SizeError> {
    let unit_at = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(unit_at);
    let factor = match unit {
        "" => 1,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        _ => return Err(SizeError),
    };
    let bytes = number.parse::<u64>().ok().and_then(|number| number.checked_mul(factor));
    bytes.filter(|bytes| (QUEUE_BYTES_MIN..=QUEUE_BYTES_MAX).contains(bytes)).ok_or(SizeError)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn entry() -> ReceiverEntry {
        ReceiverEntry {
            name: None,
            headers_file: None,
            bearer_token_file: None,
            basic_auth_file: None,
            ca_file: None,
            cert_file: None,
            key_file: None,
            labels: Vec::new(),
            series: PushedSeries::All,
            age_max: AGE_DEFAULT,
            timeout: TIMEOUT_DEFAULT,
            is_insecure: false,
        }
    }

    fn refused(entry: ReceiverEntry, url: &str) -> String {
        entry.receiver(url, 128).unwrap_err().to_string()
    }

    #[test]
    fn a_receiver_is_named_by_host_port_and_path_and_never_by_what_may_be_secret() {
        let receiver = entry().receiver("https://Mimir.example/api/v1/push?token=hidden", 128).unwrap();
        assert_eq!(receiver.name.as_str(), "mimir.example:443/api/v1/push");
        assert_eq!(receiver.url.query(), Some("token=hidden"));
        assert!(!format!("{receiver:?}").contains("hidden"), "{receiver:?}");
        let named = ReceiverEntry { name: Some("cloud".to_owned()), ..entry() };
        assert_eq!(named.receiver("http://h/", 128).unwrap().name.as_str(), "cloud");
    }

    #[test]
    fn what_is_no_receiver_is_refused_with_a_remedy() {
        for (url, told) in [
            ("localhost:9090/api/v1/write", "does not start with http:// or https://"),
            ("ws://h", "does not start with http:// or https://"),
            ("", "does not start with http:// or https://"),
            ("http://", "is not a URL (empty host)"),
            ("http://h:0/", "has port 0"),
            ("https://me:hunter2@h/", "use --push.basic-auth-file"),
        ] {
            let error = refused(entry(), url);
            assert!(error.contains(told) && !error.contains("hunter2"), "{error}");
        }
        let labelled = ReceiverEntry { labels: vec!["skill_name=x".to_owned()], ..entry() };
        assert!(refused(labelled, "http://h/").contains("\"skill_name=x\" is a label of the bridge's own series"));
    }

    #[test]
    fn credentials_are_not_sent_in_the_clear_beyond_this_machine() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("token");
        fs::write(&file, "secret").unwrap();
        let with_token = ReceiverEntry { bearer_token_file: Some(file.clone()), ..entry() };
        for url in ["http://h/", "http://10.0.0.1/", "http://localhost.example/"] {
            assert!(refused(with_token.clone(), url).contains("--push.insecure"), "{url}");
        }
        assert!(refused(entry(), "http://h/?token=hunter2").contains("--push.insecure"));
        assert!(entry().receiver("http://localhost/?token=hunter2", 128).is_ok());
        for url in ["https://h/", "http://localhost/", "http://127.0.0.1:9090/", "http://[::1]/"] {
            assert!(with_token.clone().receiver(url, 128).is_ok(), "{url}");
        }
        let insecure = ReceiverEntry { is_insecure: true, ..with_token.clone() };
        assert!(insecure.receiver("http://h/", 128).is_ok());
        assert!(entry().receiver("http://h/", 128).is_ok(), "there is nothing to hide");
        let two = ReceiverEntry { basic_auth_file: Some(file.clone()), ..with_token };
        assert!(refused(two, "https://h/").contains("exclude each other"));
        let missing = ReceiverEntry { headers_file: Some(folder.path().join("none")), ..entry() };
        assert!(refused(missing, "https://h/").starts_with("--push.headers-file"));
        let ca = ReceiverEntry { ca_file: Some(file.clone()), ..entry() };
        assert!(refused(ca, "http://h/").starts_with("--push.ca-file was given"));
        let half = ReceiverEntry { key_file: Some(file), ..entry() };
        assert!(refused(half, "https://h/").contains("--push.cert-file"));
    }

    #[test]
    fn at_most_four_receivers_have_names_of_their_own() {
        let receiver = |url: &str| entry().receiver(url, 128).unwrap();
        let settings = |urls: &[&str]| PushSettings {
            receivers: urls.iter().map(|url| receiver(url)).collect(),
            ..PushSettings::default()
        };
        assert!(check(&settings(&["http://a/", "http://b/", "http://c/", "http://d/"])).is_ok());
        let error = |settings: &PushSettings| check(settings).unwrap_err().to_string();
        assert!(
            error(&settings(&["http://a/", "http://b/", "http://c/", "http://d/", "http://e/"])).contains("at most 4")
        );
        assert!(error(&settings(&["https://a/?1", "https://a/?2"])).contains("the name \"a:443/\""));
        let fast = PushSettings { interval: Duration::from_secs(1), ..PushSettings::default() };
        assert!(error(&fast).contains("give 5s to 1h"));
    }

    #[test]
    fn sizes_have_units() {
        for (text, bytes) in [("256MiB", 256 << 20), ("1048576", 1 << 20), ("2GiB", 2 << 30), ("2048KiB", 2 << 20)] {
            assert_eq!(queue_bytes(text), Ok(bytes));
        }
        for text in ["", "MiB", "1MB", "1 MiB", "1023KiB", "1025GiB", "99999999999999999999GiB", "-1MiB"] {
            assert_eq!(queue_bytes(text), Err(SizeError), "{text}");
        }
    }
}
