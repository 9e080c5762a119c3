//! Snapshots: a pending feed is bound, the active one moves the counters, the others stand by.

use super::feed_state::{Binding, Pending, Streak};
use super::{Counts, Doubt, Observation, Outcome, SourceEvent, Sources};
use crate::ledger::continuity::{Continuity, Room};
use crate::ledger::evidence::Listings;
use crate::ledger::slots::{FeedSlot, SourceId};

impl<C: Counts> Sources<C> {
    /// Takes a snapshot of a live feed.
    pub fn observe(&mut self, feed: FeedSlot, seen: &Observation<'_>, wall_micros: i64) -> Outcome {
        self.wall_micros = wall_micros;
        self.feed_mut(feed).receive(seen);
        self.compare_timestamps(feed, seen);
        self.bind_and_step(feed, seen, false)
    }

    /// Takes the last snapshot of a pending feed once more, whose connection is about to end: it is bound by what is known.
    pub fn observe_last(&mut self, feed: FeedSlot, seen: &Observation<'_>, wall_micros: i64) -> Outcome {
        self.wall_micros = wall_micros;
        if !matches!(self.feed(feed).binding, Binding::Pending(_)) || self.is_echoed(feed) {
            return Outcome::Pending;
        }
        self.bind_and_step(feed, seen, true)
    }

    /// Whether another live feed lists what this one does: the two have shared a timestamp, so that the other one speaks for
    /// both.
    fn is_echoed(&self, feed: FeedSlot) -> bool {
        self.pairs.of(feed).any(|(other, pair)| {
            let (this, other) = (self.feed(feed), self.feed(other));
            let lists_the_same = other.entry.filter.is_none() || other.entry.filter == this.entry.filter;
            pair.timestamps > 0 && other.is_live && lists_the_same
        })
    }

    fn bind_and_step(&mut self, feed: FeedSlot, seen: &Observation<'_>, is_last: bool) -> Outcome {
        self.steps.clear();
        let source = match self.source_of(feed) {
            Some(source) => source,
            None if seen.listings.is_empty() && seen.anomalies.is_empty() => {
                if seen.room == Room::Enough {
                    self.feed_mut(feed).observe_next();
                }
                return Outcome::Pending;
            }
            None => {
                let recent = &self.feed(feed).recent;
                let before = recent.len().checked_sub(2).and_then(|index| recent[index].stamp);
                // A server can send one round more than once.
                let is_repeated = seen.stamp.is_some() && before == seen.stamp;
                let pending = match self.feed(feed).binding {
                    Binding::Pending(pending) => {
                        let rounds = pending.rounds + u32::from(!is_repeated);
                        let awaits_others = self.awaits_others(feed, seen.now, pending.since);
                        Pending { rounds, awaits_others, ..pending }
                    }
                    Binding::Unbound | Binding::Bound(_) => {
                        let awaits_others = self.awaits_others(feed, seen.now, seen.now);
                        Pending { rounds: 1, since: seen.now, awaits_others }
                    }
                };
                self.feed_mut(feed).binding = Binding::Pending(pending);
                let Some(source) = self.choose_source(feed, seen, pending, is_last) else { return Outcome::Pending };
                self.bind(feed, source, &seen.listings);
                source
            }
        };
        if !is_last {
            self.join_if_same(feed, &seen.listings);
        }
        let source = self.source_of(feed).unwrap_or(source);
        self.step(feed, source, seen)
    }

    /// Decides who moves the counters, and moves them.
    pub(super) fn step(&mut self, feed: FeedSlot, source: SourceId, seen: &Observation<'_>) -> Outcome {
        let filter = self.feed(feed).entry.filter.clone();
        let Some(known) = self.sources.get(&source) else { return Outcome::Pending };
        let is_alive = |active: FeedSlot| {
            active != feed && self.source_of(active) == Some(source) && self.feed(active).is_delivering(seen.now)
        };
        let active = known.active_for(None).filter(|active| is_alive(*active));
        let active = active.or_else(|| known.active_for(filter.as_deref()).filter(|active| is_alive(*active)));
        if let Some(active) = active {
            return self.stand_by(feed, active, source, seen);
        }
        if let Some(known) = self.sources.get_mut(&source) {
            known.set_active(filter.as_deref(), feed);
        }
        self.apply(feed, source, seen, false)
    }

    /// Compares a feed on standby with the active one.
    fn stand_by(&mut self, feed: FeedSlot, active: FeedSlot, source: SourceId, seen: &Observation<'_>) -> Outcome {
        let now = &seen.listings;
        let is_one_server = self.is_one_server(feed, active);
        if is_one_server || !self.differs(feed, active, source, seen) {
            self.agree(feed, source, now);
            self.feed_mut(feed).differing = None;
            // The lists of one server are the same.
            return Outcome::Standby { source, agrees: !is_one_server };
        }
        if Streak::extend(&mut self.feed_mut(feed).differing, seen.now) {
            return self.fork(feed, source, seen);
        }
        Outcome::Standby { source, agrees: false }
    }

    /// Judges the snapshot of an active feed, and counts it.
    pub(super) fn apply(&mut self, feed: FeedSlot, source: SourceId, seen: &Observation<'_>, is_fork: bool) -> Outcome {
        let now = &*seen.listings;
        let Some(known) = self.sources.get(&source) else { return Outcome::Pending };
        if known.counts.is_read() && !is_fork {
            let judged = known.numbers.judge(now, seen.room, || self.strength(feed, source, seen));
            if judged.continuity != Continuity::Another {
                self.feed_mut(feed).differing = None;
            } else if Streak::extend(&mut self.feed_mut(feed).differing, seen.now) {
                // The rows are of a database that this feed has left.
                self.feed_mut(feed).differing = None;
                return self.replace_source(feed, source, seen);
            }
            return Outcome::Read { source };
        }
        let took_over = known.counted_by.is_some_and(|other| other != feed) && !is_fork;
        if took_over && self.is_behind(feed, source, now) {
            if !Streak::extend(&mut self.feed_mut(feed).behind, seen.now) {
                return Outcome::Behind { source };
            }
            self.events.push(SourceEvent::Undecided { feed, doubt: Doubt::Behind });
        }
        self.feed_mut(feed).behind = None;
        let Some(known) = self.sources.get(&source) else { return Outcome::Pending };
        let continuity = if is_fork {
            let is_contradicted = known.numbers.is_contradicted(now, Room::Unknown);
            let continuity = if is_contradicted { Continuity::Damaged } else { Continuity::Follows };
            self.advance(feed, source, seen, continuity);
            continuity
        } else {
            let judged = known.numbers.judge(now, seen.room, || self.strength(feed, source, seen));
            if judged.continuity == Continuity::Another {
                return self.replace_source(feed, source, seen);
            }
            self.accept(feed, source, seen, judged);
            judged.continuity
        };
        let Some(known) = self.sources.get_mut(&source) else { return Outcome::Pending };
        let beginning = (!std::mem::replace(&mut known.has_begun, true)).then_some(known.beginning);
        if known.set_counted_by(feed) {
            known.counts.mark_changed();
        }
        Outcome::Counted { source, continuity, beginning }
    }

    /// Whether a feed that takes over, and that has itself not fallen, lists no more than is remembered and less somewhere.
    fn is_behind(&self, feed: FeedSlot, source: SourceId, now: &Listings) -> bool {
        let Some(own) = self.feed(feed).previous() else { return false };
        let numbers = &self.sources[&source].numbers;
        let remembered = |name: &str| numbers.skill(name).map(|skill| skill.remembered);
        let mut is_less = false;
        for (name, totals) in now.iter() {
            let Some(remembered) = remembered(name) else { continue };
            if !totals.precedes(&remembered) {
                return false;
            }
            is_less |= !totals.is_same(&remembered);
            if own.get(name).is_some_and(|before| !before.precedes(totals)) {
                return false;
            }
        }
        is_less
    }
}
