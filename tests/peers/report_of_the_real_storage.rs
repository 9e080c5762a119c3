//! `report` of databases that Session-Buddy's own storage wrote, beside SQL.

use rusqlite::Connection;
use serde_json::{Value, json};

use crate::support::peers::session_buddy::{Pace, SessionBuddy};
use crate::support::report_sql::{compare, printed};

#[test]
fn every_cell_of_a_real_database_equals_sql() {
    let Some(session_buddy) = SessionBuddy::find_or_skip() else { return };
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("skills.db");
    session_buddy.store(&path, &json!({}));
    assert_eq!(printed(&path, &[])["groups"], json!([]), "it is migrated, and nothing was stored");

    let pace = Pace { invocations: 400, invocations_per_second: 10_000.0, anomaly_every: 5, skills: 9, seed: 3 };
    let ended = session_buddy.drive(&path, &pace).end();
    assert!(ended.is_success(), "{}", ended.stderr);
    // The storage writes the present alone: the rows are spread over a hundred days, and failures get the types that it takes.
    let connection = Connection::open(&path).unwrap();
    let ages = "UPDATE skill_invocation SET
            invoked_at = strftime('%Y-%m-%dT%H:%M:%S+00:00', invoked_at, '-60 seconds', '-' || (id * id / 1600) || ' days'),
            error_type = CASE WHEN completed THEN NULL ELSE nth END
        FROM (SELECT id AS row, CASE id % 3 WHEN 0 THEN 'timeout' WHEN 1 THEN 'no such file' END AS nth FROM skill_invocation)
        WHERE row = id;
        UPDATE skill_anomalies SET detected_at = datetime(detected_at, '-60 seconds', '-' || id || ' days');";
    connection.execute_batch(ages).unwrap();
    let report = || {
        for by in ["skill", "phase", "error"] {
            for since in ["30d", "7d"] {
                compare(&path, &printed(&path, &["--by", by, "--since", since]));
            }
        }
    };
    report();
    drop(connection);
    report();
    let _server = session_buddy.serve(&path, 0, &[]);
    report();
    let report = printed(&path, &[]);
    let with =
        |key: &str| report["groups"].as_array().unwrap().iter().filter(|group| group[key] != Value::Null).count();
    assert!(with("p95_seconds") > 2 && with("trend") == report["groups"].as_array().unwrap().len(), "{report}");
}
