//! `report` answers from the database alone: every cell equals SQL, and nothing else is read or written.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
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
             ('skill-1', datetime('now'), 's', 1, 'long'), ('early', datetime('now', '-1000 days'), 's', 1, 1.0),
             ('later', datetime('now', '+400 days'), 's', 1, 1.0), ('skill-1', datetime('now', '+1 hour'), 's', 0, 1.0),
             (printf('%.257c', 'x'), datetime('now', '-1 day'), 's', 1, 1.0),
             ('__overflow__', datetime('now', '-1 day'), 's', 1, 1.0);
             INSERT INTO skill_invocation (skill_name, invoked_at, session_id, completed, workflow_phase) VALUES
             ('skill-1', datetime('now', '-1 day'), 's', 1, printf('%.257c', 'x')),
             (printf('%.256c', 'x'), datetime('now', '-1 day'), 's', 1, printf('%.256c', 'x'));
             INSERT INTO skill_anomalies (skill_name, detected_at, anomaly_type, deviation_score) VALUES
             ('anomalous', datetime('now', '-1 day'), 'drop', 0.5), ('once-anomalous', datetime('now', '-1000 days'), 'drop', 0.5),
             ('skill-1', datetime('now', '+1 day'), 'drop', 0.5), ('later', datetime('now', '+1 day'), 'drop', 0.5),
             (printf('%.257c', 'x'), datetime('now', '-1 day'), 'drop', 0.5);
             COMMIT",
        );
        (stage, server)
    }

    /// Copies the database of a running server, and its log, in a process of its own: to open a file here would release the locks
    /// that this process has on it.
    fn copy_of(&self, other: &Self) {
        for suffix in ["", "-wal"] {
            let [from, to] = [other, self].map(|stage| format!("{}{suffix}", stage.path().display()));
            assert!(Command::new("cp").args([from, to]).status().unwrap().success());
        }
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
            let [invalid, later] = if by == "skill" { [8, 4] } else { [7, 2] };
            let left_out = serde_json::json!({ "invalid": invalid, "without_time": 2, "later": later });
            assert_eq!(report["rows_left_out"], left_out);
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
fn rows_after_the_end_of_the_period_are_left_out_and_reported() {
    let stage = Stage::new();
    let server = ServerDatabase::create(&stage.path());
    server.execute(
        "INSERT INTO skill_invocation (skill_name, invoked_at, session_id, completed, duration_seconds) VALUES
         ('s', datetime('now'), 's', 1, 2.0), ('s', datetime('now', '+400 days'), 's', 0, 9.0),
         ('later', datetime('now', '+1 hour'), 's', 1, 9.0)",
    );
    let report = printed(&stage.path(), &[]);
    compare(&stage.path(), &report);
    let groups = report["groups"].as_array().unwrap();
    assert_eq!(groups.len(), 1, "{report}");
    assert_eq!((&groups[0]["invocations"], &groups[0]["mean_seconds"]), (&1.into(), &2.0.into()));
    assert_eq!(report["rows_left_out"]["later"], 2);
    assert!(stage.report(&[]).stdout.ends_with("\n2 rows are left out: later than the end of the period.\n"));
    let csv = stage.report(&["--format", "csv"]);
    assert!(csv.stderr.contains("invalid=0 without_time=0 later=2"), "{}", csv.stderr);
}

#[test]
fn means_of_the_largest_durations_do_not_overflow() {
    let stage = Stage::new();
    let server = ServerDatabase::create(&stage.path());
    server.execute(
        "INSERT INTO skill_invocation (skill_name, invoked_at, session_id, completed, duration_seconds) VALUES
         ('s', datetime('now'), 's', 1, 1e308), ('s', datetime('now'), 's', 1, 1e308)",
    );
    assert_eq!(printed(&stage.path(), &[])["groups"][0]["mean_seconds"], 1e308);
}

/// The sentence about times in `docs/how-to/history.md`.
#[test]
fn the_documented_times_are_read_and_others_are_left_out() {
    let read_as_by_sql = [
        "2026-11-20 10:24:23",
        "2026-11-20T10:24:23",
        "2026-11-20T10:24:23Z",
        "2026-11-20T10:24:23+00:00",
        "2026-11-20T11:24:23+01:00",
        "2026-11-20 04:54:23-05:30",
        "2026-11-20T10:24:23.250+00:00",
        "2026-11-20 10:24:23.250000",
        "2026-11-20T10:24",
        "2026-11-20",
    ];
    let read_here_alone = [
        ("2026-11-20t10:24:23z", "2026-11-20T10:24:23Z"),
        ("2026-11-20T10:24:23,25Z", "2026-11-20T10:24:23.25Z"),
        ("2026-11-20T11:24:23+0100", "2026-11-20T10:24:23Z"),
        ("2026-11-20T11:24:23+01", "2026-11-20T10:24:23Z"),
        ("20261120T102423Z", "2026-11-20T10:24:23Z"),
        ("2026-11-20T10:24:60", "2026-11-20T10:24:59Z"),
    ];
    let read_by_sql_alone =
        ["2026-11-20 11:24:23 +01:00", "2026-11-20 24:00:00", "2461364.5", "now", "10:24:23", "2026-02-30 10:24:23"];
    let read_by_neither = ["", "1795343063", "yesterday", "2026-13-01 00:00:00", "20.11.2026 10:24"];

    let stage = Stage::new();
    let server = ServerDatabase::create(&stage.path());
    let by_sql = |text: &str| -> Option<i64> {
        server.connection.query_row("SELECT unixepoch(?)", [text], |row| row.get(0)).unwrap()
    };
    let mut expected = BTreeMap::new();
    for text in read_as_by_sql {
        expected.insert(text, by_sql(text).unwrap_or_else(|| panic!("SQLite reads {text:?}")));
    }
    for (text, time) in read_here_alone {
        assert_eq!(by_sql(text), None, "{text:?}");
        expected.insert(text, time.parse::<Timestamp>().unwrap().as_second());
    }
    let left_out = [&read_by_sql_alone[..], &read_by_neither].concat();
    read_by_sql_alone.iter().for_each(|text| assert!(by_sql(text).is_some(), "{text:?}"));
    read_by_neither.iter().for_each(|text| assert_eq!(by_sql(text), None, "{text:?}"));
    for text in expected.keys().chain(&left_out) {
        let row = "INSERT INTO skill_invocation (skill_name, invoked_at, session_id, completed) VALUES ('at ' || ?1, ?1, 's', 1)";
        server.connection.execute(row, [text]).unwrap();
    }
    let end = "2026-12-20T00:00:00Z".parse().unwrap();
    let start = "2026-11-19T00:00:00Z".parse().unwrap();
    let period = Period { former_start: "2026-10-18T00:00:00Z".parse().unwrap(), start, end };
    let report = read(&stage.path(), By::Skill, period, DURATIONS_MAX);
    let found: BTreeMap<_, _> = report
        .groups
        .iter()
        .map(|group| (group.name.strip_prefix("at ").unwrap(), group.last_used.unwrap().as_second()))
        .collect();
    assert_eq!(found, expected);
    assert_eq!(report.left_out.without_time, left_out.len() as u64);
}

/// A skill of the example in `docs/how-to/history.md`.
struct ExampleSkill {
    name: &'static str,
    last_used: &'static str,
    /// In the period, and in the one before.
    invocations: [u32; 2],
    /// By the text of the error.
    failures: &'static [(Option<&'static str>, u32)],
    /// 0 for invocations without a duration.
    typical_seconds: f64,
    anomalies: u32,
}

const EXAMPLE: [ExampleSkill; 5] = [
    ExampleSkill {
        name: "pytest-run",
        last_used: "2026-11-26T18:41:00Z",
        invocations: [131, 84],
        failures: &[(Some("timeout"), 9), (Some("no such file"), 2)],
        typical_seconds: 3.0,
        anomalies: 2,
    },
    ExampleSkill {
        name: "ruff-check",
        last_used: "2026-11-26T17:12:00Z",
        invocations: [85, 90],
        failures: &[],
        typical_seconds: 0.2,
        anomalies: 0,
    },
    ExampleSkill {
        name: "refactor",
        last_used: "2026-11-21T09:30:00Z",
        invocations: [31, 58],
        failures: &[(Some("timeout"), 6), (None, 3)],
        typical_seconds: 21.0,
        anomalies: 3,
    },
    ExampleSkill {
        name: "review-pr",
        last_used: "2026-11-24T15:02:00Z",
        invocations: [14, 11],
        failures: &[(Some("http.client:404"), 1)],
        typical_seconds: 1.5,
        anomalies: 0,
    },
    ExampleSkill {
        name: "deploy",
        last_used: "2026-11-02T08:17:00Z",
        invocations: [1, 0],
        failures: &[(None, 1)],
        typical_seconds: 0.0,
        anomalies: 0,
    },
];

#[test]
fn the_example_of_the_document_is_what_is_printed() {
    let stage = Stage::new();
    let server = ServerDatabase::create(&stage.path());
    let time = |text: &str| text.parse::<Timestamp>().unwrap();
    let [former_start, start, end] = ["2026-09-27T19:00:00Z", "2026-10-27T19:00:00Z", "2026-11-26T19:00:00Z"].map(time);
    let text = |second: i64| Timestamp::from_second(second).unwrap().to_string();
    server.execute("BEGIN");
    for ExampleSkill { name, last_used, invocations: [invocations, former], failures, typical_seconds, anomalies } in
        EXAMPLE
    {
        let errors: Vec<_> = failures.iter().flat_map(|(error, count)| vec![*error; *count as usize]).collect();
        let insert = |second: i64, failure: Option<Option<&str>>, seconds: Option<f64>| {
            let row = "INSERT INTO skill_invocation (skill_name, invoked_at, session_id, completed, error_type, duration_seconds)
                       VALUES (?, ?, 's', ?, ?, ?)";
            let error = failure.flatten();
            server.connection.execute(row, params![name, text(second), failure.is_none(), error, seconds]).unwrap();
        };
        let last = time(last_used).as_second();
        let distance = (last - start.as_second()) / i64::from(invocations);
        for number in 0..invocations {
            // In another order than the durations, of which few are long.
            let share = f64::from(number * 37 % invocations) / f64::from(invocations);
            let seconds = (typical_seconds * (0.5 + share + 4.0 * share.powi(16)) * 1e3).round() / 1e3;
            let failure = errors.get(number as usize).copied();
            insert(last - i64::from(number) * distance, failure, Some(seconds).filter(|seconds| *seconds > 0.0));
        }
        let distance = (start.as_second() - former_start.as_second()) / i64::from(former.max(1));
        (1..=former).for_each(|number| insert(start.as_second() - i64::from(number) * distance, None, None));
        for number in 0..anomalies {
            let row = "INSERT INTO skill_anomalies (skill_name, detected_at, anomaly_type, deviation_score)
                       VALUES (?, ?, 'drop', ?)";
            server.connection.execute(row, params![name, last_used, f64::from(number)]).unwrap();
        }
    }
    server.execute("COMMIT");
    let installed = EXAMPLE.iter().map(|skill| skill.name.to_owned()).chain(["changelog".to_owned()]).collect();
    let period = Period { former_start, start, end };
    let report = with_history(&stage.path(), |history| {
        Report::read(history, By::Skill, period, Some(&installed), DURATIONS_MAX)
    });
    let printed = report.unwrap().write(Format::Table { width: None });
    let document = include_str!("../../docs/how-to/history.md");
    let (_, example) = document.split_once("$ session-buddy-bridge report ").unwrap();
    let (_, example) = example.split_once('\n').unwrap();
    let (example, _) = example.split_once("```").unwrap();
    assert!(example == printed, "the document should show:\n{printed}");
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
    fails("is locked by another process: run the command again when the lock is released");
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

/// A copy of a database and its log, without the index of the log: neither may be created beside files of others.
#[test]
fn a_log_without_its_index_is_refused_by_commands_with_a_remedy_that_works() {
    let (stage, server) = Stage::filled(50);
    let copied = Stage::new();
    copied.copy_of(&stage);
    drop(server);
    let before = copied.files();
    assert_eq!(before.len(), 2);
    let path = copied.path();
    let path = path.to_str().unwrap();
    for arguments in [&["report"][..], &["backfill", "--until", "2026-11-01T00:00:00Z"]] {
        let Ended { code, stdout, stderr } = Program::start([arguments, &["--feed.skills-db", path]].concat()).end();
        assert_eq!((code, stdout.as_str()), (Some(1), ""), "{stderr}");
        let remedy = format!("copy it with `sqlite3 {path} \".backup COPY\"` and name the copy");
        assert!(stderr.contains("has a -wal file and no -shm file") && stderr.contains(&remedy), "{stderr}");
        assert!(!stderr.contains("as soon as"), "nothing is read later: {stderr}");
        assert_eq!(copied.files(), before);
    }
    let backup = Stage::new();
    let connection = Connection::open(path).unwrap();
    connection.execute("VACUUM INTO ?", [backup.path().to_str().unwrap()]).unwrap();
    let [copied, original] =
        [&backup, &stage].map(|stage| printed(&stage.path(), &["--since", "2000d"])["groups"].clone());
    assert_eq!(copied, original);
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
    assert_eq!(
        names(&|group| group["last_used"].is_null()),
        BTreeSet::from(["never", "linked", "anomalous", "once-anomalous"])
    );
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
