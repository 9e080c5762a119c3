//! `check --push.url` reports what a bridge would find, and sends no sample.

use std::time::{Duration, SystemTime};

use crate::support::program::{Ended, Program};
use crate::support::push_senders::http_date;
use crate::support::scripted_feed::{ScriptedFeed, Step};
use crate::support::scripted_receiver::{Action, Received, ScriptedReceiver};

/// Runs the check, of a healthy feed beside the receiver, away from the event loop that serves both.
async fn check(arguments: Vec<String>) -> Ended {
    let snapshot = r#"{"type": "metrics_update", "data": {"top_skills": [], "anomalies": []}}"#.to_owned();
    let feed = ScriptedFeed::start(vec![vec![Step::Repeat(snapshot, Duration::from_millis(20))]]);
    let run = move || {
        let feed = feed.url().to_string();
        let arguments: Vec<&str> = ["check", &feed].into_iter().chain(arguments.iter().map(String::as_str)).collect();
        Program::start(arguments).end()
    };
    tokio::task::spawn_blocking(run).await.unwrap()
}

async fn of(server: &ScriptedReceiver) -> Ended {
    check(vec![format!("--push.url={}", server.url())]).await
}

/// Accepts requests of remote write, and no others, with a clock that is behind by so many seconds.
fn genuine(request: &Received, seconds_behind: u64) -> Action {
    let date = http_date(SystemTime::now() - Duration::from_secs(seconds_behind));
    match request.is_valid {
        true => Action::status("204 No Content", &format!("Date: {date}\r\n"), "").stored(),
        false => Action::status("400 Bad Request", &format!("Date: {date}\r\n"), "snappy: corrupt input"),
    }
}

#[tokio::test]
async fn a_receiver_is_verified_without_a_sample() {
    let server = ScriptedReceiver::start(|request, _| genuine(request, 0)).await;
    let Ended { code, stdout, stderr } = of(&server).await;
    assert_eq!((code, stderr.as_str()), (Some(0), ""), "{stdout}");
    for line in [
        "  reachable: yes, it answers a request without samples with status 204",
        "  authorized: yes, without credentials",
        "  clock: this machine and the receiver agree",
        "  tenant: none is sent (header X-Scope-OrgID)",
        "  remote write: yes, a malformed request is refused with status 400",
    ] {
        assert!(stdout.lines().any(|printed| printed == line), "{line:?} is not in:\n{stdout}");
    }
    assert!(server.stored().is_empty() && server.requests().iter().all(Received::is_empty));
}

#[tokio::test]
async fn whoever_answers_2xx_to_everything_is_named() {
    let everything = ScriptedReceiver::start(|_, _| Action::status("200 OK", "", "")).await;
    let page = ScriptedReceiver::start(|_, _| {
        Action::status("200 OK", "Content-Type: text/html; charset=utf-8\r\n", "<h1>It works</h1>")
    })
    .await;
    for (server, told) in [(everything, "accepts malformed requests too"), (page, "a web page answers")] {
        let Ended { code, stdout, stderr } = of(&server).await;
        assert_eq!(code, Some(1), "{stdout}");
        assert!(stderr.contains(told) && stderr.contains("remote write is not verified by this"), "{stderr}");
    }
}

/// The bridge pushes to it, and `check` cannot show that.
#[tokio::test]
async fn a_receiver_that_refuses_requests_without_samples_is_not_said_to_refuse_samples() {
    let server = ScriptedReceiver::start(|_, _| Action::status("400 Bad Request", "", "no samples")).await;
    let Ended { code, stdout, stderr } = of(&server).await;
    assert_eq!(code, Some(1), "{stdout}");
    assert!(stderr.contains("status 400: no samples; ") && stderr.contains("can still accept samples"), "{stderr}");
}

#[tokio::test]
async fn credentials_tenant_and_clock_are_reported_and_no_secret_is() {
    let folder = tempfile::tempdir().unwrap();
    let (token, headers) = (folder.path().join("token"), folder.path().join("headers"));
    std::fs::write(&token, "hunter2hunter2\n").unwrap();
    std::fs::write(&headers, "X-Scope-OrgID: team-a\n").unwrap();
    let server = ScriptedReceiver::start(|request, _| match request.headers.get("authorization").map(String::as_str) {
        Some("Bearer hunter2hunter2") => genuine(request, 7_200),
        given => Action::status("401 Unauthorized", "", &format!("not {given:?}")),
    })
    .await;
    let refused = of(&server).await;
    assert_eq!(refused.code, Some(1));
    assert!(refused.stderr.contains("status 401: check the credentials"), "{}", refused.stderr);

    let arguments = vec![
        format!("--push.url={}", server.url()),
        format!("--push.bearer-token-file={}", token.display()),
        format!("--push.headers-file={}", headers.display()),
    ];
    let Ended { code, stdout, stderr } = check(arguments).await;
    assert_eq!(code, Some(1), "{stdout}");
    assert!(stderr.contains("clock is 7") && stderr.contains("s ahead: set it"), "{stderr}");
    for line in [
        "  authorized: yes, with a bearer token",
        "  clock: this machine is 7",
        "  tenant: the header X-Scope-OrgID of",
    ] {
        assert!(stdout.contains(line), "{line:?} is not in:\n{stdout}");
    }
    assert!(![&stdout, &stderr].iter().any(|text| text.contains("hunter2")), "{stdout}{stderr}");
}

#[tokio::test]
async fn a_receiver_that_is_not_there_and_a_setting_that_is_refused_are_told_apart() {
    let unreachable = check(vec!["--push.url=http://127.0.0.1:1/".to_owned()]).await;
    assert_eq!(unreachable.code, Some(1));
    assert!(unreachable.stderr.contains("check that the receiver runs"), "{}", unreachable.stderr);
    assert!(unreachable.stdout.contains("  clock: not known\n"), "{}", unreachable.stdout);
    let refused = check(vec!["--push.url=ftp://127.0.0.1/".to_owned()]).await;
    assert_eq!(refused.code, Some(2));
    assert!(refused.stderr.contains("does not start with http:// or https://"), "{}", refused.stderr);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_demo_pushes_simulated_skills_under_an_instance_of_its_own() {
    let server = ScriptedReceiver::start(|request, _| genuine(request, 0)).await;
    let push = format!("--push.url={}", server.url());
    let demo = Program::start(["demo", &push, "--web.listen-address", "127.0.0.1:0"]);
    let is_of_demo = |labels: &[(String, String)]| {
        let has = |name: &str, value: &str| labels.iter().any(|label| label.0 == name && label.1 == value);
        has("__name__", "skill_invocations_total") && has("instance", "demo") && has("job", "session-buddy")
    };
    server.until("a sample of a skill", |stored| stored.keys().any(|labels| is_of_demo(labels))).await;
    drop(demo);
}
