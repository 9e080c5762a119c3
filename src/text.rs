//! Text from outside, made safe to show.

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_characters_are_escaped_and_long_text_is_cut() {
        assert_eq!(one_line("a\nb\u{1b}[31m \"c\"", 100), "a\\nb\\u{1b}[31m \"c\"");
        assert_eq!(one_line("abcd", 4), "abcd");
        assert_eq!(one_line("abcde", 4), "abcd…");
    }
}
