//! Tokens, and where they come from.

use std::fmt;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

/// The longest token that is sent, in bytes. Escaped for JSON it still fits the connection's write buffer.
pub const TOKEN_BYTES_MAX: usize = 8 * 1024;

/// A string that is never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Hides `text`.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The text itself. Whoever calls this answers for where it goes.
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// `text` with every occurrence of the secret blotted out: peers like to quote what they refuse.
    pub(super) fn blot(&self, text: &str) -> String {
        text.replace(&self.0, "***")
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// Where a feed's token comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TokenSource {
    /// A token that stays the same as long as the process runs.
    Static(Secret),
    /// A regular file that is read again at each connect, because tokens expire and are checked at connect only.
    /// White space around the token is ignored.
    File(PathBuf),
}

/// Why there is no token to send.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// Nothing but white space.
    #[error("{origin} is empty: put the token there")]
    Empty {
        /// `the token`, or `the token file` and its path.
        origin: String,
    },
    /// More than [`TOKEN_BYTES_MAX`].
    #[error("{origin} is longer than {TOKEN_BYTES_MAX} bytes: a token is shorter, is this the right one?")]
    TooLong {
        /// As in [`TokenError::Empty`].
        origin: String,
    },
    /// The file cannot be opened or read, is no regular file, or is not UTF-8.
    #[error("cannot read {origin}: {what}")]
    Unreadable {
        /// As in [`TokenError::Empty`].
        origin: String,
        /// What the operating system said.
        what: String,
    },
}

impl TokenSource {
    /// The token as it is now. Reads the file off the async threads.
    pub(super) async fn read(&self) -> Result<Secret, TokenError> {
        match self {
            TokenSource::Static(secret) => checked(secret.expose(), || "the token".to_owned()),
            TokenSource::File(path) => {
                let origin = || format!("the token file {}", path.display());
                let owned = path.clone();
                let text = tokio::task::spawn_blocking(move || read_file(&owned))
                    .await
                    .map_err(|panicked| panicked.to_string())
                    .and_then(|read| read.map_err(|error| error.to_string()))
                    .map_err(|what| TokenError::Unreadable { origin: origin(), what })?;
                checked(&text, origin)
            }
        }
    }
}

fn read_file(path: &Path) -> std::io::Result<String> {
    // Opening a pipe that nobody writes to would never return, and a blocking thread cannot be interrupted.
    if !path.metadata()?.is_file() {
        return Err(std::io::Error::other("not a regular file"));
    }
    let mut text = String::new();
    File::open(path)?.take(2 * TOKEN_BYTES_MAX as u64).read_to_string(&mut text)?;
    Ok(text)
}

fn checked(text: &str, origin: impl FnOnce() -> String) -> Result<Secret, TokenError> {
    match text.trim() {
        "" => Err(TokenError::Empty { origin: origin() }),
        token if token.len() > TOKEN_BYTES_MAX => Err(TokenError::TooLong { origin: origin() }),
        token => Ok(Secret::new(token)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_not_printed() {
        let source = TokenSource::Static(Secret::new("hunter2"));
        assert_eq!(format!("{source:?}"), "Static(***)");
        assert_eq!(Secret::new("hunter2").blot("no hunter2 here"), "no *** here");
    }

    #[tokio::test]
    async fn a_file_is_read_again_and_trimmed() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("token");
        let source = TokenSource::File(path.clone());

        for token in ["first", "second"] {
            std::fs::write(&path, format!("  {token}\n")).unwrap();
            assert_eq!(source.read().await.unwrap().expose(), token);
        }
    }

    #[tokio::test]
    async fn a_file_without_a_token_is_named() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("token");
        let source = TokenSource::File(path.clone());
        let refusal = async || source.read().await.unwrap_err();

        assert!(matches!(refusal().await, TokenError::Unreadable { .. }));
        std::fs::write(&path, " \n").unwrap();
        assert_eq!(
            refusal().await.to_string(),
            format!("the token file {} is empty: put the token there", path.display())
        );
        std::fs::write(&path, "x".repeat(3 * TOKEN_BYTES_MAX)).unwrap();
        assert!(matches!(refusal().await, TokenError::TooLong { .. }));

        let not_a_file = TokenSource::File(directory.path().to_owned());
        assert!(not_a_file.read().await.unwrap_err().to_string().contains("not a regular file"));
    }
}
