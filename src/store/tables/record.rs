//! A row of a table: its columns are listed once, so that what is written and what is read back cannot differ.

use rusqlite::types::{FromSql, FromSqlError, FromSqlResult, ToSql, ToSqlOutput, ValueRef};
use rusqlite::{Connection, Row};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::entry::Entry;
use super::statement::Statement;

/// A row of one table. Implemented by [`record!`].
pub(super) trait Record: Sized {
    /// Returns every row, in the order of the key.
    const SELECT: &'static str;

    /// Writes one row over the one with the same key.
    const UPSERT: Statement;

    /// The text of [`Record::UPSERT`].
    fn upsert() -> &'static str;

    fn read(row: &Row<'_>) -> rusqlite::Result<Self>;

    /// Adds [`Record::UPSERT`] to `entry`.
    fn write(&self, entry: &mut Entry) -> rusqlite::Result<()>;
}

/// Declares a table's row: `record! { "table", key (columns), upsert Statement, struct Name { column: Type, ... } }`. Columns that
/// never change are listed behind the key as `constant (columns)`: they are inserted and not updated, so that their indexes are not
/// rewritten.
macro_rules! record {
    (
        $table:literal, key ($first_key:ident $(, $key:ident)*) $(, constant ($($constant:ident),+))?, upsert $upsert:ident,
        struct $name:ident { $first:ident: $first_type:ty $(, $column:ident: $type:ty)* $(,)? }
    ) => {
        pub(super) struct $name {
            $first: $first_type,
            $($column: $type,)*
        }

        impl $crate::store::tables::record::Record for $name {
            const SELECT: &'static str = concat!(
                "SELECT ", stringify!($first), $(", ", stringify!($column),)*
                " FROM ", $table,
                " ORDER BY ", stringify!($first_key), $(", ", stringify!($key),)*
            );

            const UPSERT: $crate::store::tables::statement::Statement =
                $crate::store::tables::statement::Statement::$upsert;

            fn upsert() -> &'static str {
                static UPSERT: std::sync::LazyLock<String> = std::sync::LazyLock::new(|| {
                    let key = [stringify!($first_key), $(stringify!($key),)*];
                    let constant: &[&str] = &[$($(stringify!($constant),)+)?];
                    let columns = [stringify!($first), $(stringify!($column),)*];
                    $crate::store::tables::record::upsert($table, &key, constant, &columns)
                });
                &UPSERT
            }

            fn read(row: &rusqlite::Row<'_>) -> rusqlite::Result<Self> {
                let mut columns = 0..;
                let mut next = || columns.next().expect("endless");
                Ok(Self { $first: row.get(next())?, $($column: row.get(next())?,)* })
            }

            fn write(&self, entry: &mut $crate::store::tables::entry::Entry) -> rusqlite::Result<()> {
                entry.push(Self::UPSERT, rusqlite::params![self.$first, $(self.$column,)*])
            }
        }
    };
}
pub(super) use record;

/// An update in place: `INSERT OR REPLACE` would delete the row and insert another.
pub(super) fn upsert(table: &str, key: &[&str], constant: &[&str], columns: &[&str]) -> String {
    let parameters: Vec<_> = columns.iter().map(|column| format!(":{column}")).collect();
    let values = columns.iter().filter(|column| !key.contains(column) && !constant.contains(column));
    let updates: Vec<_> = values.map(|column| format!("{column} = excluded.{column}")).collect();
    format!(
        "INSERT INTO {table} ({}) VALUES ({}) ON CONFLICT ({}) DO UPDATE SET {}",
        columns.join(", "),
        parameters.join(", "),
        key.join(", "),
        updates.join(", ")
    )
}

/// Every row of a table, in the order of its key.
pub(super) fn load<R: Record>(connection: &Connection) -> rusqlite::Result<Vec<R>> {
    connection.prepare(R::SELECT)?.query_map([], R::read)?.collect()
}

/// Writes rows over those with the same keys.
pub(super) fn save<R: Record>(entry: &mut Entry, records: impl IntoIterator<Item = R>) -> rusqlite::Result<()> {
    records.into_iter().try_for_each(|record| record.write(entry))
}

/// A value that a column holds as JSON.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Json<T>(pub T);

impl<T: Serialize> ToSql for Json<T> {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        let text = serde_json::to_string(&self.0);
        Ok(text.map_err(|error| rusqlite::Error::ToSqlConversionFailure(error.into()))?.into())
    }
}

impl<T: DeserializeOwned> FromSql for Json<T> {
    fn column_result(value: ValueRef<'_>) -> FromSqlResult<Self> {
        serde_json::from_str(value.as_str()?).map(Self).map_err(FromSqlError::other)
    }
}

/// The error of a value that no state of this program holds.
pub(super) fn invalid(problem: String) -> rusqlite::Error {
    FromSqlError::Other(problem.into()).into()
}
