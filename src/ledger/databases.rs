//! The databases beside feeds: which source a database is, whether its rows count, and which of several feeds reads it.
//! Rule 8 of `docs/explanation/translation.md`.
//!
//! A reader asks for a [position](Ledger::detail_position), looks up the facts, has the ledger [decide](Ledger::plan_detail)
//! what they mean, reads what was decided, and hands it over to be [counted](Ledger::apply_detail).

use std::time::Duration;

use crate::skills_db::{DatabaseFacts, Decision, FileIdentity, HeldSkills, RowFingerprint};

use super::binding::{Beginning, Observation, Role, Source};
use super::confirmation::{Contradiction, Verdict};
use super::continuity::{Continuity, DECISIVE_BITS, Room};
use super::database_mode::{DatabasePosition, RowsReading, TableContinuity};
use super::evidence::Listings;
use super::feed::{CommonRow, FeedDatabase, OpenFile, Search, Trust};
use super::ledger::{FeedId, Ledger};
use super::notice::{Notice, ResetCause};
use super::now::Now;
use super::records::Table;
use super::rows::{self, Coverage};
use super::slots::{FeedSlot, SourceId};
use super::source::SourceCounts;

impl Ledger {
    /// The rows of the database beside `feed` will be read: until they are, and as long as they can be, its snapshots and
    /// events move no counters.
    pub fn expect_detail(&mut self, feed: FeedId) {
        self.stop_reading(feed, None);
        let state = &mut self.feeds[feed.index()];
        state.database = Some(FeedDatabase::default());
        state.counters.rows_tell = Some(false);
        state.exposed.mark();
        self.sources.expect_rows(feed);
    }

    /// Where to go on reading the database beside `feed`, of which `file` is open; `None` where another feed reads that file.
    pub fn detail_position(&mut self, feed: FeedId, file: FileIdentity, now: Now) -> Option<DatabasePosition> {
        self.commit_configuration(now);
        self.update_start(now);
        let database = self.feeds[feed.index()].database.as_mut()?;
        database.note_file(file, now.elapsed);
        if let Some((_, source)) = self.reader_of(feed, file)
            && self.sources.expected_source(feed) == Some(source)
        {
            self.trust(feed, Trust::ReadByAnother);
            return None;
        }
        let own = self.sources.expected_source(feed);
        let database = self.feeds[feed.index()].database.as_ref()?;
        let source = match &database.search {
            Search::Own | Search::Over { .. } => own,
            Search::Others { left, .. } => left.last().copied(),
            Search::Found(source) => Some(*source),
        };
        let known = source.and_then(|source| self.sources.source(source).map(|known| (source, known)));
        let Some((source, known)) = known else {
            return Some(DatabasePosition {
                distrusted_connection: database.distrusted,
                ..DatabasePosition::beginning(&self.limits)
            });
        };
        let position = known.counts.detail.position(source, &self.limits);
        Some(DatabasePosition {
            distrusted_connection: position.distrusted_connection.max(database.distrusted),
            is_unconfirmed: database.source().is_none(),
            reads_unchanged: database.source() != own || !known.counts.detail.is_joined(),
            ..position
        })
    }

    /// The rows of a table that were read last of the source of `position`, the newest first.
    pub fn row_fingerprints(&self, position: &DatabasePosition, table: Table) -> Vec<RowFingerprint> {
        let source = position.source.and_then(|source| self.sources.source(source));
        source.map(|source| source.counts.detail.fingerprints(table)).unwrap_or_default()
    }

    /// Decides what is read of the database beside `feed`, of which these are the facts. `position` is where they were asked
    /// from, and becomes the one from which the plan reads.
    pub fn plan_detail(
        &mut self,
        feed: FeedId,
        position: &mut DatabasePosition,
        facts: &DatabaseFacts,
        now: Now,
        notices: &mut Vec<Notice>,
    ) -> Decision {
        self.commit_configuration(now);
        self.tick(now, notices);
        let is_filtered = self.sources.entry(feed).filter.is_some();
        let latest = self.sources.latest(feed);
        let Some(database) = &mut self.feeds[feed.index()].database else { return Decision::Later };
        let none = HeldSkills { is_truncated: true, ..HeldSkills::default() };
        let skills = facts.held().unwrap_or(&none);
        let room = Room::of_database(skills.is_truncated);
        let held = Observation::of_database(rows::metrics_listings(&skills.skills), room, now.elapsed);
        let verdict = match facts.held() {
            Some(_) => database.confirmation.judge(latest, is_filtered, &held),
            // Its rows show whose it is, or they are added up at the next request.
            None => Verdict::Open,
        };
        if let Some(held) = facts.held() {
            let was_truncated = std::mem::replace(&mut database.is_truncated, held.is_truncated);
            if held.is_truncated && !was_truncated {
                let last = held.skills.last().map_or("", |skill| &skill.skill_name);
                notices.push(Notice::Rejected(rows::too_many_skills(position.skills_max, last)));
            }
        }
        let lacked_error_types = std::mem::replace(&mut database.lacks_error_types, !facts.has_error_types);
        if !facts.has_error_types && !lacked_error_types {
            notices.push(Notice::NoErrorTypes);
        }
        if let Verdict::Contradicted(_) = verdict {
            // What is open may be what nobody writes any more.
            database.distrusted.get_or_insert(facts.connection);
        }
        let found = self.find_database(feed, position, facts, &verdict, &held, now, notices);
        self.report(now, notices);
        match found {
            Found::Source(source) => {
                self.trust(feed, Trust::Confirmed(source));
                let Some(known) = self.sources.source_mut(source) else { return Decision::Later };
                known.counts.detail.expect_now(now.elapsed);
                *position = known.counts.detail.position(source, &self.limits);
                Decision::Read(position.plan(facts))
            }
            Found::AskAgain => Decision::AskAgain,
            Found::ReadByAnother => {
                self.trust(feed, Trust::ReadByAnother);
                Decision::Later
            }
            Found::Nothing => {
                self.leave_unconfirmed(feed, verdict, now, notices);
                Decision::Later
            }
        }
    }

    #[expect(clippy::too_many_arguments, reason = "facts with all that is known of them")]
    fn find_database(
        &mut self,
        feed: FeedSlot,
        position: &DatabasePosition,
        facts: &DatabaseFacts,
        verdict: &Verdict,
        held: &Observation<'_>,
        now: Now,
        notices: &mut Vec<Notice>,
    ) -> Found {
        let (own, none) = (self.sources.expected_source(feed), Listings::default());
        let is_contradicted = matches!(verdict, Verdict::Contradicted(_));
        if let Some((_, source)) = self.reader_of(feed, facts.file) {
            let is_its_own = own == Some(source);
            if is_contradicted || !is_its_own && *verdict != Verdict::Confirmed {
                return Found::Nothing;
            }
            self.sources.assign(feed, source, &held.listings);
            return Found::ReadByAnother;
        }
        let known = match self.search(feed, position, facts) {
            SearchStep::AskAgain => return Found::AskAgain,
            SearchStep::Known(source) => Some(source),
            SearchStep::Unknown => None,
        };
        if let Some(source) = known {
            // While the feed lists more than a database holds that came back younger, or that nobody reads yet, it can be an
            // old copy that nobody writes.
            let is_read =
                || self.sources.source(source).is_some_and(|known| known.counts.detail.reader() == Some(feed));
            if is_contradicted && (own != Some(source) || position.is_cut_back(facts) || !is_read()) {
                return Found::Nothing;
            }
            return match self.is_copy(feed, source) {
                IsCopy::Unknown => Found::Nothing,
                IsCopy::No => {
                    // A source with rows of its own is another database, however alike they are.
                    let has_rows = own.and_then(|own| self.sources.source(own));
                    let has_rows = has_rows.is_some_and(|own| own.counts.detail.was_joined());
                    self.sources.assign(feed, source, if has_rows { &none } else { &held.listings });
                    Found::Source(source)
                }
                IsCopy::Yes => self.sources.fork_database(feed, source).map_or(Found::Nothing, Found::Source),
            };
        }
        if is_contradicted {
            return Found::Nothing;
        }
        if *verdict != Verdict::Confirmed {
            return Found::Nothing;
        }
        // Nobody has read any of its rows, and it is what the feed lists.
        let own = match own {
            Some(own) if self.role(feed) != Role::Pending => own,
            // With a single feed nobody else can be it, and its database shows better than its lists whether it is another.
            _ if self.configured.len() == 1 => {
                self.sources.lift_hold(feed);
                match self.sources.adopt(feed, true, now.wall_micros) {
                    Some(own) => own,
                    None => return Found::Nothing,
                }
            }
            _ => return Found::Nothing,
        };
        let Some(known) = self.sources.source(own) else { return Found::Nothing };
        let own_position = known.counts.detail.position(own, &self.limits);
        let is_emptied = own_position.is_emptied(facts);
        let is_another_by_numbers = || {
            let judged = self.sources.judge_database(feed, own, held);
            judged.is_some_and(|judged| judged.continuity == Continuity::Another)
        };
        let is_another = known.counts.detail.was_joined()
            && (own_position.is_another(facts)
                || is_emptied && facts.skill_metrics.is_some() && is_another_by_numbers())
            // Snapshots can have counted it, where it took the place of the one that was read.
            && !(known.counts.detail.is_changeover() && known.numbers.equality(&held.listings) >= DECISIVE_BITS);
        if !is_another {
            // What another feed is about to read first can be a copy of it.
            let is_first = !known.counts.detail.was_joined();
            return if is_first && self.is_first_read(feed, own) { Found::Nothing } else { Found::Source(own) };
        }
        let cause = if is_emptied {
            ResetCause::of(&known.numbers.fallen(&held.listings, held.room))
        } else {
            ResetCause::RowsAreOthers
        };
        let Some(new) = self.sources.replace(feed, own) else { return Found::Nothing };
        let state = &mut self.feeds[feed.index()];
        state.counters.resets += 1;
        state.touch();
        notices.push(Notice::Reset(cause));
        self.abandon_database(own, now, notices);
        Found::Source(new)
    }

    /// Goes on with the search for the source whose rows the database beside `feed` has, which has these facts for `position`.
    fn search(&mut self, feed: FeedSlot, position: &DatabasePosition, facts: &DatabaseFacts) -> SearchStep {
        let own = self.sources.expected_source(feed);
        let is_read =
            |(id, source): &(SourceId, &Source<SourceCounts>)| Some(*id) != own && source.counts.detail.was_joined();
        let others = || self.sources.iter().filter(is_read);
        let among = others().count();
        let Some(database) = &mut self.feeds[feed.index()].database else { return SearchStep::Unknown };
        let common = position.source.zip(position.newest_common(facts));
        let common = common.map(|(source, key)| CommonRow { source, key });
        if let Some(CommonRow { source, .. }) = common
            && database.trust == Trust::Confirmed(source)
            && position.is_continued_by(facts)
        {
            database.search = Search::Own;
            return SearchStep::Known(source);
        }
        let (mut left, best) = match std::mem::take(&mut database.search) {
            Search::Over { connection, among: before } if (connection, before) == (facts.connection, among) => {
                database.search = Search::Over { connection, among };
                return common.map_or(SearchStep::Unknown, |common| SearchStep::Known(common.source));
            }
            Search::Found(_) => return common.map_or(SearchStep::Unknown, |common| SearchStep::Known(common.source)),
            Search::Own | Search::Over { .. } => {
                let mut read: Vec<_> = others().map(|(id, source)| (source.active_micros(), id)).collect();
                read.sort_unstable();
                (read.into_iter().map(|(_, id)| id).collect(), common)
            }
            Search::Others { mut left, best } => {
                left.pop();
                // Of sources that are equally far the feed's own is the one, or else the one that was active last.
                let is_better = |common: &CommonRow| best.is_none_or(|best| common.key > best.key);
                (left, common.filter(is_better).or(best))
            }
        };
        left.retain(|source| self.sources.source(*source).is_some());
        let next = match (left.is_empty(), best) {
            (false, best) => Search::Others { left, best },
            (true, Some(best)) if position.source == Some(best.source) => return SearchStep::Known(best.source),
            (true, Some(best)) => Search::Found(best.source),
            (true, None) => {
                database.search = Search::Over { connection: facts.connection, among };
                // The facts have to be those of the feed's own source.
                return if position.source == own { SearchStep::Unknown } else { SearchStep::AskAgain };
            }
        };
        database.search = next;
        SearchStep::AskAgain
    }

    /// Whether another feed than `feed`, with another source than `own`, is about to read its database for the first time.
    fn is_first_read(&self, feed: FeedSlot, own: SourceId) -> bool {
        let is_unread =
            |source: SourceId| self.sources.source(source).is_some_and(|known| !known.counts.detail.was_joined());
        self.readers(feed).any(|(_, _, source)| source != own && is_unread(source))
    }

    /// The other feed that reads `file`, and the source whose rows it reads.
    fn reader_of(&self, feed: FeedSlot, file: FileIdentity) -> Option<(FeedSlot, SourceId)> {
        self.readers(feed).find(|(_, open, _)| open.identity == file).map(|(reader, _, source)| (reader, source))
    }

    /// The other feeds that read databases.
    fn readers(&self, feed: FeedSlot) -> impl Iterator<Item = (FeedSlot, OpenFile, SourceId)> + '_ {
        self.configured.iter().filter(move |other| **other != feed).filter_map(|other| {
            let database = self.feeds[other.index()].database.as_ref()?;
            Some((*other, database.file?, database.source()?))
        })
    }

    /// Whether a database with rows of `source` is a copy of the one that another feed reads, which is another file.
    fn is_copy(&self, feed: FeedSlot, source: SourceId) -> IsCopy {
        let since =
            self.feeds[feed.index()].database.as_ref().and_then(|database| database.file).map(|file| file.since);
        let mut others = self.readers(feed).filter(|(_, _, read)| *read == source).map(|(_, file, _)| file);
        let has_more = self.sources.source(source).is_some_and(|known| known.counts.detail.has_more);
        match (others.next(), since) {
            (None, _) | (_, None) => IsCopy::No,
            // How far the two are one shows once all that they have in common is read.
            (Some(_), Some(_)) if has_more => IsCopy::Unknown,
            // Where a file was replaced, the other reader may not have noticed it yet.
            (Some(other), Some(since)) if other.seen_at > since => IsCopy::Yes,
            (Some(_), Some(_)) => IsCopy::Unknown,
        }
    }

    /// Nobody reads the database beside `feed` at the moment, or any more.
    pub(super) fn stop_reading(&mut self, feed: FeedSlot, since: Option<Duration>) {
        self.sources.iter_mut().for_each(|(_, known)| known.counts.detail.stop_reading(feed, since));
    }

    fn trust(&mut self, feed: FeedSlot, trust: Trust) {
        if !matches!(trust, Trust::Confirmed(_)) {
            self.stop_reading(feed, None);
        }
        if let Some(database) = &mut self.feeds[feed.index()].database {
            database.trust = trust;
            if let Trust::Confirmed(_) = trust {
                database.search = Search::Own;
            }
        }
    }

    /// The database beside `feed` is not known to be the one that it lists: snapshots take over, at once if it cannot be.
    fn leave_unconfirmed(&mut self, feed: FeedSlot, verdict: Verdict, now: Now, notices: &mut Vec<Notice>) {
        let own = self.sources.expected_source(feed);
        let is_alone = own.and_then(|own| self.sources.source(own)).is_some_and(|own| own.counts.detail.leaves_alone());
        self.stop_reading(feed, Some(now.elapsed));
        let Some(database) = &mut self.feeds[feed.index()].database else { return };
        if let Trust::Confirmed(_) = database.trust {
            database.trust = Trust::Awaited;
        }
        if let Verdict::Contradicted(Contradiction { skill_name, listed, held }) = verdict
            && (database.confirmation.is_refuted() || is_alone)
            && database.trust != Trust::Contradicted
        {
            database.trust = Trust::Contradicted;
            let state = &mut self.feeds[feed.index()];
            state.counters.detail_mismatches += 1;
            state.touch();
            notices.push(Notice::DatabaseContradicted { skill_name: skill_name.to_string(), listed, held });
            self.sources.cease_awaiting(feed);
            if let Some(own) = own {
                self.update_database(own, now);
            }
        }
        self.show_databases(notices);
    }

    /// Counts what was read of the database beside `feed`, as [`Ledger::plan_detail`] decided. Returns whether it is counted:
    /// not where the feed was bound to another source meanwhile, or snapshots have moved the counters.
    pub fn apply_detail(
        &mut self,
        feed: FeedId,
        mut reading: RowsReading,
        now: Now,
        notices: &mut Vec<Notice>,
    ) -> bool {
        self.commit_configuration(now);
        self.tick(now, notices);
        let Some(mut source) = self.sources.expected_source(feed).filter(|own| reading.source == Some(*own)) else {
            return false;
        };
        let Some(known) = self.sources.source(source) else { return false };
        let is_claimed =
            self.feeds[feed.index()].database.as_ref().is_some_and(|database| database.source() == Some(source));
        let was_joined = known.counts.detail.was_joined();
        let is_changeover = known.counts.detail.is_changeover();
        if !is_claimed || (is_changeover && reading.numbers.is_none()) {
            return false;
        }
        let is_known =
            was_joined && !matches!(reading.invocations_continuity, TableContinuity::Other | TableContinuity::Emptied);
        let coverage = Coverage::of(self.sources.coverage(source));
        if let Some(numbers) = &mut reading.numbers {
            numbers.skills.sort_by(|a, b| a.skill_name.cmp(&b.skill_name));
            let reject = |rejection| notices.push(Notice::Rejected(rejection));
            let room = Room::of_database(numbers.is_truncated);
            let held = Observation::of_database(rows::listings(numbers, reject), room, now.elapsed);
            if is_changeover {
                let before = source;
                let Some(after) = self.sources.advance_to(feed, source, &held, is_known, now.wall_micros) else {
                    return false;
                };
                source = after;
                if source != before {
                    self.abandon_database(before, now, notices);
                    self.trust(feed, Trust::Confirmed(source));
                }
                let steps = self.sources.take_steps();
                let is_observed = was_joined || self.is_observed(source);
                self.with_source(source, now, notices, |known, ctx| {
                    known.counts.change_to_rows(numbers, &steps, &coverage, is_observed, ctx);
                    known.counts.detail.set_remembered_until(numbers.last_id);
                    known.numbers.iter().for_each(|(name, _)| known.counts.changed_skills.mark(name.clone()));
                    known.counts.changed.mark();
                });
                self.sources.reuse(steps);
            } else {
                // It came back younger than it was read.
                self.sources.report_damage(feed, source, &held);
                self.with_source(source, now, notices, |known, ctx| {
                    known.counts.follow_numbers(&mut known.numbers, numbers, &held, &coverage, ctx);
                    known.counts.detail.set_remembered_until(numbers.last_id);
                });
            }
            self.report(now, notices);
        }
        let has_more = reading.has_more;
        self.with_source(source, now, notices, |known, ctx| {
            known.counts.detail.follow_invocations(reading.invocations_continuity);
            known.counts.count_rows(&mut known.numbers, reading.invocations, &coverage, ctx);
            if !has_more {
                // Their rows were deleted while others were read.
                known.counts.settle_unread_rows(ctx);
            }
        });
        if let Some(metrics) = reading.facts.skill_metrics.as_ref().filter(|_| !has_more) {
            self.follow_metrics((feed, source), metrics, is_known, &coverage, now, notices);
        }
        self.with_source(source, now, notices, |known, ctx| {
            if let Some(anomalies) = &reading.anomalies {
                known.counts.count_anomaly_rows(anomalies, is_changeover, &coverage, ctx);
            }
            known.counts.held_anomalies.clear();
            let is_other = known.set_counted_by(feed);
            known.counts.changed.mark_if(is_other);
            known.counts.detail.join(feed, reading.anomalies.is_some(), has_more, reading.connection);
        });
        if has_more {
            self.prolong_start(now);
        }
        self.show_databases(notices);
        self.finish(source, notices);
        self.update_start(now);
        true
    }

    /// Moves the remembered numbers of the source that `feed` reads to those of `skill_metrics`, once every row was read. What
    /// they hold beyond the rows was deleted before it was read, or renamed.
    fn follow_metrics(
        &mut self,
        (feed, source): (FeedSlot, SourceId),
        metrics: &HeldSkills,
        is_known: bool,
        coverage: &Coverage,
        now: Now,
        notices: &mut Vec<Notice>,
    ) {
        let Some(known) = self.sources.source(source).filter(|known| !rows::are_remembered(metrics, &known.numbers))
        else {
            return;
        };
        let before: Vec<_> = known.numbers.iter().map(|(name, skill)| (name.clone(), skill.remembered)).collect();
        let room = Room::of_database(metrics.is_truncated);
        let held = Observation::of_database(rows::metrics_listings(&metrics.skills), room, now.elapsed);
        self.sources.follow_database(feed, source, &held, is_known, now.wall_micros);
        let steps = self.sources.take_steps();
        self.with_source(source, now, notices, |known, ctx| {
            known.counts.lose_uncovered(&before, &known.numbers);
            known.counts.count_beyond_rows(&steps, &metrics.skills, coverage, ctx);
        });
        self.sources.reuse(steps);
        self.report(now, notices);
    }

    fn is_observed(&self, source: SourceId) -> bool {
        self.sources.source(source).is_some_and(|known| known.beginning() == Beginning::Observed)
    }

    /// Nobody reads the database of a source any more.
    fn abandon_database(&mut self, source: SourceId, now: Now, notices: &mut Vec<Notice>) {
        self.with_source(source, now, notices, |known, ctx| {
            known.counts.leave_rows(ctx);
            known.counts.settle_unread_rows(ctx);
        });
    }

    /// The database beside `feed` cannot be read.
    pub fn detail_failed(&mut self, feed: FeedId, now: Now, notices: &mut Vec<Notice>) {
        self.commit_configuration(now);
        self.tick(now, notices);
        let Some(database) = &mut self.feeds[feed.index()].database else { return };
        database.trust = Trust::Unreadable;
        database.file = None;
        self.stop_reading(feed, Some(now.elapsed));
        self.show_databases(notices);
    }

    /// Shows, for each feed with a database, whether its rows move the counters.
    pub(super) fn show_databases(&mut self, notices: &mut Vec<Notice>) {
        for slot in &self.configured {
            let feed = &mut self.feeds[slot.index()];
            let Some(database) = &feed.database else { continue };
            let is_trusted = matches!(database.trust, Trust::Confirmed(_) | Trust::ReadByAnother);
            let source = self.sources.expected_source(*slot).and_then(|source| self.sources.source(source));
            let is_up = Some(is_trusted && source.is_some_and(|source| source.counts.detail.is_joined()));
            if std::mem::replace(&mut feed.counters.rows_tell, is_up) != is_up {
                feed.exposed.mark();
                if is_up == Some(true) {
                    notices.push(Notice::DetailJoined);
                }
            }
        }
    }
}

/// What a database turned out to be.
enum Found {
    /// The one of this source, to which its feed is bound.
    Source(SourceId),
    /// The one that another feed reads.
    ReadByAnother,
    /// The rows of another source have to be looked up.
    AskAgain,
    /// It is not known.
    Nothing,
}

/// What a step of a search has shown.
enum SearchStep {
    /// The facts of another request are needed.
    AskAgain,
    /// The database has rows of this source, whose facts these are.
    Known(SourceId),
    /// Nobody has read any of its rows.
    Unknown,
}

/// Whether two files with common rows are two databases.
enum IsCopy {
    Yes,
    No,
    Unknown,
}
