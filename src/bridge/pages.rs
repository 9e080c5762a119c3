//! What HTTP shows of the bridge.

use std::io;
use std::sync::Arc;

use bytes::Bytes;
use prometheus::Registry;

use crate::board::Board;
use crate::exposition;
use crate::http::{Content, FeedReadiness};
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
    fn metrics(&self) -> Bytes {
        exposition::render(&*self.board, &self.registry).into()
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
