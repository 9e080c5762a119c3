//! Every query that is deployed, of the dashboard and of the rules, gives data of the right shape from a real Prometheus
//! that scrapes a bridge under load.

mod support;

use std::collections::BTreeSet;
use std::fs::read_to_string;
use std::time::Duration;

use serde_json::Value;
use session_buddy_bridge::demo::{DemoFeed, DemoSettings};
use session_buddy_bridge::settings::{FeedTarget, Settings, StatePlace};
use support::model::{Database, Invocation};
use support::peers::prometheus::{Prometheus, PrometheusTools, Series};
use support::peers::{eventually, in_repository};
use support::running_bridge::RunningBridge;
use support::scripted_feed::{Reserved, ScriptedFeed, Step};
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

/// What people had on their dashboards and in their alerts before: it has to work as it is written.
const QUERIES_OF_PEOPLE: [(&str, &[&str]); 7] = [
    (r#"skill_completion_rate{skill_name="pytest-run"}"#, &["skill_name"]),
    ("skill_completion_rate < 0.7", &["skill_name"]),
    ("sum(rate(skill_invocations_total[5m])) by (skill_name)", &["skill_name"]),
    ("histogram_quantile(0.95, rate(skill_duration_seconds_bucket[5m]))", &["skill_name", "workflow_phase"]),
    ("histogram_quantile(0.95, sum(rate(skill_duration_seconds_bucket[5m])) by (skill_name, le))", &["skill_name"]),
    ("topk(10, sum(anomalies_detected_total) by (skill_name))", &["skill_name"]),
    ("active_sessions_total", &["instance"]),
];

/// A skill of which fewer than 70 % complete.
fn low() -> String {
    let of_it = |completed: bool| Invocation {
        skill_name: "low".to_owned(),
        workflow_phase: None,
        completed,
        duration_seconds: completed.then_some(2.0),
    };
    let invocations = [true, true, true, false, false].map(of_it).to_vec();
    Database { invocations, ..Database::default() }.snapshot(0)
}

struct Expected {
    from: String,
    query: String,
    labels: Vec<String>,
    is_one: bool,
}

fn dashboard() -> Value {
    let file = in_repository("deploy/grafana/dashboards/session-buddy.json");
    serde_json::from_str(&read_to_string(file).unwrap()).expect("JSON")
}

/// As Grafana would with everything chosen, and with spans for a test.
fn substituted(query: &str) -> String {
    let macros = [("$__rate_interval", "10s"), ("$__range", "30s"), ("$__interval", "10s")];
    let variables = [("$job", ".*"), ("$instance", ".*"), ("$skill", ".*")];
    let query = macros.iter().chain(&variables).fold(query.to_owned(), |query, (from, to)| query.replace(from, to));
    assert!(!query.contains('$'), "what is not known is left in {query}");
    query
}

/// The names within `{{` and `}}`.
fn legend_labels(format: &str) -> Vec<String> {
    format.split("{{").skip(1).map(|rest| rest.split("}}").next().unwrap().to_owned()).collect()
}

fn of_dashboard(dashboard: &Value) -> Vec<Expected> {
    let mut expected = Vec::new();
    for panel in dashboard["panels"].as_array().unwrap() {
        let targets = panel["targets"].as_array().map(Vec::as_slice).unwrap_or_default();
        assert_eq!(targets.is_empty(), panel["type"] == "row", "{panel}");
        for target in targets {
            let mut labels = legend_labels(target["legendFormat"].as_str().unwrap());
            match panel["type"].as_str().unwrap() {
                "heatmap" => labels.push("le".to_owned()),
                "table" => labels.push("skill_name".to_owned()),
                _ => {}
            }
            expected.push(Expected {
                from: format!("panel {:?}, {}", panel["title"].as_str().unwrap(), target["refId"]),
                query: substituted(target["expr"].as_str().unwrap()),
                labels,
                is_one: panel["type"] == "stat",
            });
        }
    }
    for annotation in dashboard["annotations"]["list"].as_array().unwrap() {
        expected.push(Expected {
            from: format!("annotation {}", annotation["name"]),
            query: substituted(annotation["expr"].as_str().unwrap()),
            labels: vec![annotation["tagKeys"].as_str().unwrap().to_owned()],
            is_one: false,
        });
    }
    for variable in
        dashboard["templating"]["list"].as_array().unwrap().iter().filter(|variable| variable["type"] == "query")
    {
        let query = variable["query"]["query"].as_str().unwrap();
        let within = query.strip_prefix("label_values(").and_then(|rest| rest.strip_suffix(')')).expect(query);
        let (selector, label) = within.rsplit_once(", ").expect(query);
        expected.push(Expected {
            from: format!("variable {}", variable["name"]),
            query: substituted(&format!("count by ({label}) ({selector})")),
            labels: vec![label.to_owned()],
            is_one: false,
        });
    }
    expected
}

fn is_in_shape(expected: &Expected, series: &[Series]) -> Result<(), String> {
    let Expected { from, query, labels, is_one } = expected;
    let fault = |fault: &str| Err(format!("{from}: {fault}: {query}: {series:?}"));
    if series.is_empty() {
        return fault("no data");
    }
    if *is_one && series.len() != 1 {
        return fault("not one series");
    }
    if !series.iter().all(|series| labels.iter().all(|label| series.labels.contains_key(label))) {
        return fault("a label is missing");
    }
    if !series.iter().any(|series| series.value().is_finite()) {
        return fault("no number");
    }
    Ok(())
}

/// The selectors of a query: each metric with its matchers.
fn selectors(query: &str) -> BTreeSet<String> {
    let is_of_name = |character: char| character.is_ascii_alphanumeric() || character == '_';
    let is_metric = |name: &str| {
        name == "up"
            || name.starts_with("skill_") && name != "skill_name"
            || name.starts_with("session_buddy_bridge_")
            || name.starts_with("anomalies_")
    };
    let mut found = BTreeSet::new();
    let mut rest = query;
    while let Some(start) = rest.find(is_of_name) {
        rest = &rest[start..];
        let end = rest.find(|character| !is_of_name(character)).unwrap_or(rest.len());
        let (name, after) = rest.split_at(end);
        rest = after;
        if is_metric(name) {
            let matchers = after.strip_prefix('{').and_then(|inner| inner.split_once('}'));
            found.insert(matchers.map_or_else(|| name.to_owned(), |(inner, _)| format!("{name}{{{inner}}}")));
            rest = matchers.map_or(after, |(_, rest)| rest);
        } else if let Some(quoted) = after.strip_prefix('"') {
            rest = quoted.split_once('"').map_or("", |(_, rest)| rest);
        }
    }
    found
}

fn configuration(bridge: &RunningBridge) -> String {
    let deployed = in_repository("deploy/prometheus");
    let text = read_to_string(deployed.join("prometheus.yml")).unwrap();
    let file = |name: &str| format!("- {}", deployed.join(name).display());
    let replacements = [
        ("bridge:9090", bridge.address().to_string()),
        ("- rules.yml", file("rules.yml")),
        ("- alerts.yml", file("alerts.yml")),
        ("15s", "250ms".to_owned()),
    ];
    replacements.iter().fold(text, |text, (from, to)| text.replace(from, to))
}

fn rules(prometheus: &Prometheus) -> Vec<Value> {
    let groups = prometheus.api("rules");
    groups["groups"].as_array().unwrap().iter().flat_map(|group| group["rules"].as_array().unwrap().clone()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_query_gives_data_of_its_shape() {
    let Some(tools) = PrometheusTools::find_or_skip() else { return };
    let state = TempDir::new().unwrap();
    let demo = DemoFeed::bind(DemoSettings {
        interval: Duration::from_millis(200),
        invocations_per_second: 60.0,
        ..DemoSettings::default()
    });
    let demo = demo.await.unwrap();
    // Of the second feed something is rejected all the time; where the third should be, nobody is.
    let junk = Step::Repeat("{".to_owned(), Duration::from_millis(200));
    let faulty = ScriptedFeed::start(vec![vec![Step::Send(low()), junk]]);
    let nobody = Reserved::new();
    let urls = [demo.url(), faulty.url().to_string(), nobody.url().to_string()];
    let feeds = urls.iter().map(|url| FeedTarget::new(url).unwrap()).collect();
    let place = StatePlace::Chosen(state.path().join("state.db"));
    let bridge = RunningBridge::start(Settings { state: place, ..Settings::new(feeds) });
    let ends = CancellationToken::new();
    tokio::spawn(demo.serve(ends.clone()));
    let configuration = configuration(&bridge);

    tokio::task::spawn_blocking(move || {
        let prometheus = tools.start(&configuration);
        let mut expected = of_dashboard(&dashboard());
        assert!(expected.len() > 25, "the dashboard has {} queries", expected.len());
        expected.extend(QUERIES_OF_PEOPLE.iter().map(|(query, labels)| Expected {
            from: "what people have".to_owned(),
            query: (*query).to_owned(),
            labels: labels.iter().map(|label| (*label).to_owned()).collect(),
            is_one: false,
        }));
        for expected in &expected {
            eventually(&expected.from, || is_in_shape(expected, &prometheus.query(&expected.query, None)));
        }

        let rules = eventually("every rule to have been evaluated", || {
            let rules = rules(&prometheus);
            let waiting = rules.iter().find(|rule| rule["health"] != "ok").map(|rule| rule.to_string());
            waiting.map_or(Ok(rules), Err)
        });
        let alerts: Vec<&Value> = rules.iter().filter(|rule| rule["type"] == "alerting").collect();
        assert_eq!((alerts.len(), rules.len()), (10, 15));
        // An alert is quiet while all is well, so it is what it compares that has to be there. `promtool` has the rest.
        for alert in alerts {
            let query = alert["query"].as_str().unwrap();
            let selectors = selectors(query);
            assert!(!selectors.is_empty(), "{query}");
            for selector in selectors {
                eventually(&selector, || match prometheus.query(&selector, None).len() {
                    0 => Err(format!("{}: nothing matches", alert["name"])),
                    _ => Ok(()),
                });
            }
        }
        eventually("the feed that is away and the junk to be alerts", || {
            let firing = rules_that_wait(&prometheus);
            let wanted = ["SessionBuddyFeedDown", "SessionBuddyMessagesRejected"];
            if wanted.iter().all(|name| firing.contains(*name)) { Ok(()) } else { Err(format!("{firing:?}")) }
        });
    })
    .await
    .unwrap();
    ends.cancel();
    bridge.stop().await;
}

/// The alerts whose expression holds, whether or not it has for long enough.
fn rules_that_wait(prometheus: &Prometheus) -> BTreeSet<String> {
    let holds =
        rules(prometheus).into_iter().filter(|rule| rule["alerts"].as_array().is_some_and(|held| !held.is_empty()));
    holds.map(|rule| rule["name"].as_str().unwrap().to_owned()).collect()
}
