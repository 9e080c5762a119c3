//! A bridge that dies at any instant and starts again shows what one would have shown that never heard what was lost; and
//! after the next snapshot, what one would have shown that never died.
//!
//! As many random histories as `PROPTEST_CASES` says; with `SESSION_BUDDY_BRIDGE_LONG=1` more of the fixed ones.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::Duration;

use crate::support::memory_state::MemoryState;
use crate::support::model::{
    Anomaly, Database, Invocation, LISTED_MAX, START_MICROS, anomaly_event, invocation_event, invocations, skill_name,
    sql_time,
};
use crate::support::shown::Shown;
use crate::support::{is_long, property};
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;
use session_buddy_bridge::internals::ledger::{
    Changes, ConnectionId, FeedId, FeedSpec, Ledger, LedgerState, Limits, Now, RuleCounters,
};
use session_buddy_bridge::internals::protocol;
use session_buddy_bridge::internals::store::{Opened, Store};

/// What becomes of a commit.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Fate {
    Shown,
    /// It fails once this table is to be written, and is tried again with the next.
    Fails(&'static str),
    /// What changed was taken, and the bridge dies before it is on disk.
    DiesBefore,
    /// It is on disk, and the bridge dies before it is shown.
    DiesUnshown,
    DiesAfter,
}

const CRASHES: [Fate; 3] = [Fate::DiesBefore, Fate::DiesUnshown, Fate::DiesAfter];

/// The journal, and those that a feed alone writes to; `rows_tell_the_counts` has those of rows, with the failures that they tell.
const TABLES: [&str; 10] =
    ["journal", "counter", "skill", "phase", "feed", "source", "source_skill", "anomaly_tally", "anomaly", "event_id"];

#[derive(Debug, Clone)]
enum Step {
    Invoke {
        invocation: Invocation,
        streamed: bool,
    },
    Anomaly {
        skill: usize,
        score: Option<f64>,
        streamed: Option<bool>,
    },
    Snapshot,
    /// Something that concerns neither invocations nor anomalies.
    Say(&'static str),
    /// The server sends its latest events once more.
    Resend(usize),
    /// The server's database is deleted.
    Reset,
    /// The server's database loses its last rows.
    LoseWrites(usize),
    Keep(Fate),
    /// The bridge dies with everything that was heard since the last commit.
    Die,
}

/// Times within which a history plays.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Pace {
    /// All of it within the 5 s for which an event and a rise wait for each other. The clock of a wait starts over with
    /// the bridge: only where no wait ends can two bridges that started at different times be equal to the phase.
    Quick,
    /// Waits end.
    Slow,
}

const STEPS_MAX: usize = 45;

impl Pace {
    fn step_micros(self) -> i64 {
        match self {
            // Also where a commit follows each step: twice as many.
            Self::Quick => 50_000,
            Self::Slow => 1_700_000,
        }
    }
}

const SAYINGS: [&str; 6] = [
    r#"{"type":"event","event":"session.created","data":{"session_id":"s"}}"#,
    r#"{"type":"event","event":"session.created","data":{"session_id":"t"}}"#,
    r#"{"type":"event","event":"session.closed","data":{"session_id":"s"}}"#,
    r#"{"type":"active_sessions","data":{"count":3}}"#,
    r#"{"type":"completion_rate","data":{"skill_name":"rated","rate":0.3}}"#,
    r#"{"type": "#,
];

fn fate() -> impl Strategy<Value = Fate> {
    prop_oneof![
        12 => Just(Fate::Shown),
        2 => prop::sample::select(TABLES.to_vec()).prop_map(Fate::Fails),
        3 => prop::sample::select(CRASHES.to_vec()),
    ]
}

/// What happens beside the keeping.
fn event(skills: usize, streams: bool) -> impl Strategy<Value = Step> {
    let streamed = prop::bool::weighted(if streams { 0.5 } else { 0.0 });
    prop_oneof![
        12 => (invocations(skills), streamed).prop_map(|(invocation, streamed)| Step::Invoke { invocation, streamed }),
        2 => (0..skills, prop::option::of(Just(2.5)), prop::option::of(any::<bool>()))
            .prop_map(|(skill, score, streamed)| Step::Anomaly { skill, score, streamed }),
        8 => Just(Step::Snapshot),
        1 => prop::sample::select(SAYINGS.to_vec()).prop_map(Step::Say),
        1 => (1_usize..4).prop_map(Step::Resend),
    ]
}

#[derive(Debug, Clone)]
struct Plan {
    pace: Pace,
    skills: usize,
    streams: bool,
    steps: Vec<Step>,
}

fn plans(step: impl Fn(usize, bool) -> BoxedStrategy<Step>) -> impl Strategy<Value = Plan> {
    let pace = prop_oneof![Just(Pace::Quick), Just(Pace::Slow)];
    (pace, 1..=LISTED_MAX + 2, any::<bool>()).prop_flat_map(move |(pace, skills, streams)| {
        let steps = prop::collection::vec(step(skills, streams), 1..=STEPS_MAX);
        steps.prop_map(move |steps| Plan { pace, skills, streams, steps })
    })
}

/// Histories in which anything may follow anything.
fn any_plan() -> impl Strategy<Value = Plan> {
    plans(|skills, streams| {
        prop_oneof![
            24 => event(skills, streams),
            13 => fate().prop_map(Step::Keep),
            2 => Just(Step::Die),
            1 => Just(Step::Reset),
            1 => (1_usize..4).prop_map(Step::LoseWrites),
        ]
        .boxed()
    })
}

/// A ledger with its one feed, on a clock that starts with it.
struct Bridge {
    ledger: Ledger,
    feed: FeedId,
    connection: ConnectionId,
    born_micros: i64,
}

impl Bridge {
    fn start(whole: LedgerState, at_micros: i64) -> Self {
        let now = Now { wall_micros: START_MICROS + at_micros, elapsed: Duration::ZERO };
        let mut ledger = Ledger::restore(Limits::default(), whole, now).expect("what was kept fits");
        let feed = ledger.add_feed(FeedSpec { identity: "feed".to_owned(), ..FeedSpec::default() });
        let connection = ledger.open(feed, now);
        Self { ledger, feed, connection, born_micros: at_micros }
    }

    fn moment(&self, at_micros: i64) -> Now {
        let elapsed = Duration::from_micros((at_micros - self.born_micros).try_into().expect("time does not fall"));
        Now { wall_micros: START_MICROS + at_micros, elapsed }
    }

    fn reconnect(&mut self, at_micros: i64) {
        self.connection = self.ledger.open(self.feed, self.moment(at_micros));
    }

    fn hear(&mut self, frame: &str, at_micros: i64) {
        let now = self.moment(at_micros);
        protocol::read(frame, &protocol::Limits::default(), &mut |message| {
            if let Ok(message) = message {
                self.ledger.apply(self.connection, &message, now, &mut Vec::new());
            }
        });
    }

    /// What a keeper takes.
    fn take(&mut self, at_micros: i64) -> Option<Changes> {
        let now = self.moment(at_micros);
        self.ledger.tick(now, &mut Vec::new());
        self.ledger.has_changed().then(|| self.ledger.drain(now))
    }
}

/// What the spared bridge goes through once the other one has it on disk.
enum Received {
    Frame(String),
    /// Time passed: what was held for long enough was counted, also where nothing was committed then.
    Tick,
}

/// A server, the bridge that is killed, and another that is never killed and never hears what the first one lost.
struct History<'d> {
    plan: Plan,
    at_micros: i64,
    database: Database,
    events: Vec<String>,
    anomalies: usize,
    /// Whether the database is the one of the beginning, whole.
    is_intact: bool,

    disk: &'d MemoryState,
    store: Option<Store>,
    bridge: Bridge,
    /// What a scraper saw, across all kills: what falls fails.
    shown: Shown,

    spared: Bridge,
    spared_shown: Shown,
    /// Heard since the last commit: the spared one hears it when it is on the other's disk.
    received: Vec<(Received, i64)>,
    kept_any: bool,
    journaled: Journaled,
    failed_commits: usize,
}

/// How often what became of the journal.
#[derive(Debug, Clone, Copy, Default)]
struct Journaled {
    /// Commits that were journaled and nothing else.
    entries: usize,
    /// Commits to the tables behind pending entries, because the journal was full.
    wraps: usize,
    /// Commits to the tables without an entry, because they were the first with a series or did not fit.
    direct: usize,
    /// Starts with pending entries.
    restarts: usize,
}

impl std::ops::AddAssign for Journaled {
    fn add_assign(&mut self, other: Self) {
        self.entries += other.entries;
        self.wraps += other.wraps;
        self.direct += other.direct;
        self.restarts += other.restarts;
    }
}

impl<'d> History<'d> {
    fn new(plan: &Plan, disk: &'d MemoryState) -> Self {
        disk.wipe();
        let (store, whole) = disk.open();
        Self {
            plan: plan.clone(),
            at_micros: 0,
            database: Database::default(),
            events: Vec::new(),
            anomalies: 0,
            is_intact: true,
            disk,
            store: Some(store),
            bridge: Bridge::start(whole, 0),
            shown: Shown::default(),
            spared: Bridge::start(LedgerState::default(), 0),
            spared_shown: Shown::default(),
            received: Vec::new(),
            kept_any: false,
            journaled: Journaled::default(),
            failed_commits: 0,
        }
    }

    fn take(&mut self, step: &Step) {
        self.at_micros += self.plan.pace.step_micros();
        match step {
            Step::Invoke { invocation, streamed } => {
                self.database.invocations.push(invocation.clone());
                if *streamed {
                    let id = self.events.len().to_string();
                    let event = invocation_event(Some(&id), self.at_micros, invocation);
                    self.events.push(event.clone());
                    self.hear(event);
                }
            }
            Step::Anomaly { skill, score, streamed } => self.detect(*skill, *score, *streamed),
            Step::Snapshot => self.hear(self.database.snapshot(self.at_micros)),
            Step::Say(frame) => self.hear((*frame).to_owned()),
            Step::Resend(events) => {
                let latest = self.events.len().saturating_sub(*events);
                (latest..self.events.len()).for_each(|event| self.hear(self.events[event].clone()));
            }
            Step::Reset => {
                self.is_intact = false;
                self.database = Database::default();
            }
            Step::LoseWrites(writes) => {
                self.is_intact = false;
                let left = self.database.invocations.len().saturating_sub(*writes);
                self.database.invocations.truncate(left);
            }
            Step::Keep(fate) => self.keep(*fate),
            Step::Die => self.die(),
        }
    }

    fn detect(&mut self, skill: usize, deviation_score: Option<f64>, streamed: Option<bool>) {
        self.anomalies += 1;
        if self.anomalies >= LISTED_MAX {
            return;
        }
        let anomaly = Anomaly {
            skill_name: skill_name(skill),
            anomaly_type: "drop".to_owned(),
            detected_at: sql_time(self.at_micros),
            deviation_score,
        };
        self.database.anomalies.push(anomaly.clone());
        if let Some(identified) = streamed {
            let id = format!("anomaly-{}", self.anomalies);
            let event = anomaly_event(identified.then_some(&*id), self.at_micros, &anomaly);
            self.events.push(event.clone());
            self.hear(event);
        }
    }

    fn hear(&mut self, frame: String) {
        self.bridge.hear(&frame, self.at_micros);
        self.received.push((Received::Frame(frame), self.at_micros));
    }

    /// What the keeper does, up to where it dies.
    fn keep(&mut self, fate: Fate) {
        let Some(changes) = self.bridge.take(self.at_micros) else {
            self.received.push((Received::Tick, self.at_micros));
            return if CRASHES.contains(&fate) {
                self.die()
            };
        };
        if fate == Fate::DiesBefore {
            return self.die();
        }
        let before = (self.disk.applied(), self.disk.pending_slots());
        let store = self.store.as_mut().expect("open");
        let committed = match fate {
            Fate::Fails(table) => self.disk.commit_against(table, store, &changes),
            _ => store.commit(&changes).map(|()| true).unwrap_or_else(|error| panic!("{error}")),
        };
        if !committed {
            self.failed_commits += 1;
            self.received.push((Received::Tick, self.at_micros));
            return;
        }
        match (self.disk.applied() > before.0, self.disk.pending_slots() > before.1) {
            (true, _) => self.journaled.wraps += 1,
            (false, true) => self.journaled.entries += 1,
            (false, false) => self.journaled.direct += 1,
        }
        self.kept_any = true;
        self.bridge.ledger.acknowledge(changes.sequence);
        self.catch_up();
        if let Some(changes) = self.spared.take(self.at_micros) {
            self.spared.ledger.acknowledge(changes.sequence);
            self.spared_shown.fold(changes);
        }
        if fate != Fate::DiesUnshown {
            self.shown.fold(changes);
        }
        if CRASHES.contains(&fate) {
            self.die();
        }
    }

    fn catch_up(&mut self) {
        for (received, at_micros) in self.received.drain(..) {
            match received {
                Received::Frame(frame) => self.spared.hear(&frame, at_micros),
                Received::Tick => self.spared.ledger.tick(self.spared.moment(at_micros), &mut Vec::new()),
            }
        }
    }

    fn die(&mut self) {
        self.store = None;
        self.received.clear();
        self.journaled.restarts += usize::from(self.disk.pending_slots() > 0);
        let (store, whole) = self.disk.open();
        self.store = Some(store);
        let LedgerState { skills, rules, .. } = whole.clone();
        self.shown.fold(Changes { skills, rules, ..Changes::default() });
        self.bridge = Bridge::start(whole, self.at_micros);
        if self.kept_any {
            self.spared.reconnect(self.at_micros);
        } else {
            self.spared = Bridge::start(LedgerState::default(), self.at_micros);
        }
    }

    /// Lets everything that waits come to its end.
    fn settle(&mut self) {
        for _ in 0..3 {
            self.at_micros += 6_000_000;
            self.take(&Step::Snapshot);
            self.take(&Step::Keep(Fate::Shown));
        }
        // What moved nothing that has to be kept.
        self.catch_up();
        // Its waits end at other moments than those of one whose clocks started over.
        if let Some(changes) = self.spared.take(self.at_micros) {
            self.spared.ledger.acknowledge(changes.sequence);
            self.spared_shown.fold(changes);
        }
    }

    fn agrees(&self) -> Result<(), TestCaseError> {
        let (shown, spared) = (&self.shown, &self.spared_shown);
        if self.plan.pace == Pace::Quick || !self.plan.streams {
            prop_assert_eq!(shown, spared);
        }
        prop_assert_eq!(shown.counts(), spared.counts());
        prop_assert_eq!(shown.anomalies(), spared.anomalies());
        prop_assert_eq!(shown.feed(0), spared.feed(0));
        prop_assert_eq!(without_waits(shown.rules), without_waits(spared.rules));
        let rates = |shown: &Shown| -> BTreeMap<_, _> {
            shown.skills().map(|skill| (skill.skill_name.clone(), skill.completion_rate)).collect()
        };
        prop_assert_eq!(rates(shown), rates(spared));
        let sessions = |bridge: &Bridge| bridge.ledger.active_sessions(bridge.moment(self.at_micros));
        prop_assert_eq!(sessions(&self.bridge), sessions(&self.spared));
        if self.is_intact && self.plan.skills <= LISTED_MAX {
            prop_assert_eq!(shown.counts(), self.database.counts());
            let mut happened = BTreeMap::new();
            for anomaly in &self.database.anomalies {
                *happened.entry((anomaly.anomaly_type.clone(), anomaly.skill_name.clone())).or_default() += 1;
            }
            prop_assert_eq!(shown.anomalies(), happened);
        }
        Ok(())
    }
}

/// The counters that do not depend on how a wait of an event or a rise ended.
fn without_waits(rules: RuleCounters) -> RuleCounters {
    let RuleCounters { inexact_rates, anomaly_window_overflows, overflowed_invocations, .. } = rules;
    RuleCounters { inexact_rates, anomaly_window_overflows, overflowed_invocations, ..RuleCounters::default() }
}

/// Plays the plan. How many of its commits failed, and what became of the journal.
fn play(plan: &Plan) -> Result<(usize, Journaled), TestCaseError> {
    thread_local!(static DISK: MemoryState = MemoryState::new());
    DISK.with(|disk| {
        let mut history = History::new(plan, disk);
        plan.steps.iter().for_each(|step| history.take(step));
        history.settle();
        history.agrees()?;
        Ok((history.failed_commits, history.journaled))
    })
}

proptest! {
    #![proptest_config(property())]

    #[test]
    fn anything_may_follow_anything(plan in any_plan()) {
        play(&plan)?;
    }

    /// The same again, so that two threads share the histories.
    #[test]
    fn anything_may_follow_anything_else(plan in any_plan()) {
        play(&plan)?;
    }
}

/// An event that a former source knows binds a feed to it again, without a list: its rates are shown from then on, not from the
/// next start.
#[test]
fn a_feed_that_an_event_returns_to_its_former_source_shows_its_rates() {
    let invoke = |completed| Step::Invoke {
        invocation: Invocation { skill_name: skill_name(0), workflow_phase: None, completed, duration_seconds: None },
        streamed: false,
    };
    let steps = vec![
        invoke(false),
        Step::Anomaly { skill: 0, score: None, streamed: Some(true) },
        Step::Snapshot,
        Step::Reset,
        invoke(true),
        Step::Snapshot,
        Step::Reset,
        Step::Snapshot,
        Step::Resend(1),
        // The event is held for 5 s.
        Step::Resend(1),
        Step::Keep(Fate::Shown),
        Step::Keep(Fate::DiesBefore),
    ];
    let plan = Plan { pace: Pace::Slow, skills: 7, streams: false, steps };
    play(&plan).map(drop).unwrap_or_else(|error| panic!("{error}"));
}

/// Histories of a sound server, always the same ones.
fn eventful(count: usize) -> Vec<Plan> {
    let mut runner = TestRunner::deterministic();
    let strategy = plans(|skills, streams| event(skills, streams).boxed());
    let mut plan = || strategy.new_tree(&mut runner).expect("a plan").current();
    std::iter::repeat_with(&mut plan).filter(|plan| plan.steps.len() >= 12).take(count).collect()
}

#[test]
fn the_bridge_may_die_at_every_commit_and_every_commit_may_fail() {
    let fates: Vec<_> = CRASHES.into_iter().chain(TABLES.map(Fate::Fails)).collect();
    let mut failed_commits = BTreeMap::new();
    let mut journaled = Journaled::default();
    for plan in eventful(if is_long() { 500 } else { 4 }) {
        for place in 0..plan.steps.len() {
            for fate in &fates {
                let keep = |at| Step::Keep(if at == place { *fate } else { Fate::Shown });
                let steps = plan.steps.iter().enumerate().flat_map(|(at, step)| [step.clone(), keep(at)]).collect();
                let failed = play(&Plan { steps, ..plan.clone() });
                let (failed, more) = failed.unwrap_or_else(|error| panic!("{fate:?} at {place} of {plan:?}: {error}"));
                journaled += more;
                if let Fate::Fails(table) = fate {
                    *failed_commits.entry(*table).or_insert(0) += failed;
                }
            }
        }
    }
    assert!(TABLES.iter().all(|table| failed_commits[table] > 0), "some commit fails at each: {failed_commits:?}");
    let Journaled { entries, wraps, direct, restarts } = journaled;
    assert!([entries, wraps, direct, restarts].iter().all(|times| *times > 0), "{journaled:?}");
}

/// A bridge that lives for longer than a journal, with commits of every size, and dies now and then.
#[test]
fn a_journal_that_was_full_again_and_again_is_invisible() {
    let mut runner = TestRunner::deterministic();
    let strategy = (any::<bool>(), prop::collection::vec((event(LISTED_MAX, true), 0..40_u8), 400));
    let mut journaled = Journaled::default();
    for _ in 0..if is_long() { 20 } else { 3 } {
        let (streams, events) = strategy.new_tree(&mut runner).expect("a history").current();
        let keep = |chance| match chance {
            0 => Fate::DiesAfter,
            1 => Fate::DiesUnshown,
            2 => Fate::DiesBefore,
            _ => Fate::Shown,
        };
        let steps = events.into_iter().flat_map(|(event, chance)| {
            let event = match event {
                Step::Invoke { invocation, streamed } => Step::Invoke { invocation, streamed: streamed && streams },
                event => event,
            };
            // Without a snapshot nothing changes where nothing is streamed.
            [event, Step::Snapshot, Step::Keep(keep(chance))]
        });
        let plan = Plan { pace: Pace::Slow, skills: LISTED_MAX, streams: true, steps: steps.collect() };
        journaled += play(&plan).unwrap_or_else(|error| panic!("{error}")).1;
    }
    let Journaled { entries, wraps, direct, restarts } = journaled;
    assert!(entries > 300 && wraps > 3 && direct > 0 && restarts > 10, "{journaled:?}");
}

/// A write-ahead log is a header and frames of one page each.
const LOG_HEADER_BYTES: usize = 32;
const FRAME_HEADER_BYTES: usize = 24;

#[test]
fn every_write_of_the_store_may_be_its_last() {
    let mut cuts = 0;
    for plan in eventful(3) {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("state.db");
        let Opened { mut store, restored: whole, .. } = open(&path);
        let mut bridge = Bridge::start(whole, 0);
        // How long the log was when what was on disk.
        let mut moments = vec![(0, LedgerState::default()), (log(&path).len(), LedgerState::default())];
        let disk = MemoryState::new();
        let mut database = History::new(&plan, &disk);
        for step in &plan.steps {
            let received = database.received.len();
            database.take(step);
            for (received, at_micros) in database.received.drain(received..) {
                if let Received::Frame(frame) = received {
                    bridge.hear(&frame, at_micros);
                }
            }
            if let Some(changes) = bridge.take(database.at_micros) {
                store.commit(&changes).unwrap_or_else(|error| panic!("{error}"));
                moments.push((log(&path).len(), Store::look(&path).unwrap_or_else(|error| panic!("{error}"))));
            }
        }
        let (main, log) = (fs::read(&path).expect("a database"), log(&path));
        let page_bytes = u32::from_be_bytes(log[8..12].try_into().expect("four bytes")) as usize;
        let frame_bytes = FRAME_HEADER_BYTES + page_bytes;
        for between in moments.windows(2) {
            let [(from, before), (to, after)] = between else { unreachable!("windows of two") };
            for frame in (*from..*to).step_by(frame_bytes) {
                let first = if *from == 0 { LOG_HEADER_BYTES + frame } else { frame };
                for cut in [first, first + frame_bytes / 2] {
                    assert_eq!(reopened(&main, &log[..cut.min(*to - 1)]), *before, "cut at {cut} of {to}");
                    cuts += 1;
                }
            }
            assert_eq!(reopened(&main, &log[..*to]), *after);
        }
    }
    assert!(cuts > 100, "only {cuts} cuts");
}

fn open(path: &Path) -> Opened<LedgerState> {
    Store::open(path, LedgerState::validated).unwrap_or_else(|error| panic!("{error}"))
}

fn log(path: &Path) -> Vec<u8> {
    fs::read(path.with_extension("db-wal")).unwrap_or_default()
}

/// What a state holds that was found with these bytes.
fn reopened(main: &[u8], log: &[u8]) -> LedgerState {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("state.db");
    fs::write(&path, main).expect("a database");
    fs::write(path.with_extension("db-wal"), log).expect("a log");
    let opened = open(&path);
    assert_eq!(opened.quarantined, None);
    opened.restored
}
