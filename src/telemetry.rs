//! The bridge's own metrics and its log: one function an event, which counts it and says it, so that the two cannot
//! disagree.
//!
//! At the level `info` a healthy feed is one line when it connects and one when it is live. A line that would repeat is held
//! back and its repetitions counted; text that came from a server is cut short and its control characters are escaped.
//!
//! Architecture invariant: nothing is decided here, and the ledger's numbers are not kept a second time: the collector
//! asks for them at each scrape.

mod collector;
mod log_throttle;
mod recent;
mod state;

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::mem::{Discriminant, discriminant};
use std::num::NonZeroU64;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use tracing::{debug, error, info, trace, warn};

pub use collector::{LedgerCounters, TelemetryCollector, rule_families};
pub use recent::{RECENT_REJECTIONS_MAX, SeenRejection};
pub use state::{StateCollector, StateTelemetry};

use crate::http::WebConfigError;
use crate::ledger::{Notice, ResetCause};
use crate::protocol::{MessageType, Rejection, RejectionReason};
use log_throttle::{LogThrottle, Suppressed};
use recent::RecentRejections;

/// Characters of a server's text that a log line shows.
const LOGGED_CHARS_MAX: usize = 200;

/// Characters of a status, for people: the words of a server, which are no more than 123 bytes of a close, between those of the
/// bridge.
const STATUS_CHARS_MAX: usize = 400;

/// Values of the label `code` for one feed. Their set is bounded where they are made; should that ever fail, what is
/// beyond is counted as [`OTHER_CODE`] rather than in ever more series.
const CODES_MAX: usize = 64;
const OTHER_CODE: &str = "other";

/// Codes that alerts ask for: their series are there from the start, so that a first disconnect is a rise.
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

/// Counts and logs what happens to the feeds and to the HTTP server.
#[derive(Debug, Default)]
pub struct Telemetry {
    feeds: Mutex<Vec<Arc<FeedTelemetry>>>,
    process: Mutex<ProcessCounts>,
    rejections: Arc<RecentRejections>,
}

#[derive(Debug, Default)]
struct ProcessCounts {
    refused: u64,
    refused_throttle: LogThrottle,
    accept_failures: u64,
    accept_failures_throttle: LogThrottle,
    web_config_failures: u64,
    /// Whether the configuration file could not be used when it was last read again.
    config_failed: bool,
}

impl Telemetry {
    /// No feeds yet, every count at 0.
    pub fn new() -> Self {
        Self::default()
    }

    /// What counts for the feed `identity`; the same for the same identity. Feeds are never dropped, so that identities
    /// must come from the configuration, not from a server.
    pub fn feed(&self, identity: &str) -> Arc<FeedTelemetry> {
        let mut feeds = locked(&self.feeds);
        if let Some(feed) = feeds.iter().find(|feed| &*feed.identity == identity) {
            return Arc::clone(feed);
        }
        let feed = Arc::new(FeedTelemetry {
            identity: identity.into(),
            state: Mutex::new(State::new()),
            rejections: Arc::clone(&self.rejections),
        });
        feeds.push(Arc::clone(&feed));
        feed
    }

    /// Shows the feed `identity` no more.
    pub fn forget(&self, identity: &str) {
        locked(&self.feeds).retain(|feed| &*feed.identity != identity);
    }

    /// The configuration file was read again, as asked, and `feeds` are what it names now.
    pub fn config_reloaded(&self, feeds: usize) {
        locked(&self.process).config_failed = false;
        info!(feeds, "configuration reloaded");
    }

    /// The configuration file cannot be used: nothing has changed.
    pub fn config_failed(&self, error: &dyn std::error::Error) {
        locked(&self.process).config_failed = true;
        error!(%error, "configuration not reloaded, nothing has changed");
    }

    /// SIGHUP, and there is no configuration file.
    pub fn nothing_to_reload(&self) {
        info!("SIGHUP: there is no --config.file to read again");
    }

    /// Every feed, in the order of first mention.
    pub fn feeds(&self) -> Vec<Arc<FeedTelemetry>> {
        locked(&self.feeds).clone()
    }

    /// What was not applied lately, of whichever feed, latest first.
    pub fn recent_rejections(&self) -> Vec<SeenRejection> {
        self.rejections.latest_first()
    }

    /// All of this as metric families. `numbers` is called at each scrape for what the ledger keeps.
    pub fn collector<N: Fn() -> LedgerCounters + Send + Sync>(self: &Arc<Self>, numbers: N) -> TelemetryCollector<N> {
        TelemetryCollector::new(Arc::clone(self), numbers)
    }

    /// An HTTP connection was closed unserved because `connections_max` others were open.
    pub fn http_connection_refused(&self, connections_max: usize) {
        let passed = {
            let mut http = locked(&self.process);
            http.refused += 1;
            http.refused_throttle.pass(Instant::now())
        };
        if let Some(suppressed) = passed {
            warn!(connections_max, suppressed, "HTTP connection refused: too many are open");
        }
    }

    /// An HTTP connection could not be accepted.
    pub fn http_accept_failed(&self, error: &io::Error) {
        let passed = {
            let mut http = locked(&self.process);
            http.accept_failures += 1;
            http.accept_failures_throttle.pass(Instant::now())
        };
        if let Some(suppressed) = passed {
            warn!(%error, suppressed, "HTTP connection not accepted; trying again");
        }
    }

    /// The web configuration file has changed and cannot be used.
    pub fn web_config_failed(&self, error: &WebConfigError) {
        locked(&self.process).web_config_failures += 1;
        error!(%error, "the web configuration cannot be used; what it said before goes on to count");
    }

    fn http_counts(&self) -> (u64, u64, u64) {
        let http = locked(&self.process);
        (http.refused, http.accept_failures, http.web_config_failures)
    }

    fn config_is_good(&self) -> bool {
        !locked(&self.process).config_failed
    }
}

/// Counts and logs what happens to one feed.
#[derive(Debug)]
pub struct FeedTelemetry {
    identity: Arc<str>,
    state: Mutex<State>,
    rejections: Arc<RecentRejections>,
}

/// How a feed stands, as people would say it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Standing {
    /// It has not been reached yet.
    #[default]
    Connecting,
    /// Connected, authenticated and speaking.
    Live,
    /// It said nothing for too long.
    Silent,
    /// It said the same for too long.
    Frozen,
    /// It turned this client away: somebody has to change something.
    Refused,
    /// It cannot be reached, or its connection ended.
    Unreachable,
    /// Nobody listens to it any more.
    Stopped,
}

impl Standing {
    /// Every one.
    pub const ALL: [Self; 7] =
        [Self::Connecting, Self::Live, Self::Silent, Self::Frozen, Self::Refused, Self::Unreachable, Self::Stopped];

    /// In a word.
    pub fn label(self) -> &'static str {
        match self {
            Self::Connecting => "connecting",
            Self::Live => "live",
            Self::Silent => "silent",
            Self::Frozen => "frozen",
            Self::Refused => "refused",
            Self::Unreachable => "unreachable",
            Self::Stopped => "stopped",
        }
    }
}

/// A feed's standing, for people.
#[derive(Debug, Clone, PartialEq)]
pub struct StandingNow {
    /// How it stands.
    pub standing: Standing,
    /// Since when, in seconds since the Unix epoch.
    pub since_seconds: f64,
    /// Why, or what a live one lacks; empty where there is nothing to say.
    pub why: String,
    /// When the last message was heard, in seconds since the Unix epoch.
    pub last_message_seconds: Option<f64>,
    /// Messages that were heard.
    pub messages: u64,
    /// Frames, messages and entries that were not applied.
    pub rejected: u64,
    /// Connections that were established.
    pub connects: u64,
}

#[derive(Debug, Default)]
struct State {
    counts: Counts,
    /// What the feed is doing, for people; `None` before the first word.
    words: Option<String>,
    /// When it came to stand as it does, in seconds since the Unix epoch, and why, for people.
    standing_since_seconds: f64,
    standing_why: String,
    /// The feed that is the same server and counts in place of this one.
    alias_of: Option<String>,
    disconnect_throttle: BTreeMap<String, LogThrottle>,
    detail_throttle: LogThrottle,
    rejected_throttle: [LogThrottle; RejectionReason::ALL.len()],
    notice_throttle: HashMap<Discriminant<Notice>, LogThrottle>,
}

impl State {
    fn new() -> Self {
        let disconnects = CODES_FROM_ZERO.map(|code| (code.to_owned(), 0)).into();
        let standing_since_seconds = wall_seconds();
        Self { counts: Counts { disconnects, ..Counts::default() }, standing_since_seconds, ..Self::default() }
    }
}

#[derive(Debug, Clone, Default)]
struct Counts {
    standing: Standing,
    connects: u64,
    disconnects: BTreeMap<String, u64>,
    /// In the order of [`MessageType::ALL`].
    messages: [u64; MessageType::ALL.len()],
    /// In the order of [`RejectionReason::ALL`].
    rejected: [u64; RejectionReason::ALL.len()],
    last_message_seconds: Option<f64>,
    /// Rows read of the database beside the feed, and failures to read it; `None` where none is configured.
    detail: Option<(u64, u64)>,
}

impl FeedTelemetry {
    /// The feed's identity, which is the label `feed`.
    pub fn identity(&self) -> &Arc<str> {
        &self.identity
    }

    /// A connection was established.
    pub fn connected(&self) {
        locked(&self.state).counts.connects += 1;
        info!(feed = %self.identity, "connected");
    }

    /// A connection, or an attempt at one, ended: `code` from a bounded set, `words` for people.
    pub fn disconnected(&self, code: &str, words: &str) {
        let passed = {
            let mut state = locked(&self.state);
            let disconnects = &mut state.counts.disconnects;
            let known = disconnects.contains_key(code) || disconnects.len() < CODES_MAX;
            let code = if known { code } else { OTHER_CODE };
            *disconnects.entry(code.to_owned()).or_default() += 1;
            state.disconnect_throttle.entry(code.to_owned()).or_default().pass(Instant::now())
        };
        let words = logged(words);
        match passed {
            _ if code == SHUTDOWN_CODE => info!(feed = %self.identity, code, "disconnected: {words}"),
            Some(suppressed) => warn!(feed = %self.identity, code, suppressed, "disconnected: {words}"),
            None => debug!(feed = %self.identity, code, "disconnected: {words}"),
        }
    }

    /// A message of the type `kind` was heard at `wall_seconds` since the Unix epoch.
    pub fn message(&self, kind: MessageType, wall_seconds: f64) {
        {
            let counts = &mut locked(&self.state).counts;
            counts.messages[kind as usize] += 1;
            counts.last_message_seconds = Some(wall_seconds);
        }
        trace!(feed = %self.identity, kind = kind.label(), "message");
    }

    /// A frame, a message or an entry was not applied.
    pub fn rejected(&self, rejection: &Rejection) {
        let index = rejection.reason as usize;
        let passed = {
            let mut state = locked(&self.state);
            state.counts.rejected[index] += 1;
            state.rejected_throttle[index].pass(Instant::now())
        };
        self.rejections.note(&self.identity, rejection);
        if let Some(suppressed) = passed {
            log_rejection(&self.identity, rejection, suppressed);
        }
    }

    /// A database beside the feed will be read.
    pub fn detail_configured(&self, path: &Path) {
        locked(&self.state).counts.detail.get_or_insert((0, 0));
        debug!(feed = %self.identity, path = %path.display(), "the database beside the feed will be read");
    }

    /// `rows` of the database beside the feed were read.
    pub fn detail_read(&self, rows: u64) {
        locked(&self.state).counts.detail.get_or_insert((0, 0)).0 += rows;
        trace!(feed = %self.identity, rows, "rows read");
    }

    /// The database beside the feed could not be read.
    pub fn detail_failed(&self, error: &SkillsDatabaseError) {
        let passed = {
            let mut state = locked(&self.state);
            state.counts.detail.get_or_insert((0, 0)).1 += 1;
            state.detail_throttle.pass(Instant::now())
        };
        if let Some(suppressed) = passed {
            warn!(feed = %self.identity, suppressed, "the feed goes on without its database: {error}");
        }
    }

    /// The ledger has something to say about what it just applied.
    pub fn notice(&self, notice: &Notice) {
        if let Notice::Rejected(rejection) = notice {
            return self.rejected(rejection);
        }
        let passed = {
            let mut state = locked(&self.state);
            match notice {
                Notice::AliasFound { of } => state.alias_of = Some(logged(of)),
                Notice::AliasCleared => state.alias_of = None,
                _ => {}
            }
            state.notice_throttle.entry(discriminant(notice)).or_default().pass(Instant::now())
        };
        if let Some(suppressed) = passed {
            log_notice(&self.identity, notice, suppressed);
        }
    }

    /// The feed's state changed to `standing`; `words` for people. While a feed that failed is tried again it stands as
    /// it did: otherwise nobody could see for how long it has.
    pub fn status(&self, standing: Standing, words: &str) {
        let words = one_line(words, STATUS_CHARS_MAX);
        let live = standing == Standing::Live;
        let was_live = {
            let mut state = locked(&self.state);
            let before = state.counts.standing;
            if standing != Standing::Connecting || matches!(before, Standing::Connecting | Standing::Live) {
                if before != standing {
                    state.standing_since_seconds = wall_seconds();
                }
                state.counts.standing = standing;
                state.standing_why.clone_from(&words);
            }
            state.words = Some(words.clone());
            before == Standing::Live
        };
        if live && !was_live {
            info!(feed = %self.identity, "live");
        } else {
            debug!(feed = %self.identity, live, "status: {words}");
        }
    }

    /// Whether the feed is live, and in words why not, or what a live one lacks; empty if nothing.
    pub fn readiness(&self) -> (bool, String) {
        let state = locked(&self.state);
        let live = state.counts.standing == Standing::Live;
        let words = match (live, &state.alias_of) {
            (true, Some(of)) => format!("the same server as {of}: it does not count"),
            (true, None) => String::new(),
            (false, _) => state.words.clone().unwrap_or_else(|| "not started".to_owned()),
        };
        (live, words)
    }

    /// How the feed stands, since when, and why.
    pub fn standing(&self) -> StandingNow {
        let why = self.readiness().1;
        let state = locked(&self.state);
        StandingNow {
            standing: state.counts.standing,
            since_seconds: state.standing_since_seconds,
            why: if state.counts.standing == Standing::Live { why } else { state.standing_why.clone() },
            last_message_seconds: state.counts.last_message_seconds,
            messages: state.counts.messages.iter().sum(),
            rejected: state.counts.rejected.iter().sum(),
            connects: state.counts.connects,
        }
    }

    fn counts(&self) -> Counts {
        locked(&self.state).counts.clone()
    }
}

/// The words for what a ledger has to say of `feed`.
pub(crate) fn log_notice(feed: &str, notice: &Notice, suppressed: Suppressed) {
    match notice {
        Notice::Rejected(rejection) => log_rejection(feed, rejection, suppressed),
        Notice::Reset(cause) => {
            let cause = reset_words(cause);
            warn!(%feed, suppressed, "the server's database is a new one, its numbers count on top: {cause}");
        }
        Notice::RolledBack => {
            warn!(%feed, suppressed, "the server's database is back a few writes younger; nothing is counted");
        }
        Notice::AliasFound { of } => error!(
            %feed, %of, suppressed,
            "this feed is the same server as another and no longer counts; remove one of the two"
        ),
        Notice::AliasCleared => {
            info!(%feed, suppressed, "this feed is a server of its own after all; it counts");
        }
        Notice::AnomalyWindowOverflowed => {
            warn!(%feed, suppressed, "the list of anomalies may have hidden some");
        }
        Notice::SkillsOverflowed { skill_name, skills_max } => {
            let skill_name = logged(skill_name);
            warn!(%feed, skill_name, skills_max, "too many skills; new ones are counted as __overflow__");
        }
        Notice::DetailJoined => {
            info!(%feed, suppressed, "the rows of the database beside the feed tell the counts");
        }
        Notice::DetailMismatch { skill_name, listed, told } => {
            let skill_name = logged(skill_name);
            warn!(
                %feed, skill_name, listed, told, suppressed,
                "the feed lists another number than the rows of the database tell: is --feed.skills-db the database of \
                 this server?"
            );
        }
        Notice::LateEvents { events } => {
            warn!(%feed, events, suppressed, "events dropped: no snapshot accounted for them");
        }
    }
}

/// The words for all that a ledger has to say of `feed` at once: the first of each kind, and how many more there are.
pub(crate) fn log_notices(feed: &str, notices: &[Notice]) {
    let kind = |notice: &Notice| match notice {
        Notice::Rejected(rejection) => (discriminant(notice), Some(rejection.reason)),
        _ => (discriminant(notice), None),
    };
    let mut kinds: Vec<(&Notice, u64)> = Vec::new();
    for notice in notices {
        match kinds.iter_mut().find(|(first, _)| kind(first) == kind(notice)) {
            Some((_, more)) => *more += 1,
            None => kinds.push((notice, 0)),
        }
    }
    for (first, more) in kinds {
        log_notice(feed, first, NonZeroU64::new(more));
    }
}

fn log_rejection(feed: &str, rejection: &Rejection, suppressed: Suppressed) {
    let (reason, detail) = (rejection.reason.label(), logged(&rejection.detail));
    warn!(%feed, reason, suppressed, "not applied: {detail}");
}

fn reset_words(cause: &ResetCause) -> String {
    match cause {
        ResetCause::TotalFell { skill_name, from, to } => {
            format!("the total of {} fell from {from} to {to}", logged(skill_name))
        }
        ResetCause::SplitFell { skill_name } => {
            format!("{} has fewer completed or abandoned invocations than before", logged(skill_name))
        }
        ResetCause::RowsAreOthers => "none of the rows that were read is in it".to_owned(),
        ResetCause::SkillMissing { skill_name } => {
            format!("{} is no longer listed, though the list has room for it", logged(skill_name))
        }
    }
}

fn logged(text: &str) -> String {
    one_line(text, LOGGED_CHARS_MAX)
}

/// `text` on one line and cut short: a server must not be able to forge log lines or to steer a terminal.
fn one_line(text: &str, chars_max: usize) -> String {
    let mut characters = text.chars();
    let mut out = String::new();
    for character in characters.by_ref().take(chars_max) {
        match character {
            '"' | '\'' => out.push(character),
            _ => out.extend(character.escape_debug()),
        }
    }
    if characters.next().is_some() {
        out.push('…');
    }
    out
}

fn wall_seconds() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64()
}

/// Every update leaves the numbers whole, so that what a panic elsewhere poisoned is still right.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
