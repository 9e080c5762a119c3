//! A whole bridge beside the test, looked at over HTTP alone.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use session_buddy_bridge::{Bridge, BridgeError, Settings};
use tokio::task::{JoinHandle, spawn_blocking};
use tokio_util::sync::CancellationToken;

use super::http_client::{self, Response};
use super::scrape::{Scrape, Series};
use super::{Polling, equal, patiently};

/// The families that the feed is translated into.
pub const FAMILIES: [&str; 5] = [
    "skill_invocations_total",
    "skill_duration_seconds",
    "skill_completion_rate",
    "active_sessions_total",
    "anomalies_detected_total",
];

pub struct RunningBridge {
    address: SocketAddr,
    shutdown: CancellationToken,
    task: JoinHandle<Result<(), BridgeError>>,
}

impl RunningBridge {
    pub fn start(settings: Settings) -> Self {
        let listen = vec![SocketAddr::from(([127, 0, 0, 1], 0))];
        let bridge =
            Bridge::bind(Settings { listen, ..settings }).expect("a free port, and a state file that is usable");
        let address = bridge.local_addrs()[0];
        let shutdown = CancellationToken::new();
        let task = tokio::spawn(bridge.run(shutdown.clone().cancelled_owned()));
        Self { address, shutdown, task }
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    pub async fn get(&self, path: &str) -> Response {
        let (address, path) = (self.address, path.to_owned());
        spawn_blocking(move || http_client::get(address, &path)).await.unwrap()
    }

    pub async fn scrape(&self) -> Scrape {
        let address = self.address;
        spawn_blocking(move || Scrape::fetch(address, "/metrics")).await.unwrap()
    }

    /// Scrapes until the view of it is `expected`, or fails and shows how they differ.
    pub async fn until<T: PartialEq + std::fmt::Debug>(&self, what: &str, expected: &T, view: impl Fn(&Scrape) -> T) {
        let mut polling = Polling::of(what);
        while let Err(instead) = equal(&view(&self.scrape().await), expected) {
            tokio::time::sleep(polling.pause(&instead)).await;
        }
    }

    /// Asks whether it is ready until the answer is as described, and returns it.
    pub async fn until_ready(&self, what: &str, condition: impl Fn(&Response) -> bool) -> Response {
        let mut polling = Polling::of(what);
        loop {
            let answer = self.get("/-/ready").await;
            if condition(&answer) {
                return answer;
            }
            tokio::time::sleep(polling.pause(&format!("{} {}", answer.status, answer.text()))).await;
        }
    }

    pub async fn stop(self) {
        self.shutdown.cancel();
        patiently("the bridge to stop", self.task).await.unwrap().unwrap();
    }
}

/// Every series of the five families. Sums of durations are rounded to the microsecond: what is derived from an average
/// is exact to some 2^-50 only.
pub fn families(scrape: &Scrape) -> BTreeMap<Series, f64> {
    let of_a_family = |name: &str| FAMILIES.iter().any(|family| name.starts_with(family));
    let rounded = |(series, value): (&Series, &f64)| {
        let micros = if series.name.ends_with("_sum") { (value * 1e6).round() / 1e6 } else { *value };
        (series.clone(), micros)
    };
    scrape.samples.iter().filter(|(series, _)| of_a_family(&series.name)).map(rounded).collect()
}

/// What a family of the bridge's own counts, by one of its labels; nothing that is zero.
pub fn counted(scrape: &Scrape, name: &str, label: &str) -> BTreeMap<String, u64> {
    let series = scrape.series(&format!("session_buddy_bridge_{name}"));
    let nonzero = series.into_iter().filter(|(_, value)| *value != 0.0);
    let mut counted = BTreeMap::new();
    for (labels, value) in nonzero {
        *counted.entry(labels[label].clone()).or_default() += value as u64;
    }
    counted
}
