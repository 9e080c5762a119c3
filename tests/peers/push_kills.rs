//! Bridges that push are killed at any moment, again and again, and so is each Prometheus that they push to: at the end every receiver has
//! the bridge's counts, saw none of them fall, and shows an increase of what happened.
//!
//! The short form kills each of two bridges 40 times; `SESSION_BUDDY_BRIDGE_LONG=1` 300 times. Some moments are random; others are
//! those between two steps of a tick, at which the bridge is held while it is killed.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use rusqlite::Connection;
use session_buddy_bridge::internals::push::{Grid, QueueSummary, summary};
use session_buddy_bridge::internals::store::Store;
use tempfile::TempDir;

use crate::support::peers::holding_proxy::{Held, HoldingProxy, Place};
use crate::support::peers::numbers::Numbers;
use crate::support::peers::received::{Received, Values, five_families};
use crate::support::peers::receivers::{Kind, Receiver};
use crate::support::peers::session_buddy::{Pace, SessionBuddy};
use crate::support::program::Program;
use crate::support::push_senders::unix_millis;
use crate::support::scrape::Scrape;
use crate::support::{PATIENCE, equal, eventually, holds, is_long};

/// Written until the last kill. Ten skills, so that a snapshot lists each of them; and so few anomalies that no outage hides one
/// from a bridge without the database.
const PACE: Pace =
    Pace { invocations: u32::MAX, invocations_per_second: 20.0, anomaly_every: 50, skills: 10, seed: 23 };

const SNAPSHOT_INTERVAL_SECONDS: f64 = 0.2;

/// The shortest that `--push.interval` takes.
const INTERVAL: Duration = Duration::from_secs(5);

/// A bridge that is killed, and its receivers: those of one Debian release, each behind a proxy.
struct Victim {
    instance: &'static str,
    arguments: Vec<String>,
    state: PathBuf,
    receivers: Vec<(Receiver, HoldingProxy)>,
}

/// How far a tick that is in the queue had come when the bridge was killed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Step {
    /// It is on its way to the receiver, which has not received it.
    Sent,
    /// The receiver has stored it and answered, and the bridge has not read the answer.
    Stored,
    /// The bridge has read the answer, and not committed that the receiver has answered.
    Answered,
}

/// Where kills met the bridge.
#[derive(Debug, Default)]
struct Deaths {
    before_it_listened: u32,
    /// A tick was due, and its commit waited for the database.
    before_a_commit: u32,
    /// Of receivers.
    receivers: u32,
    /// By step, and by the receiver before which the tick was held.
    held: BTreeMap<(Step, usize), u32>,
}

impl Victim {
    fn new(
        instance: &'static str,
        directory: &Path,
        feed_port: u16,
        skills_db: Option<&Path>,
        receivers: Vec<Receiver>,
    ) -> Self {
        let behind_proxy = |receiver: Receiver| {
            let proxy = HoldingProxy::start(receiver.address());
            (receiver, proxy)
        };
        let receivers: Vec<_> = receivers.into_iter().map(behind_proxy).collect();
        let state = directory.join(format!("{instance}.db"));
        let mut arguments = vec![
            format!("--feed.url=ws://127.0.0.1:{feed_port}"),
            format!("--state.path={}", state.display()),
            "--web.listen-address=127.0.0.1:0".to_owned(),
            format!("--push.interval={}s", INTERVAL.as_secs()),
            format!("--push.label=instance={instance}"),
        ];
        arguments.extend(skills_db.map(|path| format!("--feed.skills-db={}", path.display())));
        arguments.extend(receivers.iter().map(|(_, proxy)| format!("--push.url={}", proxy.url())));
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

    /// Kills it at its first start, and then at moments of its first tick. Returns whether the first kill left neither an identity nor a
    /// tick.
    fn kill_before_its_first_tick(&self) -> bool {
        drop(self.start());
        let had_no_queue = self.queue().is_err();
        for millis in [30, 60, 90, 120, 150, 200] {
            let bridge = self.start();
            thread::sleep(Duration::from_millis(millis));
            drop(bridge);
        }
        had_no_queue
    }

    /// Kills each Prometheus, and starts it again on its storage. Returns how many. What is on its way to one is cut off.
    fn kill_receivers(&mut self) -> u32 {
        let mut killed = 0;
        let restarted = std::mem::take(&mut self.receivers).into_iter().map(|(receiver, proxy)| {
            if receiver.kind == Kind::VictoriaMetrics {
                return (receiver, proxy);
            }
            killed += 1;
            let receiver = receiver.kill_and_restart();
            proxy.lead_to(receiver.address());
            (receiver, proxy)
        });
        self.receivers = restarted.collect();
        killed
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

    /// Kills it with SIGKILL and starts it again at once, `kills` times: at any moment of its start, at any moment of a tick and
    /// between any two of its steps, and at any moment later. Half of them on, its receivers are killed. Returns the last one.
    fn kill_again_and_again(&mut self, mut bridge: Program, kills: u32, grid: Grid) -> (Program, Deaths) {
        // What was written to a database of which no row was ever read is history to the next bridge, and is sent without a zero.
        let address = bridge.address();
        eventually("a first count on disk", || {
            holds(Scrape::try_fetch(address)?.sum("skill_invocations_total") > 0.0, "none")
        });
        let mut chance = fastrand::Rng::with_seed(self.instance.bytes().map(u64::from).sum());
        let mut deaths = Deaths::default();
        let mut steps = (0..self.receivers.len())
            .flat_map(|receiver| [Step::Sent, Step::Stored, Step::Answered].map(|step| (step, receiver)))
            .cycle();
        for kill in 0..kills {
            if kill == kills / 2 {
                deaths.receivers += self.kill_receivers();
            }
            let random =
                |millis_max: u64, chance: &mut fastrand::Rng| Duration::from_micros(chance.u64(..millis_max * 1_000));
            match kill % 6 {
                0 => {
                    // Every second time at once: no start is as fast.
                    thread::sleep(if kill % 12 == 6 { Duration::ZERO } else { random(100, &mut chance) });
                    deaths.before_it_listened += u32::from(!bridge.printed().contains("listening"));
                    drop(bridge);
                }
                1 => {
                    thread::sleep(grid.until_next(unix_millis()) + random(80, &mut chance));
                    drop(bridge);
                }
                2 => {
                    self.kill_before_a_tick_is_committed(bridge, grid);
                    deaths.before_a_commit += 1;
                }
                3 => {
                    thread::sleep(random(2_500, &mut chance));
                    drop(bridge);
                }
                _ => {
                    let (step, receiver) = steps.next().expect("they are repeated");
                    self.kill_behind(step, receiver, bridge);
                    *deaths.held.entry((step, receiver)).or_default() += 1;
                }
            }
            bridge = self.start();
        }
        (bridge, deaths)
    }

    /// Returns a connection that holds the lock for writing.
    fn locked(&self) -> Connection {
        let connection = Connection::open(&self.state).unwrap();
        connection.busy_timeout(PATIENCE).unwrap();
        connection.execute_batch("BEGIN IMMEDIATE").unwrap();
        connection
    }

    fn kill_before_a_tick_is_committed(&self, mut bridge: Program, grid: Grid) {
        bridge.address();
        thread::sleep(grid.until_next(unix_millis()).saturating_sub(Duration::from_millis(300)));
        let lock = self.locked();
        let now = unix_millis();
        let due = now + i64::try_from(grid.until_next(now).as_millis()).unwrap();
        // Long enough for the bridge to have taken it.
        thread::sleep(grid.until_next(now) + Duration::from_millis(50));
        drop(bridge);
        drop(lock);
        let queue = self.queue().expect("its state is whole");
        assert!(queue.newest.is_none_or(|newest| newest.millis() < due), "{due} is committed: {queue:?}");
    }

    /// Kills it once a receiver has a tick in this state, and checks that the bridge's file knows of no answer for it.
    fn kill_behind(&self, step: Step, receiver: usize, mut bridge: Program) {
        let address = bridge.address();
        let (_, proxy) = &self.receivers[receiver];
        let place = if step == Step::Sent { Place::BeforeTheReceiver } else { Place::BehindTheReceiver };
        let held = proxy.hold_next(place).recv_timeout(PATIENCE).expect("a request with samples");
        let newest_millis = held.newest_millis;
        if step == Step::Answered {
            self.kill_with_the_answer(held, receiver, address, bridge);
        } else {
            drop(bridge);
        }
        let queue = self.queue().expect("its state is whole");
        assert!(queue.newest.is_some_and(|newest| newest.millis() >= newest_millis), "sent, and not queued: {queue:?}");
        let (_, answered, _) = queue.receivers.iter().find(|(name, ..)| *name.as_str() == self.name(receiver)).unwrap();
        assert!(answered.millis() < newest_millis, "{step:?} {newest_millis}, and its answer is committed: {queue:?}");
    }

    /// Passes the answer on while the database cannot be written, and kills the bridge once it has read it.
    fn kill_with_the_answer(&self, held: Held, receiver: usize, address: SocketAddr, bridge: Program) {
        let lock = self.locked();
        let answered = || -> Result<f64, String> {
            let scrape = Scrape::try_fetch(address)?;
            let requests = scrape.series("session_buddy_bridge_push_requests_total").into_iter();
            let stored = requests
                .filter(|(labels, _)| labels["receiver"] == self.name(receiver) && labels["code"].starts_with('2'));
            Ok(stored.map(|(_, count)| count).sum())
        };
        let before = eventually("the requests so far", answered);
        held.pass_on();
        eventually("the bridge to read the answer", || holds(answered()? > before, "it has not"));
        drop(bridge);
        drop(lock);
    }

    /// Returns the name of a receiver, by which its position is kept.
    fn name(&self, receiver: usize) -> String {
        let url = self.receivers[receiver].1.url();
        url.strip_prefix("http://").expect("its scheme").to_owned()
    }

    /// Returns what the bridge shows, once it shows the numbers of the database and every receiver has the same.
    fn await_agreement(&self, address: SocketAddr, held: &Numbers) -> Values {
        eventually(&format!("the receivers of {} to agree", self.instance), || {
            let scrape = Scrape::try_fetch(address)?;
            equal(&Numbers::shown(&scrape), held)?;
            let shown = five_families(&scrape);
            for (receiver, _) in &self.receivers {
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
    let had_no_queue = victims.each_ref().map(Victim::kill_before_its_first_tick);
    assert!(had_no_queue.contains(&true), "no kill came before the identity of a queue");
    let running = victims.map(|victim| (victim.start(), victim));
    // Of the empty database: whatever follows is observed from its beginning.
    let running = running.map(|(bridge, victim)| (bridge, victim.first_pushed(), victim));
    let driver = session_buddy.drive(&database, &PACE);
    let began = Instant::now();
    let threads = running.map(|(bridge, grid, mut victim)| {
        thread::spawn(move || (victim.kill_again_and_again(bridge, kills, grid), victim))
    });
    let survivors = threads.map(|thread| thread.join().expect("the kills go on"));
    let lasted = began.elapsed();
    drop(driver);

    let held = Numbers::held(&session_buddy.truth(&database));
    for ((mut bridge, deaths), victim) in survivors {
        let shown = victim.await_agreement(bridge.address(), &held);
        assert_eq!(victim.queue().unwrap().receivers.len(), victim.receivers.len());
        assert!(deaths.before_it_listened > 0 && deaths.before_a_commit > 0 && deaths.receivers == 2, "{deaths:?}");
        assert_eq!(deaths.held.len(), 3 * victim.receivers.len(), "each step of each receiver: {deaths:?}");
        println!(
            "{}: {kills} kills in {lasted:.0?}, {deaths:?}; {} invocations in {} series",
            victim.instance,
            held.total(),
            shown.len()
        );
    }
}
