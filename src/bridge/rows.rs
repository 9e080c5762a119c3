//! From the rows of a feed's database to the shared ledger, and to telemetry.

use std::cell::Cell;
use std::sync::Arc;

use crate::ledger::{DetailPosition, DetailReading, FeedId};
use crate::shared_ledger::SharedLedger;
use crate::skills_db::{
    DatabaseFacts, DatabaseReading, ReadPlan, ReadRequest, RowConsumer, RowFingerprint, SkillsDatabaseError, Table,
};
use crate::telemetry::FeedTelemetry;

/// Brings the rows of one feed's database to the ledger.
pub(super) struct FeedRows {
    ledger: Arc<SharedLedger>,
    feed: FeedId,
    telemetry: Arc<FeedTelemetry>,
    /// The position of the latest request.
    position: Cell<Option<DetailPosition>>,
}

impl FeedRows {
    pub fn new(ledger: Arc<SharedLedger>, feed: FeedId, telemetry: Arc<FeedTelemetry>) -> Self {
        Self { ledger, feed, telemetry, position: Cell::new(None) }
    }

    fn requested(&self) -> DetailPosition {
        self.position.get().expect("a reading is of a request")
    }
}

impl RowConsumer for FeedRows {
    fn request(&self) -> Option<ReadRequest> {
        let position = self.ledger.detail_position(self.feed);
        self.position.set(position);
        position.map(|position| position.request())
    }

    fn remembered(&self, table: Table) -> Vec<RowFingerprint> {
        self.ledger.detail_marks(self.feed, table).into_iter().map(Into::into).collect()
    }

    fn plan(&self, facts: &DatabaseFacts) -> ReadPlan {
        self.requested().plan(facts)
    }

    fn consume(&self, reading: DatabaseReading) {
        let rows = reading.invocations.len() + reading.anomalies.as_ref().map_or(0, Vec::len);
        self.telemetry.skills_db_rows_read(rows as u64);
        for notice in self.ledger.apply_detail(self.feed, DetailReading::new(&self.requested(), reading)) {
            self.telemetry.notice(&notice);
        }
    }

    fn failed(&self, error: &SkillsDatabaseError) {
        self.telemetry.skills_db_failed(error);
        self.ledger.detail_failed(self.feed);
    }
}
