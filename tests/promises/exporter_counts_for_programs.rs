//! `PrometheusExporter`, the front door for programs that record skills themselves.

use std::collections::HashMap;
use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Barrier, Mutex};
use std::thread;

use crate::support::alone::alone;
use crate::support::http_client::Connection;
use crate::support::scrape::Scrape;
use crate::support::{PATIENCE, port_9090};
use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;
use prometheus::{Counter, Gauge, IntCounter, IntCounterVec, Opts};
use session_buddy_bridge::{BindError, PrometheusExporter, RecordError, RejectionReason, StartError};

fn loopback() -> SocketAddr {
    "127.0.0.1:0".parse().unwrap()
}

fn started() -> PrometheusExporter {
    let exporter = PrometheusExporter::at(loopback());
    exporter.start().unwrap();
    exporter
}

fn scrape(exporter: &PrometheusExporter) -> Scrape {
    Scrape::fetch(exporter.local_addr().expect("it runs"), "/metrics")
}

fn invocations(scrape: &Scrape, skill: &str, phase: &str, completed: &str) -> Option<f64> {
    let labels = [("skill_name", skill), ("workflow_phase", phase), ("completed", completed)];
    scrape.value("skill_invocations_total", &labels)
}

#[test]
fn port_0_is_one_that_is_free() {
    let exporter = PrometheusExporter::new(0);
    assert!(!exporter.is_running());
    assert_eq!(exporter.url(), None);
    exporter.start().unwrap();
    let address = exporter.local_addr().unwrap();
    assert!(address.ip().is_loopback() && address.port() != 0, "{address}");
}

/// An address below the ports that systems give out, so that nobody else takes it while nobody listens there.
fn reserved() -> SocketAddr {
    let first = std::process::id() as u16 % 5_000;
    let ports = (first..5_000).chain(0..first).map(|port| 20_000 + port);
    let mut addresses = ports.map(|port| SocketAddr::from(([127, 0, 0, 1], port)));
    addresses.find(|address| TcpListener::bind(address).is_ok()).expect("one of 5,000 ports is free")
}

#[test]
fn a_start_that_races_a_stop_never_finds_its_own_address_in_use() {
    // A program that another test starts would hold the port from its fork to its exec.
    alone(|| {
        let exporter = PrometheusExporter::at(reserved());
        for attempt in 0..200 {
            exporter.start().unwrap_or_else(|error| panic!("attempt {attempt}: {error}"));
            let barrier = Barrier::new(2);
            thread::scope(|scope| {
                scope.spawn(|| {
                    barrier.wait();
                    exporter.stop();
                });
                barrier.wait();
                // Whether this comes before the stop or after it, or meets it half way, it does not fail.
                exporter.start().unwrap_or_else(|error| panic!("attempt {attempt}: {error}"));
            });
            exporter.stop();
            assert!(!exporter.is_running());
        }
    });
}

#[test]
fn starting_again_changes_nothing() {
    let exporter = started();
    let address = exporter.local_addr().unwrap();
    assert!(address.ip().is_loopback() && address.port() != 0);
    assert_eq!(exporter.url(), Some(format!("http://{address}/metrics")));
    exporter.start().unwrap();
    assert_eq!(exporter.local_addr(), Some(address));
    assert!(exporter.is_running());
}

#[test]
fn an_address_in_use_is_said_and_leaves_it_not_running() {
    let taken = TcpListener::bind(loopback()).unwrap();
    let address = taken.local_addr().unwrap();
    let exporter = PrometheusExporter::at(address);
    let refusal = exporter.start().unwrap_err();
    assert!(matches!(refusal, StartError::Bind(BindError::InUse { address: named }) if named == address));
    let said = refusal.to_string();
    assert!(said.contains(&format!("{address}: the address is in use")) && !said.contains("Prometheus"), "{said}");
    assert!(!exporter.is_running());
    assert_eq!(exporter.local_addr(), None);

    drop(taken);
    exporter.start().unwrap();
    assert_eq!(exporter.local_addr(), Some(address));
}

#[test]
fn port_9090_in_use_is_perhaps_prometheus() {
    port_9090::occupy();
    let said = PrometheusExporter::new(9090).start().unwrap_err().to_string();
    assert!(said.contains("127.0.0.1:9090") && said.contains("Prometheus's own default port"), "{said}");
}

#[test]
fn nobody_listens_once_it_is_stopped_or_dropped() {
    let refused = |address| TcpStream::connect(address).map_err(|error| error.kind()).unwrap_err();
    let exporter = started();
    let address = exporter.local_addr().unwrap();
    exporter.stop();
    assert!(!exporter.is_running());
    assert_eq!(exporter.url(), None);
    assert_eq!(refused(address), io::ErrorKind::ConnectionRefused);
    exporter.stop();

    exporter.start().unwrap();
    let address = exporter.local_addr().unwrap();
    drop(exporter);
    assert_eq!(refused(address), io::ErrorKind::ConnectionRefused);
}

/// A collector that hangs until its sender is gone.
struct Hanging {
    desc: Desc,
    collecting: Mutex<Sender<()>>,
    released: Mutex<Receiver<()>>,
}

impl Collector for Hanging {
    fn desc(&self) -> Vec<&Desc> {
        vec![&self.desc]
    }

    fn collect(&self) -> Vec<MetricFamily> {
        self.collecting.lock().unwrap().send(()).unwrap();
        let _ = self.released.lock().unwrap().recv();
        Vec::new()
    }
}

#[test]
fn a_collector_that_hangs_does_not_hang_the_stop() {
    let exporter = started();
    let ((begin, begun), (release, released)) = (channel(), channel());
    let desc = Desc::new("hanging".to_owned(), "Hangs.".to_owned(), Vec::new(), HashMap::new()).unwrap();
    let (collecting, released) = (Mutex::new(begin), Mutex::new(released));
    exporter.registry().register(Box::new(Hanging { desc, collecting, released })).unwrap();
    let mut scraper = Connection::open(exporter.local_addr().unwrap());
    scraper.send(b"GET /metrics HTTP/1.1\r\nHost: test\r\n\r\n");
    begun.recv_timeout(PATIENCE).expect("a scrape");

    let (end, ended) = channel();
    thread::spawn(move || {
        exporter.stop();
        end.send(exporter.is_running()).unwrap();
    });
    assert_eq!(ended.recv_timeout(PATIENCE), Ok(false));
    drop(release);
}

#[test]
fn a_restart_keeps_the_counts() {
    let exporter = started();
    exporter.record_invocation("pytest-run", None, true, Some(0.3)).unwrap();
    exporter.stop();
    exporter.record_invocation("pytest-run", None, true, Some(0.3)).unwrap();
    exporter.start().unwrap();
    assert_eq!(invocations(&scrape(&exporter), "pytest-run", "unknown", "true"), Some(2.0));
}

#[test]
fn what_is_recorded_is_shown() {
    let exporter = started();
    let before = scrape(&exporter);
    for (name, kind) in [
        ("skill_invocations_total", "counter"),
        ("skill_duration_seconds", "histogram"),
        ("skill_completion_rate", "gauge"),
        ("active_sessions_total", "gauge"),
        ("anomalies_detected_total", "counter"),
    ] {
        assert_eq!(before.families[name].kind, kind);
    }
    assert_eq!(before.value("active_sessions_total", &[]), Some(0.0));

    exporter.record_invocation("pytest-run", Some("execution"), true, Some(0.5)).unwrap();
    exporter.record_invocation("pytest-run", Some("execution"), false, Some(400.0)).unwrap();
    exporter.record_invocation("pytest-run", Some(""), false, None).unwrap();
    exporter.update_completion_rate("pytest-run", 0.25).unwrap();
    exporter.record_anomaly("drop", "pytest-run").unwrap();
    exporter.record_anomaly("drop", "pytest-run").unwrap();
    exporter.update_active_sessions(5).unwrap();

    let scrape = scrape(&exporter);
    for (phase, completed, count) in
        [("execution", "true", 1.0), ("execution", "false", 1.0), ("unknown", "true", 0.0), ("unknown", "false", 1.0)]
    {
        assert_eq!(invocations(&scrape, "pytest-run", phase, completed), Some(count), "{phase} {completed}");
    }
    let duration = |suffix: &str, le: &[(&'static str, &'static str)]| {
        let labels = [&[("skill_name", "pytest-run"), ("workflow_phase", "execution")], le].concat();
        scrape.value(&format!("skill_duration_seconds{suffix}"), &labels)
    };
    assert_eq!(duration("_sum", &[]), Some(400.5));
    assert_eq!(duration("_count", &[]), Some(2.0));
    for (le, count) in [("0.1", 0.0), ("0.5", 1.0), ("1.0", 1.0), ("300.0", 1.0), ("+Inf", 2.0)] {
        assert_eq!(duration("_bucket", &[("le", le)]), Some(count), "{le}");
    }
    assert_eq!(scrape.value("skill_completion_rate", &[("skill_name", "pytest-run")]), Some(0.25));
    let anomaly = [("anomaly_type", "drop"), ("skill_name", "pytest-run")];
    assert_eq!(scrape.value("anomalies_detected_total", &anomaly), Some(2.0));
    assert_eq!(scrape.value("active_sessions_total", &[]), Some(5.0));
}

#[test]
fn a_value_that_is_none_is_named_and_not_recorded() {
    let exporter = started();
    let before = families_of_skills(&exporter);
    let mut refusals = Vec::new();
    for duration in [f64::NAN, f64::INFINITY, -0.5] {
        refusals.push((exporter.record_invocation("x", None, true, Some(duration)), duration.to_string()));
    }
    for rate in [f64::NAN, f64::INFINITY, -0.1, 1.01, 96.875] {
        refusals.push((exporter.update_completion_rate("x", rate), rate.to_string()));
    }
    refusals.push((exporter.update_active_sessions(-1), "-1".to_owned()));
    refusals.push((exporter.record_invocation("", None, true, None), "skill_name".to_owned()));
    refusals.push((exporter.update_completion_rate("", 0.5), "skill_name".to_owned()));
    refusals.push((exporter.record_anomaly("", "x"), "anomaly_type".to_owned()));
    refusals.push((exporter.record_anomaly("drop", ""), "skill_name".to_owned()));
    let too_long = "x".repeat(257);
    refusals.push((exporter.record_invocation(&too_long, None, true, None), "longer than 256".to_owned()));
    refusals.push((exporter.record_invocation("x", Some(&too_long), true, None), "longer than 256".to_owned()));
    refusals.push((exporter.record_anomaly(&too_long, "x"), "longer than 256".to_owned()));
    refusals.push((exporter.record_invocation("__overflow__", None, true, None), "__overflow__".to_owned()));
    for (refusal, named) in refusals {
        let said = refusal.expect_err(&named).to_string();
        assert!(said.contains(&named), "{named:?} is not in {said:?}");
    }
    assert_eq!(families_of_skills(&exporter), before);

    assert_eq!(exporter.update_completion_rate("x", 1.5), Err(RecordError::Rate(1.5)));
    let reason = |refusal: Result<(), RecordError>| match refusal {
        Err(RecordError::Rejected(rejection)) => Some(rejection.reason),
        _ => None,
    };
    assert_eq!(reason(exporter.record_anomaly(&too_long, "x")), Some(RejectionReason::LabelTooLong));
    assert_eq!(reason(exporter.record_anomaly("drop", "__overflow__")), Some(RejectionReason::ReservedName));
    for rate in [0.0, 1.0, -0.0] {
        exporter.update_completion_rate("x", rate).unwrap();
    }
    exporter.record_invocation("x", None, true, Some(0.0)).unwrap();
    exporter.update_active_sessions(0).unwrap();
}

/// Everything but the numbers of the process, which move by themselves.
fn families_of_skills(exporter: &PrometheusExporter) -> Scrape {
    let mut scrape = scrape(exporter);
    scrape.samples.retain(|series, _| !series.name.starts_with("process_"));
    scrape
}

#[test]
fn many_threads_lose_nothing() {
    const THREADS: usize = 8;
    const EACH: usize = 1000;
    let exporter = started();
    thread::scope(|scope| {
        for thread in 0..THREADS {
            let exporter = &exporter;
            scope.spawn(move || {
                let own = format!("skill-{thread}");
                for _ in 0..EACH {
                    exporter.record_invocation("shared", Some("execution"), true, Some(0.25)).unwrap();
                    exporter.record_invocation(&own, None, false, None).unwrap();
                    exporter.record_anomaly("spike", "shared").unwrap();
                }
            });
        }
        scope.spawn(|| {
            // Scrapes take what changed; nothing may fall between two of them.
            let mut last = 0.0;
            while last < (THREADS * EACH) as f64 {
                let now = invocations(&scrape(&exporter), "shared", "execution", "true").unwrap_or(0.0);
                assert!(now >= last, "a counter fell from {last} to {now}");
                last = now;
            }
        });
    });
    let scrape = scrape(&exporter);
    let all = (THREADS * EACH) as f64;
    assert_eq!(invocations(&scrape, "shared", "execution", "true"), Some(all));
    for thread in 0..THREADS {
        assert_eq!(invocations(&scrape, &format!("skill-{thread}"), "unknown", "false"), Some(EACH as f64));
    }
    let shared = [("skill_name", "shared"), ("workflow_phase", "execution")];
    assert_eq!(scrape.value("skill_duration_seconds_count", &shared), Some(all));
    assert_eq!(scrape.value("skill_duration_seconds_sum", &shared), Some(all * 0.25));
    assert_eq!(scrape.sum("anomalies_detected_total"), all);
}

#[test]
fn a_program_s_own_metric_stands_beside_the_families() {
    let exporter = started();
    let own = IntCounterVec::new(Opts::new("own_total", "A program's own"), &["kind"]).unwrap();
    exporter.registry().register(Box::new(own.clone())).unwrap();
    own.with_label_values(&["a \"b\"\n"]).inc_by(7);
    let scrape = scrape(&exporter);
    assert_eq!(scrape.value("own_total", &[("kind", "a \"b\"\n")]), Some(7.0));
    assert_eq!(scrape.families["own_total"].help, "A program's own");
    assert!(scrape.families.contains_key("skill_invocations_total"));
}

#[test]
fn a_metric_that_collides_with_the_families_is_refused() {
    let exporter = started();
    let refused = |collector: Box<dyn Collector>| {
        let name = collector.desc()[0].fq_name.clone();
        assert!(exporter.registry().register(collector).is_err(), "{name} was taken");
    };
    for name in [
        "skill_invocations_total",
        "skill_duration_seconds",
        "skill_duration_seconds_bucket",
        "skill_duration_seconds_sum",
        "skill_duration_seconds_count",
        "skill_completion_rate",
        "active_sessions_total",
        "anomalies_detected_total",
        "process_cpu_seconds_total",
    ] {
        refused(Box::new(IntCounter::new(name, "Mine").unwrap()));
        let labelled = Opts::new(name, "Mine").const_label("mine", "yes");
        refused(Box::new(Gauge::with_opts(labelled).unwrap()));
    }
    let same_labels = ["skill_name", "workflow_phase", "completed"];
    let same_help = Opts::new("skill_invocations_total", "Total number of skill invocations");
    refused(Box::new(IntCounterVec::new(same_help, &same_labels).unwrap()));
    refused(Box::new(Counter::new("active_sessions_total", "Number of currently active sessions").unwrap()));
    scrape(&exporter);
}

#[test]
fn two_exporters_share_nothing() {
    let (one, other) = (started(), started());
    one.record_invocation("pytest-run", None, true, None).unwrap();
    one.update_active_sessions(2).unwrap();
    other.record_invocation("ruff-check", None, true, None).unwrap();
    let (one, other) = (scrape(&one), scrape(&other));
    assert_eq!(invocations(&one, "pytest-run", "unknown", "true"), Some(1.0));
    assert_eq!(invocations(&one, "ruff-check", "unknown", "true"), None);
    assert_eq!(invocations(&other, "pytest-run", "unknown", "true"), None);
    assert_eq!(one.value("active_sessions_total", &[]), Some(2.0));
    assert_eq!(other.value("active_sessions_total", &[]), Some(0.0));
}

#[test]
fn labels_that_read_the_same_in_a_row_stay_apart() {
    let exporter = started();
    for (skill, phase, times) in [("ab", "c", 1), ("a", "bc", 2), ("abc", "", 3)] {
        for _ in 0..times {
            exporter.record_invocation(skill, Some(phase), true, Some(1.0)).unwrap();
            exporter.record_anomaly(skill, if phase.is_empty() { "z" } else { phase }).unwrap();
        }
    }
    let scrape = scrape(&exporter);
    for (skill, phase, times) in [("ab", "c", 1.0), ("a", "bc", 2.0), ("abc", "unknown", 3.0)] {
        assert_eq!(invocations(&scrape, skill, phase, "true"), Some(times), "{skill} {phase}");
        let labels = [("skill_name", skill), ("workflow_phase", phase)];
        assert_eq!(scrape.value("skill_duration_seconds_count", &labels), Some(times), "{skill} {phase}");
    }
    for (kind, skill, times) in [("ab", "c", 1.0), ("a", "bc", 2.0), ("abc", "z", 3.0)] {
        let labels = [("anomaly_type", kind), ("skill_name", skill)];
        assert_eq!(scrape.value("anomalies_detected_total", &labels), Some(times), "{kind} {skill}");
    }
}
