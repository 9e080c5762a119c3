//! How many of the feeds deliver at a moment.

use std::collections::BTreeSet;
use std::sync::Arc;

use serde::Serialize;

use crate::health::FeedReport;
use crate::ledger::{FeedCounters, FeedRole};
use crate::telemetry::FeedTelemetry;

/// Whether everything that happens is counted as it happens, in ascending order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Coverage {
    /// No feed delivers.
    None,
    /// The feeds of some source deliver nothing.
    Partial,
    /// Each source has a feed that delivers, or there are no feeds at all.
    Complete,
}

impl Coverage {
    /// Returns the coverage by feeds that stand like this. A feed delivers if the rows of its database are counted, or once its
    /// connection has brought data and its source is known; one that does not is missed unless another delivers for its source.
    pub fn of(reports: &[FeedReport], feeds: &[Arc<FeedTelemetry>], counters: &[FeedCounters]) -> Self {
        let has_data = |report: &FeedReport| {
            feeds.iter().any(|feed| *feed.identity() == report.identity && feed.traffic().has_data)
        };
        let is_read = |report: &FeedReport| {
            counters.iter().any(|feed| feed.identity == report.identity && feed.rows_tell == Some(true))
        };
        let is_pending =
            |report: &FeedReport| report.standing.as_ref().is_some_and(|standing| standing.role == FeedRole::Pending);
        let is_delivering =
            |report: &FeedReport| is_read(report) || (report.is_live() && has_data(report) && !is_pending(report));
        let source = |report: &FeedReport| report.standing.as_ref().and_then(|standing| standing.source);
        let (delivering, others): (Vec<_>, Vec<_>) = reports.iter().partition(|report| is_delivering(report));
        let covered: BTreeSet<_> = delivering.iter().filter_map(|report| source(report)).collect();
        let is_missed = |report: &&FeedReport| source(report).is_none_or(|source| !covered.contains(&source));
        match (delivering.is_empty(), others.iter().any(is_missed)) {
            (_, false) => Self::Complete,
            (false, true) => Self::Partial,
            (true, true) => Self::None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::feed::FeedState;
    use crate::health::Health;
    use crate::ledger::{FeedStanding, SourceId};
    use crate::protocol::MessageType;
    use crate::telemetry::Telemetry;

    /// The coverage by feeds of these sources: whether each has sent data, and its role.
    fn coverage(feeds: &[(Option<u64>, bool, FeedRole)]) -> Coverage {
        let (health, telemetry) = (Health::new(), Telemetry::new());
        let mut reports = Vec::new();
        for (number, (source, has_data, role)) in feeds.iter().enumerate() {
            let identity = format!("feed {number}");
            let (feed, counted) = (health.feed(&identity), telemetry.feed(&identity));
            counted.connected();
            feed.update(&FeedState::Live);
            counted.message(if *has_data { MessageType::MetricsUpdate } else { MessageType::Connected }, 1.0);
            let source = source.map(SourceId);
            reports.push(feed.report(Some(FeedStanding { identity: identity.into(), source, role: role.clone() })));
        }
        Coverage::of(&reports, &telemetry.feeds(), &[])
    }

    #[test]
    fn a_source_is_covered_while_one_of_its_feeds_delivers() {
        use FeedRole::{Active, Inactive, Pending};
        let standby = || FeedRole::Standby { active: None };
        assert_eq!(coverage(&[]), Coverage::Complete, "a program that records skills itself has no feeds");
        assert_eq!(coverage(&[(Some(1), true, Active)]), Coverage::Complete);
        assert_eq!(coverage(&[(None, true, Inactive)]), Coverage::Complete, "an empty database has no source");
        assert_eq!(coverage(&[(Some(1), false, Active)]), Coverage::None, "a greeting alone brings nothing");
        assert_eq!(coverage(&[(Some(1), true, Pending)]), Coverage::None, "nothing is counted yet");
        assert_eq!(coverage(&[(Some(1), true, Active), (Some(1), false, standby())]), Coverage::Complete);
        assert_eq!(coverage(&[(Some(1), true, Active), (Some(2), false, Active)]), Coverage::Partial);
        assert_eq!(coverage(&[(Some(1), true, Active), (None, false, Inactive)]), Coverage::Partial);
    }
}
