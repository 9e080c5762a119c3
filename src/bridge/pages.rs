//! What HTTP shows of the bridge.

use std::io;
use std::sync::Arc;

use prometheus::Registry;

use crate::board::Board;
use crate::exposition::{self, Encoding};
use crate::http::{Content, FeedReadiness, Metrics};
use crate::telemetry::Telemetry;

#[derive(Debug)]
pub(super) struct Pages {
    board: Arc<Board>,
    telemetry: Arc<Telemetry>,
    registry: Registry,
}

impl Pages {
    pub fn new(board: Arc<Board>, telemetry: Arc<Telemetry>, registry: Registry) -> Self {
        Self { board, telemetry, registry }
    }
}

impl Content for Pages {
    fn metrics(&self, accepts_gzip: bool) -> Metrics {
        let encoding = if accepts_gzip { Encoding::Gzip } else { Encoding::Identity };
        let pieces = exposition::render(&*self.board, &self.registry, encoding);
        Metrics { pieces, is_gzip: accepts_gzip }
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

    fn accept_failed(&self, error: &io::Error) {
        self.telemetry.http_accept_failed(error);
    }
}
