//! Whether a database is the one that a feed lists. Pure. Rule 8.2 of `docs/explanation/translation.md`.
//!
//! A server makes its lists of `skill_metrics`, so that a list which was received before the database was read holds what
//! the database held then or a moment before.

use std::sync::Arc;
use std::time::Duration;

use super::binding::Observation;
use super::continuity::{DECISIVE_BITS, Room};
use super::evidence::Listings;
use super::snapshot::SKILLS_LISTED_MAX;

/// Lists that contradict a database before it is taken for another one: one may be older than a backup that was restored.
const CONTRADICTIONS_NEEDED: u32 = 3;

/// For so long one list contradicts a database before it is taken for another one, where the server seldom sends lists.
/// Readers check a database each second, so that a contradiction is reported within 10 s.
const CONTRADICTED_FOR: Duration = Duration::from_secs(8);

/// What the lists of a feed say of a database.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Verdict {
    /// It is the one.
    Confirmed,
    /// It cannot be: the feed lists more of a skill than it holds, or other numbers.
    Contradicted(Contradiction),
    /// Neither is known yet.
    Open,
}

/// A skill that a database cannot have had as it is listed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Contradiction {
    pub skill_name: Arc<str>,
    /// The total that the feed lists.
    pub listed: u64,
    /// The total that the database holds.
    pub held: u64,
}

/// What a feed has said of the database beside it.
#[derive(Debug, Default)]
pub(super) struct Confirmation {
    /// What the database held when it was read before, and what that proves about other skills.
    before: Option<(Arc<Listings>, Room)>,
    /// The lists in a row that have contradicted the database; `None` where the latest does not.
    contradicted: Option<Contradicted>,
}

/// Lists in a row that contradict a database.
#[derive(Debug, Clone, Copy)]
struct Contradicted {
    /// When the first of them was compared with it, and when the last of them was.
    since: Duration,
    until: Duration,
    /// When the last of them arrived.
    received_at: Duration,
    lists: u32,
}

impl Confirmation {
    /// Judges a database that holds `held` by the latest list of its feed, if there is one, and the time of its arrival.
    pub fn judge(
        &mut self,
        latest: Option<(Duration, &Listings)>,
        is_filtered: bool,
        held: &Observation<'_>,
    ) -> Verdict {
        let now = held.now;
        let verdict = latest.map_or(Verdict::Open, |(_, latest)| {
            let verdict = compare(latest, is_filtered, &held.listings, held.room);
            match self.before.as_ref().filter(|_| verdict == Verdict::Open) {
                // The database went on after the list was made.
                Some((before, room)) if compare(latest, is_filtered, before, *room) == Verdict::Confirmed => {
                    Verdict::Confirmed
                }
                _ => verdict,
            }
        });
        self.contradicted = match (&verdict, latest) {
            (Verdict::Contradicted(_), Some((received_at, _))) => Some(match self.contradicted {
                None => Contradicted { since: now, until: now, received_at, lists: 1 },
                Some(before) => {
                    let lists = before.lists + u32::from(before.received_at != received_at);
                    Contradicted { until: now, received_at, lists, ..before }
                }
            }),
            _ => None,
        };
        self.before = Some((Arc::clone(&held.listings), held.room));
        verdict
    }

    /// Whether so many lists contradict, or one for so long, that the database is another one.
    pub fn is_refuted(&self) -> bool {
        self.contradicted.is_some_and(|Contradicted { since, until, lists, .. }| {
            lists >= CONTRADICTIONS_NEEDED || until.saturating_sub(since) >= CONTRADICTED_FOR
        })
    }
}

/// `room` is what `held` proves about the skills that it does not name.
fn compare(listed: &Listings, is_filtered: bool, held: &Listings, room: Room) -> Verdict {
    let (mut bits, mut is_equal) = (0.0, room == Room::Enough);
    for (name, totals) in listed.iter() {
        if room != Room::Enough && !held.contains(name) {
            continue;
        }
        let Some(now) = held.get(name).filter(|now| totals.precedes(now)) else {
            let (skill_name, held) = (name.clone(), held.get(name).map_or(0, |now| now.total));
            return Verdict::Contradicted(Contradiction { skill_name, listed: totals.total, held });
        };
        // It precedes: where the totals are equal, everything is.
        let is_same = totals.total == now.total;
        is_equal &= is_same;
        bits += if is_same { totals.bits() } else { totals.nearness(now) };
    }
    // Few invocations have few bits. That the whole list is what it should be confirms them, too.
    let least = listed.iter().map(|(_, totals)| totals.total).min().filter(|_| listed.len() >= SKILLS_LISTED_MAX);
    let is_whole =
        is_filtered || held.iter().all(|(name, totals)| totals.total <= least.unwrap_or(0) || listed.contains(name));
    let is_listed_at_all = !is_filtered || !listed.is_empty();
    match bits >= DECISIVE_BITS || (is_equal && is_whole && is_listed_at_all) {
        true => Verdict::Confirmed,
        false => Verdict::Open,
    }
}

#[cfg(test)]
mod tests {
    use super::super::evidence::Totals;
    use super::*;

    fn listings(skills: &[(&str, u64)]) -> Listings {
        let totals =
            |total| Totals { total, completed: total, split_is_exact: true, duration_sum: Some(total as f64 / 2.0) };
        Listings::new(skills.iter().map(|(name, total)| ((*name).into(), totals(*total))).collect())
    }

    fn database(skills: &[(&str, u64)], now: Duration) -> Observation<'static> {
        Observation::of_database(listings(skills), Room::Enough, now)
    }

    fn judge(listed: &[(&str, u64)], held: &[(&str, u64)]) -> Verdict {
        let list = listings(listed);
        Confirmation::default().judge(Some((Duration::ZERO, &list)), false, &database(held, Duration::ZERO))
    }

    #[test]
    fn a_small_database_is_confirmed_by_a_list_that_equals_it() {
        assert_eq!(judge(&[("a", 1)], &[("a", 1)]), Verdict::Confirmed);
        assert_eq!(judge(&[], &[]), Verdict::Confirmed, "both are empty");
        assert_eq!(judge(&[("a", 1)], &[("a", 1), ("b", 1)]), Verdict::Open, "something is not listed");
        assert_eq!(judge(&[("a", 1)], &[("a", 2)]), Verdict::Open, "it may have gone on");
        assert_eq!(judge(&[], &[("a", 2)]), Verdict::Open);
    }

    #[test]
    fn a_database_that_goes_on_is_confirmed_by_what_it_held_a_moment_ago() {
        let mut confirmation = Confirmation::default();
        let mut judge = |latest, held| confirmation.judge(latest, false, &database(&[("a", held)], Duration::ZERO));
        assert_eq!(judge(None, 4), Verdict::Open);
        let listed = listings(&[("a", 4)]);
        assert_eq!(judge(Some((Duration::ZERO, &listed)), 6), Verdict::Confirmed);
    }

    #[test]
    fn many_invocations_confirm_where_some_are_not_listed_yet() {
        let (listed, held) = ([("a", 9_000), ("b", 80_000)], [("a", 9_000), ("b", 80_001), ("c", 2)]);
        assert_eq!(judge(&listed, &held), Verdict::Confirmed);
    }

    #[test]
    fn a_database_with_less_than_is_listed_is_another() {
        let contradiction = |skill_name: &str, listed, held| {
            Verdict::Contradicted(Contradiction { skill_name: skill_name.into(), listed, held })
        };
        assert_eq!(judge(&[("a", 5)], &[("a", 4)]), contradiction("a", 5, 4));
        assert_eq!(judge(&[("a", 5)], &[("b", 9)]), contradiction("a", 5, 0));
        let mut confirmation = Confirmation::default();
        for times in 1..=CONTRADICTIONS_NEEDED {
            let list = listings(&[("a", 5)]);
            (0..9).for_each(|_| {
                let received_at = Duration::from_secs(times.into());
                confirmation.judge(Some((received_at, &list)), false, &database(&[("a", 4)], received_at));
            });
            assert_eq!(confirmation.is_refuted(), times == CONTRADICTIONS_NEEDED, "lists count, not readings");
        }
    }

    #[test]
    fn one_list_that_contradicts_for_long_is_enough() {
        let (mut confirmation, list) = (Confirmation::default(), listings(&[("a", 5)]));
        let mut is_refuted = |seconds, held| {
            let (latest, now) = (Some((Duration::from_secs(100), &list)), Duration::from_secs(seconds));
            confirmation.judge(latest, false, &database(&[("a", held)], now));
            confirmation.is_refuted()
        };
        assert!((100..108).all(|seconds| !is_refuted(seconds, 4)));
        assert!(!is_refuted(108, 5), "it holds what is listed");
        assert!((109..117).all(|seconds| !is_refuted(seconds, 4)), "again from the beginning");
        assert!(is_refuted(117, 4));
    }
}
