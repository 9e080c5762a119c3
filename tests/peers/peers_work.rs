//! The peers themselves do what the tests beside them rely on.

use crate::support::peers::prometheus::PrometheusTools;
use crate::support::peers::session_buddy::{Pace, SessionBuddy};
use crate::support::program::run;
use crate::support::{eventually, in_repository};
use serde_json::json;
use tempfile::TempDir;

const SECRET: &str = "a secret of more than thirty-two bytes";
const AUTHENTICATED: [(&str, &str); 2] = [("SESSION_BUDDY_AUTH_ENABLED", "true"), ("SESSION_BUDDY_JWT_SECRET", SECRET)];

#[test]
fn the_real_server_serves_a_database_and_again_after_it_was_killed() {
    let Some(session_buddy) = SessionBuddy::find_or_skip() else { return };
    let directory = TempDir::new().unwrap();
    let database = directory.path().join("skills.db");

    let server = session_buddy.serve(&database, 0, &[]);
    assert!(session_buddy.check(&server, &[]), "a snapshot comes");

    let port = server.port;
    drop(server);
    let server = session_buddy.serve(&database, port, &[]);
    assert_eq!(server.port, port);
    assert!(session_buddy.check(&server, &[]), "a snapshot comes again");
}

#[test]
fn the_real_server_lets_in_only_who_has_a_token_of_its_secret() {
    let Some(session_buddy) = SessionBuddy::find_or_skip() else { return };
    let directory = TempDir::new().unwrap();
    let server = session_buddy.serve(&directory.path().join("skills.db"), 0, &AUTHENTICATED);

    assert!(session_buddy.check(&server, &AUTHENTICATED));
    let other_secret = ("SESSION_BUDDY_JWT_SECRET", "another secret of more than thirty-two bytes");
    assert!(!session_buddy.check(&server, &[AUTHENTICATED[0], other_secret]));
    assert!(!session_buddy.check(&server, &[]), "a client that brings none is refused");
}

#[test]
fn the_server_refuses_to_start_where_its_authentication_would_keep_nobody_out() {
    let Some(session_buddy) = SessionBuddy::find_or_skip() else { return };
    let directory = TempDir::new().unwrap();
    let enabled = AUTHENTICATED[0];
    let public = ("SESSION_BUDDY_JWT_SECRET", "dev-secret-change-in-production");
    for (environment, named) in [
        (vec![enabled], "SESSION_BUDDY_JWT_SECRET"),
        (vec![enabled, ("SESSION_BUDDY_JWT_SECRET", "")], "SESSION_BUDDY_JWT_SECRET"),
        (vec![enabled, ("SESSION_BUDDY_JWT_SECRET", " ")], "SESSION_BUDDY_JWT_SECRET"),
        (vec![enabled, public], "SESSION_BUDDY_JWT_SECRET"),
        // The package takes it for no.
        (vec![("SESSION_BUDDY_AUTH_ENABLED", "1"), AUTHENTICATED[1]], "SESSION_BUDDY_AUTH_ENABLED='1'"),
    ] {
        let ended = session_buddy.try_serve(&directory.path().join("skills.db"), &environment);
        assert_eq!(ended.code, Some(2), "{environment:?}: {}", ended.printed());
        assert!(ended.stderr.contains(&format!("error: {named}")), "{environment:?}: {}", ended.stderr);
    }
}

/// Importing the package takes seconds of CPU, and longer than a server waits for a token.
#[test]
fn a_token_is_made_without_the_package() {
    let Some(session_buddy) = SessionBuddy::find_or_skip() else { return };
    const MODULES: &str = "import sys, metrics_server; metrics_server.token('a'); \
        print(*[name for name in sys.modules if name.split('.')[0] in ('session_buddy', 'mcp_common', 'jwt')])";
    let mut python = session_buddy.python();
    let python = python.args(["-c", MODULES]).env("PYTHONPATH", in_repository("deploy/session-buddy"));
    let ended = run(python.envs(AUTHENTICATED), "");
    assert_eq!((ended.code, ended.stdout.trim()), (Some(0), ""), "{}", ended.stderr);
}

#[test]
fn a_plan_is_stored_as_it_stands() {
    let Some(session_buddy) = SessionBuddy::find_or_skip() else { return };
    let directory = TempDir::new().unwrap();
    let database = directory.path().join("skills.db");

    session_buddy.store(
        &database,
        &json!({
            "invocations": [
                {"skill_name": "pytest-run", "completed": true, "duration_seconds": 2.5, "times": 3},
                {"skill_name": "pytest-run", "completed": false},
            ],
            "anomalies": [{"skill_name": "pytest-run", "anomaly_type": "drop", "deviation_score": 2.5}],
        }),
    );

    let truth = session_buddy.truth(&database);
    let skill = &truth.skills["pytest-run"];
    assert_eq!((skill.total, skill.completed, skill.duration_sum_seconds), (4, 3, 7.5));
    assert_eq!(truth.anomalies, [(("drop".to_owned(), "pytest-run".to_owned()), 1)].into());
}

#[test]
fn a_seed_makes_one_history() {
    let Some(session_buddy) = SessionBuddy::find_or_skip() else { return };
    let directory = TempDir::new().unwrap();
    let history = |file: &str, seed| {
        let database = directory.path().join(file);
        let pace = Pace { invocations: 60, invocations_per_second: 1000.0, anomaly_every: 15, skills: 5, seed };
        assert!(session_buddy.drive(&database, &pace).end().is_success());
        session_buddy.truth(&database)
    };

    let once = history("once.db", 1);
    assert_eq!((once.invocations(), once.anomalies.values().sum::<u64>()), (60, 4));
    assert_eq!(once, history("again.db", 1));
    assert_ne!(once, history("other.db", 2));
}

#[test]
fn prometheus_scrapes_and_answers() {
    let Some(tools) = PrometheusTools::find_or_skip() else { return };
    let prometheus = tools.start(
        "global: {scrape_interval: 250ms, scrape_timeout: 250ms}\n\
         scrape_configs:\n- {job_name: itself, static_configs: [{targets: ['127.0.0.1:1']}]}\n",
    );

    let down = eventually("the first scrape", || match prometheus.query("up", None).as_slice() {
        [up] => Ok(up.clone()),
        other => Err(format!("{other:?}")),
    });
    assert_eq!((down.labels["job"].as_str(), down.value()), ("itself", 0.0), "nothing listens on port 1");
    assert_eq!(prometheus.query("vector(2) + 1", Some(5.0))[0].samples, [(5.0, 3.0)]);
}

#[test]
fn promtool_finds_what_is_wrong_with_an_exposition() {
    let Some(tools) = PrometheusTools::find_or_skip() else { return };
    assert_eq!(tools.findings("# HELP a_seconds A.\n# TYPE a_seconds gauge\na_seconds 1\n"), [""; 0]);
    assert_eq!(
        tools.findings("# HELP a_total A.\n# TYPE a_total gauge\na_total 1\n"),
        ["a_total non-counter metrics should not have \"_total\" suffix"]
    );
}
