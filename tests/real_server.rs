//! Beside the real server, killed and started again while skills go on being invoked, the scrape comes to equal the
//! server's own database.

mod support;

use std::collections::BTreeMap;

use support::peers::bridge::{Bridge, sums};
use support::peers::eventually;
use support::peers::session_buddy::{Pace, SessionBuddy, Truth};
use support::scrape::Scrape;
use tempfile::TempDir;

/// Fewer skills than the feed lists, so that nothing is hidden; and so few anomalies a second (0.6) that it would take
/// an outage of sixteen seconds to hide one.
const PACE: Pace = Pace { invocations: 500, invocations_per_second: 25.0, anomaly_every: 40, skills: 8, seed: 7 };

/// What a database and a scrape must agree in.
#[derive(Debug, PartialEq)]
struct Numbers {
    /// By skill and `completed`.
    invocations: BTreeMap<[String; 2], u64>,
    /// By type and skill.
    anomalies: BTreeMap<[String; 2], u64>,
    /// In billionths, by skill.
    completion_rates: BTreeMap<[String; 1], u64>,
    /// By skill: the driver gives every completed invocation a duration.
    durations: BTreeMap<[String; 1], u64>,
    /// In microseconds, by skill: the driver's durations are multiples of 100 of these.
    duration_sums: BTreeMap<[String; 1], u64>,
}

fn scaled<const N: usize>(sums: BTreeMap<[String; N], f64>, scale: f64) -> BTreeMap<[String; N], u64> {
    sums.into_iter().map(|(labels, sum)| (labels, (sum * scale).round() as u64)).collect()
}

impl Numbers {
    fn shown(scrape: &Scrape) -> Self {
        Self {
            invocations: scaled(sums(scrape, "skill_invocations_total", ["skill_name", "completed"]), 1.0),
            anomalies: scaled(sums(scrape, "anomalies_detected_total", ["anomaly_type", "skill_name"]), 1.0),
            completion_rates: scaled(sums(scrape, "skill_completion_rate", ["skill_name"]), 1e9),
            durations: scaled(sums(scrape, "skill_duration_seconds_count", ["skill_name"]), 1.0),
            duration_sums: scaled(sums(scrape, "skill_duration_seconds_sum", ["skill_name"]), 1e6),
        }
    }

    fn held(truth: &Truth) -> Self {
        let skills = || truth.skills.iter().map(|(name, skill)| ([name.clone()], skill));
        let split = |name: &str, completed: bool| [name.to_owned(), completed.to_string()];
        let by_completion = truth.skills.iter().flat_map(|(name, skill)| {
            [(split(name, true), skill.completed), (split(name, false), skill.total - skill.completed)]
        });
        let anomalies = truth.anomalies.iter().map(|((kind, name), count)| ([kind.clone(), name.clone()], *count));
        let rates = skills().map(|(name, skill)| (name, skill.completed as f64 / skill.total as f64));
        Self {
            invocations: by_completion.collect(),
            anomalies: anomalies.collect(),
            completion_rates: scaled(rates.collect(), 1e9),
            durations: skills().map(|(name, skill)| (name, skill.completed)).collect(),
            duration_sums: scaled(skills().map(|(name, skill)| (name, skill.duration_sum_seconds)).collect(), 1e6),
        }
    }
}

#[test]
fn the_scrape_equals_the_servers_database() {
    let Some(session_buddy) = SessionBuddy::find_or_skip() else { return };
    let directory = TempDir::new().unwrap();
    let database = directory.path().join("skills.db");

    let server = session_buddy.serve(&database, 0, &[]);
    let port = server.port;
    let bridge = Bridge::start(port, &[]);
    bridge.await_snapshots(1);

    let mut driver = session_buddy.drive(&database, &PACE);
    bridge.scrape_until("a good part of the invocations", |scrape| match scrape.sum("skill_invocations_total") {
        many if many >= 150.0 => Ok(()),
        few => Err(format!("{few}")),
    });

    drop(server);
    bridge.scrape_until("the feed to be down", |scrape| match scrape.sum("session_buddy_bridge_feed_up") {
        0.0 => Ok(()),
        up => Err(format!("up is {up}")),
    });
    let before = session_buddy.truth(&database).invocations();
    eventually("invocations that nobody sees", || match session_buddy.truth(&database).invocations() {
        now if now >= before + 25 => Ok(()),
        now => Err(format!("{before}, then {now}")),
    });
    let _server = session_buddy.serve(&database, port, &[]);

    assert!(driver.await_end().success());
    let held = Numbers::held(&session_buddy.truth(&database));
    assert_eq!(held.invocations.values().sum::<u64>(), u64::from(PACE.invocations));
    bridge.scrape_until("the scrape to equal the database", |scrape| match Numbers::shown(scrape) {
        shown if shown == held => Ok(()),
        shown => Err(format!("{shown:#?}\nwhere the database holds {held:#?}")),
    });
    bridge.await_snapshots(3);
    assert_eq!(Numbers::shown(&bridge.scrape()), held, "snapshots that say nothing new change nothing");
}
