//! The files of a configuration, as they were read.

use std::collections::BTreeMap;
use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use ring::digest::{SHA256, digest};

use crate::regular_file;

/// Longest file of a configuration, in bytes: several times the root certificates of a system.
const BYTES_MAX: usize = 1024 * 1024;

/// Every file that a configuration was read from: how it was stamped before it was read, and a digest of its content. A file
/// that could not be read is one too, since it may come later.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Sources(BTreeMap<PathBuf, Source>);

#[derive(Debug, Clone, PartialEq, Eq)]
struct Source {
    stamp: Option<Stamp>,
    content: Result<[u8; 32], io::ErrorKind>,
}

/// By what a change of a file is noticed. Content that is replaced by content of the same length and age, as Nix, OSTree,
/// `rsync -a` and `cp -p` do, still has another inode or another time of its last change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stamp {
    device: u64,
    inode: u64,
    changed: (i64, i64),
    modified: (i64, i64),
    bytes: u64,
}

impl From<Metadata> for Stamp {
    fn from(found: Metadata) -> Self {
        Self {
            device: found.dev(),
            inode: found.ino(),
            changed: (found.ctime(), found.ctime_nsec()),
            modified: (found.mtime(), found.mtime_nsec()),
            bytes: found.len(),
        }
    }
}

/// Follows symbolic links: a link that is swapped leads to another inode.
fn stamp(path: &Path) -> Option<Stamp> {
    fs::metadata(path).ok().map(Stamp::from)
}

impl Sources {
    /// Reads the file at `path`, and records it.
    pub fn read(&mut self, path: &Path) -> io::Result<Vec<u8>> {
        // Before it is read: what is written meanwhile is a change.
        let stamp = stamp(path);
        let read = regular_file::read(path, BYTES_MAX);
        let content = match &read {
            Ok(content) => Ok(digest(&SHA256, content).as_ref().try_into().expect("SHA-256 has 32 bytes")),
            Err(error) => Err(error.kind()),
        };
        self.0.insert(path.to_owned(), Source { stamp, content });
        read
    }

    /// Reads the file at `path` as UTF-8, and records it.
    pub fn read_to_string(&mut self, path: &Path) -> io::Result<String> {
        String::from_utf8(self.read(path)?).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
    }

    /// Returns whether a file differs from what it was when it was read, by its stamp. Blocks.
    pub fn have_changed(&self) -> bool {
        self.0.iter().any(|(path, source)| stamp(path) != source.stamp)
    }

    /// Returns whether nothing was read.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns whether both are the same files with the same content, whenever they were written.
    pub fn has_same_content(&self, other: &Self) -> bool {
        let mut pairs = self.0.iter().zip(&other.0);
        self.0.len() == other.0.len()
            && pairs.all(|((path, source), (other_path, other_source))| {
                path == other_path && source.content == other_source.content
            })
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use rustix::fs::{CWD, FileType, Mode, mknodat};

    use super::*;

    fn read(path: &Path) -> Sources {
        let mut sources = Sources::default();
        let _ = sources.read(path);
        sources
    }

    /// Replaces the file by another of the same length and the same time of modification.
    fn replace_unnoticeably(path: &Path, content: &str) {
        let modified = fs::metadata(path).unwrap().modified().unwrap();
        let new = path.with_extension("new");
        fs::write(&new, content).unwrap();
        fs::File::options().write(true).open(&new).unwrap().set_modified(modified).unwrap();
        fs::rename(&new, path).unwrap();
    }

    #[test]
    fn a_file_of_equal_length_and_time_of_modification_is_a_change() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        fs::write(&path, "one").unwrap();
        let before = read(&path);
        assert!(!before.have_changed());
        replace_unnoticeably(&path, "two");
        assert!(before.have_changed());
        assert!(!before.has_same_content(&read(&path)));
    }

    #[test]
    fn a_pipe_in_place_of_a_file_is_a_change_that_cannot_be_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        fs::write(&path, "one").unwrap();
        let before = read(&path);
        fs::remove_file(&path).unwrap();
        mknodat(CWD, &path, FileType::Fifo, Mode::RUSR, 0).unwrap();
        assert!(before.have_changed());
        let mut sources = Sources::default();
        assert_eq!(sources.read(&path).unwrap_err().kind(), io::ErrorKind::InvalidInput);
        assert_eq!(sources, read(&path), "two reads agree, so that the reload fails at once");
    }

    #[test]
    fn a_swapped_link_is_a_change_and_so_is_a_file_that_comes_and_goes() {
        let folder = tempfile::tempdir().unwrap();
        let (one, two, link) = (folder.path().join("one"), folder.path().join("two"), folder.path().join("link"));
        let absent = read(&link);
        assert!(!absent.have_changed());
        fs::write(&one, "one").unwrap();
        fs::write(&two, "two").unwrap();
        symlink(&one, &link).unwrap();
        assert!(absent.have_changed());
        let linked = read(&link);
        fs::remove_file(&link).unwrap();
        assert!(linked.have_changed());
        symlink(&two, &link).unwrap();
        assert!(linked.have_changed());
    }

    #[test]
    fn a_file_that_is_only_touched_is_a_change_without_other_content() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        fs::write(&path, "one").unwrap();
        let before = read(&path);
        replace_unnoticeably(&path, "one");
        assert!(before.have_changed());
        assert!(before.has_same_content(&read(&path)));
    }
}
