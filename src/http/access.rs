//! Who is let in: TLS, client certificates and passwords, as the web configuration file says at that moment.

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

/// What is read from and written to.
pub(super) trait Wire: AsyncRead + AsyncWrite + Send + Unpin {}

impl<W: AsyncRead + AsyncWrite + Send + Unpin> Wire for W {}

/// Marks a request that is answered with 401.
#[derive(Debug, Clone, Copy)]
pub(super) struct Unauthorized;

pub(super) struct AccessControl {
    file: Option<Arc<WebConfigFile>>,
    verifier: PasswordVerifier,
    content: Arc<dyn Content>,
}

impl AccessControl {
    pub fn new(file: Option<Arc<WebConfigFile>>, content: Arc<dyn Content>) -> Self {
        Self { file, verifier: PasswordVerifier::new(), content }
    }

    /// Lets a connection in: at once, or after its TLS handshake.
    pub async fn enter(&self, socket: Socket) -> io::Result<Box<dyn Wire>> {
        let Some(config) = self.config().await? else { return Ok(Box::new(socket)) };
        let Some(tls) = &config.tls else { return Ok(Box::new(socket)) };
        let stream = TlsAcceptor::from(Arc::clone(tls)).accept(socket).await?;
        if config.admits(stream.get_ref().1.peer_certificates()) {
            Ok(Box::new(stream))
        } else {
            Err(io::Error::new(
                io::ErrorKind::PermissionDenied,
                "the client's certificate has none of the allowed names",
            ))
        }
    }

    /// Marks a request that has to be refused, and gives the headers that its response is to have.
    pub async fn judge<B>(&self, request: &mut Request<B>) -> HeaderMap {
        let mut headers = HeaderMap::new();
        match self.config().await {
            Ok(None) => {}
            Ok(Some(config)) => {
                let authorization = request.headers().get(header::AUTHORIZATION);
                if !config.users.is_empty() && !self.verifier.admits(&config.users, authorization).await {
                    request.extensions_mut().insert(Unauthorized);
                }
                headers.extend(config.headers.iter().cloned());
            }
            // Who may come in cannot be told: nobody.
            Err(_) => {
                request.extensions_mut().insert(Unauthorized);
            }
        }
        headers
    }

    /// What the file says; nothing where there is none. An error must never be taken for that.
    async fn config(&self) -> io::Result<Option<Arc<WebConfig>>> {
        let Some(file) = &self.file else { return Ok(None) };
        let file = Arc::clone(file);
        let looked = tokio::task::spawn_blocking(move || file.current()).await;
        let (config, failed) = looked.map_err(io::Error::other)?;
        if let Some(error) = failed {
            self.content.web_config_failed(&error);
        }
        Ok(Some(config))
    }
}
