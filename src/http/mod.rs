//! The HTTP server: metrics, health, readiness, and the live page with its API.
//!
//! | path | answer |
//! | --- | --- |
//! | the telemetry path (`/metrics`) | 200: every metric, in the text format 0.0.4 or OpenMetrics 1.0 as negotiated, gzip if accepted; 503 if [`HttpLimits::scrapes_max`] is exhausted |
//! | `/` | 200: the live page (unless `/` is the telemetry path); 421 over loopback under a `Host` that is not this server's |
//! | `/assets/...` | 200: the files of the live page |
//! | `/api/v1/...` | 200: the API of the live page; 400 for an invalid query; 421 as for `/` |
//! | `/-/healthy` | 200: the process works |
//! | `/-/reload` | POST and PUT: 200 once [`Content::reload`] has succeeded, 500 with the reason otherwise; 403 without [`HttpSettings::has_lifecycle_api`] or for another origin; 421 as for `/` |
//! | `/-/ready` | 200 if [`Content::readiness`] says so, 503 otherwise |
//! | any other | 404 that lists these |
//!
//! Whatever the path, a browser's request under a `Host` that is not this server's is answered with 421 (DNS rebinding), and
//! one without a valid `Host` with 400.
//!
//! GET and HEAD, POST and PUT for `/-/reload`, otherwise 405. Query strings are accepted; bodies of requests are not read.
//!
//! warp has no limits of its own, so that hyper serves its filters as a service under an accept loop with [`HttpLimits`].
//!
//! Architecture invariant: this module knows neither feeds nor metrics. All that it shows comes from [`Content`], which is
//! also told of each failure, since nothing is counted here.

mod accept;
mod access;
mod assets;
mod basic_auth;
mod fair_queue;
mod host;
mod limits;
mod listen;
mod password_verifier;
mod patient_stream;
mod refusal;
mod routes;
mod scrape_body;
mod serve;
mod socket;
mod timer;
mod web_config;
mod web_config_file;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use thiserror::Error;

pub use accept::Accepts;
pub use host::{HostName, HostNameError};
pub use limits::HttpLimits;
pub(crate) use listen::connect_unix;
pub use listen::{BindError, BoundListener, SocketMode, SocketModeError, bind, bind_unix, from_systemd};
pub use refusal::Refusal;
pub use serve::serve;
pub use web_config::WebConfigError;
pub use web_config_file::{WebConfigFile, WebConfigSummary, watch_web_config};

/// Settings of the server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpSettings {
    /// Path of the metrics. It starts with `/`, and takes precedence over every other page of the same path.
    pub telemetry_path: String,
    /// The limits, for each listener.
    pub limits: HttpLimits,
    /// TLS, client certificates, users and response headers.
    pub web_config: Option<Arc<WebConfigFile>>,
    /// Host names by which browsers may address the server, beside IP addresses, `localhost`, the machine's host name and the
    /// names in the certificate.
    pub allowed_hosts: Vec<HostName>,
    /// Whether `/-/reload` reloads.
    pub has_lifecycle_api: bool,
    /// What the answer to a browser under another host name calls `allowed_hosts`.
    pub allowed_hosts_name: AllowedHostsName,
}

/// By what the one who starts the server sets [`HttpSettings::allowed_hosts`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum AllowedHostsName {
    /// By nothing.
    #[default]
    None,
    /// `Settings::allowed_hosts`, in a program that embeds the bridge.
    Field,
    /// `--web.allowed-hosts`.
    Flag,
}

impl Default for HttpSettings {
    fn default() -> Self {
        Self {
            telemetry_path: "/metrics".to_owned(),
            limits: HttpLimits::default(),
            web_config: None,
            allowed_hosts: Vec::new(),
            has_lifecycle_api: false,
            allowed_hosts_name: AllowedHostsName::default(),
        }
    }
}

/// What the server serves, and who is told of its failures.
pub trait Content: Send + Sync + 'static {
    /// Returns the body of a scrape, in a format and coding that the client accepts. May block.
    fn metrics(&self, accepts: Accepts) -> Metrics;

    /// Returns the same if it is certain to be written within a fraction of a millisecond, and `None` otherwise. Must not block.
    fn metrics_at_once(&self, accepts: Accepts) -> Option<Metrics>;

    /// Returns the body of `GET /api/v1/{resource}?{query}`, as JSON; `None` if there is no such resource. May block.
    fn api(&self, resource: &str, query: &str) -> Option<Result<Vec<u8>, QueryError>>;

    /// Returns the answer to `/-/ready`. Must not block.
    fn readiness(&self) -> Readiness;

    /// Reloads the configuration, and completes when that is done.
    ///
    /// # Errors
    /// Why it was not reloaded, for people.
    fn reload(&self) -> BoxFuture<'static, Result<(), Arc<str>>>;

    /// A request was answered with `status`. `path` is one of few: that of a page, `/assets/`, `/api/v1/`, or `other`.
    fn answered(&self, path: &str, status: u16);

    /// The body of a scrape was written within `duration` of its request.
    fn scraped(&self, duration: Duration);

    /// A connection was refused because `connections_max` others were open.
    fn connection_refused(&self, connections_max: usize);

    /// A client was refused: its connection, or a request of it. It has no address on a Unix socket.
    fn refused(&self, refusal: Refusal, peer: Option<SocketAddr>);

    /// The web configuration file has changed and is used from now on.
    fn web_config_reloaded(&self, summary: WebConfigSummary);

    /// The web configuration file has changed and cannot be used; the previous configuration is kept.
    fn web_config_failed(&self, error: &WebConfigError);

    /// A connection could not be accepted, for example because file descriptors are exhausted; accepting continues.
    fn accept_failed(&self, error: &io::Error);
}

/// The body of a scrape.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Metrics {
    /// The body in order. Chunks are sent without copying, so that they can be shared with other scrapes.
    pub chunks: Vec<Bytes>,
    /// The value of `Content-Type`.
    pub media_type: &'static str,
    /// Whether the chunks are one gzip member.
    pub is_gzip: bool,
}

impl From<Bytes> for Metrics {
    /// A body of one chunk, in the text format 0.0.4, uncompressed.
    fn from(body: Bytes) -> Self {
        Self { chunks: vec![body], media_type: "text/plain; version=0.0.4; charset=utf-8", is_gzip: false }
    }
}

/// The answer to `/-/ready`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Readiness {
    /// Whether it is answered with 200; 503 otherwise.
    pub is_ready: bool,
    /// The body, for people.
    pub text: String,
}

/// A parameter of a query string with an invalid value.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("`{parameter}={value}`: {problem}")]
pub struct QueryError {
    /// The name of the parameter.
    pub parameter: &'static str,
    /// The invalid value.
    pub value: String,
    /// Which values are valid.
    pub problem: String,
}
