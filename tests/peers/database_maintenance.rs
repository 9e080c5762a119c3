//! Whatever its owner does to the database of the real server, made by the real storage, every invocation and every anomaly
//! counts once: beside a feed alone, and beside its database.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use crate::support::database_stage::{after_messages, invocations, scrape, skills_db, until};
use crate::support::peers::session_buddy::{RealServer, SessionBuddy};
use crate::support::program::Program;
use crate::support::scrape::Scrape;
use crate::support::server_database::{copy, remove_files};
use rusqlite::Connection;
use rustix::process::Signal;
use serde_json::{Value, json};
use tempfile::TempDir;

const SNAPSHOT_INTERVAL_SECONDS: f64 = 0.2;

/// So many messages are received before a count is believed to stay: longer than any wait of the ledger, which is 10 s.
const MESSAGES_TO_SETTLE: f64 = 60.0;

/// How the bridge counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    Snapshots,
    Rows,
}

struct Stage {
    session_buddy: SessionBuddy,
    folder: TempDir,
    server: Option<RealServer>,
    port: u16,
    bridge: Option<Program>,
}

impl Stage {
    /// A server with so many invocations.
    fn with(invocations: u64) -> Option<Self> {
        let session_buddy = SessionBuddy::find_or_skip()?;
        let folder = tempfile::tempdir().unwrap();
        let mut stage = Self { session_buddy, folder, server: None, port: 0, bridge: None };
        stage.invoke(invocations);
        stage.serve();
        Some(stage)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn database(&self) -> PathBuf {
        self.path("skills.db")
    }

    fn serve(&mut self) {
        let server = self.session_buddy.serve_every(SNAPSHOT_INTERVAL_SECONDS, &self.database(), self.port, &[]);
        self.port = server.port;
        self.server = Some(server);
    }

    fn invoke(&self, times: u64) {
        self.store(&self.database(), &invoked(times));
    }

    fn store(&self, database: &Path, plan: &Value) {
        self.session_buddy.store(database, plan);
    }

    /// What the owner does with SQLite's own tools.
    fn execute(&self, sql: &str) {
        let connection = Connection::open(self.database()).unwrap();
        connection.busy_timeout(std::time::Duration::from_secs(10)).unwrap();
        connection.execute_batch(sql).unwrap();
    }

    /// The server dies and is served from a copy of `from` from now on.
    fn replace_database(&mut self, from: &Path) {
        self.server = None;
        remove_files(&self.database());
        fs::copy(from, self.database()).unwrap();
        self.serve();
    }

    fn configure(&self, database: Option<&Path>) -> String {
        let file = self.path("bridge.yml");
        let more = database.map(skills_db).unwrap_or_default();
        fs::write(&file, format!("feeds:\n  - {{name: one, url: \"ws://127.0.0.1:{}\"{more}}}\n", self.port)).unwrap();
        file.display().to_string()
    }

    fn start(&mut self, database: Option<&Path>) {
        let file = self.configure(database);
        let state = self.path("state.db").display().to_string();
        self.bridge = Some(Program::start([
            "--config.file",
            &file,
            "--state.path",
            &state,
            "--web.listen-address",
            "127.0.0.1:0",
        ]));
    }

    fn start_in(&mut self, mode: Mode) {
        let database = self.database();
        self.start(Some(database.as_path()).filter(|_| mode == Mode::Rows));
    }

    fn stop(&mut self) {
        let bridge = self.bridge.take().unwrap();
        bridge.signal(Signal::TERM);
        assert_eq!(bridge.end().code, Some(0));
    }

    fn until(&mut self, what: &str, expected: u64) {
        until(self.bridge.as_mut().unwrap(), what, expected as f64, invocations);
    }

    /// The count becomes as expected and stays so.
    fn settles_at(&mut self, expected: u64, what: &str) {
        self.until(what, expected);
        let bridge = self.bridge.as_mut().unwrap();
        after_messages(bridge, MESSAGES_TO_SETTLE);
        assert_eq!(invocations(&scrape(bridge)), expected as f64, "{what}");
    }

    fn scrape(&mut self) -> Scrape {
        scrape(self.bridge.as_mut().unwrap())
    }
}

/// Of two skills, in the phase `setup`, three quarters of them completed after half a second.
fn invoked(times: u64) -> Value {
    let of = |skill: &str, completed: bool, times: u64| json!({"skill_name": skill, "completed": completed, "duration_seconds": if completed { Some(0.5) } else { None }, "workflow_phase": "setup", "times": times});
    let (other, abandoned) = (times / 4, times / 4);
    json!({"invocations": [
        of("pytest-run", true, times - other - abandoned), of("ruff-check", true, other), of("pytest-run", false, abandoned),
    ]})
}

fn detected(times: u64, first_score: f64) -> Value {
    let anomaly = |time: u64| json!({"skill_name": "pytest-run", "anomaly_type": "drop", "deviation_score": first_score + time as f64});
    json!({"anomalies": (0..times).map(anomaly).collect::<Vec<_>>()})
}

fn in_phase(scrape: &Scrape, phase: &str) -> f64 {
    let series = scrape.series("skill_invocations_total");
    series.into_iter().filter(|(labels, _)| labels["workflow_phase"] == phase).map(|(_, value)| value).sum()
}

/// A backup 1,500 rows back is recognised by older fingerprints than those of the last 1,024 rows.
fn a_backup(mode: Mode) {
    let Some(mut stage) = Stage::with(500) else { return };
    let backup = stage.path("backup.db");
    stage.start_in(mode);
    stage.until("the first rows", 500);
    copy(&stage.database(), &backup);
    stage.invoke(1_500);
    stage.until("all rows", 2_000);
    stage.replace_database(&backup);
    after_messages(stage.bridge.as_mut().unwrap(), 5.0);
    stage.invoke(8);
    stage.settles_at(2_008, "what happened after the backup");
}

#[test]
fn a_backup_far_back_is_counted_on_beside_the_feed() {
    a_backup(Mode::Snapshots);
}

#[test]
fn a_backup_far_back_is_counted_on_beside_the_database() {
    a_backup(Mode::Rows);
}

#[test]
fn a_backup_that_went_on_while_nobody_read_it_is_counted_on() {
    let Some(mut stage) = Stage::with(500) else { return };
    let backup = stage.path("backup.db");
    stage.start_in(Mode::Rows);
    stage.until("the first rows", 500);
    copy(&stage.database(), &backup);
    stage.invoke(1_500);
    stage.until("all rows", 2_000);
    stage.stop();
    stage.replace_database(&backup);
    stage.invoke(8);
    stage.start_in(Mode::Rows);
    stage.settles_at(2_008, "what happened after the backup");
}

/// The server dies and is started again after its `-wal` and `-shm` were removed. A reader that keeps the former ones open
/// shows five rows for ever.
#[test]
fn replaced_companions_are_noticed() {
    let Some(mut stage) = Stage::with(5) else { return };
    stage.start_in(Mode::Rows);
    stage.until("the first rows", 5);
    stage.server = None;
    stage.execute("PRAGMA wal_checkpoint(TRUNCATE)");
    for companion in ["-wal", "-shm"] {
        fs::remove_file(format!("{}{companion}", stage.database().display())).unwrap();
    }
    stage.serve();
    stage.invoke(20);
    stage.settles_at(25, "all rows");
    assert_eq!(stage.scrape().sum("session_buddy_bridge_detail_up"), 1.0);
}

#[test]
fn a_column_rewritten_in_every_row_changes_nothing() {
    let Some(mut stage) = Stage::with(300) else { return };
    stage.start_in(Mode::Rows);
    stage.until("all rows", 300);
    stage.execute(
        "UPDATE skill_invocation SET workflow_phase = 'cleanup', duration_seconds = duration_seconds * 1.5,
             session_id = 'merged', error_type = 'none'",
    );
    stage.invoke(5);
    stage.settles_at(305, "new rows alone");
    assert_eq!(stage.scrape().sum("session_buddy_bridge_feed_resets_total"), 0.0);
}

fn newest_deleted(mode: Mode) {
    let Some(mut stage) = Stage::with(300) else { return };
    stage.start_in(mode);
    stage.until("all rows", 300);
    stage.execute("DELETE FROM skill_invocation WHERE id > 290");
    after_messages(stage.bridge.as_mut().unwrap(), 5.0);
    stage.invoke(4);
    stage.settles_at(304, "new rows alone");
    assert_eq!(stage.scrape().sum("session_buddy_bridge_feed_resets_total"), 0.0);
    assert_eq!(stage.scrape().sum("session_buddy_bridge_feed_rollbacks_total"), 0.0);
}

#[test]
fn deleting_the_newest_rows_takes_nothing_back_beside_the_feed() {
    newest_deleted(Mode::Snapshots);
}

#[test]
fn deleting_the_newest_rows_takes_nothing_back_beside_the_database() {
    newest_deleted(Mode::Rows);
}

/// The database is emptied of 300 rows that nobody has read, and 10 come after them.
fn pruned_unread(mode: Mode) -> Option<Scrape> {
    let mut stage = Stage::with(400)?;
    stage.start_in(mode);
    stage.until("all rows", 400);
    stage.stop();
    stage.invoke(300);
    stage.execute("DELETE FROM skill_invocation");
    stage.invoke(10);
    stage.start_in(mode);
    stage.settles_at(710, "pruned rows too");
    Some(stage.scrape())
}

#[test]
fn rows_pruned_before_they_were_read_count_beside_the_feed() {
    pruned_unread(Mode::Snapshots);
}

#[test]
fn rows_pruned_before_they_were_read_count_without_a_phase_beside_the_database() {
    let Some(scrape) = pruned_unread(Mode::Rows) else { return };
    assert_eq!((in_phase(&scrape, "setup"), in_phase(&scrape, "unknown")), (410.0, 300.0));
}

#[test]
fn a_wrong_database_counts_nothing_and_the_right_one_once() {
    let Some(mut stage) = Stage::with(496) else { return };
    let (wrong, link) = (stage.path("wrong.db"), stage.path("link.db"));
    let session = stage.session_buddy.serve_every(SNAPSHOT_INTERVAL_SECONDS, &wrong, 0, &[]);
    stage.store(&wrong, &invoked(112));
    symlink(&wrong, &link).unwrap();
    stage.start(Some(link.as_path()));
    stage.settles_at(496, "what the feed lists");
    symlink(stage.database(), stage.path("next.db")).unwrap();
    fs::rename(stage.path("next.db"), &link).unwrap();
    stage.settles_at(496, "the same rows");
    stage.invoke(4);
    stage.settles_at(500, "new rows");
    assert_eq!(stage.scrape().sum("session_buddy_bridge_detail_up"), 1.0);
    drop(session);
}

/// What the bridge does between two readings of the database.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Meanwhile {
    /// It does not run.
    Stopped,
    /// It counts snapshots before it is stopped.
    CountsSnapshots,
}

impl Stage {
    /// All rows are read, and then none for a while, at the end of which the bridge does not run.
    fn stop_reading(&mut self, meanwhile: Meanwhile) {
        self.stop();
        if meanwhile == Meanwhile::CountsSnapshots {
            self.start_in(Mode::Snapshots);
            after_messages(self.bridge.as_mut().unwrap(), 5.0);
            self.stop();
        }
    }
}

fn larger_database(meanwhile: Meanwhile) {
    let Some(mut stage) = Stage::with(100) else { return };
    let larger = stage.path("larger.db");
    stage.store(&larger, &invoked(400));
    stage.start_in(Mode::Rows);
    stage.until("all rows", 100);
    stage.stop_reading(meanwhile);
    stage.replace_database(&larger);
    stage.start_in(Mode::Rows);
    stage.settles_at(500, "the rows of both");
}

#[test]
fn a_larger_database_in_place_of_one_that_was_read_is_another() {
    larger_database(Meanwhile::Stopped);
}

#[test]
fn a_larger_database_in_place_of_one_that_was_listed_is_another() {
    larger_database(Meanwhile::CountsSnapshots);
}

fn anomalies_pruned(meanwhile: Meanwhile) {
    let Some(mut stage) = Stage::with(4) else { return };
    stage.store(&stage.database(), &detected(70, 2.0));
    let anomalies = |scrape: &Scrape| scrape.sum("anomalies_detected_total");
    stage.start_in(Mode::Rows);
    until(stage.bridge.as_mut().unwrap(), "all anomalies", 70.0, anomalies);
    stage.stop_reading(meanwhile);
    stage.execute("DELETE FROM skill_anomalies WHERE id <= 30");
    stage.store(&stage.database(), &detected(33, 100.0));
    stage.start_in(Mode::Rows);
    until(stage.bridge.as_mut().unwrap(), "new anomalies", 103.0, anomalies);
    after_messages(stage.bridge.as_mut().unwrap(), MESSAGES_TO_SETTLE);
    assert_eq!(anomalies(&stage.scrape()), 103.0);
}

#[test]
fn anomalies_pruned_while_nobody_read_them_stay_counted() {
    anomalies_pruned(Meanwhile::Stopped);
}

#[test]
fn anomalies_pruned_while_snapshots_listed_them_stay_counted() {
    anomalies_pruned(Meanwhile::CountsSnapshots);
}
