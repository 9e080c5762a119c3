//! Serves what the other rooms show, over warp: the metrics, health, readiness and a small page.
//!
//! | path | answer |
//! | --- | --- |
//! | the telemetry path (`/metrics`) | 200: every metric, in the text format 0.0.4 or OpenMetrics 1.0 as negotiated, gzip for those who accept it; 503 where [`HttpLimits::scrapes_max`] is exhausted |
//! | `/` | 200: the live page (unless `/` is the telemetry path); 421 where a browser was led here by a name that is not this machine's |
//! | `/assets/...` | 200: what the live page is made of |
//! | `/api/v1/...` | 200: what the live page is told, as JSON; 400 where the question is wrong; 421 as for `/` |
//! | `/-/healthy` | 200: the process works |
//! | `/-/ready` | 200 if [`Content::readiness`] says so, 503 otherwise |
//! | any other | 404 that names these |
//!
//! GET and HEAD, else 405. Query strings are accepted, bodies of requests are not read.
//!
//! warp bounds nothing by itself, so its filters are served as a plain service by hyper under an accept loop that has
//! [`HttpLimits`].
//!
//! Architecture invariant: this module knows neither feeds nor metrics. All that it shows comes from [`Content`], which is
//! also told of each failure, since nothing is counted here.

mod accept;
mod access;
mod assets;
mod basic_auth;
mod limits;
mod listen;
mod patient_stream;
mod routes;
mod scrape_body;
mod serve;
mod socket;
mod web_config;

use std::io;
use std::sync::Arc;

use bytes::Bytes;
use thiserror::Error;

pub use accept::Accepts;
pub use limits::HttpLimits;
pub use listen::{BindError, BoundListener, bind, bind_unix, from_systemd};
pub use serve::serve;
pub use web_config::{WebConfigError, WebConfigFile};

/// What is served where, and the limits of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpSettings {
    /// Path of the metrics; starts with `/`. It wins over every other page of the same path.
    pub telemetry_path: String,
    /// The limits, for each listener.
    pub limits: HttpLimits,
    /// TLS, users and headers, if there are to be any.
    pub web_config: Option<Arc<WebConfigFile>>,
}

impl Default for HttpSettings {
    fn default() -> Self {
        Self { telemetry_path: "/metrics".to_owned(), limits: HttpLimits::default(), web_config: None }
    }
}

/// What the pages show, and who is told what could not be served.
pub trait Content: Send + Sync + 'static {
    /// The whole body of a scrape, in a format and encoding that the client accepts. May take long: it is called where
    /// blocking is allowed.
    fn metrics(&self, accepts: Accepts) -> Metrics;

    /// The answer to `GET /api/v1/{resource}?{query}` as JSON, or why the question is wrong; `None` if there is no such
    /// resource. May take as long as a scrape.
    fn api(&self, resource: &str, query: &str) -> Option<Result<Vec<u8>, QueryError>>;

    /// The answer to `/-/ready`. Must not block.
    fn readiness(&self) -> Readiness;

    /// A connection was closed unserved because `connections_max` others were open.
    fn connection_refused(&self, connections_max: usize);

    /// The web configuration file has changed and cannot be used: what it said before goes on to count.
    fn web_config_failed(&self, error: &WebConfigError);

    /// A connection could not be accepted, for example for want of file descriptors; accepting goes on.
    fn accept_failed(&self, error: &io::Error);
}

/// The body of a scrape.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Metrics {
    /// One behind the other. They are sent as they are, so that they may be shared with other scrapes.
    pub chunks: Vec<Bytes>,
    /// What it is, for `Content-Type`.
    pub media_type: &'static str,
    /// Whether together they are one gzip member.
    pub is_gzip: bool,
}

impl From<Bytes> for Metrics {
    /// A body in one chunk, text format 0.0.4, that is not packed.
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
