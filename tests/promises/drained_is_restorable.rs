//! Whatever a ledger drains, a store takes, and a ledger can be restored from: no feed, however broken, stops the commits of
//! others or leaves a state that is refused at the next start.

use proptest::prelude::*;
use session_buddy_bridge::internals::ledger::{ConnectionId, FeedId, FeedSpec, Ledger, LedgerState, Limits, Now};
use session_buddy_bridge::internals::protocol;
use session_buddy_bridge::internals::store::{Opened, Store};
use std::time::Duration;
use tempfile::TempDir;

use crate::support::shown::Shown;

const ADDRESSES: [&str; 3] = ["ws://a:1/", "ws://b:1/", "ws://c:1/"];

/// A ledger and its state.
struct Bridge {
    folder: TempDir,
    limits: Limits,
    store: Store,
    ledger: Ledger,
    feeds: Vec<FeedId>,
    /// One for each feed.
    connections: Vec<ConnectionId>,
    second: u64,
    /// Panics where a counter falls.
    shown: Shown,
}

impl Bridge {
    /// With so many feeds.
    fn start(limits: Limits, feeds: usize) -> Self {
        let folder = TempDir::new().unwrap();
        let Opened { store, restored: whole, .. } = Store::open(&folder.path().join("state.db"), Ok).unwrap();
        let (ledger, feeds, connections) = restore(limits, whole, 0, feeds);
        Self { folder, limits, store, ledger, feeds, connections, second: 0, shown: Shown::default() }
    }

    /// A frame of the first feed, a second later.
    fn receive(&mut self, frame: &str) {
        self.receive_on(0, frame);
    }

    fn receive_on(&mut self, feed: usize, frame: &str) {
        self.second += 1;
        self.receive_now(feed, frame);
    }

    fn receive_now(&mut self, feed: usize, frame: &str) {
        let (connection, now) = (self.connections[feed], moment(self.second));
        protocol::read(frame, &protocol::Limits::default(), &mut |message| {
            if let Ok(message) = message {
                self.ledger.apply(connection, &message, now, &mut Vec::new());
            }
        });
    }

    /// Commits, and starts again from what was committed.
    fn restart(&mut self) {
        // Longer than increases are pending.
        self.second += 30;
        self.ledger.tick(moment(self.second), &mut Vec::new());
        let changes = self.ledger.drain(moment(self.second));
        self.store.commit(&changes).unwrap_or_else(|error| panic!("it cannot be committed: {error}"));
        self.shown.fold(changes);
        let whole = Store::look(&self.folder.path().join("state.db")).unwrap_or_else(|error| panic!("{error}"));
        (self.ledger, self.feeds, self.connections) = restore(self.limits, whole, self.second, self.feeds.len());
    }

    /// The connection of a feed ends, and another one begins.
    fn reconnect(&mut self, feed: usize) {
        let now = moment(self.second);
        self.ledger.close(self.connections[feed], now);
        self.connections[feed] = self.ledger.open(self.feeds[feed], now);
    }
}

fn restore(limits: Limits, whole: LedgerState, second: u64, feeds: usize) -> (Ledger, Vec<FeedId>, Vec<ConnectionId>) {
    let restored = Ledger::restore(limits, whole, moment(second));
    let mut ledger = restored.unwrap_or_else(|error| panic!("it cannot be restored: {error}"));
    let add = |identity: &&str| ledger.add_feed(FeedSpec { identity: (*identity).to_owned(), ..FeedSpec::default() });
    let feeds: Vec<_> = ADDRESSES[..feeds].iter().map(add).collect();
    let connections = feeds.iter().map(|feed| ledger.open(*feed, moment(second))).collect();
    (ledger, feeds, connections)
}

fn moment(second: u64) -> Now {
    Now::at(Duration::from_secs(1_795_341_600 + second))
}

/// A snapshot of the skills from `first` on.
fn snapshot(second: u64, first: usize, skills: usize, total: u64, rate: f64, average: f64) -> String {
    let skills = (first..first + skills).map(|skill| {
        format!(
            r#"{{"skill_name":"s{skill}","total_invocations":{total},"completion_rate":{rate:?},"avg_duration_seconds":{average:?}}}"#
        )
    });
    let skills: Vec<_> = skills.collect();
    let (minute, second) = (second / 60 % 60, second % 60);
    format!(
        r#"{{"type":"metrics_update","timestamp":"2026-11-22T10:{minute:02}:{second:02}.5+00:00","data":{{"top_skills":[{}],"anomalies":[]}}}}"#,
        skills.join(",")
    )
}

#[test]
fn thirty_thousand_names_with_the_greatest_total_stop_nobody() {
    for limits in [Limits::default(), Limits { skills_max: 1, ..Limits::default() }] {
        let mut bridge = Bridge::start(limits, 2);
        for frame in 0..30 {
            bridge.receive(&snapshot(frame, frame as usize * 1_000, 1_000, (1 << 50) - 1, 100.0, 1e300));
            if frame % 5 == 4 {
                bridge.restart();
            }
        }
        // Another feed's skill, and one that is counted as `__overflow__`.
        bridge.receive(&snapshot(31, 0, 1, (1 << 50) - 1, 100.0, 1e300));
        bridge.restart();
    }
}

#[test]
fn a_feed_of_impossible_totals_holds_up_no_commit_of_another_feed() {
    const HONEST: usize = 1_000_000;
    let mut bridge = Bridge::start(Limits::default(), 2);
    let honest = |frame: u64| snapshot(frame, HONEST, 3, 1_000 + frame, 100.0, 1.5).replace(".5+00:00", ".25+00:00");
    let shown = |bridge: &Bridge| {
        let counts = bridge.shown.counts();
        (HONEST..HONEST + 3)
            .map(|skill| counts.get(&(format!("s{skill}"), true)).copied().unwrap_or_default())
            .collect()
    };
    for frame in 0..30 {
        bridge.receive(&snapshot(frame, frame as usize * 1_000, 1_000, (1 << 50) - 1, 100.0, 1e300));
        bridge.receive_on(1, &honest(frame));
        if frame % 5 == 4 {
            bridge.restart();
            let counted: Vec<u64> = shown(&bridge);
            assert_eq!(counted, [1_000 + frame; 3], "committed with frame {frame}");
        }
    }
}

/// A feed that streams events turns out to be of the source of another one: together they remember no more than one may.
#[test]
fn sources_that_join_stay_within_the_limits_of_one() {
    let limits = Limits {
        remembered_skills_max: 4,
        anomaly_types_per_skill_max: 2,
        anomaly_keys_max: 5,
        event_ids_max: 6,
        ..Limits::default()
    };
    let mut bridge = Bridge::start(limits, 2);
    let invoked = |id: &str, second: u64, skill: &str| {
        format!(
            r#"{{"type":"event","event":"skill.invoked","id":"{id}","timestamp":"2026-11-22T10:24:{second:02}+00:00",
                "data":{{"skill_name":"{skill}","completed":true}}}}"#
        )
    };
    let anomaly = |kind: &str, second: usize| {
        format!(
            r#"{{"type":"anomaly","data":{{"skill_name":"s0","anomaly_type":"{kind}","detected_at":"2026-11-22 10:00:0{second}","deviation_score":2.5}}}}"#
        )
    };
    for frame in 1..4 {
        bridge.receive(&snapshot(frame, 0, 3, 7, 100.0, 1.5));
    }
    for frame in 0..8 {
        bridge.receive(&invoked(&format!("s-{frame}"), frame, &format!("s{}", frame % 3)));
        bridge.receive_on(1, &invoked(&format!("x-{frame}"), frame, &format!("x{}", frame % 4)));
    }
    for second in 0..4 {
        bridge.receive(&anomaly(["drop", "rise"][second % 2], second));
        bridge.receive_on(1, &anomaly(["shift", "gap"][second % 2], second));
    }
    let sources = |bridge: &mut Bridge| {
        bridge.restart();
        let memory = Store::look(&bridge.folder.path().join("state.db")).unwrap().memory;
        let types = memory.tallies.iter().filter(|tally| &*tally.skill_name == "s0").count();
        [memory.sources.len(), memory.skills.len(), memory.event_ids.len(), memory.anomalies.len(), types]
    };
    assert_eq!(sources(&mut bridge), [2, 3 + 4, 6 + 6, 4 + 4, 2 + 2]);
    for second in [30, 31] {
        let frame = invoked(&format!("shared-{second}"), second, "s0");
        bridge.receive(&frame);
        bridge.receive_on(1, &frame);
    }
    // Beyond the types of one source there is `__overflow__`.
    assert_eq!(sources(&mut bridge), [1, 4, 6, 5, 2 + 1]);
}

/// Whoever gives each start another address, as containers do, has no state that grows without end.
#[test]
fn entries_of_past_configurations_are_remembered_within_a_bound() {
    const PAST_ENTRIES_MAX: usize = 256;
    let mut bridge = Bridge::start(Limits::default(), 2);
    bridge.receive(&snapshot(1, 0, 3, 7, 100.0, 1.0));
    let mut feed = None;
    for change in 0..PAST_ENTRIES_MAX + 50 {
        if change % 100 == 99 {
            bridge.restart();
        }
        let now = moment(bridge.second);
        bridge.ledger.begin_configuration();
        if let Some(feed) = feed {
            bridge.ledger.remove_feed(feed, now);
        }
        let spec = FeedSpec { identity: format!("ws://b:{change}/"), ..FeedSpec::default() };
        let added = bridge.ledger.add_feed(spec);
        feed = Some(added);
        bridge.ledger.end_configuration(now);
        bridge.connections[0] = bridge.ledger.open(added, now);
        // Of one server, which moves on.
        bridge.receive(&snapshot(2, 0, 3, 8 + change as u64, 100.0, 1.234_567));
    }
    bridge.restart();
    let memory = Store::look(&bridge.folder.path().join("state.db")).unwrap().memory;
    let entries = memory.feeds.len();
    assert!((PAST_ENTRIES_MAX..=PAST_ENTRIES_MAX + 3).contains(&entries), "{entries} entries are remembered");
    assert!(memory.addresses.len() <= entries, "{} addresses are remembered", memory.addresses.len());
    let is_recent = |change: usize| memory.feeds.iter().any(|feed| *feed.entry.name == *format!("ws://b:{change}/"));
    assert!(
        is_recent(PAST_ENTRIES_MAX + 49) && !is_recent(0),
        "the ones that were active least recently are forgotten"
    );
}

/// What becomes of three feeds.
#[derive(Debug, Clone)]
enum Step {
    Receive(Senders, Frame),
    Reconnect(usize),
    /// Longer than a feed or a server is compared.
    Wait,
    Restart,
}

/// Who sends a frame.
#[derive(Debug, Clone, Copy)]
enum Senders {
    One(usize),
    /// All three at once, as the feeds of one server do.
    All,
}

#[derive(Debug, Clone)]
enum Frame {
    Snapshot { first: usize, skills: usize, total: u64, rate: f64, average: f64 },
    Invocation { skill: usize, completed: bool, seconds: f64 },
    Anomaly { skill: usize, score: f64 },
    Sessions { count: u64 },
}

impl Frame {
    /// Its text, as the `at`-th that is sent.
    fn text(&self, at: u64) -> String {
        match self {
            Self::Snapshot { first, skills, total, rate, average } => {
                snapshot(at, *first, *skills, *total, *rate, *average)
            }
            Self::Invocation { skill, completed, seconds } => format!(
                r#"{{"type":"event","event":"skill.invoked","id":"{at}","timestamp":"2026-11-22T10:24:24+00:00",
                    "data":{{"skill_name":"s{skill}","workflow_phase":"setup","completed":{completed},"duration_seconds":{seconds:?}}}}}"#
            ),
            Self::Anomaly { skill, score } => format!(
                r#"{{"type":"anomaly","data":{{"skill_name":"s{skill}","anomaly_type":"drop","deviation_score":{score:?}}}}}"#
            ),
            Self::Sessions { count } => format!(r#"{{"type":"active_sessions","data":{{"count":{count}}}}}"#),
        }
    }
}

/// The greatest that is accepted, or anything else.
fn total() -> impl Strategy<Value = u64> {
    prop_oneof![4 => Just((1 << 50) - 1), 1 => 0_u64..10, 1 => (40_u32..64).prop_map(|bits| 1 << bits), 1 => Just(u64::MAX)]
}

fn seconds() -> impl Strategy<Value = f64> {
    prop_oneof![0.0..100.0, Just(0.0), Just(1e-308), Just(1e300), Just(f64::MAX)]
}

fn frame() -> impl Strategy<Value = Frame> {
    let rate = prop_oneof![Just(100.0), Just(0.0), Just(50.0), 0.0..100.0];
    prop_oneof![
        6 => (0_usize..5_000, 1_usize..1_000, total(), rate, seconds())
            .prop_map(|(first, skills, total, rate, average)| Frame::Snapshot { first, skills, total, rate, average }),
        2 => (0_usize..20, any::<bool>(), seconds())
            .prop_map(|(skill, completed, seconds)| Frame::Invocation { skill, completed, seconds }),
        1 => (0_usize..20, prop_oneof![Just(0.0), Just(-0.0), Just(f64::MAX), -9.0..9.0])
            .prop_map(|(skill, score)| Frame::Anomaly { skill, score }),
        1 => total().prop_map(|count| Frame::Sessions { count }),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    let senders = prop_oneof![
        4 => (0..ADDRESSES.len()).prop_map(Senders::One),
        1 => Just(Senders::All),
    ];
    prop_oneof![
        10 => (senders, frame()).prop_map(|(senders, frame)| Step::Receive(senders, frame)),
        1 => (0..ADDRESSES.len()).prop_map(Step::Reconnect),
        1 => Just(Step::Wait),
        2 => Just(Step::Restart),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: ProptestConfig::default().cases / 8, ..ProptestConfig::default() })]

    #[test]
    fn whatever_is_drained_is_restored(
        skills_max in 1_usize..50,
        feeds in 1..=ADDRESSES.len(),
        steps in prop::collection::vec(step(), 1..25),
    ) {
        let mut bridge = Bridge::start(Limits { skills_max, ..Limits::default() }, feeds);
        for (at, step) in steps.iter().enumerate() {
            match step {
                Step::Receive(senders, frame) => {
                    let text = frame.text(at as u64);
                    bridge.second += 1;
                    match senders {
                        Senders::One(feed) => bridge.receive_now(feed % feeds, &text),
                        Senders::All => (0..feeds).for_each(|feed| bridge.receive_now(feed, &text)),
                    }
                }
                Step::Reconnect(feed) => bridge.reconnect(feed % feeds),
                Step::Wait => bridge.second += 15,
                Step::Restart => bridge.restart(),
            }
        }
        bridge.restart();
    }
}
