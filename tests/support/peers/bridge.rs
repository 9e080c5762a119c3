//! The compiled bridge as a process.

use std::net::SocketAddr;
use std::process::Command;

use serde_json::Value;

use super::{Process, Samples, eventually, http_get};

/// A running bridge on one feed, at a free port of the loopback interface.
pub struct Bridge {
    /// Where it serves.
    pub address: SocketAddr,
    _process: Process,
}

impl Bridge {
    /// Starts it on the feed at 127.0.0.1 and `feed_port`, whether anything listens there or not.
    pub fn start(feed_port: u16, environment: &[(&str, &str)]) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_session-buddy-bridge"));
        command
            .args(["--feed.url", &format!("ws://127.0.0.1:{feed_port}")])
            .args(["--web.listen-address", "127.0.0.1:0", "--log.format", "json"])
            .envs(environment.iter().copied());
        let mut process = Process::spawn("the bridge", &mut command);
        let address = process.await_line("its address", |line| {
            let line: Value = serde_json::from_str(line).ok()?;
            let fields = line.get("fields").unwrap_or(&line);
            (fields["message"] == "listening").then(|| fields["address"].as_str()?.parse().ok())?
        });
        Self { address, _process: process }
    }

    pub fn get(&self, path: &str) -> (u16, String) {
        http_get(self.address, path).expect("the bridge answers")
    }

    /// What `/metrics` shows.
    pub fn exposition(&self) -> String {
        let (status, body) = self.get("/metrics");
        assert_eq!(status, 200, "GET /metrics: {body}");
        body
    }

    pub fn scrape(&self) -> Samples {
        Samples::parse(&self.exposition())
    }

    /// Scrapes until `look` is satisfied.
    pub fn scrape_until<T>(&self, awaited: &str, look: impl Fn(&Samples) -> Result<T, String>) -> T {
        eventually(awaited, || look(&self.scrape()))
    }

    /// Returns once the feed has sent `more` further snapshots and the bridge has applied them.
    pub fn await_snapshots(&self, more: u32) {
        let heard =
            |samples: &Samples| samples.sum("session_buddy_bridge_feed_messages_total", &[("type", "metrics_update")]);
        let goal = heard(&self.scrape()) + f64::from(more);
        self.scrape_until("snapshots", |samples| match heard(samples) {
            enough if enough >= goal => Ok(()),
            few => Err(format!("{few} of {goal}")),
        });
    }
}
