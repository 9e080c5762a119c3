//! Which events were applied already.

use std::collections::VecDeque;
use std::sync::Arc;

use hashbrown::HashSet;

use super::memory::EventIdRow;

/// How far a sender's clock may be ahead of ours.
const AHEAD_MAX_MICROS: i64 = 3600 * 1_000_000;

/// The latest event identifiers of a feed.
///
/// Invariant: an event is applied at most once. What would break it is a repetition that comes after its identifier was
/// forgotten; so whatever is not newer than the newest event ever forgotten is refused as stale.
#[derive(Debug, Default)]
pub(super) struct EventIds {
    known: HashSet<Arc<str>>,
    /// In the order of arrival, with the sender's time in microseconds since the Unix epoch.
    order: VecDeque<(Arc<str>, Option<i64>)>,
    newest_forgotten_micros: Option<i64>,
    /// The sequence number of the front of `order`; the others follow without a gap.
    first: u64,
    /// The sequence number from which on identifiers have not been taken by [`EventIds::take_new`].
    untaken: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Acquaintance {
    New,
    Known,
    /// Unknown, but from a time of which identifiers were forgotten.
    Stale,
}

impl EventIds {
    pub fn acquaintance(&self, id: &str, sent_micros: Option<i64>) -> Acquaintance {
        if self.known.contains(id) {
            Acquaintance::Known
        } else if sent_micros.is_some() && sent_micros <= self.newest_forgotten_micros {
            Acquaintance::Stale
        } else {
            Acquaintance::New
        }
    }

    /// Remembers the identifier of an event that was applied, and forgets the oldest beyond `ids_max`. A sender's time that
    /// lies ahead of `now_micros` by more than an hour is as good as none: once forgotten, it would make everything stale
    /// until then.
    pub fn remember(&mut self, id: &str, sent_micros: Option<i64>, now_micros: i64, ids_max: usize) {
        let id: Arc<str> = id.into();
        let sent_micros = sent_micros.filter(|sent| sent.saturating_sub(now_micros) <= AHEAD_MAX_MICROS);
        if self.known.insert(id.clone()) {
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

    /// The identifiers that were added since the last call.
    pub fn take_new(&mut self, feed: usize) -> Vec<EventIdRow> {
        let from = self.untaken.max(self.first);
        self.untaken = self.first + self.order.len() as u64;
        let new = self.order.iter().skip(usize::try_from(from - self.first).unwrap_or(usize::MAX));
        new.zip(from..)
            .map(|((id, sent_micros), sequence)| EventIdRow {
                feed,
                sequence,
                id: id.clone(),
                sent_micros: *sent_micros,
            })
            .collect()
    }

    /// Makes [`EventIds::take_new`] give the identifiers from `sequence` on once more.
    pub fn untake(&mut self, sequence: u64) {
        self.untaken = self.untaken.min(sequence);
    }

    pub fn has_new(&self) -> bool {
        self.untaken.max(self.first) < self.first + self.order.len() as u64
    }

    /// What was kept; `rows` are in order.
    pub fn restore(first: u64, newest_forgotten_micros: Option<i64>, rows: Vec<EventIdRow>) -> Self {
        let first = rows.first().map_or(first, |row| row.sequence);
        Self {
            known: rows.iter().map(|row| row.id.clone()).collect(),
            first,
            untaken: first + rows.len() as u64,
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
            assert_eq!(ids.acquaintance(id, sent), Acquaintance::New);
            ids.remember(id, sent, 0, 1);
        }
        assert_eq!(ids.acquaintance("c", Some(30)), Acquaintance::Known);
        assert_eq!(ids.acquaintance("a", Some(10)), Acquaintance::Stale);
        assert_eq!(ids.acquaintance("b", Some(5)), Acquaintance::Stale);
        assert_eq!(ids.acquaintance("d", Some(11)), Acquaintance::New);
        assert_eq!(ids.acquaintance("e", None), Acquaintance::New);
    }

    #[test]
    fn a_time_far_ahead_makes_nothing_stale() {
        let mut ids = EventIds::default();
        ids.remember("a", Some(2 * AHEAD_MAX_MICROS), 0, 1);
        ids.remember("b", Some(10), 0, 1);
        assert_eq!(ids.acquaintance("c", Some(20)), Acquaintance::New);
    }
}
