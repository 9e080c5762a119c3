//! Which source a feed belongs to, and which of several feeds moves the counters.
//!
//! [`Sources`] holds all feeds and all sources. It is driven with what feeds list and returns what of it counts; what is
//! counted, and where, is the business of the type `C` that each source carries. It knows no series, no clock and no file:
//!
//! 1. [`Sources::configure`] states the whole configuration and returns a slot for each entry;
//! 2. [`Sources::open`] and [`Sources::close`] state when the connection of a feed begins and ends;
//! 3. [`Sources::listings`] turns the entries of a snapshot into a [`Listings`], which is that of the previous snapshot where
//!    nothing changed;
//! 4. [`Sources::observe`] takes a snapshot and returns its [`Outcome`]. If that is [`Outcome::Counted`], the steps of each
//!    skill are in [`Sources::steps`], in the order of the list. [`Sources::observe_last`] does so for the last snapshot of a
//!    connection that ends while its feed is pending: call it before [`Sources::close`];
//! 5. [`Sources::take_events`] returns what happened besides: sources that joined, forked, were damaged or left.
//!
//! Architecture invariant: no count is keyed by a name, an address or a position in the configuration. Rules 3.2 and 3.3 of
//! `docs/translation.md`.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use hashbrown::HashMap;

use crate::protocol::{AnomalyEntry, Event, Rejection};

use super::continuity::{Continuity, DECISIVE_BITS, FORMER_BITS, Room, SourceNumbers, Step};
use super::dirty::{Dirty, DirtyFlag};
use super::evidence::{Listings, Totals};
use super::records::{AddressRecord, AgreedRecord, FeedRecord, Records};
use super::series::FeedCounters;
use super::server_time::Stamp;
use super::slots::{FeedSlot, SourceId};

/// Rounds, and the time, that two live feeds have to differ, or one to be behind, before it is believed.
const ROUNDS: u32 = 3;
const PATIENCE: Duration = Duration::from_secs(10);

/// Rounds in a row in which two feeds share a timestamp, to be of one server. One can agree by chance.
const SHARED_NEEDED: u32 = 2;

/// Rounds in a row in which a live feed shared no timestamp with another, to be of another server.
const ALONE_NEEDED: u32 = 2 * ROUNDS;

/// How long a feed that would begin a source waits for configured feeds that are not connected: they may show that it is
/// another address of a server that is known.
const CONNECTION_PATIENCE: Duration = Duration::from_secs(5);

/// Snapshots of a feed that others are compared with: those of one round reach all clients within less than that many.
const RECENT_MAX: usize = 4;

/// Listings closer together than this are one in the timeline of a feed.
const TIMELINE_STEP: Duration = Duration::from_millis(250);

/// Sources without a feed that are remembered.
pub(super) const FREE_SOURCES_MAX: usize = 64;

/// Entries of past configurations that are remembered.
const PAST_ENTRIES_MAX: usize = 256;

/// Sources that an address is remembered to have led to.
const SOURCES_PER_ADDRESS_MAX: usize = 16;

/// One subscription as it is configured.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct Entry {
    /// Its name, or what stands for one.
    pub name: Box<str>,
    /// Where it connects to.
    pub address: Box<str>,
    /// The one skill that is subscribed to; `None` for all.
    pub filter: Option<Box<str>>,
}

/// What a source carries to count with.
pub trait Counts: Default {
    /// Bits of evidence that a list of anomalies is of this source.
    fn anomaly_bits(&self, anomalies: &[Result<AnomalyEntry<'_>, Rejection>]) -> f64;
    /// Whether rows of its database move the counters, or are about to: then no snapshot does.
    fn is_read(&self) -> bool;
    /// Which feed moved the counters last has to be persisted.
    fn mark_changed(&mut self);
    /// The states before damages have to be persisted.
    fn mark_damages_changed(&mut self);
    /// The rows of its database are about to be read.
    fn expect_rows(&mut self);
    /// Adds what `younger` carries, which turned out to be the same source.
    fn join(&mut self, younger: Self);
    /// What a source of its own carries that has diverged from this one.
    fn fork(&self) -> Self;
}

/// A snapshot as evidence.
#[derive(Debug, Clone)]
pub struct Observation<'a> {
    /// When it arrived.
    pub now: Duration,
    /// The server's timestamp; `None` if it sends none.
    pub stamp: Option<Stamp>,
    /// What it lists of the skills that the feed is subscribed to.
    pub listings: Arc<Listings>,
    /// What the list proves about the skills that it does not name.
    pub room: Room,
    /// The anomalies that it lists.
    pub anomalies: &'a [Result<AnomalyEntry<'a>, Rejection>],
}

/// What became of a snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Nothing of it is counted, until it is known whose it is.
    Pending,
    /// Another feed moves the counters of this source.
    Standby {
        /// The source.
        source: SourceId,
        /// Whether both list the same database, so that anomalies which only this one lists count.
        agrees: bool,
    },
    /// It is behind what is remembered of the source that it takes over: nothing moves.
    Behind {
        /// The source.
        source: SourceId,
    },
    /// The rows of the source's database move the counters: the snapshot is to be compared with them.
    Read {
        /// The source.
        source: SourceId,
    },
    /// The steps of each skill count.
    Counted {
        /// The source.
        source: SourceId,
        /// What the snapshot was to it.
        continuity: Continuity,
        /// Whether the source began with it, and whether that was observed: a database that took the place of another.
        beginning: Option<Beginning>,
    },
}

/// How a source began.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Beginning {
    /// What it holds had happened before.
    History,
    /// It took the place of another database while that was observed: what it holds happened since.
    Observed,
}

/// What happened to sources.
#[derive(Debug, Clone, PartialEq)]
pub enum SourceEvent {
    /// A feed was bound to a source.
    Bound {
        /// The feed.
        feed: FeedSlot,
        /// The source.
        source: SourceId,
    },
    /// The feed lists another database than before. It is bound again.
    Another {
        /// The feed.
        feed: FeedSlot,
        /// The skills that show it, with the remembered total and the present one.
        fell: Vec<(Arc<str>, u64, u64)>,
    },
    /// The source came back with less, or with other numbers.
    Damaged {
        /// The feed that lists it.
        feed: FeedSlot,
        /// The skills that fell, with the remembered total and the present one.
        fell: Vec<(Arc<str>, u64, u64)>,
    },
    /// The source is again as it was before a damage.
    Returned {
        /// The feed that lists it.
        feed: FeedSlot,
    },
    /// Two sources turned out to be one.
    Joined {
        /// The feed that showed it.
        feed: FeedSlot,
        /// The one that goes on.
        older: SourceId,
        /// The one that does not.
        younger: SourceId,
        /// Invocations that both had counted.
        counted_twice: u64,
    },
    /// A feed on standby turned out to list another database, which diverged from the common one.
    Forked {
        /// The feed.
        feed: FeedSlot,
        /// The common source.
        from: SourceId,
        /// Its own.
        into: SourceId,
    },
    /// A doubt was settled by counting less.
    Undecided {
        /// The feed.
        feed: FeedSlot,
        /// What was in doubt.
        doubt: Doubt,
    },
    /// A source without a feed was forgotten; its counts stay.
    Forgotten {
        /// The source.
        source: SourceId,
    },
}

/// What could not be decided.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Doubt {
    /// Whether a listing is of a damaged database or of a new one that resembles it.
    Damage,
    /// Whether a database came back to a former state or moved on.
    Return,
    /// Whether a feed that took over is late, or lists a damaged database.
    Behind,
    /// Whether a listing that was seen before is the old one or a new one that equals it.
    KnownListing,
}

impl Doubt {
    /// Every doubt.
    pub const ALL: [Self; 4] = [Self::Damage, Self::Return, Self::Behind, Self::KnownListing];

    /// The value of the label `reason`.
    pub fn code(self) -> &'static str {
        match self {
            Self::Damage => "damage",
            Self::Return => "return",
            Self::Behind => "behind",
            Self::KnownListing => "known_listing",
        }
    }
}

/// One source: a database and what is needed to count it exactly once.
#[derive(Debug)]
pub struct Source<C> {
    /// What is remembered of its numbers.
    pub numbers: SourceNumbers,
    /// What it carries to count with.
    pub counts: C,
    beginning: Beginning,
    /// Whether a snapshot of it was counted.
    has_begun: bool,
    /// The feed that moved the counters last.
    counted_by: Option<FeedSlot>,
    /// The feed that moves the counters: of all skills under `None`, else of the one skill.
    active: Vec<(Option<Box<str>>, FeedSlot)>,
    /// When it was last damaged, in this process.
    damaged_at: Option<Duration>,
    /// The source in whose place it began.
    after: Option<SourceId>,
    /// When a feed was last bound to it or counted it, in microseconds since the Unix epoch.
    active_micros: i64,
}

/// How a feed stands to its source.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// It is not bound.
    Unbound,
    /// Its snapshots are compared with those of others, until it is known whose they are.
    Pending,
    /// It moves the counters.
    Active(SourceId),
    /// Another feed moves the counters.
    Standby(SourceId),
}

/// Rounds, and since when.
#[derive(Debug, Clone, Copy)]
struct Streak {
    rounds: u32,
    since: Duration,
}

impl Streak {
    /// One round more. Whether it has lasted.
    fn extend(streak: &mut Option<Self>, now: Duration) -> bool {
        let streak = streak.get_or_insert(Self { rounds: 0, since: now });
        streak.rounds += 1;
        streak.rounds >= ROUNDS && now.saturating_sub(streak.since) >= PATIENCE
    }
}

/// What a feed listed for a while.
#[derive(Debug)]
struct Span {
    from: Duration,
    listings: Arc<Listings>,
}

/// What a feed has seen of another.
#[derive(Debug, Default)]
struct Companion {
    /// Timestamps that both had, and rounds in a row in which they had none.
    shared: u32,
    alone: u32,
    /// Bits of the changes that both made alike under watch, and the totals that were taken into account.
    alike_bits: f64,
    alike: HashMap<Arc<str>, u64>,
}

#[derive(Debug, Default)]
enum Binding {
    #[default]
    Unbound,
    Pending(Pending),
    Bound(SourceId),
}

/// A feed of which it is not known yet whose numbers it lists.
#[derive(Debug, Clone, Copy)]
struct Pending {
    /// Snapshots in which it was compared with the feeds that are connected.
    rounds: u32,
    /// When the first of them arrived.
    since: Duration,
    /// Whether it waits for feeds that are not connected.
    awaits_others: bool,
}

#[derive(Debug, Default)]
struct FeedState {
    entry: Entry,
    is_configured: bool,
    /// Whether it is about to join the configuration.
    joins: bool,
    /// How many had left the configuration in this process when it did.
    left: u64,
    is_live: bool,
    binding: Binding,
    /// The source that this entry was last bound to. Persistent.
    former: Option<SourceId>,
    /// Sources of entries that left the configuration in the change in which this one joined it. Persistent.
    heir_of: Vec<SourceId>,
    /// The last listing of its own that is in the source's history, by skill. Persistent.
    agreed: HashMap<Arc<str>, Totals>,
    changed_agreed: Dirty<Arc<str>>,
    cleared_agreed: DirtyFlag,
    /// Whether all of the latest listing is in `agreed`.
    is_agreed: bool,
    /// Sources of another database than some snapshot of it listed while it was pending.
    refuted: BTreeSet<SourceId>,
    first: Option<Arc<Listings>>,
    recent: VecDeque<(Option<Stamp>, Arc<Listings>)>,
    timeline: VecDeque<Span>,
    received_at: Option<Duration>,
    companions: HashMap<FeedSlot, Companion>,
    differing: Option<Streak>,
    behind: Option<Streak>,
    /// Snapshots before it may begin another source in the place of one. Persistent.
    hold_rounds: u32,
    /// Whether what its next source holds happened while it was observed: it lists another database than before, or listed
    /// none of its skills. Persistent.
    is_observed: bool,
    /// Whether a database is configured for it, and whether its source has yet to learn that it is about to be read.
    has_rows: bool,
    awaits_rows: bool,
    is_changed: DirtyFlag,
}

impl FeedState {
    fn latest(&self) -> Option<&Arc<Listings>> {
        self.recent.back().map(|(_, listings)| listings)
    }

    fn previous(&self) -> Option<&Arc<Listings>> {
        self.recent.len().checked_sub(2).map(|index| &self.recent[index].1)
    }

    fn source(&self) -> Option<SourceId> {
        match self.binding {
            Binding::Bound(source) => Some(source),
            Binding::Unbound | Binding::Pending(_) => None,
        }
    }

    fn is_heard(&self, now: Duration) -> bool {
        self.is_live && self.received_at.is_some_and(|at| now.saturating_sub(at) <= PATIENCE)
    }

    /// What was listed [`PATIENCE`] ago, and not before `since`.
    fn earlier(&self, now: Duration, since: Option<Duration>) -> Option<&Listings> {
        let then = now.checked_sub(PATIENCE).filter(|then| since.is_none_or(|since| *then >= since))?;
        self.timeline.iter().rev().find(|span| span.from <= then).map(|span| &*span.listings)
    }

    fn clear_agreed(&mut self) {
        self.agreed.clear();
        self.changed_agreed = Dirty::default();
        self.cleared_agreed.mark();
    }

    fn forget_connection(&mut self) {
        self.binding = Binding::Unbound;
        self.refuted.clear();
        self.first = None;
        self.recent.clear();
        self.timeline.clear();
        self.received_at = None;
        self.companions.clear();
        self.differing = None;
        self.behind = None;
        self.is_agreed = false;
    }

    fn observe_next(&mut self) {
        if !std::mem::replace(&mut self.is_observed, true) {
            self.is_changed.mark();
        }
    }

    fn receive(&mut self, seen: &Observation<'_>) {
        if self.hold_rounds > 0 {
            self.hold_rounds -= 1;
            self.is_changed.mark();
        }
        self.received_at = Some(seen.now);
        self.first.get_or_insert_with(|| Arc::clone(&seen.listings));
        let is_unchanged = self.latest().is_some_and(|latest| Arc::ptr_eq(latest, &seen.listings));
        self.is_agreed &= is_unchanged;
        if self.recent.len() == RECENT_MAX {
            self.recent.pop_front();
        }
        self.recent.push_back((seen.stamp, Arc::clone(&seen.listings)));
        match self.timeline.back_mut() {
            Some(_) if is_unchanged => {}
            Some(span) if seen.now.saturating_sub(span.from) < TIMELINE_STEP => {
                span.listings = Arc::clone(&seen.listings);
            }
            _ => {
                let listings = Arc::clone(&seen.listings);
                self.timeline.push_back(Span { from: seen.now, listings });
            }
        }
        // One that is older than the patience is enough.
        while self.timeline.get(1).is_some_and(|span| span.from + PATIENCE <= seen.now) {
            self.timeline.pop_front();
        }
    }
}

/// All feeds and all sources.
#[derive(Debug)]
pub struct Sources<C> {
    feeds: Vec<FeedState>,
    sources: BTreeMap<SourceId, Source<C>>,
    next: SourceId,
    /// The sources that each address was ever bound to. Persistent.
    addresses: HashMap<Box<str>, Vec<SourceId>>,
    changed_addresses: Dirty<Box<str>>,
    removed: Dirty<SourceId>,
    /// Entries that have left the configuration in this process.
    left: u64,
    steps: Vec<Step>,
    events: Vec<SourceEvent>,
    wall_micros: i64,
}

impl<C> Default for Sources<C> {
    fn default() -> Self {
        Self {
            feeds: Vec::new(),
            sources: BTreeMap::new(),
            next: SourceId::FIRST,
            addresses: HashMap::new(),
            changed_addresses: Dirty::default(),
            removed: Dirty::default(),
            left: 0,
            steps: Vec::new(),
            events: Vec::new(),
            wall_micros: 0,
        }
    }
}

/// What is read of the sources.
impl<C> Sources<C> {
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
    pub fn steps(&self) -> &[Step] {
        &self.steps
    }

    /// Takes the steps of the last snapshot; give them back with [`Sources::reuse`].
    pub fn take_steps(&mut self) -> Vec<Step> {
        std::mem::take(&mut self.steps)
    }

    /// Takes back the room of steps.
    pub fn reuse(&mut self, mut steps: Vec<Step>) {
        steps.clear();
        self.steps = steps;
    }

    /// Takes what happened since the last call.
    pub fn take_events(&mut self) -> Vec<SourceEvent> {
        std::mem::take(&mut self.events)
    }

    /// Whether two feeds are of one server: they shared two timestamps in a row.
    pub fn is_one_server(&self, feed: FeedSlot, other: FeedSlot) -> bool {
        let companion = self.feeds[feed.index()].companions.get(&other);
        companion.is_some_and(|companion| companion.shared >= SHARED_NEEDED)
    }

    /// The feeds that are bound to a source.
    pub fn feeds_of(&self, source: SourceId) -> impl Iterator<Item = FeedSlot> + '_ {
        self.live_feeds().filter(move |feed| self.source_of(*feed) == Some(source))
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
        let covers = move |state: &&FeedState| {
            state.is_configured
                && (state.source() == Some(source) || state.source().is_none() && state.former == Some(source))
        };
        self.feeds.iter().filter(covers).map(|state| state.entry.filter.as_deref())
    }

    /// The entry of a feed.
    pub fn entry(&self, feed: FeedSlot) -> &Entry {
        &self.feed(feed).entry
    }

    /// How many slots there are.
    pub fn slots(&self) -> usize {
        self.feeds.len()
    }

    fn feed(&self, feed: FeedSlot) -> &FeedState {
        &self.feeds[feed.index()]
    }

    fn feed_mut(&mut self, feed: FeedSlot) -> &mut FeedState {
        &mut self.feeds[feed.index()]
    }
}

impl<C> Source<C> {
    fn new(counts: C, beginning: Beginning) -> Self {
        Self {
            numbers: SourceNumbers::default(),
            counts,
            beginning,
            has_begun: false,
            counted_by: None,
            active: Vec::new(),
            damaged_at: None,
            after: None,
            active_micros: 0,
        }
    }

    /// Whether `feed` moves counters of this source.
    pub fn is_active(&self, feed: FeedSlot) -> bool {
        self.active.iter().any(|(_, active)| *active == feed)
    }

    /// Whether a snapshot of it was counted.
    pub fn has_begun(&self) -> bool {
        self.has_begun
    }

    /// A first snapshot of it is applied that lists nothing. Returns how it began, if it had not before.
    pub fn begin(&mut self) -> Option<Beginning> {
        (!std::mem::replace(&mut self.has_begun, true)).then_some(self.beginning)
    }

    /// How it began.
    pub fn beginning(&self) -> Beginning {
        self.beginning
    }

    /// The feed that moved the counters last.
    pub fn counted_by(&self) -> Option<FeedSlot> {
        self.counted_by
    }

    /// When it was last active, in microseconds since the Unix epoch.
    pub fn active_micros(&self) -> i64 {
        self.active_micros
    }

    fn active_for(&self, filter: Option<&str>) -> Option<FeedSlot> {
        self.active.iter().find(|(skill, _)| skill.as_deref() == filter).map(|(_, feed)| *feed)
    }

    fn set_active(&mut self, filter: Option<&str>, feed: FeedSlot) {
        match self.active.iter_mut().find(|(skill, _)| skill.as_deref() == filter) {
            Some((_, active)) => *active = feed,
            None => self.active.push((filter.map(Into::into), feed)),
        }
    }

    fn unset_active(&mut self, feed: FeedSlot) {
        self.active.retain(|(_, active)| *active != feed);
    }
}

/// Configuration and connections.
impl<C: Counts> Sources<C> {
    /// Replaces the configuration. Entries that were there before keep their slots. Returns the slot of each entry.
    pub fn configure(&mut self, entries: &[Entry]) -> Vec<FeedSlot> {
        let slots: Vec<FeedSlot> = entries.iter().map(|entry| self.slot_of(entry)).collect();
        let is_kept = |feed: FeedSlot| slots.contains(&feed);
        let all = (0..self.feeds.len()).map(FeedSlot::new);
        let gone: Vec<FeedSlot> = all.filter(|feed| self.feed(*feed).is_configured && !is_kept(*feed)).collect();
        let new: Vec<FeedSlot> = slots.iter().copied().filter(|feed| !self.feed(*feed).is_configured).collect();
        self.inherit(&slots, &gone, &new);
        for feed in gone {
            self.disconnect(feed);
            let state = self.feed_mut(feed);
            state.forget_connection();
            state.is_configured = false;
            state.is_changed.mark();
            self.left += 1;
            self.feed_mut(feed).left = self.left;
        }
        for feed in new {
            let state = self.feed_mut(feed);
            state.forget_connection();
            state.is_configured = true;
            state.is_changed.mark();
        }
        self.feeds.iter_mut().for_each(|state| state.joins = false);
        slots
    }

    /// Makes the entries that join the configuration heirs of the sources of those that leave it in the same change: the ones
    /// with the address of the leaver, else those with its name, else those with its filter, else all.
    fn inherit(&mut self, slots: &[FeedSlot], gone: &[FeedSlot], new: &[FeedSlot]) {
        let held: Vec<SourceId> = slots.iter().filter_map(|feed| self.feed(*feed).former).collect();
        let mut heirs: BTreeMap<FeedSlot, Vec<SourceId>> = new.iter().map(|feed| (*feed, Vec::new())).collect();
        for leaver in gone.iter().map(|feed| self.feed(*feed)) {
            let Some(source) = leaver.former.filter(|source| !held.contains(source)) else { continue };
            let of = |is_alike: fn(&Entry, &Entry) -> bool| -> Vec<FeedSlot> {
                new.iter().copied().filter(|feed| is_alike(&self.feed(*feed).entry, &leaver.entry)).collect()
            };
            let by_address = of(|heir, leaver| heir.address == leaver.address);
            let by_name = of(|heir, leaver| heir.name == leaver.name);
            let by_filter = of(|heir, leaver| heir.filter.is_some() && heir.filter == leaver.filter);
            let closest = [by_address, by_name, by_filter].into_iter().find(|heirs| !heirs.is_empty());
            for heir in closest.unwrap_or_else(|| new.to_vec()) {
                let sources = heirs.entry(heir).or_default();
                if !sources.contains(&source) {
                    sources.push(source);
                }
            }
        }
        if gone.is_empty() {
            return;
        }
        for (feed, sources) in heirs {
            let state = self.feed_mut(feed);
            state.heir_of = sources;
            state.is_changed.mark();
        }
    }

    /// The slot of an entry, which is made if there is none: it may be that of an entry of a past configuration.
    pub fn slot_of(&mut self, entry: &Entry) -> FeedSlot {
        if let Some(index) = self.feeds.iter().position(|feed| feed.entry == *entry) {
            self.feeds[index].joins = true;
            return FeedSlot::new(index);
        }
        // One of a state of version 1, of which only the name is known.
        let is_known_by_name = |feed: &FeedState| feed.entry.address.is_empty() && feed.entry.name == entry.name;
        if let Some(index) = self.feeds.iter().position(is_known_by_name) {
            self.feeds[index].entry = entry.clone();
            self.feeds[index].joins = true;
            self.feeds[index].is_changed.mark();
            return FeedSlot::new(index);
        }
        let state = FeedState { entry: entry.clone(), joins: true, is_changed: DirtyFlag::NEW, ..FeedState::default() };
        if let Some(past) = self.dispensable_entry() {
            self.forget_entry(past);
            self.feeds[past.index()] = FeedState { cleared_agreed: DirtyFlag::NEW, ..state };
            return past;
        }
        self.feeds.push(state);
        FeedSlot::new(self.feeds.len() - 1)
    }

    /// The entry of a past configuration whose source was active least recently, if there are more of them than are
    /// remembered.
    fn dispensable_entry(&self) -> Option<FeedSlot> {
        let past = self.feeds.iter().enumerate().filter(|(_, state)| !state.is_configured && !state.joins);
        let active = |state: &FeedState| {
            let source = state.former.and_then(|former| self.sources.get(&former));
            source.map_or(i64::MIN, |source| source.active_micros)
        };
        let least = past.clone().min_by_key(|(index, state)| (active(state), state.left, *index));
        least.filter(|_| past.count() >= PAST_ENTRIES_MAX).map(|(index, _)| FeedSlot::new(index))
    }

    /// Forgets an entry of a past configuration. What its source has counted stays.
    fn forget_entry(&mut self, feed: FeedSlot) {
        self.disconnect(feed);
        for state in &mut self.feeds {
            state.companions.remove(&feed);
        }
        for source in self.sources.values_mut().filter(|source| source.counted_by == Some(feed)) {
            source.counted_by = None;
            source.counts.mark_changed();
        }
        let address = self.feed(feed).entry.address.clone();
        let is_shared = (0..self.feeds.len())
            .map(FeedSlot::new)
            .any(|other| other != feed && self.feed(other).entry.address == address);
        if !is_shared && self.addresses.remove(&address).is_some() {
            self.changed_addresses.mark(address);
        }
    }

    /// A connection of the feed is established: it is bound again at its first snapshots.
    pub fn open(&mut self, feed: FeedSlot) {
        self.disconnect(feed);
        let state = self.feed_mut(feed);
        state.forget_connection();
        state.is_live = true;
        // Who waited for it is compared with it first.
        for other in &mut self.feeds {
            if let Binding::Pending(pending) = &mut other.binding
                && pending.awaits_others
            {
                pending.rounds = 0;
            }
        }
    }

    /// The connection of the feed has ended.
    pub fn close(&mut self, feed: FeedSlot) {
        self.disconnect(feed);
    }

    fn disconnect(&mut self, feed: FeedSlot) {
        let state = self.feed_mut(feed);
        state.is_live = false;
        if let Binding::Pending(_) = state.binding {
            state.binding = Binding::Unbound;
        }
        if let Some(source) = self.source_of(feed).and_then(|source| self.sources.get_mut(&source)) {
            source.unset_active(feed);
        }
    }

    /// What a snapshot of `feed` lists, as a value that is shared with its previous snapshot where nothing changed.
    pub fn listings<'a>(
        &self,
        feed: FeedSlot,
        entries: impl ExactSizeIterator<Item = (&'a str, Totals)> + Clone,
    ) -> Arc<Listings> {
        let latest = self.feed(feed).latest();
        if let Some(latest) = latest.filter(|latest| latest.consists_of(entries.clone())) {
            return Arc::clone(latest);
        }
        Arc::new(Listings::new(entries.map(|(name, totals)| (name.into(), totals)).collect()))
    }
}

/// Databases, and feeds that send no snapshots.
impl<C: Counts> Sources<C> {
    /// The source that a feed is bound to or, while it is not, was last bound to.
    pub fn expected_source(&self, feed: FeedSlot) -> Option<SourceId> {
        let state = self.feed(feed);
        state.source().or(state.former).filter(|source| self.sources.contains_key(source))
    }

    /// The source of a feed of which no snapshot is known: that of its entry, else, once it has been waited for others
    /// (`is_over`) or if nobody else can be it, that of its address, of the feed that it replaced, or a new one. Its next
    /// snapshots bind it.
    pub fn adopt(&mut self, feed: FeedSlot, is_over: bool, wall_micros: i64) -> Option<SourceId> {
        self.wall_micros = wall_micros;
        if let Some(source) = self.expected_source(feed) {
            return Some(source);
        }
        let is_other = |(index, state): (usize, &FeedState)| index != feed.index() && state.is_configured;
        // Of the sources that there are none can be it if the feed has just listed another database than before.
        let is_observed = self.feed(feed).is_observed;
        let has_others = !(self.sources.is_empty() || is_observed) || self.feeds.iter().enumerate().any(is_other);
        if has_others && !is_over {
            return None;
        }
        let heir_of = self.feed(feed).heir_of.first().copied().filter(|source| self.sources.contains_key(source));
        let beginning = if is_observed { Beginning::Observed } else { Beginning::History };
        let source = match self.former(feed).or(heir_of).filter(|_| !is_observed) {
            Some(source) => source,
            None => self.begin_source(feed, beginning, None)?,
        };
        let state = self.feed_mut(feed);
        state.former = Some(source);
        state.is_changed.mark();
        self.announce_rows(feed, source);
        Some(source)
    }

    /// The database of the feed's source is about to be read. A feed that is not bound yet tells its source when it is.
    pub fn expect_rows(&mut self, feed: FeedSlot) {
        let state = self.feed_mut(feed);
        state.has_rows = true;
        state.awaits_rows = true;
        if let Some(source) = self.expected_source(feed) {
            self.announce_rows(feed, source);
        }
    }

    /// No database is configured for the feed any more.
    pub fn forget_rows(&mut self, feed: FeedSlot) {
        let state = self.feed_mut(feed);
        state.has_rows = false;
        state.awaits_rows = false;
    }

    /// Whether the feed's source has yet to learn that its database is about to be read.
    pub fn awaits_rows(&self, feed: FeedSlot) -> bool {
        self.feed(feed).awaits_rows
    }

    fn announce_rows(&mut self, feed: FeedSlot, source: SourceId) {
        if std::mem::take(&mut self.feed_mut(feed).awaits_rows)
            && let Some(known) = self.sources.get_mut(&source)
            && !known.counts.is_read()
        {
            known.counts.expect_rows();
        }
    }

    /// Lets a feed begin a source at once: its database shows whose numbers it lists.
    pub fn lift_hold(&mut self, feed: FeedSlot) {
        self.feed_mut(feed).hold_rounds = 0;
    }

    /// Whether an event without an identifier counts that `feed` streams: of several feeds of a source one streams for all.
    pub fn streams_for(&self, feed: FeedSlot, source: SourceId) -> bool {
        let Some(known) = self.sources.get(&source) else { return false };
        let is_listed = known.active.iter().any(|(_, active)| self.feed(*active).is_live);
        if is_listed {
            return known.is_active(feed);
        }
        self.live_feeds().find(|other| self.expected_source(*other) == Some(source)).is_none_or(|first| first == feed)
    }

    /// The latest list of a live feed, and when it arrived.
    pub fn latest(&self, feed: FeedSlot) -> Option<(Duration, &Listings)> {
        let state = self.feed(feed);
        Some((state.received_at.filter(|_| state.is_live)?, state.latest()?))
    }

    /// No database of the feed is waited for.
    pub fn cease_awaiting(&mut self, feed: FeedSlot) {
        self.feed_mut(feed).awaits_rows = false;
    }

    /// Binds a feed to the source whose rows its database has, which decides. If the source that it leaves lists what the
    /// database holds, it is the same one.
    pub fn assign(&mut self, feed: FeedSlot, source: SourceId, held: &Listings) {
        let left = self.expected_source(feed).filter(|left| *left != source);
        if left.is_none() && matches!(self.feed(feed).binding, Binding::Bound(_)) {
            return;
        }
        if let Some(left) = left.and_then(|left| self.sources.get_mut(&left)) {
            left.unset_active(feed);
        }
        let state = self.feed_mut(feed);
        if state.is_live && state.received_at.is_some() {
            state.binding = Binding::Bound(source);
        }
        state.former = Some(source);
        state.is_observed = false;
        state.awaits_rows = false;
        state.differing = None;
        state.behind = None;
        state.heir_of.clear();
        state.clear_agreed();
        state.is_agreed = false;
        state.is_changed.mark();
        self.note_address(feed, source);
        self.events.push(SourceEvent::Bound { feed, source });
        let is_same = |left: &Source<C>| left.has_begun && left.numbers.equality(held) >= DECISIVE_BITS;
        if let Some(left) = left
            && self.sources.get(&left).is_some_and(is_same)
        {
            self.join_sources(feed, source, left);
        }
    }

    /// Begins a source for a feed whose database is a copy of that of `from`: the past is common, rows and all.
    pub fn fork_database(&mut self, feed: FeedSlot, from: SourceId) -> Option<SourceId> {
        let common = self.sources.get(&from)?;
        let (numbers, counts) = (common.numbers.fork(&HashMap::new()), common.counts.fork());
        let own = self.add_source(Source { numbers, has_begun: true, ..Source::new(counts, Beginning::Observed) });
        self.assign(feed, own, &Listings::default());
        self.events.push(SourceEvent::Forked { feed, from, into: own });
        self.forget_free_sources(own);
        Some(own)
    }

    /// Moves the numbers of a source to what its database holds, all skills of it. Returns the source, which is another one
    /// if the database is another, unless it `is_known` by its rows; the steps are in [`Sources::steps`].
    pub fn advance_to(
        &mut self,
        feed: FeedSlot,
        source: SourceId,
        listings: &Listings,
        is_known: bool,
        wall_micros: i64,
    ) -> Option<SourceId> {
        self.wall_micros = wall_micros;
        self.steps.clear();
        let known = self.sources.get(&source)?;
        let live: Vec<&FeedState> = self.feeds_of(source).map(|other| self.feed(other)).collect();
        let recent = live.iter().flat_map(|other| other.recent.iter().map(|(_, listings)| &**listings));
        let continuity = known.numbers.judge(listings, Room::Enough, || known.numbers.strength(listings, recent, true));
        let continuity = match continuity {
            Continuity::Another if is_known => Continuity::Damaged,
            continuity => continuity,
        };
        let fell = known.numbers.fallen(listings, Room::Enough);
        let source = match continuity {
            Continuity::Another => {
                self.events.push(SourceEvent::Another { feed, fell });
                self.replace(feed, source)?
            }
            Continuity::Damaged => {
                self.events.push(SourceEvent::Damaged { feed, fell });
                source
            }
            Continuity::Returned { .. } => {
                self.events.push(SourceEvent::Returned { feed });
                source
            }
            Continuity::Follows => source,
        };
        let continuity = if continuity == Continuity::Another { Continuity::Follows } else { continuity };
        let wall_micros = self.wall_micros;
        let known = self.sources.get_mut(&source)?;
        known.has_begun = true;
        known.active_micros = wall_micros;
        if known.numbers.advance(listings, Room::Enough, continuity, &mut self.steps) {
            known.counts.mark_damages_changed();
        }
        Some(source)
    }

    /// Begins a source in the place of another: the database that `feed` reads is another one. The feeds of its server go
    /// with it. Returns the new source.
    pub fn replace(&mut self, feed: FeedSlot, old: SourceId) -> Option<SourceId> {
        self.feed_mut(feed).hold_rounds = 0;
        let source = self.begin_source(feed, Beginning::Observed, Some(old))?;
        let companions: Vec<FeedSlot> =
            self.feeds_of(old).filter(|other| *other == feed || self.is_one_server(feed, *other)).collect();
        for other in companions.iter().copied().chain([feed]) {
            let is_bound = self.source_of(other) == Some(old);
            if let Some(known) = self.sources.get_mut(&old) {
                known.unset_active(other);
            }
            let state = self.feed_mut(other);
            if is_bound {
                state.binding = Binding::Bound(source);
            }
            state.former = Some(source);
            state.clear_agreed();
            state.is_agreed = false;
            state.is_changed.mark();
        }
        Some(source)
    }
}

/// Snapshots.
impl<C: Counts> Sources<C> {
    /// Takes a snapshot of a live feed.
    pub fn observe(&mut self, feed: FeedSlot, seen: &Observation<'_>, wall_micros: i64) -> Outcome {
        self.wall_micros = wall_micros;
        self.feed_mut(feed).receive(seen);
        self.compare_timestamps(feed, seen);
        self.bind_and_step(feed, seen, false)
    }

    /// Takes the last snapshot of a pending feed once more, whose connection is about to end: it is bound by what is known.
    pub fn observe_last(&mut self, feed: FeedSlot, seen: &Observation<'_>, wall_micros: i64) -> Outcome {
        self.wall_micros = wall_micros;
        if !matches!(self.feed(feed).binding, Binding::Pending(_)) {
            return Outcome::Pending;
        }
        self.bind_and_step(feed, seen, true)
    }

    fn bind_and_step(&mut self, feed: FeedSlot, seen: &Observation<'_>, is_last: bool) -> Outcome {
        self.steps.clear();
        let source = match self.source_of(feed) {
            Some(source) => source,
            None if seen.listings.is_empty() && seen.anomalies.is_empty() => {
                if seen.room == Room::Enough {
                    self.feed_mut(feed).observe_next();
                }
                return Outcome::Pending;
            }
            None => {
                let recent = &self.feed(feed).recent;
                let before = recent.len().checked_sub(2).and_then(|index| recent[index].0);
                // A server can send one round more than once.
                let is_repeated = seen.stamp.is_some() && before == seen.stamp;
                let pending = match self.feed(feed).binding {
                    Binding::Pending(pending) => {
                        let rounds = pending.rounds + u32::from(!is_repeated);
                        let awaits_others = self.awaits_others(feed, seen.now, pending.since);
                        Pending { rounds, awaits_others, ..pending }
                    }
                    Binding::Unbound | Binding::Bound(_) => {
                        let awaits_others = self.awaits_others(feed, seen.now, seen.now);
                        Pending { rounds: 1, since: seen.now, awaits_others }
                    }
                };
                self.feed_mut(feed).binding = Binding::Pending(pending);
                let Some(source) = self.find(feed, seen, pending, is_last) else { return Outcome::Pending };
                self.bind(feed, source, &seen.listings);
                source
            }
        };
        if !is_last {
            self.join(feed, &seen.listings);
        }
        let source = self.source_of(feed).unwrap_or(source);
        self.step(feed, source, seen)
    }

    /// Counts, for each other live feed, the timestamps in a row that both had.
    fn compare_timestamps(&mut self, feed: FeedSlot, seen: &Observation<'_>) {
        let Some(stamp) = seen.stamp.filter(|stamp| stamp.is_evidence()) else { return };
        let recent = &self.feed(feed).recent;
        let is_repeated = recent.iter().rev().skip(1).any(|(known, _)| *known == Some(stamp));
        if is_repeated {
            return;
        }
        for other in 0..self.feeds.len() {
            let (other, state) = (FeedSlot::new(other), &self.feeds[other]);
            if other == feed || !state.is_live {
                continue;
            }
            let is_shared = state.recent.iter().any(|(known, _)| *known == Some(stamp));
            let is_heard = state.is_heard(seen.now);
            if is_shared {
                for (this, that) in [(feed, other), (other, feed)] {
                    let companion = self.feed_mut(this).companions.entry(that).or_default();
                    companion.shared += 1;
                    companion.alone = 0;
                }
            } else if is_heard {
                let companion = self.feed_mut(feed).companions.entry(other).or_default();
                companion.alone += 1;
                if companion.alone > ALONE_NEEDED {
                    companion.shared = 0;
                    self.feed_mut(other).companions.entry(feed).or_default().shared = 0;
                }
            }
        }
    }

    /// Whether the feed, its address or the feed that it replaced was bound to a source before.
    fn was_its_own(&self, feed: FeedSlot, source: SourceId) -> bool {
        let state = self.feed(feed);
        let of_address = self.addresses.get(&state.entry.address);
        state.source().or(state.former) == Some(source)
            || state.heir_of.contains(&source)
            || of_address.is_some_and(|known| known.contains(&source))
    }

    /// Bits of evidence that a snapshot is of a source.
    fn strength(&self, feed: FeedSlot, source: SourceId, seen: &Observation<'_>) -> f64 {
        let Some(known) = self.sources.get(&source) else { return 0.0 };
        let others = self.feeds_of(source).filter(|other| *other != feed);
        let others: Vec<&FeedState> = others.map(|other| self.feed(other)).collect();
        let recent = others.iter().flat_map(|other| other.recent.iter().map(|(_, listings)| &**listings));
        let was_its_own = self.was_its_own(feed, source);
        known.numbers.strength(&seen.listings, recent, was_its_own) + known.counts.anomaly_bits(seen.anomalies)
    }

    /// The source that a pending feed belongs to, which is made if nobody else can be it; `None` while it is open.
    fn find(&mut self, feed: FeedSlot, seen: &Observation<'_>, pending: Pending, is_last: bool) -> Option<SourceId> {
        let others: Vec<FeedSlot> = self.live_feeds().filter(|other| *other != feed).collect();
        for other in &others {
            if let Some(source) = self.source_of(*other)
                && self.feed(*other).latest().is_some()
                && (self.is_one_server(feed, *other) || self.is_alike(feed, *other, &seen.listings))
            {
                return Some(source);
            }
        }
        let former = self.former(feed);
        let strengths: Vec<(f64, SourceId)> =
            self.sources.keys().map(|source| (self.strength(feed, *source, seen), *source)).collect();
        let decisive = strengths.iter().filter(|(bits, _)| *bits >= DECISIVE_BITS);
        // The most bits; equal: the former one, then the older one.
        let best = decisive.max_by(|a, b| {
            let rank = |(_, source): &(f64, SourceId)| (Some(*source) == former, std::cmp::Reverse(*source));
            a.0.total_cmp(&b.0).then_with(|| rank(a).cmp(&rank(b)))
        });
        if let Some((_, source)) = best {
            return Some(*source);
        }
        // What is another database at one snapshot does not become the same by growing past it while the feed is pending.
        let is_another = |(bits, source): &&(f64, SourceId)| {
            let numbers = &self.sources[source].numbers;
            numbers.judge_unbound(&seen.listings, seen.room, || *bits) == Continuity::Another
        };
        let refuted = strengths.iter().filter(is_another).map(|(_, source)| *source).collect::<Vec<_>>();
        self.feed_mut(feed).refuted.extend(refuted);
        let is_refuted = |source: SourceId| self.feed(feed).refuted.contains(&source);
        let former = former.filter(|former| !is_refuted(*former));
        if former.is_some() && self.feed(feed).former == former {
            return former;
        }
        let is_contradicted = |source: SourceId| {
            is_refuted(source) || self.sources[&source].numbers.is_contradicted(&seen.listings, seen.room)
        };
        // Shared timestamps stay evidence where the feed that shared them was bound and then lost its connection.
        let of_server = self
            .feed(feed)
            .companions
            .iter()
            .filter(|(other, companion)| companion.shared >= SHARED_NEEDED && !self.feed(**other).is_live);
        let of_server = of_server.filter_map(|(other, _)| self.source_of(*other));
        if let Some(source) = of_server.filter(|source| !is_contradicted(*source)).min() {
            return Some(source);
        }
        // The source of the same address, whoever else lists it.
        let address = &self.feed(feed).entry.address;
        let is_of_address = |source: SourceId| {
            let bound = self.feeds.iter().any(|other| other.entry.address == *address && other.former == Some(source));
            bound && !is_contradicted(source)
        };
        let hinted = strengths.iter().filter(|(_, source)| is_of_address(*source));
        let hinted = hinted.max_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
        if let Some((bits, source)) = hinted
            && *bits >= FORMER_BITS
        {
            return Some(*source);
        }
        let is_compared = others.is_empty() || pending.rounds >= ROUNDS;
        if !is_last && (!is_compared || pending.awaits_others) {
            return None;
        }
        if former.is_some() {
            return former;
        }
        // A list of one skill can have nothing in common with what the leaver listed. What another heir has inherited needs
        // evidence.
        let is_filtered = self.feed(feed).entry.filter.is_some();
        let is_inherited = |(bits, source): &&(f64, SourceId)| {
            self.feed(feed).heir_of.contains(source)
                && !is_contradicted(*source)
                && (is_filtered || self.sources[source].numbers.common_skills(&seen.listings) > 0)
                && (*bits >= FORMER_BITS || self.is_free(feed, *source))
        };
        let inherited = strengths.iter().filter(is_inherited);
        let inherited = inherited.max_by(|a, b| a.0.total_cmp(&b.0).then(b.1.cmp(&a.1)));
        if let Some((_, source)) = inherited {
            return Some(*source);
        }
        let state = self.feed(feed);
        let is_observed = state.is_observed || state.former.is_some();
        self.begin_source(feed, if is_observed { Beginning::Observed } else { Beginning::History }, None)
    }

    /// Whether a feed that has been pending since `since` has to wait for one that is configured and not connected: it may
    /// be the server of that one by another address, of which its numbers alone show too little. Where there is no source
    /// yet, whoever comes later is compared with this feed.
    fn awaits_others(&self, feed: FeedSlot, now: Duration, since: Duration) -> bool {
        let is_missing =
            |(index, state): (usize, &FeedState)| index != feed.index() && state.is_configured && !state.is_live;
        !self.sources.is_empty()
            && !self.feed(feed).is_observed
            && now.saturating_sub(since) < CONNECTION_PATIENCE
            && self.feeds.iter().enumerate().any(is_missing)
    }

    /// The source that a feed's entry, its address or its name was last bound to. Those of address and name only if nobody
    /// with another address lists them.
    fn former(&self, feed: FeedSlot) -> Option<SourceId> {
        let Entry { name, address, .. } = &self.feed(feed).entry;
        let own = self.feed(feed).former.filter(|source| self.sources.contains_key(source));
        if own.is_some() {
            return own;
        }
        let is_free = |source: &SourceId| self.sources.contains_key(source) && self.is_free(feed, *source);
        let of_address = self.feeds.iter().filter(|other| other.entry.address == *address);
        let of_name = self.feeds.iter().filter(|other| other.entry.name == *name && !name.is_empty());
        of_address.chain(of_name).filter_map(|other| other.former).find(is_free)
    }

    /// Whether no feed with another address is bound to a source.
    fn is_free(&self, feed: FeedSlot, source: SourceId) -> bool {
        let address = &self.feed(feed).entry.address;
        self.feeds_of(source).all(|other| self.feed(other).entry.address == *address)
    }

    /// Whether both feeds made changes alike under watch that decide: a copy of a database cannot do that.
    fn is_alike(&mut self, feed: FeedSlot, other: FeedSlot, now: &Listings) -> bool {
        let mut companion = self.feed_mut(feed).companions.remove(&other).unwrap_or_default();
        let (this, that) = (self.feed(feed), self.feed(other));
        let is_contradicted =
            that.latest().is_some_and(|latest| now.common(latest).any(|(_, a, b)| !a.precedes(b) && !b.precedes(a)));
        if is_contradicted {
            companion.alike_bits = 0.0;
            companion.alike.clear();
        } else {
            let was = |first: &Option<Arc<Listings>>, name: &str, totals: &Totals| {
                let then = first.as_ref().and_then(|first| first.get(name));
                then.is_some_and(|then| then.is_same(totals))
            };
            for (name, totals) in now.iter() {
                let mut late = that.recent.iter().filter_map(|(_, listings)| listings.get(name));
                if late.any(|other| other.is_same(totals))
                    && !was(&this.first, name, totals)
                    && !was(&that.first, name, totals)
                    && companion.alike.get(name) != Some(&totals.total)
                {
                    companion.alike.insert(name.clone(), totals.total);
                    companion.alike_bits += totals.bits();
                }
            }
        }
        let is_alike = companion.alike_bits >= DECISIVE_BITS;
        self.feed_mut(feed).companions.insert(other, companion);
        is_alike
    }

    /// Begins a source for a feed, in the place of another at most one in three rounds; `None` where the feed has to wait.
    fn begin_source(&mut self, feed: FeedSlot, beginning: Beginning, after: Option<SourceId>) -> Option<SourceId> {
        let state = self.feed_mut(feed);
        if beginning == Beginning::Observed {
            if state.hold_rounds > 0 {
                return None;
            }
            state.hold_rounds = ROUNDS;
            state.is_changed.mark();
        }
        let source = self.add_source(Source { after, ..Source::new(C::default(), beginning) });
        self.forget_free_sources(source);
        Some(source)
    }

    fn add_source(&mut self, source: Source<C>) -> SourceId {
        let id = self.next;
        self.next = id.next();
        self.sources.insert(id, Source { active_micros: self.wall_micros, ..source });
        id
    }

    /// Forgets the sources without a feed that were active least recently, beyond the limit.
    fn forget_free_sources(&mut self, except: SourceId) {
        let is_free = |id: SourceId| {
            let is_bound = |feed: &FeedState| {
                feed.source() == Some(id)
                    || feed.is_configured && (feed.former == Some(id) || feed.heir_of.contains(&id))
            };
            id != except && !self.feeds.iter().any(is_bound)
        };
        let mut free: Vec<(i64, SourceId)> = self
            .sources
            .iter()
            .filter(|(id, _)| is_free(**id))
            .map(|(id, source)| (source.active_micros, *id))
            .collect();
        free.sort_unstable();
        let beyond = free.len().saturating_sub(FREE_SOURCES_MAX);
        for (_, source) in free.into_iter().take(beyond) {
            self.forget(source);
        }
    }

    /// Forgets a source: its counts stay, and what its database holds would count once more.
    pub fn forget(&mut self, source: SourceId) {
        self.sources.remove(&source);
        self.removed.mark(source);
        for state in &mut self.feeds {
            if state.former == Some(source) {
                state.former = None;
                state.is_changed.mark();
            }
            if state.source() == Some(source) {
                state.binding = Binding::Unbound;
            }
            state.heir_of.retain(|heir| *heir != source);
        }
        for (address, sources) in &mut self.addresses {
            if sources.contains(&source) {
                sources.retain(|known| *known != source);
                self.changed_addresses.mark(address.clone());
            }
        }
        self.addresses.retain(|_, sources| !sources.is_empty());
        self.events.push(SourceEvent::Forgotten { source });
    }

    fn bind(&mut self, feed: FeedSlot, source: SourceId, now: &Listings) {
        let wall_micros = self.wall_micros;
        let state = self.feed_mut(feed);
        let is_other = state.former != Some(source);
        let former = state.former.filter(|former| *former != source);
        state.binding = Binding::Bound(source);
        state.refuted.clear();
        state.former = Some(source);
        state.is_observed = false;
        state.heir_of.clear();
        state.clear_agreed();
        state.is_agreed = false;
        state.is_changed.mark();
        self.note_address(feed, source);
        if let Some(source) = self.sources.get_mut(&source) {
            source.active_micros = wall_micros;
        }
        if let Some(former) = former.and_then(|former| self.sources.get(&former)) {
            // Its rows are of the new source, too.
            let is_read = former.counts.is_read();
            let state = &mut self.feeds[feed.index()];
            state.awaits_rows |= state.has_rows && is_read;
            let fell = former.numbers.fallen(now, Room::Unknown);
            let fell = if fell.is_empty() { former.numbers.fallen(now, Room::Enough) } else { fell };
            self.events.push(SourceEvent::Another { feed, fell });
        }
        if is_other {
            self.events.push(SourceEvent::Bound { feed, source });
        }
        self.announce_rows(feed, source);
        self.agree(feed, source, now);
    }

    fn note_address(&mut self, feed: FeedSlot, source: SourceId) {
        let address = self.feed(feed).entry.address.clone();
        self.changed_addresses.mark(address.clone());
        let known = self.addresses.entry(address).or_default();
        known.retain(|known| *known != source);
        known.push(source);
        if known.len() > SOURCES_PER_ADDRESS_MAX {
            known.remove(0);
        }
    }

    /// Notes what both the feed and its source had for certain: of each skill at first the smaller numbers, then the last
    /// listing of the feed that is in the source's history.
    fn agree(&mut self, feed: FeedSlot, source: SourceId, now: &Listings) {
        let Some(numbers) = self.sources.get(&source).map(|source| &source.numbers) else { return };
        let state = &mut self.feeds[feed.index()];
        if state.is_agreed {
            return;
        }
        state.is_agreed = true;
        for (name, totals) in now.iter() {
            match state.agreed.get_mut(name) {
                None => {
                    let remembered = numbers.skill(name).map_or(Totals::ZERO, |skill| skill.remembered);
                    let is_smaller = (totals.total, totals.completed) < (remembered.total, remembered.completed);
                    state.agreed.insert(name.clone(), if is_smaller { *totals } else { remembered });
                    state.changed_agreed.mark(name.clone());
                    state.is_agreed &= totals.total <= remembered.total;
                }
                Some(agreed) if totals.total > agreed.total => {
                    if numbers.knows(name, totals) {
                        *agreed = *totals;
                        state.changed_agreed.mark(name.clone());
                    } else {
                        state.is_agreed = false;
                    }
                }
                Some(_) => {}
            }
        }
    }

    /// Joins the source of `feed` with that of another live feed, if the two turn out to be one.
    fn join(&mut self, feed: FeedSlot, now: &Listings) {
        for index in 0..self.feeds.len() {
            let other = FeedSlot::new(index);
            let (Some(own), Some(others)) = (self.source_of(feed), self.source_of(other)) else { continue };
            if other == feed || own == others || !self.feed(other).is_live {
                continue;
            }
            if self.is_alike(feed, other, now) || self.is_one_server(feed, other) {
                self.join_sources(feed, own.min(others), own.max(others));
                return;
            }
        }
    }

    fn join_sources(&mut self, feed: FeedSlot, older: SourceId, younger: SourceId) {
        let (Some(left), Some(source)) = (self.sources.remove(&younger), self.sources.get_mut(&older)) else { return };
        let counted_twice = source.numbers.join(left.numbers);
        source.counts.join(left.counts);
        for state in &mut self.feeds {
            if state.source() == Some(younger) {
                state.binding = Binding::Bound(older);
                state.differing = None;
                state.is_agreed = false;
            }
            if state.former == Some(younger) {
                state.former = Some(older);
                state.is_changed.mark();
            }
            for heir in &mut state.heir_of {
                if *heir == younger {
                    *heir = older;
                    state.is_changed.mark();
                }
            }
        }
        self.removed.mark(younger);
        for (address, sources) in &mut self.addresses {
            if sources.contains(&younger) {
                self.changed_addresses.mark(address.clone());
                sources.retain(|known| *known != younger && *known != older);
                sources.push(older);
            }
        }
        self.events.push(SourceEvent::Joined { feed, older, younger, counted_twice });
    }

    /// Decides who moves the counters, and moves them.
    fn step(&mut self, feed: FeedSlot, source: SourceId, seen: &Observation<'_>) -> Outcome {
        let filter = self.feed(feed).entry.filter.clone();
        let Some(known) = self.sources.get(&source) else { return Outcome::Pending };
        let is_alive = |active: FeedSlot| {
            active != feed && self.source_of(active) == Some(source) && self.feed(active).is_heard(seen.now)
        };
        let active = known.active_for(None).filter(|active| is_alive(*active));
        let active = active.or_else(|| known.active_for(filter.as_deref()).filter(|active| is_alive(*active)));
        if let Some(active) = active {
            return self.stand_by(feed, active, source, seen);
        }
        if let Some(known) = self.sources.get_mut(&source) {
            known.set_active(filter.as_deref(), feed);
        }
        self.apply(feed, source, seen, false)
    }

    /// Compares a feed on standby with the active one.
    fn stand_by(&mut self, feed: FeedSlot, active: FeedSlot, source: SourceId, seen: &Observation<'_>) -> Outcome {
        let now = &seen.listings;
        let is_one_server = self.is_one_server(feed, active);
        if is_one_server || !self.differs(feed, active, source, seen) {
            self.agree(feed, source, now);
            self.feed_mut(feed).differing = None;
            // The lists of one server are the same.
            return Outcome::Standby { source, agrees: !is_one_server };
        }
        if Streak::extend(&mut self.feed_mut(feed).differing, seen.now) {
            return self.fork(feed, source, seen);
        }
        Outcome::Standby { source, agrees: false }
    }

    /// Whether two feeds differ in a round: a skill contradicts, or one lists less than the other listed a while ago.
    fn differs(&self, feed: FeedSlot, active: FeedSlot, source: SourceId, seen: &Observation<'_>) -> bool {
        let now = &*seen.listings;
        let (this, that) = (self.feed(feed), self.feed(active));
        let Some(latest) = that.latest() else { return false };
        let is_ahead = now.common(latest).any(|(_, own, other)| !own.precedes(other));
        let is_back = now.common(latest).any(|(_, own, other)| !other.precedes(own));
        if is_ahead && is_back {
            return true;
        }
        let since = self.sources.get(&source).and_then(|source| source.damaged_at);
        let lists_less = |earlier: Option<&Listings>, present: &Listings| {
            let common = |name: &str| now.contains(name) && latest.contains(name);
            earlier.is_some_and(|earlier| {
                earlier.common(present).any(|(name, then, totals)| common(name) && !then.precedes(totals))
            })
        };
        lists_less(that.earlier(seen.now, since), now) || lists_less(this.earlier(seen.now, since), latest)
    }

    /// Gives a feed on standby a source of its own, from the last listing of its own that is in the common history.
    fn fork(&mut self, feed: FeedSlot, source: SourceId, seen: &Observation<'_>) -> Outcome {
        let Some(common) = self.sources.get(&source) else { return Outcome::Pending };
        let numbers = common.numbers.fork(&self.feed(feed).agreed);
        let counts = common.counts.fork();
        let fork = Source { numbers, has_begun: true, ..Source::new(counts, Beginning::Observed) };
        let own = self.add_source(fork);
        let state = self.feed_mut(feed);
        state.binding = Binding::Bound(own);
        state.former = Some(own);
        state.differing = None;
        state.is_changed.mark();
        let filter = state.entry.filter.clone();
        if let Some(own) = self.sources.get_mut(&own) {
            own.set_active(filter.as_deref(), feed);
        }
        self.events.push(SourceEvent::Forked { feed, from: source, into: own });
        self.forget_free_sources(own);
        let seen = Observation { room: Room::Unknown, ..seen.clone() };
        self.apply(feed, own, &seen, true)
    }

    /// Judges the snapshot of an active feed, and counts it.
    fn apply(&mut self, feed: FeedSlot, source: SourceId, seen: &Observation<'_>, is_fork: bool) -> Outcome {
        let now = &*seen.listings;
        let Some(known) = self.sources.get(&source) else { return Outcome::Pending };
        if known.counts.is_read() && !is_fork {
            let continuity = known.numbers.judge(now, seen.room, || self.strength(feed, source, seen));
            if continuity != Continuity::Another {
                self.feed_mut(feed).differing = None;
            } else if Streak::extend(&mut self.feed_mut(feed).differing, seen.now) {
                // The rows are of a database that this feed has left.
                self.feed_mut(feed).differing = None;
                return self.replace_source(feed, source, seen);
            }
            return Outcome::Read { source };
        }
        let took_over = known.counted_by.is_some_and(|other| other != feed) && !is_fork;
        if took_over && self.is_behind(feed, source, now) {
            if !Streak::extend(&mut self.feed_mut(feed).behind, seen.now) {
                return Outcome::Behind { source };
            }
            self.events.push(SourceEvent::Undecided { feed, doubt: Doubt::Behind });
        }
        self.feed_mut(feed).behind = None;
        let Some(known) = self.sources.get(&source) else { return Outcome::Pending };
        let continuity = if is_fork {
            if known.numbers.is_contradicted(now, Room::Unknown) { Continuity::Damaged } else { Continuity::Follows }
        } else {
            known.numbers.judge(now, seen.room, || self.strength(feed, source, seen))
        };
        match continuity {
            Continuity::Another => return self.replace_source(feed, source, seen),
            Continuity::Damaged if is_fork => {}
            Continuity::Damaged => {
                let fell = known.numbers.fallen(now, seen.room);
                if self.strength(feed, source, seen) < DECISIVE_BITS {
                    self.events.push(SourceEvent::Undecided { feed, doubt: Doubt::Damage });
                }
                self.events.push(SourceEvent::Damaged { feed, fell });
            }
            Continuity::Returned { .. } => {
                let is_decided = known.numbers.is_contradicted(now, seen.room);
                if !is_decided {
                    self.events.push(SourceEvent::Undecided { feed, doubt: Doubt::Return });
                }
                self.events.push(SourceEvent::Returned { feed });
            }
            Continuity::Follows => {}
        }
        let wall_micros = self.wall_micros;
        let Some(known) = self.sources.get_mut(&source) else { return Outcome::Pending };
        if continuity == Continuity::Damaged {
            known.damaged_at = Some(seen.now);
        }
        let beginning = (!std::mem::replace(&mut known.has_begun, true)).then_some(known.beginning);
        let damages_changed = known.numbers.advance(now, seen.room, continuity, &mut self.steps);
        let is_other = known.counted_by.replace(feed) != Some(feed);
        if is_other {
            known.counts.mark_changed();
        }
        if damages_changed {
            known.counts.mark_damages_changed();
        }
        known.active_micros = wall_micros;
        if continuity == Continuity::Follows && self.steps.iter().any(Step::is_known_listing) {
            self.events.push(SourceEvent::Undecided { feed, doubt: Doubt::KnownListing });
        }
        Outcome::Counted { source, continuity, beginning }
    }

    /// Whether a feed that takes over, and that has itself not fallen, lists no more than is remembered and less somewhere.
    fn is_behind(&self, feed: FeedSlot, source: SourceId, now: &Listings) -> bool {
        let Some(own) = self.feed(feed).previous() else { return false };
        let numbers = &self.sources[&source].numbers;
        let remembered = |name: &str| numbers.skill(name).map(|skill| skill.remembered);
        let mut is_less = false;
        for (name, totals) in now.iter() {
            let Some(remembered) = remembered(name) else { continue };
            if !totals.precedes(&remembered) {
                return false;
            }
            is_less |= !totals.is_same(&remembered);
            if own.get(name).is_some_and(|before| !before.precedes(totals)) {
                return false;
            }
        }
        is_less
    }

    /// The feed lists another database: it, and every feed of the same server, is unbound and bound again; the old source
    /// keeps its memory.
    fn replace_source(&mut self, feed: FeedSlot, old: SourceId, seen: &Observation<'_>) -> Outcome {
        let fell = self.sources[&old].numbers.fallen(&seen.listings, seen.room);
        self.events.push(SourceEvent::Another { feed, fell });
        let companions: Vec<FeedSlot> =
            self.feeds_of(old).filter(|other| *other != feed && self.is_one_server(feed, *other)).collect();
        let is_read = self.sources[&old].counts.is_read();
        for other in companions.into_iter().chain([feed]) {
            self.unbind(other);
            let state = self.feed_mut(other);
            state.awaits_rows |= state.has_rows && is_read;
        }
        if seen.listings.is_empty() {
            self.feed_mut(feed).observe_next();
            return Outcome::Pending;
        }
        let state = self.feed_mut(feed);
        state.binding = Binding::Pending(Pending { rounds: 1, since: seen.now, awaits_others: false });
        state.observe_next();
        let has_others = self.live_feeds().any(|other| other != feed && self.source_of(other) != Some(old));
        let found = self.find_replacement(feed, old, seen);
        let source = match found {
            Some(source) => source,
            None if has_others => return Outcome::Pending,
            None => match self.begin_source(feed, Beginning::Observed, Some(old)) {
                Some(source) => source,
                None => return Outcome::Pending,
            },
        };
        self.bind(feed, source, &seen.listings);
        self.step(feed, source, seen)
    }

    fn unbind(&mut self, feed: FeedSlot) {
        self.disconnect(feed);
        let state = self.feed_mut(feed);
        state.is_live = true;
        state.binding = Binding::Unbound;
        state.former = None;
        state.is_changed.mark();
    }

    /// The source that has taken the place of `old`: one that a companion has just found, or a former one.
    fn find_replacement(&self, feed: FeedSlot, old: SourceId, seen: &Observation<'_>) -> Option<SourceId> {
        for (id, source) in &self.sources {
            let active = source.active_for(None).or_else(|| source.active.last().map(|(_, active)| *active));
            if let Some(active) = active.filter(|active| *active != feed && source.after == Some(old))
                && let Some(latest) = self.feed(active).latest().filter(|_| self.feed(active).is_live)
                && seen.listings.common(latest).all(|(_, own, other)| own.precedes(other) || other.precedes(own))
            {
                return Some(*id);
            }
        }
        let former = self.addresses.get(&self.feed(feed).entry.address);
        let fits = self.sources.iter().filter(|(id, _)| **id != old).filter_map(|(id, source)| {
            let bits = self.strength(feed, *id, seen);
            let is_former = former.is_some_and(|former| former.contains(id))
                && !source.numbers.is_contradicted(&seen.listings, seen.room);
            (bits >= if is_former { FORMER_BITS } else { DECISIVE_BITS }).then_some((bits, *id))
        });
        fits.max_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1))).map(|(_, id)| id)
    }
}

/// What of a feed's entry outlives a process.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct FeedParts {
    /// As it is, or was, configured.
    pub entry: Entry,
    /// Whether it was configured last.
    pub is_configured: bool,
    /// The source that it was last bound to.
    pub former: Option<SourceId>,
    /// Sources of entries that left the configuration when this one joined it.
    pub heir_of: Vec<SourceId>,
    /// The last listing of its own that is in the source's history, by skill.
    pub agreed: HashMap<Arc<str>, Totals>,
    /// Snapshots before it may begin another source in the place of one.
    pub hold_rounds: u32,
    /// Whether what its next source holds happened while it was observed.
    pub is_observed: bool,
}

/// What of a source outlives a process.
#[derive(Debug)]
pub struct SourceParts<C> {
    /// What is remembered of its numbers.
    pub numbers: SourceNumbers,
    /// What it carries to count with.
    pub counts: C,
    /// How it began.
    pub beginning: Beginning,
    /// Whether a snapshot of it was counted.
    pub has_begun: bool,
    /// The index of the feed that moved the counters last.
    pub counted_by: Option<usize>,
    /// When it was last active, in microseconds since the Unix epoch.
    pub active_micros: i64,
}

/// What outlives a process.
#[derive(Debug)]
pub struct Parts<C> {
    /// Every entry, in the order of the slots.
    pub feeds: Vec<FeedParts>,
    /// Every source.
    pub sources: BTreeMap<SourceId, SourceParts<C>>,
    /// The sources that each address was bound to, the latest last.
    pub addresses: HashMap<Box<str>, Vec<SourceId>>,
    /// The identifier of the next source.
    pub next: SourceId,
}

/// Restarts.
impl<C: Counts> Sources<C> {
    /// The feeds and sources that `parts` were. The configuration is that of then: call [`Sources::configure`].
    pub fn from_parts(parts: Parts<C>) -> Self {
        let feed = |parts: FeedParts| {
            let FeedParts { entry, is_configured, former, heir_of, agreed, hold_rounds, is_observed } = parts;
            let state = FeedState { entry, is_configured, former, heir_of, agreed, ..FeedState::default() };
            FeedState { hold_rounds, is_observed, ..state }
        };
        let source = |(id, parts): (SourceId, SourceParts<C>)| {
            let SourceParts { numbers, counts, beginning, has_begun, counted_by, active_micros } = parts;
            let source = Source::new(counts, beginning);
            let counted_by = counted_by.map(FeedSlot::new);
            (id, Source { numbers, has_begun, counted_by, active_micros, ..source })
        };
        Self {
            feeds: parts.feeds.into_iter().map(feed).collect(),
            sources: parts.sources.into_iter().map(source).collect(),
            addresses: parts.addresses,
            next: parts.next,
            ..Self::default()
        }
    }
}

/// Persistence.
impl<C> Sources<C> {
    /// Whether there is something of feeds and addresses to persist.
    pub fn has_changed(&self) -> bool {
        let is_changed = |state: &FeedState| {
            state.is_changed.is_set() || state.cleared_agreed.is_set() || !state.changed_agreed.is_empty()
        };
        !self.changed_addresses.is_empty() || !self.removed.is_empty() || self.feeds.iter().any(is_changed)
    }

    /// Adds what changed of feeds and addresses and is not acknowledged. `own` returns the counters and the held events of a
    /// feed, if they changed or have to accompany a record.
    pub fn collect(
        &mut self,
        records: &mut Records,
        mut own: impl FnMut(FeedSlot, bool) -> Option<(FeedCounters, Vec<Event<'static>>)>,
    ) {
        records.sources_removed.extend(self.removed.collect().copied());
        let Self { addresses, changed_addresses, .. } = self;
        for address in changed_addresses.collect() {
            let sources = addresses.get(address).cloned().unwrap_or_default();
            records.addresses.push(AddressRecord { address: address.clone(), sources });
        }
        for (index, state) in self.feeds.iter_mut().enumerate() {
            let slot = FeedSlot::new(index);
            let is_changed = state.is_changed.collect();
            if let Some((counters, held_events)) = own(slot, is_changed) {
                records.feeds.push(FeedRecord {
                    slot,
                    entry: state.entry.clone(),
                    is_configured: state.is_configured,
                    counters,
                    source: state.former,
                    heir_of: state.heir_of.clone(),
                    hold_rounds: state.hold_rounds,
                    is_observed: state.is_observed,
                    held_events,
                });
            }
            if state.cleared_agreed.collect() {
                records.agreed_cleared.push(slot);
            }
            let FeedState { agreed, changed_agreed, .. } = state;
            let record = |skill_name: &Arc<str>| {
                let totals = *agreed.get(skill_name)?;
                Some(AgreedRecord { feed: slot, skill_name: skill_name.clone(), totals })
            };
            records.agreed.extend(changed_agreed.collect().filter_map(record));
        }
    }

    /// Nothing of the feeds and addresses is persistent any more.
    pub fn mark_all(&mut self) {
        self.addresses.keys().for_each(|address| self.changed_addresses.mark(address.clone()));
        for FeedState { is_changed, agreed, changed_agreed, .. } in &mut self.feeds {
            is_changed.mark();
            agreed.keys().for_each(|name| changed_agreed.mark(name.clone()));
        }
    }

    /// What was collected last is persistent.
    pub fn acknowledge(&mut self) {
        self.removed.acknowledge();
        self.changed_addresses.acknowledge();
        for state in &mut self.feeds {
            state.is_changed.acknowledge();
            state.cleared_agreed.acknowledge();
            state.changed_agreed.acknowledge();
        }
    }
}
