//! Where evidence does not decide whose numbers a feed lists, less is counted, and a metric of the bridge says so, for each
//! reason; what was counted twice before two sources turned out to be one, another metric says exactly.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::support::histories::stage::{Entry, Stage};
use crate::support::model::{Metrics, SECOND, metrics_update};
use crate::support::scrape::Scrape;
use crate::support::scripted_feed::{Gate, Reserved, ScriptedFeed, Step};
use crate::support::{eventually_async, holds};

const ROUND: Duration = Duration::from_millis(30);

/// A server that lists what the test says, with timestamps that no other server has.
struct Server {
    listed: Arc<Mutex<Vec<Metrics>>>,
    feed: ScriptedFeed,
}

/// A skill of which every invocation completed; the sum of durations is in seconds.
fn skill(name: &str, total: u64, duration_seconds: f64) -> Metrics {
    Metrics { skill_name: name.to_owned(), total, completed: total, duration_seconds }
}

impl Server {
    /// `fraction_micros` is what is its own in its timestamps.
    fn start(fraction_micros: i64, listed: &[Metrics]) -> Self {
        let listed = Arc::new(Mutex::new(listed.to_vec()));
        let (shown, round) = (listed.clone(), Mutex::new(0));
        let text = move || {
            let mut round = round.lock().unwrap();
            *round += 1;
            metrics_update(*round * SECOND + fraction_micros, &shown.lock().unwrap(), &[])
        };
        Self { listed, feed: ScriptedFeed::start(vec![vec![Step::rounds(&Gate::default(), ROUND, text)]]) }
    }

    fn list(&self, listed: &[Metrics]) {
        *self.listed.lock().unwrap() = listed.to_vec();
    }

    fn entry(&self, name: &str) -> Entry {
        Entry::at(self.feed.url()).named(name)
    }

    /// Its connections end; nobody listens at its address.
    async fn die(self) -> Reserved {
        self.feed.leave().await
    }
}

/// What a family counts, by feed and by another label, where it is not zero.
fn counted(scrape: &Scrape, name: &str, label: Option<&str>) -> BTreeMap<(String, String), u64> {
    let series = scrape.series(&format!("session_buddy_bridge_{name}")).into_iter();
    let counts = series.map(|(labels, value)| {
        let other = label.map(|label| labels[label].clone()).unwrap_or_default();
        ((labels["feed"].clone(), other), value as u64)
    });
    counts.filter(|(_, count)| *count > 0).collect()
}

fn doubts(scrape: &Scrape) -> BTreeMap<(String, String), u64> {
    counted(scrape, "source_undecided_total", Some("reason"))
}

fn expected<const N: usize>(counts: [(&str, &str, u64); N]) -> BTreeMap<(String, String), u64> {
    counts.map(|(feed, label, count)| ((feed.to_owned(), label.to_owned()), count)).into()
}

fn invocations(scrape: &Scrape) -> f64 {
    scrape.sum("skill_invocations_total")
}

/// Lists each of these in turn to a bridge that has a single feed, `one`, and returns what it shows after each.
async fn shown_of(lists: &[&[Metrics]]) -> (Vec<Scrape>, String) {
    let mut stage = Stage::new();
    let server = Server::start(130_001, lists[0]);
    stage.start_with(&[server.entry("one")]);
    let mut shown = Vec::new();
    for list in lists {
        server.list(list);
        shown.push(stage.settled().await);
    }
    (shown, stage.log())
}

/// Two small skills whose whole seconds say little: one that fell could be of a new database.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damage_that_little_proves_is_counted_as_a_doubt() {
    let before = [skill("alpha", 20, 20.0), skill("beta", 12, 12.0)];
    let after = [skill("alpha", 19, 19.0), skill("beta", 12, 12.0)];
    let (shown, log) = shown_of(&[&before, &after]).await;
    assert_eq!((doubts(&shown[0]), invocations(&shown[0])), (expected([]), 32.0));
    assert_eq!((doubts(&shown[1]), invocations(&shown[1])), (expected([("one", "damage", 1)]), 32.0));
    assert_eq!(counted(&shown[1], "feed_rollbacks_total", None), expected([("one", "", 1)]));
    assert!(log.contains("source undecided; the lower count is used") && log.contains("reason=damage"), "{log}");
}

/// The two that follow the loss may be the one that was lost, come back, and one more.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_return_that_may_be_progress_is_counted_as_a_doubt() {
    // The other skill proves that it is the same database.
    let other = skill("beta", 500, 751.234_567);
    let lists = [20, 19, 21].map(|total| [skill("alpha", total, total as f64), other.clone()]);
    let (shown, log) = shown_of(&lists.each_ref().map(|list| list.as_slice())).await;
    assert_eq!((doubts(&shown[1]), invocations(&shown[1])), (expected([]), 520.0));
    assert_eq!((doubts(&shown[2]), invocations(&shown[2])), (expected([("one", "return", 1)]), 521.0));
    assert!(log.contains("reason=return"), "{log}");
}

/// Of two skills that fell one comes back to what it was, and the other one does not.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_known_listing_is_counted_as_a_doubt() {
    let list = |alpha, beta| {
        [skill("alpha", alpha, alpha as f64), skill("beta", beta, beta as f64), skill("gamma", 500, 751.234_567)]
    };
    let (shown, log) = shown_of(&[&list(20, 12), &list(18, 11), &list(20, 11)]).await;
    assert_eq!((doubts(&shown[1]), invocations(&shown[1])), (expected([]), 532.0));
    assert_eq!((doubts(&shown[2]), invocations(&shown[2])), (expected([("one", "known_listing", 1)]), 532.0));
    assert!(log.contains("reason=known_listing"), "{log}");
}

/// Two processes list one database. The one that counts dies, and the other one goes on to list less than it did.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_feed_that_takes_over_and_stays_behind_is_counted_as_a_doubt() {
    let mut stage = Stage::new();
    let list = |total| [skill("alpha", total, total as f64 * 1.234_567)];
    let [one, two] = [130_001, 700_002].map(|fraction_micros| Server::start(fraction_micros, &list(400)));
    stage.start_with(&[one.entry("one")]);
    assert_eq!(invocations(&stage.settled().await), 400.0);
    stage.reload(&[one.entry("one"), two.entry("two")]);
    assert_eq!(invocations(&stage.settled().await), 400.0, "one source");
    one.list(&list(405));
    assert_eq!(invocations(&stage.settled().await), 405.0);
    let _dead = one.die().await;

    // For three snapshots and 10 s it may only be late.
    let doubted = eventually_async("the doubt", async || {
        let scrape = stage.scrape();
        holds(doubts(&scrape) != expected([]), "no doubt").map(|()| scrape)
    });
    let scrape = doubted.await;
    assert_eq!((doubts(&scrape), invocations(&scrape)), (expected([("two", "behind", 1)]), 405.0));
    assert!(stage.log().contains("reason=behind"), "{}", stage.log());
    two.list(&list(403));
    let scrape = stage.settled_without(1).await;
    assert_eq!((doubts(&scrape), invocations(&scrape)), (expected([("two", "behind", 1)]), 408.0));
}

/// Two feeds list different numbers until both change alike, which only feeds of one source do.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_two_sources_counted_before_they_were_one_is_counted_exactly() {
    let mut stage = Stage::new();
    let one = Server::start(130_001, &[skill("alpha", 7, 7.0), skill("beta", 2, 2.0)]);
    let two = Server::start(700_002, &[skill("alpha", 3, 3.0), skill("beta", 6, 6.0)]);
    stage.start_with(&[one.entry("one"), two.entry("two")]);
    eventually_async("two sources", async || {
        let shown = invocations(&stage.scrape());
        holds(shown == 18.0, shown)
    })
    .await;
    let now = [skill("alpha", 1_007, 1_234.567_891), skill("beta", 8, 8.0)];
    one.list(&now);
    let scrape = stage.settled().await;
    assert_eq!((counted(&scrape, "source_double_counted_total", None), invocations(&scrape)), (expected([]), 1_024.0));

    two.list(&now);
    let scrape = stage.settled().await;
    // Three of `alpha` and six of `beta`: what the second source had counted of what the first has counted, too.
    assert_eq!(counted(&scrape, "source_double_counted_total", None), expected([("two", "", 9)]));
    assert_eq!(invocations(&scrape), 1_024.0, "what was counted stays");
    let log = stage.log();
    assert!(log.contains("two sources turned out to be one") && log.contains("counted_twice=9"), "{log}");
    assert_eq!(doubts(&scrape), expected([]));
}
