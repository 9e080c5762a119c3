//! Which files a database consists of, and whether those that are open are still those on disk.
//!
//! In WAL mode a database is three files: the database, its `-wal` and its `-shm`. Someone who replaces any of them, a
//! server that was moved or a backup that was restored, leaves a reader with files that nobody writes any more: it reads
//! them without an error for ever. So the reader compares all three with what is on disk before it believes that nothing
//! has changed.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::{self, Metadata};
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::ops::Deref;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use rusqlite::Connection;

use super::SkillsDatabaseError;

/// A file, whatever path leads to it: equal identities are one file, through symlinks and hard links too. It stays with a
/// file that is renamed, and can be given to another file once nobody has this one open any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FileIdentity {
    device: u64,
    inode: u64,
}

impl FileIdentity {
    /// The identity of the file that `path` leads to.
    ///
    /// # Errors
    /// No such file, or no access to it.
    pub fn of(path: &Path) -> io::Result<Self> {
        fs::metadata(path).map(|metadata| Self::from(&metadata))
    }
}

impl From<&Metadata> for FileIdentity {
    fn from(metadata: &Metadata) -> Self {
        Self { device: metadata.dev(), inode: metadata.ino() }
    }
}

/// The files of a database on disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct DatabaseFiles {
    pub database: FileIdentity,
    /// `None` where there is none, as in the older journal modes.
    write_ahead_log: Option<FileIdentity>,
    shared_memory: Option<FileIdentity>,
}

impl DatabaseFiles {
    /// The files at `path` now, where SQLite looks for them: beside the file that a symlink leads to.
    pub fn at(path: &Path) -> Result<(PathBuf, Self, Option<SystemTime>), SkillsDatabaseError> {
        let access = |error| SkillsDatabaseError::access(path, error);
        let real = fs::canonicalize(path).map_err(access)?;
        let metadata = fs::metadata(&real).map_err(access)?;
        if !metadata.is_file() {
            return Err(SkillsDatabaseError::NotAFile { path: path.to_owned() });
        }
        let companion = |suffix: &str| match FileIdentity::of(&companion(&real, suffix)) {
            Ok(identity) => Ok(Some(identity)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(access(error)),
        };
        let files = Self {
            database: FileIdentity::from(&metadata),
            write_ahead_log: companion("-wal")?,
            shared_memory: companion("-shm")?,
        };
        Ok((real, files, metadata.modified().ok()))
    }

    /// Whether both companions of WAL mode are there.
    pub fn has_companions(&self) -> bool {
        self.write_ahead_log.is_some() && self.shared_memory.is_some()
    }

    /// Whether everything is in the database file: nobody has it open, since whoever opens it creates the log.
    fn is_at_rest(&self) -> bool {
        self.write_ahead_log.is_none()
    }
}

/// How a database in WAL mode is opened that nobody has open. SQLite would create its companions then, even to read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum AtRest {
    /// Not at all, until its server runs.
    Refused,
    /// As a file that nobody changes, without companions. What was read holds only if
    /// [`SkillsDatabase::is_current`](super::SkillsDatabase::is_current) afterwards.
    Immutable,
}

/// How a connection is opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Access {
    /// With the locks of SQLite.
    Shared,
    /// Without locks and companions.
    Immutable,
}

fn companion(path: &Path, suffix: &str) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(suffix);
    name.into()
}

/// The databases that this process has open. SQLite keeps one shared-memory index for each, so that a connection that
/// joins others sees the `-shm` which they have open and not the one on disk.
static OPEN: Mutex<BTreeMap<FileIdentity, Open>> = Mutex::new(BTreeMap::new());

#[derive(Debug)]
struct Open {
    files: DatabaseFiles,
    connections: usize,
}

/// A connection with its place among the open databases. It is closed while nobody opens another: between its end and that
/// of its place, a new file could be given the inode of the deleted one and be taken for it.
#[derive(Debug)]
pub(super) struct OpenDatabase {
    /// `Some` until it is dropped.
    connection: Option<Connection>,
    files: DatabaseFiles,
    access: Access,
}

impl OpenDatabase {
    /// Runs `open` for the database at `path` and remembers its files. `open` receives the path that symlinks lead to, and how
    /// to open it.
    ///
    /// # Errors
    /// Those of `open`; [`SkillsDatabaseError::NotServed`] where it would have to create companions, and
    /// [`SkillsDatabaseError::Replaced`] where another connection of this process has other companions open, or somebody
    /// is just replacing them.
    pub fn open<T>(
        path: &Path,
        at_rest: AtRest,
        open: impl FnOnce(&Path, Access) -> Result<(Connection, T), SkillsDatabaseError>,
    ) -> Result<(Self, T), SkillsDatabaseError> {
        // Held throughout, so that no two feeds open one database at the same moment.
        let mut all = all_open();
        let (real, files, _) = DatabaseFiles::at(path)?;
        let mut access = Access::Shared;
        match all.get(&files.database) {
            Some(others) if others.files != files => {
                return Err(SkillsDatabaseError::Replaced { path: path.to_owned() });
            }
            // Must not be opened here otherwise: closing any file descriptor of it would release SQLite's locks on it.
            Some(_) => {}
            None => {
                let is_in_wal_mode = is_in_wal_mode(&real).map_err(|error| SkillsDatabaseError::access(path, error))?;
                if is_in_wal_mode && at_rest == AtRest::Immutable && files.is_at_rest() {
                    access = Access::Immutable;
                } else if is_in_wal_mode && !files.has_companions() {
                    return Err(SkillsDatabaseError::NotServed { path: path.to_owned() });
                }
            }
        }
        let (connection, opened) = open(&real, access)?;
        // What is there before and after is what was opened in between.
        if DatabaseFiles::at(path)?.1 != files {
            return Err(SkillsDatabaseError::Replaced { path: path.to_owned() });
        }
        all.entry(files.database).or_insert(Open { files, connections: 0 }).connections += 1;
        Ok((Self { connection: Some(connection), files, access }, opened))
    }

    pub fn access(&self) -> Access {
        self.access
    }

    pub fn files(&self) -> DatabaseFiles {
        self.files
    }
}

impl Deref for OpenDatabase {
    type Target = Connection;

    fn deref(&self) -> &Connection {
        self.connection.as_ref().expect("it is not dropped yet")
    }
}

impl Drop for OpenDatabase {
    fn drop(&mut self) {
        let mut all = all_open();
        drop(self.connection.take());
        if let Some(open) = all.get_mut(&self.files.database) {
            open.connections -= 1;
            if open.connections == 0 {
                all.remove(&self.files.database);
            }
        }
    }
}

fn all_open() -> MutexGuard<'static, BTreeMap<FileIdentity, Open>> {
    OPEN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Offset of the byte of a database header that says which version of the format a reader needs; 2 means WAL mode.
/// <https://sqlite.org/fileformat2.html#file_format_version_numbers>
const READ_VERSION_OFFSET: u64 = 19;

/// Whether the database is in WAL mode. A reader would create companions that are missing, even one that only reads, and a
/// server of another user could not write them then: they must be there before.
fn is_in_wal_mode(path: &Path) -> io::Result<bool> {
    let mut file = fs::File::open(path)?;
    file.seek(SeekFrom::Start(READ_VERSION_OFFSET))?;
    let mut version = [0];
    Ok(file.read(&mut version)? == 1 && version == [2])
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn a_file_is_identified_whatever_path_leads_to_it() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        fs::write(at("skills.db"), "").unwrap();
        fs::write(at("other.db"), "").unwrap();
        symlink(at("skills.db"), at("symlink.db")).unwrap();
        fs::hard_link(at("skills.db"), at("hard-link.db")).unwrap();
        let identity = |name: &str| FileIdentity::of(&at(name)).unwrap();
        assert_eq!(identity("symlink.db"), identity("skills.db"));
        assert_eq!(identity("hard-link.db"), identity("skills.db"));
        assert_ne!(identity("other.db"), identity("skills.db"));
        fs::rename(at("other.db"), at("skills.db")).unwrap();
        assert_eq!(identity("symlink.db"), identity("skills.db"), "the symlink leads to the new file");
        assert_ne!(identity("hard-link.db"), identity("skills.db"));
    }
}
