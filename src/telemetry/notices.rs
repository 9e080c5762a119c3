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
            let cause = reset_text(cause);
            warn!(%feed, suppressed, "the server's database is a new one, its numbers count on top: {cause}");
        }
        Notice::RolledBack { fell } => {
            let others = (fell.others > 0).then_some(fell.others);
            let fell = fell_text(fell).map(display);
            warn!(%feed, fell, others, suppressed, "database rolled back: what fell is remembered as it is now, nothing is counted");
        }
        Notice::Restored => {
            warn!(%feed, suppressed, "database back in a state before a damage: what is beyond that state is counted");
        }
        Notice::AliasFound { of } => {
            info!(%feed, active = %of, suppressed, "feed is on standby: another feed counts the same source");
        }
        Notice::AliasCleared => {
            info!(%feed, suppressed, "feed is active: it counts its source");
        }
        Notice::SourcesJoined { counted_twice } => {
            warn!(%feed, counted_twice, suppressed, "two sources turned out to be one");
        }
        Notice::SourceForked => {
            warn!(%feed, suppressed, "feed lists another database than the active feed; it counts a source of its own");
        }
        Notice::Undecided { doubt } => {
            warn!(%feed, reason = doubt.code(), suppressed, "the evidence does not decide; less is counted");
        }
        Notice::AnomalyWindowOverflowed => {
            warn!(%feed, suppressed, "the list of anomalies may have hidden some");
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
            info!(%feed, suppressed, "the rows of the database beside the feed tell the counts");
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
                %feed, skill_name, listed, told, suppressed,
                "the feed lists another number than the rows of the database tell: is --feed.skills-db the database of \
                 this server?"
            );
        }
        Notice::DatabaseContradicted { skill_name, listed, held } => {
            let skill_name = logged(skill_name);
            warn!(
                %feed, skill_name, listed, held, suppressed,
                "the database is not that of the feed; the feed is counted without it: correct skills_db"
            );
        }
        Notice::LateEvents { events } => {
            warn!(%feed, events, suppressed, "events dropped: no snapshot accounted for them");
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
    warn!(%feed, reason, suppressed, "not applied: {detail}");
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
