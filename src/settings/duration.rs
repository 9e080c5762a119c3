//! Durations on the command line.

use std::time::Duration;

use thiserror::Error;

/// Why a text is not a duration.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum DurationError {
    /// A number without a unit, which could be seconds or milliseconds.
    #[error("has no unit: write for example {0}s or {0}ms")]
    NoUnit(String),
    /// Not a number with a unit.
    #[error("is not a duration: write a number and one of the units ms, s, m, h, d, for example 10s, 500ms or 1.5m")]
    Malformed,
    /// A duration outside its range.
    #[error("is out of range: give {min} to {max}", min = show(*.min), max = show(*.max))]
    OutOfRange {
        /// The shortest that is accepted.
        min: Duration,
        /// The longest that is accepted.
        max: Duration,
    },
}

/// Parses a number with one of the units `ms`, `s`, `m`, `h`, `d`, within `min..=max`.
pub(crate) fn parse(text: &str, min: Duration, max: Duration) -> Result<Duration, DurationError> {
    let unit_at = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(unit_at);
    let value: f64 = number.parse().map_err(|_| DurationError::Malformed)?;
    let unit_seconds = match unit {
        "ms" => 0.001,
        "s" => 1.0,
        "m" => 60.0,
        "h" => 3600.0,
        "d" => 86_400.0,
        "" => return Err(DurationError::NoUnit(number.to_owned())),
        _ => return Err(DurationError::Malformed),
    };
    Duration::try_from_secs_f64(value * unit_seconds)
        .ok()
        .filter(|duration| (min..=max).contains(duration))
        .ok_or(DurationError::OutOfRange { min, max })
}

/// Returns the shortest text that [`parse`] reads as `duration`.
pub(crate) fn show(duration: Duration) -> String {
    match (duration.as_secs(), duration.subsec_millis()) {
        (0, millis) => format!("{millis}ms"),
        (seconds, 0) if seconds > 86_400 && seconds % 86_400 == 0 => format!("{}d", seconds / 86_400),
        (seconds, 0) if seconds % 3600 == 0 => format!("{}h", seconds / 3600),
        (seconds, 0) if seconds % 60 == 0 => format!("{}m", seconds / 60),
        (_, 0) => format!("{}s", duration.as_secs()),
        _ => format!("{}s", duration.as_secs_f64()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    #[test]
    fn every_unit_is_read() {
        for (text, millis) in [("500ms", 500), ("10s", 10_000), ("1.5s", 1_500), ("2m", 120_000), ("1h", 3_600_000)] {
            assert_eq!(parse(text, Duration::ZERO, HOUR), Ok(Duration::from_millis(millis)), "{text}");
        }
    }

    #[test]
    fn invalid_durations_are_distinguished() {
        assert_eq!(parse("10", Duration::ZERO, HOUR), Err(DurationError::NoUnit("10".to_owned())));
        for text in ["", "s", "-1s", "1 s", "1w", "1s2", "1.2.3s", ".", "NaNs", "infs", "1e3s"] {
            assert_eq!(parse(text, Duration::ZERO, HOUR), Err(DurationError::Malformed), "{text}");
        }
        let too_long = "9".repeat(400) + "h";
        for text in ["61m", "99999999999999999999h", too_long.as_str()] {
            assert_eq!(
                parse(text, Duration::ZERO, HOUR),
                Err(DurationError::OutOfRange { min: Duration::ZERO, max: HOUR }),
                "{text}"
            );
        }
    }

    #[test]
    fn a_range_is_shown_as_it_would_be_written() {
        for text in ["500ms", "1.5s", "10s", "2m", "1h", "24h", "7d"] {
            assert_eq!(show(parse(text, Duration::ZERO, 24 * 7 * HOUR).unwrap()), text);
        }
    }
}
