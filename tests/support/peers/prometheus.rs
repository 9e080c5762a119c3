//! Prometheus and its tool.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{SystemTime, UNIX_EPOCH};

use rustix::process::Signal;
use serde_json::Value;

use super::{found_or_skip, peers_directory};
use crate::support::http_client::try_get;
use crate::support::program::{Ended, Program, run};

/// The two installed programs.
pub struct PrometheusTools {
    prometheus: PathBuf,
    promtool: PathBuf,
}

/// A running Prometheus, its storage in a temporary directory.
pub struct Prometheus {
    /// Where its API is.
    pub address: SocketAddr,
    program: Program,
    storage: tempfile::TempDir,
}

/// One series of an answer: its labels, and its samples as (seconds, value) in order of time.
#[derive(Debug, Clone, PartialEq)]
pub struct Series {
    pub labels: BTreeMap<String, String>,
    pub samples: Vec<(f64, f64)>,
}

impl PrometheusTools {
    pub fn find_or_skip() -> Option<Self> {
        let unpacked = peers_directory().join("prometheus/usr/bin");
        let path = std::env::var_os("PATH").unwrap_or_default();
        let find = |program: &str| {
            let candidates = std::env::split_paths(&path).chain([unpacked.clone()]);
            let missing = || format!("no {program} on PATH or in {}: run .ci/install-peers", unpacked.display());
            candidates.map(|directory| directory.join(program)).find(|file| file.is_file()).ok_or_else(missing)
        };
        let both = || Ok(Self { prometheus: find("prometheus")?, promtool: find("promtool")? });
        found_or_skip(both())
    }

    /// The paths of `prometheus` and `promtool`.
    pub fn programs(&self) -> [&Path; 2] {
        [&self.prometheus, &self.promtool]
    }

    /// Runs promtool.
    pub fn promtool<S: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = S>, input: &str) -> Ended {
        run(Command::new(&self.promtool).args(arguments), input)
    }

    /// What `promtool check metrics` finds in an exposition, a line each.
    pub fn findings(&self, exposition: &str) -> Vec<String> {
        self.promtool(["check", "metrics"], exposition).printed().lines().map(str::to_owned).collect()
    }

    /// Starts Prometheus on a configuration file of this text, with its own port taken from the free ones.
    pub fn start(&self, configuration: &str) -> Prometheus {
        Prometheus::start(&self.prometheus, configuration, &[])
    }

    /// Starts Prometheus on the storage of one that was stopped.
    pub fn restart(&self, configuration: &str, storage: tempfile::TempDir) -> Prometheus {
        Prometheus::start_on(&self.prometheus, configuration, &[], storage)
    }
}

impl Prometheus {
    /// Starts `prometheus` as [`PrometheusTools::start`] does, with further arguments.
    pub fn start(prometheus: &Path, configuration: &str, arguments: &[&str]) -> Self {
        Self::start_on(prometheus, configuration, arguments, tempfile::TempDir::new().expect("a temporary directory"))
    }

    pub(super) fn start_on(
        prometheus: &Path,
        configuration: &str,
        arguments: &[&str],
        storage: tempfile::TempDir,
    ) -> Self {
        let file = storage.path().join("prometheus.yml");
        std::fs::write(&file, configuration).expect("the configuration can be written");
        let mut command = Command::new(prometheus);
        command
            .arg(format!("--config.file={}", file.display()))
            .arg(format!("--storage.tsdb.path={}", storage.path().join("data").display()))
            .args(["--web.listen-address=127.0.0.1:0", "--log.format=json"])
            .args(arguments);
        let mut program = Program::spawn("Prometheus", &mut command);
        let address = program.until_line("its address", |line| {
            let line: Value = serde_json::from_str(line).ok()?;
            (line["msg"] == "Listening on").then(|| line["address"].as_str()?.parse().ok())?
        });
        program.until_line("readiness", |line| line.contains("ready to receive web requests").then_some(()));
        Self { address, program, storage }
    }

    /// Stops it in good order, and returns its storage, of which `data` are the blocks.
    pub fn stop(self) -> tempfile::TempDir {
        self.program.signal(Signal::TERM);
        let ended = self.program.end();
        assert!(ended.is_success(), "{}", ended.stderr);
        self.storage
    }

    /// Kills it with SIGKILL, and returns its storage.
    pub fn kill(self) -> tempfile::TempDir {
        drop(self.program);
        self.storage
    }

    /// Evaluates PromQL at a time, by default now. A scalar or an instant vector gives one sample a series.
    ///
    /// # Panics
    /// If Prometheus refuses the query.
    pub fn query(&self, promql: &str, at_seconds: Option<f64>) -> Vec<Series> {
        let mut query = url::form_urlencoded::Serializer::new(String::new());
        query.append_pair("query", promql);
        if let Some(at_seconds) = at_seconds {
            query.append_pair("time", &at_seconds.to_string());
        }
        let answer = self.api(&format!("query?{}", query.finish()));
        answer["result"].as_array().expect("a vector").iter().map(Series::from_json).collect()
    }

    /// Evaluates PromQL at each second of the last ten.
    ///
    /// # Panics
    /// If Prometheus refuses the query.
    pub fn query_range(&self, promql: &str) -> Vec<Series> {
        let end = SystemTime::now().duration_since(UNIX_EPOCH).expect("it is after 1970").as_secs();
        let (start, end) = ((end - 10).to_string(), end.to_string());
        let mut query = url::form_urlencoded::Serializer::new(String::new());
        query.extend_pairs([("query", promql), ("start", &start), ("end", &end), ("step", "1")]);
        let answer = self.api(&format!("query_range?{}", query.finish()));
        answer["result"].as_array().expect("a matrix").iter().map(Series::from_json).collect()
    }

    /// The data of an answer of its HTTP API.
    ///
    /// # Panics
    /// If it is an error.
    pub fn api(&self, path: &str) -> Value {
        let response = try_get(self.address, &format!("/api/v1/{path}")).expect("Prometheus answers");
        assert_eq!(response.status, 200, "{path}: {}", response.text());
        let mut answer: Value = serde_json::from_slice(&response.body).expect("its answers are JSON");
        answer["data"].take()
    }
}

impl Series {
    fn from_json(series: &Value) -> Self {
        let labels = series["metric"].as_object().expect("labels");
        let text = |value: &Value| value.as_str().expect("a string").to_owned();
        let sample = |pair: &Value| (pair[0].as_f64().expect("seconds"), text(&pair[1]).parse().expect("a value"));
        let samples = match &series["values"] {
            Value::Array(values) => values.iter().map(sample).collect(),
            _ => vec![sample(&series["value"])],
        };
        Self { labels: labels.iter().map(|(label, value)| (label.clone(), text(value))).collect(), samples }
    }

    /// The value of its last sample.
    pub fn value(&self) -> f64 {
        self.samples.last().expect("a series has a sample").1
    }
}
