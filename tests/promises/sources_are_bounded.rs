//! A server that lists one new database after another fills neither the memory nor the state: 64 sources without a feed are
//! remembered, and a feed begins one in the place of another at most once in three of its snapshots.

use crate::support::memory_state::MemoryState;
use crate::support::model::{Metrics, SECOND, metrics_update};
use crate::support::observer::Observer;
use session_buddy_bridge::internals::ledger::Notice;

/// Rule 3.5 of `docs/explanation/translation.md`.
const FREE_SOURCES_MAX: u64 = 64;

/// Rule 3.2.
const SNAPSHOTS_FOR_EACH_SOURCE: u64 = 3;

/// Invocations of each database.
const HELD: u64 = 100;

struct Stage {
    state: MemoryState,
    observer: Observer,
    second: i64,
}

impl Stage {
    fn new() -> Self {
        let state = MemoryState::new();
        let mut observer = Observer::on(&state, &[("feed", None)]);
        observer.open(0, 0);
        Self { state, observer, second: 0 }
    }

    /// Lists a database that no other one resembles, in so many snapshots.
    fn list(&mut self, database: u64, snapshots: u64) {
        let skill = Metrics {
            skill_name: format!("skill-{database}"),
            total: HELD,
            completed: HELD,
            duration_seconds: 137.123_457 + database as f64,
        };
        for _ in 0..snapshots {
            self.second += 1;
            let at = self.second * SECOND + 130_001;
            self.observer.hear(0, &metrics_update(at, std::slice::from_ref(&skill), &[]), at);
        }
    }

    fn counted(&self) -> u64 {
        self.observer.shown.counts().values().sum()
    }

    fn persisted_sources(&self) -> u64 {
        self.state.open().1.memory.sources.len() as u64
    }

    fn resets(&self) -> u64 {
        self.observer.notices.iter().filter(|notice| matches!(notice, Notice::Reset(_))).count() as u64
    }
}

#[test]
fn of_more_than_64_sources_without_a_feed_the_least_recently_active_is_forgotten() {
    const DATABASES: u64 = 71;
    let mut stage = Stage::new();
    (0..DATABASES).for_each(|database| stage.list(database, SNAPSHOTS_FOR_EACH_SOURCE + 1));
    assert_eq!(stage.counted(), DATABASES * HELD, "the counts of each stay");
    assert_eq!(stage.persisted_sources(), FREE_SOURCES_MAX + 1, "and that of the feed");

    let oldest = DATABASES - 1 - FREE_SOURCES_MAX;
    stage.list(oldest, SNAPSHOTS_FOR_EACH_SOURCE + 1);
    assert_eq!(stage.counted(), DATABASES * HELD, "it is remembered and counts nothing again");
    stage.list(oldest - 1, SNAPSHOTS_FOR_EACH_SOURCE + 1);
    assert_eq!(stage.counted(), (DATABASES + 1) * HELD, "it was forgotten and is a new one");
    // Room for that one was made by the one that was active least recently, which is not the oldest.
    stage.list(oldest, SNAPSHOTS_FOR_EACH_SOURCE + 1);
    assert_eq!(stage.counted(), (DATABASES + 1) * HELD);
    stage.list(oldest + 1, SNAPSHOTS_FOR_EACH_SOURCE + 1);
    assert_eq!(stage.counted(), (DATABASES + 2) * HELD);
    assert_eq!(stage.persisted_sources(), FREE_SOURCES_MAX + 1);
}

#[test]
fn a_feed_begins_a_source_at_most_once_in_three_of_its_snapshots() {
    const SNAPSHOTS: u64 = 30;
    let mut stage = Stage::new();
    stage.list(0, SNAPSHOTS_FOR_EACH_SOURCE + 1);
    assert_eq!(stage.persisted_sources(), 1);
    (1..=SNAPSHOTS).for_each(|database| stage.list(database, 1));
    let begun = SNAPSHOTS / SNAPSHOTS_FOR_EACH_SOURCE;
    assert_eq!(stage.persisted_sources(), 1 + begun);
    assert_eq!(stage.counted(), (1 + begun) * HELD, "what each of them listed first");
    assert!(stage.resets() >= begun);
}
