//! Frame text to raw messages: by the scanner, or by serde where it gives up.

use serde::de::{DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};

use super::interpret::{describe, message, quote};
use super::json::{FieldSeed, SlotSeed, scalars_as, without_python_numbers};
use super::raw::{Field, RawMessage, Slot};
use super::scan::scan;
use super::{Message, Rejection};
use crate::protocol::RejectionReason::{MalformedFrame, MalformedMessage, TooManyEntries};

/// Limits of one frame. Nesting is limited to 127 levels by the JSON parser.
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

/// Parses a text frame, and calls `each` with its messages in order, or with the rejection of each.
///
/// A frame that is not JSON is one rejection and nothing else, even if some of its messages could be parsed. Python's `NaN` and
/// infinities are invalid numbers, not invalid frames.
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

/// A parsed frame. Almost every frame is one message, which needs no list.
enum Frame<'a> {
    One(Result<Message<'a>, Rejection>),
    Many { messages: Vec<Result<Message<'a>, Rejection>>, length: usize },
}

impl<'a> Frame<'a> {
    /// A frame that is valid JSON and not a message.
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

/// Parses a frame by serde only.
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
