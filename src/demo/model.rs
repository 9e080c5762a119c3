//! The server's database, as far as the feed exposes it.

use std::cmp::Reverse;
use std::collections::VecDeque;

/// Skills that a snapshot lists at most.
pub(super) const LISTED_SKILLS_MAX: usize = 10;

/// Anomalies that a snapshot lists at most.
pub(super) const LISTED_ANOMALIES_MAX: usize = 10;

const HOUR_SECONDS: i64 = 3600;

/// Totals of all skills, and recent anomalies.
#[derive(Debug, Default)]
pub(super) struct Database {
    skills: Vec<Totals>,
    /// Oldest first. Only those that can still be listed are kept.
    anomalies: VecDeque<Anomaly>,
}

#[derive(Debug)]
struct Totals {
    skill_name: &'static str,
    total: u64,
    completed: u64,
    duration_sum_seconds: f64,
}

/// A skill as a snapshot lists it.
#[derive(Debug, PartialEq)]
pub(super) struct SkillRow {
    pub skill_name: &'static str,
    pub total_invocations: u64,
    pub completion_rate_percent: f64,
    /// `None` until an invocation completed. A completion without a duration counts as 0 seconds.
    pub average_duration_seconds: Option<f64>,
}

/// An anomaly as a snapshot lists it.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Anomaly {
    pub skill_name: &'static str,
    pub detected_at_seconds: i64,
    pub anomaly_type: &'static str,
    pub deviation_score: f64,
}

impl Database {
    /// Adds one invocation. The duration of an abandoned one is dropped.
    pub fn invoke(&mut self, skill_name: &'static str, completed: bool, duration_seconds: Option<f64>) {
        let place = self.skills.iter().position(|skill| skill.skill_name == skill_name).unwrap_or_else(|| {
            self.skills.push(Totals { skill_name, total: 0, completed: 0, duration_sum_seconds: 0.0 });
            self.skills.len() - 1
        });
        let skill = &mut self.skills[place];
        skill.total += 1;
        if completed {
            skill.completed += 1;
            skill.duration_sum_seconds += duration_seconds.unwrap_or(0.0);
        }
    }

    /// Adds one anomaly, which must not be older than those before.
    pub fn detect(&mut self, anomaly: Anomaly) {
        if self.anomalies.len() == LISTED_ANOMALIES_MAX {
            self.anomalies.pop_front();
        }
        self.anomalies.push_back(anomaly);
    }

    /// Returns the skills with the most invocations, most first.
    pub fn top_skills(&self) -> Vec<SkillRow> {
        let mut ranked: Vec<&Totals> = self.skills.iter().collect();
        ranked.sort_by_key(|skill| Reverse(skill.total));
        ranked.iter().take(LISTED_SKILLS_MAX).map(|skill| skill.row()).collect()
    }

    /// Returns the anomalies of the last hour, newest first.
    pub fn recent_anomalies(&self, now_seconds: i64) -> Vec<Anomaly> {
        let recent = |anomaly: &&Anomaly| anomaly.detected_at_seconds >= now_seconds - HOUR_SECONDS;
        self.anomalies.iter().rev().take_while(recent).cloned().collect()
    }
}

impl Totals {
    fn row(&self) -> SkillRow {
        SkillRow {
            skill_name: self.skill_name,
            total_invocations: self.total,
            // In this order, as the server's SQL has it: the other order rounds differently.
            completion_rate_percent: 100.0 * self.completed as f64 / self.total as f64,
            average_duration_seconds: (self.completed > 0).then(|| self.duration_sum_seconds / self.completed as f64),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_numbers_behind_a_row_can_be_recovered() {
        let mut database = Database::default();
        let mut durations_sum = 0.0;
        for n in 1..=10_000_u64 {
            let completed = n % 7 != 0;
            let duration = (n % 5 != 0).then_some(n as f64 * 0.0371);
            database.invoke("skill", completed, duration);
            durations_sum += if completed { duration.unwrap_or(0.0) } else { 0.0 };

            let row = &database.top_skills()[0];
            let recovered = row.total_invocations as f64 * row.completion_rate_percent / 100.0;
            assert_eq!(recovered.round() as u64, n - n / 7);
            assert!((recovered - recovered.round()).abs() <= n as f64 * 2f64.powi(-50));
            let sum = row.average_duration_seconds.unwrap_or(0.0) * recovered.round();
            assert!((sum - durations_sum).abs() <= durations_sum * 1e-12);
        }
    }

    #[test]
    fn no_completion_no_average() {
        let mut database = Database::default();
        database.invoke("a", false, Some(3.0));
        let row = SkillRow {
            skill_name: "a",
            total_invocations: 1,
            completion_rate_percent: 0.0,
            average_duration_seconds: None,
        };
        assert_eq!(database.top_skills(), [row]);
    }

    #[test]
    fn ten_skills_are_listed_and_one_can_come_back() {
        const NAMES: [&str; 11] = ["a", "b", "c", "d", "e", "f", "g", "h", "i", "j", "k"];
        let mut database = Database::default();
        for (rank, name) in NAMES.into_iter().enumerate() {
            (rank..11).for_each(|_| database.invoke(name, true, None));
        }
        let listed = |database: &Database| database.top_skills().iter().map(|row| row.skill_name).collect::<String>();
        assert_eq!(listed(&database), "abcdefghij");
        (0..2).for_each(|_| database.invoke("k", true, None));
        assert_eq!(listed(&database), "abcdefghik");
    }

    #[test]
    fn anomalies_are_the_newest_of_the_last_hour() {
        let mut database = Database::default();
        for n in 0..12 {
            database.detect(Anomaly {
                skill_name: "a",
                detected_at_seconds: n * 600,
                anomaly_type: "drop",
                deviation_score: 2.0,
            });
        }
        let at = |now| database.recent_anomalies(now).iter().map(|anomaly| anomaly.detected_at_seconds).collect();
        let newest: Vec<i64> = at(6600);
        assert_eq!(newest, [6600, 6000, 5400, 4800, 4200, 3600, 3000]);
        let none: Vec<i64> = at(6600 + 3601);
        assert_eq!(none, [0_i64; 0]);
    }
}
