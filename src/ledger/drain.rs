//! Time, gauges, and the changes that are exposed and persisted.

use std::sync::Arc;
use std::time::Duration;

use super::binding::Source;
use super::dirty::Persistence;
use super::ledger::{Configuration, Ledger, START_HOLD, Start};
use super::notice::Notice;
use super::now::Now;
use super::records::Records;
use super::series::{Changes, SkillIndex, SkillRef};
use super::slots::{FeedSlot, SourceId};

impl Ledger {
    /// Lets time pass: counts what has waited long enough. To be called at [`Ledger::deadline`] or whenever it suits.
    pub fn tick(&mut self, now: Now, notices: &mut Vec<Notice>) {
        self.settled_until = self.settled_until.max(Some(now.elapsed));
        self.commit_configuration(now);
        self.update_start(now);
        let mut has_left = false;
        let (sources, _, mut ctx) = self.parts(now, notices);
        for (_, known) in sources.iter_mut() {
            let was_alone = known.counts.detail.leaves_alone();
            known.counts.tick(&mut ctx);
            has_left |= was_alone != known.counts.detail.leaves_alone();
        }
        if has_left {
            self.show_databases(notices);
        }
        for index in 0..self.feeds.len() {
            let slot = FeedSlot::new(index);
            if !self.feeds[index].held_events().is_empty() && self.is_hold_over(slot, now) {
                self.release_events(slot, true, now, notices);
            }
        }
    }

    /// The elapsed time at which [`Ledger::tick`] has something to do, if nothing else happens.
    pub fn deadline(&self) -> Option<Duration> {
        let hold = match self.start {
            Start::Holding { since } => Some(since + START_HOLD),
            Start::Awaited | Start::Over => None,
        };
        let held = self.feeds.iter().filter(|feed| !feed.held_events().is_empty());
        let held = held.filter_map(|feed| feed.opened_at.map(|at| at + START_HOLD));
        let sources = self.sources.iter().filter_map(|(_, source)| source.counts.deadline());
        sources.chain(held).chain(hold).min()
    }

    /// `active_sessions_total`: the sessions that the servers of live feeds report, and one for each server that reports none.
    pub fn active_sessions(&self, now: Now) -> u64 {
        let mut servers: Vec<Vec<FeedSlot>> = Vec::new();
        for feed in self.configured.iter().copied().filter(|feed| self.feeds[feed.index()].is_live) {
            match servers.iter_mut().find(|feeds| feeds.iter().any(|other| self.is_one_server(feed, *other))) {
                Some(feeds) => feeds.push(feed),
                None => servers.push(vec![feed]),
            }
        }
        let sessions = |feeds: Vec<FeedSlot>| {
            let informed = feeds.into_iter().reduce(|feed, other| self.better_informed(feed, other))?;
            self.feeds[informed.index()].sessions.open(now.wall_micros)
        };
        servers.into_iter().map(|feeds| sessions(feeds).unwrap_or(1)).sum()
    }

    /// Whether the sessions of two feeds count once. While it is not known, those of one source do if one of them reported
    /// any: better too few than one server's twice.
    fn is_one_server(&self, feed: FeedSlot, other: FeedSlot) -> bool {
        let has_reported = |feed: FeedSlot| self.feeds[feed.index()].sessions.reported_micros().is_some();
        let is_one_source = || {
            let source = self.sources.expected_source(feed);
            source.is_some() && source == self.sources.expected_source(other)
        };
        let is_known = self.sources.shares_server(feed, other);
        is_known.unwrap_or_else(|| (has_reported(feed) || has_reported(other)) && is_one_source())
    }

    /// Which of two feeds of one server knows its sessions better: the one that has been connected longer if both received reports of
    /// sessions since both are connected, else the one that received the last report.
    fn better_informed(&self, feed: FeedSlot, other: FeedSlot) -> FeedSlot {
        let (this, that) = (&self.feeds[feed.index()], &self.feeds[other.index()]);
        let both_since = Some(this.opened_micros.max(that.opened_micros));
        let (reported, other_reported) = (this.sessions.reported_micros(), that.sessions.reported_micros());
        let is_other = if reported >= both_since && other_reported >= both_since {
            that.opened_micros < this.opened_micros
        } else {
            other_reported > reported
        };
        if is_other { other } else { feed }
    }

    /// Two feeds are of one server: they share its sessions from now on.
    pub(super) fn share_sessions(&mut self, feed: FeedSlot, other: FeedSlot) {
        let informed = self.better_informed(feed, other);
        let learner = if informed == feed { other } else { feed };
        if self.feeds[informed.index()].sessions.reported_micros().is_some()
            && let Ok([informed, learner]) = self.feeds.get_disjoint_mut([informed.index(), learner.index()])
        {
            learner.copy_sessions(&informed.sessions);
        }
    }

    /// A feed goes on with the sessions of an entry of its source that left the configuration: one with its address, else
    /// one that left in the change in which it joined.
    pub(super) fn inherit_sessions(&mut self, feed: FeedSlot, source: SourceId) {
        let replaced = self.sources.take_replaced(feed);
        let own = self.feeds[feed.index()].sessions.reported_micros();
        let address = &self.sources.entry(feed).address;
        let left = self.feeds.iter().enumerate().filter(|(_, left)| !left.is_configured);
        let left = left.filter_map(|(index, left)| {
            let reported = left.sessions.reported_micros().filter(|reported| Some(*reported) > own)?;
            let slot = FeedSlot::new(index);
            let has_address = self.sources.entry(slot).address == *address;
            let is_left =
                self.sources.expected_source(slot) == Some(source) && (has_address || replaced.contains(&slot));
            is_left.then_some((has_address, reported, index))
        });
        if let Some((_, _, left)) = left.max()
            && let Ok([left, heir]) = self.feeds.get_disjoint_mut([left, feed.index()])
        {
            heir.copy_sessions(&left.sessions);
            left.forget_sessions();
        }
    }

    /// Whether [`Ledger::drain`] would return something that has to be persisted, or exposed.
    pub fn has_changed(&self) -> bool {
        matches!(self.start, Start::Over)
            && (self.series_table.has_changed()
                || self.rules != self.acknowledged_rules
                || self.feeds.iter().any(|feed| feed.exposed.is_set() || feed.persisted.is_set())
                || self.sources.has_changed()
                || self.sources.iter().any(|(_, source)| source.counts.has_changed()))
    }

    /// Returns what changed and is not acknowledged, as new values. While a process without a past waits for its feeds'
    /// first snapshots, nothing is among it: series and what they were derived from are persisted together or not at all.
    pub fn drain(&mut self, now: Now) -> Changes {
        self.drain_unless(now, &mut |_| false)
    }

    /// The same without the skills that `copy` returns `true` for, which has copied them: most of a scrape's changes are new
    /// values of series that are exposed already, and rows of their own would be built to be taken apart.
    pub fn drain_unless(&mut self, now: Now, copy: &mut dyn FnMut(SkillRef<'_>) -> bool) -> Changes {
        self.commit_configuration(now);
        self.update_start(now);
        if !matches!(self.start, Start::Over) {
            return Changes { rules: self.acknowledged_rules, ..Changes::default() };
        }
        self.sequence += 1;
        self.collected_rules = self.rules;
        let configured = self.feeds.iter_mut().enumerate().filter(|(_, feed)| feed.is_configured);
        let feeds =
            configured.filter_map(|(index, feed)| feed.exposed.collect().then(|| (index, feed.counters.clone())));
        let feeds = feeds.collect();
        let memory = match self.persistence {
            Persistence::StateFile => self.collect(),
            Persistence::InMemory => Records::default(),
        };
        Changes {
            sequence: self.sequence,
            skills: self.series_table.collect_unless(copy),
            last_listed: self.series_table.take_listed(),
            feeds,
            anomalies: self.series_table.collect_anomalies(),
            wall_micros: now.wall_micros,
            rules: self.rules,
            memory,
        }
    }

    /// The changes with this sequence number are persistent and exposed: [`Ledger::drain`] does not return them again. Does
    /// nothing unless they are the latest.
    pub fn acknowledge(&mut self, sequence: u64) {
        if sequence != self.sequence {
            return;
        }
        self.acknowledged_rules = self.collected_rules;
        self.series_table.acknowledge();
        for feed in &mut self.feeds {
            feed.exposed.acknowledge();
            feed.persisted.acknowledge();
            feed.sessions.acknowledge();
        }
        if self.persistence == Persistence::StateFile {
            self.sources.acknowledge();
            for (_, Source { numbers, counts, .. }) in self.sources.iter_mut() {
                numbers.acknowledge_histories(counts.changed_histories.in_flight());
                counts.acknowledge();
            }
        }
    }

    /// The changes with this sequence number are exposed, although they could not be persisted.
    pub fn note_exposed(&mut self, sequence: u64) {
        if sequence == self.sequence {
            self.series_table.note_exposed();
        }
    }

    /// When skills were last listed, since the last call or [`Ledger::drain`]. It moves with every snapshot, and needs not
    /// be persisted before it is exposed.
    pub fn take_last_listed(&mut self) -> Vec<(SkillIndex, i64)> {
        if matches!(self.start, Start::Over) { self.series_table.take_listed() } else { Vec::new() }
    }

    /// Ends the hold of the start once every feed has begun or it has lasted.
    #[inline]
    pub(super) fn update_start(&mut self, now: Now) {
        if !self.began || !matches!(self.start, Start::Over) {
            self.begin(now);
        }
    }

    /// More rows of a database follow those that were counted: the hold of the start lasts from now on.
    pub(super) fn prolong_start(&mut self, now: Now) {
        if !matches!(self.start, Start::Over) {
            self.start = Start::Holding { since: now.elapsed };
        }
    }

    #[cold]
    fn begin(&mut self, now: Now) {
        if self.configuration == Configuration::Known && !std::mem::replace(&mut self.began, true) {
            // Feeds that left the configuration leave the gauges, those that came back are in them again.
            self.show_all_rates();
        }
        let since = match self.start {
            Start::Over => return,
            Start::Awaited => now.elapsed,
            Start::Holding { since } => since,
        };
        let is_awaited = |feed: &FeedSlot| {
            let state = &self.feeds[feed.index()];
            let source = || self.sources.source(self.sources.expected_source(*feed)?);
            !state.has_begun
                || self.sources.awaits_rows(*feed)
                || source().is_some_and(|source| source.counts.detail.is_awaited())
        };
        let all_began = !self.configured.iter().any(is_awaited);
        let is_over = all_began || now.elapsed.saturating_sub(since) >= START_HOLD;
        self.start = if is_over { Start::Over } else { Start::Holding { since } };
    }

    pub(super) fn show_all_rates(&mut self) {
        let mut rated: Vec<Arc<str>> = self.sources.iter().flat_map(|(_, source)| source.counts.rated()).collect();
        rated.sort_unstable();
        rated.dedup();
        rated.iter().for_each(|name| self.show_rate(name, &mut Vec::new()));
    }

    /// Rule 4.6: the last listed rate; over several sources, completed over total. A streamed rate only where no snapshot
    /// ever listed the skill.
    pub(super) fn show_rate(&mut self, name: &Arc<str>, notices: &mut Vec<Notice>) {
        let mut gauges = 0;
        let (mut completed, mut total, mut last, mut streamed) = (0.0, 0.0, 0.0, None);
        for (_, source) in self.sources.iter().filter(|(id, _)| self.sources.is_covered(*id)) {
            let (gauge, rate) = source.counts.rate(name);
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
            // Of numbers that are restored nobody has checked that these fit together.
            _ if total > 0.0 => Some((completed / total).min(1.0)),
            _ => Some(last),
        };
        let series = self.series_table.place(name, &self.limits, notices);
        self.series_table.set_rate(series, rate);
    }
}
