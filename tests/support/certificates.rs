//! A certificate authority of a test's own, and the PEM files that come of it.

use rcgen::{BasicConstraints, Certificate, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use rustls::pki_types::PrivateKeyDer;
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Signs certificates for as long as the test runs.
pub struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
}

/// The names in the certificate of [`Authority::server_files`].
const SERVER_HOSTS: [&str; 3] = ["127.0.0.1", "bridge.example", "*.bridges.example"];

/// A client's files.
pub struct ClientFiles {
    pub certificate: PathBuf,
    pub key: PathBuf,
}

impl Authority {
    pub fn new(name: &str) -> Self {
        let mut params = named(name, &[]);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Self { issuer: CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap() }
    }

    /// Its own certificate, as a file in `directory`.
    pub fn file(&self, directory: &Path) -> PathBuf {
        written(&directory.join("ca.pem"), &self.issuer.pem())
    }

    /// A client that it vouches for, as two files in `directory`.
    pub fn client(&self, name: &str, directory: &Path) -> ClientFiles {
        let (certificate, key) = self.signed(&named(name, &[]));
        ClientFiles {
            certificate: written(&directory.join(format!("{name}.pem")), &certificate.pem()),
            key: written(&directory.join(format!("{name}.key")), &key.serialize_pem()),
        }
    }

    /// A server on 127.0.0.1 and the hosts of [`SERVER_HOSTS`] that it vouches for, as `server.pem` and `server.key` in
    /// `directory`.
    pub fn server_files(&self, directory: &Path) {
        let (certificate, key) = self.signed(&named("the server", &SERVER_HOSTS));
        written(&directory.join("server.pem"), &certificate.pem());
        written(&directory.join("server.key"), &key.serialize_pem());
    }

    /// Its own certificate and key in place of those of a server, as in [`Self::server_files`].
    pub fn own_files(&self, directory: &Path) {
        written(&directory.join("server.pem"), &self.issuer.pem());
        written(&directory.join("server.key"), &self.issuer.key().serialize_pem());
    }

    /// A server on 127.0.0.1 that it vouches for; with `clients`, it wants a certificate that those have signed.
    pub fn server(&self, clients: Option<&Authority>) -> Arc<ServerConfig> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder =
            ServerConfig::builder_with_provider(provider.clone()).with_safe_default_protocol_versions().unwrap();
        let builder = match clients {
            None => builder.with_no_client_auth(),
            Some(clients) => {
                let mut roots = RootCertStore::empty();
                roots.add(clients.issuer.der().clone()).unwrap();
                let verifier = WebPkiClientVerifier::builder_with_provider(roots.into(), provider).build().unwrap();
                builder.with_client_cert_verifier(verifier)
            }
        };
        let (certificate, key) = self.signed(&named("the server", &["127.0.0.1"]));
        let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
        Arc::new(builder.with_single_cert(vec![certificate.der().clone()], key).unwrap())
    }

    fn signed(&self, params: &CertificateParams) -> (Certificate, KeyPair) {
        let key = KeyPair::generate().unwrap();
        (params.signed_by(&key, &self.issuer).unwrap(), key)
    }
}

fn named(name: &str, hosts: &[&str]) -> CertificateParams {
    let hosts: Vec<String> = hosts.iter().map(|host| (*host).to_owned()).collect();
    let mut params = CertificateParams::new(hosts).unwrap();
    params.distinguished_name.push(DnType::CommonName, name);
    params
}

fn written(file: &Path, text: &str) -> PathBuf {
    std::fs::write(file, text).unwrap();
    file.to_owned()
}
