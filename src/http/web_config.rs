//! The web configuration file, as the Prometheus exporter-toolkit defines it: TLS, client certificates, users, headers.
//!
//! Source of the fields and their meaning: docs/web-configuration.md of github.com/prometheus/exporter-toolkit. What rustls
//! cannot do, or should not, is refused by name rather than left out: a file that is accepted does what it says.

use std::collections::BTreeMap;
use std::error::Error as StdError;
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::crypto::{CryptoProvider, SupportedKxGroup, ring};
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{ParsedCertificate, WebPkiClientVerifier};
use rustls::{RootCertStore, ServerConfig, SupportedCipherSuite, SupportedProtocolVersion};
use serde::Deserialize;
use thiserror::Error;
use warp::http::{HeaderMap, HeaderName, HeaderValue};

use super::WebConfigSummary;
use super::basic_auth::{HashError, PasswordHash, Users};
use crate::pem;
use crate::reload::{self, Attempt, Protection, ProtectionRemoved, Protections, Sources, YamlError};

type Cause = Box<dyn StdError + Send + Sync>;

/// Why a web configuration file cannot be used.
///
/// ```
/// use session_buddy_bridge::settings::{WebConfigError, WebConfigFile};
///
/// # let directory = tempfile::tempdir().unwrap();
/// # let path = directory.path().join("web.yaml");
/// std::fs::write(&path, "tls_server_config:\n  cert_file: absent.pem\n").unwrap();
/// match WebConfigFile::open(&path).unwrap_err() {
///     WebConfigError::Unreadable { file, .. } => assert_eq!(file, path.with_file_name("absent.pem")),
///     other => panic!("{other}"),
/// }
/// ```
#[derive(Debug, Error)]
pub enum WebConfigError {
    /// The file, or one that it names, cannot be read.
    #[error("{}: {error}", .file.display())]
    Unreadable {
        /// Path of the file at fault.
        file: PathBuf,
        /// The system's error.
        #[source]
        error: io::Error,
    },
    /// The file has no content, which is what a copy or a full disk leaves.
    #[error("{}: the file is empty; to configure nothing, write {{}}", .file.display())]
    Empty {
        /// Path of the file at fault.
        file: PathBuf,
    },
    /// Of ten reads a second apart, no two in a row agreed.
    #[error("{}: it is still being written", .file.display())]
    StillChanging {
        /// Path of the file at fault.
        file: PathBuf,
    },
    /// The file is valid, and lacks what a reload must not take away.
    #[error("{}: {error}", .file.display())]
    ProtectionRemoved {
        /// Path of the file at fault.
        file: PathBuf,
        /// What it lacks.
        #[source]
        error: ProtectionRemoved,
    },
    /// The file is not YAML, or has an unknown field.
    #[error("{}: {error}", .file.display())]
    Malformed {
        /// Path of the file at fault.
        file: PathBuf,
        /// Line and column, and what is wrong there.
        #[source]
        error: Cause,
    },
    /// A field has an invalid value.
    #[error("{}: {field}: {problem}", .file.display())]
    Field {
        /// Path of the file at fault.
        file: PathBuf,
        /// The path of the field.
        field: &'static str,
        /// What is wrong with the value, and what is valid.
        problem: String,
        /// The error of the parser of the value, where it has one of its own.
        #[source]
        cause: Option<Cause>,
    },
}

/// What a web configuration file says.
#[derive(Debug, Default)]
pub(super) struct WebConfig {
    pub tls: Option<Arc<ServerConfig>>,
    /// The server's own certificate, if it has TLS.
    pub certificate: Option<CertificateDer<'static>>,
    /// The file of that certificate, if it is that of a CA.
    ca_certificate_file: Option<PathBuf>,
    /// Whether the handshake fails without a certificate of the client.
    requires_client_certificate: bool,
    /// Names that a client's certificate must have one of; empty if any will do.
    client_sans: Vec<ServerName<'static>>,
    /// Empty if everybody is let in.
    pub users: Users,
    /// Headers of every response; `None` for one that no response has.
    headers: Vec<(HeaderName, Option<HeaderValue>)>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct File {
    tls_server_config: Option<TlsServer>,
    http_server_config: HttpServer,
    basic_auth_users: BTreeMap<String, String>,
    rate_limit: RateLimit,
}

/// A limit on all requests together, which is off without an interval.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct RateLimit {
    interval: Option<String>,
    #[serde(rename = "burst")]
    _burst: Option<u64>,
}

impl RateLimit {
    fn is_off(&self) -> bool {
        let interval = self.interval.as_deref().unwrap_or_default();
        interval.trim_end_matches(|unit: char| unit.is_ascii_alphabetic()).bytes().all(|digit| digit == b'0')
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct TlsServer {
    cert: Option<String>,
    cert_file: Option<PathBuf>,
    key: Option<String>,
    key_file: Option<PathBuf>,
    client_auth_type: Option<String>,
    client_ca: Option<String>,
    client_ca_file: Option<PathBuf>,
    client_allowed_sans: Vec<String>,
    min_version: Option<String>,
    max_version: Option<String>,
    cipher_suites: Vec<String>,
    prefer_server_cipher_suites: Option<bool>,
    curve_preferences: Vec<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct HttpServer {
    /// Either is right: a server may speak HTTP/1.1 alone, and this one does.
    #[serde(rename = "http2")]
    _http2: Option<bool>,
    headers: BTreeMap<String, Option<String>>,
}

/// The headers that the toolkit lets a file set.
const HEADERS: [&str; 5] = [
    "content-security-policy",
    "strict-transport-security",
    "x-content-type-options",
    "x-frame-options",
    "x-xss-protection",
];

impl WebConfig {
    /// Reads the file at `path` and every file that it names.
    pub fn read(path: &Path) -> Attempt<Result<Self, WebConfigError>> {
        let mut sources = Sources::default();
        let outcome = Self::read_from(&mut sources, path);
        Attempt { sources, outcome }
    }

    fn read_from(sources: &mut Sources, path: &Path) -> Result<Self, WebConfigError> {
        let text = sources
            .read_to_string(path)
            .map_err(|error| WebConfigError::Unreadable { file: path.to_owned(), error })?;
        let file: File = reload::parse(&text).map_err(|error| match error {
            YamlError::Empty => WebConfigError::Empty { file: path.to_owned() },
            YamlError::Malformed(error) => WebConfigError::Malformed { file: path.to_owned(), error },
        })?;
        let mut config = Self::default();
        let field = |field, problem: String, cause: Option<Cause>| WebConfigError::Field {
            file: path.to_owned(),
            field,
            problem,
            cause,
        };
        for (user, hash) in file.basic_auth_users {
            if user.is_empty() || user.contains(':') {
                return Err(field("basic_auth_users", format!("{user:?} should be a name without a colon"), None));
            }
            let hash = PasswordHash::new(hash).map_err(|error| {
                let problem = match &error {
                    HashError::Malformed(_) => {
                        format!("the password of {user:?} should be a bcrypt hash, as `htpasswd -nBC 10` prints it")
                    }
                    HashError::Cost(cost) => format!(
                        "the hash of {user:?} has the cost {cost}, which is not within 4 to 31: hash the password again, \
                         as with `htpasswd -nBC 10`"
                    ),
                };
                field("basic_auth_users", problem, Some(error.into()))
            })?;
            config.users.insert(user, hash);
        }
        if !file.rate_limit.is_off() {
            let problem = "is not supported, because it would refuse scrapes when strangers send requests; connections, scrapes \
                           at once and logins have limits of their own: leave it out";
            return Err(field("rate_limit", problem.to_owned(), None));
        }
        for (name, value) in file.http_server_config.headers {
            let known = HEADERS.iter().find(|known| known.eq_ignore_ascii_case(&name));
            let known = known.ok_or_else(|| {
                field("http_server_config.headers", format!("{name:?} is none of {}", HEADERS.join(", ")), None)
            })?;
            let value = value.filter(|value| !value.trim().is_empty());
            let value = value.map(|value| HeaderValue::from_str(&value)).transpose().map_err(|error| {
                let problem = format!("the value of {name:?} cannot stand in a header");
                field("http_server_config.headers", problem, Some(error.into()))
            })?;
            config.headers.push((HeaderName::from_static(known), value));
        }
        if let Some(tls) = file.tls_server_config {
            let folder = path.parent().unwrap_or(Path::new(""));
            let (certificate, server, clients) = Reader { path, folder, sources }.tls(&tls)?;
            let file = tls.cert_file.as_ref().map_or_else(|| path.to_owned(), |file| folder.join(file));
            config.ca_certificate_file = pem::is_of_ca(&certificate).then_some(file);
            config.certificate = Some(certificate);
            config.tls = Some(Arc::new(server));
            config.requires_client_certificate = clients.is_required;
            config.client_sans = clients.sans;
        }
        Ok(config)
    }

    /// Returns what a reload must not take away.
    pub fn protections(&self) -> Protections {
        Protections::default()
            .with(Protection::Users, !self.users.is_empty())
            .with(Protection::Tls, self.tls.is_some())
            .with(Protection::ClientCertificates, self.needs_client_certificate())
            .with(Protection::ClientNames, !self.client_sans.is_empty())
    }

    pub fn summary(&self) -> WebConfigSummary {
        WebConfigSummary {
            users: self.users.len(),
            has_tls: self.tls.is_some(),
            requires_client_certificate: self.needs_client_certificate(),
            ca_certificate_file: self.ca_certificate_file.clone(),
        }
    }

    /// A client without a certificate has none of the allowed names either.
    fn needs_client_certificate(&self) -> bool {
        self.requires_client_certificate || !self.client_sans.is_empty()
    }

    /// Sets the configured headers of a response, and removes those that are configured to be blank.
    pub fn set_headers(&self, headers: &mut HeaderMap) {
        for (name, value) in &self.headers {
            match value {
                Some(value) => drop(headers.insert(name, value.clone())),
                None => drop(headers.remove(name)),
            }
        }
    }

    /// Returns whether the server's own certificate is valid for the host `name`.
    pub fn certificate_names(&self, name: &str) -> bool {
        let certificate = self.certificate.as_ref().and_then(|found| webpki::EndEntityCert::try_from(found).ok());
        let name = ServerName::try_from(name).ok();
        certificate.zip(name).is_some_and(|(found, name)| found.verify_is_valid_for_subject_name(&name).is_ok())
    }

    /// Returns whether a client with this certificate is allowed. The handshake has verified its signature.
    pub fn allows_certificate(&self, certificates: Option<&[CertificateDer<'_>]>) -> bool {
        if self.client_sans.is_empty() {
            return true;
        }
        let Some(certificate) = certificates.and_then(|chain| chain.first()) else { return false };
        let Ok(certificate) = webpki::EndEntityCert::try_from(certificate) else { return false };
        self.client_sans.iter().any(|name| certificate.verify_is_valid_for_subject_name(name).is_ok())
    }
}

/// Reads what a web configuration file names.
struct Reader<'p> {
    path: &'p Path,
    folder: &'p Path,
    sources: &'p mut Sources,
}

/// What is required of the certificates of clients.
#[derive(Default)]
struct ClientRules {
    verifier: Option<Arc<dyn ClientCertVerifier>>,
    is_required: bool,
    sans: Vec<ServerName<'static>>,
}

impl Reader<'_> {
    fn wrong(&self, field: &'static str, problem: impl Into<String>) -> WebConfigError {
        WebConfigError::Field { file: self.path.to_owned(), field, problem: problem.into(), cause: None }
    }

    fn wrong_because(
        &self,
        field: &'static str,
        problem: impl Into<String>,
        cause: impl Into<Cause>,
    ) -> WebConfigError {
        WebConfigError::Field { file: self.path.to_owned(), field, problem: problem.into(), cause: Some(cause.into()) }
    }

    /// An error of the TLS library, whose message says enough.
    fn refused(&self, field: &'static str, error: impl StdError + Send + Sync + 'static) -> WebConfigError {
        self.wrong_because(field, error.to_string(), error)
    }

    /// A certificate or a key that cannot be used, with the remedy where one is known.
    fn unusable(&self, field: &'static str, error: rustls::Error) -> WebConfigError {
        let problem = match pem::remedy(&error) {
            Some(remedy) => remedy.to_owned(),
            None if matches!(error, rustls::Error::InconsistentKeys(_)) => {
                "is not the key of the certificate in cert_file: give the two of one pair".to_owned()
            }
            None => error.to_string(),
        };
        self.wrong_because(field, problem, error)
    }

    /// The PEM text that stands in the file, or in a file that it names.
    fn pem(
        &mut self,
        field: &'static str,
        inline: Option<&String>,
        file: Option<&PathBuf>,
    ) -> Result<Option<Vec<u8>>, WebConfigError> {
        match (inline, file) {
            (Some(_), Some(_)) => Err(self.wrong(field, "is given twice, as text and as a file: one of the two")),
            (Some(text), None) => Ok(Some(text.clone().into_bytes())),
            (None, Some(file)) if file.as_os_str().is_empty() => Ok(None),
            (None, Some(file)) => {
                let file = self.folder.join(file);
                match self.sources.read(&file) {
                    Ok(pem) => Ok(Some(pem)),
                    Err(error) => Err(WebConfigError::Unreadable { file, error }),
                }
            }
            (None, None) => Ok(None),
        }
    }

    fn certificates(&self, field: &'static str, pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, WebConfigError> {
        match pem::certificates(pem) {
            Ok(found) if !found.is_empty() => Ok(found),
            Ok(_) => Err(self.wrong(field, "there is no PEM certificate in it")),
            Err(error) => Err(self.wrong_because(field, "the PEM in it is broken", error)),
        }
    }

    /// Returns the server's certificate, its configuration, and what clients have to prove.
    fn tls(mut self, tls: &TlsServer) -> Result<(CertificateDer<'static>, ServerConfig, ClientRules), WebConfigError> {
        const CERT: &str = "tls_server_config.cert_file";
        const KEY: &str = "tls_server_config.key_file";
        let cert = self.pem(CERT, tls.cert.as_ref(), tls.cert_file.as_ref())?;
        let cert = cert.ok_or_else(|| self.wrong(CERT, "is missing: TLS needs a certificate and its key"))?;
        let key = self.pem(KEY, tls.key.as_ref(), tls.key_file.as_ref())?;
        let key = key.ok_or_else(|| self.wrong(KEY, "is missing: TLS needs a certificate and its key"))?;
        let chain = self.certificates(CERT, &cert)?;
        let certificate = chain[0].clone();
        // Before the key: rustls says of the key that the certificate cannot be parsed.
        ParsedCertificate::try_from(&certificate).map_err(|error| self.unusable(CERT, error))?;
        const NO_KEY: &str = "there is no unencrypted PEM private key in it";
        let key = pem::private_key(&key).map_err(|error| self.wrong_because(KEY, NO_KEY, error))?;
        let key = key.ok_or_else(|| self.wrong(KEY, NO_KEY))?;

        let provider = Arc::new(CryptoProvider {
            cipher_suites: self.cipher_suites(&tls.cipher_suites)?,
            kx_groups: self.curves(&tls.curve_preferences)?,
            ..ring::default_provider()
        });
        let versions = self.versions(tls)?;
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(&versions)
            .map_err(|error| self.refused("tls_server_config.cipher_suites", error))?;
        let clients = self.client_rules(tls, provider)?;
        let builder = match &clients.verifier {
            None => builder.with_no_client_auth(),
            Some(verifier) => builder.with_client_cert_verifier(Arc::clone(verifier)),
        };
        let mut config = builder.with_single_cert(chain, key).map_err(|error| self.unusable(KEY, error))?;
        config.ignore_client_order = tls.prefer_server_cipher_suites.unwrap_or(true);
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok((certificate, config, clients))
    }

    fn client_rules(&mut self, tls: &TlsServer, provider: Arc<CryptoProvider>) -> Result<ClientRules, WebConfigError> {
        const TYPE: &str = "tls_server_config.client_auth_type";
        const CA: &str = "tls_server_config.client_ca_file";
        const SANS: &str = "tls_server_config.client_allowed_sans";
        let ca = self.pem(CA, tls.client_ca.as_ref(), tls.client_ca_file.as_ref())?;
        let is_required = match tls.client_auth_type.as_deref() {
            None | Some("" | "NoClientCert") if ca.is_some() => {
                return Err(self.wrong(CA, "is given, and client_auth_type does not request certificates"));
            }
            None | Some("" | "NoClientCert") if !tls.client_allowed_sans.is_empty() => {
                return Err(self.wrong(SANS, "is given, and client_auth_type does not request certificates"));
            }
            None | Some("" | "NoClientCert") => return Ok(ClientRules::default()),
            Some("VerifyClientCertIfGiven") => false,
            Some("RequireAndVerifyClientCert") => true,
            Some(unverified @ ("RequestClientCert" | "RequireAnyClientCert")) => {
                let problem = format!(
                    "{unverified} takes certificates that nobody signed, which this server does not: use \
                     VerifyClientCertIfGiven or RequireAndVerifyClientCert"
                );
                return Err(self.wrong(TYPE, problem));
            }
            Some(other) => {
                let known = "NoClientCert, VerifyClientCertIfGiven or RequireAndVerifyClientCert";
                return Err(self.wrong(TYPE, format!("{other:?} is none of {known}")));
            }
        };
        let ca = ca.ok_or_else(|| self.wrong(CA, "is missing: certificates of clients are checked against it"))?;
        let mut roots = RootCertStore::empty();
        for certificate in self.certificates(CA, &ca)? {
            if pem::has_unsupported_key(&certificate) {
                return Err(self.wrong(CA, pem::KEY_REMEDY));
            }
            roots.add(certificate).map_err(|error| self.refused(CA, error))?;
        }
        let builder = WebPkiClientVerifier::builder_with_provider(roots.into(), provider);
        let builder = if is_required { builder } else { builder.allow_unauthenticated() };
        let verifier = builder.build().map_err(|error| self.refused(CA, error))?;
        let sans = tls.client_allowed_sans.iter().map(|name| {
            let address = name.parse::<IpAddr>().map(|address| ServerName::IpAddress(address.into()));
            address.or_else(|_| ServerName::try_from(name.clone())).map_err(|error| {
                let problem = format!("{name:?} is neither a DNS name nor an address; other names are not checked");
                self.wrong_because(SANS, problem, error)
            })
        });
        Ok(ClientRules { verifier: Some(verifier), is_required, sans: sans.collect::<Result<_, _>>()? })
    }

    fn versions(&self, tls: &TlsServer) -> Result<Vec<&'static SupportedProtocolVersion>, WebConfigError> {
        let read = |field, name: Option<&String>, default: u8| match name.map(String::as_str) {
            None | Some("") => Ok(default),
            Some("TLS13") => Ok(3),
            Some("TLS12") => Ok(2),
            Some(old @ ("TLS11" | "TLS10")) => {
                Err(self.wrong(field, format!("{old} is not spoken, because it is broken: use TLS12 or TLS13")))
            }
            Some(other) => Err(self.wrong(field, format!("{other:?} is neither TLS12 nor TLS13"))),
        };
        let least = read("tls_server_config.min_version", tls.min_version.as_ref(), 2)?;
        let most = read("tls_server_config.max_version", tls.max_version.as_ref(), 3)?;
        if least > most {
            return Err(self.wrong("tls_server_config.min_version", "is above max_version"));
        }
        let both = [(2, &rustls::version::TLS12), (3, &rustls::version::TLS13)];
        Ok(both.into_iter().filter(|(number, _)| (least..=most).contains(number)).map(|(_, version)| version).collect())
    }

    /// Go's names, as the toolkit has them. They govern TLS 1.2: as in Go, the suites of TLS 1.3 are always on.
    fn cipher_suites(&self, names: &[String]) -> Result<Vec<SupportedCipherSuite>, WebConfigError> {
        use ring::cipher_suite as suite;
        const FIELD: &str = "tls_server_config.cipher_suites";
        if names.is_empty() {
            return Ok(ring::default_provider().cipher_suites);
        }
        const TLS13: [(&str, SupportedCipherSuite); 3] = [
            ("TLS_AES_128_GCM_SHA256", suite::TLS13_AES_128_GCM_SHA256),
            ("TLS_AES_256_GCM_SHA384", suite::TLS13_AES_256_GCM_SHA384),
            ("TLS_CHACHA20_POLY1305_SHA256", suite::TLS13_CHACHA20_POLY1305_SHA256),
        ];
        const TLS12: [(&str, SupportedCipherSuite); 6] = [
            ("TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256", suite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256),
            ("TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384", suite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384),
            ("TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256", suite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256),
            ("TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256", suite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256),
            ("TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384", suite::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384),
            ("TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256", suite::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256),
        ];
        let mut suites = TLS13.map(|(_, suite)| suite).to_vec();
        for name in names {
            if let Some((_, suite)) = TLS12.iter().find(|(known, _)| known == name) {
                suites.push(*suite);
            } else if !TLS13.iter().any(|(known, _)| known == name) {
                let names = TLS12.map(|(name, _)| name).join(", ");
                return Err(self.wrong(FIELD, format!("{name:?} is not supported; for TLS 1.2 there are {names}")));
            }
        }
        Ok(suites)
    }

    fn curves(&self, names: &[String]) -> Result<Vec<&'static dyn SupportedKxGroup>, WebConfigError> {
        use ring::kx_group as group;
        if names.is_empty() {
            return Ok(ring::default_provider().kx_groups);
        }
        let find = |name: &String| match name.as_str() {
            "X25519" => Ok(group::X25519),
            "CurveP256" => Ok(group::SECP256R1),
            "CurveP384" => Ok(group::SECP384R1),
            other => {
                let problem = format!("{other:?} is not spoken; there are X25519, CurveP256 and CurveP384");
                Err(self.wrong("tls_server_config.curve_preferences", problem))
            }
        };
        names.iter().map(find).collect()
    }
}
