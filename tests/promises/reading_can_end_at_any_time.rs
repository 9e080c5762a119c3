//! What was counted of a source is one number, whatever counted it: reading a database can end in the middle of its history
//! and begin again, and a database that nobody can read holds no count up.

use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::support::model::{SECOND, START_MICROS};
use crate::support::rows::{read_all, read_batch};
use crate::support::server_database::{ServerDatabase, copy};
use crate::support::shown::Shown;
use rusqlite::Connection;
use session_buddy_bridge::internals::ledger::{
    ConnectionId, FeedId, FeedRole, FeedSpec, FeedStanding, Ledger, Limits, Notice, Now,
};
use session_buddy_bridge::internals::protocol;
use session_buddy_bridge::internals::skills_db::SkillsDatabase;
use session_buddy_bridge::internals::store::{Opened, Store};
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

/// Three batches and a half.
const ROWS: u64 = 3_500;

/// A feed as it is configured.
#[derive(Clone)]
struct Configured {
    name: &'static str,
    server: usize,
    database: Option<PathBuf>,
}

struct Feed {
    configured: Configured,
    id: FeedId,
    connection: ConnectionId,
    database: Option<SkillsDatabase>,
}

/// One server with a database, and a bridge.
struct Stage {
    servers: Vec<ServerDatabase>,
    ledger: Ledger,
    store: Option<Store>,
    feeds: Vec<Feed>,
    seconds: i64,
    rows_read: usize,
    shown: Shown,
    notices: Vec<Notice>,
    folder: TempDir,
}

impl Stage {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let servers = vec![ServerDatabase::create(&folder.path().join("skills.db"))];
        let (ledger, store) = start(folder.path());
        let (shown, notices) = (Shown::default(), Vec::new());
        Self {
            servers,
            ledger,
            store: Some(store),
            feeds: Vec::new(),
            seconds: 0,
            rows_read: 0,
            shown,
            notices,
            folder,
        }
    }

    fn now(&self) -> Now {
        let elapsed = Duration::from_secs(self.seconds.unsigned_abs());
        Now { wall_micros: START_MICROS + self.seconds * SECOND, elapsed }
    }

    fn feed(&self, name: &'static str) -> Configured {
        Configured { name, server: 0, database: None }
    }

    fn reading(&self, name: &'static str) -> Configured {
        self.reading_of(name, 0)
    }

    fn reading_of(&self, name: &'static str, server: usize) -> Configured {
        Configured { name, server, database: Some(self.servers[server].path.clone()) }
    }

    /// Another server begins with a copy of the first one's database. The two must not add equal rows: their times are made of
    /// their number.
    fn copy(&mut self) {
        let path = self.folder.path().join("copy.db");
        copy(&self.servers[0].path, &path);
        self.servers.push(ServerDatabase::open(&path));
    }

    /// The configuration becomes this one: feeds that change are replaced, all others stay connected.
    fn configure(&mut self, feeds: &[&Configured]) {
        let now = self.now();
        let is_kept = |feed: &Feed| {
            feeds.iter().any(|other| (other.name, &other.database) == (feed.configured.name, &feed.configured.database))
        };
        self.ledger.begin_configuration();
        let (kept, left): (Vec<_>, Vec<_>) = std::mem::take(&mut self.feeds).into_iter().partition(is_kept);
        self.feeds = kept;
        for feed in left {
            self.ledger.close(feed.connection, now);
            self.ledger.remove_feed(feed.id, now);
        }
        let mut added = Vec::new();
        for configured in feeds {
            if self.feeds.iter().all(|feed| feed.configured.name != configured.name) {
                let address = Some(format!("ws://localhost:{}", 8765 + configured.server));
                let id = self.ledger.add_feed(FeedSpec { identity: configured.name.to_owned(), address, skill: None });
                if configured.database.is_some() {
                    self.ledger.expect_detail(id);
                }
                added.push(((*configured).clone(), id));
            }
        }
        self.ledger.end_configuration(now);
        for (configured, id) in added {
            let connection = self.ledger.open(id, now);
            self.feeds.push(Feed { configured, id, connection, database: None });
        }
    }

    /// A second later every feed lists what the database holds, and so many batches are read; `None` for all that there are.
    fn pass(&mut self, batches: Option<usize>) {
        self.seconds += 1;
        let now = self.now();
        for feed in &mut self.feeds {
            let server = feed.configured.server;
            // No two servers send at the same moment.
            let frame = self.servers[server].snapshot(self.seconds * SECOND + 100_003 * server as i64);
            protocol::read(&frame, &protocol::Limits::default(), &mut |message| {
                self.ledger.apply(feed.connection, &message.expect("a snapshot"), now, &mut self.notices);
            });
            let Some(path) = &feed.configured.database else { continue };
            feed.database = feed.database.take().filter(SkillsDatabase::is_current);
            let database = match &mut feed.database {
                Some(database) => database,
                closed => match SkillsDatabase::open(path, &CancellationToken::new()) {
                    Ok(database) => closed.insert(database),
                    Err(_) => {
                        self.ledger.detail_failed(feed.id, now, &mut self.notices);
                        continue;
                    }
                },
            };
            let read = match batches {
                None => read_all(database, &mut self.ledger, feed.id, now, &mut self.notices),
                Some(batches) => (0..batches).try_for_each(|_| {
                    let read = read_batch(database, &mut self.ledger, feed.id, now, &mut self.notices)?;
                    self.rows_read += read.unwrap_or_default();
                    Ok(())
                }),
            };
            if read.is_err() {
                feed.database = None;
                self.ledger.detail_failed(feed.id, now, &mut self.notices);
            }
        }
        self.expose();
    }

    fn expose(&mut self) {
        let now = self.now();
        self.ledger.tick(now, &mut self.notices);
        let changes = self.ledger.drain(now);
        self.ledger.acknowledge(changes.sequence);
        self.store.as_mut().unwrap().commit(&changes).unwrap();
        self.shown.fold(changes);
    }

    fn pass_seconds(&mut self, seconds: usize) {
        (0..seconds).for_each(|_| self.pass(None));
    }

    /// The bridge is killed and starts with this configuration.
    fn restart(&mut self, feeds: &[&Configured]) {
        self.store = None;
        self.feeds.clear();
        let (ledger, store) = start(self.folder.path());
        (self.ledger, self.store) = (ledger, Some(store));
        self.configure(feeds);
    }

    fn counted(&self) -> u64 {
        self.shown.counts().values().sum()
    }

    /// The history is being read, and some of it is.
    fn in_the_middle(feeds: &[&Configured], stage: &mut Self) {
        stage.servers[0].invoke("a", ROWS / 2);
        stage.servers[0].invoke("b", ROWS / 2);
        stage.configure(feeds);
        // The feeds are bound, and their start is not waited for any more.
        (0..6).for_each(|_| stage.pass(Some(0)));
        stage.pass(Some(2));
        assert_eq!((stage.rows_read, stage.counted()), (2_000, 2_000));
    }
}

fn start(folder: &Path) -> (Ledger, Store) {
    let Opened { store, restored: whole, .. } = Store::open(&folder.join("state.db"), Ok).unwrap();
    let now = Now { wall_micros: START_MICROS, elapsed: Duration::ZERO };
    (Ledger::restore(Limits::default(), whole, now).unwrap(), store)
}

#[test]
fn rows_that_nobody_comes_to_read_are_counted_by_the_feed() {
    for ends_by_restart in [false, true] {
        let mut stage = Stage::new();
        let (reading, without) = (stage.reading("feed"), stage.feed("feed"));
        Stage::in_the_middle(&[&reading], &mut stage);
        match ends_by_restart {
            false => stage.configure(&[&without]),
            true => stage.restart(&[&without]),
        }
        stage.servers[0].invoke("a", 3);
        stage.pass_seconds(3);
        assert_eq!(stage.counted(), ROWS + 3, "the database is not configured any more");
        assert_eq!(
            stage.shown.rules.backfilled_invocations,
            ROWS - 2_000,
            "what joins a series that is shown is history"
        );
        stage.configure(&[&reading]);
        stage.servers[0].invoke("b", 2);
        stage.pass_seconds(3);
        assert_eq!(stage.counted(), ROWS + 5, "the database is read again");
    }
}

#[test]
fn a_feed_that_leaves_with_its_database_leaves_what_was_not_read_to_the_other_feed() {
    let mut stage = Stage::new();
    let (one, two) = (stage.reading("one"), stage.feed("two"));
    Stage::in_the_middle(&[&one, &two], &mut stage);
    stage.configure(&[&two]);
    stage.pass_seconds(3);
    assert_eq!(stage.counted(), ROWS);
}

#[test]
fn every_toggle_of_the_database_is_exact() {
    let mut stage = Stage::new();
    let (reading, without) = (stage.reading("feed"), stage.feed("feed"));
    Stage::in_the_middle(&[&reading], &mut stage);
    for round in 0..4 {
        stage.configure(&[&without]);
        stage.servers[0].invoke("a", 1_200);
        stage.pass_seconds(2);
        assert_eq!(stage.counted(), ROWS + 1_700 * round + 1_200, "by the feed");
        stage.servers[0].invoke("b", 500);
        stage.configure(&[&reading]);
        stage.pass(Some(1));
    }
    stage.pass_seconds(2);
    assert_eq!(stage.counted(), ROWS + 4 * 1_700);
}

#[test]
fn rows_are_read_on_where_another_entry_inherits_the_database() {
    let mut stage = Stage::new();
    Stage::in_the_middle(&[&stage.reading("one")], &mut stage);
    stage.configure(&[&stage.reading("two")]);
    stage.pass_seconds(2);
    assert_eq!(stage.counted(), ROWS);
    let durations = stage.shown.durations("a").count() + stage.shown.durations("b").count();
    assert_eq!(durations, ROWS, "each row tells its duration");
}

#[test]
fn rows_that_are_deleted_while_others_are_read_count_without_duration() {
    let mut stage = Stage::new();
    Stage::in_the_middle(&[&stage.reading("feed")], &mut stage);
    stage.servers[0].execute("DELETE FROM skill_invocation WHERE id > 2000 AND id <= 2500");
    stage.pass_seconds(2);
    assert_eq!(stage.counted(), ROWS);
    let durations = stage.shown.durations("a").count() + stage.shown.durations("b").count();
    assert_eq!(durations, ROWS - 500);
}

#[test]
fn a_database_that_fails_in_the_middle_of_its_history_is_replaced_by_the_feed() {
    let mut stage = Stage::new();
    Stage::in_the_middle(&[&stage.reading("feed")], &mut stage);
    let moved = stage.folder.path().join("moved.db");
    std::fs::rename(&stage.servers[0].path, &moved).unwrap();
    stage.servers[0].invoke("a", 2);
    stage.pass_seconds(13);
    assert_eq!(stage.counted(), ROWS + 2);
    std::fs::rename(&moved, &stage.servers[0].path).unwrap();
    stage.servers[0].invoke("b", 4);
    stage.pass_seconds(2);
    assert_eq!(stage.counted(), ROWS + 6);
}

/// Paths at which no database of this feed is, by what is there instead.
fn wrong_paths(stage: &Stage) -> Vec<(&'static str, PathBuf)> {
    let path = |name: &str| stage.folder.path().join(name);
    let (foreign, backup, copied) = (path("foreign.db"), path("backup.db"), path("copied.db"));
    Connection::open(&foreign).unwrap().execute_batch("CREATE TABLE t (a)").unwrap();
    copy(&stage.servers[0].path, &backup);
    let other = ServerDatabase::create(&path("other.db"));
    other.invoke("z", 90);
    copy(&other.path, &copied);
    vec![("nothing", path("nowhere.db")), ("a foreign database", foreign), ("a backup", backup), ("another", copied)]
}

#[test]
fn a_path_that_leads_to_no_database_of_the_feed_holds_its_counts_up_for_a_moment() {
    for case in 0..4 {
        let mut stage = Stage::new();
        stage.servers[0].invoke("a", 300);
        let (what, path) = wrong_paths(&stage).swap_remove(case);
        stage.configure(&[&stage.reading("feed")]);
        stage.servers[0].invoke("a", 5);
        stage.pass_seconds(2);
        assert_eq!(stage.counted(), 305);
        let wrong = Configured { name: "feed", server: 0, database: Some(path) };
        stage.configure(&[&wrong]);
        for _ in 0..15 {
            stage.servers[0].invoke("a", 1);
            stage.pass(None);
        }
        assert_eq!(stage.counted(), 320, "{what} is at the path");
        assert_eq!(stage.ledger.counters(stage.feeds[0].id).rows_tell, Some(false), "{what}");
        stage.configure(&[&stage.reading("feed")]);
        stage.servers[0].invoke("a", 4);
        stage.pass_seconds(3);
        assert_eq!(stage.counted(), 324, "the right path again, after {what}");
    }
}

/// The list of the feed has room for ten skills.
#[test]
fn rows_of_skills_that_the_feed_never_listed_are_history() {
    let mut stage = Stage::new();
    let names: Vec<String> = (b'a'..=b'n').map(|letter| char::from(letter).to_string()).collect();
    names.iter().zip((0..20).rev()).for_each(|(name, more)| stage.servers[0].invoke(name, 20 + more));
    let (reading, without) = (stage.reading("feed"), stage.feed("feed"));
    stage.configure(&[&without]);
    stage.pass_seconds(7);
    // The feed counts the ones of skills that it lists.
    stage.servers[0].invoke("a", 1);
    stage.configure(&[&reading]);
    stage.pass_seconds(2);
    stage.servers[0].invoke("o", 2);
    stage.pass_seconds(2);
    let has_history = |name: &str| {
        let phases = &stage.shown.skill(name).unwrap().phases;
        phases.iter().any(|phase| phase.born_micros.is_none())
    };
    assert!(names.iter().all(|name| has_history(name)), "all of them have happened before");
    assert!(!has_history("o"), "a skill that begins while rows are read is observed");
    let rows: i64 =
        stage.servers[0].connection.query_row("SELECT count(*) FROM skill_invocation", (), |row| row.get(0)).unwrap();
    assert_eq!(stage.counted(), rows.unsigned_abs());
}

#[test]
fn a_copy_that_is_added_counts_from_the_divergence_whatever_the_feeds_are_called_later() {
    let mut stage = Stage::new();
    stage.servers[0].invoke("a", 300);
    stage.copy();
    stage.configure(&[&stage.reading("one")]);
    stage.pass_seconds(7);
    stage.configure(&[&stage.reading("one"), &stage.reading_of("two", 1)]);
    stage.pass_seconds(4);
    stage.servers[0].invoke("a", 100);
    stage.servers[1].invoke("b", 100);
    stage.pass_seconds(13);
    assert_eq!(stage.counted(), 500);
    for (one, two) in [("three", "two"), ("three", "four"), ("five", "six"), ("six", "five")] {
        stage.configure(&[&stage.reading(one), &stage.reading_of(two, 1)]);
        stage.pass_seconds(3);
        assert_eq!(stage.counted(), 500, "they are called {one} and {two}");
    }
    stage.restart(&[&stage.reading("seven"), &stage.reading_of("eight", 1)]);
    stage.servers[0].invoke("a", 1);
    stage.servers[1].invoke("c", 2);
    stage.pass_seconds(13);
    assert_eq!(stage.counted(), 503);
}

#[test]
fn the_common_history_of_two_databases_counts_once_though_both_are_configured_from_the_first_start() {
    for is_read_in_turns in [false, true] {
        let mut stage = Stage::new();
        stage.servers[0].invoke("a", 1_500);
        stage.copy();
        stage.servers[0].invoke("a", 20);
        stage.servers[1].invoke("b", 30);
        stage.configure(&[&stage.reading("one"), &stage.reading_of("two", 1)]);
        (0..6).for_each(|_| stage.pass(is_read_in_turns.then_some(1)));
        stage.pass_seconds(4);
        assert_eq!(stage.counted(), 1_550);
        stage.servers[0].invoke("b", 1);
        stage.servers[1].invoke("c", 2);
        stage.pass_seconds(13);
        assert_eq!(stage.counted(), 1_553);
    }
}

#[test]
fn the_feed_beside_whose_database_rows_are_read_is_active() {
    let mut stage = Stage::new();
    stage.servers[0].invoke("a", 20);
    stage.configure(&[&stage.feed("one"), &stage.feed("two")]);
    stage.pass_seconds(7);
    stage.configure(&[&stage.feed("one"), &stage.reading("two")]);
    stage.pass_seconds(4);
    let roles = |standings: Vec<FeedStanding>| -> Vec<(String, FeedRole)> {
        let names = ["one", "two"];
        let known = standings.into_iter().filter(|standing| names.contains(&&*standing.identity));
        known.map(|standing| (standing.identity.to_string(), standing.role)).collect()
    };
    let expected = [("one", FeedRole::Standby { active: Some("two".into()) }), ("two", FeedRole::Active)];
    let expected = expected.map(|(name, role)| (name.to_owned(), role));
    assert_eq!(roles(stage.ledger.standings()), expected);
    stage.store = None;
    let Opened { restored, .. } = Store::open(&stage.folder.path().join("state.db"), Ok).unwrap();
    assert_eq!(roles(restored.standings()), expected, "in the state");
}
