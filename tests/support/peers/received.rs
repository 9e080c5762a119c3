//! What a receiver holds of a bridge, beside what the bridge shows.

use std::collections::BTreeMap;

use serde_json::Value;

use super::receivers::{Kind, Receiver};
use crate::support::holds;
use crate::support::push_senders::unix_millis;
use crate::support::scrape::{Scrape, Series};

/// Counters of the five families.
const COUNTERS: [&str; 5] = [
    "skill_invocations_total",
    "skill_duration_seconds_bucket",
    "skill_duration_seconds_count",
    "skill_duration_seconds_sum",
    "anomalies_detected_total",
];

const FAMILIES: &str = "skill_.*|anomalies_.*|active_sessions_total";

/// Labels that a push adds.
const LABELS: [&str; 3] = ["job", "instance", "cluster"];

pub type Values = BTreeMap<Series, f64>;

/// Returns the series of a scrape that are not the bridge's own.
pub fn five_families(scrape: &Scrape) -> Values {
    let is_own = |series: &Series| ["session_buddy_bridge_", "process_"].iter().any(|own| series.name.starts_with(own));
    let samples = scrape.samples.iter().filter(|(series, _)| !is_own(series));
    samples.map(|(series, value)| (series.clone(), *value)).collect()
}

/// Returns the time of the newest tick at a receiver, in milliseconds since the Unix epoch.
pub fn newest_millis(receiver: &Receiver, selector: &str) -> Option<i64> {
    let promql = format!("timestamp(active_sessions_total{{{selector}}})");
    let newest = receiver.api().query(&promql, unix_millis() as f64 / 1e3);
    newest.first().map(|(_, seconds)| (seconds * 1e3).round() as i64)
}

/// What a receiver holds at the time of its newest tick of the series that a selector of labels selects.
pub struct Received<'r> {
    receiver: &'r Receiver,
    selector: String,
    at_seconds: f64,
}

impl<'r> Received<'r> {
    pub fn new(receiver: &'r Receiver, selector: &str) -> Result<Self, String> {
        if receiver.kind == Kind::VictoriaMetrics {
            receiver.api().flush();
        }
        let newest = newest_millis(receiver, selector).ok_or("no sample")?;
        Ok(Self { receiver, selector: selector.to_owned(), at_seconds: newest as f64 / 1e3 })
    }

    /// The last values of the five families are those that the bridge shows.
    pub fn has_last_values(&self, shown: &Values) -> Result<(), String> {
        let held = self.ask(&format!("{{__name__=~\"{FAMILIES}\",{}}}", self.selector));
        self.agrees("last values", &held, shown)
    }

    /// No counter fell.
    pub fn shows_no_reset(&self, shown: &Values) -> Result<(), String> {
        COUNTERS.into_iter().try_for_each(|counter| {
            let none = of_counter(counter, shown).into_keys().map(|series| (series, 0.0)).collect();
            let resets = self.ask(&format!("resets({counter}{{{}}}[6h])", self.selector));
            self.agrees(&format!("resets of {counter}"), &resets, &none)
        })
    }

    /// Each counter increased by its value, as one that was observed from 0 on.
    pub fn increased_by_values(&self, shown: &Values) -> Result<(), String> {
        COUNTERS.into_iter().try_for_each(|counter| {
            // At the time of a sample nothing is extrapolated behind it, and nothing before a first sample that is 0.
            let increases = self.ask(&format!("increase({counter}{{{}}}[6h])", self.selector));
            self.agrees(&format!("increases of {counter}"), &increases, &of_counter(counter, shown))
        })
    }

    fn ask(&self, promql: &str) -> Values {
        self.receiver.api().query(promql, self.at_seconds).into_iter().map(unlabelled).collect()
    }

    /// Compares values to the bit; those of VictoriaMetrics, which stores decimal numbers and cuts them off, to
    /// less than one of the 12th digit.
    fn agrees(&self, what: &str, held: &Values, shown: &Values) -> Result<(), String> {
        let Receiver { kind, release, .. } = self.receiver;
        let tolerance = if *kind == Kind::VictoriaMetrics { 1e-11 } else { 0.0 };
        let missing = shown.keys().filter(|series| !held.contains_key(series)).map(|series| format!("no {series:?}"));
        let different = held.iter().filter_map(|(series, held)| match shown.get(series) {
            Some(shown) if (held - shown).abs() <= tolerance * shown.abs() => None,
            shown => Some(format!("{series:?} is {held:?} and not {shown:?}")),
        });
        let differences: Vec<_> = missing.chain(different).collect();
        let first = differences.first();
        holds(first.is_none(), format!("{kind:?} of {release}, {what}: {} differ, as {first:?}", differences.len()))
    }
}

/// Returns the series of one counter, without its name, which functions of ranges drop.
fn of_counter(counter: &str, shown: &Values) -> Values {
    let counted = shown.iter().filter(|(series, _)| series.name == counter);
    counted.map(|(series, value)| (Series { name: String::new(), ..series.clone() }, *value)).collect()
}

/// Returns a series of a receiver as the bridge shows it, without the labels of the push.
fn unlabelled((labels, value): (Value, f64)) -> (Series, f64) {
    let text = |value: &Value| value.as_str().expect("labels are strings").to_owned();
    let labels = labels.as_object().expect("labels").iter().map(|(label, value)| (label.clone(), text(value)));
    let mut labels: BTreeMap<_, _> = labels.filter(|(label, _)| !LABELS.contains(&label.as_str())).collect();
    let name = labels.remove("__name__").unwrap_or_default();
    (Series { name, labels }, value)
}
