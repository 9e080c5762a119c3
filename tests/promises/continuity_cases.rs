//! Power cuts, deleted and renamed skills, backups and new databases, as recorded: what happened is counted once, and what
//! was only undone and done again is not counted twice.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use crate::support::scrape::Scrape;
use session_buddy_bridge::replay;
use session_buddy_bridge::settings::Limits;

/// Replays `tests/recordings/cases/NAME.ndjson` and compares invocations by skill and the number of anomalies.
fn counts(name: &str, expected: &[(&str, u64)], anomalies: u64) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/recordings/cases/{name}.ndjson"));
    let recording = fs::read(path).expect("the recording is in the repository");
    let families = replay(&recording, None, Limits::default()).expect("a recording");
    let scrape = Scrape::parse(&families).unwrap_or_else(|why| panic!("{why}"));
    let mut found: BTreeMap<String, u64> = BTreeMap::new();
    for (labels, count) in scrape.series("skill_invocations_total") {
        *found.entry(labels["skill_name"].clone()).or_default() += count as u64;
    }
    let expected: BTreeMap<_, _> = expected.iter().map(|(name, count)| ((*name).to_owned(), *count)).collect();
    assert_eq!(found, expected);
    assert_eq!(scrape.sum("anomalies_detected_total") as u64, anomalies, "anomalies");
}

/// The cut takes back the last two invocations of `alpha` and the only one of `gamma`; two of each follow.
#[test]
fn a_power_cut_that_takes_the_first_invocation_of_a_skill_is_no_new_database() {
    counts("power_cut_takes_a_first", &[("alpha", 474), ("beta", 40), ("gamma", 3)], 0);
}

/// Of a database with eight invocations the cut takes one.
#[test]
fn a_power_cut_of_a_young_database_is_no_new_database() {
    counts("power_cut_young", &[("alpha", 7), ("beta", 2)], 0);
}

/// A skill with a single invocation is deleted; the others are as they were.
#[test]
fn deleting_a_misspelled_skill_counts_nothing_again() {
    counts("typo_deleted", &[("alpha", 1094), ("aplha", 1), ("beta", 120)], 0);
}

/// A listed skill is deleted, and the eleventh takes its place in the list.
#[test]
fn deleting_one_of_twelve_skills_counts_nothing_again() {
    let expected = [
        ("skill-00", 1205),
        ("skill-01", 1120),
        ("skill-02", 1024),
        ("skill-03", 945),
        ("skill-04", 847),
        ("skill-05", 763),
        ("skill-06", 662),
        ("skill-07", 580),
        ("skill-08", 483),
        ("skill-09", 390),
        ("skill-10", 316),
    ];
    counts("one_of_twelve_deleted", &expected, 0);
}

/// The rows of a skill get another name; what they count is counted under both, as the labels require.
#[test]
fn renaming_a_skill_counts_only_its_rows_under_the_new_name() {
    counts("skill_renamed", &[("alpha", 690), ("beta", 60), ("new-name", 92), ("old-name", 90)], 0);
}

/// The cut takes one invocation of `alpha` while `beta` gains two hundred.
#[test]
fn a_power_cut_behind_new_invocations_of_another_skill_is_no_new_database() {
    counts("rollback_with_rises", &[("alpha", 1101), ("beta", 1100), ("gamma", 30)], 0);
}

/// A backup of an hour ago comes back, and a few invocations follow.
#[test]
fn a_backup_that_is_restored_is_counted_on_from_its_own_numbers() {
    counts("backup_restored", &[("alpha", 920), ("beta", 350), ("rare", 8)], 1);
}

/// A backup is tried, and the latest database comes back with three new invocations.
#[test]
fn a_backup_that_is_tried_and_taken_back_counts_nothing_again() {
    counts("backup_and_back", &[("alpha", 769), ("beta", 203), ("rare", 7)], 0);
}

/// The new database lists one skill at first.
#[test]
fn a_new_database_is_added_to_what_was_counted() {
    counts("reset_that_is_told", &[("alpha", 218), ("beta", 82), ("gamma", 13)], 0);
}

/// The new database has almost as many of one skill, and more of the other.
#[test]
fn a_small_new_database_with_similar_numbers_is_added() {
    counts("reset_small_and_quick", &[("alpha", 19), ("beta", 56)], 0);
}

/// Each number of the new database is larger; the sums of durations are not.
#[test]
fn a_new_database_with_larger_totals_is_added() {
    counts("reset_behind_larger_totals", &[("alpha", 24), ("beta", 9)], 0);
}

/// The server exchanges the file under the connection.
#[test]
fn a_new_database_while_the_feed_is_connected_is_added() {
    counts("reset_while_connected", &[("alpha", 229), ("beta", 72), ("gamma", 21)], 1);
}
