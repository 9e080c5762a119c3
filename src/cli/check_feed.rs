//! One connection to a feed, reported.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::{Duration, Instant};

use serde::Serialize;
use thiserror::Error;
use tokio_util::sync::CancellationToken;

use super::CommandError;
use super::explanation::describe;
use super::feed_tap::{FeedEvent, FeedTap};
use crate::exposition::{View, encode_families};
use crate::feed::{DisconnectReason, FeedSettings, FeedState, TOKEN_REFUSED_CODES};
use crate::ledger::{ConnectionId, FeedId, FeedSpec, Ledger, Limits, Notice, Now};
use crate::protocol::{self, ConnectionMessage, Message, Number};
use crate::text::terminal_line;

/// Snapshots after which the interval is known.
const SNAPSHOTS_ENOUGH: usize = 5;

/// Skills that a server lists at most: a list of this length may omit some.
const SKILLS_LISTED_MAX: usize = 10;

/// Notices that are kept and printed; further ones are only counted, however many there are.
const NOTICES_MAX: usize = 10;

/// What one connection to a feed showed.
#[derive(Debug)]
pub(super) struct CheckedFeed {
    /// For people.
    pub text: String,
    /// For programs.
    pub connection: Connection,
    /// Why the bridge could not count the feed.
    pub problem: Option<CheckProblem>,
}

/// A connection to a feed, for programs.
#[derive(Debug, Serialize)]
pub(super) struct Connection {
    is_connected: bool,
    connected_after_seconds: Option<f64>,
    authentication: Option<Authentication>,
    /// Number of messages by type.
    messages: BTreeMap<&'static str, u64>,
    /// Mean of the time between snapshots.
    snapshot_interval_seconds: Option<f64>,
    skills_listed: Option<usize>,
    anomalies_listed: Option<usize>,
    notices: Vec<String>,
    /// Number of further notices.
    notices_omitted: u64,
}

/// What the server did with the client's token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Authentication {
    Accepted,
    NotRequired,
    Rejected,
    Unknown,
}

/// Connects to a feed once, and receives until enough is known, `duration` is over, or `shutdown`.
///
/// # Errors
/// A panic of the feed, which is a defect.
pub(super) async fn check_feed(
    feed: FeedSettings,
    has_database: bool,
    ledger_limits: Limits,
    duration: Duration,
    shutdown: &CancellationToken,
) -> Result<CheckedFeed, CommandError> {
    let opened = Instant::now();
    let identity = feed.identity.clone();
    let mut observation = Observation::new(feed.skill.as_deref(), has_database, ledger_limits);
    let mut tap = FeedTap::open(feed, duration, shutdown);
    while !observation.is_enough()
        && let Some((at, event)) = tap.next().await
    {
        observation.receive(at, event);
    }
    let took = opened.elapsed();
    tap.close().await?;
    Ok(observation.report(&identity, took))
}

/// Why the bridge could not count a feed.
#[derive(Debug, Clone, PartialEq, Error)]
pub enum CheckProblem {
    /// No connection was established, or it ended.
    #[error(transparent)]
    Ended(#[from] DisconnectReason),
    /// Neither a connection nor an error.
    #[error("no connection within {within:.1?}")]
    NoConnection {
        /// The time of the check.
        within: Duration,
    },
    /// A connection without a snapshot.
    #[error(
        "no snapshot within {within:.1?}: check that this is the port of RealTimeMetricsServer, and that it has started \
         to broadcast"
    )]
    NoSnapshot {
        /// The time of the check.
        within: Duration,
    },
}

/// What was received from the feed, and what a bridge would have counted.
struct Observation {
    ledger: Ledger,
    feed: FeedId,
    connection: Option<ConnectionId>,
    notices: Vec<Notice>,
    more_notices: u64,
    is_filtered: bool,
    has_database: bool,
    opened: Option<Duration>,
    /// What the server reported, if it did.
    authenticated: Option<bool>,
    ended: Option<DisconnectReason>,
    messages: BTreeMap<&'static str, u64>,
    snapshots: Vec<Duration>,
    latest: Option<Listing>,
    last: Duration,
}

/// What the latest snapshot listed.
struct Listing {
    skills: usize,
    anomalies: usize,
    completion_rates_percent: Vec<f64>,
}

impl Observation {
    fn new(skill: Option<&str>, has_database: bool, limits: Limits) -> Self {
        let mut ledger = Ledger::new(limits);
        let feed = ledger.add_feed(FeedSpec {
            identity: "checked".to_owned(),
            address: None,
            skill: skill.map(ToOwned::to_owned),
        });
        Self {
            ledger,
            feed,
            connection: None,
            notices: Vec::new(),
            more_notices: 0,
            is_filtered: skill.is_some(),
            has_database,
            opened: None,
            authenticated: None,
            ended: None,
            messages: BTreeMap::new(),
            snapshots: Vec::new(),
            latest: None,
            last: Duration::ZERO,
        }
    }

    /// Whether further events would add nothing: the interval is known, or the one attempt has ended.
    fn is_enough(&self) -> bool {
        self.ended.is_some() || self.snapshots.len() >= SNAPSHOTS_ENOUGH
    }

    fn receive(&mut self, at: Duration, event: FeedEvent) {
        match event {
            FeedEvent::Opened => {
                self.opened = Some(at);
                self.connection = Some(self.ledger.open(self.feed, Now::at(at)));
            }
            FeedEvent::Text(frame) => self.receive_frame(at, &frame),
            FeedEvent::Binary { .. } => *self.messages.entry("binary frame").or_default() += 1,
            // The time of the check is over.
            FeedEvent::Closed(DisconnectReason::Shutdown) => return,
            FeedEvent::Closed(reason)
            | FeedEvent::State(FeedState::Waiting { reason, .. } | FeedState::Refused { reason, .. }) => {
                self.ended.get_or_insert(reason);
            }
            FeedEvent::State(_) => return,
        }
        self.last = at;
    }

    fn receive_frame(&mut self, at: Duration, frame: &str) {
        let Some(connection) = self.connection else { return };
        protocol::read(frame, &protocol::Limits::default(), &mut |message| {
            let message = match message {
                Ok(message) => message,
                Err(rejection) => return self.note(vec![Notice::Rejected(rejection)]),
            };
            *self.messages.entry(message.message_type().label()).or_default() += 1;
            match &message {
                Message::Connection(ConnectionMessage::Connected { authenticated }) => {
                    self.authenticated = *authenticated;
                }
                Message::Snapshot(snapshot) => {
                    self.snapshots.push(at);
                    let rates =
                        snapshot.skills.iter().flatten().filter_map(|entry| match entry.completion_rate_percent {
                            Number::Finite(rate) => Some(rate),
                            Number::Missing | Number::Invalid => None,
                        });
                    self.latest = Some(Listing {
                        skills: snapshot.listed,
                        anomalies: snapshot.anomalies_listed,
                        completion_rates_percent: rates.collect(),
                    });
                }
                _ => {}
            }
            let mut notices = Vec::new();
            self.ledger.apply(connection, &message, Now::at(at), &mut notices);
            self.note(notices);
        });
    }

    fn note(&mut self, notices: Vec<Notice>) {
        for notice in notices {
            if self.notices.len() < NOTICES_MAX { self.notices.push(notice) } else { self.more_notices += 1 }
        }
    }

    fn report(mut self, identity: &str, took: Duration) -> CheckedFeed {
        let end = Now::at(took + crate::recording::REST);
        let mut notices = Vec::new();
        self.ledger.tick(end, &mut notices);
        self.note(notices);
        let mut view = View::default();
        view.apply(self.ledger.drain(end));

        let problem = self.problem(took);
        let mut text = format!("{}\n", terminal_line(identity));
        if let (None, Some(problem)) = (self.opened, &problem) {
            line(&mut text, "reachable", &format!("no: {problem}"));
        }
        if let Some(opened) = self.opened {
            self.describe_connection(&mut text, opened, took, &view);
            text.push_str(match self.has_database {
                false => "\nThe metrics would be (without buckets):\n",
                true => "\nThe metrics of the feed alone would be (without buckets; the database is more exact):\n",
            });
            let mut families = String::new();
            encode_families(&mut view, self.ledger.active_sessions(end), &mut families);
            for sample in families.lines().filter(|line| !line.starts_with('#') && !line.contains("_bucket{")) {
                let _ = writeln!(text, "  {}", terminal_line(sample));
            }
        }
        CheckedFeed { text, connection: self.connection(), problem }
    }

    /// Why the bridge could not count the feed.
    fn problem(&self, took: Duration) -> Option<CheckProblem> {
        match (&self.ended, self.opened) {
            (Some(ending), _) => Some(CheckProblem::Ended(ending.clone())),
            (None, None) => Some(CheckProblem::NoConnection { within: took }),
            (None, Some(_)) if self.is_silent() => Some(CheckProblem::NoSnapshot { within: took }),
            (None, Some(_)) => None,
        }
    }

    /// Whether snapshots are missing. A server sends none to who subscribes to one skill.
    fn is_silent(&self) -> bool {
        self.snapshots.is_empty() && !self.is_filtered
    }

    fn describe_connection(&self, text: &mut String, opened: Duration, took: Duration, view: &View) {
        let mut line = |name: &str, value: &str| line(text, name, value);
        line("reachable", &format!("yes, connected after {opened:.1?}"));
        line("authentication", &authentication_text(self.ended.as_ref(), self.authentication()));
        let messages: Vec<String> = self.messages.iter().map(|(kind, count)| format!("{count} {kind}")).collect();
        let messages = if messages.is_empty() { "none".to_owned() } else { messages.join(", ") };
        line("messages", &format!("{messages} in {:.1?}", self.last.saturating_sub(opened)));
        if let Some(ending) = &self.ended {
            line("connection", &format!("ended: {ending}"));
        }
        match Interval::of(&self.snapshots) {
            Some(Interval { mean, min, max }) => {
                line("interval", &format!("a snapshot every {mean:.2} s ({min:.2} to {max:.2} s)"));
            }
            None if !self.snapshots.is_empty() => {
                line("interval", "unknown after one snapshot: receive for longer with --seconds");
            }
            None if self.is_silent() => {
                line("interval", &format!("no snapshot within {took:.1?}; servers send one a second"));
            }
            None => {}
        }
        if let Some(latest) = &self.latest {
            line("skills", &listed_skills(latest.skills, self.has_database, view));
            line("anomalies", &format!("{} listed", latest.anomalies));
            line("rates", &rates(&latest.completion_rates_percent, view.rules().inexact_rates));
        }
        for notice in &self.notices {
            line("notice", &describe(notice).1);
        }
        match self.more_notices {
            _ if self.notices.is_empty() => line("notice", "none: no reset, no rollback, no rejected message"),
            0 => {}
            more => line("notice", &format!("and {more} more")),
        }
    }

    fn connection(self) -> Connection {
        let authentication = self.opened.map(|_| self.authentication());
        Connection {
            is_connected: self.opened.is_some(),
            connected_after_seconds: self.opened.map(|opened| opened.as_secs_f64()),
            authentication,
            snapshot_interval_seconds: Interval::of(&self.snapshots).map(|interval| interval.mean),
            messages: self.messages,
            skills_listed: self.latest.as_ref().map(|latest| latest.skills),
            anomalies_listed: self.latest.as_ref().map(|latest| latest.anomalies),
            notices: self.notices.iter().map(|notice| describe(notice).1).collect(),
            notices_omitted: self.more_notices,
        }
    }

    /// What the server did with the token, by its close code or as it reports itself.
    fn authentication(&self) -> Authentication {
        match (&self.ended, self.authenticated) {
            (Some(DisconnectReason::Closed { code, .. }), _) if TOKEN_REFUSED_CODES.contains(code) => {
                Authentication::Rejected
            }
            (_, Some(true)) => Authentication::Accepted,
            (_, Some(false)) => Authentication::NotRequired,
            (_, None) => Authentication::Unknown,
        }
    }
}

/// Adds a line of the report.
fn line(text: &mut String, name: &str, value: &str) {
    let _ = writeln!(text, "  {name:<16}{}", terminal_line(value));
}

fn authentication_text(ended: Option<&DisconnectReason>, authentication: Authentication) -> String {
    match (authentication, ended) {
        (Authentication::Rejected, Some(DisconnectReason::Closed { code, token, .. })) => {
            format!("rejected ({code}); {token}")
        }
        (Authentication::Rejected, _) => "rejected".to_owned(),
        (Authentication::Accepted, _) => "accepted: the server accepted the token".to_owned(),
        (Authentication::NotRequired, _) => "not required: the server accepts every client".to_owned(),
        (Authentication::Unknown, _) => "not reported by the server".to_owned(),
    }
}

/// The time between snapshots, in seconds.
struct Interval {
    mean: f64,
    min: f64,
    max: f64,
}

impl Interval {
    /// `None` with fewer than two.
    fn of(snapshots: &[Duration]) -> Option<Self> {
        let seconds = |pair: &[Duration]| pair[1].saturating_sub(pair[0]).as_secs_f64();
        let intervals: Vec<f64> = snapshots.windows(2).map(seconds).collect();
        let first = *intervals.first()?;
        let (min, max) = intervals.iter().fold((first, first), |(min, max), next| (min.min(*next), max.max(*next)));
        Some(Self { mean: intervals.iter().sum::<f64>() / intervals.len() as f64, min, max })
    }
}

fn listed_skills(skills: usize, has_database: bool, view: &View) -> String {
    if skills < SKILLS_LISTED_MAX {
        return format!("{skills} listed: every skill of the server");
    }
    if has_database {
        return format!("{skills} listed, as many as the server lists: others are counted from the database");
    }
    let tenth = view.feeds().find_map(|feed| feed.tenth_skill_invocations).unwrap_or_default();
    format!(
        "{skills} listed, as many as the server lists: others can have up to {tenth} invocations each and are not \
         counted, except with --feed.skills-db"
    )
}

fn rates(percent: &[f64], inexact: u64) -> String {
    if percent.is_empty() {
        return "none listed".to_owned();
    }
    if inexact == 0 {
        return "valid: each is the percentage of a whole number of completions".to_owned();
    }
    if percent.iter().all(|rate| (0.0..=1.0).contains(rate)) {
        return "look like ratios of 0 to 1 and are read as percentages: the bridge does not support this server"
            .to_owned();
    }
    format!("{inexact} are not the percentage of a whole number of completions: only the totals of these are counted")
}
