//! A real Prometheus, configured as deployed, scrapes the bridge beside the real server, and a dashboard's queries give
//! the numbers of the server's database.

use std::collections::BTreeMap;

use crate::support::peers::bridge::Bridge;
use crate::support::peers::prometheus::{Prometheus, PrometheusTools, Series};
use crate::support::peers::session_buddy::SessionBuddy;
use crate::support::{eventually, in_repository};
use serde_json::json;
use tempfile::TempDir;

const COMPLETION_RATE: &str = r#"skill_completion_rate{skill_name="pytest-run"}"#;
const DURATION_P95: &str = "histogram_quantile(0.95, sum(rate(skill_duration_seconds_bucket[5m])) by (skill_name, le))";
const DURATION_P95_BY_SERIES: &str = "histogram_quantile(0.95, rate(skill_duration_seconds_bucket[5m]))";
const LOW_COMPLETION: &str = "skill_completion_rate < 0.7";
const MOST_ANOMALIES: &str = "topk(10, sum(anomalies_detected_total) by (skill_name))";
const INVOCATION_RATE: &str = "sum(rate(skill_invocations_total[5m])) by (skill_name)";
const ACTIVE_SESSIONS: &str = "active_sessions_total";

const RATE_WINDOW_SECONDS: f64 = 300.0;

/// The deployed configuration, for a bridge at this address and with a pace for tests.
fn configuration(bridge: &Bridge) -> String {
    let deployed = in_repository("deploy/prometheus");
    let text = std::fs::read_to_string(deployed.join("prometheus.yml")).unwrap();
    let replacements = [
        ("bridge:9090", bridge.address.to_string()),
        ("- rules.yml", format!("- {}", deployed.join("rules.yml").display())),
        ("- alerts.yml", format!("- {}", deployed.join("alerts.yml").display())),
        ("15s", "250ms".into()),
    ];
    replacements.iter().fold(text, |text, (from, to)| {
        assert!(text.contains(from), "the deployed configuration has no {from} to replace");
        text.replace(from, to)
    })
}

fn by_skill(series: Vec<Series>) -> BTreeMap<String, f64> {
    series.into_iter().map(|series| (series.labels["skill_name"].clone(), series.value())).collect()
}

fn assert_close(actual: &BTreeMap<String, f64>, expected: &[(&str, f64)]) {
    assert!(actual.keys().map(String::as_str).eq(expected.iter().map(|(skill, _)| *skill)), "{actual:?}");
    for (skill, value) in expected {
        // A double holds seconds since 1970 to a quarter of a microsecond, which rates show.
        assert!((actual[*skill] - value).abs() < 1e-6 * value, "{skill} is {} and not {value}", actual[*skill]);
    }
}

/// What `rate` gives at a time for a counter whose first sample lies well within the window and well above zero: its rise,
/// extended by half an interval before the first sample and by what is missing after the last, over the window.
fn rate(series: &Series, at_seconds: f64) -> f64 {
    let ((first_seconds, first), (last_seconds, last)) = (series.samples[0], *series.samples.last().unwrap());
    let sampled_seconds = last_seconds - first_seconds;
    let interval_seconds = sampled_seconds / (series.samples.len() - 1) as f64;
    let missing_seconds = at_seconds - last_seconds;
    let after = if missing_seconds < 1.1 * interval_seconds { missing_seconds } else { interval_seconds / 2.0 };
    (last - first) * (sampled_seconds + interval_seconds / 2.0 + after) / sampled_seconds / RATE_WINDOW_SECONDS
}

/// The time of evaluation, once Prometheus has seen as many invocations and anomalies.
fn await_scraped(prometheus: &Prometheus, invocations: f64, anomalies: f64) -> f64 {
    eventually("Prometheus to have scraped it all", || {
        let seen = ["sum(skill_invocations_total)", "sum(anomalies_detected_total) or vector(0)"]
            .map(|query| prometheus.query(query, None).first().map(|sum| sum.samples[0]));
        match seen {
            [Some((_, seen)), Some((at_seconds, hits))] if (seen, hits) == (invocations, anomalies) => Ok(at_seconds),
            other => Err(format!("{other:?}")),
        }
    })
}

#[test]
fn a_dashboards_queries_give_the_numbers_of_the_database() {
    let Some(session_buddy) = SessionBuddy::find_or_skip() else { return };
    let Some(tools) = PrometheusTools::find_or_skip() else { return };
    let directory = TempDir::new().unwrap();
    let database = directory.path().join("skills.db");
    let server = session_buddy.serve(&database, 0, &[]);
    let bridge = Bridge::start(server.port, &[]);
    bridge.await_snapshots(1);

    session_buddy.store(
        &database,
        &json!({"invocations": [
            {"skill_name": "pytest-run", "completed": true, "duration_seconds": 4.0, "times": 20},
            {"skill_name": "pytest-run", "completed": false, "times": 10},
            {"skill_name": "ruff-check", "completed": true, "duration_seconds": 1.5, "times": 20},
        ]}),
    );
    bridge.scrape_until("the beginning", |scrape| match scrape.sum("skill_invocations_total") {
        50.0 => Ok(()),
        other => Err(other.to_string()),
    });
    let prometheus = tools.start(&configuration(&bridge));
    eventually("two scrapes of the beginning", || {
        match prometheus.query("min(count_over_time(skill_invocations_total[5m]))", None).first() {
            Some(scrapes) if scrapes.value() >= 2.0 => Ok(()),
            other => Err(format!("{other:?}")),
        }
    });

    session_buddy.store(
        &database,
        &json!({
            "invocations": [
                {"skill_name": "pytest-run", "completed": true, "duration_seconds": 4.0, "times": 10},
                {"skill_name": "pytest-run", "completed": false, "times": 5},
                {"skill_name": "ruff-check", "completed": true, "duration_seconds": 1.5, "times": 4},
            ],
            "anomalies": [
                {"skill_name": "pytest-run", "anomaly_type": "drop", "deviation_score": 2.5},
                {"skill_name": "pytest-run", "anomaly_type": "drop", "deviation_score": 3.5},
                {"skill_name": "pytest-run", "anomaly_type": "spike", "deviation_score": 2.5},
                {"skill_name": "ruff-check", "anomaly_type": "pattern_shift", "deviation_score": 2.5},
            ],
        }),
    );
    let at_seconds = await_scraped(&prometheus, 69.0, 4.0);
    let ask = |query: &str| prometheus.query(query, Some(at_seconds));

    let target = &prometheus.api("targets?state=active")["activeTargets"][0];
    assert_eq!((&target["health"], &target["lastError"]), (&json!("up"), &json!("")));
    assert_close(&by_skill(ask(COMPLETION_RATE)), &[("pytest-run", 30.0 / 45.0)]);
    assert_close(&by_skill(ask(LOW_COMPLETION)), &[("pytest-run", 30.0 / 45.0)]);
    assert_eq!(ask(ACTIVE_SESSIONS).iter().map(Series::value).collect::<Vec<_>>(), [1.0]);
    assert_close(&by_skill(ask(MOST_ANOMALIES)), &[("pytest-run", 3.0), ("ruff-check", 1.0)]);
    // Each skill's durations share one bucket, so that the quantile lies 95 % of the way from its lower bound to its upper.
    let p95 = [("pytest-run", 4.85), ("ruff-check", 1.95)];
    assert_close(&by_skill(ask(DURATION_P95)), &p95);
    assert_close(&by_skill(ask(DURATION_P95_BY_SERIES)), &p95);

    let mut rates = BTreeMap::new();
    for series in ask("skill_invocations_total[5m]") {
        *rates.entry(series.labels["skill_name"].clone()).or_default() += rate(&series, at_seconds);
    }
    assert_close(
        &by_skill(ask(INVOCATION_RATE)),
        &[("pytest-run", rates["pytest-run"]), ("ruff-check", rates["ruff-check"])],
    );
    assert!(rates["ruff-check"] > 4.0 / RATE_WINDOW_SECONDS, "{rates:?}");

    // The recorded queries are evaluated in rounds of their own: the next one sees what was seen here.
    eventually("the rules to be evaluated", || {
        let recorded = |rule: &str| by_skill(prometheus.query(rule, None));
        let anomalies = recorded("skill:anomalies_detected_total:topk10_sum");
        (anomalies == by_skill(ask(MOST_ANOMALIES))).then_some(()).ok_or_else(|| format!("{anomalies:?}"))
    });
    let recorded = |rule: &str| by_skill(prometheus.query(rule, None));
    assert_close(&recorded("skill:skill_duration_seconds:p95_rate5m"), &p95);
    assert_close(&recorded("skill:skill_completion_rate:avg"), &[("pytest-run", 30.0 / 45.0), ("ruff-check", 1.0)]);
    assert!(recorded("skill:skill_invocations:rate5m")["pytest-run"] > 15.0 / RATE_WINDOW_SECONDS);
    assert_eq!(prometheus.query("job:active_sessions_total:sum", None)[0].value(), 1.0);
}

/// Forty invocations, of which the first of each skill and phase is among the first that the bridge observes, and an anomaly of
/// each skill, stored in a database that holds nothing, or else an invocation of another skill.
fn increase_shows_first_values(with_database: bool, is_empty: bool) {
    const SKILLS: u32 = 8;
    const ROUNDS: u32 = 5;
    let Some(session_buddy) = SessionBuddy::find_or_skip() else { return };
    let Some(tools) = PrometheusTools::find_or_skip() else { return };
    let directory = TempDir::new().unwrap();
    let database = directory.path().join("skills.db");
    let before = if is_empty { json!([]) } else { json!([{"skill_name": "history", "completed": true}]) };
    session_buddy.store(&database, &json!({ "invocations": before }));
    let server = session_buddy.serve_every(0.2, &database, 0, &[]);
    let mut environment = vec![("SESSION_BUDDY_BRIDGE_WEB_ZERO_FIRST", "1s")];
    if with_database {
        environment.push(("SESSION_BUDDY_BRIDGE_FEED_SKILLS_DB", database.to_str().unwrap()));
    }
    let bridge = Bridge::start(server.port, &environment);
    bridge.await_snapshots(2);
    let prometheus = tools.start(&configuration(&bridge));
    eventually("two scrapes of the beginning", || {
        match prometheus.query("count_over_time(active_sessions_total[5m])", None).first() {
            Some(scrapes) if scrapes.value() >= 2.0 => Ok(()),
            other => Err(format!("{other:?}")),
        }
    });

    for round in 0..ROUNDS {
        let invocation = |skill: u32| {
            let phase = ["setup", "execution"][(skill % 2) as usize];
            json!({"skill_name": format!("skill-{skill}"), "workflow_phase": phase, "completed": !(skill + round).is_multiple_of(4),
                "duration_seconds": 1.5})
        };
        let anomaly = |skill: u32| json!({"skill_name": format!("skill-{skill}"), "anomaly_type": "drop", "deviation_score": 2.5});
        let anomalies: Vec<_> = (0..SKILLS).filter(|_| round == 0).map(anomaly).collect();
        let invocations: Vec<_> = (0..SKILLS).map(invocation).collect();
        session_buddy.store(&database, &json!({ "invocations": invocations, "anomalies": anomalies }));
        bridge.await_snapshots(2);
    }
    let all = f64::from(SKILLS * ROUNDS) + if is_empty { 0.0 } else { 1.0 };
    await_scraped(&prometheus, all, f64::from(SKILLS));
    // At a time of a sample nothing is extrapolated behind it, and nothing before a first sample that is 0.
    let at_seconds = prometheus.query("max(timestamp(skill_invocations_total))", None)[0].value();
    let increase = |name: &str| prometheus.query(&format!("sum(increase({name}[5m]))"), Some(at_seconds))[0].value();
    let shown = ["skill_invocations_total", "anomalies_detected_total"].map(increase);
    let expected = [f64::from(SKILLS * ROUNDS), f64::from(SKILLS)];
    for (shown, expected) in shown.into_iter().zip(expected) {
        assert!((shown - expected).abs() < 1e-6, "{shown} and not {expected}");
    }
    // Each duration is observed where the rows are read, those of completed invocations otherwise. That of history is none.
    let durations = prometheus.query("sum(skill_duration_seconds_count)", Some(at_seconds))[0].value();
    let increased = increase("skill_duration_seconds_count");
    assert!((increased - durations).abs() < 1e-6, "{increased} of {durations} durations");
    assert_eq!(durations, if with_database { 40.0 } else { 30.0 });
}

#[test]
fn increase_shows_forty_first_invocations_of_a_feed_alone() {
    increase_shows_first_values(false, false);
}

#[test]
fn increase_shows_forty_first_invocations_of_a_feed_whose_database_was_empty() {
    increase_shows_first_values(false, true);
}

#[test]
fn increase_shows_forty_first_invocations_with_the_database() {
    increase_shows_first_values(true, false);
}

#[test]
fn increase_shows_forty_first_invocations_with_a_database_that_was_empty() {
    increase_shows_first_values(true, true);
}

#[test]
fn promtool_finds_nothing_but_the_gauge_that_ends_like_a_counter() {
    let Some(session_buddy) = SessionBuddy::find_or_skip() else { return };
    let Some(tools) = PrometheusTools::find_or_skip() else { return };
    let directory = TempDir::new().unwrap();
    let database = directory.path().join("skills.db");
    session_buddy.store(
        &database,
        &json!({
            "invocations": [{"skill_name": "pytest-run", "completed": true, "duration_seconds": 4.0}],
            "anomalies": [{"skill_name": "pytest-run", "anomaly_type": "drop", "deviation_score": 2.5}],
        }),
    );
    let server = session_buddy.serve(&database, 0, &[]);
    let bridge = Bridge::start(server.port, &[]);
    bridge.await_snapshots(1);

    assert_eq!(
        tools.findings(&bridge.exposition()),
        ["active_sessions_total non-counter metrics should not have \"_total\" suffix"]
    );
}
