//! Beside the real server, whose database tells what is right, every ordinary change of configuration counts on.

use std::path::Path;
use std::time::Duration;

use crate::support::exposed::Exposed;
use crate::support::histories::stage::{Entry, Stage};
use crate::support::peers::session_buddy::{Pace, SessionBuddy};
use serde_json::json;

/// No more skills than a snapshot lists.
const PACE: Pace = Pace { invocations: u32::MAX, invocations_per_second: 5.0, anomaly_every: 50, skills: 6, seed: 11 };

const SNAPSHOT_INTERVAL_SECONDS: f64 = 0.2;

/// Three hundred invocations before anybody looks.
fn history() -> serde_json::Value {
    let invocation = |skill: &str, completed: bool, seconds: f64, times: u32| json!({"skill_name": skill, "completed": completed, "duration_seconds": seconds, "times": times});
    json!({"invocations": [
        invocation("skill-00", true, 1.25, 170),
        invocation("skill-01", true, 0.75, 90),
        invocation("skill-01", false, 0.5, 10),
        invocation("skill-02", true, 3.5, 30),
    ]})
}

fn held(session_buddy: &SessionBuddy, database: &Path) -> Exposed {
    let truth = session_buddy.truth(database);
    let mut held = Exposed::default();
    for (name, skill) in truth.skills {
        held.add_invocations(&name, true, skill.completed);
        held.add_invocations(&name, false, skill.total - skill.completed);
    }
    for ((anomaly_type, skill_name), count) in truth.anomalies {
        held.add_anomalies(&anomaly_type, &skill_name, count);
    }
    held
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ordinary_changes_of_configuration_count_on() {
    let Some(session_buddy) = SessionBuddy::find_or_skip() else { return };
    let mut stage = Stage::new();
    let database = stage.path("skills.db");
    session_buddy.store(&database, &history());
    let server = session_buddy.serve_every(SNAPSHOT_INTERVAL_SECONDS, &database, 0, &[]);
    let by_address = Entry::at(format!("ws://127.0.0.1:{}", server.port));
    let by_name = Entry::at(format!("ws://localhost:{}", server.port));
    let with_path = Entry::at(format!("ws://localhost:{}/metrics", server.port));
    let driver = session_buddy.drive(&database, &PACE);

    stage.start_with(std::slice::from_ref(&by_address));
    stage.settled().await;
    let reloads = [
        vec![by_address.clone().named("one")],
        vec![by_name.clone().named("one")],
        vec![with_path.clone()],
        vec![with_path.clone(), by_address.clone()],
        vec![by_address.clone().named("two")],
        vec![by_address.clone().only("skill-00")],
        vec![by_address.clone(), by_name.clone().only("skill-01")],
        vec![by_address.clone().with_database(&database), by_name.clone()],
        vec![by_address.clone(), by_name.clone().with_database(&database)],
        vec![by_name.clone()],
    ];
    for entries in &reloads {
        stage.reload(entries);
        stage.settled().await;
    }
    stage.restart_with(&[with_path.named("three")]);
    stage.settled().await;
    stage.kill();
    stage.start_with(&[by_address, by_name]);
    stage.settled().await;

    drop(driver);
    // What the driver had stored when it ended is listed with the next rounds.
    tokio::time::sleep(Duration::from_secs(1)).await;
    stage.counts("all that the database holds", &held(&session_buddy, &database)).await;
}
