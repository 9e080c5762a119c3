//! Bridges that push are killed at any moment, again and again: at the end every receiver has the bridge's counts, saw none of them
//! fall, and shows an increase of what happened.
//!
//! The short form kills each of two bridges 40 times; `SESSION_BUDDY_BRIDGE_LONG=1` 300 times.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use session_buddy_bridge::internals::push::{Grid, QueueSummary, summary};
use session_buddy_bridge::internals::store::Store;
use tempfile::TempDir;

use crate::support::peers::numbers::Numbers;
use crate::support::peers::received::{Received, Values, five_families, newest_millis};
use crate::support::peers::receivers::{Kind, Receiver};
use crate::support::peers::session_buddy::{Pace, SessionBuddy};
use crate::support::program::Program;
use crate::support::push_senders::unix_millis;
use crate::support::scrape::Scrape;
use crate::support::{equal, eventually, holds, is_long};

/// Written until the last kill. Ten skills, so that a snapshot lists each of them; and so few anomalies that no outage hides one
/// from a bridge without the database.
const PACE: Pace =
    Pace { invocations: u32::MAX, invocations_per_second: 20.0, anomaly_every: 50, skills: 10, seed: 23 };

const SNAPSHOT_INTERVAL_SECONDS: f64 = 0.2;

/// The shortest that `--push.interval` takes.
const INTERVAL: Duration = Duration::from_secs(5);

/// A bridge that is killed, and its receivers: those of one Debian release.
struct Victim {
    instance: &'static str,
    arguments: Vec<String>,
    state: PathBuf,
    receivers: Vec<Receiver>,
}

/// Where kills met the bridge.
#[derive(Debug, Default)]
struct Deaths {
    before_it_listened: u32,
    /// A receiver had not answered for the newest tick, as far as the state knows.
    with_a_tick_unanswered: u32,
    /// A receiver had stored a tick for which the state has no answer.
    before_the_answer_was_committed: u32,
}

impl Victim {
    fn new(
        instance: &'static str,
        directory: &Path,
        feed_port: u16,
        skills_db: Option<&Path>,
        receivers: Vec<Receiver>,
    ) -> Self {
        let state = directory.join(format!("{instance}.db"));
        let mut arguments = vec![
            format!("--feed.url=ws://127.0.0.1:{feed_port}"),
            format!("--state.path={}", state.display()),
            "--web.listen-address=127.0.0.1:0".to_owned(),
            format!("--push.interval={}s", INTERVAL.as_secs()),
            format!("--push.label=instance={instance}"),
        ];
        arguments.extend(skills_db.map(|path| format!("--feed.skills-db={}", path.display())));
        arguments.extend(receivers.iter().map(|receiver| format!("--push.url={}", receiver.url())));
        Self { instance, arguments, state, receivers }
    }

    fn selector(&self) -> String {
        format!("instance=\"{}\"", self.instance)
    }

    fn start(&self) -> Program {
        Program::start(self.arguments.iter().map(String::as_str))
    }

    fn queue(&self) -> Result<QueueSummary, String> {
        let (_, queue) = Store::look_at(&self.state, summary).map_err(|error| error.to_string())?;
        queue.ok_or_else(|| "it has no queue".to_owned())
    }

    /// Returns the grid of its ticks, once every receiver has answered for the first one.
    fn first_pushed(&self) -> Grid {
        let is_pushed = |queue: &QueueSummary| {
            let newest = queue.newest.ok_or("no tick")?;
            holds(queue.receivers.iter().all(|(_, at, _)| *at == newest), "no answer")
        };
        let queue = eventually("the first tick", || self.queue().and_then(|queue| is_pushed(&queue).map(|()| queue)));
        assert_eq!(queue.receivers.len(), self.receivers.len());
        Grid::new(INTERVAL, queue.identity)
    }

    /// Kills it with SIGKILL and starts it again at once, `kills` times: at any moment of its start, at any moment of a tick, which
    /// is taken, committed, sent, answered for, and the answer committed; and at any moment later. Returns the last one.
    fn kill_again_and_again(&self, mut bridge: Program, kills: u32, grid: Grid) -> (Program, Deaths) {
        let mut chance = fastrand::Rng::with_seed(self.instance.bytes().map(u64::from).sum());
        let mut deaths = Deaths::default();
        for kill in 0..kills {
            let random =
                |millis_max: u64, chance: &mut fastrand::Rng| Duration::from_micros(chance.u64(..millis_max * 1_000));
            let is_tick = kill % 3 == 1;
            thread::sleep(match kill % 3 {
                0 => random(600, &mut chance),
                1 => grid.until_next(unix_millis()) + random(80, &mut chance),
                _ => random(2_500, &mut chance),
            });
            deaths.before_it_listened += u32::from(!bridge.printed().contains("listening"));
            drop(bridge);
            if is_tick {
                self.examine(&mut deaths);
            }
            bridge = self.start();
        }
        (bridge, deaths)
    }

    /// Looks at what the dead bridge left.
    fn examine(&self, deaths: &mut Deaths) {
        let queue = self.queue().expect("its state is whole");
        deaths.with_a_tick_unanswered +=
            u32::from(queue.newest.is_some_and(|newest| queue.receivers.iter().any(|(_, at, _)| *at < newest)));
        let has_more = |receiver: &Receiver| {
            let stored = newest_millis(receiver, &self.selector());
            let (_, committed, _) = (queue.receivers.iter())
                .find(|(name, ..)| receiver.url().ends_with(name.as_str()))
                .expect("each receiver has a position");
            stored.is_some_and(|stored| stored > committed.millis())
        };
        // VictoriaMetrics shows a sample a second after it received it.
        let mut prompt = self.receivers.iter().filter(|receiver| receiver.kind != Kind::VictoriaMetrics);
        deaths.before_the_answer_was_committed += u32::from(prompt.any(has_more));
    }

    /// Returns what the bridge shows, once it shows the numbers of the database and every receiver has the same.
    fn await_agreement(&self, address: SocketAddr, held: &Numbers) -> Values {
        eventually(&format!("the receivers of {} to agree", self.instance), || {
            let scrape = Scrape::try_fetch(address)?;
            equal(&Numbers::shown(&scrape), held)?;
            let shown = five_families(&scrape);
            for receiver in &self.receivers {
                let received = Received::new(receiver, &self.selector())?;
                received.has_last_values(&shown)?;
                received.shows_no_reset(&shown)?;
                received.increased_by_values(&shown)?;
            }
            Ok(shown)
        })
    }
}

#[test]
fn no_kill_of_a_pushing_bridge_shows_at_any_receiver() {
    let Some(session_buddy) = SessionBuddy::find_or_skip() else { return };
    let Some(receivers) = Receiver::start_all_or_skip() else { return };
    let kills = if is_long() { 300 } else { 40 };
    let directory = TempDir::new().unwrap();
    let database = directory.path().join("skills.db");
    let server = session_buddy.serve_every(SNAPSHOT_INTERVAL_SECONDS, &database, 0, &[]);
    let (bookworm, trixie) = receivers.into_iter().partition(|receiver| receiver.release == "bookworm");
    // A bridge takes at most four receivers. One has the database, the other the feed alone.
    let victims = [
        Victim::new("a", directory.path(), server.port, Some(&database), bookworm),
        Victim::new("b", directory.path(), server.port, None, trixie),
    ];
    let running = victims.map(|victim| (victim.start(), victim));
    // Of the empty database: whatever follows is observed from its beginning.
    let running = running.map(|(bridge, victim)| (bridge, victim.first_pushed(), victim));
    let driver = session_buddy.drive(&database, &PACE);
    let began = Instant::now();
    let threads = running.map(|(bridge, grid, victim)| {
        thread::spawn(move || (victim.kill_again_and_again(bridge, kills, grid), victim))
    });
    let survivors = threads.map(|thread| thread.join().expect("the kills go on"));
    let lasted = began.elapsed();
    drop(driver);

    let held = Numbers::held(&session_buddy.truth(&database));
    for ((mut bridge, deaths), victim) in survivors {
        let shown = victim.await_agreement(bridge.address(), &held);
        assert_eq!(victim.queue().unwrap().receivers.len(), victim.receivers.len());
        println!(
            "{}: {kills} kills in {lasted:.0?}, {deaths:?}; {} invocations in {} series",
            victim.instance,
            held.total(),
            shown.len()
        );
    }
}
