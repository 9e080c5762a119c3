//! The families that dashboards and alerts query. Names and labels are an interface and never change.

use super::family::Family;

/// Invocations, by whether they were completed.
pub(crate) const INVOCATIONS: Family<3> = Family::counter(
    "skill_invocations_total",
    "Total number of skill invocations",
    ["skill_name", "workflow_phase", "completed"],
);

/// Durations, in seconds.
pub(crate) const DURATIONS: Family<2> = Family::histogram(
    "skill_duration_seconds",
    "Skill execution duration in seconds",
    ["skill_name", "workflow_phase"],
);

/// Completion rates, 0 to 1.
pub(crate) const COMPLETION_RATE: Family<1> =
    Family::gauge("skill_completion_rate", "Current skill completion rate", ["skill_name"]);

/// Sessions: a gauge, although its name has the suffix of a counter.
pub(crate) const ACTIVE_SESSIONS: Family<0> =
    Family::gauge("active_sessions_total", "Number of currently active sessions", []);

/// Anomalies, by type.
pub(crate) const ANOMALIES: Family<2> =
    Family::counter("anomalies_detected_total", "Total number of anomalies detected", ["anomaly_type", "skill_name"]);

/// Failures that rows tell, by cause.
pub(crate) const FAILURES: Family<2> = Family::counter(
    "session_buddy_bridge_skill_failures_total",
    "Number of failed invocations in the rows of the server's database, by the type of the error.",
    ["skill_name", "error_type"],
);

/// When a skill was last invoked, as rows tell.
pub(crate) const LAST_INVOKED: Family<1> = Family::gauge(
    "session_buddy_bridge_skill_last_invoked_timestamp_seconds",
    "Unix timestamp of the latest invocation of the skill in the rows of the server's database.",
    ["skill_name"],
);

/// When a snapshot last listed a skill, which is the time of its completion rate.
pub(crate) const LAST_LISTED: Family<1> = Family::gauge(
    "session_buddy_bridge_skill_last_listed_timestamp_seconds",
    "Unix timestamp of the last snapshot that listed the skill; its completion rate is of that time.",
    ["skill_name"],
);
