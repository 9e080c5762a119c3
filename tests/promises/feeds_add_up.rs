//! Several feeds: servers add up, one server under two addresses counts once, and a feed of one skill counts that skill.

use std::collections::BTreeMap;

use crate::support::model::{Database, Invocation, SECOND, invocations};
use crate::support::observer::Observer;
use crate::support::property;
use proptest::prelude::*;
use session_buddy_bridge::internals::ledger::Notice;

/// Snapshots that every feed hears after its history. The first snapshot of a feed is held for one interval.
const FINAL_ROUNDS: i64 = 3;

/// Longer than every hold and wait.
const SETTLING: i64 = 30 * SECOND;

/// The microsecond within a second at which each server takes its snapshots: no two share a timestamp.
const PHASES_MICROS: [i64; 2] = [130_001, 700_002];

/// Rounds that both addresses of one server must hear before they are known for one: two shared timestamps, each judged
/// when the next snapshot comes.
const ROUNDS_THAT_TELL_AN_ALIAS: usize = 3;

/// What two servers and the feeds that hear them go through, second by second.
#[derive(Debug, Clone)]
struct History {
    invoked: Vec<[Vec<Invocation>; 2]>,
    outages: Vec<Outage>,
}

/// A feed that is not connected for some rounds.
#[derive(Debug, Clone)]
struct Outage {
    feed: usize,
    rounds: std::ops::Range<usize>,
}

impl History {
    fn is_away(&self, feed: usize, round: usize) -> bool {
        self.outages.iter().any(|outage| outage.feed == feed && outage.rounds.contains(&round))
    }
}

fn histories() -> impl Strategy<Value = History> {
    let invoked = || prop::collection::vec(invocations(6), 0..4);
    let outage = (0_usize..3, 0_usize..40, 1_usize..8)
        .prop_map(|(feed, from, length)| Outage { feed, rounds: from..from + length });
    // No more than two outages: feeds that take turns in being away look like two servers.
    (prop::collection::vec([invoked(), invoked()], 1..40), prop::collection::vec(outage, 0..=2))
        .prop_map(|(invoked, outages)| History { invoked, outages })
}

fn sum(databases: &[Database]) -> BTreeMap<(String, bool), u64> {
    let mut sum = BTreeMap::new();
    for (key, count) in databases.iter().flat_map(Database::counts) {
        *sum.entry(key).or_default() += count;
    }
    sum
}

/// Which server each feed hears.
struct Stage {
    observer: Observer,
    servers: Vec<usize>,
    databases: [Database; 2],
    second: i64,
}

impl Stage {
    fn new(feeds: &[(&str, usize)]) -> Self {
        let specs: Vec<_> = feeds.iter().map(|(identity, _)| (*identity, None)).collect();
        Self {
            observer: Observer::of(&specs),
            servers: feeds.iter().map(|(_, server)| *server).collect(),
            databases: Default::default(),
            second: 0,
        }
    }

    /// One second: who is connected, what is invoked, then what each feed hears, in the order of the servers' snapshots.
    fn play(&mut self, invoked: &[Vec<Invocation>; 2], connected: impl Fn(usize) -> bool) -> Result<(), TestCaseError> {
        self.second += 1;
        for feed in 0..self.servers.len() {
            match (self.observer.connection(feed).is_some(), connected(feed)) {
                (false, true) => self.observer.open(feed, self.second * SECOND),
                (true, false) => self.observer.close(feed, self.second * SECOND),
                _ => {}
            }
        }
        for (server, phase_micros) in PHASES_MICROS.into_iter().enumerate() {
            let at_micros = self.second * SECOND + phase_micros;
            self.databases[server].invocations.extend_from_slice(&invoked[server]);
            let snapshot = self.databases[server].snapshot(at_micros);
            for feed in 0..self.servers.len() {
                if self.servers[feed] == server && connected(feed) {
                    self.observer.hear(feed, &snapshot, at_micros);
                }
            }
        }
        self.observer.tick((self.second + 1) * SECOND - 1);
        self.never_more_than_happened()
    }

    fn settle(&mut self) -> Result<(), TestCaseError> {
        for _ in 0..FINAL_ROUNDS {
            self.play(&Default::default(), |_| true)?;
        }
        self.observer.tick(self.second * SECOND + SETTLING);
        Ok(())
    }

    fn never_more_than_happened(&self) -> Result<(), TestCaseError> {
        let happened = sum(&self.databases);
        for (key, count) in self.observer.shown.counts() {
            let happened = happened.get(&key).copied().unwrap_or(0);
            prop_assert!(count <= happened, "{key:?} counted {count}, happened {happened}");
        }
        Ok(())
    }
}

proptest! {
    #![proptest_config(property())]

    #[test]
    fn two_servers_add_up(history in histories(), second_opens_at in 0_usize..40) {
        let mut stage = Stage::new(&[("a", 0), ("b", 1)]);
        for (round, invoked) in history.invoked.iter().enumerate() {
            let waits = |feed| feed == 1 && round < second_opens_at;
            stage.play(invoked, |feed| !waits(feed) && !history.is_away(feed, round))?;
        }
        stage.settle()?;
        prop_assert_eq!(stage.observer.shown.counts(), sum(&stage.databases));
        prop_assert_eq!(stage.observer.active_sessions(stage.second * SECOND), 2);
        for (name, [a, b]) in both(&stage.databases) {
            let rate = stage.observer.shown.skill(&name).and_then(|skill| skill.completion_rate);
            let expected = (a.0 + b.0) as f64 / (a.1 + b.1) as f64;
            prop_assert!(rate.is_some_and(|rate| (rate - expected).abs() < 1e-12), "{name}: {rate:?}, not {expected}");
        }
    }

    #[test]
    fn one_server_under_two_addresses_counts_once(history in histories(), alias_opens_at in 0_usize..40) {
        let mut stage = Stage::new(&[("a", 0), ("b", 1), ("a again", 0)]);
        let together = alias_opens_at..alias_opens_at + ROUNDS_THAT_TELL_AN_ALIAS;
        for (round, invoked) in history.invoked.iter().enumerate() {
            let waits = |feed| feed == 2 && round < alias_opens_at;
            stage.play(invoked, |feed| {
                together.contains(&round) || !(waits(feed) || history.is_away(feed, round))
            })?;
        }
        stage.settle()?;
        prop_assert_eq!(stage.observer.shown.counts(), sum(&stage.databases));
        let found = |notice: &Notice| matches!(notice, Notice::AliasFound { .. });
        let is_reported = stage.observer.notices.iter().any(found);
        prop_assert!(is_reported || stage.databases[0].invocations.is_empty(), "{:?}", stage.observer.notices);
    }

    /// Of twelve skills the one subscribed to is among the rarer: it can be off the list.
    #[test]
    fn a_feed_of_one_skill_counts_that_skill(
        rounds in prop::collection::vec(
            (prop::collection::vec(invocations(12), 0..12), prop::bool::weighted(0.8), prop::bool::weighted(0.1)),
            1..40,
        ),
    ) {
        let skill = crate::support::model::skill_name(11);
        let mut observer = Observer::of(&[("a", Some(&skill))]);
        let mut database = Database::default();
        let mut proven = BTreeMap::new();
        let mut confirmed = false;
        observer.open(0, 0);
        for (second, (invoked, heard, reconnects)) in (1..).zip(rounds) {
            let at_micros = second * SECOND;
            database.invocations.extend(invoked);
            if reconnects {
                observer.reopen(0, at_micros);
                confirmed = false;
            }
            // Until it has confirmed the subscription the server goes on about all skills.
            let snapshot = match confirmed {
                true => database.snapshot_of(&skill, at_micros),
                false => Some(database.snapshot(at_micros)),
            };
            if let Some(snapshot) = snapshot.filter(|_| heard) {
                observer.hear(0, &snapshot, at_micros);
                if database.top_ten().iter().any(|listed| listed.skill_name == skill) {
                    proven = database.counts();
                    proven.retain(|(name, _), _| *name == skill);
                }
            }
            if heard && !confirmed {
                let confirmation = format!(r#"{{"type": "subscription_confirmed", "skill": "{skill}"}}"#);
                observer.hear(0, &confirmation, at_micros);
                confirmed = true;
            }
            // With a state that is still empty, the hold of the start ends with the first snapshot or after 5 s.
            if second > 5 || !proven.is_empty() {
                prop_assert_eq!(observer.shown.counts(), proven.clone());
            }
        }
        prop_assert_eq!(observer.shown.feed(0).resets, 0);
    }
}

/// Each skill's `(completed, total)` on both servers.
fn both(databases: &[Database; 2]) -> BTreeMap<String, [(u64, u64); 2]> {
    let mut both: BTreeMap<String, [(u64, u64); 2]> = BTreeMap::new();
    for (server, database) in databases.iter().enumerate() {
        for (name, skill) in database.metrics() {
            both.entry(name.to_owned()).or_default()[server] = (skill.completed, skill.total);
        }
    }
    both
}

fn invocation(skill_name: &str) -> Invocation {
    let duration_seconds = Some(1.0);
    Invocation { skill_name: skill_name.to_owned(), workflow_phase: None, completed: true, duration_seconds }
}

#[test]
fn no_skill_is_shown_before_every_feed_has_told_its_past() {
    let mut observer = Observer::of(&[("a", None), ("b", None)]);
    let past = |skills: &[&str]| Database {
        invocations: skills.iter().map(|name| invocation(name)).collect(),
        ..Database::default()
    };
    observer.open(0, 0);
    observer.open(1, 0);
    for second in 1..4 {
        observer.hear(0, &past(&["x", "y"]).snapshot(second * SECOND), second * SECOND);
        assert!(observer.shown.is_empty(), "b has said nothing yet");
    }
    for second in 2..5 {
        let at_micros = second * SECOND + SECOND / 2;
        observer.hear(1, &past(&["x"]).snapshot(at_micros), at_micros);
    }
    observer.tick(5 * SECOND);
    let expected = BTreeMap::from([(("x".to_owned(), true), 2), (("y".to_owned(), true), 1)]);
    assert_eq!(observer.shown.counts(), expected);
    assert_eq!(observer.shown.rules.backfilled_invocations, 0);
}

#[test]
fn a_feed_that_stays_away_holds_the_start_up_for_5_seconds() {
    let mut observer = Observer::of(&[("a", None), ("b", None)]);
    let database = Database { invocations: vec![invocation("x")], ..Database::default() };
    observer.open(0, 0);
    for second in 1..=4 {
        observer.hear(0, &database.snapshot(second * SECOND), second * SECOND);
    }
    assert!(observer.shown.is_empty());
    observer.tick(5 * SECOND + 1);
    assert_eq!(observer.shown.counts()[&("x".to_owned(), true)], 1);
    observer.open(1, 6 * SECOND);
    for second in 7..=9 {
        observer.hear(1, &database.snapshot(second * SECOND), second * SECOND);
    }
    assert_eq!(observer.shown.counts()[&("x".to_owned(), true)], 2);
    assert_eq!(observer.shown.rules.backfilled_invocations, 1, "the past of b joined a series that a had begun");
}

#[test]
fn a_new_database_stays_one_though_it_outgrows_the_old_one_while_its_feed_is_pending() {
    let mut observer = Observer::of(&[("a", None), ("b", None)]);
    let database = |times| Database { invocations: vec![invocation("x"); times], ..Database::default() };
    observer.open(0, 0);
    observer.open(1, 0);
    for second in 1..=3 {
        observer.hear(0, &database(20).snapshot(second * SECOND + 1), second * SECOND + 1);
        observer.hear(1, &database(20).snapshot(second * SECOND + 1), second * SECOND + 2);
    }
    observer.close(0, 4 * SECOND);
    observer.close(1, 4 * SECOND);
    // The other address of the server does not come back for now.
    observer.open(0, 5 * SECOND);
    for (second, times) in (5..).zip([10, 14, 19, 24, 29, 34, 39]) {
        observer.hear(0, &database(times).snapshot(second * SECOND), second * SECOND);
    }
    assert_eq!(observer.shown.counts()[&("x".to_owned(), true)], 20 + 39);
    assert_eq!(observer.shown.feed(0).resets, 1);
}

/// One address of the server shows that its database is a new one, and is gone before it is known whose the new one is.
#[test]
fn what_a_new_database_holds_has_happened_since_whichever_address_of_its_server_is_bound_first() {
    let mut observer = Observer::of(&[("a", None), ("b", None), ("another server", None)]);
    let database = |times| Database { invocations: vec![invocation("x"); times], ..Database::default() };
    let other = Database { invocations: vec![invocation("y"); 5], ..Database::default() };
    (0..3).for_each(|feed| observer.open(feed, 0));
    for second in 1..=12 {
        let at_micros = second * SECOND + 1;
        let snapshot = database(if second < 4 { 20 } else { 3 }).snapshot(at_micros);
        if second <= 4 {
            observer.hear(0, &snapshot, at_micros);
        }
        if second == 4 {
            observer.close(0, at_micros + 1);
        } else {
            observer.hear(1, &snapshot, at_micros + 2);
        }
        observer.hear(2, &other.snapshot(at_micros + 500), at_micros + 500);
    }
    assert_eq!(observer.shown.counts()[&("x".to_owned(), true)], 20 + 3);
    assert_eq!(observer.shown.rules.backfilled_invocations, 0);
}

#[test]
fn a_filtered_feed_sees_a_new_database_by_its_own_skill() {
    let mut observer = Observer::of(&[("a", Some("x"))]);
    observer.open(0, 0);
    let database = |times| Database { invocations: vec![invocation("x"); times], ..Database::default() };
    observer.hear(0, r#"{"type": "subscription_confirmed", "skill": "x"}"#, 0);
    for (second, times) in [(1, 5), (2, 1), (3, 2)] {
        let snapshot = database(times).snapshot_of("x", second * SECOND).expect("listed");
        observer.hear(0, &snapshot, second * SECOND);
    }
    assert_eq!(observer.shown.counts()[&("x".to_owned(), true)], 7);
    assert_eq!(observer.shown.feed(0).resets, 1);
}
