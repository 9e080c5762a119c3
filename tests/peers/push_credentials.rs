//! Receivers of remote write behind TLS, passwords, tokens and client certificates: Prometheus with a web configuration file, and
//! VictoriaMetrics behind vmauth.

use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use serde_json::Value;
use session_buddy_bridge::internals::push::{PushLabels, PushReceiver};
use session_buddy_bridge::settings::{ClientIdentity, HttpCredentials, TlsFiles};

use crate::support::certificates::{Authority, ClientFiles};
use crate::support::http_client::{Connection, try_get};
use crate::support::peers::receivers::{EncryptedPrometheus, Kind, Receiver, VmAuth, releases_or_skip, vector};
use crate::support::program::Program;
use crate::support::push_senders::{Queue, Running, receiver, timing};
use crate::support::scrape::Scrape;
use crate::support::scripted_feed::{ScriptedFeed, Step};
use crate::support::web_site::{TLS, WebSite, basic, hash};
use crate::support::{eventually, eventually_async, holds};

const SERIES: usize = 3;

/// What a Prometheus demands here: a client certificate of the authority in `clients.pem`, and alice's password.
fn demands(password: &str) -> String {
    let clients = "  client_auth_type: RequireAndVerifyClientCert\n  client_ca_file: clients.pem\n";
    format!("{TLS}{clients}basic_auth_users:\n  alice: {}\n", hash(password))
}

/// A site whose clients are of the authority that signed its own certificate.
fn protected() -> WebSite {
    let site = WebSite::new();
    fs::copy(site.folder.path().join("ca.pem"), site.folder.path().join("clients.pem")).unwrap();
    site
}

/// The files of a bridge, which a test replaces while it runs.
struct Files {
    folder: tempfile::TempDir,
}

impl Files {
    fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Replaces a file as a whole.
    fn write(&self, name: &str, text: impl AsRef<[u8]>) {
        fs::write(self.path("new"), text).unwrap();
        fs::rename(self.path("new"), self.path(name)).unwrap();
    }

    fn trust(&self, site: &WebSite) {
        self.write("ca.pem", fs::read(site.folder.path().join("ca.pem")).unwrap());
    }

    /// A client certificate that `authority` has signed.
    fn present(&self, authority: &Authority) {
        let ClientFiles { certificate, key } = authority.client("laptop", self.folder.path());
        // The two are read one after the other: a pair that does not fit is a failure, and is tried again.
        fs::rename(certificate, self.path("client.pem")).unwrap();
        fs::rename(key, self.path("client.key")).unwrap();
    }

    fn tls(&self) -> TlsFiles {
        TlsFiles { ca: Some(self.path("ca.pem")), identity: None }
    }

    fn all(&self) -> HttpCredentials {
        let identity = ClientIdentity { certificate: self.path("client.pem"), key: self.path("client.key") };
        HttpCredentials {
            basic_auth_file: Some(self.path("login")),
            tls: TlsFiles { identity: Some(identity), ..self.tls() },
            ..HttpCredentials::default()
        }
    }
}

/// Asks a Prometheus that demands a password and a client certificate.
fn ask(
    site: &WebSite,
    address: SocketAddr,
    client: &ClientFiles,
    password: &str,
    promql: &str,
    at: f64,
) -> Vec<(Value, f64)> {
    let query: String = url::form_urlencoded::Serializer::new(String::new())
        .extend_pairs([("query", promql), ("time", &at.to_string())])
        .finish();
    let mut connection = Connection::over(site.stream_encrypted(address, Some(client)));
    let head = format!("GET /api/v1/query?{query} HTTP/1.0\r\nHost: {address}\r\n{}\r\n", basic("alice", password));
    connection.send(head.as_bytes());
    let answer = connection.rest();
    let body = answer.windows(4).position(|bytes| bytes == b"\r\n\r\n").expect("an answer of HTTP") + 4;
    vector(&answer[body..])
}

/// The newest value of each of the queue's series, if `ask` gives it for each.
fn has_arrived(queue: &Queue, ask: impl Fn(&str, f64) -> Vec<(Value, f64)>) -> Result<(), String> {
    let at = queue.newest_time() as f64 / 1e3;
    queue.newest.iter().try_for_each(|(metric, value)| {
        let held = ask(metric, at).first().map(|(_, value)| *value);
        holds(held == Some(*value), format!("{metric} is {held:?} and not {value}"))
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn prometheus_with_a_password_and_client_certificates_is_pushed_to_over_tls() {
    let Some(releases) = releases_or_skip() else { return };
    for release in releases {
        let (site, files) = (protected(), Files::new());
        site.write(&demands("secret"));
        let prometheus = EncryptedPrometheus::start(release, &site);
        files.trust(&site);
        files.present(&site.authority);
        files.write("login", "alice:secret\n");
        let receiver = PushReceiver { credentials: files.all(), ..receiver(&prometheus.url()) };
        let mut queue = Queue::new(&[&receiver], 3).await;
        queue.ticks(3, SERIES).await;
        let report = Running::start(&receiver, &queue, timing()).finish().await;
        assert!(report.refused.is_empty() && report.holds.is_empty(), "{release}: {report:?}");
        let client = site.authority.client("the test", site.folder.path());
        has_arrived(&queue, |promql, at| ask(&site, prometheus.address(), &client, "secret", promql, at)).unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn victoria_metrics_behind_vmauth_is_pushed_to_with_a_token_or_a_password() {
    let Some(releases) = releases_or_skip() else { return };
    for release in releases {
        let (site, files) = (WebSite::new(), Files::new());
        let storage = Receiver::start(release, Kind::VictoriaMetrics);
        let root = storage.root();
        let users = format!(
            "users:\n- bearer_token: a-token\n  url_prefix: {root}\n- username: alice\n  password: secret\n  url_prefix: {root}\n"
        );
        let vmauth = VmAuth::start(release, &site, &users);
        files.trust(&site);
        files.write("token", "another-token\n");
        files.write("login", "alice:secret\n");
        let with_token = HttpCredentials {
            bearer_token_file: Some(files.path("token")),
            tls: files.tls(),
            ..HttpCredentials::default()
        };
        let with_password = HttpCredentials {
            basic_auth_file: Some(files.path("login")),
            tls: files.tls(),
            ..HttpCredentials::default()
        };
        for (instance, credentials) in [("token", with_token), ("password", with_password)] {
            let mut receiver = PushReceiver { credentials, ..receiver(&vmauth.url()) };
            receiver.labels = PushLabels::of_host(instance);
            let mut queue = Queue::new(&[&receiver], 3).await;
            queue.ticks(3, SERIES).await;
            let running = Running::start(&receiver, &queue, timing());
            if instance == "token" {
                let report = running.until("a refusal", |report| !report.holds.is_empty()).await;
                // The vmauth of Debian 12 answers 400 to an unknown token.
                let expected = if release == "bookworm" { "status 400: cannot find" } else { "status 401: check" };
                assert!(report.holds[0].starts_with(expected), "{release}: {report:?}");
                assert!(report.holds.iter().all(|hold| !hold.contains("another-token")), "{report:?}");
                files.write("token", "a-token\n");
            }
            let report = running.finish().await;
            assert!(report.refused.is_empty(), "{release}: {report:?}");
            let api = storage.api();
            eventually_async("VictoriaMetrics to show what it stored", async || {
                tokio::task::block_in_place(|| {
                    api.flush();
                    let of_instance = |promql: &str, at| api.query(&format!("{promql}{{instance=\"{instance}\"}}"), at);
                    has_arrived(&queue, of_instance)
                })
            })
            .await;
        }
    }
}

/// Everything that a connection needs is wrong at first, and is mended while the sender runs; then the receiver gets another
/// certificate and another password. Each problem is reported with what to do, and nothing is lost.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn files_are_read_again_at_each_connection_and_each_problem_is_named() {
    let Some([release, _]) = releases_or_skip() else { return };
    let (site, files, stranger) = (protected(), Files::new(), WebSite::new());
    site.write(&demands("secret"));
    let prometheus = EncryptedPrometheus::start(release, &site);
    files.trust(&stranger);
    files.present(&stranger.authority);
    files.write("login", "alice:guessed\n");
    let receiver = PushReceiver { credentials: files.all(), ..receiver(&prometheus.url()) };
    let mut queue = Queue::new(&[&receiver], 8).await;
    queue.ticks(4, SERIES).await;
    let running = Running::start(&receiver, &queue, timing());
    let until_retry = |what: &'static str| {
        running.until(what, move |report| report.retries.last().is_some_and(|(problem, _)| problem.contains(what)))
    };
    let until_hold = |holds: usize| {
        running.until("status 401", move |report| {
            report.holds.len() > holds
                && report.holds.iter().all(|hold| hold.starts_with("status 401: check the credentials"))
        })
    };

    until_retry("the server's certificate is not from a CA that is trusted here; check the CA file").await;
    files.trust(&site);
    until_retry("the server does not take this client's certificate").await;
    files.present(&site.authority);
    let report = until_hold(0).await;
    assert_eq!((report.accepted, report.refused.len()), (0, 0), "nothing was stored, and nothing dropped");
    assert!(report.holds.iter().all(|hold| !hold.contains("guessed")), "{:?}", report.holds);
    files.write("login", "alice:secret\n");
    let report = running.until("the first ticks", |report| report.accepted > 0).await;

    // The connection is kept until the receiver refuses a request; the next one meets the other certificate.
    let renewed = Authority::new("the renewed one");
    renewed.server_files(site.folder.path());
    renewed.file(site.folder.path());
    site.write(&demands("changed"));
    queue.ticks(4, SERIES).await;
    until_retry("the server's certificate is not from a CA that is trusted here; check the CA file").await;
    files.trust(&site);
    until_hold(report.holds.len() + 1).await;
    files.write("login", "alice:changed\n");
    let report = running.finish().await;
    assert!(report.refused.is_empty(), "{report:?}");

    let client = ClientFiles { certificate: files.path("client.pem"), key: files.path("client.key") };
    has_arrived(&queue, |promql, at| ask(&site, prometheus.address(), &client, "changed", promql, at)).unwrap();
}

/// The flags, and what is seen from outside.
#[test]
fn an_untrusted_certificate_is_seen_on_every_surface_until_the_file_is_right() {
    let Some([_, release]) = releases_or_skip() else { return };
    let (site, files, stranger) = (protected(), Files::new(), WebSite::new());
    site.write(&demands("secret"));
    let prometheus = EncryptedPrometheus::start(release, &site);
    files.trust(&stranger);
    files.present(&site.authority);
    files.write("login", "alice:secret\n");
    let flag = |name: &str, file: &str| format!("--push.{name}={}", files.path(file).display());
    let push = [
        format!("--push.url={}", prometheus.url()),
        flag("ca-file", "ca.pem"),
        flag("cert-file", "client.pem"),
        flag("key-file", "client.key"),
        flag("basic-auth-file", "login"),
    ];
    let push = || push.iter().map(String::as_str);
    // A healthy feed beside it.
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let feed = {
        let _context = runtime.enter();
        let snapshot = r#"{"type": "metrics_update", "data": {"top_skills": [], "anomalies": []}}"#.to_owned();
        ScriptedFeed::start(vec![vec![Step::Repeat(snapshot, Duration::from_millis(20))]])
    };
    let feed_url = feed.url().to_string();
    let check = || Program::start(["check", &feed_url].into_iter().chain(push())).end();
    let untrusted = "the server's certificate is not from a CA that is trusted here; check the CA file";
    let refused = check();
    assert_eq!(refused.code, Some(1), "{}", refused.printed());
    assert!(refused.stderr.contains(untrusted), "{}", refused.stderr);

    let state = format!("--state.path={}", files.path("state.db").display());
    let others = ["--web.listen-address=127.0.0.1:0", "--feed.url=ws://127.0.0.1:1", &state];
    let mut bridge = Program::start(others.into_iter().chain(push()));
    let address = bridge.address();
    let is_up = |expected: f64| {
        let up = Scrape::try_fetch(address)?.sum("session_buddy_bridge_push_up");
        holds(up == expected, format!("push_up is {up}"))
    };
    let problem = || {
        let status = try_get(address, "/api/v1/status").map_err(|error| error.to_string())?;
        let status: Value = serde_json::from_slice(&status.body).map_err(|error| error.to_string())?;
        Ok::<_, String>(status["receivers"][0]["problem"].as_str().unwrap_or_default().to_owned())
    };
    eventually("the problem", || problem().and_then(|problem| holds(problem.contains(untrusted), problem)));
    is_up(0.0).unwrap();
    bridge.until_stderr("the problem", |log| log.contains(untrusted));

    files.trust(&site);
    eventually("an accepted request", || is_up(1.0));
    assert_eq!(problem(), Ok(String::new()));
    let verified = check();
    assert_eq!(verified.code, Some(0), "{}", verified.printed());
    assert!(verified.stdout.contains("authorized: yes, with a user and a password"), "{}", verified.stdout);
}
