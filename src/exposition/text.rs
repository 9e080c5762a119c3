//! The text format 0.0.4.

use std::fmt::{self, Display, Write};

use prometheus::proto::{MetricFamily, MetricType};
use prometheus::{Registry, TextEncoder};

use super::collector::{Source, gather_others};
use super::families::{ACTIVE_SESSIONS, ANOMALIES, COMPLETION_RATE, DURATIONS, INVOCATIONS, LAST_LISTED};
use super::family::Family;
use super::view::View;
use crate::ledger::AnomalySeries;

/// The bounds of the buckets as they are written: `le` is part of a series' identity, so it is the same text always. In
/// the order of [`crate::ledger::DURATION_BUCKETS_SECONDS`], with `+Inf` behind.
const BUCKET_LABELS: [&str; 10] = ["0.1", "0.5", "1.0", "2.0", "5.0", "10.0", "30.0", "60.0", "300.0", "+Inf"];

/// Writes the five families. HELP and TYPE are there with or without series: a name that exists is a query that can be
/// written.
pub fn encode_families(view: &View, active_sessions: u64, out: &mut String) {
    write_families(view, active_sessions, out).expect("a String takes everything");
}

/// Writes when each skill was last listed.
pub fn encode_last_listed(view: &View, out: &mut String) {
    write_last_listed(view, out).expect("a String takes everything");
}

fn write_families(view: &View, active_sessions: u64, out: &mut String) -> fmt::Result {
    write_head(&INVOCATIONS, out)?;
    for (skill, phase) in view.phases() {
        for (completed, value) in [("false", phase.abandoned), ("true", phase.completed)] {
            write_series(&INVOCATIONS, "", [skill, &phase.workflow_phase, completed], None, value, out)?;
        }
    }
    write_head(&DURATIONS, out)?;
    for (skill, phase) in view.phases() {
        let labels = [skill, &*phase.workflow_phase];
        let mut cumulative = 0;
        for (count, le) in phase.durations.buckets.iter().zip(BUCKET_LABELS) {
            cumulative += count;
            write_series(&DURATIONS, "_bucket", labels, Some(le), cumulative, out)?;
        }
        write_series(&DURATIONS, "_sum", labels, None, phase.durations.sum, out)?;
        write_series(&DURATIONS, "_count", labels, None, cumulative, out)?;
    }
    write_head(&COMPLETION_RATE, out)?;
    for skill in view.skills() {
        if let Some(rate) = skill.completion_rate {
            write_series(&COMPLETION_RATE, "", [&skill.skill_name], None, rate, out)?;
        }
    }
    write_head(&ACTIVE_SESSIONS, out)?;
    write_series(&ACTIVE_SESSIONS, "", [], None, active_sessions, out)?;
    write_head(&ANOMALIES, out)?;
    for skill in view.skills() {
        for AnomalySeries { anomaly_type, count, .. } in &skill.anomalies {
            write_series(&ANOMALIES, "", [anomaly_type, &skill.skill_name], None, count, out)?;
        }
    }
    Ok(())
}

fn write_last_listed(view: &View, out: &mut String) -> fmt::Result {
    write_head(&LAST_LISTED, out)?;
    for skill in view.shown() {
        if let Some(micros) = skill.last_listed_micros {
            write_series(&LAST_LISTED, "", [&skill.series.skill_name], None, micros as f64 / 1e6, out)?;
        }
    }
    Ok(())
}

/// Writes families that `Registry::gather` gave, which are never empty. On an error nothing is written.
///
/// # Errors
/// A family that the crate's own encoder refuses: its message names it.
pub fn encode_others(families: &[MetricFamily], out: &mut String) -> Result<(), prometheus::Error> {
    let before = out.len();
    TextEncoder::new().encode_utf8(families, out).inspect_err(|_| out.truncate(before))
}

/// The whole body of a scrape: the families that `source` shows, all of one moment, and everything else of `registry`.
/// Families that the crate's own encoder refuses are left out and logged: what an embedder got wrong must not hide what
/// the bridge has right.
pub fn render(source: &dyn Source, registry: &Registry) -> String {
    let mut out = String::new();
    source.read(&mut |view, active_sessions| {
        encode_families(view, active_sessions, &mut out);
        encode_last_listed(view, &mut out);
    });
    if let Err(error) = encode_others(&gather_others(registry), &mut out) {
        tracing::error!(%error, "registered metrics are left out of this scrape");
    }
    out
}

fn write_head<const LABELS: usize>(family: &Family<LABELS>, out: &mut String) -> fmt::Result {
    let kind = match family.kind {
        MetricType::COUNTER => "counter",
        MetricType::HISTOGRAM => "histogram",
        _ => "gauge",
    };
    writeln!(out, "# HELP {} {}\n# TYPE {} {kind}", family.name, family.help, family.name)
}

fn write_series<const LABELS: usize>(
    family: &Family<LABELS>,
    suffix: &str,
    values: [&str; LABELS],
    le: Option<&str>,
    value: impl Display,
    out: &mut String,
) -> fmt::Result {
    out.push_str(family.name);
    out.push_str(suffix);
    let mut separator = '{';
    let labels = family.labels.into_iter().zip(values);
    for (name, text) in labels.chain(le.map(|le| ("le", le))) {
        out.push(separator);
        separator = ',';
        out.push_str(name);
        out.push_str("=\"");
        push_escaped(text, out);
        out.push('"');
    }
    if separator == ',' {
        out.push('}');
    }
    writeln!(out, " {value}")
}

fn push_escaped(text: &str, out: &mut String) {
    let mut rest = text;
    while let Some(at) = rest.find(['\\', '"', '\n']) {
        out.push_str(&rest[..at]);
        out.push_str(match rest.as_bytes()[at] {
            b'\\' => "\\\\",
            b'"' => "\\\"",
            _ => "\\n",
        });
        rest = &rest[at + 1..];
    }
    out.push_str(rest);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ledger::DURATION_BUCKETS_SECONDS;

    #[test]
    fn bucket_labels_are_the_bounds() {
        for (label, bound) in BUCKET_LABELS.iter().zip(DURATION_BUCKETS_SECONDS) {
            assert_eq!(*label, format!("{bound:?}"));
        }
    }

    #[test]
    fn every_family_has_its_head_before_any_series() {
        let mut out = String::new();
        encode_families(&View::default(), 0, &mut out);
        let expected = "\
# HELP skill_invocations_total Total number of skill invocations
# TYPE skill_invocations_total counter
# HELP skill_duration_seconds Skill execution duration in seconds
# TYPE skill_duration_seconds histogram
# HELP skill_completion_rate Current skill completion rate
# TYPE skill_completion_rate gauge
# HELP active_sessions_total Number of currently active sessions
# TYPE active_sessions_total gauge
active_sessions_total 0
# HELP anomalies_detected_total Total number of anomalies detected
# TYPE anomalies_detected_total counter
";
        assert_eq!(out, expected);
    }

    #[test]
    fn label_values_are_escaped() {
        let mut out = String::new();
        push_escaped("a\\b\"c\nd", &mut out);
        assert_eq!(out, r#"a\\b\"c\nd"#);
    }
}
