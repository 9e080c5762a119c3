//! One feed: what it listed lately, and which source it is bound to.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use hashbrown::HashMap;

use super::vocabulary::{Entry, Observation};
use super::{PATIENCE, ROUNDS};
use crate::ledger::continuity::Room;
use crate::ledger::dirty::{Dirty, DirtyFlag};
use crate::ledger::evidence::{Listings, Totals};
use crate::ledger::server_time::Stamp;
use crate::ledger::slots::{FeedSlot, SourceId};

/// Snapshots of a feed that others are compared with: those of one round reach all clients within less than that many.
const RECENT_MAX: usize = 4;

/// Listings closer together than this are one in the timeline of a feed.
const TIMELINE_STEP: Duration = Duration::from_millis(250);

/// Rounds, and since when.
#[derive(Debug, Clone, Copy)]
pub(super) struct Streak {
    pub rounds: u32,
    pub since: Duration,
}

impl Streak {
    /// One round more. Whether it has lasted.
    pub fn extend(streak: &mut Option<Self>, now: Duration) -> bool {
        let streak = streak.get_or_insert(Self { rounds: 0, since: now });
        streak.rounds += 1;
        streak.rounds >= ROUNDS && now.saturating_sub(streak.since) >= PATIENCE
    }
}

/// A snapshot of late.
#[derive(Debug)]
pub(super) struct Round {
    pub stamp: Option<Stamp>,
    pub listings: Arc<Listings>,
    /// Whether it lists all that the server sent: it is of all skills, and each entry was accepted.
    is_whole: bool,
}

impl Round {
    /// Whether one server can have sent both of these in one round: it makes one list and sends it to all, to some of them
    /// one skill of it.
    pub fn is_of_one_broadcast(&self, other: &Self) -> bool {
        let (now, then) = (&*self.listings, &*other.listings);
        let common = now.common(then).count();
        now.common(then).all(|(_, own, others)| own.is_same(others))
            && (!self.is_whole || common == then.len())
            && (!other.is_whole || common == now.len())
    }
}

/// What a feed listed for a while.
#[derive(Debug)]
pub(super) struct Span {
    pub from: Duration,
    pub listings: Arc<Listings>,
}

/// What a feed has seen of another.
#[derive(Debug, Default)]
pub(super) struct Companion {
    /// Rounds in a row of the feed of which the other had no timestamp.
    pub alone: u32,
    /// Bits of the changes that both made alike under watch, and the totals that were taken into account.
    pub alike_bits: f64,
    pub alike: HashMap<Arc<str>, u64>,
}

/// Events that a feed streamed and that another source knows.
#[derive(Debug, Default)]
pub(super) struct SharedEvents {
    pub events: u32,
    /// Invocations among them. Both sources have counted them.
    pub invocations: u64,
}

#[derive(Debug, Default)]
pub(super) enum Binding {
    #[default]
    Unbound,
    Pending(Pending),
    Bound(SourceId),
}

/// A feed of which it is not known yet whose numbers it lists.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pending {
    /// Snapshots in which it was compared with the feeds that are connected.
    pub rounds: u32,
    /// When the first of them arrived.
    pub since: Duration,
    /// Whether it waits for feeds that are not connected.
    pub awaits_others: bool,
}

#[derive(Debug, Default)]
pub(super) struct FeedState {
    pub entry: Entry,
    pub is_configured: bool,
    /// Whether it is about to join the configuration.
    pub joins: bool,
    /// How many had left the configuration in this process when it did.
    pub left: u64,
    pub is_live: bool,
    pub binding: Binding,
    /// The source that this entry was last bound to. Persistent.
    pub former: Option<SourceId>,
    /// Sources of entries that left the configuration in the change in which this one joined it. Persistent.
    pub heir_of: Vec<SourceId>,
    /// Entries that left the configuration in that change, until it is bound.
    pub replaces: Vec<FeedSlot>,
    /// The last listing of its own that is in the source's history, by skill. Persistent.
    pub agreed: HashMap<Arc<str>, Totals>,
    pub changed_agreed: Dirty<Arc<str>>,
    pub cleared_agreed: DirtyFlag,
    /// Whether all of the latest listing is in `agreed`.
    pub is_agreed: bool,
    /// Sources of another database than some snapshot of it listed while it was pending.
    pub refuted: BTreeSet<SourceId>,
    pub first: Option<Arc<Listings>>,
    pub recent: VecDeque<Round>,
    pub timeline: VecDeque<Span>,
    pub received_at: Option<Duration>,
    pub companions: HashMap<FeedSlot, Companion>,
    /// Feeds that are of other servers, as their timestamps showed when both were connected. Persistent.
    pub apart: BTreeSet<FeedSlot>,
    /// What it streamed that another source knows.
    pub shared_events: HashMap<SourceId, SharedEvents>,
    pub differing: Option<Streak>,
    pub behind: Option<Streak>,
    /// Snapshots before it may begin another source in the place of one. Persistent.
    pub hold_rounds: u32,
    /// Whether what its next source holds happened while it was observed: it lists another database than before, or listed
    /// none of its skills. Persistent.
    pub is_observed: bool,
    /// Whether a database is configured for it, and whether its source has yet to learn that it is about to be read.
    pub has_rows: bool,
    pub awaits_rows: bool,
    pub is_changed: DirtyFlag,
}

impl FeedState {
    pub fn latest(&self) -> Option<&Arc<Listings>> {
        self.recent.back().map(|round| &round.listings)
    }

    pub fn previous(&self) -> Option<&Arc<Listings>> {
        self.recent.len().checked_sub(2).map(|index| &self.recent[index].listings)
    }

    pub fn source(&self) -> Option<SourceId> {
        match self.binding {
            Binding::Bound(source) => Some(source),
            Binding::Unbound | Binding::Pending(_) => None,
        }
    }

    /// The source whose rates it shows: the one that it is, or was last, bound to, while it is configured.
    #[inline]
    pub fn covered(&self) -> Option<SourceId> {
        self.is_configured.then(|| self.source().or(self.former)).flatten()
    }

    pub fn is_delivering(&self, now: Duration) -> bool {
        self.is_live && self.received_at.is_some_and(|at| now.saturating_sub(at) <= PATIENCE)
    }

    /// What was listed [`PATIENCE`] ago, and not before `since`.
    pub fn earlier(&self, now: Duration, since: Option<Duration>) -> Option<&Listings> {
        let then = now.checked_sub(PATIENCE).filter(|then| since.is_none_or(|since| *then >= since))?;
        self.timeline.iter().rev().find(|span| span.from <= then).map(|span| &*span.listings)
    }

    pub fn clear_agreed(&mut self) {
        self.agreed.clear();
        self.changed_agreed.clear();
        self.cleared_agreed.mark();
    }

    pub fn forget_connection(&mut self) {
        self.binding = Binding::Unbound;
        self.refuted.clear();
        self.first = None;
        self.recent.clear();
        self.timeline.clear();
        self.received_at = None;
        self.companions.clear();
        self.shared_events.clear();
        self.differing = None;
        self.behind = None;
        self.is_agreed = false;
    }

    /// Whether its latest snapshot has a timestamp that shows who else is of its server.
    pub fn has_stamps(&self) -> bool {
        let stamp = self.recent.back().and_then(|round| round.stamp);
        stamp.is_some_and(|stamp| stamp.is_evidence())
    }

    pub fn observe_next(&mut self) {
        if !std::mem::replace(&mut self.is_observed, true) {
            self.is_changed.mark();
        }
    }

    pub fn receive(&mut self, seen: &Observation<'_>) {
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
        let is_whole = seen.room != Room::Unknown;
        self.recent.push_back(Round { stamp: seen.stamp, listings: Arc::clone(&seen.listings), is_whole });
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
