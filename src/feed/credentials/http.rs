//! What a client of HTTP presents: for receivers of remote write.

use std::path::{Path, PathBuf};

use data_encoding::BASE64;
use tokio_tungstenite::tungstenite::http::header::{self, HeaderMap, HeaderValue};

use super::headers::{self, Reserved};
use super::redaction::Redaction;
use super::token::TOKEN_BYTES_MAX;
use super::{Credential, CredentialError, CredentialProblem, TlsFiles, TokenSource, off_thread};

/// How a receiver of remote write is authenticated, and how the bridge is.
///
/// ```
/// use session_buddy_bridge::settings::HttpCredentials;
///
/// let credentials = HttpCredentials { bearer_token_file: Some("/nowhere/token".into()), ..HttpCredentials::default() };
/// assert!(credentials.check().is_err());
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct HttpCredentials {
    /// File of headers of each request, one `Name: value` a line. Those of remote write itself are not allowed.
    pub headers_file: Option<PathBuf>,
    /// File of a token for `Authorization: Bearer`.
    pub bearer_token_file: Option<PathBuf>,
    /// File of `user:password` for `Authorization: Basic`.
    pub basic_auth_file: Option<PathBuf>,
    /// Trusted certificates, and the client's own, for `https`.
    pub tls: TlsFiles,
}

impl HttpCredentials {
    /// Reads every file as a connection would.
    ///
    /// # Errors
    /// The first one that would make a connection fail.
    pub fn check(&self) -> Result<(), CredentialError> {
        self.presented()?;
        self.tls.check()
    }

    /// Returns whether a secret is presented, which must not be sent in the clear.
    pub(crate) fn are_secret(&self) -> bool {
        self.headers_file.is_some() || self.bearer_token_file.is_some() || self.basic_auth_file.is_some()
    }

    /// Returns whether the header `name` is presented. Files that cannot be read present nothing.
    pub(crate) fn has_header(&self, name: &str) -> bool {
        self.presented().is_ok_and(|presented| presented.0.contains_key(name))
    }

    /// Reads what is presented to the receiver now.
    pub(crate) async fn read(&self) -> Result<PresentedHeaders, CredentialError> {
        let credentials = self.clone();
        off_thread(move || credentials.presented()).await
    }

    fn presented(&self) -> Result<PresentedHeaders, CredentialError> {
        let file = self.headers_file.as_deref();
        let mut headers = file.map(|file| headers::read(file, Reserved::RemoteWrite)).transpose()?.unwrap_or_default();
        let mut authorize = |credential: Credential, file: &Path, text: String| {
            let mut value = HeaderValue::from_str(&text)
                .map_err(|_| credential.wrong(Some(file), CredentialProblem::NoHeaderValue))?;
            value.set_sensitive(true);
            headers.append(header::AUTHORIZATION, value);
            Ok::<_, CredentialError>(())
        };
        if let Some(file) = &self.bearer_token_file {
            let (token, _) = TokenSource::File(file.clone()).read()?;
            authorize(Credential::Token, file, format!("Bearer {}", token.expose()))?;
        }
        if let Some(file) = &self.basic_auth_file {
            let text = Credential::BasicAuth.text(file, TOKEN_BYTES_MAX)?;
            let pair = text.trim_end_matches(['\n', '\r']);
            let problem = match pair.split_once(':') {
                _ if pair.trim().is_empty() => Some(CredentialProblem::Empty(Credential::BasicAuth)),
                None | Some(("", _)) => Some(CredentialProblem::NoUser),
                Some(_) => None,
            };
            if let Some(problem) = problem {
                return Err(Credential::BasicAuth.wrong(Some(file), problem));
            }
            authorize(Credential::BasicAuth, file, format!("Basic {}", BASE64.encode(pair.as_bytes())))?;
        }
        Ok(PresentedHeaders(headers))
    }
}

/// Headers that authenticate the bridge on one connection.
#[derive(Debug, Clone, Default)]
pub(crate) struct PresentedHeaders(HeaderMap);

impl PresentedHeaders {
    pub(crate) fn headers(&self) -> &HeaderMap {
        &self.0
    }

    /// Returns `text` without these secrets: servers tend to quote what they refuse.
    pub(crate) fn redact(&self, text: &str) -> String {
        Redaction::of_headers(&self.0).redact(text)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn files_become_headers_that_are_never_printed() {
        let directory = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| {
            let file = directory.path().join(name);
            fs::write(&file, text).unwrap();
            Some(file)
        };
        let credentials = HttpCredentials {
            headers_file: write("headers", "X-Scope-OrgID: tenant-1\n"),
            bearer_token_file: write("token", "the-token-itself\n"),
            ..HttpCredentials::default()
        };
        let presented = credentials.presented().unwrap();
        assert_eq!(presented.headers()["x-scope-orgid"], "tenant-1");
        assert_eq!(presented.headers()["authorization"], "Bearer the-token-itself");
        assert!(!format!("{presented:?}").contains("token-itself"), "{presented:?}");
        assert_eq!(presented.redact("not the-token-itself of tenant-1"), "not *** of ***");

        let basic = |text: &str| {
            let basic_auth_file = write("basic", text);
            HttpCredentials { basic_auth_file, ..HttpCredentials::default() }.presented()
        };
        // Source of the expected value: RFC 7617, 2.
        let aladdin = basic("Aladdin:open sesame\n").unwrap();
        assert_eq!(aladdin.headers()["authorization"], "Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ==");
        assert_eq!(aladdin.redact("Aladdin: open sesame, open&#32;sesame"), "Aladdin: ***, ***");
        assert_eq!(basic("\n").unwrap_err().problem, CredentialProblem::Empty(Credential::BasicAuth));
        for text in ["user", ":password"] {
            assert_eq!(basic(text).unwrap_err().problem, CredentialProblem::NoUser, "{text}");
        }
    }

    #[test]
    fn headers_of_remote_write_itself_are_refused() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("headers");
        for name in ["Content-Encoding", "content-type", "X-Prometheus-Remote-Write-Version", "Host", "Content-Length"]
        {
            fs::write(&file, format!("{name}: x")).unwrap();
            let credentials = HttpCredentials { headers_file: Some(file.clone()), ..HttpCredentials::default() };
            let problem = headers::HeaderProblem::RemoteWrite;
            assert_eq!(
                credentials.check().unwrap_err().problem,
                CredentialProblem::Header { line: 1, problem },
                "{name}"
            );
        }
    }
}
