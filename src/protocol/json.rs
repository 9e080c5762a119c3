//! Any frame to raw records, by serde: one typed pass, whatever the order of keys.
//!
//! Every known field is read as a [`Field`], which takes any JSON value, so that a field of the wrong kind invalidates
//! its entry and not the frame. Unknown fields are read the same way and dropped: serde's own way of ignoring a value skips
//! lone surrogates and numbers that overflow, and those reject a frame wherever they are.

use std::borrow::Cow;
use std::fmt;
use std::marker::PhantomData;

use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};

use super::Limits;
use super::raw::{Destination, Field, List, Record, Slot};

pub(super) struct FieldSeed;

impl<'de> DeserializeSeed<'de> for FieldSeed {
    type Value = Field<'de>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Field<'de>, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for FieldSeed {
    type Value = Field<'de>;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a JSON value")
    }

    fn visit_unit<E: Error>(self) -> Result<Field<'de>, E> {
        Ok(Field::Missing)
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<Field<'de>, E> {
        Ok(Field::Boolean(value))
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<Field<'de>, E> {
        Ok(Field::whole(value, false))
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<Field<'de>, E> {
        Ok(Field::whole(value.unsigned_abs(), value < 0))
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<Field<'de>, E> {
        Ok(Field::Number(value))
    }

    fn visit_borrowed_str<E: Error>(self, value: &'de str) -> Result<Field<'de>, E> {
        Ok(Field::Text(Cow::Borrowed(value)))
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<Field<'de>, E> {
        Ok(Field::Text(Cow::Owned(value.to_owned())))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Field<'de>, A::Error> {
        while items.next_element_seed(FieldSeed)?.is_some() {}
        Ok(Field::Compound)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Field<'de>, A::Error> {
        while map.next_key_seed(FieldSeed)?.is_some() {
            map.next_value_seed(FieldSeed)?;
        }
        Ok(Field::Compound)
    }
}

/// Forwards the scalars of a visitor to [`FieldSeed`], for the places where something else is expected.
macro_rules! scalars_as {
    ($wrap:path) => {
        fn expecting(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            formatter.write_str("a JSON value")
        }
        fn visit_unit<E: serde::de::Error>(self) -> Result<Self::Value, E> {
            serde::de::Visitor::visit_unit($crate::protocol::json::FieldSeed).map($wrap)
        }
        fn visit_bool<E: serde::de::Error>(self, value: bool) -> Result<Self::Value, E> {
            serde::de::Visitor::visit_bool($crate::protocol::json::FieldSeed, value).map($wrap)
        }
        fn visit_u64<E: serde::de::Error>(self, value: u64) -> Result<Self::Value, E> {
            serde::de::Visitor::visit_u64($crate::protocol::json::FieldSeed, value).map($wrap)
        }
        fn visit_i64<E: serde::de::Error>(self, value: i64) -> Result<Self::Value, E> {
            serde::de::Visitor::visit_i64($crate::protocol::json::FieldSeed, value).map($wrap)
        }
        fn visit_f64<E: serde::de::Error>(self, value: f64) -> Result<Self::Value, E> {
            serde::de::Visitor::visit_f64($crate::protocol::json::FieldSeed, value).map($wrap)
        }
        fn visit_borrowed_str<E: serde::de::Error>(self, value: &'de str) -> Result<Self::Value, E> {
            serde::de::Visitor::visit_borrowed_str($crate::protocol::json::FieldSeed, value).map($wrap)
        }
        fn visit_str<E: serde::de::Error>(self, value: &str) -> Result<Self::Value, E> {
            serde::de::Visitor::visit_str($crate::protocol::json::FieldSeed, value).map($wrap)
        }
    };
}
pub(super) use scalars_as;

pub(super) struct SlotSeed<'l, T>(pub(super) &'l Limits, PhantomData<T>);

impl<'l, T> SlotSeed<'l, T> {
    pub(super) fn new(limits: &'l Limits) -> Self {
        Self(limits, PhantomData)
    }
}

impl<'de, T: Record<'de>> DeserializeSeed<'de> for SlotSeed<'_, T> {
    type Value = Slot<'de, T>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de, T: Record<'de>> Visitor<'de> for SlotSeed<'_, T> {
    type Value = Slot<'de, T>;

    scalars_as!(Slot::Other);

    fn visit_seq<A: SeqAccess<'de>>(self, items: A) -> Result<Self::Value, A::Error> {
        FieldSeed.visit_seq(items).map(Slot::Other)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut record = T::default();
        while let Some(key) = map.next_key_seed(FieldSeed)? {
            let Field::Text(key) = key else { return Err(A::Error::custom("an object key that is not a string")) };
            match record.destination(&key) {
                Destination::Scalar(field) => *field = map.next_value_seed(FieldSeed)?,
                Destination::Data(slot) => *slot = map.next_value_seed(SlotSeed::new(self.0))?,
                Destination::Skills(list) => *list = map.next_value_seed(ListSeed::new(self.0))?,
                Destination::Anomalies(list) => *list = map.next_value_seed(ListSeed::new(self.0))?,
                Destination::Ignored => drop(map.next_value_seed(FieldSeed)?),
            }
        }
        Ok(Slot::Record(record))
    }
}

pub(super) struct ListSeed<'l, T>(&'l Limits, PhantomData<T>);

impl<'l, T> ListSeed<'l, T> {
    pub(super) fn new(limits: &'l Limits) -> Self {
        Self(limits, PhantomData)
    }
}

impl<'de, T: Record<'de>> DeserializeSeed<'de> for ListSeed<'_, T> {
    type Value = List<'de, T>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de, T: Record<'de>> Visitor<'de> for ListSeed<'_, T> {
    type Value = List<'de, T>;

    scalars_as!(List::Other);

    fn visit_seq<A: SeqAccess<'de>>(self, mut sequence: A) -> Result<Self::Value, A::Error> {
        let mut items = Vec::new();
        let mut length = 0;
        loop {
            if length < self.0.snapshot_entries_max {
                let Some(item) = sequence.next_element_seed(SlotSeed::new(self.0))? else { break };
                items.push(item);
            } else if sequence.next_element_seed(FieldSeed)?.is_none() {
                break;
            }
            length += 1;
        }
        Ok(List::Items { items, length })
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Self::Value, A::Error> {
        FieldSeed.visit_map(map).map(List::Other)
    }
}

/// Replaces `NaN`, `Infinity` and `-Infinity` outside strings by an empty object, which is invalid for every field: an empty
/// list would be a snapshot without skills. `None` if there is nothing to replace.
pub(super) fn without_python_numbers(text: &str) -> Option<String> {
    let mut repaired = String::new();
    let mut kept_to = 0;
    let mut in_string = false;
    let bytes = text.as_bytes();
    let mut at = 0;
    while at < bytes.len() {
        match bytes[at] {
            b'"' => in_string = !in_string,
            b'\\' if in_string => at += 1,
            b'N' | b'I' | b'-' if !in_string => {
                let token = ["NaN", "Infinity", "-Infinity"].into_iter().find(|token| text[at..].starts_with(token));
                if let Some(token) = token {
                    repaired.push_str(&text[kept_to..at]);
                    repaired.push_str("{}");
                    at += token.len();
                    kept_to = at;
                    continue;
                }
            }
            _ => {}
        }
        at += 1;
    }
    if kept_to == 0 {
        return None;
    }
    repaired.push_str(&text[kept_to..]);
    Some(repaired)
}

#[cfg(test)]
mod tests {
    use super::without_python_numbers;

    #[test]
    fn python_numbers_are_replaced_outside_strings_only() {
        for (text, repaired) in [
            (r#"{"a":NaN}"#, Some(r#"{"a":{}}"#)),
            (r#"[-Infinity, Infinity]"#, Some("[{}, {}]")),
            (r#"{"NaN":"Infinity"}"#, None),
            (r#"["\"NaN",NaN]"#, Some(r#"["\"NaN",{}]"#)),
            (r#"["\\",NaN]"#, Some(r#"["\\",{}]"#)),
            (r#"["é\"#, None),
            ("-1", None),
        ] {
            assert_eq!(without_python_numbers(text).as_deref(), repaired, "{text}");
        }
    }
}
