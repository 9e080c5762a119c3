//! Plain frames to raw records, by a scanner of one pass: several times as fast as serde, which needs state for what plain
//! frames do not contain.
//!
//! Invariant: the scanner either reads exactly what serde reads, or gives up: at an escape, a list or an object where a scalar
//! is expected, an entry beyond a limit, any syntax error. The rejection of a malformed frame thus always comes from serde.

use std::borrow::Cow;

use super::interpret::message;
use super::raw::{Destination, EXACT_MAX, Field, List, RawData, RawMessage, Record, Slot};
use super::{Limits, Message, Rejection};

/// The powers of ten by which a significand of [`DIGITS_MAX`] digits can be divided, all exact as doubles.
const POWERS_OF_TEN: [f64; DIGITS_MAX + 1] =
    [1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11, 1e12, 1e13, 1e14, 1e15, 1e16, 1e17, 1e18, 1e19];

/// Digits that never overflow a `u64`.
const DIGITS_MAX: usize = 19;

/// Items of a list of the server: in a frame of one message memory for so many is taken at once. A frame of many messages could have
/// thousands of lists of one item.
const LIST_ITEMS: usize = 10;

/// Calls `each` with the messages of a frame that is an object or an array of objects. Returns `None`, without a call, if the
/// frame is not plain.
pub(super) fn scan(text: &str, limits: &Limits, each: &mut dyn FnMut(Result<Message<'_>, Rejection>)) -> Option<()> {
    let mut scanner = Scanner { text, at: 0, limits, list_capacity: 0 };
    match scanner.token()? {
        b'{' => {
            scanner.list_capacity = LIST_ITEMS;
            let mut raw = RawMessage::default();
            scanner.record(&mut raw)?;
            scanner.end()?;
            each(message(&mut raw));
        }
        b'[' => {
            let messages = scanner.list(limits.frame_messages_max, |scanner| {
                let mut raw = RawMessage::default();
                scanner.record(&mut raw)?;
                Some(message(&mut raw))
            })?;
            scanner.end()?;
            messages.into_iter().for_each(each);
        }
        _ => return None,
    }
    Some(())
}

struct Scanner<'a, 'l> {
    text: &'a str,
    /// The byte to read next; never beyond the end.
    at: usize,
    limits: &'l Limits,
    /// Items for which each list takes memory at once.
    list_capacity: usize,
}

impl<'a> Scanner<'a, '_> {
    /// Expects nothing but whitespace.
    fn end(&mut self) -> Option<()> {
        self.token().is_none().then_some(())
    }

    /// Reads the objects of an array whose bracket was read.
    fn list<T>(&mut self, items_max: usize, item: fn(&mut Self) -> Option<T>) -> Option<Vec<T>> {
        let mut token = self.token()?;
        if token == b']' {
            return Some(Vec::new());
        }
        let mut items = Vec::with_capacity(self.list_capacity);
        loop {
            if token != b'{' || items.len() == items_max {
                return None;
            }
            items.push(item(self)?);
            match self.token()? {
                b',' => token = self.token()?,
                b']' => return Some(items),
                _ => return None,
            }
        }
    }

    fn records<T: Record<'a>>(&mut self) -> Option<List<'a, T>> {
        let items = self.list(self.limits.snapshot_entries_max, |scanner| {
            let mut record = T::default();
            scanner.record(&mut record)?;
            Some(Slot::Record(record))
        })?;
        Some(List::Items { length: items.len(), items })
    }

    /// Fills `record` from an object whose brace was read.
    fn record<T: Record<'a>>(&mut self, record: &mut T) -> Option<()> {
        let mut token = self.token()?;
        if token == b'}' {
            return Some(());
        }
        loop {
            if token != b'"' {
                return None;
            }
            let key = self.string()?;
            if self.token()? != b':' {
                return None;
            }
            match (record.destination(key), self.token()?) {
                (Destination::Data(slot), b'{') => {
                    // Filled where it stands: it is large to move.
                    *slot = Slot::Record(RawData::default());
                    let Slot::Record(data) = slot else { return None };
                    self.record(data)?;
                }
                (Destination::Skills(list), b'[') => *list = self.records()?,
                (Destination::Anomalies(list), b'[') => *list = self.records()?,
                (Destination::Scalar(field), first) => *field = self.scalar(first)?,
                (Destination::Data(slot), first) => *slot = Slot::Other(self.scalar(first)?),
                (Destination::Skills(list), first) => *list = List::Other(self.scalar(first)?),
                (Destination::Anomalies(list), first) => *list = List::Other(self.scalar(first)?),
                (Destination::Ignored, first) => drop(self.scalar(first)?),
            }
            match self.token()? {
                b',' => token = self.token()?,
                b'}' => return Some(()),
                _ => return None,
            }
        }
    }

    /// Reads the scalar whose `first` byte was read.
    fn scalar(&mut self, first: u8) -> Option<Field<'a>> {
        match first {
            b'"' => Some(Field::Text(Cow::Borrowed(self.string()?))),
            b'-' | b'0'..=b'9' => {
                self.at -= 1;
                self.number()
            }
            b't' => self.rest(b"rue", Field::Boolean(true)),
            b'f' => self.rest(b"alse", Field::Boolean(false)),
            b'n' => self.rest(b"ull", Field::Missing),
            _ => None,
        }
    }

    /// Reads the `word` of a value whose first letter was read.
    fn rest(&mut self, word: &[u8], value: Field<'a>) -> Option<Field<'a>> {
        let found = self.bytes()[self.at..].starts_with(word);
        self.at += word.len();
        found.then_some(value)
    }

    /// Reads the string whose opening quote was read.
    #[inline]
    fn string(&mut self) -> Option<&'a str> {
        let begin = self.at;
        let end = begin + plain_length(self.bytes().get(begin..)?);
        if *self.bytes().get(end)? != b'"' {
            return None;
        }
        self.at = end + 1;
        self.text.get(begin..end)
    }

    fn number(&mut self) -> Option<Field<'a>> {
        let begin = self.at;
        let negative = self.next_if(|byte| byte == b'-');
        let leading_zero = self.peek() == Some(b'0');
        let (whole, whole_digits) = self.digits(0);
        if whole_digits == 0 || leading_zero && whole_digits > 1 {
            return None;
        }
        let (mut significand, mut fraction_digits) = (whole, 0);
        if self.next_if(|byte| byte == b'.') {
            (significand, fraction_digits) = self.digits(whole);
            if fraction_digits == 0 {
                return None;
            }
        }
        let exponent = self.next_if(|byte| matches!(byte, b'e' | b'E'));
        if exponent {
            self.next_if(|byte| matches!(byte, b'+' | b'-'));
            if self.digits(0).1 == 0 {
                return None;
            }
        }
        // One division of two doubles that are exact rounds once, to what the digits mean.
        if !exponent && whole_digits + fraction_digits <= DIGITS_MAX && significand < EXACT_MAX {
            let value = significand as f64 / POWERS_OF_TEN[fraction_digits];
            return Some(Field::Number(if negative { -value } else { value }));
        }
        let text = &self.text[begin..self.at];
        if !exponent && fraction_digits == 0 {
            let whole = match negative {
                true => text.parse().ok().map(|value: i64| Field::whole(value.unsigned_abs(), true)),
                false => text.parse().ok().map(|value| Field::whole(value, false)),
            };
            if whole.is_some() {
                return whole;
            }
        }
        text.parse().ok().filter(|value: &f64| value.is_finite()).map(Field::Number)
    }

    /// Returns `number` extended by the digits that follow, and how many these are. Wraps beyond [`DIGITS_MAX`] digits.
    fn digits(&mut self, mut number: u64) -> (u64, usize) {
        let (bytes, begin) = (self.bytes(), self.at);
        let mut end = begin;
        while let Some(byte @ b'0'..=b'9') = bytes.get(end) {
            number = number.wrapping_mul(10).wrapping_add(u64::from(byte - b'0'));
            end += 1;
        }
        self.at = end;
        (number, end - begin)
    }

    /// Reads the first byte of the next token.
    fn token(&mut self) -> Option<u8> {
        loop {
            let byte = self.peek()?;
            self.at += 1;
            if !matches!(byte, b' ' | b'\t' | b'\n' | b'\r') {
                return Some(byte);
            }
        }
    }

    fn next_if(&mut self, wanted: impl Fn(u8) -> bool) -> bool {
        let found = self.peek().is_some_and(wanted);
        self.at += usize::from(found);
        found
    }

    fn peek(&self) -> Option<u8> {
        self.bytes().get(self.at).copied()
    }

    fn bytes(&self) -> &'a [u8] {
        self.text.as_bytes()
    }
}

/// Returns the number of bytes before the first that a plain string cannot contain: a quote, a backslash, a control character.
pub(super) fn plain_length(bytes: &[u8]) -> usize {
    let mut length = 0;
    while let Some(word) = bytes[length..].first_chunk() {
        let found = not_plain(u64::from_le_bytes(*word));
        if found != 0 {
            return length + found.trailing_zeros() as usize / 8;
        }
        length += word.len();
    }
    let rest = &bytes[length..];
    length + rest.iter().position(|byte| matches!(byte, b'"' | b'\\' | ..0x20)).unwrap_or(rest.len())
}

/// Checks eight bytes at once: the lowest bit set is the top bit of the first byte that is not plain. Higher bits are
/// meaningless, because the subtractions borrow.
fn not_plain(word: u64) -> u64 {
    const EACH: u64 = u64::from_le_bytes([1; 8]);
    const TOPS: u64 = EACH << 7;
    // A quote is a control character's neighbour: with one bit changed, both are below 0x21, and nothing else is.
    let control_or_quote = (word ^ (EACH * 2)).wrapping_sub(EACH * 0x21);
    let backslash = (word ^ (EACH * b'\\' as u64)).wrapping_sub(EACH);
    (control_or_quote | backslash) & !word & TOPS
}
