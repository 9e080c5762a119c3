//! Which anomalies of a feed were counted already.

use std::sync::Arc;

use hashbrown::hash_map::EntryRef;
use hashbrown::{Equivalent, HashMap};

use crate::protocol::{AnomalyEntry, Rejection};

use super::dirty::{Dirty, Persistence};
use super::evidence::anomaly_bits;
use super::labels::SharedLabels;
use super::limits::{Limits, OVERFLOW};
use super::records::{AnomalyKey, AnomalyRecord, TallyRecord};
use super::series::push_tight;
use super::server_time;
use super::slots::SourceId;

/// A list of this length may have left some out.
pub(super) const ANOMALIES_LISTED_MAX: usize = 10;

/// An anomaly is forgotten this long after it was last seen. The server lists an hour by comparing strings, so that a
/// time written with a `T` stays listed until its day is over: two days are beyond both.
const MEMORY_MICROS: i64 = 48 * 3600 * 1_000_000;

const HOUR_MICROS: i64 = 3600 * 1_000_000;

const SECOND_MICROS: i64 = 1_000_000;

/// The anomalies of one feed.
///
/// Invariant: what is shown for a skill and a type never falls and is never more than what happened. The list repeats
/// itself every second and has no identifiers, but each of its entries happened, and entries that agree in time and score
/// are different ones if they are listed at the same time. Streamed events may be the same anomalies as listed ones, so
/// the larger of the two numbers is shown and not their sum.
#[derive(Debug, Default)]
pub(super) struct Anomalies {
    tallies: HashMap<Arc<str>, Vec<Tally>>,
    types: SharedLabels,
    keys: usize,
    round: u64,
    pruned_micros: i64,
    changed_tallies: Dirty<(Arc<str>, Arc<str>)>,
    changed_keys: Dirty<(Arc<str>, Arc<str>, Key)>,
}

#[derive(Debug, Clone)]
struct Tally {
    anomaly_type: Arc<str>,
    listed: u64,
    streamed: u64,
    /// Those of it that are not exposed: rows told them while no feed was subscribed to the skill.
    hidden: u64,
    keys: HashMap<Key, KnownAnomaly>,
}

/// What tells anomalies of one skill and type apart.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Key {
    detected_at: Option<Arc<str>>,
    score_bits: Option<u64>,
}

/// The same as a list shows it, to look for. Both hash alike, field by field.
#[derive(Debug, PartialEq, Eq, Hash)]
struct ListedKey<'e> {
    detected_at: Option<&'e str>,
    score_bits: Option<u64>,
}

impl<'e> ListedKey<'e> {
    fn of(entry: &'e AnomalyEntry<'_>) -> Self {
        Self {
            detected_at: entry.detected_at.as_deref(),
            // Scores compare as numbers: the two zeros are one.
            score_bits: entry.deviation_score.map(|score| (score + 0.0).to_bits()),
        }
    }
}

impl Equivalent<Key> for ListedKey<'_> {
    fn equivalent(&self, key: &Key) -> bool {
        self.score_bits == key.score_bits && self.detected_at == key.detected_at.as_deref()
    }
}

impl From<&ListedKey<'_>> for Key {
    fn from(key: &ListedKey<'_>) -> Self {
        Self { detected_at: key.detected_at.map(Into::into), score_bits: key.score_bits }
    }
}

#[derive(Debug, Clone, Default)]
struct KnownAnomaly {
    /// How many were ever listed at the same time.
    multiplicity: u64,
    /// How many rows hold it.
    rows: u64,
    /// The snapshot that this key was last met in, and how often it was met there.
    round: u64,
    in_round: u64,
    streamed: bool,
    seen_micros: i64,
    /// `seen_micros` when it was last marked as changed.
    kept_micros: i64,
}

impl KnownAnomaly {
    /// Meets this key in the snapshot `round`. How often it has been met there.
    fn meet(&mut self, round: u64) -> u64 {
        if self.round != round {
            self.round = round;
            self.in_round = 0;
        }
        self.in_round += 1;
        self.in_round
    }

    /// The same in another source, whose snapshots have numbers of their own.
    fn of_another(self) -> Self {
        Self { round: 0, in_round: 0, ..self }
    }
}

/// There is no room to remember another anomaly.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct AnomaliesFull;

impl Anomalies {
    pub fn new(persistence: Persistence) -> Self {
        Self { changed_tallies: Dirty::new(persistence), changed_keys: Dirty::new(persistence), ..Self::default() }
    }

    /// Begins a snapshot: entries listed from here on are listed at the same time.
    pub fn begin_round(&mut self) {
        self.round += 1;
    }

    /// Notes a listed entry. By how much the number shown for its skill and type rises.
    pub fn list(&mut self, entry: &AnomalyEntry<'_>, now_micros: i64, limits: &Limits) -> Result<u64, AnomaliesFull> {
        let round = self.round;
        self.note(entry, now_micros, limits, |tally, known| {
            let met = known.meet(round);
            if met > known.multiplicity {
                known.multiplicity = met;
                *tally.0 += 1;
            }
        })
    }

    /// Notes a streamed entry without an identifier.
    pub fn stream(&mut self, entry: &AnomalyEntry<'_>, now_micros: i64, limits: &Limits) -> Result<u64, AnomaliesFull> {
        if entry.detected_at.is_none() {
            return self.stream_identified(entry, limits);
        }
        self.note(entry, now_micros, limits, |tally, known| {
            if !std::mem::replace(&mut known.streamed, true) {
                *tally.1 += 1;
            }
        })
    }

    /// Notes a streamed entry that is known to be another than all before.
    pub fn stream_identified(&mut self, entry: &AnomalyEntry<'_>, limits: &Limits) -> Result<u64, AnomaliesFull> {
        let (skill_name, tally) = self.tally(entry, limits)?;
        let before = tally.shown();
        tally.streamed += 1;
        let rise = tally.shown() - before;
        let changed = (skill_name, tally.anomaly_type.clone());
        self.changed_tallies.mark(changed);
        Ok(rise)
    }

    /// Notes a row of the database, which counts if `counts`: each row is another anomaly. By how much the number shown
    /// rises. It is known from now on, so that a list which shows it later does not count it.
    pub fn tell(
        &mut self,
        entry: &AnomalyEntry<'_>,
        counts: bool,
        now_micros: i64,
        limits: &Limits,
    ) -> Result<u64, AnomaliesFull> {
        if counts {
            let (skill_name, tally) = self.tally(entry, limits)?;
            tally.listed = tally.shown() + 1;
            tally.streamed = tally.listed;
            let changed = (skill_name, tally.anomaly_type.clone());
            self.changed_tallies.mark(changed);
        }
        let round = self.round;
        // One that no longer fits is told by its row all the same, and no list counts while rows tell.
        let _ = self.note(entry, now_micros, limits, |_, known| {
            let met = known.meet(round);
            known.multiplicity = if counts { known.multiplicity + 1 } else { known.multiplicity.max(met) };
            known.rows = if counts { known.rows + 1 } else { known.rows.max(met) };
            known.streamed = true;
        });
        Ok(u64::from(counts))
    }

    /// Notes how many anomalies of the skill and type of `entry` the present database holds. By how much the number shown
    /// rises.
    pub fn tell_number(&mut self, entry: &AnomalyEntry<'_>, times: u64, limits: &Limits) -> Result<u64, AnomaliesFull> {
        let (skill_name, tally) = self.tally(entry, limits)?;
        let shown = tally.shown();
        let rise = times.saturating_sub(shown);
        tally.listed = shown + rise;
        tally.streamed = tally.listed;
        let changed = (skill_name, tally.anomaly_type.clone());
        self.changed_tallies.mark(changed);
        Ok(rise)
    }

    /// Notes a row of the database that snapshots may have listed before. By how much the number shown rises.
    pub fn tell_listed(
        &mut self,
        entry: &AnomalyEntry<'_>,
        now_micros: i64,
        limits: &Limits,
    ) -> Result<u64, AnomaliesFull> {
        self.note(entry, now_micros, limits, |tally, known| {
            known.rows += 1;
            if known.rows > known.multiplicity {
                known.multiplicity = known.rows;
                *tally.0 += 1;
            }
            known.streamed = true;
        })
    }

    /// So many anomalies of the skill and type of `entry` are not exposed.
    pub fn hide(&mut self, entry: &AnomalyEntry<'_>, more: u64, limits: &Limits) {
        if more == 0 {
            return;
        }
        if let Ok((skill_name, tally)) = self.tally(entry, limits) {
            tally.hidden += more;
            let changed = (skill_name, tally.anomaly_type.clone());
            self.changed_tallies.mark(changed);
        }
    }

    /// Takes out what is not exposed of skills that are `covered`: how many of which skill and type.
    pub fn reveal(&mut self, covered: impl Fn(&str) -> bool) -> Vec<(Arc<str>, Arc<str>, u64)> {
        let mut revealed = Vec::new();
        for (skill_name, tallies) in self.tallies.iter_mut().filter(|(name, _)| covered(name)) {
            for tally in tallies.iter_mut().filter(|tally| tally.hidden > 0) {
                let hidden = std::mem::take(&mut tally.hidden);
                revealed.push((skill_name.clone(), tally.anomaly_type.clone(), hidden));
                self.changed_tallies.mark((skill_name.clone(), tally.anomaly_type.clone()));
            }
        }
        revealed
    }

    fn note(
        &mut self,
        entry: &AnomalyEntry<'_>,
        now_micros: i64,
        limits: &Limits,
        count: impl FnOnce((&mut u64, &mut u64), &mut KnownAnomaly),
    ) -> Result<u64, AnomaliesFull> {
        let key = ListedKey::of(entry);
        // A feed without snapshots has no list in which something could be seen again.
        if self.keys >= limits.anomaly_keys_max && self.round == 0 {
            self.forget_old(now_micros);
        }
        if self.keys >= limits.anomaly_keys_max && !self.knows(entry, &key) {
            return Err(AnomaliesFull);
        }
        let (skill_name, tally) = self.tally(entry, limits)?;
        let before = (tally.listed, tally.streamed, tally.shown());
        let (is_new, known) = match tally.keys.entry_ref(&key) {
            EntryRef::Occupied(known) => (false, known.into_mut()),
            EntryRef::Vacant(vacant) => (true, vacant.insert_with_key((&key).into(), KnownAnomaly::default())),
        };
        let (multiplicity, rows) = (known.multiplicity, known.rows);
        known.seen_micros = now_micros;
        count((&mut tally.listed, &mut tally.streamed), known);
        // A list repeats itself every second: that an anomaly is still listed is kept once an hour.
        let is_stale = now_micros.saturating_sub(known.kept_micros) >= HOUR_MICROS;
        let is_more = (known.multiplicity, known.rows) != (multiplicity, rows);
        let counted = (tally.listed, tally.streamed) != (before.0, before.1);
        let is_changed = counted || is_more || is_new || is_stale;
        if is_changed {
            known.kept_micros = now_micros;
        }
        let rise = tally.shown() - before.2;
        let anomaly_type = is_changed.then(|| tally.anomaly_type.clone());
        self.keys += usize::from(is_new);
        if let Some(anomaly_type) = anomaly_type {
            if counted {
                self.changed_tallies.mark((skill_name.clone(), anomaly_type.clone()));
            }
            self.changed_keys.mark((skill_name, anomaly_type, (&key).into()));
        }
        Ok(rise)
    }

    fn knows(&self, entry: &AnomalyEntry<'_>, key: &ListedKey<'_>) -> bool {
        let tallies = self.tallies.get(&*entry.skill_name).into_iter().flatten();
        tallies.filter(|tally| *tally.anomaly_type == *entry.anomaly_type).any(|tally| tally.keys.contains_key(key))
    }

    /// The tally of a skill and a type. There are as many skills as anomalies can be remembered, and as many types of each
    /// as have series of their own: further ones are one, as their series is.
    fn tally(&mut self, entry: &AnomalyEntry<'_>, limits: &Limits) -> Result<(Arc<str>, &mut Tally), AnomaliesFull> {
        let skills = self.tallies.len();
        let (skill_name, tallies) = match self.tallies.entry_ref(&*entry.skill_name) {
            EntryRef::Occupied(known) => (known.key().clone(), known.into_mut()),
            EntryRef::Vacant(_) if skills >= limits.anomaly_keys_max => return Err(AnomaliesFull),
            EntryRef::Vacant(vacant) => {
                let name: Arc<str> = entry.skill_name.as_ref().into();
                (name.clone(), vacant.insert_with_key(name, Vec::new()))
            }
        };
        let position = |tallies: &[Tally], name: &str| tallies.iter().position(|tally| *tally.anomaly_type == *name);
        let known = position(tallies, &entry.anomaly_type);
        let is_full = tallies.len() >= limits.anomaly_types_per_skill_max;
        let name = if known.is_none() && is_full { OVERFLOW } else { &*entry.anomaly_type };
        let position = known.or_else(|| position(tallies, name)).unwrap_or_else(|| {
            let anomaly_type = self.types.share(name);
            push_tight(tallies, Tally { anomaly_type, listed: 0, streamed: 0, hidden: 0, keys: HashMap::new() });
            tallies.len() - 1
        });
        Ok((skill_name, &mut tallies[position]))
    }

    /// Forgets what was not seen for two days. Only to be called once a snapshot has been noted: after a long silence the
    /// first one lists what would otherwise be forgotten just before it is seen again.
    pub fn forget_old(&mut self, now_micros: i64) {
        if (now_micros - self.pruned_micros).abs() < HOUR_MICROS / 60 {
            return;
        }
        self.pruned_micros = now_micros;
        let mut kept = 0;
        let changed = &mut self.changed_keys;
        for (skill_name, tallies) in &mut self.tallies {
            for Tally { anomaly_type, keys, .. } in tallies {
                keys.retain(|key, known| {
                    let is_kept = now_micros.saturating_sub(known.seen_micros) < MEMORY_MICROS;
                    if !is_kept {
                        changed.mark((skill_name.clone(), anomaly_type.clone(), key.clone()));
                    }
                    is_kept
                });
                kept += keys.len();
            }
        }
        self.keys = kept;
    }

    /// The numbers that changed and are not acknowledged.
    pub fn collect_tallies(&mut self, source: SourceId) -> Vec<TallyRecord> {
        let tallies = &self.tallies;
        let row = |(skill_name, anomaly_type): &(Arc<str>, Arc<str>)| {
            let tally = tallies.get(skill_name)?.iter().find(|tally| tally.anomaly_type == *anomaly_type)?;
            let (skill_name, anomaly_type) = (skill_name.clone(), anomaly_type.clone());
            let Tally { listed, streamed, hidden, .. } = *tally;
            Some(TallyRecord { source, listed, streamed, hidden, skill_name, anomaly_type })
        };
        self.changed_tallies.collect().filter_map(row).collect()
    }

    /// The anomalies that are new, changed or forgotten and not acknowledged.
    pub fn collect_keys(&mut self, source: SourceId) -> Vec<(AnomalyKey, Option<AnomalyRecord>)> {
        let tallies = &self.tallies;
        let row = |(skill_name, anomaly_type, key): &(Arc<str>, Arc<str>, Key)| {
            let of_skill = tallies.get(skill_name);
            let tally = of_skill.and_then(|tallies| tallies.iter().find(|tally| tally.anomaly_type == *anomaly_type));
            let row = tally.and_then(|tally| tally.keys.get(key)).map(|known| {
                let KnownAnomaly { multiplicity, rows, streamed, seen_micros, .. } = *known;
                AnomalyRecord { multiplicity, rows, streamed, seen_micros }
            });
            let Key { detected_at, score_bits } = key.clone();
            let (skill_name, anomaly_type) = (skill_name.clone(), anomaly_type.clone());
            (AnomalyKey { source, skill_name, anomaly_type, detected_at, score_bits }, row)
        };
        self.changed_keys.collect().map(row).collect()
    }

    /// Nothing of it is persistent any more.
    pub fn mark_all(&mut self) {
        for (skill_name, tallies) in &self.tallies {
            for Tally { anomaly_type, keys, .. } in tallies {
                self.changed_tallies.mark((skill_name.clone(), anomaly_type.clone()));
                for key in keys.keys() {
                    self.changed_keys.mark((skill_name.clone(), anomaly_type.clone(), key.clone()));
                }
            }
        }
    }

    pub fn has_changed(&self) -> bool {
        !self.changed_tallies.is_empty() || !self.changed_keys.is_empty()
    }

    /// What was collected last is persistent.
    pub fn acknowledge(&mut self) {
        self.changed_tallies.acknowledge();
        self.changed_keys.acknowledge();
    }

    /// Bits of evidence that a list of anomalies is of this source: those of every one that is known.
    pub fn evidence(&self, anomalies: &[Result<AnomalyEntry<'_>, Rejection>]) -> f64 {
        let is_known = |entry: &&AnomalyEntry<'_>| self.knows(entry, &ListedKey::of(entry));
        anomalies.iter().flatten().filter(is_known).map(|entry| anomaly_bits(entry.deviation_score)).sum()
    }

    /// Adds the anomalies of another source that turned out to be the same: of each key the greater multiplicity. Types beyond
    /// the limit are one; of anomalies beyond the limit what distinguishes them is forgotten, and their number stays.
    pub fn join(&mut self, other: Self, limits: &Limits) {
        for (skill_name, tallies) in other.tallies {
            if self.tallies.len() >= limits.anomaly_keys_max && !self.tallies.contains_key(&skill_name) {
                continue;
            }
            let own = self.tallies.entry(skill_name.clone()).or_default();
            for theirs in tallies {
                let is_known = own.iter().any(|tally| tally.anomaly_type == theirs.anomaly_type);
                let is_full = own.len() >= limits.anomaly_types_per_skill_max;
                let name = if !is_known && is_full { OVERFLOW } else { &*theirs.anomaly_type };
                let anomaly_type = self.types.share(name);
                let room = limits.anomaly_keys_max.saturating_sub(self.keys);
                let tally = match own.iter().position(|tally| tally.anomaly_type == anomaly_type) {
                    Some(known) => &mut own[known],
                    None => {
                        let anomaly_type = Arc::clone(&anomaly_type);
                        let none = Tally { anomaly_type, listed: 0, streamed: 0, hidden: 0, keys: HashMap::new() };
                        push_tight(own, none);
                        let last = own.len() - 1;
                        &mut own[last]
                    }
                };
                self.keys += tally.join(theirs, room);
                for key in tally.keys.keys() {
                    self.changed_keys.mark((skill_name.clone(), anomaly_type.clone(), key.clone()));
                }
                self.changed_tallies.mark((skill_name.clone(), anomaly_type));
            }
        }
    }

    /// What a source of its own knows that has diverged from this one: the same.
    pub fn fork(&self) -> Self {
        let of_another = |tallies: &Vec<Tally>| tallies.iter().cloned().map(Tally::of_another).collect();
        let tallies = self.tallies.iter().map(|(name, tallies)| (name.clone(), of_another(tallies))).collect();
        let types = self.types.clone();
        let mut fork = Self { tallies, types, keys: self.keys, ..Self::new(self.changed_keys.persistence()) };
        for (skill_name, tallies) in &fork.tallies {
            for tally in tallies {
                for key in tally.keys.keys() {
                    fork.changed_keys.mark((skill_name.clone(), tally.anomaly_type.clone(), key.clone()));
                }
                fork.changed_tallies.mark((skill_name.clone(), tally.anomaly_type.clone()));
            }
        }
        fork
    }

    /// Adds a number that was kept.
    pub fn restore_tally(&mut self, row: TallyRecord) {
        let TallyRecord { source: _, skill_name, anomaly_type, listed, streamed, hidden } = row;
        let anomaly_type = self.types.share(&anomaly_type);
        let tally = Tally { anomaly_type, listed, streamed, hidden, keys: HashMap::new() };
        self.tallies.entry(skill_name).or_default().push(tally);
    }

    /// Adds an anomaly that was kept, whose number was restored before.
    pub fn restore_key(&mut self, key: AnomalyKey, row: AnomalyRecord) {
        let tallies = self.tallies.get_mut(&key.skill_name);
        let tally = tallies.and_then(|tallies| tallies.iter_mut().find(|tally| tally.anomaly_type == key.anomaly_type));
        if let Some(tally) = tally {
            let AnomalyRecord { multiplicity, rows, streamed, seen_micros } = row;
            let known = KnownAnomaly {
                multiplicity,
                rows,
                streamed,
                seen_micros,
                kept_micros: seen_micros,
                ..KnownAnomaly::default()
            };
            tally.keys.insert(Key { detected_at: key.detected_at, score_bits: key.score_bits }, known);
            self.keys += 1;
        }
    }
}

impl Tally {
    /// The same in another source.
    fn of_another(mut self) -> Self {
        for known in self.keys.values_mut() {
            *known = std::mem::take(known).of_another();
        }
        self
    }

    /// Adds the same tally of another source, with at most `room` keys more. Returns how many keys are new.
    fn join(&mut self, other: Self, room: usize) -> usize {
        let mut new = 0;
        for (key, theirs) in other.keys {
            match self.keys.get_mut(&key) {
                Some(known) => {
                    self.listed += theirs.multiplicity.saturating_sub(known.multiplicity);
                    self.streamed += u64::from(theirs.streamed && !known.streamed);
                    known.multiplicity = known.multiplicity.max(theirs.multiplicity);
                    known.rows = known.rows.max(theirs.rows);
                    known.streamed |= theirs.streamed;
                    known.seen_micros = known.seen_micros.max(theirs.seen_micros);
                }
                None => {
                    self.listed += theirs.multiplicity;
                    self.streamed += u64::from(theirs.streamed);
                    if new < room {
                        new += 1;
                        self.keys.insert(key, theirs.of_another());
                    }
                }
            }
        }
        self.listed = self.listed.max(other.listed);
        self.streamed = self.streamed.max(other.streamed);
        self.hidden = self.hidden.max(other.hidden);
        new
    }

    fn shown(&self) -> u64 {
        self.listed.max(self.streamed)
    }
}

/// Whether the list of a snapshot may have left out anomalies that happened since the previous one.
///
/// `length` counts all entries, `entries` holds those that could be read; times are the server's, in microseconds.
pub(super) fn window_overflowed<'a>(
    length: usize,
    entries: impl DoubleEndedIterator<Item = &'a AnomalyEntry<'a>> + Clone,
    previous_micros: Option<i64>,
    this_micros: Option<i64>,
) -> bool {
    if let (Some(previous), Some(this)) = (previous_micros, this_micros)
        && this.saturating_sub(previous) >= HOUR_MICROS
    {
        return true;
    }
    if length < ANOMALIES_LISTED_MAX {
        return false;
    }
    let mut times = entries.clone().filter_map(|entry| entry.detected_at.as_deref()).peekable();
    // Strings with a `T` sort above those with a space: a list full of them hides all others of that day.
    if times.peek().is_some() && times.all(|time| time.as_bytes().get(10) == Some(&b'T')) {
        return true;
    }
    let Some(previous) = previous_micros else { return false };
    // Times of detection have no fraction, so one in the second of the previous snapshot may lie after it.
    let second = previous - previous.rem_euclid(SECOND_MICROS);
    // From the end, where the oldest stands: the first that is older decides.
    let mut times = entries.rev().filter_map(|entry| entry.detected_at.as_deref()).filter_map(server_time::micros);
    !times.any(|time| time < second)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(detected_at: &str, score: Option<f64>) -> AnomalyEntry<'_> {
        AnomalyEntry {
            skill_name: "s".into(),
            anomaly_type: "drop".into(),
            detected_at: Some(detected_at.into()),
            deviation_score: score,
        }
    }

    const ROOM: Limits = Limits {
        skills_max: 100,
        series_max: 100,
        remembered_skills_max: 100,
        label_chars_max: 100,
        phases_per_skill_max: 100,
        anomaly_types_per_skill_max: 2,
        error_types_per_skill_max: 32,
        anomaly_keys_max: 100,
        event_ids_max: 100,
        session_ids_max: 100,
        waiting_events_max: 100,
    };

    const SECOND: &str = "2026-11-22 10:24:23";

    #[test]
    fn a_repeated_list_counts_once_and_twins_count_twice() {
        let mut anomalies = Anomalies::default();
        let mut shown = 0;
        for twins in [1, 1, 2, 1, 2] {
            anomalies.begin_round();
            for _ in 0..twins {
                shown += anomalies.list(&entry(SECOND, Some(2.0)), 0, &ROOM).unwrap();
            }
        }
        assert_eq!(shown, 2);
    }

    /// Lists `times` once. By how much the number shown rises.
    fn list(anomalies: &mut Anomalies, times: &[&str]) -> u64 {
        anomalies.begin_round();
        times.iter().map(|time| anomalies.list(&entry(time, Some(2.0)), 0, &ROOM).unwrap()).sum()
    }

    #[test]
    fn what_a_source_that_joined_listed_counts_no_more_in_any_later_snapshot() {
        for rounds in 1..4 {
            let (mut older, mut younger) = (Anomalies::default(), Anomalies::default());
            assert_eq!(list(&mut older, &["2026-11-22 10:00:00"]), 1);
            for round in 0..rounds {
                assert_eq!(list(&mut younger, &[SECOND, SECOND]), if round == 0 { 2 } else { 0 });
            }
            older.join(younger, &ROOM);
            for _ in 0..4 {
                assert_eq!(list(&mut older, &["2026-11-22 10:00:00", SECOND, SECOND]), 0, "joined after {rounds}");
            }
            let tally = &older.tallies["s"][0];
            assert_eq!((tally.listed, older.keys), (3, 2));
        }
    }

    #[test]
    fn what_was_listed_before_a_fork_counts_no_more_after_it() {
        let mut common = Anomalies::default();
        assert_eq!([0; 3].map(|_| list(&mut common, &[SECOND])), [1, 0, 0]);
        for quiet_rounds in 0..5 {
            let mut fork = common.fork();
            (0..quiet_rounds).for_each(|_| assert_eq!(list(&mut fork, &[]), 0));
            assert_eq!(list(&mut fork, &[SECOND]), 0, "after {quiet_rounds} rounds");
            assert_eq!(list(&mut fork, &[SECOND, SECOND]), 1);
        }
    }

    #[test]
    fn sources_that_join_have_streamed_and_listed_what_either_has() {
        let (mut older, mut younger) = (Anomalies::default(), Anomalies::default());
        for (anomalies, time) in [(&mut older, "2026-11-22 10:00:00"), (&mut younger, SECOND)] {
            assert_eq!(list(anomalies, &[time]), 1);
            assert_eq!(anomalies.stream(&entry(time, Some(2.0)), 0, &ROOM), Ok(0));
        }
        older.join(younger, &ROOM);
        let new = "2026-11-22 11:00:00";
        assert_eq!(older.stream(&entry(new, Some(2.0)), 0, &ROOM), Ok(1), "at once, not when it is listed");
        assert_eq!(list(&mut older, &[new]), 0);
    }

    #[test]
    fn the_larger_of_listed_and_streamed_is_shown() {
        let mut anomalies = Anomalies::default();
        anomalies.begin_round();
        let mut shown = anomalies.list(&entry(SECOND, None), 0, &ROOM).unwrap();
        shown += anomalies.stream(&entry(SECOND, None), 0, &ROOM).unwrap();
        assert_eq!(shown, 1);
        shown += anomalies.stream_identified(&entry(SECOND, None), &ROOM).unwrap();
        assert_eq!(shown, 2);
        anomalies.begin_round();
        shown += anomalies.list(&entry("2026-11-22 10:24:24", None), 0, &ROOM).unwrap();
        assert_eq!(shown, 2);
    }

    /// The type of the only tally of a skill.
    fn type_of<'a>(anomalies: &'a Anomalies, skill_name: &str) -> &'a Arc<str> {
        let [tally] = &anomalies.tallies[skill_name][..] else { panic!("{skill_name} has one tally") };
        &tally.anomaly_type
    }

    fn stream_of(anomalies: &mut Anomalies, skill_name: &str, anomaly_type: &str, limits: &Limits) {
        let entry = AnomalyEntry {
            skill_name: skill_name.into(),
            anomaly_type: anomaly_type.into(),
            ..entry(SECOND, Some(2.0))
        };
        assert_eq!(anomalies.stream_identified(&entry, limits), Ok(1));
    }

    #[test]
    fn skills_share_a_type_that_was_restored() {
        let mut anomalies = Anomalies::default();
        for skill_name in ["a", "b"] {
            anomalies.restore_tally(TallyRecord {
                source: SourceId::FIRST,
                skill_name: skill_name.into(),
                anomaly_type: "drop".into(),
                listed: 1,
                streamed: 1,
                hidden: 0,
            });
        }
        stream_of(&mut anomalies, "c", "drop", &ROOM);
        let restored = type_of(&anomalies, "a");
        assert!(["b", "c"].iter().all(|name| Arc::ptr_eq(type_of(&anomalies, name), restored)));
    }

    #[test]
    fn skills_share_a_type_after_a_fork() {
        let mut common = Anomalies::default();
        stream_of(&mut common, "a", "drop", &ROOM);
        let mut fork = common.fork();
        stream_of(&mut fork, "b", "drop", &ROOM);
        assert!(Arc::ptr_eq(type_of(&fork, "a"), type_of(&fork, "b")));
    }

    #[test]
    fn skills_share_a_type_after_sources_have_joined() {
        let limits = Limits { anomaly_types_per_skill_max: 0, ..ROOM };
        for (limits, name) in [(&ROOM, "drop"), (&limits, OVERFLOW)] {
            let (mut older, mut younger) = (Anomalies::default(), Anomalies::default());
            stream_of(&mut older, "a", name, &ROOM);
            ["b", "c"].into_iter().for_each(|skill_name| stream_of(&mut younger, skill_name, "drop", &ROOM));
            older.join(younger, limits);
            stream_of(&mut older, "d", "drop", limits);
            let shared = type_of(&older, "a");
            assert_eq!(**shared, *name);
            for skill_name in ["b", "c", "d"] {
                assert!(Arc::ptr_eq(type_of(&older, skill_name), shared), "{name} of {skill_name}");
            }
        }
    }

    #[test]
    fn what_is_beyond_the_limit_is_refused_until_some_are_forgotten() {
        let limits = Limits { anomaly_keys_max: 1, ..ROOM };
        let mut anomalies = Anomalies::default();
        anomalies.begin_round();
        assert_eq!(anomalies.list(&entry(SECOND, Some(1.0)), 0, &limits), Ok(1));
        assert_eq!(anomalies.list(&entry(SECOND, Some(2.0)), 0, &limits), Err(AnomaliesFull));
        assert_eq!(anomalies.list(&entry(SECOND, Some(1.0)), 0, &limits), Ok(1), "a twin of one that is known");
        anomalies.forget_old(MEMORY_MICROS);
        assert_eq!(anomalies.list(&entry(SECOND, Some(2.0)), MEMORY_MICROS, &limits), Ok(1));
    }

    #[test]
    fn a_feed_without_snapshots_forgets_when_it_is_full() {
        let limits = Limits { anomaly_keys_max: 1, ..ROOM };
        let mut anomalies = Anomalies::default();
        assert_eq!(anomalies.stream(&entry(SECOND, Some(1.0)), 0, &limits), Ok(1));
        assert_eq!(anomalies.stream(&entry(SECOND, Some(2.0)), 1, &limits), Err(AnomaliesFull));
        assert_eq!(anomalies.stream(&entry(SECOND, Some(2.0)), MEMORY_MICROS, &limits), Ok(1));
    }

    #[test]
    fn types_beyond_the_limit_share_a_number() {
        let mut anomalies = Anomalies::default();
        let of_type = |name: &'static str| AnomalyEntry { anomaly_type: name.into(), ..entry(SECOND, None) };
        for name in ["a", "b", "c", "d", "c"] {
            anomalies.stream_identified(&of_type(name), &ROOM).unwrap();
        }
        let mut tallies = anomalies.collect_tallies(SourceId::FIRST);
        tallies.sort_by_key(|row| row.anomaly_type.clone());
        let shown: Vec<_> = tallies.iter().map(|row| (&*row.anomaly_type, row.streamed)).collect();
        assert_eq!(shown, [(OVERFLOW, 3), ("a", 1), ("b", 1)]);
    }

    #[test]
    fn an_overflow_needs_a_full_list_that_reaches_back_to_the_previous_snapshot() {
        let previous = server_time::micros("2026-11-22T10:24:23.585602+00:00");
        let this = previous.map(|micros| micros + 1_000_000);
        let full = |time: &'static str| vec![entry(time, None); 10];
        let overflowed = |entries: &[AnomalyEntry<'_>], previous, this| {
            window_overflowed(entries.len(), entries.iter(), previous, this)
        };
        assert!(overflowed(&full("2026-11-22 10:24:24"), previous, this));
        assert!(overflowed(&full("2026-11-22 10:24:23"), previous, this), "the same second may lie after");
        assert!(!overflowed(&full("2026-11-22 10:24:22"), previous, this));
        assert!(!overflowed(&full("2026-11-22 10:24:24")[..9], previous, this));
        assert!(!overflowed(&full("2026-11-22 10:24:24"), None, this), "nothing is promised of the time before");
        assert!(overflowed(&full("2026-11-21T10:24:24"), previous, this));
        assert!(overflowed(&[], previous, previous.map(|micros| micros + HOUR_MICROS)));
    }
}
