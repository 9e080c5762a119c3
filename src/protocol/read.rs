//! Frame text to messages.

use std::borrow::Cow;
use std::mem::take;

use serde::de::{DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};

use super::json::{FieldSeed, SlotSeed, scalars_as, without_python_numbers};
use super::raw::{Field, List, RawAnomaly, RawData, RawMessage, RawSkill, Slot};
use super::scan::scan;
use super::{
    AnomalyEntry, ConnectionMessage, Event, EventKind, Message, Number, Rejection, RejectionReason, SkillEntry,
    Snapshot,
};
use RejectionReason::{
    InvalidField, InvalidNumber, MalformedFrame, MalformedMessage, MissingField, NumberOutOfRange, TooManyEntries,
};

/// The largest integer up to which every integer is a double: beyond it a count would be a guess.
const COUNT_MAX: f64 = 9_007_199_254_740_992.0;

/// How many characters of a value at fault a rejection quotes.
const QUOTE_CHARS_MAX: usize = 60;

/// How much one frame may hold. Nesting is limited by the JSON parser, to 127 levels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Entries of each list of a snapshot; those beyond are rejected, one rejection for all of them.
    pub snapshot_entries_max: usize,
    /// Messages of a frame that is an array; those beyond are rejected, one rejection for all of them.
    pub frame_messages_max: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { snapshot_entries_max: 1_000, frame_messages_max: 10_000 }
    }
}

/// Reads one text frame and hands over its messages in order, each whole or as a rejection.
///
/// A frame that is no JSON gives one rejection and nothing else, even if some of its messages could be read: nothing of
/// it is applied. Python's `NaN` and infinities are invalid numbers, not invalid frames.
pub fn read(text: &str, limits: &Limits, each: &mut dyn FnMut(Result<Message<'_>, Rejection>)) {
    if scan(text, limits, each).is_some() {
        return;
    }
    let error = match parse(text, limits) {
        Ok(frame) => return frame.hand_over(each),
        Err(error) => error,
    };
    if let Some(repaired) = without_python_numbers(text)
        && let Ok(frame) = parse(&repaired, limits)
    {
        return frame.hand_over(each);
    }
    each(Err(Rejection::new(MalformedFrame, format!("no valid JSON ({error}): {}", quote(text)))));
}

/// A parsed frame. Almost every frame is one message, which then needs no list.
enum Frame<'a> {
    One(Result<Message<'a>, Rejection>),
    Many { messages: Vec<Result<Message<'a>, Rejection>>, length: usize },
}

impl<'a> Frame<'a> {
    /// A frame that is valid JSON and no message.
    fn scalar(found: Field<'a>) -> Self {
        Frame::One(element(Slot::Other(found)))
    }

    fn hand_over(self, each: &mut dyn FnMut(Result<Message<'_>, Rejection>)) {
        match self {
            Frame::One(message) => each(message),
            Frame::Many { messages, length } => {
                let beyond = length - messages.len();
                messages.into_iter().for_each(&mut *each);
                if beyond > 0 {
                    each(Err(Rejection::new(
                        TooManyEntries,
                        format!("{beyond} messages beyond the limit of one frame"),
                    )));
                }
            }
        }
    }
}

/// Reads a frame by serde alone.
#[cfg(test)]
pub(super) fn serde_front_end(
    text: &str,
    limits: &Limits,
    each: &mut dyn FnMut(Result<Message<'_>, Rejection>),
) -> Result<(), serde_json::Error> {
    parse(text, limits).map(|frame| frame.hand_over(each))
}

fn parse<'a>(text: &'a str, limits: &Limits) -> Result<Frame<'a>, serde_json::Error> {
    let mut json = serde_json::Deserializer::from_str(text);
    let frame = FrameSeed(limits).deserialize(&mut json)?;
    json.end()?;
    Ok(frame)
}

struct FrameSeed<'l>(&'l Limits);

impl<'de> DeserializeSeed<'de> for FrameSeed<'_> {
    type Value = Frame<'de>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Frame<'de>, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for FrameSeed<'_> {
    type Value = Frame<'de>;

    scalars_as!(Frame::scalar);

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Frame<'de>, A::Error> {
        SlotSeed::<RawMessage>::new(self.0).visit_map(map).map(|slot| Frame::One(element(slot)))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut sequence: A) -> Result<Frame<'de>, A::Error> {
        let mut messages = Vec::new();
        let mut length = 0;
        loop {
            if length < self.0.frame_messages_max {
                let Some(slot) = sequence.next_element_seed(SlotSeed::new(self.0))? else { break };
                messages.push(element(slot));
            } else if sequence.next_element_seed(FieldSeed)?.is_none() {
                break;
            }
            length += 1;
        }
        Ok(Frame::Many { messages, length })
    }
}

fn element<'a>(slot: Slot<'a, RawMessage<'a>>) -> Result<Message<'a>, Rejection> {
    match slot {
        Slot::Record(mut raw) => message(&mut raw),
        Slot::Other(found) => {
            Err(Rejection::new(MalformedMessage, format!("expected an object, found {}", describe(&found))))
        }
    }
}

/// What a raw message means. What is used of it is taken out: a whole one is large to move.
pub(super) fn message<'a>(raw: &mut RawMessage<'a>) -> Result<Message<'a>, Rejection> {
    let kind = match &raw.r#type {
        Field::Text(kind) => kind.as_ref(),
        found => {
            return Err(Rejection::new(
                MalformedMessage,
                format!("`type` should be a string, found {}", describe(found)),
            ));
        }
    };
    let event = match (kind, &raw.event) {
        ("event", Field::Text(event)) => event.as_ref(),
        ("event", found) => {
            return Err(Rejection::new(
                MalformedMessage,
                format!("`event` should be a string, found {}", describe(found)),
            ));
        }
        _ => "",
    };
    let read: for<'r, 'd> fn(&'r mut RawData<'d>) -> Result<EventKind<'d>, Rejection> = match (kind, event) {
        ("connected", _) => {
            let authenticated = match raw.authenticated {
                Field::Boolean(authenticated) => Some(authenticated),
                _ => None,
            };
            return Ok(Message::Connection(ConnectionMessage::Connected { authenticated }));
        }
        ("subscription_confirmed", _) => {
            let skill = optional_text(take(&mut raw.skill), "skill")?;
            return Ok(Message::Connection(ConnectionMessage::SubscriptionConfirmed { skill }));
        }
        ("pong", _) => return Ok(Message::Connection(ConnectionMessage::Pong)),
        ("metrics_update", _) => return snapshot(take(&mut raw.timestamp), &mut raw.data),
        ("skill_invocation", _) | ("event", "skill.invoked") => invocation,
        ("completion_rate", _) | ("event", "skill.completion_rate") => completion_rate,
        ("anomaly", _) | ("event", "anomaly.detected") => anomaly_event,
        ("active_sessions", _) => active_sessions,
        ("event", "session.created") => session_created,
        ("event", "session.closed") => session_closed,
        _ => return Ok(Message::Unknown),
    };
    let data = data(&mut raw.data)?;
    let id = identifier(take(&mut raw.id), "id")?;
    let timestamp = lenient_text(take(&mut raw.timestamp));
    Ok(Message::Event(Event { id, timestamp, kind: read(data)? }))
}

fn data<'r, 'a>(slot: &'r mut Slot<'a, RawData<'a>>) -> Result<&'r mut RawData<'a>, Rejection> {
    match slot {
        Slot::Record(data) => Ok(data),
        Slot::Other(Field::Missing) => Err(missing("data")),
        Slot::Other(found) => Err(wrong_kind("data", "an object", found)),
    }
}

fn snapshot<'a>(timestamp: Field<'a>, slot: &mut Slot<'a, RawData<'a>>) -> Result<Message<'a>, Rejection> {
    let data = data(slot)?;
    let (skills, listed) = match take(&mut data.top_skills) {
        List::Items { items, length } => (entries(items, length, "skills", skill), length),
        List::Other(Field::Missing) => return Err(missing("top_skills")),
        List::Other(found) => return Err(wrong_kind("top_skills", "a list", &found)),
    };
    let (anomalies, anomalies_listed) = match take(&mut data.anomalies) {
        List::Items { items, length } => (entries(items, length, "anomalies", anomaly), length),
        List::Other(Field::Missing) => (Vec::new(), 0),
        List::Other(found) => return Err(wrong_kind("anomalies", "a list", &found)),
    };
    Ok(Message::Snapshot(Snapshot { timestamp: lenient_text(timestamp), listed, skills, anomalies_listed, anomalies }))
}

fn entries<'a, R, T>(
    items: Vec<Slot<'a, R>>,
    length: usize,
    what: &str,
    read: fn(R) -> Result<T, Rejection>,
) -> Vec<Result<T, Rejection>> {
    let beyond = length - items.len();
    let mut entries: Vec<_> = items
        .into_iter()
        .map(|item| match item {
            Slot::Record(raw) => read(raw),
            Slot::Other(found) => Err(wrong_kind(what, "a list of objects", &found)),
        })
        .collect();
    if beyond > 0 {
        entries.push(Err(Rejection::new(
            TooManyEntries,
            format!("{beyond} {what} beyond the limit of {} a snapshot", length - beyond),
        )));
    }
    entries
}

fn skill(raw: RawSkill<'_>) -> Result<SkillEntry<'_>, Rejection> {
    Ok(SkillEntry {
        skill_name: required_text(raw.skill_name, "skill_name")?,
        total_invocations: number(&raw.total_invocations),
        completion_rate_percent: number(&raw.completion_rate),
        average_duration_seconds: number(&raw.avg_duration_seconds),
    })
}

fn anomaly(raw: RawAnomaly<'_>) -> Result<AnomalyEntry<'_>, Rejection> {
    Ok(AnomalyEntry {
        skill_name: required_text(raw.skill_name, "skill_name")?,
        anomaly_type: required_text(raw.anomaly_type, "anomaly_type")?,
        detected_at: optional_text(raw.detected_at, "detected_at")?,
        deviation_score: optional_number(&raw.deviation_score, "deviation_score")?,
    })
}

fn invocation<'a>(data: &mut RawData<'a>) -> Result<EventKind<'a>, Rejection> {
    let completed = match take(&mut data.completed) {
        Field::Boolean(completed) => completed,
        Field::Missing => return Err(missing("completed")),
        found => return Err(wrong_kind("completed", "true or false", &found)),
    };
    let duration_seconds = optional_number(&data.duration_seconds, "duration_seconds")?;
    if let Some(seconds) = duration_seconds
        && seconds < 0.0
    {
        return Err(out_of_range("duration_seconds", "0 or more", seconds));
    }
    Ok(EventKind::Invocation {
        skill_name: required_text(take(&mut data.anomaly.skill_name), "skill_name")?,
        workflow_phase: optional_text(take(&mut data.workflow_phase), "workflow_phase")?,
        completed,
        duration_seconds,
        session_id: identifier(take(&mut data.session_id), "session_id")?,
    })
}

fn completion_rate<'a>(data: &mut RawData<'a>) -> Result<EventKind<'a>, Rejection> {
    let skill_name = required_text(take(&mut data.anomaly.skill_name), "skill_name")?;
    let rate = required_number(&data.rate, "rate")?;
    if !(0.0..=1.0).contains(&rate) {
        return Err(out_of_range("rate", "0 to 1", rate));
    }
    Ok(EventKind::CompletionRate { skill_name, rate })
}

fn active_sessions<'a>(data: &mut RawData<'a>) -> Result<EventKind<'a>, Rejection> {
    let count = required_number(&data.count, "count")?;
    if !(0.0..=COUNT_MAX).contains(&count) || count.fract() != 0.0 {
        return Err(out_of_range("count", "a whole number from 0 to 2^53", count));
    }
    Ok(EventKind::ActiveSessions { count: count as u64 })
}

fn anomaly_event<'a>(data: &mut RawData<'a>) -> Result<EventKind<'a>, Rejection> {
    anomaly(take(&mut data.anomaly)).map(EventKind::Anomaly)
}

fn session_created<'a>(data: &mut RawData<'a>) -> Result<EventKind<'a>, Rejection> {
    session(take(&mut data.session_id)).map(|session_id| EventKind::SessionCreated { session_id })
}

fn session_closed<'a>(data: &mut RawData<'a>) -> Result<EventKind<'a>, Rejection> {
    session(take(&mut data.session_id)).map(|session_id| EventKind::SessionClosed { session_id })
}

fn session(field: Field<'_>) -> Result<Cow<'_, str>, Rejection> {
    identifier(field, "session_id")?.ok_or_else(|| missing("session_id"))
}

#[inline]
fn number(field: &Field<'_>) -> Number {
    match field {
        Field::Missing => Number::Missing,
        Field::Number(value) if value.is_finite() => Number::Finite(*value),
        _ => Number::Invalid,
    }
}

#[inline]
fn optional_number(field: &Field<'_>, name: &str) -> Result<Option<f64>, Rejection> {
    match number(field) {
        Number::Missing => Ok(None),
        Number::Finite(value) => Ok(Some(value)),
        Number::Invalid => {
            Err(Rejection::new(InvalidNumber, format!("`{name}` should be a finite number, found {}", describe(field))))
        }
    }
}

fn required_number(field: &Field<'_>, name: &str) -> Result<f64, Rejection> {
    optional_number(field, name)?.ok_or_else(|| missing(name))
}

#[inline]
fn required_text<'a>(field: Field<'a>, name: &str) -> Result<Cow<'a, str>, Rejection> {
    optional_text(field, name)?.ok_or_else(|| missing(name))
}

/// A string that is not empty; an empty one is as good as none.
#[inline]
fn optional_text<'a>(field: Field<'a>, name: &str) -> Result<Option<Cow<'a, str>>, Rejection> {
    match field {
        Field::Missing => Ok(None),
        Field::Text(text) => Ok(Some(text).filter(|text| !text.is_empty())),
        found => Err(wrong_kind(name, "a string", &found)),
    }
}

/// An identifier: a string, or a number for those who number things.
#[inline]
fn identifier<'a>(field: Field<'a>, name: &str) -> Result<Option<Cow<'a, str>>, Rejection> {
    match field {
        Field::Number(value) => Ok(Some(Cow::Owned(value.to_string()))),
        other => optional_text(other, name),
    }
}

/// A string that no count depends on: anything else is as good as none.
#[inline]
fn lenient_text(field: Field<'_>) -> Option<Cow<'_, str>> {
    match field {
        Field::Text(text) => Some(text).filter(|text| !text.is_empty()),
        _ => None,
    }
}

fn missing(name: &str) -> Rejection {
    Rejection::new(MissingField, format!("`{name}` is missing, null or empty"))
}

fn wrong_kind(name: &str, expected: &str, found: &Field<'_>) -> Rejection {
    Rejection::new(InvalidField, format!("`{name}` should be {expected}, found {}", describe(found)))
}

fn out_of_range(name: &str, range: &str, value: f64) -> Rejection {
    Rejection::new(NumberOutOfRange, format!("`{name}` should be {range}, found {value}"))
}

fn describe(field: &Field<'_>) -> String {
    match field {
        Field::Missing => "nothing".to_owned(),
        Field::Text(text) => format!("the string {:?}", quote(text)),
        Field::Number(value) => format!("the number {value}"),
        Field::Boolean(value) => value.to_string(),
        Field::Compound => "a list, an object, NaN or an infinity".to_owned(),
    }
}

/// The beginning of a text at fault.
fn quote(text: &str) -> Cow<'_, str> {
    match text.char_indices().nth(QUOTE_CHARS_MAX) {
        None => Cow::Borrowed(text),
        Some((end, _)) => Cow::Owned(format!("{}…", &text[..end])),
    }
}
