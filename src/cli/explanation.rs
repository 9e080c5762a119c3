//! What each message of a feed changes, and by which rule: from a number back to the frames that it came from.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::time::Duration;

use thiserror::Error;

use crate::exposition::samples;
use crate::ledger::{
    ConnectionId, FallenSkill, FallenSkills, FeedId, FeedSpec, Ledger, Limits, Notice, Now, ResetCause, SkillIndex,
    SkillSeries,
};
use crate::protocol::{self, EventKind, Message};
use crate::text::terminal_line;

/// Skills that are named where the requested one is missing; of further ones their number is.
const NAMED_SKILLS_MAX: usize = 20;

/// The one skill to report was not counted.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("no message counted the skill {skill_name:?}; {}", known_text(.known))]
pub struct MissingSkill {
    /// The skill that was to be reported.
    pub skill_name: String,
    /// The skills that were counted, by name.
    pub known: Vec<String>,
}

fn known_text(known: &[String]) -> String {
    let named: Vec<_> = known.iter().take(NAMED_SKILLS_MAX).map(|name| format!("{name:?}")).collect();
    match known.len().saturating_sub(NAMED_SKILLS_MAX) {
        _ if named.is_empty() => "there is no skill at all".to_owned(),
        0 => format!("there are {}", named.join(", ")),
        others => format!("there are {} and {others} more", named.join(", ")),
    }
}

/// Counts as a bridge would, and reports why. Each method returns the text of what it changed.
#[derive(Debug)]
pub struct Explainer {
    ledger: Ledger,
    feed: FeedId,
    connection: Option<ConnectionId>,
    shown: HashMap<SkillIndex, SkillSeries>,
    active_sessions: u64,
    skill: Option<String>,
}

impl Explainer {
    /// An explainer of a feed that is subscribed to the skill `subscribed`, or to all. It reports the changes of `skill` only, or
    /// all of them.
    pub fn new(subscribed: Option<&str>, skill: Option<String>, limits: Limits) -> Self {
        let mut ledger = Ledger::new(limits);
        ledger.explain();
        let spec =
            FeedSpec { identity: "explained".to_owned(), address: None, skill: subscribed.map(ToOwned::to_owned) };
        let feed = ledger.add_feed(spec);
        Self { ledger, feed, connection: None, shown: HashMap::new(), active_sessions: 0, skill }
    }

    /// Returns an error if only one skill is reported and no message so far counted it.
    pub fn missing_skill(&self) -> Option<MissingSkill> {
        let skill_name = self.skill.as_ref()?;
        let mut known: Vec<String> = self.shown.values().map(|series| series.skill_name.to_string()).collect();
        known.sort_unstable();
        (!known.contains(skill_name)).then(|| MissingSkill { skill_name: skill_name.clone(), known })
    }

    /// A connection was established.
    pub fn open(&mut self, at: Duration) -> String {
        self.connection = Some(self.ledger.open(self.feed, Now::at(at)));
        self.report(at, "connected", Vec::new())
    }

    /// The connection ended. `reason` is appended to the text.
    pub fn close(&mut self, at: Duration, reason: &str) -> String {
        if let Some(connection) = self.connection.take() {
            self.ledger.close(connection, Now::at(at));
        }
        self.report(at, &format!("disconnected{reason}"), Vec::new())
    }

    /// A frame was received.
    pub fn frame(&mut self, at: Duration, frame: &str) -> String {
        let now = Now::at(at);
        let connection = match self.connection {
            Some(connection) => connection,
            None => *self.connection.insert(self.ledger.open(self.feed, now)),
        };
        let mut text = String::new();
        protocol::read(frame, &protocol::Limits::default(), &mut |message| {
            let mut notices = Vec::new();
            let head = match message {
                Ok(message) => {
                    self.ledger.apply(connection, &message, now, &mut notices);
                    headline(&message)
                }
                Err(rejection) => {
                    notices.push(Notice::Rejected(rejection));
                    "unreadable message".to_owned()
                }
            };
            text.push_str(&self.report(at, &head, notices));
        });
        text
    }

    /// Time passed without a message.
    pub fn pass(&mut self, at: Duration) -> String {
        let mut notices = Vec::new();
        self.ledger.tick(Now::at(at), &mut notices);
        let changes = self.changes(Now::at(at), notices);
        if changes.is_empty() { String::new() } else { entry(at, "no message", &changes) }
    }

    fn report(&mut self, at: Duration, head: &str, notices: Vec<Notice>) -> String {
        let changes = self.changes(Now::at(at), notices);
        if changes.is_empty() && self.skill.is_some() { String::new() } else { entry(at, head, &changes) }
    }

    /// Returns the changes since the last call, a line each.
    fn changes(&mut self, now: Now, notices: Vec<Notice>) -> Vec<String> {
        let mut lines = Vec::new();
        for step in self.ledger.take_trace_steps() {
            if self.skill.is_none() || step.skill_name() == self.skill.as_deref() {
                lines.push(format!("[{}] {step}", step.rule()));
            }
        }
        for notice in notices {
            let (rule, text) = describe(&notice);
            let is_of_all = !matches!(notice, Notice::Rejected(_) | Notice::LateEvents { .. });
            if is_of_all || self.skill.as_deref().is_none_or(|skill| text.contains(skill)) {
                lines.push(format!("[{rule}] {text}"));
            }
        }
        let mut rows = self.ledger.drain(now).skills;
        rows.sort_unstable_by(|a, b| a.series.skill_name.cmp(&b.series.skill_name));
        for row in rows {
            let before = self.shown.insert(row.index, row.series.clone());
            if self.skill.as_deref().is_none_or(|skill| *skill == *row.series.skill_name) {
                push_changed_samples(before.as_ref(), &row.series, &mut lines);
            }
        }
        let sessions = self.ledger.active_sessions(now);
        let sessions_before = std::mem::replace(&mut self.active_sessions, sessions);
        if sessions != sessions_before && self.skill.is_none() {
            lines.push(format!("    active_sessions_total  {sessions_before} -> {sessions}"));
        }
        lines
    }
}

fn entry(at: Duration, head: &str, changes: &[String]) -> String {
    let mut text = format!("{:>10.3} s  {}\n", at.as_secs_f64(), terminal_line(head));
    for line in changes {
        let _ = writeln!(text, "              {}", terminal_line(line));
    }
    text
}

fn headline(message: &Message<'_>) -> String {
    let kind = message.message_type().label();
    match message {
        Message::Snapshot(snapshot) => {
            let at = snapshot.timestamp.as_deref().unwrap_or("without a time");
            format!("{kind} {at}: {} skills, {} anomalies", snapshot.listed, snapshot.anomalies_listed)
        }
        Message::Event(event) => match &event.kind {
            EventKind::Invocation { skill_name, workflow_phase, completed, duration_seconds, .. } => {
                let ended = if *completed { "completed" } else { "abandoned" };
                let phase = workflow_phase.as_deref().map(|phase| format!(" in {phase:?}")).unwrap_or_default();
                let took = duration_seconds.map(|seconds| format!(" after {seconds} s")).unwrap_or_default();
                format!("{kind}: {skill_name:?} {ended}{phase}{took}")
            }
            EventKind::CompletionRate { skill_name, rate } => format!("{kind}: {skill_name:?} {rate}"),
            EventKind::Anomaly(entry) => format!("{kind}: {:?} of {:?}", entry.anomaly_type, entry.skill_name),
            EventKind::ActiveSessions { count } => format!("{kind}: {count}"),
            EventKind::SessionCreated { session_id } | EventKind::SessionClosed { session_id } => {
                format!("{kind}: {session_id:?}")
            }
        },
        Message::Connection(_) | Message::Unknown => kind.to_owned(),
    }
}

/// Appends every sample that changed. Buckets are cumulative: of those that changed the narrowest implies the others.
fn push_changed_samples(before: Option<&SkillSeries>, now: &SkillSeries, lines: &mut Vec<String>) {
    let before: HashMap<String, String> = before.map(samples).unwrap_or_default().into_iter().collect();
    let mut bucket_has_changed = false;
    for (series, value) in samples(now) {
        let was = before.get(&series).map_or("", String::as_str);
        let has_changed = was != value && !(was.is_empty() && value == "0");
        let is_bucket = series.starts_with("skill_duration_seconds_bucket");
        if has_changed && !(is_bucket && bucket_has_changed) {
            let was = if was.is_empty() { "none" } else { was };
            let wider = if is_bucket { "  (and the wider ones)" } else { "" };
            lines.push(format!("    {series}  {was} -> {value}{wider}"));
        }
        bucket_has_changed = is_bucket && (bucket_has_changed || has_changed);
    }
}

/// Each skill that is named with its remembered and its present total.
fn fell_text(fell: &FallenSkills) -> String {
    let named = fell
        .named
        .iter()
        .map(|FallenSkill { skill_name, remembered, listed }| format!("{skill_name:?} from {remembered} to {listed}"));
    let mut skills: Vec<_> = named.collect();
    match (skills.is_empty(), fell.others) {
        (true, _) => skills.push("rows that were read are gone".to_owned()),
        (false, 0) => {}
        (false, others) => skills.push(format!("and {others} more")),
    }
    skills.join(", ")
}

/// Returns the number of the rule in `docs/explanation/translation.md`, and the text of the notice.
pub(super) fn describe(notice: &Notice) -> (&'static str, String) {
    match notice {
        Notice::Rejected(rejection) => ("2", format!("rejected, {}: {}", rejection.reason.label(), rejection.detail)),
        Notice::Reset(cause) => {
            let cause = match cause {
                ResetCause::TotalFell { skill_name, from, to } => {
                    format!("the total of {skill_name:?} fell from {from} to {to}")
                }
                ResetCause::SplitFell { skill_name } => {
                    format!("{skill_name:?} has fewer completed or abandoned invocations than before")
                }
                ResetCause::RowsAreOthers => "it contains none of the rows that were read before".to_owned(),
                ResetCause::SkillMissing { skill_name } => {
                    format!("{skill_name:?} is not listed, though the list has room for it")
                }
            };
            ("4.3", format!("database reset detected, its totals are added: {cause}"))
        }
        Notice::RolledBack { fell } => {
            ("4.3", format!("database rolled back, nothing is counted: {}", fell_text(fell)))
        }
        Notice::Restored => (
            "4.3",
            "database restored to a state before the damage: the increase since that state is counted".to_owned(),
        ),
        Notice::AliasFound { of } => ("3", format!("this feed is on standby: {of} lists the same source")),
        Notice::AliasCleared => ("3", "this feed is no longer on standby: it is counted".to_owned()),
        Notice::SourcesJoined { counted_twice } => {
            ("3", format!("two sources turned out to be one: {counted_twice} invocations were counted twice"))
        }
        Notice::SourceForked => ("3", "another database than that of the active feed: this feed is counted".to_owned()),
        Notice::Undecided { doubt } => ("3", format!("source undecided, the lower count is used: {}", doubt.code())),
        Notice::AnomalyWindowOverflowed => ("5", "the list of anomalies may have omitted some".to_owned()),
        Notice::SkillsOverflowed { skill_name, skills_max } => {
            ("7", format!("{skill_name:?} exceeds the limit of {skills_max} skills: it is counted as __overflow__"))
        }
        Notice::SeriesOverflowed { skill_name, series_max } => {
            ("7", format!("{skill_name:?} is beyond the limit of {series_max} series: it counts as __overflow__"))
        }
        Notice::DetailMismatch { skill_name, listed, told } => {
            ("8", format!("{skill_name:?} is listed with {listed} invocations, and the database has {told}"))
        }
        Notice::DatabaseContradicted { skill_name, listed, held } => (
            "8",
            format!("{skill_name:?} is listed with {listed} invocations, and the database has {held}: it is another's"),
        ),
        Notice::DetailJoined => ("8", "counts come from the database from here on".to_owned()),
        Notice::NoErrorTypes => ("8.9", "the database has no column error_type: failures have no cause".to_owned()),
        Notice::LateEvents { events } => {
            ("4.8", format!("{events} pending events are dropped: no snapshot accounted for them"))
        }
    }
}
