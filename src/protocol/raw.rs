//! What a frame contains, before it is interpreted. The scanner and serde both fill it, and only it decides which key goes
//! where, so that they cannot disagree about fields.

use std::borrow::Cow;

/// Any JSON value, of which only scalars are kept.
#[derive(Debug, Default)]
pub(super) enum Field<'a> {
    /// Absent or null.
    #[default]
    Missing,
    Text(Cow<'a, str>),
    Number(f64),
    /// A whole number of 64 bits that a double may not tell from the next one.
    LedgerState {
        magnitude: u64,
        is_negative: bool,
    },
    Boolean(bool),
    /// A list or an object.
    Compound,
}

/// Below it every whole number is a double of its own.
pub(super) const EXACT_MAX: u64 = 1 << 53;

impl Field<'_> {
    /// A whole number with all its digits.
    pub(super) fn whole(magnitude: u64, is_negative: bool) -> Self {
        match magnitude {
            EXACT_MAX.. => Self::LedgerState { magnitude, is_negative },
            exact if is_negative => Self::Number(-(exact as f64)),
            exact => Self::Number(exact as f64),
        }
    }
}

/// The value of a record: the record, or what was found instead.
#[derive(Debug)]
pub(super) enum Slot<'a, T> {
    Record(T),
    Other(Field<'a>),
}

impl<T> Default for Slot<'_, T> {
    fn default() -> Self {
        Slot::Other(Field::Missing)
    }
}

/// The value of a list of records.
#[derive(Debug)]
pub(super) enum List<'a, T> {
    /// At most as many items as the limit allows; `length` counts all of them.
    Items {
        items: Vec<Slot<'a, T>>,
        length: usize,
    },
    Other(Field<'a>),
}

impl<T> Default for List<'_, T> {
    fn default() -> Self {
        List::Other(Field::Missing)
    }
}

/// An object with the fields that this version knows. Of a repeated key the last value is used.
pub(super) trait Record<'a>: Default {
    /// Returns the destination of the value of `key`.
    fn destination(&mut self, key: &str) -> Destination<'_, 'a>;
}

/// The destination of a value, and so the expected kind.
pub(super) enum Destination<'r, 'a> {
    Scalar(&'r mut Field<'a>),
    Data(&'r mut Slot<'a, RawData<'a>>),
    Skills(&'r mut List<'a, RawSkill<'a>>),
    Anomalies(&'r mut List<'a, RawAnomaly<'a>>),
    /// The key is unknown. Its value is parsed all the same, because it can reject the frame.
    Ignored,
}

/// The envelope of every message.
#[derive(Debug, Default)]
pub(super) struct RawMessage<'a> {
    pub(super) r#type: Field<'a>,
    pub(super) event: Field<'a>,
    pub(super) id: Field<'a>,
    pub(super) timestamp: Field<'a>,
    pub(super) skill: Field<'a>,
    pub(super) authenticated: Field<'a>,
    pub(super) data: Slot<'a, RawData<'a>>,
}

impl<'a> Record<'a> for RawMessage<'a> {
    fn destination(&mut self, key: &str) -> Destination<'_, 'a> {
        Destination::Scalar(match key {
            "type" => &mut self.r#type,
            "event" => &mut self.event,
            "id" => &mut self.id,
            "timestamp" => &mut self.timestamp,
            "skill" => &mut self.skill,
            "authenticated" => &mut self.authenticated,
            "data" => return Destination::Data(&mut self.data),
            _ => return Destination::Ignored,
        })
    }
}

/// The `data` of a message: the fields of all types, since `data` may precede `type`.
#[derive(Debug, Default)]
pub(super) struct RawData<'a> {
    pub(super) top_skills: List<'a, RawSkill<'a>>,
    pub(super) anomalies: List<'a, RawAnomaly<'a>>,
    pub(super) anomaly: RawAnomaly<'a>,
    pub(super) workflow_phase: Field<'a>,
    pub(super) completed: Field<'a>,
    pub(super) duration_seconds: Field<'a>,
    pub(super) session_id: Field<'a>,
    pub(super) rate: Field<'a>,
    pub(super) count: Field<'a>,
}

impl<'a> Record<'a> for RawData<'a> {
    fn destination(&mut self, key: &str) -> Destination<'_, 'a> {
        Destination::Scalar(match key {
            "top_skills" => return Destination::Skills(&mut self.top_skills),
            "anomalies" => return Destination::Anomalies(&mut self.anomalies),
            "workflow_phase" => &mut self.workflow_phase,
            "completed" => &mut self.completed,
            "duration_seconds" => &mut self.duration_seconds,
            "session_id" => &mut self.session_id,
            "rate" => &mut self.rate,
            "count" => &mut self.count,
            _ => return self.anomaly.destination(key),
        })
    }
}

/// Declares a record whose fields are all scalars.
macro_rules! scalar_record {
    ($(#[$doc:meta])* $name:ident { $($field:ident),* $(,)? }) => {
        $(#[$doc])*
        #[derive(Debug, Default)]
        pub(super) struct $name<'a> { $(pub(super) $field: Field<'a>,)* }

        impl<'a> Record<'a> for $name<'a> {
            fn destination(&mut self, key: &str) -> Destination<'_, 'a> {
                match key {
                    $(stringify!($field) => Destination::Scalar(&mut self.$field),)*
                    _ => Destination::Ignored,
                }
            }
        }
    };
}

scalar_record! {
    /// An entry of `top_skills`.
    RawSkill { skill_name, total_invocations, completion_rate, avg_duration_seconds }
}
scalar_record! {
    /// An entry of `anomalies`; one that is streamed has the same fields.
    RawAnomaly { skill_name, anomaly_type, detected_at, deviation_score }
}
