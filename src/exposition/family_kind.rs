//! Which samples a family has for a skill.

use crate::ledger::{AnomalySeries, DURATION_BUCKETS_SECONDS, FailureSeries, Histogram, PhaseSeries, SkillSeries};

use super::families::{ANOMALIES, COMPLETION_RATE, DURATIONS, FAILURES, INVOCATIONS, LAST_INVOKED, LAST_LISTED};
use super::family::Family;
use super::format::Format;
use super::sample::{OpenMetricsSuffix, Sample, Value};
use super::skill_view::SkillView;
use super::zero_first::Zeros;

/// The values of `le`, which are part of the series' identity and must never change. In the order of
/// [`crate::ledger::DURATION_BUCKETS_SECONDS`], followed by `+Inf`.
const BUCKET_LABELS: [&str; 10] = ["0.1", "0.5", "1.0", "2.0", "5.0", "10.0", "30.0", "60.0", "300.0", "+Inf"];

/// A family with samples for each skill.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum FamilyKind {
    Invocations,
    Durations,
    CompletionRates,
    Anomalies,
    LastListed,
    Failures,
    LastInvoked,
}

const NONE: (&str, &str) = ("", "");

/// Returns every sample of a skill: the series as in a scrape, and its value.
pub fn samples(series: &SkillSeries) -> Vec<(String, String)> {
    let skill = SkillView {
        series: series.clone(),
        last_listed_micros: None,
        last_changed_micros: None,
        zeros: Zeros::default(),
    };
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim_end().to_owned();
    let mut samples = Vec::new();
    for kind in FamilyKind::ALL {
        kind.each_sample(&skill, |sample| {
            let mut series = Vec::new();
            sample.write_series(&mut series);
            samples.push((text(&series), sample.value.with_text(text)));
        });
    }
    samples
}

impl FamilyKind {
    /// Every kind, in the order in which they are exposed.
    pub const ALL: [Self; 7] = [
        Self::Invocations,
        Self::Durations,
        Self::CompletionRates,
        Self::Anomalies,
        Self::LastListed,
        Self::Failures,
        Self::LastInvoked,
    ];

    /// Returns HELP and TYPE.
    pub fn head(self, format: Format) -> String {
        match self {
            Self::Invocations => INVOCATIONS.head(format),
            Self::Durations => DURATIONS.head(format),
            Self::CompletionRates => COMPLETION_RATE.head(format),
            Self::Anomalies => ANOMALIES.head(format),
            Self::LastListed => LAST_LISTED.head(format),
            Self::Failures => FAILURES.head(format),
            Self::LastInvoked => LAST_INVOKED.head(format),
        }
    }

    /// Returns whether it is one of the bridge's own metrics, not of the five families.
    pub fn is_own(self) -> bool {
        match self {
            Self::Invocations | Self::Durations | Self::CompletionRates | Self::Anomalies => false,
            Self::LastListed | Self::Failures | Self::LastInvoked => true,
        }
    }

    /// Returns whether its samples only increase.
    pub fn is_counter(self) -> bool {
        match self {
            Self::Invocations | Self::Durations | Self::Anomalies | Self::Failures => true,
            Self::CompletionRates | Self::LastListed | Self::LastInvoked => false,
        }
    }

    /// Returns how many skills share a block: few in a family with many samples for each skill, because a change to one skill
    /// rewrites and compresses its whole block again.
    pub fn block_skills(self) -> usize {
        match self {
            Self::Durations => 4,
            Self::Invocations => 16,
            Self::CompletionRates | Self::Anomalies | Self::LastListed | Self::Failures | Self::LastInvoked => 64,
        }
    }

    /// Returns whether any sample of `skill` has an exemplar, and whether any has a created timestamp.
    pub fn has_suffixes(self, skill: &SkillView) -> (bool, bool) {
        let SkillSeries { phases, anomalies, failures, .. } = &skill.series;
        match self {
            Self::Invocations | Self::Durations => {
                let has_created = phases.iter().any(|phase| phase.born_micros.is_some());
                (phases.iter().any(|phase| phase.exemplar.is_some()), has_created)
            }
            Self::Anomalies => (false, anomalies.iter().any(|series| series.born_micros.is_some())),
            Self::Failures => (false, failures.iter().any(|series| series.born_micros.is_some())),
            Self::CompletionRates | Self::LastListed | Self::LastInvoked => (false, false),
        }
    }

    /// Returns what OpenMetrics adds to each sample of `skill`, in the order of [`FamilyKind::each_sample`]; nothing for
    /// samples beyond the end. Kept apart from the samples, of which a scrape writes hundreds of thousands.
    pub fn suffixes(self, skill: &SkillView) -> Vec<OpenMetricsSuffix<'_>> {
        let SkillSeries { phases, anomalies, failures, .. } = &skill.series;
        let created = |born_micros| OpenMetricsSuffix { exemplar: None, born_micros };
        let mut suffixes = Vec::new();
        match self {
            Self::Invocations => {
                for PhaseSeries { workflow_phase, exemplar, born_micros, .. } in phases {
                    let exemplar = exemplar.as_ref().filter(|_| !skill.zeros.has_phase(workflow_phase));
                    for is_completed in [false, true] {
                        let exemplar = exemplar.filter(|exemplar| exemplar.completed == is_completed);
                        let exemplar = exemplar.map(|exemplar| (exemplar, 1.0));
                        suffixes.push(OpenMetricsSuffix { exemplar, born_micros: *born_micros });
                    }
                }
            }
            Self::Durations => {
                for PhaseSeries { workflow_phase, durations, exemplar, born_micros, .. } in phases {
                    let exemplar = exemplar.as_ref().filter(|_| !skill.zeros.has_phase(workflow_phase));
                    let begin = suffixes.len();
                    // The buckets, the sum and, as the last line, the count.
                    suffixes.resize(begin + durations.buckets.len() + 2, OpenMetricsSuffix::default());
                    if let Some(exemplar) = exemplar
                        && let Some(seconds) = exemplar.duration_seconds
                    {
                        let bucket = DURATION_BUCKETS_SECONDS.partition_point(|bound| *bound < seconds);
                        suffixes[begin + bucket].exemplar = Some((exemplar, seconds));
                    }
                    suffixes[begin + durations.buckets.len() + 1].born_micros = *born_micros;
                }
            }
            Self::Anomalies => suffixes.extend(anomalies.iter().map(|series| created(series.born_micros))),
            Self::Failures => suffixes.extend(failures.iter().map(|series| created(series.born_micros))),
            Self::CompletionRates | Self::LastListed | Self::LastInvoked => {}
        }
        suffixes
    }

    /// Returns how many samples [`FamilyKind::each_sample`] has for `skill`.
    pub fn samples(self, skill: &SkillView) -> usize {
        let SkillSeries { skill_name: _, phases, completion_rate, anomalies, failures, last_invoked_micros } =
            &skill.series;
        match self {
            Self::Invocations => 2 * phases.len(),
            Self::Durations => (BUCKET_LABELS.len() + 2) * phases.len(),
            Self::CompletionRates => completion_rate.iter().len(),
            Self::Anomalies => anomalies.len(),
            Self::LastListed => skill.last_listed_micros.iter().len(),
            Self::Failures => failures.len(),
            Self::LastInvoked => last_invoked_micros.iter().len(),
        }
    }

    /// Calls `each` with the value of every sample of `skill`, in the order of [`FamilyKind::each_sample`], which makes labels of each.
    #[inline]
    pub fn each_value(self, skill: &SkillView, mut each: impl FnMut(Value)) {
        let SkillView { series, last_listed_micros, zeros, .. } = skill;
        match self {
            Self::Invocations => {
                for PhaseSeries { workflow_phase, completed, abandoned, .. } in &series.phases {
                    let is_held = zeros.has_phase(workflow_phase);
                    [*abandoned, *completed].into_iter().for_each(|count| each(held(is_held, count)));
                }
            }
            Self::Durations => {
                for PhaseSeries { workflow_phase, durations, .. } in &series.phases {
                    let durations = if zeros.has_phase(workflow_phase) { &Histogram::EMPTY } else { durations };
                    let mut cumulative = 0;
                    for count in durations.buckets {
                        cumulative += count;
                        each(Value::Count(cumulative));
                    }
                    each(Value::Number(durations.sum));
                    each(Value::Count(cumulative));
                }
            }
            Self::CompletionRates => series.completion_rate.into_iter().for_each(|rate| each(Value::Number(rate))),
            Self::Anomalies => {
                for AnomalySeries { anomaly_type, count, .. } in &series.anomalies {
                    each(held(zeros.has_anomaly_type(anomaly_type), *count));
                }
            }
            Self::LastListed => last_listed_micros.iter().for_each(|micros| each(seconds(*micros))),
            Self::Failures => {
                for FailureSeries { error_type, count, .. } in &series.failures {
                    each(held(zeros.has_error_type(error_type), *count));
                }
            }
            Self::LastInvoked => series.last_invoked_micros.iter().for_each(|micros| each(seconds(*micros))),
        }
    }

    /// Calls `each` with every sample of `skill`, in an order that depends on its series only.
    #[inline]
    pub fn each_sample(self, skill: &SkillView, each: impl FnMut(Sample<'_>)) {
        self.each_sample_but(&skill.zeros, skill, each);
    }

    /// The same with 0 as the value of the series `zeros`.
    #[inline]
    pub fn each_sample_but(self, zeros: &Zeros, skill: &SkillView, mut each: impl FnMut(Sample<'_>)) {
        let skill_name = &*skill.series.skill_name;
        match self {
            Self::Invocations => {
                let [name, phase, completed] = INVOCATIONS.labels;
                for PhaseSeries { workflow_phase, completed: ended, abandoned, .. } in &skill.series.phases {
                    let is_held = zeros.has_phase(workflow_phase);
                    for (text, count) in [("false", *abandoned), ("true", *ended)] {
                        each(Sample {
                            name: INVOCATIONS.name,
                            suffix: "",
                            labels: [(name, skill_name), (phase, workflow_phase), (completed, text), NONE],
                            value: held(is_held, count),
                        });
                    }
                }
            }
            Self::Durations => {
                let [name, phase] = DURATIONS.labels;
                for PhaseSeries { workflow_phase, durations, .. } in &skill.series.phases {
                    let durations = if zeros.has_phase(workflow_phase) { &Histogram::EMPTY } else { durations };
                    let mut write = |suffix, le, value| {
                        let labels = [(name, skill_name), (phase, &**workflow_phase), le, NONE];
                        each(Sample { name: DURATIONS.name, suffix, labels, value });
                    };
                    let mut cumulative = 0;
                    for (count, le) in durations.buckets.iter().zip(BUCKET_LABELS) {
                        cumulative += count;
                        write("_bucket", ("le", le), Value::Count(cumulative));
                    }
                    write("_sum", NONE, Value::Number(durations.sum));
                    write("_count", NONE, Value::Count(cumulative));
                }
            }
            Self::CompletionRates => {
                if let Some(rate) = skill.series.completion_rate {
                    let labels = [(COMPLETION_RATE.labels[0], skill_name), NONE, NONE, NONE];
                    each(Sample { name: COMPLETION_RATE.name, suffix: "", labels, value: Value::Number(rate) });
                }
            }
            Self::Anomalies => {
                let [kind, name] = ANOMALIES.labels;
                for AnomalySeries { anomaly_type, count, .. } in &skill.series.anomalies {
                    let labels = [(kind, &**anomaly_type), (name, skill_name), NONE, NONE];
                    let value = held(zeros.has_anomaly_type(anomaly_type), *count);
                    each(Sample { name: ANOMALIES.name, suffix: "", labels, value });
                }
            }
            Self::LastListed => each_timestamp(&LAST_LISTED, skill_name, skill.last_listed_micros, each),
            Self::Failures => {
                let [name, kind] = FAILURES.labels;
                for FailureSeries { error_type, count, .. } in &skill.series.failures {
                    let labels = [(name, skill_name), (kind, &**error_type), NONE, NONE];
                    let value = held(zeros.has_error_type(error_type), *count);
                    each(Sample { name: FAILURES.name, suffix: "", labels, value });
                }
            }
            Self::LastInvoked => each_timestamp(&LAST_INVOKED, skill_name, skill.series.last_invoked_micros, each),
        }
    }
}

/// Calls `each` with the sample of a skill of a family of timestamps, if there is a time.
fn each_timestamp(family: &Family<1>, skill_name: &str, micros: Option<i64>, mut each: impl FnMut(Sample<'_>)) {
    if let Some(micros) = micros {
        let labels = [(family.labels[0], skill_name), NONE, NONE, NONE];
        each(Sample { name: family.name, suffix: "", labels, value: seconds(micros) });
    }
}

/// Returns the value of a counter, which is 0 while it is held.
fn held(is_held: bool, count: u64) -> Value {
    Value::Count(if is_held { 0 } else { count })
}

fn seconds(micros: i64) -> Value {
    Value::Number(micros as f64 / 1e6)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bucket_labels_are_the_bounds() {
        for (label, bound) in BUCKET_LABELS.iter().zip(DURATION_BUCKETS_SECONDS) {
            assert_eq!(*label, format!("{bound:?}"));
        }
    }
}
