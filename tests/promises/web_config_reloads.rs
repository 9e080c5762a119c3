//! The web configuration file is reloaded whole or not at all, and no reload takes a protection away.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use crate::support::certificates::Authority;
use crate::support::program::Program;
use crate::support::scrape::Scrape;
use crate::support::served::Served;
use crate::support::web_site::{TLS, WebSite, basic, get, hash};
use crate::support::{PATIENCE, wait_until};
use rustix::process::Signal;
use session_buddy_bridge::internals::http::WebConfigFile;

fn users(of: &[(&str, &str)]) -> String {
    let lines = of.iter().map(|(user, password)| format!("  {user}: {}\n", hash(password)));
    format!("basic_auth_users:\n{}", lines.collect::<String>())
}

fn failures(server: &Served) -> Vec<String> {
    server.content.web_config_failures.lock().unwrap().clone()
}

fn reloads(server: &Served) -> usize {
    server.content.web_config_reloads.lock().unwrap().len()
}

/// Waits for one more failure than `before`, and returns its message.
fn next_failure(server: &Served, before: usize) -> String {
    wait_until("the reload to fail", || failures(server).len() > before);
    failures(server)[before].clone()
}

#[test]
fn an_emptied_file_opens_nothing_and_the_next_whole_one_is_accepted() {
    let site = WebSite::new();
    let server = site.serve(&users(&[("alice", "old")]));
    for (empty, before) in [("", 0), ("# to be continued\n", 1)] {
        // In place, as an editor or a full disk leaves it.
        fs::write(site.path(), empty).unwrap();
        assert!(next_failure(&server, before).contains("the file is empty; to configure nothing, write {}"));
        assert_eq!(get(server.address, "").status, 401);
        assert_eq!(get(server.address, &basic("alice", "old")).status, 200);
    }
    assert_eq!(reloads(&server), 0);
    site.write(&users(&[("alice", "new")]));
    wait_until("the new password", || get(server.address, &basic("alice", "new")).status == 200);
    assert_eq!(get(server.address, "").status, 401);
    server.stop();
}

#[test]
fn no_copy_over_the_file_lets_anybody_in() {
    const COPIES: usize = 300;
    let site = WebSite::new();
    let server = site.serve(&users(&[("alice", "secret")]));
    let original = site.folder.path().join("original");
    fs::copy(site.path(), &original).unwrap();
    let path = site.path();
    let copier = std::thread::spawn(move || {
        for _ in 0..COPIES {
            fs::copy(&original, &path).unwrap();
        }
    });
    loop {
        let is_last = copier.is_finished();
        assert_eq!(get(server.address, "").status, 401);
        if is_last {
            break;
        }
    }
    copier.join().unwrap();
    server.stop();
}

#[test]
fn a_file_without_users_is_refused_at_the_start_only_if_it_does_not_say_so() {
    let site = WebSite::new();
    assert!(site.refusal("").contains("the file is empty"));
    site.write("{}");
    WebConfigFile::open(&site.path()).unwrap();
}

#[test]
fn one_of_several_users_may_go_and_the_last_one_may_not() {
    let site = WebSite::new();
    let server = site.serve(&users(&[("alice", "a"), ("bob", "b")]));
    site.write(&users(&[("bob", "b")]));
    wait_until("alice to be refused", || get(server.address, &basic("alice", "a")).status == 401);
    assert_eq!(server.content.web_config_reloads.lock().unwrap().last().unwrap().users, 1);
    for (without, before) in ["{}", "basic_auth_users: {}", "http_server_config: {http2: true}"].into_iter().zip(0..) {
        site.write(without);
        let failure = next_failure(&server, before);
        assert!(failure.contains("there are no more users") && failure.contains("restart"), "{failure}");
        assert_eq!(get(server.address, "").status, 401, "{without}");
        assert_eq!(get(server.address, &basic("bob", "b")).status, 200, "{without}");
    }
    server.stop();
}

#[test]
fn tls_and_the_certificates_of_clients_cannot_be_taken_away() {
    let site = WebSite::new();
    let clients = Authority::new("of the clients");
    let client = clients.client("127.0.0.1", site.folder.path());
    let folder = tempfile::tempdir().unwrap();
    fs::rename(clients.file(folder.path()), site.folder.path().join("clients.pem")).unwrap();
    let required = "  client_auth_type: RequireAndVerifyClientCert\n  client_ca_file: clients.pem\n";
    let optional = "  client_auth_type: VerifyClientCertIfGiven\n  client_ca_file: clients.pem\n";
    let server = site.serve(&format!("{TLS}{required}"));
    for (without, lost, before) in [
        ("{}".to_owned(), "TLS (tls_server_config), required client certificates", 0),
        (TLS.to_owned(), "required client certificates", 1),
        (format!("{TLS}{optional}"), "required client certificates", 2),
    ] {
        site.write(&without);
        let failure = next_failure(&server, before);
        assert!(failure.contains(lost), "{failure}");
        assert!(site.get_encrypted(server.address, None).is_err(), "{without}");
        assert_eq!(site.get_encrypted(server.address, Some(&client)).unwrap(), 200, "{without}");
    }
    // Added protections count too.
    site.write(&format!("{TLS}{required}  client_allowed_sans: [somebody.else]\n"));
    wait_until("the name to be refused", || site.get_encrypted(server.address, Some(&client)).is_err());
    site.write(&format!("{TLS}{required}"));
    assert!(next_failure(&server, 3).contains("client_allowed_sans"));
    server.stop();
}

#[test]
fn an_emptied_certificate_or_key_leaves_the_old_ones_in_use() {
    let site = WebSite::new();
    let server = site.serve(TLS);
    for (file, before) in [("server.pem", 0), ("server.key", 1)] {
        let path = site.folder.path().join(file);
        let content = fs::read(&path).unwrap();
        fs::write(&path, "").unwrap();
        assert!(next_failure(&server, before).contains("there is no"), "{file}");
        assert_eq!(site.get_encrypted(server.address, None).unwrap(), 200, "{file}");
        let accepted = reloads(&server);
        fs::write(&path, content).unwrap();
        wait_until("the whole file", || reloads(&server) > accepted);
    }
    server.stop();
}

/// The bridge itself, which watches the file and shows what became of it.
#[test]
fn the_bridge_shows_and_logs_whether_the_last_reload_was_successful() {
    const SUCCESSFUL: &str = "session_buddy_bridge_web_config_last_reload_successful";
    const SUCCEEDED_AT: &str = "session_buddy_bridge_web_config_last_reload_success_timestamp_seconds";
    let site = WebSite::new();
    site.write(&users(&[("alice", "a"), ("bob", "b")]));
    let file = site.path().display().to_string();
    let listen = ["--web.config.file", &file, "--web.listen-address", "127.0.0.1:0"];
    let mut program = Program::start([&listen[..], &["--state.disabled", "--feed.url", "ws://127.0.0.1:1"]].concat());
    let address = program.address();
    let shown = |user: &str| {
        let answer = get(address, &basic(user, &user[..1]));
        let scrape = Scrape::parse(answer.text()).map_err(|_| format!("{} for {user}", answer.status))?;
        Ok::<_, String>([SUCCESSFUL, SUCCEEDED_AT].map(|name| scrape.value(name, &[]).unwrap()))
    };
    let [successful, started_at] = shown("alice").unwrap();
    assert_eq!(successful, 1.0);

    fs::write(site.path(), "").unwrap();
    program.until_stderr("the failure", |log| log.contains("web configuration reload failed"));
    assert_eq!(shown("alice").unwrap(), [0.0, started_at]);
    assert_eq!(get(address, "").status, 401);

    site.write(&users(&[("bob", "b")]));
    program.until_stderr("the reload", |log| log.contains("web configuration reloaded"));
    assert!(program.stderr().lines().any(|line| line.contains("reloaded") && line.contains("users=1")));
    let [successful, succeeded_at] = shown("bob").unwrap();
    assert!(successful == 1.0 && succeeded_at > started_at, "{successful} {succeeded_at}");
    assert_eq!(get(address, &basic("alice", "a")).status, 401);
    program.signal(Signal::TERM);
    assert_eq!(program.end_within(PATIENCE).code, Some(0));
}

/// Replaces a file by one with the same length and the same time of modification.
#[test]
fn the_certificate_of_a_ca_as_that_of_the_server_is_logged_with_its_file() {
    let site = WebSite::new();
    site.write(TLS);
    let file = site.path().display().to_string();
    let args = [
        "--web.config.file",
        &file,
        "--web.listen-address",
        "127.0.0.1:0",
        "--state.disabled",
        "--feed.url",
        "ws://127.0.0.1:1",
    ];
    let warning = format!(
        "level=warn msg=\"the server certificate is a CA certificate, which clients that use rustls refuse\" file={}",
        site.folder.path().join("server.pem").display()
    );
    let mut program = Program::start(args);
    let log = program.until_stderr("the address", |log| log.contains("msg=listening")).to_owned();
    assert!(!log.contains("of a CA"), "{log}");
    site.authority.own_files(site.folder.path());
    program.until_stderr("the warning after the reload", |log| {
        log.split_once("web configuration reloaded").is_some_and(|(_, log)| log.contains(&warning))
    });
    let mut restarted = Program::start(args);
    restarted.until_stderr("the warning at the start", |log| log.contains(&warning));
}

fn replace_unnoticeably(path: &Path, content: &[u8]) {
    let (modified, length) = fs::metadata(path).and_then(|found| Ok((found.modified()?, found.len()))).unwrap();
    assert_eq!(length, content.len() as u64);
    let new = path.with_extension("new");
    fs::write(&new, content).unwrap();
    fs::File::options().write(true).open(&new).unwrap().set_modified(modified).unwrap();
    fs::rename(new, path).unwrap();
}

#[test]
fn passwords_of_equal_length_in_a_file_with_a_kept_time_are_noticed() {
    let site = WebSite::new();
    let server = site.serve(&users(&[("alice", "old")]));
    replace_unnoticeably(&site.path(), users(&[("alice", "new")]).as_bytes());
    wait_until("the new password", || get(server.address, &basic("alice", "new")).status == 200);
    assert_eq!(get(server.address, &basic("alice", "old")).status, 401);

    // In place, too: only the time of the last change of the inode differs.
    let modified = fs::metadata(site.path()).unwrap().modified().unwrap();
    fs::write(site.path(), users(&[("alice", "two")])).unwrap();
    fs::File::options().write(true).open(site.path()).unwrap().set_modified(modified).unwrap();
    wait_until("the next password", || get(server.address, &basic("alice", "two")).status == 200);
    server.stop();
}

#[test]
fn certificates_behind_a_link_that_is_swapped_are_noticed() {
    let site = WebSite::new();
    let folder = site.folder.path();
    let (old, new, current) = (folder.join("old"), folder.join("later"), folder.join("current"));
    for generation in [&old, &new] {
        fs::create_dir(generation).unwrap();
    }
    let others = Authority::new("of another generation");
    others.server_files(&old);
    site.authority.server_files(&new);
    symlink(&old, &current).unwrap();
    let server = site.serve("tls_server_config: {cert_file: current/server.pem, key_file: current/server.key}");
    assert!(site.get_encrypted(server.address, None).is_err(), "it is signed by another authority");
    symlink(&new, folder.join("next")).unwrap();
    fs::rename(folder.join("next"), &current).unwrap();
    wait_until("the new certificate", || site.get_encrypted(server.address, None).is_ok());
    assert_eq!(failures(&server), Vec::<String>::new());
    server.stop();
}
