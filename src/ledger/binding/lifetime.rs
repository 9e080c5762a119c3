//! Sources begin, join, fork and are forgotten.

use super::feed_state::{Binding, FeedState};
use super::{Beginning, Counts, Observation, Outcome, ROUNDS, Source, SourceEvent, Sources};
use crate::ledger::continuity::Room;
use crate::ledger::evidence::Listings;
use crate::ledger::slots::{FeedSlot, SourceId};

/// Sources without a feed that are remembered.
pub(super) const FREE_SOURCES_MAX: usize = 64;

impl<C: Counts> Sources<C> {
    /// Begins a source for a feed, in the place of another at most one in three rounds; `None` where the feed has to wait.
    pub(super) fn begin_source(
        &mut self,
        feed: FeedSlot,
        beginning: Beginning,
        after: Option<SourceId>,
    ) -> Option<SourceId> {
        let state = self.feed_mut(feed);
        if beginning == Beginning::Observed {
            if state.hold_rounds > 0 {
                return None;
            }
            state.hold_rounds = ROUNDS;
            state.is_changed.mark();
        }
        let source = self.add_source(Source { after, ..Source::new(C::new(self.persistence), beginning) });
        self.forget_free_sources(source);
        Some(source)
    }

    pub(super) fn add_source(&mut self, mut source: Source<C>) -> SourceId {
        let id = self.next;
        self.next = id.next();
        // Whatever its feed goes on to send: the feed's record names it.
        source.counts.mark_changed();
        self.sources.insert(id, Source { active_micros: self.wall_micros, ..source });
        id
    }

    /// Forgets the sources without a feed that were active least recently, beyond the limit.
    pub(super) fn forget_free_sources(&mut self, except: SourceId) {
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

    /// Joins the source of `feed` with that of another live feed, if the two turn out to be one.
    pub(super) fn join_if_same(&mut self, feed: FeedSlot, now: &Listings) {
        for index in 0..self.feeds.len() {
            let other = FeedSlot::new(index);
            let (Some(own), Some(others)) = (self.source_of(feed), self.source_of(other)) else { continue };
            if other == feed || own == others || !self.feed(other).is_live {
                continue;
            }
            // Rows tell a copy from the database better than numbers: those of one are read into one source.
            let is_read = |source: &SourceId| self.sources.get(source).is_some_and(|known| known.counts.is_read());
            let are_read = [own, others].iter().all(is_read);
            if (!are_read && self.is_alike(feed, other, now)) || self.is_one_server(feed, other) {
                self.join_sources(feed, own.min(others), own.max(others));
                return;
            }
        }
    }

    pub(super) fn join_sources(&mut self, feed: FeedSlot, older: SourceId, younger: SourceId) {
        let (Some(left), Some(source)) = (self.sources.remove(&younger), self.sources.get_mut(&older)) else { return };
        let Source { numbers, counts, .. } = left;
        let forgotten = source.counts.join(counts, &self.limits);
        let counted_twice = source.numbers.join(numbers, &forgotten);
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

    /// Gives a feed on standby a source of its own, from the last listing of its own that is in the common history.
    pub(super) fn fork(&mut self, feed: FeedSlot, source: SourceId, seen: &Observation<'_>) -> Outcome {
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
        self.void_likeness(feed);
        self.events.push(SourceEvent::Forked { feed, from: source, into: own });
        self.forget_free_sources(own);
        let seen = Observation { room: Room::Unknown, ..seen.clone() };
        self.apply(feed, own, &seen, true)
    }
}
