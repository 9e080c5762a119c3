//! What feeds show of each other: shared timestamps, changes that both made, numbers in which they differ.

use std::sync::Arc;

use super::feed_state::FeedState;
use super::{ALONE_NEEDED, Counts, EVENTS_SHARED_NEEDED, Observation, SHARED_NEEDED, Source, SourceEvent, Sources};
use crate::ledger::continuity::DECISIVE_BITS;
use crate::ledger::evidence::{Listings, Totals};
use crate::ledger::slots::{FeedSlot, SourceId};

impl<C: Counts> Sources<C> {
    /// Counts, for each other live feed, the timestamps in a row that both had.
    pub(super) fn compare_timestamps(&mut self, feed: FeedSlot, seen: &Observation<'_>) {
        let Some(stamp) = seen.stamp.filter(|stamp| stamp.is_evidence()) else { return };
        let recent = &self.feed(feed).recent;
        let is_repeated = recent.iter().rev().skip(1).any(|round| round.stamp == Some(stamp));
        for other in 0..self.feeds.len() {
            let (other, state) = (FeedSlot::new(other), &self.feeds[other]);
            if other == feed || !state.is_live {
                continue;
            }
            let is_delivering = state.is_delivering(seen.now);
            let shared = state.recent.iter().find(|round| round.stamp == Some(stamp));
            let own = self.feed(feed).recent.back();
            match shared.zip(own).map(|(shared, own)| shared.is_of_one_broadcast(own)) {
                Some(false) => self.set_apart(feed, other),
                _ if is_repeated => {}
                Some(true) => {
                    for (this, that) in [(feed, other), (other, feed)] {
                        self.feed_mut(this).companions.entry(that).or_default().alone = 0;
                    }
                    let pair = self.pairs.get_mut(feed, other);
                    pair.timestamps += 1;
                    if pair.timestamps == SHARED_NEEDED {
                        self.unite(feed, other);
                    }
                }
                None if is_delivering => {
                    let companion = self.feed_mut(feed).companions.entry(other).or_default();
                    companion.alone += 1;
                    if companion.alone > ALONE_NEEDED {
                        self.set_apart(feed, other);
                    }
                }
                None => {}
            }
        }
    }

    /// Two feeds are not of one server, whatever timestamps they shared.
    fn set_apart(&mut self, feed: FeedSlot, other: FeedSlot) {
        self.pairs.get_mut(feed, other).timestamps = 0;
        for (this, that) in [(feed, other), (other, feed)] {
            let state = self.feed_mut(this);
            let is_new = state.apart.insert(that);
            state.is_changed.mark_if(is_new);
        }
    }

    /// Two feeds are of one server, whatever was known of them.
    fn unite(&mut self, feed: FeedSlot, other: FeedSlot) {
        for (this, that) in [(feed, other), (other, feed)] {
            let state = self.feed_mut(this);
            let is_new = state.apart.remove(&that);
            state.is_changed.mark_if(is_new);
        }
        self.events.push(SourceEvent::OneServer { feed, other });
    }

    /// Two feeds streamed the same event.
    pub fn record_shared_event(&mut self, feed: FeedSlot, other: FeedSlot) {
        let pair = self.pairs.get_mut(feed, other);
        pair.events = pair.events.saturating_add(1);
        if pair.events == EVENTS_SHARED_NEEDED && self.shares_server(feed, other) == Some(true) {
            self.events.push(SourceEvent::OneServer { feed, other });
        }
    }

    /// A feed lists another database than those that were compared with it: what both changed alike until now proves nothing
    /// any more. Totals that were taken into account are not taken again.
    pub(super) fn void_likeness(&mut self, feed: FeedSlot) {
        for (index, state) in self.feeds.iter_mut().enumerate() {
            let is_of_feed = |other: &FeedSlot| index == feed.index() || *other == feed;
            let companions = state.companions.iter_mut().filter(|(other, _)| is_of_feed(other));
            companions.for_each(|(_, companion)| companion.alike_bits = 0.0);
        }
    }

    /// Whether both feeds made changes alike under watch that decide: a copy of a database cannot do that.
    pub(super) fn is_alike(&mut self, feed: FeedSlot, other: FeedSlot, now: &Listings) -> bool {
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
                let mut late = that.recent.iter().filter_map(|round| round.listings.get(name));
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

    /// Whether two feeds differ in a round: a skill contradicts, or one lists less than the other listed a while ago.
    pub(super) fn differs(&self, feed: FeedSlot, active: FeedSlot, source: SourceId, seen: &Observation<'_>) -> bool {
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

    /// Whether the feed, its address or the feed that it replaced was bound to a source before.
    fn was_its_own(&self, feed: FeedSlot, source: SourceId) -> bool {
        let state = self.feed(feed);
        let of_address = self.addresses.get(&state.entry.address);
        state.source().or(state.former) == Some(source)
            || state.heir_of.contains(&source)
            || of_address.is_some_and(|known| known.contains(&source))
    }

    /// Bits of evidence that a pending feed lists a source: those of its present snapshot or, unless that contradicts, of one of
    /// the snapshots before it. What it listed a moment ago, another feed may have listed since.
    pub(super) fn strength_of_pending(&self, feed: FeedSlot, source: SourceId, seen: &Observation<'_>) -> f64 {
        let present = self.strength(feed, source, seen);
        let is_contradicted = |known: &Source<C>| known.numbers.is_contradicted(&seen.listings, seen.room);
        if self.sources.get(&source).is_none_or(is_contradicted) {
            return present;
        }
        let before = self.feed(feed).recent.iter().map(|round| {
            let listings = Arc::clone(&round.listings);
            self.strength(feed, source, &Observation { listings, ..seen.clone() })
        });
        before.fold(present, f64::max)
    }

    /// Bits of evidence that a snapshot is of a source.
    pub(super) fn strength(&self, feed: FeedSlot, source: SourceId, seen: &Observation<'_>) -> f64 {
        let Some(known) = self.sources.get(&source) else { return 0.0 };
        let others = self.feeds_of(source).filter(|other| *other != feed);
        let others: Vec<&FeedState> = others.map(|other| self.feed(other)).collect();
        let recent = others.iter().flat_map(|other| other.recent.iter().map(|round| &*round.listings));
        let was_its_own = self.was_its_own(feed, source);
        known.numbers.strength(&seen.listings, recent, was_its_own) + known.counts.anomaly_bits(seen.anomalies)
    }
}
