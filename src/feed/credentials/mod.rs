//! What a feed shows to its server, and how it knows the server.
//!
//! Files are read again at each connect, because what they hold expires and is replaced; each is read to a limit and off
//! the async threads. Architecture invariant: what is secret leaves this room as a [`Secret`] or as a header that is
//! marked sensitive, and no error repeats a word of what a file holds.

mod headers;
mod secret;
mod tls;
mod token;

use std::borrow::Cow;
use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::panic::resume_unwind;
use std::path::{Path, PathBuf};

use tokio_tungstenite::tungstenite::http::HeaderMap;

pub use headers::HeaderProblem;
pub use secret::Secret;
pub use tls::{ClientIdentity, TlsFiles};
pub use token::{Minting, SecretSource, TOKEN_LIFETIME, TokenSource};

/// What is shorter is not blotted out of frames.
const FRAME_SECRET_BYTES_MIN: usize = 12;

/// What a feed shows to its server, and how it knows the server.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Credentials {
    /// Sent as the first frame of each connection, if there is one.
    pub token: Option<TokenSource>,
    /// File of headers for the handshake, one `Name: value` a line, that do not belong to WebSocket itself.
    pub headers_file: Option<PathBuf>,
    /// How `wss` is trusted, and what it is shown.
    pub tls: TlsFiles,
}

impl Credentials {
    /// Reads every file as a connect would, and lets go of what it held.
    ///
    /// # Errors
    /// The first one that would be in the way of a connect.
    pub fn check(&self) -> Result<(), CredentialError> {
        self.presented()?;
        self.tls.check()
    }

    /// What is said to the server, as it is now.
    pub(super) async fn read(&self) -> Result<PresentedCredentials, CredentialError> {
        let credentials = self.clone();
        off_thread(move || credentials.presented()).await
    }

    fn presented(&self) -> Result<PresentedCredentials, CredentialError> {
        let headers = self.headers_file.as_deref().map(headers::read).transpose()?.unwrap_or_default();
        // Last, so that a minted token is no older than it must be.
        let token = self.token.as_ref().map(TokenSource::read).transpose()?;
        Ok(PresentedCredentials { token, headers })
    }
}

/// What the server of one connection is told.
#[derive(Default)]
pub(super) struct PresentedCredentials {
    pub(super) token: Option<Secret>,
    pub(super) headers: HeaderMap,
}

impl PresentedCredentials {
    /// `text` without what it quotes of this: peers like to quote what they refuse.
    pub(super) fn redact(&self, text: &str) -> String {
        self.secrets().fold(text.to_owned(), |text, secret| text.replace(secret, "***"))
    }

    /// `frame` without what it quotes of this: whoever listens may log it or write it down. What is short stays, since it
    /// can be one of the feed's own words, as `session_id` is where a cookie is named so, and a message would become another.
    pub(super) fn redact_frame<'f>(&self, frame: &'f str) -> Cow<'f, str> {
        let quoted = self.secrets().filter(|secret| secret.len() >= FRAME_SECRET_BYTES_MIN && frame.contains(secret));
        quoted.fold(Cow::Borrowed(frame), |frame, secret| frame.replace(secret, "***").into())
    }

    fn secrets(&self) -> impl Iterator<Item = &str> {
        let token = self.token.iter().map(Secret::expose);
        token.chain(self.headers.values().filter_map(|value| value.to_str().ok()).flat_map(headers::quotable))
    }
}

/// What can be wrong with a credential. Nothing that it holds is repeated.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{} {problem}", origin(*credential, file.as_deref()))]
pub struct CredentialError {
    /// What it is.
    pub credential: Credential,
    /// Where it was looked for; `None` for one that was given as a value.
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
        })
    }
}

/// What is wrong with a credential, and what to do about it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CredentialProblem {
    /// The file is not there, not to be opened, or no regular file.
    #[error("cannot be read ({what}): give a regular file that this user may read")]
    Unreadable {
        /// What the operating system said.
        what: String,
    },
    /// Nothing, or nothing but white space.
    #[error("is empty: write the {0} into it")]
    Empty(Credential),
    /// More than is ever needed.
    #[error("is longer than {bytes_max} bytes: is it the right one?")]
    TooLong {
        /// What is enough.
        bytes_max: usize,
    },
    /// Not UTF-8.
    #[error("is not UTF-8 text: is it the right one?")]
    NotUtf8,
    /// A line that is no header for this purpose.
    #[error("has a line {line} that {problem}")]
    Header {
        /// Counted from 1.
        line: usize,
        /// What is wrong with it.
        #[source]
        problem: HeaderProblem,
    },
    /// None of what it is for.
    #[error("holds no {wanted} in PEM: write one into it, from -----BEGIN to -----END")]
    NoPem {
        /// `certificate` or `private key (unencrypted)`.
        wanted: &'static str,
    },
    /// Something that starts as PEM and goes on as something else.
    #[error("is broken PEM: write it anew")]
    BrokenPem,
    /// PEM of something that cannot serve.
    #[error("cannot be used ({what}): check what was written into it")]
    Unusable {
        /// What TLS has against it.
        what: String,
    },
    /// Key and certificate do not belong together.
    #[error("is not the key of the certificate in \"{}\": give the two of one pair", certificate.display())]
    KeyMismatch {
        /// The file of the certificate.
        certificate: PathBuf,
    },
}

impl Credential {
    fn wrong(self, file: Option<&Path>, problem: CredentialProblem) -> CredentialError {
        CredentialError { credential: self, file: file.map(Path::to_owned), problem }
    }

    /// The whole of `file`, of no more than `bytes_max` bytes.
    fn bytes(self, file: &Path, bytes_max: usize) -> Result<Vec<u8>, CredentialError> {
        let read = read_regular(file, bytes_max)
            .map_err(|error| self.wrong(Some(file), CredentialProblem::Unreadable { what: error.to_string() }))?;
        match read.len() > bytes_max {
            true => Err(self.wrong(Some(file), CredentialProblem::TooLong { bytes_max })),
            false => Ok(read),
        }
    }

    fn text(self, file: &Path, bytes_max: usize) -> Result<String, CredentialError> {
        let bytes = self.bytes(file, bytes_max)?;
        String::from_utf8(bytes).map_err(|_| self.wrong(Some(file), CredentialProblem::NotUtf8))
    }
}

/// Reads one byte more than `bytes_max` at the most.
fn read_regular(file: &Path, bytes_max: usize) -> io::Result<Vec<u8>> {
    // Opening a pipe that nobody writes to would never return, and a blocking thread cannot be interrupted.
    if !file.metadata()?.is_file() {
        return Err(io::Error::other("not a regular file"));
    }
    let mut bytes = Vec::new();
    File::open(file)?.take(bytes_max as u64 + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Runs `read`, which waits for a disk, where nobody else waits for it.
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
    async fn what_a_peer_quotes_is_blotted_out() {
        let mut headers = HeaderMap::new();
        headers.append("authorization", "Bearer the-key-itself".parse().unwrap());
        headers.append("x-room", "a".parse().unwrap());
        let presented = PresentedCredentials { token: Some(Secret::new("hunter2")), headers };
        assert_eq!(presented.redact("not hunter2: a \"the-key-itself\""), "not ***: a \"***\"");
        assert_eq!(presented.redact("Bearer the-key-itself"), "***");
    }

    #[test]
    fn a_frame_loses_what_is_secret_and_none_of_its_own_words() {
        let mut headers = HeaderMap::new();
        headers.append("cookie", "session_id=the-key-itself".parse().unwrap());
        let presented = PresentedCredentials { token: Some(Secret::new("hunter2secret")), headers };
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
