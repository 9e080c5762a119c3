//! Servers, databases, feeds and one bridge, in whole seconds; and the truth: which invocations some feed was shown.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::rc::Rc;

use super::database::{Content, Database, Invocation, InvocationId, Style, Totals};
use super::history::History;
use super::python_random::PythonRandom;
use crate::support::exposed::AnomalyCounts;
use crate::support::model::{self, SECOND, sql_time};

/// One configured feed.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FeedKey {
    /// Empty where none is configured.
    pub name: String,
    pub url: String,
    /// The one skill that is subscribed to; `None` for all.
    pub skill: Option<Rc<str>>,
}

impl FeedKey {
    pub fn unnamed(url: &str) -> Self {
        Self { name: String::new(), url: url.to_owned(), skill: None }
    }
}

/// A feed as it is configured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    pub feed: FeedKey,
    /// The database that is read beside it.
    pub skills_db: Option<String>,
}

/// A database file as it is now.
#[derive(Debug, PartialEq)]
pub struct Written {
    pub path: String,
    /// Another number than before under the same path is another file.
    pub file: u32,
    pub content: Content,
    /// The invocations of which `content` consists, by number, but for those of earlier writes.
    pub new_invocations: Vec<(InvocationId, Invocation)>,
}

/// Which feeds have the database of their server read beside them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Databases {
    None,
    /// Those of two addresses of three.
    Some,
    All,
}

impl Databases {
    /// The same for the same address of a history, whatever else changes.
    fn is_read_at(self, url: &str, seed: u64) -> bool {
        match self {
            Self::None => false,
            Self::Some => !(url.bytes().map(u64::from).sum::<u64>() + seed).is_multiple_of(3),
            Self::All => true,
        }
    }
}

/// What a broadcast lists of one skill.
#[derive(Debug, Clone, PartialEq)]
pub struct Listing {
    pub skill_name: Rc<str>,
    pub totals: Totals,
}

/// One snapshot as a feed receives it.
#[derive(Debug, PartialEq)]
pub struct Frame {
    /// The server's time of the broadcast, in microseconds after the start of the history.
    pub sent_micros: i64,
    pub listed: Vec<Listing>,
    pub anomalies: Vec<model::Anomaly>,
}

/// One invocation as servers stream it.
#[derive(Debug, PartialEq)]
pub struct Streamed {
    /// The identifier that its server gave it.
    pub id: String,
    /// The server's time, in microseconds after the start of the history.
    pub sent_micros: i64,
    pub skill_name: Rc<str>,
    pub invocation: Invocation,
}

/// What happens, in order.
#[derive(Debug, Clone)]
pub enum Event {
    /// The next kind of operation begins.
    Operation(&'static str),
    Configure(Vec<Entry>),
    Open(FeedKey),
    Close(FeedKey),
    Receive(FeedKey, Rc<Frame>),
    /// The feed is streamed an invocation, which the next snapshots list. Only in histories with events.
    Stream(FeedKey, Rc<Streamed>),
    /// The content of a database has changed since it was last written. Only in histories with databases.
    Write(Rc<Written>),
    /// A second is over: whatever waits for time may happen.
    Tick,
    /// The bridge stops in order.
    Stop,
    /// The bridge is killed: what was not persisted is lost.
    Kill,
    /// The bridge starts with this configuration.
    Start(Vec<Entry>),
    /// What was to be counted until now.
    Truth(Rc<Truth>),
}

/// What has been shown to a feed while it was received.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Truth {
    /// Distinct invocations by skill: completed and abandoned.
    pub invocations: BTreeMap<Rc<str>, Split>,
    /// Distinct anomalies.
    pub anomalies: AnomalyCounts,
}

/// Invocations by `completed`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Split {
    pub completed: u64,
    pub abandoned: u64,
}

impl Split {
    pub fn total(self) -> u64 {
        self.completed + self.abandoned
    }
}

/// How busy servers are, and how large databases are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pace {
    /// An invocation or more in each round, and small databases.
    Hard,
    /// Seconds to minutes between invocations, and mostly hundreds of them in a database.
    Calm,
}

impl Pace {
    fn rates(self) -> &'static [f64] {
        match self {
            Self::Hard => &[0.1, 0.5, 0.5, 2.0, 2.0, 10.0, 40.0],
            Self::Calm => &[0.01, 0.05, 0.05, 0.2, 0.2, 1.0, 4.0],
        }
    }

    fn sizes(self) -> &'static [usize] {
        match self {
            Self::Hard => &[0, 1, 3, 5, 20, 100, 300, 1000],
            Self::Calm => &[0, 3, 20, 100, 300, 300, 1000, 3000],
        }
    }
}

/// One process that broadcasts.
#[derive(Debug, Clone)]
pub(super) struct Server {
    pub id: u32,
    /// The database that it serves.
    pub path: String,
    /// In which half of a round it broadcasts.
    pub half: u8,
    pub is_up: bool,
    /// The addresses under which it can be reached, in the order in which they came, and whether they work.
    pub urls: Vec<(String, bool)>,
    micros: i64,
}

impl Server {
    pub fn has_url(&self, url: &str) -> bool {
        self.urls.iter().any(|(known, _)| known == url)
    }

    pub fn set_works(&mut self, url: &str, works: bool) {
        let address = self.urls.iter_mut().find(|(known, _)| known == url).expect("an address of this server");
        address.1 = works;
    }

    pub fn set_micros(&mut self, micros: i64) {
        self.micros = micros;
    }

    fn works(&self, url: &str) -> bool {
        self.is_up && self.urls.iter().any(|(known, works)| known == url && *works)
    }
}

/// How long it takes to connect to a server that can be reached.
enum Handshakes {
    /// An attempt each second, which fails now and then.
    Attempts,
    /// A time that is drawn for each connection.
    Staggered {
        seconds_max: usize,
        /// When each handshake that has begun ends.
        due: HashMap<FeedKey, i64>,
    },
}

impl Handshakes {
    /// Whether the handshake of `feed` ends in this second. It begins now if it has not.
    fn end(&mut self, feed: &FeedKey, at_seconds: i64, random: &mut PythonRandom) -> bool {
        match self {
            Self::Attempts => random.happens(0.8),
            Self::Staggered { seconds_max, due } => {
                let draw = || at_seconds + random.range(0, *seconds_max + 1) as i64;
                let is_over = *due.entry(feed.clone()).or_insert_with(draw) <= at_seconds;
                if is_over {
                    due.remove(feed);
                }
                is_over
            }
        }
    }
}

/// Everything that a history consists of.
pub struct World {
    pub(super) random: PythonRandom,
    style: Style,
    pace: Pace,
    seed: u64,
    databases: Databases,
    /// See [`History::is_beyond_doubt`].
    is_beyond_doubt: bool,
    /// What was last written of each file, and of which invocations.
    written: HashMap<String, Rc<Written>>,
    written_invocations: usize,
    /// The databases that are read beside feeds.
    read: HashMap<FeedKey, String>,
    /// The addresses beside whose feeds they are, instead of those that `databases` says.
    read_at: Option<HashSet<String>>,
    /// Whether servers stream invocations.
    has_events: bool,
    /// Anomalies in a broadcast, the newest.
    anomalies_listed_max: usize,
    /// How many snapshots each feed has received since the configuration or a connection changed.
    received: HashMap<FeedKey, usize>,
    pub(super) at_seconds: i64,
    pub(super) invocations: Vec<Invocation>,
    ids: u32,
    pub(super) files: HashMap<String, Database>,
    file_numbers: u32,
    pub(super) servers: Vec<Server>,
    pub(super) configured: Vec<FeedKey>,
    pub(super) connected: HashSet<FeedKey>,
    handshakes: Handshakes,
    pub(super) backups: Vec<(String, Content)>,
    pub(super) bridge_is_down: bool,
    pub(super) events: Vec<(i64, Event)>,
    seen: BTreeMap<Rc<str>, (HashSet<InvocationId>, Split)>,
    seen_anomalies: HashMap<InvocationId, (String, String)>,
    /// Under whatever name.
    seen_rows: HashSet<InvocationId>,
    /// Those of them that were read.
    read_rows: HashSet<InvocationId>,
    /// Anomalies that were read, whether a feed was subscribed to their skills or not.
    read_anomalies: HashSet<InvocationId>,
    /// What each database held when it was last counted without any doubt.
    counted: HashMap<String, Content>,
    /// The database of which each feed was last counted.
    counted_of: HashMap<FeedKey, String>,
}

/// Anomalies in a broadcast of the real server, the newest.
const ANOMALIES_LISTED_MAX: usize = 10;

/// Bits of equality that decide which database a feed lists: rule 3.1 of `docs/explanation/translation.md`.
const DECISIVE_BITS: f64 = 24.0;

/// Between two broadcasts of a server, in seconds; both halves of it are moments of a history.
const ROUND_SECONDS: i64 = 2;

impl World {
    pub fn new(seed: u64, style: Style, pace: Pace) -> Self {
        Self {
            random: PythonRandom::new(seed),
            style,
            pace,
            seed,
            databases: Databases::None,
            is_beyond_doubt: true,
            written: HashMap::new(),
            written_invocations: 0,
            read: HashMap::new(),
            read_at: None,
            has_events: false,
            anomalies_listed_max: ANOMALIES_LISTED_MAX,
            received: HashMap::new(),
            at_seconds: 0,
            invocations: Vec::new(),
            ids: 0,
            files: HashMap::new(),
            file_numbers: 0,
            servers: Vec::new(),
            configured: Vec::new(),
            connected: HashSet::new(),
            handshakes: Handshakes::Attempts,
            backups: Vec::new(),
            bridge_is_down: false,
            events: Vec::new(),
            seen: BTreeMap::new(),
            seen_anomalies: HashMap::new(),
            seen_rows: HashSet::new(),
            read_rows: HashSet::new(),
            read_anomalies: HashSet::new(),
            counted: HashMap::new(),
            counted_of: HashMap::new(),
        }
    }

    /// From now on the handshake of a feed whose server can be reached takes up to this many seconds.
    pub fn stagger_handshakes(&mut self, seconds_max: usize) {
        self.handshakes = Handshakes::Staggered { seconds_max, due: HashMap::new() };
    }

    /// From now on the databases of these feeds are read beside them.
    pub fn read_databases(&mut self, databases: Databases) {
        self.databases = databases;
    }

    /// From the next configuration on the databases of the feeds with these addresses are read, and no others. A feed of which
    /// this is changed connects again.
    pub fn read_at(&mut self, urls: HashSet<String>) {
        self.read_at = Some(urls);
    }

    /// From now on servers list all anomalies: of ten, some can leave the list while a feed is pending, which loses them.
    pub fn list_every_anomaly(&mut self) {
        self.anomalies_listed_max = usize::MAX;
    }

    /// From now on servers stream invocations.
    pub fn stream(&mut self) {
        self.has_events = true;
    }

    pub(super) fn record(&mut self, event: Event) {
        if matches!(event, Event::Configure(_) | Event::Start(_) | Event::Open(_) | Event::Close(_)) {
            self.received.clear();
        }
        self.events.push((self.at_seconds, event));
    }

    pub(super) fn next_id(&mut self) -> u32 {
        self.ids += 1;
        self.ids
    }

    pub(super) fn draw_rate(&mut self) -> f64 {
        self.random.choice(self.pace.rates())
    }

    fn draw_names(&mut self) -> Vec<Rc<str>> {
        let count = self.random.choice(&[1, 2, 2, 3, 4, 5, 6, 8, 11, 14]);
        let mut names: Vec<Rc<str>> = (0..16).map(|index| format!("skill-{index:02}").into()).collect();
        self.random.shuffle(&mut names);
        names.truncate(count);
        names
    }

    pub(super) fn new_database(&mut self) -> Database {
        let style = self.style.of_database(&mut self.random);
        let names = self.draw_names();
        Database::new(style, names, self.draw_rate())
    }

    /// Whether a row of it is among these.
    fn has(&self, rows: &HashSet<InvocationId>, content: &Content) -> bool {
        content.skills.iter().any(|(_, totals)| {
            let mut chain = std::iter::successors(totals.newest, |id| self.invocations[*id as usize - 1].previous);
            chain.any(|id| rows.contains(&id))
        })
    }

    /// A new file with these skills, invocations a second and size. Its path.
    pub fn add_file(&mut self, names: Vec<Rc<str>>, rate: f64, size: usize) -> String {
        let path = format!("f{}", self.next_id());
        let style = self.style;
        self.put_file(&path, Database::new(style, names, rate));
        (0..size).for_each(|_| self.invoke(&path, None));
        path
    }

    /// A new server with these addresses.
    pub fn add_server(&mut self, path: &str, half: u8, urls: Vec<String>) {
        let server = self.new_server(path, half);
        self.servers.push(Server { urls: urls.into_iter().map(|url| (url, true)).collect(), ..server });
    }

    pub fn path_of(&self, server: usize) -> String {
        self.servers[server].path.clone()
    }

    pub fn set_works(&mut self, server: usize, url: &str, works: bool) {
        self.servers[server].set_works(url, works);
    }

    pub fn into_history(self) -> History {
        History { events: self.events, is_beyond_doubt: self.is_beyond_doubt }
    }

    /// A new file of this size, or of one by chance. Its path.
    pub(super) fn new_file(&mut self, size: Option<usize>) -> String {
        let mut database = self.new_database();
        let size = size.unwrap_or_else(|| self.random.choice(self.pace.sizes()));
        for _ in 0..size {
            database.invoke(None, self.at_seconds, &mut self.random, &mut self.invocations);
        }
        let path = format!("f{}", self.next_id());
        self.put_file(&path, database);
        path
    }

    /// A new file at `path`.
    pub(super) fn put_file(&mut self, path: &str, mut database: Database) {
        self.file_numbers += 1;
        database.file = self.file_numbers;
        self.files.insert(path.to_owned(), database);
    }

    /// Replaces the file at `path` by one with this content, or the content of the file.
    pub(super) fn restore_file(&mut self, path: &str, content: Content, in_place: bool) {
        self.file_numbers += 1;
        let database = self.files.get_mut(path).expect("a known file");
        database.set(content);
        database.past.clear();
        if !in_place {
            database.file = self.file_numbers;
        }
    }

    /// A server that is not among [`World::servers`] yet.
    pub(super) fn new_server(&mut self, path: &str, half: u8) -> Server {
        let id = self.next_id();
        let urls = vec![(format!("ws://h{id}"), true)];
        let micros = self.random.range(1, 999_999) as i64;
        Server { id, path: path.to_owned(), half, is_up: true, urls, micros }
    }

    pub fn configure(&mut self, feeds: Vec<FeedKey>) {
        self.connected.retain(|feed| feeds.contains(feed));
        if let Some(urls) = &self.read_at {
            let is_read = |feed: &FeedKey| urls.contains(&feed.url);
            self.connected.retain(|feed| self.read.contains_key(feed) == is_read(feed));
            self.read.retain(|feed, _| is_read(feed));
        }
        self.configured = feeds;
        if !self.bridge_is_down {
            let entries = self.entries();
            self.record(Event::Configure(entries));
        }
    }

    /// The configuration with the databases that are read: a feed that was there before keeps the path that it had.
    fn entries(&mut self) -> Vec<Entry> {
        let paths = self.configured.iter().filter_map(|feed| {
            let path = self.read.get(feed).cloned().or_else(|| {
                let is_read = match &self.read_at {
                    Some(urls) => urls.contains(&feed.url),
                    None => self.databases.is_read_at(&feed.url, self.seed),
                };
                let server = self.server_at(&feed.url).filter(|_| is_read)?;
                Some(self.servers[server].path.clone())
            })?;
            Some((feed.clone(), path))
        });
        self.read = paths.collect();
        let entry = |feed: &FeedKey| Entry { feed: feed.clone(), skills_db: self.read.get(feed).cloned() };
        self.configured.iter().map(entry).collect()
    }

    /// Records what has changed in databases that are read.
    fn write(&mut self) {
        let mut paths: Vec<_> = self.read.values().cloned().collect();
        paths.sort();
        paths.dedup();
        for path in paths {
            let database = &self.files[&path];
            let is_as_written =
                |written: &Rc<Written>| written.file == database.file && written.content == database.content;
            if self.written.get(&path).is_some_and(is_as_written) {
                continue;
            }
            let numbered = |(at, invocation): (usize, &Invocation)| (at as InvocationId + 1, *invocation);
            let new = self.invocations.iter().enumerate().skip(self.written_invocations).map(numbered).collect();
            self.written_invocations = self.invocations.len();
            let (file, content) = (database.file, database.content.clone());
            let before = self.written.get(&path).map(|written| &written.content);
            self.is_beyond_doubt &=
                before.is_none_or(|before| !self.has(&self.seen_rows, before)) || self.has(&self.seen_rows, &content);
            let written = Rc::new(Written { path: path.clone(), file, content, new_invocations: new });
            self.written.insert(path, Rc::clone(&written));
            self.record(Event::Write(written));
        }
    }

    pub fn stop_bridge(&mut self) {
        self.bridge_is_down = true;
        self.connected.clear();
        self.record(Event::Stop);
    }

    pub fn kill_bridge(&mut self) {
        self.bridge_is_down = true;
        self.connected.clear();
        self.record(Event::Kill);
    }

    pub fn start_bridge(&mut self) {
        self.bridge_is_down = false;
        let entries = self.entries();
        self.record(Event::Start(entries));
    }

    pub(super) fn server_at(&self, url: &str) -> Option<usize> {
        self.servers.iter().position(|server| server.has_url(url))
    }

    /// The servers of one database.
    pub(super) fn servers_of(&self, path: &str) -> Vec<usize> {
        (0..self.servers.len()).filter(|&server| self.servers[server].path == path).collect()
    }

    pub(super) fn feeds_of(&self, server: usize) -> Vec<FeedKey> {
        self.configured.iter().filter(|feed| self.servers[server].has_url(&feed.url)).cloned().collect()
    }

    pub(super) fn database(&self, server: usize) -> &Database {
        &self.files[&self.servers[server].path]
    }

    pub(super) fn database_mut(&mut self, server: usize) -> &mut Database {
        self.files.get_mut(&self.servers[server].path).expect("a server has a database")
    }

    /// Invocations at random, on average `mean` of them.
    pub(super) fn traffic(&mut self, path: &str, mean: f64) {
        for _ in 0..Database::arrivals(&mut self.random, mean) {
            self.invoke(path, None);
        }
    }

    pub fn invoke(&mut self, path: &str, name: Option<Rc<str>>) {
        let database = self.files.get_mut(path).expect("a known file");
        let skill_name = database.invoke(name, self.at_seconds, &mut self.random, &mut self.invocations);
        if self.has_events && !self.bridge_is_down {
            self.broadcast_invocation(path, &skill_name);
        }
    }

    /// Streams the latest invocation to the feeds of each server of a database.
    fn broadcast_invocation(&mut self, path: &str, skill_name: &Rc<str>) {
        let invocation = *self.invocations.last().expect("it was just made");
        for server in self.servers_of(path) {
            let id = format!("{}-{}", self.servers[server].id, self.invocations.len());
            let sent_micros = self.at_seconds * SECOND + self.servers[server].micros;
            let streamed = Rc::new(Streamed { id, sent_micros, skill_name: skill_name.clone(), invocation });
            for feed in self.feeds_of(server) {
                let is_subscribed = feed.skill.as_ref().is_none_or(|skill| skill == skill_name);
                if is_subscribed && self.connected.contains(&feed) {
                    self.record(Event::Stream(feed, Rc::clone(&streamed)));
                }
            }
        }
    }

    /// Runs until every feed whose address works is connected, and each has received so many snapshots since the last of them
    /// connected.
    pub fn run_until_received(&mut self, snapshots: usize) {
        const ROUNDS_MAX: usize = 100;
        for _ in 0..ROUNDS_MAX {
            self.run(1);
            let has_received = |feed: &FeedKey| self.received.get(feed).is_some_and(|received| *received >= snapshots);
            let works =
                |feed: &FeedKey| self.server_at(&feed.url).is_some_and(|server| self.servers[server].works(&feed.url));
            if self.configured.iter().filter(|feed| works(feed)).all(has_received) {
                return;
            }
        }
        panic!("not every feed has received {snapshots} snapshots: {:?}", self.received);
    }

    /// Runs while nobody invokes anything.
    pub fn run_without_traffic(&mut self, rounds: usize) {
        let rates: Vec<_> = self.files.iter().map(|(path, database)| (path.clone(), database.rate)).collect();
        self.files.values_mut().for_each(|database| database.rate = 0.0);
        self.run(rounds);
        for (path, rate) in rates {
            self.files.get_mut(&path).expect("a known file").rate = rate;
        }
    }

    pub fn run(&mut self, rounds: usize) {
        for _ in 0..rounds {
            self.half_round(0);
            self.half_round(1);
        }
    }

    fn half_round(&mut self, half: u8) {
        self.at_seconds += ROUND_SECONDS / 2;
        if !self.bridge_is_down {
            self.record(Event::Tick);
            self.write();
            for feed in self.configured.clone() {
                let works = self.server_at(&feed.url).is_some_and(|server| self.servers[server].works(&feed.url));
                let is_connected = self.connected.contains(&feed);
                if works && !is_connected && self.handshakes.end(&feed, self.at_seconds, &mut self.random) {
                    self.connected.insert(feed.clone());
                    self.record(Event::Open(feed));
                } else if !works && is_connected {
                    self.connected.remove(&feed);
                    self.record(Event::Close(feed));
                }
            }
        }
        for server in 0..self.servers.len() {
            if self.servers[server].is_up && self.servers[server].half == half {
                self.broadcast(server);
            }
        }
        let mut paths: Vec<_> =
            self.servers.iter().filter(|server| server.is_up).map(|server| server.path.clone()).collect();
        paths.sort();
        paths.dedup();
        for path in paths {
            self.traffic(&path, self.files[&path].rate / 2.0);
            self.files.get_mut(&path).expect("a known file").remember();
        }
    }

    fn broadcast(&mut self, server: usize) {
        let content = &self.files[&self.servers[server].path].content;
        let top = content.top_ten();
        let newest: Vec<_> = content.anomalies.iter().rev().take(self.anomalies_listed_max).cloned().collect();
        let micros = &mut self.servers[server].micros;
        *micros = (*micros + 137) % SECOND;
        let sent_micros = self.at_seconds * SECOND + *micros;
        if self.bridge_is_down {
            return;
        }
        let mut unfiltered = None;
        for feed in self.configured.clone() {
            if !self.connected.contains(&feed) || !self.servers[server].has_url(&feed.url) {
                continue;
            }
            let is_listed = |name: &Rc<str>| feed.skill.as_ref().is_none_or(|skill| skill == name);
            let listed: Vec<_> = top.iter().filter(|(name, _)| is_listed(name)).cloned().collect();
            if feed.skill.is_some() && listed.is_empty() {
                continue;
            }
            let is_known = self.is_known(&feed, server, &listed);
            listed.iter().for_each(|(name, totals)| self.see(name, totals.newest));
            // It takes time to find that a database is not the one that its feed lists.
            let is_of_feed = self.read.get(&feed).is_none_or(|path| *path == self.servers[server].path);
            self.is_beyond_doubt &= is_known && is_of_feed;
            // What is read beside one feed is read for all feeds of the database.
            if self.is_read(&self.servers[server].path) {
                self.see_database(server, feed.skill.as_ref());
            }
            self.see_read_anomalies(server, feed.skill.as_ref());
            let path = self.servers[server].path.clone();
            self.counted.insert(path.clone(), self.files[&path].content.clone());
            self.counted_of.insert(feed.clone(), path);
            let listed = || listed.into_iter().map(|(skill_name, totals)| Listing { skill_name, totals }).collect();
            let frame = if feed.skill.is_some() {
                Rc::new(Frame { sent_micros, listed: listed(), anomalies: Vec::new() })
            } else {
                self.seen_anomalies.extend(newest.iter().map(kind));
                let whole = unfiltered.get_or_insert_with(|| {
                    let anomalies = newest.iter().map(as_listed).collect();
                    Rc::new(Frame { sent_micros, listed: listed(), anomalies })
                });
                Rc::clone(whole)
            };
            *self.received.entry(feed.clone()).or_default() += 1;
            self.record(Event::Receive(feed, frame));
        }
    }

    /// Whether it is beyond doubt which database a broadcast is of that a feed receives:
    ///
    /// - its database is read beside this feed or another of the same server, and rows of it were read before, of a copy all
    ///   that were; or
    /// - neither the database nor the address were received before, nor any row of it, nor is there another server of it; or
    /// - the feed was counted of the database before, or one whose timestamps show that it is of the same server; or
    /// - what is listed has 24 bits of equality with what was counted of the database, and with nothing else;
    ///
    /// and nothing was taken from the database while nobody read it.
    fn is_known(&self, feed: &FeedKey, server: usize, listed: &[(Rc<str>, Totals)]) -> bool {
        let path = &self.servers[server].path;
        let content = &self.files[path].content;
        let of_server = self.feeds_of(server);
        let connected = || of_server.iter().filter(|other| *other == feed || self.connected.contains(*other));
        if connected().any(|other| self.read.get(other) == Some(path)) && self.has(&self.read_rows, content) {
            // Of skills that nobody is subscribed to a copy can show less than was read of them.
            return self.counted.contains_key(path) || self.configured.iter().all(|other| other.skill.is_none());
        }
        let Some(counted) = self.counted.get(path) else {
            let is_new_address = !self.counted_of.keys().any(|known| known.url == feed.url);
            let of_database = self.servers_of(path).into_iter().map(|server| self.feeds_of(server));
            let is_alone = of_database.map(|feeds| usize::from(!feeds.is_empty())).sum::<usize>() == 1;
            // While a feed is compared with others, anomalies can leave its list.
            let are_anomalies_listed = self.read.contains_key(feed) || content.anomalies.len() <= ANOMALIES_LISTED_MAX;
            return is_new_address && is_alone && are_anomalies_listed && !self.has(&self.seen_rows, content);
        };
        let is_equal = |past: &Content| past.bits_of_equality(listed) >= DECISIVE_BITS;
        let equals_this_alone = || {
            self.counted_of.get(feed).is_none_or(|former| former == path)
                && self.counted.iter().all(|(other, past)| is_equal(past) == (other == path))
        };
        (connected().any(|other| self.counted_of.get(other) == Some(path)) || equals_this_alone())
            && (self.is_read(path) || content.follows(counted, &self.invocations))
    }

    /// Whether a database is read beside a feed that is connected.
    fn is_read(&self, path: &str) -> bool {
        self.read.iter().any(|(feed, read)| read == path && self.connected.contains(feed))
    }

    /// All of a database has been read, of one skill if only that is subscribed to.
    fn see_database(&mut self, server: usize, skill: Option<&Rc<str>>) {
        let content = self.database(server).content.clone();
        let is_subscribed = |name: &Rc<str>| skill.is_none_or(|skill| skill == name);
        for (name, totals) in content.skills.iter().filter(|(name, _)| is_subscribed(name)) {
            self.see(name, totals.newest);
        }
        for (_, totals) in &content.skills {
            let mut next = totals.newest;
            while let Some(id) = next.filter(|id| self.read_rows.insert(*id)) {
                next = self.invocations[id as usize - 1].previous;
            }
        }
        self.read_anomalies.extend(content.anomalies.iter().map(|anomaly| anomaly.id));
    }

    /// What was read while no feed was subscribed to it is exposed once one is: rule 8.4 of `docs/explanation/translation.md`.
    fn see_read_anomalies(&mut self, server: usize, skill: Option<&Rc<str>>) {
        let content = &self.files[&self.servers[server].path].content;
        let is_subscribed = |name: &Rc<str>| skill.is_none_or(|skill| skill == name);
        let is_due = |anomaly: &&super::database::Anomaly| {
            self.read_anomalies.contains(&anomaly.id) && is_subscribed(&anomaly.skill_name)
        };
        self.seen_anomalies.extend(content.anomalies.iter().filter(is_due).map(kind));
    }

    /// The invocations that a listing of `name` stands for have been shown.
    fn see(&mut self, name: &Rc<str>, newest: Option<InvocationId>) {
        let (seen, split) = self.seen.entry(name.clone()).or_default();
        let mut next = newest;
        while let Some(id) = next {
            // What is behind an invocation that was seen was seen with it.
            if !seen.insert(id) {
                return;
            }
            self.seen_rows.insert(id);
            let invocation = self.invocations[id as usize - 1];
            *if invocation.completed { &mut split.completed } else { &mut split.abandoned } += 1;
            next = invocation.previous;
        }
    }

    /// Records what was to be counted until now.
    pub fn record_truth(&mut self) {
        let mut anomalies = AnomalyCounts::new();
        self.seen_anomalies.values().for_each(|kind| *anomalies.entry(kind.clone()).or_default() += 1);
        let invocations = self.seen.iter().map(|(name, (_, split))| (name.clone(), *split)).collect();
        let truth = Truth { invocations, anomalies };
        self.record(Event::Truth(Rc::new(truth)));
    }
}

/// An anomaly with what it is counted by.
fn kind(anomaly: &super::database::Anomaly) -> (InvocationId, (String, String)) {
    (anomaly.id, (anomaly.anomaly_type().to_owned(), anomaly.skill_name.to_string()))
}

fn as_listed(anomaly: &super::database::Anomaly) -> model::Anomaly {
    model::Anomaly {
        skill_name: anomaly.skill_name.to_string(),
        anomaly_type: anomaly.anomaly_type().to_owned(),
        // The form with a `T`, as servers with Python's own time write it.
        detected_at: sql_time(anomaly.detected_at_seconds * SECOND).replace(' ', "T"),
        deviation_score: Some(anomaly.deviation_score),
    }
}
