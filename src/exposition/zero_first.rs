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
}

impl ZeroFirst {
    pub fn new(duration: Duration) -> Self {
        Self { duration, ..Self::default() }
    }

    /// Holds the series of the skill at `index` that are in `now` and not in `before`, and that began to count at 0.
    pub fn hold(&mut self, index: usize, before: Option<&SkillSeries>, now: &SkillSeries, zeros: &mut Zeros) {
        let is_as_before = |before: &SkillSeries| {
            before.phases.len() == now.phases.len() && before.anomalies.len() == now.anomalies.len()
        };
        if self.duration.is_zero() || before.is_some_and(is_as_before) {
            return;
        }
        let known = zeros.0.len();
        let is_phase_new =
            |phase: &str| !before.is_some_and(|b| b.phases.iter().any(|old| &*old.workflow_phase == phase));
        let phases =
            now.phases.iter().filter(|phase| phase.born_micros.is_some() && is_phase_new(&phase.workflow_phase));
        zeros
            .0
            .extend(phases.map(|phase| Zero { series: SeriesName::Phase(phase.workflow_phase.clone()), until: None }));
        let is_type_new =
            |kind: &str| !before.is_some_and(|b| b.anomalies.iter().any(|old| &*old.anomaly_type == kind));
        let anomalies =
            now.anomalies.iter().filter(|kind| kind.born_micros.is_some() && is_type_new(&kind.anomaly_type));
        zeros.0.extend(
            anomalies.map(|kind| Zero { series: SeriesName::AnomalyType(kind.anomaly_type.clone()), until: None }),
        );
        if zeros.0.len() > known {
            self.unexposed.push(index);
        }
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
    use crate::exposition::text::encode_families;
    use crate::ledger::{AnomalySeries, Changes, Histogram, PhaseSeries, SkillIndex, SkillRow};

    const DURATION: Duration = Duration::from_secs(20);

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
        let series = SkillSeries { skill_name, phases, completion_rate: Some(1.0), anomalies };
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

    #[test]
    fn each_series_is_0_from_its_first_scrape_for_the_duration() {
        const SETUP: &str = r#"skill_invocations_total{skill_name="skill-0",workflow_phase="setup",completed="true"}"#;
        const CLEANUP: &str = r#"skill_duration_seconds_count{skill_name="skill-0",workflow_phase="cleanup"}"#;
        const ANOMALIES: &str = r#"anomalies_detected_total{anomaly_type="drop",skill_name="skill-0"}"#;
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut view = View::default();
        view.expose_zero_first(DURATION);
        view.apply(changes(0, vec![phase("setup", 3, Some(1))], 0));
        // Nobody scrapes for long: the 0 is exposed all the same.
        assert_eq!(exposed(&mut view, at(100), SETUP).as_deref(), Some("0"));
        view.apply(changes(0, vec![phase("setup", 4, Some(1)), phase("cleanup", 2, Some(1))], 5));
        assert_eq!(exposed(&mut view, at(110), SETUP).as_deref(), Some("0"), "whatever is counted meanwhile");
        assert_eq!(exposed(&mut view, at(119), CLEANUP).as_deref(), Some("0"));
        assert_eq!(exposed(&mut view, at(120), SETUP).as_deref(), Some("4"));
        assert_eq!(exposed(&mut view, at(120), CLEANUP).as_deref(), Some("0"), "its time began 10 s later");
        assert_eq!(exposed(&mut view, at(129), ANOMALIES).as_deref(), Some("0"));
        assert_eq!(exposed(&mut view, at(130), CLEANUP).as_deref(), Some("2"));
        assert_eq!(exposed(&mut view, at(130), ANOMALIES).as_deref(), Some("5"));

        let mut fresh = View::default();
        fresh.apply(changes(0, vec![phase("setup", 4, Some(1)), phase("cleanup", 2, Some(1))], 5));
        assert_eq!(text(&mut view), text(&mut fresh), "text that is kept is that of values");
        assert_eq!(view.take_increase(), fresh.take_increase(), "the page was told at once");
    }

    #[test]
    fn history_and_what_was_restored_is_never_0_first() {
        let mut view = View::default();
        let known = |history: u64| vec![phase("setup", 3, Some(1)), phase("unknown", history, None)];
        view.apply(changes(0, known(7), 1));
        view.expose_zero_first(DURATION);
        view.apply(changes(0, known(8), 2));
        view.apply(changes(1, vec![phase("unknown", 9, None)], 0));
        let mut fresh = View::default();
        fresh.apply(changes(0, known(8), 2));
        fresh.apply(changes(1, vec![phase("unknown", 9, None)], 0));
        view.begin_scrape(Instant::now());
        assert_eq!(text(&mut view), text(&mut fresh));
    }
}
