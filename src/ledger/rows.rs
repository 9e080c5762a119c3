//! A source whose counts the rows of its database tell. Rule 8 of `docs/explanation/translation.md`.
//!
//! While rows move the counters, the remembered numbers of each skill are what the database held at the last row that was
//! read. They are what the server lists then, so that snapshots can be checked against them, and so that snapshots can
//! take over at any time and count from there.

use std::sync::Arc;
use std::time::Duration;

use crate::protocol::{AnomalyEntry, Rejection, RejectionReason};
use crate::skills_db::{HeldSkills, SkillMetrics};

use super::anomalies::AnomaliesFull;
use super::arithmetic::Listing;
use super::binding::Observation;
use super::check::{check_anomaly, check_label};
use super::context::ApplyContext;
use super::continuity::{Delta, Room, SourceNumbers, Step, Steps};
use super::database_mode::{AnomalyReading, AnomalyTally, InvocationRow, Numbers, SkillNumbers, ToldInvocation};
use super::evidence::{Listings, Totals};
use super::limits::{COUNT_MAX, Limits, OVERFLOW, SERIES_COUNT_MAX};
use super::notice::Notice;
use super::pending::{Increase, StreamedInvocation, add};
use super::records::UncoveredRows;
use super::series_table::UNKNOWN_PHASE;
use super::snapshot::difference;
use super::source::{Gauge, SkillCounts, SourceCounts, count_anomalies};

/// A skill disagrees with the rows once so many snapshots in a row list what its rows do not tell, over so long a time: one
/// may be late, or tell of rows that are not read yet.
const DISAGREEMENT_SNAPSHOTS: u32 = 5;
const DISAGREEMENT: Duration = Duration::from_secs(10);

/// Streamed anomalies that are held while it is open whether rows tell them.
const HELD_ANOMALIES_MAX: usize = 1_000;

/// What a skill was listed with lately, and what its rows told then.
#[derive(Debug, Default)]
pub(super) struct Comparison {
    /// What the previous snapshot listed: total, and completed where that is exact.
    listed: Option<(u64, Option<u64>)>,
    /// What the rows told when the previous snapshot arrived, and the one before it.
    told: Option<(u64, u64)>,
    told_before: Option<(u64, u64)>,
    disagreeing: u32,
    since: Duration,
    /// The connection that was in use when the two had disagreed for long: a later one has to confirm it.
    distrusted: Option<u64>,
}

impl Comparison {
    /// Notes what a snapshot lists and what the rows tell at its arrival, and judges the previous one, of which the rows
    /// have been read since. Returns whether the two have disagreed for long; `None` where they cannot be compared.
    fn judge(&mut self, listing: &Listing, told: Option<(u64, u64)>, now: Duration) -> Option<bool> {
        let listed = self.listed.replace((listing.total, listing.exact.then_some(listing.completed)));
        let (low, high) = (self.told_before, told);
        self.told_before = std::mem::replace(&mut self.told, told);
        let ((total, completed), low, high) = (listed?, low?, high?);
        let agrees = (low.0..=high.0).contains(&total)
            && completed.is_none_or(|completed| (low.1..=high.1).contains(&completed));
        if agrees {
            self.disagreeing = 0;
            self.distrusted = None;
            return Some(false);
        }
        if self.disagreeing == 0 {
            self.since = now;
        }
        self.disagreeing = self.disagreeing.saturating_add(1);
        let lasts = self.disagreeing >= DISAGREEMENT_SNAPSHOTS && now.saturating_sub(self.since) >= DISAGREEMENT;
        lasts.then_some(true)
    }
}

/// Which skills count: those that a configured feed of the source is subscribed to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Coverage {
    /// All of them.
    All,
    /// These.
    Only(Vec<Box<str>>),
}

impl Coverage {
    /// Of feeds with these filters.
    pub fn of<'a>(filters: impl Iterator<Item = Option<&'a str>>) -> Self {
        let skills: Option<Vec<Box<str>>> = filters.map(|filter| filter.map(Into::into)).collect();
        skills.map_or(Self::All, Self::Only)
    }

    fn covers(&self, name: &str) -> bool {
        match self {
            Self::All => true,
            Self::Only(skills) => skills.iter().any(|skill| **skill == *name),
        }
    }
}

/// The listings that a server makes of these numbers. Skills whose totals no listing can have are left out.
pub(super) fn listings(numbers: &Numbers, mut reject: impl FnMut(Rejection)) -> Listings {
    let mut entries = Vec::with_capacity(numbers.skills.len());
    for skill in &numbers.skills {
        match totals(skill) {
            Some(totals) => entries.push((Arc::from(&*skill.skill_name), totals)),
            None => reject(Rejection::new(
                RejectionReason::NumberOutOfRange,
                format!("the database counts more than 2^53 invocations of {:?}", skill.skill_name),
            )),
        }
    }
    Listings::new(entries)
}

/// The listings that a server makes of these rows of `skill_metrics`.
pub(super) fn metrics_listings(metrics: &[SkillMetrics]) -> Listings {
    let listed = metrics.iter().filter(|skill| (1..SERIES_COUNT_MAX).contains(&skill.total));
    Listings::new(listed.map(|skill| (Arc::from(&*skill.skill_name), metrics_totals(skill))).collect())
}

/// Whether `skill_metrics` hold what is remembered of their source.
pub(super) fn are_remembered(metrics: &HeldSkills, known: &SourceNumbers) -> bool {
    let is_same = |skill: &SkillMetrics| {
        let remembered = known.skill(&skill.skill_name).map_or(Totals::ZERO, |skill| skill.remembered);
        (skill.total, skill.completed.min(skill.total)) == (remembered.total, remembered.completed)
    };
    let held = metrics.skills.iter().filter(|skill| skill.total > 0).count();
    let remembered = known.iter().filter(|(_, skill)| skill.remembered.total > 0).count();
    (held == remembered || metrics.is_truncated) && metrics.skills.iter().all(is_same)
}

/// What is not read of a database that holds more than `skills_max` skills: those after `last`.
pub(super) fn too_many_skills(skills_max: usize, last: &str) -> Rejection {
    Rejection::new(
        RejectionReason::SkillLimit,
        format!("the database holds more than {skills_max} skills: the numbers of those after {last:?} are not read"),
    )
}

fn metrics_totals(skill: &SkillMetrics) -> Totals {
    let completed = skill.completed.min(skill.total);
    let duration_sum = listed_sum(skill.duration_seconds.and_then(valid), completed);
    Totals { total: skill.total, completed, split_is_exact: true, duration_sum }
}

fn totals(skill: &SkillNumbers) -> Option<Totals> {
    let total = skill.completed.checked_add(skill.abandoned).filter(|total| *total < SERIES_COUNT_MAX)?;
    let duration_sum = listed_sum(valid(skill.duration_sum), skill.completed);
    Some(Totals { total, completed: skill.completed, split_is_exact: true, duration_sum })
}

fn valid(seconds: f64) -> Option<f64> {
    Some(seconds).filter(|sum| sum.is_finite() && *sum >= 0.0)
}

/// The sum that follows from the mean which the server lists: it is rounded twice.
fn listed_sum(sum: Option<f64>, completed: u64) -> Option<f64> {
    if completed == 0 { Some(0.0) } else { sum.map(|sum| sum / completed as f64 * completed as f64) }
}

impl SourceCounts {
    /// Lets the database's patience pass.
    pub(super) fn tick_detail(&mut self, ctx: &mut ApplyContext<'_>) {
        if self.detail.tick(ctx.now.elapsed) {
            self.release(ctx);
        }
    }

    /// Snapshots and events move the counters from now on: no database is configured any more.
    pub fn leave_rows(&mut self, ctx: &mut ApplyContext<'_>) {
        if self.detail.leave() {
            self.release(ctx);
        }
    }

    /// Applies what was held for the rows: where no snapshot lists the skill, nothing else tells of it.
    fn release(&mut self, ctx: &mut ApplyContext<'_>) {
        let unlisted = self.skills.iter_mut().filter(|(_, skill)| !skill.listed);
        for (name, skill) in unlisted {
            let events = skill.pending.take_events();
            if events.is_empty() {
                continue;
            }
            self.pending_events -= events.len();
            self.changed_skills.mark(name.clone());
            for event in events {
                ctx.counting().event(skill.series, event.borrowed());
                skill.pending.give_credit(event.borrowed());
            }
            self.detail.note_alone();
        }
        for (is_identified, entry) in std::mem::take(&mut self.held_anomalies) {
            if let Err(rejection) = self.stream_anomaly(&entry, is_identified, ctx) {
                ctx.reject(rejection);
            }
        }
    }

    /// A streamed anomaly, while it is open whether rows tell it.
    pub(super) fn hold_anomaly(&mut self, entry: &AnomalyEntry<'_>, is_identified: bool) {
        if !self.detail.is_joined() && self.held_anomalies.len() < HELD_ANOMALIES_MAX {
            self.held_anomalies.push((is_identified, entry.clone().into_owned()));
        }
    }

    /// The remembered numbers have moved to what the database holds, at a change from snapshots to rows: what of it the
    /// rows to come count. What `steps` count beyond those rows was deleted before it was read, and counts as `unknown`.
    ///
    /// What it holds of a skill beyond what was counted has happened since; of a skill that was never counted, only if
    /// `is_observed`, or if the latest list named every skill and not this one.
    pub fn change_to_rows(
        &mut self,
        numbers: &Numbers,
        steps: &Steps,
        coverage: &Coverage,
        is_observed: bool,
        ctx: &mut ApplyContext<'_>,
    ) {
        for (name, step) in steps.iter() {
            let Ok(told) = numbers.skills.binary_search_by(|told| (*told.skill_name).cmp(name)) else {
                continue;
            };
            let told = &numbers.skills[told];
            let is_first = step.delta == Delta::First;
            let (is_unread, is_changed) = if is_first { self.unread.remove(name) } else { (false, false) };
            self.changed.mark_if(is_changed);
            let was_listed = self.skills.get(name).is_some_and(|skill| skill.listed);
            let is_new = self.previous_was_complete && !was_listed && !is_unread;
            let is_history = is_first && !is_observed && !is_new;
            let increase = self.increase_of(step, is_history);
            let (name, skill) = match self.skill(name, ctx) {
                Ok(found) => found,
                Err(rejection) => {
                    ctx.reject(rejection);
                    continue;
                }
            };
            // Events that were counted before any listing are in these numbers, too.
            let (credit, _) = skill.pending.credit();
            let (completed, abandoned) = increase.map_or((0, 0), |new| (new.completed, new.abandoned));
            // The numbers that are remembered can hold rows that an earlier reading did not come to.
            let (completed, abandoned) = (completed + skill.rows_uncounted.0, abandoned + skill.rows_uncounted.1);
            let fresh = (completed.saturating_sub(credit.0), abandoned.saturating_sub(credit.1));
            let dropped = skill.pending.end(skill.series, &mut ctx.counting());
            skill.rows_counted =
                (told.rows_completed.saturating_sub(fresh.0), told.rows_abandoned.saturating_sub(fresh.1));
            skill.rows_uncounted = (fresh.0.min(told.rows_completed), fresh.1.min(told.rows_abandoned));
            skill.rows_are_history |= is_history;
            let unread = (fresh.0 - skill.rows_uncounted.0, fresh.1 - skill.rows_uncounted.1);
            let is_covered = coverage.covers(&name);
            skill.count_unread(unread, is_covered, is_history, ctx);
            skill.row_seconds = valid(told.duration_sum);
            if is_covered {
                skill.show_numbers(&step.to);
            }
            self.pending_events -= dropped;
            self.rates_changed.push(name.clone());
            self.changed_histories.mark(name.clone());
            self.changed_skills.mark(name);
        }
        self.pending_increases.clear();
        self.has_unread_rows = true;
    }

    /// Counts the rows that are in the remembered numbers and that nobody comes to read: snapshots go on from those numbers, or
    /// the rows were deleted before they were read. They count without phase and duration.
    pub fn settle_unread_rows(&mut self, ctx: &mut ApplyContext<'_>) {
        if !std::mem::take(&mut self.has_unread_rows) {
            return;
        }
        let coverage = self.coverage.clone().unwrap_or(Coverage::All);
        for (name, skill) in self.skills.iter_mut() {
            let is_history = std::mem::take(&mut skill.rows_are_history);
            let uncounted = std::mem::take(&mut skill.rows_uncounted);
            let counted = std::mem::take(&mut skill.rows_counted);
            if is_history || (uncounted, counted) != ((0, 0), (0, 0)) {
                skill.count_unread(uncounted, coverage.covers(name), is_history, ctx);
                self.changed_skills.mark(name.clone());
            }
        }
    }

    fn increase_of(&self, step: &Step, is_history: bool) -> Option<Increase> {
        match step.delta {
            Delta::First => {
                let (completed, abandoned) = (step.to.completed, step.to.abandoned());
                Some(Increase { completed, abandoned, durations: None, history: is_history })
            }
            Delta::From(base) => difference(&base, &step.to),
            Delta::Unchanged | Delta::Moved(_) => None,
        }
    }

    /// Sets the remembered numbers to what the database holds, which rows told before: it was cut back.
    pub fn follow_numbers(
        &mut self,
        known: &mut SourceNumbers,
        numbers: &Numbers,
        held: &Observation<'_>,
        coverage: &Coverage,
        ctx: &mut ApplyContext<'_>,
    ) {
        let listings = &*held.listings;
        let before: Vec<(Arc<str>, Totals)> =
            known.iter().map(|(name, skill)| (name.clone(), skill.remembered)).collect();
        if held.room == Room::Enough {
            known.zero_missing(listings);
        }
        for (name, totals) in listings.iter() {
            known.set(name, *totals, 0);
            let told = numbers.skills.binary_search_by(|told| (*told.skill_name).cmp(name));
            let told = told.ok().map(|index| &numbers.skills[index]);
            let Ok((name, skill)) = self.skill(name, ctx) else { continue };
            skill.row_seconds = told.and_then(|told| valid(told.duration_sum));
            if coverage.covers(&name) {
                skill.show_numbers(totals);
            }
            let dropped = skill.pending.end(skill.series, &mut ctx.counting());
            self.pending_events -= dropped;
            self.rates_changed.push(name.clone());
            self.changed_histories.mark(name.clone());
            self.changed_skills.mark(name);
        }
        let is_read = |name: &str| held.room == Room::Enough || listings.contains(name);
        for (name, before) in before.into_iter().filter(|(name, _)| is_read(name)) {
            let Some(skill) = self.skills.get_mut(&name) else { continue };
            let (now, of_rows) = (listings.get(&name).copied().unwrap_or(Totals::ZERO), {
                let told = numbers.skills.binary_search_by(|told| (*told.skill_name).cmp(&name));
                told.map_or((0, 0), |index| {
                    (numbers.skills[index].rows_completed, numbers.skills[index].rows_abandoned)
                })
            });
            // The newest are gone, and those are the ones that were not exposed.
            let left = (now.completed.saturating_sub(of_rows.0), now.abandoned().saturating_sub(of_rows.1));
            skill.lose_uncovered(&before, left);
            skill.lose_unread_rows(of_rows);
            self.changed_skills.mark(name);
        }
    }

    /// Counts the rows that are new, and what `skill_metrics` hold beyond all rows.
    pub fn count_rows(
        &mut self,
        known: &mut SourceNumbers,
        rows: Vec<InvocationRow>,
        coverage: &Coverage,
        ctx: &mut ApplyContext<'_>,
    ) {
        self.detail.invocations.compare(rows.iter().map(|row| row.fingerprint));
        for row in rows {
            if let Err(rejection) = self.count_row(known, row, coverage, ctx) {
                ctx.reject(rejection);
            }
        }
    }

    fn count_row(
        &mut self,
        known: &mut SourceNumbers,
        row: InvocationRow,
        coverage: &Coverage,
        ctx: &mut ApplyContext<'_>,
    ) -> Result<(), Rejection> {
        let id = row.fingerprint.key;
        let is_known = self.detail.note_invocation(&row);
        let is_after_numbers = id > self.detail.remembered_until;
        let Some(name) = &row.skill_name else { return row.told.map(drop) };
        let is_covered = coverage.covers(name);
        let (name, _) = self.skill(name, ctx)?;
        let Some(skill) = self.skills.get_mut(&name) else { return Ok(()) };
        let is_history = skill.rows_are_history && !is_after_numbers;
        if let Some(completed) = row.completed
            && is_after_numbers
        {
            let totals = skill.add_row(known.skill(&name).map(|skill| skill.remembered), completed, row.summed_seconds);
            known.set(&name, totals, 0);
            if is_covered {
                skill.show_numbers(&totals);
            }
            self.rates_changed.push(name.clone());
            self.changed_histories.mark(name.clone());
        }
        self.changed_skills.mark(name.clone());
        let was_counted = match row.completed {
            Some(completed) if !is_after_numbers => skill.pass_row(completed, is_known),
            _ => is_known,
        };
        let (told, completed) = match (row.told, row.completed) {
            (Err(rejection), _) if is_covered => return Err(rejection),
            (Err(_), _) | (Ok(_), None) => return Ok(()),
            (Ok(told), Some(completed)) => (told, completed),
        };
        if let Some(micros) = row.invoked_micros {
            skill.note_invoked(micros, is_covered, ctx);
        }
        if was_counted {
            return Ok(());
        }
        if is_covered {
            return count(skill, told, completed, is_history, ctx);
        }
        skill.count_unread((u64::from(completed), u64::from(!completed)), false, is_history, ctx);
        if let Some(error_type) = told.failure {
            skill.uncovered_rows.get_or_insert_default().add_failure(&error_type, ctx.limits);
        }
        Ok(())
    }

    /// Skills fell to `now`: of those to which no feed is subscribed, the newest invocations are gone.
    pub fn lose_uncovered(&mut self, before: &[(Arc<str>, Totals)], now: &SourceNumbers) {
        for (name, before) in before {
            let now = now.skill(name).map_or(Totals::ZERO, |skill| skill.remembered);
            if let Some(skill) = self.skills.get_mut(name).filter(|_| now.total < before.total) {
                skill.lose_uncovered(before, (now.completed, now.abandoned()));
                self.changed_skills.mark(name.clone());
            }
        }
    }

    /// Counts what `skill_metrics` hold beyond the rows, as a snapshot would count it: without phase and duration. The
    /// remembered numbers have moved to them.
    pub fn count_beyond_rows(
        &mut self,
        steps: &Steps,
        metrics: &[SkillMetrics],
        coverage: &Coverage,
        ctx: &mut ApplyContext<'_>,
    ) {
        for (name, step) in steps.iter().filter(|(_, step)| step.delta != Delta::Unchanged) {
            let increase = self.increase_of(step, false);
            let (name, skill) = match self.skill(name, ctx) {
                Ok(found) => found,
                Err(rejection) => {
                    ctx.reject(rejection);
                    continue;
                }
            };
            let is_covered = coverage.covers(&name);
            let unread = increase.map_or((0, 0), |increase| (increase.completed, increase.abandoned));
            skill.count_unread(unread, is_covered, false, ctx);
            let sum = metrics.iter().find(|skill| *skill.skill_name == *name).and_then(|skill| skill.duration_seconds);
            skill.row_seconds = sum.and_then(valid);
            if is_covered {
                skill.show_numbers(&step.to);
            }
            self.rates_changed.push(name.clone());
            self.changed_histories.mark(name.clone());
            self.changed_skills.mark(name);
        }
    }

    /// Exposes what rows have told of skills to which no feed was subscribed, and now one is.
    pub fn reveal(&mut self, known: &SourceNumbers, coverage: &Coverage, ctx: &mut ApplyContext<'_>) {
        for (name, skill) in self.skills.iter_mut().filter(|(name, _)| coverage.covers(name)) {
            let uncovered = std::mem::take(&mut skill.uncovered);
            let rows = skill.uncovered_rows.take();
            if uncovered == (0, 0) && rows.is_none() {
                continue;
            }
            skill.count_unread(uncovered, true, true, ctx);
            let UncoveredRows { failures, last_invoked_micros } = rows.map(|rows| *rows).unwrap_or_default();
            for (error_type, more) in failures {
                ctx.series_table.add_failures(skill.series, &error_type, more, None, ctx.limits);
            }
            if let Some(micros) = last_invoked_micros {
                ctx.series_table.note_invoked(skill.series, micros);
            }
            if let Some(known) = known.skill(name) {
                skill.show_numbers(&known.remembered);
            }
            self.rates_changed.push(name.clone());
            self.changed_skills.mark(name.clone());
        }
        for (skill_name, anomaly_type, hidden) in self.anomalies.reveal(|name| coverage.covers(name)) {
            let entry = AnomalyEntry {
                skill_name: skill_name.as_ref().into(),
                anomaly_type: anomaly_type.as_ref().into(),
                detected_at: None,
                deviation_score: None,
            };
            let _ = count_anomalies(&entry, Ok(hidden), None, ctx);
        }
    }

    /// Counts anomalies that rows tell.
    ///
    /// At a changeover snapshots may have listed some of them.
    pub fn count_anomaly_rows(
        &mut self,
        reading: &AnomalyReading,
        is_changeover: bool,
        coverage: &Coverage,
        ctx: &mut ApplyContext<'_>,
    ) {
        let now_micros = ctx.now.wall_micros;
        self.detail.anomalies.follow(reading.continuity);
        self.detail.anomalies.compare(reading.rows.iter().map(|row| row.fingerprint));
        self.anomalies.begin_round();
        for row in &reading.rows {
            let is_known = self.detail.anomalies.note(row.fingerprint);
            let entry = match &row.told {
                Ok(entry) => entry,
                Err(rejection) => {
                    ctx.reject(rejection.clone());
                    continue;
                }
            };
            let counts = !is_known && reading.tallies.is_none();
            let counted = check_anomaly(entry, ctx.limits).and_then(|()| {
                let increase = if counts && is_changeover {
                    self.anomalies.tell_listed(entry, now_micros, ctx.limits)
                } else {
                    self.anomalies.tell(entry, counts, now_micros, ctx.limits)
                };
                self.count_told(entry, increase, Some(now_micros), coverage, ctx)
            });
            if let Err(rejection) = counted {
                ctx.reject(rejection);
            }
        }
        for AnomalyTally { skill_name, anomaly_type, times } in reading.tallies.iter().flatten() {
            let entry = AnomalyEntry {
                skill_name: skill_name.as_ref().into(),
                anomaly_type: anomaly_type.as_ref().into(),
                detected_at: None,
                deviation_score: None,
            };
            let counted = check_anomaly(&entry, ctx.limits).and_then(|()| {
                let increase = self.anomalies.tell_number(&entry, *times, ctx.limits);
                self.count_told(&entry, increase, None, coverage, ctx)
            });
            if let Err(rejection) = counted {
                ctx.reject(rejection);
            }
        }
        self.anomalies.forget_old(now_micros);
    }

    /// Counts anomalies that rows told and of which `increase` are new, or hides them where no feed is subscribed to the skill.
    fn count_told(
        &mut self,
        entry: &AnomalyEntry<'_>,
        increase: Result<u64, AnomaliesFull>,
        created_micros: Option<i64>,
        coverage: &Coverage,
        ctx: &mut ApplyContext<'_>,
    ) -> Result<(), Rejection> {
        match increase {
            Ok(hidden) if !coverage.covers(&entry.skill_name) => {
                self.anomalies.hide(entry, hidden, ctx.limits);
                Ok(())
            }
            increase => count_anomalies(entry, increase, created_micros, ctx),
        }
    }

    /// A snapshot while the counters are not its own to move: it sets rates, and is compared with what the rows told.
    /// Returns whether the skill begins to disagree.
    pub fn list_beside_rows(
        &mut self,
        name: &str,
        listing: &Listing,
        remembered: Option<Totals>,
        ctx: &mut ApplyContext<'_>,
    ) -> Result<bool, Rejection> {
        let is_joined = self.detail.is_joined() && !self.detail.has_more;
        let (name, _) = self.skill(name, ctx)?;
        let Some(skill) = self.skills.get_mut(&name) else { return Ok(false) };
        let is_other = skill.set_gauge(Gauge::from(listing));
        ctx.series_table.set_listed(skill.series, ctx.now.wall_micros);
        let was_listed = std::mem::replace(&mut skill.listed, true);
        let told = remembered.filter(|_| is_joined).map(|numbers| (numbers.total, numbers.completed));
        let comparison = skill.comparison.get_or_insert_default();
        let judged = comparison.judge(listing, told, ctx.now.elapsed).filter(|disagrees| {
            // What is open may be what nobody writes any more: only what is there now can disagree.
            !disagrees || {
                let distrusted = *comparison.distrusted.get_or_insert_with(|| self.detail.distrust());
                self.detail.is_read_after(distrusted)
            }
        });
        let is_news = judged.is_some_and(|disagrees| std::mem::replace(&mut skill.disagrees, disagrees) != disagrees);
        let begins = is_news && skill.disagrees;
        if begins {
            let told = told.map_or(0, |(total, _)| total);
            let (skill_name, listed) = (name.to_string(), listing.total);
            ctx.notices.push(Notice::DetailMismatch { skill_name, listed, told });
        }
        if is_other {
            self.rates_changed.push(name.clone());
        }
        if is_other || is_news || !was_listed {
            self.changed_skills.mark(name);
        }
        Ok(begins)
    }
}

fn count(
    skill: &SkillCounts,
    told: ToldInvocation,
    completed: bool,
    is_history: bool,
    ctx: &mut ApplyContext<'_>,
) -> Result<(), Rejection> {
    let workflow_phase = told.workflow_phase.as_deref();
    if let Some(phase) = workflow_phase {
        check_label(phase, "workflow_phase", ctx.limits)?;
    }
    let phase = workflow_phase.unwrap_or(UNKNOWN_PHASE);
    if is_history && ctx.series_table.has_shown(skill.series, phase) {
        add(&mut ctx.rules.backfilled_invocations, 1);
    }
    let event =
        StreamedInvocation { workflow_phase, completed, duration_seconds: told.duration_seconds, session_id: None };
    let created_micros = (!is_history).then_some(ctx.now.wall_micros);
    ctx.counting().invocation(skill.series, event, created_micros);
    // With the invocation, so that a failure counts as often as its row does.
    if let Some(error_type) = told.failure {
        ctx.series_table.add_failures(skill.series, &error_type, 1, created_micros, ctx.limits);
    }
    Ok(())
}

impl UncoveredRows {
    fn add_failure(&mut self, error_type: &str, limits: &Limits) {
        let position = |name: &str| self.failures.iter().position(|(known, _)| **known == *name);
        let is_full = self.failures.len() >= limits.error_types_per_skill_max;
        let (name, found) = match position(error_type) {
            None if is_full => (OVERFLOW, position(OVERFLOW)),
            found => (error_type, found),
        };
        match found {
            Some(position) => add(&mut self.failures[position].1, 1),
            None => self.failures.push((name.into(), 1)),
        }
    }

    /// Adds what another source, which turned out to be the same, remembers: of each type the greater number.
    pub(super) fn join(&mut self, other: Self) {
        for (error_type, theirs) in other.failures {
            match self.failures.iter_mut().find(|(known, _)| *known == error_type) {
                Some((_, own)) => *own = theirs.max(*own),
                None => self.failures.push((error_type, theirs)),
            }
        }
        self.last_invoked_micros = self.last_invoked_micros.max(other.last_invoked_micros);
    }

    /// Leaves at most so many failures. Which of them are gone is not known: those of the types that came last are.
    fn bound_failures(&mut self, failures_max: u64) {
        let mut left = failures_max;
        for (_, count) in &mut self.failures {
            *count = left.min(*count);
            left -= *count;
        }
        self.failures.retain(|(_, count)| *count > 0);
    }
}

impl SkillCounts {
    /// Counts completed and other invocations of which no row tells; or remembers them, where no feed is subscribed to the
    /// skill.
    fn count_unread(
        &mut self,
        (completed, abandoned): (u64, u64),
        is_covered: bool,
        is_history: bool,
        ctx: &mut ApplyContext<'_>,
    ) {
        if is_covered {
            let increase = Increase { completed, abandoned, durations: None, history: is_history };
            ctx.counting().increase(self.series, &increase);
        } else {
            self.uncovered.0 = self.uncovered.0.saturating_add(completed).min(COUNT_MAX / 2);
            self.uncovered.1 = self.uncovered.1.saturating_add(abandoned).min(COUNT_MAX / 2);
        }
    }

    /// The database fell from `before` to `left`, completed and other invocations: the newest are gone, which are those that
    /// are not exposed.
    fn lose_uncovered(&mut self, before: &Totals, left: (u64, u64)) {
        self.uncovered.0 = self.uncovered.0.saturating_sub(before.completed.saturating_sub(left.0));
        self.uncovered.1 = self.uncovered.1.saturating_sub(before.abandoned().saturating_sub(left.1));
        self.bound_uncovered_rows();
    }

    /// Failures that are not exposed are among the abandoned invocations that are not.
    pub(super) fn bound_uncovered_rows(&mut self) {
        if let Some(rows) = &mut self.uncovered_rows {
            rows.bound_failures(self.uncovered.1);
        }
    }

    /// A row says that the skill was invoked at this time, in microseconds since the Unix epoch.
    fn note_invoked(&mut self, micros: i64, is_covered: bool, ctx: &mut ApplyContext<'_>) {
        if is_covered {
            ctx.series_table.note_invoked(self.series, micros);
        } else {
            let latest = &mut self.uncovered_rows.get_or_insert_default().last_invoked_micros;
            *latest = (*latest).max(Some(micros));
        }
    }

    /// Passes a row that is in the remembered numbers. Whether it was counted before; `is_known` says so of the row itself.
    fn pass_row(&mut self, completed: bool, is_known: bool) -> bool {
        let (counted, uncounted) = match completed {
            true => (&mut self.rows_counted.0, &mut self.rows_uncounted.0),
            false => (&mut self.rows_counted.1, &mut self.rows_uncounted.1),
        };
        let was_counted = *counted > 0;
        let left = if was_counted { counted } else { uncounted };
        *left = left.saturating_sub(1);
        is_known || was_counted
    }

    /// The database was cut back: only so many rows, completed and other ones, are left to be read.
    fn lose_unread_rows(&mut self, left: (u64, u64)) {
        let bound = |rows: (u64, u64), left: (u64, u64)| (rows.0.min(left.0), rows.1.min(left.1));
        self.rows_uncounted = bound(self.rows_uncounted, left);
        self.rows_counted = bound(self.rows_counted, left);
    }

    /// The numbers after one more row.
    fn add_row(&mut self, remembered: Option<Totals>, completed: bool, seconds: f64) -> Totals {
        let mut numbers = remembered.unwrap_or(Totals::ZERO);
        numbers.total += 1;
        if numbers.total == 1 {
            self.row_seconds = Some(0.0);
        }
        if completed {
            numbers.completed += 1;
            // In the order of the rows, as the server adds them up: the two sums are the same number.
            self.row_seconds = self.row_seconds.and_then(|sum| valid(sum + seconds));
        }
        numbers.duration_sum = listed_sum(self.row_seconds, numbers.completed);
        numbers
    }

    fn show_numbers(&mut self, numbers: &Totals) {
        if numbers.total > 0 {
            let (total, completed) = (numbers.total as f64, numbers.completed as f64);
            self.set_gauge(Gauge { total, completed, rate_percent: completed / total * 100.0 });
        }
    }
}
