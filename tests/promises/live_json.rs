//! The JSON behind the live page says what `docs/reference/api.md` says, and the same as a scrape.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::support::eventually_async;
use crate::support::http_client::Connection;
use crate::support::model::{Anomaly, Database, Invocation, sql_time};
use crate::support::push_senders::receiver;
use crate::support::running_bridge::RunningBridge;
use crate::support::scripted_feed::{Gate, Reserved, ScriptedFeed, Step};
use crate::support::scripted_receiver::{Action, ScriptedReceiver};
use serde_json::Value;
use session_buddy_bridge::internals::feed::Timing;
use session_buddy_bridge::settings::{FeedTarget, PushReceiver, PushSettings, Settings};

const TOKEN: &str = "eyJhbGciOiJIUzI1NiJ9.eyJ1c2VyX2lkIjoiYSJ9.dBjftJeZ4CVPmB92K27uhbUJU1p1r";

async fn json(bridge: &RunningBridge, path: &'static str) -> Value {
    let response = bridge.get(path).await;
    assert_eq!(response.header("content-type"), Some("application/json"), "{path}");
    serde_json::from_str(response.text()).unwrap_or_else(|error| panic!("{path}: {error}: {}", response.text()))
}

async fn until(bridge: &RunningBridge, path: &'static str, what: &str, is_so: impl Fn(&Value) -> bool) -> Value {
    let look = async || {
        let answer = json(bridge, path).await;
        if is_so(&answer) { Ok(answer) } else { Err(answer.to_string()) }
    };
    eventually_async(what, look).await
}

fn bridge(feeds: Vec<FeedTarget>) -> RunningBridge {
    pushing_bridge(feeds, Vec::new())
}

fn pushing_bridge(feeds: Vec<FeedTarget>, receivers: Vec<PushReceiver>) -> RunningBridge {
    let push = PushSettings { receivers, ..PushSettings::default() };
    let timing = Timing {
        backoff_min: Duration::from_millis(1),
        backoff_max: Duration::from_millis(20),
        silence_timeout: Duration::from_millis(300),
        ..Timing::default()
    };
    RunningBridge::start(Settings { timing, push, ..Settings::new(feeds) })
}

fn database() -> Database {
    let mut database = Database::default();
    for number in 0..20 {
        database.invocations.push(Invocation {
            skill_name: if number < 15 { "pytest-run" } else { "lint" }.to_owned(),
            workflow_phase: None,
            completed: number % 5 != 0,
            duration_seconds: (number % 5 != 0).then_some(3.0),
        });
    }
    database.anomalies.push(Anomaly {
        skill_name: "lint".to_owned(),
        anomaly_type: "spike".to_owned(),
        detected_at: sql_time(0),
        deviation_score: Some(2.5),
    });
    database
}

fn target(feed: &ScriptedFeed) -> FeedTarget {
    FeedTarget::new(feed.url().as_str()).unwrap()
}

/// Every key of `value` and of what is in it.
fn keys(value: &Value, into: &mut BTreeSet<String>) {
    match value {
        Value::Object(members) => members.iter().for_each(|(key, value)| {
            into.insert(key.clone());
            keys(value, into);
        }),
        Value::Array(items) => items.iter().for_each(|item| keys(item, into)),
        _ => {}
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_tells_what_a_scrape_tells_and_every_key_is_documented() {
    let snapshot = |at_micros| Step::Send(database().snapshot(at_micros));
    let junk = Step::Send(format!("{{\"type\": \"metrics_update\", \"timestamp\": \"{TOKEN}"));
    let live = ScriptedFeed::start(vec![vec![
        snapshot(0),
        junk,
        Step::Repeat(database().snapshot(1_000_000), Duration::from_millis(50)),
    ]]);
    let refusing = ScriptedFeed::start(vec![vec![Step::Close(4001, "Authentication failed".to_owned())]]);
    let silent = ScriptedFeed::start(vec![vec![snapshot(0)], vec![], vec![], vec![]]);
    let nobody = Reserved::new();
    let pushed = ScriptedReceiver::start(|_, _| Action::store()).await;
    let feeds =
        vec![target(&live), target(&refusing), target(&silent), FeedTarget::new(nobody.url().as_str()).unwrap()];
    let bridge = pushing_bridge(feeds, vec![receiver(&pushed.url())]);
    let status = until(&bridge, "/api/v1/status", "a push", |status| status["receivers"][0]["is_up"] == true).await;
    assert_eq!(status["receivers"][0]["problem"], "");
    assert!(status["receivers"][0]["last_success_seconds"].as_f64() <= status["now_seconds"].as_f64());
    let states = |status: &Value| -> Vec<String> {
        status["feeds"].as_array().unwrap().iter().map(|feed| feed["state"].as_str().unwrap().to_owned()).collect()
    };
    until(&bridge, "/api/v1/status", "the refusal", |status| states(status)[1] == "refused").await;
    until(&bridge, "/api/v1/status", "the silence", |status| states(status)[2] == "silent").await;
    until(&bridge, "/api/v1/status", "nobody", |status| states(status)[3] == "unreachable").await;
    let status = until(&bridge, "/api/v1/status", "everything", |status| {
        status["totals"]["anomalies"] == 1 && status["rejections"][0]["feed"].is_string()
    })
    .await;
    for feed in status["feeds"].as_array().unwrap() {
        assert_eq!(feed["state"] == "live", feed["reason"] == "", "{feed}");
        assert!(feed["since_seconds"].as_f64().unwrap() <= status["now_seconds"].as_f64().unwrap() + 1.0);
    }
    assert!(!status.to_string().contains(TOKEN), "the page is read by more people than the log");

    let scrape = bridge.scrape().await;
    assert_eq!(status["totals"]["invocations"].as_f64().unwrap(), scrape.sum("skill_invocations_total"));
    let skills = json(&bridge, "/api/v1/skills?sort=skill_name").await;
    let of = |name: &str, key: &str| -> Vec<String> {
        skills["skills"]
            .as_array()
            .unwrap()
            .iter()
            .filter(|row| row["skill_name"] == name)
            .map(|row| row[key].to_string())
            .collect()
    };
    assert_eq!(skills["skills_total"], 2);
    for key in skills["skills"][0].as_object().unwrap().keys() {
        let sorted = bridge.get(&format!("/api/v1/skills?sort={key}")).await;
        assert_eq!(sorted.status, 200, "by {key}");
    }
    assert_eq!(of("pytest-run", "invocations"), ["15"]);
    assert_eq!(of("pytest-run", "completion_rate"), ["0.8"]);
    assert_eq!(of("lint", "anomalies"), ["1"]);

    let history = until(&bridge, "/api/v1/history", "a point", |history| history["points"][0].is_object()).await;
    let mut told = BTreeSet::new();
    [&status, &skills, &history].into_iter().for_each(|answer| keys(answer, &mut told));
    let page = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/reference/api.md")).unwrap();
    let rows = page.lines().filter(|line| line.starts_with("| `"));
    let documented: BTreeSet<String> =
        rows.flat_map(|row| row.split('|').nth(1).unwrap().split('`').skip(1).step_by(2)).map(str::to_owned).collect();
    assert_eq!(told, documented);
    bridge.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_feed_without_data_is_live_nowhere_until_it_sends_some() {
    let gate = Gate::default();
    let greeting = Step::send(r#"{"type":"connected"}"#);
    let rounds = Step::Repeat(Database::default().snapshot(0), Duration::from_millis(50));
    let server = ScriptedFeed::start(vec![vec![greeting, Step::Await(gate.clone()), rounds]]);
    let bridge = bridge(vec![target(&server)]);
    let up = async || bridge.scrape().await.sum("session_buddy_bridge_feed_up");
    let status = until(&bridge, "/api/v1/status", "no data", |status| status["feeds"][0]["state"] == "silent").await;
    let feed = &status["feeds"][0];
    assert!(feed["reason"].as_str().unwrap().starts_with("connected, no data for "), "{feed}");
    assert!(feed["connected_since_seconds"].is_f64() && feed["last_data_seconds"].is_null(), "{feed}");
    let ready = bridge.get("/-/ready").await;
    assert_eq!((ready.status, up().await), (503, 0.0));
    assert!(ready.text().contains(": not live: connected, no data for "), "{}", ready.text());

    gate.open();
    let status = until(&bridge, "/api/v1/status", "a snapshot", |status| status["feeds"][0]["state"] == "live").await;
    assert!(status["feeds"][0]["last_data_seconds"].is_f64(), "{status}");
    assert_eq!(status["totals"]["skills"], 0, "its database is empty");
    assert_eq!((bridge.get("/-/ready").await.status, up().await), (200, 1.0));
    bridge.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn wrong_questions_are_named_and_other_sites_are_kept_out() {
    let nobody = Reserved::new();
    let bridge = bridge(vec![FeedTarget::new(nobody.url().as_str()).unwrap()]);
    for (path, problem) in [
        ("/api/v1/skills?sort=size", "`sort=size`: give one of skill_name, "),
        ("/api/v1/skills?limit=501", "`limit=501`: give 1 to 500 rows"),
        ("/api/v1/history?after=NaN", "`after=NaN`: give seconds since the Unix epoch"),
    ] {
        let response = bridge.get(path).await;
        assert_eq!(response.status, 400, "{path}");
        let error: Value = serde_json::from_str(response.text()).unwrap();
        assert!(error["error"].as_str().unwrap().starts_with(problem), "{error}");
    }
    assert_eq!(bridge.get("/api/v1/nothing").await.status, 404);
    assert_eq!(bridge.get("/api/v2/status").await.status, 404);

    let address = bridge.address();
    for path in ["/", "/api/v1/status", "/api/v1/skills"] {
        let misled = tokio::task::spawn_blocking(move || {
            let mut connection = Connection::open(address);
            connection.send(format!("GET {path} HTTP/1.1\r\nHost: evil.example\r\n\r\n").as_bytes());
            connection.response_to("GET")
        });
        assert_eq!(misled.await.unwrap().status, 421, "{path}");
    }
    bridge.stop().await;
}
