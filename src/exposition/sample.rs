//! A sample, and how it is written.

use crate::ledger::Exemplar;

/// The value of a sample.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Value {
    Count(u64),
    Number(f64),
}

/// One sample of a family, on a line of its own. Labels without a name are left out.
pub(super) struct Sample<'a> {
    pub name: &'static str,
    pub suffix: &'static str,
    pub labels: [(&'static str, &'a str); 4],
    pub value: Value,
}

/// What OpenMetrics adds to a sample.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct OpenMetricsSuffix<'a> {
    /// An invocation that the sample counts, and the value of the exemplar.
    pub exemplar: Option<(&'a Exemplar, f64)>,
    /// The created timestamp of the series of which this is the last sample, in microseconds since the Unix epoch. `None` if
    /// they are older than the first snapshot.
    pub born_micros: Option<i64>,
}

impl Sample<'_> {
    /// Writes the name and the labels, and the space before the value.
    pub fn write_series(&self, out: &mut Vec<u8>) {
        self.write_series_as(self.name, self.suffix, out);
    }

    /// Writes the exemplar behind the value, without the end of the line.
    pub fn write_exemplar(suffix: OpenMetricsSuffix<'_>, out: &mut Vec<u8>) {
        if let Some((exemplar, value)) = suffix.exemplar {
            out.extend_from_slice(b" # {session_id=\"");
            push_escaped(&exemplar.session_id, |chunk| out.extend_from_slice(chunk.as_bytes()));
            out.extend_from_slice(b"\"} ");
            Value::Number(value).with_text(|text| out.extend_from_slice(text));
            out.push(b' ');
            Value::Number(exemplar.wall_micros as f64 / 1e6).with_text(|text| out.extend_from_slice(text));
        }
    }

    /// Writes the sample `_created` on the next line.
    pub fn write_created(&self, suffix: OpenMetricsSuffix<'_>, out: &mut Vec<u8>) {
        if let Some(micros) = suffix.born_micros {
            let stem = self.name.strip_suffix("_total").unwrap_or(self.name);
            self.write_series_as(stem, "_created", out);
            Value::Number(micros as f64 / 1e6).with_text(|text| out.extend_from_slice(text));
            out.push(b'\n');
        }
    }

    fn write_series_as(&self, name: &str, suffix: &str, out: &mut Vec<u8>) {
        out.extend_from_slice(name.as_bytes());
        out.extend_from_slice(suffix.as_bytes());
        let mut separator = b'{';
        for (name, text) in self.labels.into_iter().filter(|(name, _)| !name.is_empty()) {
            out.push(separator);
            separator = b',';
            out.extend_from_slice(name.as_bytes());
            out.extend_from_slice(b"=\"");
            push_escaped(text, |chunk| out.extend_from_slice(chunk.as_bytes()));
            out.push(b'"');
        }
        out.extend_from_slice(b"} ");
    }
}

impl Value {
    /// Returns the bits of the value, by which two values of one sample are compared.
    pub fn bits(self) -> [u8; 8] {
        match self {
            Self::Count(count) => count.to_ne_bytes(),
            Self::Number(number) => number.to_ne_bytes(),
        }
    }

    /// Returns the value as remote write has it.
    pub fn number(self) -> f64 {
        match self {
            Self::Count(count) => count as f64,
            Self::Number(number) => number,
        }
    }

    /// Calls `read` with the shortest text that is parsed as the same number.
    #[inline]
    pub fn with_text<T>(self, read: impl FnOnce(&[u8]) -> T) -> T {
        /// Up to here every whole number is a double, and its digits are its shortest text.
        const WHOLE_MAX: f64 = 9_007_199_254_740_992.0;
        match self {
            Self::Count(count) => read(itoa::Buffer::new().format(count).as_bytes()),
            Self::Number(number) if number.fract() == 0.0 && number.abs() <= WHOLE_MAX => {
                read(itoa::Buffer::new().format(number as i64).as_bytes())
            }
            Self::Number(number) if number.is_finite() => read(zmij::Buffer::new().format_finite(number).as_bytes()),
            Self::Number(f64::INFINITY) => read(b"+Inf"),
            Self::Number(f64::NEG_INFINITY) => read(b"-Inf"),
            Self::Number(_) => read(b"NaN"),
        }
    }
}

/// Returns whether `text` contains no character that a format escapes. Hardly any contains one.
fn is_plain(text: &str) -> bool {
    text.bytes().fold(true, |is_plain, byte| is_plain & !matches!(byte, b'\\' | b'"' | b'\n'))
}

/// Escapes the value of a label, and calls `push` with one part of it after the other.
pub(super) fn push_escaped(text: &str, mut push: impl FnMut(&str)) {
    if is_plain(text) {
        return push(text);
    }
    for chunk in text.split_inclusive(['\\', '"', '\n']) {
        let (plain, escape) = match chunk.as_bytes().last() {
            Some(b'\\') => (&chunk[..chunk.len() - 1], "\\\\"),
            Some(b'"') => (&chunk[..chunk.len() - 1], "\\\""),
            Some(b'\n') => (&chunk[..chunk.len() - 1], "\\n"),
            _ => (chunk, ""),
        };
        push(plain);
        push(escape);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn label_values_are_escaped() {
        let mut out = String::new();
        push_escaped("a\\b\"c\nd\u{e9}", |chunk| out.push_str(chunk));
        assert_eq!(out, "a\\\\b\\\"c\\nd\u{e9}");
    }

    #[test]
    fn values_are_read_back_as_they_were() {
        for number in [0.0, 1.0, 0.96875, 1e-9, 1.5e300, 5e-324, 9_007_199_254_740_993.0, 1_795_341_600.123_456] {
            let text = Value::Number(number).with_text(|text| String::from_utf8(text.to_vec()).unwrap());
            assert_eq!(text.parse::<f64>().unwrap().to_bits(), number.to_bits(), "{text}");
        }
        let text = |value: Value| value.with_text(|text| String::from_utf8(text.to_vec()).unwrap());
        assert_eq!(text(Value::Number(5.0)), "5");
        assert_eq!(text(Value::Count(u64::MAX)), u64::MAX.to_string());
        assert_eq!(text(Value::Number(f64::INFINITY)), "+Inf");
        assert_eq!(text(Value::Number(f64::NAN)), "NaN");
    }
}
