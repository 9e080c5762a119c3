//! The rows of a database, read for a ledger as the bridge reads them.

use session_buddy_bridge::internals::ledger::{DetailReading, FeedId, Ledger, Moment, Notice};
use session_buddy_bridge::internals::skills_db::{SkillsDatabase, SkillsDatabaseError};

/// Reads one batch from where `feed` has read to, and applies it. Returns the number of invocations in it.
pub fn read_batch(
    database: &mut SkillsDatabase,
    ledger: &mut Ledger,
    feed: FeedId,
    now: Moment,
    notices: &mut Vec<Notice>,
) -> Result<usize, SkillsDatabaseError> {
    let position = ledger.detail_position(feed, now).expect("no alias");
    let remembered = |table| ledger.detail_marks(feed, table).into_iter().map(Into::into).collect();
    let reading = database.read(&position.request(), remembered, |facts| position.plan(facts))?;
    let invocations = reading.invocations.len();
    ledger.apply_detail(feed, DetailReading::new(&position, reading), now, notices);
    Ok(invocations)
}
