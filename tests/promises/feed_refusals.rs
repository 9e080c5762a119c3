//! What somebody has to change is its own state: it says what to check and is tried again slowly.

use crate::support::recording_listener::{
    RunningFeed, disconnect_reason, retry_in, settings, snapshot, timing, with_token,
};
use crate::support::scripted_feed::{ScriptedFeed, Step};
use session_buddy_bridge::internals::feed::{
    DisconnectReason, FeedSettings, FeedState, Secret, Timing, TokenOrigin, TokenSource,
};
use std::time::Duration;

const SLOW: Duration = Duration::from_secs(3600);

/// Ordinary backoff is far below a second here, slow retries are an hour apart.
fn slow_when_refused(server: &ScriptedFeed) -> FeedSettings {
    let timing = Timing { refused_backoff_min: SLOW, refused_backoff_max: SLOW, ..timing() };
    FeedSettings { timing, ..settings(server.url()) }
}

async fn first_disconnect(script: Vec<Step>) -> FeedState {
    let server = ScriptedFeed::start(vec![script]);
    let feed = RunningFeed::start(slow_when_refused(&server));
    let status = feed.ended(1).await.remove(0);
    feed.stop().await;
    status
}

#[tokio::test]
async fn refusals_wait_long_and_say_what_to_check() {
    let greeting = || Step::send(r#"{"type":"connected"}"#);
    let refusals = [
        (vec![greeting(), Step::Close(4001, "Authentication failed".to_owned())], "4001", "no token is configured"),
        (vec![Step::close(3000)], "3000", "no token is configured"),
        (vec![Step::close(3003)], "3003", "read permission"),
        (vec![Step::close(1008)], "1008", "read permission"),
        (vec![Step::HttpStatus(401, vec![])], "http_401", "check the token"),
        (vec![Step::HttpStatus(403, vec![])], "http_403", "admits this client"),
        (vec![Step::HttpStatus(407, vec![])], "http_407", "proxy"),
        (vec![Step::HttpStatus(404, vec![])], "http_404", "check the URL's path"),
        (vec![Step::HttpStatus(418, vec![])], "http_4xx", "check that the URL"),
        (vec![Step::HttpStatus(200, vec![])], "http_200", "not a feed"),
    ];
    for (script, code, advice) in refusals {
        let status = first_disconnect(script).await;
        assert!(matches!(status, FeedState::Refused { .. }), "{code}: {status:?}");
        assert_eq!(disconnect_reason(&status).code(), code);
        assert_eq!(retry_in(&status), SLOW);
        assert!(status.to_string().contains(advice), "{status}");
    }
}

#[tokio::test]
async fn a_redirect_is_not_followed() {
    let elsewhere = ScriptedFeed::start(vec![vec![Step::send(snapshot(1))]]);
    let location: &'static str = format!("ws://me:pass@{}/feed?key=secret", elsewhere.address()).leak();
    let status = first_disconnect(vec![Step::HttpStatus(307, vec![("location", location)])]).await;

    assert!(matches!(status, FeedState::Refused { .. }), "{status:?}");
    assert_eq!(disconnect_reason(&status).code(), "http_307");
    let shown = format!("{status} {status:?}");
    assert!(shown.contains(&format!("ws://{}/feed", elsewhere.address())), "{shown}");
    assert!(!shown.contains("pass") && !shown.contains("secret"), "{shown}");
    assert!(elsewhere.visits().is_empty());
}

#[tokio::test]
async fn a_refused_feed_comes_back_by_itself() {
    let server = ScriptedFeed::start(vec![
        vec![Step::close(4001)],
        vec![Step::HttpStatus(403, vec![])],
        vec![Step::send(snapshot(1))],
    ]);
    let feed = RunningFeed::start(settings(server.url()));
    feed.live().await;
    feed.stop().await;
}

#[tokio::test]
async fn retry_after_is_honoured_up_to_a_cap() {
    for status in [429, 503] {
        let asked = |seconds| vec![Step::HttpStatus(status, vec![("retry-after", seconds)])];
        let honoured = first_disconnect(asked("600")).await;
        assert!(matches!(honoured, FeedState::Waiting { .. }), "{honoured:?}");
        assert!(retry_in(&honoured) >= Duration::from_secs(600) && retry_in(&honoured) < Duration::from_secs(601));

        let capped = first_disconnect(asked("99999999999")).await;
        assert!(retry_in(&capped) >= SLOW && retry_in(&capped) < SLOW + Duration::from_secs(1), "{capped:?}");
    }
    let not_asked = first_disconnect(vec![Step::HttpStatus(429, vec![])]).await;
    assert!(retry_in(&not_asked) < Duration::from_secs(1), "{not_asked:?}");
}

#[tokio::test]
async fn a_token_refused_before_the_subscription_arrives_is_a_refusal() {
    // Politely, and without waiting for what is still on its way, which then cannot be sent any more.
    let polite = vec![Step::expect(|text| text.contains("token")), Step::close(4001)];
    let abrupt = vec![Step::SendRaw(vec![0x88, 2, 0x0f, 0xa1]), Step::Drop];
    for script in [polite, abrupt] {
        let server = ScriptedFeed::start(vec![script]);
        let feed = RunningFeed::start(FeedSettings {
            skill: Some("pytest-run".to_owned()),
            credentials: with_token(TokenSource::Static(Secret::new("stale"))),
            ..settings(server.url())
        });
        for status in feed.ended(100).await {
            let token = TokenOrigin::Given;
            let expected = DisconnectReason::Closed { code: 4001, reason: String::new(), token };
            assert_eq!(disconnect_reason(&status), &expected);
        }
        feed.stop().await;
    }
}
