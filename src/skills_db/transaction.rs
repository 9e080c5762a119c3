//! The statements of one reading. All of them see the same moment of the database.

use std::collections::BTreeMap;

use rusqlite::types::ValueRef;
use rusqlite::{Connection, OptionalExtension as _, Row};

use super::facts::{
    AnomaliesPlan, AnomalyCount, BATCH_ROWS, DatabaseFacts, DatabaseReading, KeyRange, MissingRows, ReadPlan, RowCount,
    RowFingerprint, RowsRead, SkillMetrics, SkillRowCounts, Table, TableCursor, TableFacts,
};
use super::fingerprint::{digest, fingerprint, fingerprint_columns, time_if_renamed};
use super::rows::{anomaly, anomaly_columns, bounded, invocation, invocation_columns, name, skill_metrics};
use super::schema::{METRICS, Schema};

/// Bytes of names in the counts of one reading. Names beyond are left out: no ledger has room for them.
const NAME_BYTES_MAX: usize = 64 * 1024 * 1024;

/// Rows that have the keys and the times of rows that were read, to a fraction of a second, and other skills, to be those rows:
/// another database can share one of them by chance.
const PRECISE_TIMES_NEEDED: u64 = 2;

/// A read transaction. Statements walk tables in the order of their keys and never sort, so that each step of theirs can be
/// interrupted.
pub(super) struct ReadTransaction<'t> {
    connection: &'t Connection,
    schema: &'t Schema,
}

impl<'t> ReadTransaction<'t> {
    /// Within the transaction that `connection` is in.
    pub fn new(connection: &'t Connection, schema: &'t Schema) -> Self {
        Self { connection, schema }
    }

    /// How `table` continues.
    pub fn table_facts(
        &self,
        table: Table,
        cursor: TableCursor,
        remembered: &dyn Fn(Table) -> Vec<RowFingerprint>,
    ) -> rusqlite::Result<TableFacts> {
        let rows_read = match cursor.last {
            None => RowsRead::NoneYet,
            Some(last) => match self.find(table, last)? {
                Found::Present => RowsRead::LastPresent,
                found => self.missing_rows(table, cursor, found, &remembered(table))?,
            },
        };
        Ok(TableFacts { cursor, keys: self.keys(table)?, sequence: self.sequence(table)?, rows_read })
    }

    fn missing_rows(
        &self,
        table: Table,
        cursor: TableCursor,
        last: Found,
        remembered: &[RowFingerprint],
    ) -> rusqlite::Result<RowsRead> {
        let mut missing =
            MissingRows { rows_up_to_cursor: self.rows_up_to(table, cursor.key)?, ..MissingRows::default() };
        let (mut present, mut renamed, mut replaced, mut precise) = (Vec::new(), Vec::new(), Vec::new(), 0);
        for fingerprint in remembered {
            match self.find(table, *fingerprint)? {
                Found::Present => present.push(fingerprint.key),
                Found::Renamed { is_precise } => {
                    precise += u64::from(is_precise);
                    renamed.push(fingerprint.key);
                }
                Found::Absent => missing.absent += 1,
                Found::Replaced => replaced.push(fingerprint.key),
            }
        }
        // Rows of another database can have the same keys and times. Beside rows that are the same they are the same, too, and
        // where their times are precise.
        if present.is_empty() && precise < PRECISE_TIMES_NEEDED {
            replaced.append(&mut renamed);
        } else if let Found::Renamed { .. } = last {
            return Ok(RowsRead::LastPresent);
        }
        present.append(&mut renamed);
        missing.present = present.len() as u64;
        missing.replaced = replaced.len() as u64;
        missing.newest_present = present.into_iter().max();
        missing.oldest_replaced = replaced.into_iter().filter(|key| Some(*key) > missing.newest_present).min();
        Ok(RowsRead::LastMissing(missing))
    }

    fn find(&self, table: Table, sought: RowFingerprint) -> rusqlite::Result<Found> {
        let columns: Vec<_> = self.schema.identifying_columns(table).map(bounded).collect();
        let query = format!("SELECT {} FROM main.{} WHERE id = ?1", columns.join(", "), table.name());
        let former = fingerprint_columns(table).len() + 1..columns.len();
        let mut query = self.connection.prepare_cached(&query)?;
        let found = query.query_row([sought.key], |row| {
            let is_former = |row| !former.is_empty() && digest(row, former.clone()) == sought.digest;
            let found = fingerprint(row, table);
            Ok(if found == sought || is_former(row) {
                Found::Present
            } else if let Some(time) = time_if_renamed(row, found, sought, table) {
                Found::Renamed { is_precise: time.contains(&b'.') }
            } else {
                Found::Replaced
            })
        });
        Ok(found.optional()?.unwrap_or(Found::Absent))
    }

    fn keys(&self, table: Table) -> rusqlite::Result<Option<KeyRange>> {
        let name = table.name();
        // Two queries: SQLite looks up one extreme at a time and scans for two.
        let query = format!("SELECT (SELECT min(id) FROM main.{name}), (SELECT max(id) FROM main.{name})");
        self.connection.prepare_cached(&query)?.query_row([], |row| {
            let (oldest, newest): (Option<i64>, Option<i64>) = (row.get(0)?, row.get(1)?);
            Ok(oldest.zip(newest).map(|(oldest, newest)| KeyRange { oldest, newest }))
        })
    }

    fn sequence(&self, table: Table) -> rusqlite::Result<Option<i64>> {
        if !self.schema.has_sequence {
            return Ok(None);
        }
        let query = "SELECT seq FROM main.sqlite_sequence WHERE name = ?1 COLLATE NOCASE";
        let found = self.connection.prepare_cached(query)?.query_row([table.name()], |row| {
            Ok(match row.get_ref(0)? {
                ValueRef::Integer(sequence) => Some(sequence),
                _ => None,
            })
        });
        Ok(found.optional()?.flatten())
    }

    fn rows_up_to(&self, table: Table, key: i64) -> rusqlite::Result<u64> {
        let query = format!("SELECT count(*) FROM main.{} WHERE id BETWEEN 1 AND ?1", table.name());
        self.connection.prepare_cached(&query)?.query_row([key], |row| row.get(0))
    }

    /// All of `skill_metrics`, where the table exists.
    pub fn skill_metrics(&self) -> rusqlite::Result<Option<Vec<SkillMetrics>>> {
        if !self.schema.has_metrics {
            return Ok(None);
        }
        let query = format!(
            "SELECT {}, total_invocations, completed_invocations, total_duration_seconds FROM main.{METRICS}",
            bounded("skill_name"),
        );
        let mut query = self.connection.prepare_cached(&query)?;
        let mut rows = query.query([])?;
        let (mut metrics, mut room) = (Vec::new(), NAME_BYTES_MAX);
        while let Some(row) = rows.next()? {
            let Some(skill) = skill_metrics(row) else { continue };
            if take_room(&mut room, skill.skill_name.len()) {
                metrics.push(skill);
            }
        }
        Ok(Some(metrics))
    }

    /// Carries out the plan.
    pub fn read(&self, facts: DatabaseFacts, plan: ReadPlan) -> rusqlite::Result<DatabaseReading> {
        let row_counts = if plan.counts_rows { Some(self.row_counts(plan.invocations_after)?) } else { None };
        let (invocations, mut has_more) =
            self.batch(Table::Invocations, &invocation_columns(), plan.invocations_after, invocation)?;
        let (mut anomalies, mut anomaly_counts) = (None, None);
        if self.schema.has_anomalies {
            let columns = anomaly_columns();
            anomalies = Some(match plan.anomalies {
                AnomaliesPlan::After(key) => {
                    let (rows, has_more_anomalies) = self.batch(Table::Anomalies, &columns, key, anomaly)?;
                    has_more |= has_more_anomalies;
                    rows
                }
                AnomaliesPlan::Newest => {
                    anomaly_counts = Some(self.anomaly_counts()?);
                    self.newest(Table::Anomalies, &columns, anomaly)?
                }
            });
        }
        Ok(DatabaseReading { facts, plan, invocations, anomalies, row_counts, anomaly_counts, has_more })
    }

    /// The next rows after the key `after`, and whether there are more.
    fn batch<T>(
        &self,
        table: Table,
        columns: &str,
        after: i64,
        read: impl Fn(&Row<'_>) -> T,
    ) -> rusqlite::Result<(Vec<T>, bool)> {
        let query = format!("SELECT {columns} FROM main.{} WHERE id > ?1 ORDER BY id LIMIT ?2", table.name());
        let mut query = self.connection.prepare_cached(&query)?;
        let rows = query.query_map((after, BATCH_ROWS + 1), |row| Ok(read(row)))?;
        let mut rows = rows.collect::<rusqlite::Result<Vec<_>>>()?;
        let has_more = rows.len() > BATCH_ROWS;
        rows.truncate(BATCH_ROWS);
        Ok((rows, has_more))
    }

    /// The newest rows, oldest first.
    fn newest<T>(&self, table: Table, columns: &str, read: impl Fn(&Row<'_>) -> T) -> rusqlite::Result<Vec<T>> {
        let query = format!("SELECT {columns} FROM main.{} WHERE id > 0 ORDER BY id DESC LIMIT ?1", table.name());
        let mut query = self.connection.prepare_cached(&query)?;
        let rows = query.query_map([BATCH_ROWS], |row| Ok(read(row)))?;
        let mut rows = rows.collect::<rusqlite::Result<Vec<_>>>()?;
        rows.reverse();
        Ok(rows)
    }

    fn row_counts(&self, after: i64) -> rusqlite::Result<Vec<SkillRowCounts>> {
        let query = format!(
            "SELECT id, {}, completed, duration_seconds FROM main.{} ORDER BY id",
            bounded("skill_name"),
            Table::Invocations.name()
        );
        let mut skills = BTreeMap::<Box<str>, SkillRowCounts>::new();
        let mut room = NAME_BYTES_MAX;
        let mut query = self.connection.prepare(&query)?;
        let mut rows = query.query([])?;
        while let Some(row) = rows.next()? {
            let Some(skill_name) = name(row.get_ref(1)?) else { continue };
            let counts = match skills.get_mut(skill_name) {
                Some(counts) => counts,
                None if !take_room(&mut room, skill_name.len()) => continue,
                None => skills.entry(skill_name.into()).or_insert(SkillRowCounts {
                    skill_name: skill_name.into(),
                    all: RowCount::default(),
                    duration_seconds: 0.0,
                    unread: RowCount::default(),
                }),
            };
            let is_completed = match row.get_ref(2)? {
                ValueRef::Integer(0) => false,
                ValueRef::Integer(1) => true,
                _ => continue,
            };
            if is_completed {
                counts.duration_seconds += match row.get_ref(3)? {
                    ValueRef::Real(seconds) => seconds,
                    ValueRef::Integer(seconds) => seconds as f64,
                    _ => 0.0,
                };
            }
            counts.all.add(is_completed);
            if row.get::<_, i64>(0)? > after {
                counts.unread.add(is_completed);
            }
        }
        Ok(skills.into_values().collect())
    }

    fn anomaly_counts(&self) -> rusqlite::Result<Vec<AnomalyCount>> {
        let query = format!(
            "SELECT {}, {} FROM main.{} WHERE id > 0 ORDER BY id",
            bounded("skill_name"),
            bounded("anomaly_type"),
            Table::Anomalies.name()
        );
        let mut counts = BTreeMap::<(Box<str>, Box<str>), u64>::new();
        let mut room = NAME_BYTES_MAX;
        let mut query = self.connection.prepare(&query)?;
        let mut rows = query.query([])?;
        while let Some(row) = rows.next()? {
            let names = name(row.get_ref(0)?).zip(name(row.get_ref(1)?));
            let Some(names) = names.map(|(skill, kind)| (Box::from(skill), Box::from(kind))) else { continue };
            if let Some(count) = counts.get_mut(&names) {
                *count += 1;
            } else if take_room(&mut room, names.0.len() + names.1.len()) {
                counts.insert(names, 1);
            }
        }
        let count = |((skill_name, anomaly_type), rows)| AnomalyCount { skill_name, anomaly_type, rows };
        Ok(counts.into_iter().map(count).collect())
    }
}

impl RowCount {
    fn add(&mut self, is_completed: bool) {
        let count = if is_completed { &mut self.completed } else { &mut self.abandoned };
        *count += 1;
    }
}

/// Takes `bytes` from `room`. Whether there were as many.
fn take_room(room: &mut usize, bytes: usize) -> bool {
    match room.checked_sub(bytes) {
        Some(left) => {
            *room = left;
            true
        }
        None => false,
    }
}

/// Whether a row that was read is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Found {
    Present,
    /// With the same time, under another skill.
    Renamed {
        /// Whether the time has a fraction of a second.
        is_precise: bool,
    },
    Absent,
    /// Its key belongs to another row.
    Replaced,
}
