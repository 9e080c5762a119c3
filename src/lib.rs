//! The rooms of session-buddy-bridge, in the order in which a value passes through them.
//!
//! ```text
//! feed ──text──▶ protocol ──Message──▶ ledger ──Changes──▶ exposition ──body──▶ http
//! (WebSocket)    (JSON, pure)          (pure)              (View, pure)         (warp)
//! ```
//!
//! | room | job | what it never does |
//! | --- | --- | --- |
//! | [`settings`] | flags and environment to validated `Settings` | start anything |
//! | `feed` | connect, authenticate, subscribe, read, keep alive, reconnect | parse JSON, see a metric |
//! | [`protocol`] | frame text to [`protocol::Message`] | I/O, async, remember anything |
//! | [`skills_db`] | read the server's database: rows, as facts | write, decide what counts |
//! | [`ledger`] | messages to counts: the only writer of counts | see a socket, a clock, a file |
//! | `exposition` | the ledger's series as text and as a `prometheus` collector | change a count |
//! | `telemetry` | the bridge's own metrics and log lines, one function an event | decide anything |
//! | `live` | what the live page is told, as JSON | count, hold up a feed |
//! | `http` | serve what the others show | count, or know that feeds exist |
//! | [`healthcheck`] | ask a running bridge whether it works | share anything with it but HTTP |
//! | [`demo`] | a made-up server to look at, the other side of the wire | know the bridge |
//! | `exporter` | `PrometheusExporter`, the front door for embedders | have rules of its own |
//! | [`bridge`] | wire the rooms together; the only file that knows them all | have rules of its own |
//!
//! Architecture invariant: data flows one way. A scrape cannot reach a feed, a feed cannot reach a series, and time
//! enters the ledger as a value ([`ledger::Moment`]).

pub mod bridge;
mod build_info;
mod clock;
pub mod demo;
mod explanation;
pub mod exporter;
pub mod exposition;
pub mod feed;
pub mod health;
pub mod healthcheck;
pub mod http;
pub mod ledger;
mod live;
pub mod persister;
pub mod process;
pub mod protocol;
pub mod recording;
mod replay;
mod scrape;
mod service_manager;
pub mod settings;
pub mod shared_ledger;
pub mod skills_db;
pub mod store;
mod sync;
pub mod telemetry;
mod text;

pub use bridge::{Bridge, BridgeError, ReloadHandle};
pub use exporter::{PrometheusExporter, RecordError, StartError};
pub use http::BindError;
pub use protocol::{Rejection, RejectionReason};
pub use recording::RecordingError;
pub use replay::replay;
pub use settings::Settings;
