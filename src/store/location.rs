//! The name by which a state was last open. SQLite keeps the log of a database beside the name that the database is opened by: opened by
//! another hard link, or renamed alone, a state whose bridge was killed lacks what only its log holds.
//!
//! Invariant: the name is in the database file itself, and not in its log.

use std::ffi::OsString;
use std::fmt::Write as _;
use std::fs;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use rusqlite::{Connection, OpenFlags};

use super::file::{identify, with_suffix};
use super::{StoreError, schema};

/// The first version of the schema whose states record their name.
const FIRST_VERSION: i64 = 2;

/// What no name of a file is longer than, in bytes.
const PATH_BYTES_MAX: u32 = 4096;

/// Checks that the log of the state at `real`, an absolute path without symbolic links, is beside it. `path` is its name in errors.
///
/// # Errors
/// The state was last open by another name, which still leads to it or leads nowhere, and its log is there.
pub(super) fn check(real: &Path, path: &Path) -> Result<(), StoreError> {
    let Some(name) = recorded(real).filter(|name| name != real) else { return Ok(()) };
    let log = with_suffix(&name, "-wal");
    let holds_something = fs::metadata(&log).is_ok_and(|metadata| metadata.is_file() && metadata.len() > 0);
    if !holds_something || is_same(&log, &with_suffix(real, "-wal")) {
        return Ok(());
    }
    let name = match identify(&name) {
        None => None,
        Some(id) if Some(id) == identify(real) => Some(name),
        // The log is of the file that took that name.
        Some(_) => return Ok(()),
    };
    Err(StoreError::LogElsewhere { path: path.to_owned(), log, name })
}

/// Records `real` as the name of the open state behind `connection`.
pub(super) fn record(connection: &Connection, real: &Path) -> rusqlite::Result<()> {
    let bytes = real.as_os_str().as_bytes();
    let insert = "INSERT INTO location (only, path) VALUES (0, ?1)
                  ON CONFLICT (only) DO UPDATE SET path = excluded.path WHERE path <> excluded.path";
    if connection.execute(insert, [bytes])? > 0 {
        connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))?;
    }
    Ok(())
}

/// The name that the database file holds. `None` where it is no sound state, which is for others to say.
fn recorded(real: &Path) -> Option<PathBuf> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_URI | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(uri(real), flags).ok()?;
    let version = schema::check(&connection, real).ok()?;
    let is_state = version >= FIRST_VERSION && schema::is_intact(&connection, version).ok()?;
    let query = "SELECT path FROM location WHERE length(path) <= ?";
    let read = || connection.query_row(query, [PATH_BYTES_MAX], |row| row.get::<_, Vec<u8>>(0)).ok();
    is_state.then(read)?.map(|bytes| OsString::from_vec(bytes).into())
}

/// The database file as it is: SQLite neither looks for a log nor creates one.
fn uri(real: &Path) -> String {
    let mut uri = "file:".to_owned();
    for byte in real.as_os_str().as_bytes() {
        match byte {
            b'/' | b'.' | b'-' | b'_' | b'0'..=b'9' | b'a'..=b'z' | b'A'..=b'Z' => uri.push(char::from(*byte)),
            _ => write!(uri, "%{byte:02X}").expect("a string takes everything"),
        }
    }
    uri + "?immutable=1"
}

/// Returns whether both names are of one file, or of files that hold the same.
fn is_same(file: &Path, other: &Path) -> bool {
    let ids = (identify(file), identify(other));
    let holds_same = || fs::read(file).ok().zip(fs::read(other).ok()).is_some_and(|(file, other)| file == other);
    ids.0.is_some() && ids.1.is_some() && (ids.0 == ids.1 || holds_same())
}
