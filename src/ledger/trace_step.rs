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
    /// The rule, by its number in `docs/translation.md`.
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
                let past = if *past_is_known { "all under watch" } else { "as history, of unknown durations" };
                write!(f, "{skill_name:?} is new: {total} invocations, {completed} completed, count {past}")
            }
            Self::Rise { skill_name, from, to, completed, seconds } => {
                write!(f, "{skill_name:?} rose from {from} to {to}, {completed} completed")?;
                match seconds {
                    Some(seconds) if *completed > 0 => write!(f, " in {seconds} s"),
                    None if *completed > 0 => f.write_str(", of unknown durations"),
                    _ => Ok(()),
                }
            }
            Self::WentBack { skill_name, from, to } => {
                write!(f, "{skill_name:?} went from {from} to {to} with its database: nothing counts")
            }
            Self::Credited { skill_name, invocations } => {
                write!(f, "{invocations} of {skill_name:?} were counted already, by events")
            }
            Self::MetEvents { skill_name, events } => {
                write!(f, "{events} of {skill_name:?} take phase and duration of events that waited")
            }
            Self::RiseWaits { skill_name } => write!(f, "the rise of {skill_name:?} waits 5 s for its events"),
            Self::RiseSettled { skill_name } => {
                write!(f, "the rise of {skill_name:?} waited in vain: its phase is unknown")
            }
            Self::EventCounted { skill_name } => {
                write!(f, "the event counts at once: no snapshot has listed {skill_name:?}")
            }
            Self::EventMetRise { skill_name } => {
                write!(f, "the event is of a rise of {skill_name:?} that waited for it")
            }
            Self::EventWaits { skill_name } => {
                write!(f, "the event waits: snapshots list {skill_name:?}, and only they count it")
            }
            Self::Repeated { id } => write!(f, "the event {id:?} was seen before: nothing counts"),
            Self::Rate { skill_name } => write!(f, "the rate of {skill_name:?} is another"),
            Self::Anomaly { skill_name, anomaly_type, rise } => {
                write!(f, "{rise} more of {anomaly_type:?} for {skill_name:?} than was counted")
            }
            Self::OtherSkill { skill_name } => write!(f, "{skill_name:?} is not the skill that is subscribed to"),
            Self::Sessions => f.write_str("the number of sessions is another"),
            Self::Alias => f.write_str("this feed is the same server as another, and does not count"),
        }
    }
}
