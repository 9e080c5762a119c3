//! `backfill` writes what the rows determine at its true times, up to where the live series begin: nothing twice, no reset.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{self, Write};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use fastrand::Rng;
use jiff::Timestamp;
use rusqlite::params;
use rustix::process::Signal;
use session_buddy_bridge::internals::backfill::{Counted, EVENTS_MAX, OpenMetrics, Progress, Span, Summary, write};
use session_buddy_bridge::internals::ledger::{
    Changes, DURATION_BUCKETS_SECONDS, PhaseSeries, SkillIndex, SkillRow, SkillSeries,
};
use session_buddy_bridge::internals::skills_db::HistoryDatabase;
use session_buddy_bridge::internals::store::Store;
use session_buddy_bridge::settings::{FeedTarget, Settings, StateLocation};
use tempfile::TempDir;

use crate::support::model::{Database, Invocation};
use crate::support::program::{Ended, Program};
use crate::support::running_bridge::RunningBridge;
use crate::support::scripted_feed::{Clock, Gate, ScriptedFeed, Step};
use crate::support::scripted_receiver::{Action, ScriptedReceiver};
use crate::support::server_database::ServerDatabase;
use crate::support::{eventually, holds};

/// When the live series begin: no multiple of a minute, and in the past of every clock.
const END: i64 = 1_700_000_014;

const DAY: i64 = 86_400;

const HOSTILE: &str = "a\u{202e}\"b\\\n{c}";

struct Stage {
    _folder: TempDir,
    path: PathBuf,
    server: ServerDatabase,
}

/// Samples of a series by name and labels, in the order of the text: milliseconds and value.
type Series = BTreeMap<String, Vec<(i64, f64)>>;

impl Stage {
    /// Rows of four days, in another order than that of their times, as invocations end in another order than they began.
    fn filled(rows: u32, seed: u64) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("skills.db");
        let server = ServerDatabase::create(&path);
        server.execute("ALTER TABLE skill_invocation ADD COLUMN created_at TEXT; BEGIN");
        let mut random = Rng::with_seed(seed);
        for row in 0..rows {
            let began = END - 4 * DAY + i64::from(row) * 4 * DAY / i64::from(rows) - random.i64(0..3_000);
            let skill = [HOSTILE, "pytest-run", "ruff-check", "refactor"][random.usize(..4).min(random.usize(..4))];
            let phase = [None, Some("setup"), Some("execution")][random.usize(..3)];
            let seconds = random.bool().then(|| random.f64().powi(5) * 400.0);
            let stored = began + random.i64(0..4_000);
            let insert =
                "INSERT INTO skill_invocation (skill_name, invoked_at, session_id, completed, duration_seconds,
                workflow_phase, created_at) VALUES (?, ?, 's', ?, ?, ?, datetime(?, 'unixepoch'))";
            let micros = began * 1_000_000 + random.i64(0..1_000_000);
            let at = Timestamp::from_microsecond(micros).unwrap().to_string();
            server.connection.execute(insert, params![skill, at, random.u8(..5) > 0, seconds, phase, stored]).unwrap();
            if row % 7 == 0 {
                let insert = "INSERT INTO skill_anomalies (skill_name, detected_at, anomaly_type, deviation_score)
                    VALUES (?, datetime(?, 'unixepoch'), ?, 2.5)";
                let kind = ["drop", "spike"][random.usize(..2)];
                server.connection.execute(insert, params![skill, began, kind]).unwrap();
            }
        }
        server.execute(
            "UPDATE skill_invocation SET error_type =
                CASE id % 4 WHEN 0 THEN NULL WHEN 1 THEN 'timeout' WHEN 2 THEN 'http.client:404' ELSE 'no such file' END;
            COMMIT",
        );
        Self { _folder: folder, path, server }
    }

    fn text(&self, span: Span, events_max: usize) -> (String, Summary) {
        let (text, summary) = self.write(span, events_max, Vec::new());
        (String::from_utf8(text).unwrap(), summary)
    }

    fn write<W: Write>(&self, span: Span, events_max: usize, out: W) -> (W, Summary) {
        self.write_counted(&Counted::default(), span, events_max, out)
    }

    fn write_counted<W: Write>(&self, counted: &Counted, span: Span, events_max: usize, out: W) -> (W, Summary) {
        let database = HistoryDatabase::open(&self.path).unwrap();
        let mut sink = OpenMetrics::new(out, vec![("job".to_owned(), "j".to_owned())]);
        let history = database.history().unwrap();
        let summary = write(history, span, counted, events_max, &|| Ok(()), &mut sink, &mut Silent).unwrap();
        (sink.finish().unwrap(), summary)
    }

    fn run(&self, arguments: &[&str]) -> Ended {
        let path = self.path.to_str().unwrap();
        Program::start([&["backfill", "--feed.skills-db", path], arguments].concat()).end()
    }

    fn count(&self, sql: &str) -> f64 {
        self.server.connection.query_row(sql, [], |row| row.get(0)).unwrap()
    }
}

/// What a receiver got, by labels: milliseconds and bits of values.
type Pushed = BTreeMap<BTreeSet<(String, String)>, Vec<(i64, u64)>>;

struct Silent;

impl Progress for Silent {
    fn report(&mut self, _: &'static str, _: u64, _: u64) {}
}

fn span(days: i64) -> Span {
    Span { since_millis: (END - days * DAY) * 1_000, end_millis: END * 1_000, step_millis: 60_000 }
}

fn series(text: &str) -> Series {
    let mut series = Series::new();
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let (rest, seconds) = line.rsplit_once(' ').unwrap();
        let (name, value) = rest.rsplit_once(' ').unwrap();
        let millis = (seconds.parse::<f64>().unwrap() * 1e3).round() as i64;
        series.entry(name.to_owned()).or_default().push((millis, value.parse().unwrap()));
    }
    series
}

/// The value of a series at a time, as an instant query finds it.
fn value(samples: &[(i64, f64)], millis: i64) -> f64 {
    let until = samples.partition_point(|(at, _)| *at <= millis);
    until.checked_sub(1).map_or(0.0, |at| samples[at].1)
}

fn label<'s>(series: &'s str, name: &str) -> &'s str {
    let (_, rest) = series.split_once(&format!("{name}=\"")).unwrap();
    rest.split_once('"').unwrap().0
}

#[test]
fn every_series_has_the_value_of_sql_at_each_time() {
    let stage = Stage::filled(900, 1);
    // Stored when the live series have begun, or a moment before, when no bridge need have read them.
    stage.server.execute(&format!(
        "INSERT INTO skill_invocation (skill_name, invoked_at, session_id, completed, created_at)
         SELECT 'refactor', datetime({END} - 100, 'unixepoch'), 's', 1, datetime({END} - value, 'unixepoch')
         FROM (SELECT 6 AS value UNION ALL SELECT 5 UNION ALL SELECT 0 UNION ALL SELECT -9)"
    ));
    let (text, summary) = stage.text(span(6), EVENTS_MAX);
    let all = series(&text);
    assert!(text.ends_with("\n# EOF\n") && text.matches("# TYPE ").count() == 6, "{}", &text[text.len() - 200..]);
    assert_eq!(all.values().map(Vec::len).sum::<usize>() as u64, summary.samples);
    assert_eq!(all.len() as u64, summary.series);
    // What was stored within five seconds before the end, or later, is left to the live series.
    let is_in = format!("unixepoch(created_at) < {END} - 5");
    let rows = stage.count(&format!("SELECT count(*) + 0.0 FROM skill_invocation WHERE {is_in}"));
    let anomalies =
        stage.count(&format!("SELECT count(*) + 0.0 FROM skill_anomalies WHERE unixepoch(detected_at) < {END} - 5"));
    assert_eq!((rows + anomalies) as u64, summary.rows);
    assert!(summary.later_rows >= 3 && summary.invalid_rows + summary.rows_without_time == 0, "{summary:?}");
    for (name, samples) in all.iter().filter(|(name, _)| !name.contains('\u{202e}')) {
        for millis in (0..4).map(|day| (END - day * DAY) / 60 * 60_000).chain([END * 1_000 - 1]) {
            let until = if millis % 60_000 == 0 { millis / 1_000 } else { END };
            let skill = label(name, "skill_name");
            let rows = format!(
                "FROM skill_invocation WHERE skill_name = '{skill}' AND {is_in} AND unixepoch(invoked_at, 'subsec') <= {until}"
            );
            let phase = || format!("AND coalesce(workflow_phase, 'unknown') = '{}'", label(name, "workflow_phase"));
            let family = name.split('{').next().unwrap();
            let expected = match family {
                "skill_invocations_total" => {
                    let completed = label(name, "completed");
                    format!("SELECT count(*) + 0.0 {rows} {} AND completed = {completed}", phase())
                }
                "skill_duration_seconds_count" => format!("SELECT count(duration_seconds) + 0.0 {rows} {}", phase()),
                "skill_duration_seconds_sum" => format!("SELECT coalesce(sum(duration_seconds), 0.0) {rows} {}", phase()),
                "skill_duration_seconds_bucket" => {
                    let bound = label(name, "le").replace("+Inf", "1e300");
                    format!("SELECT count(*) + 0.0 {rows} {} AND duration_seconds <= {bound}", phase())
                }
                "skill_completion_rate" => format!("SELECT coalesce(avg(completed), 0.0) {rows}"),
                "anomalies_detected_total" => format!(
                    "SELECT count(*) + 0.0 FROM skill_anomalies WHERE skill_name = '{skill}' AND unixepoch(detected_at) <= {until}
                     AND unixepoch(detected_at) < {END} - 5 AND anomaly_type = '{}'",
                    label(name, "anomaly_type")
                ),
                "session_buddy_bridge_skill_failures_total" => {
                    let error_type = label(name, "error_type");
                    format!(
                        "SELECT count(*) + 0.0 {rows} AND NOT completed AND CASE error_type WHEN 'no such file' THEN 'other'
                         ELSE coalesce(error_type, 'unknown') END = '{error_type}'"
                    )
                }
                "session_buddy_bridge_skill_last_invoked_timestamp_seconds" => {
                    format!("SELECT coalesce(max(unixepoch(invoked_at, 'subsec')), 0.0) {rows}")
                }
                _ => panic!("{family} is not determined by rows"),
            };
            let (found, expected) = (value(samples, millis), stage.count(&expected));
            // SQLite's times have milliseconds.
            let error = if name.contains("timestamp_seconds") { 0.001 } else { 1e-9 * expected };
            assert!((found - expected).abs() <= error, "{name} at {millis}: {found}, not {expected}");
        }
    }
    assert!(all.keys().any(|name| name.contains("{skill_name=\"a\u{202e}\\\"b\\\\\\n{c}\",")), "names are escaped");
}

#[test]
fn no_counter_falls_no_query_finds_a_gap_and_each_series_ends_where_the_live_one_begins() {
    let stage = Stage::filled(700, 2);
    for (days, step_millis) in [(6, 60_000), (6, 7_000), (1, 60_000), (1, 3_600_000)] {
        let span = Span { step_millis, ..span(days) };
        let (text, _) = stage.text(span, EVENTS_MAX);
        for (name, samples) in series(&text) {
            let (first, last) = (samples[0], samples[samples.len() - 1]);
            assert_eq!(last.0, END * 1_000 - 1, "{name}");
            assert!(samples.is_sorted_by(|a, b| a.0 < b.0), "{name}: times");
            if !name.starts_with("skill_duration_seconds") {
                // A metric is in one piece, as OpenMetrics demands.
                let begin = text.find(&format!("\n{name} ")).unwrap();
                let piece = text[begin + 1..].lines().take_while(|line| line.starts_with(&format!("{name} "))).count();
                assert_eq!(piece, samples.len(), "{name}");
            }
            let is_time = name.starts_with("session_buddy_bridge_skill_last_invoked_timestamp_seconds");
            let is_counter = !is_time && !name.starts_with("skill_completion_rate");
            assert!(!(is_counter || is_time) || samples.is_sorted_by(|a, b| a.1 <= b.1), "{name}: values");
            let gap = samples.windows(2).map(|pair| pair[1].0 - pair[0].0).max().unwrap_or_default();
            assert!(gap <= 300_000.max(step_millis), "{name}: {gap}");
            let begin = span.first_millis();
            assert!(first.0 >= begin, "{name}");
            // A series that began earlier has its value; the others begin at 0.
            assert!(first.0 == begin || !is_counter || first.1 == 0.0, "{name}: {first:?}");
            samples[..samples.len() - 1].iter().for_each(|(millis, _)| assert_eq!(millis % step_millis, 0, "{name}"));
        }
        if days == 1 {
            let whole = series(&stage.text(Span { step_millis, ..self::span(6) }, EVENTS_MAX).0);
            for (name, samples) in series(&text) {
                for (millis, found) in samples.iter().step_by(50) {
                    assert_eq!(*found, value(&whole[&name], *millis), "{name}: since does not change a value");
                }
            }
        }
    }
}

#[test]
fn types_of_errors_beyond_the_limit_overflow_in_the_order_of_the_rows() {
    let stage = Stage::filled(400, 11);
    stage.server.execute(
        "UPDATE skill_invocation SET completed = 0, skill_name = 's', error_type = 'e' || ((id - 1) * 17 % 40)",
    );
    let text = stage.text(span(6), EVENTS_MAX).0;
    let last = |samples: &Vec<(i64, f64)>| samples[samples.len() - 1].1;
    let failures = series(&text).into_iter().filter(|(name, _)| name.contains("skill_failures_total"));
    let found: BTreeMap<_, _> =
        failures.map(|(name, samples)| (label(&name, "error_type").to_owned(), last(&samples))).collect();
    let is_in = format!("max(unixepoch(created_at), unixepoch(invoked_at)) < {END} - 5");
    let mut expected = BTreeMap::new();
    let sql =
        format!("SELECT error_type, count(*) + 0.0 FROM skill_invocation WHERE {is_in} GROUP BY 1 ORDER BY min(id)");
    let mut query = stage.server.connection.prepare(&sql).unwrap();
    let types = query.query_map([], |row| Ok((row.get::<_, String>(0)?, row.get::<_, f64>(1)?))).unwrap();
    for (at, one) in types.enumerate() {
        let (name, count) = one.unwrap();
        *expected.entry(if at < 32 { name } else { "__overflow__".to_owned() }).or_insert(0.0) += count;
    }
    assert_eq!((found.len(), found), (33, expected));

    stage.server.execute("ALTER TABLE skill_invocation DROP COLUMN error_type");
    let text = stage.text(span(6), EVENTS_MAX).0;
    assert!(!text.contains("skill_failures_total{"), "no bridge shows a cause without the column");
    assert!(text.contains("skill_last_invoked_timestamp_seconds{"));
}

#[test]
fn only_what_the_bridge_counts_is_in_the_history() {
    let stage = Stage::filled(300, 12);
    let whole = series(&stage.text(span(6), EVENTS_MAX).0);
    let skills = vec!["pytest-run".to_owned(), "refactor".to_owned()];
    let (text, summary) =
        stage.write_counted(&Counted { skills, ..Counted::default() }, span(6), EVENTS_MAX, Vec::new());
    let some = series(&String::from_utf8(text).unwrap());
    let expected: Series = whole
        .iter()
        .filter(|(name, _)| ["pytest-run", "refactor"].contains(&label(name, "skill_name")))
        .map(|(name, samples)| (name.clone(), samples.clone()))
        .collect();
    assert!(some == expected && some.len() < whole.len(), "{:?}", some.keys());
    assert_eq!((summary.rows_without_time, summary.invalid_rows), (0, 0));

    let until = END.to_string();
    let of_command =
        |arguments: &[&str]| stage.run(&[&["--until", &until, "--since", "1h"], arguments].concat()).stdout;
    let names = |text: &str| -> BTreeSet<String> {
        let series = series(text).into_keys();
        series.map(|name| label(&name, "skill_name").to_owned()).collect()
    };
    let some = names(&of_command(&["--feed.skill", "pytest-run", "--feed.skill", "refactor"]));
    assert_eq!(some, ["pytest-run", "refactor"].map(ToOwned::to_owned).into());
    let limited = names(&of_command(&["--limit.skills", "1"]));
    assert!(limited.len() == 2 && limited.contains("__overflow__"), "{limited:?}");
}

#[test]
fn the_same_database_gives_the_same_bytes_whatever_fits_into_memory() {
    let stage = Stage::filled(500, 3);
    let whole = stage.text(span(6), EVENTS_MAX);
    for events_max in [EVENTS_MAX, 1, 100, 300] {
        assert!(stage.text(span(6), events_max) == whole, "{events_max}");
    }
}

/// The bridge adds durations up in the order of the rows; samples are in the order of their times.
#[test]
fn a_sum_never_exceeds_what_the_bridge_adds_up() {
    for seed in 0..20 {
        let stage = Stage::filled(200, 100 + seed);
        let short = Span { since_millis: (END - 600) * 1_000, ..span(1) };
        let (text, _) = stage.text(short, EVENTS_MAX);
        for (name, samples) in series(&text).iter().filter(|(name, _)| name.starts_with("skill_duration_seconds_sum")) {
            let sql =
                "SELECT duration_seconds FROM skill_invocation WHERE skill_name = ? AND duration_seconds IS NOT NULL
                AND coalesce(workflow_phase, 'unknown') = ? AND unixepoch(created_at) < ? - 5 ORDER BY id";
            let skill = label(name, "skill_name");
            let skill = if skill.contains('\u{202e}') { HOSTILE } else { skill };
            let phase = name.split_once("workflow_phase=\"").unwrap().1.split_once('"').unwrap().0;
            let mut query = stage.server.connection.prepare(sql).unwrap();
            let seconds = query.query_map(params![skill, phase, END], |row| row.get::<_, f64>(0)).unwrap();
            let live = seconds.fold(0.0, |sum, seconds| sum + seconds.unwrap());
            let last = samples[samples.len() - 1].1;
            assert!(last <= live && live - last <= live * 1e-12, "{name}: {last} {live}");
        }
    }
}

#[test]
fn rows_without_a_time_are_counted_and_reported() {
    let stage = Stage::filled(20, 4);
    stage.server.execute(
        "INSERT INTO skill_invocation (skill_name, invoked_at, session_id, completed, duration_seconds) VALUES
         ('x', 'yesterday', 's', 1, 1), ('x', '', 's', 1, 1), ('x', '2026-11-01 00:00:00', 's', 3, 1);
         INSERT INTO skill_anomalies (skill_name, detected_at, anomaly_type) VALUES ('x', 'once', 'drop')",
    );
    let (_, summary) = stage.text(span(6), EVENTS_MAX);
    assert_eq!((summary.rows_without_time, summary.invalid_rows), (3, 1));
    let Ended { code, stdout, stderr } = stage.run(&["--until", &END.to_string()]);
    assert_eq!(code, Some(0), "{stderr}");
    assert!(stdout.ends_with("# EOF\n") && stderr.contains("rows_without_time=3 invalid_rows=1"), "{stderr}");
    assert!(stderr.contains(" end=2023-11-14T22:13:34Z"), "{stderr}");
}

#[test]
fn a_file_is_written_once_and_as_a_whole() {
    let stage = Stage::filled(50, 5);
    let file = stage.path.with_file_name("history.om");
    let until = END.to_string();
    let arguments =
        ["--until", &until, "--output", file.to_str().unwrap(), "--label", "instance=laptop", "--label", "team=a"];
    let Ended { code, stdout, stderr } = stage.run(&arguments);
    assert_eq!((code, stdout.as_str()), (Some(0), ""), "{stderr}");
    let text = fs::read_to_string(&file).unwrap();
    let labels = r#",instance="laptop",job="session-buddy",team="a"} "#;
    assert!(text.lines().filter(|line| !line.starts_with('#')).all(|line| line.contains(labels)), "{text}");
    let written = r#" labels="{instance=\"laptop\",job=\"session-buddy\",team=\"a\"}""#;
    assert!(stderr.contains(written), "{stderr}");
    assert_eq!(stage.run(&["--until", &until, "--label", "instance=laptop", "--label", "team=a"]).stdout, text);
    let Ended { code, stderr, .. } = stage.run(&arguments);
    assert_eq!(code, Some(1));
    assert!(stderr.contains("the file exists already"), "{stderr}");
    assert_eq!(fs::read_to_string(&file).unwrap(), text);

    let default = stage.run(&["--until", &until]).stdout;
    assert!(default.contains(r#",instance="localhost:9090",job="session-buddy"} "#), "{default}");
    stage.server.execute("DROP TABLE skill_invocation");
    fs::remove_file(&file).unwrap();
    let Ended { code, stderr, .. } = stage.run(&arguments);
    assert_eq!(code, Some(1));
    assert!(stderr.contains("has no table skill_invocation") && !file.exists(), "{stderr}");
}

#[test]
fn what_cannot_be_backfilled_is_refused() {
    let stage = Stage::filled(1, 6);
    for (arguments, expected) in [
        (&["--until", "yesterday"][..], "is no time"),
        (&["--until", "0"], "--until 1970-01-01T00:00:00Z is not between 1970 and now"),
        (&["--until", "-99999999999"], "--until -001199-02-15T14:13:21Z is not between 1970 and now"),
        (&["--until", "253402207200", "--since", "36500d"], "--until 9999-12-30T22:00:00Z is not between 1970 and now"),
        (&["--until", "1", "--step", "1"], "has no unit"),
        (&["--until", "1", "--label", "skill_name=x"], "is a label of the bridge's own series"),
        (&["--until", "1", "--push.url", "ftp://x"], "--push.url"),
        (&["--until", "1", "--push.url", "http://localhost/", "--output", "x"], "cannot be used with"),
    ] {
        let Ended { code, stderr, .. } = stage.run(arguments);
        assert_eq!(code, Some(2), "{arguments:?}: {stderr}");
        assert!(stderr.contains(expected), "{stderr}");
    }
    let missing = stage.path.with_file_name("state.db");
    let Ended { code, stderr, .. } = stage.run(&["--state.path", missing.to_str().unwrap()]);
    assert_eq!(code, Some(1));
    assert!(stderr.contains("there is no state file at") && !missing.exists(), "{stderr}");
}

fn changes(micros: i64) -> Changes {
    let phase = PhaseSeries {
        workflow_phase: "unknown".into(),
        completed: 1,
        abandoned: 0,
        durations: session_buddy_bridge::internals::ledger::Histogram::default(),
        born_micros: None,
        exemplar: None,
    };
    let series = SkillSeries { phases: vec![phase], ..SkillSeries::new("s".into()) };
    let row = SkillRow { index: SkillIndex(0), series, last_listed_micros: 0 };
    Changes { sequence: 1, skills: vec![row], wall_micros: micros, ..Changes::default() }
}

#[test]
fn the_state_remembers_when_its_first_series_was_committed() {
    let stage = Stage::filled(30, 7);
    let path = stage.path.with_file_name("state.db");
    let run = || stage.run(&["--state.path", path.to_str().unwrap()]);
    let mut store = Store::open(&path, |_| Ok(())).unwrap().store;
    store.commit(&Changes { wall_micros: 5, ..Changes::default() }).unwrap();
    let refused = run();
    assert_eq!(refused.code, Some(1));
    assert!(
        refused.stderr.contains("does not contain the time at which its series began: give the time"),
        "{}",
        refused.stderr
    );
    store.commit(&changes(END * 1_000_000 + 250_000)).unwrap();
    store.commit(&changes(END * 1_000_000 + 990_000)).unwrap();
    let at = END.to_string() + ".25";
    let expected = stage.run(&["--until", &at]).stdout;
    assert!(expected.contains(&format!(" {END}.249\n")), "it ends a millisecond before");
    assert_eq!(run().stdout, expected);
    // Deleted under a running bridge, it is written again.
    fs::remove_file(&path).unwrap();
    store.rewrite(&changes(END * 1_000_000 + 5_000_000)).unwrap();
    assert_eq!(run().stdout, expected);
}

#[test]
fn a_state_of_the_first_version_does_not_pretend_to_know_its_first_series() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state.db");
    fs::copy(crate::support::in_repository("tests/fixtures/states/1.db"), &path).unwrap();
    assert_eq!(Store::look_at_first_series(&path).unwrap().1, None);
    let mut store = Store::open(&path, Ok).unwrap().store;
    store.commit(&Changes { wall_micros: 7, ..changes(7) }).unwrap_or_default();
    drop(store);
    assert_eq!(Store::look_at_first_series(&path).unwrap().1, None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_receiver_gets_every_sample_of_the_text() {
    let stage = Stage::filled(120, 8);
    let pushed: Arc<Mutex<Pushed>> = Arc::default();
    let noted = Arc::clone(&pushed);
    let mut requests = 0;
    let receiver = ScriptedReceiver::start(move |request, _| {
        requests += 1;
        // What failed is sent again, and is the same.
        if requests == 2 {
            return Action::status("503 Service Unavailable", "Retry-After: 0\r\n", "");
        }
        let mut pushed = noted.lock().unwrap();
        for (labels, samples) in &request.series {
            pushed.entry(labels.iter().cloned().collect()).or_default().extend(samples);
        }
        Action::store()
    })
    .await;
    let (url, until) = (receiver.url(), END.to_string());
    let arguments = ["--until", &until, "--label", "instance=i", "--since", "3d"];
    let ended = stage.run(&[&arguments[..], &["--push.url", &url]].concat());
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    let text = stage.run(&arguments).stdout;
    let mut expected: Vec<Vec<(i64, u64)>> = series(&text)
        .into_values()
        .map(|samples| samples.into_iter().map(|(millis, value)| (millis, value.to_bits())).collect())
        .collect();
    let pushed = std::mem::take(&mut *pushed.lock().unwrap());
    let mut found: Vec<_> = pushed.values().cloned().collect();
    expected.sort();
    found.sort();
    assert!(found == expected, "{} of {} series", found.len(), expected.len());
    assert!(pushed.keys().all(|labels| labels.contains(&("instance".to_owned(), "i".to_owned()))));
    let buckets = DURATION_BUCKETS_SECONDS.len() + 1;
    let is_bucket = |labels: &&BTreeSet<(String, String)>| labels.iter().any(|(name, _)| name == "le");
    assert_eq!(pushed.keys().filter(is_bucket).count() % buckets, 0);

    let refusing = ScriptedReceiver::start(|_, _| Action::status("400 Bad Request", "", "out of bounds")).await;
    let ended = stage.run(&[&arguments[..], &["--push.url", &refusing.url()]].concat());
    assert_eq!(ended.code, Some(1));
    assert!(ended.stderr.contains("out of bounds: it has to accept samples of the past"), "{}", ended.stderr);
}

#[test]
fn a_receiver_that_does_not_answer_is_reported_at_once() {
    let stage = Stage::filled(5, 13);
    let (path, until) = (stage.path.to_str().unwrap(), END.to_string());
    // Nobody listens on a port that was given back.
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let url = format!("http://127.0.0.1:{port}/w");
    let arguments = ["backfill", "--feed.skills-db", path, "--until", &until, "--push.url", &url];
    let mut program = Program::start(arguments);
    program.until_stderr("its reason", |stderr| {
        let mut lines = stderr.lines();
        lines.any(|line| line.contains("level=warn") && line.contains("attempt=1 of=8") && line.contains("refused"))
    });
    program.signal(Signal::TERM);
    let ended = program.end();
    assert_eq!(ended.code, Some(1));
    assert!(ended.stderr.contains("interrupted"), "{}", ended.stderr);
}

#[test]
fn a_signal_leaves_no_half_file() {
    let stage = Stage::filled(100, 14);
    let output = stage.path.with_file_name("output");
    fs::create_dir(&output).unwrap();
    let file = output.join("history.om");
    let (path, until) = (stage.path.to_str().unwrap(), END.to_string());
    // Half a century at a step of a second is more than any disk takes in the time of a test.
    stage.server.execute("UPDATE skill_invocation SET invoked_at = datetime(id, 'unixepoch')");
    let arguments = ["backfill", "--feed.skills-db", path, "--until", &until, "--output", file.to_str().unwrap()];
    let names = || fs::read_dir(&output).unwrap().map(|entry| entry.unwrap().file_name()).collect::<Vec<_>>();
    for signal in [Signal::INT, Signal::TERM] {
        let program = Program::start([&arguments[..], &["--step", "1s", "--since", "36500d"]].concat());
        eventually("the file to begin", || {
            let begun =
                fs::read_dir(&output).unwrap().any(|entry| entry.unwrap().metadata().is_ok_and(|it| it.len() > 0));
            holds(begun, format!("{:?}", names()))
        });
        assert!(!file.exists(), "it has its name once it is whole");
        program.signal(signal);
        let ended = program.end();
        assert_eq!(ended.code, Some(1), "{}", ended.stderr);
        assert!(ended.stderr.contains("interrupted, no file was written"), "{}", ended.stderr);
        assert_eq!(names(), [""; 0], "{signal:?}");
    }
    let ended = Program::start([&arguments[..], &["--since", "1h"]].concat()).end();
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    assert_eq!(names(), ["history.om"]);
    assert!(fs::read_to_string(&file).unwrap().ends_with("# EOF\n"));
}

/// A server whose snapshots list one completed invocation of a skill.
fn server_of(skill_name: &str, at_micros: i64) -> ScriptedFeed {
    let invocation = Invocation {
        skill_name: skill_name.to_owned(),
        workflow_phase: None,
        completed: true,
        duration_seconds: Some(1.0),
    };
    let database = Database { invocations: vec![invocation], ..Database::default() };
    let text = move |round: u64| database.snapshot(round as i64 * 50_000 + at_micros);
    let every = Duration::from_millis(50);
    ScriptedFeed::start(vec![vec![Step::Clocked(Gate::default(), Clock::new(every), Box::new(text))]])
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_state_of_several_sources_has_no_history_of_one_database() {
    let stage = Stage::filled(3, 15);
    let servers = [server_of("a", 0), server_of("b", 7)];
    let feeds: Vec<_> = servers.iter().map(|server| FeedTarget::new(server.url().as_str()).unwrap()).collect();
    let names: Vec<_> = feeds.iter().map(|feed| feed.identity.clone()).collect();
    let skill = feeds[0].clone().with_skill("a");
    let path = stage.path.with_file_name("skill.db");
    let settings = Settings { state: StateLocation::Path(path.clone()), ..Settings::new(vec![skill]) };
    let bridge = RunningBridge::start(settings);
    bridge.until("every count", &1.0, |scrape| scrape.sum("skill_invocations_total")).await;
    bridge.stop().await;
    let of_skill = ["--state.path", path.to_str().unwrap()];
    let refused = stage.run(&of_skill);
    assert_eq!(refused.code, Some(1), "{}", refused.stderr);
    assert!(refused.stderr.contains("give --feed.skill="), "{}", refused.stderr);
    assert_eq!(stage.run(&[&of_skill[..], &["--feed.skill", "a"]].concat()).code, Some(0), "the remedy");

    for count in [1, 2] {
        let path = stage.path.with_file_name(format!("{count}.db"));
        let state = StateLocation::Path(path.clone());
        let bridge = RunningBridge::start(Settings { state, ..Settings::new(feeds[..count].to_vec()) });
        bridge.until("every count", &(count as f64), |scrape| scrape.sum("skill_invocations_total")).await;
        bridge.stop().await;
        let Ended { code, stdout, stderr } = stage.run(&["--state.path", path.to_str().unwrap()]);
        if count == 1 {
            assert_eq!(code, Some(0), "{stderr}");
            continue;
        }
        assert_eq!((code, stdout.as_str()), (Some(1), ""), "{stderr}");
        for expected in ["counts 2 sources (", &names[0], &names[1], "Give --until, and a --label"] {
            assert!(stderr.contains(expected), "{expected}: {stderr}");
        }
        let until = END.to_string();
        assert_eq!(stage.run(&["--until", &until, "--label", "desk=a"]).code, Some(0), "the remedy");
    }
}

/// Moves the log of the server to its database at the first write, which a reader's transaction prevents.
struct Checkpointing<'s> {
    server: &'s ServerDatabase,
    was_busy: Option<bool>,
}

impl Write for Checkpointing<'_> {
    fn write(&mut self, text: &[u8]) -> io::Result<usize> {
        let checkpoint = || self.server.connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| row.get(0));
        self.was_busy.get_or_insert_with(|| checkpoint().unwrap());
        Ok(text.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn whoever_takes_the_samples_slowly_holds_up_no_server() {
    let stage = Stage::filled(40, 10);
    let was_busy = |events_max| {
        // Something for the log.
        stage.server.invoke("later", 1);
        let out = Checkpointing { server: &stage.server, was_busy: None };
        stage.write(span(1), events_max, out).0.was_busy
    };
    assert_eq!(was_busy(EVENTS_MAX), Some(false));
    assert_eq!(was_busy(1), Some(true), "rows that do not fit are read again, at the same moment of the database");
}

#[test]
fn user_queries_are_in_no_sample() {
    let stage = Stage::filled(30, 9);
    stage
        .server
        .execute("UPDATE skill_invocation SET user_query = 'the words of a user', error_type = 'the words of a user'");
    let Ended { stdout, stderr, .. } = stage.run(&["--until", &END.to_string()]);
    assert!(stdout.len() > 1_000 && !stdout.contains("the words") && !stderr.contains("the words"));
    assert!(Path::new(&stage.path).exists());
}
