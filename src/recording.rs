//! Recordings: what a feed sent, one JSON line each.
//!
//! `{"at_seconds": 1.045, "frame": "…"}` is a text frame as received; `{"at_seconds": 0.143, "event": "open"}` and
//! `{"at_seconds": 84.003, "event": "close", "code": 1006}` are the connection's beginning and end.

use std::borrow::Cow;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::exposition::View;
use crate::ledger::{FeedSpec, Ledger, Limits, Moment, Notice};
use crate::protocol;

/// One line.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Line<'a> {
    /// Since the recording began.
    pub at_seconds: f64,
    /// A text frame.
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    pub frame: Option<Cow<'a, str>>,
    /// What happened to the connection.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub event: Option<ConnectionEvent>,
    /// The close code, where there was one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<u16>,
}

/// The ends of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ConnectionEvent {
    /// It was established.
    Open,
    /// It ended.
    Close,
}

/// Why something is not a recording.
///
/// ```
/// use session_buddy_bridge::settings::Limits;
/// use session_buddy_bridge::{RecordingError, replay};
///
/// let error = replay(b"not JSON\n", None, Limits::default()).unwrap_err();
/// assert!(matches!(error, RecordingError::Line { number: 1, .. }));
/// assert_eq!(replay(b"", None, Limits::default()), Err(RecordingError::Empty));
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum RecordingError {
    /// A line that is none.
    #[error("line {number} is no line of a recording ({problem}): {text}")]
    Line {
        /// Counted from 1.
        number: usize,
        /// What is wrong with it.
        problem: String,
        /// The beginning of the line.
        text: String,
    },
    /// No line at all.
    #[error("the recording is empty: there is nothing to replay")]
    Empty,
}

impl RecordingError {
    fn line(number: usize, problem: impl Into<String>, text: &str) -> Self {
        Self::Line { number, problem: problem.into(), text: text.chars().take(60).collect() }
    }
}

/// What a recording leads to.
#[derive(Debug)]
pub struct Replay {
    /// The families at its end, five seconds after the last line: nothing waits for anything any more.
    pub view: View,
    /// `active_sessions_total` at its end.
    pub active_sessions: u64,
    /// What somebody would have heard of, in order.
    pub notices: Vec<Notice>,
}

/// How long after its last line a recording is left alone: the longest that anything waits.
pub(crate) const REST: Duration = Duration::from_secs(5);

/// Reads one line; `number` counts from 1 and serves the error.
///
/// # Errors
/// Anything but JSON of the form above.
pub fn parse_line(text: &str, number: usize) -> Result<Line<'_>, RecordingError> {
    let error = |problem: &str| RecordingError::line(number, problem, text);
    let line: Line<'_> = serde_json::from_str(text).map_err(|cause| error(&said_of_one_line(&cause)))?;
    if !(0.0..=1e9).contains(&line.at_seconds) {
        return Err(error("`at_seconds` should be 0 to 1e9"));
    }
    match (&line.frame, line.event) {
        (Some(_), None) | (None, Some(_)) => Ok(line),
        _ => Err(error("there should be either `frame` or `event`")),
    }
}

/// What serde_json says, without the number that it gives to the only line that it was shown.
fn said_of_one_line(cause: &serde_json::Error) -> String {
    let (said, column) = (cause.to_string(), cause.column());
    match said.strip_suffix(&format!(" at line {} column {column}", cause.line())) {
        Some(said) => format!("{said} at column {column}"),
        None => said,
    }
}

/// The text of a recording.
///
/// # Errors
/// The first line that is not UTF-8.
pub fn text(bytes: &[u8]) -> Result<&str, RecordingError> {
    std::str::from_utf8(bytes).map_err(|error| {
        let (before, rest) = bytes.split_at(error.valid_up_to());
        let number = before.iter().filter(|byte| **byte == b'\n').count() + 1;
        let begins = before.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
        let ends = before.len() + rest.iter().position(|byte| *byte == b'\n').unwrap_or(rest.len());
        RecordingError::line(number, "it is not UTF-8", &String::from_utf8_lossy(&bytes[begins..ends]))
    })
}

/// Every line of a recording.
///
/// # Errors
/// The first line that is none, or is earlier than the one before it; no line at all. Nothing comes behind an error.
pub fn lines(text: &str) -> impl Iterator<Item = Result<Line<'_>, RecordingError>> {
    let mut previous_seconds = None;
    let mut said = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
    let mut has_failed = false;
    std::iter::from_fn(move || {
        if has_failed {
            return None;
        }
        let line = match said.next() {
            None if previous_seconds.is_some() => return None,
            None => Err(RecordingError::Empty),
            Some((index, said)) => parse_line(said, index + 1).and_then(|line| {
                match previous_seconds.replace(line.at_seconds).filter(|&previous| line.at_seconds < previous) {
                    None => Ok(line),
                    Some(previous) => {
                        let problem = format!("`at_seconds` should not fall below the {previous} of the line before");
                        Err(RecordingError::line(index + 1, problem, said))
                    }
                }
            }),
        };
        has_failed = line.is_err();
        Some(line)
    })
}

/// Folds a recording into series as the bridge would have, with the recording's own time. The same text gives the same
/// result.
///
/// # Errors
/// The first line that is none, or is earlier than the one before it; no line at all.
pub fn replay(text: &str, identity: &str, skill: Option<&str>, limits: Limits) -> Result<Replay, RecordingError> {
    let mut ledger = Ledger::new(limits);
    let feed = ledger.add_feed(FeedSpec { identity: identity.to_owned(), skill: skill.map(ToOwned::to_owned) });
    let mut notices = Vec::new();
    let mut connection = None;
    let mut elapsed = Duration::ZERO;
    for line in lines(text) {
        let line = line?;
        elapsed = Duration::from_secs_f64(line.at_seconds);
        let now = Moment::at(elapsed);
        match (line.event, line.frame) {
            (Some(ConnectionEvent::Open), _) => connection = Some(ledger.open(feed, now)),
            (Some(ConnectionEvent::Close), _) => {
                if let Some(connection) = connection.take() {
                    ledger.close(connection, now);
                }
            }
            (None, Some(frame)) => {
                let connection = *connection.get_or_insert_with(|| ledger.open(feed, now));
                protocol::read(&frame, &protocol::Limits::default(), &mut |message| match message {
                    Ok(message) => ledger.apply(connection, &message, now, &mut notices),
                    Err(rejection) => notices.push(Notice::Rejected(rejection)),
                });
            }
            (None, None) => {}
        }
    }
    let end = Moment::at(elapsed + REST);
    ledger.tick(end, &mut notices);
    let mut view = View::default();
    view.apply(ledger.drain(end));
    Ok(Replay { view, active_sessions: ledger.active_sessions(end), notices })
}
