//! Prints what a Session-Buddy server says, in words.
//!
//! ```text
//! cargo run --example print_feed [-- ws://localhost:8765] [--seconds 30]
//! ```

mod common;

use std::collections::HashMap;

use common::{Args, Outcome};
use futures::StreamExt;
use session_buddy_bridge::internals::protocol::{self, ConnectionMessage, Message, Number, Snapshot};
use tokio_tungstenite::connect_async;
use tokio_tungstenite::tungstenite::Message as Frame;

/// Prints what is new in a snapshot: the server repeats everything each second.
#[derive(Default)]
struct Printer {
    /// The totals of the last snapshot, ten at the most.
    totals: HashMap<String, f64>,
    /// The newest anomaly seen, as the server dates it.
    newest_anomaly: String,
}

impl Printer {
    fn print(&mut self, message: &Message) {
        match message {
            Message::Connection(ConnectionMessage::Connected { .. }) => println!("connected"),
            Message::Connection(other) => println!("{other:?}"),
            Message::Snapshot(snapshot) => self.print_snapshot(snapshot),
            Message::Event(event) => println!("event: {:?}", event.kind),
            Message::Unknown => println!("something that this version does not know"),
        }
    }

    fn print_snapshot(&mut self, snapshot: &Snapshot) {
        let before = std::mem::take(&mut self.totals);
        for skill in snapshot.skills.iter().flatten() {
            let Number::Finite(total) = skill.total_invocations else { continue };
            let name = skill.skill_name.as_ref();
            if before.get(name) != Some(&total) {
                let rate = in_words(skill.completion_rate_percent, " % completed");
                let average = in_words(skill.average_duration_seconds, " s on average");
                println!("{name}: {total} invocations, {rate}, {average}");
            }
            self.totals.insert(name.to_owned(), total);
        }
        let anomalies = || snapshot.anomalies.iter().flatten();
        let detected_at = |anomaly: &protocol::AnomalyEntry| anomaly.detected_at.as_deref().unwrap_or("").to_owned();
        for anomaly in anomalies().filter(|anomaly| detected_at(anomaly) > self.newest_anomaly) {
            println!("anomaly: {} of {} at {}", anomaly.anomaly_type, anomaly.skill_name, detected_at(anomaly));
        }
        self.newest_anomaly = anomalies().map(detected_at).max().unwrap_or_default().max(self.newest_anomaly.clone());
    }
}

fn in_words(number: Number, unit: &str) -> String {
    match number {
        Number::Finite(value) => format!("{value:.1}{unit}"),
        Number::Missing => format!("-{unit}"),
        Number::Invalid => format!("?{unit}"),
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Outcome {
    let mut args = Args::read()?;
    let url = args.word.as_deref().unwrap_or("ws://localhost:8765");
    let print_all = async {
        let (mut socket, _) = connect_async(url).await.map_err(|error| format!("{url}: {error}"))?;
        let mut printer = Printer::default();
        while let Some(frame) = socket.next().await {
            let Frame::Text(text) = frame? else { continue };
            protocol::read(&text, &protocol::Limits::default(), &mut |item| match item {
                Ok(message) => printer.print(&message),
                Err(rejection) => println!("not understood: {}", rejection.detail),
            });
        }
        println!("the server is gone");
        Ok(())
    };
    tokio::select! {
        outcome = print_all => outcome,
        () = args.end.wait() => Ok(()),
    }
}
