//! The public face of all counts: feeds join and leave, messages and readings are applied, changes are drained.

use std::sync::Arc;
use std::time::Duration;

use crate::protocol::{Event, Message, Snapshot};

use super::binding::{Beginning, Entry, Observation, Outcome, Role, SourceEvent, Sources};
use super::book::Book;
use super::check::check_skill_name;
use super::context::ApplyContext;
use super::continuity::{Continuity, Room};
use super::evidence::Totals;
use super::feed::{Feed, Trust};
use super::finding::Finding;
use super::limits::{Limits, SERIES_COUNT_MAX};
use super::moment::Moment;
use super::notice::{FallenSkills, Notice, ResetCause};
use super::records::Records;
use super::rows::Coverage;
use super::series::{Changes, FeedCounters, RuleCounters, SkillIndex, SkillRow};
use super::server_time::{self, Stamp};
use super::slots::{FeedSlot, SourceId};
use super::snapshot::{Accepted, SKILLS_LISTED_MAX, accept, name_of};
use super::source::{SourceCounts, skill_limit};
use super::standing::{FeedRole, FeedStanding};

/// A process without a past shows no skill for at most this long, until each feed's first snapshot is in. Otherwise the
/// history of a slower feed would be a spike in a series that a faster one has begun. A feed that sends events alone is
/// held as long, until it is known whose they are.
const START_HOLD: Duration = Duration::from_secs(5);

/// What changed is forgotten after so many messages where nobody persists it. One message changes little.
const DISCARD_EVERY_MESSAGES: u64 = 256;

/// A feed that was added.
pub type FeedId = FeedSlot;

/// One connection of a feed. Opening another makes it a thing of the past.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ConnectionId {
    feed: FeedSlot,
    generation: u64,
}

/// What the ledger must know of a feed.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct FeedSpec {
    /// What the feed is called in logs and labels; no two feeds share it.
    pub identity: String,
    /// Where it connects to: what is the same when only its name changes. `None` where that is its identity.
    pub address: Option<String>,
    /// The one skill that is subscribed to; `None` for all.
    pub skill: Option<String>,
}

impl FeedSpec {
    fn entry(&self) -> Entry {
        Entry {
            name: self.identity.as_str().into(),
            address: self.address.as_ref().unwrap_or(&self.identity).as_str().into(),
            filter: self.skill.as_deref().map(Into::into),
        }
    }
}

/// All counts, and what is needed to count on.
#[derive(Debug)]
pub struct Ledger {
    pub(super) limits: Limits,
    pub(super) book: Book,
    pub(super) rules: RuleCounters,
    pub(super) sources: Sources<SourceCounts>,
    /// Every feed, by its slot.
    pub(super) feeds: Vec<Feed>,
    /// The configuration, and whether `sources` have yet to learn of it.
    pub(super) configured: Vec<FeedSlot>,
    configuration: Configuration,
    pub(super) start: Start,
    /// Whether somebody persists what changes. Otherwise it is not collected.
    pub(super) is_persisted: bool,
    /// Whether the gauges are of the feeds that are configured.
    began: bool,
    pub(super) acknowledged_rules: RuleCounters,
    collected_rules: RuleCounters,
    sequence: u64,
    messages: u64,
    /// Where to explain, if somebody asked for it.
    findings: Option<Vec<Finding>>,
    accepted: Vec<Accepted>,
}

/// Everything of a ledger, as plain data.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Whole {
    /// Every skill.
    pub skills: Vec<SkillRow>,
    /// The counters of the rules.
    pub rules: RuleCounters,
    /// Everything else that is remembered.
    pub memory: Records,
}

#[derive(Debug, Clone, Copy)]
pub(super) enum Start {
    /// Nothing has happened yet.
    Awaited,
    Holding {
        since: Duration,
    },
    Over,
}

/// Whether the sources know of the present configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Configuration {
    Known,
    /// It changed: the sources learn of it with the next message.
    Changed,
    /// It is changing: the sources learn of it once that is over.
    Changing,
}

impl Ledger {
    /// An empty ledger.
    pub fn new(limits: Limits) -> Self {
        Self {
            limits,
            book: Book::default(),
            rules: RuleCounters::default(),
            sources: Sources::default(),
            feeds: Vec::new(),
            configured: Vec::new(),
            configuration: Configuration::Known,
            start: Start::Awaited,
            is_persisted: false,
            began: false,
            acknowledged_rules: RuleCounters::default(),
            collected_rules: RuleCounters::default(),
            sequence: 0,
            messages: 0,
            findings: None,
            accepted: Vec::new(),
        }
    }

    /// From now on collects why, for [`Ledger::take_findings`].
    pub fn explain(&mut self) {
        self.findings.get_or_insert_default();
    }

    /// What the rules made of everything since the last call; nothing unless [`Ledger::explain`] was called.
    pub fn take_findings(&mut self) -> Vec<Finding> {
        self.findings.as_mut().map(std::mem::take).unwrap_or_default()
    }

    fn find(&mut self, finding: Finding) {
        if let Some(findings) = &mut self.findings {
            findings.push(finding);
        }
    }
}

/// Configuration.
impl Ledger {
    /// Adds a feed after those that are there. One that was restored, or removed before, goes on where it was.
    pub fn add_feed(&mut self, spec: FeedSpec) -> FeedId {
        let slot = self.sources.slot_of(&spec.entry());
        while self.feeds.len() <= slot.index() {
            let identity = self.sources.entry(FeedSlot::new(self.feeds.len())).name.clone();
            self.feeds.push(Feed::new(&identity));
        }
        if !self.configured.contains(&slot) {
            self.configured.push(slot);
        }
        let feed = &mut self.feeds[slot.index()];
        if *feed.counters.identity != *spec.identity {
            // The slot was that of an entry that is forgotten. What its connection still delivers is of the past.
            let generation = feed.generation + 1;
            *feed = Feed::new(&spec.identity);
            feed.generation = generation;
        }
        feed.is_configured = true;
        feed.exposed.mark();
        feed.database = None;
        feed.counters.rows_tell = None;
        self.sources.forget_rows(slot);
        if self.configuration == Configuration::Known {
            self.configuration = Configuration::Changed;
        }
        slot
    }

    /// Takes a feed out of the configuration: what its source counted stays. A feed that is still pending is bound by what is
    /// known. It may be added again.
    pub fn remove_feed(&mut self, feed: FeedId, now: Moment) {
        self.update_start(now);
        let mut notices = Vec::new();
        if let Some(held) = self.feeds[feed.index()].held.take() {
            self.snapshot(feed, &held, true, now, &mut notices);
        }
        self.release_events(feed, true, now, &mut notices);
        let left = &mut self.feeds[feed.index()];
        left.is_configured = false;
        left.is_live = false;
        left.has_begun = false;
        left.database = None;
        left.held = None;
        left.release_events();
        // What its connection still delivers is of the past.
        left.generation += 1;
        left.touch();
        self.sources.close(feed);
        self.configured.retain(|known| *known != feed);
        if self.configuration == Configuration::Known {
            self.configuration = Configuration::Changed;
        }
        // Nobody waits for it any more.
        self.update_start(now);
    }

    /// Feeds are about to be removed and added: entries that come and go until [`Ledger::end_configuration`] do so in one
    /// change.
    pub fn begin_configuration(&mut self) {
        self.configuration = Configuration::Changing;
    }

    /// The configuration is complete.
    pub fn end_configuration(&mut self, now: Moment) {
        self.configuration = Configuration::Changed;
        self.commit_configuration(now);
    }

    /// Tells the sources of the configuration.
    pub(super) fn commit_configuration(&mut self, now: Moment) {
        if self.configuration != Configuration::Changed {
            return;
        }
        self.configuration = Configuration::Known;
        let entries: Vec<Entry> = self.configured.iter().map(|feed| self.sources.entry(*feed).clone()).collect();
        self.update_databases(now);
        self.sources.configure(&entries);
        self.update_databases(now);
        if self.began {
            self.show_all_rates();
        }
    }

    /// Adapts the reading of databases to the feeds that sources have now.
    fn update_databases(&mut self, now: Moment) {
        let sources: Vec<SourceId> = self.sources.iter().map(|(id, _)| id).collect();
        sources.into_iter().for_each(|source| self.update_database(source, now));
    }

    /// Ends the reading of a source's database if no configured feed has one any more, and exposes what was read of skills
    /// that no feed was subscribed to before.
    pub(super) fn update_database(&mut self, source: SourceId, now: Moment) {
        let coverage = Coverage::of(self.sources.coverage(source));
        let is_read = self.configured.iter().any(|feed| {
            let database = self.feeds[feed.index()].database.as_ref();
            database.is_some_and(|database| database.trust != Trust::Contradicted)
                && self.sources.expected_source(*feed) == Some(source)
        });
        let mut notices = Vec::new();
        self.with_source(source, now, &mut notices, |known, ctx| {
            let before = known.counts.coverage.replace(coverage.clone());
            if before.is_none_or(|before| before != coverage) {
                known.counts.reveal(&known.numbers, &coverage, ctx);
            }
            if !is_read {
                known.counts.leave_rows(ctx);
            }
        });
    }

    /// Changes how much is counted and remembered from now on. What there is already stays.
    pub fn set_limits(&mut self, limits: Limits) {
        self.limits = limits;
    }

    /// What is counted of a feed.
    pub fn counters(&self, feed: FeedId) -> &FeedCounters {
        &self.feeds[feed.index()].counters
    }

    /// How each configured feed stands to its source, in the order of the configuration.
    pub fn standings(&self) -> Vec<FeedStanding> {
        self.configured.iter().map(|feed| self.standing(*feed)).collect()
    }

    fn standing(&self, slot: FeedSlot) -> FeedStanding {
        let feed = &self.feeds[slot.index()];
        let active = |source| self.sources.active_feed(source, slot);
        let standby = |active: Option<FeedSlot>| FeedRole::Standby {
            active: active.map(|active| self.feeds[active.index()].counters.identity.clone()),
        };
        let source = self.sources.expected_source(slot);
        let role = match (self.role(slot), source) {
            _ if !feed.is_live => FeedRole::Inactive,
            (Role::Active(_), _) => FeedRole::Active,
            (Role::Standby(source), _) => standby(active(source)),
            (Role::Pending, _) => FeedRole::Pending,
            // Events alone bind no feed: they are counted unless another feed does it.
            (Role::Unbound, Some(source)) if active(source).is_some() => standby(active(source)),
            (Role::Unbound, Some(_)) => FeedRole::Active,
            (Role::Unbound, None) => FeedRole::Inactive,
        };
        FeedStanding { identity: feed.counters.identity.clone(), source, role }
    }

    /// How a feed stands to its source.
    pub fn role(&self, feed: FeedId) -> Role {
        self.sources.role(feed)
    }

    /// Adds a feed that is this very program: it has no past to wait for, and no sessions before it reports some.
    pub fn add_local_feed(&mut self, identity: &str) -> FeedId {
        let slot = self.add_feed(FeedSpec { identity: identity.to_owned(), ..FeedSpec::default() });
        self.commit_configuration(Moment::default());
        self.feeds[slot.index()].has_begun = true;
        if let Some(source) = self.sources.adopt(slot, true, 0)
            && let Some(source) = self.sources.source_mut(source)
        {
            source.counts.report_sessions(0);
        }
        self.sources.take_events();
        slot
    }
}

/// Connections.
impl Ledger {
    /// A connection of `feed` is established. What an older one of it still delivers is discarded.
    pub fn open(&mut self, feed: FeedId, now: Moment) -> ConnectionId {
        self.commit_configuration(now);
        self.update_start(now);
        let open = &mut self.feeds[feed.index()];
        open.generation += 1;
        open.is_live = false;
        open.opened_at = Some(now.elapsed);
        open.held = None;
        let generation = open.generation;
        self.sources.open(feed);
        ConnectionId { feed, generation }
    }

    /// A connection has ended. Nothing happens if it is a thing of the past already. A feed that is still pending is bound
    /// by what is known.
    pub fn close(&mut self, connection: ConnectionId, now: Moment) {
        let slot = connection.feed;
        if self.feeds[slot.index()].generation != connection.generation {
            return;
        }
        self.update_start(now);
        let mut notices = Vec::new();
        if let Some(held) = self.feeds[slot.index()].held.take() {
            self.snapshot(slot, &held, true, now, &mut notices);
        }
        self.release_events(slot, true, now, &mut notices);
        self.feeds[slot.index()].is_live = false;
        self.sources.close(slot);
    }

    /// Applies one message, whole or not at all; in a snapshot a bad entry is left out alone. What somebody should learn of
    /// is added to `notices`.
    pub fn apply(&mut self, connection: ConnectionId, message: &Message<'_>, now: Moment, notices: &mut Vec<Notice>) {
        let slot = connection.feed;
        if self.feeds[slot.index()].generation != connection.generation {
            return;
        }
        self.commit_configuration(now);
        self.tick(now, notices);
        self.feeds[slot.index()].is_live = true;
        match message {
            Message::Connection(_) | Message::Unknown => {}
            Message::Event(event) => self.event(slot, event, now, notices),
            Message::Snapshot(snapshot) => self.snapshot(slot, snapshot, false, now, notices),
        }
        if !self.is_persisted {
            self.messages += 1;
            if self.messages.is_multiple_of(DISCARD_EVERY_MESSAGES) {
                self.discard();
            }
        }
        self.update_start(now);
    }

    /// Forgets what changed, where nobody persists it: it must not pile up.
    fn discard(&mut self) {
        for (_, source) in self.sources.iter_mut() {
            super::persist::collect_source(source_stub(), source, &mut Records::default());
            source.counts.acknowledge();
        }
        self.sources.collect(&mut Records::default(), |_, _| None);
        self.sources.acknowledge();
    }

    fn event(&mut self, slot: FeedSlot, event: &Event<'_>, now: Moment, notices: &mut Vec<Notice>) {
        let Some(source) = self.sources.adopt(slot, self.is_hold_over(slot, now), now.wall_micros) else {
            if !self.feeds[slot.index()].hold_event(event) {
                super::pending::add(&mut self.rules.late_events, 1);
                notices.push(Notice::LateEvents { events: 1 });
            }
            return;
        };
        self.release_events(slot, false, now, notices);
        self.apply_event(slot, source, event, now, notices);
        self.report(now, notices);
        self.finish(source, now, notices);
    }

    fn apply_event(
        &mut self,
        slot: FeedSlot,
        source: SourceId,
        event: &Event<'_>,
        now: Moment,
        notices: &mut Vec<Notice>,
    ) {
        let is_active = self.sources.streams_for(slot, source);
        let filter = self.sources.entry(slot).filter.clone();
        self.with_source(source, now, notices, |known, ctx| {
            known.counts.event(event, filter.as_deref(), is_active, ctx);
        });
    }

    /// Applies the events that were held until it is known whose they are.
    fn release_events(&mut self, slot: FeedSlot, is_over: bool, now: Moment, notices: &mut Vec<Notice>) {
        if self.feeds[slot.index()].held_events().is_empty() {
            return;
        }
        let Some(source) = self.sources.adopt(slot, is_over, now.wall_micros) else { return };
        for event in self.feeds[slot.index()].release_events() {
            self.apply_event(slot, source, &event, now, notices);
        }
        self.report(now, notices);
        self.finish(source, now, notices);
    }

    fn is_hold_over(&self, slot: FeedSlot, now: Moment) -> bool {
        let opened_at = self.feeds[slot.index()].opened_at;
        opened_at.is_some_and(|at| now.elapsed.saturating_sub(at) >= START_HOLD)
    }

    /// Takes a snapshot: first all of its entries are judged, then what they show together of whose they are, and only then
    /// does anything move.
    fn snapshot(
        &mut self,
        slot: FeedSlot,
        snapshot: &Snapshot<'_>,
        is_last: bool,
        now: Moment,
        notices: &mut Vec<Notice>,
    ) {
        let mut accepted = std::mem::take(&mut self.accepted);
        accepted.clear();
        self.accept(slot, snapshot, &mut accepted, is_last, notices);
        let filter = self.sources.entry(slot).filter.is_some();
        let is_complete = !filter && snapshot.listed < SKILLS_LISTED_MAX && snapshot.skills.iter().all(Result::is_ok);
        let least = accepted.iter().map(|(_, listing)| listing.total).min();
        let room = match least {
            _ if filter || accepted.len() < snapshot.listed => Room::Unknown,
            Some(least) if snapshot.listed >= SKILLS_LISTED_MAX => Room::Full(least),
            _ => Room::Enough,
        };
        let entries = accepted.iter().map(|entry| (name_of(snapshot, entry), Totals::from(&entry.1)));
        let listings = self.sources.listings(slot, entries);
        let seen = Observation {
            now: now.elapsed,
            stamp: snapshot.timestamp.as_deref().and_then(Stamp::of),
            listings,
            room,
            anomalies: if filter { &[] } else { &snapshot.anomalies },
        };
        let outcome = if is_last {
            self.sources.observe_last(slot, &seen, now.wall_micros)
        } else {
            self.sources.observe(slot, &seen, now.wall_micros)
        };
        drop(seen);
        self.report(now, notices);
        if !filter {
            self.note_tenth(slot, snapshot.listed, &accepted);
        }
        if outcome == Outcome::Pending {
            if accepted.is_empty() {
                self.empty_snapshot(slot, snapshot, is_complete, now, notices);
            } else if !is_last {
                self.feeds[slot.index()].held = Some(Box::new(snapshot.clone().into_owned()));
            }
        } else {
            self.feeds[slot.index()].held = None;
            self.feeds[slot.index()].has_begun = true;
            self.release_events(slot, true, now, notices);
        }
        self.report_role(slot, outcome, notices);
        self.count(slot, snapshot, &accepted, is_complete, outcome, now, notices);
        self.accepted = accepted;
    }

    /// Takes a snapshot that lists no skill. It binds nothing; but if nobody else can be the source of this feed, or nothing
    /// is known of it yet, the next skill that is listed is provably new, and its anomalies count.
    fn empty_snapshot(
        &mut self,
        slot: FeedSlot,
        snapshot: &Snapshot<'_>,
        is_complete: bool,
        now: Moment,
        notices: &mut Vec<Notice>,
    ) {
        self.feeds[slot.index()].has_begun = true;
        if self.sources.entry(slot).filter.is_some() || self.feeds[slot.index()].held.is_some() {
            return;
        }
        let Some(source) = self.sources.adopt(slot, false, now.wall_micros) else { return };
        self.report(now, notices);
        let this_micros = snapshot.timestamp.as_deref().and_then(server_time::micros);
        self.with_source(source, now, notices, |known, ctx| {
            if known.numbers.iter().next().is_some() {
                return;
            }
            let beginning = known.begin();
            let counts = &mut known.counts;
            counts.changed.mark_if(beginning.is_some() || counts.previous_was_complete != is_complete);
            counts.previous_was_complete = is_complete;
            if counts.detail.leaves_anomalies() {
                let may_hide = counts.may_hide_anomalies(snapshot);
                counts.list_anomalies(snapshot, beginning == Some(Beginning::History), ctx);
                if may_hide {
                    ctx.rules.anomaly_window_overflows += 1;
                    ctx.notices.push(Notice::AnomalyWindowOverflowed);
                }
            }
            counts.note_time(this_micros);
        });
        self.finish(source, now, notices);
    }

    fn accept(
        &mut self,
        slot: FeedSlot,
        snapshot: &Snapshot<'_>,
        accepted: &mut Vec<Accepted>,
        is_last: bool,
        notices: &mut Vec<Notice>,
    ) {
        let Self { sources, book, limits, .. } = self;
        let filter = sources.entry(slot).filter.as_deref();
        let source = sources.expected_source(slot);
        let known = source.and_then(|source| sources.source(source));
        // What was rejected when it arrived was reported then.
        let mut reject = |rejection| {
            if !is_last {
                notices.push(Notice::Rejected(rejection));
            }
        };
        let mut unread: Vec<Box<str>> = Vec::new();
        accept(snapshot, filter, accepted, |name, rejection| {
            unread.extend(name.map(Box::from));
            reject(rejection);
        });
        let mut skills = known.map_or(0, |known| known.counts.skills.len());
        let mut reserved = 0_u64;
        accepted.retain(|entry| {
            let (name, listing) = (name_of(snapshot, entry), &entry.1);
            let skill = known.and_then(|known| known.counts.skills.get(name));
            if skill.is_none() {
                let checked = check_skill_name(name, limits).and_then(|()| {
                    skills += 1;
                    if skills > limits.remembered_skills_max {
                        return Err(skill_limit(name, limits.remembered_skills_max));
                    }
                    Ok(())
                });
                if let Err(rejection) = checked {
                    reject(rejection);
                    return false;
                }
            }
            let remembered = known.and_then(|known| known.numbers.remembered(name)).map_or(0, |totals| totals.total);
            if listing.total <= remembered {
                return true;
            }
            // Several skills can share a series: what one of them may add is reserved for it.
            let series = skill.map(|skill| skill.series).or_else(|| book.find(name)).or_else(|| book.overflow());
            let counted = series.map_or(0, |series| book.invocations(series));
            let pending = skill.map_or(0, |skill| skill.pending.invocations());
            reserved = reserved.saturating_add(listing.total - remembered);
            let is_possible = counted.saturating_add(pending).saturating_add(reserved) <= SERIES_COUNT_MAX;
            if !is_possible {
                reserved -= listing.total - remembered;
                reject(super::check::too_many(name, listing.total));
            }
            is_possible
        });
        if let Some(source) = source.and_then(|source| sources.source_mut(source)) {
            for name in unread {
                if source.numbers.remembered(&name).is_none() {
                    source.counts.changed.mark_if(source.counts.unread.insert(&name));
                }
            }
        }
    }

    fn note_tenth(&mut self, slot: FeedSlot, listed: usize, accepted: &[Accepted]) {
        let least = accepted.iter().map(|(_, listing)| listing.total).min();
        let feed = &mut self.feeds[slot.index()];
        let tenth = if listed < SKILLS_LISTED_MAX { Some(0) } else { least.or(feed.counters.tenth_skill_invocations) };
        if feed.counters.tenth_skill_invocations != tenth {
            feed.counters.tenth_skill_invocations = tenth;
            feed.touch();
        }
    }

    /// Reports when a feed becomes active or goes on standby.
    fn report_role(&mut self, slot: FeedSlot, outcome: Outcome, notices: &mut Vec<Notice>) {
        let feed = &mut self.feeds[slot.index()];
        match outcome {
            Outcome::Standby { source, .. } if !feed.is_on_standby => {
                feed.is_on_standby = true;
                let active = self.sources.active_feed(source, slot);
                let of = active.map(|active| self.feeds[active.index()].counters.identity.to_string());
                notices.push(Notice::AliasFound { of: of.unwrap_or_default() });
            }
            Outcome::Counted { .. } if feed.is_on_standby => {
                feed.is_on_standby = false;
                notices.push(Notice::AliasCleared);
            }
            _ => {}
        }
    }

    /// Counts what the outcome of a snapshot allows.
    #[expect(clippy::too_many_arguments, reason = "a snapshot with all that is known of it")]
    fn count(
        &mut self,
        slot: FeedSlot,
        snapshot: &Snapshot<'_>,
        accepted: &[Accepted],
        is_complete: bool,
        outcome: Outcome,
        now: Moment,
        notices: &mut Vec<Notice>,
    ) {
        let filter = self.sources.entry(slot).filter.is_some();
        let this_micros = snapshot.timestamp.as_deref().and_then(server_time::micros);
        let source = match outcome {
            Outcome::Pending => return,
            Outcome::Behind { source } => {
                self.find(Finding::Alias);
                source
            }
            Outcome::Standby { source, agrees } => {
                self.find(Finding::Alias);
                if agrees && !filter && !snapshot.anomalies.is_empty() {
                    self.with_source(source, now, notices, |known, ctx| {
                        if known.counts.detail.leaves_anomalies() {
                            known.counts.list_anomalies(snapshot, false, ctx);
                        }
                    });
                }
                source
            }
            Outcome::Read { source } => {
                let mut mismatches = 0;
                self.with_source(source, now, notices, |known, ctx| {
                    for entry in accepted {
                        let name = name_of(snapshot, entry);
                        let remembered = known.numbers.skill(name).map(|skill| skill.remembered);
                        match known.counts.list_beside_rows(name, &entry.1, remembered, ctx) {
                            Ok(begins) => mismatches += u64::from(begins),
                            Err(rejection) => ctx.reject(rejection),
                        }
                    }
                    if !filter {
                        let counts = &mut known.counts;
                        counts.changed.mark_if(counts.previous_was_complete != is_complete);
                        counts.previous_was_complete = is_complete;
                        if known.counts.detail.leaves_anomalies() {
                            known.counts.list_anomalies(snapshot, false, ctx);
                        }
                    }
                    known.counts.note_time(this_micros);
                });
                if mismatches > 0 {
                    self.feeds[slot.index()].counters.detail_mismatches += mismatches;
                    self.feeds[slot.index()].touch();
                }
                source
            }
            Outcome::Counted { source, continuity, beginning } => {
                let steps = self.sources.take_steps();
                let may_hide = !filter
                    && self.sources.source(source).is_some_and(|known| {
                        known.counts.detail.leaves_anomalies() && known.counts.may_hide_anomalies(snapshot)
                    });
                self.with_source(source, now, notices, |known, ctx| {
                    let counts = &mut known.counts;
                    counts.detail.note_alone();
                    let past_is_known =
                        beginning == Some(Beginning::Observed) || !filter && counts.previous_was_complete;
                    let mut dropped = 0;
                    for (entry, step) in accepted.iter().zip(&steps) {
                        match counts.count_step(&entry.1, step, past_is_known, ctx) {
                            Ok(of_this) => dropped += of_this,
                            Err(rejection) => ctx.reject(rejection),
                        }
                    }
                    counts.drop_events(dropped, ctx);
                    if continuity != Continuity::Follows {
                        // What is not listed moved, too.
                        known.numbers.iter().for_each(|(name, _)| counts.changed_skills.mark(name.clone()));
                    }
                    counts.changed.mark_if(beginning.is_some());
                    if !filter {
                        counts.changed.mark_if(counts.previous_was_complete != is_complete);
                        counts.previous_was_complete = is_complete;
                        if counts.detail.leaves_anomalies() {
                            counts.list_anomalies(snapshot, beginning == Some(Beginning::History), ctx);
                        }
                        counts.note_time(this_micros);
                    }
                    if may_hide {
                        ctx.rules.anomaly_window_overflows += 1;
                        ctx.notices.push(Notice::AnomalyWindowOverflowed);
                    }
                });
                self.sources.reuse(steps);
                source
            }
        };
        self.finish(source, now, notices);
    }

    /// Turns what happened to sources into counters and notices.
    pub(super) fn report(&mut self, now: Moment, notices: &mut Vec<Notice>) {
        let events = self.sources.take_events();
        // Which sources have a feed decides which rates are shown.
        let changes_coverage = |event: &SourceEvent| {
            !matches!(event, SourceEvent::Damaged { .. } | SourceEvent::Returned { .. } | SourceEvent::Undecided { .. })
        };
        if events.iter().any(changes_coverage) {
            self.update_databases(now);
            if self.began {
                self.show_all_rates();
            }
        }
        for event in events {
            match event {
                SourceEvent::Bound { .. } | SourceEvent::Forgotten { .. } => {}
                SourceEvent::Another { feed, fell } => {
                    let feed = &mut self.feeds[feed.index()];
                    feed.counters.resets += 1;
                    feed.touch();
                    notices.push(Notice::Reset(ResetCause::of(&fell)));
                }
                SourceEvent::Damaged { feed, fell } => {
                    let source = self.sources.expected_source(feed);
                    let feed = &mut self.feeds[feed.index()];
                    feed.counters.rollbacks += 1;
                    feed.touch();
                    notices.push(Notice::RolledBack { fell: FallenSkills::of(&fell) });
                    if let Some(source) = source.and_then(|source| self.sources.source_mut(source)) {
                        for (name, ..) in &fell {
                            if let Some(skill) = source.counts.skills.get_mut(name)
                                && skill.pending.void_credit()
                            {
                                source.counts.changed_skills.mark(name.clone());
                            }
                        }
                    }
                }
                SourceEvent::Returned { .. } => notices.push(Notice::Restored),
                SourceEvent::Joined { feed, older, counted_twice, .. } => {
                    let feed = &mut self.feeds[feed.index()];
                    feed.counters.double_counted += counted_twice;
                    feed.touch();
                    notices.push(Notice::SourcesJoined { counted_twice });
                    self.finish(older, now, notices);
                }
                SourceEvent::Forked { .. } => notices.push(Notice::SourceForked),
                SourceEvent::Undecided { feed, doubt } => {
                    let feed = &mut self.feeds[feed.index()];
                    feed.counters.undecided[doubt as usize] += 1;
                    feed.touch();
                    notices.push(Notice::Undecided { doubt });
                }
            }
        }
    }

    /// Shows what a source's rates have become.
    pub(super) fn finish(&mut self, source: SourceId, now: Moment, notices: &mut Vec<Notice>) {
        if let Some(skill_name) = self.book.take_overflowed() {
            let series_max = self.limits.series_max;
            notices.push(Notice::SeriesOverflowed { skill_name: skill_name.to_string(), series_max });
        }
        let Some(known) = self.sources.source_mut(source) else { return };
        if !known.counts.rates_changed.is_empty() {
            for name in known.counts.take_rates_changed() {
                self.show_rate(&name, notices);
            }
        }
        self.update_start(now);
    }

    /// Calls `with` with a source and all that applying something to it needs.
    pub(super) fn with_source<R>(
        &mut self,
        source: SourceId,
        now: Moment,
        notices: &mut Vec<Notice>,
        with: impl FnOnce(&mut super::binding::Source<SourceCounts>, &mut ApplyContext<'_>) -> R,
    ) -> Option<R> {
        let Self { sources, book, rules, limits, findings, .. } = self;
        let known = sources.source_mut(source)?;
        let mut ctx = ApplyContext { book, rules, limits, notices, findings: findings.as_mut(), now };
        Some(with(known, &mut ctx))
    }
}

/// Time, gauges and changes.
impl Ledger {
    /// Lets time pass: counts what has waited long enough. To be called at [`Ledger::deadline`] or whenever it suits.
    pub fn tick(&mut self, now: Moment, notices: &mut Vec<Notice>) {
        self.commit_configuration(now);
        self.update_start(now);
        let mut has_left = false;
        let Self { sources, book, rules, limits, findings, .. } = self;
        for (_, known) in sources.iter_mut() {
            let was_alone = known.counts.detail.leaves_alone();
            let mut ctx = ApplyContext { book, rules, limits, notices, findings: findings.as_mut(), now };
            known.counts.tick(&mut ctx);
            has_left |= was_alone != known.counts.detail.leaves_alone();
        }
        if has_left {
            self.show_databases(notices);
        }
        for index in 0..self.feeds.len() {
            let slot = FeedSlot::new(index);
            if !self.feeds[index].held_events().is_empty() && self.is_hold_over(slot, now) {
                self.release_events(slot, true, now, notices);
            }
        }
    }

    /// The elapsed time at which [`Ledger::tick`] has something to do, if nothing else happens.
    pub fn deadline(&self) -> Option<Duration> {
        let hold = match self.start {
            Start::Holding { since } => Some(since + START_HOLD),
            Start::Awaited | Start::Over => None,
        };
        let held = self.feeds.iter().filter(|feed| !feed.held_events().is_empty());
        let held = held.filter_map(|feed| feed.opened_at.map(|at| at + START_HOLD));
        let sources = self.sources.iter().filter_map(|(_, source)| source.counts.deadline());
        sources.chain(held).chain(hold).min()
    }

    /// `active_sessions_total`: the sessions that the servers of live feeds report, and one for each live server of a source
    /// that reports none.
    pub fn active_sessions(&self, now: Moment) -> u64 {
        let live: Vec<FeedSlot> =
            self.configured.iter().copied().filter(|feed| self.feeds[feed.index()].is_live).collect();
        let source_of = |feed: FeedSlot| self.sources.expected_source(feed);
        let mut sessions = 0;
        for (index, feed) in live.iter().enumerate() {
            let earlier = &live[..index];
            let source = source_of(*feed);
            let reported = source
                .and_then(|source| self.sources.source(source))
                .and_then(|source| source.counts.sessions(now.wall_micros));
            sessions += match reported {
                Some(_) if earlier.iter().any(|other| source_of(*other) == source) => 0,
                Some(reported) => reported,
                None => u64::from(!earlier.iter().any(|other| self.sources.is_one_server(*feed, *other))),
            };
        }
        sessions
    }

    /// Whether [`Ledger::drain`] would return something that has to be persisted, or exposed.
    pub fn has_changed(&self) -> bool {
        matches!(self.start, Start::Over)
            && (self.book.has_changed()
                || self.rules != self.acknowledged_rules
                || self.feeds.iter().any(|feed| feed.exposed.is_set() || feed.persisted.is_set())
                || self.sources.has_changed()
                || self.sources.iter().any(|(_, source)| source.counts.has_changed()))
    }

    /// Returns what changed and is not acknowledged, as new values. While a process without a past waits for its feeds'
    /// first snapshots, nothing is among it: series and what they were derived from are persisted together or not at all.
    pub fn drain(&mut self, now: Moment) -> Changes {
        self.commit_configuration(now);
        self.update_start(now);
        if !matches!(self.start, Start::Over) {
            return Changes { rules: self.acknowledged_rules, ..Changes::default() };
        }
        self.sequence += 1;
        self.collected_rules = self.rules;
        let configured = self.feeds.iter_mut().enumerate().filter(|(_, feed)| feed.is_configured);
        let feeds =
            configured.filter_map(|(index, feed)| feed.exposed.collect().then(|| (index, feed.counters.clone())));
        let feeds = feeds.collect();
        let memory = if self.is_persisted { self.collect() } else { Records::default() };
        Changes {
            sequence: self.sequence,
            skills: self.book.collect(),
            last_listed: self.book.take_listed(),
            feeds,
            anomalies: self.book.collect_anomalies(),
            wall_micros: now.wall_micros,
            rules: self.rules,
            memory,
        }
    }

    /// The changes with this sequence number are persistent and exposed: [`Ledger::drain`] does not return them again. Does
    /// nothing unless they are the latest.
    pub fn acknowledge(&mut self, sequence: u64) {
        if sequence != self.sequence {
            return;
        }
        self.acknowledged_rules = self.collected_rules;
        self.book.acknowledge();
        for feed in &mut self.feeds {
            feed.exposed.acknowledge();
            feed.persisted.acknowledge();
        }
        if self.is_persisted {
            self.sources.acknowledge();
            for (_, source) in self.sources.iter_mut() {
                source.counts.acknowledge();
            }
        }
    }

    /// The changes with this sequence number are exposed, although they could not be persisted.
    pub fn note_exposed(&mut self, sequence: u64) {
        if sequence == self.sequence {
            self.book.note_exposed();
        }
    }

    /// When skills were last listed, since the last call or [`Ledger::drain`]. It moves with every snapshot, and needs not
    /// be persisted before it is exposed.
    pub fn take_last_listed(&mut self) -> Vec<(SkillIndex, i64)> {
        if matches!(self.start, Start::Over) { self.book.take_listed() } else { Vec::new() }
    }

    pub(super) fn update_start(&mut self, now: Moment) {
        if self.configuration == Configuration::Known && !std::mem::replace(&mut self.began, true) {
            // Feeds that left the configuration leave the gauges, those that came back are in them again.
            self.show_all_rates();
        }
        let since = match self.start {
            Start::Over => return,
            Start::Awaited => now.elapsed,
            Start::Holding { since } => since,
        };
        let is_awaited = |feed: &FeedSlot| {
            let state = &self.feeds[feed.index()];
            let source = self.sources.expected_source(*feed).and_then(|source| self.sources.source(source));
            !state.has_begun
                || self.sources.awaits_rows(*feed)
                || source.is_some_and(|source| source.counts.detail.is_awaited())
        };
        let all_began = !self.configured.iter().any(is_awaited);
        let is_over = all_began || now.elapsed.saturating_sub(since) >= START_HOLD;
        self.start = if is_over { Start::Over } else { Start::Holding { since } };
    }

    fn show_all_rates(&mut self) {
        let mut rated: Vec<Arc<str>> = self.sources.iter().flat_map(|(_, source)| source.counts.rated()).collect();
        rated.sort_unstable();
        rated.dedup();
        rated.iter().for_each(|name| self.show_rate(name, &mut Vec::new()));
    }

    /// Rule 4.6: the last listed rate; over several sources, completed over total. A streamed rate only where no snapshot
    /// ever listed the skill.
    fn show_rate(&mut self, name: &Arc<str>, notices: &mut Vec<Notice>) {
        let mut gauges = 0;
        let (mut completed, mut total, mut last, mut streamed) = (0.0, 0.0, 0.0, None);
        for (_, source) in self.sources.iter().filter(|(id, _)| self.sources.is_covered(*id)) {
            let (gauge, rate) = source.counts.rate(name);
            streamed = rate.or(streamed);
            if let Some(gauge) = gauge {
                gauges += 1;
                completed += gauge.completed;
                total += gauge.total;
                last = gauge.rate_percent / 100.0;
            }
        }
        let rate = match gauges {
            0 => streamed,
            1 => Some(last),
            _ if total > 0.0 => Some(completed / total),
            _ => Some(last),
        };
        let series = self.book.place(name, &self.limits, notices);
        self.book.set_rate(series, rate);
    }
}

/// Where an identifier is needed and does not matter.
fn source_stub() -> SourceId {
    SourceId::FIRST
}
