//! A feed to subscribe to, and its identity.

use std::fmt;
use std::path::PathBuf;

use thiserror::Error;
use url::Url;

use crate::feed::Credentials;

/// A feed to subscribe to.
///
/// ```
/// use session_buddy_bridge::settings::{FeedTarget, FeedUrlError};
///
/// let feed = FeedTarget::new("wss://alpha.example:8765/feed")?;
/// assert_eq!(feed.identity, "wss://alpha.example:8765/feed");
/// assert_eq!(feed.with_skill("pytest-run").identity, "wss://alpha.example:8765/feed skill=pytest-run");
/// assert!(matches!(FeedTarget::new("https://alpha.example"), Err(FeedUrlError::Http { .. })));
/// # Ok::<(), FeedUrlError>(())
/// ```
#[derive(Clone, PartialEq, Eq)]
pub struct FeedTarget {
    /// The name by which feeds are distinguished: the label `feed`, and the key of what is persisted.
    pub identity: String,
    /// `ws` or `wss`, with a host, without userinfo and fragment.
    pub url: Url,
    /// The one skill to subscribe to; `None` for all.
    pub skill: Option<String>,
    /// How the server is authenticated, and how the client is.
    pub credentials: Credentials,
    /// The server's database. If it is given, counts come from its rows.
    pub skills_db: Option<PathBuf>,
}

impl fmt::Debug for FeedTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { identity, url, skill, credentials, skills_db } = self;
        f.debug_struct("FeedTarget")
            .field("identity", identity)
            .field("url", &redacted(url.as_str()))
            .field("skill", skill)
            .field("credentials", credentials)
            .field("skills_db", skills_db)
            .finish()
    }
}

/// Why a URL is not that of a feed.
///
/// ```
/// use session_buddy_bridge::settings::{FeedTarget, FeedUrlError};
///
/// match FeedTarget::new("http://alpha:8765").unwrap_err() {
///     FeedUrlError::Http { meant } => assert_eq!(meant, "ws://alpha:8765/"),
///     other => panic!("{other}"),
/// }
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum FeedUrlError {
    /// Not a URL.
    #[error("is not a URL ({0}): write ws://HOST:PORT or wss://HOST:PORT")]
    Malformed(#[source] url::ParseError),
    /// The scheme is `http` or `https`.
    #[error("is a web address, but a feed speaks WebSocket: did you mean \"{meant}\"?")]
    Http {
        /// The same address with the scheme of a WebSocket.
        meant: String,
    },
    /// Any other scheme, or none, as in `localhost:8765`.
    #[error("does not start with ws:// or wss://: write for example ws://localhost:8765")]
    Scheme,
    /// The URL has a user name or a password.
    #[error(
        "holds a user name or password, which a feed does not use: put a token into the environment variable \
         SESSION_BUDDY_BRIDGE_FEED_TOKEN, or into a file named by --feed.token-file"
    )]
    Userinfo,
    /// The URL has a fragment, which is never sent to a server.
    #[error("has a fragment (#), which no server ever sees: leave it out, or write # as %23")]
    Fragment,
    /// Port 0.
    #[error("has port 0, to which nobody can connect: give the port of the server, 8765 by default")]
    Port,
}

impl FeedTarget {
    /// Returns the feed at `url`, of all skills, without credentials. Its identity is the URL without user info, query and
    /// fragment.
    ///
    /// # Errors
    /// A URL that is not that of a feed.
    pub fn new(url: &str) -> Result<Self, FeedUrlError> {
        let url = read_url(url)?;
        let (identity, credentials) = (identity(&url, None), Credentials::default());
        Ok(Self { identity, url, skill: None, credentials, skills_db: None })
    }

    /// Returns where the feed connects to: scheme, host, port and path. It stays the same when the feed is renamed.
    pub fn address(&self) -> String {
        identity(&self.url, None)
    }

    /// Returns the same feed, subscribed to one skill. Its identity contains the skill.
    pub fn with_skill(mut self, skill: &str) -> Self {
        self.identity = identity(&self.url, Some(skill));
        self.skill = Some(skill.to_owned());
        self
    }
}

/// Scheme, lower-case host, port and path, then the skill. Neither userinfo nor query, which may hold secrets. A URL
/// holds no space, so whatever follows ` skill=` is the skill.
fn identity(url: &Url, skill: Option<&str>) -> String {
    let host = url.host_str().unwrap_or_default();
    let port = url.port_or_known_default().unwrap_or_default();
    let place = format!("{}://{host}:{port}{}", url.scheme(), url.path());
    match skill {
        Some(skill) => format!("{place} skill={skill}"),
        None => place,
    }
}

fn read_url(text: &str) -> Result<Url, FeedUrlError> {
    let url = match Url::parse(text) {
        Ok(url) => url,
        Err(url::ParseError::RelativeUrlWithoutBase) => return Err(FeedUrlError::Scheme),
        Err(error) => return Err(FeedUrlError::Malformed(error)),
    };
    let has_userinfo = !url.username().is_empty() || url.password().is_some();
    match url.scheme() {
        _ if has_userinfo => Err(FeedUrlError::Userinfo),
        "http" | "https" => Err(FeedUrlError::Http { meant: redacted(&url.as_str().replacen("http", "ws", 1)) }),
        "ws" | "wss" if url.fragment().is_some() => Err(FeedUrlError::Fragment),
        "ws" | "wss" if url.port() == Some(0) => Err(FeedUrlError::Port),
        "ws" | "wss" => Ok(url),
        _ => Err(FeedUrlError::Scheme),
    }
}

/// `text` fit to be shown in an error. What stands before an `@` may be a password and what follows a `?` a token; the
/// text may be too malformed to tell, so the cut is a wide one.
pub(crate) fn redacted(text: &str) -> String {
    let (scheme, rest) = match text.split_once("://") {
        Some((scheme, rest)) if !scheme.contains('@') => (format!("{scheme}://"), rest),
        _ => (String::new(), text),
    };
    let (hidden, rest) = match rest.rsplit_once('@') {
        Some((_, rest)) => ("***@", rest),
        None => ("", rest),
    };
    match rest.find(['?', '#']) {
        Some(end) => format!("{scheme}{hidden}{}…", &rest[..=end]),
        None => format!("{scheme}{hidden}{rest}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::feed::{Secret, TokenSource};

    #[test]
    fn an_identity_is_scheme_host_port_path_and_skill() {
        for (url, identity) in [
            ("ws://localhost:8765", "ws://localhost:8765/"),
            ("WS://LocalHost", "ws://localhost:80/"),
            ("wss://Example.org/Feed", "wss://example.org:443/Feed"),
            ("ws://[::1]:8765/a?token=secret", "ws://[::1]:8765/a"),
        ] {
            assert_eq!(FeedTarget::new(url).unwrap().identity, identity);
        }
        let target = FeedTarget::new("ws://localhost:8765?a=b").unwrap().with_skill("pytest run");
        assert_eq!(target.identity, "ws://localhost:8765/ skill=pytest run");
        assert_eq!(target.url.as_str(), "ws://localhost:8765/?a=b", "the query is kept for connecting");
    }

    #[test]
    fn what_names_no_feed_is_refused_with_a_remedy() {
        let refused = |url| FeedTarget::new(url).unwrap_err();
        assert_eq!(refused("http://h:1/p?t=s"), FeedUrlError::Http { meant: "ws://h:1/p?…".to_owned() });
        assert_eq!(refused("HTTPS://h"), FeedUrlError::Http { meant: "wss://h/".to_owned() });
        assert_eq!(refused("localhost:8765"), FeedUrlError::Scheme);
        assert_eq!(refused("localhost"), FeedUrlError::Scheme);
        assert_eq!(refused(""), FeedUrlError::Scheme);
        assert_eq!(refused("ftp://h"), FeedUrlError::Scheme);
        assert_eq!(refused("ws://me@h"), FeedUrlError::Userinfo);
        assert_eq!(refused("http://me:pass@h"), FeedUrlError::Userinfo);
        assert_eq!(refused("ws://h/#part"), FeedUrlError::Fragment);
        assert_eq!(refused("ws://h:0"), FeedUrlError::Port);
        assert_eq!(refused("ws://"), FeedUrlError::Malformed(url::ParseError::EmptyHost));
        assert_eq!(refused("ws://h:65536"), FeedUrlError::Malformed(url::ParseError::InvalidPort));
    }

    #[test]
    fn nothing_secret_survives_redaction() {
        for text in [
            "ws://user:secret@h",
            "ws://user:sec?ret@h",
            "ws://h/?token=secret",
            "ws://h/#secret",
            "user:secret@h",
            "ws:/user:secret@h",
            "x@://secret@h",
        ] {
            let shown = redacted(text);
            assert!(!shown.contains("sec") && !shown.contains("ret"), "{text} is shown as {shown}");
        }
        assert_eq!(redacted("ws://h:1/path"), "ws://h:1/path");
    }

    #[test]
    fn a_target_shows_neither_its_token_nor_its_query() {
        let mut target = FeedTarget::new("ws://h/path?key=secret").unwrap();
        target.credentials.token = Some(TokenSource::Static(Secret::new("secret")));
        let shown = format!("{target:?}");
        assert!(shown.contains("ws://h/path") && !shown.contains("secret"), "{shown}");
    }
}
