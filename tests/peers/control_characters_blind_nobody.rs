//! Whatever characters a feed sends, a real Prometheus reads the whole scrape, in both formats; session ids that could cost
//! somebody the scrape are no exemplars.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::thread;

use crate::support::peers::prometheus::{Prometheus, PrometheusTools};
use crate::support::running_bridge::RunningBridge;
use crate::support::scripted_feed::{ScriptedFeed, Step};
use crate::support::{eventually, holds, http_client};
use serde_json::json;
use session_buddy_bridge::Settings;
use session_buddy_bridge::settings::FeedTarget;

/// C0, DEL, some of C1, separators of lines, and what formats escape.
fn characters() -> impl Iterator<Item = char> {
    ('\0'..='\u{1f}').chain(['"', '\\', '\u{7f}', '\u{80}', '\u{85}', '\u{9f}', '\u{2028}', '\u{2029}', '\u{feff}'])
}

/// A server that streams an invocation for each character, which is in the session's id and in the labels.
fn server() -> ScriptedFeed {
    let invocation = |(index, character): (usize, char)| {
        let data = json!({
            "skill_name": format!("skill-{index}"), "workflow_phase": format!("phase{character}of"), "completed": true,
            "duration_seconds": 1.5, "session_id": format!("session{character}of"),
        });
        let anomaly = json!({"skill_name": format!("skill-{index}"), "anomaly_type": format!("{character}drop")});
        [("skill_invocation", data), ("anomaly", anomaly)]
    };
    let plain = json!({"skill_name": "plain", "completed": true, "duration_seconds": 1.5, "session_id": "plain"});
    let messages = characters().enumerate().flat_map(invocation).chain([("skill_invocation", plain)]);
    let steps = messages.map(|(kind, data)| Step::send(json!({"type": kind, "data": data}).to_string()));
    ScriptedFeed::start(vec![steps.collect()])
}

/// Serves the text format of the bridge at `address` to whatever asks.
fn text_only(address: SocketAddr) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let at = listener.local_addr().unwrap();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { return };
            let mut request = [0; 4096];
            if stream.read(&mut request).is_err() {
                continue;
            }
            // The bridge is gone once the test is over.
            let Ok(scraped) = http_client::try_get(address, "/metrics") else { return };
            let head = format!(
                "HTTP/1.1 200 OK\r\nContent-Type: text/plain; version=0.0.4; charset=utf-8\r\nContent-Length: {}\r\n\
                 Connection: close\r\n\r\n",
                scraped.body.len()
            );
            let _ = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(&scraped.body));
        }
    });
    at
}

fn await_scrapes(prometheus: &Prometheus) {
    eventually("a scrape of each format", || {
        let targets = &prometheus.api("targets?state=active")["activeTargets"];
        let targets: Vec<_> = targets.as_array().unwrap().iter().collect();
        let errors: Vec<_> = targets.iter().map(|target| target["lastError"].as_str().unwrap().to_owned()).collect();
        assert!(errors.iter().all(String::is_empty), "{errors:#?}");
        holds(targets.len() == 2 && targets.iter().all(|target| target["health"] == "up"), "not yet")
    });
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn prometheus_reads_every_series_whatever_characters_a_feed_sends() {
    let Some(tools) = PrometheusTools::find_or_skip() else { return };
    let server = server();
    let target = FeedTarget::new(server.url().as_str()).unwrap();
    let bridge = RunningBridge::start(Settings { with_created: true, ..Settings::new(vec![target]) });
    let all = characters().count() as f64;
    bridge
        .until("all to be counted", &(all + 1.0, all), |scrape| {
            (scrape.sum("skill_invocations_total"), scrape.sum("anomalies_detected_total"))
        })
        .await;
    let address = bridge.address();
    let look = move || {
        let open = http_client::get_openmetrics(address);
        let exemplars: Vec<&str> = open.text().split("# {session_id=\"").skip(1).collect();
        let sessions: Vec<&str> = exemplars.iter().map(|rest| rest.split("\"}").next().unwrap()).collect();
        assert!(sessions.contains(&"plain"), "{sessions:?}");
        let is_safe = |session: &&&str| !session.contains(char::is_control);
        assert_eq!(sessions.iter().filter(is_safe).count(), sessions.len(), "{sessions:?}");

        let targets = format!("targets: [\"{address}\", \"{}\"]", text_only(address));
        let job = "job_name: bridge\n    scrape_interval: 250ms\n    scrape_timeout: 250ms";
        let configuration = format!("scrape_configs:\n  - {job}\n    static_configs:\n      - {targets}\n");
        let prometheus = tools.start(&configuration);
        await_scrapes(&prometheus);
        let expected = [("skill_invocations_total", all + 1.0), ("anomalies_detected_total", all)];
        for (name, expected) in expected {
            eventually("all series of both", || {
                let sums = prometheus.query(&format!("sum by (instance) ({name})"), None);
                let values: Vec<f64> = sums.iter().map(|sum| sum.value()).collect();
                holds(values == [expected, expected], format!("{name}: {values:?} and not {expected}"))
            });
        }
    };
    tokio::task::spawn_blocking(look).await.unwrap();
    bridge.stop().await;
}
