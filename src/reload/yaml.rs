//! YAML to a typed file.

use std::error::Error as StdError;

use serde::de::DeserializeOwned;

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
    serde_saphyr::from_str_with_options(text, options).map_err(|error| YamlError::Malformed(error.into()))
}

#[cfg(test)]
mod tests {
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
}
