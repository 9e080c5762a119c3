//! How a feed authenticates its server, and itself.
//!
//! Files are read again at each connect, because what they contain expires and is replaced; up to a limit, and not on async
//! threads. Architecture invariant: secrets leave this module as a [`Secret`] or as a header that is marked sensitive, and no
//! error quotes a file.

mod headers;
mod http;
mod query;
mod redaction;
mod secret;
mod tls;
mod token;

use std::borrow::Cow;
use std::fmt;
use std::io;
use std::ops::Deref;
use std::panic::resume_unwind;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio_tungstenite::tungstenite::http::HeaderMap;

use crate::pem::{self, PemError};
use crate::regular_file;

use headers::Reserved;
use redaction::Redaction;

pub use headers::HeaderProblem;
pub use http::HttpCredentials;
pub(crate) use http::PresentedHeaders;
pub(crate) use query::QuerySecrets;
pub use secret::Secret;
pub use tls::{ClientIdentity, TlsFiles};
pub use token::{Minting, SecretSource, TOKEN_LIFETIME, TokenOrigin, TokenSource};

/// Shorter secrets are not redacted from frames.
const FRAME_SECRET_BYTES_MIN: usize = 12;

/// How a feed authenticates its server, and itself.
///
/// ```
/// use session_buddy_bridge::settings::{
///     Credentials, FeedTarget, Minting, Secret, SecretSource, TOKEN_LIFETIME, TokenSource,
/// };
///
/// let secret = SecretSource::Static(Secret::new("the server's JWT secret"));
/// let token = TokenSource::Minted(Minting { secret, lifetime: TOKEN_LIFETIME });
/// let mut feed = FeedTarget::new("ws://localhost:8765").unwrap();
/// feed.credentials = Credentials { token: Some(token), ..Credentials::default() };
/// assert_eq!(feed.credentials.check(), Ok(()));
/// assert!(!format!("{feed:?}").contains("JWT secret"));
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Credentials {
    /// The token, sent as the first frame of each connection.
    pub token: Option<TokenSource>,
    /// File of headers for the handshake, one `Name: value` a line. Those of WebSocket itself are not allowed.
    pub headers_file: Option<PathBuf>,
    /// Trusted certificates, and the client's own, for `wss`.
    pub tls: TlsFiles,
}

impl Credentials {
    /// Reads every file as a connect would.
    ///
    /// # Errors
    /// The first one that would make a connect fail.
    pub fn check(&self) -> Result<(), CredentialError> {
        self.presented()?;
        self.tls.check()
    }

    /// Reads what is presented to the server now.
    pub(super) async fn read(&self) -> Result<PresentedCredentials, CredentialError> {
        let credentials = self.clone();
        off_thread(move || credentials.presented()).await
    }

    fn presented(&self) -> Result<PresentedCredentials, CredentialError> {
        let file = self.headers_file.as_deref();
        let headers = file.map(|file| headers::read(file, Reserved::Handshake)).transpose()?.unwrap_or_default();
        // Last, so that a minted token is no older than it must be.
        let (token, token_origin) = self.token.as_ref().map(TokenSource::read).transpose()?.unzip();
        Ok(PresentedCredentials { token, token_origin: token_origin.unwrap_or_default(), headers })
    }
}

/// What is presented to the server on one connection.
#[derive(Default)]
pub(super) struct PresentedCredentials {
    pub(super) token: Option<Secret>,
    pub(super) token_origin: TokenOrigin,
    pub(super) headers: HeaderMap,
}

impl PresentedCredentials {
    /// Returns `text` without these secrets: peers tend to quote what they refuse.
    pub(super) fn redact(&self, text: &str) -> String {
        let mut redaction = Redaction::of_headers(&self.headers);
        self.token.iter().for_each(|token| redaction.secret(token.expose()));
        redaction.redact(text)
    }

    /// Returns `frame` without these secrets: it may be logged or recorded. Short ones stay, since they can be words of the
    /// protocol, such as `session_id` if a cookie is called so, and the message would become another.
    pub(super) fn redact_frame<'f>(&self, frame: &'f str) -> Cow<'f, str> {
        let quoted = self.secrets().filter(|secret| secret.len() >= FRAME_SECRET_BYTES_MIN && frame.contains(secret));
        quoted.fold(Cow::Borrowed(frame), |frame, secret| frame.replace(secret, "***").into())
    }

    fn secrets(&self) -> impl Iterator<Item = &str> {
        let token = self.token.iter().map(Secret::expose);
        token.chain(self.headers.values().filter_map(|value| value.to_str().ok()).flat_map(headers::quotable))
    }
}

/// Why a credential cannot be used. No secret is quoted.
///
/// ```
/// use session_buddy_bridge::settings::{Credential, CredentialProblem, Credentials, TokenSource};
///
/// let token = TokenSource::File("/nowhere/token".into());
/// let error = Credentials { token: Some(token), ..Credentials::default() }.check().unwrap_err();
/// assert_eq!(error.credential, Credential::Token);
/// assert!(matches!(error.problem, CredentialProblem::Unreadable(_)));
/// ```
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[error("{} {problem}", origin(*credential, file.as_deref()))]
pub struct CredentialError {
    /// The kind of the credential.
    pub credential: Credential,
    /// The file; `None` for one that was given as a value.
    pub file: Option<PathBuf>,
    /// What is wrong with it.
    #[source]
    pub problem: CredentialProblem,
}

fn origin(credential: Credential, file: Option<&Path>) -> String {
    match file {
        Some(file) => format!("the {credential} file \"{}\"", file.display()),
        None => format!("the {credential}"),
    }
}

/// The kinds of credentials.
///
/// ```
/// use session_buddy_bridge::settings::Credential;
///
/// assert_eq!(format!("the {} expired", Credential::Certificate), "the client certificate expired");
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Credential {
    /// A token for the server.
    Token,
    /// The secret that tokens are signed with.
    JwtSecret,
    /// Headers for the handshake.
    Headers,
    /// The certificates that are trusted.
    Ca,
    /// The client's certificate.
    Certificate,
    /// The client's private key.
    Key,
    /// A user and a password.
    BasicAuth,
}

impl fmt::Display for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Credential::Token => "token",
            Credential::JwtSecret => "JWT secret",
            Credential::Headers => "headers",
            Credential::Ca => "CA",
            Credential::Certificate => "client certificate",
            Credential::Key => "client key",
            Credential::BasicAuth => "basic auth",
        })
    }
}

/// What is wrong with a credential, and the remedy.
///
/// ```
/// use std::io::ErrorKind;
///
/// use session_buddy_bridge::settings::{CredentialProblem, Credentials};
///
/// let credentials = Credentials { headers_file: Some("/nowhere/headers".into()), ..Credentials::default() };
/// match credentials.check().unwrap_err().problem {
///     CredentialProblem::Unreadable(error) => assert_eq!(error.kind(), ErrorKind::NotFound),
///     other => panic!("{other}"),
/// }
/// ```
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum CredentialProblem {
    /// The file does not exist, cannot be opened, or is not a regular file.
    #[error("cannot be read ({0}): give a regular file that this user may read")]
    Unreadable(#[source] SharedIoError),
    /// It is empty, or only white space.
    #[error("is empty: write the {0} into it")]
    Empty(Credential),
    /// It is longer than any valid one.
    #[error("is longer than {bytes_max} bytes: is it the right one?")]
    TooLong {
        /// The limit, in bytes.
        bytes_max: usize,
    },
    /// It starts with a byte order mark, as some editors write it.
    #[error("starts with a byte order mark: save it as UTF-8 without one")]
    ByteOrderMark,
    /// It is UTF-16, as some shells write it.
    #[error("is UTF-16 text: save it as UTF-8")]
    Utf16,
    /// A token is in quotes.
    #[error("is in quotes: leave them out")]
    Quoted,
    /// A token follows the word Bearer, as in a header.
    #[error("starts with \"Bearer \": leave that word out, it belongs to the header of HTTP")]
    Bearer,
    /// It has no user name.
    #[error("has no user name: write user:password")]
    NoUser,
    /// It has a character that no header can contain.
    #[error("has a character that no header can contain: use printable ASCII")]
    NoHeaderValue,
    /// It is not UTF-8.
    #[error("is not UTF-8 text: is it the right one?")]
    NotUtf8,
    /// A line is not a header that may be sent.
    #[error("has a line {line} that {problem}")]
    Header {
        /// Counted from 1.
        line: usize,
        /// What is wrong with it.
        #[source]
        problem: HeaderProblem,
    },
    /// The PEM file contains no item of the wanted kind.
    #[error("holds no {wanted} in PEM: write one into it, from -----BEGIN to -----END")]
    NoPem {
        /// `certificate` or `private key (unencrypted)`.
        wanted: &'static str,
    },
    /// The PEM is malformed.
    #[error("is invalid PEM: create it again")]
    BrokenPem(#[source] PemError),
    /// The PEM is well-formed and its content cannot be used.
    #[error("cannot be used ({}): {}", .0, pem::remedy(.0).unwrap_or("check what was written into it"))]
    Unusable(#[source] rustls::Error),
    /// The key does not belong to the certificate.
    #[error("is not the key of the certificate in \"{}\": give the two of one pair", certificate.display())]
    KeyMismatch {
        /// The file of the certificate.
        certificate: PathBuf,
    },
}

/// An error of the operating system that clones share. It dereferences to the [`io::Error`], which is also what
/// [`source`](std::error::Error::source) of the error around it returns. Two are equal if kind and message are.
///
/// ```
/// use std::io;
///
/// use session_buddy_bridge::settings::SharedIoError;
///
/// let error = SharedIoError::from(io::Error::from(io::ErrorKind::PermissionDenied));
/// assert_eq!(error.kind(), io::ErrorKind::PermissionDenied);
/// assert_eq!(error, error.clone());
/// ```
#[derive(Debug, Clone)]
pub struct SharedIoError(Arc<io::Error>);

impl From<io::Error> for SharedIoError {
    fn from(error: io::Error) -> Self {
        Self(Arc::new(error))
    }
}

impl Deref for SharedIoError {
    type Target = io::Error;

    fn deref(&self) -> &io::Error {
        &self.0
    }
}

impl fmt::Display for SharedIoError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl PartialEq for SharedIoError {
    fn eq(&self, other: &Self) -> bool {
        self.kind() == other.kind() && self.to_string() == other.to_string()
    }
}

impl Credential {
    fn wrong(self, file: Option<&Path>, problem: CredentialProblem) -> CredentialError {
        CredentialError { credential: self, file: file.map(Path::to_owned), problem }
    }

    /// Reads all of `file`, which may have up to `bytes_max` bytes.
    fn bytes(self, file: &Path, bytes_max: usize) -> Result<Vec<u8>, CredentialError> {
        let read = regular_file::read(file, bytes_max).map_err(|error| {
            let problem = match error.kind() {
                io::ErrorKind::FileTooLarge => CredentialProblem::TooLong { bytes_max },
                _ => CredentialProblem::Unreadable(error.into()),
            };
            self.wrong(Some(file), problem)
        })?;
        let problem = match &read[..] {
            [0xef, 0xbb, 0xbf, ..] => CredentialProblem::ByteOrderMark,
            [0xff, 0xfe, ..] | [0xfe, 0xff, ..] => CredentialProblem::Utf16,
            _ => return Ok(read),
        };
        Err(self.wrong(Some(file), problem))
    }

    fn text(self, file: &Path, bytes_max: usize) -> Result<String, CredentialError> {
        let bytes = self.bytes(file, bytes_max)?;
        String::from_utf8(bytes).map_err(|_| self.wrong(Some(file), CredentialProblem::NotUtf8))
    }
}

/// Runs `read`, which blocks, on a thread that may block.
pub(super) async fn off_thread<T: Send + 'static>(read: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(read).await {
        Ok(read) => read,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => resume_unwind(panic),
            // Not started because the runtime ends, and this future with it.
            Err(_) => std::future::pending().await,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn secrets_that_a_peer_quotes_are_redacted() {
        let mut headers = HeaderMap::new();
        headers.append("authorization", "Bearer the-key-itself".parse().unwrap());
        headers.append("x-room", "a".parse().unwrap());
        let presented =
            PresentedCredentials { token: Some(Secret::new("hunter2")), headers, ..PresentedCredentials::default() };
        assert_eq!(presented.redact("not hunter2: a \"the-key-itself\""), "not ***: a \"***\"");
        assert_eq!(presented.redact("Bearer the-key-itself"), "Bearer ***");
    }

    #[test]
    fn a_frame_loses_what_is_secret_and_none_of_its_own_words() {
        let mut headers = HeaderMap::new();
        headers.append("cookie", "session_id=the-key-itself".parse().unwrap());
        let token = Some(Secret::new("hunter2secret"));
        let presented = PresentedCredentials { token, headers, ..PresentedCredentials::default() };
        let frame = r#"{"session_id": "the-key-itself", "skill_name": "hunter2secret"}"#;
        assert_eq!(presented.redact_frame(frame), r#"{"session_id": "***", "skill_name": "***"}"#);
        assert!(matches!(presented.redact_frame("nothing of it"), Cow::Borrowed("nothing of it")));
    }

    #[test]
    fn a_file_is_read_to_its_limit_and_named() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("x");
        std::fs::write(&file, "1234").unwrap();
        assert_eq!(Credential::Token.text(&file, 4).unwrap(), "1234");
        let problem = |file: &Path, max| Credential::Token.text(file, max).unwrap_err();
        assert_eq!(
            problem(&file, 3).to_string(),
            format!("the token file \"{}\" is longer than 3 bytes: is it the right one?", file.display())
        );
        std::fs::write(&file, [0xff]).unwrap();
        assert_eq!(problem(&file, 4).problem, CredentialProblem::NotUtf8);
        assert!(problem(directory.path(), 4).to_string().contains("(not a regular file)"));
        assert!(problem(&directory.path().join("missing"), 4).to_string().contains("(No such file"));
    }
}
