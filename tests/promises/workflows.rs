//! The workflows of the forge run what is in the repository, pinned, with no more permissions than they name.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::PermissionsExt;

use serde_json::Value;

use crate::support::in_repository;

const WORKFLOWS: [&str; 2] = [".github/workflows/checks.yml", ".github/workflows/release.yml"];

fn read(path: &str) -> String {
    fs::read_to_string(in_repository(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

fn workflow(path: &str) -> Value {
    serde_saphyr::from_str(&read(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

fn jobs(workflow: &Value) -> impl Iterator<Item = (&String, &Value)> {
    workflow["jobs"].as_object().expect("jobs").iter()
}

fn steps(job: &Value) -> &[Value] {
    job["steps"].as_array().map_or(&[], Vec::as_slice)
}

#[test]
fn every_action_is_pinned_by_its_commit() {
    for path in WORKFLOWS {
        let workflow = workflow(path);
        let of_others = jobs(&workflow).flat_map(|(_, job)| steps(job)).filter_map(|step| step["uses"].as_str());
        let mut pinned = 0;
        for action in of_others {
            let (_, commit) = action.split_once('@').unwrap_or_else(|| panic!("{path}: {action}"));
            assert!(commit.len() == 40 && commit.chars().all(|c| c.is_ascii_hexdigit()), "{path}: {action}");
            // For people, and for what proposes newer ones.
            assert!(read(path).contains(&format!("uses: {action} # v")), "{path}: {action} names no version");
            pinned += 1;
        }
        assert!(pinned > 3, "{path}: the actions were not found");
    }
}

#[test]
fn a_job_may_write_only_what_it_names_and_ends_by_itself() {
    for path in WORKFLOWS {
        let workflow = workflow(path);
        assert_eq!(workflow["permissions"], serde_json::json!({"contents": "read"}), "{path}");
        for (name, job) in jobs(&workflow) {
            let is_of_this_file = job["uses"].is_null();
            assert!(!is_of_this_file || job["timeout-minutes"].is_u64(), "{path}: {name} has no timeout");
            let checkouts = steps(job)
                .iter()
                .filter(|step| step["uses"].as_str().is_some_and(|action| action.contains("/checkout@")));
            for checkout in checkouts {
                assert_eq!(
                    checkout["with"]["persist-credentials"], false,
                    "{path}: {name} leaves the token in .git/config"
                );
            }
        }
    }
    let release = workflow(WORKFLOWS[1]);
    let writers: BTreeSet<&str> = jobs(&release)
        .filter(|(_, job)| {
            job["permissions"].as_object().is_some_and(|scopes| scopes.values().any(|access| access == "write"))
        })
        .map(|(name, _)| name.as_str())
        .collect();
    assert_eq!(writers, BTreeSet::from(["image", "publish"]));
    for writer in writers {
        let needs = release["jobs"][writer]["needs"].as_array().expect("needs");
        assert!(needs.contains(&"checks".into()), "{writer} publishes what was not checked");
    }
}

#[test]
fn scripts_that_steps_run_are_there() {
    let mut scripts = BTreeSet::new();
    for path in WORKFLOWS {
        let workflow = workflow(path);
        let commands = jobs(&workflow).flat_map(|(_, job)| steps(job)).filter_map(|step| step["run"].as_str());
        for word in commands.flat_map(str::split_whitespace) {
            let word = word.trim_start_matches("version=$(");
            if [".ci/", ".github/", "deploy/"].iter().any(|folder| word.starts_with(folder)) && !word.ends_with('*') {
                scripts.insert(word.to_owned());
            }
        }
    }
    assert!(scripts.len() > 6, "{scripts:?}");
    for script in scripts {
        let mode = fs::metadata(in_repository(&script))
            .unwrap_or_else(|error| panic!("{script}: {error}"))
            .permissions()
            .mode();
        assert_eq!(mode & 0o111, 0o111, "{script} cannot be run");
    }
}

#[test]
fn the_folders_that_are_kept_current_have_a_manifest() {
    let text = fs::read_to_string(in_repository(".github/dependabot.yml")).unwrap();
    let manifests = |ecosystem: &str| match ecosystem {
        "cargo" => "Cargo.toml",
        "github-actions" => ".github/workflows",
        "docker" => "Dockerfile",
        "pip" => "requirements.txt",
        "npm" => "package.json",
        other => panic!("unexpected ecosystem {other}"),
    };
    let mut folders = 0;
    for update in text.split("- package-ecosystem: ").skip(1) {
        let (ecosystem, rest) = update.split_once('\n').unwrap();
        let line = rest.lines().find_map(|line| line.trim().strip_prefix("director")).expect("a directory");
        for folder in
            line.split_once(':').unwrap().1.split(',').map(|folder| folder.trim_matches([' ', '[', ']', '"', '/']))
        {
            let manifest = in_repository(folder).join(manifests(ecosystem));
            assert!(manifest.exists(), "{} is not there", manifest.display());
            folders += 1;
        }
    }
    assert!(folders > 5, "only {folders} folders were found");
}

#[test]
fn a_tool_has_one_version_and_rust_is_the_oldest_that_is_supported() {
    let mut versions = BTreeMap::<String, BTreeSet<String>>::new();
    let scripts = [".ci/install-peers", "deploy/deb/build", "deploy/notices/generate", "deploy/release/sbom"];
    let texts = scripts.into_iter().chain(["CONTRIBUTING.md"]).chain(WORKFLOWS).map(read);
    for word in texts.collect::<Vec<_>>().iter().flat_map(|text| text.split_whitespace()) {
        if let Some((tool, version)) = word.split_once('@').filter(|(tool, _)| tool.starts_with("cargo-")) {
            versions.entry(tool.to_owned()).or_default().insert(version.to_owned());
        }
    }
    assert!(versions.len() >= 4, "{versions:?}");
    for (tool, versions) in versions {
        assert_eq!(versions.len(), 1, "{tool}: {versions:?}");
    }
    let image = format!("rust:{}-bookworm", env!("CARGO_PKG_RUST_VERSION"));
    for path in WORKFLOWS {
        let workflow = workflow(path);
        let containers: BTreeSet<&str> = jobs(&workflow).filter_map(|(_, job)| job["container"].as_str()).collect();
        assert_eq!(containers, BTreeSet::from([image.as_str()]), "{path}");
    }
}

/// The strings of `targets = [...]` in a file of TOML.
fn targets(path: &str) -> BTreeSet<String> {
    let text = read(path);
    let (_, list) = text.split_once("targets = [").unwrap_or_else(|| panic!("{path} has no targets"));
    let (list, _) = list.split_once(']').expect("the end of the list");
    list.split('"').skip(1).step_by(2).map(ToOwned::to_owned).collect()
}

#[test]
fn licences_and_sboms_cover_the_targets_of_a_release() {
    let release = workflow(WORKFLOWS[1]);
    let built: BTreeSet<String> = jobs(&release)
        .flat_map(|(_, job)| job["strategy"]["matrix"]["include"].as_array().into_iter().flatten())
        .filter_map(|entry| Some(entry["target"].as_str()?.to_owned()))
        .collect();
    assert_eq!(built.len(), 4, "{built:?}");
    assert_eq!(targets("deny.toml"), built);
    assert_eq!(targets("deploy/notices/about.toml"), built);
    let command = steps(&release["jobs"]["sbom"]).iter().filter_map(|step| step["run"].as_str()).collect::<String>();
    for target in built {
        assert!(command.contains(&target), "there is no SBOM for {target}");
    }
}
