//! PEM, parsed for the client's side of TLS and for the server's. No error repeats the text, which may be a private key.

use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use thiserror::Error;

/// How a PEM text is malformed. Nothing of the text is quoted: in a key without line breaks the parser takes all of it for one
/// line, and quotes that.
///
/// ```
/// use session_buddy_bridge::settings::{CredentialProblem, Credentials, PemError, TlsFiles};
///
/// # let directory = tempfile::tempdir().unwrap();
/// # let path = directory.path().join("ca.pem");
/// std::fs::write(&path, "-----BEGIN CERTIFICATE-----\n").unwrap();
/// let tls = TlsFiles { ca: Some(path), ..TlsFiles::default() };
/// let error = Credentials { tls, ..Credentials::default() }.check().unwrap_err();
/// assert_eq!(error.problem, CredentialProblem::BrokenPem(PemError::MissingEnd));
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum PemError {
    /// A section has no `-----END` line.
    #[error("a section has no -----END line of its own")]
    MissingEnd,
    /// A `-----BEGIN` line is malformed.
    #[error("a -----BEGIN line does not end with a label and five dashes")]
    MalformedBegin,
    /// The content of a section is not base64.
    #[error("the content of a section is not base64")]
    Base64,
    /// A section is too long for the parser.
    #[error("a section is too long")]
    TooLong,
    /// The parser cannot say more without quoting the text.
    #[error("it cannot be parsed")]
    Other,
}

impl From<pem::Error> for PemError {
    fn from(error: pem::Error) -> Self {
        match error {
            pem::Error::MissingSectionEnd { .. } => Self::MissingEnd,
            pem::Error::IllegalSectionStart { .. } => Self::MalformedBegin,
            pem::Error::Base64Decode(_) => Self::Base64,
            pem::Error::SectionTooLarge => Self::TooLong,
            _ => Self::Other,
        }
    }
}

/// Returns the certificates of `text`, in its order. Other sections are skipped.
pub(crate) fn certificates(text: &[u8]) -> Result<Vec<CertificateDer<'static>>, PemError> {
    CertificateDer::pem_slice_iter(text).collect::<Result<_, _>>().map_err(PemError::from)
}

/// Returns the first unencrypted private key of `text`, `None` if there is none.
pub(crate) fn private_key(text: &[u8]) -> Result<Option<PrivateKeyDer<'static>>, PemError> {
    match PrivateKeyDer::from_pem_slice(text) {
        Ok(key) => Ok(Some(key)),
        Err(pem::Error::NoItemsFound) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_malformed_text_is_named_by_type_and_not_quoted() {
        for (text, error) in [
            ("-----BEGIN PRIVATE KEY-----\nhunter2\n", PemError::MissingEnd),
            ("-----BEGIN PRIVATE KEY----- hunter2 -----END PRIVATE KEY-----\n", PemError::MissingEnd),
            ("-----BEGIN PRIVATE KEY hunter2\n", PemError::MalformedBegin),
            ("-----BEGIN PRIVATE KEY-----\n!hunter2\n-----END PRIVATE KEY-----\n", PemError::Base64),
        ] {
            assert_eq!(private_key(text.as_bytes()), Err(error), "{text}");
            assert!(!format!("{error} {error:?}").contains("hunter2"));
        }
        assert_eq!(private_key(b"hunter2"), Ok(None));
        assert_eq!(certificates(b"hunter2"), Ok(Vec::new()));
    }
}
