//! Which events were applied already.

use std::collections::{BTreeMap, VecDeque};
use std::hash::BuildHasher as _;
use std::sync::Arc;

use hashbrown::{DefaultHashBuilder, HashTable};

use super::records::EventIdRecord;
use super::slots::{FeedSlot, SourceId};

/// How far a sender's clock may be ahead of ours.
const AHEAD_MAX_MICROS: i64 = 3600 * 1_000_000;

/// An event that was applied.
#[derive(Debug, Clone)]
struct AppliedEvent {
    id: Arc<str>,
    /// The feed that streamed it.
    sender: FeedSlot,
    /// The sender's time, in microseconds since the Unix epoch.
    sent_micros: Option<i64>,
    /// That of `id`.
    hash: u64,
}

/// The latest event identifiers of a source.
///
/// A server gives identifiers, and several servers can serve one source. So an identifier that another server gave at another
/// time is of another event; one that has the same time is of the same event, whoever streams it.
///
/// Invariant: an event is applied at most once. What would break it is a repetition that comes after its identifier was
/// forgotten; so whatever is not newer than the newest event ever forgotten is refused as stale.
#[derive(Debug, Default)]
pub(super) struct EventIds {
    /// In the order of arrival. No feed has two of one identifier.
    order: VecDeque<AppliedEvent>,
    /// The sequence numbers of those in `order`, by the hashes of their identifiers.
    known: HashTable<u64>,
    hasher: DefaultHashBuilder,
    /// How many of them each feed has streamed.
    senders: BTreeMap<FeedSlot, usize>,
    newest_forgotten_micros: Option<i64>,
    /// The sequence number of the front of `order`; the others follow without a gap.
    first: u64,
    /// Identifiers below this sequence number are persistent, and those below the next one once it is acknowledged.
    persistent: u64,
    in_flight: u64,
}

/// Whether an event was seen before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Seen {
    First,
    /// The feed has streamed it.
    Duplicate,
    /// Another feed has streamed it.
    Relayed,
    /// Another event of this server had this identifier, to go by the times of both: the sender gives identifiers again.
    Reused,
    /// Unknown, but from a time of which identifiers were forgotten.
    TooOld,
}

impl EventIds {
    /// Whether an event was seen before that `sender` streams. `is_one_server` tells which feeds are of the sender's server.
    pub fn seen(
        &self,
        id: &str,
        sent_micros: Option<i64>,
        sender: FeedSlot,
        is_one_server: impl Fn(FeedSlot) -> bool,
    ) -> Seen {
        let (mut is_relayed, mut is_reused) = (false, false);
        let hash = self.hasher.hash_one(id);
        for other in self.senders.keys().copied() {
            let Some(AppliedEvent { sent_micros: known, .. }) = self.find(hash, id, other) else { continue };
            if known.zip(sent_micros).is_none_or(|(known, sent)| known == sent) {
                if other == sender {
                    return Seen::Duplicate;
                }
                is_relayed = true;
                continue;
            }
            is_reused |= other == sender || is_one_server(other);
        }
        match is_reused {
            _ if is_relayed => Seen::Relayed,
            true => Seen::Reused,
            false if sent_micros.is_some() && sent_micros <= self.newest_forgotten_micros => Seen::TooOld,
            false => Seen::First,
        }
    }

    /// Whether an event with this identifier and this time was streamed.
    pub fn has(&self, id: &str, sent_micros: i64) -> bool {
        let hash = self.hasher.hash_one(id);
        self.senders.keys().any(|sender| self.has_sent(hash, id, sent_micros, *sender))
    }

    /// The feeds that streamed an event with this identifier and this time.
    pub fn senders(&self, id: &str, sent_micros: i64) -> Vec<FeedSlot> {
        let hash = self.hasher.hash_one(id);
        self.senders.keys().copied().filter(|sender| self.has_sent(hash, id, sent_micros, *sender)).collect()
    }

    fn has_sent(&self, hash: u64, id: &str, sent_micros: i64, sender: FeedSlot) -> bool {
        self.find(hash, id, sender).is_some_and(|known| known.sent_micros == Some(sent_micros))
    }

    /// The event with this identifier, which has this hash, that `sender` streamed.
    fn find(&self, hash: u64, id: &str, sender: FeedSlot) -> Option<&AppliedEvent> {
        let sequence = self.known.find(hash, |sequence| {
            let known = &self.order[index(*sequence, self.first)];
            known.sender == sender && *known.id == *id
        })?;
        Some(&self.order[index(*sequence, self.first)])
    }

    /// Remembers the identifier of an event that was applied, and forgets the oldest beyond `ids_max`. A sender's time that
    /// lies ahead of `now_micros` by more than an hour is as good as none: once forgotten, it would make everything stale
    /// until then.
    pub fn remember(
        &mut self,
        id: Arc<str>,
        sent_micros: Option<i64>,
        sender: FeedSlot,
        now_micros: i64,
        ids_max: usize,
    ) {
        let sent_micros = sent_micros.filter(|sent| sent.saturating_sub(now_micros) <= AHEAD_MAX_MICROS);
        let hash = self.hasher.hash_one(&*id);
        let known = self.known.find(hash, |sequence| {
            let known = &self.order[index(*sequence, self.first)];
            known.sender == sender && *known.id == *id
        });
        match known {
            Some(sequence) => self.order[index(*sequence, self.first)].sent_micros = sent_micros,
            None => self.push(AppliedEvent { id, sender, sent_micros, hash }),
        }
        while self.order.len() > ids_max {
            self.forget_oldest();
        }
    }

    fn push(&mut self, event: AppliedEvent) {
        *self.senders.entry(event.sender).or_default() += 1;
        let Self { order, known, first, .. } = self;
        let hash = event.hash;
        order.push_back(event);
        let sequence = *first + (order.len() as u64 - 1);
        known.insert_unique(hash, sequence, |sequence| order[index(*sequence, *first)].hash);
    }

    fn forget_oldest(&mut self) {
        let Some(forgotten) = self.order.pop_front() else { return };
        if let Ok(known) = self.known.find_entry(forgotten.hash, |sequence| *sequence == self.first) {
            known.remove();
        }
        if let Some(left) = self.senders.get_mut(&forgotten.sender) {
            *left -= 1;
            if *left == 0 {
                self.senders.remove(&forgotten.sender);
            }
        }
        self.first += 1;
        self.newest_forgotten_micros = self.newest_forgotten_micros.max(forgotten.sent_micros);
    }
}

/// The index in `order` of a sequence number, where that of the front is `first`.
fn index(sequence: u64, first: u64) -> usize {
    (sequence - first) as usize
}

impl EventIds {
    pub fn first(&self) -> u64 {
        self.first
    }

    pub fn newest_forgotten_micros(&self) -> Option<i64> {
        self.newest_forgotten_micros
    }

    /// The identifiers that were added and are not acknowledged.
    pub fn collect(&mut self, source: SourceId) -> Vec<EventIdRecord> {
        let from = self.persistent.max(self.first);
        self.in_flight = self.first + self.order.len() as u64;
        let new = self.order.iter().skip(usize::try_from(from - self.first).unwrap_or(usize::MAX));
        new.zip(from..)
            .map(|(AppliedEvent { id, sender, sent_micros, .. }, sequence)| EventIdRecord {
                source,
                sequence,
                id: id.clone(),
                sender: *sender,
                sent_micros: *sent_micros,
            })
            .collect()
    }

    /// Nothing of it is persistent any more.
    pub fn mark_all(&mut self) {
        self.persistent = self.first;
    }

    /// What was collected last is persistent.
    pub fn acknowledge(&mut self) {
        self.persistent = self.in_flight;
    }

    pub fn has_new(&self) -> bool {
        self.persistent.max(self.first) < self.first + self.order.len() as u64
    }

    /// Adds the identifiers that another source knew, which turned out to be the same.
    /// The oldest beyond `ids_max` are forgotten.
    pub fn join(&mut self, other: Self, ids_max: usize) {
        for AppliedEvent { id, sender, sent_micros, .. } in other.order {
            self.remember(id, sent_micros, sender, i64::MAX, ids_max);
        }
        self.newest_forgotten_micros = self.newest_forgotten_micros.max(other.newest_forgotten_micros);
    }

    /// What was persisted; `rows` are in order.
    pub fn restore(first: u64, newest_forgotten_micros: Option<i64>, rows: Vec<EventIdRecord>) -> Self {
        let first = rows.first().map_or(first, |row| row.sequence);
        let persistent = first + rows.len() as u64;
        let mut ids = Self { first, persistent, in_flight: persistent, newest_forgotten_micros, ..Self::default() };
        for EventIdRecord { id, sender, sent_micros, .. } in rows {
            let hash = ids.hasher.hash_one(&*id);
            ids.push(AppliedEvent { id, sender, sent_micros, hash });
        }
        ids
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SENDER: FeedSlot = FeedSlot::from_number(0);
    const OTHER: FeedSlot = FeedSlot::from_number(1);

    fn seen(ids: &EventIds, id: &str, sent_micros: Option<i64>) -> Seen {
        ids.seen(id, sent_micros, SENDER, |_| false)
    }

    #[test]
    fn forgotten_events_are_stale_and_later_ones_are_new() {
        let mut ids = EventIds::default();
        for (id, sent) in [("a", Some(10)), ("b", Some(5)), ("c", Some(30))] {
            assert_eq!(seen(&ids, id, sent), Seen::First);
            ids.remember(id.into(), sent, SENDER, 0, 1);
        }
        assert_eq!(seen(&ids, "c", Some(30)), Seen::Duplicate);
        assert_eq!(seen(&ids, "a", Some(10)), Seen::TooOld);
        assert_eq!(seen(&ids, "b", Some(5)), Seen::TooOld);
        assert_eq!(seen(&ids, "d", Some(11)), Seen::First);
        assert_eq!(seen(&ids, "e", None), Seen::First);
    }

    #[test]
    fn an_identifier_with_another_time_is_reused_and_one_with_the_same_is_a_duplicate() {
        let mut ids = EventIds::default();
        ids.remember("1".into(), Some(10), SENDER, 10, 9);
        assert_eq!(seen(&ids, "1", Some(10)), Seen::Duplicate, "the server sent it again");
        assert_eq!(seen(&ids, "1", None), Seen::Duplicate);
        assert_eq!(seen(&ids, "1", Some(99)), Seen::Reused, "the server began to number again");
    }

    #[test]
    fn a_time_far_ahead_makes_nothing_stale() {
        let mut ids = EventIds::default();
        ids.remember("a".into(), Some(2 * AHEAD_MAX_MICROS), SENDER, 0, 1);
        ids.remember("b".into(), Some(10), SENDER, 0, 1);
        assert_eq!(seen(&ids, "c", Some(20)), Seen::First);
    }

    #[test]
    fn an_identifier_belongs_to_the_server_that_gave_it() {
        let mut ids = EventIds::default();
        ids.remember("1".into(), Some(10), SENDER, 10, 9);
        assert_eq!(ids.seen("1", Some(99), OTHER, |_| false), Seen::First, "another server counts from 1, too");
        assert_eq!(ids.seen("1", Some(99), OTHER, |_| true), Seen::Reused, "another address of the same server");
        assert_eq!(ids.seen("1", Some(10), OTHER, |_| false), Seen::Relayed, "the same event by another address");
        ids.remember("1".into(), Some(99), OTHER, 99, 9);
        assert_eq!([seen(&ids, "1", Some(10)), seen(&ids, "1", Some(99))], [Seen::Duplicate, Seen::Relayed]);
        ids.remember("2".into(), Some(100), OTHER, 100, 2);
        assert_eq!(seen(&ids, "1", Some(10)), Seen::TooOld, "forgotten");
        assert_eq!(ids.senders.keys().collect::<Vec<_>>(), [&OTHER]);
    }
}
