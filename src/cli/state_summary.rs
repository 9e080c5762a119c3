//! What a state file holds, for people and as JSON.

use std::fmt::Write as _;
use std::path::Path;
use std::sync::Arc;

use jiff::Timestamp;
use serde::Serialize;

use crate::ledger::{FeedStanding, LedgerState, SourceId};
use crate::push::{QueueSize, QueueSummary, TickTime};
use crate::text::terminal_line;

/// A state file, feed by feed. The JSON is part of the public interface: docs/reference/commands.md.
#[derive(Debug, Serialize)]
pub(super) struct StateSummary {
    path: String,
    /// Number of skills with series.
    skills: usize,
    feeds: Vec<Feed>,
    /// Sources that no feed is bound to.
    sources_without_feed: Vec<Remembered>,
    remote_write: Option<RemoteWrite>,
}

#[derive(Debug, Serialize)]
struct Feed {
    feed: Arc<str>,
    address: String,
    /// The one skill that it is subscribed to.
    skill: Option<String>,
    is_configured: bool,
    /// `active`, `standby` or `inactive`, as it was last; `None` if it is not configured.
    role: Option<&'static str>,
    /// For people, in place of `role`.
    #[serde(skip)]
    standing: String,
    /// What is remembered of the source that it is bound to.
    source: Option<Remembered>,
    database_resets: u64,
    database_rollbacks: u64,
}

/// What is remembered of a source.
#[derive(Debug, Serialize)]
struct Remembered {
    source: u64,
    skills: usize,
    invocations: u128,
    anomalies: u128,
}

#[derive(Debug, Serialize)]
struct RemoteWrite {
    identity: String,
    /// The label sets of its series.
    labels: Vec<String>,
    series: u64,
    newest_tick_seconds: Option<f64>,
    queued: Queued,
    receivers: Vec<Receiver>,
    #[serde(skip)]
    newest: Option<TickTime>,
}

#[derive(Debug, Serialize)]
struct Receiver {
    receiver: String,
    /// The time of the last tick that it has answered for.
    answered_for_seconds: Option<f64>,
    queued: Queued,
    #[serde(skip)]
    answered_for: Option<TickTime>,
}

#[derive(Debug, Serialize)]
struct Queued {
    ticks: u64,
    bytes: u64,
    oldest_seconds: Option<f64>,
    #[serde(skip)]
    oldest: Option<TickTime>,
}

impl StateSummary {
    pub(super) fn new(path: &Path, whole: &LedgerState, queue: Option<&QueueSummary>) -> Self {
        let memory = &whole.memory;
        let feeds = memory.feeds.iter().zip(whole.standings()).map(|(feed, standing)| Feed {
            feed: Arc::clone(&feed.counters.identity),
            address: feed.entry.address.to_string(),
            skill: feed.entry.filter.as_ref().map(ToString::to_string),
            is_configured: feed.is_configured,
            role: feed.is_configured.then(|| standing.role.label()),
            standing: standing_text(&standing, feed.is_configured),
            source: feed.source.map(|source| Remembered::new(whole, source)),
            database_resets: feed.counters.resets,
            database_rollbacks: feed.counters.rollbacks,
        });
        let without_feed =
            memory.sources.iter().filter(|known| memory.feeds.iter().all(|feed| feed.source != Some(known.id)));
        Self {
            path: path.display().to_string(),
            skills: whole.skills.len(),
            feeds: feeds.collect(),
            sources_without_feed: without_feed.map(|known| Remembered::new(whole, known.id)).collect(),
            remote_write: queue.map(RemoteWrite::from),
        }
    }

    pub(super) fn json(&self) -> String {
        let mut text = serde_json::to_string_pretty(self).expect("a summary has only string keys, and numbers of JSON");
        text.push('\n');
        text
    }

    pub(super) fn text(&self) -> String {
        let mut text = format!("{}: {} skills with series\n", self.path, self.skills);
        for feed in &self.feeds {
            let _ = writeln!(text, "{}", feed.feed);
            // Entries that differ in nothing else share a name.
            line(&mut text, "address", &feed.address);
            if let Some(skill) = &feed.skill {
                line(&mut text, "skill", skill);
            }
            line(&mut text, "configured", if feed.is_configured { "yes" } else { "no longer" });
            line(&mut text, "standing", &feed.standing);
            if let Some(source) = &feed.source {
                source.describe(&mut text);
            }
            line(&mut text, "database resets", &feed.database_resets.to_string());
            line(&mut text, "database rollbacks", &feed.database_rollbacks.to_string());
        }
        for source in &self.sources_without_feed {
            let _ = writeln!(text, "source {} without a feed", source.source);
            source.describe(&mut text);
        }
        if let Some(remote_write) = &self.remote_write {
            remote_write.describe(&mut text);
        }
        text
    }
}

fn line(text: &mut String, name: &str, value: &str) {
    let _ = writeln!(text, "  {name:<24} {value}");
}

fn standing_text(standing: &FeedStanding, is_configured: bool) -> String {
    match standing.source.filter(|_| !is_configured) {
        Some(source) => format!("remembered for source {}", source.0),
        None => standing.to_string(),
    }
}

impl Remembered {
    fn new(whole: &LedgerState, source: SourceId) -> Self {
        let memory = &whole.memory;
        let skills = || memory.skills.iter().filter(|skill| skill.source == source);
        let tallies = memory.tallies.iter().filter(|tally| tally.source == source);
        Self {
            source: source.0,
            skills: skills().count(),
            invocations: skills().filter_map(|skill| skill.remembered).map(|totals| u128::from(totals.total)).sum(),
            anomalies: tallies.map(|tally| u128::from(tally.listed.max(tally.streamed))).sum(),
        }
    }

    fn describe(&self, text: &mut String) {
        line(text, "skills remembered", &self.skills.to_string());
        line(text, "invocations remembered", &self.invocations.to_string());
        line(text, "anomalies counted", &self.anomalies.to_string());
    }
}

impl From<&QueueSummary> for RemoteWrite {
    fn from(queue: &QueueSummary) -> Self {
        let receivers = queue.receivers.iter().map(|(receiver, position, behind)| {
            let answered_for = Some(*position).filter(|position| *position != TickTime::NEVER);
            Receiver {
                receiver: receiver.to_string(),
                answered_for_seconds: answered_for.map(seconds),
                queued: behind.into(),
                answered_for,
            }
        });
        Self {
            identity: queue.identity.to_string(),
            labels: queue.label_sets.iter().map(ToString::to_string).collect(),
            series: queue.series,
            newest_tick_seconds: queue.newest.map(seconds),
            queued: (&queue.size).into(),
            receivers: receivers.collect(),
            newest: queue.newest,
        }
    }
}

impl RemoteWrite {
    fn describe(&self, text: &mut String) {
        text.push_str("remote write\n");
        line(text, "identity", &self.identity);
        self.labels.iter().for_each(|labels| line(text, "labels", &terminal_line(labels)));
        line(text, "series", &self.series.to_string());
        line(text, "newest tick", &time(self.newest));
        line(text, "queued", &self.queued.describe());
        for receiver in &self.receivers {
            line(text, "receiver", &terminal_line(&receiver.receiver));
            line(text, "  answered for", &time(receiver.answered_for));
            line(text, "  queued", &receiver.queued.describe());
        }
    }
}

impl From<&QueueSize> for Queued {
    fn from(size: &QueueSize) -> Self {
        let QueueSize { ticks, bytes, oldest } = *size;
        Self { ticks, bytes, oldest_seconds: oldest.map(seconds), oldest }
    }
}

impl Queued {
    fn describe(&self) -> String {
        let plural = if self.ticks == 1 { "" } else { "s" };
        let oldest = self.oldest.map(|oldest| format!(" since {}", time(Some(oldest)))).unwrap_or_default();
        format!("{} tick{plural}, {} bytes{oldest}", self.ticks, self.bytes)
    }
}

/// Seconds since the Unix epoch.
fn seconds(time: TickTime) -> f64 {
    time.millis() as f64 / 1e3
}

fn time(time: Option<TickTime>) -> String {
    let Some(time) = time else { return "nothing yet".to_owned() };
    // A state that somebody else wrote may hold any number.
    Timestamp::from_millisecond(time.millis()).map_or_else(|_| format!("{} ms", time.millis()), |time| time.to_string())
}
