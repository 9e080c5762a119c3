//! The compiled bridge as a process.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::process::Command;

use serde_json::Value;
use tempfile::TempDir;

use super::eventually;
use super::process::Process;
use crate::support::http_client;
use crate::support::scrape::Scrape;

/// A running bridge on one feed, at a free port of the loopback interface.
pub struct Bridge {
    /// Where it serves.
    pub address: SocketAddr,
    _process: Process,
    _state: TempDir,
}

impl Bridge {
    /// Starts it with a state of its own on the feed at 127.0.0.1 and `feed_port`, whether anything listens there or not.
    pub fn start(feed_port: u16, environment: &[(&str, &str)]) -> Self {
        let state = TempDir::new().expect("a temporary directory");
        let mut command = Command::new(env!("CARGO_BIN_EXE_session-buddy-bridge"));
        command
            .args(["--feed.url", &format!("ws://127.0.0.1:{feed_port}")])
            .args(["--web.listen-address", "127.0.0.1:0", "--log.format", "json"])
            .arg("--state.path")
            .arg(state.path().join("state.db"))
            .envs(environment.iter().copied());
        let mut process = Process::spawn("the bridge", &mut command);
        let address = process.await_line("its address", |line| {
            let line: Value = serde_json::from_str(line).ok()?;
            let fields = line.get("fields").unwrap_or(&line);
            (fields["message"] == "listening").then(|| fields["address"].as_str()?.parse().ok())?
        });
        Self { address, _process: process, _state: state }
    }

    /// Status and body of a GET.
    pub fn get(&self, path: &str) -> (u16, String) {
        let response = http_client::get(self.address, path);
        (response.status, response.text().to_owned())
    }

    /// What `/metrics` shows.
    pub fn exposition(&self) -> String {
        let (status, body) = self.get("/metrics");
        assert_eq!(status, 200, "GET /metrics: {body}");
        body
    }

    pub fn scrape(&self) -> Scrape {
        Scrape::fetch(self.address, "/metrics")
    }

    /// Scrapes until `look` is satisfied.
    pub fn scrape_until<T>(&self, awaited: &str, look: impl Fn(&Scrape) -> Result<T, String>) -> T {
        eventually(awaited, || look(&self.scrape()))
    }

    /// Returns once the feed has sent `more` further snapshots and the bridge has applied them.
    pub fn await_snapshots(&self, more: u32) {
        let snapshot = ["metrics_update".to_owned()];
        let heard = |scrape: &Scrape| sums(scrape, "session_buddy_bridge_feed_messages_total", ["type"])[&snapshot];
        let goal = heard(&self.scrape()) + f64::from(more);
        self.scrape_until("snapshots", |scrape| match heard(scrape) {
            enough if enough >= goal => Ok(()),
            few => Err(format!("{few} of {goal}")),
        });
    }
}

/// The sums of a family's series by the values of the labels `by`, in their order.
pub fn sums<const N: usize>(scrape: &Scrape, name: &str, by: [&str; N]) -> BTreeMap<[String; N], f64> {
    let mut sums = BTreeMap::new();
    for (labels, value) in scrape.series(name) {
        *sums.entry(by.map(|label| labels[label].clone())).or_default() += value;
    }
    sums
}
