//! What HTTP serves of a bridge, or of an exporter.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::BoxFuture;

use crate::health::{self, Health};
use crate::http::{Accepts, Content, Metrics, QueryError, Readiness, Refusal, WebConfigError, WebConfigSummary};
use crate::lent_registry::LentRegistry;
use crate::live::LiveApi;
use crate::reload::{ReloadOutcome, ReloadRequests};
use crate::scrape::{body, body_if_small};
use crate::shared_ledger::SharedLedger;
use crate::telemetry::Telemetry;

/// Metrics, the answers of the API, and readiness. Failures of the server are counted and logged by telemetry.
#[derive(Debug)]
pub(crate) struct SiteContent {
    pub ledger: Arc<SharedLedger>,
    pub telemetry: Arc<Telemetry>,
    pub health: Arc<Health>,
    pub registry: Arc<LentRegistry>,
    pub api: Arc<LiveApi>,
    /// Whether OpenMetrics exposes created timestamps.
    pub with_created: bool,
    /// `None` if there is no configuration to reload, as in an exporter.
    pub reloads: Option<Arc<ReloadRequests>>,
}

impl Content for SiteContent {
    fn metrics(&self, accepts: Accepts) -> Metrics {
        body(&*self.ledger, self.registry.text(), accepts, self.with_created)
    }

    fn metrics_at_once(&self, accepts: Accepts) -> Option<Metrics> {
        // A collector of the program that embeds this one may block.
        if self.registry.is_lent() || !self.ledger.is_scrape_small() {
            return None;
        }
        body_if_small(&*self.ledger, self.registry.text(), accepts, self.with_created)
    }

    fn api(&self, resource: &str, query: &str) -> Option<Result<Vec<u8>, QueryError>> {
        self.api.answer(resource, query)
    }

    fn readiness(&self) -> Readiness {
        let (is_ready, text) = health::readiness(&self.health.reports());
        Readiness { is_ready, text }
    }

    fn reload(&self) -> BoxFuture<'static, ReloadOutcome> {
        match self.reloads.clone() {
            Some(reloads) => async move { reloads.reload().await }.boxed(),
            None => async { Err("there is nothing to reload".into()) }.boxed(),
        }
    }

    fn answered(&self, path: &str, status: u16) {
        self.telemetry.http_answered(path, status);
    }

    fn scraped(&self, duration: Duration) {
        self.telemetry.http_scraped(duration);
    }

    fn connection_refused(&self, connections_max: usize) {
        self.telemetry.http_connection_refused(connections_max);
    }

    fn refused(&self, refusal: Refusal, peer: Option<SocketAddr>) {
        self.telemetry.http_refused(refusal, peer);
    }

    fn web_config_reloaded(&self, summary: WebConfigSummary) {
        self.telemetry.web_config_reloaded(summary);
    }

    fn web_config_failed(&self, error: &WebConfigError) {
        self.telemetry.web_config_failed(error);
    }

    fn accept_failed(&self, error: &io::Error) {
        self.telemetry.http_accept_failed(error);
    }
}
