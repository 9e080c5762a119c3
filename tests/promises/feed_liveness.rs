//! A connection over which nothing comes is noticed, and one over which nothing has to come is left alone.

use crate::support::patiently;
use crate::support::recording_listener::{Note, RunningFeed, disconnect_reason, settings, snapshot, timing};
use crate::support::scripted_feed::{Gate, ScriptedFeed, Step};
use futures::task::AtomicWaker;
use session_buddy_bridge::internals::feed::{
    self, DisconnectReason, FeedListener, FeedSettings, FeedState, FrameSummary, SnapshotSummary, Timing,
};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};
use tokio_util::sync::CancellationToken;

const GREETING: &str = r#"{"type":"connected"}"#;
const EVENT: &str = r#"{"type":"skill_invocation","data":{"skill_name":"a","completed":true}}"#;

/// Pings soon, and expects a snapshot soon; patient with everything else.
fn watchful(server: &ScriptedFeed) -> FeedSettings {
    let timing = Timing {
        ping_interval: Duration::from_millis(50),
        pong_timeout: Duration::from_secs(10),
        silence_timeout: Duration::from_millis(400),
        ..timing()
    };
    FeedSettings { timing, ..settings(server.url()) }
}

fn is_closed(note: &Note) -> bool {
    matches!(note, Note::Closed(_))
}

#[tokio::test]
async fn a_peer_that_answers_no_ping_is_dead() {
    let deaf = vec![Step::send(EVENT), Step::IgnorePings];
    let server = ScriptedFeed::start(vec![deaf, vec![Step::send(snapshot(1))]]);
    let mut settings = watchful(&server);
    settings.timing.pong_timeout = Duration::from_millis(50);
    let feed = RunningFeed::start(settings);
    assert_eq!(disconnect_reason(&feed.ended(1).await[0]).code(), "dead");
    server.connected(2).await;
    feed.stop().await;
}

#[tokio::test]
async fn silence_after_snapshots_ends_the_connection_and_the_next_one_too() {
    let server = ScriptedFeed::start(vec![vec![Step::send(snapshot(1))], vec![Step::send(EVENT)]]);
    let feed = RunningFeed::start(watchful(&server));
    let statuses = feed.ended(2).await;
    assert_eq!(
        statuses.iter().map(|status| disconnect_reason(status).code()).collect::<Vec<_>>(),
        ["silent", "silent"]
    );
    let visit = server.visited(1, "the goodbye", |visit| visit.close_code.is_some()).await;
    assert_eq!(visit.close_code, Some(1000));
    feed.stop().await;
}

#[tokio::test]
async fn a_standing_timestamp_is_frozen() {
    let standing = vec![Step::Repeat(snapshot(1), Duration::from_millis(10))];
    let server = ScriptedFeed::start(vec![standing]);
    let feed = RunningFeed::start(watchful(&server));
    let statuses = feed.ended(2).await;
    assert_eq!(
        statuses.iter().map(|status| disconnect_reason(status).code()).collect::<Vec<_>>(),
        ["frozen", "frozen"]
    );
    feed.stop().await;
}

#[tokio::test]
async fn a_slow_feed_is_not_given_up_for_ever() {
    // The first alarm is a false one. The interval across it teaches the cadence, and there is no second.
    let late = || Step::Pause(Duration::from_millis(700));
    let slow = vec![Step::send(snapshot(1)), late(), Step::send(snapshot(2)), late(), Step::send(snapshot(3))];
    let server = ScriptedFeed::start(vec![vec![Step::send(snapshot(0))], slow]);
    let feed = RunningFeed::start(watchful(&server));
    let notes = feed.until("the last snapshot", |notes| notes.contains(&Note::Text(snapshot(3)))).await;
    assert_eq!(notes.iter().filter(|note| is_closed(note)).count(), 1, "{notes:?}");
    feed.stop().await;
}

#[tokio::test]
async fn a_feed_that_owes_no_snapshot_is_left_alone() {
    let events_only = (None, EVENT.to_owned());
    let filtered = (Some("pytest-run".to_owned()), snapshot(1));
    for (skill, text) in [events_only, filtered] {
        let server = ScriptedFeed::start(vec![vec![Step::send(text)]]);
        let feed = RunningFeed::start(FeedSettings { skill, ..watchful(&server) });
        // Each ping stands for 50 ms without a byte: together they are far beyond the timeout for snapshots.
        server.visited(1, "20 pings", |visit| visit.pings >= 20).await;
        assert!(!feed.notes().iter().any(is_closed));
        feed.stop().await;
    }
}

#[tokio::test]
async fn a_feed_that_only_greets_is_live_once_it_sends_data() {
    let (first, second) = (Gate::default(), Gate::default());
    let server = ScriptedFeed::start(vec![
        vec![Step::send(GREETING), Step::Await(first.clone()), Step::Drop],
        vec![Step::send(GREETING), Step::Await(second.clone()), Step::send(snapshot(1))],
    ]);
    let feed = RunningFeed::start(watchful(&server));
    let greeted = |notes: &[Note]| -> Vec<&'static str> {
        let states = notes.iter().filter_map(|note| match note {
            Note::State(FeedState::Live) => Some("live"),
            Note::State(FeedState::NoData { .. }) => Some("no data"),
            Note::Closed(_) => Some("closed"),
            _ => None,
        });
        states.collect()
    };
    feed.until("the timeout", |notes| greeted(notes) == ["live", "no data"]).await;
    first.open();
    // A greeting of the next connection is no data.
    feed.until("the next greeting", |notes| greeted(notes) == ["live", "no data", "closed", "no data"]).await;
    second.open();
    feed.until("a snapshot", |notes| greeted(notes) == ["live", "no data", "closed", "no data", "live"]).await;
    feed.stop().await;
}

#[tokio::test]
async fn every_byte_is_a_sign_of_life() {
    // A frame that takes more than twice as long to arrive as a connection without a byte lives.
    let text = r#"{"type":"pong"}"#;
    let frame = [&[0x81, text.len() as u8][..], text.as_bytes()].concat();
    let slowly = Step::Trickle(frame, Duration::from_millis(130));
    let server = ScriptedFeed::start(vec![vec![Step::IgnorePings, slowly]]);
    let mut settings = watchful(&server);
    settings.timing.ping_interval = Duration::from_millis(500);
    settings.timing.pong_timeout = Duration::from_millis(500);
    let feed = RunningFeed::start(settings);
    let notes = feed.live().await;
    assert!(!notes.iter().any(is_closed), "{notes:?}");
    assert_eq!(notes.last(), Some(&Note::State(FeedState::Live)));
    feed.stop().await;
}

/// Takes a frame, and no more before it is told to. Then it takes all, in their order.
#[derive(Default)]
struct OneAtFirst {
    takes_all: AtomicBool,
    waker: AtomicWaker,
    frames: AtomicUsize,
    disconnects: AtomicUsize,
}

impl OneAtFirst {
    fn frames(&self) -> usize {
        self.frames.load(Ordering::SeqCst)
    }

    fn is_ready(&self) -> bool {
        self.takes_all.load(Ordering::SeqCst) || self.frames() == 0
    }
}

impl FeedListener for OneAtFirst {
    fn poll_ready(&self, cx: &mut Context<'_>) -> Poll<()> {
        self.waker.register(cx.waker());
        if self.is_ready() { Poll::Ready(()) } else { Poll::Pending }
    }

    fn opened(&self) {}

    fn text(&self, frame: &str, _at: Instant) -> FrameSummary {
        assert!(self.is_ready(), "a frame that was not asked for");
        let number = self.frames.fetch_add(1, Ordering::SeqCst);
        assert_eq!(frame, snapshot(number as u64));
        FrameSummary { understood: true, has_data: true, snapshot: Some(SnapshotSummary { fresh: true }) }
    }

    fn binary(&self, _bytes: usize) {}

    fn closed(&self, reason: &DisconnectReason) {
        if *reason != DisconnectReason::Shutdown {
            self.disconnects.fetch_add(1, Ordering::SeqCst);
        }
    }

    fn state_changed(&self, _state: &FeedState) {}
}

#[tokio::test]
async fn a_listener_that_takes_nothing_holds_up_the_server_and_keeps_the_connection() {
    let sent = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&sent);
    let next = move || snapshot(counter.fetch_add(1, Ordering::SeqCst) as u64);
    let server = ScriptedFeed::start(vec![vec![Step::rounds(&Gate::default(), Duration::from_millis(5), next)]]);
    let mut settings = watchful(&server);
    settings.timing.pong_timeout = Duration::from_millis(50);
    let silence_timeout = settings.timing.silence_timeout;
    let (listener, shutdown) = (Arc::new(OneAtFirst::default()), CancellationToken::new());
    let running = tokio::spawn(feed::run(settings, listener.clone(), shutdown.clone()));

    // Past every timeout of a connection over which nothing comes.
    tokio::time::sleep(2 * silence_timeout).await;
    assert_eq!(listener.frames(), 1);
    let sent_by_then = sent.load(Ordering::SeqCst);
    listener.takes_all.store(true, Ordering::SeqCst);
    listener.waker.wake();
    let caught_up = async {
        while listener.frames() <= sent_by_then {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    patiently("every frame", caught_up).await;
    shutdown.cancel();
    patiently("the end", running).await.unwrap();
    assert_eq!((listener.disconnects.load(Ordering::SeqCst), server.visits().len()), (0, 1));
}
