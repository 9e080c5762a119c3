//! What the feed says first, and that nobody else hears of it.

use crate::support::program::Program;
use crate::support::recording_listener::{RunningFeed, disconnect_reason, settings, snapshot, with_token};
use crate::support::scripted_feed::{ScriptedFeed, Step};
use session_buddy_bridge::internals::feed::{
    FeedSettings, FeedState, Minting, Secret, SecretSource, TOKEN_LIFETIME, TokenSource,
};
use std::fs;

#[tokio::test]
async fn token_then_subscription_on_each_connection() {
    let script = vec![Step::expect(|text| text.contains("subscribe")), Step::send(snapshot(1)), Step::Drop];
    let server = ScriptedFeed::start(vec![script]);
    let token = r#"a "quoted" \ token"#;
    let skill = r#"skill "x""#;
    let feed = RunningFeed::start(FeedSettings {
        url: server.url().join("deep/path?room=1&b=%20").unwrap(),
        skill: Some(skill.to_owned()),
        credentials: with_token(TokenSource::Static(Secret::new(token))),
        ..settings(server.url())
    });
    let visits = server.until("three visits", |visits| visits.iter().filter(|visit| visit.is_over).count() >= 3).await;
    feed.stop().await;
    for visit in visits.iter().filter(|visit| visit.is_over) {
        assert_eq!(visit.uri, "/deep/path?room=1&b=%20");
        let said: Vec<serde_json::Value> = visit.texts.iter().map(|text| serde_json::from_str(text).unwrap()).collect();
        assert_eq!(
            said,
            [serde_json::json!({"token": token}), serde_json::json!({"type": "subscribe", "skill": skill})]
        );
    }
}

#[tokio::test]
async fn without_token_and_skill_nothing_is_said() {
    let server = ScriptedFeed::start(vec![vec![Step::send(snapshot(1)), Step::close(1000)]]);
    let feed = RunningFeed::start(settings(server.url()));
    let visit = server.visited(1, "the answered close", |visit| visit.close_code.is_some()).await;
    assert!(visit.texts.is_empty(), "{visit:?}");
    feed.stop().await;
}

#[tokio::test]
async fn a_token_file_is_read_at_each_connect() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("token");
    let server = ScriptedFeed::start(vec![
        vec![Step::expect(|_| true), Step::close(4001)],
        vec![Step::expect(|text| text == r#"{"token":"new"}"#), Step::send(snapshot(1))],
    ]);
    let mut settings =
        FeedSettings { credentials: with_token(TokenSource::File(path.clone())), ..settings(server.url()) };
    settings.timing.refused_backoff_min = std::time::Duration::from_millis(500);
    settings.timing.refused_backoff_max = std::time::Duration::from_millis(500);

    let feed = RunningFeed::start(settings);
    let status = feed.ended(2).await.remove(1);
    assert_eq!(disconnect_reason(&status).code(), "token");
    assert!(matches!(status, FeedState::Waiting { .. }), "{status:?}");
    assert!(status.to_string().contains(path.to_str().unwrap()), "{status}");
    assert!(server.visits().is_empty());

    std::fs::write(&path, " \n").unwrap();
    feed.until("an empty file", |notes| format!("{:?}", notes.last()).contains("Empty")).await;
    replace(&path, "old\n");
    let refused = |status: &FeedState| disconnect_reason(status).code() == "4001";
    feed.until("a refusal", |notes| crate::support::recording_listener::ends(notes).iter().any(refused)).await;
    replace(&path, "new\n");
    feed.live().await;
    let visits = server.visits();
    assert_eq!(visits[0].texts, [r#"{"token":"old"}"#]);
    feed.stop().await;
}

/// At once, so that nobody reads half a token.
fn replace(path: &std::path::Path, text: &str) {
    let draft = path.with_extension("draft");
    std::fs::write(&draft, text).unwrap();
    std::fs::rename(&draft, path).unwrap();
}

#[tokio::test]
async fn a_quoted_token_is_blotted_out() {
    let token = "eyJhbGciOiJIUzI1NiJ9";
    let server = ScriptedFeed::start(vec![vec![Step::Close(4001, format!("bad token {token}\n"))]]);
    let feed = RunningFeed::start(FeedSettings {
        url: server.url().join("?key=query-secret").unwrap(),
        credentials: with_token(TokenSource::Static(Secret::new(token))),
        ..settings(server.url())
    });
    let status = feed.ended(1).await.remove(0);
    assert!(status.to_string().contains(r"bad token ***\n"), "{status}");
    let notes = format!("{:?}", feed.stop().await);
    assert!(!notes.contains(token) && !notes.contains("query-secret"), "{notes}");
}

#[tokio::test]
async fn a_refused_token_is_named_with_what_may_be_wrong_with_its_secret() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("secret");
    let server = ScriptedFeed::start(vec![vec![Step::close(4001)]]);
    for (secret, doubt) in [
        ("a secret", "check the secret and the clocks"),
        ("a secret\n", "its file ends in a line break"),
        ("\"a secret\"", "it is in quotes"),
        ("Bearer a.b.c", "it starts with \"Bearer \""),
    ] {
        fs::write(&file, secret).unwrap();
        let minting = Minting { secret: SecretSource::File(file.clone()), lifetime: TOKEN_LIFETIME };
        let credentials = with_token(TokenSource::Minted(minting));
        let feed = RunningFeed::start(FeedSettings { credentials, ..settings(server.url()) });
        let said = feed.ended(1).await.remove(0).to_string();
        assert!(said.contains(doubt) && !said.contains("a secret"), "{secret:?}: {said}");
        feed.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn check_says_that_a_token_was_refused_and_whether_one_is_configured() {
    let server = ScriptedFeed::start(vec![vec![Step::close(4001)]]);
    let url = server.url();
    let check = |environment: &[(&str, &str)]| {
        let ended = Program::start_in(environment, ["check", "--feed.url", url.as_str()]).end();
        assert_eq!(ended.code, Some(1));
        ended.printed()
    };
    let printed = check(&[]);
    assert!(printed.contains("authentication  rejected (4001); no token is configured"), "{printed}");
    let printed = check(&[("SESSION_BUDDY_BRIDGE_FEED_TOKEN", "hunter2")]);
    assert!(printed.contains("authentication  rejected (4001); check the token"), "{printed}");
}
