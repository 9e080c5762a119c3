//! The state's file: one bridge has it, whatever its names are; whoever removes it loses nothing; what is not ours is not
//! touched, and what is ours is its owner's alone.

use std::ffi::OsString;
use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use rusqlite::Connection;
use rustix::process::Signal;
use session_buddy_bridge::internals::ledger::{Changes, FeedSpec, Ledger, LedgerState, Limits, Now, SkillIndex};
use session_buddy_bridge::internals::protocol;
use session_buddy_bridge::internals::store::{Opened, Store, StoreError};

use crate::support::database_stage::{scrape, until};
use crate::support::eventually;
use crate::support::model::{Invocation, invocation_event};
use crate::support::program::{Ended, Program};
use crate::support::scrape::Scrape;
use crate::support::scripted_feed::{Gate, ScriptedFeed, Step};

/// A bridge of its own process, without a feed.
fn start(path: &Path) -> Program {
    let path = path.to_str().unwrap();
    let nobody = "ws://127.0.0.1:9/";
    Program::start(["--feed.url", nobody, "--web.listen-address", "127.0.0.1:0", "--state.path", path])
}

/// Waits until it has its state.
fn started(path: &Path) -> Program {
    let mut program = start(path);
    program.until_stderr("the state to be open", |log| log.contains("state file opened"));
    program
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(suffix);
    name.into()
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

/// Files in the directory of `path` whose names begin with its own and `suffix`, but for what SQLite keeps beside them.
fn beside(path: &Path, suffix: &str) -> Vec<PathBuf> {
    let prefix = with_suffix(path, suffix);
    let entries = fs::read_dir(path.parent().unwrap()).unwrap().map(|entry| entry.unwrap().path());
    let is_companion = |entry: &str| entry.ends_with("-wal") || entry.ends_with("-shm");
    let is_meant = |entry: &str| entry.starts_with(prefix.to_str().unwrap()) && !is_companion(entry);
    entries.filter(|entry| is_meant(entry.to_str().unwrap())).collect()
}

fn assert_refused(ended: &Ended) {
    assert_eq!(ended.code, Some(1), "{}", ended.stderr);
    assert!(ended.stderr.contains("is in use by another session-buddy-bridge"), "{}", ended.stderr);
}

#[test]
fn no_other_name_of_a_state_lets_a_second_bridge_in() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state.db");
    let first = started(&path);
    let other = folder.path().join("other");
    fs::create_dir(&other).unwrap();

    let by_link = other.join("link.db");
    symlink(&path, &by_link).unwrap();
    let ended = start(&by_link).end();
    assert_refused(&ended);
    assert!(ended.stderr.contains(&format!("(process {})", first.id())), "{}", ended.stderr);

    let by_directory = folder.path().join("directory");
    symlink(folder.path(), &by_directory).unwrap();
    assert_refused(&start(&by_directory.join("state.db")).end());

    let hard_link = other.join("hard.db");
    fs::hard_link(&path, &hard_link).unwrap();
    assert_refused(&start(&hard_link).end());
    fs::remove_file(&hard_link).unwrap();

    fs::remove_file(with_suffix(&path, ".lock")).unwrap();
    assert_refused(&start(&path).end());

    first.signal(Signal::TERM);
    assert_eq!(first.end().code, Some(0));
    let second = started(&by_link);
    second.signal(Signal::TERM);
    assert_eq!(second.end().code, Some(0), "a symbolic link is a fine name while nobody else has the state");
}

#[test]
fn the_lock_is_never_written_through_a_symbolic_link() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state.db");
    let precious = folder.path().join("precious");
    fs::write(&precious, "precious").unwrap();
    symlink(&precious, with_suffix(&path, ".lock")).unwrap();
    let ended = start(&path).end();
    assert_eq!(ended.code, Some(1));
    assert!(ended.stderr.contains("state.db.lock is a symbolic link: remove it"), "{}", ended.stderr);
    assert_eq!(fs::read_to_string(&precious).unwrap(), "precious");
}

#[test]
fn a_state_is_its_owners_alone() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("deep/deeper/state.db");
    // As permissive as a umask can be: what is created says itself who may read it.
    let script = format!(
        "umask 000; exec {} --feed.url ws://127.0.0.1:9/ --web.listen-address 127.0.0.1:0 --state.path {}",
        env!("CARGO_BIN_EXE_session-buddy-bridge"),
        path.display()
    );
    let start = || Command::new("sh").args(["-c", &script]).stderr(std::process::Stdio::null()).spawn().unwrap();
    let mut running = start();
    eventually("the state to be open", || {
        assert!(running.try_wait().unwrap().is_none(), "it ended");
        if with_suffix(&path, "-shm").exists() { Ok(()) } else { Err("it is not there".to_owned()) }
    });
    for suffix in ["", "-wal", "-shm", ".lock"] {
        assert_eq!(mode(&with_suffix(&path, suffix)), 0o600, "{suffix}");
    }
    for directory in ["deep", "deep/deeper"] {
        assert_eq!(mode(&folder.path().join(directory)), 0o700, "{directory}");
    }
    running.kill().unwrap();
    running.wait().unwrap();

    // A state of ours that somebody else can read, and that is damaged. Its log may have been complete enough to repair it.
    fs::remove_file(with_suffix(&path, "-wal")).unwrap();
    fs::set_permissions(&path, Permissions::from_mode(0o644)).unwrap();
    fs::write(&path, [b"SQLite format 3\0".as_slice(), &[0xff; 4080]].concat()).unwrap();
    let opened = open(&path).unwrap();
    let quarantined = opened.quarantined.expect("a damaged state").path;
    assert_eq!([mode(&path), mode(&quarantined)], [0o600; 2]);
}

fn invocation() -> Invocation {
    Invocation {
        skill_name: "a".to_owned(),
        workflow_phase: Some("setup".to_owned()),
        completed: true,
        duration_seconds: None,
    }
}

fn event(number: usize) -> Step {
    Step::send(invocation_event(Some(&number.to_string()), 0, &invocation()))
}

fn exposed(scrape: &Scrape) -> f64 {
    scrape.sum("skill_invocations_total")
}

fn is_durable(scrape: &Scrape) -> f64 {
    scrape.sum("session_buddy_bridge_state_durable")
}

/// A bridge of its own process with this feed.
fn serving(feed: &str, path: &Path) -> Program {
    let path = path.to_str().unwrap();
    Program::start(["--feed.url", feed, "--web.listen-address", "127.0.0.1:0", "--state.path", path])
}

const DISPLACED: &str = "state file deleted, renamed, replaced or overwritten while in use; writing it again";
const WRITTEN_AGAIN: &str = "state file written again; nothing was lost";
const IN_PLACE_AGAIN: &str = "state file restored; nothing was lost";

/// How often the log has this message.
fn logged(bridge: &mut Program, message: &str) -> usize {
    bridge.stderr().matches(message).count()
}

/// Invocations in the state at `path`.
fn persisted(path: &Path) -> u64 {
    let whole = Store::look(path).unwrap_or_default();
    whole.skills.iter().flat_map(|row| &row.series.phases).map(|phase| phase.completed + phase.abandoned).sum()
}

/// What somebody does to the files of a running bridge's state.
type Mishap = fn(&Path);

const MISHAPS: [(&str, Mishap); 9] = [
    ("deleted", |path| fs::remove_file(path).unwrap()),
    ("deleted with its directory", |path| fs::remove_dir_all(path.parent().unwrap()).unwrap()),
    ("renamed", |path| fs::rename(path, with_suffix(path, ".away")).unwrap()),
    ("without its log", |path| fs::remove_file(with_suffix(path, "-wal")).unwrap()),
    ("replaced by an empty file", |path| {
        fs::remove_file(path).unwrap();
        fs::write(path, "").unwrap();
    }),
    ("overwritten by an old backup", |path| {
        let backup = with_suffix(path, ".backup");
        drop(open(&backup).unwrap());
        fs::copy(&backup, path).unwrap();
    }),
    ("emptied", |path| fs::write(path, "").unwrap()),
    ("replaced by an old backup, its log left behind", replace_by_backup),
    ("replaced by an old backup", |path| {
        fs::remove_file(with_suffix(path, "-wal")).unwrap();
        fs::remove_file(with_suffix(path, "-shm")).unwrap();
        replace_by_backup(path);
    }),
];

fn replace_by_backup(path: &Path) {
    drop(open(&with_suffix(path, ".backup")).unwrap());
    fs::rename(with_suffix(path, ".backup"), path).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_state_that_is_deleted_renamed_or_replaced_is_written_again() {
    let mishap = |url: String, what: &str, mishap: Mishap, more: Gate| {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("states/state.db");
        let mut bridge = serving(&url, &path);
        until(&mut bridge, what, 1.0, exposed);
        assert_eq!(logged(&mut bridge, DISPLACED), 0, "{what}");

        mishap(&path);
        bridge.until_stderr(what, |log| log.contains(DISPLACED) && log.contains(WRITTEN_AGAIN));
        until(&mut bridge, what, 1.0, is_durable);
        assert_eq!(persisted(&path), 1, "{what}");
        more.open();
        until(&mut bridge, what, 2.0, exposed);
        assert_eq!(persisted(&path), 2, "{what}");
        assert_eq!((logged(&mut bridge, DISPLACED), logged(&mut bridge, WRITTEN_AGAIN)), (1, 1), "{what}");
        bridge.signal(Signal::TERM);
        assert_eq!(bridge.end().code, Some(0), "{what}");
        assert_eq!(persisted(&path), 2, "{what}");
        assert_eq!(mode(&path), 0o600, "{what}");
        let opened = open(&path).unwrap();
        assert_eq!(opened.quarantined, None, "{what}");
        let renamed = beside(&path, ".replaced-");
        assert_eq!(!renamed.is_empty(), what.starts_with("replaced by an old backup"), "{what}");
        // With a log that is not its own it would be another state.
        renamed.iter().for_each(|backup| assert_eq!(persisted(backup), 0, "{what}: nothing of it may be changed"));
    };
    let mishaps = MISHAPS.map(|(what, does)| {
        let more = Gate::default();
        let script = vec![event(1), Step::Await(more.clone()), event(2), Step::Await(Gate::default())];
        let feed = ScriptedFeed::start(vec![script]);
        let url = feed.url().to_string();
        (feed, tokio::task::spawn_blocking(move || mishap(url, what, does, more)))
    });
    for (_feed, mishap) in mishaps {
        mishap.await.unwrap();
    }
}

#[test]
fn a_checkpoint_of_a_reader_is_no_reason_to_write_the_state_again() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state.db");
    write_state(&path);
    let mut opened = open(&path).unwrap();
    let modified = || fs::metadata(&path).unwrap().modified().unwrap();
    // A file system's clock ticks every few milliseconds.
    let before = modified();
    for micros in 1.. {
        if modified() != before {
            break;
        }
        let last_listed = vec![(SkillIndex(0), micros)];
        opened.store.commit(&Changes { last_listed, ..Changes::default() }).unwrap();
        assert!(opened.store.is_in_place());
        Connection::open(&path).unwrap().query_row("PRAGMA wal_checkpoint", [], |_| Ok(())).unwrap();
        assert!(opened.store.is_in_place());
    }
    fs::copy(&path, with_suffix(&path, ".copy")).unwrap();
    let before = modified();
    while modified() == before {
        fs::copy(with_suffix(&path, ".copy"), &path).unwrap();
    }
    assert!(!opened.store.is_in_place(), "somebody else has written to it");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_of_somebody_else_in_the_states_place_is_not_touched_and_the_state_is_not_durable() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state.db");
    let more = Gate::default();
    let feed =
        ScriptedFeed::start(vec![vec![event(1), Step::Await(more.clone()), event(2), Step::Await(Gate::default())]]);
    let url = feed.url().to_string();
    let played = tokio::task::spawn_blocking(move || {
        let mut bridge = serving(&url, &path);
        until(&mut bridge, "the first event", 1.0, exposed);
        assert_eq!((is_durable(&scrape(&mut bridge)), logged(&mut bridge, DISPLACED)), (1.0, 0));

        fs::remove_file(&path).unwrap();
        fs::write(&path, "a letter").unwrap();
        until(&mut bridge, "the replacement to be noticed", 0.0, is_durable);
        bridge.until_stderr("the replacement to be logged", |log| log.contains(DISPLACED));
        more.open();
        let has_failed = |scrape: &Scrape| scrape.sum("session_buddy_bridge_state_commit_failures_total").min(2.0);
        until(&mut bridge, "two commits to fail", 2.0, has_failed);
        assert_eq!(is_durable(&scrape(&mut bridge)), 0.0);
        assert_eq!((logged(&mut bridge, DISPLACED), logged(&mut bridge, WRITTEN_AGAIN)), (1, 0), "logged once");
        assert_eq!(fs::read_to_string(&path).unwrap(), "a letter");
        assert!(beside(&path, ".new").is_empty(), "nothing is written in vain");

        fs::remove_file(&path).unwrap();
        bridge.until_stderr("the state to be written again", |log| log.contains(WRITTEN_AGAIN));
        until(&mut bridge, "the second event", 2.0, exposed);
        assert_eq!((is_durable(&scrape(&mut bridge)), persisted(&path)), (1.0, 2));

        let away = with_suffix(&path, ".away");
        fs::rename(&path, &away).unwrap();
        fs::write(&path, "a letter").unwrap();
        until(&mut bridge, "the replacement to be noticed", 0.0, is_durable);
        bridge.until_stderr("the second replacement to be logged", |log| log.matches(DISPLACED).count() == 2);
        fs::rename(&away, &path).unwrap();
        until(&mut bridge, "the state to be in its place again", 1.0, is_durable);
        bridge.until_stderr("its return to be logged", |log| log.contains(IN_PLACE_AGAIN));
        assert_eq!((logged(&mut bridge, WRITTEN_AGAIN), persisted(&path)), (1, 2));
        bridge.signal(Signal::TERM);
        assert_eq!(bridge.end().code, Some(0));
    });
    played.await.unwrap();
}

/// Copies a directory and the files in it.
fn copy_directory(from: &Path, to: &Path) {
    fs::create_dir(to).unwrap();
    for entry in fs::read_dir(from).unwrap().map(Result::unwrap) {
        fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_log_of_a_killed_bridge_is_never_left_behind() {
    let folder = tempfile::tempdir().unwrap();
    let directory = folder.path().join("a state's ñ%20?#");
    let path = directory.join("state.db");
    let feed = ScriptedFeed::start(vec![vec![event(1), Step::Await(Gate::default())]]);
    let url = feed.url();
    let state = path.to_str().unwrap();
    let bridge =
        Program::start(["--feed.url", url.as_str(), "--web.listen-address", "127.0.0.1:0", "--state.path", state]);
    eventually("the event to be persisted", || match persisted(&path) {
        1 => Ok(()),
        other => Err(other.to_string()),
    });
    bridge.signal(Signal::KILL);
    bridge.end();
    let log = with_suffix(&path, "-wal");

    let hard_link = folder.path().join("hard.db");
    fs::hard_link(&path, &hard_link).unwrap();
    let ended = start(&hard_link).end();
    assert_eq!(ended.code, Some(1), "{}", ended.stderr);
    let remedy = format!(
        "the write-ahead log of the state file {hard_link} is not beside it but at {log}: move it to {hard_link}-wal, or \
         start once with --state.path {state}",
        hard_link = hard_link.display(),
        log = log.display()
    );
    assert!(ended.stderr.contains(&remedy), "{}", ended.stderr);
    let refused = |path: &Path| {
        let opened = open(path).map(|opened| opened.restored);
        let Err(StoreError::LogElsewhere { log: at, name, .. }) = opened else { panic!("{path:?}: {opened:?}") };
        assert_eq!(at, log);
        let looked = Store::look(path);
        assert!(matches!(looked, Err(StoreError::LogElsewhere { .. })), "{looked:?}");
        name
    };
    assert_eq!(refused(&hard_link), Some(path.clone()));
    // Of two logs one is of the past.
    fs::write(with_suffix(&hard_link, "-wal"), "another").unwrap();
    assert_eq!(refused(&hard_link), Some(path.clone()));
    fs::remove_file(&hard_link).unwrap();
    let renamed = directory.join("renamed.db");
    fs::rename(&path, &renamed).unwrap();
    assert_eq!(refused(&renamed), None);
    fs::rename(&renamed, &path).unwrap();
    assert_eq!(persisted(&path), 1, "what is refused is not changed");

    let invocations = |path: &Path| {
        drop(open(path).unwrap());
        persisted(path)
    };
    let copy = folder.path().join("copy");
    copy_directory(&directory, &copy);
    assert_eq!(invocations(&copy.join("state.db")), 1, "a copy with its log");
    let another_copy = folder.path().join("another copy");
    copy_directory(&directory, &another_copy);
    let link = folder.path().join("link.db");
    symlink(another_copy.join("state.db"), &link).unwrap();
    assert_eq!(invocations(&link), 1, "by a symbolic link");
    for suffix in ["", "-wal"] {
        fs::rename(with_suffix(&path, suffix), with_suffix(&renamed, suffix)).unwrap();
    }
    let moved = folder.path().join("moved");
    fs::rename(&directory, &moved).unwrap();
    assert_eq!(invocations(&moved.join("renamed.db")), 1, "renamed and moved with its log");
    fs::hard_link(moved.join("renamed.db"), &hard_link).unwrap();
    fs::remove_file(with_suffix(&hard_link, "-wal")).unwrap();
    assert_eq!(invocations(&hard_link), 1, "by a hard link, when nothing is in the log");
}

fn open(path: &Path) -> Result<Opened<LedgerState>, StoreError> {
    Store::open(path, LedgerState::validated)
}

/// A state with a skill whose name is not ASCII, all of it in one file.
fn write_state(path: &Path) {
    let mut opened = open(path).unwrap();
    let mut ledger = Ledger::restore(Limits::default(), opened.restored, Now::default()).unwrap();
    let feed = ledger.add_feed(FeedSpec { identity: "ws://a:1/".to_owned(), ..FeedSpec::default() });
    let connection = ledger.open(feed, Now::default());
    let snapshot = r#"{"type":"metrics_update","timestamp":"2026-11-22T10:24:23.585602+00:00","data":{"top_skills":[
        {"skill_name":"prüfen","total_invocations":7,"completion_rate":100.0,"avg_duration_seconds":0.1}],"anomalies":[]}}"#;
    protocol::read(snapshot, &protocol::Limits::default(), &mut |message| {
        ledger.apply(connection, &message.unwrap(), Now::default(), &mut Vec::new());
    });
    opened.store.commit(&ledger.drain(Now::default())).unwrap();
}

/// Replaces bytes of a file.
fn overwrite(path: &Path, at: usize, bytes: &[u8]) {
    let mut content = fs::read(path).unwrap();
    content[at..at + bytes.len()].copy_from_slice(bytes);
    fs::write(path, content).unwrap();
}

#[test]
fn a_damaged_state_of_ours_is_quarantined() {
    let damages: [(&str, Mishap); 11] = [
        ("text that is not UTF-8", |path| {
            let content = fs::read(path).unwrap();
            let name = "prüfen".as_bytes();
            let places = (0..content.len() - name.len()).filter(|at| content[*at..].starts_with(name));
            let places: Vec<_> = places.collect();
            assert!(!places.is_empty());
            places.into_iter().for_each(|at| overwrite(path, at + 2, &[0xff]));
        }),
        ("a byte of the magic", |path| overwrite(path, 3, b"?")),
        ("seven bytes of the magic", |path| overwrite(path, 0, &[0; 7])),
        ("no magic at all", |path| overwrite(path, 0, &[0; 16])),
        ("an impossible page size", |path| overwrite(path, 16, &[3, 7])),
        ("a format that can only be read", |path| overwrite(path, 18, &[0x82])),
        ("a format of the schema that is unknown", |path| overwrite(path, 47, &[6])),
        ("another application id", |path| overwrite(path, 68, &[1, 2, 3, 4])),
        ("no application id, no version", |path| {
            overwrite(path, 60, &[0; 4]);
            overwrite(path, 68, &[0; 4]);
        }),
        ("version 0", |path| overwrite(path, 60, &[0; 4])),
        ("nothing but the magic", |path| fs::write(path, b"SQLite format 3\0").unwrap()),
    ];
    for (what, damage) in damages {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state.db");
        write_state(&path);
        damage(&path);
        let damaged = fs::read(&path).unwrap();
        let opened = open(&path).unwrap_or_else(|error| panic!("{what}: {error}"));
        let quarantine = opened.quarantined.unwrap_or_else(|| panic!("{what} was not noticed"));
        assert_eq!(opened.restored, LedgerState::default(), "{what}");
        assert_eq!(fs::read(quarantine.path).unwrap(), damaged, "{what}: nothing of it may be lost");
        drop(opened.store);
        assert_eq!(open(&path).unwrap().quarantined, None, "{what}: the new one is sound");
    }
}

#[test]
fn a_file_of_somebody_else_is_refused_and_not_renamed() {
    type Write = fn(&Path);
    let files: [(&str, Write); 5] = [
        ("text", |path| fs::write(path, b"not a database, but long enough to have a header").unwrap()),
        ("zeros", |path| fs::write(path, [0; 8192]).unwrap()),
        ("a database", |path| Connection::open(path).unwrap().execute_batch("CREATE TABLE theirs (x)").unwrap()),
        ("a database without tables", |path| {
            Connection::open(path).unwrap().execute_batch("PRAGMA application_id = 7").unwrap();
        }),
        ("a damaged database", |path| {
            Connection::open(path).unwrap().execute_batch("CREATE TABLE theirs (x)").unwrap();
            overwrite(path, 3, b"?");
        }),
    ];
    for (what, write) in files {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state.db");
        write(&path);
        fs::set_permissions(&path, Permissions::from_mode(0o644)).unwrap();
        let before = fs::read(&path).unwrap();
        let error = open(&path).map(|opened| opened.quarantined).unwrap_err();
        assert!(matches!(error, StoreError::Foreign { .. }), "{what}: {error}");
        assert!(error.to_string().contains("--state.path"), "{error}");
        assert_eq!(fs::read(&path).unwrap(), before, "{what}");
        assert_eq!(mode(&path), 0o644, "{what}");
        let mut files: Vec<_> = beside(&path, "");
        files.retain(|file| *file != with_suffix(&path, ".lock"));
        assert_eq!(files, [path], "{what}");
    }
}

#[test]
fn an_empty_file_is_a_new_state() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state.db");
    fs::write(&path, "").unwrap();
    let opened = open(&path).unwrap();
    assert_eq!((opened.quarantined, opened.restored), (None, LedgerState::default()));
}
