//! Why an attempt to connect or a connection ends, and when it is retried.

use super::credentials::{Credential, CredentialError, TokenOrigin};
use super::handshake::HandshakeProblem;
use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

/// Characters of a peer's text that are quoted.
const PEER_TEXT_CHARS_MAX: usize = 200;

/// Why a connection ended, or was not established. `Display` explains it, with what to check; neither it nor `Debug` contains
/// a token, user info or a query.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum DisconnectReason {
    /// The peer sent a close frame.
    #[error("{}", closed_text(*code, reason, *token))]
    Closed {
        /// 1005 for a close frame without a code; 1002 for a code that must not be sent.
        code: u16,
        /// The peer's reason, escaped, with secrets redacted.
        reason: String,
        /// The token that the peer may have refused.
        token: TokenOrigin,
    },
    /// The TCP connection broke, or ended without a close frame.
    #[error("the connection was lost without a close frame: {what}")]
    Lost {
        /// The system's error.
        what: String,
    },
    /// The handshake was answered with a final HTTP status other than 101.
    #[error("{}", http_text(*address, *status, location.as_deref()))]
    Http {
        /// Who answered.
        address: SocketAddr,
        /// 200 to 999.
        status: u16,
        /// Target of a redirect, without user info, query and fragment. It is not followed.
        location: Option<String>,
        /// The server's `Retry-After`.
        retry_after: Option<Duration>,
    },
    /// The answer is not a WebSocket handshake, or is incomplete.
    #[error(
        "no WebSocket handshake with {address}: {problem}; check that the URL's host, port and path are those of the feed{}",
        port_hint(*address)
    )]
    Handshake {
        /// Who answered.
        address: SocketAddr,
        /// What was wrong.
        #[source]
        problem: HandshakeProblem,
    },
    /// No server can be trusted; no connection was attempted.
    #[error("TLS failed: {what}")]
    NoTrustedRoots {
        /// What is missing.
        what: String,
    },
    /// The TLS handshake failed.
    #[error("TLS with {address} failed: {what}{}", port_hint(*address))]
    Tls {
        /// Who answered.
        address: SocketAddr,
        /// What was wrong with it, and what to check.
        what: String,
    },
    /// The host name has no address.
    #[error("cannot resolve {host}: {what}; check the URL's host name")]
    Dns {
        /// The host name.
        host: String,
        /// The resolver's error.
        what: String,
    },
    /// No address of the host accepted a connection.
    #[error("cannot connect to {address}: {what}; check that the server runs and listens there{}", port_hint(*address))]
    Connect {
        /// The last address tried.
        address: SocketAddr,
        /// Whether the connection was refused: the host is up and nothing listens.
        refused: bool,
        /// The system's error.
        what: String,
    },
    /// A step timed out.
    #[error("{step} took longer than {limit:?}")]
    Timeout {
        /// The step that timed out.
        step: Step,
        /// The timeout of the step.
        limit: Duration,
    },
    /// A token, a header or a certificate cannot be used; no connection was attempted.
    #[error(transparent)]
    Credential(#[from] CredentialError),
    /// A frame or a fragmented message was too long.
    #[error("the peer sent a message of more than {limit_bytes} bytes")]
    Oversized {
        /// The limit, in bytes.
        limit_bytes: usize,
    },
    /// A text frame was not UTF-8.
    #[error("the peer sent text that is not UTF-8")]
    InvalidUtf8,
    /// The peer violated the WebSocket protocol.
    #[error("the peer broke the WebSocket protocol: {what}")]
    Protocol {
        /// How it did.
        what: String,
    },
    /// No byte was received, although a ping was sent.
    #[error("no data for {after:?}, and no answer to a ping")]
    Dead {
        /// Time since the last byte.
        after: Duration,
    },
    /// The feed sent snapshots before and stopped.
    #[error("no snapshot for {after:?}")]
    Silent {
        /// Time without a snapshot.
        after: Duration,
    },
    /// The feed keeps sending the same snapshot.
    #[error("the server repeated the same snapshot for {after:?}: its clock or its event loop is blocked")]
    Frozen {
        /// Time without a fresh snapshot.
        after: Duration,
    },
    /// This program is shutting down.
    #[error("shutting down")]
    Shutdown,
}

/// A step that can time out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Resolving the host name.
    Resolve,
    /// Connecting to this address.
    Connect(SocketAddr),
    /// TLS and the WebSocket handshake with this address.
    Handshake(SocketAddr),
    /// Sending a frame: the peer does not read.
    Send,
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Step::Resolve => f.write_str("resolving the host name"),
            Step::Connect(address) => write!(f, "connecting to {address}"),
            Step::Handshake(address) => write!(f, "the handshake with {address}"),
            Step::Send => f.write_str("sending a frame"),
        }
    }
}

/// When to reconnect after a [`DisconnectReason`]. The table is in the module's documentation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RetryPolicy {
    /// Retry after the ordinary backoff.
    Backoff,
    /// Retry after the time that the server asked for, and then the ordinary backoff.
    BackoffAfter(Duration),
    /// Retry slowly: the next attempt will fail too unless somebody changes something.
    Refused,
}

/// Returns the retry policy of `reason`. The one place that decides it.
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
        | DisconnectReason::NoTrustedRoots { .. }
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
    /// Returns the label `code` of `session_buddy_bridge_feed_disconnects_total`, one of [`DISCONNECT_CODES`].
    pub fn code(&self) -> &'static str {
        match self {
            DisconnectReason::Closed { code, .. } => close_label(*code),
            DisconnectReason::Lost { .. } => "1006",
            DisconnectReason::Http { status, .. } => http_label(*status),
            DisconnectReason::Handshake { .. } => "handshake",
            DisconnectReason::NoTrustedRoots { .. } | DisconnectReason::Tls { .. } => "tls",
            DisconnectReason::Dns { .. } => "dns",
            DisconnectReason::Connect { refused: true, .. } => "refused",
            DisconnectReason::Connect { .. } => "unreachable",
            DisconnectReason::Timeout { .. } => "timeout",
            DisconnectReason::Credential(CredentialError { credential, .. }) => match credential {
                Credential::Token | Credential::JwtSecret => "token",
                Credential::Headers | Credential::BasicAuth => "headers",
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

/// How far a failed attempt to connect came: what answered says more than what did not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Progress {
    /// Nothing accepted a connection.
    Unconnected,
    /// Something accepted it and said nothing.
    Connected,
    /// Something answered that is not HTTP, or not to be trusted.
    Answered,
    /// An HTTP server answered.
    Http,
}

impl DisconnectReason {
    pub(super) fn progress(&self) -> Progress {
        match self {
            DisconnectReason::Http { .. } => Progress::Http,
            DisconnectReason::Handshake { .. } | DisconnectReason::Tls { .. } => Progress::Answered,
            DisconnectReason::Timeout { step: Step::Handshake(_), .. } => Progress::Connected,
            _ => Progress::Unconnected,
        }
    }
}

/// Every value of [`DisconnectReason::code`].
pub const DISCONNECT_CODES: [&str; 54] = [
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
            2 => "http_2xx",
            3 => "http_3xx",
            4 => "http_4xx",
            _ => "http_5xx",
        },
    }
}

/// Close codes by which a server refuses a token.
pub(crate) const TOKEN_REFUSED_CODES: [u16; 2] = [3000, 4001];

fn closed_text(code: u16, reason: &str, token: TokenOrigin) -> String {
    let quoted = if reason.is_empty() { String::new() } else { format!(" \"{reason}\"") };
    if TOKEN_REFUSED_CODES.contains(&code) {
        return format!("the server closed the connection with code {code}{quoted}; {token}");
    }
    let advice = match code {
        3003 | 1008 => "; check that the token grants read permission and that the server admits this client",
        1009 => "; check that the token and the skill are what they should be",
        _ => "",
    };
    format!("the server closed the connection with code {code}{quoted}{advice}")
}

fn http_text(address: SocketAddr, status: u16, location: Option<&str>) -> String {
    let advice = match status {
        200..300 => "that is a web server, not a feed; check the URL's port and path",
        300..400 => match location {
            Some(location) => {
                return format!(
                    "redirected by {address} (HTTP {status}) to {location}, which is not followed; if that is the feed, configure it as the URL"
                );
            }
            None => "a redirect is not followed; configure the feed's own URL",
        },
        401 | 407 => "check the token, and the credentials that a proxy in front of the server requires",
        403 => "check that the server, or a proxy in front of it, admits this client",
        404 => "check the URL's path",
        429 => "too many connections; check for other clients of the same feed",
        400..500 => "check that the URL is that of the feed",
        _ => "check the server, or the proxy in front of it",
    };
    format!("the handshake was answered with HTTP {status} by {address}; {advice}{}", port_hint(address))
}

/// Returns what to check where the port is one that a URL without a port has: 80 for `ws`, 443 for `wss`.
fn port_hint(address: SocketAddr) -> &'static str {
    match address.port() {
        80 | 443 => "; a URL without a port uses 80 or 443, and Session-Buddy listens on 8765 by default",
        _ => "",
    }
}

/// Returns a peer's text on one line, cut short, with control characters escaped.
pub(super) fn printable(text: &str) -> String {
    text.chars().take(PEER_TEXT_CHARS_MAX).flat_map(char::escape_debug).collect()
}

#[cfg(test)]
mod tests {
    use super::super::credentials::CredentialProblem;
    use super::*;
    use std::net::{IpAddr, Ipv4Addr};

    const ADDRESS: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 1);

    fn closed(code: u16) -> DisconnectReason {
        DisconnectReason::Closed { code, reason: String::new(), token: TokenOrigin::Given }
    }

    fn http(status: u16, retry_after: Option<Duration>) -> DisconnectReason {
        DisconnectReason::Http { address: ADDRESS, status, location: None, retry_after }
    }

    /// Every failure that names the address that was connected to.
    fn at(address: SocketAddr) -> Vec<DisconnectReason> {
        let what = String::new();
        vec![
            DisconnectReason::Http { address, status: 404, location: None, retry_after: None },
            DisconnectReason::Handshake { address, problem: HandshakeProblem::Ended },
            DisconnectReason::Tls { address, what: what.clone() },
            DisconnectReason::Connect { address, refused: true, what },
        ]
    }

    #[test]
    fn failures_at_the_default_ports_of_urls_name_the_port_of_the_server() {
        for (port, has_hint) in [(80, true), (443, true), (81, false), (8765, false)] {
            for reason in at(SocketAddr::from((Ipv4Addr::LOCALHOST, port))) {
                let text = reason.to_string();
                assert_eq!(text.contains("Session-Buddy listens on 8765 by default"), has_hint, "{text}");
            }
        }
    }

    fn missing(credential: Credential) -> DisconnectReason {
        CredentialError { credential, file: None, problem: CredentialProblem::Empty(credential) }.into()
    }

    /// One of each that is not a close code or an HTTP status.
    fn others() -> Vec<DisconnectReason> {
        let what = String::new();
        let address = ADDRESS;
        let after = Duration::ZERO;
        vec![
            DisconnectReason::Lost { what: what.clone() },
            DisconnectReason::Handshake { address, problem: HandshakeProblem::Ended },
            DisconnectReason::NoTrustedRoots { what: what.clone() },
            DisconnectReason::Tls { address, what: what.clone() },
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
    fn every_reason_has_a_listed_code_and_every_listed_code_a_reason() {
        let mut seen = std::collections::BTreeSet::new();
        seen.extend((0..=u16::MAX).map(|code| closed(code).code()));
        seen.extend((200..1000).map(|status| http(status, None).code()));
        seen.extend(others().iter().map(DisconnectReason::code));
        assert_eq!(Vec::from_iter(seen), DISCONNECT_CODES);
    }

    #[test]
    fn a_port_that_a_url_without_a_port_has_is_hinted_at() {
        let at = |port| SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port);
        let reasons = |address| {
            let what = String::new();
            [
                DisconnectReason::Connect { address, refused: true, what: what.clone() },
                DisconnectReason::Http { address, status: 404, location: None, retry_after: None },
                DisconnectReason::Handshake { address, problem: HandshakeProblem::Ended },
                DisconnectReason::Tls { address, what },
            ]
        };
        let has_hint = |reason: &DisconnectReason| reason.to_string().ends_with("listens on 8765 by default");
        assert!(reasons(at(80)).iter().chain(&reasons(at(443))).all(has_hint));
        assert!(!reasons(at(8765)).iter().any(has_hint));
    }

    #[test]
    fn only_what_somebody_must_change_is_retried_slowly() {
        let refused = |reason: &DisconnectReason| retry_policy(reason) == RetryPolicy::Refused;
        let codes = Vec::from_iter((0..=u16::MAX).filter(|code| refused(&closed(*code))));
        assert_eq!(codes, [1008, 3000, 3003, 4001]);

        for status in 200..1000 {
            let expected = (200..500).contains(&status) && ![408, 425, 429].contains(&status);
            assert_eq!(refused(&http(status, None)), expected, "{status}");
        }
        assert!(others().iter().all(|reason| retry_policy(reason) == RetryPolicy::Backoff));
    }

    #[test]
    fn retry_after_is_honoured_for_429_and_503() {
        let wait = Duration::from_secs(7);
        assert_eq!(retry_policy(&http(429, Some(wait))), RetryPolicy::BackoffAfter(wait));
        assert_eq!(retry_policy(&http(503, Some(wait))), RetryPolicy::BackoffAfter(wait));
        assert_eq!(retry_policy(&http(500, Some(wait))), RetryPolicy::Backoff);
        assert_eq!(retry_policy(&http(404, Some(wait))), RetryPolicy::Refused);
    }

    #[test]
    fn a_refusal_says_what_to_check() {
        assert!(closed(4001).to_string().contains("check the token"));
        let without = DisconnectReason::Closed { code: 4001, reason: String::new(), token: TokenOrigin::NotConfigured };
        assert!(without.to_string().contains("no token is configured"));
        assert!(http(401, None).to_string().contains("check the token"));
        assert!(http(200, None).to_string().contains("not a feed"));
        let redirect = DisconnectReason::Http {
            address: ADDRESS,
            status: 302,
            location: Some("ws://b/".to_owned()),
            retry_after: None,
        };
        assert!(redirect.to_string().contains("to ws://b/, which is not followed"));
    }

    #[test]
    fn a_peers_text_stays_on_one_short_line() {
        assert_eq!(printable("a\nb\u{1b}[31m"), "a\\nb\\u{1b}[31m");
        assert_eq!(printable(&"x".repeat(10_000)).len(), PEER_TEXT_CHARS_MAX);
    }
}
