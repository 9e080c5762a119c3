//! The bridge's own metrics and its log: one function an event, which counts it and logs it, so that the two cannot
//! disagree.
//!
//! At the level `info` a healthy feed is one line when it connects and one when it is live. A line that would repeat is
//! suppressed and its repetitions counted; text that came from a server is cut short and its control characters are escaped.
//!
//! Architecture invariant: nothing is decided here. How a feed stands is asked of [`crate::health`] and what was counted of
//! the ledger, at each scrape; neither is stored a second time.

mod collector;
mod feed;
mod http;
mod log_throttle;
mod notices;
mod push;
mod recent;
mod reload;
mod state;

use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tracing::{error, info, warn};

pub use collector::LedgerCounters;
pub(crate) use collector::write_rule_families;
pub use feed::{CODES_FROM_ZERO, FeedTelemetry};
pub(crate) use notices::{log_notice, log_notices};
pub use push::{PushStanding, PushTelemetry};
pub use recent::SeenRejection;
pub use state::StateTelemetry;

use crate::exposition::OwnCollector;
use crate::health::Health;
use crate::http::{Refusal, WebConfigError, WebConfigSummary};
use crate::sync::lock;
use crate::text::one_line;
use collector::TelemetryMetrics;
use http::{HttpCounts, HttpMetrics};
use log_throttle::LogThrottle;
use recent::RecentRejections;
use reload::Reloads;

/// Characters of a server's text that a log line shows.
const LOGGED_CHARS_MAX: usize = 200;

/// Of the process, as its log is.
static LOG_LINES_DROPPED: AtomicU64 = AtomicU64::new(0);

/// Counts `lines` of the log that were dropped.
pub(crate) fn log_lines_dropped(lines: u64) {
    LOG_LINES_DROPPED.fetch_add(lines, Ordering::Relaxed);
}

/// Counts and logs what happens to the feeds and to the HTTP server.
#[derive(Debug, Default)]
pub struct Telemetry {
    feeds: Mutex<Vec<Arc<FeedTelemetry>>>,
    process: Mutex<ProcessCounts>,
    rejections: Arc<RecentRejections>,
    push: PushTelemetry,
}

#[derive(Debug, Default)]
struct ProcessCounts {
    refused: u64,
    refused_throttle: LogThrottle,
    refusals: [Refusals; Refusal::ALL.len()],
    accept_failures: u64,
    accept_failures_throttle: LogThrottle,
    config: Reloads,
    web_config: Reloads,
    http: HttpCounts,
    /// Why the directories of installed skills could not be read last.
    skills_dirs_error: Option<String>,
}

/// Refusals for one reason. Each reason has a throttle of its own, so that a common one does not hide a rare one.
#[derive(Debug, Clone, Copy, Default)]
struct Refusals {
    count: u64,
    throttle: LogThrottle,
}

/// What a reload of the configuration file changed. Feeds are given by their identity.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigChange {
    /// Number of feeds that are configured now.
    pub feeds: usize,
    /// Feeds that were not configured before.
    pub added: Vec<String>,
    /// Feeds that are no longer configured.
    pub removed: Vec<String>,
    /// Feeds with another URL, skill, database or credentials than before.
    pub changed: Vec<String>,
    /// Whether a limit is another one.
    pub limits_differ: bool,
    /// Whether the directories of installed skills are others.
    pub skills_dirs_differ: bool,
}

impl Telemetry {
    /// Creates telemetry without feeds.
    pub fn new() -> Self {
        Self::default()
    }

    /// Returns the telemetry of the feed `identity`, which is added if it is new. Identities must come from the configuration,
    /// not from a server, because feeds are only dropped by [`Telemetry::forget`].
    pub fn feed(&self, identity: &str) -> Arc<FeedTelemetry> {
        let mut feeds = lock(&self.feeds);
        if let Some(feed) = feeds.iter().find(|feed| &**feed.identity() == identity) {
            return Arc::clone(feed);
        }
        let feed = Arc::new(FeedTelemetry::new(identity, Arc::clone(&self.rejections)));
        feeds.push(Arc::clone(&feed));
        feed
    }

    /// Stops exposing the feed `identity`.
    pub fn forget(&self, identity: &str) {
        lock(&self.feeds).retain(|feed| &**feed.identity() != identity);
    }

    /// The configuration file was reloaded.
    pub fn config_reloaded(&self, change: &ConfigChange) {
        lock(&self.process).config.record_success();
        let ConfigChange { feeds, added, removed, changed, limits_differ, skills_dirs_differ } = change;
        let list = |identities: &[String]| (!identities.is_empty()).then(|| identities.join(", "));
        let limits_changed = limits_differ.then_some(true);
        let skills_dirs_changed = skills_dirs_differ.then_some(true);
        let (added, removed, changed) = (list(added), list(removed), list(changed));
        info!(feeds, added, removed, changed, limits_changed, skills_dirs_changed, "configuration reloaded");
    }

    /// A reload of the configuration file failed; nothing has changed.
    pub fn config_failed(&self, error: &dyn std::error::Error) {
        lock(&self.process).config.record_failure();
        error!(%error, "configuration reload failed; keeping the previous configuration");
    }

    /// The directories of installed skills were read, or could not be. Each error is logged once until another one, or until they
    /// can be read again.
    pub fn skills_dirs_read(&self, error: Option<&dyn std::error::Error>) {
        let error = error.map(ToString::to_string);
        let before = std::mem::replace(&mut lock(&self.process).skills_dirs_error, error.clone());
        match error {
            Some(error) if before.as_ref() != Some(&error) => {
                warn!(error, "installed skills cannot be read; keeping those that were read before");
            }
            None if before.is_some() => info!("installed skills can be read again"),
            Some(_) | None => {}
        }
    }

    /// A reload was requested, and there is no configuration file.
    pub fn nothing_to_reload(&self) {
        info!("reload ignored; there is no --config.file to reload");
    }

    /// Returns every feed, in the order in which they were added.
    pub fn feeds(&self) -> Vec<Arc<FeedTelemetry>> {
        lock(&self.feeds).clone()
    }

    /// Returns the receivers of remote write.
    pub fn push(&self) -> &PushTelemetry {
        &self.push
    }

    /// Returns recent rejections of all feeds, latest first.
    pub fn recent_rejections(&self) -> Vec<SeenRejection> {
        self.rejections.latest_first()
    }

    /// Returns a collector of all of this. `health` and `counters` are asked at each scrape.
    pub fn collector(
        self: &Arc<Self>,
        health: Arc<Health>,
        counters: impl Fn() -> LedgerCounters + Send + Sync + 'static,
    ) -> OwnCollector {
        OwnCollector::new(TelemetryMetrics { telemetry: Arc::clone(self), health, counters })
    }

    /// Returns a collector of what concerns the HTTP server.
    pub fn http_collector(self: &Arc<Self>) -> OwnCollector {
        OwnCollector::new(HttpMetrics(Arc::clone(self)))
    }

    /// HTTP serves the metrics at `path`.
    pub fn http_serves(&self, path: &str) {
        lock(&self.process).http.expect(path);
    }

    /// An HTTP request was answered. There must be few different paths.
    pub fn http_answered(&self, path: &str, code: u16) {
        lock(&self.process).http.record_request(path, code);
    }

    /// The response to a scrape was written within `duration`.
    pub fn http_scraped(&self, duration: Duration) {
        lock(&self.process).http.record_scrape(duration);
    }

    /// An HTTP connection was refused because `connections_max` others were open.
    pub fn http_connection_refused(&self, connections_max: usize) {
        let passed = {
            let mut http = lock(&self.process);
            http.refused += 1;
            http.refused_throttle.pass(Instant::now())
        };
        if let Some(suppressed) = passed {
            warn!(connections_max, suppressed, "HTTP connection refused; too many are open");
        }
    }

    /// An HTTP client was refused by access control.
    pub fn http_refused(&self, refusal: Refusal, peer: Option<SocketAddr>) {
        let passed = {
            let refusals = &mut lock(&self.process).refusals[refusal as usize];
            refusals.count += 1;
            refusals.throttle.pass(Instant::now())
        };
        if let Some(suppressed) = passed {
            warn!(reason = refusal.label(), peer = peer.map(display), suppressed, "HTTP client refused");
        }
    }

    /// An HTTP connection could not be accepted.
    pub fn http_accept_failed(&self, error: &io::Error) {
        let passed = {
            let mut http = lock(&self.process);
            http.accept_failures += 1;
            http.accept_failures_throttle.pass(Instant::now())
        };
        if let Some(suppressed) = passed {
            warn!(%error, suppressed, "HTTP connection not accepted; retrying");
        }
    }

    /// The web configuration file was reloaded.
    pub fn web_config_reloaded(&self, summary: WebConfigSummary) {
        lock(&self.process).web_config.record_success();
        let WebConfigSummary { users, has_tls, requires_client_certificate, ca_certificate_file: _ } = summary;
        info!(users, tls = has_tls, requires_client_certificate, "web configuration reloaded");
        self.web_config_accepted(&summary);
    }

    /// A web configuration file is used from now on, from the start or after a reload.
    pub fn web_config_accepted(&self, summary: &WebConfigSummary) {
        if let Some(file) = &summary.ca_certificate_file {
            let file = file.display();
            warn!(%file, "the server certificate is a CA certificate, which clients that use rustls refuse");
        }
    }

    /// A reload of the web configuration file failed; nothing has changed.
    pub fn web_config_failed(&self, error: &WebConfigError) {
        lock(&self.process).web_config.record_failure();
        error!(%error, "web configuration reload failed; keeping the previous configuration");
    }

    /// Returns the reloads of the configuration file and those of the web configuration file.
    fn reloads(&self) -> (Reloads, Reloads) {
        let process = lock(&self.process);
        (process.config, process.web_config)
    }
}

fn logged(text: &str) -> String {
    one_line(text, LOGGED_CHARS_MAX)
}
