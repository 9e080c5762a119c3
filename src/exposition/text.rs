//! The body of a scrape.

use bytes::Bytes;
use prometheus::Registry;

use super::collector::{ViewProvider, gather_others};
use super::families::ACTIVE_SESSIONS;
use super::family_kind::FamilyKind;
use super::family_text::FamilyText;
use super::format::Format;
use super::gzip::{GzipEncoder, GzipMember};
use super::others::encode_others;
use super::view::{SkillView, View};

/// How a body is encoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Encoding {
    /// Not at all.
    Identity,
    /// As one gzip member (RFC 1952).
    Gzip,
}

/// What a body is made of, in order.
enum Part<'v> {
    Text(String),
    Lines(&'v mut FamilyText, &'v [SkillView]),
}

/// Calls `each` with all that the families and [`super::families::LAST_LISTED`] consist of. HELP and TYPE are there with or
/// without series: a name that exists is a query that can be written.
fn each_part(view: &mut View, active_sessions: u64, format: Format, each: &mut dyn FnMut(FamilyKind, Part<'_>)) {
    for kind in FamilyKind::ALL {
        each(kind, Part::Text(kind.head(format)));
        let (family, skills) = view.lines(kind);
        each(kind, Part::Lines(family, skills));
        if kind == FamilyKind::CompletionRates {
            let sessions = format!("{}{} {active_sessions}\n", ACTIVE_SESSIONS.head(format), ACTIVE_SESSIONS.name);
            each(kind, Part::Text(sessions));
        }
    }
}

/// Writes the five families in the text format.
pub fn encode_families(view: &mut View, active_sessions: u64, out: &mut String) {
    let mut push = |text: &[u8]| out.push_str(std::str::from_utf8(text).expect("names, labels and numbers are text"));
    each_part(view, active_sessions, Format::Text, &mut |kind, part| match part {
        _ if kind == FamilyKind::LastListed => {}
        Part::Text(text) => push(text.as_bytes()),
        Part::Lines(family, skills) => family.texts(Format::Text, skills).for_each(|text| push(&text)),
    });
}

/// The whole body of a scrape, in chunks: the families that `provider` shows, all of one moment, and everything else of
/// `registry`.
///
/// Pieces are shared with later scrapes as long as nothing in them changes, so that a scrape costs what changed since the
/// last one; with [`Encoding::Gzip`] what did not change is not compressed again.
pub fn render(provider: &dyn ViewProvider, registry: &Registry, format: Format, encoding: Encoding) -> Vec<Bytes> {
    // Before the view is taken, which the collectors take too, and for a shorter time than they need.
    let mut others = String::new();
    encode_others(&gather_others(registry), format, &mut others);
    others.push_str(format.end());
    let mut chunks = Vec::new();
    provider.read(&mut |view, active_sessions| {
        let others = std::mem::take(&mut others);
        chunks = match encoding {
            Encoding::Identity => identity(view, active_sessions, format, others),
            Encoding::Gzip => gzip(view, active_sessions, format, &others),
        }
    });
    chunks
}

fn identity(view: &mut View, active_sessions: u64, format: Format, others: String) -> Vec<Bytes> {
    let mut chunks = Vec::new();
    each_part(view, active_sessions, format, &mut |_, part| match part {
        Part::Text(text) => chunks.push(text.into()),
        Part::Lines(family, skills) => chunks.extend(family.texts(format, skills)),
    });
    chunks.push(others.into());
    chunks
}

fn gzip(view: &mut View, active_sessions: u64, format: Format, others: &str) -> Vec<Bytes> {
    let mut encoder = view.take_encoder().unwrap_or_else(|| Box::new(GzipEncoder::new()));
    let mut member = GzipMember::new();
    each_part(view, active_sessions, format, &mut |_, part| match part {
        Part::Text(text) => member.push(&encoder.compress(text.as_bytes())),
        Part::Lines(family, skills) => {
            family.each_compressed(format, skills, &mut encoder, |compressed| member.push(compressed))
        }
    });
    member.push(&encoder.compress(others.as_bytes()));
    view.return_encoder(encoder);
    member.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_family_has_its_head_before_any_series() {
        let mut out = String::new();
        encode_families(&mut View::default(), 0, &mut out);
        let expected = "\
# HELP skill_invocations_total Total number of skill invocations
# TYPE skill_invocations_total counter
# HELP skill_duration_seconds Skill execution duration in seconds
# TYPE skill_duration_seconds histogram
# HELP skill_completion_rate Current skill completion rate
# TYPE skill_completion_rate gauge
# HELP active_sessions_total Number of currently active sessions
# TYPE active_sessions_total gauge
active_sessions_total 0
# HELP anomalies_detected_total Total number of anomalies detected
# TYPE anomalies_detected_total counter
";
        assert_eq!(out, expected);
    }
}
