//! Series that are exposed at 0 before their value is: `increase()` never sees a series' first value.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::ledger::SkillSeries;

use super::skill_view::SkillView;

/// What is exposed at 0, and until when. Series whose first counts were observed are; history never is.
///
/// Their time begins with the scrape that exposes them first, so that at least one exposes the 0, whatever the interval of
/// scrapes is.
#[derive(Debug, Default)]
pub(super) struct ZeroFirst {
    duration: Duration,
    /// Skills with series that no scrape has exposed yet.
    unexposed: Vec<usize>,
    /// When to expose values of skills, in order of time.
    ends: VecDeque<(Instant, usize)>,
}

/// The series of a skill that are exposed at 0. Most skills have none.
#[derive(Debug, Default)]
pub struct Zeros(Vec<Zero>);

#[derive(Debug)]
struct Zero {
    series: SeriesName,
    /// `None` before the first scrape.
    until: Option<Instant>,
}

#[derive(Debug, PartialEq, Eq)]
enum SeriesName {
    Phase(Arc<str>),
    AnomalyType(Arc<str>),
    ErrorType(Arc<str>),
}

impl ZeroFirst {
    pub fn new(duration: Duration) -> Self {
        Self { duration, ..Self::default() }
    }

    /// Holds the series of the skill at `index` that are in `now` and not in `before`, and that began to count at 0.
    pub fn hold(&mut self, index: usize, before: Option<&SkillSeries>, now: &SkillSeries, zeros: &mut Zeros) {
        let is_as_before = |before: &SkillSeries| {
            before.phases.len() == now.phases.len()
                && before.anomalies.len() == now.anomalies.len()
                && before.failures.len() == now.failures.len()
        };
        if self.duration.is_zero() || before.is_some_and(is_as_before) {
            return;
        }
        let is_new = |name: &SeriesName| before.is_none_or(|before| !names(before).any(|(old, _)| old == *name));
        let new = names(now).filter(|(name, born_micros)| born_micros.is_some() && is_new(name));
        self.hold_each(index, new.map(|(name, _)| name), zeros);
    }

    /// Holds the series of a restored skill that began to count less than the duration before `wall_micros`. None of them was
    /// exposed with its value if the duration was as long before the restart. Returns whether there are any.
    ///
    /// A series that began in the future is of a clock that was set back: its value may have been exposed.
    pub fn hold_restored(&mut self, index: usize, restored: &SkillSeries, wall_micros: i64, zeros: &mut Zeros) -> bool {
        let duration_micros = i64::try_from(self.duration.as_micros()).unwrap_or(i64::MAX);
        let is_young = |born_micros: Option<i64>| {
            born_micros.is_some_and(|born| (0..duration_micros).contains(&wall_micros.saturating_sub(born)))
        };
        let young = names(restored).filter(|(_, born_micros)| is_young(*born_micros));
        self.hold_each(index, young.map(|(name, _)| name), zeros)
    }

    fn hold_each(&mut self, index: usize, names: impl Iterator<Item = SeriesName>, zeros: &mut Zeros) -> bool {
        let known = zeros.0.len();
        zeros.0.extend(names.map(|series| Zero { series, until: None }));
        let has_any = zeros.0.len() > known;
        if has_any {
            self.unexposed.push(index);
        }
        has_any
    }

    /// A scrape exposes every series at `now`. Returns the skills of which it exposes values that were held back.
    pub fn begin_scrape(&mut self, now: Instant, skills: &mut [SkillView]) -> Vec<usize> {
        let until = now + self.duration;
        for index in self.unexposed.drain(..) {
            skills[index].zeros.0.iter_mut().for_each(|zero| {
                zero.until.get_or_insert(until);
            });
            self.ends.push_back((until, index));
        }
        let due = self.ends.partition_point(|(end, _)| *end <= now);
        let ended = self.ends.drain(..due).map(|(_, index)| {
            skills[index].zeros.end(now);
            index
        });
        ended.collect()
    }
}

/// The counters and histograms of a skill, and when they began to count at 0.
fn names(skill: &SkillSeries) -> impl Iterator<Item = (SeriesName, Option<i64>)> {
    let phases = skill.phases.iter().map(|one| (SeriesName::Phase(one.workflow_phase.clone()), one.born_micros));
    let kinds = skill.anomalies.iter().map(|one| (SeriesName::AnomalyType(one.anomaly_type.clone()), one.born_micros));
    let causes = skill.failures.iter().map(|one| (SeriesName::ErrorType(one.error_type.clone()), one.born_micros));
    phases.chain(kinds).chain(causes)
}

impl Zeros {
    /// Whether the series of this `workflow_phase` are exposed at 0.
    #[inline]
    pub fn has_phase(&self, workflow_phase: &str) -> bool {
        self.0.iter().any(|zero| matches!(&zero.series, SeriesName::Phase(phase) if **phase == *workflow_phase))
    }

    /// Whether the series of this `anomaly_type` is exposed at 0.
    #[inline]
    pub fn has_anomaly_type(&self, anomaly_type: &str) -> bool {
        self.0.iter().any(|zero| matches!(&zero.series, SeriesName::AnomalyType(kind) if **kind == *anomaly_type))
    }

    /// Whether the series of this `error_type` is exposed at 0.
    #[inline]
    pub fn has_error_type(&self, error_type: &str) -> bool {
        self.0.iter().any(|zero| matches!(&zero.series, SeriesName::ErrorType(cause) if **cause == *error_type))
    }

    /// Exposes the values of those whose time is over.
    fn end(&mut self, now: Instant) {
        self.0.retain(|zero| zero.until.is_none_or(|until| until > now));
        if self.0.is_empty() {
            self.0 = Vec::new();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exposition::View;
    use crate::exposition::family_kind::FamilyKind;
    use crate::exposition::text::encode_families;
    use crate::ledger::{AnomalySeries, Changes, FailureSeries, Histogram, PhaseSeries, SkillIndex, SkillRow};

    const DURATION: Duration = Duration::from_secs(20);

    const NOW_MICROS: i64 = 1_700_000_000_000_000;

    fn phase(name: &str, count: u64, born_micros: Option<i64>) -> PhaseSeries {
        let mut durations = Histogram::default();
        durations.buckets[2] = count;
        durations.sum = count as f64 * 0.75;
        let workflow_phase = name.into();
        PhaseSeries { workflow_phase, completed: count, abandoned: 0, durations, born_micros, exemplar: None }
    }

    fn changes(index: u32, phases: Vec<PhaseSeries>, anomalies: u64) -> Changes {
        let anomaly = AnomalySeries { anomaly_type: "drop".into(), count: anomalies, born_micros: Some(1) };
        let anomalies = Vec::from_iter((anomalies > 0).then_some(anomaly));
        let skill_name = format!("skill-{index}").into();
        let failure =
            FailureSeries { error_type: "timeout".into(), count: anomalies.len() as u64, born_micros: Some(1) };
        let failures = Vec::from_iter((failure.count > 0).then_some(failure));
        let (completion_rate, new) = (Some(1.0), SkillSeries::new(skill_name));
        let series = SkillSeries { phases, completion_rate, anomalies, failures, ..new };
        let skills = vec![SkillRow { index: SkillIndex(index), series, last_listed_micros: 0 }];
        Changes { skills, ..Changes::default() }
    }

    fn text(view: &mut View) -> String {
        let mut text = String::new();
        encode_families(view, 0, &mut text);
        text
    }

    fn exposed(view: &mut View, at: Instant, series: &str) -> Option<String> {
        view.begin_scrape(at);
        text(view).lines().find_map(|line| line.strip_prefix(series)).map(|value| value.trim().to_owned())
    }

    /// What is exposed of the failures of the first skill.
    fn failures(view: &View) -> Vec<String> {
        let mut values = Vec::new();
        FamilyKind::Failures.each_sample(view.skill(0), |sample| {
            values.push(sample.value.with_text(|text| String::from_utf8_lossy(text).into_owned()));
        });
        values
    }

    #[test]
    fn each_series_is_0_from_its_first_scrape_for_the_duration() {
        const SETUP: &str = r#"skill_invocations_total{skill_name="skill-0",workflow_phase="setup",completed="true"}"#;
        const CLEANUP: &str = r#"skill_duration_seconds_count{skill_name="skill-0",workflow_phase="cleanup"}"#;
        const ANOMALIES: &str = r#"anomalies_detected_total{anomaly_type="drop",skill_name="skill-0"}"#;
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut view = View::default();
        view.expose_zero_first(DURATION, NOW_MICROS);
        view.apply(changes(0, vec![phase("setup", 3, Some(1))], 0));
        // Nobody scrapes for long: the 0 is exposed all the same.
        assert_eq!(exposed(&mut view, at(100), SETUP).as_deref(), Some("0"));
        view.apply(changes(0, vec![phase("setup", 4, Some(1)), phase("cleanup", 2, Some(1))], 5));
        assert_eq!(exposed(&mut view, at(110), SETUP).as_deref(), Some("0"), "whatever is counted meanwhile");
        assert_eq!(exposed(&mut view, at(119), CLEANUP).as_deref(), Some("0"));
        assert_eq!(exposed(&mut view, at(120), SETUP).as_deref(), Some("4"));
        assert_eq!(exposed(&mut view, at(120), CLEANUP).as_deref(), Some("0"), "its time began 10 s later");
        assert_eq!(exposed(&mut view, at(129), ANOMALIES).as_deref(), Some("0"));
        assert_eq!(failures(&view), ["0"]);
        assert_eq!(exposed(&mut view, at(130), CLEANUP).as_deref(), Some("2"));
        assert_eq!(exposed(&mut view, at(130), ANOMALIES).as_deref(), Some("5"));
        assert_eq!(failures(&view), ["1"]);

        let mut fresh = View::default();
        fresh.apply(changes(0, vec![phase("setup", 4, Some(1)), phase("cleanup", 2, Some(1))], 5));
        assert_eq!(text(&mut view), text(&mut fresh), "text that is kept is that of values");
        assert_eq!(view.take_increase(), fresh.take_increase(), "the page was told at once");
    }

    #[test]
    fn history_and_what_was_restored_with_its_value_is_never_0_first() {
        let mut view = View::default();
        let known = |history: u64| vec![phase("setup", 3, Some(1)), phase("unknown", history, None)];
        view.apply(changes(0, known(7), 1));
        view.expose_zero_first(DURATION, NOW_MICROS);
        view.apply(changes(0, known(8), 2));
        view.apply(changes(1, vec![phase("unknown", 9, None)], 0));
        let mut fresh = View::default();
        fresh.apply(changes(0, known(8), 2));
        fresh.apply(changes(1, vec![phase("unknown", 9, None)], 0));
        view.begin_scrape(Instant::now());
        assert_eq!(text(&mut view), text(&mut fresh));
    }
    #[test]
    fn a_restart_while_a_series_is_exposed_at_0_exposes_it_at_0_again() {
        const SETUP: &str = r#"skill_invocations_total{skill_name="skill-0",workflow_phase="setup",completed="true"}"#;
        let after_restart = |born_before_micros: i64| {
            let mut view = View::default();
            view.apply(changes(0, vec![phase("setup", 3, Some(NOW_MICROS - born_before_micros))], 0));
            view.expose_zero_first(DURATION, NOW_MICROS);
            let start = Instant::now();
            [0, 19, 20].map(|seconds| exposed(&mut view, start + Duration::from_secs(seconds), SETUP).unwrap())
        };
        assert_eq!(after_restart(0), ["0", "0", "3"]);
        assert_eq!(after_restart(19_999_999), ["0", "0", "3"]);
        assert_eq!(after_restart(20_000_000), ["3", "3", "3"], "its value may have been exposed");
        assert_eq!(after_restart(-1), ["3", "3", "3"], "a clock that was set back is no evidence");
    }
}
