//! The query of a URL.

use std::collections::BTreeSet;

use url::{Url, form_urlencoded};

use super::headers::quotable;

/// Ends a URL in a text.
const URL_ENDS: [char; 5] = ['"', '\'', '<', '>', '`'];

/// What the query of a URL holds, of which each part may be a secret; `None` of a URL without a query.
pub(crate) struct QuerySecrets(Option<BTreeSet<String>>);

impl QuerySecrets {
    /// Returns the parts of the query of `url`, encoded and decoded.
    pub(crate) fn of(url: &Url) -> Self {
        let Some(query) = url.query().filter(|query| !query.is_empty()) else { return Self(None) };
        let pairs = query.split('&').flat_map(|pair| [pair, pair.split_once('=').map_or("", |(_, value)| value)]);
        let encoded: Vec<_> = [query].into_iter().chain(pairs).collect();
        // A plus is a space to some, and a plus to others.
        let decoded = encoded.iter().flat_map(|part| [percent_decoded(part), percent_decoded(&part.replace('+', " "))]);
        let parts = encoded.iter().map(|part| (*part).to_owned()).chain(decoded);
        Self(Some(parts.flat_map(|part| quotable(&part).map(str::to_owned).collect::<Vec<_>>()).collect()))
    }

    /// Returns `text` without these parts and without what follows a `?` in it; `***` alone if it quotes one in a form that
    /// cannot be cut out. For a URL without a query, returns `text`.
    pub(crate) fn redact(&self, text: &str) -> String {
        let Some(parts) = &self.0 else { return text.to_owned() };
        let mut longest_first: Vec<_> = parts.iter().collect();
        longest_first.sort_unstable_by_key(|part| std::cmp::Reverse(part.len()));
        let redacted = longest_first.into_iter().fold(text.to_owned(), |text, part| text.replace(part, "***"));
        let redacted = without_queries(&redacted);
        let plain = percent_decoded(&redacted.replace('\\', ""));
        let is_quoted = parts.iter().any(|part| plain.contains(part));
        if is_quoted { "***".to_owned() } else { redacted }
    }
}

/// Returns `text` with `***` instead of the query of each URL in it.
fn without_queries(text: &str) -> String {
    let mut parts = text.split('?');
    let before = parts.next().unwrap_or_default().to_owned();
    parts.fold(before, |text, part| {
        let end = part.find(|c: char| c.is_whitespace() || URL_ENDS.contains(&c)).unwrap_or(part.len());
        let query = if end == 0 { "" } else { "***" };
        text + "?" + query + &part[end..]
    })
}

/// Returns `text` with each percent-encoded byte decoded.
fn percent_decoded(text: &str) -> String {
    // Of a form, these three have a meaning of their own.
    let name = text.replace('+', "%2B").replace('&', "%26").replace('=', "%3D");
    form_urlencoded::parse(name.as_bytes()).next().map_or_else(String::new, |(name, _)| name.into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn redacted(query: &str, text: &str) -> String {
        QuerySecrets::of(&format!("http://h/{query}").parse().unwrap()).redact(text)
    }

    #[test]
    fn each_form_of_a_secret_is_redacted_and_nothing_else() {
        for (query, text, expected) in [
            ("", "why? at /write?a=b", "why? at /write?a=b"),
            ("?token=one%2Ftwo", "no token one/two here", "no token *** here"),
            ("?token=one%2Ftwo", "no token one%2Ftwo here", "no token *** here"),
            ("?token=one%2Ftwo", "no token one%2ftwo here", "***"),
            ("?token=one%2Ftwo", r"no token one\/two here", "***"),
            ("?token=one%2Ftwo", "why? GET /write?token=one%2ft\" is wrong", "why? GET /write?***\" is wrong"),
            ("?token=one+two", "no token one two", "no token ***"),
            ("?token=one+two", "no token one+two", "no token ***"),
            ("?auth=Bearer%20key-itself", "key-itself is unknown", "*** is unknown"),
            ("?a=1", "why? at /write?a=1", "why? at /write?***"),
            ("?the-key-itself", "the-key-itself is unknown", "*** is unknown"),
            ("?a=b&key=123", "/write?a=b&key=123 or key=123", "/write?*** or ***"),
            ("?token=one-two-three", "out of order sample", "out of order sample"),
        ] {
            assert_eq!(redacted(query, text), expected, "{query}");
        }
    }
}
