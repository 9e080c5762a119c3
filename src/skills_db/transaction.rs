//! The statements of one reading. All of them see the same moment of the database.

use std::collections::{BTreeMap, HashMap};

use rusqlite::types::ValueRef;
use rusqlite::{Connection, OptionalExtension as _, Row};

use super::facts::{
    AnomaliesPlan, AnomalyCount, BATCH_ROWS, DatabaseFacts, DatabaseReading, HeldSkills, KeyRange, MissingRows,
    ReadPlan, RowCount, RowFingerprint, RowsRead, SkillMetrics, SkillRowCounts, Table, TableCursor, TableFacts,
};
use super::fingerprint::{digest, fingerprint, fingerprint_columns, time_if_renamed};
use super::rows::{anomaly, anomaly_columns, bounded, invocation, invocation_columns, name, skill_metrics};
use super::schema::{METRICS, Schema};

/// Bytes of names in the counts of one reading. Names beyond are left out: no ledger has room for them.
const NAME_BYTES_MAX: usize = 64 * 1024 * 1024;

/// Pairs of a skill and an anomaly type in the counts of one reading: as many as anomalies that a ledger remembers.
const ANOMALY_COUNTS_MAX: usize = 100_000;

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

    /// `skill_metrics`, at most so many skills, where the table exists.
    pub fn skill_metrics(&self, skills_max: usize) -> rusqlite::Result<Option<HeldSkills>> {
        if !self.schema.has_metrics {
            return Ok(None);
        }
        let query = format!(
            "SELECT {}, total_invocations, completed_invocations, total_duration_seconds FROM main.{METRICS}",
            bounded("skill_name"),
        );
        let mut query = self.connection.prepare_cached(&query)?;
        let mut rows = query.query([])?;
        let (mut held, mut room) = (HeldSkills::default(), Room::for_names(skills_max));
        // Whoever fills the table must not make each reading walk all of it.
        while !held.is_truncated
            && let Some(row) = rows.next()?
        {
            let Some(skill) = skill_metrics(row) else { continue };
            if room.take(skill.skill_name.len()) {
                held.skills.push(skill);
            } else {
                held.is_truncated = true;
            }
        }
        Ok(Some(held))
    }

    /// What the rows of each skill add up to, as `skill_metrics` do, of at most so many skills.
    pub fn row_sums(&self, skills_max: usize) -> rusqlite::Result<HeldSkills> {
        let (counts, is_truncated) = self.row_counts(i64::MAX, Room::for_names(skills_max), &[])?;
        let skill = |counts: SkillRowCounts| SkillMetrics {
            skill_name: counts.skill_name,
            total: counts.all.completed + counts.all.abandoned,
            completed: counts.all.completed,
            duration_seconds: Some(counts.duration_seconds).filter(|seconds| seconds.is_finite() && *seconds >= 0.0),
        };
        Ok(HeldSkills { skills: counts.into_iter().map(skill).collect(), is_truncated })
    }

    /// Carries out the plan. Rows are counted of the skills whose numbers were read, and of at most so many others.
    pub fn read(&self, facts: DatabaseFacts, plan: ReadPlan, skills_max: usize) -> rusqlite::Result<DatabaseReading> {
        let metrics = facts.skill_metrics.as_ref().map_or(&[][..], |held| &held.skills);
        let (row_counts, row_counts_are_truncated) = match plan.counts_rows {
            true => {
                let (mut counts, is_truncated) =
                    self.row_counts(plan.invocations_after, Room::for_names(skills_max), metrics)?;
                counts.sort_unstable_by(|a, b| a.skill_name.cmp(&b.skill_name));
                (Some(counts), is_truncated)
            }
            false => (None, false),
        };
        let (invocations, mut has_more) =
            self.batch(Table::Invocations, &invocation_columns(self.schema), plan.invocations_after, |row| {
                invocation(row, self.schema)
            })?;
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
        Ok(DatabaseReading {
            facts,
            plan,
            invocations,
            anomalies,
            row_counts,
            row_counts_are_truncated,
            anomaly_counts,
            has_more,
        })
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

    /// The rows of each skill in `metrics`, and of others for which there is `room`. Whether some were left out.
    fn row_counts(
        &self,
        after: i64,
        mut room: Room,
        metrics: &[SkillMetrics],
    ) -> rusqlite::Result<(Vec<SkillRowCounts>, bool)> {
        let query = format!(
            "SELECT id, {}, completed, duration_seconds FROM main.{} ORDER BY id",
            bounded("skill_name"),
            Table::Invocations.name()
        );
        let mut counts: Vec<_> = metrics.iter().map(|skill| SkillRowCounts::none(skill.skill_name.clone())).collect();
        let mut indices: HashMap<Box<str>, usize> =
            metrics.iter().map(|skill| skill.skill_name.clone()).zip(0..).collect();
        let mut is_truncated = false;
        let mut query = self.connection.prepare(&query)?;
        let mut rows = query.query([])?;
        while let Some(row) = rows.next()? {
            let Some(skill_name) = name(row.get_ref(1)?) else { continue };
            let index = match indices.get(skill_name) {
                Some(index) => *index,
                None if !room.take(skill_name.len()) => {
                    is_truncated = true;
                    continue;
                }
                None => {
                    indices.insert(skill_name.into(), counts.len());
                    counts.push(SkillRowCounts::none(skill_name.into()));
                    counts.len() - 1
                }
            };
            let counts = &mut counts[index];
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
        counts.retain(|skill| skill.all != RowCount::default());
        Ok((counts, is_truncated))
    }

    fn anomaly_counts(&self) -> rusqlite::Result<Vec<AnomalyCount>> {
        let query = format!(
            "SELECT {}, {} FROM main.{} WHERE id > 0 ORDER BY id",
            bounded("skill_name"),
            bounded("anomaly_type"),
            Table::Anomalies.name()
        );
        let mut counts = BTreeMap::<(Box<str>, Box<str>), u64>::new();
        let mut room = Room::for_names(ANOMALY_COUNTS_MAX);
        let mut query = self.connection.prepare(&query)?;
        let mut rows = query.query([])?;
        while let Some(row) = rows.next()? {
            let names = name(row.get_ref(0)?).zip(name(row.get_ref(1)?));
            let Some(names) = names.map(|(skill, kind)| (Box::from(skill), Box::from(kind))) else { continue };
            if let Some(count) = counts.get_mut(&names) {
                *count += 1;
            } else if room.take(names.0.len() + names.1.len()) {
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

impl SkillRowCounts {
    fn none(skill_name: Box<str>) -> Self {
        let (all, unread) = (RowCount::default(), RowCount::default());
        Self { skill_name, all, duration_seconds: 0.0, unread }
    }
}

/// How many names are still read, and how many bytes of them.
#[derive(Debug, Clone, Copy)]
struct Room {
    names: usize,
    bytes: usize,
}

impl Room {
    fn for_names(names: usize) -> Self {
        Self { names, bytes: NAME_BYTES_MAX }
    }

    /// Takes room for one more, of so many bytes. Whether there was.
    fn take(&mut self, bytes: usize) -> bool {
        let left = self.names.checked_sub(1).zip(self.bytes.checked_sub(bytes));
        let has_room = left.is_some();
        if let Some((names, bytes)) = left {
            *self = Self { names, bytes };
        }
        has_room
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
