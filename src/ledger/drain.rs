//! Time, gauges, and the changes that are exposed and persisted.

use std::sync::Arc;
use std::time::Duration;

use super::context::ApplyContext;
use super::ledger::{Configuration, Ledger, START_HOLD, Start};
use super::moment::Moment;
use super::notice::Notice;
use super::records::Records;
use super::series::{Changes, SkillIndex};
use super::slots::FeedSlot;

impl Ledger {
    /// Lets time pass: counts what has waited long enough. To be called at [`Ledger::deadline`] or whenever it suits.
    pub fn tick(&mut self, now: Moment, notices: &mut Vec<Notice>) {
        self.commit_configuration(now);
        self.update_start(now);
        let mut has_left = false;
        let Self { sources, book, rules, limits, trace_steps, .. } = self;
        for (_, known) in sources.iter_mut() {
            let was_alone = known.counts.detail.leaves_alone();
            let mut ctx = ApplyContext { book, rules, limits, notices, trace_steps: trace_steps.as_mut(), now };
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

    /// `active_sessions_total`: the sessions that the servers of live feeds report, and one for each live server of a source
    /// that reports none.
    pub fn active_sessions(&self, now: Moment) -> u64 {
        let live: Vec<FeedSlot> =
            self.configured.iter().copied().filter(|feed| self.feeds[feed.index()].is_live).collect();
        let source_of = |feed: FeedSlot| self.sources.expected_source(feed);
        let mut sessions = 0;
        for (index, feed) in live.iter().enumerate() {
            let earlier = &live[..index];
            let source = source_of(*feed);
            let reported = source
                .and_then(|source| self.sources.source(source))
                .and_then(|source| source.counts.sessions(now.wall_micros));
            sessions += match reported {
                Some(_) if earlier.iter().any(|other| source_of(*other) == source) => 0,
                Some(reported) => reported,
                None => u64::from(!earlier.iter().any(|other| self.sources.is_one_server(*feed, *other))),
            };
        }
        sessions
    }

    /// Whether [`Ledger::drain`] would return something that has to be persisted, or exposed.
    pub fn has_changed(&self) -> bool {
        matches!(self.start, Start::Over)
            && (self.book.has_changed()
                || self.rules != self.acknowledged_rules
                || self.feeds.iter().any(|feed| feed.exposed.is_set() || feed.persisted.is_set())
                || self.sources.has_changed()
                || self.sources.iter().any(|(_, source)| source.counts.has_changed()))
    }

    /// Returns what changed and is not acknowledged, as new values. While a process without a past waits for its feeds'
    /// first snapshots, nothing is among it: series and what they were derived from are persisted together or not at all.
    pub fn drain(&mut self, now: Moment) -> Changes {
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
        let memory = if self.is_persisted { self.collect() } else { Records::default() };
        Changes {
            sequence: self.sequence,
            skills: self.book.collect(),
            last_listed: self.book.take_listed(),
            feeds,
            anomalies: self.book.collect_anomalies(),
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
        self.book.acknowledge();
        for feed in &mut self.feeds {
            feed.exposed.acknowledge();
            feed.persisted.acknowledge();
        }
        if self.is_persisted {
            self.sources.acknowledge();
            for (_, source) in self.sources.iter_mut() {
                source.counts.acknowledge();
            }
        }
    }

    /// The changes with this sequence number are exposed, although they could not be persisted.
    pub fn note_exposed(&mut self, sequence: u64) {
        if sequence == self.sequence {
            self.book.note_exposed();
        }
    }

    /// When skills were last listed, since the last call or [`Ledger::drain`]. It moves with every snapshot, and needs not
    /// be persisted before it is exposed.
    pub fn take_last_listed(&mut self) -> Vec<(SkillIndex, i64)> {
        if matches!(self.start, Start::Over) { self.book.take_listed() } else { Vec::new() }
    }

    pub(super) fn update_start(&mut self, now: Moment) {
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
            let source = self.sources.expected_source(*feed).and_then(|source| self.sources.source(source));
            !state.has_begun
                || self.sources.awaits_rows(*feed)
                || source.is_some_and(|source| source.counts.detail.is_awaited())
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
            _ if total > 0.0 => Some(completed / total),
            _ => Some(last),
        };
        let series = self.book.place(name, &self.limits, notices);
        self.book.set_rate(series, rate);
    }
}
