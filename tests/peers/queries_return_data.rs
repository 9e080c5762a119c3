//! Every query that is deployed or documented, of the dashboard, of the rules and of `docs`, gives data of the right shape
//! from a real Prometheus that scrapes a bridge under load.

use std::collections::BTreeSet;
use std::fs::{create_dir_all, read_dir, read_to_string, write};
use std::path::Path;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use crate::support::model::{Anomaly, Database, Invocation, sql_time};
use crate::support::peers::prometheus::{Prometheus, PrometheusTools, Series};
use crate::support::push_senders::{receiver, store_with_date};
use crate::support::running_bridge::RunningBridge;
use crate::support::scripted_feed::{Gate, Reserved, ScriptedFeed, Step};
use crate::support::scripted_receiver::{Action, ScriptedReceiver};
use crate::support::server_database::ServerDatabase;
use crate::support::{eventually, in_repository};
use serde_json::Value;
use session_buddy_bridge::internals::demo::{DemoFeed, DemoSettings};
use session_buddy_bridge::settings::{FeedTarget, PushSettings, Settings, StateLocation};
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

const RULE_FILES: [&str; 3] = ["rules.yml", "alerts.yml", "cost.yml"];

/// What a server sends of whose frames most are rejected. The others list a skill of which fewer than 70 % complete, and each
/// of them one more anomaly.
fn faulty_rounds() -> Step {
    let of_it = |completed: bool| Invocation {
        skill_name: "low".to_owned(),
        workflow_phase: None,
        completed,
        duration_seconds: completed.then_some(2.0),
    };
    let invocations = [true, true, true, false, false].map(of_it).to_vec();
    let database = Mutex::new((0, Database { invocations, ..Database::default() }));
    Step::rounds(&Gate::default(), Duration::from_millis(200), move || {
        let (round, database) = &mut *database.lock().unwrap();
        *round += 1;
        if *round % 5 != 0 {
            return "{".to_owned();
        }
        let at_micros = *round * 200_000;
        database.anomalies.push(Anomaly {
            skill_name: "low".to_owned(),
            anomaly_type: "drop".to_owned(),
            detected_at: sql_time(at_micros),
            deviation_score: Some(2.5),
        });
        database.snapshot(at_micros)
    })
}

/// What a server sends whose database is read: a skill fails again and again, with a cause, and another was last used long ago.
fn failing_rounds(database: &Path) -> Step {
    let server = ServerDatabase::create(database);
    server.execute(
        "INSERT INTO skill_invocation (skill_name, invoked_at, session_id, completed)
         VALUES ('abandoned', '2001-01-01 00:00:00', 's', 1)",
    );
    let state = Mutex::new((0, server));
    Step::rounds(&Gate::default(), Duration::from_millis(200), move || {
        let (round, server) = &mut *state.lock().unwrap();
        *round += 1;
        server.execute(
            "INSERT INTO skill_invocation (skill_name, invoked_at, session_id, completed, error_type)
             VALUES ('failing', datetime('now'), 's', 0, 'timeout')",
        );
        server.snapshot(*round * 200_000)
    })
}

/// A query, and what its answer has to be like.
struct Expected {
    from: String,
    query: String,
    /// Over a span of time, or at a moment.
    is_range: bool,
    labels: Vec<String>,
    shape: Shape,
}

enum Shape {
    /// One number.
    One,
    /// Numbers of any labels.
    Series,
    /// Cumulative buckets, up to `+Inf`.
    Buckets,
}

fn dashboard() -> Value {
    let file = in_repository("deploy/grafana/dashboards/session-buddy.json");
    serde_json::from_str(&read_to_string(file).unwrap()).expect("JSON")
}

/// As Grafana would with everything chosen, on the scale of this test: a scrape each 250 ms, where 15 s are deployed.
///
/// The rate interval has to exceed a step of a range, which is 1 s, by more than a scrape interval, as Grafana's does: between the
/// last sample of a window and the first of the next one an increase shows in neither, and ticks of push, which come each 5 s of
/// the wall clock, would fall there at every one or at none.
fn substituted(query: &str) -> String {
    let macros = [("$__rate_interval", "2s"), ("$__range", "10s")];
    let variables = [("$job", ".*"), ("$instance", ".*"), ("$skill", ".*")];
    let query = macros.iter().chain(&variables).fold(query.to_owned(), |query, (from, to)| query.replace(from, to));
    assert!(!query.contains('$'), "what is not known is left in {query}");
    query
}

/// The query of a rule on the scale of this test: what looks back by hours looks back by seconds.
fn sooner(query: &str) -> String {
    let scale = [
        ("90d:1m", "10s:1s"),
        ("30d:1d", "10s:1s"),
        ("30d", "10s"),
        ("7d", "20s"),
        ("1d", "10s"),
        ("1h", "3s"),
        ("30m", "3s"),
        ("20m", "4s"),
        ("15m", "3s"),
        ("10m", "3s"),
        ("5m", "3s"),
    ];
    scale.iter().fold(query.to_owned(), |query, (span, short)| {
        query
            .replace(&format!("[{span}]"), &format!("[{short}]"))
            .replace(&format!("offset {span}"), &format!("offset {short}"))
    })
}

/// The query of an alert, telling whether it holds in place of being empty where it does not: so that it gives data while
/// all is well, with the labels that its words name. What follows `unless` has to be empty then, and is a query of its own, with
/// the labels that it is matched on.
fn judged(query: &str, named: Vec<String>) -> Vec<(String, Vec<String>)> {
    let with_bool = |query: &str| {
        let words = query.split(' ');
        let judged = words.map(|word| match word {
            "==" | ">" | ">=" | "<" | "<=" => format!("{word} bool"),
            _ => word.to_owned(),
        });
        judged.collect::<Vec<_>>().join(" ")
    };
    match query.split_once(" unless ") {
        None => vec![(with_bool(query), named)],
        Some((holds, exception)) => {
            let (on, excepted) = exception.split_once(") ").expect("unless on (...) ...");
            let matched =
                on.strip_prefix("on (").expect("unless on (...) ...").split(", ").map(str::to_owned).collect();
            vec![(format!("{} unless {exception}", with_bool(holds)), named), (with_bool(excepted), matched)]
        }
    }
}

/// The names within `{{` and `}}`.
fn legend_labels(format: &str) -> Vec<String> {
    format.split("{{").skip(1).map(|rest| rest.split("}}").next().unwrap().to_owned()).collect()
}

/// The labels that the words of an alert name.
fn named_labels(words: &str) -> Vec<String> {
    let is_of_name = |character: char| character.is_ascii_alphanumeric() || character == '_';
    let named = words.split("$labels.").skip(1);
    named.map(|rest| rest.split(|character| !is_of_name(character)).next().unwrap().to_owned()).collect()
}

fn of_dashboard(dashboard: &Value) -> Vec<Expected> {
    let mut expected = Vec::new();
    for panel in dashboard["panels"].as_array().unwrap() {
        let targets = panel["targets"].as_array().map(Vec::as_slice).unwrap_or_default();
        assert_eq!(targets.is_empty(), panel["type"] == "row", "{panel}");
        for target in targets {
            let mut labels = legend_labels(target["legendFormat"].as_str().unwrap());
            let (label, shape) = match panel["type"].as_str().unwrap() {
                "heatmap" => (Some("le"), Shape::Buckets),
                "table" => (Some("skill_name"), Shape::Series),
                "stat" => (None, Shape::One),
                _ => (None, Shape::Series),
            };
            labels.extend(label.map(str::to_owned));
            let is_range = target["range"].as_bool().unwrap_or_default();
            assert_ne!(target["instant"].as_bool().unwrap_or_default(), is_range, "{target}");
            expected.push(Expected {
                from: format!("panel {:?}, {}", panel["title"].as_str().unwrap(), target["refId"]),
                query: substituted(target["expr"].as_str().unwrap()),
                is_range,
                labels,
                shape,
            });
        }
    }
    for annotation in dashboard["annotations"]["list"].as_array().unwrap() {
        expected.push(Expected {
            from: format!("annotation {}", annotation["name"]),
            query: substituted(annotation["expr"].as_str().unwrap()),
            is_range: true,
            labels: vec![annotation["tagKeys"].as_str().unwrap().to_owned()],
            shape: Shape::Series,
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
            is_range: false,
            labels: vec![label.to_owned()],
            shape: Shape::Series,
        });
    }
    expected
}

/// The queries of a page, each on one line: the blocks of code in the language `promql`, and the last column of tables of examples.
fn queries(page: &str) -> Vec<String> {
    let blocks = page.split("```promql\n").skip(1).map(|block| block.split("```").next().unwrap_or_default());
    let tables = page.split("\n| example | query |\n").skip(1).flat_map(|table| {
        let rows = table.lines().skip(1).map_while(|line| line.strip_prefix("| ")?.strip_suffix("` |"));
        rows.map(|row| row.split_once(" | `").expect("a query in backticks").1)
    });
    blocks.chain(tables).map(|query| query.split_whitespace().collect::<Vec<_>>().join(" ")).collect()
}

/// The queries of the pages in `docs/how-to` and `docs/reference`.
fn documented() -> Vec<Expected> {
    let mut expected = Vec::new();
    let folders = ["docs/how-to", "docs/reference"].map(in_repository);
    for page in folders.iter().flat_map(|folder| read_dir(folder).unwrap()) {
        let page = page.unwrap().path();
        for query in queries(&read_to_string(&page).unwrap()) {
            let labels = query.strip_prefix("sum by (").and_then(|rest| rest.split_once(')')).map_or("", |(by, _)| by);
            let labels = labels.split(", ").filter(|label| !label.is_empty()).map(str::to_owned).collect();
            for (query, labels) in judged(&sooner(&query), labels) {
                let from = page.display().to_string();
                expected.push(Expected { from, query, is_range: false, labels, shape: Shape::Series });
            }
        }
    }
    expected
}

/// Shares are told by what they are: nothing that is between 0 and 1 is shown as anything else.
fn shares(dashboard: &Value) -> Vec<String> {
    let panels = dashboard["panels"].as_array().unwrap().iter();
    let of_shares = panels.filter(|panel| panel["fieldConfig"]["defaults"]["unit"] == "percentunit");
    let targets = of_shares.flat_map(|panel| panel["targets"].as_array().unwrap());
    targets.map(|target| substituted(target["expr"].as_str().unwrap())).collect()
}

fn is_in_shape(expected: &Expected, series: &[Series]) -> Result<(), String> {
    let Expected { from, query, labels, shape, .. } = expected;
    let fault = |fault: &str| Err(format!("{from}: {fault}: {query}: {series:?}"));
    if series.is_empty() {
        return fault("no data");
    }
    if !series.iter().all(|series| labels.iter().all(|label| series.labels.contains_key(label))) {
        return fault("a label is missing");
    }
    let mut values = series.iter().flat_map(|series| series.samples.iter().map(|(_, value)| *value));
    if values.clone().any(|value| value < 0.0) {
        return fault("a number below nothing");
    }
    if !values.any(f64::is_finite) {
        return fault("no number");
    }
    match shape {
        Shape::One if series.len() != 1 => fault("not one series"),
        Shape::Buckets => {
            let bound = |series: &Series| series.labels["le"].parse::<f64>().expect("a bound");
            let mut buckets: Vec<(f64, f64)> = series.iter().map(|series| (bound(series), series.value())).collect();
            buckets.sort_by(|a, b| a.0.total_cmp(&b.0));
            let is_cumulative = buckets.is_sorted_by(|a, b| a.1 <= b.1);
            if is_cumulative && buckets.last().unwrap().0.is_infinite() { Ok(()) } else { fault("no buckets") }
        }
        Shape::One | Shape::Series => Ok(()),
    }
}

/// What Claude Code exports, of a session that has cost a cent a second since `start`: by a skill that the demo has, by one that it
/// does not have, and by none.
fn claude_code(start: Instant) -> Action {
    let cost = start.elapsed().as_secs_f64() / 100.0;
    let skills = [r#"skill_name="pytest-run","#, r#"skill_name="third-party","#, ""];
    let series = skills.map(|skill| {
        format!("claude_code_cost_usage_USD_total{{{skill}session_id=\"one\",model=\"claude-sonnet-4-6\"}} {cost}\n")
    });
    let text = format!("# TYPE claude_code_cost_usage_USD_total counter\n{}", series.concat());
    Action::status("200 OK", "Content-Type: text/plain; version=0.0.4\r\n", &text)
}

/// The deployed configuration on the scale of this test, with a second job that scrapes `claude_code`. Its rules are copied to `folder`.
fn configuration(bridge: &RunningBridge, claude_code: &str, folder: &Path) -> String {
    let deployed = in_repository("deploy/prometheus");
    let read = |name: &str| read_to_string(deployed.join(name)).unwrap();
    for name in RULE_FILES {
        write(folder.join(name), read(name).replace("interval: 1m\n", "interval: 250ms\n")).unwrap();
    }
    let absolute = |text: String, name: &str| {
        assert!(text.contains(&format!("- {name}\n")), "{name} is not deployed");
        text.replace(&format!("- {name}\n"), &format!("- {}\n", folder.join(name).display()))
    };
    let text = RULE_FILES.into_iter().fold(read("prometheus.yml"), absolute);
    let text = text.replace("bridge:9090", &bridge.address().to_string()).replace("15s", "250ms");
    let claude_code = claude_code.strip_prefix("http://").and_then(|url| url.split('/').next()).expect("a URL");
    format!("{text}  - job_name: claude-code\n    static_configs:\n      - targets: ['{claude_code}']\n")
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
    // Of the second feed something is rejected all the time; where the third should be, nobody is, and no database.
    let faulty = ScriptedFeed::start(vec![vec![faulty_rounds()]]);
    let nobody = Reserved::new();
    let failing_database = state.path().join("failing.db");
    let failing = ScriptedFeed::start(vec![vec![failing_rounds(&failing_database)]]);
    let urls = [demo.url(), faulty.url().to_string(), nobody.url().to_string(), failing.url().to_string()];
    let mut feeds = urls.map(|url| FeedTarget::new(&url).unwrap());
    feeds[2].skills_db = Some(state.path().join("nowhere.db"));
    feeds[3].skills_db = Some(failing_database);
    let skills = state.path().join("skills");
    create_dir_all(skills.join("never-used")).unwrap();
    write(skills.join("never-used/SKILL.md"), "").unwrap();
    let feeds = feeds.to_vec();
    let place = StateLocation::Path(state.path().join("state.db"));
    let pushed = ScriptedReceiver::start(|_, _| store_with_date()).await;
    let interval = Duration::from_secs(5);
    let push = PushSettings { receivers: vec![receiver(&pushed.url())], interval, ..PushSettings::default() };
    let bridge =
        RunningBridge::start(Settings { state: place, push, skills_dirs: vec![skills], ..Settings::new(feeds) });
    let ends = CancellationToken::new();
    tokio::spawn(demo.serve(ends.clone()));
    let start = Instant::now();
    let claude = ScriptedReceiver::start(move |_, _| claude_code(start)).await;
    let configuration = configuration(&bridge, &claude.url(), state.path());

    tokio::task::spawn_blocking(move || {
        let prometheus = tools.start(&configuration);
        let dashboard = dashboard();
        let mut expected = of_dashboard(&dashboard);
        assert!(expected.len() > 40, "the dashboard has {} queries", expected.len());
        expected.extend(QUERIES_OF_PEOPLE.iter().map(|(query, labels)| Expected {
            from: "what people have".to_owned(),
            query: (*query).to_owned(),
            is_range: false,
            labels: labels.iter().map(|label| (*label).to_owned()).collect(),
            shape: Shape::Series,
        }));
        let documented = documented();
        assert!(documented.len() > 90, "the documents have {} queries", documented.len());
        expected.extend(documented);
        let rules = eventually("every rule to have been evaluated", || {
            let rules = rules(&prometheus);
            let waiting = rules.iter().find(|rule| rule["health"] != "ok").map(|rule| rule.to_string());
            waiting.map_or(Ok(rules), Err)
        });
        let alerts = rules.iter().filter(|rule| rule["type"] == "alerting").count();
        assert_eq!((alerts, rules.len()), (16, 25));
        for rule in &rules {
            let (name, query) = (rule["name"].as_str().unwrap(), rule["query"].as_str().unwrap());
            let is_alert = rule["type"] == "alerting";
            let queries = match is_alert {
                true => judged(&sooner(query), named_labels(rule["annotations"]["summary"].as_str().unwrap())),
                false => vec![(name.to_owned(), Vec::new())],
            };
            let names_instance = |(_, labels): &(String, Vec<String>)| labels.contains(&"instance".to_owned());
            assert!(!is_alert || queries.iter().all(names_instance), "{name} does not say which bridge");
            expected.extend(queries.into_iter().map(|(query, labels)| Expected {
                from: name.to_owned(),
                query,
                is_range: false,
                labels,
                shape: Shape::Series,
            }));
        }
        for expected in &expected {
            eventually(&expected.from, || {
                let answer = match expected.is_range {
                    true => prometheus.query_range(&expected.query),
                    false => prometheus.query(&expected.query, None),
                };
                is_in_shape(expected, &answer)
            });
        }
        let shares = shares(&dashboard);
        assert!(shares.len() > 4, "{shares:?}");
        for share in shares {
            let beyond = prometheus.query(&format!("({share}) > 1"), None);
            assert_eq!(beyond, [], "{share}");
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
