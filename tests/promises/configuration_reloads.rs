//! The configuration file is read again as asked: whole or not at all, and feeds that it leaves as they are notice nothing.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use crate::support::http_client;
use crate::support::model::{Database, Invocation, SECOND};
use crate::support::program::{Ended, Program};
use crate::support::scrape::Scrape;
use crate::support::scripted_feed::{Clock, Gate, ScriptedFeed, Step, Visit};
use crate::support::{PATIENCE, equal, eventually};
use rustix::process::Signal;

const SUCCESSFUL: &str = "session_buddy_bridge_config_last_reload_successful";
const SUCCEEDED_AT: &str = "session_buddy_bridge_config_last_reload_success_timestamp_seconds";

struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self) -> PathBuf {
        self.0.path().join("bridge.yml")
    }

    fn write(&self, text: &str) {
        fs::write(self.path(), text).unwrap();
    }

    fn start(&self) -> Program {
        let (file, state) = (self.path().display().to_string(), self.0.path().join("state.db").display().to_string());
        Program::start(["--config.file", &file, "--state.path", &state, "--web.listen-address", "127.0.0.1:0"])
    }
}

/// A server with so many invocations of a skill, told again and again with other times.
fn server(skill_name: &str, invocations: usize, offset: i64) -> ScriptedFeed {
    let database = database(skill_name, invocations);
    let rounds = (0..10_000_i64)
        .flat_map(move |round| [Step::send(database.snapshot(offset + round)), Step::Pause(Duration::from_millis(20))]);
    ScriptedFeed::start(vec![rounds.collect()])
}

fn database(skill_name: &str, invocations: usize) -> Database {
    let mut database = Database::default();
    for _ in 0..invocations {
        database.invocations.push(Invocation {
            skill_name: skill_name.to_owned(),
            workflow_phase: None,
            completed: true,
            duration_seconds: Some(1.0),
        });
    }
    database
}

fn feeds(urls: &[(&str, &ScriptedFeed)]) -> String {
    let entries = urls.iter().map(|(name, feed)| format!("  - {{name: {name}, url: \"{}\"}}\n", feed.url()));
    format!("feeds:\n{}", entries.collect::<String>())
}

fn scrape(program: &mut Program) -> Scrape {
    Scrape::parse(http_client::get(program.address(), "/metrics").text()).unwrap()
}

fn until<T: PartialEq + std::fmt::Debug>(program: &mut Program, what: &str, expected: &T, look: impl Fn(&Scrape) -> T) {
    eventually(what, || equal(&look(&scrape(program)), expected));
}

fn up(scrape: &Scrape) -> Vec<(String, f64)> {
    let series = scrape.series("session_buddy_bridge_feed_up");
    series.into_iter().map(|(labels, value)| (labels["feed"].clone(), value)).collect()
}

fn counts(scrape: &Scrape) -> (f64, usize) {
    (scrape.sum("skill_invocations_total"), scrape.series("skill_completion_rate").len())
}

fn live(names: &[&str]) -> Vec<(String, f64)> {
    names.iter().map(|name| ((*name).to_owned(), 1.0)).collect()
}

fn connections(feed: &ScriptedFeed) -> Vec<Visit> {
    feed.visits()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn feeds_join_leave_and_change_and_the_others_notice_nothing() {
    let (a, b, c) = (server("a", 3, 0), server("b", 5, 100_000), server("c", 7, 200_000));
    let folder = Folder::new();
    folder.write(&feeds(&[("one", &a), ("two", &b)]));
    let mut program = folder.start();
    until(&mut program, "both", &live(&["one", "two"]), up);
    until(&mut program, "their counts", &(8.0, 2), counts);

    folder.write(&feeds(&[("one", &a), ("three", &c)]));
    program.signal(Signal::HUP);
    until(&mut program, "one to leave and one to join", &live(&["one", "three"]), up);
    // What left keeps its counts and leaves the gauges.
    until(&mut program, "their counts", &(15.0, 2), counts);
    let shown = scrape(&mut program);
    assert_eq!(shown.series("session_buddy_bridge_feed_resets_total").len(), 2);
    assert_eq!(shown.value(SUCCESSFUL, &[]), Some(1.0));

    folder.write(&feeds(&[("two", &b), ("one", &a), ("three", &c)]));
    program.signal(Signal::HUP);
    until(&mut program, "it to come back", &live(&["one", "three", "two"]), up);
    until(&mut program, "what was counted to stay counted", &(15.0, 3), counts);

    // By another way to the same server: connected anew, and counted on.
    folder.write(&feeds(&[("two", &b), ("one", &a), ("three", &c)]).replace("/\"}\n", "/?again=1\"}\n"));
    assert!(fs::read_to_string(folder.path()).unwrap().contains("again"));
    program.signal(Signal::HUP);
    eventually("the second connection", || match connections(&c).len() {
        2 => Ok(()),
        other => Err(format!("{other} connections")),
    });
    until(&mut program, "all of them", &live(&["one", "three", "two"]), up);
    until(&mut program, "what was counted to stay counted", &(15.0, 3), counts);
    assert_eq!(connections(&a).len(), 2, "it was disturbed by the last change alone");

    program.signal(Signal::TERM);
    assert_eq!(program.end_within(PATIENCE).code, Some(0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_file_that_cannot_be_used_or_names_no_feed_any_more_changes_nothing() {
    let (a, b) = (server("a", 3, 0), server("b", 5, 100_000));
    let wrongs = [
        ("feeds: [".to_owned(), "bridge.yml"),
        (feeds(&[("one", &b), ("one", &a)]), "two feeds have the identity"),
        (feeds(&[("two", &b)]) + "  - {url: \"http://localhost\"}\n", "http://localhost"),
        (feeds(&[("two", &b)]) + "limits: {skills: 0}\n", r#"limits.skills \"0\": give a whole number"#),
        // What a copy, an editor or a full disk leaves.
        (String::new(), "the file is empty; to configure nothing, write {}"),
        ("# the feeds of this machine\n".to_owned(), "the file is empty"),
        ("limits: {skills: 10}\n".to_owned(), "there are no more feeds"),
        ("feeds: []\n".to_owned(), "there are no more feeds"),
    ];
    // Each beside the others: a reload takes a second.
    std::thread::scope(|scope| {
        for (wrong, reason) in &wrongs {
            scope.spawn(|| wrong_changes_nothing(&a, wrong, reason));
        }
    });
    assert_eq!((connections(&a).len(), connections(&b).len()), (wrongs.len(), 0));
}

fn wrong_changes_nothing(feed: &ScriptedFeed, wrong: &str, reason: &str) {
    let folder = Folder::new();
    folder.write(&feeds(&[("one", feed)]));
    let mut program = folder.start();
    until(&mut program, "it", &live(&["one"]), up);
    let started = scrape(&mut program).value(SUCCEEDED_AT, &[]).unwrap();
    folder.write(wrong);
    program.signal(Signal::HUP);
    until(&mut program, wrong, &Some(0.0), |scrape| scrape.value(SUCCESSFUL, &[]));
    let shown = scrape(&mut program);
    assert_eq!(up(&shown), live(&["one"]), "{wrong}");
    assert_eq!(shown.value(SUCCEEDED_AT, &[]), Some(started), "{wrong}");
    folder.write(&feeds(&[("one", feed)]));
    program.signal(Signal::HUP);
    until(&mut program, "a good one", &Some(1.0), |scrape| scrape.value(SUCCESSFUL, &[]));
    assert!(scrape(&mut program).value(SUCCEEDED_AT, &[]) > Some(started), "{wrong}");
    program.signal(Signal::TERM);
    let ended = program.end_within(PATIENCE);
    assert_eq!(ended.code, Some(0));
    let failure = ended.stderr.lines().find(|line| line.contains("configuration reload failed")).unwrap_or_default();
    assert!(failure.contains(reason), "{wrong}: {}", ended.stderr);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn where_the_first_of_two_addresses_of_one_server_leaves_the_other_goes_on() {
    let invocations = Arc::new(AtomicUsize::new(3));
    let listed = Arc::clone(&invocations);
    // Rounds reach both connections with one timestamp. It has a fraction of a second: a whole one is no evidence.
    let snapshot = move |round: u64| database("a", listed.load(Ordering::SeqCst)).snapshot(round as i64 * SECOND + 1);
    let rounds = Step::Clocked(Gate::default(), Clock::new(Duration::from_millis(300)), Box::new(snapshot));
    let server = ScriptedFeed::start(vec![vec![rounds]]);
    let mut by_name = server.url();
    by_name.set_host(Some("localhost")).unwrap();
    let entry = |name: &str, url: &str| format!("  - {{name: {name}, url: \"{url}\"}}\n");
    let both = entry("one", server.url().as_str()) + &entry("two", by_name.as_str());
    let folder = Folder::new();
    folder.write(&format!("feeds:\n{both}"));
    let mut program = folder.start();
    program.until_stderr("the alias", |log| log.contains("feed is on standby"));
    until(&mut program, "one of them to count", &(3.0, 1), counts);

    folder.write(&format!("feeds:\n{}", entry("two", by_name.as_str())));
    program.signal(Signal::HUP);
    until(&mut program, "the other alone", &live(&["two"]), up);
    invocations.store(5, Ordering::SeqCst);
    until(&mut program, "it to count on", &(5.0, 1), counts);
    assert_eq!(connections(&server).len(), 2, "it was not disturbed");
    let shown = scrape(&mut program);
    let resets = shown.series("session_buddy_bridge_feed_resets_total");
    assert_eq!(resets.keys().map(|labels| labels["feed"].as_str()).collect::<Vec<_>>(), ["two"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn without_a_file_a_hangup_ends_nothing() {
    let a = server("a", 3, 0);
    let url = a.url().to_string();
    let mut program = Program::start(["--feed.url", &url, "--state.disabled", "--web.listen-address", "127.0.0.1:0"]);
    until(&mut program, "its counts", &(3.0, 1), counts);
    program.signal(Signal::HUP);
    program.until_stderr("a word on it", |log| log.contains("reload ignored; there is no --config.file to reload"));
    until(&mut program, "its counts", &(3.0, 1), counts);
}

/// Replaces the configuration as an editor, `mv` or a Kubernetes ConfigMap does.
type Replace = fn(&Folder, &str);

fn write_in_place(folder: &Folder, text: &str) {
    folder.write(text);
}

fn rename_over(folder: &Folder, text: &str) {
    let new = folder.0.path().join("new");
    fs::write(&new, text).unwrap();
    fs::rename(&new, folder.path()).unwrap();
}

/// The file is a link through the link `..data` to a folder, and `..data` is swapped.
fn swap_link(folder: &Folder, text: &str) {
    let place = folder.0.path();
    let (version, data) = (tempfile::tempdir_in(place).unwrap().keep(), place.join("..data"));
    fs::write(version.join("bridge.yml"), text).unwrap();
    let new = place.join("..data_tmp");
    symlink(&version, &new).unwrap();
    fs::rename(&new, &data).unwrap();
    if !folder.path().is_symlink() {
        let new = place.join("link");
        symlink("..data/bridge.yml", &new).unwrap();
        fs::rename(&new, folder.path()).unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_file_that_changes_is_reloaded_by_itself_however_it_is_replaced() {
    let (a, b) = (server("a", 3, 0), server("b", 5, 100_000));
    // Each beside the others: a reload takes a second or two.
    std::thread::scope(|scope| {
        for replace in [write_in_place as Replace, rename_over, swap_link] {
            let (a, b) = (&a, &b);
            scope.spawn(move || {
                let folder = Folder::new();
                replace(&folder, &feeds(&[("one", a)]));
                let mut program = folder.start();
                until(&mut program, "it", &live(&["one"]), up);
                replace(&folder, &feeds(&[("one", a), ("two", b)]));
                until(&mut program, "the other to join", &live(&["one", "two"]), up);
                replace(&folder, "feeds: [");
                until(&mut program, "a failure", &Some(0.0), |scrape| scrape.value(SUCCESSFUL, &[]));
                assert_eq!(up(&scrape(&mut program)), live(&["one", "two"]), "nothing has changed");
                replace(&folder, &feeds(&[("two", b)]));
                until(&mut program, "one to leave", &live(&["two"]), up);
                replace(&folder, &feeds(&[("two", b), ("one", a)]));
                until(&mut program, "one to come back", &live(&["one", "two"]), up);
                assert_eq!(scrape(&mut program).value(SUCCESSFUL, &[]), Some(1.0));
                program.signal(Signal::TERM);
                let log = program.end_within(PATIENCE).stderr;
                let times = |message: &str| log.lines().filter(|line| line.contains(message)).count();
                assert_eq!((times("configuration reloaded"), times("configuration reload failed")), (3, 1), "{log}");
            });
        }
    });
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_file_whose_credentials_come_later_is_reloaded_when_they_have() {
    let a = server("a", 3, 0);
    let folder = Folder::new();
    folder.write(&feeds(&[("one", &a)]));
    let mut program = folder.start();
    until(&mut program, "it", &live(&["one"]), up);
    folder.write(&feeds(&[("renamed", &a)]).replace('}', ", token_file: token}"));
    until(&mut program, "a failure", &Some(0.0), |scrape| scrape.value(SUCCESSFUL, &[]));
    fs::write(folder.0.path().join("token"), "t").unwrap();
    until(&mut program, "the new name", &live(&["renamed"]), up);
    assert_eq!(scrape(&mut program).value(SUCCESSFUL, &[]), Some(1.0));
}

fn run(arguments: &[&str]) -> (Option<i32>, String, String) {
    let Ended { code, stdout, stderr } = Program::start(arguments.iter().copied()).end();
    (code, stdout, stderr)
}

#[test]
fn a_check_says_whether_a_file_can_be_used_and_what_is_wrong_by_the_names_of_its_fields() {
    let folder = Folder::new();
    fs::write(folder.0.path().join("token"), "t").unwrap();
    folder.write("feeds:\n  - {url: \"ws://a:1\", token_file: token}\n  - {url: \"ws://b:1\", name: two, skill: s}\n");
    let file = folder.path().display().to_string();
    let (code, said, _) = run(&["--config.check", "--config.file", &file]);
    assert_eq!((code, said), (Some(0), format!("{file} is valid. Feeds:\n  ws://a:1/\n  two\n")));

    for (text, words) in [
        ("", "the file is empty; to configure nothing, write {}"),
        ("feedz: []", "feedz"),
        ("feeds: [{name: x}]", "url"),
        ("feeds: [{url: \"localhost:1\"}]", "feed \"localhost:1\": url \"localhost:1\" does not start with ws://"),
        ("feeds: [{url: \"ws://a:1\", token_file: gone}]", "token_file"),
        ("feeds: [{url: \"ws://a:1\", ca_file: token}]", "ca_file"),
        ("feeds: [{url: \"wss://a:1\", cert_file: token}]", "key_file"),
        ("feeds: [{url: \"ws://a:1\", skills_db: x}, {url: \"ws://b:1\", skills_db: x}]", "skills_db"),
        ("feeds: [{url: \"ws://a:1\"}, {url: \"ws://a:1\"}]", "two feeds have the identity"),
        ("feeds: ws://a:1", "a list is expected here, each entry after a `-` at line 1"),
        ("feeds: [ws://a:1]", "fields are expected here"),
        ("feeds: [{url: \"ws://a:1\", url: \"ws://b:1\"}]", "the field `url` is set twice"),
        ("feeds: [{url: \"ws://a:1\", skills_db: gone.db}]", "feed \"ws://a:1/\": there is no database at"),
        ("feeds: [{url: \"ws://a:1\", skills_db: .}]", "is not a file"),
        ("feeds: [{url: \"ws://a:1\", skills_db: token}]", "has no table skill_invocation"),
        ("feeds: [{url: \"ws://a:1\", skills_db: ~/skills.db}]", "skills_db \"~/skills.db\" starts with ~"),
        ("feeds: [{url: \"ws://a:1\", token_file: ~/token}]", "token_file \"~/token\" starts with ~"),
        ("feeds: [{url: \"ws://a:1\", name: a-long-name-for-16}]\nlimits: {label_chars: 16}", "limits.label_chars"),
        ("limits: {skills: 0}", "limits.skills \"0\": give a whole number from 1 to 1000000"),
        ("limits: {skills: ten}", "limits.skills \"ten\": give a whole number from 1 to 1000000"),
        ("limits: {series: -1}", "limits.series \"-1\": give a whole number from 1000 to 100000000"),
        ("limits: {skills: [1]}", "a single value is expected here"),
        ("limits: {skills: 10, remembered_skills: 5}", "limits.remembered_skills"),
        ("limits: {max_frame_bytes: 1}", "limits.max_frame_bytes \"1\": give a whole number from 1024 to 67108864"),
    ] {
        folder.write(text);
        let (code, _, refusal) = run(&["--config.check", "--config.file", &file]);
        assert_eq!(code, Some(2), "{text}");
        assert!(refusal.contains(&file) && refusal.contains(words), "{text}\n{refusal}");
        assert!(!refusal.contains("--feed.") && !refusal.contains("--limit."), "{text}\n{refusal}");
    }
    folder.write("feeds: [{url: \"ws://a:1\"}]");
    let (code, _, refusal) = run(&["--config.check", "--config.file", &file, "--feed.url", "ws://b:1"]);
    assert!(code == Some(2) && refusal.contains("--feed.url was given beside --config.file"), "{refusal}");
    let (code, _, refusal) = run(&["--config.check"]);
    assert!(code == Some(2) && refusal.contains("--config.check needs --config.file"), "{refusal}");
}
