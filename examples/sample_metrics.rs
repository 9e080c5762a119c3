//! Sample metrics on port 9092: the exporter on its own, without any feed.
//!
//! ```text
//! cargo run --example sample_metrics [-- --port 9092] [--seconds 30]
//! curl http://localhost:9092/metrics
//! ```

mod common;

use clap::Parser;
use common::{EndFlags, Outcome, PortFlags, announce};
use session_buddy_bridge::PrometheusExporter;

/// Serves sample metrics: the exporter on its own, without a feed.
#[derive(Parser)]
struct Args {
    #[command(flatten)]
    port: PortFlags<9092>,
    #[command(flatten)]
    end: EndFlags,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Outcome {
    let args = Args::parse();
    let mut end = args.end.listen()?;
    let exporter = PrometheusExporter::at(args.port.address());
    exporter.start()?;

    for (skill_name, workflow_phase, completed, duration_seconds) in [
        ("pytest-run", Some("execution"), true, Some(45.2)),
        ("pytest-run", Some("execution"), true, Some(38.7)),
        ("pytest-run", Some("verification"), false, None),
        ("ruff-check", Some("setup"), true, Some(2.3)),
        ("ruff-check", Some("setup"), true, Some(1.9)),
        ("mypy-check", None, true, Some(12.5)),
    ] {
        exporter.record_invocation(skill_name, workflow_phase, completed, duration_seconds)?;
    }
    exporter.update_completion_rate("pytest-run", 0.92)?;
    exporter.update_completion_rate("ruff-check", 0.87)?;
    exporter.update_completion_rate("mypy-check", 0.95)?;
    exporter.record_anomaly("drop", "pytest-run")?;
    exporter.record_anomaly("spike", "ruff-check")?;
    exporter.update_active_sessions(3)?;

    let url = exporter.url().ok_or("the exporter ended")?;
    announce(format_args!("Six invocations of three skills, two anomalies, three sessions: {url}"));
    announce("Ctrl-C ends it.");
    end.wait().await;
    exporter.stop();
    Ok(())
}
