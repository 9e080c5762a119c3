//! `healthcheck`: a health request to a running bridge, for containers without another HTTP client.
//!
//! Architecture invariant: it shares nothing with a bridge but HTTP. It has no runtime, and no thread unless it logs:
//! the process is started every few seconds.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use clap::Args;
use clap::builder::ValueParser;
use thiserror::Error;
use url::{Position, Url};

use super::{Command, CommandError};
use crate::settings::duration::{self, DurationError};
use crate::settings::flags::LogFlags;
use crate::settings::{LogSettings, SettingsError, feed_target, healthcheck_url};

/// Bytes of a response that are read: only its first line matters.
const RESPONSE_BYTES_MAX: usize = 256;

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
    /// No address of the host accepted the connection or responded in time.
    #[error("{url}: no response from {address}: {source}; check that the bridge runs and listens there")]
    NoResponse {
        /// The requested URL.
        url: String,
        /// The last address that was tried.
        address: SocketAddr,
        /// The system's error.
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
}

#[derive(Debug, Args)]
pub(super) struct HealthcheckFlags {
    /// URL to request; http:// only, TLS is not supported
    #[arg(id = "healthcheck.url", value_name = "URL", default_value = "http://127.0.0.1:9090/-/healthy")]
    pub url: String,
    /// Longest time to wait for the response [range: 100ms to 1m]
    #[arg(long = "healthcheck.timeout", value_name = "DURATION", default_value = "3s")]
    #[arg(value_parser = ValueParser::new(healthcheck_timeout))]
    pub timeout: Duration,
    #[command(flatten)]
    pub log: LogFlags,
}

fn healthcheck_timeout(text: &str) -> Result<Duration, DurationError> {
    duration::parse(text, Duration::from_millis(100), Duration::from_secs(60))
}

/// Requests the health of a running bridge; succeeds on a 200.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Healthcheck {
    /// The URL to request: `http`, with a host, without userinfo.
    pub url: Url,
    /// How long the response may take.
    pub timeout: Duration,
    /// What is logged, and how.
    pub log: LogSettings,
}

impl Healthcheck {
    pub(super) fn new(flags: HealthcheckFlags) -> Result<Self, SettingsError> {
        let url = healthcheck_url::read(&flags.url)
            .map_err(|error| SettingsError::HealthcheckUrl { url: feed_target::redacted(&flags.url), error })?;
        Ok(Self { url, timeout: flags.timeout, log: flags.log.settings() })
    }
}

impl Command for Healthcheck {
    fn log(&self) -> LogSettings {
        self.log
    }

    fn execute(self: Box<Self>) -> Result<(), CommandError> {
        Ok(check(&self.url, self.timeout)?)
    }
}

/// Sends a GET to `url`, which is `http` and has a host, and returns if the response is 200. Blocks for `timeout` at most,
/// beside the time that the system takes to resolve a name.
///
/// # Errors
/// Everything but 200.
fn check(url: &Url, timeout: Duration) -> Result<(), HealthcheckError> {
    let deadline = Instant::now() + timeout;
    let unresolved = |source| HealthcheckError::Unresolved { url: url.to_string(), source };
    let mut addresses = url.socket_addrs(|| None).map_err(unresolved)?.into_iter();
    let mut address = addresses.next().ok_or_else(|| unresolved(io::ErrorKind::NotFound.into()))?;
    let status_line = loop {
        match (request(url, address, deadline), addresses.next()) {
            (Ok(status_line), _) => break status_line,
            // `localhost` has two addresses, and a bridge may listen on either.
            (Err(_), Some(next)) => address = next,
            (Err(source), None) => {
                return Err(HealthcheckError::NoResponse { url: url.to_string(), address, source });
            }
        }
    };
    let mut words = status_line.split(' ');
    match (words.next(), words.next()) {
        (Some("HTTP/1.1" | "HTTP/1.0"), Some("200")) => Ok(()),
        _ => Err(HealthcheckError::Unhealthy { url: url.to_string(), status_line }),
    }
}

/// Returns the first line of the response.
fn request(url: &Url, address: SocketAddr, deadline: Instant) -> io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&address, remaining(deadline)?)?;
    let host = &url[Position::BeforeHost..Position::AfterPort];
    let target = &url[Position::BeforePath..Position::AfterQuery];
    stream.set_write_timeout(Some(remaining(deadline)?))?;
    stream.write_all(format!("GET {target} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n").as_bytes())?;
    let mut response = Vec::new();
    let mut chunk = [0; RESPONSE_BYTES_MAX];
    while response.len() < RESPONSE_BYTES_MAX && !response.contains(&b'\n') {
        stream.set_read_timeout(Some(remaining(deadline)?))?;
        match stream.read(&mut chunk) {
            Ok(0) => break,
            Ok(read) => response.extend_from_slice(&chunk[..read]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            // The error of a socket whose timeout has passed.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Err(io::ErrorKind::TimedOut.into()),
            Err(error) => return Err(error),
        }
    }
    if response.is_empty() {
        return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the connection was closed without a response"));
    }
    let line = String::from_utf8_lossy(&response);
    Ok(line.lines().next().unwrap_or_default().to_owned())
}

/// Returns the time until `deadline`: never zero, which a socket would refuse.
fn remaining(deadline: Instant) -> io::Result<Duration> {
    let remaining = deadline.saturating_duration_since(Instant::now());
    if remaining.is_zero() { Err(io::ErrorKind::TimedOut.into()) } else { Ok(remaining) }
}
