//! A commit of one snapshot writes one page, to the journal of the state file. Nobody can tell: what is restored, shown, forgotten
//! or renamed is what it would be if each commit had been written to the tables, and damage is found.

use std::fs;
use std::path::{Path, PathBuf};

use rusqlite::Connection;
use rusqlite::types::Value;
use rustix::process::Signal;
use session_buddy_bridge::internals::ledger::records::HistoryChange;
use session_buddy_bridge::internals::ledger::{
    Changes, ConnectionId, FeedSpec, Ledger, LedgerState, Limits, SkillIndex, SourceId,
};
use session_buddy_bridge::internals::protocol;
use session_buddy_bridge::internals::store::{Corruption, Opened, Store, StoreError};
use tempfile::TempDir;

use crate::support::database_stage::until;
use crate::support::journal::{PART_BYTES, SLOTS, applied, fill, filler, pending_slots};
use crate::support::model::{Anomaly, Database, Invocation, SECOND, invocation_event, skill_name, sql_time};
use crate::support::observer::moment;
use crate::support::program::Program;
use crate::support::scrape::Scrape;
use crate::support::scripted_feed::{Gate, ScriptedFeed, Step};

/// A page of a new state file, with the header of its frame in the log.
const FRAME_BYTES: u64 = 1024 + 24;

const LOG_HEADER_BYTES: u64 = 32;

/// The skills of a commit that is executed in pieces.
const LONG_SKILLS: usize = 1_100;

/// A ledger with one feed of ten skills and ten anomalies, and its state file.
struct Stage {
    folder: TempDir,
    store: Store,
    ledger: Ledger,
    connection: ConnectionId,
    database: Database,
    at_micros: i64,
}

impl Stage {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let Opened { store, restored, .. } = open(&folder.path().join("state.db"));
        let mut ledger = Ledger::restore(Limits::default(), restored, moment(0)).unwrap();
        let feed = ledger.add_feed(FeedSpec { identity: "feed".to_owned(), ..FeedSpec::default() });
        let connection = ledger.open(feed, moment(0));
        let anomaly = |skill| Anomaly {
            skill_name: skill_name(skill),
            anomaly_type: "drop".to_owned(),
            detected_at: sql_time(0),
            deviation_score: Some(2.5),
        };
        let database =
            Database { invocations: (0..10).map(invocation).collect(), anomalies: (0..10).map(anomaly).collect() };
        Self { folder, store, ledger, connection, database, at_micros: 0 }
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("state.db")
    }

    /// The file as other programs read it.
    fn reader(&self) -> Connection {
        Connection::open(self.path()).unwrap()
    }

    /// The bytes of the log.
    fn log_bytes(&self) -> u64 {
        fs::metadata(self.path().with_extension("db-wal")).unwrap().len()
    }

    /// Streams an invocation of each of so many new skills. What they change is more than a journal holds.
    fn stream(&mut self, skills: usize) {
        for number in 0..skills {
            let invocation = Invocation { skill_name: format!("streamed-{number}"), ..invocation(0) };
            let event = invocation_event(Some(&format!("event-{number}")), self.at_micros, &invocation);
            let (ledger, connection, now) = (&mut self.ledger, self.connection, moment(self.at_micros));
            protocol::read(&event, &protocol::Limits::default(), &mut |message| {
                ledger.apply(connection, &message.unwrap(), now, &mut Vec::new());
            });
        }
    }

    /// What a snapshot a second later changes. The skill `number`, modulo ten, has one invocation more, and `skills` are new.
    fn changes(&mut self, number: usize, skills: std::ops::Range<usize>) -> Changes {
        self.at_micros += SECOND;
        self.database.invocations.push(invocation(number % 10));
        self.database.invocations.extend(skills.map(invocation));
        let (ledger, connection, now) = (&mut self.ledger, self.connection, moment(self.at_micros));
        protocol::read(&self.database.snapshot(self.at_micros), &protocol::Limits::default(), &mut |message| {
            ledger.apply(connection, &message.unwrap(), now, &mut Vec::new());
        });
        ledger.tick(now, &mut Vec::new());
        let changes = ledger.drain(now);
        ledger.acknowledge(changes.sequence);
        changes
    }

    fn commit(&mut self, number: usize) -> Changes {
        let changes = self.changes(number, 0..0);
        self.store.commit(&changes).unwrap();
        changes
    }

    /// The process is killed and another one starts, which restores the ledger.
    fn kill(self) -> Self {
        self.restart(drop)
    }

    /// The process ends in order and another one starts.
    fn close(self) -> Self {
        self.restart(|store| store.close().unwrap())
    }

    fn restart(self, end: impl FnOnce(Store)) -> Self {
        let Self { folder, store, database, at_micros, .. } = self;
        end(store);
        let Opened { store, restored, quarantined } = open(&folder.path().join("state.db"));
        assert_eq!(quarantined, None);
        let mut ledger = Ledger::restore(Limits::default(), restored, moment(at_micros)).unwrap();
        let feed = ledger.add_feed(FeedSpec { identity: "feed".to_owned(), ..FeedSpec::default() });
        let connection = ledger.open(feed, moment(at_micros));
        Self { folder, store, ledger, connection, database, at_micros }
    }
}

fn invocation(skill: usize) -> Invocation {
    Invocation {
        skill_name: skill_name(skill),
        workflow_phase: None,
        completed: true,
        duration_seconds: Some(0.25 + skill as f64),
    }
}

fn open(path: &Path) -> Opened<LedgerState> {
    Store::open(path, LedgerState::validated).unwrap_or_else(|error| panic!("{error}"))
}

fn invocations(whole: &LedgerState) -> u64 {
    whole.skills.iter().flat_map(|row| &row.series.phases).map(|phase| phase.completed + phase.abandoned).sum()
}

/// The whole ledger in the order of keys.
fn sorted(mut whole: LedgerState) -> LedgerState {
    let memory = &mut whole.memory;
    memory.feeds.sort_by_key(|row| row.slot);
    memory.agreed.sort_by_key(|row| (row.feed, row.skill_name.clone()));
    memory.addresses.sort_by_key(|row| row.address.clone());
    memory.sources.sort_by_key(|row| row.id);
    memory.skills.sort_by_key(|row| (row.source, row.skill_name.clone()));
    memory.histories.sort_by_key(|row| (row.source, row.skill_name.clone()));
    memory.tallies.sort_by_key(|row| (row.source, row.skill_name.clone(), row.anomaly_type.clone()));
    memory.anomalies.sort_by_key(|(key, _)| (key.source, key.skill_name.clone(), key.detected_at.clone()));
    whole.skills.sort_by_key(|row| row.index);
    whole
}

/// Every row of every table of the ledger.
fn rows(path: &Path) -> Vec<(String, Vec<Vec<Value>>)> {
    let connection = Connection::open(path).unwrap();
    let query =
        "SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT IN ('journal', 'location') ORDER BY name";
    let mut tables = connection.prepare(query).unwrap();
    let tables: Vec<String> = tables.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect();
    let rows = |table: String| {
        let mut query = connection.prepare(&format!("SELECT * FROM {table}")).unwrap();
        let columns = query.column_count();
        let rows = query.query_map([], |row| (0..columns).map(|column| row.get(column)).collect()).unwrap();
        let rows = rows.map(Result::unwrap).collect();
        (table, rows)
    };
    tables.into_iter().map(rows).collect()
}

/// The state file as a killed process leaves it.
fn copied(stage: &Stage) -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state.db");
    fs::copy(stage.path(), &path).unwrap();
    fs::copy(stage.path().with_extension("db-wal"), path.with_extension("db-wal")).unwrap();
    (folder, path)
}

#[test]
fn each_commit_of_a_snapshot_writes_one_page_also_after_400_listings() {
    let mut stage = Stage::new();
    for number in 0..400 {
        stage.commit(number);
    }
    stage = stage.close();
    // Of the first commit of a process every counter of the rules is a part.
    stage.commit(400);
    for number in 401..461 {
        let before = stage.log_bytes();
        stage.commit(number);
        assert_eq!(stage.log_bytes() - before, FRAME_BYTES, "commit {number}");
    }
}

/// With what the tables take of a full journal, each of ten skills in its turn.
#[test]
fn the_commits_and_the_tables_together_write_less_than_two_pages_a_commit() {
    const COMMITS: u64 = 630;
    let mut stage = Stage::new();
    for number in 0..1_000 {
        stage.commit(number);
    }
    stage = stage.close();
    stage.commit(0);
    // What somebody reads of the log is not written over.
    let reader = stage.reader();
    reader.execute_batch("BEGIN; SELECT count(*) FROM journal").unwrap();
    let before = (stage.log_bytes(), applied(&stage.reader()));
    for number in 0..COMMITS {
        stage.commit(usize::try_from(number).unwrap());
    }
    assert!(applied(&stage.reader()) > before.1 + 500, "the tables took the journal");
    let written = stage.log_bytes() - before.0;
    println!("{} bytes a commit", written / COMMITS);
    assert!(written < 2 * COMMITS * FRAME_BYTES, "{} bytes a commit", written / COMMITS);
}

/// Three lives of a journal: it is full several times, large commits do not fit, and each commit may be the last one.
#[test]
fn a_process_may_be_killed_behind_every_commit_however_full_the_journal_is() {
    let mut stage = Stage::new();
    let mut expected = LedgerState::default();
    let (mut heads, mut pending) = (Vec::new(), Vec::new());
    for number in 0..200 {
        // One of several slots, which may not fit, one that never fits, and one that is executed in pieces while it is encoded.
        let new = match number {
            150 => 1_000..1_400,
            number if number % 23 == 22 => number * 100..number * 100 + 40,
            _ => 0..0,
        };
        if number == 198 {
            stage.stream(LONG_SKILLS);
        }
        let changes = stage.changes(number, new);
        assert_eq!(changes.skills.len() > 1_000, number == 198, "commit {number}");
        stage.store.commit(&changes).unwrap();
        expected.fold(&changes);
        let (_folder, path) = copied(&stage);
        assert_eq!(sorted(Store::look(&path).unwrap()), sorted(expected.clone()), "commit {number}: look at a copy");
        assert_eq!(sorted(open(&path).restored), sorted(expected.clone()), "commit {number}: start on a copy");
        let reader = stage.reader();
        heads.push(applied(&reader));
        pending.push(pending_slots(&reader));
        if number % 50 == 20 {
            // The ledger goes on, on a new process's store.
            let Stage { folder, store, ledger, connection, database, at_micros } = stage;
            drop(store);
            let Opened { store, restored, .. } = open(&folder.path().join("state.db"));
            assert_eq!(sorted(restored), sorted(expected.clone()), "commit {number}");
            stage = Stage { folder, store, ledger, connection, database, at_micros };
        }
    }
    heads.dedup();
    assert!(heads.len() > 3, "the tables took the journal {} times", heads.len() - 1);
    assert!(pending.iter().max() > Some(&50), "{pending:?}");
}

/// The content of every slot of the journal.
fn slots(stage: &Stage) -> Vec<Vec<u8>> {
    let reader = stage.reader();
    (0..=SLOTS).map(|number| slot(&reader, number)).collect()
}

/// Creates a trigger that refuses rows of a table once there are more skills than 1,000.
fn refuse_rows(state: &Connection, table: &str) {
    let trigger = format!(
        "CREATE TRIGGER refusal BEFORE INSERT ON {table} WHEN (SELECT count(*) FROM skill) > 1000
         BEGIN SELECT RAISE(ABORT, 'refused'); END"
    );
    state.execute_batch(&trigger).unwrap();
}

/// A long commit is executed in pieces of 64 KiB, behind pending entries. `ExtendHistory` among these is the only statement that may
/// not be executed twice.
#[test]
fn a_long_commit_that_fails_between_two_pieces_leaves_nothing_and_counts_once_when_it_is_retried() {
    for (commits, table) in [(15, "phase"), (15, "source_skill"), (15, "listing_history"), (40, "listing_history")] {
        let case = format!("{table} behind {commits} commits");
        let mut stage = Stage::new();
        let (_never_refused, path) = copied(&stage);
        let mut never_refused = open(&path).store;
        let mut expected = LedgerState::default();
        let mut extends_history = false;
        for number in 0..commits {
            let changes = stage.commit(number);
            never_refused.commit(&changes).unwrap();
            expected.fold(&changes);
            let mut histories = changes.memory.histories.iter();
            extends_history = histories.any(|history| matches!(history.change, HistoryChange::Pushed(_)));
        }
        assert!(extends_history, "{case}");
        assert!(pending_slots(&stage.reader()) > 0, "{case}");
        let before = (rows(&stage.path()), slots(&stage));

        stage.stream(LONG_SKILLS);
        let changes = stage.changes(commits, 0..0);
        refuse_rows(&stage.reader(), table);
        let refused = stage.store.commit(&changes);
        assert!(matches!(&refused, Err(StoreError::Sqlite { .. })), "{case}: {refused:?}");
        stage.reader().execute_batch("DROP TRIGGER refusal").unwrap();
        assert!((rows(&stage.path()), slots(&stage)) == before, "{case}: the file is as before");
        let (_folder, copy) = copied(&stage);
        let Opened { restored, quarantined, .. } = open(&copy);
        assert_eq!(quarantined, None, "{case}");
        assert_eq!(sorted(restored), sorted(expected.clone()), "{case}: start on a copy");

        stage.store.commit(&changes).unwrap_or_else(|error| panic!("{case}: {error}"));
        never_refused.commit(&changes).unwrap();
        let counted = invocations(&expected);
        expected.fold(&changes);
        // The increase of the snapshot is pending: it may be one of the events.
        assert_eq!(invocations(&expected), counted + LONG_SKILLS as u64, "{case}");
        assert_eq!(sorted(Store::look(&stage.path()).unwrap()), sorted(expected), "{case}: retried");
        assert!(rows(&stage.path()) == rows(&path), "{case}: the tables are as without the failure");
    }
}

#[test]
fn what_is_applied_at_once_is_what_single_commits_write() {
    let mut at_once = Stage::new();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state.db");
    for number in 0..150 {
        let changes = at_once.changes(number, if number % 40 == 39 { number * 100..number * 100 + 60 } else { 0..0 });
        at_once.store.commit(&changes).unwrap();
        let mut one = open(&path).store;
        one.commit(&changes).unwrap();
        one.close().unwrap();
        assert_eq!(pending_slots(&Connection::open(&path).unwrap()), 0);
    }
    assert!(applied(&at_once.reader()) > 0 && pending_slots(&at_once.reader()) > 0);
    assert_ne!(rows(&at_once.path()), rows(&path), "some entries are pending");
    let looked = Store::look(&at_once.path()).unwrap();
    assert_eq!(looked, Store::look(&path).unwrap(), "what a reader sees");
    let at_once = at_once.close();
    assert_eq!(rows(&at_once.path()), rows(&path));
    assert_eq!(Store::look(&at_once.path()).unwrap(), looked);
}

#[test]
fn processes_that_are_killed_one_after_the_other_leave_every_commit() {
    let mut stage = Stage::new();
    let mut expected = LedgerState::default();
    let mut restarts_with_pending_entries = 0;
    for number in 0..100 {
        expected.fold(&stage.commit(number));
        restarts_with_pending_entries += usize::from(pending_slots(&stage.reader()) > 0);
        stage = if number % 10 == 9 { stage.close() } else { stage.kill() };
        assert_eq!(sorted(Store::look(&stage.path()).unwrap()), sorted(expected.clone()), "commit {number}");
    }
    assert!(restarts_with_pending_entries > 80, "{restarts_with_pending_entries}");
}

#[test]
fn a_source_is_forgotten_and_a_feed_renamed_behind_what_is_pending() {
    let commands: [fn(&mut Store); 2] = [
        |store| assert!(store.forget_source(SourceId(1)).unwrap()),
        |store| {
            store.rename_feed("feed", "renamed").unwrap();
        },
    ];
    for command in commands {
        for is_full in [false, true] {
            let mut journaled = Stage::new();
            (0..20).for_each(|number| drop(journaled.commit(number)));
            if is_full {
                let rules = Store::look(&journaled.path()).unwrap().rules;
                fill(&journaled.reader(), &mut journaled.store, rules);
            }
            assert!(pending_slots(&journaled.reader()) > 0);
            let (_folder, path) = copied(&journaled);
            open(&path).store.close().unwrap();
            command(&mut open(&path).store);
            command(&mut journaled.store);
            assert_eq!(pending_slots(&journaled.reader()), 0);
            assert_eq!(rows(&journaled.path()), rows(&path), "the journal is full: {is_full}");
        }
    }
}

/// The push queue is written between commits, and not journaled: a power cut takes a tail of the log.
#[test]
fn no_power_cut_leaves_a_tick_of_the_queue_without_the_commits_before_it() {
    let mut stage = Stage::new();
    stage.commit(0);
    let main = fs::read(stage.path()).unwrap();
    for number in 1..SLOTS + 20 {
        stage.commit(number);
        let counted = invocations(&Store::look(&stage.path()).unwrap());
        let tick = |connection: &Connection| {
            connection.execute("INSERT INTO push_tick VALUES (?, x'00')", [i64::try_from(counted).unwrap()])
        };
        if number % 2 == 0 { stage.store.write_queue_unsynced(tick) } else { stage.store.write_queue(tick) }.unwrap();
    }
    assert!(applied(&stage.reader()) > 0, "the journal was applied once");
    assert_eq!(fs::read(stage.path()).unwrap(), main, "no checkpoint");
    let log = fs::read(stage.path().with_extension("db-wal")).unwrap();
    let (mut cuts, mut equal) = (0, 0);
    let frames = (log.len() as u64 - LOG_HEADER_BYTES) / FRAME_BYTES;
    for frame in 0..=frames {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state.db");
        let cut = usize::try_from(LOG_HEADER_BYTES + frame * FRAME_BYTES).unwrap();
        fs::write(&path, &main).unwrap();
        fs::write(path.with_extension("db-wal"), &log[..cut]).unwrap();
        // Without the first frames there is no table.
        let newest = |connection: &Connection| {
            connection.query_row("SELECT coalesce(max(millis), 0) FROM push_tick", [], |row| row.get::<_, u64>(0))
        };
        let Ok((whole, newest)) = Store::look_at(&path, newest) else { continue };
        assert!(newest <= invocations(&whole), "frame {frame}: {newest} of {}", invocations(&whole));
        cuts += 1;
        equal += usize::from(newest == invocations(&whole));
    }
    assert!(cuts > 150 && equal > 50, "{cuts} cuts, {equal} behind a tick");
}

/// A state file with pending entries of two, three and one slots, and what it contains.
fn pending() -> (TempDir, PathBuf, LedgerState) {
    let mut stage = Stage::new();
    (0..3).for_each(|number| drop(stage.commit(number)));
    let mut stage = stage.close();
    stage.commit(3);
    let rules = Store::look(&stage.path()).unwrap().rules;
    let listed = Changes { last_listed: vec![(SkillIndex(0), 5)], ..filler(rules, 2 * PART_BYTES) };
    stage.store.commit(&listed).unwrap();
    stage.commit(4);
    let Stage { folder, store, .. } = stage;
    let path = folder.path().join("state.db");
    drop(store);
    assert_eq!(pending_slots(&Connection::open(&path).unwrap()), 6);
    let whole = Store::look(&path).unwrap();
    (folder, path, whole)
}

fn slot(connection: &Connection, slot: usize) -> Vec<u8> {
    connection.query_row("SELECT content FROM journal WHERE slot = ?", [slot], |row| row.get(0)).unwrap()
}

fn write_slot(connection: &Connection, slot: usize, content: &[u8]) {
    let update = "UPDATE journal SET content = ? WHERE slot = ?";
    assert_eq!(connection.execute(update, (content, slot)).unwrap(), 1);
}

#[test]
fn each_changed_byte_of_a_pending_entry_is_found() {
    let (_folder, path, whole) = pending();
    let connection = Connection::open(&path).unwrap();
    // The head, every pending slot, and the first that is not: it could be one.
    for number in 0..=7 {
        let content = slot(&connection, number);
        // All of it in the slots with a header, a text and padding; elsewhere a sample.
        let step = if [1, 6].contains(&number) { 1 } else { 37 };
        for byte in (0..19).chain((19..content.len()).step_by(step)) {
            let mut changed = content.clone();
            changed[byte] ^= 1 << (byte % 8);
            write_slot(&connection, number, &changed);
            match Store::look(&path) {
                Err(StoreError::Corrupt { problem, .. }) => {
                    assert_eq!(problem, Corruption::Journal { slot: number }, "byte {byte}");
                }
                other => panic!("byte {byte} of slot {number}: {other:?}"),
            }
        }
        write_slot(&connection, number, &content);
    }
    for number in 8..64 {
        let content = slot(&connection, number);
        let mut changed = content.clone();
        changed[number] ^= 1;
        write_slot(&connection, number, &changed);
        assert_eq!(Store::look(&path).unwrap(), whole, "what slot {number} held is in the tables");
        write_slot(&connection, number, &content);
    }
}

/// What happens to a journal that held these slots.
type Damage = fn(&Connection, &[Vec<u8>]);

#[test]
fn a_slot_that_is_lost_or_in_the_place_of_another_is_found() {
    let (_folder, path, whole) = pending();
    let connection = Connection::open(&path).unwrap();
    let slots: Vec<_> = (0..64).map(|number| slot(&connection, number)).collect();
    // With the slot in which it is found.
    let damages: [(&str, Damage, usize); 8] = [
        ("a slot of zeros", |to, _| write_slot(to, 2, &[0; 985]), 2),
        ("a shorter slot", |to, slots| write_slot(to, 3, &slots[3][..984]), 3),
        ("a write that was lost", |to, slots| write_slot(to, 1, &slots[60]), 2),
        ("the end of an entry that was lost", |to, slots| (5..=6).for_each(|slot| write_slot(to, slot, &slots[60])), 5),
        (
            "two slots that changed places",
            |to, slots| {
                write_slot(to, 2, &slots[3]);
                write_slot(to, 3, &slots[2]);
            },
            2,
        ),
        ("a later slot far behind", |to, slots| write_slot(to, 40, &slots[6]), 40),
        ("a missing slot", |to, _| to.execute_batch("DELETE FROM journal WHERE slot = 20").unwrap(), 20),
        (
            "one slot more",
            |to, slots| {
                assert_eq!(to.execute("INSERT INTO journal VALUES (64, ?)", [&slots[60]]).unwrap(), 1);
            },
            64,
        ),
    ];
    for (what, damage, expected) in damages {
        damage(&connection, &slots);
        let problem = match Store::look(&path) {
            Err(StoreError::Corrupt { problem, .. }) => problem,
            other => panic!("{what}: {other:?}"),
        };
        assert_eq!(problem, Corruption::Journal { slot: expected }, "{what}");
        connection.execute("DELETE FROM journal", []).unwrap();
        for (number, content) in slots.iter().enumerate() {
            connection.execute("INSERT INTO journal VALUES (?, ?)", (number, content)).unwrap();
        }
    }
    assert_eq!(Store::look(&path).unwrap(), whole);

    // A bridge does what it does with every corrupt state file.
    write_slot(&connection, 1, &[1; 985]);
    drop(connection);
    let opened = open(&path);
    let quarantine = opened.quarantined.expect("it is corrupt");
    assert_eq!(quarantine.problem.to_string(), "slot 1 of its journal is damaged or cannot be applied");
    assert_eq!(opened.restored, LedgerState::default());
    assert!(quarantine.path.exists());
}

/// A journaled commit does not reach the tables. What they refuse later is damage, not a reason to start in vain for ever.
#[test]
fn an_entry_that_the_tables_refuse_is_corruption() {
    let (_folder, path, _) = pending();
    let connection = Connection::open(&path).unwrap();
    connection.execute("UPDATE source_skill SET skill_name = 'x' WHERE skill_name = ?", [skill_name(3)]).unwrap();
    connection.execute("UPDATE listing_history SET words = x'00' WHERE skill_name = ?", [skill_name(3)]).unwrap();
    let error = Store::look(&path).unwrap_err();
    assert!(matches!(error, StoreError::Corrupt { problem: Corruption::Journal { slot: 1 }, .. }), "{error}");
}

/// Writes to the journal of an open store, of which so many slots are pending: slots of an older time, or of a newer one. Returns the
/// slot that shows it.
type Foreign = fn(&Connection, usize, &[Vec<u8>], &[Vec<u8>]) -> usize;

const FOREIGN: [(&str, Foreign); 4] = [
    ("an older head", |to, _, older, _| {
        write_slot(to, 0, &older[0]);
        0
    }),
    ("no head", |to, _, _, _| to.execute("DELETE FROM journal WHERE slot = 0", []).unwrap() - 1),
    ("one slot less", |to, pending, older, _| {
        write_slot(to, pending, &older[pending]);
        pending
    }),
    ("one slot more", |to, pending, _, newer| {
        write_slot(to, pending + 1, &newer[pending + 1]);
        pending + 1
    }),
];

/// The shell restores a backup into the open file: neither its name nor its inode changes.
#[test]
fn nothing_is_committed_behind_a_journal_that_is_not_the_one_in_memory() {
    let slots = |connection: &Connection| -> Vec<_> { (0..=SLOTS).map(|number| slot(connection, number)).collect() };
    // The last commit is journaled, or it is that of 400 skills, which does not fit.
    for (commits, new) in [(2, 0..0), (0, 0..0), (0, 1_000..1_400)] {
        for (what, write) in FOREIGN {
            let mut stage = Stage::new();
            (0..5).for_each(|number| drop(stage.commit(number)));
            let older = slots(&stage.reader());
            stage = stage.close();
            (0..commits).for_each(|number| drop(stage.commit(number)));
            let pending = pending_slots(&stage.reader());
            let (_folder, path) = copied(&stage);
            let changes = stage.changes(9, 0..0);
            open(&path).store.commit(&changes).unwrap();
            let newer = slots(&Connection::open(&path).unwrap());

            let expected = write(&stage.reader(), pending, &older, &newer);
            let changes = stage.changes(9, new.clone());
            let result = stage.store.commit(&changes);
            let Err(StoreError::Corrupt { problem, .. }) = result else { panic!("{what}, {pending}: {result:?}") };
            assert_eq!(problem, Corruption::Journal { slot: expected }, "{what}, {pending}");
        }
    }
}

fn exposed(scrape: &Scrape) -> f64 {
    scrape.sum("skill_invocations_total")
}

/// Invocations in the table, as the sqlite3 shell shows them.
fn in_tables(path: &Path) -> u64 {
    let query = "SELECT coalesce(sum(completed + abandoned), 0) FROM phase";
    Connection::open(path).unwrap().query_row(query, [], |row| row.get(0)).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bridge_that_is_killed_leaves_entries_and_one_that_ends_leaves_none() {
    let event = |number: u32| Step::send(invocation_event(Some(&number.to_string()), 0, &invocation(0)));
    let (more, done) = (Gate::default(), Gate::default());
    let script = vec![event(1), Step::Await(more.clone()), event(2), Step::Await(done.clone())];
    let again = vec![event(3), Step::Await(Gate::default())];
    let feed = ScriptedFeed::start(vec![script, again]);
    let url = feed.url().to_string();
    tokio::task::spawn_blocking(move || {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state.db");
        let start = || {
            let state = path.to_str().unwrap();
            Program::start(["--feed.url", &url, "--web.listen-address", "127.0.0.1:0", "--state.path", state])
        };
        let mut killed = start();
        until(&mut killed, "the first event", 1.0, exposed);
        more.open();
        until(&mut killed, "the second event", 2.0, exposed);
        killed.signal(Signal::KILL);
        killed.end();
        assert!(pending_slots(&Connection::open(&path).unwrap()) > 0 && in_tables(&path) < 2);
        done.open();
        let mut ended = start();
        until(&mut ended, "all three", 3.0, exposed);
        ended.signal(Signal::TERM);
        assert_eq!(ended.end().code, Some(0));
        assert_eq!((pending_slots(&Connection::open(&path).unwrap()), in_tables(&path)), (0, 3));
    })
    .await
    .unwrap();
}

/// Flips a bit of the last entry that is pending in the state of a running bridge.
fn damage_last_entry(path: &Path) {
    let connection = Connection::open(path).unwrap();
    let last = pending_slots(&connection);
    assert!(last > 0, "an entry is pending");
    let mut content = slot(&connection, last);
    content[40] ^= 1;
    write_slot(&connection, last, &content);
}

/// Returns the only file that was quarantined beside the state at `path`.
fn quarantined(path: &Path) -> PathBuf {
    let names = fs::read_dir(path.parent().unwrap()).unwrap().map(|entry| entry.unwrap().path());
    let is_one = |path: &PathBuf| {
        let name = path.file_name().unwrap().to_str().unwrap();
        name.starts_with("state.db.corrupt-") && !name.ends_with("-wal") && !name.ends_with("-shm")
    };
    let [one] = <[PathBuf; 1]>::try_from(names.filter(is_one).collect::<Vec<_>>()).expect("one file");
    one
}

/// The ledger in memory is whole: a running bridge writes it to a new file, before it exposes anything more, and as it ends.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bridge_whose_state_is_damaged_while_it_runs_keeps_every_count() {
    let event = |number: u32| Step::send(invocation_event(Some(&number.to_string()), 0, &invocation(0)));
    let gates: [Gate; 2] = Default::default();
    let [second, third] = gates.clone();
    let stay = || Step::Await(Gate::default());
    let script = vec![event(1), Step::Await(second), event(2), Step::Await(third), event(3), stay()];
    let feed = ScriptedFeed::start(vec![script, vec![event(4), stay()], vec![stay()]]);
    let url = feed.url().to_string();
    tokio::task::spawn_blocking(move || {
        let [second, third] = gates;
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state.db");
        let start = || {
            let state = path.to_str().unwrap();
            Program::start(["--feed.url", &url, "--web.listen-address", "127.0.0.1:0", "--state.path", state])
        };
        // With its log, and as it was.
        let is_corrupt = |aside: &Path| matches!(Store::look(aside), Err(StoreError::Corrupt { .. }));

        let mut killed = start();
        until(&mut killed, "the first event", 1.0, exposed);
        second.open();
        until(&mut killed, "the second event", 2.0, exposed);
        damage_last_entry(&path);
        third.open();
        until(&mut killed, "the event behind the damage", 3.0, exposed);
        killed.signal(Signal::KILL);
        let log = killed.end().stderr;
        assert_eq!(invocations(&Store::look(&path).unwrap()), 3);
        let aside = quarantined(&path);
        assert!(is_corrupt(&aside));
        assert!(log.contains("of its journal is damaged") && log.contains(aside.to_str().unwrap()), "{log}");
        fs::remove_file(aside).unwrap();

        let mut ended = start();
        until(&mut ended, "what the killed bridge had exposed, and one event", 4.0, exposed);
        damage_last_entry(&path);
        ended.signal(Signal::TERM);
        assert_eq!(ended.end().code, Some(0));
        assert!(is_corrupt(&quarantined(&path)));

        let mut last = start();
        until(&mut last, "what the bridge that ended had exposed", 4.0, exposed);
    })
    .await
    .unwrap();
}
