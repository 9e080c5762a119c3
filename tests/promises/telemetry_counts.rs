//! Each event of the bridge is counted under the name that alerts know.

use std::collections::BTreeSet;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use crate::support::scrape::Scrape;
use prometheus::{Registry, TextEncoder};
use session_buddy_bridge::internals::feed::{DISCONNECT_CODES, FeedState};
use session_buddy_bridge::internals::health::Health;
use session_buddy_bridge::internals::ledger::{FeedCounters, Notice, RuleCounters};
use session_buddy_bridge::internals::process::process_collector;
use session_buddy_bridge::internals::protocol::{MessageType, Rejection, RejectionReason};
use session_buddy_bridge::internals::telemetry::{CODES_FROM_ZERO, LedgerCounters, Telemetry};

const FEED: &str = "ws://localhost:8765/";

fn scraped(telemetry: &Arc<Telemetry>, health: &Arc<Health>, counters: LedgerCounters) -> Scrape {
    let registry = Registry::new();
    registry.register(Box::new(telemetry.collector(Arc::clone(health), move || counters.clone()))).unwrap();
    registry.register(Box::new(telemetry.http_collector())).unwrap();
    registry.register(Box::new(process_collector())).unwrap();
    Scrape::parse(&TextEncoder::new().encode_to_string(&registry.gather()).unwrap()).unwrap()
}

#[test]
fn every_family_is_there_with_every_label_value_that_is_known() {
    let (telemetry, health) = (Arc::new(Telemetry::new()), Arc::new(Health::new()));
    telemetry.feed(FEED);
    telemetry.http_serves("/metrics");
    health.feed(FEED);
    let feed = FeedCounters { identity: FEED.into(), tenth_skill_invocations: Some(0), ..FeedCounters::default() };
    let scrape = scraped(&telemetry, &health, LedgerCounters { feeds: vec![feed], rules: RuleCounters::default() });
    let names: BTreeSet<_> =
        scrape.families.keys().filter_map(|name| name.strip_prefix("session_buddy_bridge_")).collect();
    let expected = [
        "anomaly_window_overflows_total",
        "backfilled_invocations_total",
        "build_info",
        "config_last_reload_success_timestamp_seconds",
        "config_last_reload_successful",
        "estimated_observations_total",
        "exact_observations_total",
        "feed_connects_total",
        "feed_disconnects_total",
        "feed_messages_total",
        "feed_rejected_total",
        "feed_resets_total",
        "feed_rollbacks_total",
        "feed_state",
        "feed_tenth_skill_invocations",
        "feed_up",
        "http_accept_failures_total",
        "http_connections_refused_total",
        "http_refusals_total",
        "http_requests_total",
        "http_scrape_duration_seconds",
        "inexact_rates_total",
        "late_events_total",
        "log_lines_dropped_total",
        "overflowed_anomalies_total",
        "overflowed_invocations_total",
        "source_double_counted_total",
        "source_undecided_total",
        "web_config_failures_total",
        "web_config_last_reload_success_timestamp_seconds",
        "web_config_last_reload_successful",
    ];
    assert_eq!(names, BTreeSet::from(expected));
    for (name, family) in &scrape.families {
        let kind = match name {
            _ if name.ends_with("_total") => "counter",
            _ if name.ends_with("_duration_seconds") => "histogram",
            _ => "gauge",
        };
        assert_eq!(family.kind, kind, "{name}");
        assert!(!family.help.is_empty(), "{name}");
    }
    for kind in MessageType::ALL {
        let labels = [("feed", FEED), ("type", kind.label())];
        assert_eq!(scrape.value("session_buddy_bridge_feed_messages_total", &labels), Some(0.0), "{kind:?}");
    }
    for reason in RejectionReason::ALL {
        let labels = [("feed", FEED), ("reason", reason.label())];
        assert_eq!(scrape.value("session_buddy_bridge_feed_rejected_total", &labels), Some(0.0), "{reason:?}");
    }
    for code in CODES_FROM_ZERO {
        assert!(DISCONNECT_CODES.contains(&code), "{code} is no code");
        let labels = [("code", code), ("feed", FEED)];
        assert_eq!(scrape.value("session_buddy_bridge_feed_disconnects_total", &labels), Some(0.0), "{code}");
    }
    assert_eq!(scrape.series("session_buddy_bridge_feed_disconnects_total").len(), CODES_FROM_ZERO.len());
    let series = scrape.series("session_buddy_bridge_build_info");
    let [(labels, 1.0)] = series.into_iter().collect::<Vec<_>>()[..] else { panic!("{scrape:?}") };
    assert_eq!(labels["version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(labels.keys().collect::<Vec<_>>(), ["revision", "rustc", "target", "version"]);
    assert_eq!(scrape.value("session_buddy_bridge_feed_up", &[("feed", FEED)]), Some(0.0));
    for state in FeedState::LABELS {
        let labels = [("feed", FEED), ("state", state)];
        let is_in_it = if state == "connecting" { 1.0 } else { 0.0 };
        assert_eq!(scrape.value("session_buddy_bridge_feed_state", &labels), Some(is_in_it), "{state}");
    }
}

#[test]
fn events_move_their_own_series_and_no_other() {
    let (telemetry, health) = (Arc::new(Telemetry::new()), Arc::new(Health::new()));
    let live = health.feed("a");
    health.feed("b\"\n\\");
    let (one, other) = (telemetry.feed("a"), telemetry.feed("b\"\n\\"));
    assert!(Arc::ptr_eq(&one, &telemetry.feed("a")), "one identity, one feed");
    let before = scraped(&telemetry, &health, LedgerCounters::default());

    one.connected();
    one.connected();
    one.disconnected("4001", "Authentication failed");
    one.disconnected("dns", "no such host");
    one.disconnected("dns", "no such host");
    assert!(live.update(&FeedState::Live));
    one.message(MessageType::MetricsUpdate, 1_700_000_000.25);
    other.message(MessageType::Unknown, 3.0);
    one.rejected(&Rejection::new(RejectionReason::InvalidNumber, "rate is NaN"));
    other.notice(&Notice::Rejected(Rejection::new(RejectionReason::SessionLimit, "too many")));
    telemetry.http_connection_refused(512);
    telemetry.http_accept_failed(&io::ErrorKind::OutOfMemory.into());
    telemetry.http_answered("/-/ready", 503);
    telemetry.http_scraped(Duration::from_millis(500));
    let counters = |identity: &str, tenth, rollbacks, resets| FeedCounters {
        identity: identity.into(),
        tenth_skill_invocations: tenth,
        rollbacks,
        resets,
        ..FeedCounters::default()
    };
    let rules = RuleCounters {
        estimated_observations: 1,
        exact_observations: 2,
        inexact_rates: 3,
        late_events: 4,
        backfilled_invocations: 5,
        anomaly_window_overflows: 6,
        overflowed_invocations: 7,
        overflowed_anomalies: 8,
    };
    let feeds = vec![counters("a", Some(41), 8, 9), counters("gone", None, 0, 1)];
    let after = scraped(&telemetry, &health, LedgerCounters { feeds, rules });

    let changed: Vec<_> = after
        .samples
        .iter()
        .filter(|(series, value)| series.name.starts_with("session") && before.samples.get(series) != Some(value))
        .map(|(series, value)| {
            let labels: Vec<_> = series.labels.values().map(String::as_str).collect();
            format!("{} {} {value}", series.name.trim_start_matches("session_buddy_bridge_"), labels.join(" "))
        })
        .collect();
    let expected = [
        "anomaly_window_overflows_total  6",
        "backfilled_invocations_total  5",
        "estimated_observations_total  1",
        "exact_observations_total  2",
        "feed_connects_total a 2",
        "feed_disconnects_total 4001 a 1",
        "feed_disconnects_total dns a 2",
        "feed_last_message_timestamp_seconds a 1700000000.25",
        "feed_last_message_timestamp_seconds b\"\n\\ 3",
        "feed_messages_total a metrics_update 1",
        "feed_messages_total b\"\n\\ unknown 1",
        "feed_rejected_total a invalid_number 1",
        "feed_rejected_total b\"\n\\ session_limit 1",
        "feed_resets_total a 9",
        "feed_resets_total gone 1",
        "feed_rollbacks_total a 8",
        "feed_rollbacks_total gone 0",
        "feed_state a connecting 0",
        "feed_state a live 1",
        "feed_tenth_skill_invocations a 41",
        "feed_up a 1",
        "http_accept_failures_total  1",
        "http_connections_refused_total  1",
        "http_requests_total 503 /-/ready 1",
        "http_scrape_duration_seconds_bucket +Inf 1",
        "http_scrape_duration_seconds_bucket 1 1",
        "http_scrape_duration_seconds_count  1",
        "http_scrape_duration_seconds_sum  0.5",
        "inexact_rates_total  3",
        "late_events_total  4",
        "overflowed_anomalies_total  8",
        "overflowed_invocations_total  7",
        "source_double_counted_total a 0",
        "source_double_counted_total gone 0",
        "source_undecided_total a behind 0",
        "source_undecided_total a damage 0",
        "source_undecided_total a known_listing 0",
        "source_undecided_total a return 0",
        "source_undecided_total gone behind 0",
        "source_undecided_total gone damage 0",
        "source_undecided_total gone known_listing 0",
        "source_undecided_total gone return 0",
    ];
    assert_eq!(changed, expected);
}

#[test]
fn codes_without_end_are_counted_as_other() {
    let telemetry = Arc::new(Telemetry::new());
    let feed = telemetry.feed(FEED);
    (0..1000).for_each(|code| feed.disconnected(&code.to_string(), ""));
    feed.disconnected("7", "");
    let scrape = scraped(&telemetry, &Arc::default(), LedgerCounters::default());
    let name = "session_buddy_bridge_feed_disconnects_total";
    assert_eq!(scrape.series(name).len(), 65);
    assert_eq!(scrape.value(name, &[("code", "7"), ("feed", FEED)]), Some(2.0));
    assert_eq!(scrape.value(name, &[("code", "other"), ("feed", FEED)]), Some(951.0));
    assert_eq!(scrape.sum(name), 1001.0);
}
