//! The facts of the server's database, in the terms of `database_mode`.

use std::collections::BTreeMap;

use crate::skills_db::{
    AnomaliesPlan, DatabaseFacts, DatabaseReading, ReadPlan, ReadRequest, RowsRead, SkillMetrics, SkillRowCounts,
    TableCursor, TableFacts,
};

use super::database_mode::{
    AnomalyReading, AnomalyRow, AnomalyTally, DatabasePosition, InvocationRow, Numbers, RowsReading, SkillNumbers,
    TableContinuity, ToldInvocation,
};
use super::limits::Limits;
use super::server_time;

impl DatabasePosition {
    /// What is asked of the reader.
    pub fn request(&self) -> ReadRequest {
        ReadRequest {
            invocations: self.invocations,
            anomalies: self.anomalies,
            distrusted_connection: self.distrusted_connection,
            reads_unchanged: self.reads_unchanged,
            sums_rows: self.is_unconfirmed,
            skills_max: self.skills_max,
        }
    }

    /// The position in a database of which nothing was ever read.
    pub fn beginning(limits: &Limits) -> Self {
        Self {
            source: None,
            invocations: TableCursor::default(),
            anomalies: TableCursor::default(),
            is_changeover: true,
            distrusted_connection: None,
            reads_unchanged: true,
            is_unconfirmed: true,
            skills_max: limits.remembered_skills_max,
        }
    }

    /// What is read of a database with these facts.
    pub fn plan(&self, facts: &DatabaseFacts) -> ReadPlan {
        let (continuity, anomalies_continuity) = self.continuities(facts);
        ReadPlan {
            invocations_after: continuity.after(self.invocations),
            anomalies: match anomalies_continuity {
                Some(continuity @ (TableContinuity::Continues | TableContinuity::CutBack { .. })) => {
                    AnomaliesPlan::After(continuity.after(self.anomalies))
                }
                Some(TableContinuity::Emptied) if !self.is_changeover => AnomaliesPlan::After(self.anomalies.key),
                // By their numbers: anomalies of a skill and a type are alike, so that it is enough how many there are.
                Some(_) | None => AnomaliesPlan::Newest,
            },
            counts_rows: self.is_changeover
                || matches!(continuity, TableContinuity::CutBack { .. } | TableContinuity::Other),
        }
    }

    /// The primary key of the newest invocation in the database that was read; 0 where it has only anomalies that were read,
    /// and `None` where it has no row that was.
    pub fn newest_common(&self, facts: &DatabaseFacts) -> Option<i64> {
        let newest = |facts: &TableFacts| match facts.rows_read {
            RowsRead::LastPresent => facts.cursor.last.map(|last| last.key),
            RowsRead::LastMissing(missing) => missing.newest_present,
            RowsRead::NoneYet => None,
        };
        newest(&facts.invocations).or_else(|| {
            let anomalies = facts.anomalies.as_ref().filter(|_| facts.invocations.keys.is_none());
            anomalies.and_then(newest).map(|_| 0)
        })
    }

    /// Whether the last invocation that was read is the one at which the database goes on.
    pub fn is_continued_by(&self, facts: &DatabaseFacts) -> bool {
        facts.invocations.rows_read == RowsRead::LastPresent
    }

    /// Whether the database is another than the one that was read.
    pub fn is_another(&self, facts: &DatabaseFacts) -> bool {
        self.continuities(facts).0 == TableContinuity::Other
    }

    /// Whether no invocation is left that was read, and nothing but the numbers shows whether it is another database.
    pub fn is_emptied(&self, facts: &DatabaseFacts) -> bool {
        self.continuities(facts).0 == TableContinuity::Emptied
    }

    /// Whether the database came back younger than it was read.
    pub fn is_cut_back(&self, facts: &DatabaseFacts) -> bool {
        matches!(self.continuities(facts).0, TableContinuity::CutBack { .. })
    }

    /// How both tables continue what was read of them.
    fn continuities(&self, facts: &DatabaseFacts) -> (TableContinuity, Option<TableContinuity>) {
        let mut continuity = continuity(self.invocations, &facts.invocations);
        let Some(anomalies) = &facts.anomalies else { return (continuity, None) };
        let mut anomalies_continuity = self::continuity(self.anomalies, anomalies);
        // No invocation vouches for the database, so that the anomalies alone can tell that it is another.
        if continuity == TableContinuity::Emptied && anomalies_continuity == TableContinuity::Other {
            continuity = TableContinuity::Other;
        }
        if continuity == TableContinuity::Other && !self.is_changeover {
            anomalies_continuity = TableContinuity::Other;
        }
        (continuity, Some(anomalies_continuity))
    }
}

fn continuity(position: TableCursor, facts: &TableFacts) -> TableContinuity {
    match facts.rows_read {
        RowsRead::LastPresent => TableContinuity::Continues,
        RowsRead::NoneYet => TableContinuity::judge(position, None, false, 0),
        RowsRead::LastMissing(missing) => {
            let Some(present) = missing.newest_present else {
                let has_earlier = missing.rows_up_to_cursor > 0;
                return TableContinuity::judge(position, None, has_earlier, facts.sequence.unwrap_or(0));
            };
            // Up to here rows that are not remembered may have been read: keys are given in order, and those beyond were given
            // again.
            let last_key = facts.sequence.or(facts.keys.map(|keys| keys.newest)).unwrap_or(0);
            let read_until = missing.oldest_replaced.map_or(last_key, |key| last_key.min(key - 1)).max(present);
            if read_until >= position.key {
                // The newest rows were deleted, which takes nothing back.
                return TableContinuity::Continues;
            }
            TableContinuity::CutBack { after: present, doubtful_until: read_until }
        }
    }
}

impl RowsReading {
    /// What was read from `position`.
    pub fn new(position: &DatabasePosition, reading: DatabaseReading) -> Self {
        let DatabaseReading {
            facts,
            plan,
            invocations,
            anomalies,
            row_counts,
            row_counts_are_truncated,
            anomaly_counts,
            has_more,
        } = reading;
        let (invocations_continuity, anomalies_continuity) = position.continuities(&facts);
        let numbers = row_counts.map(|counts| {
            let newest = facts.invocations.keys.map_or(0, |keys| keys.newest);
            let skills = numbers(counts, facts.skill_metrics.as_ref().map_or(&[][..], |held| &held.skills));
            let is_truncated =
                row_counts_are_truncated || facts.skill_metrics.as_ref().is_some_and(|held| held.is_truncated);
            Numbers { skills, is_truncated, last_id: newest.max(plan.invocations_after) }
        });
        let tallies = anomaly_counts.map(|counts| {
            let tally = |count: crate::skills_db::AnomalyCount| AnomalyTally {
                skill_name: count.skill_name,
                anomaly_type: count.anomaly_type,
                times: count.rows,
            };
            counts.into_iter().map(tally).collect()
        });
        let anomalies = anomalies.map(|rows| AnomalyReading {
            continuity: anomalies_continuity.filter(|_| tallies.is_none()).unwrap_or(TableContinuity::Other),
            rows: rows.into_iter().map(|row| AnomalyRow { fingerprint: row.fingerprint, told: row.entry }).collect(),
            tallies,
        });
        let connection = facts.connection;
        let invocations = invocations.into_iter().map(Into::into).collect();
        let source = position.source;
        Self { source, connection, facts, invocations_continuity, invocations, numbers, anomalies, has_more }
    }
}

impl From<crate::skills_db::InvocationRow> for InvocationRow {
    fn from(row: crate::skills_db::InvocationRow) -> Self {
        Self {
            fingerprint: row.fingerprint,
            skill_name: row.skill_name,
            invoked_micros: row.invoked_at.as_deref().and_then(server_time::micros),
            told: row.details.map(|details| ToldInvocation {
                workflow_phase: details.workflow_phase,
                duration_seconds: details.duration_seconds,
                failure: details.failure,
            }),
            completed: row.completed,
            summed_seconds: row.summed_seconds,
        }
    }
}

/// The numbers of each skill: those of `skill_metrics`, which the feed lists and which hold rows that were deleted, else
/// those of its rows.
fn numbers(counts: Vec<SkillRowCounts>, metrics: &[SkillMetrics]) -> Vec<SkillNumbers> {
    let from_rows = |skill: SkillRowCounts| {
        let numbers = SkillNumbers {
            skill_name: skill.skill_name.clone(),
            completed: skill.all.completed,
            abandoned: skill.all.abandoned,
            duration_sum: skill.duration_seconds,
            rows_completed: skill.unread.completed,
            rows_abandoned: skill.unread.abandoned,
        };
        (skill.skill_name, numbers)
    };
    let mut skills: BTreeMap<Box<str>, SkillNumbers> = counts.into_iter().map(from_rows).collect();
    for skill in metrics {
        let numbers = skills.entry(skill.skill_name.clone()).or_insert(SkillNumbers {
            skill_name: skill.skill_name.clone(),
            completed: 0,
            abandoned: 0,
            duration_sum: 0.0,
            rows_completed: 0,
            rows_abandoned: 0,
        });
        numbers.completed = skill.completed.min(skill.total);
        numbers.abandoned = skill.total - numbers.completed;
        numbers.duration_sum = skill.duration_seconds.unwrap_or(f64::NAN);
    }
    skills.into_values().collect()
}

#[cfg(test)]
mod tests {
    use crate::skills_db::MissingRows;
    use crate::skills_db::facts::KeyRange;

    use super::*;
    use crate::skills_db::RowFingerprint;

    /// A table that was read up to the key 100, whose last row is missing.
    fn judged(missing: MissingRows, newest: i64, sequence: Option<i64>) -> TableContinuity {
        let position = TableCursor { last: Some(RowFingerprint { key: 100, digest: 1 }), key: 100 };
        let facts = TableFacts {
            cursor: position,
            keys: Some(KeyRange { oldest: 1, newest }),
            sequence,
            rows_read: RowsRead::LastMissing(missing),
        };
        continuity(position, &facts)
    }

    /// Of the rows up to 90 those with even keys are remembered, and all after them.
    fn missing(newest_present: i64, oldest_replaced: Option<i64>) -> MissingRows {
        MissingRows {
            newest_present: Some(newest_present),
            oldest_replaced,
            rows_up_to_cursor: 1,
            ..MissingRows::default()
        }
    }

    fn cut_back(after: i64, doubtful_until: i64) -> TableContinuity {
        TableContinuity::CutBack { after, doubtful_until }
    }

    #[test]
    fn deleting_the_newest_rows_moves_nothing() {
        assert_eq!(judged(missing(95, None), 95, Some(100)), TableContinuity::Continues);
        assert_eq!(judged(missing(95, None), 120, Some(120)), TableContinuity::Continues, "and others come after them");
    }

    #[test]
    fn a_backup_is_read_on_from_its_last_row_that_is_remembered() {
        assert_eq!(judged(missing(98, None), 98, Some(98)), cut_back(98, 98));
        assert_eq!(judged(missing(50, None), 51, Some(51)), cut_back(50, 51));
        assert_eq!(judged(missing(50, None), 51, None), cut_back(50, 51), "keys without AUTOINCREMENT");
    }

    #[test]
    fn a_backup_that_went_on_is_read_from_the_first_row_that_is_another() {
        assert_eq!(judged(missing(95, Some(96)), 98, Some(98)), cut_back(95, 95));
        assert_eq!(judged(missing(95, Some(96)), 130, Some(130)), cut_back(95, 95));
        // Whether 51 is old or new its time has to tell.
        assert_eq!(judged(missing(50, Some(52)), 130, Some(130)), cut_back(50, 51));
    }
}
