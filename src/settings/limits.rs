//! Builders of the ledger's limits.

use super::{Limits, SettingsError, flags};

/// Fewer series would hold a few dozen skills.
pub(super) const SERIES_MIN: usize = 1_000;
pub(super) const SERIES_MAX: usize = 100_000_000;

pub(crate) fn from_flags(flags: &flags::LimitFlags) -> Result<Limits, SettingsError> {
    let limits = Limits {
        skills_max: flags.skills_max as usize,
        series_max: flags.series_max as usize,
        remembered_skills_max: flags.remembered_skills_max as usize,
        label_chars_max: flags.label_chars_max as usize,
        ..Limits::default()
    };
    check(limits).map(|()| limits)
}

/// Refuses limits by which a series could be exposed whose skill is not remembered.
pub(crate) fn check(limits: Limits) -> Result<(), SettingsError> {
    if limits.remembered_skills_max < limits.skills_max {
        return Err(SettingsError::RememberedSkills {
            remembered: limits.remembered_skills_max,
            skills: limits.skills_max,
        });
    }
    Ok(())
}
