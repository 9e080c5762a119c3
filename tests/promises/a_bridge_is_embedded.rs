//! What a program that embeds a bridge relies on.

use std::error::Error;
use std::future::pending;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use prometheus::IntCounter;
use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;
use session_buddy_bridge::settings::{FeedTarget, Limits, SettingsError, StateLocation, TelemetryPathError};
use session_buddy_bridge::{Bridge, BridgeError, PersistError, PrometheusExporter, Settings, StoreError};
use tokio::sync::oneshot;
use tokio::task::spawn_blocking;

use crate::support::http_client::{Connection, get};
use crate::support::scrape::Scrape;
use crate::support::{eventually, patiently};

fn settings(state: StateLocation) -> Settings {
    Settings { listen: vec![SocketAddr::from(([127, 0, 0, 1], 0)); 2], state, ..Settings::new(Vec::new()) }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_listens_once_it_is_bound_and_runs_until_a_future_completes() {
    let bridge = Bridge::bind(settings(StateLocation::InMemory)).unwrap();
    let [one, other] = bridge.local_addrs() else { panic!("two addresses were given: {:?}", bridge.local_addrs()) };
    let (one, other) = (*one, *other);
    assert!(one.port() != 0 && other.port() != 0 && one != other, "{one} {other}");
    let (stop, stopped) = oneshot::channel::<()>();
    let running = tokio::spawn(bridge.run(async { stopped.await.unwrap() }));
    for address in [one, other] {
        let answer = spawn_blocking(move || get(address, "/-/ready")).await.unwrap();
        assert_eq!((answer.status, answer.text()), (200, "Ready: no feeds are configured.\n"));
    }
    stop.send(()).unwrap();
    patiently("the bridge to end", running).await.unwrap().unwrap();
}

/// Panics when it is collected for the first time.
struct Panicking {
    collector: IntCounter,
    has_panicked: AtomicBool,
}

impl Collector for Panicking {
    fn desc(&self) -> Vec<&Desc> {
        self.collector.desc()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        assert!(self.has_panicked.swap(true, Ordering::SeqCst), "the first scrape fails");
        self.collector.collect()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_registered_collector_that_panics_fails_its_scrape_alone() {
    let bridge = Bridge::bind(settings(StateLocation::InMemory)).unwrap();
    let address = bridge.local_addrs()[0];
    let collector = IntCounter::new("embedder_total", "Number of things.").unwrap();
    bridge.registry().register(Box::new(Panicking { collector, has_panicked: AtomicBool::new(false) })).unwrap();
    let (stop, stopped) = oneshot::channel::<()>();
    let running = tokio::spawn(bridge.run(async { stopped.await.unwrap() }));
    let scrape = || async move { spawn_blocking(move || get(address, "/metrics")).await.unwrap() };
    let failed = scrape().await;
    assert_eq!((failed.status, failed.text()), (500, "The metrics could not be written. See the log.\n"));
    let scrape = Scrape::parse(scrape().await.text()).unwrap();
    assert_eq!(scrape.value("embedder_total", &[]), Some(0.0));
    assert_eq!(
        scrape.value("session_buddy_bridge_http_requests_total", &[("path", "/metrics"), ("code", "500")]),
        Some(1.0)
    );
    stop.send(()).unwrap();
    patiently("the bridge to end", running).await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_that_is_dropped_releases_its_addresses_and_its_state() {
    let folder = tempfile::tempdir().unwrap();
    let state = StateLocation::Path(folder.path().join("state.db"));
    let bridge = Bridge::bind(settings(state.clone())).unwrap();
    let listen = bridge.local_addrs().to_vec();
    let address = listen[0];
    let running = tokio::spawn(bridge.run(pending()));
    let answer = spawn_blocking(move || get(address, "/-/healthy")).await.unwrap();
    assert_eq!(answer.status, 200);

    running.abort();
    assert!(patiently("the end of the task", running).await.unwrap_err().is_cancelled());
    let again = Settings { listen, ..settings(state) };
    let bind = move || {
        eventually("the state to be released", || match Bridge::bind(again.clone()) {
            Ok(bridge) => Ok(bridge.local_addrs().to_vec()),
            Err(
                error @ (BridgeError::Listen(_) | BridgeError::State(PersistError::Store(StoreError::InUse { .. }))),
            ) => Err(error.to_string()),
            Err(error) => panic!("{error}"),
        })
    };
    assert_eq!(spawn_blocking(bind).await.unwrap()[0], address);
}

/// The answer to a browser that was led to `address` under another host name.
fn misdirected(address: SocketAddr) -> String {
    let mut connection = Connection::open(address);
    connection.send(b"GET / HTTP/1.1\r\nHost: evil.example\r\nAccept-Language: en\r\n\r\n");
    let refused = connection.response_to("GET");
    assert_eq!(refused.status, 421);
    refused.text().to_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_browser_under_another_host_is_referred_to_the_field_of_the_settings() {
    let bridge = Bridge::bind(settings(StateLocation::InMemory)).unwrap();
    let address = bridge.local_addrs()[0];
    let running = tokio::spawn(bridge.run(pending()));
    let text = patiently("a response", spawn_blocking(move || misdirected(address))).await.unwrap();
    assert!(text.contains("Settings::allowed_hosts") && !text.contains("--"), "{text}");
    running.abort();
}

#[test]
fn a_browser_is_referred_to_no_setting_of_an_exporter_without_one() {
    let exporter = PrometheusExporter::at(SocketAddr::from(([127, 0, 0, 1], 0)));
    exporter.start().unwrap();
    let text = misdirected(exporter.local_addr().unwrap());
    assert!(text.ends_with("Use its address or localhost\n"), "{text}");
    exporter.stop();
}

/// Binds a bridge whose settings are valid but for what `change` does to them, and returns why it is refused.
fn refused(change: impl FnOnce(&mut Settings)) -> SettingsError {
    let mut changed = settings(StateLocation::InMemory);
    changed.feeds = vec![FeedTarget::new("ws://alpha:8765").unwrap(), FeedTarget::new("ws://beta:8765").unwrap()];
    Bridge::bind(changed.clone()).expect("unchanged, they are valid");
    change(&mut changed);
    let error = Bridge::bind(changed).expect_err("changed, they are not");
    let source = error.source().and_then(|source| source.downcast_ref::<SettingsError>());
    assert_eq!(source.map(SettingsError::to_string), Some(error.to_string()));
    let BridgeError::Settings(error) = error else { panic!("{error:?}") };
    error
}

#[test]
fn two_feeds_of_one_identity_or_database_are_refused() {
    let error = refused(|settings| settings.feeds[1].identity = settings.feeds[0].identity.clone());
    assert!(
        matches!(&error, SettingsError::DuplicateIdentity { identity } if identity == "ws://alpha:8765/"),
        "{error}"
    );

    let error = refused(|settings| {
        settings.feeds.iter_mut().for_each(|feed| feed.skills_db = Some("/nowhere/skills.db".into()));
    });
    assert!(matches!(error, SettingsError::DuplicateSkillsDb { .. }), "{error}");
}

#[test]
fn more_than_64_feeds_are_refused() {
    let feeds =
        |number: u16| (1..=number).map(|port| FeedTarget::new(&format!("ws://alpha:{port}")).unwrap()).collect();
    Bridge::bind(Settings { feeds: feeds(64), ..settings(StateLocation::InMemory) }).unwrap();
    let error = refused(|settings| settings.feeds = feeds(65));
    assert!(matches!(error, SettingsError::TooManyFeeds { urls: 65, feeds_max: 64 }), "{error}");
    let error = refused(|settings| settings.skills_dirs = vec!["/nowhere/skills".into()]);
    assert!(matches!(error, SettingsError::SkillsDir { .. }), "{error}");
}

#[test]
fn settings_outside_their_ranges_are_refused() {
    let error = refused(|settings| "metrics".clone_into(&mut settings.telemetry_path));
    assert!(matches!(error, SettingsError::TelemetryPath { problem: TelemetryPathError::NoSlash, .. }), "{error}");
    let error = refused(|settings| "/-/ready".clone_into(&mut settings.telemetry_path));
    assert!(matches!(error, SettingsError::TelemetryPath { problem: TelemetryPathError::Taken, .. }), "{error}");
    let error = refused(|settings| settings.zero_first = Duration::from_secs(601));
    assert!(error.to_string().starts_with("--web.zero-first 601s is longer than 10m"), "{error}");
    let error = refused(|settings| {
        settings.ledger_limits = Limits { skills_max: 2, remembered_skills_max: 1, ..Limits::default() };
    });
    assert!(matches!(error, SettingsError::RememberedSkills { remembered: 1, skills: 2 }), "{error}");
}
