//! Recordings: what a feed sent, one JSON line each.
//!
//! `{"at_seconds": 1.045, "frame": "…"}` is a text frame as received; `{"at_seconds": 0.143, "event": "open"}` and
//! `{"at_seconds": 84.003, "event": "close", "code": 1006}` are the connection's beginning and end.

use std::borrow::Cow;
use std::str::Utf8Error;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::exposition::View;
use crate::ledger::{FeedSpec, Ledger, Limits, Notice, Now};
use crate::protocol;

/// One line: either a frame or an event.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Line<'a> {
    /// Time since the recording began.
    pub at_seconds: f64,
    /// The text frame that was received.
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    pub frame: Option<Cow<'a, str>>,
    /// What happened to the connection.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub event: Option<ConnectionEvent>,
    /// The close code, if the connection ended with one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<u16>,
}

/// What happened to a connection.
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
/// use session_buddy_bridge::{LineError, RecordingError, replay};
///
/// let error = replay(b"not JSON\n", None, Limits::default()).unwrap_err();
/// assert!(matches!(error, RecordingError::Line { number: 1, source: LineError::Json { .. }, .. }));
/// let error = replay(b"", None, Limits::default()).unwrap_err();
/// assert!(matches!(error, RecordingError::Empty));
/// ```
#[derive(Debug, Error)]
pub enum RecordingError {
    /// A line is invalid.
    #[error("line {number} is not a line of a recording ({source}): {text}")]
    Line {
        /// The number of the line, counted from 1.
        number: usize,
        /// The first 60 characters of the line.
        text: String,
        /// What is wrong with it.
        source: LineError,
    },
    /// There is no line.
    #[error("the recording is empty: there is nothing to replay")]
    Empty,
}

/// Why a line is not one of a recording.
///
/// ```
/// use session_buddy_bridge::LineError;
///
/// assert_eq!(LineError::FrameOrEvent.to_string(), "there should be either `frame` or `event`");
/// ```
#[derive(Debug, Error)]
pub enum LineError {
    /// It is not UTF-8.
    #[error("it is not UTF-8")]
    NotUtf8(#[source] Utf8Error),
    /// It is not JSON, or has an unknown field or a value of the wrong kind.
    #[error("{}", without_line_number(source))]
    Json {
        /// What is wrong, and in which column.
        source: serde_json::Error,
    },
    /// Its time is out of range.
    #[error("`at_seconds` should be 0 to 1e9, not {at_seconds}")]
    SecondsOutOfRange {
        /// The time.
        at_seconds: f64,
    },
    /// Its time is earlier than that of the line before.
    #[error("`at_seconds` should not be less than the {previous_seconds} of the line before")]
    SecondsDecrease {
        /// The time of the line before.
        previous_seconds: f64,
    },
    /// It has both a frame and an event, or neither.
    #[error("there should be either `frame` or `event`")]
    FrameOrEvent,
}

impl LineError {
    fn at(self, number: usize, text: &str) -> RecordingError {
        RecordingError::Line { number, text: text.chars().take(60).collect(), source: self }
    }
}

/// What a recording leads to.
#[derive(Debug)]
pub struct Replay {
    /// The families [`REST`] after the last line, when nothing is pending any more.
    pub view: View,
    /// `active_sessions_total` at that time.
    pub active_sessions: u64,
    /// Every notice, in order.
    pub notices: Vec<Notice>,
}

/// How long after its last line a recording ends: the longest that an event or an increase is pending.
pub(crate) const REST: Duration = Duration::from_secs(5);

/// Parses one line.
fn parse_line(text: &str) -> Result<Line<'_>, LineError> {
    let line: Line<'_> = serde_json::from_str(text).map_err(|source| LineError::Json { source })?;
    if !(0.0..=1e9).contains(&line.at_seconds) {
        return Err(LineError::SecondsOutOfRange { at_seconds: line.at_seconds });
    }
    match (&line.frame, line.event) {
        (Some(_), None) | (None, Some(_)) => Ok(line),
        _ => Err(LineError::FrameOrEvent),
    }
}

/// Returns the message of `error` without the number of its line, which is always 1: one line is parsed at a time.
fn without_line_number(error: &serde_json::Error) -> String {
    let (message, column) = (error.to_string(), error.column());
    match message.strip_suffix(&format!(" at line {} column {column}", error.line())) {
        Some(message) => format!("{message} at column {column}"),
        None => message,
    }
}

/// Returns the text of a recording.
///
/// # Errors
/// The first line that is not UTF-8.
pub fn text(bytes: &[u8]) -> Result<&str, RecordingError> {
    std::str::from_utf8(bytes).map_err(|error| {
        let (before, rest) = bytes.split_at(error.valid_up_to());
        let number = before.iter().filter(|byte| **byte == b'\n').count() + 1;
        let start = before.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
        let end = before.len() + rest.iter().position(|byte| *byte == b'\n').unwrap_or(rest.len());
        LineError::NotUtf8(error).at(number, &String::from_utf8_lossy(&bytes[start..end]))
    })
}

/// Returns every line of a recording. Empty lines are skipped. The iterator ends after an error.
///
/// # Errors
/// The first line that is invalid, or earlier than the one before it; a recording without lines.
pub fn lines(text: &str) -> impl Iterator<Item = Result<Line<'_>, RecordingError>> {
    let mut previous_seconds = None;
    let mut texts = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
    let mut has_failed = false;
    std::iter::from_fn(move || {
        if has_failed {
            return None;
        }
        let line = match texts.next() {
            None if previous_seconds.is_some() => return None,
            None => Err(RecordingError::Empty),
            Some((index, text)) => parse_line(text)
                .and_then(|line| match previous_seconds.replace(line.at_seconds) {
                    Some(previous_seconds) if line.at_seconds < previous_seconds => {
                        Err(LineError::SecondsDecrease { previous_seconds })
                    }
                    _ => Ok(line),
                })
                .map_err(|error| error.at(index + 1, text)),
        };
        has_failed = line.is_err();
        Some(line)
    })
}

/// Counts a recording as a bridge would have counted the feed, with the recording's own time. The same text gives the same
/// result.
///
/// # Errors
/// See [`lines`].
pub fn replay(text: &str, identity: &str, skill: Option<&str>, limits: Limits) -> Result<Replay, RecordingError> {
    let mut ledger = Ledger::new(limits);
    let feed =
        ledger.add_feed(FeedSpec { identity: identity.to_owned(), address: None, skill: skill.map(ToOwned::to_owned) });
    let mut notices = Vec::new();
    let mut connection = None;
    let mut elapsed = Duration::ZERO;
    for line in lines(text) {
        let line = line?;
        elapsed = Duration::from_secs_f64(line.at_seconds);
        let now = Now::at(elapsed);
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
    let end = Now::at(elapsed + REST);
    ledger.tick(end, &mut notices);
    let mut view = View::default();
    view.apply(ledger.drain(end));
    Ok(Replay { view, active_sessions: ledger.active_sessions(end), notices })
}
