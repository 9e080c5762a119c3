//! What a bridge counts of invocations and anomalies, by all of their labels but the phase.

use std::collections::BTreeMap;
use std::ops::{Add, AddAssign};

use super::scrape::Scrape;

/// Invocations by skill and `completed`.
pub type InvocationCounts = BTreeMap<(String, bool), u64>;

/// Anomalies by type and skill.
pub type AnomalyCounts = BTreeMap<(String, String), u64>;

/// What is exposed, or has to be; nothing that is zero.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Exposed {
    pub invocations: InvocationCounts,
    pub anomalies: AnomalyCounts,
}

impl Exposed {
    /// What a scrape shows.
    pub fn of(scrape: &Scrape) -> Self {
        let mut exposed = Self::default();
        for (labels, count) in scrape.series("skill_invocations_total") {
            exposed.add_invocations(&labels["skill_name"], labels["completed"] == "true", count as u64);
        }
        for (labels, count) in scrape.series("anomalies_detected_total") {
            exposed.add_anomalies(&labels["anomaly_type"], &labels["skill_name"], count as u64);
        }
        exposed
    }

    pub fn add_invocations(&mut self, skill_name: &str, completed: bool, count: u64) {
        add(&mut self.invocations, (skill_name.to_owned(), completed), count);
    }

    pub fn add_anomalies(&mut self, anomaly_type: &str, skill_name: &str, count: u64) {
        add(&mut self.anomalies, (anomaly_type.to_owned(), skill_name.to_owned()), count);
    }

    /// The number of invocations.
    pub fn total(&self) -> u64 {
        self.invocations.values().sum()
    }

    /// Whether it has more of something than `other`.
    pub fn exceeds(&self, other: &Self) -> bool {
        exceeds(&self.invocations, &other.invocations) || exceeds(&self.anomalies, &other.anomalies)
    }
}

impl AddAssign<Self> for Exposed {
    fn add_assign(&mut self, other: Self) {
        other.invocations.into_iter().for_each(|(key, count)| add(&mut self.invocations, key, count));
        other.anomalies.into_iter().for_each(|(key, count)| add(&mut self.anomalies, key, count));
    }
}

impl Add for Exposed {
    type Output = Self;

    fn add(mut self, other: Self) -> Self {
        self += other;
        self
    }
}

fn add<K: Ord>(counts: &mut BTreeMap<K, u64>, key: K, count: u64) {
    if count > 0 {
        *counts.entry(key).or_default() += count;
    }
}

fn exceeds<K: Ord>(counts: &BTreeMap<K, u64>, others: &BTreeMap<K, u64>) -> bool {
    counts.iter().any(|(key, count)| others.get(key).is_none_or(|other| other < count))
}
