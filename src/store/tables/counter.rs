//! The counters of the rules, by name.

use rusqlite::Connection;

use super::record::{self, record};
use crate::ledger::RuleCounters;

record! {
    "counter", key (name),
    struct CounterRecord {
        name: String,
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

pub(super) fn save(connection: &Connection, counters: RuleCounters) -> rusqlite::Result<()> {
    let mut counters = counters;
    let records = by_name(&mut counters).map(|(name, value)| CounterRecord { name: name.to_owned(), value: *value });
    record::save(connection, records)
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
