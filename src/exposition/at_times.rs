//! The families that the rows of a database determine, with samples of the past.

use crate::ledger::SkillSeries;

use super::family_kind::FamilyKind;
use super::format::Format;
use super::sample::{Sample, push_escaped};
use super::skill_view::SkillView;
use super::zero_first::Zeros;

const FORMAT: Format = Format::OpenMetrics { with_created: false };

/// What must follow the last line of OpenMetrics.
pub const OPEN_METRICS_END: &str = "# EOF\n";

/// A family that the rows of a database determine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RowFamily {
    /// `skill_invocations_total`: two metrics for each phase of a skill.
    Invocations,
    /// `skill_duration_seconds`: a histogram for each phase of a skill.
    Durations,
    /// `skill_completion_rate`: a gauge for each skill.
    CompletionRates,
    /// `anomalies_detected_total`: a series for each type of a skill's anomalies.
    Anomalies,
    /// `session_buddy_bridge_skill_failures_total`: a series for each type of a skill's errors.
    Failures,
    /// `session_buddy_bridge_skill_last_invoked_timestamp_seconds`: a gauge for each skill.
    LastInvoked,
}

/// The samples of one metric of a skill, as its series are now: one sample, or those of a histogram.
///
/// OpenMetrics does not allow the samples of two metrics to alternate.
#[derive(Debug)]
pub struct SamplesAtTimes {
    kind: FamilyKind,
    view: SkillView,
    /// Which sample of the family; `None` for all.
    only: Option<usize>,
}

impl RowFamily {
    /// Every family, in the order in which they are exposed.
    pub const ALL: [Self; 6] =
        [Self::Invocations, Self::Durations, Self::CompletionRates, Self::Anomalies, Self::Failures, Self::LastInvoked];

    fn kind(self) -> FamilyKind {
        match self {
            Self::Invocations => FamilyKind::Invocations,
            Self::Durations => FamilyKind::Durations,
            Self::CompletionRates => FamilyKind::CompletionRates,
            Self::Anomalies => FamilyKind::Anomalies,
            Self::Failures => FamilyKind::Failures,
            Self::LastInvoked => FamilyKind::LastInvoked,
        }
    }

    /// Returns HELP and TYPE in OpenMetrics.
    pub fn head(self) -> String {
        self.kind().head(FORMAT)
    }
}

impl SamplesAtTimes {
    /// Every sample of `family` that `series` has.
    pub fn all(family: RowFamily, series: SkillSeries) -> Self {
        let zeros = Zeros::default();
        let view = SkillView { series, last_listed_micros: None, last_changed_micros: None, zeros };
        Self { kind: family.kind(), view, only: None }
    }

    /// The sample of `family` at a place in the order of a scrape.
    pub fn only(family: RowFamily, series: SkillSeries, place: usize) -> Self {
        Self { only: Some(place), ..Self::all(family, series) }
    }

    /// Returns the series, to be changed. Phases and types stay as they are, and a gauge stays where there is one.
    pub fn series(&mut self) -> &mut SkillSeries {
        &mut self.view.series
    }

    fn each(&self, mut each: impl FnMut(Sample<'_>)) {
        let mut place = 0;
        self.kind.each_sample(&self.view, |sample| {
            if self.only.is_none_or(|only| only == place) {
                each(sample);
            }
            place += 1;
        });
    }

    /// Returns of each sample the name and the labels, with `labels` behind its own and a space at the end.
    pub fn lines(&self, labels: &[(&str, &str)]) -> Vec<Vec<u8>> {
        let mut lines = Vec::new();
        self.each(|sample| {
            let mut line = Vec::new();
            sample.write_series(&mut line);
            line.truncate(line.len() - "} ".len());
            for (name, value) in labels {
                line.extend_from_slice(format!(",{name}=\"").as_bytes());
                push_escaped(value, |chunk| line.extend_from_slice(chunk.as_bytes()));
                line.push(b'"');
            }
            line.extend_from_slice(b"} ");
            lines.push(line);
        });
        lines
    }

    /// Returns of each sample the name and its own labels.
    pub fn names(&self) -> Vec<(String, Vec<(&'static str, String)>)> {
        let mut names = Vec::new();
        self.each(|sample| {
            let labels = sample.labels.iter().filter(|(name, _)| !name.is_empty());
            let labels = labels.map(|(name, value)| (*name, (*value).to_owned())).collect();
            names.push((format!("{}{}", sample.name, sample.suffix), labels));
        });
        names
    }

    /// Writes a line for each sample, at a time in milliseconds since the Unix epoch. `lines` are those of
    /// [`SamplesAtTimes::lines`].
    pub fn write(&self, lines: &[Vec<u8>], millis: i64, out: &mut Vec<u8>) {
        let mut lines = lines.iter();
        let mut digits = itoa::Buffer::new();
        let (seconds, fraction) = (millis.div_euclid(1_000), millis.rem_euclid(1_000));
        let seconds = digits.format(seconds);
        self.each(|sample| {
            out.extend_from_slice(lines.next().expect("a line for each sample"));
            sample.value.with_text(|text| out.extend_from_slice(text));
            out.push(b' ');
            out.extend_from_slice(seconds.as_bytes());
            if fraction != 0 {
                out.extend_from_slice(format!(".{fraction:03}").as_bytes());
            }
            out.push(b'\n');
        });
    }

    /// Calls `each` with the value of each sample, in the order of [`SamplesAtTimes::names`].
    pub fn values(&self, mut each: impl FnMut(f64)) {
        self.each(|sample| each(sample.value.number()));
    }
}
