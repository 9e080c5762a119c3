//! Text from outside, made safe to show.

use std::borrow::Cow;

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
    if text.chars().all(is_visible) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len() + 16);
    for character in text.chars() {
        if is_visible(character) { out.push(character) } else { out.extend(character.escape_debug()) }
    }
    Cow::Owned(out)
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
    fn control_characters_are_escaped_and_long_text_is_cut() {
        assert_eq!(one_line("a\nb\u{1b}[31m \"c\"", 100), "a\\nb\\u{1b}[31m \"c\"");
        assert_eq!(one_line("abcd", 4), "abcd");
        assert_eq!(one_line("abcde", 4), "abcd…");
    }
}
