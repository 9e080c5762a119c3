//! PEM, parsed for the client's side of TLS and for the server's. No error repeats the text, which may be a private key.

use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use rustls::{CertificateError, OtherError};
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

/// The keys that the crypto provider supports, as a remedy for one that it does not.
pub(crate) const KEY_REMEDY: &str = "the key is of a kind that is not supported: create one for the curve P-256 or P-384, for \
                                     Ed25519, or of RSA with 2048 bits or more, and have a certificate issued for it";

/// Returns what to do about a certificate or key for which rustls only has the names of the standards.
pub(crate) fn remedy(error: &rustls::Error) -> Option<&'static str> {
    use webpki::Error as Webpki;
    match error {
        rustls::Error::InvalidCertificate(CertificateError::Other(OtherError(cause))) => {
            match cause.downcast_ref::<Webpki>()? {
                Webpki::UnsupportedCertVersion => Some(
                    "the certificate is of X.509 version 1: issue one of version 3, which names its hosts (openssl req -x509 \
                     -addext subjectAltName=DNS:HOST)",
                ),
                Webpki::CaUsedAsEndEntity => Some(
                    "the certificate is that of a CA and is used as that of a server or client: issue one that is not (openssl \
                     req -x509 -addext basicConstraints=critical,CA:FALSE)",
                ),
                _ => None,
            }
        }
        rustls::Error::InvalidCertificate(
            CertificateError::UnsupportedSignatureAlgorithmContext { .. }
            | CertificateError::UnsupportedSignatureAlgorithmForPublicKeyContext { .. },
        ) => Some(KEY_REMEDY),
        rustls::Error::General(message) if message.starts_with("failed to parse private key") => Some(KEY_REMEDY),
        _ => None,
    }
}

/// Returns whether this is the certificate of a CA, as `openssl req -x509` issues it by default. rustls and webpki refuse it as
/// that of a server or client, Go and OpenSSL do not. One that is out of date is refused for that, and is none here.
pub(crate) fn is_of_ca(certificate: &CertificateDer<'_>) -> bool {
    let Ok(certificate) = webpki::EndEntityCert::try_from(certificate) else { return false };
    let usage = webpki::KeyUsage::server_auth();
    let verified = certificate.verify_for_usage(&[], &[], &[], UnixTime::now(), usage, None, None);
    matches!(verified, Err(webpki::Error::CaUsedAsEndEntity))
}

/// Returns whether signatures by the key of this certificate cannot be verified: RSA of less than 2048 bits, or P-521.
pub(crate) fn has_unsupported_key(certificate: &CertificateDer<'_>) -> bool {
    /// The identifiers of RSA and of the curve P-521, in DER.
    const RSA: &[u8] = &[0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x01];
    const P521: &[u8] = &[0x06, 0x05, 0x2b, 0x81, 0x04, 0x00, 0x23];
    /// A public RSA key of 2048 bits has 288 bytes or more in DER, and one of 1920 bits 274.
    const RSA_2048_BYTES: usize = 280;
    let Ok(anchor) = webpki::anchor_from_trusted_cert(certificate) else { return false };
    let key = anchor.subject_public_key_info;
    let is_of = |identifier: &[u8]| key.windows(identifier.len()).any(|window| window == identifier);
    is_of(P521) || is_of(RSA) && key.len() < RSA_2048_BYTES
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use rcgen::{BasicConstraints, CertificateParams, IsCa, KeyPair};
    use rustls::RootCertStore;
    use rustls::client::WebPkiServerVerifier;
    use rustls::client::danger::ServerCertVerifier as _;
    use rustls::crypto::ring::default_provider;
    use rustls::pki_types::{ServerName, UnixTime};

    use super::*;

    #[test]
    fn a_certificate_of_a_ca_that_is_used_as_a_servers_has_a_remedy() {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(["localhost".to_owned()]).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let certificate = params.self_signed(&key).unwrap().der().clone();
        let mut roots = RootCertStore::empty();
        roots.add(certificate.clone()).unwrap();
        let verifier = WebPkiServerVerifier::builder_with_provider(roots.into(), Arc::new(default_provider()));
        let name = ServerName::try_from("localhost").unwrap();
        let verified = verifier.build().unwrap().verify_server_cert(&certificate, &[], &name, &[], UnixTime::now());
        let error = verified.unwrap_err();
        assert!(remedy(&error).is_some_and(|remedy| remedy.contains("CA:FALSE")), "{error}");
        assert!(is_of_ca(&certificate));
        for is_ca in [IsCa::NoCa, IsCa::ExplicitNoCa] {
            params.is_ca = is_ca;
            assert!(!is_of_ca(params.self_signed(&key).unwrap().der()), "{:?}", params.is_ca);
        }
    }

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
