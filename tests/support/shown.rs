//! What a scrape of a ledger would show, held to what no scrape may ever show.

use std::collections::BTreeMap;

use session_buddy_bridge::internals::ledger::{
    Changes, DURATION_BUCKETS_SECONDS, FeedCounters, Histogram, PhaseSeries, RuleCounters, SkillIndex, SkillRow,
    SkillSeries,
};

/// The series as the changes told them. Panics where a counter falls or a value cannot be a series.
#[derive(Debug, Default, Clone)]
pub struct Shown {
    skills: BTreeMap<SkillIndex, SkillSeries>,
    feeds: BTreeMap<usize, FeedCounters>,
    pub rules: RuleCounters,
}

/// The same series with the same values. Their order is no promise: two series that begin in one frame take their indices in
/// another order where the frame was received again after a restart.
impl PartialEq for Shown {
    fn eq(&self, other: &Self) -> bool {
        self.by_name() == other.by_name() && self.feeds == other.feeds && self.rules == other.rules
    }
}

impl Shown {
    /// What a scrape shows once `changes` are.
    pub fn fold(&mut self, changes: Changes) {
        for SkillRow { index, series: now, .. } in changes.skills {
            assert_possible(&now);
            if let Some(was) = self.skills.insert(index, now) {
                assert_no_fall(&was, &self.skills[&index]);
            }
        }
        for (place, now) in changes.feeds {
            if let Some(was) = self.feeds.insert(place, now) {
                let now = &self.feeds[&place];
                assert!(now.rollbacks >= was.rollbacks && now.resets >= was.resets, "{was:?} fell to {now:?}");
            }
        }
        let (was, now) = (rule_values(&self.rules), rule_values(&changes.rules));
        assert!(was.iter().zip(now).all(|(was, now)| *was <= now), "{:?} fell to {:?}", self.rules, changes.rules);
        self.rules = changes.rules;
    }

    fn by_name(&self) -> BTreeMap<&str, &SkillSeries> {
        let by_name: BTreeMap<_, _> = self.skills().map(|series| (&*series.skill_name, series)).collect();
        assert_eq!(by_name.len(), self.skills.len(), "a skill has two series");
        by_name
    }

    pub fn is_empty(&self) -> bool {
        self.skills.is_empty()
    }

    pub fn skills(&self) -> impl Iterator<Item = &SkillSeries> {
        self.skills.values()
    }

    pub fn feed(&self, place: usize) -> FeedCounters {
        self.feeds.get(&place).cloned().unwrap_or_default()
    }

    pub fn skill(&self, skill_name: &str) -> Option<&SkillSeries> {
        self.skills.values().find(|skill| &*skill.skill_name == skill_name)
    }

    fn phases(&self) -> impl Iterator<Item = (&SkillSeries, &PhaseSeries)> {
        self.skills.values().flat_map(|skill| skill.phases.iter().map(move |phase| (skill, phase)))
    }

    /// Invocations by skill and `completed`, over all phases; none that is zero.
    pub fn counts(&self) -> BTreeMap<(String, bool), u64> {
        let mut counts = BTreeMap::new();
        for (skill, phase) in self.phases() {
            for (completed, count) in [(true, phase.completed), (false, phase.abandoned)] {
                *counts.entry((skill.skill_name.to_string(), completed)).or_default() += count;
            }
        }
        counts.retain(|_, count| *count > 0);
        counts
    }

    /// Invocations by skill, phase and `completed`; none that is zero.
    pub fn counts_by_phase(&self) -> BTreeMap<(String, String, bool), u64> {
        let mut counts = BTreeMap::new();
        for (skill, phase) in self.phases() {
            for (completed, count) in [(true, phase.completed), (false, phase.abandoned)] {
                counts.insert((skill.skill_name.to_string(), phase.workflow_phase.to_string(), completed), count);
            }
        }
        counts.retain(|_, count| *count > 0);
        counts
    }

    /// One skill's durations over all phases.
    pub fn durations(&self, skill_name: &str) -> Histogram {
        let mut all = Histogram::default();
        for phase in self.skill(skill_name).into_iter().flat_map(|skill| &skill.phases) {
            all.sum += phase.durations.sum;
            for (all, one) in all.buckets.iter_mut().zip(phase.durations.buckets) {
                *all += one;
            }
        }
        all
    }

    /// Anomalies by type and skill; none that is zero.
    pub fn anomalies(&self) -> BTreeMap<(String, String), u64> {
        let rows = self.skills.values().flat_map(|skill| {
            skill
                .anomalies
                .iter()
                .map(|series| ((series.anomaly_type.to_string(), skill.skill_name.to_string()), series.count))
        });
        rows.filter(|(_, count)| *count > 0).collect()
    }
}

impl Shown {
    /// Failures by skill and type of error; none that is zero.
    pub fn failures(&self) -> BTreeMap<(String, String), u64> {
        let rows = self.skills.values().flat_map(|skill| {
            let name = &skill.skill_name;
            skill.failures.iter().map(|series| ((name.to_string(), series.error_type.to_string()), series.count))
        });
        rows.filter(|(_, count)| *count > 0).collect()
    }
}

/// Where rule 4.2 puts a duration that is known outright.
pub fn bucket_of(seconds: f64) -> usize {
    DURATION_BUCKETS_SECONDS.iter().take_while(|bound| **bound < seconds).count()
}

fn rule_values(rules: &RuleCounters) -> [u64; 8] {
    [
        rules.estimated_observations,
        rules.exact_observations,
        rules.inexact_rates,
        rules.late_events,
        rules.backfilled_invocations,
        rules.anomaly_window_overflows,
        rules.overflowed_invocations,
        rules.overflowed_anomalies,
    ]
}

fn assert_possible(skill: &SkillSeries) {
    assert!(skill.completion_rate.is_none_or(|rate| (0.0..=1.0).contains(&rate)), "no ratio: {skill:?}");
    for (place, phase) in skill.phases.iter().enumerate() {
        assert!(phase.durations.sum.is_finite() && phase.durations.sum >= 0.0, "no sum of durations: {phase:?}");
        assert!(!phase.workflow_phase.is_empty(), "an empty phase is unknown: {skill:?}");
        let twice = skill.phases[..place].iter().any(|earlier| earlier.workflow_phase == phase.workflow_phase);
        assert!(!twice, "a phase with two series: {skill:?}");
    }
}

fn assert_no_fall(was: &SkillSeries, now: &SkillSeries) {
    assert_eq!(was.skill_name, now.skill_name, "a place keeps its skill");
    let lengths = |skill: &SkillSeries| [skill.phases.len(), skill.anomalies.len(), skill.failures.len()];
    assert!(lengths(was).iter().zip(lengths(now)).all(|(was, now)| *was <= now), "a series vanished");
    for (was, now) in was.phases.iter().zip(&now.phases) {
        let buckets_stand = was.durations.buckets.iter().zip(now.durations.buckets).all(|(was, now)| *was <= now);
        assert!(
            was.workflow_phase == now.workflow_phase
                && was.completed <= now.completed
                && was.abandoned <= now.abandoned
                && was.durations.sum <= now.durations.sum
                && buckets_stand,
            "{was:?} fell to {now:?}"
        );
    }
    for (was, now) in was.anomalies.iter().zip(&now.anomalies) {
        assert!(was.anomaly_type == now.anomaly_type && was.count <= now.count, "{was:?} fell to {now:?}");
    }
    for (was, now) in was.failures.iter().zip(&now.failures) {
        assert!(was.error_type == now.error_type && was.count <= now.count, "{was:?} fell to {now:?}");
    }
    assert!(was.last_invoked_micros <= now.last_invoked_micros, "{was:?} fell to {now:?}");
}
