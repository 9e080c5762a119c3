//! The report of a database by independent SQL, and the report that the program prints as JSON.

use std::collections::BTreeMap;
use std::path::Path;

use rusqlite::{Connection, OpenFlags, named_params};
use serde_json::{Value, json};

use super::program::Program;

/// Rows that a report is about: valid, with a time before the second `:end`.
const ROWS: &str = "
    WITH anomalies AS (
        SELECT skill_name, unixepoch(detected_at) AS second FROM skill_anomalies
        WHERE skill_name NOT IN ('', '__overflow__') AND length(skill_name) <= 256 AND anomaly_type <> ''
              AND length(anomaly_type) <= 256 AND second < :end
    ), rows AS (
        SELECT skill_name, coalesce(nullif(workflow_phase, ''), 'unknown') AS phase, completed, duration_seconds AS seconds,
               unixepoch(invoked_at) AS second,
               CASE WHEN coalesce(error_type, '') = '' THEN 'unknown'
                    WHEN length(error_type) > 64 OR substr(error_type, 1, 1) NOT GLOB '[A-Za-z_]'
                         OR error_type GLOB '*[^A-Za-z0-9_.:]*' THEN 'other'
                    ELSE error_type END AS type
        FROM skill_invocation
        WHERE skill_name NOT IN ('', '__overflow__') AND length(skill_name) <= 256
              AND length(coalesce(workflow_phase, '')) <= 256 AND completed IN (0, 1) AND second < :end
              AND (seconds IS NULL OR (typeof(seconds) IN ('real', 'integer') AND seconds >= 0))
    )";

/// Prints a report as JSON.
///
/// # Panics
/// If the program fails.
pub fn printed(database: &Path, arguments: &[&str]) -> Value {
    let path = database.to_str().expect("a path in UTF-8");
    let arguments = [&["report", "--feed.skills-db", path, "--format", "json"], arguments].concat();
    let ended = Program::start(arguments).end();
    assert!(ended.is_success(), "{}", ended.stderr);
    serde_json::from_str(&ended.stdout).expect("a report is JSON")
}

/// The failures by skill and type of errors.
pub fn failures(connection: &Connection) -> BTreeMap<(String, String), u64> {
    let query = format!("{ROWS} SELECT skill_name, type, count(*) FROM rows WHERE completed = 0 GROUP BY 1, 2");
    let mut query = connection.prepare(&query).expect("a query");
    let parameters = named_params! { ":end": i64::MAX };
    let rows = query.query_map(parameters, |row| Ok(((row.get(0)?, row.get(1)?), row.get(2)?))).expect("rows");
    rows.map(|row| row.expect("a row")).collect()
}

/// When each skill was last invoked, in whole seconds since the Unix epoch, of rows that the server's storage wrote.
pub fn last_invoked_seconds(connection: &Connection) -> BTreeMap<String, i64> {
    // Without the fraction, which SQLite rounds.
    let query = "SELECT skill_name, max(unixepoch(substr(invoked_at, 1, 19))) FROM skill_invocation GROUP BY 1";
    let mut query = connection.prepare(query).expect("a query");
    let rows = query.query_map([], |row| Ok((row.get(0)?, row.get(1)?))).expect("rows");
    rows.map(|row| row.expect("a row")).collect()
}

/// The groups that SQL finds in the periods of `report`, by name, with the keys of JSON, but for the means: of each the sum, and
/// how many.
///
/// # Panics
/// If the database cannot be read.
pub fn expected(database: &Path, report: &Value) -> BTreeMap<String, (Value, (f64, u64))> {
    let connection = Connection::open_with_flags(database, OpenFlags::SQLITE_OPEN_READ_ONLY).expect("a database");
    let second = |time: &Value| time.as_str().expect("a time").parse::<jiff::Timestamp>().expect("a time").as_second();
    let former = second(&report["former_period"]["start"]);
    let start = second(&report["period"]["start"]);
    let end = second(&report["period"]["end"]);
    let oldest = format!("{ROWS} SELECT min(second) FROM rows");
    let oldest: Option<i64> =
        connection.query_row(&oldest, named_params! { ":end": end }, |row| row.get(0)).expect("a query");
    let covers = oldest.is_some_and(|oldest| oldest <= former);
    let (key, part, filter, names) = match report["by"].as_str().expect("a group") {
        "skill" => ("skill_name", "type", "1", ["invocations", "former_invocations", "last_used", "failures"]),
        "phase" => ("phase", "type", "1", ["invocations", "former_invocations", "last_used", "failures"]),
        _ => ("type", "skill_name", "completed = 0", ["failures", "former_failures", "last_failed", "skills"]),
    };
    // A skill with anomalies alone has a line, too.
    let names_alone = if key == "skill_name" { "UNION SELECT skill_name FROM anomalies" } else { "" };
    let groups = format!(
        "{ROWS} SELECT name,
            count(*) FILTER (WHERE second >= :start), count(*) FILTER (WHERE second >= :start AND completed),
            count(*) FILTER (WHERE second >= :former AND second < :start), max(second),
            coalesce(sum(seconds) FILTER (WHERE second >= :start), 0.0), count(seconds) FILTER (WHERE second >= :start)
         FROM (SELECT DISTINCT {key} AS name FROM rows WHERE {filter} {names_alone}) LEFT JOIN rows ON {key} = name AND {filter}
         GROUP BY 1"
    );
    let quantile = format!(
        "{ROWS} SELECT seconds FROM rows WHERE {key} = :name AND second >= :start AND seconds IS NOT NULL AND {filter}
         ORDER BY 1 LIMIT 1 OFFSET :rank"
    );
    let parts = format!(
        "{ROWS} SELECT {part}, count(*) FROM rows WHERE {key} = :name AND second >= :start AND completed = 0 GROUP BY 1"
    );
    let anomalies = format!("{ROWS} SELECT count(*) FROM anomalies WHERE skill_name = :name AND second >= :start");
    let mut expected = BTreeMap::new();
    let mut query = connection.prepare(&groups).expect("a query");
    let mut rows = query.query(named_params! { ":start": start, ":former": former, ":end": end }).expect("rows");
    while let Some(row) = rows.next().expect("a row") {
        let name: String = row.get(0).expect("a name");
        let (count, completed, before): (u64, u64, u64) =
            (row.get(1).expect("n"), row.get(2).expect("n"), row.get(3).expect("n"));
        let (sum, with_seconds): (f64, u64) = (row.get(5).expect("s"), row.get(6).expect("n"));
        let mut group = json!({});
        let latest: Option<i64> = row.get(4).expect("a second");
        let latest = latest.map(|latest| jiff::Timestamp::from_second(latest).expect("a time").to_string());
        group[names[0]] = count.into();
        group[names[1]] = before.into();
        group[names[2]] = latest.into();
        let difference = (count as f64 - before as f64).abs();
        group["trend"] = match (covers, difference > 2.0 * ((count + before) as f64).sqrt()) {
            (false, _) => Value::Null,
            (true, false) => "steady".into(),
            (true, true) => if count > before { "up" } else { "down" }.into(),
        };
        let mut query = connection.prepare(&parts).expect("a query");
        let parts = query.query_map(named_params! { ":name": name, ":start": start, ":end": end }, |row| {
            Ok((row.get::<_, String>(0)?, Value::from(row.get::<_, u64>(1)?)))
        });
        group[names[3]] = Value::Object(parts.expect("rows").map(|part| part.expect("a row")).collect());
        if key != "type" {
            group["completed"] = completed.into();
            group["success"] = if count > 0 { json!(completed as f64 / count as f64) } else { Value::Null };
            for (name_of, percent) in [("p50_seconds", 50), ("p95_seconds", 95)] {
                let rank = (with_seconds * percent).div_ceil(100).saturating_sub(1);
                let parameters = named_params! { ":name": name, ":start": start, ":rank": rank, ":end": end };
                let seconds = connection.query_row(&quantile, parameters, |row| row.get::<_, f64>(0));
                group[name_of] = seconds.map_or(Value::Null, |seconds| json!(seconds));
            }
        }
        if key == "skill_name" {
            let parameters = named_params! { ":name": name, ":start": start, ":end": end };
            let count: u64 = connection.query_row(&anomalies, parameters, |row| row.get(0)).expect("a count");
            group["anomalies"] = count.into();
        }
        expected.insert(name, (group, (sum, with_seconds)));
    }
    expected
}

/// Compares every cell of a printed report with SQL.
///
/// # Panics
/// If a cell differs.
pub fn compare(database: &Path, report: &Value) {
    let mut expected = expected(database, report);
    let key = match report["by"].as_str().expect("a group") {
        "skill" => "skill_name",
        "phase" => "workflow_phase",
        _ => "error_type",
    };
    for group in report["groups"].as_array().expect("groups") {
        let mut group = group.clone();
        let name = group[key].as_str().expect("a name").to_owned();
        let (wanted, (sum, count)) = expected.remove(&name).unwrap_or_else(|| panic!("SQL has no {name:?}"));
        let cells = group.as_object_mut().expect("cells");
        cells.remove(key);
        match cells.remove("mean_seconds") {
            // Additions in another order differ in the last digits.
            Some(Value::Number(mean)) => {
                let (mean, wanted) = (mean.as_f64().expect("a number"), sum / count as f64);
                assert!((mean - wanted).abs() <= 1e-12 * wanted, "{name}: mean {mean}, not {wanted}");
            }
            _ => assert!(count == 0 || key == "error_type", "{name} has no mean of {count} durations"),
        }
        assert_eq!(group, wanted, "{name}");
    }
    assert!(expected.is_empty(), "the report lacks {expected:?}");
}
