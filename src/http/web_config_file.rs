//! The web configuration file while the server runs: what it said last, and the watch for changes.

use std::convert::Infallible;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustls::pki_types::CertificateDer;
use tokio::task::spawn_blocking;

use super::Content;
use super::password_verifier::PasswordVerifier;
use super::web_config::{WebConfig, WebConfigError};
use crate::reload::{self, Attempt, SettleError, Sources, read_settled};

/// A web configuration file: TLS, client certificates, users and response headers. A change of it, or of a file that it names,
/// counts once two reads a second apart agree, unless it would take a protection away. Source: docs/web-configuration.md of
/// github.com/prometheus/exporter-toolkit.
///
/// ```
/// use std::sync::Arc;
///
/// use session_buddy_bridge::Settings;
/// use session_buddy_bridge::settings::WebConfigFile;
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let directory = tempfile::tempdir()?;
/// # let path = directory.path().join("web.yaml");
/// std::fs::write(&path, "http_server_config:\n  headers:\n    X-Frame-Options: deny\n")?;
/// let web_config = WebConfigFile::open(&path)?;
/// assert!(!web_config.has_tls());
/// let settings = Settings { web_config: Some(Arc::new(web_config)), ..Settings::new(Vec::new()) };
/// # drop(settings);
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct WebConfigFile {
    path: PathBuf,
    accepted: Mutex<Arc<WebConfig>>,
    /// The files as they were when the configuration was opened.
    opened: Sources,
    /// One for all listeners.
    pub(super) verifier: PasswordVerifier,
}

/// An accepted web configuration, for the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WebConfigSummary {
    /// Number of users; 0 if nobody needs a password.
    pub users: usize,
    /// Whether connections are encrypted.
    pub has_tls: bool,
    /// Whether clients need a certificate.
    pub requires_client_certificate: bool,
    /// The file of the server's certificate, if that is the certificate of a CA, which some clients refuse.
    pub ca_certificate_file: Option<PathBuf>,
}

impl WebConfigSummary {
    /// Returns whether clients need a password or a certificate.
    pub fn authenticates(&self) -> bool {
        self.users > 0 || self.requires_client_certificate
    }
}

impl WebConfigFile {
    /// Reads the file at `path`.
    ///
    /// # Errors
    /// A file that cannot be used, with the field at fault.
    pub fn open(path: &Path) -> Result<Self, WebConfigError> {
        let Attempt { sources, outcome } = WebConfig::read(path);
        Ok(Self {
            path: path.to_owned(),
            accepted: Mutex::new(Arc::new(outcome?)),
            opened: sources,
            verifier: PasswordVerifier::new(),
        })
    }

    /// Returns what was accepted last.
    pub(super) fn current(&self) -> Arc<WebConfig> {
        Arc::clone(&self.accepted.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Returns the server's certificate, if connections are encrypted.
    pub(crate) fn certificate(&self) -> Option<CertificateDer<'static>> {
        self.current().certificate.clone()
    }

    /// Returns what was accepted last, for the log.
    pub(crate) fn summary(&self) -> WebConfigSummary {
        self.current().summary()
    }

    /// Returns whether connections are encrypted.
    pub fn has_tls(&self) -> bool {
        self.current().tls.is_some()
    }

    /// Accepts the outcome of a reload, or says why the accepted configuration stays.
    fn reload(&self, outcome: Result<WebConfig, WebConfigError>) -> Result<WebConfigSummary, WebConfigError> {
        let candidate = outcome?;
        let mut accepted = self.accepted.lock().unwrap_or_else(PoisonError::into_inner);
        reload::check(accepted.protections(), candidate.protections())
            .map_err(|error| WebConfigError::ProtectionRemoved { file: self.path.clone(), error })?;
        let summary = candidate.summary();
        *accepted = Arc::new(candidate);
        Ok(summary)
    }

    fn unsettled(&self, error: SettleError) -> WebConfigError {
        let file = self.path.clone();
        match error {
            SettleError::StillChanging => WebConfigError::StillChanging { file },
            panicked @ SettleError::Panicked(_) => {
                WebConfigError::Unreadable { file, error: io::Error::other(panicked) }
            }
        }
    }
}

impl PartialEq for WebConfigFile {
    fn eq(&self, other: &Self) -> bool {
        self.path == other.path
    }
}

impl Eq for WebConfigFile {}

/// Checks every `interval` whether `file`, or a file that it names, has changed, and reloads it then: two reads that far apart
/// must agree. Reports to `content` each configuration that is accepted and each that is not. Ends when it is dropped.
pub async fn watch_web_config(file: Arc<WebConfigFile>, content: Arc<dyn Content>, interval: Duration) -> Infallible {
    let mut reported = Some(file.opened.clone());
    // `None` until two reads agreed: the file may have been written while it was opened.
    let mut settled = None;
    loop {
        settled = match settled {
            Some(sources) => unchanged(sources).await,
            None => None,
        };
        if settled.is_none() {
            let path = file.path.clone();
            match read_settled(move || WebConfig::read(&path), interval).await {
                Ok(Attempt { sources, outcome }) => {
                    if !reported.as_ref().is_some_and(|reported| sources.has_same_content(reported)) {
                        match file.reload(outcome) {
                            Ok(summary) => content.web_config_reloaded(summary),
                            Err(error) => content.web_config_failed(&error),
                        }
                        reported = Some(sources.clone());
                    }
                    settled = Some(sources);
                }
                Err(error) => {
                    content.web_config_failed(&file.unsettled(error));
                    reported = None;
                }
            }
        }
        tokio::time::sleep(interval).await;
    }
}

/// Returns `sources` if none of them has changed.
async fn unchanged(sources: Sources) -> Option<Sources> {
    spawn_blocking(move || (!sources.have_changed()).then_some(sources)).await.ok().flatten()
}
