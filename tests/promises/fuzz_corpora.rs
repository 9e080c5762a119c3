//! What the fuzz targets do, done with their corpora: `fuzz/` needs a nightly toolchain, this does not.
//!
//! `REWRITE_CORPORA=1 cargo test --test promises fuzz_corpora` writes the state anew that the mutations of `state_file` start from.

use std::path::{Path, PathBuf};
use std::time::Duration;
use std::{env, fs};

use crate::support::fuzz_bodies::{self, STATE_FEED};
use rusqlite::Connection;
use session_buddy_bridge::internals::ledger::{FeedSpec, Ledger, Limits, Moment, Whole};
use session_buddy_bridge::internals::protocol;
use session_buddy_bridge::internals::store::{Opened, Store};

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
    let memory = &whole.memory;
    let rows = [memory.skills.len(), memory.tallies.len(), memory.anomalies.len(), memory.event_ids.len()];
    assert!(rows.into_iter().all(|rows| rows > 0) && !memory.sessions.is_empty(), "the seed holds too little");
}

fn open(path: &Path) -> Opened<Whole> {
    Store::open(path, Whole::validated).unwrap()
}

/// One of everything that is kept, in pages as small as SQLite allows: more of a mutation's bytes matter.
fn write_state(path: &Path) {
    Connection::open(path).unwrap().execute_batch("PRAGMA page_size = 512; VACUUM").unwrap();
    let Opened { mut store, restored: whole, .. } = open(path);
    let mut ledger = Ledger::restore(Limits::default(), whole, Moment::default()).unwrap();
    let feed = ledger.add_feed(FeedSpec { identity: STATE_FEED.to_owned(), ..FeedSpec::default() });
    let connection = ledger.open(feed, Moment::default());
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
            ledger.apply(connection, &message.unwrap(), Moment::at(Duration::from_secs(second)), &mut Vec::new());
        });
    }
    store.commit(&ledger.drain(Moment::at(Duration::from_secs(3)))).unwrap();
}
