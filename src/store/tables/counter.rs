//! The counters of the rules, by name.

use std::borrow::Cow;

use rusqlite::Connection;

use super::entry::Entry;
use super::record::{self, record};
use crate::ledger::RuleCounters;

record! {
    "counter", key (name), upsert UpsertCounter,
    struct CounterRecord {
        name: Cow<'static, str>,
        value: u64,
    }
}

fn by_name(counters: &mut RuleCounters) -> [(&'static str, &mut u64); 8] {
    let RuleCounters {
        estimated_observations,
        exact_observations,
        inexact_rates,
        late_events,
        backfilled_invocations,
        anomaly_window_overflows,
        overflowed_invocations,
        overflowed_anomalies,
    } = counters;
    [
        ("estimated_observations", estimated_observations),
        ("exact_observations", exact_observations),
        ("inexact_rates", inexact_rates),
        ("late_events", late_events),
        ("backfilled_invocations", backfilled_invocations),
        ("anomaly_window_overflows", anomaly_window_overflows),
        ("overflowed_invocations", overflowed_invocations),
        ("overflowed_anomalies", overflowed_anomalies),
    ]
}

/// Saves the counters that differ from those that are `saved`; all of them where that is not known.
pub(super) fn save(entry: &mut Entry, mut counters: RuleCounters, saved: Option<RuleCounters>) -> rusqlite::Result<()> {
    let saved = saved.map(|mut saved| by_name(&mut saved).map(|(_, value)| *value));
    let is_saved = |index: usize, value: u64| saved.is_some_and(|saved| saved[index] == value);
    let counters = by_name(&mut counters).into_iter().enumerate();
    let changed = counters.filter(|(index, (_, value))| !is_saved(*index, **value));
    record::save(entry, changed.map(|(_, (name, value))| CounterRecord { name: name.into(), value: *value }))
}

/// A counter without a row is 0.
pub(super) fn load(connection: &Connection) -> rusqlite::Result<RuleCounters> {
    let mut counters = RuleCounters::default();
    let records = record::load::<CounterRecord>(connection)?;
    for (name, value) in by_name(&mut counters) {
        *value = records.iter().find(|record| record.name == name).map_or(0, |record| record.value);
    }
    Ok(counters)
}
