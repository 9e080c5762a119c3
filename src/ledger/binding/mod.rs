//! Which source a feed belongs to, and which of several feeds moves the counters.
//!
//! [`Sources`] holds all feeds and all sources. It is driven with what feeds list and returns what of it counts; what is
//! counted, and where, is the business of the type `C` that each source carries. It knows no series, no clock and no file:
//!
//! 1. [`Sources::configure`] states the whole configuration and returns a slot for each entry;
//! 2. [`Sources::open`] and [`Sources::close`] state when the connection of a feed begins and ends;
//! 3. [`Sources::listings`] turns the entries of a snapshot into a [`Listings`](super::evidence::Listings), which is that of the previous snapshot where
//!    nothing changed;
//! 4. [`Sources::observe`] takes a snapshot and returns its [`Outcome`]. If that is [`Outcome::Counted`], the steps of each
//!    skill are in [`Sources::steps`], in the order of the list. [`Sources::observe_last`] does so for the last snapshot of a
//!    connection that ends while its feed is pending: call it before [`Sources::close`];
//! 5. [`Sources::take_events`] returns what happened besides: sources that joined, forked, were damaged or left.
//!
//! Architecture invariant: no count is keyed by a name, an address or a position in the configuration. Rules 3.2 and 3.3 of
//! `docs/explanation/translation.md`.

mod accept;
mod bind;
mod compare;
mod configuration;
mod database;
mod feed_state;
mod lifetime;
mod observe;
mod pairs;
mod parts;
mod search;
mod source;
mod subscription;
mod vocabulary;

use std::collections::BTreeMap;
use std::time::Duration;

use hashbrown::HashMap;

use super::continuity::Steps;
use super::dirty::{Dirty, Persistence};
use super::limits::Limits;
use super::slots::{FeedSlot, SourceId};

pub use self::parts::{FeedParts, OwnParts, Parts, SourceParts};
pub use self::source::{Role, Source};
pub use self::subscription::Subscription;
pub use self::vocabulary::{Beginning, Counts, Entry, Observation, Outcome, SourceEvent};
pub use super::continuity::Doubt;

use self::feed_state::{Binding, FeedState};
use self::pairs::Pairs;

/// Rounds, and the time, that two live feeds have to differ, or one to be behind, before it is believed.
pub(super) const ROUNDS: u32 = 3;
const PATIENCE: Duration = Duration::from_secs(10);

/// Rounds in a row in which two feeds share a timestamp, to be of one server. One can agree by chance.
const SHARED_NEEDED: u32 = 2;

/// Events that a feed streams and another source knows, to be of one source. One can agree by chance.
pub(super) const EVENTS_SHARED_NEEDED: u32 = 2;

/// Rounds in a row in which a live feed shared no timestamp with another, to be of another server.
const ALONE_NEEDED: u32 = 2 * ROUNDS;

/// All feeds and all sources.
#[derive(Debug)]
pub struct Sources<C> {
    feeds: Vec<FeedState>,
    pairs: Pairs,
    sources: BTreeMap<SourceId, Source<C>>,
    next: SourceId,
    /// The sources that each address was ever bound to. Persistent.
    addresses: HashMap<Box<str>, Vec<SourceId>>,
    persistence: Persistence,
    changed_addresses: Dirty<Box<str>>,
    removed: Dirty<SourceId>,
    /// Entries that have left the configuration in this process.
    left: u64,
    steps: Steps,
    events: Vec<SourceEvent>,
    /// The source that each feed covered, by slot, at the last [`Sources::take_coverage_change`].
    covered: Vec<Option<SourceId>>,
    wall_micros: i64,
    /// What a source that another one joins stays within.
    limits: Limits,
}

impl<C> Sources<C> {
    /// No feed and no source.
    pub fn new(persistence: Persistence) -> Self {
        Self {
            feeds: Vec::new(),
            pairs: Pairs::default(),
            sources: BTreeMap::new(),
            next: SourceId::FIRST,
            addresses: HashMap::new(),
            persistence,
            changed_addresses: Dirty::new(persistence),
            removed: Dirty::new(persistence),
            left: 0,
            steps: Steps::default(),
            events: Vec::new(),
            covered: Vec::new(),
            wall_micros: 0,
            limits: Limits::default(),
        }
    }
}

/// What is read of the sources.
impl<C> Sources<C> {
    /// Changes how much a source remembers that another one joins.
    pub fn set_limits(&mut self, limits: Limits) {
        self.limits = limits;
    }

    /// A source that exists.
    pub fn source(&self, id: SourceId) -> Option<&Source<C>> {
        self.sources.get(&id)
    }

    /// The same, to count with.
    pub fn source_mut(&mut self, id: SourceId) -> Option<&mut Source<C>> {
        self.sources.get_mut(&id)
    }

    /// Every source, the oldest first.
    pub fn iter(&self) -> impl Iterator<Item = (SourceId, &Source<C>)> {
        self.sources.iter().map(|(id, source)| (*id, source))
    }

    /// Every source, to count with.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = (SourceId, &mut Source<C>)> {
        self.sources.iter_mut().map(|(id, source)| (*id, source))
    }

    /// The source that a feed is bound to.
    pub fn source_of(&self, feed: FeedSlot) -> Option<SourceId> {
        self.feeds[feed.index()].source()
    }

    /// How a feed stands to its source.
    pub fn role(&self, feed: FeedSlot) -> Role {
        match self.feeds[feed.index()].binding {
            Binding::Unbound => Role::Unbound,
            Binding::Pending(_) => Role::Pending,
            Binding::Bound(source) => {
                let is_active = self.sources.get(&source).is_some_and(|known| known.is_active(feed));
                if is_active { Role::Active(source) } else { Role::Standby(source) }
            }
        }
    }

    /// The feed that moves the counters of a source instead of `feed`.
    pub fn active_feed(&self, source: SourceId, feed: FeedSlot) -> Option<FeedSlot> {
        let known = self.sources.get(&source)?;
        let own = self.feed(feed).entry.filter.as_deref();
        known.active_for(None).or_else(|| known.active_for(own)).filter(|active| *active != feed)
    }

    /// The steps of the last snapshot that counted, in the order of its list.
    pub fn steps(&self) -> &Steps {
        &self.steps
    }

    /// Takes the steps of the last snapshot; give them back with [`Sources::reuse`].
    pub fn take_steps(&mut self) -> Steps {
        std::mem::take(&mut self.steps)
    }

    /// Takes back the room of steps.
    pub fn reuse(&mut self, mut steps: Steps) {
        steps.clear();
        self.steps = steps;
    }

    /// Whether anything happened since [`Sources::take_events`].
    #[inline]
    pub fn has_events(&self) -> bool {
        !self.events.is_empty()
    }

    /// Takes what happened since the last call.
    pub fn take_events(&mut self) -> Vec<SourceEvent> {
        std::mem::take(&mut self.events)
    }

    /// Whether two feeds are of one server: they shared two timestamps in a row.
    pub fn is_one_server(&self, feed: FeedSlot, other: FeedSlot) -> bool {
        self.pairs.get(feed, other).timestamps >= SHARED_NEEDED
    }

    /// Whether two feeds are of one server, if it is known. Timestamps decide; where one of the two sends none that could, two
    /// events that both streamed do.
    pub fn shares_server(&self, feed: FeedSlot, other: FeedSlot) -> Option<bool> {
        let (this, that) = (self.feed(feed), self.feed(other));
        if this.apart.contains(&other) {
            return Some(false);
        }
        let shares_events = self.pairs.get(feed, other).events >= EVENTS_SHARED_NEEDED;
        let is_one = self.is_one_server(feed, other) || shares_events && !(this.has_stamps() && that.has_stamps());
        is_one.then_some(true)
    }

    /// The feeds of the same server as `feed`.
    fn companions(&self, feed: FeedSlot) -> impl Iterator<Item = FeedSlot> + '_ {
        let shared = self.pairs.of(feed).filter(|(_, pair)| pair.timestamps >= SHARED_NEEDED);
        shared.map(|(other, _)| other)
    }

    /// A source that exists, to count with, and beside it what is known of a feed that streams for it.
    pub fn source_and_subscription(
        &mut self,
        source: SourceId,
        feed: FeedSlot,
    ) -> Option<(&mut Source<C>, Subscription<'_>)> {
        let Self { feeds, pairs, sources, .. } = self;
        let subscription = Subscription { feed, entry: &feeds[feed.index()].entry, pairs };
        Some((sources.get_mut(&source)?, subscription))
    }

    /// The feeds that are bound to a source.
    pub fn feeds_of(&self, source: SourceId) -> impl Iterator<Item = FeedSlot> + '_ {
        self.live_feeds().filter(move |feed| self.source_of(*feed) == Some(source))
    }

    /// The feeds of `source` that are of the server of `feed`, and `feed`, last.
    fn server_feeds(&self, feed: FeedSlot, source: SourceId) -> Vec<FeedSlot> {
        let others = self.feeds_of(source).filter(|other| *other != feed && self.is_one_server(feed, *other));
        others.chain([feed]).collect()
    }

    fn live_feeds(&self) -> impl Iterator<Item = FeedSlot> + '_ {
        let live = self.feeds.iter().enumerate().filter(|(_, feed)| feed.is_live);
        live.map(|(index, _)| FeedSlot::new(index))
    }

    /// Whether a configured feed is, or was last, bound to a source.
    pub fn is_covered(&self, source: SourceId) -> bool {
        self.coverage(source).next().is_some()
    }

    /// The filters of the configured feeds that are, or were last, bound to a source.
    pub fn coverage(&self, source: SourceId) -> impl Iterator<Item = Option<&str>> + '_ {
        let covers = move |state: &&FeedState| state.covered() == Some(source);
        self.feeds.iter().filter(covers).map(|state| state.entry.filter.as_deref())
    }

    /// Whether a feed covers another source than at the last [`Sources::take_coverage_change`]. The feeds are compared, since
    /// many places bind a feed or change what it was last bound to: one that had to report it could forget to.
    #[inline]
    pub fn has_coverage_changed(&self) -> bool {
        !self.feeds.iter().map(FeedState::covered).eq(self.covered.iter().copied())
    }

    /// Returns whether a feed covers another source than at the last call.
    pub fn take_coverage_change(&mut self) -> bool {
        let has_changed = self.has_coverage_changed();
        if has_changed {
            self.covered.clear();
            self.covered.extend(self.feeds.iter().map(FeedState::covered));
        }
        has_changed
    }

    /// The entry of a feed.
    pub fn entry(&self, feed: FeedSlot) -> &Entry {
        &self.feed(feed).entry
    }

    /// How many slots there are.
    pub fn slots(&self) -> usize {
        self.feeds.len()
    }

    /// Forgets what the connection of a feed showed: its address can lead to another server.
    fn forget_connection(&mut self, feed: FeedSlot) {
        self.feed_mut(feed).forget_connection();
        self.pairs.forget(feed);
    }

    fn feed(&self, feed: FeedSlot) -> &FeedState {
        &self.feeds[feed.index()]
    }

    fn feed_mut(&mut self, feed: FeedSlot) -> &mut FeedState {
        &mut self.feeds[feed.index()]
    }
}
