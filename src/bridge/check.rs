//! One look at a feed, in words.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{self, Write as _};
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;

use crate::explanation::notice_words;
use crate::exposition::{View, encode_families};
use crate::feed::{DisconnectReason, FeedState};
use crate::ledger::{FeedSpec, Ledger, Limits, Moment, Notice};
use crate::protocol::{self, ConnectionMessage, Message, Number};
use crate::settings::CheckTask;

use super::ear::{Ear, Said};
use super::{CommandError, subscription};

/// So many snapshots show a cadence.
const SNAPSHOTS_ENOUGH: usize = 5;

/// A list of this length may have left some out.
const SKILLS_LISTED_MAX: usize = 10;

/// Connects once, listens until enough was heard or the time is over, and prints on standard output what it saw: whether the
/// feed is what the bridge is made for, what the metrics would be, and what to do next.
///
/// # Errors
/// A feed that cannot be reached, refuses, or sends no snapshot; standard output that takes nothing.
pub async fn check(task: CheckTask, shutdown: CancellationToken) -> Result<(), CommandError> {
    let settings = subscription(&task.feed, task.frame_bytes_max, &task.timing);
    let (began, deadline) = (Instant::now(), tokio::time::Instant::now() + task.duration);
    let mut ear = Ear::open(settings, &shutdown);
    let mut look = Look::new(task.feed.skill.as_deref(), task.ledger_limits);
    while !look.is_enough() {
        let heard = tokio::select! {
            heard = tokio::time::timeout_at(deadline, ear.said.recv()) => heard,
            () = shutdown.cancelled() => break,
        };
        let Ok(Some((at, said))) = heard else { break };
        look.hear(at.saturating_duration_since(began), said);
    }
    ear.close().await?;
    let identity = &task.feed.identity;
    let (text, problem) = look.report(identity, began.elapsed());
    io::stdout().lock().write_all(text.as_bytes()).map_err(CommandError::Output)?;
    match problem {
        None => Ok(()),
        Some(problem) => Err(CommandError::CheckFailed { identity: identity.clone(), problem }),
    }
}

/// What was seen.
struct Look {
    ledger: Ledger,
    feed: crate::ledger::FeedId,
    connection: Option<crate::ledger::ConnectionId>,
    view: View,
    notices: Vec<Notice>,
    is_filtered: bool,
    opened: Option<Duration>,
    authenticated: Option<bool>,
    ended: Option<DisconnectReason>,
    messages: BTreeMap<&'static str, u64>,
    snapshots: Vec<Duration>,
    listed: usize,
    anomalies_listed: usize,
    rates: Vec<f64>,
    last: Duration,
}

impl Look {
    fn new(skill: Option<&str>, limits: Limits) -> Self {
        let mut ledger = Ledger::new(limits);
        let feed = ledger.add_feed(FeedSpec { identity: "checked".to_owned(), skill: skill.map(ToOwned::to_owned) });
        Self {
            ledger,
            feed,
            connection: None,
            view: View::default(),
            notices: Vec::new(),
            is_filtered: skill.is_some(),
            opened: None,
            authenticated: None,
            ended: None,
            messages: BTreeMap::new(),
            snapshots: Vec::new(),
            listed: 0,
            anomalies_listed: 0,
            rates: Vec::new(),
            last: Duration::ZERO,
        }
    }

    /// Whether more would tell no more: a cadence is known, or the one attempt is over.
    fn is_enough(&self) -> bool {
        self.ended.is_some() || self.snapshots.len() >= SNAPSHOTS_ENOUGH
    }

    fn hear(&mut self, at: Duration, said: Said) {
        self.last = at;
        match said {
            Said::Opened => {
                self.opened = Some(at);
                self.connection = Some(self.ledger.open(self.feed, Moment::at(at)));
            }
            Said::Text(frame) => self.frame(at, &frame),
            Said::Binary(_) => *self.messages.entry("binary frame").or_default() += 1,
            Said::Closed(reason)
            | Said::State(FeedState::Waiting { reason, .. } | FeedState::Refused { reason, .. }) => {
                self.ended.get_or_insert(reason);
            }
            Said::State(_) => {}
        }
    }

    fn frame(&mut self, at: Duration, frame: &str) {
        let Some(connection) = self.connection else { return };
        protocol::read(frame, &protocol::Limits::default(), &mut |message| {
            let message = match message {
                Ok(message) => message,
                Err(rejection) => return self.notices.push(Notice::Rejected(rejection)),
            };
            *self.messages.entry(message.message_type().label()).or_default() += 1;
            match &message {
                Message::Connection(ConnectionMessage::Connected { authenticated }) => {
                    self.authenticated = *authenticated;
                }
                Message::Snapshot(snapshot) => {
                    self.snapshots.push(at);
                    (self.listed, self.anomalies_listed) = (snapshot.listed, snapshot.anomalies_listed);
                    let rates =
                        snapshot.skills.iter().flatten().filter_map(|entry| match entry.completion_rate_percent {
                            Number::Finite(rate) => Some(rate),
                            Number::Missing | Number::Invalid => None,
                        });
                    self.rates = rates.collect();
                }
                _ => {}
            }
            self.ledger.apply(connection, &message, Moment::at(at), &mut self.notices);
        });
    }

    /// What to print, and what is wrong if something is.
    fn report(mut self, identity: &str, took: Duration) -> (String, Option<String>) {
        let mut text = format!("{identity}\n");
        let mut line = |what: &str, words: String| {
            let _ = writeln!(text, "  {what:<14}{words}");
        };
        let Some(opened) = self.opened else {
            let why = self.ended.map_or_else(|| format!("no answer within {took:.1?}"), |reason| reason.to_string());
            line("reachable", format!("no: {why}"));
            return (text, Some(why));
        };
        line("reachable", format!("yes, connected after {opened:.1?}"));
        line(
            "authenticated",
            match self.authenticated {
                Some(true) => "yes, the server accepted the token".to_owned(),
                Some(false) => "not asked for: the server lets everybody in".to_owned(),
                None => "the server does not say".to_owned(),
            },
        );
        let messages: Vec<String> = self.messages.iter().map(|(kind, count)| format!("{count} {kind}")).collect();
        let heard = if messages.is_empty() { "none".to_owned() } else { messages.join(", ") };
        line("messages", format!("{heard} in {:.1?}", self.last.saturating_sub(opened)));
        if let Some(reason) = &self.ended {
            line("connection", format!("ended: {reason}"));
        }

        let gaps: Vec<f64> =
            self.snapshots.windows(2).map(|pair| (pair[1].saturating_sub(pair[0])).as_secs_f64()).collect();
        let problem = if let Some(reason) = &self.ended {
            Some(reason.to_string())
        } else if self.snapshots.is_empty() && !self.is_filtered {
            line("cadence", format!("no snapshot within {took:.1?}; the server sends one a second"));
            Some(format!(
                "no snapshot within {took:.1?}: is this the port of RealTimeMetricsServer, and has it started to broadcast?"
            ))
        } else {
            None
        };
        if let [first, ..] = gaps[..] {
            let (least, most) = gaps.iter().fold((first, first), |(a, b), gap| (a.min(*gap), b.max(*gap)));
            let mean = gaps.iter().sum::<f64>() / gaps.len() as f64;
            line("cadence", format!("a snapshot every {mean:.2} s ({least:.2} to {most:.2})"));
        } else if !self.snapshots.is_empty() {
            line("cadence", "one snapshot alone: listen longer with --seconds".to_owned());
        }

        let end = Moment::at(took + crate::recording::REST);
        self.ledger.tick(end, &mut self.notices);
        let changes = self.ledger.drain(end);
        self.view.apply(changes);
        if !self.snapshots.is_empty() {
            let full = self.listed >= SKILLS_LISTED_MAX;
            let tenth = self.view.feeds().find_map(|feed| feed.tenth_skill_invocations).unwrap_or_default();
            line(
                "skills",
                match full {
                    true => format!(
                        "{} listed, as many as the server lists: further ones can have up to {tenth} invocations each and are not \
                     seen; with --feed.skills-db they are",
                        self.listed
                    ),
                    false => format!("{} listed: every skill that the server has", self.listed),
                },
            );
            line("anomalies", format!("{} listed", self.anomalies_listed));
            line("units", self.units());
        }
        let worth: Vec<String> = self.notices.iter().map(|notice| notice_words(notice).1).collect();
        let (shown, more) = worth.split_at(worth.len().min(10));
        for words in shown {
            line("noticed", words.clone());
        }
        if !more.is_empty() {
            line("noticed", format!("and {} more", more.len()));
        }
        if worth.is_empty() {
            line("noticed", "no reset, no rollback, nothing that could not be applied".to_owned());
        }

        let mut families = String::new();
        encode_families(&mut self.view, self.ledger.active_sessions(end), &mut families);
        text.push_str("\nThe metrics would be (buckets left out):\n");
        for sample in families.lines().filter(|line| !line.starts_with('#') && !line.contains("_bucket{")) {
            let _ = writeln!(text, "  {sample}");
        }
        text.push_str("\nNext: ");
        text.push_str(match &problem {
            None => "start the bridge with the same flags, without the word check, and let Prometheus scrape it.\n",
            Some(_) => "see to what is said above, and check again.\n",
        });
        (text, problem)
    }

    fn units(&self) -> String {
        let inexact = self.view.rules().inexact_rates;
        let look_like_ratios = !self.rates.is_empty() && self.rates.iter().all(|rate| (0.0..=1.0).contains(rate));
        match (self.rates.is_empty(), inexact, look_like_ratios) {
            (true, ..) => "no rates were listed".to_owned(),
            (_, 0, _) => "right: each rate is a percentage with a whole number of completions behind it".to_owned(),
            (_, _, true) => {
                "rates look like ratios of 0 to 1, and are read as percentages: this is no server that the \
                             bridge is made for"
                    .to_owned()
            }
            _ => format!(
                "{inexact} rates with no whole number of completions behind them: of these only the total counts"
            ),
        }
    }
}
