//! The rows of a database, read for a ledger as the bridge reads them.

use session_buddy_bridge::internals::ledger::{FeedId, Ledger, Notice, Now, RowsReading};
use session_buddy_bridge::internals::skills_db::{Decision, SkillsDatabase, SkillsDatabaseError, Table};

/// Reads one batch from where `feed` has read to, and applies it. Returns the number of invocations in it; `None` if there
/// is nothing to read, or nothing of it counts at present.
pub fn read_batch(
    database: &mut SkillsDatabase,
    ledger: &mut Ledger,
    feed: FeedId,
    now: Now,
    notices: &mut Vec<Notice>,
) -> Result<Option<usize>, SkillsDatabaseError> {
    loop {
        let Some(mut position) = ledger.detail_position(feed, database.file(), now) else { return Ok(None) };
        let request = position.request();
        if !request.reads_unchanged && !database.has_changed()? {
            return Ok(None);
        }
        let [invocations, anomalies] =
            [Table::Invocations, Table::Anomalies].map(|table| ledger.row_fingerprints(&position, table));
        let remembered = |table| match table {
            Table::Invocations => invocations.clone(),
            Table::Anomalies => anomalies.clone(),
        };
        let mut decision = Decision::Later;
        let reading = database.read(&request, remembered, |facts| {
            decision = ledger.plan_detail(feed, &mut position, facts, now, notices);
            decision.plan()
        })?;
        let Some(reading) = reading else {
            if decision == Decision::AskAgain {
                continue;
            }
            return Ok(None);
        };
        let invocations = reading.invocations.len();
        if !ledger.apply_detail(feed, RowsReading::new(&position, reading), now, notices) {
            database.read_again();
            return Ok(None);
        }
        return Ok(Some(invocations));
    }
}

/// Reads all that there is to read at present.
pub fn read_all(
    database: &mut SkillsDatabase,
    ledger: &mut Ledger,
    feed: FeedId,
    now: Now,
    notices: &mut Vec<Notice>,
) -> Result<(), SkillsDatabaseError> {
    while read_batch(database, ledger, feed, now, notices)?.is_some() {}
    Ok(())
}
