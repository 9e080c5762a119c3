//! The database of a simulated server, on disk, with the tables and the trigger of the real one that matter here.

use std::fs;
use std::path::{Path, PathBuf};

use rusqlite::{Connection, params};

use super::model::{Anomaly, Metrics, metrics_update, sql_time};

pub const SCHEMA: &str = "
CREATE TABLE skill_invocation (
    id INTEGER PRIMARY KEY AUTOINCREMENT, skill_name TEXT NOT NULL, invoked_at TEXT NOT NULL, session_id TEXT NOT NULL,
    workflow_path TEXT, completed BOOLEAN NOT NULL DEFAULT 0, duration_seconds REAL, user_query TEXT, error_type TEXT,
    embedding BLOB, workflow_phase TEXT
);
CREATE TABLE skill_metrics (
    skill_name TEXT PRIMARY KEY, total_invocations INTEGER NOT NULL DEFAULT 0,
    completed_invocations INTEGER NOT NULL DEFAULT 0, total_duration_seconds REAL NOT NULL DEFAULT 0.0
);
CREATE TABLE skill_anomalies (
    id INTEGER PRIMARY KEY AUTOINCREMENT, skill_name TEXT NOT NULL, detected_at TEXT NOT NULL, anomaly_type TEXT NOT NULL,
    deviation_score REAL, resolved_at TEXT
);
CREATE TRIGGER metrics AFTER INSERT ON skill_invocation BEGIN
    INSERT OR IGNORE INTO skill_metrics (skill_name) VALUES (NEW.skill_name);
    UPDATE skill_metrics SET total_invocations = total_invocations + 1,
        completed_invocations = completed_invocations + (NEW.completed = 1),
        total_duration_seconds =
            total_duration_seconds + CASE WHEN NEW.completed = 1 THEN coalesce(NEW.duration_seconds, 0) ELSE 0 END
    WHERE skill_name = NEW.skill_name;
END;
";

/// The database of a server that is running, so that its `-wal` and `-shm` are there.
pub struct ServerDatabase {
    pub path: PathBuf,
    pub connection: Connection,
}

impl ServerDatabase {
    /// A new and empty one.
    pub fn create(path: &Path) -> Self {
        let server = Self::open(path);
        server.execute(SCHEMA);
        server
    }

    /// One that is there already.
    pub fn open(path: &Path) -> Self {
        let connection = Connection::open(path).expect("a database");
        // The query makes SQLite create the companions.
        let setup = "PRAGMA journal_mode = WAL; PRAGMA synchronous = OFF; SELECT count(*) FROM sqlite_schema;";
        connection.execute_batch(setup).expect("a journal");
        Self { path: path.to_owned(), connection }
    }

    pub fn execute(&self, sql: &str) {
        self.connection.execute_batch(sql).unwrap_or_else(|error| panic!("{sql}: {error}"));
    }

    /// Stores so many completed invocations of a skill, of half a second each, one second apart. No two skills have the same
    /// time.
    pub fn invoke(&self, skill_name: &str, times: u64) {
        self.connection
            .execute(
                "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < ?2)
                 INSERT INTO skill_invocation (skill_name, invoked_at, session_id, completed, duration_seconds)
                 SELECT ?1, datetime(1795341600 + i + (SELECT count(*) FROM skill_invocation), 'unixepoch') || '.' || hex(?1),
                        's', 1, 0.5
                 FROM n WHERE ?2 > 0",
                params![skill_name, times],
            )
            .expect("stored");
    }

    /// Stores so many anomalies of a skill, with scores from `first_score` upwards.
    pub fn detect(&self, skill_name: &str, times: u32, first_score: f64, at_micros: i64) {
        for time in 0..times {
            self.connection
                .execute(
                    "INSERT INTO skill_anomalies (skill_name, detected_at, anomaly_type, deviation_score)
                     VALUES (?, ?, 'drop', ?)",
                    params![skill_name, sql_time(at_micros), first_score + f64::from(time)],
                )
                .expect("stored");
        }
    }

    /// The ten skills with the most invocations.
    pub fn listed(&self) -> Vec<Metrics> {
        let mut query = self
            .connection
            .prepare(
                "SELECT skill_name, total_invocations, completed_invocations, total_duration_seconds FROM skill_metrics
                 WHERE total_invocations > 0 ORDER BY 2 DESC, 1 LIMIT 10",
            )
            .expect("a query");
        let metrics = query.query_map([], |row| {
            Ok(Metrics {
                skill_name: row.get(0)?,
                total: row.get(1)?,
                completed: row.get(2)?,
                duration_seconds: row.get(3)?,
            })
        });
        metrics.expect("rows").map(|row| row.expect("a row")).collect()
    }

    /// The ten newest anomalies.
    pub fn listed_anomalies(&self) -> Vec<Anomaly> {
        let mut query = self
            .connection
            .prepare(
                "SELECT skill_name, anomaly_type, detected_at, deviation_score FROM skill_anomalies
                 ORDER BY detected_at DESC LIMIT 10",
            )
            .expect("a query");
        let anomalies = query.query_map([], |row| {
            Ok(Anomaly {
                skill_name: row.get(0)?,
                anomaly_type: row.get(1)?,
                detected_at: row.get(2)?,
                deviation_score: row.get(3)?,
            })
        });
        anomalies.expect("rows").map(|row| row.expect("a row")).collect()
    }

    /// What a client of the server gets of this database now.
    pub fn snapshot(&self, at_micros: i64) -> String {
        metrics_update(at_micros, &self.listed(), &self.listed_anomalies())
    }
}

/// Removes a database with its companions.
pub fn remove_files(path: &Path) {
    for companion in ["", "-wal", "-shm"] {
        let _ = fs::remove_file(format!("{}{companion}", path.display()));
    }
}

/// Copies a database that is in use into a new file, as a backup does.
pub fn copy(from: &Path, to: &Path) {
    let connection = Connection::open(from).expect("a database");
    connection.execute("VACUUM INTO ?1", [to.to_str().expect("a path in UTF-8")]).expect("a backup");
}
