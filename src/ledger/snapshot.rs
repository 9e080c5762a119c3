//! Snapshots: which entries can be accepted, and what each step of a skill counts. Rules 4.1 to 4.7 of
//! `docs/explanation/translation.md`.

use std::sync::Arc;

use hashbrown::HashSet;

use crate::protocol::{Rejection, RejectionReason, SkillEntry, Snapshot};

use super::anomalies;
use super::arithmetic::{Listing, Seconds};
use super::check::check_anomaly;
use super::context::ApplyContext;
use super::continuity::{Delta, Step};
use super::evidence::{Listings, Totals};
use super::pending::{Increase, Offered, add};
use super::series_table::UNKNOWN_PHASE;
use super::source::{Gauge, SourceCounts, count_anomalies, find_or_insert};
use super::trace_step::TraceStep;

/// A list of this length may have left some out.
pub(super) const SKILLS_LISTED_MAX: usize = 10;

/// Up to so many entries are compared one by one to find a skill that is listed twice.
const PAIRWISE_MAX: usize = 32;

/// An entry of a snapshot that is accepted.
#[derive(Debug, Clone, Copy)]
pub(super) struct Accepted {
    /// Its index in the snapshot's list.
    pub index: usize,
    /// The position of its skill in the feed's list before, `None` if that does not name it; in its own list once that is made. See
    /// [`Listings::names`].
    pub position: Option<usize>,
    pub listing: Listing,
}

/// The skill of an accepted entry.
pub(super) fn name_of<'s>(snapshot: &'s Snapshot<'_>, entry: &Accepted) -> &'s str {
    snapshot.skills[entry.index].as_ref().map_or("", |entry| &entry.skill_name)
}

/// Sets `accepted` to the entries of the skills that `filter` allows, and that can be accepted, in the order of the snapshot: limits
/// admit who comes first. What cannot be accepted is passed to `reject`, with its skill where that is known.
///
/// `positions` holds the position in `latest`, which the feed listed before, of each entry of the snapshot, and until then that of the
/// snapshot before at the same index, which is where a skill is sought first: a list that is sorted by numbers changes its order often,
/// and by little.
pub(super) fn accept(
    snapshot: &Snapshot<'_>,
    filter: Option<&str>,
    latest: Option<&Listings>,
    positions: &mut Vec<Option<usize>>,
    accepted: &mut Vec<Accepted>,
    mut reject: impl FnMut(Option<&str>, Rejection),
) {
    let mut seen = HashSet::new();
    accepted.clear();
    positions.resize(snapshot.skills.len(), None);
    for (index, entry) in snapshot.skills.iter().enumerate() {
        let expected = positions[index].take();
        let entry = match entry {
            Ok(entry) => entry,
            Err(rejection) => {
                reject(None, rejection.clone());
                continue;
            }
        };
        let name = &*entry.skill_name;
        let position = latest.and_then(|latest| latest.position(name, expected));
        positions[index] = position;
        if filter.is_some_and(|filter| filter != name) {
            continue;
        }
        let is_repeated = if snapshot.skills.len() > PAIRWISE_MAX {
            !seen.insert(name)
        } else if position.is_some() {
            positions[..index].contains(&position)
        } else {
            snapshot.skills[..index].iter().flatten().any(|earlier| *earlier.skill_name == *name)
        };
        if is_repeated {
            let detail = format!("{name:?} is listed twice");
            reject(None, Rejection::new(RejectionReason::DuplicateEntry, detail));
            continue;
        }
        match listing_of(entry) {
            Ok(listing) => accepted.push(Accepted { index, position, listing }),
            Err(rejection) => reject(Some(name), rejection),
        }
    }
}

/// Sets the positions of `accepted`, and of each entry of the snapshot, to those in a list of other skills than the one before, which has
/// the order of `accepted`.
pub(super) fn renew_positions(positions: &mut [Option<usize>], accepted: &mut [Accepted]) {
    positions.fill(None);
    for (position, entry) in accepted.iter_mut().enumerate() {
        entry.position = Some(position);
        positions[entry.index] = entry.position;
    }
}

fn listing_of(entry: &SkillEntry<'_>) -> Result<Listing, Rejection> {
    Listing::of(entry)
        .map_err(|rejection| Rejection { detail: format!("{:?}: {}", entry.skill_name, rejection.detail), ..rejection })
}

impl SourceCounts {
    /// Counts the step of the skill `name`, which is listed at `position`. Returns how many of its pending events were dropped as late.
    ///
    /// # Errors
    /// See [`SourceCounts::skill`].
    pub fn count_step(
        &mut self,
        position: usize,
        name: &Arc<str>,
        listing: &Listing,
        step: &Step,
        past_is_known: bool,
        ctx: &mut ApplyContext<'_>,
    ) -> Result<usize, Rejection> {
        let Self { skills, changed_skills, .. } = self;
        let skill = match skills.listed_mut(position, name) {
            Some(known) => known,
            None => find_or_insert(skills, changed_skills, name.clone(), ctx)?.1,
        };
        let is_other = skill.set_gauge(Gauge::from(listing));
        if is_other {
            ctx.trace(|| TraceStep::Rate { skill_name: name.to_string() });
        }
        if !listing.exact && (is_other || step.delta == Delta::First) {
            add(&mut ctx.rules.inexact_rates, 1);
        }
        ctx.series_table.set_listed(skill.series, ctx.now.wall_micros);
        let was_listed = std::mem::replace(&mut skill.listed, true);

        let (increase, unread) = match step.delta {
            Delta::Unchanged => (None, None),
            Delta::First => {
                let (is_unknown, is_changed) = self.unread.remove(name);
                let past_is_known = past_is_known && !is_unknown;
                let created_micros = past_is_known.then_some(ctx.now.wall_micros);
                ctx.trace(|| TraceStep::FirstSight {
                    skill_name: name.to_string(),
                    total: listing.total,
                    completed: listing.completed,
                    past_is_known,
                });
                ctx.series_table.phase(skill.series, UNKNOWN_PHASE, created_micros, ctx.limits);
                (Some(first_sight(&step.to, past_is_known)), Some(is_changed))
            }
            Delta::Moved(from) => {
                ctx.trace(|| TraceStep::WentBack { skill_name: name.to_string(), from: from.total, to: listing.total });
                (None, None)
            }
            Delta::From(base) => {
                let increase = difference(&base, &step.to);
                if let Some(increase) = increase {
                    ctx.trace(|| TraceStep::Rise {
                        skill_name: name.to_string(),
                        from: base.total,
                        to: listing.total,
                        completed: increase.completed,
                        seconds: increase.durations.map(Seconds::snapped),
                    });
                }
                (increase, None)
            }
        };
        self.changed.mark_if(unread == Some(true));
        if let Some(increase) = increase {
            let (elapsed, series) = (ctx.now.elapsed, skill.series);
            let Offered { credited, events, waits } =
                skill.pending.offer_increase(increase, self.streams_invocations, series, &mut ctx.counting(), elapsed);
            self.pending_events -= events;
            if credited > 0 {
                ctx.trace(|| TraceStep::Credited { skill_name: name.to_string(), invocations: credited });
            }
            if events > 0 {
                ctx.trace(|| TraceStep::MetEvents { skill_name: name.to_string(), events });
            }
            if waits {
                ctx.trace(|| TraceStep::RiseWaits { skill_name: name.to_string() });
                self.pending_increases.push_back((elapsed, name.clone()));
            }
        }
        let dropped = skill.pending.drop_late_events(ctx.now.elapsed);
        let has_moved = step.delta != Delta::Unchanged;
        if has_moved {
            self.changed_histories.mark(name.clone());
        }
        if is_other {
            self.rates_changed.push(name.clone());
        }
        if is_other || has_moved || !was_listed || dropped > 0 {
            changed_skills.mark(name.clone());
        }
        Ok(dropped)
    }

    /// Counts the anomalies of an unfiltered snapshot. `is_history` says whether they had happened before.
    pub fn list_anomalies(&mut self, snapshot: &Snapshot<'_>, is_history: bool, ctx: &mut ApplyContext<'_>) {
        let now_micros = ctx.now.wall_micros;
        let created_micros = (!is_history).then_some(now_micros);
        self.anomalies.begin_round();
        for entry in &snapshot.anomalies {
            let counted = entry.as_ref().map_err(Clone::clone).and_then(|entry| {
                check_anomaly(entry, ctx.limits)?;
                let increase = self.anomalies.list(entry, now_micros, ctx.limits);
                count_anomalies(entry, increase, created_micros, ctx)
            });
            if let Err(rejection) = counted {
                ctx.reject(rejection);
            }
        }
        self.anomalies.forget_old(now_micros);
    }

    /// Whether the list of anomalies may have hidden some since the previous snapshot. `this_micros` is the server's time, in
    /// microseconds since the Unix epoch.
    pub fn may_hide_anomalies(&self, snapshot: &Snapshot<'_>, this_micros: Option<i64>) -> bool {
        let entries = snapshot.anomalies.iter().flatten();
        anomalies::window_overflowed(snapshot.anomalies_listed, entries, self.previous_micros, this_micros)
    }
}

/// Rule 4.1: the whole total counts; its durations too if all of it happened under watch.
fn first_sight(totals: &Totals, past_is_known: bool) -> Increase {
    let durations = totals.duration_sum.filter(|_| past_is_known).map(|sum| Seconds::between(0.0, sum));
    Increase { completed: totals.completed, abandoned: totals.abandoned(), durations, history: !past_is_known }
}

/// Rule 4.2: the difference counts. The total has not fallen, and the split is within what the total allows.
pub(super) fn difference(base: &Totals, now: &Totals) -> Option<Increase> {
    let durations = match (base.duration_sum, now.duration_sum) {
        (Some(earlier), Some(later)) if base.split_is_exact && now.split_is_exact => {
            Some(Seconds::between(earlier, later)).filter(|seconds| !seconds.fell())
        }
        _ => None,
    };
    let completed = now.completed - base.completed;
    let abandoned = now.total - base.total - completed;
    (now.total > base.total).then_some(Increase { completed, abandoned, durations, history: false })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::time::Duration;

    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;
    use crate::ledger::evidence::{Listed, Names};
    use crate::ledger::{ConnectionId, FeedId, FeedSpec, Ledger, Limits, Notice, Now};
    use crate::protocol::{Message, Number};

    /// An entry of the skill with this number, which sometimes cannot be accepted; without a skill, one that has none.
    fn entry(skill: Option<u8>, total: u8) -> Result<SkillEntry<'static>, Rejection> {
        let skill = skill.ok_or_else(|| Rejection::new(RejectionReason::MissingField, "`skill_name` is missing"))?;
        Ok(SkillEntry {
            skill_name: format!("skill-{skill}").into(),
            total_invocations: if total.is_multiple_of(20) {
                Number::Invalid
            } else {
                Number::Finite(f64::from(total))
            },
            completion_rate_percent: Number::Finite(100.0),
            average_duration_seconds: Number::Missing,
        })
    }

    proptest! {
        #[test]
        fn what_is_accepted_does_not_depend_on_the_list_before(
            lists in vec(vec((proptest::option::weighted(0.95, 0..5_u8), 0..100_u8), 0..50), 1..6),
            filter in proptest::option::of(0..5_u8),
        ) {
            let filter = filter.map(|skill| format!("skill-{skill}"));
            let (mut latest, mut positions, mut accepted): (Option<Arc<Listings>>, _, _) = (None, Vec::new(), Vec::new());
            for list in lists {
                let skills: Vec<_> = list.into_iter().map(|(skill, total)| entry(skill, total)).collect();
                let snapshot = Snapshot { listed: skills.len(), skills, ..Snapshot::default() };
                let mut rejected = 0;
                accept(&snapshot, filter.as_deref(), latest.as_deref(), &mut positions, &mut accepted, |_, _| rejected += 1);

                let (mut first, mut expected_rejected) = (BTreeMap::new(), 0);
                for entry in &snapshot.skills {
                    let Ok(entry) = entry else {
                        expected_rejected += 1;
                        continue;
                    };
                    if filter.as_ref().is_some_and(|filter| *filter != entry.skill_name) {
                        continue;
                    }
                    let listing = Listing::of(entry);
                    expected_rejected += usize::from(first.contains_key(&*entry.skill_name) || listing.is_err());
                    first.entry(&*entry.skill_name).or_insert(listing.ok());
                }
                let expected: BTreeMap<_, _> = first.into_iter().filter_map(|(name, listing)| Some((name, listing?))).collect();
                prop_assert!(accepted.is_sorted_by_key(|entry| entry.index));
                let found: BTreeMap<_, _> = accepted.iter().map(|entry| (name_of(&snapshot, entry), entry.listing)).collect();
                prop_assert_eq!(accepted.len(), found.len());
                prop_assert_eq!(&found, &expected);
                prop_assert_eq!(rejected, expected_rejected);

                let before = latest.unwrap_or_default();
                let are_same = before.len() == found.len() && found.keys().all(|name| before.contains(name));
                let listed = accepted.iter().map(|entry| Listed {
                    name: name_of(&snapshot, entry),
                    position: entry.position,
                    totals: Totals::from(&entry.listing),
                });
                let now = before.followed_by(listed, |name| name.into());
                prop_assert_eq!(Arc::ptr_eq(now.names(), before.names()), are_same);
                prop_assert!(now.iter().all(|(name, totals)| *totals == Totals::from(&expected[&**name])));
                prop_assert_eq!(now.len(), expected.len());
                if !are_same {
                    renew_positions(&mut positions, &mut accepted);
                }
                let positioned = accepted.iter().map(|entry| Some(&**now.names().at(entry.position?)));
                prop_assert!(positioned.eq(accepted.iter().map(|entry| Some(name_of(&snapshot, entry)))));
                latest = Some(now);
            }
        }
    }

    /// A ledger with one feed, and how much time has passed in it.
    struct Fed {
        ledger: Ledger,
        feed: FeedId,
        connection: ConnectionId,
        seconds: u64,
    }

    impl Fed {
        fn new(limits: Limits) -> Self {
            let mut ledger = Ledger::new(limits);
            let feed = ledger.add_feed(FeedSpec { identity: "feed".to_owned(), ..FeedSpec::default() });
            ledger.explain();
            let connection = ledger.open(feed, Self::now(0));
            Self { ledger, feed, connection, seconds: 0 }
        }

        fn now(seconds: u64) -> Now {
            Now::at(Duration::from_secs(seconds))
        }

        fn reconnect(&mut self) {
            self.ledger.close(self.connection, Self::now(self.seconds));
            self.connection = self.ledger.open(self.feed, Self::now(self.seconds));
        }

        /// Ends the connection, and adds another feed, whose connection takes its place.
        fn continue_with_another_feed(&mut self) {
            self.ledger.close(self.connection, Self::now(self.seconds));
            self.feed = self.ledger.add_feed(FeedSpec { identity: "another".to_owned(), ..FeedSpec::default() });
            self.connection = self.ledger.open(self.feed, Self::now(self.seconds));
        }

        /// Has the feed list `skills`. Returns what was rejected.
        fn list(&mut self, skills: &[(&str, u64)]) -> Vec<String> {
            let entries = skills.iter().map(|(name, total)| {
                Ok(SkillEntry {
                    skill_name: (*name).into(),
                    total_invocations: Number::Finite(*total as f64),
                    completion_rate_percent: Number::Finite(100.0),
                    average_duration_seconds: Number::Missing,
                })
            });
            let snapshot = Snapshot { listed: skills.len(), skills: entries.collect(), ..Snapshot::default() };
            self.seconds += 1;
            let mut notices = Vec::new();
            self.ledger.apply(self.connection, &Message::Snapshot(snapshot), Self::now(self.seconds), &mut notices);
            let rejected = notices.into_iter().filter_map(|notice| match notice {
                Notice::Rejected(rejection) => Some(rejection.detail),
                _ => None,
            });
            rejected.collect()
        }

        /// The skills of the steps that were traced since the last call.
        fn traced(&mut self) -> Vec<String> {
            self.ledger.take_trace_steps().iter().filter_map(|step| Some(step.skill_name()?.to_owned())).collect()
        }

        fn names(&self) -> Arc<Names> {
            Arc::clone(self.ledger.sources.latest(self.feed).unwrap().1.names())
        }
    }

    #[test]
    fn of_a_list_that_adds_too_much_the_last_entry_of_the_wire_is_rejected() {
        let mut fed = Fed::new(Limits::default());
        let skills = ["a", "b", "c", "d", "e", "f", "g", "h", "i"];
        let mut list = skills.map(|skill| (skill, 1));
        list.reverse();
        assert_eq!(fed.list(&list), Vec::<String>::new());
        let rejected = fed.list(&skills.map(|skill| (skill, (1 << 50) - 1)));
        assert!(rejected.len() == 1 && rejected[0].contains("\"i\""), "{rejected:?}");
    }

    #[test]
    fn the_skills_of_a_list_are_counted_in_the_order_of_the_wire() {
        // The second feed is pending for its first lists, since the first is not connected, and one of its skills gets a series.
        let mut fed = Fed::new(Limits { skills_max: 2, ..Limits::default() });
        fed.list(&[("z", 1)]);
        fed.continue_with_another_feed();
        let lists = [["a", "b", "c"], ["c", "a", "b"], ["b", "c", "a"]];
        let counted = lists.iter().cycle().take(100).find(|list| {
            fed.list(&list.map(|skill| (skill, 1)));
            let traced = fed.traced();
            let first: Vec<_> = list.iter().filter(|skill| traced.contains(&(**skill).to_owned())).collect();
            !first.is_empty()
        });
        let counted = counted.expect("a feed is pending for a few lists only");
        assert_ne!(counted, &lists[0], "the feed was not pending");
        let own: Vec<_> = lists[0].iter().filter(|skill| fed.ledger.series_table.find(skill).is_some()).collect();
        assert_eq!(own, [&counted[0]]);
        for (list, total) in lists.iter().zip(2..) {
            fed.list(&list.map(|skill| (skill, total)));
            let mut traced = fed.traced();
            traced.dedup();
            assert_eq!(traced, list);
        }
    }

    #[test]
    fn lists_of_the_same_skills_share_their_names_also_beside_an_entry_that_is_rejected() {
        let mut fed = Fed::new(Limits::default());
        let refused = "d".repeat(300);
        fed.list(&[("a", 1), ("b", 1), ("c", 1)]);
        let names = fed.names();
        for (list, total) in
            [["c", &refused, "a", "b"], [&refused, "b", "c", "a"], ["a", "b", "c", &refused]].iter().zip(2..)
        {
            assert_eq!(fed.list(&list.map(|skill| (skill, total))).len(), 1);
            assert!(Arc::ptr_eq(&fed.names(), &names), "{list:?}");
        }
    }

    #[test]
    fn a_listed_name_is_that_of_the_source_also_behind_a_reconnect_and_of_a_skill_that_came_back() {
        let mut fed = Fed::new(Limits::default());
        let list = |last, total| ["a", "b", "c", "d", "e", "f", "g", "h", "i", last].map(|skill| (skill, total));
        for skills in [list("j", 1), list("k", 2), list("j", 3), list("l", 4)] {
            for connection in ["the same", "another"] {
                assert_eq!(fed.list(&skills), Vec::<String>::new());
                let source = fed.ledger.sources.expected_source(fed.feed).unwrap();
                let numbers = &fed.ledger.sources.source(source).unwrap().numbers;
                let is_shared = |name: &Arc<str>| numbers.iter().any(|(known, _)| Arc::ptr_eq(known, name));
                assert!(fed.names().iter().all(is_shared), "{skills:?} of {connection} connection");
                fed.reconnect();
            }
        }
    }

    #[test]
    fn an_entry_is_expected_at_the_position_of_its_skill_in_the_latest_list() {
        let mut fed = Fed::new(Limits::default());
        let refused = "d".repeat(300);
        for list in [
            &["a", "b", "c"][..],
            &["c", "a", "b"],
            &["x", "a", "b"],
            &["x", "a", "b"],
            &["b", &refused, "a", "x"],
            &["y", "b", &refused],
            &["b", "y"],
        ] {
            let skills: Vec<_> = list.iter().map(|skill| (*skill, 1)).collect();
            fed.list(&skills);
            let names = fed.names();
            let expected = &fed.ledger.feeds[fed.feed.index()].positions;
            let found: Vec<_> =
                expected.iter().map(|position| position.map(|position| &**names.at(position))).collect();
            let listed: Vec<_> = list.iter().map(|skill| Some(*skill).filter(|skill| *skill != refused)).collect();
            assert_eq!(found, listed);
        }
    }
}
