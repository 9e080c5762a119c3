//! A state of every earlier version is read as what it was. `tests/fixtures/states` says what is in them.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use crate::support::running_bridge::{RunningBridge, families};
use crate::support::scrape::{Scrape, Series};
use session_buddy_bridge::settings::{FeedTarget, Settings, StateLocation};

const FIXTURES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/states");

/// Counters and histograms. Gauges are of the feeds that are configured now.
fn counts(scrape: &Scrape) -> BTreeMap<Series, f64> {
    let is_gauge = |name: &str| ["skill_completion_rate", "active_sessions_total"].contains(&name);
    families(scrape).into_iter().filter(|(series, _)| !is_gauge(&series.name)).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_older_state_shows_what_its_writer_showed_and_counts_what_was_pending() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state.db");
    fs::copy(Path::new(FIXTURES).join("1.db"), &path).unwrap();
    let text = fs::read_to_string(Path::new(FIXTURES).join("1.prom")).unwrap();
    let written = counts(&Scrape::parse(&text).unwrap());

    // Nobody listens there.
    let feeds = vec![FeedTarget::new("ws://127.0.0.1:9/").unwrap()];
    let bridge = RunningBridge::start(Settings { state: StateLocation::Path(path), ..Settings::new(feeds) });
    assert_eq!(counts(&bridge.scrape().await), written);

    let unknown = [("skill_name", "lint"), ("workflow_phase", "unknown")];
    let invocation = [unknown[0], unknown[1], ("completed", "true")];
    let added = |mut expected: BTreeMap<Series, f64>, name: &str, labels: &[(&str, &str)], value: f64| {
        *expected.get_mut(&Series::new(name, labels)).unwrap() += value;
        expected
    };
    let expected = added(written, "skill_invocations_total", &invocation, 1.0);
    let expected = added(expected, "skill_duration_seconds_count", &unknown, 1.0);
    let mut expected = added(expected, "skill_duration_seconds_sum", &unknown, 0.75);
    for bound in ["1.0", "2.0", "5.0", "10.0", "30.0", "60.0", "300.0", "+Inf"] {
        let bucket = [unknown[0], unknown[1], ("le", bound)];
        expected = added(expected, "skill_duration_seconds_bucket", &bucket, 1.0);
    }
    bridge.until("the pending invocation", &expected, counts).await;
    bridge.stop().await;
}
