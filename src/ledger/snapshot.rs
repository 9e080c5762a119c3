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
    /// The position of its skill in the feed's list before; `None` if that does not name it.
    pub position: Option<usize>,
    pub listing: Listing,
}

/// The skill of an accepted entry.
pub(super) fn name_of<'s>(snapshot: &'s Snapshot<'_>, entry: &Accepted) -> &'s str {
    snapshot.skills[entry.index].as_ref().map_or("", |entry| &entry.skill_name)
}

/// Sets `accepted` to the entries of the skills that `filter` allows, and that can be accepted. They are in the order of `latest`,
/// which the feed listed before, if that names the same skills, else in that of the snapshot. What cannot be accepted is passed to
/// `reject`, with its skill where that is known.
///
/// `positions` holds the position in `latest` of each entry of the snapshot, and until then that of the snapshot before at the same
/// index, which is where a skill is sought first: a list that is sorted by numbers changes its order often, and by little.
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
    let are_same = latest.is_some_and(|latest| latest.len() == accepted.len());
    if are_same && accepted.iter().all(|entry| entry.position.is_some()) {
        accepted.sort_unstable_by_key(|entry| entry.position);
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

    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;
    use crate::ledger::evidence::Listed;
    use crate::protocol::Number;

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
                let now = before.followed_by(listed);
                prop_assert_eq!(Arc::ptr_eq(now.names(), before.names()), are_same);
                prop_assert!(now.iter().all(|(name, totals)| *totals == Totals::from(&expected[&**name])));
                prop_assert_eq!(now.len(), expected.len());
                latest = Some(now);
            }
        }
    }
}
