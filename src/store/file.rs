//! The file of a state: created for its owner alone, locked, and renamed where it has to make room.
//!
//! Two locks keep a second bridge out. The first is of the file itself, so that no other name of it, be it a symbolic or a
//! hard link, leads around the lock, and nobody can remove it. The second is of a lock file beside it, which holds the
//! number of the process, and is all that earlier versions look at. Readers, such as the sqlite3 shell, are not locked out.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs::{self, DirBuilder, File, Metadata, Permissions, TryLockError};
use std::io::{self, ErrorKind, Read, Seek, SeekFrom, Write};
use std::ops::Deref;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use rustix::fs::OFlags;

use super::{StoreError, recognize};

/// What SQLite keeps beside a database.
const COMPANIONS: [&str; 2] = ["-wal", "-shm"];

const DIRECTORY_MODE: u32 = 0o700;
const FILE_MODE: u32 = 0o600;

/// Links are followed this often, as by the kernel.
const LINKS_MAX: usize = 40;

/// A file that is replaced while it is being locked is tried again this often.
const LOCK_ATTEMPTS_MAX: usize = 10;

/// Identifies a file, whatever its names are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct FileId {
    device: u64,
    inode: u64,
}

impl From<&Metadata> for FileId {
    fn from(metadata: &Metadata) -> Self {
        Self { device: metadata.dev(), inode: metadata.ino() }
    }
}

/// Tells whether a file was written to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Content {
    bytes: u64,
    modified: (i64, i64),
}

impl Content {
    fn of(file: &File) -> Option<Self> {
        let metadata = file.metadata().ok()?;
        Some(Self { bytes: metadata.len(), modified: (metadata.mtime(), metadata.mtime_nsec()) })
    }
}

/// Identifies the file at `path`, links followed; `None` where there is none or it cannot be reached.
pub(super) fn identify(path: &Path) -> Option<FileId> {
    fs::metadata(path).ok().map(|metadata| FileId::from(&metadata))
}

/// A state's file, locked for as long as this lives. It has to outlive every SQLite connection to it: closing any handle of
/// a file drops the locks that SQLite holds on it in this process.
#[derive(Debug)]
pub(super) struct StateFile {
    /// As configured.
    path: PathBuf,
    /// The same without symbolic links: SQLite keeps its companions beside this one.
    real: PathBuf,
    id: FileId,
    /// The companions, once a connection is open.
    companions: [Option<FileId>; 2],
    /// When it was last known to hold what SQLite wrote.
    content: Option<Content>,
    /// Dropped before the file is closed: its inode can be another file's by then.
    _claim: Claim,
    database: LockedFile,
    lock_file: Arc<LockFile>,
}

impl StateFile {
    /// Locks the file at `path`, and creates it where there is none.
    ///
    /// # Errors
    /// Another bridge has it; it is no regular file; the file system refuses.
    pub fn lock(path: &Path) -> Result<Self, StoreError> {
        let failed = |error| StoreError::io(path, error);
        let real = resolve(path).map_err(failed)?;
        if let Some(directory) = real.parent() {
            create_directory(directory).map_err(failed)?;
        }
        let lock_file = Arc::new(LockFile::acquire(path, with_suffix(&real, ".lock"))?);
        Self::lock_beside(path, real, lock_file)
    }

    fn lock_beside(path: &Path, real: PathBuf, lock_file: Arc<LockFile>) -> Result<Self, StoreError> {
        let failed = |error| StoreError::io(path, error);
        for _ in 0..LOCK_ATTEMPTS_MAX {
            let in_use = |id| StoreError::in_use(path, Claim::holder(id));
            // Before it is opened: closing it again would drop the locks of this process's other connection.
            if let Some(id) = identify(&real).filter(|id| Claim::is_taken(*id)) {
                return Err(in_use(id));
            }
            let mut options = File::options();
            options.read(true).write(true).create(true).truncate(false).mode(FILE_MODE);
            let database = options.open(&real).map_err(failed)?;
            let metadata = database.metadata().map_err(failed)?;
            if !metadata.is_file() {
                return Err(StoreError::Foreign { path: path.to_owned() });
            }
            let id = FileId::from(&metadata);
            let Some(claim) = Claim::take(id) else { return Err(in_use(id)) };
            if !try_lock(&database).map_err(failed)? {
                return Err(StoreError::in_use(path, None));
            }
            let database = LockedFile(database);
            // Somebody may have renamed it since it was opened.
            if identify(&real) == Some(id) {
                lock_file.write_process_id().map_err(failed)?;
                let path = path.to_owned();
                return Ok(Self {
                    path,
                    real,
                    id,
                    companions: [None; 2],
                    content: None,
                    database,
                    lock_file,
                    _claim: claim,
                });
            }
        }
        Err(failed(io::Error::other("it is replaced again and again")))
    }

    /// Where SQLite has to open it.
    pub fn real(&self) -> &Path {
        &self.real
    }

    /// Makes the companions part of what [`StateFile::is_in_place`] compares. To be called once a connection is open.
    pub fn note_companions(&mut self) {
        self.companions = COMPANIONS.map(|suffix| identify(&with_suffix(&self.real, suffix)));
    }

    /// Makes what the file holds now what [`StateFile::is_unchanged`] compares.
    pub fn note_content(&mut self) {
        self.content = Content::of(&self.database);
    }

    /// Returns whether nobody has written to the file since.
    pub fn is_unchanged(&self) -> bool {
        self.content == Content::of(&self.database)
    }

    /// Returns whether the open files are those that the path leads to.
    pub fn is_in_place(&self) -> bool {
        let is_same = |(suffix, id): (&str, Option<FileId>)| {
            id.is_none_or(|id| identify(&with_suffix(&self.real, suffix)) == Some(id))
        };
        identify(&self.path) == Some(self.id) && COMPANIONS.into_iter().zip(self.companions).all(is_same)
    }

    /// Returns whether this file, which is not a sound state, is one of ours nevertheless. `is_readable`: SQLite can read
    /// its schema.
    pub fn is_ours(&self, is_readable: bool) -> io::Result<bool> {
        recognize::is_ours(&self.database, is_readable)
    }

    /// See [`recognize::has_unknown_format`].
    pub fn has_unknown_format(&self) -> io::Result<bool> {
        recognize::has_unknown_format(&self.database)
    }

    /// Renames a corrupt file and its companions, which no connection may have open, and locks a new one in its place.
    pub fn quarantine(self) -> Result<(Self, PathBuf), StoreError> {
        let aside = move_aside(&self.real, "corrupt").map_err(|error| StoreError::io(&self.path, error))?;
        let successor = Self::lock_beside(&self.path, self.real.clone(), Arc::clone(&self.lock_file))?;
        Ok((successor, aside))
    }

    /// Creates the file that [`StagedFile::publish`] will put in place of this one.
    pub fn stage(&self) -> Result<StagedFile, StoreError> {
        let path = &self.path;
        let failed = |error| StoreError::io(path, error);
        let real = resolve(path).map_err(failed)?;
        if let Some(directory) = real.parent() {
            create_directory(directory).map_err(failed)?;
        }
        let lock_path = with_suffix(&real, ".lock");
        let lock_file = if self.lock_file.is_at(&lock_path) {
            Arc::clone(&self.lock_file)
        } else {
            Arc::new(LockFile::acquire(path, lock_path)?)
        };
        // Before everything is written, perhaps in vain.
        if let Some(id) = identify(&real).filter(|id| *id != self.id) {
            lock_replacement(path, &real, id)?;
        }
        let staged = with_suffix(&real, ".new");
        // What a bridge left there that was killed.
        for suffix in COMPANIONS.into_iter().chain(["", "-journal"]) {
            remove(&with_suffix(&staged, suffix)).map_err(failed)?;
        }
        let file = Self::lock_beside(path, staged.clone(), lock_file)?;
        let displaced = Displaced { id: self.id, companions: self.companions };
        Ok(StagedFile { staged, file: Self { real, ..file }, displaced })
    }
}

/// A state under construction, beside the path where it belongs.
#[derive(Debug)]
pub(super) struct StagedFile {
    /// Where SQLite has to open it.
    pub staged: PathBuf,
    file: StateFile,
    displaced: Displaced,
}

/// The file that a staged one takes the place of.
#[derive(Debug)]
struct Displaced {
    id: FileId,
    companions: [Option<FileId>; 2],
}

impl StagedFile {
    /// Puts the file in its place, which no connection may have open. A state of ours that is there by now is renamed: its
    /// new name is returned.
    ///
    /// # Errors
    /// Another bridge has what is there, or it is no state of ours; the file system refuses.
    pub fn publish(self) -> Result<(StateFile, Option<PathBuf>), StoreError> {
        self.publish_after(|_| Ok(None))
    }

    /// The same, but the displaced file is renamed with its companions if it is still at the path: its new name is returned.
    ///
    /// # Errors
    /// As [`StagedFile::publish`].
    pub fn publish_beside_corrupt(self) -> Result<(StateFile, Option<PathBuf>), StoreError> {
        let id = self.displaced.id;
        self.publish_after(|real| (identify(real) == Some(id)).then(|| move_aside(real, "corrupt")).transpose())
    }

    fn publish_after(
        self,
        make_room: impl FnOnce(&Path) -> io::Result<Option<PathBuf>>,
    ) -> Result<(StateFile, Option<PathBuf>), StoreError> {
        let Self { staged, file, displaced } = self;
        let failed = |error| StoreError::io(&file.path, error);
        let mut renamed = make_room(&file.real).map_err(failed)?;
        let companions = COMPANIONS.map(|suffix| with_suffix(&file.real, suffix));
        // What they hold of the displaced file is in the staged one, and no other file may be found with them.
        for (companion, id) in companions.iter().zip(displaced.companions) {
            if id.is_some() && identify(companion) == id {
                remove(companion).map_err(failed)?;
            }
        }
        if let Some(id) = identify(&file.real).filter(|id| *id != displaced.id) {
            let replacement = lock_replacement(&file.path, &file.real, id)?;
            if replacement.metadata().map_err(failed)?.len() > 0 {
                renamed = Some(move_aside(&file.real, "replaced").map_err(failed)?);
            }
        }
        companions.iter().try_for_each(|companion| remove(companion)).map_err(failed)?;
        fs::rename(&staged, &file.real).map_err(failed)?;
        if let Some(directory) = file.real.parent() {
            File::open(directory).and_then(|directory| directory.sync_all()).map_err(failed)?;
        }
        Ok((file, renamed))
    }
}

/// Locks the file at `real` for as long as it takes to rename it.
///
/// # Errors
/// Another bridge has it; it is no state of ours.
fn lock_replacement(path: &Path, real: &Path, id: FileId) -> Result<LockedFile, StoreError> {
    let failed = |error| StoreError::io(path, error);
    if Claim::is_taken(id) {
        return Err(StoreError::in_use(path, Claim::holder(id)));
    }
    let other = File::options().read(true).write(true).open(real).map_err(failed)?;
    if !try_lock(&other).map_err(failed)? {
        return Err(StoreError::in_use(path, None));
    }
    let other = LockedFile(other);
    let is_empty = other.metadata().map_err(failed)?.len() == 0;
    if is_empty || recognize::is_ours(&other, true).map_err(failed)? {
        return Ok(other);
    }
    Err(StoreError::Foreign { path: path.to_owned() })
}

/// A file that this process has locked. The lock ends with this value, not with the last descriptor: a child process that
/// another thread is starting has one of its own until it executes its program.
#[derive(Debug)]
struct LockedFile(File);

impl Deref for LockedFile {
    type Target = File;

    fn deref(&self) -> &File {
        &self.0
    }
}

impl Drop for LockedFile {
    fn drop(&mut self) {
        // Closing it unlocks it too, only perhaps later.
        let _ = self.0.unlock();
    }
}

/// A file beside the state, locked, with the number of the process that has the state.
#[derive(Debug)]
struct LockFile {
    file: LockedFile,
    id: FileId,
}

impl LockFile {
    /// The file stays when the lock goes: were it removed, two processes could lock two files of one name.
    fn acquire(path: &Path, lock_path: PathBuf) -> Result<Self, StoreError> {
        let failed = |error| StoreError::io(path, error);
        let mut options = File::options();
        options.read(true).write(true).create(true).truncate(false).mode(FILE_MODE);
        // Whoever can put a link there must not have what it points to overwritten.
        options.custom_flags(OFlags::NOFOLLOW.bits() as i32);
        for _ in 0..LOCK_ATTEMPTS_MAX {
            let file = options.open(&lock_path).map_err(|error| {
                let is_link = fs::symlink_metadata(&lock_path).is_ok_and(|metadata| metadata.is_symlink());
                let problem = || format!("its lock file {} is a symbolic link: remove it", lock_path.display());
                failed(if is_link { io::Error::other(problem()) } else { error })
            })?;
            match file.try_lock() {
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => {
                    let mut holder = String::new();
                    let _ = file.take(20).read_to_string(&mut holder);
                    return Err(StoreError::in_use(path, holder.trim().parse().ok()));
                }
                Err(TryLockError::Error(error)) => return Err(failed(error)),
            }
            let file = LockedFile(file);
            let id = FileId::from(&file.metadata().map_err(failed)?);
            if identify(&lock_path) == Some(id) {
                file.set_permissions(Permissions::from_mode(FILE_MODE)).map_err(failed)?;
                return Ok(Self { file, id });
            }
        }
        Err(failed(io::Error::other(format!("its lock file {} is replaced again and again", lock_path.display()))))
    }

    fn is_at(&self, lock_path: &Path) -> bool {
        identify(lock_path) == Some(self.id)
    }

    fn write_process_id(&self) -> io::Result<()> {
        let mut file = &*self.file;
        file.set_len(0)?;
        file.seek(SeekFrom::Start(0))?;
        writeln!(file, "{}", std::process::id())
    }
}

/// The files that this process has locked. Its own second attempt must not even open one: see [`StateFile`].
static CLAIMED: Mutex<BTreeSet<FileId>> = Mutex::new(BTreeSet::new());

/// An entry of [`CLAIMED`].
#[derive(Debug)]
struct Claim(FileId);

impl Claim {
    fn take(id: FileId) -> Option<Self> {
        claimed(|claimed| claimed.insert(id)).then_some(Self(id))
    }

    fn is_taken(id: FileId) -> bool {
        claimed(|claimed| claimed.contains(&id))
    }

    fn holder(id: FileId) -> Option<u32> {
        Self::is_taken(id).then(std::process::id)
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        claimed(|claimed| claimed.remove(&self.0));
    }
}

fn claimed<T>(with: impl FnOnce(&mut BTreeSet<FileId>) -> T) -> T {
    with(&mut CLAIMED.lock().unwrap_or_else(PoisonError::into_inner))
}

/// Locks a database without standing in the way of SQLite, whose own locks are of another kind where [`is_lockable`].
/// Returns whether nobody else has it locked.
fn try_lock(database: &File) -> io::Result<bool> {
    if !is_lockable(database)? {
        return Ok(true);
    }
    match database.try_lock() {
        Ok(()) => Ok(true),
        Err(TryLockError::WouldBlock) => Ok(false),
        Err(TryLockError::Error(error)) => Err(error),
    }
}

/// Returns whether a lock of the whole file and SQLite's locks of its bytes are independent. Over a network they are not,
/// and the lock file has to do.
#[cfg(target_os = "linux")]
fn is_lockable(database: &File) -> io::Result<bool> {
    const CIFS_MAGIC: u32 = 0xff53_4d42;
    const SMB2_MAGIC: u32 = 0xfe53_4d42;
    let kind = rustix::fs::fstatfs(database)?.f_type as u32;
    Ok(![rustix::fs::NFS_SUPER_MAGIC as u32, CIFS_MAGIC, SMB2_MAGIC].contains(&kind))
}

/// Elsewhere they exclude each other, and the lock file has to do.
#[cfg(not(target_os = "linux"))]
fn is_lockable(_database: &File) -> io::Result<bool> {
    Ok(false)
}

/// Returns `path` as absolute path without symbolic links. What it leads to need not exist.
pub(super) fn resolve(path: &Path) -> io::Result<PathBuf> {
    let mut path = std::path::absolute(path)?;
    for _ in 0..LINKS_MAX {
        match fs::read_link(&path) {
            Ok(target) => path = path.parent().unwrap_or(Path::new("/")).join(target),
            Err(_) => {
                let (Some(directory), Some(name)) = (path.parent(), path.file_name()) else { return Ok(path) };
                return Ok(directory.canonicalize().map_or_else(|_| path.clone(), |directory| directory.join(name)));
            }
        }
    }
    Err(io::Error::other("it is a symbolic link that leads nowhere"))
}

fn create_directory(directory: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(DIRECTORY_MODE).create(directory)
}

/// Renames the database and its companions to names that say `why`, so that nothing of them is lost.
fn move_aside(real: &Path, why: &str) -> io::Result<PathBuf> {
    let seconds = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let names = (0..).map(|number| match number {
        0 => format!(".{why}-{seconds}"),
        _ => format!(".{why}-{seconds}-{number}"),
    });
    let aside = names.map(|suffix| with_suffix(real, &suffix)).find(|aside| fs::symlink_metadata(aside).is_err());
    let aside = aside.expect("one of endlessly many names is free");
    for suffix in COMPANIONS.into_iter().chain([""]) {
        let (from, to) = (with_suffix(real, suffix), with_suffix(&aside, suffix));
        match fs::symlink_metadata(&from) {
            Ok(metadata) if metadata.is_file() => {
                fs::set_permissions(&from, Permissions::from_mode(FILE_MODE))?;
                fs::rename(from, to)?;
            }
            Ok(_) => fs::rename(from, to)?,
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Ok(aside)
}

fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

pub(super) fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(suffix);
    name.into()
}
