//! Trusted certificates, and the client's own.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{ClientConfig, InconsistentKeys, RootCertStore};

use super::{Credential, CredentialError, CredentialProblem};
use crate::pem;

/// Longest PEM file, in bytes: several times the root certificates of a system.
const PEM_BYTES_MAX: usize = 1024 * 1024;

/// The PEM files of a TLS client.
///
/// ```
/// use session_buddy_bridge::settings::{Credentials, FeedTarget, TlsFiles};
///
/// let mut feed = FeedTarget::new("wss://alpha:8765").unwrap();
/// let tls = TlsFiles { ca: Some("/etc/example/ca.pem".into()), identity: None };
/// feed.credentials = Credentials { tls, ..Credentials::default() };
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TlsFiles {
    /// Certificates that are trusted instead of the system's roots.
    pub ca: Option<PathBuf>,
    /// The client's certificate, for servers that request one.
    pub identity: Option<ClientIdentity>,
}

/// A client's certificate and its key.
///
/// ```
/// use session_buddy_bridge::settings::{ClientIdentity, Credential, Credentials, TlsFiles};
///
/// let identity = ClientIdentity { certificate: "/nowhere/client.pem".into(), key: "/nowhere/client.key".into() };
/// let tls = TlsFiles { identity: Some(identity), ..TlsFiles::default() };
/// let error = Credentials { tls, ..Credentials::default() }.check().unwrap_err();
/// assert_eq!(error.credential, Credential::Certificate);
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientIdentity {
    /// PEM file of the certificate, followed by its intermediate certificates.
    pub certificate: PathBuf,
    /// PEM file of the private key, unencrypted. It may be the same file.
    pub key: PathBuf,
}

impl TlsFiles {
    pub(super) fn check(&self) -> Result<(), CredentialError> {
        let roots = self.roots()?.unwrap_or_else(RootCertStore::empty);
        self.config(roots).map(drop)
    }

    /// Returns the certificates that are trusted instead of the system's roots.
    pub(in crate::feed) fn roots(&self) -> Result<Option<RootCertStore>, CredentialError> {
        self.ca.as_deref().map(trusted).transpose()
    }

    pub(in crate::feed) fn config(
        &self,
        roots: impl Into<Arc<RootCertStore>>,
    ) -> Result<ClientConfig, CredentialError> {
        // Without an explicit provider rustls panics as soon as two of them are compiled in.
        let builder = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .expect("ring has a cipher for every version")
            .with_root_certificates(roots);
        Ok(match &self.identity {
            None => builder.with_no_client_auth(),
            Some(identity) => {
                let key = identity.certified_key(builder.crypto_provider())?;
                builder.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(key)))
            }
        })
    }
}

impl ClientIdentity {
    /// Reads both files.
    ///
    /// # Errors
    /// One that cannot be used, or a key of another certificate.
    pub(crate) fn certified_key(&self, provider: &CryptoProvider) -> Result<CertifiedKey, CredentialError> {
        let Self { certificate, key } = self;
        let chain = certificates(Credential::Certificate, certificate)?;
        let private = private_key(key)?;
        CertifiedKey::from_der(chain, private, provider).map_err(|error| match error {
            rustls::Error::InconsistentKeys(InconsistentKeys::KeyMismatch) => {
                let problem = CredentialProblem::KeyMismatch { certificate: certificate.clone() };
                Credential::Key.wrong(Some(key), problem)
            }
            error @ rustls::Error::InvalidCertificate(_) => unusable(Credential::Certificate, certificate, error),
            error => unusable(Credential::Key, key, error),
        })
    }
}

fn trusted(file: &Path) -> Result<RootCertStore, CredentialError> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(Credential::Ca, file)? {
        roots.add(certificate).map_err(|error| unusable(Credential::Ca, file, error))?;
    }
    Ok(roots)
}

fn unusable(credential: Credential, file: &Path, error: rustls::Error) -> CredentialError {
    credential.wrong(Some(file), CredentialProblem::Unusable(error))
}

fn certificates(credential: Credential, file: &Path) -> Result<Vec<CertificateDer<'static>>, CredentialError> {
    let pem = credential.bytes(file, PEM_BYTES_MAX)?;
    match pem::certificates(&pem) {
        Ok(none) if none.is_empty() => {
            Err(credential.wrong(Some(file), CredentialProblem::NoPem { wanted: "certificate" }))
        }
        Ok(certificates) => Ok(certificates),
        Err(error) => Err(credential.wrong(Some(file), CredentialProblem::BrokenPem(error))),
    }
}

fn private_key(file: &Path) -> Result<PrivateKeyDer<'static>, CredentialError> {
    let pem = Credential::Key.bytes(file, PEM_BYTES_MAX)?;
    let problem = match pem::private_key(&pem) {
        Ok(Some(key)) => return Ok(key),
        Ok(None) => CredentialProblem::NoPem { wanted: "private key (unencrypted)" },
        Err(error) => CredentialProblem::BrokenPem(error),
    };
    Err(Credential::Key.wrong(Some(file), problem))
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::{CertifiedKey, generate_simple_self_signed};
    use std::fs;

    #[test]
    fn what_is_wrong_with_a_file_is_said_of_that_file() {
        let directory = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| {
            let file = directory.path().join(name);
            fs::write(&file, text).unwrap();
            file
        };
        let pair = || generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        let CertifiedKey { cert, signing_key } = pair();
        let certificate = write("certificate", &cert.pem());
        let key = write("key", &signing_key.serialize_pem());
        let both = write("both", &format!("{}{}", signing_key.serialize_pem(), cert.pem()));
        let other_key = write("other-key", &pair().signing_key.serialize_pem());
        let broken = write("broken", "-----BEGIN PRIVATE KEY-----\nhunter2\n");
        let hollow = write("hollow", "-----BEGIN CERTIFICATE-----\naHVudGVyMg==\n-----END CERTIFICATE-----\n");
        let hollow_key = write("hollow-key", "-----BEGIN PRIVATE KEY-----\naHVudGVyMg==\n-----END PRIVATE KEY-----\n");

        let ca = |file: &Path| TlsFiles { ca: Some(file.to_owned()), identity: None }.check();
        let identity = |certificate: &Path, key: &Path| {
            let identity = ClientIdentity { certificate: certificate.to_owned(), key: key.to_owned() };
            TlsFiles { ca: None, identity: Some(identity) }.check()
        };
        assert_eq!(TlsFiles::default().check(), Ok(()));
        assert_eq!(ca(&certificate), Ok(()));
        assert_eq!(identity(&certificate, &key), Ok(()));
        assert_eq!(identity(&both, &both), Ok(()));

        for (checked, told) in [
            (ca(&key), r#"the CA file "key" holds no certificate in PEM"#),
            (ca(&hollow), r#"the CA file "hollow" cannot be used ("#),
            (identity(&key, &key), r#"the client certificate file "key" holds no certificate in PEM"#),
            (identity(&certificate, &certificate), r#"the client key file "certificate" holds no private key"#),
            (identity(&certificate, &broken), r#"the client key file "broken" is invalid PEM"#),
            (identity(&certificate, &hollow_key), r#"the client key file "hollow-key" cannot be used ("#),
            (identity(&hollow, &key), r#"the client certificate file "hollow" cannot be used ("#),
            (
                identity(&certificate, &other_key),
                r#"the client key file "other-key" is not the key of the certificate in "certificate""#,
            ),
        ] {
            let error = checked.unwrap_err().to_string().replace(&format!("{}/", directory.path().display()), "");
            assert!(error.starts_with(told), "{error}\n{told}");
            assert!(!error.contains("hunter2") && !error.contains("aHVudGVyMg"), "{error}");
        }
    }
}
