//! The facts of the server's database, in the terms of `detail`.

use std::collections::BTreeMap;

use crate::skills_db::{
    AnomaliesPlan, DatabaseFacts, DatabaseReading, ReadPlan, ReadRequest, RowFingerprint, RowsRead, SkillMetrics,
    SkillRowCounts, TableCursor, TableFacts,
};

use super::detail::{
    Anchor, AnomalyReading, AnomalyRow, AnomalyTally, DetailPosition, DetailReading, InvocationRow, Mark, Numbers,
    Position, SkillNumbers, ToldInvocation,
};

impl From<Mark> for RowFingerprint {
    fn from(mark: Mark) -> Self {
        Self { key: mark.id, digest: mark.digest }
    }
}

impl From<RowFingerprint> for Mark {
    fn from(fingerprint: RowFingerprint) -> Self {
        Self { id: fingerprint.key, digest: fingerprint.digest }
    }
}

impl From<Position> for TableCursor {
    fn from(position: Position) -> Self {
        Self { key: position.cursor, last: position.last.map(Into::into) }
    }
}

impl DetailPosition {
    /// What is asked of the reader.
    pub fn request(&self) -> ReadRequest {
        ReadRequest {
            invocations: self.invocations.into(),
            anomalies: self.anomalies.into(),
            distrusted_connection: self.distrusted_connection,
        }
    }

    /// What is read of a database with these facts.
    pub fn plan(&self, facts: &DatabaseFacts) -> ReadPlan {
        let (anchor, anomalies_anchor) = self.anchors(facts);
        ReadPlan {
            invocations_after: anchor.after(self.invocations),
            anomalies: match anomalies_anchor {
                Some(anchor) if anchor != Anchor::Other && !self.is_changeover => {
                    AnomaliesPlan::After(anchor.after(self.anomalies))
                }
                // By their numbers: anomalies of a skill and a type are alike, so that it is enough how many there are.
                Some(_) | None => AnomaliesPlan::Newest,
            },
            counts_rows: self.is_changeover || matches!(anchor, Anchor::CutBack { .. } | Anchor::Other),
        }
    }

    /// How both tables continue what was read of them.
    fn anchors(&self, facts: &DatabaseFacts) -> (Anchor, Option<Anchor>) {
        let mut anchor = anchor(self.invocations, &facts.invocations);
        let Some(anomalies) = &facts.anomalies else { return (anchor, None) };
        let mut anomalies_anchor = self::anchor(self.anomalies, anomalies);
        // No invocation vouches for the database, so that the anomalies alone can tell that it is another.
        if anchor == Anchor::Emptied && anomalies_anchor == Anchor::Other {
            anchor = Anchor::Other;
        }
        if anchor == Anchor::Other && !self.is_changeover {
            anomalies_anchor = Anchor::Other;
        }
        (anchor, Some(anomalies_anchor))
    }
}

fn anchor(position: Position, facts: &TableFacts) -> Anchor {
    match facts.rows_read {
        RowsRead::LastPresent => Anchor::Continues,
        RowsRead::NoneYet => Anchor::judge(position, None, false, 0),
        RowsRead::LastMissing(missing) => {
            let has_earlier = missing.rows_up_to_cursor > 0;
            Anchor::judge(position, missing.newest_present, has_earlier, facts.sequence.unwrap_or(0))
        }
    }
}

impl DetailReading {
    /// What was read from `position`.
    pub fn new(position: &DetailPosition, reading: DatabaseReading) -> Self {
        let DatabaseReading { facts, plan, invocations, anomalies, row_counts, anomaly_counts, has_more } = reading;
        let (invocations_anchor, anomalies_anchor) = position.anchors(&facts);
        let numbers = row_counts.map(|counts| {
            let newest = facts.invocations.keys.map_or(0, |keys| keys.newest);
            let skills = numbers(counts, facts.skill_metrics.unwrap_or_default());
            Numbers { skills, last_id: newest.max(plan.invocations_after) }
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
            anchor: anomalies_anchor.filter(|_| tallies.is_none()).unwrap_or(Anchor::Other),
            rows: rows.into_iter().map(|row| AnomalyRow { mark: row.fingerprint.into(), told: row.entry }).collect(),
            tallies,
        });
        let connection = facts.connection;
        let invocations = invocations.into_iter().map(Into::into).collect();
        Self { connection, invocations_anchor, invocations, numbers, anomalies, has_more }
    }
}

impl From<crate::skills_db::InvocationRow> for InvocationRow {
    fn from(row: crate::skills_db::InvocationRow) -> Self {
        Self {
            mark: row.fingerprint.into(),
            skill_name: row.skill_name,
            told: row.details.map(|details| ToldInvocation {
                workflow_phase: details.workflow_phase,
                duration_seconds: details.duration_seconds,
            }),
            completed: row.completed,
            summed_seconds: row.summed_seconds,
        }
    }
}

/// The numbers of each skill: those of `skill_metrics`, which the feed lists and which hold rows that were deleted, else
/// those of its rows.
fn numbers(counts: Vec<SkillRowCounts>, metrics: Vec<SkillMetrics>) -> Vec<SkillNumbers> {
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
            skill_name: skill.skill_name,
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
