//! A WebSocket server and the bridge subscribed to it, in one program.
//!
//! ```text
//! cargo run --example embedded_bridge [-- --port 9093] [--seconds 30]
//! curl http://localhost:9093/metrics
//! ```
//!
//! The server here is the demo's; any other that speaks the protocol takes its place by its URL.

mod common;

use common::{Args, Outcome};
use prometheus::IntCounter;
use session_buddy_bridge::bridge::Bridge;
use session_buddy_bridge::demo::{DemoFeed, DemoSettings};
use session_buddy_bridge::http;
use session_buddy_bridge::settings::{FeedTarget, Settings};
use tokio_util::sync::CancellationToken;

#[tokio::main]
async fn main() -> Outcome {
    let mut args = Args::read()?;
    let server = DemoFeed::bind(DemoSettings::default()).await?;
    let bridge = Bridge::new(Settings::new(vec![FeedTarget::new(&server.url())?]))?;

    // Whatever the program registers is served beside the skills.
    let starts = IntCounter::new("example_starts_total", "How often this program was started")?;
    bridge.registry().register(Box::new(starts.clone()))?;
    starts.inc();

    let listener = http::bind(args.address(9093))?;
    println!("The server is at {}, the metrics at http://{}/metrics.", server.url(), listener.local_addr()?);
    println!("Ctrl-C ends both.");

    let (bridge_ends, server_ends) = (CancellationToken::new(), CancellationToken::new());
    let serving = tokio::spawn(server.serve(server_ends.clone()));
    let mut bridging = tokio::spawn(bridge.serve(vec![listener], bridge_ends.clone()));
    let ended_early = tokio::select! {
        ended = &mut bridging => Some(ended),
        () = args.end.wait() => None,
    };
    bridge_ends.cancel();
    match ended_early {
        Some(ended) => ended??,
        None => bridging.await??,
    }
    server_ends.cancel();
    serving.await?;
    Ok(())
}
