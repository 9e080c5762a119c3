//! Binding a feed to a source, and releasing it.

use super::feed_state::{Binding, Pending};
use super::{Beginning, Counts, Observation, Outcome, SourceEvent, Sources};
use crate::ledger::continuity::Room;
use crate::ledger::evidence::{Listings, Totals};
use crate::ledger::slots::{FeedSlot, SourceId};

/// Sources that an address is remembered to have led to.
const SOURCES_PER_ADDRESS_MAX: usize = 16;

impl<C: Counts> Sources<C> {
    pub(super) fn bind(&mut self, feed: FeedSlot, source: SourceId, now: &Listings) {
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
        self.record_address(feed, source);
        if let Some(source) = self.sources.get_mut(&source) {
            source.active_micros = wall_micros;
        }
        if former.is_some() {
            self.void_likeness(feed);
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
        self.events.push(SourceEvent::Settled { feed, source });
        if is_other {
            self.events.push(SourceEvent::Bound { feed, source });
        }
        self.announce_rows(feed, source);
        self.agree(feed, source, now);
    }

    pub(super) fn record_address(&mut self, feed: FeedSlot, source: SourceId) {
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
    pub(super) fn agree(&mut self, feed: FeedSlot, source: SourceId, now: &Listings) {
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

    /// The feed lists another database: it, and every feed of the same server, is unbound and bound again; the old source
    /// keeps its memory.
    pub(super) fn replace_source(&mut self, feed: FeedSlot, old: SourceId, seen: &Observation<'_>) -> Outcome {
        let fell = self.sources[&old].numbers.fallen(&seen.listings, seen.room);
        self.events.push(SourceEvent::Another { feed, fell });
        let is_read = self.sources[&old].counts.is_read();
        for other in self.server_feeds(feed, old) {
            self.unbind(other);
            self.void_likeness(other);
            let state = self.feed_mut(other);
            state.awaits_rows |= state.has_rows && is_read;
            // Whichever of them is bound first: what the new source holds has happened since.
            state.observe_next();
        }
        if seen.listings.is_empty() {
            return Outcome::Pending;
        }
        self.feed_mut(feed).binding = Binding::Pending(Pending { rounds: 1, since: seen.now, awaits_others: false });
        let has_others = self.live_feeds().any(|other| other != feed && self.source_of(other) != Some(old));
        let found = self.choose_replacement(feed, old, seen);
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
}
