//! `report` answers from the database alone: every cell equals SQL, and nothing else is read or written.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use jiff::Timestamp;
use rusqlite::{Connection, params};
use serde_json::Value;
use session_buddy_bridge::internals::report::{By, DURATIONS_MAX, Format, Period, Report, ReportError};
use session_buddy_bridge::internals::skills_db::{SkillsDatabaseError, with_history};

use crate::support::program::{Ended, Program};
use crate::support::report_sql::{compare, printed};
use crate::support::server_database::{SCHEMA, ServerDatabase};

const DAY: i64 = 86_400;

/// Turns the line around, colours it, and breaks it in each format.
const HOSTILE: &str = "a\u{202e}b\u{1b}[31m\r\n\u{9b}2J,\"|`<b>*_\\ =1";

/// What nobody may read.
const SECRET: &str = "the words of a user";

struct Stage {
    folder: tempfile::TempDir,
}

impl Stage {
    fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap() }
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("skills.db")
    }

    /// A server's database with rows of a hundred days, invalid ones and hostile names among them.
    fn filled(rows: u32) -> (Self, ServerDatabase) {
        let stage = Self::new();
        let server = ServerDatabase::create(&stage.path());
        let now = Timestamp::now().as_second();
        let mut random = fastrand::Rng::with_seed(7);
        server.execute("BEGIN");
        for number in 0..rows {
            let skill = match random.u8(..20) {
                0 => HOSTILE.to_owned(),
                other => format!("skill-{}", other / 2),
            };
            // More and more of late, and never at a full day, where a period could begin.
            let age = (f64::from(random.u32(..10_000)) / 10_000.0).powi(2) * 100.0 * DAY as f64;
            let second = now - 17 - 60 - age as i64 / 60 * 60;
            let time = Timestamp::from_second(second).unwrap();
            let at = match random.u8(..4) {
                0 => time.strftime("%Y-%m-%d %H:%M:%S").to_string(),
                1 => time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
                2 => Timestamp::from_second(second + 3_600).unwrap().strftime("%Y-%m-%dT%H:%M:%S+01:00").to_string(),
                _ => time.strftime("%Y-%m-%dT%H:%M:%S+00:00").to_string(),
            };
            let completed = random.u8(..10) < 7;
            let seconds = random.bool().then(|| f64::from(random.u32(..1_000_000)) / 997.0);
            let error = [None, Some("timeout"), Some("http.client:404"), Some(""), Some("no such file"), Some(HOSTILE)];
            let phase = [None, Some(""), Some("setup"), Some("execution"), Some(HOSTILE)];
            server
                .connection
                .execute(
                    "INSERT INTO skill_invocation (skill_name, invoked_at, session_id, completed, duration_seconds,
                        error_type, workflow_phase, user_query) VALUES (?, ?, 's', ?, ?, ?, ?, ?)",
                    params![
                        skill,
                        at,
                        completed,
                        seconds,
                        error[random.usize(..error.len())],
                        phase[random.usize(..phase.len())],
                        SECRET
                    ],
                )
                .unwrap();
            if number % 9 == 0 {
                let score = random.f64();
                server
                    .connection
                    .execute(
                        "INSERT INTO skill_anomalies (skill_name, detected_at, anomaly_type, deviation_score)
                         VALUES (?, ?, 'drop', ?)",
                        params![skill, at, score],
                    )
                    .unwrap();
            }
        }
        server.execute(
            "INSERT INTO skill_invocation (skill_name, invoked_at, session_id, completed, duration_seconds) VALUES
             ('skill-1', 'yesterday', 's', 1, 1.0), ('skill-1', '', 's', 1, 1.0), ('', datetime('now'), 's', 1, 1.0),
             ('skill-1', datetime('now'), 's', 7, 1.0), ('skill-1', datetime('now'), 's', 1, -1.0),
             ('skill-1', datetime('now'), 's', 1, 'long'), ('early', datetime('now', '-1000 days'), 's', 1, 1.0);
             COMMIT",
        );
        (stage, server)
    }

    fn report(&self, arguments: &[&str]) -> Ended {
        let path = self.path();
        Program::start([&["report", "--feed.skills-db", path.to_str().unwrap()], arguments].concat()).end()
    }

    /// Every file of the folder, with its length and the time of its last change. None is opened: that would release the locks
    /// that this process has on it.
    fn files(&self) -> BTreeMap<PathBuf, (u64, SystemTime)> {
        let entries = fs::read_dir(self.folder.path()).unwrap().map(Result::unwrap);
        let described = entries.map(|entry| {
            let metadata = entry.metadata().unwrap();
            (entry.path(), (metadata.len(), metadata.modified().unwrap()))
        });
        described.collect()
    }
}

fn period(days: i64) -> Period {
    let end = Timestamp::from_second(Timestamp::now().as_second()).unwrap();
    let before = |days: i64| Timestamp::from_second(end.as_second() - days * DAY).unwrap();
    Period { former_start: before(2 * days), start: before(days), end }
}

fn read(path: &Path, by: By, period: Period, durations_max: usize) -> Report {
    with_history(path, |history| Report::read(history, by, period, None, durations_max)).unwrap()
}

#[test]
fn every_cell_equals_sql() {
    let (stage, _server) = Stage::filled(3_000);
    for by in ["skill", "phase", "error"] {
        for since in ["30d", "2d", "90d"] {
            let report = printed(&stage.path(), &["--by", by, "--since", since]);
            assert!(report["groups"].as_array().unwrap().len() > 2, "{report}");
            compare(&stage.path(), &report);
            // Anomalies are of skills alone, and all of them have a time.
            assert_eq!(report["rows_left_out"], serde_json::json!({ "invalid": 4, "without_time": 2 }));
        }
    }
    let report = printed(&stage.path(), &["--since", "2d"]);
    let trends: BTreeSet<_> =
        report["groups"].as_array().unwrap().iter().map(|group| group["trend"].as_str()).collect();
    assert!(trends.contains(&Some("up")) && trends.contains(&Some("steady")), "{trends:?}");
}

#[test]
fn the_numbers_do_not_depend_on_the_memory() {
    let (stage, _server) = Stage::filled(400);
    let period = period(60);
    for by in [By::Skill, By::Phase, By::Error] {
        let expected = read(&stage.path(), by, period, DURATIONS_MAX);
        assert!(expected.groups.iter().any(|group| group.durations.is_some()));
        for durations_max in [1, 20, 60] {
            assert_eq!(read(&stage.path(), by, period, durations_max), expected, "{by:?} {durations_max}");
        }
    }
}

#[test]
fn no_trend_is_reported_before_the_rows_cover_both_periods() {
    let stage = Stage::new();
    let server = ServerDatabase::create(&stage.path());
    let insert = |age: &str| {
        server.execute(&format!(
            "INSERT INTO skill_invocation (skill_name, invoked_at, session_id, completed)
             VALUES ('s', datetime('now', '{age}'), 's', 1)"
        ));
    };
    (0..9).for_each(|_| insert("-1 hours"));
    insert("-59 days");
    let trend = || printed(&stage.path(), &[])["groups"][0]["trend"].clone();
    assert_eq!(trend(), Value::Null);
    let table = stage.report(&[]).stdout;
    assert!(table.contains("No trend: the rows begin at ") && !table.contains('↑'), "{table}");
    insert("-61 days");
    assert_eq!(trend(), "up");
    assert!(stage.report(&[]).stdout.contains('↑'));
}

#[test]
fn no_format_lets_a_name_control_a_terminal_or_break_a_row() {
    let (stage, _server) = Stage::filled(300);
    let shown = "a\\u{202e}b\\u{1b}[31m\\u{d}\\u{a}\\u{9b}2J,";
    for format in ["table", "json", "csv", "markdown"] {
        let Ended { code, stdout, stderr } = stage.report(&["--format", format]);
        assert_eq!(code, Some(0), "{stderr}");
        let is_unsafe = |c: char| (c.is_control() && !['\n', '\r'].contains(&c)) || c == '\u{202e}';
        assert!(!stdout.contains(is_unsafe) && !stdout.replace("\r\n", "\n").contains('\r'), "{format}: {stdout:?}");
        assert!(!stdout.contains(SECRET), "{format}: {stdout}");
        assert!(format == "json" || stdout.contains("a\\u{202e}b") || stdout.contains("a\\\\u{202e}b"), "{stdout}");
        match format {
            "csv" => {
                let row = stdout.lines().find(|line| line.starts_with("\"a\\u{202e}")).expect("a quoted name");
                assert!(row.starts_with(&format!("\"{shown}\"\"|`<b>*_\\ =1\",")), "{row}");
                let fields = |line: &str| {
                    // Quoted fields are those with an odd place between quotes.
                    line.split('"').step_by(2).map(|part| part.matches(',').count()).sum::<usize>()
                };
                let commas = fields(stdout.lines().next().unwrap());
                stdout.lines().for_each(|line| assert_eq!(fields(line), commas, "{line}"));
            }
            "markdown" => {
                let bars = |line: &str| line.replace("\\\\", "").replace("\\|", "").matches('|').count();
                let rows: Vec<_> = stdout.lines().filter(|line| line.starts_with("| ")).collect();
                assert!(rows.len() > 5, "{stdout}");
                rows.iter().for_each(|row| assert_eq!(bars(row), bars(rows[0]), "{row}"));
            }
            "json" => {
                let report: Value = serde_json::from_str(&stdout).unwrap();
                let groups = report["groups"].as_array().unwrap();
                assert!(groups.iter().any(|group| group["skill_name"] == HOSTILE), "the name is as it is stored");
            }
            _ => assert!(stdout.lines().any(|line| line.starts_with(shown)), "{stdout}"),
        }
    }
}

#[test]
fn no_line_of_a_table_is_wider_than_the_terminal() {
    let (stage, _server) = Stage::filled(300);
    let report = read(&stage.path(), By::Skill, period(30), DURATIONS_MAX);
    let whole = report.write(Format::Table { width: None });
    let widest = whole.lines().map(|line| line.chars().count()).max().unwrap();
    for width in [1, 20, 47, 60, 80, 100, 120, widest] {
        let table = report.write(Format::Table { width: Some(width) });
        for line in table.lines() {
            assert!(line.chars().count() <= width, "{width}: {line}");
        }
        let is_whole = table == whole;
        assert_eq!(is_whole, width == widest, "{width}:\n{table}");
        assert!(width < 80 || table.contains("Last used"), "{width}:\n{table}");
    }
}

#[test]
fn an_empty_database_is_an_empty_report() {
    let stage = Stage::new();
    let _server = ServerDatabase::create(&stage.path());
    for (format, expected) in [
        ("table", ": 0 invocations, 0 skills\n"),
        ("markdown", ": 0 invocations, 0 skills\n"),
        ("csv", ",failures\r\n"),
    ] {
        let Ended { code, stdout, stderr } = stage.report(&["--format", format]);
        assert_eq!((code, stderr.as_str()), (Some(0), ""));
        assert!(stdout.ends_with(expected), "{stdout}");
    }
    assert_eq!(printed(&stage.path(), &[])["groups"], serde_json::json!([]));
}

#[test]
fn a_database_that_cannot_be_read_is_exit_code_1_with_a_remedy() {
    let stage = Stage::new();
    let fails = |expected: &str| {
        let before = stage.files();
        let Ended { code, stdout, stderr } = stage.report(&[]);
        assert_eq!((code, stdout.as_str()), (Some(1), ""), "{stderr}");
        assert!(stderr.starts_with("error: ") && stderr.contains(expected) && stderr.lines().count() == 1, "{stderr}");
        assert_eq!(stage.files(), before);
    };
    fails("there is no database at");
    fs::write(stage.path(), "CREATE TABLE skill_invocation, which is no database").unwrap();
    fails("is not an SQLite database");
    fs::remove_file(stage.path()).unwrap();
    let connection = Connection::open(stage.path()).unwrap();
    connection.execute_batch("CREATE TABLE other (id)").unwrap();
    fails("has no table skill_invocation");
    connection.execute_batch(SCHEMA).unwrap();
    connection.execute_batch("BEGIN EXCLUSIVE").unwrap();
    fails("is locked by another process");
    let view = "ROLLBACK; ALTER TABLE skill_invocation RENAME TO renamed;
                CREATE VIEW skill_invocation AS SELECT * FROM renamed";
    connection.execute_batch(view).unwrap();
    fails("is a view, not a table");
}

#[test]
fn a_database_that_nobody_has_open_is_read_without_a_file_beside_it() {
    let (stage, server) = Stage::filled(50);
    drop(server);
    let before = stage.files();
    assert_eq!(before.len(), 1, "the last connection removes the companions");
    let report = printed(&stage.path(), &[]);
    assert_eq!(stage.files(), before);
    compare(&stage.path(), &report);
}

#[test]
fn rows_that_are_only_in_the_log_of_a_running_server_are_read_and_nothing_is_written() {
    let (stage, server) = Stage::filled(50);
    let invocations = |report: &Value| -> u64 {
        report["groups"].as_array().unwrap().iter().map(|group| group["invocations"].as_u64().unwrap()).sum()
    };
    let first = invocations(&printed(&stage.path(), &["--since", "2000d"]));
    server.execute(
        "INSERT INTO skill_invocation (skill_name, invoked_at, session_id, completed) VALUES ('s', datetime('now'), 's', 1)",
    );
    let before = stage.files();
    assert_eq!(before.len(), 3, "the server runs");
    assert_eq!(invocations(&printed(&stage.path(), &["--since", "2000d"])), first + 1);
    let after = stage.files();
    for (path, described) in &before {
        // Readers leave marks in the index of the log, as in every reading.
        assert!(path.to_string_lossy().ends_with("-shm") || after[path] == *described, "{}", path.display());
    }
}

#[test]
fn a_database_that_a_server_opens_meanwhile_is_read_again() {
    let (stage, server) = Stage::filled(20);
    drop(server);
    let (mut servers, mut readings) = (Vec::new(), 0);
    let rows = with_history(&stage.path(), |history| {
        readings += 1;
        if readings == 1 {
            let server = ServerDatabase::open(&stage.path());
            server.invoke("late", 5);
            servers.push(server);
        }
        let mut rows = 0;
        history.invocations(|row| {
            rows += u64::from(row.is_ok_and(|row| row.skill_name == "late"));
            Ok::<_, ReportError>(())
        })?;
        Ok::<_, ReportError>(rows)
    });
    assert_eq!((rows.unwrap(), readings), (5, 2));
}

#[test]
fn a_database_that_changes_during_each_reading_is_refused() {
    let (stage, server) = Stage::filled(5);
    drop(server);
    let mut readings = 0;
    let outcome = with_history(&stage.path(), |_| {
        readings += 1;
        drop(ServerDatabase::open(&stage.path()));
        let file = fs::File::options().append(true).open(stage.path()).unwrap();
        file.set_modified(SystemTime::UNIX_EPOCH + Duration::from_secs(readings)).unwrap();
        Ok::<_, SkillsDatabaseError>(())
    });
    assert!(matches!(outcome, Err(SkillsDatabaseError::Changed { .. })), "{outcome:?}");
}

#[test]
fn a_skill_that_is_installed_and_was_never_invoked_is_reported() {
    let (stage, server) = Stage::filled(100);
    server.invoke("old", 1);
    server.execute("UPDATE skill_invocation SET invoked_at = '2001-01-01 00:00:00' WHERE skill_name = 'old'");
    let folder = tempfile::tempdir().unwrap();
    let skill = |path: &str| {
        fs::create_dir_all(folder.path().join(path)).unwrap();
        fs::write(folder.path().join(path).join("SKILL.md"), "").unwrap();
    };
    ["one/skill-1", "one/old", "two/never", "elsewhere/linked"].into_iter().for_each(skill);
    fs::create_dir_all(folder.path().join("one/no-skill")).unwrap();
    fs::write(folder.path().join("one/file"), "").unwrap();
    std::os::unix::fs::symlink(folder.path().join("elsewhere/linked"), folder.path().join("two/linked")).unwrap();
    std::os::unix::fs::symlink(folder.path().join("nowhere"), folder.path().join("two/broken")).unwrap();
    let [one, two] = ["one", "two"].map(|name| folder.path().join(name).to_str().unwrap().to_owned());
    let report = printed(&stage.path(), &["--skills.dir", &one, "--skills.dir", &two]);
    let groups = report["groups"].as_array().unwrap();
    let names = |filter: &dyn Fn(&Value) -> bool| -> BTreeSet<&str> {
        groups.iter().filter(|group| filter(group)).map(|group| group["skill_name"].as_str().unwrap()).collect()
    };
    assert_eq!(names(&|group| group["installed"] == true), BTreeSet::from(["skill-1", "old", "never", "linked"]));
    assert_eq!(names(&|group| group["last_used"].is_null()), BTreeSet::from(["never", "linked"]));
    let variable = [("SESSION_BUDDY_BRIDGE_SKILLS_DIR", &*format!("{one},{two}"))];
    let path = stage.path();
    let table = Program::start_in(&variable, ["report", "--feed.skills-db", path.to_str().unwrap()]).end().stdout;
    assert!(table.contains("Installed and never invoked (2): "), "{table}");

    let missing = folder.path().join("missing");
    let Ended { code, stderr, .. } = stage.report(&["--skills.dir", missing.to_str().unwrap()]);
    assert_eq!(code, Some(1), "{stderr}");
    assert!(stderr.contains(&format!("cannot read {} (--skills.dir)", missing.display())), "{stderr}");
}

#[test]
fn a_report_that_is_not_possible_is_refused() {
    let stage = Stage::new();
    for (arguments, expected) in [
        (&["report"][..], "--feed.skills-db is missing"),
        (&["report", "--feed.skills-db", "~/skills.db"], "starts with ~"),
        (&["report", "--feed.skills-db", "skills.db", "--since", "30"], "has no unit"),
        (&["report", "--feed.skills-db", "skills.db", "--since", "1s"], "out of range"),
        (&["report", "--feed.skills-db", "skills.db", "--by", "phase", "--skills.dir", "/"], "--by skill alone"),
    ] {
        let Ended { code, stdout, stderr } = Program::start(arguments.iter().copied()).end();
        assert_eq!((code, stdout.as_str()), (Some(2), ""), "{arguments:?}: {stderr}");
        assert!(stderr.contains(expected), "{stderr}");
    }
    assert_eq!(stage.files().len(), 0);
}
