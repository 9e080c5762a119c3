//! Histories whose verdicts are not kept are counted at least as exactly as the Python model counts them, which runs beside
//! the test.
//!
//! 20 histories of each class; `SESSION_BUDDY_BRIDGE_SEED` plays 20 others from that seed on.

use std::env;
use std::process::Command;

use crate::support::histories::{Class, History, assert_as_good_as_the_model, digest, fresh_verdicts, in_parallel};
use crate::support::peers::found_or_skip;

const HISTORIES: u64 = 20;

/// Beyond the seeds of the kept verdicts and of the long form.
const FIRST_SEED: u64 = 5_001;

#[test]
fn fresh_histories_are_those_of_the_model_and_counted_as_well() {
    let python = Command::new("python3").arg("--version").output();
    let python = python.map_err(|error| format!("python3: {error}"));
    let Some(_) = found_or_skip(python) else { return };
    let seed = env::var("SESSION_BUDDY_BRIDGE_SEED").ok().map(|seed| seed.parse().expect("a number"));
    let first = seed.unwrap_or(FIRST_SEED);
    for class in Class::ALL {
        let of_model = fresh_verdicts(class, first, first + HISTORIES - 1);
        let digests = in_parallel(&of_model, |model| digest(&History::draw(class, model.seed)));
        for (model, digest) in of_model.iter().zip(digests) {
            assert_eq!(digest, model.digest, "another history: {} {}", class.name(), model.seed);
        }
        assert_as_good_as_the_model(&of_model);
    }
}
