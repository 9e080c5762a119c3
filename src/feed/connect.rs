//! From a URL to an open WebSocket.

use super::credentials::{PresentedCredentials, QuerySecrets, TlsFiles, off_thread};
use super::disconnect_reason::{DisconnectReason, Step, printable};
use super::handshake::{self, HandshakeFailure, HandshakeProblem};
use super::settings::{FeedSettings, bare};
use crate::pem;
use crate::standstill::timeout;
use jiff::civil::DateTime;
use jiff::fmt::rfc2822;
use jiff::tz::TimeZone;
use jiff::{Timestamp, ToSpan as _};
use rustls::pki_types::ServerName;
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
use tokio_rustls::TlsConnector;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::handshake::client::Response;
use tokio_tungstenite::tungstenite::http::{HeaderMap, header};
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream};
use url::Url;

/// Pongs to a peer that does not read are buffered up to this many bytes. An escaped token fits in.
const WRITE_BUFFER_BYTES_MAX: usize = 64 * 1024;
const WRITE_BUFFER_BYTES: usize = 4 * 1024;

/// At most this much is read at once. tungstenite clears its buffer before each read, also before one that finds nothing: its default
/// of 128 KiB takes longer to clear than an event takes to be counted, and leaves nothing else in the processor's first caches.
const READ_BUFFER_BYTES: usize = 32 * 1024;

pub(super) type Socket = WebSocketStream<MaybeTlsStream<ActivityStream<TcpStream>>>;

/// A WebSocket after its handshake, and when its last byte was received.
pub(super) struct Connection {
    pub(super) socket: Socket,
    pub(super) last_received: LastReceived,
}

/// Opens connections.
#[derive(Default)]
pub(super) struct Dialer {
    tls: TlsConfigs,
}

impl Dialer {
    /// Resolves the host name and connects to its addresses, one after the other, until a handshake succeeds: where `localhost`
    /// is `::1`, something else than the server may listen there. Every step has a timeout, and can be cancelled by dropping
    /// the future.
    ///
    /// # Errors
    /// The most telling of the addresses' failures.
    pub(super) async fn dial(
        &mut self,
        settings: &FeedSettings,
        presented: &PresentedCredentials,
    ) -> Result<Connection, DisconnectReason> {
        let tls = match settings.url.scheme() {
            "wss" => Some(self.tls.config(&settings.credentials.tls).await?),
            _ => None,
        };
        let addresses = resolve(settings).await?;
        dial_any(addresses, tls.as_ref(), settings, presented).await
    }
}

/// Configurations of TLS clients. Loads the system's root certificates once.
#[derive(Default)]
pub(crate) struct TlsConfigs {
    system_roots: Option<Arc<RootCertStore>>,
}

impl TlsConfigs {
    /// Reads `files`, which may have changed.
    ///
    /// # Errors
    /// A file that cannot be used, or a system without trusted roots.
    pub(crate) async fn config(&mut self, files: &TlsFiles) -> Result<Arc<ClientConfig>, DisconnectReason> {
        let (files, system_roots) = (files.clone(), self.system_roots.clone());
        let read = move || {
            let (roots, system_roots) = match (files.roots()?, system_roots) {
                (Some(own), known) => (Arc::new(own), known),
                (None, Some(known)) => (known.clone(), Some(known)),
                (None, None) => {
                    let loaded = Arc::new(
                        load_system_roots()
                            .map_err(|error| DisconnectReason::NoTrustedRoots { what: error.to_string() })?,
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

/// Returns the host of the URL as resolvers and certificates write it: IPv6 addresses without the brackets of a URL.
fn host(settings: &FeedSettings) -> &str {
    settings.url.host_str().unwrap_or_default().trim_start_matches('[').trim_end_matches(']')
}

async fn resolve(settings: &FeedSettings) -> Result<impl Iterator<Item = SocketAddr>, DisconnectReason> {
    let (limit, host) = (settings.timing.connect_timeout, host(settings));
    let port = settings.url.port_or_known_default().unwrap_or_default();
    timeout(limit, tokio::net::lookup_host((host, port)))
        .await
        .map_err(|_| DisconnectReason::Timeout { step: Step::Resolve, limit })?
        .map_err(|error| DisconnectReason::Dns { host: host.to_owned(), what: error.to_string() })
}

async fn dial_any(
    addresses: impl Iterator<Item = SocketAddr>,
    tls: Option<&Arc<ClientConfig>>,
    settings: &FeedSettings,
    presented: &PresentedCredentials,
) -> Result<Connection, DisconnectReason> {
    let mut failed: Option<DisconnectReason> = None;
    for address in addresses {
        match dial_address(address, tls, settings, presented).await {
            Ok(connection) => return Ok(connection),
            Err(reason) if failed.as_ref().is_some_and(|failed| failed.progress() > reason.progress()) => {}
            Err(reason) => failed = Some(reason),
        }
    }
    let none = || DisconnectReason::Dns { host: host(settings).to_owned(), what: "it has no address".to_owned() };
    Err(failed.unwrap_or_else(none))
}

async fn dial_address(
    address: SocketAddr,
    tls: Option<&Arc<ClientConfig>>,
    settings: &FeedSettings,
    presented: &PresentedCredentials,
) -> Result<Connection, DisconnectReason> {
    let limit = settings.timing.connect_timeout;
    let tcp = timeout(limit, connect(address))
        .await
        .map_err(|_| DisconnectReason::Timeout { step: Step::Connect(address), limit })?
        .map_err(|error| {
            let refused = error.kind() == io::ErrorKind::ConnectionRefused;
            DisconnectReason::Connect { address, refused, what: error.to_string() }
        })?;
    let last_received = LastReceived::now();
    let stream = ActivityStream { inner: tcp, last_received: last_received.clone() };
    let limit = settings.timing.handshake_timeout;
    let socket = timeout(limit, open(stream, tls, settings, presented))
        .await
        .map_err(|_| DisconnectReason::Timeout { step: Step::Handshake(address), limit })?
        .map_err(|failure| handshake_failure(failure, address, &settings.url, presented))?;
    Ok(Connection { socket, last_received })
}

async fn connect(address: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// Performs the handshakes of TLS and of WebSocket.
async fn open(
    stream: ActivityStream<TcpStream>,
    tls: Option<&Arc<ClientConfig>>,
    settings: &FeedSettings,
    presented: &PresentedCredentials,
) -> Result<Socket, HandshakeFailure> {
    let request = settings.url.as_str().into_client_request();
    let mut request =
        request.map_err(|error| HandshakeProblem::Request(printable(&presented.redact(&error.to_string()))))?;
    request.headers_mut().extend(presented.headers.clone());
    let stream = match tls {
        None => MaybeTlsStream::Plain(stream),
        Some(tls) => {
            let name = ServerName::try_from(host(settings).to_owned()).map_err(io::Error::other)?;
            MaybeTlsStream::Rustls(TlsConnector::from(Arc::clone(tls)).connect(name, stream).await?)
        }
    };
    let config = WebSocketConfig::default()
        .read_buffer_size(READ_BUFFER_BYTES)
        .write_buffer_size(WRITE_BUFFER_BYTES)
        .max_write_buffer_size(WRITE_BUFFER_BYTES_MAX)
        .max_frame_size(Some(settings.frame_bytes_max))
        .max_message_size(Some(settings.frame_bytes_max));
    handshake::open(stream, request, config).await
}

fn handshake_failure(
    failure: HandshakeFailure,
    address: SocketAddr,
    url: &Url,
    presented: &PresentedCredentials,
) -> DisconnectReason {
    match failure {
        HandshakeFailure::Answered(answer) => http_failure(&answer, address, url, presented),
        HandshakeFailure::Invalid(problem) => DisconnectReason::Handshake { address, problem },
        HandshakeFailure::Io(error) => match error.get_ref().and_then(|inner| inner.downcast_ref()) {
            Some(error) => DisconnectReason::Tls { address, what: tls_text(error) },
            None => {
                let problem = HandshakeProblem::Lost(printable(&error.to_string()));
                DisconnectReason::Handshake { address, problem }
            }
        },
    }
}

/// Returns which side does not trust which, and what to check: rustls only has the names of the standards.
pub(crate) fn tls_text(error: &rustls::Error) -> String {
    use CertificateError as Certificate;
    let advice = match error {
        rustls::Error::InvalidCertificate(problem) => match problem {
            // The signature is wrong where another CA of the same name signed, as after a renewal.
            Certificate::UnknownIssuer | Certificate::BadSignature => {
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
            _ => pem::remedy(error).unwrap_or("check the server's certificate"),
        },
        rustls::Error::AlertReceived(AlertDescription::CertificateRequired) => {
            "the server requires a client certificate; give its file and that of its key"
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
        _ => "check that the URL's port speaks TLS, and whether the server requires a client certificate",
    };
    format!("{advice} ({})", printable(&error.to_string()))
}

fn http_failure(
    response: &Response,
    address: SocketAddr,
    url: &Url,
    presented: &PresentedCredentials,
) -> DisconnectReason {
    let location = header_text(response.headers(), header::LOCATION).and_then(|location| url.join(location).ok());
    let retry_after = header_text(response.headers(), header::RETRY_AFTER);
    DisconnectReason::Http {
        address,
        status: response.status().as_u16(),
        location: location.map(|location| {
            let location = QuerySecrets::of(url).redact(bare(&location).as_str());
            printable(&presented.redact(&location))
        }),
        retry_after: retry_after.and_then(|value| retry_after_wait(value, Timestamp::now())),
    }
}

fn header_text(headers: &HeaderMap, name: header::HeaderName) -> Option<&str> {
    headers.get(name)?.to_str().ok()
}

/// Parses `Retry-After`: a number of seconds, or a date, of which one in the past means now. Source: RFC 9110, 10.2.3.
pub(crate) fn retry_after_wait(value: &str, now: Timestamp) -> Option<Duration> {
    let value = value.trim();
    if let Ok(seconds) = value.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let date = http_date(value, now)?;
    Some(Duration::try_from(date.duration_since(now)).unwrap_or_default())
}

/// Parses the three forms of dates in HTTP, of which servers send the first and clients must understand all. Source: RFC
/// 9110, 5.6.7.
pub(crate) fn http_date(value: &str, now: Timestamp) -> Option<Timestamp> {
    let utc = |date: DateTime| date.to_zoned(TimeZone::UTC).ok().map(|zoned| zoned.timestamp());
    if let Ok(date) = rfc2822::DateTimeParser::new().parse_timestamp(value) {
        return Some(date);
    }
    // "Sun Nov  6 08:49:37 1994", as asctime(3) writes it.
    if let Ok(date) = DateTime::strptime("%a %b %e %H:%M:%S %Y", value) {
        return utc(date);
    }
    // "Sunday, 06-Nov-94 08:49:37 GMT". The weekday could decide the century, and the RFC decides it otherwise.
    let (_, date) = value.split_once(", ")?;
    let date = utc(DateTime::strptime("%d-%b-%y %H:%M:%S GMT", date).ok()?)?;
    let shifted = |centuries: i16| {
        let zoned = date.to_zoned(TimeZone::UTC);
        let year = zoned.year() + 100 * centuries;
        zoned.with().year(year).build().ok().map(|zoned| zoned.timestamp())
    };
    // One that seems to be more than 50 years ahead is the latest in the past with these two digits.
    let latest = now.to_zoned(TimeZone::UTC).checked_add(50.years()).ok()?.timestamp();
    [1, 0, -1].into_iter().filter_map(shifted).find(|date| *date <= latest)
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
    use crate::feed::{Credentials, Secret, Timing, TlsFiles};
    use rcgen::{CertificateParams, KeyPair};
    use rustls::ServerConfig;
    use rustls::crypto::ring::default_provider;
    use rustls::pki_types::PrivateKeyDer;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;
    use tokio::task::JoinHandle;
    use tokio_rustls::TlsAcceptor;
    use tokio_tungstenite::accept_async;
    use tokio_tungstenite::tungstenite::http::StatusCode;

    /// Something at an address of its own that answers each request with these bytes and hangs up.
    async fn answering(answer: &'static [u8]) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut request = Vec::new();
                while !request.ends_with(b"\r\n\r\n") {
                    request.push(stream.read_u8().await.unwrap());
                }
                stream.write_all(answer).await.unwrap();
                stream.shutdown().await.unwrap();
            }
        });
        address
    }

    fn settings_of(url: &str) -> FeedSettings {
        FeedSettings {
            identity: "dialed".to_owned(),
            url: Url::parse(url).unwrap(),
            skill: None,
            credentials: Credentials::default(),
            timing: Timing::default(),
            frame_bytes_max: 1024,
        }
    }

    async fn dialed(addresses: &[SocketAddr]) -> Result<Connection, DisconnectReason> {
        let settings = settings_of("ws://localhost/");
        dial_any(addresses.iter().copied(), None, &settings, &PresentedCredentials::default()).await
    }

    const NOT_FOUND: &[u8] = b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n";

    #[tokio::test]
    async fn where_something_else_answers_the_next_address_is_tried() {
        let feed = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = feed.local_addr().unwrap();
        let accepting = tokio::spawn(async move {
            let mut sockets = Vec::new();
            loop {
                sockets.push(accept_async(feed.accept().await.unwrap().0).await.unwrap());
            }
        });
        for other in [NOT_FOUND, b"220 mail.example ESMTP\r\n\r\n", b""] {
            let connected = dialed(&[answering(other).await, address]).await;
            assert!(connected.is_ok(), "{:?}", connected.err());
        }
        accepting.abort();
    }

    /// Something at an address of its own that is no feed, and all that it receives on one connection, decrypted if it has
    /// TLS.
    async fn receiving(tls: Option<Arc<ServerConfig>>) -> (SocketAddr, JoinHandle<String>) {
        async fn request(mut stream: impl AsyncRead + AsyncWrite + Unpin) -> String {
            let mut received = Vec::new();
            while !received.ends_with(b"\r\n\r\n") {
                received.push(stream.read_u8().await.unwrap());
            }
            stream.write_all(b"220 mail.example ESMTP\r\n\r\n").await.unwrap();
            stream.shutdown().await.unwrap();
            // Whatever follows the request would be received as well.
            let _ = stream.read_to_end(&mut received).await;
            String::from_utf8(received).unwrap()
        }
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let received = tokio::spawn(async move {
            let (stream, _) = listener.accept().await.unwrap();
            match tls {
                None => request(stream).await,
                Some(tls) => match TlsAcceptor::from(tls).accept(stream).await {
                    Ok(stream) => request(stream).await,
                    Err(_) => String::new(),
                },
            }
        });
        (address, received)
    }

    #[tokio::test]
    async fn headers_go_to_each_address_of_the_host_and_over_tls_only_to_a_trusted_one() {
        let certified = || {
            let key = KeyPair::generate().unwrap();
            let params = CertificateParams::new(["localhost".to_owned()]).unwrap();
            let certificate = params.self_signed(&key).unwrap().der().clone();
            let builder = ServerConfig::builder_with_provider(Arc::new(default_provider()));
            let builder = builder.with_safe_default_protocol_versions().unwrap().with_no_client_auth();
            let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
            (certificate.clone(), Arc::new(builder.with_single_cert(vec![certificate], key).unwrap()))
        };
        let (trusted, ours) = certified();
        let (_, of_a_stranger) = certified();
        let mut roots = RootCertStore::empty();
        roots.add(trusted).unwrap();
        let client = Arc::new(TlsFiles::default().config(roots).unwrap());
        let presented = PresentedCredentials {
            headers: [(header::AUTHORIZATION, "Bearer of-a-header".parse().unwrap())].into_iter().collect(),
            token: Some(Secret::new("of-a-first-frame".to_owned())),
            ..PresentedCredentials::default()
        };
        for (url, tls, servers, has_header) in [
            ("ws://localhost/", None, [None, None], [true, true]),
            ("wss://localhost/", Some(&client), [Some(of_a_stranger), Some(ours)], [false, true]),
        ] {
            let [first, second] = servers;
            let ((first, at_first), (second, at_second)) = (receiving(first).await, receiving(second).await);
            let connected = dial_any([first, second].into_iter(), tls, &settings_of(url), &presented).await;
            assert_eq!(connected.err().unwrap().code(), "handshake", "{url}");
            let received = [at_first.await.unwrap(), at_second.await.unwrap()];
            assert_eq!(received.each_ref().map(|text| text.contains("of-a-header")), has_header, "{url} {received:?}");
            // The token is a frame, which follows a handshake.
            assert!(received.iter().all(|text| !text.contains("of-a-first-frame")), "{url} {received:?}");
        }
    }

    #[tokio::test]
    async fn the_failure_of_the_address_that_came_farthest_is_reported_with_the_address() {
        let nobody = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
        let (page, mail) = (answering(NOT_FOUND).await, answering(b"220 mail.example ESMTP\r\n\r\n").await);
        for (addresses, telling, code) in [
            (&[nobody][..], nobody, "refused"),
            (&[mail, nobody], mail, "handshake"),
            (&[page, mail, nobody], page, "http_404"),
            (&[nobody, mail, page], page, "http_404"),
        ] {
            let reason = dialed(addresses).await.err().unwrap();
            assert_eq!(reason.code(), code);
            assert!(reason.to_string().contains(&telling.to_string()), "{reason}");
        }
        assert_eq!(dialed(&[]).await.err().unwrap().code(), "dns");
    }

    #[test]
    fn retry_after_is_seconds_or_a_date() {
        let now: Timestamp = "2026-11-22T10:24:23Z".parse().unwrap();
        let wait = |value| retry_after_wait(value, now);
        assert_eq!(wait(" 120 "), Some(Duration::from_secs(120)));
        assert_eq!(wait("Sun, 22 Nov 2026 10:25:23 GMT"), Some(Duration::from_secs(60)));
        assert_eq!(wait("Sun, 22 Nov 2026 10:00:00 GMT"), Some(Duration::ZERO));
        assert_eq!(wait("Sunday, 22-Nov-26 10:26:23 GMT"), Some(Duration::from_secs(120)));
        assert_eq!(wait("Sun Nov 22 10:27:23 2026"), Some(Duration::from_secs(180)));
        assert_eq!(wait("Tue Dec  1 10:24:23 2026"), Some(Duration::from_secs(9 * 86_400)));
        assert_eq!(wait("Sunday, 06-Nov-94 08:49:37 GMT"), Some(Duration::ZERO));
        assert_eq!(wait("Sun Nov  6 08:49:37 1994"), Some(Duration::ZERO));
        assert_eq!(wait("-1"), None);
        assert_eq!(wait("soon"), None);
    }

    #[test]
    fn a_year_of_two_digits_is_at_most_50_years_ahead() {
        let year = |now: &str, year: &str| {
            let date = http_date(&format!("Monday, 22-Nov-{year} 10:24:23 GMT"), now.parse().unwrap());
            date.unwrap().to_zoned(TimeZone::UTC).year()
        };
        for (written, meant) in [("26", 2026), ("75", 2075), ("76", 2076), ("77", 1977), ("94", 1994), ("00", 2000)] {
            assert_eq!(year("2026-11-22T10:24:23Z", written), meant, "{written}");
        }
        assert_eq!(year("2074-01-01T00:00:00Z", "01"), 2101);
        assert_eq!(http_date("Monday, 31-Feb-26 10:24:23 GMT", "2026-11-22T10:24:23Z".parse().unwrap()), None);
    }

    #[test]
    fn a_redirect_is_shown_without_its_secrets() {
        let url = Url::parse("ws://host:8765/feed?key=the-key-itself").unwrap();
        let presented = |location: &str| {
            let response = Response::new(None);
            let (mut parts, body) = response.into_parts();
            parts.status = StatusCode::FOUND;
            parts.headers.insert(header::LOCATION, location.parse().unwrap());
            let response = Response::from_parts(parts, body);
            match http_failure(&response, ([127, 0, 0, 1], 1).into(), &url, &PresentedCredentials::default()) {
                DisconnectReason::Http { location, .. } => location,
                reason => panic!("{reason}"),
            }
        };
        assert_eq!(presented("wss://me:pass@other/new?token=x#y").as_deref(), Some("wss://other/new"));
        assert_eq!(presented("/login?next=feed").as_deref(), Some("ws://host:8765/login"));
        assert_eq!(presented("/login/the-key-itself").as_deref(), Some("ws://host:8765/login/***"));
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
