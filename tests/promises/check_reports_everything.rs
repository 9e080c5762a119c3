//! `check` takes the flags of the bridge and checks all that it would use: settings, files and databases first, then each feed
//! and each receiver.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::task::spawn_blocking;

use crate::support::program::{Ended, Program};
use crate::support::scripted_feed::{Reserved, ScriptedFeed, Step};
use crate::support::scripted_receiver::{Action, ScriptedReceiver};
use crate::support::server_database::ServerDatabase;
use crate::support::{eventually, holds};

async fn check(arguments: &[&str]) -> Ended {
    let arguments: Vec<String> = ["check"].iter().chain(arguments).map(|argument| (*argument).to_owned()).collect();
    spawn_blocking(move || Program::start(arguments.iter().map(String::as_str)).end()).await.unwrap()
}

/// A server that lists one skill.
fn feed() -> ScriptedFeed {
    let snapshot = json!({"type": "metrics_update", "data": {"anomalies": [], "top_skills": [
        {"skill_name": "a", "total_invocations": 8, "completion_rate": 87.5, "avg_duration_seconds": 1.5},
    ]}});
    ScriptedFeed::start(vec![vec![
        Step::send(r#"{"type": "connected", "authenticated": false}"#),
        Step::Repeat(snapshot.to_string(), Duration::from_millis(20)),
    ]])
}

/// A receiver that reads what it is sent.
async fn receiver() -> ScriptedReceiver {
    ScriptedReceiver::start(|request, _| match request.is_valid {
        true => Action::status("204 No Content", "", ""),
        false => Action::status("400 Bad Request", "", "snappy: corrupt input"),
    })
    .await
}

fn text_of(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// The names of the flags in a help text.
fn flags(command: &str) -> BTreeSet<String> {
    let help = Program::start([command, "--help"]).end().stdout;
    let words = help.split_whitespace().filter_map(|word| word.strip_prefix("--"));
    let names = words.map(|word| word.split(['[', ',', '`', ':', ')']).next().unwrap_or_default().to_owned());
    names.filter(|name| name.contains('.')).collect()
}

#[test]
fn check_takes_every_flag_of_the_bridge() {
    let (of_run, of_check) = (flags("run"), flags("check"));
    assert!(of_run.len() > 40, "{of_run:?}");
    assert_eq!(of_run.difference(&of_check).collect::<Vec<_>>(), Vec::<&String>::new());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_connections_everything_on_this_machine_is_checked() {
    let folder = tempfile::tempdir().unwrap();
    let (file, database) = (folder.path().join("bridge.yml"), folder.path().join("skills.db"));
    let _server = ServerDatabase::create(&database);
    let (feed, receiver) = (feed(), receiver().await);
    let yaml = format!(
        "feeds: [{{url: \"{}\", name: one, skills_db: skills.db}}]\npush: [{{url: \"{}\", name: store}}]\n",
        feed.url(),
        receiver.url()
    );
    std::fs::write(&file, yaml).unwrap();
    let expected = format!(
        "{} is valid. Feeds:\n  one\n    with the database {}\nReceivers:\n  store\n",
        file.display(),
        database.display()
    );
    for arguments in
        [&["check", "--offline"][..], &["check", "--config.check"], &["--config.check"], &["run", "--config.check"]]
    {
        let arguments: Vec<String> =
            arguments.iter().chain(&["--config.file", text_of(&file)]).map(|argument| (*argument).to_owned()).collect();
        let shown = format!("{arguments:?}");
        let run = move || Program::start(arguments.iter().map(String::as_str)).end();
        let Ended { code, stdout, stderr } = spawn_blocking(run).await.unwrap();
        assert_eq!((code, stdout, stderr), (Some(0), expected.clone(), String::new()), "{shown}");
    }
    let of_flags = check(&["--offline", feed.url().as_str(), "--feed.skills-db", text_of(&database)]).await;
    assert_eq!(of_flags.code, Some(0), "{}", of_flags.stderr);
    assert!(of_flags.stdout.starts_with("The settings are valid. Feeds:\n"), "{}", of_flags.stdout);
    assert_eq!((feed.visits().len(), receiver.requests().len()), (0, 0), "nothing was connected to");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_wrong_on_this_machine_is_refused_before_anything_is_connected_to() {
    let folder = tempfile::tempdir().unwrap();
    let gone = folder.path().join("gone.db");
    let feed = feed();
    let url = feed.url().to_string();
    for json in [&[][..], &["--json"]] {
        let arguments = [&[&url, "--feed.skills-db", text_of(&gone)], json].concat();
        let Ended { code, stdout, stderr } = check(&arguments).await;
        assert_eq!(code, Some(2), "{stdout}{stderr}");
        let reason = format!("there is no database at {}", gone.display());
        assert!(stderr.starts_with(&format!("error: {reason}")), "{stderr}");
        assert_eq!(stdout.contains(&reason), !json.is_empty(), "{stdout}");
    }
    let refused = check(&[&url, "--push.url", "ftp://receiver/"]).await;
    assert_eq!(refused.code, Some(2));
    assert!(refused.stderr.starts_with("error: --push.url \"ftp://receiver/\""), "{}", refused.stderr);
    let both = check(&[&url, "--feed.url", "ws://other"]).await;
    assert_eq!(both.code, Some(2));
    assert!(both.stderr.contains("URL and --feed.url contradict each other"), "{}", both.stderr);
    let neither = check(&["--offline", "--seconds", "3"]).await;
    assert!(neither.stderr.contains("--offline and --seconds contradict each other"), "{}", neither.stderr);
    assert_eq!(feed.visits().len(), 0, "nothing was connected to");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_feed_and_every_receiver_is_reported_and_each_failure_is_an_error() {
    let (one, two, store) = (feed(), feed(), receiver().await);
    let (one_url, two_url, store_url) = (one.url().to_string(), two.url().to_string(), store.url().to_string());
    let well = check(&[&one_url, &two_url, "--push.url", &store_url]).await;
    assert_eq!(well.code, Some(0), "{}", well.printed());
    let in_order = [
        "The settings are valid. Feeds:",
        &format!("\n\n{one_url}\n  reachable       yes"),
        r#"skill_completion_rate{skill_name="a"} 0.875"#,
        &format!("\n\n{two_url}\n  reachable       yes"),
        "remote write: yes, a malformed request is refused",
        "Next: start the bridge with the same flags and --feed.url before each URL",
    ];
    let mut rest = well.stdout.as_str();
    for part in in_order {
        let at = rest.find(part).unwrap_or_else(|| panic!("{part:?} is missing or out of order:\n{}", well.stdout));
        rest = &rest[at..];
    }
    assert_eq!((one.visits().len(), two.visits().len()), (1, 1));

    let nobody = Reserved::new();
    let nobody_url = nobody.url().to_string();
    let failed = check(&["--feed.url", &nobody_url, "--feed.url", &one_url, "--push.url=http://127.0.0.1:1/"]).await;
    assert_eq!(failed.code, Some(1), "{}", failed.printed());
    assert!(failed.stdout.contains(&format!("\n{one_url}\n  reachable       yes")), "{}", failed.stdout);
    let errors: Vec<&str> = failed.stderr.lines().collect();
    let [of_feed, of_receiver] = errors[..] else { panic!("not two errors: {}", failed.stderr) };
    assert!(of_feed.starts_with(&format!("error: the feed {nobody_url}: ")), "{of_feed}");
    assert!(of_receiver.starts_with("error: the receiver 127.0.0.1:1/: "), "{of_receiver}");
}

/// The names of an object's fields, those of objects in it behind a dot, of the first of a list behind `[]`.
fn shape(value: &Value) -> BTreeSet<String> {
    fn collect(value: &Value, name: &str, names: &mut BTreeSet<String>) {
        match value {
            // Its keys are values, not names.
            Value::Object(_) if name.ends_with("messages") => drop(names.insert(name.to_owned())),
            Value::Object(fields) => {
                let separator = if name.is_empty() { "" } else { "." };
                fields.iter().for_each(|(field, value)| collect(value, &format!("{name}{separator}{field}"), names));
            }
            Value::Array(list) if list.first().is_some_and(Value::is_object) => {
                collect(&list[0], &format!("{name}[]"), names);
            }
            _ => drop(names.insert(name.to_owned())),
        }
    }
    let mut names = BTreeSet::new();
    collect(value, "", &mut names);
    names
}

/// The fields in the table of `heading` in the reference.
fn documented(heading: &str) -> BTreeSet<String> {
    let (_, section) = include_str!("../../docs/reference/commands.md")
        .split_once(&format!("\n## {heading}\n"))
        .unwrap_or_else(|| panic!("no section {heading}"));
    let section = section.split_once("\n## ").map_or(section, |(section, _)| section);
    let cells = section.lines().filter_map(|line| line.strip_prefix("| `")?.split(" |").next());
    cells.flat_map(|cell| cell.split(", ")).map(|name| name.trim_matches('`').to_owned()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_json_of_a_check_has_the_documented_fields() {
    let (feed, store) = (feed(), receiver().await);
    let (feed_url, store_url) = (feed.url().to_string(), store.url().to_string());
    let named = ["--feed.name", "one", "--push.name", "store", "--json"];
    let arguments = [&["--feed.url", &feed_url, "--push.url", &store_url], &named[..]].concat();
    let Ended { code, stdout, stderr } = check(&arguments).await;
    assert_eq!((code, stderr.as_str()), (Some(0), ""), "{stdout}");
    let report: Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!(shape(&report), documented("JSON of check"));
    assert_eq!(report["is_valid"], true);
    let entry = &report["feeds"][0];
    assert_eq!((&entry["feed"], &entry["problem"]), (&json!("one"), &Value::Null));
    assert_eq!(entry["connection"]["authentication"], "not_required");
    assert_eq!(entry["connection"]["messages"]["metrics_update"], 5);
    assert_eq!((&entry["connection"]["skills_listed"], &entry["connection"]["notices"]), (&json!(1), &json!([])));
    let entry = &report["receivers"][0];
    assert_eq!((&entry["receiver"], &entry["response"]["status"]), (&json!("store"), &json!(204)));
    assert_eq!(entry["response"]["remote_write"], "verified");

    let unconnected: Value =
        serde_json::from_str(&check(&[&["--offline"], &arguments[..]].concat()).await.stdout).unwrap();
    assert_eq!((&unconnected["is_valid"], &unconnected["feeds"][0]["connection"]), (&json!(true), &Value::Null));
    assert_eq!(unconnected["receivers"][0]["response"], Value::Null);

    let nobody = Reserved::new();
    let failed = check(&["--json", "--feed.url", nobody.url().as_str()]).await;
    let report: Value = serde_json::from_str(&failed.stdout).unwrap();
    assert_eq!((failed.code, &report["is_valid"], &report["problem"]), (Some(1), &json!(false), &Value::Null));
    assert!(report["feeds"][0]["problem"].as_str().unwrap().contains("cannot connect to"), "{report}");
    assert!(failed.stderr.starts_with("error: the feed "), "{}", failed.stderr);

    let refused = check(&["--json", "http://alpha:8765"]).await;
    let report: Value = serde_json::from_str(&refused.stdout).unwrap();
    assert_eq!((refused.code, &report["is_valid"], &report["feeds"]), (Some(2), &json!(false), &json!([])));
    assert!(report["problem"].as_str().unwrap().contains("did you mean \"ws://alpha:8765/\""), "{report}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_json_of_a_state_file_has_the_documented_fields_and_the_numbers_of_the_text() {
    use rustix::process::Signal;

    let folder = tempfile::tempdir().unwrap();
    let state = folder.path().join("state.db");
    let (feed, store) = (feed(), receiver().await);
    let (feed_url, store_url) = (feed.url().to_string(), store.url().to_string());
    let mut bridge = Program::start([
        "--state.path",
        text_of(&state),
        "--feed.url",
        &feed_url,
        "--feed.name=one",
        "--push.url",
        &store_url,
        "--push.interval=5s",
        "--web.listen-address=127.0.0.1:0",
    ]);
    let show = |arguments: &[&str]| {
        let Ended { code, stdout, stderr } =
            Program::start(["state", "show", "--state.path", text_of(&state)].iter().chain(arguments).copied()).end();
        assert_eq!((code, stderr.as_str()), (Some(0), ""), "{stdout}");
        stdout
    };
    bridge.until_stderr("a live feed", |log| log.contains("msg=live"));
    // The bridge runs meanwhile.
    eventually("the feed's counts and the receiver", || {
        let summary: Value = serde_json::from_str(&show(&["--json"])).unwrap();
        let is_counted = summary["feeds"][0]["source"]["invocations"] == 8;
        holds(is_counted && summary["remote_write"]["receivers"][0].is_object(), summary)
    });
    bridge.signal(Signal::TERM);
    assert_eq!(spawn_blocking(|| bridge.end().code).await.unwrap(), Some(0));
    let (text, json) = (show(&[]), show(&["--json"]));
    let summary: Value = serde_json::from_str(&json).unwrap();
    assert_eq!(shape(&summary), documented("JSON of state show"));
    let shown = &summary["feeds"][0];
    assert_eq!(
        (&shown["feed"], &shown["role"], &shown["is_configured"]),
        (&json!("one"), &json!("active"), &json!(true))
    );
    assert_eq!((&shown["source"]["skills"], &shown["source"]["invocations"]), (&json!(1), &json!(8)));
    assert_eq!(summary["sources_without_feed"], json!([]));
    for (line, value) in [
        ("skills remembered", &shown["source"]["skills"]),
        ("invocations remembered", &shown["source"]["invocations"]),
        ("database resets", &shown["database_resets"]),
        ("series", &summary["remote_write"]["series"]),
    ] {
        let line = format!("  {line:<24} {value}");
        assert!(text.lines().any(|printed| printed == line), "{line:?} is not in:\n{text}");
    }

    let absent = Program::start(["state", "show", "--json", "--state.path", "/nowhere/state.db"]).end();
    assert_eq!((absent.code, absent.stdout.as_str()), (Some(1), ""));
    assert!(absent.stderr.starts_with("error: "), "{}", absent.stderr);
}
