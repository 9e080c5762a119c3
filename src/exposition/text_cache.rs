//! The text of the families, kept from scrape to scrape.

use super::family_kind::FamilyKind;
use super::family_text::{FamilyText, Staleness};
use super::gzip::GzipEncoder;
use super::skill_view::SkillView;

/// The text of every family, of which a scrape rewrites only what changed since the last one.
#[derive(Debug)]
pub(super) struct TextCache {
    /// In the order of [`FamilyKind::ALL`].
    families: [FamilyText; FamilyKind::ALL.len()],
    /// Created when it is first needed: not every client accepts gzip.
    encoder: Option<Box<GzipEncoder>>,
}

impl Default for TextCache {
    fn default() -> Self {
        Self { families: FamilyKind::ALL.map(FamilyText::new), encoder: None }
    }
}

impl TextCache {
    /// Adds the skill at `index`, which must be the next of all.
    pub fn add(&mut self, index: usize, skills: &[SkillView]) {
        self.families.iter_mut().for_each(|family| family.add(index, skills));
    }

    /// Marks the text of the skill at `index` as stale.
    pub fn mark(&mut self, kind: FamilyKind, index: usize, staleness: Staleness) {
        self.families[kind as usize].mark(index, staleness);
    }

    /// Returns the text of a family, after rewriting what is stale.
    pub fn refreshed(&mut self, kind: FamilyKind, skills: &[SkillView]) -> &mut FamilyText {
        let family = &mut self.families[kind as usize];
        family.refresh(skills);
        family
    }

    /// Drops all text if there is more than `bytes_max` of it, and returns whether there was. The next scrape writes it again.
    pub fn clear_beyond(&mut self, bytes_max: usize) -> bool {
        let is_beyond = self.families.iter().map(FamilyText::bytes).sum::<usize>() > bytes_max;
        if is_beyond {
            self.families.iter_mut().for_each(FamilyText::clear);
        }
        is_beyond
    }

    /// Returns the indices of all skills, sorted by name. Every family has this order.
    pub fn by_name(&self) -> impl Iterator<Item = usize> {
        self.families[0].skills()
    }

    /// Takes the encoder, so that it can be used while families are borrowed.
    pub fn take_encoder(&mut self) -> Box<GzipEncoder> {
        self.encoder.take().unwrap_or_else(|| Box::new(GzipEncoder::new()))
    }

    /// Keeps the encoder for the next scrape.
    pub fn return_encoder(&mut self, encoder: Box<GzipEncoder>) {
        self.encoder = Some(encoder);
    }
}
