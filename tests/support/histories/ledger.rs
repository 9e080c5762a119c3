//! The ledger of this crate as what is judged, with a store in memory beneath it.

use std::collections::BTreeMap;
use std::time::Duration;

use session_buddy_bridge::internals::ledger::{
    Changes, ConnectionId, FeedId, FeedSpec, Ledger, LedgerState, Limits, Notice, Now,
};
use session_buddy_bridge::internals::protocol::{self, AnomalyEntry, Message, Number, SkillEntry, Snapshot};
use session_buddy_bridge::internals::skills_db::SkillsDatabase;
use session_buddy_bridge::internals::store::Store;
use tokio_util::sync::CancellationToken;

use super::history::Product;
use super::mirror::Mirror;
use super::verdict::Counted;
use super::world::{Entry, FeedKey, Frame, Split, Streamed, Written};
use crate::support::memory_state::MemoryState;
use crate::support::model::{self, START_MICROS, invocation_event, iso_time};
use crate::support::rows::read_all;
use crate::support::shown::Shown;

/// When a ledger is persisted, beside its orderly end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Persistence {
    /// Only then and at each look at its counts.
    AtTheEnd,
    /// After each message with this probability, in percent.
    Often(u32),
    /// The same, and each end of the bridge is a kill.
    OftenAndKilled(u32),
}

/// A ledger with its store.
pub struct LedgerProduct {
    state: MemoryState,
    store: Option<Store>,
    ledger: Ledger,
    /// When this ledger began.
    began_seconds: i64,
    feeds: BTreeMap<FeedKey, (Entry, FeedId)>,
    /// The databases of feeds, open or not.
    readers: BTreeMap<FeedKey, Option<SkillsDatabase>>,
    mirror: Mirror,
    connections: BTreeMap<FeedKey, ConnectionId>,
    shown: Shown,
    notices: Vec<Notice>,
    persistence: Persistence,
    chance: fastrand::Rng,
}

impl LedgerProduct {
    pub fn new(persistence: Persistence, seed: u64) -> Self {
        let state = MemoryState::new();
        let (store, whole) = state.open();
        let ledger = Ledger::restore(Limits::default(), whole, Now::default()).expect("an empty state is valid");
        Self {
            state,
            store: Some(store),
            ledger,
            began_seconds: 0,
            feeds: BTreeMap::new(),
            readers: BTreeMap::new(),
            mirror: Mirror::new(),
            connections: BTreeMap::new(),
            shown: Shown::default(),
            notices: Vec::new(),
            persistence,
            chance: fastrand::Rng::with_seed(seed),
        }
    }

    /// What it reported since the last call.
    pub fn take_notices(&mut self) -> Vec<Notice> {
        std::mem::take(&mut self.notices)
    }

    /// Whether it reported that a doubt was settled by counting less.
    pub fn has_doubted(&self) -> bool {
        self.notices.iter().any(|notice| matches!(notice, Notice::Undecided { .. }))
    }

    fn now(&self, at_seconds: i64) -> Now {
        let elapsed = Duration::from_secs((at_seconds - self.began_seconds).unsigned_abs());
        Now { wall_micros: START_MICROS + at_seconds * 1_000_000, elapsed }
    }

    fn persist(&mut self, at_seconds: i64) {
        let now = self.now(at_seconds);
        self.ledger.tick(now, &mut self.notices);
        if self.ledger.has_changed() {
            let changes = self.ledger.drain(now);
            self.store.as_mut().expect("it runs").commit(&changes).unwrap_or_else(|error| panic!("{error}"));
            self.ledger.acknowledge(changes.sequence);
            self.shown.fold(changes);
        }
    }

    /// What happens after each message.
    fn persist_by_chance(&mut self, at_seconds: i64) {
        match self.persistence {
            Persistence::Often(percent) | Persistence::OftenAndKilled(percent) if self.chance.u32(0..100) < percent => {
                self.persist(at_seconds);
            }
            _ => {}
        }
    }

    /// The state as it was committed change by change, and as it is where everything is committed at once.
    pub fn states(&mut self, at_seconds: i64) -> (LedgerState, LedgerState) {
        self.persist(at_seconds);
        let (_, in_steps) = self.state.open();
        self.ledger.mark_all();
        let everything = self.ledger.drain(self.now(at_seconds));
        self.ledger.acknowledge(everything.sequence);
        let state = MemoryState::new();
        let (mut store, _) = state.open();
        store.commit(&everything).unwrap_or_else(|error| panic!("{error}"));
        (in_steps, state.open().1)
    }

    fn add(&mut self, entry: &Entry) {
        let FeedKey { name, url, skill } = &entry.feed;
        let identity = match (name.is_empty(), skill) {
            (false, _) => name.clone(),
            (true, None) => url.clone(),
            (true, Some(skill)) => format!("{url} skill={skill}"),
        };
        let (address, skill) = (Some(url.clone()), skill.as_deref().map(str::to_owned));
        let id = self.ledger.add_feed(FeedSpec { identity, address, skill });
        self.feeds.insert(entry.feed.clone(), (entry.clone(), id));
    }

    /// What is done once the configuration is complete.
    fn expect_databases(&mut self, entries: &[Entry]) {
        for entry in entries.iter().filter(|entry| entry.skills_db.is_some()) {
            if !self.readers.contains_key(&entry.feed) {
                self.ledger.expect_detail(self.feeds[&entry.feed].1);
                self.readers.insert(entry.feed.clone(), None);
            }
        }
    }

    /// The reader of the feed is woken, and those of other feeds on the same database, which look once a second anyway.
    fn read_like(&mut self, at_seconds: i64, feed: &FeedKey) {
        let Some(path) = self.feeds[feed].0.skills_db.clone() else { return };
        let reads = |(entry, _): &&(Entry, FeedId)| {
            entry.skills_db.as_ref() == Some(&path) && self.connections.contains_key(&entry.feed)
        };
        let readers: Vec<_> = self.feeds.values().filter(reads).map(|(entry, _)| entry.feed.clone()).collect();
        readers.iter().for_each(|feed| self.read(at_seconds, feed));
    }

    /// What a reader does when a message of its feed wakes it.
    fn read(&mut self, at_seconds: i64, feed: &FeedKey) {
        let now = self.now(at_seconds);
        let (entry, id) = &self.feeds[feed];
        let Some(path) = &entry.skills_db else { return };
        let open = self.readers.remove(feed).flatten().filter(SkillsDatabase::is_current);
        let open_again = || SkillsDatabase::open(&self.mirror.path(path), &CancellationToken::new());
        let mut database = open.map_or_else(open_again, Ok).unwrap_or_else(|error| panic!("{error}"));
        read_all(&mut database, &mut self.ledger, *id, now, &mut self.notices).expect("it can be read");
        self.readers.insert(feed.clone(), Some(database));
    }
}

impl Product for LedgerProduct {
    fn configure(&mut self, at_seconds: i64, entries: &[Entry]) {
        let now = self.now(at_seconds);
        self.ledger.begin_configuration();
        let gone: Vec<_> = self.feeds.values().filter(|(entry, _)| !entries.contains(entry)).cloned().collect();
        for (entry, id) in gone {
            self.connections.remove(&entry.feed);
            self.readers.remove(&entry.feed);
            self.feeds.remove(&entry.feed);
            self.ledger.remove_feed(id, now);
        }
        for entry in entries {
            if !self.feeds.contains_key(&entry.feed) {
                self.add(entry);
            }
        }
        self.ledger.end_configuration(now);
        self.expect_databases(entries);
    }

    fn write(&mut self, written: &Written) {
        self.mirror.write(written);
    }

    fn open(&mut self, at_seconds: i64, feed: &FeedKey) {
        let connection = self.ledger.open(self.feeds[feed].1, self.now(at_seconds));
        self.connections.insert(feed.clone(), connection);
    }

    fn close(&mut self, at_seconds: i64, feed: &FeedKey) {
        let connection = self.connections.remove(feed).expect("only what is open closes");
        self.ledger.close(connection, self.now(at_seconds));
    }

    fn receive(&mut self, at_seconds: i64, feed: &FeedKey, frame: &Frame) {
        let now = self.now(at_seconds);
        let message = Message::Snapshot(snapshot(frame));
        self.ledger.apply(self.connections[feed], &message, now, &mut self.notices);
        self.read_like(at_seconds, feed);
        self.persist_by_chance(at_seconds);
    }

    fn stream(&mut self, at_seconds: i64, feed: &FeedKey, streamed: &Streamed) {
        let now = self.now(at_seconds);
        let Streamed { id, sent_micros, skill_name, invocation } = streamed;
        let invoked = model::Invocation {
            skill_name: skill_name.to_string(),
            workflow_phase: Some("setup".to_owned()),
            completed: invocation.completed,
            duration_seconds: invocation.duration_seconds,
        };
        let text = invocation_event(Some(id), *sent_micros, &invoked);
        let Self { ledger, connections, notices, .. } = self;
        protocol::read(&text, &protocol::Limits::default(), &mut |message| {
            ledger.apply(connections[feed], &message.expect("an event"), now, notices);
        });
        self.read_like(at_seconds, feed);
        self.persist_by_chance(at_seconds);
    }

    fn tick(&mut self, at_seconds: i64) {
        self.ledger.tick(self.now(at_seconds), &mut self.notices);
    }

    fn stop(&mut self, at_seconds: i64) {
        if !matches!(self.persistence, Persistence::OftenAndKilled(_)) {
            self.persist(at_seconds);
        }
        self.kill(at_seconds);
    }

    fn kill(&mut self, _at_seconds: i64) {
        self.store = None;
        self.feeds.clear();
        self.readers.clear();
        self.connections.clear();
    }

    fn start(&mut self, at_seconds: i64, entries: &[Entry]) {
        let (store, whole) = self.state.open();
        self.store = Some(store);
        let LedgerState { skills, rules, .. } = whole.clone();
        self.shown.fold(Changes { skills, rules, ..Changes::default() });
        self.began_seconds = at_seconds;
        self.ledger = Ledger::restore(Limits::default(), whole, self.now(at_seconds)).expect("a valid state");
        self.ledger.begin_configuration();
        entries.iter().for_each(|entry| self.add(entry));
        self.ledger.end_configuration(self.now(at_seconds));
        self.expect_databases(entries);
    }

    fn counted(&mut self, at_seconds: i64) -> Counted {
        self.persist(at_seconds);
        let mut counted = Counted { anomalies: self.shown.anomalies(), ..Counted::default() };
        for ((skill_name, completed), count) in self.shown.counts() {
            let split: &mut Split = counted.invocations.entry(skill_name.into()).or_default();
            *if completed { &mut split.completed } else { &mut split.abandoned } += count;
        }
        counted
    }
}

/// The message that the frame is.
fn snapshot(frame: &Frame) -> Snapshot<'_> {
    let skills = frame.listed.iter().map(|listing| {
        let totals = listing.totals;
        let (total, completed) = (totals.total as f64, totals.completed as f64);
        let average = (totals.completed > 0).then(|| totals.duration_seconds / completed);
        Ok(SkillEntry {
            skill_name: (&*listing.skill_name).into(),
            total_invocations: Number::Finite(total),
            // In the server's order of operations: another one rounds differently.
            completion_rate_percent: Number::Finite(completed / total * 100.0),
            average_duration_seconds: average.map_or(Number::Missing, Number::Finite),
        })
    });
    let anomalies = frame.anomalies.iter().map(|anomaly| {
        Ok(AnomalyEntry {
            skill_name: (&*anomaly.skill_name).into(),
            anomaly_type: (&*anomaly.anomaly_type).into(),
            detected_at: Some((&*anomaly.detected_at).into()),
            deviation_score: anomaly.deviation_score,
        })
    });
    Snapshot {
        timestamp: Some(iso_time(frame.sent_micros).into()),
        listed: frame.listed.len(),
        skills: skills.collect(),
        anomalies_listed: frame.anomalies.len(),
        anomalies: anomalies.collect(),
    }
}
