//! What is handed out has its licences, its version and nothing that only the repository needs.

use std::collections::{BTreeMap, BTreeSet};
use std::env;
use std::ffi::OsStr;
use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::Value;

use crate::support::in_repository;
use crate::support::program::run;

const LEGAL: [&str; 3] = ["LICENSE-MIT", "LICENSE-APACHE", "THIRD-PARTY-NOTICES.md"];
const NOTICES: &str = "THIRD-PARTY-NOTICES.md";

fn read(path: &str) -> String {
    fs::read_to_string(in_repository(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// What Cargo prints, of this package as it is locked, without a network.
fn cargo(arguments: &[&str]) -> String {
    let mut cargo = Command::new(env::var_os("CARGO").as_deref().unwrap_or(OsStr::new("cargo")));
    let ended = run(cargo.current_dir(in_repository("")).args(arguments).args(["--locked", "--offline"]), "");
    assert!(ended.is_success(), "{arguments:?}: {}", ended.stderr);
    ended.stdout
}

fn manifest() -> Value {
    let metadata: Value = serde_json::from_str(&cargo(&["metadata", "--no-deps", "--format-version=1"])).unwrap();
    let packages = metadata["packages"].as_array().expect("packages");
    packages.iter().find(|package| package["name"] == env!("CARGO_PKG_NAME")).expect("this package").clone()
}

/// Its checksum alone is nine times as expensive without.
#[test]
fn compression_uses_the_instructions_that_the_processor_has() {
    // Of this platform alone: a machine that builds nothing else has nothing else.
    let tree = cargo(&["tree", "--edges=normal", "--prefix=none", "--no-dedupe", "--format={p} {f}"]);
    let features: BTreeSet<&str> = tree.lines().filter_map(|line| line.strip_prefix("zlib-rs v")).collect();
    assert_eq!(features.len(), 1, "flate2 compresses with zlib-rs: {features:?}");
    let (_version, features) = features.first().and_then(|one| one.split_once(' ')).expect("a version and features");
    assert!(features.split(',').any(|feature| feature == "std"), "{features}");
}

#[test]
fn the_crate_has_its_texts_and_no_recordings_and_no_pictures() {
    let listed = cargo(&["package", "--list", "--allow-dirty"]);
    let files: BTreeSet<&str> = listed.lines().collect();
    for needed in LEGAL.into_iter().chain(["README.md", "CHANGELOG.md", "build.rs", "src/http/page/uPlot.LICENSE"]) {
        assert!(files.contains(needed), "{needed} is not in the package");
    }
    let page = "src/http/page/";
    for file in files {
        let folder = file.split_once('/').map_or("", |(folder, _)| folder);
        assert!(["", "src", "docs", "examples"].contains(&folder), "{file} is in the package");
        let extension = Path::new(file).extension().and_then(OsStr::to_str).unwrap_or_default();
        let is_expected = match extension {
            "rs" | "sql" | "md" | "toml" | "lock" | "orig" | "json" => true,
            "" => LEGAL.contains(&file),
            // The live page is compiled in.
            "LICENSE" | "css" | "html" | "js" | "svg" => file.starts_with(page),
            _ => false,
        };
        assert!(is_expected, "{file} is in the package");
    }
}

#[test]
fn the_notices_name_every_linked_crate_and_no_other() {
    let notices = read(NOTICES);
    let named: BTreeSet<(&str, &str)> =
        notices.lines().filter_map(|line| line.strip_prefix("- ")?.split_once(' ')).collect();
    let format = ["tree", "--edges=normal", "--prefix=none", "--format={p}"];
    let tree = cargo(&format);
    let linked = tree.lines().skip(1).filter_map(|line| {
        let (name, rest) = line.split_once(" v")?;
        Some((name, rest.split(' ').next()?))
    });
    let lock = read("Cargo.lock");
    let generate = "run deploy/notices/generate";
    for (name, version) in linked {
        assert!(named.contains(&(name, version)), "{NOTICES} does not name {name} {version}: {generate}");
    }
    assert!(named.len() > 50, "the names were not found: {named:?}");
    for (name, version) in named {
        let entry = format!("\nname = \"{name}\"\nversion = \"{version}\"\n");
        assert!(lock.contains(&entry), "{NOTICES} names {name} {version}, which Cargo.lock does not: {generate}");
    }
}

#[test]
fn the_notices_have_the_licence_of_each_file_of_others() {
    let notices = read(NOTICES);
    assert!(notices.contains(read("src/http/page/uPlot.LICENSE").trim_end()));
    let script = read("src/http/page/uPlot.iife.min.js");
    let (_, version) = script.lines().next().and_then(|line| line.split_once(" (v")).expect("a line with the version");
    let (version, _) = version.split_once(')').unwrap();
    assert!(notices.contains(&format!("uplot {version} ")), "{NOTICES} names another uplot than {version}");
}

#[test]
fn the_debian_package_has_the_licences_and_the_notices() {
    let manifest = manifest();
    let assets = manifest["metadata"]["deb"]["assets"].as_array().expect("assets");
    let documents = "usr/share/doc/session-buddy-bridge/";
    for (source, target) in LEGAL.map(|file| (file, documents.to_owned())).into_iter().chain([
        ("target/assets/changelog.gz", format!("{documents}changelog.gz")),
        ("deploy/deb/copyright", format!("{documents}copyright")),
    ]) {
        let asset = serde_json::json!([source, target, "644"]);
        assert!(assets.contains(&asset), "{source} is not packed: {assets:?}");
    }
    let copyright = read("deploy/deb/copyright");
    let names_uplot =
        copyright.contains("Files: src/http/page/uPlot.*\nCopyright: 2022 Leon Sorokin\nLicense: Expat\n");
    assert!(names_uplot, "{copyright}");
}

/// The paths below `deploy/` that a text names.
fn deployed(text: &str) -> impl Iterator<Item = &str> {
    let is_of_path = |c: char| c.is_ascii_alphanumeric() || "/._-".contains(c);
    text.match_indices("deploy/").map(move |(start, _)| {
        let rest = &text[start..];
        let end = rest.find(|c| !is_of_path(c)).unwrap_or(rest.len());
        rest[..end].trim_end_matches(['.', '/'])
    })
}

/// The files in the repository that match a pattern, which may end in `*` and an extension.
fn matching(pattern: &str) -> BTreeSet<String> {
    let (folder, name) = pattern.rsplit_once('/').unwrap_or(("", pattern));
    let Some(extension) = name.strip_prefix('*') else { return BTreeSet::from([pattern.to_owned()]) };
    let entries = fs::read_dir(in_repository(folder)).unwrap_or_else(|error| panic!("{folder}: {error}"));
    let files = entries.map(|entry| entry.unwrap()).filter(|entry| entry.file_type().unwrap().is_file());
    let names = files.map(|entry| entry.file_name().into_string().unwrap());
    names.filter(|name| name.ends_with(extension)).map(|name| format!("{folder}/{name}")).collect()
}

#[test]
fn the_debian_package_has_the_files_that_its_pages_name() {
    let manifest = manifest();
    let assets = manifest["metadata"]["deb"]["assets"].as_array().expect("assets");
    let patterns = assets.iter().map(|asset| asset[0].as_str().expect("a source"));
    let shipped: BTreeSet<String> =
        patterns.filter(|pattern| !pattern.starts_with("target/")).flat_map(matching).collect();
    let pages: Vec<&String> = shipped.iter().filter(|file| file.ends_with(".md")).collect();
    assert!(pages.len() > 20, "{pages:?}");
    let mut named = BTreeSet::new();
    for page in pages {
        let text = read(page);
        for path in deployed(&text) {
            // What builds the package and its notices is not in it.
            let is_shipped = shipped.contains(path) || shipped.iter().any(|file| file.starts_with(&format!("{path}/")));
            assert!(
                is_shipped || ["deploy/deb/build", "deploy/notices/generate"].contains(&path),
                "{page} names {path}, which is not shipped"
            );
            named.insert(path.to_owned());
        }
        for picture in text.split(['"', '(', ')']).filter(|part| part.ends_with(".png")) {
            assert!(shipped.contains(picture), "{page} shows {picture}, which is not shipped");
        }
    }
    assert!(named.contains("deploy/grafana/dashboards/session-buddy.json") && named.len() > 8, "{named:?}");
    // Below one directory they are where the pages say.
    for asset in assets {
        let (source, target) = (asset[0].as_str().unwrap(), asset[1].as_str().unwrap());
        if let Some(target) = target.strip_prefix("usr/share/session-buddy-bridge/") {
            assert_eq!(format!("{}/", source.rsplit_once('/').unwrap().0), target);
        }
    }
}

#[test]
fn the_image_has_the_licences_and_says_what_it_is() {
    let dockerfile = read("Dockerfile");
    let copied = format!("\nCOPY {} /usr/share/doc/session-buddy-bridge/\n", LEGAL.join(" "));
    assert!(dockerfile.contains(&copied), "the image lacks {copied}");
    let manifest = manifest();
    let (_, last_stage) = dockerfile.rsplit_once("\nFROM ").expect("stages");
    let (base, _) = last_stage.split_once('\n').unwrap();
    let text = |field: &str| manifest[field].as_str().unwrap_or_else(|| panic!("{field}")).to_owned();
    for (label, value) in [
        ("title", text("name")),
        ("description", text("description")),
        ("version", text("version")),
        ("licenses", text("license")),
        ("revision", "$REVISION".to_owned()),
        ("base.name", base.to_owned()),
    ] {
        let line = format!("org.opencontainers.image.{label}=\"{value}\"");
        assert!(last_stage.contains(&line), "the image is not labelled {line}");
    }
    assert!(last_stage.contains("\nARG REVISION=\n"), "an argument of one stage is unset in the next");
    let ignored = read(".dockerignore");
    for needed in LEGAL.into_iter().chain(["build.rs", "src", "Cargo.lock"]) {
        assert!(
            !ignored.lines().any(|line| line.trim_start_matches('/') == needed),
            "{needed} does not reach the build"
        );
    }
}

#[test]
fn the_changelog_has_a_section_for_the_version_and_one_for_what_comes() {
    let changelog = read("CHANGELOG.md");
    let headings: Vec<&str> = changelog.lines().filter(|line| line.starts_with("## ")).collect();
    assert_eq!(headings[0], "## [Unreleased]");
    let version = format!("## [{}] - ", env!("CARGO_PKG_VERSION"));
    assert!(headings[1].starts_with(&version), "{headings:?}");

    let script =
        |name: &str, argument: &str| run(Command::new(in_repository("deploy/release").join(name)).arg(argument), "");
    let notes = script("notes", env!("CARGO_PKG_VERSION")).stdout;
    assert!(notes.contains("\n### Added\n") && !notes.contains("## ["), "{notes}");
    assert_eq!(script("version", concat!("v", env!("CARGO_PKG_VERSION"))).stdout.trim(), env!("CARGO_PKG_VERSION"));
    let refused = script("version", "v9.9.9");
    assert_eq!((refused.code, refused.stderr.contains("v9.9.9")), (Some(1), true), "{}", refused.stderr);
}

#[test]
fn a_release_archive_has_the_program_with_its_manual_and_the_texts() {
    let folder = tempfile::tempdir().unwrap();
    let mut archive = Command::new(in_repository("deploy/release/archive"));
    archive.args(["1.2.3", "some-target", env!("CARGO_BIN_EXE_session-buddy-bridge")]).arg(folder.path());
    let packed = run(&mut archive, "");
    assert!(packed.is_success(), "{}", packed.stderr);
    let file = folder.path().join("session-buddy-bridge-1.2.3-some-target.tar.gz");
    assert_eq!(Path::new(packed.stdout.trim()), file);
    let listed = run(Command::new("tar").arg("-tzf").arg(&file), "").stdout;
    let files: BTreeSet<&str> = listed
        .lines()
        .map(|file| file.strip_prefix("session-buddy-bridge-1.2.3-some-target/").expect("one folder"))
        .collect();
    for needed in LEGAL.into_iter().chain([
        "session-buddy-bridge",
        "README.md",
        "CHANGELOG.md",
        "man/session-buddy-bridge.1",
        "completions/session-buddy-bridge.bash",
        "completions/session-buddy-bridge.fish",
        "completions/session-buddy-bridge.zsh",
        "deploy/prometheus/alerts.yml",
    ]) {
        assert!(files.contains(needed), "{needed} is not in {files:?}");
    }
}

/// The addresses that have to be replaced when the project gets a public home.
#[test]
fn placeholder_addresses_are_in_the_manifest_alone() {
    let manifest = manifest();
    for field in ["repository", "homepage", "documentation"] {
        let address = manifest[field].as_str().unwrap_or_else(|| panic!("{field} is missing"));
        let host = address.strip_prefix("https://").and_then(|rest| rest.split('/').next()).expect("a URL");
        let mut folders = vec![in_repository("")];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(&folder).unwrap().map(Result::unwrap) {
                let (path, name) = (entry.path(), entry.file_name());
                let is_own = name != "Cargo.toml" && name != ".git" && name != "target";
                if is_own && entry.file_type().unwrap().is_dir() {
                    folders.push(path);
                } else if is_own && let Ok(text) = fs::read_to_string(&path) {
                    assert!(!text.contains(host), "{} names {host}, which Cargo.toml does", path.display());
                }
            }
        }
    }
}

/// The packages of a lock file: name and version, with the names of what each depends on.
fn locked(path: &str) -> BTreeMap<(String, String), BTreeSet<String>> {
    let text = read(path);
    let packages = text.split("[[package]]").skip(1).map(|package| {
        let value = |key: &str| {
            let line = package.lines().find_map(|line| line.strip_prefix(&format!("{key} = ")));
            line.unwrap_or_else(|| panic!("{path}: {package}")).trim_matches('"').to_owned()
        };
        let dependencies = package.lines().filter_map(|line| line.strip_prefix(" \"")?.split(['"', ' ']).next());
        ((value("name"), value("version")), dependencies.map(str::to_owned).collect())
    });
    packages.collect()
}

#[test]
fn the_fuzz_targets_are_locked_to_the_crates_of_the_bridge() {
    let (own, fuzzed) = (locked("Cargo.lock"), locked("fuzz/Cargo.lock"));
    // What only the fuzzer needs is not there.
    let names: BTreeSet<&String> = own.keys().map(|(name, _)| name).collect();
    for package in fuzzed.keys().filter(|(name, _)| names.contains(name)) {
        assert!(own.contains_key(package), "{package:?} has another version in Cargo.lock");
    }
    let bridge = (env!("CARGO_PKG_NAME").to_owned(), env!("CARGO_PKG_VERSION").to_owned());
    let manifest = manifest();
    let dependencies = manifest["dependencies"].as_array().expect("dependencies").iter();
    let linked = dependencies.filter(|dependency| dependency["kind"].is_null() && dependency["target"].is_null());
    for name in linked.map(|dependency| dependency["name"].as_str().expect("a name")) {
        assert!(fuzzed[&bridge].contains(name), "fuzz/Cargo.lock lacks {name}");
    }
}
