//! Whatever one server's database goes through, the ledger shows what its snapshots prove, and never more than happened.

use std::collections::{BTreeMap, BTreeSet};

use crate::support::model::{
    Database, Invocation, LISTED_MAX, Metrics, SECOND, invocations, metrics_update, skill_name,
};
use crate::support::observer::Observer;
use crate::support::property;
use crate::support::shown::bucket_of;
use proptest::prelude::*;

/// What happens to the server, and to the feed.
#[derive(Debug, Clone)]
enum Step {
    Invoke(Invocation),
    SnapshotDelivered,
    SnapshotLost,
    Reconnect,
    /// A frame that says nothing.
    Noise,
    /// The database is deleted; another starts from nothing.
    Reset,
    /// A power cut: the last writes are gone.
    LoseWrites(usize),
}

fn steps(skills: usize) -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        40 => invocations(skills).prop_map(Step::Invoke),
        14 => Just(Step::SnapshotDelivered),
        3 => Just(Step::SnapshotLost),
        2 => Just(Step::Reconnect),
        1 => Just(Step::Noise),
    ];
    let history = prop::collection::vec(invocations(skills).prop_map(Step::Invoke), 0..150);
    (history, prop::collection::vec(step, 1..150)).prop_map(|(history, steps)| [history, steps].concat())
}

/// What a list proves about the database behind it (rule 4.3).
#[derive(Debug, PartialEq)]
enum Verdict {
    Same,
    New,
    RolledBack,
}

fn verdict(remembered: &BTreeMap<String, Metrics>, list: &[Metrics]) -> Verdict {
    let names: BTreeSet<_> = list.iter().map(|skill| &skill.skill_name).collect();
    let missing = list.len() < LISTED_MAX && remembered.keys().any(|name| !names.contains(name));
    // A full list bounds what it leaves out: the tenth total of one database never falls.
    let tenth = list.get(LISTED_MAX - 1).map_or(u64::MAX / 10, |skill| skill.total);
    let outgrown = remembered.values().any(|was| !names.contains(&was.skill_name) && 10 * tenth < 9 * was.total);
    let known: Vec<_> = list.iter().filter_map(|now| Some((remembered.get(&now.skill_name)?, now))).collect();
    let falls = known.iter().any(|(was, now)| now.completed < was.completed || now.abandoned() < was.abandoned());
    match missing || outgrown || falls {
        false => Verdict::Same,
        true if !missing && !outgrown && known.iter().all(|(was, now)| 10 * now.total >= 9 * was.total) => {
            Verdict::RolledBack
        }
        true => Verdict::New,
    }
}

/// The durations that one skill's snapshots prove.
#[derive(Debug, Default)]
struct Durations {
    buckets: [u64; 10],
    sum: f64,
    exact: u64,
    estimated: u64,
    /// The largest sum that was ever part of a difference.
    scale: f64,
    /// A sum fell although the database seemed the same, or a mean lies too near a bound to tell its side.
    doubtful: bool,
}

impl Durations {
    fn rise(&mut self, was: &Metrics, now: &Metrics) {
        let completions = now.completed - was.completed;
        let seconds = now.duration_seconds - was.duration_seconds;
        let known = seconds.abs() > 1e-11 * now.duration_seconds.max(was.duration_seconds);
        self.scale = self.scale.max(now.duration_seconds);
        self.doubtful |= known && (seconds < 0.0 || completions == 0);
        if completions == 0 || !known || self.doubtful {
            return;
        }
        // Written durations are multiples of 0.1 ms: what the difference of two sums lost comes back by rounding.
        let mean = if completions == 1 { (seconds * 1e4).round() / 1e4 } else { seconds / completions as f64 };
        self.doubtful |= completions > 1 && bucket_of(mean * (1.0 - 1e-9)) != bucket_of(mean * (1.0 + 1e-9));
        self.buckets[bucket_of(mean)] += completions;
        self.sum += seconds;
        *if completions == 1 { &mut self.exact } else { &mut self.estimated } += completions;
    }
}

/// What the lists delivered so far prove: by skill, the numbers of the present database beside what earlier ones left.
#[derive(Debug, Default)]
struct Proven {
    remembered: BTreeMap<String, Metrics>,
    /// What counts beyond the remembered numbers, by skill: completed and abandoned. Negative where a reset or a
    /// rollback went unseen.
    beyond: BTreeMap<String, (i64, i64)>,
    previous: Option<BTreeSet<String>>,
    durations: BTreeMap<String, Durations>,
    resets: u64,
    rollbacks: u64,
}

impl Proven {
    fn hear(&mut self, list: &[Metrics]) -> Verdict {
        let verdict = verdict(&self.remembered, list);
        match verdict {
            Verdict::Same => {}
            Verdict::New => {
                self.resets += 1;
                self.previous = Some(BTreeSet::new());
                for (name, was) in std::mem::take(&mut self.remembered) {
                    let beyond = self.beyond.entry(name).or_default();
                    beyond.0 += was.completed as i64;
                    beyond.1 += was.abandoned() as i64;
                }
            }
            Verdict::RolledBack => {
                self.rollbacks += 1;
                for now in list {
                    let Some(remembered) = self.remembered.get_mut(&now.skill_name) else { continue };
                    let was = std::mem::replace(remembered, now.clone());
                    let beyond = self.beyond.entry(now.skill_name.clone()).or_default();
                    beyond.0 += was.completed as i64 - now.completed as i64;
                    beyond.1 += was.abandoned() as i64 - now.abandoned() as i64;
                }
            }
        }
        let room = self.previous.as_ref().is_some_and(|previous| previous.len() < LISTED_MAX);
        for now in list {
            let durations = self.durations.entry(now.skill_name.clone()).or_default();
            match self.remembered.insert(now.skill_name.clone(), now.clone()) {
                Some(was) => durations.rise(&was, now),
                None if room => durations.rise(&Metrics::none(&now.skill_name), now),
                None => {}
            }
        }
        self.previous = Some(list.iter().map(|skill| skill.skill_name.clone()).collect());
        verdict
    }

    fn counts(&self) -> BTreeMap<(String, bool), u64> {
        let mut counts: BTreeMap<(String, bool), i64> = BTreeMap::new();
        for (name, beyond) in &self.beyond {
            *counts.entry((name.clone(), true)).or_default() += beyond.0;
            *counts.entry((name.clone(), false)).or_default() += beyond.1;
        }
        for (name, now) in &self.remembered {
            *counts.entry((name.clone(), true)).or_default() += now.completed as i64;
            *counts.entry((name.clone(), false)).or_default() += now.abandoned() as i64;
        }
        counts.retain(|_, count| *count != 0);
        counts.into_iter().map(|(key, count)| (key, count.try_into().expect("a proven count is positive"))).collect()
    }
}

/// One server, the feed that hears it, and what must come of it.
struct History {
    observer: Observer,
    database: Database,
    proven: Proven,
    happened: BTreeMap<(String, bool), u64>,
    at_micros: i64,
    database_is_new: bool,
    /// A reset passed for growth or for a rollback. With more skills than a list holds, a skill that returns later may
    /// give it away, and what was counted meanwhile counts again.
    reset_went_unseen: bool,
}

impl History {
    fn new() -> Self {
        Self {
            observer: Observer::connected(),
            database: Database::default(),
            proven: Proven::default(),
            happened: BTreeMap::new(),
            at_micros: 0,
            database_is_new: false,
            reset_went_unseen: false,
        }
    }

    fn take(&mut self, step: &Step) -> Result<(), TestCaseError> {
        self.at_micros += 1;
        match step {
            Step::Invoke(invocation) => {
                *self.happened.entry((invocation.skill_name.clone(), invocation.completed)).or_default() += 1;
                self.database.invocations.push(invocation.clone());
            }
            Step::SnapshotLost => self.at_micros += SECOND,
            Step::Reconnect => self.observer.reopen(0, self.at_micros),
            Step::Noise => self.observer.hear(0, "{\"type\": ", self.at_micros),
            Step::Reset => {
                self.database = Database::default();
                self.database_is_new = true;
            }
            Step::LoseWrites(writes) => self.lose_writes(*writes),
            Step::SnapshotDelivered => return self.deliver(),
        }
        Ok(())
    }

    /// Loses them only where the remembered numbers allow rule 4.3 to see it for what it is.
    fn lose_writes(&mut self, writes: usize) {
        let mut younger = self.database.clone();
        younger.invocations.truncate(younger.invocations.len().saturating_sub(writes));
        let metrics = younger.metrics();
        let total = |name: &str| metrics.get(name).map_or(0, |skill| skill.total);
        if self.proven.remembered.values().all(|was| 10 * total(&was.skill_name) >= 9 * was.total) {
            self.database = younger;
        }
    }

    fn deliver(&mut self) -> Result<(), TestCaseError> {
        self.at_micros += SECOND;
        let list = self.database.top_ten();
        self.observer.hear(0, &self.database.snapshot(self.at_micros), self.at_micros);
        let remembered_any = !self.proven.remembered.is_empty();
        let verdict = self.proven.hear(&list);
        self.reset_went_unseen |= self.database_is_new && remembered_any && verdict != Verdict::New;
        self.database_is_new = false;
        self.agree(&list)
    }

    fn agree(&self, list: &[Metrics]) -> Result<(), TestCaseError> {
        let shown = &self.observer.shown;
        let counts = shown.counts();
        prop_assert_eq!(&counts, &self.proven.counts());
        let skills: BTreeSet<_> = self.happened.keys().map(|(name, _)| name).collect();
        if !self.reset_went_unseen || skills.len() <= LISTED_MAX {
            for (key, count) in &counts {
                prop_assert!(count <= &self.happened[key], "{key:?} counted {count}, happened {}", self.happened[key]);
            }
        }
        let feed = shown.feed(0);
        prop_assert_eq!((feed.resets, feed.rollbacks), (self.proven.resets, self.proven.rollbacks));
        let tenth = list.get(LISTED_MAX - 1).map_or(0, |skill| skill.total);
        prop_assert_eq!(feed.tenth_skill_invocations, Some(tenth));
        prop_assert_eq!((shown.rules.inexact_rates, shown.rules.late_events), (0, 0));
        if self.proven.resets == 0 {
            prop_assert_eq!(shown.rules.backfilled_invocations, 0, "no series is older than its skill's first sight");
        }
        for skill in list {
            let rate = shown.skill(&skill.skill_name).and_then(|series| series.completion_rate);
            let expected = skill.completed as f64 / skill.total as f64;
            prop_assert!(rate.is_some_and(|rate| (rate - expected).abs() < 1e-12), "{skill:?} shown as {rate:?}");
        }
        self.durations_agree()
    }

    fn durations_agree(&self) -> Result<(), TestCaseError> {
        let rules = &self.observer.shown.rules;
        let counts = self.observer.shown.counts();
        let proven = self.proven.durations.values();
        let (exact, estimated) =
            proven.fold((0, 0), |(exact, estimated), it| (exact + it.exact, estimated + it.estimated));
        if !self.proven.durations.values().any(|it| it.doubtful) {
            prop_assert_eq!((rules.exact_observations, rules.estimated_observations), (exact, estimated));
        }
        let mut observed = 0;
        for (name, proven) in &self.proven.durations {
            let shown = self.observer.shown.durations(name);
            observed += shown.count();
            let completed = counts.get(&(name.clone(), true)).copied().unwrap_or(0);
            prop_assert!(shown.count() <= completed, "{name}: more durations than completions");
            if !proven.doubtful {
                prop_assert_eq!(shown.buckets, proven.buckets, "{}", name);
                prop_assert!(
                    (shown.sum - proven.sum).abs() <= 1e-9 * proven.scale,
                    "{name}: {} {}",
                    shown.sum,
                    proven.sum
                );
            }
        }
        prop_assert_eq!(rules.exact_observations + rules.estimated_observations, observed);
        Ok(())
    }
}

fn agrees(steps: &[Step]) -> Result<(), TestCaseError> {
    let mut history = History::new();
    steps.iter().try_for_each(|step| history.take(step))?;
    history.deliver()
}

proptest! {
    #![proptest_config(property())]

    #[test]
    fn where_every_skill_is_listed(steps in (1_usize..=10).prop_flat_map(steps)) {
        agrees(&steps)?;
    }

    #[test]
    fn where_skills_leave_the_list_and_return(steps in (11_usize..=16).prop_flat_map(steps)) {
        agrees(&steps)?;
    }
}

fn completed(skill_name: &str, seconds: f64) -> Invocation {
    Invocation {
        skill_name: skill_name.to_owned(),
        workflow_phase: None,
        completed: true,
        duration_seconds: Some(seconds),
    }
}

/// Plays the steps and returns what is shown.
fn played(steps: &[Step]) -> Observer {
    let mut history = History::new();
    steps.iter().try_for_each(|step| history.take(step)).expect("the history agrees");
    history.observer
}

#[test]
fn the_first_snapshot_is_counted_whole_and_observes_nothing() {
    let past = vec![Step::Invoke(completed("a", 2.0)); 5];
    let observer = played(&[past, vec![Step::SnapshotDelivered]].concat());
    assert_eq!(observer.shown.counts(), BTreeMap::from([(("a".to_owned(), true), 5)]));
    assert_eq!(observer.shown.durations("a").count(), 0);
    assert_eq!(observer.shown.skill("a").expect("listed").phases[0].workflow_phase.as_ref(), "unknown");
}

#[test]
fn a_skill_that_a_list_with_room_did_not_hold_is_new() {
    use Step::{Invoke, SnapshotDelivered};
    let observer = played(&[SnapshotDelivered, Invoke(completed("a", 2.0)), SnapshotDelivered]);
    assert_eq!(observer.shown.durations("a").buckets[bucket_of(2.0)], 1);
    assert_eq!(observer.shown.rules.exact_observations, 1);
}

#[test]
fn a_deleted_database_counts_on_top() {
    use Step::{Invoke, Reset, SnapshotDelivered};
    let before = vec![Invoke(completed("a", 1.0)); 4];
    let after = vec![SnapshotDelivered, Reset, Invoke(completed("b", 3.0)), SnapshotDelivered];
    let observer = played(&[before, after].concat());
    let expected = BTreeMap::from([(("a".to_owned(), true), 4), (("b".to_owned(), true), 1)]);
    assert_eq!(observer.shown.counts(), expected);
    assert_eq!(observer.shown.durations("b").sum, 3.0, "a new database began empty: its durations are known");
}

#[test]
fn a_full_list_bounds_what_it_leaves_out() {
    let listed = |at_micros: i64, totals: &[(usize, u64)]| {
        let skill = |(skill, total): &(usize, u64)| Metrics { total: *total, ..Metrics::none(&skill_name(*skill)) };
        metrics_update(at_micros, &totals.iter().map(skill).collect::<Vec<_>>(), &[])
    };
    let mut observer = Observer::connected();
    observer.hear(0, &listed(SECOND, &[(0, 50)]), SECOND);
    let mut totals: Vec<_> = (1..=LISTED_MAX).map(|skill| (skill, 5)).collect();
    observer.hear(0, &listed(2 * SECOND, &totals), 2 * SECOND);
    assert_eq!(observer.shown.feed(0).resets, 1, "no unlisted skill has more than 5: the 50 are gone");
    totals.pop();
    totals.insert(0, (0, 7));
    observer.hear(0, &listed(3 * SECOND, &totals), 3 * SECOND);
    assert_eq!(observer.shown.feed(0).resets, 1);
    let count = |skill| observer.shown.counts()[&(skill_name(skill), false)];
    assert_eq!((count(0), count(1), count(LISTED_MAX)), (57, 5, 5), "nothing counts twice");
}

#[test]
fn a_power_cut_moves_the_remembered_numbers_and_counts_nothing() {
    use Step::{Invoke, LoseWrites, SnapshotDelivered};
    let before = vec![Invoke(completed("a", 1.0)); 200];
    let cut = vec![SnapshotDelivered, LoseWrites(2), SnapshotDelivered];
    let after = vec![Invoke(completed("a", 7.0)), SnapshotDelivered];
    let observer = played(&[before, cut, after].concat());
    assert_eq!(observer.shown.counts()[&("a".to_owned(), true)], 201, "200 of before, none of the cut, 1 of after");
    assert_eq!(observer.shown.feed(0).rollbacks, 1);
    assert!((observer.shown.durations("a").sum - 7.0).abs() < 1e-9);
}

#[test]
fn frames_of_an_older_connection_are_discarded() {
    let mut observer = Observer::connected();
    let older = observer.connection(0).expect("open");
    observer.open(0, SECOND);
    let database = Database { invocations: vec![completed("a", 1.0)], ..Database::default() };
    observer.hear_on(older, &database.snapshot(SECOND), SECOND);
    assert!(observer.shown.is_empty());
    observer.hear(0, &database.snapshot(2 * SECOND), 2 * SECOND);
    assert_eq!(observer.shown.counts()[&("a".to_owned(), true)], 1);
}

#[test]
fn an_inexact_rate_is_believed_for_its_total_alone() {
    let listed = |total: u64, rate: &str, at_micros: i64| {
        let exact = crate::support::model::metrics_update(at_micros, &[Metrics { total, ..Metrics::none("a") }], &[]);
        exact.replace("\"completion_rate\": 0.0", &format!("\"completion_rate\": {rate}"))
    };
    let mut observer = Observer::connected();
    observer.hear(0, &listed(3, "66.67", SECOND), SECOND);
    observer.hear(0, &listed(6, "50.01", 2 * SECOND), 2 * SECOND);
    observer.hear(0, &listed(6, "49.99", 3 * SECOND), 3 * SECOND);
    let counts = observer.shown.counts();
    assert_eq!(counts.values().sum::<u64>(), 6);
    assert_eq!(counts[&("a".to_owned(), true)], 3);
    assert_eq!(observer.shown.rules.inexact_rates, 3);
    assert_eq!(observer.shown.feed(0).resets, 0);
    assert_eq!(observer.shown.durations("a").count(), 0);
}
