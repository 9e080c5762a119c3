//! Exports the skill metrics of Session-Buddy to Prometheus, each invocation and each anomaly counted exactly once.
//!
//! Session-Buddy's `RealTimeMetricsServer` repeats its totals over a WebSocket every second. A [`Bridge`] subscribes to such
//! feeds, works out what is new, persists the counts and serves them at `/metrics`:
//!
//! ```
//! use session_buddy_bridge::settings::FeedTarget;
//! use session_buddy_bridge::{Bridge, Settings};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let mut settings = Settings::new(vec![FeedTarget::new("ws://localhost:8765")?]);
//! settings.listen = vec!["127.0.0.1:0".parse()?];
//! let bridge = Bridge::bind(settings)?;
//! println!("http://{}/metrics", bridge.local_addrs()[0]);
//! # let shutdown = async {};
//! bridge.run(shutdown).await?;
//! # Ok(())
//! # }
//! ```
//!
//! A program without a feed records its skills itself, and serves the same families:
//!
//! ```
//! use session_buddy_bridge::PrometheusExporter;
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let exporter = PrometheusExporter::new(0);
//! exporter.start()?;
//! exporter.record_invocation("pytest-run", Some("execution"), true, Some(45.2))?;
//! println!("{}", exporter.url().expect("it was started"));
//! # Ok(())
//! # }
//! ```
//!
//! [`replay`] counts a recording of a feed. The command line is documented by `session-buddy-bridge --help`.
//!
//! # Layout, for contributors
//!
//! ```text
//! feed ──frame──▶ protocol ──Message──▶ ledger ──Changes──▶ exposition ──body──▶ http
//!                                         ▲ │
//!                       skills_db ──rows──┘ └──Changes──▶ persister ──▶ store
//! ```
//!
//! Frames are parsed by `protocol::read`, counts change in `ledger::Ledger` and nowhere else (`apply` takes messages,
//! `apply_detail` rows), and state is written by `store::Store`: by `commit`, which `persister` calls, and for the commands
//! `state forget` and `state rename`.
//!
//! | module | job |
//! | --- | --- |
//! | `settings` | flags, environment and configuration file to validated settings; starts nothing |
//! | `feed` | connect, authenticate, subscribe, receive, keep alive, reconnect; parses no message |
//! | `protocol` | frames to messages; pure, and without memory of earlier frames |
//! | `skills_db` | the database beside a feed's server, read-only: rows as facts; decides nothing |
//! | `ledger` | messages and rows to counts; pure: time is passed in, and no socket, file or clock is known |
//! | `shared_ledger` | the ledger behind a lock, and the view that scrapes read |
//! | `persister`, `store` | commit to the state file, then expose; the state file (SQLite) itself |
//! | `push` | remote write: the queue of samples that receivers have not answered for |
//! | `exposition` | the view as text and as a `prometheus` collector; changes no count |
//! | `health` | how each feed stands: the one place that decides it |
//! | `telemetry` | the bridge's own metrics and log, one function an event; decides nothing |
//! | `live` | the JSON API of the live page, from the view, `health` and `telemetry` |
//! | `http` | serves what it is given, within limits; knows neither feeds nor metrics |
//! | `site_content`, `scrape` | what it is given: metrics, API and readiness; content negotiation of a scrape |
//! | `lent_registry` | the registry behind `/metrics`, and whether programs that embed the bridge may have registered collectors |
//! | `installed` | the skills that are installed on this machine |
//! | `process` | the `process_*` metrics |
//! | `bridge` | connects all of the above: [`Bridge`] |
//! | `cli` | the command line: one file a command, its flags beside what it does |
//! | `exporter` | [`PrometheusExporter`]: a ledger with one local feed |
//! | `recording`, `replay` | recordings of feeds, and the metrics that they lead to |
//! | `backfill` | the history of a database as samples at its true times |
//! | `report` | what the rows of a database say about each skill, as text |
//! | `demo` | a simulated server; knows nothing of the bridge |
//! | `reload` | files that change while the program runs: reads that agree, and what a reload must not take away |
//! | `pem` | certificates and keys of TLS, for `feed` and `http`; no error quotes a key |
//! | `regular_file` | bounded reads of regular files, which never wait |
//! | `service_manager` | notifications to systemd |
//! | `build_info` | version, revision, compiler and target of this build |
//! | `heap` | returns freed memory to the system |
//! | `standstill` | timers that do not count time in which the process was stopped |
//! | `clock`, `sync`, `text` | wall time, locks, and text made safe to show |
//!
//! Architecture invariant: data flows one way, and no two modules depend on each other. A scrape cannot reach a feed, and a
//! feed cannot reach a series except through the ledger. `protocol` and `demo` know no other module; `feed` and
//! `http` know `pem` and `standstill`, and `http` knows `reload`. `feed`, `reload` and `cli` know `regular_file`.
//!
//! The API is what is documented here. Everything else is private, or in the hidden module `internals`, which is for this
//! project's own tests, benches and fuzz targets and changes without notice.

#![allow(
    rustdoc::private_intra_doc_links,
    reason = "hidden items are documented for contributors, who see private ones"
)]

mod backfill;
mod bridge;
mod build_info;
mod cli;
mod clock;
mod demo;
mod exporter;
mod exposition;
mod feed;
mod health;
mod heap;
mod http;
mod installed;
mod ledger;
mod lent_registry;
mod live;
mod pem;
mod persister;
mod process;
mod protocol;
mod push;
mod recording;
mod regular_file;
mod reload;
mod replay;
mod report;
mod scrape;
mod service_manager;
pub mod settings;
mod shared_ledger;
mod site_content;
mod skills_db;
mod standstill;
mod store;
mod sync;
mod telemetry;
mod text;

pub use bridge::{Bridge, BridgeError, ReloadHandle};
pub use exporter::{PrometheusExporter, RecordError, StartError};
pub use http::BindError;
pub use ledger::InvalidState;
pub use persister::PersistError;
pub use protocol::{Rejection, RejectionReason};
pub use recording::{LineError, RecordingError};
pub use replay::replay;
pub use settings::Settings;
pub use store::{Corruption, StoreError};

/// The programs of these documents compile.
#[cfg(doctest)]
mod documents {
    #![doc = include_str!("../README.md")]
    #![doc = include_str!("../docs/how-to/embed.md")]
}

/// What this project's own binary, tests, benches and fuzz targets need beyond the API. Changes without notice.
#[doc(hidden)]
pub mod internals {
    pub mod backfill {
        pub use crate::backfill::{
            BackfillError, Counted, EVENTS_MAX, OpenMetrics, Progress, Requests, Sink, Span, Summary, write,
        };
    }
    pub mod cli {
        pub use crate::cli::demo::Demo;
        pub use crate::cli::healthcheck::Healthcheck;
        pub use crate::cli::record::Record;
        pub use crate::cli::replay::Replay;
        pub use crate::cli::run::Run;
        pub use crate::cli::{Command, main, parse};
    }
    pub mod demo {
        pub use crate::demo::{DemoFeed, DemoSettings};
    }
    pub mod exposition {
        pub use crate::exposition::{
            Encoding, FamiliesCollector, Format, RegistryText, View, ViewProvider, encode_families, render,
        };
    }
    pub mod feed {
        pub use crate::feed::{
            DISCONNECT_CODES, DisconnectReason, FeedListener, FeedSettings, FeedState, FrameSummary, SnapshotSummary,
            TokenOrigin, run,
        };
        pub use crate::settings::{
            ClientIdentity, Credentials, Minting, Secret, SecretSource, TOKEN_LIFETIME, Timing, TlsFiles, TokenSource,
        };
    }
    pub mod health {
        pub use crate::health::Health;
    }
    pub mod http {
        pub use crate::http::{
            Accepts, AllowedHostsName, Content, HttpLimits, HttpSettings, Metrics, QueryError, Readiness, Refusal,
            WebConfigError, WebConfigFile, WebConfigSummary, bind, serve, watch_web_config,
        };
    }
    pub mod ledger {
        pub use crate::ledger::{
            Changes, ConnectionId, DURATION_BUCKETS_SECONDS, FailureSeries, FallenSkill, FallenSkills, FeedCounters,
            FeedId, FeedRole, FeedSpec, FeedStanding, Histogram, Ledger, LedgerState, Limits, Notice, Now, PhaseSeries,
            ResetCause, RowsReading, RuleCounters, SkillIndex, SkillRow, SkillSeries, SourceId, binding, continuity,
            evidence, records,
        };
    }
    pub mod lent_registry {
        pub use crate::lent_registry::LentRegistry;
    }
    pub mod process {
        pub use crate::process::process_collector;
    }
    pub mod protocol {
        pub use crate::protocol::{
            AnomalyEntry, ConnectionMessage, Event, EventKind, Limits, Message, MessageType, Number, Rejection,
            RejectionReason, SkillEntry, Snapshot, read,
        };
    }
    pub mod push {
        pub use crate::push::{
            Backlog, ClockGuard, EncodedLabels, Generation, Grid, HostHash, Identified, Identity, InMemoryError,
            LabelSets, NoSuccessor, Origin, OwnGatherer, OwnSample, Position, PushLabels, PushReceiver, PushedSeries,
            QueueError, QueueHandle, QueueServer, QueueSettings, QueueSize, QueueSummary, ReceiverListener,
            ReceiverName, RefusalReason, RemovedReceiver, RequestEncoder, STALE, Schedule, SendTiming, Sender, Series,
            SeriesId, SeriesKind, SeriesName, Tick, TickKind, TickOutcome, TickTime, Ticker, Wait, WallClock, is_stale,
            summary,
        };
    }
    pub mod shared_ledger {
        pub use crate::shared_ledger::SharedLedger;
    }
    pub mod skills_db {
        pub use crate::skills_db::{
            AnomaliesPlan, BATCH_ROWS, DatabaseFacts, DatabaseReader, DatabaseReading, Decision, FileIdentity,
            HeldSkills, HistoryDatabase, MissingRows, ReadPlan, ReadRequest, RowConsumer, RowFingerprint, RowsRead,
            SkillsDatabase, SkillsDatabaseError, Table, TableCursor, with_history,
        };
    }
    pub mod report {
        pub use crate::report::{
            By, DURATIONS_MAX, Durations, Format, Group, LeftOut, Period, Report, ReportError, Trend,
        };
    }
    pub mod store {
        pub use crate::store::{Corruption, Opened, Quarantine, Store, StoreError};
    }
    pub mod telemetry {
        pub use crate::telemetry::{CODES_FROM_ZERO, LedgerCounters, Telemetry};
    }
}
