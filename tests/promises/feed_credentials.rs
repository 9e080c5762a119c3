//! What a server is shown comes from files that are read at each connect, and TLS trusts as they say.

use std::fs;
use std::path::{Path, PathBuf};

use crate::support::certificates::{Authority, ClientFiles};
use crate::support::recording_listener::{Note, RunningFeed, disconnect_reason, ends, settings, snapshot, with_token};
use crate::support::scripted_feed::{Gate, ScriptedFeed, Step, Visit};
use session_buddy_bridge::internals::feed::{
    ClientIdentity, Credentials, FeedSettings, FeedState, Minting, SecretSource, TOKEN_LIFETIME, TlsFiles, TokenSource,
};

fn greeting() -> Vec<Vec<Step>> {
    vec![vec![Step::send(snapshot(1))]]
}

fn trusting(server: &ScriptedFeed, ca: PathBuf, client: Option<&ClientFiles>) -> FeedSettings {
    let identity =
        client.map(|client| ClientIdentity { certificate: client.certificate.clone(), key: client.key.clone() });
    let tls = TlsFiles { ca: Some(ca), identity };
    FeedSettings { credentials: Credentials { tls, ..Credentials::default() }, ..settings(server.url()) }
}

/// At once, so that nobody reads half a file.
fn replace(file: &Path, with: &Path) {
    let draft = file.with_extension("draft");
    fs::copy(with, &draft).unwrap();
    fs::rename(&draft, file).unwrap();
}

/// How each of `attempts` attempts failed, none of which got through.
async fn failures(feed: &RunningFeed, attempts: usize, code: &str) -> String {
    let statuses = feed.ended(attempts).await;
    assert!(statuses.iter().all(|status| disconnect_reason(status).code() == code), "{statuses:?}");
    assert!(!feed.notes().contains(&Note::Opened));
    statuses[0].to_string()
}

#[tokio::test]
async fn a_ca_is_trusted_as_soon_as_its_file_says_so() {
    let directory = tempfile::tempdir().unwrap();
    let (known, unknown) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let authority = Authority::new("the authority");
    let right = authority.file(known.path());
    let wrong = Authority::new("somebody else").file(unknown.path());
    let file = directory.path().join("ca.pem");
    replace(&file, &wrong);

    let server = ScriptedFeed::start_encrypted(authority.server(None), greeting());
    let feed = RunningFeed::start(trusting(&server, file.clone(), None));
    let told = failures(&feed, 2, "tls").await;
    assert!(told.contains("the server's certificate is not from a CA that is trusted here"), "{told}");
    replace(&file, &right);
    feed.live().await;
    feed.stop().await;
}

#[tokio::test]
async fn a_certificate_for_another_host_is_said_to_be_one() {
    let directory = tempfile::tempdir().unwrap();
    let authority = Authority::new("the authority");
    let server = ScriptedFeed::start_encrypted(authority.server(None), greeting());
    let mut settings = trusting(&server, authority.file(directory.path()), None);
    settings.url.set_host(Some("localhost")).unwrap();
    let feed = RunningFeed::start(settings);
    let told = failures(&feed, 1, "tls").await;
    assert!(told.contains("the server's certificate is for another host"), "{told}");
    feed.stop().await;
}

#[tokio::test]
async fn a_server_that_asks_for_a_certificate_gets_it() {
    let directory = tempfile::tempdir().unwrap();
    let (authority, stranger) = (Authority::new("the authority"), Authority::new("a stranger"));
    let ca = authority.file(directory.path());
    let server = ScriptedFeed::start_encrypted(authority.server(Some(&authority)), greeting());

    let nobody = RunningFeed::start(trusting(&server, ca.clone(), None));
    let told = failures(&nobody, 3, "tls").await;
    assert!(told.contains("the server requires a client certificate"), "{told}");
    nobody.stop().await;

    let client = stranger.client("client", directory.path());
    let feed = RunningFeed::start(trusting(&server, ca, Some(&client)));
    let told = failures(&feed, 3, "tls").await;
    assert!(told.contains("the server does not take this client's certificate"), "{told}");
    // One file after the other: in between they do not belong together, which only delays.
    let vouched = tempfile::tempdir().unwrap();
    let vouched = authority.client("client", vouched.path());
    replace(&client.certificate, &vouched.certificate);
    replace(&client.key, &vouched.key);
    feed.live().await;
    feed.stop().await;
}

#[tokio::test]
async fn headers_arrive_as_the_file_has_them_at_that_connect() {
    let directory = tempfile::tempdir().unwrap();
    let (file, next) = (directory.path().join("headers"), directory.path().join("next"));
    let write = |text: &str| {
        fs::write(&next, text).unwrap();
        replace(&file, &next);
    };
    write("X-Key: one\nX-Key: two\n\nAuthorization: Basic aHVudGVyMg==\n");
    let refuse = Gate::default();
    let quoting = Step::Close(1011, "no: aHVudGVyMg==".to_owned());
    let server = ScriptedFeed::start(vec![
        vec![Step::send(snapshot(1)), Step::Await(refuse.clone()), quoting],
        vec![Step::send(snapshot(2))],
    ]);
    let feed = RunningFeed::start(FeedSettings {
        credentials: Credentials { headers_file: Some(file.clone()), ..Credentials::default() },
        ..settings(server.url())
    });
    feed.live().await;
    write("Host: elsewhere\n");
    refuse.open();
    let coded = |notes: &[Note], code| ends(notes).into_iter().find(|status| disconnect_reason(status).code() == code);
    feed.until("a refused file", |notes| coded(notes, "headers").is_some()).await;
    assert_eq!(server.visits().len(), 1, "with such a header nothing is connected to");
    write("X-Key: three\n");
    let visit = server.visited(2, "the headers", |visit| !visit.headers.is_empty()).await;

    let of = |visit: &Visit, name: &str| {
        let named = visit.headers.iter().filter(|(other, _)| other == name);
        named.map(|(_, value)| value.clone()).collect::<Vec<_>>()
    };
    let first = &server.visits()[0];
    assert_eq!(of(first, "x-key"), ["one", "two"]);
    assert_eq!(of(first, "authorization"), ["Basic aHVudGVyMg=="]);
    assert_eq!(of(&visit, "x-key"), ["three"]);
    assert_eq!(of(&visit, "authorization"), [""; 0]);
    let notes = feed.stop().await;
    let refused = coded(&notes, "1011").unwrap().to_string();
    assert!(refused.contains("\"no: ***") && !format!("{notes:?}").contains("aHVudGVyMg"), "{refused}");
    let of_file = coded(&notes, "headers").unwrap().to_string();
    assert!(of_file.contains("has a line 1 that sets a header that belongs to the WebSocket handshake"), "{of_file}");
}

#[tokio::test]
async fn without_the_secret_nothing_is_connected_to() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("secret");
    let server = ScriptedFeed::start(vec![vec![Step::expect(|text| text.contains("token")), Step::send(snapshot(1))]]);
    let minting = Minting { secret: SecretSource::File(file.clone()), lifetime: TOKEN_LIFETIME };
    let feed = RunningFeed::start(FeedSettings {
        credentials: with_token(TokenSource::Minted(minting)),
        ..settings(server.url())
    });
    let status = feed.ended(2).await.remove(1);
    assert_eq!(disconnect_reason(&status).code(), "token");
    assert!(matches!(status, FeedState::Waiting { .. }), "{status:?}");
    assert!(
        status.to_string().contains(&format!("the JWT secret file \"{}\" cannot be read", file.display())),
        "{status}"
    );
    assert!(server.visits().is_empty());
    fs::write(&file, "a secret").unwrap();
    feed.live().await;
    feed.stop().await;
}

#[tokio::test]
async fn a_query_that_a_close_reason_quotes_is_not_shown() {
    let server = ScriptedFeed::start(vec![vec![
        Step::send(snapshot(1)),
        Step::Close(1011, "no session at /feed?token=the-key%2Fitself, the-key/itself".to_owned()),
    ]]);
    let mut url = server.url();
    url.set_query(Some("token=the-key%2Fitself"));
    let feed = RunningFeed::start(settings(url));
    let coded = |notes: &[Note]| ends(notes).into_iter().find(|status| disconnect_reason(status).code() == "1011");
    feed.until("the close", |notes| coded(notes).is_some()).await;
    let notes = feed.stop().await;
    let closed = coded(&notes).unwrap().to_string();
    assert!(closed.contains("no session at /feed?*** ***") && !format!("{notes:?}").contains("itself\\\""), "{closed}");
}
