//! Which lines a family has of a skill, and how a line is written.

use crate::ledger::{AnomalySeries, DURATION_BUCKETS_SECONDS, Exemplar, PhaseSeries, SkillSeries};

use super::families::{ANOMALIES, COMPLETION_RATE, DURATIONS, INVOCATIONS, LAST_LISTED};
use super::format::Format;
use super::view::SkillView;

/// The bounds of the buckets as they are written: `le` is part of a series' identity, so it is the same text always. In
/// the order of [`crate::ledger::DURATION_BUCKETS_SECONDS`], with `+Inf` behind.
const BUCKET_LABELS: [&str; 10] = ["0.1", "0.5", "1.0", "2.0", "5.0", "10.0", "30.0", "60.0", "300.0", "+Inf"];

/// A family with lines of each skill.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum FamilyKind {
    Invocations,
    Durations,
    CompletionRates,
    Anomalies,
    LastListed,
}

/// The value of a line.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Value {
    Count(u64),
    Number(f64),
}

/// One line. A label without a name is none.
pub(super) struct Sample<'a> {
    pub name: &'static str,
    pub suffix: &'static str,
    pub labels: [(&'static str, &'a str); 4],
    pub value: Value,
}

/// What OpenMetrics says of a line beyond its value.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct OpenMetricsSuffix<'a> {
    /// An invocation that the line counts, and the value that the exemplar has.
    pub exemplar: Option<(&'a Exemplar, f64)>,
    /// Where this line is the last of series that came into being under watch: when, in microseconds since the Unix epoch.
    pub born_micros: Option<i64>,
}

const NONE: (&str, &str) = ("", "");

/// Every sample of a skill: the series as a scrape has it, and its value.
pub fn samples(series: &SkillSeries) -> Vec<(String, String)> {
    let skill = SkillView { series: series.clone(), last_listed_micros: None, last_changed_micros: None };
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
    /// Every kind, in the order in which they are shown.
    pub const ALL: [Self; 5] =
        [Self::Invocations, Self::Durations, Self::CompletionRates, Self::Anomalies, Self::LastListed];

    /// The lines that every scrape has before those of the skills.
    pub fn head(self, format: Format) -> String {
        match self {
            Self::Invocations => INVOCATIONS.head(format),
            Self::Durations => DURATIONS.head(format),
            Self::CompletionRates => COMPLETION_RATE.head(format),
            Self::Anomalies => ANOMALIES.head(format),
            Self::LastListed => LAST_LISTED.head(format),
        }
    }

    /// How many skills share a block. Of a family with many lines a skill it is few: what one skill changes is written,
    /// and compressed, again with the rest of its block.
    pub fn block_skills(self) -> usize {
        match self {
            Self::Durations => 4,
            Self::Invocations => 16,
            Self::CompletionRates | Self::Anomalies | Self::LastListed => 64,
        }
    }

    /// Whether any line of `skill` has an exemplar, and whether any has a time of birth.
    pub fn has_suffixes(self, skill: &SkillView) -> (bool, bool) {
        let SkillSeries { phases, anomalies, .. } = &skill.series;
        match self {
            Self::Invocations | Self::Durations => {
                let has_created = phases.iter().any(|phase| phase.born_micros.is_some());
                (phases.iter().any(|phase| phase.exemplar.is_some()), has_created)
            }
            Self::Anomalies => (false, anomalies.iter().any(|series| series.born_micros.is_some())),
            Self::CompletionRates | Self::LastListed => (false, false),
        }
    }

    /// What OpenMetrics has beside each line of `skill`, in the order of [`FamilyKind::each_sample`]; nothing for the lines that
    /// are left. Apart from the lines, which every scrape writes by the hundred thousand.
    pub fn suffixes(self, skill: &SkillView) -> Vec<OpenMetricsSuffix<'_>> {
        let SkillSeries { phases, anomalies, .. } = &skill.series;
        let mut suffixes = Vec::new();
        match self {
            Self::Invocations => {
                for PhaseSeries { exemplar, born_micros, .. } in phases {
                    for is_completed in [false, true] {
                        let exemplar = exemplar.as_deref().filter(|exemplar| exemplar.completed == is_completed);
                        let exemplar = exemplar.map(|exemplar| (exemplar, 1.0));
                        suffixes.push(OpenMetricsSuffix { exemplar, born_micros: *born_micros });
                    }
                }
            }
            Self::Durations => {
                for PhaseSeries { durations, exemplar, born_micros, .. } in phases {
                    let begin = suffixes.len();
                    // The buckets, the sum and, as the last line, the count.
                    suffixes.resize(begin + durations.buckets.len() + 2, OpenMetricsSuffix::default());
                    if let Some(exemplar) = exemplar.as_deref()
                        && let Some(seconds) = exemplar.duration_seconds
                    {
                        let bucket = DURATION_BUCKETS_SECONDS.partition_point(|bound| *bound < seconds);
                        suffixes[begin + bucket].exemplar = Some((exemplar, seconds));
                    }
                    suffixes[begin + durations.buckets.len() + 1].born_micros = *born_micros;
                }
            }
            Self::Anomalies => {
                let created = anomalies.iter().map(|series| series.born_micros);
                suffixes.extend(created.map(|born_micros| OpenMetricsSuffix { exemplar: None, born_micros }));
            }
            Self::CompletionRates | Self::LastListed => {}
        }
        suffixes
    }

    /// Calls `each` with every line of `skill`, in an order that depends on its series alone.
    #[inline]
    pub fn each_sample(self, skill: &SkillView, mut each: impl FnMut(Sample<'_>)) {
        let skill_name = &*skill.series.skill_name;
        match self {
            Self::Invocations => {
                let [name, phase, completed] = INVOCATIONS.labels;
                for PhaseSeries { workflow_phase, completed: ended, abandoned, .. } in &skill.series.phases {
                    for (text, count) in [("false", *abandoned), ("true", *ended)] {
                        each(Sample {
                            name: INVOCATIONS.name,
                            suffix: "",
                            labels: [(name, skill_name), (phase, workflow_phase), (completed, text), NONE],
                            value: Value::Count(count),
                        });
                    }
                }
            }
            Self::Durations => {
                let [name, phase] = DURATIONS.labels;
                for PhaseSeries { workflow_phase, durations, .. } in &skill.series.phases {
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
                    each(Sample { name: ANOMALIES.name, suffix: "", labels, value: Value::Count(*count) });
                }
            }
            Self::LastListed => {
                if let Some(micros) = skill.last_listed_micros {
                    let labels = [(LAST_LISTED.labels[0], skill_name), NONE, NONE, NONE];
                    each(Sample {
                        name: LAST_LISTED.name,
                        suffix: "",
                        labels,
                        value: Value::Number(micros as f64 / 1e6),
                    });
                }
            }
        }
    }
}

impl Sample<'_> {
    /// Writes everything up to the value.
    pub fn write_series(&self, out: &mut Vec<u8>) {
        self.write_series_as(self.name, self.suffix, out);
    }

    /// Writes what OpenMetrics has behind the value, up to the end of the line: an exemplar.
    pub fn write_exemplar(suffix: OpenMetricsSuffix<'_>, out: &mut Vec<u8>) {
        if let Some((exemplar, value)) = suffix.exemplar {
            out.extend_from_slice(b" # {session_id=\"");
            push_escaped(&exemplar.session_id, |chunk| out.extend_from_slice(chunk.as_bytes()));
            out.extend_from_slice(b"\"} ");
            Value::Number(value).with_text(|text| out.extend_from_slice(text));
            out.push(b' ');
            Value::Number(exemplar.wall_micros as f64 / 1e6).with_text(|text| out.extend_from_slice(text));
        }
    }

    /// Writes the line that OpenMetrics has behind this one where these series came into being under watch.
    pub fn write_created(&self, suffix: OpenMetricsSuffix<'_>, out: &mut Vec<u8>) {
        if let Some(micros) = suffix.born_micros {
            let stem = self.name.strip_suffix("_total").unwrap_or(self.name);
            self.write_series_as(stem, "_created", out);
            Value::Number(micros as f64 / 1e6).with_text(|text| out.extend_from_slice(text));
            out.push(b'\n');
        }
    }

    fn write_series_as(&self, name: &str, suffix: &str, out: &mut Vec<u8>) {
        out.extend_from_slice(name.as_bytes());
        out.extend_from_slice(suffix.as_bytes());
        let mut separator = b'{';
        for (name, text) in self.labels.into_iter().filter(|(name, _)| !name.is_empty()) {
            out.push(separator);
            separator = b',';
            out.extend_from_slice(name.as_bytes());
            out.extend_from_slice(b"=\"");
            push_escaped(text, |chunk| out.extend_from_slice(chunk.as_bytes()));
            out.push(b'"');
        }
        out.extend_from_slice(b"} ");
    }
}

impl Value {
    /// The bits of the value, by which two of one line are told apart.
    pub fn bits(self) -> u64 {
        match self {
            Self::Count(count) => count,
            Self::Number(number) => number.to_bits(),
        }
    }

    /// Calls `read` with the shortest text that is read back as the same number.
    #[inline]
    pub fn with_text<T>(self, read: impl FnOnce(&[u8]) -> T) -> T {
        /// Up to here every whole number is a double, and its digits are its shortest text.
        const WHOLE_MAX: f64 = 9_007_199_254_740_992.0;
        match self {
            Self::Count(count) => read(itoa::Buffer::new().format(count).as_bytes()),
            Self::Number(number) if number.fract() == 0.0 && number.abs() <= WHOLE_MAX => {
                read(itoa::Buffer::new().format(number as i64).as_bytes())
            }
            Self::Number(number) if number.is_finite() => read(zmij::Buffer::new().format_finite(number).as_bytes()),
            Self::Number(f64::INFINITY) => read(b"+Inf"),
            Self::Number(f64::NEG_INFINITY) => read(b"-Inf"),
            Self::Number(_) => read(b"NaN"),
        }
    }
}

/// Gives `push` the value of a label, chunk by chunk.
pub(super) fn push_escaped(text: &str, mut push: impl FnMut(&str)) {
    for chunk in text.split_inclusive(['\\', '"', '\n']) {
        let (plain, escape) = match chunk.as_bytes().last() {
            Some(b'\\') => (&chunk[..chunk.len() - 1], "\\\\"),
            Some(b'"') => (&chunk[..chunk.len() - 1], "\\\""),
            Some(b'\n') => (&chunk[..chunk.len() - 1], "\\n"),
            _ => (chunk, ""),
        };
        push(plain);
        push(escape);
    }
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

    #[test]
    fn label_values_are_escaped() {
        let mut out = String::new();
        push_escaped("a\\b\"c\nd\u{e9}", |chunk| out.push_str(chunk));
        assert_eq!(out, "a\\\\b\\\"c\\nd\u{e9}");
    }

    #[test]
    fn values_are_read_back_as_they_were() {
        for number in [0.0, 1.0, 0.96875, 1e-9, 1.5e300, 5e-324, 9_007_199_254_740_993.0, 1_795_341_600.123_456] {
            let text = Value::Number(number).with_text(|text| String::from_utf8(text.to_vec()).unwrap());
            assert_eq!(text.parse::<f64>().unwrap().to_bits(), number.to_bits(), "{text}");
        }
        let text = |value: Value| value.with_text(|text| String::from_utf8(text.to_vec()).unwrap());
        assert_eq!(text(Value::Number(5.0)), "5");
        assert_eq!(text(Value::Count(u64::MAX)), u64::MAX.to_string());
        assert_eq!(text(Value::Number(f64::INFINITY)), "+Inf");
        assert_eq!(text(Value::Number(f64::NAN)), "NaN");
    }
}
