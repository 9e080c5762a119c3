//! `check`: one connection to a feed, reported.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::{Duration, Instant};

use clap::Args;
use thiserror::Error;
use tokio_util::sync::CancellationToken;

use super::check_push::{CheckPush, CheckPushFlags};
use super::explanation::describe;
use super::feed_tap::{FeedEvent, FeedTap};
use super::one_feed::OneFeedFlags;
use super::output::Output;
use super::{Command, CommandError, until_signal};
use crate::exposition::{View, encode_families};
use crate::feed::{DisconnectReason, FeedSettings, FeedState, TOKEN_REFUSED_CODES};
use crate::ledger::{ConnectionId, FeedId, FeedSpec, Ledger, Limits, Notice, Now};
use crate::protocol::{self, ConnectionMessage, Message, Number};
use crate::settings::flags::{LimitFlags, LogFlags};
use crate::settings::number::within;
use crate::settings::{Environment, LogSettings, SettingsError, limits};
use crate::text::terminal_line;

/// Snapshots after which the interval is known.
const SNAPSHOTS_ENOUGH: usize = 5;

/// Skills that a server lists at most: a list of this length may omit some.
const SKILLS_LISTED_MAX: usize = 10;

/// Notices that are kept and printed; further ones are only counted, however many there are.
const NOTICES_MAX: usize = 10;

#[derive(Debug, Args)]
pub(super) struct CheckFlags {
    /// Longest time to receive [range: 1 to 3600]
    #[arg(long, value_name = "NUMBER", default_value_t = 10, value_parser = within::<u64>(1, 3600))]
    pub seconds: u64,
    #[command(flatten)]
    pub feed: OneFeedFlags,
    #[command(flatten)]
    pub push: CheckPushFlags,
    #[command(flatten)]
    pub limits: LimitFlags,
    #[command(flatten)]
    pub log: LogFlags,
}

/// Returns the check of a feed, or of receivers of remote write where one is named.
///
/// # Errors
/// The first setting that cannot be used.
pub(super) fn command(flags: CheckFlags, environment: Environment<'_>) -> Result<Box<dyn Command>, SettingsError> {
    if flags.push.urls.is_empty() {
        return Ok(Box::new(Check::new(flags, environment)?));
    }
    let label_chars_max = limits::from_flags(&flags.limits)?.label_chars_max;
    Ok(Box::new(CheckPush::new(flags.push, label_chars_max, flags.log.settings())?))
}

/// Connects to a feed once, receives until enough is known or the time is over, and prints what it saw: whether the feed
/// is one that the bridge can count, what the metrics would be, and what to do next.
#[derive(Debug, Clone)]
pub struct Check {
    /// The feed.
    pub feed: FeedSettings,
    /// The longest time to receive.
    pub duration: Duration,
    /// How much is counted and remembered.
    pub ledger_limits: Limits,
    /// What is logged, and how.
    pub log: LogSettings,
}

impl Check {
    fn new(flags: CheckFlags, environment: Environment<'_>) -> Result<Self, SettingsError> {
        let ledger_limits = limits::from_flags(&flags.limits)?;
        Ok(Self {
            feed: flags.feed.settings(ledger_limits.label_chars_max, environment)?,
            duration: Duration::from_secs(flags.seconds),
            ledger_limits,
            log: flags.log.settings(),
        })
    }

    async fn run(self, shutdown: CancellationToken) -> Result<(), CommandError> {
        let opened = Instant::now();
        let identity = self.feed.identity.clone();
        let mut observation = Observation::new(self.feed.skill.as_deref(), self.ledger_limits);
        let mut tap = FeedTap::open(self.feed, self.duration, &shutdown);
        while !observation.is_enough()
            && let Some((at, event)) = tap.next().await
        {
            observation.receive(at, event);
        }
        let took = opened.elapsed();
        tap.close().await?;
        let (text, problem) = observation.report(&identity, took);
        let output = Output::to_stdout().map_err(CommandError::Threads)?;
        // If a write failed, the end of the output says why.
        let _ = shutdown.run_until_cancelled(output.write(text)).await;
        output.finish_unless(&shutdown).await?;
        match problem {
            None => Ok(()),
            Some(problem) => Err(CommandError::CheckFailed { identity, source: problem }),
        }
    }
}

impl Command for Check {
    fn log(&self) -> LogSettings {
        self.log
    }

    fn execute(self: Box<Self>) -> Result<(), CommandError> {
        until_signal(|shutdown| self.run(shutdown))?
    }
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
    fn new(skill: Option<&str>, limits: Limits) -> Self {
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

    /// The text to print, and the problem if there is one.
    fn report(mut self, identity: &str, took: Duration) -> (String, Option<CheckProblem>) {
        let mut text = format!("{identity}\n");
        let mut line = |name: &str, value: &str| {
            let _ = writeln!(text, "  {name:<16}{}", terminal_line(value));
        };
        let Some(opened) = self.opened else {
            let problem = self.ended.map_or(CheckProblem::NoConnection { within: took }, CheckProblem::Ended);
            line("reachable", &format!("no: {problem}"));
            return (text, Some(problem));
        };
        line("reachable", &format!("yes, connected after {opened:.1?}"));
        line("authentication", &authentication(self.ended.as_ref(), self.authenticated));
        let messages: Vec<String> = self.messages.iter().map(|(kind, count)| format!("{count} {kind}")).collect();
        let messages = if messages.is_empty() { "none".to_owned() } else { messages.join(", ") };
        line("messages", &format!("{messages} in {:.1?}", self.last.saturating_sub(opened)));
        if let Some(ending) = &self.ended {
            line("connection", &format!("ended: {ending}"));
        }
        let is_silent = self.snapshots.is_empty() && !self.is_filtered;
        let problem = match &self.ended {
            Some(ending) => Some(CheckProblem::Ended(ending.clone())),
            None if is_silent => Some(CheckProblem::NoSnapshot { within: took }),
            None => None,
        };
        match interval(&self.snapshots) {
            Some(interval) => line("interval", &interval),
            None if is_silent => line("interval", &format!("no snapshot within {took:.1?}; servers send one a second")),
            None => {}
        }

        let end = Now::at(took + crate::recording::REST);
        let mut notices = Vec::new();
        self.ledger.tick(end, &mut notices);
        self.note(notices);
        let mut view = View::default();
        view.apply(self.ledger.drain(end));
        if let Some(latest) = &self.latest {
            line("skills", &listed_skills(latest.skills, &view));
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

        let mut families = String::new();
        encode_families(&mut view, self.ledger.active_sessions(end), &mut families);
        text.push_str("\nThe metrics would be (without buckets):\n");
        for sample in families.lines().filter(|line| !line.starts_with('#') && !line.contains("_bucket{")) {
            let _ = writeln!(text, "  {}", terminal_line(sample));
        }
        text.push_str("\nNext: ");
        text.push_str(match &problem {
            None => "start the bridge with the same flags, without the command check, and let Prometheus scrape it.\n",
            Some(_) => "solve the problem above, and check again.\n",
        });
        (text, problem)
    }
}

/// Whether the server accepted the token, `reported` as it says itself.
fn authentication(ended: Option<&DisconnectReason>, reported: Option<bool>) -> String {
    match (ended, reported) {
        (Some(DisconnectReason::Closed { code, token, .. }), _) if TOKEN_REFUSED_CODES.contains(code) => {
            format!("rejected ({code}); {token}")
        }
        (_, Some(true)) => "accepted: the server accepted the token".to_owned(),
        (_, Some(false)) => "not required: the server accepts every client".to_owned(),
        (_, None) => "not reported by the server".to_owned(),
    }
}

/// The time between snapshots; `None` without any.
fn interval(snapshots: &[Duration]) -> Option<String> {
    let seconds = |pair: &[Duration]| pair[1].saturating_sub(pair[0]).as_secs_f64();
    let intervals: Vec<f64> = snapshots.windows(2).map(seconds).collect();
    let [first, ..] = intervals[..] else {
        let only_one = "unknown after one snapshot: receive for longer with --seconds";
        return snapshots.first().map(|_| only_one.to_owned());
    };
    let (min, max) = intervals.iter().fold((first, first), |(min, max), next| (min.min(*next), max.max(*next)));
    let mean = intervals.iter().sum::<f64>() / intervals.len() as f64;
    Some(format!("a snapshot every {mean:.2} s ({min:.2} to {max:.2} s)"))
}

fn listed_skills(skills: usize, view: &View) -> String {
    if skills < SKILLS_LISTED_MAX {
        return format!("{skills} listed: every skill of the server");
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
