//! With `--skills.dir` a bridge exposes which skills are installed, as they are at its start, a minute later, and after SIGHUP.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;

use crate::support::http_client;
use crate::support::program::{Ended, Program};
use crate::support::scrape::Scrape;
use crate::support::{PATIENCE, equal, eventually};
use rustix::process::Signal;
use tempfile::TempDir;

const INSTALLED: &str = "session_buddy_bridge_skill_installed";

/// A folder with directories of skills, and a configuration file.
struct Stage(TempDir);

impl Stage {
    fn with(skills: &[&str]) -> Self {
        let stage = Self(tempfile::tempdir().unwrap());
        skills.iter().for_each(|skill| stage.install(skill));
        stage
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn text(&self, name: &str) -> String {
        self.path(name).to_str().unwrap().to_owned()
    }

    fn install(&self, skill: &str) {
        fs::create_dir_all(self.path(skill)).unwrap();
        fs::write(self.path(skill).join("SKILL.md"), "").unwrap();
    }

    fn configure(&self, text: &str) {
        fs::write(self.path("bridge.yml"), text).unwrap();
    }

    fn start(&self, environment: &[(&str, &str)], arguments: &[&str]) -> Program {
        // Nobody listens there.
        let own = ["--feed.url", "ws://127.0.0.1:9", "--state.disabled", "--web.listen-address", "127.0.0.1:0"];
        Program::start_in(environment, own.into_iter().chain(arguments.iter().copied()))
    }
}

fn installed(program: &mut Program) -> BTreeSet<String> {
    let scrape = Scrape::parse(http_client::get(program.address(), "/metrics").text()).unwrap();
    let series = scrape.series(INSTALLED);
    assert!(series.values().all(|value| *value == 1.0), "{series:?}");
    series.into_keys().map(|labels| labels["skill_name"].clone()).collect()
}

fn names(names: &[&str]) -> BTreeSet<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

fn until_installed(program: &mut Program, expected: &[&str]) {
    eventually("the installed skills", || equal(&installed(program), &names(expected)));
}

fn end(program: Program) -> String {
    program.signal(Signal::TERM);
    let ended = program.end_within(PATIENCE);
    assert!(ended.is_success(), "{}", ended.stderr);
    ended.stderr
}

#[test]
fn flags_and_the_variable_name_directories_of_skills() {
    let stage = Stage::with(&["one/a", "one/with \"quotes\"", "two/b", "two/a"]);
    fs::create_dir_all(stage.path("one/no-skill")).unwrap();
    let (one, two) = (stage.text("one"), stage.text("two"));
    let all = ["a", "b", "with \"quotes\""];
    let mut program = stage.start(&[], &["--skills.dir", &one, "--skills.dir", &two]);
    assert_eq!(installed(&mut program), names(&all), "at the first scrape");
    end(program);
    let mut program = stage.start(&[("SESSION_BUDDY_BRIDGE_SKILLS_DIR", &format!("{one},{two}"))], &[]);
    assert_eq!(installed(&mut program), names(&all));
    end(program);
    let mut program = stage.start(&[], &[]);
    assert_eq!(installed(&mut program), names(&[]));
    end(program);
}

#[test]
fn a_directory_that_cannot_be_read_is_an_error_at_the_start() {
    let stage = Stage::with(&["one/a"]);
    let (missing, file) = (stage.text("missing"), stage.text("bridge.yml"));
    let refused = |arguments: &[&str]| {
        let Ended { code, stderr, .. } = stage.start(&[], arguments).end();
        assert_ne!(code, Some(0), "{stderr}");
        stderr
    };
    let error = refused(&["--skills.dir", &missing]);
    assert!(error.contains(&format!("cannot read {missing} (--skills.dir)")), "{error}");
    assert!(refused(&["--skills.dir", "~/skills"]).contains("starts with ~"));
    stage.configure("skills_dirs: [one, missing]\n");
    for arguments in [&["--config.file", &*file][..], &["--config.check", "--config.file", &file]] {
        let error = refused(arguments);
        assert!(error.contains(&format!("cannot read {missing} (skills_dirs)")), "{error}");
    }
    stage.configure("skills_dirs: [one]\n");
    let error = refused(&["--config.file", &file, "--skills.dir", &stage.text(".")]);
    assert!(error.contains("--skills.dir was given beside --config.file"), "{error}");
}

#[test]
fn a_reload_reads_the_directories_of_the_file_and_changes_nothing_where_one_cannot_be_read() {
    let stage = Stage::with(&["one/a", "two/b"]);
    stage.configure("skills_dirs: [one]\n");
    let mut program = stage.start(&[], &["--config.file", &stage.text("bridge.yml")]);
    assert_eq!(installed(&mut program), names(&["a"]));
    stage.install("one/new");
    program.signal(Signal::HUP);
    until_installed(&mut program, &["a", "new"]);
    stage.configure("skills_dirs: [two, missing]\n");
    program.signal(Signal::HUP);
    program.until_stderr("the failure", |log| log.contains("configuration reload failed"));
    assert_eq!(installed(&mut program), names(&["a", "new"]));
    stage.configure("skills_dirs: [two, one]\n");
    program.signal(Signal::HUP);
    until_installed(&mut program, &["a", "b", "new"]);
    stage.configure("{}\n");
    program.signal(Signal::HUP);
    until_installed(&mut program, &[]);
    let log = end(program);
    assert!(log.contains("skills_dirs_changed=true"), "{log}");
}

#[test]
fn a_directory_that_cannot_be_read_later_is_logged_once_and_its_skills_stay() {
    let stage = Stage::with(&["one/a"]);
    stage.configure("{}\n");
    let arguments = ["--config.file", &stage.text("bridge.yml"), "--skills.dir", &stage.text("one")];
    let mut program = stage.start(&[], &arguments);
    assert_eq!(installed(&mut program), names(&["a"]));
    fs::rename(stage.path("one"), stage.path("away")).unwrap();
    program.signal(Signal::HUP);
    program.until_stderr("the failure", |log| log.contains("installed skills cannot be read"));
    assert_eq!(installed(&mut program), names(&["a"]));
    program.signal(Signal::HUP);
    program.until_stderr("both reloads", |log| log.matches("configuration reloaded").count() == 2);
    fs::rename(stage.path("away"), stage.path("one")).unwrap();
    stage.install("one/b");
    program.signal(Signal::HUP);
    until_installed(&mut program, &["a", "b"]);
    let log = end(program);
    let lines = |text: &str| log.lines().filter(|line| line.contains(text)).count();
    assert_eq!(
        (lines("installed skills cannot be read"), lines("installed skills can be read again")),
        (1, 1),
        "{log}"
    );
}
