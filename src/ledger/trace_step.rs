//! What a rule made of a message, for whoever wants to know where a number comes from.

use std::fmt;

/// One step from a message to the series, and the rule behind it. Collected only after [`super::Ledger::explain`]; it
/// decides nothing.
#[derive(Debug, Clone, PartialEq)]
pub enum TraceStep {
    /// A snapshot lists a skill that was not known.
    FirstSight {
        /// The skill.
        skill_name: String,
        /// Its invocations.
        total: u64,
        /// Completed ones among them.
        completed: u64,
        /// Whether all of them happened under watch.
        past_is_known: bool,
    },
    /// A snapshot lists more invocations of a skill than were known.
    Rise {
        /// The skill.
        skill_name: String,
        /// What was known.
        from: u64,
        /// What is listed.
        to: u64,
        /// New completions.
        completed: u64,
        /// Their seconds; `None` where they cannot be told.
        seconds: Option<f64>,
    },
    /// The remembered numbers of a skill went back with its database, and no count moved.
    WentBack {
        /// The skill.
        skill_name: String,
        /// What was known.
        from: u64,
        /// What is listed.
        to: u64,
    },
    /// Invocations of a rise that events had counted already.
    Credited {
        /// The skill.
        skill_name: String,
        /// How many.
        invocations: u64,
    },
    /// Invocations of a rise that events which had waited account for.
    MetEvents {
        /// The skill.
        skill_name: String,
        /// How many.
        events: usize,
    },
    /// What is left of a rise waits for its events.
    RiseWaits {
        /// The skill.
        skill_name: String,
    },
    /// Rises that waited for events in vain count without their phase.
    RiseSettled {
        /// The skill.
        skill_name: String,
    },
    /// An event of a skill that no snapshot has listed yet counts at once.
    EventCounted {
        /// The skill.
        skill_name: String,
    },
    /// An event that a rise waited for.
    EventMetRise {
        /// The skill.
        skill_name: String,
    },
    /// An event that waits for the rise that counts it.
    EventWaits {
        /// The skill.
        skill_name: String,
    },
    /// An event that was seen before.
    Repeated {
        /// Its identifier.
        id: String,
    },
    /// The rate of a skill is another.
    Rate {
        /// The skill.
        skill_name: String,
    },
    /// An anomaly that had not been counted.
    Anomaly {
        /// The skill.
        skill_name: String,
        /// Its type.
        anomaly_type: String,
        /// By how much the number shown rises.
        rise: u64,
    },
    /// A message about another skill than the one that is subscribed to.
    OtherSkill {
        /// The skill.
        skill_name: String,
    },
    /// The number of sessions is another.
    Sessions,
    /// The message came from a feed that counts under another name.
    Alias,
}

impl TraceStep {
    /// The rule, by its number in `docs/explanation/translation.md`.
    pub fn rule(&self) -> &'static str {
        match self {
            Self::FirstSight { .. } => "4.1",
            Self::Rise { .. } => "4.2",
            Self::WentBack { .. } => "4.3",
            Self::Rate { .. } => "4.6",
            Self::OtherSkill { .. } => "4.7",
            Self::Credited { .. }
            | Self::MetEvents { .. }
            | Self::RiseWaits { .. }
            | Self::RiseSettled { .. }
            | Self::EventCounted { .. }
            | Self::EventMetRise { .. }
            | Self::EventWaits { .. } => "4.8",
            Self::Repeated { .. } => "2",
            Self::Alias => "3",
            Self::Anomaly { .. } => "5",
            Self::Sessions => "6",
        }
    }

    /// The skill that it is about, if it is about one.
    pub fn skill_name(&self) -> Option<&str> {
        match self {
            Self::FirstSight { skill_name, .. }
            | Self::Rise { skill_name, .. }
            | Self::WentBack { skill_name, .. }
            | Self::Credited { skill_name, .. }
            | Self::MetEvents { skill_name, .. }
            | Self::RiseWaits { skill_name }
            | Self::RiseSettled { skill_name }
            | Self::EventCounted { skill_name }
            | Self::EventMetRise { skill_name }
            | Self::EventWaits { skill_name }
            | Self::Rate { skill_name }
            | Self::Anomaly { skill_name, .. }
            | Self::OtherSkill { skill_name } => Some(skill_name),
            Self::Repeated { .. } | Self::Sessions | Self::Alias => None,
        }
    }
}

impl fmt::Display for TraceStep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::FirstSight { skill_name, total, completed, past_is_known } => {
                let past = if *past_is_known { "as observed" } else { "as history, with unknown durations" };
                write!(f, "{skill_name:?} is new: {total} invocations, {completed} completed, counted {past}")
            }
            Self::Rise { skill_name, from, to, completed, seconds } => {
                write!(f, "{skill_name:?} increased from {from} to {to}, {completed} completed")?;
                match seconds {
                    Some(seconds) if *completed > 0 => write!(f, " in {seconds} s"),
                    None if *completed > 0 => f.write_str(", with unknown durations"),
                    _ => Ok(()),
                }
            }
            Self::WentBack { skill_name, from, to } => {
                write!(f, "{skill_name:?} fell from {from} to {to} with its database: nothing is counted")
            }
            Self::Credited { skill_name, invocations } => {
                write!(f, "{invocations} of {skill_name:?} were counted already, by events")
            }
            Self::MetEvents { skill_name, events } => {
                write!(f, "{events} of {skill_name:?} get the phase and duration of pending events")
            }
            Self::RiseWaits { skill_name } => {
                write!(f, "the increase of {skill_name:?} is pending for 5 s, until its events arrive")
            }
            Self::RiseSettled { skill_name } => {
                write!(f, "no event arrived for the increase of {skill_name:?}: its phase is unknown")
            }
            Self::EventCounted { skill_name } => {
                write!(f, "the event is counted at once: no snapshot has listed {skill_name:?}")
            }
            Self::EventMetRise { skill_name } => {
                write!(f, "the event belongs to a pending increase of {skill_name:?}")
            }
            Self::EventWaits { skill_name } => {
                write!(f, "the event is pending: snapshots list {skill_name:?}, and only they are counted")
            }
            Self::Repeated { id } => write!(f, "the event {id:?} is a duplicate: nothing is counted"),
            Self::Rate { skill_name } => write!(f, "the completion rate of {skill_name:?} changed"),
            Self::Anomaly { skill_name, anomaly_type, rise } => {
                write!(f, "{rise} new anomalies {anomaly_type:?} of {skill_name:?}")
            }
            Self::OtherSkill { skill_name } => write!(f, "{skill_name:?} is not the subscribed skill"),
            Self::Sessions => f.write_str("the number of sessions changed"),
            Self::Alias => f.write_str("this feed is on standby: another feed counts the same server"),
        }
    }
}
