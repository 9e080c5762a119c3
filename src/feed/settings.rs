//! The settings of one feed.

use super::credentials::Credentials;
use std::fmt;
use std::time::Duration;
use url::Url;

/// The settings of one feed, already validated.
#[derive(Clone)]
pub struct FeedSettings {
    /// The name of the feed. It is exposed, so that it must not contain secrets.
    pub identity: String,
    /// `ws` or `wss`, without userinfo. Path and query are sent as they are.
    pub url: Url,
    /// The one skill to subscribe to; `None` for all.
    pub skill: Option<String>,
    /// How the server is authenticated, and how the client is.
    pub credentials: Credentials,
    /// Timeouts and intervals.
    pub timing: Timing,
    /// The longest frame, and the longest message in fragments, that is accepted, in bytes. A longer one ends the
    /// connection.
    pub frame_bytes_max: usize,
}

impl fmt::Debug for FeedSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { identity, url, skill, credentials, timing, frame_bytes_max } = self;
        f.debug_struct("FeedSettings")
            .field("identity", identity)
            .field("url", &format_args!("{}", bare(url)))
            .field("skill", skill)
            .field("credentials", credentials)
            .field("timing", timing)
            .field("frame_bytes_max", frame_bytes_max)
            .finish()
    }
}

/// Timeouts and intervals of a feed.
///
/// ```
/// use std::time::Duration;
///
/// use session_buddy_bridge::Settings;
/// use session_buddy_bridge::settings::Timing;
///
/// let timing = Timing { silence_timeout: Duration::from_secs(60), ..Timing::default() };
/// assert_eq!(timing.ping_interval, Duration::from_secs(5));
/// let settings = Settings { timing, ..Settings::new(Vec::new()) };
/// # drop(settings);
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Timing {
    /// Timeout of the name lookup, and of connecting to each address. 5 s.
    pub connect_timeout: Duration,
    /// Timeout of the TLS and WebSocket handshakes together. 10 s.
    pub handshake_timeout: Duration,
    /// Timeout of sending a frame. 5 s.
    pub send_timeout: Duration,
    /// Time without a received byte after which a ping is sent. 5 s.
    pub ping_interval: Duration,
    /// Time after that ping after which the connection is dead. 5 s.
    pub pong_timeout: Duration,
    /// Time without a fresh snapshot after which a feed that sends snapshots is silent or frozen. A feed whose own interval is
    /// longer than a quarter of this has four of its intervals instead. 15 s.
    pub silence_timeout: Duration,
    /// Shortest delay before another attempt. 0.5 s.
    pub backoff_min: Duration,
    /// Longest delay before another attempt. 30 s.
    pub backoff_max: Duration,
    /// Shortest delay after a refusal that needs somebody's action. 30 s.
    pub refused_backoff_min: Duration,
    /// Longest delay after such a refusal, and the most of a server's `Retry-After` that is honoured. 300 s.
    pub refused_backoff_max: Duration,
    /// Time for which a connection must be live before the backoff starts over. 30 s, which is more than `silence_timeout`, so
    /// that a server that falls silent after each connect is not hammered.
    pub healthy_after: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            connect_timeout: Duration::from_secs(5),
            handshake_timeout: Duration::from_secs(10),
            send_timeout: Duration::from_secs(5),
            ping_interval: Duration::from_secs(5),
            pong_timeout: Duration::from_secs(5),
            silence_timeout: Duration::from_secs(15),
            backoff_min: Duration::from_millis(500),
            backoff_max: Duration::from_secs(30),
            refused_backoff_min: Duration::from_secs(30),
            refused_backoff_max: Duration::from_secs(300),
            healthy_after: Duration::from_secs(30),
        }
    }
}

/// Returns `url` without what may be secret: user info, query and fragment.
pub(crate) fn bare(url: &Url) -> Url {
    let mut url = url.clone();
    // Both fail only for URLs that cannot have userinfo.
    let _ = url.set_username("");
    let _ = url.set_password(None);
    url.set_query(None);
    url.set_fragment(None);
    url
}

#[cfg(test)]
mod tests {
    use super::super::credentials::{Secret, TokenSource};
    use super::*;

    #[test]
    fn nothing_secret_is_printed() {
        let settings = FeedSettings {
            identity: "lab".to_owned(),
            url: Url::parse("wss://user:pass@host/path?key=query#part").unwrap(),
            skill: None,
            credentials: Credentials {
                token: Some(TokenSource::Static(Secret::new("token-text"))),
                ..Credentials::default()
            },
            timing: Timing::default(),
            frame_bytes_max: 1,
        };
        let printed = format!("{settings:?}");
        assert!(printed.contains("wss://host/path,"), "{printed}");
        for secret in ["user", "pass", "query", "token-text"] {
            assert!(!printed.contains(secret), "{secret} in {printed}");
        }
    }
}
