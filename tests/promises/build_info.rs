//! A program reports what it was built from, and the build finds out without a repository, from a package, and once.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;

use crate::support::in_repository;
use crate::support::peers::found_or_skip;
use crate::support::program::{Ended, Program, run};
use crate::support::scrape::Scrape;

const FEED: &str = "ws://127.0.0.1:1/feed?token=hunter2secret";

/// The lines of `--version` behind the first, by their names, and the version of the first.
fn printed_version() -> BTreeMap<String, String> {
    let Ended { code, stdout, .. } = Program::start(["--version"]).end();
    assert_eq!(code, Some(0));
    let mut lines = stdout.lines();
    let version = lines.next().and_then(|line| line.strip_prefix("session-buddy-bridge ")).expect("name and version");
    let others = lines.map(|line| line.split_once(": ").expect("a name and a value"));
    others.chain([("version", version)]).map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
}

#[test]
fn version_and_metric_have_the_same_values() {
    let printed = printed_version();
    assert_eq!(printed["version"], env!("CARGO_PKG_VERSION"));
    assert!(printed["target"].starts_with(std::env::consts::ARCH), "{printed:?}");
    let rustc = run(Command::new("rustc").arg("--version"), "").stdout;
    assert_eq!(rustc.split_whitespace().nth(1), Some(&*printed["rustc"]));

    let mut bridge = Program::start(["--state.disabled", "--feed.url", FEED, "--web.listen-address=127.0.0.1:0"]);
    let scrape = Scrape::fetch(bridge.address(), "/metrics");
    let series = scrape.series("session_buddy_bridge_build_info");
    assert_eq!(series, BTreeMap::from([(&printed, 1.0)]));
}

#[test]
fn the_short_version_is_one_line() {
    let Ended { code, stdout, .. } = Program::start(["-V"]).end();
    assert_eq!((code, stdout.as_str()), (Some(0), concat!("session-buddy-bridge ", env!("CARGO_PKG_VERSION"), "\n")));
}

#[test]
fn the_first_log_line_names_version_revision_and_feeds() {
    let version = printed_version();
    let mut bridge = Program::start([
        "--log.format=json",
        "--state.disabled",
        "--feed.url",
        FEED,
        "--feed.url=ws://127.0.0.1:2",
        "--web.listen-address=127.0.0.1:0",
    ]);
    bridge.address();
    let log = bridge.until_stderr("a line", |log| log.contains('\n')).to_owned();
    let first: serde_json::Value = serde_json::from_str(log.lines().next().unwrap()).expect("a JSON object");
    let expected = serde_json::json!({
        "level": "INFO",
        "message": "starting",
        "version": version["version"],
        "revision": version["revision"],
        "feeds": "ws://127.0.0.1:1/feed, ws://127.0.0.1:2/",
    });
    let mut first = first.as_object().unwrap().clone();
    assert!(first.remove("timestamp").is_some_and(|timestamp| timestamp.is_string()));
    assert_eq!(serde_json::Value::from(first), expected);
    assert_eq!(log.lines().filter(|line| line.contains("\"starting\"")).count(), 1, "{log}");
}

/// The build script as a program of its own, to be run in packages that are made for it.
struct BuildScript {
    folder: tempfile::TempDir,
}

/// What the build script tells Cargo.
#[derive(Debug, Default)]
struct Told {
    /// The paths whose changes run it again, and the variables.
    reruns: Vec<String>,
    values: BTreeMap<String, String>,
}

impl BuildScript {
    fn compile() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut rustc = Command::new("rustc");
        rustc.args(["--edition", "2024", "--crate-name", "build_script", "-o"]).arg(folder.path().join("build"));
        let compiled = run(rustc.arg(in_repository("build.rs")), "");
        assert!(compiled.is_success(), "{}", compiled.printed());
        Self { folder }
    }

    fn run(&self, package: &Path, profile: &str, revision: Option<&str>) -> Ended {
        let mut script = Command::new(self.folder.path().join("build"));
        script.current_dir(package).env("CARGO_MANIFEST_DIR", package).env("PROFILE", profile);
        script.env("RUSTC", "rustc").env("TARGET", "mips64-example").env_remove("BUILD_REVISION");
        run(script.envs(revision.map(|revision| ("BUILD_REVISION", revision))), "")
    }

    fn told(&self, package: &Path, profile: &str, revision: Option<&str>) -> Told {
        let ended = self.run(package, profile, revision);
        assert!(ended.is_success(), "{}", ended.printed());
        let mut told = Told::default();
        for line in ended.stdout.lines() {
            let (instruction, value) = line.strip_prefix("cargo::").and_then(|line| line.split_once('=')).expect(line);
            match instruction {
                "rerun-if-changed" => {
                    assert!(package.join(value).exists(), "{value} is not there, so every build would run it again");
                    told.reruns.push(value.to_owned());
                }
                "rerun-if-env-changed" => assert_eq!(value, "BUILD_REVISION"),
                "rustc-env" => {
                    let (name, value) = value.split_once('=').expect(line);
                    told.values.insert(name.to_owned(), value.to_owned());
                }
                _ => panic!("{line}"),
            }
        }
        assert_eq!(told.values["BUILD_INFO_TARGET"], "mips64-example");
        told
    }

    fn revision(&self, package: &Path, profile: &str, revision: Option<&str>) -> String {
        self.told(package, profile, revision).values["BUILD_INFO_REVISION"].clone()
    }
}

fn package() -> tempfile::TempDir {
    let package = tempfile::tempdir().unwrap();
    fs::create_dir(package.path().join("src")).unwrap();
    for file in ["src/main.rs", "build.rs", "Cargo.toml", "Cargo.lock", "README.md"] {
        fs::write(package.path().join(file), "").unwrap();
    }
    package
}

/// Runs git in `package`, with nothing of whoever runs the test in it.
fn git(package: &Path, arguments: &[&str]) -> String {
    let mut git = Command::new("git");
    git.args(["-c", "user.name=A", "-c", "user.email=a@example.org", "-c", "commit.gpgSign=false", "-C"]);
    git.env("GIT_CONFIG_GLOBAL", "/dev/null").env("GIT_CONFIG_SYSTEM", "/dev/null");
    let ended = run(git.arg(package).args(arguments), "");
    assert!(ended.is_success(), "{arguments:?}: {}", ended.printed());
    ended.stdout.trim().to_owned()
}

#[test]
fn the_revision_is_unknown_where_nothing_tells_it() {
    let (script, package) = (BuildScript::compile(), package());
    for profile in ["debug", "release"] {
        let told = script.told(package.path(), profile, Some(""));
        assert_eq!(told.values["BUILD_INFO_REVISION"], "unknown");
        assert_eq!(told.reruns, ["build.rs"]);
    }
}

#[test]
fn the_revision_of_the_variable_comes_first_and_is_checked() {
    let (script, package) = (BuildScript::compile(), package());
    fs::write(package.path().join(".cargo_vcs_info.json"), r#"{"git": {"sha1": "abcdef"}}"#).unwrap();
    assert_eq!(script.revision(package.path(), "release", Some("v1.2-3-gabc")), "v1.2-3-gabc");
    for invalid in ["two words", "a\ncargo::rustc-env=X=Y", &"a".repeat(65)] {
        let ended = script.run(package.path(), "release", Some(invalid));
        assert!(!ended.is_success() && ended.stderr.contains("BUILD_REVISION"), "{}", ended.printed());
    }
}

#[test]
fn the_revision_of_a_package_is_the_one_it_was_made_from() {
    let (script, package) = (BuildScript::compile(), package());
    for (note, revision) in [
        ("{\n  \"git\": {\n    \"sha1\": \"0123abc\"\n  },\n  \"path_in_vcs\": \"\"\n}", "0123abc"),
        (
            "{\n  \"git\": {\n    \"sha1\": \"0123abc\",\n    \"dirty\": true\n  },\n  \"path_in_vcs\": \"\"\n}",
            "0123abc-dirty",
        ),
        ("{}", "unknown"),
    ] {
        fs::write(package.path().join(".cargo_vcs_info.json"), note).unwrap();
        assert_eq!(script.revision(package.path(), "debug", None), revision, "{note}");
        assert_eq!(script.told(package.path(), "debug", None).reruns, ["build.rs", ".cargo_vcs_info.json"]);
    }
}

#[test]
fn the_revision_of_a_checkout_is_its_commit_and_marked_where_the_sources_differ() {
    let there_is_git = Command::new("git").arg("--version").output().map_err(|error| format!("git: {error}"));
    let Some(_) = found_or_skip(there_is_git) else { return };
    let (script, package) = (BuildScript::compile(), package());
    let package = package.path();
    git(package, &["init", "--quiet", "--initial-branch=main"]);
    git(package, &["add", "."]);
    git(package, &["commit", "--quiet", "--message=first"]);
    let first = git(package, &["rev-parse", "HEAD"]);

    let told = script.told(package, "release", None);
    assert_eq!(told.values["BUILD_INFO_REVISION"], first);
    for path in [".git/HEAD", ".git/logs/HEAD", ".git/refs/heads/main", "src", "build.rs", "Cargo.toml", "Cargo.lock"] {
        assert!(told.reruns.iter().any(|rerun| rerun.ends_with(path)), "{path} does not run it again: {told:?}");
    }
    let told = script.told(package, "debug", None);
    assert_eq!(told.values["BUILD_INFO_REVISION"], "unknown", "a commit must not compile a development build again");
    assert_eq!(told.reruns, ["build.rs"]);

    fs::write(package.join("README.md"), "not compiled").unwrap();
    assert_eq!(script.revision(package, "release", None), first);
    fs::write(package.join("src/main.rs"), "fn main() {}").unwrap();
    assert_eq!(script.revision(package, "release", None), format!("{first}-dirty"));
    git(package, &["commit", "--quiet", "--all", "--message=second"]);
    assert_eq!(script.revision(package, "release", None), git(package, &["rev-parse", "HEAD"]));
    fs::write(package.join("src/new.rs"), "").unwrap();
    assert!(script.revision(package, "release", None).ends_with("-dirty"));

    // Unpacked inside a repository, as under `vendor/`.
    let inner = package.join("vendor");
    fs::create_dir(&inner).unwrap();
    fs::copy(package.join("build.rs"), inner.join("build.rs")).unwrap();
    assert_eq!(script.revision(&inner, "release", None), "unknown");

    // What is in a file of its own when it is written is in `packed-refs` after `git gc`.
    fs::remove_file(package.join("src/new.rs")).unwrap();
    git(package, &["pack-refs", "--all"]);
    let told = script.told(package, "release", None);
    assert_eq!(told.values["BUILD_INFO_REVISION"], git(package, &["rev-parse", "HEAD"]));
    assert!(told.reruns.iter().any(|rerun| rerun.ends_with(".git/packed-refs")), "{told:?}");
}
