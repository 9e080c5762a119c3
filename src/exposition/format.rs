//! The two exposition formats, where they differ.

use std::io::Write as _;

use super::sample::push_escaped;

/// The format of a scrape. The series are the same in both, `le` included, so that changing the format keeps the history.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Format {
    /// The Prometheus text format, version 0.0.4.
    #[default]
    Text,
    /// OpenMetrics 1.0.0.
    OpenMetrics {
        /// Whether created timestamps are exposed, as `_created`. Prometheus stores these as series of their own.
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

    /// Returns what must follow the last line.
    pub(super) fn end(self) -> &'static str {
        match self {
            Self::Text => "",
            Self::OpenMetrics { .. } => super::OPEN_METRICS_END,
        }
    }

    /// Writes HELP and TYPE of `name`; `kind` is the type as the text format calls it.
    ///
    /// In OpenMetrics the name of a counter lacks the suffix `_total` of its samples. A counter whose samples lack it has the
    /// type `unknown` there, so that the series keeps its name.
    pub(super) fn push_head(self, name: &str, help: &str, kind: &str, out: &mut Vec<u8>) {
        let (name, kind) = match (self, kind, name.strip_suffix("_total")) {
            (Self::Text, ..) => (name, kind),
            (_, "counter", Some(stem)) => (stem, kind),
            (_, "counter" | "untyped", _) => (name, "unknown"),
            _ => (name, kind),
        };
        let mut push = |text: &str| out.extend_from_slice(text.as_bytes());
        push("# HELP ");
        push(name);
        push(" ");
        match self {
            Self::OpenMetrics { .. } => push_escaped(help, &mut push),
            // Quotes stand as they are.
            Self::Text => help.split('"').enumerate().for_each(|(number, part)| {
                push(if number > 0 { "\"" } else { "" });
                push_escaped(part, &mut push);
            }),
        }
        push("\n# TYPE ");
        push(name);
        push(" ");
        push(kind);
        push("\n");
    }

    /// Writes the timestamp of a sample: milliseconds since the Unix epoch in the text format, seconds in OpenMetrics.
    pub(super) fn push_timestamp(self, millis: i64, out: &mut Vec<u8>) {
        let _ = match self {
            Self::Text => write!(out, " {millis}"),
            Self::OpenMetrics { .. } => write!(out, " {}", millis as f64 / 1e3),
        };
    }
}
