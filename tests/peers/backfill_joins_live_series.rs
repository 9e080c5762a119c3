//! The history of a real storage and the live series of a bridge are one series, in a real Prometheus and in VictoriaMetrics:
//! queries by day, skill and phase equal SQL, and nothing is reset at the joint.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use rusqlite::{Connection, OpenFlags, params};

use crate::support::peers::prometheus::PrometheusTools;
use crate::support::peers::receivers::{Kind, Receiver, releases_or_skip};
use crate::support::peers::session_buddy::{Pace, SessionBuddy};
use crate::support::program::{Program, run};
use crate::support::scrape::Scrape;
use crate::support::{eventually, holds, in_repository};

const DAY: i64 = 86_400;
const DAYS: i64 = 4;

const FAILURES: &str = "session_buddy_bridge_skill_failures_total";
const LAST_INVOKED: &str = "session_buddy_bridge_skill_last_invoked_timestamp_seconds";

/// By skill and phase.
type Counts = BTreeMap<(String, String), f64>;

/// What the storage writes has the present as its time: spreads the rows over some days.
const AGE: &str = "
    UPDATE skill_invocation SET
        invoked_at = strftime('%Y-%m-%dT%H:%M:%S', invoked_at, '-' || (id * 1000) || ' seconds') || '.123456+00:00',
        created_at = datetime(created_at, '-' || (id * 1000 - 20) || ' seconds');
    UPDATE skill_anomalies SET detected_at = datetime(detected_at, '-' || (id * 7000) || ' seconds');";

fn invocations(database: &Path, from: i64, until: i64) -> Counts {
    let connection = Connection::open_with_flags(database, OpenFlags::SQLITE_OPEN_READ_ONLY).unwrap();
    let sql = "SELECT skill_name, coalesce(workflow_phase, 'unknown'), count(*) + 0.0 FROM skill_invocation
        WHERE unixepoch(invoked_at, 'subsec') > ? AND unixepoch(invoked_at, 'subsec') <= ? GROUP BY 1, 2";
    let mut query = connection.prepare(sql).unwrap();
    let rows = query.query_map(params![from, until], |row| Ok(((row.get(0)?, row.get(1)?), row.get(2)?)));
    rows.unwrap().map(Result::unwrap).collect()
}

/// What the rows until a time tell of each skill that has some.
fn of_rows(database: &Path, aggregate: &str, condition: &str, until: i64) -> BTreeMap<String, f64> {
    let connection = Connection::open_with_flags(database, OpenFlags::SQLITE_OPEN_READ_ONLY).unwrap();
    let sql = format!(
        "SELECT skill_name, {aggregate} FROM skill_invocation WHERE {condition} AND unixepoch(invoked_at, 'subsec') <= ?
         GROUP BY 1"
    );
    let mut query = connection.prepare(&sql).unwrap();
    let rows = query.query_map(params![until], |row| Ok((row.get(0)?, row.get(1)?)));
    rows.unwrap().map(Result::unwrap).collect()
}

fn total(database: &Path) -> f64 {
    invocations(database, 0, i64::MAX / 2).values().sum()
}

/// Labels and values.
type Answer = Vec<(BTreeMap<String, String>, f64)>;

/// Compares the answers of `query` to PromQL, at a time in seconds, with SQL.
fn check(what: &str, database: &Path, query: &dyn Fn(&str, i64) -> Answer) {
    let counts = |at: i64| -> Counts {
        let promql = r#"sum by (skill_name, workflow_phase) (skill_invocations_total{instance="bridge"})"#;
        let label = |labels: &BTreeMap<String, String>, name: &str| labels.get(name).cloned().unwrap_or_default();
        let series = query(promql, at).into_iter();
        series
            .map(|(labels, value)| ((label(&labels, "skill_name"), label(&labels, "workflow_phase")), value))
            .collect()
    };
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs() as i64;
    // The last midnight but one lies before the live series, whenever the test runs.
    let midnight = (now - 3_600) / DAY * DAY;
    for day in 0..DAYS {
        let (from, until) = (midnight - (day + 1) * DAY, midnight - day * DAY);
        let (before, after) = (counts(from), counts(until));
        let mut difference = after.clone();
        before.iter().for_each(|(key, value)| *difference.get_mut(key).expect("no series ends") -= value);
        difference.retain(|_, value| *value != 0.0);
        assert_eq!(difference, invocations(database, from, until), "{what}: day {day}");
    }
    // At any time there is an answer, to the second.
    for back in [4_000, 90_007, 200_123] {
        let at = now - back;
        let expected: f64 = invocations(database, 0, at / 60 * 60).values().sum();
        let (found, latest): (f64, f64) = (counts(at).values().sum(), invocations(database, 0, at).values().sum());
        assert!((expected..=latest).contains(&found) && found > 0.0, "{what}: {found}, not {expected} to {latest}");
    }
    assert_eq!(counts(now).values().sum::<f64>(), total(database), "{what}: now");
    let durations = ["bucket", "sum", "count"].map(|suffix| format!("skill_duration_seconds_{suffix}"));
    let counters = ["skill_invocations_total", "anomalies_detected_total", FAILURES]
        .map(str::to_owned)
        .into_iter()
        .chain(durations);
    for counter in counters {
        let resets = query(&format!("resets({counter}{{instance=\"bridge\"}}[{}d])", DAYS + 2), now);
        assert!(resets.len() > 5, "{what}: {} series of {counter}", resets.len());
        for (labels, resets) in resets {
            assert_eq!(resets, 0.0, "{what}: {counter} {labels:?}");
        }
    }
    // What rows tell at the time of a sample, by skill.
    let by_skill = |promql: &str, at: i64| -> BTreeMap<String, f64> {
        query(promql, at).into_iter().map(|(labels, value)| (labels["skill_name"].clone(), value)).collect()
    };
    for at in [midnight, midnight - DAY, now] {
        let failures = format!(r#"sum by (skill_name) ({FAILURES}{{instance="bridge"}}) > 0"#);
        let expected = of_rows(database, "count(*) + 0.0", "NOT completed", at);
        assert_eq!(by_skill(&failures, at), expected, "{what}: failures at {at}");
        let invoked = by_skill(&format!(r#"{LAST_INVOKED}{{instance="bridge"}}"#), at);
        let expected = of_rows(database, "max(unixepoch(invoked_at, 'subsec'))", "true", at);
        assert!(invoked.keys().eq(expected.keys()), "{what}: {invoked:?}, not {expected:?} at {at}");
        for (skill, seconds) in &invoked {
            // SQLite's times have milliseconds.
            assert!((seconds - expected[skill]).abs() <= 0.001, "{what}: {skill} at {at}: {seconds}, not {expected:?}");
        }
    }
    let falls = query(&format!("resets({LAST_INVOKED}{{instance=\"bridge\"}}[{}d])", DAYS + 2), now);
    assert!(!falls.is_empty() && falls.iter().all(|(_, falls)| *falls == 0.0), "{what}: {falls:?}");
    // Each series is one, from its first sample to the last one that is live.
    let joined =
        query(&format!("count(count_over_time(skill_invocations_total{{instance=\"bridge\"}}[{}d]))", DAYS + 2), now);
    let live = query(r#"count(skill_invocations_total{instance="bridge"})"#, now);
    assert_eq!(joined[0].1, live[0].1, "{what}: series");
}

#[test]
fn history_and_live_series_are_one_in_prometheus_and_victoria_metrics() {
    let (Some(session_buddy), Some(tools)) = (SessionBuddy::find_or_skip(), PrometheusTools::find_or_skip()) else {
        return;
    };
    let Some(releases) = releases_or_skip() else { return };
    let victoria_metrics = Receiver::start(releases[0], Kind::VictoriaMetrics);
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let (database, state, history) = (folder.path().join("skills.db"), file("state.db"), file("history.om"));
    let drive = |invocations: u32, seed: u64| {
        let pace = Pace { invocations, invocations_per_second: 1_000.0, anomaly_every: 7, skills: 5, seed };
        let ended = session_buddy.drive(&database, &pace).end();
        assert!(ended.is_success(), "{}", ended.stderr);
    };
    drive(400, 11);
    Connection::open(&database).unwrap().execute_batch(AGE).unwrap();
    let server = session_buddy.serve_every(0.2, &database, 0, &[]);
    let (url, push) = (format!("ws://127.0.0.1:{}", server.port), victoria_metrics.url());
    let path = database.to_str().unwrap().to_owned();
    let mut bridge = Program::start([
        "--feed.url",
        &url,
        "--feed.skills-db",
        &path,
        "--state.path",
        &state,
        "--web.listen-address",
        "127.0.0.1:0",
        "--push.url",
        &push,
        "--push.interval",
        "5s",
        "--push.label",
        "instance=bridge",
    ]);
    let address = bridge.address();
    let configuration = format!(
        "scrape_configs:\n  - job_name: session-buddy\n    scrape_interval: 1s\n    static_configs:\n      - targets: \
         ['{address}']\n        labels: {{instance: bridge}}\n"
    );
    let prometheus = tools.start(&configuration);
    let counted = |expected: f64| {
        eventually("the bridge to count every row", || {
            let found = Scrape::fetch(address, "/metrics").sum("skill_invocations_total");
            holds(found == expected, format!("{found} of {expected}"))
        });
        let query = r#"sum(skill_invocations_total{instance="bridge"})"#;
        eventually("both to have it", || {
            let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs_f64();
            victoria_metrics.api().flush();
            let pushed = victoria_metrics.api().query(query, now).first().map(|(_, value)| *value);
            let scraped = prometheus.query(query, None).first().map(|series| series.value());
            holds(
                pushed == Some(expected) && scraped == Some(expected),
                format!("{pushed:?} and {scraped:?} of {expected}"),
            )
        });
    };
    counted(total(&database));
    // What happens now is live alone.
    drive(60, 12);
    counted(total(&database));

    let backfill = |arguments: &[&str]| {
        let always = ["backfill", "--feed.skills-db", &path, "--state.path", &state, "--label", "instance=bridge"];
        let ended = Program::start([&always[..], arguments].concat()).end();
        assert!(ended.is_success() && ended.stderr.contains("rows="), "{}", ended.stderr);
        assert!(!ended.stderr.contains("later_rows=0"), "the live rows are left to the live series: {}", ended.stderr);
    };
    backfill(&["--output", &history]);
    backfill(&["--push.url", &push]);
    // The parser loses buckets of a histogram that has several times.
    let text = fs::read_to_string(&history).unwrap();
    let is_parsed = |line: &&str| !line.contains("skill_duration_seconds");
    let text: String = text.lines().filter(is_parsed).map(|line| line.to_owned() + "\n").collect();
    let mut parser = session_buddy.python();
    let parsed = run(parser.arg(in_repository("tests/programs/parse_exposition.py")).arg("openmetrics"), &text);
    assert!(parsed.is_success() && parsed.stdout.contains("[\"skill_invocations\", \"counter\""), "{}", parsed.stderr);
    victoria_metrics.api().flush();
    check("VictoriaMetrics", &database, &|promql, at| {
        let labels = |labels: serde_json::Value| serde_json::from_value(labels).unwrap();
        victoria_metrics
            .api()
            .query(promql, at as f64)
            .into_iter()
            .map(|(found, value)| (labels(found), value))
            .collect()
    });

    let storage = prometheus.stop();
    let data = storage.path().join("data").to_str().unwrap().to_owned();
    let blocks = ["tsdb", "create-blocks-from", "--max-block-duration=240h", "openmetrics", &history, &data];
    let created = tools.promtool(blocks, "");
    assert!(created.is_success(), "{}", created.printed());
    let prometheus = tools.restart(&configuration, storage);
    eventually("the series to be live again", || {
        let live = prometheus.query(r#"skill_invocations_total{instance="bridge"}"#, None);
        holds(!live.is_empty(), "none yet".to_owned())
    });
    check("Prometheus", &database, &|promql, at| {
        let series = prometheus.query(promql, Some(at as f64)).into_iter();
        series.map(|series| (series.labels.clone(), series.value())).collect()
    });
}
