//! The bridge's own metrics as families.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;

use super::{Telemetry, push};
use crate::build_info;
use crate::exposition::family::Family;
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

/// The metrics of [`Telemetry`], with those of health and of the ledger, for a `prometheus::Registry`.
pub struct TelemetryCollector<C> {
    telemetry: Arc<Telemetry>,
    health: Arc<Health>,
    counters: C,
    descs: Vec<Desc>,
}

impl<C: Fn() -> LedgerCounters + Send + Sync> TelemetryCollector<C> {
    pub(super) fn new(telemetry: Arc<Telemetry>, health: Arc<Health>, counters: C) -> Self {
        let descs = vec![
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
        let descs = descs.into_iter().chain(push::descs()).collect();
        Self { telemetry, health, counters, descs }
    }
}

impl<C: Fn() -> LedgerCounters + Send + Sync> Collector for TelemetryCollector<C> {
    fn desc(&self) -> Vec<&Desc> {
        self.descs.iter().collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let feeds: Vec<_> =
            self.telemetry.feeds().iter().map(|feed| (feed.identity().clone(), feed.counts())).collect();
        let feeds = || feeds.iter().map(|(identity, counts)| (&**identity, counts));
        let reports = self.health.reports();
        let standing = |standing: &FeedStanding| {
            (standing.source.map(|source| source.0.to_string()).unwrap_or_default(), standing.role == FeedRole::Active)
        };
        let active: Vec<_> = reports
            .iter()
            .filter_map(|report| Some((&*report.identity, standing(report.standing.as_ref()?))))
            .collect();
        let (config, web_config) = self.telemetry.reloads();
        let mut families = vec![
            BUILD_INFO
                .with([([build_info::REVISION, build_info::RUSTC, build_info::TARGET, build_info::VERSION], 1.0)]),
            FEED_UP.with(reports.iter().map(|report| ([&*report.identity], one_if(report.is_live())))),
            FEED_STATE.with(reports.iter().flat_map(states)),
            FEED_ACTIVE.with(active.iter().map(|(feed, (source, is_active))| ([*feed, source], one_if(*is_active)))),
            FEED_CONNECTS.with(feeds().map(|(feed, counts)| ([feed], counts.connects as f64))),
            FEED_DISCONNECTS.with(feeds().flat_map(|(feed, counts)| {
                counts.disconnects.iter().map(move |(code, times)| ([code.as_str(), feed], *times as f64))
            })),
            FEED_MESSAGES.with(feeds().flat_map(|(feed, counts)| {
                MessageType::ALL
                    .iter()
                    .zip(counts.messages)
                    .map(move |(kind, times)| ([feed, kind.label()], times as f64))
            })),
            FEED_REJECTED.with(feeds().flat_map(|(feed, counts)| {
                let reasons = RejectionReason::ALL.iter().zip(counts.rejected);
                reasons.map(move |(reason, times)| ([feed, reason.label()], times as f64))
            })),
            FEED_LAST_MESSAGE.with(
                feeds().filter_map(|(feed, counts)| counts.last_message_seconds.map(|seconds| ([feed], seconds))),
            ),
            DETAIL_ROWS
                .with(feeds().filter_map(|(feed, counts)| counts.skills_db.map(|(rows, _)| ([feed], rows as f64)))),
            DETAIL_FAILURES.with(
                feeds().filter_map(|(feed, counts)| counts.skills_db.map(|(_, failures)| ([feed], failures as f64))),
            ),
            WEB_CONFIG_FAILURES.value(web_config.failures as f64),
            CONFIG_LAST_RELOAD_SUCCESSFUL.value(one_if(config.is_last_successful)),
            CONFIG_LAST_RELOAD_SUCCESS_TIMESTAMP.value(config.last_success_seconds),
            WEB_CONFIG_LAST_RELOAD_SUCCESSFUL.value(one_if(web_config.is_last_successful)),
            WEB_CONFIG_LAST_RELOAD_SUCCESS_TIMESTAMP.value(web_config.last_success_seconds),
            LOG_LINES_DROPPED.value(super::LOG_LINES_DROPPED.load(Ordering::Relaxed) as f64),
        ];
        families.extend(self.telemetry.push().collect());
        families.extend(rule_families(&(self.counters)()));
        families
    }
}

/// One series for each state, of which one is 1.
fn states(report: &FeedReport) -> impl Iterator<Item = ([&str; 2], f64)> {
    let current = report.state.label();
    FeedState::LABELS.into_iter().map(move |label| ([&*report.identity, label], one_if(label == current)))
}

fn one_if(is_so: bool) -> f64 {
    f64::from(u8::from(is_so))
}

/// Returns the counters that belong to the counting rules as families.
pub fn rule_families(counters: &LedgerCounters) -> Vec<MetricFamily> {
    let feeds = || counters.feeds.iter().map(|feed| (&*feed.identity, feed));
    let rules = counters.rules;
    vec![
        FEED_TENTH_SKILL.with(feeds().filter_map(|(feed, counters)| {
            counters.tenth_skill_invocations.map(|invocations| ([feed], invocations as f64))
        })),
        FEED_ROLLBACKS.with(feeds().map(|(feed, counters)| ([feed], counters.rollbacks as f64))),
        FEED_RESETS.with(feeds().map(|(feed, counters)| ([feed], counters.resets as f64))),
        SOURCE_UNDECIDED.with(feeds().flat_map(|(feed, counters)| {
            let doubts = Doubt::ALL.iter().zip(counters.undecided);
            doubts.map(move |(doubt, times)| ([feed, doubt.code()], times as f64))
        })),
        SOURCE_DOUBLE_COUNTED.with(feeds().map(|(feed, counters)| ([feed], counters.double_counted as f64))),
        DETAIL_UP.with(
            feeds().filter_map(|(feed, counters)| counters.rows_tell.map(|rows_tell| ([feed], one_if(rows_tell)))),
        ),
        DETAIL_MISMATCHES.with(
            feeds()
                .filter(|(_, counters)| counters.rows_tell.is_some())
                .map(|(feed, counters)| ([feed], counters.detail_mismatches as f64)),
        ),
        EXACT_OBSERVATIONS.value(rules.exact_observations as f64),
        ESTIMATED_OBSERVATIONS.value(rules.estimated_observations as f64),
        INEXACT_RATES.value(rules.inexact_rates as f64),
        LATE_EVENTS.value(rules.late_events as f64),
        BACKFILLED_INVOCATIONS.value(rules.backfilled_invocations as f64),
        ANOMALY_WINDOW_OVERFLOWS.value(rules.anomaly_window_overflows as f64),
        OVERFLOWED_INVOCATIONS.value(rules.overflowed_invocations as f64),
        OVERFLOWED_ANOMALIES.value(rules.overflowed_anomalies as f64),
    ]
}
