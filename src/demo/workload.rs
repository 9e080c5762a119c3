//! What happens when, by seeded chance and with time as a value.

use std::f64::consts::TAU;

use fastrand::Rng;

use super::model::{Anomaly, Database};

/// Names, most popular first, with a typical duration in seconds. More than a snapshot lists, so that some hide.
pub(super) const SKILLS: [(&str, f64); 14] = [
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

/// How far back the first call of [`Workload::advance`] reaches, and how much of a sleep of the machine is made up for.
pub(super) const HISTORY_SECONDS: i64 = 600;

/// Invocations and anomalies, each at random intervals.
#[derive(Debug)]
pub(super) struct Workload {
    rng: Rng,
    invocations_per_second: f64,
    next_invocation_micros: i64,
    next_anomaly_micros: i64,
}

impl Workload {
    pub fn new(seed: u64, invocations_per_second: f64) -> Self {
        Self { rng: Rng::with_seed(seed), invocations_per_second, next_invocation_micros: 0, next_anomaly_micros: 0 }
    }

    /// Lets everything happen that is due by `now_micros` (since the Unix epoch).
    pub fn advance(&mut self, database: &mut Database, now_micros: i64) {
        let since_micros = now_micros - HISTORY_SECONDS * 1_000_000;
        self.next_invocation_micros = self.next_invocation_micros.max(since_micros);
        self.next_anomaly_micros = self.next_anomaly_micros.max(since_micros);
        while self.next_invocation_micros <= now_micros {
            self.invoke(database);
            self.next_invocation_micros += self.wait_micros(1.0 / self.invocations_per_second);
        }
        while self.next_anomaly_micros <= now_micros {
            database.detect(self.anomaly());
            self.next_anomaly_micros += self.wait_micros(SECONDS_BETWEEN_ANOMALIES);
        }
    }

    fn invoke(&mut self, database: &mut Database) {
        let (skill_name, typical_seconds) = self.skill();
        let completed = self.rng.f64() < COMPLETED_SHARE;
        let duration = completed && self.rng.f64() >= DURATION_MISSING_SHARE;
        let duration_seconds = duration.then(|| rounded(typical_seconds * (DURATION_SPREAD * self.normal()).exp(), 4));
        database.invoke(skill_name, completed, duration_seconds);
    }

    fn anomaly(&mut self) -> Anomaly {
        Anomaly {
            skill_name: self.skill().0,
            detected_at_seconds: self.next_anomaly_micros.div_euclid(1_000_000),
            anomaly_type: ANOMALY_TYPES[self.rng.usize(..ANOMALY_TYPES.len())],
            deviation_score: rounded(2.0 + 3.0 * self.rng.f64(), 3),
        }
    }

    /// A skill, the nth most popular one with a weight of 1/n.
    fn skill(&mut self) -> (&'static str, f64) {
        let weights = || (1..=SKILLS.len()).map(|rank| 1.0 / rank as f64);
        let mut left = self.rng.f64() * weights().sum::<f64>();
        let rank = weights().position(|weight| {
            left -= weight;
            left < 0.0
        });
        SKILLS[rank.unwrap_or(0)]
    }

    /// A wait with the given mean, as between things that happen independently of each other; never 0.
    fn wait_micros(&mut self, mean_seconds: f64) -> i64 {
        (-(1.0 - self.rng.f64()).ln() * mean_seconds * 1e6) as i64 + 1
    }

    fn normal(&mut self) -> f64 {
        (-2.0 * (1.0 - self.rng.f64()).ln()).sqrt() * (TAU * self.rng.f64()).cos()
    }
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
    fn the_first_look_shows_a_believable_past() {
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
    fn a_seed_decides_everything_however_often_one_looks() {
        let rows = |looks: i64| {
            let (mut workload, mut database) = (Workload::new(7, 4.0), Database::default());
            (0..=looks).for_each(|n| workload.advance(&mut database, NOW_MICROS + n * 60_000_000 / looks));
            (database.top_skills(), database.recent_anomalies(NOW_MICROS / 1_000_000))
        };
        assert_eq!(rows(1).0, rows(60).0);
        assert_eq!(rows(60), rows(60));
    }

    #[test]
    fn a_long_sleep_is_made_up_for_in_part() {
        let (mut workload, mut database) = (Workload::new(1, 4.0), Database::default());
        workload.advance(&mut database, NOW_MICROS);
        let before = totals(&database);
        workload.advance(&mut database, NOW_MICROS + 86_400_000_000);
        assert!(totals(&database) - before < 3000);
    }
}
