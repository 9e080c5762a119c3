//! Paths and their responses.

use std::any::Any;
use std::convert::Infallible;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use warp::Filter;
use warp::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use warp::path::FullPath;
use warp::reply::Response;

use super::accept::Accepts;
use super::access::Denied;
use super::assets::{self, Asset};
use super::host::{ForeignHost, ForeignOrigin};
use super::scrape_body::ScrapeChunks;
use super::{AllowedHostsName, Content, HttpSettings, Readiness};
use crate::standstill::timeout;

const TEXT: &str = "text/plain; charset=utf-8";
const JSON: &str = "application/json";

const HEALTHY_PATH: &str = "/-/healthy";
const READY_PATH: &str = "/-/ready";
const RELOAD_PATH: &str = "/-/reload";
const API_PATH: &str = "/api/v1/";

/// The page loads nothing from other sites, has no inline scripts or styles, and must not be framed.
const CONTENT_SECURITY_POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; \
    connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; \
    require-trusted-types-for 'script'; trusted-types 'none'";

/// Returns all pages as one filter that never rejects. `warp::path` and `warp::get` would answer HEAD with 405 and no `Allow`,
/// and the telemetry path is only known at run time.
pub(super) fn routes(
    content: Arc<dyn Content>,
    settings: &HttpSettings,
) -> impl Filter<Extract = (Response,), Error = Infallible> + Clone + use<> {
    let site = Arc::new(Site {
        content,
        telemetry_path: settings.telemetry_path.clone(),
        allowed_hosts_name: settings.allowed_hosts_name,
        has_lifecycle_api: settings.has_lifecycle_api,
        scrapes: Arc::new(Semaphore::new(settings.limits.scrapes_max.min(Semaphore::MAX_PERMITS))),
        scrape_wait: settings.limits.scrape_wait,
    });
    let query = warp::query::raw().or(warp::any().map(String::new)).unify();
    let requested = warp::method().and(warp::path::full()).and(query).and(warp::header::headers_cloned());
    let marks = warp::ext::optional::<ByLoopback>()
        .and(warp::ext::optional::<ForeignHost>())
        .and(warp::ext::optional::<ForeignOrigin>())
        .and(warp::ext::optional::<Denied>());
    requested.and(marks).then(
        move |method: Method,
              path: FullPath,
              query: String,
              headers: HeaderMap,
              by_loopback: Option<ByLoopback>,
              foreign: Option<ForeignHost>,
              foreign_origin: Option<ForeignOrigin>,
              denied: Option<Denied>| {
            let site = Arc::clone(&site);
            let rebound = foreign.filter(|_| by_loopback == Some(ByLoopback(true)));
            async move {
                let response = match denied {
                    Some(denied) => site.refused(&denied),
                    None if path.as_str() == RELOAD_PATH => site.reload(&method, rebound, foreign_origin).await,
                    None => site.answer(&method, path.as_str(), &query, Accepts::read(&headers), rebound).await,
                };
                site.content.answered(site.path_label(path.as_str()), response.status().as_u16());
                response
            }
        },
    )
}

struct Site {
    content: Arc<dyn Content>,
    telemetry_path: String,
    allowed_hosts_name: AllowedHostsName,
    has_lifecycle_api: bool,
    scrapes: Arc<Semaphore>,
    scrape_wait: Duration,
}

enum Page<'a> {
    Metrics,
    Asset(&'static Asset),
    Api(&'a str),
    Healthy,
    Ready,
}

impl Site {
    fn page<'a>(&self, path: &'a str) -> Option<Page<'a>> {
        match path {
            _ if path == self.telemetry_path => Some(Page::Metrics),
            HEALTHY_PATH => Some(Page::Healthy),
            READY_PATH => Some(Page::Ready),
            _ => match path.strip_prefix(API_PATH) {
                Some(resource) => Some(Page::Api(resource)),
                None => assets::find(path).map(Page::Asset),
            },
        }
    }

    /// Returns what a path is called in metrics: one of few names.
    fn path_label<'a>(&'a self, path: &'a str) -> &'a str {
        match self.page(path) {
            Some(Page::Metrics | Page::Healthy | Page::Ready) => path,
            Some(Page::Asset(_)) if path == "/" => path,
            Some(Page::Asset(_)) => "/assets/",
            Some(Page::Api(_)) => API_PATH,
            None if path == RELOAD_PATH => path,
            None => "other",
        }
    }

    async fn answer(
        &self,
        method: &Method,
        path: &str,
        query: &str,
        accepts: Accepts,
        rebound: Option<ForeignHost>,
    ) -> Response {
        let Some(page) = self.page(path) else { return self.not_found() };
        if !matches!(*method, Method::GET | Method::HEAD) {
            let refusal = reply(StatusCode::METHOD_NOT_ALLOWED, TEXT, "Method not allowed. Use GET or HEAD.\n");
            return with(refusal, header::ALLOW, "GET, HEAD");
        }
        // A HEAD is answered as a GET is: hyper sends the headers, Content-Length included, and leaves out the body.
        match (page, rebound) {
            (Page::Asset(_) | Page::Api(_), Some(foreign)) => self.misdirected(&foreign),
            // Scrapers and probes may call this machine what they like: they are no browsers that show other people's pages.
            (page, _) => self.page_content(page, query, accepts).await,
        }
    }

    async fn page_content(&self, page: Page<'_>, query: &str, accepts: Accepts) -> Response {
        match page {
            Page::Metrics => self.metrics(accepts).await,
            Page::Asset(asset) => {
                let response = reply(StatusCode::OK, asset.media_type, asset.body(&self.telemetry_path));
                with(response, header::CONTENT_SECURITY_POLICY, CONTENT_SECURITY_POLICY)
            }
            Page::Api(resource) => self.api(resource, query).await,
            Page::Healthy => reply(StatusCode::OK, TEXT, "Healthy.\n"),
            Page::Ready => readiness(self.content.readiness()),
        }
    }

    fn not_found(&self) -> Response {
        let text = format!("Not found. Pages: {}, /, {HEALTHY_PATH}, {READY_PATH}\n", self.telemetry_path);
        reply(StatusCode::NOT_FOUND, TEXT, text)
    }

    /// As Prometheus answers, except that neither a rebound host nor another site's page is obeyed.
    async fn reload(
        &self,
        method: &Method,
        rebound: Option<ForeignHost>,
        foreign_origin: Option<ForeignOrigin>,
    ) -> Response {
        if !matches!(*method, Method::POST | Method::PUT) {
            let refusal = reply(StatusCode::METHOD_NOT_ALLOWED, TEXT, "Method not allowed. Use POST or PUT.\n");
            return with(refusal, header::ALLOW, "POST, PUT");
        }
        if let Some(foreign) = rebound {
            return self.misdirected(&foreign);
        }
        if let Some(foreign_origin) = foreign_origin {
            let mut refusal = reply(StatusCode::FORBIDDEN, TEXT, "Forbidden: the request is of another site's page.\n");
            // It is counted where the client's address is known.
            refusal.extensions_mut().insert(foreign_origin);
            return refusal;
        }
        if !self.has_lifecycle_api {
            return reply(StatusCode::FORBIDDEN, TEXT, "Lifecycle API is not enabled (--web.enable-lifecycle).\n");
        }
        match self.content.reload().await {
            Ok(()) => reply(StatusCode::OK, TEXT, "Configuration reloaded.\n"),
            Err(reason) => reply(
                StatusCode::INTERNAL_SERVER_ERROR,
                TEXT,
                format!("Failed to reload the configuration: {reason}\n"),
            ),
        }
    }

    async fn permit(&self) -> Result<OwnedSemaphorePermit, Response> {
        let permit = timeout(self.scrape_wait, Arc::clone(&self.scrapes).acquire_owned()).await;
        permit.ok().and_then(Result::ok).ok_or_else(|| {
            let busy = reply(StatusCode::SERVICE_UNAVAILABLE, TEXT, "Too many scrapes at once. Try again shortly.\n");
            with(busy, header::RETRY_AFTER, "1")
        })
    }

    /// Holds a scrape permit until the body is written, since it reads as much as a scrape.
    async fn api(&self, resource: &str, query: &str) -> Response {
        let permit = match self.permit().await {
            Ok(permit) => permit,
            Err(busy) => return busy,
        };
        let (content, resource, query) = (Arc::clone(&self.content), resource.to_owned(), query.to_owned());
        let answered = tokio::task::spawn_blocking(move || content.api(&resource, &query)).await;
        drop(permit);
        match answered {
            Ok(Some(Ok(json))) => reply(StatusCode::OK, JSON, json),
            Ok(Some(Err(error))) => {
                let error = serde_json::json!({ "error": error.to_string() }).to_string();
                reply(StatusCode::BAD_REQUEST, JSON, error)
            }
            Ok(None) => self.not_found(),
            Err(failure) => {
                tracing::error!(error = %failure, "an answer to the live page failed");
                reply(StatusCode::INTERNAL_SERVER_ERROR, TEXT, "The answer could not be written. See the log.\n")
            }
        }
    }

    async fn metrics(&self, accepts: Accepts) -> Response {
        let requested = Instant::now();
        let permit = match self.permit().await {
            Ok(permit) => permit,
            Err(busy) => return busy,
        };
        // A body of many megabytes takes long to write. On a worker of the runtime it would hold up the feeds whose
        // tasks wait for that worker, so it is written on a thread that may block. To hand a small one over takes as long
        // as to write it.
        let metrics = match catch_unwind(AssertUnwindSafe(|| self.content.metrics_at_once(accepts))) {
            Ok(Some(metrics)) => Ok(metrics),
            Ok(None) => {
                let content = Arc::clone(&self.content);
                tokio::task::spawn_blocking(move || content.metrics(accepts)).await.map_err(|error| error.to_string())
            }
            Err(panic) => Err(format!("panicked with message {:?}", message_of(&*panic))),
        };
        match metrics {
            Ok(metrics) => {
                let mut response =
                    with(reply(StatusCode::OK, metrics.media_type, ""), header::VARY, "accept, accept-encoding");
                if metrics.is_gzip {
                    response = with(response, header::CONTENT_ENCODING, "gzip");
                }
                self.content.scraped(requested.elapsed());
                let scrape = ScrapeChunks::new(metrics.chunks, permit);
                response.headers_mut().insert(header::CONTENT_LENGTH, scrape.bytes().into());
                // Replaces the body once warp is done with the response.
                response.extensions_mut().insert(scrape);
                response
            }
            Err(failure) => {
                tracing::error!(error = %failure, "a scrape failed");
                reply(StatusCode::INTERNAL_SERVER_ERROR, TEXT, "The metrics could not be written. See the log.\n")
            }
        }
    }

    fn refused(&self, denied: &Denied) -> Response {
        match denied {
            Denied::InvalidHost(invalid) => reply(StatusCode::BAD_REQUEST, TEXT, format!("Bad request: {invalid}.\n")),
            Denied::ForeignHost(foreign) => self.misdirected(foreign),
            Denied::Unauthorized => {
                let response = reply(StatusCode::UNAUTHORIZED, TEXT, "Unauthorized. Give a user and the password.\n");
                with(response, header::WWW_AUTHENTICATE, "Basic realm=\"session-buddy-bridge\", charset=\"UTF-8\"")
            }
            Denied::TooManyLogins => {
                let busy =
                    reply(StatusCode::SERVICE_UNAVAILABLE, TEXT, "Too many logins at once. Try again shortly.\n");
                with(busy, header::RETRY_AFTER, "1")
            }
        }
    }

    fn misdirected(&self, ForeignHost { name, .. }: &ForeignHost) -> Response {
        let remedy = match self.allowed_hosts_name {
            AllowedHostsName::None => String::new(),
            AllowedHostsName::Field => ", or add it to Settings::allowed_hosts of the bridge".to_owned(),
            AllowedHostsName::Flag => format!(", or start the bridge with --web.allowed-hosts={name}"),
        };
        let text =
            format!("\"{name}\" is not known as a host name of this server. Use its address or localhost{remedy}\n");
        reply(StatusCode::MISDIRECTED_REQUEST, TEXT, text)
    }
}

/// Whether a request was received over the loopback interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ByLoopback(pub bool);

/// Returns what a panic was called with, as far as it is text.
fn message_of(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or_default()
}

fn readiness(Readiness { is_ready, text }: Readiness) -> Response {
    reply(if is_ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE }, TEXT, text)
}

fn reply(status: StatusCode, content_type: &'static str, body: impl Into<Bytes>) -> Response {
    let mut response = Response::new(body.into().into());
    *response.status_mut() = status;
    let response = with(response, header::CONTENT_TYPE, content_type);
    let response = with(response, header::CACHE_CONTROL, "no-store");
    let response = with(response, header::REFERRER_POLICY, "no-referrer");
    with(response, header::X_CONTENT_TYPE_OPTIONS, "nosniff")
}

fn with(mut response: Response, name: HeaderName, value: &'static str) -> Response {
    response.headers_mut().insert(name, HeaderValue::from_static(value));
    response
}
