//! A file that is there once it is whole.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, RenameFlags, renameat_with};
use rustix::io::Errno;

use super::CommandError;

/// A file that is written under another name beside its own, and renamed once it is whole. It is deleted when this is dropped
/// before.
#[derive(Debug)]
pub(super) struct NewFile {
    file: File,
    path: PathBuf,
    partial: PathBuf,
}

impl NewFile {
    /// Begins a file.
    ///
    /// # Errors
    /// There is a file of this name, or none can be created beside it.
    pub fn create(path: &Path) -> Result<Self, CommandError> {
        if fs::symlink_metadata(path).is_ok() {
            return Err(CommandError::FileExists { file: path.to_owned() });
        }
        let failed = |source| CommandError::File { file: path.to_owned(), source };
        let mut name = path.file_name().ok_or_else(|| failed(io::ErrorKind::IsADirectory.into()))?.to_owned();
        // A process that was killed has left its own behind; in containers every process has the same number.
        name.push(format!(".{:08x}.partial", fastrand::u32(..)));
        let partial = path.with_file_name(name);
        let file = File::create_new(&partial).map_err(failed)?;
        Ok(Self { file, path: path.to_owned(), partial })
    }

    /// Returns the file to write to.
    ///
    /// # Errors
    /// Too few descriptors.
    pub fn writer(&self) -> Result<File, CommandError> {
        self.file.try_clone().map_err(|error| self.failed(error))
    }

    /// Gives the file its name.
    ///
    /// # Errors
    /// There is a file of this name by now, or the system refuses.
    pub fn keep(self) -> Result<(), CommandError> {
        match renameat_with(CWD, &self.partial, CWD, &self.path, RenameFlags::NOREPLACE) {
            Err(Errno::EXIST) => Err(CommandError::FileExists { file: self.path.clone() }),
            // A file system that cannot check both at once.
            Err(Errno::INVAL | Errno::NOSYS | Errno::NOTSUP) if fs::symlink_metadata(&self.path).is_err() => {
                fs::rename(&self.partial, &self.path).map_err(|error| self.failed(error))
            }
            renamed => renamed.map_err(|error| self.failed(error.into())),
        }
    }

    fn failed(&self, source: io::Error) -> CommandError {
        CommandError::File { file: self.path.clone(), source }
    }
}

impl Drop for NewFile {
    fn drop(&mut self) {
        // Half a file is of no use to anybody. One that is kept has this name no more.
        let _ = fs::remove_file(&self.partial);
    }
}
