//! Names, addresses, filters and database paths may change in any way: each invocation of a server is counted once, by the
//! bridge as a program, beside servers whose databases say what is right.

use std::os::unix::fs::symlink;
use std::sync::Arc;
use std::time::Duration;

use crate::support::histories::session_server::{Clock, ServerAddress, SessionServer, SkillsDb};
use crate::support::histories::stage::{Entry, Stage};

/// How a configuration takes effect.
#[derive(Debug, Clone, Copy)]
enum Change {
    Reload,
    Restart,
    /// The bridge is killed, and starts with the new configuration.
    Kill,
}

const CHANGES: [Change; 3] = [Change::Reload, Change::Restart, Change::Kill];

impl Stage {
    fn change(&mut self, how: Change, entries: &[Entry]) {
        match how {
            Change::Reload => self.reload(entries),
            Change::Restart => self.restart_with(entries),
            Change::Kill => {
                self.kill();
                self.start_with(entries);
            }
        }
    }
}

/// A database of 300 invocations, its server, and the first of its addresses.
struct Site {
    database: Arc<SkillsDb>,
    server: SessionServer,
    address: ServerAddress,
}

impl Site {
    async fn new(stage: &Stage, file_name: &str, clock: Clock) -> Self {
        let database = SkillsDb::create(&stage.path(file_name));
        database.invoke("alpha", 170);
        database.invoke("beta", 100);
        database.invoke("gamma", 30);
        database.detect("drop", "alpha", 2);
        database.detect("spike", "gamma", 1);
        let server = SessionServer::start(&database, clock);
        let address = server.address().await;
        Self { database, server, address }
    }

    fn invoke(&self) {
        self.database.invoke("alpha", 5);
        self.database.invoke("beta", 2);
        self.database.detect("drop", "alpha", 1);
        self.database.detect("spike", "beta", 1);
    }
}

const MICROS: Clock = Clock::Micros(130_000);

/// Counts the history of a server with `entries` in turn, each taking effect as `how` says, and new invocations after each.
async fn counts_once(stage: &mut Stage, site: &Site, how: Change, entries: &[Vec<Entry>]) {
    let (first, rest) = entries.split_first().expect("a first configuration");
    stage.start_with(first);
    stage.counts("the history", &site.database.counts()).await;
    for next in rest {
        let what = format!("{how:?} with {next:?}");
        site.invoke();
        stage.counts(&format!("before {what}"), &site.database.counts()).await;
        stage.change(how, next);
        stage.counts(&format!("just after {what}"), &site.database.counts()).await;
        site.invoke();
        stage.counts(&format!("after {what}"), &site.database.counts()).await;
    }
    stage.stop();
}

/// Tries a sequence of configurations with each way for them to take effect.
async fn counts_once_with_each_change(entries: impl Fn(&Stage, &Site) -> Vec<Vec<Entry>>) {
    for how in CHANGES {
        let mut stage = Stage::new();
        let site = Site::new(&stage, "skills.db", MICROS).await;
        let entries = entries(&stage, &site);
        counts_once(&mut stage, &site, how, &entries).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_feed_that_is_renamed_and_renamed_back_counts_on() {
    counts_once_with_each_change(|_, site| {
        let entry = Entry::at(site.address.url());
        [Some("one"), Some("two"), None, Some("one")]
            .map(|name| vec![Entry { name: name.map(str::to_owned), ..entry.clone() }])
            .to_vec()
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_feed_with_a_database_that_is_renamed_and_renamed_back_counts_on() {
    counts_once_with_each_change(|_, site| {
        let entry = Entry::at(site.address.url()).with_database(site.database.path());
        [Some("one"), Some("two"), None, Some("one")]
            .map(|name| vec![Entry { name: name.map(str::to_owned), ..entry.clone() }])
            .to_vec()
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_address_that_is_spelled_otherwise_counts_on() {
    counts_once_with_each_change(|_, site| {
        let address = &site.address;
        [address.url_by_name(), address.url(), address.url_with_path()].map(|url| vec![Entry::at(url)]).to_vec()
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_address_with_a_database_that_is_spelled_otherwise_counts_on() {
    counts_once_with_each_change(|_, site| {
        let address = &site.address;
        [address.url_by_name(), address.url(), address.url_with_path()]
            .map(|url| vec![Entry::at(url).with_database(site.database.path())])
            .to_vec()
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_address_that_comes_later_adds_nothing() {
    for how in CHANGES {
        let mut stage = Stage::new();
        let site = Site::new(&stage, "skills.db", MICROS).await;
        let second = site.server.address().await;
        let (one, two) = (Entry::at(site.address.url()), Entry::at(second.url()));
        let both = vec![one.clone(), two.clone()];
        let other_order = vec![two.clone(), one.clone()];
        counts_once(&mut stage, &site, how, &[vec![one], both, vec![two], other_order]).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_address_whose_server_comes_later_adds_nothing() {
    let mut stage = Stage::new();
    let site = Site::new(&stage, "skills.db", MICROS).await;
    let second = site.server.address().await.die().await;
    stage.start_with(&[Entry::at(site.address.url()), Entry::at(second.url())]);
    stage.counts_without("one address alone", &site.database.counts(), 1).await;
    // Longer than any wait for a configured feed.
    tokio::time::sleep(Duration::from_secs(6)).await;
    site.invoke();
    let _second = second.revive().await;
    stage.counts("both addresses", &site.database.counts()).await;
    site.invoke();
    stage.counts("both addresses, later", &site.database.counts()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_address_whose_handshake_takes_a_second_longer_adds_nothing() {
    for first_is_slow in [false, true] {
        let mut stage = Stage::new();
        let site = Site::new(&stage, "skills.db", MICROS).await;
        let slow = site.server.slow_address(Duration::from_secs(1)).await;
        let mut entries = [Entry::at(site.address.url()), Entry::at(slow.url())];
        if first_is_slow {
            entries.reverse();
        }
        stage.start_with(&entries);
        stage.counts("the history", &site.database.counts()).await;
        site.invoke();
        stage.counts("what followed", &site.database.counts()).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn where_the_first_address_dies_the_second_counts_on() {
    let mut stage = Stage::new();
    let Site { database, server, address } = Site::new(&stage, "skills.db", MICROS).await;
    let second = server.address().await;
    stage.start_with(&[Entry::at(address.url()), Entry::at(second.url())]);
    stage.counts("the history", &database.counts()).await;
    let dead = address.die().await;
    database.invoke("alpha", 50);
    stage.counts_without("the second address alone", &database.counts(), 1).await;
    let address = dead.revive().await;
    database.invoke("beta", 50);
    stage.counts("both addresses again", &database.counts()).await;
    let _dead = second.die().await;
    database.invoke("gamma", 50);
    stage.counts_without("the first address alone", &database.counts(), 1).await;
    drop(address);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_first_address_that_never_was_there_holds_nothing_up() {
    let mut stage = Stage::new();
    let site = Site::new(&stage, "skills.db", MICROS).await;
    let dead = site.server.address().await.die().await;
    stage.start_with(&[Entry::at(dead.url()), Entry::at(site.address.url())]);
    tokio::time::sleep(Duration::from_secs(6)).await;
    stage.counts_without("the second address alone", &site.database.counts(), 1).await;
    site.invoke();
    stage.counts_without("what followed", &site.database.counts(), 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_filtered_and_an_unfiltered_feed_of_one_server_count_once() {
    for filtered_first in [false, true] {
        let mut stage = Stage::new();
        let site = Site::new(&stage, "skills.db", MICROS).await;
        let second = site.server.address().await;
        let unfiltered = Entry::at(site.address.url());
        let mut both = vec![unfiltered.clone(), Entry::at(second.url()).only("alpha")];
        if filtered_first {
            both.reverse();
        }
        counts_once(&mut stage, &site, Change::Reload, &[both.clone(), vec![unfiltered], both]).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_filter_that_is_set_and_removed_counts_every_skill_once() {
    for how in CHANGES {
        let mut stage = Stage::new();
        let site = Site::new(&stage, "skills.db", MICROS).await;
        let unfiltered = [Entry::at(site.address.url())];
        let filtered = [unfiltered[0].clone().only("alpha")];
        stage.start_with(&unfiltered);
        stage.counts("the history", &site.database.counts()).await;
        for _ in 0..2 {
            let mut expected = site.database.counts();
            stage.change(how, &filtered);
            site.invoke();
            // Of the others nothing is received, and of anomalies neither.
            let of_alpha = site.database.counts().invocations.into_iter().filter(|((skill, _), _)| skill == "alpha");
            expected.invocations.extend(of_alpha);
            stage.counts(&format!("{how:?}, with the filter"), &expected).await;
            stage.change(how, &unfiltered);
            stage.counts(&format!("{how:?}, without the filter"), &site.database.counts()).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_that_the_second_address_has_counts_once() {
    counts_once_with_addresses(|stage, site, second| {
        let _ = stage;
        let (one, two) = (Entry::at(site.address.url()), Entry::at(second.url()));
        let read = two.clone().with_database(site.database.path());
        vec![vec![one.clone(), read.clone()], vec![one.clone(), two], vec![one, read]]
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_that_two_feeds_have_by_different_paths_counts_once() {
    counts_once_with_addresses(|stage, site, second| {
        let link = stage.path("link.db");
        symlink(site.database.path(), &link).expect("a link");
        let (one, two) = (Entry::at(site.address.url()), Entry::at(second.url()));
        let both = vec![one.clone().with_database(site.database.path()), two.clone().with_database(&link)];
        vec![both.clone(), vec![one, two], both]
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_that_is_moved_to_the_other_feed_counts_on() {
    counts_once_with_addresses(|_, site, second| {
        let (one, two) = (Entry::at(site.address.url()), Entry::at(second.url()));
        let path = site.database.path();
        let first_reads = vec![one.clone().with_database(path), two.clone()];
        let second_reads = vec![one, two.with_database(path)];
        vec![first_reads.clone(), second_reads, first_reads]
    })
    .await;
}

async fn counts_once_with_addresses(entries: impl Fn(&Stage, &Site, &ServerAddress) -> Vec<Vec<Entry>>) {
    for how in CHANGES {
        let mut stage = Stage::new();
        let site = Site::new(&stage, "skills.db", MICROS).await;
        let second = site.server.address().await;
        let entries = entries(&stage, &site, &second);
        counts_once(&mut stage, &site, how, &entries).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_that_is_removed_and_added_again_counts_on() {
    counts_once_with_each_change(|_, site| {
        let feed = Entry::at(site.address.url());
        let read = feed.clone().with_database(site.database.path());
        [read.clone(), feed.clone(), read, feed].map(|entry| vec![entry]).to_vec()
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_address_that_was_edited_counts_on_when_the_first_leaves() {
    counts_once_with_addresses(|_, site, second| {
        let (one, two) = (Entry::at(site.address.url()), Entry::at(second.url()));
        let edited = two.clone().named("edited");
        vec![vec![one.clone(), two], vec![one, edited.clone()], vec![edited]]
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_servers_with_equal_skills_add_up() {
    two_servers_add_up(Clock::Micros(130_000), Clock::Micros(700_000)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_servers_with_timestamps_of_whole_seconds_add_up() {
    two_servers_add_up(Clock::Seconds, Clock::Seconds).await;
}

async fn two_servers_add_up(first_clock: Clock, second_clock: Clock) {
    for how in CHANGES {
        let mut stage = Stage::new();
        let one = Site::new(&stage, "one.db", first_clock).await;
        let other = Site::new(&stage, "other.db", second_clock).await;
        let both = || one.database.counts() + other.database.counts();
        let entries = [Entry::at(one.address.url()), Entry::at(other.address.url())];
        stage.start_with(&entries);
        stage.counts("both histories", &both()).await;
        one.invoke();
        other.database.invoke("alpha", 3);
        stage.counts("what followed", &both()).await;
        let renamed = [entries[1].clone().named("other"), entries[0].clone().named("one")];
        stage.change(how, &renamed);
        other.invoke();
        stage.counts(&format!("{how:?} with other names in another order"), &both()).await;
        one.invoke();
        stage.counts("what followed that", &both()).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_processes_on_one_database_count_once() {
    for how in CHANGES {
        let mut stage = Stage::new();
        let site = Site::new(&stage, "skills.db", MICROS).await;
        let other = SessionServer::start(&site.database, Clock::Micros(700_000));
        let second = other.address().await;
        let (one, two) = (Entry::at(site.address.url()), Entry::at(second.url()));
        let (both, renamed) = (vec![one.clone(), two.clone()], vec![two.named("two"), one]);
        counts_once(&mut stage, &site, how, &[both, renamed]).await;
    }
}
