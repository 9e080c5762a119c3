//! What a feed can take from the source of another one is bounded, whatever it lists: it repeats the frames of the other, shares
//! its timestamps, diverges, disconnects and returns under another name.
//!
//! Completed invocations are the victim's alone: what the adversary invents is abandoned.

use std::collections::BTreeMap;

use proptest::prelude::*;
use proptest::test_runner::Config;

use crate::support::model::{Database, Invocation, Metrics, SECOND, metrics_update};
use crate::support::observer::Observer;
use crate::support::property;
use session_buddy_bridge::internals::ledger::Notice;

const VICTIM: usize = 0;
const ADVERSARY: usize = 1;

/// Rule 3.6 of `docs/explanation/translation.md`: 10 s and three snapshots.
const BOUND_SECONDS: usize = 10 + 3;

/// After this time a feed that delivers has a source of its own: it takes 10 s to see that the other is not just late.
const FORKED_AFTER_SECONDS: usize = 10 + BOUND_SECONDS;

/// Increases that wait for their events are counted by then.
const SETTLING_SECONDS: usize = 7;

/// What the adversary lists.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Trick {
    Absent,
    /// What the victim lists, or listed so many seconds before.
    Repeats {
        seconds_late: usize,
    },
    /// What the victim lists, or listed when this began, and so many abandoned invocations more of each skill.
    ListsMore {
        more: u64,
        is_frozen: bool,
    },
    /// Half of what the victim listed when this began.
    ListsHalf,
    /// More of some skills and less of others.
    Contradicts,
    /// What the victim lists, and every few rounds a thousand more, or half of it.
    Alternates {
        rounds: usize,
        lists_half: bool,
    },
    /// It leaves the configuration, returns under another name, and repeats.
    ReturnsRenamed,
}

#[derive(Debug, Clone)]
struct Phase {
    trick: Trick,
    /// Whether its frames have the timestamps of the victim's.
    copies_timestamps: bool,
    victim_is_away: bool,
    seconds: usize,
}

/// A server whose frames the adversary knows.
struct Stage {
    observer: Observer,
    database: Database,
    /// What the victim's server listed in each second.
    listed: Vec<Vec<Metrics>>,
    chance: fastrand::Rng,
    names: usize,
    /// Since which second both have been as they are.
    since: usize,
    /// Completions that the adversary may have taken.
    at_risk: u64,
}

impl Stage {
    fn new(seed: u64) -> Self {
        let mut stage = Self {
            observer: Observer::of(&[("victim", None), ("adversary", None)]),
            database: Database::default(),
            listed: Vec::new(),
            chance: fastrand::Rng::with_seed(seed),
            names: 0,
            since: 0,
            at_risk: 0,
        };
        for skill in 0..3 {
            (0..20 + 10 * skill).for_each(|_| stage.invoke(skill));
        }
        stage
    }

    fn invoke(&mut self, skill: usize) {
        let duration_seconds = Some(f64::from(self.chance.u32(1..90_000)) / 1e4);
        let skill_name = format!("skill-{skill}");
        self.database.invocations.push(Invocation {
            skill_name,
            workflow_phase: None,
            completed: true,
            duration_seconds,
        });
    }

    fn at(&self) -> i64 {
        i64::try_from(self.listed.len()).expect("minutes") * SECOND
    }

    fn play(&mut self, phase: &Phase) {
        let began = self.listed.len();
        if phase.trick == Trick::ReturnsRenamed {
            if self.observer.connection(ADVERSARY).is_some() {
                self.observer.close(ADVERSARY, self.at());
            }
            self.names += 1;
            let name = format!("adversary-{}", self.names);
            self.observer.rename(ADVERSARY, "adversary", &name, self.at());
        }
        self.connect(VICTIM, !phase.victim_is_away);
        self.connect(ADVERSARY, phase.trick != Trick::Absent);
        self.since = began;
        for _ in 0..phase.seconds {
            self.second(phase, began);
        }
    }

    fn connect(&mut self, feed: usize, is_connected: bool) {
        let at = self.at();
        match (self.observer.connection(feed).is_some(), is_connected) {
            (false, true) => self.observer.open(feed, at),
            (true, false) => self.observer.close(feed, at),
            _ => {}
        }
    }

    fn second(&mut self, phase: &Phase, began: usize) {
        let completions = self.chance.usize(0..3);
        for _ in 0..completions {
            let skill = self.chance.usize(0..3);
            self.invoke(skill);
        }
        let second = self.listed.len();
        self.listed.push(self.database.top_ten());
        if phase.victim_is_away || second < self.since + BOUND_SECONDS {
            self.at_risk += completions as u64;
        }
        let at = self.at();
        let (victims_stamp, own_stamp) = (at + 130_001, at + 700_002);
        if !phase.victim_is_away {
            self.observer.hear(VICTIM, &metrics_update(victims_stamp, &self.listed[second], &[]), victims_stamp);
        }
        if phase.trick != Trick::Absent {
            let stamp = if phase.copies_timestamps { victims_stamp } else { own_stamp };
            let lists = self.of_adversary(phase.trick, began);
            self.observer.hear(ADVERSARY, &metrics_update(stamp, &lists, &[]), own_stamp);
        }
        self.observer.tick(at + SECOND - 1);
    }

    fn of_adversary(&self, trick: Trick, began: usize) -> Vec<Metrics> {
        let second = self.listed.len() - 1;
        let (now, then) = (&self.listed[second], &self.listed[began]);
        let more = |listed: &[Metrics], more: u64| {
            listed.iter().map(|skill| Metrics { total: skill.total + more, ..skill.clone() }).collect()
        };
        let halved = |skill: &Metrics| Metrics {
            total: skill.total / 2,
            completed: skill.completed / 2,
            duration_seconds: skill.duration_seconds / 2.0,
            ..skill.clone()
        };
        match trick {
            Trick::Absent => Vec::new(),
            Trick::Repeats { seconds_late } => self.listed[second.saturating_sub(seconds_late)].clone(),
            Trick::ListsMore { more: by, is_frozen } => more(if is_frozen { then } else { now }, by),
            Trick::ListsHalf => then.iter().map(halved).collect(),
            Trick::Contradicts => {
                let lists = |(index, skill): (usize, &Metrics)| match index {
                    0 => halved(skill),
                    _ => Metrics { total: skill.total + 7, ..skill.clone() },
                };
                then.iter().enumerate().map(lists).collect()
            }
            Trick::Alternates { rounds, .. } if ((second - began) / rounds).is_multiple_of(2) => now.clone(),
            Trick::Alternates { lists_half: true, .. } => then.iter().map(halved).collect(),
            Trick::Alternates { .. } => more(now, 1_000),
            Trick::ReturnsRenamed => now.clone(),
        }
    }

    fn completed(counts: &BTreeMap<(String, bool), u64>) -> u64 {
        counts.iter().filter(|((_, completed), _)| *completed).map(|(_, count)| count).sum()
    }

    fn counted(&self) -> u64 {
        Self::completed(&self.observer.shown.counts())
    }

    fn happened(&self) -> u64 {
        Self::completed(&self.database.counts())
    }

    /// The adversary has taken no more than it could; and once the victim has been connected for long enough, each of its
    /// invocations counts, whatever the adversary goes on to list.
    fn is_within_the_bound(&mut self, last: &Phase) -> Result<(), TestCaseError> {
        let seconds = FORKED_AFTER_SECONDS + SETTLING_SECONDS;
        let last = &Phase { seconds, victim_is_away: false, ..last.clone() };
        self.play(last);
        let (counted, happened) = (self.counted(), self.happened());
        prop_assert!(counted + self.at_risk + 2 >= happened, "{counted} of {happened}, {} at risk", self.at_risk);
        let began = self.since;
        for _ in 0..15 {
            self.second(last, began);
        }
        let (more_counted, more_happened) = (self.counted() - counted, self.happened() - happened);
        // What the adversary repeats of the victim's after it diverged is its own. At most two invocations of a second are late.
        let repeats = matches!(last.trick, Trick::Alternates { .. } | Trick::ListsMore { is_frozen: false, .. });
        prop_assert!(more_counted + 2 >= more_happened, "{more_counted} of {more_happened} are counted at the end");
        prop_assert!(
            repeats || more_counted <= more_happened + 2,
            "{more_counted} for {more_happened} are counted at the end"
        );
        Ok(())
    }
}

fn trick() -> impl Strategy<Value = Trick> {
    prop_oneof![
        Just(Trick::Absent),
        (0_usize..6).prop_map(|seconds_late| Trick::Repeats { seconds_late }),
        (prop::sample::select(vec![1_u64, 1_000]), any::<bool>())
            .prop_map(|(more, is_frozen)| Trick::ListsMore { more, is_frozen }),
        Just(Trick::ListsHalf),
        Just(Trick::Contradicts),
        (1_usize..12, any::<bool>()).prop_map(|(rounds, lists_half)| Trick::Alternates { rounds, lists_half }),
        Just(Trick::ReturnsRenamed),
    ]
}

fn phase() -> impl Strategy<Value = Phase> {
    (trick(), any::<bool>(), prop::bool::weighted(0.3), 1_usize..30).prop_map(
        |(trick, copies_timestamps, victim_is_away, seconds)| Phase {
            trick,
            copies_timestamps,
            victim_is_away,
            seconds,
        },
    )
}

proptest! {
    #![proptest_config(Config { cases: property().cases / 8, ..property() })]

    #[test]
    fn a_feed_takes_from_another_source_no_more_than_while_it_was_active(
        seed in any::<u64>(),
        phases in prop::collection::vec(phase(), 1..6),
        last in phase().prop_filter("it diverges or is absent", |phase| {
            !matches!(phase.trick, Trick::Repeats { .. } | Trick::ReturnsRenamed)
        }),
    ) {
        let mut stage = Stage::new(seed);
        let alone = Phase { trick: Trick::Absent, copies_timestamps: false, victim_is_away: false, seconds: 8 };
        stage.play(&alone);
        phases.iter().for_each(|phase| stage.play(phase));
        stage.is_within_the_bound(&last)?;
    }
}

/// Two servers whose clocks agree to the microsecond, which can be so on one machine.
#[test]
fn servers_that_share_timestamps_and_list_other_numbers_add_up() {
    for skills_of_second in [["skill-0", "skill-1"], ["other-0", "other-1"], ["skill-0", "other-1"]] {
        let mut observer = Observer::of(&[("first", None), ("second", None)]);
        let mut servers = [Database::default(), Database::default()];
        let mut chance = fastrand::Rng::with_seed(7);
        (0..2).for_each(|feed| observer.open(feed, 0));
        for second in 0..60 {
            for (server, names) in [["skill-0", "skill-1"], skills_of_second].into_iter().enumerate() {
                for (skill_name, seconds) in names.into_iter().zip([1, 2]) {
                    if second % seconds == 0 {
                        let duration_seconds = Some(f64::from(chance.u32(1..90_000)) / 1e4);
                        servers[server].invocations.push(Invocation {
                            skill_name: skill_name.to_owned(),
                            workflow_phase: None,
                            completed: true,
                            duration_seconds,
                        });
                    }
                }
                let at = second * SECOND + 130_001;
                observer.hear(server, &servers[server].snapshot(at), at);
            }
        }
        observer.tick(70 * SECOND);
        let mut happened = servers[0].counts();
        servers[1].counts().into_iter().for_each(|(key, count)| *happened.entry(key).or_default() += count);
        assert_eq!(observer.shown.counts(), happened, "{skills_of_second:?}");
        assert_eq!(observer.active_sessions(60 * SECOND), 2, "{skills_of_second:?}");
    }
}

/// What two connections showed to be one server is nothing that a later one of either has shown.
#[test]
fn a_feed_that_reconnects_to_another_server_is_of_that_one() {
    for reconnects in [0, 1] {
        let mut observer = Observer::of(&[("first", None), ("second", None)]);
        let mut chance = fastrand::Rng::with_seed(7);
        let mut invocation = |skill_name: &str| Invocation {
            skill_name: skill_name.to_owned(),
            workflow_phase: None,
            completed: true,
            duration_seconds: Some(f64::from(chance.u32(1..90_000)) / 1e4),
        };
        let [mut common, mut other] = ["skill", "other"]
            .map(|name| Database { invocations: (0..20).map(|_| invocation(name)).collect(), ..Database::default() });
        (0..2).for_each(|feed| observer.open(feed, 0));
        for second in 0..8 {
            common.invocations.push(invocation("skill"));
            let at = second * 2 * SECOND + 130_001;
            (0..2).for_each(|feed| observer.hear(feed, &common.snapshot(at), at));
        }
        observer.reopen(reconnects, 16 * SECOND);
        for second in 8..40 {
            common.invocations.push(invocation("skill"));
            other.invocations.push(invocation("other"));
            let at = [second * 2 * SECOND + 130_001, second * 2 * SECOND + 700_002];
            observer.hear(1 - reconnects, &common.snapshot(at[0]), at[0]);
            observer.hear(reconnects, &other.snapshot(at[1]), at[1]);
        }
        observer.tick(90 * SECOND);
        let joined = observer.notices.iter().filter(|notice| matches!(notice, Notice::SourcesJoined { .. })).count();
        assert_eq!(joined, 0, "feed {reconnects}");
        let mut happened = common.counts();
        happened.extend(other.counts());
        assert_eq!(observer.shown.counts(), happened, "feed {reconnects}");
    }
}

/// Two processes on a new database are compared with a known one that is away. The database changes just when the first of the two
/// is bound.
#[test]
fn what_a_pending_feed_listed_a_moment_ago_shows_whose_it_is() {
    let invocation = |skill_name: &str, duration_seconds: Option<f64>| Invocation {
        skill_name: skill_name.to_owned(),
        workflow_phase: None,
        completed: duration_seconds.is_some(),
        duration_seconds,
    };
    let known = Database { invocations: vec![invocation("known", Some(1.5))], ..Database::default() };
    let mut database = Database::default();
    for duration_seconds in [Some(1.139), Some(1.339), None] {
        database.invocations.push(invocation("first", duration_seconds));
    }
    database.invocations.push(invocation("second", Some(2.283)));
    let mut observer = Observer::of(&[("away", None), ("one process", None), ("another", None)]);
    observer.open(0, 0);
    (0..6).for_each(|second| observer.hear(0, &known.snapshot(second * SECOND), second * SECOND));
    observer.close(0, 8 * SECOND);
    (1..3).for_each(|feed| observer.open(feed, 9 * SECOND));
    for second in 9..30 {
        let feed = if second % 2 == 0 { 2 } else { 1 };
        let micros = [130_001, 700_002][feed - 1];
        let at = second * SECOND + micros;
        observer.hear(feed, &database.snapshot(at), at);
        if second == 15 {
            database.invocations.push(invocation("second", Some(1.967)));
        }
    }
    observer.tick(40 * SECOND);
    let mut happened = known.counts();
    happened.extend(database.counts());
    assert_eq!(observer.shown.counts(), happened);
}
