//! How each feed stands: the one place that decides it. `/-/ready`, the live page, its API and the metrics ask here. What a feed
//! does for its source is asked of the ledger.
//!
//! A feed reports each [`FeedState`] as it happens. What is exposed lags behind in one case: a feed whose attempt failed
//! keeps that state while it is tried again, because nobody could see otherwise for how long it has been failing.

use std::fmt::{self, Write as _};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use crate::clock::wall_seconds;
use crate::feed::FeedState;
use crate::ledger::{FeedRole, FeedStanding};
use crate::sync::lock;
use crate::text::one_line;

/// Characters of a reason that are exposed. The longest part of one is the reason of a close frame, of at most 123 bytes.
const REASON_CHARS_MAX: usize = 400;

/// Says how feeds stand to their sources.
type Standings = Box<dyn Fn() -> Vec<FeedStanding> + Send + Sync>;

/// The health of every configured feed, in the order in which they were configured.
#[derive(Default)]
pub struct Health {
    feeds: Mutex<Vec<Arc<FeedHealth>>>,
    standings: Option<Standings>,
}

impl Health {
    /// Creates an empty registry: without feeds the bridge is ready.
    pub fn new() -> Self {
        Self::default()
    }

    /// Creates an empty registry that asks `standings` how its feeds stand to their sources.
    pub fn with_standings(standings: impl Fn() -> Vec<FeedStanding> + Send + Sync + 'static) -> Self {
        Self { feeds: Mutex::default(), standings: Some(Box::new(standings)) }
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
        let standings = self.standings.as_ref().map(|standings| standings()).unwrap_or_default();
        let standing = |feed: &FeedHealth| standings.iter().find(|known| known.identity == feed.identity).cloned();
        lock(&self.feeds).iter().map(|feed| feed.report(standing(feed))).collect()
    }
}

impl fmt::Debug for Health {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Health").field("feeds", &self.feeds).finish_non_exhaustive()
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
    /// When the feed reported the state.
    reported_at: Instant,
}

impl Current {
    /// Why the feed is not live, at `now`.
    fn reason(&self, now: Instant) -> String {
        let (prefix, reason, retry_in) = match &self.state {
            FeedState::Waiting { reason, retry_in } => ("", reason, retry_in),
            FeedState::Refused { reason, retry_in } => ("refused: ", reason, retry_in),
            state => return state.to_string(),
        };
        let remaining = retry_in.saturating_sub(now.saturating_duration_since(self.reported_at));
        match remaining.as_secs_f64().ceil() as u64 {
            0 => format!("{prefix}{reason}; connecting again"),
            seconds @ 1..120 => format!("{prefix}{reason}; next attempt in {seconds} s"),
            seconds => format!("{prefix}{reason}; next attempt in {} min", seconds.div_ceil(60)),
        }
    }
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
    /// Why the feed is not live, or which other feed is active in its place, on one line; empty if neither is the case.
    pub reason: String,
    /// How it stands to its source; `None` if nobody counts it.
    pub standing: Option<FeedStanding>,
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
            reported_at: Instant::now(),
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
        current.reported_at = Instant::now();
        !was_live && current.state == FeedState::Live
    }

    /// Returns how the feed stands now, if it stands like this to its source.
    pub fn report(&self, standing: Option<FeedStanding>) -> FeedReport {
        let current = lock(&self.current);
        let reason = match (&current.state, &standing) {
            (FeedState::Live, Some(standing)) if matches!(standing.role, FeedRole::Standby { .. }) => {
                one_line(&standing.to_string(), REASON_CHARS_MAX)
            }
            (FeedState::Live, _) => String::new(),
            _ if !current.has_started => "not started".to_owned(),
            _ => one_line(&current.reason(Instant::now()), REASON_CHARS_MAX),
        };
        FeedReport {
            identity: Arc::clone(&self.identity),
            state: current.state.clone(),
            since_seconds: current.since_seconds,
            reason,
            standing,
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
        let FeedReport { identity, reason, standing, .. } = report;
        let standing = standing.as_ref().map(|standing| one_line(&standing.to_string(), REASON_CHARS_MAX));
        let _ = match (report.is_live(), standing) {
            (true, None) => writeln!(text, "{identity}: live"),
            (true, Some(standing)) => writeln!(text, "{identity}: live, {standing}"),
            (false, None) => writeln!(text, "{identity}: not live: {reason}"),
            (false, Some(standing)) => writeln!(text, "{identity}: not live: {reason} ({standing})"),
        };
    }
    (is_ready, text)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::feed::{DisconnectReason, TokenOrigin};
    use crate::ledger::SourceId;

    fn lost(what: &str) -> FeedState {
        let reason = DisconnectReason::Lost { what: what.to_owned() };
        FeedState::Waiting { reason, retry_in: Duration::from_secs(3600) }
    }

    fn refused(reason: &str) -> FeedState {
        let reason = DisconnectReason::Closed { code: 4001, reason: reason.to_owned(), token: TokenOrigin::Given };
        FeedState::Refused { reason, retry_in: Duration::from_secs(30) }
    }

    fn refused_in(retry_in: Duration) -> FeedState {
        let FeedState::Refused { reason, .. } = refused("no") else { unreachable!("it is refused") };
        FeedState::Refused { reason, retry_in }
    }

    fn silent() -> FeedState {
        let after = Duration::from_secs(15);
        FeedState::Waiting { reason: DisconnectReason::Silent { after }, retry_in: Duration::from_secs(3600) }
    }

    #[test]
    fn a_feed_that_failed_keeps_its_state_while_it_is_tried_again() {
        let feed = FeedHealth::new("f");
        assert_eq!((feed.report(None).state.label(), &*feed.report(None).reason), ("connecting", "not started"));
        assert!(!feed.update(&FeedState::Connecting));
        assert!(!feed.update(&FeedState::Opened));
        assert_eq!(feed.report(None).reason, "connected; no valid message received yet");
        assert!(feed.update(&FeedState::Live));
        assert!(!feed.update(&FeedState::Live), "it was live before");

        feed.update(&silent());
        let failed = feed.report(None);
        assert_eq!((failed.state.label(), failed.is_live()), ("silent", false));
        assert!(failed.reason.contains("next attempt in"), "{}", failed.reason);
        for attempt in [FeedState::Connecting, FeedState::Opened] {
            assert!(!feed.update(&attempt));
            assert_eq!(feed.report(None), failed, "{attempt:?}");
        }
        feed.update(&lost("it ended"));
        let other = feed.report(None);
        assert_eq!(other.state.label(), "unreachable");
        assert!(other.since_seconds >= failed.since_seconds);
        feed.update(&FeedState::Connecting);
        feed.update(&lost("it ended again"));
        assert_eq!(feed.report(None).since_seconds, other.since_seconds, "it has been unreachable all the time");
        assert!(feed.report(None).reason.contains("it ended again"));
        assert!(feed.update(&FeedState::Live));
        assert_eq!(feed.report(None).reason, "");
    }

    #[test]
    fn the_time_to_the_next_attempt_counts_down() {
        let reported_at = Instant::now();
        let current =
            |retry_in| Current { has_started: true, state: refused_in(retry_in), since_seconds: 0.0, reported_at };
        let seconds = Duration::from_secs;
        let current = [current(seconds(30)), current(seconds(300))];
        for (index, elapsed, part) in [
            (0, Duration::ZERO, "; next attempt in 30 s"),
            (0, Duration::from_millis(29_001), "; next attempt in 1 s"),
            (0, seconds(30), "; connecting again"),
            (0, seconds(90), "; connecting again"),
            (1, seconds(170), "; next attempt in 3 min"),
            (1, seconds(190), "; next attempt in 110 s"),
        ] {
            let reason = current[index].reason(reported_at + elapsed);
            assert!(reason.starts_with("refused: ") && reason.ends_with(part), "{reason}");
        }
    }

    #[test]
    fn a_feed_without_data_is_not_live_and_names_the_time() {
        let feed = FeedHealth::new("f");
        feed.update(&FeedState::Live);
        let since = tokio::time::Instant::now() - Duration::from_secs(17);
        feed.update(&FeedState::NoData { since });
        let report = feed.report(None);
        assert_eq!((report.state.label(), report.is_live()), ("silent", false));
        assert_eq!(report.reason, "connected, no data for 17 s");
        assert!(!readiness(&[report]).0);
        assert!(feed.update(&FeedState::Live), "it is live again with the first data");
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
            (FeedState::NoData { since: tokio::time::Instant::now() }, "silent"),
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

    fn standing(identity: &str, source: Option<u64>, role: FeedRole) -> FeedStanding {
        FeedStanding { identity: identity.into(), source: source.map(SourceId), role }
    }

    #[test]
    fn a_feed_on_standby_is_live_and_names_the_active_one() {
        let feed = FeedHealth::new("f");
        feed.update(&FeedState::Live);
        let role = FeedRole::Standby { active: Some("ws://b:1/".into()) };
        let report = feed.report(Some(standing("f", Some(3), role)));
        assert_eq!(report.reason, "on standby for source 3: ws://b:1/ is active");
        assert!(report.is_live());
        let active = feed.report(Some(standing("f", Some(3), FeedRole::Active)));
        assert_eq!(active.reason, "");
    }

    #[test]
    fn a_reason_is_one_line() {
        let feed = FeedHealth::new("f");
        feed.update(&refused("\u{1b}[31mno\nentry"));
        let reason = feed.report(None).reason;
        assert!(reason.contains("\\u{1b}[31mno\\nentry"), "{reason}");
    }

    #[test]
    fn ready_while_one_feed_is_live() {
        let standings = || {
            vec![
                standing("ws://a:1/", Some(1), FeedRole::Inactive),
                standing("ws://c:1/", Some(2), FeedRole::Standby { active: Some("ws://b:1/".into()) }),
                standing("ws://b:1/", Some(2), FeedRole::Active),
            ]
        };
        let health = Health::with_standings(standings);
        assert_eq!(readiness(&health.reports()), (true, "Ready: no feeds are configured.\n".to_owned()));
        let (a, b) = (health.feed("ws://a:1/"), health.feed("ws://b:1/"));
        assert!(Arc::ptr_eq(&a, &health.feed("ws://a:1/")), "one identity, one feed");
        a.update(&lost("is\nit up?"));
        let reason = &a.report(None).reason;
        assert!(reason.contains("is\\nit up?"), "{reason}");
        let text = format!(
            "Not ready: no feed is live.\nws://a:1/: not live: {reason} (source 1)\nws://b:1/: not live: not started (active for source 2)\n"
        );
        assert_eq!(readiness(&health.reports()), (false, text));

        b.update(&FeedState::Live);
        let c = health.feed("ws://c:1/");
        c.update(&FeedState::Live);
        let text = format!(
            "Ready.\nws://a:1/: not live: {reason} (source 1)\nws://b:1/: live, active for source 2\n\
             ws://c:1/: live, on standby for source 2: ws://b:1/ is active\n"
        );
        assert_eq!(readiness(&health.reports()), (true, text));
        health.remove("ws://b:1/");
        assert_eq!(health.reports().len(), 2);
    }
}
