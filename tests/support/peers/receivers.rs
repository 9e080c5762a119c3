//! Receivers of remote write: Prometheus and VictoriaMetrics, of the two Debian releases that `.ci/install-peers` unpacks.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use serde_json::Value;

use super::prometheus::Prometheus;
use super::{found_or_skip, peers_directory};
use crate::support::http_client::try_get;
use crate::support::program::Program;
use crate::support::push_senders::unix_millis;
use crate::support::web_site::WebSite;
use crate::support::{eventually, holds};

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
    Prometheus(Prometheus),
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

/// Returns where a program of VictoriaMetrics listens. It does not say which port it got, and a port that was free a moment ago
/// can be another test's by now.
fn await_port(program: &Program) -> SocketAddr {
    eventually("a program of VictoriaMetrics to listen", || {
        listening_on(program.id()).ok_or_else(|| "it has no port yet".to_owned())
    })
}

/// A Prometheus that takes remote write over TLS.
pub struct EncryptedPrometheus(Prometheus);

impl EncryptedPrometheus {
    /// Starts it with the site's web configuration file, which it reads again at each connection and request.
    pub fn start(release: &str, site: &WebSite) -> Self {
        let web_config = format!("--web.config.file={}", site.path().display());
        let arguments = ["--web.enable-remote-write-receiver", &web_config];
        Self(Prometheus::start(&programs(release).join("prometheus"), "scrape_configs: []", &arguments))
    }

    pub fn address(&self) -> SocketAddr {
        self.0.address
    }

    pub fn url(&self) -> String {
        format!("https://{}/api/v1/write", self.0.address)
    }
}

/// A vmauth that ends TLS, checks credentials, and passes requests on.
pub struct VmAuth {
    address: SocketAddr,
    _program: Program,
}

impl VmAuth {
    /// Starts it with the site's certificate, and `users` as `auth.yml` in its folder.
    pub fn start(release: &str, site: &WebSite, users: &str) -> Self {
        let file = |name: &str| site.folder.path().join(name).display().to_string();
        std::fs::write(file("auth.yml"), users).expect("the users can be written");
        let mut command = Command::new(programs(release).join("vmauth"));
        command
            .args(["-httpListenAddr=127.0.0.1:0", "-tls", "-loggerLevel=WARN"])
            .arg(format!("-tlsCertFile={}", file("server.pem")))
            .arg(format!("-tlsKeyFile={}", file("server.key")))
            .arg(format!("-auth.config={}", file("auth.yml")));
        let program = Program::spawn("vmauth", &mut command);
        Self { address: await_port(&program), _program: program }
    }

    pub fn url(&self) -> String {
        format!("https://{}/api/v1/write", self.address)
    }
}

/// The releases, if the programs of all are there; otherwise says why the test is skipped.
///
/// # Panics
/// If one is missing and peers are required.
pub fn releases_or_skip() -> Option<[&'static str; 2]> {
    let releases = ["bookworm", "trixie"];
    let missing = |release: &&str| !programs(release).join("victoria-metrics").is_file();
    found_or_skip(match releases.iter().find(|release| missing(release)) {
        Some(release) => Err(format!("no receivers in {}: run .ci/install-peers", programs(release).display())),
        None => Ok(releases),
    })
}

impl Receiver {
    /// Starts the three kinds, of each release.
    pub fn start_all_or_skip() -> Option<Vec<Self>> {
        let kinds = [Kind::Prometheus, Kind::PrometheusWithWindow, Kind::VictoriaMetrics];
        let all = releases_or_skip()?.into_iter().flat_map(|release| kinds.map(|kind| Self::start(release, kind)));
        Some(all.collect())
    }

    /// Starts one.
    pub fn start(release: &'static str, kind: Kind) -> Self {
        match kind {
            Kind::VictoriaMetrics => Self::start_victoria_metrics(release, None),
            _ => Self::start_prometheus(release, kind, tempfile::tempdir().expect("a temporary directory")),
        }
    }

    fn start_prometheus(release: &'static str, kind: Kind, storage: tempfile::TempDir) -> Self {
        // It scrapes itself, so that its newest sample is of the present.
        let mut configuration =
            "scrape_configs:\n  - job_name: itself\n    scrape_interval: 1s\n    static_configs:\n      \
                                 - targets: [localhost]\n"
                .to_owned();
        if kind == Kind::PrometheusWithWindow {
            configuration.push_str("storage:\n  tsdb:\n    out_of_order_time_window: 7d\n");
        }
        let program = programs(release).join("prometheus");
        let prometheus =
            Prometheus::start_on(&program, &configuration, &["--web.enable-remote-write-receiver"], storage);
        let started = Self { kind, release, address: prometheus.address, _runs: Runs::Prometheus(prometheus) };
        // Before its first sample it takes those of any time.
        eventually("Prometheus to scrape itself", || {
            let scraped = started.api().query("up", unix_millis() as f64 / 1e3);
            holds(!scraped.is_empty(), "no sample")
        });
        started
    }

    /// Kills a Prometheus with SIGKILL, and starts it again on its storage, at another address.
    ///
    /// # Panics
    /// If it is a VictoriaMetrics, which has what it answered for within the last seconds in memory only.
    pub fn kill_and_restart(self) -> Self {
        let Runs::Prometheus(prometheus) = self._runs else { panic!("{:?} would lose samples", self.kind) };
        Self::start_prometheus(self.release, self.kind, prometheus.kill())
    }

    /// Starts a VictoriaMetrics that keeps a sample of each series for an interval, and takes the replicas of a pair for one.
    pub fn start_deduplicating(release: &'static str, interval: Duration) -> Self {
        Self::start_victoria_metrics(release, Some(interval))
    }

    fn start_victoria_metrics(release: &'static str, deduplicates: Option<Duration>) -> Self {
        let storage = tempfile::tempdir().expect("a temporary directory");
        let mut command = Command::new(programs(release).join("victoria-metrics"));
        if let Some(interval) = deduplicates {
            let relabel = storage.path().join("relabel.yml");
            std::fs::write(&relabel, "- action: labeldrop\n  regex: __replica__\n").expect("a file");
            command.arg(format!("-dedup.minScrapeInterval={}ms", interval.as_millis()));
            command.arg(format!("-relabelConfig={}", relabel.display()));
        }
        command
            .arg(format!("-storageDataPath={}", storage.path().display()))
            .arg("-httpListenAddr=127.0.0.1:0")
            .args(["-search.latencyOffset=0s", "-retentionPeriod=90d", "-loggerLevel=WARN"]);
        let program = Program::spawn("VictoriaMetrics", &mut command);
        let address = await_port(&program);
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

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Returns the root of its URLs.
    pub fn root(&self) -> String {
        format!("http://{}", self.address)
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
        vector(&self.ask(promql, at_seconds))
    }

    /// Evaluates PromQL of a range: the labels of each series, and times with their values, times in milliseconds since the Unix
    /// epoch.
    ///
    /// # Panics
    /// If the receiver refuses the query.
    pub fn samples(&self, promql: &str, at_seconds: f64) -> Vec<(Value, Vec<(i64, f64)>)> {
        let sample =
            |(seconds, value): (f64, String)| ((seconds * 1e3).round() as i64, value.parse().expect("a value"));
        let series = results(&self.ask(promql, at_seconds)).into_iter().map(|mut result| {
            let samples: Vec<_> = serde_json::from_value(result["values"].take()).expect("a range");
            (result["metric"].take(), samples.into_iter().map(sample).collect())
        });
        series.collect()
    }

    fn ask(&self, promql: &str, at_seconds: f64) -> Vec<u8> {
        let mut query = url::form_urlencoded::Serializer::new(String::new());
        // What was just received is not in a cache.
        query.extend_pairs([("query", promql), ("time", &at_seconds.to_string()), ("nocache", "1")]);
        let response = try_get(self.0, &format!("/api/v1/query?{}", query.finish())).expect("the receiver answers");
        assert_eq!(response.status, 200, "{promql}: {}", response.text());
        response.body
    }
}

/// Reads an answer of the API that is a vector: the labels and the value of each series.
pub fn vector(body: &[u8]) -> Vec<(Value, f64)> {
    let value = |result: &Value| result["value"][1].as_str().expect("a string").parse().expect("a value");
    results(body).iter().map(|result| (result["metric"].clone(), value(result))).collect()
}

fn results(body: &[u8]) -> Vec<Value> {
    let mut answer: Value = serde_json::from_slice(body).expect("its answers are JSON");
    serde_json::from_value(answer["data"]["result"].take()).expect("a list of series")
}
