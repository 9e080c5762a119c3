//! What `report` takes, beside the SQL that answers the same.

use std::hint::black_box;
use std::path::Path;
use std::time::Instant;

use jiff::Timestamp;
use rusqlite::{Connection, OpenFlags};
use session_buddy_bridge::internals::report::{By, DURATIONS_MAX, Format, Period, Report as Answer};
use session_buddy_bridge::internals::skills_db::with_history;

use crate::Outcome;
use crate::report::{Goal, Report};
use crate::sample::{ROUNDS, in_turns, millis};

const SKILLS: u32 = 10_000;
const ROWS: u32 = 1_000_000;
const DAY: i64 = 86_400;

/// The tables and the index that matter here, as the server has them.
const SCHEMA: &str = "
    CREATE TABLE skill_invocation (
        id INTEGER PRIMARY KEY AUTOINCREMENT, skill_name TEXT NOT NULL, invoked_at TEXT NOT NULL, session_id TEXT NOT NULL,
        workflow_path TEXT, completed BOOLEAN NOT NULL DEFAULT 0, duration_seconds REAL, user_query TEXT,
        error_type TEXT, created_at TEXT NOT NULL DEFAULT (datetime('now')), embedding BLOB, workflow_phase TEXT);
    CREATE INDEX idx_invocation_skill ON skill_invocation (skill_name);
    CREATE TABLE skill_anomalies (
        id INTEGER PRIMARY KEY AUTOINCREMENT, skill_name TEXT NOT NULL, detected_at TEXT NOT NULL,
        anomaly_type TEXT NOT NULL, deviation_score REAL);";

/// What the report says of each skill, but for the trend, which follows from the counts.
const SQL: [&str; 3] = [
    "WITH rows AS (
        SELECT skill_name, completed, duration_seconds AS seconds, unixepoch(invoked_at) AS second FROM skill_invocation),
     ranked AS (
        SELECT *, row_number() OVER (PARTITION BY skill_name ORDER BY seconds) AS rank,
               count(*) OVER (PARTITION BY skill_name) AS durations
        FROM rows WHERE second >= ?1 AND seconds IS NOT NULL),
     quantiles AS (
        SELECT skill_name, min(seconds) FILTER (WHERE rank * 100 >= durations * 50) AS p50,
               min(seconds) FILTER (WHERE rank * 100 >= durations * 95) AS p95 FROM ranked GROUP BY 1)
     SELECT skill_name, count(*) FILTER (WHERE second >= ?1), sum(completed) FILTER (WHERE second >= ?1),
            count(*) FILTER (WHERE second >= ?2 AND second < ?1), max(second), avg(seconds) FILTER (WHERE second >= ?1),
            p50, p95
     FROM rows LEFT JOIN quantiles USING (skill_name) GROUP BY 1",
    "SELECT skill_name, coalesce(error_type, 'unknown'), count(*) FROM skill_invocation
     WHERE completed = 0 AND unixepoch(invoked_at) >= ?1 AND ?2 IS NOT NULL GROUP BY 1, 2",
    "SELECT skill_name, count(*) FROM skill_anomalies WHERE unixepoch(detected_at) >= ?1 AND ?2 IS NOT NULL GROUP BY 1",
];

pub fn measure(report: &mut Report) -> Outcome<()> {
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("skills.db");
    let end = Timestamp::from_second(1_795_341_600)?;
    fill(&path, end)?;
    let before = |days: i64| Timestamp::from_second(end.as_second() - days * DAY);
    let period = Period { former_start: before(60)?, start: before(30)?, end };
    let of_sql = || -> Outcome<f64> {
        let begin = Instant::now();
        let connection = Connection::open_with_flags(&path, OpenFlags::SQLITE_OPEN_READ_ONLY)?;
        for sql in SQL {
            let mut query = connection.prepare(sql)?;
            let mut rows = query.query([period.start.as_second(), period.former_start.as_second()])?;
            while let Some(row) = rows.next()? {
                black_box(row.get_ref(0)?);
            }
        }
        Ok(millis(begin.elapsed()))
    };
    let of_report = || -> Outcome<f64> {
        let begin = Instant::now();
        let answer = with_history(&path, |history| Answer::read(history, By::Skill, period, None, DURATIONS_MAX))?;
        black_box(answer.write(Format::Json));
        Ok(millis(begin.elapsed()))
    };
    let (of_report, of_sql) = in_turns(ROUNDS, of_report, of_sql)?;
    let detail = format!("{of_report:.0} to {of_sql:.0} ms, as JSON");
    let what = "report of 10,000 skills and 1,000,000 rows";
    report.add(what, "the bare SQL", of_report / of_sql, " x", Goal::Guard, &detail);
    Ok(())
}

/// Rows of the last ninety days before `end`, with texts of the length that the server's have.
fn fill(path: &Path, end: Timestamp) -> Outcome<()> {
    let connection = Connection::open(path)?;
    connection.execute_batch("PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF; BEGIN;")?;
    connection.execute_batch(SCHEMA)?;
    let mut random = fastrand::Rng::with_seed(1);
    let mut insert = connection.prepare(
        "INSERT INTO skill_invocation (skill_name, invoked_at, session_id, completed, duration_seconds, user_query, error_type,
             workflow_phase) VALUES (?, ?, '0000000000000000042', ?, ?, ?, ?, 'execution')",
    )?;
    let mut anomaly = connection
        .prepare("INSERT INTO skill_anomalies (skill_name, detected_at, anomaly_type, deviation_score) VALUES (?, ?, 'drop', 2.5)")?;
    let query = "how do I make the tests of this module run in parallel without a flaky database?";
    for row in 0..ROWS {
        let skill = format!("skill-{:05}", random.u32(..SKILLS).min(random.u32(..SKILLS)));
        let age_micros = i64::from(ROWS - row) * 90 * DAY;
        let at = Timestamp::from_microsecond(end.as_microsecond() - age_micros)?;
        let at = at.strftime("%Y-%m-%dT%H:%M:%S%.6f+00:00").to_string();
        let completed = random.u8(..100) < 85;
        let seconds = completed.then(|| random.f64() * 60.0);
        let error = (!completed && random.bool()).then_some("timeout");
        insert.execute((&skill, &at, completed, seconds, query, error))?;
        if row % 100 == 0 {
            anomaly.execute((&skill, &at))?;
        }
    }
    connection.execute_batch("COMMIT")?;
    Ok(())
}
