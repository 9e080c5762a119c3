//! Text of peers without secrets.

use std::collections::HashSet;
use std::ops::Range;

use data_encoding::BASE64;
use tokio_tungstenite::tungstenite::http::HeaderMap;

/// Number of consecutive bytes of a secret that are not shown. Fewer would match common words.
const PART_BYTES: usize = 6;

/// How often a text is decoded: JSON in a page, say, or a URL in JSON.
const DEPTH_MAX: usize = 2;

/// What a peer's text must not show: peers tend to quote what they refuse.
///
/// No six consecutive characters of a secret are shown, whether they are written as they are or escaped for a URL, JSON or HTML, so that a
/// quotation that is cut off is redacted as well. If a secret contains an ordinary word, that word is redacted, too.
#[derive(Default)]
pub(super) struct Redaction {
    parts: HashSet<[u8; PART_BYTES]>,
    phrases: Vec<Vec<u8>>,
}

impl Redaction {
    /// Returns what a text must not show of the values of `headers`.
    pub(super) fn of_headers(headers: &HeaderMap) -> Self {
        let mut redaction = Self::default();
        headers.values().filter_map(|value| value.to_str().ok()).for_each(|value| redaction.header_value(value));
        redaction
    }

    /// Adds a secret. One of fewer than six bytes stays visible.
    pub(super) fn secret(&mut self, secret: &str) {
        // Forms write a space as a plus.
        for form in [secret, &secret.replace(' ', "+")] {
            self.parts.extend(form.as_bytes().array_windows().copied());
        }
    }

    /// Adds a text that is redacted as a whole only. One of fewer than six bytes stays visible.
    pub(super) fn phrase(&mut self, phrase: &str) {
        if phrase.len() >= PART_BYTES {
            self.phrases.push(phrase.into());
        }
    }

    /// Adds the value of a header, or one that may be meant for a header: what follows `Bearer`, and the password behind `Basic`.
    pub(super) fn header_value(&mut self, value: &str) {
        let (scheme, rest) = value.split_once(' ').unwrap_or_default();
        if scheme.eq_ignore_ascii_case("basic") {
            let pair = BASE64.decode(rest.trim().as_bytes()).ok().and_then(|pair| String::from_utf8(pair).ok());
            if let Some((_, password)) = pair.as_deref().and_then(|pair| pair.split_once(':')) {
                self.secret(password);
            }
        }
        let is_scheme = ["basic", "bearer"].iter().any(|known| scheme.eq_ignore_ascii_case(known));
        self.secret(if is_scheme { rest } else { value });
    }

    /// Returns `text` with `***` instead of what must not be shown.
    pub(super) fn redact(&self, text: &str) -> String {
        let mut found = Vec::new();
        self.find(&Decoded::new(text), DEPTH_MAX, &mut found);
        let (mut shown, mut end) = (String::new(), 0);
        for range in united(found) {
            shown.push_str(&text[end..range.start]);
            shown.push_str("***");
            end = range.end;
        }
        shown + &text[end..]
    }

    /// Adds the places of what must not be shown, which is decoded up to `depth` times more.
    fn find(&self, decoded: &Decoded, depth: usize, found: &mut Vec<Range<usize>>) {
        let parts = decoded.bytes.array_windows().enumerate().filter(|(_, part)| self.parts.contains(*part));
        found.extend(parts.map(|(at, _)| decoded.place(at..at + PART_BYTES)));
        for phrase in &self.phrases {
            let same = decoded.bytes.windows(phrase.len()).enumerate().filter(|(_, bytes)| bytes == phrase);
            found.extend(same.map(|(at, _)| decoded.place(at..at + phrase.len())));
        }
        for unescape in if depth > 0 { ESCAPES } else { &[] } {
            if let Some(decoded) = decoded.decode(*unescape) {
                self.find(&decoded, depth - 1, found);
            }
        }
    }
}

/// Returns what `ranges` cover, in order. Those that touch are one.
fn united(mut ranges: Vec<Range<usize>>) -> Vec<Range<usize>> {
    ranges.sort_unstable_by_key(|range| range.start);
    ranges.dedup_by(|next, last| {
        let touches = next.start <= last.end;
        if touches {
            last.end = last.end.max(next.end);
        }
        touches
    });
    ranges
}

/// A text that was decoded, and where each of its bytes is written.
struct Decoded {
    bytes: Vec<u8>,
    places: Vec<Range<usize>>,
}

/// What an escape sequence is decoded to, and its length.
type Unescaped = (Vec<u8>, usize);

/// Decodes the escape sequence at the beginning of a slice; `None` if there is none.
type Unescape = fn(&[u8]) -> Option<Unescaped>;

const ESCAPES: &[Unescape] = &[of_url, of_json, of_html];

impl Decoded {
    /// Returns `text` as it is. The place of each byte is that of its character, which is not cut in two.
    fn new(text: &str) -> Self {
        let places = text.char_indices().flat_map(|(at, char)| vec![at..at + char.len_utf8(); char.len_utf8()]);
        Self { bytes: text.into(), places: places.collect() }
    }

    /// Returns where the bytes of `range` are written.
    fn place(&self, range: Range<usize>) -> Range<usize> {
        self.places[range.start].start..self.places[range.end - 1].end
    }

    /// Returns this with each escape sequence decoded; `None` if there is none.
    fn decode(&self, unescape: Unescape) -> Option<Self> {
        let mut decoded = Self { bytes: Vec::new(), places: Vec::new() };
        let (mut at, mut has_any) = (0, false);
        while at < self.bytes.len() {
            let unescaped = unescape(&self.bytes[at..]);
            has_any |= unescaped.is_some();
            let (bytes, length) = unescaped.unwrap_or_else(|| (vec![self.bytes[at]], 1));
            decoded.places.extend(vec![self.place(at..at + length); bytes.len()]);
            decoded.bytes.extend(bytes);
            at += length;
        }
        has_any.then_some(decoded)
    }
}

/// `%2F`.
fn of_url(bytes: &[u8]) -> Option<Unescaped> {
    let digits = bytes.strip_prefix(b"%")?.get(..2)?;
    Some((vec![u8::try_from(number(digits, 16)?).ok()?], 3))
}

/// `\u002f`, `\/` and the like, and `\x2f` and `\u{2f}` of programming languages.
fn of_json(bytes: &[u8]) -> Option<Unescaped> {
    let escaped = bytes.strip_prefix(b"\\")?;
    let (code, length) = match escaped {
        [b'u', b'{', rest @ ..] => {
            let digits = rest.split(|byte| *byte == b'}').next().filter(|digits| digits.len() < rest.len())?;
            (number(digits, 16)?, 4 + digits.len())
        }
        [b'u', rest @ ..] => {
            let unit = number(rest.get(..4)?, 16)?;
            let low = || number(rest[4..].strip_prefix(b"\\u")?.get(..4)?, 16).filter(|low| low & 0xfc00 == 0xdc00);
            match (unit & 0xfc00 == 0xd800).then(low).flatten() {
                Some(low) => (0x1_0000 + ((unit & 0x3ff) << 10) + (low & 0x3ff), 12),
                None => (unit, 6),
            }
        }
        [b'x', rest @ ..] => (number(rest.get(..2)?, 16)?, 4),
        [b'n', ..] => (u32::from(b'\n'), 2),
        [b'r', ..] => (u32::from(b'\r'), 2),
        [b't', ..] => (u32::from(b'\t'), 2),
        [other, ..] => return Some((vec![*other], 2)),
        [] => return None,
    };
    Some((utf8(code)?, length))
}

/// `&#47;`, `&#x2f;` and the names that every encoder knows.
fn of_html(bytes: &[u8]) -> Option<Unescaped> {
    const NAME_BYTES_MAX: usize = 10;
    let rest = bytes.strip_prefix(b"&")?;
    let end = rest.iter().take(NAME_BYTES_MAX).position(|byte| *byte == b';')?;
    let code = match &rest[..end] {
        [b'#', b'x' | b'X', digits @ ..] => number(digits, 16)?,
        [b'#', digits @ ..] => number(digits, 10)?,
        b"amp" => u32::from(b'&'),
        b"lt" => u32::from(b'<'),
        b"gt" => u32::from(b'>'),
        b"quot" => u32::from(b'"'),
        b"apos" => u32::from(b'\''),
        _ => return None,
    };
    Some((utf8(code)?, end + 2))
}

fn number(digits: &[u8], radix: u32) -> Option<u32> {
    let digits = str::from_utf8(digits).ok().filter(|digits| !digits.starts_with('+'))?;
    u32::from_str_radix(digits, radix).ok()
}

fn utf8(code: u32) -> Option<Vec<u8>> {
    Some(char::from_u32(code)?.to_string().into_bytes())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn redacted(secret: &str, text: &str) -> String {
        let mut redaction = Redaction::default();
        redaction.header_value(secret);
        redaction.redact(text)
    }

    fn escape(text: &str, is_escaped: impl Fn(char) -> bool, escape: impl Fn(u32) -> String) -> String {
        text.chars().map(|char| if is_escaped(char) { escape(char.into()) } else { char.to_string() }).collect()
    }

    const ESCAPERS: [fn(&str) -> String; 8] = [
        str::to_owned,
        |text| escape(text, |char| !char.is_ascii_alphanumeric(), |code| format!("%{code:02X}")),
        |text| escape(text, |char| !char.is_ascii_alphanumeric(), |code| format!("\\u{code:04x}")),
        |text| escape(text, |char| !char.is_ascii_alphanumeric(), |code| format!("&#{code};")),
        |text| escape(text, |_| true, |code| format!("&#x{code:X};")),
        |text| escape(text, |_| true, |code| format!("%{code:02x}")),
        |text| {
            let quoted = serde_json::to_string(text).unwrap();
            quoted[1..quoted.len() - 1].replace('/', "\\/")
        },
        |text| {
            let text = text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
            text.replace('"', "&quot;").replace('\'', "&apos;")
        },
    ];

    proptest! {
        #[test]
        fn no_six_characters_of_a_secret_are_shown_however_they_are_escaped(
            secret in r#"[A-Z0-9+/=&%<>'"\\_.~-]{6,40}"#,
            first in 0..ESCAPERS.len(),
            second in 0..ESCAPERS.len(),
            cut in 0.0..1.0,
        ) {
            let escaped = ESCAPERS[second](&ESCAPERS[first](&secret));
            prop_assert_eq!(redacted(&secret, &format!("the token {escaped} is unknown")), "the token *** is unknown");
            let cut_off = &escaped[..(escaped.len() as f64 * cut) as usize];
            let shown = redacted(&secret, cut_off);
            let is_shown = secret.as_bytes().windows(6).any(|part| shown.contains(str::from_utf8(part).unwrap()));
            prop_assert!(!is_shown, "{} is shown as {}", cut_off, shown);
        }

        #[test]
        fn no_text_of_a_peer_makes_it_fail(secret in ".{6,20}", text in r#"([%&\\#xu{};0-9a-f]|.){0,60}"#) {
            redacted(&secret, &text);
            let quoted = format!("{text}{secret}{text}");
            prop_assert!(!redacted(&secret, &quoted).contains(&secret));
        }
    }

    #[test]
    fn the_scheme_of_a_credential_is_no_secret_and_the_password_is() {
        for (value, text, shown) in [
            ("Bearer key-itself", "Bearer key-itself is no Bearer token", "Bearer *** is no Bearer token"),
            ("bearer key-itself", "key-itse", "***"),
            ("Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ==", "Aladdin may not: open sesame", "Aladdin may not: ***"),
            ("Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ==", "open+sesame, QWxhZGRpbjpvcGVuIHNl", "***, ***"),
            ("Basic !", "Basic !", "Basic !"),
            ("two words", "two words, two+words", "***, ***"),
            ("naïve-é", "naïve-é, na%C3%AFve-%c3%a9, na\\u00efve, na&#239;ve-&#xe9;", "***, ***, ***, ***"),
            ("short", "short", "short"),
            ("sample-data", "out of order sample", "out of order ***"),
            ("one😀two", "one\\ud83d\\ude00two \\ud83d one\\ud83d", "*** \\ud83d one\\ud83d"),
        ] {
            assert_eq!(redacted(value, text), shown, "{value}");
        }
    }
}
