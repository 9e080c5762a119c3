//! How many of the feeds deliver at a moment.

use std::collections::{BTreeMap, BTreeSet};
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

/// What the feeds deliver at a moment.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Delivery {
    pub coverage: Coverage,
    /// Unix timestamp of the last data of the source that delivers nothing for the longest time, in seconds. `None` if each
    /// source delivers, or if the time is unknown: of a feed that has delivered nothing, and of one with a database, whose rows
    /// are counted later than its last data.
    pub missed_since_seconds: Option<f64>,
}

impl Delivery {
    /// Returns the delivery by feeds that stand like this. A feed delivers if the rows of its database are counted, or once its
    /// connection has brought data and its source is known; one that does not is missed unless another delivers for its source.
    pub fn of(reports: &[FeedReport], feeds: &[Arc<FeedTelemetry>], counters: &[FeedCounters]) -> Self {
        let traffic = |report: &FeedReport| {
            feeds.iter().find(|feed| *feed.identity() == report.identity).map(|feed| feed.traffic())
        };
        let has_data = |report: &FeedReport| traffic(report).is_some_and(|traffic| traffic.has_data);
        let rows_tell = |report: &FeedReport| {
            counters.iter().find(|feed| feed.identity == report.identity).and_then(|feed| feed.rows_tell)
        };
        let is_read = |report: &FeedReport| rows_tell(report) == Some(true);
        let is_pending =
            |report: &FeedReport| report.standing.as_ref().is_some_and(|standing| standing.role == FeedRole::Pending);
        let is_delivering =
            |report: &FeedReport| is_read(report) || (report.is_live() && has_data(report) && !is_pending(report));
        let source = |report: &FeedReport| report.standing.as_ref().and_then(|standing| standing.source);
        let (delivering, others): (Vec<_>, Vec<_>) = reports.iter().partition(|report| is_delivering(report));
        let covered: BTreeSet<_> = delivering.iter().filter_map(|report| source(report)).collect();
        let is_missed = |report: &&FeedReport| source(report).is_none_or(|source| !covered.contains(&source));
        let missed: Vec<_> = others.into_iter().filter(is_missed).collect();
        let coverage = match (delivering.is_empty(), missed.is_empty()) {
            (_, true) => Coverage::Complete,
            (false, false) => Coverage::Partial,
            (true, false) => Coverage::None,
        };
        // The last data of a source is that of any of its feeds. A feed whose source is unknown stands for itself.
        let mut last_data = BTreeMap::new();
        for report in missed.into_iter().filter(|report| rows_tell(report).is_none()) {
            let Some(seconds) = traffic(report).and_then(|traffic| traffic.last_data_seconds) else { continue };
            let source = source(report);
            let key = (source, source.is_none().then_some(&report.identity));
            let last = last_data.entry(key).or_insert(seconds);
            *last = seconds.max(*last);
        }
        Self { coverage, missed_since_seconds: last_data.into_values().reduce(f64::min) }
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
        Delivery::of(&reports, &telemetry.feeds(), &[]).coverage
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

    #[test]
    fn a_source_is_missed_since_the_last_data_of_any_of_its_feeds() {
        let (health, telemetry) = (Health::new(), Telemetry::new());
        let mut reports = Vec::new();
        // Its source, whether it is live, and when it has delivered: source 1 delivers, 2 is missed, and so is a feed without one.
        for (number, (source, is_live, last_data_seconds)) in
            [(Some(1), true, 90.0), (Some(2), false, 40.0), (Some(2), false, 50.0), (None, false, 70.0)]
                .into_iter()
                .enumerate()
        {
            let identity = format!("feed {number}");
            let (feed, counted) = (health.feed(&identity), telemetry.feed(&identity));
            counted.connected();
            counted.message(MessageType::MetricsUpdate, last_data_seconds);
            if is_live {
                feed.update(&FeedState::Live);
            } else {
                counted.disconnected("1006", "silent");
            }
            let (source, role) = (source.map(SourceId), FeedRole::Active);
            reports.push(feed.report(Some(FeedStanding { identity: identity.into(), source, role })));
        }
        let delivery = Delivery::of(&reports, &telemetry.feeds(), &[]);
        assert_eq!(delivery, Delivery { coverage: Coverage::Partial, missed_since_seconds: Some(50.0) });
        let delivery = Delivery::of(&reports[..1], &telemetry.feeds(), &[]);
        assert_eq!(delivery, Delivery { coverage: Coverage::Complete, missed_since_seconds: None });
    }
}
