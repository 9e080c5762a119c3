//! Which names and entries can be accepted at all.

use crate::protocol::{AnomalyEntry, Rejection, RejectionReason};

use super::limits::{Limits, OVERFLOW};

pub(super) fn check_skill_name(name: &str, limits: &Limits) -> Result<(), Rejection> {
    if name == OVERFLOW {
        return Err(Rejection::new(
            RejectionReason::ReservedName,
            format!("`skill_name` {OVERFLOW:?} is reserved for skills beyond the limit"),
        ));
    }
    check_label(name, "skill_name", limits)
}

pub(super) fn check_label(label: &str, what: &str, limits: &Limits) -> Result<(), Rejection> {
    if !limits.refuses(label) {
        return Ok(());
    }
    let beginning: String = label.chars().take(32).collect();
    Err(Rejection::new(
        RejectionReason::LabelTooLong,
        format!("`{what}` {beginning:?}… is longer than {} characters", limits.label_chars_max),
    ))
}

/// Checks whether the names of an invocation of the database can be labels.
///
/// # Errors
/// A skill or a phase that no label may have.
pub fn check_invocation(skill_name: &str, workflow_phase: Option<&str>, limits: &Limits) -> Result<(), Rejection> {
    check_skill_name(skill_name, limits)?;
    workflow_phase.map_or(Ok(()), |phase| check_label(phase, "workflow_phase", limits))
}

/// Checks whether the names of an anomaly can be labels.
///
/// # Errors
/// A skill, a type or a time that no label may have.
pub fn check_anomaly(entry: &AnomalyEntry<'_>, limits: &Limits) -> Result<(), Rejection> {
    check_skill_name(&entry.skill_name, limits)?;
    check_label(&entry.anomaly_type, "anomaly_type", limits)?;
    check_label(entry.detected_at.as_deref().unwrap_or_default(), "detected_at", limits)
}

/// The rejection of an entry that would add up to more than a state accepts.
pub(super) fn too_many(name: &str, total: u64) -> Rejection {
    let detail = format!("{name:?}: {total} more invocations would exceed 2^53 of its series");
    Rejection::new(RejectionReason::NumberOutOfRange, detail)
}
