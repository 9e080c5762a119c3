//! The bridge's own metrics as families.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use prometheus::core::Desc;

use super::{FeedTelemetry, Telemetry, push};
use crate::build_info;
use crate::exposition::family::Family;
use crate::exposition::own::{FamilySink, OwnMetrics};
use crate::feed::FeedState;
use crate::health::{FeedReport, Health};
use crate::ledger::binding::Doubt;
use crate::ledger::{FeedCounters, FeedRole, FeedStanding, RuleCounters};
use crate::protocol::{MessageType, RejectionReason};

const BUILD_INFO: Family<4> = Family::gauge(
    "session_buddy_bridge_build_info",
    "Constant 1, labelled with the version, commit, compiler and target of the build.",
    ["revision", "rustc", "target", "version"],
);

const FEED_UP: Family<1> = Family::gauge(
    "session_buddy_bridge_feed_up",
    "1 if the feed is connected, authenticated and delivering messages, 0 otherwise.",
    ["feed"],
);
const FEED_STATE: Family<2> = Family::gauge(
    "session_buddy_bridge_feed_state",
    "1 for the current state of the feed, 0 for the others. A failed feed keeps its state while it reconnects.",
    ["feed", "state"],
);
const FEED_ACTIVE: Family<2> = Family::gauge(
    "session_buddy_bridge_feed_active",
    "1 if the feed moves the counters of its source, 0 if it is on standby, pending or not delivering.",
    ["feed", "source"],
);
const FEED_CONNECTS: Family<1> = Family::counter(
    "session_buddy_bridge_feed_connects_total",
    "Number of WebSocket connections established to the feed.",
    ["feed"],
);
const FEED_DISCONNECTS: Family<2> = Family::counter(
    "session_buddy_bridge_feed_disconnects_total",
    "Number of connections and connection attempts that ended, by close code or cause.",
    ["code", "feed"],
);
const FEED_MESSAGES: Family<2> = Family::counter(
    "session_buddy_bridge_feed_messages_total",
    "Number of messages received from the feed, by type; unknown types are ignored.",
    ["feed", "type"],
);
const FEED_REJECTED: Family<2> = Family::counter(
    "session_buddy_bridge_feed_rejected_total",
    "Number of frames, messages and entries of the feed that were rejected, by reason.",
    ["feed", "reason"],
);
const FEED_LAST_MESSAGE: Family<1> = Family::gauge(
    "session_buddy_bridge_feed_last_message_timestamp_seconds",
    "Unix timestamp of the last message received from the feed.",
    ["feed"],
);
const FEED_TENTH_SKILL: Family<1> = Family::gauge(
    "session_buddy_bridge_feed_tenth_skill_invocations",
    "Maximum number of invocations that a skill outside the feed's list can have; 0 if the feed lists every skill.",
    ["feed"],
);
const FEED_ROLLBACKS: Family<1> = Family::counter(
    "session_buddy_bridge_feed_rollbacks_total",
    "Number of rollbacks of the feed's database to an earlier state, for example by a power cut; nothing is counted then.",
    ["feed"],
);
const FEED_RESETS: Family<1> = Family::counter(
    "session_buddy_bridge_feed_resets_total",
    "Number of times the feed's database was reset; its new totals are added to the existing ones.",
    ["feed"],
);
const SOURCE_UNDECIDED: Family<2> = Family::counter(
    "session_buddy_bridge_source_undecided_total",
    "Number of times the source of a feed's numbers was undecided and the lower count was used, by reason.",
    ["feed", "reason"],
);
const SOURCE_DOUBLE_COUNTED: Family<1> = Family::counter(
    "session_buddy_bridge_source_double_counted_total",
    "Number of invocations that two sources had counted before they turned out to be one.",
    ["feed"],
);
const DETAIL_UP: Family<1> = Family::gauge(
    "session_buddy_bridge_detail_up",
    "1 if the counts come from the database of the feed, 0 while the bridge falls back to the feed.",
    ["feed"],
);
const DETAIL_MISMATCHES: Family<1> = Family::counter(
    "session_buddy_bridge_detail_mismatches_total",
    "Number of skills whose feed totals disagreed with the database for 10 s or longer.",
    ["feed"],
);
const DETAIL_ROWS: Family<1> = Family::counter(
    "session_buddy_bridge_detail_rows_total",
    "Number of rows read from the database of the feed.",
    ["feed"],
);
const DETAIL_FAILURES: Family<1> = Family::counter(
    "session_buddy_bridge_detail_failures_total",
    "Number of failed reads of the database of the feed; each is retried.",
    ["feed"],
);

const EXACT_OBSERVATIONS: Family<0> = Family::counter(
    "session_buddy_bridge_exact_observations_total",
    "Number of observations of skill_duration_seconds that are the duration of a single invocation.",
    [],
);
const ESTIMATED_OBSERVATIONS: Family<0> = Family::counter(
    "session_buddy_bridge_estimated_observations_total",
    "Number of observations of skill_duration_seconds that are the mean of several invocations.",
    [],
);
const INEXACT_RATES: Family<0> = Family::counter(
    "session_buddy_bridge_inexact_rates_total",
    "Number of new or changed snapshot entries whose completion rate yields no whole number of completions.",
    [],
);
const LATE_EVENTS: Family<0> = Family::counter(
    "session_buddy_bridge_late_events_total",
    "Number of invocation events dropped because no increase of a snapshot accounted for them.",
    [],
);
const BACKFILLED_INVOCATIONS: Family<0> = Family::counter(
    "session_buddy_bridge_backfilled_invocations_total",
    "Number of invocations from before the first message of a feed that were added to series already exposed.",
    [],
);
const ANOMALY_WINDOW_OVERFLOWS: Family<0> = Family::counter(
    "session_buddy_bridge_anomaly_window_overflows_total",
    "Number of intervals between two snapshots in which more anomalies may have occurred than the feed lists.",
    [],
);
const OVERFLOWED_INVOCATIONS: Family<0> = Family::counter(
    "session_buddy_bridge_overflowed_invocations_total",
    "Number of invocations counted under a skill_name or a workflow_phase \"__overflow__\" because a limit was reached.",
    [],
);
const OVERFLOWED_ANOMALIES: Family<0> = Family::counter(
    "session_buddy_bridge_overflowed_anomalies_total",
    "Number of anomalies counted under a skill_name or an anomaly_type \"__overflow__\" because a limit was reached.",
    [],
);

const LOG_LINES_DROPPED: Family<0> = Family::counter(
    "session_buddy_bridge_log_lines_dropped_total",
    "Number of log lines dropped because standard error was not read or could not be written.",
    [],
);
const CONFIG_LAST_RELOAD_SUCCESSFUL: Family<0> = Family::gauge(
    "session_buddy_bridge_config_last_reload_successful",
    "1 if the last reload of the configuration file was successful, 0 otherwise.",
    [],
);
const CONFIG_LAST_RELOAD_SUCCESS_TIMESTAMP: Family<0> = Family::gauge(
    "session_buddy_bridge_config_last_reload_success_timestamp_seconds",
    "Unix timestamp of the last successful reload of the configuration file, or of the start.",
    [],
);
const WEB_CONFIG_LAST_RELOAD_SUCCESSFUL: Family<0> = Family::gauge(
    "session_buddy_bridge_web_config_last_reload_successful",
    "1 if the last reload of the web configuration file was successful, 0 otherwise.",
    [],
);
const WEB_CONFIG_LAST_RELOAD_SUCCESS_TIMESTAMP: Family<0> = Family::gauge(
    "session_buddy_bridge_web_config_last_reload_success_timestamp_seconds",
    "Unix timestamp of the last successful reload of the web configuration file, or of the start.",
    [],
);
const WEB_CONFIG_FAILURES: Family<0> = Family::counter(
    "session_buddy_bridge_web_config_failures_total",
    "Number of reloads of the web configuration file that failed.",
    [],
);

/// What the ledger counts beside the families: one value for each of the bridge's own metrics that come from it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct LedgerCounters {
    /// The counters of each feed, in any order; at most one for an identity.
    pub feeds: Vec<FeedCounters>,
    /// The counters of the counting rules, of all feeds together.
    pub rules: RuleCounters,
}

/// The metrics of [`Telemetry`], with those of health and of the ledger.
pub(super) struct TelemetryMetrics<C> {
    pub telemetry: Arc<Telemetry>,
    pub health: Arc<Health>,
    pub counters: C,
}

impl<C: Fn() -> LedgerCounters + Send + Sync> OwnMetrics for TelemetryMetrics<C> {
    fn descs(&self) -> Vec<Desc> {
        let own = [
            BUILD_INFO.desc(),
            FEED_UP.desc(),
            FEED_STATE.desc(),
            FEED_ACTIVE.desc(),
            FEED_CONNECTS.desc(),
            FEED_DISCONNECTS.desc(),
            FEED_MESSAGES.desc(),
            FEED_REJECTED.desc(),
            FEED_LAST_MESSAGE.desc(),
            FEED_TENTH_SKILL.desc(),
            DETAIL_UP.desc(),
            DETAIL_MISMATCHES.desc(),
            DETAIL_ROWS.desc(),
            DETAIL_FAILURES.desc(),
            FEED_ROLLBACKS.desc(),
            FEED_RESETS.desc(),
            SOURCE_UNDECIDED.desc(),
            SOURCE_DOUBLE_COUNTED.desc(),
            EXACT_OBSERVATIONS.desc(),
            ESTIMATED_OBSERVATIONS.desc(),
            INEXACT_RATES.desc(),
            LATE_EVENTS.desc(),
            BACKFILLED_INVOCATIONS.desc(),
            ANOMALY_WINDOW_OVERFLOWS.desc(),
            OVERFLOWED_INVOCATIONS.desc(),
            OVERFLOWED_ANOMALIES.desc(),
            LOG_LINES_DROPPED.desc(),
            WEB_CONFIG_FAILURES.desc(),
            CONFIG_LAST_RELOAD_SUCCESSFUL.desc(),
            CONFIG_LAST_RELOAD_SUCCESS_TIMESTAMP.desc(),
            WEB_CONFIG_LAST_RELOAD_SUCCESSFUL.desc(),
            WEB_CONFIG_LAST_RELOAD_SUCCESS_TIMESTAMP.desc(),
        ];
        own.into_iter().chain(push::descs()).collect()
    }

    fn write(&self, sink: &mut dyn FamilySink) {
        BUILD_INFO
            .write([([build_info::REVISION, build_info::RUSTC, build_info::TARGET, build_info::VERSION], 1.0)], sink);
        write_health(&self.health.reports(), sink);
        write_feeds(&self.telemetry.feeds(), sink);
        let (config, web_config) = self.telemetry.reloads();
        WEB_CONFIG_FAILURES.write_value(web_config.failures as f64, sink);
        CONFIG_LAST_RELOAD_SUCCESSFUL.write_value(one_if(config.is_last_successful), sink);
        CONFIG_LAST_RELOAD_SUCCESS_TIMESTAMP.write_value(config.last_success_seconds, sink);
        WEB_CONFIG_LAST_RELOAD_SUCCESSFUL.write_value(one_if(web_config.is_last_successful), sink);
        WEB_CONFIG_LAST_RELOAD_SUCCESS_TIMESTAMP.write_value(web_config.last_success_seconds, sink);
        LOG_LINES_DROPPED.write_value(super::LOG_LINES_DROPPED.load(Ordering::Relaxed) as f64, sink);
        self.telemetry.push().write(sink);
        write_rule_families(&(self.counters)(), sink);
    }
}

fn write_health(reports: &[FeedReport], sink: &mut dyn FamilySink) {
    FEED_UP.write(reports.iter().map(|report| ([&*report.identity], one_if(report.is_live()))), sink);
    FEED_STATE.write(reports.iter().flat_map(states), sink);
    let standing = |standing: &FeedStanding| {
        (standing.source.map(|source| source.0.to_string()).unwrap_or_default(), standing.role == FeedRole::Active)
    };
    let active = reports.iter().filter_map(|report| Some((&*report.identity, standing(report.standing.as_ref()?))));
    let active: Vec<_> = active.collect();
    FEED_ACTIVE.write(active.iter().map(|(feed, (source, is_active))| ([*feed, source], one_if(*is_active))), sink);
}

fn write_feeds(feeds: &[Arc<FeedTelemetry>], sink: &mut dyn FamilySink) {
    let feeds: Vec<_> = feeds.iter().map(|feed| (&**feed.identity(), feed.state())).collect();
    let feeds = || feeds.iter().map(|(identity, state)| (*identity, &state.counts));
    FEED_CONNECTS.write(feeds().map(|(feed, counts)| ([feed], counts.connects as f64)), sink);
    let disconnects = feeds().flat_map(|(feed, counts)| {
        counts.disconnects.iter().map(move |(code, times)| ([code.as_str(), feed], *times as f64))
    });
    FEED_DISCONNECTS.write(disconnects, sink);
    let messages = feeds().flat_map(|(feed, counts)| {
        MessageType::ALL.iter().zip(counts.messages).map(move |(kind, times)| ([feed, kind.label()], times as f64))
    });
    FEED_MESSAGES.write(messages, sink);
    let rejected = feeds().flat_map(|(feed, counts)| {
        let reasons = RejectionReason::ALL.iter().zip(counts.rejected);
        reasons.map(move |(reason, times)| ([feed, reason.label()], times as f64))
    });
    FEED_REJECTED.write(rejected, sink);
    let last_message =
        feeds().filter_map(|(feed, counts)| counts.last_message_seconds.map(|seconds| ([feed], seconds)));
    FEED_LAST_MESSAGE.write(last_message, sink);
    let rows = feeds().filter_map(|(feed, counts)| counts.skills_db.map(|(rows, _)| ([feed], rows as f64)));
    DETAIL_ROWS.write(rows, sink);
    let failures = feeds().filter_map(|(feed, counts)| counts.skills_db.map(|(_, failures)| ([feed], failures as f64)));
    DETAIL_FAILURES.write(failures, sink);
}

/// One series for each state, of which one is 1.
fn states(report: &FeedReport) -> impl Iterator<Item = ([&str; 2], f64)> {
    let current = report.state.label();
    FeedState::LABELS.into_iter().map(move |label| ([&*report.identity, label], one_if(label == current)))
}

fn one_if(is_so: bool) -> f64 {
    f64::from(u8::from(is_so))
}

/// Passes the counters that belong to the counting rules to `sink`.
pub(crate) fn write_rule_families(counters: &LedgerCounters, sink: &mut dyn FamilySink) {
    let feeds = || counters.feeds.iter().map(|feed| (&*feed.identity, feed));
    let tenth_skill = feeds().filter_map(|(feed, counters)| {
        counters.tenth_skill_invocations.map(|invocations| ([feed], invocations as f64))
    });
    FEED_TENTH_SKILL.write(tenth_skill, sink);
    FEED_ROLLBACKS.write(feeds().map(|(feed, counters)| ([feed], counters.rollbacks as f64)), sink);
    FEED_RESETS.write(feeds().map(|(feed, counters)| ([feed], counters.resets as f64)), sink);
    let undecided = feeds().flat_map(|(feed, counters)| {
        let doubts = Doubt::ALL.iter().zip(counters.undecided);
        doubts.map(move |(doubt, times)| ([feed, doubt.code()], times as f64))
    });
    SOURCE_UNDECIDED.write(undecided, sink);
    SOURCE_DOUBLE_COUNTED.write(feeds().map(|(feed, counters)| ([feed], counters.double_counted as f64)), sink);
    let detail = || feeds().filter_map(|(feed, counters)| Some((feed, counters, counters.rows_tell?)));
    DETAIL_UP.write(detail().map(|(feed, _, rows_tell)| ([feed], one_if(rows_tell))), sink);
    DETAIL_MISMATCHES.write(detail().map(|(feed, counters, _)| ([feed], counters.detail_mismatches as f64)), sink);
    let rules = counters.rules;
    EXACT_OBSERVATIONS.write_value(rules.exact_observations as f64, sink);
    ESTIMATED_OBSERVATIONS.write_value(rules.estimated_observations as f64, sink);
    INEXACT_RATES.write_value(rules.inexact_rates as f64, sink);
    LATE_EVENTS.write_value(rules.late_events as f64, sink);
    BACKFILLED_INVOCATIONS.write_value(rules.backfilled_invocations as f64, sink);
    ANOMALY_WINDOW_OVERFLOWS.write_value(rules.anomaly_window_overflows as f64, sink);
    OVERFLOWED_INVOCATIONS.write_value(rules.overflowed_invocations as f64, sink);
    OVERFLOWED_ANOMALIES.write_value(rules.overflowed_anomalies as f64, sink);
}
