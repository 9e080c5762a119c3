//! How each feed stands: the one place that decides it. `/-/ready`, the live page, its API and the metrics ask here.
//!
//! A feed reports each [`FeedState`] as it happens. What is exposed lags behind in one case: a feed whose attempt failed
//! keeps that state while it is tried again, because nobody could see otherwise for how long it has been failing.

use std::fmt::Write as _;
use std::sync::{Arc, Mutex};

use crate::clock::wall_seconds;
use crate::feed::FeedState;
use crate::ledger::Notice;
use crate::sync::lock;
use crate::text::one_line;

/// Characters of a reason that are exposed. The longest part of one is the reason of a close frame, of at most 123 bytes.
const REASON_CHARS_MAX: usize = 400;

/// Characters of another feed's identity that a reason quotes.
const IDENTITY_CHARS_MAX: usize = 200;

/// The health of every configured feed, in the order in which they were configured.
#[derive(Debug, Default)]
pub struct Health {
    feeds: Mutex<Vec<Arc<FeedHealth>>>,
}

impl Health {
    /// Creates an empty registry: without feeds the bridge is ready.
    pub fn new() -> Self {
        Self::default()
    }

    /// Returns the health of the feed `identity`, which is added if it is new.
    pub fn feed(&self, identity: &str) -> Arc<FeedHealth> {
        let mut feeds = lock(&self.feeds);
        if let Some(feed) = feeds.iter().find(|feed| &*feed.identity == identity) {
            return Arc::clone(feed);
        }
        let feed = Arc::new(FeedHealth::new(identity));
        feeds.push(Arc::clone(&feed));
        feed
    }

    /// Stops exposing the feed `identity`.
    pub fn remove(&self, identity: &str) {
        lock(&self.feeds).retain(|feed| &*feed.identity != identity);
    }

    /// Returns how every feed stands now.
    pub fn reports(&self) -> Vec<FeedReport> {
        lock(&self.feeds).iter().map(|feed| feed.report()).collect()
    }
}

/// The health of one feed.
#[derive(Debug)]
pub struct FeedHealth {
    identity: Arc<str>,
    current: Mutex<Current>,
}

#[derive(Debug)]
struct Current {
    /// Whether the feed reported anything yet.
    has_started: bool,
    state: FeedState,
    since_seconds: f64,
    /// The feed that is the same server and counts in place of this one.
    duplicate_of: Option<String>,
}

/// How a feed stands.
#[derive(Debug, Clone, PartialEq)]
pub struct FeedReport {
    /// The feed's identity, which is the label `feed`.
    pub identity: Arc<str>,
    /// Its state, of which [`FeedState::label`] is the label `state`.
    pub state: FeedState,
    /// Unix timestamp of the change to this label, in seconds.
    pub since_seconds: f64,
    /// Why the feed is not live, or what a live feed lacks, on one line; empty if it lacks nothing.
    pub reason: String,
}

impl FeedReport {
    /// Whether the feed is connected, authenticated and delivering messages.
    pub fn is_live(&self) -> bool {
        self.state == FeedState::Live
    }
}

impl FeedHealth {
    fn new(identity: &str) -> Self {
        let current = Current {
            has_started: false,
            state: FeedState::Connecting,
            since_seconds: wall_seconds(),
            duplicate_of: None,
        };
        Self { identity: identity.into(), current: Mutex::new(current) }
    }

    /// Records a state that the feed reports. Returns whether the feed became live by it.
    pub fn update(&self, reported: &FeedState) -> bool {
        let mut current = lock(&self.current);
        let is_attempt = matches!(reported, FeedState::Connecting | FeedState::Opened);
        let was_live = current.state == FeedState::Live;
        let has_failed = !was_live && !matches!(current.state, FeedState::Connecting | FeedState::Opened);
        current.has_started = true;
        if is_attempt && has_failed {
            return false;
        }
        if current.state.label() != reported.label() {
            current.since_seconds = wall_seconds();
        }
        current.state = reported.clone();
        !was_live && current.state == FeedState::Live
    }

    /// Records what the ledger found out about the feed, as far as it concerns its health.
    pub fn observe(&self, notice: &Notice) {
        match notice {
            Notice::AliasFound { of } => {
                lock(&self.current).duplicate_of = Some(one_line(of, IDENTITY_CHARS_MAX));
            }
            Notice::AliasCleared => lock(&self.current).duplicate_of = None,
            _ => {}
        }
    }

    /// Returns how the feed stands now.
    pub fn report(&self) -> FeedReport {
        let current = lock(&self.current);
        let reason = match (&current.state, &current.duplicate_of) {
            (FeedState::Live, Some(of)) => format!("the same server as {of}: it does not count"),
            (FeedState::Live, None) => String::new(),
            _ if !current.has_started => "not started".to_owned(),
            (state, _) => one_line(&state.to_string(), REASON_CHARS_MAX),
        };
        FeedReport {
            identity: Arc::clone(&self.identity),
            state: current.state.clone(),
            since_seconds: current.since_seconds,
            reason,
        }
    }
}

/// Returns whether the bridge is ready, and the text that says so: it is while a feed is live, or if none is configured,
/// since there is nothing to wait for then.
pub fn readiness(reports: &[FeedReport]) -> (bool, String) {
    let is_ready = reports.is_empty() || reports.iter().any(FeedReport::is_live);
    let mut text = match (reports.is_empty(), is_ready) {
        (true, _) => "Ready: no feeds are configured.\n",
        (false, true) => "Ready.\n",
        (false, false) => "Not ready: no feed is live.\n",
    }
    .to_owned();
    for report in reports {
        let FeedReport { identity, reason, .. } = report;
        let _ = match (report.is_live(), reason.as_str()) {
            (true, "") => writeln!(text, "{identity}: live"),
            (true, lack) => writeln!(text, "{identity}: live, but {lack}"),
            (false, reason) => writeln!(text, "{identity}: not live: {reason}"),
        };
    }
    (is_ready, text)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::feed::DisconnectReason;

    fn lost(what: &str) -> FeedState {
        let reason = DisconnectReason::Lost { what: what.to_owned() };
        FeedState::Waiting { reason, retry_in: Duration::from_secs(1) }
    }

    fn refused(reason: &str) -> FeedState {
        let reason = DisconnectReason::Closed { code: 4001, reason: reason.to_owned() };
        FeedState::Refused { reason, retry_in: Duration::from_secs(30) }
    }

    fn silent() -> FeedState {
        let after = Duration::from_secs(15);
        FeedState::Waiting { reason: DisconnectReason::Silent { after }, retry_in: Duration::from_secs(1) }
    }

    #[test]
    fn a_feed_that_failed_keeps_its_state_while_it_is_tried_again() {
        let feed = FeedHealth::new("f");
        assert_eq!((feed.report().state.label(), &*feed.report().reason), ("connecting", "not started"));
        assert!(!feed.update(&FeedState::Connecting));
        assert!(!feed.update(&FeedState::Opened));
        assert_eq!(feed.report().reason, "connected; nothing understood yet");
        assert!(feed.update(&FeedState::Live));
        assert!(!feed.update(&FeedState::Live), "it was live before");

        feed.update(&silent());
        let failed = feed.report();
        assert_eq!((failed.state.label(), failed.is_live()), ("silent", false));
        assert!(failed.reason.contains("next attempt in"), "{}", failed.reason);
        for attempt in [FeedState::Connecting, FeedState::Opened] {
            assert!(!feed.update(&attempt));
            assert_eq!(feed.report(), failed, "{attempt:?}");
        }
        feed.update(&lost("it ended"));
        let other = feed.report();
        assert_eq!(other.state.label(), "unreachable");
        assert!(other.since_seconds >= failed.since_seconds);
        feed.update(&FeedState::Connecting);
        feed.update(&lost("it ended again"));
        assert_eq!(feed.report().since_seconds, other.since_seconds, "it has been unreachable all the time");
        assert!(feed.report().reason.contains("it ended again"));
        assert!(feed.update(&FeedState::Live));
        assert_eq!(feed.report().reason, "");
    }

    #[test]
    fn every_label_of_a_state_is_listed() {
        let frozen = DisconnectReason::Frozen { after: Duration::ZERO };
        let dead = DisconnectReason::Dead { after: Duration::ZERO };
        let waiting = |reason| FeedState::Waiting { reason, retry_in: Duration::ZERO };
        for (state, label) in [
            (FeedState::Connecting, "connecting"),
            (FeedState::Opened, "connecting"),
            (FeedState::Live, "live"),
            (silent(), "silent"),
            (waiting(dead), "silent"),
            (waiting(frozen), "frozen"),
            (refused(""), "refused"),
            (lost(""), "unreachable"),
            (FeedState::Stopped, "stopped"),
        ] {
            assert_eq!(state.label(), label);
            assert!(FeedState::LABELS.contains(&label), "{label}");
        }
    }

    #[test]
    fn a_duplicate_is_live_and_says_that_it_does_not_count() {
        let feed = FeedHealth::new("f");
        feed.update(&FeedState::Live);
        feed.observe(&Notice::AliasFound { of: "ws://b:1/".to_owned() });
        assert_eq!(feed.report().reason, "the same server as ws://b:1/: it does not count");
        assert!(feed.report().is_live());
        feed.observe(&Notice::AliasCleared);
        assert_eq!(feed.report().reason, "");
    }

    #[test]
    fn a_reason_is_one_line() {
        let feed = FeedHealth::new("f");
        feed.update(&refused("\u{1b}[31mno\nentry"));
        let reason = feed.report().reason;
        assert!(reason.contains("\\u{1b}[31mno\\nentry"), "{reason}");
    }

    #[test]
    fn ready_while_one_feed_is_live() {
        let health = Health::new();
        assert_eq!(readiness(&health.reports()), (true, "Ready: no feeds are configured.\n".to_owned()));
        let (a, b) = (health.feed("ws://a:1/"), health.feed("ws://b:1/"));
        assert!(Arc::ptr_eq(&a, &health.feed("ws://a:1/")), "one identity, one feed");
        a.update(&lost("is\nit up?"));
        let reason = &a.report().reason;
        assert!(reason.contains("is\\nit up?"), "{reason}");
        let text =
            format!("Not ready: no feed is live.\nws://a:1/: not live: {reason}\nws://b:1/: not live: not started\n");
        assert_eq!(readiness(&health.reports()), (false, text));

        b.update(&FeedState::Live);
        let c = health.feed("ws://c:1/");
        c.update(&FeedState::Live);
        c.observe(&Notice::AliasFound { of: "ws://b:1/".to_owned() });
        let text = format!(
            "Ready.\nws://a:1/: not live: {reason}\nws://b:1/: live\n\
             ws://c:1/: live, but the same server as ws://b:1/: it does not count\n"
        );
        assert_eq!(readiness(&health.reports()), (true, text));
        health.remove("ws://b:1/");
        assert_eq!(health.reports().len(), 2);
    }
}
