//! Random invocations and anomalies, from a seed. Time is passed in.

use std::f64::consts::TAU;

use fastrand::Rng;

use super::model::{Anomaly, Database};

/// Names, most popular first, with a typical duration in seconds. More than a snapshot lists.
const SKILLS: [(&str, f64); 14] = [
    ("pytest-run", 12.0),
    ("ruff-check", 0.6),
    ("session-checkpoint", 2.2),
    ("mypy-check", 8.0),
    ("code-search", 0.3),
    ("git-commit", 1.1),
    ("session-start", 1.6),
    ("reflection-store", 0.15),
    ("session-end", 2.8),
    ("coverage-report", 25.0),
    ("code-review", 45.0),
    ("dependency-audit", 18.0),
    ("docs-build", 35.0),
    ("release-notes", 6.0),
];

const ANOMALY_TYPES: [&str; 3] = ["drop", "spike", "pattern_shift"];
const COMPLETED_SHARE: f64 = 0.85;
const DURATION_MISSING_SHARE: f64 = 0.03;
const DURATION_SPREAD: f64 = 0.8;
const SECONDS_BETWEEN_ANOMALIES: f64 = 25.0;

/// How far back the history begins, and how much of a suspend of the machine is caught up with, in seconds.
const HISTORY_SECONDS: i64 = 600;

/// The processes of invocations and of anomalies.
#[derive(Debug)]
pub(super) struct Workload {
    invocations: PoissonProcess,
    anomalies: PoissonProcess,
}

/// Independent events at random times. Each process has a generator of its own, so that the events do not depend on how often
/// it is advanced.
#[derive(Debug)]
struct PoissonProcess {
    rng: Rng,
    mean_gap_seconds: f64,
    next_micros: i64,
}

impl Workload {
    pub fn new(seed: u64, invocations_per_second: f64) -> Self {
        let mut rng = Rng::with_seed(seed);
        let mut every = |mean_gap_seconds| PoissonProcess { rng: rng.fork(), mean_gap_seconds, next_micros: 0 };
        Self { invocations: every(1.0 / invocations_per_second), anomalies: every(SECONDS_BETWEEN_ANOMALIES) }
    }

    /// Adds all events that are due at `now_micros` since the Unix epoch.
    pub fn advance(&mut self, database: &mut Database, now_micros: i64) {
        while self.invocations.due(now_micros).is_some() {
            invoke(&mut self.invocations.rng, database);
        }
        while let Some(at_micros) = self.anomalies.due(now_micros) {
            database.detect(anomaly(&mut self.anomalies.rng, at_micros));
        }
    }
}

impl PoissonProcess {
    /// Returns the time of the next event, unless it is after `now_micros`.
    fn due(&mut self, now_micros: i64) -> Option<i64> {
        let at_micros = self.next_micros.max(now_micros - HISTORY_SECONDS * 1_000_000);
        if at_micros > now_micros {
            return None;
        }
        let gap_seconds = -(1.0 - self.rng.f64()).ln() * self.mean_gap_seconds;
        // Never none at all, or a clock that stands still would see things happen for ever.
        self.next_micros = at_micros + 1 + (gap_seconds * 1e6) as i64;
        Some(at_micros)
    }
}

fn invoke(rng: &mut Rng, database: &mut Database) {
    let (skill_name, typical_seconds) = skill(rng);
    let completed = rng.f64() < COMPLETED_SHARE;
    let has_duration = completed && rng.f64() >= DURATION_MISSING_SHARE;
    let duration_seconds = has_duration.then(|| rounded(typical_seconds * (DURATION_SPREAD * normal(rng)).exp(), 4));
    database.invoke(skill_name, completed, duration_seconds);
}

fn anomaly(rng: &mut Rng, at_micros: i64) -> Anomaly {
    Anomaly {
        skill_name: skill(rng).0,
        detected_at_seconds: at_micros.div_euclid(1_000_000),
        anomaly_type: ANOMALY_TYPES[rng.usize(..ANOMALY_TYPES.len())],
        deviation_score: rounded(2.0 + 3.0 * rng.f64(), 3),
    }
}

/// Returns a skill; the nth most popular one has a weight of 1/n.
fn skill(rng: &mut Rng) -> (&'static str, f64) {
    let weights = || (1..=SKILLS.len()).map(|rank| 1.0 / rank as f64);
    let mut left = rng.f64() * weights().sum::<f64>();
    let place = weights().position(|weight| {
        left -= weight;
        left < 0.0
    });
    SKILLS[place.unwrap_or(0)]
}

fn normal(rng: &mut Rng) -> f64 {
    (-2.0 * (1.0 - rng.f64()).ln()).sqrt() * (TAU * rng.f64()).cos()
}

fn rounded(value: f64, decimals: i32) -> f64 {
    let unit = 10f64.powi(decimals);
    (value * unit).round() / unit
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW_MICROS: i64 = 1_800_000_000_000_000;

    fn totals(database: &Database) -> u64 {
        database.top_skills().iter().map(|row| row.total_invocations).sum()
    }

    #[test]
    fn the_history_is_believable() {
        let (mut workload, mut database) = (Workload::new(1, 4.0), Database::default());
        workload.advance(&mut database, NOW_MICROS);
        let rows = database.top_skills();
        assert_eq!(rows.len(), 10);
        assert_eq!(rows[0].skill_name, "pytest-run");
        assert!((1800..2400).contains(&totals(&database)), "{rows:?}");
        for row in &rows {
            assert!((70.0..97.0).contains(&row.completion_rate_percent), "{row:?}");
        }
        let anomalies = database.recent_anomalies(NOW_MICROS / 1_000_000);
        assert!(anomalies.iter().all(|anomaly| anomaly.detected_at_seconds <= NOW_MICROS / 1_000_000));
        assert!(!anomalies.is_empty());
    }

    #[test]
    fn a_seed_decides_everything_however_often_it_is_advanced() {
        let rows = |looks: i64| {
            let (mut workload, mut database) = (Workload::new(7, 4.0), Database::default());
            (0..=looks).for_each(|n| workload.advance(&mut database, NOW_MICROS + n * 60_000_000 / looks));
            (database.top_skills(), database.recent_anomalies(NOW_MICROS / 1_000_000))
        };
        assert_eq!(rows(1).0, rows(60).0);
        assert_eq!(rows(60), rows(60));
    }

    #[test]
    fn a_long_suspend_is_caught_up_with_in_part() {
        let (mut workload, mut database) = (Workload::new(1, 4.0), Database::default());
        workload.advance(&mut database, NOW_MICROS);
        let before = totals(&database);
        workload.advance(&mut database, NOW_MICROS + 86_400_000_000);
        assert!(totals(&database) - before < 3000);
    }
}
