//! Remote write: the ticker of the queue, and a sender for each receiver. They end in time whatever receivers and disks do.
//!
//! They run on a thread of its own: to encode what 10,000 skills have queued takes tenths of a second, which no feed and no scrape has to
//! wait for, and a tick wakes one thread, where the workers of a shared runtime wake each other.

use std::collections::BTreeMap;
use std::future::pending;
use std::io;
use std::panic::resume_unwind;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use tokio::runtime;
use tokio::sync::{oneshot, watch};
use tokio::task::{AbortHandle, JoinError, JoinSet};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::BridgeError;
use crate::lent_registry::LentRegistry;
use crate::push::{
    ClockGuard, Grid, HostHash, Identified, InMemoryError, PushReceiver, PushSettings, PushedSeries, QueueError,
    QueueHandle, QueueSettings, ReceiverListener, ReceiverName, RemovedReceiver, SendTiming, Sender, Ticker, WallClock,
};
use crate::shared_ledger::SharedLedger;
use crate::telemetry::Telemetry;

/// A queue that cannot be used just now is tried again after this time.
const RETRY_INTERVAL: Duration = Duration::from_secs(5);

/// Time for the thread to end once it is stopped. The last commit comes after it.
const THREAD_END_TIMEOUT: Duration = Duration::from_millis(300);

/// Why nothing is pushed from a state of another host name or machine id under the same labels, and what to do.
const REFUSED_IDENTITY: &str = "the state file is of another host name or machine, which may push under the same labels: give this \
                                machine a --push.label of its own, such as instance; if only its host name has changed, restore \
                                it and keep it, as with hostnamectl or the hostname of a container";

/// Where the queue is.
#[derive(Debug)]
pub(super) enum QueuePlace {
    /// Behind this handle: in the state file, or in memory.
    Open(QueueHandle),
    /// In memory, and created for the first receiver, beside this ledger.
    InMemory(Arc<SharedLedger>),
}

/// The task that runs, and its thread. Both are stopped when this is dropped.
#[derive(Debug)]
pub(super) struct RemoteWrite {
    finish: CancellationToken,
    stop: DropGuard,
    /// Ends when the thread has ended.
    tasks: JoinSet<()>,
}

/// What the task works with.
struct Pushing {
    place: QueuePlace,
    registry: Arc<LentRegistry>,
    telemetry: Arc<Telemetry>,
    clock_guard: ClockGuard,
    settings: watch::Receiver<PushSettings>,
    finish: CancellationToken,
    ticker: Option<Ticker>,
    /// Is cancelled once the last tick is taken.
    is_complete: CancellationToken,
    running: BTreeMap<ReceiverName, RunningSender>,
    senders: JoinSet<()>,
    /// Why the last attempt to apply the settings failed, as it is logged.
    failure: Option<String>,
}

struct RunningSender {
    receiver: PushReceiver,
    stop: CancellationToken,
    task: AbortHandle,
}

/// Why the configured receivers are not being sent to.
#[derive(Debug, thiserror::Error)]
enum ApplyError {
    #[error(transparent)]
    Queue(#[from] QueueError),
    #[error(transparent)]
    InMemory(#[from] InMemoryError),
}

impl RemoteWrite {
    /// Starts to push what `settings` names, now and after each change. If the task ends by itself, which is a defect, it
    /// cancels `bridge`.
    pub fn start(
        place: QueuePlace,
        registry: Arc<LentRegistry>,
        telemetry: Arc<Telemetry>,
        settings: watch::Receiver<PushSettings>,
        bridge: CancellationToken,
    ) -> Self {
        Self::start_on(spawn, Pushing::new(place, registry, telemetry, settings), bridge)
    }

    fn start_on(spawn: Spawn, pushing: Pushing, bridge: CancellationToken) -> Self {
        let (finish, stop) = (pushing.finish.clone(), CancellationToken::new());
        let (stopped, mut tasks) = (stop.clone(), JoinSet::new());
        tasks.spawn(async move {
            let _bridge = bridge.drop_guard();
            pushing.run_once_wanted(spawn, stopped).await;
        });
        Self { finish, stop: stop.drop_guard(), tasks }
    }

    /// Takes the last tick and sends until everything is answered for or `limit` completes. What is not sent stays queued.
    ///
    /// # Errors
    /// The task panicked, which is a defect.
    pub async fn end(mut self, limit: impl Future<Output = ()>) -> Result<(), BridgeError> {
        self.finish.cancel();
        tokio::select! {
            biased;
            ended = self.tasks.join_next() => return ended.unwrap_or(Ok(())).map_err(BridgeError::Panicked),
            () = limit => {}
        }
        tracing::info!("push queue not sent completely; a later start continues if it is in a state file");
        drop(self.stop);
        match tokio::time::timeout(THREAD_END_TIMEOUT, self.tasks.join_next()).await {
            Ok(ended) => ended.unwrap_or(Ok(())).map_err(BridgeError::Panicked),
            // It ends once a request is encoded.
            Err(_) => Ok(()),
        }
    }
}

/// Starts a thread that runs this.
type Spawn = fn(Box<dyn FnOnce() + Send>) -> io::Result<()>;

fn spawn(run: Box<dyn FnOnce() + Send>) -> io::Result<()> {
    thread::Builder::new().name("push".to_owned()).spawn(run).map(drop)
}

/// The thread that pushes, with its runtime.
struct PushThread {
    work: oneshot::Sender<Pushing>,
    /// Sent last.
    ended: oneshot::Receiver<Result<(), JoinError>>,
}

impl PushThread {
    /// Starts the thread, which pushes until `stop`.
    ///
    /// # Errors
    /// The system starts no further thread, or gives it no descriptors.
    async fn start(spawn: Spawn, stop: CancellationToken) -> io::Result<Self> {
        let (work, working) = oneshot::channel::<Pushing>();
        let (ready, is_ready) = oneshot::channel();
        let (end, ended) = oneshot::channel();
        // A runtime cannot be dropped by a task of another one: it is made where it is used.
        let push = move || {
            let runtime = match runtime::Builder::new_current_thread().enable_all().build() {
                Ok(runtime) => runtime,
                Err(error) => return drop(ready.send(Err(error))),
            };
            let _ = ready.send(Ok(()));
            let pushed = runtime.block_on(stop.run_until_cancelled(async {
                match working.await {
                    // A task of its own: the future that a runtime blocks on is woken by a system call each time.
                    Ok(pushing) => tokio::spawn(pushing.run()).await,
                    Err(_) => Ok(()),
                }
            }));
            // A name that is being resolved must not hold up the end.
            runtime.shutdown_background();
            let _ = end.send(pushed.unwrap_or(Ok(())));
        };
        spawn(Box::new(push))?;
        is_ready.await.map_err(io::Error::other)??;
        Ok(Self { work, ended })
    }

    /// Has the thread push, until it has ended. Continues its panic.
    async fn run(self, pushing: Pushing) {
        let _ = self.work.send(pushing);
        propagate(self.ended.await.expect("the thread sends how it ended"));
    }
}

impl Pushing {
    fn new(
        place: QueuePlace,
        registry: Arc<LentRegistry>,
        telemetry: Arc<Telemetry>,
        settings: watch::Receiver<PushSettings>,
    ) -> Self {
        Self {
            place,
            registry,
            telemetry,
            clock_guard: ClockGuard::default(),
            settings,
            finish: CancellationToken::new(),
            ticker: None,
            is_complete: CancellationToken::new(),
            running: BTreeMap::new(),
            senders: JoinSet::new(),
            failure: None,
        }
    }

    /// Waits until there is a receiver, for which a thread is worth its memory, and runs on one until `stop`.
    async fn run_once_wanted(mut self, spawn: Spawn, stop: CancellationToken) {
        let finish = self.finish.clone();
        let is_wanted = |settings: &PushSettings| !settings.receivers.is_empty();
        let Some(Ok(_)) = finish.run_until_cancelled(self.settings.wait_for(is_wanted)).await else { return };
        match PushThread::start(spawn, stop.clone()).await {
            Ok(thread) => thread.run(self).await,
            Err(error) => {
                tracing::warn!(%error, "no thread for remote write; it shares those of feeds and scrapes");
                stop.run_until_cancelled(self.run()).await;
            }
        }
    }

    async fn run(mut self) {
        let finish = self.finish.clone();
        while !finish.is_cancelled() {
            let wanted = self.settings.borrow_and_update().clone();
            let applied = tokio::select! {
                biased;
                () = finish.cancelled() => break,
                applied = self.apply(&wanted) => applied,
            };
            let is_failing = applied.is_err();
            self.report(applied, &wanted);
            self.until_change(is_failing.then_some(RETRY_INTERVAL)).await;
        }
        self.end().await;
    }

    /// Reports whether `wanted` is `applied`: to the log when that changes, and to the receivers that are not sent to at each attempt,
    /// since a sender that was stopped may still have reported an answer.
    fn report(&mut self, applied: Result<(), ApplyError>, wanted: &PushSettings) {
        let Err(error) = applied else {
            if self.failure.take().is_some() && !self.running.is_empty() {
                tracing::info!("push queue no longer fails");
            }
            return;
        };
        let error = error.to_string();
        let problem = format!("the push queue cannot be used: {error}");
        for receiver in wanted.receivers.iter().filter(|receiver| !self.running.contains_key(&receiver.name)) {
            self.telemetry.push().receiver(receiver.name.as_str()).stalled(&problem);
        }
        if self.failure.as_ref() != Some(&error) {
            tracing::warn!(%error, retry_in_seconds = RETRY_INTERVAL.as_secs(), "push queue cannot be used");
            self.failure = Some(error);
        }
    }

    /// Takes the last tick, and waits until the receivers have answered for everything.
    async fn end(mut self) {
        if let Some(ticker) = &mut self.ticker {
            ticker.take_last().await;
        }
        self.is_complete.cancel();
        while let Some(ended) = self.senders.join_next().await {
            propagate(ended);
        }
    }

    /// Takes ticks until the settings change, the bridge ends, `pause` is over, or the queue does not know a receiver any more, as when a
    /// damaged row was deleted.
    async fn until_change(&mut self, pause: Option<Duration>) {
        let Self { ticker, settings, senders, running, finish, .. } = self;
        let paused = async {
            match pause {
                Some(pause) => tokio::time::sleep(pause).await,
                None => pending().await,
            }
        };
        let ticking = async {
            if let Some(ticker) = ticker {
                ticker.run().await;
            }
            // The queue ends with the bridge only.
            pending::<()>().await;
        };
        let sending = async {
            while let Some(ended) = senders.join_next().await {
                propagate(ended);
                // One that was stopped is not among those that run.
                let lost: Vec<_> = running.extract_if(.., |_, running| running.task.is_finished()).collect();
                for (name, _) in &lost {
                    tracing::warn!(receiver = %name, "push queue lost a receiver; it is added again");
                }
                if !lost.is_empty() {
                    return;
                }
            }
            pending::<()>().await;
        };
        tokio::select! {
            () = finish.cancelled() => {}
            // The other end is the bridge, which ends this first.
            Ok(()) = settings.changed() => {}
            () = paused => {}
            () = ticking => {}
            () = sending => {}
        }
    }

    /// Makes the receivers those of `wanted`: stops the senders of others, and starts those that are new or changed. The former ticker
    /// stays until there is another one, so that a bridge that ends meanwhile, or after an error, takes its last tick.
    async fn apply(&mut self, wanted: &PushSettings) -> Result<(), ApplyError> {
        let is_wanted = |running: &RunningSender| wanted.receivers.contains(&running.receiver);
        for (_, running) in self.running.extract_if(.., |_, running| !is_wanted(running)) {
            running.stop.cancel();
        }
        let names: Vec<_> = wanted.receivers.iter().map(|receiver| receiver.name.clone()).collect();
        self.telemetry.push().retain(&names.iter().map(ReceiverName::as_str).collect::<Vec<_>>());
        // Each has its metrics before anything can fail.
        let listener =
            |name: &ReceiverName| -> Arc<dyn ReceiverListener> { self.telemetry.push().receiver(name.as_str()) };
        let listeners: Vec<_> = names.iter().map(listener).collect();
        if names.is_empty() {
            self.ticker = None;
            return Ok(());
        }
        let handle = self.handle()?;
        let label_sets = wanted.receivers.iter().map(|receiver| receiver.labels.canonical()).collect();
        let identified = handle.identify(HostHash::of_this_machine(), label_sets).await?;
        match identified {
            Identified::Known(_) => {}
            Identified::Created(identity) => tracing::info!(%identity, "push queue created"),
            Identified::Copied(identity) => tracing::warn!(
                %identity,
                "state file was copied from another machine; its push queue is dropped"
            ),
            Identified::Refused => {
                tracing::error!(problem = REFUSED_IDENTITY, "push refused; nothing is queued");
                listeners.iter().for_each(|listener| listener.stalled(REFUSED_IDENTITY));
            }
        }
        let Some(identity) = identified.identity() else {
            self.ticker = None;
            self.running.extract_if(.., |_, _| true).for_each(|(_, running)| running.stop.cancel());
            return Ok(());
        };
        let (interval, bytes_max) = (wanted.interval, wanted.queue_bytes_max);
        let removed = handle.configure(QueueSettings { receivers: names, interval, bytes_max }).await?;
        removed.iter().for_each(log_removed);
        let wants_own = wanted.receivers.iter().any(|receiver| receiver.series == PushedSeries::All);
        let registry = wants_own.then(|| Arc::clone(&self.registry));
        let grid = Grid::new(interval, identity);
        self.ticker = Some(match self.ticker.take() {
            Some(former) => former.reconfigured(grid, registry, listeners),
            None => Ticker::new(handle.clone(), grid, registry, WallClock::default(), listeners),
        });
        for receiver in &wanted.receivers {
            if !self.running.contains_key(&receiver.name) {
                self.start(receiver.clone(), handle.clone());
            }
        }
        Ok(())
    }

    fn start(&mut self, receiver: PushReceiver, handle: QueueHandle) {
        let (name, stop) = (receiver.name.clone(), CancellationToken::new());
        let listener = self.telemetry.push().receiver(name.as_str());
        let sender = Sender::new(receiver.clone(), handle, self.clock_guard.clone(), listener, SendTiming::default());
        let task = self.senders.spawn(sender.run(self.is_complete.clone(), stop.clone()));
        self.running.insert(name, RunningSender { receiver, stop, task });
    }

    /// Returns the handle of the queue.
    fn handle(&mut self) -> Result<QueueHandle, InMemoryError> {
        match &self.place {
            QueuePlace::Open(handle) => Ok(handle.clone()),
            QueuePlace::InMemory(ledger) => {
                let handle = QueueHandle::in_memory(Arc::clone(ledger))?;
                tracing::warn!(
                    "push queue in memory only; samples not sent before this process ends are lost, and every counter starts again"
                );
                self.place = QueuePlace::Open(handle.clone());
                Ok(handle)
            }
        }
    }
}

/// Logs what becomes of the ticks that a removed receiver has not answered for. One of them can be on its way at any time.
fn log_removed(RemovedReceiver { name, ticks, successor }: &RemovedReceiver) {
    match successor {
        Ok(successor) if *ticks > 0 => {
            tracing::info!(receiver = %name, %successor, ticks, "push receiver renamed; its successor continues its queue");
        }
        Err(reason) if *ticks > 1 => tracing::warn!(
            receiver = %name, ticks, %reason,
            "push receiver removed; its queued ticks are dropped, and lose resolution and no count; \
             to keep them when a URL changes, keep the name with --push.name"
        ),
        Ok(_) | Err(_) => {}
    }
}

/// Continues the panic of a task.
fn propagate(ended: Result<(), JoinError>) {
    if let Err(error) = ended
        && error.is_panic()
    {
        resume_unwind(error.into_panic());
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use prometheus::core::{Collector, Desc};
    use prometheus::proto::MetricFamily;
    use prometheus::{IntCounter, Registry};
    use rusqlite::Connection;
    use tokio::sync::Mutex;

    use super::*;
    use crate::clock::wall_micros;
    use crate::feed::HttpCredentials;
    use crate::ledger::Limits;
    use crate::push::{PushLabels, SeriesId, TickTime, is_stale};
    use crate::store::Store;

    fn receiver(name: &str) -> PushReceiver {
        PushReceiver {
            name: ReceiverName::new(name),
            url: "http://127.0.0.1:1/".parse().unwrap(),
            credentials: HttpCredentials::default(),
            labels: PushLabels::of_host("laptop"),
            series: PushedSeries::All,
            age_max: Duration::from_secs(86_400),
            timeout: Duration::from_secs(30),
        }
    }

    fn own_registry() -> Arc<LentRegistry> {
        Arc::new(LentRegistry::new(Registry::new()))
    }

    /// What pushes ticks each 200 ms to the receiver `r`, with its settings and its queue, which is in memory.
    fn pushing(registry: Arc<LentRegistry>) -> (Pushing, watch::Sender<PushSettings>, QueueHandle) {
        let interval = Duration::from_millis(200);
        let settings = PushSettings { receivers: vec![receiver("r")], interval, ..PushSettings::default() };
        let settings = watch::Sender::new(settings);
        let handle = QueueHandle::in_memory(Arc::new(SharedLedger::new(Limits::default()))).unwrap();
        let (place, telemetry) = (QueuePlace::Open(handle.clone()), Arc::new(Telemetry::new()));
        (Pushing::new(place, registry, telemetry, settings.subscribe()), settings, handle)
    }

    #[tokio::test]
    async fn a_bridge_without_a_thread_for_it_pushes_all_the_same() {
        // None is started, and one ends before it has a runtime.
        for spawn in [|_| Err(io::ErrorKind::OutOfMemory.into()), (|_| Ok(())) as Spawn] {
            let (pushing, _settings, handle) = pushing(own_registry());
            let (mut newest, bridge) = (handle.watch(), CancellationToken::new());
            let running = RemoteWrite::start_on(spawn, pushing, bridge.clone());
            newest.wait_for(|newest| newest.time != TickTime::NEVER).await.unwrap();
            assert!(!bridge.is_cancelled());
            running.end(async {}).await.unwrap();
        }
    }

    #[test]
    fn what_is_dropped_ends_though_nobody_polls_its_runtime() {
        let (pushing, _settings, handle) = pushing(own_registry());
        // The queue ends with the last handle.
        let mut newest = handle.watch();
        drop(handle);
        let runtime = || runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let of_the_bridge = runtime();
        of_the_bridge.block_on(async {
            let running = RemoteWrite::start_on(spawn, pushing, CancellationToken::new());
            newest.wait_for(|newest| newest.time != TickTime::NEVER).await.unwrap();
            drop(running);
        });
        let ended = async { while newest.changed().await.is_ok() {} };
        runtime().block_on(async { tokio::time::timeout(Duration::from_secs(30), ended).await }).unwrap();
    }

    #[tokio::test]
    async fn ticks_are_taken_while_every_thread_of_the_bridge_is_busy() {
        let (pushing, _settings, handle) = pushing(own_registry());
        let mut newest = handle.watch();
        let running = RemoteWrite::start_on(spawn, pushing, CancellationToken::new());
        let first = newest.wait_for(|newest| newest.time != TickTime::NEVER).await.unwrap().time;
        let (taken, is_taken) = std::sync::mpsc::channel();
        // A thread that belongs to neither.
        thread::spawn(move || {
            let runtime = runtime::Builder::new_current_thread().build().unwrap();
            let later = runtime.block_on(newest.wait_for(|newest| newest.time > first));
            taken.send(later.is_ok()).unwrap();
        });
        // The only thread of this runtime, which runs what the bridge runs.
        assert_eq!(is_taken.recv_timeout(Duration::from_secs(30)), Ok(true));
        drop(running);
    }

    #[tokio::test]
    async fn a_bridge_that_ends_while_its_receivers_change_takes_the_last_tick() {
        let ledger = Arc::new(SharedLedger::new(Limits::default()));
        let (handle, mut server) = QueueHandle::persistent(Arc::clone(&ledger));
        let connection = Connection::open_in_memory().unwrap();
        let (mut store, ()) = Store::on(connection, Path::new("memory"), |_| Ok(())).unwrap();
        let mut answer = async || loop {
            server.answer(&mut store, &ledger, true);
            tokio::task::yield_now().await;
        };
        let telemetry = Arc::new(Telemetry::new());
        let (settings, watched) = watch::channel(PushSettings::default());
        let set = |name| settings.send_modify(|settings| settings.receivers = vec![receiver(name)]);
        set("before");
        let place = QueuePlace::Open(handle.clone());
        let bridge = CancellationToken::new();
        let pushing = RemoteWrite::start(place, own_registry(), Arc::clone(&telemetry), watched, bridge);
        let mut newest = handle.watch();
        tokio::select! {
            tick = newest.wait_for(|newest| newest.time != TickTime::NEVER) => drop(tick.unwrap()),
            () = answer() => {}
        }

        set("after");
        while telemetry.push().standings().iter().any(|(name, _)| &**name == "before") {
            tokio::task::yield_now().await;
        }
        // The change is requested of the queue, and answered once the bridge ends.
        let end = pushing.end(async { drop(newest.wait_for(|_| handle.has_last_tick()).await) });
        tokio::select! {
            ended = tokio::time::timeout(Duration::from_secs(30), end) => ended.expect("a last tick").unwrap(),
            () = answer() => {}
        }
        assert!(handle.has_last_tick());
    }

    /// A collector that blocks while its gate is locked.
    struct Blocking {
        counter: IntCounter,
        gate: Arc<Mutex<()>>,
    }

    impl Collector for Blocking {
        fn desc(&self) -> Vec<&Desc> {
            self.counter.desc()
        }

        fn collect(&self) -> Vec<MetricFamily> {
            let _open = self.gate.blocking_lock();
            self.counter.collect()
        }
    }

    #[tokio::test]
    async fn series_of_a_collector_that_blocks_do_not_end_when_settings_change() {
        let (registry, gate) = (Registry::new(), Arc::new(Mutex::new(())));
        let counter = IntCounter::new("program_total", "Of the program").unwrap();
        registry.register(Box::new(Blocking { counter, gate: Arc::clone(&gate) })).unwrap();
        let registry = Arc::new(LentRegistry::new(registry));
        registry.lend();
        let (pushing, settings, handle) = pushing(registry);
        let (name, mut newest) = (ReceiverName::new("r"), handle.watch());
        let running = RemoteWrite::start_on(spawn, pushing, CancellationToken::new());
        newest.wait_for(|newest| newest.time != TickTime::NEVER).await.unwrap();
        let (start, _) = handle.open(&name).await.unwrap();

        let blocking = gate.lock().await;
        settings.send_modify(|settings| settings.queue_bytes_max -= 1);
        let changed = wall_micros() / 1_000;
        newest.wait_for(|newest| newest.time.millis() > changed).await.unwrap();
        drop(blocking);
        let (series, backlog) = handle.backlog(&name, start, 1_000, SeriesId::at(0)).await.unwrap();
        let counter = series.iter().position(|series| &*series.name.metric == "program_total").unwrap();
        let values: Vec<_> = (backlog.ticks.iter().flat_map(|tick| &tick.values))
            .filter_map(|(id, value)| (*id == SeriesId::at(counter)).then_some(*value))
            .collect();
        assert!(!values.is_empty() && !values.iter().any(|value| is_stale(*value)), "{values:?}");
        drop(running);
    }
}
