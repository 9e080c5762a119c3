//! Whose sessions are these: a server has sessions, and several servers can serve one database.

use crate::support::memory_state::MemoryState;
use crate::support::model::{Database, Invocation, SECOND, invocation_event};
use crate::support::observer::Observer;

/// What tells the rounds of two servers apart.
const MICROS: [i64; 2] = [130_001, 700_002];

/// The feeds that these tests configure.
const FEEDS: [(&str, Option<&str>); 2] = [("first", None), ("second", None)];

fn invocation(duration_seconds: f64) -> Invocation {
    Invocation {
        skill_name: "review".to_owned(),
        workflow_phase: Some("setup".to_owned()),
        completed: true,
        duration_seconds: Some(duration_seconds),
    }
}

fn count(sessions: u64) -> String {
    format!(r#"{{"type":"active_sessions","data":{{"count":{sessions}}}}}"#)
}

fn created(session_id: &str) -> String {
    format!(r#"{{"type":"event","event":"session.created","data":{{"session_id":"{session_id}"}}}}"#)
}

fn closed(session_id: &str) -> String {
    format!(r#"{{"type":"event","event":"session.closed","data":{{"session_id":"{session_id}"}}}}"#)
}

/// Two feeds of one database, which lists what nobody else lists.
struct TwoFeeds {
    observer: Observer,
    database: Database,
    /// What is added to the whole seconds of each feed's timestamps.
    micros: [i64; 2],
    second: i64,
}

impl TwoFeeds {
    fn new(observer: Observer, micros: [i64; 2]) -> Self {
        let invocations = (1..40).map(|step| invocation(f64::from(step) * 1.234_567)).collect();
        let mut feeds = Self { observer, database: Database { invocations, anomalies: Vec::new() }, micros, second: 0 };
        (0..2).for_each(|feed| feeds.observer.open(feed, 0));
        feeds.list(8, &[0, 1]);
        feeds
    }

    fn of_two_servers() -> Self {
        Self::new(Observer::of(&FEEDS), MICROS)
    }

    fn of_one_server() -> Self {
        Self::new(Observer::of(&FEEDS), [MICROS[0]; 2])
    }

    /// Each of `feeds` sends so many lists.
    fn list(&mut self, rounds: i64, feeds: &[usize]) {
        for _ in 0..rounds {
            self.second += 1;
            for feed in feeds {
                let at = self.second * SECOND + self.micros[*feed];
                self.observer.hear(*feed, &self.database.snapshot(at), self.now());
            }
        }
    }

    fn now(&self) -> i64 {
        self.second * SECOND + 900_000
    }

    fn hear(&mut self, feed: usize, text: &str) {
        self.observer.hear(feed, text, self.now());
    }

    fn sessions(&self) -> u64 {
        self.observer.active_sessions(self.now())
    }
}

#[test]
fn two_servers_on_one_database_have_their_own_sessions() {
    let mut feeds = TwoFeeds::of_two_servers();
    feeds.hear(0, &count(3));
    assert_eq!(feeds.sessions(), 3 + 1, "a server that reports no sessions counts as one");
    feeds.hear(1, &count(4));
    assert_eq!(feeds.sessions(), 3 + 4);
    feeds.hear(1, &created("a"));
    feeds.hear(0, &created("a"));
    assert_eq!(feeds.sessions(), 4 + 5, "a session is known by its server and its identifier");
    feeds.hear(0, &closed("a"));
    assert_eq!(feeds.sessions(), 3 + 5);
}

#[test]
fn equal_identifiers_of_session_events_of_two_servers_are_two_events() {
    let mut feeds = TwoFeeds::of_two_servers();
    let opened = |second: i64| {
        let timestamp = crate::support::model::sql_time(second * SECOND);
        let data = format!(r#"{{"session_id":"s{second}"}}"#);
        format!(r#"{{"type":"event","event":"session.created","id":"1","timestamp":"{timestamp}","data":{data}}}"#)
    };
    feeds.hear(0, &opened(5));
    feeds.hear(1, &opened(6));
    assert_eq!(feeds.sessions(), 2);
    feeds.hear(0, &count(7));
    feeds.hear(0, &opened(5));
    assert_eq!(feeds.sessions(), 7 + 1, "a repeated event is not applied again");
}

#[test]
fn a_server_that_goes_away_takes_its_sessions_with_it() {
    let mut feeds = TwoFeeds::of_two_servers();
    (0..2).for_each(|feed| feeds.hear(feed, &count(3 + feed as u64)));
    let now = feeds.now();
    feeds.observer.close(0, now);
    assert_eq!(feeds.sessions(), 4);
    feeds.list(3, &[1]);
    assert_eq!(feeds.sessions(), 4);
    let now = feeds.now();
    feeds.observer.open(0, now);
    feeds.list(1, &[0, 1]);
    assert_eq!(feeds.sessions(), 3 + 4, "that both are two servers is known");
}

#[test]
fn the_sessions_of_two_servers_on_one_database_survive_a_kill() {
    let state = MemoryState::new();
    let mut feeds = TwoFeeds::new(Observer::on(&state, &FEEDS), MICROS);
    (0..2).for_each(|feed| feeds.hear(feed, &count(3 + feed as u64)));
    feeds.hear(1, &created("a"));
    assert_eq!(feeds.sessions(), 3 + 5);
    let now = feeds.now();
    feeds.observer = Observer::on(&state, &FEEDS);
    (0..2).for_each(|feed| feeds.observer.open(feed, now));
    assert_eq!(feeds.sessions(), 0, "no feed is live");
    feeds.list(1, &[0]);
    assert_eq!(feeds.sessions(), 3);
    feeds.list(1, &[0, 1]);
    assert_eq!(feeds.sessions(), 3 + 5);
    feeds.hear(1, &closed("a"));
    feeds.hear(0, &count(6));
    assert_eq!(feeds.sessions(), 6 + 4);
}

#[test]
fn two_feeds_of_one_server_share_its_sessions() {
    let mut feeds = TwoFeeds::of_one_server();
    (0..2).for_each(|feed| feeds.hear(feed, &count(3)));
    (0..2).for_each(|feed| feeds.hear(feed, &created("a")));
    assert_eq!(feeds.sessions(), 4);
    let now = feeds.now();
    feeds.observer.close(0, now);
    assert_eq!(feeds.sessions(), 4);
    feeds.hear(1, &closed("a"));
    feeds.hear(1, &closed("one of the three"));
    assert_eq!(feeds.sessions(), 2);
    // What the first one missed it learns from the second one.
    let now = feeds.now();
    feeds.observer.open(0, now);
    feeds.list(2, &[0, 1]);
    assert_eq!(feeds.sessions(), 2);
    let now = feeds.now();
    feeds.observer.close(1, now);
    assert_eq!(feeds.sessions(), 2);
    feeds.hear(0, &created("a"));
    assert_eq!(feeds.sessions(), 2, "a repeated opening does not undo a closing");
}

#[test]
fn addresses_of_one_server_that_only_stream_events_count_its_sessions_once() {
    let mut observer = Observer::of(&FEEDS);
    (0..2).for_each(|feed| observer.open(feed, 0));
    for number in 1..20 {
        let event = invocation_event(Some(&format!("id-{number}")), number * SECOND + 123_456, &invocation(1.5));
        (0..2).for_each(|feed| observer.hear(feed, &event, (number + 1) * SECOND));
    }
    (0..2).for_each(|feed| observer.hear(feed, &count(5), 21 * SECOND));
    (0..2).for_each(|feed| observer.hear(feed, &created("a"), 21 * SECOND));
    assert_eq!(observer.active_sessions(22 * SECOND), 6);
    observer.close(0, 22 * SECOND);
    assert_eq!(observer.active_sessions(22 * SECOND), 6);
}

#[test]
fn servers_that_only_stream_events_have_their_own_sessions() {
    let mut observer = Observer::of(&FEEDS);
    (0..2).for_each(|feed| observer.open(feed, 0));
    for number in 1..20_i64 {
        for (feed, micros) in MICROS.into_iter().enumerate() {
            let at = number * SECOND + micros;
            observer.hear(feed, &invocation_event(Some(&number.to_string()), at, &invocation(1.5)), at);
        }
    }
    (0..2).for_each(|feed| observer.hear(feed, &count(5 + feed as u64), 21 * SECOND));
    assert_eq!(observer.active_sessions(22 * SECOND), 5 + 6);
}

#[test]
fn an_entry_that_takes_the_place_of_another_goes_on_with_its_sessions() {
    for (address, identity) in [("first", "renamed"), ("respelled", "respelled")] {
        let mut feeds = TwoFeeds::of_two_servers();
        (0..2).for_each(|feed| feeds.hear(feed, &count(3 + feed as u64)));
        let now = feeds.now();
        feeds.observer.close(1, now);
        feeds.observer.rename(0, address, identity, now);
        feeds.observer.open(0, now);
        feeds.list(12, &[0]);
        assert_eq!(feeds.sessions(), 3, "{identity}");
    }
}
