//! A program that keeps its invocations in SQLite and exports them at once.
//!
//! ```text
//! cargo run --example sqlite_storage [-- skills.db] [--port 9094] [--seconds 30]
//! curl http://localhost:9094/metrics
//! ```
//!
//! Without a file the store is in memory. With one, the counters continue where the last run ended: they are the store's.

mod common;

use std::error::Error;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Parser;
use common::{EndFlags, Outcome, PortFlags, announce};
use rusqlite::{Connection, params};
use session_buddy_bridge::PrometheusExporter;

/// Keeps invocations in SQLite and serves their metrics.
#[derive(Parser)]
struct Args {
    /// File of the store, created if it does not exist; without one the store is in memory
    file: Option<PathBuf>,
    #[command(flatten)]
    port: PortFlags<9094>,
    #[command(flatten)]
    end: EndFlags,
}

struct Invocation {
    skill_name: String,
    workflow_phase: Option<String>,
    completed: bool,
    duration_seconds: Option<f64>,
}

/// The store and its image in Prometheus.
struct Tracker {
    store: Connection,
    exporter: PrometheusExporter,
}

impl Tracker {
    fn open(file: Option<&Path>, exporter: PrometheusExporter) -> Result<Self, Box<dyn Error>> {
        let store = match file {
            Some(file) => Connection::open(file)?,
            None => Connection::open_in_memory()?,
        };
        store.execute_batch(
            "create table if not exists invocation (
                 id integer primary key, skill_name text not null, workflow_phase text,
                 completed integer not null, duration_seconds real)",
        )?;
        let tracker = Self { store, exporter };
        tracker.export_what_is_stored()?;
        Ok(tracker)
    }

    fn export_what_is_stored(&self) -> Outcome {
        let mut query =
            self.store.prepare("select skill_name, workflow_phase, completed, duration_seconds from invocation")?;
        let mut rows = query.query([])?;
        while let Some(row) = rows.next()? {
            self.export(&Invocation {
                skill_name: row.get(0)?,
                workflow_phase: row.get(1)?,
                completed: row.get(2)?,
                duration_seconds: row.get(3)?,
            })?;
        }
        Ok(())
    }

    /// Stores first: what could not be stored is not shown either, so the two cannot disagree.
    fn track(&self, invocation: &Invocation) -> Outcome {
        let Invocation { skill_name, workflow_phase, completed, duration_seconds } = invocation;
        self.store.execute(
            "insert into invocation (skill_name, workflow_phase, completed, duration_seconds) values (?, ?, ?, ?)",
            params![skill_name, workflow_phase, completed, duration_seconds],
        )?;
        self.export(invocation)?;
        let rate = self.store.query_row(
            "select avg(completed) from invocation where skill_name = ?",
            [skill_name],
            |row| row.get(0),
        )?;
        self.exporter.update_completion_rate(skill_name, rate)?;
        Ok(())
    }

    fn export(&self, invocation: &Invocation) -> Outcome {
        let Invocation { skill_name, workflow_phase, completed, duration_seconds } = invocation;
        self.exporter.record_invocation(skill_name, workflow_phase.as_deref(), *completed, *duration_seconds)?;
        Ok(())
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Outcome {
    let args = Args::parse();
    let mut end = args.end.listen()?;
    let exporter = PrometheusExporter::at(args.port.address());
    exporter.start()?;
    let url = exporter.url().ok_or("the exporter ended")?;
    let tracker = Tracker::open(args.file.as_deref(), exporter)?;
    announce(format_args!("An invocation is stored and exported every half second: {url}"));
    announce("Ctrl-C ends it.");

    let work = async {
        let mut every = tokio::time::interval(Duration::from_millis(500));
        loop {
            every.tick().await;
            let completed = fastrand::f64() < 0.85;
            tracker.track(&Invocation {
                skill_name: fastrand::choice(["pytest-run", "ruff-check", "mypy-check"]).unwrap_or_default().to_owned(),
                workflow_phase: fastrand::choice([None, Some("setup"), Some("execution")]).flatten().map(str::to_owned),
                completed,
                duration_seconds: completed.then(|| 20.0 * fastrand::f64()),
            })?;
        }
    };
    let outcome = tokio::select! {
        outcome = work => outcome,
        () = end.wait() => Ok(()),
    };
    let stored: i64 = tracker.store.query_row("select count(*) from invocation", [], |row| row.get(0))?;
    announce(format_args!("{stored} invocations are stored."));
    tracker.exporter.stop();
    outcome
}
