//! One feed: what it was last heard to say, and what a snapshot or an event of it changes.

mod rows;

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use hashbrown::hash_map::EntryRef;
use hashbrown::{HashMap, HashSet};

use crate::protocol::{AnomalyEntry, Event, EventKind, Rejection, RejectionReason, SkillEntry, Snapshot};

use super::anomalies::{self, Anomalies, AnomaliesFull};
use super::arithmetic::{Listing, Seconds};
use super::book::{Book, UNKNOWN_PHASE};
use super::detail::Detail;
use super::finding::Finding;
use super::ids::{Acquaintance, EventIds};
use super::limits::{Limits, OVERFLOW};
use super::memory::{FeedRow, FeedSkillRow, Memory, RememberedRow};
use super::moment::Moment;
use super::notice::{Notice, ResetCause};
use super::series::{FeedCounters, RuleCounters, SeenAnomaly, SkillIndex};
use super::server_time;
use super::sessions::{Sessions, SessionsFull};
use super::waiting::{Counting, Offered, Rise, StreamedInvocation, WAIT, Waiting};

/// A list of this length may have left some out.
const SKILLS_LISTED_MAX: usize = 10;

/// What of the ledger a feed may touch, and where it says what happened.
pub(super) struct Desk<'l> {
    pub book: &'l mut Book,
    pub rules: &'l mut RuleCounters,
    pub limits: &'l Limits,
    pub notices: &'l mut Vec<Notice>,
    /// Where somebody wants to know why.
    pub findings: Option<&'l mut Vec<Finding>>,
    pub now: Moment,
}

impl Desk<'_> {
    fn counting(&mut self) -> Counting<'_> {
        Counting { book: self.book, rules: self.rules, limits: self.limits, now_micros: self.now.wall_micros }
    }

    fn find(&mut self, finding: impl FnOnce() -> Finding) {
        if let Some(findings) = &mut self.findings {
            findings.push(finding());
        }
    }

    fn reject(&mut self, rejection: Rejection) {
        self.notices.push(Notice::Rejected(rejection));
    }
}

/// A feed and everything that is remembered of it.
#[derive(Debug)]
pub(super) struct Feed {
    pub counters: FeedCounters,
    /// Whether it is subscribed to. A feed that left the configuration keeps its counts and leaves the gauges.
    pub configured: bool,
    /// The one skill that is subscribed to.
    pub filter: Option<Box<str>>,
    pub generation: u64,
    pub live: bool,
    pub had_snapshot: bool,
    /// Whether `counters` changed since they were last shown.
    pub counters_changed: bool,
    /// Skills of which this feed's gauge changed since [`Feed::take_rates_changed`].
    rates_changed: Vec<Arc<str>>,
    skills: HashMap<Arc<str>, FeedSkill>,
    /// Skills that were listed with numbers that could not be accepted, before any that could: their past is unknown.
    unread: BTreeSet<Arc<str>>,
    /// Whether this snapshot had more of them than can be remembered, so that it proves nothing of skills to come.
    unread_is_full: bool,
    remembered: usize,
    round: u64,
    /// How many known skills the previous snapshot listed, how many of them this one lists again, and how many it lists.
    listed_before: usize,
    listed_again: usize,
    listed_now: usize,
    /// Whether the previous unfiltered snapshot named every skill of the database.
    previous_was_complete: bool,
    previous_micros: Option<i64>,
    streams_invocations: bool,
    waiting_rises: VecDeque<(Duration, Arc<str>)>,
    waiting_events: usize,
    event_ids: EventIds,
    anomalies: Anomalies,
    sessions: Sessions,
    /// What is remembered of the database beside the feed.
    pub detail: Detail,
    /// Streamed anomalies, and whether each had an identifier, while it is open whether rows tell them.
    held_anomalies: Vec<(bool, AnomalyEntry<'static>)>,
    /// Whether the feed's own row, and which of its skills, changed since they were last taken to be kept.
    changed: bool,
    changed_skills: HashSet<Arc<str>>,
    kept_micros: Option<i64>,
    /// Messages since the feed was added, where nobody keeps what changes.
    unkept_messages: u64,
}

/// What changed is forgotten after so many messages where nobody keeps it. One message changes little.
const DISCARD_EVERY_MESSAGES: u64 = 256;

/// How long events that no snapshot has met may wait once there are too many of them.
const UNLISTED_PATIENCE: Duration = Duration::from_secs(60);

/// Names that were listed only with numbers that could not be accepted.
const UNREAD_MAX: usize = 1_000;

/// The time of the latest snapshot moves with every snapshot. It is kept when it has moved by this much, so that a
/// snapshot that changes nothing needs nothing kept.
const PREVIOUS_KEPT_EVERY_MICROS: i64 = 600 * 1_000_000;

#[derive(Debug)]
struct FeedSkill {
    series: SkillIndex,
    /// Whether a snapshot ever listed it.
    listed: bool,
    round: u64,
    remembered: Option<RememberedRow>,
    gauge: Option<Gauge>,
    streamed_rate: Option<f64>,
    waiting: Waiting,
    /// Completed and other rows that are yet to be read and that snapshots have counted.
    rows_counted: (u64, u64),
    /// Only where there are rows to compare with.
    comparison: Option<Box<rows::Comparison>>,
    /// Whether what is listed is known to disagree with the rows.
    disagrees: bool,
}

/// What a feed adds to a skill's completion rate.
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

impl Feed {
    pub fn new(identity: &str) -> Self {
        Self {
            counters: FeedCounters { identity: identity.into(), ..Default::default() },
            configured: false,
            filter: None,
            generation: 0,
            live: false,
            had_snapshot: false,
            counters_changed: true,
            rates_changed: Vec::new(),
            skills: HashMap::new(),
            unread: BTreeSet::new(),
            unread_is_full: false,
            remembered: 0,
            round: 0,
            // Nobody knows, so that the first snapshot of a process is looked at.
            listed_before: usize::MAX,
            listed_again: 0,
            listed_now: 0,
            previous_was_complete: false,
            previous_micros: None,
            streams_invocations: false,
            waiting_rises: VecDeque::new(),
            waiting_events: 0,
            event_ids: EventIds::default(),
            anomalies: Anomalies::default(),
            sessions: Sessions::default(),
            detail: Detail::default(),
            held_anomalies: Vec::new(),
            changed: true,
            changed_skills: HashSet::new(),
            kept_micros: None,
            unkept_messages: 0,
        }
    }

    /// The sessions that this feed stands for while it is live.
    pub fn sessions(&self, now: Moment) -> u64 {
        self.sessions.open(now.wall_micros).unwrap_or(1)
    }

    pub fn reports_sessions(&mut self, count: u64) {
        self.sessions.set_count(count);
        self.changed = true;
    }

    /// The gauge and the streamed rate of a skill.
    pub fn rate(&self, skill_name: &str) -> (Option<Gauge>, Option<f64>) {
        self.skills.get(skill_name).map_or((None, None), |skill| (skill.gauge, skill.streamed_rate))
    }

    pub fn take_rates_changed(&mut self) -> Vec<Arc<str>> {
        std::mem::take(&mut self.rates_changed)
    }

    /// Whether what it told of its past is all in.
    pub fn has_begun(&self) -> bool {
        self.had_snapshot && !self.detail.is_awaited()
    }

    /// When the oldest waiting rise has waited long enough, in elapsed time.
    pub fn deadline(&self) -> Option<Duration> {
        let rises = self.waiting_rises.front().map(|(since, _)| *since + WAIT);
        rises.into_iter().chain(self.detail.deadline()).min()
    }

    /// Counts what has waited long enough.
    pub fn tick(&mut self, desk: &mut Desk<'_>) {
        self.tick_detail(desk);
        while let Some((since, _)) = self.waiting_rises.front()
            && desk.now.elapsed.saturating_sub(*since) >= WAIT
        {
            let Some((_, name)) = self.waiting_rises.pop_front() else { return };
            if let Some(skill) = self.skills.get_mut(&name) {
                let elapsed = desk.now.elapsed;
                skill.waiting.settle_rises(skill.series, &mut desk.counting(), elapsed);
                desk.find(|| Finding::RiseSettled { skill_name: name.to_string() });
                self.changed_skills.insert(name);
            }
        }
    }

    pub fn event(&mut self, event: &Event<'_>, desk: &mut Desk<'_>) {
        // Only identifiers need the sender's time.
        let timestamp = event.timestamp.as_deref().filter(|_| event.id.is_some());
        let sent_micros = timestamp.and_then(server_time::micros);
        if let Some(id) = &event.id {
            if let Err(rejection) = check_label(id, "id", desk.limits) {
                return desk.reject(rejection);
            }
            match self.event_ids.acquaintance(id, sent_micros) {
                Acquaintance::New => {}
                Acquaintance::Known => return desk.find(|| Finding::Repeated { id: id.to_string() }),
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
                    let first = self.event_ids.first();
                    self.event_ids.remember(id, sent_micros, desk.now.wall_micros, desk.limits.event_ids_max);
                    self.changed |= self.event_ids.first() != first;
                }
            }
            Err(rejection) => desk.reject(rejection),
        }
    }

    fn apply_event(&mut self, event: &Event<'_>, desk: &mut Desk<'_>) -> Result<(), Rejection> {
        let (now_micros, limits) = (desk.now.wall_micros, desk.limits);
        match &event.kind {
            EventKind::Invocation { skill_name, workflow_phase, completed, duration_seconds, session_id } => {
                if let Some(phase) = workflow_phase {
                    check_label(phase, "workflow_phase", limits)?;
                }
                let event = StreamedInvocation {
                    workflow_phase: workflow_phase.as_deref(),
                    completed: *completed,
                    duration_seconds: *duration_seconds,
                    session_id: session_id.as_deref(),
                };
                self.invocation(skill_name, event, desk)
            }
            EventKind::CompletionRate { skill_name, rate } => {
                let Some((name, skill)) = self.skill(skill_name, desk)? else { return Ok(()) };
                skill.streamed_rate = Some(*rate);
                desk.find(|| Finding::Rate { skill_name: name.to_string() });
                self.rates_changed.push(name.clone());
                self.changed_skills.insert(name);
                Ok(())
            }
            EventKind::Anomaly(entry) => {
                if self.is_filtered_out(&entry.skill_name) {
                    return Ok(());
                }
                check_anomaly(entry, limits)?;
                if !self.detail.leaves_anomalies() {
                    self.hold_anomaly(entry, event.id.is_some());
                    return Ok(());
                }
                self.stream_anomaly(entry, event.id.is_some(), desk)
            }
            EventKind::ActiveSessions { count } => {
                desk.find(|| Finding::Sessions);
                self.reports_sessions(*count);
                Ok(())
            }
            EventKind::SessionCreated { session_id } => {
                check_label(session_id, "session_id", limits)?;
                desk.find(|| Finding::Sessions);
                self.changed = true;
                self.sessions.created(session_id, now_micros, limits.session_ids_max).map_err(sessions_full)
            }
            EventKind::SessionClosed { session_id } => {
                check_label(session_id, "session_id", limits)?;
                desk.find(|| Finding::Sessions);
                self.changed = true;
                self.sessions.closed(session_id, now_micros, limits.session_ids_max).map_err(sessions_full)
            }
        }
    }

    fn stream_anomaly(
        &mut self,
        entry: &AnomalyEntry<'_>,
        is_identified: bool,
        desk: &mut Desk<'_>,
    ) -> Result<(), Rejection> {
        let rise = if is_identified {
            self.anomalies.stream_identified(entry, desk.limits)
        } else {
            self.anomalies.stream(entry, desk.now.wall_micros, desk.limits)
        };
        count_anomalies(entry, rise, Some(desk.now.wall_micros), desk)
    }

    fn invocation(
        &mut self,
        name: &str,
        event: StreamedInvocation<&str>,
        desk: &mut Desk<'_>,
    ) -> Result<(), Rejection> {
        if self.detail.is_joined() {
            return Ok(());
        }
        let is_alone = self.detail.leaves_alone();
        if is_alone {
            self.detail.note_alone();
        }
        let Some((name, skill)) = self.skill(name, desk)? else { return Ok(()) };
        let elapsed = desk.now.elapsed;
        let skill_name = || name.to_string();
        if !is_alone {
            desk.find(|| Finding::EventWaits { skill_name: skill_name() });
            let gave_way = skill.waiting.add_event(event.to_owned(), elapsed);
            self.waiting_events += 1;
            self.drop_events(gave_way, desk);
        } else if !skill.listed {
            desk.find(|| Finding::EventCounted { skill_name: skill_name() });
            desk.counting().event(skill.series, event);
            skill.waiting.give_credit(event);
        } else if !skill.waiting.offer_event(event, skill.series, &mut desk.counting()) {
            desk.find(|| Finding::EventMetRise { skill_name: skill_name() });
        } else {
            desk.find(|| Finding::EventWaits { skill_name: skill_name() });
            let gave_way = skill.waiting.add_event(event.to_owned(), elapsed);
            self.waiting_events += 1;
            self.drop_events(gave_way, desk);
            if self.waiting_events > desk.limits.waiting_events_max {
                self.make_room_for_events(desk);
            }
        }
        self.changed_skills.insert(name);
        self.changed |= !std::mem::replace(&mut self.streams_invocations, true);
        Ok(())
    }

    /// At the limit of waiting events those that have waited for a minute are dropped, and if there are none, all: they are
    /// events of skills that no snapshot lists.
    fn make_room_for_events(&mut self, desk: &mut Desk<'_>) {
        for patience in [UNLISTED_PATIENCE, Duration::ZERO] {
            let mut dropped = 0;
            for (name, skill) in &mut self.skills {
                let of_this = skill.waiting.drop_old_events(patience, desk.now.elapsed);
                if of_this > 0 {
                    self.changed_skills.insert(name.clone());
                }
                dropped += of_this;
            }
            self.drop_events(dropped, desk);
            if dropped > 0 {
                return;
            }
        }
    }

    fn drop_events(&mut self, dropped: usize, desk: &mut Desk<'_>) {
        if dropped > 0 {
            self.waiting_events -= dropped;
            desk.rules.late_events += dropped as u64;
            desk.notices.push(Notice::LateEvents { events: dropped as u64 });
        }
    }

    /// The skill of this name, or `None` if the feed is subscribed to another.
    fn skill(&mut self, name: &str, desk: &mut Desk<'_>) -> Result<Option<(Arc<str>, &mut FeedSkill)>, Rejection> {
        if self.is_filtered_out(name) {
            desk.find(|| Finding::OtherSkill { skill_name: name.to_owned() });
            return Ok(None);
        }
        let known = self.skills.len();
        let vacant = match self.skills.entry_ref(name) {
            EntryRef::Occupied(known) => {
                let name = known.key().clone();
                return Ok(Some((name, known.into_mut())));
            }
            EntryRef::Vacant(vacant) => vacant,
        };
        check_skill_name(name, desk.limits)?;
        if known >= desk.limits.remembered_skills_max {
            return Err(Rejection::new(
                RejectionReason::SkillLimit,
                format!("{name:?} is beyond the limit of {} remembered skills", desk.limits.remembered_skills_max),
            ));
        }
        let name: Arc<str> = name.into();
        self.changed_skills.insert(name.clone());
        let series = desk.book.place(&name, desk.limits, desk.notices);
        let skill = vacant.insert_with_key(
            name.clone(),
            FeedSkill {
                series,
                listed: false,
                round: 0,
                remembered: None,
                gauge: None,
                streamed_rate: None,
                waiting: Waiting::default(),
                rows_counted: (0, 0),
                comparison: None,
                disagrees: false,
            },
        );
        Ok(Some((name, skill)))
    }

    fn is_filtered_out(&self, name: &str) -> bool {
        self.filter.as_deref().is_some_and(|filter| filter != name)
    }

    /// Applies a snapshot: first all of its entries are judged, then what they say together about the database, and only
    /// then does anything move.
    pub fn snapshot(&mut self, snapshot: &Snapshot<'_>, desk: &mut Desk<'_>) {
        self.round += 1;
        let before = self.own_row();
        self.unread_is_full = false;
        self.listed_again = 0;
        self.listed_now = 0;
        let (accepted, listed_remembered) = self.judge(snapshot, desk);
        let filtered = self.filter.is_some();
        let is_complete = !filtered && snapshot.listed < SKILLS_LISTED_MAX && snapshot.skills.iter().all(Result::is_ok);
        let nothing_is_missing = !is_complete || listed_remembered == self.remembered;

        let mut began_empty = false;
        let mut rolled_back = false;
        let is_alone = self.detail.leaves_alone();
        if is_alone {
            self.detail.note_alone();
        }
        let outgrown = if filtered { None } else { self.outgrown(snapshot.listed, &accepted) };
        let is_outgrown = outgrown.is_some();
        if is_alone && let Some(cause) = self.new_database(&accepted, nothing_is_missing).or(outgrown) {
            rolled_back = nothing_is_missing
                && !is_outgrown
                && accepted.iter().all(|(name, listing)| {
                    self.skills[name].remembered.is_none_or(|known| is_nine_tenths(listing.total, known.total))
                });
            if rolled_back {
                self.note_rollback(desk);
            } else {
                self.note_reset(cause, desk);
                began_empty = true;
            }
        }

        let past_is_known = began_empty || (!filtered && self.previous_was_complete);
        let mut dropped = 0;
        for (name, listing) in &accepted {
            if is_alone {
                dropped += self.list(name, listing, rolled_back, past_is_known, desk);
            } else {
                self.list_beside_rows(name, listing, desk);
            }
        }
        self.drop_events(dropped, desk);

        let this_micros = snapshot.timestamp.as_deref().and_then(server_time::micros);
        if !filtered {
            self.previous_was_complete = is_complete;
            self.note_tenth(snapshot.listed, &accepted);
            if self.detail.leaves_anomalies() {
                self.note_anomalies(snapshot, this_micros, desk);
            }
        }
        self.previous_micros = this_micros.or(self.previous_micros);
        self.had_snapshot = true;
        self.listed_before = self.listed_now;
        let lag = self.previous_micros.zip(self.kept_micros).map_or(i64::MAX, |(now, kept)| now.saturating_sub(kept));
        let has_changed = self.own_row() != before;
        self.counters_changed |= has_changed;
        self.changed |= has_changed || lag >= PREVIOUS_KEPT_EVERY_MICROS;
    }

    /// What of the feed's row a snapshot can change, but for its time.
    fn own_row(&self) -> (bool, bool, Option<u64>, u64, u64) {
        let FeedCounters { identity: _, tenth_skill_invocations, rollbacks, resets, .. } = self.counters;
        (self.had_snapshot, self.previous_was_complete, tenth_skill_invocations, rollbacks, resets)
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
        if self.is_filtered_out(&entry.skill_name) {
            return Ok(None);
        }
        if let Some(skill) = self.skills.get_mut(&*entry.skill_name) {
            if skill.round == round {
                let detail = format!("{:?} is listed twice", entry.skill_name);
                return Err(Rejection::new(RejectionReason::DuplicateEntry, detail));
            }
            self.listed_again += usize::from(skill.round + 1 == round);
            self.listed_now += 1;
            skill.round = round;
            *listed_remembered += usize::from(skill.remembered.is_some());
        }
        // An entry that is rejected leaves no skill behind: it must not take the place of one that is not.
        let listing = Listing::of(entry).map_err(|rejection| {
            self.note_unread(&entry.skill_name);
            Rejection { detail: format!("{:?}: {}", entry.skill_name, rejection.detail), ..rejection }
        })?;
        let Some((name, skill)) = self.skill(&entry.skill_name, desk)? else { return Ok(None) };
        let is_new = std::mem::replace(&mut skill.round, round) != round;
        self.listed_now += usize::from(is_new);
        Ok(Some((name, listing)))
    }

    fn note_unread(&mut self, name: &str) {
        let is_remembered = self.skills.get(name).is_some_and(|skill| skill.remembered.is_some());
        if is_remembered || self.unread.contains(name) {
            return;
        }
        if self.unread.len() < UNREAD_MAX {
            self.changed |= self.unread.insert(name.into());
        } else {
            self.unread_is_full = true;
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

    /// A remembered skill that a full list leaves out although it had more than the tenth listed: its total fell. Without
    /// this a reset would be found only when that skill returns, and what the new database holds would by then have been
    /// counted in part and be counted again. Within a tenth it proves nothing, since a rollback looks the same and the
    /// skill's own number is not told. The tenth total of one database never falls, so that a skill that passes here cannot
    /// give a reset away when it returns, and only a skill that has just left the list needs to be looked at.
    fn outgrown(&self, listed: usize, accepted: &[(Arc<str>, Listing)]) -> Option<ResetCause> {
        let nobody_left = self.listed_again == self.listed_before;
        if nobody_left || listed < SKILLS_LISTED_MAX || accepted.len() < listed {
            return None;
        }
        let tenth = accepted.iter().map(|(_, listing)| listing.total).min()?;
        let unlisted = self.skills.iter().filter(|(_, skill)| skill.round != self.round);
        let (name, from) = unlisted
            .filter_map(|(name, skill)| Some((name, skill.remembered?.total)))
            .max_by(|(a_name, a), (b_name, b)| (a, b_name).cmp(&(b, a_name)))?;
        (!is_nine_tenths(tenth, from)).then(|| ResetCause::TotalFell { skill_name: name.to_string(), from, to: tenth })
    }

    /// The server's database is the same, a few writes back.
    fn note_rollback(&mut self, desk: &mut Desk<'_>) {
        self.counters.rollbacks += 1;
        self.counters_changed = true;
        self.changed = true;
        desk.notices.push(Notice::RolledBack);
    }

    /// The server's database is a new one: what is remembered of the old one is void.
    fn note_reset(&mut self, cause: ResetCause, desk: &mut Desk<'_>) {
        self.counters.resets += 1;
        self.counters_changed = true;
        self.changed = true;
        desk.notices.push(Notice::Reset(cause));
        self.forget_numbers();
        self.anomalies.note_new_database();
    }

    fn forget_numbers(&mut self) {
        for skill in self.skills.values_mut() {
            skill.remembered = None;
        }
        self.unread.clear();
        self.changed_skills.extend(self.skills.keys().cloned());
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
    ) -> usize {
        let Some(skill) = self.skills.get_mut(name) else { return 0 };
        let is_other = skill.set_gauge(Gauge::from(listing));
        if is_other {
            desk.find(|| Finding::Rate { skill_name: name.to_string() });
            self.rates_changed.push(name.clone());
        }
        if !listing.exact && (is_other || skill.remembered.is_none()) {
            desk.rules.inexact_rates += 1;
        }
        desk.book.set_listed(skill.series, desk.now.wall_micros);

        let (next, rise) = match skill.remembered {
            None => {
                let was_unread = self.unread.remove(name);
                self.changed |= was_unread;
                let past_is_known = past_is_known && !was_unread;
                let born_micros = past_is_known.then_some(desk.now.wall_micros);
                desk.find(|| Finding::FirstSight {
                    skill_name: name.to_string(),
                    total: listing.total,
                    completed: listing.completed,
                    past_is_known,
                });
                desk.book.phase(skill.series, UNKNOWN_PHASE, born_micros, desk.limits);
                first_sight(listing, past_is_known)
            }
            Some(known) if rolled_back => {
                desk.find(|| Finding::WentBack { skill_name: name.to_string(), from: known.total, to: listing.total });
                (RememberedRow::from(listing), None)
            }
            Some(known) => {
                let (next, rise) = difference(&known, listing);
                if let Some(rise) = rise {
                    desk.find(|| Finding::Rise {
                        skill_name: name.to_string(),
                        from: known.total,
                        to: listing.total,
                        completed: rise.completed,
                        seconds: rise.durations.map(Seconds::snapped),
                    });
                }
                (next, rise)
            }
        };
        self.remembered += usize::from(skill.remembered.is_none());
        let has_moved = skill.remembered.replace(next) != Some(next);
        skill.listed = true;

        if let Some(rise) = rise {
            let (elapsed, series) = (desk.now.elapsed, skill.series);
            let Offered { credited, events, waits } =
                skill.waiting.offer_rise(rise, self.streams_invocations, series, &mut desk.counting(), elapsed);
            self.waiting_events -= events;
            if credited > 0 {
                desk.find(|| Finding::Credited { skill_name: name.to_string(), invocations: credited });
            }
            if events > 0 {
                desk.find(|| Finding::MetEvents { skill_name: name.to_string(), events });
            }
            if waits {
                desk.find(|| Finding::RiseWaits { skill_name: name.to_string() });
                self.waiting_rises.push_back((elapsed, name.clone()));
            }
        }
        let dropped = skill.waiting.drop_late_events(desk.now.elapsed);
        if is_other || has_moved || dropped > 0 {
            self.changed_skills.insert(name.clone());
        }
        dropped
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
        // What the very first snapshot lists had happened before.
        let born_micros = self.had_snapshot.then_some(now_micros);
        self.anomalies.begin_round();
        for entry in &snapshot.anomalies {
            let counted = entry.as_ref().map_err(Clone::clone).and_then(|entry| {
                check_anomaly(entry, desk.limits)?;
                let rise = self.anomalies.list(entry, now_micros, desk.limits);
                count_anomalies(entry, rise, born_micros, desk)
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

/// What is kept of a feed, and what it is made of again.
impl Feed {
    /// Whether there is something to keep.
    pub fn has_changed(&self) -> bool {
        self.changed
            || !self.changed_skills.is_empty()
            || self.event_ids.has_new()
            || self.anomalies.has_changed()
            || self.sessions.has_changed()
            || self.detail.has_changed()
    }

    /// Forgets what changed, now and then: nobody keeps it, but it must not pile up.
    pub fn discard_changes(&mut self) {
        self.unkept_messages += 1;
        if self.unkept_messages.is_multiple_of(DISCARD_EVERY_MESSAGES) {
            self.take_changed(0, None, &mut Memory::default());
        }
    }

    /// The feed itself is to be kept.
    pub fn touch(&mut self) {
        self.changed = true;
    }

    /// Adds what changed since the last call to `memory`.
    pub fn take_changed(&mut self, place: usize, alias_of: Option<usize>, memory: &mut Memory) {
        // With whatever else of it: the time of the latest snapshot must not be older than the newest anomaly that is kept,
        // or a list that was seen before a restart would look like one that may have hidden some.
        if self.has_changed() {
            self.changed = false;
            self.kept_micros = self.previous_micros;
            memory.feeds.push(FeedRow {
                place,
                counters: self.counters.clone(),
                had_snapshot: self.had_snapshot,
                previous_was_complete: self.previous_was_complete,
                previous_micros: self.previous_micros,
                streams_invocations: self.streams_invocations,
                alias_of,
                sessions_reported: self.sessions.reported(),
                sessions_count: self.sessions.count(),
                first_event_id: self.event_ids.first(),
                newest_forgotten_micros: self.event_ids.newest_forgotten_micros(),
                unread: self.unread.iter().cloned().collect(),
            });
        }
        let skills = &self.skills;
        let row = |name: Arc<str>| skills.get(&name).map(|skill| skill.row(place, name));
        memory.feed_skills.extend(self.changed_skills.drain().filter_map(row));
        memory.event_ids.extend(self.event_ids.take_new(place));
        memory.tallies.extend(self.anomalies.take_tallies(place));
        memory.anomalies.extend(self.anomalies.take_keys(place));
        let (cleared, sessions) = self.sessions.take_changed();
        if cleared {
            memory.sessions_cleared.push(place);
        }
        memory.sessions.extend(sessions.into_iter().map(|(id, session)| (place, id, session)));
        self.detail.take_changed(place, &mut memory.details, &mut memory.marks);
    }

    /// Makes [`Feed::take_changed`] give this feed's part of `memory` once more, with the values of then.
    pub fn untake(&mut self, place: usize, memory: &Memory) {
        self.changed |= memory.feeds.iter().any(|row| row.place == place);
        let skills = memory.feed_skills.iter().filter(|row| row.feed == place);
        self.changed_skills.extend(skills.map(|row| row.skill_name.clone()));
        if let Some(row) = memory.event_ids.iter().find(|row| row.feed == place) {
            self.event_ids.untake(row.sequence);
        }
        memory.tallies.iter().filter(|row| row.feed == place).for_each(|row| self.anomalies.untake_tally(row));
        let keys = memory.anomalies.iter().filter(|(key, _)| key.feed == place);
        keys.for_each(|(key, _)| self.anomalies.untake_key(key));
        let sessions = memory.sessions.iter().filter(|(feed, ..)| *feed == place).map(|(_, id, _)| id.clone());
        self.sessions.untake(memory.sessions_cleared.contains(&place), sessions);
        if memory.details.iter().any(|row| row.feed == place) {
            self.detail.untake();
        }
    }

    /// A feed that was kept, without a configuration. `memory` holds the rows of this feed alone.
    pub fn restore(row: FeedRow, memory: Memory, now: Duration) -> Self {
        let mut feed = Self::new(&row.counters.identity);
        let sessions = memory.sessions.into_iter().filter_map(|(_, id, session)| Some((id, session?))).collect();
        feed.sessions = Sessions::restore(row.sessions_reported, row.sessions_count, sessions);
        feed.event_ids = EventIds::restore(row.first_event_id, row.newest_forgotten_micros, memory.event_ids);
        memory.tallies.into_iter().for_each(|tally| feed.anomalies.restore_tally(tally));
        for (key, anomaly) in memory.anomalies {
            if let Some(anomaly) = anomaly {
                feed.anomalies.restore_key(key, anomaly);
            }
        }
        for skill in memory.feed_skills {
            let name = skill.skill_name.clone();
            let skill = FeedSkill::restore(skill, now);
            feed.remembered += usize::from(skill.remembered.is_some());
            feed.waiting_events += skill.waiting.events();
            feed.waiting_rises.extend(std::iter::repeat_n((now, name.clone()), skill.waiting.rises()));
            feed.skills.insert(name, skill);
        }
        if let Some(detail) = memory.details.into_iter().next() {
            feed.detail = Detail::restore(detail, memory.marks);
        }
        feed.counters = row.counters;
        feed.had_snapshot = row.had_snapshot;
        feed.previous_was_complete = row.previous_was_complete;
        feed.previous_micros = row.previous_micros;
        feed.kept_micros = row.previous_micros;
        feed.streams_invocations = row.streams_invocations;
        feed.unread = row.unread.into_iter().collect();
        feed.changed = false;
        feed
    }

    /// Every skill that this feed has a rate of.
    pub fn rated(&self) -> Vec<Arc<str>> {
        let is_rated = |(_, skill): &(&Arc<str>, &FeedSkill)| skill.gauge.is_some() || skill.streamed_rate.is_some();
        self.skills.iter().filter(is_rated).map(|(name, _)| name.clone()).collect()
    }
}

impl FeedSkill {
    /// Whether the gauge was another.
    fn set_gauge(&mut self, gauge: Gauge) -> bool {
        self.gauge.replace(gauge) != Some(gauge)
    }

    fn row(&self, feed: usize, skill_name: Arc<str>) -> FeedSkillRow {
        let (credit, credit_duration_sum) = self.waiting.credit();
        FeedSkillRow {
            feed,
            skill_name,
            series: self.series,
            listed: self.listed,
            remembered: self.remembered,
            gauge: self.gauge.map(|gauge| (gauge.total, gauge.completed, gauge.rate_percent)),
            streamed_rate: self.streamed_rate,
            credit,
            credit_duration_sum,
            waiting: self.waiting.row(),
            rows_counted: self.rows_counted,
            disagrees: self.disagrees,
        }
    }

    fn restore(row: FeedSkillRow, now: Duration) -> Self {
        Self {
            series: row.series,
            listed: row.listed,
            round: 0,
            remembered: row.remembered,
            gauge: row.gauge.map(|(total, completed, rate_percent)| Gauge { total, completed, rate_percent }),
            streamed_rate: row.streamed_rate,
            waiting: Waiting::restore(row.credit, row.credit_duration_sum, row.waiting, now),
            rows_counted: row.rows_counted,
            comparison: None,
            disagrees: row.disagrees,
        }
    }
}

impl From<&Listing> for RememberedRow {
    fn from(listing: &Listing) -> Self {
        Self {
            total: listing.total,
            completed: listing.completed,
            split_is_exact: listing.exact,
            duration_sum: listing.duration_sum,
        }
    }
}

/// Rule 4.3: whether `now` is so near to `known` that it may be the same database a few writes back.
fn is_nine_tenths(now: u64, known: u64) -> bool {
    u128::from(now) * 10 >= u128::from(known) * 9
}

/// Rule 4.1: the whole total counts; its durations too if all of it happened under watch.
fn first_sight(listing: &Listing, past_is_known: bool) -> (RememberedRow, Option<Rise>) {
    let durations = if past_is_known { listing.duration_sum.map(|sum| Seconds::between(0.0, sum)) } else { None };
    let rise =
        Rise { completed: listing.completed, abandoned: listing.abandoned(), durations, history: !past_is_known };
    (RememberedRow::from(listing), Some(rise))
}

/// Rule 4.2: the difference counts. The total is known not to have fallen.
fn difference(known: &RememberedRow, listing: &Listing) -> (RememberedRow, Option<Rise>) {
    let risen = listing.total - known.total;
    // Neither part may fall or rise by more than the total did. Between exact numbers this changes nothing; a guessed
    // split is caught up with as the true one moves past it.
    let completed = listing.completed.clamp(known.completed, known.completed + risen);
    let mut next = RememberedRow {
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
    born_micros: Option<i64>,
    desk: &mut Desk<'_>,
) -> Result<(), Rejection> {
    let rise = rise.map_err(|AnomaliesFull| {
        let limit = desk.limits.anomaly_keys_max;
        Rejection::new(RejectionReason::AnomalyLimit, format!("{limit} anomalies are remembered already"))
    })?;
    if rise > 0 {
        desk.find(|| Finding::Anomaly {
            skill_name: entry.skill_name.to_string(),
            anomaly_type: entry.anomaly_type.to_string(),
            rise,
        });
        let series = desk.book.place(&entry.skill_name.as_ref().into(), desk.limits, desk.notices);
        let anomaly_type = entry.anomaly_type.as_ref().into();
        desk.book.add_anomalies(series, &anomaly_type, rise, born_micros, desk.limits);
        desk.book.note_anomaly(SeenAnomaly {
            skill_name: entry.skill_name.as_ref().into(),
            anomaly_type,
            times: rise,
            detected_at: entry.detected_at.as_deref().map(Into::into),
            deviation_score: entry.deviation_score,
            wall_micros: desk.now.wall_micros,
            is_history: born_micros.is_none(),
        });
    }
    Ok(())
}

fn sessions_full(_: SessionsFull) -> Rejection {
    Rejection::new(RejectionReason::SessionLimit, "no room to remember another session")
}
