//! The times that servers write.

use jiff::{Timestamp, civil::DateTime, tz::TimeZone};

/// Bytes of a date.
const DATE_BYTES: usize = "2026-11-22".len();

/// Microseconds since the Unix epoch of an ISO 8601 time, with a space or a `T`; without an offset it is UTC, as SQLite's
/// `datetime('now')` is. `None` for anything else.
pub(super) fn micros(text: &str) -> Option<i64> {
    // Without one of these there is no offset, and a failed attempt to read one costs more than all the rest.
    let has_offset = text.get(DATE_BYTES..).is_none_or(|time| time.contains(['Z', 'z', '+', '-']));
    if has_offset && let Ok(timestamp) = text.parse::<Timestamp>() {
        return Some(timestamp.as_microsecond());
    }
    let civil: DateTime = text.parse().ok()?;
    TimeZone::UTC.to_timestamp(civil).ok().map(|timestamp| timestamp.as_microsecond())
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
