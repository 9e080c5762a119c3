//! Rows as SQLite gives them, to facts.

use rusqlite::Row;
use rusqlite::types::ValueRef;

use crate::protocol::{AnomalyEntry, Rejection, RejectionReason};

use super::error_type::ErrorType;
use super::facts::{AnomalyRow, InvocationDetails, InvocationRow, SkillMetrics, Table};
use super::fingerprint::fingerprint;
use super::schema::{ERROR_TYPE, Schema};

/// Bytes of a text that are read; every limit of labels is below. SQLite would load a longer one as a whole.
const TEXT_BYTES_MAX: usize = 16 * 1024;

/// Selected for a text that is longer than [`TEXT_BYTES_MAX`].
const TOO_LONG: &str = "x''";

/// What is selected of an invocation, as [`invocation`] expects it. The key and the columns of the fingerprint come first.
pub(super) fn invocation_columns(schema: &Schema) -> String {
    format!(
        "id, {}, {}, {}, completed, duration_seconds, {}",
        bounded("skill_name"),
        bounded("invoked_at"),
        bounded("workflow_phase"),
        optional(schema.has_error_type, ERROR_TYPE)
    )
}

/// SQL for a column that a database need not have.
pub(super) fn optional(has_column: bool, column: &str) -> String {
    if has_column { bounded(column) } else { "NULL".to_owned() }
}

/// What is selected of an anomaly, as [`anomaly`] expects it.
pub(super) fn anomaly_columns() -> String {
    format!("id, {}, {}, {}, deviation_score", bounded("skill_name"), bounded("anomaly_type"), bounded("detected_at"))
}

/// SQL for a column that is read only up to a length: SQLite knows the length without loading the value.
pub(super) fn bounded(column: &str) -> String {
    format!("CASE WHEN octet_length({column}) > {TEXT_BYTES_MAX} THEN {TOO_LONG} ELSE {column} END")
}

pub(super) fn invocation(row: &Row<'_>, schema: &Schema) -> InvocationRow {
    let RowView { skill_name, invoked_at, completed, summed_seconds, failure, details } = RowView::of(row);
    let details = details.map(|(workflow_phase, duration_seconds)| InvocationDetails {
        workflow_phase: workflow_phase.map(Into::into),
        duration_seconds,
        failure: failure.filter(|_| schema.has_error_type).map(|error_type| error_type.as_str().into()),
    });
    InvocationRow {
        fingerprint: fingerprint(row, Table::Invocations),
        skill_name: skill_name.map(Into::into),
        invoked_at: invoked_at.map(Into::into),
        completed,
        summed_seconds,
        details,
    }
}

/// A row of `skill_invocation`, with the fields of an [`InvocationRow`], borrowed from SQLite.
pub(super) struct RowView<'r> {
    pub skill_name: Option<&'r str>,
    pub invoked_at: Option<&'r str>,
    pub completed: Option<bool>,
    pub summed_seconds: f64,
    /// Why it failed; `None` unless it is known not to be completed.
    pub failure: Option<ErrorType<'r>>,
    /// Phase and duration.
    pub details: Result<(Option<&'r str>, Option<f64>), Rejection>,
}

impl<'r> RowView<'r> {
    /// Returns the view of a row whose first columns are [`invocation_columns`].
    pub fn of(row: &'r Row<'_>) -> Self {
        let value = |column| row.get_ref(column).unwrap_or(ValueRef::Null);
        let skill_name = name(value(1));
        let completed = match value(4) {
            ValueRef::Integer(0) => Some(false),
            ValueRef::Integer(1) => Some(true),
            _ => None,
        };
        let duration = match value(5) {
            ValueRef::Null => Ok(None),
            ValueRef::Integer(seconds) => Ok(Some(seconds as f64)),
            ValueRef::Real(seconds) => Ok(Some(seconds)),
            _ => Err(invalid(row, "duration_seconds", "no number")),
        };
        let summed_seconds = duration.as_ref().ok().copied().flatten().unwrap_or(0.0);
        let details = match (skill_name, completed, duration) {
            (None, ..) => Err(invalid(row, "skill_name", "no name")),
            (_, None, _) => Err(invalid(row, "completed", "neither 0 nor 1")),
            (.., Err(rejection)) => Err(rejection),
            (.., Ok(Some(seconds))) if !seconds.is_finite() || seconds < 0.0 => {
                let detail = format!("{}: `duration_seconds` should be 0 or more, found {seconds}", row_name(row));
                Err(Rejection::new(RejectionReason::NumberOutOfRange, detail))
            }
            (.., Ok(duration_seconds)) => match value(3) {
                ValueRef::Null => Ok((None, duration_seconds)),
                phase => text(phase)
                    .ok_or_else(|| invalid(row, "workflow_phase", "no text"))
                    .map(|phase| (Some(phase).filter(|phase| !phase.is_empty()), duration_seconds)),
            },
        };
        let failure = (completed == Some(false)).then(|| ErrorType::of_value(value(6)));
        Self { skill_name, invoked_at: name(value(2)), completed, summed_seconds, failure, details }
    }
}

pub(super) fn anomaly(row: &Row<'_>) -> AnomalyRow {
    let value = |column| row.get_ref(column).unwrap_or(ValueRef::Null);
    let entry = match (name(value(1)), name(value(2))) {
        (Some(skill_name), Some(anomaly_type)) => Ok(AnomalyEntry {
            skill_name: skill_name.to_owned().into(),
            anomaly_type: anomaly_type.to_owned().into(),
            detected_at: name(value(3)).map(|at| at.to_owned().into()),
            deviation_score: match value(4) {
                ValueRef::Real(score) => Some(score).filter(|score| score.is_finite()),
                ValueRef::Integer(score) => Some(score as f64),
                _ => None,
            },
        }),
        (None, _) => Err(invalid(row, "skill_name", "no name")),
        (_, None) => Err(invalid(row, "anomaly_type", "no name")),
    };
    AnomalyRow { fingerprint: fingerprint(row, Table::Anomalies), entry }
}

/// A row of `skill_metrics`: name, total, completed, seconds. `None` without a name.
pub(super) fn skill_metrics(row: &Row<'_>) -> Option<SkillMetrics> {
    let value = |column| row.get_ref(column).unwrap_or(ValueRef::Null);
    let duration_seconds = match value(3) {
        ValueRef::Real(seconds) => Some(seconds),
        ValueRef::Integer(seconds) => Some(seconds as f64),
        _ => None,
    };
    Some(SkillMetrics {
        skill_name: name(value(0))?.into(),
        total: count(value(1)),
        completed: count(value(2)),
        duration_seconds: duration_seconds.filter(|seconds| seconds.is_finite() && *seconds >= 0.0),
    })
}

fn count(value: ValueRef<'_>) -> u64 {
    match value {
        ValueRef::Integer(count) => u64::try_from(count).unwrap_or(0),
        _ => 0,
    }
}

/// A text that is not empty.
pub(super) fn name(value: ValueRef<'_>) -> Option<&str> {
    text(value).filter(|name| !name.is_empty())
}

fn text(value: ValueRef<'_>) -> Option<&str> {
    match value {
        ValueRef::Text(bytes) => std::str::from_utf8(bytes).ok(),
        _ => None,
    }
}

fn invalid(row: &Row<'_>, column: &str, what: &str) -> Rejection {
    Rejection::new(RejectionReason::InvalidField, format!("{}: `{column}` holds {what}", row_name(row)))
}

fn row_name(row: &Row<'_>) -> String {
    format!("row {} of the database", row.get::<_, i64>(0).unwrap_or_default())
}
