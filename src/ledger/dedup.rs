//! Which events were applied already.

use std::collections::VecDeque;
use std::sync::Arc;

use hashbrown::HashMap;

use super::records::EventIdRecord;
use super::slots::SourceId;

/// How far a sender's clock may be ahead of ours.
const AHEAD_MAX_MICROS: i64 = 3600 * 1_000_000;

/// The latest event identifiers of a source.
///
/// Invariant: an event is applied at most once. What would break it is a repetition that comes after its identifier was
/// forgotten; so whatever is not newer than the newest event ever forgotten is refused as stale.
#[derive(Debug, Default)]
pub(super) struct EventIds {
    /// With the sender's time.
    known: HashMap<Arc<str>, Option<i64>>,
    /// In the order of arrival, with the sender's time in microseconds since the Unix epoch.
    order: VecDeque<(Arc<str>, Option<i64>)>,
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
    Duplicate,
    /// Another event had this identifier, to go by the times of both: the sender gives identifiers again.
    Reused,
    /// Unknown, but from a time of which identifiers were forgotten.
    TooOld,
}

impl EventIds {
    pub fn seen(&self, id: &str, sent_micros: Option<i64>) -> Seen {
        match self.known.get(id) {
            Some(known) if known.zip(sent_micros).is_some_and(|(known, sent)| known != sent) => Seen::Reused,
            Some(_) => Seen::Duplicate,
            None if sent_micros.is_some() && sent_micros <= self.newest_forgotten_micros => Seen::TooOld,
            None => Seen::First,
        }
    }

    /// Remembers the identifier of an event that was applied, and forgets the oldest beyond `ids_max`. A sender's time that
    /// lies ahead of `now_micros` by more than an hour is as good as none: once forgotten, it would make everything stale
    /// until then.
    pub fn remember(&mut self, id: &str, sent_micros: Option<i64>, now_micros: i64, ids_max: usize) {
        let id: Arc<str> = id.into();
        let sent_micros = sent_micros.filter(|sent| sent.saturating_sub(now_micros) <= AHEAD_MAX_MICROS);
        if self.known.insert(id.clone(), sent_micros).is_none() {
            self.order.push_back((id, sent_micros));
        }
        while self.order.len() > ids_max {
            if let Some((forgotten, sent_micros)) = self.order.pop_front() {
                self.known.remove(&forgotten);
                self.first += 1;
                self.newest_forgotten_micros = self.newest_forgotten_micros.max(sent_micros);
            }
        }
    }
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
            .map(|((id, sent_micros), sequence)| EventIdRecord {
                source,
                sequence,
                id: id.clone(),
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
    pub fn join(&mut self, other: Self, ids_max: usize) {
        for (id, sent_micros) in other.order {
            self.remember(&id, sent_micros, i64::MAX, ids_max);
        }
        self.newest_forgotten_micros = self.newest_forgotten_micros.max(other.newest_forgotten_micros);
    }

    /// What was persisted; `rows` are in order.
    pub fn restore(first: u64, newest_forgotten_micros: Option<i64>, rows: Vec<EventIdRecord>) -> Self {
        let first = rows.first().map_or(first, |row| row.sequence);
        let persistent = first + rows.len() as u64;
        Self {
            known: rows.iter().map(|row| (row.id.clone(), row.sent_micros)).collect(),
            first,
            persistent,
            in_flight: persistent,
            order: rows.into_iter().map(|row| (row.id, row.sent_micros)).collect(),
            newest_forgotten_micros,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forgotten_events_are_stale_and_later_ones_are_new() {
        let mut ids = EventIds::default();
        for (id, sent) in [("a", Some(10)), ("b", Some(5)), ("c", Some(30))] {
            assert_eq!(ids.seen(id, sent), Seen::First);
            ids.remember(id, sent, 0, 1);
        }
        assert_eq!(ids.seen("c", Some(30)), Seen::Duplicate);
        assert_eq!(ids.seen("a", Some(10)), Seen::TooOld);
        assert_eq!(ids.seen("b", Some(5)), Seen::TooOld);
        assert_eq!(ids.seen("d", Some(11)), Seen::First);
        assert_eq!(ids.seen("e", None), Seen::First);
    }

    #[test]
    fn an_identifier_with_another_time_is_reused_and_one_with_the_same_is_a_duplicate() {
        let mut ids = EventIds::default();
        ids.remember("1", Some(10), 10, 9);
        assert_eq!(ids.seen("1", Some(10)), Seen::Duplicate, "the server sent it again");
        assert_eq!(ids.seen("1", None), Seen::Duplicate);
        assert_eq!(ids.seen("1", Some(99)), Seen::Reused, "the server began to number again");
    }

    #[test]
    fn a_time_far_ahead_makes_nothing_stale() {
        let mut ids = EventIds::default();
        ids.remember("a", Some(2 * AHEAD_MAX_MICROS), 0, 1);
        ids.remember("b", Some(10), 0, 1);
        assert_eq!(ids.seen("c", Some(20)), Seen::First);
    }
}
