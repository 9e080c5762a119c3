//! Where the real server asks for a token, the right one opens the feed and a wrong one is named as the reason.

mod support;

use support::peers::bridge::Bridge;
use support::peers::eventually;
use support::peers::session_buddy::SessionBuddy;
use tempfile::TempDir;

const SECRET: &str = "a secret of more than thirty-two bytes";
const AUTHENTICATED: [(&str, &str); 2] = [("SESSION_BUDDY_AUTH_ENABLED", "true"), ("SESSION_BUDDY_JWT_SECRET", SECRET)];

#[test]
fn the_right_token_opens_the_feed() {
    let Some(session_buddy) = SessionBuddy::find_or_skip() else { return };
    let directory = TempDir::new().unwrap();
    let server = session_buddy.serve(&directory.path().join("skills.db"), 0, &AUTHENTICATED);

    let token = session_buddy.token(SECRET);
    let bridge = Bridge::start(server.port, &[("SESSION_BUDDY_BRIDGE_FEED_TOKEN", &token)]);

    eventually("readiness", || match bridge.get("/-/ready") {
        (200, _) => Ok(()),
        other => Err(format!("{other:?}")),
    });
    bridge.await_snapshots(1);
}

#[test]
fn a_wrong_token_is_reported_as_refused() {
    let Some(session_buddy) = SessionBuddy::find_or_skip() else { return };
    let directory = TempDir::new().unwrap();
    let server = session_buddy.serve(&directory.path().join("skills.db"), 0, &AUTHENTICATED);

    let token = session_buddy.token("another secret of more than thirty-two bytes");
    let bridge = Bridge::start(server.port, &[("SESSION_BUDDY_BRIDGE_FEED_TOKEN", &token)]);

    let reason = eventually("the refusal", || match bridge.get("/-/ready") {
        (503, reason) if reason.contains("4001") => Ok(reason),
        other => Err(format!("{other:?}")),
    });
    assert!(reason.to_lowercase().contains("refused"), "{reason}");
    assert!(!reason.contains(&token), "a token is a secret: {reason}");
}
