//! The server's database, opened to be read.

use std::ffi::OsString;
use std::fs;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ring::digest::{Context, SHA256};
use rusqlite::types::ValueRef;
use rusqlite::{Connection, OpenFlags, OptionalExtension, Row, Transaction};
use url::Url;

use crate::ledger::memory::Table;
use crate::ledger::{
    Anchor, AnomalyReading, AnomalyRow, AnomalyTally, DetailPosition, DetailReading, InvocationRow, Mark, Numbers,
    Position, SkillNumbers, ToldInvocation,
};
use crate::protocol::{AnomalyEntry, Rejection, RejectionReason};

use super::SkillsDatabaseError;

/// Rows of one transaction. A reader that stays in one keeps the server's log from beginning anew.
const BATCH_ROWS: usize = 1_000;

/// How long a read waits where the server has the whole database locked, which it has not in WAL mode.
const BUSY_TIMEOUT: Duration = Duration::from_millis(250);

/// Bytes of a text that are still looked at; every limit of labels is below.
const TEXT_BYTES_MAX: usize = 16 * 1024;

/// What is read of an invocation. Neither `user_query` nor `embedding` is ever named.
const INVOCATION_COLUMNS: [&str; 8] =
    ["id", "skill_name", "workflow_phase", "completed", "duration_seconds", "session_id", "invoked_at", "error_type"];

const ANOMALY_COLUMNS: [&str; 5] = ["id", "skill_name", "anomaly_type", "detected_at", "deviation_score"];

/// An open database.
#[derive(Debug)]
pub struct SkillsDatabase {
    connection: Connection,
    path: PathBuf,
    /// Device and inode of what was opened.
    file: (u64, u64),
    has_anomalies: bool,
    has_metrics: bool,
    /// `PRAGMA data_version` when everything was read.
    read_version: Option<i64>,
}

impl SkillsDatabase {
    /// Opens the database at `path` to be read. Nothing is created or changed, whatever is there.
    ///
    /// # Errors
    /// What cannot be read, or is no database of the server.
    pub fn open(path: &Path) -> Result<Self, SkillsDatabaseError> {
        let failed = |error| SkillsDatabaseError::sqlite(path, error);
        let file = identify(path)?;
        // Where a link leads: the companions lie beside the file itself.
        let real = fs::canonicalize(path).map_err(|error| SkillsDatabaseError::place(path, error))?;
        if has_log(&real)? && !["-wal", "-shm"].iter().all(|companion| companion_of(&real, companion).exists()) {
            return Err(SkillsDatabaseError::NotServed { path: path.to_owned() });
        }
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX | OpenFlags::SQLITE_OPEN_URI;
        let connection = Connection::open_with_flags(read_only_uri(&real)?, flags).map_err(failed)?;
        connection.busy_timeout(BUSY_TIMEOUT).map_err(failed)?;
        connection
            .execute_batch("PRAGMA query_only = ON; PRAGMA trusted_schema = OFF; PRAGMA cell_size_check = ON;")
            .map_err(failed)?;
        let mut database = Self {
            connection,
            path: path.to_owned(),
            file,
            has_anomalies: false,
            has_metrics: false,
            read_version: None,
        };
        database.check("skill_invocation", &INVOCATION_COLUMNS)?;
        database.has_anomalies = database.has_table("skill_anomalies")?;
        if database.has_anomalies {
            database.check("skill_anomalies", &ANOMALY_COLUMNS)?;
        }
        database.has_metrics = database.has_table("skill_metrics")?;
        Ok(database)
    }

    /// Whether the path still leads to what was opened: a server that began anew has made another file.
    pub fn is_at_its_place(&self) -> bool {
        identify(&self.path).is_ok_and(|file| file == self.file)
    }

    /// Whether anybody has written since everything was read.
    ///
    /// # Errors
    /// Whatever SQLite says.
    pub fn has_changed(&self) -> Result<bool, SkillsDatabaseError> {
        Ok(self.read_version.is_none() || self.read_version != Some(self.data_version()?))
    }

    fn data_version(&self) -> Result<i64, SkillsDatabaseError> {
        let version = self.connection.query_row("PRAGMA data_version", [], |row| row.get(0));
        version.map_err(|error| SkillsDatabaseError::sqlite(&self.path, error))
    }

    fn has_table(&self, table: &str) -> Result<bool, SkillsDatabaseError> {
        let query = "SELECT EXISTS (SELECT 1 FROM sqlite_schema WHERE type = 'table' AND name = ?)";
        let found = self.connection.query_row(query, [table], |row| row.get(0));
        found.map_err(|error| SkillsDatabaseError::sqlite(&self.path, error))
    }

    fn check(&self, table: &'static str, columns: &[&'static str]) -> Result<(), SkillsDatabaseError> {
        let query = "SELECT EXISTS (SELECT 1 FROM pragma_table_info(?) WHERE name = ?)";
        for column in columns.iter().copied() {
            let found = self.connection.query_row(query, [table, column], |row| row.get::<_, bool>(0));
            if !found.map_err(|error| SkillsDatabaseError::sqlite(&self.path, error))? {
                return Err(SkillsDatabaseError::Schema { path: self.path.clone(), table, column });
            }
        }
        Ok(())
    }

    /// Reads on from `position`, in one transaction. `marks` tells the rows of a table that were read last, the newest
    /// first; it is asked only if the last of them is gone.
    ///
    /// # Errors
    /// Whatever SQLite says.
    pub fn read(
        &mut self,
        position: &DetailPosition,
        marks: impl Fn(Table) -> Vec<Mark>,
    ) -> Result<DetailReading, SkillsDatabaseError> {
        let version = self.data_version()?;
        let (has_anomalies, has_metrics) = (self.has_anomalies, self.has_metrics);
        let transaction =
            self.connection.transaction().map_err(|error| SkillsDatabaseError::sqlite(&self.path, error))?;
        let reading = read(&transaction, position, &marks, has_anomalies, has_metrics);
        let reading = reading.map_err(|error| SkillsDatabaseError::sqlite(&self.path, error))?;
        drop(transaction);
        // Taken before the transaction: what was written in between is read again, and nothing is missed.
        self.read_version = (!reading.has_more).then_some(version);
        Ok(reading)
    }
}

/// Byte of a database's header that says with which version of the format it can be read; 2 asks for a write-ahead log.
const READ_VERSION_BYTE: u64 = 19;

/// Whether the database is in WAL mode. A reader makes the log and its index where there are none, also one that only
/// reads, and a server of another user could not write them then: they must be there before.
///
/// To be asked before SQLite opens the file: closing it here would give up the locks that SQLite has on it.
fn has_log(path: &Path) -> Result<bool, SkillsDatabaseError> {
    let read = || {
        let mut file = fs::File::open(path)?;
        file.seek(SeekFrom::Start(READ_VERSION_BYTE))?;
        let mut version = [0];
        Ok(file.read(&mut version)? == 1 && version == [2])
    };
    read().map_err(|error| SkillsDatabaseError::place(path, error))
}

fn companion_of(path: &Path, suffix: &str) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(suffix);
    name.into()
}

/// The absolute path as SQLite is told to open also the index of the log to be read alone.
fn read_only_uri(path: &Path) -> Result<String, SkillsDatabaseError> {
    let uri = Url::from_file_path(path).map_err(|()| SkillsDatabaseError::NotAFile { path: path.to_owned() })?;
    Ok(format!("{uri}?mode=ro&readonly_shm=1"))
}

fn identify(path: &Path) -> Result<(u64, u64), SkillsDatabaseError> {
    let metadata = fs::metadata(path).map_err(|error| SkillsDatabaseError::place(path, error))?;
    if !metadata.is_file() {
        return Err(SkillsDatabaseError::NotAFile { path: path.to_owned() });
    }
    Ok((metadata.dev(), metadata.ino()))
}

fn read(
    moment: &Transaction<'_>,
    position: &DetailPosition,
    marks: &dyn Fn(Table) -> Vec<Mark>,
    has_anomalies: bool,
    has_metrics: bool,
) -> rusqlite::Result<DetailReading> {
    let mut anchor = self::anchor(moment, Table::Invocations, position.invocations, marks)?;
    let mut anomalies_anchor = Anchor::Other;
    if has_anomalies {
        anomalies_anchor = self::anchor(moment, Table::Anomalies, position.anomalies, marks)?;
        // No invocation vouches for the database, so that the anomalies alone can tell that it is another.
        if anchor == Anchor::Emptied && anomalies_anchor == Anchor::Other {
            anchor = Anchor::Other;
        }
        if anchor == Anchor::Other && !position.is_changeover {
            anomalies_anchor = Anchor::Other;
        }
    }
    let after = anchor.after(position.invocations);
    let numbers = if position.is_changeover || matches!(anchor, Anchor::CutBack { .. } | Anchor::Other) {
        Some(numbers(moment, after, has_metrics)?)
    } else {
        None
    };
    let (invocations, mut has_more) = batch(moment, Table::Invocations, after, invocation)?;

    let anomalies = if has_anomalies {
        let (reading, more) = anomalies(moment, position, anomalies_anchor)?;
        has_more |= more;
        Some(reading)
    } else {
        None
    };
    Ok(DetailReading { invocations_anchor: anchor, invocations, numbers, anomalies, has_more })
}

fn select(table: Table, which: &str) -> String {
    let columns: &[&str] = match table {
        Table::Invocations => &INVOCATION_COLUMNS,
        Table::Anomalies => &ANOMALY_COLUMNS,
    };
    format!("SELECT {} FROM {} WHERE {which}", columns.join(", "), table.name())
}

/// The next rows after the key `after`, and whether there are more.
fn batch<T>(
    moment: &Transaction<'_>,
    table: Table,
    after: i64,
    read: impl Fn(&Row<'_>) -> T,
) -> rusqlite::Result<(Vec<T>, bool)> {
    let mut query = moment.prepare_cached(&select(table, "id > ?1 ORDER BY id LIMIT ?2"))?;
    let rows = query.query_map((after, BATCH_ROWS + 1), |row| Ok(read(row)))?;
    let mut rows = rows.collect::<rusqlite::Result<Vec<_>>>()?;
    let has_more = rows.len() > BATCH_ROWS;
    rows.truncate(BATCH_ROWS);
    Ok((rows, has_more))
}

/// How a table continues what was read of it.
fn anchor(
    moment: &Transaction<'_>,
    table: Table,
    position: Position,
    marks: &dyn Fn(Table) -> Vec<Mark>,
) -> rusqlite::Result<Anchor> {
    let Some(last) = position.last else {
        return Ok(Anchor::judge(position, None, false, 0));
    };
    let mut by_key = moment.prepare_cached(&select(table, "id = ?1"))?;
    let mut is_there = |mark: &Mark| -> rusqlite::Result<bool> {
        let found = by_key.query_row([mark.id], |row| Ok(self::mark(row))).optional()?;
        Ok(found == Some(*mark))
    };
    if is_there(&last)? {
        return Ok(Anchor::Continues);
    }
    let mut common = None;
    for mark in marks(table) {
        if is_there(&mark)? {
            common = Some(mark.id);
            break;
        }
    }
    let name = table.name();
    let earlier = format!("SELECT EXISTS (SELECT 1 FROM {name} WHERE id BETWEEN 0 AND ?1)");
    let has_earlier = moment.prepare_cached(&earlier)?.query_row([position.cursor], |row| row.get(0))?;
    let newest_ever = moment
        .prepare_cached("SELECT seq FROM sqlite_sequence WHERE name = ?1")
        .and_then(|mut query| query.query_row([name], |row| row.get(0)).optional())
        .unwrap_or_default();
    Ok(Anchor::judge(position, common, has_earlier, newest_ever.unwrap_or(0)))
}

/// The numbers of all skills, and how many rows of each come after the key `after`.
fn numbers(moment: &Transaction<'_>, after: i64, has_metrics: bool) -> rusqlite::Result<Numbers> {
    let mut skills = std::collections::BTreeMap::<Box<str>, SkillNumbers>::new();
    // The sum as the server's trigger has it, row by row.
    let mut query = moment.prepare_cached(
        "SELECT skill_name,
                sum(completed = 1), sum(completed = 0),
                total(CASE WHEN completed = 1 AND typeof(duration_seconds) IN ('real', 'integer')
                      THEN duration_seconds ELSE 0 END),
                sum(id > ?1 AND completed = 1), sum(id > ?1 AND completed = 0)
         FROM skill_invocation WHERE typeof(skill_name) = 'text' GROUP BY skill_name",
    )?;
    let mut rows = query.query([after])?;
    while let Some(row) = rows.next()? {
        let Some(skill_name) = text(row.get_ref(0)?) else { continue };
        let numbers = SkillNumbers {
            skill_name: skill_name.clone(),
            completed: count(row, 1)?,
            abandoned: count(row, 2)?,
            duration_sum: row.get(3)?,
            rows_completed: count(row, 4)?,
            rows_abandoned: count(row, 5)?,
        };
        skills.insert(skill_name, numbers);
    }
    if has_metrics {
        let mut query = moment.prepare_cached(
            "SELECT skill_name, completed_invocations, total_invocations, total_duration_seconds FROM skill_metrics",
        )?;
        let mut rows = query.query([])?;
        while let Some(row) = rows.next()? {
            let Some(skill_name) = text(row.get_ref(0)?) else { continue };
            let (completed, total) = (count(row, 1)?, count(row, 2)?);
            let duration_sum = match row.get_ref(3)? {
                ValueRef::Real(seconds) => seconds,
                ValueRef::Integer(seconds) => seconds as f64,
                _ => f64::NAN,
            };
            let numbers = skills.entry(skill_name.clone()).or_insert(SkillNumbers {
                skill_name,
                completed: 0,
                abandoned: 0,
                duration_sum: 0.0,
                rows_completed: 0,
                rows_abandoned: 0,
            });
            // What the feed shows, and more than the rows where old ones were deleted.
            numbers.completed = completed.min(total);
            numbers.abandoned = total - numbers.completed;
            numbers.duration_sum = duration_sum;
        }
    }
    let last_id = moment
        .prepare_cached("SELECT coalesce(max(id), 0) FROM skill_invocation")?
        .query_row([], |row| row.get::<_, i64>(0))?;
    Ok(Numbers { skills: skills.into_values().collect(), last_id: last_id.max(after) })
}

fn count(row: &Row<'_>, column: usize) -> rusqlite::Result<u64> {
    Ok(match row.get_ref(column)? {
        ValueRef::Integer(number) => u64::try_from(number).unwrap_or(0),
        _ => 0,
    })
}

fn anomalies(
    moment: &Transaction<'_>,
    position: &DetailPosition,
    anchor: Anchor,
) -> rusqlite::Result<(AnomalyReading, bool)> {
    if !position.is_changeover && anchor != Anchor::Other {
        let after = anchor.after(position.anomalies);
        let (rows, has_more) = batch(moment, Table::Anomalies, after, anomaly)?;
        return Ok((AnomalyReading { anchor, rows, tallies: None }, has_more));
    }
    // By their numbers: anomalies of a skill and a type are alike, so that it is enough how many there are.
    let mut query = moment
        .prepare_cached("SELECT skill_name, anomaly_type, count(*) FROM skill_anomalies WHERE id > 0 GROUP BY 1, 2")?;
    let mut tallies = Vec::new();
    let mut rows = query.query([])?;
    while let Some(row) = rows.next()? {
        if let (Some(skill_name), Some(anomaly_type)) = (text(row.get_ref(0)?), text(row.get_ref(1)?)) {
            tallies.push(AnomalyTally { skill_name, anomaly_type, times: count(row, 2)? });
        }
    }
    let mut query = moment.prepare_cached(&select(Table::Anomalies, "id > 0 ORDER BY id DESC LIMIT ?1"))?;
    let rows = query.query_map([BATCH_ROWS], |row| Ok(anomaly(row)))?;
    let mut rows = rows.collect::<rusqlite::Result<Vec<_>>>()?;
    rows.reverse();
    Ok((AnomalyReading { anchor: Anchor::Other, rows, tallies: Some(tallies) }, false))
}

fn invocation(row: &Row<'_>) -> InvocationRow {
    let value = |column| row.get_ref(column).unwrap_or(ValueRef::Null);
    let skill_name = text(value(1)).filter(|name| !name.is_empty());
    let completed = match value(3) {
        ValueRef::Integer(0) => Some(false),
        ValueRef::Integer(1) => Some(true),
        _ => None,
    };
    let duration = match value(4) {
        ValueRef::Null => Ok(None),
        ValueRef::Integer(seconds) => Ok(Some(seconds as f64)),
        ValueRef::Real(seconds) => Ok(Some(seconds)),
        _ => Err(invalid(row, "duration_seconds", "no number")),
    };
    let summed_seconds = duration.as_ref().ok().copied().flatten().unwrap_or(0.0);
    let told = match (&skill_name, completed, duration) {
        (None, ..) => Err(invalid(row, "skill_name", "no name")),
        (_, None, _) => Err(invalid(row, "completed", "neither 0 nor 1")),
        (.., Err(rejection)) => Err(rejection),
        (.., Ok(Some(seconds))) if !seconds.is_finite() || seconds < 0.0 => {
            let detail = format!("{}: `duration_seconds` should be 0 or more, found {seconds}", row_name(row));
            Err(Rejection::new(RejectionReason::NumberOutOfRange, detail))
        }
        (.., Ok(duration_seconds)) => match value(2) {
            ValueRef::Null => Ok(ToldInvocation { workflow_phase: None, duration_seconds }),
            phase => text(phase).ok_or_else(|| invalid(row, "workflow_phase", "no text")).map(|phase| ToldInvocation {
                workflow_phase: Some(phase).filter(|phase| !phase.is_empty()),
                duration_seconds,
            }),
        },
    };
    InvocationRow { mark: mark(row), skill_name, told, completed, summed_seconds }
}

fn anomaly(row: &Row<'_>) -> AnomalyRow {
    let value = |column| row.get_ref(column).unwrap_or(ValueRef::Null);
    let filled = |column| text(value(column)).filter(|text| !text.is_empty());
    let told = match (filled(1), filled(2)) {
        (Some(skill_name), Some(anomaly_type)) => Ok(AnomalyEntry {
            skill_name: String::from(skill_name).into(),
            anomaly_type: String::from(anomaly_type).into(),
            detected_at: filled(3).map(|at| String::from(at).into()),
            deviation_score: match value(4) {
                ValueRef::Real(score) => Some(score).filter(|score| score.is_finite()),
                ValueRef::Integer(score) => Some(score as f64),
                _ => None,
            },
        }),
        (None, _) => Err(invalid(row, "skill_name", "no name")),
        (_, None) => Err(invalid(row, "anomaly_type", "no name")),
    };
    AnomalyRow { mark: mark(row), told }
}

fn invalid(row: &Row<'_>, column: &str, what: &str) -> Rejection {
    Rejection::new(RejectionReason::InvalidField, format!("{}: `{column}` holds {what}", row_name(row)))
}

fn row_name(row: &Row<'_>) -> String {
    format!("row {} of the database", row.get::<_, i64>(0).unwrap_or_default())
}

fn text(value: ValueRef<'_>) -> Option<Box<str>> {
    match value {
        ValueRef::Text(bytes) if bytes.len() <= TEXT_BYTES_MAX => std::str::from_utf8(bytes).ok().map(Into::into),
        _ => None,
    }
}

/// A digest over every column that was selected but the key, each with its type and length.
fn mark(row: &Row<'_>) -> Mark {
    let mut context = Context::new(&SHA256);
    for column in 1..row.as_ref().column_count() {
        let (kind, number, bytes): (u8, u64, &[u8]) = match row.get_ref(column).unwrap_or(ValueRef::Null) {
            ValueRef::Null => (0, 0, &[]),
            ValueRef::Integer(number) => (1, number as u64, &[]),
            ValueRef::Real(number) => (2, number.to_bits(), &[]),
            ValueRef::Text(text) => (3, text.len() as u64, text),
            ValueRef::Blob(blob) => (4, blob.len() as u64, blob),
        };
        context.update(&[kind]);
        context.update(&number.to_le_bytes());
        context.update(bytes);
    }
    let digest = context.finish();
    let first = digest.as_ref().first_chunk().copied().unwrap_or_default();
    Mark { id: row.get(0).unwrap_or_default(), digest: i64::from_le_bytes(first) }
}
