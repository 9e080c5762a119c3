//! Text from outside, made safe to show.

use std::borrow::Cow;
use std::fmt::Write as _;

/// Returns at most `chars_max` characters of `text` on one line, with control characters escaped and `…` where something was
/// cut off: a server must not be able to forge log lines or to control a terminal. Quotes stay as they are.
pub(crate) fn one_line(text: &str, chars_max: usize) -> String {
    let mut characters = text.chars();
    let mut out = String::new();
    for character in characters.by_ref().take(chars_max) {
        match character {
            '"' | '\'' => out.push(character),
            _ => out.extend(character.escape_debug()),
        }
    }
    if characters.next().is_some() {
        out.push('…');
    }
    out
}

/// Returns `text` as one line that is safe on a terminal: characters that control it, change the direction of the line, or are
/// invisible, are escaped. Quotes and backslashes stay, so that what is escaped already stays as it is.
pub(crate) fn terminal_line(text: &str) -> Cow<'_, str> {
    escape_if(text, |character| !is_visible(character), |character, out| out.extend(character.escape_debug()))
}

/// Returns `text` on one line with every character that controls a terminal, changes the direction of the line, or is invisible
/// as `\u{...}`.
pub(crate) fn visible(text: &str) -> Cow<'_, str> {
    escape_if(text, |character| !is_visible(character), |character, out| out.extend(character.escape_unicode()))
}

/// Returns a JSON document whose strings have no such character: they are escaped as JSON escapes them.
pub(crate) fn json_visible(document: &str) -> Cow<'_, str> {
    escape_if(
        document,
        |character| character != '\n' && !is_visible(character),
        |character, out| {
            for unit in character.encode_utf16(&mut [0; 2]) {
                let _ = write!(out, "\\u{unit:04x}");
            }
        },
    )
}

fn escape_if(text: &str, is_escaped: impl Fn(char) -> bool, escape: impl Fn(char, &mut String)) -> Cow<'_, str> {
    if !text.contains(&is_escaped) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len() + 16);
    for character in text.chars() {
        if is_escaped(character) { escape(character, &mut out) } else { out.push(character) }
    }
    Cow::Owned(out)
}

/// Returns how many columns of a terminal a line takes, of characters that are visible: combining marks take none, those of East
/// Asian scripts and pictures two.
pub(crate) fn columns_of(line: &str) -> usize {
    line.chars().map(columns).sum()
}

fn columns(character: char) -> usize {
    match character {
        ' '..='~' => 1,
        '\u{300}'..='\u{36f}' | '\u{200d}' | '\u{fe00}'..='\u{fe0f}' => 0,
        '\u{1100}'..='\u{115f}'
        | '\u{2e80}'..='\u{a4cf}'
        | '\u{ac00}'..='\u{d7a3}'
        | '\u{f900}'..='\u{faff}'
        | '\u{fe30}'..='\u{fe6f}'
        | '\u{ff00}'..='\u{ff60}'
        | '\u{ffe0}'..='\u{ffe6}'
        | '\u{1f300}'..='\u{1faff}'
        | '\u{20000}'..='\u{3fffd}' => 2,
        _ => 1,
    }
}

fn is_visible(character: char) -> bool {
    if matches!(character, ' '..='~') {
        return true;
    }
    // Behind a letter, where a combining character is visible.
    let mut buffer = [b'a'; 5];
    let bytes = 1 + character.encode_utf8(&mut buffer[1..]).len();
    let text = str::from_utf8(&buffer[..bytes]).expect("two characters are text");
    text.escape_debug().nth(1) == Some(character)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_a_terminal_is_neither_controlled_nor_turned_around() {
        for text in ["say \"x\" \\ 'y' \\n", "naïve, nai\u{308}ve, हिन्दी, 日本語, 🦀", ""] {
            assert!(matches!(terminal_line(text), Cow::Borrowed(line) if line == text), "{text}");
        }
        assert_eq!(terminal_line("a\u{202e}b\u{1b}[31m\r\n\t"), "a\\u{202e}b\\u{1b}[31m\\r\\n\\t");
        let turning =
            ('\u{202a}'..='\u{202e}').chain('\u{2066}'..='\u{2069}').chain(['\u{200e}', '\u{200f}', '\u{61c}']);
        let invisible =
            ['\0', '\u{7f}', '\u{9b}', '\u{ad}', '\u{200b}', '\u{2028}', '\u{2029}', '\u{feff}', '\u{e0041}'];
        for character in turning.chain(invisible) {
            assert!(terminal_line(&character.to_string()).starts_with('\\'), "{character:?}");
        }
    }

    #[test]
    fn invisible_characters_are_written_by_their_numbers() {
        assert_eq!(visible("a\u{202e}b\u{1b}\n\\ 🦀"), "a\\u{202e}b\\u{1b}\\u{a}\\ 🦀");
        let document = "{\n  \"a\u{202e}\u{e0041}\": 1\n}";
        assert_eq!(json_visible(document), "{\n  \"a\\u202e\\udb40\\udc41\": 1\n}");
        let (read, expected) = (serde_json::from_str::<serde_json::Value>(&json_visible(document)).unwrap(), document);
        assert_eq!(read, serde_json::from_str::<serde_json::Value>(expected).unwrap());
    }

    #[test]
    fn characters_take_the_columns_that_terminals_give_them() {
        for (text, columns) in [("abc", 3), ("naïve", 5), ("nai\u{308}ve", 5), ("日本", 4), ("🦀", 2), ("", 0)] {
            assert_eq!(columns_of(text), columns, "{text}");
        }
    }

    #[test]
    fn control_characters_are_escaped_and_long_text_is_cut() {
        assert_eq!(one_line("a\nb\u{1b}[31m \"c\"", 100), "a\\nb\\u{1b}[31m \"c\"");
        assert_eq!(one_line("abcd", 4), "abcd");
        assert_eq!(one_line("abcde", 4), "abcd…");
    }
}
