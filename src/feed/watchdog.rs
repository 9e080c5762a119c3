//! When a connection is given up. Pure: time is passed in.

use std::collections::VecDeque;
use std::time::Duration;
use tokio::time::Instant;

/// Intervals of its own that a feed may be late.
const CADENCES_ALLOWED: u32 = 4;
/// Longest interval that is learnt, so that a feed cannot disable the timeout.
const CADENCE_MAX: Duration = Duration::from_secs(600);
const INTERVALS_REMEMBERED: usize = 9;

/// Why an open connection is given up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Alarm {
    /// No byte, although a ping was sent.
    Dead,
    /// No snapshot.
    Silent,
    /// Snapshots, but always the same.
    Frozen,
}

/// The silence timeout of a feed. It outlives connections: a feed that has ever sent a snapshot must send more, on later
/// connections too. A feed that has never sent a snapshot or an event is overdue after the timeout, and keeps its connection;
/// one that sends events alone may be silent for ever.
#[derive(Debug)]
pub struct SnapshotWatch {
    silence_timeout: Duration,
    filtered: bool,
    intervals: VecDeque<Duration>,
    allowance: Duration,
    has_seen_snapshot: bool,
    has_seen_data: bool,
    is_overdue: bool,
    waiting_since: Option<Instant>,
    last_fresh: Option<Instant>,
    repeats: bool,
}

impl SnapshotWatch {
    /// Creates a timeout of at least `silence_timeout`. A `filtered` feed sends snapshots only while its skill is listed, so
    /// that none are expected of it.
    pub fn new(silence_timeout: Duration, filtered: bool) -> Self {
        Self {
            silence_timeout,
            filtered,
            intervals: VecDeque::with_capacity(INTERVALS_REMEMBERED),
            allowance: silence_timeout,
            has_seen_snapshot: false,
            has_seen_data: false,
            is_overdue: false,
            waiting_since: None,
            last_fresh: None,
            repeats: false,
        }
    }

    /// A connection opened: its first snapshot has the same allowance as every other.
    pub fn opened(&mut self, now: Instant) {
        self.waiting_since = Some(now);
        self.repeats = false;
    }

    /// The first message of a connection arrived: from now on data is expected of a feed that has sent none yet.
    pub fn greeted(&mut self, now: Instant) {
        if !self.has_seen_data && !self.is_overdue {
            self.waiting_since = Some(now);
        }
    }

    /// An event arrived.
    pub fn event(&mut self) {
        self.has_seen_data = true;
        self.is_overdue = false;
    }

    /// A snapshot arrived; it is not `fresh` if it bears the timestamp of the one before.
    pub fn snapshot(&mut self, fresh: bool, now: Instant) {
        self.has_seen_snapshot = true;
        self.has_seen_data = true;
        self.repeats = !fresh;
        if fresh {
            self.is_overdue = false;
            // Snapshots that were read at once had piled up, which says nothing of their interval.
            if let Some(before) = self.last_fresh.replace(now).filter(|before| *before < now) {
                self.learn(now.duration_since(before));
            }
            self.waiting_since = Some(now);
        }
    }

    /// Nothing was read for a while: the feed has its whole allowance again.
    pub fn resumed(&mut self, now: Instant) {
        self.interrupted();
        self.opened(now);
    }

    /// The server was away: the time to the next snapshot will not be an interval of the feed.
    ///
    /// Not to be called if this timeout ended the connection: the interval across a false alarm is the only evidence that a
    /// feed is slower than the timeout.
    pub fn interrupted(&mut self) {
        self.last_fresh = None;
    }

    /// Returns when [`SnapshotWatch::alarm`] will be due if nothing arrives.
    pub fn deadline(&self) -> Option<Instant> {
        let expecting = self.has_seen_snapshot && !self.filtered;
        self.waiting_since.filter(|_| expecting).and_then(|since| since.checked_add(self.allowance))
    }

    /// Returns what is wrong at `now`, if anything.
    pub fn alarm(&self, now: Instant) -> Option<Alarm> {
        self.deadline().filter(|deadline| now >= *deadline)?;
        Some(if self.repeats { Alarm::Frozen } else { Alarm::Silent })
    }

    /// Returns when a feed that has sent no data yet will be overdue, and since when data is expected of it.
    pub fn data_deadline(&self) -> Option<(Instant, Instant)> {
        let expecting = !self.has_seen_data && !self.filtered && !self.is_overdue;
        let since = self.waiting_since.filter(|_| expecting)?;
        Some((since.checked_add(self.silence_timeout)?, since))
    }

    /// Data is overdue until some arrives: fresh snapshots of a feed that sends snapshots, anything of one that never did.
    pub fn set_overdue(&mut self) {
        self.is_overdue = true;
    }

    /// Returns whether data is overdue, which no greeting changes.
    pub fn is_overdue(&self) -> bool {
        self.is_overdue
    }

    /// Returns whether the feed has ever sent a snapshot or an event.
    pub fn has_seen_data(&self) -> bool {
        self.has_seen_data
    }

    /// Returns how long the feed may be without a fresh snapshot.
    pub fn allowance(&self) -> Duration {
        self.allowance
    }

    /// Uses the median, so that one interval in which the server was blocked does not extend the timeout.
    fn learn(&mut self, interval: Duration) {
        if self.intervals.len() == INTERVALS_REMEMBERED {
            self.intervals.pop_front();
        }
        self.intervals.push_back(interval.min(CADENCE_MAX));
        let mut sorted = Vec::from_iter(self.intervals.iter().copied());
        sorted.sort_unstable();
        self.allowance = self.silence_timeout.max(CADENCES_ALLOWED * sorted[sorted.len() / 2]);
    }
}

/// Keepalive of one connection: a ping after some time without a byte, and the end if none follows.
#[derive(Debug)]
pub struct Keepalive {
    ping_interval: Duration,
    pong_timeout: Duration,
    pinged: Option<Instant>,
}

/// What is due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Due {
    /// Send a ping.
    Ping,
    /// Give up the connection.
    Dead,
}

impl Keepalive {
    /// Pings after `ping_interval` without a byte and gives up `pong_timeout` later.
    pub fn new(ping_interval: Duration, pong_timeout: Duration) -> Self {
        Self { ping_interval, pong_timeout, pinged: None }
    }

    /// Returns what is due next and when, if nothing is received after `last_received`; `None` for intervals beyond the clock.
    pub fn next(&self, last_received: Instant) -> Option<(Instant, Due)> {
        match self.pinged {
            // Counted from the ping: after a stall of this process the peer still has the whole timeout.
            Some(pinged) if pinged > last_received => Some((pinged.checked_add(self.pong_timeout)?, Due::Dead)),
            _ => Some((last_received.checked_add(self.ping_interval)?, Due::Ping)),
        }
    }

    /// A ping was sent.
    pub fn pinged(&mut self, now: Instant) {
        self.pinged = Some(now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIMEOUT: Duration = Duration::from_secs(15);

    fn seconds(n: u64) -> Duration {
        Duration::from_secs(n)
    }

    fn opened(filtered: bool) -> (SnapshotWatch, Instant) {
        let start = Instant::now();
        let mut watch = SnapshotWatch::new(TIMEOUT, filtered);
        watch.opened(start);
        (watch, start)
    }

    #[test]
    fn a_feed_without_snapshots_owes_none() {
        let (watch, start) = opened(false);
        assert_eq!(watch.deadline(), None);
        assert_eq!(watch.alarm(start + seconds(86_400)), None);
    }

    #[test]
    fn a_feed_that_never_sent_data_is_overdue_until_it_does() {
        let (mut watch, start) = opened(false);
        watch.greeted(start + seconds(1));
        assert_eq!(watch.data_deadline(), Some((start + seconds(16), start + seconds(1))));
        watch.set_overdue();
        assert_eq!((watch.data_deadline(), watch.is_overdue()), (None, true), "it is reported once");
        watch.opened(start + seconds(20));
        watch.greeted(start + seconds(21));
        assert!(watch.is_overdue(), "a greeting of the next connection is no data");
        watch.event();
        assert_eq!((watch.data_deadline(), watch.is_overdue()), (None, false), "events alone are data");
    }

    #[test]
    fn snapshots_that_were_overdue_are_until_a_fresh_one() {
        let (mut watch, start) = opened(false);
        watch.snapshot(true, start);
        watch.set_overdue();
        watch.snapshot(false, start + seconds(20));
        assert!(watch.is_overdue());
        watch.snapshot(true, start + seconds(21));
        assert!(!watch.is_overdue());
    }

    #[test]
    fn a_filtered_feed_owes_none() {
        let (mut watch, start) = opened(true);
        watch.greeted(start);
        assert_eq!(watch.data_deadline(), None);
        watch.snapshot(true, start);
        assert_eq!(watch.alarm(start + seconds(86_400)), None);
    }

    #[test]
    fn silence_is_noticed_to_the_instant() {
        let (mut watch, start) = opened(false);
        watch.snapshot(true, start + seconds(1));
        assert_eq!(watch.deadline(), Some(start + seconds(16)));
        assert_eq!(watch.alarm(start + seconds(16) - Duration::from_nanos(1)), None);
        assert_eq!(watch.alarm(start + seconds(16)), Some(Alarm::Silent));
    }

    #[test]
    fn a_repeated_timestamp_is_frozen_and_a_fresh_one_thaws_it() {
        let (mut watch, start) = opened(false);
        (0..=3).for_each(|n| watch.snapshot(true, start + seconds(n)));
        (4..18).for_each(|n| watch.snapshot(false, start + seconds(n)));
        assert_eq!(watch.alarm(start + seconds(18)), Some(Alarm::Frozen));
        watch.snapshot(true, start + seconds(18));
        assert_eq!(watch.alarm(start + seconds(18)), None);
        assert_eq!(watch.alarm(start + seconds(33)), Some(Alarm::Silent));
    }

    #[test]
    fn the_first_snapshot_of_a_later_connection_has_the_same_allowance() {
        let (mut watch, start) = opened(false);
        watch.snapshot(true, start);
        watch.opened(start + seconds(100));
        assert_eq!(watch.deadline(), Some(start + seconds(115)));
    }

    #[test]
    fn a_slow_feed_is_given_a_few_of_its_intervals() {
        let (mut watch, start) = opened(false);
        (0..5).for_each(|n| watch.snapshot(true, start + seconds(10 * n)));
        assert_eq!(watch.allowance(), seconds(40));
    }

    #[test]
    fn a_false_alarm_teaches_the_cadence_of_a_feed_slower_than_the_timeout() {
        let (mut watch, start) = opened(false);
        watch.snapshot(true, start);
        assert_eq!(watch.alarm(start + seconds(15)), Some(Alarm::Silent));
        watch.opened(start + seconds(16));
        watch.snapshot(true, start + seconds(30));
        assert_eq!(watch.allowance(), seconds(120));
    }

    #[test]
    fn snapshots_that_piled_up_teach_nothing() {
        let (mut watch, start) = opened(false);
        (0..5).for_each(|n| watch.snapshot(true, start + seconds(10 * n)));
        watch.resumed(start + seconds(300));
        (0..30).for_each(|_| watch.snapshot(true, start + seconds(300)));
        assert_eq!(watch.allowance(), seconds(40));
    }

    #[test]
    fn whoever_did_not_read_owes_the_feed_its_whole_allowance() {
        let (mut watch, start) = opened(false);
        watch.snapshot(true, start);
        watch.resumed(start + seconds(60));
        assert_eq!(watch.alarm(start + seconds(60)), None);
        assert_eq!(watch.deadline(), Some(start + seconds(75)));
    }

    #[test]
    fn an_outage_teaches_nothing() {
        let (mut watch, start) = opened(false);
        watch.snapshot(true, start);
        watch.interrupted();
        watch.opened(start + seconds(3_600));
        watch.snapshot(true, start + seconds(3_600));
        assert_eq!(watch.allowance(), TIMEOUT);
    }

    #[test]
    fn one_blocked_interval_teaches_nothing_and_the_cadence_is_capped() {
        let (mut watch, start) = opened(false);
        let mut now = start;
        for interval in [0, 1, 1, 1, 300, 1, 1] {
            now += seconds(interval);
            watch.snapshot(true, now);
        }
        assert_eq!(watch.allowance(), TIMEOUT);

        for _ in 0..INTERVALS_REMEMBERED {
            now += seconds(86_400);
            watch.snapshot(true, now);
        }
        assert_eq!(watch.allowance(), CADENCES_ALLOWED * CADENCE_MAX);
        assert_eq!(watch.intervals.len(), INTERVALS_REMEMBERED);
    }

    #[test]
    fn keepalive_pings_an_idle_connection_once_and_then_gives_up() {
        let start = Instant::now();
        let mut keepalive = Keepalive::new(seconds(5), seconds(2));
        assert_eq!(keepalive.next(start), Some((start + seconds(5), Due::Ping)));
        assert_eq!(keepalive.next(start + seconds(3)), Some((start + seconds(8), Due::Ping)));

        keepalive.pinged(start + seconds(8));
        assert_eq!(keepalive.next(start + seconds(3)), Some((start + seconds(10), Due::Dead)));
        assert_eq!(keepalive.next(start + seconds(9)), Some((start + seconds(14), Due::Ping)));
        assert_eq!(Keepalive::new(Duration::MAX, seconds(2)).next(start), None);
    }
}
