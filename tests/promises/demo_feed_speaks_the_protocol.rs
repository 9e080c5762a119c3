//! The simulated feed behaves like the real server, as far as a client can tell.

use std::time::Duration;

use crate::support::{PATIENCE, eventually_async};
use futures::{SinkExt, StreamExt};
use serde_json::{Value, json};
use session_buddy_bridge::internals::demo::{DemoFeed, DemoSettings};
use session_buddy_bridge::internals::protocol;
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async};
use tokio_util::sync::CancellationToken;

struct Demo {
    url: String,
    shutdown: CancellationToken,
    serving: JoinHandle<()>,
}

impl Demo {
    async fn start(settings: DemoSettings) -> Self {
        let feed = DemoFeed::bind(DemoSettings { interval: Duration::from_millis(20), ..settings }).await.unwrap();
        let shutdown = CancellationToken::new();
        Self { url: feed.url(), serving: tokio::spawn(feed.serve(shutdown.clone())), shutdown }
    }

    async fn stop(self) {
        self.shutdown.cancel();
        timeout(PATIENCE, self.serving).await.expect("ends soon").unwrap();
    }
}

struct Client(WebSocketStream<MaybeTlsStream<TcpStream>>);

impl Client {
    /// Connects and hears the server's first word.
    async fn connect(url: &str) -> Self {
        let mut client = Self(connect_async(url).await.unwrap().0);
        let first = client.next_text().await;
        assert_eq!(first["type"], "connected");
        assert_eq!(first["authenticated"], false);
        assert_eq!(first["message"], "Connected to Session-Buddy real-time metrics");
        client
    }

    async fn next(&mut self) -> Option<Message> {
        timeout(PATIENCE, self.0.next()).await.expect("the server speaks").transpose().unwrap()
    }

    async fn next_text(&mut self) -> Value {
        match self.next().await {
            Some(Message::Text(text)) => {
                protocol::read(&text, &protocol::Limits::default(), &mut |item| {
                    assert!(!matches!(item, Ok(protocol::Message::Unknown) | Err(_)), "{item:?} from {text}");
                });
                serde_json::from_str(&text).unwrap()
            }
            other => panic!("{other:?}"),
        }
    }

    async fn next_of(&mut self, kind: &str) -> Value {
        loop {
            let message = self.next_text().await;
            if message["type"] == kind {
                return message;
            }
        }
    }

    async fn say(&mut self, message: Value) {
        self.0.send(Message::text(message.to_string())).await.unwrap();
    }
}

fn totals(snapshot: &Value) -> Vec<(String, u64)> {
    let skills = snapshot["data"]["top_skills"].as_array().unwrap();
    let total = |skill: &Value| {
        (skill["skill_name"].as_str().unwrap().to_owned(), skill["total_invocations"].as_u64().unwrap())
    };
    skills.iter().map(total).collect()
}

#[tokio::test]
async fn snapshots_are_cumulative_ranked_and_the_same_for_all() {
    let demo = Demo::start(DemoSettings { invocations_per_second: 500.0, ..DemoSettings::default() }).await;
    let (mut one, mut other) = (Client::connect(&demo.url).await, Client::connect(&demo.url).await);

    let first = one.next_of("metrics_update").await;
    let before = totals(&first);
    assert_eq!(before.len(), 10);
    assert!(before.is_sorted_by(|a, b| a.1 >= b.1), "{before:?}");
    assert!(first["timestamp"].as_str().unwrap().ends_with("+00:00"));
    let anomalies = first["data"]["anomalies"].as_array().unwrap();
    assert_eq!(anomalies.len(), 10);
    assert!(anomalies.is_sorted_by(|a, b| a["detected_at"].as_str() >= b["detected_at"].as_str()), "{anomalies:?}");

    let timestamp = |snapshot: &Value| snapshot["timestamp"].as_str().unwrap().to_owned();
    let mut heard = Vec::new();
    for _ in 0..20 {
        heard.push(one.next_of("metrics_update").await);
    }
    for pair in heard.windows(2) {
        assert!(totals(&pair[0])[0].1 <= totals(&pair[1])[0].1);
        assert!(timestamp(&pair[0]) < timestamp(&pair[1]));
    }
    assert!(before[0].1 < totals(heard.last().unwrap())[0].1, "things happen");
    let same_round = loop {
        let snapshot = other.next_of("metrics_update").await;
        if heard.iter().any(|seen| timestamp(seen) == timestamp(&snapshot)) {
            break snapshot;
        }
    };
    assert!(heard.contains(&same_round), "one round, one text");
    demo.stop().await;
}

#[tokio::test]
async fn requests_are_answered_as_the_server_answers_them() {
    let demo = Demo::start(DemoSettings::default()).await;
    let mut client = Client::connect(&demo.url).await;

    client.say(json!({"type": "ping"})).await;
    assert_eq!(client.next_of("pong").await, json!({"type": "pong"}));

    client.say(json!({"type": "subscribe", "skill": "pytest-run"})).await;
    assert_eq!(client.next_of("subscription_confirmed").await["skill"], "pytest-run");
    for _ in 0..3 {
        let snapshot = client.next_text().await;
        assert_eq!(totals(&snapshot).len(), 1);
        assert_eq!(snapshot["data"]["top_skills"][0]["skill_name"], "pytest-run");
        assert_eq!(snapshot["data"]["anomalies"], json!([]));
    }

    client.say(json!({"type": "subscribe", "skill": "no-such-skill é"})).await;
    assert_eq!(client.next_of("subscription_confirmed").await["skill"], "no-such-skill é");
    for unknown in [json!({"type": "get_metrics"}), json!([1]), json!("text"), json!({"type": 7})] {
        client.say(unknown).await;
    }
    client.0.send(Message::text("{no json")).await.unwrap();
    client.say(json!({"type": "ping"})).await;
    assert_eq!(client.next_text().await["type"], "pong", "silence about a skill that is not listed");

    client.say(json!({"type": "unsubscribe"})).await;
    assert_eq!(totals(&client.next_of("metrics_update").await).len(), 10);
    client.say(json!({"type": "subscribe", "skill": null})).await;
    assert_eq!(client.next_of("subscription_confirmed").await["skill"], Value::Null);

    client.0.send(Message::Ping("payload".into())).await.unwrap();
    loop {
        match client.next().await {
            Some(Message::Pong(payload)) => break assert_eq!(payload, "payload"),
            Some(Message::Text(_)) => {}
            other => panic!("{other:?}"),
        }
    }
    demo.stop().await;
}

#[tokio::test]
async fn the_end_is_said_to_every_client() {
    let demo = Demo::start(DemoSettings::default()).await;
    let mut client = Client::connect(&demo.url).await;
    let _never_shakes_hands =
        TcpStream::connect(demo.url.trim_start_matches("ws://").trim_end_matches('/')).await.unwrap();
    demo.shutdown.cancel();
    let code = loop {
        match client.next().await {
            Some(Message::Close(frame)) => break frame.unwrap().code,
            Some(Message::Text(_)) => {}
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(code, CloseCode::Away);
    demo.stop().await;
}

#[tokio::test]
async fn a_client_too_many_is_dropped_and_a_place_that_is_free_is_given_again() {
    let demo = Demo::start(DemoSettings { clients_max: 1, ..DemoSettings::default() }).await;
    let mut client = Client::connect(&demo.url).await;
    connect_async(&demo.url).await.expect_err("there is room for one");
    client.next_of("metrics_update").await;
    client.0.close(None).await.unwrap();
    while timeout(PATIENCE, client.0.next()).await.unwrap().is_some_and(|message| message.is_ok()) {}
    let again = async || connect_async(&demo.url).await.map(drop).map_err(|error| error.to_string());
    eventually_async("the place to be given again", again).await;
    demo.stop().await;
}
