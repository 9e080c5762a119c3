//! Before the bridge reports that a feed and its database disagree, it has opened the database again: a connection may
//! have files open that nobody writes any more.

use std::time::Duration;

use crate::support::model::{Metrics, SECOND, START_MICROS, metrics_update};
use crate::support::rows::read_all;
use crate::support::server_database::ServerDatabase;
use crate::support::shown::Shown;
use session_buddy_bridge::internals::ledger::{ConnectionId, FeedId, FeedSpec, Ledger, Limits, Notice, Now};
use session_buddy_bridge::internals::protocol;
use session_buddy_bridge::internals::skills_db::SkillsDatabase;
use tokio_util::sync::CancellationToken;

struct Stage {
    server: ServerDatabase,
    database: SkillsDatabase,
    ledger: Ledger,
    feed: FeedId,
    connection: ConnectionId,
    seconds: i64,
    shown: Shown,
    notices: Vec<Notice>,
    _folder: tempfile::TempDir,
}

impl Stage {
    /// A feed that has listed nothing yet, and its database, which is empty.
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let server = ServerDatabase::create(&folder.path().join("skills.db"));
        let database = SkillsDatabase::open(&server.path, &CancellationToken::new()).unwrap();
        let mut ledger = Ledger::new(Limits::default());
        let feed = ledger.add_feed(FeedSpec { identity: "feed".to_owned(), ..FeedSpec::default() });
        ledger.expect_detail(feed);
        let connection = ledger.open(feed, Now { wall_micros: START_MICROS, elapsed: Duration::ZERO });
        let (shown, notices) = (Shown::default(), Vec::new());
        Self { server, database, ledger, feed, connection, seconds: 0, shown, notices, _folder: folder }
    }

    /// The same, of a database without a table `skill_metrics`.
    fn without_metrics() -> Self {
        let stage = Self::new();
        stage.server.execute("DROP TRIGGER metrics; DROP TABLE skill_metrics;");
        stage
    }

    /// Invocations that are exposed.
    fn counted(&self) -> u64 {
        self.shown.counts().values().sum()
    }

    /// A feed and its database agree on five invocations.
    fn agreeing() -> Self {
        let mut stage = Self::new();
        stage.server.invoke("a", 5);
        (0..5).for_each(|_| stage.list(5));
        assert_eq!(stage.shown.counts().values().sum::<u64>(), 5);
        stage
    }

    fn now(&self) -> Now {
        let elapsed = Duration::from_secs(self.seconds.unsigned_abs());
        Now { wall_micros: START_MICROS + self.seconds * SECOND, elapsed }
    }

    /// A second later the feed lists so many invocations, and the database is read if it has changed.
    fn list(&mut self, total: u64) {
        self.seconds += 1;
        let skill = Metrics { total, completed: total, duration_seconds: total as f64 / 2.0, ..Metrics::none("a") };
        let frame = metrics_update(self.seconds * SECOND, &[skill], &[]);
        self.apply(self.connection, &frame);
        self.read();
    }

    fn apply(&mut self, connection: ConnectionId, frame: &str) {
        let now = self.now();
        protocol::read(frame, &protocol::Limits::default(), &mut |message| {
            self.ledger.apply(connection, &message.expect("a snapshot"), now, &mut self.notices);
        });
    }

    /// A second without a message of the feed.
    fn wait(&mut self) {
        self.seconds += 1;
        self.ledger.tick(self.now(), &mut self.notices);
        self.read();
    }

    fn read(&mut self) {
        let now = self.now();
        read_all(&mut self.database, &mut self.ledger, self.feed, now, &mut self.notices).unwrap();
        self.shown.fold(self.ledger.drain(now));
    }

    /// The connection that the ledger wants to be replaced.
    fn distrusted(&mut self) -> Option<u64> {
        let now = self.now();
        self.ledger.detail_position(self.feed, self.database.file(), now).expect("it reads").distrusted_connection
    }

    fn mismatches(&self) -> u64 {
        let told = self.notices.iter().filter(|notice| matches!(notice, Notice::DetailMismatch { .. })).count() as u64;
        assert_eq!(self.shown.feed(0).detail_mismatches, told);
        told
    }

    fn reopen(&mut self) {
        self.database = SkillsDatabase::open(&self.server.path, &CancellationToken::new()).unwrap();
    }
}

#[test]
fn a_disagreement_is_reported_once_a_later_connection_has_confirmed_it() {
    let mut stage = Stage::agreeing();
    assert_eq!(stage.distrusted(), None);
    (0..30).for_each(|_| stage.list(9));
    assert_eq!(stage.distrusted(), Some(stage.database.connection_number()));
    assert_eq!(stage.mismatches(), 0, "nothing but the connection is known to be wrong");
    stage.reopen();
    (0..3).for_each(|_| stage.list(9));
    assert_eq!(stage.mismatches(), 1);
    (0..30).for_each(|_| stage.list(9));
    assert_eq!(stage.mismatches(), 1, "once");
}

#[test]
fn a_disagreement_that_a_later_connection_ends_is_never_reported() {
    let mut stage = Stage::agreeing();
    (0..30).for_each(|_| stage.list(9));
    stage.server.invoke("a", 4);
    stage.reopen();
    (0..30).for_each(|_| stage.list(9));
    assert_eq!(stage.mismatches(), 0);
    assert_eq!(stage.shown.counts().values().sum::<u64>(), 9);
}

/// A server can be set to send a list once a minute.
fn a_single_list_that_contradicts_is_enough(mut stage: Stage) {
    stage.server.invoke("a", 5);
    stage.list(9);
    let is_reported =
        |stage: &Stage| stage.notices.iter().any(|notice| matches!(notice, Notice::DatabaseContradicted { .. }));
    let seconds = (1..=10).find(|_| {
        stage.wait();
        is_reported(&stage)
    });
    assert!(seconds.is_some_and(|seconds| seconds > 1), "the list may be older than the database: {seconds:?}");
    (0..60).for_each(|_| stage.wait());
    assert_eq!(stage.shown.feed(0).detail_mismatches, 1, "once");
    (0..3).for_each(|_| stage.list(10));
    assert_eq!(stage.shown.counts().get(&("a".to_owned(), true)), Some(&10), "the feed is counted without it");
}

#[test]
fn a_database_that_a_single_list_contradicts_is_reported_within_ten_seconds_and_never_counted() {
    a_single_list_that_contradicts_is_enough(Stage::new());
}

#[test]
fn rows_without_skill_metrics_count_once_the_feed_lists_what_they_add_up_to() {
    let mut stage = Stage::without_metrics();
    stage.server.invoke("a", 500);
    (0..5).for_each(|_| stage.wait());
    assert_eq!(stage.counted(), 0, "the feed has listed nothing yet");
    stage.list(500);
    assert_eq!(stage.counted(), 500);
    assert_eq!(stage.shown.feed(0).rows_tell, Some(true));
    // Whose rows come after them is known by the rows before.
    stage.server.invoke("a", 3);
    stage.wait();
    assert_eq!(stage.counted(), 503);
}

#[test]
fn rows_without_skill_metrics_that_a_list_contradicts_are_reported_within_ten_seconds_and_never_counted() {
    a_single_list_that_contradicts_is_enough(Stage::without_metrics());
}

#[test]
fn rows_without_skill_metrics_that_were_read_before_count_before_the_feed_lists_anything() {
    let mut stage = Stage::without_metrics();
    stage.server.invoke("a", 5);
    stage.list(5);
    let connection = stage.ledger.open(stage.feed, stage.now());
    stage.ledger.expect_detail(stage.feed);
    stage.connection = connection;
    stage.server.invoke("a", 2);
    stage.wait();
    assert_eq!(stage.counted(), 7);
}

#[test]
fn a_database_is_reported_within_ten_seconds_while_its_feed_is_compared_with_another_feed() {
    let mut stage = Stage::new();
    let other = stage.ledger.add_feed(FeedSpec { identity: "other".to_owned(), ..FeedSpec::default() });
    let connection = stage.ledger.open(other, stage.now());
    let skill = Metrics { total: 3, completed: 3, duration_seconds: 0.7, ..Metrics::none("other") };
    stage.apply(connection, &metrics_update(0, &[skill], &[]));
    a_single_list_that_contradicts_is_enough(stage);
}
