//! Paths, as people write them.

use std::path::Path;

use super::SettingsError;

/// Refuses a path that only a shell could resolve: taken literally, it is a folder of this name, which is hardly ever meant and
/// is not missed where a file may be absent.
///
/// # Errors
/// The path starts with `~`.
pub(crate) fn check_path(setting: &'static str, path: &Path) -> Result<(), SettingsError> {
    match path.starts_with("~") {
        true => Err(SettingsError::Tilde { setting, path: path.to_owned() }),
        false => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_leading_component_of_a_tilde_is_refused() {
        let refused = |path: &str| check_path("--state.path", Path::new(path)).err().map(|error| error.to_string());
        assert!(refused("~/state.db").unwrap().contains("--state.path \"~/state.db\" starts with ~"));
        assert!(refused("~").is_some());
        for path in ["./~/state.db", "/~/state.db", "~state.db", "state~", ""] {
            assert_eq!(refused(path), None, "{path}");
        }
    }
}
