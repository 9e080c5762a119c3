//! Which path is answered with what.

use std::convert::Infallible;
use std::fmt::Write as _;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::Semaphore;
use warp::Filter;
use warp::http::uri::Authority;
use warp::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use warp::path::FullPath;
use warp::reply::Response;

use super::accept::Accepts;
use super::gate::Unauthorized;
use super::pieces::Scrape;
use super::{Content, FeedReadiness, HttpSettings, page};

const TEXT: &str = "text/plain; charset=utf-8";
const HTML: &str = "text/html; charset=utf-8";

const HEALTHY_PATH: &str = "/-/healthy";
const READY_PATH: &str = "/-/ready";

/// All pages as one filter that never rejects. `warp::path` and `warp::get` would answer HEAD with 405 and no `Allow`,
/// and the telemetry path is known only at run time.
pub(super) fn routes(
    content: Arc<dyn Content>,
    settings: &HttpSettings,
) -> impl Filter<Extract = (Response,), Error = Infallible> + Clone + use<> {
    let site = Arc::new(Site {
        content,
        telemetry_path: settings.telemetry_path.clone(),
        scrapes: Arc::new(Semaphore::new(settings.limits.scrapes_max.min(Semaphore::MAX_PERMITS))),
        scrape_wait: settings.limits.scrape_wait,
    });
    let requested = warp::method().and(warp::path::full()).and(warp::header::headers_cloned());
    let marks = warp::ext::optional::<ByLoopback>().and(warp::ext::optional::<Unauthorized>());
    requested.and(marks).then(
        move |method: Method,
              path: FullPath,
              headers: HeaderMap,
              by_loopback: Option<ByLoopback>,
              refused: Option<_>| {
            let site = Arc::clone(&site);
            let is_misled = by_loopback == Some(ByLoopback(true)) && !names_this_machine(&headers);
            async move {
                match refused {
                    Some(Unauthorized) => unauthorized(),
                    None => site.answer(&method, path.as_str(), Accepts::read(&headers), is_misled).await,
                }
            }
        },
    )
}

struct Site {
    content: Arc<dyn Content>,
    telemetry_path: String,
    scrapes: Arc<Semaphore>,
    scrape_wait: Duration,
}

enum Page {
    Metrics,
    Landing,
    Healthy,
    Ready,
}

impl Site {
    fn page(&self, path: &str) -> Option<Page> {
        match path {
            _ if path == self.telemetry_path => Some(Page::Metrics),
            "/" => Some(Page::Landing),
            HEALTHY_PATH => Some(Page::Healthy),
            READY_PATH => Some(Page::Ready),
            _ => None,
        }
    }

    async fn answer(&self, method: &Method, path: &str, accepts: Accepts, is_misled: bool) -> Response {
        let Some(page) = self.page(path) else {
            let text = format!("Not found. Pages: {}, /, {HEALTHY_PATH}, {READY_PATH}\n", self.telemetry_path);
            return reply(StatusCode::NOT_FOUND, TEXT, text);
        };
        if !matches!(*method, Method::GET | Method::HEAD) {
            let refusal = reply(StatusCode::METHOD_NOT_ALLOWED, TEXT, "Method not allowed. Use GET or HEAD.\n");
            return with(refusal, header::ALLOW, "GET, HEAD");
        }
        // A HEAD is answered as a GET is: hyper sends the headers, Content-Length included, and leaves out the body.
        match page {
            Page::Metrics => self.metrics(accepts).await,
            // Scrapers and probes may call this machine what they like: they are no browsers that show other people's pages.
            Page::Landing if is_misled => reply(
                StatusCode::MISDIRECTED_REQUEST,
                TEXT,
                "This page is for this machine alone. Call it localhost, or by its address.\n",
            ),
            Page::Landing => {
                let html = reply(StatusCode::OK, HTML, page::landing(&self.telemetry_path, &self.content.feeds()));
                with(html, header::CONTENT_SECURITY_POLICY, "default-src 'none'; style-src 'unsafe-inline'")
            }
            Page::Healthy => reply(StatusCode::OK, TEXT, "Healthy.\n"),
            Page::Ready => readiness(&self.content.feeds()),
        }
    }

    async fn metrics(&self, accepts: Accepts) -> Response {
        let place = tokio::time::timeout(self.scrape_wait, Arc::clone(&self.scrapes).acquire_owned()).await;
        let Ok(Ok(place)) = place else {
            let busy = reply(StatusCode::SERVICE_UNAVAILABLE, TEXT, "Too many scrapes at once. Try again shortly.\n");
            return with(busy, header::RETRY_AFTER, "1");
        };
        let content = Arc::clone(&self.content);
        // A body of many megabytes takes long to write. On a worker of the runtime it would hold up the feeds whose
        // tasks wait for that worker, so it is written on a thread that may block.
        match tokio::task::spawn_blocking(move || content.metrics(accepts)).await {
            Ok(metrics) => {
                let mut response =
                    with(reply(StatusCode::OK, metrics.media_type, ""), header::VARY, "accept, accept-encoding");
                if metrics.is_gzip {
                    response = with(response, header::CONTENT_ENCODING, "gzip");
                }
                let scrape = Scrape::new(metrics.pieces, place);
                response.headers_mut().insert(header::CONTENT_LENGTH, scrape.bytes().into());
                // Taken in the place of the body once warp is done with the response.
                response.extensions_mut().insert(scrape);
                response
            }
            Err(failure) => {
                tracing::error!(error = %failure, "a scrape failed");
                reply(StatusCode::INTERNAL_SERVER_ERROR, TEXT, "The metrics could not be written. See the log.\n")
            }
        }
    }
}

fn unauthorized() -> Response {
    let refusal = reply(StatusCode::UNAUTHORIZED, TEXT, "Unauthorized. Give a user and the password.\n");
    with(refusal, header::WWW_AUTHENTICATE, "Basic realm=\"session-buddy-bridge\", charset=\"UTF-8\"")
}

/// Whether a request came in over the loopback interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ByLoopback(pub bool);

/// Whether `Host` is an address or a name that nobody else can point at this machine. Otherwise a page of some web site
/// could give its own name this machine's address, and read in the name of the browser what is here (DNS rebinding).
fn names_this_machine(headers: &HeaderMap) -> bool {
    // HTTP/1.0 has no Host, and browsers do not speak it.
    let Some(host) = headers.get(header::HOST) else { return true };
    let Some(host) = host.to_str().ok().and_then(|host| host.parse::<Authority>().ok()) else { return false };
    let name = host.host().trim_end_matches('.').to_ascii_lowercase();
    let is_address = name.parse::<IpAddr>().is_ok() || name.starts_with('[');
    is_address || name == "localhost" || name.ends_with(".localhost")
}

/// Without any feed there is nothing to wait for: an embedder's exporter is ready once it answers.
fn readiness(feeds: &[FeedReadiness]) -> Response {
    let (status, mut text) = if feeds.is_empty() {
        (StatusCode::OK, "Ready: no feeds are configured.\n".to_owned())
    } else if feeds.iter().any(|feed| feed.live) {
        (StatusCode::OK, "Ready.\n".to_owned())
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, "Not ready: no feed is live.\n".to_owned())
    };
    for feed in feeds {
        let identity = one_line(&feed.identity);
        let _ = match (feed.live, &*one_line(&feed.reason)) {
            (true, "") => writeln!(text, "{identity}: live"),
            (true, lack) => writeln!(text, "{identity}: live, but {lack}"),
            (false, why) => writeln!(text, "{identity}: not live: {why}"),
        };
    }
    reply(status, TEXT, text)
}

fn one_line(text: &str) -> String {
    text.replace(char::is_control, " ")
}

fn reply(status: StatusCode, content_type: &'static str, body: impl Into<Bytes>) -> Response {
    let mut response = Response::new(body.into().into());
    *response.status_mut() = status;
    let response = with(response, header::CONTENT_TYPE, content_type);
    let response = with(response, header::CACHE_CONTROL, "no-store");
    with(response, header::X_CONTENT_TYPE_OPTIONS, "nosniff")
}

fn with(mut response: Response, name: HeaderName, value: &'static str) -> Response {
    response.headers_mut().insert(name, HeaderValue::from_static(value));
    response
}
