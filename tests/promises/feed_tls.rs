//! `wss` is trusted as configured, or not at all.

use crate::support::recording_listener::{RunningFeed, disconnect_reason, settings, snapshot};
use crate::support::scripted_feed::{Reserved, ScriptedFeed, Step};
use session_buddy_bridge::internals::feed::FeedSettings;

fn trusting(server: &ScriptedFeed, trusted: &ScriptedFeed) -> FeedSettings {
    let mut settings = settings(server.url());
    settings.credentials.tls.ca = trusted.certificate.as_ref().map(|file| file.path().to_owned());
    settings
}

fn encrypted() -> ScriptedFeed {
    ScriptedFeed::start_tls(vec![vec![Step::send(snapshot(1))]])
}

#[tokio::test]
async fn a_trusted_server_is_heard_and_told_goodbye() {
    let server = encrypted();
    let feed = RunningFeed::start(trusting(&server, &server));
    feed.live().await;
    feed.stop().await;
    let visit = server.visited(1, "the end", |visit| visit.is_over).await;
    assert_eq!(visit.close_code, Some(1001));
}

#[tokio::test]
async fn another_root_or_another_name_or_the_systems_roots_do_not_do() {
    let server = encrypted();
    let stranger = encrypted();
    // Its certificate is for 127.0.0.1.
    let misnamed = Reserved::on([127, 0, 0, 2]).start_tls(vec![vec![Step::send(snapshot(1))]]);

    for settings in [trusting(&server, &stranger), trusting(&misnamed, &misnamed), settings(server.url())] {
        let feed = RunningFeed::start(settings);
        let statuses = feed.ended(2).await;
        assert!(statuses.iter().all(|status| disconnect_reason(status).code() == "tls"), "{statuses:?}");
        feed.stop().await;
    }
}

#[tokio::test]
async fn a_server_without_tls_is_not_heard_over_wss() {
    let plain = ScriptedFeed::start(vec![vec![Step::Answer(b"HTTP/1.1 400 Bad Request\r\n\r\n")]]);
    let trusted = encrypted();
    let mut settings = trusting(&plain, &trusted);
    settings.url.set_scheme("wss").unwrap();
    settings.timing.handshake_timeout = std::time::Duration::from_millis(200);
    let feed = RunningFeed::start(settings);
    feed.ended(1).await;
    assert!(!feed.notes().iter().any(|note| matches!(note, crate::support::recording_listener::Note::Opened)));
    feed.stop().await;
}
