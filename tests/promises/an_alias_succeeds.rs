//! One server under two addresses, of which one leaves the configuration: the other goes on where it was.

use std::time::Duration;

use session_buddy_bridge::internals::exposition::{View, encode_families};
use session_buddy_bridge::internals::ledger::{Changes, FeedSpec, Ledger, LedgerState, Limits, Notice, Now};
use session_buddy_bridge::internals::protocol;

use crate::support::scrape::Scrape;

fn snapshot(second: u64, total: u64) -> String {
    format!(
        r#"{{"type":"metrics_update","timestamp":"2026-11-22T10:24:{second:02}.585602+00:00","data":{{"top_skills":[
            {{"skill_name":"s","total_invocations":{total},"completion_rate":100.0,"avg_duration_seconds":1.0}}],
            "anomalies":[]}}}}"#
    )
}

/// Everything that a store would hold.
#[derive(Default)]
struct Disk {
    whole: LedgerState,
}

impl Disk {
    fn keep(&mut self, changes: &Changes) {
        self.whole.fold(changes);
    }
}

/// One run of a process with these feeds, each of which hears every snapshot.
fn run(disk: &mut Disk, feeds: &[&str], seconds: std::ops::Range<u64>) -> Vec<Notice> {
    let mut ledger = Ledger::restore(Limits::default(), disk.whole.clone(), Now::default()).unwrap();
    let moment = |second: u64| Now::at(Duration::from_secs(second));
    let feeds: Vec<_> = feeds
        .iter()
        .map(|identity| ledger.add_feed(FeedSpec { identity: (*identity).to_owned(), ..FeedSpec::default() }))
        .collect();
    let connections: Vec<_> = feeds.iter().map(|feed| ledger.open(*feed, moment(seconds.start))).collect();
    let mut notices = Vec::new();
    for second in seconds.clone() {
        for connection in &connections {
            protocol::read(&snapshot(second, 100 + second), &protocol::Limits::default(), &mut |message| {
                ledger.apply(*connection, &message.unwrap(), moment(second), &mut notices);
            });
        }
    }
    assert_eq!(ledger.active_sessions(moment(seconds.end)), 1, "one server");
    disk.keep(&ledger.drain(moment(seconds.end)));
    notices
}

fn counted(disk: &Disk) -> f64 {
    let mut view = View::default();
    view.apply(Changes { skills: disk.whole.skills.clone(), ..Changes::default() });
    let mut out = String::new();
    encode_families(&mut view, 0, &mut out);
    Scrape::parse(&out).unwrap().sum("skill_invocations_total")
}

#[test]
fn whichever_address_is_left_counts_on_and_nothing_counts_twice() {
    for left in ["first", "second"] {
        let mut disk = Disk::default();
        let notices = run(&mut disk, &["first", "second"], 0..10);
        assert_eq!(notices, [Notice::AliasFound { of: "first".to_owned() }]);
        assert_eq!(counted(&disk), 109.0);

        assert_eq!(run(&mut disk, &[left], 10..20), []);
        assert_eq!(counted(&disk), 119.0, "{left}");

        // Each process that has both reports it, and the first to deliver is active.
        let notices = run(&mut disk, &["first", "second"], 20..30);
        assert!(matches!(&notices[..], [Notice::AliasFound { of }] if of == "first"), "{notices:?}");
        assert_eq!(counted(&disk), 129.0, "{left}");
    }
}
