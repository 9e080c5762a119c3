//! What happened while a message was applied that somebody should hear of.

use crate::protocol::Rejection;

/// Something worth a log line. Counts that belong to the rules are already counted when a notice is given.
#[derive(Debug, Clone, PartialEq)]
pub enum Notice {
    /// An entry or a message was not applied; what stood beside it was.
    Rejected(Rejection),
    /// The server's database is a new one: what it holds was counted on top.
    Reset(ResetCause),
    /// The server's database is the same, a few writes back: nothing was counted.
    RolledBack,
    /// This feed is the same server as an earlier feed, under another address: it counts no longer.
    AliasFound {
        /// Identity of the feed that goes on counting.
        of: String,
    },
    /// This feed was taken for an alias and has proved to be a server of its own: it counts.
    AliasCleared,
    /// The list of anomalies may have hidden some.
    AnomalyWindowOverflowed,
    /// A skill beyond the limit: its counts go to `__overflow__`. Given once per ledger.
    SkillsOverflowed {
        /// The first skill that found no place.
        skill_name: String,
        /// The limit, in skills.
        skills_max: usize,
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
    /// The rows of the database beside the feed tell the counts from here on.
    DetailJoined,
    /// Streamed events that no rise of a snapshot accounted for were dropped.
    LateEvents {
        /// How many.
        events: u64,
    },
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
