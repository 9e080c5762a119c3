//! The state of the bridge, its feeds and its push receivers, recent anomalies and rejections.

use std::sync::Arc;

use serde::Serialize;

use super::Persistence;
use crate::build_info;
use crate::clock::{seconds, wall_seconds};
use crate::exposition::{View, ViewProvider};
use crate::health::FeedReport;
use crate::ledger::{FeedCounters, SeenAnomaly};
use crate::telemetry::{FeedTelemetry, PushStanding, SeenRejection, Telemetry};

/// The response.
#[derive(Debug, Serialize)]
pub(super) struct Status {
    version: &'static str,
    now_seconds: f64,
    started_seconds: f64,
    /// `memory`, `disk`, or `failing` where commits fail.
    state: &'static str,
    active_sessions: u64,
    totals: Totals,
    feeds: Vec<Feed>,
    receivers: Vec<Receiver>,
    /// Latest first.
    anomalies: Vec<Anomaly>,
    /// Latest first.
    rejections: Vec<Rejected>,
}

/// Sums of all skills since counting began.
#[derive(Debug, Default, Serialize)]
struct Totals {
    skills: usize,
    invocations: u64,
    completed: u64,
    durations: u64,
    duration_sum_seconds: f64,
    anomalies: u64,
}

#[derive(Debug, Serialize)]
struct Feed {
    feed: String,
    state: &'static str,
    since_seconds: f64,
    reason: String,
    /// The number of its source.
    source: Option<u64>,
    /// `active`, `standby`, `pending` or `inactive`.
    role: &'static str,
    last_message_seconds: Option<f64>,
    connected_since_seconds: Option<f64>,
    last_data_seconds: Option<f64>,
    messages: u64,
    rejected: u64,
    connects: u64,
    resets: u64,
    rollbacks: u64,
    tenth_skill_invocations: Option<u64>,
    rows_tell: Option<bool>,
}

/// A receiver of remote write.
#[derive(Debug, Serialize)]
struct Receiver {
    receiver: Arc<str>,
    is_up: bool,
    /// Why the last request was not accepted.
    problem: String,
    queue_ticks: u64,
    queue_bytes: u64,
    queue_oldest_seconds: Option<f64>,
    last_success_seconds: Option<f64>,
}

#[derive(Debug, Serialize)]
struct Anomaly {
    at_seconds: f64,
    skill_name: Arc<str>,
    anomaly_type: Arc<str>,
    times: u64,
    deviation_score: Option<f64>,
    detected_at: Option<Box<str>>,
    is_history: bool,
}

#[derive(Debug, Serialize)]
struct Rejected {
    at_seconds: f64,
    feed: Arc<str>,
    reason: &'static str,
    detail: String,
    times: u64,
}

pub(super) fn status(
    provider: &dyn ViewProvider,
    telemetry: &Telemetry,
    reports: &[FeedReport],
    persistence: &Persistence,
    started_seconds: f64,
) -> Status {
    let (mut active_sessions, mut totals, mut counters, mut anomalies) = (0, Totals::default(), Vec::new(), Vec::new());
    provider.read(&mut |view, sessions| {
        active_sessions = sessions;
        totals = Totals::of(view);
        counters = view.feeds().cloned().collect();
        anomalies = view.recent_anomalies().map(Anomaly::from).collect();
    });
    anomalies.reverse();
    let feeds = telemetry.feeds();
    Status {
        version: build_info::VERSION,
        started_seconds,
        state: match persistence {
            Persistence::InMemory => "memory",
            Persistence::OnDisk(state) if state.is_durable() => "disk",
            Persistence::OnDisk(_) => "failing",
        },
        active_sessions,
        totals,
        feeds: reports.iter().filter_map(|report| Feed::new(report, &feeds, &counters)).collect(),
        receivers: telemetry.push().standings().into_iter().map(Receiver::from).collect(),
        anomalies,
        rejections: telemetry.recent_rejections().into_iter().map(Rejected::from).collect(),
        // The last to be read: nothing in the answer is later.
        now_seconds: wall_seconds(),
    }
}

impl Totals {
    fn of(view: &View) -> Self {
        let mut totals = Self::default();
        for skill in view.skills() {
            totals.skills += 1;
            for phase in &skill.phases {
                totals.invocations += phase.completed + phase.abandoned;
                totals.completed += phase.completed;
                totals.durations += phase.durations.count();
                totals.duration_sum_seconds += phase.durations.sum;
            }
            totals.anomalies += skill.anomalies.iter().map(|series| series.count).sum::<u64>();
        }
        totals
    }
}

impl Feed {
    /// `None` if the feed has just been removed.
    fn new(report: &FeedReport, feeds: &[Arc<FeedTelemetry>], counters: &[FeedCounters]) -> Option<Self> {
        let traffic = feeds.iter().find(|feed| *feed.identity() == report.identity)?.traffic();
        let counted = counters.iter().find(|counters| counters.identity == report.identity);
        Some(Self {
            feed: report.identity.to_string(),
            state: report.state.label(),
            since_seconds: report.since_seconds,
            reason: report.reason.clone(),
            source: report.standing.as_ref().and_then(|standing| standing.source).map(|source| source.0),
            role: report.standing.as_ref().map_or("inactive", |standing| standing.role.label()),
            last_message_seconds: traffic.last_message_seconds,
            connected_since_seconds: traffic.connected_since_seconds,
            last_data_seconds: traffic.last_data_seconds,
            messages: traffic.messages,
            rejected: traffic.rejected,
            connects: traffic.connects,
            resets: counted.map_or(0, |counters| counters.resets),
            rollbacks: counted.map_or(0, |counters| counters.rollbacks),
            tenth_skill_invocations: counted.and_then(|counters| counters.tenth_skill_invocations),
            rows_tell: counted.and_then(|counters| counters.rows_tell),
        })
    }
}

impl From<(Arc<str>, PushStanding)> for Receiver {
    fn from((receiver, standing): (Arc<str>, PushStanding)) -> Self {
        let PushStanding { is_up, problem, queue, last_success_seconds } = standing;
        Self {
            receiver,
            is_up,
            problem,
            queue_ticks: queue.ticks,
            queue_bytes: queue.bytes,
            queue_oldest_seconds: queue.oldest.map(|oldest| oldest.millis() as f64 / 1e3),
            last_success_seconds,
        }
    }
}

impl From<&SeenAnomaly> for Anomaly {
    fn from(seen: &SeenAnomaly) -> Self {
        Self {
            at_seconds: seconds(seen.wall_micros),
            skill_name: Arc::clone(&seen.skill_name),
            anomaly_type: Arc::clone(&seen.anomaly_type),
            times: seen.times,
            deviation_score: seen.deviation_score,
            detected_at: seen.detected_at.clone(),
            is_history: seen.is_history,
        }
    }
}

impl From<SeenRejection> for Rejected {
    fn from(seen: SeenRejection) -> Self {
        Self {
            at_seconds: seen.last_seen_seconds,
            feed: seen.feed,
            reason: seen.reason,
            detail: seen.detail,
            times: seen.times,
        }
    }
}
