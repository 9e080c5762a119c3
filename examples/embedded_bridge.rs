//! A WebSocket server and the bridge subscribed to it, in one program.
//!
//! ```text
//! cargo run --example embedded_bridge [-- --port 9093] [--seconds 30]
//! curl http://localhost:9093/metrics
//! ```
//!
//! The server here is the demo's; any other that speaks the protocol takes its place by its URL.

mod common;

use clap::Parser;
use common::{EndFlags, Outcome, PortFlags, announce};
use prometheus::IntCounter;
use session_buddy_bridge::internals::demo::{DemoFeed, DemoSettings};
use session_buddy_bridge::settings::FeedTarget;
use session_buddy_bridge::{Bridge, Settings};
use tokio_util::sync::CancellationToken;

/// Serves the metrics of a WebSocket server that runs in the same program.
#[derive(Parser)]
struct Args {
    #[command(flatten)]
    port: PortFlags<9093>,
    #[command(flatten)]
    end: EndFlags,
}

#[tokio::main]
async fn main() -> Outcome {
    let args = Args::parse();
    let mut end = args.end.listen()?;
    let server = DemoFeed::bind(DemoSettings::default()).await?;
    let mut settings = Settings::new(vec![FeedTarget::new(&server.url())?]);
    settings.listen = vec![args.port.address()];
    let bridge = Bridge::bind(settings)?;

    // Whatever the program registers is served beside the skills.
    let starts = IntCounter::new("example_starts_total", "How often this program was started")?;
    bridge.registry().register(Box::new(starts.clone()))?;
    starts.inc();

    let (server_url, address) = (server.url(), bridge.local_addrs()[0]);
    announce(format_args!("The server is at {server_url}, the metrics at http://{address}/metrics."));
    announce("Ctrl-C ends both.");

    let server_ends = CancellationToken::new();
    let serving = tokio::spawn(server.serve(server_ends.clone()));
    bridge.run(end.wait()).await?;
    server_ends.cancel();
    serving.await?;
    Ok(())
}
