//! The five families that a model of the server's database leads to.

use std::collections::BTreeMap;

use session_buddy_bridge::internals::ledger::DURATION_BUCKETS_SECONDS;

use super::model::{Database, Invocation};
use super::scrape::Series;

/// What the bridge shows of `databases`, one for each live feed, none of which streams events. `observed` are the
/// invocations whose durations it can know.
pub fn expected_families<'a>(
    databases: &[&Database],
    observed: impl IntoIterator<Item = &'a Invocation>,
) -> BTreeMap<Series, f64> {
    let mut families = BTreeMap::new();
    let mut skills: BTreeMap<&str, Vec<(u64, u64)>> = BTreeMap::new();
    for database in databases {
        for (name, metrics) in database.metrics() {
            skills.entry(name).or_default().push((metrics.total, metrics.completed));
        }
        for anomaly in &database.anomalies {
            let labels = [("anomaly_type", anomaly.anomaly_type.as_str()), ("skill_name", &anomaly.skill_name)];
            *families.entry(Series::new("anomalies_detected_total", &labels)).or_default() += 1.0;
        }
    }
    let observed: Vec<_> = observed.into_iter().filter(|invocation| invocation.completed).collect();
    for (name, numbers) in skills {
        let total: u64 = numbers.iter().map(|(total, _)| total).sum();
        let completed: u64 = numbers.iter().map(|(_, completed)| completed).sum();
        let durations = observed.iter().filter(|row| row.skill_name == name).filter_map(|row| row.duration_seconds);
        add_invocations(&mut families, name, completed, total - completed);
        add_durations(&mut families, name, &durations.collect::<Vec<_>>());
        // One feed's rate is what the server computed, a multiple of it that two divisions made.
        let rate = match numbers.as_slice() {
            [(total, completed)] => *completed as f64 / *total as f64 * 100.0 / 100.0,
            _ => completed as f64 / total as f64,
        };
        families.insert(Series::new("skill_completion_rate", &[("skill_name", name)]), rate);
    }
    families.insert(Series::new("active_sessions_total", &[]), databases.len() as f64);
    families
}

fn add_invocations(families: &mut BTreeMap<Series, f64>, name: &str, completed: u64, abandoned: u64) {
    for (label, count) in [("true", completed), ("false", abandoned)] {
        let labels = [("completed", label), ("skill_name", name), ("workflow_phase", "unknown")];
        families.insert(Series::new("skill_invocations_total", &labels), count as f64);
    }
}

fn add_durations(families: &mut BTreeMap<Series, f64>, name: &str, durations: &[f64]) {
    let labels = [("skill_name", name), ("workflow_phase", "unknown")];
    let bounds = DURATION_BUCKETS_SECONDS.iter().map(|bound| (format!("{bound:?}"), *bound));
    for (le, bound) in bounds.chain([("+Inf".to_owned(), f64::INFINITY)]) {
        let within = durations.iter().filter(|duration| **duration <= bound).count();
        let labels = [("le", le.as_str()), labels[0], labels[1]];
        families.insert(Series::new("skill_duration_seconds_bucket", &labels), within as f64);
    }
    families.insert(Series::new("skill_duration_seconds_sum", &labels), durations.iter().sum());
    families.insert(Series::new("skill_duration_seconds_count", &labels), durations.len() as f64);
}
