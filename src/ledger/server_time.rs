//! The times that servers write.

use jiff::{Timestamp, civil::DateTime, tz::TimeZone};

use super::evidence::mix;

/// Bytes of a date.
const DATE_BYTES: usize = "2026-11-22".len();

/// Microseconds since the Unix epoch of an ISO 8601 time, with a space or a `T`; without an offset it is UTC, as SQLite's
/// `datetime('now')` is. `None` for anything else.
pub fn micros(text: &str) -> Option<i64> {
    // Without one of these there is no offset, and a failed attempt to read one costs more than all the rest.
    let has_offset = text.get(DATE_BYTES..).is_none_or(|time| time.contains(['Z', 'z', '+', '-']));
    if has_offset && let Ok(timestamp) = text.parse::<Timestamp>() {
        return Some(timestamp.as_microsecond());
    }
    let civil: DateTime = text.parse().ok()?;
    TimeZone::UTC.to_timestamp(civil).ok().map(|timestamp| timestamp.as_microsecond())
}

/// A longer timestamp is not looked at.
const TIMESTAMP_BYTES_MAX: usize = 64;

/// The timestamp of a snapshot, as a digest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stamp {
    digest: u64,
    /// Whether it has a fraction of a second. Two servers can share one that has none by chance.
    has_fraction: bool,
}

impl Stamp {
    /// Returns the stamp of `text`, or `None` if it is longer than any timestamp.
    pub(super) fn of(text: &str) -> Option<Self> {
        if text.len() > TIMESTAMP_BYTES_MAX {
            return None;
        }
        let fraction = text.get("2026-11-22T10:24:23".len()..).and_then(|rest| rest.strip_prefix('.'));
        let has_fraction = fraction.is_some_and(|digits| digits.starts_with(|c: char| c.is_ascii_digit()));
        let word = |bytes: &[u8]| bytes.iter().fold(0, |word, byte| word << 8 | u64::from(*byte));
        let digest = text.as_bytes().chunks(8).fold(0, |digest, bytes| mix(digest ^ word(bytes)));
        Some(Self { digest, has_fraction })
    }

    /// Returns whether feeds that share it, and the next one, are of one server.
    pub(super) fn is_evidence(self) -> bool {
        self.has_fraction
    }
}

#[cfg(test)]
mod tests {
    use super::micros;

    #[test]
    fn every_form_that_servers_write_is_read() {
        let expected = Some(1_795_343_063_000_000);
        for text in
            ["2026-11-22T10:24:23+00:00", "2026-11-22 10:24:23", "2026-11-22T10:24:23Z", "2026-11-22T11:24:23+01:00"]
        {
            assert_eq!(micros(text), expected, "{text}");
        }
        assert_eq!(micros("2026-11-22T10:24:23.585602+00:00"), Some(1_795_343_063_585_602));
        for text in ["", "yesterday", "2026-13-01 00:00:00"] {
            assert_eq!(micros(text), None, "{text}");
        }
    }
}
