//! The names that people's dashboards and alerts query: an interface.

use prometheus::proto::MetricType;

/// What is constant about a family.
#[derive(Debug, Clone, Copy)]
pub struct Family {
    /// The metric's name.
    pub name: &'static str,
    /// The text of its HELP line.
    pub help: &'static str,
    /// Its type.
    pub kind: MetricType,
    /// The names of its labels, in the order in which they are written.
    pub labels: &'static [&'static str],
}

/// Invocations, by whether they were completed.
pub const INVOCATIONS: Family = Family {
    name: "skill_invocations_total",
    help: "Total number of skill invocations",
    kind: MetricType::COUNTER,
    labels: &["skill_name", "workflow_phase", "completed"],
};

/// Durations, in seconds.
pub const DURATIONS: Family = Family {
    name: "skill_duration_seconds",
    help: "Skill execution duration in seconds",
    kind: MetricType::HISTOGRAM,
    labels: &["skill_name", "workflow_phase"],
};

/// Completion rates, 0 to 1.
pub const COMPLETION_RATE: Family = Family {
    name: "skill_completion_rate",
    help: "Current skill completion rate",
    kind: MetricType::GAUGE,
    labels: &["skill_name"],
};

/// Sessions; a gauge whose name ends like a counter's, as the interface has it.
pub const ACTIVE_SESSIONS: Family = Family {
    name: "active_sessions_total",
    help: "Number of currently active sessions",
    kind: MetricType::GAUGE,
    labels: &[],
};

/// Anomalies, by type.
pub const ANOMALIES: Family = Family {
    name: "anomalies_detected_total",
    help: "Total number of anomalies detected",
    kind: MetricType::COUNTER,
    labels: &["anomaly_type", "skill_name"],
};

/// When a snapshot last listed a skill: beside the completion rate, which is of that time.
pub const LAST_LISTED: Family = Family {
    name: "session_buddy_bridge_skill_last_listed_timestamp_seconds",
    help: "When a snapshot last listed the skill, in seconds since the Unix epoch; its completion rate is of that time.",
    kind: MetricType::GAUGE,
    labels: &["skill_name"],
};
