//! Whatever a server does, the feed is connected again and hears on.

use crate::support::recording_listener::{
    Note, RunningFeed, disconnect_reason, ends, retry_in, settings, snapshot, texts, timing,
};
use crate::support::scripted_feed::{Reserved, ScriptedFeed, Step};
use session_buddy_bridge::internals::feed::{DisconnectReason, FeedSettings, FeedState, Timing, TokenOrigin};
use std::time::Duration;

#[tokio::test]
async fn it_starts_before_the_server_does() {
    let reserved = Reserved::new();
    let feed = RunningFeed::start(settings(reserved.url()));
    let statuses = feed.ended(3).await;
    assert!(statuses.iter().all(|status| disconnect_reason(status).code() == "refused"), "{statuses:?}");

    let server = reserved.start(vec![vec![Step::send(snapshot(1))]]);
    feed.live().await;
    assert_eq!(server.visits().len(), 1);
    feed.stop().await;
}

#[tokio::test]
async fn every_fault_is_named_and_survived() {
    let faults = [
        ("handshake", vec![Step::Refuse]),
        ("handshake", vec![Step::Answer(b"220 mail.example ESMTP\r\n\r\n")]),
        ("handshake", vec![Step::Answer(b"HTTP/1.1 101 Switching Protocols\r\n\r\n")]),
        ("http_500", vec![Step::HttpStatus(500, vec![])]),
        ("1006", vec![Step::Drop]),
        ("1006", vec![Step::send(snapshot(1)), Step::Drop]),
        ("1006", vec![Step::CloseMidFrame]),
        ("1000", vec![Step::close(1000)]),
        ("1001", vec![Step::close(1001)]),
        ("1011", vec![Step::close(1011)]),
        ("1012", vec![Step::close(1012)]),
        ("1013", vec![Step::close(1013)]),
        ("1005", vec![Step::SendRaw(vec![0x88, 0])]),
        ("1002", vec![Step::close(1014)]),
        ("4xxx", vec![Step::close(4999)]),
        ("invalid_utf8", vec![Step::InvalidUtf8]),
        ("oversized", vec![Step::HugeFrame(100 * 1024 * 1024)]),
        ("oversized", vec![Step::SendRaw(fragments_over_the_limit())]),
        ("protocol", vec![Step::SendRaw(vec![0xff; 100])]),
        ("protocol", vec![Step::SendRaw(vec![0x80, 0])]),
    ];
    let codes: Vec<_> = faults.iter().map(|(code, _)| *code).collect();
    let mut scripts: Vec<_> = faults.into_iter().map(|(_, script)| script).collect();
    scripts.push(vec![Step::send(snapshot(2))]);
    let server = ScriptedFeed::start(scripts);

    let feed = RunningFeed::start(settings(server.url()));
    let notes = feed.until("the last snapshot", |notes| texts(notes).contains(&snapshot(2).as_str())).await;
    assert_eq!(ends(&notes).iter().map(|status| disconnect_reason(status).code()).collect::<Vec<_>>(), codes);
    feed.stop().await;
}

/// Five fragments of 300 KiB each, of a message that never ends.
fn fragments_over_the_limit() -> Vec<u8> {
    let size = 300 * 1024_u64;
    let fragment = |opcode| [&[opcode, 127][..], &size.to_be_bytes(), &vec![b'x'; size as usize]].concat();
    [fragment(0x01), fragment(0x00), fragment(0x00), fragment(0x00), fragment(0x00)].concat()
}

#[tokio::test]
async fn binary_frames_garbage_and_pings_do_not_end_the_connection() {
    let server = ScriptedFeed::start(vec![vec![
        Step::SendBinary(vec![0; 7]),
        Step::send("garbage"),
        Step::SendRaw(vec![0x01, 2, b'h', b'a']),
        Step::Ping("are you there".to_owned()),
        Step::SendRaw(vec![0x80, 2, b'l', b'f']),
        Step::Flood(20_000, r#"{"type":"connected"}"#.to_owned()),
        Step::send(snapshot(1)),
    ]]);
    let feed = RunningFeed::start(settings(server.url()));
    let notes = feed.until("the snapshot", |notes| texts(notes).contains(&snapshot(1).as_str())).await;
    assert!(notes.contains(&Note::Binary(7)));
    assert_eq!(texts(&notes)[..2], ["garbage", "half"]);
    assert_eq!(texts(&notes).len(), 2 + 20_000 + 1);

    server.visited(1, "the pong", |visit| visit.pongs == ["are you there"]).await;
    assert_eq!(server.visits().len(), 1);
    feed.stop().await;
}

#[tokio::test]
async fn a_peer_that_pings_and_never_reads_is_heard() {
    let script = vec![Step::IgnorePings, Step::PingFlood(200_000), Step::send(snapshot(1))];
    let server = ScriptedFeed::start(vec![script]);
    let feed = RunningFeed::start(settings(server.url()));
    feed.live().await;
    assert_eq!(server.visits().len(), 1);
    feed.stop().await;
}

#[tokio::test]
async fn a_close_frame_is_answered() {
    let server = ScriptedFeed::start(vec![vec![Step::Close(1001, "bye".to_owned())]]);
    let feed = RunningFeed::start(settings(server.url()));
    server.visited(1, "the client's close frame", |visit| visit.close_code == Some(1001)).await;
    let statuses = feed.ended(1).await;
    let token = TokenOrigin::NotConfigured;
    let expected = DisconnectReason::Closed { code: 1001, reason: "bye".to_owned(), token };
    assert_eq!(disconnect_reason(&statuses[0]), &expected);
    feed.stop().await;
}

/// The ceilings of six backoffs in a row: each is half used at least.
fn assert_grows(statuses: &[FeedState]) {
    for (status, ceiling_millis) in statuses.iter().zip([2, 4, 8, 16, 32, 64]) {
        let ceiling = Duration::from_millis(ceiling_millis);
        let retry_in = retry_in(status);
        assert!(retry_in >= ceiling / 2 && retry_in <= ceiling, "{retry_in:?} for {ceiling:?}");
    }
}

#[tokio::test]
async fn accepting_and_closing_is_not_a_recovery() {
    for script in [vec![Step::Drop], vec![Step::send(snapshot(1)), Step::Drop]] {
        let server = ScriptedFeed::start(vec![script]);
        let patient = Timing { backoff_max: Duration::from_secs(3600), ..timing() };
        let feed = RunningFeed::start(FeedSettings { timing: patient, ..settings(server.url()) });
        assert_grows(&feed.ended(6).await);
        feed.stop().await;
    }
}

#[tokio::test]
async fn a_healthy_spell_starts_the_backoff_over() {
    let server = ScriptedFeed::start(vec![vec![Step::send(snapshot(1)), Step::Drop]]);
    let timing = Timing { backoff_max: Duration::from_secs(3600), healthy_after: Duration::ZERO, ..timing() };
    let feed = RunningFeed::start(FeedSettings { timing, ..settings(server.url()) });
    let statuses = feed.ended(8).await;
    assert!(statuses.iter().all(|status| retry_in(status) <= Duration::from_millis(2)), "{statuses:?}");
    feed.stop().await;
}

#[tokio::test]
async fn a_name_is_resolved_and_all_its_addresses_are_tried() {
    // Where localhost is ::1 too, nothing listens there.
    let server = ScriptedFeed::start(vec![vec![Step::send(snapshot(1))]]);
    let mut named = settings(server.url());
    named.url.set_host(Some("localhost")).unwrap();
    let feed = RunningFeed::start(named);
    assert!(ends(&feed.live().await).is_empty());
    feed.stop().await;
}

#[tokio::test]
async fn a_name_without_an_address_is_named() {
    let mut nowhere = settings(Reserved::new().url());
    // No resolver is asked about a name with an empty label.
    nowhere.url.set_host(Some("no..where")).unwrap();
    let feed = RunningFeed::start(nowhere);
    let status = feed.ended(1).await.remove(0);
    assert_eq!(disconnect_reason(&status).code(), "dns");
    assert!(status.to_string().contains("no..where"), "{status}");
    feed.stop().await;
}
