//! Streamed events beside snapshots of the same skills (rule 4.8): however they are late, lost or repeated, they add
//! nothing to what the snapshots prove.

use std::collections::{BTreeMap, BTreeSet};

use crate::support::model::{Database, Invocation, SECOND, invocation_event, invocations};
use crate::support::observer::Observer;
use crate::support::property;
use crate::support::shown::bucket_of;
use proptest::prelude::*;

/// Longer than every wait of rule 4.8: snapshots go on for so many seconds after the last frame of a history.
const SETTLING_SECONDS: i64 = 15;

const MILLISECOND: i64 = SECOND / 1000;

/// One invocation and what becomes of its event.
#[derive(Debug, Clone)]
struct Told {
    at_micros: i64,
    invocation: Invocation,
    /// Whether the event carries an `id`, so that its copies can be told.
    identified: bool,
    /// When each copy arrives; none where the event is lost.
    arrivals_micros: Vec<i64>,
}

/// What arrives when, beside a snapshot each second.
#[derive(Debug, Clone)]
struct Script {
    told: Vec<Told>,
    snapshots_lost: BTreeSet<i64>,
    reconnects: BTreeSet<i64>,
}

/// Which of the faults a history may have.
#[derive(Debug, Clone, Copy)]
struct Faults {
    lost: bool,
    copies: bool,
    copies_without_id: bool,
    late_by_micros_max: i64,
    snapshots_lost: bool,
}

fn tellings(faults: Faults) -> impl Strategy<Value = Told> {
    let delays =
        prop::collection::vec(0..=faults.late_by_micros_max / MILLISECOND, 1..=if faults.copies { 3 } else { 1 });
    let lost = prop::bool::weighted(if faults.lost { 0.2 } else { 0.0 });
    // Nothing happens on a whole second, where snapshots are taken.
    (0_i64..30, 1_i64..999, invocations(4), any::<bool>(), delays, lost).prop_map(
        move |(seconds, milliseconds, mut invocation, identified, delays, lost)| {
            let at_micros = seconds * SECOND + milliseconds * MILLISECOND;
            invocation.workflow_phase.get_or_insert_with(|| "cleanup".to_owned());
            let identified = identified || (delays.len() > 1 && !faults.copies_without_id);
            let arrivals_micros = match lost {
                true => Vec::new(),
                false => delays.iter().map(|delay| at_micros + delay * MILLISECOND + 1).collect(),
            };
            Told { at_micros, invocation, identified, arrivals_micros }
        },
    )
}

fn scripts(faults: Faults) -> impl Strategy<Value = Script> {
    let seconds = |share: f64| {
        prop::collection::vec(prop::bool::weighted(share), 40).prop_map(|picked| {
            (1..).zip(picked).filter(|(_, picked)| *picked).map(|(second, _)| second).collect::<BTreeSet<i64>>()
        })
    };
    let lost = seconds(if faults.snapshots_lost { 0.3 } else { 0.0 });
    (prop::collection::vec(tellings(faults), 1..60), lost, seconds(0.05))
        .prop_map(|(told, snapshots_lost, reconnects)| Script { told, snapshots_lost, reconnects })
}

/// What can happen at one instant, in the order in which it then happens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Happening {
    Invoked(usize),
    Arrives(usize),
    Second(i64),
}

struct Stage<'s> {
    script: &'s Script,
    observer: Observer,
    database: Database,
    listed: BTreeSet<String>,
    /// Events that came before their skill was listed, copies that no `id` told included: they count at once.
    at_once: BTreeMap<(String, bool), u64>,
    ids_heard: BTreeSet<usize>,
    /// Events that are not told as copies.
    events_heard: u64,
}

impl<'s> Stage<'s> {
    fn new(script: &'s Script) -> Self {
        Self {
            script,
            observer: Observer::connected(),
            database: Database::default(),
            listed: BTreeSet::new(),
            at_once: BTreeMap::new(),
            ids_heard: BTreeSet::new(),
            events_heard: 0,
        }
    }

    /// Plays the whole script and holds `check` after every step.
    fn play(mut self, check: impl Fn(&Self) -> Result<(), TestCaseError>) -> Result<Self, TestCaseError> {
        let mut happenings = Vec::new();
        for (index, told) in self.script.told.iter().enumerate() {
            happenings.push((told.at_micros, Happening::Invoked(index)));
            happenings.extend(told.arrivals_micros.iter().map(|at| (*at, Happening::Arrives(index))));
        }
        let last_second = happenings.iter().map(|(at, _)| at / SECOND + 1).max().unwrap_or(0);
        let seconds = 0..=last_second + SETTLING_SECONDS;
        happenings.extend(seconds.map(|second| (second * SECOND, Happening::Second(second))));
        happenings.sort_unstable();
        for (at_micros, happening) in happenings {
            match happening {
                Happening::Invoked(index) => self.database.invocations.push(self.script.told[index].invocation.clone()),
                Happening::Arrives(index) => self.arrive(index, at_micros),
                Happening::Second(second) => self.second(second, second <= last_second),
            }
            check(&self)?;
        }
        Ok(self)
    }

    fn arrive(&mut self, index: usize, at_micros: i64) {
        let told = &self.script.told[index];
        let id = told.identified.then(|| format!("id-{index}"));
        self.observer.hear(0, &invocation_event(id.as_deref(), told.at_micros, &told.invocation), at_micros);
        if told.identified && !self.ids_heard.insert(index) {
            return;
        }
        self.events_heard += 1;
        let Invocation { skill_name, completed, .. } = &told.invocation;
        if !self.listed.contains(skill_name) {
            *self.at_once.entry((skill_name.clone(), *completed)).or_default() += 1;
        }
    }

    fn second(&mut self, second: i64, may_fail: bool) {
        let at_micros = second * SECOND;
        if may_fail && self.script.reconnects.contains(&second) {
            self.observer.reopen(0, at_micros);
        }
        if !(may_fail && self.script.snapshots_lost.contains(&second)) {
            self.observer.hear(0, &self.database.snapshot(at_micros), at_micros);
            self.listed.extend(self.database.invocations.iter().map(|it| it.skill_name.clone()));
        }
        self.observer.tick(at_micros);
    }

    /// What the database holds, or, where copies without an `id` came before the first listing, what they made of it:
    /// nothing can be taken back.
    fn most(&self) -> BTreeMap<(String, bool), u64> {
        let mut most = self.database.counts();
        for (key, at_once) in &self.at_once {
            let most = most.entry(key.clone()).or_default();
            *most = (*most).max(*at_once);
        }
        most
    }

    fn never_more_than_happened(&self) -> Result<(), TestCaseError> {
        let most = self.most();
        for (key, count) in self.observer.shown.counts() {
            prop_assert!(count <= most.get(&key).copied().unwrap_or(0), "{key:?} counted {count} of {most:?}");
        }
        Ok(())
    }

    /// The database's invocations by skill, phase and `completed`.
    fn counts_by_phase(&self) -> BTreeMap<(String, String, bool), u64> {
        let mut counts = BTreeMap::new();
        for it in &self.database.invocations {
            let phase = it.workflow_phase.clone().expect("every scripted invocation has one");
            *counts.entry((it.skill_name.clone(), phase, it.completed)).or_default() += 1;
        }
        counts
    }

    /// For histories where each event is applied at most once: its own phase can only lose a count to `unknown`.
    fn phases_only_lose_to_unknown(&self) -> Result<(), TestCaseError> {
        let happened = self.counts_by_phase();
        for (key, count) in self.observer.shown.counts_by_phase() {
            if key.1 != "unknown" {
                prop_assert!(count <= happened.get(&key).copied().unwrap_or(0), "{key:?} counted {count}");
            }
        }
        Ok(())
    }

    fn durations_never_exceed_the_database(&self) -> Result<(), TestCaseError> {
        for (name, skill) in self.database.metrics() {
            let shown = self.observer.shown.durations(name);
            prop_assert!(shown.count() <= skill.completed, "{name}: {shown:?} of {skill:?}");
            prop_assert!(shown.sum <= skill.duration_seconds * (1.0 + 1e-9), "{name}: {shown:?} of {skill:?}");
        }
        Ok(())
    }
}

proptest! {
    #![proptest_config(property())]

    #[test]
    fn no_fault_adds_a_count(script in scripts(Faults {
        lost: true, copies: true, copies_without_id: true, late_by_micros_max: 12 * SECOND, snapshots_lost: true,
    })) {
        let stage = Stage::new(&script).play(Stage::never_more_than_happened)?;
        prop_assert_eq!(stage.observer.shown.counts(), stage.most(), "all waits are over");
        let by_phase = stage.observer.shown.counts_by_phase();
        let told: u64 = by_phase.iter().filter(|((_, phase, _), _)| phase != "unknown").map(|(_, count)| count).sum();
        let late = stage.observer.shown.rules.late_events;
        prop_assert_eq!(told + late, stage.events_heard, "an event is counted in its phase, or as late");
    }

    #[test]
    fn copies_that_an_id_tells_change_nothing(script in scripts(Faults {
        lost: true, copies: true, copies_without_id: false, late_by_micros_max: 12 * SECOND, snapshots_lost: true,
    })) {
        let stage = Stage::new(&script).play(|stage| {
            stage.never_more_than_happened()?;
            stage.phases_only_lose_to_unknown()?;
            stage.durations_never_exceed_the_database()
        })?;
        prop_assert_eq!(stage.observer.shown.counts(), stage.database.counts());
    }

    #[test]
    fn prompt_events_keep_their_phases_and_durations(mut script in scripts(Faults {
        lost: false, copies: false, copies_without_id: false, late_by_micros_max: 0, snapshots_lost: true,
    })) {
        script.told.push(warm_up());
        let stage = Stage::new(&script).play(Stage::never_more_than_happened)?;
        prop_assert_eq!(stage.observer.shown.counts_by_phase(), stage.counts_by_phase());
        prop_assert_eq!(stage.observer.shown.rules.late_events, 0);
        prop_assert_eq!(stage.observer.shown.rules.estimated_observations, 0);
        for (name, skill) in stage.database.metrics() {
            let mut buckets = [0; 10];
            let known = stage.database.invocations.iter().filter(|it| it.skill_name == name);
            known.filter_map(|it| it.duration_seconds).for_each(|seconds| buckets[bucket_of(seconds)] += 1);
            let shown = stage.observer.shown.durations(name);
            prop_assert_eq!(shown.buckets, buckets, "{}", name);
            prop_assert!((shown.sum - skill.duration_seconds).abs() <= 1e-9 * skill.duration_seconds);
        }
    }

    #[test]
    fn events_within_the_wait_keep_their_phases(mut script in scripts(Faults {
        lost: false, copies: true, copies_without_id: false, late_by_micros_max: 3900 * MILLISECOND, snapshots_lost: false,
    })) {
        script.told.push(warm_up());
        let stage = Stage::new(&script).play(Stage::never_more_than_happened)?;
        prop_assert_eq!(stage.observer.shown.counts_by_phase(), stage.counts_by_phase());
        prop_assert_eq!(stage.observer.shown.rules.late_events, 0);
        for (name, skill) in stage.database.metrics() {
            let shown = stage.observer.shown.durations(name);
            prop_assert!(shown.count() <= skill.completed, "{name}: {shown:?} of {skill:?}");
            prop_assert!((shown.sum - skill.duration_seconds).abs() <= 1e-9 * skill.duration_seconds, "{shown:?}");
        }
    }
}

/// A rise waits only on a feed that has streamed before: a first event that comes at once.
fn warm_up() -> Told {
    told(0.0005, invocation("setup", 1.0), Some(0.0001))
}

fn invocation(workflow_phase: &str, seconds: f64) -> Invocation {
    Invocation {
        skill_name: "a".to_owned(),
        workflow_phase: Some(workflow_phase.to_owned()),
        completed: true,
        duration_seconds: Some(seconds),
    }
}

/// One invocation `at_seconds`, with an event that needs `delay_seconds` to arrive.
fn told(at_seconds: f64, invocation: Invocation, delay_seconds: Option<f64>) -> Told {
    let micros = |seconds: f64| (seconds * SECOND as f64) as i64;
    let arrivals_micros = delay_seconds.iter().map(|delay| micros(at_seconds + delay)).collect();
    Told { at_micros: micros(at_seconds), invocation, identified: false, arrivals_micros }
}

fn played(told: Vec<Told>) -> Observer {
    let script = Script { told, snapshots_lost: BTreeSet::new(), reconnects: BTreeSet::new() };
    let stage = Stage::new(&script).play(Stage::never_more_than_happened).expect("the history agrees");
    stage.observer
}

fn by_phase<const N: usize>(counts: [(&str, u64); N]) -> BTreeMap<(String, String, bool), u64> {
    counts.into_iter().map(|(phase, count)| (("a".to_owned(), phase.to_owned(), true), count)).collect()
}

/// A skill that streams and is listed: what the histories below start from.
fn first() -> Told {
    told(0.5, invocation("setup", 1.0), Some(0.1))
}

#[test]
fn a_lost_event_is_counted_as_unknown_with_its_duration() {
    let observer = played(vec![first(), told(2.5, invocation("execution", 7.0), None)]);
    assert_eq!(observer.shown.counts_by_phase(), by_phase([("setup", 1), ("unknown", 1)]));
    let skill = observer.shown.skill("a").expect("listed");
    let unknown = skill.phases.iter().find(|phase| &*phase.workflow_phase == "unknown").expect("counted");
    assert_eq!((unknown.durations.buckets[bucket_of(7.0)], unknown.durations.sum), (1, 7.0));
}

#[test]
fn an_event_that_comes_after_the_wait_is_dropped_as_late() {
    let observer = played(vec![first(), told(2.5, invocation("execution", 7.0), Some(8.0))]);
    assert_eq!(observer.shown.counts_by_phase(), by_phase([("setup", 1), ("unknown", 1)]));
    assert_eq!(observer.shown.rules.late_events, 1);
    assert_eq!(observer.shown.durations("a").sum, 8.0);
}

#[test]
fn what_a_lost_event_leaves_keeps_the_sum_of_durations() {
    let lost = told(2.5, invocation("execution", 2.0), None);
    let observer = played(vec![first(), lost, told(4.5, invocation("cleanup", 5.0), Some(0.1))]);
    assert_eq!(observer.shown.counts_by_phase(), by_phase([("cleanup", 1), ("setup", 1), ("unknown", 1)]));
    assert_eq!(observer.shown.durations("a").count(), 3);
    assert!((observer.shown.durations("a").sum - 8.0).abs() < 1e-9);
}

#[test]
fn a_late_event_lends_no_duration_that_the_sum_does_not_hold() {
    let without_duration = Invocation { duration_seconds: None, ..invocation("cleanup", 0.0) };
    let late = told(2.5, invocation("execution", 7.0), Some(8.0));
    let observer = played(vec![first(), late, told(10.7, without_duration, Some(0.1))]);
    assert_eq!(observer.shown.counts()[&("a".to_owned(), true)], 3);
    assert_eq!((observer.shown.durations("a").count(), observer.shown.durations("a").sum), (2, 8.0));
}

#[test]
fn a_rise_waits_only_on_a_feed_that_streams() {
    let mut database = Database { invocations: vec![invocation("setup", 1.0)], ..Database::default() };
    let mut silent = Observer::connected();
    silent.hear(0, &database.snapshot(SECOND), SECOND);
    database.invocations.push(invocation("setup", 1.0));
    silent.hear(0, &database.snapshot(2 * SECOND), 2 * SECOND);
    assert_eq!(silent.shown.counts_by_phase(), by_phase([("unknown", 2)]), "nothing streams: nothing to wait for");

    let mut streaming = Observer::connected();
    streaming.hear(0, &invocation_event(None, 0, &invocation("setup", 1.0)), SECOND);
    streaming.hear(0, &database.snapshot(2 * SECOND), 2 * SECOND);
    assert_eq!(streaming.shown.counts_by_phase(), by_phase([("setup", 1)]), "the other one's event may come");
    streaming.tick(8 * SECOND);
    assert_eq!(streaming.shown.counts_by_phase(), by_phase([("setup", 1), ("unknown", 1)]));
}

#[test]
fn a_feed_without_snapshots_counts_every_event_at_once() {
    let mut observer = Observer::connected();
    // The hold of a feed's start is over after 5 s: no snapshot will end it.
    for second in 6..9 {
        observer.hear(0, &invocation_event(None, 0, &invocation("setup", 1.0)), second * SECOND);
    }
    assert_eq!(observer.shown.counts_by_phase(), by_phase([("setup", 3)]));
    assert_eq!(observer.shown.durations("a").sum, 3.0);
}

#[test]
fn an_abandoned_invocation_is_observed_where_its_event_knows_a_duration() {
    let abandoned = Invocation { completed: false, ..invocation("setup", 4.0) };
    let observer = played(vec![first(), told(2.5, abandoned, Some(0.1))]);
    assert_eq!(observer.shown.durations("a").sum, 5.0);
    assert_eq!(observer.shown.durations("a").count(), 2);
}
