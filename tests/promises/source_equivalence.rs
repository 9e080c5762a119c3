//! Reconfiguration equivalence: whatever sequence of configurations, reloads, restarts and kills leads there, counts end
//! where they would have ended had the final configuration been in place from the start.
//!
//! Two servers with databases that can be told apart, each under three addresses, which stream what is invoked or do not.
//! Databases are read beside feeds, or not any more, as any other edit of the configuration says. `SESSION_BUDDY_BRIDGE_LONG=1` plays
//! 10,000 plans, or as many as `SESSION_BUDDY_BRIDGE_HISTORIES` says.

use std::env;
use std::rc::Rc;

use crate::support::histories::{
    CountedByModel, Errors, Event, FeedKey, History, LedgerProduct, Pace, Persistence, Style, Verdict, World,
    counted_by_the_model, describe,
};
use crate::support::is_long;
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::{FileFailurePersistence, TestRunner};

const SERVERS: usize = 2;
const ADDRESSES: usize = 3;

/// Skills of each server. The servers share half of their names.
const SKILLS: usize = 4;

/// The longest handshake: a new address of a known server waits as long for those that were there before.
const HANDSHAKE_SECONDS_MAX: usize = 4;

/// Snapshots of each feed, once all are connected, in which it is decided whose numbers each of them lists: the last one to
/// connect is compared with the others in three of them.
/// Rounds in which what was streamed is listed and counted: longer than events are pending.
const QUIET_ROUNDS: usize = 3;

const DECIDING_SNAPSHOTS: usize = 4;

/// One entry of a configuration.
#[derive(Debug, Clone, PartialEq)]
struct Entry {
    server: usize,
    address: usize,
    skill: Option<usize>,
    name: Option<usize>,
    /// Whether its database is read beside it.
    is_read: bool,
}

#[derive(Debug, Clone, Copy)]
enum Change {
    Reload,
    Restart,
    Kill,
}

/// One edit of the configuration, as people make them. An edit that cannot be made changes nothing.
#[derive(Debug, Clone)]
enum Edit {
    Rename {
        entry: usize,
        name: Option<usize>,
    },
    /// The same server by another of its addresses.
    Respell {
        entry: usize,
        address: usize,
    },
    Filter {
        entry: usize,
        skill: Option<usize>,
    },
    /// The database is read beside the feed from now on, or not any more.
    Read {
        entry: usize,
        is_read: bool,
    },
    Add(Entry),
    /// Not the last entry of a server: it would have to be known again by numbers alone.
    Remove {
        entry: usize,
    },
    Move {
        entry: usize,
        to: usize,
    },
}

#[derive(Debug, Clone)]
enum Step {
    /// Some edits at once.
    Change(Change, Vec<Edit>),
    Invoke {
        server: usize,
        skill: usize,
        times: usize,
    },
    /// An address refuses connections for a while.
    Outage {
        server: usize,
        address: usize,
        rounds: usize,
    },
}

#[derive(Debug, Clone)]
struct Plan {
    seed: u64,
    /// Whether the servers stream invocations.
    has_events: bool,
    sizes: [usize; SERVERS],
    first: Vec<Entry>,
    steps: Vec<Step>,
}

impl Edit {
    fn apply(&self, entries: &[Entry]) -> Vec<Entry> {
        let mut edited = entries.to_vec();
        let at = |entry: usize| entry % entries.len();
        match self {
            Self::Rename { entry, name } => edited[at(*entry)].name = *name,
            Self::Respell { entry, address } => edited[at(*entry)].address = *address,
            Self::Filter { entry, skill } => edited[at(*entry)].skill = *skill,
            Self::Read { entry, is_read } => edited[at(*entry)].is_read = *is_read,
            Self::Add(entry) => edited.push(entry.clone()),
            Self::Remove { entry } => drop(edited.remove(at(*entry))),
            Self::Move { entry, to } => {
                let moved = edited.remove(at(*entry));
                edited.insert(to % entries.len(), moved);
            }
        }
        let servers = |entries: &[Entry]| {
            (0..SERVERS).filter(|server| entries.iter().any(|entry| entry.server == *server)).count()
        };
        if servers(&edited) < servers(entries) || has_clash(&edited) { entries.to_vec() } else { edited }
    }
}

/// Whether two entries have the same address or name.
fn has_clash(entries: &[Entry]) -> bool {
    entries.iter().enumerate().any(|(at, one)| {
        entries[..at].iter().any(|other| {
            (one.server, one.address) == (other.server, other.address) || one.name.is_some() && one.name == other.name
        })
    })
}

fn skill_name(server: usize, skill: usize) -> Rc<str> {
    format!("skill-{}", server * SKILLS / 2 + skill).into()
}

fn feed(entry: &Entry) -> FeedKey {
    FeedKey {
        name: entry.name.map(|name| format!("feed-{name}")).unwrap_or_default(),
        url: format!("ws://s{}a{}", entry.server, entry.address),
        skill: entry.skill.map(|skill| skill_name(entry.server, skill)),
    }
}

fn entries() -> impl Strategy<Value = Entry> {
    let skill = prop::option::weighted(0.2, 0..SKILLS);
    (0..SERVERS, 0..ADDRESSES, skill, prop::option::weighted(0.4, 0..4_usize), prop::bool::weighted(0.3))
        .prop_map(|(server, address, skill, name, is_read)| Entry { server, address, skill, name, is_read })
}

fn edits() -> impl Strategy<Value = Edit> {
    let entry = || 0..4_usize;
    prop_oneof![
        1 => (entry(), prop::option::of(0..4_usize)).prop_map(|(entry, name)| Edit::Rename { entry, name }),
        1 => (entry(), 0..ADDRESSES).prop_map(|(entry, address)| Edit::Respell { entry, address }),
        1 => (entry(), prop::option::of(0..SKILLS)).prop_map(|(entry, skill)| Edit::Filter { entry, skill }),
        1 => (entry(), any::<bool>()).prop_map(|(entry, is_read)| Edit::Read { entry, is_read }),
        2 => entries().prop_map(Edit::Add),
        1 => entry().prop_map(|entry| Edit::Remove { entry }),
        1 => (entry(), 0..4_usize).prop_map(|(entry, to)| Edit::Move { entry, to }),
    ]
}

fn plans() -> impl Strategy<Value = Plan> {
    let change = prop::sample::select(vec![Change::Reload, Change::Restart, Change::Kill]);
    let step = prop_oneof![
        5 => (change, prop::collection::vec(edits(), 1..4)).prop_map(|(change, edits)| Step::Change(change, edits)),
        1 => (0..SERVERS, 0..SKILLS, 1..20_usize).prop_map(|(server, skill, times)| Step::Invoke { server, skill, times }),
        1 => (0..SERVERS, 0..ADDRESSES, 1..8_usize)
            .prop_map(|(server, address, rounds)| Step::Outage { server, address, rounds }),
    ];
    let size = || 60..400_usize;
    let first = prop::collection::vec(entries(), 1..4)
        .prop_map(|drawn| drawn.into_iter().fold(Vec::new(), |entries, entry| Edit::Add(entry).apply(&entries)));
    (any::<u64>(), any::<bool>(), [size(), size()], first, prop::collection::vec(step, 1..12))
        .prop_map(|(seed, has_events, sizes, first, steps)| Plan { seed: seed >> 16, has_events, sizes, first, steps })
}

fn configure(world: &mut World, entries: &[Entry]) {
    world.read_at(entries.iter().filter(|entry| entry.is_read).map(|entry| feed(entry).url).collect());
    world.configure(entries.iter().map(feed).collect());
}

/// Runs until it is decided whose numbers each feed lists and, without traffic, until everything that was streamed is listed.
fn settle(world: &mut World) {
    world.run_until_received(DECIDING_SNAPSHOTS);
    world.run_without_traffic(QUIET_ROUNDS);
    world.record_truth();
}

/// The history that a plan is.
fn history(plan: &Plan) -> History {
    let mut world = World::new(plan.seed, Style::Real, Pace::Calm);
    world.list_every_anomaly();
    if plan.has_events {
        world.stream();
    }
    world.stagger_handshakes(HANDSHAKE_SECONDS_MAX);
    for (server, size) in plan.sizes.into_iter().enumerate() {
        let names = (0..SKILLS).map(|skill| skill_name(server, skill)).collect();
        let path = world.add_file(names, 0.2, size);
        let urls = (0..ADDRESSES).map(|address| format!("ws://s{server}a{address}")).collect();
        world.add_server(&path, server as u8, urls);
    }
    let mut entries = plan.first.clone();
    configure(&mut world, &entries);
    settle(&mut world);
    for step in &plan.steps {
        match step {
            Step::Change(change, edits) => {
                entries = edits.iter().fold(entries, |entries, edit| edit.apply(&entries));
                match change {
                    Change::Reload => {}
                    Change::Restart => world.stop_bridge(),
                    Change::Kill => world.kill_bridge(),
                }
                configure(&mut world, &entries);
                if !matches!(change, Change::Reload) {
                    world.start_bridge();
                }
            }
            Step::Invoke { server, skill, times } => {
                let path = world.path_of(*server);
                (0..*times).for_each(|_| world.invoke(&path, Some(skill_name(*server, *skill))));
            }
            Step::Outage { server, address, rounds } => {
                let url = format!("ws://s{server}a{address}");
                world.set_works(*server, &url, false);
                world.run(*rounds);
                world.set_works(*server, &url, true);
            }
        }
        settle(&mut world);
    }
    world.into_history()
}

fn cases() -> u32 {
    let requested = env::var("SESSION_BUDDY_BRIDGE_HISTORIES").ok().map(|text| text.parse().expect("a number"));
    requested.unwrap_or(if is_long() { 10_000 } else { 256 })
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: cases(),
        failure_persistence: Some(Box::new(FileFailurePersistence::WithSource("regressions"))),
        ..ProptestConfig::default()
    })]

    #[test]
    fn any_sequence_of_configurations_reloads_restarts_and_kills_counts_once(plan in plans()) {
        let history = history(&plan);
        let verdict = Verdict::of(&history, &mut LedgerProduct::new(Persistence::Often(20), plan.seed));
        prop_assert!(
            verdict.errors == Errors::default(), "{:?} {:?}\n{}", verdict.errors, verdict.blame, text(&history)
        );
    }
}

/// Two servers whose databases share half of their names, with nothing equal left whenever a feed connects again.
fn two_servers() -> World {
    let mut world = World::new(1, Style::Real, Pace::Calm);
    world.stagger_handshakes(0);
    for server in 0..SERVERS {
        let names = (0..SKILLS).map(|skill| skill_name(server, skill)).collect();
        // The second can be what the first has become.
        let path = world.add_file(names, 0.0, 60 + 400 * server);
        let urls = (0..ADDRESSES).map(|address| format!("ws://s{server}a{address}")).collect();
        world.add_server(&path, server as u8, urls);
    }
    world
}

fn entry(server: usize, address: usize, skill: Option<usize>, name: Option<usize>) -> FeedKey {
    feed(&Entry { server, address, skill, name, is_read: false })
}

/// Every skill of a server is invoked.
fn invoke_all(world: &mut World, server: usize) {
    let path = world.path_of(server);
    (0..SKILLS).for_each(|skill| world.invoke(&path, Some(skill_name(server, skill))));
}

fn assert_exact(mut world: World) {
    settle(&mut world);
    let history = world.into_history();
    let verdict = Verdict::of(&history, &mut LedgerProduct::new(Persistence::AtTheEnd, 1));
    assert_eq!(verdict.errors, Errors::default(), "{}", text(&history));
}

#[test]
fn a_new_address_waits_for_a_known_one_whose_handshake_is_slower() {
    let mut world = two_servers();
    let known = entry(0, 0, Some(1), None);
    world.configure(vec![known.clone()]);
    world.run_until_received(DECIDING_SNAPSHOTS);
    world.stop_bridge();
    world.configure(vec![known, entry(0, 1, None, None)]);
    invoke_all(&mut world, 0);
    world.set_works(0, "ws://s0a0", false);
    world.start_bridge();
    world.run(2);
    world.set_works(0, "ws://s0a0", true);
    assert_exact(world);
}

#[test]
fn the_second_address_of_a_first_start_may_be_slower() {
    let mut world = two_servers();
    world.set_works(0, "ws://s0a0", false);
    world.configure(vec![entry(0, 0, None, None), entry(0, 1, None, None)]);
    world.run(1);
    invoke_all(&mut world, 0);
    world.set_works(0, "ws://s0a0", true);
    assert_exact(world);
}

#[test]
fn an_entry_that_is_added_beside_a_renamed_one_inherits_nothing() {
    let mut world = two_servers();
    world.configure(vec![entry(0, 0, Some(2), None)]);
    world.run_until_received(DECIDING_SNAPSHOTS);
    world.set_works(0, "ws://s0a0", false);
    world.configure(vec![entry(0, 0, Some(2), Some(0)), entry(1, 0, None, None)]);
    world.run(1);
    world.set_works(0, "ws://s0a0", true);
    assert_exact(world);
}

#[test]
fn what_one_heir_has_inherited_is_not_inherited_by_another_server() {
    let mut world = two_servers();
    world.configure(vec![entry(0, 0, Some(2), None)]);
    world.run_until_received(DECIDING_SNAPSHOTS);
    invoke_all(&mut world, 0);
    world.configure(vec![entry(0, 1, Some(2), None), entry(1, 0, None, None)]);
    assert_exact(world);
}

#[test]
fn an_entry_whose_address_and_filter_change_at_once_inherits() {
    let mut world = two_servers();
    world.configure(vec![entry(0, 0, Some(0), None)]);
    world.run_until_received(DECIDING_SNAPSHOTS);
    world.configure(vec![entry(0, 1, Some(1), None)]);
    world.run_until_received(DECIDING_SNAPSHOTS);
    invoke_all(&mut world, 0);
    world.configure(vec![entry(0, 1, None, None)]);
    assert_exact(world);
}

/// Prints how many plans the Python model counts exactly, so that the test above asks for nothing that cannot be had.
#[test]
#[ignore = "a tool: it prints figures of the model"]
fn the_model_counts_plans_exactly() {
    let mut runner = TestRunner::deterministic();
    let drawn: Vec<_> = (0..500).map(|_| plans().new_tree(&mut runner).expect("a plan").current()).collect();
    let histories: Vec<_> = drawn.iter().map(history).collect();
    let counted = counted_by_the_model(&histories);
    let mut wrong = 0;
    for ((plan, history), counted) in drawn.iter().zip(&histories).zip(counted) {
        let Some((_, Event::Truth(truth))) = history.events.last() else { panic!("a history ends with the truth") };
        let invocations = truth.invocations.iter().map(|(name, split)| (name.to_string(), split.total())).collect();
        let due = CountedByModel { invocations, anomalies: truth.anomalies.values().sum() };
        if counted != due {
            wrong += 1;
            println!("{plan:?}\n  truth {due:?}\n  model {counted:?}");
        }
    }
    println!("the model counts {wrong} of {} plans wrong", drawn.len());
}

/// The events of a history but for frames that repeat the one before.
fn text(history: &History) -> String {
    let mut text = String::new();
    for (at_seconds, event) in &history.events {
        if !matches!(event, Event::Tick | Event::Write(_) | Event::Receive(..)) {
            text.push_str(&format!("{at_seconds:5} {}\n", describe(event)));
        }
    }
    text
}
