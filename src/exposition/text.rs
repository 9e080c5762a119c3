//! The body of a scrape.

use std::sync::LazyLock;
use std::time::Instant;

use bytes::Bytes;

use super::collector::ViewProvider;
use super::families::ACTIVE_SESSIONS;
use super::family_kind::FamilyKind;
use super::family_text::FamilyText;
use super::format::Format;
use super::gzip::GzipMember;
use super::own_text::RegistryText;
use super::skill_view::SkillView;
use super::view::View;

/// The content coding of a body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Encoding {
    /// None.
    Identity,
    /// As one gzip member (RFC 1952).
    Gzip,
}

/// A part of a body.
enum Part<'v> {
    Text(Bytes),
    Samples(&'v mut FamilyText, &'v [SkillView]),
}

/// HELP and TYPE of the families, which never change.
struct Heads {
    /// In the order of [`FamilyKind::ALL`].
    of_kinds: [Bytes; FamilyKind::ALL.len()],
    active_sessions: String,
}

impl Heads {
    fn new(format: Format) -> Self {
        let of_kinds = FamilyKind::ALL.map(|kind| kind.head(format).into());
        Self { of_kinds, active_sessions: ACTIVE_SESSIONS.head(format) }
    }

    /// Returns those of `format`, which are written once.
    fn of(format: Format) -> &'static Self {
        static TEXT: LazyLock<Heads> = LazyLock::new(|| Heads::new(Format::Text));
        // Created timestamps have no heads of their own.
        static OPEN_METRICS: LazyLock<Heads> =
            LazyLock::new(|| Heads::new(Format::OpenMetrics { with_created: false }));
        match format {
            Format::Text => &TEXT,
            Format::OpenMetrics { .. } => &OPEN_METRICS,
        }
    }
}

/// Calls `each` with every part of the five families and of the bridge's own metrics of skills, in order. HELP and TYPE are
/// written with or without series, so that queries can be written before there are any.
fn each_part(view: &mut View, active_sessions: u64, format: Format, each: &mut dyn FnMut(FamilyKind, Part<'_>)) {
    let heads = Heads::of(format);
    for kind in FamilyKind::ALL {
        each(kind, Part::Text(heads.of_kinds[kind as usize].clone()));
        let (text, skills) = view.text();
        each(kind, Part::Samples(text.refreshed(kind, skills), skills));
        if kind == FamilyKind::CompletionRates {
            let sessions = format!("{}{} {active_sessions}\n", heads.active_sessions, ACTIVE_SESSIONS.name);
            each(kind, Part::Text(sessions.into()));
        }
    }
}

/// Writes the five families in the text format.
pub fn encode_families(view: &mut View, active_sessions: u64, out: &mut String) {
    let mut push = |text: &[u8]| out.push_str(std::str::from_utf8(text).expect("names, labels and numbers are text"));
    each_part(view, active_sessions, Format::Text, &mut |kind, part| match part {
        _ if kind.is_own() => {}
        Part::Text(text) => push(&text),
        Part::Samples(family, skills) => family.texts(Format::Text, skills).for_each(|text| push(&text)),
    });
}

/// Returns the body of a scrape, in chunks: the families of `provider`, all of one moment, and everything else that
/// `registry` gathers.
///
/// Chunks are shared with later scrapes until something in them changes, so that a scrape costs what changed since the last
/// one; with [`Encoding::Gzip`] unchanged chunks are not compressed again.
pub fn render(provider: &dyn ViewProvider, registry: &RegistryText, format: Format, encoding: Encoding) -> Vec<Bytes> {
    render_if(provider, registry, format, encoding, |_| true).unwrap_or_default()
}

/// Returns the same, or `None` if it is not small: see [`View::is_scrape_small`].
pub fn render_if_small(
    provider: &dyn ViewProvider,
    registry: &RegistryText,
    format: Format,
    encoding: Encoding,
) -> Option<Vec<Bytes>> {
    render_if(provider, registry, format, encoding, View::is_scrape_small)
}

fn render_if(
    provider: &dyn ViewProvider,
    registry: &RegistryText,
    format: Format,
    encoding: Encoding,
    condition: impl Fn(&View) -> bool,
) -> Option<Vec<Bytes>> {
    // Before the view is locked: collectors lock it too, and a scrape should hold it no longer than it needs.
    let mut others = registry.beside_skills(format);
    others.extend_from_slice(format.end().as_bytes());
    let mut chunks = None;
    provider.read(&mut |view, active_sessions| {
        if !condition(view) {
            return;
        }
        let others = std::mem::take(&mut others);
        view.begin_scrape(Instant::now());
        chunks = Some(match encoding {
            Encoding::Identity => identity(view, active_sessions, format, others),
            Encoding::Gzip => gzip(view, active_sessions, format, &others),
        });
    });
    chunks
}

fn identity(view: &mut View, active_sessions: u64, format: Format, others: Vec<u8>) -> Vec<Bytes> {
    let mut chunks = Vec::new();
    each_part(view, active_sessions, format, &mut |_, part| match part {
        Part::Text(text) => chunks.push(text),
        Part::Samples(family, skills) => chunks.extend(family.texts(format, skills)),
    });
    chunks.push(others.into());
    chunks
}

fn gzip(view: &mut View, active_sessions: u64, format: Format, others: &[u8]) -> Vec<Bytes> {
    let mut encoder = view.text().0.take_encoder();
    let mut member = GzipMember::new();
    each_part(view, active_sessions, format, &mut |_, part| match part {
        Part::Text(text) => member.push(&encoder.compress(&text)),
        Part::Samples(family, skills) => {
            family.each_compressed(format, skills, &mut encoder, |compressed| member.push(compressed))
        }
    });
    member.push(&encoder.compress(others));
    view.text().0.return_encoder(encoder);
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
