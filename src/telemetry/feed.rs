//! What happens to one feed, counted and logged.

use std::collections::{BTreeMap, HashMap};
use std::error::Error;
use std::mem::{Discriminant, discriminant};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Instant;

use tracing::{debug, info, trace, warn};

use super::log_throttle::LogThrottle;
use super::logged;
use super::notices::{log_notice, log_rejection};
use super::recent::RecentRejections;
use crate::clock::wall_seconds;
use crate::feed::FeedState;
use crate::ledger::Notice;
use crate::protocol::{MessageType, Rejection, RejectionReason};
use crate::sync::lock;

/// Values of the label `code` for one feed. The set is bounded where the codes are defined; should that ever fail, further
/// codes are counted as [`OTHER_CODE`].
const CODES_MAX: usize = 64;
const OTHER_CODE: &str = "other";

/// Codes that alerts query: their series exist from the start, so that a first disconnect is an increase.
pub const CODES_FROM_ZERO: [&str; 15] = [
    "1000",
    "1001",
    "1006",
    "1011",
    "4001",
    "dead",
    "dns",
    "frozen",
    "http_401",
    "invalid_utf8",
    "oversized",
    "refused",
    "silent",
    "timeout",
    "tls",
];

/// The code of a connection that the bridge itself closes at its end.
const SHUTDOWN_CODE: &str = "shutdown";

/// Counts and logs what happens to one feed.
#[derive(Debug)]
pub struct FeedTelemetry {
    identity: Arc<str>,
    state: Mutex<State>,
    rejections: Arc<RecentRejections>,
}

#[derive(Debug, Default)]
pub(super) struct State {
    pub(super) counts: Counts,
    disconnect_throttle: BTreeMap<String, LogThrottle>,
    skills_db_throttle: LogThrottle,
    rejected_throttle: [LogThrottle; RejectionReason::ALL.len()],
    notice_throttle: HashMap<Discriminant<Notice>, LogThrottle>,
}

impl State {
    fn new() -> Self {
        let disconnects = CODES_FROM_ZERO.map(|code| (code.to_owned(), 0)).into();
        Self { counts: Counts { disconnects, ..Counts::default() }, ..Self::default() }
    }
}

#[derive(Debug, Clone, Default)]
pub(super) struct Counts {
    pub(super) connects: u64,
    pub(super) disconnects: BTreeMap<String, u64>,
    /// In the order of [`MessageType::ALL`].
    pub(super) messages: [u64; MessageType::ALL.len()],
    /// In the order of [`RejectionReason::ALL`].
    pub(super) rejected: [u64; RejectionReason::ALL.len()],
    pub(super) last_message_seconds: Option<f64>,
    /// When the open connection was established, in seconds since the Unix epoch; `None` without one.
    connected_since_seconds: Option<f64>,
    last_data_seconds: Option<f64>,
    /// Whether the open connection has delivered data.
    has_data: bool,
    /// Rows read from the feed's database, and failures to read it; `None` if none is configured.
    pub(super) skills_db: Option<(u64, u64)>,
}

/// How much a feed has delivered.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Traffic {
    /// Unix timestamp of the last message, in seconds.
    pub last_message_seconds: Option<f64>,
    /// Unix timestamp of the open connection, in seconds; `None` without one.
    pub connected_since_seconds: Option<f64>,
    /// Unix timestamp of the last snapshot or event, in seconds.
    pub last_data_seconds: Option<f64>,
    /// Whether the open connection has delivered a snapshot or an event.
    pub has_data: bool,
    /// Number of messages received.
    pub messages: u64,
    /// Number of frames, messages and entries that were not applied.
    pub rejected: u64,
    /// Number of connections established.
    pub connects: u64,
}

impl FeedTelemetry {
    pub(super) fn new(identity: &str, rejections: Arc<RecentRejections>) -> Self {
        Self { identity: identity.into(), state: Mutex::new(State::new()), rejections }
    }

    /// The feed's identity, which is the label `feed`.
    pub fn identity(&self) -> &Arc<str> {
        &self.identity
    }

    /// A connection was established.
    pub fn connected(&self) {
        {
            let counts = &mut lock(&self.state).counts;
            counts.connects += 1;
            counts.connected_since_seconds = Some(wall_seconds());
            counts.has_data = false;
        }
        info!(feed = %self.identity, "connected");
    }

    /// A connection, or an attempt at one, ended: `code` is from a bounded set, `reason` for people.
    pub fn disconnected(&self, code: &str, reason: &str) {
        let passed = {
            let mut state = lock(&self.state);
            state.counts.connected_since_seconds = None;
            state.counts.has_data = false;
            let disconnects = &mut state.counts.disconnects;
            let known = disconnects.contains_key(code) || disconnects.len() < CODES_MAX;
            let code = if known { code } else { OTHER_CODE };
            *disconnects.entry(code.to_owned()).or_default() += 1;
            state.disconnect_throttle.entry(code.to_owned()).or_default().pass(Instant::now())
        };
        let reason = logged(reason);
        match passed {
            _ if code == SHUTDOWN_CODE => info!(feed = %self.identity, code, %reason, "disconnected"),
            Some(suppressed) => warn!(feed = %self.identity, code, suppressed, %reason, "disconnected"),
            None => debug!(feed = %self.identity, code, %reason, "disconnected"),
        }
    }

    /// A message of the type `kind` was received at `wall_seconds` since the Unix epoch.
    pub fn message(&self, kind: MessageType, wall_seconds: f64) {
        {
            let counts = &mut lock(&self.state).counts;
            counts.messages[kind as usize] += 1;
            counts.last_message_seconds = Some(wall_seconds);
            if kind.has_data() {
                counts.last_data_seconds = Some(wall_seconds);
                counts.has_data = true;
            }
        }
        trace!(feed = %self.identity, kind = kind.label(), "message");
    }

    /// A frame, a message or an entry was not applied.
    pub fn rejected(&self, rejection: &Rejection) {
        let index = rejection.reason as usize;
        let passed = {
            let mut state = lock(&self.state);
            state.counts.rejected[index] += 1;
            state.rejected_throttle[index].pass(Instant::now())
        };
        self.rejections.record(&self.identity, rejection);
        if let Some(suppressed) = passed {
            log_rejection(&self.identity, rejection, suppressed);
        }
    }

    /// A database is configured for the feed.
    pub fn skills_db_configured(&self, path: &Path) {
        lock(&self.state).counts.skills_db.get_or_insert((0, 0));
        debug!(feed = %self.identity, path = %path.display(), "database configured");
    }

    /// `rows` were read from the feed's database.
    pub fn skills_db_rows_read(&self, rows: u64) {
        lock(&self.state).counts.skills_db.get_or_insert((0, 0)).0 += rows;
        trace!(feed = %self.identity, rows, "rows read");
    }

    /// The feed's database could not be read.
    pub fn skills_db_failed(&self, error: &dyn Error) {
        let passed = {
            let mut state = lock(&self.state);
            state.counts.skills_db.get_or_insert((0, 0)).1 += 1;
            state.skills_db_throttle.pass(Instant::now())
        };
        if let Some(suppressed) = passed {
            warn!(feed = %self.identity, suppressed, %error, "database unavailable; falling back to the feed");
        }
    }

    /// The ledger found out something while it applied a message.
    pub fn notice(&self, notice: &Notice) {
        if let Notice::Rejected(rejection) = notice {
            return self.rejected(rejection);
        }
        let passed = {
            let mut state = lock(&self.state);
            state.notice_throttle.entry(discriminant(notice)).or_default().pass(Instant::now())
        };
        if let Some(suppressed) = passed {
            log_notice(&self.identity, notice, suppressed);
        }
    }

    /// The feed reports `state`, by which it became live or not.
    pub fn state_changed(&self, state: &FeedState, became_live: bool) {
        if became_live {
            info!(feed = %self.identity, "live");
        } else {
            debug!(feed = %self.identity, state = %logged(&state.to_string()), "state changed");
        }
    }

    /// Returns how much the feed has delivered.
    pub fn traffic(&self) -> Traffic {
        let counts = &lock(&self.state).counts;
        Traffic {
            last_message_seconds: counts.last_message_seconds,
            connected_since_seconds: counts.connected_since_seconds,
            last_data_seconds: counts.last_data_seconds,
            has_data: counts.has_data,
            messages: counts.messages.iter().sum(),
            rejected: counts.rejected.iter().sum(),
            connects: counts.connects,
        }
    }

    /// Calls nothing and waits for nobody while it is held: a feed counts each message under the same lock.
    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }
}
