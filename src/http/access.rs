//! Access control: TLS, client certificates and passwords, by the current web configuration.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use hyper::Request;
use rustls::InvalidMessage;
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsAcceptor;
use warp::http::header;

use super::basic_auth::Credentials;
use super::host::{ForeignHost, ForeignOrigin, HostName, InvalidHost, foreign_host, has_foreign_origin};
use super::password_verifier::Verdict;
use super::socket::Socket;
use super::web_config::WebConfig;
use super::web_config_file::WebConfigFile;
use super::{Content, HttpSettings, Refusal};
use crate::pem;

/// A plain or encrypted connection.
pub(super) trait Wire: AsyncRead + AsyncWrite + Send + Unpin {}

impl<W: AsyncRead + AsyncWrite + Send + Unpin> Wire for W {}

/// Marks a request that is not to be served, whatever its path.
#[derive(Debug, Clone)]
pub(super) enum Denied {
    /// It has no valid host: to be answered with 400.
    InvalidHost(InvalidHost),
    /// A browser sent it to a host that is not known as this server: to be answered with 421.
    ForeignHost(ForeignHost),
    /// To be answered with 401.
    Unauthorized,
    /// To be answered with 503.
    TooManyLogins,
}

/// Why a connection was not accepted.
#[derive(Debug, Error)]
pub(super) enum NotAccepted {
    #[error("{}{}", .0, remedy_of(.0))]
    Handshake(#[source] io::Error),
    #[error("the client's certificate has none of the allowed names")]
    CertificateName,
}

/// Returns what to do about an invalid certificate of a client, behind a colon.
fn remedy_of(error: &io::Error) -> String {
    let error = error.get_ref().and_then(|error| error.downcast_ref());
    error.and_then(pem::remedy).map(|remedy| format!(": {remedy}")).unwrap_or_default()
}

impl NotAccepted {
    /// Returns what was refused; `None` if the client has left.
    pub fn refusal(&self) -> Option<Refusal> {
        let Self::Handshake(error) = self else { return Some(Refusal::ClientCertificate) };
        Some(match error.get_ref()?.downcast_ref::<rustls::Error>()? {
            rustls::Error::NoCertificatesPresented | rustls::Error::InvalidCertificate(_) => Refusal::ClientCertificate,
            rustls::Error::InvalidMessage(InvalidMessage::InvalidContentType) => Refusal::PlainHttp,
            _ => Refusal::TlsHandshake,
        })
    }
}

/// Decides which connections and requests are served, and reports which are not.
pub(super) struct AccessControl {
    file: Option<Arc<WebConfigFile>>,
    allowed_hosts: Vec<HostName>,
    content: Arc<dyn Content>,
}

impl AccessControl {
    pub fn new(settings: &HttpSettings, content: Arc<dyn Content>) -> Self {
        Self { file: settings.web_config.clone(), allowed_hosts: settings.allowed_hosts.clone(), content }
    }

    /// Accepts a connection: at once, or after its TLS handshake.
    pub async fn accept(&self, socket: Socket, peer: Option<SocketAddr>) -> Result<Box<dyn Wire>, NotAccepted> {
        self.handshake(socket).await.inspect_err(|error| {
            if let Some(refusal) = error.refusal() {
                self.content.refused(refusal, peer);
            }
        })
    }

    async fn handshake(&self, socket: Socket) -> Result<Box<dyn Wire>, NotAccepted> {
        let Some(file) = &self.file else { return Ok(Box::new(socket)) };
        let config = file.current();
        let Some(tls) = &config.tls else { return Ok(Box::new(socket)) };
        let accepted = TlsAcceptor::from(Arc::clone(tls)).accept(socket).await;
        let stream = accepted.map_err(NotAccepted::Handshake)?;
        if config.allows_certificate(stream.get_ref().1.peer_certificates()) {
            Ok(Box::new(stream))
        } else {
            Err(NotAccepted::CertificateName)
        }
    }

    /// Marks a request that must not be served, one to a foreign host, and one of a foreign origin, and returns the configuration that its response
    /// follows.
    pub async fn authorize<B>(&self, request: &mut Request<B>, peer: Option<SocketAddr>) -> Option<Arc<WebConfig>> {
        let config = self.file.as_ref().map(|file| file.current());
        let denied = match self.check_host(request, config.as_deref(), peer) {
            Some(denied) => Some(denied),
            None => self.check_login(request, config.as_deref(), peer).await,
        };
        if let Some(denied) = denied {
            request.extensions_mut().insert(denied);
        }
        config
    }

    fn check_host<B>(
        &self,
        request: &mut Request<B>,
        config: Option<&WebConfig>,
        peer: Option<SocketAddr>,
    ) -> Option<Denied> {
        let is_known = |name: &str| {
            self.allowed_hosts.iter().any(|allowed| allowed.as_str() == name)
                || config.is_some_and(|config| config.certificate_names(name))
        };
        match foreign_host(request, is_known) {
            Err(invalid) => {
                self.content.refused(Refusal::InvalidHost, peer);
                return Some(Denied::InvalidHost(invalid));
            }
            Ok(Some(foreign)) if foreign.is_from_browser => return Some(Denied::ForeignHost(foreign)),
            Ok(Some(foreign)) => drop(request.extensions_mut().insert(foreign)),
            Ok(None) => {}
        }
        if has_foreign_origin(request, is_known) {
            request.extensions_mut().insert(ForeignOrigin);
        }
        None
    }

    async fn check_login<B>(
        &self,
        request: &Request<B>,
        config: Option<&WebConfig>,
        peer: Option<SocketAddr>,
    ) -> Option<Denied> {
        let (file, users) = (self.file.as_ref()?, &config?.users);
        if users.is_empty() {
            return None;
        }
        let credentials = request.headers().get(header::AUTHORIZATION).and_then(Credentials::read);
        let verdict = match credentials {
            None => Verdict::Wrong,
            Some(credentials) => file.verifier.verify(users.claim(credentials), peer.map(|peer| peer.ip())).await,
        };
        let (denied, refusal) = match verdict {
            Verdict::Right => return None,
            Verdict::Wrong => (Denied::Unauthorized, Refusal::Unauthorized),
            Verdict::Busy => (Denied::TooManyLogins, Refusal::TooManyLogins),
        };
        self.content.refused(refusal, peer);
        Some(denied)
    }
}
