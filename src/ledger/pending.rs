//! Streamed events and the increases of snapshots, matched with each other.
//!
//! Invariant: once a skill is listed, only increases move its counters, and each increase moves them exactly once, so that a lost,
//! late or repeated event can shift a count to the phase `unknown` and never add one. An event lends an increase its phase and
//! its duration; it is never a count of its own.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use super::arithmetic::Seconds;
use super::limits::{COUNT_MAX, Limits, OVERFLOW};
use super::records::{PendingEventRecord, PendingIncreaseRecord, PendingRecord};
use super::series::{EXEMPLAR_CHARS_MAX, Exemplar, RuleCounters, SkillIndex};
use super::series_table::{SeriesTable, UNKNOWN_PHASE};

/// How long an increase waits for its event, and an event for its increase.
pub(super) const WAIT: Duration = Duration::from_secs(5);

/// Events of one skill that wait. Beyond, the oldest are dropped as late: a skill that is streamed and not listed must not
/// take the room of those that are.
const EVENTS_PER_SKILL_MAX: usize = 256;

/// Increases of one skill that wait. Beyond, an increase joins the latest and waits as long as that.
const INCREASES_PER_SKILL_MAX: usize = 64;

/// Invocations that a snapshot proved.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Increase {
    pub completed: u64,
    pub abandoned: u64,
    /// Seconds of the completed ones; `None` where they cannot be told.
    pub durations: Option<Seconds>,
    /// Whether these happened before the feed was watched: in a series that was already shown they are a spike.
    pub history: bool,
}

impl Increase {
    fn side(&mut self, completed: bool) -> &mut u64 {
        if completed { &mut self.completed } else { &mut self.abandoned }
    }

    /// Takes one invocation out, which `event` accounts for, and returns the duration to observe for it. An event lends
    /// its phase to any invocation, but its duration only where the sum of the completed ones has room for it: of an event
    /// that is late, or that stands in for a lost one, the sum tells better. History has no sum to check it against, and a
    /// later increase may well bring the event's own duration.
    fn take(&mut self, event: StreamedInvocation<&str>) -> Option<f64> {
        *self.side(event.completed) -= 1;
        let left = match (event.completed, self.durations) {
            (true, Some(left)) => left,
            (true, None) if self.history => return None,
            _ => return event.duration_seconds,
        };
        let after = left.less(event.duration_seconds.unwrap_or(0.0));
        if self.completed == 0 && !after.is_zero() {
            return Some(left.snapped()).filter(|_| !left.is_zero() && !left.fell());
        }
        if after.fell() {
            return None;
        }
        self.durations = Some(after);
        event.duration_seconds
    }

    /// Adds another increase of the same skill.
    fn join(&mut self, other: &Increase) {
        self.completed += other.completed;
        self.abandoned += other.abandoned;
        self.durations = self.durations.zip(other.durations).map(|(a, b)| a.plus(b));
    }

    fn is_spent(&self) -> bool {
        self.completed == 0 && self.abandoned == 0
    }
}

/// One invocation that a feed streamed.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct StreamedInvocation<P = Arc<str>> {
    pub workflow_phase: Option<P>,
    pub completed: bool,
    pub duration_seconds: Option<f64>,
    /// Worth an exemplar. It is not kept over restarts.
    pub session_id: Option<P>,
}

impl StreamedInvocation<&str> {
    /// The same, to wait.
    pub fn to_owned(self) -> StreamedInvocation {
        StreamedInvocation {
            workflow_phase: self.workflow_phase.map(Into::into),
            completed: self.completed,
            duration_seconds: self.duration_seconds,
            session_id: self.session_id.map(Into::into),
        }
    }
}

impl StreamedInvocation {
    /// The same, to be counted.
    pub fn borrowed(&self) -> StreamedInvocation<&str> {
        StreamedInvocation {
            workflow_phase: self.workflow_phase.as_deref(),
            completed: self.completed,
            duration_seconds: self.duration_seconds,
            session_id: self.session_id.as_deref(),
        }
    }
}

/// What is needed to count.
pub(super) struct Counting<'l> {
    pub series_table: &'l mut SeriesTable,
    pub rules: &'l mut RuleCounters,
    pub limits: &'l Limits,
    pub now_micros: i64,
}

impl Counting<'_> {
    /// Counts one invocation as its event tells it.
    pub fn event(&mut self, series: SkillIndex, event: StreamedInvocation<&str>) {
        self.invocation(series, event, Some(self.now_micros));
    }

    /// Counts one invocation; series that come into being with it are born at `born_micros`.
    pub fn invocation(&mut self, series: SkillIndex, event: StreamedInvocation<&str>, born_micros: Option<i64>) {
        let phase = event.workflow_phase.unwrap_or(UNKNOWN_PHASE);
        let phase = self.series_table.phase(series, phase, born_micros, self.limits);
        let is_overflow = *phase.workflow_phase == *OVERFLOW;
        *(if event.completed { &mut phase.completed } else { &mut phase.abandoned }) += 1;
        if let Some(seconds) = event.duration_seconds {
            phase.durations.observe(seconds, 1, seconds);
            add(&mut self.rules.exact_observations, 1);
        }
        if let Some(session_id) = event.session_id {
            note_exemplar(&mut phase.exemplar, session_id, &event, self.now_micros);
        }
        self.note_overflow(series, is_overflow, 1);
    }

    /// Counts an increase of which no phase is known.
    pub fn increase(&mut self, series: SkillIndex, increase: &Increase) {
        let invocations = increase.completed + increase.abandoned;
        if invocations == 0 {
            return;
        }
        if increase.history && self.series_table.has_shown(series, UNKNOWN_PHASE) {
            add(&mut self.rules.backfilled_invocations, invocations);
        }
        let born_micros = (!increase.history).then_some(self.now_micros);
        let phase = self.series_table.phase(series, UNKNOWN_PHASE, born_micros, self.limits);
        phase.completed += increase.completed;
        phase.abandoned += increase.abandoned;
        match increase.durations {
            Some(sum) if increase.completed > 0 && !sum.is_zero() && !sum.fell() => {
                if increase.completed == 1 {
                    let seconds = sum.snapped();
                    phase.durations.observe(seconds, 1, seconds);
                    add(&mut self.rules.exact_observations, 1);
                } else {
                    let times = increase.completed as f64;
                    let mean = Seconds { value: sum.value / times, error: sum.error / times };
                    phase.durations.observe(mean.snapped(), increase.completed, sum.value);
                    add(&mut self.rules.estimated_observations, increase.completed);
                }
            }
            _ => {}
        }
        self.note_overflow(series, false, invocations);
    }

    fn note_overflow(&mut self, series: SkillIndex, is_phase: bool, invocations: u64) {
        if is_phase || self.series_table.is_overflow(series) {
            add(&mut self.rules.overflowed_invocations, invocations);
        }
    }
}

/// Adds to a counter over all series, which stays within what a state accepts.
pub(super) fn add(counter: &mut u64, more: u64) {
    *counter = counter.saturating_add(more).min(COUNT_MAX);
}

/// Whether a session can be that of an exemplar. One that could cost somebody the whole scrape cannot: Python's official parser
/// loses count of quotes in exemplars, and Prometheus refuses a scrape with a NUL.
fn is_exposable(session_id: &str) -> bool {
    // Each event has one: those of printable ASCII are checked as bytes, many at a time.
    let is_plain = |byte: u8| matches!(byte, b' '..=b'~') & (byte != b'"');
    let (characters, is_safe) = if session_id.bytes().fold(true, |all, byte| all & is_plain(byte)) {
        (session_id.len(), true)
    } else {
        let is_unsafe = |character: char| character == '"' || character.is_control();
        (session_id.chars().count(), !session_id.chars().any(is_unsafe))
    };
    is_safe && (1..=EXEMPLAR_CHARS_MAX).contains(&characters)
}

/// Each replaces the one before it. Most are of the same session, whose identifier is not copied again.
fn note_exemplar(
    exemplar: &mut Option<Exemplar>,
    session_id: &str,
    event: &StreamedInvocation<&str>,
    wall_micros: i64,
) {
    let session_id = match exemplar {
        Some(Exemplar { session_id: known, .. }) if **known == *session_id => Arc::clone(known),
        _ if is_exposable(session_id) => session_id.into(),
        _ => return,
    };
    let &StreamedInvocation { completed, duration_seconds, .. } = event;
    *exemplar = Some(Exemplar { session_id, completed, duration_seconds, wall_micros });
}

/// What waits, for one skill of one feed.
///
/// Invariant: never do an event and an increase of the same `completed` wait at the same time.
#[derive(Debug, Clone, Default)]
pub(super) struct Pending {
    /// Events counted at once, before the skill was first listed: the next increases hold them already.
    credit: Credit,
    events: VecDeque<PendingEvent>,
    increases: VecDeque<PendingIncrease>,
}

#[derive(Debug, Clone)]
struct Credit {
    completed: u64,
    abandoned: u64,
    /// Durations of the completed ones, in seconds; `None` once it is unknown which of them increases have taken.
    duration_sum: Option<f64>,
}

impl Default for Credit {
    fn default() -> Self {
        Self { completed: 0, abandoned: 0, duration_sum: Some(0.0) }
    }
}

#[derive(Debug, Clone)]
struct PendingEvent {
    event: StreamedInvocation,
    since: Duration,
    /// When a snapshot first listed the skill while this waited.
    listed_since: Option<Duration>,
}

#[derive(Debug, Clone)]
struct PendingIncrease {
    increase: Increase,
    since: Duration,
}

/// What became of an increase.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Offered {
    /// Invocations that events had counted already.
    pub credited: u64,
    /// Events that it took.
    pub events: usize,
    /// Whether a new wait began.
    pub waits: bool,
}

impl Pending {
    /// Notes an event that was counted at once.
    pub fn give_credit(&mut self, event: StreamedInvocation<&str>) {
        if event.completed {
            self.credit.completed += 1;
            let seconds = event.duration_seconds.unwrap_or(0.0);
            self.credit.duration_sum = self.credit.duration_sum.map(|sum| (sum + seconds).min(f64::MAX));
        } else {
            self.credit.abandoned += 1;
        }
    }

    /// An event of a skill that snapshots list: counted if an increase waits for it. Otherwise it has to
    /// wait itself, and this says so.
    pub fn offer_event(
        &mut self,
        event: StreamedInvocation<&str>,
        series: SkillIndex,
        counting: &mut Counting<'_>,
    ) -> bool {
        let Some(position) = self.increases.iter_mut().position(|waiting| *waiting.increase.side(event.completed) > 0)
        else {
            return true;
        };
        let duration_seconds = self.increases[position].increase.take(event);
        counting.event(series, StreamedInvocation { duration_seconds, ..event });
        self.increases.retain(|waiting| !waiting.increase.is_spent());
        false
    }

    /// Lets an event wait. How many gave way to it: of one skill only the latest wait.
    pub fn add_event(&mut self, event: StreamedInvocation, now: Duration) -> usize {
        self.events.push_back(PendingEvent { event, since: now, listed_since: None });
        let beyond = self.events.len().saturating_sub(EVENTS_PER_SKILL_MAX);
        self.events.drain(..beyond);
        beyond
    }

    /// Drops the events that have waited for `patience`. How many.
    pub fn drop_old_events(&mut self, patience: Duration, now: Duration) -> usize {
        let before = self.events.len();
        self.events.retain(|waiting| now.saturating_sub(waiting.since) < patience);
        before - self.events.len()
    }

    /// An increase: what was credited is in the counters already, what waiting events account for is counted as they tell, and
    /// the rest waits for its events if `may_wait`.
    pub fn offer_increase(
        &mut self,
        mut increase: Increase,
        may_wait: bool,
        series: SkillIndex,
        counting: &mut Counting<'_>,
        now: Duration,
    ) -> Offered {
        let all = increase.completed + increase.abandoned;
        self.credit.settle(&mut increase);
        let credited = all - increase.completed - increase.abandoned;
        let before = self.events.len();
        self.events.retain(|waiting| {
            let event = waiting.event.borrowed();
            if *increase.side(event.completed) == 0 {
                return true;
            }
            let duration_seconds = increase.take(event);
            counting.event(series, StreamedInvocation { duration_seconds, ..event });
            false
        });
        let events = before - self.events.len();
        if !may_wait || increase.is_spent() {
            counting.increase(series, &increase);
            return Offered { credited, events, waits: false };
        }
        let is_full = self.increases.len() >= INCREASES_PER_SKILL_MAX;
        match self.increases.back_mut() {
            Some(latest) if is_full => {
                latest.increase.join(&increase);
                Offered { credited, events, waits: false }
            }
            _ => {
                self.increases.push_back(PendingIncrease { increase, since: now });
                Offered { credited, events, waits: true }
            }
        }
    }

    /// Takes every event out.
    pub fn take_events(&mut self) -> Vec<StreamedInvocation> {
        self.events.drain(..).map(|waiting| waiting.event).collect()
    }

    /// Ends every wait, because others tell the counts from now on: increases count under the phase `unknown`, events and
    /// credits are void. How many events there were.
    pub fn end(&mut self, series: SkillIndex, counting: &mut Counting<'_>) -> usize {
        for waiting in self.increases.drain(..) {
            counting.increase(series, &waiting.increase);
        }
        self.credit = Credit::default();
        let events = self.events.len();
        self.events.clear();
        events
    }

    /// Counts the increases that have waited long enough, under the phase `unknown`.
    pub fn settle_increases(&mut self, series: SkillIndex, counting: &mut Counting<'_>, now: Duration) {
        while let Some(waiting) = self.increases.front()
            && now.saturating_sub(waiting.since) >= WAIT
        {
            counting.increase(series, &waiting.increase);
            self.increases.pop_front();
        }
    }

    /// Drops the events that have waited through snapshots for long enough. A snapshot lists the skill `now`; its increase was
    /// offered before. How many were dropped.
    pub fn drop_late_events(&mut self, now: Duration) -> usize {
        let before = self.events.len();
        self.events.retain_mut(|waiting| now.saturating_sub(*waiting.listed_since.get_or_insert(now)) < WAIT);
        before - self.events.len()
    }
}

impl Pending {
    /// What events counted before the first listing is void: the skill fell, and what is listed may not hold it.
    /// Returns whether there was any.
    pub fn void_credit(&mut self) -> bool {
        let had_any = self.credit.completed > 0 || self.credit.abandoned > 0;
        self.credit = Credit::default();
        had_any
    }

    /// Adds what another source waited with, which turned out to be the same. Returns how many increases were added.
    pub fn join(&mut self, other: Self) -> usize {
        let Credit { completed, abandoned, duration_sum } = other.credit;
        self.credit.completed += completed;
        self.credit.abandoned += abandoned;
        self.credit.duration_sum = self.credit.duration_sum.zip(duration_sum).map(|(a, b)| (a + b).min(f64::MAX));
        self.events.extend(other.events);
        let beyond = self.events.len().saturating_sub(EVENTS_PER_SKILL_MAX);
        self.events.drain(..beyond);
        let before = self.increases.len();
        for waiting in other.increases {
            let is_full = self.increases.len() >= INCREASES_PER_SKILL_MAX;
            match self.increases.back_mut() {
                Some(latest) if is_full => latest.increase.join(&waiting.increase),
                _ => self.increases.push_back(waiting),
            }
        }
        self.increases.len() - before
    }

    /// What a source of its own waits with that has diverged from this one: increases and events are of the common past
    /// and counted there.
    pub fn fork(&self) -> Self {
        Self { credit: self.credit.clone(), ..Self::default() }
    }

    /// Invocations that wait to be counted.
    pub fn invocations(&self) -> u64 {
        self.increases.iter().map(|waiting| waiting.increase.completed + waiting.increase.abandoned).sum()
    }

    /// Events counted before the first listing, completed and abandoned, and seconds of the completed ones.
    pub fn credit(&self) -> ((u64, u64), Option<f64>) {
        ((self.credit.completed, self.credit.abandoned), self.credit.duration_sum)
    }

    /// What waits, to be kept.
    pub fn row(&self) -> PendingRecord {
        let event = |PendingEvent { event, .. }: &PendingEvent| PendingEventRecord {
            workflow_phase: event.workflow_phase.clone(),
            completed: event.completed,
            duration_seconds: event.duration_seconds,
        };
        let increase = |PendingIncrease { increase, .. }: &PendingIncrease| PendingIncreaseRecord {
            completed: increase.completed,
            abandoned: increase.abandoned,
            durations: increase.durations.map(|seconds| (seconds.value, seconds.error)),
            history: increase.history,
        };
        PendingRecord {
            events: self.events.iter().map(event).collect(),
            increases: self.increases.iter().map(increase).collect(),
        }
    }

    /// What was kept; the increases wait from `now` on.
    pub fn restore(credit: (u64, u64), duration_sum: Option<f64>, row: PendingRecord, now: Duration) -> Self {
        let event = |row: PendingEventRecord| PendingEvent {
            event: StreamedInvocation {
                workflow_phase: row.workflow_phase,
                completed: row.completed,
                duration_seconds: row.duration_seconds,
                session_id: None,
            },
            since: now,
            listed_since: None,
        };
        let increase = |row: PendingIncreaseRecord| PendingIncrease {
            increase: Increase {
                completed: row.completed,
                abandoned: row.abandoned,
                durations: row.durations.map(|(value, error)| Seconds { value, error }),
                history: row.history,
            },
            since: now,
        };
        Self {
            credit: Credit { completed: credit.0, abandoned: credit.1, duration_sum },
            events: row.events.into_iter().map(event).collect(),
            increases: row.increases.into_iter().map(increase).collect(),
        }
    }

    pub fn events(&self) -> usize {
        self.events.len()
    }

    pub fn increases(&self) -> usize {
        self.increases.len()
    }
}

impl Credit {
    fn settle(&mut self, increase: &mut Increase) {
        let abandoned = self.abandoned.min(increase.abandoned);
        self.abandoned -= abandoned;
        increase.abandoned -= abandoned;

        let completed = self.completed.min(increase.completed);
        if completed == 0 {
            return;
        }
        self.completed -= completed;
        increase.completed -= completed;
        if self.completed == 0 {
            // The increase holds every credited duration, and what is left of the sum belongs to what is left of the increase.
            let credited = self.duration_sum.replace(0.0);
            increase.durations = increase.durations.zip(credited).map(|(durations, credited)| durations.less(credited));
        } else {
            // The increase holds some of them and nothing else.
            let taken = increase.durations.take().map(|durations| durations.value);
            self.duration_sum = self.duration_sum.zip(taken).map(|(sum, taken)| (sum - taken).max(0.0));
        }
    }
}
