//! Recent rejections, for the live page.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use super::logged;
use crate::clock::wall_seconds;
use crate::protocol::Rejection;
use crate::sync::lock;

/// Rejections that are remembered.
pub const RECENT_REJECTIONS_MAX: usize = 50;

/// Characters of a rejection that are shown.
const SHOWN_CHARS_MAX: usize = 120;

/// Shorter runs are words; tokens and keys are longer.
const SECRET_CHARS_MIN: usize = 32;

/// A recent rejection.
#[derive(Debug, Clone, PartialEq)]
pub struct SeenRejection {
    /// The feed's identity.
    pub feed: Arc<str>,
    /// The label of the reason.
    pub reason: &'static str,
    /// What was wrong, on one line, cut short, with possible secrets redacted.
    pub detail: String,
    /// Number of identical rejections in a row.
    pub times: u64,
    /// Unix timestamp of the last one, in seconds.
    pub last_seen_seconds: f64,
}

/// Rejections can come a million times a second and are read every other second: so they are recorded as they are, reusing the
/// memory of forgotten ones, and formatted when they are read.
#[derive(Debug, Default)]
pub(super) struct RecentRejections(Mutex<VecDeque<Noted>>);

#[derive(Debug, Clone)]
struct Noted {
    feed: Arc<str>,
    rejection: Rejection,
    times: u64,
    last_seen_seconds: f64,
}

impl RecentRejections {
    pub fn record(&self, feed: &Arc<str>, rejection: &Rejection) {
        let last_seen_seconds = wall_seconds();
        let mut noted = lock(&self.0);
        if let Some(last) = noted.back_mut()
            && (&last.feed, &last.rejection) == (feed, rejection)
        {
            last.times += 1;
            last.last_seen_seconds = last_seen_seconds;
            return;
        }
        let forgotten = if noted.len() == RECENT_REJECTIONS_MAX { noted.pop_front() } else { None };
        let rejection = match forgotten {
            Some(Noted { rejection: mut place, .. }) => {
                place.reason = rejection.reason;
                place.detail.clone_from(&rejection.detail);
                place
            }
            None => rejection.clone(),
        };
        noted.push_back(Noted { feed: Arc::clone(feed), rejection, times: 1, last_seen_seconds });
    }

    pub fn latest_first(&self) -> Vec<SeenRejection> {
        let noted: Vec<Noted> = lock(&self.0).iter().rev().cloned().collect();
        noted.iter().map(SeenRejection::from).collect()
    }
}

impl From<&Noted> for SeenRejection {
    fn from(noted: &Noted) -> Self {
        Self {
            feed: Arc::clone(&noted.feed),
            reason: noted.rejection.reason.label(),
            detail: shown(&noted.rejection.detail),
            times: noted.times,
            last_seen_seconds: noted.last_seen_seconds,
        }
    }
}

/// Returns `text` on one line, cut short. A server may quote a token that it was sent, and more people read the page than the
/// log, so that everything with the length and the characters of a token is redacted.
fn shown(text: &str) -> String {
    let mut out = String::new();
    let is_of_token = |character: char| character.is_ascii_alphanumeric() || "-_.+/=~".contains(character);
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let run = rest.find(|character| is_of_token(character) != is_of_token(first)).unwrap_or(rest.len());
        let (part, after) = rest.split_at(run);
        let has_digit_and_letter =
            part.contains(|c: char| c.is_ascii_digit()) && part.contains(|c: char| c.is_ascii_alphabetic());
        if is_of_token(first) && has_digit_and_letter && part.len() >= SECRET_CHARS_MIN {
            out.push_str("[hidden]");
        } else {
            out.push_str(part);
        }
        rest = after;
    }
    let out = logged(&out);
    match out.char_indices().nth(SHOWN_CHARS_MAX) {
        Some((cut, _)) => format!("{}…", &out[..cut]),
        None => out,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::RejectionReason;

    #[test]
    fn what_could_be_a_token_is_left_out() {
        let token = "eyJhbGciOiJIUzI1NiJ9.eyJ1c2VyX2lkIjoiYSJ9.dBjftJeZ4CVP-mB92K27uhbUJU1p1r";
        assert_eq!(shown(&format!("`token` \"{token}\" is no number")), "`token` \"[hidden]\" is no number");
        assert_eq!(
            shown("a-skill-with-a-name-of-words-that-go-on-and-on\n"),
            "a-skill-with-a-name-of-words-that-go-on-and-on\\n"
        );
        assert_eq!(shown(&"x y ".repeat(100)).chars().count(), SHOWN_CHARS_MAX + 1);
    }

    #[test]
    fn the_latest_are_remembered_and_a_row_of_one_kind_is_one() {
        let (recent, feed) = (RecentRejections::default(), Arc::from("f"));
        for number in 0..60 {
            let rejection = Rejection::new(RejectionReason::InvalidNumber, format!("entry {number}"));
            recent.record(&feed, &rejection);
            recent.record(&feed, &rejection);
        }
        let seen = recent.latest_first();
        assert_eq!(seen.len(), RECENT_REJECTIONS_MAX);
        assert_eq!((seen[0].detail.as_str(), seen[0].times), ("entry 59", 2));
        assert_eq!(seen[49].detail, "entry 10");
    }
}
