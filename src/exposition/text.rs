//! The body of a scrape.

use bytes::Bytes;
use prometheus::Registry;

use super::collector::{Source, gather_others};
use super::families::ACTIVE_SESSIONS;
use super::format::Format;
use super::gzip::{Member, Packer};
use super::lines::Subject;
use super::others::encode_others;
use super::sheet::Sheet;
use super::view::{ShownSkill, View};

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
    Lines(&'v mut Sheet, &'v [ShownSkill]),
}

/// Calls `each` with all that the families and [`super::families::LAST_LISTED`] consist of. HELP and TYPE are there with or
/// without series: a name that exists is a query that can be written.
fn each_part(view: &mut View, active_sessions: u64, format: Format, each: &mut dyn FnMut(Subject, Part<'_>)) {
    for subject in Subject::ALL {
        each(subject, Part::Text(subject.head(format)));
        let (sheet, skills) = view.lines(subject);
        each(subject, Part::Lines(sheet, skills));
        if subject == Subject::CompletionRates {
            let sessions = format!("{}{} {active_sessions}\n", ACTIVE_SESSIONS.head(format), ACTIVE_SESSIONS.name);
            each(subject, Part::Text(sessions));
        }
    }
}

/// Writes the five families in the text format.
pub fn encode_families(view: &mut View, active_sessions: u64, out: &mut String) {
    let mut push = |text: &[u8]| out.push_str(std::str::from_utf8(text).expect("names, labels and numbers are text"));
    each_part(view, active_sessions, Format::Text, &mut |subject, part| match part {
        _ if subject == Subject::LastListed => {}
        Part::Text(text) => push(text.as_bytes()),
        Part::Lines(sheet, skills) => sheet.texts(Format::Text, skills).for_each(|text| push(&text)),
    });
}

/// The whole body of a scrape, in pieces: the families that `source` shows, all of one moment, and everything else of
/// `registry`.
///
/// Pieces are shared with later scrapes as long as nothing in them changes, so that a scrape costs what changed since the
/// last one; with [`Encoding::Gzip`] what did not change is not packed again.
pub fn render(source: &dyn Source, registry: &Registry, format: Format, encoding: Encoding) -> Vec<Bytes> {
    // Before the view is taken, which the collectors take too, and for a shorter time than they need.
    let mut others = String::new();
    encode_others(&gather_others(registry), format, &mut others);
    others.push_str(format.end());
    let mut pieces = Vec::new();
    source.read(&mut |view, active_sessions| {
        let others = std::mem::take(&mut others);
        pieces = match encoding {
            Encoding::Identity => identity(view, active_sessions, format, others),
            Encoding::Gzip => gzip(view, active_sessions, format, &others),
        }
    });
    pieces
}

fn identity(view: &mut View, active_sessions: u64, format: Format, others: String) -> Vec<Bytes> {
    let mut pieces = Vec::new();
    each_part(view, active_sessions, format, &mut |_, part| match part {
        Part::Text(text) => pieces.push(text.into()),
        Part::Lines(sheet, skills) => pieces.extend(sheet.texts(format, skills)),
    });
    pieces.push(others.into());
    pieces
}

fn gzip(view: &mut View, active_sessions: u64, format: Format, others: &str) -> Vec<Bytes> {
    let mut packer = view.take_packer().unwrap_or_else(|| Box::new(Packer::new()));
    let mut member = Member::new();
    each_part(view, active_sessions, format, &mut |_, part| match part {
        Part::Text(text) => member.push(&packer.pack(text.as_bytes())),
        Part::Lines(sheet, skills) => sheet.each_packed(format, skills, &mut packer, |packed| member.push(packed)),
    });
    member.push(&packer.pack(others.as_bytes()));
    view.keep_packer(packer);
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
