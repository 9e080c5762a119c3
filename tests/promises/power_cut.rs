//! Whatever a power cut leaves of the state's files, be it any earlier synced state with a torn tail, the bridge starts on
//! it, and the next snapshot puts invocations and anomalies right. Only what a snapshot does not hold can be lost: which
//! phase an invocation had, and which duration.
//!
//! What is lost can be read off a scrape, since nothing is invented in its place. An invocation of a lost phase counts as
//! `unknown`. Durations that are known as a sum only are observed as its mean, and
//! `session_buddy_bridge_estimated_observations_total` counts them. Durations that are not known at all are those by which
//! `skill_duration_seconds_count` is lower than the completed invocations.
//!
//! `SESSION_BUDDY_BRIDGE_LONG=1` plays 20 histories of each kind instead of one.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

use crate::support::expected_families::expected_families;
use crate::support::is_long;
use crate::support::model::{
    Anomaly, Database, Invocation, SECOND, anomaly_event, invocation_event, skill_name, sql_time,
};
use crate::support::observer::moment;
use crate::support::running_bridge::{RunningBridge, families};
use crate::support::scripted_feed::{Gate, ScriptedFeed, Step};
use rusqlite::Connection;
use session_buddy_bridge::internals::ledger::{
    ConnectionId, FeedSpec, Ledger, LedgerState, Limits, PhaseSeries, RuleCounters, SkillRow, SkillSeries,
};
use session_buddy_bridge::internals::protocol;
use session_buddy_bridge::internals::store::{Opened, Store};
use session_buddy_bridge::settings::{FeedTarget, Settings, StateLocation};
use tempfile::TempDir;

const IDENTITY: &str = "feed";

/// Seconds of each history.
const SECONDS: i64 = 24;

const SKILLS: usize = 8;

/// The header of SQLite's log, which holds the salt of all that follows.
const WAL_HEADER_BYTES: usize = 32;

/// A bridge without threads: what it hears is kept before anything else happens.
struct Bridge {
    store: Store,
    ledger: Ledger,
    connection: ConnectionId,
    skills: BTreeMap<u32, SkillSeries>,
    rules: RuleCounters,
    commits: usize,
}

impl Bridge {
    /// # Panics
    /// If the state is not readable as what it is.
    fn start(path: &Path, at_micros: i64) -> (Self, LedgerState) {
        let Opened { store, restored: whole, quarantined } = Store::open(path, Ok).expect("the state opens");
        assert_eq!(quarantined, None, "a synced state is whole");
        let mut ledger = Ledger::restore(Limits::default(), whole.clone(), moment(at_micros)).expect("the state fits");
        let feed = ledger.add_feed(FeedSpec { identity: IDENTITY.to_owned(), ..FeedSpec::default() });
        let connection = ledger.open(feed, moment(at_micros));
        let skills = whole.skills.iter().map(|row| (row.index.0, row.series.clone())).collect();
        (Self { store, ledger, connection, skills, rules: whole.rules, commits: 0 }, whole)
    }

    fn hear(&mut self, text: &str, at_micros: i64) {
        let (ledger, connection) = (&mut self.ledger, self.connection);
        protocol::read(text, &protocol::Limits::default(), &mut |message| {
            ledger.apply(connection, &message.expect("a message"), moment(at_micros), &mut Vec::new());
        });
        self.keep(at_micros);
    }

    fn wait(&mut self, at_micros: i64) {
        self.ledger.tick(moment(at_micros), &mut Vec::new());
        self.keep(at_micros);
    }

    fn keep(&mut self, at_micros: i64) {
        if self.ledger.has_changed() {
            let changes = self.ledger.drain(moment(at_micros));
            self.ledger.acknowledge(changes.sequence);
            self.store.commit(&changes).expect("it is kept");
            self.commits += 1;
            self.rules = changes.rules;
            for SkillRow { index, series, .. } in changes.skills {
                self.skills.insert(index.0, series);
            }
        }
    }

    fn phases(&self) -> impl Iterator<Item = (&str, &PhaseSeries)> {
        self.skills.values().flat_map(|skill| skill.phases.iter().map(|phase| (&*skill.skill_name, phase)))
    }

    /// By skill, phase and `completed`; none that is zero.
    fn counts(&self) -> BTreeMap<(String, String, bool), u64> {
        let split = |(name, phase): (&str, &PhaseSeries)| {
            let key = |completed| (name.to_owned(), phase.workflow_phase.to_string(), completed);
            [(key(true), phase.completed), (key(false), phase.abandoned)]
        };
        self.phases().flat_map(split).filter(|(_, count)| *count > 0).collect()
    }

    fn anomalies(&self) -> BTreeMap<(String, String), u64> {
        let of = |skill: &SkillSeries| {
            let name = skill.skill_name.to_string();
            skill
                .anomalies
                .iter()
                .map(move |series| ((name.clone(), series.anomaly_type.to_string()), series.count))
                .collect::<Vec<_>>()
        };
        self.skills.values().flat_map(of).collect()
    }
}

/// What a server says, and what it held at the end.
struct History {
    /// With the times at which they are heard, in microseconds.
    frames: Vec<(i64, String)>,
    database: Database,
}

impl History {
    /// The bridge is there from the empty database on. Where invocations are streamed, some of their events are lost; one
    /// skill's durations are all the same then, so that it does not matter which event a rise takes.
    fn random(seed: u64, streams: bool) -> Self {
        let mut chance = fastrand::Rng::with_seed(seed);
        let mut history = Self { frames: Vec::new(), database: Database::default() };
        for second in 1..=SECONDS {
            let at_micros = second * SECOND;
            for _ in 0..if second == 1 { 0 } else { chance.usize(0..4) } {
                let invocation = history.invoke(&mut chance, streams);
                if streams && chance.u8(0..10) < 6 {
                    let id = format!("{second}-{}", history.database.invocations.len());
                    history.frames.push((at_micros, invocation_event(Some(&id), at_micros, &invocation)));
                }
            }
            // No more in all than a list holds, so that none can be hidden by the longest outage.
            if second > 1 && history.database.anomalies.len() < 10 && chance.u8(0..10) < 3 {
                let anomaly = Anomaly {
                    skill_name: skill_name(chance.usize(0..SKILLS)),
                    anomaly_type: ["drop", "spike"][chance.usize(0..2)].to_owned(),
                    detected_at: sql_time(at_micros),
                    deviation_score: Some(f64::from(chance.u8(0..5))),
                };
                if streams && chance.bool() {
                    history.frames.push((at_micros, anomaly_event(Some(&second.to_string()), at_micros, &anomaly)));
                }
                history.database.anomalies.push(anomaly);
            }
            history.frames.push((at_micros, history.database.snapshot(at_micros)));
        }
        // The power is away for some invocations.
        (0..3).for_each(|_| drop(history.invoke(&mut chance, streams)));
        history
    }

    fn invoke(&mut self, chance: &mut fastrand::Rng, streams: bool) -> Invocation {
        let skill = chance.usize(0..SKILLS);
        let completed = chance.u8(0..10) < 8;
        let seconds = if streams { 0.7 * (skill + 1) as f64 } else { f64::from(chance.u32(1..400_000)) / 1e4 };
        let invocation = Invocation {
            skill_name: skill_name(skill),
            workflow_phase: ["setup", "execution"].get(chance.usize(0..3)).map(|phase| (*phase).to_owned()),
            completed,
            duration_seconds: completed.then_some(seconds),
        };
        self.database.invocations.push(invocation.clone());
        invocation
    }

    /// The first snapshot after the cut, a minute later.
    fn next_snapshot(&self) -> (i64, String) {
        let at_micros = (SECONDS + 60) * SECOND;
        (at_micros, self.database.snapshot(at_micros))
    }

    /// Invocations by skill, phase and `completed`.
    fn happened(&self) -> BTreeMap<(String, String, bool), u64> {
        let mut happened = BTreeMap::new();
        for Invocation { skill_name, workflow_phase, completed, .. } in &self.database.invocations {
            let phase = workflow_phase.as_deref().unwrap_or("unknown");
            *happened.entry((skill_name.clone(), phase.to_owned(), *completed)).or_default() += 1;
        }
        happened
    }

    fn anomalies(&self) -> BTreeMap<(String, String), u64> {
        let mut anomalies = BTreeMap::new();
        for Anomaly { skill_name, anomaly_type, .. } in &self.database.anomalies {
            *anomalies.entry((skill_name.clone(), anomaly_type.clone())).or_default() += 1;
        }
        anomalies
    }
}

/// The state's files at one moment at which everything had reached the disk, and what they hold.
struct Synced {
    database: Vec<u8>,
    wal: Vec<u8>,
    /// What SQLite shares between processes. It is never synced, so that any version of it may be found after a cut.
    shm: Vec<u8>,
    whole: LedgerState,
    /// So many bytes of the log are in the database already. They were synced before the database took them in, so that no
    /// cut leaves less of them.
    taken_in_bytes: usize,
    /// Whether the bridge had kept its feed's first snapshot.
    knows_the_past: bool,
}

impl Synced {
    fn of(path: &Path) -> Self {
        let read = |suffix| fs::read(beside(path, suffix)).expect("the state's file");
        let whole = Store::look(path).expect("the state reads along");
        let knows_the_past = whole.memory.sources.iter().any(|source| source.has_begun);
        let (database, wal, shm) = (read(""), read("-wal"), read("-shm"));
        Self { database, wal, shm, whole, taken_in_bytes: 0, knows_the_past }
    }

    /// Leaves `database` and `wal` where a bridge will look for them. The folder goes with what is returned.
    fn leave(database: &[u8], wal: &[u8], shm: Option<&[u8]>) -> (TempDir, PathBuf) {
        let folder = TempDir::new().unwrap();
        let path = folder.path().join("state.db");
        for (suffix, bytes) in [("", Some(database)), ("-wal", Some(wal)), ("-shm", shm)] {
            if let Some(bytes) = bytes {
                fs::write(beside(&path, suffix), bytes).unwrap();
            }
        }
        (folder, path)
    }
}

fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(suffix);
    name.into()
}

/// Plays `history` to a bridge, and keeps each state that was synced. Now and then somebody has the database take in its
/// log, as SQLite itself does once that is long, so that the log begins anew.
fn synced_states(history: &History) -> Vec<Synced> {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("state.db");
    let (mut bridge, whole) = Bridge::start(&path, 0);
    assert_eq!(whole, LedgerState::default());
    let mut states = vec![Synced::of(&path)];
    for (place, (at_micros, text)) in history.frames.iter().enumerate() {
        let commits = bridge.commits;
        bridge.hear(text, *at_micros);
        if bridge.commits > commits {
            let before = &states[states.len() - 1];
            let now = Synced::of(&path);
            // A log that begins anew has another header.
            let goes_on = before.wal.get(..WAL_HEADER_BYTES) == now.wal.get(..WAL_HEADER_BYTES);
            let taken_in_bytes = if goes_on { before.taken_in_bytes } else { 0 };
            states.push(Synced { taken_in_bytes, ..now });
        }
        if place % 10 == 9 {
            let done: i64 = Connection::open(&path)
                .and_then(|other| other.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |row| row.get(2)))
                .expect("a checkpoint");
            assert!(done > 0, "the log was taken in");
            let taken_in = Synced::of(&path);
            states.push(Synced { taken_in_bytes: taken_in.wal.len(), ..taken_in });
        }
    }
    states
}

/// What a cut after `states[at]` leaves of the log: nothing more than was synced, part of what would have been the next
/// commit, garbage, or less than was synced by a disk that lied.
fn torn_logs(states: &[Synced], at: usize, chance: &mut fastrand::Rng) -> Vec<Vec<u8>> {
    let Synced { wal, taken_in_bytes, .. } = &states[at];
    let mut logs = vec![wal.clone()];
    if let Some(next) = states.get(at + 1).map(|state| &state.wal) {
        let same = wal.iter().zip(next).take_while(|(one, other)| one == other).count();
        for _ in 0..3 {
            // What was written of the next one lies over what was there.
            let written = chance.usize(same..=next.len());
            logs.push([&next[..written], wal.get(written..).unwrap_or_default()].concat());
        }
    }
    let garbage: Vec<u8> = (0..chance.usize(1..9_000)).map(|_| chance.u8(..)).collect();
    logs.push([wal.as_slice(), &garbage].concat());
    if let Some(bytes) = wal.len().checked_sub(1) {
        logs.push([wal, &wal[chance.usize(0..bytes)..]].concat());
    }
    if *taken_in_bytes < wal.len() {
        logs.push(wal[..chance.usize(*taken_in_bytes..wal.len())].to_vec());
        let mut flipped = wal.clone();
        flipped[chance.usize(*taken_in_bytes..wal.len())] ^= 1 << chance.u8(0..8);
        logs.push(flipped);
    }
    logs
}

/// Whatever is left is one of the states that were synced, and from each of these everything comes right. The number of
/// cuts.
fn survives_every_cut(seed: u64, streams: bool) -> usize {
    let history = History::random(seed, streams);
    let states = synced_states(&history);
    assert!(states.iter().any(|state| !state.knows_the_past) && states.iter().any(|state| state.knows_the_past));
    let mut chance = fastrand::Rng::with_seed(seed);
    let mut cuts = 0;
    for (at, state) in states.iter().enumerate() {
        comes_right(&history, state, &format!("seed {seed}, state {at}"));
        for (number, log) in torn_logs(&states, at, &mut chance).iter().enumerate() {
            let shm = chance.bool().then_some(states[chance.usize(0..states.len())].shm.as_slice());
            let (_folder, path) = Synced::leave(&state.database, log, shm);
            let (_, found) = Bridge::start(&path, 0);
            let (what, until) = (format!("seed {seed}, log {number} after state {at}"), states.len().min(at + 2));
            assert!(states[..until].iter().any(|state| state.whole == found), "{what}: no state that ever was");
            assert!(number > 0 || state.whole == found, "{what}: what was synced is not there");
            cuts += 1;
        }
        if let Some(database) = torn_database(&states, at, &mut chance) {
            let (_folder, path) = Synced::leave(&database, &state.wal, None);
            assert!(Bridge::start(&path, 0).1 == state.whole, "seed {seed}, torn database after state {at}");
            cuts += 1;
        }
    }
    cuts
}

/// What a cut leaves of the database while it takes its log in: some of its pages are new, others old. `None` where it
/// does not after `states[at]`.
fn torn_database(states: &[Synced], at: usize, chance: &mut fastrand::Rng) -> Option<Vec<u8>> {
    const PAGE_BYTES: usize = 4096;
    let (before, after) = (&states[at], states.get(at + 1)?);
    if before.wal != after.wal {
        return None;
    }
    let mut pages = after.database.clone();
    for (new, old) in pages.chunks_mut(PAGE_BYTES).zip(before.database.chunks(PAGE_BYTES)) {
        if chance.bool() {
            new[..old.len()].copy_from_slice(old);
        }
    }
    Some(pages)
}

/// A bridge starts on `state` and hears the next snapshot.
fn comes_right(history: &History, state: &Synced, what: &str) {
    let (_folder, path) = Synced::leave(&state.database, &state.wal, None);
    let (at_micros, snapshot) = history.next_snapshot();
    let (mut bridge, _) = Bridge::start(&path, at_micros);
    let known = bridge.counts();
    bridge.hear(&snapshot, at_micros);
    // On a feed that streams, what no event came for waits for five seconds.
    bridge.wait(at_micros + 6 * SECOND);

    let happened = history.happened();
    let counts = bridge.counts();
    assert_eq!(without_phase(&counts), without_phase(&happened), "{what}: invocations");
    assert_eq!(bridge.anomalies(), history.anomalies(), "{what}: anomalies");
    let feed = Store::look(&path).unwrap().memory.feeds.swap_remove(0);
    assert_eq!((feed.counters.resets, feed.counters.rollbacks), (0, 0), "{what}: there was no reset");

    for (key, count) in counts.iter().filter(|((_, phase, _), _)| phase != "unknown") {
        let happened = happened.get(key).copied().unwrap_or_default();
        assert!(*count <= happened, "{what}: {key:?} counted {count}, happened {happened}");
    }
    for (key, count) in &known {
        assert!(counts.get(key).is_some_and(|now| now >= count), "{what}: {key:?} fell from {count}");
    }
    let observed = durations_add_up(&bridge, history, state.knows_the_past, what);
    let observations = bridge.rules.exact_observations + bridge.rules.estimated_observations;
    assert_eq!(observations, observed, "{what}: a duration is exact or said to be estimated");

    drop(bridge);
    let (again, _) = Bridge::start(&path, at_micros);
    assert_eq!(again.counts(), counts, "{what}: what was put right is kept");
}

/// Durations are those of the database, or, of a past that nobody knows any more, missing. How many there are.
fn durations_add_up(bridge: &Bridge, history: &History, knows_the_past: bool, what: &str) -> u64 {
    let mut observed = 0;
    for (name, metrics) in history.database.metrics() {
        let phases = || bridge.phases().filter(|(skill, _)| *skill == name).map(|(_, phase)| &phase.durations);
        let count: u64 = phases().map(|durations| durations.count()).sum();
        let sum: f64 = phases().map(|durations| durations.sum).sum();
        assert!(count <= metrics.completed, "{what}: {name} has {count} durations of {}", metrics.completed);
        assert!(!knows_the_past || count == metrics.completed, "{what}: {name}: {count} of {}", metrics.completed);
        let apart = (sum - metrics.duration_seconds).abs();
        assert!(!knows_the_past || apart <= 1e-9 * sum.max(1.0), "{what}: {name}: {apart} s apart");
        observed += count;
    }
    observed
}

fn without_phase(counts: &BTreeMap<(String, String, bool), u64>) -> BTreeMap<(&str, bool), u64> {
    let mut sums = BTreeMap::new();
    for ((name, _, completed), count) in counts {
        *sums.entry((name.as_str(), *completed)).or_default() += count;
    }
    sums
}

fn play(streams: bool) {
    let histories = if is_long() { 20 } else { 1 };
    let cuts: usize = (0..histories).map(|seed| survives_every_cut(seed, streams)).sum();
    println!("{histories} histories, {cuts} cuts");
}

#[test]
fn a_feed_of_snapshots_comes_right() {
    play(false);
}

#[test]
fn a_feed_that_streams_comes_right() {
    play(true);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_whole_bridge_starts_on_what_is_left() {
    let history = History::random(7, false);
    let states = synced_states(&history);
    let mut chance = fastrand::Rng::with_seed(7);
    for at in [0, 1, states.len() / 2, states.len() - 2] {
        let log = torn_logs(&states, at, &mut chance).swap_remove(1);
        let (_folder, path) = Synced::leave(&states[at].database, &log, None);
        let (_, snapshot) = history.next_snapshot();
        let feed = ScriptedFeed::start(vec![vec![Step::send(snapshot), Step::Await(Gate::default())]]);
        let mut target = FeedTarget::new(feed.url().as_str()).unwrap();
        target.identity = IDENTITY.to_owned();
        let bridge = RunningBridge::start(Settings { state: StateLocation::Path(path), ..Settings::new(vec![target]) });
        let expected = expected_families(&[&history.database], &history.database.invocations);
        let counted = |families: BTreeMap<_, f64>| {
            let is_estimated =
                |series: &crate::support::scrape::Series| series.name.starts_with("skill_duration_seconds");
            families.into_iter().filter(|(series, _)| !is_estimated(series)).collect::<BTreeMap<_, _>>()
        };
        bridge.until("the database", &counted(expected), |scrape| counted(families(scrape))).await;
        bridge.stop().await;
    }
}
