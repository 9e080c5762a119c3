//! All rows of the database at one moment, for the commands that end.

use std::path::Path;

use rusqlite::{Row, Transaction};
use tokio_util::sync::CancellationToken;

use crate::protocol::{AnomalyEntry, Rejection};

use super::error_type::ErrorType;
use super::facts::Table;
use super::files::AtRest;
use super::rows::{RowView, anomaly, anomaly_columns, invocation_columns, name, optional};
use super::schema::Schema;
use super::{SkillsDatabase, SkillsDatabaseError};

/// How often a database that is opened while it is read is read again.
const READINGS_MAX: u32 = 3;

/// The history of a database, open.
#[derive(Debug)]
pub struct HistoryDatabase(SkillsDatabase);

impl HistoryDatabase {
    /// Opens the database at `path`. One that nobody has open is read without a lock and without files beside it.
    ///
    /// # Errors
    /// Those of [`SkillsDatabase::open`], but [`SkillsDatabaseError::Unrecovered`], [`SkillsDatabaseError::Busy`] and
    /// [`SkillsDatabaseError::Changed`] where a bridge would wait.
    pub fn open(path: &Path) -> Result<Self, SkillsDatabaseError> {
        SkillsDatabase::open_with(path, AtRest::Immutable, &CancellationToken::new())
            .map(Self)
            .map_err(SkillsDatabaseError::of_command)
    }

    /// Begins a transaction that reads all rows.
    ///
    /// # Errors
    /// Whatever SQLite reports; a schema that has changed and is not the server's any more.
    pub fn history(&self) -> Result<History<'_>, SkillsDatabaseError> {
        self.0.begin_history().map_err(SkillsDatabaseError::of_command)
    }

    /// Returns whether what was read is of one moment: nobody opened or replaced a database that is read without a lock.
    pub fn is_consistent(&self) -> bool {
        !self.0.is_immutable() || self.0.is_current()
    }
}

/// Opens the database at `path` and reads its history with `read`: again, if somebody opened or replaced the database
/// meanwhile.
///
/// # Errors
/// Those of [`HistoryDatabase::open`], those of `read`, and [`SkillsDatabaseError::Changed`] if the database was opened or
/// replaced during each reading.
pub fn with_history<T, E: From<SkillsDatabaseError>>(
    path: &Path,
    mut read: impl FnMut(&History<'_>) -> Result<T, E>,
) -> Result<T, E> {
    for _ in 0..READINGS_MAX {
        let database = match HistoryDatabase::open(path) {
            Err(SkillsDatabaseError::Changed { .. }) => continue,
            opened => opened?,
        };
        let read = database.history().map_err(E::from).and_then(|history| read(&history));
        // A file that changes under a reader without locks can look damaged, too.
        if database.is_consistent() {
            return read;
        }
    }
    Err(SkillsDatabaseError::Changed { path: path.to_owned() }.into())
}

/// A read transaction over all rows. While it lasts, the server cannot restart its write-ahead log, which grows instead.
#[derive(Debug)]
pub struct History<'d> {
    transaction: Transaction<'d>,
    schema: Schema,
    path: &'d Path,
}

/// A valid row of `skill_invocation`, borrowed from SQLite.
#[derive(Debug, Clone, PartialEq)]
pub struct HistoricInvocation<'r> {
    /// Its primary key.
    pub key: i64,
    /// The skill, not empty.
    pub skill_name: &'r str,
    /// When it was invoked, as it is written; `None` where that is no text.
    pub invoked_at: Option<&'r str>,
    /// The phase; `None` where it is null or empty.
    pub workflow_phase: Option<&'r str>,
    /// Whether it was completed.
    pub completed: bool,
    /// The duration in seconds, finite and not negative; `None` where it is null.
    pub duration_seconds: Option<f64>,
    /// Why it failed; `None` if it was completed.
    pub failure: Option<ErrorType<'r>>,
    /// When the row was stored, as it is written; `None` where that is no text, or the database has no such column.
    pub created_at: Option<&'r str>,
}

/// A valid row of `skill_anomalies`.
#[derive(Debug, Clone, PartialEq)]
pub struct HistoricAnomaly {
    /// Its primary key.
    pub key: i64,
    /// What it says.
    pub entry: AnomalyEntry<'static>,
}

impl<'d> History<'d> {
    pub(super) fn new(transaction: Transaction<'d>, schema: Schema, path: &'d Path) -> Self {
        Self { transaction, schema, path }
    }

    fn failed(&self, error: rusqlite::Error) -> SkillsDatabaseError {
        SkillsDatabaseError::sqlite(self.path, error).of_command()
    }

    /// Returns whether invocations have the type of their error.
    pub fn has_error_types(&self) -> bool {
        self.schema.has_error_type
    }

    /// Returns whether there is a table of anomalies.
    pub fn has_anomalies(&self) -> bool {
        self.schema.has_anomalies
    }

    /// Returns the sum of the newest keys of both tables: about the number of rows, unless some were deleted.
    ///
    /// # Errors
    /// Whatever SQLite reports.
    pub fn newest_keys(&self) -> Result<u64, SkillsDatabaseError> {
        let newest = |table: Table| {
            let query = format!("SELECT coalesce(max(id), 0) FROM main.{}", table.name());
            let newest: rusqlite::Result<i64> = self.transaction.query_row(&query, [], |row| row.get(0));
            newest.map(|key| u64::try_from(key).unwrap_or(0)).map_err(|error| self.failed(error))
        };
        let anomalies = if self.schema.has_anomalies { newest(Table::Anomalies)? } else { 0 };
        Ok(newest(Table::Invocations)?.saturating_add(anomalies))
    }

    /// Calls `each` with every invocation in the order of the keys, or with the reason why a row is invalid.
    ///
    /// # Errors
    /// Whatever SQLite reports; those of `each`, after which no row is read.
    pub fn invocations<E: From<SkillsDatabaseError>>(
        &self,
        mut each: impl FnMut(Result<HistoricInvocation<'_>, Rejection>) -> Result<(), E>,
    ) -> Result<(), E> {
        let created_at = optional(self.schema.has_created_at, "created_at");
        let columns = format!("{}, {created_at}", invocation_columns(&self.schema));
        self.each_row(Table::Invocations, &columns, |row| each(historic_invocation(row)))
    }

    /// Calls `each` with every anomaly in the order of the keys, or with the reason why a row is invalid; with none, if there is
    /// no such table.
    ///
    /// # Errors
    /// Whatever SQLite reports; those of `each`, after which no row is read.
    pub fn anomalies<E: From<SkillsDatabaseError>>(
        &self,
        mut each: impl FnMut(Result<HistoricAnomaly, Rejection>) -> Result<(), E>,
    ) -> Result<(), E> {
        if !self.schema.has_anomalies {
            return Ok(());
        }
        self.each_row(Table::Anomalies, &anomaly_columns(), |row| {
            let row = anomaly(row);
            each(row.entry.map(|entry| HistoricAnomaly { key: row.fingerprint.key, entry }))
        })
    }

    fn each_row<E: From<SkillsDatabaseError>>(
        &self,
        table: Table,
        columns: &str,
        mut each: impl FnMut(&Row<'_>) -> Result<(), E>,
    ) -> Result<(), E> {
        let failed = |error| self.failed(error);
        let query = format!("SELECT {columns} FROM main.{} ORDER BY id", table.name());
        let mut query = self.transaction.prepare(&query).map_err(failed)?;
        let mut rows = query.query([]).map_err(failed)?;
        while let Some(row) = rows.next().map_err(failed)? {
            each(row)?;
        }
        Ok(())
    }
}

fn historic_invocation<'r>(row: &'r Row<'_>) -> Result<HistoricInvocation<'r>, Rejection> {
    /// The column behind those of [`invocation_columns`].
    const CREATED_AT: usize = 7;
    let RowView { skill_name, invoked_at, completed, failure, details, .. } = RowView::of(row);
    let (workflow_phase, duration_seconds) = details?;
    let (skill_name, completed) = skill_name.zip(completed).expect("a row with details has a skill and an outcome");
    Ok(HistoricInvocation {
        key: row.get(0).unwrap_or_default(),
        skill_name,
        invoked_at,
        workflow_phase,
        completed,
        duration_seconds,
        failure,
        created_at: row.get_ref(CREATED_AT).ok().and_then(name),
    })
}
