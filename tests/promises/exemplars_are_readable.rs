//! A session id that could cost somebody the whole scrape is no exemplar; its invocation is counted all the same.

use crate::support::http_client;
use crate::support::running_bridge::RunningBridge;
use crate::support::scripted_feed::{ScriptedFeed, Step};
use serde_json::json;
use session_buddy_bridge::Settings;
use session_buddy_bridge::settings::FeedTarget;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_id_with_a_control_character_or_a_quote_is_left_out() {
    let unreadable: Vec<char> = ('\0'..='\u{1f}').chain('\u{7f}'..='\u{9f}').chain(['"']).collect();
    let readable = ['a', ' ', 'é', '\u{2028}', '\u{1f980}'];
    let event = |(index, character): (usize, &char)| {
        let data = json!({
            "skill_name": format!("skill-{index}"), "workflow_phase": "execution", "completed": true,
            "duration_seconds": 1.5, "session_id": format!("before{character}behind"),
        });
        Step::send(json!({"type": "skill_invocation", "data": data}).to_string())
    };
    let steps = unreadable.iter().chain(&readable).enumerate().map(event).collect();
    let server = ScriptedFeed::start(vec![steps]);
    let bridge = RunningBridge::start(Settings::new(vec![FeedTarget::new(server.url().as_str()).unwrap()]));
    let all = (unreadable.len() + readable.len()) as f64;
    bridge.until("every invocation", &all, |scrape| scrape.sum("skill_invocations_total")).await;

    let address = bridge.address();
    let open = tokio::task::spawn_blocking(move || http_client::get_openmetrics(address)).await.unwrap();
    let exemplars = open.text().split(" # {session_id=\"").skip(1);
    let mut sessions: Vec<&str> = exemplars.map(|rest| rest.split_once("\"} ").unwrap().0).collect();
    sessions.sort_unstable();
    // Each is one of the counter and one of the histogram.
    let mut expected: Vec<String> =
        readable.iter().flat_map(|character| vec![format!("before{character}behind"); 2]).collect();
    expected.sort_unstable();
    assert_eq!(sessions, expected);
    let text = bridge.get("/metrics").await;
    assert!(!text.text().contains("session_id"), "the text format has no exemplars");
    bridge.stop().await;
}
