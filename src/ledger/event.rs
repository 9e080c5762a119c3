//! Streamed events: one invocation, one anomaly, one session at a time. Rules 2 and 4.8 of `docs/explanation/translation.md`.

use crate::protocol::{AnomalyEntry, Event, EventKind, Rejection, RejectionReason};

use super::binding::Subscription;
use super::check::{check_anomaly, check_label};
use super::context::ApplyContext;
use super::dedup::Seen;
use super::pending::StreamedInvocation;
use super::sessions::{Sessions, SessionsFull};
use super::slots::FeedSlot;
use super::source::{SourceCounts, count_anomalies, find_or_insert};
use super::trace_step::TraceStep;

/// The feed that streams an event.
#[derive(Debug)]
pub(super) struct Sender<'f> {
    pub feed: FeedSlot,
    /// What it is subscribed to, and which other feeds are of its server.
    pub subscription: Subscription<'f>,
    /// Whether it streams for all feeds of its source: an event without an identifier counts only then.
    pub is_active: bool,
    /// The sessions that its server reported.
    pub sessions: &'f mut Sessions,
}

/// Whether an event is of the server that sends it, and not of the source: each feed of the server learns it, from its own
/// connection.
pub(super) fn is_of_server(kind: &EventKind<'_>) -> bool {
    match kind {
        EventKind::ActiveSessions { .. } | EventKind::SessionCreated { .. } | EventKind::SessionClosed { .. } => true,
        EventKind::Invocation { .. } | EventKind::CompletionRate { .. } | EventKind::Anomaly(_) => false,
    }
}

impl SourceCounts {
    /// Applies an event. `sent_micros` is the sender's time, in microseconds since the Unix epoch, which only an identifier
    /// needs.
    pub fn event(
        &mut self,
        event: &Event<'_>,
        sent_micros: Option<i64>,
        sender: &mut Sender<'_>,
        ctx: &mut ApplyContext<'_>,
    ) {
        let is_of_server = is_of_server(&event.kind);
        if let Some(id) = &event.id {
            if let Err(rejection) = check_label(id, "id", ctx.limits) {
                return ctx.reject(rejection);
            }
            match self.event_ids.seen(id, sent_micros, sender.feed, |other| sender.subscription.is_one_server(other)) {
                Seen::First => {}
                Seen::Relayed if is_of_server => {}
                Seen::Duplicate | Seen::Relayed => return ctx.trace(|| TraceStep::Repeated { id: id.to_string() }),
                Seen::Reused => {
                    let detail = format!("event {id:?} has another timestamp than the earlier event with this id");
                    return ctx.reject(Rejection::new(RejectionReason::StaleEvent, detail));
                }
                Seen::TooOld => {
                    let detail = format!("event {id:?} is older than what is remembered of its feed");
                    return ctx.reject(Rejection::new(RejectionReason::StaleEvent, detail));
                }
            }
        } else if !sender.is_active && !is_of_server {
            return ctx.trace(|| TraceStep::Alias);
        }
        match self.apply_event(event, sender, ctx) {
            Ok(()) => {
                if let Some(id) = &event.id {
                    let first = self.event_ids.first();
                    let (now_micros, ids_max) = (ctx.now.wall_micros, ctx.limits.event_ids_max);
                    self.event_ids.remember((&**id).into(), sent_micros, sender.feed, now_micros, ids_max);
                    self.changed.mark_if(self.event_ids.first() != first);
                }
            }
            Err(rejection) => ctx.reject(rejection),
        }
    }

    fn apply_event(
        &mut self,
        event: &Event<'_>,
        sender: &mut Sender<'_>,
        ctx: &mut ApplyContext<'_>,
    ) -> Result<(), Rejection> {
        let (now_micros, limits) = (ctx.now.wall_micros, ctx.limits);
        let filter = sender.subscription.filter();
        let is_filtered_out = |name: &str| filter.is_some_and(|filter| filter != name);
        let other_skill = |name: &str| TraceStep::OtherSkill { skill_name: name.to_owned() };
        match &event.kind {
            EventKind::Invocation { skill_name, workflow_phase, completed, duration_seconds, session_id } => {
                if let Some(phase) = workflow_phase {
                    check_label(phase, "workflow_phase", limits)?;
                }
                if self.detail.is_joined() {
                    return Ok(());
                }
                if is_filtered_out(skill_name) {
                    ctx.trace(|| other_skill(skill_name));
                    return Ok(());
                }
                let event = StreamedInvocation {
                    workflow_phase: workflow_phase.as_deref(),
                    completed: *completed,
                    duration_seconds: *duration_seconds,
                    session_id: session_id.as_deref(),
                };
                self.invocation(skill_name, event, ctx)
            }
            EventKind::CompletionRate { skill_name, rate } => {
                if is_filtered_out(skill_name) {
                    ctx.trace(|| other_skill(skill_name));
                    return Ok(());
                }
                let (name, skill) = self.skill(skill_name, ctx)?;
                skill.streamed_rate = Some(*rate);
                ctx.trace(|| TraceStep::Rate { skill_name: name.to_string() });
                self.rates_changed.push(name.clone());
                self.changed_skills.mark(name);
                Ok(())
            }
            EventKind::Anomaly(entry) => {
                if is_filtered_out(&entry.skill_name) {
                    return Ok(());
                }
                check_anomaly(entry, limits)?;
                if !self.detail.leaves_anomalies() {
                    self.hold_anomaly(entry, event.id.is_some());
                    return Ok(());
                }
                self.stream_anomaly(entry, event.id.is_some(), ctx)
            }
            EventKind::ActiveSessions { count } => {
                ctx.trace(|| TraceStep::Sessions);
                sender.sessions.set_count(*count, now_micros);
                Ok(())
            }
            EventKind::SessionCreated { session_id } => {
                check_label(session_id, "session_id", limits)?;
                ctx.trace(|| TraceStep::Sessions);
                sender.sessions.created(session_id, now_micros, limits.session_ids_max).map_err(sessions_full)
            }
            EventKind::SessionClosed { session_id } => {
                check_label(session_id, "session_id", limits)?;
                ctx.trace(|| TraceStep::Sessions);
                sender.sessions.closed(session_id, now_micros, limits.session_ids_max).map_err(sessions_full)
            }
        }
    }

    pub fn stream_anomaly(
        &mut self,
        entry: &AnomalyEntry<'_>,
        is_identified: bool,
        ctx: &mut ApplyContext<'_>,
    ) -> Result<(), Rejection> {
        let increase = if is_identified {
            self.anomalies.stream_identified(entry, ctx.limits)
        } else {
            self.anomalies.stream(entry, ctx.now.wall_micros, ctx.limits)
        };
        count_anomalies(entry, increase, Some(ctx.now.wall_micros), ctx)
    }

    fn invocation(
        &mut self,
        name: &str,
        event: StreamedInvocation<&str>,
        ctx: &mut ApplyContext<'_>,
    ) -> Result<(), Rejection> {
        let is_alone = self.detail.leaves_alone();
        if is_alone {
            self.detail.note_alone();
        }
        let Self { skills, changed_skills, .. } = self;
        let (name, skill) = find_or_insert(skills, changed_skills, name, ctx)?;
        changed_skills.mark_shared(name);
        let elapsed = ctx.now.elapsed;
        let skill_name = || name.to_string();
        if !is_alone {
            ctx.trace(|| TraceStep::EventWaits { skill_name: skill_name() });
            let gave_way = skill.pending.add_event(event.to_owned(), elapsed);
            self.pending_events += 1;
            self.drop_events(gave_way, ctx);
        } else if !skill.listed {
            ctx.trace(|| TraceStep::EventCounted { skill_name: skill_name() });
            ctx.counting().event(skill.series, event);
            skill.pending.give_credit(event);
        } else if !skill.pending.offer_event(event, skill.series, &mut ctx.counting()) {
            ctx.trace(|| TraceStep::EventMetRise { skill_name: skill_name() });
        } else {
            ctx.trace(|| TraceStep::EventWaits { skill_name: skill_name() });
            let gave_way = skill.pending.add_event(event.to_owned(), elapsed);
            self.pending_events += 1;
            self.drop_events(gave_way, ctx);
            if self.pending_events > ctx.limits.waiting_events_max {
                self.make_room_for_events(ctx);
            }
        }
        self.changed.mark_if(!std::mem::replace(&mut self.streams_invocations, true));
        Ok(())
    }
}

fn sessions_full(_: SessionsFull) -> Rejection {
    Rejection::new(RejectionReason::SessionLimit, "no room to remember another session")
}
