//! A recording as a command is given it.

use std::fs;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use super::CommandError;
use crate::recording::RecordingError;

/// What stands for standard input in place of a file.
const STANDARD_INPUT: &str = "-";

/// A file with a recording, or standard input.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RecordingFile {
    /// The file at this path.
    Path(PathBuf),
    /// Standard input, to its end.
    StandardInput,
}

impl From<PathBuf> for RecordingFile {
    fn from(path: PathBuf) -> Self {
        if path == Path::new(STANDARD_INPUT) { Self::StandardInput } else { Self::Path(path) }
    }
}

impl RecordingFile {
    /// Reads all of it. Blocks until standard input ends.
    ///
    /// # Errors
    /// The file or standard input cannot be read.
    pub(super) fn read(&self) -> Result<Vec<u8>, CommandError> {
        let read = match self {
            Self::Path(path) => fs::read(path),
            Self::StandardInput => {
                let mut bytes = Vec::new();
                io::stdin().lock().read_to_end(&mut bytes).map(|_| bytes)
            }
        };
        read.map_err(|source| CommandError::File { file: self.name(), source })
    }

    /// Returns the failure of a recording with this error.
    pub(super) fn error(&self, source: RecordingError) -> CommandError {
        CommandError::Recording { file: self.name(), source }
    }

    /// What it is called in errors.
    fn name(&self) -> PathBuf {
        match self {
            Self::Path(path) => path.clone(),
            Self::StandardInput => "standard input".into(),
        }
    }
}
