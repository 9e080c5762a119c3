//! What a source carries to count with: what of its skills is pending, which events and anomalies were counted, where its
//! database was read to. The numbers themselves are in [`super::continuity`].

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use crate::protocol::{AnomalyEntry, Rejection, RejectionReason};

use super::anomalies::{Anomalies, AnomaliesFull};
use super::arithmetic::Listing;
use super::binding::Counts;
use super::check::check_skill_name;
use super::context::ApplyContext;
use super::database_mode::DatabaseMode;
use super::dedup::EventIds;
use super::dirty::{Dirty, DirtyFlag, Persistence};
use super::limits::Limits;
use super::notice::Notice;
use super::pending::{Pending, WAIT, add};
use super::records::UncoveredRows;
use super::rows::{Comparison, Coverage};
use super::series::{SeenAnomaly, SkillIndex};
use super::skill_table::SkillTable;
use super::trace_step::TraceStep;

/// How long events that no snapshot has met may wait once there are too many of them.
const UNLISTED_PATIENCE: Duration = Duration::from_secs(60);

/// Names that were listed only with numbers that could not be accepted.
const UNREAD_MAX: usize = 1_000;

/// The time of the latest snapshot moves with every snapshot. It is persisted when it has moved by this much, so that a
/// snapshot that changes nothing needs nothing persisted.
const PREVIOUS_PERSISTED_EVERY_MICROS: i64 = 600 * 1_000_000;

/// What a source carries to count with.
#[derive(Debug, Default)]
pub(super) struct SourceCounts {
    pub skills: SkillTable<SkillCounts>,
    /// Skills whose past is unknown although no accepted list named them.
    pub unread: Unread,
    /// Skills of which this source's gauge changed since [`SourceCounts::take_rates_changed`].
    pub rates_changed: Vec<Arc<str>>,
    /// Whether the previous unfiltered snapshot named every skill of the database.
    pub previous_was_complete: bool,
    /// The server's time of the previous unfiltered snapshot.
    pub previous_micros: Option<i64>,
    pub persisted_micros: Option<i64>,
    pub streams_invocations: bool,
    pub pending_increases: VecDeque<(Duration, Arc<str>)>,
    pub pending_events: usize,
    /// Whether some skills may have rows that are yet to be read and are in the remembered numbers.
    pub has_unread_rows: bool,
    pub event_ids: EventIds,
    pub anomalies: Anomalies,
    /// What is remembered of its database.
    pub detail: DatabaseMode,
    /// Which skills counted when its rows were read last.
    pub coverage: Option<Coverage>,
    /// Streamed anomalies, and whether each had an identifier, while it is open whether rows tell them.
    pub held_anomalies: Vec<(bool, AnomalyEntry<'static>)>,
    /// What has to be persisted: the source itself, and which of its skills and histories.
    pub changed: DirtyFlag,
    pub changed_skills: Dirty<Arc<str>>,
    pub changed_histories: Dirty<Arc<str>>,
    pub changed_damages: DirtyFlag,
}

/// What a source carries to count one skill with.
#[derive(Debug)]
pub(super) struct SkillCounts {
    pub series: SkillIndex,
    /// Whether a snapshot ever listed it.
    pub listed: bool,
    pub gauge: Option<Gauge>,
    pub streamed_rate: Option<f64>,
    pub pending: Pending,
    /// Completed and other rows that are yet to be read and that snapshots have counted.
    pub rows_counted: (u64, u64),
    /// Completed and other rows that are yet to be read, that are in the remembered numbers and that nothing has counted: what
    /// was counted of the skill is what is remembered without them.
    pub rows_uncounted: (u64, u64),
    /// Whether they had happened before the skill was observed.
    pub rows_are_history: bool,
    /// Completed and other invocations that are in the remembered numbers and not exposed: they happened while no feed was
    /// subscribed to the skill.
    pub uncovered: (u64, u64),
    /// What the rows of these invocations contain beside their numbers.
    pub uncovered_rows: Option<Box<UncoveredRows>>,
    /// Seconds of the completed invocations that rows told, added up as the server does.
    pub row_seconds: Option<f64>,
    /// Only where there are rows to compare with.
    pub comparison: Option<Box<Comparison>>,
    /// Whether what is listed is known to disagree with the rows.
    pub disagrees: bool,
}

/// What a source adds to a skill's completion rate.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Gauge {
    pub total: f64,
    pub completed: f64,
    pub rate_percent: f64,
}

impl From<&Listing> for Gauge {
    fn from(listing: &Listing) -> Self {
        let total = listing.total as f64;
        let completed = if listing.exact { listing.completed as f64 } else { total * listing.rate_percent / 100.0 };
        Self { total, completed, rate_percent: listing.rate_percent }
    }
}

/// Skills that were listed only with numbers that could not be accepted: their past is unknown.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Unread {
    names: BTreeSet<Arc<str>>,
    /// Whether there were more than can be remembered, so that it is unknown of every skill.
    has_overflowed: bool,
}

impl Unread {
    pub fn restore(names: Vec<Arc<str>>, has_overflowed: bool) -> Self {
        Self { names: names.into_iter().collect(), has_overflowed }
    }

    pub fn names(&self) -> impl Iterator<Item = &Arc<str>> {
        self.names.iter()
    }

    pub fn has_overflowed(&self) -> bool {
        self.has_overflowed
    }

    /// Adds a name. Returns whether anything changed.
    pub fn insert(&mut self, name: &str) -> bool {
        if self.names.contains(name) {
            return false;
        }
        if self.names.len() < UNREAD_MAX {
            return self.names.insert(name.into());
        }
        !std::mem::replace(&mut self.has_overflowed, true)
    }

    /// The skill is listed with numbers that can be accepted. Returns whether its past is unknown, and whether anything
    /// changed.
    pub fn remove(&mut self, name: &str) -> (bool, bool) {
        let was_unread = self.names.remove(name);
        (was_unread || self.has_overflowed, was_unread)
    }
}

impl Counts for SourceCounts {
    fn new(persistence: Persistence) -> Self {
        Self {
            anomalies: Anomalies::new(persistence),
            changed_skills: Dirty::new(persistence),
            changed_histories: Dirty::new(persistence),
            ..Self::default()
        }
    }

    fn anomaly_bits(&self, anomalies: &[Result<AnomalyEntry<'_>, Rejection>]) -> f64 {
        self.anomalies.evidence(anomalies)
    }

    fn is_read(&self) -> bool {
        !self.detail.leaves_alone()
    }

    fn mark_changed(&mut self) {
        self.changed.mark();
    }

    fn mark_damages_changed(&mut self) {
        self.changed_damages.mark();
    }

    fn expect_rows(&mut self) {
        self.detail.expect();
    }

    fn join(&mut self, younger: Self, limits: &Limits) -> Vec<Arc<str>> {
        let mut forgotten = Vec::new();
        for (name, theirs) in younger.skills {
            if self.skills.len() >= limits.remembered_skills_max && !self.skills.contains(&name) {
                forgotten.push(name);
                continue;
            }
            self.changed_skills.mark(name.clone());
            self.changed_histories.mark(name.clone());
            match self.skills.get_mut(&name) {
                Some(skill) => {
                    let now = younger.pending_increases.front().map_or(Duration::ZERO, |(since, _)| *since);
                    let events = skill.pending.events() + theirs.pending.events();
                    let new = skill.pending.join(theirs.pending);
                    self.pending_events += skill.pending.events();
                    self.pending_events -= events.min(self.pending_events).min(events);
                    self.pending_increases.extend(std::iter::repeat_n((now, name.clone()), new));
                    skill.listed |= theirs.listed;
                    // What either has counted is counted.
                    skill.rows_uncounted.0 = skill.rows_uncounted.0.min(theirs.rows_uncounted.0);
                    skill.rows_uncounted.1 = skill.rows_uncounted.1.min(theirs.rows_uncounted.1);
                    skill.uncovered.0 = skill.uncovered.0.max(theirs.uncovered.0);
                    skill.uncovered.1 = skill.uncovered.1.max(theirs.uncovered.1);
                    if let Some(theirs) = theirs.uncovered_rows {
                        skill.uncovered_rows.get_or_insert_default().join(*theirs);
                    }
                    skill.bound_uncovered_rows();
                    skill.gauge = skill.gauge.or(theirs.gauge);
                    skill.streamed_rate = skill.streamed_rate.or(theirs.streamed_rate);
                }
                None => {
                    let increases = theirs.pending.increases();
                    let now = younger.pending_increases.front().map_or(Duration::ZERO, |(since, _)| *since);
                    self.pending_increases.extend(std::iter::repeat_n((now, name.clone()), increases));
                    self.skills.insert(name.clone(), theirs);
                }
            }
            self.rates_changed.push(name);
        }
        self.pending_events = self.skills.values().map(|skill| skill.pending.events()).sum();
        for name in younger.unread.names {
            self.unread.insert(&name);
        }
        self.streams_invocations |= younger.streams_invocations;
        self.has_unread_rows |= younger.has_unread_rows;
        self.previous_was_complete = false;
        self.event_ids.join(younger.event_ids, limits.event_ids_max);
        self.anomalies.join(younger.anomalies, limits);
        if !self.detail.was_joined() && younger.detail.was_joined() {
            self.detail = younger.detail;
            self.detail.mark_all();
        }
        // Which of the rows to come the younger one has counted the numbers tell.
        self.detail.require_numbers();
        self.held_anomalies.extend(younger.held_anomalies);
        self.changed.mark();
        self.changed_damages.mark();
        forgotten
    }

    fn fork(&self) -> Self {
        let new = Self::new(self.changed_skills.persistence());
        let mut fork = Self { anomalies: self.anomalies.fork(), changed: DirtyFlag::NEW, ..new };
        fork.changed_damages.mark();
        for (name, skill) in self.skills.iter() {
            fork.changed_skills.mark(name.clone());
            fork.changed_histories.mark(name.clone());
            let (pending, row_seconds) = (skill.pending.fork(), skill.row_seconds);
            // Common rows that are yet to be read count once, for the source from which this one diverged.
            let (counted, uncounted) = (skill.rows_counted, skill.rows_uncounted);
            let rows_counted = (counted.0 + uncounted.0, counted.1 + uncounted.1);
            let forked = SkillCounts { pending, row_seconds, rows_counted, ..SkillCounts::new(skill.series) };
            fork.skills.insert(name.clone(), forked);
        }
        fork.has_unread_rows = self.has_unread_rows;
        fork.unread = self.unread.clone();
        fork.detail = self.detail.fork();
        fork
    }
}

impl SkillCounts {
    pub fn new(series: SkillIndex) -> Self {
        Self {
            series,
            listed: false,
            gauge: None,
            streamed_rate: None,
            pending: Pending::default(),
            rows_counted: (0, 0),
            rows_uncounted: (0, 0),
            rows_are_history: false,
            uncovered: (0, 0),
            uncovered_rows: None,
            row_seconds: None,
            comparison: None,
            disagrees: false,
        }
    }

    /// Returns whether the gauge was another.
    pub fn set_gauge(&mut self, gauge: Gauge) -> bool {
        self.gauge.replace(gauge) != Some(gauge)
    }
}

impl SourceCounts {
    /// The gauge and the streamed rate of a skill.
    pub fn rate(&self, skill_name: &str) -> (Option<Gauge>, Option<f64>) {
        self.skills.get(skill_name).map_or((None, None), |skill| (skill.gauge, skill.streamed_rate))
    }

    /// Every skill that this source has a rate of.
    pub fn rated(&self) -> Vec<Arc<str>> {
        let is_rated = |(_, skill): &(&Arc<str>, &SkillCounts)| skill.gauge.is_some() || skill.streamed_rate.is_some();
        self.skills.iter().filter(is_rated).map(|(name, _)| name.clone()).collect()
    }

    pub fn take_rates_changed(&mut self) -> Vec<Arc<str>> {
        std::mem::take(&mut self.rates_changed)
    }

    /// When the oldest pending increase has waited long enough, in elapsed time.
    pub fn deadline(&self) -> Option<Duration> {
        let increases = self.pending_increases.front().map(|(since, _)| *since + WAIT);
        increases.into_iter().chain(self.detail.deadline()).min()
    }

    /// Counts what has waited long enough.
    pub fn tick(&mut self, ctx: &mut ApplyContext<'_>) {
        self.tick_detail(ctx);
        while let Some((since, _)) = self.pending_increases.front()
            && ctx.now.elapsed.saturating_sub(*since) >= WAIT
        {
            let Some((_, name)) = self.pending_increases.pop_front() else { return };
            if let Some(skill) = self.skills.get_mut(&name) {
                let elapsed = ctx.now.elapsed;
                skill.pending.settle_increases(skill.series, &mut ctx.counting(), elapsed);
                ctx.trace(|| TraceStep::RiseSettled { skill_name: name.to_string() });
                self.changed_skills.mark(name);
            }
        }
    }

    /// The skill of this name, which is made if there is none.
    ///
    /// # Errors
    /// A name that cannot be accepted, or no room for another skill.
    pub fn skill(&mut self, name: &str, ctx: &mut ApplyContext<'_>) -> Result<(Arc<str>, &mut SkillCounts), Rejection> {
        let (name, skill) = find_or_insert(&mut self.skills, &mut self.changed_skills, name, ctx)?;
        Ok((name.clone(), skill))
    }

    /// At the limit of pending events those that have waited for a minute are dropped, and if there are none, all: they are
    /// events of skills that no snapshot lists.
    pub fn make_room_for_events(&mut self, ctx: &mut ApplyContext<'_>) {
        for patience in [UNLISTED_PATIENCE, Duration::ZERO] {
            let mut dropped = 0;
            for (name, skill) in self.skills.iter_mut() {
                let of_this = skill.pending.drop_old_events(patience, ctx.now.elapsed);
                if of_this > 0 {
                    self.changed_skills.mark(name.clone());
                }
                dropped += of_this;
            }
            self.drop_events(dropped, ctx);
            if dropped > 0 {
                return;
            }
        }
    }

    pub fn drop_events(&mut self, dropped: usize, ctx: &mut ApplyContext<'_>) {
        if dropped > 0 {
            self.pending_events -= dropped;
            super::pending::add(&mut ctx.rules.late_events, dropped as u64);
            ctx.notices.push(Notice::LateEvents { events: dropped as u64 });
        }
    }

    /// Notes the server's time of a snapshot.
    pub fn note_time(&mut self, this_micros: Option<i64>) {
        self.previous_micros = this_micros.or(self.previous_micros);
        let times = self.previous_micros.zip(self.persisted_micros);
        let lag = times.map_or(i64::MAX, |(now, persisted)| now.saturating_sub(persisted));
        self.changed.mark_if(lag >= PREVIOUS_PERSISTED_EVERY_MICROS);
    }

    /// Whether there is something to persist.
    pub fn has_changed(&self) -> bool {
        self.changed.is_set()
            || self.changed_damages.is_set()
            || !self.changed_skills.is_empty()
            || !self.changed_histories.is_empty()
            || self.event_ids.has_new()
            || self.anomalies.has_changed()
            || self.detail.has_changed()
    }

    /// Nothing of it is persistent any more. `names` are those of all skills with numbers.
    pub fn mark_all<'n>(&mut self, names: impl Iterator<Item = &'n Arc<str>>) {
        self.changed.mark();
        self.skills.names().for_each(|name| self.changed_skills.mark(name.clone()));
        names.for_each(|name| self.changed_histories.mark(name.clone()));
        self.changed_damages.mark();
        self.event_ids.mark_all();
        self.anomalies.mark_all();
        self.detail.mark_all();
    }

    /// What was collected last is persistent.
    pub fn acknowledge(&mut self) {
        self.changed.acknowledge();
        self.changed_damages.acknowledge();
        self.changed_skills.acknowledge();
        self.changed_histories.acknowledge();
        self.event_ids.acknowledge();
        self.anomalies.acknowledge();
        self.detail.acknowledge();
    }
}

/// [`SourceCounts::skill`], of a source whose other parts are in use.
pub(super) fn find_or_insert<'s>(
    skills: &'s mut SkillTable<SkillCounts>,
    changed_skills: &mut Dirty<Arc<str>>,
    name: impl AsRef<str> + Into<Arc<str>>,
    ctx: &mut ApplyContext<'_>,
) -> Result<(&'s Arc<str>, &'s mut SkillCounts), Rejection> {
    let known = skills.len();
    skills.try_get_or_insert(name, |name| {
        check_skill_name(name, ctx.limits)?;
        if known >= ctx.limits.remembered_skills_max {
            return Err(skill_limit(name, ctx.limits.remembered_skills_max));
        }
        changed_skills.mark(name.clone());
        Ok(SkillCounts::new(ctx.series_table.place(name, ctx.limits, ctx.notices)))
    })
}

pub(super) fn skill_limit(name: &str, skills_max: usize) -> Rejection {
    Rejection::new(
        RejectionReason::SkillLimit,
        format!("{name:?} is beyond the limit of {skills_max} remembered skills"),
    )
}

/// Counts anomalies of which `increase` are new.
pub(super) fn count_anomalies(
    entry: &AnomalyEntry<'_>,
    increase: Result<u64, AnomaliesFull>,
    created_micros: Option<i64>,
    ctx: &mut ApplyContext<'_>,
) -> Result<(), Rejection> {
    let increase = increase.map_err(|AnomaliesFull| {
        let limit = ctx.limits.anomaly_keys_max;
        Rejection::new(RejectionReason::AnomalyLimit, format!("{limit} anomalies are remembered already"))
    })?;
    if increase > 0 {
        ctx.trace(|| TraceStep::Anomaly {
            skill_name: entry.skill_name.to_string(),
            anomaly_type: entry.anomaly_type.to_string(),
            rise: increase,
        });
        let series = ctx.series_table.place(&entry.skill_name.as_ref().into(), ctx.limits, ctx.notices);
        let anomaly_type = entry.anomaly_type.as_ref().into();
        if ctx.series_table.add_anomalies(series, &anomaly_type, increase, created_micros, ctx.limits) {
            add(&mut ctx.rules.overflowed_anomalies, increase);
        }
        ctx.series_table.note_anomaly(SeenAnomaly {
            skill_name: entry.skill_name.as_ref().into(),
            anomaly_type,
            times: increase,
            detected_at: entry.detected_at.as_deref().map(Into::into),
            deviation_score: entry.deviation_score,
            wall_micros: ctx.now.wall_micros,
            is_history: created_micros.is_none(),
        });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_in_memory_and_its_forks_collect_nothing() {
        let name: Arc<str> = "a".into();
        let changed = |persistence| {
            let mut source = SourceCounts::new(persistence);
            source.skills.insert(name.clone(), SkillCounts::new(SkillIndex(0)));
            source.mark_all([&name].into_iter());
            let fork = source.fork();
            [&source, &fork].map(|counts| (counts.changed_skills.is_empty(), counts.changed_histories.is_empty()))
        };
        assert_eq!(changed(Persistence::InMemory), [(true, true); 2]);
        assert_eq!(changed(Persistence::StateFile), [(false, false); 2]);
    }
}
