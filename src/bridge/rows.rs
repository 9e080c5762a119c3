//! From the rows of a feed's database to the shared ledger, and to telemetry.

use std::cell::Cell;
use std::sync::Arc;

use crate::ledger::{DatabasePosition, FeedId, RowsReading};
use crate::shared_ledger::SharedLedger;
use crate::skills_db::{
    DatabaseFacts, DatabaseReading, Decision, FileIdentity, ReadRequest, RowConsumer, RowFingerprint,
    SkillsDatabaseError, Table,
};
use crate::telemetry::FeedTelemetry;

/// Brings the rows of one feed's database to the ledger.
pub(super) struct FeedRows {
    ledger: Arc<SharedLedger>,
    feed: FeedId,
    telemetry: Arc<FeedTelemetry>,
    /// The position of the latest request, or of the latest plan.
    position: Cell<Option<DatabasePosition>>,
}

impl FeedRows {
    pub fn new(ledger: Arc<SharedLedger>, feed: FeedId, telemetry: Arc<FeedTelemetry>) -> Self {
        Self { ledger, feed, telemetry, position: Cell::new(None) }
    }

    fn requested(&self) -> DatabasePosition {
        self.position.get().expect("a reading is of a request")
    }
}

impl RowConsumer for FeedRows {
    fn request(&self, file: FileIdentity) -> Option<ReadRequest> {
        let position = self.ledger.detail_position(self.feed, file);
        self.position.set(position);
        position.map(|position| position.request())
    }

    fn remembered(&self, table: Table) -> Vec<RowFingerprint> {
        self.ledger.row_fingerprints(&self.requested(), table)
    }

    fn plan(&self, facts: &DatabaseFacts) -> Decision {
        let mut position = self.requested();
        let (decision, notices) = self.ledger.plan_detail(self.feed, &mut position, facts);
        self.position.set(Some(position));
        notices.iter().for_each(|notice| self.telemetry.notice(notice));
        decision
    }

    fn consume(&self, reading: DatabaseReading) -> bool {
        let rows = reading.invocations.len() + reading.anomalies.as_ref().map_or(0, Vec::len);
        self.telemetry.skills_db_rows_read(rows as u64);
        let reading = RowsReading::new(&self.requested(), reading);
        let (is_counted, notices) = self.ledger.apply_detail(self.feed, reading);
        notices.iter().for_each(|notice| self.telemetry.notice(notice));
        is_counted
    }

    fn failed(&self, error: &SkillsDatabaseError) {
        self.telemetry.skills_db_failed(error);
        self.ledger.detail_failed(self.feed);
    }
}
