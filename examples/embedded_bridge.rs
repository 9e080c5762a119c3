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
use session_buddy_bridge::internals::demo::{DemoFeed, DemoSettings};
use session_buddy_bridge::settings::FeedTarget;
use session_buddy_bridge::{Bridge, Settings};
use tokio_util::sync::CancellationToken;

#[tokio::main]
async fn main() -> Outcome {
    let mut args = Args::read()?;
    let server = DemoFeed::bind(DemoSettings::default()).await?;
    let mut settings = Settings::new(vec![FeedTarget::new(&server.url())?]);
    settings.listen = vec![args.address(9093)];
    let bridge = Bridge::bind(settings)?;

    // Whatever the program registers is served beside the skills.
    let starts = IntCounter::new("example_starts_total", "How often this program was started")?;
    bridge.registry().register(Box::new(starts.clone()))?;
    starts.inc();

    println!("The server is at {}, the metrics at http://{}/metrics.", server.url(), bridge.local_addrs()[0]);
    println!("Ctrl-C ends both.");

    let server_ends = CancellationToken::new();
    let serving = tokio::spawn(server.serve(server_ends.clone()));
    bridge.run(args.end.wait()).await?;
    server_ends.cancel();
    serving.await?;
    Ok(())
}
