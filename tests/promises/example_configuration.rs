//! The example of a configuration file is valid as it is, and has every field that the program knows and no other.

use std::collections::BTreeSet;
use std::fs;

use serde_json::Value;

use crate::support::in_repository;
use crate::support::program::{Ended, Program};

fn example() -> String {
    fs::read_to_string(in_repository("deploy/bridge.yml")).unwrap()
}

/// What `--config.check` makes of a file of this text.
fn check(text: &str) -> Ended {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("bridge.yml");
    fs::write(&path, text).unwrap();
    Program::start(["--config.check", "--config.file", path.to_str().unwrap()]).end()
}

/// The fields that the program knows where `text` has an unknown one: its refusal lists them.
fn known_fields(text: &str) -> BTreeSet<String> {
    let refused = check(text);
    assert_eq!(refused.code, Some(2), "{text}");
    let listed = refused.stderr.split_once("the fields are ").and_then(|(_, rest)| rest.split_once(" at line "));
    let (fields, _) = listed.unwrap_or_else(|| panic!("no list of fields: {}", refused.stderr));
    fields.split(", ").map(str::to_owned).collect()
}

fn keys(value: &Value) -> BTreeSet<String> {
    value.as_object().expect("fields").keys().cloned().collect()
}

#[test]
fn the_example_is_valid() {
    let checked = check(&example());
    assert_eq!(checked.code, Some(0), "{}", checked.printed());
}

#[test]
fn the_example_has_every_field() {
    // A field that is commented has no space behind its `#`; a remark has.
    let uncommented = example()
        .lines()
        .filter(|line| !line.trim_start().starts_with("# "))
        .fold(String::new(), |text, line| text + &line.replacen('#', "", 1) + "\n");
    let all: Value = serde_saphyr::from_str(&uncommented).unwrap_or_else(|error| panic!("{error}:\n{uncommented}"));
    assert_eq!(keys(&all), known_fields("unknown: 1\n"));
    assert_eq!(keys(&all["feeds"][0]), known_fields("feeds: [{url: 'ws://a:1', unknown: 1}]\n"));
    assert_eq!(keys(&all["push"][0]), known_fields("push: [{url: 'http://a:1/', unknown: 1}]\n"));
    assert_eq!(keys(&all["limits"]), known_fields("limits: {unknown: 1}\n"));
}
