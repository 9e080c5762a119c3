//! What the fuzz targets do, done with their corpora: `fuzz/` needs a nightly toolchain, this does not.
//!
//! `REWRITE_CORPORA=1 cargo test --test promises fuzz_corpora` writes the state anew that the mutations of `state_file` start from.

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::Duration;
use std::{env, fs};

use crate::support::fuzz_bodies::{self, STATE_FEED};
use crate::support::is_long;
use crate::support::journal::pending_slots;
use rusqlite::Connection;
use session_buddy_bridge::internals::ledger::{FeedSpec, Ledger, LedgerState, Limits, Now};
use session_buddy_bridge::internals::protocol;
use session_buddy_bridge::internals::store::{Opened, Store, StoreError};

fn corpus(target: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target)
}

fn run(target: &str, body: fn(&[u8])) {
    let files: Vec<_> = fs::read_dir(corpus(target)).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert!(!files.is_empty(), "{target} has no corpus");
    for file in files {
        eprintln!("{}", file.display());
        body(&fs::read(&file).unwrap());
    }
}

#[test]
fn frames_become_messages() {
    run("frame_to_message", fuzz_bodies::frame_to_message);
}

#[test]
fn messages_reach_the_ledger() {
    run("messages_to_ledger", fuzz_bodies::messages_to_ledger);
}

#[test]
fn state_files_are_opened_or_refused() {
    let seed = corpus("state_file").join("sound");
    if env::var_os("REWRITE_CORPORA").is_some() {
        let folder = tempfile::tempdir().unwrap();
        write_state(&folder.path().join("state.db"));
        fs::copy(folder.path().join("state.db"), &seed).unwrap();
    }
    run("state_file", fuzz_bodies::state_file);

    let folder = tempfile::tempdir().unwrap();
    let copy = folder.path().join("state.db");
    fs::copy(&seed, &copy).unwrap();
    let Opened { restored: whole, quarantined, .. } = open(&copy);
    assert_eq!(quarantined, None, "the seed is no state of this version: rewrite it");
    let pending = pending_slots(&Connection::open(&copy).unwrap());
    assert!(pending > 0, "no entry of the seed's journal is pending: rewrite it");
    let memory = &whole.memory;
    let rows = [memory.skills.len(), memory.tallies.len(), memory.anomalies.len(), memory.event_ids.len()];
    assert!(rows.into_iter().all(|rows| rows > 0) && !memory.sessions.is_empty(), "the seed holds too little");
}

/// One bit of a state is flipped, as a disk does. `SESSION_BUDDY_BRIDGE_LONG=1` flips 1,409, spread over the file.
#[test]
fn a_state_with_a_flipped_bit_is_refused_only_for_its_version_or_its_owner() {
    /// What SQLite's header has for the version and for the owner: `user_version` and `application_id`.
    const VERSION_AND_OWNER: [Range<usize>; 2] = [60..64, 68..72];
    let sound = fs::read(corpus("state_file").join("sound")).unwrap();
    let flips = if is_long() { 1409 } else { 19 };
    let spread = (0..flips).map(|number| number * (sound.len() * 8) / flips);
    let (mut opened, mut quarantined, mut refused) = (0, 0, 0);
    let mut unexpected = Vec::new();
    for bit in spread.chain(VERSION_AND_OWNER.into_iter().flatten().map(|byte| byte * 8)) {
        let (byte, mask) = (bit / 8, 1 << (bit % 8));
        let mut flipped = sound.clone();
        flipped[byte] ^= mask;
        // What is opened, or begun again, counts on.
        fuzz_bodies::state_file(&flipped);
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state.db");
        fs::write(&path, &flipped).unwrap();
        match Store::open(&path, LedgerState::validated) {
            Ok(Opened { quarantined: None, .. }) => opened += 1,
            Ok(_) => quarantined += 1,
            Err(error) => {
                refused += 1;
                let is_expected = matches!(error, StoreError::Newer { .. } | StoreError::Foreign { .. });
                if !is_expected || !VERSION_AND_OWNER.iter().any(|bytes| bytes.contains(&byte)) {
                    unexpected.push(format!("bit {bit}: {error}"));
                }
            }
        }
    }
    assert!(unexpected.is_empty(), "{unexpected:#?}");
    println!("{opened} were opened, {quarantined} quarantined, {refused} refused");
    assert!([opened, quarantined, refused].iter().all(|states| *states > 0), "{opened} {quarantined} {refused}");
}

fn open(path: &Path) -> Opened<LedgerState> {
    Store::open(path, LedgerState::validated).unwrap()
}

/// One of everything that is kept, in pages as small as SQLite allows: more of a mutation's bytes matter.
fn write_state(path: &Path) {
    Connection::open(path).unwrap().execute_batch("PRAGMA page_size = 512; VACUUM").unwrap();
    let Opened { mut store, restored: whole, .. } = open(path);
    let mut ledger = Ledger::restore(Limits::default(), whole, Now::default()).unwrap();
    let feed = ledger.add_feed(FeedSpec { identity: STATE_FEED.to_owned(), ..FeedSpec::default() });
    let connection = ledger.open(feed, Now::default());
    // The first commit is written to the tables, and the others stay in the journal.
    for (second, frame) in (1..).zip([
        r#"{"type":"metrics_update","timestamp":"2026-11-22T10:24:23+00:00","data":{"top_skills":[
            {"skill_name":"a","total_invocations":10,"completion_rate":100.0,"avg_duration_seconds":0.5}],
            "anomalies":[{"skill_name":"x","anomaly_type":"drop","detected_at":"2026-11-22 10:24:23","deviation_score":2.5},
                         {"skill_name":"a","anomaly_type":"spike","detected_at":null,"deviation_score":null}]}}"#,
        r#"[{"type":"event","event":"skill.invoked","id":"0","timestamp":"2026-11-22T10:24:24+00:00",
             "data":{"skill_name":"a","workflow_phase":"setup","completed":true,"duration_seconds":0.3}},
            {"type":"skill_invocation","data":{"skill_name":"streamed","completed":false,"duration_seconds":1.5}},
            {"type":"completion_rate","data":{"skill_name":"rated","rate":0.25}},
            {"type":"active_sessions","data":{"count":4}},
            {"type":"event","event":"session.created","data":{"session_id":"s"}}]"#,
    ]) {
        protocol::read(frame, &protocol::Limits::default(), &mut |message| {
            ledger.apply(connection, &message.unwrap(), Now::at(Duration::from_secs(second)), &mut Vec::new());
        });
        let changes = ledger.drain(Now::at(Duration::from_secs(second)));
        store.commit(&changes).unwrap();
        ledger.acknowledge(changes.sequence);
    }
}
