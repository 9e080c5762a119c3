//! What happened while a message was applied that somebody should hear of.

use std::sync::Arc;

use crate::protocol::Rejection;

use super::binding::Doubt;

/// Something worth a log line. Counts that belong to the rules are already counted when a notice is given.
#[derive(Debug, Clone, PartialEq)]
pub enum Notice {
    /// An entry or a message was not applied; what stood beside it was.
    Rejected(Rejection),
    /// The server's database is a new one: what it holds was counted on top.
    Reset(ResetCause),
    /// The server's database is the same and lost some of what it held: nothing was counted.
    RolledBack {
        /// What fell; nothing where rows that were read are gone and no list shows it.
        fell: FallenSkills,
    },
    /// The server's database is back in a state before a damage: what is beyond that state was counted.
    Restored,
    /// This feed is on standby: another one moves the counters of its source.
    AliasFound {
        /// Identity of the feed that is active.
        of: String,
    },
    /// This feed was on standby, and moves the counters from now on.
    AliasCleared,
    /// Two sources turned out to be one, and go on as one.
    SourcesJoined {
        /// Invocations that both had counted.
        counted_twice: u64,
    },
    /// This feed was on standby and lists another database than the active feed: it has a source of its own.
    SourceForked,
    /// What could not be decided was settled by counting less.
    Undecided {
        /// What was in doubt.
        doubt: Doubt,
    },
    /// The list of anomalies may have hidden some.
    AnomalyWindowOverflowed,
    /// A skill beyond the limit: its counts go to `__overflow__`. Given once per ledger.
    SkillsOverflowed {
        /// The first skill that found no place.
        skill_name: String,
        /// The limit, in skills.
        skills_max: usize,
    },
    /// A series beyond the limit: its counts go to `__overflow__`. Given once per ledger.
    SeriesOverflowed {
        /// The skill of the first series that found no place.
        skill_name: String,
        /// The limit, in series.
        series_max: usize,
    },
    /// What the feed lists of a skill disagrees with the rows of the database beside it, and has for a while.
    DetailMismatch {
        /// The skill.
        skill_name: String,
        /// The total that the feed lists.
        listed: u64,
        /// The total that the rows tell.
        told: u64,
    },
    /// The database beside the feed is not that of its server: nothing of it is counted.
    DatabaseContradicted {
        /// A skill that it cannot have had as it is listed.
        skill_name: String,
        /// The total that the feed lists.
        listed: u64,
        /// The total that the database holds.
        held: u64,
    },
    /// The rows of the database beside the feed tell the counts from here on.
    DetailJoined,
    /// The rows of the database beside the feed do not tell why invocations failed: no failure is counted.
    NoErrorTypes,
    /// Streamed events that no rise of a snapshot accounted for were dropped.
    LateEvents {
        /// How many.
        events: u64,
    },
}

/// Skills whose numbers fell: those that fell furthest, and how many others did.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct FallenSkills {
    /// At most [`FallenSkills::NAMED_MAX`], the one that fell furthest first.
    pub named: Vec<FallenSkill>,
    /// The number of others.
    pub others: usize,
}

/// A skill whose numbers fell.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FallenSkill {
    /// Its name.
    pub skill_name: Arc<str>,
    /// Its remembered total.
    pub remembered: u64,
    /// Its present total: 0 where it is not listed, the remembered one where only its completed or abandoned invocations
    /// or its durations fell.
    pub listed: u64,
}

impl FallenSkills {
    /// Skills that are named.
    pub const NAMED_MAX: usize = 5;

    /// Of skills with their remembered and their present totals.
    pub(super) fn of(fell: &[(Arc<str>, u64, u64)]) -> Self {
        let skill = |(skill_name, remembered, listed): &(Arc<str>, u64, u64)| FallenSkill {
            skill_name: Arc::clone(skill_name),
            remembered: *remembered,
            listed: *listed,
        };
        let mut named: Vec<_> = fell.iter().map(skill).collect();
        named.sort_by(|a, b| {
            let depth = |skill: &FallenSkill| skill.remembered.saturating_sub(skill.listed);
            depth(b).cmp(&depth(a)).then_with(|| a.skill_name.cmp(&b.skill_name))
        });
        let others = named.len().saturating_sub(Self::NAMED_MAX);
        named.truncate(Self::NAMED_MAX);
        Self { named, others }
    }
}

/// What proved that the server's database is a new one.
#[derive(Debug, Clone, PartialEq)]
pub enum ResetCause {
    /// A skill's total fell.
    TotalFell {
        /// The skill.
        skill_name: String,
        /// Remembered total.
        from: u64,
        /// Listed total.
        to: u64,
    },
    /// A skill's exact number of completed or of abandoned invocations fell.
    SplitFell {
        /// The skill.
        skill_name: String,
    },
    /// The rows of the database beside the feed are none that were read.
    RowsAreOthers,
    /// A remembered skill is not in an unfiltered list that had room for it.
    SkillMissing {
        /// The skill.
        skill_name: String,
    },
}

impl ResetCause {
    /// What the skills that fell show: with the remembered total and the present one.
    pub(super) fn of(fell: &[(Arc<str>, u64, u64)]) -> Self {
        let missing = || fell.iter().filter(|(_, _, to)| *to == 0).min();
        let lower = fell.iter().filter(|(_, from, to)| to < from && *to > 0).min();
        match lower.or_else(missing).or_else(|| fell.iter().min()) {
            Some((name, _, 0)) => Self::SkillMissing { skill_name: name.to_string() },
            Some((name, from, to)) if to < from => {
                Self::TotalFell { skill_name: name.to_string(), from: *from, to: *to }
            }
            Some((name, ..)) => Self::SplitFell { skill_name: name.to_string() },
            None => Self::RowsAreOthers,
        }
    }
}
