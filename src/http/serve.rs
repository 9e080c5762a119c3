//! The accept loop of a listener.

use std::convert::Infallible;
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt as _;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::{Service as _, service_fn};
use hyper::{Request, Uri};
use hyper_util::rt::TokioIo;
use hyper_util::service::TowerToHyperService;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use warp::http::StatusCode;

use super::access::AccessControl;
use super::host::ForeignOrigin;
use super::patient_stream::PatientStream;
use super::routes::{ByLoopback, routes};
use super::scrape_body::with_scrape_body;
use super::socket::Listener;
use super::timer::StandstillTimer;
use super::{BoundListener, Content, HttpLimits, HttpSettings, Refusal};
use crate::standstill::timeout;

/// hyper refuses a smaller buffer.
const HEADER_BYTES_MIN: usize = 8192;

const ACCEPT_BACKOFF_MIN: Duration = Duration::from_millis(10);
const ACCEPT_BACKOFF_MAX: Duration = Duration::from_secs(1);

const FULL: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\n\
    Content-Type: text/plain; charset=utf-8\r\n\
    Content-Length: 41\r\n\
    Connection: close\r\n\
    Retry-After: 1\r\n\
    \r\n\
    Too many connections. Try again shortly.\n";

/// Serves `content` on `bound` until `shutdown`. Then no connection is accepted, idle connections are closed, requests in
/// progress have [`HttpLimits::shutdown_grace`] to finish, and the rest is aborted. When this returns, every task that it
/// started has ended, except for a [`Content::metrics`] and a password verification that are still running on threads of their
/// own.
///
/// # Errors
/// A listener that cannot be registered with the event loop; nothing is served then.
pub async fn serve(
    bound: impl Into<BoundListener>,
    content: Arc<dyn Content>,
    settings: HttpSettings,
    shutdown: CancellationToken,
) -> io::Result<()> {
    let listener = Listener::new(bound.into())?;
    let limits = &settings.limits;
    let pages = TowerToHyperService::new(warp::service(routes(Arc::clone(&content), &settings)));
    let service = service_fn(move |mut request: Request<Incoming>| {
        // warp's path filters panic over a target without a path, such as that of CONNECT; no page is called "*".
        if request.uri().path_and_query().is_none() {
            *request.uri_mut() = Uri::from_static("*");
        }
        pages.call(request).map(with_scrape_body)
    });
    let protocol = protocol(limits);
    let access = Arc::new(AccessControl::new(&settings, Arc::clone(&content)));
    let mut connections = JoinSet::new();
    let mut backoff = ACCEPT_BACKOFF_MIN;
    loop {
        let accepted = tokio::select! {
            () = shutdown.cancelled() => break,
            accepted = listener.accept() => accepted,
        };
        while connections.try_join_next().is_some() {}
        match accepted {
            Ok((socket, _)) if connections.len() >= limits.connections_max => {
                content.connection_refused(limits.connections_max);
                // The accept loop must never wait for a client. A request that has arrived is read first, because closing with
                // unread bytes would reset the connection.
                socket.answer_at_once(FULL);
            }
            Ok((socket, peer)) => {
                backoff = ACCEPT_BACKOFF_MIN;
                let by_loopback = ByLoopback(socket.is_loopback());
                let (service, access, content) = (service.clone(), Arc::clone(&access), Arc::clone(&content));
                let (protocol, limits, shutdown) = (protocol.clone(), limits.clone(), shutdown.clone());
                connections.spawn(async move {
                    let entered = async { timeout(limits.header_read_timeout, access.accept(socket, peer)).await };
                    let stream = tokio::select! {
                        entered = entered => match entered {
                            Ok(Ok(stream)) => stream,
                            Ok(Err(error)) => {
                                let peer = peer.map(tracing::field::display);
                                return tracing::debug!(peer, %error, "HTTP connection refused");
                            }
                            Err(_) => return,
                        },
                        () = shutdown.cancelled() => return,
                    };
                    let service = service_fn(move |mut request: Request<Incoming>| {
                        request.extensions_mut().insert(by_loopback);
                        let (service, access, content) = (service.clone(), Arc::clone(&access), Arc::clone(&content));
                        async move {
                            let config = access.authorize(&mut request, peer).await;
                            let mut response = service.call(request).await?;
                            if response.status() == StatusCode::MISDIRECTED_REQUEST {
                                content.refused(Refusal::ForeignHost, peer);
                            }
                            if response.extensions().get::<ForeignOrigin>().is_some() {
                                content.refused(Refusal::ForeignOrigin, peer);
                            }
                            if let Some(config) = config {
                                config.set_headers(response.headers_mut());
                            }
                            Ok::<_, Infallible>(response)
                        }
                    });
                    let stream = TokioIo::new(PatientStream::new(stream, limits.write_timeout));
                    let mut connection = pin!(protocol.serve_connection(stream, service));
                    let ended = tokio::select! {
                        ended = connection.as_mut() => ended,
                        () = shutdown.cancelled() => {
                            connection.as_mut().graceful_shutdown();
                            connection.await
                        }
                    };
                    if let Err(error) = ended {
                        tracing::debug!(peer = peer.map(tracing::field::display), %error, "HTTP connection ended early");
                    }
                });
            }
            Err(error) if is_of_one_connection(&error) => {}
            Err(error) => {
                // Out of file descriptors, say: the connection stays in the queue, and accept would fail at once again.
                content.accept_failed(&error);
                let _ = tokio::time::timeout(backoff, shutdown.cancelled()).await;
                backoff = (backoff * 2).min(ACCEPT_BACKOFF_MAX);
            }
        }
    }
    drop(listener);
    let all_ended = async { while connections.join_next().await.is_some() {} };
    if tokio::time::timeout(limits.shutdown_grace, all_ended).await.is_err() {
        tracing::debug!(connections = connections.len(), "HTTP connections cut off by shutdown");
        connections.shutdown().await;
    }
    Ok(())
}

fn protocol(limits: &HttpLimits) -> http1::Builder {
    let header_bytes_max = limits.header_bytes_max.max(HEADER_BYTES_MIN);
    let mut protocol = http1::Builder::new();
    protocol
        // A client may close its sending side after its last request: RFC 9112, 9.6.
        .half_close(true)
        .timer(StandstillTimer)
        .header_read_timeout(limits.header_read_timeout)
        .max_header_size(header_bytes_max)
        .max_buf_size(header_bytes_max);
    protocol
}

fn is_of_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, Interrupted};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset | Interrupted)
}
