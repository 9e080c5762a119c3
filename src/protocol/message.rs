//! Messages, and why something was rejected.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// One message of a feed, as received. Strings borrow from the frame unless they contain an escape.
#[derive(Debug, Clone, PartialEq)]
pub enum Message<'a> {
    /// About the connection: changes no count.
    Connection(ConnectionMessage<'a>),
    /// A cumulative snapshot (`metrics_update`).
    Snapshot(Snapshot<'a>),
    /// A single streamed event.
    Event(Event<'a>),
    /// An unknown type or event name: counted and ignored.
    Unknown,
}

impl Message<'_> {
    /// Returns the label `type` of `session_buddy_bridge_feed_messages_total`.
    pub fn message_type(&self) -> MessageType {
        match self {
            Message::Connection(ConnectionMessage::Connected { .. }) => MessageType::Connected,
            Message::Connection(ConnectionMessage::SubscriptionConfirmed { .. }) => MessageType::SubscriptionConfirmed,
            Message::Connection(ConnectionMessage::Pong) => MessageType::Pong,
            Message::Snapshot(_) => MessageType::MetricsUpdate,
            Message::Event(event) => match event.kind {
                EventKind::Invocation { .. } => MessageType::SkillInvocation,
                EventKind::CompletionRate { .. } => MessageType::CompletionRate,
                EventKind::Anomaly { .. } => MessageType::Anomaly,
                EventKind::ActiveSessions { .. } => MessageType::ActiveSessions,
                EventKind::SessionCreated { .. } => MessageType::SessionCreated,
                EventKind::SessionClosed { .. } => MessageType::SessionClosed,
            },
            Message::Unknown => MessageType::Unknown,
        }
    }

    /// See [`MessageType::has_data`].
    pub fn has_data(&self) -> bool {
        self.message_type().has_data()
    }
}

/// A message about the connection.
#[derive(Debug, Clone, PartialEq)]
pub enum ConnectionMessage<'a> {
    /// The server's first message.
    Connected {
        /// Whether the server accepted a token; `None` if it does not say.
        authenticated: Option<bool>,
    },
    /// The answer to `subscribe`.
    SubscriptionConfirmed {
        /// The skill subscribed to; `None` for all.
        skill: Option<Cow<'a, str>>,
    },
    /// The answer to `ping`.
    Pong,
}

/// A number as received.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Number {
    /// Absent or null.
    Missing,
    /// A finite number. Integers above 2^53 are rounded, which no rule depends on.
    Finite(f64),
    /// Not a finite number: a string, a boolean, `NaN`, an infinity.
    Invalid,
}

/// The totals of the listed skills, and the anomalies of the last hour.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Snapshot<'a> {
    /// The server's time, verbatim.
    pub timestamp: Option<Cow<'a, str>>,
    /// Number of entries in the list of skills, including invalid ones.
    pub listed: usize,
    /// The entries, in order; `Err` for invalid ones.
    pub skills: Vec<Result<SkillEntry<'a>, Rejection>>,
    /// Number of entries in the list of anomalies, including invalid ones.
    pub anomalies_listed: usize,
    /// The anomalies, in order; `Err` for invalid ones.
    pub anomalies: Vec<Result<AnomalyEntry<'a>, Rejection>>,
}

impl Snapshot<'_> {
    /// Returns the same snapshot, independent of the frame.
    pub fn into_owned(self) -> Snapshot<'static> {
        let text = |text: Cow<'_, str>| Cow::<'static, str>::Owned(text.into_owned());
        let skill = |entry: SkillEntry<'_>| SkillEntry {
            skill_name: text(entry.skill_name),
            total_invocations: entry.total_invocations,
            completion_rate_percent: entry.completion_rate_percent,
            average_duration_seconds: entry.average_duration_seconds,
        };
        let anomaly = |entry: AnomalyEntry<'_>| AnomalyEntry {
            skill_name: text(entry.skill_name),
            anomaly_type: text(entry.anomaly_type),
            detected_at: entry.detected_at.map(text),
            deviation_score: entry.deviation_score,
        };
        Snapshot {
            timestamp: self.timestamp.map(text),
            listed: self.listed,
            skills: self.skills.into_iter().map(|entry| entry.map(skill)).collect(),
            anomalies_listed: self.anomalies_listed,
            anomalies: self.anomalies.into_iter().map(|entry| entry.map(anomaly)).collect(),
        }
    }
}

/// One skill of a snapshot. Only the name is validated: the ledger validates the numbers, because an entry with invalid ones
/// still proves that its skill is listed.
#[derive(Debug, Clone, PartialEq)]
pub struct SkillEntry<'a> {
    /// Never empty.
    pub skill_name: Cow<'a, str>,
    /// Invocations since the server's database began.
    pub total_invocations: Number,
    /// Share of completed invocations in percent, 0 to 100.
    pub completion_rate_percent: Number,
    /// Mean duration of completed invocations; missing when there are none.
    pub average_duration_seconds: Number,
}

/// One anomaly, listed or streamed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AnomalyEntry<'a> {
    /// Never empty.
    pub skill_name: Cow<'a, str>,
    /// Never empty: `drop`, `spike`, `pattern_shift`, or another.
    pub anomaly_type: Cow<'a, str>,
    /// When the server detected it, verbatim; a space or a `T` between date and time.
    pub detected_at: Option<Cow<'a, str>>,
    /// Distance from the baseline, finite; `None` if absent or null.
    pub deviation_score: Option<f64>,
}

impl AnomalyEntry<'_> {
    /// Returns the same anomaly, independent of the frame.
    pub fn into_owned(self) -> AnomalyEntry<'static> {
        AnomalyEntry {
            skill_name: self.skill_name.into_owned().into(),
            anomaly_type: self.anomaly_type.into_owned().into(),
            detected_at: self.detected_at.map(|at| at.into_owned().into()),
            deviation_score: self.deviation_score,
        }
    }
}

/// A streamed event.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Event<'a> {
    /// The sender's identifier, by which repetitions are recognized.
    pub id: Option<Cow<'a, str>>,
    /// The sender's time, verbatim.
    pub timestamp: Option<Cow<'a, str>>,
    /// What happened.
    pub kind: EventKind<'a>,
}

impl Event<'_> {
    /// The same, independent of the frame that it came in.
    pub fn into_owned(self) -> Event<'static> {
        let text = |text: Cow<'_, str>| Cow::<'static, str>::Owned(text.into_owned());
        let kind = match self.kind {
            EventKind::Invocation { skill_name, workflow_phase, completed, duration_seconds, session_id } => {
                EventKind::Invocation {
                    skill_name: text(skill_name),
                    workflow_phase: workflow_phase.map(text),
                    completed,
                    duration_seconds,
                    session_id: session_id.map(text),
                }
            }
            EventKind::CompletionRate { skill_name, rate } => {
                EventKind::CompletionRate { skill_name: text(skill_name), rate }
            }
            EventKind::Anomaly(entry) => EventKind::Anomaly(entry.into_owned()),
            EventKind::ActiveSessions { count } => EventKind::ActiveSessions { count },
            EventKind::SessionCreated { session_id } => EventKind::SessionCreated { session_id: text(session_id) },
            EventKind::SessionClosed { session_id } => EventKind::SessionClosed { session_id: text(session_id) },
        };
        Event { id: self.id.map(text), timestamp: self.timestamp.map(text), kind }
    }
}

/// What a streamed event reports.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum EventKind<'a> {
    /// One invocation.
    Invocation {
        /// Never empty.
        skill_name: Cow<'a, str>,
        /// `None` if missing, null or empty.
        workflow_phase: Option<Cow<'a, str>>,
        /// Whether the skill completed.
        completed: bool,
        /// Finite and not negative.
        duration_seconds: Option<f64>,
        /// The session it belongs to.
        session_id: Option<Cow<'a, str>>,
    },
    /// A skill's completion rate.
    CompletionRate {
        /// Never empty.
        skill_name: Cow<'a, str>,
        /// A ratio, 0 to 1.
        rate: f64,
    },
    /// One anomaly.
    Anomaly(AnomalyEntry<'a>),
    /// The number of open sessions.
    ActiveSessions {
        /// At most 2^53.
        count: u64,
    },
    /// A session opened.
    SessionCreated {
        /// Never empty.
        session_id: Cow<'a, str>,
    },
    /// A session closed.
    SessionClosed {
        /// Never empty.
        session_id: Cow<'a, str>,
    },
}

/// Why a frame, a message, an entry or a record was not applied.
///
/// ```
/// use session_buddy_bridge::{PrometheusExporter, RecordError, RejectionReason};
///
/// let exporter = PrometheusExporter::new(9092);
/// let refused = exporter.record_invocation("__overflow__", None, true, None);
/// let Err(RecordError::Rejected(rejection)) = refused else { panic!("{refused:?}") };
/// assert_eq!(rejection.reason, RejectionReason::ReservedName);
/// println!("{}", rejection.detail);
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{detail}")]
pub struct Rejection {
    /// The reason, by which `session_buddy_bridge_feed_rejected_total` is labelled.
    pub reason: RejectionReason,
    /// What was wrong, with the field and the beginning of its value.
    pub detail: String,
}

impl Rejection {
    /// Creates a rejection for `reason`, which `detail` explains.
    pub fn new(reason: RejectionReason, detail: impl Into<String>) -> Self {
        Self { reason, detail: detail.into() }
    }
}

/// Declares a bounded set of label values.
macro_rules! label_values {
    ($(#[$set_doc:meta])* $set:ident { $($(#[$doc:meta])* $name:ident => $label:literal,)* }) => {
        $(#[$set_doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum $set { $($(#[$doc])* $name,)* }

        impl $set {
            /// Every value, in order of declaration.
            pub const ALL: &[Self] = &[$(Self::$name,)*];

            /// Returns the value of the label.
            pub const fn label(self) -> &'static str {
                match self { $(Self::$name => $label,)* }
            }
        }
    };
}

label_values! {
    /// The bounded set of values of the label `type`.
    MessageType {
        /// `active_sessions`.
        ActiveSessions => "active_sessions",
        /// `anomaly`, or the event `anomaly.detected`.
        Anomaly => "anomaly",
        /// `completion_rate`, or the event `skill.completion_rate`.
        CompletionRate => "completion_rate",
        /// `connected`.
        Connected => "connected",
        /// `metrics_update`.
        MetricsUpdate => "metrics_update",
        /// `pong`.
        Pong => "pong",
        /// The event `session.closed`.
        SessionClosed => "session_closed",
        /// The event `session.created`.
        SessionCreated => "session_created",
        /// `skill_invocation`, or the event `skill.invoked`.
        SkillInvocation => "skill_invocation",
        /// `subscription_confirmed`.
        SubscriptionConfirmed => "subscription_confirmed",
        /// Any other.
        Unknown => "unknown",
    }
}

impl MessageType {
    /// Returns whether it is a snapshot or an event, as opposed to a message about the connection or an unknown one.
    pub fn has_data(self) -> bool {
        use MessageType::{Connected, Pong, SubscriptionConfirmed, Unknown};
        !matches!(self, Connected | Pong | SubscriptionConfirmed | Unknown)
    }
}

label_values! {
    /// The bounded set of values of the label `reason`.
    ///
    /// ```
    /// use session_buddy_bridge::RejectionReason;
    ///
    /// assert_eq!(RejectionReason::LabelTooLong.label(), "label_too_long");
    /// assert!(RejectionReason::ALL.contains(&RejectionReason::ReservedName));
    /// ```
    RejectionReason {
    /// The feed sent a binary frame; the feed speaks text.
    BinaryFrame => "binary_frame",
    /// The text is not JSON, nests too deep, or holds a lone surrogate or a number that overflows.
    MalformedFrame => "malformed_frame",
    /// A message is not an object, or has no `type`.
    MalformedMessage => "malformed_message",
    /// A required field is absent, null or empty.
    MissingField => "missing_field",
    /// A field has a value of the wrong kind.
    InvalidField => "invalid_field",
    /// A field is not a finite number.
    InvalidNumber => "invalid_number",
    /// A number outside its range: a negative total, a rate above 100 percent.
    NumberOutOfRange => "number_out_of_range",
    /// A label value longer than its limit.
    LabelTooLong => "label_too_long",
    /// The skill name that is reserved for skills beyond the limit.
    ReservedName => "reserved_name",
    /// A skill that one snapshot lists twice: the second is not applied.
    DuplicateEntry => "duplicate_entry",
    /// More entries in one snapshot, or messages in one frame, than the limit.
    TooManyEntries => "too_many_entries",
    /// An event with an unseen id, older than the remembered ids.
    StaleEvent => "stale_event",
    /// More skills with remembered numbers than the limit.
    SkillLimit => "skill_limit",
    /// More anomalies remembered than the limit.
    AnomalyLimit => "anomaly_limit",
    /// More open sessions remembered than the limit.
    SessionLimit => "session_limit",
}
}
