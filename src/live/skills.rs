//! The skills: sorted, filtered and paginated.

use std::cmp::Ordering;
use std::sync::Arc;

use serde::Serialize;
use url::form_urlencoded;

use super::quantile::quantile;
use crate::clock::seconds;
use crate::exposition::{SkillView, ViewProvider};
use crate::http::QueryError;
use crate::ledger::Histogram;

/// Most rows of one response.
const LIMIT_MAX: usize = 500;
const LIMIT_DEFAULT: usize = 50;

/// A validated query.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct SkillsQuery {
    sort: Column,
    descending: bool,
    /// In lower case.
    filter: String,
    offset: usize,
    limit: usize,
}

/// The column by which rows are sorted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Column {
    Name,
    Invocations,
    Completed,
    CompletionRate,
    Durations,
    Mean,
    P95,
    Anomalies,
    Changed,
    Listed,
}

impl Column {
    const ALL: [(&str, Self); 10] = [
        ("skill_name", Self::Name),
        ("invocations", Self::Invocations),
        ("completed", Self::Completed),
        ("completion_rate", Self::CompletionRate),
        ("durations", Self::Durations),
        ("duration_mean_seconds", Self::Mean),
        ("duration_p95_seconds", Self::P95),
        ("anomalies", Self::Anomalies),
        ("last_changed_seconds", Self::Changed),
        ("last_listed_seconds", Self::Listed),
    ];
}

/// The response.
#[derive(Debug, Serialize)]
pub(super) struct Skills {
    skills_total: usize,
    skills_matched: usize,
    offset: usize,
    limit: usize,
    skills: Vec<Row>,
}

#[derive(Debug, Clone, Serialize)]
struct Row {
    skill_name: Arc<str>,
    invocations: u64,
    completed: u64,
    completion_rate: Option<f64>,
    durations: u64,
    duration_mean_seconds: Option<f64>,
    duration_p95_seconds: Option<f64>,
    anomalies: u64,
    last_changed_seconds: Option<f64>,
    last_listed_seconds: Option<f64>,
}

impl SkillsQuery {
    pub fn parse(query: &str) -> Result<Self, QueryError> {
        let mut asked = Self {
            sort: Column::Invocations,
            descending: true,
            filter: String::new(),
            offset: 0,
            limit: LIMIT_DEFAULT,
        };
        let mut order = None;
        for (name, value) in form_urlencoded::parse(query.as_bytes()) {
            let wrong = |name, problem: String| QueryError { parameter: name, value: value.to_string(), problem };
            match &*name {
                "sort" => {
                    let names = || Column::ALL.map(|(name, _)| name).join(", ");
                    let found = Column::ALL.iter().find(|(name, _)| *name == value);
                    asked.sort = found.ok_or_else(|| wrong("sort", format!("give one of {}", names())))?.1;
                }
                "order" => {
                    order = Some(match &*value {
                        "asc" => false,
                        "desc" => true,
                        _ => return Err(wrong("order", "give asc or desc".to_owned())),
                    });
                }
                "filter" => asked.filter = value.to_lowercase(),
                "offset" => {
                    asked.offset = value.parse().map_err(|_| wrong("offset", "give a number of rows".to_owned()))?;
                }
                "limit" => {
                    let limit = value.parse().ok().filter(|limit| (1..=LIMIT_MAX).contains(limit));
                    asked.limit = limit.ok_or_else(|| wrong("limit", format!("give 1 to {LIMIT_MAX} rows")))?;
                }
                _ => {}
            }
        }
        // Numbers are sorted with the greatest first by default.
        asked.descending = order.unwrap_or(asked.sort != Column::Name);
        Ok(asked)
    }
}

/// Returns the requested rows; none if the offset is beyond the last row.
pub(super) fn window(provider: &dyn ViewProvider, query: &SkillsQuery) -> Skills {
    let (mut rows, mut skills_total) = (Vec::new(), 0);
    provider.read(&mut |view, _| {
        for skill in view.shown() {
            skills_total += 1;
            if query.filter.is_empty() || skill.series.skill_name.to_lowercase().contains(&query.filter) {
                rows.push(Row::of(skill));
            }
        }
    });
    // Skills come sorted by name, and the sort is stable: equal rows keep their order from response to response.
    rows.sort_by(|a, b| query.compare(a, b));
    let skills_matched = rows.len();
    let skills = rows.into_iter().skip(query.offset).take(query.limit).collect();
    Skills { skills_total, skills_matched, offset: query.offset, limit: query.limit, skills }
}

impl SkillsQuery {
    fn compare(&self, a: &Row, b: &Row) -> Ordering {
        let count = |value: fn(&Row) -> u64| self.directed(value(a).cmp(&value(b)));
        let number = |value: fn(&Row) -> Option<f64>| match (value(a), value(b)) {
            (Some(a), Some(b)) => self.directed(a.total_cmp(&b)),
            // Unknown values come last in either order.
            (a, b) => b.is_some().cmp(&a.is_some()),
        };
        match self.sort {
            Column::Name => self.directed(a.skill_name.cmp(&b.skill_name)),
            Column::Invocations => count(|row| row.invocations),
            Column::Completed => count(|row| row.completed),
            Column::Durations => count(|row| row.durations),
            Column::CompletionRate => number(Row::completion_rate_or_share),
            Column::Mean => number(|row| row.duration_mean_seconds),
            Column::P95 => number(|row| row.duration_p95_seconds),
            Column::Anomalies => count(|row| row.anomalies),
            Column::Changed => number(|row| row.last_changed_seconds),
            Column::Listed => number(|row| row.last_listed_seconds),
        }
    }

    fn directed(&self, ordering: Ordering) -> Ordering {
        if self.descending { ordering.reverse() } else { ordering }
    }
}

impl Row {
    /// Returns the share of completed invocations where no rate is known: of a skill of which events alone tell.
    fn completion_rate_or_share(&self) -> Option<f64> {
        let share = || (self.invocations > 0).then(|| self.completed as f64 / self.invocations as f64);
        self.completion_rate.or_else(share)
    }

    fn of(skill: &SkillView) -> Self {
        let phases = &skill.series.phases;
        let mut durations = Histogram::default();
        for phase in phases {
            durations.buckets.iter_mut().zip(phase.durations.buckets).for_each(|(sum, more)| *sum += more);
            durations.sum += phase.durations.sum;
        }
        let observed = durations.count();
        Self {
            skill_name: Arc::clone(&skill.series.skill_name),
            invocations: phases.iter().map(|phase| phase.completed + phase.abandoned).sum(),
            completed: phases.iter().map(|phase| phase.completed).sum(),
            completion_rate: skill.series.completion_rate,
            durations: observed,
            duration_mean_seconds: (observed > 0).then(|| durations.sum / observed as f64),
            duration_p95_seconds: quantile(0.95, &durations),
            anomalies: skill.series.anomalies.iter().map(|series| series.count).sum(),
            last_changed_seconds: skill.last_changed_micros.map(seconds),
            last_listed_seconds: skill.last_listed_micros.map(seconds),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_have_defaults_and_wrong_ones_are_named() {
        let plain = SkillsQuery::parse("").unwrap();
        assert_eq!((plain.sort, plain.descending, plain.offset, plain.limit), (Column::Invocations, true, 0, 50));
        assert!(!SkillsQuery::parse("sort=skill_name").unwrap().descending);
        let asked = SkillsQuery::parse("filter=PyTest+%2F&order=asc&limit=500&offset=9&unknown=1").unwrap();
        assert_eq!((&*asked.filter, asked.descending, asked.limit, asked.offset), ("pytest /", false, 500, 9));
        for (query, name) in [
            ("sort=size", "sort"),
            ("order=up", "order"),
            ("limit=0", "limit"),
            ("limit=501", "limit"),
            ("offset=-1", "offset"),
        ] {
            let error = SkillsQuery::parse(query).unwrap_err();
            assert_eq!(error.parameter, name);
            assert!(error.to_string().starts_with(&format!("`{query}`: give ")), "{error}");
        }
    }
}
