//! The public face of all counts: feeds join and leave, messages and readings are applied, changes are drained.

use std::time::Duration;

use crate::protocol::Message;

use super::binding::{Entry, Role, Sources};
use super::dirty::Persistence;
use super::feed::{Feed, Trust};
use super::limits::Limits;
use super::notice::Notice;
use super::now::Now;
use super::records::Records;
use super::rows::Coverage;
use super::series::{FeedCounters, RuleCounters, SkillRow};
use super::series_table::SeriesTable;
use super::slots::{FeedSlot, SourceId};
use super::snapshot::Accepted;
use super::source::SourceCounts;
use super::standing::{FeedRole, FeedStanding};
use super::trace_step::TraceStep;

/// A process without a past shows no skill for at most this long, until each feed's first snapshot is in. Otherwise the
/// history of a slower feed would be a spike in a series that a faster one has begun. Each batch of the first reading of a database
/// restarts it, as its later ones would be such spikes. A feed that sends events alone is held as long, until its
/// source is known.
pub(super) const START_HOLD: Duration = Duration::from_secs(5);

/// A feed that was added.
pub type FeedId = FeedSlot;

/// One connection of a feed. Opening another makes it a thing of the past.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ConnectionId {
    feed: FeedSlot,
    generation: u64,
}

/// What the ledger must know of a feed.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct FeedSpec {
    /// What the feed is called in logs and labels; no two feeds share it.
    pub identity: String,
    /// Where it connects to: what is the same when only its name changes. `None` where that is its identity.
    pub address: Option<String>,
    /// The one skill that is subscribed to; `None` for all.
    pub skill: Option<String>,
}

impl FeedSpec {
    fn entry(&self) -> Entry {
        Entry {
            name: self.identity.as_str().into(),
            address: self.address.as_ref().unwrap_or(&self.identity).as_str().into(),
            filter: self.skill.as_deref().map(Into::into),
        }
    }
}

/// All counts, and what is needed to count on.
#[derive(Debug)]
pub struct Ledger {
    pub(super) limits: Limits,
    pub(super) series_table: SeriesTable,
    pub(super) rules: RuleCounters,
    pub(super) sources: Sources<SourceCounts>,
    /// Every feed, by its slot.
    pub(super) feeds: Vec<Feed>,
    /// The configuration, and whether `sources` have yet to learn of it.
    pub(super) configured: Vec<FeedSlot>,
    pub(super) configuration: Configuration,
    pub(super) start: Start,
    /// The elapsed time up to which [`Ledger::tick`] has counted what is pending. What becomes pending at that very time is
    /// due later, so that the messages of one frame need it once.
    pub(super) settled_until: Option<Duration>,
    pub(super) persistence: Persistence,
    /// Whether the gauges are of the feeds that are configured.
    pub(super) began: bool,
    pub(super) acknowledged_rules: RuleCounters,
    pub(super) collected_rules: RuleCounters,
    pub(super) sequence: u64,
    /// Where to explain, if somebody asked for it.
    pub(super) trace_steps: Option<Vec<TraceStep>>,
    pub(super) accepted: Vec<Accepted>,
}

/// Everything of a ledger, as plain data.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct LedgerState {
    /// Every skill.
    pub skills: Vec<SkillRow>,
    /// The counters of the rules.
    pub rules: RuleCounters,
    /// Everything else that is remembered.
    pub memory: Records,
}

#[derive(Debug, Clone, Copy)]
pub(super) enum Start {
    /// Nothing has happened yet.
    Awaited,
    Holding {
        since: Duration,
    },
    Over,
}

/// Whether the sources know of the present configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Configuration {
    Known,
    /// It changed: the sources learn of it with the next message.
    Changed,
    /// It is changing: the sources learn of it once that is over.
    Changing,
}

impl Ledger {
    /// An empty ledger, in memory.
    pub fn new(limits: Limits) -> Self {
        let persistence = Persistence::InMemory;
        let mut sources = Sources::new(persistence);
        sources.set_limits(limits);
        Self {
            limits,
            series_table: SeriesTable::default(),
            rules: RuleCounters::default(),
            sources,
            feeds: Vec::new(),
            configured: Vec::new(),
            configuration: Configuration::Known,
            start: Start::Awaited,
            settled_until: None,
            persistence,
            began: false,
            acknowledged_rules: RuleCounters::default(),
            collected_rules: RuleCounters::default(),
            sequence: 0,
            trace_steps: None,
            accepted: Vec::new(),
        }
    }

    /// From now on collects why, for [`Ledger::take_trace_steps`].
    pub fn explain(&mut self) {
        self.trace_steps.get_or_insert_default();
    }

    /// What the rules made of everything since the last call; nothing unless [`Ledger::explain`] was called.
    pub fn take_trace_steps(&mut self) -> Vec<TraceStep> {
        self.trace_steps.as_mut().map(std::mem::take).unwrap_or_default()
    }

    pub(super) fn trace(&mut self, step: TraceStep) {
        if let Some(trace_steps) = &mut self.trace_steps {
            trace_steps.push(step);
        }
    }
}

/// Configuration.
impl Ledger {
    /// Adds a feed after those that are there. One that was restored, or removed before, goes on where it was.
    pub fn add_feed(&mut self, spec: FeedSpec) -> FeedId {
        let slot = self.sources.slot_of(&spec.entry());
        while self.feeds.len() <= slot.index() {
            let identity = self.sources.entry(FeedSlot::new(self.feeds.len())).name.clone();
            self.feeds.push(Feed::new(&identity, self.persistence));
        }
        if !self.configured.contains(&slot) {
            self.configured.push(slot);
        }
        let feed = &mut self.feeds[slot.index()];
        if *feed.counters.identity != *spec.identity {
            // The slot was that of an entry that is forgotten. What its connection still delivers is of the past.
            let generation = feed.generation + 1;
            *feed = Feed::new(&spec.identity, self.persistence);
            feed.forget_sessions();
            feed.generation = generation;
        }
        feed.is_configured = true;
        feed.exposed.mark();
        feed.database = None;
        feed.counters.rows_tell = None;
        self.stop_reading(slot, None);
        self.sources.forget_rows(slot);
        if self.configuration == Configuration::Known {
            self.configuration = Configuration::Changed;
        }
        slot
    }

    /// Takes a feed out of the configuration: what its source counted stays. A feed that is still pending is bound by what is
    /// known. It may be added again.
    pub fn remove_feed(&mut self, feed: FeedId, now: Now) {
        self.update_start(now);
        let mut notices = Vec::new();
        if let Some(held) = self.feeds[feed.index()].held.take() {
            // Nobody will read its database for what the feed has listed.
            self.sources.forget_rows(feed);
            self.snapshot(feed, &held, true, now, &mut notices);
        }
        self.release_events(feed, true, now, &mut notices);
        let left = &mut self.feeds[feed.index()];
        left.is_configured = false;
        left.is_live = false;
        left.has_begun = false;
        left.database = None;
        left.held = None;
        left.release_events();
        // What its connection still delivers is of the past.
        left.generation += 1;
        left.touch();
        self.stop_reading(feed, Some(now.elapsed));
        self.sources.close(feed);
        self.configured.retain(|known| *known != feed);
        if self.configuration == Configuration::Known {
            self.configuration = Configuration::Changed;
        }
        // Nobody waits for it any more.
        self.update_start(now);
    }

    /// Feeds are about to be removed and added: entries that come and go until [`Ledger::end_configuration`] do so in one
    /// change.
    pub fn begin_configuration(&mut self) {
        self.configuration = Configuration::Changing;
    }

    /// The configuration is complete.
    pub fn end_configuration(&mut self, now: Now) {
        self.configuration = Configuration::Changed;
        self.commit_configuration(now);
    }

    /// Configures the sources, if the configuration changed.
    #[inline]
    pub(super) fn commit_configuration(&mut self, now: Now) {
        if self.configuration == Configuration::Changed {
            self.configure_sources(now);
        }
    }

    #[cold]
    fn configure_sources(&mut self, now: Now) {
        self.configuration = Configuration::Known;
        let entries: Vec<Entry> = self.configured.iter().map(|feed| self.sources.entry(*feed).clone()).collect();
        self.update_databases(now);
        self.sources.configure(&entries);
        self.update_databases(now);
        if self.began {
            self.show_all_rates();
        }
    }

    /// Adapts the reading of databases to the feeds that sources have now.
    pub(super) fn update_databases(&mut self, now: Now) {
        let sources: Vec<SourceId> = self.sources.iter().map(|(id, _)| id).collect();
        sources.into_iter().for_each(|source| self.update_database(source, now));
    }

    /// Ends the reading of a source's database if no configured feed has one any more, and exposes what was read of skills
    /// that no feed was subscribed to before.
    pub(super) fn update_database(&mut self, source: SourceId, now: Now) {
        let coverage = Coverage::of(self.sources.coverage(source));
        let is_read = self.configured.iter().any(|feed| {
            let database = self.feeds[feed.index()].database.as_ref();
            database.is_some_and(|database| database.trust != Trust::Contradicted)
                && self.sources.expected_source(*feed) == Some(source)
        });
        let mut notices = Vec::new();
        self.with_source(source, now, &mut notices, |known, ctx| {
            let before = known.counts.coverage.replace(coverage.clone());
            if before.is_none_or(|before| before != coverage) {
                known.counts.reveal(&known.numbers, &coverage, ctx);
            }
            if !is_read {
                known.counts.leave_rows(ctx);
            }
        });
    }

    /// Changes how much is counted and remembered from now on. What there is already stays.
    pub fn set_limits(&mut self, limits: Limits) {
        self.limits = limits;
        self.sources.set_limits(limits);
    }

    /// What is counted of a feed.
    pub fn counters(&self, feed: FeedId) -> &FeedCounters {
        &self.feeds[feed.index()].counters
    }

    /// How each configured feed stands to its source, in the order of the configuration.
    pub fn standings(&self) -> Vec<FeedStanding> {
        self.configured.iter().map(|feed| self.standing(*feed)).collect()
    }

    fn standing(&self, slot: FeedSlot) -> FeedStanding {
        let feed = &self.feeds[slot.index()];
        let active = |source| self.sources.active_feed(source, slot);
        let standby = |active: Option<FeedSlot>| FeedRole::Standby {
            active: active.map(|active| self.feeds[active.index()].counters.identity.clone()),
        };
        let source = self.sources.expected_source(slot);
        let known = source.and_then(|source| self.sources.source(source));
        let reader = known.and_then(|known| known.counts.detail.reader());
        let role = match (self.role(slot), source) {
            // Rows move the counters, also while their server is not connected.
            _ if reader == Some(slot) => FeedRole::Active,
            _ if !feed.is_live => FeedRole::Inactive,
            (Role::Active(_) | Role::Standby(_) | Role::Unbound, Some(_)) if reader.is_some() => standby(reader),
            (Role::Active(_), _) => FeedRole::Active,
            (Role::Standby(source), _) => standby(active(source)),
            (Role::Pending, _) => FeedRole::Pending,
            // Events alone bind no feed: they are counted unless another feed does it.
            (Role::Unbound, Some(source)) if active(source).is_some() => standby(active(source)),
            (Role::Unbound, Some(_)) => FeedRole::Active,
            (Role::Unbound, None) => FeedRole::Inactive,
        };
        FeedStanding { identity: feed.counters.identity.clone(), source, role }
    }

    /// How a feed stands to its source.
    pub fn role(&self, feed: FeedId) -> Role {
        self.sources.role(feed)
    }

    /// Adds a feed that is this very program: it has no past to wait for, and no sessions before it reports some.
    pub fn add_local_feed(&mut self, identity: &str) -> FeedId {
        let slot = self.add_feed(FeedSpec { identity: identity.to_owned(), ..FeedSpec::default() });
        self.commit_configuration(Now::default());
        self.feeds[slot.index()].has_begun = true;
        self.sources.adopt(slot, true, 0);
        self.feeds[slot.index()].sessions.set_count(0, 0);
        self.sources.take_events();
        slot
    }
}

/// Connections.
impl Ledger {
    /// A connection of `feed` is established. What an older one of it still delivers is discarded.
    pub fn open(&mut self, feed: FeedId, now: Now) -> ConnectionId {
        self.commit_configuration(now);
        self.update_start(now);
        let open = &mut self.feeds[feed.index()];
        open.generation += 1;
        open.is_live = false;
        open.opened_at = Some(now.elapsed);
        open.opened_micros = now.wall_micros;
        open.held = None;
        let generation = open.generation;
        self.sources.open(feed);
        ConnectionId { feed, generation }
    }

    /// A connection has ended. Nothing happens if it is a thing of the past already. A feed that is still pending is bound
    /// by what is known.
    pub fn close(&mut self, connection: ConnectionId, now: Now) {
        let slot = connection.feed;
        if self.feeds[slot.index()].generation != connection.generation {
            return;
        }
        self.update_start(now);
        let mut notices = Vec::new();
        if let Some(held) = self.feeds[slot.index()].held.take() {
            self.snapshot(slot, &held, true, now, &mut notices);
        }
        self.release_events(slot, true, now, &mut notices);
        self.update_start(now);
        self.feeds[slot.index()].is_live = false;
        self.sources.close(slot);
    }

    /// Applies one message, whole or not at all; in a snapshot a bad entry is left out alone. What somebody should learn of
    /// is added to `notices`.
    pub fn apply(&mut self, connection: ConnectionId, message: &Message<'_>, now: Now, notices: &mut Vec<Notice>) {
        let slot = connection.feed;
        if self.feeds[slot.index()].generation != connection.generation {
            return;
        }
        self.commit_configuration(now);
        if self.settled_until.is_none_or(|until| until < now.elapsed) {
            self.tick(now, notices);
        }
        self.feeds[slot.index()].is_live = true;
        match message {
            Message::Connection(_) | Message::Unknown => {}
            Message::Event(event) => self.event(slot, event, now, notices),
            Message::Snapshot(snapshot) => {
                self.snapshot(slot, snapshot, false, now, notices);
                self.update_start(now);
            }
        }
    }
}
