//! The two formats, where they differ.

use std::fmt::Write as _;

/// How a scrape is written. The series are the same in both, above all `le`: who changes the format keeps the history.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Format {
    /// The Prometheus text format, version 0.0.4.
    #[default]
    Text,
    /// OpenMetrics 1.0.0.
    OpenMetrics {
        /// Whether series that came into being under watch tell when, as `_created`. Prometheus stores these as series
        /// of their own.
        with_created: bool,
    },
}

impl Format {
    /// The media type, for `Content-Type`.
    pub fn media_type(self) -> &'static str {
        match self {
            Self::Text => "text/plain; version=0.0.4; charset=utf-8",
            Self::OpenMetrics { .. } => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }

    /// What has to be behind the last line.
    pub(super) fn end(self) -> &'static str {
        match self {
            Self::Text => "",
            Self::OpenMetrics { .. } => "# EOF\n",
        }
    }

    /// Writes the lines before the first series of `name`, of the type `kind` in words.
    ///
    /// In OpenMetrics a counter is called without `_total`, which only its samples have. One whose samples lack it cannot
    /// be a counter there; its type is `unknown`, so that the series keeps its name.
    pub(super) fn push_head(self, name: &str, help: &str, kind: &str, out: &mut String) {
        let (name, kind) = match (self, kind, name.strip_suffix("_total")) {
            (Self::Text, ..) => (name, kind),
            (_, "counter", Some(stem)) => (stem, kind),
            (_, "counter" | "untyped", _) => (name, "unknown"),
            _ => (name, kind),
        };
        let _ = write!(out, "# HELP {name} ");
        for character in help.chars() {
            match (character, self) {
                ('\\', _) => out.push_str("\\\\"),
                ('\n', _) => out.push_str("\\n"),
                ('"', Self::OpenMetrics { .. }) => out.push_str("\\\""),
                _ => out.push(character),
            }
        }
        let _ = write!(out, "\n# TYPE {name} {kind}\n");
    }

    /// Writes a time behind a value: milliseconds since the Unix epoch in the one, seconds in the other.
    pub(super) fn push_timestamp(self, millis: i64, out: &mut String) {
        let _ = match self {
            Self::Text => write!(out, " {millis}"),
            Self::OpenMetrics { .. } => write!(out, " {}", millis as f64 / 1e3),
        };
    }
}
