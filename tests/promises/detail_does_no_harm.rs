//! Whatever lies where the server's database should be, the bridge goes on, changes nothing of it, and reads it as soon as
//! it is one; and who writes to it never waits for a reader.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use crate::support::model::{Invocation, Metrics, metrics_update};
use crate::support::rows::read_batch;
use crate::support::running_bridge::RunningBridge;
use crate::support::scrape::Scrape;
use crate::support::scripted_feed::{Gate, ScriptedFeed, Step};
use rusqlite::Connection;
use session_buddy_bridge::internals::ledger::{FeedSpec, Ledger, Limits, Now};
use session_buddy_bridge::internals::protocol;
use session_buddy_bridge::internals::skills_db::{SkillsDatabase, SkillsDatabaseError};
use session_buddy_bridge::settings::{FeedTarget, Settings};
use tokio_util::sync::CancellationToken;

const TABLE: &str = "CREATE TABLE skill_invocation (
    id INTEGER PRIMARY KEY AUTOINCREMENT, skill_name TEXT, workflow_phase TEXT, completed BOOLEAN, duration_seconds REAL,
    session_id TEXT, invoked_at TEXT, error_type TEXT, user_query TEXT
);";

fn database(path: &Path) -> Connection {
    let connection = Connection::open(path).unwrap();
    connection.execute_batch("PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL;").unwrap();
    connection.execute_batch(TABLE).unwrap();
    connection
}

fn insert(connection: &Connection, phase: Option<&str>) -> rusqlite::Result<usize> {
    connection.execute(
        "INSERT INTO skill_invocation (skill_name, workflow_phase, completed, duration_seconds) VALUES ('a', ?, 1, 0.25)",
        [phase],
    )
}

#[test]
fn what_is_no_database_is_refused_and_left_as_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let place = |name: &str| folder.path().join(name);
    let whole = place("whole.db");
    drop(database(&whole));
    assert!(!place("whole.db-wal").exists());
    let bytes = fs::read(&whole).unwrap();
    // In the older journal mode, and cut short.
    let mut truncated = bytes[..bytes.len() / 2].to_vec();
    truncated[18..20].fill(1);
    fs::write(place("truncated.db"), truncated).unwrap();
    fs::write(place("text.db"), "nothing to see here, and more than a header's worth of it ".repeat(20)).unwrap();
    fs::write(place("empty.db"), "").unwrap();
    fs::create_dir(place("folder.db")).unwrap();
    symlink("/dev/zero", place("device.db")).unwrap();
    assert!(Command::new("mkfifo").arg(place("pipe.db")).status().unwrap().success());
    let other = Connection::open(place("older.db")).unwrap();
    other.execute_batch("CREATE TABLE skill_invocation (id INTEGER PRIMARY KEY, skill_name TEXT)").unwrap();
    drop(other);

    let contents = |name: &str| fs::metadata(place(name)).ok().filter(|at| at.is_file()).map(|_| fs::read(place(name)));
    let listed = || {
        let entries = fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name());
        entries.collect::<std::collections::BTreeSet<_>>()
    };
    let before = listed();
    for (name, said) in [
        ("whole.db", "is not open in any server"),
        ("truncated.db", "malformed"),
        ("text.db", "is not an SQLite database"),
        ("empty.db", "has no table skill_invocation"),
        ("folder.db", "is not a file: let --feed.skills-db name the server's skills.db"),
        ("device.db", "is not a file"),
        ("pipe.db", "is not a file"),
        ("older.db", "has no column \"invoked_at\" in skill_invocation"),
        ("absent.db", "there is no database at"),
    ] {
        let was = contents(name).map(Result::unwrap);
        let refused: SkillsDatabaseError =
            SkillsDatabase::open(&place(name), &CancellationToken::new()).expect_err(name);
        assert!(refused.to_string().contains(said), "{name}: {refused}");
        assert_eq!(contents(name).map(Result::unwrap), was, "{name} was changed");
    }
    assert_eq!(listed(), before, "nothing was made");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_feed_goes_on_alone_until_the_database_comes() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("skills.db");
    let invocation =
        Invocation { skill_name: "a".to_owned(), workflow_phase: None, completed: true, duration_seconds: Some(0.25) };
    let listed = crate::support::model::Database { invocations: vec![invocation; 3], anomalies: Vec::new() };
    let feed = ScriptedFeed::start(vec![vec![Step::Rounds(
        Gate::default(),
        Duration::from_millis(200),
        Box::new(move || listed.snapshot(1)),
    )]]);
    let target = FeedTarget { skills_db: Some(path.clone()), ..FeedTarget::new(feed.url().as_str()).unwrap() };
    let bridge = RunningBridge::start(Settings::new(vec![target]));
    let view = |scrape: &Scrape| {
        let completed = |phase| {
            let labels = [("skill_name", "a"), ("workflow_phase", phase), ("completed", "true")];
            scrape.value("skill_invocations_total", &labels).unwrap_or_default()
        };
        (scrape.sum("session_buddy_bridge_detail_up"), completed("unknown"), completed("setup"))
    };
    bridge.until("the feed to go on alone", &(0.0, 3.0, 0.0), view).await;

    // A link to something else, then to the server's database: the three rows of which the feed has told, and two more.
    let elsewhere = folder.path().join("elsewhere.db");
    fs::write(&elsewhere, "no database").unwrap();
    symlink(&elsewhere, &path).unwrap();
    let real = folder.path().join("real.db");
    let rows = database(&real);
    (0..3).for_each(|_| assert!(insert(&rows, Some("execution")).is_ok()));
    symlink(&real, folder.path().join("next.db")).unwrap();
    fs::rename(folder.path().join("next.db"), &path).unwrap();
    bridge.until("the rows to take over", &(1.0, 3.0, 0.0), view).await;
    (0..2).for_each(|_| assert!(insert(&rows, Some("setup")).is_ok()));
    bridge.until("the rows that the feed has not told", &(1.0, 3.0, 2.0), view).await;
    insert(&rows, Some("setup")).unwrap();
    bridge.until("a row to count", &(1.0, 3.0, 3.0), view).await;

    // Cut short under the reader's eyes: what was counted stays.
    fs::File::options().write(true).open(&real).unwrap().set_len(100).unwrap();
    let failures = |scrape: &Scrape| scrape.sum("session_buddy_bridge_detail_failures_total") > 1.0;
    drop(rows);
    bridge.until("the loss to be noticed", &true, failures).await;
    let (_, unknown, setup) = view(&bridge.scrape().await);
    assert_eq!((unknown, setup), (3.0, 3.0));
    bridge.stop().await;
}

/// Says so when it goes out of scope, whatever the reason.
struct Ends<'a>(&'a AtomicBool);

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Release);
    }
}

#[test]
fn a_writer_at_full_speed_never_waits_for_the_reader() {
    const ROWS: u64 = 4_000;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("skills.db");
    let writer = database(&path);
    insert(&writer, None).unwrap();
    // Whatever is locked is an error at once.
    writer.busy_timeout(Duration::ZERO).unwrap();
    let mut ledger = Ledger::new(Limits::default());
    let feed = ledger.add_feed(FeedSpec { identity: "feed".to_owned(), ..FeedSpec::default() });
    ledger.expect_detail(feed);
    let now = Now::default();
    let connection = ledger.open(feed, now);
    let mut database = SkillsDatabase::open(&path, &CancellationToken::new()).expect("a database");
    // The feed lists what is there, so that the rows count.
    let listed = Metrics { total: 1, completed: 1, duration_seconds: 0.25, ..Metrics::none("a") };
    protocol::read(&metrics_update(0, &[listed], &[]), &protocol::Limits::default(), &mut |message| {
        ledger.apply(connection, &message.expect("a snapshot"), now, &mut Vec::new());
    });
    let first = read_batch(&mut database, &mut ledger, feed, now, &mut Vec::new()).expect("never locked");
    assert_eq!(first, Some(1));
    let is_over = AtomicBool::new(false);
    thread::scope(|scope| {
        let ends = Ends(&is_over);
        let writer = scope.spawn(move || {
            let _ends = ends;
            let mut refused = 0;
            for row in 0..ROWS {
                let mut attempts = 0;
                while let Err(error) = insert(&writer, row.is_multiple_of(2).then_some("setup")) {
                    assert_eq!(error.sqlite_error_code(), Some(rusqlite::ErrorCode::DatabaseBusy), "{error}");
                    attempts += 1;
                    thread::yield_now();
                }
                refused += u64::from(attempts > 0);
            }
            refused
        });
        let (mut read, mut rounds) = (0, 0);
        loop {
            let was_over = is_over.load(Ordering::Acquire);
            let mut batch =
                || read_batch(&mut database, &mut ledger, feed, now, &mut Vec::new()).expect("never locked");
            while let Some(rows) = batch() {
                read += rows as u64;
                rounds += 1;
            }
            if was_over {
                break;
            }
        }
        assert_eq!(read, ROWS);
        assert!(rounds > 10, "it read while rows were written");
        // A reader that twice finds the header of SQLite's index half written takes the writer's lock to read it once more: only
        // a machine that stops the writer there, twice, sees it.
        let refused = writer.join().expect("the writer ends");
        assert!(refused <= ROWS / 400, "{refused} of {ROWS} writes found the database locked");
    });
}
