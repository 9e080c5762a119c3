//! What the ledger found out, as log lines.

use std::mem::discriminant;
use std::num::NonZeroU64;

use tracing::field::display;
use tracing::{info, warn};

use super::log_throttle::Suppressed;
use super::logged;
use crate::ledger::{FallenSkill, FallenSkills, Notice, ResetCause};
use crate::protocol::Rejection;

/// Logs what the ledger found out about `feed`.
pub(crate) fn log_notice(feed: &str, notice: &Notice, suppressed: Suppressed) {
    match notice {
        Notice::Rejected(rejection) => log_rejection(feed, rejection, suppressed),
        Notice::Reset(cause) => {
            let cause = display(reset_text(cause));
            warn!(%feed, cause, suppressed, "database reset detected; new totals are added to the existing ones");
        }
        Notice::RolledBack { fell } => {
            let others = (fell.others > 0).then_some(fell.others);
            let fell = fell_text(fell).map(display);
            warn!(%feed, fell, others, suppressed, "database rolled back; its lower totals are remembered, nothing is counted");
        }
        Notice::Restored => {
            warn!(%feed, suppressed, "database restored to a state before the damage; the increase since that state is counted");
        }
        Notice::AliasFound { of } => {
            info!(%feed, active = %of, suppressed, "feed is on standby; another feed counts the same source");
        }
        Notice::AliasCleared => {
            info!(%feed, suppressed, "feed is active");
        }
        Notice::SourcesJoined { counted_twice } => {
            warn!(%feed, counted_twice, suppressed, "two sources turned out to be one");
        }
        Notice::SourceForked => {
            warn!(%feed, suppressed, "feed has another database than the active feed; it is counted as a source of its own");
        }
        Notice::Undecided { doubt } => {
            warn!(%feed, reason = doubt.code(), suppressed, "source undecided; the lower count is used");
        }
        Notice::AnomalyWindowOverflowed => {
            warn!(%feed, suppressed, "more anomalies than the feed lists; some may be missing");
        }
        Notice::SkillsOverflowed { skill_name, skills_max } => {
            let skill_name = logged(skill_name);
            warn!(%feed, skill_name, skills_max, "too many skills; new ones are counted as __overflow__");
        }
        Notice::SeriesOverflowed { skill_name, series_max } => {
            let skill_name = logged(skill_name);
            warn!(%feed, skill_name, series_max, "too many series; new ones are counted as __overflow__");
        }
        Notice::DetailJoined => {
            info!(%feed, suppressed, "counts come from the database");
        }
        Notice::NoErrorTypes => {
            info!(
                %feed, suppressed,
                "the database has no column error_type: session_buddy_bridge_skill_failures_total is absent"
            );
        }
        Notice::DetailMismatch { skill_name, listed, told } => {
            let skill_name = logged(skill_name);
            warn!(
                %feed, skill_name, listed, in_database = told, suppressed,
                "feed and database disagree; check that --feed.skills-db is the database of this server"
            );
        }
        Notice::DatabaseContradicted { skill_name, listed, held } => {
            let skill_name = logged(skill_name);
            warn!(
                %feed, skill_name, listed, in_database = held, suppressed,
                "database belongs to another server; falling back to the feed; correct --feed.skills-db"
            );
        }
        Notice::LateEvents { events } => {
            warn!(%feed, events, suppressed, "events dropped; no snapshot accounted for them");
        }
    }
}

/// Logs all that the ledger found out about `feed` at once: the first notice of each kind, and how many more there are.
pub(crate) fn log_notices(feed: &str, notices: &[Notice]) {
    let kind = |notice: &Notice| match notice {
        Notice::Rejected(rejection) => (discriminant(notice), Some(rejection.reason)),
        _ => (discriminant(notice), None),
    };
    let mut kinds: Vec<(&Notice, u64)> = Vec::new();
    for notice in notices {
        match kinds.iter_mut().find(|(first, _)| kind(first) == kind(notice)) {
            Some((_, more)) => *more += 1,
            None => kinds.push((notice, 0)),
        }
    }
    for (first, more) in kinds {
        log_notice(feed, first, NonZeroU64::new(more));
    }
}

pub(super) fn log_rejection(feed: &str, rejection: &Rejection, suppressed: Suppressed) {
    let (reason, detail) = (rejection.reason.label(), logged(&rejection.detail));
    warn!(%feed, reason, suppressed, %detail, "message or entry rejected");
}

/// Each skill that is named with its remembered and its present total; `None` where none is.
fn fell_text(fell: &FallenSkills) -> Option<String> {
    let skill = |skill: &FallenSkill| format!("{} {} to {}", logged(&skill.skill_name), skill.remembered, skill.listed);
    let skills: Vec<_> = fell.named.iter().map(skill).collect();
    (!skills.is_empty()).then(|| skills.join(", "))
}

fn reset_text(cause: &ResetCause) -> String {
    match cause {
        ResetCause::TotalFell { skill_name, from, to } => {
            format!("the total of {} fell from {from} to {to}", logged(skill_name))
        }
        ResetCause::SplitFell { skill_name } => {
            format!("{} has fewer completed or abandoned invocations than before", logged(skill_name))
        }
        ResetCause::RowsAreOthers => "none of the rows that were read is in it".to_owned(),
        ResetCause::SkillMissing { skill_name } => {
            format!("{} is no longer listed, though the list has room for it", logged(skill_name))
        }
    }
}
