//! Series that a receiver refuses, and when they are sent again. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use super::answer::RefusalReason;
use super::series::SeriesId;

/// So many series that were refused are tried again at a time, each in a request of its own. The others follow once these are accepted.
const RETRIED_MAX: usize = 16;

/// The series that were refused alone while others were stored. Each is omitted until its pause ends.
#[derive(Debug, Default)]
pub(crate) struct PausedSeries(BTreeMap<SeriesId, Paused>);

#[derive(Debug, Clone, Copy)]
struct Paused {
    reason: RefusalReason,
    until: Instant,
}

/// What became of a series that was tried again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Retried {
    /// It had no sample.
    Absent,
    /// Its samples were stored up to the newest tick.
    Stored,
    /// It was refused, or left out because too many others were.
    NotStored,
}

impl PausedSeries {
    /// Forgets all of them: the numbers of series are given again.
    pub(crate) fn clear(&mut self) {
        self.0.clear();
    }

    /// Returns the series that are tried again at `now`, those that have waited longest first. With the last tick of the process, none of
    /// them waits for the end of its pause.
    pub(crate) fn due(&self, now: Instant, is_last: bool) -> BTreeSet<SeriesId> {
        let due = self.0.iter().filter(|(_, paused)| is_last || paused.until <= now);
        let mut due: Vec<_> = due.map(|(id, paused)| (paused.until, *id)).collect();
        due.sort_unstable();
        due.into_iter().take(RETRIED_MAX).map(|(_, id)| id).collect()
    }

    /// Returns the series that are omitted while `retried` are tried again, and why each was refused.
    pub(crate) fn omitted(&self, retried: &BTreeSet<SeriesId>) -> BTreeMap<SeriesId, RefusalReason> {
        let omitted = self.0.iter().filter(|(id, _)| !retried.contains(id));
        omitted.map(|(id, paused)| (*id, paused.reason)).collect()
    }

    /// Series were tried again. Those that are not stored are paused until `until`. If all that had samples are stored, what refused them is
    /// over: whatever was due at `now` joins the others.
    pub(crate) fn retried(&mut self, retried: &[(SeriesId, Retried)], now: Instant, until: Instant) {
        let has = |what| retried.iter().any(|(_, outcome)| *outcome == what);
        if has(Retried::Stored) && !has(Retried::NotStored) {
            self.0.retain(|_, paused| paused.until > now);
        }
        for (id, outcome) in retried {
            match self.0.get_mut(id) {
                Some(paused) if *outcome == Retried::NotStored => paused.until = until,
                Some(_) | None => drop(self.0.remove(id)),
            }
        }
    }

    /// A series was refused alone while others were stored. It is paused until `until`.
    pub(crate) fn refused(&mut self, id: SeriesId, reason: RefusalReason, until: Instant) {
        self.0.insert(id, Paused { reason, until });
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const PAUSE: Duration = Duration::from_secs(600);

    /// So many series that are paused, one second after the other.
    fn paused(series: usize, begin: Instant) -> PausedSeries {
        let mut paused = PausedSeries::default();
        for index in 0..series {
            let until = begin + PAUSE + Duration::from_secs((series - index) as u64);
            paused.refused(SeriesId::at(index), RefusalReason::Other, until);
        }
        paused
    }

    fn ids(range: std::ops::Range<usize>) -> BTreeSet<SeriesId> {
        range.map(SeriesId::at).collect()
    }

    fn outcomes(ids: &BTreeSet<SeriesId>, outcome: Retried) -> Vec<(SeriesId, Retried)> {
        ids.iter().map(|id| (*id, outcome)).collect()
    }

    #[test]
    fn series_are_tried_again_after_their_pause_sixteen_at_a_time_those_that_waited_longest_first() {
        let begin = Instant::now();
        let paused = paused(20, begin);
        assert!(paused.due(begin + PAUSE, false).is_empty());
        assert_eq!(paused.due(begin + PAUSE + Duration::from_secs(3), false), ids(17..20));
        assert_eq!(paused.due(begin + 2 * PAUSE, false), ids(4..20));
        assert_eq!(paused.due(begin, true), ids(4..20), "with the last tick none waits");
        assert_eq!(paused.omitted(&ids(4..20)), ids(0..4).into_iter().map(|id| (id, RefusalReason::Other)).collect());
    }

    #[test]
    fn once_all_that_were_tried_are_stored_those_that_were_due_join_the_others() {
        let begin = Instant::now();
        let now = begin + PAUSE + Duration::from_secs(18);
        let retried = ids(4..20);
        let mut outcome = outcomes(&retried, Retried::Stored);
        outcome[0].1 = Retried::Absent;
        let mut all_stored = paused(20, begin);
        all_stored.retried(&outcome, now, now + PAUSE);
        assert_eq!(all_stored.omitted(&BTreeSet::new()).into_keys().collect::<BTreeSet<_>>(), ids(0..2), "not due yet");

        outcome[3].1 = Retried::NotStored;
        let mut one_refused = paused(20, begin);
        one_refused.retried(&outcome, now, now + PAUSE);
        let expected: BTreeSet<_> = ids(0..4).into_iter().chain([outcome[3].0]).collect();
        assert_eq!(one_refused.omitted(&BTreeSet::new()).into_keys().collect::<BTreeSet<_>>(), expected);
        assert!(!one_refused.due(now, false).contains(&outcome[3].0), "its pause begins again");
    }

    #[test]
    fn series_without_samples_release_no_others() {
        let begin = Instant::now();
        let now = begin + 2 * PAUSE;
        let mut paused = paused(20, begin);
        paused.retried(&outcomes(&ids(4..20), Retried::Absent), now, now + PAUSE);
        assert_eq!(paused.omitted(&BTreeSet::new()).into_keys().collect::<BTreeSet<_>>(), ids(0..4));
    }
}
