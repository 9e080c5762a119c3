//! The reader of the server's database says what has become of the rows that were read, whatever was done to the database
//! meanwhile.

use std::path::Path;

use crate::support::server_database::{ServerDatabase, copy, remove_files};
use session_buddy_bridge::internals::skills_db::{
    AnomaliesPlan, BATCH_ROWS, DatabaseFacts, DatabaseReading, HeldSkills, MissingRows, ReadPlan, ReadRequest,
    RowFingerprint, RowsRead, SkillsDatabase, Table, TableCursor,
};
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

const SKILL: &str = "pytest-run";

struct Stage {
    folder: TempDir,
    server: Option<ServerDatabase>,
    /// What was read, in the order of reading.
    invocations: Vec<RowFingerprint>,
    anomalies: Vec<RowFingerprint>,
}

impl Stage {
    /// A database with so many rows of each kind, all of them read.
    fn read(rows: u64) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let server = ServerDatabase::create(&folder.path().join("skills.db"));
        let mut stage = Self { folder, server: Some(server), invocations: Vec::new(), anomalies: Vec::new() };
        stage.server().invoke(SKILL, rows);
        stage.server().detect(SKILL, u32::try_from(rows).unwrap(), 2.0, 0);
        stage.read_all();
        assert_eq!((stage.invocations.len() as u64, stage.anomalies.len() as u64), (rows, rows));
        stage
    }

    fn server(&self) -> &ServerDatabase {
        self.server.as_ref().unwrap()
    }

    fn path(&self) -> std::path::PathBuf {
        self.folder.path().join("skills.db")
    }

    fn request(&self) -> ReadRequest {
        let cursor = |rows: &[RowFingerprint]| TableCursor {
            key: rows.last().map_or(0, |row| row.key),
            last: rows.last().copied(),
        };
        ReadRequest {
            invocations: cursor(&self.invocations),
            anomalies: cursor(&self.anomalies),
            ..ReadRequest::default()
        }
    }

    fn remembered(&self, table: Table) -> Vec<RowFingerprint> {
        let rows = match table {
            Table::Invocations => &self.invocations,
            Table::Anomalies => &self.anomalies,
        };
        rows.iter().rev().copied().collect()
    }

    /// One reading with a connection of its own.
    fn reading(&self) -> DatabaseReading {
        reading(&mut open(&self.path()), self)
    }

    fn facts(&self) -> DatabaseFacts {
        self.reading().facts
    }

    fn read_all(&mut self) {
        let mut database = open(&self.path());
        while database.has_changed().unwrap() {
            let reading = reading(&mut database, self);
            self.invocations.extend(reading.invocations.iter().map(|row| row.fingerprint));
            self.anomalies.extend(reading.anomalies.iter().flatten().map(|row| row.fingerprint));
        }
    }

    /// The server stops, and the database becomes what the backup is.
    fn restore(&mut self, backup: &Path) {
        self.server = None;
        remove_files(&self.path());
        std::fs::rename(backup, self.path()).unwrap();
        self.server = Some(ServerDatabase::open(&self.path()));
    }
}

/// Whoever fills the table must not fill the memory of who reads it.
#[test]
fn no_more_skills_are_read_than_are_requested() {
    let stage = Stage::read(0);
    (0..10).for_each(|skill| stage.server().invoke(&format!("skill-{skill}"), 2));
    let read = |skills_max| {
        let request = ReadRequest { skills_max, sums_rows: true, ..ReadRequest::default() };
        let plan = |_: &DatabaseFacts| {
            Some(ReadPlan { invocations_after: 0, anomalies: AnomaliesPlan::Newest, counts_rows: true })
        };
        open(&stage.path()).read(&request, |_| Vec::new(), plan).unwrap().expect("planned")
    };
    let first = |held: Option<&HeldSkills>| {
        let held = held.expect("it holds skills");
        let names: Vec<_> = held.skills.iter().map(|skill| (skill.skill_name.to_string(), skill.total)).collect();
        (names, held.is_truncated)
    };
    let skills = |number: usize| (0..number).map(|skill| (format!("skill-{skill}"), 2)).collect::<Vec<_>>();
    for (skills_max, read_of, is_truncated) in [(4, 4, true), (10, 10, false), (11, 10, false)] {
        let reading = read(skills_max);
        assert_eq!(first(reading.facts.skill_metrics.as_ref()), (skills(read_of), is_truncated));
        assert_eq!(reading.facts.row_sums, None);
    }
    assert_eq!(read(4).row_counts.expect("they are counted").len(), 8, "those of the metrics, and as many others");
    stage.server().execute("DROP TRIGGER metrics; DROP TABLE skill_metrics;");
    let reading = read(4);
    assert_eq!(first(reading.facts.row_sums.as_ref()), (skills(4), true));
    assert_eq!((reading.row_counts.expect("they are counted").len(), reading.row_counts_are_truncated), (4, true));
}

fn open(path: &Path) -> SkillsDatabase {
    SkillsDatabase::open(path, &CancellationToken::new()).unwrap()
}

fn reading(database: &mut SkillsDatabase, stage: &Stage) -> DatabaseReading {
    let plan = |facts: &DatabaseFacts| Some(on_from_the_cursors(facts));
    database.read(&stage.request(), |table| stage.remembered(table), plan).unwrap().expect("planned")
}

fn on_from_the_cursors(facts: &DatabaseFacts) -> ReadPlan {
    ReadPlan {
        invocations_after: facts.invocations.cursor.key,
        anomalies: AnomaliesPlan::After(facts.anomalies.map_or(0, |facts| facts.cursor.key)),
        counts_rows: false,
    }
}

fn missing(rows_read: RowsRead) -> MissingRows {
    match rows_read {
        RowsRead::LastMissing(missing) => missing,
        other => panic!("the last row is there: {other:?}"),
    }
}

#[test]
fn rows_are_read_once_in_batches_and_the_last_one_is_recognised() {
    let rows = BATCH_ROWS as u64 + 500;
    let mut stage = Stage::read(rows);
    stage.server().invoke(SKILL, 2);
    let reading = stage.reading();
    assert_eq!(reading.facts.invocations.rows_read, RowsRead::LastPresent);
    assert_eq!(
        reading.invocations.iter().map(|row| row.fingerprint.key as u64).collect::<Vec<_>>(),
        [rows + 1, rows + 2]
    );
    assert!(!reading.has_more);
    let keys = reading.facts.invocations.keys.unwrap();
    assert_eq!((keys.oldest, keys.newest, reading.facts.invocations.sequence), (1, 1_502, Some(1_502)));
    let metrics = &reading.facts.skill_metrics.unwrap().skills[0];
    assert_eq!((&*metrics.skill_name, metrics.total, metrics.completed), (SKILL, rows + 2, rows + 2));
    assert_eq!(metrics.duration_seconds, Some((rows + 2) as f64 / 2.0));
    stage.read_all();
    assert!(stage.invocations.is_sorted_by(|a, b| a.key < b.key), "each row once");
}

#[test]
fn a_row_stays_the_same_whatever_is_corrected_or_migrated_in_it() {
    let stage = Stage::read(20);
    stage.server().execute(
        "UPDATE skill_invocation SET workflow_phase = 'setup', completed = 1 - completed, duration_seconds = 7,
             session_id = 'other', error_type = 'timeout', workflow_path = 'quick';
         UPDATE skill_anomalies SET resolved_at = '2026-11-22';
         ALTER TABLE skill_invocation DROP COLUMN error_type;
         ALTER TABLE skill_invocation ADD COLUMN later TEXT;",
    );
    let facts = stage.facts();
    assert_eq!(facts.invocations.rows_read, RowsRead::LastPresent);
    assert_eq!(facts.anomalies.unwrap().rows_read, RowsRead::LastPresent);
}

#[test]
fn a_row_with_another_time_is_another_row() {
    let stage = Stage::read(5);
    stage.server().execute("UPDATE skill_invocation SET invoked_at = '2020-01-01' WHERE id >= 4");
    let missing = missing(stage.facts().invocations.rows_read);
    assert_eq!((missing.newest_present, missing.oldest_replaced), (Some(3), Some(4)));
    assert_eq!((missing.present, missing.absent, missing.replaced), (3, 0, 2));
}

#[test]
fn a_row_of_a_skill_that_was_renamed_stays_the_same() {
    let stage = Stage::read(5);
    stage.server().execute("UPDATE skill_invocation SET skill_name = 'other' WHERE id >= 4");
    assert_eq!(stage.facts().invocations.rows_read, RowsRead::LastPresent);
    stage.server().execute("DELETE FROM skill_invocation WHERE id = 5");
    let missing = missing(stage.facts().invocations.rows_read);
    assert_eq!((missing.newest_present, missing.oldest_replaced), (Some(4), None));
}

#[test]
fn a_database_whose_only_skill_was_renamed_is_known_by_precise_times() {
    for (time, rows, is_known) in [
        ("2026-11-22 10:00:00.%06d", 2, true),
        ("2026-11-22 10:00:00.%06d", 1, false),
        ("2026-11-22 10:00:%02d", 9, false),
    ] {
        let mut stage = Stage::read(0);
        stage.server().invoke(SKILL, rows);
        stage.server().execute(&format!("UPDATE skill_invocation SET invoked_at = printf('{time}', id)"));
        stage.read_all();
        stage.server().execute("UPDATE skill_invocation SET skill_name = 'other'");
        let is_last_there = stage.facts().invocations.rows_read == RowsRead::LastPresent;
        assert_eq!(is_last_there, is_known, "{rows} rows with times like {time}");
    }
}

#[test]
fn deleting_the_newest_rows_leaves_the_sequence_and_the_metrics() {
    let stage = Stage::read(10);
    stage.server().execute("DELETE FROM skill_invocation WHERE id > 7");
    let facts = stage.facts();
    assert_eq!(facts.invocations.sequence, Some(10));
    assert_eq!(facts.skill_metrics.unwrap().skills[0].total, 10);
    assert_eq!(
        missing(facts.invocations.rows_read),
        MissingRows {
            newest_present: Some(7),
            oldest_replaced: None,
            present: 7,
            absent: 3,
            replaced: 0,
            rows_up_to_cursor: 7
        }
    );
}

#[test]
fn deleting_old_rows_shows_in_the_oldest_key_alone() {
    let stage = Stage::read(10);
    stage.server().execute("DELETE FROM skill_invocation WHERE id <= 7");
    let facts = stage.facts().invocations;
    assert_eq!((facts.rows_read, facts.keys.unwrap().oldest), (RowsRead::LastPresent, 8));
}

#[test]
fn an_emptied_table_keeps_its_sequence() {
    let stage = Stage::read(10);
    stage.server().execute("DELETE FROM skill_invocation");
    let facts = stage.facts().invocations;
    let missing = missing(facts.rows_read);
    assert_eq!((facts.keys, facts.sequence), (None, Some(10)));
    assert_eq!((missing.absent, missing.rows_up_to_cursor), (10, 0));
}

#[test]
fn rows_deleted_before_they_were_read_show_in_the_metrics() {
    let mut stage = Stage::read(10);
    stage.server().invoke(SKILL, 30);
    stage.server().execute("DELETE FROM skill_invocation WHERE id <= 35");
    let reading = stage.reading();
    assert_eq!((reading.invocations.len(), reading.facts.skill_metrics.unwrap().skills[0].total), (5, 40));
    stage.read_all();
    assert_eq!(stage.invocations.len(), 15);
}

#[test]
fn a_backup_brings_back_its_sequence_and_its_metrics() {
    let mut stage = Stage::read(10);
    let backup = stage.folder.path().join("backup.db");
    copy(&stage.path(), &backup);
    stage.server().invoke(SKILL, 5);
    stage.read_all();
    stage.restore(&backup);
    let facts = stage.facts();
    let gone = missing(facts.invocations.rows_read);
    assert_eq!((gone.newest_present, gone.absent, gone.replaced), (Some(10), 5, 0));
    assert_eq!((facts.invocations.sequence, facts.skill_metrics.unwrap().skills[0].total), (Some(10), 10));

    // It goes on from there: keys that were read belong to other rows.
    stage.server().invoke("other", 7);
    let facts = stage.facts();
    let gone = missing(facts.invocations.rows_read);
    assert_eq!((gone.newest_present, gone.oldest_replaced), (Some(10), Some(11)));
    assert_eq!((gone.absent, gone.replaced, facts.invocations.sequence), (0, 5, Some(17)));
}

#[test]
fn another_database_has_none_of_the_rows() {
    let mut stage = Stage::read(10);
    let other = stage.folder.path().join("other.db");
    ServerDatabase::create(&other).invoke("other", 25);
    let before = stage.facts().file;
    stage.restore(&other);
    let facts = stage.facts();
    assert_ne!(facts.file, before);
    let gone = missing(facts.invocations.rows_read);
    assert_eq!((gone.present, gone.replaced, gone.rows_up_to_cursor), (0, 10, 10));
    let anomalies = facts.anomalies.unwrap();
    assert_eq!((missing(anomalies.rows_read).absent, anomalies.keys, anomalies.sequence), (10, None, None));
}

/// The fingerprints of version 0.1.0 covered more columns. They are in its states.
#[test]
fn fingerprints_of_the_first_version_are_recognised() {
    let mut stage = Stage::read(0);
    stage.server().execute(
        "INSERT INTO skill_invocation (skill_name, workflow_phase, completed, duration_seconds, session_id, invoked_at)
         VALUES ('pytest-run', 'setup', 1, 0.25, 's1', '2026-11-22T10:00:01Z');
         INSERT INTO skill_anomalies (skill_name, anomaly_type, detected_at, deviation_score)
         VALUES ('pytest-run', 'drop', '2026-11-22 10:00:01', 2.5);",
    );
    // As that version computed them.
    stage.invocations = vec![RowFingerprint { key: 1, digest: -4107669153057406003 }];
    stage.anomalies = vec![RowFingerprint { key: 1, digest: -328893913992956823 }];
    let facts = stage.facts();
    assert_eq!(facts.invocations.rows_read, RowsRead::LastPresent);
    assert_eq!(facts.anomalies.unwrap().rows_read, RowsRead::LastPresent);

    stage.invocations[0].digest += 1;
    assert_eq!(missing(stage.facts().invocations.rows_read).replaced, 1);
}

#[test]
fn rows_are_counted_by_skill_where_the_plan_asks_for_it() {
    let stage = Stage::read(10);
    stage.server().invoke("other", 3);
    stage.server().execute(
        "INSERT INTO skill_invocation (skill_name, invoked_at, session_id, completed) VALUES ('other', 'now', 's', 0)",
    );
    let counting = |facts: &DatabaseFacts| ReadPlan {
        counts_rows: true,
        anomalies: AnomaliesPlan::Newest,
        ..on_from_the_cursors(facts)
    };
    let plan = |facts: &DatabaseFacts| Some(counting(facts));
    let reading = open(&stage.path()).read(&stage.request(), |table| stage.remembered(table), plan).unwrap();
    let reading = reading.expect("planned");
    let counts = reading.row_counts.unwrap();
    let seen = counts.iter().map(|skill| {
        let (all, unread) = (skill.all, skill.unread);
        (&*skill.skill_name, all.completed, all.abandoned, unread.completed, unread.abandoned, skill.duration_seconds)
    });
    assert_eq!(seen.collect::<Vec<_>>(), [("other", 3, 1, 3, 1, 1.5), (SKILL, 10, 0, 0, 0, 5.0)]);
    let anomalies = reading.anomaly_counts.unwrap();
    assert_eq!((&*anomalies[0].skill_name, &*anomalies[0].anomaly_type, anomalies[0].rows), (SKILL, "drop", 10));
    assert_eq!(reading.anomalies.unwrap().len(), 10, "the newest of them");
}

#[test]
fn a_row_that_is_not_completed_has_failed_with_a_type_where_the_database_has_types() {
    let stage = Stage::read(1);
    stage.server().execute(
        "INSERT INTO skill_invocation (skill_name, invoked_at, session_id, completed, error_type)
         VALUES ('s', 'now', 's', 0, NULL), ('s', 'now', 's', 0, ''), ('s', 'now', 's', 0, 'http:404'), ('s', 'now', 's', 1, 'timeout'),
                ('s', 'now', 's', 0, 'it timed out'), ('s', 'now', 's', 0, x'00'), ('s', 'now', 's', 0, printf('%.*c', 65, 'a')),
                ('s', 'now', 's', 0, hex(zeroblob(50000000))), ('s', 'now', 's', 2, 'timeout');",
    );
    let failures = |stage: &Stage| -> (bool, Vec<Option<Box<str>>>) {
        let reading = stage.reading();
        let rows = reading.invocations.into_iter().map(|row| row.details.ok().and_then(|details| details.failure));
        (reading.facts.has_error_types, rows.collect())
    };
    let due = [
        Some("unknown"),
        Some("unknown"),
        Some("http:404"),
        None,
        Some("other"),
        Some("other"),
        Some("other"),
        Some("other"),
        None,
    ];
    assert_eq!(failures(&stage), (true, due.map(|failure| failure.map(Into::into)).into()));
    stage.server().execute("ALTER TABLE skill_invocation DROP COLUMN error_type");
    assert_eq!(failures(&stage), (false, vec![None; due.len()]));
}

#[test]
fn a_text_of_any_length_costs_its_own_row_alone() {
    let stage = Stage::read(1);
    stage.server().execute(
        "INSERT INTO skill_invocation (skill_name, invoked_at, session_id, completed)
         VALUES (hex(zeroblob(50000000)), 'now', 's', 1), ('short', 'now', 's', 1);",
    );
    let reading = stage.reading();
    let names = reading.invocations.iter().map(|row| (row.skill_name.as_deref(), row.details.is_ok()));
    assert_eq!(names.collect::<Vec<_>>(), [(None, false), (Some("short"), true)]);
}
