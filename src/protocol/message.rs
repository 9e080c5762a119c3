//! What a frame can say.

use std::borrow::Cow;

use thiserror::Error;

/// One message of a feed, as the wire said it. Strings borrow from the frame where they hold no escape.
#[derive(Debug, Clone, PartialEq)]
pub enum Message<'a> {
    /// The connection's own business: it moves no count.
    Connection(ConnectionMessage<'a>),
    /// A cumulative snapshot (`metrics_update`).
    Snapshot(Snapshot<'a>),
    /// A single streamed event.
    Event(Event<'a>),
    /// A type or event name that this version does not know. Feeds grow: it is counted and ignored.
    Unknown,
}

impl Message<'_> {
    /// What `session_buddy_bridge_feed_messages_total` counts this message as.
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
}

/// What a server says about the connection itself.
#[derive(Debug, Clone, PartialEq)]
pub enum ConnectionMessage<'a> {
    /// The server's first word.
    Connected {
        /// Whether the server accepted a token; `None` where it does not say.
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

/// A number as it stood in the frame.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Number {
    /// Absent or null.
    Missing,
    /// A finite number. Integers above 2^53 have lost their low bits, which no rule needs.
    Finite(f64),
    /// Something that is no number: a string, a boolean, `NaN`, an infinity.
    Invalid,
}

/// The cumulative numbers of the listed skills, and the last hour's anomalies.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Snapshot<'a> {
    /// The server's own time of the round, verbatim.
    pub timestamp: Option<Cow<'a, str>>,
    /// How many skill entries the list had, including those that could not be read.
    pub listed: usize,
    /// The entries in the order listed. An entry that cannot be read at all is `Err`.
    pub skills: Vec<Result<SkillEntry<'a>, Rejection>>,
    /// How many anomalies the list had, including those that could not be read.
    pub anomalies_listed: usize,
    /// The anomalies in the order listed.
    pub anomalies: Vec<Result<AnomalyEntry<'a>, Rejection>>,
}

impl Snapshot<'_> {
    /// The same snapshot, with strings of its own.
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

/// One skill of a snapshot. Only the name is vouched for: the numbers are judged by the ledger, because an entry with
/// bad numbers still proves that its skill is listed.
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
#[derive(Debug, Clone, PartialEq)]
pub struct AnomalyEntry<'a> {
    /// Never empty.
    pub skill_name: Cow<'a, str>,
    /// Never empty: `drop`, `spike`, `pattern_shift`, or what a server calls it.
    pub anomaly_type: Cow<'a, str>,
    /// When the server found it, verbatim; a space or a `T` between date and time.
    pub detected_at: Option<Cow<'a, str>>,
    /// Distance from the baseline; `None` where it is absent or null. Finite.
    pub deviation_score: Option<f64>,
}

impl AnomalyEntry<'_> {
    /// The same, independent of the frame that it came in.
    pub fn into_owned(self) -> AnomalyEntry<'static> {
        AnomalyEntry {
            skill_name: self.skill_name.into_owned().into(),
            anomaly_type: self.anomaly_type.into_owned().into(),
            detected_at: self.detected_at.map(|at| at.into_owned().into()),
            deviation_score: self.deviation_score,
        }
    }
}

/// A streamed event with what identifies it.
#[derive(Debug, Clone, PartialEq)]
pub struct Event<'a> {
    /// The sender's identifier, which tells a repetition.
    pub id: Option<Cow<'a, str>>,
    /// The sender's time, verbatim.
    pub timestamp: Option<Cow<'a, str>>,
    /// What happened.
    pub kind: EventKind<'a>,
}

/// What a streamed event reports.
#[derive(Debug, Clone, PartialEq)]
pub enum EventKind<'a> {
    /// One invocation.
    Invocation {
        /// Never empty.
        skill_name: Cow<'a, str>,
        /// `None` where it is missing, null or empty.
        workflow_phase: Option<Cow<'a, str>>,
        /// Whether the skill ran to its end.
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
    /// How many sessions are open.
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
    /// A rejection for `reason`, said in words by `detail`.
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
            /// Every one, in the order of their numbers.
            pub const ALL: &[Self] = &[$(Self::$name,)*];

            /// The value of the label.
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

label_values! {
    /// The bounded set of values of the label `reason`.
    RejectionReason {
    /// The feed sent a binary frame; the feed speaks text.
    BinaryFrame => "binary_frame",
    /// The text is no JSON, nests too deep, or holds a lone surrogate or a number that overflows.
    MalformedFrame => "malformed_frame",
    /// A message is no object, or has no `type`.
    MalformedMessage => "malformed_message",
    /// A field that the message needs is absent, null or empty.
    MissingField => "missing_field",
    /// A field holds another kind of value than it should.
    InvalidField => "invalid_field",
    /// A field holds no number, or `NaN`, or an infinity.
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
    /// An event with an unseen id that is older than what the memory of ids reaches back to.
    StaleEvent => "stale_event",
    /// More skills with remembered numbers than the limit.
    SkillLimit => "skill_limit",
    /// More anomalies remembered than the limit.
    AnomalyLimit => "anomaly_limit",
    /// More open sessions remembered than the limit.
    SessionLimit => "session_limit",
}
}
