//! What a database and a scrape must agree in.

use std::collections::BTreeMap;

use super::bridge::sums;
use super::session_buddy::Truth;
use crate::support::scrape::Scrape;

/// The numbers of all skills. Every completed invocation has a duration, and all of them happened under watch.
#[derive(Debug, PartialEq)]
pub struct Numbers {
    /// By skill and `completed`.
    pub invocations: BTreeMap<[String; 2], u64>,
    /// By type and skill.
    pub anomalies: BTreeMap<[String; 2], u64>,
    /// By skill.
    pub completion_rates: BTreeMap<[String; 1], Near>,
    /// By skill: how many were observed.
    pub durations: BTreeMap<[String; 1], u64>,
    /// By skill, in seconds.
    pub duration_sums: BTreeMap<[String; 1], Near>,
}

/// Equal to within 1e-9, relative where it is more than 1: sums that were added up in another order are the same.
#[derive(Debug, Clone, Copy)]
pub struct Near(pub f64);

impl PartialEq for Near {
    fn eq(&self, other: &Self) -> bool {
        (self.0 - other.0).abs() <= 1e-9 * self.0.abs().max(other.0.abs()).max(1.0)
    }
}

impl Numbers {
    pub fn shown(scrape: &Scrape) -> Self {
        let counts = |(labels, sum): ([String; 2], f64)| (labels, sum as u64);
        let near = |(labels, value): ([String; 1], f64)| (labels, Near(value));
        let invocations = sums(scrape, "skill_invocations_total", ["skill_name", "completed"]);
        let anomalies = sums(scrape, "anomalies_detected_total", ["anomaly_type", "skill_name"]);
        let rates = sums(scrape, "skill_completion_rate", ["skill_name"]);
        let durations = sums(scrape, "skill_duration_seconds_count", ["skill_name"]);
        let duration_sums = sums(scrape, "skill_duration_seconds_sum", ["skill_name"]);
        Self {
            invocations: invocations.into_iter().map(counts).collect(),
            anomalies: anomalies.into_iter().map(counts).collect(),
            completion_rates: rates.into_iter().map(near).collect(),
            durations: durations.into_iter().map(|(labels, count)| (labels, count as u64)).collect(),
            duration_sums: duration_sums.into_iter().map(near).collect(),
        }
    }

    pub fn held(truth: &Truth) -> Self {
        let skills = || truth.skills.iter().map(|(name, skill)| ([name.clone()], skill));
        let split = |name: &str, completed: bool| [name.to_owned(), completed.to_string()];
        let by_completion = truth.skills.iter().flat_map(|(name, skill)| {
            [(split(name, true), skill.completed), (split(name, false), skill.total - skill.completed)]
        });
        let anomalies = truth.anomalies.iter().map(|((kind, name), count)| ([kind.clone(), name.clone()], *count));
        let rate = |completed: u64, total: u64| Near(completed as f64 / total as f64);
        Self {
            invocations: by_completion.collect(),
            anomalies: anomalies.collect(),
            completion_rates: skills().map(|(name, skill)| (name, rate(skill.completed, skill.total))).collect(),
            durations: skills().map(|(name, skill)| (name, skill.completed)).collect(),
            duration_sums: skills().map(|(name, skill)| (name, Near(skill.duration_sum_seconds))).collect(),
        }
    }

    pub fn total(&self) -> u64 {
        self.invocations.values().sum()
    }

    /// The largest difference of two sums of durations, in seconds.
    pub fn sums_apart_seconds(&self, other: &Self) -> f64 {
        let pairs = self.duration_sums.values().zip(other.duration_sums.values());
        pairs.map(|(one, two)| (one.0 - two.0).abs()).fold(0.0, f64::max)
    }
}
