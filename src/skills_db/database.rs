//! The server's database, open for reading.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use rusqlite::config::DbConfig;
use rusqlite::hooks::{AuthAction, AuthContext, Authorization};
use rusqlite::{Connection, OpenFlags};
use tokio_util::sync::CancellationToken;
use url::Url;

use super::files::{Access, AtRest, DatabaseFiles, OpenDatabase};
use super::history::History;
use super::schema::{Schema, is_read, schema_version};
use super::transaction::ReadTransaction;
use super::{
    DatabaseFacts, DatabaseReading, FileIdentity, HeldSkills, ReadPlan, ReadRequest, RowFingerprint,
    SkillsDatabaseError, Table,
};

/// How long a reading waits where another process has the whole database locked, which no server does in WAL mode.
const BUSY_TIMEOUT: Duration = Duration::from_millis(250);

/// Instructions of SQLite's virtual machine between two looks at whether the reading was cancelled: well below a
/// millisecond.
const INSTRUCTIONS_PER_CANCELLATION_CHECK: i32 = 10_000;

static CONNECTIONS: AtomicU64 = AtomicU64::new(1);

/// The server's database, open for reading.
///
/// It is never created, changed, migrated or locked, and nothing that is stored in it runs: views and triggers are
/// disabled, and an authorizer restricts every statement to the columns that are counted from, so that `user_query` and
/// `embedding` cannot be read.
#[derive(Debug)]
pub struct SkillsDatabase {
    connection: OpenDatabase,
    path: PathBuf,
    connection_number: u64,
    schema: Schema,
    /// When the database file was last written, at the opening: only checkpoints do, and whoever overwrites it in place.
    modified: Option<SystemTime>,
    /// `PRAGMA data_version` when everything was read.
    read_version: Option<i64>,
    /// What the rows added up to, and `PRAGMA data_version` then.
    row_sums: Option<(i64, HeldSkills)>,
}

impl SkillsDatabase {
    /// Opens the database at `path`. `cancellation` interrupts the opening and every later reading within a millisecond or
    /// so, which fail with [`SkillsDatabaseError::Cancelled`].
    ///
    /// # Errors
    /// The file is missing, cannot be read, or is not a database of the server.
    pub fn open(path: &Path, cancellation: &CancellationToken) -> Result<Self, SkillsDatabaseError> {
        Self::open_with(path, AtRest::Refused, cancellation)
    }

    pub(super) fn open_with(
        path: &Path,
        at_rest: AtRest,
        cancellation: &CancellationToken,
    ) -> Result<Self, SkillsDatabaseError> {
        let modified = DatabaseFiles::at(path)?.2;
        let (connection, schema) = OpenDatabase::open(path, at_rest, |real, access| {
            let connection =
                connect(real, access, cancellation).map_err(|error| SkillsDatabaseError::sqlite(path, error))?;
            let schema = Schema::validate(&connection, path)?;
            Ok((connection, schema))
        })?;
        let connection_number = CONNECTIONS.fetch_add(1, Ordering::Relaxed);
        let (path, read_version, row_sums) = (path.to_owned(), None, None);
        Ok(Self { connection, path, connection_number, schema, modified, read_version, row_sums })
    }

    /// The file that is open.
    pub fn file(&self) -> FileIdentity {
        self.connection.files().database
    }

    /// The number of this connection: greater than those of all that were opened before.
    pub fn connection_number(&self) -> u64 {
        self.connection_number
    }

    /// Whether it is read without locks.
    pub(super) fn is_immutable(&self) -> bool {
        self.connection.access() == Access::Immutable
    }

    /// Whether the database, its `-wal` and its `-shm` on disk are those that are open, and nobody but SQLite has written
    /// the database file. Otherwise it has to be opened again: what this connection reads is or will be out of date.
    pub fn is_current(&self) -> bool {
        // A checkpoint counts as a change, too: another connection is cheap, and nothing else tells it from a backup that
        // was copied over the file.
        DatabaseFiles::at(&self.path)
            .is_ok_and(|(_, files, modified)| files == self.connection.files() && modified == self.modified)
    }

    /// Whether anybody has written since everything was read.
    ///
    /// # Errors
    /// Whatever SQLite reports.
    pub fn has_changed(&self) -> Result<bool, SkillsDatabaseError> {
        Ok(self.read_version.is_none() || self.read_version != Some(self.data_version()?))
    }

    fn data_version(&self) -> Result<i64, SkillsDatabaseError> {
        let version = self.connection.query_row("PRAGMA main.data_version", [], |row| row.get(0));
        version.map_err(|error| SkillsDatabaseError::sqlite(&self.path, error))
    }

    /// Reads on in one transaction. `remembered` returns the fingerprints of a table's rows that were read, newest first;
    /// it is called only for a table whose last row is missing. `plan` decides from the facts what is read; `None` where
    /// that is nothing, so that the same is there to be read at the next call.
    ///
    /// # Errors
    /// Whatever SQLite reports; a schema that has changed and is not the server's any more.
    pub fn read(
        &mut self,
        request: &ReadRequest,
        remembered: impl Fn(Table) -> Vec<RowFingerprint>,
        plan: impl FnOnce(&DatabaseFacts) -> Option<ReadPlan>,
    ) -> Result<Option<DatabaseReading>, SkillsDatabaseError> {
        let failed = |error| SkillsDatabaseError::sqlite(&self.path, error);
        let version = self.data_version()?;
        let transaction = self.connection.unchecked_transaction().map_err(failed)?;
        // A server migrates its database while it is open here, and anybody could put a view in place of a table.
        if schema_version(&transaction).map_err(failed)? != self.schema.version {
            self.schema = Schema::validate(&transaction, &self.path)?;
        }
        let reader = ReadTransaction::new(&transaction, &self.schema);
        let invocations = reader.table_facts(Table::Invocations, request.invocations, &remembered).map_err(failed)?;
        let anomalies = match self.schema.has_anomalies {
            true => Some(reader.table_facts(Table::Anomalies, request.anomalies, &remembered).map_err(failed)?),
            false => None,
        };
        let skill_metrics = reader.skill_metrics(request.skills_max).map_err(failed)?;
        let row_sums = match &self.row_sums {
            _ if skill_metrics.is_some() || !request.sums_rows => None,
            Some((of_version, sums)) if *of_version == version => Some(sums.clone()),
            _ => {
                let sums = reader.row_sums(request.skills_max).map_err(failed)?;
                self.row_sums = Some((version, sums.clone()));
                Some(sums)
            }
        };
        if row_sums.is_none() {
            self.row_sums = None;
        }
        let (file, connection) = (self.connection.files().database, self.connection_number);
        let has_error_types = self.schema.has_error_type;
        let facts =
            DatabaseFacts { file, connection, invocations, anomalies, skill_metrics, row_sums, has_error_types };
        let Some(plan) = plan(&facts) else { return Ok(None) };
        let reading = reader.read(facts, plan, request.skills_max).map_err(failed)?;
        drop(transaction);
        // Taken before the transaction: what was written in between is read again, and nothing is missed.
        self.read_version = (!reading.has_more).then_some(version);
        Ok(Some(reading))
    }

    /// Begins a transaction that reads the whole history.
    ///
    /// # Errors
    /// Whatever SQLite reports; a schema that has changed and is not the server's any more.
    pub(super) fn begin_history(&self) -> Result<History<'_>, SkillsDatabaseError> {
        let failed = |error| SkillsDatabaseError::sqlite(&self.path, error);
        let transaction = self.connection.unchecked_transaction().map_err(failed)?;
        let is_unchanged = schema_version(&transaction).map_err(failed)? == self.schema.version;
        let schema = if is_unchanged { self.schema } else { Schema::validate(&transaction, &self.path)? };
        Ok(History::new(transaction, schema, &self.path))
    }

    /// What was read last is not counted: it is there to be read, whether anybody writes or not.
    pub fn read_again(&mut self) {
        self.read_version = None;
    }
}

fn connect(real: &Path, access: Access, cancellation: &CancellationToken) -> rusqlite::Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX | OpenFlags::SQLITE_OPEN_URI;
    let connection = Connection::open_with_flags(read_only_uri(real, access), flags)?;
    connection.busy_timeout(BUSY_TIMEOUT)?;
    let cancellation = cancellation.clone();
    connection.progress_handler(INSTRUCTIONS_PER_CANCELLATION_CHECK, Some(move || cancellation.is_cancelled()))?;
    for unsafe_feature in [
        DbConfig::SQLITE_DBCONFIG_ENABLE_VIEW,
        DbConfig::SQLITE_DBCONFIG_ENABLE_TRIGGER,
        DbConfig::SQLITE_DBCONFIG_TRUSTED_SCHEMA,
    ] {
        connection.set_db_config(unsafe_feature, false)?;
    }
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_DEFENSIVE, true)?;
    connection.execute_batch("PRAGMA query_only = ON; PRAGMA cell_size_check = ON;")?;
    connection.authorizer(Some(authorize))?;
    Ok(connection)
}

/// The absolute path as a URI, by which SQLite opens the index of the write-ahead log, too, only for reading.
fn read_only_uri(real: &Path, access: Access) -> String {
    let uri = Url::from_file_path(real).expect("the path is absolute: it was canonicalized");
    match access {
        Access::Shared => format!("{uri}?mode=ro&readonly_shm=1"),
        Access::Immutable => format!("{uri}?mode=ro&immutable=1"),
    }
}

/// Permits what the reader's own statements do, and nothing that a view or a trigger does.
fn authorize(context: AuthContext<'_>) -> Authorization {
    let is_permitted = context.accessor.is_none()
        && match context.action {
            AuthAction::Select | AuthAction::Transaction { .. } => true,
            AuthAction::Function { function_name } => {
                ["coalesce", "count", "max", "min", "octet_length"].contains(&function_name)
            }
            AuthAction::Pragma { pragma_name, .. } => {
                ["data_version", "schema_version", "table_info"].contains(&pragma_name)
            }
            AuthAction::Read { table_name, column_name } => is_read(table_name, column_name),
            _ => false,
        };
    if is_permitted { Authorization::Allow } else { Authorization::Deny }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is written into the database by others cannot run, and what nobody needs to know cannot be read.
    #[test]
    fn only_counted_columns_of_tables_can_be_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("skills.db");
        let stored =
            "CREATE TABLE skill_invocation (id INTEGER PRIMARY KEY, skill_name, invoked_at, workflow_phase, completed,
                          duration_seconds, user_query, embedding);
                      CREATE TABLE session (id); CREATE TABLE skill_anomalies (id, common_errors);
                      CREATE VIEW skill_metrics AS SELECT skill_name FROM skill_invocation;
                      CREATE VIEW pragma_table_info AS SELECT skill_name FROM skill_invocation;";
        Connection::open(&path).unwrap().execute_batch(stored).unwrap();
        let connection = connect(&path, Access::Shared, &CancellationToken::new()).unwrap();
        connection.prepare("SELECT id, skill_name, max(completed) FROM main.skill_invocation").unwrap();
        for refused in [
            "SELECT user_query FROM skill_invocation",
            "SELECT embedding FROM skill_invocation",
            "SELECT * FROM skill_invocation",
            "SELECT 1 FROM skill_invocation WHERE user_query LIKE '%secret%'",
            "SELECT id FROM session",
            "SELECT common_errors FROM skill_anomalies",
            "SELECT skill_name FROM skill_metrics",
            "SELECT skill_name FROM main.pragma_table_info",
            "SELECT load_extension('evil')",
            "SELECT hex(skill_name) FROM skill_invocation",
            "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT i FROM n",
            "DELETE FROM skill_invocation",
            "CREATE TEMP TABLE t (i)",
            "ATTACH 'other.db' AS other",
            "PRAGMA journal_mode = DELETE",
        ] {
            assert!(connection.prepare(refused).is_err(), "{refused}");
        }
    }
}
