//! The whole text that each recording leads to, byte for byte. The expectations are `tests/recordings/NAME.prom`;
//! `REWRITE_EXPECTATIONS=1 cargo test --test promises replay_is_the_same_bytes` writes them anew, to be read before they are
//! committed.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::{env, fs};

use crate::support::running_bridge::FAMILIES;
use crate::support::scrape::Scrape;
use session_buddy_bridge::internals::ledger::Limits;

fn recordings() -> Vec<PathBuf> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/recordings");
    let files = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    let recordings: Vec<_> = files.filter(|file| file.extension() == Some(OsStr::new("ndjson"))).collect();
    assert!(!recordings.is_empty(), "there are no recordings");
    recordings
}

fn replay(file: &Path) -> String {
    let recording = fs::read(file).unwrap();
    session_buddy_bridge::replay(&recording, None, Limits::default()).unwrap_or_else(|error| panic!("{error}"))
}

#[test]
fn each_recording_gives_the_text_that_is_committed() {
    for file in recordings() {
        let (found, expectation) = (replay(&file), file.with_extension("prom"));
        if env::var_os("REWRITE_EXPECTATIONS").is_some() {
            fs::write(&expectation, &found).unwrap();
        }
        let expected = fs::read_to_string(&expectation).unwrap_or_else(|error| panic!("{expectation:?}: {error}"));
        assert_eq!(first_difference(&found, &expected), None, "{expectation:?}");
    }
}

#[test]
fn the_same_recording_gives_the_same_bytes_and_a_proper_exposition() {
    for file in recordings() {
        let text = replay(&file);
        assert_eq!(first_difference(&replay(&file), &text), None, "{file:?}");
        let scrape = Scrape::parse(&text).unwrap_or_else(|why| panic!("{file:?}: {why}"));
        for family in FAMILIES {
            assert!(scrape.families.contains_key(family), "{file:?} has no {family}");
        }
    }
}

/// The first line that differs, as found and as expected.
fn first_difference<'t>(found: &'t str, expected: &'t str) -> Option<(Option<&'t str>, Option<&'t str>)> {
    if found == expected {
        return None;
    }
    let (mut found, mut expected) = (found.split('\n'), expected.split('\n'));
    loop {
        match (found.next(), expected.next()) {
            (found, expected) if found != expected => return Some((found, expected)),
            (None, None) => unreachable!("texts that differ differ in a line"),
            _ => {}
        }
    }
}
