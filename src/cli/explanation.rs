//! What each message of a feed changes, and by which rule, in words: from a number back to the frames that it came from.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::time::Duration;

use crate::exposition::samples;
use crate::ledger::{
    ConnectionId, FeedId, FeedSpec, Ledger, Limits, Moment, Notice, ResetCause, SkillIndex, SkillSeries,
};
use crate::protocol::{self, EventKind, Message};

/// Counts as a bridge would, and says why.
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
    /// For a feed that is subscribed to `subscribed`, or to all. Of what happens only what concerns `skill` is told, or
    /// everything.
    pub fn new(subscribed: Option<&str>, skill: Option<String>, limits: Limits) -> Self {
        let mut ledger = Ledger::new(limits);
        ledger.explain();
        let spec = FeedSpec { identity: "explained".to_owned(), skill: subscribed.map(ToOwned::to_owned) };
        let feed = ledger.add_feed(spec);
        Self { ledger, feed, connection: None, shown: HashMap::new(), active_sessions: 0, skill }
    }

    /// A connection is established.
    pub fn open(&mut self, at: Duration) -> String {
        self.connection = Some(self.ledger.open(self.feed, Moment::at(at)));
        self.told(at, "a connection is established", Vec::new())
    }

    /// The connection ended, for `why`.
    pub fn close(&mut self, at: Duration, why: &str) -> String {
        if let Some(connection) = self.connection.take() {
            self.ledger.close(connection, Moment::at(at));
        }
        self.told(at, &format!("the connection ended{why}"), Vec::new())
    }

    /// Each message of a frame.
    pub fn frame(&mut self, at: Duration, frame: &str) -> String {
        let now = Moment::at(at);
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
                    "a message that cannot be read".to_owned()
                }
            };
            text.push_str(&self.told(at, &head, notices));
        });
        text
    }

    /// Time passes, and nothing is heard.
    pub fn pass(&mut self, at: Duration) -> String {
        let mut notices = Vec::new();
        self.ledger.tick(Moment::at(at), &mut notices);
        let told = self.changes(Moment::at(at), notices);
        if told.is_empty() { String::new() } else { written(at, "nothing heard", &told) }
    }

    fn told(&mut self, at: Duration, head: &str, notices: Vec<Notice>) -> String {
        let told = self.changes(Moment::at(at), notices);
        if told.is_empty() && self.skill.is_some() { String::new() } else { written(at, head, &told) }
    }

    /// What happened since the last call, a line each.
    fn changes(&mut self, now: Moment, notices: Vec<Notice>) -> Vec<String> {
        let mut lines = Vec::new();
        for finding in self.ledger.take_findings() {
            if self.skill.is_none() || finding.skill_name() == self.skill.as_deref() {
                lines.push(format!("[{}] {finding}", finding.rule()));
            }
        }
        for notice in notices {
            let (rule, words) = describe(&notice);
            let is_of_all = !matches!(notice, Notice::Rejected(_) | Notice::LateEvents { .. });
            if is_of_all || self.skill.as_deref().is_none_or(|skill| words.contains(skill)) {
                lines.push(format!("[{rule}] {words}"));
            }
        }
        let mut rows = self.ledger.drain(now).skills;
        rows.sort_unstable_by(|a, b| a.series.skill_name.cmp(&b.series.skill_name));
        for row in rows {
            let before = self.shown.insert(row.index, row.series.clone());
            if self.skill.as_deref().is_none_or(|skill| *skill == *row.series.skill_name) {
                push_moves(before.as_ref(), &row.series, &mut lines);
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

fn written(at: Duration, head: &str, told: &[String]) -> String {
    let mut text = format!("{:>10.3} s  {head}\n", at.as_secs_f64());
    for line in told {
        let _ = writeln!(text, "              {line}");
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

/// Every sample that moved. Buckets are cumulative: of those that moved the narrowest tells all.
fn push_moves(before: Option<&SkillSeries>, now: &SkillSeries, lines: &mut Vec<String>) {
    let before: HashMap<String, String> = before.map(samples).unwrap_or_default().into_iter().collect();
    let mut bucket_moved = false;
    for (series, value) in samples(now) {
        let was = before.get(&series).map_or("", String::as_str);
        let has_moved = was != value && !(was.is_empty() && value == "0");
        let is_bucket = series.starts_with("skill_duration_seconds_bucket");
        if has_moved && !(is_bucket && bucket_moved) {
            let was = if was.is_empty() { "none" } else { was };
            let wider = if is_bucket { "  (and the wider ones)" } else { "" };
            lines.push(format!("    {series}  {was} -> {value}{wider}"));
        }
        bucket_moved = is_bucket && (bucket_moved || has_moved);
    }
}

/// The rule, by its number in `docs/translation.md`, and what it says.
pub(super) fn describe(notice: &Notice) -> (&'static str, String) {
    match notice {
        Notice::Rejected(rejection) => {
            ("2", format!("not applied, {}: {}", rejection.reason.label(), rejection.detail))
        }
        Notice::Reset(cause) => {
            let cause = match cause {
                ResetCause::TotalFell { skill_name, from, to } => {
                    format!("the total of {skill_name:?} fell from {from} to {to}")
                }
                ResetCause::SplitFell { skill_name } => {
                    format!("{skill_name:?} has fewer completed or abandoned invocations than before")
                }
                ResetCause::RowsAreOthers => "none of the rows that were read is in it".to_owned(),
                ResetCause::SkillMissing { skill_name } => {
                    format!("{skill_name:?} is not listed, though the list has room for it")
                }
            };
            ("4.3", format!("the database is a new one, what it holds counts on top: {cause}"))
        }
        Notice::RolledBack => ("4.3", "the database is back a few writes younger: nothing counts".to_owned()),
        Notice::AliasFound { of } => ("3", format!("this feed is the same server as {of}, and no longer counts")),
        Notice::AliasCleared => ("3", "this feed is a server of its own after all: it counts".to_owned()),
        Notice::AnomalyWindowOverflowed => ("5", "the list of anomalies may have hidden some".to_owned()),
        Notice::SkillsOverflowed { skill_name, skills_max } => {
            ("7", format!("{skill_name:?} is beyond the limit of {skills_max} skills: it counts as __overflow__"))
        }
        Notice::DetailMismatch { skill_name, listed, told } => {
            ("8", format!("{skill_name:?} is listed with {listed}, and the rows tell {told}"))
        }
        Notice::DetailJoined => ("8", "the rows of the database tell the counts from here on".to_owned()),
        Notice::LateEvents { events } => {
            ("4.8", format!("{events} events that waited are dropped: no snapshot accounted for them"))
        }
    }
}
