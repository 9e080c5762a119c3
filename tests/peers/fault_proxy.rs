//! Whatever happens between server and bridge, cuts and stalls and half-open sockets, frames in parts and bytes one by one,
//! and on a feed that streams also events that are lost, late and repeated: in the end the bridge shows what the server's
//! database holds, and on the way no counter falls.
//!
//! The short form has 40 faults; `SESSION_BUDDY_BRIDGE_LONG=1` a thousand.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crate::support::fault_proxy::FaultProxy;
use crate::support::model::{
    Anomaly, Database, Invocation, SECOND, anomaly_event, invocation_event, skill_name, sql_time,
};
use crate::support::peers::bridge::sums;
use crate::support::peers::numbers::{Near, Numbers};
use crate::support::peers::session_buddy::{Pace, SessionBuddy};
use crate::support::running_bridge::{RunningBridge, counted};
use crate::support::scrape::Scrape;
use crate::support::scripted_feed::{Gate, ScriptedFeed, Step};
use crate::support::watcher::Watcher;
use crate::support::{is_long, patiently};
use session_buddy_bridge::internals::feed::Timing;
use session_buddy_bridge::settings::{FeedTarget, Settings, StateLocation};
use tempfile::TempDir;

/// Written until the faults are over. Ten skills, so that none is hidden; and so few anomalies a second (0.5) that it
/// would take an outage of twenty seconds to hide one.
const PACE: Pace = Pace { invocations: u32::MAX, invocations_per_second: 25.0, anomaly_every: 50, skills: 10, seed: 5 };

const SNAPSHOT_INTERVAL_SECONDS: f64 = 0.1;

fn faults() -> usize {
    if is_long() { 1000 } else { 40 }
}

/// A bridge behind the proxy: quick to notice that nothing comes any more, and quick to come back.
fn bridge(proxy: &FaultProxy, state: &Path) -> RunningBridge {
    let timing = Timing {
        handshake_timeout: Duration::from_secs(1),
        ping_interval: Duration::from_millis(200),
        pong_timeout: Duration::from_millis(300),
        silence_timeout: Duration::from_secs(3),
        backoff_min: Duration::from_millis(1),
        backoff_max: Duration::from_millis(50),
        ..Timing::default()
    };
    let feed = FeedTarget::new(&format!("ws://{}/", proxy.address())).unwrap();
    RunningBridge::start(Settings { timing, state: StateLocation::Path(state.to_owned()), ..Settings::new(vec![feed]) })
}

async fn until_the_faults_are_over(proxy: &FaultProxy, watcher: &Watcher) {
    for fault in 1..=faults() {
        patiently(&format!("fault {fault}"), proxy.until(fault)).await;
        assert!(watcher.is_watching(), "a counter fell before fault {fault}");
    }
}

/// Counts have to agree at once and to go on agreeing: what a snapshot repeats counts once.
async fn comes_to_show<T: PartialEq + std::fmt::Debug>(bridge: &RunningBridge, held: &T, view: impl Fn(&Scrape) -> T) {
    bridge.until("the database", held, &view).await;
    let rounds = |scrape: &Scrape| counted(scrape, "feed_messages_total", "type")["metrics_update"];
    let enough = rounds(&bridge.scrape().await) + 10;
    bridge.until("snapshots that say nothing new", &true, |scrape| rounds(scrape) >= enough).await;
    let scrape = bridge.scrape().await;
    assert_eq!(view(&scrape), *held, "snapshots that say nothing new change nothing");
    for rule in ["feed_resets_total", "feed_rollbacks_total", "anomaly_window_overflows_total"] {
        assert_eq!(scrape.sum(&format!("session_buddy_bridge_{rule}")), 0.0, "{rule}");
    }
}

/// How it went, for whoever runs the long form.
fn report(proxy: &FaultProxy, began: Instant, watcher: Watcher, scrape: &Scrape) {
    let watched = watcher.finish();
    let own = |name: &str| scrape.sum(&format!("session_buddy_bridge_{name}"));
    println!(
        "{:?} in {:.0?}; {} connections, ended by {:?}; {} invocations, {} anomalies; {} scrapes; {} durations exact, {} \
         estimated; {} events late",
        proxy.suffered(),
        began.elapsed(),
        own("feed_connects_total"),
        counted(scrape, "feed_disconnects_total", "code"),
        scrape.sum("skill_invocations_total"),
        scrape.sum("anomalies_detected_total"),
        watched.scrapes,
        own("exact_observations_total"),
        own("estimated_observations_total"),
        own("late_events_total"),
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_real_server_behind_faults() {
    let Some(session_buddy) = SessionBuddy::find_or_skip() else { return };
    let directory = TempDir::new().unwrap();
    let database = directory.path().join("skills.db");
    let server = session_buddy.serve_every(SNAPSHOT_INTERVAL_SECONDS, &database, 0, &[]);
    let began = Instant::now();
    let proxy = FaultProxy::start(SocketAddr::from(([127, 0, 0, 1], server.port)), faults(), 1).await;
    let bridge = bridge(&proxy, &directory.path().join("state.db"));
    let tenth =
        |scrape: &Scrape| scrape.series("session_buddy_bridge_feed_tenth_skill_invocations").into_values().next();
    bridge.until("the empty database", &Some(0.0), tenth).await;
    let watcher = Watcher::start(bridge.address());
    let driver = session_buddy.drive(&database, &PACE);
    until_the_faults_are_over(&proxy, &watcher).await;
    drop(driver);

    let held = Numbers::held(&session_buddy.truth(&database));
    assert!(held.total() > 0, "nothing was written");
    comes_to_show(&bridge, &held, Numbers::shown).await;
    let scrape = bridge.scrape().await;
    report(&proxy, began, watcher, &scrape);
    println!("sums within {:e} s", Numbers::shown(&scrape).sums_apart_seconds(&held));
    bridge.stop().await;
}

/// Between two frames of the feed that streams.
const FRAME_INTERVAL: Duration = Duration::from_millis(10);

/// Far beyond the five seconds for which a rise waits for its event.
const LATE_MICROS_MAX: i64 = 8 * SECOND;

const SKILLS: usize = 8;

/// A server that streams. All invocations of one skill take the same time, so that whichever event a rise takes for its
/// own, its durations add up.
struct Streaming {
    began: Instant,
    chance: fastrand::Rng,
    database: Database,
    /// Events and when they will be sent.
    late: Vec<(i64, String)>,
    /// Whether nothing new happens any more.
    is_over: bool,
}

impl Streaming {
    fn new() -> Self {
        let (chance, database) = (fastrand::Rng::with_seed(3), Database::default());
        Self { began: Instant::now(), chance, database, late: Vec::new(), is_over: false }
    }

    fn next_frame(&mut self) -> String {
        let at_micros = i64::try_from(self.began.elapsed().as_micros()).unwrap();
        if let Some(due) = self.late.iter().position(|(due, _)| *due <= at_micros) {
            return self.late.swap_remove(due).1;
        }
        let event = match self.chance.u8(0..100) {
            _ if self.is_over => None,
            0..25 => self.invoke(at_micros),
            25 => self.detect(at_micros),
            _ => None,
        };
        event.unwrap_or_else(|| self.database.snapshot(at_micros))
    }

    fn invoke(&mut self, at_micros: i64) -> Option<String> {
        let skill = self.chance.usize(0..SKILLS);
        let completed = self.chance.u8(0..10) < 8;
        let invocation = Invocation {
            skill_name: skill_name(skill),
            workflow_phase: ["setup", "execution"].get(self.chance.usize(0..3)).map(|phase| (*phase).to_owned()),
            completed,
            duration_seconds: completed.then_some(0.3 * (skill + 1) as f64),
        };
        self.database.invocations.push(invocation.clone());
        let id = format!("invocation-{}", self.database.invocations.len());
        self.tell(at_micros, invocation_event(Some(&id), at_micros, &invocation))
    }

    fn detect(&mut self, at_micros: i64) -> Option<String> {
        let anomaly = Anomaly {
            skill_name: skill_name(self.chance.usize(0..SKILLS)),
            anomaly_type: ["drop", "spike"][self.chance.usize(0..2)].to_owned(),
            detected_at: sql_time(at_micros),
            deviation_score: Some(f64::from(self.chance.u8(..))),
        };
        self.database.anomalies.push(anomaly.clone());
        let id = format!("anomaly-{}", self.database.anomalies.len());
        self.tell(at_micros, anomaly_event(Some(&id), at_micros, &anomaly))
    }

    /// The event, if it is sent at once. It may be lost, or late, or sent again later.
    fn tell(&mut self, at_micros: i64, event: String) -> Option<String> {
        let later = |chance: &mut fastrand::Rng| at_micros + chance.i64(0..LATE_MICROS_MAX);
        if self.chance.u8(0..10) < 3 {
            self.late.push((later(&mut self.chance), event.clone()));
        }
        match self.chance.u8(0..10) {
            0 => None,
            1 | 2 => {
                self.late.push((later(&mut self.chance), event));
                None
            }
            _ => Some(event),
        }
    }
}

/// What a database and a scrape must agree in.
#[derive(Debug, PartialEq)]
struct Streamed {
    /// By skill and `completed`.
    invocations: BTreeMap<[String; 2], f64>,
    /// By type and skill.
    anomalies: BTreeMap<[String; 2], f64>,
    /// By skill: how many there are, and how long they took.
    durations: BTreeMap<[String; 1], (f64, Near)>,
}

impl Streamed {
    fn shown(scrape: &Scrape) -> Self {
        let mut invocations = sums(scrape, "skill_invocations_total", ["skill_name", "completed"]);
        invocations.retain(|_, count| *count > 0.0);
        let seconds = sums(scrape, "skill_duration_seconds_sum", ["skill_name"]);
        let durations = sums(scrape, "skill_duration_seconds_count", ["skill_name"]);
        Self {
            invocations,
            anomalies: sums(scrape, "anomalies_detected_total", ["anomaly_type", "skill_name"]),
            durations: durations.into_iter().map(|(name, n)| (name.clone(), (n, Near(seconds[&name])))).collect(),
        }
    }

    fn held(database: &Database) -> Self {
        let mut anomalies = BTreeMap::new();
        for Anomaly { anomaly_type, skill_name, .. } in &database.anomalies {
            *anomalies.entry([anomaly_type.clone(), skill_name.clone()]).or_default() += 1.0;
        }
        let counts = database.counts().into_iter();
        let metrics = database.metrics().into_iter();
        Self {
            invocations: counts.map(|((name, completed), n)| ([name, completed.to_string()], n as f64)).collect(),
            anomalies,
            durations: metrics
                .map(|(name, skill)| ([name.to_owned()], (skill.completed as f64, Near(skill.duration_seconds))))
                .collect(),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_streams_behind_faults() {
    let directory = TempDir::new().unwrap();
    let streaming = Arc::new(Mutex::new(Streaming::new()));
    let frames = Arc::clone(&streaming);
    let server = ScriptedFeed::start(vec![vec![
        Step::send(r#"{"type": "connected", "authenticated": false}"#),
        Step::rounds(&Gate::default(), FRAME_INTERVAL, move || frames.lock().unwrap().next_frame()),
    ]]);
    let began = Instant::now();
    let proxy = FaultProxy::start(server.address(), faults(), 2).await;
    let bridge = bridge(&proxy, &directory.path().join("state.db"));
    let watcher = Watcher::start(bridge.address());
    until_the_faults_are_over(&proxy, &watcher).await;
    streaming.lock().unwrap().is_over = true;

    let database = streaming.lock().unwrap().database.clone();
    comes_to_show(&bridge, &Streamed::held(&database), Streamed::shown).await;
    let scrape = bridge.scrape().await;
    let phases = ["skill_name", "workflow_phase", "completed"];
    for ([name, phase, completed], count) in sums(&scrape, "skill_invocations_total", phases) {
        let is_it = |row: &&Invocation| {
            row.skill_name == name
                && row.workflow_phase.as_deref() == Some(&phase)
                && row.completed.to_string() == completed
        };
        let happened = database.invocations.iter().filter(is_it).count();
        assert!(phase == "unknown" || count <= happened as f64, "{name} {phase}: {count}, where {happened} happened");
    }
    report(&proxy, began, watcher, &scrape);
    bridge.stop().await;
}
