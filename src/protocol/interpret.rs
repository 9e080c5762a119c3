//! Raw messages to messages: which fields are required, of which kind, and in which range.

use std::borrow::Cow;
use std::mem::take;

use super::raw::{EXACT_MAX, Field, List, RawAnomaly, RawData, RawMessage, RawSkill, Slot};
use super::{
    AnomalyEntry, ConnectionMessage, Event, EventKind, Message, Number, Rejection, RejectionReason, SkillEntry,
    Snapshot,
};
use RejectionReason::{InvalidField, InvalidNumber, MalformedMessage, MissingField, NumberOutOfRange, TooManyEntries};

/// The largest integer up to which every integer is a double: beyond it a count would be a guess.
const COUNT_MAX: f64 = 9_007_199_254_740_992.0;

/// Characters of an invalid value that a rejection quotes.
const QUOTE_CHARS_MAX: usize = 60;

/// Interprets a raw message. Fields are taken out of it, because it is large to move.
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
        Field::LedgerState { magnitude, is_negative } => {
            let value = *magnitude as f64;
            Number::Finite(if *is_negative { -value } else { value })
        }
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

/// A string; `None` if it is empty.
#[inline]
fn optional_text<'a>(field: Field<'a>, name: &str) -> Result<Option<Cow<'a, str>>, Rejection> {
    match field {
        Field::Missing => Ok(None),
        Field::Text(text) => Ok(Some(text).filter(|text| !text.is_empty())),
        found => Err(wrong_kind(name, "a string", &found)),
    }
}

/// An identifier: a string, or a number with all its digits.
#[inline]
fn identifier<'a>(field: Field<'a>, name: &str) -> Result<Option<Cow<'a, str>>, Rejection> {
    match field {
        Field::LedgerState { magnitude, is_negative } => {
            Ok(Some(Cow::Owned(format!("{}{magnitude}", if is_negative { "-" } else { "" }))))
        }
        // Written as a fraction or with more than 64 bits: its digits are lost, and it could be another's.
        Field::Number(value) if value.abs() >= EXACT_MAX as f64 => {
            Err(out_of_range(name, "a string or a whole number of 64 bits", value))
        }
        Field::Number(value) => Ok(Some(Cow::Owned(value.to_string()))),
        other => optional_text(other, name),
    }
}

/// A string that no count depends on; `None` for anything else.
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

pub(super) fn describe(field: &Field<'_>) -> String {
    match field {
        Field::Missing => "nothing".to_owned(),
        Field::Text(text) => format!("the string {:?}", quote(text)),
        Field::Number(value) => format!("the number {value}"),
        Field::LedgerState { magnitude, is_negative } => {
            format!("the number {}{magnitude}", if *is_negative { "-" } else { "" })
        }
        Field::Boolean(value) => value.to_string(),
        Field::Compound => "a list, an object, NaN or an infinity".to_owned(),
    }
}

/// Returns the beginning of an invalid text.
pub(super) fn quote(text: &str) -> Cow<'_, str> {
    match text.char_indices().nth(QUOTE_CHARS_MAX) {
        None => Cow::Borrowed(text),
        Some((end, _)) => Cow::Owned(format!("{}…", &text[..end])),
    }
}
