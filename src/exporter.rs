//! [`PrometheusExporter`]: the families for programs that record skills themselves.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use prometheus::Registry;
use thiserror::Error;
use tokio::runtime;
use tokio_util::sync::CancellationToken;

use crate::exposition::FamiliesCollector;
use crate::health::Health;
use crate::http::{self, BindError, HttpSettings};
use crate::ledger::{ConnectionId, Limits, Notice};
use crate::lent_registry::LentRegistry;
use crate::live::{LiveApi, Persistence};
use crate::process::process_collector;
use crate::protocol::{AnomalyEntry, Event, EventKind, Message, Rejection};
use crate::shared_ledger::SharedLedger;
use crate::site_content::SiteContent;
use crate::sync::lock;
use crate::telemetry::{Telemetry, log_notice};

/// The identity of this program's own records among feeds.
const IDENTITY: &str = "local";

const STUCK_THREADS_TIMEOUT: Duration = Duration::from_millis(500);

/// Records skills and serves them to Prometheus at `/metrics`, for programs that have no feed. Listens from
/// [`PrometheusExporter::start`] until [`PrometheusExporter::stop`] or until it is dropped; what was recorded outlives both.
///
/// All methods take `&self` and may be called from many threads at once.
///
/// ```
/// use session_buddy_bridge::PrometheusExporter;
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let exporter = PrometheusExporter::at("127.0.0.1:0".parse()?);
/// exporter.start()?;
/// exporter.record_invocation("pytest-run", Some("execution"), true, Some(45.2))?;
/// exporter.update_completion_rate("pytest-run", 0.92)?;
/// exporter.record_anomaly("drop", "pytest-run")?;
/// exporter.update_active_sessions(5)?;
/// println!("{}", exporter.url().expect("it was started"));
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct PrometheusExporter {
    address: SocketAddr,
    connection: ConnectionId,
    content: Arc<SiteContent>,
    /// Held while the exporter starts or stops, so that it never binds an address that it is still releasing.
    transition: Mutex<()>,
    /// Held for a moment only: whoever asks whether it runs does not wait for a start or a stop.
    running: Mutex<Option<Running>>,
}

#[derive(Debug)]
struct Running {
    address: SocketAddr,
    shutdown: CancellationToken,
    thread: JoinHandle<()>,
}

/// Why an exporter could not be started. It does not run then.
///
/// ```
/// use std::net::TcpListener;
///
/// use session_buddy_bridge::{BindError, PrometheusExporter, StartError};
///
/// let other = TcpListener::bind("127.0.0.1:0")?;
/// let exporter = PrometheusExporter::at(other.local_addr()?);
/// assert!(matches!(exporter.start(), Err(StartError::Bind(BindError::InUse { .. }))));
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Debug, Error)]
pub enum StartError {
    /// The address cannot be bound.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// The system provides no thread or no event queue.
    #[error("cannot start the exporter's thread: {0}")]
    Thread(#[from] io::Error),
}

/// Why something was not recorded. Nothing of it was.
///
/// ```
/// use session_buddy_bridge::{PrometheusExporter, RecordError, RejectionReason};
///
/// let exporter = PrometheusExporter::new(9092);
/// assert_eq!(exporter.update_completion_rate("pytest-run", 92.0), Err(RecordError::Rate(92.0)));
/// let name = "x".repeat(10_000);
/// match exporter.record_anomaly("drop", &name) {
///     Err(RecordError::Rejected(rejection)) => assert_eq!(rejection.reason, RejectionReason::LabelTooLong),
///     other => panic!("{other:?}"),
/// }
/// ```
#[derive(Debug, Clone, PartialEq, Error)]
pub enum RecordError {
    /// A duration that is negative, infinite or not a number.
    #[error("duration_seconds {0} should be finite and not negative")]
    Duration(f64),
    /// A completion rate outside 0.0 to 1.0.
    #[error("completion rate {0} should be between 0.0 and 1.0")]
    Rate(f64),
    /// A negative number of sessions.
    #[error("{0} active sessions: there cannot be fewer than 0")]
    ActiveSessions(i64),
    /// An empty label.
    #[error("{0} should not be empty")]
    Empty(&'static str),
    /// A label or a number of series beyond a limit, or a reserved name: [`Rejection::reason`] says which.
    #[error(transparent)]
    Rejected(#[from] Rejection),
}

impl PrometheusExporter {
    /// Creates an exporter for `127.0.0.1:port`. Port 0 is one that is free at each start; ask
    /// [`PrometheusExporter::local_addr`] which. For another interface use [`PrometheusExporter::at`].
    pub fn new(port: u16) -> Self {
        Self::at((Ipv4Addr::LOCALHOST, port).into())
    }

    /// Creates an exporter for any address. Everybody who can reach it can read the metrics.
    pub fn at(address: SocketAddr) -> Self {
        let ledger = Arc::new(SharedLedger::new(Limits::default()));
        let connection = ledger.open(ledger.add_local_feed(IDENTITY));
        let registry = Registry::new();
        let families = FamiliesCollector::new(ledger.clone());
        registry.register(Box::new(families)).expect("the registry is new and the families are constants");
        registry.register(Box::new(process_collector())).expect("its names are not those of the families");
        // Without feeds there is nothing to report.
        let (telemetry, health) = (Arc::new(Telemetry::new()), Arc::new(Health::new()));
        let api = LiveApi::new(ledger.clone(), Arc::clone(&telemetry), Arc::clone(&health), Persistence::InMemory);
        let registry = Arc::new(LentRegistry::new(registry));
        let content =
            SiteContent { ledger, telemetry, health, registry, api: Arc::new(api), with_created: false, reloads: None };
        let content = Arc::new(content);
        Self { address, connection, content, transition: Mutex::new(()), running: Mutex::new(None) }
    }

    /// Starts serving, on a thread of its own; it listens when this returns. Does nothing if it runs. Waits for a
    /// [`PrometheusExporter::stop`] of another thread to finish.
    ///
    /// # Errors
    /// An address that cannot be bound, above all one that another program uses; a thread that cannot be started.
    pub fn start(&self) -> Result<(), StartError> {
        let _transition = lock(&self.transition);
        if self.is_running() {
            return Ok(());
        }
        let listener = http::bind(self.address)?;
        let address = listener.local_addr()?;
        let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
        let shutdown = CancellationToken::new();
        let (content, cancelled) = (Arc::clone(&self.content), shutdown.clone());
        let serve = async move {
            let history = Arc::clone(&content.api).record_history(cancelled.clone());
            let ends = cancelled.clone();
            let pages = async {
                let _ended = ends.drop_guard();
                if let Err(error) = http::serve(listener, content, HttpSettings::default(), cancelled).await {
                    tracing::error!(%error, "the exporter cannot listen");
                }
            };
            tokio::join!(history, pages);
        };
        let thread = thread::Builder::new().name("prometheus-exporter".to_owned()).spawn(move || {
            runtime.block_on(serve);
            // A collector of the program's own that hangs keeps a thread, which cannot be ended, and nothing else.
            runtime.shutdown_timeout(STUCK_THREADS_TIMEOUT);
        })?;
        tracing::info!(%address, "listening");
        *self.running() = Some(Running { address, shutdown, thread });
        Ok(())
    }

    /// Stops serving, within a few seconds even if a client or a registered collector hangs; the address is free when this
    /// returns. What was recorded stays. Does nothing if it does not run.
    pub fn stop(&self) {
        let _transition = lock(&self.transition);
        // Not within the `if let`, which would hold this lock while it waits.
        let running = self.running().take();
        if let Some(running) = running {
            running.shutdown.cancel();
            if running.thread.join().is_err() {
                tracing::error!("the exporter's thread panicked");
            }
        }
    }

    /// Returns whether it serves.
    pub fn is_running(&self) -> bool {
        self.running().as_ref().is_some_and(Running::is_alive)
    }

    /// Returns the address that it listens on, while it runs.
    pub fn local_addr(&self) -> Option<SocketAddr> {
        self.running().as_ref().filter(|running| running.is_alive()).map(|running| running.address)
    }

    /// Returns the URL of the metrics, while it runs.
    pub fn url(&self) -> Option<String> {
        self.local_addr().map(|address| format!("http://{address}/metrics"))
    }

    /// Returns the registry behind `/metrics`. Whatever else is registered with it is served as well.
    pub fn registry(&self) -> &Registry {
        self.content.registry.lend()
    }

    /// Counts one invocation, and observes its duration if there is one. No phase, or an empty one, is `unknown`.
    ///
    /// # Errors
    /// An empty `skill_name`, a duration that is negative or not finite, a label beyond its limit.
    pub fn record_invocation(
        &self,
        skill_name: &str,
        workflow_phase: Option<&str>,
        completed: bool,
        duration_seconds: Option<f64>,
    ) -> Result<(), RecordError> {
        not_empty("skill_name", skill_name)?;
        if let Some(seconds) = duration_seconds.filter(|seconds| !seconds.is_finite() || *seconds < 0.0) {
            return Err(RecordError::Duration(seconds));
        }
        self.apply(EventKind::Invocation {
            skill_name: skill_name.into(),
            workflow_phase: workflow_phase.filter(|phase| !phase.is_empty()).map(Into::into),
            completed,
            duration_seconds,
            session_id: None,
        })?;
        tracing::debug!(skill_name, workflow_phase, completed, duration_seconds, "invocation recorded");
        Ok(())
    }

    /// Sets a skill's completion rate.
    ///
    /// # Errors
    /// An empty `skill_name`, a rate outside 0.0 to 1.0, a label beyond its limit.
    pub fn update_completion_rate(&self, skill_name: &str, rate: f64) -> Result<(), RecordError> {
        not_empty("skill_name", skill_name)?;
        if !(0.0..=1.0).contains(&rate) {
            return Err(RecordError::Rate(rate));
        }
        self.apply(EventKind::CompletionRate { skill_name: skill_name.into(), rate })?;
        tracing::debug!(skill_name, rate, "completion rate updated");
        Ok(())
    }

    /// Counts one anomaly of any type, such as `drop`, `spike` or `pattern_shift`.
    ///
    /// # Errors
    /// An empty label, or one beyond its limit.
    pub fn record_anomaly(&self, anomaly_type: &str, skill_name: &str) -> Result<(), RecordError> {
        not_empty("anomaly_type", anomaly_type)?;
        not_empty("skill_name", skill_name)?;
        self.apply(EventKind::Anomaly(AnomalyEntry {
            skill_name: skill_name.into(),
            anomaly_type: anomaly_type.into(),
            detected_at: None,
            deviation_score: None,
        }))?;
        tracing::debug!(anomaly_type, skill_name, "anomaly recorded");
        Ok(())
    }

    /// Sets the number of active sessions.
    ///
    /// # Errors
    /// A negative number.
    pub fn update_active_sessions(&self, count: i64) -> Result<(), RecordError> {
        let sessions = u64::try_from(count).map_err(|_| RecordError::ActiveSessions(count))?;
        self.apply(EventKind::ActiveSessions { count: sessions })?;
        tracing::debug!(count, "active sessions updated");
        Ok(())
    }

    fn apply(&self, kind: EventKind<'_>) -> Result<(), RecordError> {
        let message = Message::Event(Event { id: None, timestamp: None, kind });
        for notice in self.content.ledger.apply(self.connection, &message) {
            match notice {
                Notice::Rejected(rejection) => return Err(rejection.into()),
                other => log_notice(IDENTITY, &other, None),
            }
        }
        Ok(())
    }

    fn running(&self) -> MutexGuard<'_, Option<Running>> {
        lock(&self.running)
    }
}

impl Drop for PrometheusExporter {
    fn drop(&mut self) {
        self.stop();
    }
}

impl Running {
    fn is_alive(&self) -> bool {
        !self.thread.is_finished()
    }
}

fn not_empty(name: &'static str, text: &str) -> Result<(), RecordError> {
    if text.is_empty() { Err(RecordError::Empty(name)) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use prometheus::IntCounter;

    use super::*;
    use crate::exposition::ViewProvider as _;
    use crate::http::{Accepts, Content as _};

    const ACCEPTS: Accepts = Accepts { openmetrics: true, gzip: false };

    /// Everything but CPU time and whatever else of the process changes from scrape to scrape.
    fn families(exporter: &PrometheusExporter) -> Option<String> {
        let metrics = exporter.content.metrics_at_once(ACCEPTS)?;
        let text = String::from_utf8(metrics.chunks.concat()).unwrap();
        Some(text.lines().filter(|line| !line.contains("process_")).collect())
    }

    #[test]
    fn a_small_scrape_is_written_at_once_and_is_the_same() {
        let exporter = PrometheusExporter::new(0);
        exporter.record_invocation("pytest-run", None, true, Some(1.0)).unwrap();
        let at_once = families(&exporter).expect("it is small");
        let metrics = exporter.content.metrics(ACCEPTS).chunks.concat();
        let metrics = String::from_utf8(metrics).unwrap();
        assert_eq!(at_once, metrics.lines().filter(|line| !line.contains("process_")).collect::<String>());
    }

    #[test]
    fn no_scrape_is_written_at_once_that_could_hold_up_feeds() {
        let exporter = PrometheusExporter::new(0);
        exporter.content.ledger.read(&mut |_, _| {
            let other = std::thread::scope(|scope| scope.spawn(|| families(&exporter)).join().unwrap());
            assert_eq!(other, None, "somebody else reads the view");
        });
        assert!(families(&exporter).is_some());

        for number in 0..500 {
            exporter.record_invocation(&format!("skill-{number}"), None, true, Some(1.0)).unwrap();
        }
        assert_eq!(families(&exporter), None, "it became large after the last scrape");
        assert_eq!(families(&exporter), None, "it is large");

        let exporter = PrometheusExporter::new(0);
        exporter.registry().register(Box::new(IntCounter::new("other_total", "Another").unwrap())).unwrap();
        assert_eq!(families(&exporter), None, "a program's collector may block");
    }
}
