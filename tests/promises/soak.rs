//! Memory does not grow with time.
//!
//! `SESSION_BUDDY_BRIDGE_LONG=1` makes a week of snapshots (with time as a value) and an hour of the real program out of
//! the short forms; run it with `--release -- --nocapture` to read the resident sizes. See docs/dev/evidence.md.

use std::fmt::Write as _;
use std::fs;
use std::time::{Duration, Instant};

use session_buddy_bridge::internals::demo::{DemoFeed, DemoSettings};
use session_buddy_bridge::internals::exposition::{View, encode_families};
use session_buddy_bridge::internals::ledger::{FeedSpec, Ledger, Limits, Now};
use session_buddy_bridge::internals::protocol;
use session_buddy_bridge::internals::store::Store;
use tokio_util::sync::CancellationToken;

use crate::support::alone::alone;
use crate::support::is_long;
use crate::support::model::{iso_time, sql_time};
use crate::support::program::Program;
use crate::support::scrape::Scrape;

const SECOND: i64 = 1_000_000;

/// Resident memory of a process, in KiB.
fn resident_kib(process: &str) -> u64 {
    let status = fs::read_to_string(format!("/proc/{process}/status")).expect("Linux tells it");
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).expect("it has a size");
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// A server with twelve skills, an invocation in three of four seconds and an anomaly every half minute.
#[derive(Default)]
struct Server {
    totals: [(u64, u64, f64); 12],
    anomalies: Vec<i64>,
}

impl Server {
    fn second(&mut self, at: i64) -> String {
        if at % 4 != 0 {
            // Popularity falls off, so that the last ones are listed and not in turns.
            let (total, completed, sum) = &mut self.totals[(at * at % 97 % 12) as usize];
            *total += 1;
            if at % 7 != 0 {
                *completed += 1;
                *sum += 0.25 * (at % 13) as f64;
            }
        }
        if at % 30 == 0 {
            self.anomalies.push(at);
            self.anomalies.retain(|detected| at - detected < 3600);
        }
        self.snapshot(at)
    }

    fn snapshot(&self, at: i64) -> String {
        let mut listed: Vec<_> = self.totals.iter().enumerate().filter(|(_, (total, ..))| *total > 0).collect();
        listed.sort_by_key(|(_, (total, ..))| std::cmp::Reverse(*total));
        let mut text = format!(
            r#"{{"type": "metrics_update", "timestamp": "{}", "data": {{"top_skills": ["#,
            iso_time(at * SECOND)
        );
        for (place, (skill, (total, completed, sum))) in listed.into_iter().take(10).enumerate() {
            let comma = if place == 0 { "" } else { ", " };
            let rate = 100.0 * *completed as f64 / *total as f64;
            let average = if *completed == 0 { "null".to_owned() } else { format!("{:?}", sum / *completed as f64) };
            write!(
                text,
                r#"{comma}{{"skill_name": "skill-{skill}", "total_invocations": {total}, "completion_rate": {rate:?}, "avg_duration_seconds": {average}}}"#
            )
            .unwrap();
        }
        text.push_str(r#"], "anomalies": ["#);
        for (place, detected) in self.anomalies.iter().rev().take(10).enumerate() {
            let comma = if place == 0 { "" } else { ", " };
            write!(
                text,
                r#"{comma}{{"skill_name": "skill-0", "detected_at": "{}", "anomaly_type": "drop", "deviation_score": 2.5}}"#,
                sql_time(detected * SECOND)
            )
            .unwrap();
        }
        text.push_str("]}}");
        text
    }
}

#[test]
fn a_week_of_snapshots_leaves_memory_flat() {
    alone(|| {
        let (seconds, settled) = if is_long() { (7 * 86_400, 3 * 86_400) } else { (4 * 3_600, 2 * 3_600) };
        let folder = tempfile::tempdir().unwrap();
        let mut opened = Store::open(&folder.path().join("state.db"), Ok).unwrap();
        let mut ledger = Ledger::restore(Limits::default(), opened.restored, Now::default()).unwrap();
        let feed = ledger.add_feed(FeedSpec { identity: "soak".to_owned(), ..FeedSpec::default() });
        let began = 1_800_000_000;
        let moment = |at: i64| Now { wall_micros: at * SECOND, elapsed: Duration::from_secs((at - began) as u64) };
        let connection = ledger.open(feed, moment(began));
        let mut server = Server::default();
        let mut view = View::default();
        let mut notices = Vec::new();
        let mut resident_then = 0;
        for at in began..began + seconds {
            let text = server.second(at);
            protocol::read(&text, &protocol::Limits::default(), &mut |message| {
                ledger.apply(connection, &message.unwrap(), moment(at), &mut notices);
            });
            assert_eq!(notices, [], "at second {}", at - began);
            if at % 600 == 0 {
                let changes = ledger.drain(moment(at));
                ledger.acknowledge(changes.sequence);
                opened.store.commit(&changes).unwrap();
                view.apply(changes);
            }
            if at == began + settled {
                resident_then = resident_kib("self");
            }
        }
        let resident_now = resident_kib("self");
        eprintln!("{seconds} snapshots: {resident_then} KiB resident after {settled} s, {resident_now} KiB at the end");
        assert!(resident_now < resident_then + 2_048, "from {resident_then} to {resident_now} KiB");

        // It has counted all the while.
        view.apply(ledger.drain(moment(began + seconds)));
        let mut out = String::new();
        encode_families(&mut view, 1, &mut out);
        let scrape = Scrape::parse(&out).unwrap();
        let mut totals: Vec<_> = server.totals.iter().map(|(total, ..)| *total).enumerate().collect();
        totals.sort_by_key(|(_, total)| std::cmp::Reverse(*total));
        for (skill, total) in totals.into_iter().take(10) {
            let counted = ["true", "false"].map(|completed| {
                let skill = format!("skill-{skill}");
                let labels = [("skill_name", skill.as_str()), ("workflow_phase", "unknown"), ("completed", completed)];
                scrape.value("skill_invocations_total", &labels).unwrap()
            });
            assert_eq!(counted[0] + counted[1], total as f64, "skill-{skill}");
        }
        assert_eq!(scrape.sum("anomalies_detected_total"), (seconds / 30) as f64);
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn an_hour_of_the_program_leaves_its_memory_flat() {
    let duration = Duration::from_secs(if is_long() { 3_600 } else { 8 });
    let server =
        DemoFeed::bind(DemoSettings { invocations_per_second: 20.0, ..DemoSettings::default() }).await.unwrap();
    let url = server.url();
    let ends = CancellationToken::new();
    let serving = tokio::spawn(server.serve(ends.clone()));
    let folder = tempfile::tempdir().unwrap();
    let state = folder.path().join("state.db");
    let watched = tokio::task::spawn_blocking(move || {
        let state = state.to_str().unwrap();
        let listen = ["--web.listen-address", "127.0.0.1:0", "--state.path", state, "--feed.url", url.as_str()];
        let mut program = Program::start(listen);
        let address = program.address();
        let process = program.id().to_string();
        let began = Instant::now();
        let mut sizes = Vec::new();
        let mut invocations = 0.0;
        // The pace of a scraper, not a wait for something.
        while began.elapsed() < duration {
            std::thread::sleep(Duration::from_secs(1));
            let scrape = Scrape::fetch(address, "/metrics");
            let now = scrape.sum("skill_invocations_total");
            assert!(now >= invocations, "{invocations} fell to {now}");
            invocations = now;
            sizes.push(resident_kib(&process));
        }
        (sizes, invocations)
    });
    let (sizes, invocations) = watched.await.unwrap();
    ends.cancel();
    serving.await.unwrap();
    let (first, last) = (sizes[sizes.len() / 4], sizes[sizes.len() - 1]);
    eprintln!("{} scrapes, {invocations} invocations: {first} KiB resident, then {last} KiB", sizes.len());
    assert!(invocations > 0.0);
    assert!(last < first + 4_096, "from {first} to {last} KiB: {sizes:?}");
}
