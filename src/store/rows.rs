//! Rows in, rows out.

use std::sync::Arc;

use rusqlite::types::Type;
use rusqlite::{Connection, OptionalExtension, Row, params};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::ledger::memory::{
    AnomalyKey, AnomalyRow, DetailRow, EventIdRow, FeedRow, FeedSkillRow, MarkRow, Memory, RememberedRow, SessionRow,
    Table, TallyRow,
};
use crate::ledger::{
    AnomalySeries, Changes, FeedCounters, Histogram, Mark, PhaseSeries, RuleCounters, SkillIndex, SkillRow,
    SkillSeries, Whole,
};

/// The counters of the rules by the names under which they are kept.
fn counters(rules: &mut RuleCounters) -> [(&'static str, &mut u64); 7] {
    let RuleCounters {
        estimated_observations,
        exact_observations,
        inexact_rates,
        late_events,
        backfilled_invocations,
        anomaly_window_overflows,
        overflowed_invocations,
    } = rules;
    [
        ("estimated_observations", estimated_observations),
        ("exact_observations", exact_observations),
        ("inexact_rates", inexact_rates),
        ("late_events", late_events),
        ("backfilled_invocations", backfilled_invocations),
        ("anomaly_window_overflows", anomaly_window_overflows),
        ("overflowed_invocations", overflowed_invocations),
    ]
}

/// Writes new values over old ones.
pub(super) fn save(connection: &Connection, changes: &Changes) -> rusqlite::Result<()> {
    let Changes { skills, last_listed, feeds: _, anomalies: _, wall_micros: _, rules, memory } = changes;
    let mut put = connection.prepare_cached("INSERT OR REPLACE INTO counter VALUES (?, ?)")?;
    for (name, value) in counters(&mut rules.clone()) {
        put.execute(params![name, *value])?;
    }
    save_skills(connection, skills)?;
    let mut listed = connection.prepare_cached("UPDATE skill SET last_listed_micros = ? WHERE place = ?")?;
    for (SkillIndex(place), micros) in last_listed {
        listed.execute(params![micros, place])?;
    }
    save_memory(connection, memory)
}

fn save_skills(connection: &Connection, skills: &[SkillRow]) -> rusqlite::Result<()> {
    let mut skill = connection.prepare_cached("INSERT OR REPLACE INTO skill VALUES (?, ?, ?, ?)")?;
    let mut phase = connection.prepare_cached("INSERT OR REPLACE INTO phase VALUES (?, ?, ?, ?, ?, ?, ?, ?)")?;
    let mut anomaly = connection.prepare_cached("INSERT OR REPLACE INTO anomaly_count VALUES (?, ?, ?, ?, ?)")?;
    for SkillRow { index: SkillIndex(place), series, last_listed_micros } in skills {
        skill.execute(params![place, series.skill_name, series.completion_rate, last_listed_micros])?;
        for (position, series) in series.phases.iter().enumerate() {
            let PhaseSeries { workflow_phase, completed, abandoned, durations, born_micros, exemplar: _ } = series;
            phase.execute(params![
                place,
                position,
                workflow_phase,
                completed,
                abandoned,
                json(&durations.buckets)?,
                durations.sum,
                born_micros,
            ])?;
        }
        for (position, AnomalySeries { anomaly_type, count, born_micros }) in series.anomalies.iter().enumerate() {
            anomaly.execute(params![place, position, anomaly_type, count, born_micros])?;
        }
    }
    Ok(())
}

fn save_memory(connection: &Connection, memory: &Memory) -> rusqlite::Result<()> {
    let Memory { feeds, feed_skills, tallies, anomalies, event_ids, sessions_cleared, sessions, details, marks } =
        memory;
    save_feeds(connection, feeds)?;
    save_feed_skills(connection, feed_skills)?;
    let mut put = connection.prepare_cached("INSERT OR REPLACE INTO anomaly_tally VALUES (?, ?, ?, ?, ?, ?)")?;
    for TallyRow { feed, skill_name, anomaly_type, listed, streamed, before } in tallies {
        put.execute(params![feed, skill_name, anomaly_type, listed, streamed, before])?;
    }
    save_anomalies(connection, anomalies)?;
    let mut put = connection.prepare_cached("INSERT OR REPLACE INTO event_id VALUES (?, ?, ?, ?)")?;
    for EventIdRow { feed, sequence, id, sent_micros } in event_ids {
        put.execute(params![feed, sequence, id, sent_micros])?;
    }
    let mut clear = connection.prepare_cached("DELETE FROM session WHERE feed = ?")?;
    for feed in sessions_cleared {
        clear.execute([feed])?;
    }
    let mut put = connection.prepare_cached("INSERT OR REPLACE INTO session VALUES (?, ?, ?, ?)")?;
    let mut forget = connection.prepare_cached("DELETE FROM session WHERE feed = ? AND id = ?")?;
    for (feed, id, session) in sessions {
        match session {
            Some(SessionRow { open, seen_micros }) => put.execute(params![feed, id, open, seen_micros])?,
            None => forget.execute(params![feed, id])?,
        };
    }
    save_details(connection, details, marks)
}

fn save_details(connection: &Connection, details: &[DetailRow], marks: &[MarkRow]) -> rusqlite::Result<()> {
    let mut put = connection.prepare_cached("INSERT OR REPLACE INTO detail VALUES (?, ?, ?, ?, ?, ?)")?;
    let mut forget = connection
        .prepare_cached("DELETE FROM detail_row WHERE feed = ? AND source = ? AND (? OR lost = 0 AND id < ?)")?;
    for row in details {
        put.execute(params![
            row.feed,
            row.moved_alone,
            row.told_until,
            row.history_until,
            row.invocations_cursor,
            row.anomalies_cursor,
        ])?;
        let (invocations, anomalies) = (Table::Invocations.name(), Table::Anomalies.name());
        forget.execute(params![row.feed, invocations, row.invocations_rewritten, row.invocations_first])?;
        forget.execute(params![row.feed, anomalies, row.anomalies_rewritten, row.anomalies_first])?;
    }
    let mut put = connection.prepare_cached("INSERT OR REPLACE INTO detail_row VALUES (?, ?, ?, ?, ?)")?;
    for MarkRow { feed, table, mark, is_lost } in marks {
        put.execute(params![feed, table.name(), is_lost, mark.id, mark.digest])?;
    }
    Ok(())
}

fn save_feeds(connection: &Connection, feeds: &[FeedRow]) -> rusqlite::Result<()> {
    let mut put = connection
        .prepare_cached("INSERT OR REPLACE INTO feed VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)")?;
    let mut forget = connection.prepare_cached("DELETE FROM event_id WHERE feed = ? AND sequence < ?")?;
    for feed in feeds {
        let FeedCounters { identity, tenth_skill_invocations, rollbacks, resets, detail_mismatches, rows_tell: _ } =
            &feed.counters;
        put.execute(params![
            feed.place,
            identity,
            tenth_skill_invocations,
            rollbacks,
            resets,
            detail_mismatches,
            feed.had_snapshot,
            feed.previous_was_complete,
            feed.previous_micros,
            feed.streams_invocations,
            feed.alias_of,
            feed.sessions_reported,
            feed.sessions_count,
            feed.first_event_id,
            feed.newest_forgotten_micros,
            json(&feed.unread)?,
        ])?;
        forget.execute(params![feed.place, feed.first_event_id])?;
    }
    Ok(())
}

fn save_feed_skills(connection: &Connection, skills: &[FeedSkillRow]) -> rusqlite::Result<()> {
    let mut put = connection.prepare_cached(
        "INSERT OR REPLACE INTO feed_skill VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
    )?;
    for skill in skills {
        let remembered = skill.remembered.as_ref();
        put.execute(params![
            skill.feed,
            skill.skill_name,
            skill.series.0,
            skill.listed,
            remembered.map(|numbers| numbers.total),
            remembered.map(|numbers| numbers.completed),
            remembered.map(|numbers| numbers.split_is_exact),
            remembered.and_then(|numbers| numbers.duration_sum),
            skill.gauge.map(|(total, _, _)| total),
            skill.gauge.map(|(_, completed, _)| completed),
            skill.gauge.map(|(_, _, rate_percent)| rate_percent),
            skill.streamed_rate,
            skill.credit.0,
            skill.credit.1,
            skill.credit_duration_sum,
            json(&skill.waiting)?,
            skill.rows_counted.0,
            skill.rows_counted.1,
            skill.disagrees,
        ])?;
    }
    Ok(())
}

fn save_anomalies(connection: &Connection, anomalies: &[(AnomalyKey, Option<AnomalyRow>)]) -> rusqlite::Result<()> {
    let mut put = connection.prepare_cached("INSERT OR REPLACE INTO anomaly VALUES (?, ?, ?, ?, ?, ?, ?, ?)")?;
    let mut forget = connection.prepare_cached(
        "DELETE FROM anomaly WHERE feed = ? AND skill_name = ? AND anomaly_type = ? AND detected_at = ? AND score = ?",
    )?;
    for (key, row) in anomalies {
        let AnomalyKey { feed, skill_name, anomaly_type, detected_at, score_bits } = key;
        let detected_at = detected_at.as_deref().unwrap_or_default();
        // The shortest text that is read back as the same number.
        let score = score_bits.map_or_else(String::new, |bits| format!("{:?}", f64::from_bits(bits)));
        match row {
            Some(AnomalyRow { multiplicity, streamed, seen_micros }) => put.execute(params![
                feed,
                skill_name,
                anomaly_type,
                detected_at,
                score,
                multiplicity,
                streamed,
                seen_micros,
            ])?,
            None => forget.execute(params![feed, skill_name, anomaly_type, detected_at, score])?,
        };
    }
    Ok(())
}

/// Everything, of one moment if `connection` is in a transaction or nobody else writes.
pub(super) fn load(connection: &Connection) -> rusqlite::Result<Whole> {
    let mut rules = RuleCounters::default();
    for (name, value) in counters(&mut rules) {
        let query = "SELECT value FROM counter WHERE name = ?";
        let kept = connection.prepare_cached(query)?.query_row([name], |row| row.get::<_, u64>(0)).optional()?;
        *value = kept.unwrap_or_default();
    }
    Ok(Whole { skills: load_skills(connection)?, rules, memory: load_memory(connection)? })
}

fn all<T>(
    connection: &Connection,
    query: &str,
    read: impl FnMut(&Row<'_>) -> rusqlite::Result<T>,
) -> rusqlite::Result<Vec<T>> {
    connection.prepare(query)?.query_map([], read)?.collect()
}

fn load_skills(connection: &Connection) -> rusqlite::Result<Vec<SkillRow>> {
    let mut skills = all(connection, "SELECT * FROM skill ORDER BY place", |row| {
        let (phases, anomalies) = (Vec::new(), Vec::new());
        let series = SkillSeries { skill_name: row.get(1)?, phases, completion_rate: row.get(2)?, anomalies };
        Ok(SkillRow { index: SkillIndex(row.get(0)?), series, last_listed_micros: row.get(3)? })
    })?;
    let phases = all(connection, "SELECT * FROM phase ORDER BY skill, position", |row| {
        let durations = Histogram { buckets: from_json(row, 5)?, sum: row.get(6)? };
        let series = PhaseSeries {
            workflow_phase: row.get(2)?,
            completed: row.get(3)?,
            abandoned: row.get(4)?,
            durations,
            born_micros: row.get(7)?,
            exemplar: None,
        };
        Ok((row.get::<_, usize>(0)?, series))
    })?;
    let anomalies = all(connection, "SELECT * FROM anomaly_count ORDER BY skill, position", |row| {
        let series = AnomalySeries { anomaly_type: row.get(2)?, count: row.get(3)?, born_micros: row.get(4)? };
        Ok((row.get::<_, usize>(0)?, series))
    })?;
    for (place, series) in phases {
        skills.get_mut(place).ok_or_else(|| no_skill(place))?.series.phases.push(series);
    }
    for (place, series) in anomalies {
        skills.get_mut(place).ok_or_else(|| no_skill(place))?.series.anomalies.push(series);
    }
    Ok(skills)
}

fn no_skill(place: usize) -> rusqlite::Error {
    rusqlite::Error::FromSqlConversionFailure(
        0,
        Type::Integer,
        format!("there is no skill at the place {place}").into(),
    )
}

fn load_memory(connection: &Connection) -> rusqlite::Result<Memory> {
    Ok(Memory {
        feeds: all(connection, "SELECT * FROM feed ORDER BY place", feed)?,
        feed_skills: all(connection, "SELECT * FROM feed_skill", feed_skill)?,
        tallies: all(connection, "SELECT * FROM anomaly_tally", |row| {
            Ok(TallyRow {
                feed: row.get(0)?,
                skill_name: row.get(1)?,
                anomaly_type: row.get(2)?,
                listed: row.get(3)?,
                streamed: row.get(4)?,
                before: row.get(5)?,
            })
        })?,
        anomalies: all(connection, "SELECT * FROM anomaly", anomaly)?,
        event_ids: all(connection, "SELECT * FROM event_id ORDER BY feed, sequence", |row| {
            Ok(EventIdRow { feed: row.get(0)?, sequence: row.get(1)?, id: row.get(2)?, sent_micros: row.get(3)? })
        })?,
        sessions_cleared: Vec::new(),
        sessions: all(connection, "SELECT * FROM session", |row| {
            let session = SessionRow { open: row.get(2)?, seen_micros: row.get(3)? };
            Ok((row.get(0)?, row.get(1)?, Some(session)))
        })?,
        details: all(connection, "SELECT * FROM detail", |row| {
            Ok(DetailRow {
                feed: row.get(0)?,
                moved_alone: row.get(1)?,
                told_until: row.get(2)?,
                history_until: row.get(3)?,
                invocations_cursor: row.get(4)?,
                anomalies_cursor: row.get(5)?,
                ..DetailRow::default()
            })
        })?,
        marks: all(connection, "SELECT * FROM detail_row ORDER BY feed, source, lost, id", |row| {
            let source_name: String = row.get(1)?;
            let tables = [Table::Invocations, Table::Anomalies];
            let table = tables.into_iter().find(|table| table.name() == source_name);
            let unknown = || format!("no rows are read of a table {source_name:?}").into();
            let table = table.ok_or_else(|| rusqlite::Error::FromSqlConversionFailure(1, Type::Text, unknown()))?;
            let mark = Mark { id: row.get(3)?, digest: row.get(4)? };
            Ok(MarkRow { feed: row.get(0)?, table, mark, is_lost: row.get(2)? })
        })?,
    })
}

fn feed(row: &Row<'_>) -> rusqlite::Result<FeedRow> {
    let counters = FeedCounters {
        identity: row.get("identity")?,
        tenth_skill_invocations: row.get("tenth_skill_invocations")?,
        rollbacks: row.get("rollbacks")?,
        resets: row.get("resets")?,
        detail_mismatches: row.get("detail_mismatches")?,
        rows_tell: None,
    };
    Ok(FeedRow {
        place: row.get("place")?,
        counters,
        had_snapshot: row.get("had_snapshot")?,
        previous_was_complete: row.get("previous_was_complete")?,
        previous_micros: row.get("previous_micros")?,
        streams_invocations: row.get("streams_invocations")?,
        alias_of: row.get("alias_of")?,
        sessions_reported: row.get("sessions_reported")?,
        sessions_count: row.get("sessions_count")?,
        first_event_id: row.get("first_event_id")?,
        newest_forgotten_micros: row.get("newest_forgotten_micros")?,
        unread: from_json(row, row.as_ref().column_index("unread")?)?,
    })
}

fn feed_skill(row: &Row<'_>) -> rusqlite::Result<FeedSkillRow> {
    let numbers: (Option<u64>, Option<u64>, Option<bool>) =
        (row.get("total")?, row.get("completed")?, row.get("split_is_exact")?);
    let remembered = match numbers {
        (Some(total), Some(completed), Some(split_is_exact)) => {
            Some(RememberedRow { total, completed, split_is_exact, duration_sum: row.get("duration_sum")? })
        }
        _ => None,
    };
    let gauge: (Option<f64>, Option<f64>, Option<f64>) =
        (row.get("gauge_total")?, row.get("gauge_completed")?, row.get("gauge_rate_percent")?);
    let waiting = row.as_ref().column_index("waiting")?;
    Ok(FeedSkillRow {
        feed: row.get("feed")?,
        skill_name: row.get("skill_name")?,
        series: SkillIndex(row.get("skill")?),
        listed: row.get("listed")?,
        remembered,
        gauge: gauge.0.zip(gauge.1).zip(gauge.2).map(|((total, completed), rate)| (total, completed, rate)),
        streamed_rate: row.get("streamed_rate")?,
        credit: (row.get("credit_completed")?, row.get("credit_abandoned")?),
        credit_duration_sum: row.get("credit_duration_sum")?,
        waiting: from_json(row, waiting)?,
        rows_counted: (row.get("rows_counted_completed")?, row.get("rows_counted_abandoned")?),
        disagrees: row.get("disagrees")?,
    })
}

fn anomaly(row: &Row<'_>) -> rusqlite::Result<(AnomalyKey, Option<AnomalyRow>)> {
    let detected_at: Arc<str> = row.get(3)?;
    let score: String = row.get(4)?;
    let score_bits = match score.as_str() {
        "" => None,
        text => Some(text.parse::<f64>().map_err(|error| conversion(4, error))?.to_bits()),
    };
    let key = AnomalyKey {
        feed: row.get(0)?,
        skill_name: row.get(1)?,
        anomaly_type: row.get(2)?,
        detected_at: Some(detected_at).filter(|text| !text.is_empty()),
        score_bits,
    };
    let row = AnomalyRow { multiplicity: row.get(5)?, streamed: row.get(6)?, seen_micros: row.get(7)? };
    Ok((key, Some(row)))
}

/// Removes a feed and all that is remembered of it. Its place stays taken, under a name that no feed has: the places of
/// feeds have no gaps.
pub(super) fn forget_feed(connection: &Connection, identity: &str) -> rusqlite::Result<bool> {
    let query = "SELECT place FROM feed WHERE identity = ?";
    let Some(place) = connection.query_row(query, [identity], |row| row.get::<_, i64>(0)).optional()? else {
        return Ok(false);
    };
    for table in ["feed_skill", "anomaly_tally", "anomaly", "event_id", "session", "detail", "detail_row"] {
        connection.execute(&format!("DELETE FROM {table} WHERE feed = ?"), [place])?;
    }
    connection.execute(
        "UPDATE feed SET identity = '#' || place || ' forgotten', tenth_skill_invocations = NULL, had_snapshot = 0,
             previous_was_complete = 0, previous_micros = NULL, streams_invocations = 0, alias_of = NULL,
             sessions_reported = 0, sessions_count = 0, first_event_id = 0, newest_forgotten_micros = NULL, unread = '[]'
         WHERE place = ?",
        [place],
    )?;
    Ok(true)
}

fn json(value: &impl Serialize) -> rusqlite::Result<String> {
    serde_json::to_string(value).map_err(|error| rusqlite::Error::ToSqlConversionFailure(error.into()))
}

fn from_json<T: DeserializeOwned>(row: &Row<'_>, column: usize) -> rusqlite::Result<T> {
    let text: String = row.get(column)?;
    serde_json::from_str(&text).map_err(|error| conversion(column, error))
}

fn conversion(column: usize, error: impl std::error::Error + Send + Sync + 'static) -> rusqlite::Error {
    rusqlite::Error::FromSqlConversionFailure(column, Type::Text, Box::new(error))
}
