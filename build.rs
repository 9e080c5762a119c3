//! Records what the program is built from: the constants of `src/build_info.rs` have their values from here.
//!
//! The revision is, in this order: the variable `BUILD_REVISION`, for builds that see no repository, as in a container;
//! what `cargo package` noted in the package; the commit of the checkout. Development builds do not ask the checkout:
//! each commit would compile the crate again.

use std::env;
use std::fs::read_to_string;
use std::path::Path;
use std::process::Command;

const REVISION_VARIABLE: &str = "BUILD_REVISION";
const REVISION_CHARS_MAX: usize = 64;

/// Written by `cargo package` into the package.
const PACKAGE_NOTE: &str = ".cargo_vcs_info.json";

/// What the program is compiled from; where any of it differs from the commit, the revision ends in `-dirty`.
const COMPILED: [&str; 4] = ["src", "build.rs", "Cargo.toml", "Cargo.lock"];

fn main() {
    let package = env::var("CARGO_MANIFEST_DIR").expect("cargo sets it");
    let package = Path::new(&package);
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-env-changed={REVISION_VARIABLE}");

    let revision = from_variable().or_else(|| from_package_note(package)).or_else(|| from_checkout(package));
    record("REVISION", revision);
    record("RUSTC", rustc_version());
    record("TARGET", env::var("TARGET").ok());
}

fn record(name: &str, value: Option<String>) {
    println!("cargo::rustc-env=BUILD_INFO_{name}={}", value.as_deref().unwrap_or("unknown"));
}

/// # Panics
/// On a value that is no revision, which would become part of a metric's label.
fn from_variable() -> Option<String> {
    let value = env::var(REVISION_VARIABLE).ok().filter(|value| !value.is_empty())?;
    let is_valid = value.len() <= REVISION_CHARS_MAX && value.chars().all(|c| c.is_ascii_graphic());
    assert!(
        is_valid,
        "{REVISION_VARIABLE} is {value:?}: set it to a commit, of at most {REVISION_CHARS_MAX} characters without spaces"
    );
    Some(value)
}

fn from_package_note(package: &Path) -> Option<String> {
    let note = read_to_string(package.join(PACKAGE_NOTE)).ok()?;
    println!("cargo::rerun-if-changed={PACKAGE_NOTE}");
    let (_, rest) = note.split_once("\"sha1\"")?;
    let commit = rest.split('"').nth(1).filter(|commit| commit.chars().all(|c| c.is_ascii_hexdigit()))?;
    Some(marked(commit, note.contains("\"dirty\": true")))
}

fn from_checkout(package: &Path) -> Option<String> {
    let is_development = env::var("PROFILE").is_ok_and(|profile| profile == "debug");
    // Without its own `.git`, the package is a part of some other repository, whose commit says nothing about it.
    if is_development || !package.join(".git").exists() {
        return None;
    }
    let git = |arguments: &[&str]| {
        // A hook of git's sets these, for the repository that it is a hook of.
        let mut command = Command::new("git");
        command
            .arg("--no-optional-locks")
            .env_remove("GIT_DIR")
            .env_remove("GIT_WORK_TREE")
            .env_remove("GIT_INDEX_FILE");
        let output = command.arg("-C").arg(package).args(arguments).output().ok()?;
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    let commit = git(&["rev-parse", "HEAD"])?;
    // A commit and a checkout of another one are written to at least one of these. Cargo runs this again at every build
    // for the sake of a path that is not there.
    let branch = git(&["rev-parse", "--symbolic-full-name", "HEAD"]);
    for name in ["HEAD", "logs/HEAD", "packed-refs"].into_iter().chain(branch.as_deref()) {
        let path = git(&["rev-parse", "--git-path", name]).map(|path| package.join(path));
        if let Some(path) = path.filter(|path| path.is_file()) {
            println!("cargo::rerun-if-changed={}", path.display());
        }
    }
    for path in COMPILED.into_iter().filter(|path| package.join(path).exists()) {
        println!("cargo::rerun-if-changed={path}");
    }
    let status: Vec<&str> = ["status", "--porcelain", "--"].into_iter().chain(COMPILED).collect();
    Some(marked(&commit, git(&status).is_none_or(|changed| !changed.is_empty())))
}

fn marked(commit: &str, is_dirty: bool) -> String {
    format!("{commit}{}", if is_dirty { "-dirty" } else { "" })
}

/// The version alone, as `1.95.0` or `1.97.0-nightly`.
fn rustc_version() -> Option<String> {
    let rustc = env::var_os("RUSTC")?;
    let output = Command::new(rustc).arg("--version").output().ok()?;
    let version = String::from_utf8(output.stdout).ok()?;
    version.split_whitespace().nth(1).map(ToOwned::to_owned)
}
