//! The sessions that a server reports.

use std::sync::Arc;

use hashbrown::HashMap;

use super::dirty::{Dirty, DirtyFlag, Persistence};
use super::records::SessionRecord;

/// Sessions are taken for closed when nothing is reported of them for this long.
const SESSION_LIFE_MICROS: i64 = 24 * 3600 * 1_000_000;

/// The sessions that a server reported to one feed: a count, and what was created and closed since.
///
/// A server sends the same to all of its feeds, so each feed has them all; of feeds that turn out to be of one server the one
/// that missed some copies them from the other one. To apply a message twice, as one that arrives by two feeds, changes nothing.
///
/// Closed identifiers are kept as long as open ones, so that a `session.created` that is sent again after its
/// `session.closed` does not open the session anew.
#[derive(Debug, Default)]
pub(super) struct Sessions {
    /// When it last reported any, in microseconds since the Unix epoch.
    reported_micros: Option<i64>,
    count: u64,
    by_id: HashMap<Arc<str>, SessionRecord>,
    changed: Dirty<Arc<str>>,
    cleared: DirtyFlag,
}

/// A session that is new, changed, or (`None`) forgotten.
pub(super) type Change = (Arc<str>, Option<SessionRecord>);

/// There is no room to remember another session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct SessionsFull;

impl Sessions {
    pub fn new(persistence: Persistence) -> Self {
        Self { changed: Dirty::new(persistence), ..Self::default() }
    }

    /// A count replaces everything that was known.
    pub fn set_count(&mut self, count: u64, now_micros: i64) {
        self.reported_micros = Some(now_micros);
        self.count = count;
        self.by_id.clear();
        self.changed.clear();
        self.cleared.mark();
    }

    pub fn created(&mut self, id: &str, now_micros: i64, sessions_max: usize) -> Result<(), SessionsFull> {
        self.reported_micros = Some(now_micros);
        if !self.by_id.contains_key(id) {
            self.insert(id, true, now_micros, sessions_max)?;
        }
        Ok(())
    }

    pub fn closed(&mut self, id: &str, now_micros: i64, sessions_max: usize) -> Result<(), SessionsFull> {
        self.reported_micros = Some(now_micros);
        if let Some((id, _)) = self.by_id.get_key_value(id) {
            let id = id.clone();
            self.put(id, SessionRecord { open: false, seen_micros: now_micros });
            return Ok(());
        }
        // A session that is not known by name can only be one of those that were counted.
        self.insert(id, false, now_micros, sessions_max)?;
        self.count = self.count.saturating_sub(1);
        Ok(())
    }

    fn insert(&mut self, id: &str, open: bool, now_micros: i64, sessions_max: usize) -> Result<(), SessionsFull> {
        if self.by_id.len() >= sessions_max {
            let changed = &mut self.changed;
            self.by_id.retain(|id, session| {
                let alive = is_alive(*session, now_micros);
                if !alive {
                    changed.mark(id.clone());
                }
                alive
            });
        }
        if self.by_id.len() >= sessions_max {
            return Err(SessionsFull);
        }
        self.put(id.into(), SessionRecord { open, seen_micros: now_micros });
        Ok(())
    }

    fn put(&mut self, id: Arc<str>, session: SessionRecord) {
        self.by_id.insert(id.clone(), session);
        self.changed.mark(id);
    }

    /// When the server last reported any, in microseconds since the Unix epoch.
    pub fn reported_micros(&self) -> Option<i64> {
        self.reported_micros
    }

    pub fn count(&self) -> u64 {
        self.count
    }

    /// What changed and is not acknowledged: whether all that was before is forgotten, and the sessions that are new,
    /// changed or forgotten.
    pub fn collect(&mut self) -> (bool, Vec<Change>) {
        let Self { by_id, changed, cleared, .. } = self;
        let cleared = cleared.collect();
        (cleared, changed.collect().map(|id| (id.clone(), by_id.get(id).copied())).collect())
    }

    /// Nothing of it is persistent any more.
    pub fn mark_all(&mut self) {
        self.by_id.keys().for_each(|id| self.changed.mark(id.clone()));
    }

    /// What was collected last is persistent.
    pub fn acknowledge(&mut self) {
        self.changed.acknowledge();
        self.cleared.acknowledge();
    }

    /// Forgets them all.
    pub fn clear(&mut self) {
        *self = Self::new(self.changed.persistence());
        self.cleared.mark();
    }

    /// Replaces them with those that the same server reported to another feed.
    pub fn copy_from(&mut self, other: &Self) {
        self.reported_micros = other.reported_micros;
        self.count = other.count;
        self.by_id.clone_from(&other.by_id);
        self.changed.clear();
        self.cleared.mark();
        self.mark_all();
    }

    /// What was persisted.
    pub fn restore(reported_micros: Option<i64>, count: u64, by_id: HashMap<Arc<str>, SessionRecord>) -> Self {
        Self { reported_micros, count, by_id, ..Self::default() }
    }

    /// The number of open sessions, if the server ever reported any.
    pub fn open(&self, now_micros: i64) -> Option<u64> {
        let open = self.by_id.values().filter(|session| session.open && is_alive(**session, now_micros)).count();
        self.reported_micros.map(|_| self.count + open as u64)
    }
}

fn is_alive(session: SessionRecord, now_micros: i64) -> bool {
    now_micros.saturating_sub(session.seen_micros) < SESSION_LIFE_MICROS
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_and_identifiers_add_up() {
        let mut sessions = Sessions::default();
        assert_eq!(sessions.open(0), None);
        sessions.created("a", 0, 10).unwrap();
        sessions.created("a", 0, 10).unwrap();
        sessions.created("b", 0, 10).unwrap();
        assert_eq!(sessions.open(0), Some(2));
        sessions.closed("a", 0, 10).unwrap();
        sessions.created("a", 0, 10).unwrap();
        assert_eq!(sessions.open(0), Some(1), "a repeated opening does not undo a closing");
        sessions.set_count(5, 0);
        sessions.created("c", 0, 10).unwrap();
        sessions.closed("one of the five", 0, 10).unwrap();
        sessions.closed("one of the five", 0, 10).unwrap();
        assert_eq!(sessions.open(0), Some(5));
    }

    #[test]
    fn sessions_expire_after_a_day_and_make_room() {
        let mut sessions = Sessions::default();
        sessions.created("a", 0, 1).unwrap();
        assert_eq!(sessions.created("b", 1, 1), Err(SessionsFull));
        assert_eq!(sessions.open(SESSION_LIFE_MICROS - 1), Some(1));
        assert_eq!(sessions.open(SESSION_LIFE_MICROS), Some(0));
        sessions.created("b", SESSION_LIFE_MICROS, 1).unwrap();
        assert_eq!(sessions.open(SESSION_LIFE_MICROS), Some(1));
    }
}
