//! Access control: TLS, client certificates and passwords, by the current web configuration.

use std::io;
use std::sync::Arc;

use hyper::Request;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsAcceptor;
use warp::http::{HeaderMap, header};

use super::basic_auth::PasswordVerifier;
use super::socket::Socket;
use super::web_config::WebConfig;
use super::web_config_file::WebConfigFile;

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
}

impl AccessControl {
    pub fn new(file: Option<Arc<WebConfigFile>>) -> Self {
        Self { file, verifier: PasswordVerifier::new() }
    }

    /// Accepts a connection: at once, or after its TLS handshake.
    pub async fn accept(&self, socket: Socket) -> io::Result<Box<dyn Wire>> {
        let Some(config) = self.config() else { return Ok(Box::new(socket)) };
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
        if let Some(config) = self.config() {
            let authorization = request.headers().get(header::AUTHORIZATION);
            if !config.users.is_empty() && !self.verifier.verify(&config.users, authorization).await {
                request.extensions_mut().insert(Unauthorized);
            }
            headers.extend(config.headers.iter().cloned());
        }
        headers
    }

    /// Returns the current configuration; `None` if there is no file.
    fn config(&self) -> Option<Arc<WebConfig>> {
        self.file.as_ref().map(|file| file.current())
    }
}
