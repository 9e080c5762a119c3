//! Why an invocation failed.

use rusqlite::types::ValueRef;

use super::rows::name;

/// Longest name of a type of errors, in bytes.
const ERROR_TYPE_BYTES_MAX: usize = 64;

/// The type of an error: a name, or what stands for one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ErrorType<'r> {
    /// A name: a letter or `_`, then at most 63 letters, digits and `_.:`.
    Named(&'r str),
    /// Null or empty, or the database has no such column.
    Unknown,
    /// A text that is no name, such as a message, or no text.
    Other,
}

impl<'r> ErrorType<'r> {
    /// Returns the type that `text` names.
    pub fn of(text: &'r str) -> Self {
        let is_letter = |byte: u8| byte.is_ascii_alphabetic() || byte == b'_';
        let is_next = |byte: u8| is_letter(byte) || byte.is_ascii_digit() || b".:".contains(&byte);
        match text.as_bytes() {
            [] => Self::Unknown,
            [first, rest @ ..]
                if text.len() <= ERROR_TYPE_BYTES_MAX
                    && is_letter(*first)
                    && rest.iter().all(|byte| is_next(*byte)) =>
            {
                Self::Named(text)
            }
            _ => Self::Other,
        }
    }

    /// Returns the type that a column holds.
    pub(super) fn of_value(value: ValueRef<'r>) -> Self {
        match value {
            ValueRef::Null | ValueRef::Text([]) => Self::Unknown,
            value => name(value).map_or(Self::Other, Self::of),
        }
    }

    /// Returns the value of the label `error_type`.
    pub fn as_str(self) -> &'r str {
        match self {
            Self::Named(name) => name,
            Self::Unknown => "unknown",
            Self::Other => "other",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_type_of_errors_is_a_name_and_no_message() {
        for named in ["timeout", "_", "ValueError", "http.client:404", &"a".repeat(64)] {
            assert_eq!(ErrorType::of(named), ErrorType::Named(named));
        }
        assert_eq!(ErrorType::of(""), ErrorType::Unknown);
        for other in ["4xx", "a-b", "no such file", "naïve", "a\n", "a\u{202e}", &"a".repeat(65)] {
            assert_eq!(ErrorType::of(other), ErrorType::Other, "{other}");
        }
    }
}
