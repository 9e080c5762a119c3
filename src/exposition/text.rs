//! The text format 0.0.4.

use bytes::Bytes;
use prometheus::proto::MetricFamily;
use prometheus::{Registry, TextEncoder};

use super::collector::{Source, gather_others};
use super::families::ACTIVE_SESSIONS;
use super::gzip::{Member, Packer};
use super::lines::Subject;
use super::sheet::Sheet;
use super::view::View;

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
    Lines(&'v mut Sheet),
}

/// Calls `each` with all that the families and [`super::families::LAST_LISTED`] consist of. HELP and TYPE are there with or
/// without series: a name that exists is a query that can be written.
fn each_part(view: &mut View, active_sessions: u64, each: &mut dyn FnMut(Subject, Part<'_>)) {
    for subject in Subject::ALL {
        each(subject, Part::Text(subject.head()));
        each(subject, Part::Lines(view.lines(subject)));
        if subject == Subject::CompletionRates {
            let sessions = format!("{}{} {active_sessions}\n", ACTIVE_SESSIONS.head(), ACTIVE_SESSIONS.name);
            each(subject, Part::Text(sessions));
        }
    }
}

/// Writes the five families.
pub fn encode_families(view: &mut View, active_sessions: u64, out: &mut String) {
    let mut push = |text: &[u8]| out.push_str(std::str::from_utf8(text).expect("names, labels and numbers are text"));
    each_part(view, active_sessions, &mut |subject, part| match part {
        _ if subject == Subject::LastListed => {}
        Part::Text(text) => push(text.as_bytes()),
        Part::Lines(sheet) => sheet.texts().for_each(|text| push(text)),
    });
}

/// Writes families that `Registry::gather` gave, which are never empty. On an error nothing is written.
///
/// # Errors
/// A family that the crate's own encoder refuses: its message names it.
pub fn encode_others(families: &[MetricFamily], out: &mut String) -> Result<(), prometheus::Error> {
    let before = out.len();
    TextEncoder::new().encode_utf8(families, out).inspect_err(|_| out.truncate(before))
}

/// The whole body of a scrape, in pieces: the families that `source` shows, all of one moment, and everything else of
/// `registry`. Families that the crate's own encoder refuses are left out and logged: what an embedder got wrong must not
/// hide what the bridge has right.
///
/// Pieces are shared with later scrapes as long as nothing in them changes, so that a scrape costs what changed since the
/// last one; with [`Encoding::Gzip`] what did not change is not packed again.
pub fn render(source: &dyn Source, registry: &Registry, encoding: Encoding) -> Vec<Bytes> {
    // Before the view is taken, which the collectors take too, and for a shorter time than they need.
    let mut others = String::new();
    if let Err(error) = encode_others(&gather_others(registry), &mut others) {
        tracing::error!(%error, "registered metrics are left out of this scrape");
    }
    let mut pieces = Vec::new();
    source.read(&mut |view, active_sessions| {
        pieces = match encoding {
            Encoding::Identity => identity(view, active_sessions, &mut others),
            Encoding::Gzip => gzip(view, active_sessions, &others),
        }
    });
    pieces
}

fn identity(view: &mut View, active_sessions: u64, others: &mut String) -> Vec<Bytes> {
    let mut pieces = Vec::new();
    each_part(view, active_sessions, &mut |_, part| match part {
        Part::Text(text) => pieces.push(text.into()),
        Part::Lines(sheet) => pieces.extend(sheet.texts().cloned()),
    });
    pieces.push(std::mem::take(others).into());
    pieces
}

fn gzip(view: &mut View, active_sessions: u64, others: &str) -> Vec<Bytes> {
    let mut packer = view.take_packer().unwrap_or_else(|| Box::new(Packer::new()));
    let mut member = Member::new();
    each_part(view, active_sessions, &mut |_, part| match part {
        Part::Text(text) => member.push(&packer.pack(text.as_bytes())),
        Part::Lines(sheet) => sheet.each_packed(&mut packer, |packed| member.push(packed)),
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
