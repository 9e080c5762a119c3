//! A feed whose events are fetched one by one, in order.

use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use futures::task::AtomicWaker;
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::mpsc::{self, Receiver, Sender};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::bridge::BridgeError;
use crate::bridge::ingest_listener::{Freshness, summarize};
use crate::feed::{self, CALLS_PER_READY_MAX, DisconnectReason, FeedListener, FeedSettings, FeedState, FrameSummary};
use crate::sync::lock;

/// Events that are received and not yet fetched. Each holds at most one frame. At the bound the feed reads no more from
/// its socket, so that TCP's flow control holds the server up; nothing is dropped.
const EVENTS_MAX: usize = 64;

/// What a feed sent, or what became of its connection.
#[derive(Debug)]
pub(super) enum FeedEvent {
    Opened,
    Text(String),
    Binary {
        bytes: usize,
    },
    /// With [`DisconnectReason::Shutdown`] once the tap itself ends.
    Closed(DisconnectReason),
    State(FeedState),
}

/// A connection to a feed, with reconnects. Dropping it leaves the feed running until `shutdown`; see
/// [`FeedTap::close`].
pub(super) struct FeedTap {
    events: Receiver<(Instant, FeedEvent)>,
    /// Wakes the feed when an event is fetched.
    space: Arc<AtomicWaker>,
    opened: Instant,
    ends: CancellationToken,
    feed: JoinHandle<()>,
}

impl FeedTap {
    /// Receives from the feed for `duration`, or until `shutdown`.
    pub(super) fn open(settings: FeedSettings, duration: Duration, shutdown: &CancellationToken) -> Self {
        let (sender, events) = mpsc::channel(EVENTS_MAX);
        let space = Arc::new(AtomicWaker::new());
        let listener = Arc::new(TapListener { sender, space: Arc::clone(&space), freshness: Mutex::default() });
        let ends = shutdown.child_token();
        let feed = tokio::spawn({
            let ends = ends.clone();
            async move {
                let time_limit = async {
                    let _ = tokio::time::timeout(duration, ends.cancelled()).await;
                    ends.cancel();
                };
                tokio::join!(feed::run(settings, listener, ends.clone()), time_limit);
            }
        });
        Self { events, space, opened: Instant::now(), ends, feed }
    }

    /// The next event, and when it happened since the tap was opened; never earlier than the event before. `None` once
    /// the feed has ended and every event is fetched. Dropping the future loses no event.
    pub(super) async fn next(&mut self) -> Option<(Duration, FeedEvent)> {
        let (at, event) = self.events.recv().await?;
        self.space.wake();
        Some((at.saturating_duration_since(self.opened), event))
    }

    /// Closes the connection with a close frame. Events that are not fetched are lost.
    ///
    /// # Errors
    /// A panic of the feed, which is a defect.
    pub(super) async fn close(mut self) -> Result<(), BridgeError> {
        self.ends.cancel();
        self.events.close();
        self.space.wake();
        self.feed.await.map_err(BridgeError::Panicked)
    }
}

struct TapListener {
    sender: Sender<(Instant, FeedEvent)>,
    space: Arc<AtomicWaker>,
    freshness: Mutex<Freshness>,
}

impl TapListener {
    fn push(&self, at: Instant, event: FeedEvent) {
        match self.sender.try_send((at, event)) {
            // Without a receiver the connection is about to be closed.
            Ok(()) | Err(TrySendError::Closed(_)) => {}
            Err(TrySendError::Full(_)) => unreachable!("the feed makes at most CALLS_PER_READY_MAX calls unasked"),
        }
    }
}

impl FeedListener for TapListener {
    fn poll_ready(&self, cx: &mut Context<'_>) -> Poll<()> {
        let has_space = || self.sender.is_closed() || self.sender.capacity() >= CALLS_PER_READY_MAX;
        if has_space() {
            return Poll::Ready(());
        }
        self.space.register(cx.waker());
        // An event that was fetched before the waker was there has woken nobody.
        if has_space() { Poll::Ready(()) } else { Poll::Pending }
    }

    fn opened(&self) {
        self.push(Instant::now(), FeedEvent::Opened);
    }

    fn text(&self, frame: &str, at: Instant) -> FrameSummary {
        self.push(at, FeedEvent::Text(frame.to_owned()));
        summarize(frame, &mut lock(&self.freshness))
    }

    fn binary(&self, bytes: usize) {
        self.push(Instant::now(), FeedEvent::Binary { bytes });
    }

    fn closed(&self, reason: &DisconnectReason) {
        self.push(Instant::now(), FeedEvent::Closed(reason.clone()));
    }

    fn state_changed(&self, state: &FeedState) {
        self.push(Instant::now(), FeedEvent::State(state.clone()));
    }
}
