//! A real server whose database its owner maintains, and bridges that count it.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::Connection;
use rustix::process::Signal;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::session_buddy::{RealServer, SessionBuddy};
use crate::support::database_stage::{scrape, skills_db};
use crate::support::exposed::Exposed;
use crate::support::program::Program;
use crate::support::scrape::Scrape;
use crate::support::server_database::remove_files;
use crate::support::{equal, eventually, holds};

/// Of the servers of these tests.
pub const SNAPSHOT_INTERVAL_SECONDS: f64 = 0.2;

/// So many messages are received before a count is believed to stay: longer than any wait of the ledger, which is 10 s.
const MESSAGES_TO_SETTLE: f64 = 60.0;

/// How a bridge counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    Snapshots,
    Rows,
}

pub struct MaintainedServer {
    pub session_buddy: SessionBuddy,
    folder: TempDir,
    server: Option<RealServer>,
    port: u16,
    bridges: Vec<Program>,
    /// What each bridge has to count: whatever was stored while its row or its number was there to be read.
    pub due: Exposed,
}

impl MaintainedServer {
    /// A server with so many invocations, and no bridge.
    pub fn with(invocations: u64) -> Option<Self> {
        let session_buddy = SessionBuddy::find_or_skip()?;
        let folder = tempfile::tempdir().unwrap();
        let mut stage =
            Self { session_buddy, folder, server: None, port: 0, bridges: Vec::new(), due: Exposed::default() };
        stage.invoke(invocations);
        stage.serve();
        Some(stage)
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub fn database(&self) -> PathBuf {
        self.path("skills.db")
    }

    pub fn serve(&mut self) {
        let server = self.session_buddy.serve_every(SNAPSHOT_INTERVAL_SECONDS, &self.database(), self.port, &[]);
        self.port = server.port;
        self.server = Some(server);
    }

    /// The server dies as in a power cut: it closes nothing.
    pub fn kill_server(&mut self) {
        self.server = None;
    }

    pub fn invoke(&mut self, times: u64) {
        self.store(&invoked(times));
    }

    /// Stores what has to be counted.
    pub fn store(&mut self, plan: &Value) {
        self.session_buddy.store(&self.database(), plan);
        self.due += planned(plan);
    }

    /// What the owner does with SQLite's own tools.
    pub fn execute(&self, sql: &str) {
        self.connection().execute_batch(sql).unwrap_or_else(|error| panic!("{sql}: {error}"));
    }

    fn connection(&self) -> Connection {
        let connection = Connection::open(self.database()).unwrap();
        connection.busy_timeout(Duration::from_secs(10)).unwrap();
        // As SQLite's shell has it, and a library need not.
        connection.pragma_update(None, "foreign_keys", false).unwrap();
        connection
    }

    /// Writes everything that was stored into the database file itself.
    pub fn checkpoint(&self) {
        let connection = self.connection();
        eventually("a checkpoint", || {
            let checkpoint = "PRAGMA wal_checkpoint(TRUNCATE)";
            let is_busy: bool = connection.query_row(checkpoint, [], |row| row.get(0)).map_err(|e| e.to_string())?;
            holds(!is_busy, "a reader is in a transaction")
        });
    }

    /// The server dies and is served from a copy of `from` from now on.
    pub fn replace_database(&mut self, from: &Path) {
        self.kill_server();
        remove_files(&self.database());
        fs::copy(from, self.database()).unwrap();
        self.serve();
    }

    /// Starts one more bridge.
    pub fn start(&mut self, database: Option<&Path>) {
        let number = self.bridges.len();
        let (file, state) = (self.path(&format!("bridge-{number}.yml")), self.path(&format!("state-{number}.db")));
        let (file, state) = (file.display().to_string(), state.display().to_string());
        let more = database.map(skills_db).unwrap_or_default();
        fs::write(&file, format!("feeds:\n  - {{name: one, url: \"ws://127.0.0.1:{}\"{more}}}\n", self.port)).unwrap();
        let arguments = ["--config.file", &file, "--state.path", &state, "--web.listen-address", "127.0.0.1:0"];
        self.bridges.push(Program::start(arguments));
    }

    pub fn start_in(&mut self, mode: Mode) {
        let database = self.database();
        self.start(Some(database.as_path()).filter(|_| mode == Mode::Rows));
    }

    /// Ends every bridge.
    pub fn stop(&mut self) {
        for bridge in self.bridges.drain(..) {
            bridge.signal(Signal::TERM);
            assert_eq!(bridge.end().code, Some(0));
        }
    }

    /// Waits until each bridge counts exactly what is due.
    pub fn until_counted(&mut self, what: &str) {
        let due = &self.due;
        for bridge in &mut self.bridges {
            eventually(what, || equal(&Exposed::of(&scrape(bridge)), due));
        }
    }

    /// Waits until each bridge has received so many more messages.
    pub fn after_messages(&mut self, messages: f64) {
        let received = |bridge: &mut Program| scrape(bridge).sum("session_buddy_bridge_feed_messages_total");
        let before: Vec<_> = self.bridges.iter_mut().map(received).collect();
        for (bridge, before) in self.bridges.iter_mut().zip(before) {
            eventually("messages", || {
                let more = received(bridge) - before;
                holds(more >= messages, format!("{more} of {messages}"))
            });
        }
    }

    /// Each bridge comes to count what is due, which is so many invocations, and goes on counting that.
    pub fn settles_at(&mut self, invocations: u64, what: &str) {
        assert_eq!(self.due.total(), invocations, "{what}: what the test stored");
        self.until_counted(what);
        self.after_messages(MESSAGES_TO_SETTLE);
        for bridge in &mut self.bridges {
            assert_eq!(Exposed::of(&scrape(bridge)), self.due, "{what}, some rounds later");
        }
    }

    /// What the first bridge shows.
    pub fn scrape(&mut self) -> Scrape {
        scrape(&mut self.bridges[0])
    }
}

/// What a [plan](SessionBuddy::store) stores.
pub fn planned(plan: &Value) -> Exposed {
    let text = |value: &Value| value.as_str().expect("a string").to_owned();
    let mut planned = Exposed::default();
    for stored in plan["invocations"].as_array().into_iter().flatten() {
        let times = stored["times"].as_u64().expect("a count");
        planned.add_invocations(&text(&stored["skill_name"]), stored["completed"] == true, times);
    }
    for stored in plan["anomalies"].as_array().into_iter().flatten() {
        planned.add_anomalies(&text(&stored["anomaly_type"]), &text(&stored["skill_name"]), 1);
    }
    planned
}

/// [`invoked_for`] half a second.
pub fn invoked(times: u64) -> Value {
    invoked_for(0.5, times)
}

/// Of two skills, in the phase `setup`, three quarters of them completed after so many seconds.
pub fn invoked_for(seconds: f64, times: u64) -> Value {
    let of = |skill: &str, completed: bool, times: u64| json!({"skill_name": skill, "completed": completed, "duration_seconds": completed.then_some(seconds), "workflow_phase": "setup", "times": times});
    let (other, abandoned) = (times / 4, times / 4);
    json!({"invocations": [
        of("pytest-run", true, times - other - abandoned), of("ruff-check", true, other), of("pytest-run", false, abandoned),
    ]})
}

/// Anomalies with scores from `first_score` upwards.
pub fn detected(times: u64, first_score: f64) -> Value {
    let anomaly = |time: u64| json!({"skill_name": "pytest-run", "anomaly_type": "drop", "deviation_score": first_score + time as f64});
    json!({"anomalies": (0..times).map(anomaly).collect::<Vec<_>>()})
}
