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
use super::evidence::{Names, Totals};
use super::pending::{Increase, Offered, add};
use super::series_table::UNKNOWN_PHASE;
use super::source::{Gauge, SourceCounts, count_anomalies, find_or_insert};
use super::trace_step::TraceStep;

/// A list of this length may have left some out.
pub(super) const SKILLS_LISTED_MAX: usize = 10;

/// Up to so many entries are compared one by one to find a skill that is listed twice.
const PAIRWISE_MAX: usize = 32;

/// An entry of a snapshot that is accepted: its index in the snapshot's list, and its numbers.
pub(super) type Accepted = (usize, Listing);

/// The skill of an accepted entry.
pub(super) fn name_of<'s>(snapshot: &'s Snapshot<'_>, (index, _): &Accepted) -> &'s str {
    snapshot.skills[*index].as_ref().map_or("", |entry| &entry.skill_name)
}

/// Adds the entries of the skills that `filter` allows, and that can be accepted, to `accepted`. What cannot is passed to
/// `reject`, with its skill where that is known. `latest` are the skills that the feed listed before.
pub(super) fn accept(
    snapshot: &Snapshot<'_>,
    filter: Option<&str>,
    latest: Option<&Names>,
    accepted: &mut Vec<Accepted>,
    mut reject: impl FnMut(Option<&str>, Rejection),
) {
    let mut seen = HashSet::new();
    let mut latest = latest.map(Names::iter);
    for (index, entry) in snapshot.skills.iter().enumerate() {
        let entry = match entry {
            Ok(entry) => entry,
            Err(rejection) => {
                latest = None;
                reject(None, rejection.clone());
                continue;
            }
        };
        let name = &*entry.skill_name;
        // A list that names the same skills as the one before, in its order, names none twice.
        if latest.as_mut().and_then(Iterator::next).is_none_or(|known| **known != *name) {
            latest = None;
        }
        if filter.is_some_and(|filter| filter != name) {
            continue;
        }
        let is_repeated = if snapshot.skills.len() > PAIRWISE_MAX {
            !seen.insert(name)
        } else {
            latest.is_none() && snapshot.skills[..index].iter().flatten().any(|earlier| *earlier.skill_name == *name)
        };
        if is_repeated {
            let detail = format!("{name:?} is listed twice");
            reject(None, Rejection::new(RejectionReason::DuplicateEntry, detail));
            continue;
        }
        match listing_of(entry) {
            Ok(listing) => accepted.push((index, listing)),
            Err(rejection) => reject(Some(name), rejection),
        }
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
