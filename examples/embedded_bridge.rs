//! A WebSocket server and the bridge subscribed to it, in one program.
//!
//! ```text
//! cargo run --example embedded_bridge [-- --seconds 30]
//! curl http://localhost:9093/metrics
//! ```
//!
//! The server here is the demo's; any other that speaks the protocol takes its place by its URL.

mod common;

use std::net::Ipv4Addr;

use common::Outcome;
use session_buddy_bridge::bridge;
use session_buddy_bridge::demo::{DemoFeed, DemoSettings};
use session_buddy_bridge::settings::{FeedTarget, Settings};
use tokio_util::sync::CancellationToken;

#[tokio::main]
async fn main() -> Outcome {
    let (_, end) = common::args()?;
    let server = DemoFeed::bind(DemoSettings::default()).await?;
    let settings = Settings {
        listen: vec![(Ipv4Addr::LOCALHOST, 9093).into()],
        ..Settings::new(vec![FeedTarget::new(&server.url())?])
    };
    println!("The server is at {}, the metrics at http://localhost:9093/metrics. Ctrl-C ends both.", server.url());

    let shutdown = CancellationToken::new();
    let serving = tokio::spawn(server.serve(shutdown.clone()));
    let mut bridging = tokio::spawn(bridge::run(settings, shutdown.clone()));
    let ended_early = tokio::select! {
        ended = &mut bridging => Some(ended),
        () = end.wait() => None,
    };
    shutdown.cancel();
    serving.await?;
    match ended_early {
        Some(ended) => ended??,
        None => bridging.await??,
    }
    Ok(())
}
