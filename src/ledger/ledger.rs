//! The whole: feeds in their order, one book of series, and the rules that concern more than one feed.

use std::sync::Arc;
use std::time::Duration;

use hashbrown::HashSet;

use crate::protocol::Message;

use super::alias::{AliasWatch, Verdict};
use super::book::Book;
use super::detail::{DetailPosition, DetailReading, Mark};
use super::feed::{Desk, Feed};
use super::finding::Finding;
use super::limits::Limits;
use super::memory::{Memory, Table};
use super::moment::Moment;
use super::notice::Notice;
use super::series::{Changes, FeedCounters, RuleCounters, SkillIndex, SkillRow};

/// A process without a past shows no skill for at most this long, until each feed's first snapshot is in. Otherwise the
/// history of a slower feed would be a spike in a series that a faster one has begun.
const START_HOLD: Duration = Duration::from_secs(5);

/// A feed that was added, in the order of adding.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FeedId(pub usize);

/// One connection of a feed. Opening another makes it a thing of the past.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ConnectionId {
    feed: FeedId,
    generation: u64,
}

/// What the ledger must know of a feed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FeedSpec {
    /// What the feed is called in logs and labels; no two feeds share it.
    pub identity: String,
    /// The one skill that is subscribed to; `None` for all.
    pub skill: Option<String>,
}

/// All counts, and what is needed to count on.
#[derive(Debug)]
pub struct Ledger {
    limits: Limits,
    book: Book,
    rules: RuleCounters,
    feeds: Vec<Feed>,
    watches: Vec<AliasWatch>,
    /// The place among `feeds` of each feed that was added. Feeds that were restored have places of their own.
    places: Vec<usize>,
    start: Start,
    /// Whether somebody keeps what changes. Otherwise it is not collected.
    keeps: bool,
    /// Whether the gauges are of the feeds that are configured.
    began: bool,
    kept_rules: RuleCounters,
    /// Where somebody wants to know why.
    findings: Option<Vec<Finding>>,
}

/// Everything of a ledger, as plain data.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Whole {
    /// Every skill.
    pub skills: Vec<SkillRow>,
    /// The counters of the rules.
    pub rules: RuleCounters,
    /// Every row of what else is remembered.
    pub memory: Memory,
}

#[derive(Debug, Clone, Copy)]
enum Start {
    /// Nothing has happened yet.
    Awaited,
    Holding {
        since: Duration,
    },
    Over,
}

impl Ledger {
    /// An empty ledger.
    pub fn new(limits: Limits) -> Self {
        Self {
            limits,
            book: Book::default(),
            rules: RuleCounters::default(),
            feeds: Vec::new(),
            watches: Vec::new(),
            places: Vec::new(),
            start: Start::Awaited,
            keeps: false,
            began: false,
            kept_rules: RuleCounters::default(),
            findings: None,
        }
    }

    /// The ledger that `whole` was, or an empty one, which from now on collects in [`Changes::memory`] what has to be
    /// kept. What is configured of its feeds is told anew by [`Ledger::add_feed`].
    ///
    /// # Errors
    /// Rows that do not fit together, with what is wrong: they were not written by [`Ledger::drain`].
    pub fn restore(limits: Limits, whole: Whole, now: Moment) -> Result<Self, String> {
        whole.check()?;
        let Whole { skills, rules, memory } = whole;
        let mut ledger = Self { keeps: true, kept_rules: rules, rules, ..Self::new(limits) };
        if !skills.is_empty() || !memory.feeds.is_empty() {
            ledger.start = Start::Over;
        }
        let places = skills.len();
        if skills.iter().map(|row| row.index.0 as usize).collect::<HashSet<_>>() != (0..places).collect() {
            return Err(format!("the {places} skills do not have the places 0 to {places}"));
        }
        if let Some(row) = memory.feed_skills.iter().find(|row| row.series.0 as usize >= places) {
            return Err(format!("{:?} is counted at place {}, which is none", row.skill_name, row.series.0));
        }
        ledger.book = Book::restore(skills);
        let mut feeds = memory.by_feed()?;
        feeds.sort_unstable_by_key(|(row, _)| row.place);
        for (place, (row, memory)) in feeds.into_iter().enumerate() {
            if row.place != place || row.alias_of.is_some_and(|other| other >= place) {
                return Err(format!("the feed {:?} has the place {}, which is none", row.counters.identity, row.place));
            }
            ledger.watches.push(AliasWatch::restore(row.alias_of));
            ledger.feeds.push(Feed::restore(row, memory, now.elapsed));
        }
        Ok(ledger)
    }

    /// From now on collects why, for [`Ledger::take_findings`].
    pub fn explain(&mut self) {
        self.findings.get_or_insert_default();
    }

    /// What the rules made of everything since the last call; nothing unless [`Ledger::explain`] was called.
    pub fn take_findings(&mut self) -> Vec<Finding> {
        self.findings.as_mut().map(std::mem::take).unwrap_or_default()
    }

    fn find(&mut self, finding: Finding) {
        if let Some(findings) = &mut self.findings {
            findings.push(finding);
        }
    }

    /// Adds a feed after those that are there. Of two feeds that turn out to be one server, the later stops counting.
    /// A feed of this identity that was restored goes on where it was.
    pub fn add_feed(&mut self, spec: FeedSpec) -> FeedId {
        let known = self.feeds.iter().position(|feed| *feed.counters.identity == *spec.identity);
        let place = known.unwrap_or_else(|| {
            self.feeds.push(Feed::new(&spec.identity));
            self.watches.push(AliasWatch::default());
            self.feeds.len() - 1
        });
        let feed = &mut self.feeds[place];
        feed.configured = true;
        feed.filter = spec.skill.map(Into::into);
        feed.counters_changed = true;
        self.places.push(place);
        if self.began {
            // Its rates, which left the gauges with it, are what they were.
            for name in self.feeds[place].rated() {
                self.show_rate(&name, &mut Vec::new());
            }
        }
        FeedId(self.places.len() - 1)
    }

    /// Takes a feed out of the configuration: what it counted stays, and it leaves the gauges. It may be added again.
    pub fn remove_feed(&mut self, feed: FeedId, now: Moment) {
        self.note_start(now);
        let place = self.places[feed.0];
        let left = &mut self.feeds[place];
        left.configured = false;
        left.live = false;
        // What its connection still has to say is of the past.
        left.generation += 1;
        left.touch();
        let rated = self.feeds[place].rated();
        self.succeed_rivals();
        for name in rated {
            self.show_rate(&name, &mut Vec::new());
        }
        // Nobody waits for it any more.
        self.note_start(now);
    }

    /// Changes how much is counted and remembered from now on. What there is already stays.
    pub fn set_limits(&mut self, limits: Limits) {
        self.limits = limits;
    }

    /// What is counted of a feed.
    pub fn counters(&self, feed: FeedId) -> &FeedCounters {
        &self.feeds[self.places[feed.0]].counters
    }

    /// Adds a feed that is this very program: it has no past to wait for, and no sessions before it reports some.
    pub fn add_local_feed(&mut self, identity: &str) -> FeedId {
        let id = self.add_feed(FeedSpec { identity: identity.to_owned(), skill: None });
        let feed = &mut self.feeds[self.places[id.0]];
        feed.had_snapshot = true;
        feed.reports_sessions(0);
        id
    }

    /// The rows of the database beside `feed` will be read: until they are, and as long as they can be, its snapshots and
    /// events move no counters.
    pub fn expect_detail(&mut self, feed: FeedId) {
        let feed = &mut self.feeds[self.places[feed.0]];
        feed.detail.expect();
        feed.counters.rows_tell = Some(false);
        feed.counters_changed = true;
    }

    /// Where to go on reading the database beside `feed`; `None` for an alias, whose database its rival's feed tells.
    pub fn detail_position(&mut self, feed: FeedId, now: Moment) -> Option<DetailPosition> {
        self.note_start(now);
        let place = self.places[feed.0];
        (!self.watches[place].is_alias()).then(|| self.feeds[place].detail.position(now.elapsed))
    }

    /// The rows of a table that were read last, the newest first.
    pub fn detail_marks(&self, feed: FeedId, table: Table) -> Vec<Mark> {
        self.feeds[self.places[feed.0]].detail.marks(table)
    }

    /// Counts what was read of the database beside `feed`, from the last [`Ledger::detail_position`] on.
    pub fn apply_detail(&mut self, feed: FeedId, reading: DetailReading, now: Moment, notices: &mut Vec<Notice>) {
        self.tick(now, notices);
        let place = self.places[feed.0];
        let (feed, mut desk) = self.desk(place, now, notices);
        feed.apply_detail(reading, &mut desk);
        self.finish(place, now, notices);
    }

    /// The database beside `feed` cannot be read.
    pub fn detail_failed(&mut self, feed: FeedId, now: Moment, notices: &mut Vec<Notice>) {
        self.tick(now, notices);
        let (feed, mut desk) = self.desk(self.places[feed.0], now, notices);
        feed.detail_failed(&mut desk);
    }

    /// A connection of `feed` is established. What an older one of it still has to say is discarded.
    pub fn open(&mut self, feed: FeedId, now: Moment) -> ConnectionId {
        self.note_start(now);
        let open = &mut self.feeds[self.places[feed.0]];
        open.generation += 1;
        open.live = false;
        ConnectionId { feed, generation: open.generation }
    }

    /// A connection has ended. Nothing happens if it is a thing of the past already.
    pub fn close(&mut self, connection: ConnectionId, now: Moment) {
        self.note_start(now);
        let feed = &mut self.feeds[self.places[connection.feed.0]];
        if feed.generation == connection.generation {
            feed.live = false;
        }
    }

    /// Applies one message, whole or not at all; in a snapshot a bad entry is left out alone. What somebody should hear of
    /// is added to `notices`.
    pub fn apply(&mut self, connection: ConnectionId, message: &Message<'_>, now: Moment, notices: &mut Vec<Notice>) {
        let place = self.places[connection.feed.0];
        if self.feeds[place].generation != connection.generation {
            return;
        }
        self.tick(now, notices);
        self.feeds[place].live = true;
        match message {
            Message::Connection(_) | Message::Unknown => {}
            Message::Event(_) if self.watches[place].is_alias() => self.find(Finding::Alias),
            Message::Event(event) => {
                let (feed, mut desk) = self.desk(place, now, notices);
                feed.event(event, &mut desk);
            }
            Message::Snapshot(snapshot) => match self.verdict(place, snapshot) {
                Verdict::Apply(held) => {
                    let (feed, mut desk) = self.desk(place, now, notices);
                    if let Some(held) = held {
                        feed.snapshot(&held, &mut desk);
                    }
                    feed.snapshot(snapshot, &mut desk);
                }
                Verdict::AliasCleared => {
                    notices.push(Notice::AliasCleared);
                    self.feeds[place].touch();
                    for name in self.feeds[place].rated() {
                        self.show_rate(&name, notices);
                    }
                    let (feed, mut desk) = self.desk(place, now, notices);
                    feed.snapshot(snapshot, &mut desk);
                }
                Verdict::AliasFound(rival) => {
                    let of = self.feeds[rival].counters.identity.to_string();
                    notices.push(Notice::AliasFound { of });
                    // It is not waited for, since it has nothing of its own to say.
                    self.feeds[place].had_snapshot = true;
                    self.feeds[place].touch();
                    for name in self.feeds[place].rated() {
                        self.show_rate(&name, notices);
                    }
                }
                Verdict::Alias => self.find(Finding::Alias),
                Verdict::Hold => {}
            },
        }
        self.finish(place, now, notices);
    }

    fn finish(&mut self, place: usize, now: Moment, notices: &mut Vec<Notice>) {
        for name in self.feeds[place].take_rates_changed() {
            self.show_rate(&name, notices);
        }
        if !self.keeps {
            self.feeds[place].discard_changes();
        }
        self.note_start(now);
    }

    /// Whether [`Ledger::drain`] would give something that has to be kept, or shown to have changed.
    pub fn has_changed(&self) -> bool {
        matches!(self.start, Start::Over)
            && (self.book.has_changed()
                || self.rules != self.kept_rules
                || self.feeds.iter().any(|feed| feed.counters_changed)
                || self.feeds.iter().any(Feed::has_changed))
    }

    /// Lets time pass: counts what has waited long enough. To be called at [`Ledger::deadline`] or whenever it suits.
    pub fn tick(&mut self, now: Moment, notices: &mut Vec<Notice>) {
        self.note_start(now);
        for place in 0..self.feeds.len() {
            let (feed, mut desk) = self.desk(place, now, notices);
            feed.tick(&mut desk);
        }
    }

    /// The elapsed time at which [`Ledger::tick`] has something to do, if nothing else happens.
    pub fn deadline(&self) -> Option<Duration> {
        let hold = match self.start {
            Start::Holding { since } => Some(since + START_HOLD),
            Start::Awaited | Start::Over => None,
        };
        self.feeds.iter().filter_map(Feed::deadline).chain(hold).min()
    }

    /// `active_sessions_total`: the sessions that live feeds report, one for a live feed that reports none.
    pub fn active_sessions(&self, now: Moment) -> u64 {
        let counts = |(feed, watch): &(&Feed, &AliasWatch)| feed.live && !watch.is_alias();
        self.feeds.iter().zip(&self.watches).filter(counts).map(|(feed, _)| feed.sessions(now)).sum()
    }

    /// Takes what changed since the last call, as new values. While a process without a past waits for its feeds' first
    /// snapshots, nothing is among it: series and what they were derived from are kept together or not at all.
    pub fn drain(&mut self, now: Moment) -> Changes {
        self.note_start(now);
        if !matches!(self.start, Start::Over) {
            return Changes { rules: self.kept_rules, ..Changes::default() };
        }
        self.kept_rules = self.rules;
        let feeds = self.feeds.iter_mut().enumerate().filter(|(_, feed)| feed.configured);
        let feeds = feeds
            .filter_map(|(place, feed)| {
                std::mem::take(&mut feed.counters_changed).then(|| (place, feed.counters.clone()))
            })
            .collect();
        let mut memory = Memory::default();
        if self.keeps {
            for (place, (feed, watch)) in self.feeds.iter_mut().zip(&self.watches).enumerate() {
                feed.take_changed(place, watch.alias_of(), &mut memory);
            }
        }
        Changes {
            skills: self.book.take_changed(),
            last_listed: self.book.take_listed(),
            feeds,
            anomalies: self.book.take_anomalies(),
            wall_micros: now.wall_micros,
            rules: self.rules,
            memory,
        }
    }

    /// Makes [`Ledger::drain`] give `changes`, the last that it gave, once more, with the values of then: they could not be
    /// kept. `is_shown` says whether they are shown nevertheless.
    pub fn untake(&mut self, changes: &Changes, is_shown: bool) {
        changes.skills.iter().for_each(|row| self.book.untake(row.index, is_shown));
        if !is_shown {
            self.book.untake_anomalies(&changes.anomalies);
        }
        for (place, feed) in self.feeds.iter_mut().enumerate() {
            feed.untake(place, &changes.memory);
            feed.counters_changed |= changes.feeds.iter().any(|(changed, _)| *changed == place);
        }
        // Anything else than what it is: the counters of the rules are to be kept once more.
        self.kept_rules = RuleCounters { exact_observations: u64::MAX, ..self.rules };
    }

    /// When skills were last listed, since the last call or [`Ledger::drain`]. It moves with every snapshot, and needs not
    /// be kept before it is shown.
    pub fn take_last_listed(&mut self) -> Vec<(SkillIndex, i64)> {
        if matches!(self.start, Start::Over) { self.book.take_listed() } else { Vec::new() }
    }

    fn note_start(&mut self, now: Moment) {
        if !std::mem::replace(&mut self.began, true) {
            self.succeed_rivals();
            // Feeds that left the configuration leave the gauges, those that came back are in them again.
            let rated: Vec<_> = self.feeds.iter().flat_map(Feed::rated).collect();
            rated.iter().for_each(|name| self.show_rate(name, &mut Vec::new()));
        }
        let since = match self.start {
            Start::Over => return,
            Start::Awaited => now.elapsed,
            Start::Holding { since } => since,
        };
        let all_began = self.feeds.iter().all(|feed| !feed.configured || feed.has_begun());
        let is_over = all_began || now.elapsed.saturating_sub(since) >= START_HOLD;
        self.start = if is_over { Start::Over } else { Start::Holding { since } };
    }

    /// An alias whose rival left the configuration is the same server by its other address, and goes on where the rival was:
    /// the two change places. Otherwise nobody would count, or all of the past would count once more.
    fn succeed_rivals(&mut self) {
        for id in 0..self.places.len() {
            let place = self.places[id];
            let Some(rival) = self.watches[place].alias_of().filter(|rival| !self.feeds[*rival].configured) else {
                continue;
            };
            let filter = self.feeds[place].filter.take();
            self.feeds[rival].filter = filter;
            let identity = self.feeds[place].counters.identity.clone();
            self.feeds[place].counters.identity = std::mem::replace(&mut self.feeds[rival].counters.identity, identity);
            // Its connection, if it has one, goes with it.
            (self.feeds[rival].generation, self.feeds[rival].live) =
                (self.feeds[place].generation, self.feeds[place].live);
            for (place, configured) in [(place, false), (rival, true)] {
                let feed = &mut self.feeds[place];
                feed.configured = configured;
                feed.counters_changed = true;
                feed.touch();
            }
            self.places[id] = rival;
        }
    }

    fn desk<'l>(&'l mut self, place: usize, now: Moment, notices: &'l mut Vec<Notice>) -> (&'l mut Feed, Desk<'l>) {
        let Self { book, rules, limits, .. } = self;
        let findings = self.findings.as_mut();
        let desk = Desk { book, rules, limits, notices, findings, now };
        (&mut self.feeds[place], desk)
    }

    fn verdict(&mut self, place: usize, snapshot: &crate::protocol::Snapshot<'_>) -> Verdict {
        let own = self.feeds[place].filter.as_deref();
        let overlaps = |rival: &usize| {
            let other = self.feeds[*rival].filter.as_deref();
            own.is_none() || other.is_none() || own == other
        };
        let rivals: Vec<usize> = (0..place).filter(|rival| self.feeds[*rival].configured).filter(overlaps).collect();
        let hold_first = !self.feeds[place].had_snapshot;
        AliasWatch::judge(&mut self.watches, place, &rivals, hold_first, snapshot)
    }

    /// Rule 4.6: the last listed rate; over several feeds, completed over total. A streamed rate only where no snapshot
    /// ever listed the skill.
    fn show_rate(&mut self, name: &Arc<str>, notices: &mut Vec<Notice>) {
        let mut gauges = 0;
        let (mut completed, mut total, mut last, mut streamed) = (0.0, 0.0, 0.0, None);
        let counts = |(feed, watch): &(&Feed, &AliasWatch)| feed.configured && !watch.is_alias();
        for (feed, _) in self.feeds.iter().zip(&self.watches).filter(counts) {
            let (gauge, rate) = feed.rate(name);
            streamed = rate.or(streamed);
            if let Some(gauge) = gauge {
                gauges += 1;
                completed += gauge.completed;
                total += gauge.total;
                last = gauge.rate_percent / 100.0;
            }
        }
        let rate = match gauges {
            0 => streamed,
            1 => Some(last),
            _ if total > 0.0 => Some(completed / total),
            _ => Some(last),
        };
        let series = self.book.place(name, &self.limits, notices);
        self.book.set_rate(series, rate);
    }
}
