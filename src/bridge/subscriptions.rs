//! The subscriptions to the configured feeds, which a reload can change while the bridge runs.

use std::sync::Arc;

use tokio::task::{JoinHandle, spawn_blocking};
use tokio_util::sync::CancellationToken;

use crate::feed::{self, Timing};
use crate::health::Health;
use crate::ledger::{FeedId, FeedSpec};
use crate::settings::{FeedTarget, ReloadableSettings};
use crate::shared_ledger::SharedLedger;
use crate::skills_db::DatabaseReader;
use crate::telemetry::Telemetry;

use super::ingest_listener::IngestListener;
use super::rows::FeedRows;
use super::{BridgeError, subscription};

/// One task for each configured feed, and one thread for each database beside a feed.
pub(super) struct Subscriptions {
    ledger: Arc<SharedLedger>,
    telemetry: Arc<Telemetry>,
    health: Arc<Health>,
    timing: Timing,
    frame_bytes_max: usize,
    shutdown: CancellationToken,
    running: Vec<Subscription>,
}

struct Subscription {
    target: FeedTarget,
    feed: FeedId,
    ends: CancellationToken,
    /// `None` once it was found to have ended.
    task: Option<JoinHandle<()>>,
    reader: Option<DatabaseReader>,
}

/// A feed that the ledger knows and that is not connected yet.
struct Prepared {
    target: FeedTarget,
    feed: FeedId,
    listener: Arc<IngestListener>,
    ends: CancellationToken,
    reader: Option<DatabaseReader>,
}

impl Subscriptions {
    pub fn new(
        ledger: Arc<SharedLedger>,
        telemetry: Arc<Telemetry>,
        health: Arc<Health>,
        timing: Timing,
        shutdown: CancellationToken,
    ) -> Self {
        Self { ledger, telemetry, health, timing, frame_bytes_max: 0, shutdown, running: Vec::new() }
    }

    /// Subscribes to the configured feeds: adds new ones, removes those that are no longer configured, and replaces those
    /// whose configuration changed. All others stay connected.
    ///
    /// # Errors
    /// The thread for a feed's database cannot be started, or a feed panicked; the other feeds are as configured.
    pub async fn reconfigure(&mut self, configured: &ReloadableSettings) -> Result<(), BridgeError> {
        let frames_differ =
            std::mem::replace(&mut self.frame_bytes_max, configured.frame_bytes_max) != configured.frame_bytes_max;
        let mut result = Ok(());
        let (stay, leave): (Vec<_>, Vec<_>) = std::mem::take(&mut self.running)
            .into_iter()
            .partition(|running| !frames_differ && configured.feeds.contains(&running.target));
        self.running = stay;
        self.ledger.begin_configuration();
        for left in leave {
            let (feed, identity) = (left.feed, left.target.identity.clone());
            result = result.and(left.end().await);
            self.ledger.remove_feed(feed);
            if !configured.feeds.iter().any(|target| target.identity == identity) {
                self.telemetry.forget(&identity);
                self.health.remove(&identity);
            }
        }
        let new =
            configured.feeds.iter().filter(|target| !self.running.iter().any(|running| running.target == **target));
        // All of them are prepared before any is connected: a bridge that does not know all of its feeds would report itself
        // ready, and the first feed to deliver would be taken for the last one that is pending.
        let new: Vec<_> = new.map(|target| self.prepare(target)).collect();
        self.ledger.end_configuration();
        for prepared in new {
            match prepared {
                Ok(prepared) => {
                    let subscription = self.start(prepared);
                    self.running.push(subscription);
                }
                Err(error) => result = result.and(Err(error)),
            }
        }
        result
    }

    /// Returns once a feed has ended. Before shutdown that is a defect.
    pub async fn ended(&mut self) -> BridgeError {
        let tasks = self.running.iter_mut().filter_map(|running| running.task.as_mut());
        let (ended, ..) = futures::future::select_all(tasks.collect::<Vec<_>>()).await;
        let finished =
            self.running.iter_mut().filter(|running| running.task.as_ref().is_some_and(JoinHandle::is_finished));
        // A task that completed must not be polled again.
        finished.for_each(|running| running.task = None);
        match ended {
            Ok(()) => BridgeError::Ended("a feed ended by itself"),
            Err(error) => BridgeError::Panicked(error),
        }
    }

    pub fn is_empty(&self) -> bool {
        self.running.iter().all(|running| running.task.is_none())
    }

    /// Closes every connection and waits until each task and thread has ended.
    pub async fn end(&mut self) -> Result<(), BridgeError> {
        self.running.iter().for_each(|running| running.ends.cancel());
        let mut result = Ok(());
        for running in std::mem::take(&mut self.running) {
            result = result.and(running.end().await);
        }
        result
    }

    fn prepare(&self, target: &FeedTarget) -> Result<Prepared, BridgeError> {
        let spec = FeedSpec {
            identity: target.identity.clone(),
            address: Some(target.address()),
            skill: target.skill.clone(),
        };
        let feed = self.ledger.add_feed(spec);
        let telemetry = self.telemetry.feed(&target.identity);
        let health = self.health.feed(&target.identity);
        let ledger = Arc::clone(&self.ledger);
        let ends = self.shutdown.child_token();
        let reader = match &target.skills_db {
            None => None,
            Some(path) => {
                ledger.expect_detail(feed);
                telemetry.skills_db_configured(path);
                let rows = FeedRows::new(Arc::clone(&ledger), feed, Arc::clone(&telemetry));
                let reader = DatabaseReader::start(path.clone(), rows, ends.clone());
                Some(reader.map_err(BridgeError::Thread)?)
            }
        };
        let waker = reader.as_ref().map(DatabaseReader::waker);
        let listener = Arc::new(IngestListener::new(ledger, feed, telemetry, health, waker));
        Ok(Prepared { target: target.clone(), feed, listener, ends, reader })
    }

    fn start(&self, prepared: Prepared) -> Subscription {
        let Prepared { target, feed, listener, ends, reader } = prepared;
        let settings = subscription(&target, self.frame_bytes_max, &self.timing);
        let task = tokio::spawn(feed::run(settings, listener, ends.clone()));
        Subscription { target, feed, ends, task: Some(task), reader }
    }
}

impl Subscription {
    async fn end(self) -> Result<(), BridgeError> {
        self.ends.cancel();
        let ended = match self.task {
            Some(task) => task.await.map_err(BridgeError::Panicked),
            None => Ok(()),
        };
        // The waker was dropped with the feed's task.
        let finished = match self.reader {
            None => Ok(true),
            Some(reader) => spawn_blocking(|| reader.finish()).await,
        };
        ended.and(match finished {
            Ok(true) => Ok(()),
            Ok(false) => Err(BridgeError::Ended("the thread that reads a feed's database")),
            Err(error) => Err(BridgeError::Panicked(error)),
        })
    }
}
