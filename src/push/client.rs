//! Requests of one receiver, over one connection that is kept.

use std::error::Error as StdError;
use std::io;
use std::iter;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::header::{self, HeaderMap, HeaderName, HeaderValue};
use hyper::{Method, Request, Response};
use hyper_util::rt::TokioIo;
use jiff::Timestamp;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio_rustls::TlsConnector;

use super::answer::{Answer, Verdict};
use super::clock::WallClock;
use super::receiver::PushReceiver;
use crate::feed::{
    CredentialError, DisconnectReason, PresentedHeaders, QuerySecrets, Secret, TlsConfigs, bare, http_date,
    retry_after_wait, tls_text,
};
use crate::standstill::timeout;
use crate::text::one_line;

/// Longest part of an answer's body that is read. A longer one ends the connection.
const BODY_BYTES_MAX: usize = 64 * 1024;

/// Longest part of an answer's body that is interpreted, and longest that is shown.
const TEXT_CHARS_MAX: usize = 300;

/// Time for the body of an answer whose status is known already.
const BODY_TIMEOUT: Duration = Duration::from_secs(2);

/// Time for connecting to one address, so that another one has a chance.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

const USER_AGENT: &str = concat!("session-buddy-bridge/", env!("CARGO_PKG_VERSION"));
const VERSION: HeaderName = HeaderName::from_static("x-prometheus-remote-write-version");

/// Why there is no answer.
#[derive(Debug, Error)]
pub(crate) enum ClientError {
    /// A credential file cannot be used.
    #[error(transparent)]
    Credential(#[from] CredentialError),
    /// TLS cannot be configured.
    #[error("{0}")]
    Tls(#[source] DisconnectReason),
    /// The host name has no address.
    #[error("the name {host} cannot be resolved ({error}): check the URL, and this machine's DNS")]
    Resolve {
        /// The name.
        host: String,
        /// Why.
        #[source]
        error: io::Error,
    },
    /// No connection to an address.
    #[error("no connection to {address} ({error}): check that the receiver runs, and what is between")]
    Connect {
        /// The address.
        address: SocketAddr,
        /// Why.
        #[source]
        error: io::Error,
    },
    /// TLS failed.
    #[error("TLS with {address} failed: {what}")]
    Handshake {
        /// The address.
        address: SocketAddr,
        /// What to check.
        what: String,
    },
    /// The connection was lost, or the answer is not HTTP.
    #[error("no answer ({what}): check that the URL is that of a receiver of remote write")]
    Http {
        /// What happened.
        what: String,
        /// Why.
        #[source]
        error: hyper::Error,
    },
    /// Nothing came in time.
    #[error("no answer within {} s", .0.as_secs_f64())]
    Timeout(Duration),
}

/// What became of a request, and what its answer says about the clocks.
#[derive(Debug)]
pub(crate) struct Exchange {
    pub(crate) answer: Result<Reply, ClientError>,
    /// Our clock minus the receiver's, as far as its header `Date` shows: it has whole seconds, and was written at some time
    /// between request and answer.
    pub(crate) skew: Option<Skew>,
}

/// A status of HTTP.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) code: u16,
    pub(crate) retry_after: Option<Duration>,
    /// The beginning of the body, as the receiver wrote it: what it means is read from this.
    pub(crate) body: Secret,
    /// The same without secrets and control characters, to be shown.
    pub(crate) text: String,
    /// Where a redirect leads to, which is not followed, without what may be secret.
    pub(crate) location: Option<String>,
    /// The media type of the body.
    pub(crate) content_type: Option<String>,
}

impl Reply {
    /// Returns whether a page for people answers.
    pub(crate) fn is_page(&self) -> bool {
        const PAGE: &str = "text/html";
        let start = self.content_type.as_deref().and_then(|media| media.get(..PAGE.len()));
        start.is_some_and(|start| start.eq_ignore_ascii_case(PAGE))
    }
}

/// By how much our clock can be ahead of another, in seconds. Negative if it is behind.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Skew {
    /// At least.
    pub(crate) min: f64,
    /// At most.
    pub(crate) max: f64,
}

impl Skew {
    /// `sent` and `received` are on our clock, in seconds since the Unix epoch. The receiver's whole second `date` was its
    /// time at some moment between the two.
    pub(crate) fn new(sent: f64, received: f64, date: f64) -> Self {
        Self { min: sent - (date + 1.0), max: received - date }
    }

    /// Returns the difference that is most likely, in seconds.
    pub(crate) fn seconds(self) -> f64 {
        f64::midpoint(self.min, self.max)
    }
}

impl Exchange {
    /// Returns what the rules decide by.
    pub(crate) fn answer(&self) -> Answer {
        match &self.answer {
            Ok(reply) => Answer::Status {
                code: reply.code,
                retry_after: reply.retry_after,
                body: reply.body.clone(),
                is_page: reply.is_page(),
            },
            Err(_) => Answer::None,
        }
    }

    /// Returns what a receiver of remote write says of the clocks: an answer to the samples, for good or bad. The login of a
    /// network, a redirect and a proxy without a receiver have clocks of their own.
    pub(crate) fn skew_of_receiver(&self) -> Option<Skew> {
        let is_page = self.answer.as_ref().is_ok_and(Reply::is_page);
        match self.answer().verdict() {
            Verdict::Stored | Verdict::Divide(_) if !is_page => self.skew,
            Verdict::Stored | Verdict::Divide(_) | Verdict::Retry(_) | Verdict::Hold => None,
        }
    }
}

/// One receiver's connection.
pub(crate) struct Client {
    receiver: PushReceiver,
    query_secrets: QuerySecrets,
    wall_clock: WallClock,
    tls: TlsConfigs,
    connection: Option<Connection>,
}

struct Connection {
    address: SocketAddr,
    requests: SendRequest<Full<Bytes>>,
    presented: PresentedHeaders,
    /// Polls the connection, and ends with it.
    _task: JoinSet<()>,
    was_used: bool,
}

impl Client {
    /// Creates a client without a connection. By `wall_clock` the receiver's clock is judged.
    pub(crate) fn new(receiver: PushReceiver, wall_clock: WallClock) -> Self {
        let query_secrets = QuerySecrets::of(&receiver.url);
        Self { receiver, query_secrets, wall_clock, tls: TlsConfigs::default(), connection: None }
    }

    /// The next request opens a connection, for which the credentials are read again.
    pub(crate) fn disconnect(&mut self) {
        self.connection = None;
    }

    /// Sends `body` and returns the answer. A connection that the receiver closed meanwhile is replaced.
    pub(crate) async fn send(&mut self, body: Bytes) -> Exchange {
        let limit = self.receiver.timeout;
        let sent = self.wall_clock.seconds();
        let exchange = timeout(limit, self.exchange(body)).await;
        let exchange = exchange.unwrap_or(Err(ClientError::Timeout(limit)));
        let (parts, text) = match exchange {
            Ok(answered) => answered,
            Err(error) => {
                self.disconnect();
                return Exchange { answer: Err(error), skew: None };
            }
        };
        let received = self.wall_clock.seconds();
        let now = Timestamp::from_millisecond(self.wall_clock.millis()).unwrap_or(Timestamp::UNIX_EPOCH);
        let text_of = |name: HeaderName| parts.headers.get(name)?.to_str().ok().map(ToOwned::to_owned);
        let date = text_of(header::DATE).and_then(|date| http_date(&date, now));
        let reply = Reply {
            code: parts.status.as_u16(),
            retry_after: text_of(header::RETRY_AFTER).and_then(|value| retry_after_wait(&value, now)),
            location: text_of(header::LOCATION).and_then(|location| self.shown_location(&location)),
            content_type: text_of(header::CONTENT_TYPE),
            body: Secret::new(text.trim().chars().take(TEXT_CHARS_MAX).collect::<String>()),
            text: self.shown(&text),
        };
        let skew = date.map(|date| Skew::new(sent, received, date.as_millisecond() as f64 / 1e3));
        Exchange { answer: Ok(reply), skew }
    }

    async fn exchange(&mut self, body: Bytes) -> Result<(hyper::http::response::Parts, String), ClientError> {
        loop {
            let connection = match &mut self.connection {
                Some(connection) if !connection.requests.is_closed() => connection,
                connection => connection.insert(connect(&self.receiver, &mut self.tls).await?),
            };
            let was_used = std::mem::replace(&mut connection.was_used, true);
            match connection.send(&self.receiver, body.clone()).await {
                // The receiver closed an idle connection at the moment of the request. Sent again, the same samples are no
                // error.
                Err(error) if was_used && !error.is_parse() => self.connection = None,
                Err(error) => {
                    if let Some(problem) = tls_problem(&error) {
                        return Err(ClientError::Handshake { address: connection.address, what: tls_text(problem) });
                    }
                    let cause = error.source().map(|cause| format!(": {cause}")).unwrap_or_default();
                    let what = one_line(&format!("{error}{cause}"), TEXT_CHARS_MAX);
                    return Err(ClientError::Http { what, error });
                }
                Ok(response) => {
                    let (parts, body) = response.into_parts();
                    let body = timeout(BODY_TIMEOUT, Limited::new(body, BODY_BYTES_MAX).collect()).await;
                    let Ok(Ok(body)) = body else {
                        // What is left of it would be taken for the next answer.
                        self.connection = self.connection.take().map(Connection::closed);
                        return Ok((parts, String::new()));
                    };
                    return Ok((parts, String::from_utf8_lossy(&body.to_bytes()).into_owned()));
                }
            }
        }
    }

    /// Returns the beginning of `text` on one line, without the secrets of the request that it answers.
    fn shown(&self, text: &str) -> String {
        if text.is_empty() {
            return String::new();
        }
        let text = self.query_secrets.redact(text);
        let redacted = match &self.connection {
            Some(connection) => connection.presented.redact(&text),
            None => text,
        };
        one_line(redacted.trim(), TEXT_CHARS_MAX)
    }

    /// Returns where a redirect leads to, without what may be secret; `None` if it is not a URL.
    fn shown_location(&self, location: &str) -> Option<String> {
        let url = self.receiver.url.join(location).ok()?;
        Some(self.shown(bare(&url).as_str()))
    }
}

impl Connection {
    async fn send(&mut self, receiver: &PushReceiver, body: Bytes) -> hyper::Result<Response<hyper::body::Incoming>> {
        self.requests.ready().await?;
        let url = &receiver.url;
        let target = url.query().map_or_else(|| url.path().to_owned(), |query| format!("{}?{query}", url.path()));
        let mut request = Request::new(Full::new(body));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = target.parse().expect("the path and query of a URL are a target of HTTP");
        let headers = request.headers_mut();
        headers.insert(header::HOST, host_header(receiver));
        let own: [(HeaderName, &str); 4] = [
            (header::CONTENT_TYPE, "application/x-protobuf"),
            (header::CONTENT_ENCODING, "snappy"),
            (VERSION, "0.1.0"),
            (header::USER_AGENT, USER_AGENT),
        ];
        own.into_iter().for_each(|(name, value)| drop(headers.insert(name, HeaderValue::from_static(value))));
        extend(headers, self.presented.headers());
        self.requests.send_request(request).await
    }

    /// Returns the same connection, which is not used again: its secrets are still to be redacted.
    fn closed(mut self) -> Self {
        self._task.abort_all();
        self
    }
}

/// Replaces headers by `presented`, each with all of its values.
fn extend(headers: &mut HeaderMap, presented: &HeaderMap) {
    presented.keys().for_each(|name| drop(headers.remove(name)));
    for (name, value) in presented {
        headers.append(name.clone(), value.clone());
    }
}

fn host_header(receiver: &PushReceiver) -> HeaderValue {
    let host = receiver.url.host_str().unwrap_or_default();
    let text = receiver.url.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"));
    HeaderValue::from_str(&text).expect("the host of a URL is ASCII")
}

async fn connect(receiver: &PushReceiver, tls: &mut TlsConfigs) -> Result<Connection, ClientError> {
    let presented = receiver.credentials.read().await?;
    let config = match receiver.url.scheme() {
        "https" => Some(tls.config(&receiver.credentials.tls).await.map_err(ClientError::Tls)?),
        _ => None,
    };
    // Resolvers and certificates write IPv6 addresses without the brackets of a URL.
    let host = receiver.url.host_str().unwrap_or_default().trim_start_matches('[').trim_end_matches(']');
    let port = receiver.url.port_or_known_default().unwrap_or_default();
    let unresolved = |error| ClientError::Resolve { host: host.to_owned(), error };
    let addresses = tokio::net::lookup_host((host, port)).await.map_err(unresolved)?;
    let mut failed = unresolved(io::Error::new(io::ErrorKind::NotFound, "it has no address"));
    for address in addresses {
        match connect_to(address, host, config.as_ref(), presented.clone()).await {
            Ok(connection) => return Ok(connection),
            Err(error) => failed = error,
        }
    }
    Err(failed)
}

async fn connect_to(
    address: SocketAddr,
    host: &str,
    config: Option<&Arc<ClientConfig>>,
    presented: PresentedHeaders,
) -> Result<Connection, ClientError> {
    let connected = timeout(CONNECT_TIMEOUT, TcpStream::connect(address)).await;
    let connected = connected.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
    let stream = connected.map_err(|error| ClientError::Connect { address, error })?;
    // Refused only by sockets that are closed already, which the first request finds out.
    let _ = stream.set_nodelay(true);
    let Some(config) = config else { return open(address, stream, presented).await };
    let failed = |error: io::Error| {
        let what = error.get_ref().and_then(|inner| inner.downcast_ref()).map(tls_text);
        ClientError::Handshake { address, what: what.unwrap_or_else(|| error.to_string()) }
    };
    let name = ServerName::try_from(host.to_owned()).map_err(|error| failed(io::Error::other(error)))?;
    let stream = TlsConnector::from(Arc::clone(config)).connect(name, stream).await.map_err(failed)?;
    open(address, stream, presented).await
}

/// Returns the failure of TLS that made a request fail. A server of TLS 1.3 judges the client's certificate once the handshake is
/// over for the client, so that the first answer is its alert.
fn tls_problem(error: &hyper::Error) -> Option<&rustls::Error> {
    iter::successors(error.source(), |error| StdError::source(*error))
        .find_map(|error| error.downcast_ref::<io::Error>()?.get_ref()?.downcast_ref())
}

async fn open(
    address: SocketAddr,
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    presented: PresentedHeaders,
) -> Result<Connection, ClientError> {
    let opened = handshake(TokioIo::new(stream)).await;
    let (requests, connection) =
        opened.map_err(|error| ClientError::Http { what: one_line(&error.to_string(), TEXT_CHARS_MAX), error })?;
    let mut task = JoinSet::new();
    // Its error is the request's too.
    task.spawn(async move { drop(connection.await) });
    Ok(Connection { address, requests, presented, _task: task, was_used: false })
}
