//! From a URL to an open WebSocket.

use super::credentials::{PresentedCredentials, off_thread};
use super::disconnect_reason::{DisconnectReason, Step, printable};
use super::settings::{FeedSettings, bare};
use crate::standstill::timeout;
use jiff::Timestamp;
use jiff::fmt::rfc2822;
use rustls::{AlertDescription, CertificateError, ClientConfig, RootCertStore};
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::Instant;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::http::{HeaderMap, header};
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::tungstenite::{self, error::ProtocolError, handshake::client::Response};
use tokio_tungstenite::{Connector, MaybeTlsStream, WebSocketStream, client_async_tls_with_config};
use url::Url;

/// Pongs to a peer that does not read are buffered up to this many bytes. An escaped token fits in.
const WRITE_BUFFER_BYTES_MAX: usize = 64 * 1024;
const WRITE_BUFFER_BYTES: usize = 4 * 1024;

pub(super) type Socket = WebSocketStream<MaybeTlsStream<ActivityStream<TcpStream>>>;

/// A WebSocket after its handshake, and when its last byte was received.
pub(super) struct Connection {
    pub(super) socket: Socket,
    pub(super) last_received: LastReceived,
}

/// Opens connections. Loads the system's root certificates once.
#[derive(Default)]
pub(super) struct Dialer {
    system_roots: Option<Arc<RootCertStore>>,
}

impl Dialer {
    /// Resolves the host name, connects to the first address that accepts, and performs the handshakes. Every step has a
    /// timeout, and can be cancelled by dropping the future.
    pub(super) async fn dial(
        &mut self,
        settings: &FeedSettings,
        presented: &PresentedCredentials,
    ) -> Result<Connection, DisconnectReason> {
        let connector = match settings.url.scheme() {
            "wss" => Connector::Rustls(self.tls(settings).await?),
            _ => Connector::Plain,
        };
        let ended = |error| handshake_failure(error, &settings.url, presented);
        let mut request = settings.url.as_str().into_client_request().map_err(ended)?;
        request.headers_mut().extend(presented.headers.clone());
        let tcp = connect(settings).await?;
        let last_received = LastReceived::now();
        let stream = ActivityStream { inner: tcp, last_received: last_received.clone() };
        let config = WebSocketConfig::default()
            .write_buffer_size(WRITE_BUFFER_BYTES)
            .max_write_buffer_size(WRITE_BUFFER_BYTES_MAX)
            .max_frame_size(Some(settings.frame_bytes_max))
            .max_message_size(Some(settings.frame_bytes_max));
        let limit = settings.timing.handshake_timeout;
        let handshake = client_async_tls_with_config(request, stream, Some(config), Some(connector));
        let (socket, _) = timeout(limit, handshake)
            .await
            .map_err(|_| DisconnectReason::Timeout { step: Step::Handshake, limit })?
            .map_err(ended)?;
        Ok(Connection { socket, last_received })
    }

    async fn tls(&mut self, settings: &FeedSettings) -> Result<Arc<ClientConfig>, DisconnectReason> {
        let (files, system_roots) = (settings.credentials.tls.clone(), self.system_roots.clone());
        let read = move || {
            let (roots, system_roots) = match (files.roots()?, system_roots) {
                (Some(own), known) => (Arc::new(own), known),
                (None, Some(known)) => (known.clone(), Some(known)),
                (None, None) => {
                    let loaded = Arc::new(
                        load_system_roots().map_err(|error| DisconnectReason::Tls { what: error.to_string() })?,
                    );
                    (loaded.clone(), Some(loaded))
                }
            };
            Ok::<_, DisconnectReason>((Arc::new(files.config(roots)?), system_roots))
        };
        let config;
        (config, self.system_roots) = off_thread(read).await?;
        Ok(config)
    }
}

/// Why no server can be trusted.
#[derive(Debug, thiserror::Error)]
enum SystemRootsError {
    #[error("no trusted roots on this system ({0})")]
    Unreadable(#[source] rustls_native_certs::Error),
    #[error("no trusted roots on this system; install its CA certificates")]
    None,
}

fn load_system_roots() -> Result<RootCertStore, SystemRootsError> {
    let mut loaded = rustls_native_certs::load_native_certs();
    let mut roots = RootCertStore::empty();
    let (usable, _) = roots.add_parsable_certificates(loaded.certs);
    match loaded.errors.is_empty() {
        _ if usable > 0 => Ok(roots),
        true => Err(SystemRootsError::None),
        false => Err(SystemRootsError::Unreadable(loaded.errors.swap_remove(0))),
    }
}

async fn connect(settings: &FeedSettings) -> Result<TcpStream, DisconnectReason> {
    let limit = settings.timing.connect_timeout;
    let host = settings.url.host_str().unwrap_or_default();
    // The resolver expects IPv6 addresses without the brackets of a URL.
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let port = settings.url.port_or_known_default().unwrap_or_default();
    let unresolved = |what: String| DisconnectReason::Dns { host: host.to_owned(), what };

    let addresses = timeout(limit, tokio::net::lookup_host((host, port)))
        .await
        .map_err(|_| DisconnectReason::Timeout { step: Step::Resolve, limit })?
        .map_err(|error| unresolved(error.to_string()))?;
    let mut reason = unresolved("it has no address".to_owned());
    for address in addresses {
        match timeout(limit, connect_to(address)).await {
            Ok(Ok(stream)) => return Ok(stream),
            Ok(Err(error)) => {
                let refused = error.kind() == io::ErrorKind::ConnectionRefused;
                reason = DisconnectReason::Connect { address, refused, what: error.to_string() };
            }
            Err(_) => reason = DisconnectReason::Timeout { step: Step::Connect, limit },
        }
    }
    Err(reason)
}

async fn connect_to(address: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

fn handshake_failure(error: tungstenite::Error, url: &Url, presented: &PresentedCredentials) -> DisconnectReason {
    match error {
        tungstenite::Error::Http(response) => http_failure(&response, url, presented),
        tungstenite::Error::Tls(error) => DisconnectReason::Tls { what: printable(&error.to_string()) },
        tungstenite::Error::Io(error) => match error.get_ref().and_then(|inner| inner.downcast_ref()) {
            Some(error) => DisconnectReason::Tls { what: tls_text(error) },
            None => DisconnectReason::Handshake { what: printable(&error.to_string()) },
        },
        tungstenite::Error::Protocol(ProtocolError::HandshakeIncomplete) => {
            DisconnectReason::Handshake { what: "the server ended the connection in the middle of it".to_owned() }
        }
        error => DisconnectReason::Handshake { what: printable(&error.to_string()) },
    }
}

/// Returns which side does not trust which, and what to check: rustls only has the names of the standards.
fn tls_text(error: &rustls::Error) -> String {
    use CertificateError as Certificate;
    let advice = match error {
        rustls::Error::InvalidCertificate(problem) => match problem {
            Certificate::UnknownIssuer => {
                "the server's certificate is not from a CA that is trusted here; check the CA file, or the system's roots"
            }
            Certificate::NotValidForName | Certificate::NotValidForNameContext { .. } => {
                "the server's certificate is for another host; check the URL's host name"
            }
            Certificate::Expired
            | Certificate::ExpiredContext { .. }
            | Certificate::NotValidYet
            | Certificate::NotValidYetContext { .. } => {
                "the server's certificate is out of date; check it, and this machine's clock"
            }
            _ => "check the server's certificate",
        },
        rustls::Error::AlertReceived(AlertDescription::CertificateRequired) => {
            "the server asks for a client certificate; give its file and that of its key"
        }
        rustls::Error::AlertReceived(
            AlertDescription::UnknownCA
            | AlertDescription::BadCertificate
            | AlertDescription::UnsupportedCertificate
            | AlertDescription::CertificateRevoked
            | AlertDescription::CertificateExpired
            | AlertDescription::CertificateUnknown
            | AlertDescription::AccessDenied
            | AlertDescription::DecryptError,
        ) => "the server does not take this client's certificate; check that it is the right one and in date",
        _ => "check that the URL's port speaks TLS, and whether the server asks for a client certificate",
    };
    format!("{advice} ({})", printable(&error.to_string()))
}

fn http_failure(response: &Response, url: &Url, presented: &PresentedCredentials) -> DisconnectReason {
    let location = header_text(response.headers(), header::LOCATION).and_then(|location| url.join(location).ok());
    let retry_after = header_text(response.headers(), header::RETRY_AFTER);
    DisconnectReason::Http {
        status: response.status().as_u16(),
        location: location.map(|location| printable(&presented.redact(bare(&location).as_str()))),
        retry_after: retry_after.and_then(|value| retry_after_wait(value, Timestamp::now())),
    }
}

fn header_text(headers: &HeaderMap, name: header::HeaderName) -> Option<&str> {
    headers.get(name)?.to_str().ok()
}

/// Parses `Retry-After`: a number of seconds, or a date, of which one in the past means now. Source: RFC 9110, 10.2.3.
fn retry_after_wait(value: &str, now: Timestamp) -> Option<Duration> {
    let value = value.trim();
    if let Ok(seconds) = value.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let date = rfc2822::DateTimeParser::new().parse_timestamp(value).ok()?;
    Some(Duration::try_from(date.duration_since(now)).unwrap_or_default())
}

/// When the last byte was received.
#[derive(Clone)]
pub(super) struct LastReceived(Arc<Mutex<Instant>>);

impl LastReceived {
    fn now() -> Self {
        Self(Arc::new(Mutex::new(Instant::now())))
    }

    pub(super) fn last(&self) -> Instant {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A stream that records when bytes arrive. It is below TLS and frames, so that a long frame that arrives slowly counts as
/// activity.
pub(super) struct ActivityStream<S> {
    inner: S,
    last_received: LastReceived,
}

impl<S: AsyncRead + Unpin> AsyncRead for ActivityStream<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.inner).poll_read(cx, buf))?;
        if buf.filled().len() > before {
            *self.last_received.0.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for ActivityStream<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retry_after_is_seconds_or_a_date() {
        let now: Timestamp = "2026-11-22T10:24:23Z".parse().unwrap();
        let wait = |value| retry_after_wait(value, now);
        assert_eq!(wait(" 120 "), Some(Duration::from_secs(120)));
        assert_eq!(wait("Sun, 22 Nov 2026 10:25:23 GMT"), Some(Duration::from_secs(60)));
        assert_eq!(wait("Sun, 22 Nov 2026 10:00:00 GMT"), Some(Duration::ZERO));
        assert_eq!(wait("-1"), None);
        assert_eq!(wait("soon"), None);
    }

    #[test]
    fn a_redirect_is_shown_without_its_secrets() {
        let url = Url::parse("ws://host:8765/feed?key=1").unwrap();
        let presented = |location: &str| {
            let response = Response::new(None);
            let (mut parts, body) = response.into_parts();
            parts.status = tungstenite::http::StatusCode::FOUND;
            parts.headers.insert(header::LOCATION, location.parse().unwrap());
            match http_failure(&Response::from_parts(parts, body), &url, &PresentedCredentials::default()) {
                DisconnectReason::Http { location, .. } => location,
                reason => panic!("{reason}"),
            }
        };
        assert_eq!(presented("wss://me:pass@other/new?token=x#y").as_deref(), Some("wss://other/new"));
        assert_eq!(presented("/login?next=feed").as_deref(), Some("ws://host:8765/login"));
        assert_eq!(presented("http://[broken"), None);
    }

    #[test]
    fn the_systems_roots_are_there_or_it_is_said_that_they_are_missing() {
        match load_system_roots() {
            Ok(roots) => assert!(!roots.is_empty()),
            Err(error) => assert!(error.to_string().contains("no trusted roots"), "{error}"),
        }
    }
}
