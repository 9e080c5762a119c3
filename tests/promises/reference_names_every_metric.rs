//! The reference of the metrics is what a bridge exposes, nothing less and nothing more: names, types, labels, the values of
//! labels that have a bounded set of them, and the alerts that use a metric.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use crate::support::in_repository;
use crate::support::model::SECOND;
use crate::support::push_senders::{receiver, store_with_date};
use crate::support::running_bridge::RunningBridge;
use crate::support::scrape::Scrape;
use crate::support::scripted_feed::{Gate, ScriptedFeed, Step};
use crate::support::scripted_receiver::ScriptedReceiver;
use crate::support::server_database::ServerDatabase;
use session_buddy_bridge::RejectionReason;
use session_buddy_bridge::internals::feed::{DISCONNECT_CODES, FeedState};
use session_buddy_bridge::internals::http::Refusal;
use session_buddy_bridge::internals::ledger::binding::Doubt;
use session_buddy_bridge::internals::protocol::MessageType;
use session_buddy_bridge::internals::push::RefusalReason;
use session_buddy_bridge::settings::{FeedTarget, PushSettings, Settings, StateLocation};

const REFERENCE: &str = include_str!("../../docs/reference/metrics.md");

/// The text below the heading `title`, up to the next one of its level.
fn section(title: &str) -> &'static str {
    let level = title.split(' ').next().expect("a heading");
    let (_, below) = REFERENCE.split_once(&format!("\n{title}\n")).unwrap_or_else(|| panic!("no section {title}"));
    below.split(&format!("\n{level} ")).next().unwrap_or_default()
}

/// The cells of the rows of `section`'s tables that have a name or a value in their first of `columns` columns.
fn rows(section: &str, columns: usize) -> impl Iterator<Item = Vec<&str>> {
    let rows = section.lines().filter_map(|line| line.strip_prefix("| ")?.strip_suffix('|'));
    let cells = rows.map(|row| row.split('|').map(str::trim).collect::<Vec<_>>());
    cells.filter(move |cells| cells.len() == columns && cells[0].starts_with('`'))
}

/// What stands in backticks.
fn quoted(cell: &str) -> BTreeSet<&str> {
    cell.split('`').skip(1).step_by(2).collect()
}

/// A metric as the reference describes it.
#[derive(Debug, PartialEq)]
struct Described {
    kind: String,
    labels: BTreeSet<String>,
}

fn described() -> BTreeMap<String, Described> {
    let of_row = |cells: Vec<&str>| {
        let labels = quoted(cells[2]).into_iter().map(ToOwned::to_owned).collect();
        (cells[0].trim_matches('`').to_owned(), Described { kind: cells[1].to_owned(), labels })
    };
    let described = rows(section("## Metrics"), 5).map(of_row).collect::<BTreeMap<_, _>>();
    assert!(described.len() > 60, "the tables were not found: {described:?}");
    described
}

/// The families that a scrape has series of, as the reference would describe them. The process is measured on Linux only.
fn exposed(scrape: &Scrape) -> BTreeMap<String, Described> {
    let mut exposed = BTreeMap::new();
    for series in scrape.samples.keys() {
        let of_histogram = ["_bucket", "_sum", "_count"].iter().find_map(|suffix| series.name.strip_suffix(suffix));
        let family = of_histogram.filter(|name| scrape.families.contains_key(*name)).unwrap_or(&series.name);
        let kind = scrape.families[family].kind.clone();
        let described = exposed.entry(family.to_owned()).or_insert(Described { kind, labels: BTreeSet::new() });
        described.labels.extend(series.labels.keys().filter(|label| *label != "le").cloned());
    }
    exposed
}

/// The values that the reference lists of a label, in the section of that title.
fn documented_values(title: &str) -> BTreeSet<&'static str> {
    rows(section(&format!("### {title}")), 2).flat_map(|cells| quoted(cells[0])).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_metric_has_the_type_and_the_labels_that_the_reference_gives_it() {
    let folder = tempfile::tempdir().unwrap();
    let state = StateLocation::Path(folder.path().join("state.db"));
    let skills_db = folder.path().join("skills.db");
    let database = ServerDatabase::create(&skills_db);
    database.invoke("pytest-run", 1);
    database.execute(
        "INSERT INTO skill_invocation (skill_name, invoked_at, session_id, completed, error_type)
         VALUES ('pytest-run', '2026-11-22 10:00:00', 's', 0, 'timeout')",
    );
    database.detect("pytest-run", 1, 2.5, 0);
    let server = ScriptedFeed::start(vec![vec![Step::send(database.snapshot(SECOND)), Step::Await(Gate::default())]]);
    let feeds = vec![FeedTarget { skills_db: Some(skills_db), ..FeedTarget::new(server.url().as_str()).unwrap() }];
    let pushed = ScriptedReceiver::start(|_, _| store_with_date()).await;
    let push = PushSettings { receivers: vec![receiver(&pushed.url())], ..PushSettings::default() };
    let skills = folder.path().join("skills");
    fs::create_dir_all(skills.join("pytest-run")).unwrap();
    fs::write(skills.join("pytest-run/SKILL.md"), "").unwrap();
    let bridge = RunningBridge::start(Settings { state, push, skills_dirs: vec![skills], ..Settings::new(feeds) });
    let mut expected = described();
    if !cfg!(target_os = "linux") {
        expected.retain(|name, _| !name.starts_with("process_"));
    }
    // Only what differs: what fails is then short enough to read.
    let differing = |scrape: &Scrape| {
        let exposed = exposed(scrape);
        let names = expected.keys().chain(exposed.keys()).filter(|name| expected.get(*name) != exposed.get(*name));
        let each =
            names.map(|name| format!("{name}: {:?} exposed, {:?} described", exposed.get(name), expected.get(name)));
        each.collect::<BTreeSet<_>>()
    };
    bridge.until("every metric", &BTreeSet::new(), differing).await;
    bridge.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_exporter_metrics_exactly_those_of_the_process_and_of_http_are_left_out() {
    let mut exposed = Vec::new();
    for has_exporter_metrics in [true, false] {
        let feeds = vec![FeedTarget::new("ws://127.0.0.1:1").unwrap()];
        let bridge = RunningBridge::start(Settings { has_exporter_metrics, ..Settings::new(feeds) });
        exposed.push(bridge.scrape().await.families.into_keys().collect::<BTreeSet<_>>());
        bridge.stop().await;
    }
    let [with, without] = &exposed[..] else { unreachable!() };
    let is_of_exporter =
        |name: &&String| name.starts_with("process_") || name.starts_with("session_buddy_bridge_http_");
    let left_out: Vec<_> = with.difference(without).collect();
    assert!(left_out.len() >= 10, "{left_out:?}");
    assert!(left_out.iter().all(is_of_exporter) && !without.iter().any(|name| is_of_exporter(&name)), "{left_out:?}");
    assert!(without.is_subset(with) && without.contains("session_buddy_bridge_build_info"));
}

#[test]
fn every_metric_has_an_example_and_the_alerts_that_use_it() {
    let alerts = fs::read_to_string(in_repository("deploy/prometheus/alerts.yml")).unwrap();
    let expressions = alerts.split("- alert: ").skip(1).map(|alert| {
        let (name, alert) = alert.split_once('\n').expect("lines below the name");
        (name, alert.split("labels: {").next().unwrap_or_default())
    });
    let expressions = expressions.collect::<Vec<_>>();
    assert!(expressions.len() > 10, "the alerts were not found");
    let is_of_name = |character: char| character.is_ascii_alphanumeric() || character == '_';
    let names = |query: &str, metric: &str| {
        let ofs = ["", "_bucket", "_sum", "_count"].map(|suffix| format!("{metric}{suffix}"));
        query.split(|character| !is_of_name(character)).any(|word| ofs.iter().any(|name| name == word))
    };
    let mut metrics = 0;
    for group in section("## Metrics").split("\n### ").skip(1) {
        let examples = group.lines().filter_map(|line| line.strip_prefix("| ")?.split(" | `").nth(1));
        let examples = examples.collect::<Vec<_>>();
        for cells in rows(group, 5) {
            metrics += 1;
            let metric = cells[0].trim_matches('`');
            assert!(examples.iter().any(|example| names(example, metric)), "{metric} has no example: {examples:?}");
            let used = expressions.iter().filter(|(_, expression)| names(expression, metric)).map(|(name, _)| *name);
            assert_eq!(quoted(cells[4]), used.collect(), "the alerts that use {metric}");
        }
    }
    assert_eq!(metrics, described().len());
}

#[test]
fn labels_take_the_values_that_the_reference_lists() {
    let sets: [(&str, Vec<&str>); 7] = [
        ("`state` of `feed_state`", FeedState::LABELS.to_vec()),
        ("`code` of `feed_disconnects_total`", DISCONNECT_CODES.to_vec()),
        ("`type` of `feed_messages_total`", MessageType::ALL.iter().map(|kind| kind.label()).collect()),
        ("`reason` of `feed_rejected_total`", RejectionReason::ALL.iter().map(|reason| reason.label()).collect()),
        ("`reason` of `source_undecided_total`", Doubt::ALL.map(Doubt::code).to_vec()),
        ("`reason` of `push_refused_samples_total`", RefusalReason::ALL.map(RefusalReason::code).to_vec()),
        ("`reason` of `http_refusals_total`", Refusal::ALL.map(Refusal::label).to_vec()),
    ];
    for (title, values) in sets {
        assert_eq!(documented_values(title), BTreeSet::from_iter(values), "{title}");
    }
    let explained = REFERENCE.matches("\n### `").count();
    assert_eq!(explained, 9, "each set is compared with the program, here or in another test of this file");
}

#[test]
fn every_label_of_a_metric_is_explained() {
    let explained = rows(section("## Labels and their values"), 2).flat_map(|cells| quoted(cells[0]));
    let mut explained = explained.collect::<BTreeSet<_>>();
    let titles = REFERENCE.lines().filter_map(|line| line.strip_prefix("### `")?.split('`').next());
    explained.extend(titles);
    for (metric, described) in described() {
        let missing = described.labels.iter().filter(|label| !explained.contains(label.as_str()));
        assert_eq!(missing.collect::<Vec<_>>(), Vec::<&String>::new(), "{metric}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_are_counted_under_the_paths_that_the_reference_lists() {
    let bridge = RunningBridge::start(Settings::new(vec![FeedTarget::new("ws://127.0.0.1:1").unwrap()]));
    let paths = ["/", "/assets/icon.svg", "/api/v1/status", "/-/healthy", "/-/ready", "/-/reload", "/no-such-page"];
    for path in paths {
        bridge.get(path).await;
    }
    let scrape = bridge.scrape().await;
    let series = scrape.series("session_buddy_bridge_http_requests_total");
    let counted = series.keys().map(|labels| labels["path"].as_str()).collect::<BTreeSet<_>>();
    assert_eq!(counted, documented_values("`path` of `http_requests_total`"));
    bridge.stop().await;
}
