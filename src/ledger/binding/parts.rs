//! What of feeds and sources outlives a process.

use std::collections::BTreeMap;
use std::sync::Arc;

use hashbrown::HashMap;

use crate::protocol::Event;

use super::feed_state::FeedState;
use super::{Beginning, Counts, Entry, Source, Sources};
use crate::ledger::continuity::SourceNumbers;
use crate::ledger::dirty::Persistence;
use crate::ledger::evidence::Totals;
use crate::ledger::records::{AddressRecord, AgreedRecord, FeedRecord, Records};
use crate::ledger::series::FeedCounters;
use crate::ledger::slots::{FeedSlot, SourceId};

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
    /// Feeds that are of other servers.
    pub apart: Vec<FeedSlot>,
}

/// What of a feed that is not of its binding is persisted with it.
#[derive(Debug)]
pub struct OwnParts {
    /// Its counters.
    pub counters: FeedCounters,
    /// Events that it streamed while it was not known whose they are.
    pub held_events: Vec<Event<'static>>,
    /// When its server last reported sessions, in microseconds since the Unix epoch.
    pub sessions_reported_micros: Option<i64>,
    /// The sessions that its server last reported as a number, less those that closed since.
    pub sessions_count: u64,
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
            let FeedParts { entry, is_configured, former, heir_of, agreed, hold_rounds, is_observed, apart } = parts;
            let state = FeedState { entry, is_configured, former, heir_of, agreed, ..FeedState::default() };
            FeedState { hold_rounds, is_observed, apart: apart.into_iter().collect(), ..state }
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
            ..Self::new(Persistence::StateFile)
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

    /// Adds what changed of feeds and addresses and is not acknowledged. `own` returns what else of a feed is
    /// persisted, if it changed or has to accompany a record.
    pub fn collect(&mut self, records: &mut Records, mut own: impl FnMut(FeedSlot, bool) -> Option<OwnParts>) {
        records.sources_removed.extend(self.removed.collect().copied());
        let Self { addresses, changed_addresses, .. } = self;
        for address in changed_addresses.collect() {
            let sources = addresses.get(address).cloned().unwrap_or_default();
            records.addresses.push(AddressRecord { address: address.clone(), sources });
        }
        for (index, state) in self.feeds.iter_mut().enumerate() {
            let slot = FeedSlot::new(index);
            let is_changed = state.is_changed.collect();
            if let Some(own) = own(slot, is_changed) {
                let OwnParts { counters, held_events, sessions_reported_micros, sessions_count } = own;
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
                    apart: state.apart.iter().copied().collect(),
                    sessions_reported_micros,
                    sessions_count,
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
