//! Ceilings: programs that do what cannot be left out, and nothing else. Each is this very program, started as another
//! process, so that it has a core of its own as the bridge has.

use std::borrow::Cow;
use std::fs;
use std::hint::black_box;
use std::net::SocketAddr;

use bytes::Bytes;
use futures::StreamExt as _;
use serde::Deserialize;
use tokio_tungstenite::connect_async;
use tokio_tungstenite::tungstenite::Message;
use warp::Filter as _;

/// The argument that makes this program a ceiling.
pub const CHILD: &str = "--child";

/// `drop URL`, `parse URL`, or `static ADDRESS FILE`.
pub fn run(arguments: &[String]) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    match arguments {
        [kind, url] if kind == "drop" => runtime.block_on(read(url, |text| {
            black_box(text.len());
        })),
        [kind, url] if kind == "parse" => runtime.block_on(read(url, |text| {
            black_box(parse(text));
        })),
        [kind, address, file] if kind == "static" => runtime.block_on(serve(address, file)),
        other => panic!("no such ceiling: {other:?}"),
    }
}

async fn read(url: &str, each: impl Fn(&str)) {
    let (mut socket, _) = connect_async(url).await.expect("a feed");
    while let Some(Ok(message)) = socket.next().await {
        if let Message::Text(text) = message {
            each(&text);
        }
    }
}

async fn serve(address: &str, file: &str) {
    let body = Bytes::from(fs::read(file).expect("a body"));
    let address: SocketAddr = address.parse().expect("an address");
    let route = warp::path!("metrics")
        .map(move || warp::http::Response::new(warp::reply::Response::new(body.clone().into()).into_body()));
    warp::serve(route).run(address).await;
}

/// A frame as the fastest typed parse reads it: adjacently tagged, strings borrowed.
#[allow(dead_code, reason = "parsing them is the work")]
#[derive(Debug, Deserialize)]
#[serde(tag = "type", content = "data", rename_all = "snake_case")]
enum Typed<'a> {
    Connected,
    SkillInvocation {
        #[serde(borrow)]
        skill_name: Cow<'a, str>,
        #[serde(borrow)]
        workflow_phase: Option<Cow<'a, str>>,
        completed: bool,
        duration_seconds: Option<f64>,
        #[serde(borrow)]
        session_id: Option<Cow<'a, str>>,
    },
    MetricsUpdate {
        #[serde(borrow)]
        top_skills: Vec<Skill<'a>>,
        #[serde(borrow)]
        anomalies: Vec<Anomaly<'a>>,
    },
}

#[allow(dead_code, reason = "parsing them is the work")]
#[derive(Debug, Deserialize)]
struct Skill<'a> {
    #[serde(borrow)]
    skill_name: Cow<'a, str>,
    total_invocations: u64,
    completion_rate: f64,
    avg_duration_seconds: Option<f64>,
}

#[allow(dead_code, reason = "parsing them is the work")]
#[derive(Debug, Deserialize)]
struct Anomaly<'a> {
    #[serde(borrow)]
    skill_name: Cow<'a, str>,
    #[serde(borrow)]
    anomaly_type: Cow<'a, str>,
    #[serde(borrow)]
    detected_at: Option<Cow<'a, str>>,
    deviation_score: Option<f64>,
}

fn parse(text: &str) -> usize {
    if text.starts_with('[') {
        serde_json::from_str::<Vec<Typed<'_>>>(text).map_or(0, |messages| black_box(messages).len())
    } else {
        usize::from(serde_json::from_str::<Typed<'_>>(text).is_ok_and(|message| {
            black_box(message);
            true
        }))
    }
}
