//! Prints what a Session-Buddy server sends.
//!
//! ```text
//! cargo run --example print_feed [-- ws://localhost:8765] [--seconds 30]
//! ```

mod common;

use std::collections::HashMap;
use std::io;
use std::time::Duration;

use clap::Parser;
use common::{EndFlags, Outcome, print, unless_broken_pipe};
use futures::StreamExt;
use session_buddy_bridge::internals::protocol::{self, ConnectionMessage, Message, Number, Snapshot};
use tokio_tungstenite::connect_async;
use tokio_tungstenite::tungstenite::Message as Frame;

/// Prints what a Session-Buddy server sends.
#[derive(Parser)]
struct Args {
    /// WebSocket URL of the server
    #[arg(default_value = "ws://localhost:8765")]
    url: String,
    #[command(flatten)]
    end: EndFlags,
}

/// Prints what is new in a snapshot: the server repeats everything each second.
#[derive(Default)]
struct Printer {
    /// The totals of the last snapshot, ten at the most.
    totals: HashMap<String, f64>,
    /// The newest anomaly seen, as the server dates it.
    newest_anomaly: String,
}

impl Printer {
    fn print(&mut self, message: &Message) -> io::Result<()> {
        match message {
            Message::Connection(ConnectionMessage::Connected { .. }) => print("connected"),
            Message::Connection(other) => print(format_args!("{other:?}")),
            Message::Snapshot(snapshot) => self.print_snapshot(snapshot),
            Message::Event(event) => print(format_args!("event: {:?}", event.kind)),
            Message::Unknown => print("unknown message"),
        }
    }

    fn print_snapshot(&mut self, snapshot: &Snapshot) -> io::Result<()> {
        let before = std::mem::take(&mut self.totals);
        for skill in snapshot.skills.iter().flatten() {
            let Number::Finite(total) = skill.total_invocations else { continue };
            let name = skill.skill_name.as_ref();
            if before.get(name) != Some(&total) {
                let rate = with_unit(skill.completion_rate_percent, " % completed");
                let average = with_unit(skill.average_duration_seconds, " s on average");
                print(format_args!("{name}: {total} invocations, {rate}, {average}"))?;
            }
            self.totals.insert(name.to_owned(), total);
        }
        let anomalies = || snapshot.anomalies.iter().flatten();
        let detected_at = |anomaly: &protocol::AnomalyEntry| anomaly.detected_at.as_deref().unwrap_or("").to_owned();
        for anomaly in anomalies().filter(|anomaly| detected_at(anomaly) > self.newest_anomaly) {
            let (kind, skill_name) = (&anomaly.anomaly_type, &anomaly.skill_name);
            print(format_args!("anomaly: {kind} of {skill_name} at {}", detected_at(anomaly)))?;
        }
        self.newest_anomaly = anomalies().map(detected_at).max().unwrap_or_default().max(self.newest_anomaly.clone());
        Ok(())
    }
}

fn with_unit(number: Number, unit: &str) -> String {
    match number {
        Number::Finite(value) => format!("{value:.1}{unit}"),
        Number::Missing => format!("-{unit}"),
        Number::Invalid => format!("?{unit}"),
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Outcome {
    let Args { url, end } = Args::parse();
    // Ctrl-C ends it as it ends any program, even while nobody reads what it prints.
    match tokio::time::timeout(end.seconds.unwrap_or(Duration::MAX), print_feed(&url)).await {
        Ok(outcome) => outcome,
        Err(_time_is_over) => Ok(()),
    }
}

async fn print_feed(url: &str) -> Outcome {
    let (mut socket, _) = connect_async(url).await.map_err(|error| format!("{url}: {error}"))?;
    let mut printer = Printer::default();
    while let Some(frame) = socket.next().await {
        let Frame::Text(text) = frame? else { continue };
        let mut printed = Ok(());
        protocol::read(&text, &protocol::Limits::default(), &mut |item| {
            let print_item = || match item {
                Ok(message) => printer.print(&message),
                Err(rejection) => print(format_args!("rejected: {}", rejection.detail)),
            };
            if printed.is_ok() {
                printed = print_item();
            }
        });
        if printed.is_err() {
            return Ok(unless_broken_pipe(printed)?);
        }
    }
    Ok(unless_broken_pipe(print("the server closed the connection"))?)
}
