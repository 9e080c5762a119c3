//! What HTTP shows of the bridge.

use std::io;
use std::sync::Arc;

use prometheus::Registry;

use crate::http::{Accepts, Content, FeedReadiness, Metrics, WebConfigError};
use crate::live::LiveApi;
use crate::scrape::body;
use crate::shared_ledger::SharedLedger;
use crate::telemetry::Telemetry;

#[derive(Debug)]
pub(super) struct SiteContent {
    ledger: Arc<SharedLedger>,
    telemetry: Arc<Telemetry>,
    registry: Registry,
    live: Arc<LiveApi>,
    /// Whether OpenMetrics tells when series came into being.
    with_created: bool,
}

impl SiteContent {
    pub fn new(
        ledger: Arc<SharedLedger>,
        telemetry: Arc<Telemetry>,
        registry: Registry,
        live: Arc<LiveApi>,
        with_created: bool,
    ) -> Self {
        Self { ledger, telemetry, registry, live, with_created }
    }
}

impl Content for SiteContent {
    fn metrics(&self, accepts: Accepts) -> Metrics {
        body(&*self.ledger, &self.registry, accepts, self.with_created)
    }

    fn live(&self, resource: &str, query: &str) -> Option<Result<Vec<u8>, String>> {
        self.live.answer(resource, query).map(|answer| answer.map_err(|error| error.to_string()))
    }

    fn feeds(&self) -> Vec<FeedReadiness> {
        let readiness = |feed: &Arc<crate::telemetry::FeedTelemetry>| {
            let (live, reason) = feed.readiness();
            FeedReadiness { identity: feed.identity().to_string(), live, reason }
        };
        self.telemetry.feeds().iter().map(readiness).collect()
    }

    fn connection_refused(&self, connections_max: usize) {
        self.telemetry.http_connection_refused(connections_max);
    }

    fn web_config_failed(&self, error: &WebConfigError) {
        self.telemetry.web_config_failed(error);
    }

    fn accept_failed(&self, error: &io::Error) {
        self.telemetry.http_accept_failed(error);
    }
}
