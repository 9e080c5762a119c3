//! Sources of feeds with a database, and of feeds that send no snapshots.

use std::time::Duration;

use hashbrown::HashMap;

use super::feed_state::{Binding, FeedState};
use super::{Beginning, Counts, EVENTS_SHARED_NEEDED, Observation, Source, SourceEvent, Sources};
use crate::ledger::continuity::{Continuity, DECISIVE_BITS, Judgement};
use crate::ledger::evidence::Listings;
use crate::ledger::slots::{FeedSlot, SourceId};

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
        self.events.push(SourceEvent::Settled { feed, source });
        self.announce_rows(feed, source);
        Some(source)
    }

    /// A feed that is not bound, and never was, streams what `source` knows.
    pub fn adopt_from(&mut self, feed: FeedSlot, source: SourceId) {
        if self.expected_source(feed).is_none() && self.sources.contains_key(&source) {
            let state = self.feed_mut(feed);
            state.former = Some(source);
            state.is_changed.mark();
        }
    }

    /// A feed of `source` that sends no snapshots streams an event that `other` knows. Two make both one source. Returns
    /// whether it did.
    pub fn share_event(&mut self, feed: FeedSlot, source: SourceId, other: SourceId, is_invocation: bool) -> bool {
        let shared = self.feed_mut(feed).shared_events.entry(other).or_default();
        shared.events += 1;
        if shared.events < EVENTS_SHARED_NEEDED {
            shared.invocations += u64::from(is_invocation);
            return false;
        }
        let counted_twice = shared.invocations;
        self.join_sources(feed, source.min(other), source.max(other));
        if let Some(SourceEvent::Joined { counted_twice: known, .. }) = self.events.last_mut() {
            *known = known.saturating_add(counted_twice);
        }
        true
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

    pub(super) fn announce_rows(&mut self, feed: FeedSlot, source: SourceId) {
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
        let expects = |other: &FeedSlot| self.feed(*other).source().or(self.feed(*other).former) == Some(source);
        self.live_feeds().find(expects).is_none_or(|first| first == feed)
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
        self.record_address(feed, source);
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

    /// Moves the numbers of a source to what its database holds. Returns the source, which is another one if the database is
    /// another, unless it `is_known` by its rows; the steps are in [`Sources::steps`].
    pub fn advance_to(
        &mut self,
        feed: FeedSlot,
        source: SourceId,
        held: &Observation<'_>,
        is_known: bool,
        wall_micros: i64,
    ) -> Option<SourceId> {
        self.wall_micros = wall_micros;
        self.steps.clear();
        let mut judged = self.judge_database(feed, source, held)?;
        if is_known {
            judged = judged.of_same_database();
        }
        let mut after = source;
        if judged.continuity == Continuity::Another {
            let fell = self.sources.get(&source)?.numbers.fallen(&held.listings, held.room);
            after = self.replace(feed, source)?;
            self.events.push(SourceEvent::Another { feed, fell });
            judged = Judgement { continuity: Continuity::Follows, doubt: None };
        }
        self.accept(feed, after, held, judged);
        self.sources.get_mut(&after)?.has_begun = true;
        Some(after)
    }

    /// What the numbers of the database beside `feed` are to a source. What the feed lists itself is no evidence: it shows that
    /// the database is the feed's.
    pub fn judge_database(&self, feed: FeedSlot, source: SourceId, held: &Observation<'_>) -> Option<Judgement> {
        let known = self.sources.get(&source)?;
        let others = self.feeds_of(source).filter(|other| *other != feed);
        let live: Vec<&FeedState> = others.map(|other| self.feed(other)).collect();
        let recent = live.iter().flat_map(|other| other.recent.iter().map(|round| &*round.listings));
        let strength = || known.numbers.strength(&held.listings, recent, true);
        Some(known.numbers.judge(&held.listings, held.room, strength))
    }

    /// Moves the numbers of a source, of which every row was read, to what its database holds. Where it `is_known`
    /// by its rows, no doubt is left that it is the same database. The steps are in [`Sources::steps`].
    pub fn follow_database(
        &mut self,
        feed: FeedSlot,
        source: SourceId,
        held: &Observation<'_>,
        is_known: bool,
        wall_micros: i64,
    ) {
        self.wall_micros = wall_micros;
        self.steps.clear();
        let Some(judged) = self.judge_database(feed, source, held) else { return };
        self.accept(feed, source, held, if is_known { judged.of_same_database() } else { judged.of_this_source() });
    }

    /// Begins a source in the place of another: the database that `feed` reads is another one. The feeds of its server go
    /// with it. Returns the new source; `None` where the feed has begun one within its last snapshots, and has to wait.
    pub fn replace(&mut self, feed: FeedSlot, old: SourceId) -> Option<SourceId> {
        let source = self.begin_source(feed, Beginning::Observed, Some(old))?;
        for other in self.server_feeds(feed, old) {
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
