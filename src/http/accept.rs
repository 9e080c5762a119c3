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

/// Returns whether gzip, or any coding, is accepted with a weight above 0.
fn gzip(headers: &HeaderMap) -> bool {
    let mut of_all = None;
    for item in items(headers, &header::ACCEPT_ENCODING) {
        if item.name.eq_ignore_ascii_case("gzip") || item.name.eq_ignore_ascii_case("x-gzip") {
            return item.weight > 0.0;
        }
        if item.name == "*" {
            of_all = Some(item.weight > 0.0);
        }
    }
    of_all.unwrap_or(false)
}

/// Returns whether OpenMetrics 1.0 is accepted and not preferred less than the text format. The default is text: browsers and
/// `curl` send `*/*`.
fn openmetrics(headers: &HeaderMap) -> bool {
    let (mut openmetrics, mut text) = (0.0_f32, 0.0_f32);
    for item in items(headers, &header::ACCEPT) {
        let is_of = |version: &str| item.parameter("version").is_none_or(|named| named == version);
        if item.name.eq_ignore_ascii_case("application/openmetrics-text") && is_of("1.0.0") {
            openmetrics = openmetrics.max(item.weight);
        } else if item.name.eq_ignore_ascii_case("text/plain") && is_of("0.0.4") {
            text = text.max(item.weight);
        }
    }
    openmetrics > 0.0 && openmetrics >= text
}

struct Item<'h> {
    name: &'h str,
    parameters: &'h str,
    /// 0 to 1. An invalid weight counts as 0, so that nothing is sent that a client may have meant to refuse.
    weight: f32,
}

impl<'h> Item<'h> {
    fn new(text: &'h str) -> Self {
        let (name, parameters) = text.split_once(';').unwrap_or((text, ""));
        let mut item = Self { name: name.trim(), parameters, weight: 1.0 };
        if let Some(weight) = item.parameter("q") {
            item.weight = weight.parse().ok().filter(|weight| (0.0..=1.0).contains(weight)).unwrap_or(0.0);
        }
        item
    }

    fn parameter(&self, wanted: &str) -> Option<&'h str> {
        let parameters = self.parameters.split(';').filter_map(|parameter| parameter.split_once('='));
        let mut named = parameters.filter(|(name, _)| name.trim().eq_ignore_ascii_case(wanted));
        named.next().map(|(_, value)| value.trim().trim_matches('"'))
    }
}

fn items<'h>(headers: &'h HeaderMap, name: &HeaderName) -> impl Iterator<Item = Item<'h>> {
    let values = headers.get_all(name).iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).map(Item::new)
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
        ] {
            assert_eq!(accepts(header::ACCEPT, value).openmetrics, openmetrics, "{value}");
        }
    }
}
