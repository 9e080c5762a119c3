//! A feed that is listened to for a while, by somebody who wants every word of it in order.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use tokio::sync::mpsc::{self, UnboundedReceiver, UnboundedSender};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::feed::{self, DisconnectReason, FeedListener, FeedSettings, FeedState, FrameSummary};

use super::ingest_listener::{Freshness, summarize};
use super::{BridgeError, CommandError};

/// What a feed said, or what became of it.
#[derive(Debug)]
pub(super) enum Said {
    Opened,
    Text(String),
    Binary(usize),
    Closed(DisconnectReason),
    State(FeedState),
}

/// A feed that is being listened to. What is not fetched piles up, so it is for as long as somebody looks.
pub(super) struct Ear {
    pub said: UnboundedReceiver<(Instant, Said)>,
    ends: CancellationToken,
    listening: JoinHandle<()>,
}

impl Ear {
    pub fn open(settings: FeedSettings, shutdown: &CancellationToken) -> Self {
        let (sender, said) = mpsc::unbounded_channel();
        let ends = shutdown.child_token();
        let teller = Arc::new(Teller { sender, freshness: Mutex::default() });
        let listening = tokio::spawn(feed::run(settings, teller, ends.clone()));
        Self { said, ends, listening }
    }

    /// Says goodbye to the server.
    pub async fn close(self) -> Result<(), CommandError> {
        self.ends.cancel();
        self.listening.await.map_err(|error| CommandError::from(BridgeError::Panicked(error.to_string())))
    }
}

struct Teller {
    sender: UnboundedSender<(Instant, Said)>,
    freshness: Mutex<Freshness>,
}

impl Teller {
    fn tell(&self, at: Instant, said: Said) {
        // Nobody listens any more: the connection is about to be closed.
        let _ = self.sender.send((at, said));
    }
}

impl FeedListener for Teller {
    fn opened(&self) {
        self.tell(Instant::now(), Said::Opened);
    }

    fn text(&self, frame: &str, at: Instant) -> FrameSummary {
        self.tell(at, Said::Text(frame.to_owned()));
        summarize(frame, &mut self.freshness.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn binary(&self, bytes: usize) {
        self.tell(Instant::now(), Said::Binary(bytes));
    }

    fn closed(&self, reason: &DisconnectReason) {
        self.tell(Instant::now(), Said::Closed(reason.clone()));
    }

    fn state_changed(&self, state: &FeedState) {
        self.tell(Instant::now(), Said::State(state.clone()));
    }
}
