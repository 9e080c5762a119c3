//! Applying messages: whose numbers a snapshot shows is decided before anything moves, and events are held until it is known
//! whose they are.

use std::sync::Arc;

use crate::protocol::{Event, EventKind, Snapshot};

use super::binding::{Beginning, EVENTS_SHARED_NEEDED, Observation, Outcome, Source, SourceEvent, Sources};
use super::check::check_skill_name;
use super::context::ApplyContext;
use super::continuity::{Continuity, Room};
use super::event::{Sender, is_of_server};
use super::evidence::{Listed, Totals};
use super::feed::Feed;
use super::ledger::{Ledger, START_HOLD};
use super::limits::SERIES_COUNT_MAX;
use super::notice::{FallenSkills, Notice, ResetCause};
use super::now::Now;
use super::pending::add;
use super::server_time::{self, Stamp};
use super::slots::{FeedSlot, SourceId};
use super::snapshot::{Accepted, SKILLS_LISTED_MAX, accept, name_of, renew_positions};
use super::source::{SourceCounts, skill_limit};
use super::trace_step::TraceStep;

impl Ledger {
    pub(super) fn event(&mut self, slot: FeedSlot, event: &Event<'_>, now: Now, notices: &mut Vec<Notice>) {
        let Some(source) = self.sources.adopt(slot, self.is_hold_over(slot, now), now.wall_micros) else {
            if !self.feeds[slot.index()].hold_event(event) {
                add(&mut self.rules.late_events, 1);
                notices.push(Notice::LateEvents { events: 1 });
            }
            return;
        };
        self.report(now, notices);
        self.release_events(slot, false, now, notices);
        let source = self.apply_event(slot, source, event, now, notices);
        self.report(now, notices);
        self.finish(source, notices);
    }

    /// Applies an event of a feed of `source`. Returns the feed's source, which is another one if the event shows it.
    fn apply_event(
        &mut self,
        slot: FeedSlot,
        source: SourceId,
        event: &Event<'_>,
        now: Now,
        notices: &mut Vec<Notice>,
    ) -> SourceId {
        let mut source = source;
        let sent_micros = sent_micros(event);
        if let Some(identity) = event.id.as_deref().zip(sent_micros) {
            source = self.compare_events(slot, source, event, identity, now, notices);
            self.compare_senders(slot, source, identity);
            self.report(now, notices);
        }
        let is_active = self.sources.streams_for(slot, source);
        let (sources, feeds, mut ctx) = self.parts(now, notices);
        let Some((known, subscription)) = sources.source_and_subscription(source, slot) else { return source };
        let Feed { sessions, persisted, .. } = &mut feeds[slot.index()];
        let mut sender = Sender { feed: slot, subscription, is_active, sessions };
        known.counts.event(event, sent_micros, &mut sender, &mut ctx);
        persisted.mark_if(is_of_server(&event.kind));
        source
    }

    /// Applies the events that were held until it is known whose they are.
    #[inline]
    pub(super) fn release_events(&mut self, slot: FeedSlot, is_over: bool, now: Now, notices: &mut Vec<Notice>) {
        if !self.feeds[slot.index()].held_events().is_empty() {
            self.apply_held_events(slot, is_over, now, notices);
        }
    }

    #[cold]
    fn apply_held_events(&mut self, slot: FeedSlot, is_over: bool, now: Now, notices: &mut Vec<Notice>) {
        if is_over && let Some(source) = self.source_of_held_events(slot) {
            self.sources.adopt_from(slot, source);
        }
        let Some(mut source) = self.sources.adopt(slot, is_over, now.wall_micros) else { return };
        self.report(now, notices);
        for event in self.feeds[slot.index()].release_events() {
            source = self.apply_event(slot, source, &event, now, notices);
        }
        self.report(now, notices);
        self.finish(source, notices);
        self.update_start(now);
    }

    /// Rule 3.2.6: two events that a feed streams, which sends no snapshots, and that another source knows, make both sources
    /// one. Returns the source of the feed.
    fn compare_events(
        &mut self,
        slot: FeedSlot,
        source: SourceId,
        event: &Event<'_>,
        (id, sent_micros): (&str, i64),
        now: Now,
        notices: &mut Vec<Notice>,
    ) -> SourceId {
        if self.sources.latest(slot).is_some() {
            return source;
        }
        let is_shared = |(other, known): &(SourceId, &Source<SourceCounts>)| {
            *other != source && known.counts.event_ids.has(id, sent_micros)
        };
        let Some((other, _)) = self.sources.iter().find(is_shared) else { return source };
        let is_invocation = matches!(event.kind, EventKind::Invocation { .. });
        if !self.sources.share_event(slot, source, other, is_invocation) {
            return source;
        }
        self.report(now, notices);
        source.min(other)
    }

    /// Records which other feeds of the source streamed an event, too.
    fn compare_senders(&mut self, slot: FeedSlot, source: SourceId, (id, sent_micros): (&str, i64)) {
        if self.feeds.len() == 1 {
            return;
        }
        let Some(known) = self.sources.source(source) else { return };
        let senders = known.counts.event_ids.senders(id, sent_micros);
        // One that is sent again is no other one.
        if !senders.contains(&slot) {
            senders.into_iter().for_each(|other| self.sources.record_shared_event(slot, other));
        }
    }

    /// The source that knows most of the events that `slot` streamed before it is known whose they are, and at least two.
    fn source_of_held_events(&self, slot: FeedSlot) -> Option<SourceId> {
        let held: Vec<(&str, i64)> = self.feeds[slot.index()].held_events().iter().filter_map(identity).collect();
        let shared = |counts: &SourceCounts| held.iter().filter(|(id, sent)| counts.event_ids.has(id, *sent)).count();
        let known = self.sources.iter().map(|(source, known)| (shared(&known.counts), source));
        let known = known.filter(|(events, _)| *events >= EVENTS_SHARED_NEEDED as usize);
        known.max_by_key(|(events, source)| (*events, std::cmp::Reverse(*source))).map(|(_, source)| source)
    }

    /// Whether a feed has been connected for so long that its events bind it. One that has listed skills is bound by its lists:
    /// events that counted before would count again with the first list that does.
    pub(super) fn is_hold_over(&self, slot: FeedSlot, now: Now) -> bool {
        let feed = &self.feeds[slot.index()];
        feed.held.is_none() && feed.opened_at.is_some_and(|at| now.elapsed.saturating_sub(at) >= START_HOLD)
    }

    /// Takes a snapshot: first all of its entries are judged, then what they show together of whose they are, and only then
    /// does anything move.
    pub(super) fn snapshot(
        &mut self,
        slot: FeedSlot,
        snapshot: &Snapshot<'_>,
        is_last: bool,
        now: Now,
        notices: &mut Vec<Notice>,
    ) {
        let mut accepted = std::mem::take(&mut self.accepted);
        self.accept(slot, snapshot, &mut accepted, is_last, notices);
        let filter = self.sources.entry(slot).filter.is_some();
        let is_complete = !filter && snapshot.listed < SKILLS_LISTED_MAX && snapshot.skills.iter().all(Result::is_ok);
        let least = accepted.iter().map(|entry| entry.listing.total).min();
        let room = match least {
            _ if filter || accepted.len() < snapshot.listed => Room::Unknown,
            Some(least) if snapshot.listed >= SKILLS_LISTED_MAX => Room::Full(least),
            _ => Room::Enough,
        };
        let entries = accepted.iter().map(|entry| Listed {
            name: name_of(snapshot, entry),
            position: entry.position,
            totals: Totals::from(&entry.listing),
        });
        let listings = self.sources.listings(slot, entries);
        let latest = self.sources.latest(slot).map(|(_, latest)| latest.names());
        if latest.is_none_or(|latest| !Arc::ptr_eq(latest, listings.names())) {
            renew_positions(&mut self.feeds[slot.index()].positions, &mut accepted);
        }
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
        now: Now,
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
                let may_hide = counts.may_hide_anomalies(snapshot, this_micros);
                counts.list_anomalies(snapshot, beginning == Some(Beginning::History), ctx);
                if may_hide {
                    add(&mut ctx.rules.anomaly_window_overflows, 1);
                    ctx.notices.push(Notice::AnomalyWindowOverflowed);
                }
            }
            counts.note_time(this_micros);
        });
        self.finish(source, notices);
    }

    fn accept(
        &mut self,
        slot: FeedSlot,
        snapshot: &Snapshot<'_>,
        accepted: &mut Vec<Accepted>,
        is_last: bool,
        notices: &mut Vec<Notice>,
    ) {
        let Self { sources, series_table, limits, feeds, .. } = self;
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
        let latest = sources.latest(slot).map(|(_, listings)| listings);
        accept(snapshot, filter, latest, &mut feeds[slot.index()].positions, accepted, |name, rejection| {
            unread.extend(name.map(Box::from));
            reject(rejection);
        });
        let mut skills = known.map_or(0, |known| known.counts.skills.len());
        let mut reserved = 0_u64;
        accepted.retain(|entry| {
            let Accepted { index, position, listing } = entry;
            let (position, name) = match latest.zip(*position) {
                // Of a skill that is remembered mostly the very text that is a key of both tables, which compare its address first.
                Some((latest, position)) => (position, &**latest.names().at(position)),
                None => (*index, name_of(snapshot, entry)),
            };
            let skill = known.and_then(|known| known.counts.skills.listed(position, name));
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
            let remembered =
                known.and_then(|known| known.numbers.listed(position, name)).map_or(0, |totals| totals.total);
            if listing.total <= remembered {
                return true;
            }
            // Several skills can share a series: what one of them may add is reserved for it.
            let series =
                skill.map(|skill| skill.series).or_else(|| series_table.find(name)).or_else(|| series_table.overflow());
            let counted = series.map_or(0, |series| series_table.invocations(series));
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
        let least = accepted.iter().map(|entry| entry.listing.total).min();
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
        now: Now,
        notices: &mut Vec<Notice>,
    ) {
        let filter = self.sources.entry(slot).filter.is_some();
        let this_micros = snapshot.timestamp.as_deref().and_then(server_time::micros);
        let source = match outcome {
            Outcome::Pending => return,
            Outcome::Behind { source } => {
                self.trace(TraceStep::Alias);
                source
            }
            Outcome::Standby { source, agrees } => {
                self.trace(TraceStep::Alias);
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
                        match known.counts.list_beside_rows(name, &entry.listing, remembered, ctx) {
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
                        known.counts.detail.leaves_anomalies() && known.counts.may_hide_anomalies(snapshot, this_micros)
                    });
                self.with_source(source, now, notices, |known, ctx| {
                    let counts = &mut known.counts;
                    counts.settle_unread_rows(ctx);
                    counts.detail.note_alone();
                    let past_is_known =
                        beginning == Some(Beginning::Observed) || !filter && counts.previous_was_complete;
                    let mut dropped = 0;
                    // In the order of the snapshot, since limits admit who comes first.
                    for entry in accepted {
                        let Some(position) = entry.position else { continue };
                        let Some((name, step)) = steps.at(position) else { continue };
                        match counts.count_step(position, name, &entry.listing, step, past_is_known, ctx) {
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
                        add(&mut ctx.rules.anomaly_window_overflows, 1);
                        ctx.notices.push(Notice::AnomalyWindowOverflowed);
                    }
                });
                self.sources.reuse(steps);
                source
            }
        };
        self.finish(source, notices);
    }

    /// Turns what happened to sources into counters and notices.
    #[inline]
    pub(super) fn report(&mut self, now: Now, notices: &mut Vec<Notice>) {
        if self.sources.has_events() || self.sources.has_coverage_changed() {
            self.report_events(now, notices);
        }
    }

    #[cold]
    fn report_events(&mut self, now: Now, notices: &mut Vec<Notice>) {
        let events = self.sources.take_events();
        let has_joined = events.iter().any(|event| matches!(event, SourceEvent::Joined { .. }));
        // Which sources have a feed decides which rates are shown.
        if self.sources.take_coverage_change() || has_joined {
            self.update_databases(now);
            if self.began {
                self.show_all_rates();
            }
        }
        for event in events {
            match event {
                SourceEvent::Bound { .. } | SourceEvent::Forgotten { .. } => {}
                SourceEvent::Settled { feed, source } => self.inherit_sessions(feed, source),
                SourceEvent::OneServer { feed, other } => self.share_sessions(feed, other),
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
                    self.finish(older, notices);
                    self.update_start(now);
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
    pub(super) fn finish(&mut self, source: SourceId, notices: &mut Vec<Notice>) {
        if let Some(skill_name) = self.series_table.take_overflowed() {
            let series_max = self.limits.series_max;
            notices.push(Notice::SeriesOverflowed { skill_name: skill_name.to_string(), series_max });
        }
        let Some(known) = self.sources.source_mut(source) else { return };
        if !known.counts.rates_changed.is_empty() {
            for name in known.counts.take_rates_changed() {
                self.show_rate(&name, notices);
            }
        }
    }

    /// Calls `with` with a source and all that applying something to it needs.
    pub(super) fn with_source<R>(
        &mut self,
        source: SourceId,
        now: Now,
        notices: &mut Vec<Notice>,
        with: impl FnOnce(&mut Source<SourceCounts>, &mut ApplyContext<'_>) -> R,
    ) -> Option<R> {
        let (sources, _, mut ctx) = self.parts(now, notices);
        Some(with(sources.source_mut(source)?, &mut ctx))
    }

    /// The sources, the feeds, and all that applying something to them needs beside them.
    pub(super) fn parts<'l>(
        &'l mut self,
        now: Now,
        notices: &'l mut Vec<Notice>,
    ) -> (&'l mut Sources<SourceCounts>, &'l mut [Feed], ApplyContext<'l>) {
        let Self { sources, feeds, series_table, rules, limits, trace_steps, .. } = self;
        (sources, feeds, ApplyContext { series_table, rules, limits, notices, trace_steps: trace_steps.as_mut(), now })
    }
}

/// The identifier of an event, and the sender's time in microseconds since the Unix epoch, if it has both.
fn identity<'e>(event: &'e Event<'_>) -> Option<(&'e str, i64)> {
    event.id.as_deref().zip(sent_micros(event))
}

/// The sender's time of an event that has an identifier, in microseconds since the Unix epoch.
fn sent_micros(event: &Event<'_>) -> Option<i64> {
    // Most events have no identifier, and to read a time costs more than all the rest of an event.
    event.timestamp.as_deref().filter(|_| event.id.is_some()).and_then(server_time::micros)
}
