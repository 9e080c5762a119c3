//! A live feed into a file.

use std::borrow::Cow;
use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use tokio_util::sync::CancellationToken;

use crate::feed::{self, DisconnectReason, FeedListener, FeedState, FrameSummary};
use crate::recording::{ConnectionEvent, Line};
use crate::settings::RecordTask;

use super::ingest_listener::{Freshness, summarize};
use super::{BridgeError, CommandError, subscription};

/// Writes what a feed sends to a file, line by line, for as long as the task says or until `shutdown`. An existing file
/// is not overwritten, and one without a frame is not left behind.
///
/// # Errors
/// A file that exists or cannot be written; a feed that sent nothing.
pub async fn record(task: RecordTask, shutdown: CancellationToken) -> Result<(), CommandError> {
    let failed = |error| CommandError::File { file: task.file.clone(), error };
    let file = File::create_new(&task.file).map_err(|error| match error.kind() {
        io::ErrorKind::AlreadyExists => CommandError::FileExists { file: task.file.clone() },
        _ => failed(error),
    })?;
    let ends = shutdown.child_token();
    let recorder = Arc::new(Recorder {
        identity: task.feed.identity.clone(),
        began: Instant::now(),
        ends: ends.clone(),
        state: Mutex::new(State::new(file)),
    });
    let subscription = subscription(&task.feed, task.frame_bytes_max, &task.timing);
    tracing::info!(feed = %task.feed.identity, file = %task.file.display(), "recording");
    let listening = tokio::spawn(feed::run(subscription, recorder.clone(), ends.clone()));
    // Over when the time is up, or earlier when somebody asks for it or the file takes no more.
    let _ = tokio::time::timeout(task.duration, ends.cancelled()).await;
    ends.cancel();
    listening.await.map_err(|error| CommandError::from(BridgeError::Panicked(error.to_string())))?;
    let mut state = recorder.state();
    let written = match state.failure.take() {
        Some(error) => Err(error),
        None => state.out.flush(),
    };
    written.map_err(failed)?;
    if state.frames == 0 {
        fs::remove_file(&task.file).map_err(failed)?;
        let identity = task.feed.identity;
        return Err(CommandError::NothingReceived { identity, why: std::mem::take(&mut state.words) });
    }
    tracing::info!(feed = %task.feed.identity, frames = state.frames, file = %task.file.display(), "recorded");
    Ok(())
}

struct Recorder {
    identity: String,
    began: Instant,
    ends: CancellationToken,
    state: Mutex<State>,
}

struct State {
    out: BufWriter<File>,
    frames: u64,
    failure: Option<io::Error>,
    freshness: Freshness,
    /// How the latest attempt ended, or how the current one is.
    words: String,
}

impl State {
    fn new(file: File) -> Self {
        let (freshness, words) = (Freshness::default(), String::new());
        Self { out: BufWriter::new(file), frames: 0, failure: None, freshness, words }
    }
}

impl Recorder {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self, frame: Option<&str>, event: Option<ConnectionEvent>, code: Option<u16>) {
        let millis = u32::try_from(self.began.elapsed().as_millis()).unwrap_or(u32::MAX);
        let line = Line { at_seconds: f64::from(millis) / 1000.0, frame: frame.map(Cow::Borrowed), event, code };
        let mut state = self.state();
        state.frames += u64::from(frame.is_some());
        let out = &mut state.out;
        // Flushed line by line: what is recorded survives whatever ends the recording.
        let written = serde_json::to_writer(&mut *out, &line)
            .map_err(io::Error::from)
            .and_then(|()| writeln!(out))
            .and_then(|()| out.flush());
        if let Err(error) = written {
            state.failure.get_or_insert(error);
            self.ends.cancel();
        }
    }
}

impl FeedListener for Recorder {
    fn opened(&self) {
        self.write(None, Some(ConnectionEvent::Open), None);
    }

    fn text(&self, frame: &str, _at: Instant) -> FrameSummary {
        self.write(Some(frame), None, None);
        summarize(frame, &mut self.state().freshness)
    }

    fn binary(&self, bytes: usize) {
        tracing::warn!(feed = %self.identity, bytes, "a binary frame is not recorded; the feed speaks text");
    }

    fn closed(&self, reason: &DisconnectReason) {
        self.write(None, Some(ConnectionEvent::Close), reason.code().parse().ok());
        tracing::info!(feed = %self.identity, code = reason.code(), "disconnected: {reason}");
    }

    fn state_changed(&self, state: &FeedState) {
        let feed = &self.identity;
        match state {
            FeedState::Waiting { reason, .. } | FeedState::Refused { reason, .. } => {
                tracing::warn!(%feed, "{state}");
                self.state().words = reason.to_string();
            }
            FeedState::Opened => {
                tracing::debug!(%feed, "{state}");
                self.state().words = "it is connected and silent".to_owned();
            }
            _ => tracing::debug!(%feed, "{state}"),
        }
    }
}
