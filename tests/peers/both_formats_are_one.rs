//! The text format and OpenMetrics show the same series, are what the official parsers and Prometheus read, and differ in
//! what only one of them can say.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use crate::support::http_client::{Connection, Response};
use crate::support::in_repository;
use crate::support::peers::prometheus::PrometheusTools;
use crate::support::peers::session_buddy::SessionBuddy;
use crate::support::program::run;
use crate::support::running_bridge::RunningBridge;
use crate::support::scripted_feed::{ScriptedFeed, Step};
use flate2::read::GzDecoder;
use serde::Deserialize;
use session_buddy_bridge::settings::{FeedTarget, Settings};

const OPENMETRICS: &str = "application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5,*/*;q=0.1";
const TEXT: &str = "text/plain;version=0.0.4";

/// What a parser says of one sample: its name, labels, value, and labels, value and time of its exemplar.
type Sample = (String, BTreeMap<String, String>, String, Option<(BTreeMap<String, String>, f64, f64)>);

#[derive(Debug, Deserialize)]
struct Family(String, String, Vec<Sample>);

fn parsed(session_buddy: &SessionBuddy, format: &str, text: &str) -> Vec<Family> {
    let mut parser = session_buddy.python();
    let ended = run(parser.arg(in_repository("tests/programs/parse_exposition.py")).arg(format), text);
    assert!(ended.is_success(), "{}\n{text}", ended.stderr);
    serde_json::from_str(&ended.stdout).unwrap()
}

fn series(families: &[Family]) -> BTreeSet<(String, BTreeMap<String, String>)> {
    let samples = families.iter().flat_map(|Family(_, _, samples)| samples);
    samples.map(|(name, labels, ..)| (name.clone(), labels.clone())).collect()
}

fn get(address: SocketAddr, method: &str, accept: &str, encoding: &str) -> Response {
    let mut connection = Connection::open(address);
    let headers = format!("Host: test\r\nConnection: close\r\nAccept: {accept}\r\nAccept-Encoding: {encoding}");
    connection.send(format!("{method} /metrics HTTP/1.1\r\n{headers}\r\n\r\n").as_bytes());
    connection.response_to(method)
}

fn unpacked(response: &Response) -> String {
    assert_eq!(response.header("content-encoding"), Some("gzip"));
    std::io::read_to_string(GzDecoder::new(&response.body[..])).unwrap()
}

/// Those of the lines that do not move from one scrape to the next by themselves.
fn still(text: &str) -> Vec<&str> {
    let moves = |line: &str| ["process_", "session_buddy_bridge_http_"].iter().any(|prefix| line.starts_with(prefix));
    text.lines().filter(|line| !moves(line)).collect()
}

fn invocation(skill: &str, phase: &str, completed: bool, seconds: f64, session: &str) -> Step {
    Step::send(
        serde_json::json!({"type": "skill_invocation", "data": {
            "skill_name": skill, "workflow_phase": phase, "completed": completed,
            "duration_seconds": seconds, "session_id": session,
        }})
        .to_string(),
    )
}

/// A bridge that has counted three invocations with sessions, two of one series, and two whose sessions are not fit to be shown.
async fn bridge(with_created: bool) -> (ScriptedFeed, RunningBridge) {
    let snapshot = r#"{"type": "metrics_update", "data": {"top_skills": [], "anomalies": []}}"#;
    let anomaly = r#"{"type": "anomaly", "data": {"skill_name": "b\"\\", "anomaly_type": "spike"}}"#;
    let feed = ScriptedFeed::start(vec![vec![
        Step::send(r#"{"type": "connected", "authenticated": false}"#),
        Step::send(snapshot),
        invocation("a", "setup", true, 0.75, "first"),
        invocation("a", "setup", true, 45.5, "sec ond\\"),
        invocation("b\"\\", "setup\nor not", false, 1.0, "third"),
        invocation("c", "setup", true, 1.0, &"x".repeat(119)),
        invocation("c", "setup", true, 1.0, "a\"b"),
        Step::send(anomaly),
    ]]);
    let target = FeedTarget::new(feed.url().as_str()).unwrap();
    let bridge = RunningBridge::start(Settings { with_created, ..Settings::new(vec![target]) });
    bridge
        .until("all to be counted", &(5.0, 1.0), |scrape| {
            (scrape.sum("skill_invocations_total"), scrape.sum("anomalies_detected_total"))
        })
        .await;
    (feed, bridge)
}

#[tokio::test(flavor = "multi_thread")]
async fn official_parsers_find_the_same_series_in_both() {
    let Some(session_buddy) = SessionBuddy::find_or_skip() else { return };
    let (_feed, bridge) = bridge(false).await;
    let text = get(bridge.address(), "GET", TEXT, "identity");
    let open = get(bridge.address(), "GET", OPENMETRICS, "identity");
    assert_eq!(text.header("content-type"), Some("text/plain; version=0.0.4; charset=utf-8"));
    assert_eq!(open.header("content-type"), Some("application/openmetrics-text; version=1.0.0; charset=utf-8"));
    assert_eq!(open.header("vary"), Some("accept, accept-encoding"));
    assert!(open.text().ends_with("\n# EOF\n"));

    let of_text = parsed(&session_buddy, "text", text.text());
    let of_open = parsed(&session_buddy, "openmetrics", open.text());
    assert_eq!(series(&of_text), series(&of_open));
    assert!(series(&of_open).iter().any(|(_, labels)| labels.get("le").is_some_and(|le| le == "1.0")));
    let types = |families: &[Family]| -> BTreeMap<String, String> {
        families.iter().map(|Family(name, kind, _)| (name.clone(), kind.clone())).collect()
    };
    // The parser of the text format takes `_total` off counters, too.
    assert_eq!(types(&of_text), types(&of_open));
    assert_eq!(types(&of_open)["skill_invocations"], "counter");
    assert_eq!(types(&of_open)["active_sessions_total"], "gauge");
    bridge.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn exemplars_lead_to_the_session_that_was_counted() {
    let Some(session_buddy) = SessionBuddy::find_or_skip() else { return };
    let (_feed, bridge) = bridge(false).await;
    let open = get(bridge.address(), "GET", OPENMETRICS, "identity");
    let families = parsed(&session_buddy, "openmetrics", open.text());
    let exemplars: BTreeSet<(String, String, String)> = families
        .iter()
        .flat_map(|Family(_, _, samples)| samples)
        .filter_map(|(name, labels, _, exemplar)| {
            let (exemplar, value, seconds) = exemplar.as_ref()?;
            assert!(*seconds > 1.7e9, "{seconds}");
            let of = labels.get("le").or(labels.get("completed")).unwrap();
            Some((format!("{name} {} {of}", labels["skill_name"]), exemplar["session_id"].clone(), value.to_string()))
        })
        .collect();
    let expected = [
        ("skill_duration_seconds_bucket a 60.0", "sec ond\\", "45.5"),
        ("skill_duration_seconds_bucket b\"\\ 1.0", "third", "1"),
        ("skill_invocations_total a true", "sec ond\\", "1"),
        ("skill_invocations_total b\"\\ false", "third", "1"),
    ];
    let owned = |(a, b, c): (&str, &str, &str)| (a.to_owned(), b.to_owned(), c.to_owned());
    assert_eq!(exemplars, expected.map(owned).into());
    bridge.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn births_are_told_to_those_who_want_them() {
    let Some(session_buddy) = SessionBuddy::find_or_skip() else { return };
    let created = |families: &[Family]| -> BTreeSet<String> {
        let samples = families.iter().flat_map(|Family(_, _, samples)| samples);
        samples.filter(|(name, ..)| name.ends_with("_created")).map(|(name, ..)| name.clone()).collect()
    };
    let (_feed, silent) = bridge(false).await;
    let open = get(silent.address(), "GET", OPENMETRICS, "identity");
    assert_eq!(created(&parsed(&session_buddy, "openmetrics", open.text())), BTreeSet::new());
    silent.stop().await;

    let (_feed, telling) = bridge(true).await;
    let open = get(telling.address(), "GET", OPENMETRICS, "gzip");
    let families = parsed(&session_buddy, "openmetrics", &unpacked(&open));
    let names = ["anomalies_detected_created", "skill_duration_seconds_created", "skill_invocations_created"];
    assert_eq!(created(&families), names.map(str::to_owned).into());
    let text = get(telling.address(), "GET", TEXT, "identity");
    assert!(!text.text().lines().any(|line| line.starts_with("skill_invocations_created")));
    telling.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn packed_or_not_and_asked_for_the_head_alone_it_is_the_same() {
    let (_feed, bridge) = bridge(true).await;
    for accept in [TEXT, OPENMETRICS] {
        let plain = get(bridge.address(), "GET", accept, "identity");
        // Twice, so that the second is made of what the first packed.
        for _ in 0..2 {
            let packed = unpacked(&get(bridge.address(), "GET", accept, "gzip"));
            assert_eq!(still(&packed), still(plain.text()));
        }
        let head = get(bridge.address(), "HEAD", accept, "identity");
        assert_eq!((head.status, head.header("content-type")), (200, plain.header("content-type")));
        assert!(head.header("content-length").is_some_and(|length| length.parse::<usize>().unwrap() > 1000));
        assert!(head.body.is_empty());
    }
    bridge.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn prometheus_lints_the_text_without_a_complaint_but_for_the_names_that_are_given() {
    let Some(tools) = PrometheusTools::find_or_skip() else { return };
    let (_feed, bridge) = bridge(false).await;
    let text = get(bridge.address(), "GET", TEXT, "identity");
    let output = tools.promtool(["check", "metrics"], text.text());
    let printed = output.printed();
    let complaints: Vec<&str> = printed.lines().filter(|line| !line.contains("active_sessions_total")).collect();
    assert_eq!(complaints, Vec::<&str>::new());
    bridge.stop().await;
}
