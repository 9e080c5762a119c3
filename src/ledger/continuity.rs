//! The same, a damaged or another database: evidence in, [`Continuity`] out; and what of a listing counts.
//!
//! Pure. A [`SourceNumbers`] is everything that is remembered of the numbers of one source. Whoever drives it asks
//! [`SourceNumbers::judge`] what a listing is, and then, unless it is of another database, [`SourceNumbers::advance`] moves
//! the remembered numbers and returns what counts. Rule 3.4 of `docs/explanation/translation.md`.

use std::collections::VecDeque;
use std::sync::Arc;

use hashbrown::HashMap;

use super::evidence::{Listings, Names, Totals};
use super::records::HistoryChange;
use super::skill_table::SkillTable;

/// Bits that decide for any source: one chance in 16 million that the numbers are equal though the databases are not.
pub(super) const DECISIVE_BITS: f64 = 24.0;

/// Bits that suffice for the source that is expected, because it was the feed's before.
pub(super) const FORMER_BITS: f64 = 4.0;

/// States before damages that a source remembers.
const DAMAGES_MAX: usize = 4;

/// Listings of a skill that are remembered each, the latest.
const RECENT_LISTINGS_MAX: usize = 256;

/// Older listings of a skill that are remembered, ever sparser.
const OLDER_LISTINGS_MAX: usize = 256;

/// Listings that a source remembers of all its skills.
const SOURCE_LISTINGS_MAX: usize = 65_536;

/// What a listing is to a source, if it is of the same database.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Continuity {
    /// It moved on: every known skill follows.
    Follows,
    /// It came back to the state before a damage.
    Returned {
        /// Which of the remembered states.
        damage: usize,
    },
    /// It is damaged: a power cut, a backup, rows or skills that were deleted, renamed or corrected.
    Damaged,
    /// It is another database.
    Another,
}

/// What a listing is to a source, and whether that was in doubt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Judgement {
    /// What it is.
    pub continuity: Continuity,
    /// What was in doubt, and was settled by counting less.
    pub doubt: Option<Doubt>,
}

impl Judgement {
    /// The same, where rows of the database show that it is the one whose numbers are remembered: another one it cannot be.
    pub(super) fn of_same_database(self) -> Self {
        match self {
            Self { continuity: Continuity::Another, .. } | Self { doubt: Some(Doubt::Damage), .. } => {
                Self { continuity: Continuity::Damaged, doubt: None }
            }
            judged => judged,
        }
    }

    /// The same, where the database is not taken for another one, whatever its numbers are.
    pub(super) fn of_this_source(self) -> Self {
        match self.continuity {
            Continuity::Another => Self { continuity: Continuity::Damaged, doubt: Some(Doubt::Damage) },
            _ => self,
        }
    }
}

/// What could not be decided.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Doubt {
    /// Whether a listing is of a damaged database or of a new one that resembles it.
    Damage,
    /// Whether a database came back to a former state or moved on.
    Return,
    /// Whether a feed that took over is late, or lists a damaged database.
    Behind,
    /// Whether a listing that was seen before is the old one or a new one that equals it.
    KnownListing,
}

impl Doubt {
    /// Every doubt.
    pub const ALL: [Self; 4] = [Self::Damage, Self::Return, Self::Behind, Self::KnownListing];

    /// The value of the label `reason`.
    pub fn code(self) -> &'static str {
        match self {
            Self::Damage => "damage",
            Self::Return => "return",
            Self::Behind => "behind",
            Self::KnownListing => "known_listing",
        }
    }
}

/// What a list proves about the skills that it does not name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Room {
    /// Nothing: it is of one skill, or some of its entries could not be accepted.
    Unknown,
    /// None of them has more invocations than this: the list is full, and this is its least total.
    Full(u64),
    /// There are none.
    Enough,
}

impl Room {
    /// Of a database whose skills were read, all of them unless it `is_truncated`.
    pub(super) fn of_database(is_truncated: bool) -> Self {
        if is_truncated { Self::Unknown } else { Self::Enough }
    }

    /// Whether a skill with these numbers would be listed.
    fn lists(self, totals: &Totals) -> bool {
        match self {
            Self::Unknown => false,
            Self::Full(least) => totals.total > least,
            Self::Enough => totals.total > 0,
        }
    }
}

/// What the listing of a skill means for its counters.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Delta {
    /// The numbers are what is remembered.
    Unchanged,
    /// A skill that was not known: the whole total counts.
    First,
    /// The difference from these numbers counts.
    From(Totals),
    /// The remembered numbers move, from these, and nothing counts.
    Moved(Totals),
}

/// One skill of a listing that was accepted.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Step {
    /// What is remembered now.
    pub to: Totals,
    /// What counts.
    pub delta: Delta,
}

impl Step {
    /// Whether nothing counts although the total rose, since this very listing was seen before.
    pub fn is_known_listing(&self) -> bool {
        matches!(self.delta, Delta::Moved(from) if from.total < self.to.total)
    }
}

/// What counts of each skill of a listing that was accepted, in the listing's order. The names are those of the listing, as a
/// whole: most skills of a snapshot did not move, and are not worth a reference each.
#[derive(Debug, Default)]
pub struct Steps {
    names: Arc<Names>,
    of_skills: Vec<Step>,
}

impl Steps {
    /// Forgets everything but the memory.
    pub fn clear(&mut self) {
        self.of_skills.clear();
    }

    /// Starts over with the skills of a listing.
    fn begin(&mut self, names: &Arc<Names>) {
        self.clear();
        if !Arc::ptr_eq(&self.names, names) {
            self.names = Arc::clone(names);
        }
    }

    /// The skill at `position` of the listing, and its step.
    pub fn at(&self, position: usize) -> Option<(&Arc<str>, &Step)> {
        self.of_skills.get(position).map(|step| (self.names.at(position), step))
    }

    /// Each skill and its step.
    pub fn iter(&self) -> impl Iterator<Item = (&Arc<str>, &Step)> {
        self.names.iter().zip(&self.of_skills)
    }
}

/// Digests of what a skill was listed with.
#[derive(Debug, Clone, Default)]
pub struct ListingHistory {
    /// The latest, oldest first.
    recent: VecDeque<u64>,
    /// Of older ones every 2^`thinned`-th, oldest first.
    older: Vec<u64>,
    thinned: u32,
    /// Listings that left `recent` since the last one that joined `older`.
    skipped: u64,
    unpersisted: Unpersisted,
}

/// How much of a history is not persistent: so many of its latest listings, or [`Unpersisted::ALL`]. Persisting a history that
/// a listing was added to costs as much as the listing.
#[derive(Debug, Clone, Copy)]
struct Unpersisted {
    pending: u16,
    in_flight: u16,
}

impl Unpersisted {
    /// More than any history has.
    const ALL: u16 = u16::MAX;

    const NOTHING: Self = Self { pending: 0, in_flight: 0 };
}

impl Default for Unpersisted {
    /// That of a new history, in the place of which another may be persistent.
    fn default() -> Self {
        Self { pending: Self::ALL, in_flight: 0 }
    }
}

impl ListingHistory {
    /// Whether a listing with this digest is remembered.
    pub fn contains(&self, digest: u64) -> bool {
        let (first, last) = self.recent.as_slices();
        // Nearly every listing is a new one: without an early end several are compared at once.
        let is_in = |digests: &[u64]| digests.iter().fold(false, |found, known| found | (*known == digest));
        is_in(first) | is_in(last) | is_in(&self.older)
    }

    fn len(&self) -> usize {
        self.recent.len() + self.older.len()
    }

    /// Adds a listing unless it is the latest already. Whether it was added.
    fn push(&mut self, digest: u64) -> bool {
        if self.recent.back() == Some(&digest) {
            return false;
        }
        self.recent.push_back(digest);
        while self.recent.len() > RECENT_LISTINGS_MAX {
            self.retire();
        }
        self.unpersisted.pending = self.unpersisted.pending.saturating_add(1);
        true
    }

    /// Nothing of it is persistent.
    fn mark_all(&mut self) {
        self.unpersisted.pending = Unpersisted::ALL;
    }

    /// Returns what is not persistent, again at each call until it is acknowledged; `None` for nothing.
    pub(super) fn collect(&mut self) -> Option<HistoryChange> {
        let Unpersisted { pending, in_flight } = &mut self.unpersisted;
        *in_flight = in_flight.saturating_add(std::mem::take(pending));
        match usize::from(*in_flight) {
            0 => None,
            // Listings join at the end, and nothing but a change of the whole takes one from there.
            pushed if pushed <= self.recent.len() => {
                Some(HistoryChange::Pushed(self.recent.range(self.recent.len() - pushed..).copied().collect()))
            }
            _ => Some(HistoryChange::Whole(self.encode())),
        }
    }

    /// What was collected last is persistent.
    fn acknowledge(&mut self) {
        self.unpersisted.in_flight = 0;
    }

    /// Returns the words of the history that `words` are of, or of an empty one if there are none, after `digests` were pushed;
    /// `None` for words that [`ListingHistory::encode`] cannot have returned.
    pub fn extended(words: Option<&[u64]>, digests: &[u64]) -> Option<Vec<u64>> {
        let mut history = words.map_or_else(|| Some(Self::default()), Self::decode)?;
        for digest in digests {
            history.push(*digest);
        }
        Some(history.encode())
    }

    /// Moves the oldest recent listing to the older ones, of which it keeps every 2^k-th.
    fn retire(&mut self) {
        let Some(digest) = self.recent.pop_front() else { return };
        self.skipped += 1;
        if self.skipped < 1 << self.thinned {
            return;
        }
        self.skipped = 0;
        self.older.push(digest);
        if self.older.len() > OLDER_LISTINGS_MAX {
            self.thin();
        }
    }

    fn thin(&mut self) {
        let mut index = 0;
        self.older.retain(|_| {
            index += 1;
            index % 2 == 0
        });
        self.thinned = (self.thinned + 1).min(62);
    }

    /// Shrinks to at most `len` listings, the older ones first.
    fn shrink(&mut self, len: usize) {
        while self.len() > len && !self.older.is_empty() {
            if self.older.len() == 1 { self.older.clear() } else { self.thin() }
        }
        let beyond = self.recent.len().saturating_sub(len);
        self.recent.drain(..beyond);
        self.mark_all();
    }

    /// Adds what another history of the same skill remembers.
    fn merge(&mut self, other: Self) {
        let known: hashbrown::HashSet<u64> = self.recent.iter().chain(&self.older).copied().collect();
        let latest = self.recent.back().copied();
        let new = other.older.into_iter().chain(other.recent).filter(|digest| !known.contains(digest));
        let new: Vec<u64> = new.collect();
        for digest in new {
            self.push(digest);
        }
        // The latest stays the latest.
        if let Some(latest) = latest {
            self.push(latest);
        }
        self.mark_all();
    }

    /// All digests, for the state: the number of thinnings and of skipped listings first, then how many older ones follow.
    pub fn encode(&self) -> Vec<u64> {
        let head = [u64::from(self.thinned), self.skipped, self.older.len() as u64];
        head.into_iter().chain(self.older.iter().copied()).chain(self.recent.iter().copied()).collect()
    }

    /// What [`ListingHistory::encode`] returned; `None` for anything that it cannot have returned.
    pub fn decode(words: &[u64]) -> Option<Self> {
        let [thinned, skipped, older, digests @ ..] = words else { return None };
        let older = usize::try_from(*older).ok().filter(|older| *older <= digests.len())?;
        let (older, recent) = digests.split_at(older);
        let thinned = u32::try_from(*thinned).ok().filter(|thinned| *thinned <= 62)?;
        if older.len() > OLDER_LISTINGS_MAX || recent.len() > RECENT_LISTINGS_MAX || *skipped > 1 << thinned {
            return None;
        }
        let recent = recent.iter().copied().collect();
        let unpersisted = Unpersisted::NOTHING;
        Some(Self { recent, older: older.to_vec(), thinned, skipped: *skipped, unpersisted })
    }
}

/// Bounds the listings that a source remembers of all its skills.
///
/// Beyond the bound the histories of its skills are halved, one after the other: as often as listings are added at the most,
/// however many skills there are.
#[derive(Debug, Clone, Default)]
struct ListingBudget {
    /// The length of all histories.
    listings: usize,
    /// The skills that have a history, the one that is halved next first.
    queue: VecDeque<Arc<str>>,
    /// Skills whose histories were halved and are to be persisted.
    halved: Vec<Arc<str>>,
}

impl ListingBudget {
    fn of(skills: &SkillTable<SkillNumbers>) -> Self {
        let listings = skills.values().map(|skill| skill.history.len()).sum();
        let queue = skills.iter().filter(|(_, skill)| skill.history.len() > 0).map(|(name, _)| name.clone());
        Self { listings, queue: queue.collect(), halved: Vec::new() }
    }

    /// Adds a listing to the history of a skill.
    fn push(&mut self, name: &Arc<str>, history: &mut ListingHistory, digest: u64) {
        let before = history.len();
        history.push(digest);
        self.listings = self.listings - before + history.len();
        if before == 0 {
            self.queue.push_back(name.clone());
        }
    }

    /// Keeps the histories of all skills within [`SOURCE_LISTINGS_MAX`].
    fn bound(&mut self, skills: &mut SkillTable<SkillNumbers>) {
        while self.listings > SOURCE_LISTINGS_MAX
            && let Some(name) = self.queue.pop_front()
        {
            let Some(skill) = skills.get_mut(&name) else { continue };
            let before = skill.history.len();
            skill.history.shrink(before / 2);
            self.listings -= before - skill.history.len();
            self.halved.push(name.clone());
            if skill.history.len() > 0 {
                self.queue.push_back(name);
            }
        }
    }
}

/// What is remembered of the numbers of one skill of a source.
#[derive(Debug, Clone)]
pub struct SkillNumbers {
    /// The last accepted numbers. Zero where the skill was deleted.
    pub remembered: Totals,
    /// What it was listed with before.
    pub history: ListingHistory,
    /// Invocations that this source has counted of it. Of two sources that turn out to be one, the smaller of both numbers
    /// was counted twice.
    pub counted: u64,
}

impl Default for SkillNumbers {
    fn default() -> Self {
        Self { remembered: Totals::ZERO, history: ListingHistory::default(), counted: 0 }
    }
}

/// The state of a source before a damage.
pub type DamageState = HashMap<Arc<str>, Totals>;

/// What is remembered of the numbers of one source.
#[derive(Debug, Clone, Default)]
pub struct SourceNumbers {
    skills: SkillTable<SkillNumbers>,
    /// The states before its last damages, oldest first.
    damages: Vec<DamageState>,
    budget: ListingBudget,
    /// The skills of the last list; `None` before the first of this process, and where others came from elsewhere.
    listed: Option<Arc<Names>>,
}

impl SourceNumbers {
    /// The numbers that were persisted.
    pub(super) fn restore(skills: SkillTable<SkillNumbers>, damages: Vec<DamageState>) -> Self {
        let mut numbers = Self { budget: ListingBudget::of(&skills), skills, damages, listed: None };
        numbers.bound_listings();
        numbers
    }

    /// Takes the skills whose histories have become shorter since the last call.
    pub(super) fn take_halved(&mut self) -> Vec<Arc<str>> {
        std::mem::take(&mut self.budget.halved)
    }

    /// Returns what is not persistent of the history of a skill; `None` for nothing.
    pub(super) fn collect_history(&mut self, name: &str) -> Option<HistoryChange> {
        self.skills.get_mut(name)?.history.collect()
    }

    /// What was collected last of the histories of these skills is persistent.
    pub(super) fn acknowledge_histories<'n>(&mut self, names: impl Iterator<Item = &'n Arc<str>>) {
        for name in names {
            if let Some(skill) = self.skills.get_mut(name) {
                skill.history.acknowledge();
            }
        }
    }

    /// No history is persistent any more.
    pub(super) fn mark_all_histories(&mut self) {
        self.skills.iter_mut().for_each(|(_, skill)| skill.history.mark_all());
    }

    /// What is remembered of a skill.
    pub fn skill(&self, name: &str) -> Option<&SkillNumbers> {
        self.skills.get(name)
    }

    /// The name of a skill that is remembered, as it is shared.
    pub fn name(&self, name: &str) -> Option<&Arc<str>> {
        self.skills.name(name)
    }

    /// The remembered numbers of a skill, which a list names at `position`.
    pub fn listed(&self, position: usize, name: &str) -> Option<&Totals> {
        self.skills.listed(position, name).map(|skill| &skill.remembered)
    }

    /// The remembered numbers of a skill that the database holds.
    pub fn remembered(&self, name: &str) -> Option<&Totals> {
        self.skills.get(name).map(|skill| &skill.remembered).filter(|totals| totals.total > 0)
    }

    /// Every skill.
    pub fn iter(&self) -> impl Iterator<Item = (&Arc<str>, &SkillNumbers)> {
        self.skills.iter()
    }

    /// The states before the last damages, oldest first.
    pub fn damages(&self) -> &[DamageState] {
        &self.damages
    }

    /// Whether `totals` are among what the skill was listed with.
    pub fn knows(&self, name: &str, totals: &Totals) -> bool {
        self.skills.get(name).is_some_and(|skill| skill.history.contains(totals.digest()))
    }

    /// Whether anything contradicts: a known skill is missing from a list that had room for it, or is not what a database
    /// that held the remembered numbers can hold later.
    pub fn is_contradicted(&self, now: &Listings, room: Room) -> bool {
        !self.missing(now, room).is_empty()
            || self.common(now).any(|(_, remembered, totals)| !remembered.precedes(totals))
    }

    /// The skills that the database holds and that `now` would list.
    fn missing(&self, now: &Listings, room: Room) -> Vec<Arc<str>> {
        let is_missing = |name: &Arc<str>| {
            let is_held = |skill: &SkillNumbers| room.lists(&skill.remembered);
            self.skills.get(name).is_some_and(is_held) && !now.contains(name)
        };
        // Each skill that was ever listed is known.
        let are_same = self.listed.as_ref().is_some_and(|listed| Arc::ptr_eq(listed, now.names()));
        match (room, &self.listed) {
            (Room::Unknown, _) => Vec::new(),
            (Room::Full(_), Some(_)) if are_same => Vec::new(),
            // The least total of a full list never falls, so that only a skill that has just left the list can show that it
            // fell: there can be very many others.
            (Room::Full(_), Some(listed)) => listed.iter().filter(|name| is_missing(name)).cloned().collect(),
            (Room::Full(_) | Room::Enough, _) => {
                if self.skills.len() == now.len() && (are_same || self.common_skills(now) == now.len()) {
                    return Vec::new();
                }
                self.skills.names().filter(|name| is_missing(name)).cloned().collect()
            }
        }
    }

    /// The known skills that `now` lists: what is remembered, then what is listed.
    fn common<'a>(&'a self, now: &'a Listings) -> impl Iterator<Item = (&'a Arc<str>, &'a Totals, &'a Totals)> {
        let listed = now.iter().enumerate();
        listed.filter_map(|(position, (name, totals))| {
            Some((name, &self.skills.listed(position, name)?.remembered, totals))
        })
    }

    /// How many known skills `now` lists.
    pub fn common_skills(&self, now: &Listings) -> usize {
        self.common(now).count()
    }

    /// Bits of evidence that `now` is of this source, without those of anomalies: equality with what is remembered, with
    /// what was listed before or with one of `recent`; and nearness, where nothing contradicts but missing skills.
    ///
    /// For a source that the feed had before (`was_its_own`), a skill of which only the sum of durations was corrected
    /// contradicts nothing. Another source with an equal total and another sum is another database.
    pub fn strength<'a>(
        &self,
        now: &Listings,
        recent: impl Iterator<Item = &'a Listings> + Clone,
        was_its_own: bool,
    ) -> f64 {
        let is_near = self.common(now).all(|(_, remembered, totals)| {
            remembered.precedes(totals)
                || totals.precedes(remembered)
                || was_its_own && remembered.total == totals.total
        });
        let mut bits = 0.0;
        for (name, totals) in now.iter() {
            let known = self.skills.get(name);
            let is_equal = known.is_some_and(|skill| skill.remembered.is_same(totals))
                || recent.clone().any(|listings| listings.get(name).is_some_and(|other| other.is_same(totals)))
                || known.is_some_and(|skill| skill.history.contains(totals.digest()));
            if is_equal {
                bits += totals.bits();
            } else if let Some(skill) = known.filter(|_| is_near) {
                bits += skill.remembered.nearness(totals);
            }
        }
        bits
    }

    /// Bits of equality alone with what is remembered.
    pub fn equality(&self, now: &Listings) -> f64 {
        let equal = self.common(now).filter(|(_, remembered, totals)| remembered.is_same(totals));
        equal.map(|(_, _, totals)| totals.bits()).sum()
    }

    /// What `now` is to this source. `strength` is asked only where something contradicts.
    pub fn judge(&self, now: &Listings, room: Room, strength: impl FnOnce() -> f64) -> Judgement {
        let is_contradicted = self.is_contradicted(now, room);
        if let Some(damage) = self.returned_to(now, room, is_contradicted) {
            let doubt = (!is_contradicted).then_some(Doubt::Return);
            return Judgement { continuity: Continuity::Returned { damage }, doubt };
        }
        if !is_contradicted {
            return Judgement { continuity: Continuity::Follows, doubt: None };
        }
        let bits = strength();
        if bits < FORMER_BITS {
            return Judgement { continuity: Continuity::Another, doubt: None };
        }
        Judgement { continuity: Continuity::Damaged, doubt: (bits < DECISIVE_BITS).then_some(Doubt::Damage) }
    }

    /// The same, where no return to a former state is considered: of a feed that is not bound yet.
    pub fn judge_unbound(&self, now: &Listings, room: Room, strength: impl FnOnce() -> f64) -> Continuity {
        match self.is_contradicted(now, room) {
            false => Continuity::Follows,
            true if strength() >= FORMER_BITS => Continuity::Damaged,
            true => Continuity::Another,
        }
    }

    /// The skills that fell: what is remembered, and what is listed.
    pub fn fallen(&self, now: &Listings, room: Room) -> Vec<(Arc<str>, u64, u64)> {
        let fell = |(_, remembered, totals): &(&Arc<str>, &Totals, &Totals)| !remembered.precedes(totals);
        let fallen = self.common(now).filter(fell);
        let fallen = fallen.map(|(name, remembered, totals)| (name.clone(), remembered.total, totals.total));
        let missing = self.missing(now, room).into_iter().map(|name| {
            let remembered = self.skill(&name).map_or(0, |skill| skill.remembered.total);
            (name, remembered, 0)
        });
        fallen.chain(missing).collect()
    }

    /// The state before a damage that `now` has come back to, if any: the one with the most invocations.
    fn returned_to(&self, now: &Listings, room: Room, is_contradicted: bool) -> Option<usize> {
        let is_return = |state: &DamageState| {
            let common = || now.iter().filter_map(|(name, totals)| Some((name, state.get(name)?, totals)));
            let is_missing = |name: &Arc<str>, totals: &Totals| room.lists(totals) && !now.contains(name);
            // A sum that was listed since is of a later state, from which only less can be counted.
            let is_of_later = |name: &Arc<str>, then: &Totals, totals: &Totals| {
                totals.duration_sum != then.duration_sum && self.knows(name, totals)
            };
            if common().next().is_none()
                || common().any(|(name, then, totals)| !then.precedes(totals) || is_of_later(name, then, totals))
                || state.iter().any(|(name, totals)| is_missing(name, totals))
            {
                return false;
            }
            let present = |name: &Arc<str>| self.skills.get(name).map_or(Totals::ZERO, |skill| skill.remembered);
            let mut differing = common().filter(|(name, then, _)| !then.is_same(&present(name))).peekable();
            differing.peek().is_some()
                && (is_contradicted
                    || !differing
                        .any(|(name, _, totals)| totals.is_same(&present(name)) && totals.bits() >= DECISIVE_BITS))
        };
        let invocations = |state: &DamageState| state.values().map(|totals| u128::from(totals.total)).sum::<u128>();
        let states = self.damages.iter().enumerate().filter(|(_, state)| is_return(state));
        states.min_by_key(|(_, state)| std::cmp::Reverse(invocations(state))).map(|(index, _)| index)
    }

    /// Moves the remembered numbers to `now` and sets `steps` to what of each skill counts. Returns whether the states before
    /// damages changed.
    ///
    /// `continuity` is what [`SourceNumbers::judge`] returned, and not [`Continuity::Another`].
    pub fn advance(&mut self, now: &Listings, room: Room, continuity: Continuity, steps: &mut Steps) -> bool {
        steps.begin(now.names());
        let mut damages_changed = continuity == Continuity::Damaged && self.remember_damage(now);
        let returned = match continuity {
            Continuity::Returned { damage } => Some(self.damages.remove(damage)),
            _ => None,
        };
        damages_changed |= returned.is_some();
        // A state that is both a continuation of the present and a return counts only what is beyond both.
        let is_continued = returned.is_some() && !self.is_contradicted(now, Room::Unknown);
        for (position, (name, totals)) in now.iter().enumerate() {
            let then = returned.as_ref().and_then(|state| state.get(name)).copied();
            steps.of_skills.push(self.list(position, name, *totals, then, is_continued));
        }
        if let (Some(state), true) = (&returned, room != Room::Enough) {
            for (name, then) in state.iter().filter(|(name, _)| !now.contains(name)) {
                let skill = self.skills.get_or_insert(name, SkillNumbers::default());
                if then.total > skill.remembered.total {
                    skill.remembered = *then;
                }
            }
        }
        match room {
            // Nothing is missing from what follows.
            _ if continuity == Continuity::Follows => {}
            Room::Unknown => {}
            Room::Full(least) => self.bound_missing(now, least),
            Room::Enough => self.zero_missing(now),
        }
        if room != Room::Unknown {
            self.listed = Some(Arc::clone(now.names()));
        }
        if !self.damages.is_empty() {
            let skills = &self.skills;
            // A list without room proves nothing about a skill that it would not name.
            let is_hidden = |name: &Arc<str>, then: &Totals| {
                matches!(room, Room::Full(_)) && !room.lists(then) && !now.contains(name)
            };
            let is_passed = |(name, then): (&Arc<str>, &Totals)| {
                skills.get(name).is_none_or(|skill| then.precedes(&skill.remembered)) || is_hidden(name, then)
            };
            let before = self.damages.len();
            self.damages.retain(|state| !state.iter().all(is_passed));
            damages_changed |= self.damages.len() != before;
        }
        self.bound_listings();
        damages_changed
    }

    /// Moves one skill to what is listed at `position`. `then` are its numbers before the damage from which the database came
    /// back.
    fn list(
        &mut self,
        position: usize,
        name: &Arc<str>,
        totals: Totals,
        then: Option<Totals>,
        is_continued: bool,
    ) -> Step {
        let (is_new, skill) = match self.skills.listed_mut(position, name) {
            Some(known) => (false, known),
            None => (true, self.skills.get_or_insert(name, SkillNumbers::default())),
        };
        let remembered = skill.remembered;
        let mut to = totals;
        let delta = match then {
            None if is_new => Delta::First,
            None if remembered == totals => Delta::Unchanged,
            // A guessed split that is listed again: only what is exact moves without an invocation.
            None if totals.total == remembered.total && !(totals.split_is_exact && remembered.split_is_exact) => {
                Delta::From(remembered)
            }
            None if skill.history.contains(totals.digest()) || totals.total <= remembered.total => {
                Delta::Moved(remembered)
            }
            None => Delta::From(remembered),
            Some(then) if then.is_same(&totals) => Delta::Moved(remembered),
            Some(then) => {
                let is_ahead = is_continued && totals.total > remembered.total && remembered.precedes(&totals);
                let base = if is_ahead && remembered.total > then.total { remembered } else { then };
                if totals.total > base.total { Delta::From(base) } else { Delta::Moved(remembered) }
            }
        };
        if let Delta::From(base) = delta {
            to = totals.clamped_after(&base);
        }
        skill.counted += match delta {
            Delta::First => totals.total,
            Delta::From(base) => totals.total - base.total,
            Delta::Unchanged | Delta::Moved(_) => 0,
        };
        skill.remembered = to;
        self.budget.push(name, &mut skill.history, totals.digest());
        Step { to, delta }
    }

    /// Sets what is remembered of a skill, which its database's rows told. `counted` invocations of it were counted.
    pub fn set(&mut self, name: &Arc<str>, totals: Totals, counted: u64) {
        let skill = self.skills.get_or_insert(name, SkillNumbers::default());
        skill.remembered = totals;
        skill.counted += counted;
        self.budget.push(name, &mut skill.history, totals.digest());
        self.bound_listings();
    }

    /// Bounds what is remembered of every skill that `now` does not list by the least total that it lists. Without it the
    /// skill would contradict every list to come.
    fn bound_missing(&mut self, now: &Listings, least: u64) {
        let is_beyond =
            |(name, skill): &(&Arc<str>, &mut SkillNumbers)| skill.remembered.total > least && !now.contains(name);
        for (_, skill) in self.skills.iter_mut().filter(is_beyond) {
            let completed = skill.remembered.completed.min(least);
            skill.remembered = Totals { total: least, completed, split_is_exact: false, duration_sum: None };
        }
    }

    /// Zeroes what is remembered of every skill that `now` does not list.
    pub fn zero_missing(&mut self, now: &Listings) {
        if self.skills.len() == now.len() {
            return;
        }
        for (name, skill) in self.skills.iter_mut() {
            if !now.contains(name) {
                skill.remembered = Totals::ZERO;
            }
        }
    }

    /// Remembers the present state as one before a damage, unless a remembered one holds it. Returns whether it did.
    fn remember_damage(&mut self, now: &Listings) -> bool {
        let listed = || self.common(now).map(|(name, remembered, _)| (name, remembered));
        let is_held = |state: &DamageState| {
            listed().all(|(name, remembered)| state.get(name).is_some_and(|then| remembered.precedes(then)))
        };
        if self.damages.iter().any(is_held) {
            return false;
        }
        if self.damages.len() == DAMAGES_MAX {
            self.damages.remove(0);
        }
        self.damages.push(self.skills.iter().map(|(name, skill)| (name.clone(), skill.remembered)).collect());
        true
    }

    /// Keeps the histories of all skills within the bound of a source.
    fn bound_listings(&mut self) {
        self.budget.bound(&mut self.skills);
    }

    /// Adds `younger`, which turned out to be the same source, without the skills that are `forgotten`: the greater remembered
    /// numbers, both histories. Returns how many invocations both had counted.
    pub fn join(&mut self, younger: Self, forgotten: &[Arc<str>]) -> u64 {
        let mut twice = 0_u64;
        for (name, other) in younger.skills.into_iter().filter(|(name, _)| !forgotten.contains(name)) {
            let skill = self.skills.get_or_insert(&name, SkillNumbers::default());
            twice = twice.saturating_add(skill.counted.min(other.counted));
            skill.counted = skill.counted.max(other.counted);
            if other.remembered.total > skill.remembered.total {
                skill.remembered = other.remembered;
            }
            skill.history.merge(other.history);
        }
        self.budget = ListingBudget::of(&self.skills);
        self.bound_listings();
        self.listed = None;
        twice
    }

    /// A source of its own that has diverged from this one: what `agreed` holds is what both had, the past is common.
    pub fn fork(&self, agreed: &HashMap<Arc<str>, Totals>) -> Self {
        let mut skills = self.skills.clone();
        for (name, skill) in skills.iter_mut() {
            skill.counted = 0;
            skill.history.mark_all();
            if let Some(totals) = agreed.get(name) {
                skill.remembered = *totals;
            }
        }
        for (name, totals) in agreed {
            skills.get_or_insert(name, SkillNumbers { remembered: *totals, ..SkillNumbers::default() });
        }
        Self { budget: ListingBudget::of(&skills), skills, damages: self.damages.clone(), listed: None }
    }
}

impl Totals {
    /// These numbers as what followed `base`: neither side may fall, or rise by more than the total did. Between exact
    /// numbers of one database this changes nothing; a guessed split is caught up with as the true one moves past it. The
    /// total is not less than that of `base`.
    pub(super) fn clamped_after(&self, base: &Self) -> Self {
        let completed = self.completed.clamp(base.completed, base.completed + (self.total - base.total));
        Self { completed, split_is_exact: self.split_is_exact && completed == self.completed, ..*self }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_history_keeps_the_latest_and_ever_fewer_of_the_older() {
        let mut history = ListingHistory::default();
        for digest in 0..100_000 {
            assert!(history.push(digest));
        }
        assert!(!history.push(99_999), "the latest once");
        assert!((100_000 - RECENT_LISTINGS_MAX as u64..100_000).all(|digest| history.contains(digest)));
        assert!(history.len() <= RECENT_LISTINGS_MAX + OLDER_LISTINGS_MAX);
        let oldest = history.older[0];
        assert!(oldest < 1_000, "some of the oldest are remembered: {oldest}");
        assert_eq!(ListingHistory::decode(&history.encode()).map(|again| again.encode()), Some(history.encode()));
    }

    /// However often it is collected, whether or not a commit fails, and whatever happens between: what is persisted is the history.
    #[test]
    fn a_history_is_persisted_by_what_was_pushed_since_or_as_a_whole() {
        let mut chance = fastrand::Rng::with_seed(11);
        let mut history = ListingHistory::default();
        let mut persisted: Option<Vec<u64>> = None;
        let (mut wholes, mut pushes, mut failures) = (0, 0, 0);
        for digest in 0..20_000 {
            match chance.u16(0..1000) {
                0 => history.shrink(history.len() / 2),
                1 => {
                    let mut other = ListingHistory::default();
                    for more in 0..10 {
                        other.push(digest << 20 | more);
                    }
                    history.merge(other);
                }
                2 => {
                    for more in 0..300 {
                        history.push(digest << 20 | more);
                    }
                }
                _ => {
                    history.push(digest);
                }
            }
            if chance.u8(0..3) > 0 {
                continue;
            }
            let change = history.collect();
            if chance.u8(0..4) == 0 {
                failures += 1;
                continue;
            }
            // It goes on while the commit lasts.
            let during = chance.bool().then(|| history.encode());
            let expected = history.encode();
            if during.is_some() {
                history.push(digest << 40);
            }
            match change {
                None => {}
                Some(HistoryChange::Whole(words)) => {
                    wholes += 1;
                    persisted = Some(words);
                }
                Some(HistoryChange::Pushed(digests)) => {
                    pushes += 1;
                    persisted = ListingHistory::extended(persisted.as_deref(), &digests);
                }
            }
            history.acknowledge();
            assert_eq!(persisted.as_ref(), Some(&expected), "after {digest}");
        }
        assert!(wholes > 10 && pushes > 1_000 && failures > 100, "{wholes} {pushes} {failures}");
    }

    #[test]
    fn equal_totals_with_other_durations_are_near_only_to_a_source_of_the_feeds_own() {
        let listings = |sums: [f64; 3]| {
            let skills = [("alpha", 170, 149), ("beta", 100, 88), ("gamma", 30, 26)].into_iter().zip(sums);
            let totals =
                |total, completed, sum| Totals { total, completed, split_is_exact: true, duration_sum: Some(sum) };
            Listings::new(
                skills.map(|((name, total, completed), sum)| (name.into(), totals(total, completed, sum))).collect(),
            )
        };
        let mut numbers = SourceNumbers::default();
        let held = listings([149.137, 87.912, 26.455]);
        numbers.advance(&held, Room::Enough, Continuity::Follows, &mut Steps::default());
        let other = listings([148.911, 88.201, 26.007]);
        assert_eq!(numbers.strength(&other, [].into_iter(), false), 0.0);
        assert!(numbers.strength(&other, [].into_iter(), true) >= FORMER_BITS, "durations were corrected");
    }

    #[test]
    fn a_state_before_a_damage_is_passed_although_a_full_list_hides_a_skill_of_it() {
        let mut numbers = SourceNumbers::default();
        let list = |of_hidden: Option<u64>, of_first: u64, of_others: u64| {
            let entry = |name: &str, total| (name.into(), totals(total, 1.234_567 * total as f64));
            let others = (2..10).map(|skill| entry(&format!("skill-{skill}"), of_others));
            let hidden = of_hidden.map(|total| entry("hidden", total));
            Listings::new(others.chain([entry("skill-1", of_first)]).chain(hidden).collect())
        };
        let mut advance = |now: &Listings, least, expected| {
            let room = Room::Full(least);
            let Judgement { continuity, .. } =
                numbers.judge(now, room, || numbers.strength(now, std::iter::empty(), true));
            assert_eq!(continuity, expected);
            numbers.advance(now, room, continuity, &mut Steps::default());
            numbers.damages().len()
        };
        assert_eq!(advance(&list(Some(9), 20, 10), 9, Continuity::Follows), 0);
        assert_eq!(advance(&list(None, 20, 10), 1, Continuity::Damaged), 1, "it was deleted");
        assert_eq!(advance(&list(None, 30, 20), 1, Continuity::Follows), 1, "it may come back");
        assert_eq!(advance(&list(None, 30, 25), 20, Continuity::Follows), 0, "a list may leave it out");
    }

    #[test]
    fn a_backup_of_a_later_time_is_no_return_to_the_state_before_a_damage() {
        let list = |entries: &[(&str, u64)]| {
            let entry = |(name, total): &(&str, u64)| ((*name).into(), totals(*total, 1.234_567 * *total as f64));
            Listings::new(entries.iter().map(entry).collect())
        };
        let mut numbers = SourceNumbers::default();
        let mut advance = |now: &Listings, room| {
            let Judgement { continuity, .. } = numbers.judge(now, room, || DECISIVE_BITS);
            numbers.advance(now, room, continuity, &mut Steps::default());
            continuity
        };
        advance(&list(&[("kept", 50), ("deleted", 70)]), Room::Enough);
        assert_eq!(advance(&list(&[("kept", 50)]), Room::Enough), Continuity::Damaged);
        for total in [60, 70] {
            assert_eq!(advance(&list(&[("kept", total)]), Room::Enough), Continuity::Follows);
        }
        let backup = list(&[("kept", 60)]);
        assert_eq!(advance(&backup, Room::Unknown), Continuity::Damaged, "it was listed since");
        let return_of_all = list(&[("kept", 55), ("deleted", 71)]);
        assert_eq!(advance(&return_of_all, Room::Enough), Continuity::Returned { damage: 0 });
    }

    fn totals(total: u64, duration_sum: f64) -> Totals {
        Totals { total, completed: total, split_is_exact: true, duration_sum: Some(duration_sum) }
    }

    #[test]
    fn a_source_remembers_a_bounded_number_of_listings() {
        let mut numbers = SourceNumbers::default();
        for total in 1..200 {
            let entries = (0..1_000_u32)
                .map(|skill| {
                    let totals = Totals { total, completed: 0, split_is_exact: true, duration_sum: Some(0.0) };
                    (format!("skill-{skill}").into(), totals)
                })
                .collect();
            numbers.advance(&Listings::new(entries), Room::Enough, Continuity::Follows, &mut Steps::default());
            assert!(remembered_listings(&numbers) <= SOURCE_LISTINGS_MAX);
        }
    }

    /// The listings that are remembered of all skills.
    fn remembered_listings(numbers: &SourceNumbers) -> usize {
        let listings: usize = numbers.skills.values().map(|skill| skill.history.len()).sum();
        assert_eq!(listings, numbers.budget.listings);
        listings
    }

    #[test]
    fn however_many_skills_there_are_few_histories_are_halved_and_few_listings_remembered() {
        let mut numbers = SourceNumbers::default();
        let names: Vec<Arc<str>> = (0..80_000_u32).map(|skill| format!("skill-{skill}").into()).collect();
        let mut rows = 0;
        for total in 1..=3 {
            for name in &names {
                numbers.set(name, totals(total, 1.5 * total as f64), 0);
                rows += 1;
                assert!(numbers.budget.listings <= SOURCE_LISTINGS_MAX);
            }
            assert!(remembered_listings(&numbers) <= SOURCE_LISTINGS_MAX);
        }
        let latest = names.last().expect("there are skills");
        assert!(numbers.knows(latest, &totals(3, 4.5)), "what was listed just now");
        assert!(numbers.take_halved().len() <= rows);
        let restored = SourceNumbers::restore(numbers.skills.clone(), Vec::new());
        assert_eq!(remembered_listings(&restored), remembered_listings(&numbers));
    }
}
