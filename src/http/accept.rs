//! Content negotiation: RFC 9110, 12.5.

use warp::http::{HeaderMap, HeaderName, header};

/// The formats that a client accepts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Accepts {
    /// The content coding gzip.
    pub gzip: bool,
    /// OpenMetrics 1.0 rather than the text format 0.0.4.
    pub openmetrics: bool,
}

impl Accepts {
    /// Returns what the headers of a request accept.
    pub(super) fn read(headers: &HeaderMap) -> Self {
        Self { gzip: gzip(headers), openmetrics: openmetrics(headers) }
    }
}

/// Returns whether gzip is accepted and not preferred less than no coding. `*` stands for what is not listed by name.
fn gzip(headers: &HeaderMap) -> bool {
    let (mut gzip, mut identity, mut others) = (None, None, None);
    for item in items(headers, &header::ACCEPT_ENCODING) {
        let of = match item.name.to_ascii_lowercase().as_str() {
            "gzip" | "x-gzip" => &mut gzip,
            "identity" => &mut identity,
            "*" => &mut others,
            _ => continue,
        };
        *of = Some(item.weight).max(*of);
    }
    let of = |coding: Option<Weight>| coding.or(others).unwrap_or(Weight::ZERO);
    of(gzip) > Weight::ZERO && of(gzip) >= of(identity)
}

/// Returns whether OpenMetrics 1.0 is accepted and preferred to the text format. At the same weight it is so if it is requested by
/// name: browsers and `curl` send `*/*`.
fn openmetrics(headers: &HeaderMap) -> bool {
    let (mut openmetrics, mut text) = (Preference::default(), Preference::default());
    for item in items(headers, &header::ACCEPT) {
        openmetrics.consider(&item, "application", "openmetrics-text", "1.0.0");
        text.consider(&item, "text", "plain", "0.0.4");
    }
    openmetrics.weight > text.weight
        || openmetrics.weight == text.weight
            && openmetrics.weight > Weight::ZERO
            && openmetrics.specificity >= Specificity::Subtype
}

/// How much a media type is preferred: by the most specific range that it is in.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
struct Preference {
    specificity: Specificity,
    weight: Weight,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
enum Specificity {
    #[default]
    None,
    /// `*/*`
    All,
    /// `text/*`
    Type,
    /// `text/plain`
    Subtype,
    /// `text/plain;version=0.0.4`
    Version,
}

impl Preference {
    /// Takes a media range into account. Of parameters, the version alone distinguishes our formats.
    fn consider(&mut self, item: &Item<'_>, kind: &str, subtype: &str, version: &str) {
        let Some((item_kind, item_subtype)) = item.name.split_once('/') else { return };
        let is_subtype = item_kind.eq_ignore_ascii_case(kind) && item_subtype.eq_ignore_ascii_case(subtype);
        let specificity = match item.parameter("version") {
            Some(named) if is_subtype && named == version => Specificity::Version,
            Some(_) => return,
            None if is_subtype => Specificity::Subtype,
            None if item_kind.eq_ignore_ascii_case(kind) && item_subtype == "*" => Specificity::Type,
            None if item.name == "*/*" => Specificity::All,
            None => return,
        };
        *self = (*self).max(Self { specificity, weight: item.weight });
    }
}

/// A weight in thousandths: RFC 9110, 12.4.2.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
struct Weight(u16);

impl Weight {
    const ZERO: Self = Self(0);
    const ONE: Self = Self(1000);

    /// Reads `0`, `1`, or either with up to three decimals, at most 1.
    fn read(text: &str) -> Option<Self> {
        let (whole, decimals) = text.split_once('.').unwrap_or((text, ""));
        if decimals.len() > 3 || !decimals.bytes().all(|digit| digit.is_ascii_digit()) {
            return None;
        }
        let thousandths = format!("{decimals:0<3}").parse().ok()?;
        match whole {
            "0" => Some(Self(thousandths)),
            "1" if thousandths == 0 => Some(Self::ONE),
            _ => None,
        }
    }
}

struct Item<'h> {
    name: &'h str,
    parameters: &'h str,
    /// An invalid weight counts as 0, so that nothing is sent that a client may have meant to refuse.
    weight: Weight,
}

impl<'h> Item<'h> {
    fn new(text: &'h str) -> Self {
        let (name, parameters) = text.split_once(';').unwrap_or((text, ""));
        let mut item = Self { name: name.trim(), parameters, weight: Weight::ONE };
        if let Some(weight) = item.parameter("q") {
            item.weight = Weight::read(weight).unwrap_or(Weight::ZERO);
        }
        item
    }

    fn parameter(&self, wanted: &str) -> Option<&'h str> {
        let parameters = split(self.parameters, ';').filter_map(|parameter| parameter.split_once('='));
        let mut named = parameters.filter(|(name, _)| name.trim().eq_ignore_ascii_case(wanted));
        named.next().map(|(_, value)| value.trim().trim_matches('"'))
    }
}

fn items<'h>(headers: &'h HeaderMap, name: &HeaderName) -> impl Iterator<Item = Item<'h>> {
    let values = headers.get_all(name).iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| split(value, ',')).map(Item::new)
}

/// Splits `text` at each `separator` outside quoted strings (RFC 9110, 5.6.4).
fn split(text: &str, separator: char) -> impl Iterator<Item = &str> {
    let (mut is_quoted, mut is_escaped) = (false, false);
    text.split(move |character| {
        if std::mem::take(&mut is_escaped) {
            return false;
        }
        match character {
            '\\' => is_escaped = is_quoted,
            '"' => is_quoted = !is_quoted,
            other => return other == separator && !is_quoted,
        }
        false
    })
}

#[cfg(test)]
mod tests {
    use warp::http::HeaderValue;

    use super::*;

    fn accepts(name: HeaderName, value: &'static str) -> Accepts {
        let mut headers = HeaderMap::new();
        headers.insert(name, HeaderValue::from_static(value));
        Accepts::read(&headers)
    }

    #[test]
    fn gzip_is_for_those_who_accept_it() {
        for (value, gzip) in [
            ("gzip", true),
            ("deflate, GZIP;q=0.5", true),
            ("gzip;q=0", false),
            ("gzip; q=0.000, *", false),
            ("*", true),
            ("*;q=0", false),
            ("identity", false),
            ("", false),
            ("gzip;q=nonsense", false),
            // The coding with the highest weight; gzip where both have it.
            ("gzip;q=0.2, identity;q=0.9", false),
            ("gzip;q=0.9, identity;q=0.2", true),
            ("identity, gzip", true),
            ("identity;q=0, *;q=0.001", true),
            ("gzip;q=0.5, *;q=1", false),
            ("*, identity;q=0.5", true),
            ("x-gzip;q=0, gzip", true),
            ("gzip;Q=0", false),
            // Weights have at most three decimals and no other form.
            ("gzip;q=0.001", true),
            ("gzip;q=1.000", true),
            ("gzip;q=0.", false),
            ("gzip;q=1.", true),
            ("gzip;q=1.001", false),
            ("gzip;q=0.0001", false),
            ("gzip;q=.5", false),
            ("gzip;q=1e0", false),
            ("gzip;q=+1", false),
            ("gzip;q=-0.5", false),
            ("gzip;q=", false),
        ] {
            assert_eq!(accepts(header::ACCEPT_ENCODING, value).gzip, gzip, "{value}");
        }
        assert_eq!(Accepts::read(&HeaderMap::new()), Accepts::default());
    }

    #[test]
    fn openmetrics_is_for_those_who_ask_for_it() {
        for (value, openmetrics) in [
            // Prometheus 2.42 and 3.5.
            (
                "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,text/plain;version=0.0.4;q=0.5,*/*;q=0.1",
                true,
            ),
            (
                "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,application/openmetrics-text;version=0.0.1;q=0.5,text/plain;version=1.0.0;escaping=allow-utf-8;q=0.4,text/plain;version=0.0.4;q=0.3,*/*;q=0.2",
                true,
            ),
            ("text/plain;version=0.0.4;q=0.6,application/openmetrics-text;version=1.0.0;q=0.5", false),
            ("application/openmetrics-text; version=\"1.0.0\"; charset=utf-8", true),
            ("Application/OpenMetrics-Text", true),
            ("application/openmetrics-text;version=0.0.1", false),
            ("application/openmetrics-text;version=1.0.0;q=0", false),
            ("application/openmetrics-text;q=2", false),
            ("text/html,application/xhtml+xml,*/*;q=0.8", false),
            ("*/*", false),
            ("", false),
            // The most specific range counts, wherever it stands.
            (
                "application/openmetrics-text;q=0.9, application/openmetrics-text;version=1.0.0;q=0.1, text/plain;q=0.5",
                false,
            ),
            (
                "application/openmetrics-text;q=0.1, application/openmetrics-text;version=1.0.0;q=0.9, text/plain;q=0.5",
                true,
            ),
            ("text/*, application/openmetrics-text;q=0.5", false),
            ("text/*, text/plain;q=0.1, application/openmetrics-text;q=0.5", true),
            ("*/*, text/plain;q=0", true),
            ("application/*, text/*;q=0.9", true),
            ("application/*, */*", false),
            ("*/*;q=0.1, application/openmetrics-text;q=0.1", true),
            ("application/openmetrics-text;q=0, */*", false),
            // What stands in quotes separates nothing.
            ("application/openmetrics-text;a=\"x,y;q=0\";q=0.5, text/plain;q=0.1", true),
            ("text/plain;a=\"\\\", application/openmetrics-text;\"", false),
            ("application/openmetrics-text;version=1.0.0;q=0.0005", false),
        ] {
            assert_eq!(accepts(header::ACCEPT, value).openmetrics, openmetrics, "{value}");
        }
    }
}
