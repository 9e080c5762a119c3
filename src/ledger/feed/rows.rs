//! A feed whose counts the rows of its server's database tell.
//!
//! While rows move the counters, the remembered numbers of each skill are what the database held at the last row that was
//! read. They are what the server lists then, so that snapshots can be checked against them, and so that snapshots can
//! take over at any time and count from there.

use std::sync::Arc;
use std::time::Duration;

use hashbrown::HashMap;

use crate::ledger::arithmetic::Listing;
use crate::ledger::detail::{
    Anchor, AnomalyReading, AnomalyTally, DetailReading, InvocationRow, Numbers, SkillNumbers, ToldInvocation,
};
use crate::ledger::memory::RememberedRow;
use crate::ledger::notice::{Notice, ResetCause};
use crate::ledger::waiting::StreamedInvocation;
use crate::protocol::{AnomalyEntry, Rejection};

use super::{Desk, Feed, FeedSkill, Gauge, check_anomaly, check_label, count_anomalies, is_nine_tenths};

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
    /// have been read since. Whether the two have disagreed for long; `None` where they cannot be compared.
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

impl Feed {
    /// Lets the database's patience pass.
    pub(super) fn tick_detail(&mut self, desk: &mut Desk<'_>) {
        if !self.detail.tick(desk.now.elapsed) {
            return;
        }
        self.show_detail(desk);
        // What was held for the rows is told by nobody else where no snapshot lists it.
        let unlisted = self.skills.iter_mut().filter(|(_, skill)| !skill.listed);
        for (name, skill) in unlisted {
            let events = skill.waiting.take_events();
            if events.is_empty() {
                continue;
            }
            self.waiting_events -= events.len();
            self.changed_skills.insert(name.clone());
            for event in events {
                desk.counting().event(skill.series, event.borrowed());
                skill.waiting.give_credit(event.borrowed());
            }
            self.detail.note_alone();
        }
        for (is_identified, entry) in std::mem::take(&mut self.held_anomalies) {
            if let Err(rejection) = self.stream_anomaly(&entry, is_identified, desk) {
                desk.reject(rejection);
            }
        }
    }

    /// A streamed anomaly, while it is open whether rows tell it.
    pub(super) fn hold_anomaly(&mut self, entry: &AnomalyEntry<'_>, is_identified: bool) {
        if !self.detail.is_joined() && self.held_anomalies.len() < HELD_ANOMALIES_MAX {
            self.held_anomalies.push((is_identified, entry.clone().into_owned()));
        }
    }

    /// The database cannot be read at the moment.
    pub fn detail_failed(&mut self, desk: &mut Desk<'_>) {
        self.detail.fail(desk.now.elapsed);
        self.show_detail(desk);
    }

    fn show_detail(&mut self, desk: &mut Desk<'_>) {
        let is_up = Some(self.detail.is_joined());
        if std::mem::replace(&mut self.counters.rows_tell, is_up) != is_up {
            self.counters_changed = true;
            if is_up == Some(true) {
                desk.notices.push(Notice::DetailJoined);
            }
        }
    }

    /// Counts what was read of the database.
    pub fn apply_detail(&mut self, reading: DetailReading, desk: &mut Desk<'_>) {
        let is_changeover = self.detail.is_changeover();
        let is_history = !self.detail.was_joined();
        match reading.invocations_anchor {
            Anchor::Other if !is_changeover => self.note_reset(ResetCause::RowsAreOthers, desk),
            Anchor::CutBack { .. } if !is_changeover => self.note_rollback(desk),
            Anchor::Continues | Anchor::Emptied | Anchor::CutBack { .. } | Anchor::Other => {}
        }
        self.detail.invocations.follow(reading.invocations_anchor);
        if let Some(numbers) = &reading.numbers {
            self.take_numbers(numbers, is_changeover, desk);
            self.detail.note_told_until(numbers.last_id, is_history);
        }
        for row in reading.invocations {
            self.detail_invocation(row, desk);
        }
        if let Some(anomalies) = &reading.anomalies {
            self.detail_anomalies(anomalies, desk);
        }
        self.held_anomalies.clear();
        self.detail.join(reading.anomalies.is_some(), reading.has_more, reading.connection);
        self.show_detail(desk);
    }

    /// The numbers of all skills become the remembered ones. In a changeover what snapshots have counted tells how many of
    /// the rows to come are counted already: those of each skill that are its oldest, since snapshots are cumulative.
    fn take_numbers(&mut self, numbers: &Numbers, is_changeover: bool, desk: &mut Desk<'_>) {
        let mut is_rollback = false;
        if is_changeover && let Some(cause) = self.contradiction(numbers) {
            is_rollback = numbers_hold(numbers, &self.skills);
            if is_rollback {
                self.note_rollback(desk);
            } else {
                self.note_reset(cause, desk);
            }
        }
        for told in &numbers.skills {
            let (name, skill) = match self.skill(&told.skill_name, desk) {
                Ok(Some(found)) => found,
                Ok(None) => continue,
                Err(rejection) => {
                    desk.reject(rejection);
                    continue;
                }
            };
            let counted = skill.counted();
            let is_new = skill.remembered.is_none();
            skill.remembered = Some(RememberedRow {
                total: told.completed + told.abandoned,
                completed: told.completed,
                split_is_exact: true,
                duration_sum: Some(told.duration_sum).filter(|sum| sum.is_finite() && *sum >= 0.0),
            });
            if is_changeover {
                let fresh = if is_rollback {
                    (0, 0)
                } else {
                    (told.completed.saturating_sub(counted.0), told.abandoned.saturating_sub(counted.1))
                };
                skill.rows_counted =
                    (told.rows_completed.saturating_sub(fresh.0), told.rows_abandoned.saturating_sub(fresh.1));
            }
            let dropped = skill.waiting.end(skill.series, &mut desk.counting());
            skill.show_numbers();
            self.remembered += usize::from(is_new);
            self.waiting_events -= dropped;
            self.rates_changed.push(name);
        }
    }

    /// What in the numbers of all skills cannot be of the database whose numbers are remembered.
    fn contradiction(&self, numbers: &Numbers) -> Option<ResetCause> {
        let known: HashMap<&str, &SkillNumbers> = numbers.skills.iter().map(|told| (&*told.skill_name, told)).collect();
        let mut remembered = self.skills.iter().filter_map(|(name, skill)| Some((name, skill.remembered?)));
        remembered.find_map(|(name, numbers)| {
            let skill_name = name.to_string();
            let Some(told) = known.get(&**name) else { return Some(ResetCause::SkillMissing { skill_name }) };
            let to = told.completed + told.abandoned;
            if to < numbers.total {
                return Some(ResetCause::TotalFell { skill_name, from: numbers.total, to });
            }
            let fell = told.completed < numbers.completed || told.abandoned < numbers.total - numbers.completed;
            (fell && numbers.split_is_exact).then_some(ResetCause::SplitFell { skill_name })
        })
    }

    fn detail_invocation(&mut self, row: InvocationRow, desk: &mut Desk<'_>) {
        let id = row.mark.id;
        let is_known = self.detail.invocations.note(row.mark);
        let is_after_numbers = id > self.detail.told_until;
        let is_history = id <= self.detail.history_until;
        let Some(name) = &row.skill_name else {
            if let Err(rejection) = row.told {
                desk.reject(rejection);
            }
            return;
        };
        let (name, skill) = match self.skill(name, desk) {
            Ok(Some(found)) => found,
            Ok(None) => return,
            Err(rejection) => return desk.reject(rejection),
        };
        let mut began = false;
        if let Some(completed) = row.completed
            && is_after_numbers
        {
            began = skill.remembered.is_none();
            skill.add_to_numbers(completed, row.summed_seconds);
        }
        let counted = match row.completed {
            Some(true) => &mut skill.rows_counted.0,
            _ => &mut skill.rows_counted.1,
        };
        let was_counted = is_known || *counted > 0;
        *counted -= u64::from(!is_known && *counted > 0);
        let rejection = match (row.told, row.completed) {
            (Err(rejection), _) => Some(rejection),
            (Ok(_), None) => None,
            (Ok(_), Some(_)) if was_counted => None,
            (Ok(told), Some(completed)) => count(skill, told, completed, is_history, desk).err(),
        };
        if is_after_numbers {
            self.remembered += usize::from(began);
            self.rates_changed.push(name.clone());
        }
        self.changed_skills.insert(name);
        if let Some(rejection) = rejection {
            desk.reject(rejection);
        }
    }

    fn detail_anomalies(&mut self, reading: &AnomalyReading, desk: &mut Desk<'_>) {
        let now_micros = desk.now.wall_micros;
        self.detail.anomalies.follow(reading.anchor);
        self.anomalies.begin_round();
        for row in &reading.rows {
            let is_known = self.detail.anomalies.note(row.mark);
            let entry = match &row.told {
                Ok(entry) => entry,
                Err(rejection) => {
                    desk.reject(rejection.clone());
                    continue;
                }
            };
            if self.is_filtered_out(&entry.skill_name) {
                continue;
            }
            let counts = !is_known && reading.tallies.is_none();
            let counted = check_anomaly(entry, desk.limits).and_then(|()| {
                let rise = self.anomalies.tell(entry, counts, now_micros, desk.limits);
                count_anomalies(entry, rise, Some(now_micros), desk)
            });
            if let Err(rejection) = counted {
                desk.reject(rejection);
            }
        }
        for AnomalyTally { skill_name, anomaly_type, times } in reading.tallies.iter().flatten() {
            if self.is_filtered_out(skill_name) {
                continue;
            }
            let entry = AnomalyEntry {
                skill_name: skill_name.as_ref().into(),
                anomaly_type: anomaly_type.as_ref().into(),
                detected_at: None,
                deviation_score: None,
            };
            let counted = check_anomaly(&entry, desk.limits).and_then(|()| {
                let rise = self.anomalies.tell_number(&entry, *times, desk.limits);
                count_anomalies(&entry, rise, None, desk)
            });
            if let Err(rejection) = counted {
                desk.reject(rejection);
            }
        }
        self.anomalies.forget_old(now_micros);
    }

    /// A snapshot while the counters are not its own to move: it sets rates, and is compared with what the rows tell.
    pub(super) fn list_beside_rows(&mut self, name: &Arc<str>, listing: &Listing, desk: &mut Desk<'_>) {
        let is_joined = self.detail.is_joined() && !self.detail.has_more;
        let Some(skill) = self.skills.get_mut(name) else { return };
        let is_other = skill.set_gauge(Gauge::from(listing));
        desk.book.set_listed(skill.series, desk.now.wall_micros);
        let was_listed = std::mem::replace(&mut skill.listed, true);
        let told = skill.remembered.filter(|_| is_joined).map(|numbers| (numbers.total, numbers.completed));
        let comparison = skill.comparison.get_or_insert_default();
        let judged = comparison.judge(listing, told, desk.now.elapsed).filter(|disagrees| {
            // What is open may be what nobody writes any more: only what is there now can disagree.
            !disagrees || {
                let distrusted = *comparison.distrusted.get_or_insert_with(|| self.detail.distrust());
                self.detail.is_read_after(distrusted)
            }
        });
        let is_news = judged.is_some_and(|disagrees| std::mem::replace(&mut skill.disagrees, disagrees) != disagrees);
        if is_news && skill.disagrees {
            self.counters.detail_mismatches += 1;
            self.counters_changed = true;
            self.changed = true;
            let told = told.map_or(0, |(total, _)| total);
            let (skill_name, listed) = (name.to_string(), listing.total);
            desk.notices.push(Notice::DetailMismatch { skill_name, listed, told });
        }
        if is_other {
            self.rates_changed.push(name.clone());
        }
        if is_other || is_news || !was_listed {
            self.changed_skills.insert(name.clone());
        }
    }
}

/// Whether the numbers may be those of the same database a few writes back: rule 4.3.
fn numbers_hold(numbers: &Numbers, skills: &HashMap<Arc<str>, FeedSkill>) -> bool {
    let told: HashMap<&str, u64> =
        numbers.skills.iter().map(|told| (&*told.skill_name, told.completed + told.abandoned)).collect();
    let mut remembered = skills.iter().filter_map(|(name, skill)| Some((name, skill.remembered?.total)));
    remembered.all(|(name, total)| told.get(&**name).is_some_and(|told| is_nine_tenths(*told, total)))
}

fn count(
    skill: &FeedSkill,
    told: ToldInvocation,
    completed: bool,
    is_history: bool,
    desk: &mut Desk<'_>,
) -> Result<(), Rejection> {
    let workflow_phase = told.workflow_phase.as_deref();
    if let Some(phase) = workflow_phase {
        check_label(phase, "workflow_phase", desk.limits)?;
    }
    let phase = workflow_phase.unwrap_or(crate::ledger::book::UNKNOWN_PHASE);
    if is_history && desk.book.has_shown(skill.series, phase) {
        desk.rules.backfilled_invocations += 1;
    }
    let event =
        StreamedInvocation { workflow_phase, completed, duration_seconds: told.duration_seconds, session_id: None };
    let born_micros = (!is_history).then_some(desk.now.wall_micros);
    desk.counting().invocation(skill.series, event, born_micros);
    Ok(())
}

impl FeedSkill {
    /// Completed and other invocations that were counted of the present database, or are about to be.
    fn counted(&self) -> (u64, u64) {
        let (credit, _) = self.waiting.credit();
        match self.remembered {
            Some(numbers) => (numbers.completed, numbers.total - numbers.completed),
            None => credit,
        }
    }

    fn add_to_numbers(&mut self, completed: bool, seconds: f64) {
        let numbers = self.remembered.get_or_insert(RememberedRow {
            total: 0,
            completed: 0,
            split_is_exact: true,
            duration_sum: Some(0.0),
        });
        numbers.total += 1;
        if completed {
            numbers.completed += 1;
            // In the order of the rows, as the server adds them up: the two sums are the same number.
            let sum = numbers.duration_sum.map(|sum| sum + seconds);
            numbers.duration_sum = sum.filter(|sum| sum.is_finite() && *sum >= 0.0);
        }
        self.show_numbers();
    }

    fn show_numbers(&mut self) {
        if let Some(numbers) = self.remembered
            && numbers.total > 0
        {
            let (total, completed) = (numbers.total as f64, numbers.completed as f64);
            self.set_gauge(Gauge { total, completed, rate_percent: completed / total * 100.0 });
        }
    }
}
