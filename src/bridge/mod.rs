//! The bridge: subscribes to the feeds, counts, persists and serves. It connects the other modules; of its
//! own it decides when a feed's snapshots are stale, and what a reload changes.

mod config_watch;
mod error;
pub(crate) mod ingest_listener;
mod remote_write;
mod rows;
mod subscriptions;

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures::future::join;
use prometheus::Registry;
use tokio::sync::watch;
use tokio::task::{JoinSet, spawn_blocking};
use tokio_util::sync::CancellationToken;

use crate::build_info;
use crate::exposition::{FamiliesCollector, ViewProvider};
use crate::feed::{FeedSettings, Timing};
use crate::health::Health;
use crate::http::{self, AllowedHostsName, BoundListener, HttpSettings};
use crate::installed::{InstalledSkills, installed_skills};
use crate::lent_registry::LentRegistry;
use crate::live::{LiveApi, Persistence};
use crate::persister::{PersistError, PersistentLedger};
use crate::process::process_collector;
use crate::push::{PushSettings, QueueHandle};
use crate::reload::{ReloadOutcome, ReloadRequests, SETTLE_TIME};
use crate::settings::{FeedTarget, ReloadableSettings, Settings, SettingsError, StateLocation};
use crate::shared_ledger::SharedLedger;
use crate::site_content::SiteContent;
use crate::standstill::Sleep;
use crate::telemetry::{ConfigChange, LedgerCounters, StateTelemetry, Telemetry};
use config_watch::ConfigWatch;
use remote_write::{QueuePlace, RemoteWrite};
use subscriptions::Subscriptions;

pub use error::BridgeError;

/// How often the directories of installed skills are read.
const INSTALLED_REFRESH: Duration = Duration::from_secs(60);

/// A bridge from Session-Buddy feeds to Prometheus. It is bound and holds its state when it is created, connects to the feeds
/// and answers requests while [`Bridge::run`] is polled, and ends with it.
///
/// ```
/// use session_buddy_bridge::settings::FeedTarget;
/// use session_buddy_bridge::{Bridge, Settings};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let mut settings = Settings::new(vec![FeedTarget::new("ws://localhost:8765")?]);
/// settings.listen = vec!["127.0.0.1:0".parse()?];
/// let bridge = Bridge::bind(settings)?;
/// println!("http://{}/metrics", bridge.local_addrs()[0]);
///
/// // A program waits for a signal here; this one stops as soon as it runs.
/// let shutdown = async {};
/// bridge.run(shutdown).await?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Bridge {
    listeners: Vec<BoundListener>,
    local_addrs: Vec<SocketAddr>,
    service: Service,
    persistent: Option<PersistentLedger>,
    state_telemetry: Arc<StateTelemetry>,
}

/// What connects and serves: a bridge without its listeners and its state file.
#[derive(Debug)]
struct Service {
    settings: Settings,
    content: Arc<SiteContent>,
    allowed_hosts_name: AllowedHostsName,
    reloads: Arc<ReloadRequests>,
    /// What is pushed, after each reload.
    push: watch::Sender<PushSettings>,
    installed: InstalledSkills,
    /// The directories of installed skills, after each reload.
    skills_dirs: watch::Sender<Vec<PathBuf>>,
}

/// Requests reloads of a bridge's configuration file, which the bridge also reloads by itself when it changes. Outlives the bridge
/// without effect.
///
/// ```
/// use session_buddy_bridge::{Bridge, ReloadHandle, Settings};
///
/// let settings = Settings { listen: vec!["127.0.0.1:0".parse().unwrap()], ..Settings::new(Vec::new()) };
/// let bridge = Bridge::bind(settings).unwrap();
/// let handle: ReloadHandle = bridge.reload_handle();
/// // Moved to wherever a reload is requested, such as a task that receives SIGHUP.
/// std::thread::spawn(move || handle.reload()).join().unwrap();
/// ```
#[derive(Debug, Clone)]
pub struct ReloadHandle(Arc<ReloadRequests>);

impl ReloadHandle {
    /// Requests a reload of [`Settings::config_file`]. Requests that the bridge has not got to yet count as one. Whether the
    /// reload succeeds is logged and shown by `session_buddy_bridge_config_last_reload_successful`.
    pub fn reload(&self) {
        self.0.request();
    }
}

impl Bridge {
    /// Binds every address of `settings` and opens the state file. Connects to no feed yet. Blocks for as long as SQLite
    /// takes to open and check the file.
    ///
    /// # Errors
    /// A setting that breaks a rule of its field; a directory of installed skills that cannot be read; an address that cannot be
    /// bound; a state file that cannot be used, above all one that another bridge has open. A state
    /// file at [`StateLocation::Default`] that cannot be written is no error: counts are in memory then, and a warning is
    /// logged.
    pub fn bind(settings: Settings) -> Result<Self, BridgeError> {
        settings.check()?;
        let installed = InstalledSkills::default();
        installed.set(installed_skills(&settings.skills_dirs).map_err(SettingsError::from)?);
        log_start(&settings.feeds);
        let listeners = bind_all(&settings)?;
        let mut local_addrs = Vec::new();
        for listener in &listeners {
            if let BoundListener::Tcp(listener) = listener {
                local_addrs.push(listener.local_addr().map_err(BridgeError::Listener)?);
            }
        }
        let state_telemetry = Arc::new(StateTelemetry::new());
        let persistent = open_state(&settings, &state_telemetry)?;
        let ledger = match &persistent {
            Some(persistent) => Arc::clone(&persistent.ledger),
            None => Arc::new(SharedLedger::new(settings.ledger_limits)),
        };
        ledger.expose_zero_first(settings.zero_first);
        let health = {
            let ledger = Arc::clone(&ledger);
            Arc::new(Health::with_standings(move || ledger.standings()))
        };
        let telemetry = Arc::new(Telemetry::new());
        let registry = Registry::new();
        let counters = {
            let ledger = Arc::clone(&ledger);
            move || {
                let mut counters = LedgerCounters::default();
                ledger.read(&mut |view, _| {
                    counters = LedgerCounters { feeds: view.feeds().cloned().collect(), rules: view.rules() };
                });
                counters
            }
        };
        let names_differ = "the registry is new and the collectors' names differ";
        registry.register(Box::new(FamiliesCollector::new(ledger.clone()))).expect(names_differ);
        registry.register(Box::new(telemetry.collector(Arc::clone(&health), counters))).expect(names_differ);
        telemetry.http_serves(&settings.telemetry_path);
        if settings.has_exporter_metrics {
            registry.register(Box::new(telemetry.http_collector())).expect(names_differ);
            registry.register(Box::new(process_collector())).expect(names_differ);
        }
        registry.register(Box::new(installed.collector())).expect(names_differ);
        if settings.state != StateLocation::InMemory {
            registry.register(Box::new(state_telemetry.collector())).expect(names_differ);
        }
        let persistence = match &persistent {
            Some(_) => Persistence::OnDisk(Arc::clone(&state_telemetry)),
            None => Persistence::InMemory,
        };
        let api = LiveApi::new(ledger.clone(), Arc::clone(&telemetry), Arc::clone(&health), persistence);
        let with_created = settings.with_created;
        let reloads = Arc::new(ReloadRequests::new());
        let content = SiteContent {
            ledger,
            telemetry,
            health,
            registry: Arc::new(LentRegistry::new(registry)),
            api: Arc::new(api),
            with_created,
            reloads: Some(Arc::clone(&reloads)),
        };
        let push = watch::Sender::new(settings.push.clone());
        let skills_dirs = watch::Sender::new(settings.skills_dirs.clone());
        let service = Service {
            settings,
            push,
            installed,
            skills_dirs,
            content: Arc::new(content),
            allowed_hosts_name: AllowedHostsName::Field,
            reloads,
        };
        Ok(Self { listeners, local_addrs, service, persistent, state_telemetry })
    }

    /// Makes responses name flags, for whoever started the bridge by the command line.
    pub(crate) fn with_flags_in_responses(mut self) -> Self {
        self.service.allowed_hosts_name = AllowedHostsName::Flag;
        self
    }

    /// Returns the TCP addresses that the bridge listens on, in the order of [`Settings::listen`], with the ports that were
    /// chosen for port 0. Clients can connect; they are answered once the bridge runs.
    pub fn local_addrs(&self) -> &[SocketAddr] {
        &self.local_addrs
    }

    /// Returns the registry behind [`Settings::telemetry_path`]. Whatever else is registered with it is served as well.
    pub fn registry(&self) -> &Registry {
        self.service.content.registry.lend()
    }

    /// Returns a handle that requests reloads of the configuration file.
    ///
    /// ```
    /// use session_buddy_bridge::{Bridge, Settings};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let directory = tempfile::tempdir()?;
    /// # let path = directory.path().join("bridge.yaml");
    /// std::fs::write(&path, "limits:\n  skills: 100\n")?;
    /// let mut settings = Settings::from_config_file(&path)?;
    /// settings.listen = vec!["127.0.0.1:0".parse()?];
    /// let bridge = Bridge::bind(settings)?;
    /// let handle = bridge.reload_handle();
    ///
    /// std::fs::write(&path, "limits:\n  skills: 200\n")?;
    /// handle.reload();
    /// # bridge.run(async {}).await?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn reload_handle(&self) -> ReloadHandle {
        ReloadHandle(Arc::clone(&self.service.reloads))
    }

    /// Connects to the feeds and serves until `shutdown` completes. Returns at most 5 s later: when every task and thread of the
    /// bridge has ended and everything that was counted is in the state file, or with [`BridgeError::Overdue`].
    ///
    /// Dropping the future instead drops the listeners and the connections at once; the state file is committed and released a
    /// moment later.
    ///
    /// # Errors
    /// A listener or a thread that cannot be used; a thread or a database that is stuck; a panic, which is a defect.
    pub async fn run(self, shutdown: impl Future<Output = ()>) -> Result<(), BridgeError> {
        let token = CancellationToken::new();
        // Tasks of feeds are not aborted by dropping this future.
        let _cancelled_on_drop = token.clone().drop_guard();
        let mut running = pin!(self.run_until(token.clone()));
        tokio::select! {
            ended = &mut running => return ended,
            () = shutdown => token.cancel(),
        }
        running.await
    }

    async fn run_until(mut self, shutdown: CancellationToken) -> Result<(), BridgeError> {
        let state_telemetry = Arc::clone(&self.state_telemetry);
        let ledger = Arc::clone(&self.service.content.ledger);
        let (persister, place) = match self.persistent.take() {
            Some(persistent) => {
                let (handle, queue) = QueueHandle::persistent(ledger);
                let persister = persistent.start(state_telemetry, queue, shutdown.clone())?;
                (Some(persister), QueuePlace::Open(handle))
            }
            None => (None, QueuePlace::InMemory(ledger)),
        };
        let remote_write = RemoteWrite::start(
            place,
            Arc::clone(&self.service.content.registry),
            Arc::clone(&self.service.content.telemetry),
            self.service.push.subscribe(),
            shutdown.clone(),
        );
        let feeds_ended = CancellationToken::new();
        let serving = self.service.run(self.listeners, &shutdown, &feeds_ended);
        let limits = EndLimits::default();
        let committing = async {
            // The queue is in the state: its last tick before the last commit.
            let pushed = remote_write.end(overdue(&shutdown, limits.push)).await;
            let Some(persister) = persister else { return pushed };
            match tokio::task::spawn_blocking(|| persister.finish()).await {
                Ok(true) => pushed,
                Ok(false) => Err(BridgeError::Ended("the thread that writes the state file")),
                Err(error) => Err(BridgeError::Panicked(error)),
            }
        };
        end_in_order(serving, &feeds_ended, committing, &shutdown, limits).await
    }
}

/// How long the parts of a bridge may take to end, from its shutdown on.
#[derive(Debug, Clone, Copy)]
struct EndLimits {
    /// The feeds, and the threads that read their databases. Then the state is committed for the last time, whatever they still
    /// do.
    feeds: Duration,
    /// The feeds, and what is sent to receivers of remote write after them.
    push: Duration,
    /// Everything.
    all: Duration,
}

impl Default for EndLimits {
    fn default() -> Self {
        Self { feeds: Duration::from_secs(2), push: Duration::from_millis(2500), all: Duration::from_millis(3500) }
    }
}

/// Runs `serving` until it ends, and `committing` as soon as no feed delivers any more, so that what the feeds delivered until
/// their end is persisted. Neither a feed, nor a database, nor an HTTP client holds the commit up.
///
/// # Errors
/// An error of either; [`BridgeError::Overdue`] if they have not ended in time.
async fn end_in_order(
    serving: impl Future<Output = Result<(), BridgeError>>,
    feeds_ended: &CancellationToken,
    committing: impl Future<Output = Result<(), BridgeError>>,
    shutdown: &CancellationToken,
    limits: EndLimits,
) -> Result<(), BridgeError> {
    let serving = async {
        let served = serving.await;
        // Whatever it ended by, there are no feeds any more.
        feeds_ended.cancel();
        served
    };
    let committing = async {
        tokio::select! {
            biased;
            () = feeds_ended.cancelled() => {}
            () = overdue(shutdown, limits.feeds) => tracing::warn!("a feed or its database did not stop in time; shutting down without it"),
        }
        committing.await
    };
    tokio::select! {
        biased;
        (served, committed) = join(serving, committing) => served.and(committed),
        () = overdue(shutdown, limits.all) => Err(BridgeError::Overdue { limit: limits.all }),
    }
}

/// Completes `limit` after the shutdown.
async fn overdue(shutdown: &CancellationToken, limit: Duration) {
    shutdown.cancelled().await;
    Sleep::new(limit).await;
}

/// What reading the configuration file led to.
struct NextConfiguration {
    watch: ConfigWatch,
    /// The request that it answers; `None` if the file changed by itself.
    request: Option<u64>,
    /// The settings to apply; `None` if the file has the same content as before.
    outcome: Result<Option<ReloadableSettings>, Arc<str>>,
}

impl Service {
    /// Runs until `shutdown`, and until every task has ended. Cancels `feeds_ended` once no feed delivers any more.
    async fn run(
        &self,
        listeners: Vec<BoundListener>,
        shutdown: &CancellationToken,
        feeds_ended: &CancellationToken,
    ) -> Result<(), BridgeError> {
        let mut servers = JoinSet::new();
        let mut feeds = Subscriptions::new(
            Arc::clone(&self.content.ledger),
            Arc::clone(&self.content.telemetry),
            Arc::clone(&self.content.health),
            self.settings.timing.clone(),
            shutdown.clone(),
        );
        let mut accepted = ReloadableSettings {
            feeds: self.settings.feeds.clone(),
            ledger_limits: self.settings.ledger_limits,
            frame_bytes_max: self.settings.frame_bytes_max,
            push: self.settings.push.clone(),
            skills_dirs: self.settings.skills_dirs.clone(),
        };
        let mut result =
            feeds.reconfigure(&accepted).await.and_then(|()| self.listen(listeners, shutdown, &mut servers));
        // A read takes as long as the file is being written, and a request meanwhile leads to another one.
        let watch = ConfigWatch::new(self.settings.config_file.clone());
        let mut reload = pin!(self.next_configuration(watch, accepted.clone()));
        while result.is_ok() {
            tokio::select! {
                () = shutdown.cancelled() => break,
                Some(ended) = servers.join_next() => result = ended.map_err(BridgeError::Panicked),
                error = feeds.ended(), if !feeds.is_empty() => {
                    // All of them end by themselves at shutdown.
                    if !shutdown.is_cancelled() {
                        result = Err(error);
                    }
                    break;
                }
                NextConfiguration { watch, request, outcome } = &mut reload => {
                    let outcome = match outcome {
                        Ok(Some(configured)) => {
                            let outcome = self.reconfigure(&mut feeds, &accepted, &configured).await;
                            accepted = configured;
                            outcome
                        }
                        Ok(None) => Ok(()),
                        Err(reason) => Err(reason),
                    };
                    if let Some(request) = request {
                        self.reloads.answer(request, outcome);
                    }
                    reload.set(self.next_configuration(watch, accepted.clone()));
                }
            }
        }
        self.reloads.end();
        shutdown.cancel();
        result = result.and(feeds.end().await);
        feeds_ended.cancel();
        while let Some(task) = servers.join_next().await {
            result = result.and(task.map_err(BridgeError::Panicked));
        }
        result
    }

    /// Waits until a reload of the configuration file is requested or the file has changed, and reads it.
    async fn next_configuration(&self, mut watch: ConfigWatch, accepted: ReloadableSettings) -> NextConfiguration {
        let request = tokio::select! {
            request = self.reloads.pending() => Some(request),
            () = watch.changed(&accepted) => None,
        };
        let Some(file) = self.settings.config_file.clone() else {
            self.content.telemetry.nothing_to_reload();
            return NextConfiguration { watch, request, outcome: Err("there is no --config.file".into()) };
        };
        let (sources, read) = file.reload(&accepted).await;
        let is_news = watch.note(sources, read.is_err()) || request.is_some();
        let outcome = match read {
            Ok(configured) => Ok(Some(configured).filter(|_| is_news)),
            Err(error) => {
                if is_news {
                    self.content.telemetry.config_failed(&error);
                }
                Err(error.to_string().into())
            }
        };
        NextConfiguration { watch, request, outcome }
    }

    /// Applies a configuration that was read: all of it.
    async fn reconfigure(
        &self,
        feeds: &mut Subscriptions,
        before: &ReloadableSettings,
        now: &ReloadableSettings,
    ) -> ReloadOutcome {
        self.content.ledger.set_limits(now.ledger_limits);
        self.push.send_if_modified(|push| std::mem::replace(push, now.push.clone()) != now.push);
        // Read again whether or not they are others.
        self.skills_dirs.send_replace(now.skills_dirs.clone());
        match feeds.reconfigure(now).await {
            Ok(()) => {
                self.content.telemetry.config_reloaded(&config_change(before, now));
                Ok(())
            }
            Err(error) => {
                self.content.telemetry.config_failed(&error);
                Err(error.to_string().into())
            }
        }
    }

    /// Reads the installed skills again and again, and at once when the directories are others.
    fn refresh_installed(&self) -> impl Future<Output = ()> + 'static {
        let (installed, telemetry) = (self.installed.clone(), Arc::clone(&self.content.telemetry));
        let mut skills_dirs = self.skills_dirs.subscribe();
        async move {
            loop {
                tokio::select! {
                    changed = skills_dirs.changed() => if changed.is_err() {
                        return;
                    },
                    () = Sleep::new(INSTALLED_REFRESH) => {}
                }
                let directories = skills_dirs.borrow_and_update().clone();
                // A panic is in the program's error output.
                let Ok(read) = spawn_blocking(move || installed_skills(&directories)).await else { return };
                telemetry.skills_dirs_read(read.as_ref().err().map(|error| error as &dyn std::error::Error));
                if let Ok(skills) = read {
                    installed.set(skills);
                }
            }
        }
    }

    fn listen(
        &self,
        listeners: Vec<BoundListener>,
        shutdown: &CancellationToken,
        servers: &mut JoinSet<()>,
    ) -> Result<(), BridgeError> {
        servers.spawn(Arc::clone(&self.content.api).record_history(shutdown.clone()));
        let (ledger, ends) = (Arc::clone(&self.content.ledger), shutdown.clone());
        servers.spawn(async move {
            ends.run_until_cancelled(async { tokio::join!(ledger.keep_time(), ledger.drop_idle_text()) }).await;
        });
        let (refresh, ends) = (self.refresh_installed(), shutdown.clone());
        servers.spawn(async move {
            ends.run_until_cancelled(refresh).await;
        });
        let web_config = self.settings.web_config.clone();
        if let Some(file) = &web_config {
            self.content.telemetry.web_config_accepted(&file.summary());
            let watch = http::watch_web_config(Arc::clone(file), self.content.clone(), SETTLE_TIME);
            let ends = shutdown.clone();
            servers.spawn(async move {
                ends.run_until_cancelled(watch).await;
            });
        }
        let authenticates = web_config.as_ref().is_some_and(|file| file.summary().authenticates());
        let warns_of_wide = self.settings.is_listen_chosen && !authenticates;
        // Logged only if it is true.
        let tls = web_config.as_ref().is_some_and(|file| file.has_tls()).then_some(true);
        let telemetry_path = self.settings.telemetry_path.clone();
        let allowed_hosts = self.settings.allowed_hosts.clone();
        let http_settings = HttpSettings {
            telemetry_path,
            web_config,
            allowed_hosts,
            allowed_hosts_name: self.allowed_hosts_name,
            has_lifecycle_api: self.settings.has_lifecycle_api,
            ..HttpSettings::default()
        };
        for mut listener in listeners {
            let address = listener.name();
            tracing::info!(%address, tls, "listening");
            if warns_of_wide
                && let BoundListener::Tcp(listener) = &listener
                && !listener.local_addr().map_err(BridgeError::Listener)?.ip().is_loopback()
            {
                tracing::warn!(%address, "every machine that can reach this address can read the metrics");
            }
            let (content, settings, ends) = (self.content.clone(), http_settings.clone(), shutdown.clone());
            servers.spawn(async move {
                let _file = listener.take_file();
                if let Err(error) = http::serve(listener, content, settings, ends.clone()).await {
                    tracing::error!(%address, %error, "HTTP listener failed");
                    ends.cancel();
                }
            });
        }
        Ok(())
    }
}

/// Returns what a reload changes, for the log.
fn config_change(before: &ReloadableSettings, now: &ReloadableSettings) -> ConfigChange {
    let identities = |settings: &ReloadableSettings| -> BTreeSet<String> {
        settings.feeds.iter().map(|feed| feed.identity.clone()).collect()
    };
    let (old, new) = (identities(before), identities(now));
    let differs = |target: &&FeedTarget| !before.feeds.contains(target) && old.contains(&target.identity);
    ConfigChange {
        feeds: now.feeds.len(),
        added: new.difference(&old).cloned().collect(),
        removed: old.difference(&new).cloned().collect(),
        changed: now.feeds.iter().filter(differs).map(|target| target.identity.clone()).collect(),
        limits_differ: (before.ledger_limits, before.frame_bytes_max) != (now.ledger_limits, now.frame_bytes_max),
        skills_dirs_differ: before.skills_dirs != now.skills_dirs,
    }
}

/// The first line of a bridge's log. An identity holds no query, which may hold secrets.
fn log_start(feeds: &[FeedTarget]) {
    let feeds = feeds.iter().map(|feed| feed.identity.as_str()).collect::<Vec<_>>().join(", ");
    tracing::info!(version = build_info::VERSION, revision = build_info::REVISION, feeds, "starting");
}

fn open_state(settings: &Settings, telemetry: &StateTelemetry) -> Result<Option<PersistentLedger>, BridgeError> {
    let (path, is_chosen) = match &settings.state {
        StateLocation::InMemory => return Ok(None),
        StateLocation::Default(None) => {
            telemetry.in_memory("neither XDG_STATE_HOME nor HOME is set");
            return Ok(None);
        }
        StateLocation::Default(Some(path)) => (path, false),
        StateLocation::Path(path) => (path, true),
    };
    let persistent = match PersistentLedger::open(path, settings.ledger_limits) {
        Err(PersistError::Store(error)) if !is_chosen && error.is_about_the_path() => {
            telemetry.in_memory(&error.to_string());
            return Ok(None);
        }
        opened => opened?,
    };
    telemetry.opened(path);
    if let Some(quarantine) = &persistent.quarantined {
        telemetry.quarantined(quarantine);
    }
    Ok(Some(persistent))
}

fn bind_all(settings: &Settings) -> Result<Vec<BoundListener>, BridgeError> {
    let mut listeners = Vec::new();
    if settings.systemd_socket {
        listeners = http::from_systemd()?;
    } else {
        for address in &settings.listen {
            listeners.push(http::bind(*address)?.into());
        }
    }
    for path in &settings.listen_unix {
        listeners.push(http::bind_unix(path, settings.socket_mode)?);
    }
    Ok(listeners)
}

pub(crate) fn subscription(target: &FeedTarget, frame_bytes_max: usize, timing: &Timing) -> FeedSettings {
    FeedSettings {
        identity: target.identity.clone(),
        url: target.url.clone(),
        skill: target.skill.clone(),
        credentials: target.credentials.clone(),
        timing: timing.clone(),
        frame_bytes_max,
    }
}

#[cfg(test)]
mod tests {
    use std::future::pending;
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;

    const LONG: Duration = Duration::from_secs(3600);
    const SHORT: Duration = Duration::from_millis(1);

    #[tokio::test]
    async fn the_state_is_committed_although_a_feed_does_not_end() {
        let (shutdown, is_committed) = (CancellationToken::new(), AtomicBool::new(false));
        shutdown.cancel();
        let committing = async {
            is_committed.store(true, Ordering::Relaxed);
            Ok(())
        };
        let limits = EndLimits { feeds: SHORT, push: SHORT, all: SHORT * 100 };
        let ended = end_in_order(pending(), &CancellationToken::new(), committing, &shutdown, limits).await;
        assert!(matches!(ended, Err(BridgeError::Overdue { .. })), "{ended:?}");
        assert!(is_committed.into_inner());
    }

    #[tokio::test]
    async fn a_commit_that_does_not_end_is_not_waited_for() {
        let shutdown = CancellationToken::new();
        shutdown.cancel();
        let limits = EndLimits { feeds: LONG, push: LONG, all: SHORT };
        let ended = end_in_order(async { Ok(()) }, &CancellationToken::new(), pending(), &shutdown, limits).await;
        assert!(matches!(ended, Err(BridgeError::Overdue { .. })), "{ended:?}");
    }

    #[tokio::test]
    async fn the_state_is_committed_once_the_feeds_have_ended_and_before_clients_have() {
        let (shutdown, feeds_ended) = (CancellationToken::new(), CancellationToken::new());
        let (committed, seen) = (CancellationToken::new(), CancellationToken::new());
        let serving = async {
            shutdown.cancel();
            assert!(!committed.is_cancelled(), "a feed may still deliver");
            feeds_ended.cancel();
            committed.cancelled().await;
            seen.cancel();
            Ok(())
        };
        let committing = async {
            committed.cancel();
            Ok(())
        };
        let limits = EndLimits { feeds: LONG, push: LONG, all: LONG };
        assert!(end_in_order(serving, &feeds_ended, committing, &shutdown, limits).await.is_ok());
        assert!(seen.is_cancelled());
    }
}
