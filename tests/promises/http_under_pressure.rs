//! Whatever scrapers do, the feed is counted; and whatever the feed does, a scrape shows one moment.

use std::net::TcpStream;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::Duration;

use crate::support::http_client::{Connection, get};
use crate::support::model::{Invocation, Metrics, invocation_event, metrics_update};
use crate::support::running_bridge::RunningBridge;
use crate::support::scrape::Scrape;
use crate::support::scripted_feed::{Gate, ScriptedFeed, Step};
use crate::support::{PATIENCE, patiently};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use session_buddy_bridge::settings::{FeedTarget, Settings};

const GET: &[u8] = b"GET /metrics HTTP/1.1\r\nHost: test\r\n\r\n";

fn bridge_on(feed: &ScriptedFeed) -> RunningBridge {
    RunningBridge::start(Settings::new(vec![FeedTarget::new(feed.url().as_str()).unwrap()]))
}

fn event(number: usize) -> String {
    let invocation =
        Invocation { skill_name: "a".to_owned(), workflow_phase: None, completed: true, duration_seconds: None };
    invocation_event(Some(&number.to_string()), 0, &invocation)
}

fn invocations(scrape: &Scrape) -> f64 {
    scrape.sum("skill_invocations_total")
}

/// Room for a thousand connections, both ends of which are here.
fn make_room_for_connections() {
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    let wanted = maximum.map_or(8192, |maximum| maximum.min(8192));
    setrlimit(Resource::Nofile, Rlimit { current: Some(wanted), maximum }).expect("more open files");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_idle_connections_leave_the_feed_and_a_scraper_alone() {
    make_room_for_connections();
    let crowded = Gate::default();
    let events = (0..500).map(|number| Step::send(event(number)));
    let script = [Step::Await(crowded.clone())].into_iter().chain(events).chain([Step::Await(Gate::default())]);
    let feed = ScriptedFeed::start(vec![script.collect()]);
    let bridge = bridge_on(&feed);
    let address = bridge.address();

    let scrapes = tokio::task::spawn_blocking(move || {
        // As Prometheus does, on one connection that lives on.
        let mut scraper = Connection::open(address);
        let mut scrape = move || {
            scraper.send(GET);
            let response = scraper.response_to("GET");
            assert_eq!(response.status, 200);
            Scrape::parse(response.text()).expect("a scrape")
        };
        scrape();
        let idle: Vec<_> = (0..1000).map(|_| TcpStream::connect(address).expect("a connection")).collect();
        let refused = |scrape: &Scrape| scrape.sum("session_buddy_bridge_http_connections_refused_total");
        while refused(&scrape()) < 400.0 {}
        crowded.open();
        let mut scrapes = 0_u64;
        while invocations(&scrape()) < 500.0 {
            scrapes += 1;
        }
        drop(idle);
        scrapes
    });
    patiently("every event to be counted and shown", scrapes).await.expect("no failure");
    bridge
        .until("the feed to stay connected", &1.0, |scrape| scrape.sum("session_buddy_bridge_feed_connects_total"))
        .await;
    bridge.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn pipelined_requests_are_answered_each_in_its_turn() {
    let feed = ScriptedFeed::start(vec![vec![Step::send(event(1)), Step::Await(Gate::default())]]);
    let bridge = bridge_on(&feed);
    bridge.until("the event", &1.0, invocations).await;
    let address = bridge.address();
    let pipelined = tokio::task::spawn_blocking(move || {
        let mut connection = Connection::open(address);
        for _ in 0..200 {
            connection.send(GET);
            connection.send(b"GET /nowhere HTTP/1.1\r\nHost: test\r\n\r\n");
        }
        for _ in 0..200 {
            let scrape = connection.response_to("GET");
            assert_eq!(invocations(&Scrape::parse(scrape.text()).expect("a scrape")), 1.0);
            assert_eq!(connection.response_to("GET").status, 404);
        }
    });
    patiently("400 answers", pipelined).await.expect("no failure");
    bridge.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn concurrent_scrapes_see_one_moment_each() {
    let total = Arc::new(AtomicU64::new(0));
    let over = Gate::default();
    let rounds = {
        let total = Arc::clone(&total);
        move || {
            let total = 1 + total.fetch_add(1, Ordering::Relaxed);
            // One message that moves two skills by the same number.
            let skill = |name: &str| Metrics { total, completed: total, ..Metrics::none(name) };
            metrics_update(total as i64 * 1000, &[skill("first"), skill("second")], &[])
        }
    };
    let feed = ScriptedFeed::start(vec![vec![Step::rounds(&over, Duration::from_millis(1), rounds)]]);
    let bridge = bridge_on(&feed);
    bridge.until("the feed to move", &true, |scrape| invocations(scrape) > 10.0).await;
    let address = bridge.address();
    let (sender, moments) = mpsc::channel();
    for _ in 0..4 {
        let sender = sender.clone();
        thread::spawn(move || {
            for _ in 0..100 {
                let scrape = Scrape::parse(get(address, "/metrics").text()).expect("a scrape");
                let completed = |name| {
                    let labels = [("skill_name", name), ("workflow_phase", "unknown"), ("completed", "true")];
                    scrape.value("skill_invocations_total", &labels).expect("a skill")
                };
                let _ = sender.send((completed("first"), completed("second")));
            }
        });
    }
    drop(sender);
    let seen = tokio::task::spawn_blocking(move || {
        let mut seen = Vec::new();
        while let Ok(moment) = moments.recv_timeout(PATIENCE) {
            seen.push(moment);
        }
        seen
    });
    let seen = patiently("400 scrapes", seen).await.expect("no failure");
    assert_eq!(seen.len(), 400, "every scraper was answered");
    assert!(seen.iter().all(|(first, second)| first == second), "{seen:?}");
    assert!(seen.iter().any(|moment| *moment != seen[0]), "the feed moved while they looked");
    over.open();
    bridge.stop().await;
}
