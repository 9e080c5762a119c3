//! Wires the rooms together; the only place that knows them all. It has no rules of its own.

mod check;
mod ear;
mod explain;
mod ingest_listener;
mod record;
mod replay;
mod site_content;
mod state;
mod subscriptions;

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use prometheus::Registry;
use thiserror::Error;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::demo::{DemoFeed, guide};
use crate::exposition::{FamiliesCollector, ViewProvider};
use crate::feed::{FeedSettings, Timing};
use crate::http::{self, BindError, BoundListener, HttpSettings};
use crate::keeper::{KeepError, Kept};
use crate::live::{LiveApi, Persistence};
use crate::process::ProcessCollector;
use crate::recording::RecordingError;
use crate::service_manager;
use crate::settings::{DemoTask, FeedTarget, FeedUrlError, ReloadableSettings, Settings, StateLocation};
use crate::shared_ledger::SharedLedger;
use crate::telemetry::{LedgerCounters, StateTelemetry, Telemetry};
use site_content::SiteContent;
use subscriptions::Subscriptions;

pub use check::check;
pub use explain::explain;
pub use record::record;
pub use replay::{replay, replayed};
pub use state::state;

/// Why the bridge ended otherwise than asked.
#[derive(Debug, Error)]
pub enum BridgeError {
    /// An address that cannot be listened on.
    #[error("{0} (--web.listen-address)")]
    Listen(#[from] BindError),
    /// A listener that the event loop does not take.
    #[error("cannot listen: {0}")]
    Listener(#[source] io::Error),
    /// The made-up feed found no port.
    #[error("the demo's feed cannot listen on 127.0.0.1: {0}")]
    DemoFeed(#[source] io::Error),
    /// The made-up feed has a URL that is none.
    #[error("the demo's feed {0}")]
    DemoUrl(#[from] FeedUrlError),
    /// A file that cannot be read or written.
    #[error("{}: {error}", .file.display())]
    File {
        /// The file.
        file: PathBuf,
        /// What the system said.
        error: io::Error,
    },
    /// A recording that is none.
    #[error("{}: {error}", .file.display())]
    Recording {
        /// The file.
        file: PathBuf,
        /// Its first fault.
        error: RecordingError,
    },
    /// A file that would be overwritten.
    #[error("{}: the file exists already: choose another name or delete it", .file.display())]
    FileExists {
        /// The file.
        file: PathBuf,
    },
    /// A feed that sent nothing while it was recorded.
    #[error("nothing was heard of the feed {identity}, so there is no recording: {why}")]
    NothingHeard {
        /// The feed.
        identity: String,
        /// How the latest attempt to hear it went.
        why: String,
    },
    /// A feed that a look at it finds fault with.
    #[error("the feed {identity}: {problem}")]
    CheckFailed {
        /// The feed.
        identity: String,
        /// What is wrong.
        problem: String,
    },
    /// A state that cannot be used.
    #[error(transparent)]
    State(#[from] KeepError),
    /// There is no such feed in the state.
    #[error("the state {} knows no feed {identity:?}; `state show` lists those that it knows", path.display())]
    NoSuchFeed {
        /// The state.
        path: PathBuf,
        /// What was asked for.
        identity: String,
    },
    /// No thread was to be had.
    #[error("cannot start the thread that reads a feed's database: {0}")]
    Thread(#[source] io::Error),
    /// Standard output that takes nothing more.
    #[error("cannot write to standard output: {0}")]
    Output(#[source] io::Error),
    /// A defect of the bridge.
    #[error("a task of the bridge panicked, which is a defect: {0}")]
    Panicked(String),
}

/// The bridge, assembled and not yet started.
#[derive(Debug)]
pub struct Bridge {
    service: Service,
    kept: Option<Kept>,
    state_telemetry: Arc<StateTelemetry>,
}

/// What listens and serves; all of a bridge but its state.
#[derive(Debug)]
struct Service {
    settings: Settings,
    ledger: Arc<SharedLedger>,
    telemetry: Arc<Telemetry>,
    registry: Registry,
    live: Arc<LiveApi>,
    reloads: Arc<Notify>,
}

/// Asks a bridge to read its configuration file again.
#[derive(Debug, Clone)]
pub struct Reloads(Arc<Notify>);

impl Reloads {
    /// Asks. Several askings before the bridge gets to it are one.
    pub fn ask(&self) {
        self.0.notify_one();
    }
}

impl Bridge {
    /// Assembles a bridge, with the state that it left behind. Nothing is started: no address is bound, no feed is
    /// connected to.
    ///
    /// # Errors
    /// A state that cannot be used, above all one that another bridge has open. Where nobody chose its place, one that
    /// cannot be written is no error: counts are in memory then, and a warning says so.
    pub fn new(settings: Settings) -> Result<Self, BridgeError> {
        let state_telemetry = Arc::new(StateTelemetry::new());
        let kept = open_state(&settings, &state_telemetry)?;
        let ledger = match &kept {
            Some(kept) => Arc::clone(&kept.ledger),
            None => Arc::new(SharedLedger::new(settings.ledger_limits)),
        };
        let telemetry = Arc::new(Telemetry::new());
        let registry = Registry::new();
        let own_numbers = {
            let ledger = Arc::clone(&ledger);
            move || {
                let mut numbers = LedgerCounters::default();
                ledger.read(&mut |view, _| {
                    numbers = LedgerCounters { feeds: view.feeds().cloned().collect(), rules: view.rules() };
                });
                numbers
            }
        };
        let names_differ = "the registry is new and the collectors' names differ";
        registry.register(Box::new(FamiliesCollector::new(ledger.clone()))).expect(names_differ);
        registry.register(Box::new(telemetry.collector(own_numbers))).expect(names_differ);
        registry.register(Box::new(ProcessCollector::new())).expect(names_differ);
        // Where nobody wanted a state, nobody misses one.
        if settings.state != StateLocation::InMemory {
            registry.register(Box::new(state_telemetry.collector())).expect(names_differ);
        }
        let reloads = Arc::new(Notify::new());
        let persistence = match &kept {
            Some(_) => Persistence::OnDisk(Arc::clone(&state_telemetry)),
            None => Persistence::InMemory,
        };
        let live = Arc::new(LiveApi::new(ledger.clone(), Arc::clone(&telemetry), persistence));
        let service = Service { settings, ledger, telemetry, registry, live, reloads };
        Ok(Self { service, kept, state_telemetry })
    }

    /// The registry behind the telemetry path. It shows everything that the bridge does, and serves whatever else is
    /// registered with it.
    pub fn registry(&self) -> &Registry {
        &self.service.registry
    }

    /// What asks this bridge to read its configuration file again.
    pub fn reloads(&self) -> Reloads {
        Reloads(Arc::clone(&self.service.reloads))
    }

    /// Subscribes to the feeds and serves on `listeners`, whatever [`Settings::listen`] says, until `shutdown`. Ends
    /// within 5 s of it; every task has ended then.
    ///
    /// # Errors
    /// A listener that the event loop does not take; a panic, which is a defect.
    pub async fn serve(
        mut self,
        listeners: Vec<impl Into<BoundListener>>,
        shutdown: CancellationToken,
    ) -> Result<(), BridgeError> {
        let listeners: Vec<BoundListener> = listeners.into_iter().map(Into::into).collect();
        let state_telemetry = Arc::clone(&self.state_telemetry);
        let keeper = self.kept.take().map(|kept| kept.start(state_telemetry, shutdown.clone())).transpose()?;
        let mut result = self.service.run(listeners, &shutdown).await;
        // Last, so that what the feeds had to say until their end is kept.
        if let Some(keeper) = keeper {
            let finished = tokio::task::spawn_blocking(|| keeper.finish()).await;
            if !finished.unwrap_or(false) {
                result = result.and(Err(BridgeError::Panicked("the thread that keeps the state".to_owned())));
            }
        }
        result
    }
}

impl Service {
    async fn run(&self, listeners: Vec<BoundListener>, shutdown: &CancellationToken) -> Result<(), BridgeError> {
        let mut servers = JoinSet::new();
        let (ledger, telemetry) = (Arc::clone(&self.ledger), Arc::clone(&self.telemetry));
        let mut feeds = Subscriptions::new(ledger, telemetry, self.settings.timing.clone(), shutdown.clone());
        let configured = ReloadableSettings {
            feeds: self.settings.feeds.clone(),
            ledger_limits: self.settings.ledger_limits,
            frame_bytes_max: self.settings.frame_bytes_max,
        };
        let mut result =
            feeds.reconfigure(&configured).await.and_then(|()| self.listen(listeners, shutdown, &mut servers));
        while result.is_ok() {
            tokio::select! {
                () = shutdown.cancelled() => break,
                Some(ended) = servers.join_next() => result = ended.map_err(|error| BridgeError::Panicked(error.to_string())),
                error = feeds.ended(), if !feeds.is_empty() => {
                    // All of them end by themselves at shutdown.
                    if !shutdown.is_cancelled() {
                        result = Err(error);
                    }
                    break;
                }
                () = self.reloads.notified() => self.reload(&mut feeds).await,
            }
        }
        shutdown.cancel();
        result = result.and(feeds.end().await);
        while let Some(task) = servers.join_next().await {
            result = result.and(task.map_err(|error| BridgeError::Panicked(error.to_string())));
        }
        result
    }

    /// Reads the configuration file again. It counts whole or not at all.
    async fn reload(&self, feeds: &mut Subscriptions) {
        let Some(file) = self.settings.config_file.clone() else { return self.telemetry.nothing_to_reload() };
        let configured = match tokio::task::spawn_blocking(move || file.read()).await {
            Ok(Ok(configured)) => configured,
            Ok(Err(error)) => return self.telemetry.config_failed(&error),
            Err(error) => return self.telemetry.config_failed(&error),
        };
        self.ledger.set_limits(configured.ledger_limits);
        match feeds.reconfigure(&configured).await {
            Ok(()) => self.telemetry.config_reloaded(configured.feeds.len()),
            Err(error) => self.telemetry.config_failed(&error),
        }
    }

    fn listen(
        &self,
        listeners: Vec<BoundListener>,
        shutdown: &CancellationToken,
        servers: &mut JoinSet<()>,
    ) -> Result<(), BridgeError> {
        let content = Arc::new(SiteContent::new(
            Arc::clone(&self.ledger),
            Arc::clone(&self.telemetry),
            self.registry.clone(),
            Arc::clone(&self.live),
            self.settings.with_created,
        ));
        servers.spawn(Arc::clone(&self.live).record_history(shutdown.clone()));
        let web_config = self.settings.web_config.clone();
        // Told where there is some.
        let tls = web_config.as_ref().is_some_and(|file| file.has_tls()).then_some(true);
        let telemetry_path = self.settings.telemetry_path.clone();
        let http_settings = HttpSettings { telemetry_path, web_config, ..HttpSettings::default() };
        for mut listener in listeners {
            let address = listener.name();
            tracing::info!(%address, tls, "listening");
            if let BoundListener::Tcp(listener) = &listener
                && !listener.local_addr().map_err(BridgeError::Listener)?.ip().is_loopback()
            {
                tracing::warn!(%address, "every machine that reaches this address can read the metrics");
            }
            let (content, settings, ends) = (content.clone(), http_settings.clone(), shutdown.clone());
            servers.spawn(async move {
                let _file = listener.take_file();
                if let Err(error) = http::serve(listener, content, settings, ends.clone()).await {
                    tracing::error!(%address, %error, "cannot be served");
                    ends.cancel();
                }
            });
        }
        Ok(())
    }
}

/// Runs the bridge until `shutdown`, serving at [`Settings::listen`].
///
/// # Errors
/// An address that cannot be listened on, and what [`Bridge::serve`] says.
pub async fn run(settings: Settings, shutdown: CancellationToken) -> Result<(), BridgeError> {
    let mut listeners = if settings.systemd_socket { http::from_systemd()? } else { bind_all(&settings.listen)? };
    for path in &settings.listen_unix {
        listeners.push(http::bind_unix(path)?);
    }
    let bridge = Bridge::new(settings)?;
    // It listens already: who connects now is answered as soon as the first task turns.
    let notifying = service_manager::notify_systemd(shutdown.clone());
    let _reloading = tokio::spawn(reload_on_hangup(bridge.reloads(), shutdown.clone()));
    let ended = bridge.serve(listeners, shutdown.clone()).await;
    shutdown.cancel();
    let _ = notifying.await;
    ended
}

async fn reload_on_hangup(reloads: Reloads, shutdown: CancellationToken) {
    let mut hangups = match signal(SignalKind::hangup()) {
        Ok(hangups) => hangups,
        Err(error) => return tracing::warn!(%error, "SIGHUP will not be heard"),
    };
    while let Some(Some(())) = shutdown.run_until_cancelled(hangups.recv()).await {
        reloads.ask();
    }
}

/// Runs a made-up feed and the bridge beside it until `shutdown`. `announce` is given the words for the user once both
/// can be reached.
///
/// # Errors
/// As for [`run`], and where the made-up feed finds no port.
pub async fn demo(task: DemoTask, announce: impl FnOnce(&str), shutdown: CancellationToken) -> Result<(), BridgeError> {
    let feed = DemoFeed::bind(task.feed).await.map_err(BridgeError::DemoFeed)?;
    let feed_url = feed.url();
    let settings = Settings { feeds: vec![FeedTarget::new(&feed_url)?], ..task.bridge };

    let mut taken = None;
    let listeners = match bind_all(&settings.listen) {
        Err(BridgeError::Listen(BindError::InUse { address })) if task.any_port => {
            taken = Some(address);
            bind_all(&[SocketAddr::new(address.ip(), 0)])?
        }
        listeners => listeners?,
    };
    if let Some(BoundListener::Tcp(listener)) = listeners.first()
        && let Ok(address) = listener.local_addr()
    {
        announce(&guide(&feed_url, address, &settings.telemetry_path, taken));
    }

    // The feed ends when the bridge has: were it to end first, the bridge would warn of a feed that is gone.
    let bridge_ended = CancellationToken::new();
    let bridge = async {
        let _ended = bridge_ended.clone().drop_guard();
        Bridge::new(settings)?.serve(listeners, shutdown).await
    };
    tokio::join!(bridge, feed.serve(bridge_ended.clone())).0
}

fn open_state(settings: &Settings, telemetry: &StateTelemetry) -> Result<Option<Kept>, BridgeError> {
    let (path, is_chosen) = match &settings.state {
        StateLocation::InMemory => return Ok(None),
        StateLocation::Default(None) => {
            telemetry.in_memory("neither XDG_STATE_HOME nor HOME says where it could be");
            return Ok(None);
        }
        StateLocation::Default(Some(path)) => (path, false),
        StateLocation::Path(path) => (path, true),
    };
    let kept = match Kept::open(path, settings.ledger_limits) {
        Err(KeepError::Store(error)) if !is_chosen && error.is_about_the_place() => {
            telemetry.in_memory(&error.to_string());
            return Ok(None);
        }
        kept => kept?,
    };
    telemetry.opened(path);
    if let Some((aside, problem)) = &kept.moved_aside {
        telemetry.moved_aside(aside, problem);
    }
    Ok(Some(kept))
}

fn bind_all(addresses: &[SocketAddr]) -> Result<Vec<BoundListener>, BridgeError> {
    addresses.iter().map(|address| Ok(http::bind(*address)?.into())).collect()
}

fn subscription(target: &FeedTarget, frame_bytes_max: usize, timing: &Timing) -> FeedSettings {
    FeedSettings {
        identity: target.identity.clone(),
        url: target.url.clone(),
        skill: target.skill.clone(),
        credentials: target.credentials.clone(),
        timing: timing.clone(),
        frame_bytes_max,
        tls: None,
    }
}
