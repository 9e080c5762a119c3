//! Access control: TLS, client certificates and passwords, by the current web configuration.

use std::io;
use std::sync::Arc;

use hyper::Request;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsAcceptor;
use warp::http::{HeaderMap, header};

use super::Content;
use super::basic_auth::PasswordVerifier;
use super::socket::Socket;
use super::web_config::{WebConfig, WebConfigFile};

/// A plain or encrypted connection.
pub(super) trait Wire: AsyncRead + AsyncWrite + Send + Unpin {}

impl<W: AsyncRead + AsyncWrite + Send + Unpin> Wire for W {}

/// Marks a request that is to be answered with 401.
#[derive(Debug, Clone, Copy)]
pub(super) struct Unauthorized;

/// Decides which connections and requests are served.
pub(super) struct AccessControl {
    file: Option<Arc<WebConfigFile>>,
    verifier: PasswordVerifier,
    content: Arc<dyn Content>,
}

impl AccessControl {
    pub fn new(file: Option<Arc<WebConfigFile>>, content: Arc<dyn Content>) -> Self {
        Self { file, verifier: PasswordVerifier::new(), content }
    }

    /// Accepts a connection: at once, or after its TLS handshake.
    pub async fn accept(&self, socket: Socket) -> io::Result<Box<dyn Wire>> {
        let Some(config) = self.config().await? else { return Ok(Box::new(socket)) };
        let Some(tls) = &config.tls else { return Ok(Box::new(socket)) };
        let stream = TlsAcceptor::from(Arc::clone(tls)).accept(socket).await?;
        if config.allows_certificate(stream.get_ref().1.peer_certificates()) {
            Ok(Box::new(stream))
        } else {
            Err(io::Error::new(
                io::ErrorKind::PermissionDenied,
                "the client's certificate has none of the allowed names",
            ))
        }
    }

    /// Marks a request that must be refused, and returns the headers that its response must have.
    pub async fn authorize<B>(&self, request: &mut Request<B>) -> HeaderMap {
        let mut headers = HeaderMap::new();
        match self.config().await {
            Ok(None) => {}
            Ok(Some(config)) => {
                let authorization = request.headers().get(header::AUTHORIZATION);
                if !config.users.is_empty() && !self.verifier.verify(&config.users, authorization).await {
                    request.extensions_mut().insert(Unauthorized);
                }
                headers.extend(config.headers.iter().cloned());
            }
            // Without a configuration nobody is authorized.
            Err(_) => {
                request.extensions_mut().insert(Unauthorized);
            }
        }
        headers
    }

    /// Returns the current configuration; `None` if there is no file. An error must never be taken for that.
    async fn config(&self) -> io::Result<Option<Arc<WebConfig>>> {
        let Some(file) = &self.file else { return Ok(None) };
        let file = Arc::clone(file);
        let read = tokio::task::spawn_blocking(move || file.current()).await;
        let (config, failed) = read.map_err(io::Error::other)?;
        if let Some(error) = failed {
            self.content.web_config_failed(&error);
        }
        Ok(Some(config))
    }
}
