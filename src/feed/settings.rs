//! What one feed needs.

use super::credentials::Credentials;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;
use url::Url;

/// What one feed needs; validated elsewhere.
#[derive(Clone)]
pub struct FeedSettings {
    /// The name that the feed is known by. It is shown, so it holds nothing secret.
    pub identity: String,
    /// `ws` or `wss`, without userinfo. Path and query are sent as they are.
    pub url: Url,
    /// The one skill to subscribe to; `None` for all.
    pub skill: Option<String>,
    /// What the server is shown, and how it is known.
    pub credentials: Credentials,
    /// Every wait of this feed.
    pub timing: Timing,
    /// The longest frame, and the longest message in fragments, that is accepted, in bytes. A longer one ends the
    /// connection.
    pub frame_bytes_max: usize,
    /// TLS for `wss` in place of what the credentials say of it. Its crypto provider has to be chosen explicitly, with
    /// `ClientConfig::builder_with_provider`: two providers in one program leave rustls without a default.
    pub tls: Option<Arc<rustls::ClientConfig>>,
}

impl fmt::Debug for FeedSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { identity, url, skill, credentials, timing, frame_bytes_max, tls } = self;
        f.debug_struct("FeedSettings")
            .field("identity", identity)
            .field("url", &format_args!("{}", bare(url)))
            .field("skill", skill)
            .field("credentials", credentials)
            .field("timing", timing)
            .field("frame_bytes_max", frame_bytes_max)
            .field("tls", &if tls.is_some() { "custom" } else { "by credentials" })
            .finish()
    }
}

/// How long a feed waits, and for what.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Timing {
    /// To resolve the host name, and again to connect to each of its addresses. 5 s.
    pub connect_timeout: Duration,
    /// For TLS and the WebSocket handshake together. 10 s.
    pub handshake_timeout: Duration,
    /// For a frame to leave. 5 s.
    pub send_timeout: Duration,
    /// Without a byte before a ping is sent. 5 s.
    pub ping_interval: Duration,
    /// After that ping before the connection is given up as dead. 5 s.
    pub pong_timeout: Duration,
    /// Without a fresh snapshot before a feed that sends snapshots is given up as silent or frozen; a feed whose own
    /// interval is longer than a quarter of this gets four of its intervals instead. 15 s.
    pub silence_timeout: Duration,
    /// The shortest wait before another attempt. 0.5 s.
    pub backoff_min: Duration,
    /// The longest. 30 s.
    pub backoff_max: Duration,
    /// The shortest wait after a refusal that somebody has to do something about. 30 s.
    pub refused_backoff_min: Duration,
    /// The longest, and the most of a server's `Retry-After` that is honoured. 300 s.
    pub refused_backoff_max: Duration,
    /// A connection that was live as long as this has proved healthy: the next backoff starts over. 30 s, which is more
    /// than `silence_timeout`, so that a server that falls silent after each connect is not hammered.
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

/// `url` without what may be secret: userinfo, query and fragment.
pub(super) fn bare(url: &Url) -> Url {
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
            tls: None,
        };
        let printed = format!("{settings:?}");
        assert!(printed.contains("wss://host/path,"), "{printed}");
        for secret in ["user", "pass", "query", "token-text"] {
            assert!(!printed.contains(secret), "{secret} in {printed}");
        }
    }
}
