//! Which source a feed belongs to that is not bound. Rule 3.2 of `docs/explanation/translation.md`.

use std::time::Duration;

use super::feed_state::{FeedState, Pending};
use super::{Beginning, Counts, Entry, Observation, ROUNDS, Sources};
use crate::ledger::continuity::{Continuity, DECISIVE_BITS, FORMER_BITS};
use crate::ledger::slots::{FeedSlot, SourceId};

/// How long a feed that would begin a source waits for configured feeds that are not connected: they may show that it is
/// another address of a server that is known.
const CONNECTION_PATIENCE: Duration = Duration::from_secs(5);

impl<C: Counts> Sources<C> {
    /// The source that a pending feed belongs to, which is made if nobody else can be it; `None` while it is open.
    pub(super) fn choose_source(
        &mut self,
        feed: FeedSlot,
        seen: &Observation<'_>,
        pending: Pending,
        is_last: bool,
    ) -> Option<SourceId> {
        let others: Vec<FeedSlot> = self.live_feeds().filter(|other| *other != feed).collect();
        for other in others.iter().filter(|other| self.feed(**other).latest().is_some()).copied().collect::<Vec<_>>() {
            // Also while the other is pending, too: what both change alike until it is bound is evidence.
            let is_alike = self.is_alike(feed, other, &seen.listings);
            if let Some(source) = self.source_of(other).filter(|_| is_alike || self.is_one_server(feed, other)) {
                return Some(source);
            }
        }
        let former = self.former(feed);
        let strengths: Vec<(f64, SourceId)> =
            self.sources.keys().map(|source| (self.strength_of_pending(feed, *source, seen), *source)).collect();
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
        let gone = self.companions(feed).filter(|other| !self.feed(*other).is_live);
        let of_server = gone.filter_map(|other| self.source_of(other));
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
        // evidence. Of the feeds of one server it does not matter which is bound first.
        let is_filtered = self.feed(feed).entry.filter.is_some();
        let is_of_server = |heir: FeedSlot| heir == feed || self.is_one_server(feed, heir);
        let heirs: Vec<FeedSlot> = self.live_feeds().filter(|heir| is_of_server(*heir)).collect();
        let is_inherited = |(bits, source): &&(f64, SourceId)| {
            heirs.iter().any(|heir| self.feed(*heir).heir_of.contains(source))
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

    /// The source that has taken the place of `old`: one that a companion has just found, or a former one.
    pub(super) fn choose_replacement(&self, feed: FeedSlot, old: SourceId, seen: &Observation<'_>) -> Option<SourceId> {
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

    /// Whether a feed that has been pending since `since` has to wait for one that is configured and not connected: it may
    /// be the server of that one by another address, of which its numbers alone show too little. Where there is no source
    /// yet, whoever comes later is compared with this feed.
    pub(super) fn awaits_others(&self, feed: FeedSlot, now: Duration, since: Duration) -> bool {
        let is_missing =
            |(index, state): (usize, &FeedState)| index != feed.index() && state.is_configured && !state.is_live;
        !self.sources.is_empty()
            && !self.feed(feed).is_observed
            && now.saturating_sub(since) < CONNECTION_PATIENCE
            && self.feeds.iter().enumerate().any(is_missing)
    }

    /// The source that a feed's entry, its address or its name was last bound to. Those of address and name only if nobody
    /// with another address lists them.
    pub(super) fn former(&self, feed: FeedSlot) -> Option<SourceId> {
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
}
