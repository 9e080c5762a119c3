//! Moving the remembered numbers of a source to new ones, those of a snapshot or of a database.

use super::{Counts, Doubt, Observation, SourceEvent, Sources};
use crate::ledger::continuity::{Continuity, Judgement};
use crate::ledger::slots::{FeedSlot, SourceId};

impl<C: Counts> Sources<C> {
    /// Moves the numbers of a source to those which `feed` lists, or the database beside it holds. Reports damages, returns and
    /// doubts. What counts is in [`Sources::steps`].
    ///
    /// `judged` is what the numbers are to the source, and not [`Continuity::Another`].
    pub(super) fn accept(
        &mut self,
        feed: FeedSlot,
        source: SourceId,
        seen: &Observation<'_>,
        Judgement { continuity, doubt }: Judgement,
    ) {
        self.events.extend(doubt.map(|doubt| SourceEvent::Undecided { feed, doubt }));
        match continuity {
            Continuity::Damaged => self.report_damage(feed, source, seen),
            Continuity::Returned { .. } => self.events.push(SourceEvent::Returned { feed }),
            Continuity::Follows | Continuity::Another => {}
        }
        self.advance(feed, source, seen, continuity);
    }

    /// Reports a damage of a source, and which of its skills fell.
    pub fn report_damage(&mut self, feed: FeedSlot, source: SourceId, seen: &Observation<'_>) {
        let Some(known) = self.sources.get_mut(&source) else { return };
        known.damaged_at = Some(seen.now);
        let fell = known.numbers.fallen(&seen.listings, seen.room);
        self.events.push(SourceEvent::Damaged { feed, fell });
    }

    /// Moves the numbers of a source and reports no damage: what differs was expected to.
    pub(super) fn advance(&mut self, feed: FeedSlot, source: SourceId, seen: &Observation<'_>, continuity: Continuity) {
        let Some(known) = self.sources.get_mut(&source) else { return };
        if continuity == Continuity::Damaged {
            known.damaged_at = Some(seen.now);
        }
        if known.numbers.advance(&seen.listings, seen.room, continuity, &mut self.steps) {
            known.counts.mark_damages_changed();
        }
        known.active_micros = self.wall_micros;
        if continuity == Continuity::Follows && self.steps.iter().any(|(_, step)| step.is_known_listing()) {
            self.events.push(SourceEvent::Undecided { feed, doubt: Doubt::KnownListing });
        }
    }
}
