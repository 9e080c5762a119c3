//! Shutdown interrupts whatever the feed waits for.

use crate::support::clogged::Clogged;
use crate::support::recording_listener::{Note, RunningFeed, settings, snapshot, with_token};
use crate::support::scripted_feed::{Reserved, ScriptedFeed, Step};
use session_buddy_bridge::internals::feed::{DisconnectReason, FeedSettings, FeedState, TokenSource};
use std::time::Duration;
use url::Url;

/// What a waiting feed may take to stop. Everything it waits for in these tests would take far longer.
const PROMPTLY: Duration = Duration::from_secs(5);
const NEVER: Duration = Duration::from_secs(3600);

fn endless(url: Url) -> FeedSettings {
    let mut settings = settings(url);
    settings.timing.connect_timeout = NEVER;
    settings.timing.handshake_timeout = NEVER;
    settings.timing.send_timeout = NEVER;
    settings.timing.backoff_min = NEVER;
    settings.timing.backoff_max = NEVER;
    settings
}

async fn stop_promptly(feed: RunningFeed) -> Vec<Note> {
    tokio::time::timeout(PROMPTLY, feed.stop()).await.expect("stops promptly")
}

#[tokio::test]
async fn in_backoff() {
    let feed = RunningFeed::start(endless(Reserved::new().url()));
    feed.ended(1).await;
    stop_promptly(feed).await;
}

#[tokio::test]
async fn while_connecting() {
    let clogged = Clogged::new().await;
    let feed = RunningFeed::start(endless(clogged.url()));
    feed.until("an attempt", |notes| notes.contains(&Note::State(FeedState::Connecting))).await;
    let notes = stop_promptly(feed).await;
    assert_eq!(notes, [Note::State(FeedState::Connecting), Note::State(FeedState::Stopped)]);
}

#[tokio::test]
async fn in_the_handshake() {
    for server in [
        ScriptedFeed::start(vec![vec![Step::StallHandshake]]),
        ScriptedFeed::start_tls(vec![vec![Step::StallHandshake]]),
    ] {
        let mut settings = endless(server.url());
        settings.credentials.tls.ca = server.certificate.as_ref().map(|file| file.path().to_owned());
        let feed = RunningFeed::start(settings);
        server.connected(1).await;
        let notes = stop_promptly(feed).await;
        assert_eq!(notes, [Note::State(FeedState::Connecting), Note::State(FeedState::Stopped)]);
    }
}

#[tokio::test]
async fn while_live_the_server_is_told() {
    let server = ScriptedFeed::start(vec![vec![Step::send(snapshot(1))]]);
    let feed = RunningFeed::start(endless(server.url()));
    feed.live().await;
    let notes = stop_promptly(feed).await;
    assert!(notes.contains(&Note::Closed(DisconnectReason::Shutdown)));
    let visit = server.visited(1, "the end", |visit| visit.is_over).await;
    assert_eq!(visit.close_code, Some(1001));
}

#[tokio::test]
async fn while_the_peer_reads_nothing() {
    let server = ScriptedFeed::start(vec![vec![Step::IgnorePings, Step::send(snapshot(1))]]);
    let feed = RunningFeed::start(endless(server.url()));
    feed.live().await;
    stop_promptly(feed).await;
}

#[tokio::test]
async fn while_flooded() {
    let server = ScriptedFeed::start(vec![vec![Step::IgnorePings, Step::Flood(usize::MAX, snapshot(1))]]);
    let feed = RunningFeed::start(endless(server.url()));
    feed.live().await;
    stop_promptly(feed).await;
}

#[tokio::test]
async fn before_it_began() {
    let server = ScriptedFeed::start(vec![vec![]]);
    let feed = RunningFeed::start(FeedSettings {
        credentials: with_token(TokenSource::File("/dev/null/no/such/file".into())),
        ..endless(server.url())
    });
    let notes = stop_promptly(feed).await;
    assert_eq!(notes, [Note::State(FeedState::Stopped)]);
    assert!(server.visits().is_empty());
}

#[tokio::test]
async fn timeouts_end_what_is_not_shut_down() {
    let clogged = Clogged::new().await;
    let address = clogged.url().socket_addrs(|| None).unwrap()[0];
    let mut impatient = settings(clogged.url());
    impatient.timing.connect_timeout = Duration::from_millis(20);
    let feed = RunningFeed::start(impatient);
    let status = feed.ended(1).await[0].to_string();
    assert!(status.contains(&format!("connecting to {address} took longer than 20ms")), "{status}");
    feed.stop().await;

    let server = ScriptedFeed::start(vec![vec![Step::StallHandshake]]);
    let mut impatient = settings(server.url());
    impatient.timing.handshake_timeout = Duration::from_millis(20);
    let feed = RunningFeed::start(impatient);
    let status = feed.ended(1).await[0].to_string();
    assert!(status.contains(&format!("the handshake with {} took longer than 20ms", server.address())), "{status}");
    feed.stop().await;
}
