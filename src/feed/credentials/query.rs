//! The query of a URL.

use url::{Url, form_urlencoded};

use super::redaction::Redaction;

/// Ends a URL in a text.
const URL_ENDS: [char; 5] = ['"', '\'', '<', '>', '`'];

/// What the query of a URL holds, of which each part may be a secret; `None` of a URL without a query.
pub(crate) struct QuerySecrets(Option<Redaction>);

impl QuerySecrets {
    /// Returns the query of `url`, encoded and decoded: as a whole, and its names and values.
    pub(crate) fn of(url: &Url) -> Self {
        let Some(query) = url.query().filter(|query| !query.is_empty()) else { return Self(None) };
        let mut redaction = Redaction::default();
        for phrase in [query].into_iter().chain(query.split('&')).flat_map(forms) {
            redaction.phrase(&phrase);
        }
        let values = query.split('&').map(|pair| pair.split_once('=').map_or(pair, |(_, value)| value));
        values.flat_map(forms).for_each(|value| redaction.header_value(&value));
        Self(Some(redaction))
    }

    /// Returns `text` without values of the query, and without what follows a `?` in it. For a URL without a query, returns `text`.
    pub(crate) fn redact(&self, text: &str) -> String {
        match &self.0 {
            Some(redaction) => without_queries(&redaction.redact(text)),
            None => text.to_owned(),
        }
    }
}

/// Returns a part of a query as it is and decoded: a plus is a space to some, and a plus to others.
fn forms(part: &str) -> [String; 3] {
    [part.to_owned(), percent_decoded(part), percent_decoded(&part.replace('+', " "))]
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
            ("?token=one%2Ftwo", "no token one%2ftwo here", "no token *** here"),
            ("?token=one%2Ftwo", r"no token one\/two here", "no token *** here"),
            ("?token=one%2Ftwo", "why? GET /write?token=one%2ft\" is wrong", "why? GET /write?***\" is wrong"),
            ("?token=one+two", "no token one two", "no token ***"),
            ("?token=one+two", "no token one+two", "no token ***"),
            ("?auth=Bearer%20key-itself", "key-itself is unknown", "*** is unknown"),
            ("?a=1", "why? at /write?a=1", "why? at /write?***"),
            ("?the-key-itself", "the-key-itself is unknown", "*** is unknown"),
            ("?a=b&key=123", "/write?a=b&key=123 or key=123", "/write?*** or ***"),
            ("?token=one-two-three", "out of order sample", "out of order sample"),
            ("?tenant=a", "no tenant, or tenant&#61;a", "no tenant, or ***"),
            ("?token=a1b2c3d4", "the token a1b2c3... is unknown", "the token ***... is unknown"),
        ] {
            assert_eq!(redacted(query, text), expected, "{query}");
        }
    }
}
