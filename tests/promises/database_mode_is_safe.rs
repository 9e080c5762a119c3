//! Reading the server's database does no harm and is never fooled: what is refused says why, what is replaced is opened
//! again, nothing that is stored in it runs, and every reading can be ended.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::time::{Duration, Instant};

use crate::support::database_stage::{DatabaseStage, RELOADED, invocations, skills_db, until};
use crate::support::program::Program;
use crate::support::server_database::{SCHEMA, ServerDatabase};
use crate::support::{PATIENCE, is_long};
use rusqlite::Connection;
use rustix::process::Signal;
use session_buddy_bridge::internals::skills_db::{
    AnomaliesPlan, DatabaseFacts, DatabaseReader, DatabaseReading, Decision, FileIdentity, ReadPlan, ReadRequest,
    RowConsumer, RowFingerprint, SkillsDatabase, SkillsDatabaseError, Table,
};
use tokio_util::sync::CancellationToken;

/// The promise: within this time of SIGTERM it has ended, and within this time of SIGHUP it is reconfigured.
const PROMISED: Duration = Duration::from_secs(5);

/// Never ends.
const RECURSIVE_VIEW: &str = "CREATE VIEW skill_invocation AS WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n)
    SELECT i AS id, 'a' AS skill_name, '' AS invoked_at, NULL AS workflow_phase, 1 AS completed, 1.0 AS duration_seconds,
           's' AS session_id, NULL AS error_type FROM n;";

fn open(path: &Path) -> Result<SkillsDatabase, SkillsDatabaseError> {
    SkillsDatabase::open(path, &CancellationToken::new())
}

fn everything(_: &DatabaseFacts) -> Option<ReadPlan> {
    Some(ReadPlan { invocations_after: 0, anomalies: AnomaliesPlan::Newest, counts_rows: true })
}

fn read(database: &mut SkillsDatabase) -> Result<DatabaseReading, SkillsDatabaseError> {
    let reading = database.read(&ReadRequest::default(), |_| Vec::new(), everything)?;
    Ok(reading.expect("everything is planned"))
}

fn rows(database: &mut SkillsDatabase) -> usize {
    read(database).expect("a reading").invocations.len()
}

/// What is wrong with a database made by these statements.
fn refusal(folder: &Path, sql: &str) -> String {
    let path = folder.join("refused.db");
    let _ = fs::remove_file(&path);
    Connection::open(&path).unwrap().execute_batch(sql).unwrap();
    let error = open(&path).and_then(|mut database| read(&mut database)).expect_err(sql);
    let text = error.to_string();
    assert!(text.contains(path.to_str().unwrap()), "it names the path: {text}");
    text
}

#[test]
fn only_tables_are_read() {
    let folder = tempfile::tempdir().unwrap();
    let refused = |sql: &str| refusal(folder.path(), sql);
    let (invocations, others) = SCHEMA.split_once("CREATE TABLE skill_metrics").unwrap();
    let others = format!("CREATE TABLE skill_metrics{}", others.split_once("CREATE TRIGGER").unwrap().0);

    let text = refused(&format!("{RECURSIVE_VIEW}{others}"));
    assert!(text.contains("skill_invocation in") && text.contains("is a view, not a table"), "{text}");
    for (table, columns) in [
        ("skill_metrics", "1 skill_name, 1 total_invocations, 1 completed_invocations, 1 total_duration_seconds"),
        ("skill_anomalies", "1 id, 1 skill_name, 1 detected_at, 1 anomaly_type, 1 deviation_score"),
        // Names differ in case alone, which to SQLite is no difference.
        ("SKILL_METRICS", "1 skill_name, 1 total_invocations, 1 completed_invocations, 1 total_duration_seconds"),
    ] {
        let text = refused(&format!("{invocations}CREATE VIEW {table} AS SELECT {columns};"));
        assert!(text.contains(&format!("{} in", table.to_lowercase())) && text.contains("is a view"), "{text}");
    }
    // Written as it would be by a program whose SQLite has the module: this one's has it not.
    let text = refused(
        "PRAGMA writable_schema = ON; INSERT INTO sqlite_schema VALUES ('table', 'skill_invocation', 'skill_invocation', 0,
             'CREATE VIRTUAL TABLE skill_invocation USING fts5(skill_name, invoked_at, workflow_phase, completed)')",
    );
    assert!(text.contains("is a virtual table, not a table"), "{text}");
}

#[test]
fn what_is_missing_is_named_with_a_remedy() {
    let folder = tempfile::tempdir().unwrap();
    let refused = |sql: &str| refusal(folder.path(), sql);
    let text = refused("CREATE TABLE other (id)");
    assert!(text.contains("has no table skill_invocation") && text.contains("let --feed.skills-db name"), "{text}");
    for column in ["skill_name", "invoked_at", "workflow_phase", "completed", "duration_seconds"] {
        let text =
            refused(&format!("{SCHEMA}DROP TRIGGER metrics; ALTER TABLE skill_invocation DROP COLUMN {column};"));
        let named = format!("has no column {column:?} in skill_invocation");
        assert!(text.contains(&named) && text.contains("start the current server on it once"), "{text}");
    }
    let generated = SCHEMA.replace("duration_seconds REAL,", "duration_seconds REAL AS (abs(id)),");
    assert!(refused(&generated).contains("has no column \"duration_seconds\""), "an expression is code");
    for key in ["id TEXT PRIMARY KEY", "id INT PRIMARY KEY", "id INTEGER", "id INTEGER, PRIMARY KEY (id, skill_name)"] {
        let (definition, constraint) = key.split_once(',').unwrap_or((key, ""));
        let constraint = if constraint.is_empty() { String::new() } else { format!(",{constraint}") };
        let text = refused(&format!(
            "CREATE TABLE skill_invocation ({definition}, skill_name TEXT, invoked_at TEXT, workflow_phase TEXT,
                 completed BOOLEAN, duration_seconds REAL{constraint})"
        ));
        assert!(text.contains("has no `id INTEGER PRIMARY KEY`"), "{key}: {text}");
    }
    // What is not counted from may be missing.
    let path = folder.path().join("fewer.db");
    let server = ServerDatabase::create(&path);
    server.invoke("a", 3);
    server.execute("ALTER TABLE skill_invocation DROP COLUMN error_type; DROP TABLE skill_anomalies;");
    assert_eq!(rows(&mut open(&path).unwrap()), 3);
}

#[test]
fn a_locked_database_is_called_locked() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("skills.db");
    let writer = Connection::open(&path).unwrap();
    writer.execute_batch(SCHEMA).unwrap();
    let mut database = open(&path).unwrap();
    writer.execute_batch("BEGIN EXCLUSIVE").unwrap();
    for error in [open(&path).expect_err("it is locked"), read(&mut database).expect_err("it is locked")] {
        let text = error.to_string();
        assert!(matches!(error, SkillsDatabaseError::Locked { .. }), "{text}");
        assert!(text.contains("read as soon as the lock is released"), "{text}");
        assert!(std::error::Error::source(&error).is_some(), "its cause is kept");
    }
    writer.execute_batch("COMMIT").unwrap();
    assert_eq!(rows(&mut database), 0);
}

#[test]
fn two_paths_to_one_file_are_one_database() {
    let folder = tempfile::tempdir().unwrap();
    let [path, link, other] = ["skills.db", "link.db", "other.db"].map(|name| folder.path().join(name));
    let (_server, _other) = (ServerDatabase::create(&path), ServerDatabase::create(&other));
    symlink(&path, &link).unwrap();
    let file = |path: &PathBuf| open(path).unwrap().file();
    assert_eq!(file(&link), file(&path));
    assert_eq!(FileIdentity::of(&link).unwrap(), file(&path), "known without opening it");
    assert_ne!(file(&other), file(&path));
}

#[test]
fn a_view_that_takes_the_place_of_a_table_is_not_read() {
    let folder = tempfile::tempdir().unwrap();
    let server = ServerDatabase::create(&folder.path().join("skills.db"));
    server.invoke("a", 5);
    let mut database = open(&server.path).unwrap();
    assert_eq!(rows(&mut database), 5);
    server.execute("DROP TRIGGER metrics; ALTER TABLE skill_invocation RENAME TO moved;");
    server.execute(RECURSIVE_VIEW);
    let error = read(&mut database).expect_err("a view");
    assert!(matches!(error, SkillsDatabaseError::NotATable { kind: "view", .. }), "{error}");
}

#[test]
fn a_backup_copied_over_the_file_is_noticed() {
    let folder = tempfile::tempdir().unwrap();
    let [path, backup] = ["skills.db", "backup.db"].map(|name| folder.path().join(name));
    let server = ServerDatabase::create(&path);
    server.invoke("a", 5);
    server.execute("PRAGMA wal_checkpoint(TRUNCATE)");
    fs::copy(&path, &backup).unwrap();
    server.invoke("a", 20);
    server.execute("PRAGMA wal_checkpoint(TRUNCATE)");
    let mut database = open(&path).unwrap();
    assert_eq!(rows(&mut database), 25);
    assert!(database.is_current() && !database.has_changed().unwrap());
    drop(server);
    // The same inode, and SQLite is not told.
    fs::copy(&backup, &path).unwrap();
    assert!(!database.is_current());
    drop(database);
    assert_eq!(rows(&mut open(&path).unwrap()), 5);
}

#[test]
fn a_reading_can_be_cancelled_in_the_middle_of_a_statement() {
    let folder = tempfile::tempdir().unwrap();
    let server = ServerDatabase::create(&folder.path().join("skills.db"));
    server.execute("DROP TRIGGER metrics");
    server.invoke("a", 50_000);
    let cancellation = CancellationToken::new();
    let mut database = SkillsDatabase::open(&server.path, &cancellation).unwrap();
    assert_eq!(read(&mut database).unwrap().row_counts.unwrap()[0].all.completed, 50_000);
    let error = database
        .read(
            &ReadRequest::default(),
            |_| Vec::new(),
            |facts| {
                // From here on only the statements of the plan run.
                cancellation.cancel();
                everything(facts)
            },
        )
        .expect_err("cancelled");
    assert!(matches!(error, SkillsDatabaseError::Cancelled { .. }), "{error}");
}

/// Distrusts the first connection that reads, and passes on the numbers of all.
struct Distrustful {
    first: AtomicU64,
    connections: Sender<u64>,
}

impl RowConsumer for Distrustful {
    fn request(&self, _: FileIdentity) -> Option<ReadRequest> {
        let first = self.first.load(Ordering::Relaxed);
        Some(ReadRequest { distrusted_connection: Some(first).filter(|first| *first > 0), ..ReadRequest::default() })
    }

    fn remembered(&self, _: Table) -> Vec<RowFingerprint> {
        Vec::new()
    }

    fn plan(&self, facts: &DatabaseFacts) -> Decision {
        everything(facts).map_or(Decision::Later, Decision::Read)
    }

    fn consume(&self, reading: DatabaseReading) -> bool {
        let connection = reading.facts.connection;
        let _ = self.first.compare_exchange(0, connection, Ordering::Relaxed, Ordering::Relaxed);
        let _ = self.connections.send(connection);
        true
    }

    fn failed(&self, error: &SkillsDatabaseError) {
        panic!("it can be read: {error}");
    }
}

#[test]
fn a_distrusted_connection_is_replaced_though_nothing_has_changed() {
    let folder = tempfile::tempdir().unwrap();
    let server = ServerDatabase::create(&folder.path().join("skills.db"));
    let (connections, numbers) = channel();
    let cancellation = CancellationToken::new();
    let consumer = Distrustful { first: AtomicU64::new(0), connections };
    let reader = DatabaseReader::start(server.path.clone(), consumer, cancellation.clone()).unwrap();
    let next = || numbers.recv_timeout(PATIENCE).expect("a reading");
    let first = next();
    assert!(next() > first, "a later connection reads the same again");
    cancellation.cancel();
    assert!(reader.finish());
    assert!(numbers.recv().is_err(), "and is trusted");
}

/// Whoever restores a database or moves a server replaces its companions. A reader that keeps the former ones open sees
/// no error and no change for ever: 5 rows of 25.
async fn replaced_companions_are_noticed(feeds: impl Fn(&DatabaseStage) -> Vec<(&'static str, String)>) {
    let stage = DatabaseStage::new();
    let path = stage.path("skills.db");
    let server = ServerDatabase::create(&path);
    symlink(&path, stage.path("link.db")).unwrap();
    let invoke = |server: &ServerDatabase, times| ["a", "b"].map(|skill| server.invoke(skill, times));
    invoke(&server, 5);
    stage.list(&[("a", 5), ("b", 5)]);
    let mut program = stage.start(&feeds(&stage));
    until(&mut program, "the rows", 10.0, invocations);

    server.execute("PRAGMA wal_checkpoint(TRUNCATE)");
    drop(server);
    for companion in ["-wal", "-shm"] {
        fs::remove_file(format!("{}{companion}", path.display())).expect("the bridge has it open");
    }
    let server = ServerDatabase::open(&path);
    invoke(&server, 20);
    stage.list(&[("a", 25), ("b", 25)]);
    until(&mut program, "the rows behind the new companions", 50.0, invocations);
    invoke(&server, 1);
    stage.list(&[("a", 26), ("b", 26)]);
    until(&mut program, "another row", 52.0, invocations);
    program.signal(Signal::TERM);
    assert_eq!(program.end_within(PROMISED).code, Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn replaced_companions_of_a_database_are_opened_again() {
    replaced_companions_are_noticed(|stage| vec![("one", skills_db(&stage.path("skills.db")))]).await;
}

/// SQLite shares the index of the log within a process, so that neither feed alone can leave the former one.
#[tokio::test(flavor = "multi_thread")]
async fn replaced_companions_are_opened_again_where_two_feeds_read_the_database() {
    replaced_companions_are_noticed(|stage| {
        let feed = |skill: &str, path: &str| format!(", skill: {skill}{}", skills_db(&stage.path(path)));
        vec![("one", feed("a", "skills.db")), ("two", feed("b", "link.db"))]
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_recursive_view_neither_runs_nor_delays_a_signal() {
    let stage = DatabaseStage::new();
    let path = stage.path("skills.db");
    Connection::open(&path).unwrap().execute_batch(RECURSIVE_VIEW).unwrap();
    stage.list(&[("a", 7)]);
    for signal in [Signal::TERM, Signal::HUP] {
        let mut program = stage.start(&[("one", skills_db(&path))]);
        program.until_stderr("the refusal", |log| log.contains("is a view, not a table"));
        signal_is_obeyed(&stage, program, signal);
    }
}

/// In the long form beside 20 million rows, which take minutes to read.
#[tokio::test(flavor = "multi_thread")]
async fn a_huge_table_does_not_delay_a_signal() {
    let stage = DatabaseStage::new();
    let path = stage.path("skills.db");
    let server = ServerDatabase::create(&path);
    // Without the trigger, which would take an hour: the numbers that it would have written.
    server.execute("DROP TRIGGER metrics");
    let rows = if is_long() { 20_000_000 } else { 200_000 };
    server.invoke("a", rows);
    server.execute(&format!("INSERT INTO skill_metrics VALUES ('a', {rows}, {rows}, {})", rows / 2));
    stage.list(&[("a", rows)]);
    for signal in [Signal::TERM, Signal::HUP] {
        let mut program = stage.start(&[("one", skills_db(&path))]);
        program.address();
        signal_is_obeyed(&stage, program, signal);
    }
}

fn signal_is_obeyed(stage: &DatabaseStage, mut program: Program, signal: Signal) {
    if signal == Signal::HUP {
        stage.configure(&[("one", String::new())]);
        let began = Instant::now();
        program.signal(signal);
        program.until_stderr("the reload", |log| log.contains(RELOADED));
        assert!(began.elapsed() < PROMISED, "{:?}", began.elapsed());
    }
    program.signal(Signal::TERM);
    let ended = program.end_within(PROMISED);
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
}
