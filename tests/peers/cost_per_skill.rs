//! The rules of `deploy/prometheus/cost.yml` give what arithmetic gives, in a real Prometheus that has days of sessions made by hand.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::fs;
use std::time::{SystemTime, UNIX_EPOCH};

use crate::support::peers::prometheus::{Prometheus, PrometheusTools, Series};
use crate::support::{eventually, holds, in_repository};

const MINUTE: i64 = 60;
const HOUR: i64 = 60 * MINUTE;
const DAY: i64 = 24 * HOUR;

/// One series of the cost: its labels but the name, and its samples as (Unix seconds, USD), oldest first. The cost of each is a multiple of
/// 1/1024 USD, so that sums are exact.
struct Cost {
    skill: Option<&'static str>,
    labels: String,
    samples: Vec<(i64, f64)>,
}

impl Cost {
    /// The last sample at or before a time.
    fn at(&self, time: i64) -> Option<(i64, f64)> {
        self.samples.iter().copied().take_while(|(at, _)| *at <= time).last()
    }

    /// What was added in the `window` seconds before `time`: from one sample to the next, and all of a sample that is the first or
    /// below the one before.
    fn increase(&self, time: i64, window: i64) -> f64 {
        let mut before = 0.0;
        let mut sum = 0.0;
        for (at, value) in self.samples.iter().take_while(|(at, _)| *at <= time) {
            let added = if *value < before { *value } else { value - before };
            if *at > time - window {
                sum += added;
            }
            before = *value;
        }
        sum
    }
}

/// A process of Claude Code: a sample each minute from `start` on, with a pause after some of them if the machine sleeps.
fn process(rng: &mut fastrand::Rng, start: i64, minutes: i64, sleeps: bool) -> Vec<(i64, f64)> {
    let (mut at, mut value) = (start, f64::from(rng.u32(1..300)) / 1024.0);
    let mut samples = Vec::new();
    for _ in 0..minutes {
        samples.push((at, value));
        at += MINUTE;
        if sleeps && rng.u8(..40) == 0 {
            at += rng.i64(1..30) * HOUR;
        }
        if rng.bool() {
            value += f64::from(rng.u32(..200)) / 1024.0;
        }
    }
    samples
}

/// Sessions of six days: most of minutes, some of days, with several skills and models each.
fn sessions(rng: &mut fastrand::Rng, from: i64, until: i64) -> Vec<Cost> {
    let skills = [Some("code-review"), Some("deploy"), Some("third-party"), None];
    let mut costs = Vec::new();
    for session in 0..60 {
        let start = rng.i64(from..until);
        let (minutes, sleeps) = [(1, false), (2, false), (30, false), (90, true)][session % 4];
        for skill in skills.into_iter().filter(|_| rng.bool()).collect::<Vec<_>>() {
            for model in ["opus", "haiku"].into_iter().take(rng.usize(1..=2)) {
                let offset = rng.i64(0..30);
                let samples = process(rng, start + offset, minutes, sleeps);
                let samples = samples.into_iter().filter(|(at, _)| *at <= until).collect();
                costs.push(Cost { skill, labels: format!("session_id=\"{session}\",model=\"{model}\""), samples });
            }
        }
    }
    costs
}

fn by_skill(costs: &[Cost], time: i64, window: i64) -> BTreeMap<String, f64> {
    let mut sums = BTreeMap::new();
    for cost in costs.iter().filter(|cost| cost.at(time).is_some_and(|(at, _)| at > time - window)) {
        *sums.entry(cost.skill.unwrap_or_default().to_owned()).or_default() += cost.increase(time, window);
    }
    sums
}

/// Values by the label `skill_name`, empty where it is absent.
fn values(series: &[Series]) -> BTreeMap<String, f64> {
    series.iter().map(|series| (series.labels.get("skill_name").cloned().unwrap_or_default(), series.value())).collect()
}

/// Invocations by skill: a sample each minute, with an increase of one each time that the second number of minutes has passed.
const INVOCATIONS: [(&str, i64); 3] = [("code-review", 7), ("deploy", 11), ("free", 30)];

fn openmetrics(costs: &[Cost], from: i64, until: i64) -> String {
    let mut text = "# TYPE claude_code_cost_usage_USD counter\n".to_owned();
    for Cost { skill, labels, samples } in costs {
        let skill = skill.map_or(String::new(), |skill| format!("skill_name=\"{skill}\","));
        for (at, value) in samples {
            writeln!(text, "claude_code_cost_usage_USD_total{{{skill}{labels}}} {value} {at}").unwrap();
        }
    }
    text += "# TYPE skill_invocations counter\n";
    for (skill, minutes) in INVOCATIONS {
        for minute in 0..(until - from) / MINUTE {
            let (at, count) = (from + minute * MINUTE, minute / minutes);
            writeln!(text, "skill_invocations_total{{skill_name=\"{skill}\",completed=\"true\"}} {count} {at}")
                .unwrap();
        }
    }
    text + "# EOF\n"
}

/// A Prometheus that has this history and evaluates the rules each second.
fn prometheus_with(tools: &PrometheusTools, history: &str) -> Prometheus {
    let storage = tempfile::tempdir().unwrap();
    let file = |name: &str| storage.path().join(name).to_str().unwrap().to_owned();
    fs::write(file("history.om"), history).unwrap();
    let (history, data) = (file("history.om"), file("data"));
    let blocks = ["tsdb", "create-blocks-from", "--max-block-duration=240h", "openmetrics", &history, &data];
    let created = tools.promtool(blocks, "");
    assert!(created.is_success(), "{}", created.printed());
    let rules = fs::read_to_string(in_repository("deploy/prometheus/cost.yml")).unwrap();
    assert!(rules.contains("    interval: 1m\n"), "the rules are evaluated each minute");
    fs::write(file("cost.yml"), rules.replace("    interval: 1m\n", "    interval: 1s\n")).unwrap();
    tools.restart(&format!("rule_files: ['{}']\n", file("cost.yml")), storage)
}

/// The expression of each rule.
fn expressions(prometheus: &Prometheus) -> BTreeMap<String, String> {
    let groups = prometheus.api("rules");
    let rules = groups["groups"].as_array().unwrap().iter().flat_map(|group| group["rules"].as_array().unwrap());
    let text = |value: &serde_json::Value| value.as_str().unwrap().to_owned();
    rules.map(|rule| (text(&rule["name"]), text(&rule["query"]))).collect()
}

const COST_PER_HOUR: &str = "skill:claude_code_cost_usage_USD:increase1h";
const COST_PER_DAY: &str = "skill:claude_code_cost_usage_USD:increase1d";
const INVOCATIONS_PER_DAY: &str = "skill:skill_invocations:increase1d";
const COST_PER_INVOCATION: &str = "skill:claude_code_cost_usage_USD_per_skill_invocations:ratio_increase1d";

#[test]
fn cost_by_skill_is_the_sum_of_what_each_session_added_and_is_divided_by_the_invocations_of_the_same_day() {
    let Some(tools) = PrometheusTools::find_or_skip() else { return };
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs() as i64;
    let (from, until) = (now - 6 * DAY, now - MINUTE);
    let rng = &mut fastrand::Rng::with_seed(20);
    let costs = sessions(rng, from, until);
    let prometheus = prometheus_with(&tools, &openmetrics(&costs, from, until));

    let rules = expressions(&prometheus);
    let mut compared = 0;
    for _ in 0..30 {
        let time = rng.i64(from + DAY..until);
        for (rule, window) in [(COST_PER_HOUR, HOUR), (COST_PER_DAY, DAY)] {
            let found = values(&prometheus.query(&rules[rule], Some(time as f64 + 0.5)));
            assert_eq!(found, by_skill(&costs, time, window), "{rule} at {time}");
            compared += found.len();
        }
    }
    assert!(compared > 100, "{compared} values were compared");

    let ratios = eventually("the rules to have recorded", || {
        let ratios = prometheus.query(COST_PER_INVOCATION, None);
        let names: Vec<_> = ratios.iter().map(|series| series.labels["skill_name"].as_str()).collect();
        holds(names == ["code-review", "deploy"], format!("{names:?}")).map(|()| ratios)
    });
    // The samples of one evaluation have one time, which Prometheus tells of a series with `timestamp`.
    let evaluated = prometheus.query(&format!("max(timestamp({COST_PER_INVOCATION}))"), None)[0].value();
    let recorded = |name: &str| values(&prometheus.query(name, Some(evaluated)));
    let (costs_per_day, invocations) = (recorded(COST_PER_DAY), recorded(INVOCATIONS_PER_DAY));
    assert_eq!(costs_per_day, by_skill(&costs, evaluated as i64, DAY));
    for (skill, minutes) in INVOCATIONS {
        let expected = (DAY / MINUTE / minutes) as f64;
        assert!((invocations[skill] - expected).abs() <= 1.5, "{skill}: {} of {expected}", invocations[skill]);
    }
    let divided = ratios.iter().map(|series| series.labels["skill_name"].clone());
    let expected = divided.map(|skill| (skill.clone(), costs_per_day[&skill] / invocations[&skill])).collect();
    assert_eq!(recorded(COST_PER_INVOCATION), expected);
}

/// Within a window that has a counter reset, Prometheus can only estimate: by less than a tenth where processes have half an hour each.
#[test]
fn cost_of_resumed_sessions_is_estimated_and_exact_where_the_reset_is_between_windows() {
    let Some(tools) = PrometheusTools::find_or_skip() else { return };
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs() as i64;
    let (from, until) = (now - 6 * DAY, now - MINUTE);
    let rng = &mut fastrand::Rng::with_seed(22);
    let resumed = |starts: &[i64], rng: &mut fastrand::Rng| -> Vec<(i64, f64)> {
        starts.iter().flat_map(|start| process(rng, from + start * HOUR, 30, false)).collect()
    };
    let cost = |skill: &'static str, samples: Vec<(i64, f64)>| Cost {
        skill: Some(skill),
        labels: "session_id=\"one\"".to_owned(),
        samples,
    };
    // The morning and the evening of one day; and two mornings, of which the second day's window holds the second alone.
    let costs = [cost("code-review", resumed(&[100, 108], rng)), cost("deploy", resumed(&[80, 110], rng))];
    let prometheus = prometheus_with(&tools, &openmetrics(&costs, from, until));
    let query = &expressions(&prometheus)[COST_PER_DAY];
    let time = from + 112 * HOUR;
    let (found, expected) = (values(&prometheus.query(query, Some(time as f64 + 0.5))), by_skill(&costs, time, DAY));
    let (estimate, exact) = (found["code-review"], expected["code-review"]);
    assert!((estimate / exact - 1.0).abs() < 0.1, "{estimate} for {exact}");
    assert_eq!(found["deploy"], expected["deploy"]);
}
