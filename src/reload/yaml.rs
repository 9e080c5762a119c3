//! YAML to a typed file.

use std::borrow::Cow;
use std::error::Error as StdError;

use serde::de::DeserializeOwned;
use serde_saphyr::{Error, MessageFormatter, UserMessageFormatter};

/// Why a text is not a file of the requested type.
#[derive(Debug)]
pub(crate) enum YamlError {
    /// There is nothing in it but white space, comments and document markers.
    Empty,
    /// It is not YAML, or has an unknown field or a value of the wrong kind.
    Malformed(Box<dyn StdError + Send + Sync>),
}

/// Parses `text`. An empty one is refused, because that is what a copy or a full disk leaves; `{}` is a file without fields.
pub(crate) fn parse<T: DeserializeOwned>(text: &str) -> Result<T, YamlError> {
    let has_content = |line: &str| !line.is_empty() && !line.starts_with('#') && line != "---" && line != "...";
    if !text.trim_start_matches('\u{feff}').lines().map(str::trim).any(has_content) {
        return Err(YamlError::Empty);
    }
    let mut options = serde_saphyr::Options::default();
    // What stands around a mistake may be a secret or the hash of a password.
    options.with_snippet = false;
    serde_saphyr::from_str_with_options(text, options)
        .map_err(|error| YamlError::Malformed(MalformedYaml { error: Box::new(error) }.into()))
}

/// What is wrong, and where, in terms of fields and values.
#[derive(Debug, thiserror::Error)]
#[error("{}", error.render_with_formatter(&Messages))]
struct MalformedYaml {
    #[source]
    error: Box<Error>,
}

/// The messages for mistakes that people make. The rest are those of the parser for its users.
struct Messages;

impl MessageFormatter for Messages {
    fn format_message<'a>(&self, error: &'a Error) -> Cow<'a, str> {
        match error {
            Error::Eof { .. } => "the file ends where a value is expected".into(),
            Error::MultipleDocuments { .. } => "there is a second document (---): write one".into(),
            Error::Unexpected { expected: "mapping start", .. } => {
                "fields are expected here, each as `name: value`".into()
            }
            Error::Unexpected { expected: "sequence start", .. } => {
                "a list is expected here, each entry after a `-`".into()
            }
            Error::Unexpected { expected: "string scalar", .. } | Error::NullIntoString { .. } => {
                "a single value is expected here".into()
            }
            Error::SerdeUnknownField { field, expected, .. } => {
                format!("unknown field `{field}`: the fields are {}", expected.join(", ")).into()
            }
            Error::SerdeMissingField { field, .. } => format!("the field `{field}` is missing").into(),
            Error::DuplicateMappingKey { key: Some(key), .. } => {
                format!("the field `{key}` is set twice: leave one out").into()
            }
            Error::RecursiveReferencesRequireWeakTypes { .. } => "a value cannot hold itself".into(),
            error => UserMessageFormatter.format_message(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde::Deserialize;

    use super::*;

    #[derive(Debug, Default, Deserialize)]
    #[serde(deny_unknown_fields, default)]
    struct File {
        users: Vec<String>,
    }

    #[test]
    fn a_text_without_content_is_refused_and_braces_say_nothing() {
        for empty in ["", "\n \n", "# a comment\n", "---\n# a comment\n...\n", "\u{feff}"] {
            assert!(matches!(parse::<File>(empty), Err(YamlError::Empty)), "{empty:?}");
        }
        for nothing in ["{}", "# a comment\n{}\n", "---\n{}\n"] {
            assert_eq!(parse::<File>(nothing).unwrap().users, Vec::<String>::new(), "{nothing:?}");
        }
        for null in ["null", "~"] {
            assert!(parse::<File>(null).is_err(), "{null:?}");
        }
    }

    #[derive(Debug, Default, Deserialize, PartialEq)]
    #[serde(deny_unknown_fields, default)]
    struct Example {
        list: Vec<Entry>,
        fields: BTreeMap<String, String>,
    }

    #[derive(Debug, Deserialize, PartialEq)]
    #[serde(deny_unknown_fields)]
    struct Entry {
        name: String,
    }

    #[test]
    fn a_mistake_is_named_in_words_of_the_file_with_its_place() {
        let message = |text| match parse::<Example>(text) {
            Err(YamlError::Malformed(error)) => error.to_string(),
            other => panic!("{text}: {other:?}"),
        };
        for (text, expected) in [
            ("list: x", "a list is expected here, each entry after a `-` at line 1, column 7"),
            ("list: [x]", "fields are expected here, each as `name: value` at line 1, column 8"),
            ("list:\n - name: [1]", "a single value is expected here at line 2, column 10"),
            ("list:\n - {}", "the field `name` is missing at line 2, column 4"),
            ("lists: []", "unknown field `lists`: the fields are list, fields at line 1, column 1"),
            ("list: []\nlist: []", "the field `list` is set twice: leave one out at line 2, column 1"),
            ("list: []\n---\nlist: []", "there is a second document (---): write one at line 3, column 1"),
            ("list: &a [*a]", "a value cannot hold itself at line 1, column 11"),
            ("x", "fields are expected here, each as `name: value` at line 1, column 1"),
        ] {
            assert_eq!(message(text), expected, "{text}");
        }
        assert!(message("list: [").contains("line 1"));
    }
}
