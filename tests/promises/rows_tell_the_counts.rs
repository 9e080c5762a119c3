//! With the server's database beside the feed every row counts exactly once, whatever becomes of the database, of the
//! bridge, or of the reading.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use crate::support::memory_state::MemoryState;
use crate::support::model::{Invocation, Metrics, START_MICROS, invocations, metrics_update, skill_name, sql_time};
use crate::support::property;
use crate::support::rows::{read_all, read_batch};
use crate::support::server_database::SCHEMA;
use crate::support::shown::{Shown, bucket_of};
use proptest::prelude::*;
use rusqlite::{Connection, params};
use session_buddy_bridge::internals::ledger::binding::Doubt;
use session_buddy_bridge::internals::ledger::{
    Changes, ConnectionId, FallenSkill, FeedId, FeedSpec, Histogram, Ledger, LedgerState, Limits, Notice, Now,
};
use session_buddy_bridge::internals::protocol;
use session_buddy_bridge::internals::skills_db::SkillsDatabase;
use session_buddy_bridge::internals::store::Store;
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

#[derive(Debug, Clone)]
enum Step {
    Append(Vec<Invocation>),
    Anomalies {
        skill: usize,
        times: usize,
    },
    Snapshot,
    Read,
    /// The database cannot be read for a moment.
    Fail,
    Keep,
    Die,
    /// The last rows are taken back, and some of them are written anew after a stranger.
    PowerCut {
        lost: usize,
        anew: usize,
    },
    Replace,
    DeleteOld(usize),
    /// The bridge ends in order and starts with the database configured, or without.
    Restart {
        detail: bool,
    },
}

/// A row and what makes it another than all others: when it was written.
#[derive(Debug, Clone)]
struct Written {
    id: i64,
    serial: u64,
    invocation: Invocation,
}

/// What rows hold as the types of their errors, completed ones too: that of a row by when it was written, so that one that is
/// written again has the same.
const CAUSES: [(Option<&str>, &str); 7] = [
    (Some("timeout"), "timeout"),
    (None, "unknown"),
    (Some("ValueError"), "ValueError"),
    (Some("no such file"), "other"),
    (Some(""), "unknown"),
    (Some("http.client:404"), "http.client:404"),
    (Some("other"), "other"),
];

/// What the row holds that was written as the one of this number, and the label that it leads to.
fn cause(serial: u64) -> (Option<&'static str>, &'static str) {
    CAUSES[serial as usize % CAUSES.len()]
}

/// What SQL would count as failures, each row once.
fn failures<'r>(rows: impl Iterator<Item = (&'r u64, &'r Invocation)>) -> BTreeMap<(String, String), u64> {
    let mut failures = BTreeMap::new();
    for (serial, row) in rows.filter(|(_, row)| !row.completed) {
        *failures.entry((row.skill_name.clone(), cause(*serial).1.to_owned())).or_default() += 1;
    }
    failures
}

/// The server.
struct Server {
    path: PathBuf,
    connection: Connection,
    rows: Vec<Written>,
    serial: u64,
    anomalies: Vec<(u64, String)>,
    /// Tells its anomalies from those of another database that were detected in the same second.
    generation: u32,
}

fn open_server(path: &PathBuf) -> Connection {
    let connection = Connection::open(path).expect("a database");
    connection.execute_batch("PRAGMA journal_mode = WAL; PRAGMA synchronous = OFF;").expect("a journal");
    connection.execute_batch(SCHEMA).expect("a schema");
    connection
}

impl Server {
    fn write(&mut self, serial: u64, invocation: &Invocation) {
        let Invocation { skill_name, workflow_phase, completed, duration_seconds } = invocation;
        self.connection
            .execute(
                "INSERT INTO skill_invocation
                     (skill_name, invoked_at, session_id, completed, duration_seconds, workflow_phase, error_type)
                 VALUES (?, ?, 's', ?, ?, ?, ?)",
                params![skill_name, serial.to_string(), completed, duration_seconds, workflow_phase, cause(serial).0],
            )
            .expect("written");
        let id = self.connection.last_insert_rowid();
        self.rows.push(Written { id, serial, invocation: invocation.clone() });
    }

    fn append(&mut self, invocation: &Invocation) {
        self.serial += 1;
        self.write(self.serial, invocation);
    }

    fn detect(&mut self, skill_name: &str, at_micros: i64) {
        self.serial += 1;
        self.connection
            .execute(
                "INSERT INTO skill_anomalies (skill_name, detected_at, anomaly_type, deviation_score)
                 VALUES (?, ?, 'drop', ?)",
                params![skill_name, sql_time(at_micros), f64::from(self.generation) + 2.5],
            )
            .expect("written");
        self.anomalies.push((self.serial, skill_name.to_owned()));
    }

    fn take_back(&mut self, lost: usize) -> Vec<Written> {
        let lost = self.rows.split_off(self.rows.len().saturating_sub(lost));
        let last = self.rows.last().map_or(0, |row| row.id);
        for Written { invocation, .. } in &lost {
            let seconds = invocation.duration_seconds.filter(|_| invocation.completed).unwrap_or(0.0);
            self.connection
                .execute(
                    "UPDATE skill_metrics SET total_invocations = total_invocations - 1,
                         completed_invocations = completed_invocations - ?, total_duration_seconds = total_duration_seconds - ?
                     WHERE skill_name = ?",
                    params![invocation.completed, seconds, invocation.skill_name],
                )
                .expect("taken back");
        }
        self.connection.execute("DELETE FROM skill_invocation WHERE id > ?", [last]).expect("taken back");
        let sequence = "UPDATE sqlite_sequence SET seq = ? WHERE name = 'skill_invocation'";
        self.connection.execute(sequence, [last]).expect("taken back");
        lost
    }

    fn replace(&mut self) {
        self.connection = Connection::open_in_memory().expect("a database");
        for companion in ["", "-wal", "-shm"] {
            let _ = fs::remove_file(format!("{}{companion}", self.path.display()));
        }
        self.connection = open_server(&self.path);
        self.generation += 1;
        self.rows.clear();
        self.anomalies.clear();
    }

    fn delete_old(&mut self, rows: usize) {
        let rows = rows.min(self.rows.len());
        for row in self.rows.drain(..rows) {
            self.connection.execute("DELETE FROM skill_invocation WHERE id = ?", [row.id]).expect("deleted");
        }
    }

    fn snapshot(&self, at_micros: i64) -> String {
        let mut query = self
            .connection
            .prepare("SELECT * FROM skill_metrics WHERE total_invocations > 0 ORDER BY 2 DESC, 1 LIMIT 10")
            .expect("a query");
        let rows = query.query_map([], |row| {
            Ok(Metrics {
                skill_name: row.get(0)?,
                total: row.get(1)?,
                completed: row.get(2)?,
                duration_seconds: row.get(3)?,
            })
        });
        let rows: Vec<_> = rows.expect("rows").map(|row| row.expect("a row")).collect();
        let mut anomalies: Vec<_> = self.newest_anomalies();
        anomalies.truncate(10);
        metrics_update(at_micros, &rows, &anomalies)
    }

    fn newest_anomalies(&self) -> Vec<crate::support::model::Anomaly> {
        let query =
            "SELECT skill_name, anomaly_type, detected_at, deviation_score FROM skill_anomalies ORDER BY 3 DESC";
        let mut query = self.connection.prepare(query).expect("a query");
        let rows = query.query_map([], |row| {
            Ok(crate::support::model::Anomaly {
                skill_name: row.get(0)?,
                anomaly_type: row.get(1)?,
                detected_at: row.get(2)?,
                deviation_score: row.get(3)?,
            })
        });
        rows.expect("rows").map(|row| row.expect("a row")).collect()
    }
}

/// The rows that a bridge has read, by serial.
#[derive(Debug, Clone, Default, PartialEq)]
struct Read {
    invocations: BTreeMap<u64, Invocation>,
    anomalies: BTreeMap<u64, String>,
}

struct History {
    _folder: TempDir,
    disk: MemoryState,
    /// The only skill to which the feed is subscribed, if it is not to all.
    filter: Option<&'static str>,
    limits: Limits,
    at_micros: i64,
    step_micros: i64,
    server: Server,
    detail: bool,
    is_failing: bool,
    is_cut: bool,
    database: Option<SkillsDatabase>,
    store: Option<Store>,
    ledger: Ledger,
    feed: FeedId,
    connection: ConnectionId,
    born_micros: i64,
    shown: Shown,
    /// What was read, and what of it is kept.
    read: Read,
    kept: Read,
    notices: Vec<Notice>,
}

fn start(
    limits: Limits,
    whole: LedgerState,
    filter: Option<&str>,
    detail: bool,
    at_micros: i64,
) -> (Ledger, FeedId, ConnectionId) {
    let now = Now { wall_micros: START_MICROS + at_micros, elapsed: Duration::ZERO };
    let mut ledger = Ledger::restore(limits, whole, now).expect("what was kept fits");
    let (identity, skill) = ("feed".to_owned(), filter.map(str::to_owned));
    let feed = ledger.add_feed(FeedSpec { identity, skill, ..FeedSpec::default() });
    if detail {
        ledger.expect_detail(feed);
    }
    let connection = ledger.open(feed, now);
    (ledger, feed, connection)
}

impl History {
    fn new(step_micros: i64, detail: bool) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("skills.db");
        let connection = open_server(&path);
        let server = Server { path, connection, rows: Vec::new(), serial: 0, anomalies: Vec::new(), generation: 0 };
        let (disk, limits) = (MemoryState::new(), Limits::default());
        let (store, whole) = disk.open();
        let (ledger, feed, connection) = start(limits, whole, None, detail, 0);
        Self {
            _folder: folder,
            disk,
            filter: None,
            limits,
            at_micros: 0,
            step_micros,
            server,
            detail,
            is_failing: false,
            is_cut: false,
            database: None,
            store: Some(store),
            ledger,
            feed,
            connection,
            born_micros: 0,
            shown: Shown::default(),
            read: Read::default(),
            kept: Read::default(),
            notices: Vec::new(),
        }
    }

    fn now(&self) -> Now {
        let elapsed = Duration::from_micros((self.at_micros - self.born_micros).unsigned_abs());
        Now { wall_micros: START_MICROS + self.at_micros, elapsed }
    }

    fn take(&mut self, step: &Step) {
        self.at_micros += self.step_micros;
        match step {
            Step::Append(invocations) => invocations.iter().for_each(|invocation| self.server.append(invocation)),
            Step::Anomalies { skill, times } => {
                (0..*times).for_each(|_| self.server.detect(&skill_name(*skill), self.at_micros));
            }
            Step::Snapshot => {
                let (frame, now) = (self.server.snapshot(self.at_micros), self.now());
                protocol::read(&frame, &protocol::Limits::default(), &mut |message| {
                    let message = message.expect("a snapshot");
                    self.ledger.apply(self.connection, &message, now, &mut self.notices);
                });
                // A snapshot wakes the reader. In a quick history it is read later, after whatever comes between.
                if !self.is_failing && self.step_micros > 1_000_000 {
                    self.read();
                }
            }
            Step::Read => {
                self.is_failing = false;
                self.read();
            }
            Step::Fail => {
                self.is_failing = true;
                self.database = None;
                let now = self.now();
                self.ledger.detail_failed(self.feed, now, &mut self.notices);
            }
            Step::Keep => self.keep(),
            Step::Die => self.start_again(self.detail),
            Step::PowerCut { lost, anew } => self.cut_power(*lost, *anew),
            Step::Replace => self.server.replace(),
            Step::DeleteOld(rows) => {
                // After a power cut that the bridge has not seen yet, what is deleted may be all that it knows.
                let is_known = |row: &Written| self.kept.invocations.contains_key(&row.serial);
                // What is deleted before it is read is counted without its phase: that has a test of its own.
                let is_read = self.server.rows.iter().take(*rows).all(is_known);
                if is_read && (!self.is_cut || self.server.rows.iter().all(is_known)) {
                    self.is_cut = false;
                    self.server.delete_old(*rows);
                }
            }
            Step::Restart { detail } => {
                self.keep();
                self.start_again(*detail);
            }
        }
    }

    /// What a reader does when it is woken.
    fn read(&mut self) {
        if !self.detail {
            return;
        }
        let now = self.now();
        let database = match self.database.take().filter(SkillsDatabase::is_current) {
            Some(database) => self.database.insert(database),
            None => {
                let database = SkillsDatabase::open(&self.server.path, &CancellationToken::new());
                self.database.insert(database.expect("a database"))
            }
        };
        read_all(database, &mut self.ledger, self.feed, now, &mut self.notices).expect("it can be read");
        if self.ledger.counters(self.feed).rows_tell != Some(true) {
            // It is not known yet whether it is the database of the feed.
            return;
        }
        let rows = self.server.rows.iter().map(|row| (row.serial, row.invocation.clone()));
        self.read.invocations.extend(rows);
        self.read.anomalies.extend(self.server.anomalies.iter().cloned());
    }

    fn keep(&mut self) {
        self.keep_by(|_, store, changes| store.commit(changes).map(|()| true).expect("committed"));
    }

    /// The same while nobody can write to `table`. Returns whether there was something to keep and it is not kept.
    fn keep_against(&mut self, table: &str) -> bool {
        !self.keep_by(|disk, store, changes| disk.commit_against(table, store, changes))
    }

    /// Returns whether all is kept.
    fn keep_by(&mut self, commit: impl FnOnce(&MemoryState, &mut Store, &Changes) -> bool) -> bool {
        let now = self.now();
        self.ledger.tick(now, &mut self.notices);
        if self.ledger.has_changed() {
            let changes = self.ledger.drain(now);
            if !commit(&self.disk, self.store.as_mut().expect("open"), &changes) {
                return false;
            }
            self.ledger.acknowledge(changes.sequence);
            self.shown.fold(changes);
            self.kept = self.read.clone();
        }
        true
    }

    fn start_again(&mut self, detail: bool) {
        self.store = None;
        self.database = None;
        self.detail = detail;
        self.read = self.kept.clone();
        let (store, whole) = self.disk.open();
        self.store = Some(store);
        let LedgerState { skills, rules, .. } = whole.clone();
        self.shown.fold(Changes { skills, rules, ..Changes::default() });
        self.born_micros = self.at_micros;
        (self.ledger, self.feed, self.connection) = start(self.limits, whole, self.filter, detail, self.at_micros);
    }

    /// Some row that was read must be left, or nothing tells this database from a new one.
    fn cut_power(&mut self, lost: usize, anew: usize) {
        let left = self.server.rows.len().saturating_sub(lost);
        if !self.server.rows[..left].iter().any(|row| self.kept.invocations.contains_key(&row.serial)) {
            return;
        }
        self.is_cut = true;
        let lost = self.server.take_back(lost);
        self.server.append(&Invocation {
            skill_name: skill_name(0),
            workflow_phase: None,
            completed: false,
            duration_seconds: None,
        });
        for row in lost.iter().take(anew) {
            self.server.write(row.serial, &row.invocation);
        }
    }

    /// Whether rows move the counters, and have brought every row that the database holds.
    fn is_joined(&self) -> bool {
        self.ledger.counters(self.feed).rows_tell == Some(true)
            && self.server.rows.iter().all(|row| self.kept.invocations.contains_key(&row.serial))
    }

    fn settle(&mut self) {
        for step in [Step::Read, Step::Snapshot, Step::Read, Step::Keep, Step::Snapshot, Step::Keep] {
            self.take(&step);
        }
    }
}

type Series = BTreeMap<(String, String), ([u64; 2], Histogram)>;

/// What SQL would count from the rows, each once.
fn counted<'r>(rows: impl Iterator<Item = &'r Invocation>) -> Series {
    let mut series = Series::new();
    for row in rows {
        let phase = row.workflow_phase.clone().unwrap_or_else(|| "unknown".to_owned());
        let (counts, durations) = series.entry((row.skill_name.clone(), phase)).or_default();
        counts[usize::from(row.completed)] += 1;
        if let Some(seconds) = row.duration_seconds {
            durations.buckets[bucket_of(seconds)] += 1;
            durations.sum += seconds;
        }
    }
    series
}

fn shown(shown: &Shown) -> Series {
    let series = shown.skills().flat_map(|skill| {
        skill.phases.iter().map(|phase| {
            let names = (skill.skill_name.to_string(), phase.workflow_phase.to_string());
            (names, ([phase.abandoned, phase.completed], phase.durations))
        })
    });
    series.collect()
}

fn by_skill(names: impl Iterator<Item = String>) -> BTreeMap<String, u64> {
    names.fold(BTreeMap::new(), |mut counts, name| {
        *counts.entry(name).or_default() += 1;
        counts
    })
}

fn appends(skills: usize) -> impl Strategy<Value = Step> {
    prop::collection::vec(invocations(skills), 1..12).prop_map(Step::Append)
}

fn anomalies(skills: usize) -> impl Strategy<Value = Step> {
    (0..skills, prop_oneof![4 => 1_usize..3, 1 => 10_usize..30])
        .prop_map(|(skill, times)| Step::Anomalies { skill, times })
}

fn fates(skills: usize) -> impl Strategy<Value = Step> {
    prop_oneof![
        10 => appends(skills),
        3 => anomalies(skills),
        6 => Just(Step::Snapshot),
        8 => Just(Step::Read),
        1 => Just(Step::Fail),
        6 => Just(Step::Keep),
        3 => Just(Step::Die),
        2 => (1_usize..8, 0_usize..8).prop_map(|(lost, anew)| Step::PowerCut { lost, anew }),
        1 => Just(Step::Replace),
        1 => (1_usize..20).prop_map(Step::DeleteOld),
    ]
}

fn comings_and_goings(skills: usize) -> impl Strategy<Value = Step> {
    prop_oneof![
        10 => appends(skills),
        3 => anomalies(skills),
        8 => Just(Step::Snapshot),
        4 => Just(Step::Read),
        2 => Just(Step::Fail),
        6 => Just(Step::Keep),
        2 => Just(Step::Die),
        3 => any::<bool>().prop_map(|detail| Step::Restart { detail }),
    ]
}

fn invocation(skill_name: &str) -> Invocation {
    Invocation {
        skill_name: skill_name.to_owned(),
        workflow_phase: Some("setup".to_owned()),
        completed: true,
        duration_seconds: Some(1.5),
    }
}

impl History {
    /// A bridge that has read so many rows of each skill, batch by batch.
    fn of_rows(skills: &[(&str, usize)]) -> Self {
        let mut history = Self::new(10_000, true);
        for (skill_name, rows) in skills {
            (0..*rows).for_each(|_| history.take(&Step::Append(vec![invocation(skill_name)])));
            history.settle();
        }
        history
    }

    fn execute(&self, sql: &str) {
        self.server.connection.execute_batch(sql).expect(sql);
    }

    fn undecided(&self, doubt: Doubt) -> u64 {
        let counted = self.shown.feed(0).undecided[doubt as usize];
        let notices = self.notices.iter().filter(|notice| **notice == Notice::Undecided { doubt });
        assert_eq!(notices.count() as u64, counted, "{doubt:?} is counted and logged");
        counted
    }

    /// The skills that fell: with their totals before and after it.
    fn fallen(&self) -> Vec<(String, u64, u64)> {
        let fell = |notice: &Notice| match notice {
            Notice::RolledBack { fell } => {
                let skill = |skill: &FallenSkill| (skill.skill_name.to_string(), skill.remembered, skill.listed);
                Some(fell.named.iter().map(skill).collect::<Vec<_>>())
            }
            _ => None,
        };
        self.notices.iter().filter_map(fell).flatten().collect()
    }
}

/// Rows show that it is the same database. What its numbers say beyond them is judged as a list would be.
#[test]
fn doubts_about_the_numbers_of_a_database_are_counted_and_logged() {
    let mut history = History::of_rows(&[("a", 1)]);
    // Each is one of the numbers that the skill had.
    (0..4).for_each(|_| history.take(&Step::Append(vec![invocation("a")])));
    history.settle();
    let doubts = |history: &History| Doubt::ALL.map(|doubt| history.undecided(doubt));
    let expected = [
        (3, [0, 0, 0, 0]),
        // It may have had two invocations as long as those of the four before.
        (4, [0, 0, 0, 1]),
        // It may have had one more.
        (5, [0, 1, 0, 1]),
    ];
    for (total, expected) in expected {
        history.execute(&format!(
            "UPDATE skill_metrics SET total_invocations = {total}, completed_invocations = {total},
                 total_duration_seconds = {total} * 1.5",
        ));
        history.settle();
        assert_eq!(doubts(&history), expected, "{total}");
        assert_eq!(history.shown.counts().values().sum::<u64>(), 5, "{total}");
    }
    assert_eq!(history.fallen(), [("a".to_owned(), 5, 3)]);
    assert!(history.notices.contains(&Notice::Restored));
    assert_eq!((history.shown.feed(0).resets, history.shown.feed(0).rollbacks), (0, 1));
}

/// No row of it was read before, and few numbers are what they were.
#[test]
fn a_damaged_database_that_comes_beside_its_feed_is_in_doubt() {
    let mut history = History::new(10_000, false);
    history.take(&Step::Append([vec![invocation("a"); 40], vec![invocation("b"); 7]].concat()));
    history.settle();
    history.execute("UPDATE skill_metrics SET total_invocations = 39, completed_invocations = 39, total_duration_seconds = 58.5 WHERE skill_name = 'a'");
    history.take(&Step::Restart { detail: true });
    history.settle();
    assert_eq!(history.undecided(Doubt::Damage), 1);
    assert_eq!(history.fallen(), [("a".to_owned(), 40, 39)]);
    assert_eq!(history.shown.counts().values().sum::<u64>(), 47);
}

#[test]
fn a_database_that_comes_back_younger_reports_what_fell() {
    let mut history = History::of_rows(&[("a", 5), ("b", 2)]);
    history.server.take_back(1);
    history.settle();
    assert_eq!(history.fallen(), [("b".to_owned(), 2, 1)]);
    assert_eq!(history.shown.feed(0).rollbacks, 1);
    assert_eq!(history.shown.counts().values().sum::<u64>(), 7);
}

/// Its keys went on where those of the former one ended, and its oldest rows are gone: no row shows that it is another one.
#[test]
fn a_database_without_its_first_rows_is_known_for_another_one_by_its_numbers() {
    let mut history = History::of_rows(&[("a", 5), ("b", 40)]);
    history.execute("DELETE FROM skill_invocation; DELETE FROM skill_metrics;");
    history.server.rows.clear();
    history.take(&Step::Append(vec![Invocation { duration_seconds: Some(0.7), ..invocation("b") }; 25]));
    history.server.delete_old(23);
    history.settle();
    assert_eq!((history.shown.feed(0).resets, history.shown.feed(0).rollbacks), (1, 0));
    assert_eq!(history.shown.counts().get(&("b".to_owned(), true)), Some(&65));
    history.take(&Step::Append(vec![invocation("b")]));
    history.settle();
    assert_eq!(history.shown.counts().get(&("b".to_owned(), true)), Some(&66));
}

/// Whatever is put beside a feed, it begins no more than one source in three of its snapshots.
#[test]
fn a_database_that_is_replaced_again_and_again_counts_once_its_feed_has_sent_three_snapshots() {
    let mut history = History::of_rows(&[("a", 5)]);
    for skill_name in ["b", "c"] {
        history.take(&Step::Replace);
        history.take(&Step::Append(vec![invocation(skill_name); 3]));
        [Step::Snapshot, Step::Read, Step::Keep].iter().for_each(|step| history.take(step));
        assert_eq!((history.shown.feed(0).resets, history.shown.counts().len()), (1, 2), "{skill_name}");
    }
    for _ in 0..2 {
        [Step::Snapshot, Step::Read, Step::Keep].iter().for_each(|step| history.take(step));
    }
    assert_eq!(history.shown.feed(0).resets, 2);
    let due = [("a", 5), ("b", 3), ("c", 3)].map(|(skill_name, count)| ((skill_name.to_owned(), true), count));
    assert_eq!(history.shown.counts(), due.into());
}

/// The numbers of the database hold them, as the feed lists them.
#[test]
fn rows_that_were_deleted_before_they_were_read_count_without_phase_and_duration() {
    let mut history = History::new(10_000, true);
    let invocation = Invocation {
        skill_name: "a".to_owned(),
        workflow_phase: Some("setup".to_owned()),
        completed: true,
        duration_seconds: Some(1.5),
    };
    history.take(&Step::Append(vec![invocation; 5]));
    history.server.delete_old(2);
    history.settle();
    let shown = shown(&history.shown);
    let of = |phase: &str| {
        shown.iter().find(|((_, name), _)| name == phase).map(|(_, (counts, durations))| (*counts, durations.count()))
    };
    assert_eq!(of("setup"), Some(([0, 3], 3)));
    assert_eq!(of("unknown"), Some(([0, 2], 0)));
}

/// As beside the feed alone: what has another name counts under that name.
#[test]
fn a_skill_that_is_renamed_in_rows_counts_under_its_new_name() {
    for renamed in ["a", "b"] {
        let mut history = History::new(10_000, true);
        for skill_name in ["a", "b", "a", "b", "a"] {
            let (skill_name, workflow_phase) = (skill_name.to_owned(), Some("setup".to_owned()));
            let duration_seconds = Some(1.5);
            history.take(&Step::Append(vec![Invocation {
                skill_name,
                workflow_phase,
                completed: true,
                duration_seconds,
            }]));
        }
        history.settle();
        for (table, column) in [("skill_invocation", "skill_name"), ("skill_metrics", "skill_name")] {
            let rename = format!("UPDATE {table} SET {column} = 'new' WHERE {column} = '{renamed}'");
            history.server.connection.execute_batch(&rename).expect("renamed");
        }
        history.settle();
        let counted: BTreeMap<_, _> =
            history.shown.counts().into_iter().map(|((name, _), count)| (name, count)).collect();
        let moved = if renamed == "a" { 3 } else { 2 };
        let due = [("a", 3), ("b", 2), ("new", moved)].map(|(name, count)| (name.to_owned(), count));
        assert_eq!(counted, due.into(), "{renamed}");
        assert_eq!((history.shown.feed(0).resets, history.shown.feed(0).rollbacks), (0, 1), "{renamed}");
        assert_eq!(history.fallen(), [(renamed.to_owned(), moved, 0)]);
        history.settle();
        assert_eq!(history.shown.counts().values().sum::<u64>(), 5 + moved, "{renamed}");
    }
}

/// A server with so many rows, whose feed has sent its first list.
fn long_history(rows: usize) -> (History, SkillsDatabase) {
    let mut history = History::new(10_000, true);
    history.take(&Step::Append(vec![invocation("a"); rows]));
    history.take(&Step::Snapshot);
    let database = SkillsDatabase::open(&history.server.path, &CancellationToken::new()).expect("a database");
    (history, database)
}

impl History {
    /// Returns whether there was a batch to read after `seconds` more.
    fn read_batch_after(&mut self, seconds: i64, database: &mut SkillsDatabase) -> bool {
        self.at_micros += seconds * 1_000_000;
        let now = self.now();
        read_batch(database, &mut self.ledger, self.feed, now, &mut self.notices).expect("it can be read").is_some()
    }

    fn invocations_shown(&self) -> u64 {
        self.shown.counts().values().sum()
    }
}

/// A series that begins with a part of its history would show the rest as an increase.
#[test]
fn nothing_of_a_long_history_is_shown_before_its_last_row_is_read() {
    let (mut history, mut database) = long_history(4_500);
    let mut batches = 0;
    while history.read_batch_after(2, &mut database) {
        batches += 1;
        history.keep();
        assert!([0, 4_500].contains(&history.invocations_shown()), "{:?}", history.shown.counts());
    }
    assert_eq!((batches, history.shown.counts()), (5, [(("a".to_owned(), true), 4_500)].into()));
}

/// A database that is locked halfway does not hide the other feeds for ever.
#[test]
fn a_reading_that_stops_halfway_holds_the_start_up_for_5_s() {
    let (mut history, mut database) = long_history(2_500);
    assert!(history.read_batch_after(4, &mut database) && history.read_batch_after(4, &mut database));
    history.step_micros = 2_000_000;
    let shown = [(); 3].map(|()| {
        history.take(&Step::Keep);
        history.invocations_shown()
    });
    assert_eq!(shown, [0, 0, 2_000], "after 2, 4 and 6 s");
}

fn failed(skill_name: &str) -> Invocation {
    Invocation { completed: false, duration_seconds: None, ..invocation(skill_name) }
}

/// As their phases and durations do, their causes stay unknown.
#[test]
fn failures_that_snapshots_have_counted_have_no_cause() {
    let mut history = History::new(10_000, false);
    history.take(&Step::Append([vec![failed("a"); 20], vec![invocation("a"); 25]].concat()));
    history.settle();
    history.take(&Step::Restart { detail: true });
    history.settle();
    assert!(history.is_joined());
    assert_eq!(history.shown.counts()[&("a".to_owned(), false)], 20);
    assert_eq!(history.shown.failures(), BTreeMap::new());
    history.take(&Step::Append(vec![failed("a"); 3]));
    history.settle();
    assert_eq!(history.shown.counts()[&("a".to_owned(), false)], 23);
    let new = history.server.rows[45..].iter().map(|row| (&row.serial, &row.invocation));
    assert_eq!(history.shown.failures(), failures(new));
}

/// What is kept of rows, and the failures that they told.
#[test]
fn a_failure_counts_once_whichever_commit_fails_and_whenever_the_bridge_dies() {
    for table in ["journal", "failure_count", "skill", "phase", "source", "source_skill", "database", "fingerprint"] {
        for dies in [true, false] {
            let mut history = History::of_rows(&[("a", 2)]);
            for round in 0..3 {
                history.take(&Step::Append(vec![failed("a"), invocation("b"), failed("b"), failed("a")]));
                history.take(&Step::Read);
                assert!(history.keep_against(table), "{table} holds nothing of it");
                if dies {
                    history.take(&Step::Die);
                } else {
                    history.take(&Step::Keep);
                    assert_eq!(history.shown.failures().values().sum::<u64>(), 3 * (round + 1), "{table}");
                }
            }
            history.settle();
            assert_eq!(history.kept.invocations.len(), 14);
            assert_eq!(history.shown.failures(), failures(history.kept.invocations.iter()), "{table} {dies}");
        }
    }
}

#[test]
fn failures_and_times_of_a_skill_without_a_subscription_are_exposed_once_there_is_one() {
    let mut history = History::of_rows(&[("a", 3), ("b", 3)]);
    history.filter = Some("a");
    history.take(&Step::Restart { detail: true });
    let rows = [vec![failed("b"); 5], vec![failed("a"); 2]].concat();
    [Step::Append(rows), Step::Read, Step::Keep, Step::Die].iter().for_each(|step| history.take(step));
    history.execute(
        "INSERT INTO skill_invocation (skill_name, invoked_at, session_id, completed, error_type)
         VALUES ('b', '2026-11-22 10:00:07', 's', 0, 'timeout')",
    );
    [Step::Read, Step::Keep].iter().for_each(|step| history.take(step));
    let mut due = failures(history.kept.invocations.iter());
    let covered: BTreeMap<_, _> = due.clone().into_iter().filter(|((name, _), _)| name == "a").collect();
    assert_eq!((history.shown.failures(), covered.values().sum::<u64>()), (covered, 2));
    assert_eq!(history.shown.skill("b").and_then(|skill| skill.last_invoked_micros), None);
    history.filter = None;
    history.take(&Step::Restart { detail: true });
    [Step::Read, Step::Keep, Step::Die, Step::Read, Step::Keep].iter().for_each(|step| history.take(step));
    *due.entry(("b".to_owned(), "timeout".to_owned())).or_default() += 1;
    assert_eq!(history.shown.failures(), due);
    assert_eq!(history.shown.counts()[&("b".to_owned(), false)], 6);
    let last = history.shown.skill("b").and_then(|skill| skill.last_invoked_micros);
    assert_eq!(last, Some(START_MICROS + 7_000_000));
}

#[test]
fn a_database_without_types_of_errors_has_no_failures_and_is_reported_once() {
    let mut history = History::new(10_000, true);
    history.execute("ALTER TABLE skill_invocation DROP COLUMN error_type");
    let row = |completed| {
        format!(
            "INSERT INTO skill_invocation (skill_name, invoked_at, session_id, completed)
             VALUES ('a', '2026-11-22 10:00:00', 's', {completed})"
        )
    };
    for completed in [0, 1, 0] {
        history.execute(&row(completed));
        history.settle();
    }
    let reported = |history: &History| history.notices.iter().filter(|notice| **notice == Notice::NoErrorTypes).count();
    assert_eq!((history.shown.failures(), reported(&history)), (BTreeMap::new(), 1));
    assert_eq!(history.shown.counts()[&("a".to_owned(), false)], 2);
    // The server migrates.
    history.execute("ALTER TABLE skill_invocation ADD COLUMN error_type TEXT");
    history.execute(&row(0));
    history.settle();
    let due = BTreeMap::from([(("a".to_owned(), "unknown".to_owned()), 1)]);
    assert_eq!((history.shown.failures(), reported(&history)), (due, 1));
}

#[test]
fn further_types_of_errors_of_a_skill_count_as_overflow() {
    let row = |kind: usize| {
        format!(
            "INSERT INTO skill_invocation (skill_name, invoked_at, session_id, completed, error_type)
             VALUES ('a', '2026-11-22 10:00:00', 's', 0, 'kind-less_{kind:03}'), ('a', '2026-11-22 10:00:01', 's', 0, 'kind_{kind:03}')"
        )
    };
    let types = |history: &History| -> BTreeMap<String, u64> {
        history.shown.failures().into_iter().map(|((_, error_type), count)| (error_type, count)).collect()
    };
    let mut history = History::new(10_000, true);
    (0..40).for_each(|kind| history.execute(&row(kind)));
    history.settle();
    history.take(&Step::Restart { detail: true });
    (0..40).for_each(|kind| history.execute(&row(kind)));
    history.settle();
    let mut due: BTreeMap<_, _> = (0..31).map(|kind| (format!("kind_{kind:03}"), 2)).collect();
    due.insert("other".to_owned(), 80);
    due.insert("__overflow__".to_owned(), 2 * 9);
    assert_eq!(types(&history), due);

    let mut history = History::new(10_000, true);
    // The skill and `__overflow__`, with what each sets aside, and three types.
    let series_max = 2 * 33 + 3;
    history.limits = Limits { series_max, ..Limits::default() };
    history.take(&Step::Restart { detail: true });
    (0..40).for_each(|kind| history.execute(&row(kind)));
    history.settle();
    let overflowed =
        |notice: &Notice| matches!(notice, Notice::SeriesOverflowed { series_max: max, .. } if *max == series_max);
    assert_eq!(history.notices.iter().filter(|notice| overflowed(notice)).count(), 1);
    let due = [("other", 40), ("kind_000", 1), ("kind_001", 1), ("__overflow__", 38)];
    assert_eq!(types(&history), due.map(|(name, count)| (name.to_owned(), count)).into());
}

#[test]
fn the_time_of_the_last_invocation_is_the_latest_of_rows_and_never_falls() {
    let mut history = History::new(10_000, true);
    let last = |history: &History| history.shown.skill("a").and_then(|skill| skill.last_invoked_micros);
    let rows = [
        ("yesterday", None),
        ("", None),
        ("2026-11-22T10:00:05.250+00:00", Some(5_250_000)),
        ("2026-11-22 10:00:03", Some(5_250_000)),
        ("2026-11-22T12:00:06+02:00", Some(6_000_000)),
        ("never", Some(6_000_000)),
    ];
    for (invoked_at, after) in rows {
        history.execute(&format!(
            "INSERT INTO skill_invocation (skill_name, invoked_at, session_id, completed)
             VALUES ('a', '{invoked_at}', 's', 1)"
        ));
        history.settle();
        history.take(&Step::Restart { detail: true });
        assert_eq!(last(&history), after.map(|micros| START_MICROS + micros), "{invoked_at}");
    }
    history.take(&Step::Replace);
    history.take(&Step::Append(vec![invocation("a")]));
    history.settle();
    assert_eq!(last(&history), Some(START_MICROS + 6_000_000));
}

proptest! {
    #![proptest_config(property())]

    /// Power cuts, replaced databases, deleted rows, kills: every series is what the rows tell, bucket by bucket.
    #[test]
    fn every_row_counts_once(steps in (1_usize..16).prop_flat_map(|skills| prop::collection::vec(fates(skills), 1..60))) {
        let mut history = History::new(10_000, true);
        steps.iter().for_each(|step| history.take(step));
        // A feed begins no more than one source in three of its snapshots.
        (0..2).for_each(|_| history.settle());
        prop_assert!(history.is_joined(), "nothing is proven by rows that nobody counts");
        let (now, then) = (shown(&history.shown), counted(history.kept.invocations.values()));
        prop_assert_eq!(now.keys().collect::<BTreeSet<_>>(), then.keys().collect::<BTreeSet<_>>());
        for (names, (counts, durations)) in &now {
            prop_assert_eq!(counts, &then[names].0, "{:?}", names);
            prop_assert_eq!(durations.buckets, then[names].1.buckets, "{:?}", names);
            prop_assert!((durations.sum - then[names].1.sum).abs() <= 1e-9 * durations.sum.max(1.0), "{:?}", names);
        }
        let anomalies: BTreeMap<_, _> =
            history.shown.anomalies().into_iter().map(|((_, skill), count)| (skill, count)).collect();
        prop_assert_eq!(anomalies, by_skill(history.kept.anomalies.values().cloned()));
        prop_assert_eq!(history.shown.failures(), failures(history.kept.invocations.iter()));
        prop_assert_eq!(history.shown.feed(0).detail_mismatches, 0);
    }

    /// On and off, readable and not: all in all the counts are the database's.
    #[test]
    fn coming_and_going_loses_nothing(
        steps in (1_usize..16).prop_flat_map(|skills| prop::collection::vec(comings_and_goings(skills), 1..60)),
        begins_with_detail in any::<bool>(),
        is_slow in any::<bool>(),
    ) {
        let mut history = History::new(if is_slow { 3_000_000 } else { 10_000 }, begins_with_detail);
        steps.iter().for_each(|step| history.take(step));
        history.take(&Step::Restart { detail: true });
        history.settle();
        prop_assert!(history.is_joined());
        let mut counts: BTreeMap<(String, bool), u64> = BTreeMap::new();
        for row in &history.server.rows {
            *counts.entry((row.invocation.skill_name.clone(), row.invocation.completed)).or_default() += 1;
        }
        // What a snapshot counted has no cause, and each row has at most one.
        let rows = history.server.rows.iter().map(|row| (&row.serial, &row.invocation));
        let (caused, happened) = (history.shown.failures(), failures(rows));
        prop_assert!(caused.iter().all(|(names, count)| happened.get(names) >= Some(count)), "{:?} of {:?}", caused, happened);
        prop_assert_eq!(history.shown.counts(), counts);
        let anomalies: BTreeMap<_, _> =
            history.shown.anomalies().into_iter().map(|((_, skill), count)| (skill, count)).collect();
        prop_assert_eq!(anomalies, by_skill(history.server.anomalies.iter().map(|(_, skill)| skill.clone())));
        prop_assert_eq!(history.shown.feed(0).resets, 0);
        prop_assert_eq!(history.shown.feed(0).detail_mismatches, 0);
    }
}
