//! What the database has of the tables that are read.

use std::path::Path;

use rusqlite::{Connection, OptionalExtension as _};

use super::SkillsDatabaseError;
use super::facts::Table;
use super::fingerprint::{fingerprint_columns, former_fingerprint_columns};

/// Columns that are counted from. `id` has to be the key of the rows.
const INVOCATION_COLUMNS: [&str; 6] =
    ["id", "skill_name", "invoked_at", "workflow_phase", "completed", "duration_seconds"];
const ANOMALY_COLUMNS: [&str; 5] = ["id", "skill_name", "detected_at", "anomaly_type", "deviation_score"];
/// Columns of an invocation that a database need not have.
pub(super) const ERROR_TYPE: &str = "error_type";
const CREATED_AT: &str = "created_at";
const METRICS_COLUMNS: [&str; 4] =
    ["skill_name", "total_invocations", "completed_invocations", "total_duration_seconds"];

/// The table from which the server makes what it lists.
pub(super) const METRICS: &str = "skill_metrics";

/// The schema, as far as it is read, validated.
#[derive(Debug, Clone, Copy)]
pub(super) struct Schema {
    /// `PRAGMA schema_version` when it was validated.
    pub version: i64,
    pub has_anomalies: bool,
    pub has_metrics: bool,
    /// Whether invocations have the type of their error.
    pub has_error_type: bool,
    /// Whether invocations have the time at which their row was stored.
    pub has_created_at: bool,
    /// Whether there is any table with `AUTOINCREMENT`.
    pub has_sequence: bool,
    /// Whether the columns of a former fingerprint of an invocation are there.
    has_former_columns: bool,
}

impl Schema {
    /// Validates what is there now.
    pub fn validate(connection: &Connection, path: &Path) -> Result<Self, SkillsDatabaseError> {
        let failed = |error| SkillsDatabaseError::sqlite(path, error);
        let tables = Tables { connection, path };
        let version = schema_version(connection).map_err(failed)?;
        if !tables.validate(Table::Invocations.name(), &INVOCATION_COLUMNS)? {
            return Err(SkillsDatabaseError::MissingTable { path: path.to_owned(), table: Table::Invocations.name() });
        }
        tables.validate_key(Table::Invocations.name())?;
        let has_anomalies = tables.validate(Table::Anomalies.name(), &ANOMALY_COLUMNS)?;
        if has_anomalies {
            tables.validate_key(Table::Anomalies.name())?;
        }
        let has_metrics = tables.validate(METRICS, &METRICS_COLUMNS)?;
        let has_sequence = tables.kind("sqlite_sequence").map_err(failed)? == Some(Kind::Table);
        let has_columns = |columns: &[&'static str]| {
            let missing = tables.missing_column(Table::Invocations.name(), columns);
            missing.map(|missing| missing.is_none()).map_err(failed)
        };
        Ok(Self {
            version,
            has_anomalies,
            has_metrics,
            has_error_type: has_columns(&[ERROR_TYPE])?,
            has_created_at: has_columns(&[CREATED_AT])?,
            has_sequence,
            has_former_columns: has_columns(former_fingerprint_columns(Table::Invocations))?,
        })
    }

    /// The columns of a row by which it is recognised: the key, those of its fingerprint, and those of a former fingerprint
    /// where all of them are there.
    pub fn identifying_columns(&self, table: Table) -> impl Iterator<Item = &'static str> {
        let former = if self.has_former_columns { former_fingerprint_columns(table) } else { &[] };
        std::iter::once("id").chain(fingerprint_columns(table).iter().copied()).chain(former.iter().copied())
    }
}

/// Whether a statement of the reader reads this column, which is empty where it reads no column in particular: what is
/// counted from, what rows may have beside it, what former fingerprints cover, and the tables in which SQLite keeps account of the others.
pub(super) fn is_read(table: &str, column: &str) -> bool {
    if ["sqlite_master", "sqlite_sequence", "pragma_table_info"].contains(&table) {
        return true;
    }
    let former = former_fingerprint_columns(Table::Invocations);
    let tables: [(&str, &[&str]); 5] = [
        (Table::Invocations.name(), &INVOCATION_COLUMNS),
        (Table::Invocations.name(), &[ERROR_TYPE, CREATED_AT]),
        (Table::Invocations.name(), former),
        (Table::Anomalies.name(), &ANOMALY_COLUMNS),
        (METRICS, &METRICS_COLUMNS),
    ];
    tables.iter().any(|(name, columns)| {
        name.eq_ignore_ascii_case(table)
            && (column.is_empty() || columns.iter().any(|known| known.eq_ignore_ascii_case(column)))
    })
}

/// `PRAGMA schema_version`, which rises with each change of the schema.
pub(super) fn schema_version(connection: &Connection) -> rusqlite::Result<i64> {
    connection.query_row("PRAGMA main.schema_version", [], |row| row.get(0))
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Table,
    View,
    VirtualTable,
}

struct Tables<'c> {
    connection: &'c Connection,
    path: &'c Path,
}

impl Tables<'_> {
    /// Whether there is a table of this name. It has these columns then.
    fn validate(&self, table: &'static str, columns: &[&'static str]) -> Result<bool, SkillsDatabaseError> {
        let failed = |error| SkillsDatabaseError::sqlite(self.path, error);
        let kind = match self.kind(table).map_err(failed)? {
            None => return Ok(false),
            Some(Kind::Table) => None,
            Some(Kind::View) => Some("view"),
            Some(Kind::VirtualTable) => Some("virtual table"),
        };
        if let Some(kind) = kind {
            return Err(SkillsDatabaseError::NotATable { path: self.path.to_owned(), table, kind });
        }
        match self.missing_column(table, columns).map_err(failed)? {
            None => Ok(true),
            Some(column) => Err(SkillsDatabaseError::MissingColumn { path: self.path.to_owned(), table, column }),
        }
    }

    /// Names are told apart without regard to case, as SQLite does.
    fn kind(&self, name: &str) -> rusqlite::Result<Option<Kind>> {
        let query = "SELECT type, coalesce(rootpage, 0) FROM main.sqlite_schema
                     WHERE name = ?1 COLLATE NOCASE AND type IN ('table', 'view')";
        let found = self.connection.query_row(query, [name], |row| {
            Ok(match (row.get_ref(0)?.as_str()?, row.get::<_, i64>(1)?) {
                ("view", _) => Kind::View,
                // Virtual tables have no pages of their own.
                (_, 0) => Kind::VirtualTable,
                _ => Kind::Table,
            })
        });
        found.optional()
    }

    /// The first of `columns` that the table does not have. Generated columns are none: they run code.
    fn missing_column(&self, table: &str, columns: &[&'static str]) -> rusqlite::Result<Option<&'static str>> {
        let query = "SELECT EXISTS (SELECT 1 FROM pragma_table_info(?1, 'main') WHERE name = ?2 COLLATE NOCASE)";
        let mut query = self.connection.prepare(query)?;
        for column in columns {
            if !query.query_row([table, column], |row| row.get(0))? {
                return Ok(Some(column));
            }
        }
        Ok(None)
    }

    fn validate_key(&self, table: &'static str) -> Result<(), SkillsDatabaseError> {
        let query =
            "SELECT count(*) FILTER (WHERE name = 'id' COLLATE NOCASE AND type = 'INTEGER' COLLATE NOCASE), count(*)
                     FROM pragma_table_info(?1, 'main') WHERE pk > 0";
        let keys: rusqlite::Result<(i64, i64)> =
            self.connection.query_row(query, [table], |row| Ok((row.get(0)?, row.get(1)?)));
        match keys.map_err(|error| SkillsDatabaseError::sqlite(self.path, error))? {
            (1, 1) => Ok(()),
            _ => Err(SkillsDatabaseError::NoRowKey { path: self.path.to_owned(), table }),
        }
    }
}
