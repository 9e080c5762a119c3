//! Whether a file that is not a sound state is a damaged one of ours, which may be renamed, or somebody else's, which may
//! not be touched.

use std::fs::File;
use std::io::{self, ErrorKind};
use std::os::unix::fs::FileExt;

use super::schema::APPLICATION_ID;

const MAGIC: &[u8; 16] = b"SQLite format 3\0";

/// Where SQLite's header holds the application id.
const APPLICATION_ID_OFFSET: usize = 68;

/// Where SQLite's header holds the version that a writer must know, and the number of the schema's format. Source:
/// sqlite.org/fileformat.html, 1.3.
const WRITE_VERSION_OFFSET: u64 = 18;
const SCHEMA_FORMAT_OFFSET: u64 = 44;

/// The greatest that there are.
const WRITE_VERSION_MAX: u8 = 2;
const SCHEMA_FORMAT_MAX: u32 = 4;

/// Tables of any version of the schema with names that other programs hardly have.
const TABLES: [&str; 11] = [
    "anomaly_count",
    "anomaly_tally",
    "event_id",
    "feed_skill",
    "detail_row",
    "source_skill",
    "listing_history",
    "fingerprint",
    "push_base",
    "push_tick",
    "failure_count",
];

/// So many of [`TABLES`] make a database ours.
const TABLES_MIN: usize = 2;

/// So much of a file is searched for the names of tables.
const SEARCHED_BYTES_MAX: usize = 16 << 20;

/// Returns whether the application id or the names of our tables are in the file. Where SQLite cannot read it
/// (`is_readable`), most of SQLite's magic bytes count as well, unless there are tables and none is ours.
pub(super) fn is_ours(file: &File, is_readable: bool) -> io::Result<bool> {
    let bytes = read(file)?;
    let has_application_id = bytes
        .get(APPLICATION_ID_OFFSET..APPLICATION_ID_OFFSET + 4)
        .is_some_and(|id| id == (APPLICATION_ID as u32).to_be_bytes());
    let tables = TABLES.iter().filter(|table| contains(&bytes, format!("CREATE TABLE {table} (").as_bytes())).count();
    if has_application_id || tables >= TABLES_MIN {
        return Ok(true);
    }
    let magic_bytes = bytes.iter().zip(MAGIC).filter(|(found, expected)| found == expected).count();
    let is_others = contains(&bytes, b"CREATE TABLE ");
    Ok(!is_readable && magic_bytes > MAGIC.len() / 2 && !is_others)
}

/// Returns whether the header names a format that no SQLite writes: it can only read such a database, or not even that.
pub(super) fn has_unknown_format(file: &File) -> io::Result<bool> {
    let (mut write_version, mut schema_format) = ([0], [0; 4]);
    file.read_exact_at(&mut write_version, WRITE_VERSION_OFFSET)?;
    file.read_exact_at(&mut schema_format, SCHEMA_FORMAT_OFFSET)?;
    Ok(write_version[0] > WRITE_VERSION_MAX || u32::from_be_bytes(schema_format) > SCHEMA_FORMAT_MAX)
}

/// Reads without moving the file's position and without another handle, whose end would drop SQLite's locks.
fn read(file: &File) -> io::Result<Vec<u8>> {
    let length = file.metadata()?.len().min(SEARCHED_BYTES_MAX as u64) as usize;
    let mut bytes = vec![0; length];
    let mut read = 0;
    while read < length {
        match file.read_at(&mut bytes[read..], read as u64) {
            Ok(0) => break,
            Ok(more) => read += more,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    bytes.truncate(read);
    Ok(bytes)
}

fn contains(bytes: &[u8], pattern: &[u8]) -> bool {
    bytes.windows(pattern.len()).any(|window| window == pattern)
}
