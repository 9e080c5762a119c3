//! The HTTP room, served on a free loopback port with content made up by a test.

use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use session_buddy_bridge::internals::http::{self, Content, HttpSettings, QueryError, Readiness};
use tokio::runtime::Runtime;
use tokio_util::sync::CancellationToken;

use super::PATIENCE;

/// How often the web configuration file is checked, and how far apart two reads of it must agree.
pub const WATCH_INTERVAL: Duration = Duration::from_millis(20);

type Metrics = Box<dyn Fn() -> Bytes + Send + Sync>;

pub struct MadeUp {
    pub metrics: Metrics,
    /// Whether a scrape is written at once, and not on a thread that may block.
    pub is_small: bool,
    pub readiness: Mutex<Readiness>,
    pub answered: Mutex<Vec<(String, u16)>>,
    pub refused: AtomicUsize,
    pub accept_failures: AtomicUsize,
    pub refusals: Mutex<Vec<http::Refusal>>,
    pub web_config_failures: Mutex<Vec<String>>,
    pub web_config_reloads: Mutex<Vec<http::WebConfigSummary>>,
}

impl MadeUp {
    pub fn showing(metrics: impl Fn() -> Bytes + Send + Sync + 'static) -> Self {
        Self {
            metrics: Box::new(metrics),
            is_small: false,
            readiness: Mutex::new(Readiness { is_ready: true, text: "Ready.\n".to_owned() }),
            answered: Mutex::default(),
            refused: AtomicUsize::new(0),
            accept_failures: AtomicUsize::new(0),
            refusals: Mutex::default(),
            web_config_failures: Mutex::default(),
            web_config_reloads: Mutex::default(),
        }
    }

    /// Shows `body` once it is released. Returns the content, what is sent when a scrape has begun, and what releases it.
    pub fn held(body: impl Into<Bytes>) -> (Self, mpsc::Receiver<()>, mpsc::Sender<()>) {
        let (begin, begun) = mpsc::channel();
        let (release, held) = mpsc::channel::<()>();
        let (held, body) = (Mutex::new(held), body.into());
        let content = Self::showing(move || {
            begin.send(()).unwrap();
            held.lock().unwrap().recv_timeout(PATIENCE).unwrap();
            body.clone()
        });
        (content, begun, release)
    }

    pub fn set_readiness(&self, is_ready: bool, text: &str) {
        *self.readiness.lock().unwrap() = Readiness { is_ready, text: text.to_owned() };
    }
}

impl Content for MadeUp {
    fn metrics(&self, _accepts: http::Accepts) -> http::Metrics {
        (self.metrics)().into()
    }

    fn metrics_at_once(&self, _accepts: http::Accepts) -> Option<http::Metrics> {
        self.is_small.then(|| (self.metrics)().into())
    }

    fn api(&self, _resource: &str, _query: &str) -> Option<Result<Vec<u8>, QueryError>> {
        None
    }

    fn readiness(&self) -> Readiness {
        self.readiness.lock().unwrap().clone()
    }

    fn reload(&self) -> BoxFuture<'static, Result<(), Arc<str>>> {
        Box::pin(async { Ok(()) })
    }

    fn answered(&self, path: &str, status: u16) {
        self.answered.lock().unwrap().push((path.to_owned(), status));
    }

    fn scraped(&self, _duration: Duration) {}

    fn connection_refused(&self, _connections_max: usize) {
        self.refused.fetch_add(1, Ordering::SeqCst);
    }

    fn refused(&self, refusal: http::Refusal, peer: Option<SocketAddr>) {
        assert!(peer.is_some_and(|peer| peer.ip().is_loopback()), "{peer:?}");
        self.refusals.lock().unwrap().push(refusal);
    }

    fn web_config_reloaded(&self, summary: http::WebConfigSummary) {
        self.web_config_reloads.lock().unwrap().push(summary);
    }

    fn web_config_failed(&self, error: &http::WebConfigError) {
        self.web_config_failures.lock().unwrap().push(error.to_string());
    }

    fn accept_failed(&self, _error: &io::Error) {
        self.accept_failures.fetch_add(1, Ordering::SeqCst);
    }
}

pub struct Served {
    pub address: SocketAddr,
    pub content: Arc<MadeUp>,
    shutdown: CancellationToken,
    ended: mpsc::Receiver<()>,
    _runtime: Runtime,
}

impl Served {
    pub fn start(content: MadeUp, settings: HttpSettings) -> Self {
        let runtime = Runtime::new().unwrap();
        let listener = http::bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let address = listener.local_addr().unwrap();
        let content = Arc::new(content);
        let shutdown = CancellationToken::new();
        let (end, ended) = mpsc::channel();
        if let Some(file) = &settings.web_config {
            runtime.spawn(http::watch_web_config(Arc::clone(file), content.clone(), WATCH_INTERVAL));
        }
        let (shown, stop) = (Arc::clone(&content), shutdown.clone());
        runtime.spawn(async move {
            http::serve(listener, shown, settings, stop).await.unwrap();
            let _ = end.send(());
        });
        Self { address, content, shutdown, ended, _runtime: runtime }
    }

    /// Tells the server to end, without waiting.
    pub fn begin_shutdown(&self) {
        self.shutdown.cancel();
    }

    /// Ends the server and waits until it has.
    pub fn stop(self) {
        self.begin_shutdown();
        self.ended.recv_timeout(PATIENCE).expect("the server ends");
    }
}
