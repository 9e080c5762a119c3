//! Where the real server asks for a token, the right one opens the feed, also on a reconnect after it has expired, and a
//! wrong one is named as the reason.

use std::fs;
use std::path::Path;
use std::time::Duration;

use crate::support::eventually;
use crate::support::peers::bridge::{Bridge, sums};
use crate::support::peers::session_buddy::{RealServer, SessionBuddy};
use crate::support::recording_listener::{Note, RunningFeed, disconnect_reason, ends, settings, with_token};
use session_buddy_bridge::internals::feed::{
    FeedSettings, FeedState, Minting, Secret, SecretSource, TOKEN_LIFETIME, TokenSource,
};
use tempfile::TempDir;
use url::Url;

const SECRET: &str = "a secret of more than thirty-two bytes";
const ANOTHER_SECRET: &str = "another secret of more than thirty-two bytes";

/// The server in its own process, which asks for tokens.
struct Guarded {
    session_buddy: SessionBuddy,
    directory: TempDir,
    port: u16,
    server: Option<RealServer>,
}

impl Guarded {
    fn start_or_skip(secret: &str) -> Option<Self> {
        let session_buddy = SessionBuddy::find_or_skip()?;
        let mut guarded = Self { session_buddy, directory: TempDir::new().unwrap(), port: 0, server: None };
        guarded.restart(secret);
        Some(guarded)
    }

    fn stop(&mut self) {
        self.server = None;
    }

    /// At the port that it had before.
    fn restart(&mut self, secret: &str) {
        self.stop();
        let environment = [("SESSION_BUDDY_AUTH_ENABLED", "true"), ("SESSION_BUDDY_JWT_SECRET", secret)];
        let server = self.session_buddy.serve(&self.directory.path().join("skills.db"), self.port, &environment);
        self.port = server.port;
        self.server = Some(server);
    }

    /// A feed beside the test, with this token.
    fn feed(&self, token: TokenSource) -> RunningFeed {
        let url = Url::parse(&format!("ws://127.0.0.1:{}", self.port)).unwrap();
        let mut settings = FeedSettings { credentials: with_token(token), ..settings(url) };
        // It knocks all the while that the server takes to start.
        for wait in [&mut settings.timing.backoff_max, &mut settings.timing.refused_backoff_max] {
            *wait = Duration::from_millis(100);
        }
        RunningFeed::start(settings)
    }
}

fn times_live(notes: &[Note]) -> usize {
    notes.iter().filter(|note| **note == Note::State(FeedState::Live)).count()
}

fn was_refused(notes: &[Note]) -> bool {
    ends(notes).iter().any(|status| disconnect_reason(status).code() == "4001")
}

/// At once, so that nobody reads half a file.
fn replace(file: &Path, text: &str) {
    let draft = file.with_extension("draft");
    fs::write(&draft, text).unwrap();
    fs::rename(&draft, file).unwrap();
}

#[test]
fn the_right_token_opens_the_feed() {
    let Some(guarded) = Guarded::start_or_skip(SECRET) else { return };
    let token = guarded.session_buddy.token(SECRET);
    let bridge = Bridge::start(guarded.port, &[("SESSION_BUDDY_BRIDGE_FEED_TOKEN", &token)]);
    eventually("readiness", || match bridge.get("/-/ready") {
        (200, _) => Ok(()),
        other => Err(format!("{other:?}")),
    });
    bridge.await_snapshots(1);
}

#[test]
fn a_wrong_token_or_secret_is_reported_as_refused() {
    let Some(guarded) = Guarded::start_or_skip(SECRET) else { return };
    let token = guarded.session_buddy.token(ANOTHER_SECRET);
    for (variable, wrong) in
        [("SESSION_BUDDY_BRIDGE_FEED_TOKEN", &*token), ("SESSION_BUDDY_BRIDGE_FEED_JWT_SECRET", ANOTHER_SECRET)]
    {
        let bridge = Bridge::start(guarded.port, &[(variable, wrong)]);
        let reason = eventually("the refusal", || match bridge.get("/-/ready") {
            (503, reason) if reason.contains("4001") => Ok(reason),
            other => Err(format!("{other:?}")),
        });
        assert!(reason.to_lowercase().contains("refused"), "{reason}");
        assert!(!reason.contains(wrong), "a token and a secret are secrets: {reason}");
    }
}

#[test]
fn the_secret_opens_the_feed_again_and_again() {
    let Some(mut guarded) = Guarded::start_or_skip(SECRET) else { return };
    let bridge = Bridge::start(guarded.port, &[("SESSION_BUDDY_BRIDGE_FEED_JWT_SECRET", SECRET)]);
    let connects = || sums(&bridge.scrape(), "session_buddy_bridge_feed_connects_total", []).values().sum::<f64>();
    bridge.await_snapshots(1);
    assert_eq!(connects(), 1.0);
    guarded.restart(SECRET);
    bridge.await_snapshots(1);
    assert!(connects() >= 2.0);
    let exposition = bridge.exposition();
    let refusals = exposition.lines().find(|line| line.contains("code=\"4001\"")).expect("it starts at 0");
    assert!(refusals.ends_with(" 0"), "{refusals}");
    assert!(!exposition.contains(SECRET) && !exposition.contains("eyJ"), "{exposition}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reconnect_long_after_the_last_token_expired_brings_a_new_one() {
    let Some(mut guarded) = Guarded::start_or_skip(SECRET) else { return };
    let secret = SecretSource::Static(Secret::new(SECRET));
    let lifetime = Duration::from_secs(2);
    let feed = guarded.feed(TokenSource::Minted(Minting { secret, lifetime }));
    feed.live().await;
    guarded.stop();
    // Nothing tells that a token has expired but the time.
    tokio::time::sleep(2 * lifetime).await;
    guarded.restart(SECRET);
    feed.until("a second life", |notes| times_live(notes) == 2).await;
    let notes = feed.stop().await;
    assert!(!was_refused(&notes), "{notes:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_secret_in_the_file_is_used_at_the_next_connect() {
    let Some(mut guarded) = Guarded::start_or_skip(SECRET) else { return };
    let file = guarded.directory.path().join("secret");
    replace(&file, &format!("{SECRET}\n"));
    let feed = guarded
        .feed(TokenSource::Minted(Minting { secret: SecretSource::File(file.clone()), lifetime: TOKEN_LIFETIME }));
    feed.live().await;
    guarded.restart(ANOTHER_SECRET);
    feed.until("a refusal", |notes| was_refused(notes)).await;
    replace(&file, ANOTHER_SECRET);
    feed.until("a second life", |notes| times_live(notes) == 2).await;
    feed.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_expired_token_in_the_file_is_refused_until_it_is_a_fresh_one() {
    let Some(mut guarded) = Guarded::start_or_skip(SECRET) else { return };
    let file = guarded.directory.path().join("token");
    replace(&file, &guarded.session_buddy.token(SECRET));
    let feed = guarded.feed(TokenSource::File(file.clone()));
    feed.live().await;
    replace(&file, &guarded.session_buddy.expired_token(SECRET));
    guarded.restart(SECRET);
    feed.until("a refusal", |notes| was_refused(notes)).await;
    replace(&file, &guarded.session_buddy.token(SECRET));
    feed.until("a second life", |notes| times_live(notes) == 2).await;
    feed.stop().await;
}
