//! What a receiver's URL holds behind its `?` may be a token: no log, page or command shows it, whatever a receiver quotes.

use std::fs;

use session_buddy_bridge::settings::{HttpCredentials, PushReceiver};

use crate::support::program::Program;
use crate::support::push_senders::{Queue, Running, receiver, timing};
use crate::support::scripted_feed::{ScriptedFeed, Step};
use crate::support::scripted_receiver::{Action, Received, ScriptedReceiver};

/// With a character that URLs, JSON and pages write differently each.
const QUERY: &str = "tenant=a&token=s3cr3t%2Ftoken-itself";

/// Parts of the query that must not be shown, in each form.
const SECRETS: [&str; 3] = ["s3cr3t", "token-itself", "tenant=a"];

/// Number of answers that quote what was requested.
const QUOTATIONS: usize = 11;

/// Answers that quote what was requested.
fn quoting(request: &Received) -> [Action; QUOTATIONS] {
    let target = &request.target;
    let (_, query) = target.split_once('?').expect("the query is sent");
    let decoded = target.replace("%2F", "/");
    let token = decoded.rsplit_once('=').unwrap().1.to_owned();
    let refused = |body: &str| Action::status("404 Not Found", "", body);
    [
        Action::status("301 Moved Permanently", &format!("Location: https://elsewhere.example{target}\r\n"), ""),
        Action::status("302 Found", &format!("Location: /login?next={query}\r\n"), ""),
        refused(&format!("nothing at {target}")),
        refused(&format!("no route for {decoded}")),
        refused(&format!(r#"{{"path": "{}"}}"#, decoded.replace('/', r"\/"))),
        refused(&format!("the token {token} is not known, nor is {}", token.replace('/', "%2f"))),
        // Cut off as proxies do.
        refused(&format!("POST {} is refused", &target[..target.len() - 3])),
        refused(&format!("the token {}... is not known", &token[..token.len() - 3])),
        // As pages, JSON, and a URL in a URL.
        refused(&format!("<p>{}</p>", decoded.replace('/', "&#47;").replace('&', "&amp;").replace('-', "&#x2D;"))),
        refused(&format!(r#"{{"path": "{}"}}"#, decoded.replace('/', "\\u002f").replace('&', "\\u0026"))),
        refused(&format!("see /login?to={}", target.replace('%', "%25").replace('&', "%26"))),
    ]
}

fn shows_none(text: &str) {
    assert!(!SECRETS.iter().any(|secret| text.contains(secret)), "{text}");
}

#[tokio::test]
async fn no_answer_makes_a_sender_report_the_query_of_its_url() {
    let mut asked = 0;
    let server = ScriptedReceiver::start(move |request, _| {
        let answers = quoting(request);
        asked += 1;
        answers[(asked - 1) % answers.len()].clone()
    })
    .await;
    let receiver = receiver(&format!("{}?{QUERY}", server.url()));
    let mut queue = Queue::new(&[&receiver], 1).await;
    queue.ticks(1, 1).await;
    let running = Running::start(&receiver, &queue, timing());
    let report = running.until("each answer", |report| report.holds.len() >= QUOTATIONS).await;
    report.holds.iter().for_each(|hold| shows_none(hold));
    assert!(
        report.holds[0].contains("https://elsewhere.example/api/v1/write,"),
        "the rest is shown: {}",
        report.holds[0]
    );
    assert!(report.holds[2].contains("nothing at /api/v1/write?***"), "the rest is shown: {}", report.holds[2]);
}

#[tokio::test]
async fn no_answer_makes_a_sender_report_a_password_or_a_token() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        fs::write(folder.path().join(name), text).unwrap();
        Some(folder.path().join(name))
    };
    let basic = HttpCredentials { basic_auth_file: file("basic", "user:s3cr3t+of/me"), ..HttpCredentials::default() };
    let bearer = HttpCredentials { bearer_token_file: file("token", "s3cr3t+of/me"), ..HttpCredentials::default() };
    let header = HttpCredentials { headers_file: file("headers", "X-Key: s3cr3t+of/me"), ..HttpCredentials::default() };
    for credentials in [basic, bearer, header] {
        let server = ScriptedReceiver::start(|_, _| {
            let quotations =
                ["s3cr3t+of/me", "s3cr3t&#43;of&#x2F;me", "s3cr3t\\u002bof\\/me", "s3cr3t%2Bof%2fme", "s3cr3t+of"];
            Action::status("401 Unauthorized", "", &format!("{} may not write", quotations.join(", ")))
        })
        .await;
        let receiver = PushReceiver { credentials, ..receiver(&server.url()) };
        let mut queue = Queue::new(&[&receiver], 1).await;
        queue.ticks(1, 1).await;
        let running = Running::start(&receiver, &queue, timing());
        let report = running.until("an answer", |report| !report.holds.is_empty()).await;
        let expected = "status 401: check the credentials of this receiver: ***, ***, ***, ***, *** may not write";
        assert_eq!(report.holds[0], expected);
    }
}

/// The tenant has the name of a word that receivers write.
#[tokio::test]
async fn the_reason_of_a_refusal_is_known_whatever_is_secret_of_its_words() {
    for tenant in ["sample", "duplicate", "sample-for-timestamp"] {
        let server = ScriptedReceiver::start(|request, _| match request.is_empty() {
            true => Action::store(),
            false => Action::status("400 Bad Request", "", "duplicate sample for timestamp"),
        })
        .await;
        let receiver = receiver(&format!("{}?tenant={tenant}", server.url()));
        let mut queue = Queue::new(&[&receiver], 1).await;
        queue.ticks(1, 1).await;
        let report = Running::start(&receiver, &queue, timing()).finish().await;
        assert_eq!(report.refused.keys().collect::<Vec<_>>(), [&"duplicate"], "{tenant}");
        let shown = report.all_refused.unwrap();
        assert!(shown.starts_with("status 400: ") && shown.contains("***") && !shown.contains(tenant), "{shown}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn check_prints_no_query_that_a_receiver_quotes() {
    let snapshot = r#"{"type": "metrics_update", "data": {"top_skills": [], "anomalies": []}}"#.to_owned();
    for number in 0..QUOTATIONS {
        let server = ScriptedReceiver::start(move |request, _| quoting(request)[number].clone()).await;
        let feed =
            ScriptedFeed::start(vec![vec![Step::Repeat(snapshot.clone(), std::time::Duration::from_millis(20))]]);
        let push = format!("--push.url={}?{QUERY}", server.url());
        let ended = tokio::task::spawn_blocking(move || Program::start(["check", feed.url().as_ref(), &push]).end());
        let ended = ended.await.unwrap();
        assert_eq!(ended.code, Some(1), "{}", ended.printed());
        assert!(ended.stderr.contains("status "), "{}", ended.printed());
        shows_none(&ended.printed());
    }
}
