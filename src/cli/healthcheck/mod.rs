//! `healthcheck`: a health request to a running bridge, for containers without another HTTP client.
//!
//! | file | job |
//! | --- | --- |
//! | `mod` | flags, and the verdict |
//! | `endpoint` | where the bridge of some flags and variables, or of a process, can be requested |
//! | `exchange` | one request over TCP or a Unix socket, plain or over TLS, until a deadline |
//!
//! Architecture invariant: it shares nothing with a bridge but its settings and HTTP. It has no runtime, and no thread unless
//! it logs: the process is started every few seconds.

mod endpoint;
mod exchange;

use std::io::{self, ErrorKind::InvalidData};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::Args;
use clap::builder::ValueParser;
use data_encoding::BASE64;
use rustls::crypto::ring;
use rustls::sign::CertifiedKey;
use thiserror::Error;
use url::{Position, Url};

use super::{Command, CommandError};
use crate::regular_file;
use crate::settings::credentials::client_identity;
use crate::settings::duration::{self, DurationError};
use crate::settings::flags::{ListenFlags, LogFlags};
use crate::settings::{
    ClientIdentity, CredentialError, LogSettings, SettingsError, WebConfigFile, feed_target, healthcheck_url,
};
pub use endpoint::ProcessError;
use endpoint::{Address, Endpoints};
use exchange::{Answer, ExchangeError, Trust, exchange};

/// What is requested of a bridge whose settings are known.
const HEALTHY_PATH: &str = "/-/healthy";

/// Longest password file, in bytes: more than a header may have.
const PASSWORD_BYTES_MAX: usize = 64 * 1024;

/// Why a health check failed.
#[derive(Debug, Error)]
pub enum HealthcheckError {
    /// The host name has no address.
    #[error("{url}: the host cannot be resolved: {source}")]
    Unresolved {
        /// The requested URL.
        url: String,
        /// The system's error.
        source: io::Error,
    },
    /// No address accepted the connection or responded in time.
    #[error("{url}: no response from {address}: {source}; check that the bridge runs and listens there")]
    NoResponse {
        /// The requested URL.
        url: String,
        /// The last address that was tried.
        address: String,
        /// The error of the system or of TLS.
        source: io::Error,
    },
    /// A response other than 200, or one that is not HTTP.
    #[error("{url}: expected status 200, received \"{}\"", .status_line.escape_debug())]
    Unhealthy {
        /// The requested URL.
        url: String,
        /// The first line of the response.
        status_line: String,
    },
    /// The process does not tell where it listens.
    #[error("--healthcheck.pid {pid}: {source}")]
    Process {
        /// Id of the process.
        pid: u32,
        /// What is wrong with it.
        source: ProcessError,
    },
    /// The password cannot be read.
    #[error("--healthcheck.password-file {}: {source}", .file.display())]
    Password {
        /// The file.
        file: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// The client certificate or its key cannot be used.
    #[error(transparent)]
    Certificate(#[from] CredentialError),
    /// The system has no certificates to trust.
    #[error("{url}: the system's trusted certificates cannot be read: {source}")]
    NoTrustedRoots {
        /// The requested URL.
        url: String,
        /// The error of the first that cannot be read, or that there are none.
        source: io::Error,
    },
}

#[derive(Debug, Args)]
pub(super) struct HealthcheckFlags {
    /// URL to request, http:// or https:// [default: /-/healthy where a bridge with these flags and variables listens]
    #[arg(id = "healthcheck.url", value_name = "URL")]
    pub url: Option<String>,
    /// Id of the process of the bridge, to read its flags and variables instead of those of this command: 1 in a container
    #[arg(long = "healthcheck.pid", value_name = "PID")]
    pub pid: Option<u32>,
    /// Longest time to wait for the response [range: 100ms to 1m]
    #[arg(long = "healthcheck.timeout", value_name = "DURATION", default_value = "3s")]
    #[arg(value_parser = ValueParser::new(healthcheck_timeout))]
    pub timeout: Duration,
    /// User to authenticate as; without one, the bridge's request for a password counts as healthy
    #[arg(long = "healthcheck.username", value_name = "NAME")]
    pub username: Option<String>,
    /// File with the password of that user
    #[arg(long = "healthcheck.password-file", value_name = "FILE")]
    pub password_file: Option<PathBuf>,
    /// PEM file with the certificate to present to a bridge that requests one
    #[arg(long = "healthcheck.cert-file", value_name = "FILE")]
    pub cert_file: Option<PathBuf>,
    /// PEM file with the private key of that certificate
    #[arg(long = "healthcheck.key-file", value_name = "FILE")]
    pub key_file: Option<PathBuf>,
    #[command(flatten)]
    pub listen: ListenFlags,
    #[command(flatten)]
    pub log: LogFlags,
}

fn healthcheck_timeout(text: &str) -> Result<Duration, DurationError> {
    duration::parse(text, Duration::from_millis(100), Duration::from_secs(60))
}

/// Requests the health of a running bridge; succeeds if it is healthy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Healthcheck {
    subject: Subject,
    /// How long the response may take.
    pub timeout: Duration,
    login: Option<Login>,
    identity: Option<ClientIdentity>,
    /// What is logged, and how.
    pub log: LogSettings,
}

/// What is requested.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Subject {
    /// `http` or `https`, with a host, without userinfo. Only a 200 is healthy.
    Url(Url),
    /// A bridge with these settings.
    Bridge(Endpoints),
    /// A bridge with the settings of this process.
    Process(u32),
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Login {
    username: String,
    password_file: PathBuf,
}

impl Healthcheck {
    pub(super) fn new(flags: HealthcheckFlags) -> Result<Self, SettingsError> {
        let subject = match (&flags.url, flags.pid) {
            (Some(text), _) => Subject::Url(
                healthcheck_url::read(text)
                    .map_err(|error| SettingsError::HealthcheckUrl { url: feed_target::redacted(text), error })?,
            ),
            (None, Some(pid)) => Subject::Process(pid),
            (None, None) => Subject::Bridge(Endpoints::new(&flags.listen)?),
        };
        const USERNAME: &str = "--healthcheck.username";
        const PASSWORD_FILE: &str = "--healthcheck.password-file";
        let login = match (flags.username, flags.password_file) {
            (None, None) => None,
            (Some(username), Some(password_file)) => Some(Login { username, password_file }),
            (Some(_), None) => {
                return Err(SettingsError::IncompleteLogin { given: USERNAME, missing: PASSWORD_FILE });
            }
            (None, Some(_)) => {
                return Err(SettingsError::IncompleteLogin { given: PASSWORD_FILE, missing: USERNAME });
            }
        };
        let identity =
            client_identity(("--healthcheck.cert-file", flags.cert_file), ("--healthcheck.key-file", flags.key_file))?;
        Ok(Self { subject, timeout: flags.timeout, login, identity, log: flags.log.settings() })
    }

    /// Returns the URLs that are requested in turn, for people; none where a process is yet to be looked at.
    pub fn urls(&self) -> Vec<String> {
        match &self.subject {
            Subject::Url(url) => vec![url.to_string()],
            Subject::Bridge(endpoints) => {
                endpoints.addresses.iter().map(|address| address.url(endpoints.web_config.is_some())).collect()
            }
            Subject::Process(_) => Vec::new(),
        }
    }

    /// Blocks for `timeout` at most, beside the time that the system takes to resolve a name.
    ///
    /// # Errors
    /// The bridge is not healthy, or cannot be requested.
    fn check(&self) -> Result<(), HealthcheckError> {
        let deadline = Instant::now() + self.timeout;
        let authorization = self.login.as_ref().map(Login::authorization).transpose()?;
        let key = |identity: &ClientIdentity| identity.certified_key(&ring::default_provider()).map(Arc::new);
        let identity = self.identity.as_ref().map(key).transpose()?;
        let presented = Presented { authorization: authorization.as_deref(), identity: identity.as_ref() };
        match &self.subject {
            Subject::Url(url) => check_url(url, presented, deadline),
            Subject::Bridge(endpoints) => check_bridge(endpoints, presented, deadline),
            Subject::Process(pid) => {
                let endpoints =
                    Endpoints::of_process(*pid).map_err(|source| HealthcheckError::Process { pid: *pid, source })?;
                check_bridge(&endpoints, presented, deadline)
            }
        }
    }
}

impl Login {
    /// Returns the value of the header `Authorization`.
    fn authorization(&self) -> Result<String, HealthcheckError> {
        let password = regular_file::read(&self.password_file, PASSWORD_BYTES_MAX)
            .and_then(|password| String::from_utf8(password).map_err(|error| io::Error::new(InvalidData, error)))
            .map_err(|source| HealthcheckError::Password { file: self.password_file.clone(), source })?;
        let password = password.trim_end_matches(['\n', '\r']);
        Ok(format!("Basic {}", BASE64.encode(format!("{}:{password}", self.username).as_bytes())))
    }
}

impl Command for Healthcheck {
    fn log(&self) -> LogSettings {
        self.log
    }

    fn execute(self: Box<Self>) -> Result<(), CommandError> {
        Ok(self.check()?)
    }
}

/// What is presented to whoever requests it.
#[derive(Clone, Copy)]
struct Presented<'a> {
    /// The value of the header `Authorization`.
    authorization: Option<&'a str>,
    /// The client certificate.
    identity: Option<&'a Arc<CertifiedKey>>,
}

/// The best of several failures: a response says more than that there is none, and a later address more than a former.
#[derive(Default)]
struct Failures(Option<HealthcheckError>);

impl Failures {
    fn add(&mut self, failure: HealthcheckError) {
        if !matches!(
            (&self.0, &failure),
            (Some(HealthcheckError::Unhealthy { .. }), HealthcheckError::NoResponse { .. })
        ) {
            self.0 = Some(failure);
        }
    }
}

fn check_url(url: &Url, presented: Presented<'_>, deadline: Instant) -> Result<(), HealthcheckError> {
    let unresolved = |source| HealthcheckError::Unresolved { url: url.to_string(), source };
    let trust = match url.scheme() {
        "https" => {
            let host = url.host_str().unwrap_or_default().trim_start_matches('[').trim_end_matches(']');
            let trust = Trust::system(host)
                .map_err(|source| HealthcheckError::NoTrustedRoots { url: url.to_string(), source })?;
            Some(trust)
        }
        _ => None,
    };
    let request = exchange::Request {
        target: &url[Position::BeforePath..Position::AfterQuery],
        host: &url[Position::BeforeHost..Position::AfterPort],
        authorization: presented.authorization,
    };
    let mut failures = Failures::default();
    // `localhost` has two addresses, and a bridge may listen on either.
    for address in url.socket_addrs(|| None).map_err(unresolved)? {
        match exchange(&Address::Tcp(address), trust.as_ref(), presented.identity, &request, deadline) {
            Ok(Answer::Status(status)) if status.code == Some(200) => return Ok(()),
            answer => failures.add(failure(url.as_str(), &address.to_string(), answer)),
        }
    }
    Err(failures.0.unwrap_or_else(|| unresolved(io::ErrorKind::NotFound.into())))
}

/// Requests a bridge at each of its addresses until one is healthy. With a web configuration file, TLS and passwords may be as
/// the file says now, or as it said when it was last valid: both are tried, and a request for what is not given here, a
/// password or a certificate, shows that the bridge works.
fn check_bridge(endpoints: &Endpoints, presented: Presented<'_>, deadline: Instant) -> Result<(), HealthcheckError> {
    let (tls, expects_tls) = match &endpoints.web_config {
        None => (None, false),
        Some(path) => {
            let certificate = WebConfigFile::open(path).map(|file| file.certificate());
            let expects_tls = !matches!(certificate, Ok(None));
            (Some(Trust::own(certificate.ok().flatten())), expects_tls)
        }
    };
    let attempts = match &tls {
        None => vec![None],
        Some(trust) if expects_tls => vec![Some(trust), None],
        Some(trust) => vec![None, Some(trust)],
    };
    let mut failures = Failures::default();
    for address in &endpoints.addresses {
        let mut expected = None;
        for trust in &attempts {
            // Whoever answers in plain text in place of a bridge with TLS is not sent the password.
            let authorization = presented.authorization.filter(|_| trust.is_some() || !expects_tls);
            let request = exchange::Request { target: HEALTHY_PATH, host: "localhost", authorization };
            match exchange(address, *trust, presented.identity, &request, deadline) {
                Ok(answer) if is_healthy(&answer, tls.is_some()) => return Ok(()),
                answer if expected.is_none() => {
                    expected = Some(failure(&address.url(trust.is_some()), &address.to_string(), answer));
                }
                _ => {}
            }
        }
        expected.into_iter().for_each(|failure| failures.add(failure));
    }
    Err(failures.0.expect("a bridge has an address"))
}

fn is_healthy(answer: &Answer, may_refuse: bool) -> bool {
    match answer {
        Answer::Status(status) => match status.code {
            Some(200) => true,
            Some(401) => may_refuse && !status.was_authorized,
            _ => false,
        },
        Answer::CertificateRequired => may_refuse,
        Answer::CertificateRefused(_) => false,
    }
}

fn failure(url: &str, address: &str, answer: Result<Answer, ExchangeError>) -> HealthcheckError {
    let (url, address) = (url.to_owned(), address.to_owned());
    match answer {
        Ok(Answer::Status(status)) => HealthcheckError::Unhealthy { url, status_line: status.line },
        Ok(Answer::CertificateRequired) => {
            let problem = "it requires a client certificate; give --healthcheck.cert-file and --healthcheck.key-file";
            let source = io::Error::new(io::ErrorKind::PermissionDenied, problem);
            HealthcheckError::NoResponse { url, address, source }
        }
        Ok(Answer::CertificateRefused(error)) => {
            let problem = format!("it ended the connection after the certificate of --healthcheck.cert-file: {error}");
            let source = io::Error::new(io::ErrorKind::PermissionDenied, problem);
            HealthcheckError::NoResponse { url, address, source }
        }
        Err(source) => HealthcheckError::NoResponse { url, address, source },
    }
}
