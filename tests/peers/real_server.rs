//! Beside the real server, killed and started again while skills go on being invoked, the scrape comes to equal the
//! server's own database.

use crate::support::eventually;
use crate::support::peers::bridge::Bridge;
use crate::support::peers::numbers::Numbers;
use crate::support::peers::session_buddy::{Pace, SessionBuddy};
use tempfile::TempDir;

/// Fewer skills than the feed lists, so that nothing is hidden; and so few anomalies a second (0.6) that it would take
/// an outage of sixteen seconds to hide one.
const PACE: Pace = Pace { invocations: 500, invocations_per_second: 25.0, anomaly_every: 40, skills: 8, seed: 7 };

#[test]
fn the_scrape_equals_the_servers_database() {
    let Some(session_buddy) = SessionBuddy::find_or_skip() else { return };
    let directory = TempDir::new().unwrap();
    let database = directory.path().join("skills.db");

    let server = session_buddy.serve(&database, 0, &[]);
    let port = server.port;
    let bridge = Bridge::start(port, &[]);
    bridge.await_snapshots(1);

    let driver = session_buddy.drive(&database, &PACE);
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

    assert!(driver.end().is_success());
    let held = Numbers::held(&session_buddy.truth(&database));
    assert_eq!(held.total(), u64::from(PACE.invocations));
    bridge.scrape_until("the scrape to equal the database", |scrape| match Numbers::shown(scrape) {
        shown if shown == held => Ok(()),
        shown => Err(format!("{shown:#?}\nwhere the database holds {held:#?}")),
    });
    bridge.await_snapshots(3);
    assert_eq!(Numbers::shown(&bridge.scrape()), held, "snapshots that say nothing new change nothing");
}
