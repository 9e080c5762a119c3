//! How an attempt to hear a feed ends, and what is done about it.

use super::credentials::{Credential, CredentialError};
use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

/// The longest text of a peer that is repeated, in characters.
const PEER_TEXT_CHARS_MAX: usize = 200;

/// Why a connection ended, or why there was none. [`std::fmt::Display`] says it to people, with what to check; neither
/// it nor `Debug` holds a token, userinfo or a query.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DisconnectReason {
    /// The peer sent a close frame.
    #[error("{}", closed_text(*code, reason))]
    Closed {
        /// 1005 for a close frame without a code; 1002 for a code that must not be sent.
        code: u16,
        /// The peer's words, escaped, the token blotted out.
        reason: String,
    },
    /// The TCP connection broke, or ended without a close frame.
    #[error("the connection was lost without a close frame: {what}")]
    Lost {
        /// What the operating system said.
        what: String,
    },
    /// The handshake was answered with another HTTP status than 101.
    #[error("{}", http_text(*status, location.as_deref()))]
    Http {
        /// 100 to 999.
        status: u16,
        /// Where a redirect points, without userinfo, query and fragment. It is not followed.
        location: Option<String>,
        /// How long the server asks to be left alone.
        retry_after: Option<Duration>,
    },
    /// The handshake was answered with something that is no WebSocket handshake, or not answered to its end.
    #[error("no WebSocket handshake: {what}; check that the URL's port and path are those of the feed")]
    Handshake {
        /// What was wrong with it.
        what: String,
    },
    /// TLS was not established.
    #[error("TLS failed: {what}")]
    Tls {
        /// What was wrong with it, and what to check.
        what: String,
    },
    /// The host name has no address.
    #[error("cannot resolve {host}: {what}; check the URL's host name")]
    Dns {
        /// The name.
        host: String,
        /// What the resolver said.
        what: String,
    },
    /// No address of the host could be connected to.
    #[error("cannot connect to {address}: {what}; check that the server runs and listens there")]
    Connect {
        /// The last one tried.
        address: SocketAddr,
        /// Whether that one refused the connection, so that the host is up and nothing listens.
        refused: bool,
        /// What the operating system said.
        what: String,
    },
    /// Something took longer than it may.
    #[error("{step} took longer than {limit:?}")]
    Timeout {
        /// What was waited for.
        step: Step,
        /// How long.
        limit: Duration,
    },
    /// A token, a header or a certificate could not be had, so nothing was connected to.
    #[error(transparent)]
    Credential(#[from] CredentialError),
    /// A frame or a fragmented message was over the limit.
    #[error("the peer sent a message of more than {limit_bytes} bytes")]
    Oversized {
        /// The limit.
        limit_bytes: usize,
    },
    /// A text frame was not UTF-8.
    #[error("the peer sent text that is not UTF-8")]
    InvalidUtf8,
    /// The peer broke the WebSocket protocol.
    #[error("the peer broke the WebSocket protocol: {what}")]
    Protocol {
        /// How.
        what: String,
    },
    /// Not a byte came, in spite of a ping.
    #[error("not a byte for {after:?}, in spite of a ping")]
    Dead {
        /// Time since the last byte.
        after: Duration,
    },
    /// The feed has sent snapshots before, and now sends none.
    #[error("no snapshot for {after:?}")]
    Silent {
        /// How long one was waited for.
        after: Duration,
    },
    /// The feed sends the same snapshot again and again.
    #[error("the same snapshot again and again for {after:?}: the server's clock or its loop stands still")]
    Frozen {
        /// How long another one was waited for.
        after: Duration,
    },
    /// This program shuts down.
    #[error("shutting down")]
    Shutdown,
}

/// What can take too long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Resolving the host name.
    Resolve,
    /// Connecting to the last address tried.
    Connect,
    /// TLS and the WebSocket handshake.
    Handshake,
    /// Sending a frame: the peer does not read.
    Send,
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Step::Resolve => "resolving the host name",
            Step::Connect => "connecting",
            Step::Handshake => "the handshake",
            Step::Send => "sending a frame",
        })
    }
}

/// What to do about an [`DisconnectReason`]. The table is in the [module's documentation](crate::feed).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RetryPolicy {
    /// Try again after the ordinary backoff.
    Backoff,
    /// Try again when the server asked, and then after the ordinary backoff.
    BackoffAfter(Duration),
    /// Nothing will change until somebody changes something: try again slowly.
    Refused,
}

/// The reaction to `ending`: the one place that decides it.
pub fn retry_policy(reason: &DisconnectReason) -> RetryPolicy {
    match reason {
        DisconnectReason::Closed { code: 1008 | 3000 | 3003 | 4001, .. } => RetryPolicy::Refused,
        DisconnectReason::Http { status: 429 | 503, retry_after: Some(wait), .. } => RetryPolicy::BackoffAfter(*wait),
        DisconnectReason::Http { status: 408 | 425 | 429, .. } => RetryPolicy::Backoff,
        DisconnectReason::Http { status: 200..=499, .. } => RetryPolicy::Refused,
        DisconnectReason::Http { .. }
        | DisconnectReason::Closed { .. }
        | DisconnectReason::Lost { .. }
        | DisconnectReason::Handshake { .. }
        | DisconnectReason::Tls { .. }
        | DisconnectReason::Dns { .. }
        | DisconnectReason::Connect { .. }
        | DisconnectReason::Timeout { .. }
        | DisconnectReason::Credential(_)
        | DisconnectReason::Oversized { .. }
        | DisconnectReason::InvalidUtf8
        | DisconnectReason::Protocol { .. }
        | DisconnectReason::Dead { .. }
        | DisconnectReason::Silent { .. }
        | DisconnectReason::Frozen { .. }
        | DisconnectReason::Shutdown => RetryPolicy::Backoff,
    }
}

impl DisconnectReason {
    /// The bounded name that `session_buddy_bridge_feed_disconnects_total` is labelled with, one of [`DISCONNECT_CODES`].
    pub fn code(&self) -> &'static str {
        match self {
            DisconnectReason::Closed { code, .. } => close_label(*code),
            DisconnectReason::Lost { .. } => "1006",
            DisconnectReason::Http { status, .. } => http_label(*status),
            DisconnectReason::Handshake { .. } => "handshake",
            DisconnectReason::Tls { .. } => "tls",
            DisconnectReason::Dns { .. } => "dns",
            DisconnectReason::Connect { refused: true, .. } => "refused",
            DisconnectReason::Connect { .. } => "unreachable",
            DisconnectReason::Timeout { .. } => "timeout",
            DisconnectReason::Credential(CredentialError { credential, .. }) => match credential {
                Credential::Token | Credential::JwtSecret => "token",
                Credential::Headers => "headers",
                Credential::Ca | Credential::Certificate | Credential::Key => "tls",
            },
            DisconnectReason::Oversized { .. } => "oversized",
            DisconnectReason::InvalidUtf8 => "invalid_utf8",
            DisconnectReason::Protocol { .. } => "protocol",
            DisconnectReason::Dead { .. } => "dead",
            DisconnectReason::Silent { .. } => "silent",
            DisconnectReason::Frozen { .. } => "frozen",
            DisconnectReason::Shutdown => "shutdown",
        }
    }
}

/// Every value of [`DisconnectReason::code`].
pub const DISCONNECT_CODES: [&str; 55] = [
    "1000",
    "1001",
    "1002",
    "1003",
    "1005",
    "1006",
    "1007",
    "1008",
    "1009",
    "1010",
    "1011",
    "1012",
    "1013",
    "1xxx",
    "3000",
    "3003",
    "3008",
    "3xxx",
    "4001",
    "4xxx",
    "dead",
    "dns",
    "frozen",
    "handshake",
    "headers",
    "http_1xx",
    "http_200",
    "http_2xx",
    "http_301",
    "http_302",
    "http_307",
    "http_308",
    "http_3xx",
    "http_400",
    "http_401",
    "http_403",
    "http_404",
    "http_407",
    "http_429",
    "http_4xx",
    "http_500",
    "http_502",
    "http_503",
    "http_504",
    "http_5xx",
    "invalid_utf8",
    "oversized",
    "protocol",
    "refused",
    "shutdown",
    "silent",
    "timeout",
    "tls",
    "token",
    "unreachable",
];

fn close_label(code: u16) -> &'static str {
    match code {
        1000 => "1000",
        1001 => "1001",
        1002 => "1002",
        1003 => "1003",
        1005 => "1005",
        1006 => "1006",
        1007 => "1007",
        1008 => "1008",
        1009 => "1009",
        1010 => "1010",
        1011 => "1011",
        1012 => "1012",
        1013 => "1013",
        3000 => "3000",
        3003 => "3003",
        3008 => "3008",
        4001 => "4001",
        other => match other / 1000 {
            3 => "3xxx",
            4 => "4xxx",
            _ => "1xxx",
        },
    }
}

fn http_label(status: u16) -> &'static str {
    match status {
        200 => "http_200",
        301 => "http_301",
        302 => "http_302",
        307 => "http_307",
        308 => "http_308",
        400 => "http_400",
        401 => "http_401",
        403 => "http_403",
        404 => "http_404",
        407 => "http_407",
        429 => "http_429",
        500 => "http_500",
        502 => "http_502",
        503 => "http_503",
        504 => "http_504",
        other => match other / 100 {
            1 => "http_1xx",
            2 => "http_2xx",
            3 => "http_3xx",
            4 => "http_4xx",
            _ => "http_5xx",
        },
    }
}

fn closed_text(code: u16, reason: &str) -> String {
    let advice = match code {
        4001 | 3000 => {
            "; check the token: missing, expired, or signed with another secret than the server's; and the clocks"
        }
        3003 | 1008 => "; check that the token grants read permission and that the server admits this client",
        1009 => "; check that the token and the skill are what they should be",
        _ => "",
    };
    let said = if reason.is_empty() { String::new() } else { format!(" \"{reason}\"") };
    format!("the server closed the connection with code {code}{said}{advice}")
}

fn http_text(status: u16, location: Option<&str>) -> String {
    let advice = match status {
        200..300 => "that is a web server, not a feed; check the URL's port and path",
        300..400 => match location {
            Some(location) => {
                return format!(
                    "redirected (HTTP {status}) to {location}, which is not followed; if that is the feed, configure it as the URL"
                );
            }
            None => "a redirect is not followed; configure the feed's own URL",
        },
        401 | 407 => "check the token, and the credentials that a proxy in front of the server wants",
        403 => "check that the server, or a proxy in front of it, admits this client",
        404 => "check the URL's path",
        429 => "too many connections; check for other clients of the same feed",
        400..500 => "check that the URL is that of the feed",
        _ => "check the server, or the proxy in front of it",
    };
    format!("the handshake was answered with HTTP {status}; {advice}")
}

/// A peer's text, safe to show: one line, cut short.
pub(super) fn printable(text: &str) -> String {
    text.chars().take(PEER_TEXT_CHARS_MAX).flat_map(char::escape_debug).collect()
}

#[cfg(test)]
mod tests {
    use super::super::credentials::CredentialProblem;
    use super::*;

    fn closed(code: u16) -> DisconnectReason {
        DisconnectReason::Closed { code, reason: String::new() }
    }

    fn http(status: u16, retry_after: Option<Duration>) -> DisconnectReason {
        DisconnectReason::Http { status, location: None, retry_after }
    }

    fn missing(credential: Credential) -> DisconnectReason {
        CredentialError { credential, file: None, problem: CredentialProblem::Empty(credential) }.into()
    }

    /// One of each that is not a close code or an HTTP status.
    fn others() -> Vec<DisconnectReason> {
        let what = String::new();
        let address = SocketAddr::from(([127, 0, 0, 1], 1));
        let after = Duration::ZERO;
        vec![
            DisconnectReason::Lost { what: what.clone() },
            DisconnectReason::Handshake { what: what.clone() },
            DisconnectReason::Tls { what: what.clone() },
            DisconnectReason::Dns { host: what.clone(), what: what.clone() },
            DisconnectReason::Connect { address, refused: true, what: what.clone() },
            DisconnectReason::Connect { address, refused: false, what: what.clone() },
            DisconnectReason::Timeout { step: Step::Send, limit: after },
            missing(Credential::Token),
            missing(Credential::Headers),
            missing(Credential::Key),
            DisconnectReason::Oversized { limit_bytes: 1 },
            DisconnectReason::InvalidUtf8,
            DisconnectReason::Protocol { what },
            DisconnectReason::Dead { after },
            DisconnectReason::Silent { after },
            DisconnectReason::Frozen { after },
            DisconnectReason::Shutdown,
        ]
    }

    #[test]
    fn every_ending_has_a_listed_code_and_every_listed_code_an_ending() {
        let mut seen = std::collections::BTreeSet::new();
        seen.extend((0..=u16::MAX).map(|code| closed(code).code()));
        seen.extend((100..1000).map(|status| http(status, None).code()));
        seen.extend(others().iter().map(DisconnectReason::code));
        assert_eq!(Vec::from_iter(seen), DISCONNECT_CODES);
    }

    #[test]
    fn only_what_somebody_must_change_is_retried_slowly() {
        let refused = |reason: &DisconnectReason| retry_policy(reason) == RetryPolicy::Refused;
        let codes = Vec::from_iter((0..=u16::MAX).filter(|code| refused(&closed(*code))));
        assert_eq!(codes, [1008, 3000, 3003, 4001]);

        for status in 100..1000 {
            let expected = (200..500).contains(&status) && ![408, 425, 429].contains(&status);
            assert_eq!(refused(&http(status, None)), expected, "{status}");
        }
        assert!(others().iter().all(|reason| retry_policy(reason) == RetryPolicy::Backoff));
    }

    #[test]
    fn retry_after_is_heard_where_it_means_something() {
        let wait = Duration::from_secs(7);
        assert_eq!(retry_policy(&http(429, Some(wait))), RetryPolicy::BackoffAfter(wait));
        assert_eq!(retry_policy(&http(503, Some(wait))), RetryPolicy::BackoffAfter(wait));
        assert_eq!(retry_policy(&http(500, Some(wait))), RetryPolicy::Backoff);
        assert_eq!(retry_policy(&http(404, Some(wait))), RetryPolicy::Refused);
    }

    #[test]
    fn a_refusal_says_what_to_check() {
        assert!(closed(4001).to_string().contains("check the token"));
        assert!(http(401, None).to_string().contains("check the token"));
        assert!(http(200, None).to_string().contains("not a feed"));
        let redirect = DisconnectReason::Http { status: 302, location: Some("ws://b/".to_owned()), retry_after: None };
        assert!(redirect.to_string().contains("to ws://b/, which is not followed"));
    }

    #[test]
    fn a_peers_text_stays_on_one_short_line() {
        assert_eq!(printable("a\nb\u{1b}[31m"), "a\\nb\\u{1b}[31m");
        assert_eq!(printable(&"x".repeat(10_000)).len(), PEER_TEXT_CHARS_MAX);
    }
}
