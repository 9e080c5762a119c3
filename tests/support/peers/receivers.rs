//! Receivers of remote write: Prometheus and VictoriaMetrics, of the two Debian releases that `.ci/install-peers` unpacks.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Command;

use serde_json::Value;

use super::prometheus::Prometheus;
use super::{found_or_skip, peers_directory};
use crate::support::eventually;
use crate::support::http_client::try_get;
use crate::support::program::Program;

/// What receives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// It refuses samples before the newest of a series, and those of an hour before the newest of all.
    Prometheus,
    /// It accepts samples of the last week in any order.
    PrometheusWithWindow,
    /// It accepts everything.
    VictoriaMetrics,
}

/// A receiver that runs, its storage in a temporary directory.
pub struct Receiver {
    pub kind: Kind,
    pub release: &'static str,
    address: SocketAddr,
    _runs: Runs,
}

enum Runs {
    Prometheus(#[allow(dead_code, reason = "it runs as long as it is held")] Prometheus),
    VictoriaMetrics(#[allow(dead_code, reason = "it runs as long as it is held")] Program, tempfile::TempDir),
}

/// Where the programs of a Debian release are.
fn programs(release: &str) -> PathBuf {
    peers_directory().join("receivers").join(release).join("usr/bin")
}

/// Returns the address on 127.0.0.1 that a process listens on: that of its socket in the kernel's table.
fn listening_on(process: u32) -> Option<SocketAddr> {
    let links =
        std::fs::read_dir(format!("/proc/{process}/fd")).ok()?.flatten().filter_map(|fd| fd.path().read_link().ok());
    let links: Vec<String> = links.map(|link| link.to_string_lossy().into_owned()).collect();
    let table = std::fs::read_to_string(format!("/proc/{process}/net/tcp")).ok()?;
    let port = table.lines().skip(1).find_map(|line| {
        // Number, local address, remote address, state, of which 0A is LISTEN; the tenth is the inode.
        let fields: Vec<&str> = line.split_whitespace().collect();
        let is_its_own = fields[3] == "0A" && links.contains(&format!("socket:[{}]", fields[9]));
        is_its_own.then(|| u16::from_str_radix(fields[1].split_once(':')?.1, 16).ok()).flatten()
    })?;
    Some(SocketAddr::from(([127, 0, 0, 1], port)))
}

impl Receiver {
    /// Starts the three kinds, of each release.
    pub fn start_all_or_skip() -> Option<Vec<Self>> {
        let releases = ["bookworm", "trixie"];
        let missing = |release: &&str| !programs(release).join("victoria-metrics").is_file();
        let found = match releases.iter().find(|release| missing(release)) {
            Some(release) => Err(format!("no receivers in {}: run .ci/install-peers", programs(release).display())),
            None => Ok(()),
        };
        found_or_skip(found)?;
        let kinds = [Kind::Prometheus, Kind::PrometheusWithWindow, Kind::VictoriaMetrics];
        let all = releases.iter().flat_map(|release| kinds.map(|kind| Self::start(release, kind)));
        Some(all.collect())
    }

    fn start(release: &'static str, kind: Kind) -> Self {
        let programs = programs(release);
        if kind == Kind::VictoriaMetrics {
            return Self::start_victoria_metrics(release);
        }
        // It scrapes itself, so that its newest sample is of the present.
        let mut configuration =
            "scrape_configs:\n  - job_name: itself\n    scrape_interval: 1s\n    static_configs:\n      \
                                 - targets: [localhost]\n"
                .to_owned();
        if kind == Kind::PrometheusWithWindow {
            configuration.push_str("storage:\n  tsdb:\n    out_of_order_time_window: 7d\n");
        }
        let prometheus =
            Prometheus::start(&programs.join("prometheus"), &configuration, &["--web.enable-remote-write-receiver"]);
        Self { kind, release, address: prometheus.address, _runs: Runs::Prometheus(prometheus) }
    }

    fn start_victoria_metrics(release: &'static str) -> Self {
        let storage = tempfile::tempdir().expect("a temporary directory");
        let mut command = Command::new(programs(release).join("victoria-metrics"));
        command
            .arg(format!("-storageDataPath={}", storage.path().display()))
            .arg("-httpListenAddr=127.0.0.1:0")
            .args(["-search.latencyOffset=0s", "-retentionPeriod=90d", "-loggerLevel=WARN"]);
        let program = Program::spawn("VictoriaMetrics", &mut command);
        // It does not say which port it got, and a port that was free a moment ago can be another test's by now.
        let address = eventually("VictoriaMetrics to listen", || {
            listening_on(program.id()).ok_or_else(|| "it has no port yet".to_owned())
        });
        eventually("VictoriaMetrics to answer", || match try_get(address, "/health") {
            Ok(response) if response.status == 200 => Ok(()),
            Ok(response) => Err(response.text().to_owned()),
            Err(error) => Err(error.to_string()),
        });
        Self { kind: Kind::VictoriaMetrics, release, address, _runs: Runs::VictoriaMetrics(program, storage) }
    }

    pub fn url(&self) -> String {
        format!("http://{}/api/v1/write", self.address)
    }

    /// Returns its API, which any thread can ask.
    pub fn api(&self) -> Api {
        Api(self.address)
    }
}

/// The API of a receiver.
#[derive(Debug, Clone, Copy)]
pub struct Api(SocketAddr);

impl Api {
    /// Makes what VictoriaMetrics received visible to queries.
    pub fn flush(&self) {
        assert_eq!(try_get(self.0, "/internal/force_flush").expect("VictoriaMetrics answers").status, 200);
    }

    /// Evaluates PromQL at a time, in seconds since the Unix epoch: the labels and the value of each series.
    ///
    /// # Panics
    /// If the receiver refuses the query.
    pub fn query(&self, promql: &str, at_seconds: f64) -> Vec<(Value, f64)> {
        let mut query = url::form_urlencoded::Serializer::new(String::new());
        // What was just received is not in a cache.
        query.extend_pairs([("query", promql), ("time", &at_seconds.to_string()), ("nocache", "1")]);
        let response = try_get(self.0, &format!("/api/v1/query?{}", query.finish())).expect("the receiver answers");
        assert_eq!(response.status, 200, "{promql}: {}", response.text());
        let answer: Value = serde_json::from_slice(&response.body).expect("its answers are JSON");
        let results = answer["data"]["result"].as_array().expect("a vector").clone();
        let value = |result: &Value| result["value"][1].as_str().expect("a string").parse().expect("a value");
        results.iter().map(|result| (result["metric"].clone(), value(result))).collect()
    }
}
