//! The compiled bridge as a process.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use tempfile::TempDir;

use crate::support::program::Program;
use crate::support::scrape::Scrape;
use crate::support::{eventually, holds, http_client};

/// A running bridge on one feed, at a free port of the loopback interface.
pub struct Bridge {
    /// Where it serves.
    pub address: SocketAddr,
    _program: Program,
    _state: TempDir,
}

impl Bridge {
    /// Starts it with a state of its own on the feed at 127.0.0.1 and `feed_port`, whether anything listens there or not.
    pub fn start(feed_port: u16, environment: &[(&str, &str)]) -> Self {
        let state = TempDir::new().expect("a temporary directory");
        let (feed, path) = (format!("ws://127.0.0.1:{feed_port}"), state.path().join("state.db"));
        let path = path.to_str().expect("a temporary directory has a name in UTF-8");
        let arguments = ["--feed.url", &feed, "--web.listen-address", "127.0.0.1:0", "--state.path", path];
        let mut program = Program::start_in(environment, arguments);
        Self { address: program.address(), _program: program, _state: state }
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
        self.scrape_until("snapshots", |scrape| holds(heard(scrape) >= goal, format!("{} of {goal}", heard(scrape))));
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
