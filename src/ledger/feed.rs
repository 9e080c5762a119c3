//! One feed: what it was last heard to say, and what a snapshot or an event of it changes.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use crate::protocol::{AnomalyEntry, Event, EventKind, Rejection, RejectionReason, SkillEntry, Snapshot};

use super::anomalies::{self, Anomalies, AnomaliesFull};
use super::arithmetic::{Listing, Seconds};
use super::book::{Book, UNKNOWN_PHASE};
use super::ids::{Acquaintance, EventIds};
use super::limits::{Limits, OVERFLOW};
use super::moment::Moment;
use super::notice::{Notice, ResetCause};
use super::series::{FeedCounters, RuleCounters, SkillIndex};
use super::server_time;
use super::sessions::{Sessions, SessionsFull};
use super::waiting::{Counting, Rise, StreamedInvocation, WAIT, Waiting};

/// A list of this length may have left some out.
const SKILLS_LISTED_MAX: usize = 10;

/// What of the ledger a feed may touch, and where it says what happened.
pub(super) struct Desk<'l> {
    pub book: &'l mut Book,
    pub rules: &'l mut RuleCounters,
    pub limits: &'l Limits,
    pub notices: &'l mut Vec<Notice>,
    pub now: Moment,
}

impl Desk<'_> {
    fn counting(&mut self) -> Counting<'_> {
        Counting { book: self.book, rules: self.rules, limits: self.limits }
    }

    fn reject(&mut self, rejection: Rejection) {
        self.notices.push(Notice::Rejected(rejection));
    }
}

/// A feed and everything that is remembered of it.
#[derive(Debug)]
pub(super) struct Feed {
    pub counters: FeedCounters,
    /// The one skill that is subscribed to.
    pub filter: Option<Box<str>>,
    pub generation: u64,
    pub live: bool,
    pub had_snapshot: bool,
    /// Skills of which this feed's gauge changed since [`Feed::take_rates_changed`].
    rates_changed: Vec<Arc<str>>,
    skills: HashMap<Arc<str>, FeedSkill>,
    remembered: usize,
    round: u64,
    /// Whether the previous unfiltered snapshot named every skill of the database.
    previous_was_complete: bool,
    previous_micros: Option<i64>,
    streams_invocations: bool,
    waiting_rises: VecDeque<(Duration, Arc<str>)>,
    waiting_events: usize,
    event_ids: EventIds,
    anomalies: Anomalies,
    sessions: Sessions,
}

#[derive(Debug)]
struct FeedSkill {
    series: SkillIndex,
    /// Whether a snapshot ever listed it.
    listed: bool,
    /// Whether it was listed with numbers that could not be accepted, before any that could: its past is unknown.
    listed_unread: bool,
    round: u64,
    remembered: Option<Remembered>,
    gauge: Option<Gauge>,
    streamed_rate: Option<f64>,
    waiting: Waiting,
}

/// The last accepted numbers, less what may not be counted yet.
#[derive(Debug, Clone, Copy)]
struct Remembered {
    total: u64,
    /// What was counted as completed: what the server counted if `split_is_exact`, else a guess within its bounds.
    completed: u64,
    split_is_exact: bool,
    duration_sum: Option<f64>,
}

/// What a feed adds to a skill's completion rate.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Gauge {
    pub total: f64,
    pub completed: f64,
    pub rate_percent: f64,
}

impl Feed {
    pub fn new(identity: &str, filter: Option<&str>) -> Self {
        Self {
            counters: FeedCounters { identity: identity.into(), ..Default::default() },
            filter: filter.map(Into::into),
            generation: 0,
            live: false,
            had_snapshot: false,
            rates_changed: Vec::new(),
            skills: HashMap::new(),
            remembered: 0,
            round: 0,
            previous_was_complete: false,
            previous_micros: None,
            streams_invocations: false,
            waiting_rises: VecDeque::new(),
            waiting_events: 0,
            event_ids: EventIds::default(),
            anomalies: Anomalies::default(),
            sessions: Sessions::default(),
        }
    }

    /// The sessions that this feed stands for while it is live.
    pub fn sessions(&self, now: Moment) -> u64 {
        self.sessions.open(now.wall_micros).unwrap_or(1)
    }

    pub fn reports_sessions(&mut self, count: u64) {
        self.sessions.set_count(count);
    }

    /// The gauge and the streamed rate of a skill.
    pub fn rate(&self, skill_name: &str) -> (Option<Gauge>, Option<f64>) {
        self.skills.get(skill_name).map_or((None, None), |skill| (skill.gauge, skill.streamed_rate))
    }

    pub fn take_rates_changed(&mut self) -> Vec<Arc<str>> {
        std::mem::take(&mut self.rates_changed)
    }

    /// When the oldest waiting rise has waited long enough, in elapsed time.
    pub fn deadline(&self) -> Option<Duration> {
        self.waiting_rises.front().map(|(since, _)| *since + WAIT)
    }

    /// Counts what has waited long enough.
    pub fn tick(&mut self, desk: &mut Desk<'_>) {
        while let Some((since, _)) = self.waiting_rises.front()
            && desk.now.elapsed.saturating_sub(*since) >= WAIT
        {
            let Some((_, name)) = self.waiting_rises.pop_front() else { return };
            if let Some(skill) = self.skills.get_mut(&name) {
                let elapsed = desk.now.elapsed;
                skill.waiting.settle_rises(skill.series, &mut desk.counting(), elapsed);
            }
        }
    }

    pub fn event(&mut self, event: &Event<'_>, desk: &mut Desk<'_>) {
        let sent_micros = event.timestamp.as_deref().and_then(server_time::micros);
        if let Some(id) = &event.id {
            if let Err(rejection) = check_label(id, "id", desk.limits) {
                return desk.reject(rejection);
            }
            match self.event_ids.acquaintance(id, sent_micros) {
                Acquaintance::New => {}
                Acquaintance::Known => return,
                Acquaintance::Stale => {
                    return desk.reject(Rejection::new(
                        RejectionReason::StaleEvent,
                        format!("event {id:?} is older than what is remembered of its feed"),
                    ));
                }
            }
        }
        match self.apply_event(event, desk) {
            Ok(()) => {
                if let Some(id) = &event.id {
                    self.event_ids.remember(id, sent_micros, desk.limits.event_ids_max);
                }
            }
            Err(rejection) => desk.reject(rejection),
        }
    }

    fn apply_event(&mut self, event: &Event<'_>, desk: &mut Desk<'_>) -> Result<(), Rejection> {
        let (now_micros, limits) = (desk.now.wall_micros, desk.limits);
        match &event.kind {
            EventKind::Invocation { skill_name, workflow_phase, completed, duration_seconds, session_id: _ } => {
                if let Some(phase) = workflow_phase {
                    check_label(phase, "workflow_phase", limits)?;
                }
                let event = StreamedInvocation {
                    workflow_phase: workflow_phase.as_deref().map(Into::into),
                    completed: *completed,
                    duration_seconds: *duration_seconds,
                };
                self.invocation(skill_name, event, desk)
            }
            EventKind::CompletionRate { skill_name, rate } => {
                let Some((name, skill)) = self.skill(skill_name, desk)? else { return Ok(()) };
                skill.streamed_rate = Some(*rate);
                self.rates_changed.push(name);
                Ok(())
            }
            EventKind::Anomaly(entry) => {
                if self.is_filtered_out(&entry.skill_name) {
                    return Ok(());
                }
                check_anomaly(entry, limits)?;
                let rise = if event.id.is_some() {
                    self.anomalies.stream_identified(entry, limits.anomaly_keys_max)
                } else {
                    self.anomalies.stream(entry, now_micros, limits.anomaly_keys_max)
                };
                count_anomalies(entry, rise, desk)
            }
            EventKind::ActiveSessions { count } => {
                self.sessions.set_count(*count);
                Ok(())
            }
            EventKind::SessionCreated { session_id } => {
                check_label(session_id, "session_id", limits)?;
                self.sessions.created(session_id, now_micros, limits.session_ids_max).map_err(sessions_full)
            }
            EventKind::SessionClosed { session_id } => {
                check_label(session_id, "session_id", limits)?;
                self.sessions.closed(session_id, now_micros, limits.session_ids_max).map_err(sessions_full)
            }
        }
    }

    fn invocation(&mut self, name: &str, event: StreamedInvocation, desk: &mut Desk<'_>) -> Result<(), Rejection> {
        let waiting_events = self.waiting_events;
        let Some((_, skill)) = self.skill(name, desk)? else { return Ok(()) };
        if !skill.listed {
            desk.counting().event(skill.series, &event);
            skill.waiting.give_credit(&event);
        } else if waiting_events < desk.limits.waiting_events_max {
            let waits = skill.waiting.offer_event(event, skill.series, &mut desk.counting());
            self.waiting_events += usize::from(waits);
        } else {
            desk.rules.late_events += 1;
            desk.notices.push(Notice::LateEvents { events: 1 });
        }
        self.streams_invocations = true;
        Ok(())
    }

    /// The skill of this name, or `None` if the feed is subscribed to another.
    fn skill(&mut self, name: &str, desk: &mut Desk<'_>) -> Result<Option<(Arc<str>, &mut FeedSkill)>, Rejection> {
        if self.is_filtered_out(name) {
            return Ok(None);
        }
        if let Some((known, _)) = self.skills.get_key_value(name) {
            let known = known.clone();
            return Ok(self.skills.get_mut(name).map(|skill| (known, skill)));
        }
        check_skill_name(name, desk.limits)?;
        if self.skills.len() >= desk.limits.remembered_skills_max {
            return Err(Rejection::new(
                RejectionReason::SkillLimit,
                format!("{name:?} is beyond the limit of {} remembered skills", desk.limits.remembered_skills_max),
            ));
        }
        let name: Arc<str> = name.into();
        let series = desk.book.place(&name, desk.limits, desk.notices);
        let skill = self.skills.entry(name.clone()).or_insert(FeedSkill {
            series,
            listed: false,
            listed_unread: false,
            round: 0,
            remembered: None,
            gauge: None,
            streamed_rate: None,
            waiting: Waiting::default(),
        });
        Ok(Some((name, skill)))
    }

    fn is_filtered_out(&self, name: &str) -> bool {
        self.filter.as_deref().is_some_and(|filter| filter != name)
    }

    /// Applies a snapshot: first all of its entries are judged, then what they say together about the database, and only
    /// then does anything move.
    pub fn snapshot(&mut self, snapshot: &Snapshot<'_>, desk: &mut Desk<'_>) {
        self.round += 1;
        let (accepted, listed_remembered) = self.judge(snapshot, desk);
        let filtered = self.filter.is_some();
        let is_complete = !filtered && snapshot.listed < SKILLS_LISTED_MAX && snapshot.skills.iter().all(Result::is_ok);
        let nothing_is_missing = !is_complete || listed_remembered == self.remembered;

        let mut began_empty = false;
        let mut rolled_back = false;
        if let Some(cause) = self.new_database(&accepted, nothing_is_missing) {
            rolled_back = nothing_is_missing
                && accepted.iter().all(|(name, listing)| {
                    self.skills[name]
                        .remembered
                        .is_none_or(|known| u128::from(listing.total) * 10 >= u128::from(known.total) * 9)
                });
            if rolled_back {
                self.counters.rollbacks += 1;
                desk.notices.push(Notice::RolledBack);
            } else {
                self.counters.resets += 1;
                desk.notices.push(Notice::Reset(cause));
                self.forget_numbers();
                began_empty = true;
            }
        }

        let past_is_known = began_empty || (!filtered && self.previous_was_complete);
        let mut dropped = 0;
        for (name, listing) in &accepted {
            dropped += self.list(name, listing, rolled_back, past_is_known, desk);
        }
        if dropped > 0 {
            desk.rules.late_events += dropped;
            desk.notices.push(Notice::LateEvents { events: dropped });
        }

        let this_micros = snapshot.timestamp.as_deref().and_then(server_time::micros);
        if !filtered {
            self.previous_was_complete = is_complete;
            self.note_tenth(snapshot.listed, &accepted);
            self.note_anomalies(snapshot, this_micros, desk);
        }
        self.previous_micros = this_micros.or(self.previous_micros);
        self.had_snapshot = true;
    }

    /// The entries that can be accepted, and how many remembered skills are listed, with numbers that can or cannot.
    fn judge(&mut self, snapshot: &Snapshot<'_>, desk: &mut Desk<'_>) -> (Vec<(Arc<str>, Listing)>, usize) {
        let mut accepted = Vec::with_capacity(snapshot.skills.len());
        let mut listed_remembered = 0;
        for entry in &snapshot.skills {
            let entry = match entry {
                Ok(entry) => entry,
                Err(rejection) => {
                    desk.reject(rejection.clone());
                    continue;
                }
            };
            match self.judge_entry(entry, &mut listed_remembered, desk) {
                Ok(Some(listing)) => accepted.push(listing),
                Ok(None) => {}
                Err(rejection) => desk.reject(rejection),
            }
        }
        (accepted, listed_remembered)
    }

    fn judge_entry(
        &mut self,
        entry: &SkillEntry<'_>,
        listed_remembered: &mut usize,
        desk: &mut Desk<'_>,
    ) -> Result<Option<(Arc<str>, Listing)>, Rejection> {
        let round = self.round;
        let Some((name, skill)) = self.skill(&entry.skill_name, desk)? else { return Ok(None) };
        if skill.round == round {
            return Err(Rejection::new(RejectionReason::DuplicateEntry, format!("{name:?} is listed twice")));
        }
        skill.round = round;
        *listed_remembered += usize::from(skill.remembered.is_some());
        match Listing::of(entry) {
            Ok(listing) => Ok(Some((name, listing))),
            Err(rejection) => {
                skill.listed_unread |= skill.remembered.is_none();
                Err(Rejection { detail: format!("{name:?}: {}", rejection.detail), ..rejection })
            }
        }
    }

    /// What proves that these are not the numbers of the remembered database, or not its latest.
    fn new_database(&self, accepted: &[(Arc<str>, Listing)], nothing_is_missing: bool) -> Option<ResetCause> {
        for (name, listing) in accepted {
            let Some(known) = self.skills[name].remembered else { continue };
            if listing.total < known.total {
                let skill_name = name.to_string();
                return Some(ResetCause::TotalFell { skill_name, from: known.total, to: listing.total });
            }
            let abandoned = known.total - known.completed;
            let fell = listing.completed < known.completed || listing.abandoned() < abandoned;
            if known.split_is_exact && listing.exact && fell {
                return Some(ResetCause::SplitFell { skill_name: name.to_string() });
            }
        }
        if nothing_is_missing {
            return None;
        }
        let missing = |(_, skill): &(&Arc<str>, &FeedSkill)| skill.remembered.is_some() && skill.round != self.round;
        let (name, _) = self.skills.iter().filter(missing).min_by_key(|(name, _)| (*name).clone())?;
        Some(ResetCause::SkillMissing { skill_name: name.to_string() })
    }

    fn forget_numbers(&mut self) {
        for skill in self.skills.values_mut() {
            skill.remembered = None;
            skill.listed_unread = false;
        }
        self.remembered = 0;
    }

    /// Moves the remembered numbers of a skill to what is listed, and counts the difference. How many waiting events of
    /// the skill were dropped as late.
    fn list(
        &mut self,
        name: &Arc<str>,
        listing: &Listing,
        rolled_back: bool,
        past_is_known: bool,
        desk: &mut Desk<'_>,
    ) -> u64 {
        let Some(skill) = self.skills.get_mut(name) else { return 0 };
        let gauge = Gauge {
            total: listing.total as f64,
            completed: if listing.exact {
                listing.completed as f64
            } else {
                listing.total as f64 * listing.rate_percent / 100.0
            },
            rate_percent: listing.rate_percent,
        };
        let is_other = skill.gauge.replace(gauge) != Some(gauge);
        if is_other {
            self.rates_changed.push(name.clone());
        }
        if !listing.exact && (is_other || skill.remembered.is_none()) {
            desk.rules.inexact_rates += 1;
        }
        desk.book.set_listed(skill.series, desk.now.wall_micros);

        let (next, rise) = match skill.remembered {
            None => {
                desk.book.phase(skill.series, UNKNOWN_PHASE, desk.limits);
                let past_is_known = past_is_known && !skill.listed_unread;
                first_sight(listing, past_is_known)
            }
            Some(_) if rolled_back => (Remembered::from(listing), None),
            Some(known) => difference(&known, listing),
        };
        self.remembered += usize::from(skill.remembered.is_none());
        skill.remembered = Some(next);
        skill.listed = true;
        skill.listed_unread = false;

        if let Some(rise) = rise {
            let (elapsed, series) = (desk.now.elapsed, skill.series);
            let (taken, waits) =
                skill.waiting.offer_rise(rise, self.streams_invocations, series, &mut desk.counting(), elapsed);
            self.waiting_events -= taken;
            if waits {
                self.waiting_rises.push_back((elapsed, name.clone()));
            }
        }
        let dropped = skill.waiting.drop_late_events(desk.now.elapsed);
        self.waiting_events -= dropped;
        dropped as u64
    }

    fn note_tenth(&mut self, listed: usize, accepted: &[(Arc<str>, Listing)]) {
        let least = accepted.iter().map(|(_, listing)| listing.total).min();
        if listed < SKILLS_LISTED_MAX {
            self.counters.tenth_skill_invocations = Some(0);
        } else if least.is_some() {
            self.counters.tenth_skill_invocations = least;
        }
    }

    fn note_anomalies(&mut self, snapshot: &Snapshot<'_>, this_micros: Option<i64>, desk: &mut Desk<'_>) {
        let now_micros = desk.now.wall_micros;
        self.anomalies.begin_round();
        for entry in &snapshot.anomalies {
            let counted = entry.as_ref().map_err(Clone::clone).and_then(|entry| {
                check_anomaly(entry, desk.limits)?;
                let rise = self.anomalies.list(entry, now_micros, desk.limits.anomaly_keys_max);
                count_anomalies(entry, rise, desk)
            });
            if let Err(rejection) = counted {
                desk.reject(rejection);
            }
        }
        self.anomalies.forget_old(now_micros);
        let entries = snapshot.anomalies.iter().flatten();
        if anomalies::window_overflowed(snapshot.anomalies_listed, entries, self.previous_micros, this_micros) {
            desk.rules.anomaly_window_overflows += 1;
            desk.notices.push(Notice::AnomalyWindowOverflowed);
        }
    }
}

impl From<&Listing> for Remembered {
    fn from(listing: &Listing) -> Self {
        Self {
            total: listing.total,
            completed: listing.completed,
            split_is_exact: listing.exact,
            duration_sum: listing.duration_sum,
        }
    }
}

/// Rule 4.1: the whole total counts; its durations too if all of it happened under watch.
fn first_sight(listing: &Listing, past_is_known: bool) -> (Remembered, Option<Rise>) {
    let durations = if past_is_known { listing.duration_sum.map(|sum| Seconds::between(0.0, sum)) } else { None };
    let rise =
        Rise { completed: listing.completed, abandoned: listing.abandoned(), durations, history: !past_is_known };
    (Remembered::from(listing), Some(rise))
}

/// Rule 4.2: the difference counts. The total is known not to have fallen.
fn difference(known: &Remembered, listing: &Listing) -> (Remembered, Option<Rise>) {
    let risen = listing.total - known.total;
    // Neither part may fall or rise by more than the total did. Between exact numbers this changes nothing; a guessed
    // split is caught up with as the true one moves past it.
    let completed = listing.completed.clamp(known.completed, known.completed + risen);
    let mut next = Remembered {
        total: listing.total,
        completed,
        split_is_exact: listing.exact && completed == listing.completed,
        duration_sum: listing.duration_sum,
    };
    let mut durations = match (known.duration_sum, listing.duration_sum) {
        (Some(earlier), Some(later)) if known.split_is_exact && next.split_is_exact => {
            Some(Seconds::between(earlier, later))
        }
        _ => None,
    };
    if durations.is_some_and(|durations| durations.fell()) {
        next.duration_sum = None;
        durations = None;
    }
    let rise = Rise {
        completed: completed - known.completed,
        abandoned: risen - (completed - known.completed),
        durations,
        history: false,
    };
    (next, (risen > 0).then_some(rise))
}

fn check_skill_name(name: &str, limits: &Limits) -> Result<(), Rejection> {
    if name == OVERFLOW {
        return Err(Rejection::new(
            RejectionReason::ReservedName,
            format!("`skill_name` {OVERFLOW:?} is reserved for skills beyond the limit"),
        ));
    }
    check_label(name, "skill_name", limits)
}

fn check_label(label: &str, what: &str, limits: &Limits) -> Result<(), Rejection> {
    if !limits.refuses(label) {
        return Ok(());
    }
    let beginning: String = label.chars().take(32).collect();
    Err(Rejection::new(
        RejectionReason::LabelTooLong,
        format!("`{what}` {beginning:?}… is longer than {} characters", limits.label_chars_max),
    ))
}

fn check_anomaly(entry: &AnomalyEntry<'_>, limits: &Limits) -> Result<(), Rejection> {
    check_skill_name(&entry.skill_name, limits)?;
    check_label(&entry.anomaly_type, "anomaly_type", limits)?;
    check_label(entry.detected_at.as_deref().unwrap_or_default(), "detected_at", limits)
}

fn count_anomalies(
    entry: &AnomalyEntry<'_>,
    rise: Result<u64, AnomaliesFull>,
    desk: &mut Desk<'_>,
) -> Result<(), Rejection> {
    let rise = rise.map_err(|AnomaliesFull| {
        let limit = desk.limits.anomaly_keys_max;
        Rejection::new(RejectionReason::AnomalyLimit, format!("{limit} anomalies are remembered already"))
    })?;
    if rise > 0 {
        let series = desk.book.place(&entry.skill_name.as_ref().into(), desk.limits, desk.notices);
        desk.book.add_anomalies(series, &entry.anomaly_type.as_ref().into(), rise, desk.limits);
    }
    Ok(())
}

fn sessions_full(_: SessionsFull) -> Rejection {
    Rejection::new(RejectionReason::SessionLimit, "no room to remember another session")
}
