//! A listener that keeps what it is told, and a feed running beside the test.

use super::patiently;
use serde_json::Value;
use session_buddy_bridge::internals::feed::{
    self, Credentials, DisconnectReason, FeedListener, FeedSettings, FeedState, FrameSummary, SnapshotSummary, Timing,
    TokenSource,
};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use url::Url;

/// One call.
#[derive(Debug, Clone, PartialEq)]
pub enum Note {
    Opened,
    Text(String),
    Binary(usize),
    Closed(DisconnectReason),
    State(FeedState),
}

/// Understands every JSON object with a type, and takes `metrics_update` for a snapshot.
pub struct RecordingListener {
    notes: watch::Sender<Vec<Note>>,
    last_timestamp: Mutex<Option<Value>>,
}

impl RecordingListener {
    fn note(&self, note: Note) {
        self.notes.send_modify(|notes| notes.push(note));
    }
}

impl FeedListener for RecordingListener {
    fn opened(&self) {
        self.note(Note::Opened);
    }

    fn text(&self, frame: &str, _at: std::time::Instant) -> FrameSummary {
        let message: Value = serde_json::from_str(frame).unwrap_or_default();
        let snapshot = (message["type"] == "metrics_update").then(|| {
            let timestamp = Some(message["timestamp"].clone());
            let mut last = self.last_timestamp.lock().unwrap();
            let fresh = *last != timestamp;
            *last = timestamp;
            SnapshotSummary { fresh }
        });
        self.note(Note::Text(frame.to_owned()));
        let has_data = matches!(message["type"].as_str(), Some("metrics_update" | "skill_invocation"));
        FrameSummary { understood: message["type"].is_string(), has_data, snapshot }
    }

    fn binary(&self, bytes: usize) {
        self.note(Note::Binary(bytes));
    }

    fn closed(&self, reason: &DisconnectReason) {
        self.note(Note::Closed(reason.clone()));
    }

    fn state_changed(&self, state: &FeedState) {
        self.note(Note::State(state.clone()));
    }
}

/// A feed that runs until it is stopped.
pub struct RunningFeed {
    notes: watch::Receiver<Vec<Note>>,
    shutdown: CancellationToken,
    task: JoinHandle<()>,
}

impl RunningFeed {
    pub fn start(settings: FeedSettings) -> Self {
        let (noted, notes) = watch::channel(Vec::new());
        let listener = RecordingListener { notes: noted, last_timestamp: Mutex::new(None) };
        let shutdown = CancellationToken::new();
        let task = tokio::spawn(feed::run(settings, Arc::new(listener), shutdown.clone()));
        Self { notes, shutdown, task }
    }

    pub fn notes(&self) -> Vec<Note> {
        self.notes.borrow().clone()
    }

    /// Waits until the notes are as described, and returns them.
    pub async fn until(&self, what: &str, condition: impl FnMut(&Vec<Note>) -> bool) -> Vec<Note> {
        let mut notes = self.notes.clone();
        patiently(what, notes.wait_for(condition)).await.expect("the feed stopped by itself").clone()
    }

    pub async fn live(&self) -> Vec<Note> {
        self.until("a live feed", |notes| notes.contains(&Note::State(FeedState::Live))).await
    }

    /// Waits for so many attempts to end, and returns the statuses that say how.
    pub async fn ended(&self, attempts: usize) -> Vec<FeedState> {
        let what = format!("{attempts} ended attempts");
        ends(&self.until(&what, |notes| ends(notes).len() >= attempts).await)
    }

    /// Shuts it down, checks that connections opened and closed in pairs, and returns all notes.
    pub async fn stop(self) -> Vec<Note> {
        self.shutdown.cancel();
        patiently("the feed to stop", self.task).await.expect("the feed panicked");
        let notes = self.notes.borrow().clone();
        let pairs: Vec<&Note> = notes.iter().filter(|note| matches!(note, Note::Opened | Note::Closed(_))).collect();
        assert!(
            pairs.chunks(2).all(|pair| matches!(pair, [Note::Opened, Note::Closed(_)])),
            "opened and closed do not pair: {pairs:?}"
        );
        assert_eq!(notes.last(), Some(&Note::State(FeedState::Stopped)));
        notes
    }
}

/// The statuses that end an attempt.
pub fn ends(notes: &[Note]) -> Vec<FeedState> {
    let ended = notes.iter().filter_map(|note| match note {
        Note::State(state @ (FeedState::Waiting { .. } | FeedState::Refused { .. })) => Some(state.clone()),
        _ => None,
    });
    ended.collect()
}

/// How the attempt ended that led to this status.
pub fn disconnect_reason(state: &FeedState) -> &DisconnectReason {
    match state {
        FeedState::Waiting { reason, .. } | FeedState::Refused { reason, .. } => reason,
        state => panic!("{state:?} ends nothing"),
    }
}

/// The wait that this status announces.
pub fn retry_in(state: &FeedState) -> Duration {
    match state {
        FeedState::Waiting { retry_in, .. } | FeedState::Refused { retry_in, .. } => *retry_in,
        state => panic!("{state:?} announces no attempt"),
    }
}

/// The text frames among the notes.
pub fn texts(notes: &[Note]) -> Vec<&str> {
    notes.iter().filter_map(|note| if let Note::Text(text) = note { Some(text.as_str()) } else { None }).collect()
}

/// Patient with a slow machine, and quick to come back.
pub fn timing() -> Timing {
    Timing {
        backoff_min: Duration::from_millis(1),
        backoff_max: Duration::from_millis(4),
        refused_backoff_min: Duration::from_millis(1),
        refused_backoff_max: Duration::from_millis(4),
        silence_timeout: Duration::from_secs(60),
        ping_interval: Duration::from_secs(60),
        ..Timing::default()
    }
}

pub fn settings(url: Url) -> FeedSettings {
    FeedSettings {
        identity: "scripted".to_owned(),
        url,
        skill: None,
        credentials: Credentials::default(),
        timing: timing(),
        frame_bytes_max: 1024 * 1024,
    }
}

pub fn with_token(source: TokenSource) -> Credentials {
    Credentials { token: Some(source), ..Credentials::default() }
}

/// A snapshot without skills.
pub fn snapshot(timestamp: u64) -> String {
    format!(r#"{{"type":"metrics_update","timestamp":"{timestamp}","data":{{"top_skills":[],"anomalies":[]}}}}"#)
}
