//! What a state promises whoever starts a bridge on it: it comes back whole, it is one bridge's alone, and nothing that
//! cannot be read is lost.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

use rusqlite::hooks::{AuthContext, Authorization};
use rusqlite::{Connection, OptionalExtension as _};
use session_buddy_bridge::internals::ledger::records::Records;
use session_buddy_bridge::internals::ledger::{
    Changes, FeedSpec, Ledger, LedgerState, Limits, Now, SkillSeries, SourceId,
};
use session_buddy_bridge::internals::protocol;
use session_buddy_bridge::internals::store::{Opened, Quarantine, Store, StoreError};
use std::time::Duration;
use tempfile::TempDir;

use crate::support::journal::filler;

fn folder() -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("deeper/state.db");
    (folder, path)
}

fn open(path: &Path) -> Result<Opened<LedgerState>, StoreError> {
    Store::open(path, LedgerState::validated)
}

/// A ledger that has met every kind of thing that is kept.
fn lively(ledger: &mut Ledger) {
    let feed = ledger.add_feed(FeedSpec { identity: "ws://a:1/".to_owned(), ..FeedSpec::default() });
    let connection = ledger.open(feed, Now::default());
    let mut at = Duration::ZERO;
    let mut hear = |text: &str| {
        at += Duration::from_secs(1);
        protocol::read(text, &protocol::Limits::default(), &mut |message| {
            ledger.apply(connection, &message.unwrap(), Now::at(at), &mut Vec::new());
        });
    };
    hear(
        r#"{"type":"metrics_update","timestamp":"2026-11-22T10:24:23.585602+00:00","data":{"top_skills":[
            {"skill_name":"a\"b","total_invocations":7,"completion_rate":28.571428571428573,"avg_duration_seconds":0.1}],
            "anomalies":[{"skill_name":"a\"b","anomaly_type":"drop","detected_at":"2026-11-22 10:24:23","deviation_score":2.5},
                         {"skill_name":"other","anomaly_type":"spike","detected_at":null,"deviation_score":null}]}}"#,
    );
    hear(
        r#"[{"type":"event","event":"skill.invoked","id":"1","timestamp":"2026-11-22T10:24:24+00:00",
             "data":{"skill_name":"a\"b","workflow_phase":"setup","completed":true,"duration_seconds":0.3}},
            {"type":"skill_invocation","id":"2","data":{"skill_name":"streamed","completed":false,"duration_seconds":1e-300}},
            {"type":"completion_rate","data":{"skill_name":"rated","rate":0.1}},
            {"type":"event","event":"session.created","data":{"session_id":"s"}},
            {"type":"active_sessions","data":{"count":4}},
            {"type":"event","event":"session.created","data":{"session_id":"t"}},
            {"type":"anomaly","data":{"skill_name":"x","anomaly_type":"drop"}}]"#,
    );
    hear(
        r#"{"type":"metrics_update","timestamp":"2026-11-22T10:24:25.585602+00:00","data":{"top_skills":[
            {"skill_name":"a\"b","total_invocations":9,"completion_rate":33.33333333333333,"avg_duration_seconds":0.2},
            {"skill_name":"inexact","total_invocations":97,"completion_rate":33.3,"avg_duration_seconds":0.2}],
            "anomalies":[]}}"#,
    );
}

fn sorted(mut whole: LedgerState) -> LedgerState {
    let Records { feeds, skills, histories, tallies, anomalies, event_ids, sessions, .. } = &mut whole.memory;
    feeds.sort_by_key(|row| row.slot);
    skills.sort_by_key(|row| row.skill_name.clone());
    histories.sort_by_key(|row| row.skill_name.clone());
    tallies.sort_by_key(|row| (row.skill_name.clone(), row.anomaly_type.clone()));
    anomalies.sort_by_key(|(key, _)| (key.skill_name.clone(), key.detected_at.clone()));
    event_ids.sort_by_key(|row| row.sequence);
    sessions.sort_by_key(|(_, id, _)| id.clone());
    whole.skills.sort_by_key(|row| row.index);
    whole
}

#[test]
fn what_would_be_refused_at_the_next_start_is_not_written() {
    let (_folder, path) = folder();
    let mut opened = open(&path).unwrap();
    let mut ledger = Ledger::restore(Limits::default(), opened.restored, Now::default()).unwrap();
    lively(&mut ledger);
    let sound = ledger.drain(Now::at(Duration::from_secs(4)));
    opened.store.commit(&sound).unwrap();
    let mut impossible = sound.clone();
    impossible.skills[0].series.phases[0].completed = u64::MAX >> 1;
    assert!(matches!(opened.store.commit(&impossible), Err(StoreError::Impossible { .. })));
    drop(opened.store);
    assert_eq!(sorted(open(&path).unwrap().restored), sorted(as_whole(sound)));
}

/// A page is written whole for the sake of its few bytes that changed, so that pages are small.
#[test]
fn a_commit_of_one_invocation_writes_few_bytes() {
    let (_folder, path) = folder();
    let mut opened = open(&path).unwrap();
    let mut ledger = Ledger::restore(Limits::default(), opened.restored, Now::default()).unwrap();
    lively(&mut ledger);
    opened.store.commit(&ledger.drain(Now::at(Duration::from_secs(4)))).unwrap();
    ledger.tick(Now::at(Duration::from_secs(20)), &mut Vec::new());
    let changes = ledger.drain(Now::at(Duration::from_secs(20)));
    assert!(!changes.skills.is_empty());
    let log = path.with_extension("db-wal");
    let before = fs::metadata(&log).unwrap().len();
    opened.store.commit(&changes).unwrap();
    let written = fs::metadata(&log).unwrap().len() - before;
    assert!((1..=2 * 1048).contains(&written), "{written} bytes");
}

/// Returns the tables and indexes whose pages the log holds from the offset `begin` on. Each of them has a single page but for the
/// journal.
fn written_since(begin: u64, path: &Path) -> BTreeSet<String> {
    const PAGE_BYTES: usize = 1024;
    const FRAME_HEADER_BYTES: usize = 24;
    let log = fs::read(path.with_extension("db-wal")).unwrap();
    let frames = log[usize::try_from(begin).unwrap()..].chunks(FRAME_HEADER_BYTES + PAGE_BYTES);
    let pages: Vec<_> = frames.map(|frame| u32::from_be_bytes(frame[..4].try_into().unwrap())).collect();
    let connection = Connection::open(path).unwrap();
    let mut name = connection.prepare("SELECT name FROM sqlite_schema WHERE rootpage = ?").unwrap();
    let mut name = |page| name.query_row([page], |row| row.get(0)).optional().unwrap();
    pages.iter().map(|page| name(page).unwrap_or_else(|| "journal".to_owned())).collect()
}

/// What did not change costs nothing: neither counters, nor the index of the skills' names, nor anomalies that are listed again.
#[test]
fn a_commit_of_one_snapshot_changes_only_tables_that_changed() {
    let (_folder, path) = folder();
    let mut opened = open(&path).unwrap();
    let mut ledger = Ledger::restore(Limits::default(), opened.restored, Now::default()).unwrap();
    let feed = ledger.add_feed(FeedSpec { identity: "ws://a:1/".to_owned(), ..FeedSpec::default() });
    let connection = ledger.open(feed, Now::default());
    let mut receive = |second: u64, invocations: u64| {
        let skill = |name: &str, total: u64| {
            format!(
                r#"{{"skill_name":"{name}","total_invocations":{total},"completion_rate":100.0,"avg_duration_seconds":2.0}}"#
            )
        };
        let text = format!(
            r#"{{"type":"metrics_update","timestamp":"2026-11-22T10:24:{second:02}+00:00","data":{{"top_skills":[{}, {}],
                "anomalies":[{{"skill_name":"a","anomaly_type":"drop","detected_at":"2026-11-22 10:20:00","deviation_score":2.5}}]}}}}"#,
            skill("a", invocations),
            skill("b", 3)
        );
        let now = Now::at(Duration::from_secs(second));
        protocol::read(&text, &protocol::Limits::default(), &mut |message| {
            ledger.apply(connection, &message.unwrap(), now, &mut Vec::new());
        });
        ledger.tick(now, &mut Vec::new());
        let changes = ledger.drain(now);
        ledger.acknowledge(changes.sequence);
        changes
    };
    for second in 1..=20 {
        opened.store.commit(&receive(second, 7 + second)).unwrap();
    }
    // A reader, without whom the log would end with the store.
    let reader = Connection::open(&path).unwrap();
    assert_eq!(reader.query_row("SELECT count(*) FROM journal", [], |row| row.get(0)), Ok(64));
    opened.store.close().unwrap();
    let mut opened = open(&path).unwrap();
    let length = || fs::metadata(path.with_extension("db-wal")).unwrap().len();
    let (before, changes) = (length(), receive(21, 28));
    opened.store.commit(&changes).unwrap();
    assert_eq!(written_since(before, &path), ["journal".to_owned()].into());
    let journaled = length();
    opened.store.close().unwrap();
    let expected = ["counter", "journal", "listing_history", "phase", "skill", "source", "source_skill"];
    assert_eq!(written_since(journaled, &path), expected.map(str::to_owned).into());
}

/// Every statement is authorized when it is prepared, and only then.
#[test]
fn a_commit_prepares_no_statement_again() {
    let (folder, path) = folder();
    let fixture = folder.path().join("fixture.db");
    fs::copy(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/states/1.db"), &fixture).unwrap();
    let LedgerState { skills, rules, memory } = Store::look(&fixture).unwrap();
    let last_listed = skills.iter().map(|row| (row.index, 1)).collect();
    let everything = Changes { skills, last_listed, rules, memory, ..Changes::default() };

    fs::create_dir_all(path.parent().unwrap()).unwrap();
    let connection = Connection::open(&path).unwrap();
    let authorized = Arc::new(AtomicU64::new(0));
    let count = Arc::clone(&authorized);
    let authorize = move |_: AuthContext<'_>| {
        count.fetch_add(1, Ordering::Relaxed);
        Authorization::Allow
    };
    connection.authorizer(Some(authorize)).unwrap();
    let (mut store, _) = Store::on(connection, &path, Ok).unwrap();
    let few = Changes { rules, ..Changes::default() };
    let mut commit_all = || {
        // Journaled, and then applied before what does not fit.
        store.commit(&filler(rules, 1)).unwrap();
        store.commit(&few).unwrap();
        let mut large = everything.clone();
        large.memory.anomalies.extend(filler(rules, 63 * 1024).memory.anomalies);
        store.commit(&large).unwrap();
    };
    commit_all();
    let before = authorized.swap(0, Ordering::Relaxed);
    assert!(before > 100, "only {before} authorizations: the hook is not called");
    commit_all();
    assert_eq!(authorized.load(Ordering::Relaxed), 0);
}

fn as_whole(changes: Changes) -> LedgerState {
    let mut whole = LedgerState::default();
    whole.fold(&changes);
    whole
}

#[test]
fn everything_comes_back() {
    let (_folder, path) = folder();
    let mut opened = open(&path).unwrap();
    let mut ledger = Ledger::restore(Limits::default(), opened.restored, Now::default()).unwrap();
    lively(&mut ledger);
    let changes = ledger.drain(Now::at(Duration::from_secs(4)));
    assert!(!changes.skills.is_empty() && !changes.memory.anomalies.is_empty() && !changes.memory.sessions.is_empty());
    assert_eq!(changes.memory.event_ids.len(), 2);
    opened.store.commit(&changes).unwrap();
    drop(opened.store);

    let again = open(&path).unwrap();
    assert_eq!(again.quarantined, None);
    assert_eq!(sorted(again.restored), sorted(as_whole(changes)));
}

/// History began to count before anybody watched; what came to be under watch was born then, and stays so.
#[test]
fn series_keep_their_time_of_birth() {
    let (_folder, path) = folder();
    let mut ledger = Ledger::restore(Limits::default(), open(&path).unwrap().restored, Now::default()).unwrap();
    lively(&mut ledger);
    open(&path).unwrap().store.commit(&ledger.drain(Now::at(Duration::from_secs(9)))).unwrap();
    let skills = open(&path).unwrap().restored.skills.into_iter();
    let born = skills.flat_map(|row| {
        let SkillSeries { skill_name, phases, anomalies, .. } = row.series;
        let phases = phases.into_iter().map(|series| (series.workflow_phase, series.born_micros));
        let anomalies = anomalies.into_iter().map(|series| (series.anomaly_type, series.born_micros));
        phases.chain(anomalies).map(|(label, born)| format!("{skill_name} {label} {born:?}")).collect::<Vec<_>>()
    });
    let born: Vec<_> = born.collect();
    let born = BTreeSet::from_iter(born.iter().map(String::as_str));
    let expected = [
        "a\"b drop None",
        "a\"b unknown None",
        "inexact unknown Some(3000000)",
        "other spike None",
        "streamed unknown Some(2000000)",
        "x drop Some(2000000)",
    ];
    let setup = "a\"b setup Some(3000000)";
    assert_eq!(born, expected.into_iter().chain([setup]).collect());
}

/// A child process has all open files of its parent until it executes its program.
#[test]
fn a_state_that_was_closed_can_be_opened_while_another_thread_starts_programs() {
    let (_folder, path) = folder();
    let is_over = AtomicBool::new(false);
    thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while !is_over.load(Ordering::Relaxed) {
                    Command::new("true").status().unwrap();
                }
            });
        }
        let reopened = (0..200).map(|_| Store::open(&path, |_| Ok(())).map(drop)).collect::<Result<Vec<_>, _>>();
        is_over.store(true, Ordering::Relaxed);
        reopened.unwrap();
    });
}

#[test]
fn a_second_bridge_is_kept_out_and_told_why() {
    let (_folder, path) = folder();
    let first = open(&path).unwrap();
    let error = open(&path).unwrap_err();
    assert!(matches!(&error, StoreError::InUse { holder, .. } if *holder == Some(std::process::id())), "{error}");
    assert!(error.to_string().contains("--state.path"), "{error}");
    // Whoever reads along is not kept out.
    let reader = Connection::open(&path).unwrap();
    assert_eq!(reader.query_row("SELECT count(*) FROM skill", [], |row| row.get(0)), Ok(0));
    assert_eq!(Store::look(&path).unwrap(), LedgerState::default());
    drop(first);
    open(&path).unwrap();
}

#[test]
fn a_newer_version_is_refused_with_both_versions_and_left_alone() {
    let (_folder, path) = folder();
    drop(open(&path).unwrap());
    Connection::open(&path).unwrap().execute_batch("PRAGMA user_version = 1000").unwrap();
    let before = fs::read(&path).unwrap();
    let error = open(&path).unwrap_err();
    let StoreError::Newer { found: 1000, known, .. } = error else { panic!("{error}") };
    let message = error.to_string();
    assert!(message.contains("version 1000") && message.contains(&format!("up to {known}")), "{message}");
    assert_eq!(fs::read(&path).unwrap(), before);
}

#[test]
fn another_programs_database_is_refused_and_left_alone() {
    let (_folder, path) = folder();
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    Connection::open(&path).unwrap().execute_batch("CREATE TABLE theirs (x)").unwrap();
    let before = fs::read(&path).unwrap();
    let error = open(&path).unwrap_err();
    assert!(matches!(error, StoreError::Foreign { .. }), "{error}");
    assert_eq!(fs::read(&path).unwrap(), before);
}

#[test]
fn what_is_corrupt_is_moved_aside_and_counting_begins_anew() {
    type Damage = fn(&Path);
    let damages: [(&str, Damage); 9] = [
        ("pages of zeros", |path| {
            let bytes = fs::read(path).unwrap();
            let kept = 4096.min(bytes.len());
            fs::write(path, [&bytes[..kept], vec![0; bytes.len() - kept].as_slice()].concat()).unwrap();
        }),
        ("a place without a skill", |path| {
            Connection::open(path).unwrap().execute("UPDATE source_skill SET skill = 99", []).unwrap();
        }),
        ("more completed than there were", |path| {
            Connection::open(path).unwrap().execute("UPDATE source_skill SET completed = total + 1", []).unwrap();
        }),
        ("a duration without an end", |path| {
            Connection::open(path).unwrap().execute("UPDATE phase SET duration_sum = 9e999", []).unwrap();
        }),
        ("a count that would overflow", |path| {
            Connection::open(path).unwrap().execute("UPDATE phase SET completed = 9223372036854775807", []).unwrap();
        }),
        ("a time before all times", |path| {
            Connection::open(path)
                .unwrap()
                .execute("UPDATE source SET previous_micros = -9223372036854775807", [])
                .unwrap();
        }),
        ("an event identifier that is gone", |path| {
            Connection::open(path).unwrap().execute("UPDATE event_id SET sequence = sequence * 2", []).unwrap();
        }),
        ("a column by another name", |path| {
            let rename = "ALTER TABLE skill RENAME COLUMN last_listed_micros TO last_lisued_micros";
            Connection::open(path).unwrap().execute(rename, []).unwrap();
        }),
        ("a bucket that is no number", |path| {
            Connection::open(path).unwrap().execute("UPDATE phase SET duration_buckets = 'x'", []).unwrap();
        }),
    ];
    for (what, damage) in damages {
        let (_folder, path) = folder();
        let mut opened = open(&path).unwrap();
        let mut ledger = Ledger::restore(Limits::default(), opened.restored, Now::default()).unwrap();
        lively(&mut ledger);
        opened.store.commit(&ledger.drain(Now::at(Duration::from_secs(4)))).unwrap();
        drop(opened.store);
        damage(&path);
        let damaged = fs::read(&path).unwrap();

        let opened = open(&path).unwrap();
        let Quarantine { path: aside, problem } =
            opened.quarantined.unwrap_or_else(|| panic!("{what} was not noticed"));
        assert!(!problem.to_string().is_empty());
        assert_eq!(opened.restored, LedgerState::default(), "{what}");
        assert_eq!(fs::read(aside).unwrap(), damaged, "{what}: nothing of it may be lost");
        drop(opened.store);
        assert_eq!(open(&path).unwrap().quarantined, None, "{what}: the new one is sound");
    }
}

#[test]
fn a_forgotten_source_counts_its_past_once_more() {
    let (_folder, path) = folder();
    let mut opened = open(&path).unwrap();
    let mut ledger = Ledger::restore(Limits::default(), opened.restored, Now::default()).unwrap();
    let end = Now::at(Duration::from_secs(20));
    lively(&mut ledger);
    ledger.tick(end, &mut Vec::new());
    opened.store.commit(&ledger.drain(end)).unwrap();
    assert!(!opened.store.forget_source(SourceId(2)).unwrap());
    assert!(opened.store.forget_source(SourceId(1)).unwrap());
    drop(opened.store);

    let mut ledger = Ledger::restore(Limits::default(), open(&path).unwrap().restored, Now::default()).unwrap();
    lively(&mut ledger);
    ledger.tick(end, &mut Vec::new());
    let changes = ledger.drain(end);
    let skill = changes.skills.iter().find(|row| &*row.series.skill_name == "inexact").unwrap();
    let total: u64 = skill.series.phases.iter().map(|phase| phase.completed + phase.abandoned).sum();
    assert_eq!(total, 2 * 97);
}
