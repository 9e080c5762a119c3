//! Whose events are these: identifiers belong to the server that gives them, and events that two feeds stream show that both
//! are of one source.

use session_buddy_bridge::internals::ledger::Notice;
use session_buddy_bridge::internals::protocol::RejectionReason;

use crate::support::model::{Anomaly, Database, Invocation, SECOND, anomaly_event, invocation_event, sql_time};
use crate::support::observer::Observer;

fn invocation(duration_seconds: f64) -> Invocation {
    Invocation {
        skill_name: "review".to_owned(),
        workflow_phase: Some("setup".to_owned()),
        completed: true,
        duration_seconds: Some(duration_seconds),
    }
}

fn anomaly(at_micros: i64) -> Anomaly {
    Anomaly {
        skill_name: "review".to_owned(),
        anomaly_type: "drop".to_owned(),
        detected_at: sql_time(at_micros),
        deviation_score: Some(2.5),
    }
}

/// Two processes that serve one database, which lists what nobody else lists.
struct TwoServers {
    observer: Observer,
    database: Database,
}

impl TwoServers {
    fn new() -> Self {
        let mut observer = Observer::of(&[("first", None), ("second", None)]);
        let invocations = (1..40).map(|step| invocation(f64::from(step) * 1.234_567)).collect();
        (0..2).for_each(|feed| observer.open(feed, 0));
        let mut servers = Self { observer, database: Database { invocations, anomalies: Vec::new() } };
        (0..8).for_each(|second| servers.list(second));
        servers
    }

    /// Each sends its list, with a timestamp of its own.
    fn list(&mut self, second: i64) {
        for (feed, micros) in [130_001, 700_002].into_iter().enumerate() {
            let at = second * SECOND + micros;
            self.observer.hear(feed, &self.database.snapshot(at), at);
        }
    }
}

#[test]
fn equal_identifiers_of_two_servers_on_one_database_are_two_events() {
    let mut servers = TwoServers::new();
    for (number, at) in (1..=3).zip([10, 20, 30]) {
        for feed in 0..2 {
            let at = (at + i64::try_from(feed).unwrap()) * SECOND;
            servers.observer.hear(feed, &anomaly_event(Some(&number.to_string()), at, &anomaly(at)), at);
        }
    }
    assert_eq!(servers.observer.shown.anomalies().values().sum::<u64>(), 6);
    assert_eq!(servers.observer.rejections(RejectionReason::StaleEvent), 0);
    // A server that numbers again is another thing.
    servers.observer.hear(0, &anomaly_event(Some("1"), 40 * SECOND, &anomaly(40 * SECOND)), 40 * SECOND);
    assert_eq!(servers.observer.rejections(RejectionReason::StaleEvent), 1);
    assert_eq!(servers.observer.shown.anomalies().values().sum::<u64>(), 6);
}

#[test]
fn an_event_that_two_servers_on_one_database_relay_is_one() {
    let mut servers = TwoServers::new();
    for feed in 0..2 {
        let event = anomaly_event(Some("7c1f"), 10 * SECOND, &anomaly(10 * SECOND));
        servers.observer.hear(feed, &event, 11 * SECOND);
    }
    assert_eq!(servers.observer.shown.anomalies().values().sum::<u64>(), 1);
}

fn counted(observer: &Observer) -> u64 {
    observer.shown.counts().values().sum()
}

/// Event number `number`, which happened in the second of that number.
fn event(number: i64) -> String {
    invocation_event(Some(&format!("id-{number}")), number * SECOND + 123_456, &invocation(1.5))
}

#[test]
fn feeds_that_stream_the_same_events_from_the_start_count_them_once() {
    let mut observer = Observer::of(&[("ws://a", None), ("ws://b", None)]);
    (0..2).for_each(|feed| observer.open(feed, 0));
    for number in 1..20 {
        (0..2).for_each(|feed| observer.hear(feed, &event(number), (number + 1) * SECOND));
    }
    observer.tick(30 * SECOND);
    assert_eq!(counted(&observer), 19);
}

#[test]
fn a_feed_that_streams_two_events_of_another_is_of_its_source() {
    let mut observer = Observer::of(&[("ws://a", None), ("ws://b", None)]);
    observer.open(0, 0);
    (1..20).for_each(|number| observer.hear(0, &event(number), (number + 1) * SECOND));
    observer.open(1, 21 * SECOND);
    // Its first event comes after the hold, when nothing shows whose it is.
    for number in 30..40 {
        (0..2).for_each(|feed| observer.hear(feed, &event(number), (number + 1) * SECOND));
    }
    let joined: Vec<_> =
        observer.notices.iter().filter(|notice| matches!(notice, Notice::SourcesJoined { .. })).collect();
    assert!(matches!(joined[..], [Notice::SourcesJoined { counted_twice: 1 }]), "{joined:?}");
    assert_eq!(counted(&observer), 29 + 1, "the first event that both streamed counts for both");
}

#[test]
fn feeds_that_stream_other_events_with_equal_identifiers_are_two_sources() {
    let mut observer = Observer::of(&[("ws://a", None), ("ws://b", None)]);
    (0..2).for_each(|feed| observer.open(feed, 0));
    for number in 1..20_i64 {
        for feed in 0..2_usize {
            let at = number * SECOND + if feed == 0 { 1_000 } else { 2_000 };
            observer.hear(feed, &invocation_event(Some(&number.to_string()), at, &invocation(1.5)), at);
        }
    }
    observer.tick(30 * SECOND);
    assert_eq!(counted(&observer), 38);
}

/// A feed that lists skills and is compared with others longer than events alone are held: its events are counted with what
/// it lists, and not before as those of a source of its own.
#[test]
fn events_of_a_feed_that_is_compared_for_long_are_counted_with_its_lists() {
    let mut observer = Observer::of(&[("one", None), ("two", None)]);
    let mut database = Database { invocations: vec![invocation(1.0); 3], ..Database::default() };
    observer.open(0, 0);
    (0..3).for_each(|second| observer.hear(0, &database.snapshot(second * SECOND + 130_001), second * SECOND));
    // Nothing is exposed before each feed has delivered, or 5 s.
    observer.tick(6 * SECOND);
    assert_eq!(observer.shown.counts().values().sum::<u64>(), 3);

    observer.open(1, 10 * SECOND);
    // Two timestamps in a row show that both are addresses of one server, and the numbers show little.
    (0..2).for_each(|feed| observer.hear(feed, &database.snapshot(13 * SECOND + 130_001), 13 * SECOND));
    database.invocations.push(invocation(1.0));
    observer.hear(1, &invocation_event(Some("1"), 14 * SECOND, &invocation(1.0)), 14 * SECOND);
    observer.tick(16 * SECOND);
    (0..2).for_each(|feed| observer.hear(feed, &database.snapshot(17 * SECOND + 130_001), 17 * SECOND));
    observer.tick(30 * SECOND);
    assert_eq!(observer.shown.counts(), [(("review".to_owned(), true), 4)].into());
}
