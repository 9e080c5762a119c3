//! Before the bridge reports that a feed and its database disagree, it has opened the database again: a connection may
//! have files open that nobody writes any more.

use std::time::Duration;

use crate::support::model::{Metrics, SECOND, START_MICROS, metrics_update};
use crate::support::rows::read_all;
use crate::support::server_database::ServerDatabase;
use crate::support::shown::Shown;
use session_buddy_bridge::internals::ledger::{ConnectionId, FeedId, FeedSpec, Ledger, Limits, Moment, Notice};
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
    /// A feed and its database agree on five invocations.
    fn agreeing() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let server = ServerDatabase::create(&folder.path().join("skills.db"));
        server.invoke("a", 5);
        let database = SkillsDatabase::open(&server.path, &CancellationToken::new()).unwrap();
        let mut ledger = Ledger::new(Limits::default());
        let feed = ledger.add_feed(FeedSpec { identity: "feed".to_owned(), ..FeedSpec::default() });
        ledger.expect_detail(feed);
        let connection = ledger.open(feed, Moment { wall_micros: START_MICROS, elapsed: Duration::ZERO });
        let (shown, notices) = (Shown::default(), Vec::new());
        let mut stage =
            Self { server, database, ledger, feed, connection, seconds: 0, shown, notices, _folder: folder };
        (0..5).for_each(|_| stage.list(5));
        assert_eq!(stage.shown.counts().values().sum::<u64>(), 5);
        stage
    }

    fn now(&self) -> Moment {
        let elapsed = Duration::from_secs(self.seconds.unsigned_abs());
        Moment { wall_micros: START_MICROS + self.seconds * SECOND, elapsed }
    }

    /// A second later the feed lists so many invocations, and the database is read if it has changed.
    fn list(&mut self, total: u64) {
        self.seconds += 1;
        let now = self.now();
        let skill = Metrics { total, completed: total, duration_seconds: total as f64 / 2.0, ..Metrics::none("a") };
        let frame = metrics_update(self.seconds * SECOND, &[skill], &[]);
        protocol::read(&frame, &protocol::Limits::default(), &mut |message| {
            self.ledger.apply(self.connection, &message.expect("a snapshot"), now, &mut self.notices);
        });
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
