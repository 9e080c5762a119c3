//! The configuration, which entry is the heir of which, and connections.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::feed_state::{Binding, FeedState};
use super::{Counts, Entry, Sources};
use crate::ledger::dirty::{Dirty, DirtyFlag};
use crate::ledger::evidence::{Listed, Listings};
use crate::ledger::slots::{FeedSlot, SourceId};

/// Entries of past configurations that are remembered.
const PAST_ENTRIES_MAX: usize = 256;

impl<C: Counts> Sources<C> {
    /// Replaces the configuration. Entries that were there before keep their slots. Returns the slot of each entry.
    pub fn configure(&mut self, entries: &[Entry]) -> Vec<FeedSlot> {
        let slots: Vec<FeedSlot> = entries.iter().map(|entry| self.slot_of(entry)).collect();
        let is_kept = |feed: FeedSlot| slots.contains(&feed);
        let all = (0..self.feeds.len()).map(FeedSlot::new);
        let gone: Vec<FeedSlot> = all.filter(|feed| self.feed(*feed).is_configured && !is_kept(*feed)).collect();
        let new: Vec<FeedSlot> = slots.iter().copied().filter(|feed| !self.feed(*feed).is_configured).collect();
        self.inherit(&slots, &gone, &new);
        for feed in gone.iter().copied() {
            self.disconnect(feed);
            self.forget_connection(feed);
            let state = self.feed_mut(feed);
            state.is_configured = false;
            state.is_changed.mark();
            self.left += 1;
            self.feed_mut(feed).left = self.left;
        }
        for feed in new {
            self.forget_connection(feed);
            let state = self.feed_mut(feed);
            state.is_configured = true;
            state.replaces.clone_from(&gone);
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

    /// Takes the entries that left the configuration in the change in which `feed` joined it.
    pub fn take_replaced(&mut self, feed: FeedSlot) -> Vec<FeedSlot> {
        std::mem::take(&mut self.feed_mut(feed).replaces)
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
        let state = FeedState {
            entry: entry.clone(),
            joins: true,
            is_changed: DirtyFlag::NEW,
            changed_agreed: Dirty::new(self.persistence),
            ..FeedState::default()
        };
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
        self.pairs.forget(feed);
        for state in &mut self.feeds {
            state.companions.remove(&feed);
            let was_apart = state.apart.remove(&feed);
            state.is_changed.mark_if(was_apart);
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
        self.forget_connection(feed);
        self.feed_mut(feed).is_live = true;
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

    pub(super) fn disconnect(&mut self, feed: FeedSlot) {
        let state = self.feed_mut(feed);
        state.is_live = false;
        if let Binding::Pending(_) = state.binding {
            state.binding = Binding::Unbound;
        }
        if let Some(source) = self.source_of(feed).and_then(|source| self.sources.get_mut(&source)) {
            source.unset_active(feed);
        }
    }

    /// What a snapshot of `feed` lists, as a value that is shared with its previous snapshot where nothing changed. Names are shared with
    /// that, or with what is remembered of the source. See [`Listings::followed_by`].
    pub fn listings<'a>(
        &self,
        feed: FeedSlot,
        entries: impl ExactSizeIterator<Item = Listed<'a>> + Clone,
    ) -> Arc<Listings> {
        let source = self.expected_source(feed).and_then(|source| self.sources.get(&source));
        let known = |name: &str| source.and_then(|source| source.numbers.name(name)).cloned();
        let share = |name: &str| known(name).unwrap_or_else(|| name.into());
        match self.feed(feed).latest() {
            Some(latest) => latest.followed_by(entries, share),
            None => Arc::new(Listings::default()).followed_by(entries, share),
        }
    }
}
