//! What of a ledger is persisted, and how it is made of that again.
//!
//! [`Ledger::restore`] validates every record and builds once; what it accepts includes all that [`Ledger::drain`] can
//! return. A disk that flips a bit leaves a database that is intact and holds nonsense: numbers that would overflow, or
//! never stop being wrong.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use hashbrown::{HashMap, HashSet};
use thiserror::Error;

use crate::protocol::EventKind;

use super::binding::{Beginning, FeedParts, OwnParts, Parts, ROUNDS, Source, SourceParts, Sources};
use super::continuity::{DamageState, ListingHistory, SkillNumbers, SourceNumbers};
use super::database_mode::DatabaseMode;
use super::dedup::EventIds;
use super::dirty::Persistence;
use super::evidence::Totals;
use super::feed::{Feed, HELD_EVENTS_MAX};
use super::ledger::{Ledger, LedgerState, Start};
use super::limits::{COUNT_MAX, Limits, SERIES_COUNT_MAX};
use super::now::Now;
use super::pending::Pending;
use super::records::{
    DamageRecord, DatabaseRecord, FeedRecord, FingerprintRecord, FingerprintsKept, HistoryChange, HistoryRecord,
    PendingRecord, Records, SessionRecord, SkillRowsRecord, SourceRecord, SourceSkillRecord, Table, UncoveredRows,
    unless_default,
};
use super::series::{Changes, FeedCounters, RuleCounters, SkillRow, SkillSeries};
use super::series_table::SeriesTable;
use super::sessions::Sessions;
use super::skill_table::SkillTable;
use super::slots::{FeedSlot, SourceId};
use super::source::{Gauge, SkillCounts, SourceCounts, Unread};

/// Years beyond 30,000 in either direction: no server's time, and no overflow when times are compared.
const MICROS_MAX: i64 = 1_000_000_000_000_000_000;

/// Records that no ledger can come to by itself, with the first that is wrong.
///
/// ```
/// use session_buddy_bridge::{Corruption, InvalidState, StoreError};
///
/// /// The records at fault, if the file itself can be read.
/// fn invalid(error: &StoreError) -> Option<&InvalidState> {
///     match error {
///         StoreError::Impossible { problem, .. } => Some(problem),
///         StoreError::Corrupt { problem: Corruption::Records(problem), .. } => Some(problem),
///         _ => None,
///     }
/// }
/// assert_eq!(invalid(&StoreError::Corrupt { path: "state.db".into(), problem: Corruption::Header }), None);
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{0}")]
pub struct InvalidState(String);

impl LedgerState {
    /// The same, if a ledger can be restored of it.
    ///
    /// # Errors
    /// See [`Ledger::restore`].
    pub fn validated(self) -> Result<Self, InvalidState> {
        Ledger::restore(Limits::default(), self.clone(), Now::default()).map(|_| self)
    }
}

impl Ledger {
    /// What changed beside the series and is not acknowledged.
    pub(super) fn collect(&mut self) -> Records {
        let mut records = Records::default();
        let feeds = &mut self.feeds;
        self.sources.collect(&mut records, |slot, is_changed| {
            let feed = feeds.get_mut(slot.index())?;
            let has_counted = feed.persisted.collect();
            (is_changed || has_counted).then(|| OwnParts {
                counters: feed.counters.clone(),
                held_events: feed.held_events().to_vec(),
                sessions_reported_micros: feed.sessions.reported_micros(),
                sessions_count: feed.sessions.count(),
            })
        });
        for (index, feed) in self.feeds.iter_mut().enumerate() {
            let slot = FeedSlot::new(index);
            let (cleared, sessions) = feed.sessions.collect();
            if cleared {
                records.sessions_cleared.push(slot);
            }
            records.sessions.extend(sessions.into_iter().map(|(session, record)| (slot, session, record)));
        }
        for (id, source) in self.sources.iter_mut() {
            collect_source(id, source, &mut records);
        }
        records
    }

    /// Nothing is persistent any more: what [`Ledger::drain`] returns next is everything.
    pub fn mark_all(&mut self) {
        self.series_table.mark_all();
        for feed in &mut self.feeds {
            feed.persisted.mark();
            feed.sessions.mark_all();
        }
        self.sources.mark_all();
        for (_, Source { numbers, counts, .. }) in self.sources.iter_mut() {
            numbers.mark_all_histories();
            counts.mark_all(numbers.iter().map(|(name, _)| name));
        }
    }

    /// The ledger that `whole` was, or an empty one, which from now on collects in [`super::Changes::memory`] what has to be
    /// persisted. Its feeds are configured again by [`Ledger::add_feed`].
    ///
    /// # Errors
    /// Records that do not fit together or are impossible, with the first that is wrong.
    pub fn restore(limits: Limits, whole: LedgerState, now: Now) -> Result<Self, InvalidState> {
        let LedgerState { skills, rules, memory } = whole;
        validate(&skills, rules, &memory)?;
        let mut ledger = Self::new(limits);
        ledger.persistence = Persistence::StateFile;
        ledger.acknowledged_rules = rules;
        ledger.rules = rules;
        if !skills.is_empty() || !memory.feeds.is_empty() {
            ledger.start = Start::Over;
        }
        let indices = skills.len();
        if skills.iter().map(|row| row.index.0 as usize).collect::<HashSet<_>>() != (0..indices).collect() {
            return Err(InvalidState(format!("the {indices} skills do not have the indices 0 to {indices}")));
        }
        ledger.series_table = SeriesTable::restore(skills);
        let (feeds, parts) = parts(memory, indices, now.elapsed)?;
        ledger.feeds = feeds;
        ledger.sources = Sources::from_parts(parts);
        ledger.sources.set_limits(limits);
        Ok(ledger)
    }
}

/// Adds what of a source changed and is not acknowledged.
fn collect_source(id: SourceId, source: &mut Source<SourceCounts>, records: &mut Records) {
    if !source.counts.has_changed() {
        return;
    }
    let (beginning, has_begun) = (source.beginning(), source.has_begun());
    let (counted_by, active_micros) = (source.counted_by(), source.active_micros());
    let Source { numbers, counts, .. } = source;
    // With whatever else of it: the time of the latest snapshot must not be older than the newest anomaly that is persisted,
    // or a list that was seen before a restart would look like one that may have hidden some.
    counts.changed.mark();
    counts.changed.collect();
    counts.persisted_micros = counts.previous_micros;
    records.sources.push(SourceRecord {
        id,
        is_observed: beginning == Beginning::Observed,
        has_begun,
        counted_by,
        active_micros,
        previous_was_complete: counts.previous_was_complete,
        previous_micros: counts.previous_micros,
        streams_invocations: counts.streams_invocations,
        first_event_id: counts.event_ids.first(),
        newest_forgotten_micros: counts.event_ids.newest_forgotten_micros(),
        unread: counts.unread.names().cloned().collect(),
        unread_overflowed: counts.unread.has_overflowed(),
    });
    let SourceCounts { skills, changed_skills, changed_histories, .. } = counts;
    for name in numbers.take_halved().into_iter().filter(|name| skills.contains(name)) {
        changed_histories.mark(name);
    }
    let skill = |name: &Arc<str>| Some(skill_record(id, name, skills.get(name)?, numbers.skill(name)));
    let changed = changed_skills.collect();
    // Not doubled again and again: there can be tens of thousands.
    records.skills.reserve_exact(changed.size_hint().0);
    records.skills.extend(changed.filter_map(skill));
    let history = |name: &Arc<str>| {
        let change = numbers.collect_history(name)?;
        Some(HistoryRecord { source: id, skill_name: name.clone(), change })
    };
    records.histories.extend(changed_histories.collect().filter_map(history));
    if counts.changed_damages.collect() {
        records.damages_cleared.push(id);
        for (damage, state) in numbers.damages().iter().enumerate() {
            let record = |(name, totals): (&Arc<str>, &Totals)| DamageRecord {
                source: id,
                damage,
                skill_name: name.clone(),
                totals: *totals,
            };
            records.damages.extend(state.iter().map(record));
        }
    }
    records.event_ids.extend(counts.event_ids.collect(id));
    records.tallies.extend(counts.anomalies.collect_tallies(id));
    records.anomalies.extend(counts.anomalies.collect_keys(id));
    counts.detail.collect(id, &mut records.databases, &mut records.fingerprints);
}

fn skill_record(
    source: SourceId,
    name: &Arc<str>,
    skill: &SkillCounts,
    numbers: Option<&SkillNumbers>,
) -> SourceSkillRecord {
    let (credit, credit_duration_sum) = skill.pending.credit();
    SourceSkillRecord {
        source,
        skill_name: name.clone(),
        series: skill.series,
        remembered: numbers.map(|numbers| numbers.remembered),
        counted: numbers.map_or(0, |numbers| numbers.counted.min(COUNT_MAX)),
        listed: skill.listed,
        gauge: skill.gauge.map(|gauge| (gauge.total, gauge.completed, gauge.rate_percent)),
        streamed_rate: skill.streamed_rate,
        credit,
        credit_duration_sum,
        pending: unless_default(skill.pending.row()),
        row_seconds: skill.row_seconds,
        rows: unless_default(SkillRowsRecord {
            counted: skill.rows_counted,
            uncounted: skill.rows_uncounted,
            are_history: skill.rows_are_history,
            uncovered: skill.uncovered,
            uncovered_rows: skill.uncovered_rows.clone(),
        }),
        disagrees: skill.disagrees,
    }
}

/// Returns whether every value of a difference or of the whole is one that a ledger can come to by itself.
///
/// # Errors
/// The first that is not.
fn validate(skills: &[SkillRow], rules: RuleCounters, memory: &Records) -> Result<(), InvalidState> {
    unless(rules.is_valid(), || "the counters of the rules are impossible".to_owned())?;
    for SkillRow { series, last_listed_micros, .. } in skills {
        let is_valid = series.is_valid() && is_time(*last_listed_micros);
        unless(is_valid, || format!("the series of {:?} are impossible", series.skill_name))?;
    }
    for record in &memory.feeds {
        unless(record.is_valid(), || format!("what is remembered of the feed {:?} is impossible", record.entry.name))?;
    }
    let agreed = memory.agreed.iter().map(|record| (&record.skill_name, &record.totals));
    let damages = memory.damages.iter().map(|record| (&record.skill_name, &record.totals));
    for (skill_name, totals) in agreed.chain(damages) {
        unless(totals.is_valid(), || format!("what is remembered of {skill_name:?} is impossible"))?;
    }
    for record in &memory.addresses {
        let are_valid = record.sources.iter().all(|source| source.is_valid());
        unless(are_valid, || format!("the sources of {} are impossible", record.address))?;
    }
    for record in &memory.sources {
        unless(record.is_valid(), || format!("the source {} is impossible", record.id.0))?;
    }
    for record in &memory.skills {
        unless(record.is_valid(), || format!("what is remembered of {:?} is impossible", record.skill_name))?;
    }
    for record in &memory.tallies {
        let counted = record.listed.max(record.streamed);
        // What is not exposed is a part of it, and is added to a series once it is.
        let is_valid = counted <= COUNT_MAX && record.hidden <= counted;
        unless(is_valid, || format!("the number of anomalies of {:?} is impossible", record.skill_name))?;
    }
    for (key, record) in &memory.anomalies {
        let is_valid = record
            .as_ref()
            .is_none_or(|record| record.multiplicity.max(record.rows) <= COUNT_MAX && is_time(record.seen_micros));
        unless(is_valid, || format!("an anomaly of {:?} is impossible", key.skill_name))?;
    }
    for record in &memory.event_ids {
        let is_valid = record.sequence <= COUNT_MAX && record.sent_micros.is_none_or(is_time);
        unless(is_valid, || format!("the event {:?} is impossible", record.id))?;
    }
    for (_, id, record) in &memory.sessions {
        let is_valid = record.is_none_or(|record| is_time(record.seen_micros));
        unless(is_valid, || format!("the session {id:?} is impossible"))?;
    }
    for record in &memory.databases {
        unless(record.is_valid(), || "where a database was read to is impossible".to_owned())?;
    }
    for record in &memory.fingerprints {
        unless(is_key(record.key), || "a row of a database that was read is impossible".to_owned())?;
    }
    Ok(())
}

impl Changes {
    /// Returns whether [`Ledger::restore`] accepts every value: a store does not write what it would refuse to read.
    ///
    /// # Errors
    /// The first value that it refuses.
    pub fn validate(&self) -> Result<(), InvalidState> {
        let last_listed = self.last_listed.iter().all(|(_, micros)| is_time(*micros));
        unless(last_listed, || "when a skill was last listed is impossible".to_owned())?;
        validate(&self.skills, self.rules, &self.memory)
    }
}

/// The records of each source, and those of feeds.
fn parts(memory: Records, indices: usize, now: Duration) -> Result<(Vec<Feed>, Parts<SourceCounts>), InvalidState> {
    let mut feeds = Vec::new();
    let mut parts =
        Parts { feeds: Vec::new(), sources: BTreeMap::new(), addresses: HashMap::new(), next: SourceId::FIRST };
    let mut records: Vec<FeedRecord> = memory.feeds;
    records.sort_unstable_by_key(|record| record.slot);
    let mut sessions: HashMap<FeedSlot, HashMap<Arc<str>, SessionRecord>> = HashMap::new();
    let exists = |feed: FeedSlot| {
        unless(feed.index() < records.len(), || format!("there is no feed with the slot {}", feed.index()))
    };
    memory.sources.iter().filter_map(|record| record.counted_by).try_for_each(exists)?;
    memory.event_ids.iter().map(|record| record.sender).try_for_each(exists)?;
    records.iter().flat_map(|record| &record.apart).copied().try_for_each(exists)?;
    for (feed, id, session) in memory.sessions {
        exists(feed)?;
        if let Some(session) = session {
            sessions.entry(feed).or_default().insert(id, session);
        }
    }
    for (index, record) in records.into_iter().enumerate() {
        let FeedRecord { slot, entry, is_configured, counters, source, heir_of, hold_rounds, is_observed, .. } = record;
        unless(slot.index() == index, || format!("the feed {:?} has another slot than its own", entry.name))?;
        let feed = FeedParts {
            entry,
            is_configured,
            former: source,
            heir_of,
            hold_rounds,
            is_observed,
            apart: record.apart,
            ..FeedParts::default()
        };
        parts.feeds.push(feed);
        let by_id = sessions.remove(&slot).unwrap_or_default();
        let sessions = Sessions::restore(record.sessions_reported_micros, record.sessions_count, by_id);
        feeds.push(Feed::restore(counters, source.is_some(), record.held_events, sessions));
    }
    for record in memory.agreed {
        let feed = parts.feeds.get_mut(record.feed.index());
        let feed =
            feed.ok_or_else(|| InvalidState(format!("there is no feed with the slot {}", record.feed.index())))?;
        feed.agreed.insert(record.skill_name, record.totals);
    }
    for record in memory.addresses {
        parts.addresses.insert(record.address, record.sources);
    }
    let mut sources: BTreeMap<SourceId, (SourceRecord, Records)> = BTreeMap::new();
    for record in memory.sources {
        sources.insert(record.id, (record, Records::default()));
    }
    fn of(
        sources: &mut BTreeMap<SourceId, (SourceRecord, Records)>,
        id: SourceId,
    ) -> Result<&mut Records, InvalidState> {
        sources
            .get_mut(&id)
            .map(|(_, records)| records)
            .ok_or_else(|| InvalidState(format!("there is no source {}", id.0)))
    }
    for record in memory.skills {
        let index = record.series.0;
        unless((index as usize) < indices, || {
            format!("{:?} has the index {index}, which no skill has", record.skill_name)
        })?;
        of(&mut sources, record.source)?.skills.push(record);
    }
    for record in memory.histories {
        of(&mut sources, record.source)?.histories.push(record);
    }
    for record in memory.damages {
        of(&mut sources, record.source)?.damages.push(record);
    }
    for record in memory.tallies {
        of(&mut sources, record.source)?.tallies.push(record);
    }
    for (key, record) in memory.anomalies {
        of(&mut sources, key.source)?.anomalies.push((key, record));
    }
    for record in memory.event_ids {
        of(&mut sources, record.source)?.event_ids.push(record);
    }
    for record in memory.databases {
        of(&mut sources, record.source)?.databases.push(record);
    }
    for record in memory.fingerprints {
        of(&mut sources, record.source)?.fingerprints.push(record);
    }
    for (id, (record, records)) in sources {
        parts.next = parts.next.max(id.next());
        parts.sources.insert(id, source(record, records, now)?);
    }
    // An identifier of a source that was forgotten is not given again.
    let mentioned = parts.feeds.iter().flat_map(|feed| feed.former.iter().chain(&feed.heir_of));
    let mentioned = mentioned.chain(parts.addresses.values().flatten()).copied().max();
    if let Some(mentioned) = mentioned {
        parts.next = parts.next.max(mentioned.next());
    }
    Ok((feeds, parts))
}

fn source(record: SourceRecord, records: Records, now: Duration) -> Result<SourceParts<SourceCounts>, InvalidState> {
    let mut histories: HashMap<Arc<str>, ListingHistory> = HashMap::new();
    for HistoryRecord { skill_name, change, .. } in records.histories {
        let history = match change {
            HistoryChange::Whole(words) => ListingHistory::decode(&words),
            HistoryChange::Pushed(_) => None,
        };
        let history =
            history.ok_or_else(|| InvalidState(format!("the listing history of {skill_name:?} is impossible")))?;
        histories.insert(skill_name, history);
    }
    let mut counts = SourceCounts::default();
    let mut numbers: SkillTable<SkillNumbers> = SkillTable::default();
    for skill in records.skills {
        let name = skill.skill_name.clone();
        if let Some(remembered) = skill.remembered {
            let history = histories.remove(&name).unwrap_or_default();
            numbers.insert(name.clone(), SkillNumbers { remembered, history, counted: skill.counted });
        }
        let skill = restore_skill(skill, now);
        counts.pending_events += skill.pending.events();
        let rows = (skill.rows_counted, skill.rows_uncounted);
        counts.has_unread_rows |= skill.rows_are_history || rows != ((0, 0), (0, 0));
        counts.pending_increases.extend(std::iter::repeat_n((now, name.clone()), skill.pending.increases()));
        counts.skills.insert(name, skill);
    }
    let mut damages: BTreeMap<usize, DamageState> = BTreeMap::new();
    for DamageRecord { damage, skill_name, totals, .. } in records.damages {
        damages.entry(damage).or_default().insert(skill_name, totals);
    }
    for ids in records.event_ids.windows(2) {
        let follows = ids[0].sequence.checked_add(1) == Some(ids[1].sequence);
        unless(follows, || format!("between the events {:?} and {:?} some are missing", ids[0].id, ids[1].id))?;
    }
    counts.event_ids = EventIds::restore(record.first_event_id, record.newest_forgotten_micros, records.event_ids);
    records.tallies.into_iter().for_each(|tally| counts.anomalies.restore_tally(tally));
    for (key, anomaly) in records.anomalies {
        if let Some(anomaly) = anomaly {
            counts.anomalies.restore_key(key, anomaly);
        }
    }
    if let Some(database) = records.databases.first() {
        counts.detail = DatabaseMode::restore(database, &records.fingerprints);
    }
    counts.previous_was_complete = record.previous_was_complete;
    counts.previous_micros = record.previous_micros;
    counts.persisted_micros = record.previous_micros;
    counts.streams_invocations = record.streams_invocations;
    counts.unread = Unread::restore(record.unread, record.unread_overflowed);
    Ok(SourceParts {
        numbers: SourceNumbers::restore(numbers, damages.into_values().collect()),
        counts,
        beginning: if record.is_observed { Beginning::Observed } else { Beginning::History },
        has_begun: record.has_begun,
        counted_by: record.counted_by.map(FeedSlot::index),
        active_micros: record.active_micros,
    })
}

fn restore_skill(record: SourceSkillRecord, now: Duration) -> SkillCounts {
    let pending = record.pending.map(|pending| *pending).unwrap_or_default();
    let SkillRowsRecord { counted, uncounted, are_history, uncovered, uncovered_rows } =
        record.rows.map(|rows| *rows).unwrap_or_default();
    SkillCounts {
        listed: record.listed,
        gauge: record.gauge.map(|(total, completed, rate_percent)| Gauge { total, completed, rate_percent }),
        streamed_rate: record.streamed_rate,
        pending: Pending::restore(record.credit, record.credit_duration_sum, pending, now),
        rows_counted: counted,
        rows_uncounted: uncounted,
        rows_are_history: are_history,
        uncovered,
        uncovered_rows,
        row_seconds: record.row_seconds,
        disagrees: record.disagrees,
        ..SkillCounts::new(record.series)
    }
}

impl SkillSeries {
    fn is_valid(&self) -> bool {
        let phases = self.phases.iter().all(|phase| {
            let counts = [phase.completed, phase.abandoned].into_iter().chain(phase.durations.buckets);
            are_counts(counts) && is_sum(phase.durations.sum) && phase.born_micros.is_none_or(is_time)
        });
        let are_created = self.anomalies.iter().all(|series| series.born_micros.is_none_or(is_time));
        let anomalies = are_counts(self.anomalies.iter().map(|series| series.count)) && are_created;
        let are_created = self.failures.iter().all(|series| series.born_micros.is_none_or(is_time));
        let failures = are_counts(self.failures.iter().map(|series| series.count)) && are_created;
        let rate_and_time = is_ratio(self.completion_rate) && self.last_invoked_micros.is_none_or(is_time);
        phases && rate_and_time && anomalies && failures
    }
}

impl RuleCounters {
    fn is_valid(self) -> bool {
        let Self {
            estimated_observations,
            exact_observations,
            inexact_rates,
            late_events,
            backfilled_invocations,
            anomaly_window_overflows,
            overflowed_invocations,
            overflowed_anomalies,
        } = self;
        let observations = [estimated_observations, exact_observations];
        let events = [inexact_rates, late_events, backfilled_invocations, anomaly_window_overflows];
        let overflowed = [overflowed_invocations, overflowed_anomalies];
        observations.into_iter().chain(events).chain(overflowed).all(|counter| counter <= COUNT_MAX)
    }
}

impl FeedCounters {
    fn is_valid(&self) -> bool {
        self.tenth_skill_invocations.is_none_or(|invocations| invocations <= COUNT_MAX)
            && are_counts([self.resets, self.rollbacks, self.detail_mismatches, self.double_counted])
            && are_counts(self.undecided)
    }
}

impl FeedRecord {
    fn is_valid(&self) -> bool {
        self.counters.is_valid()
            && are_counts([self.sessions_count])
            && self.source.iter().chain(&self.heir_of).all(|source| source.is_valid())
            && self.hold_rounds <= ROUNDS
            && self.sessions_reported_micros.is_none_or(is_time)
            && self.held_events.len() <= HELD_EVENTS_MAX
            && self.held_events.iter().all(|event| is_event(&event.kind))
    }
}

impl SourceRecord {
    fn is_valid(&self) -> bool {
        let times = [self.previous_micros, self.newest_forgotten_micros, Some(self.active_micros)];
        self.id.is_valid() && are_counts([self.first_event_id]) && times.into_iter().flatten().all(is_time)
    }
}

impl Totals {
    fn is_valid(&self) -> bool {
        self.completed <= self.total && self.total <= COUNT_MAX && self.duration_sum.is_none_or(is_sum)
    }
}

impl DatabaseRecord {
    fn is_valid(&self) -> bool {
        let keys = [self.remembered_until, self.invocations_cursor, self.anomalies_cursor];
        keys.into_iter().all(is_key) && self.newest_micros.is_none_or(is_time)
    }
}

impl UncoveredRows {
    /// Of a skill with so many abandoned invocations that are not exposed.
    fn are_valid(&self, abandoned: u64) -> bool {
        let failures = self.failures.iter().map(|(_, count)| u128::from(*count)).sum::<u128>();
        failures <= u128::from(abandoned) && self.last_invoked_micros.is_none_or(is_time)
    }
}

impl PendingRecord {
    fn is_valid(&self) -> bool {
        let events = self.events.iter().all(|event| event.duration_seconds.is_none_or(is_sum));
        let increases = self.increases.iter().all(|increase| {
            let is_known = |(value, error): (f64, f64)| value.is_finite() && is_sum(error);
            are_counts([increase.completed, increase.abandoned]) && increase.durations.is_none_or(is_known)
        });
        let counts = self.increases.iter().flat_map(|increase| [increase.completed, increase.abandoned]);
        events && increases && are_counts(counts)
    }
}

impl SkillRowsRecord {
    fn is_valid(&self) -> bool {
        are_counts([self.counted.0, self.counted.1])
            && are_counts([self.uncounted.0, self.uncounted.1])
            && are_counts([self.uncovered.0, self.uncovered.1])
            && self.uncovered_rows.as_ref().is_none_or(|rows| rows.are_valid(self.uncovered.1))
    }
}

impl SourceSkillRecord {
    fn is_valid(&self) -> bool {
        let gauge = self.gauge.is_none_or(|(total, completed, rate_percent)| {
            is_sum(total) && is_sum(completed) && (0.0..=100.0).contains(&rate_percent)
        });
        self.remembered.is_none_or(|totals| totals.is_valid())
            && are_counts([self.counted])
            && gauge
            && self.pending.as_ref().is_none_or(|pending| pending.is_valid())
            && are_counts([self.credit.0, self.credit.1])
            && self.credit_duration_sum.is_none_or(is_sum)
            && self.row_seconds.is_none_or(is_sum)
            && self.rows.as_ref().is_none_or(|rows| rows.is_valid())
            && is_ratio(self.streamed_rate)
    }
}

fn unless(is_valid: bool, problem: impl FnOnce() -> String) -> Result<(), InvalidState> {
    if is_valid { Ok(()) } else { Err(InvalidState(problem())) }
}

/// Whether these can be added up.
fn are_counts(counts: impl IntoIterator<Item = u64>) -> bool {
    counts.into_iter().map(u128::from).sum::<u128>() <= u128::from(COUNT_MAX)
}

fn is_sum(value: f64) -> bool {
    value.is_finite() && value >= 0.0
}

fn is_ratio(rate: Option<f64>) -> bool {
    rate.is_none_or(|rate| (0.0..=1.0).contains(&rate))
}

/// Whether `id` can be the key of a row that was read, or 0 for none.
fn is_key(id: i64) -> bool {
    id >= 0
}

/// Whether an event is one that can be read from a feed.
fn is_event(kind: &EventKind<'_>) -> bool {
    match kind {
        EventKind::Invocation { skill_name, duration_seconds, .. } => {
            !skill_name.is_empty() && duration_seconds.is_none_or(is_sum)
        }
        EventKind::CompletionRate { skill_name, rate } => !skill_name.is_empty() && (0.0..=1.0).contains(rate),
        EventKind::Anomaly(entry) => {
            !entry.skill_name.is_empty()
                && !entry.anomaly_type.is_empty()
                && entry.deviation_score.is_none_or(f64::is_finite)
        }
        EventKind::ActiveSessions { count } => *count <= SERIES_COUNT_MAX,
        EventKind::SessionCreated { session_id } | EventKind::SessionClosed { session_id } => !session_id.is_empty(),
    }
}

fn is_time(micros: i64) -> bool {
    (-MICROS_MAX..=MICROS_MAX).contains(&micros)
}

impl LedgerState {
    /// Writes what changed over what was: what a store does with the same changes.
    pub fn fold(&mut self, changes: &Changes) {
        let Changes { sequence: _, skills, last_listed, feeds: _, anomalies: _, wall_micros: _, rules, memory } =
            changes;
        replace(&mut self.skills, skills, |row| row.index);
        for (index, micros) in last_listed {
            if let Some(row) = self.skills.iter_mut().find(|row| row.index == *index) {
                row.last_listed_micros = *micros;
            }
        }
        self.rules = *rules;
        self.memory.fold(memory);
    }
}

impl Records {
    fn fold(&mut self, new: &Self) {
        let is_removed = |source: &SourceId| new.sources_removed.contains(source);
        self.sources.retain(|record| !is_removed(&record.id));
        self.skills.retain(|record| !is_removed(&record.source));
        self.histories.retain(|record| !is_removed(&record.source));
        self.damages.retain(|record| !is_removed(&record.source) && !new.damages_cleared.contains(&record.source));
        self.tallies.retain(|record| !is_removed(&record.source));
        self.anomalies.retain(|(key, _)| !is_removed(&key.source));
        self.event_ids.retain(|record| !is_removed(&record.source));
        self.sessions.retain(|(feed, ..)| !new.sessions_cleared.contains(feed));
        self.databases.retain(|record| !is_removed(&record.source));
        self.agreed.retain(|record| !new.agreed_cleared.contains(&record.feed));
        let is_forgotten = |record: &FingerprintRecord| {
            let database = new.databases.iter().find(|database| database.source == record.source);
            let kept = database.map(|database| match record.table {
                Table::Invocations => &database.invocations,
                Table::Anomalies => &database.anomalies,
            });
            match kept {
                None | Some(FingerprintsKept::All) => false,
                Some(FingerprintsKept::Without(keys)) => record.branch == 0 && keys.contains(&record.key),
                Some(FingerprintsKept::None) => true,
            }
        };
        self.fingerprints.retain(|record| !is_removed(&record.source) && !is_forgotten(record));

        replace(&mut self.feeds, &new.feeds, |record| record.slot);
        replace(&mut self.agreed, &new.agreed, |record| (record.feed, record.skill_name.clone()));
        replace(&mut self.addresses, &new.addresses, |record| record.address.clone());
        replace(&mut self.sources, &new.sources, |record| record.id);
        replace(&mut self.skills, &new.skills, |record| (record.source, record.skill_name.clone()));
        let histories: Vec<_> = new.histories.iter().map(|record| self.extended(record)).collect();
        replace(&mut self.histories, &histories, |record| (record.source, record.skill_name.clone()));
        replace(&mut self.damages, &new.damages, |record| (record.source, record.damage, record.skill_name.clone()));
        replace(&mut self.tallies, &new.tallies, |record| {
            (record.source, record.skill_name.clone(), record.anomaly_type.clone())
        });
        replace(&mut self.anomalies, &new.anomalies, |(key, _)| key.clone());
        self.anomalies.retain(|(_, record)| record.is_some());
        replace(&mut self.event_ids, &new.event_ids, |record| (record.source, record.sequence));
        let sources = &self.sources;
        let first = |source: SourceId| sources.iter().find(|record| record.id == source);
        self.event_ids
            .retain(|record| first(record.source).is_some_and(|known| known.first_event_id <= record.sequence));
        self.event_ids.sort_unstable_by_key(|record| (record.source, record.sequence));
        replace(&mut self.sessions, &new.sessions, |(feed, id, _)| (*feed, id.clone()));
        self.sessions.retain(|(_, _, record)| record.is_some());
        replace(&mut self.databases, &new.databases, |record| record.source);
        for database in &mut self.databases {
            (database.invocations, database.anomalies) = (FingerprintsKept::All, FingerprintsKept::All);
        }
        replace(&mut self.fingerprints, &new.fingerprints, |record| {
            (record.source, record.table.name(), record.branch, record.key)
        });
        self.fingerprints
            .sort_unstable_by_key(|record| (record.source, record.table.name(), record.branch, record.key));
    }
}

impl Records {
    /// The whole history that `changed` makes of the one before.
    fn extended(&self, changed: &HistoryRecord) -> HistoryRecord {
        let HistoryChange::Pushed(digests) = &changed.change else { return changed.clone() };
        let is_of =
            |record: &&HistoryRecord| (record.source, &record.skill_name) == (changed.source, &changed.skill_name);
        let words = self.histories.iter().find(is_of).and_then(|before| match &before.change {
            HistoryChange::Whole(words) => Some(&**words),
            HistoryChange::Pushed(_) => None,
        });
        let words = ListingHistory::extended(words, digests).unwrap_or_default();
        HistoryRecord { change: HistoryChange::Whole(words), ..changed.clone() }
    }
}

/// Writes `new` over the rows with the same keys.
fn replace<T: Clone, K: std::hash::Hash + Eq>(rows: &mut Vec<T>, new: &[T], key: impl Fn(&T) -> K) {
    let keys: HashSet<K> = new.iter().map(&key).collect();
    rows.retain(|row| !keys.contains(&key(row)));
    rows.extend(new.iter().cloned());
}
